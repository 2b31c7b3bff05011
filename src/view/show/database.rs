//! The page of DEPLOY.SHOW without a key (rule 19.5): the deployments of a database that need attention.

use super::agents::AgentTable;
use super::header::bar;
use super::next_steps::next;
use super::page::{by, Page, REASON};
use super::text::{escape_names, escape_text, format_duration, pad, remaining, width};
use super::title;
use crate::engine::deployment::{Deployment, Status};
use crate::engine::record::Record;
use crate::engine::time::UnixMs;
use crate::view::health::short_description;

/// The number of rows of each table.
const WAITING: usize = 12;
const RUNNING: usize = 12;
const FAILED: usize = 5;

/// Of a record with more instances, what comes next is not looked for: a page names many records.
const LOOKED_AT: usize = 1_000;

/// A deployment that waits for a person.
pub struct Waiting {
    key: String,
    version: u64,
    since: UnixMs,
    /// It may wait for longer: a record of format 1 does not say since when.
    at_least: bool,
    what: String,
}

/// A deployment that runs.
pub struct Running {
    key: String,
    version: u64,
    bar: String,
    left: String,
    next: String,
}

/// A deployment that has failed.
pub struct Failed {
    key: String,
    version: u64,
    at: UnixMs,
    why: String,
}

/// The contents of the page of a database.
pub struct DatabasePage {
    pub db: i32,
    pub by_status: Vec<(Status, u64)>,
    pub tasks: u64,
    pub draining: u64,
    pub standby: u64,
    pub unreadable: u64,
    pub waiting: Vec<Waiting>,
    pub running: Vec<Running>,
    pub failed: Vec<Failed>,
}

/// Adds a record that waits for a person; another one is left out. Returns false once no more are wanted.
pub fn add_waiting(rows: &mut Vec<Waiting>, record: &Record, key: &str, now: UnixMs) -> bool {
    let waits = |d: &&Deployment| matches!(d.status, Status::AwaitingPromotion | Status::Paused);
    if let Some(d) = record.deployment.as_deref().filter(waits) {
        let (since, at_least) = waiting_since(record, d);
        let what = match d.status {
            Status::Paused => {
                let action = d.last_action.as_ref();
                let who = action.map(|a| format!(", paused {}", by(&a.by, a.reason.as_deref()))).unwrap_or_default();
                let then = d.deferred_failure.as_ref().map(|_| ", which fails it").unwrap_or_default();
                format!("RESUME{then}{who}")
            }
            _ => format!("PROMOTE, {}", short_description(record, d)),
        };
        let since = since.min(now);
        rows.push(Waiting { key: key.to_string(), version: d.target_version, since, at_least, what });
    }
    rows.len() < WAITING
}

/// Returns the time since which a deployment waits for a person. The second value says that it may wait for longer.
fn waiting_since(record: &Record, d: &Deployment) -> (UnixMs, bool) {
    let pause = d.last_action.as_ref().filter(|_| d.status == Status::Paused);
    match pause.map(|pause| pause.at).or(d.awaiting_since) {
        Some(since) => (since, false),
        None => (record.updated_at, true),
    }
}

/// Adds a record that runs; another one is left out. Returns false once no more are wanted.
pub fn add_running(rows: &mut Vec<Running>, record: &Record, key: &str, now: UnixMs) -> bool {
    if let Some(d) = record.deployment.as_deref().filter(|d| d.status == Status::Running) {
        let next = match record.instances.len() > LOOKED_AT {
            true => short_description(record, d),
            false => next(record, d, &AgentTable::of(record, d), now),
        };
        rows.push(Running {
            key: key.to_string(),
            version: d.target_version,
            bar: bar(record, d, BAR),
            left: remaining(d.progress, now).unwrap_or_else(|| "-".to_string()),
            next,
        });
    }
    rows.len() < RUNNING
}

/// Adds a record that has failed; another one is left out. Of the record, only its own fields are read. Returns false
/// once no more are wanted.
pub fn add_failed(rows: &mut Vec<Failed>, record: &Record, key: &str) -> bool {
    if let Some(d) = record.deployment.as_deref().filter(|d| d.status == Status::Failed) {
        let cause = d.cause.map_or(Status::Failed.name(), |cause| cause.name());
        let why = d.ended.as_deref().unwrap_or_default();
        rows.push(Failed {
            key: key.to_string(),
            version: d.target_version,
            at: d.finished_at.unwrap_or(record.updated_at),
            why: format!("{cause}: {}", escape_text(why, REASON)),
        });
    }
    rows.len() < FAILED
}

const BAR: usize = 10;
const KEY_MIN: usize = 15;
const VERSION: usize = 7;
const TIME: usize = 7;

/// Returns the lines of the page, at most `width` columns each, and at most 50.
pub fn show_database(of: &DatabasePage, now_ms: UnixMs, columns: usize) -> Vec<String> {
    let mut page = Page::new(columns);
    title(&mut page, &format!("database {}", of.db), now_ms);
    let counts: Vec<String> = of.by_status.iter().map(|(status, n)| format!("{n} {}", status.name())).collect();
    page.list("deployments", &counts, ", ");
    let mut open = vec![format!("{} open", of.tasks)];
    for (number, [one, many]) in [
        (of.draining, ["instance drains", "instances drain"]),
        (of.standby, ["instance stands by", "instances stand by"]),
    ] {
        match number {
            0 => {}
            1 => open.push(format!("1 {one}")),
            n => open.push(format!("{n} {many}")),
        }
    }
    page.entry("tasks", &open.join(", "), 1);
    if of.unreadable > 0 {
        page.entry("unreadable", &format!("{} cannot be read here, see the log", of.unreadable), 1);
    }
    let keys = of.waiting.iter().map(|row| &*row.key).chain(of.running.iter().map(|row| &*row.key));
    let keys = keys.chain(of.failed.iter().map(|row| &*row.key));
    let names = escape_names(keys, (page.width / 4).max(KEY_MIN));
    let key = names.iter().map(|name| width(name)).max().unwrap_or(0).max(KEY_MIN);
    let mut names = names.into_iter();
    let mut name = || pad(&names.next().unwrap_or_default(), key);
    let total = |wanted: &[Status]| -> u64 {
        of.by_status.iter().filter(|(status, _)| wanted.contains(status)).map(|(_, number)| number).sum()
    };

    page.line(String::new());
    page.line(format!("{} {} {} A PERSON HAS TO", pad("WAITING", key), pad("VERSION", VERSION), pad("FOR", TIME)));
    for row in &of.waiting {
        let duration = format_duration(now_ms.saturating_sub(row.since));
        let duration = if row.at_least { format!(">{duration}") } else { duration };
        page.line(format!("{} {} {} {}", name(), version(row.version), pad(&duration, TIME), row.what));
    }
    more(&mut page, of.waiting.len(), total(&[Status::AwaitingPromotion, Status::Paused]));

    page.line(String::new());
    let bar = BAR + 2;
    let head = ["RUNNING", "VERSION", "PROGRESS", "LEFT"];
    let [running, of_version, progress, left] = head;
    let (running, of_version) = (pad(running, key), pad(of_version, VERSION));
    page.line(format!("{running} {of_version} {} {} NEXT", pad(progress, bar), pad(left, TIME)));
    for row in &of.running {
        let (bar, left) = (pad(&row.bar, bar), pad(&row.left, TIME));
        page.line(format!("{} {} {bar} {left} {}", name(), version(row.version), row.next));
    }
    more(&mut page, of.running.len(), total(&[Status::Running]));

    page.line(String::new());
    page.line(format!("{} {} {} WHY", pad("FAILED", key), pad("VERSION", VERSION), pad("AGO", TIME)));
    let rest = page.width.saturating_sub(key + VERSION + TIME + 3);
    for row in &of.failed {
        let ago = pad(&format_duration(now_ms.saturating_sub(row.at)), TIME);
        let start = format!("{} {} {ago}", name(), version(row.version));
        // A reason is not cut where it fits on a line of its own.
        if width(&row.why) <= rest {
            page.line(format!("{start} {}", row.why));
        } else {
            page.line(start);
            page.below(&row.why, 1);
        }
    }
    more(&mut page, of.failed.len(), total(&[Status::Failed]));
    page.lines
}

fn version(number: u64) -> String {
    pad(&number.to_string(), VERSION)
}

/// Writes how many there are besides those shown, some of which the caller may not be allowed to read.
fn more(page: &mut Page, shown: usize, total: u64) {
    match (shown, total.saturating_sub(shown as u64)) {
        (0, 0) => page.line("none".to_string()),
        (_, 0) => {}
        (_, more) => page.line(format!("and {more} more")),
    }
}
