//! The operator's commands on a running deployment, and tags.

use super::checks::{bad_state, check_deployment_id};
use super::versions::set_tag;
use crate::engine::command::{EndDrains, Operate};
use crate::engine::deployment::{Cause, Mode, Status};
use crate::engine::draft::{Actor, Draft};
use crate::engine::event::EventBody;
use crate::engine::rejection::Rejection;
use std::sync::Arc;

/// Decides PROMOTE (rule 4.4); FULL also passes the bake (rule 12.8).
pub(super) fn promote(draft: &mut Draft, op: &Operate, full: bool) -> Result<(), Rejection> {
    let d = check_deployment_id(draft, &op.id)?;
    let awaits = "awaiting_promotion";
    match d.status {
        Status::AwaitingPromotion => {
            let by = draft.by(&op.reason);
            draft.promote(by, full);
            Ok(())
        }
        Status::Running if d.is_baking && full => {
            let own = draft.own_counts();
            if own.healthy < own.placed {
                let why = draft.who_is_not_healthy();
                return Err(Rejection::Unhealthy { healthy: own.healthy, desired: own.placed, what: "agents", why });
            }
            let by = draft.by(&op.reason);
            draft.finish(by);
            Ok(())
        }
        Status::Running if d.is_baking => Ok(()),
        Status::Running | Status::Successful if d.promoted => Ok(()),
        Status::Running if d.canaries > 0 => {
            let (what, desired) = match d.mode {
                Mode::InPlace => ("canaries", d.canaries as usize),
                Mode::BlueGreen => ("candidates", d.changed.len()),
                _ => return Err(bad_state(&d, awaits)),
            };
            let healthy = draft.own_counts().healthy;
            Err(Rejection::Unhealthy { healthy, desired, what, why: draft.who_is_not_healthy() })
        }
        _ => Err(bad_state(&d, awaits)),
    }
}

/// The state that the commands below expect.
const ACTIVE: &str = "an active deployment";

/// Decides PAUSE (rule 4.13).
pub(super) fn pause(draft: &mut Draft, op: &Operate) -> Result<(), Rejection> {
    let d = check_deployment_id(draft, &op.id)?;
    if !d.status.is_active() {
        return Err(bad_state(&d, ACTIVE));
    }
    if d.status != Status::Paused {
        let by = draft.by(&op.reason);
        draft.emit(d.target_version, EventBody::DeploymentPaused { by: by.name, reason: by.reason });
    }
    Ok(())
}

/// Decides RESUME (rule 4.13).
pub(super) fn resume(draft: &mut Draft, op: &Operate) -> Result<(), Rejection> {
    let d = check_deployment_id(draft, &op.id)?;
    if !d.status.is_active() {
        return Err(bad_state(&d, ACTIVE));
    }
    if d.status == Status::Paused {
        let by = draft.by(&op.reason);
        let status = d.paused_from.unwrap_or(Status::Running);
        let progress = d.progress.resume(draft.now());
        let body = EventBody::DeploymentResumed { status, progress, by: by.name, reason: by.reason };
        draft.emit(d.target_version, body);
    }
    Ok(())
}

/// Decides FAIL.
pub(super) fn fail(draft: &mut Draft, op: &Operate) -> Result<(), Rejection> {
    let d = check_deployment_id(draft, &op.id)?;
    if !d.status.is_active() {
        return Err(bad_state(&d, ACTIVE));
    }
    let by = draft.by(&op.reason);
    draft.fail(Cause::Operator, &describe("failed", &by), by);
    Ok(())
}

/// Returns, for example, `failed by ops: too slow`.
fn describe(what: &str, by: &Actor) -> String {
    match &by.reason {
        Some(reason) => format!("{what} by {}: {reason}", by.name),
        None => format!("{what} by {}", by.name),
    }
}

/// Decides STOP: ends an active deployment, and issues a `stop` task for every instance, after a drain where it may
/// hold sessions (rule 10.10), and at once with NOW. Repeating it changes nothing.
pub(super) fn stop(draft: &mut Draft, op: &Operate, now: bool) -> Result<(), Rejection> {
    let d = check_deployment_id(draft, &op.id)?;
    let by = draft.by(&op.reason);
    if d.status.is_active() {
        let body = EventBody::DeploymentCancelled {
            cause: Cause::Stopped,
            description: Arc::from(describe("stopped", &by)),
            by: by.name.clone(),
            reason: by.reason.clone(),
        };
        draft.emit(d.target_version, body);
    }
    let all: Vec<_> = draft.record.instances.iter().map(|i| (i.key(), i.role)).collect();
    for (key, role) in all {
        match now {
            true => {
                draft.end_drain(&key, true, by.clone());
                draft.stop(&key, role, by.clone());
            }
            false => draft.request_stop(&key, role, by.clone()),
        }
    }
    Ok(())
}

/// Decides DRAIN: the drains of a version end earlier, or later (rule 10.11).
pub(super) fn drain(draft: &mut Draft, drain: &EndDrains) -> Result<(), Rejection> {
    check_deployment_id(draft, &drain.id)?;
    let by = draft.by(&drain.reason);
    match draft.end_drains_of(drain.version, drain.ms, &by) {
        true => Ok(()),
        false => Err(Rejection::NothingDrains { version: drain.version }),
    }
}

/// Decides TAG.
pub(super) fn tag(draft: &mut Draft, number: u64, tag: &Arc<str>) -> Result<(), Rejection> {
    set_tag(draft, number, tag)
}

/// Decides UNTAG.
pub(super) fn untag(draft: &mut Draft, tag: &Arc<str>) -> Result<(), Rejection> {
    let number = draft.record.version_of_tag(tag).ok_or_else(|| Rejection::NoSuchTag(tag.to_string()))?.number;
    let by = draft.by(&None).name;
    draft.emit(number, EventBody::VersionUntagged { tag: tag.clone(), by });
    Ok(())
}
