//! The header: status, progress, author, mode, versions, tasks and services of the deployment.

use super::page::{by, count, Page, NAME, REASON};
use super::text::{ago, escape_name, escape_text, format_duration, time_of_day};
use crate::engine::deployment::{Cause, Deployment, Mode, Outcome, Status};
use crate::engine::instance::TaskKind;
use crate::engine::policy::Strategy;
use crate::engine::record::Record;
use crate::engine::services::CheckStatus;
use crate::engine::time::UnixMs;
use crate::view::health::{short_description, HealthSummary};

const BAR: usize = 20;

pub(super) fn write(page: &mut Page, record: &Record, d: &Deployment, now: UnixMs) {
    page.entry("status", &status(record, d), 3);
    progress(page, record, d);
    page.entry("deployment", &deployment(d, now), 2);
    page.entry("by", by(&d.by, d.reason.as_deref()).trim_start_matches("by "), 2);
    page.entry("action", &action(d, now), 2);
    page.entry("mode", &mode(d), 2);
    page.entry("version", &versions(record, d), 2);
    page.entry("job", &job(record, d), 2);
    page.entry("tasks", &tasks(record, now), 2);
    page.entry("services", &services(record), 1);
}

fn status(record: &Record, d: &Deployment) -> String {
    let name = d.status.name().to_ascii_uppercase();
    let cause = own_cause(d).map(|cause| format!(" ({})", cause.name())).unwrap_or_default();
    let phase = d.phase().map(|phase| format!(", {phase}")).unwrap_or_default();
    format!("{name}{phase}{cause}: {}", escape_text(&short_description(record, d), REASON))
}

/// Returns the cause of the deployment's own end. Until it fails or is cancelled, its cause is that of the failure which
/// it reverts.
fn own_cause(d: &Deployment) -> Option<Cause> {
    d.cause.filter(|_| matches!(d.status, Status::Failed | Status::Cancelled))
}

/// Writes the progress bar, and below it the number of agents that each of its signs stands for.
fn progress(page: &mut Page, record: &Record, d: &Deployment) {
    let summary = HealthSummary::of(record, d);
    let (own, desired) = (summary.own, summary.desired);
    let words = if d.mode == Mode::VersionOnly {
        let version = record.version(d.target_version);
        match version.and_then(|version| version.outcome) {
            Some(Outcome::Completed) => "the run has completed".to_string(),
            Some(Outcome::Failed) => "the run has failed".to_string(),
            _ if version.is_some_and(|version| version.cause.is_some()) => "the run was stopped".to_string(),
            _ if record.instances.iter().any(|i| record.is_own(i)) => "the run is outstanding".to_string(),
            _ => "nothing runs".to_string(),
        }
    } else if desired == 0 {
        "no agent changes".to_string()
    } else {
        format!("{} of {desired} healthy", own.healthy)
    };
    page.entry("progress", &format!("{}  {words}", bar(record, d, BAR)), 1);
    if d.mode != Mode::VersionOnly && desired > 0 {
        let rest = if d.status.is_active() { "to go" } else { "not reached" };
        let to_go = desired.saturating_sub(own.placed);
        let legend = [
            format!("# {} healthy", own.healthy),
            format!("+ {} pending", own.pending),
            format!("! {} unhealthy", own.unhealthy),
            format!("- {to_go} {rest}"),
        ];
        page.list("", &legend, "  ");
    }
}

/// Returns the progress bar: `#` healthy, `+` pending, `!` unhealthy, `-` nothing yet.
pub(super) fn bar(record: &Record, d: &Deployment, columns: usize) -> String {
    let summary = HealthSummary::of(record, d);
    let (own, desired) = (summary.own, summary.desired);
    let outcome = record.version(d.target_version).and_then(|version| version.outcome);
    let (healthy, pending, unhealthy, desired) = match (d.mode, outcome) {
        (Mode::VersionOnly, Some(Outcome::Completed)) => (1, 0, 0, 1),
        (Mode::VersionOnly, Some(Outcome::Failed)) => (0, 0, 1, 1),
        (Mode::VersionOnly, _) => (0, 0, 0, 1),
        _ if desired == 0 => (1, 0, 0, 1),
        _ => (own.healthy, own.pending, own.unhealthy, desired),
    };
    let share = |n: usize| n.min(desired).saturating_mul(columns) / desired.max(1);
    // What is unhealthy is never too little to be seen.
    let unhealthy = if unhealthy > 0 { share(unhealthy).max(1) } else { 0 };
    let well = columns.saturating_sub(unhealthy);
    let healthy_or_pending = share(healthy.saturating_add(pending)).min(well);
    let mut bar = String::new();
    for (sign, up_to) in [
        ('#', share(healthy).min(well)),
        ('+', healthy_or_pending),
        ('!', healthy_or_pending.saturating_add(unhealthy)),
        ('-', columns),
    ] {
        while bar.len() < up_to {
            bar.push(sign);
        }
    }
    format!("[{bar}]")
}

fn deployment(d: &Deployment, now: UnixMs) -> String {
    let id = escape_name(&d.id, NAME);
    match d.finished_at {
        None => format!("{id}, begun {}, {}", time_of_day(d.created_at, now), ago(d.created_at, now)),
        Some(end) => format!(
            "{id}, ended {}, {}, after {}",
            time_of_day(end, now),
            ago(end, now),
            format_duration(end.saturating_sub(d.created_at))
        ),
    }
}

/// Describes the last operator command.
fn action(d: &Deployment, now: UnixMs) -> String {
    match &d.last_action {
        None => "-".to_string(),
        Some(action) => {
            format!(
                "{} {} {}",
                escape_name(&action.name, NAME),
                ago(action.at, now),
                by(&action.by, action.reason.as_deref())
            )
        }
    }
}

/// Describes how the rollout runs, and why so. What was asked for is said once.
fn mode(d: &Deployment) -> String {
    let mut words = match (d.mode, d.strategy) {
        (Mode::BlueGreen, Strategy::BlueGreen) => d.strategy.name().to_string(),
        (mode, strategy) => format!("{}, {}", mode.name(), strategy.name()),
    };
    match (d.mode, d.canaries) {
        (Mode::InPlace, 1) => words.push_str(" with 1 canary"),
        (Mode::InPlace, n @ 2..) => words.push_str(&format!(" with {n} canaries")),
        _ => {}
    }
    if d.strategy != d.requested_strategy {
        words.push_str(&format!(" instead of {}", d.requested_strategy.name()));
    }
    if let Some(version) = d.rollback_of {
        let cause = d.cause.filter(|_| own_cause(d).is_none());
        let cause = cause.map(|cause| format!(" after {}", cause.name())).unwrap_or_default();
        words.push_str(&format!(", rollback to version {version}{cause}"));
    }
    if d.promoted {
        words.push_str(", promoted");
    }
    if *d.mode_reason != *format!("strategy {}", d.strategy.name()) {
        words.push_str(&format!(": {}", escape_text(&d.mode_reason, REASON)));
    }
    words
}

fn versions(record: &Record, d: &Deployment) -> String {
    let or = |none: &str, version: Option<u64>| version.map_or(none.to_string(), |version| version.to_string());
    format!(
        "target {}, source {}, current {}, stable {}; ROLLBACK takes {}",
        d.target_version,
        or("-", d.source_version),
        or("-", record.current_version),
        or("-", record.stable_version()),
        or("none", record.rollback_target())
    )
}

fn job(record: &Record, d: &Deployment) -> String {
    let mut words = escape_name(&d.target_job_id, NAME);
    if let Some(source) = d.source_job_id.as_ref().filter(|source| **source != d.target_job_id) {
        words.push_str(&format!(", from {}", escape_name(source, NAME)));
    }
    if let Some(bundle) = record.version(d.target_version).and_then(|version| version.bundle.as_ref()) {
        words.push_str(&format!("; bundle {}", escape_text(bundle, REASON)));
    }
    words
}

fn tasks(record: &Record, now: UnixMs) -> String {
    let oldest = record.instances.tasks().next().and_then(|instance| Some((instance, instance.task.as_ref()?)));
    let Some((instance, task)) = oldest else { return "none open".to_string() };
    let kinds: Vec<String> = open_tasks(record).iter().map(|(kind, n)| format!("{n} {}", kind.name())).collect();
    format!(
        "{} open; the oldest for {}: {} {}",
        kinds.join(", "),
        format_duration(now.saturating_sub(task.since)),
        task.kind.name(),
        escape_name(&instance.agent, NAME)
    )
}

/// Counts the open tasks of each kind; kinds without one are left out.
pub(super) fn open_tasks(record: &Record) -> Vec<(TaskKind, usize)> {
    let mut of_kind = TaskKind::ALL.map(|kind| (kind, 0));
    for task in record.instances.iter().filter_map(|instance| instance.task.as_ref()) {
        of_kind.iter_mut().filter(|(kind, _)| *kind == task.kind).for_each(|(_, number)| *number += 1);
    }
    of_kind.into_iter().filter(|(_, number)| *number > 0).collect()
}

fn services(record: &Record) -> String {
    let mut of_status = [CheckStatus::Passing, CheckStatus::Warning, CheckStatus::Critical].map(|status| (status, 0));
    for service in record.services.iter() {
        of_status.iter_mut().filter(|(status, _)| *status == service.status).for_each(|(_, number)| *number += 1);
    }
    if record.services.is_empty() {
        return "none registered".to_string();
    }
    let [(_, passing), (_, warning), (_, critical)] = of_status;
    format!("{}: {passing} passing, {warning} warning, {critical} critical", count(record.services.len(), "instance"))
}
