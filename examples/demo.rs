//! A rollout to watch, with real processes: an operator, who deploys and promotes; `examples/coordinator.rs`, which
//! runs the agents; and callers, who ask DEPLOY.RESOLVE for an agent, call it, and count the calls that fail.
//!
//! `scripts/demo` runs it against a server of its own; for another one, give its URL, and build the examples before:
//!
//! ```text
//! cargo build --examples && cargo run --example demo -- --redis redis://127.0.0.1:6379/
//! ```
//!
//! It ends with 0 where the story went as it is told and no call failed. Whatever ends it, no process is left over.

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
/// How many callers call, each as fast as it is answered but for a short rest.
const CALLERS: usize = 2;
const REST: Duration = Duration::from_millis(10);

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A rollout to watch, with real processes.
#[derive(Parser)]
struct Options {
    /// A server with the module
    #[arg(long, value_name = "URL", default_value = "redis://127.0.0.1:6379/")]
    redis: String,
    /// How long agents have to be healthy before it goes on, ms: the pace of it all
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    pace_ms: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if let Err(error) = signal_hook::flag::register(signal, interrupted.clone()) {
            eprintln!("No handler for signal {signal}: {error}");
        }
    }
    match Demo::begin(&options, interrupted).and_then(|mut demo| demo.play()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("The demo ended early: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Demo {
    pace: Duration,
    operator: Operator,
    callers: Callers,
    // Dropped last: its agents are there for the callers until then.
    coordinator: Coordinator,
}

impl Demo {
    fn begin(options: &Options, interrupted: Arc<AtomicBool>) -> Outcome<Demo> {
        let client = Client::open(options.redis.as_str())?;
        let pace = Duration::from_millis(options.pace_ms);
        show_events(&client)?;
        Ok(Demo {
            pace,
            operator: Operator {
                connection: client.get_connection()?,
                shown: String::new(),
                interrupted,
                // Each step takes a few times the pace; the rest is for a busy machine.
                patience: pace * 10 + Duration::from_secs(30),
            },
            callers: Callers::new(client),
            coordinator: Coordinator::start(&options.redis)?,
        })
    }

    /// How many calls failed.
    fn play(&mut self) -> Outcome<u64> {
        heading("Version 1: nothing runs yet, so all three agents start at once.");
        self.operator.deploy("first version", self.manifest("good", "v1")?, &[])?;
        self.operator.watch_until("successful")?;

        heading("From now on callers ask DEPLOY.RESOLVE for an agent and call it, some hundred times a second.");
        self.callers.begin()?;
        self.operator.rest(self.pace)?;

        heading("Version 2, with one canary. Only the canary is replaced at first, and callers are not sent to it.");
        self.operator.deploy("says it better", self.manifest("good", "v2")?, &["CANARY", "1"])?;
        self.operator.watch_until("awaiting_promotion")?;
        println!("  {}", self.callers.summary());

        heading("The canary has been healthy for min_healthy_ms. The operator looks at what it answers …");
        println!("  {}", self.operator.ask_the_canary()?);
        self.operator.rest(self.pace / 2)?;
        heading("… and promotes it; the others follow one by one.");
        self.operator.command(&["DEPLOY.PROMOTE", KEY, "REASON", "the canary answers well"])?;
        self.operator.watch_until("successful")?;
        println!("  {}", self.callers.summary());
        self.operator.rest(self.pace / 2)?;

        heading("Version 3 is broken: its check never passes. Its first agent fails it, and version 2 comes back by itself.");
        let deadline = (self.pace * 3 / 2).max(self.pace + Duration::from_millis(500)).as_millis().to_string();
        let limits = ["HEALTHY_DEADLINE_MS", &deadline, "PROGRESS_DEADLINE_MS", "0"];
        self.operator.deploy(
            "worse than it looks",
            self.manifest("sick", "v3")?,
            &[&limits[..], &["AUTO_REVERT", "true"]].concat(),
        )?;
        self.operator.watch_until_version("successful", 4)?;
        self.operator.rest(self.pace / 2)?;

        self.callers.end();
        heading("What the record says now");
        self.operator.summary()?;
        heading("The end: DEPLOY.STOP, and no process is left.");
        self.operator.command(&["DEPLOY.STOP", KEY, "REASON", "the demo is over"])?;
        self.operator.wait_until_all_have_stopped()?;
        self.coordinator.end();

        heading("What the callers say");
        let tally = self.callers.tally();
        println!("{} calls, {} failed", tally.calls(), tally.failed);
        for (version, what) in [(1, ""), (2, ""), (3, "broken, and never called"), (4, "version 2 again")] {
            let answers = tally.answers.get(&version).copied().unwrap_or(0);
            let share = 100 * answers / tally.calls().max(1);
            println!("version {version}: {answers:>6} answers {share:>3} %  {}  {what}", bar(answers, tally.calls()));
        }
        for (words, times) in &tally.faults {
            println!("failed {times} times: {words}");
        }
        Ok(tally.failed)
    }

    fn manifest(&self, behaviour: &str, greeting: &str) -> Outcome<String> {
        let program = example("http_agent")?;
        let node = |agent: &&str| {
            json!({
                "node_id": agent,
                "config": {
                    "command": [program],
                    "environment": { "AGENT_BEHAVIOUR": behaviour, "GREETING": greeting },
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

/// A program that cargo has built beside this one.
fn example(name: &str) -> Outcome<PathBuf> {
    let program = std::env::current_exe()?.with_file_name(name);
    match program.exists() {
        true => Ok(program),
        false => Err(format!("{} is missing: cargo build --examples", program.display()).into()),
    }
}

// ------------------------------------------------------------------------------------------ the coordinator

/// The coordinator's process. However this ends, the agents end with it.
struct Coordinator {
    child: Child,
    folder: PathBuf,
}

impl Coordinator {
    fn start(url: &str) -> Outcome<Coordinator> {
        let folder = std::env::temp_dir().join(format!("redis-deploy-demo-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let log = std::fs::File::create(folder.join("coordinator.log"))?;
        let mut command = Command::new(example("coordinator")?);
        command.args([KEY, "--redis", url, "--stop-on-exit", "--end-with-parent", "--shutdown-delay-ms", "300"]);
        command.arg("--state-dir").arg(folder.join("state"));
        // A group of its own: Ctrl-C is for us, who tell it then.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let child = command.spawn()?;
        println!("The coordinator runs as pid {}; what it does: tail -f {}", child.id(), log_of(&folder).display());
        Ok(Coordinator { child, folder })
    }

    /// Tells it to end, which it does once its agents have.
    fn end(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM); // it may have ended already
        }
        let _ = self.child.wait();
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn log_of(folder: &Path) -> PathBuf {
    folder.join("coordinator.log")
}

// ------------------------------------------------------------------------------------------ the operator

struct Operator {
    connection: Connection,
    /// The status line as last printed.
    shown: String,
    interrupted: Arc<AtomicBool>,
    patience: Duration,
}

impl Operator {
    fn deploy(&mut self, reason: &str, manifest: String, options: &[&str]) -> Outcome<()> {
        self.command(&[&["DEPLOY.DEPLOY", KEY, "MANIFEST", &manifest, "REASON", reason], options].concat())
    }

    fn command(&mut self, words: &[&str]) -> Outcome<()> {
        let shown = words.iter().map(|word| if word.starts_with('{') { "'{…}'".into() } else { quoted(word) });
        println!("> {}", shown.collect::<Vec<_>>().join(" "));
        Ok(redis::cmd(words[0]).arg(&words[1..]).query::<redis::Value>(&mut self.connection).map(drop)?)
    }

    fn json(&mut self, words: &[&str]) -> Outcome<Json> {
        let text: String = redis::cmd(words[0]).arg(&words[1..]).query(&mut self.connection)?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A while to look at it.
    fn rest(&self, time: Duration) -> Outcome<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.go_on()?;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn go_on(&self) -> Outcome<()> {
        match self.interrupted.load(Ordering::Relaxed) {
            true => Err("interrupted".into()),
            false => Ok(()),
        }
    }

    fn watch_until(&mut self, awaited: &str) -> Outcome<()> {
        let version = self.json(&["DEPLOY.STATUS", KEY, "JSON"])?["target_version"].as_u64().unwrap_or(0);
        self.watch_until_version(awaited, version)
    }

    /// Shows the status as it changes, until that version's is the awaited one.
    fn watch_until_version(&mut self, awaited: &str, version: u64) -> Outcome<()> {
        let deadline = Instant::now() + self.patience;
        loop {
            self.go_on()?;
            let record = self.json(&["DEPLOY.STATUS", KEY, "JSON"])?;
            self.show(&record);
            let (status, of) = (text(&record["status"]), count(&record["target_version"]));
            if status == awaited && of == version {
                return Ok(());
            }
            let over = ["successful", "failed", "cancelled"].contains(&status);
            if of > version || of == version && over || Instant::now() > deadline {
                return Err(format!("version {version} was to be {awaited}; version {of} is {status}").into());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_until_all_have_stopped(&mut self) -> Outcome<()> {
        let deadline = Instant::now() + self.patience;
        while list(&self.json(&["DEPLOY.STATUS", KEY, "JSON"])?["instances"]).next().is_some() {
            self.go_on()?;
            if Instant::now() > deadline {
                return Err("not all agents have stopped".into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn ask_the_canary(&mut self) -> Outcome<String> {
        let words = ["DEPLOY.RESOLVE", KEY, "SERVICE", SERVICE, "ROLE", "canary", "JSON"];
        println!("> {}", words.join(" "));
        let found = self.json(&words)?;
        let canary = list(&found).next().ok_or("no canary answers")?;
        Ok(call(&address_of(canary))?.trim_end().to_string())
    }

    fn show(&mut self, record: &Json) {
        let health = &record["health"];
        let (healthy, desired) = (count(&health["healthy"]), count(&health["desired"]));
        let line = format!(
            "  {} {healthy}/{desired} healthy   version {} {}   {}",
            bar(healthy, desired),
            record["target_version"],
            text(&record["status"]),
            text(&record["description"]),
        );
        if line != self.shown {
            println!("{line}");
            self.shown = line;
        }
    }

    fn summary(&mut self) -> Outcome<()> {
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

// ------------------------------------------------------------------------------------------ the callers

/// What has become of the calls.
#[derive(Debug, Clone, Default)]
struct Tally {
    answers: BTreeMap<u64, u64>,
    failed: u64,
    faults: BTreeMap<String, u64>,
}

impl Tally {
    fn calls(&self) -> u64 {
        self.answers.values().sum::<u64>() + self.failed
    }
}

struct Callers {
    client: Client,
    tally: Arc<Mutex<Tally>>,
    calling: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Callers {
    fn new(client: Client) -> Callers {
        Callers { client, tally: Arc::default(), calling: Arc::new(AtomicBool::new(true)), threads: Vec::new() }
    }

    fn begin(&mut self) -> Outcome<()> {
        for first in 0..CALLERS {
            let mut connection = self.client.get_connection()?;
            let (tally, calling) = (self.tally.clone(), self.calling.clone());
            self.threads.push(thread::spawn(move || {
                let mut turn = first;
                while calling.load(Ordering::Relaxed) {
                    let answer = resolve_and_call(&mut connection, turn);
                    let mut tally = tally.lock().expect("no holder panics");
                    match answer {
                        Ok(version) => *tally.answers.entry(version).or_default() += 1,
                        Err(error) => {
                            tally.failed += 1;
                            *tally.faults.entry(error.to_string()).or_default() += 1;
                        }
                    }
                    drop(tally);
                    turn += 1;
                    thread::sleep(REST);
                }
            }));
        }
        Ok(())
    }

    fn end(&mut self) {
        self.calling.store(false, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // what it counted is in the tally
        }
    }

    fn tally(&self) -> Tally {
        self.tally.lock().expect("no holder panics").clone()
    }

    fn summary(&self) -> String {
        let tally = self.tally();
        let shares = tally.answers.iter().map(|(version, answers)| format!("{answers} by version {version}"));
        format!(
            "{} calls so far, {} failed; answered {}",
            tally.calls(),
            tally.failed,
            shares.collect::<Vec<_>>().join(", ")
        )
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.end();
    }
}

/// One call: asks where the service is, and calls one of the agents, each in turn. Which version has answered.
fn resolve_and_call(connection: &mut Connection, turn: usize) -> Outcome<u64> {
    let text: String = redis::cmd("DEPLOY.RESOLVE").arg(&[KEY, "SERVICE", SERVICE, "JSON"]).query(connection)?;
    let found: Json = serde_json::from_str(&text)?;
    let entries: Vec<&Json> = list(&found).collect();
    let entry = entries.get(turn % entries.len().max(1)).ok_or("DEPLOY.RESOLVE gave nobody")?;
    let answer: Json = serde_json::from_str(&call(&address_of(entry))?)?;
    answer["version"].as_u64().ok_or_else(|| "an answer without a version".into())
}

fn address_of(entry: &Json) -> String {
    format!("{}:{}", text(&entry["address"]), entry["port"])
}

fn call(address: &str) -> Outcome<String> {
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).proxy(None).build();
    let mut answer = ureq::Agent::new_with_config(config).get(format!("http://{address}/")).call()?;
    Ok(answer.body_mut().read_to_string()?)
}

// ------------------------------------------------------------------------------------------ for the eye

/// Prints the events of the deployment as they come.
fn show_events(client: &Client) -> Outcome<()> {
    let mut connection = client.get_connection()?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut channel = connection.as_pubsub();
        let subscribed = channel.subscribe(format!("deploy:events:{KEY}"));
        let failed = subscribed.is_err();
        let _ = ready.send(subscribed); // nobody waits any more
        if failed {
            return;
        }
        while let Ok(message) = channel.get_message() {
            let payload: String = message.get_payload().unwrap_or_default();
            if let Some(line) = serde_json::from_str(&payload).ok().and_then(|event| event_line(&event)) {
                println!("{line}");
            }
        }
    });
    Ok(is_ready.recv()??)
}

/// One event, one line: when, what, who, and what else there is to it. None for the small print.
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

fn heading(words: &str) {
    println!("\n{words}");
}

fn bar(done: u64, all: u64) -> String {
    const WIDTH: u64 = 24;
    let filled = (WIDTH * done).checked_div(all).unwrap_or(WIDTH).min(WIDTH);
    format!("[{}{}]", "#".repeat(filled as usize), "-".repeat((WIDTH - filled) as usize))
}

fn quoted(word: &str) -> String {
    if word.contains(' ') {
        format!("'{word}'")
    } else {
        word.into()
    }
}

fn text(json: &Json) -> &str {
    json.as_str().unwrap_or("-")
}

fn count(json: &Json) -> u64 {
    json.as_u64().unwrap_or(0)
}

fn list(json: &Json) -> impl Iterator<Item = &Json> {
    json.as_array().into_iter().flatten()
}
