//! What is measured: deployments in the state in which reports reach them, and commands about them.

use crate::resp::{put, Conn};
use serde_json::{json, Value as Json};

/// So long that no verdict falls due while anything is measured.
pub const SLOW: [&str; 6] =
    ["MIN_HEALTHY_MS", "86400000", "HEALTHY_DEADLINE_MS", "172800000", "PROGRESS_DEADLINE_MS", "172800000"];
/// Healthy as soon as it is ready.
pub const AT_ONCE: [&str; 2] = ["MIN_HEALTHY_MS", "0"];
/// What `SLOW` says.
pub const MIN_HEALTHY_MS: u64 = 86_400_000;

pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.expect("the clock is past 1970").as_millis() as u64
}

pub fn agent(n: usize) -> String {
    format!("agent-{n:02}")
}

/// A manifest of so many nodes, each with a word that tells versions apart and nothing else.
pub fn manifest(agents: usize, version: u32) -> String {
    let nodes: Vec<_> = (0..agents).map(|n| json!({ "node_id": agent(n), "config": version })).collect();
    json!({ "type": "service", "nodes": nodes }).to_string()
}

/// The least that a manifest can say of so many agents.
pub fn bare_manifest(agents: usize) -> String {
    let nodes: Vec<_> = (0..agents).map(|n| json!({ "node_id": agent(n) })).collect();
    json!({ "type": "service", "nodes": nodes }).to_string()
}

pub fn deploy(conn: &mut Conn, key: &str, manifest: &str, options: &[&str]) {
    conn.call(&[&["DEPLOY.DEPLOY", key, "MANIFEST", manifest], options].concat());
}

/// Waits until a deployment has come to its end, which the server's timer brings about.
pub fn await_end(conn: &mut Conn, key: &str) {
    let reply = conn.call(&["DEPLOY.WAIT", key, "TIMEOUT", "60000"]);
    assert!(reply != crate::resp::Reply::Nil, "{key} does not come to its end");
}

/// A rollout on its way: version 1 ran on all agents, version 2 has replaced all of them, all are ready and none is
/// healthy yet. The log is full.
pub struct Rollout {
    pub key: String,
    pub agents: usize,
}

impl Rollout {
    pub fn begin(conn: &mut Conn, key: &str, agents: usize) -> Rollout {
        let rollout = Rollout { key: key.to_string(), agents };
        deploy(conn, key, &manifest(agents, 1), &AT_ONCE);
        conn.many(agents, |n, out| put(out, &["DEPLOY.REPORT", key, &agent(n), "ready"]));
        await_end(conn, key);
        deploy(conn, key, &manifest(agents, 2), &[&SLOW[..], &["MAX_PARALLEL", "100%"]].concat());
        conn.many(agents, |n, out| put(out, &["DEPLOY.REPORT", key, &agent(n), "ready"]));
        // The log has the kind of event that the measurement adds; and all are ready again at the end.
        let mut reports = rollout.reports();
        let turns = (2 * agents) * 100usize.div_ceil(2 * agents);
        conn.many(turns, |n, out| reports(None, n as u64, out));
        rollout
    }

    pub fn job(&self) -> String {
        format!("dep_{}_1", self.key)
    }

    /// Reports each of which changes something: agent by agent in turn (of a connection among several, of its own
    /// agent), `unready` and then `ready` again.
    pub fn reports(&self) -> impl FnMut(Option<usize>, u64, &mut Vec<u8>) + 'static {
        let (key, job) = (self.key.clone(), self.job());
        let mut turns = Turns::new(self.agents);
        move |conn, n, out| {
            let (agent, state) = turns.next(conn, n);
            let words = ["DEPLOY.REPORT", &key, agent, state, "VERSION", "2", "JOB", &job, "ATTEMPT", "1"];
            put(out, &words);
        }
    }

    /// The whole record as one JSON document: what STATUS shows, with all the events that are kept.
    pub fn document(&self, conn: &mut Conn) -> Json {
        let mut document = status(conn, &self.key);
        document["events"] = events(conn, &self.key).into();
        document
    }
}

/// Whose turn it is to change, and to what.
pub struct Turns {
    agents: Vec<String>,
    ready: Vec<bool>,
}

impl Turns {
    /// All are ready.
    pub fn new(agents: usize) -> Turns {
        Turns { agents: (0..agents).map(agent).collect(), ready: vec![true; agents] }
    }

    pub fn next(&mut self, conn: Option<usize>, n: u64) -> (&str, &'static str) {
        let place = conn.unwrap_or(n as usize) % self.agents.len();
        self.ready[place] = !self.ready[place];
        (&self.agents[place], if self.ready[place] { "ready" } else { "unready" })
    }
}

pub fn status(conn: &mut Conn, key: &str) -> Json {
    json_of(&conn.call(&["DEPLOY.STATUS", key, "JSON"]).bytes())
}

/// The log, oldest event first.
pub fn events(conn: &mut Conn, key: &str) -> Vec<Json> {
    let reply = conn.call(&["DEPLOY.EVENTS", key]).array();
    let events = reply.into_iter().nth(2).expect("the third element is the events").array();
    events.into_iter().map(|event| json_of(&event.bytes())).collect()
}

fn json_of(bytes: &[u8]) -> Json {
    serde_json::from_slice(bytes).expect("the module writes JSON")
}
