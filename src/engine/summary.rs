//! The summary of a record: what the index and LIST need.

use super::deadline::next_deadline;
use super::deployment::{Mode, Status};
use super::policy::Strategy;
use super::record::Record;
use super::time::UnixMs;
use std::sync::Arc;

/// Summarises the key's latest deployment; the last ten fields are those of DEPLOY.LIST (rule 7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The time of the next tick.
    pub due: Option<UnixMs>,
    /// The number of open tasks.
    pub tasks: usize,
    pub deployment_id: Arc<str>,
    pub status: Status,
    pub mode: Mode,
    pub strategy: Strategy,
    pub current_version: Option<u64>,
    pub stable_version: Option<u64>,
    pub target_version: u64,
    /// The number of healthy instances of the deployment.
    pub healthy: usize,
    /// The number of agents that the deployment changes.
    pub desired: usize,
    pub updated_at: UnixMs,
    /// The number of instances that drain.
    pub draining: usize,
    /// The number of instances on standby.
    pub standby: usize,
}

impl Summary {
    /// Returns the summary; None for a record without a deployment, which no key holds.
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
            draining: record.instances.draining(),
            standby: record.instances.standby(),
        })
    }
}
