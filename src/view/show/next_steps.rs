//! The next steps: the pending condition and its deadline, the step after it, and the effect of a failure.

use super::agents::{self, AgentTable, Priority, Row};
use super::header::open_tasks;
use super::page::{count, Page, NAME, REASON};
use super::text::{escape_name, escape_text, remaining, time_of_day, until};
use crate::engine::deployment::{Deployment, Mode, Status};
use crate::engine::instance::{Instance, InstanceState, Role, TaskKind};
use crate::engine::record::Record;
use crate::engine::time::{Deadline, UnixMs};

const NOTHING: &str = "-";

pub(super) fn write(page: &mut Page, record: &Record, d: &Deployment, table: &AgentTable, now: UnixMs) {
    page.entry("next", &next(record, d, table, now), 2);
    page.entry("then", &then(record, d), 2);
    page.entry("deadline", &deadline(d, now), 2);
    page.entry("on failure", &on_failure(record, d), 2);
}

pub(super) fn next(record: &Record, d: &Deployment, table: &AgentTable, now: UnixMs) -> String {
    match d.status {
        Status::Running => match d.bake.at() {
            Some(at) => format!("the bake ends {}", until(at, now)),
            None => waits_for(record, table, now),
        },
        Status::AwaitingPromotion => "PROMOTE by a person".to_string(),
        Status::Paused => match (&d.deferred_failure, &d.unsafe_report) {
            (Some(deferred), _) => format!("RESUME, which fails it: {}", escape_text(&deferred.words, REASON)),
            (None, Some(report)) => {
                format!("RESUME, which falls back to blue-green: {}", escape_text(&report.words, REASON))
            }
            (None, None) if d.paused_from == Some(Status::AwaitingPromotion) => "RESUME, and then PROMOTE".to_string(),
            // Verdicts go on.
            (None, None) => match soonest(table) {
                Some((row, at)) => {
                    format!("RESUME by a person; {} healthy {}", escape_name(row.agent, NAME), until(at, now))
                }
                None => "RESUME by a person".to_string(),
            },
        },
        Status::Successful | Status::Failed | Status::Cancelled | Status::VersionRecorded => leftovers(record, now),
    }
}

/// Describes the agents that a running deployment waits for: the next to become healthy, and those that block it.
fn waits_for(record: &Record, table: &AgentTable, now: UnixMs) -> String {
    let name = |row: &Row| escape_name(row.agent, NAME);
    let mut words = Vec::new();
    if let Some((row, at)) = soonest(table) {
        words.push(format!("{} healthy {}", name(row), until(at, now)));
    }
    let is_ill = |row: &&Row| row.priority == Priority::Unhealthy && row.main.is_some_and(|i| i.healthy_at.is_none());
    if let Some(row) = table.unsettled().find(is_ill) {
        words.push(format!("{} is unhealthy and holds it up", name(row)));
    }
    let is_late = |row: &&Row| row.priority == Priority::Pending && row.main.is_some_and(|i| i.healthy_at.is_none());
    if let Some((row, main)) = table.unsettled().find(is_late).and_then(|row| Some((row, row.main?))) {
        let what = if main.state == InstanceState::Ready { "to pass its checks" } else { "to be ready" };
        words.push(format!("{} {what}", name(row)));
    }
    let releases = |i: &&Instance| i.awaited_version().is_some();
    let drains = || record.instances.iter().filter(releases);
    words.extend(in_course(drains(), now));
    let untaken = table.unsettled().filter(|row| row.priority == Priority::Waiting).filter_map(|row| row.main);
    let undrained = drains().filter(|i| i.task.is_some());
    for mut untaken in [untaken.collect::<Vec<_>>(), undrained.collect()].map(Vec::into_iter) {
        if let Some((first, task)) = untaken.next().and_then(|first| Some((first, first.task.as_ref()?))) {
            let more = match untaken.len() {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            words.push(format!("a coordinator to {} {}{more}", task.kind.name(), escape_name(&first.agent, NAME)));
        }
    }
    words.truncate(2);
    if words.is_empty() {
        return NOTHING.to_string();
    }
    words.join("; ")
}

/// Describes the drains that a coordinator has taken up: one by its agent, several by what they hold together.
fn in_course<'r>(drains: impl Iterator<Item = &'r Instance>, now: UnixMs) -> Option<String> {
    let drains: Vec<&Instance> = drains.filter(|i| i.has_open_drain() && i.task.is_none()).collect();
    let last = drains.iter().copied().max_by_key(|i| i.drain_at())?;
    if drains.len() == 1 {
        return Some(format!("{} to drain: {}", escape_name(&last.agent, NAME), agents::drain(last, now)));
    }
    let sessions: u64 = drains.iter().filter_map(|i| i.sessions).map(u64::from).sum();
    let sessions = count(usize::try_from(sessions).unwrap_or(usize::MAX), "session");
    let left = last.drain.as_ref().and_then(|drain| remaining(drain.deadline, now));
    let left = left.map(|left| format!(", at most {left} left")).unwrap_or_default();
    Some(format!("{} to drain: {sessions}{left}", count(drains.len(), "instance")))
}

/// Returns the agent that becomes healthy next, with the time.
fn soonest<'s, 'r>(table: &'s AgentTable<'r>) -> Option<(&'s Row<'r>, UnixMs)> {
    table.unsettled().filter_map(|row| Some((row, row.main?.healthy_at?))).min_by_key(|(_, at)| *at)
}

/// Describes the tasks and drains that are open after the end.
fn leftovers(record: &Record, now: UnixMs) -> String {
    let tasks = open_tasks(record).into_iter().map(|(kind, number)| match kind {
        TaskKind::Run => format!("{} for a coordinator", count(number, "run")),
        TaskKind::Drain => format!("a coordinator to drain {}", count(number, "instance")),
        kind => format!("{} to {}", count(number, "instance"), kind.name()),
    });
    let words: Vec<String> =
        in_course(record.instances.iter(), now).into_iter().chain(tasks).chain(on_standby(record, now)).collect();
    match words.is_empty() {
        true => "nothing, it is over".to_string(),
        false => words.join("; "),
    }
}

/// Describes the instances that stay on standby after a bake that did not end well.
fn on_standby(record: &Record, now: UnixMs) -> Option<String> {
    let last = record.instances.iter().filter(|i| i.role == Role::Standby).filter_map(|i| i.standby_until).max()?;
    let standby = count(record.instances.standby(), "instance");
    Some(format!("{standby} on standby, {} left", remaining(Deadline::Running { at: last }, now)?))
}

/// Describes the step after the next one.
fn then(record: &Record, d: &Deployment) -> String {
    let own = record.instances.counts(d.target_version, &d.target_job_id);
    let to_go = d.changed.len().saturating_sub(own.released());
    let parallel = d.policy.parallel(d.changed.len());
    let follow = match to_go {
        0 => "successful".to_string(),
        n => format!("{} follow, {parallel} at a time", count(n, "agent")).replacen(
            "1 agent follow",
            "1 agent follows",
            1,
        ),
    };
    let leave = if d.policy.drain_ms > 0 { "drain" } else { "stop" };
    let old = || {
        let old = count(record.instances.len().saturating_sub(own.placed), "instance");
        match d.has_bake() {
            true => format!("{old} on standby"),
            false => format!("{old} to {leave}"),
        }
    };
    let waits = match (d.status, d.paused_from) {
        (Status::Paused, Some(from)) => from,
        (status, _) => status,
    };
    match (waits, d.mode) {
        _ if d.deferred_failure.is_some() => NOTHING.to_string(),
        _ if d.unsafe_report.is_some() => "all agents start in a second job".to_string(),
        (Status::AwaitingPromotion, Mode::BlueGreen) => {
            format!("{} become primary at once, {}", count(own.placed, "candidate"), old())
        }
        (Status::AwaitingPromotion, _) => format!("{} primary, {follow}", canaries_are(d.canaries as usize)),
        (Status::Running, _) if d.is_baking && d.bake == Deadline::Off => "the bake begins anew".to_string(),
        (Status::Running, _) if d.is_baking && record.instances.standby() > 0 => {
            format!("successful, {} on standby to {leave}", count(record.instances.standby(), "instance"))
        }
        (Status::Running, Mode::BlueGreen) if d.promoted => "successful".to_string(),
        (Status::Running, Mode::BlueGreen) if d.canaries > 0 && !d.policy.auto_promote => {
            "PROMOTE by a person, once all candidates are healthy".to_string()
        }
        (Status::Running, Mode::BlueGreen) => {
            format!("all candidates healthy, they become primary at once, {}", old())
        }
        (Status::Running, Mode::InPlace) if d.canaries > 0 && !d.promoted => match d.policy.auto_promote {
            true => format!(
                "once healthy, {} primary by itself (auto_promote), {follow}",
                canaries_are(d.canaries as usize)
            ),
            false => format!("PROMOTE by a person, then {follow}"),
        },
        (Status::Running, Mode::InPlace) if own.awaiting_drain > 0 => {
            format!("{} replaced, {follow}", are(own.awaiting_drain, "agent"))
        }
        (Status::Running, Mode::InPlace) if to_go > 0 => {
            let agent = d.changed.get(own.released()).map(|agent| escape_name(agent, NAME)).unwrap_or_default();
            match to_go {
                1 => format!("{agent} goes, the last one"),
                n => format!("{agent} goes, and {} after it, {parallel} at a time", n - 1),
            }
        }
        (Status::Running, _) => "successful".to_string(),
        (Status::Failed | Status::Cancelled, _) => match record.rollback_target() {
            Some(version) => format!("ROLLBACK to bring version {version} back, or DEPLOY another"),
            None => "DEPLOY another version".to_string(),
        },
        _ => NOTHING.to_string(),
    }
}

/// Returns, for example, `2 agents are`.
fn are(number: usize, one: &str) -> String {
    let verb = if number == 1 { "is" } else { "are" };
    format!("{} {verb}", count(number, one))
}

fn canaries_are(canaries: usize) -> String {
    match canaries {
        1 => "the canary is".to_string(),
        n => format!("{n} canaries are"),
    }
}

/// Describes the progress deadline.
fn deadline(d: &Deployment, now: UnixMs) -> String {
    match (d.status, d.progress) {
        (Status::Running, Deadline::Running { at }) => {
            format!("fails at {} without progress, {}", time_of_day(at, now), until(at, now))
        }
        (Status::Running, _) if d.bake.at().is_some() => "none runs while it bakes".to_string(),
        (Status::Running, _) if d.policy.progress_deadline_ms == 0 => {
            "fails with the first unhealthy agent".to_string()
        }
        (Status::Running, deadline) => match remaining(deadline, now) {
            Some(left) => format!("held while agents drain, with {left} left for progress"),
            None => NOTHING.to_string(),
        },
        (Status::AwaitingPromotion, _) => "none runs while a promotion is awaited".to_string(),
        (Status::Paused, deadline) => match remaining(deadline, now) {
            Some(left) => format!("held, with {left} left for progress"),
            None => "none runs while it is paused".to_string(),
        },
        _ => NOTHING.to_string(),
    }
}

/// Describes the effect of a failure.
fn on_failure(record: &Record, d: &Deployment) -> String {
    if !d.status.is_active() {
        return NOTHING.to_string();
    }
    if d.policy.auto_revert {
        return match record.stable_version() {
            _ if d.rollback_of.is_some() => "it ends; a rollback never reverts".to_string(),
            Some(version) => format!("auto_revert brings version {version} back"),
            None => "it ends; auto_revert has no stable version to bring back".to_string(),
        };
    }
    match d.mode {
        Mode::BlueGreen if !d.promoted => "it ends, and the candidates are told to stop".to_string(),
        _ => "it ends, and agents stay as they are".to_string(),
    }
}
