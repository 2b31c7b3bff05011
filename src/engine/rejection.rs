//! Rejections: a closed set of named errors with their data. Their texts are made here and nowhere else.

use thiserror::Error;

/// The code word of an error reply (rule 3, "Errors").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    Err,
    WrongType,
    NotFound,
    Invalid,
    BadState,
    Unhealthy,
    Conflict,
    Limit,
}

impl Code {
    pub const ALL: [Code; 8] = [
        Code::Err,
        Code::WrongType,
        Code::NotFound,
        Code::Invalid,
        Code::BadState,
        Code::Unhealthy,
        Code::Conflict,
        Code::Limit,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Code::Err => "ERR",
            Code::WrongType => "WRONGTYPE",
            Code::NotFound => "NOTFOUND",
            Code::Invalid => "INVALID",
            Code::BadState => "BADSTATE",
            Code::Unhealthy => "UNHEALTHY",
            Code::Conflict => "CONFLICT",
            Code::Limit => "LIMIT",
        }
    }
}

/// The reason why a record is read-only. Its bytes are kept as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReadOnlyReason {
    #[error("this record was written by a newer version of the module and is read-only here")]
    NewerVersion,
    #[error("this record is damaged and is read-only; its bytes are kept as they are")]
    Damaged,
    #[error(
        "a change of this record could not be applied here; it is read-only, and its bytes and the change are kept"
    )]
    NotApplied,
}

/// The reason why a command is rejected. A rejected command changes, publishes and replicates nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejection {
    #[error("{0}")]
    Syntax(String),
    #[error("Operation against a key holding the wrong kind of value")]
    WrongType,
    #[error("no deployment at key '{0}'")]
    NoSuchKey(String),
    #[error("version {0} is not in the history")]
    NoSuchVersion(u64),
    #[error("no version has the tag '{0}'")]
    NoSuchTag(String),
    #[error("agent '{0}' is not on the record")]
    NoSuchAgent(String),
    #[error("service instance '{0}' is not registered")]
    NoSuchService(String),
    #[error("no instance of version {version} drains")]
    NothingDrains { version: u64 },
    #[error("deployment '{0}' is not on the record")]
    NoSuchDeployment(String),
    #[error("{}", joined(.0))]
    Invalid(Vec<String>),
    #[error("deployment {deployment_id} is {status}, expected {expected}")]
    BadState { deployment_id: String, status: &'static str, expected: &'static str },
    #[error("version {version} was never stable, expected a stable version")]
    NeverStable { version: u64 },
    #[error("version {version} is running already")]
    RunsAlready { version: u64 },
    #[error("version {version} is a rollback to version {rollback_of} already; name another by VERSION or TAG")]
    RolledBackAlready { version: u64, rollback_of: u64 },
    #[error(
        "deployment {deployment_id} has not proved itself yet, and this would change nothing: change its policy by \
         DEPLOY.POLICY, end its bake by PROMOTE FULL, or end it by STOP or FAIL"
    )]
    Unproved { deployment_id: String },
    #[error("there is no other version to roll back to: only stable versions and batch runs count")]
    NoStableVersion,
    #[error("agent '{agent}' of version {version} is not a batch job, which alone can be completed")]
    NotABatchJob { agent: String, version: u64 },
    #[error("{healthy} of {desired} {what} healthy: {why}")]
    Unhealthy { healthy: usize, desired: usize, what: &'static str, why: String },
    #[error("the current deployment is {current}, not {given}")]
    OtherDeployment { current: String, given: String },
    #[error("the newest version is {newest}, not {given}")]
    OtherVersion { newest: u64, given: u64 },
    #[error("tag '{tag}' names version {version}; UNTAG it first")]
    TagTaken { tag: String, version: u64 },
    #[error("service instance '{instance}' is registered by agent '{agent}' of job {job_id}, which is running")]
    ServiceInstanceTaken { instance: String, agent: String, job_id: String },
    #[error("job '{0}' has instances already; a second job needs a name of its own")]
    JobTaken(String),
    #[error("{what} is longer or more than the {max} allowed")]
    Limit { what: String, max: u64 },
    #[error("versions that drain or are on standby: {versions} of at most {max}; the oldest is version {oldest}, with {holds}")]
    VersionsAlive { versions: usize, max: usize, oldest: u64, holds: String },
    #[error("{0}")]
    ReadOnlyRecord(ReadOnlyReason),
    #[error("the manifest of version {0} is damaged: it is no JSON; its bytes are kept as they are")]
    DamagedManifest(u64),
}

/// Returns a manifest's violations in one line: the first twenty.
fn joined(all: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text = all.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
    if all.len() > SHOWN {
        text.push_str(&format!("; and {} more", all.len() - SHOWN));
    }
    text
}

impl Rejection {
    pub fn code(&self) -> Code {
        match self {
            Rejection::Syntax(_) => Code::Err,
            Rejection::WrongType => Code::WrongType,
            Rejection::NoSuchKey(_)
            | Rejection::NoSuchVersion(_)
            | Rejection::NoSuchTag(_)
            | Rejection::NoSuchAgent(_)
            | Rejection::NoSuchService(_)
            | Rejection::NothingDrains { .. }
            | Rejection::NoSuchDeployment(_) => Code::NotFound,
            Rejection::Invalid(_) => Code::Invalid,
            Rejection::BadState { .. }
            | Rejection::NeverStable { .. }
            | Rejection::RunsAlready { .. }
            | Rejection::RolledBackAlready { .. }
            | Rejection::NoStableVersion
            | Rejection::Unproved { .. }
            | Rejection::NotABatchJob { .. }
            | Rejection::ReadOnlyRecord(_)
            | Rejection::DamagedManifest(_) => Code::BadState,
            Rejection::Unhealthy { .. } => Code::Unhealthy,
            Rejection::OtherDeployment { .. }
            | Rejection::OtherVersion { .. }
            | Rejection::TagTaken { .. }
            | Rejection::ServiceInstanceTaken { .. }
            | Rejection::JobTaken(_) => Code::Conflict,
            Rejection::Limit { .. } | Rejection::VersionsAlive { .. } => Code::Limit,
        }
    }
}
