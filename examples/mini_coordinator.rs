//! A small coordinator: it hears of changes by pub/sub, and catches up from the record after each (re)connection
//! (docs/coordinators.md). `examples/coordinator.rs` is the whole thing, with real processes.
//!
//! ```text
//! cargo run --example mini_coordinator -- redis://127.0.0.1:6379/ agent-api
//! ```
//!
//! Its agents are HTTP servers inside this process, which say their name and version. They end with this process: started
//! again, it begins them anew, as a new attempt. It is meant to be the only coordinator of its key.

use redis::{Client, Connection, RedisResult, Value};
use serde_json::Value as Json;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const TTL_MS: u64 = 3000;
/// How long to wait for a word of the server before looking for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// An agent in a job: in place, one version of it runs there at a time.
type Place = (String, String);

struct Agent {
    name: String,
    version: u64,
    job: String,
    attempt: u64,
    port: u16,
    services: Vec<String>,
    over: Arc<AtomicBool>,
}

struct Coordinator {
    client: Client,
    key: String,
    agents: Mutex<HashMap<Place, Arc<Agent>>>,
    /// Where a task is being carried out, and whether it was asked for again meanwhile.
    taken: Mutex<HashMap<Place, bool>>,
}

fn main() -> RedisResult<()> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(key)) = (args.next(), args.next()) else {
        eprintln!("usage: mini_coordinator URL KEY");
        std::process::exit(2);
    };
    let coordinator =
        Coordinator { client: Client::open(url)?, key, agents: Mutex::default(), taken: Mutex::default() };
    let coordinator: &'static Coordinator = Box::leak(Box::new(coordinator));
    thread::spawn(|| coordinator.refresh());
    loop {
        let Err(lost) = coordinator.follow();
        println!("connection: {lost}");
        thread::sleep(Duration::from_millis(100));
    }
}

impl Coordinator {
    /// Until the connection is lost. Subscribed first, so that nothing happens unheard between catching up and listening.
    fn follow(&'static self) -> RedisResult<std::convert::Infallible> {
        let mut connection = self.client.get_connection()?;
        let mut events = connection.as_pubsub();
        events.subscribe(format!("deploy:events:{}", self.key))?;
        events.set_read_timeout(Some(PATIENCE))?;
        self.catch_up();
        loop {
            let event: String = match events.get_message() {
                Ok(message) => message.get_payload()?,
                // Silence may mean that nobody is there any more.
                Err(silence) if silence.is_timeout() => {
                    self.catch_up();
                    continue;
                }
                Err(lost) => return Err(lost),
            };
            if serde_json::from_str::<Json>(&event).is_ok_and(|event| event["type"] == "task_issued") {
                self.catch_up();
            }
        }
    }

    /// Does what the record asks for, whatever was missed: its tasks, and the agents that should run here and do not.
    fn catch_up(&'static self) {
        let tasks = self.ask(&["DEPLOY.TASKS", &self.key, "JSON"]);
        for task in list(&tasks) {
            self.begin(task.clone(), number(&task["attempt"]));
        }
        for instance in list(&self.ask(&["DEPLOY.STATUS", &self.key, "JSON"])["instances"]) {
            let should_run = ["starting", "ready", "unready"].contains(&text(&instance["state"]));
            if !should_run || list(&tasks).any(|task| place(task) == place(instance)) {
                continue;
            }
            let mut task = instance.clone();
            task["task"] = if instance["agent"] == "*" { "run" } else { "start" }.into();
            match self.running(&place(instance)).filter(|here| here.version == number(&instance["version"])) {
                None => self.begin(task, number(&instance["attempt"]) + 1),
                // A failover has lost our `ready`.
                Some(here) if instance["state"] == "starting" => self.begin(task, here.attempt),
                Some(_) => {}
            }
        }
    }

    fn begin(&'static self, task: Json, attempt: u64) {
        let place = place(&task);
        let mut taken = self.taken.lock().expect("no holder panics");
        if let Some(asked_again) = taken.get_mut(&place) {
            *asked_again = true;
            return;
        }
        taken.insert(place.clone(), false);
        thread::spawn(move || {
            self.carry_out(&task, attempt, &place);
            if self.taken.lock().expect("no holder panics").remove(&place) == Some(true) {
                self.catch_up();
            }
        });
    }

    fn carry_out(&self, task: &Json, attempt: u64, place: &Place) {
        let running = self.running(place);
        let is_this = |agent: &Arc<Agent>| agent.version == number(&task["version"]);
        if task["task"] == "stop" {
            if running.is_some_and(|agent| is_this(&agent)) {
                self.stop(place);
            }
            self.report(task, attempt, "stopped");
            return;
        }
        if running.is_some_and(|agent| is_this(&agent) && agent.attempt == attempt) {
            // Once more: the list was older than our report, or a failover has lost that.
            self.report(task, attempt, "ready");
            return;
        }
        // The claim comes first: where it is refused nothing has been stopped yet.
        if !self.report(task, attempt, "starting") && !self.is_known(task, attempt) {
            return;
        }
        self.stop(place);
        if task["task"] == "run" {
            self.report(task, attempt, "completed");
            return;
        }
        let agent = match self.start(task, attempt) {
            Ok(agent) => Arc::new(agent),
            Err(error) => {
                println!("{}: {error}", place.0);
                self.report(task, attempt, "failed");
                return;
            }
        };
        self.agents.lock().expect("no holder panics").insert(place.clone(), agent.clone());
        self.register(&agent);
        self.report(task, attempt, "ready");
    }

    /// Whether our own `starting` had arrived before, and only its reply was lost. Otherwise the task is withdrawn.
    fn is_known(&self, task: &Json, attempt: u64) -> bool {
        let status = self.ask(&["DEPLOY.STATUS", &self.key, "JSON"]);
        let mut same =
            list(&status["instances"]).filter(|i| place(i) == place(task) && i["version"] == task["version"]);
        same.any(|instance| number(&instance["attempt"]) == attempt)
    }

    fn start(&self, task: &Json, attempt: u64) -> std::io::Result<Agent> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let (port, over) = (listener.local_addr()?.port(), Arc::new(AtomicBool::new(false)));
        let answer = format!("{} v{}\n", text(&task["agent"]), task["version"]);
        let answer = format!("HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
        let is_over = over.clone();
        thread::spawn(move || {
            for mut caller in listener.incoming().flatten() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let asked = BufReader::new(&caller).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                asked.for_each(drop);
                let _ = caller.write_all(answer.as_bytes());
            }
        });
        let manifest = &self.ask(&["DEPLOY.VERSION", &self.key, &task["version"].to_string(), "JSON"])["manifest"];
        let nodes = list(&manifest["nodes"]).chain(list(&manifest["agents"]["nodes"]));
        let services = nodes.filter(|node| node["node_id"] == task["node"]).flat_map(|node| list(&node["services"]));
        Ok(Agent {
            name: text(&task["agent"]).to_string(),
            version: number(&task["version"]),
            job: text(&task["job_id"]).to_string(),
            attempt,
            port,
            services: services.map(|service| text(&service["name"]).to_string()).collect(),
            over,
        })
    }

    /// Waits until the agent that runs there, if one does, takes no calls any more.
    fn stop(&self, place: &Place) {
        if let Some(agent) = self.agents.lock().expect("no holder panics").remove(place) {
            agent.over.store(true, Ordering::Relaxed);
            while std::net::TcpStream::connect(("127.0.0.1", agent.port)).is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn register(&self, agent: &Agent) {
        for service in &agent.services {
            let (instance, ttl) = (agent.instance(service), TTL_MS.to_string());
            let (port, version) = (agent.port.to_string(), agent.version.to_string());
            let of = ["VERSION", &version, "JOB", &agent.job, "TTL", &ttl];
            let at = ["INSTANCE", &instance, "ADDRESS", "127.0.0.1", "PORT", &port];
            self.call(&[&["DEPLOY.REGISTER", &self.key, &agent.name, service][..], &at, &of].concat());
        }
    }

    /// An agent that is not refreshed is not resolved: the TTL is how a coordinator that is gone is noticed.
    fn refresh(&self) {
        loop {
            thread::sleep(Duration::from_millis(TTL_MS / 3));
            let agents: Vec<Arc<Agent>> = self.agents.lock().expect("no holder panics").values().cloned().collect();
            for agent in agents {
                let check = |service| self.call(&["DEPLOY.CHECK", &self.key, &agent.instance(service), "passing"]);
                if agent.services.iter().any(|service| check(service).is_none()) {
                    self.register(&agent); // a failover may have lost it
                }
            }
        }
    }

    fn running(&self, place: &Place) -> Option<Arc<Agent>> {
        self.agents.lock().expect("no holder panics").get(place).cloned()
    }

    /// Whether it changed something. It says which attempt it is about, so that sending it twice does no harm.
    fn report(&self, task: &Json, attempt: u64, state: &str) -> bool {
        let (agent, version, attempt) = (text(&task["agent"]), task["version"].to_string(), attempt.to_string());
        println!("{agent} v{version} {state}");
        let of = ["VERSION", &version, "JOB", text(&task["job_id"]), "ATTEMPT", &attempt];
        self.call(&[&["DEPLOY.REPORT", &self.key, agent, state][..], &of].concat()) == Some(Value::Int(1))
    }

    fn ask(&self, words: &[&str]) -> Json {
        let reply = self.call(words).and_then(|reply| redis::from_redis_value::<String>(reply).ok());
        reply.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// The reply, or None for what is not there (any more). Anything else is tried again: the connection is lost, or the
    /// server loads, has become a replica, is out of memory. That does no harm: reports say which attempt they are about.
    fn call(&self, words: &[&str]) -> Option<Value> {
        let once = |mut connection: Connection| {
            connection.set_read_timeout(Some(PATIENCE))?;
            redis::cmd(words[0]).arg(&words[1..]).query(&mut connection)
        };
        loop {
            match self.client.get_connection_with_timeout(PATIENCE).and_then(once) {
                Ok(reply) => return Some(reply),
                Err(error) if error.code() == Some("NOTFOUND") => return None,
                Err(error) => println!("{}: {error}", words[0]),
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Agent {
    fn instance(&self, service: &str) -> String {
        format!("{}-{service}-v{}", self.name, self.version)
    }
}

fn place(task: &Json) -> Place {
    (text(&task["agent"]).to_string(), text(&task["job_id"]).to_string())
}

fn text(json: &Json) -> &str {
    json.as_str().unwrap_or_default()
}

fn number(json: &Json) -> u64 {
    json.as_u64().unwrap_or_default()
}

fn list(json: &Json) -> impl Iterator<Item = &Json> {
    json.as_array().into_iter().flatten()
}
