//! The guard at every door: a panic inside the module becomes a log line and a plain answer, never the server's end.

use super::ffi::LogLevel;
use super::log::Sparing;
use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};

static LINES: Sparing = Sparing::new();
static PANICS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Where the last panic happened and what it said. The hook knows, the guard logs.
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A panic was caught, and logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panicked;

/// Has panics say where they happened in the server's log instead of on its standard error.
pub fn install() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string();
        let _ = LAST.try_with(|last| {
            if let Ok(mut last) = last.try_borrow_mut() {
                *last = text;
            }
        });
    }));
}

/// Runs `work`; `place` names the door in the log. Locks that a panic left behind are taken over by the next one: what
/// they protect is hints and counters.
pub fn guard<T>(place: &str, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        // Its Drop is somebody else's code, which could panic again.
        std::mem::forget(payload);
        PANICS.fetch_add(1, Ordering::Relaxed);
        let what = LAST.try_with(|last| last.take()).unwrap_or_default();
        LINES.say(LogLevel::Warning, &format!("internal error in {place}: {what}"));
        Panicked
    })
}

/// Runs `work`, and gives `otherwise` where it panicked.
pub fn or_else<T>(place: &str, otherwise: T, work: impl FnOnce() -> T) -> T {
    guard(place, work).unwrap_or(otherwise)
}

/// How many panics were caught since the module was loaded.
pub fn caught() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_counted_and_said_where_it_was() {
        let before = caught();
        assert_eq!(guard("a test", || 7), Ok(7));
        assert_eq!(caught(), before);
        // Not `install`, which would take the other tests' panics as well.
        LAST.with(|last| *last.borrow_mut() = "panicked at src/lib.rs:1".to_string());
        let silent = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let outcome = guard("a test", || -> u8 { panic!("nobody saw it coming") });
        std::panic::set_hook(silent);
        assert_eq!((outcome, caught()), (Err(Panicked), before + 1));
        assert_eq!(LAST.with(|last| last.borrow().clone()), "", "it is told once");
        assert_eq!(or_else("a test", 5, || -> u8 { panic!("again") }), 5);
    }
}
