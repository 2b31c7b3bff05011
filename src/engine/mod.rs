//! The engine: pure decisions about deployments.
//!
//! ```text
//! decide_in_place(record, command, context) ──► Err(Rejection):  the record is unchanged
//!                                           └─► Ok(Uncommitted): the record changed in place, the change set, the
//!                                                                reply; commit it, or drop it to restore the record
//! decide(record, command, context)          ──► the same on a copy of the record
//! apply(record, changes)                    ──► the same record, on a replica or from the AOF
//! ```
//!
//! The contract: `decide_in_place` may reject and gets the time as an argument; `apply` may not reject and reads no
//! clock. Applying the change sets of all decisions gives the record. The engine knows no server, socket, clock, random
//! number or global; [`invariants::check`] has the invariants of a record.
//!
//! Reading order: [`command`], [`event`], [`record`], [`decide`], [`evolve`], then the rules (`health_rules`, `tasks`,
//! `planner`, `rollout`, [`strategy`]).

pub mod command;
pub mod deadline;
pub mod decide;
pub mod deployment;
mod draft;
mod drains;
pub mod event;
pub mod event_log;
pub mod evolve;
mod health_rules;
pub mod instance;
pub mod instances;
pub mod invariants;
pub mod json;
pub mod manifest;
mod names;
pub mod plan;
mod planner;
pub mod policy;
pub mod record;
pub mod rejection;
mod rollout;
pub mod services;
pub mod sessions;
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
pub use draft::AUTO;
pub use event::{Change, ChangeSet, Event, EventBody, SilentChange};
pub use evolve::apply;
pub use plan::{plan, Plan};
pub use record::Record;
pub use rejection::{Code, Rejection};
pub use summary::Summary;
