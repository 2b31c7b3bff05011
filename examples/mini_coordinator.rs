//! Minimal coordinator in Rust: it is notified of changes by pub/sub and catches up from the record after every
//! (re)connection (docs/coordinators.md). `examples/coordinator.rs` is the complete one, with real processes.
//!
//! ```text
//! cargo run --example mini_coordinator -- redis://127.0.0.1:6379/ agent-api
//! ```
//!
//! Its agents are HTTP servers inside this process, which return their name and version. They end with this process;
//! after a restart they are started as new attempts. It must be the only coordinator of its key.
//!
//! Exit codes: 1 if at the start the server cannot be reached within ten tries, or refuses it; 2 if the arguments are
//! wrong. A connection that is lost later is retried for ever, with a message.

use redis::{Client, Connection, ErrorKind, RedisResult, Value};
use serde_json::Value as Json;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The tasks that it knows. Others are left to whoever knows them.
const TASKS: [&str; 5] = ["start", "replace", "run", "stop", "drain"];
const TTL_MS: u64 = 3000;
/// Time without an event or a reply after which the connection is checked.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Number of tries to reach the server at the start, and the delay between two.
const CONNECT_TRIES: u32 = 10;
const CONNECT_DELAY: Duration = Duration::from_millis(500);
/// Delay before a command or a connection is tried again, doubled up to the maximum.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Slot: agent and job. At most one version of the agent runs in it at a time.
type SlotId = (String, String);

/// A running agent.
struct Agent {
    name: String,
    version: u64,
    job: String,
    attempt: u64,
    port: u16,
    services: Vec<String>,
    stopped: Arc<AtomicBool>,
}

/// State that the threads share.
struct Coordinator {
    client: Client,
    key: String,
    agents: Mutex<HashMap<SlotId, Arc<Agent>>>,
    /// Slots whose task is being executed, and whether it was requested again meanwhile.
    in_progress: Mutex<HashMap<SlotId, bool>>,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(key), None) = (args.next(), args.next(), args.next()) else {
        end(2, "usage: mini_coordinator URL KEY, for example: mini_coordinator redis://127.0.0.1:6379/ agent-api");
    };
    let client = Client::open(url).unwrap_or_else(|error| end(2, &format!("mini_coordinator: {error}")));
    let coordinator = Coordinator { client, key, agents: Mutex::default(), in_progress: Mutex::default() };
    let coordinator: &'static Coordinator = Box::leak(Box::new(coordinator));
    coordinator.wait_for_server();
    thread::spawn(|| coordinator.refresh());
    let mut delay = RETRY;
    loop {
        let started_at = Instant::now();
        let Err(error) = coordinator.run_session();
        println!("connection: {error}");
        delay = if started_at.elapsed() > TIMEOUT { RETRY } else { delay };
        thread::sleep(delay);
        delay = (delay * 2).min(RETRY_MAX);
    }
}

/// Ends this process with a message.
fn end(code: i32, text: &str) -> ! {
    eprintln!("{text}");
    std::process::exit(code)
}

impl Coordinator {
    /// Waits for a server that takes our commands, and ends this process if there is none: at the start, the address,
    /// the password or the module may be wrong.
    fn wait_for_server(&self) {
        for tries in 1.. {
            let connection = self.client.get_connection_with_timeout(TIMEOUT);
            let ask = |mut connection| redis::cmd("DEPLOY.TASKS").arg(&self.key).query::<Value>(&mut connection);
            let Err(error) = connection.and_then(ask) else { return };
            let code = error.code().unwrap_or_default();
            if code == "NOTFOUND" {
                return; // not deployed yet
            }
            let is_temporary = ["LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY"].contains(&code);
            let is_refused = !code.is_empty() && !is_temporary || error.kind() == ErrorKind::AuthenticationFailed;
            if tries == CONNECT_TRIES || is_refused {
                end(1, &format!("mini_coordinator: {error}"));
            }
            println!("connection: {error}");
            thread::sleep(CONNECT_DELAY);
        }
    }

    /// Handles events until the connection is lost. It subscribes before it catches up, so that no event is missed
    /// between.
    fn run_session(&'static self) -> RedisResult<std::convert::Infallible> {
        let mut connection = self.client.get_connection_with_timeout(TIMEOUT)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        // PubSub::subscribe would take a refusal for the confirmation.
        let subscribe = redis::cmd("SUBSCRIBE").arg(format!("deploy:events:{}", self.key)).get_packed_command();
        connection.send_packed_command(&subscribe)?;
        connection.recv_response()?.extract_error()?;
        let mut events = connection.as_pubsub();
        self.catch_up();
        loop {
            let event: String = match events.get_message() {
                Ok(message) => message.get_payload()?,
                // Without events, the connection may be dead: catching up checks it.
                Err(error) if error.is_timeout() => {
                    self.catch_up();
                    continue;
                }
                Err(error) => return Err(error),
            };
            if serde_json::from_str::<Json>(&event).is_ok_and(|event| event["type"] == "task_issued") {
                self.catch_up();
            }
        }
    }

    /// Brings the agents to the state that the record asks for: executes its tasks, and starts agents that should be
    /// running and are not.
    fn catch_up(&'static self) {
        let tasks = self.query_json(&["DEPLOY.TASKS", &self.key, "JSON"]);
        for task in list(&tasks).filter(|task| TASKS.contains(&text(&task["task"]))) {
            self.dispatch(task.clone(), number(&task["attempt"]));
        }
        for instance in list(&self.query_json(&["DEPLOY.STATUS", &self.key, "JSON"])["instances"]) {
            let should_run = ["starting", "ready", "unready"].contains(&text(&instance["state"]));
            if !should_run || list(&tasks).any(|task| slot(task) == slot(instance)) {
                continue;
            }
            let is_draining = instance["role"] == "draining";
            let mut task = instance.clone();
            task["task"] = if instance["agent"] == "*" { "run" } else { "start" }.into();
            match self.running(&slot(instance)).filter(|here| here.version == number(&instance["version"])) {
                // What drains is not started again. A failover has lost the report of `drained`, or the agent is gone.
                here if is_draining => {
                    if here.is_none() || !instance["drain_at"].is_null() {
                        task["task"] = "drain".into();
                        self.dispatch(task, number(&instance["attempt"]));
                    }
                }
                None => self.dispatch(task, number(&instance["attempt"]) + 1),
                // A failover has lost the report of `ready`.
                Some(here) if instance["state"] == "starting" => self.dispatch(task, here.attempt),
                Some(_) => {}
            }
        }
    }

    /// Executes a task on its own thread, unless one is being executed in its slot.
    fn dispatch(&'static self, task: Json, attempt: u64) {
        let slot = slot(&task);
        let mut in_progress = self.in_progress.lock().expect("no holder panics");
        if let Some(requested_again) = in_progress.get_mut(&slot) {
            *requested_again = true;
            return;
        }
        in_progress.insert(slot.clone(), false);
        thread::spawn(move || {
            self.execute(&task, attempt, &slot);
            if self.in_progress.lock().expect("no holder panics").remove(&slot) == Some(true) {
                self.catch_up();
            }
        });
    }

    /// Executes a task and reports its progress.
    fn execute(&self, task: &Json, attempt: u64, slot: &SlotId) {
        let running = self.running(slot);
        let is_this = |agent: &Arc<Agent>| agent.version == number(&task["version"]);
        if task["task"] == "stop" {
            if running.is_some_and(|agent| is_this(&agent)) {
                self.stop(slot);
            }
            self.report(task, attempt, "stopped");
            return;
        }
        if task["task"] == "drain" {
            self.drain(task, attempt, running.is_some_and(|agent| is_this(&agent)));
            return;
        }
        if running.is_some_and(|agent| is_this(&agent) && agent.attempt == attempt) {
            // It already runs: the task list was older than the last report, or a failover has lost that report.
            self.report(task, attempt, "ready");
            return;
        }
        // The task is claimed before anything is stopped: it may have been withdrawn.
        if !self.report(task, attempt, "starting") && self.on_record(task, attempt).is_none() {
            return;
        }
        self.stop(slot);
        if task["task"] == "run" {
            self.report(task, attempt, "completed");
            return;
        }
        let agent = match self.start(task, attempt) {
            Ok(agent) => Arc::new(agent),
            Err(error) => {
                println!("{}: {error}", slot.0);
                self.report(task, attempt, "failed");
                return;
            }
        };
        self.agents.lock().expect("no holder panics").insert(slot.clone(), agent.clone());
        self.register(&agent);
        self.report(task, attempt, "ready");
    }

    /// Reports `draining`, then `drained`: these agents hold no sessions, since they answer each call at once, so
    /// nobody waits for them to finish any. They go on serving until a `stop` or `replace` follows; new callers do not
    /// resolve them. A real coordinator tells the agent to take no new work, and reports `drained` once it holds no
    /// session.
    fn drain(&self, task: &Json, attempt: u64, is_running: bool) {
        let is_draining = || self.on_record(task, attempt).is_some_and(|instance| instance["role"] == "draining");
        if !is_running {
            self.report(task, attempt, "stopped"); // it has ended with an earlier coordinator
        } else if self.report(task, attempt, "draining") || is_draining() {
            self.report(task, attempt, "drained");
        }
    }

    /// Returns the instance of a task if it is of this attempt: an earlier report was recorded and only its reply was
    /// lost. Otherwise the task was withdrawn.
    fn on_record(&self, task: &Json, attempt: u64) -> Option<Json> {
        let status = self.query_json(&["DEPLOY.STATUS", &self.key, "JSON"]);
        let mut same = list(&status["instances"]).filter(|i| slot(i) == slot(task) && i["version"] == task["version"]);
        same.find(|instance| number(&instance["attempt"]) == attempt).cloned()
    }

    /// Starts the HTTP server of an agent.
    fn start(&self, task: &Json, attempt: u64) -> std::io::Result<Agent> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let (port, stopped) = (listener.local_addr()?.port(), Arc::new(AtomicBool::new(false)));
        let answer = format!("{} v{}\n", text(&task["agent"]), task["version"]);
        let answer = format!("HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
        let is_stopped = stopped.clone();
        thread::spawn(move || {
            for mut caller in listener.incoming().flatten() {
                if is_stopped.load(Ordering::Relaxed) {
                    return;
                }
                let asked = BufReader::new(&caller).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                asked.for_each(drop);
                let _ = caller.write_all(answer.as_bytes());
            }
        });
        let manifest =
            &self.query_json(&["DEPLOY.VERSION", &self.key, &task["version"].to_string(), "JSON"])["manifest"];
        let nodes = list(&manifest["nodes"]).chain(list(&manifest["agents"]["nodes"]));
        let services = nodes.filter(|node| node["node_id"] == task["node"]).flat_map(|node| list(&node["services"]));
        Ok(Agent {
            name: text(&task["agent"]).to_string(),
            version: number(&task["version"]),
            job: text(&task["job_id"]).to_string(),
            attempt,
            port,
            services: services.map(|service| text(&service["name"]).to_string()).collect(),
            stopped,
        })
    }

    /// Stops the agent in a slot, if there is one, and waits until its port is closed.
    fn stop(&self, slot: &SlotId) {
        if let Some(agent) = self.agents.lock().expect("no holder panics").remove(slot) {
            agent.stopped.store(true, Ordering::Relaxed);
            while std::net::TcpStream::connect(("127.0.0.1", agent.port)).is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Registers the services of an agent.
    fn register(&self, agent: &Agent) {
        for service in &agent.services {
            let (instance, ttl) = (agent.instance(service), TTL_MS.to_string());
            let (port, version) = (agent.port.to_string(), agent.version.to_string());
            let of = ["VERSION", &version, "JOB", &agent.job, "TTL", &ttl];
            let at = ["INSTANCE", &instance, "ADDRESS", "127.0.0.1", "PORT", &port];
            self.call(&[&["DEPLOY.REGISTER", &self.key, &agent.name, service][..], &at, &of].concat());
        }
    }

    /// Refreshes the TTLs of all services. Without it they become critical and are not resolved, as after the death of
    /// a coordinator.
    fn refresh(&self) {
        loop {
            thread::sleep(Duration::from_millis(TTL_MS / 3));
            let agents: Vec<Arc<Agent>> = self.agents.lock().expect("no holder panics").values().cloned().collect();
            for agent in agents {
                let check = |service| self.call(&["DEPLOY.CHECK", &self.key, &agent.instance(service), "passing"]);
                if agent.services.iter().any(|service| check(service).is_none()) {
                    self.register(&agent); // a failover may have lost the registration
                }
            }
        }
    }

    /// Returns the agent in a slot.
    fn running(&self, slot: &SlotId) -> Option<Arc<Agent>> {
        self.agents.lock().expect("no holder panics").get(slot).cloned()
    }

    /// Reports a state; returns whether the record has changed. It names the attempt, so that a retry is harmless.
    fn report(&self, task: &Json, attempt: u64, state: &str) -> bool {
        let (agent, version, attempt) = (text(&task["agent"]), task["version"].to_string(), attempt.to_string());
        println!("{agent} v{version} {state}");
        let of = ["VERSION", &version, "JOB", text(&task["job_id"]), "ATTEMPT", &attempt];
        self.call(&[&["DEPLOY.REPORT", &self.key, agent, state][..], &of].concat()) == Some(Value::Int(1))
    }

    /// Runs a command that replies with a JSON string; null if there is no record.
    fn query_json(&self, words: &[&str]) -> Json {
        let reply = self.call(words).and_then(|reply| redis::from_redis_value::<String>(reply).ok());
        reply.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Runs a command; None if its subject does not exist (any more). Other errors are retried: the connection may be
    /// lost, or the server may be loading, a replica or out of memory. Retries are harmless, since reports name their
    /// attempt.
    fn call(&self, words: &[&str]) -> Option<Value> {
        let once = |mut connection: Connection| {
            connection.set_read_timeout(Some(TIMEOUT))?;
            redis::cmd(words[0]).arg(&words[1..]).query(&mut connection)
        };
        let mut delay = RETRY;
        loop {
            match self.client.get_connection_with_timeout(TIMEOUT).and_then(once) {
                Ok(reply) => return Some(reply),
                Err(error) if error.code() == Some("NOTFOUND") => return None,
                Err(error) => println!("{}: {error}", words[0]),
            }
            thread::sleep(delay);
            delay = (delay * 2).min(RETRY_MAX);
        }
    }
}

impl Agent {
    /// Returns the instance id of a service.
    fn instance(&self, service: &str) -> String {
        format!("{}-{service}-v{}", self.name, self.version)
    }
}

/// Returns the slot of a task or an instance.
fn slot(task: &Json) -> SlotId {
    (text(&task["agent"]).to_string(), text(&task["job_id"]).to_string())
}

/// Returns a string field, or an empty string.
fn text(json: &Json) -> &str {
    json.as_str().unwrap_or_default()
}

/// Returns a number field, or 0.
fn number(json: &Json) -> u64 {
    json.as_u64().unwrap_or_default()
}

/// Returns the items of an array, or none.
fn list(json: &Json) -> impl Iterator<Item = &Json> {
    json.as_array().into_iter().flatten()
}
