//! Scenarios with many deployments: `flat`, `list` and `idle`, and the memory of a small record.

use super::memory::used;
use super::reading::usec_per_call;
use crate::compare::{compare, median, percentile, Expected, SingleCommand, Variant};
use crate::resp::{put, Conn, Reply};
use crate::rollout::{agent, bare_manifest, Rollout, IMMEDIATE, RECORDS_ENCODED};
use crate::server::{wait_for, Server};
use crate::table::{digits, Goal};
use crate::variants::AGENTS;
use crate::{Bench, PIPELINED};
use serde_json::json;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Creates `count` finished deployments of one agent.
pub fn finished(conn: &mut Conn, prefix: &str, count: usize) {
    let manifest = bare_manifest(1);
    conn.many(count * 2, |n, out| {
        let key = format!("{prefix}-{:07}", n / 2);
        match n % 2 {
            0 => put(out, &[&["DEPLOY.DEPLOY", &key, "MANIFEST", &manifest], &IMMEDIATE[..]].concat()),
            _ => put(out, &["DEPLOY.REPORT", &key, &agent(0), "ready"]),
        }
    });
    wait_for("all deployments to finish", || {
        (conn.info("deploy", "deploy_deployments_successful") as usize >= count).then_some(())
    });
}

/// A server with many finished deployments, and an empty one.
pub struct ScaleServers {
    populated: Server,
    empty: Server,
    count: usize,
}

impl ScaleServers {
    /// Fills the server, and measures the memory of a record before and after it is encoded.
    pub fn fill(bench: &mut Bench) -> ScaleServers {
        let count = bench.deployments;
        eprintln!("   creating {count} deployments …");
        let (populated, empty) = (Server::start(&[]), Server::start(&[]));
        let mut conn = populated.conn();
        let (start, before) = (Instant::now(), used(&mut conn));
        finished(&mut conn, "app", count);
        let took = start.elapsed().as_secs_f64();
        let each = (used(&mut conn) - before) / count as f64;
        let memory_usage = conn.run("MEMORY USAGE app-0000001 SAMPLES 0").int();
        let note = format!(
            "used_memory, the index included; one agent, six events; MEMORY USAGE says {memory_usage}; created in {took:.0} s, \
             {} a second",
            digits(count as f64 / took)
        );
        bench.results.add(
            "scale",
            &format!("a small record, of {}", digits(count as f64)),
            each,
            "bytes",
            Goal::None,
            note,
        );
        let (since, cpu) = (Instant::now(), populated.target.cpu_ns());
        let timeout = Duration::from_secs(600);
        while conn.info("deploy", RECORDS_ENCODED) < count as f64 {
            assert!(since.elapsed() < timeout, "timeout: not all records are kept encoded");
            sleep(Duration::from_millis(50));
        }
        let encoded = (used(&mut conn) - before) / count as f64;
        let note = format!(
            "all of them encoded {:.0} s later, after {:.1} s of CPU",
            since.elapsed().as_secs_f64(),
            (populated.target.cpu_ns() - cpu) as f64 / 1e9
        );
        bench.results.add("scale", "the same, kept encoded", encoded, "bytes", Goal::None, note);
        bench.results.detail(
            "scale",
            json!({ "deployments": count, "bytes_each": each, "bytes_each_encoded": encoded, "created_in_s": took }),
        );
        ScaleServers { populated, empty, count }
    }
}

/// Measures REPORT in a large deployment and beside many deployments.
pub fn flat(bench: &mut Bench, scale: &ScaleServers) {
    const LARGE: usize = 10_000;
    const BASELINE: &str = "20 agents, no other deployments";
    const LARGE_ROLLOUT: &str = "10,000 agents";
    const MANY_DEPLOYMENTS: &str = "20 agents, many deployments";
    let reports = |server: &Server, name: &'static str, key: &str, agents: usize| {
        let rollout = Rollout::begin(&mut server.conn(), key, agents);
        Box::new(SingleCommand::new(name, server.target, Expected::Int(1), rollout.reports())) as Box<dyn Variant>
    };
    let mut variants = vec![
        reports(&scale.empty, BASELINE, "bench", AGENTS),
        reports(&scale.empty, LARGE_ROLLOUT, "large", LARGE),
        reports(&scale.populated, MANY_DEPLOYMENTS, "bench", AGENTS),
    ];
    let outcome = compare(&mut variants, PIPELINED, bench.rounds, bench.time, || ());
    for (name, what) in [
        (LARGE_ROLLOUT, format!("REPORT in a deployment of {LARGE} agents against one of 20")),
        (
            MANY_DEPLOYMENTS,
            format!("REPORT beside {} deployments against beside no others", digits(scale.count as f64)),
        ),
    ] {
        let note = format!(
            "{} against {} a second; by the server's CPU time {} ×",
            digits(outcome.rate(name)),
            digits(outcome.rate(BASELINE)),
            digits(outcome.cpu_ratio(name, BASELINE))
        );
        bench.results.add("flat", &what, outcome.ratio(name, BASELINE), "×", Goal::AtLeast(0.67), note);
    }
    for server in [&scale.empty, &scale.populated] {
        server.conn().run("DEL bench large");
    }
}

/// Reads consecutive pages of LIST, beginning in the middle.
pub fn list(bench: &mut Bench, scale: &ScaleServers) {
    const PAGES: usize = 300;
    let mut conn = scale.populated.conn();
    conn.run("CONFIG RESETSTAT");
    let mut cursor = format!("after:app-{:07}", scale.count / 3);
    let mut took = Vec::new();
    for _ in 0..PAGES.min(scale.count / 200) {
        let start = Instant::now();
        let mut page = conn.call(&["DEPLOY.LIST", "COUNT", "100", "CURSOR", &cursor]).array().into_iter();
        took.push(start.elapsed().as_nanos() as u64);
        cursor = page.next().expect("a cursor").text();
        assert_eq!(page.next().map(|entries| entries.array().len()), Some(100), "a full page");
    }
    took.sort_unstable();
    let at = |percent| percentile(&took, percent) / 1e6;
    let server_ms = usec_per_call(&mut conn, "deploy.list") / 1e3;
    let scan = scan_ms(&mut conn);
    let note = format!(
        "p50 to the client, which reads every reply; p99 {} ms; in the server {} ms; SCAN … COUNT 100 {} ms",
        digits(at(99.0)),
        digits(server_ms),
        digits(scan)
    );
    let what = format!("a page of 100 of LIST, of {}", digits(scale.count as f64));
    bench.results.add("list", &what, at(50.0), "ms", Goal::AtMost(1.0), note);
    bench
        .results
        .detail("list", json!({ "p50_ms": at(50.0), "p99_ms": at(99.0), "server_ms": server_ms, "scan_ms": scan }));
}

/// Returns the median time of a SCAN page.
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

/// Measures the CPU time of an idle server, with and without finished deployments.
pub fn idle(bench: &mut Bench, scale: &ScaleServers) {
    let window = Duration::from_secs(if bench.quick { 1 } else { 4 });
    let measure = || {
        let cpu = || (scale.populated.target.cpu_ns(), scale.empty.target.cpu_ns());
        let before = cpu();
        sleep(window);
        let after = cpu();
        let per_second = |ns: u64| ns as f64 / 1e6 / window.as_secs_f64();
        (per_second(after.0 - before.0), per_second(after.1 - before.1))
    };
    // After many insertions the server rehashes its keys for a while, whatever their type.
    let is_rehashing = || scale.populated.conn().call(&["DEBUG", "HTSTATS", "0"]).text().contains("rehashing target");
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
    let what = format!("CPU that {} finished deployments add to an idle server", digits(scale.count as f64));
    bench.results.add("idle", &what, many - none, "ms/s", Goal::AtMost(1.0), note);
    bench.results.detail("idle", json!({ "ms_per_s": many, "ms_per_s_without": none }));
}
