//! Health counts.

use crate::engine::instance::Health;

/// The health of one version's instances in one job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HealthCounts {
    pub placed: usize,
    pub pending: usize,
    pub healthy: usize,
    pub unhealthy: usize,
}

impl HealthCounts {
    pub(super) fn add(&mut self, health: Health) {
        self.placed += 1;
        *self.of(health) += 1;
    }

    pub(super) fn remove(&mut self, health: Health) {
        self.placed -= 1;
        *self.of(health) -= 1;
    }

    fn of(&mut self, health: Health) -> &mut usize {
        match health {
            Health::Pending => &mut self.pending,
            Health::Healthy => &mut self.healthy,
            Health::Unhealthy => &mut self.unhealthy,
        }
    }
}
