//! Slot: an agent in a job, with the instance assigned to it and the processes that are still being stopped. No process
//! is started in a slot before all others in it have ended.

use crate::failpoint::{Failpoint, Step};
use crate::identity::Id;
use crate::process::{FoundAgent, ProcessGroup};
use crate::state_dir::StateDir;
use crate::supervisor::{Process, Supervisor};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// Interval at which a stopping process is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(25);
/// Interval at which SIGKILL is repeated.
const KILL_INTERVAL: Duration = Duration::from_millis(500);

/// State of a slot.
#[derive(Default)]
pub struct Slot {
    /// Instance that the record assigns to this slot.
    pub supervisor: Option<Supervisor>,
    /// Processes left by an earlier coordinator, until the record has been read.
    pub found: Vec<FoundAgent>,
    pub stopping: Vec<StoppingProcess>,
    /// Set once it was logged that an unknown process holds the slot's lock.
    pub lock_logged: bool,
}

/// A process that is being stopped. Its services are deregistered; after the shutdown delay it is sent SIGTERM, and
/// after the kill timeout SIGKILL.
pub struct StoppingProcess {
    process: Process,
    stage: Stage,
    kill_timeout: Duration,
}

/// Progress of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for callers that have just resolved its services.
    Draining { until: Instant },
    /// SIGTERM was sent.
    Terminating { kill_at: Instant },
    /// SIGKILL was sent.
    Killing { again_at: Instant },
}

impl StoppingProcess {
    /// Begins to stop a process.
    pub fn new(process: Process, drain: Duration, kill_timeout: Duration, now: Instant) -> StoppingProcess {
        StoppingProcess { process, stage: Stage::Draining { until: now + drain }, kill_timeout }
    }

    /// Skips the remaining delays.
    pub fn kill_now(&mut self, now: Instant) {
        self.stage = Stage::Terminating { kill_at: now };
    }

    /// Sends the signal that is due. Returns true once no process of the group runs any more.
    fn tick(&mut self, now: Instant, state_dir: &StateDir, failpoint: &Failpoint) -> bool {
        let group = &self.process.group;
        if !group.leader_is_running() && group.is_gone(&state_dir.path) {
            self.process.reap();
            return true;
        }
        match self.stage {
            Stage::Draining { until } if now >= until => {
                group.signal(Signal::TERM, &state_dir.path);
                failpoint.reach(Step::OldToldToStop);
                self.stage = Stage::Terminating { kill_at: now + self.kill_timeout };
            }
            Stage::Terminating { kill_at } if now >= kill_at => {
                eprintln!("coordinator: {}: still there {:?} after SIGTERM; SIGKILL", group.id, self.kill_timeout);
                group.signal(Signal::KILL, &state_dir.path);
                self.stage = Stage::Killing { again_at: now + KILL_INTERVAL };
            }
            Stage::Killing { again_at } if now >= again_at => {
                group.signal(Signal::KILL, &state_dir.path);
                self.stage = Stage::Killing { again_at: now + KILL_INTERVAL };
            }
            _ => {}
        }
        false
    }

    /// Returns the time of the next `tick`.
    fn next_check(&self, now: Instant) -> Instant {
        match self.stage {
            Stage::Draining { until } if self.process.group.leader_is_running() => until,
            _ => now + POLL_INTERVAL,
        }
    }
}

impl Slot {
    /// Returns whether the slot has a process of the instance, running, due to start or being stopped.
    pub fn contains(&self, id: &Id) -> bool {
        self.supervisor.as_ref().is_some_and(|supervisor| supervisor.id == *id)
            || self.found.iter().any(|found| found.group.id == *id)
            || self.stopping.iter().any(|stopping| stopping.process.group.id == *id)
    }

    /// Returns whether the instance is assigned to this slot or was found in it, and is not being stopped.
    pub fn holds(&self, id: &Id) -> bool {
        self.supervisor.as_ref().is_some_and(|supervisor| supervisor.id == *id)
            || self.found.iter().any(|found| found.group.id == *id)
    }

    /// Returns the attempt of an instance's process that runs, ran last or was found in this slot.
    pub fn attempt_of(&self, id: &Id) -> Option<u32> {
        let supervised = self.supervisor.iter().filter(|supervisor| supervisor.id == *id).map(|s| s.attempt);
        let found = self.found.iter().filter(|found| found.group.id == *id).map(|found| found.group.attempt);
        supervised.chain(found).max()
    }

    /// Returns whether there is nothing left to do in this slot.
    pub fn is_empty(&self) -> bool {
        self.supervisor.is_none() && self.found.is_empty() && self.stopping.is_empty()
    }

    /// Advances all stops. Returns true when the last stopping process has ended in this call.
    pub fn tick(&mut self, now: Instant, state_dir: &StateDir, failpoint: &Failpoint) -> bool {
        let before = self.stopping.len();
        let mut ended_ids = Vec::new();
        self.stopping.retain_mut(|stopping| {
            let ended = stopping.tick(now, state_dir, failpoint);
            if ended {
                ended_ids.push(stopping.process.group.id.clone());
            }
            !ended
        });
        for id in ended_ids.iter().filter(|id| !self.contains(id)) {
            state_dir.remove(id);
        }
        before > 0 && self.stopping.is_empty()
    }

    /// Returns the time of the next `tick`; None if nothing is being stopped.
    pub fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        self.stopping.iter().map(|stopping| stopping.next_check(now)).min()
    }

    /// Returns the process of a group.
    pub fn process_of(&mut self, group: &ProcessGroup) -> Option<&mut Process> {
        let stopping = self.stopping.iter_mut().map(|stopping| &mut stopping.process);
        stopping
            .chain(self.supervisor.as_mut().and_then(|supervisor| supervisor.process.as_mut()))
            .find(|process| process.group == *group)
    }
}
