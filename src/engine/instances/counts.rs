//! Health counts.

use crate::engine::instance::{Health, Instance, Role};

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

/// Returns what an instance contributes to the counts of its job, and of which version. One that has drained or is on
/// standby is part of no health summary, and one that drains only of that of its successor (rules 10.6 and 12.6).
pub(super) fn counted(instance: &Instance) -> Option<(u64, Counted)> {
    if let Some(drain) = &instance.drain {
        return drain.awaited_version().map(|version| (version, Counted::AwaitingDrain));
    }
    let is_counted = !matches!(instance.role, Role::Draining | Role::Retired | Role::Standby);
    is_counted.then_some((instance.deployed_version(), Counted::Health(instance.health)))
}

impl HealthCounts {
    /// The number of agents that are released: with an instance, or awaiting a drain.
    pub fn released(&self) -> usize {
        self.placed + self.awaiting_drain
    }

    pub(super) fn add(&mut self, counted: Counted) {
        match counted {
            Counted::Health(health) => {
                self.placed += 1;
                *self.of(health) += 1;
            }
            Counted::AwaitingDrain => self.awaiting_drain += 1,
        }
    }

    pub(super) fn remove(&mut self, counted: Counted) {
        match counted {
            Counted::Health(health) => {
                self.placed -= 1;
                *self.of(health) -= 1;
            }
            Counted::AwaitingDrain => self.awaiting_drain -= 1,
        }
    }

    fn of(&mut self, health: Health) -> &mut usize {
        match health {
            Health::Pending => &mut self.pending,
            Health::Healthy => &mut self.healthy,
            Health::Unhealthy => &mut self.unhealthy,
        }
    }
}
