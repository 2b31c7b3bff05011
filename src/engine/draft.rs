//! A decision in the making: the record as it would be, and the changes that lead there. What every command shares
//! once it has been judged: time that has passed, and what a deployment does next by itself.

use super::command::Context;
use super::deployment::{Cause, Deployment, Mode, Receipt, Status, UnsafeReport};
use super::instance::{Health, Instance, InstanceKey, InstanceState, Role, TaskKind};
use super::manifest::BATCH_AGENT;
use super::record::Record;

use super::deadline::{next_deadline, next_due, Due};
use super::event::{AgentReport, Change, Event, EventBody, InstanceRef, SilentChange};
use super::evolve::evolve;
use super::planner;
use super::services::CheckStatus;
use super::services::Service;
use super::strategy::{self, Step};
use super::time::{Deadline, UnixMs};
use super::transaction::Transaction;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Who acts where a rule acts (rule 5).
pub const AUTO: &str = "auto";

/// Who does something, and why.
#[derive(Debug, Clone)]
pub(super) struct Actor {
    pub name: Arc<str>,
    pub reason: Option<Arc<str>>,
}

impl Actor {
    pub fn auto() -> Actor {
        Actor { name: Arc::from(AUTO), reason: None }
    }
}

/// Dropped, it leaves the record as it was.
pub(super) struct Draft<'r, 'c> {
    pub record: Transaction<'r>,
    pub changes: Vec<Change>,
    pub context: &'c Context<'c>,
}

/// How an instance is meant in an event.
pub(super) fn instance_ref(instance: &Instance) -> InstanceRef {
    InstanceRef {
        agent: instance.agent.clone(),
        node: instance.node.clone(),
        job_id: instance.job_id.clone(),
        role: instance.role,
    }
}

impl<'r, 'c> Draft<'r, 'c> {
    pub fn on(record: &'r mut Record, context: &'c Context<'c>) -> Draft<'r, 'c> {
        Draft { record: Transaction::begin(record), changes: Vec::new(), context }
    }

    pub fn now(&self) -> UnixMs {
        self.context.now_ms
    }

    pub fn by(&self, reason: &Option<Arc<str>>) -> Actor {
        Actor { name: Arc::from(self.context.by), reason: reason.clone() }
    }

    /// Lets something have happened.
    pub fn emit(&mut self, version: u64, body: EventBody) {
        let id = self.record.deployment.as_ref().map(|d| d.id.clone()).unwrap_or_else(|| Arc::from(""));
        self.emit_for(id, version, body);
    }

    /// The same, for a deployment that is about to begin.
    pub fn emit_for(&mut self, deployment_id: Arc<str>, version: u64, body: EventBody) {
        let event = Event { revision: self.record.revision + 1, at: self.now(), deployment_id, version, body };
        let change = Change::Event(Arc::new(event));
        evolve(&mut self.record, &change);
        self.changes.push(change);
    }

    pub fn emit_silent(&mut self, change: SilentChange) {
        let change = Change::Silent(change);
        evolve(&mut self.record, &change);
        self.changes.push(change);
    }

    /// The current deployment. Every command but the first DEPLOY is judged on a record that has one.
    pub fn deployment(&self) -> Option<&Deployment> {
        self.record.deployment.as_deref()
    }

    fn target(&self) -> u64 {
        self.deployment().map_or(0, |d| d.target_version)
    }

    pub fn receipt(&self, mode: Option<Mode>) -> Option<Receipt> {
        let d = self.deployment()?;
        Some(Receipt {
            deployment_key: Arc::from(self.context.key),
            deployment_id: d.id.clone(),
            version: d.target_version,
            job_id: d.target_job_id.clone(),
            status: d.status,
            mode: mode.unwrap_or(d.mode),
            revision: self.record.revision,
        })
    }

    // ---- time ----------------------------------------------------------------------------------------------------

    /// Lets everything happen that is due by now, in the order of its times, so that a late tick decides what a
    /// punctual one would have. At most `most` things: a tick leaves the rest to the next one, so that no turn of the
    /// server gets long.
    pub fn process_due(&mut self, most: usize) {
        for _ in 0..most {
            if next_deadline(&self.record).is_none_or(|at| at > self.now()) {
                return;
            }
            let Some((_, due)) = next_due(&self.record) else { return };
            match due {
                Due::Ttl(id) => self.expire(&id),
                Due::Healthy(key) => self.mark_healthy(&key),
                Due::HealthyDeadline(key) => self.on_healthy_deadline(&key),
                Due::ProgressDeadline => {
                    let ms = self.deployment().map_or(0, |d| d.policy.progress_deadline_ms);
                    let words = format!("no progress within {ms} ms: {}", self.who_is_not_healthy());
                    self.fail(Cause::ProgressDeadline, &words, Actor::auto());
                }
            }
            self.advance();
        }
    }

    /// rule 4.9: a TTL that runs out is a failed check.
    fn expire(&mut self, id: &Arc<str>) {
        self.service_status(id, CheckStatus::Critical, Some(Arc::from("TTL expired")), None);
    }

    fn mark_healthy(&mut self, key: &InstanceKey) {
        let Some(instance) = self.record.instances.get(key) else { return };
        let progress = self.progress_after_first_health(instance);
        let event = EventBody::AgentHealthy { instance: instance_ref(instance), progress };
        self.emit(key.version, event);
    }

    /// rule 4.10: the progress deadline starts anew each time an instance becomes healthy for the first time in the
    /// deployment, and never moves back.
    fn progress_after_first_health(&self, instance: &Instance) -> Deadline {
        let Some(d) = self.deployment() else { return Deadline::Off };
        if instance.was_healthy || !self.record.is_own(instance) {
            return d.progress;
        }
        d.progress.extend(self.now(), d.policy.progress_deadline_ms)
    }

    /// The healthy deadline has passed.
    fn on_healthy_deadline(&mut self, key: &InstanceKey) {
        let Some(instance) = self.record.instances.get(key) else { return };
        let ms = self.record.version(key.version).map_or(0, |v| v.policy.healthy_deadline_ms);
        let why = match self.record.check_health(instance) {
            Ok(()) => "not ready long enough".to_string(),
            Err(_) if matches!(instance.state, InstanceState::Starting) => "never ready: starting".to_string(),
            Err(why) => why,
        };
        self.mark_unhealthy(key, &format!("not healthy within {ms} ms: {why}"));
    }

    /// Takes the healthy verdict, or the hope of one, from an instance.
    pub fn mark_unhealthy(&mut self, key: &InstanceKey, reason: &str) {
        let (Some(instance), Some(d)) = (self.record.instances.get(key), self.deployment()) else { return };
        if &*instance.agent == BATCH_AGENT {
            return; // a batch job has an outcome, not a health
        }
        let own = self.record.is_own(instance);
        let ms = d.policy.progress_deadline_ms;
        // rule 4.4: a canary lost while a promotion is awaited lets the deployment run again.
        let resumes_with = match (d.status, d.paused_from) {
            (Status::AwaitingPromotion, _) if own => Some(Deadline::after(self.now(), ms)),
            (Status::Paused, Some(Status::AwaitingPromotion)) if own => {
                Some(if ms == 0 { Deadline::Off } else { Deadline::Paused { left_ms: ms } })
            }
            _ => None,
        };
        // rule 4.10: without a progress deadline the first unhealthy instance is the end. A report `failed` is a
        // cause of its own.
        let fails_at_resume = own && d.status.is_active() && ms == 0 && instance.state != InstanceState::Failed;
        let event = EventBody::AgentUnhealthy {
            instance: instance_ref(instance),
            reason: Arc::from(reason),
            resumes_with,
            fails_at_resume,
        };
        self.emit(key.version, event);
    }

    /// When an instance would be healthy, were it in this state and had these service instances; None where all is
    /// not well with it, or the verdict stands. `anew`: what was well so far does not count.
    pub fn healthy_at_if<'s>(
        &'s self,
        instance: &Instance,
        state: InstanceState,
        services: impl Iterator<Item = &'s Arc<Service>> + Clone + 's,
        anew: bool,
    ) -> Option<UnixMs> {
        let is_judged = state == InstanceState::Ready && !instance.is_stopping() && &*instance.agent != BATCH_AGENT;
        if !is_judged || self.record.health_violations(instance, services).next().is_some() {
            return None;
        }
        let min = self.record.version(instance.version).map_or(0, |v| v.policy.min_healthy_ms);
        match instance.healthy_at {
            Some(at) if !anew => Some(at),
            _ if instance.health == Health::Healthy && !anew => None,
            _ => Some(self.now().saturating_add(min)),
        }
    }

    // ---- services ------------------------------------------------------------------------------------------------

    /// When an owner would be healthy, with one of its service instances changed, added or (None) taken out.
    pub fn healthy_at_with_service(&self, owner: &InstanceKey, id: &str, new: Option<Service>) -> Option<UnixMs> {
        let instance = self.record.instances.get(owner)?;
        let others = self.record.services.of_owner(owner).filter(|s| &*s.instance != id).cloned();
        let services: Vec<Arc<Service>> = others.chain(new.filter(|s| s.owner == *owner).map(Arc::new)).collect();
        self.healthy_at_if(instance, instance.state, services.iter(), false)
    }

    pub fn service_status(
        &mut self,
        id: &Arc<str>,
        status: CheckStatus,
        reason: Option<Arc<str>>,
        expires_at: Option<UnixMs>,
    ) {
        let Some(service) = self.record.services.get(id).cloned() else { return };
        let mut changed = (*service).clone();
        changed.status = status;
        changed.reason = reason.clone();
        let healthy_at = self.healthy_at_with_service(&service.owner, id, Some(changed));
        self.emit(
            service.owner.version,
            EventBody::ServiceStatus {
                instance: id.clone(),
                service: service.service.clone(),
                agent: service.owner.agent.clone(),
                status,
                reason,
                expires_at,
                healthy_at,
            },
        );
        self.recheck_healthy(&service.owner);
    }

    pub fn deregister(&mut self, id: &Arc<str>, reason: &str) {
        let Some(service) = self.record.services.get(id).cloned() else { return };
        let healthy_at = self.healthy_at_with_service(&service.owner, id, None);
        self.emit(
            service.owner.version,
            EventBody::ServiceDeregistered {
                instance: id.clone(),
                service: service.service.clone(),
                agent: service.owner.agent.clone(),
                reason: Arc::from(reason),
                healthy_at,
            },
        );
    }

    /// Takes all service instances of an instance out: it leaves.
    pub fn clear_services(&mut self, owner: &InstanceKey, reason: &str) {
        let ids: Vec<Arc<str>> = self.record.services.of_owner(owner).map(|s| s.instance.clone()).collect();
        for id in ids {
            self.deregister(&id, reason);
        }
    }

    /// rule 4.9: healthy, then not ready or not passing: unhealthy at once.
    pub fn recheck_healthy(&mut self, key: &InstanceKey) {
        let Some(instance) = self.record.instances.get(key) else { return };
        if instance.health != Health::Healthy || instance.is_stopping() {
            return;
        }
        if let Err(why) = self.record.check_health(instance) {
            self.mark_unhealthy(key, &why);
        }
    }

    // ---- what a deployment does by itself ------------------------------------------------------------------------

    /// Goes on as far as it goes: this is where every strategy, failure and fallback acts.
    pub fn advance(&mut self) {
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
                    let placed = self.own_counts().placed;
                    for agent in agents {
                        self.release(&agent, role);
                    }
                    // A record from outside may claim more canaries than it has agents, or an agent twice.
                    if self.own_counts().placed == placed {
                        return;
                    }
                }
                Step::Await => {
                    let healthy = self.own_counts().healthy as u32;
                    self.emit(self.target(), EventBody::AwaitingPromotion { healthy });
                    return;
                }
                Step::Promote => self.promote(Actor::auto()),
                Step::Finish => self.finish(),
            }
        }
    }

    pub fn own_counts(&self) -> super::instances::HealthCounts {
        self.deployment().map(|d| self.record.instances.counts(d.target_version, &d.target_job_id)).unwrap_or_default()
    }

    /// Some of the deployment's own instances that are not healthy, in words.
    pub fn who_is_not_healthy(&self) -> String {
        const SHOWN: usize = 3;
        let Some(d) = self.deployment() else { return String::new() };
        let mut words = Vec::new();
        let mut more = 0;
        for agent in d.changed.iter() {
            let own = self.record.instances.of_agent(agent).iter().find(|i| self.record.is_own(i));
            match own {
                Some(i) if i.health != Health::Healthy && words.len() < SHOWN => {
                    let why = match (&i.reason, self.record.check_health(i)) {
                        (Some(reason), _) if i.health == Health::Unhealthy => reason.to_string(),
                        (_, Err(why)) => why,
                        (_, Ok(())) => "ready, not long enough".to_string(),
                    };
                    words.push(format!("{agent} {} ({why})", i.health.name()));
                }
                Some(i) if i.health != Health::Healthy => more += 1,
                _ => {}
            }
        }
        if more > 0 {
            words.push(format!("{more} more"));
        }
        words.join(", ")
    }

    /// Gives one agent its task. What it runs is replaced where it is of the same job, else it is started.
    fn release(&mut self, agent: &Arc<str>, role: Role) {
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
        // What is being replaced need not be started any more.
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

    #[allow(clippy::too_many_arguments)] // the task's own fields, in the order of rule 7
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
                self.record.instances.get(&key).map_or(0, |i| i.attempt)
            }
            _ => 1,
        };
        let (by, reason) = (by.name, by.reason);
        self.emit(
            version,
            EventBody::TaskIssued { instance, task, from_version, attempt, bundle, deadline, by, reason },
        );
    }

    /// Tells an instance to stop; what it was still to do is withdrawn. One that has stopped already leaves instead:
    /// there is no task for work that is done.
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

    fn own_keys(&self, pick: impl Fn(&Instance) -> bool) -> Vec<InstanceKey> {
        self.record.instances.iter().filter(|i| self.record.is_own(i) && pick(i)).map(Instance::key).collect()
    }

    pub fn promote(&mut self, by: Actor) {
        let Some(d) = self.deployment() else { return };
        let ms = d.policy.progress_deadline_ms;
        let progress = match d.progress {
            Deadline::Off => Deadline::after(self.now(), ms),
            runs => runs.extend(self.now(), ms),
        };
        let body = EventBody::DeploymentPromoted { progress, by: by.name, reason: by.reason };
        self.emit(self.target(), body);
    }

    /// All changed agents are healthy: what the deployment does without is told to stop, and it is successful.
    fn finish(&mut self) {
        let Some(d) = self.deployment() else { return };
        let (desired, removed) = (d.changed.len(), d.removed_agents.clone());
        self.stop_removed(&removed);
        let description = format!("{desired} of {desired} agents healthy");
        self.emit(self.target(), EventBody::DeploymentSuccessful { description: Arc::from(description) });
    }

    /// What a successful version does without: agents that it has not, and all that is of another job. That is the old
    /// side of a blue-green update, or what came back to life in a job of which all had ended when this one began.
    pub fn stop_removed(&mut self, removed: &[Arc<str>]) {
        let Some(job_id) = self.deployment().map(|d| d.target_job_id.clone()) else { return };
        let removed: BTreeSet<&Arc<str>> = removed.iter().collect();
        let is_removed = |i: &&Instance| removed.contains(&i.agent) || i.job_id != job_id;
        let keys: Vec<InstanceKey> = self.record.instances.iter().filter(is_removed).map(Instance::key).collect();
        for key in keys {
            self.request_stop(&key, Role::Retired, Actor::auto());
        }
    }

    /// rule 4.7: one `run` task.
    pub fn run_batch(&mut self, version: u64, job_id: Arc<str>, bundle: Option<Arc<str>>) {
        let agent: Arc<str> = Arc::from(BATCH_AGENT);
        let instance = InstanceRef { agent: agent.clone(), node: agent, job_id, role: Role::Primary };
        self.issue(version, instance, TaskKind::Run, None, Deadline::Off, bundle, Actor::auto());
    }

    /// Ends the deployment as failed; with `auto_revert` the newest stable version comes back in the same step (rule 4.11).
    pub fn fail(&mut self, cause: Cause, words: &str, by: Actor) {
        let Some(d) = self.record.deployment.clone() else { return };
        let revert = if !d.policy.auto_revert {
            Revert::NotAsked
        } else if d.rollback_of.is_some() {
            Revert::No("a rollback never reverts".to_string())
        } else {
            self.validate_revert()
        };
        let description = match &revert {
            Revert::NotAsked => words.to_string(),
            Revert::No(why) => format!("{words}; not reverted: {why}"),
            Revert::To(version) => format!("{words}; reverts to version {version}"),
        };
        let body =
            EventBody::DeploymentFailed { cause, description: Arc::from(description), by: by.name, reason: by.reason };
        self.emit(d.target_version, body);
        self.clear_after_failure();
        if let Revert::To(version) = revert {
            let reason = format!("reverts version {}: {words}", d.target_version);
            planner::revert(self, version, cause, Arc::from(reason));
        }
    }

    /// In place, instances stay as they are, and no further one goes; blue-green candidates are told to stop.
    fn clear_after_failure(&mut self) {
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

    fn stop_candidates(&mut self) {
        for key in self.own_keys(|_| true) {
            self.request_stop(&key, Role::Candidate, Actor::auto());
        }
    }

    fn withdraw(&mut self, key: &InstanceKey, removes_instance: bool) {
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

    /// Whether a failure now would bring a version back, and which.
    fn validate_revert(&self) -> Revert {
        let Some(version) = self.record.stable_version() else {
            return Revert::No("there is no stable version".to_string());
        };
        // As it will be once the failure has cleared up after itself.
        let mut copy = self.record.clone();
        let mut after = Draft::on(&mut copy, self.context);
        after.clear_after_failure();
        match planner::plan_rollback(&after.record, version, &after.context_id()) {
            Ok(proposal) if proposal.mode == Mode::Noop && proposal.removed_agents.is_empty() => {
                Revert::No(format!("nothing would change, every agent runs version {version}"))
            }
            Ok(_) => Revert::To(version),
            Err(why) => Revert::No(why),
        }
    }

    /// The id that the next deployment gets.
    pub fn context_id(&self) -> Arc<str> {
        deployment_id(self.context.key, self.record.last_version + 1)
    }

    /// Ends the active deployment because something newer begins: replacements that nobody has taken up are
    /// withdrawn and count for nothing; unpromoted candidates are told to stop (rule 4.8).
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
        match mode {
            Mode::BlueGreen if !promoted => self.stop_candidates(),
            Mode::InPlace => {
                for key in self.own_keys(|i| i.state == InstanceState::Waiting && i.task.is_some()) {
                    self.withdraw(&key, true);
                }
            }
            _ => {}
        }
    }

    /// rule 4.6: an agent cannot be replaced in place, so a second job starts; what was replaced counts to the old side.
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
    }
}

enum Revert {
    NotAsked,
    No(String),
    To(u64),
}

/// rule 1: `dep_<key>_<n>`; characters of the key outside `A-Za-z0-9_.-` become `-`.
pub(super) fn deployment_id(key: &str, n: u64) -> Arc<str> {
    let key: String =
        key.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '-' }).collect();
    Arc::from(format!("dep_{key}_{n}"))
}
