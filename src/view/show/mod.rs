//! The page of DEPLOY.SHOW (rule 3 SHOW), made to be read once or refreshed every second.
//!
//! ```text
//! agent-api                                                             2026-09-21 14:13:32 UTC
//! status      RUNNING: 1 of 4 agents healthy       state, in a few lines        header, next_steps
//! …
//! AGENT    VERSION  ROLE     STATE    HEALTH ...   one line per agent           agents
//! VERSION  ...                                     the versions                 history
//! UTC      ...                                     the last events              events
//! ```
//!
//! The page is refreshed in place, so its lines keep their positions: each label has its line even without a value, a
//! column has the width of its longest possible value, and an agent keeps its line while its instances change. Only
//! problems add lines.
//!
//! Pure, as all views; the time is an argument. The page has at most 100 lines, whatever the record's size.

mod agents;
mod database;
mod events;
mod header;
mod history;
mod next_steps;
mod page;
mod text;

use crate::engine::record::Record;
use crate::engine::time::UnixMs;
pub use database::{add_failed, add_running, add_waiting, show_database, DatabasePage, Failed, Running, Waiting};
use page::Page;
pub use page::{DEFAULT_WIDTH, MAX_WIDTH, MIN_WIDTH};
use text::{escape_name, moment, pad};

/// Returns the lines of the page, at most `width` columns each: from [`MIN_WIDTH`] to [`MAX_WIDTH`].
pub fn show(record: &Record, key: &str, now_ms: UnixMs, width: usize) -> Vec<String> {
    let mut page = Page::new(width);
    title(&mut page, key, now_ms);
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

/// Writes the first line: what the page is about, and the time.
fn title(page: &mut Page, name: &str, now: UnixMs) {
    let moment = format!("{} UTC", moment(now));
    let columns = page.width.saturating_sub(moment.len() + 2);
    page.line(format!("{}  {moment}", pad(&escape_name(name, columns), columns)));
}
