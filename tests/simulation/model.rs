//! The model: a second account of each deployment, kept from the events and reports alone, and implemented
//! independently of the engine, so that the two can disagree.

use super::drains::SeenDrain;
use redis_deploy::engine::command::Command;
use redis_deploy::engine::deployment::{Cause, Mode, Outcome, Status};
use redis_deploy::engine::event::{AgentReport, Event, EventBody, InstanceRef, NewDeployment};
use redis_deploy::engine::instance::{InstanceKey, InstanceState, Role, TaskKind};
use redis_deploy::engine::manifest::BATCH_AGENT;
use redis_deploy::engine::policy::{CountOrPercent, HealthCheck, Policy, Strategy};
use redis_deploy::engine::services::CheckStatus;
use redis_deploy::engine::version::Version;
use redis_deploy::engine::Record;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pending,
    Healthy,
    Unhealthy,
}

/// A deadline: that of an instance's health, of a drain, of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    Never,
    At(u64),
    Left(u64),
}

/// Observed state of an instance.
#[derive(Debug, Clone)]
pub struct Seen {
    pub node: Arc<str>,
    pub state: InstanceState,
    pub attempt: u32,
    pub verdict: Verdict,
    /// Since when all is well with it, without a break.
    pub well_since: Option<u64>,
    pub late: Late,
    pub told_to_stop: bool,
    pub ever_healthy: bool,
    /// The reason of its last report that had one, in the present state and attempt, since the last verdict.
    pub reason: Option<Arc<str>>,
    /// Its role; while it drains, the one that it had before.
    pub role: Role,
    /// Callers may have begun sessions on it: it was primary at some time.
    pub was_exposed: bool,
    /// The number of sessions that its present attempt has said.
    pub sessions: Option<u32>,
    pub drain: Option<SeenDrain>,
    /// The versions that it counts for (rule 11.6).
    pub counts_for: BTreeSet<u64>,
    /// The version of the rollback that has adopted it (rule 12.5).
    pub adopted_for: Option<u64>,
    /// On standby: when it is not needed any more; never while its successor bakes (rule 12.3).
    pub stands_until: Late,
}

#[derive(Debug, Clone)]
pub struct SeenService {
    pub owner: InstanceKey,
    pub name: Arc<str>,
    pub status: CheckStatus,
    /// Time of its last change of status or owner.
    pub since: u64,
    /// The attempt of its owner that registered it.
    pub attempt: u32,
    /// Its owner has ended, and nobody has registered or checked it since.
    pub is_orphan: bool,
}

/// A version as it came.
#[derive(Debug, Clone)]
pub struct Told {
    pub version: Version,
    pub stable: bool,
    pub manifest: Arc<Value>,
    /// The time of its promotion, and the user who promoted it.
    pub promoted: Option<(u64, Arc<str>)>,
    pub ended: Option<Ended>,
}

/// The end of a version's deployment, or of its batch job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub at: u64,
    pub outcome: Outcome,
    pub cause: Option<Cause>,
    pub description: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Running,
    Awaiting,
    Paused { awaiting: bool },
    Ended(Status),
}

/// The deployment at hand.
#[derive(Debug, Clone)]
pub struct Rollout {
    pub id: Arc<str>,
    pub target: u64,
    pub job: Arc<str>,
    pub mode: Mode,
    pub changed: Vec<Arc<str>>,
    pub canaries: usize,
    pub promoted: bool,
    pub phase: Phase,
    pub policy: Policy,
    pub is_rollback: bool,
    /// A report `failed` about an instance of its own was taken.
    pub agent_failed: bool,
    /// One of its own instances was unhealthy at some time.
    pub was_unhealthy: bool,
    pub unsafe_reported: bool,
    /// The first cause of failure, also one deferred by a pause.
    pub first_cause: Option<Cause>,
    pub progress: Late,
    pub is_baking: bool,
    /// The end of the bake; never while an instance is not healthy.
    pub bake: Late,
    /// PROMOTE FULL has passed the bake before it began.
    pub skips_bake: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Model {
    pub last_version: u64,
    pub versions: BTreeMap<u64, Arc<Told>>,
    pub rollout: Option<Rollout>,
    pub ids: BTreeSet<Arc<str>>,
    pub instances: BTreeMap<InstanceKey, Seen>,
    pub services: BTreeMap<Arc<str>, SeenService>,
    pub tags: BTreeMap<Arc<str>, u64>,
    /// Tasks that were issued and are not done.
    pub tasks: BTreeMap<InstanceKey, TaskKind>,
    /// A rollback was announced and has not begun: the instances as it found them.
    pub found_by_rollback: Option<BTreeMap<InstanceKey, Seen>>,
    /// The agents that have to run: those of the last version that was successful, until all is stopped.
    pub should_run: BTreeSet<Arc<str>>,
}

pub fn key_of(instance: &InstanceRef, version: u64) -> InstanceKey {
    InstanceKey { agent: instance.agent.clone(), version, job_id: instance.job_id.clone() }
}

/// `n` agents, or `p` percent of them, rounded up (rule 2), counted in its own way.
pub fn amount(amount: CountOrPercent, total: usize) -> usize {
    match amount {
        CountOrPercent::Count(n) => total.min(n as usize),
        CountOrPercent::Percent(p) => total.min((total as f64 * f64::from(p) / 100.0).ceil() as usize),
    }
}

pub fn max_parallel(policy: &Policy, changed: usize) -> usize {
    amount(policy.max_parallel, changed).max(1)
}

/// Returns the number of canaries, strategy `canary` with 0 acting as 1.
pub fn canaries(policy: &Policy, changed: usize) -> usize {
    let asked = amount(policy.canary, changed);
    if asked == 0 && policy.strategy == Strategy::Canary {
        1.min(changed)
    } else {
        asked
    }
}

impl Told {
    pub fn node(&self, id: &str) -> Option<&Value> {
        self.manifest["nodes"].as_array()?.iter().find(|node| node["node_id"] == id)
    }

    fn node_ids(&self) -> impl Iterator<Item = &str> {
        self.manifest["nodes"].as_array().into_iter().flatten().filter_map(|n| n["node_id"].as_str())
    }

    /// Returns the node of an agent: the longest id that is its own, or its beginning before an `@` (rule 1.5).
    pub fn node_of<'a>(&'a self, agent: &'a str) -> &'a str {
        let is_its = |id: &&str| agent.strip_prefix(*id).is_some_and(|rest| rest.is_empty() || rest.starts_with('@'));
        self.node_ids()
            .filter(is_its)
            .max_by_key(|id| id.len())
            .unwrap_or_else(|| agent.split('@').next().unwrap_or(agent))
    }

    pub fn agents_with_nodes(&self) -> Vec<Arc<str>> {
        match &self.version.agents {
            Some(agents) => {
                let mut ordered: Vec<(usize, Arc<str>)> = agents
                    .iter()
                    .map(|a| (self.node_ids().position(|id| id == self.node_of(a)).unwrap_or(usize::MAX), a.clone()))
                    .collect();
                ordered.sort_by_key(|(place, _)| *place);
                ordered.into_iter().map(|(_, agent)| agent).collect()
            }
            None => self.node_ids().map(Arc::from).collect(),
        }
    }

    /// Returns a node without its cosmetic fields.
    pub fn content_of(&self, node: &str) -> Option<Value> {
        let mut body = self.node(node)?.clone();
        for field in ["alias", "display_name", "description", "metadata"] {
            body.as_object_mut()?.remove(field);
        }
        Some(body)
    }

    pub fn topology(&self) -> (BTreeSet<String>, BTreeSet<String>, BTreeSet<String>) {
        let texts = |field: &str| -> BTreeSet<String> {
            self.manifest[field].as_array().into_iter().flatten().map(Value::to_string).collect()
        };
        let nodes = self.manifest["nodes"].as_array().into_iter().flatten().map(|n| n["node_id"].to_string()).collect();
        (nodes, texts("edges"), texts("entrypoints"))
    }
}

impl Model {
    pub fn is_own(&self, key: &InstanceKey) -> bool {
        let adopted_for = self.instances.get(key).and_then(|seen| seen.adopted_for);
        let version = adopted_for.unwrap_or(key.version);
        self.rollout.as_ref().is_some_and(|r| r.target == version && r.job == key.job_id)
    }

    pub fn instances_of(&self, agent: &Arc<str>) -> BTreeMap<InstanceKey, Seen> {
        let of_it = self.instances.iter().filter(|(key, _)| key.agent == *agent);
        of_it.map(|(key, seen)| (key.clone(), seen.clone())).collect()
    }

    pub fn own(&self) -> impl Iterator<Item = (&InstanceKey, &Seen)> {
        self.instances.iter().filter(|(key, _)| self.is_own(key))
    }

    pub fn policy_of(&self, version: u64) -> Option<&Policy> {
        self.versions.get(&version).map(|told| &told.version.policy)
    }

    pub fn newest_stable(&self) -> Option<u64> {
        self.versions.iter().rev().find(|(_, told)| told.stable).map(|(number, _)| *number)
    }

    /// Returns whether an instance is ready by rule 2, `health_check`.
    fn is_well(&self, key: &InstanceKey, seen: &Seen) -> bool {
        if seen.state != InstanceState::Ready {
            return false;
        }
        let Some(told) = self.versions.get(&key.version) else { return true };
        if told.version.policy.health_check == HealthCheck::AgentStates {
            return true;
        }
        let of_it: Vec<&SeenService> = self.services.values().filter(|s| s.owner == *key).collect();
        let declared = told.node(&seen.node).map(|node| node["services"].clone()).unwrap_or_default();
        let passing = |name: &Value| of_it.iter().any(|s| *s.name == *name && s.status == CheckStatus::Passing);
        of_it.iter().all(|s| s.status == CheckStatus::Passing)
            && declared.as_array().into_iter().flatten().all(|service| passing(&service["name"]))
    }

    fn look_again(&mut self, at: u64, anew: Option<&InstanceKey>) {
        let well: Vec<(InstanceKey, bool)> =
            self.instances.iter().map(|(key, seen)| (key.clone(), self.is_well(key, seen))).collect();
        for (key, is_well) in well {
            if let Some(seen) = self.instances.get_mut(&key) {
                seen.well_since = match seen.well_since {
                    _ if !is_well => None,
                    Some(since) if anew != Some(&key) => Some(since),
                    _ => Some(at),
                };
            }
        }
    }

    fn end(&mut self, at: u64, status: Status) {
        self.release_late(at);
        if status != Status::Successful {
            self.keep_standbys(at);
        }
        if let Some(rollout) = &mut self.rollout {
            rollout.phase = Phase::Ended(status);
            (rollout.is_baking, rollout.bake) = (false, Late::Never);
        }
    }

    fn release_late(&mut self, at: u64) {
        if let Some(rollout) = &mut self.rollout {
            rollout.bake = rollout.bake.release(at);
        }
        for seen in self.instances.values_mut() {
            seen.late = seen.late.release(at);
            if let Some(drain) = &mut seen.drain {
                (drain.latest, drain.idle) = (drain.latest.release(at), drain.idle.release(at));
            }
        }
    }

    fn begin(&mut self, beginning: &NewDeployment) {
        let version = &beginning.version;
        self.last_version = version.number;
        self.ids.insert(version.deployment_id.clone());
        let manifest = Arc::new(serde_json::from_str(version.content.text()).unwrap_or_default());
        let told = Told { version: version.clone(), stable: false, manifest, promoted: None, ended: None };
        self.versions.insert(version.number, Arc::new(told));
        if let Some(tag) = &version.tag {
            self.tags.insert(tag.clone(), version.number);
        }
        self.rollout = Some(Rollout {
            id: version.deployment_id.clone(),
            target: version.number,
            job: version.job_id.clone(),
            mode: beginning.mode,
            changed: beginning.changed.to_vec(),
            canaries: match beginning.mode {
                Mode::SwitchBack => 0,
                _ => canaries(&version.policy, beginning.changed.len()),
            },
            promoted: false,
            phase: Phase::Running,
            policy: version.policy.clone(),
            is_rollback: version.rollback_of.is_some(),
            agent_failed: false,
            was_unhealthy: false,
            unsafe_reported: false,
            first_cause: None,
            progress: Late::Never,
            is_baking: false,
            bake: Late::Never,
            skips_bake: false,
        });
        self.found_by_rollback = None;
        self.adopt(beginning);
    }

    /// Takes an event in; `after` only says which instances are still there, which a rule of its own judges.
    pub fn take_in(&mut self, event: &Event, command: &Command, after: &Record) {
        let at = event.at;
        let mut anew = None;
        match &event.body {
            EventBody::TaskIssued { instance, task, .. } => {
                self.tasks.insert(key_of(instance, event.version), *task);
            }
            EventBody::TaskDone { instance, .. } => {
                self.tasks.remove(&key_of(instance, event.version));
            }
            _ => {}
        }
        if let EventBody::TaskDone { instance, removes_instance: true, .. } = &event.body {
            // A run that leaves without an outcome was stopped.
            let ended = self.versions.get(&event.version).and_then(|told| told.ended.as_ref());
            let has_outcome = ended.is_some_and(|ended| ended.outcome != Outcome::VersionRecorded);
            if &*instance.agent == BATCH_AGENT && !has_outcome {
                let words = "the batch job was stopped";
                self.note_end(event, Outcome::VersionRecorded, Some(Cause::Stopped), words);
            }
        }
        match &event.body {
            EventBody::DeploymentStarted(beginning) => self.begin(beginning),
            EventBody::DeploymentNoop(beginning) => {
                self.begin(beginning);
                self.end(at, Status::Successful);
                let words = format!("nothing to change: {}", beginning.mode_reason);
                self.note_end(event, Outcome::Successful, None, &words);
                self.earn_stable();
            }
            EventBody::VersionRecorded(beginning) => {
                self.begin(beginning);
                self.end(at, Status::VersionRecorded);
                self.note_end(event, Outcome::VersionRecorded, None, "version recorded");
            }
            EventBody::TaskIssued { instance, task: TaskKind::Stop, .. } => {
                if let Some(seen) = self.instances.get_mut(&key_of(instance, event.version)) {
                    seen.told_to_stop = true;
                    seen.role = instance.role;
                    seen.late = Late::Never;
                }
            }
            EventBody::TaskIssued { task: TaskKind::Drain, .. } => {}
            EventBody::TaskIssued { instance, task, attempt, .. } => {
                let late = match (task, self.policy_of(event.version)) {
                    (TaskKind::Run, _) | (_, None) => Late::Never,
                    (_, Some(policy)) => Late::At(at + policy.healthy_deadline_ms),
                };
                // One that is there already has drained, and starts anew.
                let key = key_of(instance, event.version);
                let before = self.instances.get(&key);
                let seen = Seen {
                    node: instance.node.clone(),
                    state: InstanceState::Waiting,
                    attempt: before.map_or(0, |_| *attempt),
                    verdict: Verdict::Pending,
                    well_since: None,
                    late,
                    told_to_stop: false,
                    ever_healthy: before.is_some_and(|seen| seen.ever_healthy),
                    reason: None,
                    role: instance.role,
                    was_exposed: before.is_some_and(|seen| seen.was_exposed),
                    sessions: None,
                    drain: None,
                    counts_for: before.map_or(BTreeSet::from([event.version]), |seen| seen.counts_for.clone()),
                    adopted_for: before.and_then(|seen| seen.adopted_for),
                    stands_until: Late::Never,
                };
                self.instances.insert(key, seen);
            }
            EventBody::TaskDone { instance, task, withdrawn: true, .. } if *task != TaskKind::Drain => {
                if let Some(seen) = self.instances.get_mut(&key_of(instance, event.version)) {
                    seen.late = Late::Never;
                }
            }
            EventBody::AgentState { instance, state, attempt, reason, .. } => {
                let key = key_of(instance, event.version);
                if &*key.agent == BATCH_AGENT {
                    match state {
                        AgentReport::Completed => {
                            self.note_end(event, Outcome::Completed, None, "the batch job completed");
                        }
                        AgentReport::State(InstanceState::Failed) => {
                            let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                            let words = format!("the batch job failed{reason}");
                            self.note_end(event, Outcome::Failed, Some(Cause::AgentFailed), &words);
                        }
                        _ => {}
                    }
                }
                match state {
                    AgentReport::State(state) => {
                        let earlier = self.instances.get(&key).map_or(0, |seen| seen.attempt);
                        let restarted = earlier > 0 && *attempt > earlier;
                        if *state == InstanceState::Failed || (restarted && *state != InstanceState::Stopped) {
                            for service in self.services.values_mut().filter(|service| service.owner == key) {
                                service.is_orphan = true;
                            }
                        }
                        if earlier != *attempt {
                            self.forget_sessions(&key);
                        }
                        if let Some(seen) = self.instances.get_mut(&key) {
                            if seen.attempt != *attempt {
                                anew = Some(key.clone());
                            }
                            let same = seen.state == *state && seen.attempt == *attempt;
                            seen.reason = reason.clone().or_else(|| seen.reason.take().filter(|_| same));
                            seen.state = *state;
                            seen.attempt = *attempt;
                        }
                        let own = self.is_own(&key);
                        if let Some(rollout) = self.rollout.as_mut().filter(|_| own) {
                            if *state == InstanceState::Failed {
                                rollout.agent_failed = true;
                                rollout.first_cause.get_or_insert(Cause::AgentFailed);
                            }
                        }
                    }
                    AgentReport::Unsafe => {
                        if let Some(rollout) = &mut self.rollout {
                            rollout.unsafe_reported = true;
                        }
                    }
                    AgentReport::Completed => {}
                }
            }
            EventBody::AgentHealthy { instance, .. } => {
                let key = key_of(instance, event.version);
                let own = self.is_own(&key);
                if let Some(seen) = self.instances.get_mut(&key) {
                    if let Some(rollout) = self.rollout.as_mut().filter(|_| own && !seen.ever_healthy) {
                        rollout.progress = rollout.progress.with_at_least(rollout.policy.progress_deadline_ms, at);
                    }
                    seen.verdict = Verdict::Healthy;
                    seen.reason = None;
                    seen.ever_healthy = true;
                    seen.late = Late::Never;
                }
            }
            EventBody::AgentUnhealthy { instance, .. } => {
                let key = key_of(instance, event.version);
                let own = self.is_own(&key);
                if let Some(seen) = self.instances.get_mut(&key) {
                    seen.verdict = Verdict::Unhealthy;
                    // The verdict has a reason of its own; about a state that is not ready it has that of the report.
                    seen.reason.take_if(|_| seen.state == InstanceState::Ready);
                    seen.late = Late::Never;
                }
                if let Some(rollout) = self.rollout.as_mut().filter(|_| own) {
                    rollout.was_unhealthy = true;
                    if rollout.policy.progress_deadline_ms == 0 {
                        rollout.first_cause.get_or_insert(Cause::UnhealthyAgent);
                    }
                    let ms = rollout.policy.progress_deadline_ms;
                    rollout.stop_bake(at);
                    (rollout.phase, rollout.progress) = match rollout.phase {
                        Phase::Awaiting if ms > 0 => (Phase::Running, Late::At(at + ms)),
                        Phase::Awaiting => (Phase::Running, Late::Never),
                        Phase::Paused { awaiting: true } if ms > 0 => {
                            (Phase::Paused { awaiting: false }, Late::Left(ms))
                        }
                        Phase::Paused { .. } => (Phase::Paused { awaiting: false }, rollout.progress),
                        other => (other, rollout.progress),
                    };
                }
            }
            EventBody::AgentDraining { .. } | EventBody::AgentDrained { .. } => {}
            EventBody::BakeStarted { .. } => self.start_bake(at),
            EventBody::AwaitingPromotion { .. } => self.set_phase(Phase::Awaiting),
            EventBody::DeploymentPromoted { by, full, .. } => {
                self.set_phase(Phase::Running);
                self.note(event.version, |told| told.promoted = Some((at, by.clone())));
                if let Some(rollout) = &mut self.rollout {
                    rollout.promoted = true;
                    rollout.skips_bake = *full;
                }
            }
            EventBody::DeploymentPaused { .. } => {
                if let Some(rollout) = &mut self.rollout {
                    rollout.phase = Phase::Paused { awaiting: rollout.phase == Phase::Awaiting };
                    rollout.bake = rollout.bake.hold(at);
                }
                let own: Vec<InstanceKey> = self.own().map(|(key, _)| key.clone()).collect();
                for key in own {
                    if let Some(seen) = self.instances.get_mut(&key) {
                        seen.late = seen.late.hold(at);
                    }
                }
            }
            EventBody::DeploymentResumed { .. } => {
                let awaiting = matches!(&self.rollout, Some(r) if r.phase == Phase::Paused { awaiting: true });
                self.set_phase(if awaiting { Phase::Awaiting } else { Phase::Running });
                self.release_late(at);
            }
            EventBody::DeploymentFailed { cause, description, .. } => {
                self.end(at, Status::Failed);
                self.note_end(event, Outcome::Failed, Some(*cause), description);
            }
            EventBody::DeploymentCancelled { cause, description, .. } => {
                self.end(at, Status::Cancelled);
                self.note_end(event, Outcome::Cancelled, Some(*cause), description);
            }
            EventBody::DeploymentSuccessful { description, .. } => {
                self.end(at, Status::Successful);
                self.note_end(event, Outcome::Successful, None, description);
                self.earn_stable();
            }
            EventBody::FallbackBlueGreen { job_id, changed, .. } => {
                if let Some(rollout) = &mut self.rollout {
                    rollout.mode = Mode::BlueGreen;
                    rollout.job = job_id.clone();
                    rollout.changed = changed.to_vec();
                    rollout.canaries = canaries(&rollout.policy, changed.len());
                    rollout.promoted = false;
                    rollout.unsafe_reported = false;
                }
            }
            EventBody::VersionTagged { tag, replaced, .. } => {
                if let Some(old) = replaced {
                    self.tags.remove(old);
                }
                self.tags.insert(tag.clone(), event.version);
            }
            EventBody::VersionUntagged { tag, .. } => {
                self.tags.remove(tag);
            }
            EventBody::ServiceRegistered { service, .. } => {
                let known = self.services.get(&service.instance);
                let same = known.filter(|seen| seen.status == service.status && seen.owner == service.owner);
                let seen = SeenService {
                    owner: service.owner.clone(),
                    name: service.service.clone(),
                    status: service.status,
                    since: same.map_or(at, |seen| seen.since),
                    attempt: self.instances.get(&service.owner).map_or(1, |seen| seen.attempt.max(1)),
                    is_orphan: false,
                };
                self.services.insert(service.instance.clone(), seen);
            }
            EventBody::ServiceStatus { instance, status, .. } => {
                if let Some(seen) = self.services.get_mut(instance) {
                    if seen.status != *status {
                        seen.status = *status;
                        seen.since = at;
                    }
                    // Somebody has looked: only a check or a registration makes it anything but critical.
                    seen.is_orphan &= *status == CheckStatus::Critical;
                }
            }
            EventBody::ServiceDeregistered { instance, .. } => {
                self.services.remove(instance);
            }
            EventBody::RollbackStarted { .. } => self.found_by_rollback = Some(self.instances.clone()),
            EventBody::TaskDone { .. } => {}
        }
        self.take_drains_in(event, command);
        for seen in self.instances.values_mut() {
            seen.was_exposed |= seen.role == Role::Primary;
        }
        self.tasks.retain(|key, _| after.instances.get(key).is_some());
        self.instances.retain(|key, _| after.instances.get(key).is_some());
        self.look_again(at, anew.as_ref());
    }

    fn set_phase(&mut self, phase: Phase) {
        if let Some(rollout) = &mut self.rollout {
            rollout.phase = phase;
        }
    }

    fn earn_stable(&mut self) {
        self.note(self.rollout.as_ref().map_or(0, |r| r.target), |told| told.stable = true);
    }

    fn note_end(&mut self, event: &Event, outcome: Outcome, cause: Option<Cause>, description: &str) {
        let ended = Ended { at: event.at, outcome, cause, description: description.into() };
        self.note(event.version, |told| told.ended = Some(ended));
    }

    fn note(&mut self, version: u64, change: impl FnOnce(&mut Told)) {
        if let Some(told) = self.versions.get_mut(&version) {
            change(Arc::make_mut(told));
        }
    }
}

/// The cause that a failure may truly have (rule 4.10).
pub fn may_fail(rollout: &Rollout, cause: Cause, progress_passed: bool, by_command: bool) -> bool {
    match cause {
        Cause::Operator => by_command,
        _ if matches!(rollout.phase, Phase::Paused { .. } | Phase::Ended(_)) => false,
        _ if rollout.first_cause.is_some_and(|first| first != cause) => false,
        Cause::ProgressDeadline => progress_passed && rollout.phase == Phase::Running,
        Cause::AgentFailed => rollout.agent_failed,
        Cause::UnhealthyAgent => rollout.policy.progress_deadline_ms == 0 && rollout.was_unhealthy,
        Cause::NewerVersion | Cause::Stopped => false,
    }
}
