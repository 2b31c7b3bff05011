//! The due times of one instance.

use crate::engine::instance::{Instance, Role};
use crate::engine::time::UnixMs;

/// A due time of an instance. At equal times the order is this one: a healthy verdict comes before the deadline that it
/// meets, and a drain that has become idle is not cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstanceDue {
    Healthy,
    Deadline,
    Idle,
    DrainDeadline,
    StandbyEnd,
}

/// Returns the due times of an instance.
pub(super) fn due_times(instance: &Instance) -> impl Iterator<Item = (UnixMs, InstanceDue)> {
    let healthy = instance.healthy_at.map(|at| (at, InstanceDue::Healthy));
    let deadline = instance.deadline.at().map(|at| (at, InstanceDue::Deadline));
    let drain = instance.drain.as_ref().filter(|drain| drain.is_open());
    let idle = drain.and_then(|drain| drain.idle.at()).map(|at| (at, InstanceDue::Idle));
    let forced = drain.and_then(|drain| drain.deadline.at()).map(|at| (at, InstanceDue::DrainDeadline));
    let standby = instance.standby_until.filter(|_| instance.role == Role::Standby);
    let standby = standby.map(|at| (at, InstanceDue::StandbyEnd));
    healthy.into_iter().chain(deadline).chain(idle).chain(forced).chain(standby)
}

/// Returns the earliest due time of an instance. Most neither drain nor stand by, and have two at most: this is asked
/// of many with nearly every report.
pub(super) fn due_at(instance: &Instance) -> Option<UnixMs> {
    if instance.drain.is_some() || instance.standby_until.is_some() {
        return due_times(instance).map(|(at, _)| at).min();
    }
    match (instance.healthy_at, instance.deadline.at()) {
        (Some(healthy), Some(deadline)) => Some(healthy.min(deadline)),
        (healthy, deadline) => healthy.or(deadline),
    }
}
