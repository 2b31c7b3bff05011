//! Events as they are published and logged (rule 5), and the log (rule 3 EVENTS).
//!
//! An event includes everything that `evolve` applies, so that a reader who applies the log in order has the record.
//! Only a manifest's text is left out, because subscribers and MONITOR would receive up to a megabyte that DEPLOY.VERSION
//! has.

use super::policy::policy;
use super::value::{append_json, int, to_json, AsJson, RawJson};
use crate::engine::event::{Event, EventBody, InstanceRef, NewDeployment};
use crate::engine::record::Record;
use crate::engine::services::Service;
use crate::engine::time::Deadline;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::sync::Arc;

/// Writes fields, one after the other.
macro_rules! fields {
    ($map:expr, $($name:literal: $value:expr),+ $(,)?) => {
        { $($map.serialize_entry($name, &$value)?;)+ }
    };
}

/// One event as a JSON object: the fields that all events have, then those of its type.
///
/// It is written field by field from the event, because one is published for nearly every report. The number of fields is
/// not given to the serializer: an event is a JSON text in every reply, so RESP never sees its fields.
#[derive(Debug, Clone, Copy)]
pub struct EventView<'a> {
    pub event: &'a Event,
    /// The key of the record.
    pub key: &'a str,
}

impl Serialize for EventView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.event;
        let mut map = serializer.serialize_map(None)?;
        fields!(map,
            "revision": int(event.revision),
            "at": int(event.at),
            "key": self.key,
            "deployment_id": event.deployment_id,
            "type": event.body.name(),
            "version": int(event.version),
        );
        body(event, &mut map)?;
        map.end()
    }
}

/// An event that was read from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEvent<'a> {
    event: Arc<Event>,
    key: &'a str,
}

impl Serialize for LoggedEvent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        EventView { event: &self.event, key: self.key }.serialize(serializer)
    }
}

/// Returns an event as it is published on the key's channel.
pub fn event_json(event: &Event, key: &str) -> String {
    to_json(&EventView { event, key })
}

/// Appends an event to a buffer, as it is published on the key's channel.
pub fn append_event_json(event: &Event, key: &str, out: &mut Vec<u8>) {
    append_json(out, &EventView { event, key });
}

/// The reply of EVENTS, an array `[first, last, [event …]]` (rule 3 EVENTS). It owns its texts, so that a blocked client
/// can be answered with it later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsPage {
    /// The first revision in the log; of an empty log, the last revision + 1, so that a caller who is up to date is not
    /// asked to start over.
    pub first: i64,
    /// The record's revision.
    pub last: i64,
    /// The events as JSON, oldest first.
    pub events: Vec<String>,
}

impl Serialize for EventsPage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.first, self.last, &self.events).serialize(serializer)
    }
}

/// Returns the events after the revision `after`, at most `count`.
pub fn events(record: &Record, key: &str, after: Option<u64>, count: Option<usize>) -> EventsPage {
    let wanted = record.log.after(after.unwrap_or(0)).take(count.unwrap_or(usize::MAX));
    EventsPage {
        first: int(record.log.first_revision().unwrap_or(record.revision.saturating_add(1))),
        last: int(record.revision),
        events: wanted.map(|event| event_json(&event, key)).collect(),
    }
}

/// Returns the newest `count` events, oldest first.
pub(super) fn last_events<'a>(record: &Record, key: &'a str, count: usize) -> Vec<AsJson<LoggedEvent<'a>>> {
    record.log.newest(count).map(|event| AsJson(LoggedEvent { event, key })).collect()
}

/// Writes the fields of the event's type.
fn body<M: SerializeMap>(event: &Event, map: &mut M) -> Result<(), M::Error> {
    match &event.body {
        EventBody::DeploymentStarted(beginning)
        | EventBody::DeploymentNoop(beginning)
        | EventBody::VersionRecorded(beginning) => self::new_deployment(beginning, map)?,
        EventBody::RollbackStarted { from_version, rollback_of, cause, by, reason } => fields!(map,
            "from_version": int(*from_version),
            "rollback_of": int(*rollback_of),
            "cause": cause.map(|cause| cause.name()),
            "by": by,
            "reason": reason,
        ),
        EventBody::TaskIssued { instance, task, from_version, attempt, bundle, deadline, by, reason } => fields!(map,
            "task": task.name(),
            "agent": &instance.agent,
            "node": &instance.node,
            "from_version": from_version.map(int),
            "job_id": &instance.job_id,
            "role": instance.role.name(),
            "attempt": int(*attempt),
            "bundle": bundle,
            "since": int(event.at),
            "healthy_deadline_at": deadline.at().map(int),
            "healthy_deadline_left_ms": left(*deadline),
            "by": by,
            "reason": reason,
        ),
        EventBody::TaskDone { instance, task, withdrawn, removes_instance } => {
            fields!(map, "task": task.name());
            instance_ref(instance, map)?;
            fields!(map, "withdrawn": *withdrawn, "leaves": *removes_instance);
        }
        EventBody::AgentState { instance, state, attempt, reason, healthy_at, removes_instance, fails_at_resume } => {
            instance_ref(instance, map)?;
            fields!(map,
                "state": state.name(),
                "attempt": int(*attempt),
                "reason": reason,
                "leaves": *removes_instance,
                "healthy_at": healthy_at.map(int),
                "fails_at_resume": *fails_at_resume,
            );
        }
        EventBody::AgentHealthy { instance, progress } => {
            instance_ref(instance, map)?;
            self::progress(*progress, map)?;
        }
        EventBody::AgentUnhealthy { instance, reason, resumes_with, fails_at_resume } => {
            instance_ref(instance, map)?;
            fields!(map, "reason": reason, "fails_at_resume": *fails_at_resume, "reopens": resumes_with.is_some());
            progress(resumes_with.unwrap_or(Deadline::Off), map)?;
        }
        EventBody::AwaitingPromotion { healthy } => fields!(map, "healthy": int(*healthy)),
        EventBody::DeploymentPromoted { progress, by, reason } => {
            fields!(map, "by": by, "reason": reason);
            self::progress(*progress, map)?;
        }
        EventBody::DeploymentPaused { by, reason } => fields!(map, "by": by, "reason": reason),
        EventBody::DeploymentResumed { status, progress, by, reason } => {
            fields!(map, "status": status.name(), "by": by, "reason": reason);
            self::progress(*progress, map)?;
        }
        EventBody::DeploymentFailed { cause, description, by, reason }
        | EventBody::DeploymentCancelled { cause, description, by, reason } => fields!(map,
            "cause": cause.name(),
            "description": description,
            "by": by,
            "reason": reason,
        ),
        EventBody::DeploymentSuccessful { description } => fields!(map, "description": description),
        EventBody::FallbackBlueGreen { agent, reason, job_id, changed, canaries } => fields!(map,
            "agent": agent,
            "reason": reason,
            "job_id": job_id,
            "changed_agents": &changed[..],
            "canaries": int(*canaries),
        ),
        EventBody::VersionTagged { tag, replaced, by } => {
            fields!(map, "tag": tag, "replaced_tag": replaced, "by": by, "reason": NONE);
        }
        EventBody::VersionUntagged { tag, by } => fields!(map, "tag": tag, "by": by, "reason": NONE),
        EventBody::ServiceRegistered { service, healthy_at } => {
            self::service(service, map)?;
            fields!(map, "healthy_at": healthy_at.map(int));
        }
        EventBody::ServiceStatus { instance, service, agent, status, reason, expires_at, healthy_at } => fields!(map,
            "service": service,
            "instance": instance,
            "agent": agent,
            "status": status.name(),
            "reason": reason,
            "expires_at": expires_at.map(int),
            "healthy_at": healthy_at.map(int),
        ),
        EventBody::ServiceDeregistered { instance, service, agent, reason, healthy_at } => fields!(map,
            "service": service,
            "instance": instance,
            "agent": agent,
            "reason": reason,
            "healthy_at": healthy_at.map(int),
        ),
    }
    Ok(())
}

/// The value of a field that is null in every event of its type.
const NONE: Option<&str> = None;

/// Writes the fields of a new version and its deployment. Its number and the deployment's id are among the fields that all
/// events have.
fn new_deployment<M: SerializeMap>(beginning: &NewDeployment, map: &mut M) -> Result<(), M::Error> {
    let version = &beginning.version;
    fields!(map,
        "mode": beginning.mode.name(),
        "strategy": beginning.strategy.name(),
        "requested_strategy": beginning.requested_strategy.name(),
        "changed_agents": &beginning.changed[..],
        "reason": &version.reason,
        "by": &version.by,
        "rollback_of": version.rollback_of.map(int),
        "cause": beginning.cause.map(|cause| cause.name()),
        "source_version": beginning.source_version.map(int),
        "source_job_id": &beginning.source_job_id,
        "job_id": &version.job_id,
        "policy": policy(&version.policy),
        "bundle": &version.bundle,
        "tag": &version.tag,
        "gone_agents": &beginning.removed_agents[..],
        "canaries": int(beginning.canaries),
        "progress_at": beginning.progress.at().map(int),
        "mode_reason": &beginning.mode_reason,
        "trimmed_versions": beginning.trimmed.iter().map(|number| int(*number)).collect::<Vec<i64>>(),
        "progress_left_ms": left(beginning.progress),
        "requested_job_id": &beginning.requested_job,
        "job_type": version.job_type.name(),
        "agents": version.agents.as_deref(),
        "stable": version.stable,
        "outcome": version.outcome.map(|outcome| outcome.name()),
        "submitted_at": int(version.submitted_at),
    );
    Ok(())
}

fn instance_ref<M: SerializeMap>(instance: &InstanceRef, map: &mut M) -> Result<(), M::Error> {
    fields!(map, "agent": &instance.agent, "node": &instance.node, "job_id": &instance.job_id, "role": instance.role.name());
    Ok(())
}

fn service<M: SerializeMap>(service: &Service, map: &mut M) -> Result<(), M::Error> {
    fields!(map,
        "service": &service.service,
        "instance": &service.instance,
        "agent": &service.owner.agent,
        "job_id": &service.owner.job_id,
        "address": &service.address,
        "port": int(service.port),
        "status": service.status.name(),
        "tags": &service.tags[..],
        "meta": service.meta.as_deref().map(RawJson),
        "ttl_ms": service.ttl_ms.map(int),
        "since": int(service.since),
        "reason": &service.reason,
        "expires_at": service.expires_at.map(int),
    );
    Ok(())
}

/// Writes the progress deadline: its time, or the ms that it has left while it is paused.
fn progress<M: SerializeMap>(deadline: Deadline, map: &mut M) -> Result<(), M::Error> {
    fields!(map, "progress_at": deadline.at().map(int), "progress_left_ms": left(deadline));
    Ok(())
}

fn left(deadline: Deadline) -> Option<i64> {
    match deadline {
        Deadline::Paused { left_ms } => Some(int(left_ms)),
        Deadline::Off | Deadline::Running { .. } => None,
    }
}
