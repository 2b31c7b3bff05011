//! Drains (rule 10): an instance that may hold sessions finishes them before it is replaced or stopped. A drain begins
//! in the place of the task that it delays, and when it has ended, that task is issued in the same step.

use super::deployment::Status;
use super::draft::{instance_ref, Actor, Draft};
use super::event::{EventBody, InstanceRef, NewDrain, SilentChange};
use super::instance::{DrainOutcome, Instance, InstanceKey, Role, TaskKind};
use super::manifest::BATCH_AGENT;
use super::tasks::NewTask;
use super::time::Deadline;

/// The task that follows a drain.
enum FollowUp {
    Replace,
    Stop,
    /// The next attempt of the instance itself.
    Restart,
}

impl Draft<'_, '_> {
    // ---- the beginning ----------------------------------------------------------------------------------------------

    /// Returns true if an instance has to drain before it is replaced or stopped (rule 10.1): it may hold sessions.
    pub fn drains(&self, instance: &Instance) -> bool {
        let may_have_sessions = match instance.role {
            Role::Primary | Role::Standby | Role::Retired => true,
            // Never received callers, or drains already.
            Role::Canary | Role::Candidate | Role::Draining => false,
        };
        may_have_sessions
            && instance.state.is_up()
            && !instance.is_stopping()
            && &*instance.agent != BATCH_AGENT
            && self.deployment().is_some_and(|d| d.policy.drain_ms > 0)
    }

    /// Issues the drain task of an instance.
    pub fn drain(&mut self, key: &InstanceKey, outcome: DrainOutcome, by: Actor) {
        let (Some(instance), Some(d)) = (self.record.instances.get(key), self.deployment()) else { return };
        let drain = NewDrain {
            outcome,
            deadline: Deadline::after(self.now(), d.policy.drain_ms),
            idle_ms: d.policy.min_healthy_ms,
        };
        let reference = InstanceRef { role: Role::Draining, ..instance_ref(instance) };
        let attempt = instance.attempt.max(1);
        let task = NewTask { kind: TaskKind::Drain, attempt, by, drain: Some(drain), ..NewTask::default() };
        self.issue(key.version, reference, task);
    }

    // ---- while it runs ----------------------------------------------------------------------------------------------

    /// Marks a drain as taken up: a coordinator has reported about it, with or without a number of sessions (rule
    /// 10.2).
    pub fn take_up_drain(&mut self, key: &InstanceKey, sessions: Option<u32>) {
        let Some(instance) = self.record.instances.get(key) else { return };
        let task = TaskKind::Drain;
        let body =
            EventBody::TaskDone { instance: instance_ref(instance), task, withdrawn: false, removes_instance: false };
        self.emit(key.version, body);
        if let Some(sessions) = sessions {
            self.hold_sessions(key, sessions);
        }
        let drain = self.record.instances.get(key).and_then(|instance| instance.drain.clone());
        if let Some(drain) = drain {
            self.change_drain(key, drain.outcome, drain.deadline, Actor::auto());
        }
    }

    /// Changes what follows a drain. Its end stays.
    pub fn redirect_drain(&mut self, key: &InstanceKey, outcome: DrainOutcome, by: Actor) {
        let drain = self.record.instances.get(key).and_then(|instance| instance.drain.as_ref());
        if let Some(deadline) = drain.map(|drain| drain.deadline) {
            self.change_drain(key, outcome, deadline, by);
        }
    }

    /// Emits the event with what follows a drain, and when it ends at the latest.
    pub fn change_drain(&mut self, key: &InstanceKey, outcome: DrainOutcome, deadline: Deadline, by: Actor) {
        let Some(instance) = self.record.instances.get(key) else { return };
        let body = EventBody::AgentDraining {
            instance: instance_ref(instance),
            outcome,
            sessions: instance.sessions,
            deadline,
            by: by.name,
            reason: by.reason,
        };
        self.emit(key.version, body);
    }

    /// Withdraws the drains that lead to nothing any more, and that nobody has taken up (rule 10.8). Those that were
    /// taken up run to their end.
    pub fn withdraw_open_drains(&mut self) {
        let is_open = |i: &Instance| {
            let issued = i.task.as_ref().is_some_and(|task| task.kind == TaskKind::Drain);
            issued && i.drain.as_ref().is_some_and(|drain| drain.outcome == DrainOutcome::Open)
        };
        for key in self.record.instances.keys_where(is_open) {
            self.withdraw(&key, false);
        }
    }

    // ---- the end ----------------------------------------------------------------------------------------------------

    /// Ends a drain (rule 10.4). What follows is issued by [`Draft::follow_up_drains`], in the same step.
    pub fn end_drain(&mut self, key: &InstanceKey, forced: bool, by: Actor) {
        let Some(instance) = self.record.instances.get(key).filter(|instance| instance.has_open_drain()) else {
            return;
        };
        let reference = instance_ref(instance);
        let body = EventBody::AgentDrained {
            instance: reference,
            sessions: instance.sessions,
            forced,
            by: by.name,
            reason: by.reason,
        };
        self.emit(key.version, body);
        self.withdraw(key, false);
    }

    /// Issues what follows the drains that have ended. A replacement waits for the resume of a paused deployment.
    pub fn follow_up_drains(&mut self) {
        if self.record.instances.draining() == 0 {
            return; // as with nearly every command
        }
        let drained: Vec<InstanceKey> = self.record.instances.drained().map(Instance::key).collect();
        for key in drained {
            let Some(instance) = self.record.instances.get(&key) else { continue };
            match self.follow_up(instance) {
                Some(FollowUp::Replace) => self.start_successor(&key.agent, self.in_place_role(), Some(key.version)),
                Some(FollowUp::Stop) => self.stop(&key, Role::Retired, Actor::auto()),
                Some(FollowUp::Restart) => self.restart(&key),
                None => {}
            }
        }
    }

    /// Decides what follows the drain of an instance (rule 10.8); None while a pause holds it.
    fn follow_up(&self, instance: &Instance) -> Option<FollowUp> {
        let (Some(drain), Some(d)) = (&instance.drain, self.deployment()) else { return None };
        match drain.outcome {
            DrainOutcome::Stop => return Some(FollowUp::Stop),
            DrainOutcome::Replace { version } if version == d.target_version && d.status == Status::Paused => {
                return None
            }
            DrainOutcome::Replace { version } if version == d.target_version && d.status.is_active() => {
                return Some(FollowUp::Replace)
            }
            DrainOutcome::Replace { .. } | DrainOutcome::Open => {}
        }
        let is_in_effect = d.status.is_active() || d.status == Status::Successful;
        let is_over = match d.has_second_job() {
            true => d.promoted && instance.job_id != d.target_job_id,
            false => is_in_effect && d.removed_agents.contains(&instance.agent),
        };
        Some(if is_over { FollowUp::Stop } else { FollowUp::Restart })
    }

    /// Returns the role of an instance that the deployment releases in place.
    fn in_place_role(&self) -> Role {
        match self.deployment() {
            Some(d) if d.canaries > 0 && !d.promoted => Role::Canary,
            _ => Role::Primary,
        }
    }

    /// Starts an instance anew: it has drained, but nothing follows it, and its agent must go on running.
    fn restart(&mut self, key: &InstanceKey) {
        self.clear_services(key, "restarted");
        let Some(instance) = self.record.instances.get(key) else { return };
        let healthy_deadline_ms = self.record.version(key.version).map_or(0, |v| v.policy.healthy_deadline_ms);
        let deadline = Deadline::after(self.now(), healthy_deadline_ms);
        let attempt = instance.attempt.saturating_add(1);
        let reference = InstanceRef { role: Role::Primary, ..instance_ref(instance) };
        self.issue(key.version, reference, NewTask { attempt, deadline, ..NewTask::default() });
    }

    /// Records the number of sessions that an instance holds: a silent change (rule 10.3).
    pub fn hold_sessions(&mut self, key: &InstanceKey, sessions: u32) {
        let Some(instance) = self.record.instances.get(key) else { return };
        let idle = self.idle_with(instance, sessions);
        let is_known =
            instance.sessions == Some(sessions) && instance.drain.as_ref().is_none_or(|drain| drain.idle == idle);
        if !is_known {
            self.emit_silent(SilentChange::SessionsReported { instance: key.clone(), sessions, idle });
        }
    }

    /// Returns the time at which a drain ends if its instance now holds this number of sessions (rule 10.4).
    fn idle_with(&self, instance: &Instance, sessions: u32) -> Deadline {
        match &instance.drain {
            Some(drain) if drain.is_open() && sessions == 0 && instance.task.is_none() => match drain.idle {
                Deadline::Off => drain.idle_after(self.now()),
                runs => runs,
            },
            _ => Deadline::Off,
        }
    }

    /// Ends the drains of a version at a time that an operator gives (rule 10.11). Returns false if it has none.
    pub fn end_drains_of(&mut self, version: u64, in_ms: u64, by: &Actor) -> bool {
        let keys = self.record.instances.keys_where(|i| i.version == version && i.has_open_drain());
        for key in &keys {
            if in_ms == 0 {
                self.end_drain(key, true, by.clone());
                continue;
            }
            let drain = self.record.instances.get(key).and_then(|instance| instance.drain.clone());
            let Some(drain) = drain else { continue };
            let deadline = match drain.deadline {
                Deadline::Paused { .. } => Deadline::Paused { left_ms: in_ms },
                _ => Deadline::after(self.now(), in_ms),
            };
            self.change_drain(key, drain.outcome, deadline, by.clone());
        }
        !keys.is_empty()
    }
}
