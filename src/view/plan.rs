//! The reply of DEPLOY.PLAN (rule 7 PLAN).

use super::value::int;
use crate::engine::plan::{Plan, PlanStep};
use serde::Serialize;
use std::sync::Arc;

/// The decision that DEPLOY would make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanView<'a> {
    pub deployment_key: &'a str,
    /// The version that would be recorded.
    pub version: i64,
    pub mode: &'static str,
    /// The strategy in effect, which may be another than the requested one.
    pub strategy: &'static str,
    pub requested_strategy: &'static str,
    /// The reason for the mode.
    pub reason: &'a str,
    pub changed_agents: Vec<ChangedAgentView<'a>>,
    /// Agents that go together, in the order in which they go.
    pub batches: Vec<BatchView<'a>>,
    pub warnings: &'a [String],
}

/// An agent that the deployment would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangedAgentView<'a> {
    pub agent: &'a str,
    pub why: &'a str,
}

/// Agents that would go together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BatchView<'a> {
    pub agents: &'a [Arc<str>],
    pub role: &'static str,
    /// The earliest time at which it can start, in ms since the deploy.
    pub earliest_ms: i64,
}

/// Returns the plan's fields.
pub fn plan(plan: &Plan) -> PlanView<'_> {
    PlanView {
        deployment_key: &plan.deployment_key,
        version: int(plan.version),
        mode: plan.mode.name(),
        strategy: plan.strategy.name(),
        requested_strategy: plan.requested_strategy.name(),
        reason: &plan.reason,
        changed_agents: plan.changed_agents.iter().map(|(agent, why)| ChangedAgentView { agent, why }).collect(),
        batches: plan.batches.iter().map(batch).collect(),
        warnings: &plan.warnings,
    }
}

fn batch(step: &PlanStep) -> BatchView<'_> {
    BatchView { agents: &step.agents, role: step.role.name(), earliest_ms: int(step.earliest_ms) }
}
