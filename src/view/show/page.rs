//! The page under construction, and the widths of its columns.

use super::text::{escape_name, escape_text, truncate, width, wrap};

/// The width of a page in columns, unless WIDTH says another (rule 19.5).
pub const DEFAULT_WIDTH: usize = 80;
/// The widths that WIDTH may say.
pub const MIN_WIDTH: usize = 60;
pub const MAX_WIDTH: usize = 200;

/// The column in which a label's text begins.
const LABEL: usize = 12;
/// The indentation of a line that belongs to the one above it.
const INDENT: usize = 4;

/// The lines of the page so far.
pub struct Page {
    pub lines: Vec<String>,
    pub width: usize,
}

impl Page {
    pub fn new(width: usize) -> Page {
        Page { lines: Vec::new(), width: width.clamp(MIN_WIDTH, MAX_WIDTH) }
    }

    /// Adds one line, truncated to the width of the page.
    pub fn line(&mut self, text: String) {
        self.lines.push(truncate(&text, self.width));
    }

    /// Adds a label and its text, in as many lines as it needs, at most `most`.
    pub fn entry(&mut self, label: &str, words: &str, most: usize) {
        self.labelled(label, &wrap(words, self.width - LABEL, most));
    }

    /// Adds a label and a list, in as many lines as it needs: no item is broken.
    pub fn list(&mut self, label: &str, items: &[String], separator: &str) {
        let columns = self.width - LABEL - separator.trim_end().len();
        let mut lines: Vec<String> = Vec::new();
        for item in items {
            match lines.last_mut() {
                Some(line) if width(line) + separator.len() + width(item) <= columns => {
                    line.push_str(separator);
                    line.push_str(item);
                }
                last => {
                    last.into_iter().for_each(|line| line.push_str(separator.trim_end()));
                    lines.push(item.clone());
                }
            }
        }
        self.labelled(label, &lines);
    }

    fn labelled(&mut self, label: &str, lines: &[String]) {
        for (index, line) in lines.iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            self.line(format!("{label:<LABEL$}{line}"));
        }
    }

    /// Adds a text below the line that it belongs to, in at most `most` lines. Returns their number.
    pub fn below(&mut self, words: &str, most: usize) -> usize {
        let lines = wrap(words, self.width - INDENT, most);
        for line in &lines {
            self.line(format!("{:INDENT$}{line}", ""));
        }
        lines.len()
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
        Some(reason) => format!("by {}: {}", escape_name(who, NAME), escape_text(reason, REASON)),
        None => format!("by {}", escape_name(who, NAME)),
    }
}

/// The maximum width of a name within a sentence.
pub const NAME: usize = 32;
/// The maximum width of a reason within a sentence: three of the longest lines.
pub const REASON: usize = 3 * MAX_WIDTH;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_a_list_are_not_broken() {
        let items = ["1 running", "12 awaiting_promotion", "0 cancelled", "7 failed"].map(String::from);
        let mut page = Page::new(60);
        page.list("counts", &items, ", ");
        page.list("", &items, "  ");
        assert_eq!(
            page.lines,
            [
                "counts      1 running, 12 awaiting_promotion, 0 cancelled,",
                "            7 failed",
                "            1 running  12 awaiting_promotion  0 cancelled",
                "            7 failed",
            ]
        );
    }
}
