//! Where a test lets a coordinator die: `DEPLOY_COORDINATOR_DIE_AT` names the step at which it kills itself, as SIGKILL
//! from outside would. The tests kill it at each of these.

use rustix::process::{getpid, kill_process, Signal};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A task is read, and nothing said or done about it.
    TaskSeen,
    /// The task is taken up: `starting` is reported, the old process runs still.
    TakenUp,
    /// The old process has its SIGTERM.
    OldToldToStop,
    /// The old process has ended, the new one is not begun.
    OldGone,
    /// The note about the new process is written, the process is not begun.
    NoteWritten,
    /// The new process runs, and no note says so.
    Started,
    /// The new process runs and is noted; nothing is said of its state.
    StartNoted,
    /// The agent has become ready, and nobody was told.
    BeforeReady,
    /// A process that was to stop has ended, and nobody was told.
    BeforeStopped,
}

impl Step {
    pub const ALL: [Step; 9] = [
        Step::TaskSeen,
        Step::TakenUp,
        Step::OldToldToStop,
        Step::OldGone,
        Step::NoteWritten,
        Step::Started,
        Step::StartNoted,
        Step::BeforeReady,
        Step::BeforeStopped,
    ];

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
        }
    }
}

pub struct Failpoint(Option<Step>);

impl Failpoint {
    pub fn from_environment() -> Result<Failpoint, String> {
        let Ok(name) = std::env::var("DEPLOY_COORDINATOR_DIE_AT") else { return Ok(Failpoint(None)) };
        let step = Step::ALL.into_iter().find(|step| step.name() == name);
        step.map(|step| Failpoint(Some(step))).ok_or_else(|| format!("DEPLOY_COORDINATOR_DIE_AT: no step {name}"))
    }

    pub fn reach(&self, step: Step) {
        if self.0 == Some(step) {
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}
