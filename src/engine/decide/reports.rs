//! REPORT: what coordinators say about instances.

use crate::engine::command::{Report, ReportedState};
use crate::engine::deployment::Mode;
use crate::engine::draft::{instance_ref, Actor, Draft};
use crate::engine::event::{AgentReport, EventBody};
use crate::engine::evolve::predecessors;
use crate::engine::instance::{DrainPhase, Health, Instance, InstanceKey, InstanceState, Role, TaskKind};
use crate::engine::manifest::BATCH_AGENT;
use crate::engine::record::Record;
use crate::engine::rejection::Rejection;
use std::sync::Arc;

/// Finds the instance that a report is about: the agent's newest one of that version and job. None where it was
/// removed, so that the report is stale.
///
/// # Errors
/// `NOTFOUND` for an agent or a version that the record does not have.
pub(super) fn find_instance<'r>(
    record: &'r Record,
    agent: &Arc<str>,
    version: Option<u64>,
    job: &Option<Arc<str>>,
) -> Result<Option<&'r Instance>, Rejection> {
    let all = record.instances.of_agent(agent);
    if all.is_empty() && !record.has_agent(agent) {
        return Err(Rejection::NoSuchAgent(agent.to_string()));
    }
    if let Some(number) = version {
        if record.version(number).is_none() && !all.iter().any(|i| i.version == number) {
            return Err(Rejection::NoSuchVersion(number));
        }
    }
    let meant = |i: &&Instance| {
        version.is_none_or(|number| i.version == number) && job.as_ref().is_none_or(|job| i.job_id == *job)
    };
    Ok(all.iter().rev().find(meant))
}

/// Decides REPORT (rule 3, rule 8 "Attempts", rule 8 "Tasks"). Returns true where it changed something.
pub(super) fn report(draft: &mut Draft, report: &Report) -> Result<bool, Rejection> {
    let meant = find_instance(&draft.record, &report.agent, report.version, &report.job)?;
    let Some(instance) = meant else { return Ok(false) };
    let key = instance.key();
    let Some(attempt) = attempt(instance, report) else {
        if let Some(sessions) = report.sessions.filter(|_| repeats_its_start(instance, report)) {
            draft.hold_sessions(&key, sessions);
        }
        return Ok(false);
    };
    let changed = report_state(draft, &key, attempt, report)?;
    // Not those of an attempt that is not the present one.
    let is_current = || draft.record.instances.get(&key).is_some_and(|instance| instance.attempt == attempt);
    let sessions = report.sessions.filter(|_| is_current());
    let taken_up = sessions.is_some_and(|sessions| sessions_reported(draft, &key, sessions));
    Ok(changed || taken_up)
}

/// Takes the number of sessions of an instance. The first one about a drain takes it up (rule 10.2), which returns
/// true; otherwise it is a silent change (rule 10.3).
pub(super) fn sessions_reported(draft: &mut Draft, key: &InstanceKey, sessions: u32) -> bool {
    let Some(instance) = draft.record.instances.get(key) else { return false };
    if instance.state == InstanceState::Waiting {
        return false; // nothing runs that could hold one
    }
    let takes_up = instance.drain.as_ref().is_some_and(|drain| drain.phase == DrainPhase::Issued);
    match takes_up {
        true => draft.take_up_drain(key, Some(sessions)),
        false => draft.hold_sessions(key, sessions),
    }
    takes_up
}

/// Applies the state of a report.
fn report_state(draft: &mut Draft, key: &InstanceKey, attempt: u32, report: &Report) -> Result<bool, Rejection> {
    let Some(instance) = draft.record.instances.get(key) else { return Ok(false) };
    let batch = &*instance.agent == BATCH_AGENT;
    let state = match report.state {
        ReportedState::Starting => InstanceState::Starting,
        ReportedState::Ready => InstanceState::Ready,
        ReportedState::Unready => InstanceState::Unready,
        ReportedState::Failed => InstanceState::Failed,
        ReportedState::Stopped => return Ok(stopped(draft, key, attempt, report)),
        ReportedState::Draining | ReportedState::Drained => return Ok(drain_reported(draft, key, attempt, report)),
        ReportedState::Completed if !batch => {
            return Err(Rejection::NotABatchJob { agent: instance.agent.to_string(), version: instance.version })
        }
        ReportedState::Completed => {
            let instance = instance.clone();
            return Ok(batch_ended(draft, &instance, AgentReport::Completed, attempt, report));
        }
        ReportedState::Unsafe => {
            let instance = instance.clone();
            return Ok(mark_unsafe(draft, &instance, attempt, report));
        }
    };
    if state == InstanceState::Failed && batch {
        let instance = instance.clone();
        return Ok(batch_ended(draft, &instance, AgentReport::State(state), attempt, report));
    }
    if state == instance.state && attempt == instance.attempt && !has_another_reason(instance, report) {
        return Ok(false);
    }
    let version = instance.version;
    let first = instance.state == InstanceState::Waiting;
    let replaced = if first { predecessors(&draft.record, instance) } else { Vec::new() };
    let changed = state_event(draft, instance, state, attempt, report, false);
    let task = instance.task.as_ref().filter(|task| first && !batch && task.kind != TaskKind::Stop);
    let done = task.map(|task| EventBody::TaskDone {
        instance: instance_ref(instance),
        task: task.kind,
        withdrawn: false,
        removes_instance: false,
    });
    let health_effect = health_effect(instance, state, attempt, report);
    let services_effect = services_effect(instance, state, attempt);
    for old in &replaced {
        draft.clear_services(old, "replaced");
        // One that has drained and was to start anew need not: its successor has been started after all.
        draft.withdraw(old, true);
    }
    draft.emit(version, changed);
    if let Some(done) = done {
        draft.emit(version, done);
    }
    match health_effect {
        HealthEffect::Unhealthy(key, why) => draft.mark_unhealthy(&key, &why),
        HealthEffect::Recheck(key) => draft.recheck_healthy(&key),
        HealthEffect::None => {}
    }
    match services_effect {
        ServicesEffect::Fail(reason) => draft.fail_services(key, reason),
        ServicesEffect::ClearEarlier => draft.clear_earlier_services(key, attempt),
        ServicesEffect::None => {}
    }
    if state == InstanceState::Failed {
        draft.end_drain(key, false, Actor::auto());
    }
    Ok(true)
}

/// Applies `draining` and `drained`, which say something about a drain only (rule 10.14). Drained, it holds no session.
fn drain_reported(draft: &mut Draft, key: &InstanceKey, attempt: u32, report: &Report) -> bool {
    let Some(instance) = draft.record.instances.get(key) else { return false };
    if !instance.has_open_drain() || attempt != instance.attempt {
        return false;
    }
    let is_drained = report.state == ReportedState::Drained;
    let sessions = report.sessions.or(is_drained.then_some(0));
    let takes_up = instance.task.is_some();
    if takes_up {
        draft.take_up_drain(key, sessions);
    } else if let Some(sessions) = sessions {
        draft.hold_sessions(key, sessions);
    }
    if is_drained {
        draft.end_drain(key, false, Actor::auto());
    }
    takes_up || is_drained
}

/// Returns true for a report of the present state with another reason, which is news (rule 3.6). A verdict about the
/// instance may have put its own words around the reason. A repeated `starting` never is: it claims the attempt, and the
/// one who claims it second must hear so, whatever the reason.
fn has_another_reason(instance: &Instance, report: &Report) -> bool {
    let Some(reason) = report.reason.as_deref().filter(|_| instance.state != InstanceState::Starting) else {
        return false;
    };
    instance
        .reason
        .as_deref()
        .is_none_or(|known| known != reason && !known.ends_with(&format!("{}: {reason}", instance.state.name())))
}

/// The effect of a report on the instance's services (rule 8 "Services").
enum ServicesEffect {
    None,
    /// They are critical, for this reason, until they are registered or checked again.
    Fail(&'static str),
    /// Those of an earlier attempt leave the record.
    ClearEarlier,
}

fn services_effect(instance: &Instance, state: InstanceState, attempt: u32) -> ServicesEffect {
    match state {
        InstanceState::Failed => ServicesEffect::Fail("agent failed"),
        InstanceState::Ready => ServicesEffect::ClearEarlier,
        // The first attempt follows none.
        _ if instance.attempt > 0 && attempt > instance.attempt => ServicesEffect::Fail("agent restarted"),
        _ => ServicesEffect::None,
    }
}

/// Returns the attempt that a report is about; None where it is over, or has started already. An attempt that a task
/// has announced is taken up by `starting`, or by a report with its number.
fn attempt(instance: &Instance, report: &Report) -> Option<u32> {
    if instance.is_to_restart() {
        let is_it = match report.attempt {
            Some(given) => given == instance.attempt,
            None => report.state == ReportedState::Starting,
        };
        return is_it.then_some(instance.attempt);
    }
    match (report.state, report.attempt) {
        (ReportedState::Starting, Some(given)) if given <= instance.attempt => None,
        (_, Some(given)) if given < instance.attempt => None,
        (_, Some(given)) => Some(given.max(1)),
        (ReportedState::Starting, None) if instance.state == InstanceState::Starting => None,
        (ReportedState::Starting, None) => Some(instance.attempt.saturating_add(1)),
        (_, None) => Some(instance.attempt.max(1)),
    }
}

/// Returns true for `starting` about an attempt that has started already. It claims nothing, a drain neither: who hears
/// 1 starts a process. What it says of the sessions counts all the same (rule 10.3).
fn repeats_its_start(instance: &Instance, report: &Report) -> bool {
    report.state == ReportedState::Starting
        && instance.state != InstanceState::Waiting
        && report.attempt.is_none_or(|given| given == instance.attempt)
}

/// The effect of a report on an instance's health, beside its healthy time.
enum HealthEffect {
    None,
    /// A healthy instance is rechecked.
    Recheck(InstanceKey),
    Unhealthy(InstanceKey, String),
}

fn health_effect(instance: &Instance, state: InstanceState, attempt: u32, report: &Report) -> HealthEffect {
    if instance.is_stopping() {
        return HealthEffect::None;
    }
    match (instance.health, state) {
        // Ready again in a new attempt: what ran before has ended in between.
        (Health::Healthy, InstanceState::Ready) if attempt != instance.attempt => {
            HealthEffect::Unhealthy(instance.key(), format!("restarted: attempt {attempt}"))
        }
        (Health::Healthy | Health::Pending, InstanceState::Failed) => {
            HealthEffect::Unhealthy(instance.key(), because("failed", report))
        }
        (Health::Healthy, _) => HealthEffect::Recheck(instance.key()),
        _ => HealthEffect::None,
    }
}

/// Returns, for example, `failed: out of memory`.
fn because(what: &str, report: &Report) -> String {
    report.reason.as_ref().map_or_else(|| what.to_string(), |reason| format!("{what}: {reason}"))
}

/// Returns the event of an instance's new state, with its healthy time.
fn state_event(
    draft: &Draft,
    instance: &Instance,
    state: InstanceState,
    attempt: u32,
    report: &Report,
    removes_instance: bool,
) -> EventBody {
    let restarted = instance.state != InstanceState::Waiting && attempt != instance.attempt;
    let broke = instance.state != InstanceState::Ready || restarted;
    let healthy_at = draft.healthy_at_if(instance, state, draft.record.services.of_instance(instance), broke);
    // After a fallback, replaced instances count for the old side (rule 4.6), and fail nothing.
    let fails_at_resume = state == InstanceState::Failed && draft.record.is_active() && draft.record.is_own(instance);
    EventBody::AgentState {
        instance: instance_ref(instance),
        state: AgentReport::State(state),
        attempt,
        reason: report.reason.clone(),
        healthy_at,
        removes_instance,
        fails_at_resume,
    }
}

/// Applies `stopped`: ends a stop task, removes an instance that is being replaced, and marks any other unhealthy at
/// once.
fn stopped(draft: &mut Draft, key: &InstanceKey, attempt: u32, report: &Report) -> bool {
    let Some(instance) = draft.record.instances.get(key) else { return false };
    if instance.has_open_drain() {
        return stopped_in_drain(draft, key, attempt, report);
    }
    if instance.role == Role::Standby {
        return standby_stopped(draft, key, attempt, report);
    }
    let told = instance.is_stopping();
    if !told && instance.state == InstanceState::Waiting {
        return false; // nothing has run that could have stopped
    }
    // One that has stopped in its drain is known to have, and stays until its successor reports.
    let has_stopped = instance.state == InstanceState::Stopped;
    let is_successor = |i: &Instance| {
        i.job_id == instance.job_id
            && i.created > instance.created
            && i.state == InstanceState::Waiting
            && matches!(&i.task, Some(task) if task.kind == TaskKind::Replace)
    };
    let replaced = !has_stopped && draft.record.instances.of_agent(&instance.agent).iter().any(is_successor);
    if has_stopped && !told {
        let is_news = attempt == instance.attempt && has_another_reason(instance, report);
        if is_news {
            let body = state_event(draft, instance, InstanceState::Stopped, attempt, report, false);
            draft.emit(key.version, body);
        }
        return is_news;
    }
    if told || replaced {
        draft.clear_services(key, "stopped");
    }
    // Removing services may have changed its healthy time.
    let Some(instance) = draft.record.instances.get(key).cloned() else { return false };
    let body = state_event(draft, &instance, InstanceState::Stopped, attempt, report, replaced && !told);
    draft.emit(key.version, body);
    if told {
        let body = EventBody::TaskDone {
            instance: instance_ref(&instance),
            task: TaskKind::Stop,
            withdrawn: false,
            removes_instance: true,
        };
        draft.emit(key.version, body);
    } else if !replaced {
        draft.clear_services(key, "stopped");
        if instance.health != Health::Unhealthy {
            draft.mark_unhealthy(key, &because("stopped", report));
        }
    }
    true
}

/// Applies `stopped` about an instance that drains: that ends the drain. Where nothing follows it, it leaves the record
/// (rule 10.4).
fn stopped_in_drain(draft: &mut Draft, key: &InstanceKey, attempt: u32, report: &Report) -> bool {
    draft.end_drain(key, false, Actor::auto());
    draft.clear_services(key, "stopped");
    let Some(instance) = draft.record.instances.get(key) else { return false };
    let (leaves, is_unhealthy) = (instance.is_leaving(), instance.health == Health::Unhealthy);
    let body = state_event(draft, instance, InstanceState::Stopped, attempt, report, leaves);
    draft.emit(key.version, body);
    if !leaves && !is_unhealthy {
        draft.mark_unhealthy(key, &because("stopped", report));
    }
    true
}

/// Applies `stopped` about a standby: it leaves the record (rule 12.6).
fn standby_stopped(draft: &mut Draft, key: &InstanceKey, attempt: u32, report: &Report) -> bool {
    draft.clear_services(key, "stopped");
    let Some(instance) = draft.record.instances.get(key) else { return false };
    let body = state_event(draft, instance, InstanceState::Stopped, attempt, report, true);
    draft.emit(key.version, body);
    true
}

/// Applies the end of a batch job: its outcome is stored with the version (rule 4.7).
fn batch_ended(draft: &mut Draft, instance: &Instance, state: AgentReport, attempt: u32, report: &Report) -> bool {
    draft.clear_services(&instance.key(), "ended");
    let reference = instance_ref(instance);
    let task = instance.task.as_ref().map_or(TaskKind::Run, |task| task.kind);
    let reason = report.reason.clone();
    let body = EventBody::AgentState {
        instance: reference.clone(),
        state,
        attempt,
        reason,
        healthy_at: None,
        removes_instance: false,
        fails_at_resume: false,
    };
    draft.emit(instance.version, body);
    draft.emit(
        instance.version,
        EventBody::TaskDone { instance: reference, task, withdrawn: false, removes_instance: true },
    );
    true
}

/// Applies `unsafe`, which counts only about an unhealthy or pending in-place instance of an active deployment (rule 8
/// "Attempts"), or about one that drains to be replaced by it (rule 10.8).
fn mark_unsafe(draft: &mut Draft, instance: &Instance, attempt: u32, report: &Report) -> bool {
    let Some(d) = draft.deployment() else { return false };
    let counts = d.status.is_active()
        && d.mode == Mode::InPlace
        && !d.is_baking
        && d.unsafe_report.is_none()
        && match instance.awaited_version() {
            Some(version) => version == d.target_version,
            None => draft.record.is_own(instance) && instance.health != Health::Healthy,
        };
    if counts {
        let body = EventBody::AgentState {
            instance: instance_ref(instance),
            state: AgentReport::Unsafe,
            attempt,
            reason: report.reason.clone(),
            healthy_at: instance.healthy_at,
            removes_instance: false,
            fails_at_resume: false,
        };
        draft.emit(instance.version, body);
    }
    counts
}
