//! Deployments to measure, and commands about them.

use crate::resp::{put, Conn};
use serde_json::{json, Value as Json};

/// Policy under which no health decision falls due during a measurement.
pub const SLOW: [&str; 6] =
    ["MIN_HEALTHY_MS", "86400000", "HEALTHY_DEADLINE_MS", "172800000", "PROGRESS_DEADLINE_MS", "172800000"];
/// Policy under which an agent is healthy as soon as it is ready.
pub const IMMEDIATE: [&str; 2] = ["MIN_HEALTHY_MS", "0"];
/// Value of `min_healthy_ms` in [`SLOW`].
pub const MIN_HEALTHY_MS: u64 = 86_400_000;

/// Field of INFO with the number of records that are kept encoded.
pub const RECORDS_ENCODED: &str = "deploy_records_encoded";

/// Returns the Unix time in ms.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.expect("the clock is past 1970").as_millis() as u64
}

/// Returns the name of the nth agent.
pub fn agent(n: usize) -> String {
    format!("agent-{n:02}")
}

/// Returns a manifest of `agents` nodes that differ between versions.
pub fn manifest(agents: usize, version: u32) -> String {
    let nodes: Vec<_> = (0..agents).map(|n| json!({ "node_id": agent(n), "config": version })).collect();
    json!({ "type": "service", "nodes": nodes }).to_string()
}

/// Returns a minimal manifest of `agents` nodes.
pub fn bare_manifest(agents: usize) -> String {
    let nodes: Vec<_> = (0..agents).map(|n| json!({ "node_id": agent(n) })).collect();
    json!({ "type": "service", "nodes": nodes }).to_string()
}

/// Runs DEPLOY.DEPLOY.
pub fn deploy(conn: &mut Conn, key: &str, manifest: &str, options: &[&str]) {
    conn.call(&[&["DEPLOY.DEPLOY", key, "MANIFEST", manifest], options].concat());
}

/// Waits until a deployment has a terminal status.
pub fn wait_for_end(conn: &mut Conn, key: &str) {
    let reply = conn.call(&["DEPLOY.WAIT", key, "TIMEOUT", "60000"]);
    assert!(reply != crate::resp::Reply::Nil, "timeout: {key} has no terminal status");
}

/// Active rollout: version 2 has replaced version 1 on all agents, all are ready and none is healthy yet. The log is
/// full.
pub struct Rollout {
    pub key: String,
    pub agents: usize,
}

impl Rollout {
    /// Deploys both versions.
    pub fn begin(conn: &mut Conn, key: &str, agents: usize) -> Rollout {
        let rollout = Rollout { key: key.to_string(), agents };
        deploy(conn, key, &manifest(agents, 1), &IMMEDIATE);
        conn.many(agents, |n, out| put(out, &["DEPLOY.REPORT", key, &agent(n), "ready"]));
        wait_for_end(conn, key);
        deploy(conn, key, &manifest(agents, 2), &[&SLOW[..], &["MAX_PARALLEL", "100%"]].concat());
        conn.many(agents, |n, out| put(out, &["DEPLOY.REPORT", key, &agent(n), "ready"]));
        // Fills the log with events of the measured kind. All agents are ready again at the end.
        let mut reports = rollout.reports();
        let cycle = (2 * agents) * 100usize.div_ceil(2 * agents);
        conn.many(cycle, |n, out| reports(None, n as u64, out));
        rollout
    }

    /// Returns the job id.
    pub fn job(&self) -> String {
        format!("dep_{}_1", self.key)
    }

    /// Returns reports that all change the record: alternately `unready` and `ready`, of each agent in turn, or of the
    /// connection's own agent.
    pub fn reports(&self) -> impl FnMut(Option<usize>, u64, &mut Vec<u8>) + 'static {
        let (key, job) = (self.key.clone(), self.job());
        let mut cycle = AgentCycle::new(self.agents);
        move |conn, n, out| {
            let (agent, state) = cycle.next(conn, n);
            let words = ["DEPLOY.REPORT", &key, agent, state, "VERSION", "2", "JOB", &job, "ATTEMPT", "1"];
            put(out, &words);
        }
    }

    /// Returns the record as one JSON document: the reply of STATUS, with the full log.
    pub fn document(&self, conn: &mut Conn) -> Json {
        let mut document = status(conn, &self.key);
        document["events"] = events(conn, &self.key).into();
        document
    }
}

/// Sequence of agents and states to report.
pub struct AgentCycle {
    agents: Vec<String>,
    ready: Vec<bool>,
}

impl AgentCycle {
    /// Starts with all agents ready.
    pub fn new(agents: usize) -> AgentCycle {
        AgentCycle { agents: (0..agents).map(agent).collect(), ready: vec![true; agents] }
    }

    /// Returns the agent and state of the nth report of a connection.
    pub fn next(&mut self, conn: Option<usize>, n: u64) -> (&str, &'static str) {
        let index = conn.unwrap_or(n as usize) % self.agents.len();
        self.ready[index] = !self.ready[index];
        (&self.agents[index], if self.ready[index] { "ready" } else { "unready" })
    }
}

/// Returns the reply of DEPLOY.STATUS.
pub fn status(conn: &mut Conn, key: &str) -> Json {
    json_of(&conn.call(&["DEPLOY.STATUS", key, "JSON"]).bytes())
}

/// Returns the log, oldest event first.
pub fn events(conn: &mut Conn, key: &str) -> Vec<Json> {
    let reply = conn.call(&["DEPLOY.EVENTS", key]).array();
    let events = reply.into_iter().nth(2).expect("the third element is the events").array();
    events.into_iter().map(|event| json_of(&event.bytes())).collect()
}

/// Parses a JSON reply.
fn json_of(bytes: &[u8]) -> Json {
    serde_json::from_slice(bytes).expect("the module writes JSON")
}
