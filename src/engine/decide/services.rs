//! REGISTER, CHECK, DEREGISTER: service instances.

use super::reports::{find_instance, sessions_reported};
use crate::engine::command::{Check, Register};
use crate::engine::draft::Draft;
use crate::engine::event::{EventBody, SilentChange};
use crate::engine::instance::{Instance, InstanceKey};
use crate::engine::json::Json;
use crate::engine::rejection::Rejection;
use crate::engine::services::{CheckStatus, Service};
use std::sync::Arc;

/// The maximum number of service instances of a key, for each agent that `deploy.agents-max` allows.
pub const SERVICES_PER_AGENT: usize = 10;

/// The maximum nesting of a service instance's meta.
pub const MAX_META_DEPTH: usize = 32;

/// Decides REGISTER (rule 3, rule 8 "Services").
pub(super) fn register(draft: &mut Draft, register: &Register) -> Result<bool, Rejection> {
    let known = draft.record.services.get(&register.instance).cloned();
    // A refresh that names neither version nor job keeps its owner: the agent's newest instance may be one that nobody
    // has taken up yet, and the services of the old one stay until then (rule 8 "What an agent now runs").
    let stays = known
        .as_ref()
        .filter(|s| s.owner.agent == register.agent && register.version.is_none() && register.job.is_none());
    let owner = match stays {
        Some(service) => service.owner.clone(),
        None => match find_instance(&draft.record, &register.agent, register.version, &register.job)? {
            Some(owner) => owner.key(),
            None => return Ok(false),
        },
    };
    check_id_is_free(draft, known.as_deref(), &owner)?;
    if let Some(meta) = &register.meta {
        if Json::parse(meta, MAX_META_DEPTH).is_err() {
            let violation = format!("META must be a JSON value of at most {MAX_META_DEPTH} levels");
            return Err(Rejection::Invalid(vec![violation]));
        }
    }
    let max = draft.context.limits.agents_max.saturating_mul(SERVICES_PER_AGENT);
    if known.is_none() && draft.record.services.len() >= max {
        return Err(Rejection::Limit { what: "the number of service instances".to_string(), max: max as u64 });
    }
    let now = draft.now();
    let since = known.as_ref().filter(|s| s.status == register.status && s.owner == owner).map_or(now, |s| s.since);
    let service = Service {
        instance: register.instance.clone(),
        owner: owner.clone(),
        service: register.service.clone(),
        address: register.address.clone(),
        port: register.port,
        tags: register.tags.clone(),
        meta: register.meta.clone(),
        status: register.status,
        reason: register.reason.clone(),
        ttl_ms: register.ttl_ms,
        expires_at: expiry(draft, register.ttl_ms, register.status),
        since,
        // One that is registered before the first report belongs to the first attempt.
        attempt: draft.record.instances.get(&owner).map_or(1, |instance| instance.attempt.max(1)),
    };
    if let Some(known) = known {
        let same_but = |s: &Service| Service {
            status: service.status,
            reason: service.reason.clone(),
            expires_at: service.expires_at,
            since: service.since,
            ..s.clone()
        };
        if same_but(&known) == service {
            return Ok(refresh_service(draft, &known, register.status, register.reason.clone()));
        }
        if known.owner != owner {
            let to = match known.owner.agent == owner.agent {
                true => format!("moved to version {}", owner.version),
                false => format!("moved to agent {}", owner.agent),
            };
            draft.deregister(&register.instance, &to);
            draft.recheck_healthy(&known.owner);
        }
    }
    let healthy_at = draft.healthy_at_with_service(&owner, &register.instance, Some(service.clone()));
    draft.emit(owner.version, EventBody::ServiceRegistered { service: Box::new(service), healthy_at });
    draft.recheck_healthy(&owner);
    Ok(true)
}

/// Checks that no running instance of another agent or another job holds the id: it would lose its address (rule 8
/// "Services").
fn check_id_is_free(draft: &Draft, known: Option<&Service>, owner: &InstanceKey) -> Result<(), Rejection> {
    let Some(known) = known.filter(|s| s.owner.agent != owner.agent || s.owner.job_id != owner.job_id) else {
        return Ok(());
    };
    match draft.record.instances.get(&known.owner).is_some_and(Instance::is_running) {
        true => Err(Rejection::ServiceInstanceTaken {
            instance: known.instance.to_string(),
            agent: known.owner.agent.to_string(),
            job_id: known.owner.job_id.to_string(),
        }),
        false => Ok(()),
    }
}

/// Returns the expiry of a TTL, which runs only while the service is not critical.
fn expiry(draft: &Draft, ttl_ms: Option<u64>, status: CheckStatus) -> Option<u64> {
    ttl_ms.filter(|_| status != CheckStatus::Critical).map(|ttl| draft.now().saturating_add(ttl))
}

/// Decides CHECK (rule 3, rule 8 "Services").
pub(super) fn check(draft: &mut Draft, check: &Check) -> Result<bool, Rejection> {
    let known = draft.record.services.get(&check.instance).cloned();
    let known = known.ok_or_else(|| Rejection::NoSuchService(check.instance.to_string()))?;
    let changed = refresh_service(draft, &known, check.status, check.reason.clone());
    let taken_up = check.sessions.is_some_and(|sessions| sessions_reported(draft, &known.owner, sessions));
    Ok(changed || taken_up)
}

/// Refreshes a known service: another status or reason is an event; the same ones only move the TTL, which is a silent
/// change (rule 8 "Services").
fn refresh_service(draft: &mut Draft, known: &Service, status: CheckStatus, reason: Option<Arc<str>>) -> bool {
    let expires_at = expiry(draft, known.ttl_ms, status);
    let has_another_reason = reason.is_some() && reason != known.reason;
    if known.status != status || has_another_reason {
        draft.service_status(&known.instance, status, reason, expires_at);
        return true;
    }
    if known.expires_at != expires_at {
        draft.emit_silent(SilentChange::ServiceRefreshed { instance: known.instance.clone(), expires_at });
    }
    false
}

/// Decides DEREGISTER.
pub(super) fn deregister(draft: &mut Draft, instance: &Arc<str>) -> bool {
    let Some(known) = draft.record.services.get(instance).cloned() else { return false };
    draft.deregister(instance, "deregistered");
    draft.recheck_healthy(&known.owner);
    true
}
