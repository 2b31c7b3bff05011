//! One agent at one version in one job: its identity, role, state, health and open task.

use super::time::{Deadline, UnixMs};
use std::sync::Arc;

/// One agent at one version in one job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceKey {
    pub agent: Arc<str>,
    pub version: u64,
    pub job_id: Arc<str>,
}

/// Whether two texts are equal. Most that are compared here are one and the same, which shows without reading them.
pub(super) fn is_same(a: &Arc<str>, b: &Arc<str>) -> bool {
    Arc::ptr_eq(a, b) || a == b
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

/// What is known of an instance from reports; `waiting` until the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstanceState {
    Waiting,
    Starting,
    Ready,
    Unready,
    Failed,
    Stopped,
}

impl InstanceState {
    pub const ALL: [InstanceState; 6] = [
        InstanceState::Waiting,
        InstanceState::Starting,
        InstanceState::Ready,
        InstanceState::Unready,
        InstanceState::Failed,
        InstanceState::Stopped,
    ];

    pub fn name(self) -> &'static str {
        match self {
            InstanceState::Waiting => "waiting",
            InstanceState::Starting => "starting",
            InstanceState::Ready => "ready",
            InstanceState::Unready => "unready",
            InstanceState::Failed => "failed",
            InstanceState::Stopped => "stopped",
        }
    }

    pub fn is_running(self) -> bool {
        !matches!(self, InstanceState::Failed | InstanceState::Stopped)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    Pending,
    Healthy,
    Unhealthy,
}

impl Health {
    pub fn name(self) -> &'static str {
        match self {
            Health::Pending => "pending",
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
        }
    }
}
