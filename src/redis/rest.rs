//! Putting records to rest: a deployment that has ended, and that nobody asks about for a while, is kept as the bytes that
//! it would be saved as. That is a quarter of the memory, and nothing has to be made for saving it. Whoever asks for it
//! has it read again ([`Key::wake`]).
//!
//! Records that may rest stand in one line, each once. When its time has come, the first one is looked at: it rests, or
//! goes to the end of the line where it was asked for meanwhile, or leaves the line where it is not over any more. So
//! a server on which nothing happens has nothing to do, however many records it holds.

use super::clock;
use super::config;
use super::ffi::{Ctx, Key};
use super::guard::guard;
use super::index::Place;
use crate::engine::time::UnixMs;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two turns while there is more to do: clients come first.
const PAUSE_MS: u64 = 2;
/// While a child saves, what is moved in memory is copied for it.
const CHILD_WAIT_MS: u64 = 100;

static LINE: Mutex<VecDeque<(UnixMs, Place)>> = Mutex::new(VecDeque::new());

/// When there is something to do next: `u64::MAX` for never.
static NEXT: AtomicU64 = AtomicU64::new(u64::MAX);

fn line() -> MutexGuard<'static, VecDeque<(UnixMs, Place)>> {
    LINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A record may rest, unless somebody asks for it. False where records never rest.
pub fn stand_in_line(db: i32, key: &str) -> bool {
    let Some(after_ms) = config::rest_after_ms() else { return false };
    let at = clock::wall().saturating_add(after_ms);
    line().push_back((at, Place { db, key: Arc::from(key) }));
    NEXT.fetch_min(at, Ordering::Relaxed);
    true
}

/// When the timer should see to it again.
pub fn next() -> UnixMs {
    NEXT.load(Ordering::Relaxed)
}

/// Two databases have changed places.
pub fn swap(first: i32, second: i32) {
    for (_, place) in line().iter_mut() {
        place.db = match place.db {
            db if db == first => second,
            db if db == second => first,
            db => db,
        };
    }
}

/// Looks at those whose time has come, for a share of the timer's budget.
pub fn work(ctx: Ctx) {
    let now = clock::wall();
    if next() > now {
        return;
    }
    if ctx.flags().has_child() {
        return NEXT.store(now.saturating_add(CHILD_WAIT_MS), Ordering::Relaxed);
    }
    let (began, budget) = (Instant::now(), Duration::from_micros(config::tick_budget_us() / 4));
    let home = ctx.selected_db();
    while began.elapsed() < budget {
        let Some(place) = take(now) else { break };
        let again = guard("putting a record to rest", || look(ctx, &place)).unwrap_or(false);
        if let (true, Some(after_ms)) = (again, config::rest_after_ms()) {
            line().push_back((now.saturating_add(after_ms), place));
        }
    }
    ctx.select_db(home);
    let first = line().front().map(|(at, _)| (*at).max(now.saturating_add(PAUSE_MS)));
    NEXT.store(first.unwrap_or(u64::MAX), Ordering::Relaxed);
}

fn take(now: UnixMs) -> Option<Place> {
    let mut line = line();
    if line.front().is_none_or(|(at, _)| *at > now) {
        return None;
    }
    line.pop_front().map(|(_, place)| place)
}

/// Whether the record is to be looked at again later.
fn look(ctx: Ctx, place: &Place) -> bool {
    ctx.select_db(place.db) && Key::peek(ctx, &ctx.string(place.key.as_bytes())).rest()
}
