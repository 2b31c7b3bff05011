//! Events as they are published and logged (rule 5), and the log (rule 3 EVENTS).
//!
//! An event includes everything that `evolve` applies, so that a reader who applies the log in order has the record.
//! Only a manifest's text is left out, because subscribers and MONITOR would receive up to a megabyte that
//! DEPLOY.VERSION has.

use super::event_fields::{fields, Fields};
use super::value::{int, RawJson};
use crate::engine::event::{Event, EventBody, InstanceRef, NewDeployment};
use crate::engine::instance::DrainOutcome;
use crate::engine::record::Record;
use crate::engine::services::Service;
use crate::engine::time::Deadline;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An event that was read from the log: as it was published, a value in JSON and a string in RESP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEvent<'a> {
    pub event: Arc<Event>,
    /// The key of the record.
    pub key: &'a str,
}

impl Serialize for LoggedEvent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(event_json(&self.event, self.key).as_bytes())
    }
}

/// Returns an event as it is published on the key's channel.
pub fn event_json(event: &Event, key: &str) -> String {
    let mut json = Vec::with_capacity(512);
    append_event_json(event, key, &mut json);
    String::from_utf8(json).unwrap_or_default()
}

/// Appends an event to a buffer, as it is published on the key's channel: a JSON object with the fields that all events
/// have, then those of its type.
pub fn append_event_json(event: &Event, key: &str, out: &mut Vec<u8>) {
    let start = out.len();
    let to = &mut Fields(out);
    fields!(to,
        "revision": int(event.revision),
        "at": int(event.at),
        "key": key,
        "deployment_id": event.deployment_id,
        "type": event.body.name(),
        "version": int(event.version),
    );
    body(event, to);
    // The comma before the first field becomes the brace.
    if let Some(first) = out.get_mut(start) {
        *first = b'{';
    }
    out.push(b'}');
}

/// The reply of EVENTS, an array `[first, last, [event …]]` (rule 3 EVENTS). It owns its texts, so that a blocked
/// client can be answered with it later.
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
pub(super) fn last_events<'a>(record: &Record, key: &'a str, count: usize) -> Vec<LoggedEvent<'a>> {
    record.log.newest(count).map(|event| LoggedEvent { event, key }).collect()
}

/// Writes the fields of the event's type.
fn body(event: &Event, to: &mut Fields) {
    match &event.body {
        EventBody::DeploymentStarted(new) | EventBody::DeploymentNoop(new) | EventBody::VersionRecorded(new) => {
            self::new_deployment(new, to)
        }
        EventBody::RollbackStarted { from_version, rollback_of, cause, by, reason } => fields!(to,
            "from_version": int(*from_version),
            "rollback_of": int(*rollback_of),
            "cause": cause.map(|cause| cause.name()),
            "by": by,
            "reason": reason,
        ),
        EventBody::TaskIssued { instance, task, from_version, attempt, bundle, deadline, by, reason, drain } => {
            fields!(to,
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
            "healthy_deadline_left_ms": deadline.left_ms().map(int),
            "by": by,
            "reason": reason,
            );
            if let Some(drain) = drain {
                self::drain(drain.outcome, drain.deadline, to);
                fields!(to, "min_healthy_ms": int(drain.idle_ms));
            }
        }
        EventBody::TaskDone { instance, task, withdrawn, removes_instance } => {
            fields!(to, "task": task.name());
            instance_ref(instance, to);
            fields!(to, "withdrawn": *withdrawn, "leaves": *removes_instance);
        }
        EventBody::AgentState { instance, state, attempt, reason, healthy_at, removes_instance, fails_at_resume } => {
            instance_ref(instance, to);
            fields!(to,
                "state": state.name(),
                "attempt": int(*attempt),
                "reason": reason,
                "leaves": *removes_instance,
                "healthy_at": healthy_at.map(int),
                "fails_at_resume": *fails_at_resume,
            );
        }
        EventBody::AgentHealthy { instance, progress } => {
            instance_ref(instance, to);
            self::progress(*progress, to);
        }
        EventBody::AgentUnhealthy { instance, reason, resumes_with, fails_at_resume } => {
            instance_ref(instance, to);
            fields!(to, "reason": reason, "fails_at_resume": *fails_at_resume, "reopens": resumes_with.is_some());
            progress(resumes_with.unwrap_or(Deadline::Off), to);
        }
        EventBody::AgentDraining { instance, outcome, sessions, deadline, by, reason } => {
            instance_ref(instance, to);
            fields!(to, "sessions": sessions.map(int));
            self::drain(*outcome, *deadline, to);
            fields!(to, "by": by, "reason": reason);
        }
        EventBody::AgentDrained { instance, sessions, forced, by, reason } => {
            instance_ref(instance, to);
            fields!(to, "sessions": sessions.map(int), "forced": *forced, "by": by, "reason": reason);
        }
        EventBody::AwaitingPromotion { healthy } => fields!(to, "healthy": int(*healthy)),
        EventBody::DeploymentPromoted { progress, by, reason, full } => {
            fields!(to, "by": by, "reason": reason);
            self::progress(*progress, to);
            fields!(to, "full": *full);
        }
        EventBody::BakeStarted { bake } => fields!(to, "bake_at": bake.at().map(int)),
        EventBody::DeploymentPaused { by, reason } => fields!(to, "by": by, "reason": reason),
        EventBody::DeploymentResumed { status, progress, by, reason } => {
            fields!(to, "status": status.name(), "by": by, "reason": reason);
            self::progress(*progress, to);
        }
        EventBody::DeploymentFailed { cause, description, by, reason }
        | EventBody::DeploymentCancelled { cause, description, by, reason } => fields!(to,
            "cause": cause.name(),
            "description": description,
            "by": by,
            "reason": reason,
        ),
        EventBody::DeploymentSuccessful { description, by, reason } => {
            fields!(to, "description": description, "by": by, "reason": reason);
        }
        EventBody::FallbackBlueGreen { agent, reason, job_id, changed, canaries } => fields!(to,
            "agent": agent,
            "reason": reason,
            "job_id": job_id,
            "changed_agents": &changed[..],
            "canaries": int(*canaries),
        ),
        EventBody::VersionTagged { tag, replaced, by } => {
            fields!(to, "tag": tag, "replaced_tag": replaced, "by": by, "reason": NONE);
        }
        EventBody::VersionUntagged { tag, by } => fields!(to, "tag": tag, "by": by, "reason": NONE),
        EventBody::ServiceRegistered { service, healthy_at } => {
            self::service(service, to);
            fields!(to, "healthy_at": healthy_at.map(int));
        }
        EventBody::ServiceStatus { instance, service, agent, status, reason, expires_at, healthy_at } => fields!(to,
            "service": service,
            "instance": instance,
            "agent": agent,
            "status": status.name(),
            "reason": reason,
            "expires_at": expires_at.map(int),
            "healthy_at": healthy_at.map(int),
        ),
        EventBody::ServiceDeregistered { instance, service, agent, reason, healthy_at } => fields!(to,
            "service": service,
            "instance": instance,
            "agent": agent,
            "reason": reason,
            "healthy_at": healthy_at.map(int),
        ),
    }
}

/// The value of a field that is null in every event of its type.
const NONE: Option<&str> = None;

/// Writes the fields of a new version and its deployment. Its number and the deployment's id are among the fields that
/// all events have.
fn new_deployment(new: &NewDeployment, to: &mut Fields) {
    let version = &new.version;
    fields!(to,
        "mode": new.mode.name(),
        "strategy": new.strategy.name(),
        "requested_strategy": new.requested_strategy.name(),
        "changed_agents": &new.changed[..],
        "reason": &version.reason,
        "by": &version.by,
        "rollback_of": version.rollback_of.map(int),
        "cause": new.cause.map(|cause| cause.name()),
        "source_version": new.source_version.map(int),
        "source_job_id": &new.source_job_id,
        "job_id": &version.job_id,
        "policy": version.policy,
        "bundle": &version.bundle,
        "tag": &version.tag,
        "gone_agents": &new.removed_agents[..],
        "canaries": int(new.canaries),
        "progress_at": new.progress.at().map(int),
        "mode_reason": &new.mode_reason,
        "trimmed_versions": new.trimmed.iter().map(|number| int(*number)).collect::<Vec<i64>>(),
        "progress_left_ms": new.progress.left_ms().map(int),
        "requested_job_id": &new.requested_job,
        "job_type": version.job_type.name(),
        "agents": version.agents.as_deref(),
        "stable": version.stable,
        "outcome": version.outcome.map(|outcome| outcome.name()),
        "submitted_at": int(version.submitted_at),
        "adopted_instances": new.adopted.iter().map(|adopted| (&*adopted.agent, int(adopted.version))).collect::<BTreeMap<_, _>>(),
    );
}

/// Writes what follows a drain, and when it ends at the latest.
fn drain(outcome: DrainOutcome, deadline: Deadline, to: &mut Fields) {
    let follow_up = match outcome {
        DrainOutcome::Stop => Some("stop"),
        DrainOutcome::Replace { .. } => Some("replace"),
        DrainOutcome::Open => None,
    };
    fields!(to,
        "successor_version": outcome.successor_version().map(int),
        "drain_at": deadline.at().map(int),
        "drain_left_ms": deadline.left_ms().map(int),
        "follow_up": follow_up,
    );
}

fn instance_ref(instance: &InstanceRef, to: &mut Fields) {
    fields!(to, "agent": &instance.agent, "node": &instance.node, "job_id": &instance.job_id, "role": instance.role.name());
}

fn service(service: &Service, to: &mut Fields) {
    fields!(to,
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
}

/// Writes the progress deadline: its time, or the ms that it has left while it is paused.
fn progress(deadline: Deadline, to: &mut Fields) {
    fields!(to, "progress_at": deadline.at().map(int), "progress_left_ms": deadline.left_ms().map(int));
}
