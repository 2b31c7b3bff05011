//! The header: status, progress, author, mode, versions, tasks and services of the deployment.

use super::page::{by, count, Page, LABEL, NAME, REASON, WIDTH};
use super::text::{ago, format_duration, time_of_day, truncate_escaped};
use crate::engine::deployment::{Deployment, Mode, Outcome};
use crate::engine::instance::TaskKind;
use crate::engine::record::Record;
use crate::engine::services::CheckStatus;
use crate::engine::time::UnixMs;
use crate::view::health::{description, HealthSummary};

const BAR: usize = 20;

pub(super) fn write(page: &mut Page, record: &Record, d: &Deployment, now: UnixMs) {
    page.paragraph("status", &status(record, d), 3);
    page.entry("progress", &progress(record, d));
    page.entry("deployment", &deployment(record, d, now));
    page.paragraph("by", by(&d.by, d.reason.as_deref()).trim_start_matches("by "), 2);
    page.entry("action", &action(d, now));
    page.paragraph("mode", &mode(d), 2);
    page.entry("version", &versions(record, d));
    page.entry("job", &job(record, d));
    page.entry("tasks", &tasks(record, now));
    page.entry("services", &services(record));
}

fn status(record: &Record, d: &Deployment) -> String {
    let name = d.status.name().to_ascii_uppercase();
    // While it is active, a cause is that of the failure which it reverts.
    let cause = d.cause.filter(|_| !d.status.is_active());
    let cause = cause.map(|cause| format!(" ({})", cause.name())).unwrap_or_default();
    let words = description(record);
    let words = words.strip_prefix("paused: ").unwrap_or(&words);
    format!("{name}{cause}: {}", truncate_escaped(words, REASON))
}

/// Returns the progress bar and its numbers: `#` healthy, `+` pending, `!` unhealthy, `-` nothing yet.
fn progress(record: &Record, d: &Deployment) -> String {
    if d.mode == Mode::VersionOnly {
        let (done, words) = match record.version(d.target_version).and_then(|version| version.outcome) {
            Some(Outcome::Completed) => (true, "the run has completed"),
            Some(Outcome::Failed) => (true, "the run has failed"),
            _ if record.instances.iter().any(|i| record.is_own(i)) => (false, "the run is outstanding"),
            _ => (false, "nothing runs"),
        };
        return format!("{}  {words}", bar(usize::from(done), 0, 0, 1));
    }
    let summary = HealthSummary::of(record, d);
    let (own, desired) = (summary.own, summary.desired);
    if desired == 0 {
        return format!("{}  no agent changes", bar(1, 0, 0, 1));
    }
    let rest = desired.saturating_sub(own.placed);
    let rest = match (rest, d.status.is_active()) {
        (n, true) => format!(", {n} to go"),
        (0, false) => String::new(),
        (n, false) => format!(", {n} not reached"),
    };
    format!(
        "{}  {} of {desired} healthy, {} pending, {} unhealthy{rest}",
        bar(own.healthy, own.pending, own.unhealthy, desired),
        own.healthy,
        own.pending,
        own.unhealthy,
    )
}

fn bar(healthy: usize, pending: usize, unhealthy: usize, desired: usize) -> String {
    let place = |n: usize| n.min(desired).saturating_mul(BAR) / desired.max(1);
    let mut bar = String::new();
    for (sign, upto) in [
        ('#', place(healthy)),
        ('+', place(healthy.saturating_add(pending))),
        ('!', place(healthy.saturating_add(pending).saturating_add(unhealthy))),
        ('-', BAR),
    ] {
        while bar.len() < upto {
            bar.push(sign);
        }
    }
    format!("[{bar}]")
}

fn deployment(record: &Record, d: &Deployment, now: UnixMs) -> String {
    let id = truncate_escaped(&d.id, NAME);
    let revision = record.revision;
    match d.finished_at {
        None => format!(
            "{id}, begun {} UTC, {}, revision {revision}",
            time_of_day(d.created_at, now),
            ago(d.created_at, now)
        ),
        Some(end) => format!(
            "{id}, ended {} UTC, {}, after {}, revision {revision}",
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
                truncate_escaped(&action.name, NAME),
                ago(action.at, now),
                by(&action.by, action.reason.as_deref())
            )
        }
    }
}

fn mode(d: &Deployment) -> String {
    let instead = match d.strategy == d.requested_strategy {
        true => String::new(),
        false => format!(" instead of {}", d.requested_strategy.name()),
    };
    let rollback = d.rollback_of.map(|version| format!(", rollback to version {version}")).unwrap_or_default();
    let canaries = match (d.mode, d.canaries) {
        (Mode::InPlace, 1) => " with 1 canary".to_string(),
        (Mode::InPlace, n @ 2..) => format!(" with {n} canaries"),
        _ => String::new(),
    };
    let promoted = if d.promoted { ", promoted" } else { "" };
    format!(
        "{}, {}{canaries}{instead}{rollback}{promoted}: {}",
        d.mode.name(),
        d.strategy.name(),
        truncate_escaped(&d.mode_reason, REASON)
    )
}

fn versions(record: &Record, d: &Deployment) -> String {
    let or_none = |version: Option<u64>| version.map_or("none".to_string(), |version| version.to_string());
    format!(
        "target {}, source {}, current {}, stable {}; ROLLBACK takes {}",
        d.target_version,
        or_none(d.source_version),
        or_none(record.current_version),
        or_none(record.stable_version()),
        or_none(record.rollback_target())
    )
}

fn job(record: &Record, d: &Deployment) -> String {
    let mut words = truncate_escaped(&d.target_job_id, NAME);
    if let Some(source) = d.source_job_id.as_ref().filter(|source| **source != d.target_job_id) {
        words.push_str(&format!(", from {}", truncate_escaped(source, NAME)));
    }
    if let Some(bundle) = record.version(d.target_version).and_then(|version| version.bundle.as_ref()) {
        words.push_str(&format!("; bundle {}", truncate_escaped(bundle, WIDTH - LABEL)));
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
        truncate_escaped(&instance.agent, NAME)
    )
}

/// Counts the open tasks of each kind; kinds without one are left out.
pub(super) fn open_tasks(record: &Record) -> Vec<(TaskKind, usize)> {
    let mut of_kind = [TaskKind::Start, TaskKind::Replace, TaskKind::Stop, TaskKind::Run].map(|kind| (kind, 0));
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
