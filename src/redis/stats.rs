//! Counters since the module was loaded, which INFO shows.

use crate::engine::{Change, ChangeSet, Code, EventBody};
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

static REJECTED: [AtomicU64; Code::ALL.len()] = [const { AtomicU64::new(0) }; Code::ALL.len()];
static EVENTS_PUBLISHED: AtomicU64 = AtomicU64::new(0);

/// The longest lag that is told apart from a longer one, in µs: an hour.
const MAX_LAG_US: u64 = 3_600_000_000;

/// Delays of ticks behind their due times, in µs, to two significant digits.
static TIMER_LAG_US: LazyLock<Mutex<Option<Histogram<u64>>>> =
    LazyLock::new(|| Mutex::new(Histogram::new_with_max(MAX_LAG_US, 2).ok()));

/// Counts a command that ended with an error of this code.
pub fn count_rejection(code: Code) {
    let index = Code::ALL.iter().position(|c| *c == code);
    if let Some(count) = index.and_then(|index| REJECTED.get(index)) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Commands that ended with an error, in the order of [`Code::ALL`].
pub fn rejections() -> [u64; Code::ALL.len()] {
    std::array::from_fn(|index| REJECTED.get(index).map_or(0, |count| count.load(Ordering::Relaxed)))
}

pub fn count_published(events: usize) {
    EVENTS_PUBLISHED.fetch_add(events as u64, Ordering::Relaxed);
}

pub fn events_published() -> u64 {
    EVENTS_PUBLISHED.load(Ordering::Relaxed)
}

/// Counters of what happened to rollouts, each incremented as it is decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RolloutCounts {
    /// Also rollbacks and reverts; not versions that change nothing (`noop`), and no batch runs.
    pub started: u64,
    pub successful: u64,
    pub failed: u64,
    /// Rollbacks that a failure began by itself.
    pub reverted: u64,
    pub cancelled: u64,
}

static ROLLOUTS: Mutex<RolloutCounts> =
    Mutex::new(RolloutCounts { started: 0, successful: 0, failed: 0, reverted: 0, cancelled: 0 });

impl RolloutCounts {
    pub fn of(changes: &ChangeSet) -> RolloutCounts {
        let mut counts = RolloutCounts::default();
        for change in &changes.changes {
            let Change::Event(event) = change else { continue };
            match &event.body {
                EventBody::DeploymentStarted(_) => counts.started += 1,
                EventBody::DeploymentSuccessful { .. } => counts.successful += 1,
                EventBody::DeploymentFailed { .. } => counts.failed += 1,
                EventBody::RollbackStarted { cause: Some(_), .. } => counts.reverted += 1,
                EventBody::DeploymentCancelled { .. } => counts.cancelled += 1,
                _ => {}
            }
        }
        counts
    }
}

/// Adds what a committed change set did.
pub fn count_rollouts(new: RolloutCounts) {
    if new == RolloutCounts::default() {
        return;
    }
    let RolloutCounts { started, successful, failed, reverted, cancelled } =
        &mut *ROLLOUTS.lock().unwrap_or_else(PoisonError::into_inner);
    for (count, more) in [
        (started, new.started),
        (successful, new.successful),
        (failed, new.failed),
        (reverted, new.reverted),
        (cancelled, new.cancelled),
    ] {
        *count = count.saturating_add(more);
    }
}

pub fn rollouts() -> RolloutCounts {
    *ROLLOUTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of ticks, and percentiles of their lag in µs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimerLag {
    pub fired: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// Records the lag of one tick, in µs.
pub fn record_timer_lag(us: u64) {
    if let Some(histogram) = &mut *TIMER_LAG_US.lock().unwrap_or_else(PoisonError::into_inner) {
        histogram.saturating_record(us);
    }
}

pub fn timer_lag() -> TimerLag {
    match &*TIMER_LAG_US.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(histogram) if !histogram.is_empty() => TimerLag {
            fired: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
        },
        _ => TimerLag::default(),
    }
}
