//! Who takes part in the contest of reports. All change one agent of one 20-agent deployment, write a log of the last
//! 100 events and publish one event of the same size; only the module follows the rules of a rollout.

use crate::contest::{Contestant, Done, Expected, OneCommand, Sending};
use crate::resp::{put, Conn};
use crate::rollout::{now_ms, Rollout, Turns, MIN_HEALTHY_MS};
use crate::server::{Server, Target};
use serde_json::{json, Value as Json};
use std::time::{Duration, Instant};

pub const SET: &str = "SET";
pub const FLOOR: &str = "floor";
pub const REPORT: &str = "REPORT";
pub const LUA: &str = "Lua";
pub const JSON_LUA: &str = "JSON Lua";
pub const JSON_LUA_LOG_APART: &str = "JSON Lua, log apart";
pub const CLIENT: &str = "client";

pub const AGENTS: usize = 20;
const KEY: &str = "bench";
/// A key of its own: the floor is another type.
const KEY_FLOOR: &str = "floor";

/// How large what the module replicates and publishes for one report is. Both are what the floor is told to do.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub payload: usize,
    pub event: usize,
}

impl Sizes {
    /// On a server of its own: one that has had a replica goes on writing for the next one.
    pub fn measure() -> Sizes {
        let server = Server::start(&[]);
        let mut conn = server.conn();
        let rollout = Rollout::begin(&mut conn, KEY, AGENTS);
        let payload = crate::stream::payload_of_one(server.target, &mut rollout.reports(), AGENTS);
        Sizes { payload, event: size_of_event(&mut conn) }
    }
}

/// Everything that the contestants need on a server.
pub struct Arena {
    target: Target,
    rollout: Rollout,
    sizes: Sizes,
    document: Json,
}

impl Arena {
    pub fn set_up(target: Target, sizes: Sizes) -> Arena {
        let mut conn = target.conn();
        let rollout = Rollout::begin(&mut conn, KEY, AGENTS);
        let document = rollout.document(&mut conn);
        Arena { target, rollout, sizes, document }
    }

    /// Where the contestants publish.
    pub fn channels() -> Vec<String> {
        let floor = format!("floor:events:{KEY_FLOOR}");
        ["deploy", "lua", "json", "client"].map(channel).into_iter().chain([floor]).collect()
    }

    pub fn all(&self) -> Vec<Box<dyn Contestant>> {
        vec![
            self.set(),
            self.floor(),
            self.report(),
            self.lua(),
            self.json_lua(),
            self.json_lua_log_apart(),
            self.client(),
        ]
    }

    /// Without the second kind of JSON document: for where there is less time.
    pub fn main(&self) -> Vec<Box<dyn Contestant>> {
        vec![self.set(), self.floor(), self.report(), self.lua(), self.json_lua(), self.client()]
    }

    fn set(&self) -> Box<dyn Contestant> {
        Box::new(OneCommand::same(SET, self.target, Expected::Any, &["SET", "set:bench", "0123456789abcdef"]))
    }

    fn floor(&self) -> Box<dyn Contestant> {
        let (payload, event) = (self.sizes.payload.to_string(), self.sizes.event.to_string());
        Box::new(OneCommand::same(FLOOR, self.target, Expected::Any, &["FLOOR.WRITE", KEY_FLOOR, &payload, &event]))
    }

    fn report(&self) -> Box<dyn Contestant> {
        Box::new(OneCommand::new(REPORT, self.target, Expected::Int(1), self.rollout.reports()))
    }

    /// The same work in Lua by an expert's hand.
    fn lua(&self) -> Box<dyn Contestant> {
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

    /// One document, with the log in it.
    fn json_lua(&self) -> Box<dyn Contestant> {
        let mut conn = self.target.conn();
        let sha = conn.call(&["SCRIPT", "LOAD", include_str!("lua/report_json.lua")]).text();
        conn.call(&["SET", "json:{bench}", &self.document.to_string()]);
        self.script(JSON_LUA, sha, "json", |_| ["json:{bench}".to_string()])
    }

    /// One document, with the log in a stream beside it.
    fn json_lua_log_apart(&self) -> Box<dyn Contestant> {
        let mut conn = self.target.conn();
        let sha = conn.call(&["SCRIPT", "LOAD", include_str!("lua/report_json.lua")]).text();
        let mut document = self.document.clone();
        document["events"] = json!([]);
        conn.call(&["SET", "json-apart:{bench}", &document.to_string()]);
        self.script(JSON_LUA_LOG_APART, sha, "json", |_| ["json-apart:{bench}".into(), "json-apart:{bench}:log".into()])
    }

    fn script<const N: usize>(
        &self,
        name: &'static str,
        sha: String,
        on: &'static str,
        keys: impl Fn(&str) -> [String; N] + 'static,
    ) -> Box<dyn Contestant> {
        let (job, channel, count) = (self.rollout.job(), channel(on), N.to_string());
        let mut turns = Turns::new(AGENTS);
        Box::new(OneCommand::new(name, self.target, Expected::Int(1), move |conn, n, out| {
            let (agent, state) = turns.next(conn, n);
            let now = now_ms();
            let healthy_at = if state == "ready" { (now + MIN_HEALTHY_MS).to_string() } else { "null".to_string() };
            let (now, keys) = (now.to_string(), keys(agent));
            let mut words = vec!["EVALSHA", &sha, &count];
            words.extend(keys.iter().map(String::as_str));
            words.extend([agent, state, "2", &job, "1", &now, &healthy_at, &channel, KEY]);
            put(out, &words);
        }))
    }

    fn client(&self) -> Box<dyn Contestant> {
        let (turns, job) = (Turns::new(AGENTS), self.rollout.job());
        Box::new(ReadMergeWrite {
            target: self.target,
            document: self.document.clone(),
            job,
            turns,
            sent: 0,
            prepared: 0,
        })
    }
}

fn channel(on: &str) -> String {
    format!("{on}:events:{KEY}")
}

fn size_of_event(conn: &mut Conn) -> usize {
    let reply = conn.call(&["DEPLOY.EVENTS", KEY]).array();
    let events = reply.into_iter().nth(2).expect("the third element is the events").array();
    // A `ready` and an `unready` one differ by a time: their mean.
    let last: Vec<usize> = events.into_iter().rev().take(AGENTS * 2).map(|event| event.bytes().len()).collect();
    last.iter().sum::<usize>() / last.len()
}

/// The same work done by a client: GET, merge, SET and PUBLISH. Each connection has a document to itself, and where
/// many are sent ahead, each of them has: with one for all, they would lose each other's changes, since there is no WATCH.
struct ReadMergeWrite {
    target: Target,
    document: Json,
    job: String,
    turns: Turns,
    sent: u64,
    prepared: usize,
}

impl ReadMergeWrite {
    fn prepare(&mut self, documents: usize) {
        let (mut conn, text) = (self.target.conn(), self.document.to_string());
        for n in self.prepared..documents {
            conn.call(&["SET", &document_key(n), &text]);
        }
        self.prepared = self.prepared.max(documents);
    }

    /// Appends what is to be written after a document was read.
    fn merge(&mut self, place: usize, text: &[u8], out: &mut Vec<u8>) {
        let mut document: Json = serde_json::from_slice(text).expect("it was written here");
        let (agent, state) = self.turns.next(None, self.sent);
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
        put(out, &["SET", &document_key(place), &document.to_string()]);
        put(out, &["PUBLISH", &channel("client"), &published]);
    }
}

fn document_key(n: usize) -> String {
    format!("client:{n}")
}

impl Contestant for ReadMergeWrite {
    fn name(&self) -> &'static str {
        CLIENT
    }

    fn target(&self) -> Target {
        self.target
    }

    fn work(&mut self, sending: Sending, time: Duration, latencies: &mut Vec<u64>) -> Done {
        let (count, batch) = match sending {
            Sending::Pipelined(batch) => (1, batch),
            Sending::Connections(count) => (count, 1),
        };
        self.prepare(count * batch);
        let mut conns: Vec<Conn> = (0..count).map(|_| self.target.conn()).collect();
        let (mut out, mut operations) = (Vec::new(), 0);
        let start = Instant::now();
        while start.elapsed() < time {
            let began = Instant::now();
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
                    latencies.push(began.elapsed().as_nanos() as u64);
                }
                operations += batch as u64;
            }
        }
        Done { operations, took: start.elapsed(), reply_bytes: conns.iter().map(Conn::consumed).sum() }
    }
}
