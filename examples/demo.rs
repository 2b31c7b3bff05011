//! Demo of rollouts with real processes: an operator deploys and promotes versions, `examples/coordinator.rs` runs the
//! agents, and callers resolve agents with DEPLOY.RESOLVE, call them and count failed calls. In its last part callers
//! hold sessions that last longer than a call, and count those that are cut off.
//!
//! `scripts/demo` starts a server for it. To use another server, build the examples and pass its URL:
//!
//! ```text
//! cargo build --examples && cargo run --example demo -- --redis redis://127.0.0.1:6379/
//! ```
//!
//! It exits with 0 if all rollouts ended as expected, no call failed and no session was cut off. No process outlives
//! it.

use clap::Parser;
use redis::{Client, Connection};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::{json, Value as Json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::BTreeMap;
use std::error::Error;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

const KEY: &str = "hello";
const AGENTS: [&str; 3] = ["hello-1", "hello-2", "hello-3"];
const SERVICE: &str = "web";
/// Number of concurrent callers.
const CALLERS: usize = 2;
/// Delay between two calls of a caller.
const CALL_INTERVAL: Duration = Duration::from_millis(10);
/// Number of concurrent sessions.
const SESSIONS: usize = 6;
/// Delay between two calls within a session.
const SESSION_CALL_INTERVAL: Duration = Duration::from_millis(100);

type DemoResult<T> = Result<T, Box<dyn Error>>;

/// Demo of a rollout with real processes
#[derive(Parser)]
struct Options {
    /// URL of a server with the module
    #[arg(long, value_name = "URL", default_value = "redis://127.0.0.1:6379/")]
    redis: String,
    /// Value of min_healthy_ms, which sets the pace of the demo
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    pace_ms: u64,
    /// Value of drain_ms while callers hold sessions; 0 cuts sessions off
    #[arg(long, value_name = "MS", default_value_t = 20_000)]
    drain_ms: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if let Err(error) = signal_hook::flag::register(signal, interrupted.clone()) {
            eprintln!("Cannot handle signal {signal}: {error}");
        }
    }
    match Demo::start(&options, interrupted).and_then(|mut demo| demo.run()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("The demo failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// State of the demo.
struct Demo {
    pace: Duration,
    drain_ms: u64,
    operator: Operator,
    callers: Callers<CallStats>,
    sessions: Callers<SessionStats>,
    // Dropped last, after the callers: dropping it stops the agents.
    coordinator: Coordinator,
}

impl Demo {
    /// Connects to the server and starts the coordinator.
    fn start(options: &Options, interrupted: Arc<AtomicBool>) -> DemoResult<Demo> {
        let client = Client::open(options.redis.as_str())?;
        let pace = Duration::from_millis(options.pace_ms);
        print_events(&client)?;
        Ok(Demo {
            pace,
            drain_ms: options.drain_ms,
            operator: Operator {
                connection: client.get_connection()?,
                last_line: String::new(),
                interrupted,
                // A step takes a few times the pace; the constant allows for a busy machine.
                timeout: pace * 10 + Duration::from_secs(30),
            },
            callers: Callers::new(client.clone()),
            sessions: Callers::new(client),
            coordinator: Coordinator::start(&options.redis)?,
        })
    }

    /// Runs the demo. Returns the number of failed calls and of sessions that were cut off.
    fn run(&mut self) -> DemoResult<u64> {
        heading("Version 1: no agent runs yet, so all three start at once.");
        self.operator.deploy("first version", self.manifest("good", "v1")?, &[])?;
        self.operator.watch_until("successful")?;

        heading("Callers start: they resolve an agent with DEPLOY.RESOLVE and call it, some hundred times a second.");
        self.callers.start(CALLERS, call_once)?;
        self.operator.pause(self.pace)?;

        heading("Version 2, with one canary. Only the canary is replaced, and callers do not resolve it.");
        self.operator.deploy("better greeting", self.manifest("good", "v2")?, &["CANARY", "1"])?;
        self.operator.watch_until("awaiting_promotion")?;
        println!("  {}", self.callers.stats().summary());

        heading("The canary has been healthy for min_healthy_ms. The operator calls it …");
        println!("  {}", self.operator.call_canary()?);
        self.operator.pause(self.pace / 2)?;
        heading("… and promotes it. The other agents are replaced one by one.");
        self.operator.command(&["DEPLOY.PROMOTE", KEY, "REASON", "the canary answers well"])?;
        self.operator.watch_until("successful")?;
        println!("  {}", self.callers.stats().summary());
        self.operator.pause(self.pace / 2)?;

        heading("Version 3 is broken: its check never passes. Its first agent fails, and the deployment is reverted.");
        let deadline = (self.pace * 3 / 2).max(self.pace + Duration::from_millis(500)).as_millis().to_string();
        let limits = ["HEALTHY_DEADLINE_MS", &deadline, "PROGRESS_DEADLINE_MS", "0"];
        self.operator.deploy(
            "broken",
            self.manifest("unhealthy", "v3")?,
            &[&limits[..], &["AUTO_REVERT", "true"]].concat(),
        )?;
        self.operator.watch_until_version("successful", 4)?;
        self.operator.pause(self.pace / 2)?;

        self.deploy_under_sessions()?;

        self.callers.stop();
        heading("State of the record");
        self.operator.print_summary()?;
        heading("DEPLOY.STOP stops all agents.");
        self.operator.command(&["DEPLOY.STOP", KEY, "REASON", "the demo is over"])?;
        self.operator.wait_until_stopped()?;
        self.coordinator.stop();

        heading("Calls");
        let stats = self.callers.stats();
        println!("{} calls, {} failed", stats.calls(), stats.failed);
        let notes = ["", "", "broken, never called", "rollback to version 2", "blue-green", "failed in its bake"];
        for (version, note) in (1..).zip(notes) {
            let answers = stats.answers.get(&version).copied().unwrap_or(0);
            let share = 100 * answers / stats.calls().max(1);
            println!("version {version}: {answers:>6} answers {share:>3} %  {}  {note}", bar(answers, stats.calls()));
        }
        for (error, times) in &stats.errors {
            println!("failed {times} times: {error}");
        }
        let sessions = self.sessions.stats();
        for (error, times) in &sessions.errors {
            println!("cut off {times} times: {error}");
        }
        for (error, times) in &sessions.refused {
            println!("refused {times} times: {error}");
        }
        let by_version = sessions.by_version.iter().map(|(version, begun)| format!("{begun} at version {version}"));
        println!("sessions began: {}", by_version.collect::<Vec<_>>().join(", "));
        println!(
            "sessions: begun {}, ended normally {}, cut off: {}",
            sessions.by_version.values().sum::<u64>(),
            sessions.ended,
            sessions.cut_off
        );
        Ok(stats.failed + sessions.cut_off)
    }

    /// Deploys a good version and a bad one while callers hold sessions.
    fn deploy_under_sessions(&mut self) -> DemoResult<()> {
        let pace = (self.pace / 2).max(Duration::from_millis(500));
        let length = (self.pace * 4 / 5).max(Duration::from_secs(1));
        heading(&format!(
            "Sessions: {SESSIONS} callers hold one of {} s each. It begins at the agent of DEPLOY.RESOLVE … SESSION id, and its \
             calls find that agent by VERSION n as well.",
            length.as_secs_f32()
        ));
        self.sessions.start(SESSIONS, move |connection, stats, turn| hold_session(connection, stats, turn, length))?;
        self.operator.pause(length)?;

        heading(
            "Version 5, blue-green. During its bake the old agents stand by; then they finish their sessions and stop.",
        );
        let (pace_ms, drain_ms) = (pace.as_millis().to_string(), self.drain_ms.to_string());
        // Shorter than a session: some of the old side are still held when it begins to drain.
        let bake_ms = (pace / 2).as_millis().to_string();
        let limits = ["STRATEGY", "blue-green", "MIN_HEALTHY_MS", &pace_ms, "DRAIN_MS", &drain_ms];
        let bakes = |ms| [&limits[..], &["BAKE_MS", ms]].concat();
        self.operator.deploy("more agents at once", self.manifest("good", "v5")?, &bakes(&bake_ms))?;
        self.operator.watch_until("successful")?;
        self.operator.watch_until_drained()?;
        println!("  {}", self.sessions.stats().summary());

        heading(
            "Version 6 fails as soon as it has sessions, so in its bake. The agents of version 5, on standby, take over at \
             once, and those of version 6 finish what they have begun.",
        );
        let reverts = ["AUTO_REVERT", "true", "PROGRESS_DEADLINE_MS", "0"];
        let manifest = self.manifest("unhealthy-with-sessions", "v6")?;
        self.operator.deploy("fails with sessions", manifest, &[&bakes("60000")[..], &reverts].concat())?;
        self.operator.watch_until_version("successful", 7)?;
        self.operator.watch_until_drained()?;
        self.sessions.stop();
        println!("  {}", self.sessions.stats().summary());
        Ok(())
    }

    /// Builds the manifest of a version.
    fn manifest(&self, behaviour: &str, greeting: &str) -> DemoResult<String> {
        let program = example("http_agent")?;
        let node = |agent: &&str| {
            json!({
                "node_id": agent,
                "config": {
                    "command": [program],
                    "environment": { "AGENT_BEHAVIOUR": behaviour, "GREETING": greeting },
                    "drain": { "http": "http://127.0.0.1:${env.PORT}/drain" },
                    "sessions": "http://127.0.0.1:${env.PORT}/sessions",
                    "sessions_interval_ms": 50,
                },
                "services": [{
                    "name": SERVICE,
                    "port": "auto",
                    "checks": [{
                        "name": "answers", "type": "http", "path": "/health",
                        "interval_ms": 100, "timeout_ms": 2000, "failures_before_critical": 3,
                    }],
                }],
            })
        };
        let pace = self.pace.as_millis() as u64;
        let update = json!({
            "max_parallel": 1, "min_healthy_ms": pace,
            "healthy_deadline_ms": pace * 2 + 30_000, "progress_deadline_ms": pace * 4 + 60_000,
        });
        let restart = json!({ "attempts": 2, "interval_ms": 60_000, "delay_ms": 500, "mode": "fail" });
        let nodes: Vec<Json> = AGENTS.iter().map(node).collect();
        let policies = json!({ "update": update, "restart": restart });
        Ok(json!({ "type": "service", "nodes": nodes, "policies": policies }).to_string())
    }
}

/// Returns the path of another example, which cargo builds into the same directory.
fn example(name: &str) -> DemoResult<PathBuf> {
    let program = std::env::current_exe()?.with_file_name(name);
    match program.exists() {
        true => Ok(program),
        false => Err(format!("{} is missing; run `cargo build --examples`", program.display()).into()),
    }
}

// ---- coordinator ----------------------------------------------------------------------------------------------------

/// Process of the coordinator, which stops its agents when it or this process ends.
struct Coordinator {
    child: Child,
    dir: PathBuf,
}

impl Coordinator {
    /// Starts the coordinator with a state directory in a temporary folder.
    fn start(url: &str) -> DemoResult<Coordinator> {
        let dir = std::env::temp_dir().join(format!("redis-deploy-demo-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let log = std::fs::File::create(dir.join("coordinator.log"))?;
        let mut command = Command::new(example("coordinator")?);
        command.args([KEY, "--redis", url, "--stop-on-exit", "--end-with-parent", "--shutdown-delay-ms", "300"]);
        command.arg("--state-dir").arg(dir.join("state"));
        // Its own process group, so that Ctrl-C in the terminal reaches the demo only, which then stops it.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let child = command.spawn()?;
        println!("The coordinator runs as pid {}. Its log: tail -f {}", child.id(), log_path(&dir).display());
        Ok(Coordinator { child, dir })
    }

    /// Sends SIGTERM and waits until it and its agents have ended.
    fn stop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM); // fails if it has already ended
        }
        let _ = self.child.wait();
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Returns the path of the coordinator's log.
fn log_path(dir: &Path) -> PathBuf {
    dir.join("coordinator.log")
}

// ---- operator -------------------------------------------------------------------------------------------------------

/// Client that deploys and watches.
struct Operator {
    connection: Connection,
    /// Last printed status line.
    last_line: String,
    interrupted: Arc<AtomicBool>,
    /// Timeout of each step.
    timeout: Duration,
}

impl Operator {
    /// Runs DEPLOY.DEPLOY.
    fn deploy(&mut self, reason: &str, manifest: String, options: &[&str]) -> DemoResult<()> {
        self.command(&[&["DEPLOY.DEPLOY", KEY, "MANIFEST", &manifest, "REASON", reason], options].concat())
    }

    /// Prints and runs a command.
    fn command(&mut self, words: &[&str]) -> DemoResult<()> {
        let shown = words.iter().map(|word| if word.starts_with('{') { "'{…}'".into() } else { quote(word) });
        println!("> {}", shown.collect::<Vec<_>>().join(" "));
        Ok(redis::cmd(words[0]).arg(&words[1..]).query::<redis::Value>(&mut self.connection).map(drop)?)
    }

    /// Runs a command that replies with a JSON string.
    fn json(&mut self, words: &[&str]) -> DemoResult<Json> {
        let text: String = redis::cmd(words[0]).arg(&words[1..]).query(&mut self.connection)?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Sleeps, unless interrupted.
    fn pause(&self, time: Duration) -> DemoResult<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.check_interrupted()?;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Returns an error after a signal.
    fn check_interrupted(&self) -> DemoResult<()> {
        match self.interrupted.load(Ordering::Relaxed) {
            true => Err("interrupted".into()),
            false => Ok(()),
        }
    }

    /// Prints the status of the current deployment until it is the expected one.
    fn watch_until(&mut self, expected: &str) -> DemoResult<()> {
        let version = self.json(&["DEPLOY.STATUS", KEY, "JSON"])?["target_version"].as_u64().unwrap_or(0);
        self.watch_until_version(expected, version)
    }

    /// Prints status changes until `version` has the expected status.
    fn watch_until_version(&mut self, expected: &str, version: u64) -> DemoResult<()> {
        let deadline = Instant::now() + self.timeout;
        loop {
            self.check_interrupted()?;
            let record = self.json(&["DEPLOY.STATUS", KEY, "JSON"])?;
            self.print_status(&record);
            let (status, target) = (text(&record["status"]), count(&record["target_version"]));
            if status == expected && target == version {
                return Ok(());
            }
            let is_terminal = ["successful", "failed", "cancelled"].contains(&status);
            if target > version || target == version && is_terminal || Instant::now() > deadline {
                return Err(format!("expected version {version} to be {expected}; version {target} is {status}").into());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until all instances have stopped.
    fn wait_until_stopped(&mut self) -> DemoResult<()> {
        let deadline = Instant::now() + self.timeout;
        while list(&self.json(&["DEPLOY.STATUS", KEY, "JSON"])?["instances"]).next().is_some() {
            self.check_interrupted()?;
            if Instant::now() > deadline {
                return Err("timeout: not all agents have stopped".into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Prints what drains until no instance does, and none is on standby or being stopped.
    fn watch_until_drained(&mut self) -> DemoResult<()> {
        let deadline = Instant::now() + self.timeout;
        loop {
            self.check_interrupted()?;
            let record = self.json(&["DEPLOY.STATUS", KEY, "JSON"])?;
            let leaving: Vec<String> = list(&record["instances"])
                .filter(|instance| instance["role"] != "primary")
                .map(|instance| {
                    let (agent, version) = (text(&instance["agent"]), &instance["version"]);
                    format!(
                        "{agent} v{version} {} ({} sessions)",
                        text(&instance["role"]),
                        count(&instance["sessions"])
                    )
                })
                .collect();
            if leaving.is_empty() {
                return Ok(());
            }
            self.print_once(format!("  {}", leaving.join(", ")));
            if Instant::now() > deadline {
                return Err("timeout: not all agents have drained".into());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Calls the canary and returns its answer.
    fn call_canary(&mut self) -> DemoResult<String> {
        let words = ["DEPLOY.RESOLVE", KEY, "SERVICE", SERVICE, "ROLE", "canary", "JSON"];
        println!("> {}", words.join(" "));
        let found = self.json(&words)?;
        let canary = list(&found).next().ok_or("DEPLOY.RESOLVE returned no canary")?;
        Ok(send("GET", &address_of(canary), "")?.trim_end().to_string())
    }

    /// Prints the status line if it has changed.
    fn print_status(&mut self, record: &Json) {
        let health = &record["health"];
        let (healthy, desired) = (count(&health["healthy"]), count(&health["desired"]));
        let line = format!(
            "  {} {healthy}/{desired} healthy   version {} {}   {}",
            bar(healthy, desired),
            record["target_version"],
            text(&record["status"]),
            text(&record["description"]),
        );
        self.print_once(line);
    }

    /// Prints a line unless it was the last one.
    fn print_once(&mut self, line: String) {
        if line != self.last_line {
            println!("{line}");
            self.last_line = line;
        }
    }

    /// Prints the record and its versions.
    fn print_summary(&mut self) -> DemoResult<()> {
        let record = self.json(&["DEPLOY.STATUS", KEY, "JSON"])?;
        println!(
            "  {}: {}, current version {}, stable version {}",
            text(&record["deployment_id"]),
            text(&record["status"]),
            record["current_version"],
            record["stable_version"],
        );
        for instance in list(&record["instances"]) {
            println!(
                "  agent    {:<10} v{} {:<8} {:<8} {}",
                text(&instance["agent"]),
                instance["version"],
                text(&instance["role"]),
                text(&instance["state"]),
                text(&instance["health"]),
            );
        }
        for version in list(&self.json(&["DEPLOY.HISTORY", KEY, "JSON"])?) {
            let stable = if version["stable"] == true { "stable" } else { "" };
            println!(
                "  version  {:<3} {:<11} {:<7} {}",
                version["version"],
                text(&version["outcome"]),
                stable,
                text(&version["reason"]),
            );
        }
        Ok(())
    }
}

// ---- callers --------------------------------------------------------------------------------------------------------

/// Number of calls by outcome.
#[derive(Debug, Clone, Default)]
struct CallStats {
    /// Answers by version.
    answers: BTreeMap<u64, u64>,
    failed: u64,
    /// Failed calls by error.
    errors: BTreeMap<String, u64>,
}

impl CallStats {
    /// Returns the number of calls.
    fn calls(&self) -> u64 {
        self.answers.values().sum::<u64>() + self.failed
    }
}

/// Number of sessions by outcome.
#[derive(Debug, Clone, Default)]
struct SessionStats {
    /// Sessions that have begun, by version.
    by_version: BTreeMap<u64, u64>,
    ended: u64,
    cut_off: u64,
    /// Sessions that were cut off, by error.
    errors: BTreeMap<String, u64>,
    /// Attempts to begin a session that failed, by error: an agent refuses it once it drains.
    refused: BTreeMap<String, u64>,
}

impl SessionStats {
    /// Describes the sessions so far.
    fn summary(&self) -> String {
        let begun = self.by_version.values().sum::<u64>();
        format!("{begun} sessions so far, {} have ended normally, {} were cut off", self.ended, self.cut_off)
    }
}

/// Threads that call the agents until they are stopped, and count in `S`.
struct Callers<S> {
    client: Client,
    stats: Arc<Mutex<S>>,
    running: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl<S: Clone + Default + Send + 'static> Callers<S> {
    /// Creates the callers; `start` starts their threads.
    fn new(client: Client) -> Callers<S> {
        Callers { client, stats: Arc::default(), running: Arc::new(AtomicBool::new(true)), threads: Vec::new() }
    }

    /// Starts the threads. Each calls `act` again and again, with a number that no other thread uses.
    fn start(
        &mut self,
        number: usize,
        act: impl Fn(&mut Connection, &Mutex<S>, usize) + Clone + Send + 'static,
    ) -> DemoResult<()> {
        for first in 0..number {
            let mut connection = self.client.get_connection()?;
            let (stats, running, act) = (self.stats.clone(), self.running.clone(), act.clone());
            self.threads.push(thread::spawn(move || {
                let mut turns = (first..).step_by(number);
                while let Some(turn) = turns.next().filter(|_| running.load(Ordering::Relaxed)) {
                    act(&mut connection, &stats, turn);
                }
            }));
        }
        Ok(())
    }
}

impl<S> Callers<S> {
    /// Ends the threads, once they have finished what they are at.
    fn stop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // its counts are in the shared stats
        }
    }
}

impl<S: Clone> Callers<S> {
    /// Returns the counts so far.
    fn stats(&self) -> S {
        self.stats.lock().expect("no holder panics").clone()
    }
}

impl<S> Drop for Callers<S> {
    fn drop(&mut self) {
        self.stop();
    }
}

impl CallStats {
    /// Describes the counts so far.
    fn summary(&self) -> String {
        let shares = self.answers.iter().map(|(version, answers)| format!("{answers} by version {version}"));
        format!(
            "{} calls so far, {} failed; answered {}",
            self.calls(),
            self.failed,
            shares.collect::<Vec<_>>().join(", ")
        )
    }
}

/// Calls an agent, and pauses.
fn call_once(connection: &mut Connection, stats: &Mutex<CallStats>, turn: usize) {
    let answer = resolve_and_call(connection, turn);
    let mut stats = stats.lock().expect("no holder panics");
    match answer {
        Ok(version) => *stats.answers.entry(version).or_default() += 1,
        Err(error) => {
            stats.failed += 1;
            *stats.errors.entry(error.to_string()).or_default() += 1;
        }
    }
    drop(stats);
    thread::sleep(CALL_INTERVAL);
}

/// Begins a session, calls its agent for a time and ends it. One that an agent refuses has not begun.
fn hold_session(connection: &mut Connection, stats: &Mutex<SessionStats>, turn: usize, length: Duration) {
    if turn < SESSIONS {
        thread::sleep(length * turn as u32 / SESSIONS as u32); // so that they do not all begin and end at once
    }
    let id = format!("session-{turn}");
    let path = format!("session/{id}");
    let begun = resolve_session(connection, &id, &[]).and_then(|address| version_of(&send("POST", &address, &path)?));
    let version = match begun {
        Ok(version) => version,
        Err(error) => {
            *stats.lock().expect("no holder panics").refused.entry(error.to_string()).or_default() += 1;
            return thread::sleep(SESSION_CALL_INTERVAL);
        }
    };
    *stats.lock().expect("no holder panics").by_version.entry(version).or_default() += 1;
    let outcome = call_within_session(connection, &id, version, Instant::now() + length);
    let mut stats = stats.lock().expect("no holder panics");
    match outcome {
        Ok(()) => stats.ended += 1,
        Err(error) => {
            stats.cut_off += 1;
            *stats.errors.entry(error.to_string()).or_default() += 1;
        }
    }
}

/// Calls the agent of a session until it has lasted long enough, and ends it.
fn call_within_session(connection: &mut Connection, id: &str, version: u64, end: Instant) -> DemoResult<()> {
    let (path, version) = (format!("session/{id}"), version.to_string());
    loop {
        // ALL: an unhealthy agent still has its sessions.
        let address = resolve_session(connection, id, &["VERSION", &version, "ALL"])?;
        if Instant::now() >= end {
            return send("DELETE", &address, &path).map(drop);
        }
        send("GET", &address, &path)?;
        thread::sleep(SESSION_CALL_INTERVAL);
    }
}

/// Returns the address of the agent of a session.
fn resolve_session(connection: &mut Connection, id: &str, options: &[&str]) -> DemoResult<String> {
    let found = resolve(connection, &[&["SESSION", id], options].concat())?;
    let agent = list(&found).next().map(address_of);
    agent.ok_or_else(|| format!("DEPLOY.RESOLVE … {} returned no agent", options.join(" ")).into())
}

/// Runs DEPLOY.RESOLVE for the service.
fn resolve(connection: &mut Connection, options: &[&str]) -> DemoResult<Json> {
    let mut command = redis::cmd("DEPLOY.RESOLVE");
    let text: String = command.arg(&[KEY, "SERVICE", SERVICE]).arg(options).arg("JSON").query(connection)?;
    Ok(serde_json::from_str(&text)?)
}

/// Resolves the service and calls its agents in turn. Returns the version that answered.
fn resolve_and_call(connection: &mut Connection, turn: usize) -> DemoResult<u64> {
    let found = resolve(connection, &[])?;
    let entries: Vec<&Json> = list(&found).collect();
    let entry = entries.get(turn % entries.len().max(1)).ok_or("DEPLOY.RESOLVE returned no agent")?;
    version_of(&send("GET", &address_of(entry), "")?)
}

/// Returns the version in the answer of an agent.
fn version_of(answer: &str) -> DemoResult<u64> {
    let answer: Json = serde_json::from_str(answer)?;
    answer["version"].as_u64().ok_or_else(|| "answer without a version".into())
}

/// Returns address and port of a service instance.
fn address_of(entry: &Json) -> String {
    format!("{}:{}", text(&entry["address"]), entry["port"])
}

/// Sends a request without a body. A status other than 2xx is an error.
fn send(method: &str, address: &str, path: &str) -> DemoResult<String> {
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).proxy(None).build();
    let (agent, url) = (ureq::Agent::new_with_config(config), format!("http://{address}/{path}"));
    let mut answer = match method {
        "POST" => agent.post(url).send_empty()?,
        "DELETE" => agent.delete(url).call()?,
        _ => agent.get(url).call()?,
    };
    Ok(answer.body_mut().read_to_string()?)
}

// ---- output ---------------------------------------------------------------------------------------------------------

/// Prints the events of the deployment from a thread of its own.
fn print_events(client: &Client) -> DemoResult<()> {
    let mut connection = client.get_connection()?;
    // PubSub::subscribe would take a refusal for the confirmation.
    let subscribe = redis::cmd("SUBSCRIBE").arg(format!("deploy:events:{KEY}")).get_packed_command();
    connection.send_packed_command(&subscribe)?;
    connection.recv_response()?.extract_error()?;
    thread::spawn(move || {
        let mut channel = connection.as_pubsub();
        while let Ok(message) = channel.get_message() {
            let payload: String = message.get_payload().unwrap_or_default();
            if let Some(line) = serde_json::from_str(&payload).ok().and_then(|event| event_line(&event)) {
                println!("{line}");
            }
        }
    });
    Ok(())
}

/// Formats an event as a line; None for events that are left out.
fn event_line(event: &Json) -> Option<String> {
    if ["task_done", "service_registered", "service_deregistered"].contains(&text(&event["type"])) {
        return None;
    }
    static FIRST: OnceLock<u64> = OnceLock::new();
    let at = count(&event["at"]);
    let since = at.saturating_sub(*FIRST.get_or_init(|| at));
    let details = ["task", "state", "status", "mode", "strategy", "by", "reason"];
    let details = details.iter().filter_map(|name| Some(format!("{name}={}", event[*name].as_str()?)));
    let line = format!(
        "    {:>3}.{:03}s  #{:<3} {:<21} {:<9} v{} {:<8} {}",
        since / 1000,
        since % 1000,
        count(&event["revision"]),
        text(&event["type"]),
        event["agent"].as_str().unwrap_or(""),
        event["version"],
        event["role"].as_str().unwrap_or(""),
        details.collect::<Vec<_>>().join(" "),
    );
    Some(line.trim_end().to_string())
}

/// Prints the heading of a step.
fn heading(text: &str) {
    println!("\n{text}");
}

/// Formats a progress bar.
fn bar(done: u64, all: u64) -> String {
    const WIDTH: u64 = 24;
    let filled = (WIDTH * done).checked_div(all).unwrap_or(WIDTH).min(WIDTH);
    format!("[{}{}]", "#".repeat(filled as usize), "-".repeat((WIDTH - filled) as usize))
}

/// Quotes a word that contains spaces.
fn quote(word: &str) -> String {
    if word.contains(' ') {
        format!("'{word}'")
    } else {
        word.into()
    }
}

/// Returns a string field, or `-`.
fn text(json: &Json) -> &str {
    json.as_str().unwrap_or("-")
}

/// Returns a number field, or 0.
fn count(json: &Json) -> u64 {
    json.as_u64().unwrap_or(0)
}

/// Returns the items of an array, or none.
fn list(json: &Json) -> impl Iterator<Item = &Json> {
    json.as_array().into_iter().flatten()
}
