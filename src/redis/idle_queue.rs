//! FIFO queue of finished records that may be encoded once they have been idle for `deploy.encode-idle-ms`; each key is
//! queued at most once. Nothing in it costs a server on which nothing happens, however many records it holds.
//!
//! A key is queued with the time at which it was, and not with that of its visit: a changed configuration counts for
//! what is queued already. While encoding is off nothing is queued; once it is on again, the records that were missed
//! are looked for in the index, a page at a time.

use super::stored::DbKey;
use super::{clock, config, index};
use crate::engine::time::UnixMs;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Longer than any pause between two visits, in ms.
const MAX_PAUSE_MS: u64 = 1_000;

struct IdleQueue {
    /// Keys with the time at which they were queued.
    keys: VecDeque<(UnixMs, DbKey)>,
    /// The queue is not visited before this time.
    not_before: UnixMs,
    search: Search,
}

/// The search for finished records that are not queued.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Search {
    /// No record was missed.
    Done,
    /// Continues after this key; from the beginning for None.
    After(Option<DbKey>),
}

static IDLE_QUEUE: Mutex<IdleQueue> =
    Mutex::new(IdleQueue { keys: VecDeque::new(), not_before: 0, search: Search::Done });

fn queue() -> MutexGuard<'static, IdleQueue> {
    IDLE_QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Queues a record. False where idle records are never encoded.
pub fn enqueue(db: i32, key: &str) -> bool {
    let mut queue = queue();
    let is_on = config::encode_idle_ms().is_some();
    match is_on {
        true => queue.keys.push_back((clock::wall(), DbKey { db, key: Arc::from(key) })),
        false => queue.search = Search::After(None),
    }
    is_on
}

/// Queues a record again that was accessed meanwhile.
pub fn requeue(key: DbKey, now: UnixMs) {
    queue().keys.push_back((now, key));
}

/// Removes and returns the first key whose time has come.
pub fn pop_due(now: UnixMs) -> Option<DbKey> {
    let mut queue = queue();
    let first = queue.keys.front().map(|(since, _)| *since)?;
    if visit_at(first, now)? > now {
        return None;
    }
    queue.keys.pop_front().map(|(_, key)| key)
}

/// Returns the time at which a record that was queued at `since` is visited; None while encoding is off.
fn visit_at(since: UnixMs, now: UnixMs) -> Option<UnixMs> {
    // Queued in the future: the wall clock was set back.
    config::encode_idle_ms().map(|idle_ms| since.min(now).saturating_add(idle_ms))
}

/// Returns the next page of finished records that may not be queued. Empty where none was missed.
pub fn take_missed(count: usize) -> Vec<DbKey> {
    let search = queue().search.clone();
    let Search::After(after) = &search else { return Vec::new() };
    let (found, last) = index::finished_after(after.as_ref(), count);
    let mut queue = queue();
    // Unless it was begun anew meanwhile.
    if queue.search == search {
        queue.search = if last.is_some() { Search::After(last) } else { Search::Done };
    }
    found
}

/// The time of the next visit to the queue, unix time in ms; `u64::MAX` for never.
pub fn next_at(now: UnixMs) -> UnixMs {
    let queue = queue();
    if config::encode_idle_ms().is_none() {
        return u64::MAX;
    }
    let first = match queue.search {
        Search::After(_) => Some(now),
        Search::Done => queue.keys.front().and_then(|(since, _)| visit_at(*since, now)),
    };
    // Further away than any pause: the wall clock was set back.
    let not_before = Some(queue.not_before).filter(|at| *at <= now.saturating_add(MAX_PAUSE_MS)).unwrap_or(now);
    first.map_or(u64::MAX, |at| at.max(not_before))
}

/// Postpones the next visit to `at`.
pub fn postpone(at: UnixMs) {
    queue().not_before = at;
}

/// Exchanges two databases.
pub fn swap(first: i32, second: i32) {
    let mut queue = queue();
    for (_, key) in &mut queue.keys {
        key.db = match key.db {
            db if db == first => second,
            db if db == second => first,
            db => db,
        };
    }
    if queue.search != Search::Done {
        queue.search = Search::After(None);
    }
}
