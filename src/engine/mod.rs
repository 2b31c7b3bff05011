//! The engine: pure decisions about deployments.
//!
//! ```text
//! decide_in_place(record, command, context) ──► Err(Rejection): nothing happened
//!                                    └─► Ok(Pending):    the record changed in place, the batch of changes, the reply;
//!                                                        committed, or as it was before
//! decide(record, command, context)   ──► the same, with the changed record beside the one that was
//! apply(record, batch)               ──► the same record, on a replica, from the AOF, on another day
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
pub mod event_log;
pub mod evolve;
mod health_rules;
pub mod instance;
pub mod instances;
pub mod invariants;
pub mod manifest;
mod names;
pub mod plan;
mod planner;
pub mod policy;
pub mod record;
pub mod rejection;
mod rollout;
pub mod services;
pub mod strategy;
pub mod summary;
mod tasks;
pub mod time;
pub mod transaction;
mod undo;
pub mod version;

pub use command::{Command, Context, Limits};
pub use deadline::next_deadline;
pub use decide::{decide, decide_in_place, Decision, DecisionReply, Uncommitted};
pub use event::{Change, ChangeSet, Event, EventBody, SilentChange};
pub use evolve::apply;
pub use plan::{plan, Plan};
pub use record::Record;
pub use rejection::{Code, Rejection};
pub use summary::Summary;
