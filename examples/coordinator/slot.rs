//! A place, an agent in a job: what is to run there, and what is still on its way out. Nothing is started in a place
//! before everything else in it has ended.

use crate::failpoint::{Failpoint, Step};
use crate::identity::Id;
use crate::life::{Life, Process};
use crate::process::{FoundAgent, Group};
use crate::store::Store;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// How often what has been told to end is looked at.
const LOOK: Duration = Duration::from_millis(25);
/// How often SIGKILL is said again to what ought to be dead.
const KILL_AGAIN: Duration = Duration::from_millis(500);

#[derive(Default)]
pub struct Place {
    /// The instance that the record wants here.
    pub life: Option<Life>,
    /// Processes that an earlier coordinator left, of which it is not known yet whether they are wanted.
    pub found: Vec<FoundAgent>,
    pub leaving: Vec<Leaving>,
    /// Said once, that a process which nobody can find has the place's lock.
    pub complained: bool,
}

/// A process on its way out: its services are gone already, SIGTERM follows after a while, and SIGKILL after another.
pub struct Leaving {
    process: Process,
    stage: Stage,
    kill_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Draining { until: Instant },
    Told { kill_at: Instant },
    Killed { again_at: Instant },
}

impl Leaving {
    pub fn new(process: Process, drain: Duration, kill_timeout: Duration, now: Instant) -> Leaving {
        Leaving { process, stage: Stage::Draining { until: now + drain }, kill_timeout }
    }

    /// No waiting any more.
    pub fn hurry(&mut self, now: Instant) {
        self.stage = Stage::Told { kill_at: now };
    }

    /// One step; true once nothing of it runs any more.
    fn tick(&mut self, now: Instant, store: &Store, failpoint: &Failpoint) -> bool {
        let group = &self.process.group;
        if !group.leader_runs() && group.is_gone(&store.folder) {
            self.process.how_it_ended();
            return true;
        }
        match self.stage {
            Stage::Draining { until } if now >= until => {
                group.signal(Signal::TERM, &store.folder);
                failpoint.reach(Step::OldToldToStop);
                self.stage = Stage::Told { kill_at: now + self.kill_timeout };
            }
            Stage::Told { kill_at } if now >= kill_at => {
                eprintln!("coordinator: {}: still there {:?} after SIGTERM; SIGKILL", group.id, self.kill_timeout);
                group.signal(Signal::KILL, &store.folder);
                self.stage = Stage::Killed { again_at: now + KILL_AGAIN };
            }
            Stage::Killed { again_at } if now >= again_at => {
                group.signal(Signal::KILL, &store.folder);
                self.stage = Stage::Killed { again_at: now + KILL_AGAIN };
            }
            _ => {}
        }
        false
    }

    fn next(&self, now: Instant) -> Instant {
        match self.stage {
            Stage::Draining { until } if self.process.group.leader_runs() => until,
            _ => now + LOOK,
        }
    }
}

impl Place {
    /// Whether anything of this instance is here: running, to be started, or on its way out.
    pub fn has(&self, id: &Id) -> bool {
        self.life.as_ref().is_some_and(|life| life.id == *id)
            || self.found.iter().any(|found| found.group.id == *id)
            || self.leaving.iter().any(|leaving| leaving.process.group.id == *id)
    }

    /// Whether it runs here, as far as this place was asked for it, and is not on its way out.
    pub fn keeps(&self, id: &Id) -> bool {
        self.life.as_ref().is_some_and(|life| life.id == *id) || self.found.iter().any(|found| found.group.id == *id)
    }

    pub fn is_empty(&self) -> bool {
        self.life.is_none() && self.found.is_empty() && self.leaving.is_empty()
    }

    /// Lets what is on its way out go on; true where the last of it has ended now.
    pub fn tick(&mut self, now: Instant, store: &Store, failpoint: &Failpoint) -> bool {
        let before = self.leaving.len();
        let mut gone = Vec::new();
        self.leaving.retain_mut(|leaving| {
            let ended = leaving.tick(now, store, failpoint);
            if ended {
                gone.push(leaving.process.group.id.clone());
            }
            !ended
        });
        for id in gone.iter().filter(|id| !self.has(id)) {
            store.forget(id);
        }
        before > 0 && self.leaving.is_empty()
    }

    /// When it wants to be looked at again by itself.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        self.leaving.iter().map(|leaving| leaving.next(now)).min()
    }

    pub fn child_of(&mut self, group: &Group) -> Option<&mut Process> {
        let of_leaving = self.leaving.iter_mut().map(|leaving| &mut leaving.process);
        of_leaving
            .chain(self.life.as_mut().and_then(|life| life.process.as_mut()))
            .find(|process| process.group == *group)
    }
}
