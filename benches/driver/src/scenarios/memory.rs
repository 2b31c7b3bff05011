//! Memory of a record, compared with the same content as JSON in native Redis types.

use crate::resp::{put, Conn};
use crate::rollout::{agent, bare_manifest, deploy, events, status, wait_for_end, IMMEDIATE, SLOW};
use crate::server::Server;
use crate::table::{digits, Goal};
use crate::Bench;
use serde_json::{json, Value as Json};

const AGENTS: usize = 5;
const VERSIONS: usize = 3;
const LOG: usize = 100;

/// Creates a record of 5 agents and 3 versions with a full log. Its manifests are minimal and equal, so they are stored
/// once; the versions differ in their bundle.
pub fn full_record(conn: &mut Conn, key: &str) {
    let manifest = bare_manifest(AGENTS);
    for version in 1..=VERSIONS {
        let bundle = format!("s3://bundles/agent-api/v{version}");
        let pace = if version == VERSIONS { &SLOW[..] } else { &IMMEDIATE[..] };
        deploy(conn, key, &manifest, &[&["BUNDLE", &bundle, "MAX_PARALLEL", "100%"], pace].concat());
        conn.many(AGENTS, |n, out| put(out, &["DEPLOY.REPORT", key, &agent(n), "ready"]));
        if version < VERSIONS {
            wait_for_end(conn, key);
        }
    }
    // Enough reports that the log starts within the first deployment and has events of all kinds.
    conn.many(9 * AGENTS, |n, out| {
        let state = if (n / AGENTS).is_multiple_of(2) { "unready" } else { "ready" };
        put(out, &["DEPLOY.REPORT", key, &agent(n % AGENTS), state]);
    });
}

/// Commands that write the same content: a string per deployment, version and instance, sets of their names and a list
/// of events.
struct AsJson {
    commands: Vec<Vec<String>>,
    keys: Vec<String>,
}

impl AsJson {
    /// Builds the commands from a record.
    fn of(conn: &mut Conn, key: &str) -> AsJson {
        let mut status = status(conn, key);
        let events = events(conn, key);
        assert_eq!(events.len(), LOG, "full log");
        let mut taken = |name: &str| status.as_object_mut().and_then(|all| all.shift_remove(name)).unwrap_or_default();
        let (versions, instances) = (taken("versions"), taken("instances"));
        drop((taken("events"), taken("services")));
        let list = |value: Json| value.as_array().cloned().unwrap_or_default();
        let (versions, instances) = (list(versions), list(instances));
        assert_eq!((versions.len(), instances.len()), (VERSIONS, AGENTS));

        let mut all = AsJson { commands: Vec::new(), keys: Vec::new() };
        all.put(format!("deployment:{key}"), "SET", vec![status.to_string()]);
        let numbers = versions.iter().map(|version| version["version"].to_string()).collect();
        all.put(format!("deployment:{key}:versions"), "SADD", numbers);
        for version in &versions {
            all.put(format!("deployment:{key}:version:{}", version["version"]), "SET", vec![version.to_string()]);
        }
        let name =
            |instance: &Json| format!("{}:{}", instance["agent"].as_str().unwrap_or_default(), instance["version"]);
        all.put(format!("deployment:{key}:instances"), "SADD", instances.iter().map(name).collect());
        for instance in &instances {
            all.put(format!("deployment:{key}:instance:{}", name(instance)), "SET", vec![instance.to_string()]);
        }
        all.put(format!("deployment:{key}:events"), "RPUSH", events.iter().map(Json::to_string).collect());
        // Shared by all deployments, so MEMORY USAGE counts it with none of them.
        all.commands.push(vec!["SADD".into(), "deployments".into(), key.into()]);
        all
    }

    /// Adds a command that writes a key.
    fn put(&mut self, key: String, command: &str, values: Vec<String>) {
        self.commands.push([vec![command.to_string(), key.clone()], values].concat());
        self.keys.push(key);
    }
}

/// Returns MEMORY USAGE of a key.
fn usage(conn: &mut Conn, key: &str) -> f64 {
    conn.call(&["MEMORY", "USAGE", key, "SAMPLES", "0"]).int() as f64
}

/// Returns `used_memory`.
pub fn used(conn: &mut Conn) -> f64 {
    conn.info("memory", "used_memory")
}

/// Measures records and the same content as JSON, one and many of each.
pub fn memory(bench: &mut Bench) {
    let count = if bench.quick { 100 } else { 1_000 };
    let (ours, theirs) = (Server::start(&[]), Server::start(&[]));
    let (mut records, mut texts) = (ours.conn(), theirs.conn());
    // The first of each allocates what is allocated once.
    let name = |n: usize| format!("agent-api-{n:05}");
    full_record(&mut records, &name(0));
    let one = AsJson::of(&mut records, &name(0));
    one.commands.iter().for_each(|words| drop(texts.call(words)));
    let usage_record = usage(&mut records, &name(0));
    let usage_json: f64 = one.keys.iter().map(|key| usage(&mut texts, key)).sum();
    let manifest = bare_manifest(AGENTS).len();
    let note = format!(
        "{usage_record:.0} bytes against {usage_json:.0} in {} keys; the record's include {manifest} of its one stored manifest, \
         JSON has none",
        one.keys.len()
    );
    let what = "a record of 5 agents, 3 versions, 100 events against JSON, by MEMORY USAGE";
    bench.results.add("memory", what, usage_record / usage_json, "×", Goal::AtMost(0.4), note);

    let before = (used(&mut records), used(&mut texts));
    for n in 1..=count {
        full_record(&mut records, &name(n));
    }
    let mid = used(&mut records);
    for n in 1..=count {
        let words = AsJson::of(&mut records, &name(n)).commands;
        texts.many(words.len(), |m, out| put(out, &words[m]));
    }
    let each = (mid - before.0) / count as f64;
    let each_json = (used(&mut texts) - before.1) / count as f64;
    let note = format!("{each:.0} bytes against {each_json:.0}, of {count} each");
    bench.results.add("memory", "the same by used_memory", each / each_json, "×", Goal::AtMost(0.4), note);
    bench.results.detail(
        "memory",
        json!({ "record": each, "as_json": each_json, "record_usage": usage_record, "as_json_usage": usage_json }),
    );
    shared_manifests(bench);
}

/// Measures versions with equal manifests against versions whose manifests differ in one byte.
fn shared_manifests(bench: &mut Bench) {
    const TEXT: usize = 100_000;
    const FURTHER: usize = 9;
    let server = Server::start(&[]);
    let mut conn = server.conn();
    let manifest = |n: usize| {
        let prompt = format!("{n}{}", "x".repeat(TEXT));
        json!({ "type": "service", "nodes": [{ "node_id": "a", "prompt": prompt }] })
    };
    let mut each_further = |key: &str, manifest: &dyn Fn(usize) -> String| {
        deploy(&mut conn, key, &manifest(0), &SLOW);
        let before = used(&mut conn);
        for n in 1..=FURTHER {
            let bundle = n.to_string();
            deploy(&mut conn, key, &manifest(n), &[&["BUNDLE", &bundle], &SLOW[..]].concat());
        }
        (used(&mut conn) - before) / FURTHER as f64
    };
    let equal = each_further("equal", &|_| manifest(0).to_string());
    let different = each_further("different", &|n| manifest(n).to_string());
    let note = format!("against {} where they differ in one byte; by used_memory", digits(different));
    let what = "each further version with an equal manifest of 100 kB";
    bench.results.add("memory", what, equal, "bytes", Goal::AtMost(TEXT as f64 * 0.1), note);
}
