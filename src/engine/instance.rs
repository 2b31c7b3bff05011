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
        /// After a promotion or a drain, until it has stopped.
        Retired = "retired",
        /// It finishes its sessions before it is replaced or stopped (rule 10).
        Draining = "draining",
        /// Of the old side, while the new one bakes: it takes no new sessions, and can take over again at once (rule
        /// 12.3).
        Standby = "standby",
    }
}

named_enum! {
    pub enum TaskKind {
        Start = "start",
        Replace = "replace",
        Stop = "stop",
        Run = "run",
        Drain = "drain",
    }
}

impl TaskKind {
    /// Returns true for a task that starts an instance.
    pub fn is_start(self) -> bool {
        matches!(self, TaskKind::Start | TaskKind::Replace)
    }
}

/// The progress of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainPhase {
    /// No coordinator has reported about it yet.
    Issued,
    TakenUp,
    /// It has ended, and what follows it is still to be issued.
    Ended,
    /// It has ended, and the task of its successor is issued.
    Succeeded,
}

/// The consequence of a drain, decided when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainOutcome {
    Stop,
    /// The agent's instance of this version replaces it.
    Replace {
        version: u64,
    },
    /// Its deployment has ended: what then holds decides (rule 10.8).
    Open,
}

impl DrainOutcome {
    /// Returns the version whose instance follows; None if nothing does, or that is not decided.
    pub fn successor_version(self) -> Option<u64> {
        match self {
            DrainOutcome::Replace { version } => Some(version),
            DrainOutcome::Stop | DrainOutcome::Open => None,
        }
    }
}

/// A drain: the instance takes no new sessions, and finishes those that it holds (rule 10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    pub phase: DrainPhase,
    pub outcome: DrainOutcome,
    /// The role that the instance had before, and gets back if the drain is withdrawn.
    pub role: Role,
    /// `drain_ms` from its task: it ends then, whatever sessions are left.
    pub deadline: Deadline,
    /// `min_healthy_ms` at its task: without a session for so long, it ends.
    pub idle_ms: u64,
    /// The end of that time; off while it holds sessions, was not taken up or never said a number.
    pub idle: Deadline,
}

impl Drain {
    /// Returns the end of the time without a session that begins now. It is held as long as the drain is.
    pub fn idle_after(&self, now: UnixMs) -> Deadline {
        match self.deadline {
            Deadline::Paused { .. } => Deadline::Paused { left_ms: self.idle_ms },
            _ => Deadline::Running { at: now.saturating_add(self.idle_ms) },
        }
    }

    /// Returns true until its end.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, DrainPhase::Issued | DrainPhase::TakenUp)
    }

    /// Returns the version whose instance is still to be issued when the drain ends.
    pub fn awaited_version(&self) -> Option<u64> {
        self.outcome.successor_version().filter(|_| self.phase != DrainPhase::Succeeded)
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
    /// The number of sessions that its present attempt holds; None until it says one (rule 10.3).
    pub sessions: Option<u32>,
    pub drain: Option<Box<Drain>>,
    /// Of a standby: the time at which it is not needed any more. None while its successor bakes.
    pub standby_until: Option<UnixMs>,
    /// The version of the rollback that has adopted it (rule 12.5).
    pub adopted_for: Option<u64>,
    /// The versions above its own that it does not count for, ascending (rule 11.6).
    pub not_counted_for: Box<[u64]>,
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

    /// Returns the version whose deployment it belongs to: the one that it runs, or the one that has adopted it.
    pub fn deployed_version(&self) -> u64 {
        self.adopted_for.unwrap_or(self.version)
    }

    pub fn is_stopping(&self) -> bool {
        matches!(&self.task, Some(task) if task.kind == TaskKind::Stop)
    }

    /// Returns true if it counts as running (rule 4.1). An instance that is stopping does not (rule 8 "Tasks"), nor one
    /// that drains for a stop (rule 10.10).
    pub fn is_running(&self) -> bool {
        !self.is_leaving() && self.state.is_running()
    }

    /// Returns true if it is stopping, or drains to be stopped.
    pub fn is_leaving(&self) -> bool {
        self.is_stopping() || self.drain.as_ref().is_some_and(|drain| drain.outcome == DrainOutcome::Stop)
    }

    /// Returns its role, and while it drains for anything but a stop, the one that it had before.
    pub fn lasting_role(&self) -> Role {
        match &self.drain {
            Some(drain) if drain.outcome != DrainOutcome::Stop => drain.role,
            _ => self.role,
        }
    }

    /// Returns true if it could take over again: it runs, and is not told to stop.
    pub fn can_stand_by(&self) -> bool {
        self.state.is_up() && self.task.is_none()
    }

    /// Returns true for one that a rollback may adopt: healthy, and on standby or in a drain that nobody has taken up
    /// (rule 12.5).
    pub fn can_be_adopted(&self) -> bool {
        let is_at_rest = match &self.drain {
            Some(drain) => drain.phase == DrainPhase::Issued,
            None => self.role == Role::Standby,
        };
        is_at_rest && self.health == Health::Healthy
    }

    /// Returns true if its drain has not ended.
    pub fn has_open_drain(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.is_open())
    }

    /// Returns the time at which its drain ends at the latest; None where that is held, or none is open.
    pub fn drain_at(&self) -> Option<UnixMs> {
        self.drain.as_ref().and_then(|drain| drain.deadline.at())
    }

    /// Returns the version whose instance is still to be issued when its drain ends.
    pub fn awaited_version(&self) -> Option<u64> {
        self.drain.as_ref().and_then(|drain| drain.awaited_version())
    }

    /// Returns true if its drain has ended, and what follows is still to be issued.
    pub fn is_drained(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.phase == DrainPhase::Ended)
    }

    /// Returns true if a task has announced its next attempt, which nobody has taken up.
    pub fn is_to_restart(&self) -> bool {
        self.state == InstanceState::Waiting && self.attempt > 0 && !self.is_stopping()
    }

    /// Returns true if a failed or cancelled deployment has left it without a task before any report: the next version
    /// removes it.
    pub fn is_withdrawn(&self) -> bool {
        self.state == InstanceState::Waiting && self.task.is_none() && self.drain.is_none()
    }

    /// Returns true if it counts for a version: it runs that one, or the plan of that one left it unchanged (rule
    /// 11.6).
    pub fn counts_for(&self, version: u64) -> bool {
        version >= self.version && self.not_counted_for.binary_search(&version).is_err()
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

    /// Returns true if a coordinator has reported that it runs: it may hold sessions.
    pub fn is_up(self) -> bool {
        matches!(self, InstanceState::Starting | InstanceState::Ready | InstanceState::Unready)
    }
}

named_enum! {
    pub enum Health {
        Pending = "pending",
        Healthy = "healthy",
        Unhealthy = "unhealthy",
    }
}
