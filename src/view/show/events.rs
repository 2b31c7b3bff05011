//! The table of the last events: time, revision, type, and a description with author and reason.

use super::page::{by, count, Page, NAME, REASON};
use super::text::{pad, time_of_day, truncate_escaped};
use crate::engine::event::{Event, EventBody, InstanceRef, NewDeployment};
use crate::engine::record::Record;
use crate::engine::time::UnixMs;
use std::sync::Arc;

/// The number of events that have a line.
const SHOWN: usize = 8;

const TYPE: usize = 21;

pub(super) fn write(page: &mut Page, record: &Record, now: UnixMs) {
    let last: Vec<Arc<Event>> = record.log.newest(SHOWN).collect();
    let times: Vec<String> = last.iter().map(|event| time_of_day(event.at, now)).collect();
    let time = times.iter().map(String::len).max().unwrap_or(0).max("UTC".len());
    let revision = record.revision.to_string().len().max("REV".len());
    page.line(format!("{}  {:>revision$}  {}  WHO AND WHY", pad("UTC", time), "REV", pad("EVENT", TYPE)));
    if times.is_empty() {
        page.line("the log keeps none".to_string());
    }
    for (event, at) in last.iter().zip(&times) {
        let (number, name, words) = (event.revision, event.body.name(), words(event));
        page.line(format!("{}  {number:>revision$}  {}  {words}", pad(at, time), pad(name, TYPE)));
    }
}

fn words(event: &Event) -> String {
    let version = event.version;
    match &event.body {
        EventBody::DeploymentStarted(b) | EventBody::DeploymentNoop(b) | EventBody::VersionRecorded(b) => {
            new_deployment(b, version)
        }
        EventBody::RollbackStarted { from_version, rollback_of, cause, by: who, reason } => {
            let cause = cause.map(|cause| format!(" after {}", cause.name())).unwrap_or_default();
            format!("from v{from_version} to v{rollback_of}{cause}, {}", by(who, reason.as_deref()))
        }
        EventBody::TaskIssued { instance, task, from_version, by: who, reason, .. } => {
            let from = from_version.map(|from| format!(" instead of v{from}")).unwrap_or_default();
            let who = match (&**who, reason) {
                ("auto", None) => String::new(),
                _ => format!(", {}", by(who, reason.as_deref())),
            };
            format!("{} {}{from}{who}", task.name(), instance_ref(instance, version))
        }
        EventBody::TaskDone { instance, task, withdrawn, .. } => {
            let how = if *withdrawn { ", withdrawn" } else { "" };
            format!("{} {}{how}", task.name(), instance_ref(instance, version))
        }
        EventBody::AgentState { instance, state, attempt, reason, .. } => {
            let attempt = if *attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
            format!("{} {}{attempt}{}", instance_ref(instance, version), state.name(), because(reason.as_deref()))
        }
        EventBody::AgentHealthy { instance, .. } => instance_ref(instance, version),
        EventBody::AgentUnhealthy { instance, reason, .. } => {
            format!("{}{}", instance_ref(instance, version), because(Some(&**reason)))
        }
        EventBody::AwaitingPromotion { healthy } => format!("v{version}, {healthy} healthy"),
        EventBody::DeploymentPromoted { by: who, reason, .. }
        | EventBody::DeploymentPaused { by: who, reason }
        | EventBody::DeploymentResumed { by: who, reason, .. } => {
            format!("v{version}, {}", by(who, reason.as_deref()))
        }
        EventBody::DeploymentFailed { cause, description, by: who, .. }
        | EventBody::DeploymentCancelled { cause, description, by: who, .. } => {
            format!("v{version}, {}, by {}{}", cause.name(), truncate_escaped(who, NAME), because(Some(&**description)))
        }
        EventBody::DeploymentSuccessful { description } => format!("v{version}{}", because(Some(&**description))),
        EventBody::FallbackBlueGreen { agent, reason, .. } => {
            format!("v{version}, for {}{}", truncate_escaped(agent, NAME), because(Some(&**reason)))
        }
        EventBody::VersionTagged { tag, by: who, .. } | EventBody::VersionUntagged { tag, by: who } => {
            format!("v{version}, {}, by {}", truncate_escaped(tag, NAME), truncate_escaped(who, NAME))
        }
        EventBody::ServiceRegistered { service, .. } => format!(
            "{} of {} at {}:{} {}",
            truncate_escaped(&service.instance, NAME),
            truncate_escaped(&service.owner.agent, NAME),
            truncate_escaped(&service.address, NAME),
            service.port,
            service.status.name()
        ),
        EventBody::ServiceStatus { instance, agent, status, reason, .. } => {
            format!(
                "{} of {} {}{}",
                truncate_escaped(instance, NAME),
                truncate_escaped(agent, NAME),
                status.name(),
                because(reason.as_deref())
            )
        }
        EventBody::ServiceDeregistered { instance, agent, reason, .. } => {
            format!(
                "{} of {}{}",
                truncate_escaped(instance, NAME),
                truncate_escaped(agent, NAME),
                because(Some(&**reason))
            )
        }
    }
}

fn new_deployment(new: &NewDeployment, version: u64) -> String {
    format!(
        "v{version} {}, {}, {}",
        new.mode.name(),
        count(new.changed.len(), "agent"),
        by(&new.version.by, new.version.reason.as_deref())
    )
}

fn instance_ref(instance: &InstanceRef, version: u64) -> String {
    format!("{} v{version}", truncate_escaped(&instance.agent, NAME))
}

fn because(reason: Option<&str>) -> String {
    match reason.filter(|reason| !reason.is_empty()) {
        Some(reason) => format!(": {}", truncate_escaped(reason, REASON)),
        None => String::new(),
    }
}
