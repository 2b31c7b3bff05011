//! The unit of work: one command's changes to a record, whole or not at all.
//!
//! Changes are made in place, since a record of ten thousand agents must not be copied for one report. The previous
//! state is kept beside, and restored unless the changes are committed: where a command is rejected, where the server
//! does not take a change, and where a panic interrupts one.

use super::deployment::{Deployment, IdempotencyEntry};
use super::event_log::LogMark;
use super::record::Record;
use super::time::UnixMs;
use super::version::Version;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A record with an open transaction. Dropped without [`Transaction::commit`], it restores the record.
#[derive(Debug)]
pub struct Transaction<'r> {
    record: &'r mut Record,
    /// None once committed.
    before: Option<Savepoint>,
}

/// The fields of a record without an undo log of their own. Large ones are shared with the record until it changes
/// them.
#[derive(Debug)]
struct Savepoint {
    revision: u64,
    last_version: u64,
    current_version: Option<u64>,
    current_job_id: Option<Arc<str>>,
    versions: Arc<Vec<Arc<Version>>>,
    deployment: Option<Arc<Deployment>>,
    requests: Arc<VecDeque<IdempotencyEntry>>,
    created_at: UnixMs,
    updated_at: UnixMs,
    log: LogMark,
}

impl<'r> Transaction<'r> {
    pub fn begin(record: &'r mut Record) -> Transaction<'r> {
        // Every field by name, so that a new one does not compile until it is handled here.
        let Record {
            revision,
            last_version,
            current_version,
            current_job_id,
            versions,
            deployment,
            instances,
            services,
            log,
            requests,
            created_at,
            updated_at,
        } = &mut *record;
        instances.begin();
        services.begin();
        let before = Savepoint {
            revision: *revision,
            last_version: *last_version,
            current_version: *current_version,
            current_job_id: current_job_id.clone(),
            versions: versions.clone(),
            deployment: deployment.clone(),
            requests: requests.clone(),
            created_at: *created_at,
            updated_at: *updated_at,
            log: log.mark(),
        };
        Transaction { record, before: Some(before) }
    }

    /// The encoded events since the start, where the log keeps them encoded.
    pub fn encoded_events(&self) -> &[u8] {
        self.before.as_ref().and_then(|before| self.record.log.encoded_since(before.log)).unwrap_or_default()
    }

    /// Commits the changes. The log is truncated to `log_max` events here and not before, since that cannot be undone.
    pub fn commit(mut self, log_max: usize) {
        if self.before.take().is_some() {
            self.record.instances.commit();
            self.record.services.commit();
            self.record.log.truncate_front(log_max);
        }
    }
}

impl Deref for Transaction<'_> {
    type Target = Record;

    fn deref(&self) -> &Record {
        self.record
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut Record {
        self.record
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        let Some(before) = self.before.take() else { return };
        let record = &mut *self.record;
        record.revision = before.revision;
        record.last_version = before.last_version;
        record.current_version = before.current_version;
        record.current_job_id = before.current_job_id;
        record.versions = before.versions;
        record.deployment = before.deployment;
        record.requests = before.requests;
        record.created_at = before.created_at;
        record.updated_at = before.updated_at;
        record.log.truncate_to(before.log);
        record.instances.roll_back();
        record.services.roll_back();
    }
}
