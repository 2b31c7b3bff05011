//! Lines of the server's log that a client, or a fault that lasts, could repeat without end: a few of a kind in a while,
//! and how many were left out with the next one.

use super::ffi::{self, LogLevel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many lines of a kind …
const LINES: u32 = 5;
/// … in so long a time.
const WINDOW: Duration = Duration::from_secs(10);

/// One kind of line.
pub struct Sparing(Mutex<Kind>);

struct Kind {
    began: Option<Instant>,
    said: u32,
    left_out: u64,
}

impl Sparing {
    pub const fn new() -> Sparing {
        Sparing(Mutex::new(Kind { began: None, said: 0, left_out: 0 }))
    }

    pub fn say(&self, level: LogLevel, text: &str) {
        let admitted = self.0.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        if let Some(note) = admitted {
            ffi::log(level, &format!("{text}{note}"));
        }
    }
}

impl Kind {
    /// What to add to the line; None where it is to be left out.
    fn admit(&mut self, now: Instant) -> Option<String> {
        if self.began.is_none_or(|began| now.duration_since(began) >= WINDOW) {
            (self.began, self.said) = (Some(now), 0);
        }
        if self.said >= LINES {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.said += 1;
        let left_out = std::mem::take(&mut self.left_out);
        Some(match (left_out, self.said == LINES) {
            (0, false) => String::new(),
            (0, true) => format!(" (further lines like this are left out for up to {} s)", WINDOW.as_secs()),
            (left_out, _) => format!(" ({left_out} lines like this were left out before)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_told_afterwards() {
        let mut kind = Kind { began: None, said: 0, left_out: 0 };
        let start = Instant::now();
        let notes: Vec<_> = (0..100).map(|_| kind.admit(start)).collect();
        let said: Vec<_> = notes.iter().flatten().map(String::as_str).collect();
        assert_eq!(said.len(), 5);
        assert!(
            said[..4].iter().all(|note| note.is_empty()) && said[4].contains("left out for up to 10 s"),
            "{said:?}"
        );
        assert_eq!(kind.admit(start + WINDOW).as_deref(), Some(" (95 lines like this were left out before)"));
        assert_eq!(kind.admit(start + WINDOW).as_deref(), Some(""));
    }
}
