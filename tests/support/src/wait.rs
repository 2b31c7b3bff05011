//! Polling with a deadline. No test sleeps to let something happen.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

static PATIENCE: OnceLock<Duration> = OnceLock::new();

/// Returns the time after which a wait fails: far longer than anything takes, even on a busy machine. 20 seconds unless
/// [`set_patience`] was called first.
pub fn patience() -> Duration {
    *PATIENCE.get_or_init(|| Duration::from_secs(20))
}

/// Sets the time after which waits of this process fail. Panics where a wait has begun already.
pub fn set_patience(patience: Duration) {
    PATIENCE.set(patience).expect("set before the first wait");
}

/// Polls until `condition` returns a value. Panics with the name of the condition at the deadline.
pub fn wait_for<T>(condition_name: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {:?} in vain for {condition_name}", patience());
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Polls until `condition` holds. Panics with the name of the condition at the deadline.
pub fn wait_until(condition_name: &str, mut condition: impl FnMut() -> bool) {
    wait_for(condition_name, || condition().then_some(()));
}

/// Waits until the wall clock has passed a time, and so until everything due by then could happen.
pub fn wait_past(at_ms: u64) {
    wait_until("a time to pass", || unix_ms() > at_ms);
}

pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is past 1970").as_millis() as u64
}
