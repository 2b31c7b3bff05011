//! DEPLOY.APPLY, the internal command: how what happened reaches replicas, the AOF and another node, and how the
//! timer's tick reaches the write path.
//!
//! ```text
//! DEPLOY.APPLY key batch           what one command changed, as its events
//! DEPLOY.APPLY key RECORD record   a whole record (AOF rewrite, Valkey's slot migration): it replaces what is there
//! DEPLOY.APPLY key TICK            from this module's timer: decide what time has brought about
//! ```
//!
//! The first two hand on what was decided elsewhere: nothing is judged, no clock is read, and only the subscribers of a
//! replica are told. They are taken from the primary, the AOF and a slot migration, and from nobody else.

use super::args::Args;
use super::data_type::{self, first_revision, Stored};
use super::ffi::{Ctx, Key, LogLevel, Slot};
use super::index::{self, Entry};
use super::log::Sparing;
use super::{blocking, change, publish, timers, Answered, Call, Refusal};
use crate::codec;
use crate::engine::{apply as apply_batch, ChangeSet, Command};
use redis_module::RedisString;
use std::ffi::CStr;

pub const APPLY: &CStr = c"DEPLOY.APPLY";
pub const RECORD: &CStr = c"RECORD";
pub const TICK: &[u8] = b"TICK";

static NOT_APPLIED: Sparing = Sparing::new();
static FROZEN: Sparing = Sparing::new();

/// The command's handler.
pub fn apply(call: &Call, mut args: Args) -> Result<Answered, Refusal> {
    let key = args.key()?;
    let payload = args.bytes()?;
    let record = match payload {
        word if word == RECORD.to_bytes() => Some(args.bytes()?),
        _ => None,
    };
    args.end()?;
    let ctx = call.ctx();
    if payload == TICK && timers::is_ticking() {
        return tick(call, key);
    }
    if !ctx.flags().hands_on() {
        let from_whom = "DEPLOY.APPLY is internal: it is taken from the primary, the AOF or a slot migration only";
        return Err(Refusal::Internal(from_whom.to_string()));
    }
    match record {
        Some(bytes) => apply_record(ctx, key, bytes),
        None => apply_changes(ctx, key, payload),
    }
    .map_err(|why| {
        // An error reply to a primary is the server's "== CRITICAL =="; to the AOF, nothing. So it is said here as well.
        NOT_APPLIED.say(LogLevel::Warning, &format!("change of key '{key}' not applied: {why}"));
        Refusal::Internal(why)
    })?;
    // To this server's own AOF, and to whoever replicates from it.
    ctx.replicate_verbatim();
    Ok(call.reply_int(1))
}

/// A tick goes the way of every other change.
fn tick(call: &Call, key: &RedisString) -> Result<Answered, Refusal> {
    let ctx = call.ctx();
    let db = ctx.selected_db();
    let outcome = change(ctx, key, &Command::Tick)?;
    if !outcome.changed {
        // The index may have been wrong about this key; if it was right, the tick is not repeated at once.
        index::look(ctx, key.as_slice());
        if let Ok(name) = std::str::from_utf8(key.as_slice()) {
            timers::put_off(db, name);
        }
    }
    Ok(call.reply_int(i64::from(outcome.changed)))
}

fn apply_record(ctx: Ctx, key: &RedisString, bytes: &[u8]) -> Result<(), String> {
    let name = key.to_string_lossy();
    let stored = data_type::load_or_keep(data_type::ENCVER, bytes.to_vec(), &name);
    let entry = Entry::of(&stored);
    let mut open = Key::write(ctx, key);
    if !open.replace(stored) {
        return Err("the server did not take the value".to_string());
    }
    note(ctx, key, &mut open, entry);
    Ok(())
}

fn apply_changes(ctx: Ctx, key: &RedisString, payload: &[u8]) -> Result<(), String> {
    let mut open = Key::peek(ctx, key);
    match after_changes(key, &mut open, payload)? {
        After::Same => Ok(()),
        After::InPlace(batch) => {
            if let Slot::Ours(stored) = open.slot() {
                let entry = Entry::of(stored);
                note(ctx, key, &mut open, entry);
            }
            drop(open);
            ctx.signal_changed(key);
            hand_on(ctx, key, &batch);
            Ok(())
        }
        After::Other(stored, batch) => {
            drop(open);
            let entry = Entry::of(&stored);
            let mut open = Key::write(ctx, key);
            if !open.put(stored) {
                return Err("the server did not take the value".to_string());
            }
            note(ctx, key, &mut open, entry);
            drop(open);
            batch.iter().for_each(|batch| hand_on(ctx, key, batch));
            Ok(())
        }
    }
}

fn hand_on(ctx: Ctx, key: &RedisString, batch: &ChangeSet) {
    if let Ok(name) = std::str::from_utf8(key.as_slice()) {
        publish::hand_on(ctx, name, batch);
    }
}

/// A key's value after changes that happened elsewhere.
#[allow(clippy::large_enum_variant)]
enum After {
    /// It has them already.
    Same,
    /// The record that is there has them now.
    InPlace(ChangeSet),
    /// Another value has to be put there; with the changes, where they could be read.
    Other(Stored, Option<ChangeSet>),
}

/// Changes that cannot be read or applied are kept behind the record, which is read-only from then on: a newer module
/// can make up for it.
fn after_changes(key: &RedisString, open: &mut Key, payload: &[u8]) -> Result<After, String> {
    open.wake();
    let existing = match open.slot() {
        Slot::Empty => None,
        Slot::Foreign => return Err("the key holds another type".to_string()),
        Slot::Ours(stored @ Stored::Opaque { .. }) => {
            return Ok(After::Other(Stored::with_change(Some(stored), payload), None))
        }
        Slot::Ours(stored) => Some(stored),
    };
    let batch = match codec::decode_change_set(payload) {
        Ok(batch) => batch,
        Err(error) => {
            let text =
                format!("record of key '{key}' is read-only from here on: a change of it cannot be read: {error}");
            FROZEN.say(LogLevel::Warning, &text);
            return Ok(After::Other(Stored::with_change(existing, payload), None));
        }
    };
    let mut fresh = None;
    let record = match open.record_mut() {
        Some(record) => record,
        None => fresh.insert(codec::empty_record()),
    };
    match first_revision(&batch) {
        Some(first) if first <= record.revision => return Ok(After::Same),
        Some(first) if first > record.revision.saturating_add(1) => {
            return Err(format!("it begins at revision {first}, and the record is at {}", record.revision))
        }
        _ => apply_batch(record, &batch),
    }
    Ok(match fresh {
        Some(fresh) => After::Other(Stored::Record(Box::new(fresh)), Some(batch)),
        None => After::InPlace(batch),
    })
}

/// On a server that cannot write the timer looks at the index by itself.
fn note(ctx: Ctx, key: &RedisString, open: &mut Key, entry: Entry) {
    if let Ok(name) = std::str::from_utf8(key.as_slice()) {
        let db = ctx.selected_db();
        index::set(db, name, entry);
        if let Slot::Ours(stored) = open.slot() {
            blocking::changed(db, name, stored);
        }
        if entry.is_over() {
            open.stand_in_line();
        }
    }
}
