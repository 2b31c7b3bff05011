//! The page under construction, and the widths of its columns.

use super::text::{truncate, truncate_escaped, wrap};

/// The maximum width of a line: it fits a terminal of 100 columns.
pub const WIDTH: usize = 95;

/// The column in which a label's text begins.
pub const LABEL: usize = 12;

/// The lines of the page so far.
#[derive(Default)]
pub struct Page {
    pub lines: Vec<String>,
}

impl Page {
    /// Adds one line, truncated to [`WIDTH`] and to printable ASCII.
    pub fn line(&mut self, text: String) {
        self.lines.push(truncate(&text, WIDTH));
    }

    /// Adds a label and its text in one line.
    pub fn entry(&mut self, label: &str, words: &str) {
        self.line(format!("{label:<LABEL$}{words}"));
    }

    /// Adds a label and its text in as many lines as it needs, at most `most`.
    pub fn paragraph(&mut self, label: &str, words: &str, most: usize) {
        for (place, line) in wrap(words, WIDTH - LABEL, most).iter().enumerate() {
            self.entry(if place == 0 { label } else { "" }, line);
        }
    }
}

/// Returns a count with its noun: `1 agent`, `2 agents`.
pub fn count(number: usize, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {one}s"),
    }
}

/// Returns author and reason: `by ann: faster model`.
pub fn by(who: &str, reason: Option<&str>) -> String {
    match reason.filter(|reason| !reason.is_empty()) {
        Some(reason) => format!("by {}: {}", truncate_escaped(who, NAME), truncate_escaped(reason, REASON)),
        None => format!("by {}", truncate_escaped(who, NAME)),
    }
}

/// The maximum width of a name within a sentence.
pub const NAME: usize = 32;
/// The maximum width of a reason; every line is narrower.
pub const REASON: usize = 3 * WIDTH;
