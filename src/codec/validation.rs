//! Validation of decoded values, whatever their format: the checks that a user's input would have passed, and the
//! assumptions of the engine's indexes and arithmetic. The engine adds its own: [`invariants::check`].
//!
//! No check may refuse what the engine makes: a record that was saved and is then refused is lost. [`Manifest::parse`]
//! may therefore be tightened for commands only if stored manifests go on passing.
//!
//! [`Manifest::parse`]: crate::engine::manifest::Manifest::parse

use super::error::DecodeError;
use crate::engine::deployment::{Mode, MAX_REQUEST_IDS};
use crate::engine::event::{Event, EventBody, NewDeployment};
use crate::engine::invariants;
use crate::engine::manifest::{agents_violations, ManifestText, MAX_ID_BYTES};
use crate::engine::policy::Policy;
use crate::engine::record::Record;
use crate::engine::services::Service;
use crate::engine::version::Version;
use crate::engine::{Change, ChangeSet};
use serde::de::IgnoredAny;
use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::BTreeSet;
use std::sync::Arc;

type Validated = Result<(), DecodeError>;

fn require(holds: bool, otherwise: &str) -> Validated {
    if holds {
        Ok(())
    } else {
        Err(DecodeError::Invalid(otherwise.to_string()))
    }
}

/// Returns whether the items are strictly ascending: in order, and none twice.
fn ascends<T: PartialOrd>(items: impl IntoIterator<Item = T>) -> bool {
    items.into_iter().is_sorted_by(|a, b| a < b)
}

fn all_differ<T: Ord>(items: impl Iterator<Item = T>) -> bool {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    ascends(&items)
}

/// Validates all of a record.
pub(super) fn validate_record(record: &Record) -> Validated {
    validate_parts(record, |_| true)?;
    validate_log(record)
}

/// Validates a record less its log, and less the manifests of versions that no instance runs: both are only read out.
pub(super) fn validate_trusted(record: &Record) -> Validated {
    validate_parts(record, |is_run| is_run)
}

/// `validates` decides about the manifest of a version, by whether instances run it.
fn validate_parts(record: &Record, validates: impl Fn(bool) -> bool) -> Validated {
    validate_history(record, validates)?;
    validate_deployment(record)?;
    validate_instances(record)?;
    record.services.iter().try_for_each(|service| validate_service(service))?;
    require(record.requests.len() <= MAX_REQUEST_IDS, "it remembers too many requests")?;
    invariants::check(record).map_err(DecodeError::Invalid)
}

pub(super) fn validate_change_set(change_set: &ChangeSet) -> Validated {
    let events = || {
        change_set.changes.iter().filter_map(|change| match change {
            Change::Event(event) => Some(event),
            Change::Silent(_) => None,
        })
    };
    require(ascends(events().map(|event| event.revision)), "its events are not in order")?;
    let mut manifests = Manifests::default();
    events().try_for_each(|event| validate_event(event))?;
    for new in events().filter_map(|event| event.body.new_deployment()) {
        manifests.validate(&new.version, true)?;
    }
    Ok(())
}

fn validate_history(record: &Record, validates: impl Fn(bool) -> bool) -> Validated {
    let versions = &record.versions;
    require(ascends(versions.iter().map(|version| version.number)), "its versions are not in order")?;
    let newest = versions.last().map_or(0, |version| version.number);
    require(newest <= record.last_version, "a version is newer than the newest")?;
    require(all_differ(versions.iter().filter_map(|version| version.tag.as_ref())), "two versions have the same tag")?;
    let is_kept = |number| record.version(number).is_some();
    require(record.current_version.is_none_or(is_kept), "its current version is missing")?;
    let mut manifests = Manifests::default();
    let run: BTreeSet<u64> = record.instances.iter().map(|instance| instance.version).collect();
    for version in versions.iter() {
        validate_version(version)?;
        let is_run = run.contains(&version.number);
        if validates(is_run) {
            manifests.validate(version, is_run)?;
        }
    }
    Ok(())
}

fn validate_version(version: &Version) -> Validated {
    require(version.number > 0, "a version has the number 0")?;
    validate_policy(&version.policy)
}

fn validate_policy(policy: &Policy) -> Validated {
    match policy.violations().into_iter().next() {
        None => Ok(()),
        Some(violation) => Err(DecodeError::Invalid(violation)),
    }
}

/// Node ids of valid manifests, by address: versions share manifests, and each is parsed once.
#[derive(Default)]
struct Manifests {
    node_ids: BTreeMap<*const ManifestText, Vec<Arc<str>>>,
}

impl Manifests {
    /// Validates a version's manifest, and its agents by it. `is_run` caches the outline, which the engine will ask
    /// for.
    fn validate(&mut self, version: &Version, is_run: bool) -> Validated {
        let node_ids = match self.node_ids.entry(Arc::as_ptr(&version.content)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let first = |faults: Vec<String>| DecodeError::Invalid(faults.into_iter().next().unwrap_or_default());
                new.insert(version.content.parse_and_cache(is_run).map_err(first)?)
            }
        };
        match version.agents.as_ref().and_then(|agents| agents_violations(node_ids, agents).into_iter().next()) {
            None => Ok(()),
            Some(fault) => Err(DecodeError::Invalid(fault)),
        }
    }
}

fn validate_deployment(record: &Record) -> Validated {
    let Some(deployment) = &record.deployment else {
        return Err(DecodeError::Invalid("it has no deployment".to_string()));
    };
    require(record.version(deployment.target_version).is_some(), "its target version is missing")?;
    require(deployment.mode != Mode::Unchanged, "its deployment has a mode that only replies have")?;
    validate_policy(&deployment.policy)
}

fn validate_instances(record: &Record) -> Validated {
    let instances = || record.instances.iter();
    require(all_differ(instances().map(|instance| instance.created)), "two instances came at once")?;
    let tasks = || instances().filter_map(|instance| instance.task.as_ref());
    require(all_differ(tasks().map(|task| task.revision)), "two tasks were issued at once")?;
    require(tasks().all(|task| task.revision <= record.revision), "a task is newer than the record")?;
    for instance in instances() {
        require(instance.created <= record.revision, "an instance is newer than the record")?;
        require((1..=record.last_version).contains(&instance.version), "an instance is of no version")?;
        require(!instance.agent.is_empty(), "an instance is of no agent")?;
        require(instance.agent.len().max(instance.node.len()) <= MAX_ID_BYTES, "an agent's id is too long")?;
    }
    Ok(())
}

/// A service instance's META becomes a part of JSON replies.
fn validate_service(service: &Service) -> Validated {
    let is_json = |meta: &Arc<str>| serde_json::from_str::<IgnoredAny>(meta).is_ok();
    require(service.meta.as_ref().is_none_or(is_json), "the meta of a service instance is no JSON")
}

fn validate_event(event: &Event) -> Validated {
    match &event.body {
        EventBody::ServiceRegistered { service, .. } => validate_service(service),
        body => body.new_deployment().map_or(Ok(()), validate_new_deployment),
    }
}

fn validate_log(record: &Record) -> Validated {
    let log: Vec<Arc<Event>> = record.log.iter().collect();
    require(log.len() == record.log.len(), "its log cannot be read")?;
    log.iter().try_for_each(|event| validate_event(event))?;
    for new in log.iter().filter_map(|event| event.body.new_deployment()) {
        require(new.version.content.text().is_empty(), "its log has a manifest")?;
    }
    Ok(())
}

fn validate_new_deployment(new: &NewDeployment) -> Validated {
    require(new.mode != Mode::Unchanged, "a deployment began in a mode that only replies have")?;
    validate_version(&new.version)
}
