//! Keyspace events: brings what other commands, loads and flushes do to our keys into the index.

use super::ffi::{Ctx, KeyValue, LogLevel, RStr, RString, SlotMove, SlotRanges};
use super::index::{self, Index, StatusCounts};
use super::record_key::Key;
use super::slot::slot_of;
use super::stored::{DbKey, IndexEntry};
use super::{background, idle_queue, importing};

/// Refreshes the index entry of a key from its value.
pub fn refresh(ctx: Ctx, name: &RStr) {
    let Ok(key) = std::str::from_utf8(name.as_slice()) else { return };
    let open = Key::peek(ctx, name);
    let db = open.db();
    match open.stored() {
        KeyValue::Ours(stored) => index::set(db, key, IndexEntry::of(stored)),
        KeyValue::Empty | KeyValue::Foreign => index::remove(db, name.as_slice()),
    }
}

/// Handles the notification of a generic command. Returns true where a key was made. Nothing is written here: that is
/// forbidden inside a notification.
pub fn on_generic_event(ctx: Ctx, event: &[u8], name: &[u8]) -> bool {
    let is_new_key = matches!(event, b"restore" | b"rename_to" | b"copy_to" | b"move_to");
    if is_new_key {
        on_new_key(ctx, &RString::new(name));
    }
    is_new_key
}

/// Brings a key into the index that another command has made. The timer finds its due time.
pub fn on_new_key(ctx: Ctx, name: &RStr) {
    refresh(ctx, name);
    Key::peek(ctx, name).requeue_if_finished();
}

/// Handles a step of a move of slots. Returns true where deployments became this node's own.
pub fn on_slot_move(ctx: Ctx, step: SlotMove, slots: &SlotRanges) -> bool {
    match step {
        SlotMove::ImportStarted => importing::begin(slots),
        SlotMove::ImportFailed => drop(importing::end(slots)),
        SlotMove::ImportCompleted => refresh_all(ctx, importing::end(slots)),
        SlotMove::ExportCompleted | SlotMove::Trimmed => {
            let is_moved = |slot: u16| slots.iter().any(|range| range.contains(&slot));
            for DbKey { db, key } in index::keys() {
                if is_moved(slot_of(key.as_bytes())) {
                    index::remove(db, key.as_bytes());
                }
            }
        }
    }
    step == SlotMove::ImportCompleted
}

/// Handles a new role of this server. The end of an import is the primary's to know.
pub fn on_role_change(ctx: Ctx) {
    refresh_all(ctx, importing::end_all());
}

/// Handles the start of a load. What has arrived is replaced by it, and so is what is still to arrive.
pub fn on_load_started() {
    drop(importing::end_all());
}

fn refresh_all(ctx: Ctx, keys: Vec<DbKey>) {
    let selected_db = ctx.selected_db();
    for DbKey { db, key } in keys {
        if ctx.select_db(db) {
            refresh(ctx, &RString::new(key.as_bytes()));
        }
    }
    ctx.select_db(selected_db);
}

/// Handles FLUSHDB, or FLUSHALL where `db` is negative.
pub fn on_flush(db: i32) {
    free_in_background(index::flush(db));
}

/// Handles SWAPDB.
pub fn on_swap(first: i32, second: i32) {
    index::swap(first, second);
    idle_queue::swap(first, second);
}

/// Handles the end of an asynchronous load: the new data set is served from here on, or was discarded.
pub fn on_async_load_finished(completed: bool) {
    free_in_background(index::finish_staging(completed));
}

/// Frees an index; a large one on the background thread, since a million keys take a while.
fn free_in_background(old: Option<Index>) {
    if let Some(old) = old.filter(Index::is_large) {
        background::lazy_free(old);
    }
}

/// Rechecks, after a load, the keys that it has read and that may not exist.
pub fn recheck_loaded(ctx: Ctx) {
    refresh_all(ctx, index::take_dropped());
}

/// Logs the counts of a load.
pub fn log_loaded(ctx: Ctx) {
    let StatusCounts { by_status, timers, tasks, draining: _, standby: _, unreadable } = index::counts();
    let all: u64 = by_status.iter().sum();
    if all > 0 {
        ctx.log(
            LogLevel::Notice,
            &format!("{all} deployments loaded, {timers} wait for a time, {tasks} tasks are open"),
        );
    }
    if unreadable > 0 {
        ctx.log(LogLevel::Warning, &format!("{unreadable} records cannot be read here, and are kept as they are"));
    }
}
