//! Point 1: a report that changes a 20-agent rollout, against the floor and against other ways to do its work.

use crate::contest::{contest, Contestant, Outcome, Sending};
use crate::contestants::{Arena, Sizes, CLIENT, FLOOR, JSON_LUA, JSON_LUA_LOG_APART, LUA, REPORT, SET};
use crate::server::{wait_for, Server};
use crate::subscribers::Subscribers;
use crate::table::{digits, Goal};
use crate::{Bench, PIPELINED};
use serde_json::{json, Map, Value as Json};
use std::time::Duration;

pub fn report(bench: &mut Bench) {
    let sizes = Sizes::measure();
    let server = Server::start(&[]);
    let arena = Arena::set_up(server.target, sizes);
    let outcome = contest(&mut arena.all(), PIPELINED, bench.rounds, bench.time, || ());
    let beside = |name: &str| {
        format!(
            "{} against {} a second; by the server's CPU time {} ×",
            digits(outcome.rate(REPORT)),
            digits(outcome.rate(name)),
            digits(outcome.cpu_ratio(REPORT, name))
        )
    };
    let note = format!("{}; replicates {} bytes, publishes {}", beside(FLOOR), sizes.payload, sizes.event);
    bench.results.add(1, "REPORT against the floor", outcome.ratio(REPORT, FLOOR), "×", Goal::AtLeast(0.8), note);
    bench.results.add(
        1,
        "REPORT against the expert's Lua",
        outcome.ratio(REPORT, LUA),
        "×",
        Goal::AtLeast(4.0),
        beside(LUA),
    );
    let what = "REPORT against one JSON document in Lua";
    bench.results.add(1, what, outcome.ratio(REPORT, JSON_LUA), "×", Goal::AtLeast(40.0), beside(JSON_LUA));
    let what = "the same, its log in a stream";
    let note = beside(JSON_LUA_LOG_APART);
    bench.results.add(1, what, outcome.ratio(REPORT, JSON_LUA_LOG_APART), "×", Goal::None, note);
    let what = "REPORT against a client's GET, merge, SET, PUBLISH";
    bench.results.add(1, what, outcome.ratio(REPORT, CLIENT), "×", Goal::None, beside(CLIENT));
    bench.results.add(1, "REPORT against SET of 16 bytes", outcome.ratio(REPORT, SET), "×", Goal::None, beside(SET));
    bench.results.detail("report", detail(&outcome));
}

fn detail(outcome: &Outcome) -> Json {
    let of = |name: &&str| {
        let p50 = outcome.median_of(name, |sample| sample.p50_us.unwrap_or(f64::NAN));
        let p99 = outcome.median_of(name, |sample| sample.p99_us.unwrap_or(f64::NAN));
        // NaN, where latencies are not known, is null in JSON.
        let figures = json!({
            "per_second": outcome.rate(name), "cpu_us": outcome.cpu_us(name), "p50_us": p50, "p99_us": p99,
            "reply_bytes": outcome.median_of(name, |sample| sample.reply_bytes),
        });
        (name.to_string(), figures)
    };
    Json::Object(outcome.names().iter().map(of).collect())
}

/// What surrounds the server while it is measured.
struct Surroundings {
    name: &'static str,
    subscribers: usize,
    aof: bool,
    replica: bool,
}

const SURROUNDINGS: [Surroundings; 6] = [
    Surroundings { name: "alone", subscribers: 0, aof: false, replica: false },
    Surroundings { name: "1 subscriber", subscribers: 1, aof: false, replica: false },
    Surroundings { name: "100 subscribers", subscribers: 100, aof: false, replica: false },
    Surroundings { name: "AOF everysec", subscribers: 0, aof: true, replica: false },
    Surroundings { name: "a replica", subscribers: 0, aof: false, replica: true },
    Surroundings { name: "all: 100 subscribers, AOF, replica", subscribers: 100, aof: true, replica: true },
];

/// As many as there are agents: each reports about its own.
pub const SENDINGS: [(&str, Sending); 2] =
    [("pipelined", PIPELINED), ("20 connections", Sending::Connections(crate::contestants::AGENTS))];

/// The same contest under other loads.
pub fn loads(bench: &mut Bench) {
    let (mut rows, mut details) = (Vec::new(), Map::new());
    let sizes = Sizes::measure();
    for around in &SURROUNDINGS {
        let server = Server::start(&[]);
        let replica = around.replica.then(|| Server::start(&[]));
        let arena = Arena::set_up(server.target, sizes);
        let mut contestants = arena.main();
        if around.aof {
            append_only(&server);
        }
        if let Some(replica) = &replica {
            replica.replicate_from(&server);
        }
        let subscribers = Subscribers::start(server.target, around.subscribers, &Arena::channels());
        if around.subscribers > 0 {
            all_are_heard(&mut contestants, &subscribers);
        }
        for (name, sending) in SENDINGS {
            let outcome = in_turns(&mut contestants, sending, bench, &subscribers, &server, replica.as_ref());
            let load = format!("{}, {name}", around.name);
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
    let title = "Thousands of operations a second under each load, and ratios (medians)";
    bench.results.add_table(title, &head, &rows);
    bench.results.detail("loads", Json::Object(details));
}

/// Whoever publishes to nobody has it easy.
fn all_are_heard(contestants: &mut [Box<dyn Contestant>], subscribers: &Subscribers) {
    for contestant in contestants {
        let before = subscribers.received();
        contestant.round(PIPELINED, Duration::from_millis(5));
        subscribers.settle();
        let is_heard = subscribers.received() > before;
        assert_eq!(is_heard, contestant.name() != SET, "{}", contestant.name());
    }
}

fn in_turns(
    contestants: &mut [Box<dyn Contestant>],
    sending: Sending,
    bench: &Bench,
    subscribers: &Subscribers,
    server: &Server,
    replica: Option<&Server>,
) -> Outcome {
    contest(contestants, sending, bench.rounds, bench.time.mul_f64(0.6), || {
        subscribers.settle();
        if let Some(replica) = replica {
            catch_up(server, replica);
        }
    })
}

/// What one contestant leaves to the replica must not be the next one's burden.
fn catch_up(primary: &Server, replica: &Server) {
    let (mut theirs, mut ours) = (primary.conn(), replica.conn());
    wait_for("the replica to catch up", || {
        let offset = theirs.info("replication", "master_repl_offset");
        (ours.info("replication", "slave_repl_offset") >= offset).then_some(())
    });
}

/// Turns the AOF on, and waits until the file is written for the first time. It is not rewritten again.
pub fn append_only(server: &Server) {
    let mut conn = server.conn();
    conn.run("CONFIG SET auto-aof-rewrite-percentage 0 appendfsync everysec appendonly yes");
    wait_for("the AOF to be written", || {
        let busy =
            conn.info("persistence", "aof_rewrite_in_progress") + conn.info("persistence", "aof_rewrite_scheduled");
        (busy == 0.0 && conn.info("persistence", "aof_enabled") == 1.0).then_some(())
    });
}
