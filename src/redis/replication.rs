//! Names of the internal commands, by which changes reach replicas, the AOF and another node, and the timer reaches the
//! write path.
//!
//! ```text
//! DEPLOY.APPLY key changes         the change set of one command
//! DEPLOY.APPLY key RECORD record   a whole record (AOF rewrite, Valkey's slot migration); it replaces what is there
//! DEPLOY.TICK key                  from this module's timer alone: process what is due
//! ```
//!
//! DEPLOY.APPLY carries what was decided elsewhere: nothing is judged, no clock is read, and only the subscribers of a
//! replica get the events. It is accepted from the primary, the AOF and a slot migration, and from nobody else.

use std::ffi::CStr;

pub const APPLY: &CStr = c"DEPLOY.APPLY";
pub const RECORD: &CStr = c"RECORD";
pub const TICK: &CStr = c"DEPLOY.TICK";
