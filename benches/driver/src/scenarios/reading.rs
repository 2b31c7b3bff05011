//! Point 6: reading, against reading as much from Redis's own types.

use super::reports::SENDINGS;
use crate::contest::{contest, median, Contestant, Expected, OneCommand, Outcome, Sending};
use crate::resp::{put, Conn, Reply};
use crate::rollout::{agent, bare_manifest, deploy, status, Rollout, AT_ONCE};
use crate::server::{Server, Target};
use crate::table::{digits, Goal};
use crate::Bench;
use serde_json::{json, Value as Json};

pub fn reading(bench: &mut Bench) {
    let server = Server::start(&[]);
    let mut conn = server.conn();
    let fields = as_hash(&mut conn);
    serve(&mut conn, "three", 3);
    let json = conn.call(&["DEPLOY.RESOLVE", "three", "JSON"]).bytes();
    conn.call(&[b"SET", &b"same"[..], &json]);
    conn.call(&["SET", "short", "0123456789abcdef"]);

    let outcome = of_commands(
        bench,
        server.target,
        Sending::Pipelined(10),
        &[("STATUS", Expected::Array, &["DEPLOY.STATUS", "bench"]), ("HGETALL", Expected::Array, &["HGETALL", "hash"])],
    );
    let note = format!("{fields} fields; {}", beside(&outcome, "STATUS", "HGETALL"));
    let what = "STATUS of 20 agents against HGETALL of as many fields";
    bench.results.add(6, what, outcome.ratio("STATUS", "HGETALL"), "×", Goal::AtLeast(0.5), note);

    for (how, sending) in SENDINGS {
        let outcome = of_commands(
            bench,
            server.target,
            sending,
            &[
                ("RESOLVE", Expected::Array, &["DEPLOY.RESOLVE", "three"]),
                ("RESOLVE JSON", Expected::Bytes, &["DEPLOY.RESOLVE", "three", "JSON"]),
                ("GET 16", Expected::Bytes, &["GET", "short"]),
                ("GET same", Expected::Bytes, &["GET", "same"]),
            ],
        );
        let same = format!("GET of {} bytes, which say the same", json.len());
        for (one, other, what, goal) in [
            ("RESOLVE", "GET 16", "RESOLVE of 3 instances against GET of 16 bytes", Goal::AtLeast(0.5)),
            ("RESOLVE", "GET same", &*format!("RESOLVE of 3 instances against {same}"), Goal::AtLeast(0.5)),
            ("RESOLVE JSON", "GET same", &*format!("RESOLVE … JSON against {same}"), Goal::None),
        ] {
            let note = beside(&outcome, one, other);
            bench.results.add(6, &format!("{what}, {how}"), outcome.ratio(one, other), "×", goal, note);
        }
    }
    large(bench, &server);
}

fn of_commands(
    bench: &Bench,
    target: Target,
    sending: Sending,
    commands: &[(&'static str, Expected, &[&str])],
) -> Outcome {
    let contestant = |(name, expected, words): &(&'static str, Expected, &[&str])| {
        Box::new(OneCommand::same(name, target, *expected, words)) as Box<dyn Contestant>
    };
    let mut contestants: Vec<_> = commands.iter().map(contestant).collect();
    contest(&mut contestants, sending, bench.rounds, bench.time, || ())
}

fn beside(outcome: &Outcome, one: &str, other: &str) -> String {
    let bytes = |name: &str| digits(outcome.median_of(name, |sample| sample.reply_bytes));
    let us = |name: &str| digits(outcome.cpu_us(name));
    format!("{} µs of the server against {}; replies of {} and {} bytes", us(one), us(other), bytes(one), bytes(other))
}

/// A rollout of 20 agents at `bench`, and a hash of what its STATUS says, field by field; how many there are.
fn as_hash(conn: &mut Conn) -> usize {
    Rollout::begin(conn, "bench", 20);
    let mut status = status(conn, "bench");
    // In RESP each event is one text.
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

/// A finished deployment of so many agents, each with a service instance.
fn serve(conn: &mut Conn, key: &str, agents: usize) {
    deploy(conn, key, &bare_manifest(agents), &AT_ONCE);
    conn.many(agents, |n, out| put(out, &["DEPLOY.REPORT", key, &agent(n), "ready"]));
    conn.many(agents, |n, out| {
        let instance = format!("{}-http", agent(n));
        put(
            out,
            &["DEPLOY.REGISTER", key, &agent(n), "http", "INSTANCE", &instance, "ADDRESS", "10.0.0.1", "PORT", "8080"],
        );
    });
}

/// How long the server is kept by an answer of 10,000.
fn large(bench: &mut Bench, server: &Server) {
    const CALLS: usize = 25;
    let mut conn = server.conn();
    serve(&mut conn, "many", 10_000);
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
    // An entry is its number, its time, the µs that it took, the command, and more.
    let entries = conn.run("SLOWLOG GET 1000").array().into_iter().map(Reply::array);
    let of_resolve =
        entries.filter(|entry| matches!(&entry[3], Reply::Array(words) if words[0].text() == "DEPLOY.RESOLVE"));
    let took: Vec<f64> = of_resolve.map(|entry| entry[2].int() as f64 / 1e3).collect();
    assert_eq!(took.len(), CALLS);
    let kept_ms = median(took);
    let note = format!("median of {CALLS} by SLOWLOG; with the sending of the reply {} ms of CPU", digits(cpu_ms));
    bench.results.add(6, "RESOLVE of 10,000 instances keeps the server for", kept_ms, "ms", Goal::AtMost(5.0), note);
    bench.results.detail("resolve_10000", json!({ "kept_ms": kept_ms, "cpu_ms": cpu_ms }));
}

/// What the server itself says a command takes, in µs.
pub fn usec_per_call(conn: &mut Conn, command: &str) -> f64 {
    let stats = conn.info_text("commandstats", &format!("cmdstat_{command}")).expect("it was called");
    let field = stats.split(',').find_map(|field| field.strip_prefix("usec_per_call="));
    field.and_then(|text| text.parse().ok()).expect("a number")
}
