//! Idle encoding: a finished deployment that nobody accesses for `deploy.encode-idle-ms` is kept as the bytes that it
//! would be saved as. That is a quarter to a half of the memory, and saving it costs nothing. Whoever accesses the
//! record decodes it ([`Key::record`]).

use super::ffi::{catch_panic, Ctx, RString};
use super::record_key::Key;
use super::stored::DbKey;
use super::{clock, config, idle_queue};
use std::time::{Duration, Instant};

/// Pause between two runs while there is more to do, in ms: clients come first.
const PAUSE_MS: u64 = 2;
/// Pause while a forked child saves, in ms: memory that changes is copied for it.
const CHILD_WAIT_MS: u64 = 100;

/// The number of records that are looked for at a time, once encoding is switched on.
const SEARCH_PAGE: usize = 64;

/// Encodes idle records whose time has come, for a share of the timer's budget.
pub fn run(ctx: Ctx) {
    let now = clock::wall();
    if idle_queue::next_at(now) > now {
        return;
    }
    if ctx.flags().has_child() {
        return idle_queue::postpone(now.saturating_add(CHILD_WAIT_MS));
    }
    let (began, budget) = (Instant::now(), Duration::from_micros(config::tick_budget_us() / 4));
    let selected_db = ctx.selected_db();
    while began.elapsed() < budget {
        let missed = idle_queue::take_missed(SEARCH_PAGE);
        for key in &missed {
            let _ = catch_panic("queueing an idle record", || enqueue_one(ctx, key));
        }
        if !missed.is_empty() {
            continue;
        }
        let Some(key) = idle_queue::pop_due(now) else { break };
        if catch_panic("encoding an idle record", || encode_one(ctx, &key)).unwrap_or(false) {
            idle_queue::requeue(key, now);
        }
    }
    ctx.select_db(selected_db);
    idle_queue::postpone(now.saturating_add(PAUSE_MS));
}

/// Encodes one record, unless it was accessed; returns true where it is to be visited again later.
fn encode_one(ctx: Ctx, key: &DbKey) -> bool {
    ctx.select_db(key.db) && Key::peek(ctx, &RString::new(key.key.as_bytes())).encode_if_idle()
}

/// Queues a record that ended while encoding was off.
fn enqueue_one(ctx: Ctx, key: &DbKey) {
    if ctx.select_db(key.db) {
        Key::peek(ctx, &RString::new(key.key.as_bytes())).enqueue_if_finished();
    }
}
