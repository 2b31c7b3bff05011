//! The model's account of bakes, standbys and switch-backs (rule 12), from events alone.

use super::model::{key_of, Late, Model, Phase, Rollout, Seen};
use redis_deploy::engine::command::Command;
use redis_deploy::engine::deployment::Mode;
use redis_deploy::engine::event::{AgentReport, Event, EventBody, NewDeployment};
use redis_deploy::engine::instance::{InstanceKey, InstanceState, Role};

impl Seen {
    pub fn runs(&self) -> bool {
        matches!(self.state, InstanceState::Starting | InstanceState::Ready | InstanceState::Unready)
    }
}

impl Rollout {
    /// Returns true if it bakes, or will, before it is successful.
    pub fn has_bake(&self) -> bool {
        matches!(self.mode, Mode::InPlace | Mode::BlueGreen) && self.policy.bake_ms > 0 && !self.skips_bake
    }

    /// An own instance is not healthy: the bake stops, and the progress deadline runs, anew.
    pub fn stop_bake(&mut self, at: u64) {
        if self.bake == Late::Never {
            return;
        }
        let ms = self.policy.progress_deadline_ms;
        self.bake = Late::Never;
        self.progress = match self.phase {
            _ if ms == 0 => Late::Never,
            Phase::Paused { .. } => Late::Left(ms),
            _ => Late::At(at + ms),
        };
    }
}

fn adopted_keys(beginning: &NewDeployment) -> impl Iterator<Item = InstanceKey> + use<'_> {
    beginning.adopted.iter().map(|adopted| adopted.key(&beginning.version.job_id))
}

impl Model {
    /// A rollback takes over what still runs its content.
    pub fn adopt(&mut self, beginning: &NewDeployment) {
        let version = &beginning.version;
        for key in adopted_keys(beginning) {
            if let Some(seen) = self.instances.get_mut(&key) {
                (seen.role, seen.adopted_for) = (Role::Candidate, Some(version.number));
                seen.counts_for.insert(version.number);
            }
        }
    }

    pub fn start_bake(&mut self, at: u64) {
        let Some(r) = &mut self.rollout else { return };
        (r.is_baking, r.bake, r.progress) = (true, Late::At(at + r.policy.bake_ms), Late::Never);
        // The old side may end by itself from now on.
        if r.has_second_job() {
            let told = self.versions.get(&r.target);
            self.should_run = told.map(|told| told.agents_with_nodes()).unwrap_or_default().into_iter().collect();
        }
    }

    /// The deployment has not ended well: what it has adopted stands by again, and standbys of its bake stay for
    /// `bake_ms` more.
    pub fn keep_standbys(&mut self, at: u64) {
        let Some((target, bake_ms)) = self.rollout.as_ref().map(|r| (r.target, r.policy.bake_ms)) else { return };
        for seen in self.instances.values_mut() {
            if seen.role == Role::Candidate && seen.adopted_for == Some(target) && !seen.told_to_stop {
                (seen.role, seen.adopted_for) = (Role::Standby, None);
                seen.stands_until = match seen.stands_until {
                    Late::At(until) => Late::At(until.max(at)),
                    _ => Late::At(at),
                };
            }
            // What drains has the role that it had before.
            if seen.role == Role::Standby && seen.drain.is_none() && seen.stands_until == Late::Never {
                seen.stands_until = Late::At(at + bake_ms);
            }
        }
    }
}

/// Situations of bakes and standbys, as the run counts them: each must occur in a thousand worlds.
pub const SITUATIONS: [&str; 21] = [
    "bake of a second job",
    "bake in place",
    "bake anew",
    "bake stopped",
    "bake stopped in a pause",
    "bake paused",
    "bake ended well",
    "bake ended by PROMOTE FULL",
    "bake skipped by PROMOTE FULL",
    "bake failed",
    "bake failed and reverted",
    "bake cancelled by DEPLOY",
    "bake cancelled by ROLLBACK",
    "bake cancelled by STOP",
    "rollback adopts all",
    "rollback adopts some",
    "rollback adopts what was to drain",
    "rollback leaves standbys",
    "adopted stand by again",
    "standby ended after its time",
    "standby stopped",
];

/// Names what an event means for a bake or a standby.
pub fn situation(model: &Model, event: &Event, command: &Command) -> Option<&'static str> {
    let r = model.rollout.as_ref()?;
    Some(match &event.body {
        EventBody::BakeStarted { .. } if r.is_baking => "bake anew",
        EventBody::BakeStarted { .. } if r.has_second_job() => "bake of a second job",
        EventBody::BakeStarted { .. } => "bake in place",
        EventBody::AgentUnhealthy { instance, .. } if r.bake != Late::Never => {
            let own = model.is_own(&key_of(instance, event.version));
            let name = if matches!(r.phase, Phase::Paused { .. }) { "bake stopped in a pause" } else { "bake stopped" };
            return own.then_some(name);
        }
        EventBody::DeploymentSuccessful { .. } if r.is_baking => match command {
            Command::Promote { full: true, .. } => "bake ended by PROMOTE FULL",
            _ => "bake ended well",
        },
        EventBody::DeploymentPromoted { full: true, .. } if r.has_bake() => "bake skipped by PROMOTE FULL",
        EventBody::DeploymentPaused { .. } if r.is_baking => "bake paused",
        EventBody::DeploymentFailed { description, .. } if r.is_baking && description.contains("reverts to") => {
            "bake failed and reverted"
        }
        EventBody::DeploymentFailed { .. } if r.is_baking => "bake failed",
        EventBody::DeploymentCancelled { .. } if r.is_baking => match command {
            Command::Deploy(_) => "bake cancelled by DEPLOY",
            Command::Rollback(_) => "bake cancelled by ROLLBACK",
            _ => "bake cancelled by STOP",
        },
        EventBody::TaskIssued { instance, .. } => {
            let seen = model.instances.get(&key_of(instance, event.version))?;
            let ended = seen.role == Role::Standby && seen.drain.is_none() && has_passed(seen.stands_until, event.at);
            return ended.then_some("standby ended after its time");
        }
        EventBody::AgentState { instance, state: AgentReport::State(InstanceState::Stopped), .. } => {
            return (instance.role == Role::Standby).then_some("standby stopped")
        }
        _ => return None,
    })
}

/// Names what an event means for what a rollback adopts, or has adopted.
pub fn adoption(model: &Model, event: &Event) -> Option<&'static str> {
    let target = model.rollout.as_ref()?.target;
    Some(match &event.body {
        EventBody::DeploymentStarted(b) if b.version.rollback_of.is_some() && b.adopted.is_empty() => {
            let stand_by = model.instances.values().any(|seen| seen.role == Role::Standby && !seen.told_to_stop);
            return stand_by.then_some("rollback leaves standbys");
        }
        EventBody::DeploymentStarted(b) if b.adopted.is_empty() => return None,
        EventBody::DeploymentStarted(b) => {
            let found = model.found_by_rollback.as_ref()?;
            let drained = |adopted: InstanceKey| found.get(&adopted).is_some_and(|seen| seen.drain.is_some());
            match b.mode {
                _ if adopted_keys(b).any(drained) => "rollback adopts what was to drain",
                Mode::SwitchBack => "rollback adopts all",
                _ => "rollback adopts some",
            }
        }
        EventBody::DeploymentFailed { .. } | EventBody::DeploymentCancelled { .. } => {
            let returns = |seen: &Seen| seen.adopted_for == Some(target) && seen.role == Role::Candidate;
            return model.instances.values().any(returns).then_some("adopted stand by again");
        }
        _ => return None,
    })
}

pub fn has_passed(late: Late, at: u64) -> bool {
    matches!(late, Late::At(end) if end <= at)
}
