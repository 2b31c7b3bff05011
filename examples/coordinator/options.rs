//! The command line.

use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

/// Runs the agents of redis-deploy deployments as processes on this host.
///
/// Follows the deployments under the given keys: starts, replaces and stops their agents as DEPLOY.TASKS asks, checks
/// their services, restarts them by their restart policy, and reports. Agents go on running when the coordinator ends;
/// the next one on the same state directory finds them again.
#[derive(Debug, Clone, Parser)]
#[command(name = "coordinator", after_help = EXIT_CODES)]
pub struct Options {
    /// Deployment keys to follow
    #[arg(value_name = "KEY", required_unless_present = "matching")]
    pub keys: Vec<String>,

    /// Follow every deployment whose key matches (a glob of the server's, as of DEPLOY.LIST MATCH)
    #[arg(long = "match", value_name = "GLOB")]
    pub matching: Option<String>,

    /// Where the primary may be; give it again for each address, and the one that says it is a primary is used
    #[arg(
        long,
        value_name = "URL",
        env = "REDIS_URL",
        value_delimiter = ',',
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379/"
    )]
    pub redis: Vec<String>,

    /// The agents that are this coordinator's, by name; may be given again. No agent may belong to two coordinators
    #[arg(long, value_name = "GLOB", default_value = "*")]
    pub agents: Vec<glob::Pattern>,

    /// Notes about running agents, and their logs. One coordinator at a time
    #[arg(long, value_name = "DIR", default_value = "coordinator-state")]
    pub state_dir: PathBuf,

    /// The address under which this host's services are registered, where a manifest gives none or 0.0.0.0
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub address: String,

    /// TTL of registered services, ms; refreshed three times within it. A coordinator that is down for longer takes its
    /// agents out of DEPLOY.RESOLVE until it is back
    #[arg(long, value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(100..))]
    pub service_ttl_ms: u64,

    /// From taking an agent's services away to its SIGTERM, ms, for callers that have just resolved it
    #[arg(long, value_name = "MS", default_value_t = 500)]
    pub shutdown_delay_ms: u64,

    /// From SIGTERM to SIGKILL, ms
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    pub kill_timeout_ms: u64,

    /// How often the record is read without having been told of a change, ms
    #[arg(long, value_name = "MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(10..))]
    pub poll_ms: u64,

    /// How long Redis may take to answer, ms; then the connection is given up and made anew
    #[arg(long, value_name = "MS", default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(10..))]
    pub redis_timeout_ms: u64,

    /// The server's deploy.channel-prefix
    #[arg(long, value_name = "PREFIX", default_value = "deploy:events:")]
    pub channel_prefix: String,

    /// Stop the agents of a key that has been deleted for so long, ms. Without it they go on running: a key may be gone
    /// by mistake, and DEPLOY.STOP is how agents are ended
    #[arg(long, value_name = "MS")]
    pub stop_deleted_ms: Option<u64>,

    /// Stop all agents when this coordinator is told to end; told twice, without waiting for them
    #[arg(long)]
    pub stop_on_exit: bool,

    /// End, as by SIGTERM, when the process that started this one ends
    #[arg(long)]
    pub end_with_parent: bool,
}

const EXIT_CODES: &str = "\
Ended by SIGTERM, SIGINT or SIGHUP it exits with 0; with 1 where its state directory cannot be used, or is in use by
another coordinator; with 2 where the command line is wrong. It never ends for want of Redis.";

impl Options {
    pub fn owns(&self, agent: &str) -> bool {
        self.agents.iter().any(|glob| glob.matches(agent))
    }

    pub fn shutdown_delay(&self) -> Duration {
        Duration::from_millis(self.shutdown_delay_ms)
    }

    pub fn kill_timeout(&self) -> Duration {
        Duration::from_millis(self.kill_timeout_ms)
    }

    pub fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
    }

    pub fn redis_timeout(&self) -> Duration {
        Duration::from_millis(self.redis_timeout_ms)
    }
}
