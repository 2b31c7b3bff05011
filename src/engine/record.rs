//! The record: everything that one key holds. Plain data with questions that it can answer about itself; `decide`
//! decides its changes, `evolve` applies them.

use super::deployment::{Deployment, IdempotencyEntry};
use super::event_log::Log;
use super::instance::{is_same, Health, Instance, InstanceState, Role, TaskKind};
use super::instances::Instances;
use super::policy::HealthCheck;
use super::services::{CheckStatus, Service, Services};
use super::time::UnixMs;
use super::version::Version;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// Everything that one key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Incremented by each event.
    pub revision: u64,
    /// The newest version ever recorded. Numbers are never reused, not even those of trimmed versions.
    pub last_version: u64,
    pub current_version: Option<u64>,
    pub current_job_id: Option<Arc<str>>,
    /// In ascending order of number.
    pub versions: Arc<Vec<Arc<Version>>>,
    /// The latest deployment; None only before the first event.
    pub deployment: Option<Arc<Deployment>>,
    pub instances: Instances,
    pub services: Services,
    /// Oldest first.
    pub log: Log,
    /// Oldest first.
    pub requests: Arc<VecDeque<IdempotencyEntry>>,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
}

impl Default for Record {
    fn default() -> Record {
        Record::empty()
    }
}

impl Record {
    pub fn empty() -> Record {
        Record {
            revision: 0,
            last_version: 0,
            current_version: None,
            current_job_id: None,
            versions: Arc::default(),
            deployment: None,
            instances: Instances::default(),
            services: Services::default(),
            log: Log::default(),
            requests: Arc::default(),
            created_at: 0,
            updated_at: 0,
        }
    }

    pub fn version(&self, number: u64) -> Option<&Arc<Version>> {
        self.versions.binary_search_by_key(&number, |v| v.number).ok().map(|i| &self.versions[i])
    }

    /// Returns the newest version with the `stable` flag.
    pub fn stable_version(&self) -> Option<u64> {
        self.versions.iter().rev().find(|v| v.stable).map(|v| v.number)
    }

    pub fn version_of_tag(&self, tag: &str) -> Option<&Arc<Version>> {
        self.versions.iter().find(|v| v.tag.as_deref() == Some(tag))
    }

    /// Returns the version of the deployment with this id.
    pub fn version_of_deployment(&self, id: &str) -> Option<&Arc<Version>> {
        self.versions.iter().find(|v| *v.deployment_id == *id)
    }

    /// Returns the version that ROLLBACK without an argument takes (rule 4.12).
    ///
    /// It never leads back to the version that was rolled away from (rule 19.1): a rollback in effect needs no other,
    /// and one that has failed or was cancelled is tried again.
    pub fn rollback_target(&self) -> Option<u64> {
        let deployment = self.deployment.as_ref().filter(|d| !d.is_rollback_in_effect())?;
        if let Some(number) = deployment.rollback_of {
            return self.version(number).filter(|v| v.stable || v.job_type.is_batch()).map(|v| v.number);
        }
        let last = deployment.target_version;
        let after_batch = self.version(last).is_some_and(|v| v.job_type.is_batch());
        self.versions
            .iter()
            .rev()
            .find(|v| v.number != last && (v.stable || (after_batch && v.job_type.is_batch())))
            .map(|v| v.number)
    }

    pub fn is_active(&self) -> bool {
        self.deployment.as_ref().is_some_and(|d| d.status.is_active())
    }

    /// Returns true for an instance of the current deployment: one that it started, replaced or adopted.
    pub fn is_own(&self, instance: &Instance) -> bool {
        self.deployment.as_ref().is_some_and(|d| {
            instance.deployed_version() == d.target_version && is_same(&instance.job_id, &d.target_job_id)
        })
    }

    /// Returns the newest version for which an instance counts (rule 11.6).
    pub fn until_version(&self, instance: &Instance) -> u64 {
        let newest = self.versions.iter().rev().map(|v| v.number).find(|number| instance.counts_for(*number));
        newest.unwrap_or(instance.version)
    }

    /// Returns the agents of a version with their nodes, in manifest order.
    pub fn agents_with_nodes(&self, number: u64) -> Vec<(Arc<str>, Arc<str>)> {
        self.version(number).map(|v| v.agents_with_nodes()).unwrap_or_default()
    }

    /// Returns true if the record has an agent: as an instance, or in a kept version.
    pub fn has_agent(&self, agent: &str) -> bool {
        !self.instances.of_agent(agent).is_empty() || self.versions.iter().any(|v| v.has_agent(agent))
    }

    /// Returns the instance that an agent now runs (rule 8 "What an agent now runs"): the old one until the first
    /// report about the new one. Candidates, standbys and instances that are stopping, or drain for a stop, do not
    /// count, nor does a replacement nobody has taken up.
    pub fn running_instance(&self, agent: &str) -> Option<&Instance> {
        self.running_instance_where(agent, |_| true)
    }

    /// Returns the instance that an agent now runs in a job, and that can be replaced there: also one that has drained,
    /// and that nothing follows yet.
    pub fn running_instance_in(&self, agent: &str, job_id: &str) -> Option<&Instance> {
        self.running_instance_where(agent, |i| *i.job_id == *job_id && (i.is_running() || i.is_drained()))
    }

    fn running_instance_where(&self, agent: &str, pick: impl Fn(&Instance) -> bool) -> Option<&Instance> {
        let eligible = || {
            self.instances.of_agent(agent).iter().filter(|i| {
                !i.is_leaving() && !matches!(i.role, Role::Candidate | Role::Retired | Role::Standby) && pick(i)
            })
        };
        eligible().rev().find(|i| i.state != InstanceState::Waiting).or_else(|| {
            let starts =
                |i: &&Instance| matches!(&i.task, Some(t) if matches!(t.kind, TaskKind::Start | TaskKind::Run));
            // One that was to start anew, and that a withdrawn successor has left, is what the agent has.
            eligible().rev().find(|i| starts(i) || i.is_drained())
        })
    }

    /// Checks the health of an instance now; the error says what is wrong (rule 4.9, `health_check`).
    pub fn check_health(&self, instance: &Instance) -> Result<(), String> {
        if instance.state != InstanceState::Ready {
            return Err(match (&instance.state, &instance.reason) {
                (InstanceState::Waiting, _) => "never ready: no report yet".to_string(),
                // The reason of a verdict names the state that it was about.
                (state, Some(reason)) if reason.contains(state.name()) => reason.to_string(),
                (state, Some(reason)) => format!("{}: {reason}", state.name()),
                (state, None) => format!("not ready: {}", state.name()),
            });
        }
        let faults = self.health_violations(instance, self.services.of_instance(instance));
        let words: Vec<String> = faults.map(|fault| fault.to_string()).collect();
        match words.is_empty() {
            true => Ok(()),
            false => Err(words.join(", ")),
        }
    }

    /// Describes why an instance is not healthy, by what holds now: with the words of its verdict as long as they are
    /// true.
    pub fn why_not_healthy(&self, instance: &Instance) -> String {
        let now = self.check_health(instance).err().unwrap_or_else(|| "ready, not long enough".to_string());
        let verdict = instance.reason.as_deref().filter(|_| instance.health == Health::Unhealthy);
        // Not one that also names what is well again.
        let is_true = |verdict: &&str| {
            verdict.strip_suffix(now.as_str()).is_some_and(|before| before.is_empty() || before.ends_with(": "))
        };
        verdict.filter(is_true).map(str::to_string).unwrap_or(now)
    }

    /// Returns the violations of an instance with these service instances.
    pub(super) fn health_violations<'r>(
        &'r self,
        instance: &Instance,
        services: impl Iterator<Item = &'r Arc<Service>> + Clone + 'r,
    ) -> impl Iterator<Item = HealthViolation<'r>> {
        let checked = self.version(instance.version).filter(|v| v.policy.health_check != HealthCheck::AgentStates);
        let declared = checked.map(|v| v.content.services_of(&instance.node)).unwrap_or_default();
        let services = checked.map(|_| services).into_iter().flatten();
        let failing =
            services.clone().filter(|s| s.status != CheckStatus::Passing).map(|s| HealthViolation::Failing(s));
        let is_missing =
            move |name: &&Arc<str>| !services.clone().any(|s| s.service == **name && s.status == CheckStatus::Passing);
        failing.chain(declared.iter().filter(is_missing).map(HealthViolation::Missing))
    }
}

/// A violation of an instance's health by its services.
pub(super) enum HealthViolation<'r> {
    Failing(&'r Service),
    /// A declared service without a passing instance.
    Missing(&'r Arc<str>),
}

impl fmt::Display for HealthViolation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HealthViolation::Failing(Service { instance, status, reason: Some(reason), .. }) => {
                write!(f, "check of {instance} is {} ({reason})", status.name())
            }
            HealthViolation::Failing(Service { instance, status, .. }) => {
                write!(f, "check of {instance} is {}", status.name())
            }
            HealthViolation::Missing(name) => write!(f, "service {name} has no passing instance"),
        }
    }
}
