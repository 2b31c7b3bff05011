//! Progress of a deployment in numbers and in words, counted from the instances at each call.

use super::value::int;
use crate::engine::deployment::{Deployment, Mode, Status};
use crate::engine::instance::Health;
use crate::engine::instances::HealthCounts;
use crate::engine::record::Record;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// The health of the deployment's own instances (rule 7 STATUS, `health`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSummary {
    /// All changed agents. Those that have no instance of the deployment yet are not placed.
    pub desired: usize,
    /// `placed`, `pending`, `healthy` and `unhealthy`.
    pub own: HealthCounts,
    pub canaries_desired: usize,
    pub canaries_healthy: usize,
}

impl HealthSummary {
    pub(super) fn of(record: &Record, deployment: &Deployment) -> HealthSummary {
        // Only an update in place has canaries: the first of the changed agents, before the promotion and after it.
        let canaries = match deployment.mode {
            Mode::InPlace => deployment.canaries as usize,
            Mode::Initial | Mode::BlueGreen | Mode::SwitchBack | Mode::Noop | Mode::VersionOnly | Mode::Unchanged => 0,
        };
        let canaries = &deployment.changed[..canaries.min(deployment.changed.len())];
        let is_healthy = |agent: &str| {
            record.instances.of_agent(agent).iter().any(|i| record.is_own(i) && i.health == Health::Healthy)
        };
        HealthSummary {
            desired: deployment.changed.len(),
            own: record.instances.counts(deployment.target_version, &deployment.target_job_id),
            canaries_desired: canaries.len(),
            canaries_healthy: canaries.iter().filter(|agent| is_healthy(agent)).count(),
        }
    }
}

impl Serialize for HealthSummary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("HealthSummary", 7)?;
        fields.serialize_field("desired", &int(self.desired))?;
        fields.serialize_field("placed", &int(self.own.placed))?;
        fields.serialize_field("pending", &int(self.own.pending))?;
        fields.serialize_field("healthy", &int(self.own.healthy))?;
        fields.serialize_field("unhealthy", &int(self.own.unhealthy))?;
        fields.serialize_field("canaries_desired", &int(self.canaries_desired))?;
        fields.serialize_field("canaries_healthy", &int(self.canaries_healthy))?;
        fields.end()
    }
}

/// Describes how the deployment ended or, while it is active, its progress: `1 of 3 agents healthy`. Names the first
/// unhealthy instance, and why.
pub fn description(record: &Record) -> String {
    let Some(deployment) = &record.deployment else { return String::new() };
    let unhealthy = record.instances.iter().find(|i| record.is_own(i) && i.health == Health::Unhealthy);
    let unhealthy = unhealthy.map(|i| format!(" ({}: {})", i.agent, record.why_not_healthy(i))).unwrap_or_default();
    let progress = || progress(record, deployment) + &unhealthy;
    match deployment.status {
        Status::Running => progress(),
        Status::AwaitingPromotion => awaiting(progress()),
        Status::Paused => {
            let held = match deployment.paused_from {
                Some(Status::AwaitingPromotion) => awaiting(progress()),
                _ => progress(),
            };
            match (&deployment.deferred_failure, &deployment.unsafe_report) {
                (Some(deferred), _) => format!("paused: {held}; fails at resume: {}", deferred.words),
                (None, Some(report)) => format!("paused: {held}; falls back to blue-green at resume: {}", report.words),
                (None, None) => format!("paused: {held}"),
            }
        }
        Status::Successful | Status::Failed | Status::Cancelled | Status::VersionRecorded => end(deployment),
    }
}

/// Like [`description`], without what the page says elsewhere: which agents are unhealthy, and what a resume does.
pub(super) fn short_description(record: &Record, deployment: &Deployment) -> String {
    match deployment.status {
        Status::Running | Status::Paused | Status::AwaitingPromotion => progress(record, deployment),
        Status::Successful | Status::Failed | Status::Cancelled | Status::VersionRecorded => end(deployment),
    }
}

fn end(deployment: &Deployment) -> String {
    deployment.ended.as_deref().unwrap_or(deployment.status.name()).to_string()
}

fn awaiting(progress: String) -> String {
    format!("{progress}, awaiting promotion")
}

/// Counts the instances that the present phase waits for.
fn progress(record: &Record, deployment: &Deployment) -> String {
    let summary = HealthSummary::of(record, deployment);
    let (healthy, desired, what) = if deployment.promoted {
        (summary.own.healthy, summary.desired, "agents")
    } else if summary.canaries_desired > 0 {
        (summary.canaries_healthy, summary.canaries_desired, "canaries")
    } else if deployment.mode == Mode::BlueGreen {
        (summary.own.healthy, summary.desired, "candidates")
    } else {
        (summary.own.healthy, summary.desired, "agents")
    };
    let mut words = format!("{healthy} of {desired} {what} healthy");
    for (number, what) in [(summary.own.unhealthy, "unhealthy"), (summary.own.awaiting_drain, "draining")] {
        if number > 0 {
            words.push_str(&format!(", {number} {what}"));
        }
    }
    words
}
