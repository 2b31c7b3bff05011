//! Operators: random commands, most of them valid.

use redis_deploy::engine::command::{EndDrains, Operate, Rollback, RollbackTo};
use redis_deploy::engine::deployment::Status;
use redis_deploy::engine::instance::{Instance, Role};
use redis_deploy::engine::policy::{CountOrPercent, PolicyPatch, Strategy};
use redis_deploy::engine::{Command, Record};
use std::sync::Arc;
use test_support::manifests::Content;
use test_support::rng::Rng;

/// Returns true while a version bakes, or a rollback has adopted what stood by, and has not ended.
pub fn is_delicate(record: &Record) -> bool {
    let is_adopted = |i: &Instance| i.role == Role::Candidate && i.adopted_for.is_some();
    record.deployment.as_ref().is_some_and(|d| d.is_baking) || record.instances.iter().any(is_adopted)
}

/// Draws an operator's command for a system whose latest content is `content`.
pub fn ask(
    rng: &mut Rng,
    content: &mut Content,
    past: &mut Vec<Content>,
    record: Option<&Record>,
    wild: bool,
) -> Command {
    let has_drains = record.is_some_and(|r| r.instances.draining() > 0);
    let drains = if has_drains { 14 } else { 1 };
    let is_delicate = record.is_some_and(is_delicate);
    let weights = match record.and_then(|r| r.deployment.as_ref()).map(|d| d.status) {
        None => [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        Some(Status::Running) if is_delicate => [12, 28, 16, 22, 4, 14, 8, 2, 1, drains],
        Some(Status::Running) => [22, 12, 16, 22, 5, 8, 3, 4, 2, drains],
        Some(Status::AwaitingPromotion) => [15, 10, 50, 12, 4, 5, 2, 4, 2, drains],
        Some(Status::Paused) => [15, 8, 4, 4, 55, 6, 3, 4, 2, drains],
        Some(_) if has_drains => [35, 30, 2, 2, 2, 2, 14, 3, 2, drains],
        Some(_) => [60, 14, 3, 2, 2, 2, 6, 8, 3, drains],
    };
    match rng.weighted(&weights) {
        0 => deploy(rng, content, past, record, wild),
        1 => rollback(rng, record),
        2 => Command::Promote { options: operate(rng, record), full: rng.chance(50) },
        3 => Command::Pause(operate(rng, record)),
        4 => Command::Resume(operate(rng, record)),
        5 => Command::Fail(operate(rng, record)),
        6 => Command::Stop { options: operate(rng, record), now: rng.chance(40) },
        7 => {
            let newest = record.map_or(1, |r| r.last_version);
            Command::Tag { version: rng.between(newest.saturating_sub(3).max(1), newest + 1), tag: tag(rng) }
        }
        8 => Command::Untag { tag: tag(rng) },
        _ => end_drains(rng, record),
    }
}

/// Draws a DRAIN, mostly of a version that drains.
fn end_drains(rng: &mut Rng, record: Option<&Record>) -> Command {
    let drains: Vec<u64> =
        record.iter().flat_map(|r| r.instances.iter()).filter(|i| i.drain.is_some()).map(|i| i.version).collect();
    let newest = record.map_or(1, |r| r.last_version);
    let version = match drains.is_empty() || rng.chance(20) {
        true => rng.between(newest.saturating_sub(2).max(1), newest + 1),
        false => *rng.pick(&drains),
    };
    let Operate { id, reason } = operate(rng, record);
    Command::Drain(EndDrains { version, ms: *rng.pick(&[0, 0, 10, 200, 5_000, 60_000]), id, reason })
}

fn tag(rng: &mut Rng) -> Arc<str> {
    Arc::from(*rng.pick(&["good", "live", "old"]))
}

fn operate(rng: &mut Rng, record: Option<&Record>) -> Operate {
    let current = || record.and_then(|r| r.deployment.as_ref()).map(|d| d.id.clone());
    let id = match rng.below(8) {
        0 => current(),
        1 if rng.chance(30) => Some(Arc::from("dep_other_1")),
        _ => None,
    };
    Operate { id, reason: rng.chance(30).then(|| Arc::from("because")) }
}

fn deploy(
    rng: &mut Rng,
    content: &mut Content,
    past: &mut Vec<Content>,
    record: Option<&Record>,
    wild: bool,
) -> Command {
    match rng.weighted(&[70, 12, 12, 6]) {
        _ if record.is_none() => {}
        0 => content.change(rng),
        1 => {} // the same again
        2 if !past.is_empty() => *content = rng.pick(past).clone(),
        _ => {
            content.change(rng);
            content.change(rng);
        }
    }
    if wild && rng.chance(4) {
        content.job_type = *rng.pick(&["service", "batch"]);
    }
    past.push(content.clone());
    let mut deploy = content.deploy();
    let newest = record.map_or(0, |r| r.last_version);
    if rng.chance(8) {
        deploy.if_version = Some(newest);
    }
    if rng.chance(10) {
        deploy.tag = Some(tag(rng));
    }
    // Some systems are run by scripts, which give every deploy an id.
    let scripted = content.nodes[0].config == 2;
    if rng.chance(if scripted { 70 } else { 12 }) {
        deploy.request = Some(Arc::from(format!("r{}", rng.below(if scripted { 60 } else { 5 }))));
    }
    if !content.is_batch() && rng.chance(12) {
        deploy.job = Some(Arc::from(format!("job-{}", rng.below(3))));
    }
    Command::Deploy(deploy)
}

fn rollback(rng: &mut Rng, record: Option<&Record>) -> Command {
    let newest = record.map_or(1, |r| r.last_version);
    let to = match rng.below(5) {
        0 => RollbackTo::Version(rng.between(1, newest)),
        1 => RollbackTo::Tag(tag(rng)),
        _ => RollbackTo::NewestStable,
    };
    let mut policy = PolicyPatch::default();
    if rng.chance(15) {
        policy.canary = Some(CountOrPercent::Count(1));
    }
    if rng.chance(15) {
        policy.max_parallel = Some(CountOrPercent::Percent(100));
    }
    if rng.chance(5) {
        policy.drain_ms = Some(*rng.pick(&[0, 300]));
    }
    if rng.chance(10) {
        policy.bake_ms = Some(*rng.pick(&[0, 40, 400]));
    }
    if rng.chance(12) {
        policy.strategy = Some(*rng.pick(&Strategy::ALL));
    }
    let request = rng.chance(10).then(|| Arc::from(format!("r{}", rng.below(5))));
    let Operate { id, reason } = operate(rng, record);
    Command::Rollback(Rollback { to, id, reason, request, policy })
}
