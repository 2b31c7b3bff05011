//! The rollout: what a deployment does by itself, in the order of time. Every strategy, failure and fallback acts here.

use super::deadline::{next_deadline, next_due, Due};
use super::deployment::{Cause, Mode, Status, UnsafeReport};
use super::draft::{Actor, Draft};
use super::event::EventBody;
use super::instance::{Instance, InstanceState, Role};
use super::planner;
use super::strategy::{self, Step};
use super::time::Deadline;
use std::sync::Arc;

impl Draft<'_, '_> {
    /// Processes everything that is due, in the order of the due times, so that a late tick decides what a punctual one
    /// would have. At most `max` items: a tick leaves the rest to the next one, so that no command blocks the server
    /// for long.
    pub fn process_due(&mut self, max: usize) {
        for _ in 0..max {
            if next_deadline(&self.record).is_none_or(|at| at > self.now()) {
                return;
            }
            let Some((_, due)) = next_due(&self.record) else { return };
            match due {
                Due::Ttl(id) => self.expire(&id),
                Due::Healthy(key) => self.mark_healthy(&key),
                Due::HealthyDeadline(key) => self.on_healthy_deadline(&key),
                Due::Idle(key) => self.end_drain(&key, false, Actor::auto()),
                Due::StandbyEnd(key) => self.request_stop(&key, Role::Retired, Actor::auto()),
                Due::BakeEnd => self.finish(Actor::auto()),
                Due::DrainDeadline(key) => self.end_drain(&key, true, Actor::auto()),
                Due::ProgressDeadline => {
                    let ms = self.deployment().map_or(0, |d| d.policy.progress_deadline_ms);
                    let description = format!("no progress within {ms} ms: {}", self.who_is_not_healthy());
                    self.fail(Cause::ProgressDeadline, &description, Actor::auto());
                }
            }
            self.advance();
        }
    }

    /// Takes the steps that are possible now, until the deployment has to wait or has ended; then issues what follows
    /// the drains that have ended, as that depends on which agents the deployment has released.
    pub fn advance(&mut self) {
        self.take_steps();
        self.follow_up_drains();
    }

    fn take_steps(&mut self) {
        loop {
            let Some(d) = self.deployment() else { return };
            if !d.status.is_active() || d.status == Status::Paused {
                return;
            }
            if let Some(deferred) = d.deferred_failure.clone() {
                self.fail(deferred.cause, &deferred.words, Actor::auto());
                continue;
            }
            if d.status != Status::Running {
                return;
            }
            if let Some(report) = d.unsafe_report.clone() {
                self.fall_back(report);
                continue;
            }
            match strategy::next(&self.record) {
                Step::Wait => return,
                Step::Release { agents, role } => {
                    let released = self.own_counts().released();
                    for agent in agents {
                        self.release(&agent, role);
                    }
                    // A decoded record may claim more canaries than it has agents, or an agent twice.
                    if self.own_counts().released() == released {
                        return;
                    }
                }
                Step::Await => {
                    let healthy = self.own_counts().healthy as u32;
                    self.emit(self.target(), EventBody::AwaitingPromotion { healthy });
                    return;
                }
                Step::Promote => self.promote(Actor::auto(), false),
                Step::Finish if d.has_bake() => self.begin_bake(),
                Step::Finish => self.finish(Actor::auto()),
                Step::Bake => self.start_bake(),
            }
        }
    }

    /// Promotes the target version; with `full`, it does not bake.
    pub fn promote(&mut self, by: Actor, full: bool) {
        let Some(d) = self.deployment() else { return };
        let ms = d.policy.progress_deadline_ms;
        let progress = match d.progress {
            Deadline::Off => Deadline::after(self.now(), ms),
            runs => runs.extend(self.now(), ms),
        };
        let body = EventBody::DeploymentPromoted { progress, by: by.name, reason: by.reason, full };
        self.emit(self.target(), body);
    }

    /// Begins the bake (rule 12.1). What was not fit to stand by is stopped.
    fn begin_bake(&mut self) {
        let has_second_job = self.deployment().is_some_and(|d| d.has_second_job());
        let is_left = |i: &Instance| {
            has_second_job
                && matches!(i.role, Role::Retired | Role::Canary)
                && !self.record.is_own(i)
                && !i.is_stopping()
        };
        for key in self.record.instances.keys_where(is_left) {
            self.request_stop(&key, Role::Retired, Actor::auto());
        }
        self.start_bake();
    }

    /// Starts the clock of the bake.
    fn start_bake(&mut self) {
        let Some(d) = self.deployment() else { return };
        let bake = Deadline::after(self.now(), d.policy.bake_ms);
        self.emit(self.target(), EventBody::BakeStarted { bake });
    }

    /// Ends the deployment as successful: all changed agents are healthy. The rest is stopped.
    pub fn finish(&mut self, by: Actor) {
        let Some(d) = self.deployment() else { return };
        let (desired, removed) = (d.changed.len(), d.removed_agents.clone());
        self.stop_removed(&removed);
        let description = format!("{desired} of {desired} agents healthy");
        let description = Arc::from(description);
        self.emit(self.target(), EventBody::DeploymentSuccessful { description, by: by.name, reason: by.reason });
    }

    /// Ends the active deployment because a newer one starts: replacements that nobody has taken up are withdrawn; the
    /// stop of unpromoted candidates is requested (rule 4.8).
    pub fn supersede(&mut self, by: &Actor, newer: &str) {
        let Some(d) = self.deployment().filter(|d| d.status.is_active()) else { return };
        let (mode, promoted, target) = (d.mode, d.promoted, d.target_version);
        let body = EventBody::DeploymentCancelled {
            cause: Cause::NewerVersion,
            description: Arc::from(format!("cancelled by {newer}")),
            by: by.name.clone(),
            reason: None,
        };
        self.emit(target, body);
        self.withdraw_open_drains();
        match mode {
            Mode::BlueGreen | Mode::SwitchBack if !promoted => self.stop_candidates(),
            Mode::InPlace => {
                for key in self.own_keys(|i| i.state == InstanceState::Waiting && i.task.is_some()) {
                    self.withdraw(&key, true);
                }
            }
            _ => {}
        }
    }

    /// Falls back to blue-green, since an agent cannot be replaced in place: a second job starts, and replaced
    /// instances count for the old side (rule 4.6).
    fn fall_back(&mut self, report: UnsafeReport) {
        let Some(d) = self.deployment() else { return };
        let (target, requested, id, policy) =
            (d.target_version, d.requested_job.clone(), d.id.clone(), d.policy.clone());
        let waiting = self.own_keys(|i| i.state == InstanceState::Waiting && i.task.is_some());
        let changed: Arc<[Arc<str>]> =
            self.record.agents_with_nodes(target).into_iter().map(|(agent, _)| agent).collect();
        let job_id = planner::unused_job_id(&self.record, requested.as_ref(), &id);
        let canaries = policy.canaries(changed.len()) as u32;
        for key in waiting {
            self.withdraw(&key, true);
        }
        self.emit(
            target,
            EventBody::FallbackBlueGreen { agent: report.agent, reason: report.words, job_id, changed, canaries },
        );
        self.withdraw_open_drains();
    }

    /// Ends the deployment as failed; with `auto_revert` a rollback to the newest stable version starts in the same
    /// step (rule 4.11).
    pub fn fail(&mut self, cause: Cause, description: &str, by: Actor) {
        let Some(d) = self.record.deployment.clone() else { return };
        let revert = if !d.policy.auto_revert {
            Revert::NotRequested
        } else if d.rollback_of.is_some() {
            Revert::No("a rollback never reverts".to_string())
        } else {
            self.plan_revert(cause)
        };
        let text = match &revert {
            Revert::NotRequested => description.to_string(),
            Revert::No(reason) => format!("{description}; not reverted: {reason}"),
            Revert::To(version) => format!("{description}; reverts to version {version}"),
        };
        let body = EventBody::DeploymentFailed { cause, description: Arc::from(text), by: by.name, reason: by.reason };
        self.emit(d.target_version, body);
        self.clear_after_failure();
        if let Revert::To(version) = revert {
            let reason = format!("reverts version {}: {description}", d.target_version);
            planner::revert(self, version, cause, Arc::from(reason));
        }
    }

    /// Cleans up after a failure: in place, instances stay as they are and replacements that nobody has taken up are
    /// withdrawn; the stop of blue-green candidates is requested.
    fn clear_after_failure(&mut self) {
        self.withdraw_open_drains();
        match self.deployment().map(|d| (d.mode, d.promoted)) {
            Some((Mode::BlueGreen, false)) => self.stop_candidates(),
            Some((Mode::InPlace, _)) => {
                for key in self.own_keys(|i| i.state == InstanceState::Waiting && i.task.is_some()) {
                    self.withdraw(&key, false);
                }
            }
            _ => {}
        }
    }

    /// Decides to which version a failure would revert.
    fn plan_revert(&self, cause: Cause) -> Revert {
        let Some(version) = self.record.stable_version() else {
            return Revert::No("there is no stable version".to_string());
        };
        // The record as it will be after the failure and the cleanup.
        let mut copy = self.record.clone();
        let mut after = Draft::on(&mut copy, self.context);
        let Actor { name: by, reason } = Actor::auto();
        let body = EventBody::DeploymentFailed { cause, description: Arc::default(), by, reason };
        after.emit(self.target(), body);
        after.clear_after_failure();
        match planner::plan_rollback(&after.record, version, &after.context_id()) {
            Ok(proposal) if proposal.mode == Mode::Noop && proposal.removed_agents.is_empty() => {
                Revert::No(format!("nothing would change, every agent runs version {version}"))
            }
            Ok(_) => Revert::To(version),
            Err(why) => Revert::No(why),
        }
    }
}

/// The decision about a revert.
enum Revert {
    NotRequested,
    /// Not possible, with the reason.
    No(String),
    To(u64),
}
