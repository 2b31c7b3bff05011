//! Tasks: releasing an agent, requesting a stop, withdrawing what nobody has taken up.

use super::draft::{instance_ref, Actor, Draft};
use super::event::{AgentReport, EventBody, InstanceRef, NewDrain};
use super::instance::{DrainOutcome, Instance, InstanceKey, InstanceState, Role, TaskKind};
use super::manifest::BATCH_AGENT;
use super::time::Deadline;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The fields of a task, beside the instance that it is about.
pub(super) struct NewTask {
    pub kind: TaskKind,
    pub from_version: Option<u64>,
    pub attempt: u32,
    pub deadline: Deadline,
    pub by: Actor,
    pub drain: Option<NewDrain>,
}

impl Default for NewTask {
    fn default() -> NewTask {
        NewTask {
            kind: TaskKind::Start,
            from_version: None,
            attempt: 1,
            deadline: Deadline::Off,
            by: Actor::auto(),
            drain: None,
        }
    }
}

impl Draft<'_, '_> {
    /// Releases one agent: issues `replace` where it runs an instance in the same job, else `start`. An instance that
    /// may hold sessions drains before it is replaced (rule 10.1).
    pub fn release(&mut self, agent: &Arc<str>, role: Role) {
        let Some(d) = self.deployment() else { return };
        let (version, job_id) = (d.target_version, d.target_job_id.clone());
        let old = self.record.running_instance_in(agent, &job_id).filter(|_| role != Role::Candidate);
        match old {
            Some(old) if old.has_open_drain() => {
                let key = old.key();
                self.redirect_drain(&key, DrainOutcome::Replace { version }, Actor::auto());
            }
            Some(old) if self.drains(old) => {
                let key = old.key();
                self.drain(&key, DrainOutcome::Replace { version }, Actor::auto());
            }
            old => {
                let from_version = old.map(|old| old.version);
                self.start_successor(agent, role, from_version);
            }
        }
    }

    /// Issues the task of an agent's instance of the target version: `replace`, or `start` where it replaces none.
    pub fn start_successor(&mut self, agent: &Arc<str>, role: Role, from_version: Option<u64>) {
        let Some(d) = self.deployment() else { return };
        let (version, job_id) = (d.target_version, d.target_job_id.clone());
        let deadline = Deadline::after(self.now(), d.policy.healthy_deadline_ms);
        let Some(target) = self.record.version(version) else { return };
        let node = target.node_of(agent);
        // An instance that is replaced need not be started any more.
        let unstarted: Vec<InstanceKey> = self
            .record
            .instances
            .of_agent(agent)
            .iter()
            .filter(|i| i.job_id == job_id && i.task.as_ref().is_some_and(|task| task.kind.is_start()))
            .map(Instance::key)
            .collect();
        for key in unstarted {
            self.withdraw(&key, false);
        }
        let kind = if from_version.is_some() { TaskKind::Replace } else { TaskKind::Start };
        let instance = InstanceRef { agent: agent.clone(), node, job_id, role };
        self.issue(version, instance, NewTask { kind, from_version, deadline, ..NewTask::default() });
    }

    /// Issues a task.
    pub fn issue(&mut self, version: u64, instance: InstanceRef, new: NewTask) {
        let NewTask { kind, from_version, attempt, deadline, by: Actor { name: by, reason }, drain } = new;
        let bundle = self.record.version(version).and_then(|version| version.bundle.clone());
        let task = kind;
        self.emit(
            version,
            EventBody::TaskIssued { instance, task, from_version, attempt, bundle, deadline, by, reason, drain },
        );
    }

    /// Issues the one `run` task of a batch job (rule 4.7).
    pub fn run_batch(&mut self, version: u64, job_id: Arc<str>) {
        let agent: Arc<str> = Arc::from(BATCH_AGENT);
        let instance = InstanceRef { agent: agent.clone(), node: agent, job_id, role: Role::Primary };
        self.issue(version, instance, NewTask { kind: TaskKind::Run, ..NewTask::default() });
    }

    /// Withdraws the open task of an instance.
    pub fn withdraw(&mut self, key: &InstanceKey, removes_instance: bool) {
        if removes_instance {
            self.clear_services(key, "withdrawn");
        }
        let Some(instance) = self.record.instances.get(key) else { return };
        let Some(open) = &instance.task else { return };
        let body = EventBody::TaskDone {
            instance: instance_ref(instance),
            task: open.kind,
            withdrawn: true,
            removes_instance,
        };
        self.emit(key.version, body);
    }

    /// Requests the stop of an instance, after a drain where it may hold sessions. One that has stopped already is
    /// removed instead.
    pub fn request_stop(&mut self, key: &InstanceKey, role: Role, by: Actor) {
        let Some(instance) = self.record.instances.get(key) else { return };
        if instance.has_open_drain() {
            if !instance.is_leaving() {
                self.redirect_drain(key, DrainOutcome::Stop, by);
            }
        } else if self.drains(instance) {
            self.drain(key, DrainOutcome::Stop, by);
        } else {
            self.stop(key, role, by);
        }
    }

    /// Requests the stop of an instance at once, and withdraws its open task. One that has stopped already is removed
    /// instead.
    pub fn stop(&mut self, key: &InstanceKey, role: Role, by: Actor) {
        let Some(instance) = self.record.instances.get(key) else { return };
        if instance.is_stopping() {
            return;
        }
        if instance.state == InstanceState::Stopped {
            return self.remove_stopped(key, role);
        }
        // One that has drained is not resolved any more, and a standby can not take over again.
        let role = if matches!(role, Role::Draining | Role::Standby) { Role::Retired } else { role };
        let reference = InstanceRef { role, ..instance_ref(instance) };
        // An instance that never reported has attempt 0, and no report has.
        let attempt = instance.attempt.max(1);
        if let Some(open) = &instance.task {
            let body = EventBody::TaskDone {
                instance: reference.clone(),
                task: open.kind,
                withdrawn: true,
                removes_instance: false,
            };
            self.emit(key.version, body);
        }
        self.issue(key.version, reference, NewTask { kind: TaskKind::Stop, attempt, by, ..NewTask::default() });
    }

    /// Removes an instance that has stopped, with its services.
    fn remove_stopped(&mut self, key: &InstanceKey, role: Role) {
        self.clear_services(key, "stopped");
        let Some(instance) = self.record.instances.get(key) else { return };
        let reference = InstanceRef { role, ..instance_ref(instance) };
        if let Some(open) = &instance.task {
            let body =
                EventBody::TaskDone { instance: reference, task: open.kind, withdrawn: true, removes_instance: true };
            return self.emit(key.version, body);
        }
        let body = EventBody::AgentState {
            instance: reference,
            state: AgentReport::State(instance.state),
            attempt: instance.attempt,
            reason: instance.reason.clone(),
            healthy_at: None,
            removes_instance: true,
            fails_at_resume: false,
        };
        self.emit(key.version, body);
    }

    /// Requests the stop of what a successful version does not have: removed agents, and every instance of another job.
    /// Those are the old side of a blue-green update, or instances that restarted in a job that had ended before this
    /// one started.
    pub fn stop_removed(&mut self, removed: &[Arc<str>]) {
        let Some(job_id) = self.deployment().map(|d| d.target_job_id.clone()) else { return };
        let removed: BTreeSet<&Arc<str>> = removed.iter().collect();
        // Standbys of earlier deployments have a time of their own.
        let stands_by = |i: &Instance| i.role == Role::Standby && i.standby_until.is_some();
        let is_removed = |i: &Instance| (removed.contains(&i.agent) || i.job_id != job_id) && !stands_by(i);
        for key in self.record.instances.keys_where(is_removed) {
            self.request_stop(&key, Role::Retired, Actor::auto());
        }
    }

    /// Requests the stop of the deployment's candidates.
    pub fn stop_candidates(&mut self) {
        for key in self.own_keys(|_| true) {
            self.request_stop(&key, Role::Candidate, Actor::auto());
        }
    }

    /// Returns the keys of the deployment's own instances that `filter` admits.
    pub fn own_keys(&self, filter: impl Fn(&Instance) -> bool) -> Vec<InstanceKey> {
        self.record.instances.keys_where(|i| self.record.is_own(i) && filter(i))
    }
}
