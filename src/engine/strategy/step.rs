//! The input of a strategy, and its result.

use crate::engine::deployment::Deployment;
use crate::engine::instance::Role;
use crate::engine::instances::HealthCounts;
use std::sync::Arc;

/// The next step of a running deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Wait: something else has to happen first.
    Wait,
    /// Release these agents now.
    Release { agents: Vec<Arc<str>>, role: Role },
    /// All canaries are healthy; wait for PROMOTE.
    Await,
    /// All canaries are healthy; promote automatically.
    Promote,
    /// All changed agents are healthy; end the deployment.
    Finish,
}

/// The input of a strategy: the deployment, and the counts of its own instances.
pub struct StrategyInput<'a> {
    pub deployment: &'a Deployment,
    /// The counts of the deployment's own instances.
    pub own: HealthCounts,
}

impl StrategyInput<'_> {
    /// Returns the agents to release next, at most `n`. Agents are released in order, so those placed are the first
    /// ones.
    pub fn next(&self, n: usize) -> Vec<Arc<str>> {
        self.deployment.changed.iter().skip(self.own.placed).take(n).cloned().collect()
    }

    /// Returns whether every changed agent has its new instance.
    pub fn all_placed(&self) -> bool {
        self.own.placed >= self.deployment.changed.len()
    }

    /// Returns whether every new instance is healthy.
    pub fn all_placed_are_healthy(&self) -> bool {
        self.own.healthy == self.own.placed
    }
}
