//! Warnings of DEPLOY, ROLLBACK and PLAN: what is allowed, but may not be intended (rule 9.2).

use crate::engine::deployment::{Deployment, Mode};
use crate::engine::policy::{Condition, CountOrPercent, Gate, Strategy};
use crate::engine::record::Record;
use std::sync::Arc;

/// Returns warnings about the deployment that has just started.
pub(super) fn plan_warnings(record: &Record, has_job: bool) -> Vec<String> {
    let Some(d) = &record.deployment else { return Vec::new() };
    let mut warnings = Vec::new();
    let changed = d.changed.len();
    let more_than_changed = |amount: CountOrPercent| matches!(amount, CountOrPercent::Count(n) if n as usize > changed);
    if matches!(d.mode, Mode::InPlace) {
        if more_than_changed(d.policy.max_parallel) {
            warnings.push(format!("max_parallel is above the number of changed agents ({changed})"));
        }
        let agents = record.agents_with_nodes(d.target_version).len();
        if d.policy.drain_ms > 0 && d.policy.parallel(changed).max(d.canaries as usize) >= agents {
            warnings.push(format!(
                "drain_ms: all {agents} agents may drain at once, and none would take new sessions meanwhile"
            ));
        }
        warnings.extend(equal_steps(d));
        if d.has_bake() {
            warnings.push("bake_ms: an update in place bakes, but keeps nothing on standby".to_string());
        }
        if has_job {
            warnings.push(format!("JOB is not used: an update in place keeps job {}", d.target_job_id));
        }
    }
    if matches!(d.mode, Mode::InPlace | Mode::BlueGreen) && more_than_changed(d.policy.canary) {
        warnings.push(format!("canary is above the number of changed agents ({changed})"));
    }
    if d.is_gradual() && !(d.policy.steps.is_empty() && d.policy.gates.is_empty()) {
        warnings.push("steps and gates have no effect in this version".to_string());
    }
    warnings.extend(idle_gates(d));
    if d.has_steps() && d.policy.auto_promote {
        warnings.push("auto_promote has no effect: steps need no promotion".to_string());
    }
    let adopted = record.instances.counts(d.target_version, &d.target_job_id).placed;
    if d.mode == Mode::BlueGreen && d.requested_strategy != Strategy::BlueGreen && adopted == 0 {
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

/// Warns of steps in place that come to the same number of agents.
fn equal_steps(d: &Deployment) -> Vec<String> {
    let agents = |percent: u32| CountOrPercent::Percent(percent).of(d.changed.len());
    let counts: Vec<(usize, usize)> = d.policy.steps.iter().map(|step| agents(step.percent)).enumerate().collect();
    let runs = counts.chunk_by(|(_, a), (_, b)| a == b).filter(|run| run.len() > 1);
    let warning = |run: &[(usize, usize)]| {
        let [(first, agents), .., (last, _)] = run else { return None };
        Some(format!("steps[{first}] to steps[{last}] come to the same number of agents ({agents})"))
    };
    runs.filter_map(warning).collect()
}

/// Warns of gates that are never asked, and of measures that no caller can feed.
fn idle_gates(d: &Deployment) -> Vec<String> {
    if !d.is_gradual() {
        return Vec::new();
    }
    let steps = &d.policy.steps;
    let is_named =
        |name: &Arc<str>| steps.iter().any(|step| step.gates.as_ref().is_none_or(|gates| gates.contains(name)));
    let waits = d.mode == Mode::BlueGreen || d.canaries > 0;
    let warning = |(name, gate): (&Arc<str>, &Gate)| {
        let is_measure = matches!(gate.condition, Condition::Measure { .. });
        let bakes = is_measure && d.has_bake();
        let is_asked = bakes || if steps.is_empty() { waits } else { is_named(name) };
        if !is_asked {
            Some(format!("gate {name} is never asked"))
        } else if is_measure && steps.is_empty() && !bakes {
            Some(format!("gate {name}: no caller can feed its measure without steps or a bake"))
        } else {
            None
        }
    };
    d.policy.gates.iter().filter_map(warning).collect()
}
