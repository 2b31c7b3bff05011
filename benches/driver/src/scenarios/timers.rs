//! Timers: the delay of health decisions among many rollouts, and the latency of other clients while many are due at
//! once.

use crate::compare::{median, percentile};
use crate::resp::{command, put, Conn};
use crate::rollout::{agent, bare_manifest, deploy, now_ms, status, Rollout, SLOW};
use crate::server::{wait_for, Server, Target};
use crate::table::{digits, Goal};
use crate::variants::AGENTS;
use crate::Bench;
use serde_json::json;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{sleep, spawn, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// Returns the Unix time in µs.
fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("the clock is past 1970").as_micros() as u64
}

/// Creates rollouts of one agent, with the given policy.
fn begin(conn: &mut Conn, prefix: &str, count: usize, pace: &[&str]) {
    let manifest = bare_manifest(1);
    conn.many(count, |n, out| {
        let key = format!("{prefix}-{n:07}");
        put(out, &[&["DEPLOY.DEPLOY", &key, "MANIFEST", &manifest], pace].concat());
    });
}

/// Appends a report of `ready`.
fn report(out: &mut Vec<u8>, key: &str) {
    put(out, &["DEPLOY.REPORT", key, &agent(0), "ready"]);
}

// ---- delay of events ------------------------------------------------------------------------------------------------

/// Value of min_healthy_ms of a watched rollout.
const WATCHED_MS: &str = "3000";

/// Measures the delay of health events.
pub fn due(bench: &mut Bench) {
    let (active, watched) = if bench.quick { (5_000, 300) } else { (100_000, 2_000) };
    let server = Server::start(&[]);
    let mut conn = server.conn();
    begin(&mut conn, "active", active, &SLOW);
    conn.many(active, |n, out| report(out, &format!("active-{n:07}")));
    assert_eq!(conn.info("deploy", "deploy_timers_armed") as usize, active);

    let late = lateness(&mut conn, server.target, "quiet", watched);
    let own = |conn: &mut Conn, field: &str| digits(conn.info("deploy", field) / 1e3);
    let (own_p50, own_p99) = (own(&mut conn, "deploy_timer_lag_p50_us"), own(&mut conn, "deploy_timer_lag_p99_us"));
    let note = format!("{}; by INFO p50 {own_p50} ms, p99 {own_p99} ms", percentiles(&late));
    let what = format!("delay of a health event, p99, among {active} active rollouts");
    bench.results.add("due", &what, percentile(&late, 99.0) / 1e3, "ms", Goal::AtMost(2.0), note);
    bench.results.detail("due_us", json!(late));

    let rollout = Rollout::begin(&mut conn, "busy", AGENTS);
    let busy = Busy::start(server.target, rollout.reports());
    let late = lateness(&mut conn, server.target, "loud", watched / 4);
    let reports = busy.stop();
    let note = format!("{}, beside {} reports per second", percentiles(&late), digits(reports));
    let what = "the same beside a client with 50 reports in flight";
    bench.results.add("due", what, percentile(&late, 99.0) / 1e3, "ms", Goal::None, note);
    bench.results.detail("due_busy_us", json!(late));
}

/// Describes a distribution of delays.
fn percentiles(late: &[u64]) -> String {
    let at = |percent| digits(percentile(late, percent) / 1e3);
    format!("p50 {} ms, max {} ms of {}, from the due ms to the subscriber", at(50.0), at(100.0), late.len())
}

/// Returns the sorted delays in µs between the due time of health decisions and their events at a subscriber. They are
/// due one after another.
fn lateness(conn: &mut Conn, target: Target, prefix: &str, count: usize) -> Vec<u64> {
    begin(conn, prefix, count, &["MIN_HEALTHY_MS", WATCHED_MS]);
    let watch = watch(target, prefix, count);
    for n in 0..count {
        let mut out = Vec::new();
        report(&mut out, &format!("{prefix}-{n:07}"));
        conn.send(&out);
        conn.skip();
        sleep(Duration::from_micros(900));
    }
    let mut late = watch.join().expect("every health event was received");
    late.sort_unstable();
    late
}

/// Client that sends reports with 50 in flight.
struct Busy {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<f64>,
}

impl Busy {
    fn start(target: Target, mut reports: impl FnMut(Option<usize>, u64, &mut Vec<u8>) + Send + 'static) -> Busy {
        const AHEAD: usize = 50;
        let stop = Arc::new(AtomicBool::new(false));
        let ends = stop.clone();
        let thread = spawn(move || {
            let (mut conn, mut out, mut sent, start) = (target.conn(), Vec::new(), 0, Instant::now());
            while !ends.load(Ordering::Relaxed) {
                out.clear();
                (sent..sent + AHEAD as u64).for_each(|n| reports(None, n, &mut out));
                conn.send(&out);
                if sent > 0 {
                    conn.skip_all(AHEAD);
                }
                sent += AHEAD as u64;
            }
            conn.skip_all(AHEAD);
            sent as f64 / start.elapsed().as_secs_f64()
        });
        Busy { stop, thread }
    }

    /// Stops the client and returns reports per second.
    fn stop(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every report was accepted")
    }
}

/// Subscribes to the watched rollouts; the thread returns the delay of each health event in µs.
fn watch(target: Target, prefix: &str, count: usize) -> JoinHandle<Vec<u64>> {
    let mut conn = target.conn();
    conn.call(&["PSUBSCRIBE", &format!("deploy:events:{prefix}-*")]);
    spawn(move || {
        let (mut times, mut late) = (HashMap::new(), Vec::new());
        while late.len() < count {
            let message = conn.reply().array().pop().expect("a message").bytes();
            let received = now_us();
            let event: serde_json::Value = serde_json::from_slice(&message).expect("an event is JSON");
            let key = event["key"].as_str().unwrap_or_default().to_string();
            match event["type"].as_str() {
                Some("agent_state") => drop(times.insert(key, event["healthy_at"].as_u64().expect("it is ready"))),
                Some("agent_healthy") => late.push(received.saturating_sub(times[&key] * 1000)),
                _ => {}
            }
        }
        late
    })
}

// ---- many due at once -----------------------------------------------------------------------------------------------

/// Measures PING while many rollouts are due at once.
pub fn storm(bench: &mut Bench) {
    let count = if bench.quick { 5_000 } else { 100_000 };
    let rounds = if bench.quick { 1 } else { 3 };
    let storms: Vec<Storm> = (0..rounds).map(|_| storm_once(count)).collect();
    let of = |pick: fn(&Storm) -> f64| median(storms.iter().map(pick).collect());
    let above = of(|storm| storm.p999_ms - storm.idle_p999_ms);
    let note = format!(
        "median of {rounds}; idle p50 {} ms, p99.9 {} ms; meanwhile p50 {} ms, p99.9 {} ms, max {} ms, of {} PINGs",
        digits(of(|storm| storm.idle_p50_ms)),
        digits(of(|storm| storm.idle_p999_ms)),
        digits(of(|storm| storm.p50_ms)),
        digits(of(|storm| storm.p999_ms)),
        digits(of(|storm| storm.max_ms)),
        digits(of(|storm| storm.pings)),
    );
    let what = format!("PING's p99.9 while {count} rollouts fall due in one ms, above an idle server");
    bench.results.add("storm", &what, above, "ms", Goal::AtMost(3.0), note);
    let all: Vec<String> = storms.iter().map(|storm| digits(storm.done_s)).collect();
    let note = format!(
        "median of {rounds}: {} s; {} µs each",
        all.join(", "),
        digits(of(|storm| storm.done_s) * 1e6 / count as f64)
    );
    bench.results.add("storm", "all of them finish after", of(|storm| storm.done_s), "s", Goal::AtMost(3.0), note);
    let detail =
        |storm: &Storm| json!({ "done_s": storm.done_s, "p999_ms": storm.p999_ms, "idle_p999_ms": storm.idle_p999_ms });
    bench.results.detail("storm", storms.iter().map(detail).collect());
}

/// Measurement of one run.
struct Storm {
    idle_p50_ms: f64,
    idle_p999_ms: f64,
    p50_ms: f64,
    p999_ms: f64,
    max_ms: f64,
    pings: f64,
    done_s: f64,
}

/// Runs `storm` once.
fn storm_once(count: usize) -> Storm {
    let server = Server::start(&[]);
    let mut conn = server.conn();
    let pinger = Pinger::start(server.target);
    sleep(Duration::from_secs(2));
    let idle = latencies(&pinger.stop(), 0);

    // Estimates the time to restore all, so that they are due soon afterwards.
    let sample = (count / 20).max(500);
    let start = Instant::now();
    restore_all(&mut conn, sample, Duration::from_secs(3600));
    let needed = start.elapsed().mul_f64(count as f64 / sample as f64);
    conn.run("FLUSHALL SYNC");
    let mut wait = needed.mul_f64(1.5) + Duration::from_millis(700);
    let due = loop {
        let due = restore_all(&mut conn, count, wait);
        if now_ms() + 200 < due {
            break due;
        }
        // Restoring took longer than estimated.
        conn.run("FLUSHALL SYNC");
        wait *= 2;
    };
    assert_eq!(conn.info("deploy", "deploy_timers_armed") as usize, count);

    sleep(Duration::from_millis((due - 100).saturating_sub(now_ms())));
    let pinger = Pinger::start(server.target);
    sleep(Duration::from_millis(due.saturating_sub(now_ms())));
    wait_for("all rollouts to finish", || {
        let done = conn.info("deploy", "deploy_deployments_successful") as usize == count;
        sleep(Duration::from_millis(8));
        done.then_some(())
    });
    let done = now_us();
    let during = latencies(&pinger.stop(), due * 1000);
    let ms = |sorted: &[u64], percent| percentile(sorted, percent) / 1e6;
    Storm {
        idle_p50_ms: ms(&idle, 50.0),
        idle_p999_ms: ms(&idle, 99.9),
        p50_ms: ms(&during, 50.0),
        p999_ms: ms(&during, 99.9),
        max_ms: ms(&during, 100.0),
        pings: during.len() as f64,
        done_s: (done - due * 1000) as f64 / 1e6,
    }
}

/// Restores `count` rollouts that are due in the same millisecond, which is returned. Each is restored from the payload
/// of one, and so has memory of its own.
fn restore_all(conn: &mut Conn, count: usize, after: Duration) -> u64 {
    let after = after.as_millis().to_string();
    let deadlines = ["HEALTHY_DEADLINE_MS", "172800000", "PROGRESS_DEADLINE_MS", "172800000"];
    deploy(conn, "first", &bare_manifest(1), &[&["MIN_HEALTHY_MS", &after], &deadlines[..]].concat());
    conn.call(&["DEPLOY.REPORT", "first", &agent(0), "ready"]);
    let due = status(conn, "first")["instances"][0]["healthy_at"].as_u64().expect("it is ready");
    let payload = conn.call(&["DUMP", "first"]).bytes();
    conn.call(&["DEL", "first"]);
    conn.many(count, |n, out| put(out, &[&b"RESTORE"[..], format!("due-{n:07}").as_bytes(), b"0", &payload]));
    due
}

/// Client that sends PING repeatedly.
struct Pinger {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(u64, u64)>>,
}

impl Pinger {
    fn start(target: Target) -> Pinger {
        let stop = Arc::new(AtomicBool::new(false));
        let ends = stop.clone();
        let thread = spawn(move || {
            let (mut conn, ping, mut pings) = (target.conn(), command(&["PING"]), Vec::new());
            while !ends.load(Ordering::Relaxed) {
                let (at, start) = (now_us(), Instant::now());
                conn.send(&ping);
                conn.skip();
                pings.push((at, start.elapsed().as_nanos() as u64));
            }
            pings
        });
        Pinger { stop, thread }
    }

    /// Stops the client and returns the send time in µs and the latency in ns of each PING.
    fn stop(self) -> Vec<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every PING was answered")
    }
}

/// Returns the sorted latencies of PINGs answered after `from_us`.
fn latencies(pings: &[(u64, u64)], from_us: u64) -> Vec<u64> {
    let mut took: Vec<u64> =
        pings.iter().filter(|(at, took)| at + took / 1000 >= from_us).map(|(_, took)| *took).collect();
    took.sort_unstable();
    took
}
