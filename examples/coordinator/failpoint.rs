//! Failpoints for tests: `DEPLOY_COORDINATOR_DIE_AT` names the step at which the coordinator sends itself SIGKILL, or at
//! which a thread of it panics.

use rustix::process::{getpid, kill_process, Signal};

/// Step of a rollout at which the coordinator can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A task has been read; nothing has been reported or done.
    TaskSeen,
    /// The task is claimed: `starting` is reported, the old process still runs.
    TakenUp,
    /// The old process has been sent SIGTERM.
    OldToldToStop,
    /// The old process has ended; the new one has not been started.
    OldGone,
    /// The new instance is saved in the state directory; its process has not been started.
    NoteWritten,
    /// The new process runs; its process id is not saved yet.
    Started,
    /// The new process runs and its process id is saved; its state has not been reported.
    StartNoted,
    /// The agent is ready; `ready` has not been reported.
    BeforeReady,
    /// A process that had to stop has ended; `stopped` has not been reported.
    BeforeStopped,
    /// A drain is taken up on the record; the process has not been told.
    DrainTakenUp,
    /// The records have been read for the first time; the thread of the connection panics.
    ConnectionUsable,
}

impl Step {
    /// All steps, in the order of a rollout.
    pub const ALL: [Step; 11] = [
        Step::TaskSeen,
        Step::TakenUp,
        Step::OldToldToStop,
        Step::OldGone,
        Step::NoteWritten,
        Step::Started,
        Step::StartNoted,
        Step::BeforeReady,
        Step::BeforeStopped,
        Step::DrainTakenUp,
        Step::ConnectionUsable,
    ];

    /// Name of the step in `DEPLOY_COORDINATOR_DIE_AT`.
    fn name(self) -> &'static str {
        match self {
            Step::TaskSeen => "task-seen",
            Step::TakenUp => "taken-up",
            Step::OldToldToStop => "old-told-to-stop",
            Step::OldGone => "old-gone",
            Step::NoteWritten => "note-written",
            Step::Started => "started",
            Step::StartNoted => "start-noted",
            Step::BeforeReady => "before-ready",
            Step::BeforeStopped => "before-stopped",
            Step::DrainTakenUp => "drain-taken-up",
            Step::ConnectionUsable => "connection-usable",
        }
    }
}

/// The configured step, if any.
#[derive(Clone, Copy)]
pub struct Failpoint(Option<Step>);

impl Failpoint {
    /// Reads `DEPLOY_COORDINATOR_DIE_AT`.
    pub fn from_environment() -> Result<Failpoint, String> {
        let Ok(name) = std::env::var("DEPLOY_COORDINATOR_DIE_AT") else { return Ok(Failpoint(None)) };
        let step = Step::ALL.into_iter().find(|step| step.name() == name);
        step.map(|step| Failpoint(Some(step))).ok_or_else(|| format!("DEPLOY_COORDINATOR_DIE_AT: no step {name}"))
    }

    /// Kills this process if `step` is the configured one.
    pub fn reach(&self, step: Step) {
        if self.0 == Some(step) {
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }

    /// Panics if `step` is the configured one.
    pub fn panic_at(&self, step: Step) {
        assert!(self.0 != Some(step), "failpoint {}", step.name());
    }
}
