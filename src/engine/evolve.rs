//! The state transition: one total match over events, one function for each. It rejects nothing, decides nothing and
//! reads no clock, so that a replica, an AOF and a test that apply the same changes hold the same record.

use super::deployment::{
    Action, Cause, DeferredFailure, Deployment, IdempotencyEntry, Mode, Outcome, Status, UnsafeReport, MAX_REQUEST_IDS,
};
use super::event::{
    AgentReport, Change, ChangeSet, Event, EventBody, InstanceRef, NewDeployment, NewDrain, SilentChange,
};
use super::instance::{
    is_same, Drain, DrainOutcome, DrainPhase, Health, Instance, InstanceKey, InstanceState, Role, Task, TaskKind,
};
use super::manifest::{ManifestText, BATCH_AGENT};
use super::policy::Strategy;
use super::record::Record;
use super::services::Service;
use super::time::{Deadline, UnixMs};
use super::transaction::Transaction;
use super::version::Version;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Applies the changes of one command, whole.
pub fn apply(record: &mut Record, changes: &ChangeSet) {
    let mut transaction = Transaction::begin(record);
    for change in &changes.changes {
        evolve(&mut transaction, change);
    }
    transaction.commit(changes.log_max);
}

/// Applies one change.
pub(super) fn evolve(record: &mut Record, change: &Change) {
    match change {
        Change::Event(event) => apply_event(record, event),
        Change::Silent(change) => apply_silent(record, change),
    }
}

fn apply_silent(record: &mut Record, change: &SilentChange) {
    match change {
        SilentChange::ServiceRefreshed { instance, expires_at } => {
            record.services.update(instance, |service| service.expires_at = *expires_at);
        }
        SilentChange::SessionsReported { instance, sessions, idle } => {
            record.instances.update(instance, |stored| {
                stored.sessions = Some(*sessions);
                if let Some(drain) = &mut stored.drain {
                    drain.idle = *idle;
                }
            });
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

#[rustfmt::skip]
fn apply_event(record: &mut Record, event: &Arc<Event>) {
    use super::event::EventBody::*;
    let at = event.at;
    match &event.body {
        DeploymentStarted(new) => start(record, event, new, Status::Running),
        DeploymentNoop(new) => deployment_noop(record, event, new),
        VersionRecorded(new) => version_recorded(record, event, new),
        RollbackStarted { .. } => {}
        TaskIssued { instance, task: TaskKind::Stop, .. } => stop_requested(record, event, instance),
        TaskIssued { instance, drain: Some(drain), .. } => drain_issued(record, event, instance, drain),
        TaskIssued { instance, task, from_version, attempt, deadline, .. } => {
            let new = NewTask { kind: *task, from_version: *from_version, attempt: *attempt, deadline: *deadline };
            task_issued(record, event, instance, &new);
        }
        TaskDone { instance, task, withdrawn, removes_instance } => {
            task_done(record, event, instance, *task, *withdrawn, *removes_instance);
            if *removes_instance && &*instance.agent == BATCH_AGENT {
                run_left(record, event);
            }
        }
        AgentState { instance, state, attempt, reason, healthy_at, removes_instance, fails_at_resume } => {
            let new = NewState { attempt: *attempt, reason: reason.as_ref(), healthy_at: *healthy_at, fails_at_resume: *fails_at_resume };
            agent_reported(record, event, instance, *state, new);
            if *removes_instance {
                remove_instance(record, &event.key_of(instance));
            }
        }
        AgentHealthy { instance, progress } => agent_healthy(record, &event.key_of(instance), *progress),
        AgentUnhealthy { instance, reason, resumes_with, fails_at_resume } => agent_unhealthy(record, event, instance, reason, *resumes_with, *fails_at_resume),
        AgentDraining { instance, outcome, deadline, .. } => agent_draining(record, &event.key_of(instance), *outcome, *deadline),
        AgentDrained { instance, .. } => agent_drained(record, &event.key_of(instance)),
        AwaitingPromotion { .. } => awaiting_promotion(record, at),
        DeploymentPromoted { progress, by, reason, full } => promoted(record, at, *progress, by, reason, *full),
        BakeStarted { bake } => bake_started(record, *bake),
        DeploymentPaused { by, reason } => paused(record, at, by, reason),
        DeploymentResumed { status, progress, by, reason } => resumed(record, at, *status, *progress, by, reason),
        DeploymentFailed { cause, description, by, reason } => ended(record, at, Status::Failed, *cause, description, by, reason),
        DeploymentCancelled { cause, description, by, reason } => ended(record, at, Status::Cancelled, *cause, description, by, reason),
        DeploymentSuccessful { description, .. } => succeed(record, at, description.clone()),
        FallbackBlueGreen { reason, job_id, changed, canaries, .. } => fallback(record, event.version, reason, job_id, changed, *canaries),
        VersionTagged { tag, .. } => change_version(record, event.version, |version| version.tag = Some(tag.clone())),
        VersionUntagged { .. } => change_version(record, event.version, |version| version.tag = None),
        ServiceRegistered { service, healthy_at } => service_registered(record, service, *healthy_at),
        ServiceStatus { instance, status, reason, expires_at, healthy_at, .. } => {
            service_status(record, instance, *healthy_at, |service| {
                if service.status != *status {
                    service.since = at;
                }
                service.status = *status;
                service.reason = reason.clone();
                service.expires_at = *expires_at;
            });
        }
        ServiceDeregistered { instance, healthy_at, .. } => service_deregistered(record, instance, *healthy_at),
    }
    if record.revision == 0 {
        record.created_at = at;
    }
    if event.body.may_change_progress() {
        hold_progress(record, at);
    }
    record.revision = event.revision;
    record.updated_at = at;
    record.log.push(&for_the_log(event));
}

impl Event {
    /// Returns the key of the instance that the event is about.
    fn key_of(&self, instance: &InstanceRef) -> InstanceKey {
        InstanceKey { agent: instance.agent.clone(), version: self.version, job_id: instance.job_id.clone() }
    }
}

// ---- versions and deployments ---------------------------------------------------------------------------------------

fn deployment_noop(record: &mut Record, event: &Event, new: &NewDeployment) {
    start(record, event, new, Status::Running);
    let description = format!("nothing to change: {}", new.mode_reason);
    succeed(record, event.at, Arc::from(description));
}

fn version_recorded(record: &mut Record, event: &Event, new: &NewDeployment) {
    start(record, event, new, Status::VersionRecorded);
    record.current_version = Some(new.version.number);
    record.current_job_id = Some(new.version.job_id.clone());
    finish(record, event.at, Status::VersionRecorded, None, "version recorded".into(), None);
}

fn awaiting_promotion(record: &mut Record, at: UnixMs) {
    let Some(deployment) = deployment_of(record) else { return };
    deployment.awaiting_since = Some(at);
    deployment.status = Status::AwaitingPromotion;
    deployment.progress = Deadline::Off;
}

fn promoted(record: &mut Record, at: UnixMs, progress: Deadline, by: &Arc<str>, reason: &Option<Arc<str>>, full: bool) {
    let Some(deployment) = deployment_of(record) else { return };
    deployment.promoted = true;
    deployment.skips_bake = full;
    deployment.awaiting_since = None;
    deployment.status = Status::Running;
    deployment.progress = progress;
    record_action(deployment, "promote", by, at, reason);
    let target = deployment.target_version;
    change_version(record, target, |version| {
        version.promoted_at = Some(at);
        version.promoted_by = Some(by.clone());
    });
    promote_roles(record);
}

/// Starts the bake: the target is current, and not yet stable (rule 12.1).
fn bake_started(record: &mut Record, bake: Deadline) {
    let Some(deployment) = deployment_of(record) else { return };
    deployment.is_baking = true;
    deployment.bake = bake;
    deployment.progress = Deadline::Off;
    make_target_current(record);
}

fn make_target_current(record: &mut Record) {
    let Some(deployment) = &record.deployment else { return };
    record.current_version = Some(deployment.target_version);
    record.current_job_id = Some(deployment.target_job_id.clone());
}

fn paused(record: &mut Record, at: UnixMs, by: &Arc<str>, reason: &Option<Arc<str>>) {
    if let Some(deployment) = deployment_of(record) {
        deployment.paused_from = Some(deployment.status);
        deployment.status = Status::Paused;
        deployment.progress = deployment.progress.pause(at);
        deployment.bake = deployment.bake.pause(at);
        record_action(deployment, "pause", by, at, reason);
    }
    change_own_deadlines(record, |deadline| deadline.pause(at));
}

fn resumed(
    record: &mut Record,
    at: UnixMs,
    status: Status,
    progress: Deadline,
    by: &Arc<str>,
    reason: &Option<Arc<str>>,
) {
    if let Some(deployment) = deployment_of(record) {
        deployment.paused_from = None;
        deployment.status = status;
        deployment.progress = progress;
        deployment.bake = deployment.bake.resume(at);
        record_action(deployment, "resume", by, at, reason);
    }
    change_own_deadlines(record, |deadline| deadline.resume(at));
}

/// Ends a deployment as failed or cancelled. An operator's FAIL and STOP are recorded as actions.
fn ended(
    record: &mut Record,
    at: UnixMs,
    status: Status,
    cause: Cause,
    description: &Arc<str>,
    by: &Arc<str>,
    reason: &Option<Arc<str>>,
) {
    let action = match (status, cause) {
        (Status::Failed, Cause::Operator) => Some("fail"),
        (Status::Cancelled, Cause::Stopped) => Some("stop"),
        _ => None,
    };
    if let (Some(action), Some(deployment)) = (action, deployment_of(record)) {
        record_action(deployment, action, by, at, reason);
    }
    finish(record, at, status, Some(cause), description.clone(), reason.clone());
}

fn fallback(
    record: &mut Record,
    version: u64,
    reason: &Arc<str>,
    job_id: &Arc<str>,
    changed: &Arc<[Arc<str>]>,
    canaries: u32,
) {
    open_drains(record);
    do_not_count(record, version, |_| true); // blue-green leaves no instance unchanged
    if let Some(deployment) = deployment_of(record) {
        deployment.mode = Mode::BlueGreen;
        deployment.strategy = Strategy::BlueGreen;
        deployment.mode_reason = reason.clone();
        deployment.target_job_id = job_id.clone();
        deployment.changed = changed.clone();
        deployment.removed_agents = Arc::from([]);
        deployment.canaries = canaries;
        deployment.promoted = false;
        deployment.unsafe_report = None;
    }
    change_version(record, version, |version| {
        version.job_id = job_id.clone();
        version.strategy = Strategy::BlueGreen;
    });
}

// ---- tasks and instances --------------------------------------------------------------------------------------------

fn stop_requested(record: &mut Record, event: &Event, instance: &InstanceRef) {
    let task = Task { kind: TaskKind::Stop, revision: event.revision, since: event.at };
    record.instances.update(&event.key_of(instance), |stored| {
        stored.role = instance.role;
        stored.task = Some(task);
        stored.drain = None;
        stored.healthy_at = None;
        stored.deadline = Deadline::Off;
    });
}

/// The fields of `task_issued` of a start, replace or run task.
struct NewTask {
    kind: TaskKind,
    from_version: Option<u64>,
    attempt: u32,
    deadline: Deadline,
}

fn task_issued(record: &mut Record, event: &Event, instance: &InstanceRef, new: &NewTask) {
    let key = event.key_of(instance);
    let task = Some(Task { kind: new.kind, revision: event.revision, since: event.at });
    let restarted = record.instances.update(&key, |stored| {
        stored.role = instance.role;
        stored.state = InstanceState::Waiting;
        stored.health = Health::Pending;
        stored.attempt = new.attempt;
        (stored.task_at, stored.since) = (event.at, event.at);
        stored.reason = None;
        stored.task = task.clone();
        stored.healthy_at = None;
        stored.deadline = new.deadline;
        (stored.sessions, stored.drain) = (None, None);
    });
    if restarted {
        return;
    }
    if let Some(from_version) = new.from_version {
        let drained = InstanceKey { version: from_version, ..key };
        change_drain(record, &drained, |drain| drain.phase = DrainPhase::Succeeded);
    }
    record.instances.insert(Instance {
        agent: instance.agent.clone(),
        node: instance.node.clone(),
        version: event.version,
        job_id: instance.job_id.clone(),
        role: instance.role,
        state: InstanceState::Waiting,
        health: Health::Pending,
        attempt: 0,
        task_at: event.at,
        since: event.at,
        reason: None,
        from_version: new.from_version,
        task,
        healthy_at: None,
        deadline: new.deadline,
        was_healthy: false,
        created: event.revision,
        sessions: None,
        drain: None,
        standby_until: None,
        adopted_for: None,
        not_counted_for: Box::default(),
    });
}

fn task_done(
    record: &mut Record,
    event: &Event,
    instance: &InstanceRef,
    task: TaskKind,
    withdrawn: bool,
    removes_instance: bool,
) {
    let key = event.key_of(instance);
    if withdrawn && task == TaskKind::Replace {
        reopen_drains(record, &key);
    }
    if removes_instance {
        return remove_instance(record, &key);
    }
    if task == TaskKind::Drain {
        return drain_task_done(record, &key, withdrawn, event.at);
    }
    record.instances.update(&key, |instance| {
        if instance.task.as_ref().is_some_and(|open| open.kind == task) {
            instance.task = None;
        }
        if withdrawn {
            instance.deadline = Deadline::Off; // a withdrawn task cannot be late
        }
        // One that was drained, and is not started again after all, is drained as before.
        if withdrawn && task == TaskKind::Start && instance.attempt > 0 {
            instance.drain = Some(Box::new(Drain {
                phase: DrainPhase::Ended,
                outcome: DrainOutcome::Open,
                role: instance.role,
                deadline: Deadline::Off,
                idle_ms: 0,
                idle: Deadline::Off,
            }));
            instance.role = Role::Draining;
        }
    });
}

// ---- drains ---------------------------------------------------------------------------------------------------------

fn drain_issued(record: &mut Record, event: &Event, instance: &InstanceRef, new: &NewDrain) {
    let task = Task { kind: TaskKind::Drain, revision: event.revision, since: event.at };
    record.instances.update(&event.key_of(instance), |stored| {
        stored.drain = Some(Box::new(Drain {
            phase: DrainPhase::Issued,
            outcome: new.outcome,
            role: stored.role,
            deadline: new.deadline,
            idle_ms: new.idle_ms,
            idle: Deadline::Off,
        }));
        stored.role = Role::Draining;
        stored.task = Some(task);
    });
}

/// Ends a drain task: the drain was taken up, or its task is withdrawn, with the drain unless that has ended.
fn drain_task_done(record: &mut Record, key: &InstanceKey, withdrawn: bool, at: UnixMs) {
    record.instances.update(key, |instance| {
        instance.task = None;
        let Some(drain) = &mut instance.drain else { return };
        if !withdrawn {
            drain.phase = DrainPhase::TakenUp;
            if instance.sessions == Some(0) {
                drain.idle = drain.idle_after(at);
            }
        } else if drain.is_open() {
            instance.role = drain.role;
            instance.drain = None;
        }
    });
}

fn agent_draining(record: &mut Record, key: &InstanceKey, outcome: DrainOutcome, deadline: Deadline) {
    change_drain(record, key, |drain| {
        drain.outcome = outcome;
        drain.deadline = deadline;
    });
}

fn agent_drained(record: &mut Record, key: &InstanceKey) {
    change_drain(record, key, |drain| {
        drain.phase = DrainPhase::Ended;
        (drain.deadline, drain.idle) = (Deadline::Off, Deadline::Off);
    });
}

fn change_drain(record: &mut Record, key: &InstanceKey, change: impl FnOnce(&mut Drain)) {
    if record.instances.get(key).is_some_and(|instance| instance.drain.is_some()) {
        record.instances.update(key, |instance| {
            if let Some(drain) = &mut instance.drain {
                change(drain);
            }
        });
    }
}

/// Reopens what follows the agent's drained instances: the task of their successor is withdrawn.
fn reopen_drains(record: &mut Record, successor: &InstanceKey) {
    let has_succeeded = |i: &&Instance| {
        is_same(&i.job_id, &successor.job_id)
            && i.drain.as_ref().is_some_and(|drain| drain.phase == DrainPhase::Succeeded)
    };
    let drained: Vec<_> =
        record.instances.of_agent(&successor.agent).iter().filter(has_succeeded).map(Instance::key).collect();
    for key in drained {
        change_drain(record, &key, |drain| (drain.phase, drain.outcome) = (DrainPhase::Ended, DrainOutcome::Open));
    }
}

/// Opens what follows the drains that led to a replacement by the deployment, which has ended or changed its job.
fn open_drains(record: &mut Record) {
    let Some(deployment) = &record.deployment else { return };
    let (target, job_id) = (deployment.target_version, deployment.target_job_id.clone());
    record.instances.update_where(
        |i| i.job_id == job_id && i.awaited_version() == Some(target),
        |i| {
            if let Some(drain) = &mut i.drain {
                drain.outcome = DrainOutcome::Open;
            }
        },
    );
}

/// Holds the progress deadline while every target instance has its healthy verdict and an agent still drains for its
/// replacement (rule 10.6); releases it otherwise.
fn hold_progress(record: &mut Record, at: UnixMs) {
    let Some(deployment) = record.deployment.as_ref().filter(|d| d.status == Status::Running) else { return };
    // Nearly always nothing drains, and this is asked with every event.
    let is_held = record.instances.draining() > 0 && {
        let counts = record.instances.counts(deployment.target_version, &deployment.target_job_id);
        counts.awaiting_drain > 0 && counts.healthy == counts.placed
    };
    let progress = match is_held {
        true => deployment.progress.pause(at),
        false => deployment.progress.resume(at),
    };
    if progress != deployment.progress {
        if let Some(deployment) = deployment_of(record) {
            deployment.progress = progress;
        }
    }
}

// ---- reports --------------------------------------------------------------------------------------------------------

/// The fields of `agent_state` beside the state.
struct NewState<'e> {
    attempt: u32,
    reason: Option<&'e Arc<str>>,
    healthy_at: Option<UnixMs>,
    fails_at_resume: bool,
}

fn agent_reported(record: &mut Record, event: &Event, instance: &InstanceRef, state: AgentReport, new: NewState) {
    match state {
        AgentReport::State(state) => {
            agent_state(record, &event.key_of(instance), state, &new, event.at);
            if new.fails_at_resume {
                let description = failure_description(&instance.agent, new.reason);
                defer_failure(record, Cause::AgentFailed, description);
            }
        }
        AgentReport::Completed => {}
        AgentReport::Unsafe => {
            if let Some(deployment) = deployment_of(record) {
                let reason = new.reason.map_or("it cannot be replaced in place", |reason| reason);
                let words = format!("agent {} is unsafe to replace: {reason}", instance.agent).into();
                deployment.unsafe_report = Some(UnsafeReport { agent: instance.agent.clone(), words });
            }
        }
    }
    let outcome = match state {
        AgentReport::Completed => Some(Outcome::Completed),
        AgentReport::State(InstanceState::Failed) => Some(Outcome::Failed),
        _ => None,
    };
    if let Some(outcome) = outcome.filter(|_| &*instance.agent == BATCH_AGENT) {
        batch_ended(record, event, outcome, new.reason);
    }
}

/// Ends a batch job: its outcome is stored with the version (rule 4.7).
fn batch_ended(record: &mut Record, event: &Event, outcome: Outcome, reason: Option<&Arc<str>>) {
    let description = match (outcome, reason) {
        (Outcome::Failed, Some(reason)) => format!("the batch job failed: {reason}"),
        (Outcome::Failed, None) => "the batch job failed".to_string(),
        _ => "the batch job completed".to_string(),
    };
    let cause = (outcome == Outcome::Failed).then_some(Cause::AgentFailed);
    end_version(record, event.version, outcome, cause, description.into(), event.at);
}

/// Applies that a run has left the record. One that did so without an outcome was stopped, and its version says so.
fn run_left(record: &mut Record, event: &Event) {
    if record.version(event.version).is_some_and(|version| version.outcome == Some(Outcome::VersionRecorded)) {
        let description = "the batch job was stopped".into();
        end_version(record, event.version, Outcome::VersionRecorded, Some(Cause::Stopped), description, event.at);
    }
}

fn agent_healthy(record: &mut Record, key: &InstanceKey, progress: Deadline) {
    record.instances.update(key, |instance| {
        instance.health = Health::Healthy;
        instance.was_healthy = true;
        instance.healthy_at = None;
        instance.deadline = Deadline::Off;
        instance.reason = None;
    });
    if let Some(deployment) = deployment_of(record) {
        deployment.progress = progress;
    }
}

fn agent_unhealthy(
    record: &mut Record,
    event: &Event,
    instance: &InstanceRef,
    reason: &Arc<str>,
    resumes_with: Option<Deadline>,
    fails_at_resume: bool,
) {
    record.instances.update(&event.key_of(instance), |stored| {
        stored.health = Health::Unhealthy;
        stored.deadline = Deadline::Off;
        stored.reason = Some(reason.clone());
    });
    if let (Some(deployment), Some(progress)) = (deployment_of(record), resumes_with) {
        match deployment.status {
            _ if deployment.is_baking => deployment.bake = Deadline::Off,
            Status::Paused => deployment.paused_from = Some(Status::Running),
            _ => deployment.status = Status::Running,
        }
        deployment.awaiting_since = None;
        deployment.progress = progress;
    }
    if fails_at_resume {
        let description = format!("agent {} is unhealthy: {reason}", instance.agent);
        defer_failure(record, Cause::UnhealthyAgent, description);
    }
}

// ---- services -------------------------------------------------------------------------------------------------------

fn service_registered(record: &mut Record, service: &Service, healthy_at: Option<UnixMs>) {
    record.services.insert(service.clone());
    record.instances.update(&service.owner, |instance| instance.healthy_at = healthy_at);
}

fn service_status(record: &mut Record, id: &str, healthy_at: Option<UnixMs>, change: impl FnOnce(&mut Service)) {
    record.services.update(id, change);
    if let Some(owner) = record.services.get(id).map(|service| service.owner.clone()) {
        record.instances.update(&owner, |instance| instance.healthy_at = healthy_at);
    }
}

fn service_deregistered(record: &mut Record, id: &str, healthy_at: Option<UnixMs>) {
    if let Some(service) = record.services.remove(id) {
        record.instances.update(&service.owner, |instance| instance.healthy_at = healthy_at);
    }
}

// ---- the parts of several transitions -------------------------------------------------------------------------------

/// Returns an event as the log keeps it: without a manifest, which DEPLOY.VERSION replies as long as the version is
/// kept.
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

fn failure_description(agent: &str, reason: Option<&Arc<str>>) -> String {
    match reason {
        _ if agent == BATCH_AGENT => "the batch job failed".to_string(),
        Some(reason) => format!("agent {agent} failed: {reason}"),
        None => format!("agent {agent} failed"),
    }
}

/// Records the last action of an operator.
fn record_action(deployment: &mut Deployment, name: &str, by: &Arc<str>, at: UnixMs, reason: &Option<Arc<str>>) {
    deployment.last_action = Some(Action { name: name.into(), by: by.clone(), at, reason: reason.clone() });
}

/// Returns the deployment for modification, copied where a transaction still holds the previous one.
fn deployment_of(record: &mut Record) -> Option<&mut Deployment> {
    record.deployment.as_mut().map(Arc::make_mut)
}

/// Defers a failure to the resume. The first cause is the true one (rule 4.10).
fn defer_failure(record: &mut Record, cause: Cause, description: String) {
    if let Some(deployment) = deployment_of(record) {
        deployment.deferred_failure.get_or_insert_with(|| DeferredFailure { cause, words: description.into() });
    }
}

/// Starts a deployment: records its version, trims others, and removes withdrawn instances.
fn start(record: &mut Record, event: &Event, new: &NewDeployment, status: Status) {
    let version = &new.version;
    record.deployment = Some(Arc::new(Deployment {
        id: version.deployment_id.clone(),
        status,
        cause: new.cause,
        ended: None,
        mode: new.mode,
        strategy: new.strategy,
        requested_strategy: new.requested_strategy,
        mode_reason: new.mode_reason.clone(),
        rollback_of: version.rollback_of,
        by: version.by.clone(),
        reason: version.reason.clone(),
        source_version: new.source_version,
        source_job_id: new.source_job_id.clone(),
        target_version: version.number,
        target_job_id: version.job_id.clone(),
        requested_job: new.requested_job.clone(),
        policy: version.policy.clone(),
        changed: new.changed.clone(),
        removed_agents: new.removed_agents.clone(),
        canaries: new.canaries,
        promoted: false,
        progress: new.progress,
        is_baking: false,
        bake: Deadline::Off,
        skips_bake: false,
        awaiting_since: None,
        paused_from: None,
        deferred_failure: None,
        unsafe_report: None,
        last_action: None,
        created_at: event.at,
        finished_at: None,
    }));
    let versions = Arc::make_mut(&mut record.versions);
    versions.retain(|v| !new.trimmed.contains(&v.number) && v.number < version.number);
    versions.push(Arc::new(version.clone()));
    record.last_version = version.number;
    // Instances of a failed deployment whose task was withdrawn are removed (rule 4.8).
    for key in record.instances.keys_where(Instance::is_withdrawn) {
        remove_instance(record, &key);
    }
    for adopted in &new.adopted {
        let key = adopted.key(&new.version.job_id);
        record.instances.update(&key, |i| (i.role, i.adopted_for) = (Role::Candidate, Some(version.number)));
    }
    count_unchanged(record, new);
}

/// Notes which instances count for a new version: those that its plan leaves unchanged (rule 11.6).
fn count_unchanged(record: &mut Record, new: &NewDeployment) {
    let number = new.version.number;
    match new.mode {
        Mode::InPlace | Mode::Noop => {
            let changed: BTreeSet<&Arc<str>> = new.changed.iter().chain(new.removed_agents.iter()).collect();
            let is_unchanged = |i: &Instance| {
                i.job_id == new.version.job_id && !i.is_leaving() && i.drain.is_none() && !changed.contains(&i.agent)
            };
            do_not_count(record, number, |i| !is_unchanged(i));
        }
        Mode::Initial | Mode::BlueGreen | Mode::SwitchBack | Mode::VersionOnly | Mode::Unchanged => {
            do_not_count(record, number, |i| i.adopted_for != Some(number));
        }
    }
}

/// Notes that the older instances that `filter` admits do not count for a version. Trimmed versions are forgotten.
fn do_not_count(record: &mut Record, version: u64, filter: impl Fn(&Instance) -> bool) {
    let kept: BTreeSet<u64> = record.versions.iter().map(|v| v.number).collect();
    record.instances.update_where(
        |i| i.version < version && i.counts_for(version) && filter(i),
        |i| {
            let numbers = i.not_counted_for.iter().copied().filter(|number| kept.contains(number));
            i.not_counted_for = numbers.chain([version]).collect();
        },
    );
}

/// Ends a deployment. Paused deadlines run again: verdicts continue after the end (rule 4.14).
fn finish(
    record: &mut Record,
    at: UnixMs,
    status: Status,
    cause: Option<Cause>,
    description: Arc<str>,
    reason: Option<Arc<str>>,
) {
    change_own_deadlines(record, |deadline| deadline.resume(at));
    open_drains(record);
    if status != Status::Successful {
        keep_standbys(record, at);
    }
    let Some(deployment) = deployment_of(record) else { return };
    deployment.status = status;
    if cause.is_some() {
        deployment.cause = cause;
    }
    if reason.is_some() {
        deployment.reason = reason;
    }
    deployment.ended = Some(description.clone());
    deployment.progress = Deadline::Off;
    (deployment.is_baking, deployment.bake) = (false, Deadline::Off);
    deployment.awaiting_since = None;
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
    end_version(record, target, outcome, cause, description, at);
}

/// Stores how a version ended.
fn end_version(
    record: &mut Record,
    number: u64,
    outcome: Outcome,
    cause: Option<Cause>,
    description: Arc<str>,
    at: UnixMs,
) {
    let description = shared_description(record, description);
    change_version(record, number, |version| {
        version.outcome = Some(outcome);
        version.cause = cause;
        version.description = Some(description);
        version.finished_at = Some(at);
    });
}

/// Keeps what could take over again after a deployment has failed or was cancelled: standbys of its bake stay for
/// `bake_ms` more (rule 12.3), and instances that it has adopted are on standby again (rule 12.5).
fn keep_standbys(record: &mut Record, at: UnixMs) {
    let Some(deployment) = &record.deployment else { return };
    let (target, bake_ms) = (deployment.target_version, deployment.policy.bake_ms);
    record.instances.update_where(
        |i| i.role == Role::Candidate && i.adopted_for == Some(target) && !i.is_stopping(),
        |i| {
            (i.role, i.adopted_for) = (Role::Standby, None);
            i.standby_until = Some(i.standby_until.unwrap_or(at).max(at));
        },
    );
    record.instances.update_where(
        |i| i.role == Role::Standby && i.standby_until.is_none(),
        |i| i.standby_until = Some(at.saturating_add(bake_ms)),
    );
}

/// Returns a description, shared with a version that ended in the same words: most of a history did.
fn shared_description(record: &Record, description: Arc<str>) -> Arc<str> {
    let known = record.versions.iter().rev().filter_map(|version| version.description.as_ref());
    known.into_iter().find(|known| **known == description).cloned().unwrap_or(description)
}

/// Ends a deployment as successful: its version is current and stable.
fn succeed(record: &mut Record, at: UnixMs, description: Arc<str>) {
    finish(record, at, Status::Successful, None, description, None);
    make_target_current(record);
    let Some(deployment) = &record.deployment else { return };
    let (target, job_id) = (deployment.target_version, deployment.target_job_id.clone());
    change_version(record, target, |version| version.stable = true);
    // Every instance with the content of a successful version is primary, a canary of an older attempt included.
    record
        .instances
        .update_where(|i| i.job_id == job_id && i.role == Role::Canary && !i.is_stopping(), |i| i.role = Role::Primary);
}

/// Makes candidates and canaries primary (rules 4.4 and 4.5); in blue-green, the old side is retired in the same step,
/// or stands by for the bake (rule 12.3).
fn promote_roles(record: &mut Record) {
    let Some(deployment) = &record.deployment else { return };
    let (target, job_id) = (deployment.target_version, deployment.target_job_id.clone());
    let (has_second_job, has_bake) = (deployment.has_second_job(), deployment.has_bake());
    let changed: BTreeSet<Arc<str>> = deployment.changed.iter().cloned().collect();
    let own = move |i: &Instance| i.deployed_version() == target && i.job_id == job_id;
    if has_second_job {
        let old = own.clone();
        record.instances.update_where(own, |i| (i.role, i.standby_until) = (Role::Primary, None));
        record.instances.update_where(move |i| !old(i), |i| retire(i, has_bake));
    } else {
        // A canary of an older attempt that this one does not change runs the promoted content as well.
        record.instances.update_where(
            move |i| i.role == Role::Canary && !i.is_stopping() && (own(i) || !changed.contains(&i.agent)),
            |i| i.role = Role::Primary,
        );
    }
}

/// Retires an instance of the old side. Candidates of an older attempt that are still stopping are retired as well; an
/// instance that drains goes on, and stops after it; a standby of an older deployment has a time of its own. Canaries
/// that were never promoted are told to stop with this role: they have no session to drain.
fn retire(instance: &mut Instance, has_bake: bool) {
    if let Some(drain) = &mut instance.drain {
        drain.outcome = DrainOutcome::Stop;
    } else if matches!(instance.role, Role::Standby | Role::Canary) {
        // as it is
    } else if has_bake && instance.can_stand_by() {
        instance.role = Role::Standby;
        instance.deadline = Deadline::Off;
    } else {
        instance.role = Role::Retired;
    }
}

/// Pauses or resumes the healthy deadlines of the deployment's own instances (rule 4.13), and the clocks of drains that
/// lead to a replacement by it (rule 10.9).
fn change_own_deadlines(record: &mut Record, change: impl Fn(Deadline) -> Deadline) {
    let Some(deployment) = &record.deployment else { return };
    let (target, job_id) = (deployment.target_version, deployment.target_job_id.clone());
    let is_own = |i: &Instance| i.deployed_version() == target && i.deadline != Deadline::Off;
    let drains_for_it = |i: &Instance| i.has_open_drain() && i.awaited_version() == Some(target);
    record.instances.update_where(
        |i| i.job_id == job_id && (is_own(i) || drains_for_it(i)),
        |i| {
            if is_own(i) {
                i.deadline = change(i.deadline);
            }
            if let Some(drain) = i.drain.as_mut().filter(|drain| drain.is_open()) {
                drain.deadline = change(drain.deadline);
                drain.idle = change(drain.idle);
            }
        },
    );
}

fn agent_state(record: &mut Record, key: &InstanceKey, state: InstanceState, new: &NewState, at: UnixMs) {
    let mut is_first_report = false;
    record.instances.update(key, |instance| {
        // One that has stopped before it ran follows nothing.
        is_first_report = instance.state == InstanceState::Waiting && state != InstanceState::Stopped;
        let is_same_state = instance.state == state && instance.attempt == new.attempt;
        if !is_same_state {
            instance.since = at;
        }
        instance.state = state;
        if instance.attempt != new.attempt {
            instance.sessions = None;
            if let Some(drain) = &mut instance.drain {
                drain.idle = Deadline::Off;
            }
        }
        instance.attempt = new.attempt;
        // The reason of a verdict is about the state that it was given in.
        if new.reason.is_some() || !is_same_state || instance.health != Health::Unhealthy {
            instance.reason = new.reason.cloned();
        }
        instance.healthy_at = new.healthy_at;
    });
    if is_first_report {
        let replaced = record.instances.get(key).map(|new| predecessors(record, new)).unwrap_or_default();
        for old in replaced {
            remove_instance(record, &old);
        }
    }
}

/// Returns the instances that are removed when this one first reports (rule 4.3): the agent's older ones in its job
/// and, unless it is a candidate, those of other jobs that do not run any more. What is told to stop replaces nothing.
pub(super) fn predecessors(record: &Record, new: &Instance) -> Vec<InstanceKey> {
    if &*new.agent == BATCH_AGENT || new.is_leaving() {
        return Vec::new();
    }
    record
        .instances
        .of_agent(&new.agent)
        .iter()
        .filter(|i| i.created < new.created && !i.is_leaving())
        .filter(|i| is_same(&i.job_id, &new.job_id) || (new.role != Role::Candidate && !i.state.is_running()))
        .map(Instance::key)
        .collect()
}

/// Removes an instance with its services.
fn remove_instance(record: &mut Record, key: &InstanceKey) {
    record.instances.remove(key);
    let orphans: Vec<Arc<str>> = record.services.of_owner(key).map(|s| s.instance.clone()).collect();
    for id in orphans {
        record.services.remove(&id);
    }
}

/// Modifies a kept version.
fn change_version(record: &mut Record, number: u64, change: impl FnOnce(&mut Version)) {
    if let Ok(index) = record.versions.binary_search_by_key(&number, |v| v.number) {
        if let Some(version) = Arc::make_mut(&mut record.versions).get_mut(index) {
            change(Arc::make_mut(version));
        }
    }
}
