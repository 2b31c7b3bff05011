//! The next deadline of a record: the time at which it needs a tick.

use super::deployment::{Deployment, Status};
use super::instance::InstanceKey;
use super::instances::InstanceDue;
use super::record::Record;
use super::time::UnixMs;
use std::sync::Arc;

/// A due item. At equal times the order is this one: a check that expires is no longer passing, so it comes before the
/// verdict that it prevents; a healthy verdict comes before the deadlines that it meets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// A service instance's TTL expires.
    Ttl(Arc<str>),
    /// An instance was ready and passing for `min_healthy_ms`.
    Healthy(InstanceKey),
    /// An instance was not healthy within `healthy_deadline_ms`.
    HealthyDeadline(InstanceKey),
    /// An instance that drains was without a session for `min_healthy_ms`.
    Idle(InstanceKey),
    /// `drain_ms` passed, and an instance still drains.
    DrainDeadline(InstanceKey),
    /// A standby is not needed any more.
    StandbyEnd(InstanceKey),
    /// `progress_deadline_ms` passed without progress.
    ProgressDeadline,
    /// The bake was long enough.
    BakeEnd,
}

/// Returns the earliest due item, with its time.
pub fn next_due(record: &Record) -> Option<(UnixMs, Due)> {
    let ttl = record.services.next_expiry().map(|(at, id)| (at, Due::Ttl(id.clone())));
    let instance = record.instances.next_due().map(|(at, verdict, key)| match verdict {
        InstanceDue::Healthy => (at, Due::Healthy(key)),
        InstanceDue::Deadline => (at, Due::HealthyDeadline(key)),
        InstanceDue::Idle => (at, Due::Idle(key)),
        InstanceDue::DrainDeadline => (at, Due::DrainDeadline(key)),
        InstanceDue::StandbyEnd => (at, Due::StandbyEnd(key)),
    });
    let progress = running(record).and_then(|d| d.progress.at()).map(|at| (at, Due::ProgressDeadline));
    let bake = running(record).and_then(|d| d.bake.at()).map(|at| (at, Due::BakeEnd));
    ttl.into_iter().chain(instance).chain(progress).chain(bake).min()
}

/// Returns the time of the next tick; None where nothing becomes due.
pub fn next_deadline(record: &Record) -> Option<UnixMs> {
    let ttl = record.services.next_expiry().map(|(at, _)| at);
    let of_deployment = running(record).into_iter().flat_map(|d| [d.progress.at(), d.bake.at()]).flatten();
    ttl.into_iter().chain(record.instances.next_due_at()).chain(of_deployment).min()
}

fn running(record: &Record) -> Option<&Deployment> {
    record.deployment.as_deref().filter(|d| d.status == Status::Running)
}
