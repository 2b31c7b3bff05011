//! The timer: one module timer for all deployments, always armed, that fires at the earliest due time of the index and
//! issues a tick for each due record.
//!
//! A tick is only a reminder: late, early or repeated is harmless, since the record says what is due. What must not
//! happen is a write where none may be: on a replica, while loading, in a forked child, or while replica traffic is
//! paused (CLIENT PAUSE, FAILOVER, shutdown), where it would abort the server. There the timer waits. The tick itself
//! is a command that the server checks like a client's (`S`: not on a read-only replica, a key of this node, enough
//! replicas; `M`: memory), and one that it refuses is retried a little later.

use super::clock;
use super::config;
use super::ffi::{avoids_replica_traffic, catch_panic, Ctx, KeyValue, LogLevel, LogLimiter, RString, TimerId};
use super::record_key::Key;
use super::stored::{DbKey, IndexEntry, Stored};
use super::{idle, idle_queue, index, replication, stats};
use crate::engine::time::UnixMs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest time between two runs, in ms: a change of role, clock or index without an event is noticed then.
const LONGEST_WAIT_MS: u64 = 100;
/// The pause where the timer may not write, in ms. Short, since such states end without an event.
const PAUSED_WAIT_MS: u64 = 20;
/// The delay of a run, in ms, from which on the process is taken to have stalled (stopped, swapped, or blocked).
const STALL_MS: u64 = 500;
/// The delay, in ms, from which on a line is logged: more than a busy server explains.
const LATE_MS: u64 = 1_000;
/// The pause before a key is visited again whose tick failed or changed nothing, in ms.
const RETRY_MS: u64 = 100;

/// The pause before a key is visited again whose tick failed for a reason that does not pass by itself, in ms.
const REFUSED_RETRY_MS: u64 = 5_000;

/// The timer that will fire next.
#[derive(Clone, Copy)]
struct Armed {
    id: TimerId,
    at: UnixMs,
}

struct Timer {
    armed: Option<Armed>,
    /// The callback is running: it arms the timer at its end, whatever becomes due meanwhile.
    running: bool,
    /// The last run was late and did nothing, see [`must_yield_once`].
    yielded: bool,
}

static TIMER: Mutex<Timer> = Mutex::new(Timer { armed: None, running: false, yielded: false });

/// The flag that is set while this module calls DEPLOY.TICK: nobody else can issue one.
static TICKING: AtomicBool = AtomicBool::new(false);

/// The time from which on the timer may run, unix time in ms: a tick that was due before had to wait, and is not late.
static RUNNABLE_SINCE: AtomicU64 = AtomicU64::new(0);

static LATE_LOG: LogLimiter = LogLimiter::new();
static REFUSED_LOG: LogLimiter = LogLimiter::new();

fn timer() -> MutexGuard<'static, Timer> {
    TIMER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns true while the running command is a tick that this module issued.
pub fn is_ticking() -> bool {
    TICKING.load(Ordering::Relaxed)
}

/// Arms the timer for the earliest due time.
pub fn arm(ctx: Ctx) {
    if timer().running {
        return;
    }
    let now = clock::wall();
    let latest = now.saturating_add(LONGEST_WAIT_MS);
    arm_at(ctx, now, index::next_due().unwrap_or(latest).min(idle_queue::next_at(now)).min(latest));
}

/// Arms the timer for the first time: it fires as soon as the server has loaded its data.
pub fn start(ctx: Ctx) {
    let now = clock::wall();
    RUNNABLE_SINCE.store(now, Ordering::Relaxed);
    arm_at(ctx, now, now);
}

/// Resumes after a load or a change of role.
pub fn resume(ctx: Ctx) {
    RUNNABLE_SINCE.store(clock::wall(), Ordering::Relaxed);
    arm(ctx);
}

/// Arms the timer for `at`, unless it fires before. Never from the callback of the timer that would be stopped: the
/// callback begins by forgetting its own.
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
    let fresh = ctx.create_timer(wait, on_timer).map(|id| Armed { id, at: now.saturating_add(wait) });
    timer().armed = fresh;
}

/// Runs when the timer fires.
fn on_timer(ctx: Ctx) {
    let armed_for = {
        let mut timer = timer();
        timer.running = true;
        timer.armed.take()
    };
    let now = clock::wall();
    // Before anything else, so that nothing that goes wrong below can stop the clock.
    arm_at(ctx, now, now.saturating_add(LONGEST_WAIT_MS));
    let outcome = catch_panic("the timer", || {
        if must_yield_once(armed_for, now) {
            if let (Some(armed), true) = (armed_for, may_write(ctx)) {
                log_delay(armed.at, now, "the server stood still, and all timers with it");
            }
            return Run::Paused;
        }
        run_due(ctx)
    });
    idle::run(ctx);
    timer().running = false;
    match outcome {
        Ok(Run::Paused) => {
            let now = clock::wall();
            RUNNABLE_SINCE.store(now, Ordering::Relaxed);
            arm_at(ctx, now, now.saturating_add(PAUSED_WAIT_MS));
        }
        Ok(Run::Done) => arm(ctx),
        Err(_) => {}
    }
}

/// Returns true for the first run after a stall. A primary that stalled may have been replaced meanwhile, and
/// everything is due. Its sockets hold unread messages that would tell it (lost replicas, cluster messages), and timers
/// run before sockets are read. So one run is skipped; with `min-replicas-to-write` the server then notices that it is
/// alone.
fn must_yield_once(armed_for: Option<Armed>, now: UnixMs) -> bool {
    let has_stalled = armed_for.is_some_and(|armed| now > armed.at.saturating_add(STALL_MS));
    let mut timer = timer();
    // Once: a server that is slow all the time still has to get on.
    timer.yielded = has_stalled && !timer.yielded;
    timer.yielded
}

enum Run {
    Done,
    /// Nothing may be written now.
    Paused,
}

fn may_write(ctx: Ctx) -> bool {
    let flags = ctx.flags();
    flags.is_primary()
        && !flags.is_loading()
        && !flags.is_async_loading()
        && !flags.is_child()
        && !avoids_replica_traffic()
}

/// Issues due ticks until the budget is used up.
fn run_due(ctx: Ctx) -> Run {
    let began = Instant::now();
    let budget = Duration::from_micros(config::tick_budget_us());
    loop {
        let now = clock::wall();
        if index::next_due().is_none_or(|at| at > now) {
            return Run::Done;
        }
        // Again before each key: the tick before may have been what began a pause.
        if !may_write(ctx) {
            return Run::Paused;
        }
        let Some((due, key)) = index::take_due(now, now.saturating_add(RETRY_MS)) else { return Run::Done };
        tick(ctx, due, &key);
        if began.elapsed() >= budget {
            return Run::Done;
        }
    }
}

fn tick(ctx: Ctx, due: UnixMs, key: &DbKey) {
    if !ctx.select_db(key.db) {
        return;
    }
    let lag = clock::micros().saturating_sub(due.saturating_mul(1000));
    TICKING.store(true, Ordering::Relaxed);
    let name = [RString::new(key.key.as_bytes())];
    let outcome = ctx.call(replication::TICK, c"!ESMv", &name);
    TICKING.store(false, Ordering::Relaxed);
    match outcome {
        Ok(()) => {
            stats::record_timer_lag(lag);
            log_delay(due, clock::wall(), "timers are behind");
        }
        Err(error) => {
            let [name] = &name;
            match Key::peek(ctx, name).stored() {
                // An unreadable record has nothing due.
                KeyValue::Ours(stored @ Stored::Opaque { .. }) => index::set(key.db, &key.key, IndexEntry::of(stored)),
                KeyValue::Ours(_) => on_refused(key, &error),
                // A key that no longer holds a deployment is removed: the index missed that.
                KeyValue::Empty | KeyValue::Foreign => index::remove(key.db, key.key.as_bytes()),
            }
        }
    }
}

/// Handles a refused tick. A state of the server that passes by itself is retried soon, which was scheduled before the
/// tick. Anything else will hardly be better soon: it is logged, and retried rarely.
fn on_refused(key: &DbKey, error: &str) {
    if !is_passing(error) {
        let name = &key.key;
        REFUSED_LOG.log(LogLevel::Warning, &format!("what is due of key '{name}' cannot be processed: {error}"));
        index::postpone(key.db, name, clock::wall().saturating_add(REFUSED_RETRY_MS));
    }
}

/// Returns whether an error is about a state of the server that passes by itself.
fn is_passing(error: &str) -> bool {
    const CODES: [&str; 9] =
        ["READONLY", "OOM", "NOREPLICAS", "MISCONF", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY"];
    // The key of another node has no code: it goes with its slot.
    CODES.contains(&error.split(' ').next().unwrap_or_default()) || error.contains("non local key")
}

/// Logs a delay that is more than a busy server explains.
fn log_delay(due: UnixMs, now: UnixMs, what: &str) {
    let late_ms = now.saturating_sub(due.max(RUNNABLE_SINCE.load(Ordering::Relaxed)));
    if late_ms >= LATE_MS {
        LATE_LOG.log(LogLevel::Warning, &format!("{what}: {late_ms} ms late"));
    }
}

/// Postpones the next visit of a key whose tick changed nothing although something was due.
pub fn postpone(db: i32, key: &str) {
    index::postpone(db, key, clock::wall().saturating_add(RETRY_MS));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_states_of_the_server_are_retried_soon() {
        for error in [
            "READONLY You can't write against a read only replica.",
            "NOREPLICAS Not enough good replicas to write.",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "ERR Attempted to access a non local key in a cluster node",
        ] {
            assert!(is_passing(error), "{error}");
        }
        for error in [
            "ERR unknown command 'DEPLOY.TICK'",
            "ERR internal error: DEPLOY.APPLY, which replicates every change, was renamed or removed",
            "BADSTATE this record is damaged and is read-only; its bytes are kept as they are",
            "the server refused the call",
            "",
        ] {
            assert!(!is_passing(error), "{error}");
        }
    }
}
