//! The model's account of sessions and drains (rule 10), from events and reported numbers alone.

use super::model::{key_of, Late, Model, Phase, Rollout, Seen, Verdict};
use redis_deploy::engine::command::Command;
use redis_deploy::engine::deployment::{Cause, Mode, Status};
use redis_deploy::engine::event::{AgentReport, Event, EventBody};
use redis_deploy::engine::instance::{DrainOutcome, InstanceKey, InstanceState, Role, TaskKind};
use std::sync::Arc;

/// Destination of a drain, as far as that is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeadsTo {
    Stop,
    Replace(u64),
    Undecided,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Issued,
    TakenUp,
    Ended,
    /// Its successor has a task.
    Succeeded,
}

/// Observed drain of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenDrain {
    pub stage: Stage,
    pub leads_to: LeadsTo,
    /// The time at which it ends, whatever the sessions are.
    pub latest: Late,
    /// `min_healthy_ms` at its task.
    pub idle_ms: u64,
    /// The time at which it ends if no session comes.
    pub idle: Late,
}

impl SeenDrain {
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Issued | Stage::TakenUp)
    }

    /// Returns the version of the successor that it holds back.
    pub fn holds_back(&self) -> Option<u64> {
        match self.leads_to {
            LeadsTo::Replace(version) if self.stage != Stage::Succeeded => Some(version),
            _ => None,
        }
    }

    fn ended_without_successor() -> SeenDrain {
        let (stage, leads_to) = (Stage::Ended, LeadsTo::Undecided);
        SeenDrain { stage, leads_to, latest: Late::Never, idle_ms: 0, idle: Late::Never }
    }

    /// It holds so many sessions, from now on.
    fn holds(&mut self, sessions: u32, at: u64) {
        self.idle = match (self.stage, sessions, self.idle, self.latest) {
            (Stage::TakenUp, 0, Late::Never, Late::Left(_)) => Late::Left(self.idle_ms),
            (Stage::TakenUp, 0, Late::Never, _) => Late::At(at + self.idle_ms),
            (Stage::TakenUp, 0, known, _) => known,
            _ => Late::Never,
        };
    }
}

pub fn leads_to(outcome: DrainOutcome) -> LeadsTo {
    match outcome {
        DrainOutcome::Stop => LeadsTo::Stop,
        DrainOutcome::Replace { version } => LeadsTo::Replace(version),
        DrainOutcome::Open => LeadsTo::Undecided,
    }
}

impl Late {
    pub fn hold(self, at: u64) -> Late {
        match self {
            Late::At(late) => Late::Left(late.saturating_sub(at)),
            other => other,
        }
    }

    pub fn release(self, at: u64) -> Late {
        match self {
            Late::Left(left) => Late::At(at + left),
            other => other,
        }
    }

    /// At least so much is left of it, if it exists.
    pub fn with_at_least(self, ms: u64, at: u64) -> Late {
        match self {
            Late::At(late) => Late::At(late.max(at + ms)),
            Late::Left(left) => Late::Left(left.max(ms)),
            Late::Never => Late::Never,
        }
    }
}

impl Seen {
    /// Returns true if it is to be stopped, now or when its drain has ended: it does not count as running (rule 10.10).
    pub fn is_going(&self) -> bool {
        self.told_to_stop || matches!(self.drain, Some(SeenDrain { leads_to: LeadsTo::Stop, .. }))
    }

    /// Returns its role as callers see it.
    pub fn shown_role(&self) -> Role {
        match self.drain {
            Some(_) => Role::Draining,
            None => self.role,
        }
    }
}

impl Rollout {
    /// Returns true if its agents are in another job than those that ran before.
    pub fn has_second_job(&self) -> bool {
        matches!(self.mode, Mode::BlueGreen | Mode::SwitchBack)
    }

    /// Returns true if it is in effect: under way, or successful.
    pub fn is_in_effect(&self) -> bool {
        !matches!(self.phase, Phase::Ended(status) if status != Status::Successful)
    }
}

impl Model {
    /// The instances that drain for a replacement by the deployment at hand, which is not issued yet.
    pub fn held_back(&self) -> impl Iterator<Item = (&InstanceKey, &Seen)> {
        let target = self.rollout.as_ref().map(|r| r.target);
        self.instances
            .iter()
            .filter(move |(_, seen)| target.is_some() && seen.drain.as_ref().and_then(SeenDrain::holds_back) == target)
    }

    /// The deployment's own instances that its health summary counts: none that drains or has to stop after a drain.
    pub fn counted(&self) -> impl Iterator<Item = (&InstanceKey, &Seen)> {
        self.own().filter(|(_, seen)| seen.drain.is_none() && !matches!(seen.role, Role::Retired | Role::Standby))
    }

    /// The number of agents that the deployment has released: each has its instance, or drains for it.
    pub fn released(&self) -> usize {
        self.counted().count() + self.held_back().count()
    }

    /// Takes a number of sessions in.
    pub fn take_sessions_in(&mut self, key: &InstanceKey, sessions: u32, at: u64) {
        let Some(seen) = self.instances.get_mut(key) else { return };
        seen.sessions = Some(sessions);
        if let Some(drain) = &mut seen.drain {
            drain.holds(sessions, at);
        }
    }

    /// Takes in what an event says about drains.
    pub fn take_drains_in(&mut self, event: &Event, command: &Command) {
        let at = event.at;
        match &event.body {
            EventBody::TaskIssued { instance, task: TaskKind::Drain, drain: Some(new), .. } => {
                let Some(policy) = self.rollout.as_ref().map(|r| r.policy.clone()) else { return };
                if let Some(seen) = self.instances.get_mut(&key_of(instance, event.version)) {
                    seen.drain = Some(SeenDrain {
                        stage: Stage::Issued,
                        leads_to: leads_to(new.outcome),
                        latest: Late::At(at + policy.drain_ms),
                        idle_ms: policy.min_healthy_ms,
                        idle: Late::Never,
                    });
                }
            }
            EventBody::TaskIssued { instance, task: TaskKind::Stop, .. } => {
                if let Some(seen) = self.instances.get_mut(&key_of(instance, event.version)) {
                    seen.drain = None;
                }
                let target = self.rollout.as_ref().and_then(|r| self.versions.get(&r.target));
                if target.is_some_and(|told| !told.agents_with_nodes().contains(&instance.agent)) {
                    self.should_run.remove(&instance.agent);
                }
            }
            EventBody::TaskIssued { instance, task: TaskKind::Replace, from_version: Some(from), .. } => {
                if let Some(seen) = self.instances.get_mut(&key_of(instance, *from)) {
                    seen.drain.iter_mut().for_each(|drain| drain.stage = Stage::Succeeded);
                }
            }
            EventBody::TaskDone { instance, task, withdrawn, .. } => {
                let key = key_of(instance, event.version);
                self.end_task(&key, *task, *withdrawn, at);
            }
            EventBody::AgentDraining { instance, outcome, by, .. } => {
                if let Some(drain) = self.drain_of(&key_of(instance, event.version)) {
                    drain.leads_to = leads_to(*outcome);
                    // An operator gives another end; a rule only another outcome.
                    if let (Command::Drain(end), true) = (command, &**by != "auto") {
                        drain.latest = match drain.latest {
                            Late::Left(_) => Late::Left(end.ms),
                            _ => Late::At(at + end.ms),
                        };
                    }
                }
            }
            EventBody::AgentDrained { instance, .. } => {
                if let Some(drain) = self.drain_of(&key_of(instance, event.version)) {
                    (drain.stage, drain.latest, drain.idle) = (Stage::Ended, Late::Never, Late::Never);
                }
            }
            EventBody::DeploymentPaused { .. } => {
                let keys: Vec<InstanceKey> = self.held_back().map(|(key, _)| key.clone()).collect();
                for key in keys {
                    if let Some(drain) = self.drain_of(&key) {
                        (drain.latest, drain.idle) = (drain.latest.hold(at), drain.idle.hold(at));
                    }
                }
            }
            EventBody::DeploymentFailed { .. }
            | EventBody::DeploymentCancelled { .. }
            | EventBody::DeploymentSuccessful { .. }
            | EventBody::FallbackBlueGreen { .. } => self.forget_successors(),
            EventBody::DeploymentPromoted { .. } => self.promote_roles(),
            _ => {}
        }
        match &event.body {
            EventBody::DeploymentStarted(new) | EventBody::DeploymentNoop(new) => {
                if matches!(new.mode, Mode::InPlace | Mode::Noop) {
                    self.count_for(new.version.number, &new.version.job_id, &new.changed);
                }
            }
            EventBody::FallbackBlueGreen { .. } => {
                let old_side = self.instances.iter_mut().filter(|(key, _)| key.version != event.version);
                for (_, seen) in old_side {
                    seen.counts_for.remove(&event.version);
                }
            }
            _ => {}
        }
        match &event.body {
            EventBody::DeploymentSuccessful { .. } | EventBody::DeploymentNoop(_) => {
                self.become_primaries();
                let target = self.versions.get(&event.version);
                self.should_run = target.map(|told| told.agents_with_nodes()).unwrap_or_default().into_iter().collect();
            }
            // Who replaces it has ended it, and may never start the other one: so it is without drains, too.
            EventBody::AgentState { instance, removes_instance: true, .. } if instance.role != Role::Standby => {
                self.should_run.remove(&instance.agent);
            }
            EventBody::DeploymentCancelled { cause: Cause::Stopped, .. } | EventBody::VersionRecorded(_) => {
                self.should_run.clear();
            }
            _ => {}
        }
        self.take_progress_in(event);
    }

    fn drain_of(&mut self, key: &InstanceKey) -> Option<&mut SeenDrain> {
        self.instances.get_mut(key)?.drain.as_mut()
    }

    fn end_task(&mut self, key: &InstanceKey, task: TaskKind, withdrawn: bool, at: u64) {
        match task {
            TaskKind::Drain => {
                let Some(seen) = self.instances.get_mut(key) else { return };
                let sessions = seen.sessions;
                match &mut seen.drain {
                    Some(drain) if !withdrawn => {
                        drain.stage = Stage::TakenUp;
                        if let Some(sessions) = sessions {
                            drain.holds(sessions, at);
                        }
                    }
                    Some(drain) if drain.is_open() => seen.drain = None,
                    _ => {}
                }
            }
            // The one that it would have replaced has no successor any more.
            TaskKind::Replace if withdrawn => {
                for (other, seen) in &mut self.instances {
                    let same_place = other.agent == key.agent && other.job_id == key.job_id;
                    if let Some(drain) = seen.drain.as_mut().filter(|d| same_place && d.stage == Stage::Succeeded) {
                        *drain = SeenDrain { idle_ms: drain.idle_ms, ..SeenDrain::ended_without_successor() };
                    }
                }
            }
            // So has one that was to start anew, and need not.
            TaskKind::Start if withdrawn => {
                if let Some(seen) = self.instances.get_mut(key).filter(|seen| seen.attempt > 0) {
                    seen.drain = Some(SeenDrain::ended_without_successor());
                }
            }
            _ => {}
        }
    }

    /// The deployment has ended, or replaces nothing any more: what follows its drains is open.
    fn forget_successors(&mut self) {
        let keys: Vec<InstanceKey> = self.held_back().map(|(key, _)| key.clone()).collect();
        for key in keys {
            if let Some(drain) = self.drain_of(&key) {
                drain.leads_to = LeadsTo::Undecided;
            }
        }
    }

    fn promote_roles(&mut self) {
        let Some(r) = self.rollout.clone() else { return };
        for (key, seen) in &mut self.instances {
            let own = seen.adopted_for.unwrap_or(key.version) == r.target && key.job_id == r.job;
            let stands_by = r.has_bake() && seen.runs() && !self.tasks.contains_key(key);
            if r.has_second_job() {
                match &mut seen.drain {
                    _ if own => (seen.role, seen.stands_until) = (Role::Primary, Late::Never),
                    Some(drain) => drain.leads_to = LeadsTo::Stop,
                    // A canary is told to stop in the same step; a standby of an older deployment has its own time.
                    None if matches!(seen.role, Role::Canary | Role::Standby) => {}
                    None if stands_by => {
                        (seen.role, seen.late) = (Role::Standby, Late::Never);
                    }
                    None => seen.role = Role::Retired,
                }
            } else if seen.role == Role::Canary && !seen.told_to_stop && (own || !r.changed.contains(&key.agent)) {
                seen.role = Role::Primary;
            }
        }
    }

    fn become_primaries(&mut self) {
        let Some(job) = self.rollout.as_ref().map(|r| r.job.clone()) else { return };
        for (key, seen) in &mut self.instances {
            if key.job_id == job && seen.role == Role::Canary && !seen.told_to_stop && seen.drain.is_none() {
                seen.role = Role::Primary;
            }
        }
    }

    /// Rule 11.6: an instance counts for a later version whose plan left it unchanged.
    fn count_for(&mut self, version: u64, job: &Arc<str>, changed: &[Arc<str>]) {
        let agents = self.versions.get(&version).map(|told| told.agents_with_nodes()).unwrap_or_default();
        for (key, seen) in &mut self.instances {
            let stays = key.job_id == *job && agents.contains(&key.agent) && !changed.contains(&key.agent);
            if stays && !seen.is_going() && seen.drain.is_none() {
                seen.counts_for.insert(version);
            }
        }
    }

    /// Rules 4.10, 10.6: the progress deadline, and whether drains hold it.
    fn take_progress_in(&mut self, event: &Event) {
        let at = event.at;
        let waits_for_drains =
            self.held_back().next().is_some() && self.counted().all(|(_, seen)| seen.verdict == Verdict::Healthy);
        let Some(r) = &mut self.rollout else { return };
        let ms = r.policy.progress_deadline_ms;
        let full = if ms == 0 { Late::Never } else { Late::At(at + ms) };
        match &event.body {
            EventBody::DeploymentStarted(_) => r.progress = full,
            EventBody::DeploymentPromoted { .. } if r.progress == Late::Never => r.progress = full,
            EventBody::DeploymentPromoted { .. } => r.progress = r.progress.with_at_least(ms, at),
            EventBody::AwaitingPromotion { .. } => r.progress = Late::Never,
            EventBody::DeploymentPaused { .. } => r.progress = r.progress.hold(at),
            EventBody::DeploymentResumed { .. } => r.progress = r.progress.release(at),
            _ => {}
        }
        match r.phase {
            Phase::Running if waits_for_drains => r.progress = r.progress.hold(at),
            Phase::Running => r.progress = r.progress.release(at),
            Phase::Ended(_) => r.progress = Late::Never,
            Phase::Awaiting | Phase::Paused { .. } => {}
        }
    }

    /// Returns true if drains hold the progress deadline.
    pub fn progress_is_held(&self) -> bool {
        self.rollout.as_ref().is_some_and(|r| r.phase == Phase::Running && matches!(r.progress, Late::Left(_)))
    }

    /// A report of another attempt: nothing is known of its sessions.
    pub fn forget_sessions(&mut self, key: &InstanceKey) {
        if let Some(seen) = self.instances.get_mut(key) {
            seen.sessions = None;
            if let Some(drain) = &mut seen.drain {
                drain.idle = Late::Never;
            }
        }
    }
}

/// Situations of drains, as the run counts them: each must occur in a thousand worlds.
pub const SITUATIONS: [&str; 20] = [
    "drain for a replacement",
    "drain for a stop",
    "drain taken up",
    "drain withdrawn",
    "drain redirected",
    "drain moved by an operator",
    "drain ended: drained",
    "drain ended: stopped",
    "drain ended: failed",
    "drain ended: idle",
    "drain ended: too long",
    "drain ended: by DRAIN",
    "drain ended: by STOP NOW",
    "drain ended in a pause",
    "drain followed by a restart",
    "restart withdrawn",
    "unsafe in a drain",
    "progress held by drains",
    "sessions told",
    "refused for what drains",
];

/// Names what an event means for a drain.
pub fn situation(model: &Model, event: &Event, command: &Command) -> Option<&'static str> {
    let seen = |instance| model.instances.get(&key_of(instance, event.version));
    Some(match &event.body {
        EventBody::TaskIssued { drain: Some(new), .. } if new.outcome == DrainOutcome::Stop => "drain for a stop",
        EventBody::TaskIssued { drain: Some(_), .. } => "drain for a replacement",
        EventBody::TaskIssued { instance, task: TaskKind::Start, .. } if seen(instance).is_some() => {
            "drain followed by a restart"
        }
        EventBody::TaskDone { task: TaskKind::Drain, withdrawn: false, .. } => "drain taken up",
        EventBody::TaskDone { instance, task: TaskKind::Drain, .. } => {
            let is_open = seen(instance)?.drain.is_some_and(|drain| drain.is_open());
            return is_open.then_some("drain withdrawn");
        }
        EventBody::TaskDone { instance, task: TaskKind::Start, withdrawn: true, .. } => {
            return (seen(instance)?.attempt > 0).then_some("restart withdrawn")
        }
        EventBody::AgentDraining { by, .. } if matches!(command, Command::Drain(_)) && &**by != "auto" => {
            "drain moved by an operator"
        }
        EventBody::AgentDraining { instance, outcome, .. } => {
            let before = seen(instance)?.drain?.leads_to;
            return (before != leads_to(*outcome)).then_some("drain redirected");
        }
        EventBody::AgentDrained { instance, forced, .. } => {
            let (seen, drain) = (seen(instance)?, seen(instance)?.drain?);
            match command {
                _ if !forced && seen.state == InstanceState::Failed => "drain ended: failed",
                _ if matches!(drain.latest, Late::Left(_)) => "drain ended in a pause",
                _ if matches!(drain.latest, Late::At(late) if *forced && late <= event.at) => "drain ended: too long",
                Command::Drain(_) if *forced => "drain ended: by DRAIN",
                Command::Stop { .. } if *forced => "drain ended: by STOP NOW",
                _ if matches!(drain.idle, Late::At(idle) if idle <= event.at) => "drain ended: idle",
                Command::Report(report) => match report.state.name() {
                    "drained" => "drain ended: drained",
                    _ => "drain ended: stopped",
                },
                _ => return None,
            }
        }
        EventBody::AgentState { instance, state: AgentReport::Unsafe, .. } => {
            return seen(instance)?.drain.map(|_| "unsafe in a drain")
        }
        _ => return None,
    })
}
