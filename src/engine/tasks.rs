//! Tasks: releasing an agent, requesting a stop, withdrawing what nobody has taken up.

use super::draft::{instance_ref, Actor, Draft};
use super::event::{AgentReport, EventBody, InstanceRef};
use super::instance::{Instance, InstanceKey, InstanceState, Role, TaskKind};
use super::manifest::BATCH_AGENT;
use super::time::Deadline;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Draft<'_, '_> {
    /// Releases one agent: issues `replace` where it runs an instance in the same job, else `start`.
    pub fn release(&mut self, agent: &Arc<str>, role: Role) {
        let Some(d) = self.deployment() else { return };
        let (version, job_id) = (d.target_version, d.target_job_id.clone());
        let deadline = Deadline::after(self.now(), d.policy.healthy_deadline_ms);
        let Some(target) = self.record.version(version) else { return };
        let node = target.node_of(agent);
        let bundle = target.bundle.clone();
        let old =
            self.record.running_instance_in(agent, &job_id).filter(|_| role != Role::Candidate).map(|i| i.version);
        let (task, from_version) = match old {
            Some(version) => (TaskKind::Replace, Some(version)),
            None => (TaskKind::Start, None),
        };
        // An instance that is replaced need not be started any more.
        let unstarted: Vec<InstanceKey> = self
            .record
            .instances
            .of_agent(agent)
            .iter()
            .filter(|i| i.job_id == job_id && i.task.is_some() && !i.is_stopping())
            .map(Instance::key)
            .collect();
        for key in unstarted {
            self.withdraw(&key, false);
        }
        let instance = InstanceRef { agent: agent.clone(), node, job_id, role };
        self.issue(version, instance, task, from_version, deadline, bundle, Actor::auto());
    }

    /// Issues a task.
    #[allow(clippy::too_many_arguments)] // the fields of a task, in the order of rule 7
    pub fn issue(
        &mut self,
        version: u64,
        instance: InstanceRef,
        task: TaskKind,
        from_version: Option<u64>,
        deadline: Deadline,
        bundle: Option<Arc<str>>,
        by: Actor,
    ) {
        let attempt = match task {
            TaskKind::Stop => {
                let key = InstanceKey { agent: instance.agent.clone(), version, job_id: instance.job_id.clone() };
                // An instance that never reported has attempt 0, and no report has.
                self.record.instances.get(&key).map_or(1, |i| i.attempt.max(1))
            }
            _ => 1,
        };
        let (by, reason) = (by.name, by.reason);
        self.emit(
            version,
            EventBody::TaskIssued { instance, task, from_version, attempt, bundle, deadline, by, reason },
        );
    }

    /// Issues the one `run` task of a batch job (rule 4.7).
    pub fn run_batch(&mut self, version: u64, job_id: Arc<str>, bundle: Option<Arc<str>>) {
        let agent: Arc<str> = Arc::from(BATCH_AGENT);
        let instance = InstanceRef { agent: agent.clone(), node: agent, job_id, role: Role::Primary };
        self.issue(version, instance, TaskKind::Run, None, Deadline::Off, bundle, Actor::auto());
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

    /// Requests the stop of an instance, and withdraws its open task. One that has stopped already is removed instead.
    pub fn request_stop(&mut self, key: &InstanceKey, role: Role, by: Actor) {
        let Some(instance) = self.record.instances.get(key) else { return };
        if instance.is_stopping() {
            return;
        }
        if instance.state == InstanceState::Stopped {
            return self.remove_stopped(key, role);
        }
        let reference = InstanceRef { role, ..instance_ref(instance) };
        if let Some(open) = &instance.task {
            let body = EventBody::TaskDone {
                instance: reference.clone(),
                task: open.kind,
                withdrawn: true,
                removes_instance: false,
            };
            self.emit(key.version, body);
        }
        let bundle = self.record.version(key.version).and_then(|v| v.bundle.clone());
        self.issue(key.version, reference, TaskKind::Stop, None, Deadline::Off, bundle, by);
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
        let is_removed = |i: &&Instance| removed.contains(&i.agent) || i.job_id != job_id;
        let keys: Vec<InstanceKey> = self.record.instances.iter().filter(is_removed).map(Instance::key).collect();
        for key in keys {
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
        self.record.instances.iter().filter(|i| self.record.is_own(i) && filter(i)).map(Instance::key).collect()
    }
}
