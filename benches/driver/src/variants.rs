//! Variants of a report. Each changes one agent of a deployment of 20 agents, keeps a log of the last 100 events and
//! publishes one event of the same size. Only the module applies the rules of a rollout.

use crate::compare::{Done, Expected, Load, SingleCommand, Variant};
use crate::resp::{put, Conn};
use crate::rollout::{now_ms, AgentCycle, Rollout, MIN_HEALTHY_MS};
use crate::server::{Server, Target};
use serde_json::{json, Value as Json};
use std::time::{Duration, Instant};

pub const SET: &str = "SET";
pub const FLOOR: &str = "floor";
pub const REPORT: &str = "REPORT";
pub const LUA: &str = "Lua";
pub const JSON_LUA: &str = "JSON Lua";
pub const JSON_LUA_WITH_STREAM: &str = "JSON Lua, log in a stream";
pub const CLIENT: &str = "client";

pub const AGENTS: usize = 20;
const KEY: &str = "bench";
/// Key of the floor, which has a data type of its own.
const KEY_FLOOR: &str = "floor";

/// Bytes that the module replicates and publishes for one report. The floor is set to the same sizes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub payload: usize,
    pub event: usize,
}

impl Sizes {
    /// Measures the sizes on a server of its own, since one that has had a replica keeps writing its backlog.
    pub fn measure() -> Sizes {
        let server = Server::start(&[]);
        let mut conn = server.conn();
        let rollout = Rollout::begin(&mut conn, KEY, AGENTS);
        let payload = crate::stream::payload_of_one(server.target, &mut rollout.reports(), AGENTS);
        Sizes { payload, event: size_of_event(&mut conn) }
    }
}

/// Variants, with their data on a server.
pub struct VariantSet {
    target: Target,
    rollout: Rollout,
    sizes: Sizes,
    document: Json,
}

impl VariantSet {
    /// Writes the data of the module's rollout, from which the other variants copy theirs.
    pub fn prepare(target: Target, sizes: Sizes) -> VariantSet {
        let mut conn = target.conn();
        let rollout = Rollout::begin(&mut conn, KEY, AGENTS);
        let document = rollout.document(&mut conn);
        VariantSet { target, rollout, sizes, document }
    }

    /// Returns the channels to which the variants publish.
    pub fn channels() -> Vec<String> {
        let floor = format!("floor:events:{KEY_FLOOR}");
        ["deploy", "lua", "json", "client"].map(channel).into_iter().chain([floor]).collect()
    }

    /// Returns all variants.
    pub fn all(&self) -> Vec<Box<dyn Variant>> {
        vec![
            self.set(),
            self.floor(),
            self.report(),
            self.lua(),
            self.json_lua(),
            self.json_lua_with_stream(),
            self.client(),
        ]
    }

    /// Returns the variants for the `loads` scenario, which leaves out the second JSON variant to save time.
    pub fn main(&self) -> Vec<Box<dyn Variant>> {
        vec![self.set(), self.floor(), self.report(), self.lua(), self.json_lua(), self.client()]
    }

    /// SET of 16 bytes.
    fn set(&self) -> Box<dyn Variant> {
        Box::new(SingleCommand::same(SET, self.target, Expected::Any, &["SET", "set:bench", "0123456789abcdef"]))
    }

    /// Bare module write.
    fn floor(&self) -> Box<dyn Variant> {
        let (payload, event) = (self.sizes.payload.to_string(), self.sizes.event.to_string());
        Box::new(SingleCommand::same(FLOOR, self.target, Expected::Any, &["FLOOR.WRITE", KEY_FLOOR, &payload, &event]))
    }

    /// DEPLOY.REPORT.
    fn report(&self) -> Box<dyn Variant> {
        Box::new(SingleCommand::new(REPORT, self.target, Expected::Int(1), self.rollout.reports()))
    }

    /// Optimized Lua script on hashes, a sorted set and a stream.
    fn lua(&self) -> Box<dyn Variant> {
        let mut conn = self.target.conn();
        let sha = conn.call(&["SCRIPT", "LOAD", include_str!("lua/report.lua")]).text();
        for instance in self.document["instances"].as_array().expect("a list") {
            let key = format!("lua:{{{KEY}}}:{}", instance["agent"].as_str().expect("a name"));
            let mut words = vec!["HSET".to_string(), key];
            for (name, value) in instance.as_object().expect("an object") {
                words.extend([name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_string)]);
            }
            conn.call(&words);
        }
        let keys = |agent: &str| {
            [
                format!("lua:{{{KEY}}}"),
                format!("lua:{{{KEY}}}:{agent}"),
                format!("lua:{{{KEY}}}:due"),
                format!("lua:{{{KEY}}}:log"),
            ]
        };
        self.script(LUA, sha, "lua", keys)
    }

    /// Lua script on one JSON document that contains the log.
    fn json_lua(&self) -> Box<dyn Variant> {
        let mut conn = self.target.conn();
        let sha = conn.call(&["SCRIPT", "LOAD", include_str!("lua/report_json.lua")]).text();
        conn.call(&["SET", "json:{bench}", &self.document.to_string()]);
        self.script(JSON_LUA, sha, "json", |_| ["json:{bench}".to_string()])
    }

    /// Lua script on one JSON document and a stream for the log.
    fn json_lua_with_stream(&self) -> Box<dyn Variant> {
        let mut conn = self.target.conn();
        let sha = conn.call(&["SCRIPT", "LOAD", include_str!("lua/report_json.lua")]).text();
        let mut document = self.document.clone();
        document["events"] = json!([]);
        conn.call(&["SET", "json-apart:{bench}", &document.to_string()]);
        self.script(JSON_LUA_WITH_STREAM, sha, "json", |_| {
            ["json-apart:{bench}".into(), "json-apart:{bench}:log".into()]
        })
    }

    /// A variant that runs a script with EVALSHA.
    fn script<const N: usize>(
        &self,
        name: &'static str,
        sha: String,
        on: &'static str,
        keys: impl Fn(&str) -> [String; N] + 'static,
    ) -> Box<dyn Variant> {
        let (job, channel, count) = (self.rollout.job(), channel(on), N.to_string());
        let mut cycle = AgentCycle::new(AGENTS);
        Box::new(SingleCommand::new(name, self.target, Expected::Int(1), move |conn, n, out| {
            let (agent, state) = cycle.next(conn, n);
            let now = now_ms();
            let healthy_at = if state == "ready" { (now + MIN_HEALTHY_MS).to_string() } else { "null".to_string() };
            let (now, keys) = (now.to_string(), keys(agent));
            let mut words = vec!["EVALSHA", &sha, &count];
            words.extend(keys.iter().map(String::as_str));
            words.extend([agent, state, "2", &job, "1", &now, &healthy_at, &channel, KEY]);
            put(out, &words);
        }))
    }

    /// Read, merge and write by a client.
    fn client(&self) -> Box<dyn Variant> {
        let (cycle, job) = (AgentCycle::new(AGENTS), self.rollout.job());
        Box::new(ReadMergeWrite {
            target: self.target,
            document: self.document.clone(),
            job,
            cycle,
            sent: 0,
            prepared: 0,
        })
    }
}

/// Returns the channel of a variant.
fn channel(on: &str) -> String {
    format!("{on}:events:{KEY}")
}

/// Returns the mean size of an event.
fn size_of_event(conn: &mut Conn) -> usize {
    let reply = conn.call(&["DEPLOY.EVENTS", KEY]).array();
    let events = reply.into_iter().nth(2).expect("the third element is the events").array();
    // Events of `ready` and `unready` differ in size, since only one has a time.
    let last: Vec<usize> = events.into_iter().rev().take(AGENTS * 2).map(|event| event.bytes().len()).collect();
    last.iter().sum::<usize>() / last.len()
}

/// Variant in which a client does the work: GET, merge, SET and PUBLISH. Each command in flight has a document of its
/// own: with a shared one they would overwrite each other's changes, since there is no WATCH.
struct ReadMergeWrite {
    target: Target,
    document: Json,
    job: String,
    cycle: AgentCycle,
    sent: u64,
    prepared: usize,
}

impl ReadMergeWrite {
    /// Writes the documents.
    fn prepare(&mut self, documents: usize) {
        let (mut conn, text) = (self.target.conn(), self.document.to_string());
        for n in self.prepared..documents {
            conn.call(&["SET", &document_key(n), &text]);
        }
        self.prepared = self.prepared.max(documents);
    }

    /// Changes a document that was read, and appends the commands that write it.
    fn merge(&mut self, index: usize, text: &[u8], out: &mut Vec<u8>) {
        let mut document: Json = serde_json::from_slice(text).expect("it was written here");
        let (agent, state) = self.cycle.next(None, self.sent);
        self.sent += 1;
        let now = now_ms();
        let healthy_at = (state == "ready").then_some(now + MIN_HEALTHY_MS);
        let revision = document["revision"].as_u64().unwrap_or(0) + 1;
        document["revision"] = revision.into();
        document["updated_at"] = now.into();
        let instances = document["instances"].as_array_mut().expect("a list");
        let instance = instances.iter_mut().find(|instance| instance["agent"] == agent).expect("an agent");
        instance["state"] = state.into();
        instance["since"] = now.into();
        instance["healthy_at"] = healthy_at.into();
        let event = json!({
            "revision": revision, "at": now, "key": KEY, "deployment_id": "dep_bench_2", "type": "agent_state",
            "version": 2, "agent": agent, "node": agent, "job_id": self.job, "role": "primary", "state": state, "attempt": 1,
            "reason": null, "leaves": false, "healthy_at": healthy_at, "fails_at_resume": false,
        });
        let published = event.to_string();
        let events = document["events"].as_array_mut().expect("a list");
        events.push(event);
        if events.len() > 100 {
            events.remove(0);
        }
        put(out, &["SET", &document_key(index), &document.to_string()]);
        put(out, &["PUBLISH", &channel("client"), &published]);
    }
}

/// Returns the key of a document.
fn document_key(n: usize) -> String {
    format!("client:{n}")
}

impl Variant for ReadMergeWrite {
    fn name(&self) -> &'static str {
        CLIENT
    }

    fn target(&self) -> Target {
        self.target
    }

    fn work(&mut self, load: Load, time: Duration, latencies: &mut Vec<u64>) -> Done {
        let (count, batch) = match load {
            Load::Pipelined(batch) => (1, batch),
            Load::Connections(count) => (count, 1),
        };
        self.prepare(count * batch);
        let mut conns: Vec<Conn> = (0..count).map(|_| self.target.conn()).collect();
        let (mut out, mut operations) = (Vec::new(), 0);
        let start = Instant::now();
        while start.elapsed() < time {
            let sent_at = Instant::now();
            for (n, conn) in conns.iter_mut().enumerate() {
                out.clear();
                (0..batch).for_each(|m| put(&mut out, &["GET", &document_key(n * batch + m)]));
                conn.send(&out);
            }
            for (n, conn) in conns.iter_mut().enumerate() {
                out.clear();
                for m in 0..batch {
                    let text = conn.reply().bytes();
                    self.merge(n * batch + m, &text, &mut out);
                }
                conn.send(&out);
            }
            for conn in &mut conns {
                conn.skip_all(batch * 2);
                if batch == 1 {
                    latencies.push(sent_at.elapsed().as_nanos() as u64);
                }
                operations += batch as u64;
            }
        }
        Done { operations, took: start.elapsed(), reply_bytes: conns.iter().map(Conn::consumed).sum() }
    }
}
