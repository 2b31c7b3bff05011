//! What a decoded value is asked before it is believed, whatever its format: all that a user's input would have been
//! asked, and all that the engine's indexes and arithmetic rest on. The rest is the engine's: [`invariants::check`].
//!
//! It must never ask more than the engine grants: a record that was written and is then refused is lost. The same goes
//! for [`Manifest::parse`], which may be tightened for commands only if what is stored goes on passing.

use super::DecodeError;
use crate::engine::deployment::{Mode, MAX_REQUEST_IDS};
use crate::engine::event::{Event, NewDeployment};
use crate::engine::invariants;
use crate::engine::manifest::{agents_violations, ManifestText, MAX_ID_BYTES};
use crate::engine::policy::Policy;
use crate::engine::record::Record;
use crate::engine::time::MAX_DURATION_MS;
use crate::engine::version::Version;
use crate::engine::{Change, ChangeSet};
use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::BTreeSet;
use std::sync::Arc;

type Judged = Result<(), DecodeError>;

fn must(holds: bool, otherwise: &str) -> Judged {
    if holds {
        Ok(())
    } else {
        Err(DecodeError::Invalid(otherwise.to_string()))
    }
}

/// Strictly ascending: in order, and none twice.
fn ascends<T: PartialOrd>(items: impl IntoIterator<Item = T>) -> bool {
    items.into_iter().is_sorted_by(|a, b| a < b)
}

fn all_differ<T: Ord>(items: impl Iterator<Item = T>) -> bool {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    ascends(&items)
}

/// All of a record.
pub(super) fn validate_record(record: &Record) -> Judged {
    validate_parts(record, |_| true)?;
    validate_log(record)
}

/// All but what is only read out: the log, and manifests that nobody runs.
pub(super) fn validate_trusted(record: &Record) -> Judged {
    validate_parts(record, |is_run| is_run)
}

/// `reads` says whether a manifest is judged, by whether agents run its version. It is parsed for that, so once.
fn validate_parts(record: &Record, reads: impl Fn(bool) -> bool) -> Judged {
    validate_history(record, reads)?;
    validate_deployment(record)?;
    validate_instances(record)?;
    must(record.requests.len() <= MAX_REQUEST_IDS, "it remembers too many requests")?;
    invariants::check(record).map_err(DecodeError::Invalid)
}

pub(super) fn validate_change_set(batch: &ChangeSet) -> Judged {
    let events = || {
        batch.changes.iter().filter_map(|change| match change {
            Change::Event(event) => Some(event),
            Change::Silent(_) => None,
        })
    };
    must(ascends(events().map(|event| event.revision)), "its events are not in order")?;
    let mut manifests = Manifests::default();
    for beginning in events().filter_map(|event| event.body.new_deployment()) {
        validate_beginning(beginning)?;
        manifests.judge(&beginning.version, true)?;
    }
    Ok(())
}

fn validate_history(record: &Record, reads: impl Fn(bool) -> bool) -> Judged {
    let versions = &record.versions;
    must(ascends(versions.iter().map(|version| version.number)), "its versions are not in order")?;
    let newest = versions.last().map_or(0, |version| version.number);
    must(newest <= record.last_version, "a version is newer than the newest")?;
    must(all_differ(versions.iter().filter_map(|version| version.tag.as_ref())), "two versions have the same tag")?;
    let is_kept = |number| record.version(number).is_some();
    must(record.current_version.is_none_or(is_kept), "its current version is missing")?;
    let mut manifests = Manifests::default();
    let run: BTreeSet<u64> = record.instances.iter().map(|instance| instance.version).collect();
    for version in versions.iter() {
        validate_version(version)?;
        let is_run = run.contains(&version.number);
        if reads(is_run) {
            manifests.judge(version, is_run)?;
        }
    }
    Ok(())
}

fn validate_version(version: &Version) -> Judged {
    must(version.number > 0, "a version has the number 0")?;
    validate_policy(&version.policy)
}

fn validate_policy(policy: &Policy) -> Judged {
    let longest = policy.min_healthy_ms.max(policy.healthy_deadline_ms).max(policy.progress_deadline_ms);
    must(longest <= MAX_DURATION_MS, "a policy names too long a duration")?;
    match policy.conflicts().first() {
        None => Ok(()),
        Some(conflict) => Err(DecodeError::Invalid(conflict.clone())),
    }
}

/// Manifests that were found in order, by where they lie in memory, with their nodes: versions share them.
#[derive(Default)]
struct Manifests {
    node_ids: BTreeMap<*const ManifestText, Vec<Arc<str>>>,
}

impl Manifests {
    /// Judges a version's manifest, and its agents by it. `is_run`: agents run it, so its outline is asked for.
    fn judge(&mut self, version: &Version, is_run: bool) -> Judged {
        let node_ids = match self.node_ids.entry(Arc::as_ptr(&version.content)) {
            Entry::Occupied(judged) => judged.into_mut(),
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

fn validate_deployment(record: &Record) -> Judged {
    let Some(deployment) = &record.deployment else {
        return Err(DecodeError::Invalid("it has no deployment".to_string()));
    };
    must(record.version(deployment.target_version).is_some(), "its target version is missing")?;
    must(deployment.mode != Mode::Unchanged, "its deployment has a mode that only replies have")?;
    validate_policy(&deployment.policy)
}

fn validate_instances(record: &Record) -> Judged {
    let instances = || record.instances.iter();
    must(all_differ(instances().map(|instance| instance.created)), "two instances came at once")?;
    let tasks = || instances().filter_map(|instance| instance.task.as_ref());
    must(all_differ(tasks().map(|task| task.revision)), "two tasks were issued at once")?;
    must(tasks().all(|task| task.revision <= record.revision), "a task is newer than the record")?;
    for instance in instances() {
        must(instance.created <= record.revision, "an instance is newer than the record")?;
        must((1..=record.last_version).contains(&instance.version), "an instance is of no version")?;
        must(!instance.agent.is_empty(), "an instance is of no agent")?;
        must(instance.agent.len().max(instance.node.len()) <= MAX_ID_BYTES, "an agent's id is too long")?;
    }
    Ok(())
}

fn validate_log(record: &Record) -> Judged {
    let log: Vec<Arc<Event>> = record.log.iter().collect();
    must(log.len() == record.log.len(), "its log cannot be read")?;
    for beginning in log.iter().filter_map(|event| event.body.new_deployment()) {
        validate_beginning(beginning)?;
        must(beginning.version.content.text().is_empty(), "its log has a manifest")?;
    }
    Ok(())
}

fn validate_beginning(beginning: &NewDeployment) -> Judged {
    must(beginning.mode != Mode::Unchanged, "a deployment began in a mode that only replies have")?;
    validate_version(&beginning.version)
}
