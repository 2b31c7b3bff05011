//! The engine: pure decisions about deployments.
//!
//! ```text
//! decide(record, command, context) ──► Err(Rejection): nothing happened
//!                                  └─► Ok(Decision):   a batch of changes, the record after them, the reply
//! apply(record, batch)             ──► the same record, on a replica, from the AOF, on another day
//! ```
//!
//! The contract: `decide` may refuse and is told the time; `apply` may not refuse and reads no clock. Folding the
//! changes of every decision gives the record. Nothing here knows Redis, a socket, a clock, a random number or a global.
//!
//! Invariants of a record: see [`invariants::check`].

pub mod command;
pub mod deadline;
pub mod decide;
pub mod deployment;
mod draft;
pub mod event;
pub mod evolve;
pub mod health;
pub mod history;
pub mod instances;
pub mod invariants;
pub mod manifest;
pub mod plan;
pub mod policy;
mod propose;
pub mod rejection;
pub mod services;
pub mod strategy;
pub mod time;

pub use command::{Command, Context, Limits};
pub use deadline::next_deadline;
pub use decide::{decide, Decision, Reply};
pub use deployment::Record;
pub use event::{Batch, Change, Event, EventBody, Note};
pub use evolve::apply;
pub use plan::{plan, Plan};
pub use rejection::{Code, Rejection};
