//! Service instances, for whoever calls the agents (rule 3 RESOLVE).

use super::json::{fields, Fields, Json, Judged, ToJson, Word};
use super::View;
use crate::engine::instance::Role;
use crate::engine::record::Record;
use crate::engine::services::{CheckStatus, Service};
use std::borrow::Cow;
use std::sync::Arc;

/// Whose services are resolved.
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
    View::List(admitted(record, filter).map(|service| shown(record, key, service)).collect())
}

/// The same as one JSON text, which is written at once.
pub fn resolve_json(record: &Record, key: &str, filter: &ResolveFilter) -> View<'static> {
    /// Room for a few entries.
    const ROOM: usize = 2048;
    let mut out = String::with_capacity(ROOM);
    Json::append(&mut out, |json| json.list(admitted(record, filter).map(|service| Entry { record, key, service })));
    View::Raw(Cow::Owned(out))
}

/// How many service instances `filter` admits; beyond `most` nobody counts on.
pub fn count_resolved(record: &Record, filter: &ResolveFilter, most: usize) -> usize {
    admitted(record, filter).take(most).count()
}

fn admitted<'a, 'f>(record: &'a Record, filter: &'f ResolveFilter) -> impl Iterator<Item = &'a Service> + use<'a, 'f> {
    record.services.iter().map(|service| &**service).filter(|service| filter.admits(record, service))
}

/// All service instances, whatever their role and status.
pub(super) fn services<'a>(record: &'a Record, key: &'a str) -> View<'a> {
    View::List(record.services.iter().map(|service| shown(record, key, service)).collect())
}

fn shown<'a>(record: &'a Record, key: &'a str, service: &'a Service) -> View<'a> {
    let mut fields = Vec::with_capacity(17);
    Entry { record, key, service }.describe(&mut fields);
    View::Map(fields)
}

/// One service instance as callers see it.
struct Entry<'a> {
    record: &'a Record,
    key: &'a str,
    service: &'a Service,
}

impl ToJson for Entry<'_> {
    fn write(self, json: &mut Json) {
        json.object(|json| self.describe(json));
    }
}

impl<'a> Entry<'a> {
    fn describe(&self, to: &mut impl Fields<'a>) {
        let Entry { record, key, service } = *self;
        let deployment_id = record.version(service.owner.version).map(|version| &version.deployment_id);
        fields!(to,
            "service": &service.service,
            "instance": &service.instance,
            "agent": &service.owner.agent,
            "address": &service.address,
            "port": service.port,
            "status": Word(service.status.name()),
            "tags": &service.tags[..],
            "meta": service.meta.as_deref().map(Judged),
            "ttl_ms": service.ttl_ms,
            "since": service.since,
            "deployment_key": key,
            "deployment_id": deployment_id,
            "deployment_version": service.owner.version,
            "deployment_role": record.role_of(&service.owner).map(|role| Word(role.name())),
            "job_id": &service.owner.job_id,
            "reason": &service.reason,
            "expires_at": service.expires_at,
        );
    }
}
