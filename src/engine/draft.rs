//! A decision in progress: the record as it would be, and the changes that lead there. It is the unit of work that
//! every command shares. The rules that act on it are in files of their own, each using those before it:
//! `health_rules` ← `tasks` ← `drains` ← `planner` ← `rollout` ← `decide`.

use super::command::Context;
use super::deployment::{Deployment, Mode, Receipt};
use super::event::{Change, Event, EventBody, InstanceRef, SilentChange};
use super::evolve::evolve;
use super::instance::Instance;
use super::instances::HealthCounts;
use super::record::Record;
use super::time::UnixMs;
use super::transaction::Transaction;
use std::sync::Arc;

/// The actor of events that a rule causes (rule 5).
pub const AUTO: &str = "auto";

/// The name and the reason of whoever causes an event.
#[derive(Debug, Clone)]
pub(super) struct Actor {
    pub name: Arc<str>,
    pub reason: Option<Arc<str>>,
}

impl Actor {
    pub fn auto() -> Actor {
        Actor { name: Arc::from(AUTO), reason: None }
    }
}

/// A record with uncommitted changes. Dropped, it restores the record.
pub(super) struct Draft<'r, 'c> {
    pub record: Transaction<'r>,
    pub changes: Vec<Change>,
    pub context: &'c Context<'c>,
}

/// Returns the reference to an instance that events carry.
pub(super) fn instance_ref(instance: &Instance) -> InstanceRef {
    InstanceRef {
        agent: instance.agent.clone(),
        node: instance.node.clone(),
        job_id: instance.job_id.clone(),
        role: instance.role,
    }
}

impl<'r, 'c> Draft<'r, 'c> {
    /// Begins a decision on a record.
    pub fn on(record: &'r mut Record, context: &'c Context<'c>) -> Draft<'r, 'c> {
        Draft { record: Transaction::begin(record), changes: Vec::new(), context }
    }

    /// The time of the decision, unix time in ms.
    pub fn now(&self) -> UnixMs {
        self.context.now_ms
    }

    /// Returns the caller as an actor.
    pub fn by(&self, reason: &Option<Arc<str>>) -> Actor {
        Actor { name: Arc::from(self.context.by), reason: reason.clone() }
    }

    /// Emits an event: applies it to the record and appends it to the change set.
    pub fn emit(&mut self, version: u64, body: EventBody) {
        let id = self.record.deployment.as_ref().map(|d| d.id.clone()).unwrap_or_else(|| Arc::from(""));
        self.emit_for(id, version, body);
    }

    /// Emits an event of a deployment that is about to start.
    pub fn emit_for(&mut self, deployment_id: Arc<str>, version: u64, body: EventBody) {
        let event = Event { revision: self.record.revision + 1, at: self.now(), deployment_id, version, body };
        let change = Change::Event(Arc::new(event));
        evolve(&mut self.record, &change);
        self.changes.push(change);
    }

    /// Emits a silent change: applies it to the record and appends it to the change set.
    pub fn emit_silent(&mut self, change: SilentChange) {
        let change = Change::Silent(change);
        evolve(&mut self.record, &change);
        self.changes.push(change);
    }

    /// Returns the current deployment. Every command but the first DEPLOY is decided on a record that has one.
    pub fn deployment(&self) -> Option<&Deployment> {
        self.record.deployment.as_deref()
    }

    /// Returns the version of the current deployment.
    pub fn target(&self) -> u64 {
        self.deployment().map_or(0, |d| d.target_version)
    }

    /// Returns the receipt of a changing command (rule 3).
    pub fn receipt(&self, mode: Option<Mode>) -> Option<Receipt> {
        let d = self.deployment()?;
        Some(Receipt {
            deployment_key: Arc::from(self.context.key),
            deployment_id: d.id.clone(),
            version: d.target_version,
            job_id: d.target_job_id.clone(),
            status: d.status,
            mode: mode.unwrap_or(d.mode),
            revision: self.record.revision,
            warnings: None,
        })
    }

    /// Counts the deployment's own instances by health.
    pub fn own_counts(&self) -> HealthCounts {
        self.deployment().map(|d| self.record.instances.counts(d.target_version, &d.target_job_id)).unwrap_or_default()
    }

    /// Returns the id of the next deployment.
    pub fn context_id(&self) -> Arc<str> {
        deployment_id(self.context.key, self.record.last_version + 1)
    }
}

/// The number of characters of a key that its deployment ids carry. An id names one deployment of one key, so the rest
/// of a longer key is not missed; and ids stay short enough to be given back, stored and published, whatever the key.
const MAX_ID_KEY_CHARS: usize = 4_000;

/// Returns `dep_<key>_<n>` (rule 1); characters of the key outside `A-Za-z0-9_.-` become `-`.
pub(super) fn deployment_id(key: &str, n: u64) -> Arc<str> {
    let is_kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let key: String = key.chars().take(MAX_ID_KEY_CHARS).map(|c| if is_kept(c) { c } else { '-' }).collect();
    Arc::from(format!("dep_{key}_{n}"))
}
