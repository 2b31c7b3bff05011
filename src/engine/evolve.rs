//! How a record changes: one total match over what happened. It refuses nothing, decides nothing and reads no clock,
//! so that a replica, an AOF and a test that fold the same changes hold the same record.

use super::deployment::Outcome;
use super::deployment::{
    Action, Cause, DeferredFailure, Deployment, IdempotencyEntry, Mode, Status, UnsafeReport, MAX_REQUEST_IDS,
};

use super::instance::{is_same, Health, InstanceKey, InstanceState};
use super::instance::{Instance, Role, Task, TaskKind};
use super::manifest::{ManifestText, BATCH_AGENT};

use super::event::{AgentReport, Change, ChangeSet, Event, EventBody, InstanceRef, NewDeployment, SilentChange};
use super::policy::Strategy;
use super::record::Record;
use super::time::{Deadline, UnixMs};
use super::transaction::Transaction;
use super::version::Version;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Applies one command's changes, whole.
pub fn apply(record: &mut Record, batch: &ChangeSet) {
    let mut transaction = Transaction::begin(record);
    for change in &batch.changes {
        evolve(&mut transaction, change);
    }
    transaction.commit(batch.log_max);
}

pub(super) fn evolve(record: &mut Record, change: &Change) {
    match change {
        Change::Event(event) => apply_event(record, event),
        Change::Silent(note) => apply_silent(record, note),
    }
}

fn apply_silent(record: &mut Record, note: &SilentChange) {
    match note {
        SilentChange::ServiceRefreshed { instance, expires_at } => {
            record.services.update(instance, |service| service.expires_at = *expires_at);
        }
        SilentChange::RequestRecorded { request, receipt } => {
            let requests = Arc::make_mut(&mut record.requests);
            requests.push_back(IdempotencyEntry { request: request.clone(), receipt: receipt.clone() });
            while requests.len() > MAX_REQUEST_IDS {
                requests.pop_front();
            }
        }
    }
}

fn apply_event(record: &mut Record, event: &Arc<Event>) {
    let at = event.at;
    match &event.body {
        EventBody::DeploymentStarted(beginning) => start(record, event, beginning, Status::Running),
        EventBody::DeploymentNoop(beginning) => {
            start(record, event, beginning, Status::Running);
            let description = format!("nothing to change: {}", beginning.mode_reason);
            succeed(record, at, Arc::from(description));
        }
        EventBody::VersionRecorded(beginning) => {
            start(record, event, beginning, Status::VersionRecorded);
            record.current_version = Some(beginning.version.number);
            record.current_job_id = Some(beginning.version.job_id.clone());
            finish(record, at, Status::VersionRecorded, None, "version recorded".into(), None);
        }
        EventBody::RollbackStarted { .. } => {}
        EventBody::TaskIssued { instance, task: TaskKind::Stop, .. } => {
            let task = Task { kind: TaskKind::Stop, revision: event.revision, since: at };
            record.instances.update(&key(instance, event.version), |stored| {
                stored.role = instance.role;
                stored.task = Some(task);
                stored.healthy_at = None;
                stored.deadline = Deadline::Off;
            });
        }
        EventBody::TaskIssued { instance, task, from_version, deadline, .. } => record.instances.insert(Instance {
            agent: instance.agent.clone(),
            node: instance.node.clone(),
            version: event.version,
            job_id: instance.job_id.clone(),
            role: instance.role,
            state: InstanceState::Waiting,
            health: Health::Pending,
            attempt: 0,
            task_at: at,
            since: at,
            reason: None,
            from_version: *from_version,
            task: Some(Task { kind: *task, revision: event.revision, since: at }),
            healthy_at: None,
            deadline: *deadline,
            was_healthy: false,
            created: event.revision,
        }),
        EventBody::TaskDone { instance, task, withdrawn, removes_instance } => {
            let key = key(instance, event.version);
            if *removes_instance {
                remove_instance(record, &key);
            } else {
                record.instances.update(&key, |instance| {
                    if instance.task.as_ref().is_some_and(|t| t.kind == *task) {
                        instance.task = None;
                    }
                    if *withdrawn {
                        instance.deadline = Deadline::Off; // nobody is late with what nobody has to do
                    }
                });
            }
        }
        EventBody::AgentState { instance, state, attempt, reason, healthy_at, removes_instance, fails_at_resume } => {
            let key = key(instance, event.version);
            match state {
                AgentReport::State(state) => {
                    agent_state(record, &key, *state, *attempt, reason.clone(), *healthy_at, at);
                    if *fails_at_resume {
                        defer_failure(record, Cause::AgentFailed, failure_words(&instance.agent, reason.as_deref()));
                    }
                }
                AgentReport::Completed => {}
                AgentReport::Unsafe => {
                    if let Some(deployment) = deployment_of(record) {
                        let words = reason.as_deref().unwrap_or("it cannot be replaced in place");
                        let words = format!("agent {} is unsafe to replace: {words}", instance.agent).into();
                        deployment.unsafe_report = Some(UnsafeReport { agent: instance.agent.clone(), words });
                    }
                }
            }
            if &*instance.agent == BATCH_AGENT {
                let outcome = match state {
                    AgentReport::Completed => Some(Outcome::Completed),
                    AgentReport::State(InstanceState::Failed) => Some(Outcome::Failed),
                    _ => None,
                };
                if outcome.is_some() {
                    change_version(record, event.version, |version| version.outcome = outcome);
                }
            }
            if *removes_instance {
                remove_instance(record, &key);
            }
        }
        EventBody::AgentHealthy { instance, progress } => {
            record.instances.update(&key(instance, event.version), |instance| {
                instance.health = Health::Healthy;
                instance.was_healthy = true;
                instance.healthy_at = None;
                instance.deadline = Deadline::Off;
                instance.reason = None;
            });
            if let Some(deployment) = deployment_of(record) {
                deployment.progress = *progress;
            }
        }
        EventBody::AgentUnhealthy { instance, reason, resumes_with, fails_at_resume } => {
            record.instances.update(&key(instance, event.version), |instance| {
                instance.health = Health::Unhealthy;
                instance.deadline = Deadline::Off;
                instance.reason = Some(reason.clone());
            });
            if let (Some(deployment), Some(progress)) = (deployment_of(record), resumes_with) {
                match deployment.status {
                    Status::Paused => deployment.paused_from = Some(Status::Running),
                    _ => deployment.status = Status::Running,
                }
                deployment.progress = *progress;
            }
            if *fails_at_resume {
                defer_failure(
                    record,
                    Cause::UnhealthyAgent,
                    format!("agent {} is unhealthy: {reason}", instance.agent),
                );
            }
        }
        EventBody::AwaitingPromotion { .. } => {
            if let Some(deployment) = deployment_of(record) {
                deployment.status = Status::AwaitingPromotion;
                deployment.progress = Deadline::Off;
            }
        }
        EventBody::DeploymentPromoted { progress, by, reason } => {
            if let Some(deployment) = deployment_of(record) {
                deployment.promoted = true;
                deployment.status = Status::Running;
                deployment.progress = *progress;
                record_action(deployment, "promote", by, at, reason);
            }
            promote_roles(record);
        }
        EventBody::DeploymentPaused { by, reason } => {
            if let Some(deployment) = deployment_of(record) {
                deployment.paused_from = Some(deployment.status);
                deployment.status = Status::Paused;
                deployment.progress = deployment.progress.pause(at);
                record_action(deployment, "pause", by, at, reason);
            }
            own_deadlines(record, |deadline| deadline.pause(at));
        }
        EventBody::DeploymentResumed { status, progress, by, reason } => {
            if let Some(deployment) = deployment_of(record) {
                deployment.paused_from = None;
                deployment.status = *status;
                deployment.progress = *progress;
                record_action(deployment, "resume", by, at, reason);
            }
            own_deadlines(record, |deadline| deadline.resume(at));
        }
        EventBody::DeploymentFailed { cause, description, by, reason } => {
            if *cause == Cause::Operator {
                if let Some(deployment) = deployment_of(record) {
                    record_action(deployment, "fail", by, at, reason);
                }
            }
            finish(record, at, Status::Failed, Some(*cause), description.clone(), reason.clone());
        }
        EventBody::DeploymentCancelled { cause, description, by, reason } => {
            if *cause == Cause::Stopped {
                if let Some(deployment) = deployment_of(record) {
                    record_action(deployment, "stop", by, at, reason);
                }
            }
            finish(record, at, Status::Cancelled, Some(*cause), description.clone(), reason.clone());
        }
        EventBody::DeploymentSuccessful { description } => succeed(record, at, description.clone()),
        EventBody::FallbackBlueGreen { reason, job_id, changed, canaries, .. } => {
            if let Some(deployment) = deployment_of(record) {
                deployment.mode = Mode::BlueGreen;
                deployment.strategy = Strategy::BlueGreen;
                deployment.mode_reason = reason.clone();
                deployment.target_job_id = job_id.clone();
                deployment.changed = changed.clone();
                deployment.removed_agents = Arc::from([]);
                deployment.canaries = *canaries;
                deployment.promoted = false;
                deployment.unsafe_report = None;
            }
            change_version(record, event.version, |version| {
                version.job_id = job_id.clone();
                version.strategy = Strategy::BlueGreen;
            });
        }
        EventBody::VersionTagged { tag, .. } => {
            change_version(record, event.version, |version| version.tag = Some(tag.clone()));
        }
        EventBody::VersionUntagged { .. } => change_version(record, event.version, |version| version.tag = None),
        EventBody::ServiceRegistered { service, healthy_at } => {
            let owner = service.owner.clone();
            record.services.insert((**service).clone());
            record.instances.update(&owner, |instance| instance.healthy_at = *healthy_at);
        }
        EventBody::ServiceStatus { instance, status, reason, expires_at, healthy_at, .. } => {
            record.services.update(instance, |service| {
                if service.status != *status {
                    service.since = at;
                }
                service.status = *status;
                service.reason = reason.clone();
                service.expires_at = *expires_at;
            });
            if let Some(owner) = record.services.get(instance).map(|service| service.owner.clone()) {
                record.instances.update(&owner, |instance| instance.healthy_at = *healthy_at);
            }
        }
        EventBody::ServiceDeregistered { instance, healthy_at, .. } => {
            if let Some(service) = record.services.remove(instance) {
                record.instances.update(&service.owner, |instance| instance.healthy_at = *healthy_at);
            }
        }
    }
    if record.revision == 0 {
        record.created_at = at;
    }
    record.revision = event.revision;
    record.updated_at = at;
    record.log.push(&for_the_log(event));
}

fn key(instance: &InstanceRef, version: u64) -> InstanceKey {
    InstanceKey { agent: instance.agent.clone(), version, job_id: instance.job_id.clone() }
}

/// The log does without manifests: DEPLOY.VERSION has them for as long as the version is kept.
fn for_the_log(event: &Arc<Event>) -> Arc<Event> {
    if !event.body.has_manifest() {
        return event.clone();
    }
    let mut slim = (**event).clone();
    if let EventBody::DeploymentStarted(b) | EventBody::DeploymentNoop(b) | EventBody::VersionRecorded(b) =
        &mut slim.body
    {
        b.version.content = Arc::new(ManifestText::omitted());
    }
    Arc::new(slim)
}

fn failure_words(agent: &str, reason: Option<&str>) -> String {
    match reason {
        _ if agent == BATCH_AGENT => "the batch job failed".to_string(),
        Some(reason) => format!("agent {agent} failed: {reason}"),
        None => format!("agent {agent} failed"),
    }
}

fn record_action(deployment: &mut Deployment, name: &str, by: &Arc<str>, at: UnixMs, reason: &Option<Arc<str>>) {
    deployment.last_action = Some(Action { name: name.into(), by: by.clone(), at, reason: reason.clone() });
}

/// The deployment, to be changed: its own again where a transaction still holds the one before.
fn deployment_of(record: &mut Record) -> Option<&mut Deployment> {
    record.deployment.as_mut().map(Arc::make_mut)
}

/// The first cause is the true one (rule 4.10).
fn defer_failure(record: &mut Record, cause: Cause, words: String) {
    if let Some(deployment) = deployment_of(record) {
        deployment.deferred_failure.get_or_insert_with(|| DeferredFailure { cause, words: words.into() });
    }
}

fn start(record: &mut Record, event: &Event, beginning: &NewDeployment, status: Status) {
    let version = &beginning.version;
    record.deployment = Some(Arc::new(Deployment {
        id: version.deployment_id.clone(),
        status,
        cause: beginning.cause,
        ended: None,
        mode: beginning.mode,
        strategy: beginning.strategy,
        requested_strategy: beginning.requested_strategy,
        mode_reason: beginning.mode_reason.clone(),
        rollback_of: version.rollback_of,
        by: version.by.clone(),
        reason: version.reason.clone(),
        source_version: beginning.source_version,
        source_job_id: beginning.source_job_id.clone(),
        target_version: version.number,
        target_job_id: version.job_id.clone(),
        requested_job: beginning.requested_job.clone(),
        policy: version.policy.clone(),
        changed: beginning.changed.clone(),
        removed_agents: beginning.removed_agents.clone(),
        canaries: beginning.canaries,
        promoted: false,
        progress: beginning.progress,
        paused_from: None,
        deferred_failure: None,
        unsafe_report: None,
        last_action: None,
        created_at: event.at,
        finished_at: None,
    }));
    let versions = Arc::make_mut(&mut record.versions);
    versions.retain(|v| !beginning.trimmed.contains(&v.number) && v.number < version.number);
    versions.push(Arc::new(version.clone()));
    record.last_version = version.number;
    // What a failed deployment left waiting, with its task withdrawn, counts for nothing any more (rule 4.8).
    let leftover: Vec<InstanceKey> = record
        .instances
        .iter()
        .filter(|i| i.state == InstanceState::Waiting && i.task.is_none())
        .map(Instance::key)
        .collect();
    for key in leftover {
        remove_instance(record, &key);
    }
}

/// The common end of a deployment. What a pause held runs on: verdicts go on after the end (rule 4.14).
fn finish(
    record: &mut Record,
    at: UnixMs,
    status: Status,
    cause: Option<Cause>,
    words: Arc<str>,
    reason: Option<Arc<str>>,
) {
    own_deadlines(record, |deadline| deadline.resume(at));
    let Some(deployment) = deployment_of(record) else { return };
    deployment.status = status;
    if cause.is_some() {
        deployment.cause = cause;
    }
    if reason.is_some() {
        deployment.reason = reason;
    }
    deployment.ended = Some(words);
    deployment.progress = Deadline::Off;
    deployment.paused_from = None;
    deployment.deferred_failure = None;
    deployment.unsafe_report = None;
    deployment.finished_at = Some(at);
    let outcome = match status {
        Status::Failed => Outcome::Failed,
        Status::Cancelled => Outcome::Cancelled,
        Status::VersionRecorded => Outcome::VersionRecorded,
        _ => Outcome::Successful,
    };
    let target = deployment.target_version;
    change_version(record, target, |version| version.outcome = Some(outcome));
}

fn succeed(record: &mut Record, at: UnixMs, words: Arc<str>) {
    finish(record, at, Status::Successful, None, words, None);
    let Some(deployment) = &record.deployment else { return };
    let (target, job_id) = (deployment.target_version, deployment.target_job_id.clone());
    record.current_version = Some(target);
    record.current_job_id = Some(job_id.clone());
    change_version(record, target, |version| version.stable = true);
    // Whoever runs the content of a successful version is primary, a canary of an older attempt included.
    record
        .instances
        .update_where(|i| i.job_id == job_id && i.role == Role::Canary && !i.is_stopping(), |i| i.role = Role::Primary);
}

/// rule 4.4 and 4.5: candidates and canaries become primary; in blue-green, the old side is retired in the same step.
fn promote_roles(record: &mut Record) {
    let Some(deployment) = &record.deployment else { return };
    let (target, job_id, mode) = (deployment.target_version, deployment.target_job_id.clone(), deployment.mode);
    let changed: BTreeSet<Arc<str>> = deployment.changed.iter().cloned().collect();
    let own = move |i: &Instance| i.version == target && i.job_id == job_id;
    if mode == Mode::BlueGreen {
        let old = own.clone();
        record.instances.update_where(own, |i| i.role = Role::Primary);
        // Candidates of an older attempt that are still stopping as well.
        record.instances.update_where(move |i| !old(i), |i| i.role = Role::Retired);
    } else {
        // A canary that an older attempt left, and that this one does not change, runs the promoted content as well.
        record.instances.update_where(
            move |i| i.role == Role::Canary && !i.is_stopping() && (own(i) || !changed.contains(&i.agent)),
            |i| i.role = Role::Primary,
        );
    }
}

/// Holds or releases the healthy deadlines of the deployment's own instances (rule 4.13).
fn own_deadlines(record: &mut Record, change: impl Fn(Deadline) -> Deadline) {
    let Some(deployment) = &record.deployment else { return };
    let (target, job_id) = (deployment.target_version, deployment.target_job_id.clone());
    record.instances.update_where(
        |i| i.version == target && i.job_id == job_id && i.deadline != Deadline::Off,
        |i| i.deadline = change(i.deadline),
    );
}

fn agent_state(
    record: &mut Record,
    key: &InstanceKey,
    state: InstanceState,
    attempt: u32,
    reason: Option<Arc<str>>,
    healthy_at: Option<UnixMs>,
    at: UnixMs,
) {
    let mut is_first = false;
    record.instances.update(key, |instance| {
        is_first = instance.state == InstanceState::Waiting;
        instance.since = at;
        instance.state = state;
        instance.attempt = attempt;
        // Why it is unhealthy stays on the record until it is healthy again, or a report says more.
        if reason.is_some() || instance.health != Health::Unhealthy {
            instance.reason = reason;
        }
        instance.healthy_at = healthy_at;
    });
    if is_first {
        let replaced = record.instances.get(key).map(|new| predecessors(record, new)).unwrap_or_default();
        for old in replaced {
            remove_instance(record, &old);
        }
    }
}

/// The instances that leave when this one first reports (rule 4.3): the agent's older ones in its job, and, where it
/// is no candidate beside them, those of other jobs that do not run any more.
pub(super) fn predecessors(record: &Record, new: &Instance) -> Vec<InstanceKey> {
    if &*new.agent == BATCH_AGENT {
        return Vec::new();
    }
    record
        .instances
        .of_agent(&new.agent)
        .iter()
        .filter(|i| i.created < new.created && !i.is_stopping())
        .filter(|i| is_same(&i.job_id, &new.job_id) || (new.role != Role::Candidate && !i.state.is_running()))
        .map(Instance::key)
        .collect()
}

fn remove_instance(record: &mut Record, key: &InstanceKey) {
    record.instances.remove(key);
    let orphans: Vec<Arc<str>> = record.services.of_owner(key).map(|s| s.instance.clone()).collect();
    for id in orphans {
        record.services.remove(&id);
    }
}

fn change_version(record: &mut Record, number: u64, change: impl FnOnce(&mut Version)) {
    if let Ok(place) = record.versions.binary_search_by_key(&number, |v| v.number) {
        if let Some(version) = Arc::make_mut(&mut record.versions).get_mut(place) {
            change(Arc::make_mut(version));
        }
    }
}
