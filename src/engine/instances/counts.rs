//! Health counts.

use crate::engine::instance::{Health, Instance, Role};
use std::sync::Arc;

/// The health of one version's instances in one job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HealthCounts {
    pub placed: usize,
    pub pending: usize,
    pub healthy: usize,
    pub unhealthy: usize,
    /// The agents that are released, and whose instance of this version awaits the end of a drain (rule 10.6).
    pub awaiting_drain: usize,
}

/// The contribution of an instance to the counts of a version in a job.
pub(super) enum Counted {
    Health(Health),
    AwaitingDrain,
}

/// Returns what an instance contributes to the counts, and of which version and job. One that drains, has drained or
/// is on standby is part of no health summary (rules 10.6 and 12.6).
pub(super) fn counted(instance: &Instance) -> impl Iterator<Item = (u64, &Arc<str>, Counted)> {
    let health = (!matches!(instance.role, Role::Draining | Role::Retired | Role::Standby))
        .then_some((instance.deployed_version(), Counted::Health(instance.health)));
    let drain = instance.drain.as_ref().and_then(|drain| drain.awaited_version());
    let both = health.into_iter().chain(drain.map(|version| (version, Counted::AwaitingDrain)));
    both.map(|(version, counted)| (version, &instance.job_id, counted))
}

impl HealthCounts {
    /// The number of agents that are released: with an instance, or awaiting a drain.
    pub fn released(&self) -> usize {
        self.placed + self.awaiting_drain
    }

    pub(super) fn add(&mut self, counted: &Counted) {
        self.of(counted).for_each(|count| *count += 1);
    }

    pub(super) fn remove(&mut self, counted: &Counted) {
        self.of(counted).for_each(|count| *count -= 1);
    }

    fn of(&mut self, counted: &Counted) -> impl Iterator<Item = &mut usize> {
        let HealthCounts { placed, pending, healthy, unhealthy, awaiting_drain } = self;
        let counts = match counted {
            Counted::Health(Health::Pending) => [Some(placed), Some(pending)],
            Counted::Health(Health::Healthy) => [Some(placed), Some(healthy)],
            Counted::Health(Health::Unhealthy) => [Some(placed), Some(unhealthy)],
            Counted::AwaitingDrain => [Some(awaiting_drain), None],
        };
        counts.into_iter().flatten()
    }
}
