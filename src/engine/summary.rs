//! A record in one line: what an index and a list want to know of it.

use super::deadline::next_deadline;
use super::deployment::{Mode, Status};
use super::policy::Strategy;
use super::record::Record;
use super::time::UnixMs;
use std::sync::Arc;

/// Of the key's latest deployment; the last ten are what DEPLOY.LIST shows (rule 7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// When the record wants a tick.
    pub due: Option<UnixMs>,
    /// How many tasks are open.
    pub tasks: usize,
    pub deployment_id: Arc<str>,
    pub status: Status,
    pub mode: Mode,
    pub strategy: Strategy,
    pub current_version: Option<u64>,
    pub stable_version: Option<u64>,
    pub target_version: u64,
    /// How many of the deployment's own instances are healthy.
    pub healthy: usize,
    /// How many agents it changes.
    pub desired: usize,
    pub updated_at: UnixMs,
}

impl Summary {
    /// None of a record without a deployment, which is on no key.
    pub fn of(record: &Record) -> Option<Summary> {
        let deployment = record.deployment.as_deref()?;
        Some(Summary {
            due: next_deadline(record),
            tasks: record.instances.open_tasks(),
            deployment_id: deployment.id.clone(),
            status: deployment.status,
            mode: deployment.mode,
            strategy: deployment.strategy,
            current_version: record.current_version,
            stable_version: record.stable_version(),
            target_version: deployment.target_version,
            healthy: record.instances.counts(deployment.target_version, &deployment.target_job_id).healthy,
            desired: deployment.changed.len(),
            updated_at: record.updated_at,
        })
    }
}
