//! Commands: the input of the engine, in the imperative. Syntax is validated already: options are typed, texts are
//! UTF-8.

use super::names::named_enum;
use super::policy::PolicyPatch;
use super::services::CheckStatus;
use super::time::UnixMs;
use std::sync::Arc;

/// The arguments of DEPLOY and PLAN (rule 3).
#[derive(Debug, Clone, Default)]
pub struct Deploy {
    /// The manifest as given. The engine validates its encoding and its content.
    pub manifest: Vec<u8>,
    pub bundle: Option<Arc<str>>,
    pub job: Option<Arc<str>>,
    pub agents: Option<Vec<Arc<str>>>,
    pub tag: Option<Arc<str>>,
    pub reason: Option<Arc<str>>,
    pub request: Option<Arc<str>>,
    pub if_version: Option<u64>,
    pub policy: PolicyPatch,
}

/// The target of ROLLBACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RollbackTo {
    NewestStable,
    Version(u64),
    Tag(Arc<str>),
}

#[derive(Debug, Clone)]
pub struct Rollback {
    pub to: RollbackTo,
    pub id: Option<Arc<str>>,
    pub reason: Option<Arc<str>>,
    pub request: Option<Arc<str>>,
    pub policy: PolicyPatch,
}

/// The options that PROMOTE, PAUSE, RESUME, FAIL and STOP share.
#[derive(Debug, Clone, Default)]
pub struct Operate {
    /// `CONFLICT` unless this is the current deployment.
    pub id: Option<Arc<str>>,
    pub reason: Option<Arc<str>>,
}

named_enum! {
    /// The report of a coordinator about an instance.
    pub enum ReportedState {
        Starting = "starting",
        Ready = "ready",
        Unready = "unready",
        Failed = "failed",
        Stopped = "stopped",
        Completed = "completed",
        Unsafe = "unsafe",
        /// It finishes its sessions, and takes no new ones.
        Draining = "draining",
        /// It holds no session, and accepts none.
        Drained = "drained",
    }
}

#[derive(Debug, Clone)]
pub struct Report {
    pub agent: Arc<str>,
    pub state: ReportedState,
    pub version: Option<u64>,
    pub job: Option<Arc<str>>,
    pub attempt: Option<u32>,
    pub reason: Option<Arc<str>>,
    /// The number of sessions that the instance holds.
    pub sessions: Option<u32>,
}

#[derive(Debug, Clone)]
pub struct Register {
    pub agent: Arc<str>,
    pub service: Arc<str>,
    /// The service instance's id, unique within the key.
    pub instance: Arc<str>,
    pub address: Arc<str>,
    pub port: u16,
    pub version: Option<u64>,
    pub job: Option<Arc<str>>,
    pub status: CheckStatus,
    pub ttl_ms: Option<u64>,
    pub tags: Vec<Arc<str>>,
    /// A JSON value, as given. The engine validates it.
    pub meta: Option<Arc<str>>,
    /// The reason for the status.
    pub reason: Option<Arc<str>>,
}

#[derive(Debug, Clone)]
pub struct Check {
    pub instance: Arc<str>,
    pub status: CheckStatus,
    pub reason: Option<Arc<str>>,
    /// The number of sessions that the agent's instance holds.
    pub sessions: Option<u32>,
}

/// The options of DEPLOY.DRAIN.
#[derive(Debug, Clone)]
pub struct EndDrains {
    /// The version that the draining instances run.
    pub version: u64,
    /// The time from now at which their drains end. 0: at once.
    pub ms: u64,
    pub id: Option<Arc<str>>,
    pub reason: Option<Arc<str>>,
}

/// A command for one record.
#[derive(Debug, Clone)]
pub enum Command {
    Deploy(Deploy),
    Rollback(Rollback),
    Promote {
        options: Operate,
        /// Passes the bake as well.
        full: bool,
    },
    Pause(Operate),
    Resume(Operate),
    Fail(Operate),
    Stop {
        options: Operate,
        /// Without drains.
        now: bool,
    },
    Drain(EndDrains),
    Tag {
        version: u64,
        tag: Arc<str>,
    },
    Untag {
        tag: Arc<str>,
    },
    Report(Report),
    Register(Register),
    Check(Check),
    Deregister {
        instance: Arc<str>,
    },
    /// Time has passed. Late, early or repeated ticks are harmless.
    Tick,
}

impl Command {
    /// Returns true if the events carry the caller's name, `Context::by` (rule 5).
    pub fn has_author(&self) -> bool {
        !matches!(
            self,
            Command::Report(_) | Command::Register(_) | Command::Check(_) | Command::Deregister { .. } | Command::Tick
        )
    }
}

/// The configured limits that a decision depends on. Their effect is in the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `deploy.history-max`, versions.
    pub history_max: usize,
    /// `deploy.events-max`, entries of the log.
    pub events_max: usize,
    /// `deploy.manifest-max-bytes`.
    pub manifest_max_bytes: usize,
    /// `deploy.agents-max`.
    pub agents_max: usize,
    /// `deploy.versions-alive-max`: versions that drain or are on standby.
    pub versions_alive_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            history_max: 50,
            events_max: 100,
            manifest_max_bytes: 1 << 20,
            agents_max: 10_000,
            versions_alive_max: 8,
        }
    }
}

/// The context of a command: everything that the engine may know beside the record.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// The Redis key, which names later deployments.
    pub key: &'a str,
    pub now_ms: UnixMs,
    /// The ACL user.
    pub by: &'a str,
    pub limits: Limits,
}
