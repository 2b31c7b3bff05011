use super::command::{Command, Context};
use super::deployment::{Receipt, Record};
use super::event::Batch;
use super::rejection::Rejection;

/// What a command is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Receipt(Receipt),
    /// 1 where it changed something, 0 where it was known already or stale.
    Changed(bool),
    Nothing,
}

/// A command that was not refused. Where `batch.changes` is empty, nothing changed and `record` equals the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub batch: Batch,
    pub record: Record,
    pub reply: Reply,
}

pub fn decide(_record: Option<&Record>, _command: &Command, _context: &Context) -> Result<Decision, Rejection> {
    Err(Rejection::Syntax("not decided yet".to_string()))
}
