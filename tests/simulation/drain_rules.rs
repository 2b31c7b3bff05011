//! The rules about sessions and drains (rules 9.2, 10 and 11.6), one function each.

use super::drains::{leads_to, LeadsTo, Stage};
use super::model::{key_of, Late, Model, Phase, Rollout, Seen, Verdict};
use super::rules::{must, new_deployment, rollout, rules, CommandRule, EventRule, Happening, Outcome, Said};
use redis_deploy::engine::command::{Command, ReportedState};
use redis_deploy::engine::deployment::Mode;
use redis_deploy::engine::event::EventBody;
use redis_deploy::engine::instance::{DrainPhase, InstanceKey, InstanceState, Role, TaskKind};
use redis_deploy::engine::manifest::BATCH_AGENT;
use redis_deploy::engine::time::Deadline;
use redis_deploy::engine::{next_deadline, Change, DecisionReply, AUTO};
use std::collections::BTreeSet;

pub const EVENT_RULES: &[EventRule] = rules![
    who_may_hold_sessions_drains_first,
    a_drain_begins_only_where_sessions_may_be,
    a_drain_leads_where_its_deployment_leads,
    a_drain_ends_for_a_reason,
    a_drain_that_was_taken_up_is_not_withdrawn,
    a_newer_plan_finds_no_drain_that_nobody_has_taken_up,
    what_follows_a_drain_is_what_holds_then,
    who_starts_anew_is_resolved_by_nobody,
    a_rollback_takes_the_larger_drain_ms,
    no_further_job_starts_while_many_versions_drain,
];

pub const COMMAND_RULES: &[CommandRule] = rules![
    the_account_of_drains_agrees,
    what_follows_a_drain_comes_with_its_end,
    a_drain_that_is_over_has_ended,
    nothing_that_should_run_is_forgotten,
    drains_alone_hold_the_progress_deadline,
    what_drains_is_part_of_no_health_summary,
    drain_reports_count_in_a_drain_alone,
    a_number_of_sessions_is_that_of_the_present_attempt,
    sessions_alone_change_nothing_else,
    an_instance_counts_for_what_left_it_unchanged,
];

/// Returns true for an instance that can hold sessions, as it runs and callers could begin some.
fn may_hold_sessions(key: &InstanceKey, seen: &Seen) -> bool {
    let runs = matches!(seen.state, InstanceState::Starting | InstanceState::Ready | InstanceState::Unready);
    runs && seen.was_exposed && &*key.agent != BATCH_AGENT
}

fn is_stop_now(command: &Command) -> bool {
    matches!(command, Command::Stop { now: true, .. })
}

// ---- at every event -------------------------------------------------------------------------------------------------

/// Rule 10.1: where the newest deployment has `drain_ms`, an instance that may hold sessions is neither told to stop
/// nor replaced before its drain has ended.
fn who_may_hold_sessions_drains_first(h: &Happening) -> Said {
    let key = match &h.event.body {
        EventBody::TaskIssued { instance, task: TaskKind::Stop, .. } => key_of(instance, h.event.version),
        EventBody::TaskIssued { instance, task: TaskKind::Replace, from_version: Some(from), .. } => {
            key_of(instance, *from)
        }
        _ => return Ok(()),
    };
    let Some(seen) = h.model.instances.get(&key) else { return Err(format!("{} is on the record", key.agent)) };
    if let Some(drain) = &seen.drain {
        must!(!drain.is_open(), "{} still drains, with {:?} sessions", key.agent, seen.sessions);
        return Ok(());
    }
    let drains = rollout(h.model)?.policy.drain_ms > 0;
    must!(
        !drains || !may_hold_sessions(&key, seen) || is_stop_now(h.command),
        "{} did not drain, with {:?} sessions",
        key.agent,
        seen.sessions
    );
    Ok(())
}

/// Rule 10.1: candidates and canaries that were never promoted do not drain, nor what does not run, nor batch runs, nor
/// anything without `drain_ms`.
fn a_drain_begins_only_where_sessions_may_be(h: &Happening) -> Said {
    let EventBody::TaskIssued { instance, task: TaskKind::Drain, drain, by, .. } = &h.event.body else {
        return Ok(());
    };
    let key = key_of(instance, h.event.version);
    let Some(seen) = h.model.instances.get(&key) else { return Err(format!("{} is on the record", key.agent)) };
    must!(drain.is_some(), "a drain task says what its drain is");
    must!(rollout(h.model)?.policy.drain_ms > 0, "{} drains, and nobody asked for it", key.agent);
    must!(may_hold_sessions(&key, seen), "{} drains while {}, with role {:?}", key.agent, seen.state.name(), seen.role);
    must!(!seen.is_going() && seen.drain.is_none(), "{} drains twice", key.agent);
    // What was due before the command, `auto` has done.
    must!(!is_stop_now(h.command) || &**by == AUTO, "{} drains after STOP NOW", key.agent);
    Ok(())
}

/// Rules 10.1, 10.8, 10.10: a drain leads to a stop where its agent would be stopped, and to a replacement where a
/// running deployment in place releases its agent.
fn a_drain_leads_where_its_deployment_leads(h: &Happening) -> Said {
    let (instance, outcome) = match &h.event.body {
        EventBody::TaskIssued { instance, drain: Some(drain), .. } => (instance, leads_to(drain.outcome)),
        EventBody::AgentDraining { instance, outcome, .. } => (instance, leads_to(*outcome)),
        _ => return Ok(()),
    };
    let key = key_of(instance, h.event.version);
    let r = rollout(h.model)?;
    let before = h.model.instances.get(&key).and_then(|seen| seen.drain);
    if before.is_some_and(|drain| drain.leads_to == outcome) {
        return Ok(());
    }
    must!(before.is_none_or(|drain| drain.leads_to != LeadsTo::Stop), "{} was to stop, and is not any more", key.agent);
    match outcome {
        LeadsTo::Replace(version) => must!(
            version == r.target && r.mode == Mode::InPlace && r.phase == Phase::Running && key.job_id == r.job,
            "{} drains for version {version}, while {:?} of {} is {:?}",
            key.agent,
            r.mode,
            r.target,
            r.phase
        ),
        LeadsTo::Stop => {
            let stopped = matches!(h.command, Command::Stop { .. });
            let old_side = r.has_second_job() && r.promoted && !h.model.is_own(&key);
            let stood_by = h.model.instances.get(&key).is_some_and(|seen| seen.role == Role::Standby);
            let elsewhere = key.job_id != r.job;
            must!(
                stopped || old_side || stood_by || elsewhere || is_gone(h.model, r, &key),
                "{} drains for a stop that nothing asks for",
                key.agent
            );
        }
        LeadsTo::Undecided => return Err(format!("the drain of {} leads nowhere", key.agent)),
    }
    Ok(())
}

/// Returns true if the newest version, which is in effect, has no such agent.
fn is_gone(model: &Model, r: &Rollout, key: &InstanceKey) -> bool {
    let agents = model.versions.get(&r.target).map(|told| told.agents_with_nodes()).unwrap_or_default();
    r.is_in_effect() && !agents.contains(&key.agent)
}

/// Rules 10.4, 10.10, 10.11: a drain ends with `drained`, `stopped` or `failed`; when its instance was idle for long
/// enough; after `drain_ms`; or by DRAIN or STOP NOW. Only the last three force it.
fn a_drain_ends_for_a_reason(h: &Happening) -> Said {
    let EventBody::AgentDrained { instance, forced, sessions, .. } = &h.event.body else { return Ok(()) };
    let key = key_of(instance, h.event.version);
    let Some(seen) = h.model.instances.get(&key) else { return Err(format!("{} is on the record", key.agent)) };
    let Some(drain) = seen.drain.filter(|drain| drain.is_open()) else {
        return Err(format!("{} does not drain, and has drained", key.agent));
    };
    must!(*sessions == seen.sessions, "{} holds {:?} sessions, and {sessions:?} are told", key.agent, seen.sessions);
    let has_passed = |late: Late| matches!(late, Late::At(at) if at <= h.event.at);
    let reported = match h.command {
        Command::Report(report) if report.agent == key.agent => match report.state {
            ReportedState::Drained => report.attempt.is_none_or(|attempt| attempt == seen.attempt),
            ReportedState::Stopped => report.attempt.is_none_or(|attempt| attempt >= seen.attempt),
            ReportedState::Failed => seen.state == InstanceState::Failed,
            _ => false,
        },
        _ => false,
    };
    let by_operator = match h.command {
        Command::Drain(drain) => drain.ms == 0 && drain.version == key.version,
        command => is_stop_now(command),
    };
    let holds = match forced {
        true => by_operator || has_passed(drain.latest),
        false => reported || has_passed(drain.idle),
    };
    must!(
        holds,
        "the drain of {} ends (forced: {forced}) with {:?} sessions, {:?}, at {}",
        key.agent,
        seen.sessions,
        drain,
        h.event.at
    );
    Ok(())
}

/// Rule 10.8: a drain is withdrawn only before it is taken up, and only where its deployment has ended or replaces
/// nothing any more; or where a rollback adopts its instance (rule 12.5).
fn a_drain_that_was_taken_up_is_not_withdrawn(h: &Happening) -> Said {
    let EventBody::TaskDone { instance, task: TaskKind::Drain, withdrawn: true, .. } = &h.event.body else {
        return Ok(());
    };
    let key = key_of(instance, h.event.version);
    let Some(drain) = h.model.instances.get(&key).and_then(|seen| seen.drain) else {
        return Err(format!("{} drains", key.agent));
    };
    match drain.stage {
        Stage::Ended => {}
        Stage::Issued => {
            must!(
                drain.leads_to == LeadsTo::Undecided || h.model.found_by_rollback.is_some(),
                "{} was to {:?}, and is not any more",
                key.agent,
                drain.leads_to
            )
        }
        stage => return Err(format!("the drain of {} is withdrawn: {stage:?}", key.agent)),
    }
    Ok(())
}

/// Rule 10.8: what nobody has taken up is withdrawn before anything is planned; what was taken up, or leads to a stop,
/// goes on.
fn a_newer_plan_finds_no_drain_that_nobody_has_taken_up(h: &Happening) -> Said {
    if new_deployment(h.event).is_none() {
        return Ok(());
    }
    let open = |seen: &Seen| seen.drain.is_some_and(|d| d.stage == Stage::Issued && d.leads_to != LeadsTo::Stop);
    let left = h.model.instances.iter().find(|(_, seen)| open(seen));
    must!(left.is_none(), "{:?} drains for nothing, and nobody has taken it up", left.map(|(key, _)| &key.agent));
    for (key, seen) in &h.model.instances {
        let goes_on = seen.drain.is_none() || h.after.instances.get(key).is_some_and(|i| i.drain.is_some());
        must!(goes_on, "the drain of {} ends with a newer plan", key.agent);
    }
    Ok(())
}

/// Follow-up of a drain.
#[derive(Debug, PartialEq, Eq)]
enum Follows {
    Stop,
    Replace,
    Restart,
}

/// Rule 10.8: `replace` if the newest plan has released the agent; `stop` if the agent is gone or the blue-green target
/// is promoted, or if that was decided; else a start of the next attempt.
fn what_follows_a_drain_is_what_holds_then(h: &Happening) -> Said {
    let EventBody::TaskIssued { instance, task, from_version, attempt, .. } = &h.event.body else { return Ok(()) };
    let key = key_of(instance, from_version.unwrap_or(h.event.version));
    let Some(seen) = h.model.instances.get(&key) else { return Ok(()) };
    let Some(drain) = seen.drain.filter(|drain| drain.stage == Stage::Ended) else { return Ok(()) };
    let r = rollout(h.model)?;
    if matches!(h.command, Command::Stop { .. }) && *task == TaskKind::Stop {
        return Ok(());
    }
    let is_active = !matches!(r.phase, Phase::Ended(_));
    let healthy = h.model.counted().filter(|(_, seen)| seen.verdict == Verdict::Healthy).count();
    let all_are_healthy = is_active && healthy == r.changed.len();
    let expected = match drain.leads_to {
        LeadsTo::Stop => Follows::Stop,
        LeadsTo::Replace(version) if version == r.target && is_active => Follows::Replace,
        _ if r.has_second_job() && r.promoted && key.job_id != r.job => Follows::Stop,
        _ if r.has_second_job() => Follows::Restart,
        // Whoever starts anew in a job that had ended is not needed once another job is successful.
        _ if *task == TaskKind::Stop && key.job_id != r.job && all_are_healthy => Follows::Stop,
        _ if is_gone(h.model, r, &key) => Follows::Stop,
        // The plan releases it, with or without a drain before.
        _ if *task == TaskKind::Replace && is_active && key.job_id == r.job => Follows::Replace,
        _ => Follows::Restart,
    };
    let follows = match task {
        TaskKind::Stop => Follows::Stop,
        TaskKind::Replace => Follows::Replace,
        TaskKind::Start => Follows::Restart,
        TaskKind::Drain | TaskKind::Run => {
            return Err(format!("{} has drained, and gets a {}", key.agent, task.name()))
        }
    };
    must!(follows == expected, "{} has drained for {:?}: {follows:?}, not {expected:?}", key.agent, drain.leads_to);
    must!(follows != Follows::Replace || r.phase == Phase::Running, "{} is replaced while {:?}", key.agent, r.phase);
    if follows == Follows::Restart {
        must!(*attempt == seen.attempt + 1, "{} starts attempt {attempt} after {}", key.agent, seen.attempt);
        must!(instance.role == Role::Primary, "{} starts anew as {}", key.agent, instance.role.name());
    }
    Ok(())
}

/// Rule 10.8: what drained starts anew with its services deregistered.
fn who_starts_anew_is_resolved_by_nobody(h: &Happening) -> Said {
    let EventBody::TaskIssued { instance, task: TaskKind::Start, .. } = &h.event.body else { return Ok(()) };
    let key = key_of(instance, h.event.version);
    let left = h.before.services.of_owner(&key).next();
    must!(left.is_none(), "{:?} of {} stays", left.map(|service| &service.instance), key.agent);
    Ok(())
}

/// Rule 9.2: a rollback has the larger `drain_ms` of its version and of the deployment that it replaces, unless an
/// option says another.
fn a_rollback_takes_the_larger_drain_ms(h: &Happening) -> Said {
    let Some(b) = new_deployment(h.event) else { return Ok(()) };
    let Some(old) = b.version.rollback_of.and_then(|of| h.model.versions.get(&of)) else { return Ok(()) };
    let larger = old.version.policy.drain_ms.max(rollout(h.model)?.policy.drain_ms);
    let expected = match h.command {
        Command::Rollback(rollback) if b.cause.is_none() => rollback.policy.drain_ms.unwrap_or(larger),
        _ => larger,
    };
    must!(b.version.policy.drain_ms == expected, "drain_ms is {}, not {expected}", b.version.policy.drain_ms);
    Ok(())
}

/// Rule 10.13: DEPLOY and ROLLBACK start no second job while instances of too many versions drain.
fn no_further_job_starts_while_many_versions_drain(h: &Happening) -> Said {
    let Some(b) = new_deployment(h.event) else { return Ok(()) };
    if !matches!(b.mode, Mode::Initial | Mode::BlueGreen) || b.cause.is_some() || !b.adopted.is_empty() {
        return Ok(());
    }
    let is_alive = |seen: &Seen| seen.drain.is_some() || seen.role == Role::Standby;
    let versions: BTreeSet<u64> =
        h.model.instances.iter().filter(|(_, seen)| is_alive(seen)).map(|(key, _)| key.version).collect();
    must!(versions.len() < h.limits.versions_alive_max, "a job starts while versions {versions:?} drain");
    Ok(())
}

// ---- after every command --------------------------------------------------------------------------------------------

pub fn same(late: Late, deadline: Deadline) -> bool {
    match (late, deadline) {
        (Late::Never, Deadline::Off) => true,
        (Late::At(late), Deadline::Running { at }) => late == at,
        (Late::Left(left), Deadline::Paused { left_ms }) => left == left_ms,
        _ => false,
    }
}

/// Rules 10.1 to 10.4, 10.9, 10.11: sessions, roles and drains of the record are those of the account: what was said
/// counts, clocks count from the task and the take-up, a pause of the deployment that replaces keeps what they had
/// left.
fn the_account_of_drains_agrees(o: &Outcome) -> Said {
    for i in o.after.instances.iter() {
        let Some(seen) = o.model.instances.get(&i.key()) else { return Err(format!("{} was never there", i.agent)) };
        must!(i.sessions == seen.sessions, "{} holds {:?}, and said {:?}", i.agent, i.sessions, seen.sessions);
        let role = seen.shown_role();
        must!(i.role == role, "{} of version {} is {}, not {}", i.agent, i.version, i.role.name(), role.name());
        let agrees = match (&i.drain, &seen.drain) {
            (None, None) => true,
            (Some(drain), Some(seen)) => {
                let stage = match drain.phase {
                    DrainPhase::Issued => Stage::Issued,
                    DrainPhase::TakenUp => Stage::TakenUp,
                    DrainPhase::Ended => Stage::Ended,
                    DrainPhase::Succeeded => Stage::Succeeded,
                };
                stage == seen.stage
                    && leads_to(drain.outcome) == seen.leads_to
                    && same(seen.latest, drain.deadline)
                    && same(seen.idle, drain.idle)
            }
            _ => false,
        };
        must!(agrees, "{} of version {}: {:?}, not {:?}", i.agent, i.version, i.drain, seen.drain);
    }
    Ok(())
}

/// Rule 10.4: the follow-up of a drain comes in the same step; only the pause of the deployment that replaces holds it.
fn what_follows_a_drain_comes_with_its_end(o: &Outcome) -> Said {
    let r = rollout(o.model)?;
    let is_paused = matches!(r.phase, Phase::Paused { .. });
    for (key, seen) in &o.model.instances {
        let Some(drain) = seen.drain.filter(|drain| drain.stage == Stage::Ended) else { continue };
        let is_held = is_paused && drain.leads_to == LeadsTo::Replace(r.target);
        must!(is_held, "{} has drained for {:?}, and nothing follows", key.agent, drain.leads_to);
    }
    Ok(())
}

/// Rule 10.4: a drain ends as soon as its time has come.
fn a_drain_that_is_over_has_ended(o: &Outcome) -> Said {
    if o.is_remembered() {
        return Ok(());
    }
    let passed = |late: Late| match (late, o.command) {
        (Late::At(at), Command::Tick) => at <= o.now,
        (Late::At(at), _) => at < o.now,
        _ => false,
    };
    for (key, seen) in &o.model.instances {
        let Some(drain) = seen.drain else { continue };
        must!(!passed(drain.latest) && !passed(drain.idle), "{} drains for too long: {drain:?}", key.agent);
        let has_ended = matches!(seen.state, InstanceState::Failed | InstanceState::Stopped);
        must!(!has_ended || !drain.is_open(), "{} drains while {}", key.agent, seen.state.name());
    }
    Ok(())
}

/// Rules 10.8, 4: whatever was superseded, failed, paused, withdrawn or started anew, an agent of the last successful
/// version has an instance that runs, starts or is being replaced, until all is stopped.
fn nothing_that_should_run_is_forgotten(o: &Outcome) -> Said {
    for agent in &o.model.should_run {
        let is_there = |key: &InstanceKey, seen: &Seen| {
            let has_task = matches!(o.model.tasks.get(key), Some(TaskKind::Start | TaskKind::Replace));
            let waits_for_nothing = seen.state == InstanceState::Waiting && !has_task && seen.drain.is_none();
            let is_hidden = matches!(seen.role, Role::Candidate | Role::Retired);
            key.agent == *agent && !seen.is_going() && !waits_for_nothing && !is_hidden
        };
        let there = o.model.instances.iter().any(|(key, seen)| is_there(key, seen));
        must!(there, "{agent} should run, and nothing of it does");
    }
    Ok(())
}

/// Rule 10.6: the progress deadline runs while a target instance is without a healthy verdict; otherwise a drain that
/// leads to a replacement holds it, with what it had left.
fn drains_alone_hold_the_progress_deadline(o: &Outcome) -> Said {
    let (r, Some(d)) = (rollout(o.model)?, &o.after.deployment) else { return Ok(()) };
    must!(same(r.progress, d.progress), "the progress deadline is {:?}, not {:?}", d.progress, r.progress);
    Ok(())
}

/// Rule 10.6: health is counted of what does not drain; an agent that drains for its replacement is counted apart.
fn what_drains_is_part_of_no_health_summary(o: &Outcome) -> Said {
    use Verdict::{Healthy, Pending, Unhealthy};
    let r = rollout(o.model)?;
    let counts = o.after.instances.counts(r.target, &r.job);
    let of = |verdict| o.model.counted().filter(|(_, seen)| seen.verdict == verdict).count();
    let expected = [o.model.counted().count(), of(Pending), of(Healthy), of(Unhealthy), o.model.held_back().count()];
    let told = [counts.placed, counts.pending, counts.healthy, counts.unhealthy, counts.awaiting_drain];
    must!(told == expected, "{told:?} are counted, and {expected:?} there");
    Ok(())
}

/// Rules 10.2, 10.14: `draining` counts where it takes a drain up, `drained` where it ends one; else both are 0.
fn drain_reports_count_in_a_drain_alone(o: &Outcome) -> Said {
    let (Command::Report(report), DecisionReply::Changed(changed), Some(before)) = (o.command, o.reply, o.before)
    else {
        return Ok(());
    };
    let is_due = next_deadline(before).is_some_and(|at| at <= o.now);
    let (Some(version), Some(job), false) = (report.version, &report.job, is_due) else { return Ok(()) };
    let key = InstanceKey { agent: report.agent.clone(), version, job_id: job.clone() };
    let Some(seen) = o.seen_before.get(&key) else { return Ok(()) };
    let is_current = match report.attempt {
        Some(attempt) => attempt == seen.attempt,
        None => true,
    };
    let drain = seen.drain.filter(|drain| drain.is_open() && is_current);
    let expected = match report.state {
        ReportedState::Draining => drain.is_some_and(|drain| drain.stage == Stage::Issued),
        ReportedState::Drained => drain.is_some(),
        _ => return Ok(()),
    };
    must!(*changed == expected, "{} {} counts: {changed}", key.agent, report.state.name());
    Ok(())
}

/// Rule 10.3: the last number that was said counts, at any time; of another attempt it does not.
fn a_number_of_sessions_is_that_of_the_present_attempt(o: &Outcome) -> Said {
    let (Command::Report(report), DecisionReply::Changed(_)) = (o.command, o.reply) else { return Ok(()) };
    let (Some(version), Some(job), Some(said)) = (report.version, &report.job, report.sessions) else { return Ok(()) };
    let key = InstanceKey { agent: report.agent.clone(), version, job_id: job.clone() };
    let (Some(was), Some(is)) = (o.seen_before.get(&key), o.model.instances.get(&key)) else { return Ok(()) };
    let keeps_attempt = was.attempt == is.attempt && is.state != InstanceState::Waiting;
    let says_state = matches!(
        report.state,
        ReportedState::Starting
            | ReportedState::Ready
            | ReportedState::Unready
            | ReportedState::Draining
            | ReportedState::Drained
    );
    if !keeps_attempt || !says_state {
        return Ok(());
    }
    let expected = match report.attempt {
        Some(attempt) if attempt != is.attempt => was.sessions,
        _ => Some(said),
    };
    must!(is.sessions == expected, "{} said {said} sessions, and holds {:?}", key.agent, is.sessions);
    Ok(())
}

/// Rule 10.3: a number of sessions is taken, is no event and changes nothing else; 1 only where it takes a drain up.
fn sessions_alone_change_nothing_else(o: &Outcome) -> Said {
    let (said, DecisionReply::Changed(changed), Some(before)) = (o.command, o.reply, o.before) else { return Ok(()) };
    let sessions = match said {
        Command::Report(report) => report.sessions,
        Command::Check(check) => check.sessions,
        _ => None,
    };
    let is_due = next_deadline(before).is_some_and(|at| at <= o.now);
    let is_event = |change: &Change| matches!(change, Change::Event(_));
    must!(
        sessions.is_none() || !*changed || o.change_set.changes.iter().any(is_event),
        "a number of sessions alone is said to change something"
    );
    if sessions.is_none() || *changed || is_due {
        return Ok(());
    }
    // Without `min_healthy_ms` an instance without a session has drained at once.
    let idle_at_once = o.after.instances.draining() < before.instances.draining()
        || o.change_set.changes.iter().any(
            |change| matches!(change, Change::Event(event) if matches!(event.body, EventBody::AgentDrained { .. })),
        );
    must!(idle_at_once || !o.change_set.changes.iter().any(is_event), "a number of sessions alone is an event");
    Ok(())
}

/// Rule 11.6: an instance counts for its version and for each later one whose plan left it unchanged.
fn an_instance_counts_for_what_left_it_unchanged(o: &Outcome) -> Said {
    if !o.change_set.changes.iter().any(|c| matches!(c, Change::Event(_))) {
        return Ok(());
    }
    for i in o.after.instances.iter() {
        let Some(seen) = o.model.instances.get(&i.key()) else { continue };
        let kept = o.after.versions.iter().map(|version| version.number);
        let told: BTreeSet<u64> = kept.clone().filter(|number| i.counts_for(*number)).collect();
        let expected: BTreeSet<u64> = kept.filter(|number| seen.counts_for.contains(number)).collect();
        must!(told == expected, "{} of version {} counts for {told:?}, not {expected:?}", i.agent, i.version);
        let until = expected.last().copied().unwrap_or(i.version);
        must!(o.after.until_version(i) == until, "{} counts until {}", i.agent, o.after.until_version(i));
    }
    Ok(())
}
