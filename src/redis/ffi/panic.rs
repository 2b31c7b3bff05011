//! The panic boundary: a panic that leaves an extern "C" function aborts the server, so each entry from C catches it.

use super::log::{LogLevel, LogLimiter};
use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};

static PANIC_LOG: LogLimiter = LogLimiter::new();
static PANICS_CAUGHT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Message and location of the last panic: the hook knows them, [`catch_panic`] logs them.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A panic was caught and logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panicked;

/// Redirects panic messages from standard error to the server's log.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string();
        let _ = LAST_PANIC.try_with(|last| {
            if let Ok(mut last) = last.try_borrow_mut() {
                *last = text;
            }
        });
    }));
}

/// Runs `work` and catches its panic; `entry` names the entry point in the log. A lock that a panic poisoned is taken
/// over by the next holder, as what locks protect here are hints and counters.
pub fn catch_panic<T>(entry: &str, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        // The payload's Drop is foreign code, which could panic again.
        std::mem::forget(payload);
        PANICS_CAUGHT.fetch_add(1, Ordering::Relaxed);
        let message = LAST_PANIC.try_with(|last| last.take()).unwrap_or_default();
        PANIC_LOG.log(LogLevel::Warning, &format!("internal error in {entry}: {message}"));
        Panicked
    })
}

/// Runs `work`, and returns `otherwise` where it panicked.
pub fn catch_panic_or<T>(entry: &str, otherwise: T, work: impl FnOnce() -> T) -> T {
    catch_panic(entry, work).unwrap_or(otherwise)
}

/// The number of panics caught since the module was loaded.
pub fn panics_caught() -> u64 {
    PANICS_CAUGHT.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_counted_and_located() {
        let before = panics_caught();
        assert_eq!(catch_panic("a test", || 7), Ok(7));
        assert_eq!(panics_caught(), before);
        // Not `install_panic_hook`, which would take the other tests' panics as well.
        LAST_PANIC.with(|last| *last.borrow_mut() = "panicked at src/lib.rs:1".to_string());
        let silent = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let outcome = catch_panic("a test", || -> u8 { panic!("unexpected") });
        std::panic::set_hook(silent);
        assert_eq!((outcome, panics_caught()), (Err(Panicked), before + 1));
        assert_eq!(LAST_PANIC.with(|last| last.borrow().clone()), "", "a message is logged once");
        assert_eq!(catch_panic_or("a test", 5, || -> u8 { panic!("again") }), 5);
    }
}
