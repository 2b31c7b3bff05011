//! Events as they are published and logged (SPEC 5), and the log (SPEC 3 EVENTS).
//!
//! An event says everything that it carries, so that whoever applies the log in order has the record. The one thing
//! left out is a manifest's body: subscribers and MONITOR shall not carry a megabyte that DEPLOY.VERSION has.

use super::policy::policy;
use super::{Field, View};
use crate::engine::deployment::Record;
use crate::engine::event::{Beginning, Event, EventBody, Subject};
use crate::engine::services::Service;
use crate::engine::time::Clock;
use std::borrow::Cow;
use std::sync::Arc;

/// One event as a JSON object, as it is published on the key's channel.
pub fn event_json(event: &Event, key: &str) -> String {
    self::event(event, key).to_json()
}

/// One event: the fields that all have, then those of its type.
pub fn event<'a>(event: &'a Event, key: &'a str) -> View<'a> {
    // Room for the longest of those that are many.
    let mut fields = Vec::with_capacity(20);
    fields.extend([
        ("revision", View::from(event.revision)),
        ("at", event.at.into()),
        ("key", key.into()),
        ("deployment_id", (&event.deployment_id).into()),
        ("type", event.body.name().into()),
        ("version", event.version.into()),
    ]);
    fields.extend(body(event));
    View::Map(fields)
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

fn body(event: &Event) -> Vec<Field<'_>> {
    match &event.body {
        EventBody::DeploymentStarted(beginning)
        | EventBody::DeploymentNoop(beginning)
        | EventBody::VersionRecorded(beginning) => self::beginning(beginning),
        EventBody::RollbackStarted { from_version, rollback_of, cause, by, reason } => vec![
            ("from_version", (*from_version).into()),
            ("rollback_of", (*rollback_of).into()),
            ("cause", cause.map(|cause| cause.name()).into()),
            ("by", by.into()),
            ("reason", reason.into()),
        ],
        EventBody::TaskIssued { of, task, from_version, attempt, bundle, deadline, by, reason } => vec![
            ("task", task.name().into()),
            ("agent", (&of.agent).into()),
            ("node", (&of.node).into()),
            ("from_version", (*from_version).into()),
            ("job_id", (&of.job_id).into()),
            ("role", of.role.name().into()),
            ("attempt", (*attempt).into()),
            ("bundle", bundle.into()),
            ("since", event.at.into()),
            ("healthy_deadline_at", deadline.at().into()),
            ("healthy_deadline_left_ms", left(*deadline)),
            ("by", by.into()),
            ("reason", reason.into()),
        ],
        EventBody::TaskDone { of, task, withdrawn, leaves } => join(
            [("task", task.name().into())],
            join(subject(of), [("withdrawn", (*withdrawn).into()), ("leaves", (*leaves).into())]),
        ),
        EventBody::AgentState { of, state, attempt, reason, healthy_at, leaves, dooms } => join(
            subject(of),
            [
                ("state", state.name().into()),
                ("attempt", (*attempt).into()),
                ("reason", reason.into()),
                ("leaves", (*leaves).into()),
                ("healthy_at", (*healthy_at).into()),
                ("fails_at_resume", (*dooms).into()),
            ],
        ),
        EventBody::AgentHealthy { of, progress } => join(subject(of), self::progress(*progress)),
        EventBody::AgentUnhealthy { of, reason, reopens, dooms } => join(
            subject(of),
            join(
                [
                    ("reason", reason.into()),
                    ("fails_at_resume", (*dooms).into()),
                    ("reopens", reopens.is_some().into()),
                ],
                progress(reopens.unwrap_or(Clock::Off)),
            ),
        ),
        EventBody::AwaitingPromotion { healthy } => vec![("healthy", (*healthy).into())],
        EventBody::DeploymentPromoted { progress, by, reason } => {
            join([("by", by.into()), ("reason", reason.into())], self::progress(*progress))
        }
        EventBody::DeploymentPaused { by, reason } => vec![("by", by.into()), ("reason", reason.into())],
        EventBody::DeploymentResumed { status, progress, by, reason } => join(
            [("status", status.name().into()), ("by", by.into()), ("reason", reason.into())],
            self::progress(*progress),
        ),
        EventBody::DeploymentFailed { cause, description, by, reason }
        | EventBody::DeploymentCancelled { cause, description, by, reason } => vec![
            ("cause", cause.name().into()),
            ("description", description.into()),
            ("by", by.into()),
            ("reason", reason.into()),
        ],
        EventBody::DeploymentSuccessful { description } => vec![("description", description.into())],
        EventBody::FallbackBlueGreen { agent, reason, job_id, changed, canaries } => vec![
            ("agent", agent.into()),
            ("reason", reason.into()),
            ("job_id", job_id.into()),
            ("changed_agents", View::list(changed.iter())),
            ("canaries", (*canaries).into()),
        ],
        EventBody::VersionTagged { tag, replaced, by } => vec![
            ("tag", tag.into()),
            ("replaced_tag", replaced.into()),
            ("by", by.into()),
            ("reason", View::Null),
        ],
        EventBody::VersionUntagged { tag, by } => {
            vec![("tag", tag.into()), ("by", by.into()), ("reason", View::Null)]
        }
        EventBody::ServiceRegistered { service, healthy_at } => {
            join(self::service(service), [("healthy_at", (*healthy_at).into())])
        }
        EventBody::ServiceStatus { instance, service, agent, status, reason, expires_at, healthy_at } => vec![
            ("service", service.into()),
            ("instance", instance.into()),
            ("agent", agent.into()),
            ("status", status.name().into()),
            ("reason", reason.into()),
            ("expires_at", (*expires_at).into()),
            ("healthy_at", (*healthy_at).into()),
        ],
        EventBody::ServiceDeregistered { instance, service, agent, reason, healthy_at } => vec![
            ("service", service.into()),
            ("instance", instance.into()),
            ("agent", agent.into()),
            ("reason", reason.into()),
            ("healthy_at", (*healthy_at).into()),
        ],
    }
}

/// A version's coming onto the record. Its number and its deployment's id are among the fields that all events have.
fn beginning(beginning: &Beginning) -> Vec<Field<'_>> {
    let version = &beginning.version;
    vec![
        ("mode", beginning.mode.name().into()),
        ("strategy", beginning.strategy.name().into()),
        ("requested_strategy", beginning.requested_strategy.name().into()),
        ("changed_agents", View::list(beginning.changed.iter())),
        ("reason", (&version.reason).into()),
        ("by", (&version.by).into()),
        ("rollback_of", version.rollback_of.into()),
        ("cause", beginning.cause.map(|cause| cause.name()).into()),
        ("source_version", beginning.source_version.into()),
        ("source_job_id", (&beginning.source_job_id).into()),
        ("job_id", (&version.job_id).into()),
        ("policy", policy(&version.policy)),
        ("bundle", (&version.bundle).into()),
        ("tag", (&version.tag).into()),
        ("gone_agents", View::list(beginning.gone.iter())),
        ("canaries", beginning.canaries.into()),
        ("progress_at", beginning.progress.at().into()),
        ("mode_reason", (&beginning.mode_reason).into()),
        ("trimmed_versions", View::list(beginning.trimmed.iter().copied())),
        ("progress_left_ms", left(beginning.progress)),
        ("requested_job_id", (&beginning.requested_job).into()),
        ("job_type", version.job_type.name().into()),
        ("agents", version.agents.as_deref().map(View::list).into()),
        ("stable", version.stable.into()),
        ("outcome", version.outcome.map(|outcome| outcome.name()).into()),
        ("submitted_at", version.submitted_at.into()),
    ]
}

fn subject(of: &Subject) -> [Field<'_>; 4] {
    [
        ("agent", (&of.agent).into()),
        ("node", (&of.node).into()),
        ("job_id", (&of.job_id).into()),
        ("role", of.role.name().into()),
    ]
}

fn service(service: &Service) -> [Field<'_>; 13] {
    [
        ("service", (&service.service).into()),
        ("instance", (&service.instance).into()),
        ("agent", (&service.owner.agent).into()),
        ("job_id", (&service.owner.job_id).into()),
        ("address", (&service.address).into()),
        ("port", service.port.into()),
        ("status", service.status.name().into()),
        ("tags", View::list(service.tags.iter())),
        ("meta", View::raw(service.meta.as_deref())),
        ("ttl_ms", service.ttl_ms.into()),
        ("since", service.since.into()),
        ("reason", (&service.reason).into()),
        ("expires_at", service.expires_at.into()),
    ]
}

/// The progress deadline: when it runs out, or what it has left while it is held.
fn progress(clock: Clock) -> [Field<'static>; 2] {
    [("progress_at", clock.at().into()), ("progress_left_ms", left(clock))]
}

fn left(clock: Clock) -> View<'static> {
    match clock {
        Clock::Held { left_ms } => left_ms.into(),
        Clock::Off | Clock::Running { .. } => View::Null,
    }
}

fn join<'a>(
    first: impl IntoIterator<Item = Field<'a>>,
    then: impl IntoIterator<Item = Field<'a>>,
) -> Vec<Field<'a>> {
    first.into_iter().chain(then).collect()
}
