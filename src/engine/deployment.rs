//! Deployments: one attempt each to make a version the current one.
use super::names::named_enum;
use super::policy::{Policy, Strategy};
use super::time::{Deadline, UnixMs};
use std::sync::Arc;

named_enum! {
    /// The status of a deployment (rule 4): the first three are active, the others terminal.
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
        /// A rollback whose version still runs, on standby: it takes over at once (rule 12.5).
        SwitchBack = "switch_back",
        VersionOnly = "version_only",
        /// In replies only: nothing was recorded (rule 4.2).
        Unchanged = "unchanged",
    }
}

named_enum! {
    /// The cause of a failure or cancellation, or of a revert.
    pub enum Cause {
        UnhealthyAgent = "unhealthy_agent",
        ProgressDeadline = "progress_deadline",
        AgentFailed = "agent_failed",
        Operator = "operator",
        NewerVersion = "newer_version",
        Stopped = "stopped",
    }
}

/// The last action of an operator on a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    pub name: Arc<str>,
    pub by: Arc<str>,
    pub at: UnixMs,
    pub reason: Option<Arc<str>>,
}

/// The failure of a paused deployment that takes effect at its resume (rule 4.13).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeferredFailure {
    pub cause: Cause,
    pub words: Arc<str>,
}

/// An agent that cannot be replaced in place, with the reason (rule 4.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsafeReport {
    pub agent: Arc<str>,
    pub words: Arc<str>,
}

named_enum! {
    /// The status in which a version's deployment ended, or the report of its batch job.
    pub enum Outcome {
        Successful = "successful",
        Failed = "failed",
        Cancelled = "cancelled",
        VersionRecorded = "version_recorded",
        Completed = "completed",
    }
}

impl Outcome {
    /// Returns true for what a batch run may report.
    pub fn is_of_run(self) -> bool {
        matches!(self, Outcome::Completed | Outcome::Failed)
    }

    /// Returns the final status of the deployment; `version_recorded` for a batch job, whatever it reported.
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
    /// The description of the end; while the deployment is active, the description is derived.
    pub ended: Option<Arc<str>>,
    pub mode: Mode,
    pub strategy: Strategy,
    pub requested_strategy: Strategy,
    /// The reason for the mode: `first version`, `topology changed: …`, …
    pub mode_reason: Arc<str>,
    /// The version whose content a rollback restores.
    pub rollback_of: Option<u64>,
    pub by: Arc<str>,
    pub reason: Option<Arc<str>>,
    pub source_version: Option<u64>,
    pub source_job_id: Option<Arc<str>>,
    pub target_version: u64,
    pub target_job_id: Arc<str>,
    /// `JOB` of the command, for a second job that may still start (rule 4.6).
    pub requested_job: Option<Arc<str>>,
    pub policy: Policy,
    /// The agents that this deployment changes, in the order of their release.
    pub changed: Arc<[Arc<str>]>,
    /// The agents that the target version does not have: they get `stop` tasks at the end.
    pub removed_agents: Arc<[Arc<str>]>,
    /// The number of `changed` that are canaries (in place); above 0, a blue-green promotion waits.
    pub canaries: u32,
    pub promoted: bool,
    pub progress: Deadline,
    /// The target serves everything, and is watched before it is called stable (rule 12.1).
    pub is_baking: bool,
    /// The end of the bake; off while an instance is not healthy.
    pub bake: Deadline,
    /// PROMOTE FULL has passed the bake before it began.
    pub skips_bake: bool,
    /// The time at which it began to wait for its promotion. A record of format 1 does not say.
    pub awaiting_since: Option<UnixMs>,
    /// While paused: the status to which the deployment resumes, unless something changed meanwhile.
    pub paused_from: Option<Status>,
    pub deferred_failure: Option<DeferredFailure>,
    /// An `unsafe` report: the fallback to blue-green is due, at once or at resume.
    pub unsafe_report: Option<UnsafeReport>,
    pub last_action: Option<Action>,
    pub created_at: UnixMs,
    pub finished_at: Option<UnixMs>,
}

impl Deployment {
    /// Returns true for a deployment that may go through steps, gates and a bake (rule 12.1).
    pub fn is_gradual(&self) -> bool {
        matches!(self.mode, Mode::InPlace | Mode::BlueGreen)
    }

    /// Returns true for a deployment that goes through steps.
    pub fn has_steps(&self) -> bool {
        self.is_gradual() && !self.policy.steps.is_empty()
    }

    /// Returns true for a deployment that bakes, or will, before it is successful (rule 12.1).
    pub fn has_bake(&self) -> bool {
        self.is_gradual() && self.policy.bake_ms > 0 && !self.skips_bake
    }

    /// Returns true for a deployment whose content is called stable only on evidence (rule 12.7).
    pub fn needs_evidence(&self) -> bool {
        self.has_steps() || self.has_bake() || (self.is_gradual() && !self.policy.gates.is_empty())
    }

    /// Returns true for a deployment whose agents start in a second job, which a promotion makes the first.
    pub fn has_second_job(&self) -> bool {
        matches!(self.mode, Mode::BlueGreen | Mode::SwitchBack)
    }

    /// Returns the phase that replies show (rule 12.1).
    pub fn phase(&self) -> Option<&'static str> {
        self.is_baking.then_some("baking")
    }

    /// Returns the cause that replies show. A revert is started for the cause of the failure before it, which is no cause
    /// of its success.
    pub fn shown_cause(&self) -> Option<Cause> {
        self.cause.filter(|_| self.status != Status::Successful)
    }

    /// Returns true for a rollback or revert that is under way or has succeeded: repeated, it is done already (rule
    /// 19.1).
    pub fn is_rollback_in_effect(&self) -> bool {
        let has_effect = self.status.is_active() || matches!(self.status, Status::Successful | Status::VersionRecorded);
        self.rollback_of.is_some() && has_effect
    }
}

/// The reply to a changing command (rule 3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub deployment_key: Arc<str>,
    pub deployment_id: Arc<str>,
    pub version: u64,
    pub job_id: Arc<str>,
    pub status: Status,
    pub mode: Mode,
    pub revision: u64,
    /// Warnings: choices that are allowed, but may not be intended (rule 19.2). None for other commands than DEPLOY and
    /// ROLLBACK.
    pub warnings: Option<Vec<Arc<str>>>,
}

/// A `REQUEST` id and the receipt of its command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyEntry {
    pub request: Arc<str>,
    pub receipt: Receipt,
}

/// The number of `REQUEST` ids that a key remembers (rule 3).
pub const MAX_REQUEST_IDS: usize = 16;
