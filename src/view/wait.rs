//! The reply of DEPLOY.WAIT (rule 19.10).

use super::health::description;
use super::value::int;
use crate::engine::deployment::{Mode, Outcome};
use crate::engine::record::Record;
use crate::engine::version::Version;
use serde::Serialize;
use std::sync::Arc;

/// A deployment at the moment at which a wait ends: the seven fields of a receipt, and how it stands. It holds its texts,
/// so that one serves every client that waits for the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WaitView {
    pub deployment_key: Arc<str>,
    pub deployment_id: Arc<str>,
    pub version: i64,
    pub job_id: Arc<str>,
    pub status: &'static str,
    /// Null for a deployment of the past, except for batch jobs.
    pub mode: Option<&'static str>,
    pub revision: i64,
    pub cause: Option<&'static str>,
    /// Of a batch job, how its run ended, once it has.
    pub description: Arc<str>,
    /// `baking`, or null.
    pub phase: Option<&'static str>,
    pub finished_at: Option<i64>,
}

/// Returns the deployment with this id, present or past; None where the record knows none, or where one of the past has
/// no outcome.
pub fn wait(record: &Record, key: &Arc<str>, deployment_id: &str) -> Option<WaitView> {
    let version = record.version_of_deployment(deployment_id);
    // The run of a batch job ends after its deployment, and the version says how. One that was stopped has a cause alone.
    let has_ended =
        |version: &&Arc<Version>| version.outcome.is_some_and(Outcome::is_of_run) || version.cause.is_some();
    if let Some(version) = version.filter(|version| version.job_type.is_batch()).filter(has_ended) {
        return of_version(record, key, version);
    }
    let Some(deployment) = record.deployment.as_deref().filter(|deployment| *deployment.id == *deployment_id) else {
        return of_version(record, key, version?);
    };
    Some(WaitView {
        deployment_key: key.clone(),
        deployment_id: deployment.id.clone(),
        version: int(deployment.target_version),
        job_id: deployment.target_job_id.clone(),
        status: deployment.status.name(),
        mode: Some(deployment.mode.name()),
        revision: int(record.revision),
        cause: deployment.shown_cause().map(|cause| cause.name()),
        description: description(record).into(),
        phase: deployment.phase(),
        finished_at: deployment.finished_at.map(int),
    })
}

/// Returns a deployment of the past by its version.
fn of_version(record: &Record, key: &Arc<str>, version: &Version) -> Option<WaitView> {
    let is_batch = version.job_type.is_batch();
    let status = version.outcome?.status(is_batch).name();
    Some(WaitView {
        deployment_key: key.clone(),
        deployment_id: version.deployment_id.clone(),
        version: int(version.number),
        job_id: version.job_id.clone(),
        status,
        mode: is_batch.then_some(Mode::VersionOnly.name()),
        revision: int(record.revision),
        cause: version.cause.map(|cause| cause.name()),
        // A version that an earlier release has saved has none.
        description: version.description.clone().unwrap_or_else(|| status.into()),
        phase: None,
        finished_at: version.finished_at.map(int),
    })
}
