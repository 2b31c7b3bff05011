//! Time: one module timer for all deployments, always armed, that wakes at the earliest due time of the index and
//! issues a tick for each record whose time has come.
//!
//! A tick is only a reminder: late, early or twice is harmless, since the record says what is due. What must not happen
//! is a write where none may be: on a replica, while loading, in a forked child, or while the server holds replica
//! traffic back (CLIENT PAUSE, FAILOVER, shutdown), where it would abort the server. There the timer waits. The tick
//! itself is a command that the server judges like a client's (`S`: not on a read-only replica, a key of this node,
//! enough replicas; `M`: memory), and what it refuses is tried again a little later.

use super::clock;
use super::config;
use super::ffi::{avoids_replica_traffic, Ctx, Key, LogLevel, Slot, TimerId};
use super::guard::guard;
use super::home_db;
use super::index::{self, Place};
use super::log::Sparing;
use super::replication;
use super::rest;
use crate::engine::time::UnixMs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest time between two turns: a change of role, of the clock or of the index that nobody told of is seen then.
const LONGEST_WAIT_MS: u64 = 100;
/// How long the timer waits where it may not write. Shorter than the above, as such times end without an event.
const GATED_WAIT_MS: u64 = 20;
/// A turn that comes so much later than it was asked for: the process stood still, or something held it up.
const STOOD_STILL_MS: u64 = 500;
/// A delay beyond what a busy server explains, which is worth a line in its log.
const FAR_BEHIND_MS: u64 = 1_000;
/// How long a key is left alone after a tick that failed, or that changed nothing.
const RETRY_MS: u64 = 100;

/// The timer that will fire next.
#[derive(Clone, Copy)]
struct Armed {
    id: TimerId,
    at: UnixMs,
}

struct Timer {
    armed: Option<Armed>,
    /// The turn is running: it arms the timer at its end, whatever becomes due meanwhile.
    in_turn: bool,
    /// The last turn came late and did nothing, see [`is_to_listen_first`].
    has_listened: bool,
}

static TIMER: Mutex<Timer> = Mutex::new(Timer { armed: None, in_turn: false, has_listened: false });

/// Set around the call of a tick, and known to this process alone: nobody else can issue one.
static TICKING: AtomicBool = AtomicBool::new(false);

/// Since when nothing but the server's being busy keeps the timer: what fell due before had to wait.
static FREE_SINCE: AtomicU64 = AtomicU64::new(0);

static FAR_BEHIND: Sparing = Sparing::new();

static LAGS: Mutex<Lags> = Mutex::new(Lags::new());

fn timer() -> MutexGuard<'static, Timer> {
    TIMER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the running command is a tick that this module issued.
pub fn is_ticking() -> bool {
    TICKING.load(Ordering::Relaxed)
}

/// Sees to it that the timer fires when the index next wants it to.
pub fn arm(ctx: Ctx) {
    if timer().in_turn {
        return;
    }
    let now = clock::wall();
    let latest = now.saturating_add(LONGEST_WAIT_MS);
    arm_at(ctx, now, index::next_wake().unwrap_or(latest).min(rest::next()).min(latest));
}

/// Arms the timer for the first time: for as soon as the server has loaded its data.
pub fn start(ctx: Ctx) {
    let now = clock::wall();
    FREE_SINCE.store(now, Ordering::Relaxed);
    arm_at(ctx, now, now);
}

/// After what held the timer back: loading, or another role.
pub fn go_on(ctx: Ctx) {
    FREE_SINCE.store(clock::wall(), Ordering::Relaxed);
    arm(ctx);
}

/// Arms the timer for `at`, unless it fires before. Never from the callback of the timer that would be stopped: the
/// turn begins by forgetting its own.
fn arm_at(ctx: Ctx, now: UnixMs, at: UnixMs) {
    // What is overdue is not earlier than the next ms: a timer for then is not to be put off by each change until then.
    let at = at.max(now.saturating_add(1));
    let armed = timer().armed;
    if let Some(armed) = armed {
        if armed.at <= at {
            return;
        }
        ctx.stop_timer(armed.id);
    }
    let wait = at.saturating_sub(now).max(1);
    let fresh = ctx.create_timer(wait).map(|id| Armed { id, at: now.saturating_add(wait) });
    timer().armed = fresh;
}

/// What the timer does when it fires.
pub fn turn(ctx: Ctx) {
    let asked_for = {
        let mut timer = timer();
        timer.in_turn = true;
        timer.armed.take()
    };
    let now = clock::wall();
    // Before anything else, so that nothing that goes wrong below can stop the clock.
    arm_at(ctx, now, now.saturating_add(LONGEST_WAIT_MS));
    let outcome = guard("a turn of the timer", || {
        home_db::listen_late(ctx);
        if is_to_listen_first(asked_for, now) {
            if let (Some(armed), true) = (asked_for, may_write(ctx)) {
                note_delay(armed.at, now, "the server stood still, and all timers with it");
            }
            return Turn::Gated;
        }
        work(ctx)
    });
    rest::work(ctx);
    timer().in_turn = false;
    match outcome {
        Ok(Turn::Gated) => {
            let now = clock::wall();
            FREE_SINCE.store(now, Ordering::Relaxed);
            arm_at(ctx, now, now.saturating_add(GATED_WAIT_MS));
        }
        Ok(Turn::Done) => arm(ctx),
        Err(_) => {}
    }
}

/// A primary that stood still may have been replaced meanwhile, and wakes up with everything due. What it would learn
/// that from, its replicas gone or the cluster's word, lies unread in its sockets, and timers come before those. So it
/// gives them one turn first; with `min-replicas-to-write` it then finds itself alone.
fn is_to_listen_first(asked_for: Option<Armed>, now: UnixMs) -> bool {
    let stood_still = asked_for.is_some_and(|armed| now > armed.at.saturating_add(STOOD_STILL_MS));
    let mut timer = timer();
    // Once: a server that is slow all the time still has to get on.
    timer.has_listened = stood_still && !timer.has_listened;
    timer.has_listened
}

enum Turn {
    Done,
    /// Nothing may be written now.
    Gated,
}

fn may_write(ctx: Ctx) -> bool {
    let flags = ctx.flags();
    flags.is_primary()
        && !flags.is_loading()
        && !flags.is_async_loading()
        && !flags.is_child()
        && !avoids_replica_traffic()
}

/// Issues the ticks that are due, until the budget is used up.
fn work(ctx: Ctx) -> Turn {
    let began = Instant::now();
    let budget = Duration::from_micros(config::tick_budget_us());
    loop {
        let now = clock::wall();
        if index::next_wake().is_none_or(|at| at > now) {
            return Turn::Done;
        }
        // Again before each key: the tick before may have been what began a pause.
        if !may_write(ctx) {
            return Turn::Gated;
        }
        let Some((due, place)) = index::take_due(now, now.saturating_add(RETRY_MS)) else { return Turn::Done };
        tick(ctx, due, &place);
        if began.elapsed() >= budget {
            return Turn::Done;
        }
    }
}

fn tick(ctx: Ctx, due: UnixMs, place: &Place) {
    if !ctx.select_db(place.db) {
        return;
    }
    let lag = clock::micros().saturating_sub(due.saturating_mul(1000));
    TICKING.store(true, Ordering::Relaxed);
    let outcome = ctx.call(replication::APPLY, c"!ESMbb", place.key.as_bytes(), replication::TICK);
    TICKING.store(false, Ordering::Relaxed);
    match outcome {
        Ok(()) => {
            LAGS.lock().unwrap_or_else(PoisonError::into_inner).record(lag);
            note_delay(due, clock::wall(), "timers are behind");
        }
        // READONLY, OOM, NOREPLICAS, MISCONF, another node's key: later. But a key that is gone, or is no deployment any
        // more, is forgotten: nobody told the index.
        Err(_) => {
            let name = ctx.string(place.key.as_bytes());
            if !matches!(Key::peek(ctx, &name).slot(), Slot::Ours(_)) {
                index::remove(place.db, place.key.as_bytes());
            }
        }
    }
}

/// A line in the log where something came late that nothing but the server's being busy explains.
fn note_delay(due: UnixMs, now: UnixMs, what: &str) {
    let late_ms = now.saturating_sub(due.max(FREE_SINCE.load(Ordering::Relaxed)));
    if late_ms >= FAR_BEHIND_MS {
        FAR_BEHIND.say(LogLevel::Warning, &format!("{what}: {late_ms} ms late"));
    }
}

/// After a tick that changed nothing although something was due: not again at once.
pub fn put_off(db: i32, key: &str) {
    index::put_off(db, key, clock::wall().saturating_add(RETRY_MS));
}

// ---- how late it was -------------------------------------------------------------------------------------------------

/// Ticks fired, and how late they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    pub fired: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

pub fn lag() -> Lag {
    LAGS.lock().unwrap_or_else(PoisonError::into_inner).lag()
}

/// Four buckets for each power of two: a percentile is told to within a quarter, in constant room.
const BUCKETS: usize = 160;

struct Lags {
    buckets: [u64; BUCKETS],
    fired: u64,
    max_us: u64,
}

impl Lags {
    const fn new() -> Lags {
        Lags { buckets: [0; BUCKETS], fired: 0, max_us: 0 }
    }

    fn record(&mut self, us: u64) {
        self.fired = self.fired.saturating_add(1);
        self.max_us = self.max_us.max(us);
        if let Some(bucket) = self.buckets.get_mut(bucket(us)) {
            *bucket = bucket.saturating_add(1);
        }
    }

    fn lag(&self) -> Lag {
        Lag { fired: self.fired, p50_us: self.percentile(50), p99_us: self.percentile(99), max_us: self.max_us }
    }

    /// The upper end of the bucket in which the percentile lies.
    fn percentile(&self, percent: u64) -> u64 {
        let wanted = self.fired.saturating_mul(percent).div_ceil(100);
        let mut seen = 0;
        for (place, count) in self.buckets.iter().enumerate() {
            seen += count;
            if wanted > 0 && seen >= wanted {
                return upper_end(place).min(self.max_us);
            }
        }
        self.max_us
    }
}

fn bucket(us: u64) -> usize {
    if us < 4 {
        return us as usize;
    }
    let power = us.ilog2() as usize;
    let quarter = (us >> (power - 2)) as usize & 3;
    ((power - 1) * 4 + quarter).min(BUCKETS - 1)
}

fn upper_end(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    let (power, quarter) = (bucket / 4 + 1, (bucket % 4) as u64);
    ((5 + quarter) << (power - 2)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_lies_below_its_end() {
        for us in (0..100_000).chain([u64::from(u32::MAX), 1 << 39]) {
            let place = bucket(us);
            assert!(us <= upper_end(place), "{us}");
            assert!(place == 0 || us > upper_end(place - 1), "{us}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_told_to_within_a_quarter() {
        let mut lags = Lags::new();
        assert_eq!(lags.lag(), Lag { fired: 0, p50_us: 0, p99_us: 0, max_us: 0 });
        for us in 1..=1000 {
            lags.record(us);
        }
        let lag = lags.lag();
        assert_eq!((lag.fired, lag.max_us), (1000, 1000));
        assert!((500..=625).contains(&lag.p50_us), "{lag:?}");
        assert!((990..=1000).contains(&lag.p99_us), "{lag:?}");
    }
}
