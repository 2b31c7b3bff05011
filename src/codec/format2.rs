//! Format 2: its differences from format 1, and nothing else. It is not frozen yet: no release has written it.
//!
//! - A version has how it ended: `cause`, `description`, `promoted_at`, `promoted_by`, `finished_at`.
//! - A deployment has the time since which it waits for its promotion, `awaiting_since`.
//! - A policy has `drain_ms`, `steps`, `gates`, `bake_ms` and `cohort`; a deployment has its bake, and the instances that it adopts.
//! - An instance has its sessions, its drain, its time on standby, and the versions that it does not count for.
//! - A summary has the numbers of instances that drain and that are on standby.
//! - A service instance has the attempt of its agent that registered it.
//! - A remembered receipt has its warnings.
//!
//! The other shapes below contain one of these. Like those of format 1, they are positional.

pub(super) use super::format1::*;
use super::shape::{List, Millis, Number};
use serde::{Deserialize, Serialize};

// ---- the record -----------------------------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
pub(super) struct Summary<'a> {
    pub due: Option<Millis>,
    pub tasks: Number,
    pub deployment_id: &'a str,
    pub status: Status,
    pub mode: Mode,
    pub strategy: Strategy,
    pub current_version: Option<Number>,
    pub stable_version: Option<Number>,
    pub target_version: Number,
    pub healthy: Number,
    pub desired: Number,
    pub updated_at: Millis,
    pub draining: Number,
    pub standby: Number,
}

/// The record's own fields. Its lists follow.
#[derive(Serialize, Deserialize)]
pub(super) struct RecordHeader<'a> {
    pub revision: Number,
    pub last_version: Number,
    pub current_version: Option<Number>,
    #[serde(borrow)]
    pub current_job_id: Option<&'a str>,
    pub deployment: Option<Deployment<'a>>,
    pub created_at: Millis,
    pub updated_at: Millis,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Deployment<'a> {
    pub id: &'a str,
    pub status: Status,
    pub cause: Option<Cause>,
    pub ended: Option<&'a str>,
    pub mode: Mode,
    pub strategy: Strategy,
    pub requested_strategy: Strategy,
    pub mode_reason: &'a str,
    pub rollback_of: Option<Number>,
    pub by: &'a str,
    pub reason: Option<&'a str>,
    pub source_version: Option<Number>,
    pub source_job_id: Option<&'a str>,
    pub target_version: Number,
    pub target_job_id: &'a str,
    pub requested_job: Option<&'a str>,
    pub policy: Policy<'a>,
    pub changed: List<&'a str>,
    pub removed_agents: List<&'a str>,
    pub canaries: u32,
    pub promoted: bool,
    pub progress: Deadline,
    pub is_baking: bool,
    pub bake: Deadline,
    pub skips_bake: bool,
    pub awaiting_since: Option<Millis>,
    pub paused_from: Option<Status>,
    pub deferred_failure: Option<DeferredFailure<'a>>,
    pub unsafe_report: Option<UnsafeReport<'a>>,
    pub last_action: Option<Action<'a>>,
    pub created_at: Millis,
    pub finished_at: Option<Millis>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Policy<'a> {
    pub strategy: Strategy,
    pub max_parallel: CountOrPercent,
    pub canary: CountOrPercent,
    pub min_healthy_ms: Millis,
    pub healthy_deadline_ms: Millis,
    pub progress_deadline_ms: Millis,
    pub health_check: HealthCheck,
    pub auto_promote: bool,
    pub auto_revert: bool,
    pub drain_ms: Millis,
    #[serde(borrow)]
    pub steps: List<Step<'a>>,
    pub gates: List<(&'a str, Gate<'a>)>,
    pub bake_ms: Millis,
    pub cohort: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Step<'a> {
    pub percent: u32,
    pub soak_ms: Millis,
    #[serde(borrow)]
    pub gates: Option<List<&'a str>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Gate<'a> {
    #[serde(borrow)]
    pub condition: Condition<'a>,
    pub timeout_ms: Millis,
    pub on_timeout: OnTimeout,
}

#[derive(Serialize, Deserialize)]
pub(super) enum Condition<'a> {
    Measure { metric: &'a str, bound: Bound, min_count: Number },
    Verdict,
    Approvals { count: u32, others: bool },
}

#[derive(Serialize, Deserialize)]
pub(super) enum Bound {
    Max(Measured),
    Min(Measured),
    MaxRatio(Percentage),
    MinRatio(Percentage),
}

#[derive(Serialize, Deserialize)]
pub(super) enum Measured {
    Share(Percentage),
    Mean(Number),
}

#[derive(Serialize, Deserialize)]
pub(super) struct Percentage {
    pub thousandths: Number,
}

#[derive(Serialize, Deserialize)]
pub(super) enum OnTimeout {
    Fail,
    Pass,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Instance<'a> {
    pub agent: &'a str,
    /// None where it is the agent itself, as nearly always.
    pub node: Option<&'a str>,
    pub version: Number,
    pub job_id: &'a str,
    pub role: Role,
    pub state: InstanceState,
    pub health: Health,
    pub attempt: u32,
    pub task_at: Millis,
    pub since: Millis,
    pub reason: Option<&'a str>,
    pub from_version: Option<Number>,
    pub task: Option<Task>,
    pub healthy_at: Option<Millis>,
    pub deadline: Deadline,
    pub was_healthy: bool,
    pub created: Number,
    pub sessions: Option<u32>,
    pub drain: Option<Box<Drain>>,
    pub standby_until: Option<Millis>,
    pub adopted_for: Option<Number>,
    pub not_counted_for: List<Number>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Task {
    pub kind: TaskKind,
    pub revision: Number,
    pub since: Millis,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Drain {
    pub phase: DrainPhase,
    pub outcome: DrainOutcome,
    pub role: Role,
    pub deadline: Deadline,
    pub idle_ms: Millis,
    pub idle: Deadline,
}

#[derive(Serialize, Deserialize)]
pub(super) enum DrainPhase {
    Issued,
    TakenUp,
    Ended,
    Succeeded,
}

#[derive(Serialize, Deserialize)]
pub(super) enum DrainOutcome {
    Stop,
    Replace { version: Number },
    Open,
}

#[derive(Serialize, Deserialize)]
pub(super) enum Role {
    Primary,
    Canary,
    Candidate,
    Retired,
    Draining,
    Standby,
}

#[derive(Serialize, Deserialize)]
pub(super) enum TaskKind {
    Start,
    Replace,
    Stop,
    Run,
    Drain,
}

/// A version of a record, with the index of its manifest among the record's manifests: versions share them.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredVersion<'a> {
    pub manifest: Number,
    #[serde(borrow)]
    pub version: Version<'a>,
}

/// A version of an event, with its manifest.
#[derive(Serialize, Deserialize)]
pub(super) struct VersionWithManifest<'a> {
    #[serde(borrow)]
    pub version: Version<'a>,
    /// Empty in a log.
    pub manifest: &'a str,
}

/// A version less its manifest.
#[derive(Serialize, Deserialize)]
pub(super) struct Version<'a> {
    pub number: Number,
    pub deployment_id: &'a str,
    pub job_id: &'a str,
    pub job_type: JobType,
    pub strategy: Strategy,
    pub policy: Policy<'a>,
    pub agents: Option<List<&'a str>>,
    pub bundle: Option<&'a str>,
    pub tag: Option<&'a str>,
    pub stable: bool,
    pub rollback_of: Option<Number>,
    pub outcome: Option<Outcome>,
    pub submitted_at: Millis,
    pub by: &'a str,
    pub reason: Option<&'a str>,
    pub cause: Option<Cause>,
    pub description: Option<&'a str>,
    pub promoted_at: Option<Millis>,
    pub promoted_by: Option<&'a str>,
    pub finished_at: Option<Millis>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Service<'a> {
    pub instance: &'a str,
    pub owner: InstanceKey<'a>,
    pub service: &'a str,
    pub address: &'a str,
    pub port: u16,
    pub tags: List<&'a str>,
    pub meta: Option<&'a str>,
    pub status: CheckStatus,
    pub reason: Option<&'a str>,
    pub ttl_ms: Option<Millis>,
    pub expires_at: Option<Millis>,
    pub since: Millis,
    pub attempt: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct IdempotencyEntry<'a> {
    pub request: &'a str,
    pub receipt: Receipt<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Receipt<'a> {
    pub deployment_key: &'a str,
    pub deployment_id: &'a str,
    pub version: Number,
    pub job_id: &'a str,
    pub status: Status,
    pub mode: Mode,
    pub revision: Number,
    pub warnings: Option<List<&'a str>>,
}

// ---- changes and events ---------------------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
pub(super) enum Change<'a> {
    /// The bytes of an [`Event`], those that the log has of it.
    #[serde(with = "serde_bytes")]
    Event(&'a [u8]),
    #[serde(borrow)]
    Silent(SilentChange<'a>),
}

#[derive(Serialize, Deserialize)]
pub(super) enum SilentChange<'a> {
    ServiceRefreshed { instance: &'a str, expires_at: Option<Millis> },
    SessionsReported { instance: InstanceKey<'a>, sessions: u32, idle: Deadline },
    RequestRecorded { request: &'a str, receipt: Receipt<'a> },
}

#[derive(Serialize, Deserialize)]
pub(super) struct Event<'a> {
    /// First, so that a log is searched without reading its events.
    pub revision: Number,
    pub at: Millis,
    pub deployment_id: &'a str,
    pub version: Number,
    pub body: EventBody<'a>,
}

#[derive(Serialize, Deserialize)]
pub(super) enum EventBody<'a> {
    #[serde(borrow)]
    DeploymentStarted(Box<NewDeployment<'a>>),
    DeploymentNoop(Box<NewDeployment<'a>>),
    VersionRecorded(Box<NewDeployment<'a>>),
    RollbackStarted {
        from_version: Number,
        rollback_of: Number,
        cause: Option<Cause>,
        by: &'a str,
        reason: Option<&'a str>,
    },
    TaskIssued {
        instance: InstanceRef<'a>,
        task: TaskKind,
        from_version: Option<Number>,
        attempt: u32,
        bundle: Option<&'a str>,
        deadline: Deadline,
        by: &'a str,
        reason: Option<&'a str>,
        drain: Option<NewDrain>,
    },
    TaskDone {
        instance: InstanceRef<'a>,
        task: TaskKind,
        withdrawn: bool,
        removes_instance: bool,
    },
    AgentState {
        instance: InstanceRef<'a>,
        state: AgentReport,
        attempt: u32,
        reason: Option<&'a str>,
        healthy_at: Option<Millis>,
        removes_instance: bool,
        fails_at_resume: bool,
    },
    AgentHealthy {
        instance: InstanceRef<'a>,
        progress: Deadline,
    },
    AgentUnhealthy {
        instance: InstanceRef<'a>,
        reason: &'a str,
        resumes_with: Option<Deadline>,
        fails_at_resume: bool,
    },
    AgentDraining {
        instance: InstanceRef<'a>,
        outcome: DrainOutcome,
        sessions: Option<u32>,
        deadline: Deadline,
        by: &'a str,
        reason: Option<&'a str>,
    },
    AgentDrained {
        instance: InstanceRef<'a>,
        sessions: Option<u32>,
        forced: bool,
        by: &'a str,
        reason: Option<&'a str>,
    },
    AwaitingPromotion {
        healthy: u32,
    },
    DeploymentPromoted {
        progress: Deadline,
        by: &'a str,
        reason: Option<&'a str>,
        full: bool,
    },
    BakeStarted {
        bake: Deadline,
    },
    DeploymentPaused {
        by: &'a str,
        reason: Option<&'a str>,
    },
    DeploymentResumed {
        status: Status,
        progress: Deadline,
        by: &'a str,
        reason: Option<&'a str>,
    },
    DeploymentFailed {
        cause: Cause,
        description: &'a str,
        by: &'a str,
        reason: Option<&'a str>,
    },
    DeploymentCancelled {
        cause: Cause,
        description: &'a str,
        by: &'a str,
        reason: Option<&'a str>,
    },
    DeploymentSuccessful {
        description: &'a str,
        by: &'a str,
        reason: Option<&'a str>,
    },
    FallbackBlueGreen {
        agent: &'a str,
        reason: &'a str,
        job_id: &'a str,
        changed: List<&'a str>,
        canaries: u32,
    },
    VersionTagged {
        tag: &'a str,
        replaced: Option<&'a str>,
        by: &'a str,
    },
    VersionUntagged {
        tag: &'a str,
        by: &'a str,
    },
    ServiceRegistered {
        service: Box<Service<'a>>,
        healthy_at: Option<Millis>,
    },
    ServiceStatus {
        instance: &'a str,
        service: &'a str,
        agent: &'a str,
        status: CheckStatus,
        reason: Option<&'a str>,
        expires_at: Option<Millis>,
        healthy_at: Option<Millis>,
    },
    ServiceDeregistered {
        instance: &'a str,
        service: &'a str,
        agent: &'a str,
        reason: &'a str,
        healthy_at: Option<Millis>,
    },
}

#[derive(Serialize, Deserialize)]
pub(super) struct NewDeployment<'a> {
    pub version: VersionWithManifest<'a>,
    pub mode: Mode,
    pub strategy: Strategy,
    pub requested_strategy: Strategy,
    pub mode_reason: &'a str,
    pub cause: Option<Cause>,
    pub source_version: Option<Number>,
    pub source_job_id: Option<&'a str>,
    pub requested_job: Option<&'a str>,
    pub changed: List<&'a str>,
    pub adopted: List<Adopted<'a>>,
    pub removed_agents: List<&'a str>,
    pub canaries: u32,
    pub progress: Deadline,
    pub trimmed: List<Number>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct NewDrain {
    pub outcome: DrainOutcome,
    pub deadline: Deadline,
    pub idle_ms: Millis,
}

#[derive(Serialize, Deserialize)]
pub(super) struct InstanceRef<'a> {
    pub agent: &'a str,
    /// None where it is the agent itself, as nearly always.
    pub node: Option<&'a str>,
    pub job_id: &'a str,
    pub role: Role,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Adopted<'a> {
    pub agent: &'a str,
    pub version: Number,
}

#[derive(Serialize, Deserialize)]
pub(super) enum Mode {
    Initial,
    InPlace,
    BlueGreen,
    Noop,
    VersionOnly,
    Unchanged,
    SwitchBack,
}
