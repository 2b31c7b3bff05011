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
    /// All changed agents are healthy; bake, or end the deployment.
    Finish,
    /// All are healthy again; bake anew.
    Bake,
}

/// The input of a strategy: the deployment, and the counts of its own instances.
pub struct StrategyInput<'a> {
    pub deployment: &'a Deployment,
    /// The counts of the deployment's own instances.
    pub own: HealthCounts,
}

impl StrategyInput<'_> {
    /// Returns the agents to release next, at most `n`. Agents are released in order, so those released are the first
    /// ones.
    pub fn next(&self, n: usize) -> Vec<Arc<str>> {
        self.deployment.changed.iter().skip(self.own.released()).take(n).cloned().collect()
    }

    /// Returns true if every changed agent is released.
    pub fn all_released(&self) -> bool {
        self.own.released() >= self.deployment.changed.len()
    }

    /// Returns true if every released agent has its new instance, and that is healthy.
    pub fn all_released_are_healthy(&self) -> bool {
        self.own.healthy == self.own.released()
    }
}
