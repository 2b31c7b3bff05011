//! The whole record, less manifest bodies (rule 7 STATUS), and its line in the listing.

use super::discovery::services;
use super::events::last_events;
use super::health::{description, HealthSummary};
use super::history::history;
use super::policy::policy;
use super::View;
use crate::engine::deadline::{next_due, Due};
use crate::engine::deployment::{Action, Deployment, Status};
use crate::engine::instance::Instance;
use crate::engine::record::Record;
use crate::engine::time::{Deadline, UnixMs};
use crate::engine::version::Version;
use crate::engine::Summary;

/// How many events STATUS shows.
const EVENTS_SHOWN: usize = 10;

/// DEPLOY.STATUS; null for a record to which nothing has happened yet, which no key holds.
///
/// The time is there for whoever asks at one, and changes nothing: deadlines are given as times, not as what is left.
pub fn status<'a>(record: &'a Record, key: &'a str, _now_ms: UnixMs) -> View<'a> {
    let Some(deployment) = &record.deployment else { return View::Null };
    let bundle = record.version(deployment.target_version).and_then(|version| version.bundle.as_ref());
    View::map([
        ("deployment_key", key.into()),
        ("deployment_id", (&deployment.id).into()),
        ("status", deployment.status.name().into()),
        ("cause", deployment.cause.map(|cause| cause.name()).into()),
        ("description", description(record).into()),
        ("mode", deployment.mode.name().into()),
        ("strategy", deployment.strategy.name().into()),
        ("requested_strategy", deployment.requested_strategy.name().into()),
        ("rollback_of", deployment.rollback_of.into()),
        ("by", (&deployment.by).into()),
        ("reason", (&deployment.reason).into()),
        ("current_version", record.current_version.into()),
        ("stable_version", record.stable_version().into()),
        ("source_version", deployment.source_version.into()),
        ("target_version", deployment.target_version.into()),
        ("rollback_target", record.rollback_target().into()),
        ("current_job_id", (&record.current_job_id).into()),
        ("source_job_id", (&deployment.source_job_id).into()),
        ("target_job_id", (&deployment.target_job_id).into()),
        ("bundle", bundle.into()),
        ("policy", policy(&deployment.policy)),
        ("deadlines", deadlines(record, deployment)),
        ("health", HealthSummary::of(record, deployment).view()),
        ("instances", View::list(record.instances.iter().map(instance))),
        ("services", services(record, key)),
        ("versions", history(record)),
        ("events", last_events(record, key, EVENTS_SHOWN)),
        ("created_at", deployment.created_at.into()),
        ("updated_at", record.updated_at.into()),
        ("finished_at", deployment.finished_at.into()),
        ("revision", record.revision.into()),
        ("mode_reason", (&deployment.mode_reason).into()),
        ("last_action", deployment.last_action.as_ref().map(action).into()),
        ("changed_agents", View::list(deployment.changed.iter())),
    ])
}

/// A deployment of the past, by its version, in the shape of STATUS: what is still known of it, the rest null
/// (rule 8 "WAIT"). None while it is not over.
pub fn final_status<'a>(record: &'a Record, key: &'a str, version: &'a Version) -> Option<View<'a>> {
    let status = version.outcome?.status(version.job_type.is_batch());
    let mut view = self::status(record, key, 0);
    let View::Map(fields) = &mut view else { return None };
    for (name, value) in fields.iter_mut() {
        *value = match *name {
            "deployment_key" | "current_version" | "stable_version" | "rollback_target" | "current_job_id"
            | "updated_at" | "revision" => continue,
            "deployment_id" => (&version.deployment_id).into(),
            "status" => status.name().into(),
            "description" => status.name().into(),
            "strategy" => version.strategy.name().into(),
            "rollback_of" => version.rollback_of.into(),
            "by" => (&version.by).into(),
            "reason" => (&version.reason).into(),
            "target_version" => version.number.into(),
            "target_job_id" => (&version.job_id).into(),
            "bundle" => (&version.bundle).into(),
            "policy" => policy(&version.policy),
            "created_at" => version.submitted_at.into(),
            "instances" | "services" | "versions" | "events" | "changed_agents" => View::List(Vec::new()),
            _ => View::Null,
        };
    }
    Some(view)
}

/// One line of DEPLOY.LIST.
pub fn list_entry<'a>(summary: &'a Summary, key: &'a str) -> View<'a> {
    View::map([
        ("deployment_key", key.into()),
        ("deployment_id", (&summary.deployment_id).into()),
        ("status", summary.status.name().into()),
        ("mode", summary.mode.name().into()),
        ("strategy", summary.strategy.name().into()),
        ("current_version", summary.current_version.into()),
        ("stable_version", summary.stable_version.into()),
        ("target_version", summary.target_version.into()),
        ("healthy", summary.healthy.into()),
        ("desired", summary.desired.into()),
        ("updated_at", summary.updated_at.into()),
    ])
}

/// What is due, as times; a deadline that does not run is null, and one that is held says what it has left.
fn deadlines(record: &Record, deployment: &Deployment) -> View<'static> {
    let runs = deployment.status == Status::Running;
    let left = match deployment.progress {
        Deadline::Paused { left_ms } => Some(left_ms),
        Deadline::Off | Deadline::Running { .. } => None,
    };
    let (next_at, next) = match next_due(record) {
        Some((at, due)) => (Some(at), Some(words(&due))),
        None => (None, None),
    };
    View::map([
        ("progress_at", deployment.progress.at().filter(|_| runs).into()),
        ("next_at", next_at.into()),
        ("next", next.into()),
        ("progress_left_ms", left.into()),
    ])
}

fn words(due: &Due) -> String {
    match due {
        Due::Ttl(instance) => format!("service {instance} TTL"),
        Due::Healthy(key) => format!("{} healthy", key.agent),
        Due::HealthyDeadline(key) => format!("{} healthy deadline", key.agent),
        Due::ProgressDeadline => "progress deadline".to_string(),
    }
}

fn instance(instance: &Instance) -> View<'_> {
    View::map([
        ("agent", (&instance.agent).into()),
        ("node", (&instance.node).into()),
        ("version", instance.version.into()),
        ("job_id", (&instance.job_id).into()),
        ("role", instance.role.name().into()),
        ("state", instance.state.name().into()),
        ("health", instance.health.name().into()),
        ("attempt", instance.attempt.into()),
        ("task_at", instance.task_at.into()),
        ("since", instance.since.into()),
        ("reason", (&instance.reason).into()),
        ("task", instance.task.as_ref().map(|task| task.kind.name()).into()),
        ("healthy_at", instance.healthy_at.into()),
        ("healthy_deadline_at", instance.deadline.at().into()),
    ])
}

fn action(action: &Action) -> View<'_> {
    View::map([
        ("name", (&action.name).into()),
        ("by", (&action.by).into()),
        ("at", action.at.into()),
        ("reason", (&action.reason).into()),
    ])
}
