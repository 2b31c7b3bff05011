//! REPORT in a rollout of 20 agents, compared with the floor and with other implementations.

use crate::compare::{compare, Comparison, Load, Variant};
use crate::server::{wait_for, Server};
use crate::subscribers::Subscribers;
use crate::table::{digits, Goal};
use crate::variants::{Sizes, VariantSet, CLIENT, FLOOR, JSON_LUA, JSON_LUA_WITH_STREAM, LUA, REPORT, SET};
use crate::{Bench, PIPELINED};
use serde_json::{json, Map, Value as Json};
use std::time::Duration;

/// Compares all variants under a pipelined load.
pub fn report(bench: &mut Bench) {
    let sizes = Sizes::measure();
    let server = Server::start(&[]);
    let set = VariantSet::prepare(server.target, sizes);
    let outcome = compare(&mut set.all(), PIPELINED, bench.rounds, bench.time, || ());
    let beside = |name: &str| {
        format!(
            "{} against {} a second; by the server's CPU time {} ×",
            digits(outcome.rate(REPORT)),
            digits(outcome.rate(name)),
            digits(outcome.cpu_ratio(REPORT, name))
        )
    };
    let note = format!("{}; replicates {} bytes, publishes {}", beside(FLOOR), sizes.payload, sizes.event);
    bench.results.add(
        "report",
        "REPORT against the floor",
        outcome.ratio(REPORT, FLOOR),
        "×",
        Goal::AtLeast(0.8),
        note,
    );
    bench.results.add(
        "report",
        "REPORT against optimized Lua",
        outcome.ratio(REPORT, LUA),
        "×",
        Goal::AtLeast(4.0),
        beside(LUA),
    );
    let what = "REPORT against one JSON document in Lua";
    bench.results.add("report", what, outcome.ratio(REPORT, JSON_LUA), "×", Goal::AtLeast(40.0), beside(JSON_LUA));
    let what = "the same, its log in a stream";
    let note = beside(JSON_LUA_WITH_STREAM);
    bench.results.add("report", what, outcome.ratio(REPORT, JSON_LUA_WITH_STREAM), "×", Goal::None, note);
    let what = "REPORT against a client's GET, merge, SET, PUBLISH";
    bench.results.add("report", what, outcome.ratio(REPORT, CLIENT), "×", Goal::None, beside(CLIENT));
    bench.results.add(
        "report",
        "REPORT against SET of 16 bytes",
        outcome.ratio(REPORT, SET),
        "×",
        Goal::None,
        beside(SET),
    );
    bench.results.detail("report", detail(&outcome));
}

/// Returns the medians of all variants.
fn detail(outcome: &Comparison) -> Json {
    let of = |name: &&str| {
        let p50 = outcome.median_of(name, |sample| sample.p50_us.unwrap_or(f64::NAN));
        let p99 = outcome.median_of(name, |sample| sample.p99_us.unwrap_or(f64::NAN));
        // NaN, where latencies are unknown, is null in JSON.
        let figures = json!({
            "per_second": outcome.rate(name), "cpu_us": outcome.cpu_us(name), "p50_us": p50, "p99_us": p99,
            "reply_bytes": outcome.median_of(name, |sample| sample.reply_bytes),
        });
        (name.to_string(), figures)
    };
    Json::Object(outcome.names().iter().map(of).collect())
}

/// Subscribers, AOF and replica of the server during a measurement.
struct Environment {
    name: &'static str,
    subscribers: usize,
    aof: bool,
    replica: bool,
}

const ENVIRONMENTS: [Environment; 6] = [
    Environment { name: "alone", subscribers: 0, aof: false, replica: false },
    Environment { name: "1 subscriber", subscribers: 1, aof: false, replica: false },
    Environment { name: "100 subscribers", subscribers: 100, aof: false, replica: false },
    Environment { name: "AOF everysec", subscribers: 0, aof: true, replica: false },
    Environment { name: "a replica", subscribers: 0, aof: false, replica: true },
    Environment { name: "all: 100 subscribers, AOF, replica", subscribers: 100, aof: true, replica: true },
];

/// There are as many connections as agents: each reports about its own.
pub const LOADS: [(&str, Load); 2] =
    [("pipelined", PIPELINED), ("20 connections", Load::Connections(crate::variants::AGENTS))];

/// Repeats the comparison in all environments.
pub fn loads(bench: &mut Bench) {
    let (mut rows, mut details) = (Vec::new(), Map::new());
    let sizes = Sizes::measure();
    for environment in &ENVIRONMENTS {
        let server = Server::start(&[]);
        let replica = environment.replica.then(|| Server::start(&[]));
        let set = VariantSet::prepare(server.target, sizes);
        let mut variants = set.main();
        if environment.aof {
            append_only(&server);
        }
        if let Some(replica) = &replica {
            replica.replicate_from(&server);
        }
        let subscribers = Subscribers::start(server.target, environment.subscribers, &VariantSet::channels());
        if environment.subscribers > 0 {
            check_published(&mut variants, &subscribers);
        }
        for (name, load) in LOADS {
            let outcome = compare_in(&mut variants, load, bench, &subscribers, &server, replica.as_ref());
            let load = format!("{}, {name}", environment.name);
            let mut row = vec![load.clone()];
            row.extend(outcome.names().iter().map(|name| digits(outcome.rate(name) / 1e3)));
            row.extend([FLOOR, LUA, JSON_LUA].map(|than| digits(outcome.ratio(REPORT, than))));
            row.push(digits(outcome.cpu_ratio(REPORT, FLOOR)));
            eprintln!("   {}", row.join(" | "));
            rows.push(row);
            details.insert(load, detail(&outcome));
        }
    }
    let head =
        ["load", SET, FLOOR, REPORT, LUA, JSON_LUA, CLIENT, "REPORT / floor", "/ Lua", "/ JSON Lua", "/ floor by CPU"];
    let title = "Thousands of operations per second under each load, and ratios (medians)";
    bench.results.add_table(title, &head, &rows);
    bench.results.detail("loads", Json::Object(details));
}

/// Checks that each variant publishes to the subscribers; otherwise it would have less work.
fn check_published(variants: &mut [Box<dyn Variant>], subscribers: &Subscribers) {
    for variant in variants {
        let before = subscribers.received();
        variant.round(PIPELINED, Duration::from_millis(5));
        subscribers.settle();
        let is_published = subscribers.received() > before;
        assert_eq!(is_published, variant.name() != SET, "{}", variant.name());
    }
}

/// Runs a comparison; after each run, subscribers and replica catch up.
fn compare_in(
    variants: &mut [Box<dyn Variant>],
    load: Load,
    bench: &Bench,
    subscribers: &Subscribers,
    server: &Server,
    replica: Option<&Server>,
) -> Comparison {
    compare(variants, load, bench.rounds, bench.time.mul_f64(0.6), || {
        subscribers.settle();
        if let Some(replica) = replica {
            catch_up(server, replica);
        }
    })
}

/// Waits for the replica, so that the next run is not charged for the last one.
fn catch_up(primary: &Server, replica: &Server) {
    let (mut theirs, mut ours) = (primary.conn(), replica.conn());
    wait_for("the replica to catch up", || {
        let offset = theirs.info("replication", "master_repl_offset");
        (ours.info("replication", "slave_repl_offset") >= offset).then_some(())
    });
}

/// Turns the AOF on, and waits until its first rewrite is done. Further rewrites are disabled.
pub fn append_only(server: &Server) {
    let mut conn = server.conn();
    conn.run("CONFIG SET auto-aof-rewrite-percentage 0 appendfsync everysec appendonly yes");
    wait_for("the AOF to be written", || {
        let busy =
            conn.info("persistence", "aof_rewrite_in_progress") + conn.info("persistence", "aof_rewrite_scheduled");
        (busy == 0.0 && conn.info("persistence", "aof_enabled") == 1.0).then_some(())
    });
}
