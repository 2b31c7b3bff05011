//! FIFO queue of finished records that may be encoded once they have been idle for `deploy.encode-idle-ms`; each key is
//! queued at most once. Nothing in it costs a server on which nothing happens, however many records it holds.

use super::stored::DbKey;
use super::{clock, config};
use crate::engine::time::UnixMs;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

static IDLE_QUEUE: Mutex<VecDeque<(UnixMs, DbKey)>> = Mutex::new(VecDeque::new());

/// The time of the next visit to the queue, unix time in ms; `u64::MAX` for never.
static NEXT_AT: AtomicU64 = AtomicU64::new(u64::MAX);

fn queue() -> MutexGuard<'static, VecDeque<(UnixMs, DbKey)>> {
    IDLE_QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Queues a record. False where idle records are never encoded.
pub fn enqueue(db: i32, key: &str) -> bool {
    let Some(idle_ms) = config::encode_idle_ms() else { return false };
    let at = clock::wall().saturating_add(idle_ms);
    queue().push_back((at, DbKey { db, key: Arc::from(key) }));
    NEXT_AT.fetch_min(at, Ordering::Relaxed);
    true
}

/// Queues a record again that was accessed meanwhile.
pub fn requeue(key: DbKey, now: UnixMs) {
    if let Some(idle_ms) = config::encode_idle_ms() {
        queue().push_back((now.saturating_add(idle_ms), key));
    }
}

/// Removes and returns the first key whose time has come.
pub fn pop_due(now: UnixMs) -> Option<DbKey> {
    let mut queue = queue();
    if queue.front().is_none_or(|(at, _)| *at > now) {
        return None;
    }
    queue.pop_front().map(|(_, key)| key)
}

/// The time of the next visit to the queue, unix time in ms; `u64::MAX` for never.
pub fn next_at() -> UnixMs {
    NEXT_AT.load(Ordering::Relaxed)
}

/// Postpones the next visit to `at`.
pub fn postpone(at: UnixMs) {
    NEXT_AT.store(at, Ordering::Relaxed);
}

/// Plans the next visit: at the time of the first key, and not before `earliest`.
pub fn schedule(earliest: UnixMs) {
    let first = queue().front().map(|(at, _)| (*at).max(earliest));
    NEXT_AT.store(first.unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Exchanges two databases.
pub fn swap(first: i32, second: i32) {
    for (_, key) in queue().iter_mut() {
        key.db = match key.db {
            db if db == first => second,
            db if db == second => first,
            db => db,
        };
    }
}
