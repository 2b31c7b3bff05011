//! Decisions: one match over the commands, one function for each. A function validates first, then emits events; before
//! it, everything that is due by now was processed, and after it the rollout advances by itself
//! ([`rollout`](super::rollout)). A rejection drops the draft, so that nothing changes.
//!
//! The functions are in files by audience: [`versions`] (DEPLOY, ROLLBACK), [`operate`], [`reports`] and [`services`].

mod checks;
mod operate;
mod reports;
mod services;
pub(super) mod versions;
mod warnings;

pub use self::services::{MAX_META_DEPTH, SERVICES_PER_AGENT};
pub use self::versions::{INSTANCES_PER_AGENT, MAX_RUNS, MAX_TAGS};

use self::versions::Deployed;
use super::command::{Command, Context, Deploy, Rollback};
use super::deployment::{Mode, Receipt};
use super::draft::Draft;
use super::event::{ChangeSet, SilentChange};
use super::record::Record;
use super::rejection::Rejection;
use super::transaction::Transaction;
use std::sync::Arc;

/// The number of due items that one tick processes.
pub const MAX_DUE_PER_TICK: usize = 256;

/// The reply to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecisionReply {
    Receipt(Receipt),
    /// True where the command changed something; false where it was known already or stale.
    Changed(bool),
    Nothing,
}

/// The decision of a command. Where `change_set.changes` is empty, `record` equals the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub change_set: ChangeSet,
    pub record: Record,
    pub reply: DecisionReply,
}

/// Decides a command on a copy of the record, for tests and PLAN-like callers.
pub fn decide(record: Option<&Record>, command: &Command, context: &Context) -> Result<Decision, Rejection> {
    let mut after = record.cloned().unwrap_or_default();
    let pending = decide_in_place(&mut after, command, context)?;
    let change_set = pending.change_set.clone();
    let reply = pending.commit();
    Ok(Decision { change_set, record: after, reply })
}

/// A decision that was made in place and is not committed. Dropped, it restores the record.
#[derive(Debug)]
pub struct Uncommitted<'r> {
    record: Transaction<'r>,
    /// The changes; empty where the command has no effect.
    pub change_set: ChangeSet,
    pub reply: DecisionReply,
}

impl Uncommitted<'_> {
    /// The record with the changes; its log is not truncated yet.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The encoded events of the change set, where the log keeps them encoded.
    pub fn encoded_events(&self) -> &[u8] {
        self.record.encoded_events()
    }

    /// Commits the changes and returns the reply.
    pub fn commit(self) -> DecisionReply {
        self.record.commit(self.change_set.log_max);
        self.reply
    }
}

/// Decides a command in place. An empty record stands for a key that does not exist.
///
/// # Errors
/// The rejection of the command; the record is unchanged then.
pub fn decide_in_place<'r>(
    record: &'r mut Record,
    command: &Command,
    context: &Context,
) -> Result<Uncommitted<'r>, Rejection> {
    if record.deployment.is_none() && !matches!(command, Command::Deploy(_)) {
        return Err(Rejection::NoSuchKey(context.key.to_string()));
    }
    let mut draft = Draft::on(record, context);
    let request = match command {
        Command::Deploy(Deploy { request, .. }) | Command::Rollback(Rollback { request, .. }) => request.as_ref(),
        _ => None,
    };
    if let Some(known) = request.and_then(|id| draft.record.requests.iter().find(|r| r.request == *id)) {
        let reply = DecisionReply::Receipt(known.receipt.clone());
        return Ok(done(draft, reply));
    }
    draft.process_due(if matches!(command, Command::Tick) { MAX_DUE_PER_TICK } else { usize::MAX });
    let reply = match command {
        Command::Deploy(deploy) => PendingReply::Deployed(versions::deploy(&mut draft, deploy)?),
        Command::Rollback(rollback) => PendingReply::Deployed(versions::rollback(&mut draft, rollback)?),
        Command::Promote { options, full } => receipt(operate::promote(&mut draft, options, *full)?),
        Command::Pause(op) => receipt(operate::pause(&mut draft, op)?),
        Command::Resume(op) => receipt(operate::resume(&mut draft, op)?),
        Command::Fail(op) => receipt(operate::fail(&mut draft, op)?),
        Command::Stop { options, now } => receipt(operate::stop(&mut draft, options, *now)?),
        Command::Drain(drain) => receipt(operate::drain(&mut draft, drain)?),
        Command::Tag { version, tag } => receipt(operate::tag(&mut draft, *version, tag)?),
        Command::Untag { tag } => receipt(operate::untag(&mut draft, tag)?),
        Command::Report(report) => PendingReply::Changed(reports::report(&mut draft, report)?),
        Command::Register(register) => PendingReply::Changed(services::register(&mut draft, register)?),
        Command::Check(check) => PendingReply::Changed(services::check(&mut draft, check)?),
        Command::Deregister { instance } => PendingReply::Changed(services::deregister(&mut draft, instance)),
        Command::Tick => PendingReply::Nothing,
    };
    draft.advance();
    let reply = match reply {
        PendingReply::Receipt => draft.receipt(None).map_or(DecisionReply::Nothing, DecisionReply::Receipt),
        PendingReply::Deployed(deployed) => deployed_reply(&draft, deployed),
        PendingReply::Changed(changed) => DecisionReply::Changed(changed),
        PendingReply::Nothing => DecisionReply::Nothing,
    };
    if let (Some(id), DecisionReply::Receipt(receipt)) = (request, &reply) {
        draft.emit_silent(SilentChange::RequestRecorded { request: id.clone(), receipt: receipt.clone() });
    }
    Ok(done(draft, reply))
}

fn done<'r>(draft: Draft<'r, '_>, reply: DecisionReply) -> Uncommitted<'r> {
    let log_max = draft.context.limits.events_max;
    Uncommitted { record: draft.record, change_set: ChangeSet { changes: draft.changes, log_max }, reply }
}

/// The reply to a command, before the rollout has advanced.
enum PendingReply {
    Receipt,
    Deployed(Deployed),
    Changed(bool),
    Nothing,
}

fn receipt((): ()) -> PendingReply {
    PendingReply::Receipt
}

fn deployed_reply(draft: &Draft, deployed: Deployed) -> DecisionReply {
    let (mode, warnings) = match deployed {
        Deployed::Unchanged => (Some(Mode::Unchanged), Vec::new()),
        Deployed::Started { warnings, .. } => (None, warnings),
    };
    let receipt = draft.receipt(mode).map(|receipt| Receipt {
        warnings: Some(warnings.iter().map(|warning| Arc::from(warning.as_str())).collect()),
        ..receipt
    });
    receipt.map_or(DecisionReply::Nothing, DecisionReply::Receipt)
}
