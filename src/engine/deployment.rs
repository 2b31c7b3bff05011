//! The record: everything that one key holds. Plain data with the questions that it can answer about itself;
//! what may change it is in `decide`, how it changes in `evolve`.
use super::policy::{Policy, Strategy};
use super::time::{Deadline, UnixMs};
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

/// The status in which a version's deployment ended, or what its batch job reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Successful,
    Failed,
    Cancelled,
    VersionRecorded,
    Completed,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Successful => "successful",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
            Outcome::VersionRecorded => "version_recorded",
            Outcome::Completed => "completed",
        }
    }

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
