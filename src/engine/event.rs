//! Events: what happened, in the past tense. The one vocabulary that is applied, replicated, logged, published and
//! tested (rule 5). An event carries everything that `evolve` needs, so that nothing has to be decided again.

use super::deployment::{Cause, Mode, Receipt, Status};
use super::instance::{DrainOutcome, InstanceKey, InstanceState, Role, TaskKind};
use super::policy::Strategy;
use super::services::{CheckStatus, Service};
use super::time::{Deadline, UnixMs};
use super::version::Version;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The sequence number: the record's revision after the event.
    pub revision: u64,
    pub at: UnixMs,
    /// The deployment of the event; for tag and service events and late reports, the key's latest.
    pub deployment_id: Arc<str>,
    pub version: u64,
    pub body: EventBody,
}

/// A version that was recorded, and the plan of its deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDeployment {
    /// In the log without its manifest, which DEPLOY.VERSION replies.
    pub version: Version,
    pub mode: Mode,
    pub strategy: Strategy,
    pub requested_strategy: Strategy,
    pub mode_reason: Arc<str>,
    /// Of a revert: the cause of the failure before it.
    pub cause: Option<Cause>,
    pub source_version: Option<u64>,
    pub source_job_id: Option<Arc<str>>,
    pub requested_job: Option<Arc<str>>,
    pub changed: Arc<[Arc<str>]>,
    /// The agents whose instance of an older version takes over again, with that version (rule 12.5).
    pub adopted: Vec<Adopted>,
    pub removed_agents: Arc<[Arc<str>]>,
    pub canaries: u32,
    pub progress: Deadline,
    /// Versions that were trimmed from the history.
    pub trimmed: Vec<u64>,
}

/// An instance of the target's job that takes over again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    pub agent: Arc<str>,
    /// The version that it runs.
    pub version: u64,
}

impl Adopted {
    /// Returns its key in the target's job.
    pub fn key(&self, job_id: &Arc<str>) -> InstanceKey {
        InstanceKey { agent: self.agent.clone(), version: self.version, job_id: job_id.clone() }
    }
}

/// A reference to the instance that an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRef {
    pub agent: Arc<str>,
    pub node: Arc<str>,
    pub job_id: Arc<str>,
    pub role: Role,
}

/// A drain that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDrain {
    pub outcome: DrainOutcome,
    /// `drain_ms` from now.
    pub deadline: Deadline,
    /// `min_healthy_ms`.
    pub idle_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventBody {
    DeploymentStarted(Box<NewDeployment>),
    /// A version that changes nothing, and is successful at once.
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
        /// The healthy deadline of a start or replace task.
        deadline: Deadline,
        by: Arc<str>,
        reason: Option<Arc<str>>,
        /// Of a drain task.
        drain: Option<NewDrain>,
    },
    /// `withdrawn`: the task need not be done any more. `removes_instance`: the instance is removed with it.
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
        /// The time at which the instance becomes healthy, unless something changes before.
        healthy_at: Option<UnixMs>,
        /// The instance is removed: it stopped as requested, or was replaced.
        removes_instance: bool,
        /// The report fails the paused deployment when it resumes.
        fails_at_resume: bool,
    },
    AgentHealthy {
        instance: InstanceRef,
        progress: Deadline,
    },
    /// `resumes_with`: a canary was lost, so the deployment returns to running, with this progress deadline; or the bake
    /// stops, and the progress deadline runs instead.
    AgentUnhealthy {
        instance: InstanceRef,
        reason: Arc<str>,
        resumes_with: Option<Deadline>,
        fails_at_resume: bool,
    },
    /// A drain was taken up, or its end or its outcome was changed.
    AgentDraining {
        instance: InstanceRef,
        outcome: DrainOutcome,
        sessions: Option<u32>,
        deadline: Deadline,
        by: Arc<str>,
        reason: Option<Arc<str>>,
    },
    /// A drain has ended. `forced`: not by the instance, but by its deadline or an operator.
    AgentDrained {
        instance: InstanceRef,
        sessions: Option<u32>,
        forced: bool,
        by: Arc<str>,
        reason: Option<Arc<str>>,
    },
    AwaitingPromotion {
        healthy: u32,
    },
    /// `full`: without a bake.
    DeploymentPromoted {
        progress: Deadline,
        by: Arc<str>,
        reason: Option<Arc<str>>,
        full: bool,
    },
    /// The target serves everything; the bake starts, or restarts.
    BakeStarted {
        bake: Deadline,
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
        by: Arc<str>,
        reason: Option<Arc<str>>,
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
    /// A new service instance, one moved from another agent, or one changed in more than its TTL.
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

/// The report of an `agent_state` event: a state of an instance, or an outcome that is none.
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
    /// Returns the recorded version and its plan, for events that record one.
    pub fn new_deployment(&self) -> Option<&NewDeployment> {
        match self {
            EventBody::DeploymentStarted(new) | EventBody::DeploymentNoop(new) | EventBody::VersionRecorded(new) => {
                Some(new)
            }
            _ => None,
        }
    }

    /// Returns true for an event after which the progress deadline may have to be held, or to run again (rule 10.6).
    pub(super) fn may_change_progress(&self) -> bool {
        match self {
            EventBody::AgentState { removes_instance, .. } => *removes_instance,
            EventBody::ServiceRegistered { .. }
            | EventBody::ServiceStatus { .. }
            | EventBody::ServiceDeregistered { .. }
            | EventBody::VersionTagged { .. }
            | EventBody::VersionUntagged { .. } => false,
            _ => true,
        }
    }

    /// Returns true for an event with a manifest, which the log keeps without it.
    pub fn has_manifest(&self) -> bool {
        self.new_deployment().is_some()
    }
}

/// Declares the types of events once: the list of their names, and the name of each body.
macro_rules! event_names {
    ($($variant:ident = $name:literal,)*) => {
        /// The types of events, as published, in the order of [`EventBody`].
        pub const EVENT_NAMES: &[&str] = &[$($name),*];

        impl EventBody {
            /// Returns the event's type, as published.
            pub fn name(&self) -> &'static str {
                match self {
                    $(EventBody::$variant { .. } => $name,)*
                }
            }
        }
    };
}

event_names! {
    DeploymentStarted = "deployment_started",
    DeploymentNoop = "deployment_noop",
    VersionRecorded = "version_recorded",
    RollbackStarted = "rollback_started",
    TaskIssued = "task_issued",
    TaskDone = "task_done",
    AgentState = "agent_state",
    AgentHealthy = "agent_healthy",
    AgentUnhealthy = "agent_unhealthy",
    AgentDraining = "agent_draining",
    AgentDrained = "agent_drained",
    AwaitingPromotion = "awaiting_promotion",
    DeploymentPromoted = "deployment_promoted",
    BakeStarted = "bake_started",
    DeploymentPaused = "deployment_paused",
    DeploymentResumed = "deployment_resumed",
    DeploymentFailed = "deployment_failed",
    DeploymentCancelled = "deployment_cancelled",
    DeploymentSuccessful = "deployment_successful",
    FallbackBlueGreen = "fallback_blue_green",
    VersionTagged = "version_tagged",
    VersionUntagged = "version_untagged",
    ServiceRegistered = "service_registered",
    ServiceStatus = "service_status",
    ServiceDeregistered = "service_deregistered",
}

/// A change that is replicated but is no event: it has no revision and is not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SilentChange {
    /// A refresh that only moved a TTL (rule 8 "Services").
    ServiceRefreshed { instance: Arc<str>, expires_at: Option<UnixMs> },
    /// The number of sessions that an instance holds, and the end of its drain if they stay away (rule 10.3).
    SessionsReported { instance: InstanceKey, sessions: u32, idle: Deadline },
    /// A `REQUEST` id and the receipt of its command.
    RequestRecorded { request: Arc<str>, receipt: Receipt },
}

/// A change of a record, as it is applied and replicated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Event(Arc<Event>),
    Silent(SilentChange),
}

/// The changes of one command: the payload of DEPLOY.APPLY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeSet {
    pub changes: Vec<Change>,
    /// The number of events that the log keeps after it: the primary's `deploy.events-max`.
    pub log_max: usize,
}
