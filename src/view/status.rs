//! The whole record without manifests (rule 7 STATUS), and its line in the listing.

use super::discovery::{services, ServiceView};
use super::events::{last_events, LoggedEvent};
use super::health::{description, HealthSummary};
use super::value::int;
use super::version::{history, VersionView};
use crate::engine::deadline::{next_due, Due};
use crate::engine::deployment::{Action, Deployment, Status};
use crate::engine::instance::{Health, Instance};
use crate::engine::policy::Policy;
use crate::engine::record::Record;
use crate::engine::Summary;
use serde::Serialize;
use std::borrow::Cow;
use std::sync::Arc;

/// The number of events that STATUS includes.
const EVENTS_SHOWN: usize = 10;

/// The reply of STATUS (rule 7.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusView<'a> {
    pub deployment_key: &'a str,
    pub deployment_id: &'a str,
    pub status: &'static str,
    pub cause: Option<&'static str>,
    pub description: String,
    pub mode: &'static str,
    /// The strategy in effect, which may be another than the requested one.
    pub strategy: &'static str,
    pub requested_strategy: &'static str,
    pub rollback_of: Option<i64>,
    /// The ACL user, or `auto` where a rule acted.
    pub by: &'a str,
    pub reason: Option<&'a str>,
    /// The version that the agents run, or that they are promoted to.
    pub current_version: Option<i64>,
    pub stable_version: Option<i64>,
    pub source_version: Option<i64>,
    pub target_version: i64,
    /// The version that ROLLBACK without an argument would take.
    pub rollback_target: Option<i64>,
    pub current_job_id: Option<&'a str>,
    pub source_job_id: Option<&'a str>,
    pub target_job_id: &'a str,
    /// The bundle of the target version.
    pub bundle: Option<&'a str>,
    pub policy: &'a Policy,
    pub deadlines: DeadlinesView,
    pub health: HealthSummary,
    /// By agent, version and job.
    pub instances: Vec<InstanceView<'a>>,
    /// By id.
    pub services: Vec<ServiceView<'a>>,
    /// Newest first.
    pub versions: Vec<VersionView<'a>>,
    /// The last 10, oldest first; each as it was published.
    pub events: Vec<LoggedEvent<'a>>,
    pub created_at: i64,
    /// The time of the record's last change.
    pub updated_at: i64,
    pub finished_at: Option<i64>,
    pub revision: i64,
    /// The reason for the mode.
    pub mode_reason: &'a str,
    /// The last operator command about this deployment.
    pub last_action: Option<ActionView<'a>>,
    /// In the order in which they go.
    pub changed_agents: &'a [Arc<str>],
    /// `baking`, or null.
    pub phase: Option<&'static str>,
}

/// The running deadlines, as times; a deadline that does not run is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadlinesView {
    /// The progress deadline of a running deployment.
    pub progress_at: Option<i64>,
    /// The earliest of all deadlines of the record.
    pub next_at: Option<i64>,
    /// Names that deadline: `agent-1 healthy`.
    pub next: Option<String>,
    /// The ms that a paused progress deadline has left.
    pub progress_left_ms: Option<i64>,
    /// The end of the bake.
    pub bake_at: Option<i64>,
}

/// One instance of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceView<'a> {
    pub agent: &'a str,
    pub node: &'a str,
    pub version: i64,
    pub job_id: &'a str,
    pub role: &'static str,
    /// `waiting` until the first report.
    pub state: &'static str,
    pub health: &'static str,
    pub attempt: i64,
    /// The time at which its last task was issued.
    pub task_at: i64,
    /// The time since which it has its state.
    pub since: i64,
    /// Of an unhealthy one, why it is so now; of any other, the reason of its last report.
    pub reason: Option<Cow<'a, str>>,
    /// The kind of its open task.
    pub task: Option<&'static str>,
    /// The time at which it becomes healthy if nothing changes.
    pub healthy_at: Option<i64>,
    /// The time by which it has to be healthy.
    pub healthy_deadline_at: Option<i64>,
    /// The number of sessions that it says it holds; null until it says one.
    pub sessions: Option<i64>,
    /// The time at which its drain ends at the latest.
    pub drain_at: Option<i64>,
    /// The newest version for which it counts (rule 11.6).
    pub until_version: i64,
}

/// An operator command that took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActionView<'a> {
    pub name: &'a str,
    /// The ACL user.
    pub by: &'a str,
    pub at: i64,
    pub reason: Option<&'a str>,
}

/// Returns the record's present deployment; None for a record without one, which no key holds.
pub fn status<'a>(record: &'a Record, key: &'a str) -> Option<StatusView<'a>> {
    let deployment = record.deployment.as_deref()?;
    let bundle = record.version(deployment.target_version).and_then(|version| version.bundle.as_deref());
    Some(StatusView {
        deployment_key: key,
        deployment_id: &deployment.id,
        status: deployment.status.name(),
        cause: deployment.cause.map(|cause| cause.name()),
        description: description(record),
        mode: deployment.mode.name(),
        strategy: deployment.strategy.name(),
        requested_strategy: deployment.requested_strategy.name(),
        rollback_of: deployment.rollback_of.map(int),
        by: &deployment.by,
        reason: deployment.reason.as_deref(),
        current_version: record.current_version.map(int),
        stable_version: record.stable_version().map(int),
        source_version: deployment.source_version.map(int),
        target_version: int(deployment.target_version),
        rollback_target: record.rollback_target().map(int),
        current_job_id: record.current_job_id.as_deref(),
        source_job_id: deployment.source_job_id.as_deref(),
        target_job_id: &deployment.target_job_id,
        bundle,
        policy: &deployment.policy,
        deadlines: deadlines(record, deployment),
        health: HealthSummary::of(record, deployment),
        instances: record.instances.iter().map(|i| instance(record, i)).collect(),
        services: services(record, key),
        versions: history(record, usize::MAX),
        events: last_events(record, key, EVENTS_SHOWN),
        created_at: int(deployment.created_at),
        updated_at: int(record.updated_at),
        finished_at: deployment.finished_at.map(int),
        revision: int(record.revision),
        mode_reason: &deployment.mode_reason,
        last_action: deployment.last_action.as_ref().map(action),
        changed_agents: &deployment.changed,
        phase: deployment.phase(),
    })
}

/// One entry of LIST (rule 7 LIST).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListEntry<'a> {
    pub deployment_key: &'a str,
    pub deployment_id: &'a str,
    pub status: &'static str,
    pub mode: &'static str,
    pub strategy: &'static str,
    pub current_version: Option<i64>,
    pub stable_version: Option<i64>,
    pub target_version: i64,
    /// The healthy instances of this deployment.
    pub healthy: i64,
    /// All of its changed agents.
    pub desired: i64,
    pub updated_at: i64,
    /// As in WAIT.
    pub cause: Option<&'static str>,
    /// The user who started the deployment.
    pub by: &'a str,
    pub reason: Option<&'a str>,
    /// `baking`, or null.
    pub phase: Option<&'static str>,
    /// Null: no deployment has an exposure yet.
    pub exposure: Option<i64>,
}

/// Returns the line of a record in the listing, from its summary and its deployment.
pub fn list_entry<'a>(summary: &'a Summary, deployment: &'a Deployment, key: &'a str) -> ListEntry<'a> {
    ListEntry {
        deployment_key: key,
        deployment_id: &summary.deployment_id,
        status: summary.status.name(),
        mode: summary.mode.name(),
        strategy: summary.strategy.name(),
        current_version: summary.current_version.map(int),
        stable_version: summary.stable_version.map(int),
        target_version: int(summary.target_version),
        healthy: int(summary.healthy),
        desired: int(summary.desired),
        updated_at: int(summary.updated_at),
        cause: deployment.shown_cause().map(|cause| cause.name()),
        by: &deployment.by,
        reason: deployment.reason.as_deref(),
        phase: deployment.phase(),
        exposure: None,
    }
}

fn deadlines(record: &Record, deployment: &Deployment) -> DeadlinesView {
    let is_running = deployment.status == Status::Running;
    let (next_at, next) = next_due(record).unzip();
    DeadlinesView {
        progress_at: deployment.progress.at().filter(|_| is_running).map(int),
        next_at: next_at.map(int),
        next: next.map(|due| due_name(&due)),
        progress_left_ms: deployment.progress.left_ms().map(int),
        bake_at: deployment.bake.at().filter(|_| is_running).map(int),
    }
}

fn due_name(due: &Due) -> String {
    match due {
        Due::Ttl(instance) => format!("service {instance} TTL"),
        Due::Healthy(key) => format!("{} healthy", key.agent),
        Due::HealthyDeadline(key) => format!("{} healthy deadline", key.agent),
        Due::Idle(key) => format!("{} drained", key.agent),
        Due::DrainDeadline(key) => format!("{} drain deadline", key.agent),
        Due::StandbyEnd(key) => format!("standby of {} ends", key.agent),
        Due::BakeEnd => "bake".to_string(),
        Due::ProgressDeadline => "progress deadline".to_string(),
    }
}

fn instance<'a>(record: &Record, instance: &'a Instance) -> InstanceView<'a> {
    let reason = match instance.health {
        Health::Unhealthy => Some(Cow::Owned(record.why_not_healthy(instance))),
        Health::Pending | Health::Healthy => instance.reason.as_deref().map(Cow::Borrowed),
    };
    InstanceView {
        agent: &instance.agent,
        node: &instance.node,
        version: int(instance.version),
        job_id: &instance.job_id,
        role: instance.role.name(),
        state: instance.state.name(),
        health: instance.health.name(),
        attempt: int(instance.attempt),
        task_at: int(instance.task_at),
        since: int(instance.since),
        reason,
        task: instance.task.as_ref().map(|task| task.kind.name()),
        healthy_at: instance.healthy_at.map(int),
        healthy_deadline_at: instance.deadline.at().map(int),
        sessions: instance.sessions.map(int),
        drain_at: instance.drain_at().map(int),
        until_version: int(record.until_version(instance)),
    }
}

fn action(action: &Action) -> ActionView<'_> {
    ActionView { name: &action.name, by: &action.by, at: int(action.at), reason: action.reason.as_deref() }
}
