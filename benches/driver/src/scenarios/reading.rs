//! Read commands, compared with reading the same data from native Redis types.

use super::reports::LOADS;
use crate::compare::{compare, median, Comparison, Expected, Load, SingleCommand, Variant};
use crate::resp::{put, Conn, Reply};
use crate::rollout::{agent, bare_manifest, deploy, status, Rollout, IMMEDIATE};
use crate::server::{Server, Target};
use crate::table::{digits, Goal};
use crate::{Bench, PIPELINED};
use serde_json::{json, Value as Json};

/// Measures STATUS and RESOLVE, also of sessions.
pub fn reading(bench: &mut Bench) {
    let server = Server::start(&[]);
    let mut conn = server.conn();
    let fields = as_hash(&mut conn);
    serve(&mut conn, "three", 3);
    let json = conn.call(&["DEPLOY.RESOLVE", "three", "JSON"]).bytes();
    conn.call(&[b"SET", &b"same"[..], &json]);
    conn.call(&["SET", "short", "0123456789abcdef"]);

    let outcome = compare_commands(
        bench,
        server.target,
        Load::Pipelined(10),
        &[("STATUS", Expected::Array, &["DEPLOY.STATUS", "bench"]), ("HGETALL", Expected::Array, &["HGETALL", "hash"])],
    );
    let note = format!("{fields} fields; {}", beside(&outcome, "STATUS", "HGETALL"));
    let what = "STATUS of 20 agents against HGETALL of as many fields";
    bench.results.add("reading", what, outcome.ratio("STATUS", "HGETALL"), "×", Goal::AtLeast(0.5), note);

    for (how, load) in LOADS {
        let outcome = compare_commands(
            bench,
            server.target,
            load,
            &[
                ("RESOLVE", Expected::Array, &["DEPLOY.RESOLVE", "three"]),
                ("RESOLVE JSON", Expected::Bytes, &["DEPLOY.RESOLVE", "three", "JSON"]),
                ("GET 16", Expected::Bytes, &["GET", "short"]),
                ("GET same", Expected::Bytes, &["GET", "same"]),
            ],
        );
        let same = format!("GET of {} bytes with the same content", json.len());
        for (one, other, what, goal) in [
            ("RESOLVE", "GET 16", "RESOLVE of 3 instances against GET of 16 bytes", Goal::AtLeast(0.5)),
            ("RESOLVE", "GET same", &*format!("RESOLVE of 3 instances against {same}"), Goal::AtLeast(0.5)),
            ("RESOLVE JSON", "GET same", &*format!("RESOLVE … JSON against {same}"), Goal::None),
        ] {
            let note = beside(&outcome, one, other);
            bench.results.add("reading", &format!("{what}, {how}"), outcome.ratio(one, other), "×", goal, note);
        }
    }
    serve(&mut conn, "hundred", 100);
    serve(&mut conn, "many", 10_000);
    for (key, instances) in [("three", 3), ("hundred", 100), ("many", 10_000)] {
        sessions(bench, server.target, key, instances);
    }
    large(bench, &server);
}

/// Measures where sessions go, another one with each call, among service instances.
fn sessions(bench: &mut Bench, target: Target, key: &'static str, instances: usize) {
    let mut conn = target.conn();
    let entry = conn.call(&["DEPLOY.RESOLVE", key, "SESSION", &session(0), "JSON"]).bytes();
    conn.call(&[b"SET", &b"entry"[..], &entry]);
    let resolve = |name, expected, json: &'static [&'static str]| {
        let write = move |conn: Option<usize>, n: u64, out: &mut Vec<u8>| {
            let id = session((n << 8) + conn.unwrap_or(0) as u64);
            put(out, &[&["DEPLOY.RESOLVE", key, "SESSION", &id], json].concat());
        };
        Box::new(SingleCommand::new(name, target, expected, write)) as Box<dyn Variant>
    };
    for (how, load) in LOADS {
        let mut variants = [
            resolve("SESSION", Expected::Array, &[]),
            resolve("SESSION JSON", Expected::Bytes, &["JSON"]),
            Box::new(SingleCommand::same("GET entry", target, Expected::Bytes, &["GET", "entry"])),
        ];
        let outcome = compare(&mut variants, load, bench.rounds, bench.time, || ());
        let is_goal = load == PIPELINED && instances <= 100;
        for (name, goal) in
            [("SESSION JSON", if is_goal { Goal::AtLeast(0.5) } else { Goal::None }), ("SESSION", Goal::None)]
        {
            let (length, note) = (entry.len(), beside(&outcome, name, "GET entry"));
            let what = format!("RESOLVE … {name} among {instances} instances against GET of {length} bytes, {how}");
            bench.results.add("reading", &what, outcome.ratio(name, "GET entry"), "×", goal, note);
        }
    }
}

/// Returns the id of the nth session.
fn session(n: u64) -> String {
    format!("session-{n:012}")
}

/// Compares single commands.
fn compare_commands(
    bench: &Bench,
    target: Target,
    load: Load,
    commands: &[(&'static str, Expected, &[&str])],
) -> Comparison {
    let variant = |(name, expected, words): &(&'static str, Expected, &[&str])| {
        Box::new(SingleCommand::same(name, target, *expected, words)) as Box<dyn Variant>
    };
    let mut variants: Vec<_> = commands.iter().map(variant).collect();
    compare(&mut variants, load, bench.rounds, bench.time, || ())
}

/// Describes CPU time and reply size of two commands.
fn beside(outcome: &Comparison, one: &str, other: &str) -> String {
    let bytes = |name: &str| digits(outcome.median_of(name, |sample| sample.reply_bytes));
    let us = |name: &str| digits(outcome.cpu_us(name));
    format!("{} µs of server CPU against {}; replies of {} and {} bytes", us(one), us(other), bytes(one), bytes(other))
}

/// Writes a rollout of 20 agents at `bench`, and the fields of its STATUS as a hash. Returns the number of fields.
fn as_hash(conn: &mut Conn) -> usize {
    Rollout::begin(conn, "bench", 20);
    let mut status = status(conn, "bench");
    // In RESP each event is a string.
    for event in status["events"].as_array_mut().into_iter().flatten() {
        *event = Json::String(event.to_string());
    }
    let mut fields = Vec::new();
    flatten("", &status, &mut fields);
    let mut words = vec!["HSET".to_string(), "hash".to_string()];
    words.extend(fields.iter().flat_map(|(name, value)| [name.clone(), value.clone()]));
    conn.call(&words);
    fields.len()
}

/// Appends the fields of a JSON value by their paths.
fn flatten(name: &str, value: &Json, out: &mut Vec<(String, String)>) {
    let below = |part: &str| if name.is_empty() { part.to_string() } else { format!("{name}.{part}") };
    match value {
        Json::Object(fields) => fields.iter().for_each(|(part, value)| flatten(&below(part), value, out)),
        Json::Array(items) => items.iter().enumerate().for_each(|(n, item)| flatten(&below(&n.to_string()), item, out)),
        Json::String(text) => out.push((name.to_string(), text.clone())),
        Json::Null => out.push((name.to_string(), String::new())),
        other => out.push((name.to_string(), other.to_string())),
    }
}

/// Creates a finished deployment whose agents each have a service instance.
fn serve(conn: &mut Conn, key: &str, agents: usize) {
    deploy(conn, key, &bare_manifest(agents), &IMMEDIATE);
    conn.many(agents, |n, out| put(out, &["DEPLOY.REPORT", key, &agent(n), "ready"]));
    conn.many(agents, |n, out| {
        let instance = format!("{}-http", agent(n));
        put(
            out,
            &["DEPLOY.REGISTER", key, &agent(n), "http", "INSTANCE", &instance, "ADDRESS", "10.0.0.1", "PORT", "8080"],
        );
    });
}

/// Measures the time for which a RESOLVE of 10,000 instances occupies the server.
fn large(bench: &mut Bench, server: &Server) {
    const CALLS: usize = 25;
    let mut conn = server.conn();
    let resolve = crate::resp::command(&["DEPLOY.RESOLVE", "many"]);
    conn.send(&resolve);
    assert_eq!(conn.skip(), (b'*', 10_000));
    conn.run("CONFIG SET slowlog-log-slower-than 0 slowlog-max-len 1000");
    conn.run("SLOWLOG RESET");
    let cpu = server.target.cpu_ns();
    for _ in 0..CALLS {
        conn.send(&resolve);
        conn.skip();
    }
    let cpu_ms = (server.target.cpu_ns() - cpu) as f64 / 1e6 / CALLS as f64;
    conn.run("CONFIG SET slowlog-log-slower-than 10000");
    // An entry consists of id, time, duration in µs, command and more.
    let entries = conn.run("SLOWLOG GET 1000").array().into_iter().map(Reply::array);
    let of_resolve =
        entries.filter(|entry| matches!(&entry[3], Reply::Array(words) if words[0].text() == "DEPLOY.RESOLVE"));
    let took: Vec<f64> = of_resolve.map(|entry| entry[2].int() as f64 / 1e3).collect();
    assert_eq!(took.len(), CALLS);
    let server_ms = median(took);
    let note = format!("median of {CALLS} by SLOWLOG; including the sending of the reply {} ms of CPU", digits(cpu_ms));
    bench.results.add(
        "reading",
        "time of RESOLVE of 10,000 instances in the server",
        server_ms,
        "ms",
        Goal::AtMost(5.0),
        note,
    );
    bench.results.detail("resolve_10000", json!({ "server_ms": server_ms, "cpu_ms": cpu_ms }));
}

/// Returns the time of a command in µs by the server's own statistics.
pub fn usec_per_call(conn: &mut Conn, command: &str) -> f64 {
    let stats = conn.info_text("commandstats", &format!("cmdstat_{command}")).expect("the command was called");
    let field = stats.split(',').find_map(|field| field.strip_prefix("usec_per_call="));
    field.and_then(|text| text.parse().ok()).expect("a number")
}
