//! The table of the last events: time, revision, type, and a description with author and reason.

use super::page::{count, Page, NAME, REASON};
use super::text::{escape_name, escape_text, pad, time_of_day, truncate, width};
use crate::engine::event::{AgentReport, Event, EventBody, InstanceRef};
use crate::engine::instance::InstanceState;
use crate::engine::record::Record;
use crate::engine::services::CheckStatus;
use crate::engine::time::UnixMs;
use crate::engine::AUTO;
use std::sync::Arc;

/// The number of lines of the table. A failure may have one more, for its reason.
const SHOWN: usize = 8;
/// The number of events that are read to fill them.
const READ: usize = 100;

const TYPE: usize = 21;

/// Events of one kind in a row, newest last. A failure is always alone.
struct Row {
    last: Arc<Event>,
    number: usize,
    /// There may be more of them before those that were read.
    open_ended: bool,
}

pub(super) fn write(page: &mut Page, record: &Record, now: UnixMs) {
    let rows = rows(record);
    let times: Vec<String> = rows.iter().map(|row| time_of_day(row.last.at, now)).collect();
    let time = times.iter().map(String::len).max().unwrap_or(0).max("UTC".len());
    let revision = record.revision.to_string().len().max("REV".len());
    page.line(format!("{}  {:>revision$}  {}  WHO AND WHY", pad("UTC", time), "REV", pad("EVENT", TYPE)));
    if times.is_empty() {
        page.line("the log keeps none".to_string());
    }
    let columns = page.width.saturating_sub(time + revision + TYPE + 3 * 2);
    for (Row { last, number, open_ended }, at) in rows.iter().zip(&times) {
        let (what, why) = words(last);
        let what = match (number, open_ended) {
            (1, _) => what,
            (n, false) => format!("{n} times, last: {what}"),
            (n, true) => format!("{n} times or more, last: {what}"),
        };
        let both = [&*what, &*why].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ");
        // The reason of a failure is not cut where it fits on a line of its own.
        let apart = is_failure(&last.body) && !why.is_empty() && width(&both) > columns;
        let line = if apart { &what } else { &both };
        page.line(format!(
            "{}  {:>revision$}  {}  {}",
            pad(at, time),
            last.revision,
            pad(last.body.name(), TYPE),
            truncate(line, columns)
        ));
        if apart {
            page.below(&why, 1);
        }
    }
}

/// Returns the newest events, those of one kind in a row in one row, oldest first.
fn rows(record: &Record) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let events: Vec<Arc<Event>> = record.log.newest(READ).collect();
    let is_cut = record.log.len() > events.len();
    for (index, event) in events.into_iter().enumerate() {
        match rows.last_mut().filter(|row| is_one_kind(&row.last, &event)) {
            Some(row) => {
                row.last = event;
                row.number += 1;
            }
            None => rows.push(Row { last: event, number: 1, open_ended: is_cut && index == 0 }),
        }
    }
    rows.split_off(rows.len().saturating_sub(SHOWN))
}

/// Returns true for two events that say the same of two agents or services, none of them a failure.
fn is_one_kind(a: &Event, b: &Event) -> bool {
    use EventBody::{AgentDrained, AgentDraining, AgentState, ServiceStatus, TaskDone, TaskIssued};
    let same = match (&a.body, &b.body) {
        (AgentState { state: a, .. }, AgentState { state: b, .. }) => a == b,
        (TaskIssued { task: a, by: who, .. }, TaskIssued { task: b, by, .. }) => a == b && who == by,
        (TaskDone { task: a, withdrawn: x, .. }, TaskDone { task: b, withdrawn: y, .. }) => a == b && x == y,
        (AgentDraining { by: who, .. }, AgentDraining { by, .. }) => who == by,
        (AgentDrained { forced: a, by: who, .. }, AgentDrained { forced: b, by, .. }) => a == b && who == by,
        (ServiceStatus { status: a, .. }, ServiceStatus { status: b, .. }) => a == b,
        (a, b) => a.name() == b.name(),
    };
    same && a.version == b.version && !is_failure(&a.body) && !is_failure(&b.body)
}

/// Returns true for events that say that something is not well.
fn is_failure(body: &EventBody) -> bool {
    match body {
        EventBody::AgentState { state, .. } => {
            matches!(state, AgentReport::Unsafe | AgentReport::State(InstanceState::Failed | InstanceState::Unready))
        }
        EventBody::ServiceStatus { status, .. } => *status != CheckStatus::Passing,
        EventBody::ServiceRegistered { service, .. } => service.status != CheckStatus::Passing,
        EventBody::AgentUnhealthy { .. }
        | EventBody::DeploymentFailed { .. }
        | EventBody::DeploymentCancelled { .. }
        | EventBody::FallbackBlueGreen { .. } => true,
        _ => false,
    }
}

/// Describes an event: what happened and who caused it, and the reason.
fn words(event: &Event) -> (String, String) {
    let version = event.version;
    let name = |name: &str| escape_name(name, NAME);
    let why = |reason: Option<&str>| reason.map(|reason| escape_text(reason, REASON)).unwrap_or_default();
    match &event.body {
        EventBody::DeploymentStarted(b) | EventBody::DeploymentNoop(b) | EventBody::VersionRecorded(b) => {
            let agents = count(b.changed.len(), "agent");
            let what = format!("v{version} {}, {agents}, by {}", b.mode.name(), name(&b.version.by));
            (what, why(b.version.reason.as_deref()))
        }
        EventBody::RollbackStarted { from_version, rollback_of, cause, by: who, reason } => {
            let cause = cause.map(|cause| format!(" after {}", cause.name())).unwrap_or_default();
            (format!("from v{from_version} to v{rollback_of}{cause}, by {}", name(who)), why(reason.as_deref()))
        }
        EventBody::TaskIssued { instance, task, from_version, by: who, reason, .. } => {
            let from = from_version.map(|from| format!(" instead of v{from}")).unwrap_or_default();
            let who = match (&**who, reason) {
                (AUTO, None) => String::new(),
                _ => format!(", by {}", name(who)),
            };
            (format!("{} {}{from}{who}", task.name(), instance_ref(instance, version)), why(reason.as_deref()))
        }
        EventBody::TaskDone { instance, task, withdrawn, .. } => {
            let how = if *withdrawn { ", withdrawn" } else { "" };
            (format!("{} {}{how}", task.name(), instance_ref(instance, version)), String::new())
        }
        EventBody::AgentState { instance, state, attempt, reason, .. } => {
            let attempt = if *attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
            (format!("{} {}{attempt}", instance_ref(instance, version), state.name()), why(reason.as_deref()))
        }
        EventBody::AgentHealthy { instance, .. } => (instance_ref(instance, version), String::new()),
        EventBody::AgentUnhealthy { instance, reason, .. } => (instance_ref(instance, version), why(Some(reason))),
        EventBody::AgentDraining { instance, sessions, by: who, reason, .. } => {
            let who = by_a_person(who);
            (format!("{}{}{who}", instance_ref(instance, version), holding(*sessions)), why(reason.as_deref()))
        }
        EventBody::AgentDrained { instance, sessions, forced, by: who, reason } => {
            let who = by_a_person(who);
            let how = if *forced { ", forced" } else { "" };
            (format!("{}{}{how}{who}", instance_ref(instance, version), holding(*sessions)), why(reason.as_deref()))
        }
        EventBody::AwaitingPromotion { healthy } => (format!("v{version}, {healthy} healthy"), String::new()),
        EventBody::DeploymentPromoted { by: who, reason, .. }
        | EventBody::DeploymentPaused { by: who, reason }
        | EventBody::DeploymentResumed { by: who, reason, .. } => {
            (format!("v{version}, by {}", name(who)), why(reason.as_deref()))
        }
        EventBody::DeploymentFailed { cause, description, by: who, .. }
        | EventBody::DeploymentCancelled { cause, description, by: who, .. } => {
            (format!("v{version}, {}, by {}", cause.name(), name(who)), why(Some(description)))
        }
        EventBody::DeploymentSuccessful { description, by: who, .. } => {
            (format!("v{version}{}", by_a_person(who)), why(Some(description)))
        }
        EventBody::BakeStarted { .. } => (format!("v{version}"), String::new()),
        EventBody::FallbackBlueGreen { agent, reason, .. } => {
            (format!("v{version}, for {}", name(agent)), why(Some(reason)))
        }
        EventBody::VersionTagged { tag, by: who, .. } | EventBody::VersionUntagged { tag, by: who } => {
            (format!("v{version}, {}, by {}", name(tag), name(who)), String::new())
        }
        EventBody::ServiceRegistered { service, .. } => {
            let (instance, agent, address) = (&service.instance, &service.owner.agent, &service.address);
            let place = format!("{} of {} at {}:{}", name(instance), name(agent), name(address), service.port);
            (format!("{place} {}", service.status.name()), why(service.reason.as_deref()))
        }
        EventBody::ServiceStatus { instance, agent, status, reason, .. } => {
            (format!("{} of {} {}", name(instance), name(agent), status.name()), why(reason.as_deref()))
        }
        EventBody::ServiceDeregistered { instance, agent, reason, .. } => {
            (format!("{} of {}", name(instance), name(agent)), why(Some(reason)))
        }
    }
}

fn instance_ref(instance: &InstanceRef, version: u64) -> String {
    format!("{} v{version}", escape_name(&instance.agent, NAME))
}

/// Returns `, by` and the name, unless a rule acted.
fn by_a_person(who: &str) -> String {
    match who {
        AUTO => String::new(),
        _ => format!(", by {}", escape_name(who, NAME)),
    }
}

fn holding(sessions: Option<u32>) -> String {
    sessions.map(|sessions| format!(", {}", count(sessions as usize, "session"))).unwrap_or_default()
}
