//! The write path: whatever alters a record goes through [`change`] or [`apply`], and from there through `after_store`,
//! so that the index, the timer, blocked clients, the idle queue, WATCH and client-side caches cannot be forgotten one
//! by one.
//!
//! ```text
//! change   a command or a tick, on a primary: decide ─► replicate ─► commit ─► after_store ─► publish, notify
//! apply    a change set or a record that was decided elsewhere:       store  ─► after_store ─► publish on a replica
//! ```

use super::call::Call;
use super::error::CommandError;
use super::ffi::{Ctx, KeyValue, LogLevel, LogLimiter, RStr};
use super::publish::{self, EventMessages};
use super::read_path::acl_user;
use super::record_key::{key_name, no_such_key, Key};
use super::reply::Answered;
use super::stats::RolloutCounts;
use super::stored::{first_revision, IndexEntry, Stored, ENCVER};
use super::{blocked_clients, clock, config, index, replication, stats, timers};
use crate::codec;
use crate::engine::event::SilentChange;
use crate::engine::{self, Change, ChangeSet, Command, Context, DecisionReply, Event, Record};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The result of a command on the write path.
pub struct WriteOutcome {
    pub reply: DecisionReply,
    pub changed: bool,
}

/// Decides a command and commits the decision. A command that is rejected, or has no effect, leaves no trace.
///
/// The record is modified in place, inside the key's value. The key is opened for reading all the same: a key opened
/// for writing counts as modified when it closes, for WATCH and client-side caches, and most reports change nothing.
pub fn change(ctx: Ctx, key: &RStr, command: &Command) -> Result<WriteOutcome, CommandError> {
    let mut open = Key::read(ctx, key);
    let mut new = None;
    let record = match open.record_mut()? {
        Some(record) => record,
        None => new.insert(codec::empty_record()),
    };
    let name = key_name(key).ok_or_else(|| no_such_key(key))?;
    // Only operator commands store the ACL user; looking it up is expensive on Redis 7.0.
    let by = if command.has_author() { acl_user(ctx) } else { String::new() };
    let context = Context { key: name, now_ms: clock::now(ctx), by: &by, limits: config::limits() };
    let (reply, committed) = commit(ctx, key, record, command, &context)?;
    let Some(Committed { messages, rollouts, is_noticed }) = committed else {
        return Ok(WriteOutcome { reply, changed: false });
    };
    let stored = match new {
        None => Store::InPlace { is_noticed },
        Some(record) => Store::Put(Stored::record(record)),
    };
    store(ctx, key, open, stored)?;
    stats::count_rollouts(rollouts);
    messages.publish(ctx);
    ctx.notify(c"deploy.changed", key);
    Ok(WriteOutcome { reply, changed: true })
}

/// Decides a command, commits the decision and replies it.
pub fn change_and_reply(call: &Call, key: &RStr, command: &Command) -> Result<Answered, CommandError> {
    let outcome = change(call.ctx(), key, command)?;
    Ok(call.reply_decision(&outcome.reply))
}

/// The rest of a decision once it is stored.
struct Committed {
    messages: EventMessages,
    rollouts: RolloutCounts,
    /// See [`is_noticed`].
    is_noticed: bool,
}

/// Decides a command on the record in place. Where the command is rejected or has no effect, the record is as before,
/// and nothing is committed.
fn commit(
    ctx: Ctx,
    key: &RStr,
    record: &mut Record,
    command: &Command,
    context: &Context,
) -> Result<(DecisionReply, Option<Committed>), CommandError> {
    let uncommitted = engine::decide_in_place(record, command, context)?;
    if uncommitted.change_set.changes.is_empty() {
        return Ok((uncommitted.reply, None));
    }
    // Everything that costs or could fail comes before the commit. Replicating comes first, because the server may
    // refuse it: it does where DEPLOY.APPLY was renamed. It only queues what is sent when the command ends, so that its
    // order against storing is not visible.
    let payload = codec::encode_uncommitted(&uncommitted);
    let messages = EventMessages::of(context.key, &uncommitted.change_set);
    let rollouts = RolloutCounts::of(&uncommitted.change_set);
    let is_noticed = is_noticed(&uncommitted.change_set);
    if !ctx.replicate(replication::APPLY, key, &payload) {
        let error = "DEPLOY.APPLY, which replicates every change, was renamed or removed";
        return Err(CommandError::Internal(error.to_string()));
    }
    Ok((uncommitted.commit(), Some(Committed { messages, rollouts, is_noticed })))
}

/// Returns true for changes that invalidate client-side caches and WATCH: all but those that only move a TTL or a
/// number of sessions, which come every few seconds (rule 17.2).
fn is_noticed(changes: &ChangeSet) -> bool {
    let is_unnoticed = |change: &Change| match change {
        Change::Silent(SilentChange::ServiceRefreshed { .. } | SilentChange::SessionsReported { .. }) => true,
        Change::Silent(SilentChange::RequestRecorded { .. }) | Change::Event(_) => false,
    };
    !changes.changes.iter().all(is_unnoticed)
}

/// The way in which a new state gets into the key's value.
enum Store {
    /// The record was modified in place. WATCH and client-side caches are signalled if `is_noticed`.
    InPlace { is_noticed: bool },
    /// The value replaces ours; the key's TTL stays.
    Put(Stored),
    /// The value replaces whatever is there, with its TTL.
    Replace(Stored),
}

/// Stores a new state, then runs [`after_store`] and signals WATCH and client-side caches.
fn store(ctx: Ctx, key: &RStr, mut open: Key, state: Store) -> Result<(), CommandError> {
    // A key opened for writing is signalled by the server when it closes.
    let signals = matches!(state, Store::InPlace { is_noticed: true });
    if !matches!(state, Store::InPlace { .. }) {
        drop(open);
        open = Key::write(ctx, key);
    }
    let is_stored = match state {
        Store::InPlace { .. } => true,
        Store::Put(stored) => open.put(stored),
        Store::Replace(stored) => open.replace(stored),
    };
    if !is_stored {
        ctx.log(LogLevel::Warning, &format!("the server did not store the record of key '{}'", key.to_string_lossy()));
        return Err(CommandError::Internal("the server did not store the record".to_string()));
    }
    after_store(ctx, key, &mut open);
    drop(open);
    if signals {
        ctx.signal_modified(key);
    }
    Ok(())
}

/// Does what every stored change requires: unblocks clients, updates the index, arms the timer, queues a finished
/// record. On a server that may not write, the timer finds the entry by itself.
fn after_store(ctx: Ctx, key: &RStr, open: &mut Key) {
    let (Ok(name), KeyValue::Ours(stored)) = (std::str::from_utf8(key.as_slice()), open.stored()) else { return };
    let (db, entry) = (open.db(), IndexEntry::of(stored));
    blocked_clients::on_change(db, name, stored);
    index::set(db, name, entry);
    if entry.due.is_some() && ctx.flags().is_primary() {
        timers::arm(ctx);
    }
    if entry.is_finished() {
        open.enqueue_if_finished();
    }
}

// ---- changes that were decided elsewhere ----------------------------------------------------------------------------

static READ_ONLY_LOG: LogLimiter = LogLimiter::new();

/// Stores a whole record, from an AOF rewrite or a slot migration.
pub fn apply_record(ctx: Ctx, key: &RStr, payload: &[u8]) -> Result<(), CommandError> {
    let stored = Stored::load_or_keep(ENCVER, payload.to_vec(), &key.to_string_lossy());
    store(ctx, key, Key::peek(ctx, key), Store::Replace(stored))
}

/// Applies a change set that was decided elsewhere.
pub fn apply(ctx: Ctx, key: &RStr, payload: &[u8]) -> Result<(), CommandError> {
    let mut open = Key::peek(ctx, key);
    let (state, changes) = match apply_changes(key, &mut open, payload).map_err(CommandError::Internal)? {
        Applied::Known => return Ok(()),
        Applied::Changed(state, changes) => (state, changes),
    };
    store(ctx, key, open, state)?;
    if let (Some(changes), Ok(name)) = (changes, std::str::from_utf8(key.as_slice())) {
        publish::publish_on_replica(ctx, name, &changes);
    }
    Ok(())
}

/// The result of applying a change set.
enum Applied {
    /// The record has these changes already.
    Known,
    /// The new state; and the changes, where they could be decoded.
    Changed(Store, Option<ChangeSet>),
}

/// Applies a change set to the value of an open key. Changes that cannot be decoded are kept behind the record, which
/// is read-only from then on: a newer module can apply them.
fn apply_changes(key: &RStr, open: &mut Key, payload: &[u8]) -> Result<Applied, String> {
    // Decodes the record. A read-only one is met again below.
    let _ = open.record();
    let existing = match open.stored() {
        KeyValue::Empty => None,
        KeyValue::Foreign => return Err("the key holds another type".to_string()),
        KeyValue::Ours(stored) => Some(stored),
    };
    let undecoded = |existing| Applied::Changed(Store::Put(Stored::append_undecoded(existing, payload)), None);
    if matches!(existing, Some(Stored::Opaque { .. })) {
        return Ok(undecoded(existing));
    }
    let changes = match codec::decode_change_set(payload) {
        Ok(changes) => changes,
        Err(error) => {
            let key = key.to_string_lossy();
            let text =
                format!("record of key '{key}' is read-only from here on: a change of it cannot be read: {error}");
            READ_ONLY_LOG.log(LogLevel::Warning, &text);
            return Ok(undecoded(existing));
        }
    };
    let mut new = None;
    let record = match open.record_mut().map_err(|rejection| rejection.to_string())? {
        Some(record) => record,
        None => new.insert(codec::empty_record()),
    };
    match first_revision(&changes) {
        Some(first) if first <= record.revision => {
            return match conflict(record, &changes) {
                None => Ok(Applied::Known),
                Some(revision) => Err(format!(
                    "the record has another change of revision {revision}, which this server or an earlier primary \
                     made: it stays different until the whole data set is synchronised"
                )),
            }
        }
        Some(first) if first > record.revision.saturating_add(1) => {
            return Err(format!("it begins at revision {first}, and the record is at {}", record.revision))
        }
        _ => engine::apply(record, &changes),
    }
    let in_place = Store::InPlace { is_noticed: is_noticed(&changes) };
    let state = new.map_or(in_place, |record| Store::Put(Stored::record(record)));
    Ok(Applied::Changed(state, Some(changes)))
}

/// Returns the revision of the first event that the record does not have, although its revision says so: that of
/// another event, where this server was written to. What the log has dropped meanwhile cannot be compared.
fn conflict(record: &Record, changes: &ChangeSet) -> Option<u64> {
    let logged: BTreeMap<u64, Arc<Event>> = record.log.iter().map(|event| (event.revision, event)).collect();
    let is_same = |event: &Event| {
        let Some(known) = logged.get(&event.revision) else { return event.revision <= record.revision };
        let is_same_body = match (event.body.new_deployment(), known.body.new_deployment()) {
            // The log has no manifests.
            (Some(new), Some(known)) => {
                let kept = record.version(event.version);
                kept.is_none_or(|kept| kept.content == new.version.content) && new.changed == known.changed
            }
            _ => event.body == known.body,
        };
        let of = |event: &Event| (event.at, event.version, event.deployment_id.clone(), event.body.name());
        is_same_body && of(event) == of(known)
    };
    changes.changes.iter().find_map(|change| match change {
        Change::Event(event) if !is_same(event) => Some(event.revision),
        _ => None,
    })
}
