//! Strategies: each returns the next [`Step`] of a running deployment.

mod blue_green;
mod canary;
mod initial;
mod rolling;

use super::deployment::{Deployment, Mode};

use super::instance::Role;
use super::instances::HealthCounts;

use super::record::Record;
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
struct StrategyInput<'a> {
    deployment: &'a Deployment,
    own: HealthCounts,
}

impl StrategyInput<'_> {
    /// Returns the agents to release next, at most `n`. Agents are released in order, so those placed are the first ones.
    fn next(&self, n: usize) -> Vec<Arc<str>> {
        self.deployment.changed.iter().skip(self.own.placed).take(n).cloned().collect()
    }

    fn all_placed(&self) -> bool {
        self.own.placed >= self.deployment.changed.len()
    }

    fn all_placed_are_healthy(&self) -> bool {
        self.own.healthy == self.own.placed
    }
}

pub fn next(record: &Record) -> Step {
    let Some(deployment) = &record.deployment else { return Step::Wait };
    let own = record.instances.counts(deployment.target_version, &deployment.target_job_id);
    let input = StrategyInput { deployment, own };
    match deployment.mode {
        Mode::Initial => initial::next(&input),
        Mode::InPlace if deployment.canaries > 0 && !deployment.promoted => canary::next(&input),
        Mode::InPlace => rolling::next(&input),
        Mode::BlueGreen => blue_green::next(&input),
        Mode::Noop | Mode::VersionOnly | Mode::Unchanged => Step::Wait,
    }
}
