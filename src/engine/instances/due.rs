//! The due times of one instance.

use crate::engine::instance::Instance;
use crate::engine::time::UnixMs;

/// A due time of an instance. At equal times the order is this one: a healthy verdict comes before the deadline
/// that it meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstanceDue {
    Healthy,
    Deadline,
}

/// Returns the due times of an instance.
pub(super) fn due_times(instance: &Instance) -> impl Iterator<Item = (UnixMs, InstanceDue)> {
    let healthy = instance.healthy_at.map(|at| (at, InstanceDue::Healthy));
    let deadline = instance.deadline.at().map(|at| (at, InstanceDue::Deadline));
    healthy.into_iter().chain(deadline)
}

/// Returns the earliest due time of an instance.
pub(super) fn due_at(instance: &Instance) -> Option<UnixMs> {
    match (instance.healthy_at, instance.deadline.at()) {
        (Some(healthy), Some(deadline)) => Some(healthy.min(deadline)),
        (healthy, deadline) => healthy.or(deadline),
    }
}
