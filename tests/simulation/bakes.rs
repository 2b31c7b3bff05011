//! The model's account of bakes, standbys and switch-backs (rule 12), from events alone.

use super::model::{Late, Model};
use redis_deploy::engine::event::NewDeployment;
use redis_deploy::engine::instance::{InstanceKey, Role};

impl Model {
    /// A rollback takes over what still runs its content.
    pub fn adopt(&mut self, beginning: &NewDeployment) {
        let version = &beginning.version;
        for adopted in &beginning.adopted {
            let key =
                InstanceKey { agent: adopted.agent.clone(), version: adopted.version, job_id: version.job_id.clone() };
            if let Some(seen) = self.instances.get_mut(&key) {
                (seen.role, seen.adopted_for) = (Role::Candidate, Some(version.number));
                seen.counts_for.insert(version.number);
            }
        }
    }

    /// The deployment has not ended well: what it has adopted stands by again, and standbys of its bake stay for
    /// `bake_ms` more.
    pub fn keep_standbys(&mut self, at: u64) {
        let Some((target, bake_ms)) = self.rollout.as_ref().map(|r| (r.target, r.policy.bake_ms)) else { return };
        for seen in self.instances.values_mut() {
            if seen.role == Role::Candidate && seen.adopted_for == Some(target) && !seen.told_to_stop {
                (seen.role, seen.adopted_for) = (Role::Standby, None);
                if seen.stands_until == Late::Never {
                    seen.stands_until = Late::At(at);
                }
            }
            if seen.role == Role::Standby && seen.stands_until == Late::Never {
                seen.stands_until = Late::At(at + bake_ms);
            }
        }
    }
}
