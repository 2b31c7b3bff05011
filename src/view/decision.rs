//! What a changing command decided, and what DEPLOY.PLAN says that one would decide.

use super::View;
use crate::engine::deployment::Receipt;
use crate::engine::plan::Plan;

/// The seven fields that a changing command replies (rule 3).
pub fn receipt(receipt: &Receipt) -> View<'_> {
    View::map([
        ("deployment_key", (&receipt.deployment_key).into()),
        ("deployment_id", (&receipt.deployment_id).into()),
        ("version", receipt.version.into()),
        ("job_id", (&receipt.job_id).into()),
        ("status", receipt.status.name().into()),
        ("mode", receipt.mode.name().into()),
        ("revision", receipt.revision.into()),
    ])
}

pub fn plan(plan: &Plan) -> View<'_> {
    let changed =
        plan.changed_agents.iter().map(|(agent, why)| View::map([("agent", agent.into()), ("why", why.into())]));
    let batches = plan.batches.iter().map(|batch| {
        View::map([
            ("agents", View::list(batch.agents.iter())),
            ("role", batch.role.name().into()),
            ("earliest_ms", batch.earliest_ms.into()),
        ])
    });
    View::map([
        ("deployment_key", (&plan.deployment_key).into()),
        ("version", plan.version.into()),
        ("mode", plan.mode.name().into()),
        ("strategy", plan.strategy.name().into()),
        ("requested_strategy", plan.requested_strategy.name().into()),
        ("reason", (&plan.reason).into()),
        ("changed_agents", View::list(changed)),
        ("batches", View::list(batches)),
        ("warnings", View::list(plan.warnings.iter())),
    ])
}
