//! What happened, in the past tense: the one vocabulary that is applied, replicated, logged, published and tested (rule 5).
//! An event carries everything that `evolve` needs; nobody has to decide anything again.
use super::deployment::{Cause, Mode, Receipt, Status};
use super::instance::{InstanceState, Role, TaskKind};

use super::policy::Strategy;
use super::services::CheckStatus;
use super::services::Service;
use super::time::{Deadline, UnixMs};
use super::version::Version;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its sequence number: the record's revision after it.
    pub revision: u64,
    pub at: UnixMs,
    /// The deployment it belongs to; of tag and service events and of late reports, the key's latest.
    pub deployment_id: Arc<str>,
    pub version: u64,
    pub body: EventBody,
}

/// How a version came onto the record, and what its deployment sets out to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDeployment {
    /// Its manifest is left out of the log: DEPLOY.VERSION has it.
    pub version: Version,
    pub mode: Mode,
    pub strategy: Strategy,
    pub requested_strategy: Strategy,
    pub mode_reason: Arc<str>,
    /// Of a revert: what made the deployment before it fail.
    pub cause: Option<Cause>,
    pub source_version: Option<u64>,
    pub source_job_id: Option<Arc<str>>,
    pub requested_job: Option<Arc<str>>,
    pub changed: Arc<[Arc<str>]>,
    pub removed_agents: Arc<[Arc<str>]>,
    pub canaries: u32,
    pub progress: Deadline,
    /// Versions that left the history to make room.
    pub trimmed: Vec<u64>,
}

/// Which instance an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRef {
    pub agent: Arc<str>,
    pub node: Arc<str>,
    pub job_id: Arc<str>,
    pub role: Role,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventBody {
    DeploymentStarted(Box<NewDeployment>),
    /// A version with nothing to do: at once successful.
    DeploymentNoop(Box<NewDeployment>),
    /// A version of a batch job.
    VersionRecorded(Box<NewDeployment>),
    RollbackStarted {
        from_version: u64,
        rollback_of: u64,
        cause: Option<Cause>,
        by: Arc<str>,
        reason: Option<Arc<str>>,
    },
    TaskIssued {
        instance: InstanceRef,
        task: TaskKind,
        from_version: Option<u64>,
        attempt: u32,
        bundle: Option<Arc<str>>,
        /// The healthy deadline of what is started.
        deadline: Deadline,
        by: Arc<str>,
        reason: Option<Arc<str>>,
    },
    /// `withdrawn`: nobody has to do it any more. `leaves`: the instance leaves the record with it.
    TaskDone {
        instance: InstanceRef,
        task: TaskKind,
        withdrawn: bool,
        removes_instance: bool,
    },
    AgentState {
        instance: InstanceRef,
        state: AgentReport,
        attempt: u32,
        reason: Option<Arc<str>>,
        /// When it will be healthy, where all is well with it from now on.
        healthy_at: Option<UnixMs>,
        /// It leaves the record with this: stopped when told to, or replaced.
        removes_instance: bool,
        /// It would have failed the paused deployment.
        fails_at_resume: bool,
    },
    AgentHealthy {
        instance: InstanceRef,
        progress: Deadline,
    },
    /// `resumes_with`: a canary was lost, so the deployment runs again, with this progress deadline.
    AgentUnhealthy {
        instance: InstanceRef,
        reason: Arc<str>,
        resumes_with: Option<Deadline>,
        fails_at_resume: bool,
    },
    AwaitingPromotion {
        healthy: u32,
    },
    DeploymentPromoted {
        progress: Deadline,
        by: Arc<str>,
        reason: Option<Arc<str>>,
    },
    DeploymentPaused {
        by: Arc<str>,
        reason: Option<Arc<str>>,
    },
    DeploymentResumed {
        status: Status,
        progress: Deadline,
        by: Arc<str>,
        reason: Option<Arc<str>>,
    },
    DeploymentFailed {
        cause: Cause,
        description: Arc<str>,
        by: Arc<str>,
        reason: Option<Arc<str>>,
    },
    DeploymentCancelled {
        cause: Cause,
        description: Arc<str>,
        by: Arc<str>,
        reason: Option<Arc<str>>,
    },
    DeploymentSuccessful {
        description: Arc<str>,
    },
    FallbackBlueGreen {
        agent: Arc<str>,
        reason: Arc<str>,
        job_id: Arc<str>,
        changed: Arc<[Arc<str>]>,
        canaries: u32,
    },
    VersionTagged {
        tag: Arc<str>,
        replaced: Option<Arc<str>>,
        by: Arc<str>,
    },
    VersionUntagged {
        tag: Arc<str>,
        by: Arc<str>,
    },
    /// New, moved from another agent, or changed in more than its TTL.
    ServiceRegistered {
        service: Box<Service>,
        healthy_at: Option<UnixMs>,
    },
    ServiceStatus {
        instance: Arc<str>,
        service: Arc<str>,
        agent: Arc<str>,
        status: CheckStatus,
        reason: Option<Arc<str>>,
        expires_at: Option<UnixMs>,
        healthy_at: Option<UnixMs>,
    },
    ServiceDeregistered {
        instance: Arc<str>,
        service: Arc<str>,
        agent: Arc<str>,
        reason: Arc<str>,
        healthy_at: Option<UnixMs>,
    },
}

/// What an `agent_state` event says: a state of an instance, or an outcome that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentReport {
    State(InstanceState),
    Completed,
    Unsafe,
}

impl AgentReport {
    pub fn name(self) -> &'static str {
        match self {
            AgentReport::State(state) => state.name(),
            AgentReport::Completed => "completed",
            AgentReport::Unsafe => "unsafe",
        }
    }
}

impl EventBody {
    /// How a version came onto the record, where the event is about that.
    pub fn new_deployment(&self) -> Option<&NewDeployment> {
        match self {
            EventBody::DeploymentStarted(beginning)
            | EventBody::DeploymentNoop(beginning)
            | EventBody::VersionRecorded(beginning) => Some(beginning),
            _ => None,
        }
    }

    /// Whether it carries a manifest, which the log does without.
    pub fn has_manifest(&self) -> bool {
        self.new_deployment().is_some()
    }

    /// The event's type, as published.
    pub fn name(&self) -> &'static str {
        match self {
            EventBody::DeploymentStarted(_) => "deployment_started",
            EventBody::DeploymentNoop(_) => "deployment_noop",
            EventBody::VersionRecorded(_) => "version_recorded",
            EventBody::RollbackStarted { .. } => "rollback_started",
            EventBody::TaskIssued { .. } => "task_issued",
            EventBody::TaskDone { .. } => "task_done",
            EventBody::AgentState { .. } => "agent_state",
            EventBody::AgentHealthy { .. } => "agent_healthy",
            EventBody::AgentUnhealthy { .. } => "agent_unhealthy",
            EventBody::AwaitingPromotion { .. } => "awaiting_promotion",
            EventBody::DeploymentPromoted { .. } => "deployment_promoted",
            EventBody::DeploymentPaused { .. } => "deployment_paused",
            EventBody::DeploymentResumed { .. } => "deployment_resumed",
            EventBody::DeploymentFailed { .. } => "deployment_failed",
            EventBody::DeploymentCancelled { .. } => "deployment_cancelled",
            EventBody::DeploymentSuccessful { .. } => "deployment_successful",
            EventBody::FallbackBlueGreen { .. } => "fallback_blue_green",
            EventBody::VersionTagged { .. } => "version_tagged",
            EventBody::VersionUntagged { .. } => "version_untagged",
            EventBody::ServiceRegistered { .. } => "service_registered",
            EventBody::ServiceStatus { .. } => "service_status",
            EventBody::ServiceDeregistered { .. } => "service_deregistered",
        }
    }
}

/// A change that is replicated but is no event: it moves no revision and is not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SilentChange {
    /// A refresh that only moved a TTL (rule 8 "Services").
    ServiceRefreshed { instance: Arc<str>, expires_at: Option<UnixMs> },
    /// A `REQUEST` id and what it was answered.
    RequestRecorded { request: Arc<str>, receipt: Receipt },
}

/// What is applied to a record and replicated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Event(Arc<Event>),
    Silent(SilentChange),
}

/// One command's changes, whole: what DEPLOY.APPLY carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeSet {
    pub changes: Vec<Change>,
    /// How many events the log keeps after it: the primary's `deploy.events-max`.
    pub log_max: usize,
}
