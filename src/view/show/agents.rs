//! The table of agents: version, role, state, health and its duration, one line for each. Where there are too many,
//! those of the highest priority have a line.

use super::page::{count, Page, NAME, REASON};
use super::text::{escape_name, escape_names, escape_text, format_duration, pad, remaining, truncate, until, width};
use crate::engine::deployment::{Deployment, Mode};
use crate::engine::instance::{Health, Instance, InstanceState, Role};
use crate::engine::manifest::BATCH_AGENT;
use crate::engine::record::Record;
use crate::engine::services::CheckStatus;
use crate::engine::time::{Deadline, UnixMs};
use std::collections::HashMap;

/// The number of agents that have a line.
const SHOWN: usize = 20;
/// The number of lines that a reason may have, and all reasons together. A reason that fits on one line is never cut.
const LINES_OF_REASON: usize = 3;
const LINES_OF_REASONS: usize = SHOWN + 10;

/// The state of an agent in the rollout, most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    Unhealthy,
    Pending,
    /// No coordinator has reported about its task yet.
    Waiting,
    /// It finishes its sessions before it is replaced or stopped.
    Draining,
    Stopping,
    ToGo,
    Healthy,
    Unchanged,
}

const PRIORITIES: [Priority; 8] = [
    Priority::Unhealthy,
    Priority::Pending,
    Priority::Waiting,
    Priority::Draining,
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
            Some(i) if i.role == Role::Draining => Priority::Draining,
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
    role: usize,
    note: usize,
}

const STATE: usize = 8;
const HEALTH: usize = 9;
const FOR: usize = 6;
/// The columns between the columns.
const GAPS: usize = 2 * 2 + 3 + 2;
const AGENT_MIN: usize = 8;
const VERSION_MAX: usize = 12;

impl Columns {
    /// `longest`: the width of the longest agent.
    fn of(width: usize, record: &Record, d: &Deployment, longest: usize) -> Columns {
        // Both versions of an agent, with an arrow.
        let version = 2 * record.last_version.to_string().len() + 4;
        let version = if version > VERSION_MAX { version / 2 } else { version }.clamp("VERSION".len(), VERSION_MAX);
        let may_drain = d.policy.drain_ms > 0 || record.instances.draining() > 0;
        let role = match d.mode {
            Mode::BlueGreen => Role::Candidate,
            _ if may_drain => Role::Draining,
            _ => Role::Primary,
        };
        let role = role.name().len();
        let rest = width.saturating_sub(version + role + STATE + HEALTH + FOR + GAPS);
        let agent = longest.max("AGENT".len()).min((width / 4).min(rest).max(AGENT_MIN));
        Columns { agent, version, role, note: rest.saturating_sub(agent) }
    }

    fn write(&self, page: &mut Page, cells: [&str; 6], note: &str) {
        let [agent, version, role, state, health, since] = cells;
        page.line(format!(
            "{}  {}  {} {} {} {}  {note}",
            pad(agent, self.agent),
            pad(version, self.version),
            pad(role, self.role),
            pad(state, STATE),
            pad(health, HEALTH),
            pad(since, FOR),
        ));
    }
}

pub(super) fn write(page: &mut Page, record: &Record, d: &Deployment, table: &AgentTable, now: UnixMs) {
    // Of all agents, since the ones that are shown change, and the column must not.
    let longest = table.rows.iter().map(|row| width(&escape_name(row.agent, page.width))).max().unwrap_or(0);
    let columns = Columns::of(page.width, record, d, longest);
    let names = escape_names(table.rows.iter().map(|row| row.agent), columns.agent);
    let mut rows: Vec<(&Row, &str)> = table.rows.iter().zip(names.iter().map(String::as_str)).collect();
    if rows.len() > SHOWN {
        // Within a priority they stay in the order in which they go.
        rows.sort_by_key(|(row, _)| row.priority);
    }
    let (shown, more) = rows.split_at(rows.len().min(SHOWN));
    columns.write(page, ["AGENT", "VERSION", "ROLE", "STATE", "HEALTH", "FOR"], "");
    if shown.is_empty() {
        page.line("no agent runs, and none is to be started".to_string());
    }
    let mut room = LINES_OF_REASONS;
    for (index, (row, name)) in shown.iter().enumerate() {
        // Each of those that follow keeps a line.
        let rows_left = shown.len().saturating_sub(index + 1);
        let lines = line(page, record, &columns, row, name, room.saturating_sub(rows_left), now);
        room = room.saturating_sub(lines);
    }
    if !more.is_empty() {
        let of_priority =
            |priority: &Priority| (*priority, more.iter().filter(|(row, _)| row.priority == *priority).count());
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
        Priority::Draining => "draining",
        Priority::Stopping => "told to stop",
        Priority::ToGo if d.status.is_active() => "to go",
        Priority::ToGo => "not reached",
        Priority::Healthy => "healthy",
        Priority::Unchanged => "unchanged",
    }
}

/// Writes an agent's line. The reason why it is not healthy has lines of its own where it does not fit behind the other
/// notes, at most `room`; returns their number.
fn line(page: &mut Page, record: &Record, columns: &Columns, row: &Row, name: &str, room: usize, now: UnixMs) -> usize {
    let Some(main) = row.main else {
        let note = if record.is_active() { "to go" } else { "no instance" };
        columns.write(page, [name, "-", "-", "-", "-", "-"], note);
        return 0;
    };
    let from = row.others.iter().map(|i| i.version).find(|version| *version != main.version);
    let version = from.map(|from| format!("{from} -> {}", main.version));
    let version = version.filter(|both| both.len() <= columns.version).unwrap_or_else(|| main.version.to_string());
    let health = if row.agent == BATCH_AGENT { "-" } else { main.health.name() };
    let since = format_duration(now.saturating_sub(main.since));
    let cells = [name, &version, main.role.name(), main.state.name(), health, &since];
    let reasons = reasons(record, row, main);
    let first = first_notes(row, main, columns.note, now);
    let more = more_notes(record, row, main, columns.note, now);
    let is_well = main.health == Health::Healthy && unhealthy_others(row).next().is_none();
    let all: Vec<String> = first.iter().chain(&reasons).chain(&more).cloned().collect();
    let fits = width(&all.join("; ")) <= columns.note;
    if fits || is_well || reasons.is_empty() {
        // The reason of what is well may be cut short.
        columns.write(page, cells, &as_many_as_fit(&all, columns.note));
        return 0;
    }
    let notes: Vec<String> = first.into_iter().chain(more).filter(|note| width(note) <= columns.note).collect();
    columns.write(page, cells, &as_many_as_fit(&notes, columns.note));
    page.below(&reasons.join("; "), room.clamp(1, LINES_OF_REASON))
}

/// Joins as many of the first notes as fit; truncates the text where not even the first one fits.
fn as_many_as_fit(notes: &[String], columns: usize) -> String {
    let whole = (1..=notes.len()).rev().map(|n| notes[..n].join("; ")).find(|note| width(note) <= columns);
    whole.unwrap_or_else(|| truncate(&notes.join("; "), columns))
}

/// Returns why the agent is not healthy: its main instance, and each other one that is unhealthy. For a healthy one, the
/// reason that was reported.
fn reasons(record: &Record, row: &Row, main: &Instance) -> Vec<String> {
    let reported = main.reason.as_deref().filter(|reason| !reason.is_empty());
    let why = match main.health {
        _ if row.agent == BATCH_AGENT => None,
        Health::Unhealthy => Some(record.why_not_healthy(main)),
        // Until it is ready, there is nothing to check.
        Health::Pending if main.state == InstanceState::Ready => record.check_health(main).err(),
        Health::Pending | Health::Healthy => None,
    };
    // The one may quote the other.
    let is_new = |reason: &&str| why.as_ref().is_none_or(|why| !why.contains(*reason));
    let reported = reported.filter(is_new).map(str::to_string);
    let others = unhealthy_others(row).map(|i| format!("v{} unhealthy: {}", i.version, record.why_not_healthy(i)));
    why.into_iter().chain(reported).chain(others).map(|reason| escape_text(&reason, REASON)).collect()
}

/// Returns the other instances of an agent that are unhealthy, and are to stay.
fn unhealthy_others<'s, 'r>(row: &'s Row<'r>) -> impl Iterator<Item = &'r Instance> + 's {
    row.others.iter().copied().filter(|i| i.health == Health::Unhealthy && !i.is_stopping())
}

/// Returns the notes that come first: the drains of an agent, its task and its pending verdict.
fn first_notes(row: &Row, main: &Instance, columns: usize, now: UnixMs) -> Vec<String> {
    // The role says that it drains.
    let own_drain = Some(main).filter(|main| main.has_open_drain()).map(|main| drain(main, now));
    let drains = row.others.iter().filter(|other| other.has_open_drain());
    let drains = drains.map(|other| drain_of_other(other, columns, now));
    let has_verdict = row.agent != BATCH_AGENT && !main.is_stopping() && main.role != Role::Draining;
    let verdict = if has_verdict { verdict(main, now) } else { None };
    own_drain.into_iter().chain(task(main)).chain(verdict).chain(drains).collect()
}

/// Returns the notes that come last: attempts, other instances and services.
fn more_notes(record: &Record, row: &Row, main: &Instance, columns: usize, now: UnixMs) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    if main.attempt > 1 {
        words.push(format!("attempt {}", main.attempt));
    }
    words.extend(row.others.iter().filter(|other| !other.has_open_drain()).map(|other| match other.role {
        Role::Standby => standby(other, columns, now),
        _ => beside(main, other),
    }));
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
        (None, _) if main.is_drained() => Some("drained".to_string()),
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

/// Describes the open drain of an instance: what it holds, and the time that is left.
pub(super) fn drain(instance: &Instance, now: UnixMs) -> String {
    let Some(drain) = &instance.drain else { return String::new() };
    let left = remaining(drain.deadline, now).map(|left| match drain.deadline {
        Deadline::Paused { .. } => format!("{left} held"),
        _ => format!("{left} left"),
    });
    let end = match drain.idle {
        Deadline::Running { at } => Some(format!("drained {}", until(at, now))),
        _ => left,
    };
    let sessions = instance.sessions.map(|sessions| count(sessions as usize, "session"));
    sessions.into_iter().chain(end).collect::<Vec<_>>().join(", ")
}

/// Describes the open drain of another instance of the same agent, in as many words as fit.
fn drain_of_other(other: &Instance, columns: usize, now: UnixMs) -> String {
    let (version, words) = (other.version, drain(other, now));
    let wordings = [format!("v{version} drains: {words}"), format!("v{version}: {words}")];
    let shortest = || format!("v{version}: {}", words.trim_end_matches(" left"));
    wordings.into_iter().find(|wording| width(wording) <= columns).unwrap_or_else(shortest)
}

/// Describes another instance of the same agent on standby, in as many words as fit: what it holds, and the time for
/// which it stays after a bake that did not end well.
fn standby(other: &Instance, columns: usize, now: UnixMs) -> String {
    let version = other.version;
    let state = match other.health {
        Health::Healthy => "standby",
        _ => other.state.name(),
    };
    let sessions = other.sessions.map(|sessions| count(sessions as usize, "session"));
    let left = other.standby_until.and_then(|at| remaining(Deadline::Running { at }, now));
    let holds: Vec<String> = sessions.into_iter().chain(left.map(|left| format!("{left} left"))).collect();
    let holds = holds.join(", ");
    if holds.is_empty() {
        return format!("v{version} {state}");
    }
    let whole = format!("v{version} {state}: {holds}");
    match width(&whole) <= columns {
        true => whole,
        false => format!("v{version}: {}", holds.trim_end_matches(" left")),
    }
}

/// Describes another instance of the same agent, which neither drains nor is on standby.
fn beside(main: &Instance, other: &Instance) -> String {
    let role = if other.role == Role::Canary && main.role != Role::Canary { " canary" } else { "" };
    let state = match other.role {
        _ if other.is_stopping() => "to stop",
        Role::Draining => "drained",
        _ => other.state.name(),
    };
    let version = other.version;
    if other.version == main.version {
        format!("v{version}{role} {state} in {}", escape_name(&other.job_id, NAME))
    } else {
        format!("v{version}{role} {state}")
    }
}
