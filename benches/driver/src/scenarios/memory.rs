//! Point 4: what a record takes, against the same content as JSON in Redis's own types.

use crate::resp::{put, Conn};
use crate::rollout::{agent, await_end, bare_manifest, deploy, events, status, AT_ONCE, SLOW};
use crate::server::Server;
use crate::table::{digits, Goal};
use crate::Bench;
use serde_json::{json, Value as Json};

const AGENTS: usize = 5;
const VERSIONS: usize = 3;
const LOG: usize = 100;

/// A record of 5 agents and 3 versions whose log is full. Its manifests are the least that names five agents, all
/// equal, and so kept once; versions differ by their bundle.
pub fn full_record(conn: &mut Conn, key: &str) {
    let manifest = bare_manifest(AGENTS);
    for version in 1..=VERSIONS {
        let bundle = format!("s3://bundles/agent-api/v{version}");
        let pace = if version == VERSIONS { &SLOW[..] } else { &AT_ONCE[..] };
        deploy(conn, key, &manifest, &[&["BUNDLE", &bundle, "MAX_PARALLEL", "100%"], pace].concat());
        conn.many(AGENTS, |n, out| put(out, &["DEPLOY.REPORT", key, &agent(n), "ready"]));
        if version < VERSIONS {
            await_end(conn, key);
        }
    }
    // So many that the log begins within the first deployment: it has events of all kinds.
    conn.many(9 * AGENTS, |n, out| {
        let state = if (n / AGENTS).is_multiple_of(2) { "unready" } else { "ready" };
        put(out, &["DEPLOY.REPORT", key, &agent(n % AGENTS), state]);
    });
}

/// The same content as commands: a string per deployment, version and instance, sets that name them, a list of events.
struct AsJson {
    commands: Vec<Vec<String>>,
    keys: Vec<String>,
}

impl AsJson {
    fn of(conn: &mut Conn, key: &str) -> AsJson {
        let mut status = status(conn, key);
        let events = events(conn, key);
        assert_eq!(events.len(), LOG, "the log is full");
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
        // Shared by all deployments, so it is told with none of them by MEMORY USAGE.
        all.commands.push(vec!["SADD".into(), "deployments".into(), key.into()]);
        all
    }

    fn put(&mut self, key: String, command: &str, values: Vec<String>) {
        self.commands.push([vec![command.to_string(), key.clone()], values].concat());
        self.keys.push(key);
    }
}

fn usage(conn: &mut Conn, key: &str) -> f64 {
    conn.call(&["MEMORY", "USAGE", key, "SAMPLES", "0"]).int() as f64
}

pub fn used(conn: &mut Conn) -> f64 {
    conn.info("memory", "used_memory")
}

pub fn memory(bench: &mut Bench) {
    let count = if bench.quick { 100 } else { 1_000 };
    let (ours, theirs) = (Server::start(&[]), Server::start(&[]));
    let (mut records, mut texts) = (ours.conn(), theirs.conn());
    // One of each first, so that what grows once has grown.
    let name = |n: usize| format!("agent-api-{n:05}");
    full_record(&mut records, &name(0));
    let one = AsJson::of(&mut records, &name(0));
    one.commands.iter().for_each(|words| drop(texts.call(words)));
    let told = usage(&mut records, &name(0));
    let told_json: f64 = one.keys.iter().map(|key| usage(&mut texts, key)).sum();
    let manifest = bare_manifest(AGENTS).len();
    let note = format!(
        "{told:.0} bytes against {told_json:.0} in {} keys; the record's include {manifest} of its one kept manifest, \
         JSON has none",
        one.keys.len()
    );
    let what = "a record of 5 agents, 3 versions, 100 events against JSON, by MEMORY USAGE";
    bench.results.add(4, what, told / told_json, "×", Goal::AtMost(0.4), note);

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
    bench.results.add(4, "the same by used_memory", each / each_json, "×", Goal::AtMost(0.4), note);
    bench.results.detail(
        "memory",
        json!({ "record": each, "as_json": each_json, "record_told": told, "as_json_told": told_json }),
    );
    kept_once(bench);
}

/// Versions with equal manifests, against versions whose manifests differ in one byte.
fn kept_once(bench: &mut Bench) {
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
    bench.results.add(4, what, equal, "bytes", Goal::AtMost(TEXT as f64 * 0.1), note);
}
