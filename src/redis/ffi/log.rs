//! The server's log, and a rate limit for lines that a client, or a fault that lasts, could repeat without end.

use super::api::api;
use super::string::c_text;
use redis_module::raw;
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The levels of the server's log that the module uses.
#[derive(Clone, Copy)]
pub enum LogLevel {
    Warning,
    Notice,
}

/// Writes a line into the server's log; the server prefixes the module's name where the context has it.
pub(super) fn log_line(ctx: *mut raw::RedisModuleCtx, level: LogLevel, text: &str) {
    let Some(log) = api!(RedisModule_Log) else { return };
    let level = match level {
        LogLevel::Warning => c"warning",
        LogLevel::Notice => c"notice",
    };
    let text = c_text(text);
    // SAFETY: three C strings that live through the call; a context may be null.
    unsafe { log(ctx, level.as_ptr(), c"%s".as_ptr(), text.as_ptr()) }
}

/// Writes a line without a context. The server then does not know the module, so the line names it.
pub fn log(level: LogLevel, text: &str) {
    log_line(ptr::null_mut(), level, &format!("deploy: {text}"));
}

/// Lines of one kind that are logged in one [`WINDOW`].
const MAX_LINES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(10);

/// Limits the rate of one kind of line; the next line that is logged says how many were suppressed.
pub struct LogLimiter(Mutex<Window>);

struct Window {
    started: Option<Instant>,
    logged: u32,
    suppressed: u64,
}

impl LogLimiter {
    pub const fn new() -> LogLimiter {
        LogLimiter(Mutex::new(Window { started: None, logged: 0, suppressed: 0 }))
    }

    /// Logs a line, unless the limit of this kind is reached.
    pub fn log(&self, level: LogLevel, text: &str) {
        let allowed = self.0.lock().unwrap_or_else(PoisonError::into_inner).allow(Instant::now());
        if let Some(suffix) = allowed {
            log(level, &format!("{text}{suffix}"));
        }
    }
}

impl Window {
    /// Returns the suffix of the line; None where the line is suppressed.
    fn allow(&mut self, now: Instant) -> Option<String> {
        if self.started.is_none_or(|started| now.duration_since(started) >= WINDOW) {
            (self.started, self.logged) = (Some(now), 0);
        }
        if self.logged >= MAX_LINES {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.logged += 1;
        let suppressed = std::mem::take(&mut self.suppressed);
        Some(match (suppressed, self.logged == MAX_LINES) {
            (0, false) => String::new(),
            (0, true) => format!(" (further lines like this are left out for up to {} s)", WINDOW.as_secs()),
            (suppressed, _) => format!(" ({suppressed} lines like this were left out before)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suppressed_lines_are_counted_in_the_next_line() {
        let mut window = Window { started: None, logged: 0, suppressed: 0 };
        let start = Instant::now();
        let suffixes: Vec<_> = (0..100).map(|_| window.allow(start)).collect();
        let logged: Vec<_> = suffixes.iter().flatten().map(String::as_str).collect();
        assert_eq!(logged.len(), 5);
        assert!(
            logged[..4].iter().all(|suffix| suffix.is_empty()) && logged[4].contains("left out for up to 10 s"),
            "{logged:?}"
        );
        assert_eq!(window.allow(start + WINDOW).as_deref(), Some(" (95 lines like this were left out before)"));
        assert_eq!(window.allow(start + WINDOW).as_deref(), Some(""));
    }
}
