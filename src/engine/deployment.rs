//! The record: everything that one key holds. Plain data with the questions that it can answer about itself;
//! what may change it is in `decide`, how it changes in `evolve`.

use super::command::CheckStatus;
use super::event_log::Log;
use super::health::{Health, InstanceState};
use super::version::Version;
use super::instances::{is_same, InstanceKey, Instances};
use super::policy::{HealthCheck, Policy, Strategy};
use super::services::{Service, Services};
use super::time::{Deadline, UnixMs};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// rule 4: the first three are active, the rest terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Running,
    AwaitingPromotion,
    Paused,
    Successful,
    Failed,
    Cancelled,
    VersionRecorded,
}

impl Status {
    pub const ALL: [Status; 7] = [
        Status::Running,
        Status::AwaitingPromotion,
        Status::Paused,
        Status::Successful,
        Status::Failed,
        Status::Cancelled,
        Status::VersionRecorded,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::AwaitingPromotion => "awaiting_promotion",
            Status::Paused => "paused",
            Status::Successful => "successful",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
            Status::VersionRecorded => "version_recorded",
        }
    }

    pub fn parse(text: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.name().eq_ignore_ascii_case(text))
    }

    pub fn is_active(self) -> bool {
        matches!(self, Status::Running | Status::AwaitingPromotion | Status::Paused)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Initial,
    InPlace,
    BlueGreen,
    Noop,
    VersionOnly,
    /// Of a reply alone: nothing was recorded (rule 4.2).
    Unchanged,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Initial => "initial",
            Mode::InPlace => "in_place",
            Mode::BlueGreen => "blue_green",
            Mode::Noop => "noop",
            Mode::VersionOnly => "version_only",
            Mode::Unchanged => "unchanged",
        }
    }
}

/// Why a deployment ended other than well, or why a revert began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    UnhealthyAgent,
    ProgressDeadline,
    AgentFailed,
    Operator,
    NewerVersion,
    Stopped,
}

impl Cause {
    pub fn name(self) -> &'static str {
        match self {
            Cause::UnhealthyAgent => "unhealthy_agent",
            Cause::ProgressDeadline => "progress_deadline",
            Cause::AgentFailed => "agent_failed",
            Cause::Operator => "operator",
            Cause::NewerVersion => "newer_version",
            Cause::Stopped => "stopped",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Primary,
    /// In place, not yet promoted.
    Canary,
    /// Blue-green, not yet promoted.
    Candidate,
    /// After a promotion, until it has stopped.
    Retired,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Canary => "canary",
            Role::Candidate => "candidate",
            Role::Retired => "retired",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskKind {
    Start,
    Replace,
    Stop,
    Run,
}

impl TaskKind {
    pub fn name(self) -> &'static str {
        match self {
            TaskKind::Start => "start",
            TaskKind::Replace => "replace",
            TaskKind::Stop => "stop",
            TaskKind::Run => "run",
        }
    }
}

/// What coordinators still have to do about an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub kind: TaskKind,
    /// Revision of the event that issued it: TASKS lists in this order.
    pub revision: u64,
    pub since: UnixMs,
}

/// One agent at one version in one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub agent: Arc<str>,
    pub node: Arc<str>,
    pub version: u64,
    pub job_id: Arc<str>,
    pub role: Role,
    pub state: InstanceState,
    pub health: Health,
    /// 0 until the first report, then 1, 2, 3 …
    pub attempt: u32,
    /// When its start, replace or run task was issued.
    pub task_at: UnixMs,
    /// When its state last changed.
    pub since: UnixMs,
    pub reason: Option<Arc<str>>,
    /// The version its task replaces; what it replaces leaves at its first report.
    pub from_version: Option<u64>,
    pub task: Option<Task>,
    /// It is well now, and healthy at this time unless something breaks before. None where it is not well, or judged healthy.
    pub healthy_at: Option<UnixMs>,
    /// `healthy_deadline_ms` from its task; off once it was judged (rule 8 "Unhealthy").
    pub deadline: Deadline,
    /// Judged healthy at least once: only the first time renews the progress deadline (rule 4.10).
    pub was_healthy: bool,
    /// Revision at which it came onto the record: an agent's newest instance is the one with the largest.
    pub created: u64,
}

impl Instance {
    pub fn key(&self) -> InstanceKey {
        InstanceKey { agent: self.agent.clone(), version: self.version, job_id: self.job_id.clone() }
    }

    pub(super) fn is_at(&self, key: &InstanceKey) -> bool {
        self.version == key.version && is_same(&self.agent, &key.agent) && is_same(&self.job_id, &key.job_id)
    }

    /// Takes back a change of its key, or of its place among the agent's instances.
    pub(super) fn restore_key(&mut self, before: &Instance) {
        self.version = before.version;
        self.created = before.created;
        if !Arc::ptr_eq(&self.agent, &before.agent) {
            self.agent = before.agent.clone();
        }
        if !Arc::ptr_eq(&self.job_id, &before.job_id) {
            self.job_id = before.job_id.clone();
        }
    }

    pub fn is_stopping(&self) -> bool {
        matches!(&self.task, Some(task) if task.kind == TaskKind::Stop)
    }

    /// Whether it counts as running (rule 4.1): told to stop it does not (rule 8 "Tasks").
    pub fn is_running(&self) -> bool {
        !self.is_stopping() && self.state.is_running()
    }
}

/// The last thing that an operator did to a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    pub name: Arc<str>,
    pub by: Arc<str>,
    pub at: UnixMs,
    pub reason: Option<Arc<str>>,
}

/// What would have failed a paused deployment, and fails it at resume (rule 4.13).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeferredFailure {
    pub cause: Cause,
    pub words: Arc<str>,
}

/// Which agent cannot be replaced in place, and why (rule 4.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsafeReport {
    pub agent: Arc<str>,
    pub words: Arc<str>,
}

/// One attempt to make a version the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    pub id: Arc<str>,
    pub status: Status,
    pub cause: Option<Cause>,
    /// How it ended, in words; while it is active the description is derived.
    pub ended: Option<Arc<str>>,
    pub mode: Mode,
    pub strategy: Strategy,
    pub requested_strategy: Strategy,
    /// Why the mode is what it is: `first version`, `topology changed: …`, …
    pub mode_reason: Arc<str>,
    /// The version whose content a rollback brings back.
    pub rollback_of: Option<u64>,
    pub by: Arc<str>,
    pub reason: Option<Arc<str>>,
    pub source_version: Option<u64>,
    pub source_job_id: Option<Arc<str>>,
    pub target_version: u64,
    pub target_job_id: Arc<str>,
    /// `JOB` of the command, for where a second job may still start (rule 4.6).
    pub requested_job: Option<Arc<str>>,
    pub policy: Policy,
    /// The agents that this deployment changes, in the order in which they go.
    pub changed: Arc<[Arc<str>]>,
    /// The agents that this deployment does without: they get `stop` at its end.
    pub removed_agents: Arc<[Arc<str>]>,
    /// How many of `changed` go first as canaries (in place), or whether promotion waits (blue-green: > 0).
    pub canaries: u32,
    pub promoted: bool,
    pub progress: Deadline,
    /// While paused: the status to which it resumes, unless something changed meanwhile.
    pub paused_from: Option<Status>,
    pub deferred_failure: Option<DeferredFailure>,
    /// A coordinator reported `unsafe`: the fallback to blue-green is due (at once, or at resume).
    pub unsafe_report: Option<UnsafeReport>,
    pub last_action: Option<Action>,
    pub created_at: UnixMs,
    pub finished_at: Option<UnixMs>,
}

/// The seven fields that a changing command replies (rule 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub deployment_key: Arc<str>,
    pub deployment_id: Arc<str>,
    pub version: u64,
    pub job_id: Arc<str>,
    pub status: Status,
    pub mode: Mode,
    pub revision: u64,
}

/// A remembered `REQUEST` id and what it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyEntry {
    pub request: Arc<str>,
    pub receipt: Receipt,
}

/// How many `REQUEST` ids a key remembers (rule 3).
pub const MAX_REQUEST_IDS: usize = 16;

/// Everything that one key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// +1 for each event.
    pub revision: u64,
    /// The newest version ever recorded; numbers are never reused, trimmed or not.
    pub last_version: u64,
    pub current_version: Option<u64>,
    pub current_job_id: Option<Arc<str>>,
    /// Ascending by number.
    pub versions: Arc<Vec<Arc<Version>>>,
    /// The latest one; None only before the first event.
    pub deployment: Option<Arc<Deployment>>,
    pub instances: Instances,
    pub services: Services,
    /// Oldest first.
    pub log: Log,
    /// Oldest first.
    pub requests: Arc<VecDeque<IdempotencyEntry>>,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
}

impl Default for Record {
    fn default() -> Record {
        Record::empty()
    }
}

impl Record {
    pub fn empty() -> Record {
        Record {
            revision: 0,
            last_version: 0,
            current_version: None,
            current_job_id: None,
            versions: Arc::default(),
            deployment: None,
            instances: Instances::default(),
            services: Services::default(),
            log: Log::default(),
            requests: Arc::default(),
            created_at: 0,
            updated_at: 0,
        }
    }

    pub fn version(&self, number: u64) -> Option<&Arc<Version>> {
        self.versions.binary_search_by_key(&number, |v| v.number).ok().map(|i| &self.versions[i])
    }

    /// The newest version with the `stable` flag.
    pub fn stable_version(&self) -> Option<u64> {
        self.versions.iter().rev().find(|v| v.stable).map(|v| v.number)
    }

    pub fn version_of_tag(&self, tag: &str) -> Option<&Arc<Version>> {
        self.versions.iter().find(|v| v.tag.as_deref() == Some(tag))
    }

    /// The version that ROLLBACK without an argument would take (rule 4.12).
    pub fn rollback_target(&self) -> Option<u64> {
        let last = self.deployment.as_ref()?.target_version;
        let after_batch = self.version(last).is_some_and(|v| v.job_type.is_batch());
        self.versions
            .iter()
            .rev()
            .find(|v| v.number != last && (v.stable || (after_batch && v.job_type.is_batch())))
            .map(|v| v.number)
    }

    pub fn is_active(&self) -> bool {
        self.deployment.as_ref().is_some_and(|d| d.status.is_active())
    }

    /// Whether an instance is this deployment's own: one that it started or replaced.
    pub fn is_own(&self, instance: &Instance) -> bool {
        self.deployment
            .as_ref()
            .is_some_and(|d| instance.version == d.target_version && is_same(&instance.job_id, &d.target_job_id))
    }

    /// The agents of a version with their nodes, in manifest order.
    pub fn agents_with_nodes(&self, number: u64) -> Vec<(Arc<str>, Arc<str>)> {
        self.version(number).map(|v| v.agents_with_nodes()).unwrap_or_default()
    }

    /// Whether the record knows an agent at all: an instance, or a place in a version that is kept.
    pub fn has_agent(&self, agent: &str) -> bool {
        !self.instances.of_agent(agent).is_empty() || self.versions.iter().any(|v| v.has_agent(agent))
    }

    /// What an agent now runs (rule 8): the old instance until the first report about the new one.
    /// Candidates and what was told to stop do not count; nor does a replacement that nobody has taken up.
    pub fn running_instance(&self, agent: &str) -> Option<&Instance> {
        self.running_instance_where(agent, |_| true)
    }

    /// What an agent now runs in a job, and that can be replaced there.
    pub fn running_instance_in(&self, agent: &str, job_id: &str) -> Option<&Instance> {
        self.running_instance_where(agent, |i| *i.job_id == *job_id && i.is_running())
    }

    fn running_instance_where(&self, agent: &str, pick: impl Fn(&Instance) -> bool) -> Option<&Instance> {
        let eligible = || {
            self.instances
                .of_agent(agent)
                .iter()
                .filter(|i| !i.is_stopping() && !matches!(i.role, Role::Candidate | Role::Retired) && pick(i))
        };
        eligible().rev().find(|i| i.state != InstanceState::Waiting).or_else(|| {
            eligible().rev().find(|i| matches!(&i.task, Some(t) if matches!(t.kind, TaskKind::Start | TaskKind::Run)))
        })
    }

    /// The status of a service instance's owner in the eyes of a caller: its role.
    pub fn role_of(&self, key: &InstanceKey) -> Option<Role> {
        self.instances.get(key).map(|i| i.role)
    }

    /// Whether all is well with an instance now, or why not (rule 4.9, `health_check`).
    pub fn check_health(&self, instance: &Instance) -> Result<(), String> {
        if instance.state != InstanceState::Ready {
            return Err(match (&instance.state, &instance.reason) {
                (InstanceState::Waiting, _) => "never ready: no report yet".to_string(),
                (state, Some(reason)) => format!("{}: {reason}", state.name()),
                (state, None) => format!("not ready: {}", state.name()),
            });
        }
        let faults = self.health_violations(instance, self.services.of_instance(instance));
        let words: Vec<String> = faults.map(|fault| fault.to_string()).collect();
        match words.is_empty() {
            true => Ok(()),
            false => Err(words.join(", ")),
        }
    }

    /// What is wrong with these service instances, were they those of an instance.
    pub(super) fn health_violations<'r>(
        &'r self,
        instance: &Instance,
        services: impl Iterator<Item = &'r Arc<Service>> + Clone + 'r,
    ) -> impl Iterator<Item = HealthViolation<'r>> {
        let checked = self.version(instance.version).filter(|v| v.policy.health_check != HealthCheck::AgentStates);
        let declared = checked.map(|v| v.content.services_of(&instance.node)).unwrap_or_default();
        let services = checked.map(|_| services).into_iter().flatten();
        let failing = services.clone().filter(|s| s.status != CheckStatus::Passing).map(|s| HealthViolation::Failing(s));
        let is_missing =
            move |name: &&Arc<str>| !services.clone().any(|s| s.service == **name && s.status == CheckStatus::Passing);
        failing.chain(declared.iter().filter(is_missing).map(HealthViolation::Missing))
    }
}

/// What can be wrong with an instance's services.
pub(super) enum HealthViolation<'r> {
    Failing(&'r Service),
    /// A declared service that no passing instance offers.
    Missing(&'r Arc<str>),
}

impl fmt::Display for HealthViolation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HealthViolation::Failing(Service { instance, status, reason: Some(reason), .. }) => {
                write!(f, "check of {instance} is {} ({reason})", status.name())
            }
            HealthViolation::Failing(Service { instance, status, .. }) => write!(f, "check of {instance} is {}", status.name()),
            HealthViolation::Missing(name) => write!(f, "service {name} has no passing instance"),
        }
    }
}
