//! DEPLOY.PLAN: the decision of DEPLOY, without its effect (rules 3 and 7). It decides on a draft and drops it.

use super::command::{Context, Deploy};
use super::decide::versions::{deploy, Deployed};
use super::deployment::{Deployment, Mode};
use super::draft::Draft;
use super::instance::Role;
use super::manifest::BATCH_AGENT;
use super::policy::{CountOrPercent, Strategy};
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
        Deployed::Started { plan: version_plan, mut warnings } => {
            plan.batches = batches(d);
            warnings.extend(self::warnings(d, asked, &draft.record));
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
        Mode::Noop | Mode::Unchanged => Vec::new(),
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

/// Returns warnings of what is allowed, but may not be intended.
fn warnings(d: &Deployment, asked: &Deploy, record: &Record) -> Vec<String> {
    let mut warnings = Vec::new();
    let changed = d.changed.len();
    let more_than_changed = |amount: CountOrPercent| matches!(amount, CountOrPercent::Count(n) if n as usize > changed);
    if matches!(d.mode, Mode::InPlace) {
        if more_than_changed(d.policy.max_parallel) {
            warnings.push(format!("max_parallel is above the number of changed agents ({changed})"));
        }
        if asked.job.is_some() {
            warnings.push(format!("JOB is not used: an update in place keeps job {}", d.target_job_id));
        }
    }
    if matches!(d.mode, Mode::InPlace | Mode::BlueGreen) && more_than_changed(d.policy.canary) {
        warnings.push(format!("canary is above the number of changed agents ({changed})"));
    }
    if d.mode == Mode::BlueGreen && d.requested_strategy != Strategy::BlueGreen {
        warnings.push(format!(
            "{}: all {changed} agents start in a second job, side by side with the old ones",
            d.mode_reason
        ));
    }
    if !d.removed_agents.is_empty() {
        warnings.push(format!("{} agents get a stop task at the end", d.removed_agents.len()));
    }
    if d.policy.auto_revert && d.rollback_of.is_none() && record.stable_version().is_none() {
        warnings.push("auto_revert has no stable version to go back to".to_string());
    }
    warnings
}
