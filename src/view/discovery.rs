//! Service instances, for callers of the agents (rule 3 RESOLVE).

use super::value::{int, RawJson};
use crate::engine::instance::{Instance, Role};
use crate::engine::record::Record;
use crate::engine::rejection::Rejection;
use crate::engine::services::{CheckStatus, Service};
use crate::engine::sessions::weight;
use serde::{Serialize, Serializer};
use std::sync::Arc;

/// The role of the instances whose services are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleFilter {
    Is(Role),
    /// All roles; `retired` only together with ALL (rule 8 "Tasks").
    Any,
}

impl Default for RoleFilter {
    fn default() -> RoleFilter {
        RoleFilter::Is(Role::Primary)
    }
}

impl RoleFilter {
    /// Every role but `retired`, or `any`, in any case.
    pub fn parse(text: &str) -> Option<RoleFilter> {
        if text.eq_ignore_ascii_case("any") {
            return Some(RoleFilter::Any);
        }
        Role::parse(text).filter(|role| *role != Role::Retired).map(RoleFilter::Is)
    }
}

/// The options of RESOLVE. The default admits what a caller may use: `primary` and `passing`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolveFilter {
    /// The session to place: at most one entry.
    pub session: Option<Arc<[u8]>>,
    /// The version at which a session began: the instances that count for it, in any role but `retired` (rule 11.5).
    pub version: Option<u64>,
    pub service: Option<Arc<str>>,
    pub tag: Option<Arc<str>>,
    pub role: RoleFilter,
    /// Every status, not only `passing`.
    pub all: bool,
}

impl ResolveFilter {
    /// Returns whether the filter admits a service instance, as far as it tells by itself.
    fn admits(&self, service: &Service) -> bool {
        (self.all || service.status == CheckStatus::Passing)
            && self.service.as_ref().is_none_or(|name| service.service == *name)
            && self.tag.as_ref().is_none_or(|tag| service.tags.contains(tag))
    }

    /// Returns the instance that a service instance belongs to, None where the filter does not admit it.
    fn owner<'r>(&self, record: &'r Record, service: &Service) -> Option<&'r Instance> {
        record.instances.get(&service.owner).filter(|owner| match (self.version, self.role) {
            // From the end of its drain on, nobody is sent to it (rule 10.4).
            _ if owner.role == Role::Draining && !owner.has_open_drain() => false,
            (Some(version), _) => owner.role != Role::Retired && owner.counts_for(version),
            (None, RoleFilter::Is(wanted)) => owner.role == wanted,
            (None, RoleFilter::Any) => owner.role != Role::Retired || self.all,
        })
    }
}

/// The reply of RESOLVE: the service instances that a filter admits, by their id. Each entry is made while it is
/// written.
#[derive(Debug, Clone)]
pub struct Resolved<'a> {
    record: &'a Record,
    key: &'a str,
    services: Vec<(&'a Service, &'a Instance)>,
}

impl<'a> Resolved<'a> {
    /// Returns the entries.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = ServiceView<'a>> + use<'a, '_> {
        self.services.iter().map(|(service, owner)| ServiceView::of(self.record, self.key, service, Some(owner)))
    }
}

impl Serialize for Resolved<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.entries())
    }
}

/// Returns the service instances that `filter` admits; for a session the one to which it goes.
pub fn resolve<'a>(record: &'a Record, key: &'a str, filter: &ResolveFilter) -> Resolved<'a> {
    let services = match &filter.session {
        Some(session) => place(record, filter, session).into_iter().collect(),
        None => admitted(record, filter).collect(),
    };
    Resolved { record, key, services }
}

/// Returns the service instance to which a session goes: that of the agent with the highest weight, and of those the
/// one with the highest weight (rule 11.3). Of a thousand service instances, some seven weigh more than all before
/// them: only for those is the owner looked up.
fn place<'a>(record: &'a Record, filter: &ResolveFilter, session: &[u8]) -> Option<(&'a Service, &'a Instance)> {
    let (mut chosen, mut highest) = (None, (0, 0));
    for service in matching(record, filter) {
        let of_agent = weight(&service.owner.agent, session);
        if of_agent < highest.0 {
            continue;
        }
        let weights = (of_agent, weight(&service.instance, session));
        if weights < highest {
            continue;
        }
        if let Some(owner) = filter.owner(record, service) {
            (chosen, highest) = (Some((service, owner)), weights);
        }
    }
    chosen
}

/// Counts the entries that `filter` leads to, up to `most`.
///
/// # Errors
/// `NOTFOUND` for a version that was never recorded.
pub fn count_resolved(record: &Record, filter: &ResolveFilter, most: usize) -> Result<usize, Rejection> {
    match filter {
        ResolveFilter { version: Some(version), .. } if *version > record.last_version => {
            Err(Rejection::NoSuchVersion(*version))
        }
        ResolveFilter { session: Some(_), .. } => Ok(1),
        _ => Ok(admitted(record, filter).take(most).count()),
    }
}

/// Returns the service instances that the filter admits, each with its owner.
fn admitted<'a, 'f>(
    record: &'a Record,
    filter: &'f ResolveFilter,
) -> impl Iterator<Item = (&'a Service, &'a Instance)> + use<'a, 'f> {
    matching(record, filter).filter_map(|service| Some((service, filter.owner(record, service)?)))
}

/// Returns the service instances that the filter admits unless their owners are not admitted.
fn matching<'a, 'f>(record: &'a Record, filter: &'f ResolveFilter) -> impl Iterator<Item = &'a Service> + use<'a, 'f> {
    // What ran a version is forgotten with it.
    let is_kept = filter.version.is_none_or(|version| record.version(version).is_some());
    let services = is_kept.then(|| record.services.iter()).into_iter().flatten();
    services.map(|service| &**service).filter(|service| filter.admits(service))
}

/// Returns all service instances of the record, whatever their role and status.
pub(super) fn services<'a>(record: &'a Record, key: &'a str) -> Vec<ServiceView<'a>> {
    record
        .services
        .iter()
        .map(|service| ServiceView::of(record, key, service, record.instances.get(&service.owner)))
        .collect()
}

/// One service instance as callers see it (rule 7 RESOLVE).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceView<'a> {
    /// The service's name.
    pub service: &'a str,
    /// The id of the service instance.
    pub instance: &'a str,
    pub agent: &'a str,
    pub address: &'a str,
    pub port: i64,
    /// `passing`, `warning` or `critical`.
    pub status: &'static str,
    pub tags: &'a [Arc<str>],
    /// The JSON text of META.
    pub meta: Option<RawJson<'a>>,
    pub ttl_ms: Option<i64>,
    /// The time since which it has its status.
    pub since: i64,
    pub deployment_key: &'a str,
    pub deployment_id: Option<&'a str>,
    /// The version of the agent instance that it belongs to.
    pub deployment_version: i64,
    /// The role of that instance, null once it has left the record.
    pub deployment_role: Option<&'static str>,
    pub job_id: &'a str,
    pub reason: Option<&'a str>,
    /// The time at which it becomes critical unless refreshed.
    pub expires_at: Option<i64>,
    /// The number of sessions that its agent's instance says it holds; null until it says one.
    pub sessions: Option<i64>,
    /// The time at which the drain of its agent's instance ends at the latest; null where none is open, or it is held.
    pub drain_at: Option<i64>,
}

impl<'a> ServiceView<'a> {
    fn of(record: &'a Record, key: &'a str, service: &'a Service, owner: Option<&Instance>) -> ServiceView<'a> {
        ServiceView {
            service: &service.service,
            instance: &service.instance,
            agent: &service.owner.agent,
            address: &service.address,
            port: int(service.port),
            status: service.status.name(),
            tags: &service.tags,
            meta: service.meta.as_deref().map(RawJson),
            ttl_ms: service.ttl_ms.map(int),
            since: int(service.since),
            deployment_key: key,
            deployment_id: record.version(service.owner.version).map(|version| &*version.deployment_id),
            deployment_version: int(service.owner.version),
            deployment_role: owner.map(|owner| owner.role.name()),
            job_id: &service.owner.job_id,
            reason: service.reason.as_deref(),
            expires_at: service.expires_at.map(int),
            sessions: owner.and_then(|owner| owner.sessions).map(int),
            drain_at: owner.and_then(Instance::drain_at).map(int),
        }
    }
}
