//! The table of agents: version, role, state, health and its duration, one line for each. Where there are too many,
//! those of the highest priority have a line.

use super::page::{count, Page, NAME, REASON, WIDTH};
use super::text::{format_duration, pad, remaining, truncate, truncate_escaped, until, wrap};
use crate::engine::deployment::Deployment;
use crate::engine::instance::{Health, Instance, InstanceState, Role};
use crate::engine::manifest::BATCH_AGENT;
use crate::engine::record::Record;
use crate::engine::services::CheckStatus;
use crate::engine::time::UnixMs;
use std::collections::HashMap;

/// The number of agents that have a line.
const SHOWN: usize = 20;
/// The number of additional lines that all agents together may have.
const MORE_LINES: usize = 10;

/// The state of an agent in the rollout, most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    Unhealthy,
    Pending,
    /// No coordinator has reported about its task yet.
    Waiting,
    Stopping,
    ToGo,
    Healthy,
    Unchanged,
}

const PRIORITIES: [Priority; 7] = [
    Priority::Unhealthy,
    Priority::Pending,
    Priority::Waiting,
    Priority::Stopping,
    Priority::ToGo,
    Priority::Healthy,
    Priority::Unchanged,
];

/// One agent with its instances: `main` is the deployment's own where there is one, else the running one.
pub(super) struct Row<'r> {
    pub agent: &'r str,
    pub main: Option<&'r Instance>,
    others: Vec<&'r Instance>,
    pub priority: Priority,
    /// Its position among the changed agents, `usize::MAX` for an unchanged one.
    place: usize,
}

/// All agents of a record, those that the deployment changes first, in the order in which they go.
pub(super) struct AgentTable<'r> {
    pub rows: Vec<Row<'r>>,
}

impl<'r> AgentTable<'r> {
    pub fn of(record: &'r Record, d: &'r Deployment) -> AgentTable<'r> {
        let mut places: HashMap<&str, usize> = d.changed.iter().enumerate().map(|(place, a)| (&**a, place)).collect();
        let mut rows: Vec<Row> = Vec::new();
        let mut instances = record.instances.iter().peekable();
        while let Some(first) = instances.next() {
            let agent: &str = &first.agent;
            let mut all = vec![first];
            // A batch job's runs are one another's equals: each has a line of its own.
            while agent != BATCH_AGENT && instances.peek().is_some_and(|next| *next.agent == *agent) {
                all.extend(instances.next());
            }
            let place = places.remove(agent);
            rows.push(Row::of(record, d, agent, all, place));
        }
        rows.extend(places.into_iter().map(|(agent, place)| Row::of(record, d, agent, Vec::new(), Some(place))));
        rows.sort_by(|a, b| (a.place, a.agent).cmp(&(b.place, b.agent)));
        AgentTable { rows }
    }

    /// Returns the changed agents that are not healthy yet.
    pub fn unsettled(&self) -> impl Iterator<Item = &Row<'r>> {
        self.rows.iter().filter(|row| row.place < usize::MAX && row.priority <= Priority::Waiting)
    }
}

impl<'r> Row<'r> {
    fn of(record: &'r Record, d: &Deployment, agent: &'r str, all: Vec<&'r Instance>, place: Option<usize>) -> Row<'r> {
        let own = all.iter().copied().rev().find(|i| record.is_own(i));
        let runs = || all.iter().copied().rev().find(|i| !i.is_stopping() && i.state != InstanceState::Waiting);
        let main = own.or_else(runs).or(all.last().copied());
        let others = all.into_iter().filter(|i| main.is_some_and(|main| !std::ptr::eq(main, *i))).collect();
        let priority = match main {
            None => Priority::ToGo,
            Some(i) if i.is_stopping() => Priority::Stopping,
            Some(i) if i.health == Health::Unhealthy || !i.state.is_running() => Priority::Unhealthy,
            Some(i) if i.state == InstanceState::Waiting => Priority::Waiting,
            Some(i) if i.health == Health::Pending => Priority::Pending,
            Some(_) if own.is_some() => Priority::Healthy,
            Some(_) if place.is_some() && d.finished_at.is_none() => Priority::ToGo,
            Some(_) => Priority::Unchanged,
        };
        Row { agent, main, others, priority, place: place.unwrap_or(usize::MAX) }
    }
}

// ---- the table ------------------------------------------------------------------------------------------------------

/// The widths of the columns, which do not depend on the present state of an instance.
struct Columns {
    agent: usize,
    version: usize,
}

const ROLE: usize = 9;
const STATE: usize = 8;
const HEALTH: usize = 9;
const FOR: usize = 9;
const AGENT_MAX: usize = 24;
const VERSION_MAX: usize = 15;

impl Columns {
    fn note(&self) -> usize {
        WIDTH - (self.agent + self.version + ROLE + STATE + HEALTH + FOR + 3 * 2 + 3)
    }

    fn write(&self, page: &mut Page, cells: [&str; 6], note: &str) {
        let [agent, version, role, state, health, since] = cells;
        page.line(format!(
            "{}  {}  {} {} {} {}  {note}",
            pad(agent, self.agent),
            pad(version, self.version),
            pad(role, ROLE),
            pad(state, STATE),
            pad(health, HEALTH),
            pad(since, FOR),
        ));
    }
}

pub(super) fn write(page: &mut Page, record: &Record, d: &Deployment, table: &AgentTable, now: UnixMs) {
    let mut rows: Vec<&Row> = table.rows.iter().collect();
    if rows.len() > SHOWN {
        // Within a priority they stay in the order in which they go.
        rows.sort_by_key(|row| row.priority);
    }
    let (shown, more) = rows.split_at(rows.len().min(SHOWN));
    // Of all agents, since the ones that are shown change, and the column must not.
    let longest = table.rows.iter().map(|row| truncate_escaped(row.agent, AGENT_MAX).len()).max().unwrap_or(0);
    let agent = longest.max("AGENT".len());
    let digits = record.last_version.to_string().len();
    let columns = Columns { agent, version: (2 * digits + 4).clamp("VERSION".len(), VERSION_MAX) };
    columns.write(page, ["AGENT", "VERSION", "ROLE", "STATE", "HEALTH", "FOR"], "");
    if shown.is_empty() {
        page.line("no agent runs, and none is to be started".to_string());
    }
    let mut room = MORE_LINES;
    for row in shown {
        let more_lines = line(page, record, &columns, row, room, now);
        room = room.saturating_sub(more_lines);
    }
    if !more.is_empty() {
        let of_priority =
            |priority: &Priority| (*priority, more.iter().filter(|row| row.priority == *priority).count());
        let words: Vec<String> = PRIORITIES
            .iter()
            .map(of_priority)
            .filter(|(_, number)| *number > 0)
            .map(|(priority, number)| format!("{number} {}", word(priority, d)))
            .collect();
        page.line(format!("and {} more: {}", more.len(), words.join(", ")));
    }
}

fn word(priority: Priority, d: &Deployment) -> &'static str {
    match priority {
        Priority::Unhealthy => "unhealthy",
        Priority::Pending => "pending",
        Priority::Waiting => "waiting",
        Priority::Stopping => "told to stop",
        Priority::ToGo if d.status.is_active() => "to go",
        Priority::ToGo => "not reached",
        Priority::Healthy => "healthy",
        Priority::Unchanged => "unchanged",
    }
}

/// Writes an agent's line. A problem is described in additional lines, at most `room`; returns their number.
fn line(page: &mut Page, record: &Record, columns: &Columns, row: &Row, room: usize, now: UnixMs) -> usize {
    let agent = truncate_escaped(row.agent, columns.agent);
    let Some(main) = row.main else {
        let note = if record.is_active() { "to go" } else { "no instance" };
        columns.write(page, [&agent, "-", "-", "-", "-", "-"], note);
        return 0;
    };
    let from = row.others.iter().map(|i| i.version).find(|version| *version != main.version);
    let version = match from {
        Some(from) => format!("{from} -> {}", main.version),
        None => main.version.to_string(),
    };
    let health = if row.agent == BATCH_AGENT { "-" } else { main.health.name() };
    let since = format_duration(now.saturating_sub(main.since));
    let cells = [&agent, &version, main.role.name(), main.state.name(), health, &since];
    let notes = notes(record, row, main, now);
    let note = notes.join("; ");
    if note.len() <= columns.note() || room == 0 || !is_in_trouble(record, row, main) {
        columns.write(page, cells, &as_many_as_fit(&notes, columns.note()));
        return 0;
    }
    columns.write(page, cells, "");
    let lines = wrap(&note, WIDTH - 4, room.min(2));
    for line in &lines {
        page.line(format!("    {line}"));
    }
    lines.len()
}

/// Joins as many of the first notes as fit; truncates the text where not even the first one fits.
fn as_many_as_fit(notes: &[String], width: usize) -> String {
    let whole = (1..=notes.len()).rev().map(|n| notes[..n].join("; ")).find(|note| note.len() <= width);
    whole.unwrap_or_else(|| truncate(&notes.join("; "), width))
}

/// Returns whether the agent is unhealthy, or ready with a failing health check.
fn is_in_trouble(record: &Record, row: &Row, main: &Instance) -> bool {
    row.priority == Priority::Unhealthy || (row.priority == Priority::Pending && health_problem(record, main).is_some())
}

/// Returns the reason why an instance that is ready fails its health check.
fn health_problem(record: &Record, main: &Instance) -> Option<String> {
    match main.state {
        InstanceState::Ready => record.check_health(main).err(),
        _ => None,
    }
}

/// Returns the notes of an agent: its task, pending verdict and reason, then attempts, other instances and services.
fn notes(record: &Record, row: &Row, main: &Instance, now: UnixMs) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    words.extend(task(main));
    if row.agent != BATCH_AGENT && !main.is_stopping() {
        words.extend(verdict(main, now));
        words.extend(health_problem(record, main).map(|why| truncate_escaped(&why, REASON)));
    }
    words.extend(
        main.reason.as_ref().filter(|reason| !reason.is_empty()).map(|reason| truncate_escaped(reason, REASON)),
    );
    words.dedup();
    if main.attempt > 1 {
        words.push(format!("attempt {}", main.attempt));
    }
    words.extend(row.others.iter().map(|other| beside(main, other)));
    let services: Vec<CheckStatus> = record.services.of_owner(&main.key()).map(|service| service.status).collect();
    if !services.is_empty() {
        let passing = services.iter().filter(|status| **status == CheckStatus::Passing).count();
        words.push(format!("{passing} of {} passing", count(services.len(), "service")));
    }
    words
}

fn task(main: &Instance) -> Option<String> {
    match (&main.task, main.state) {
        (Some(task), _) => Some(format!("to {}", task.kind.name())),
        (None, InstanceState::Waiting) => Some("withdrawn".to_string()),
        (None, _) => None,
    }
}

/// Describes the time at which it becomes healthy, or the time that its healthy deadline leaves.
fn verdict(main: &Instance, now: UnixMs) -> Option<String> {
    if let Some(at) = main.healthy_at {
        return Some(format!("healthy {}", until(at, now)));
    }
    if main.health != Health::Pending {
        return None;
    }
    remaining(main.deadline, now).map(|left| format!("{left} left"))
}

/// Describes another instance of the same agent.
fn beside(main: &Instance, other: &Instance) -> String {
    let role = if other.role == main.role || other.role == Role::Retired { "" } else { other.role.name() };
    let state = if other.is_stopping() { "to stop" } else { other.state.name() };
    let version = other.version;
    let words = format!("v{version} {role} {state}").replace("  ", " ");
    if other.version == main.version {
        format!("{words} in {}", truncate_escaped(&other.job_id, NAME))
    } else {
        words
    }
}
