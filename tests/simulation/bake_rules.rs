//! The rules about bakes, standbys and switch-backs (rule 12), one function each.

use super::bakes::has_passed;
use super::drain_rules::same;
use super::model::{key_of, Late, Phase, Seen, Verdict};
use super::rules::{must, new_deployment, rollout, rules, CommandRule, EventRule, Happening, Outcome, Said};
use redis_deploy::engine::command::Command;
use redis_deploy::engine::deployment::{Mode, Status};
use redis_deploy::engine::event::EventBody;
use redis_deploy::engine::instance::{InstanceKey, Role};
use redis_deploy::engine::time::Deadline;

pub const EVENT_RULES: &[EventRule] = rules![
    a_bake_begins_where_it_is_asked_for,
    success_comes_after_the_bake,
    a_standby_is_left_alone_until_its_end,
    a_rollback_bakes_only_if_told_to,
    what_is_not_proved_does_not_become_stable,
    a_switch_back_starts_nothing,
];

pub const COMMAND_RULES: &[CommandRule] = rules![
    the_account_of_bakes_agrees,
    what_bakes_is_current_and_not_stable,
    a_standby_that_is_over_has_a_task,
    a_standby_is_part_of_no_health_summary,
];

/// Rules 12.1, 12.2: a bake begins when the target carries everything and all of it is healthy, also anew.
fn a_bake_begins_where_it_is_asked_for(h: &Happening) -> Said {
    let EventBody::BakeStarted { bake } = &h.event.body else { return Ok(()) };
    let r = rollout(h.model)?;
    must!(r.has_bake() && r.phase == Phase::Running, "{:?} bakes while {:?}", r.mode, r.phase);
    must!(!r.has_second_job() || r.promoted, "it bakes before its promotion");
    must!(r.bake == Late::Never, "the bake begins anew, and nothing had stopped it");
    let healthy = h.model.counted().filter(|(_, seen)| seen.verdict == Verdict::Healthy).count();
    must!(healthy == r.changed.len(), "{healthy} of {} are healthy as the bake begins", r.changed.len());
    must!(*bake == Deadline::Running { at: h.event.at + r.policy.bake_ms }, "it bakes until {bake:?}");
    Ok(())
}

/// Rules 12.2, 12.8: a deployment with a bake is successful only after all of it, or by PROMOTE FULL.
fn success_comes_after_the_bake(h: &Happening) -> Said {
    if !matches!(&h.event.body, EventBody::DeploymentSuccessful { .. }) {
        return Ok(());
    }
    let r = rollout(h.model)?;
    let by_operator = matches!(h.command, Command::Promote { full: true, .. });
    must!(!r.has_bake() || r.is_baking, "it is successful without its bake");
    must!(!r.is_baking || by_operator || has_passed(r.bake, h.event.at), "it bakes until {:?}", r.bake);
    Ok(())
}

/// Rule 12.3: a standby gets no task before the bake has ended well, or `bake_ms` after it has ended otherwise; STOP
/// passes, and a rollback to its job that could not adopt it.
fn a_standby_is_left_alone_until_its_end(h: &Happening) -> Said {
    let EventBody::TaskIssued { instance, task, .. } = &h.event.body else { return Ok(()) };
    let key = key_of(instance, h.event.version);
    let stood_by = |seen: &&Seen| seen.role == Role::Standby && seen.drain.is_none();
    let Some(seen) = h.model.instances.get(&key).filter(stood_by) else { return Ok(()) };
    let r = rollout(h.model)?;
    // A rollback starts its agent in its job, beside others that it has adopted, as it is not fit itself (rule 12.5).
    let is_unfit = key.job_id == r.job && h.model.instances.values().any(|seen| seen.adopted_for == Some(r.target));
    let ends = match h.command {
        _ if is_unfit => true,
        Command::Stop { .. } => true,
        Command::Promote { full: true, .. } if r.is_baking => true,
        _ => match seen.stands_until {
            Late::Never => r.is_baking && has_passed(r.bake, h.event.at),
            until => has_passed(until, h.event.at),
        },
    };
    must!(ends, "standby {} gets a {}, and stands until {:?}", key.agent, task.name(), seen.stands_until);
    Ok(())
}

/// Rules 9.2, 12.1: a rollback has the bake that its command gives; a revert has none.
fn a_rollback_bakes_only_if_told_to(h: &Happening) -> Said {
    let Some(b) = new_deployment(h.event).filter(|b| b.version.rollback_of.is_some()) else { return Ok(()) };
    let expected = match h.command {
        Command::Rollback(rollback) if b.cause.is_none() => rollback.policy.bake_ms.unwrap_or(0),
        _ => 0,
    };
    must!(b.version.policy.bake_ms == expected, "bake_ms is {}, not {expected}", b.version.policy.bake_ms);
    Ok(())
}

/// Rule 12.7: a DEPLOY does not make stable what the active deployment still had to prove.
fn what_is_not_proved_does_not_become_stable(h: &Happening) -> Said {
    let EventBody::DeploymentNoop(b) = &h.event.body else { return Ok(()) };
    let Some(r) = h.model.rollout.as_ref().filter(|_| b.version.rollback_of.is_none()) else { return Ok(()) };
    let ended = h.model.versions.get(&r.target).and_then(|told| told.ended.as_ref());
    let is_superseded = ended.is_some_and(|e| {
        e.cause == Some(redis_deploy::engine::deployment::Cause::NewerVersion)
            && r.phase == Phase::Ended(Status::Cancelled)
    });
    must!(!(is_superseded && r.has_bake()), "version {} was to bake, and is stable at once", r.target);
    Ok(())
}

/// Rule 12.5: a switch-back has no task to start or replace, and waits for nobody.
fn a_switch_back_starts_nothing(h: &Happening) -> Said {
    let Some(r) = h.model.rollout.as_ref().filter(|r| r.mode == Mode::SwitchBack) else { return Ok(()) };
    must!(!matches!(&h.event.body, EventBody::AwaitingPromotion { .. }), "a switch-back waits");
    if let EventBody::TaskIssued { instance, task, .. } = &h.event.body {
        let is_own = h.event.version == r.target && instance.job_id == r.job;
        must!(!is_own, "{} gets a {} in a switch-back", instance.agent, task.name());
    }
    Ok(())
}

// ---- after every command --------------------------------------------------------------------------------------------

/// Rules 12.2, 12.3, 12.8: bakes and standbys of the record are those of the account; the clock of a bake runs while
/// all are healthy.
fn the_account_of_bakes_agrees(o: &Outcome) -> Said {
    let (r, Some(d)) = (rollout(o.model)?, &o.after.deployment) else { return Ok(()) };
    must!(d.is_baking == r.is_baking, "it bakes: {}, and {} was said", d.is_baking, r.is_baking);
    must!(same(r.bake, d.bake), "it bakes until {:?}, not {:?}", d.bake, r.bake);
    must!(r.mode != Mode::SwitchBack || matches!(r.phase, Phase::Ended(_)), "a switch-back is {:?}", r.phase);
    let all_healthy = o.model.counted().all(|(_, seen)| seen.verdict == Verdict::Healthy);
    if r.is_baking && r.phase == Phase::Running {
        must!(
            all_healthy == (r.bake != Late::Never),
            "all are healthy: {all_healthy}, and it bakes until {:?}",
            r.bake
        );
    }
    for i in o.after.instances.iter().filter(|i| i.role == Role::Standby) {
        let until = o.model.instances.get(&i.key()).map(|seen| seen.stands_until);
        let agrees = until.is_some_and(|until| match until {
            Late::Never => i.standby_until.is_none(),
            Late::At(at) => i.standby_until == Some(at),
            Late::Left(_) => false,
        });
        must!(agrees, "{} stands by until {:?}, not {until:?}", i.agent, i.standby_until);
        must!(i.standby_until.is_some() || r.is_baking || r.has_bake(), "{} stands by for nothing", i.agent);
    }
    Ok(())
}

/// Rules 12.1, 12.7: while it bakes, the target is current, and not stable.
fn what_bakes_is_current_and_not_stable(o: &Outcome) -> Said {
    let r = rollout(o.model)?;
    if r.is_baking {
        must!(o.after.current_version == Some(r.target), "{:?} is current", o.after.current_version);
        must!(o.after.current_job_id.as_ref() == Some(&r.job), "job {:?} is current", o.after.current_job_id);
        must!(o.after.version(r.target).is_some_and(|v| !v.stable), "version {} is stable in its bake", r.target);
    }
    Ok(())
}

/// Rule 12.6: a standby is counted for no version, neither its own nor the one that it was adopted for.
fn a_standby_is_part_of_no_health_summary(o: &Outcome) -> Said {
    for standby in o.after.instances.iter().filter(|i| i.role == Role::Standby) {
        let is_counted = |key: &InstanceKey, seen: &Seen| {
            seen.adopted_for.unwrap_or(key.version) == standby.version
                && key.job_id == standby.job_id
                && seen.drain.is_none()
                && !matches!(seen.role, Role::Retired | Role::Standby)
        };
        let expected = o.model.instances.iter().filter(|(key, seen)| is_counted(key, seen)).count();
        let placed = o.after.instances.counts(standby.version, &standby.job_id).placed;
        must!(placed == expected, "{placed} of version {} are counted, and {expected} there", standby.version);
    }
    Ok(())
}

/// Rules 12.2, 12.3: a bake, or the time of a standby, ends as soon as it is over.
fn a_standby_that_is_over_has_a_task(o: &Outcome) -> Said {
    if o.is_remembered() {
        return Ok(());
    }
    let now = if matches!(o.command, Command::Tick) { o.now } else { o.now.saturating_sub(1) };
    let r = rollout(o.model)?;
    must!(!has_passed(r.bake, now), "it bakes until {:?}", r.bake);
    for (key, seen) in &o.model.instances {
        let stands_by = seen.role == Role::Standby && seen.drain.is_none() && !seen.told_to_stop;
        must!(!(stands_by && has_passed(seen.stands_until, now)), "{} stands by for too long", key.agent);
    }
    Ok(())
}
