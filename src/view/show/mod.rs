//! The record for a person's eyes (rule 3 SHOW): one page, as one looks at it once or once a second.
//!
//! ```text
//! agent-api                                                             2026-09-21 14:13:32 UTC
//! status      RUNNING, 1 of 4 agents healthy       how it is, in a few lines       header, outlook
//! …
//! AGENT    VERSION  ROLE     STATE    HEALTH ...   who is what, one line each      agents
//! VERSION  ...                                     what there is to go back to     history
//! TIME     ...                                     who did what, and why           events
//! ```
//!
//! A page is read again and again, so its lines keep their places: each label has its line, whether it has something to
//! say or not, a column is as wide as what may come to stand in it, and an agent keeps its line while its instances
//! come and go. Only troubles take lines that were not there before.
//!
//! Pure, as all views; the time is an argument. However large the record is, the page has at most 80 lines.

mod agents;
mod events;
mod header;
mod history;
mod outlook;
mod text;

use crate::engine::record::Record;
use crate::engine::time::UnixMs;
use text::{cell, cut, fit, moment, wrap};

/// A terminal's 100 columns, less the line numbers that redis-cli puts before the lines of an array.
pub const WIDTH: usize = 95;

/// Where the words behind a label begin.
const LABEL: usize = 12;

/// The page, line by line: printable ASCII, at most [`WIDTH`] columns.
pub fn show(record: &Record, key: &str, now_ms: UnixMs) -> Vec<String> {
    let mut page = Page { lines: Vec::new() };
    let moment = format!("{} UTC", moment(now_ms));
    let name = WIDTH - moment.len() - 2;
    page.line(format!("{}  {moment}", cell(&fit(key, name), name)));
    let Some(deployment) = &record.deployment else {
        page.line("nothing has happened to it yet".to_string());
        return page.lines;
    };
    let survey = agents::Survey::of(record, deployment);
    header::write(&mut page, record, deployment, now_ms);
    outlook::write(&mut page, record, deployment, &survey, now_ms);
    page.line(String::new());
    agents::write(&mut page, record, deployment, &survey, now_ms);
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
    /// One line; nothing that is written here is wider, or other than printable ASCII.
    fn line(&mut self, text: String) {
        self.lines.push(cut(&text, WIDTH));
    }

    /// One line of words behind their label.
    fn entry(&mut self, label: &str, words: &str) {
        self.line(format!("{label:<LABEL$}{words}"));
    }

    /// The same in as many lines as it takes, `most` of them at most.
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

/// Who did something, and why: `by ann: faster model`.
fn by(who: &str, reason: Option<&str>) -> String {
    match reason.filter(|reason| !reason.is_empty()) {
        Some(reason) => format!("by {}: {}", fit(who, NAME), fit(reason, REASON)),
        None => format!("by {}", fit(who, NAME)),
    }
}

/// How much of a name a sentence has room for.
const NAME: usize = 32;
/// More than any place has room for.
const REASON: usize = 3 * WIDTH;
