//! Command line.

use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

/// Runs the agents of redis-deploy deployments as processes on this host.
///
/// Follows the deployments under the given keys: starts, replaces and stops their agents as DEPLOY.TASKS asks, checks
/// their services, restarts them by their restart policy, and reports. Agents keep running when the coordinator ends;
/// the next coordinator with the same state directory takes them over.
#[derive(Debug, Clone, Parser)]
#[command(name = "coordinator", after_help = EXIT_CODES)]
pub struct Options {
    /// Deployment keys to follow
    #[arg(value_name = "KEY", required_unless_present = "matching")]
    pub keys: Vec<String>,

    /// Follow every deployment whose key matches the glob (as in DEPLOY.LIST MATCH)
    #[arg(long = "match", value_name = "GLOB")]
    pub matching: Option<String>,

    /// Redis URL; may be repeated, for instance once per replica. The one that is a primary is used
    #[arg(
        long,
        value_name = "URL",
        env = "REDIS_URL",
        value_delimiter = ',',
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379/"
    )]
    pub redis: Vec<String>,

    /// Agents that this coordinator runs, by name; may be repeated. No agent may belong to two coordinators: one that
    /// starts later takes it over, and the other stops its process
    #[arg(long, value_name = "GLOB", default_value = "*")]
    pub agents: Vec<glob::Pattern>,

    /// Directory for the state and the logs of agents. It can be used by one coordinator at a time
    #[arg(long, value_name = "DIR", default_value = "coordinator-state")]
    pub state_dir: PathBuf,

    /// Address under which services of this host are registered if the manifest gives none or 0.0.0.0
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub address: String,

    /// TTL of registered services in ms; refreshed three times within it. If the coordinator is down for longer,
    /// DEPLOY.RESOLVE leaves its agents out until it is back
    #[arg(long, value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(100..))]
    pub service_ttl_ms: u64,

    /// Delay in ms between the deregistration of an agent's services and SIGTERM, for callers that have just resolved
    /// them
    #[arg(long, value_name = "MS", default_value_t = 500)]
    pub shutdown_delay_ms: u64,

    /// Delay between SIGTERM and SIGKILL in ms
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    pub kill_timeout_ms: u64,

    /// Interval in ms at which records are read without an event
    #[arg(long, value_name = "MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(10..))]
    pub poll_ms: u64,

    /// Timeout of Redis replies in ms, after which the coordinator reconnects
    #[arg(long, value_name = "MS", default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(10..))]
    pub redis_timeout_ms: u64,

    /// Value of the server's deploy.channel-prefix
    #[arg(long, value_name = "PREFIX", default_value = "deploy:events:")]
    pub channel_prefix: String,

    /// Stop the agents of a key this many ms after it was deleted. By default they keep running, since a key may be
    /// deleted by mistake; use DEPLOY.STOP to stop agents
    #[arg(long, value_name = "MS")]
    pub stop_deleted_ms: Option<u64>,

    /// Stop all agents when a signal ends this coordinator; a second signal skips the delays
    #[arg(long)]
    pub stop_on_exit: bool,

    /// Exit, as at SIGTERM, when the parent process ends
    #[arg(long)]
    pub end_with_parent: bool,
}

/// Last paragraph of `--help`.
const EXIT_CODES: &str = "\
Exit codes: 0 after SIGTERM, SIGINT or SIGHUP; 1 if a URL is invalid, or the state directory cannot be used or is in use
by another coordinator; 2 if the command line is invalid; 101 after an internal error. The coordinator never exits because
Redis is unreachable or refuses it or one of its commands: it says so, and retries.";

impl Options {
    /// Returns whether this coordinator runs the agent.
    pub fn owns(&self, agent: &str) -> bool {
        self.agents.iter().any(|glob| glob.matches(agent))
    }

    /// Returns `--shutdown-delay-ms`.
    pub fn shutdown_delay(&self) -> Duration {
        Duration::from_millis(self.shutdown_delay_ms)
    }

    /// Returns `--kill-timeout-ms`.
    pub fn kill_timeout(&self) -> Duration {
        Duration::from_millis(self.kill_timeout_ms)
    }

    /// Returns `--poll-ms`.
    pub fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
    }

    /// Returns `--redis-timeout-ms`.
    pub fn redis_timeout(&self) -> Duration {
        Duration::from_millis(self.redis_timeout_ms)
    }
}
