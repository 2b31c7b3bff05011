//! The rules, one function each. Those of [`EVENT_RULES`] are checked at every event, with the record before and
//! after it; those of [`COMMAND_RULES`] after every command, on its record.

use super::drains::{leads_to, LeadsTo, Stage};
use super::model::{canaries, key_of, max_parallel, may_fail, Ended, Late, Model, Phase, Rollout, Seen, Told, Verdict};
use redis_deploy::engine::command::{Command, Limits, ReportedState, RollbackTo};
use redis_deploy::engine::deployment::{Cause, Mode, Status};
use redis_deploy::engine::event::{AgentReport, Event, EventBody, NewDeployment};
use redis_deploy::engine::instance::{Health, Instance, InstanceKey, InstanceState, Role, TaskKind};
use redis_deploy::engine::manifest::{Manifest, BATCH_AGENT};
use redis_deploy::engine::policy::{CountOrPercent, Policy, Strategy};
use redis_deploy::engine::services::CheckStatus;
use redis_deploy::engine::time::Deadline;
use redis_deploy::engine::{invariants, next_deadline, Change, ChangeSet, DecisionReply, Record, Rejection};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One event, between two states.
pub struct Happening<'a> {
    pub key: &'a str,
    /// The model before it.
    pub model: &'a Model,
    pub before: &'a Record,
    pub after: &'a Record,
    pub event: &'a Event,
    pub command: &'a Command,
    pub limits: Limits,
    /// The failure in the same command that no revert has answered yet.
    pub failed: &'a Option<Failed>,
}

/// A deployment that failed in this command, and what should follow.
#[derive(Debug, Clone)]
pub struct Failed {
    pub cause: Cause,
    pub auto_revert: bool,
    pub is_rollback: bool,
    pub newest_stable: Option<u64>,
    pub description: Arc<str>,
    /// The record when the failure had cleared up after itself.
    pub left: Record,
    /// The instances of the model then.
    pub left_seen: BTreeMap<InstanceKey, Seen>,
    /// Something else has happened since.
    pub over: bool,
}

/// One command that was taken, with what it led to.
pub struct Outcome<'a> {
    pub model: &'a Model,
    /// The instances of the agent that is reported on, before the command.
    pub seen_before: &'a BTreeMap<InstanceKey, Seen>,
    pub before: Option<&'a Record>,
    pub after: &'a Record,
    pub second: &'a Record,
    pub change_set: &'a ChangeSet,
    pub reply: &'a DecisionReply,
    pub command: &'a Command,
    pub now: u64,
    pub failed: &'a Option<Failed>,
}

/// One command that was refused, with nothing due before it.
pub struct Refusal<'a> {
    pub before: &'a Record,
    pub command: &'a Command,
    pub rejection: &'a Rejection,
}

impl Outcome<'_> {
    /// The events of the command.
    fn events(&self) -> impl Iterator<Item = &Arc<Event>> {
        self.change_set.changes.iter().filter_map(|change| match change {
            Change::Event(event) => Some(event),
            Change::Silent(_) => None,
        })
    }

    /// Answered from the model of REQUEST ids, before anything was looked at.
    pub fn is_remembered(&self) -> bool {
        let request = match self.command {
            Command::Deploy(deploy) => deploy.request.is_some(),
            Command::Rollback(rollback) => rollback.request.is_some(),
            _ => false,
        };
        request && self.change_set.changes.is_empty()
    }
}

pub type Said = Result<(), String>;

macro_rules! must {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}

macro_rules! rules {
    ($($name:ident),+ $(,)?) => { &[$((stringify!($name), $name)),+] };
}

pub(super) use {must, rules};

/// A rule of an event, by its name.
pub type EventRule = (&'static str, fn(&Happening) -> Said);

/// A rule of a command, by its name.
pub type CommandRule = (&'static str, fn(&Outcome) -> Said);

/// A rule of a refusal, by its name.
type RefusalRule = (&'static str, fn(&Refusal) -> Said);

pub const EVENT_RULES: &[EventRule] = rules![
    revisions_count_by_one,
    versions_count_up_without_gap_or_reuse,
    at_most_one_deployment_is_active,
    a_beginning_sets_out_to_do_what_differs,
    a_rollback_brings_a_stable_version_back_as_it_was,
    a_revert_answers_one_failure_once,
    no_more_than_max_parallel_without_a_verdict,
    canaries_go_first_and_alone,
    a_start_finds_its_agent_not_running,
    tasks_are_given_only_while_running,
    every_task_ends_with_an_event,
    no_promotion_while_a_canary_is_not_healthy,
    a_promotion_makes_primaries_and_retires_the_old_side,
    success_means_that_every_changed_agent_is_healthy,
    a_failure_has_a_true_cause_and_never_comes_in_a_pause,
    a_closed_deployment_stays_as_it_ended,
    the_progress_deadline_never_moves_back,
    the_progress_deadline_starts_anew_with_progress,
    a_pause_keeps_what_the_deadlines_had_left,
    healthy_is_never_said_too_early,
    unhealthy_has_a_ground,
    nothing_that_runs_is_forgotten,
    callers_see_primaries_alone,
    the_history_keeps_what_is_needed,
    a_fallback_keeps_what_was_replaced_on_the_old_side,
    unsafe_counts_only_of_what_is_being_replaced,
    a_failure_names_what_is_wrong_now,
    a_running_instance_keeps_its_service_instances,
    a_task_is_for_the_node_and_attempt_of_its_agent,
    critical_has_a_ground,
    a_restart_takes_the_services_of_earlier_attempts_alone,
];

pub const COMMAND_RULES: &[CommandRule] = rules![
    the_second_engine_is_equal,
    the_same_again_is_unchanged,
    stop_tells_everything_to_stop,
    the_account_of_the_rules_agrees,
    every_running_deployment_has_a_deadline,
    what_may_go_on_goes_on,
    healthy_is_said_in_time,
    what_breaks_is_unhealthy_at_once,
    what_is_late_is_unhealthy,
    what_must_fail_has_failed,
    versions_never_change,
    a_tick_leaves_nothing_due,
    an_early_tick_changes_nothing,
    reports_count_once,
    a_failure_reverts_or_says_why_not,
    nothing_of_an_ended_deployment_waits_for_replacement,
    after_success_each_agent_runs_once_in_one_job,
    an_agent_has_at_most_two_instances_in_a_job,
    rollback_target_is_one_that_rollback_takes,
    a_repeated_rollback_changes_nothing,
    the_history_says_how_each_version_ended,
    services_end_with_the_attempt_that_registered_them,
    a_refresh_moves_the_ttl,
    a_ttl_that_ran_out_is_critical,
    a_refresh_leaves_its_reason,
    reasons_are_those_of_the_reports,
    a_tag_names_the_version_of_the_receipt,
    receipts_warn_of_what_is_allowed,
];

pub const REFUSAL_RULES: &[RefusalRule] = rules![
    only_a_rollback_that_was_successful_is_done_already,
    only_a_running_instance_holds_its_service_instance,
    only_a_bake_keeps_a_deploy_from_changing_nothing,
];

pub fn new_deployment(event: &Event) -> Option<&NewDeployment> {
    match &event.body {
        EventBody::DeploymentStarted(b) | EventBody::DeploymentNoop(b) | EventBody::VersionRecorded(b) => Some(b),
        _ => None,
    }
}

pub fn rollout(model: &Model) -> Result<&Rollout, String> {
    model.rollout.as_ref().ok_or_else(|| "there is a deployment".to_string())
}

// ---- at every event -------------------------------------------------------------------------------------------------

/// Rule 1: the revision goes up by one for each event.
fn revisions_count_by_one(h: &Happening) -> Said {
    must!(
        h.event.revision == h.before.revision + 1 && h.after.revision == h.event.revision,
        "revision {} follows {}",
        h.event.revision,
        h.before.revision
    );
    Ok(())
}

/// Rule 1: versions are 1, 2, 3 …; a deployment's id is `dep_<key>_<n>`, never used twice.
fn versions_count_up_without_gap_or_reuse(h: &Happening) -> Said {
    let Some(b) = new_deployment(h.event) else { return Ok(()) };
    let n = h.model.last_version + 1;
    must!(b.version.number == n && h.event.version == n, "version {} comes after {}", b.version.number, n - 1);
    must!(*b.version.deployment_id == format!("dep_{}_{n}", h.key), "deployment id {}", b.version.deployment_id);
    must!(!h.model.ids.contains(&b.version.deployment_id), "id {} is used twice", b.version.deployment_id);
    must!(!b.version.stable, "version {n} is stable before it is successful");
    Ok(())
}

/// Rules 4, 4.8: a new deployment begins only when the one before it has ended.
fn at_most_one_deployment_is_active(h: &Happening) -> Said {
    if new_deployment(h.event).is_none() {
        return Ok(());
    }
    match &h.model.rollout {
        Some(r) => must!(matches!(r.phase, Phase::Ended(_)), "{} is still {:?}", r.id, r.phase),
        None => must!(h.model.last_version == 0, "the first deployment is the first"),
    }
    Ok(())
}

fn is_dead(state: InstanceState) -> bool {
    matches!(state, InstanceState::Failed | InstanceState::Stopped)
}

/// Returns true for an instance that callers see, or that a promotion would show them in its job.
fn serves(instances: &BTreeMap<InstanceKey, Seen>, i: &Instance) -> bool {
    let Some(seen) = instances.get(&i.key()) else { return false };
    !seen.is_going() && &*i.agent != BATCH_AGENT && matches!(seen.role, Role::Primary | Role::Canary)
}

/// Returns the instance with which a new version is compared: the newest one that serves.
fn serving<'r>(instances: &BTreeMap<InstanceKey, Seen>, record: &'r Record) -> Option<&'r Instance> {
    let drains = |i: &Instance| instances.get(&i.key()).is_some_and(|seen| seen.drain.is_some());
    let is_left_over = |i: &Instance| i.state == InstanceState::Waiting && i.task.is_none() && !drains(i);
    let runs = |i: &&Instance| serves(instances, i) && !is_dead(i.state) && !is_left_over(i);
    record.instances.iter().filter(runs).max_by_key(|i| i.version)
}

/// Returns what a rollback may adopt, by job (rule 12.5): healthy instances on standby, or in a drain that nobody has
/// taken up, that run what the target has for their agents, in another job than what serves.
fn adoptable(
    model: &Model,
    instances: &BTreeMap<InstanceKey, Seen>,
    record: &Record,
    target: &Told,
) -> BTreeMap<Arc<str>, BTreeMap<Arc<str>, u64>> {
    let serving_job = serving(instances, record).map(|i| &i.job_id);
    let agents = target.agents_with_nodes();
    let runs_it = |key: &InstanceKey, seen: &Seen| {
        let is_at_rest = match &seen.drain {
            Some(drain) => drain.stage == Stage::Issued,
            None => seen.role == Role::Standby && !seen.told_to_stop,
        };
        is_at_rest && seen.verdict == Verdict::Healthy && agents.contains(&key.agent) && {
            let node = target.node_of(&key.agent);
            model.versions.get(&key.version).is_some_and(|told| {
                told.content_of(node) == target.content_of(node)
                    && told.version.bundle == target.version.bundle
                    && told.topology() == target.topology()
            })
        }
    };
    let mut by_job: BTreeMap<Arc<str>, BTreeMap<Arc<str>, u64>> = BTreeMap::new();
    for (key, _) in instances.iter().filter(|(key, seen)| Some(&key.job_id) != serving_job && runs_it(key, seen)) {
        by_job.entry(key.job_id.clone()).or_default().insert(key.agent.clone(), key.version);
    }
    by_job
}

/// Returns true if a rollback adopts: a revert does, and a command without an explicit strategy in place (rule 12.5).
fn adopts(b: &NewDeployment, command: &Command) -> bool {
    let in_place = match command {
        Command::Rollback(asked) if b.cause.is_none() => asked.policy.strategy,
        _ => None,
    };
    b.version.rollback_of.is_some() && !matches!(in_place, Some(Strategy::Rolling | Strategy::Canary))
}

/// Computes what a version would change, independently of the engine (rule 2 "Changed agents", 4.1, 4.2, 4.5, 4.7).
pub fn judge(
    model: &Model,
    instances: &BTreeMap<InstanceKey, Seen>,
    record: &Record,
    target: &Told,
) -> (Mode, Vec<Arc<str>>) {
    if target.version.job_type.is_batch() {
        return (Mode::VersionOnly, Vec::new());
    }
    let agents_with_nodes = target.agents_with_nodes();
    let drains = |i: &Instance| instances.get(&i.key()).is_some_and(|seen| seen.drain.is_some());
    let counts = |i: &&Instance| serves(instances, i);
    let Some(source) = serving(instances, record) else { return (Mode::Initial, agents_with_nodes) };
    let topology_differs = model.versions.get(&source.version).is_some_and(|told| told.topology() != target.topology());
    if topology_differs {
        return (Mode::BlueGreen, agents_with_nodes);
    }
    let is_changed = |agent: &Arc<str>| -> bool {
        let mine = || record.instances.of_agent(agent).iter().filter(counts);
        let now = mine().filter(|i| i.state != InstanceState::Waiting).max_by_key(|i| i.created).or_else(|| {
            mine().filter(|i| matches!(&i.task, Some(t) if t.kind == TaskKind::Start)).max_by_key(|i| i.created)
        });
        let Some(now) = now else { return true };
        let Some(old) = model.versions.get(&now.version) else { return true };
        let node = target.node_of(agent);
        is_dead(now.state)
            || drains(now)
            || now.health != Health::Healthy
            || now.job_id != source.job_id
            || mine().any(|i| i.created > now.created && matches!(&i.task, Some(t) if t.kind == TaskKind::Start))
            || old.content_of(node) != target.content_of(node)
            || old.version.bundle != target.version.bundle
    };
    let changed: Vec<Arc<str>> = agents_with_nodes.iter().filter(|agent| is_changed(agent)).cloned().collect();
    match target.version.policy.strategy {
        _ if changed.is_empty() => (Mode::Noop, changed),
        Strategy::BlueGreen => (Mode::BlueGreen, agents_with_nodes),
        _ => (Mode::InPlace, changed),
    }
}

/// Rules 2, 4.1, 4.2, 4.5, 4.6: the mode and the changed agents are what the difference to what now runs asks for.
fn a_beginning_sets_out_to_do_what_differs(h: &Happening) -> Said {
    let Some(b) = new_deployment(h.event) else { return Ok(()) };
    let manifest = Arc::new(serde_json::from_str(b.version.content.text()).unwrap_or_default());
    let told = Told { version: b.version.clone(), stable: false, manifest, promoted: None, ended: None };
    // A rollback withdraws the drains of what it adopts, before it begins.
    let found = h.model.found_by_rollback.as_ref().unwrap_or(&h.model.instances);
    let (mut mode, mut changed) = judge(h.model, found, h.before, &told);
    let by_job = match mode {
        Mode::Initial | Mode::InPlace | Mode::BlueGreen if adopts(b, h.command) => {
            adoptable(h.model, found, h.before, &told)
        }
        _ => BTreeMap::new(),
    };
    let adopted: BTreeMap<Arc<str>, u64> = b.adopted.iter().map(|a| (a.agent.clone(), a.version)).collect();
    if let Some(most) = by_job.values().map(BTreeMap::len).max() {
        must!(by_job.get(&b.version.job_id) == Some(&adopted), "{adopted:?} are adopted, of {by_job:?}");
        must!(adopted.len() == most, "{} agents are adopted, and {most} could be", adopted.len());
        changed = told.agents_with_nodes();
        mode = if most == changed.len() { Mode::SwitchBack } else { Mode::BlueGreen };
        changed.sort_by_key(|agent| !adopted.contains_key(agent));
    } else {
        must!(adopted.is_empty(), "{adopted:?} are adopted, and nobody may be");
    }
    must!(b.mode == mode, "mode is {}, and {} is due", b.mode.name(), mode.name());
    must!(*b.changed == *changed, "changed agents are {:?}, and {changed:?} differ", b.changed);
    let n = canaries(&b.version.policy, changed.len());
    let expected = if matches!(mode, Mode::InPlace | Mode::BlueGreen) { n } else { 0 };
    must!(
        b.canaries as usize == expected,
        "{} canaries of {} changed agents, and {expected} are asked",
        b.canaries,
        changed.len()
    );
    let strategy = if matches!(mode, Mode::BlueGreen | Mode::SwitchBack) {
        Strategy::BlueGreen
    } else {
        b.version.policy.strategy
    };
    must!(b.strategy == strategy && b.requested_strategy == b.version.policy.strategy, "strategy is {:?}", b.strategy);
    let same_job = matches!(mode, Mode::InPlace | Mode::Noop) || !adopted.is_empty();
    if let (Command::Deploy(asked), None, Mode::Initial | Mode::BlueGreen) = (h.command, b.version.rollback_of, mode) {
        must!(
            asked.job.is_none() || asked.job.as_ref() == Some(&b.version.job_id),
            "JOB {:?} starts as {}",
            asked.job,
            b.version.job_id
        );
    }
    let left_over = |i: &Instance| i.state == InstanceState::Waiting && i.task.is_none() && i.drain.is_none();
    let taken =
        h.before.instances.iter().any(|i| i.job_id == b.version.job_id && i.state.is_running() && !left_over(i));
    must!(
        same_job || mode == Mode::VersionOnly || !taken,
        "job {} of a {} has instances already",
        b.version.job_id,
        mode.name()
    );
    Ok(())
}

/// Rule 4.12: the old one's manifest, bundle and policy less its canary; stable before; no tag.
fn a_rollback_brings_a_stable_version_back_as_it_was(h: &Happening) -> Said {
    let Some(b) = new_deployment(h.event) else { return Ok(()) };
    let Some(source) = b.version.rollback_of else { return Ok(()) };
    let Some(old) = h.model.versions.get(&source) else { return Err(format!("version {source} was recorded")) };
    must!(old.stable || old.version.job_type.is_batch(), "version {source} was stable");
    must!(old.version.content.text() == b.version.content.text(), "the manifest is that of version {source}");
    must!(
        old.version.bundle == b.version.bundle && old.version.agents == b.version.agents,
        "bundle and agents are those of {source}"
    );
    must!(b.version.tag.is_none(), "a rollback takes no tag along");
    if !matches!(h.command, Command::Rollback(_)) {
        must!(matches!(b.version.policy.canary, CountOrPercent::Count(0)), "a revert has no canary");
        must!(b.version.policy.strategy != Strategy::Canary, "a revert does not wait");
        must!(b.cause.is_some(), "a revert names its cause");
        must!(b.mode != Mode::Noop || !b.removed_agents.is_empty(), "a revert changes nothing");
    }
    Ok(())
}

/// Rule 4.11: a revert follows a failure in the same step, once, to the newest stable version, and never another
/// revert.
fn a_revert_answers_one_failure_once(h: &Happening) -> Said {
    let EventBody::RollbackStarted { rollback_of, cause: Some(cause), .. } = &h.event.body else { return Ok(()) };
    let Some(failed) = h.failed else { return Err("nothing failed in this step".to_string()) };
    must!(*cause == failed.cause, "it names cause {}, and {} it was", cause.name(), failed.cause.name());
    must!(failed.auto_revert, "nobody asked for a revert");
    must!(!failed.is_rollback, "a rollback never reverts");
    must!(
        failed.newest_stable == Some(*rollback_of),
        "it reverts to {rollback_of}, and {:?} is the newest stable",
        failed.newest_stable
    );
    Ok(())
}

/// Returns the agent that an event releases for the deployment: with the task of its new instance, or with the drain
/// that comes before it (rule 10.1). One that has drained for its replacement was released before.
fn released<'h>(h: &'h Happening) -> Option<&'h Arc<str>> {
    let r = h.model.rollout.as_ref()?;
    let held_back = |agent: &Arc<str>| h.model.held_back().any(|(key, _)| key.agent == *agent);
    match &h.event.body {
        EventBody::TaskIssued { instance, task: TaskKind::Start | TaskKind::Replace, .. } => {
            let is_own = h.event.version == r.target && instance.job_id == r.job;
            (is_own && !held_back(&instance.agent)).then_some(&instance.agent)
        }
        EventBody::TaskIssued { instance, drain: Some(drain), .. } => {
            (leads_to(drain.outcome) == LeadsTo::Replace(r.target)).then_some(&instance.agent)
        }
        EventBody::AgentDraining { instance, outcome, .. } => {
            let leads_there = leads_to(*outcome) == LeadsTo::Replace(r.target);
            (leads_there && !held_back(&instance.agent)).then_some(&instance.agent)
        }
        _ => None,
    }
}

/// Rules 4.3, 10.6: fewer than `max_parallel` released agents are without a healthy verdict, drains for a replacement
/// counted, and none is unhealthy.
fn no_more_than_max_parallel_without_a_verdict(h: &Happening) -> Said {
    if released(h).is_none() {
        return Ok(());
    }
    let r = rollout(h.model)?;
    if r.mode != Mode::InPlace || (r.canaries > 0 && !r.promoted) {
        return Ok(());
    }
    let without = h.model.released() - h.model.counted().filter(|(_, s)| s.verdict == Verdict::Healthy).count();
    let unhealthy = h.model.counted().filter(|(_, seen)| seen.verdict == Verdict::Unhealthy).count();
    let most = max_parallel(&r.policy, r.changed.len());
    must!(unhealthy == 0, "{unhealthy} unhealthy, and another one goes");
    must!(without < most, "{without} without a verdict of {most} allowed, and another one goes");
    Ok(())
}

/// Rules 4.4, 4.5, 10.1: in place, the first `canary` changed agents go, as canaries, and nothing else before the
/// promotion; in blue-green all are candidates; everything else is primary.
fn canaries_go_first_and_alone(h: &Happening) -> Said {
    let Some(r) = &h.model.rollout else { return Ok(()) };
    let canary_phase = r.mode == Mode::InPlace && r.canaries > 0 && !r.promoted;
    if let Some(agent) = released(h) {
        let place = h.model.released();
        must!(r.changed.get(place) == Some(agent), "{agent} goes at place {place} of {:?}", r.changed);
        must!(!canary_phase || place < r.canaries, "{place} canaries are there of {}", r.canaries);
    }
    let EventBody::TaskIssued { instance, task: TaskKind::Start | TaskKind::Replace, .. } = &h.event.body else {
        return Ok(());
    };
    if starts_anew(h) {
        return Ok(());
    }
    must!(h.event.version == r.target && instance.job_id == r.job, "a task is for the target, in its job");
    let role = match r.mode {
        Mode::BlueGreen | Mode::SwitchBack => Role::Candidate,
        Mode::InPlace if canary_phase => Role::Canary,
        _ => Role::Primary,
    };
    must!(instance.role == role, "{} goes as {}, not as {}", instance.agent, instance.role.name(), role.name());
    Ok(())
}

/// Returns true for the start of an instance that has drained (rule 10.8).
fn starts_anew(h: &Happening) -> bool {
    matches!(&h.event.body, EventBody::TaskIssued { instance, task: TaskKind::Start, .. }
        if h.model.instances.get(&key_of(instance, h.event.version)).is_some_and(|seen| seen.drain.is_some()))
}

/// Rules 2, 4.3: what runs in a job is replaced there; only what does not is started, or what has its stop first.
fn a_start_finds_its_agent_not_running(h: &Happening) -> Said {
    let EventBody::TaskIssued { instance, task, from_version, .. } = &h.event.body else { return Ok(()) };
    let waits = |i: &Instance| i.state == InstanceState::Waiting;
    let itself = key_of(instance, h.event.version);
    let mut beside = h
        .before
        .instances
        .of_agent(&instance.agent)
        .iter()
        .filter(|i| i.job_id == instance.job_id && i.is_running() && i.key() != itself);
    match task {
        TaskKind::Start => {
            let running = beside.find(|i| !waits(i) || i.task.is_some());
            must!(
                running.is_none(),
                "{} starts in {} beside {:?}",
                instance.agent,
                instance.job_id,
                running.map(|i| i.version)
            );
        }
        TaskKind::Replace => {
            let mut replaced = beside.filter(|i| Some(i.version) == *from_version);
            // One that drained for it may have stopped or failed meanwhile.
            let drained = from_version.is_some_and(|from| {
                let old = h.model.instances.get(&InstanceKey { version: from, ..itself.clone() });
                old.is_some_and(|seen| seen.drain.is_some())
            });
            must!(
                drained || replaced.next().is_some(),
                "{} replaces {from_version:?}, which does not run in {}",
                instance.agent,
                instance.job_id
            );
            let open = h
                .before
                .instances
                .of_agent(&instance.agent)
                .iter()
                .find(|i| i.job_id == instance.job_id && i.task.is_some() && !i.is_stopping());
            must!(open.is_none(), "{} has another open task in {}", instance.agent, instance.job_id);
        }
        TaskKind::Stop | TaskKind::Run | TaskKind::Drain => {}
    }
    Ok(())
}

/// Rules 4.13, 10.9: no new tasks while paused, except for what has drained and is not replaced; and none to start or
/// replace unless a deployment runs, except for what starts anew after its drain.
fn tasks_are_given_only_while_running(h: &Happening) -> Said {
    let EventBody::TaskIssued { task, .. } = &h.event.body else { return Ok(()) };
    let r = rollout(h.model)?;
    let has_drained = starts_anew(h) || (*task == TaskKind::Stop && follows_a_drain(h)) || has_stood_by(h);
    must!(has_drained || !matches!(r.phase, Phase::Paused { .. }), "a task in a pause");
    if !has_drained && matches!(task, TaskKind::Start | TaskKind::Replace) {
        must!(r.phase == Phase::Running, "a {} task while {:?}", task.name(), r.phase);
    }
    Ok(())
}

/// Returns true for the task of a standby that is not needed any more (rule 12.3).
fn has_stood_by(h: &Happening) -> bool {
    let EventBody::TaskIssued { instance, task: TaskKind::Stop | TaskKind::Drain, .. } = &h.event.body else {
        return false;
    };
    h.model
        .instances
        .get(&key_of(instance, h.event.version))
        .is_some_and(|seen| seen.role == Role::Standby && matches!(seen.stands_until, Late::At(at) if at <= h.event.at))
}

/// Returns true for the task of an instance whose drain has ended.
fn follows_a_drain(h: &Happening) -> bool {
    let EventBody::TaskIssued { instance, .. } = &h.event.body else { return false };
    let drain = h.model.instances.get(&key_of(instance, h.event.version)).and_then(|seen| seen.drain);
    drain.is_some_and(|drain| !drain.is_open())
}

/// Rules 5, 8 "Tasks": a task ends with its `task_done`, also where it is withdrawn; no instance gets or takes along a
/// second one before.
fn every_task_ends_with_an_event(h: &Happening) -> Said {
    if let EventBody::TaskIssued { instance, .. } = &h.event.body {
        let open = h.model.tasks.get(&key_of(instance, h.event.version));
        must!(open.is_none(), "{} has a {:?} task already", instance.agent, open);
        let state = h.model.instances.get(&key_of(instance, h.event.version)).map(|seen| seen.state);
        must!(
            state != Some(InstanceState::Stopped) || starts_anew(h),
            "{} has stopped, and gets a task",
            instance.agent
        );
    }
    for (key, task) in &h.model.tasks {
        let done =
            matches!(&h.event.body, EventBody::TaskDone { instance, .. } if key_of(instance, h.event.version) == *key);
        must!(done || h.after.instances.get(key).is_some(), "{} leaves with an open {} task", key.agent, task.name());
    }
    Ok(())
}

/// Rules 4.4, 4.5: promoted, or waiting for it, only with every canary healthy.
fn no_promotion_while_a_canary_is_not_healthy(h: &Happening) -> Said {
    let awaits = matches!(&h.event.body, EventBody::AwaitingPromotion { .. });
    if !awaits && !matches!(&h.event.body, EventBody::DeploymentPromoted { .. }) {
        return Ok(());
    }
    let r = rollout(h.model)?;
    must!(!r.promoted, "it is promoted already");
    let desired = if r.has_second_job() { r.changed.len() } else { r.canaries };
    let healthy = h.model.own().filter(|(_, seen)| seen.verdict == Verdict::Healthy).count();
    must!(healthy == desired && h.model.own().count() == desired, "{healthy} of {desired} are healthy");
    let waits = r.canaries > 0 && !r.policy.auto_promote;
    if awaits {
        must!(r.phase == Phase::Running && waits, "nothing to wait for while {:?}", r.phase);
    } else if matches!(h.command, Command::Promote { .. }) {
        must!(matches!(r.phase, Phase::Awaiting | Phase::Running), "promoted while {:?}", r.phase);
    } else {
        must!(r.phase == Phase::Running && !waits, "it waits for a person");
    }
    Ok(())
}

/// Rules 4.4, 4.5: candidates and canaries become primary, and in blue-green the old side is retired, in one step.
fn a_promotion_makes_primaries_and_retires_the_old_side(h: &Happening) -> Said {
    let EventBody::DeploymentPromoted { full, .. } = &h.event.body else { return Ok(()) };
    let r = rollout(h.model)?;
    for i in h.after.instances.iter() {
        let own = h.model.is_own(&i.key());
        if own {
            must!(i.role == Role::Primary, "{} is {} after the promotion", i.agent, i.role.name());
        } else if r.has_second_job() {
            let role = match h.model.instances.get(&i.key()) {
                Some(seen) if seen.drain.is_some() => Role::Draining,
                Some(seen) if !seen.told_to_stop && matches!(seen.role, Role::Canary | Role::Standby) => seen.role,
                // The way back (rule 12.3): whatever runs stays as it is.
                Some(seen) if !full && r.has_bake() && seen.runs() && !h.model.tasks.contains_key(&i.key()) => {
                    Role::Standby
                }
                _ => Role::Retired,
            };
            must!(i.role == role, "old {} is {} after the promotion", i.agent, i.role.name());
        }
    }
    Ok(())
}

/// Rule 4.3: successful is a deployment whose changed agents are all healthy.
fn success_means_that_every_changed_agent_is_healthy(h: &Happening) -> Said {
    if !matches!(&h.event.body, EventBody::DeploymentSuccessful { .. }) {
        return Ok(());
    }
    let r = rollout(h.model)?;
    must!(r.phase == Phase::Running, "successful while {:?}", r.phase);
    must!(!r.has_second_job() || r.promoted, "blue-green is successful by a promotion");
    must!(r.mode != Mode::InPlace || r.canaries == 0 || r.promoted, "canaries are promoted before success");
    for agent in &r.changed {
        let verdict = h.model.counted().find(|(key, _)| key.agent == *agent).map(|(_, seen)| seen.verdict);
        must!(verdict == Some(Verdict::Healthy), "{agent} is {verdict:?}");
    }
    Ok(())
}

/// Rules 4.10, 4.13: the cause on the record is the true one; nothing fails a paused deployment but an operator.
fn a_failure_has_a_true_cause_and_never_comes_in_a_pause(h: &Happening) -> Said {
    let EventBody::DeploymentFailed { cause, .. } = &h.event.body else { return Ok(()) };
    let r = rollout(h.model)?;
    let progress = h.before.deployment.as_ref().and_then(|d| d.progress.at());
    let passed = progress.is_some_and(|at| at <= h.event.at);
    let by_command = matches!(h.command, Command::Fail(_));
    must!(!matches!(r.phase, Phase::Ended(_)), "it has ended already");
    must!(may_fail(r, *cause, passed, by_command), "cause {} while {:?}", cause.name(), r.phase);
    Ok(())
}

/// Rule 4.14: later reports change neither status nor cause, nor how and when it ended.
fn a_closed_deployment_stays_as_it_ended(h: &Happening) -> Said {
    let (Some(was), Some(is)) = (&h.before.deployment, &h.after.deployment) else { return Ok(()) };
    if was.status.is_active() || new_deployment(h.event).is_some() {
        return Ok(());
    }
    let ended = |d: &redis_deploy::engine::deployment::Deployment| {
        (
            d.id.clone(),
            d.status,
            d.cause,
            d.ended.clone(),
            d.finished_at,
            d.reason.clone(),
            d.mode,
            d.promoted,
            d.target_job_id.clone(),
        )
    };
    must!(ended(was) == ended(is), "{} was {} and changes", was.id, was.status.name());
    Ok(())
}

/// Rule 4.10: it never moves back, whatever the server's clock does.
fn the_progress_deadline_never_moves_back(h: &Happening) -> Said {
    let (Some(was), Some(is)) = (&h.before.deployment, &h.after.deployment) else { return Ok(()) };
    if was.id != is.id {
        return Ok(());
    }
    if let (Deadline::Running { at: was }, Deadline::Running { at: is }) = (was.progress, is.progress) {
        must!(is >= was, "from {was} to {is}");
    }
    if let (Deadline::Paused { left_ms: was }, Deadline::Paused { left_ms: is }) = (was.progress, is.progress) {
        must!(is >= was, "from {was} ms left to {is}");
    }
    Ok(())
}

/// Rule 4.10: it starts with the deployment, and anew at the first health of an instance, at promotion, and (4.4)
/// when a canary is lost; it does not run while awaiting promotion.
fn the_progress_deadline_starts_anew_with_progress(h: &Happening) -> Said {
    let Some(is) = &h.after.deployment else { return Ok(()) };
    let ms = is.policy.progress_deadline_ms;
    let full = if ms == 0 { None } else { Some(ms) };
    // Drains may hold it (rule 10.6).
    let left = |deadline: Deadline| match deadline {
        Deadline::Running { at } => Some(at.saturating_sub(h.event.at)),
        Deadline::Paused { left_ms } => Some(left_ms),
        Deadline::Off => None,
    };
    let first_health =
        |key: &InstanceKey| h.model.is_own(key) && h.model.instances.get(key).is_some_and(|seen| !seen.ever_healthy);
    match &h.event.body {
        EventBody::DeploymentStarted(_) => must!(left(is.progress) == full, "{:?} at the start", is.progress),
        EventBody::AgentHealthy { instance, .. } => {
            let runs = matches!(&h.model.rollout, Some(r) if r.phase == Phase::Running);
            if runs && first_health(&key_of(instance, h.event.version)) {
                must!(left(is.progress) >= full, "{:?} after a first health", is.progress);
            } else if let Some(was) = &h.before.deployment {
                let held = matches!(&h.model.rollout, Some(r) if matches!(r.phase, Phase::Paused { .. }));
                must!(
                    held || left(is.progress) == left(was.progress),
                    "{:?} becomes {:?} without progress",
                    was.progress,
                    is.progress
                );
            }
        }
        EventBody::DeploymentPromoted { .. } => {
            must!(left(is.progress) >= full, "{:?} after the promotion", is.progress)
        }
        EventBody::AwaitingPromotion { .. } => {
            must!(is.progress == Deadline::Off, "{:?} while awaiting", is.progress);
            must!(is.awaiting_since == Some(h.event.at), "it awaits since {:?}", is.awaiting_since);
        }
        EventBody::AgentUnhealthy { .. } => {
            let reopened =
                matches!(&h.model.rollout, Some(r) if r.phase == Phase::Awaiting) && is.status == Status::Running;
            must!(!reopened || left(is.progress) == full, "{:?} after a canary was lost", is.progress);
        }
        _ => {}
    }
    Ok(())
}

/// Rule 4.13: at resume each deadline has what it had left.
fn a_pause_keeps_what_the_deadlines_had_left(h: &Happening) -> Said {
    let (Some(was), Some(is)) = (&h.before.deployment, &h.after.deployment) else { return Ok(()) };
    match &h.event.body {
        EventBody::DeploymentPaused { .. } => {
            must!(is.progress == was.progress.pause(h.event.at), "{:?} becomes {:?}", was.progress, is.progress);
        }
        EventBody::DeploymentResumed { .. } => {
            let expected = match was.progress {
                Deadline::Paused { left_ms } => Deadline::Running { at: h.event.at + left_ms },
                other => other,
            };
            let held = is.progress == was.progress && h.model.held_back().next().is_some();
            must!(held || is.progress == expected, "{:?} becomes {:?}", was.progress, is.progress);
        }
        _ => {}
    }
    Ok(())
}

/// Rule 4.9: not before `min_healthy_ms` of unbroken check_health.
fn healthy_is_never_said_too_early(h: &Happening) -> Said {
    let EventBody::AgentHealthy { instance, .. } = &h.event.body else { return Ok(()) };
    let key = key_of(instance, h.event.version);
    let Some(seen) = h.model.instances.get(&key) else { return Err(format!("{} is on the record", instance.agent)) };
    let min = h.model.policy_of(key.version).map_or(0, |p| p.min_healthy_ms);
    must!(seen.verdict != Verdict::Healthy, "{} is healthy already", instance.agent);
    must!(!seen.told_to_stop, "{} is told to stop", instance.agent);
    let Some(since) = seen.well_since else { return Err(format!("not all is well with {}", instance.agent)) };
    must!(
        h.event.at >= since + min,
        "{} is well since {} ms, of {min}",
        instance.agent,
        h.event.at.saturating_sub(since)
    );
    // A check that runs out is not passing at that time, however late the tick.
    let ran_out = |s: &&Arc<redis_deploy::engine::services::Service>| s.expires_at.is_some_and(|at| at <= since + min);
    must!(h.before.services.of_owner(&key).find(ran_out).is_none(), "a check of {} ran out before", instance.agent);
    Ok(())
}

/// Rule 4.9: unhealthy is what was late, or healthy and is not well any more, or has ended.
fn unhealthy_has_a_ground(h: &Happening) -> Said {
    let EventBody::AgentUnhealthy { instance, .. } = &h.event.body else { return Ok(()) };
    let key = key_of(instance, h.event.version);
    let Some(seen) = h.model.instances.get(&key) else { return Err(format!("{} is on the record", instance.agent)) };
    let min = h.model.policy_of(key.version).map_or(0, |p| p.min_healthy_ms);
    // Well for long enough at its deadline is healthy, however late the tick.
    let met = |deadline: u64| seen.well_since.is_some_and(|since| since + min <= deadline);
    let late = matches!(seen.late, Late::At(at) if at <= h.event.at && !met(at));
    let broke = seen.verdict == Verdict::Healthy && seen.well_since.is_none_or(|since| since == h.event.at);
    let ended = matches!(seen.state, InstanceState::Failed | InstanceState::Stopped);
    must!(
        late || broke || ended,
        "{} is {:?}, {:?}, well since {:?}",
        instance.agent,
        seen.verdict,
        seen.late,
        seen.well_since
    );
    Ok(())
}

/// Rule 4.3: an instance leaves when it has stopped, when its successor first reports, or when nobody took it up.
fn nothing_that_runs_is_forgotten(h: &Happening) -> Said {
    if h.before.instances.len() == h.after.instances.len() && !matches!(&h.event.body, EventBody::TaskIssued { .. }) {
        return Ok(());
    }
    for gone in h.before.instances.iter().filter(|i| h.after.instances.get(&i.key()).is_none()) {
        let newer_reports = match &h.event.body {
            EventBody::AgentState { instance, .. } => {
                let key = key_of(instance, h.event.version);
                let first = h
                    .before
                    .instances
                    .get(&key)
                    .is_some_and(|i| i.state == InstanceState::Waiting && i.created > gone.created);
                let same_job = instance.job_id == gone.job_id;
                instance.agent == gone.agent && first && (same_job || !gone.state.is_running())
            }
            _ => false,
        };
        let stops = matches!(&h.event.body, EventBody::AgentState { instance, state: AgentReport::State(InstanceState::Stopped), .. }
            if key_of(instance, h.event.version) == gone.key());
        let has_stopped = gone.state == InstanceState::Stopped && matches!(&h.event.body, EventBody::TaskDone { .. });
        let never_ran = gone.state == InstanceState::Waiting
            && (new_deployment(h.event).is_some() && gone.task.is_none()
                || matches!(&h.event.body, EventBody::TaskDone { withdrawn: true, .. }));
        let batch = &*gone.agent == BATCH_AGENT && matches!(&h.event.body, EventBody::TaskDone { .. });
        must!(
            newer_reports || stops || has_stopped || never_ran || batch,
            "{} of version {} in {} leaves while {}",
            gone.agent,
            gone.version,
            gone.job_id,
            gone.state.name()
        );
    }
    Ok(())
}

/// Checks RESOLVE without options: the passing services of primaries.
fn view(record: &Record) -> BTreeMap<&Arc<str>, &InstanceKey> {
    let shown = |owner: &InstanceKey| record.instances.get(owner).is_some_and(|i| i.role == Role::Primary);
    record
        .services
        .iter()
        .filter(|s| s.status == CheckStatus::Passing && shown(&s.owner))
        .map(|s| (&s.instance, &s.owner))
        .collect()
}

/// Rule 3 RESOLVE, 4.4, 4.5: canaries and candidates are hidden until the promotion, which flips all in one step; a
/// task alone changes nothing for callers.
fn callers_see_primaries_alone(h: &Happening) -> Said {
    if h.before.services.is_empty() && h.after.services.is_empty() {
        return Ok(());
    }
    let (was, is) = (view(h.before), view(h.after));
    let Some(r) = &h.model.rollout else { return Ok(()) };
    match &h.event.body {
        EventBody::DeploymentPromoted { .. } => {
            let old = is.values().find(|owner| r.has_second_job() && !h.model.is_own(owner));
            must!(old.is_none(), "{old:?} is shown after the promotion");
        }
        EventBody::TaskIssued { task: TaskKind::Start | TaskKind::Replace, .. } => {
            must!(was == is, "a task alone changes what callers see");
        }
        EventBody::FallbackBlueGreen { .. } => must!(was == is, "a fallback changes what callers see"),
        _ if new_deployment(h.event).is_some() => {}
        _ => {
            let hidden = r.has_second_job() || (r.mode == Mode::InPlace && r.canaries > 0);
            let early = is.values().find(|owner| hidden && !r.promoted && h.model.is_own(owner));
            must!(early.is_none(), "{early:?} is shown before the promotion");
        }
    }
    Ok(())
}

/// Rule 8 "Tags": never trimmed are tagged, current, newest stable and target versions, and what agents run.
fn the_history_keeps_what_is_needed(h: &Happening) -> Said {
    let Some(b) = new_deployment(h.event) else { return Ok(()) };
    let target = b.version.number;
    let stable = h.model.newest_stable();
    for number in &b.trimmed {
        must!(h.before.version(*number).is_some(), "version {number} is trimmed twice");
        must!(!h.model.tags.values().any(|tagged| tagged == number), "tagged version {number} is trimmed");
        must!(Some(*number) != stable, "stable version {number} is trimmed");
        must!(Some(*number) != h.before.current_version, "current version {number} is trimmed");
        must!(!h.before.instances.iter().any(|i| i.version == *number), "version {number} is trimmed while it runs");
    }
    must!(!b.trimmed.contains(&target), "the target is trimmed");
    let needed = |number: u64| {
        h.model.tags.values().any(|tagged| *tagged == number)
            || Some(number) == stable
            || Some(number) == h.before.current_version
            || h.before.instances.iter().any(|i| i.version == number)
    };
    let kept = h.before.versions.iter().filter(|v| !b.trimmed.contains(&v.number));
    let spare = kept.clone().filter(|v| !needed(v.number)).count();
    must!(kept.count() < h.limits.history_max || spare == 0, "the history is longer than {}", h.limits.history_max);
    must!(
        b.trimmed.is_empty() || h.before.versions.len() + 1 - b.trimmed.len() >= h.limits.history_max,
        "more is trimmed than has to be"
    );
    Ok(())
}

/// Rule 4.6: what was already replaced counts to the old side; the whole target starts in a second job.
fn a_fallback_keeps_what_was_replaced_on_the_old_side(h: &Happening) -> Said {
    let EventBody::FallbackBlueGreen { job_id, changed, .. } = &h.event.body else { return Ok(()) };
    let r = rollout(h.model)?;
    must!(r.mode == Mode::InPlace && r.phase == Phase::Running && r.unsafe_reported, "nobody reported unsafe");
    must!(!h.before.instances.iter().any(|i| i.job_id == *job_id), "job {job_id} has instances already");
    let agents_with_nodes = h.model.versions.get(&r.target).map(|told| told.agents_with_nodes()).unwrap_or_default();
    must!(**changed == *agents_with_nodes, "{changed:?} start, of {agents_with_nodes:?}");
    Ok(())
}

/// Rules 8 "Attempts", 10.8: `unsafe` about anything but an unhealthy or pending in-place instance of an active
/// deployment, or one that drains to be replaced by it: 0.
fn unsafe_counts_only_of_what_is_being_replaced(h: &Happening) -> Said {
    let EventBody::AgentState { instance, state: AgentReport::Unsafe, .. } = &h.event.body else { return Ok(()) };
    let r = rollout(h.model)?;
    let key = key_of(instance, h.event.version);
    let verdict = h.model.instances.get(&key).map(|seen| seen.verdict);
    must!(r.mode == Mode::InPlace && !matches!(r.phase, Phase::Ended(_)), "nothing is being replaced");
    must!(!r.is_baking, "unsafe counts in a bake");
    let drains_for_it = h.model.held_back().any(|(held, _)| *held == key);
    must!(
        drains_for_it || (h.model.is_own(&key) && verdict != Some(Verdict::Healthy)),
        "{} is {verdict:?}",
        instance.agent
    );
    Ok(())
}

// ---- after every command --------------------------------------------------------------------------------------------

/// Rule 5: the events leave nothing out.
fn the_second_engine_is_equal(o: &Outcome) -> Said {
    must!(o.second == o.after, "the engine that was fed with events differs");
    Ok(())
}

/// Rule 4.2: manifest, bundle, agents and policy equal those of the current deployment, and that one is active or
/// successful, and something runs: nothing is recorded. Where something differs, a version is.
fn the_same_again_is_unchanged(o: &Outcome) -> Said {
    let (Command::Deploy(asked), Some(before)) = (o.command, o.before) else { return Ok(()) };
    let DecisionReply::Receipt(receipt) = o.reply else { return Ok(()) };
    if o.is_remembered() {
        return Ok(());
    }
    let manifest: serde_json::Value = serde_json::from_slice(&asked.manifest).unwrap_or_default();
    let agents = |list: Option<&[Arc<str>]>| list.map(|list| list.iter().cloned().collect::<BTreeSet<_>>());
    let same_but_policy = |number: u64| {
        o.model.versions.get(&number).is_some_and(|told| {
            *told.manifest == manifest
                && told.version.bundle == asked.bundle
                && agents(told.version.agents.as_deref()) == agents(asked.agents.as_deref())
        })
    };
    if receipt.mode == Mode::Unchanged {
        must!(same_but_policy(receipt.version), "something differs, and nothing is recorded");
        must!(receipt.version == o.after.last_version, "unchanged is said of version {}", receipt.version);
        let asked_policy = Manifest::parse(&asked.manifest)
            .map(|manifest| Policy::default().merged_with(&manifest.policy).merged_with(&asked.policy));
        let policy = o.after.version(receipt.version).map(|v| &v.policy);
        must!(asked_policy.as_ref().ok() == policy, "the policy differs, and nothing is recorded");
        let status = o.after.deployment.as_ref().map(|d| d.status);
        must!(
            status.is_some_and(|s| s.is_active() || s == Status::Successful),
            "unchanged is said of what is {status:?}"
        );
        return Ok(());
    }
    let Some(was) = before.version(before.last_version) else { return Ok(()) };
    // Only where nothing came due first, which may have changed what is there.
    let first = o.events().next().map(|event| &event.body);
    let at_once = matches!(
        first,
        Some(EventBody::DeploymentCancelled { .. } | EventBody::DeploymentStarted(_) | EventBody::DeploymentNoop(_))
    );
    let policy = o.after.version(receipt.version).map(|v| &v.policy);
    let counts = before.deployment.as_ref().is_some_and(|d| d.status.is_active() || d.status == Status::Successful);
    let same = same_but_policy(was.number) && policy == Some(&was.policy) && receipt.version == before.last_version + 1;
    must!(
        !(at_once && counts && same && before.instances.running() > 0 && !was.job_type.is_batch()),
        "the same again is recorded as version {}",
        receipt.version
    );
    Ok(())
}

/// Rules 3 STOP, 10.10: ends an active deployment, and gives every instance a `stop` task, or a drain that leads to
/// one; with NOW no drain.
fn stop_tells_everything_to_stop(o: &Outcome) -> Said {
    if let Command::Stop { now, .. } = o.command {
        must!(!o.after.is_active(), "it is active after STOP");
        let stops = |seen: &Seen| seen.told_to_stop || (!now && seen.is_going());
        let on = o.model.instances.iter().find(|(_, seen)| !stops(seen));
        must!(on.is_none(), "{:?} runs on after STOP", on.map(|(key, _)| &key.agent));
    }
    Ok(())
}

/// Status, verdicts and services as told by the events alone are those of the record.
fn the_account_of_the_rules_agrees(o: &Outcome) -> Said {
    let (r, Some(d)) = (rollout(o.model)?, &o.after.deployment) else { return Ok(()) };
    let status = match r.phase {
        Phase::Running => Status::Running,
        Phase::Awaiting => Status::AwaitingPromotion,
        Phase::Paused { .. } => Status::Paused,
        Phase::Ended(status) => status,
    };
    must!(d.status == status, "status is {}, and {} was said", d.status.name(), status.name());
    must!(d.id == r.id && d.target_version == r.target && d.target_job_id == r.job, "it is about another deployment");
    must!(o.after.last_version == o.model.last_version, "the last version is {}", o.after.last_version);
    for i in o.after.instances.iter() {
        let Some(seen) = o.model.instances.get(&i.key()) else {
            return Err(format!("{} was never said to be there", i.agent));
        };
        let verdict = match i.health {
            Health::Pending => Verdict::Pending,
            Health::Healthy => Verdict::Healthy,
            Health::Unhealthy => Verdict::Unhealthy,
        };
        must!(seen.verdict == verdict, "{} is {}, and {:?} was said", i.agent, i.health.name(), seen.verdict);
        must!(seen.state == i.state && seen.attempt == i.attempt, "{} is {}", i.agent, i.state.name());
        must!(seen.told_to_stop == i.is_stopping(), "{} told to stop: {}", i.agent, i.is_stopping());
    }
    let open: BTreeMap<InstanceKey, TaskKind> =
        o.after.instances.tasks().filter_map(|i| Some((i.key(), i.task.as_ref()?.kind))).collect();
    must!(open == o.model.tasks, "open tasks are {open:?}, and {:?} were given", o.model.tasks);
    let told = o.model.services.iter().map(|(id, seen)| (id, seen.status, seen.since, &seen.owner));
    must!(
        o.after.services.iter().map(|s| (&s.instance, s.status, s.since, &s.owner)).eq(told),
        "services left, came or changed without an event"
    );
    Ok(())
}

/// The rule: every active, unpaused, not awaiting deployment has a deadline, so it always ends.
fn every_running_deployment_has_a_deadline(o: &Outcome) -> Said {
    let r = rollout(o.model)?;
    must!(r.phase != Phase::Running || next_deadline(o.after).is_some(), "{} runs without a deadline", r.id);
    Ok(())
}

/// Rules 4.3 to 4.5, 4.13: as soon as something may go on, it does.
fn what_may_go_on_goes_on(o: &Outcome) -> Said {
    let r = rollout(o.model)?;
    let placed = o.model.released();
    let healthy = o.model.counted().filter(|(_, seen)| seen.verdict == Verdict::Healthy).count();
    let unhealthy = o.model.counted().filter(|(_, seen)| seen.verdict == Verdict::Unhealthy).count();
    let all = r.changed.len();
    let canary_phase = r.mode == Mode::InPlace && r.canaries > 0 && !r.promoted;
    match r.phase {
        Phase::Running => {
            let desired = if canary_phase { r.canaries } else { all };
            must!(healthy < desired || r.is_baking, "all {desired} are healthy, and {} is still running", r.id);
            must!(!r.unsafe_reported, "the fallback is due");
            if r.mode == Mode::InPlace && !canary_phase {
                let most = max_parallel(&r.policy, all);
                must!(
                    unhealthy > 0 || placed == all || placed - healthy >= most,
                    "{placed} of {all} went, {healthy} are healthy, and nobody goes"
                );
            } else {
                must!(placed == desired, "{placed} of {desired} went");
            }
        }
        Phase::Awaiting => {
            let desired = if r.has_second_job() { all } else { r.canaries };
            must!(
                healthy == desired && placed == desired,
                "{healthy} of {desired} canaries are healthy while awaiting"
            );
            must!(!r.policy.auto_promote && !r.promoted && !r.agent_failed, "{} waits for nothing", r.id);
        }
        _ => {}
    }
    Ok(())
}

/// Rule 4.9: healthy at most one timer tick after `min_healthy_ms` of check_health.
fn healthy_is_said_in_time(o: &Outcome) -> Said {
    if o.is_remembered() {
        return Ok(());
    }
    for (key, seen) in &o.model.instances {
        let min = o.model.policy_of(key.version).map_or(0, |p| p.min_healthy_ms);
        let Some(since) = seen.well_since else { continue };
        let due = since + min;
        let passed = if matches!(o.command, Command::Tick) { due <= o.now } else { due < o.now };
        let counts = !seen.told_to_stop && &*key.agent != BATCH_AGENT;
        must!(
            !(counts && passed) || seen.verdict == Verdict::Healthy,
            "{} is well since {} ms, of {min}",
            key.agent,
            o.now - since
        );
    }
    Ok(())
}

/// Rule 4.9: healthy, then not ready or not passing: unhealthy at once.
fn what_breaks_is_unhealthy_at_once(o: &Outcome) -> Said {
    for (key, seen) in &o.model.instances {
        let broke = seen.verdict == Verdict::Healthy && seen.well_since.is_none() && !seen.told_to_stop;
        must!(!broke, "{} is healthy, and not all is well with it", key.agent);
        let ended = matches!(seen.state, InstanceState::Failed | InstanceState::Stopped);
        let judged = seen.verdict == Verdict::Unhealthy || seen.told_to_stop || &*key.agent == BATCH_AGENT;
        must!(!ended || judged, "{} is {}, and {:?}", key.agent, seen.state.name(), seen.verdict);
    }
    Ok(())
}

/// Rule 4.9: not healthy within `healthy_deadline_ms` of its task: unhealthy. The deadline does not run in a pause.
fn what_is_late_is_unhealthy(o: &Outcome) -> Said {
    if o.is_remembered() {
        return Ok(());
    }
    for (key, seen) in &o.model.instances {
        let Late::At(at) = seen.late else { continue };
        let passed = if matches!(o.command, Command::Tick) { at <= o.now } else { at < o.now };
        must!(!passed, "{} is {} ms late, and {:?}", key.agent, o.now - at, seen.verdict);
    }
    Ok(())
}

/// Rule 4.10: a report `failed`, an unhealthy instance without a progress deadline, a passed deadline: failed.
fn what_must_fail_has_failed(o: &Outcome) -> Said {
    let r = rollout(o.model)?;
    if !matches!(r.phase, Phase::Running | Phase::Awaiting) || o.is_remembered() {
        return Ok(());
    }
    must!(!r.agent_failed, "an agent failed");
    must!(
        !(r.policy.progress_deadline_ms == 0 && r.was_unhealthy),
        "an agent is unhealthy, and there is no progress deadline"
    );
    let progress = o.after.deployment.as_ref().and_then(|d| d.progress.at());
    must!(progress.is_none_or(|at| at >= o.now), "the progress deadline has passed");
    Ok(())
}

/// Rule 1: a version is never changed, except its `stable` flag and its tag (and what became of it).
fn versions_never_change(o: &Outcome) -> Said {
    for v in o.after.versions.iter() {
        let Some(told) = o.model.versions.get(&v.number) else {
            return Err(format!("version {} came without an event", v.number));
        };
        let was = &told.version;
        let same = was.content == v.content
            && was.policy == v.policy
            && was.bundle == v.bundle
            && was.agents == v.agents
            && was.deployment_id == v.deployment_id
            && was.rollback_of == v.rollback_of
            && was.submitted_at == v.submitted_at
            && was.by == v.by
            && was.reason == v.reason;
        must!(same, "version {} changed", v.number);
        must!(v.stable == told.stable, "version {} is stable: {}, and it was {}", v.number, v.stable, told.stable);
        let tag = o.model.tags.iter().find(|(_, n)| **n == v.number).map(|(tag, _)| tag);
        must!(v.tag.as_ref() == tag, "version {} has tag {:?}, and {tag:?} was given", v.number, v.tag);
    }
    Ok(())
}

/// Rule 4.9: a tick does all that is due.
fn a_tick_leaves_nothing_due(o: &Outcome) -> Said {
    if matches!(o.command, Command::Tick) {
        let next = next_deadline(o.after);
        // Without `min_healthy_ms`, what a tick lets begin may be due in the same millisecond, at the next tick.
        must!(next.is_none_or(|at| at > o.now), "{next:?} is due at {}", o.now);
    }
    Ok(())
}

/// A tick before anything is due changes nothing.
fn an_early_tick_changes_nothing(o: &Outcome) -> Said {
    if matches!(o.command, Command::Tick) {
        let due = o.before.and_then(next_deadline).is_some_and(|at| at <= o.now);
        must!(
            due != o.change_set.changes.is_empty(),
            "a tick at {} changed {} things",
            o.now,
            o.change_set.changes.len()
        );
    }
    Ok(())
}

/// Rule 3 REPORT, 8 "Attempts": 1 where it changed something, 0 where it was known already or stale.
fn reports_count_once(o: &Outcome) -> Said {
    let (Command::Report(report), DecisionReply::Changed(changed), Some(before)) = (o.command, o.reply, o.before)
    else {
        return Ok(());
    };
    let is_said = |e: &&Arc<Event>| {
        matches!(&e.body, EventBody::AgentState { instance, state, removes_instance, .. }
            if instance.agent == report.agent && state.name() == report.state.name() && (*changed || !removes_instance))
    };
    // Rule 10.2: who takes a drain up, or ends it, changes something as well.
    let is_drain = |e: &&Arc<Event>| match &e.body {
        EventBody::TaskDone { instance, task: TaskKind::Drain, withdrawn: false, .. } => instance.agent == report.agent,
        EventBody::AgentDrained { instance, forced: false, .. } => {
            instance.agent == report.agent && matches!(report.state, ReportedState::Drained)
        }
        _ => false,
    };
    let said = o.events().filter(|e| is_said(e) || (*changed && is_drain(e))).count();
    must!((said > 0) == *changed, "the reply is {changed}, and {said} states were said");
    let (Some(version), Some(job)) = (report.version, &report.job) else { return Ok(()) };
    let key = InstanceKey { agent: report.agent.clone(), version, job_id: job.clone() };
    let came = |e: &Arc<Event>| matches!(&e.body, EventBody::TaskIssued { instance, .. } if key_of(instance, e.version) == key);
    if o.events().any(|e| new_deployment(e).is_some() || came(e)) {
        return Ok(()); // time that had passed made another record of it
    }
    let Some(i) = before.instances.get(&key) else {
        must!(!changed, "a report about an instance that is not there counts");
        return Ok(());
    };
    if !changed && o.after.instances.get(&key).is_none() {
        return Ok(()); // time that had passed ended its deployment, and it left with that
    }
    let state = match report.state {
        ReportedState::Starting => InstanceState::Starting,
        ReportedState::Ready => InstanceState::Ready,
        ReportedState::Unready => InstanceState::Unready,
        ReportedState::Failed => InstanceState::Failed,
        ReportedState::Stopped => InstanceState::Stopped,
        ReportedState::Completed | ReportedState::Unsafe | ReportedState::Draining | ReportedState::Drained => {
            return Ok(())
        }
    };
    let restarts = i.state == InstanceState::Waiting && i.attempt > 0 && !i.is_stopping();
    let stale = match report.attempt {
        // The next attempt of an instance that has drained (rule 10.8).
        Some(given) if restarts => given != i.attempt,
        None if restarts => state != InstanceState::Starting,
        Some(given) if state == InstanceState::Starting => given <= i.attempt,
        Some(given) => given < i.attempt,
        None => false,
    };
    must!(!(stale && *changed), "a stale report counts");
    let seen = o.seen_before.get(&key);
    let has_news = state != InstanceState::Starting
        && report.reason.is_some()
        && report.reason != seen.and_then(|seen| seen.reason.clone());
    let same = i.state == state && report.attempt.is_none_or(|given| given == i.attempt);
    let takes_up = report.sessions.is_some() && o.events().any(|e| is_drain(&e));
    let known = same && !has_news && !takes_up;
    let told = i.is_stopping();
    if state != InstanceState::Stopped && &*i.agent != BATCH_AGENT {
        must!(!(known && *changed), "a known report counts");
        must!(stale || known || *changed, "a new report does not count");
    } else if state == InstanceState::Stopped && (told || i.role == Role::Standby) && !stale {
        // What a rollback had adopted may have stopped before it was on standby again.
        must!(*changed, "what was told to stop, or is on standby, has stopped, and it does not count");
    } else if state == InstanceState::Stopped && i.state == state && same && !stale {
        must!(has_news == *changed, "stopped again, with news {has_news}, counts {changed}");
    }
    Ok(())
}

/// Rule 4.11: with `auto_revert` the newest stable version comes back, unless nothing would change.
fn a_failure_reverts_or_says_why_not(o: &Outcome) -> Said {
    let Some(failed) = o.failed else { return Ok(()) };
    if !failed.auto_revert {
        return Ok(());
    }
    must!(
        failed.description.contains("not reverted: "),
        "it does not say why it did not revert: {}",
        failed.description
    );
    let stopped_since = matches!(o.command, Command::Stop { .. });
    let Some(stable) = failed.newest_stable.filter(|_| !failed.is_rollback && !stopped_since) else { return Ok(()) };
    let Some(told) = o.model.versions.get(&stable) else { return Ok(()) };
    let mut told = (**told).clone();
    if told.version.policy.strategy == Strategy::Canary {
        told.version.policy.strategy = Strategy::Rolling;
    }
    let (mode, changed) = judge(o.model, &failed.left_seen, &failed.left, &told);
    let agents_with_nodes = told.agents_with_nodes();
    let gone = failed.left.instances.iter().any(|i| {
        !(failed.left_seen.get(&i.key()).is_some_and(|seen| seen.is_going() || seen.role == Role::Standby)
            || agents_with_nodes.contains(&i.agent)
            || (i.state == InstanceState::Waiting && i.task.is_none() && i.drain.is_none()))
    });
    must!(mode == Mode::Noop && !gone, "a revert to {stable} would be {}, of {changed:?}", mode.name());
    Ok(())
}

/// Rules 4.8, 4.11: replacements that nobody took up are withdrawn with the end of their deployment.
fn nothing_of_an_ended_deployment_waits_for_replacement(o: &Outcome) -> Said {
    let r = rollout(o.model)?;
    for i in o.after.instances.tasks() {
        let is_replace = matches!(&i.task, Some(t) if t.kind == TaskKind::Replace);
        let live = o.model.is_own(&i.key()) && !matches!(r.phase, Phase::Ended(_));
        must!(!is_replace || live, "{} of version {} still waits to be replaced", i.agent, i.version);
        must!(!is_replace || i.job_id == r.job, "{} is replaced in another job", i.agent);
    }
    for i in o.after.instances.iter().filter(|i| i.role == Role::Candidate) {
        let live = o.model.is_own(&i.key()) && !matches!(r.phase, Phase::Ended(_));
        must!(live || i.is_stopping(), "candidate {} of an ended deployment has no stop", i.agent);
    }
    Ok(())
}

/// Rules 4.3 to 4.5: after success every agent of the version has one instance, all in one job; the rest is told to
/// stop.
fn after_success_each_agent_runs_once_in_one_job(o: &Outcome) -> Said {
    let succeeded = o.change_set.changes.iter().any(|c| {
        matches!(c, Change::Event(e) if matches!(&e.body, EventBody::DeploymentSuccessful { .. } | EventBody::DeploymentNoop(_)))
    });
    let r = rollout(o.model)?;
    let stopped_since = matches!(o.command, Command::Stop { .. });
    if !succeeded || stopped_since || r.phase != Phase::Ended(Status::Successful) {
        return Ok(());
    }
    let agents_with_nodes: BTreeSet<Arc<str>> =
        o.model.versions.get(&r.target).map(|t| t.agents_with_nodes()).unwrap_or_default().into_iter().collect();
    let mut seen = BTreeSet::new();
    // Standbys of deployments that ended otherwise have their own time (rule 12.3).
    let stands_by = |seen: &Seen| seen.role == Role::Standby && seen.stands_until != Late::Never;
    let goes = |i: &Instance| o.model.instances.get(&i.key()).is_some_and(|seen| seen.is_going() || stands_by(seen));
    for i in o.after.instances.iter().filter(|i| !goes(i)) {
        must!(i.job_id == r.job, "{} of version {} runs on in job {}", i.agent, i.version, i.job_id);
        must!(agents_with_nodes.contains(&i.agent), "{} runs on without a place in version {}", i.agent, r.target);
        must!(seen.insert(i.agent.clone()), "{} runs twice", i.agent);
        must!(i.role == Role::Primary, "{} is {} after success", i.agent, i.role.name());
    }
    must!(seen == agents_with_nodes, "{seen:?} run, of {agents_with_nodes:?}");
    must!(
        o.after.current_version == Some(r.target) && o.after.current_job_id.as_ref() == Some(&r.job),
        "the version is current"
    );
    Ok(())
}

/// Rule 1: while it is being replaced, an agent has two instances in its job; the newer one has not reported. What
/// waits without a task, since its task was withdrawn, counts for nothing (rule 4.8): beside it one that had failed
/// may come back to life.
fn an_agent_has_at_most_two_instances_in_a_job(o: &Outcome) -> Said {
    let mut places: BTreeMap<(&Arc<str>, &Arc<str>), Vec<_>> = BTreeMap::new();
    let counts = |i: &&Instance| i.is_running() && !(i.state == InstanceState::Waiting && i.task.is_none());
    for i in o.after.instances.iter().filter(|i| counts(i) && &*i.agent != BATCH_AGENT) {
        places.entry((&i.agent, &i.job_id)).or_default().push(i);
    }
    for ((agent, job), list) in places {
        must!(list.len() <= 2, "{agent} has {} instances in {job}", list.len());
        if let [_, newer] = list[..] {
            must!(newer.state == InstanceState::Waiting, "{agent} has two instances in {job}, and both have reported");
        }
    }
    Ok(())
}

/// Rule 4.10: a failure names what is wrong when it comes, not what was wrong before.
fn a_failure_names_what_is_wrong_now(h: &Happening) -> Said {
    let EventBody::DeploymentFailed { cause: Cause::ProgressDeadline, description, .. } = &h.event.body else {
        return Ok(());
    };
    for service in h.before.services.iter().filter(|service| service.status == CheckStatus::Passing) {
        let named = description.contains(&format!("check of {} is", service.instance));
        must!(!named, "{} is passing, and the failure names it: {description}", service.instance);
    }
    Ok(())
}

/// Rule 8 "Services": nobody takes a service instance from a running instance of another agent or another job.
fn a_running_instance_keeps_its_service_instances(h: &Happening) -> Said {
    let (EventBody::ServiceDeregistered { instance, reason, .. }, Command::Register(register)) =
        (&h.event.body, h.command)
    else {
        return Ok(());
    };
    let has_moved = |owner: &InstanceKey| {
        owner.agent != register.agent || register.job.as_ref().is_some_and(|job| owner.job_id != *job)
    };
    let Some(service) =
        h.before.services.get(instance).filter(|s| reason.starts_with("moved to ") && has_moved(&s.owner))
    else {
        return Ok(());
    };
    let runs = h.before.instances.get(&service.owner).is_some_and(Instance::is_running);
    must!(!runs, "{} runs, and loses {instance}", service.owner.agent);
    Ok(())
}

/// Rule 7: `rollback_target` is the version that ROLLBACK without an argument would take.
fn rollback_target_is_one_that_rollback_takes(o: &Outcome) -> Said {
    let last = rollout(o.model)?.target;
    if let Some(told) = o.model.versions.get(&last) {
        if let Some(of) = told.version.rollback_of {
            // Rule 19.1: never back to the version that was rolled away from.
            let has_failed = matches!(rollout(o.model)?.phase, Phase::Ended(Status::Failed | Status::Cancelled));
            let expected = Some(of).filter(|of| has_failed && o.after.version(*of).is_some());
            must!(o.after.rollback_target() == expected, "{:?} after a rollback to {of}", o.after.rollback_target());
            return Ok(());
        }
    }
    let after_batch = o.after.version(last).is_some_and(|v| v.job_type.is_batch());
    let others =
        o.model.versions.iter().rev().filter(|(number, _)| **number != last && o.after.version(**number).is_some());
    let mut takes = others.filter(|(_, told)| told.stable || (after_batch && told.version.job_type.is_batch()));
    let expected = takes.next().map(|(number, _)| *number);
    must!(o.after.rollback_target() == expected, "{:?} is offered, and {expected:?} is due", o.after.rollback_target());
    Ok(())
}

/// Rule 19.1: a ROLLBACK without a target that comes again is the same rollback.
fn a_repeated_rollback_changes_nothing(o: &Outcome) -> Said {
    let (Command::Rollback(asked), Some(before)) = (o.command, o.before) else { return Ok(()) };
    let Some(was) = before.deployment.as_ref().filter(|d| d.rollback_of.is_some()) else { return Ok(()) };
    let ended = |e: &Event| {
        matches!(e.body, EventBody::DeploymentFailed { .. } | EventBody::DeploymentCancelled { .. })
            && e.deployment_id == was.id
    };
    let in_effect = !matches!(was.status, Status::Failed | Status::Cancelled)
        && !o.events().any(|e| {
            // One that a newer rollback has cancelled was in effect until then.
            ended(e) && !matches!(e.body, EventBody::DeploymentCancelled { cause: Cause::NewerVersion, .. })
        });
    if asked.to == RollbackTo::NewestStable && in_effect && !o.is_remembered() {
        must!(was.status.is_active(), "a rollback that was successful is repeated, and not refused");
        must!(!o.events().any(|e| new_deployment(e).is_some()), "a repeated rollback starts another deployment");
        let DecisionReply::Receipt(receipt) = o.reply else { return Err("it replies a receipt".to_string()) };
        must!(receipt.mode == Mode::Unchanged && receipt.deployment_id == was.id, "it replies another deployment");
    }
    Ok(())
}

/// Rule 19.3: a version remembers its promotion, and when and why its deployment ended.
fn the_history_says_how_each_version_ended(o: &Outcome) -> Said {
    for version in o.after.versions.iter() {
        let Some(told) = o.model.versions.get(&version.number) else { continue };
        let promoted = version.promoted_at.zip(version.promoted_by.clone());
        must!(promoted == told.promoted, "version {}: promoted {promoted:?}, not {:?}", version.number, told.promoted);
        let ended = match (version.finished_at, version.outcome, version.description.clone()) {
            (Some(at), Some(outcome), Some(description)) => {
                Some(Ended { at, outcome, cause: version.cause, description })
            }
            (None, None, None) => None,
            _ => return Err(format!("version {} has an end in part", version.number)),
        };
        must!(ended == told.ended, "version {}: ended {ended:?}, not {:?}", version.number, told.ended);
    }
    Ok(())
}

/// Rule 8 "Services": what a failed or earlier attempt registered is critical until it is registered or checked again,
/// and leaves when a later attempt is ready.
fn services_end_with_the_attempt_that_registered_them(o: &Outcome) -> Said {
    for (id, service) in &o.model.services {
        must!(
            !service.is_orphan || service.status == CheckStatus::Critical,
            "{id} is {} though its agent ended",
            service.status.name()
        );
        let Some(owner) = o.model.instances.get(&service.owner) else { continue };
        must!(
            owner.state != InstanceState::Ready || service.attempt >= owner.attempt,
            "{id} of attempt {} stays with attempt {}",
            service.attempt,
            owner.attempt
        );
    }
    Ok(())
}

/// Rule 1.5, 7: a task has the node of its agent, and an attempt that a report can have.
fn a_task_is_for_the_node_and_attempt_of_its_agent(h: &Happening) -> Said {
    let EventBody::TaskIssued { instance, attempt, .. } = &h.event.body else { return Ok(()) };
    let told = h.model.versions.get(&h.event.version);
    let node = told.map(|told| told.node_of(&instance.agent)).filter(|_| &*instance.agent != BATCH_AGENT);
    must!(node.is_none_or(|node| *node == *instance.node), "{} is of node {node:?}", instance.agent);
    let seen = h.model.instances.get(&key_of(instance, h.event.version)).map_or(0, |seen| seen.attempt);
    // What has drained starts its next attempt (rule 10.8); any other task is for the present one.
    let expected = if starts_anew(h) { seen + 1 } else { seen.max(1) };
    must!(*attempt == expected, "{} is in attempt {seen}, and its task in {attempt}", instance.agent);
    Ok(())
}

/// Rule 8 "Services": a service instance is critical because somebody said so, its TTL ran out, or its owner ended.
fn critical_has_a_ground(h: &Happening) -> Said {
    let EventBody::ServiceStatus { instance, status: CheckStatus::Critical, .. } = &h.event.body else { return Ok(()) };
    let is_said = match h.command {
        Command::Check(check) => check.instance == *instance,
        Command::Register(register) => register.instance == *instance,
        _ => false,
    };
    let has_expired =
        h.before.services.get(instance).and_then(|s| s.expires_at).is_some_and(|expires_at| expires_at <= h.event.at);
    let has_ended = h.model.services.get(instance).is_some_and(|service| service.is_orphan);
    must!(is_said || has_expired || has_ended, "{instance} becomes critical for nothing");
    Ok(())
}

/// Rule 8 "Services": a later attempt that is ready removes what it has not registered itself, and nothing else.
fn a_restart_takes_the_services_of_earlier_attempts_alone(h: &Happening) -> Said {
    let EventBody::ServiceDeregistered { instance, reason, .. } = &h.event.body else { return Ok(()) };
    let Some(service) = h.model.services.get(instance).filter(|_| &**reason == "agent restarted") else {
        return Ok(());
    };
    let attempt = h.model.instances.get(&service.owner).map_or(0, |owner| owner.attempt);
    must!(service.attempt < attempt, "{instance} is of attempt {}, and leaves in {attempt}", service.attempt);
    Ok(())
}

/// Rules 3 CHECK, 19.8: a reason that was given is stored, that of an unchanged status as well.
fn a_refresh_leaves_its_reason(o: &Outcome) -> Said {
    let (id, reason) = match (o.command, o.reply) {
        (Command::Check(check), _) => (&check.instance, &check.reason),
        (Command::Register(register), DecisionReply::Changed(true)) => (&register.instance, &register.reason),
        _ => return Ok(()),
    };
    let Some(service) = o.after.services.get(id).filter(|_| reason.is_some()) else { return Ok(()) };
    must!(service.reason == *reason, "{id} has reason {:?}, and {reason:?} was given", service.reason);
    Ok(())
}

/// Rule 3 REPORT: an instance has the reason of its last report that had one; a verdict has words of its own, around it.
fn reasons_are_those_of_the_reports(o: &Outcome) -> Said {
    for i in o.after.instances.iter() {
        let Some(reason) = o.model.instances.get(&i.key()).and_then(|seen| seen.reason.as_ref()) else { continue };
        let is_kept = i.reason.as_ref().is_some_and(|kept| match i.health {
            Health::Unhealthy => kept.ends_with(&**reason),
            _ => kept == reason,
        });
        must!(is_kept, "{} has reason {:?}, and {reason:?} was reported", i.agent, i.reason);
    }
    Ok(())
}

/// Rule 19.6: TAG names the version of the receipt, that of an `unchanged` one as well.
fn a_tag_names_the_version_of_the_receipt(o: &Outcome) -> Said {
    let (Command::Deploy(asked), DecisionReply::Receipt(receipt)) = (o.command, o.reply) else { return Ok(()) };
    let Some(tag) = asked.tag.as_ref().filter(|_| !o.is_remembered()) else { return Ok(()) };
    let tagged = o.after.version_of_tag(tag).map(|version| version.number);
    must!(tagged == Some(receipt.version), "tag {tag} is of {tagged:?}, and the receipt of {}", receipt.version);
    Ok(())
}

/// Rule 19.2: the receipts of DEPLOY and ROLLBACK, and no others, have warnings, each where it is due.
fn receipts_warn_of_what_is_allowed(o: &Outcome) -> Said {
    let DecisionReply::Receipt(receipt) = o.reply else { return Ok(()) };
    let (job, is_rollback) = match o.command {
        Command::Deploy(deploy) => (deploy.job.as_ref(), false),
        Command::Rollback(_) => (None, true),
        _ => {
            must!(receipt.warnings.is_none(), "only DEPLOY and ROLLBACK warn");
            return Ok(());
        }
    };
    let Some(warnings) = &receipt.warnings else { return Err("a receipt has warnings".to_string()) };
    if o.is_remembered() {
        return Ok(());
    }
    let begun = o.events().filter_map(|e| new_deployment(e)).find(|b| b.version.number == receipt.version);
    let Some(begun) = begun.filter(|_| receipt.mode != Mode::Unchanged) else {
        must!(warnings.is_empty(), "nothing begins, and it warns {warnings:?}");
        return Ok(());
    };
    let is_cancelled = |e: &Arc<Event>| {
        matches!(&e.body, EventBody::DeploymentCancelled { cause: Cause::NewerVersion, .. })
            && e.deployment_id != begun.version.deployment_id
    };
    let policy = &begun.version.policy;
    let above = |amount: CountOrPercent| matches!(amount, CountOrPercent::Count(n) if n as usize > begun.changed.len());
    let (in_place, blue_green) = (begun.mode == Mode::InPlace, begun.mode == Mode::BlueGreen);
    let no_way_back = policy.auto_revert && !is_rollback && !o.after.versions.iter().any(|v| v.stable);
    let due = [
        (" and will be cancelled", o.events().any(is_cancelled)),
        ("max_parallel is above", in_place && above(policy.max_parallel)),
        ("canary is above", (in_place || blue_green) && above(policy.canary)),
        ("JOB is not used", in_place && job.is_some()),
        ("start in a second job", blue_green && policy.strategy != Strategy::BlueGreen && begun.adopted.is_empty()),
        ("get a stop task", !begun.removed_agents.is_empty()),
        ("auto_revert has no stable version", no_way_back),
    ];
    for (words, is_due) in due {
        let count = warnings.iter().filter(|warning| warning.contains(words)).count();
        must!(count == usize::from(is_due), "{warnings:?} has {count} times \"{words}\", due: {is_due}");
    }
    Ok(())
}

/// Rule 19.1: only a ROLLBACK without a target is done already, after a rollback that was successful.
fn only_a_rollback_that_was_successful_is_done_already(r: &Refusal) -> Said {
    let Rejection::RolledBackAlready { version, .. } = r.rejection else { return Ok(()) };
    let was = r.before.deployment.as_ref().filter(|d| d.rollback_of.is_some());
    let is_done = was.is_some_and(|d| {
        d.target_version == *version && matches!(d.status, Status::Successful | Status::VersionRecorded)
    });
    let is_open = matches!(r.command, Command::Rollback(rollback) if rollback.to == RollbackTo::NewestStable);
    must!(is_done && is_open, "version {version} rolled nothing back");
    Ok(())
}

/// Rule 12.7: only an active deployment with a bake refuses a DEPLOY that would change nothing.
fn only_a_bake_keeps_a_deploy_from_changing_nothing(r: &Refusal) -> Said {
    let Rejection::Unproved { deployment_id } = r.rejection else { return Ok(()) };
    let bakes = r
        .before
        .deployment
        .as_ref()
        .is_some_and(|d| *d.id == **deployment_id && d.status.is_active() && d.policy.bake_ms > 0);
    must!(bakes && matches!(r.command, Command::Deploy(_)), "{deployment_id} has nothing to prove");
    Ok(())
}

/// Rule 8 "Services": only a running instance of another agent, or another job, keeps REGISTER from its id.
fn only_a_running_instance_holds_its_service_instance(r: &Refusal) -> Said {
    let (Rejection::ServiceInstanceTaken { instance, .. }, Command::Register(register)) = (r.rejection, r.command)
    else {
        return Ok(());
    };
    let owner = r.before.services.get(instance.as_str()).and_then(|s| r.before.instances.get(&s.owner));
    must!(owner.is_some_and(Instance::is_running), "{instance} is held by what does not run");
    let same = owner.is_some_and(|i| i.agent == register.agent && register.job.as_ref() == Some(&i.job_id));
    must!(!same, "{instance} is held by its own agent");
    Ok(())
}

/// Rule 3 REGISTER, CHECK: each gives the TTL its full length again.
fn a_refresh_moves_the_ttl(o: &Outcome) -> Said {
    let id = match (o.command, o.reply) {
        (Command::Check(check), _) => &check.instance,
        (Command::Register(register), DecisionReply::Changed(true)) => &register.instance,
        _ => return Ok(()),
    };
    let Some(service) = o.after.services.get(id) else { return Ok(()) };
    let full = service.ttl_ms.filter(|_| service.status != CheckStatus::Critical).map(|ttl| o.now + ttl);
    must!(service.expires_at == full, "{id} expires at {:?}, and {full:?} is due", service.expires_at);
    Ok(())
}

/// Rule 3 REGISTER: with TTL it becomes critical unless refreshed in time.
fn a_ttl_that_ran_out_is_critical(o: &Outcome) -> Said {
    if o.is_remembered() {
        return Ok(());
    }
    for service in o.after.services.iter().filter(|s| s.status != CheckStatus::Critical) {
        let Some(at) = service.expires_at else {
            must!(service.ttl_ms.is_none(), "{} has a TTL that does not run", service.instance);
            continue;
        };
        let passed = if matches!(o.command, Command::Tick) { at <= o.now } else { at < o.now };
        must!(!passed, "{} is {}, {} ms after its TTL", service.instance, service.status.name(), o.now - at);
    }
    Ok(())
}

/// Asks the engine's own invariants, beside the rules.
pub fn invariants_hold(record: &Record) -> Said {
    invariants::check(record)
}
