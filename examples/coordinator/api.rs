//! Types of the module's API as far as a coordinator uses it: the replies that it reads and the commands that it sends.

use crate::manifest::SpecResult;
use redis::Cmd;
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// State of a key: DEPLOY.STATUS and DEPLOY.TASKS, read in one transaction, and the node specs from the manifests of
/// the versions that occur in them.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub status: Status,
    pub tasks: Vec<Task>,
    /// Specs by version and node id.
    pub specs: BTreeMap<(u64, String), SpecResult>,
}

/// Reply of DEPLOY.STATUS.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    pub revision: u64,
    pub instances: Vec<Instance>,
    pub services: Vec<Service>,
    pub versions: Vec<Version>,
}

/// Entry of `versions`.
#[derive(Debug, Clone, Deserialize)]
pub struct Version {
    pub version: u64,
    /// Unix ms. Tells apart the versions of a key that was deleted and deployed again, which count from 1 again.
    pub submitted_at: u64,
}

/// Entry of `instances`.
#[derive(Debug, Clone, Deserialize)]
pub struct Instance {
    pub agent: String,
    pub node: String,
    pub version: u64,
    pub job_id: String,
    pub state: String,
    pub attempt: u32,
    pub reason: Option<String>,
    pub role: String,
    /// Number of sessions that it was last reported to hold.
    pub sessions: Option<u32>,
    /// Time at which its drain ends at the latest, Unix ms; None while no drain is open, or a pause holds it.
    pub drain_at: Option<u64>,
}

/// Entry of `services`.
#[derive(Debug, Clone, Deserialize)]
pub struct Service {
    pub service: String,
    pub instance: String,
    pub agent: String,
    pub address: String,
    pub port: u16,
    pub status: String,
    pub reason: Option<String>,
    pub ttl_ms: Option<u64>,
}

/// Entry of DEPLOY.TASKS.
#[derive(Debug, Clone, Deserialize)]
pub struct Task {
    pub task: String,
    pub agent: String,
    pub version: u64,
    pub job_id: String,
    pub attempt: u32,
}

impl Instance {
    /// Returns whether this is the instance of an agent at a version in a job.
    pub fn is(&self, agent: &str, version: u64, job: &str) -> bool {
        self.agent == agent && self.version == version && self.job_id == job
    }

    /// Returns the id of the coordinator that has started the attempt of an instance that is `starting`, if its report
    /// names one. (The record has it behind `starting: ` where the instance was healthy before.)
    pub fn claimant(&self) -> Option<&str> {
        let (_, claim) = self.reason.as_deref().filter(|_| self.state == "starting")?.split_once(CLAIM)?;
        Some(claim.split_once(": ").map_or(claim, |(id, _)| id))
    }

    /// Returns whether the record has it as running.
    pub fn is_running(&self) -> bool {
        ["starting", "ready", "unready"].contains(&self.state.as_str())
    }

    /// Returns whether it drains, or has drained and was not told to stop yet.
    pub fn is_draining(&self) -> bool {
        self.role == "draining"
    }
}

impl Status {
    /// Returns the submission time of a version; the record keeps every version that runs.
    pub fn submitted_at(&self, version: u64) -> u64 {
        self.versions.iter().find(|known| known.version == version).map_or(0, |known| known.submitted_at)
    }
}

impl Snapshot {
    /// Returns the task for an instance.
    pub fn task_of(&self, instance: &Instance) -> Option<&Task> {
        self.tasks.iter().find(|task| instance.is(&task.agent, task.version, &task.job_id))
    }

    /// Returns whether there is a `stop` task for an instance.
    pub fn must_stop(&self, instance: &Instance) -> bool {
        self.task_of(instance).is_some_and(|task| task.task == "stop")
    }
}

/// A write command of a coordinator. All are idempotent and name version, job and attempt, so that a late one cannot
/// apply to another instance.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    Report {
        agent: String,
        state: &'static str,
        version: u64,
        job: String,
        attempt: u32,
        reason: Option<String>,
    },
    /// The number of sessions of an instance, or where its drain stands; `state` is its present state, `draining` or
    /// `drained`.
    Sessions {
        agent: String,
        state: &'static str,
        version: u64,
        job: String,
        attempt: u32,
        number: Option<u32>,
    },
    Register(Box<Registration>),
    Check {
        instance: String,
        status: &'static str,
        reason: Option<String>,
    },
    Deregister {
        instance: String,
    },
}

/// Arguments of DEPLOY.REGISTER.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    pub agent: String,
    pub version: u64,
    pub job: String,
    pub service: String,
    pub instance: String,
    pub address: String,
    pub port: u16,
    pub status: &'static str,
    pub ttl_ms: u64,
    pub tags: Vec<String>,
    pub meta: Option<Json>,
}

/// Beginning of the reason of each report of `starting`. By it a coordinator tells its own claims from those of others,
/// also where the reply was lost.
const CLAIM: &str = "claimed by ";

/// Returns the reason of a report of `starting`.
pub fn claim_reason(coordinator: &str, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{CLAIM}{coordinator}: {reason}"),
        None => format!("{CLAIM}{coordinator}"),
    }
}

/// Builds DEPLOY.REPORT without its further options.
fn report_command(key: &str, agent: &str, state: &str, version: u64, job: &str, attempt: u32) -> Cmd {
    let mut command = redis::cmd("DEPLOY.REPORT");
    command.arg(key).arg(agent).arg(state).arg("VERSION").arg(version).arg("JOB").arg(job);
    command.arg("ATTEMPT").arg(attempt);
    command
}

/// Maximum length of REASON in bytes.
const REASON_MAX: usize = 1024;

/// Appends REASON, truncated to its maximum length.
fn with_reason(command: &mut Cmd, reason: &Option<String>) {
    if let Some(reason) = reason {
        command.arg("REASON").arg(truncated(reason));
    }
}

/// Truncates a reason to its maximum length.
fn truncated(reason: &str) -> &str {
    let end = (0..=REASON_MAX.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
    &reason[..end]
}

/// Returns whether a recorded reason is another one than `reason`. The record may have words of its own before it.
pub fn is_other_reason(recorded: Option<&str>, reason: &str) -> bool {
    recorded.is_none_or(|recorded| !recorded.ends_with(truncated(reason)))
}

impl Update {
    /// Returns what it is about: a service instance, or the instance of an agent.
    pub fn subject(&self) -> String {
        match self {
            Update::Register(registration) => format!("service {}", registration.instance),
            Update::Check { instance, .. } | Update::Deregister { instance } => format!("service {instance}"),
            Update::Report { agent, version, job, .. } => format!("agent {agent} v{version} in {job}"),
            Update::Sessions { agent, version, job, .. } => format!("sessions of {agent} v{version} in {job}"),
        }
    }

    /// Returns whether it is the same as another one but for the reason.
    pub fn states_the_same_as(&self, other: &Update) -> bool {
        let mut other = other.clone();
        match (self, &mut other) {
            (Update::Report { reason, .. }, Update::Report { reason: theirs, .. })
            | (Update::Check { reason, .. }, Update::Check { reason: theirs, .. }) => theirs.clone_from(reason),
            _ => {}
        }
        *self == other
    }

    /// Builds the command.
    pub fn command(&self, key: &str) -> Cmd {
        match self {
            Update::Report { agent, state, version, job, attempt, reason } => {
                let mut command = report_command(key, agent, state, *version, job, *attempt);
                with_reason(&mut command, reason);
                command
            }
            Update::Sessions { agent, state, version, job, attempt, number } => {
                let mut command = report_command(key, agent, state, *version, job, *attempt);
                if let Some(number) = number {
                    command.arg("SESSIONS").arg(*number);
                }
                command
            }
            Update::Register(service) => {
                let mut command = redis::cmd("DEPLOY.REGISTER");
                command.arg(key).arg(&service.agent).arg(&service.service).arg("INSTANCE").arg(&service.instance);
                command.arg("ADDRESS").arg(&service.address).arg("PORT").arg(service.port);
                command.arg("VERSION").arg(service.version).arg("JOB").arg(&service.job);
                command.arg("STATUS").arg(service.status).arg("TTL").arg(service.ttl_ms);
                if !service.tags.is_empty() {
                    command.arg("TAGS").arg(service.tags.len()).arg(&service.tags);
                }
                if let Some(meta) = &service.meta {
                    command.arg("META").arg(meta.to_string());
                }
                command
            }
            Update::Check { instance, status, reason } => {
                let mut command = redis::cmd("DEPLOY.CHECK");
                command.arg(key).arg(instance).arg(*status);
                with_reason(&mut command, reason);
                command
            }
            Update::Deregister { instance } => {
                let mut command = redis::cmd("DEPLOY.DEREGISTER");
                command.arg(key).arg(instance);
                command
            }
        }
    }
}
