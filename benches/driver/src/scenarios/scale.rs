//! What is to hold however many deployments there are: point 2, and of points 3, 4 and 6 what is said of a million.

use super::memory::used;
use super::reading::usec_per_call;
use crate::contest::{contest, median, percentile, Contestant, Expected, OneCommand};
use crate::contestants::AGENTS;
use crate::resp::{put, Conn, Reply};
use crate::rollout::{agent, bare_manifest, Rollout, AT_ONCE};
use crate::server::{wait_for, Server};
use crate::table::{digits, Goal};
use crate::{Bench, PIPELINED};
use serde_json::json;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// So many finished deployments of one agent.
pub fn finished(conn: &mut Conn, prefix: &str, count: usize) {
    let manifest = bare_manifest(1);
    conn.many(count * 2, |n, out| {
        let key = format!("{prefix}-{:07}", n / 2);
        match n % 2 {
            0 => put(out, &[&["DEPLOY.DEPLOY", &key, "MANIFEST", &manifest], &AT_ONCE[..]].concat()),
            _ => put(out, &["DEPLOY.REPORT", &key, &agent(0), "ready"]),
        }
    });
    wait_for("all of them to be finished", || {
        (conn.info("deploy", "deploy_deployments_successful") as usize >= count).then_some(())
    });
}

/// A server with many finished deployments, and one like it with none.
pub struct Crowd {
    many: Server,
    none: Server,
    count: usize,
}

impl Crowd {
    pub fn gather(bench: &mut Bench) -> Crowd {
        let count = bench.deployments;
        eprintln!("   making {count} deployments …");
        let (many, none) = (Server::start(&[]), Server::start(&[]));
        let mut conn = many.conn();
        let (start, before) = (Instant::now(), used(&mut conn));
        finished(&mut conn, "app", count);
        let took = start.elapsed().as_secs_f64();
        let each = (used(&mut conn) - before) / count as f64;
        let told = conn.run("MEMORY USAGE app-0000001 SAMPLES 0").int();
        let note = format!(
            "used_memory, the index included; one agent, six events; MEMORY USAGE says {told}; made in {took:.0} s, \
             {} a second",
            digits(count as f64 / took)
        );
        bench.results.add(4, &format!("a small record, of {}", digits(count as f64)), each, "bytes", Goal::None, note);
        let (since, cpu) = (Instant::now(), many.target.cpu_ns());
        let patience = Duration::from_secs(600);
        while conn.info("deploy", "deploy_records_at_rest") < count as f64 {
            assert!(since.elapsed() < patience, "waited in vain for all of them to rest");
            sleep(Duration::from_millis(50));
        }
        let resting = (used(&mut conn) - before) / count as f64;
        let note = format!(
            "all of them at rest {:.0} s later, after {:.1} s of CPU",
            since.elapsed().as_secs_f64(),
            (many.target.cpu_ns() - cpu) as f64 / 1e9
        );
        bench.results.add(4, "the same at rest", resting, "bytes", Goal::None, note);
        bench.results.detail(
            "crowd",
            json!({ "deployments": count, "bytes_each": each, "bytes_each_at_rest": resting, "made_in_s": took }),
        );
        Crowd { many, none, count }
    }
}

pub fn flat(bench: &mut Bench, crowd: &Crowd) {
    const LARGE: usize = 10_000;
    const BESIDE_NONE: &str = "20 agents, no others";
    const OF_MANY: &str = "10,000 agents";
    const BESIDE_MANY: &str = "20 agents, many others";
    let reports = |server: &Server, name: &'static str, key: &str, agents: usize| {
        let rollout = Rollout::begin(&mut server.conn(), key, agents);
        Box::new(OneCommand::new(name, server.target, Expected::Int(1), rollout.reports())) as Box<dyn Contestant>
    };
    let mut contestants = vec![
        reports(&crowd.none, BESIDE_NONE, "bench", AGENTS),
        reports(&crowd.none, OF_MANY, "large", LARGE),
        reports(&crowd.many, BESIDE_MANY, "bench", AGENTS),
    ];
    let outcome = contest(&mut contestants, PIPELINED, bench.rounds, bench.time, || ());
    for (name, what) in [
        (OF_MANY, format!("REPORT in a deployment of {LARGE} agents against one of 20")),
        (BESIDE_MANY, format!("REPORT beside {} deployments against beside none", digits(crowd.count as f64))),
    ] {
        let note = format!(
            "{} against {} a second; by the server's CPU time {} ×",
            digits(outcome.rate(name)),
            digits(outcome.rate(BESIDE_NONE)),
            digits(outcome.cpu_ratio(name, BESIDE_NONE))
        );
        bench.results.add(2, &what, outcome.ratio(name, BESIDE_NONE), "×", Goal::AtLeast(0.67), note);
    }
    for server in [&crowd.none, &crowd.many] {
        server.conn().run("DEL bench large");
    }
}

/// Pages of LIST, one after another from somewhere in the middle.
pub fn list(bench: &mut Bench, crowd: &Crowd) {
    const PAGES: usize = 300;
    let mut conn = crowd.many.conn();
    conn.run("CONFIG RESETSTAT");
    let mut cursor = format!("after:app-{:07}", crowd.count / 3);
    let mut took = Vec::new();
    for _ in 0..PAGES.min(crowd.count / 200) {
        let start = Instant::now();
        let mut page = conn.call(&["DEPLOY.LIST", "COUNT", "100", "CURSOR", &cursor]).array().into_iter();
        took.push(start.elapsed().as_nanos() as u64);
        cursor = page.next().expect("a cursor").text();
        assert_eq!(page.next().map(|entries| entries.array().len()), Some(100), "a full page");
    }
    took.sort_unstable();
    let at = |percent| percentile(&took, percent) / 1e6;
    let own = usec_per_call(&mut conn, "deploy.list") / 1e3;
    let scan = scan_ms(&mut conn);
    let note = format!(
        "p50 to the client, which reads every reply; p99 {} ms; the server itself {} ms; SCAN … COUNT 100 {} ms",
        digits(at(99.0)),
        digits(own),
        digits(scan)
    );
    let what = format!("a page of 100 of LIST, of {}", digits(crowd.count as f64));
    bench.results.add(6, &what, at(50.0), "ms", Goal::AtMost(1.0), note);
    bench.results.detail("list", json!({ "p50_ms": at(50.0), "p99_ms": at(99.0), "server_ms": own, "scan_ms": scan }));
}

fn scan_ms(conn: &mut Conn) -> f64 {
    let mut cursor = "0".to_string();
    let took = (0..300).map(|_| {
        let start = Instant::now();
        let page = conn.call(&["SCAN", &cursor, "COUNT", "100"]);
        let took = start.elapsed().as_secs_f64() * 1e3;
        if let Reply::Array(page) = page {
            cursor = page[0].text();
        }
        took
    });
    median(took.collect())
}

/// CPU of a server that does nothing, with and without finished deployments.
pub fn idle(bench: &mut Bench, crowd: &Crowd) {
    let window = Duration::from_secs(if bench.quick { 1 } else { 4 });
    let measure = || {
        let cpu = || (crowd.many.target.cpu_ns(), crowd.none.target.cpu_ns());
        let before = cpu();
        sleep(window);
        let after = cpu();
        let per_second = |ns: u64| ns as f64 / 1e6 / window.as_secs_f64();
        (per_second(after.0 - before.0), per_second(after.1 - before.1))
    };
    // The server moves its keys to a larger table for a while after so many were added, whatever they are.
    let is_rehashing = || crowd.many.conn().call(&["DEBUG", "HTSTATS", "0"]).text().contains("rehashing target");
    let waited = Instant::now();
    while is_rehashing() && waited.elapsed() < Duration::from_secs(60) {
        sleep(Duration::from_millis(500));
    }
    let windows: Vec<(f64, f64)> = (0..if bench.quick { 1 } else { 3 }).map(|_| measure()).collect();
    let (many, none) = (median(windows.iter().map(|w| w.0).collect()), median(windows.iter().map(|w| w.1).collect()));
    let note = format!(
        "{} ms of CPU a second against {} ms without; medians of {} windows of {} s",
        digits(many),
        digits(none),
        windows.len(),
        window.as_secs()
    );
    let what = format!("what {} finished deployments add to an idle server's CPU", digits(crowd.count as f64));
    bench.results.add(3, &what, many - none, "ms/s", Goal::AtMost(1.0), note);
    bench.results.detail("idle", json!({ "ms_per_s": many, "ms_per_s_without": none }));
}
