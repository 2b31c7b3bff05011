//! The record: everything that one key holds. Plain data with the questions that it can answer about itself;
//! what may change it is in `decide`, how it changes in `evolve`.
use super::names::named_enum;
use super::policy::{Policy, Strategy};
use super::time::{Deadline, UnixMs};
use std::sync::Arc;

named_enum! {
    /// rule 4: the first three are active, the rest terminal.
    pub enum Status {
        Running = "running",
        AwaitingPromotion = "awaiting_promotion",
        Paused = "paused",
        Successful = "successful",
        Failed = "failed",
        Cancelled = "cancelled",
        VersionRecorded = "version_recorded",
    }
}

impl Status {
    pub fn is_active(self) -> bool {
        matches!(self, Status::Running | Status::AwaitingPromotion | Status::Paused)
    }
}

named_enum! {
    pub enum Mode {
        Initial = "initial",
        InPlace = "in_place",
        BlueGreen = "blue_green",
        Noop = "noop",
        VersionOnly = "version_only",
        /// Of a reply alone: nothing was recorded (rule 4.2).
        Unchanged = "unchanged",
    }
}

named_enum! {
    /// Why a deployment ended other than well, or why a revert began.
    pub enum Cause {
        UnhealthyAgent = "unhealthy_agent",
        ProgressDeadline = "progress_deadline",
        AgentFailed = "agent_failed",
        Operator = "operator",
        NewerVersion = "newer_version",
        Stopped = "stopped",
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

named_enum! {
    /// The status in which a version's deployment ended, or what its batch job reported.
    pub enum Outcome {
        Successful = "successful",
        Failed = "failed",
        Cancelled = "cancelled",
        VersionRecorded = "version_recorded",
        Completed = "completed",
    }
}

impl Outcome {
    /// The final status of the deployment that ended so (a batch job's is `version_recorded`, whatever it reported).
    pub fn status(self, batch: bool) -> Status {
        match self {
            _ if batch => Status::VersionRecorded,
            Outcome::Successful | Outcome::Completed => Status::Successful,
            Outcome::Failed => Status::Failed,
            Outcome::Cancelled => Status::Cancelled,
            Outcome::VersionRecorded => Status::VersionRecorded,
        }
    }
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
