//! What a coordinator reads of a deployment's record, and what it says to it.

use crate::manifest::Reading;
use redis::Cmd;
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// One reading of a key, taken in one transaction: DEPLOY.STATUS and DEPLOY.TASKS, and what the manifests of the
/// versions in them say of each node.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub status: Status,
    pub tasks: Vec<Task>,
    pub specs: BTreeMap<(u64, String), Reading>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    pub revision: u64,
    pub instances: Vec<Instance>,
    pub services: Vec<Service>,
    pub versions: Vec<Version>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Version {
    pub version: u64,
    /// Unix ms. A key that is deleted and deployed anew counts versions from 1 again; by this one tells them apart.
    pub submitted_at: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Instance {
    pub agent: String,
    pub node: String,
    pub version: u64,
    pub job_id: String,
    pub state: String,
    pub attempt: u32,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Service {
    pub service: String,
    pub instance: String,
    pub agent: String,
    pub address: String,
    pub port: u16,
    pub status: String,
    pub ttl_ms: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Task {
    pub task: String,
    pub agent: String,
    pub version: u64,
    pub job_id: String,
    pub attempt: u32,
}

impl Instance {
    pub fn is(&self, agent: &str, version: u64, job: &str) -> bool {
        self.agent == agent && self.version == version && self.job_id == job
    }

    /// Somebody has said of it that it runs.
    pub fn is_said_to_run(&self) -> bool {
        ["starting", "ready", "unready"].contains(&self.state.as_str())
    }
}

impl Status {
    /// When the version of an instance was submitted: the record keeps every version that runs.
    pub fn submitted_at(&self, version: u64) -> u64 {
        self.versions.iter().find(|known| known.version == version).map_or(0, |known| known.submitted_at)
    }
}

impl Snapshot {
    pub fn task_of(&self, instance: &Instance) -> Option<&Task> {
        self.tasks.iter().find(|task| instance.is(&task.agent, task.version, &task.job_id))
    }

    pub fn is_told_to_stop(&self, instance: &Instance) -> bool {
        self.task_of(instance).is_some_and(|task| task.task == "stop")
    }
}

/// What a coordinator says. Each may be said again without harm, and names version, job and attempt, so that it can
/// never be taken for something about another instance.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    Report { agent: String, state: &'static str, version: u64, job: String, attempt: u32, reason: Option<String> },
    Register(Box<Registration>),
    Check { instance: String, status: &'static str, reason: Option<String> },
    Deregister { instance: String },
}

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

/// The longest REASON that the module takes, in bytes.
const REASON_MAX: usize = 1024;

fn with_reason(command: &mut Cmd, reason: &Option<String>) {
    if let Some(reason) = reason {
        let end = (0..=REASON_MAX.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
        command.arg("REASON").arg(&reason[..end]);
    }
}

impl Statement {
    pub fn command(&self, key: &str) -> Cmd {
        match self {
            Statement::Report { agent, state, version, job, attempt, reason } => {
                let mut command = redis::cmd("DEPLOY.REPORT");
                command.arg(key).arg(agent).arg(*state).arg("VERSION").arg(*version).arg("JOB").arg(job);
                command.arg("ATTEMPT").arg(*attempt);
                with_reason(&mut command, reason);
                command
            }
            Statement::Register(service) => {
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
            Statement::Check { instance, status, reason } => {
                let mut command = redis::cmd("DEPLOY.CHECK");
                command.arg(key).arg(instance).arg(*status);
                with_reason(&mut command, reason);
                command
            }
            Statement::Deregister { instance } => {
                let mut command = redis::cmd("DEPLOY.DEREGISTER");
                command.arg(key).arg(instance);
                command
            }
        }
    }
}
