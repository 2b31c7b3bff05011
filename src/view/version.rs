//! Versions (rule 3 HISTORY, VERSION).

use super::value::{int, RawJson};
use crate::engine::policy::Policy;
use crate::engine::record::Record;
use crate::engine::version::Version;
use crate::engine::Rejection;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use std::sync::Arc;

/// One version, as in HISTORY (rule 7, version).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionView<'a> {
    pub version: i64,
    pub deployment_id: &'a str,
    pub job_id: &'a str,
    /// `service`, `system`, `batch` or `sysbatch`.
    pub job_type: &'static str,
    pub strategy: &'static str,
    pub bundle: Option<&'a str>,
    pub tag: Option<&'a str>,
    /// True once a deployment of it was successful.
    pub stable: bool,
    /// The version that it rolls back to.
    pub rollback_of: Option<i64>,
    /// The status in which its deployment ended, or what the batch job reported. Null until then.
    pub outcome: Option<&'static str>,
    pub submitted_at: i64,
    /// The ACL user, or `auto`.
    pub by: &'a str,
    pub reason: Option<&'a str>,
    /// The cause of the end of its deployment. Null where that was successful, or has not ended.
    pub cause: Option<&'static str>,
    /// The description of that end.
    pub description: Option<&'a str>,
    /// The time of its promotion. Null where there was none, as in an update without canaries.
    pub promoted_at: Option<i64>,
    /// The ACL user who promoted it, or `auto`.
    pub promoted_by: Option<&'a str>,
    /// The time at which its deployment ended, or its batch job reported.
    pub finished_at: Option<i64>,
}

/// One version with everything that the record keeps of it, as in VERSION: the fields of [`VersionView`], then these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionDetails<'a> {
    pub version: VersionView<'a>,
    /// The text as given.
    pub manifest: Option<RawJson<'a>>,
    pub policy: &'a Policy,
    /// The agents that AGENTS named. Null where there is one for each node.
    pub agents: Option<&'a [Arc<str>]>,
}

impl Serialize for VersionDetails<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let VersionDetails { version, manifest, policy, agents } = self;
        // Exhaustive, so that a field that is added to HISTORY is added here as well.
        let VersionView {
            version,
            deployment_id,
            job_id,
            job_type,
            strategy,
            bundle,
            tag,
            stable,
            rollback_of,
            outcome,
            submitted_at,
            by,
            reason,
            cause,
            description,
            promoted_at,
            promoted_by,
            finished_at,
        } = version;
        let mut fields = serializer.serialize_struct("VersionDetails", 21)?;
        fields.serialize_field("version", version)?;
        fields.serialize_field("deployment_id", deployment_id)?;
        fields.serialize_field("job_id", job_id)?;
        fields.serialize_field("job_type", job_type)?;
        fields.serialize_field("strategy", strategy)?;
        fields.serialize_field("bundle", bundle)?;
        fields.serialize_field("tag", tag)?;
        fields.serialize_field("stable", stable)?;
        fields.serialize_field("rollback_of", rollback_of)?;
        fields.serialize_field("outcome", outcome)?;
        fields.serialize_field("submitted_at", submitted_at)?;
        fields.serialize_field("by", by)?;
        fields.serialize_field("reason", reason)?;
        fields.serialize_field("manifest", manifest)?;
        fields.serialize_field("policy", policy)?;
        fields.serialize_field("agents", agents)?;
        fields.serialize_field("cause", cause)?;
        fields.serialize_field("description", description)?;
        fields.serialize_field("promoted_at", promoted_at)?;
        fields.serialize_field("promoted_by", promoted_by)?;
        fields.serialize_field("finished_at", finished_at)?;
        fields.end()
    }
}

/// Returns the newest `count` versions of the record, newest first.
pub fn history(record: &Record, count: usize) -> Vec<VersionView<'_>> {
    record.versions.iter().rev().take(count).map(|version| entry(version)).collect()
}

/// Returns one version with its manifest.
///
/// # Errors
/// `NOTFOUND` where the record does not have it. `BADSTATE` where its manifest is damaged: decoding a record does not
/// validate manifests that no instance runs, so that is done here, where one is read.
pub fn version(record: &Record, number: u64) -> Result<VersionDetails<'_>, Rejection> {
    let version = record.version(number).ok_or(Rejection::NoSuchVersion(number))?;
    // An empty text stands for a manifest that the record does not have.
    let manifest = Some(RawJson(version.content.text())).filter(|manifest| !manifest.0.is_empty());
    if manifest.is_some_and(|manifest| !manifest.is_valid()) {
        return Err(Rejection::DamagedManifest(number));
    }
    Ok(VersionDetails { version: entry(version), manifest, policy: &version.policy, agents: version.agents.as_deref() })
}

fn entry(version: &Version) -> VersionView<'_> {
    VersionView {
        version: int(version.number),
        deployment_id: &version.deployment_id,
        job_id: &version.job_id,
        job_type: version.job_type.name(),
        strategy: version.strategy.name(),
        bundle: version.bundle.as_deref(),
        tag: version.tag.as_deref(),
        stable: version.stable,
        rollback_of: version.rollback_of.map(int),
        outcome: version.outcome.map(|outcome| outcome.name()),
        submitted_at: int(version.submitted_at),
        by: &version.by,
        reason: version.reason.as_deref(),
        cause: version.cause.map(|cause| cause.name()),
        description: version.description.as_deref(),
        promoted_at: version.promoted_at.map(int),
        promoted_by: version.promoted_by.as_deref(),
        finished_at: version.finished_at.map(int),
    }
}
