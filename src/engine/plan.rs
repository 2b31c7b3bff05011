//! DEPLOY.PLAN: the decision of DEPLOY, without its effect (rules 3 and 7). It decides on a draft and drops it.

use super::command::{Context, Deploy};
use super::decide::versions::{deploy, Deployed};
use super::deployment::{Deployment, Mode};
use super::draft::Draft;
use super::instance::Role;
use super::manifest::BATCH_AGENT;
use super::policy::Strategy;
use super::record::Record;
use super::rejection::Rejection;
use std::sync::Arc;

/// Agents that are released together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanStep {
    pub agents: Vec<Arc<str>>,
    pub role: Role,
    /// The earliest time at which the step can start, in ms from the deploy: if every agent is ready and every
    /// promotion is given at once.
    pub earliest_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub deployment_key: Arc<str>,
    pub version: u64,
    pub mode: Mode,
    pub strategy: Strategy,
    pub requested_strategy: Strategy,
    pub reason: Arc<str>,
    /// Each changed agent, with the reason.
    pub changed_agents: Vec<(Arc<str>, String)>,
    pub batches: Vec<PlanStep>,
    pub warnings: Vec<String>,
}

/// Plans a DEPLOY. Rejects what DEPLOY would reject. `REQUEST` is ignored, since nothing is done.
pub fn plan(record: Option<&Record>, asked: &Deploy, context: &Context) -> Result<Plan, Rejection> {
    let mut copy = record.cloned().unwrap_or_default();
    let mut draft = Draft::on(&mut copy, context);
    draft.process_due(usize::MAX);
    let outcome = deploy(&mut draft, asked)?;
    let Some(d) = draft.deployment() else { return Err(Rejection::NoSuchKey(context.key.to_string())) };
    let mut plan = Plan {
        deployment_key: Arc::from(context.key),
        version: d.target_version,
        mode: d.mode,
        strategy: d.strategy,
        requested_strategy: d.requested_strategy,
        reason: d.mode_reason.clone(),
        changed_agents: Vec::new(),
        batches: Vec::new(),
        warnings: Vec::new(),
    };
    match outcome {
        Deployed::Unchanged => {
            plan.mode = Mode::Unchanged;
            plan.reason = Arc::from(format!("nothing new: version {} is {}", d.target_version, d.status.name()));
        }
        Deployed::Started { plan: version_plan, warnings } => {
            plan.batches = batches(d);
            plan.warnings = warnings;
            plan.changed_agents = version_plan.changed;
        }
    }
    Ok(plan)
}

/// Returns the groups in which agents are released, by the numbers that the strategies use.
fn batches(d: &Deployment) -> Vec<PlanStep> {
    let all = |role| vec![PlanStep { agents: d.changed.to_vec(), role, earliest_ms: 0 }];
    match d.mode {
        Mode::Initial => all(Role::Primary),
        Mode::BlueGreen => all(Role::Candidate),
        Mode::VersionOnly => {
            vec![PlanStep { agents: vec![Arc::from(BATCH_AGENT)], role: Role::Primary, earliest_ms: 0 }]
        }
        Mode::Noop | Mode::SwitchBack | Mode::Unchanged => Vec::new(),
        Mode::InPlace => {
            let (canaries, rest) = d.changed.split_at((d.canaries as usize).min(d.changed.len()));
            let parallel = d.policy.parallel(d.changed.len());
            let groups = (!canaries.is_empty())
                .then_some((canaries, Role::Canary))
                .into_iter()
                .chain(rest.chunks(parallel).map(|agents| (agents, Role::Primary)));
            let mut earliest_ms: u64 = 0;
            let mut batches = Vec::new();
            for (agents, role) in groups {
                batches.push(PlanStep { agents: agents.to_vec(), role, earliest_ms });
                earliest_ms = earliest_ms.saturating_add(d.policy.min_healthy_ms);
            }
            batches
        }
    }
}
