//! People at their keyboards: what an operator asks next, mostly sensible, at random.

use super::catalogue::Content;
use super::dice::Dice;
use redis_deploy::engine::command::{Operate, Rollback, RollbackTo};
use redis_deploy::engine::deployment::Status;
use redis_deploy::engine::policy::{CountOrPercent, PolicyPatch};
use redis_deploy::engine::{Command, Record};
use std::sync::Arc;

/// What an operator asks of a site whose latest content is `content`.
pub fn ask(
    dice: &mut Dice,
    content: &mut Content,
    past: &mut Vec<Content>,
    record: Option<&Record>,
    wild: bool,
) -> Command {
    let weights = match record.and_then(|r| r.deployment.as_ref()).map(|d| d.status) {
        None => [1, 0, 0, 0, 0, 0, 0, 0, 0],
        Some(Status::Running) => [22, 12, 16, 22, 5, 8, 3, 4, 2],
        Some(Status::AwaitingPromotion) => [15, 10, 50, 12, 4, 5, 2, 4, 2],
        Some(Status::Paused) => [15, 8, 4, 4, 55, 6, 3, 4, 2],
        Some(_) => [60, 14, 3, 2, 2, 2, 6, 8, 3],
    };
    match dice.weighted(&weights) {
        0 => deploy(dice, content, past, record, wild),
        1 => rollback(dice, record),
        2 => Command::Promote(operate(dice, record)),
        3 => Command::Pause(operate(dice, record)),
        4 => Command::Resume(operate(dice, record)),
        5 => Command::Fail(operate(dice, record)),
        6 => Command::Stop(operate(dice, record)),
        7 => {
            let newest = record.map_or(1, |r| r.last_version);
            Command::Tag { version: dice.between(newest.saturating_sub(3).max(1), newest + 1), tag: tag(dice) }
        }
        _ => Command::Untag { tag: tag(dice) },
    }
}

fn tag(dice: &mut Dice) -> Arc<str> {
    Arc::from(*dice.pick(&["good", "live", "old"]))
}

fn operate(dice: &mut Dice, record: Option<&Record>) -> Operate {
    let current = || record.and_then(|r| r.deployment.as_ref()).map(|d| d.id.clone());
    let id = match dice.below(8) {
        0 => current(),
        1 if dice.chance(30) => Some(Arc::from("dep_other_1")),
        _ => None,
    };
    Operate { id, reason: dice.chance(30).then(|| Arc::from("because")) }
}

fn deploy(
    dice: &mut Dice,
    content: &mut Content,
    past: &mut Vec<Content>,
    record: Option<&Record>,
    wild: bool,
) -> Command {
    match dice.weighted(&[70, 12, 12, 6]) {
        _ if record.is_none() => {}
        0 => content.change(dice),
        1 => {} // the same again
        2 if !past.is_empty() => *content = dice.pick(past).clone(),
        _ => {
            content.change(dice);
            content.change(dice);
        }
    }
    if wild && dice.chance(4) {
        content.job_type = *dice.pick(&["service", "batch"]);
    }
    past.push(content.clone());
    let mut deploy = content.deploy();
    let newest = record.map_or(0, |r| r.last_version);
    if dice.chance(8) {
        deploy.if_version = Some(newest);
    }
    if dice.chance(10) {
        deploy.tag = Some(tag(dice));
    }
    // Some sites are run by scripts, which give every deploy an id.
    let scripted = content.nodes[0].config == 2;
    if dice.chance(if scripted { 70 } else { 12 }) {
        deploy.request = Some(Arc::from(format!("r{}", dice.below(if scripted { 60 } else { 5 }))));
    }
    if !content.is_batch() && dice.chance(12) {
        deploy.job = Some(Arc::from(format!("job-{}", dice.below(3))));
    }
    Command::Deploy(deploy)
}

fn rollback(dice: &mut Dice, record: Option<&Record>) -> Command {
    let newest = record.map_or(1, |r| r.last_version);
    let to = match dice.below(5) {
        0 => RollbackTo::Version(dice.between(1, newest)),
        1 => RollbackTo::Tag(tag(dice)),
        _ => RollbackTo::NewestStable,
    };
    let mut policy = PolicyPatch::default();
    if dice.chance(15) {
        policy.canary = Some(CountOrPercent::Count(1));
    }
    if dice.chance(15) {
        policy.max_parallel = Some(CountOrPercent::Percent(100));
    }
    let request = dice.chance(10).then(|| Arc::from(format!("r{}", dice.below(5))));
    let Operate { id, reason } = operate(dice, record);
    Command::Rollback(Rollback { to, id, reason, request, policy })
}
