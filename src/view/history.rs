//! Versions (rule 3 HISTORY, VERSION).

use super::policy::policy;
use super::{Field, View};
use crate::engine::record::Record;
use crate::engine::version::Version;

/// The versions that are kept, newest first.
pub fn history(record: &Record) -> View<'_> {
    View::list(record.versions.iter().rev().map(|version| View::Map(entry(version))))
}

/// One version with its manifest; None where the record does not have it.
pub fn version(record: &Record, number: u64) -> Option<View<'_>> {
    let version = record.version(number)?;
    let mut fields = entry(version);
    fields.extend([
        // Empty is what stands for a manifest that is not there.
        ("manifest", View::raw(Some(&**version.content.text()).filter(|text| !text.is_empty()))),
        ("policy", policy(&version.policy)),
        ("agents", version.agents.as_deref().map(View::list).into()),
    ]);
    Some(View::Map(fields))
}

fn entry(version: &Version) -> Vec<Field<'_>> {
    vec![
        ("version", version.number.into()),
        ("deployment_id", (&version.deployment_id).into()),
        ("job_id", (&version.job_id).into()),
        ("job_type", version.job_type.name().into()),
        ("strategy", version.strategy.name().into()),
        ("bundle", (&version.bundle).into()),
        ("tag", (&version.tag).into()),
        ("stable", version.stable.into()),
        ("rollback_of", version.rollback_of.into()),
        ("outcome", version.outcome.map(|outcome| outcome.name()).into()),
        ("submitted_at", version.submitted_at.into()),
        ("by", (&version.by).into()),
        ("reason", (&version.reason).into()),
    ]
}
