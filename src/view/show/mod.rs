//! The page of DEPLOY.SHOW (rule 3 SHOW), made to be read once or refreshed every second.
//!
//! ```text
//! agent-api                                                             2026-09-21 14:13:32 UTC
//! status      RUNNING, 1 of 4 agents healthy       state, in a few lines        header, next_steps
//! …
//! AGENT    VERSION  ROLE     STATE    HEALTH ...   one line per agent           agents
//! VERSION  ...                                     the versions                 history
//! TIME     ...                                     the last events              events
//! ```
//!
//! The page is refreshed in place, so its lines keep their positions: each label has its line even without a value, a
//! column has the width of its longest possible value, and an agent keeps its line while its instances change. Only
//! problems add lines.
//!
//! Pure, as all views; the time is an argument. The page has at most 80 lines, whatever the record's size.

mod agents;
mod events;
mod header;
mod history;
mod next_steps;
mod text;

use crate::engine::record::Record;
use crate::engine::time::UnixMs;
use text::{moment, pad, truncate, truncate_escaped, wrap};

/// A terminal's 100 columns, less the line numbers that redis-cli puts before the lines of an array.
pub const WIDTH: usize = 95;

/// The column in which a label's text begins.
const LABEL: usize = 12;

/// Returns the lines of the page: printable ASCII, at most [`WIDTH`] columns.
pub fn show(record: &Record, key: &str, now_ms: UnixMs) -> Vec<String> {
    let mut page = Page { lines: Vec::new() };
    let moment = format!("{} UTC", moment(now_ms));
    let name = WIDTH - moment.len() - 2;
    page.line(format!("{}  {moment}", pad(&truncate_escaped(key, name), name)));
    let Some(deployment) = &record.deployment else {
        page.line("nothing has happened to it yet".to_string());
        return page.lines;
    };
    let table = agents::AgentTable::of(record, deployment);
    header::write(&mut page, record, deployment, now_ms);
    next_steps::write(&mut page, record, deployment, &table, now_ms);
    page.line(String::new());
    agents::write(&mut page, record, deployment, &table, now_ms);
    page.line(String::new());
    history::write(&mut page, record, deployment, now_ms);
    page.line(String::new());
    events::write(&mut page, record, now_ms);
    page.lines
}

struct Page {
    lines: Vec<String>,
}

impl Page {
    /// Adds one line, truncated to [`WIDTH`] and to printable ASCII.
    fn line(&mut self, text: String) {
        self.lines.push(truncate(&text, WIDTH));
    }

    /// Adds a label and its text in one line.
    fn entry(&mut self, label: &str, words: &str) {
        self.line(format!("{label:<LABEL$}{words}"));
    }

    /// Adds a label and its text in as many lines as it needs, at most `most`.
    fn paragraph(&mut self, label: &str, words: &str, most: usize) {
        for (place, line) in wrap(words, WIDTH - LABEL, most).iter().enumerate() {
            self.entry(if place == 0 { label } else { "" }, line);
        }
    }
}

/// `1 agent`, `2 agents`.
fn count(number: usize, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {one}s"),
    }
}

/// Returns author and reason: `by ann: faster model`.
fn by(who: &str, reason: Option<&str>) -> String {
    match reason.filter(|reason| !reason.is_empty()) {
        Some(reason) => format!("by {}: {}", truncate_escaped(who, NAME), truncate_escaped(reason, REASON)),
        None => format!("by {}", truncate_escaped(who, NAME)),
    }
}

/// The maximum width of a name within a sentence.
const NAME: usize = 32;
/// The maximum width of a reason; every line is narrower.
const REASON: usize = 3 * WIDTH;
