//! Rules about the health of an instance and its services (rule 4.9): verdicts, deadlines, checks.

use super::deployment::Status;
use super::draft::{instance_ref, Draft};
use super::event::EventBody;
use super::instance::{Health, Instance, InstanceKey, InstanceState};
use super::manifest::BATCH_AGENT;
use super::services::{CheckStatus, Service};
use super::time::{Deadline, UnixMs};
use std::sync::Arc;

impl Draft<'_, '_> {
    // ---- verdicts ---------------------------------------------------------------------------------------------------

    /// Marks an instance healthy, at its healthy time.
    pub fn mark_healthy(&mut self, key: &InstanceKey) {
        let Some(instance) = self.record.instances.get(key) else { return };
        let progress = self.progress_after_first_health(instance);
        let event = EventBody::AgentHealthy { instance: instance_ref(instance), progress };
        self.emit(key.version, event);
    }

    /// Returns the progress deadline after an instance became healthy: extended if that is its first time in the
    /// deployment, and never moved back (rule 4.10).
    fn progress_after_first_health(&self, instance: &Instance) -> Deadline {
        let Some(d) = self.deployment() else { return Deadline::Off };
        if instance.was_healthy || !self.record.is_own(instance) {
            return d.progress;
        }
        d.progress.extend(self.now(), d.policy.progress_deadline_ms)
    }

    /// Marks an instance unhealthy whose healthy deadline has passed.
    pub fn on_healthy_deadline(&mut self, key: &InstanceKey) {
        let Some(instance) = self.record.instances.get(key) else { return };
        let ms = self.record.version(key.version).map_or(0, |v| v.policy.healthy_deadline_ms);
        let why = match self.record.check_health(instance) {
            Ok(()) => "not ready long enough".to_string(),
            Err(_) if instance.state == InstanceState::Starting => match instance.reason.as_deref() {
                None | Some("") => "never ready: starting".to_string(),
                Some(reason) => format!("never ready: starting: {reason}"),
            },
            Err(why) => why,
        };
        self.mark_unhealthy(key, &format!("not healthy within {ms} ms: {why}"));
    }

    /// Marks an instance unhealthy and cancels its pending healthy deadline.
    pub fn mark_unhealthy(&mut self, key: &InstanceKey, reason: &str) {
        let (Some(instance), Some(d)) = (self.record.instances.get(key), self.deployment()) else { return };
        if &*instance.agent == BATCH_AGENT {
            return; // a batch job has an outcome, no health
        }
        let own = self.record.is_own(instance);
        let ms = d.policy.progress_deadline_ms;
        // A canary lost while a promotion is awaited returns the deployment to running (rule 4.4); an instance lost
        // while it bakes stops the bake (rule 12.2).
        let resumes_with = match (d.status, d.paused_from) {
            (Status::AwaitingPromotion, _) if own => Some(Deadline::after(self.now(), ms)),
            (Status::Running, _) if own && d.is_baking && d.bake != Deadline::Off => {
                Some(Deadline::after(self.now(), ms))
            }
            (Status::Paused, paused_from)
                if own
                    && (paused_from == Some(Status::AwaitingPromotion) || (d.is_baking && d.bake != Deadline::Off)) =>
            {
                Some(if ms == 0 { Deadline::Off } else { Deadline::Paused { left_ms: ms } })
            }
            _ => None,
        };
        // Without a progress deadline the first unhealthy instance fails the deployment (rule 4.10). A report `failed`
        // is a cause of its own.
        let fails_at_resume = own && d.status.is_active() && ms == 0 && instance.state != InstanceState::Failed;
        let event = EventBody::AgentUnhealthy {
            instance: instance_ref(instance),
            reason: Arc::from(reason),
            resumes_with,
            fails_at_resume,
        };
        self.emit(key.version, event);
    }

    /// Marks a healthy instance unhealthy if it is no longer ready and passing (rule 4.9).
    pub fn recheck_healthy(&mut self, key: &InstanceKey) {
        let Some(instance) = self.record.instances.get(key) else { return };
        if instance.health != Health::Healthy || instance.is_stopping() {
            return;
        }
        if let Err(why) = self.record.check_health(instance) {
            self.mark_unhealthy(key, &why);
        }
    }

    /// Returns the time at which an instance becomes healthy if it keeps this state and these service instances; None
    /// where it has violations, or is judged already. `restart` restarts the `min_healthy_ms` window.
    pub fn healthy_at_if<'s>(
        &'s self,
        instance: &Instance,
        state: InstanceState,
        services: impl Iterator<Item = &'s Arc<Service>> + Clone + 's,
        restart: bool,
    ) -> Option<UnixMs> {
        let has_verdict = state == InstanceState::Ready && !instance.is_stopping() && &*instance.agent != BATCH_AGENT;
        if !has_verdict || self.record.health_violations(instance, services).next().is_some() {
            return None;
        }
        let min = self.record.version(instance.version).map_or(0, |v| v.policy.min_healthy_ms);
        match instance.healthy_at {
            Some(at) if !restart => Some(at),
            _ if instance.health == Health::Healthy && !restart => None,
            _ => Some(self.now().saturating_add(min)),
        }
    }

    /// Describes some of the deployment's own instances that are not healthy.
    pub fn who_is_not_healthy(&self) -> String {
        const SHOWN: usize = 3;
        let Some(d) = self.deployment() else { return String::new() };
        let mut words = Vec::new();
        let mut more = 0;
        for agent in d.changed.iter() {
            let own = self.record.instances.of_agent(agent).iter().find(|i| self.record.is_own(i));
            match own {
                Some(i) if i.health != Health::Healthy && words.len() < SHOWN => {
                    words.push(format!("{agent} {} ({})", i.health.name(), self.record.why_not_healthy(i)));
                }
                Some(i) if i.health != Health::Healthy => more += 1,
                None if self.awaits_drain(agent) && words.len() < SHOWN => words.push(format!("{agent} drains")),
                None if self.awaits_drain(agent) => more += 1,
                _ => {}
            }
        }
        if more > 0 {
            words.push(format!("{more} more"));
        }
        words.join(", ")
    }

    /// Returns true if an agent is released, and still drains.
    fn awaits_drain(&self, agent: &str) -> bool {
        let target = Some(self.target());
        self.record.instances.of_agent(agent).iter().any(|i| i.awaited_version() == target)
    }

    // ---- services ---------------------------------------------------------------------------------------------------

    /// Marks a service instance critical whose TTL has passed (rule 4.9).
    pub fn expire(&mut self, id: &Arc<str>) {
        self.service_status(id, CheckStatus::Critical, Some(Arc::from("TTL expired")), None);
    }

    /// Returns the time at which an owner becomes healthy with one of its service instances changed, added or (None)
    /// removed.
    pub fn healthy_at_with_service(&self, owner: &InstanceKey, id: &str, new: Option<Service>) -> Option<UnixMs> {
        let instance = self.record.instances.get(owner)?;
        let others = self.record.services.of_owner(owner).filter(|s| &*s.instance != id).cloned();
        let services: Vec<Arc<Service>> = others.chain(new.filter(|s| s.owner == *owner).map(Arc::new)).collect();
        self.healthy_at_if(instance, instance.state, services.iter(), false)
    }

    /// Sets the status of a service instance, with what follows for its owner.
    pub fn service_status(
        &mut self,
        id: &Arc<str>,
        status: CheckStatus,
        reason: Option<Arc<str>>,
        expires_at: Option<UnixMs>,
    ) {
        let Some(service) = self.record.services.get(id).cloned() else { return };
        let mut changed = (*service).clone();
        changed.status = status;
        changed.reason = reason.clone();
        let healthy_at = self.healthy_at_with_service(&service.owner, id, Some(changed));
        self.emit(
            service.owner.version,
            EventBody::ServiceStatus {
                instance: id.clone(),
                service: service.service.clone(),
                agent: service.owner.agent.clone(),
                status,
                reason,
                expires_at,
                healthy_at,
            },
        );
        self.recheck_healthy(&service.owner);
    }

    /// Makes the service instances of an instance critical: what registered them has ended (rule 8 "Services").
    pub fn fail_services(&mut self, owner: &InstanceKey, reason: &str) {
        let affected: Vec<Arc<str>> = self
            .record
            .services
            .of_owner(owner)
            .filter(|s| s.status != CheckStatus::Critical || s.reason.as_deref() != Some(reason))
            .map(|s| s.instance.clone())
            .collect();
        for id in affected {
            self.service_status(&id, CheckStatus::Critical, Some(Arc::from(reason)), None);
        }
    }

    /// Removes the service instances that an earlier attempt registered, and the present one did not (rule 8
    /// "Services").
    pub fn clear_earlier_services(&mut self, owner: &InstanceKey, attempt: u32) {
        let earlier: Vec<Arc<str>> =
            self.record.services.of_owner(owner).filter(|s| s.attempt < attempt).map(|s| s.instance.clone()).collect();
        for id in earlier {
            self.deregister(&id, "agent restarted");
        }
    }

    /// Removes a service instance.
    pub fn deregister(&mut self, id: &Arc<str>, reason: &str) {
        let Some(service) = self.record.services.get(id).cloned() else { return };
        let healthy_at = self.healthy_at_with_service(&service.owner, id, None);
        self.emit(
            service.owner.version,
            EventBody::ServiceDeregistered {
                instance: id.clone(),
                service: service.service.clone(),
                agent: service.owner.agent.clone(),
                reason: Arc::from(reason),
                healthy_at,
            },
        );
    }

    /// Removes all service instances of an instance.
    pub fn clear_services(&mut self, owner: &InstanceKey, reason: &str) {
        let ids: Vec<Arc<str>> = self.record.services.of_owner(owner).map(|s| s.instance.clone()).collect();
        for id in ids {
            self.deregister(&id, reason);
        }
    }
}
