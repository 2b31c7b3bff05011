//! Events as they are published and logged (rule 5), and the log (rule 3 EVENTS).
//!
//! An event says everything that it carries, so that whoever applies the log in order has the record. The one thing
//! left out is a manifest's body: subscribers and MONITOR shall not carry a megabyte that DEPLOY.VERSION has.

use super::json::{fields, Json, Judged, Word};
use super::policy::policy;
use super::View;
use crate::engine::event::{Event, EventBody, InstanceRef, NewDeployment};
use crate::engine::record::Record;
use crate::engine::services::Service;
use crate::engine::time::Deadline;
use std::borrow::Cow;
use std::sync::Arc;

/// One event as a JSON object, as it is published on the key's channel.
pub fn event_json(event: &Event, key: &str) -> String {
    // Room for what most events are.
    let mut out = String::with_capacity(512);
    put_event_json(event, key, &mut out);
    out
}

/// The same at the end of a text. First the fields that all events have, then those of its type.
///
/// One is written for nearly every report, so no tree of values is made of it before.
pub fn put_event_json(event: &Event, key: &str, out: &mut String) {
    Json::append(out, |json| {
        json.object(|json| {
            fields!(json,
                "revision": event.revision,
                "at": event.at,
                "key": key,
                "deployment_id": &event.deployment_id,
                "type": Word(event.body.name()),
                "version": event.version,
            );
            body(event, json);
        });
    });
}

/// `[first-kept-revision, last-revision, [event …]]`, oldest first: those after `after`, at most `count`. An empty
/// log starts at last + 1: whoever is up to date is never told to start over.
pub fn events<'a>(record: &'a Record, key: &str, after: Option<u64>, count: Option<usize>) -> View<'a> {
    let first = record.log.first_revision().unwrap_or(record.revision.saturating_add(1));
    let wanted = record.log.after(after.unwrap_or(0)).take(count.unwrap_or(usize::MAX));
    View::List(vec![first.into(), record.revision.into(), json_texts(wanted, key)])
}

/// The newest `count` events, oldest first.
pub(super) fn last_events<'a>(record: &'a Record, key: &str, count: usize) -> View<'a> {
    json_texts(record.log.newest(count), key)
}

fn json_texts<'a>(events: impl Iterator<Item = Arc<Event>>, key: &str) -> View<'a> {
    View::List(events.map(|event| View::Raw(Cow::Owned(event_json(&event, key)))).collect())
}

fn body(event: &Event, json: &mut Json) {
    match &event.body {
        EventBody::DeploymentStarted(beginning)
        | EventBody::DeploymentNoop(beginning)
        | EventBody::VersionRecorded(beginning) => self::new_deployment(beginning, json),
        EventBody::RollbackStarted { from_version, rollback_of, cause, by, reason } => fields!(json,
            "from_version": *from_version,
            "rollback_of": *rollback_of,
            "cause": cause.map(|cause| Word(cause.name())),
            "by": by,
            "reason": reason,
        ),
        EventBody::TaskIssued { instance, task, from_version, attempt, bundle, deadline, by, reason } => fields!(json,
            "task": Word(task.name()),
            "agent": &instance.agent,
            "node": &instance.node,
            "from_version": *from_version,
            "job_id": &instance.job_id,
            "role": Word(instance.role.name()),
            "attempt": *attempt,
            "bundle": bundle,
            "since": event.at,
            "healthy_deadline_at": deadline.at(),
            "healthy_deadline_left_ms": left(*deadline),
            "by": by,
            "reason": reason,
        ),
        EventBody::TaskDone { instance, task, withdrawn, removes_instance } => {
            fields!(json, "task": Word(task.name()));
            instance_ref(instance, json);
            fields!(json, "withdrawn": *withdrawn, "leaves": *removes_instance);
        }
        EventBody::AgentState { instance, state, attempt, reason, healthy_at, removes_instance, fails_at_resume } => {
            instance_ref(instance, json);
            fields!(json,
                "state": Word(state.name()),
                "attempt": *attempt,
                "reason": reason,
                "leaves": *removes_instance,
                "healthy_at": *healthy_at,
                "fails_at_resume": *fails_at_resume,
            );
        }
        EventBody::AgentHealthy { instance, progress } => {
            instance_ref(instance, json);
            self::progress(*progress, json);
        }
        EventBody::AgentUnhealthy { instance, reason, resumes_with, fails_at_resume } => {
            instance_ref(instance, json);
            fields!(json, "reason": reason, "fails_at_resume": *fails_at_resume, "reopens": resumes_with.is_some());
            progress(resumes_with.unwrap_or(Deadline::Off), json);
        }
        EventBody::AwaitingPromotion { healthy } => fields!(json, "healthy": *healthy),
        EventBody::DeploymentPromoted { progress, by, reason } => {
            fields!(json, "by": by, "reason": reason);
            self::progress(*progress, json);
        }
        EventBody::DeploymentPaused { by, reason } => fields!(json, "by": by, "reason": reason),
        EventBody::DeploymentResumed { status, progress, by, reason } => {
            fields!(json, "status": Word(status.name()), "by": by, "reason": reason);
            self::progress(*progress, json);
        }
        EventBody::DeploymentFailed { cause, description, by, reason }
        | EventBody::DeploymentCancelled { cause, description, by, reason } => fields!(json,
            "cause": Word(cause.name()),
            "description": description,
            "by": by,
            "reason": reason,
        ),
        EventBody::DeploymentSuccessful { description } => fields!(json, "description": description),
        EventBody::FallbackBlueGreen { agent, reason, job_id, changed, canaries } => fields!(json,
            "agent": agent,
            "reason": reason,
            "job_id": job_id,
            "changed_agents": &changed[..],
            "canaries": *canaries,
        ),
        EventBody::VersionTagged { tag, replaced, by } => {
            fields!(json, "tag": tag, "replaced_tag": replaced, "by": by, "reason": NONE);
        }
        EventBody::VersionUntagged { tag, by } => fields!(json, "tag": tag, "by": by, "reason": NONE),
        EventBody::ServiceRegistered { service, healthy_at } => {
            self::service(service, json);
            fields!(json, "healthy_at": *healthy_at);
        }
        EventBody::ServiceStatus { instance, service, agent, status, reason, expires_at, healthy_at } => fields!(json,
            "service": service,
            "instance": instance,
            "agent": agent,
            "status": Word(status.name()),
            "reason": reason,
            "expires_at": *expires_at,
            "healthy_at": *healthy_at,
        ),
        EventBody::ServiceDeregistered { instance, service, agent, reason, healthy_at } => fields!(json,
            "service": service,
            "instance": instance,
            "agent": agent,
            "reason": reason,
            "healthy_at": *healthy_at,
        ),
    }
}

/// A field of the contract that no event of its type has something for.
const NONE: Option<Word> = None;

/// A version's coming onto the record. Its number and its deployment's id are among the fields that all events have.
fn new_deployment(beginning: &NewDeployment, json: &mut Json) {
    let version = &beginning.version;
    fields!(json,
        "mode": Word(beginning.mode.name()),
        "strategy": Word(beginning.strategy.name()),
        "requested_strategy": Word(beginning.requested_strategy.name()),
        "changed_agents": &beginning.changed[..],
        "reason": &version.reason,
        "by": &version.by,
        "rollback_of": version.rollback_of,
        "cause": beginning.cause.map(|cause| Word(cause.name())),
        "source_version": beginning.source_version,
        "source_job_id": &beginning.source_job_id,
        "job_id": &version.job_id,
        "policy": &policy(&version.policy),
        "bundle": &version.bundle,
        "tag": &version.tag,
        "gone_agents": &beginning.removed_agents[..],
        "canaries": beginning.canaries,
        "progress_at": beginning.progress.at(),
        "mode_reason": &beginning.mode_reason,
        "trimmed_versions": &beginning.trimmed[..],
        "progress_left_ms": left(beginning.progress),
        "requested_job_id": &beginning.requested_job,
        "job_type": Word(version.job_type.name()),
        "agents": version.agents.as_deref(),
        "stable": version.stable,
        "outcome": version.outcome.map(|outcome| Word(outcome.name())),
        "submitted_at": version.submitted_at,
    );
}

fn instance_ref(instance: &InstanceRef, json: &mut Json) {
    fields!(json, "agent": &instance.agent, "node": &instance.node, "job_id": &instance.job_id, "role": Word(instance.role.name()));
}

fn service(service: &Service, json: &mut Json) {
    fields!(json,
        "service": &service.service,
        "instance": &service.instance,
        "agent": &service.owner.agent,
        "job_id": &service.owner.job_id,
        "address": &service.address,
        "port": service.port,
        "status": Word(service.status.name()),
        "tags": &service.tags[..],
        "meta": service.meta.as_deref().map(Judged),
        "ttl_ms": service.ttl_ms,
        "since": service.since,
        "reason": &service.reason,
        "expires_at": service.expires_at,
    );
}

/// The progress deadline: when it runs out, or what it has left while it is held.
fn progress(clock: Deadline, json: &mut Json) {
    fields!(json, "progress_at": clock.at(), "progress_left_ms": left(clock));
}

fn left(clock: Deadline) -> Option<u64> {
    match clock {
        Deadline::Paused { left_ms } => Some(left_ms),
        Deadline::Off | Deadline::Running { .. } => None,
    }
}
