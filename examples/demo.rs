//! A rollout to watch, from both of its sides: the operator, who deploys and promotes, and a coordinator, who carries
//! tasks out. `scripts/demo` runs it against a server of its own; for another one, give its URL:
//!
//! ```text
//! cargo run --example demo -- redis://127.0.0.1:6379/
//! ```
//!
//! The agents are make-believe: "starting" one takes `START_TAKES`. Everything else is how a coordinator works.

use redis::{Client, Connection, RedisResult};
use serde_json::{json, Value as Json};
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

const KEY: &str = "agent-api";
const AGENTS: [&str; 3] = ["planner", "searcher", "writer"];
/// How long our make-believe agents take from `starting` to `ready`.
const START_TAKES: Duration = Duration::from_millis(700);
/// The demo takes a few seconds; something is wrong if a step takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let url = std::env::args().nth(1).unwrap_or_else(|| "redis://127.0.0.1:6379/".into());
    match run(&url) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("The rollout did not end successful.");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("The demo failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(url: &str) -> RedisResult<bool> {
    let client = Client::open(url)?;
    let mut operator = Operator { connection: client.get_connection()?, shown: String::new() };
    start_coordinator(&client)?;

    heading("Version 1: nothing runs yet, so all three agents start at once.");
    operator.deploy("v1 of the service", "model-small", &[])?;
    if !operator.watch_until("successful")? {
        return Ok(false);
    }

    heading("Version 2: a rolling update with one canary. Only the canary is replaced at first.");
    operator.deploy("a larger model", "model-large", &["CANARY", "1"])?;
    if !operator.watch_until("awaiting_promotion")? {
        return Ok(false);
    }

    heading("The canary has been healthy for min_healthy_ms. The operator promotes it; the others follow one by one.");
    operator.command(&["DEPLOY.PROMOTE", KEY, "REASON", "the canary answers well"])?;
    let successful = operator.watch_until("successful")?;

    heading("What the record says now");
    operator.summary()?;
    Ok(successful)
}

// ------------------------------------------------------------------------------------------ the operator's side

struct Operator {
    connection: Connection,
    /// The status line as last printed.
    shown: String,
}

impl Operator {
    fn deploy(&mut self, reason: &str, model: &str, options: &[&str]) -> RedisResult<()> {
        let nodes: Vec<Json> =
            AGENTS.iter().map(|agent| json!({ "node_id": agent, "config": { "model": model } })).collect();
        let manifest = json!({
            "type": "service",
            "nodes": nodes,
            "edges": [
                { "from_node": "planner", "to_node": "searcher", "message_type": "question" },
                { "from_node": "searcher", "to_node": "writer", "message_type": "findings" },
            ],
            "entrypoints": ["planner"],
            "policies": { "update": { "max_parallel": 1, "min_healthy_ms": 1200, "healthy_deadline_ms": 10000, "progress_deadline_ms": 20000 } },
        });
        let manifest = manifest.to_string();
        self.command(&[&["DEPLOY.DEPLOY", KEY, "MANIFEST", &manifest, "REASON", reason], options].concat())
    }

    fn command(&mut self, words: &[&str]) -> RedisResult<()> {
        let shown = words.iter().map(|word| if word.starts_with('{') { "'{…}'".into() } else { quoted(word) });
        println!("> {}", shown.collect::<Vec<_>>().join(" "));
        redis::cmd(words[0]).arg(&words[1..]).query::<redis::Value>(&mut self.connection).map(drop)
    }

    fn json(&mut self, words: &[&str]) -> RedisResult<Json> {
        let text: String = redis::cmd(words[0]).arg(&words[1..]).query(&mut self.connection)?;
        Ok(serde_json::from_str(&text).expect("the module replies JSON where JSON is asked for"))
    }

    /// Shows the status as it changes, until it is the awaited one (true) or the deployment has ended otherwise.
    fn watch_until(&mut self, awaited: &str) -> RedisResult<bool> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let record = self.json(&["DEPLOY.STATUS", KEY, "JSON"])?;
            self.show(&record);
            let status = text(&record["status"]);
            if status == awaited {
                return Ok(true);
            }
            if ["successful", "failed", "cancelled"].contains(&status) || Instant::now() > deadline {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(50));
        }
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

    fn summary(&mut self) -> RedisResult<()> {
        let record = self.json(&["DEPLOY.STATUS", KEY, "JSON"])?;
        println!(
            "  {}: {}, current version {}, stable version {}, ROLLBACK would take {}",
            text(&record["deployment_id"]),
            text(&record["status"]),
            record["current_version"],
            record["stable_version"],
            record["rollback_target"],
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
                "  version  {:<10} {} {:<8} {}",
                version["version"],
                text(&version["outcome"]),
                stable,
                text(&version["reason"]),
            );
        }
        Ok(())
    }
}

// ------------------------------------------------------------------------------------------ the coordinator's side

/// A coordinator needs little: a subscription to hear when to look, DEPLOY.TASKS to see what is to be done (pub/sub
/// is only a hint, the record is the truth), and DEPLOY.REPORT to say what became of it.
fn start_coordinator(client: &Client) -> RedisResult<()> {
    let mut subscription = client.get_connection()?;
    let coordinator = client.clone();
    let (ready, is_ready) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut channel = subscription.as_pubsub();
        channel.subscribe(format!("deploy:events:{KEY}")).expect("a subscription");
        ready.send(()).expect("the demo waits for it");
        let mut taken = BTreeSet::new();
        while let Ok(message) = channel.get_message() {
            let payload: String = message.get_payload().expect("events are text");
            let event: Json = serde_json::from_str(&payload).expect("events are JSON");
            println!("{}", event_line(&event));
            if event["type"] == "task_issued" {
                take_tasks(&coordinator, &mut taken).expect("the server is there");
            }
        }
    });
    is_ready.recv_timeout(PATIENCE).expect("a subscription");
    Ok(())
}

/// Takes up every task that nobody here has taken up yet, each on a thread of its own.
fn take_tasks(client: &Client, taken: &mut BTreeSet<String>) -> RedisResult<()> {
    let text: String = redis::cmd("DEPLOY.TASKS").arg(KEY).arg("JSON").query(&mut client.get_connection()?)?;
    let tasks: Json = serde_json::from_str(&text).expect("the module replies JSON where JSON is asked for");
    for task in list(&tasks) {
        if taken.insert(format!("{} {} v{}", task["task"], task["agent"], task["version"])) {
            let (client, task) = (client.clone(), task.clone());
            thread::spawn(move || carry_out(&client, &task).expect("the server takes reports"));
        }
    }
    Ok(())
}

fn carry_out(client: &Client, task: &Json) -> RedisResult<()> {
    let mut connection = client.get_connection()?;
    let mut report = |state: &str| {
        redis::cmd("DEPLOY.REPORT")
            .arg(&[KEY, text(&task["agent"]), state, "JOB", text(&task["job_id"])])
            .arg("VERSION")
            .arg(task["version"].to_string())
            .query::<i64>(&mut connection)
    };
    if task["task"] == "stop" {
        // A real coordinator ends the process here.
        return report("stopped").map(drop);
    }
    report("starting")?;
    // A real coordinator starts the agent's process here, and waits until that says that it is ready.
    thread::sleep(START_TAKES);
    report("ready").map(drop)
}

// ------------------------------------------------------------------------------------------ for the eye

fn heading(words: &str) {
    println!("\n{words}");
}

/// One event, one line: when, what, who, and what else there is to it.
fn event_line(event: &Json) -> String {
    static FIRST: OnceLock<u64> = OnceLock::new();
    let at = count(&event["at"]);
    let since = at.saturating_sub(*FIRST.get_or_init(|| at));
    let agent = event["agent"].as_str().unwrap_or("");
    let role = event["role"].as_str().unwrap_or("");
    let details = ["task", "state", "mode", "strategy", "by", "reason"];
    let details = details.iter().filter_map(|name| Some(format!("{name}={}", event[*name].as_str()?)));
    let line = format!(
        "    {:>3}.{:03}s  #{:<3} {:<21} {:<9} v{} {:<8} {}",
        since / 1000,
        since % 1000,
        count(&event["revision"]),
        text(&event["type"]),
        agent,
        event["version"],
        role,
        details.collect::<Vec<_>>().join(" "),
    );
    line.trim_end().to_string()
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
