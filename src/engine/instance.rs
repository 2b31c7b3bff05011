//! One agent at one version in one job: its identity, role, state, health and open task.

use super::names::named_enum;
use super::time::{Deadline, UnixMs};
use std::sync::Arc;

/// One agent at one version in one job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceKey {
    pub agent: Arc<str>,
    pub version: u64,
    pub job_id: Arc<str>,
}

/// Compares two texts. Most are shared, and are found equal by address.
pub(super) fn is_same(a: &Arc<str>, b: &Arc<str>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

named_enum! {
    pub enum Role {
        Primary = "primary",
        /// In place, not yet promoted.
        Canary = "canary",
        /// Blue-green, not yet promoted.
        Candidate = "candidate",
        /// After a promotion, until it has stopped.
        Retired = "retired",
    }
}

named_enum! {
    pub enum TaskKind {
        Start = "start",
        Replace = "replace",
        Stop = "stop",
        Run = "run",
    }
}

/// An open task of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub kind: TaskKind,
    /// The revision of the event that issued it: TASKS lists tasks in this order.
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
    /// 0 until the first report, then counted from 1.
    pub attempt: u32,
    /// The time at which its start, replace or run task was issued.
    pub task_at: UnixMs,
    /// The time of the last change of state.
    pub since: UnixMs,
    pub reason: Option<Arc<str>>,
    /// The version that its task replaces; the replaced instance is removed at the first report.
    pub from_version: Option<u64>,
    pub task: Option<Task>,
    /// The time at which it becomes healthy, unless something changes before. None where it has violations, or is
    /// healthy.
    pub healthy_at: Option<UnixMs>,
    /// `healthy_deadline_ms` from its task; off once it has a verdict (rule 8 "Unhealthy").
    pub deadline: Deadline,
    /// True once it was healthy: only the first time extends the progress deadline (rule 4.10).
    pub was_healthy: bool,
    /// The revision at which it was added: an agent's newest instance has the largest.
    pub created: u64,
}

impl Instance {
    pub fn key(&self) -> InstanceKey {
        InstanceKey { agent: self.agent.clone(), version: self.version, job_id: self.job_id.clone() }
    }

    pub(super) fn is_at(&self, key: &InstanceKey) -> bool {
        self.version == key.version && is_same(&self.agent, &key.agent) && is_same(&self.job_id, &key.job_id)
    }

    /// Restores its key and its age after a change.
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

    /// Returns true if it counts as running (rule 4.1); an instance that is stopping does not (rule 8 "Tasks").
    pub fn is_running(&self) -> bool {
        !self.is_stopping() && self.state.is_running()
    }
}

named_enum! {
    /// The reported state of an instance; `waiting` until the first report.
    pub enum InstanceState {
        Waiting = "waiting",
        Starting = "starting",
        Ready = "ready",
        Unready = "unready",
        Failed = "failed",
        Stopped = "stopped",
    }
}

impl InstanceState {
    pub fn is_running(self) -> bool {
        !matches!(self, InstanceState::Failed | InstanceState::Stopped)
    }
}

named_enum! {
    pub enum Health {
        Pending = "pending",
        Healthy = "healthy",
        Unhealthy = "unhealthy",
    }
}
