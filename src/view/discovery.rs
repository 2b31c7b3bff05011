//! Service instances, for whoever calls the agents (SPEC 3 RESOLVE).

use super::View;
use crate::engine::command::CheckStatus;
use crate::engine::deployment::{Record, Role};
use crate::engine::services::Service;
use std::sync::Arc;

/// Whose services are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleFilter {
    Is(Role),
    /// All roles; `retired` only together with ALL (SPEC 8 "Tasks").
    Any,
}

impl Default for RoleFilter {
    fn default() -> RoleFilter {
        RoleFilter::Is(Role::Primary)
    }
}

impl RoleFilter {
    /// `primary`, `canary`, `candidate` or `any`, in any case.
    pub fn parse(text: &str) -> Option<RoleFilter> {
        if text.eq_ignore_ascii_case("any") {
            return Some(RoleFilter::Any);
        }
        [Role::Primary, Role::Canary, Role::Candidate]
            .into_iter()
            .find(|role| role.name().eq_ignore_ascii_case(text))
            .map(RoleFilter::Is)
    }
}

/// What RESOLVE asks for. By default what a caller may use: `primary` and `passing`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolveFilter {
    pub service: Option<Arc<str>>,
    pub tag: Option<Arc<str>>,
    pub role: RoleFilter,
    /// Every status, not only `passing`.
    pub all: bool,
}

impl ResolveFilter {
    fn admits(&self, record: &Record, service: &Service) -> bool {
        (self.all || service.status == CheckStatus::Passing)
            && self.service.as_ref().is_none_or(|name| service.service == *name)
            && self.tag.as_ref().is_none_or(|tag| service.tags.contains(tag))
            && self.admits_role(record.role_of(&service.owner))
    }

    fn admits_role(&self, role: Option<Role>) -> bool {
        match (self.role, role) {
            (_, None) => false,
            (RoleFilter::Is(wanted), Some(role)) => role == wanted,
            (RoleFilter::Any, Some(role)) => role != Role::Retired || self.all,
        }
    }
}

/// The service instances that `filter` admits, by their id.
pub fn resolve<'a>(record: &'a Record, key: &'a str, filter: &ResolveFilter) -> View<'a> {
    View::list(record.services.iter().filter(|s| filter.admits(record, s)).map(|s| entry(record, key, s)))
}

/// How many service instances `filter` admits; beyond `most` nobody counts on.
pub fn count_resolved(record: &Record, filter: &ResolveFilter, most: usize) -> usize {
    record.services.iter().filter(|s| filter.admits(record, s)).take(most).count()
}

/// All service instances, whatever their role and status.
pub(super) fn services<'a>(record: &'a Record, key: &'a str) -> View<'a> {
    View::list(record.services.iter().map(|service| entry(record, key, service)))
}

fn entry<'a>(record: &'a Record, key: &'a str, service: &'a Service) -> View<'a> {
    let deployment_id = record.version(service.owner.version).map(|version| &version.deployment_id);
    View::map([
        ("service", (&service.service).into()),
        ("instance", (&service.instance).into()),
        ("agent", (&service.owner.agent).into()),
        ("address", (&service.address).into()),
        ("port", service.port.into()),
        ("status", service.status.name().into()),
        ("tags", View::list(service.tags.iter())),
        ("meta", View::raw(service.meta.as_deref())),
        ("ttl_ms", service.ttl_ms.into()),
        ("since", service.since.into()),
        ("deployment_key", key.into()),
        ("deployment_id", deployment_id.into()),
        ("deployment_version", service.owner.version.into()),
        ("deployment_role", record.role_of(&service.owner).map(Role::name).into()),
        ("job_id", (&service.owner.job_id).into()),
        ("reason", (&service.reason).into()),
        ("expires_at", service.expires_at.into()),
    ])
}
