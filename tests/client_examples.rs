//! The short coordinators in `examples/`, in three languages: each is the only coordinator of a deployment, and
//! completes every kind of task while its connections are cut repeatedly.
//!
//! They need what `scripts/test` installs: redis-py in `.clients`, node-redis in `examples/node_modules`.

use serde_json::{json, Value as Json};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use test_support::prelude::*;
use test_support::processes::signal;

const KEY: &str = "agent-api";
/// The TTL that all the clients give their services.
const TTL_MS: u64 = 3000;

/// The command that starts a client. A missing dependency is a failure that names it.
fn python() -> Command {
    let mut python = Command::new("python3");
    assert!(root().join(".clients/redis").is_dir(), "redis-py is missing: scripts/test installs it into .clients");
    python.env("PYTHONPATH", root().join(".clients")).arg(root().join("examples/coordinator.py"));
    python
}

fn node() -> Command {
    let modules = root().join("examples/node_modules/redis");
    assert!(modules.is_dir(), "node-redis is missing: scripts/test installs it, or `npm ci` in examples/");
    let mut node = Command::new("node");
    node.arg(root().join("examples/coordinator.mjs"));
    node
}

/// Cargo builds the examples with the tests, unless it is asked for one test alone.
fn rust() -> Command {
    let tests = std::env::current_exe().expect("a test is a file");
    let example = tests.parent().and_then(Path::parent).expect("target/debug/deps").join("examples/mini_coordinator");
    let changed = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    let source = changed(&root().join("examples/mini_coordinator.rs"));
    let hint = "is not there or old: `cargo build --example mini_coordinator`";
    assert!(changed(&example).is_some_and(|built| Some(built) >= source), "{} {hint}", example.display());
    Command::new(example)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A client at work. It ends with this value.
struct Coordinator {
    process: Child,
    output: PathBuf,
}

impl Coordinator {
    fn start(command: Command, server: &Server) -> Coordinator {
        Coordinator::start_at(command, server, server.port)
    }

    /// Starts one that reaches the server at another port.
    fn start_at(mut command: Command, server: &Server, port: u16) -> Coordinator {
        let output = server.folder.join("coordinator.log");
        let log = File::options().create(true).append(true).open(&output).expect("a file in our own folder");
        let errors = log.try_clone().expect("a file");
        command.arg(format!("redis://127.0.0.1:{port}/")).arg(KEY);
        let process = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        let process = process.unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
        Coordinator { process, output }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("-- the coordinator said:\n{}", std::fs::read_to_string(&self.output).unwrap_or_default());
        }
    }
}

/// Agents that each offer a service.
fn manifest_of(kind: &str, agents: &[&str], model: &str) -> String {
    let nodes: Vec<Json> = agents
        .iter()
        .map(|agent| json!({ "node_id": agent, "config": { "model": model }, "services": [{ "name": "web" }] }))
        .collect();
    json!({ "type": kind, "nodes": nodes, "entrypoints": [agents[0]] }).to_string()
}

/// Everybody's connections but our own, as an unkind operator, a proxy or a failover would.
fn cut_connections(client: &mut Client) {
    client.call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    client.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
}

/// Waits until the deployment is successful, and cuts all connections at each of its steps.
fn wait_for_success_while_cutting(client: &mut Client) -> Json {
    let mut cut_at = 0;
    wait_for("the deployment to be successful", || {
        let record = client.status(KEY);
        if number(&record["revision"]) > cut_at {
            cut_at = number(&record["revision"]);
            cut_connections(client);
        }
        (record["status"] == "successful").then_some(record)
    })
}

/// Returns the replies of the agents at the addresses that RESOLVE gives.
fn answers(client: &mut Client) -> Vec<String> {
    let resolved = client.json(&["DEPLOY.RESOLVE", KEY, "SERVICE", "web", "JSON"]);
    let mut all: Vec<String> = array(&resolved).iter().filter_map(|entry| get(number(&entry["port"]) as u16)).collect();
    all.sort();
    all
}

/// Waits until RESOLVE leads to these agents. On a machine that stands still a TTL may run out, until the next refresh.
fn wait_for_answers(client: &mut Client, expected: &[&str]) {
    wait_until(&format!("{expected:?} to answer"), || answers(client) == expected);
}

fn get(port: u16) -> Option<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).ok()?;
    connection.set_read_timeout(Some(patience())).ok()?;
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut all = String::new();
    connection.read_to_string(&mut all).ok()?;
    Some(all.split("\r\n\r\n").nth(1)?.trim().to_string())
}

fn attempts(record: &Json) -> Vec<u64> {
    array(&record["instances"]).iter().map(|instance| number(&instance["attempt"])).collect()
}

/// Starts a server and a coordinator with a first version, which may be deployed before the coordinator listens, or
/// after.
fn with_first_version(coordinator: fn() -> Command) -> (Server, Client, Coordinator) {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    let running = Coordinator::start(coordinator(), &server);
    client.deploy(KEY, &manifest_of("service", &AGENTS, "small"), &QUICK);
    client.wait_for_status(KEY, "successful");
    (server, client, running)
}

fn goes_through_everything(coordinator: fn() -> Command) {
    let (server, mut client, mut running) = with_first_version(coordinator);
    wait_for_answers(&mut client, &["agent-1 v1", "agent-2 v1", "agent-3 v1"]);

    // An update in place, with a canary, cut off wherever one can be.
    client.deploy(KEY, &manifest_of("service", &AGENTS, "large"), &[&QUICK[..], &["CANARY", "1"]].concat());
    cut_connections(&mut client);
    client.wait_for_status(KEY, "awaiting_promotion");
    wait_for_answers(&mut client, &["agent-2 v1", "agent-3 v1"]); // a canary is not resolved
    cut_connections(&mut client);
    client.call(&["DEPLOY.PROMOTE", KEY]);
    let record = wait_for_success_while_cutting(&mut client);
    assert_eq!((&record["current_version"], attempts(&record)), (&json!(2), vec![1, 1, 1]), "started once each");
    wait_for_answers(&mut client, &["agent-1 v2", "agent-2 v2", "agent-3 v2"]);

    // Nothing but its refreshing keeps them resolved, also beyond the TTL of them all. (A machine that stands still may
    // let one run out, until the next refresh.)
    let newest = array(&record["services"]).iter().map(|service| number(&service["since"])).max();
    wait_past(newest.expect("three services") + TTL_MS + 500);
    wait_until("all to be resolved beyond their TTL", || answers(&mut client).len() == 3);

    // Killed and started again: its agents have gone with it, and it begins them anew.
    let before = number(&client.status(KEY)["revision"]);
    drop(running);
    running = Coordinator::start(coordinator(), &server);
    wait_until("a second attempt of all", || {
        let record = client.status(KEY);
        attempts(&record) == [2, 2, 2] && record["health"]["healthy"] == 3
    });
    assert!(client.events_after(KEY, before).iter().all(|event| event["type"] != "task_issued"), "of itself");
    wait_for_answers(&mut client, &["agent-1 v2", "agent-2 v2", "agent-3 v2"]);

    // Another topology: a second job beside the first, and the first is stopped.
    client.deploy(KEY, &manifest_of("service", &AGENTS[..2], "huge"), &QUICK);
    client.wait_for_status(KEY, "successful");
    cut_connections(&mut client);
    wait_until("the old job to stop", || client.tasks(KEY).is_empty());
    wait_for_answers(&mut client, &["agent-1 v3", "agent-2 v3"]);

    // The end of it all; and a batch job.
    let resolved = client.json(&["DEPLOY.RESOLVE", KEY, "JSON"]);
    client.call(&["DEPLOY.STOP", KEY]);
    wait_until("everything to stop", || client.tasks(KEY).is_empty());
    for entry in array(&resolved) {
        assert_eq!(get(number(&entry["port"]) as u16), None, "{entry} has stopped");
    }
    client.deploy(KEY, &manifest_of("batch", &["nightly"], "small"), &[]);
    let outcome = |client: &mut Client| client.json(&["DEPLOY.VERSION", KEY, "4", "JSON"])["outcome"].clone();
    wait_until("the batch job to be done", || outcome(&mut client) == "completed");
    assert!(running.process.try_wait().expect("our own child").is_none(), "it still runs");
}

#[test]
fn python_coordinator_completes_every_kind_of_rollout() {
    goes_through_everything(python);
}

#[test]
fn javascript_coordinator_completes_every_kind_of_rollout() {
    goes_through_everything(node);
}

#[test]
fn rust_coordinator_completes_every_kind_of_rollout() {
    goes_through_everything(rust);
}

// ---- drains ---------------------------------------------------------------------------------------------------------

/// A drain that does not end by itself while a test runs.
const DRAINS: [&str; 4] = ["MIN_HEALTHY_MS", "50", "DRAIN_MS", "600000"];

/// Returns whether each drain after a revision was forced.
fn drained_by_force(client: &mut Client, after: u64) -> Vec<bool> {
    let events = client.events_after(KEY, after);
    events.iter().filter(|event| event["type"] == "agent_drained").map(|event| event["forced"] == true).collect()
}

fn drains_its_agents(coordinator: fn() -> Command) {
    let (server, mut client, mut running) = with_first_version(coordinator);
    let first = client.json(&["DEPLOY.RESOLVE", KEY, "JSON"]);

    // In place. A report whose reply is lost has drained its agent as well.
    let mut before = number(&client.status(KEY)["revision"]);
    client.deploy(KEY, &manifest_of("service", &AGENTS, "large"), &DRAINS);
    let record = wait_for_success_while_cutting(&mut client);
    assert_eq!((&record["current_version"], attempts(&record)), (&json!(2), vec![1, 1, 1]), "started once each");
    assert_eq!(drained_by_force(&mut client, before), [false, false, false]);
    wait_for_answers(&mut client, &["agent-1 v2", "agent-2 v2", "agent-3 v2"]);
    for entry in array(&first) {
        assert_eq!(get(number(&entry["port"]) as u16), None, "{entry} was replaced");
    }

    // Blue-green: what has drained is stopped.
    before = number(&record["revision"]);
    client.deploy(KEY, &manifest_of("service", &AGENTS, "huge"), &[&DRAINS[..], &["STRATEGY", "blue-green"]].concat());
    wait_for_success_while_cutting(&mut client);
    wait_until("the old job to stop", || attempts(&client.status(KEY)).len() == 3);
    assert_eq!(drained_by_force(&mut client, before), [false, false, false]);
    wait_for_answers(&mut client, &["agent-1 v3", "agent-2 v3", "agent-3 v3"]);

    // Killed in a drain: its agents have gone with it, and the one that drained is not started again.
    signal(running.process.id(), "STOP");
    client.deploy(KEY, &manifest_of("service", &AGENTS, "small"), &DRAINS);
    let record = client.status(KEY);
    let drains = array(&record["instances"]).iter().find(|instance| instance["role"] == "draining");
    let drains = drains.expect("one agent drains at once");
    let (draining, of) = (string(&drains["agent"]), ["VERSION", "3", "JOB", string(&drains["job_id"])]);
    assert_eq!(int(&client.call(&[&["DEPLOY.REPORT", KEY, draining, "draining"], &of[..]].concat())), 1, "taken up");
    drop(running);
    running = Coordinator::start(coordinator(), &server);
    client.wait_for_status(KEY, "successful");
    let events = client.events_after(KEY, number(&record["revision"]));
    let is_old = |event: &&Json| event["type"] == "agent_state" && event["agent"] == draining && event["version"] == 3;
    let states: Vec<&str> = events.iter().filter(is_old).map(|event| string(&event["state"])).collect();
    assert_eq!(states, ["stopped"]);
    wait_for_answers(&mut client, &["agent-1 v4", "agent-2 v4", "agent-3 v4"]);

    client.call(&["DEPLOY.STOP", KEY]);
    wait_until("everything to stop", || array(&client.status(KEY)["instances"]).is_empty());
    assert!(running.process.try_wait().expect("our own child").is_none(), "it still runs");
}

#[test]
fn python_coordinator_drains_its_agents() {
    drains_its_agents(python);
}

#[test]
fn javascript_coordinator_drains_its_agents() {
    drains_its_agents(node);
}

#[test]
fn rust_coordinator_drains_its_agents() {
    drains_its_agents(rust);
}

/// Beginning of the words about drains in replies, and a text of the same length that no coordinator knows.
const WORD: &[u8] = b"\"drain";
const UNKNOWN: &[u8] = b"\"yodel";

/// Forwards connections to a server, and replaces [`WORD`] in what it replies. Returns the port.
fn rewording_proxy(server: u16) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("its own address").port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
            let (from, to) = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
            std::thread::spawn(move || forward(from, to, |_| 0));
            std::thread::spawn(move || forward(server, client, reword));
        }
    });
    port
}

/// Forwards bytes from one socket to another. `edit` returns how many bytes at the end wait for those that follow.
fn forward(mut from: TcpStream, mut to: TcpStream, edit: fn(&mut [u8]) -> usize) {
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    while let Some(read) = from.read(&mut part).ok().filter(|read| *read > 0) {
        bytes.extend_from_slice(&part[..read]);
        let ready = bytes.len() - edit(&mut bytes);
        if to.write_all(&bytes[..ready]).is_err() {
            break;
        }
        bytes.drain(..ready);
    }
    let _ = from.shutdown(std::net::Shutdown::Both); // fails where the other side was faster
    let _ = to.shutdown(std::net::Shutdown::Both);
}

fn reword(bytes: &mut [u8]) -> usize {
    while let Some(at) = bytes.windows(WORD.len()).position(|word| word == WORD) {
        bytes[at..at + WORD.len()].copy_from_slice(UNKNOWN);
    }
    (1..WORD.len()).rev().find(|length| bytes.ends_with(&WORD[..*length])).unwrap_or(0)
}

/// A task of a kind that it does not know is none of its business: here a drain, which then lasts until its deadline.
fn leaves_unknown_tasks_alone(coordinator: fn() -> Command) {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    let mut running = Coordinator::start_at(coordinator(), &server, rewording_proxy(server.port));
    client.deploy(KEY, &manifest_of("service", &AGENTS, "small"), &QUICK);
    let mut after = number(&client.wait_for_status(KEY, "successful")["revision"]);
    client.deploy(KEY, &manifest_of("service", &AGENTS, "large"), &["MIN_HEALTHY_MS", "50", "DRAIN_MS", "400"]);
    let record = client.wait_for_status(KEY, "successful");
    assert_eq!(attempts(&record), [1, 1, 1]);
    assert_eq!(drained_by_force(&mut client, after), [true, true, true]);

    // Nor are they a reason to start what is gone.
    let drains = ["MIN_HEALTHY_MS", "50", "DRAIN_MS", "2000", "MAX_PARALLEL", "3"];
    signal(running.process.id(), "STOP");
    after = number(&record["revision"]);
    client.deploy(KEY, &manifest_of("service", &AGENTS, "huge"), &drains);
    drop(running);
    running = Coordinator::start_at(coordinator(), &server, rewording_proxy(server.port));
    let record = client.wait_for_status(KEY, "successful");
    assert_eq!(attempts(&record), [1, 1, 1]);
    assert_eq!(drained_by_force(&mut client, after), [true, true, true]);
    let events = client.events_after(KEY, after);
    let of_old = events.iter().filter(|event| event["type"] == "agent_state" && event["version"] == 2);
    assert_eq!(of_old.collect::<Vec<_>>(), Vec::<&Json>::new(), "it says nothing about what drains");
    wait_for_answers(&mut client, &["agent-1 v3", "agent-2 v3", "agent-3 v3"]);
    let said = std::fs::read_to_string(&running.output).expect("its output");
    assert_eq!(said.matches("v2 starting").count(), 3, "{said}");
    assert!(running.process.try_wait().expect("our own child").is_none(), "it still runs");
}

#[test]
fn python_coordinator_leaves_unknown_tasks_alone() {
    leaves_unknown_tasks_alone(python);
}

#[test]
fn javascript_coordinator_leaves_unknown_tasks_alone() {
    leaves_unknown_tasks_alone(node);
}

#[test]
fn rust_coordinator_leaves_unknown_tasks_alone() {
    leaves_unknown_tasks_alone(rust);
}

// ---- the command line -----------------------------------------------------------------------------------------------

/// Behaves as users of a command line expect: usage, and an end where no work is possible.
fn ends_with_a_message_where_it_cannot_work(coordinator: fn() -> Command) {
    let run = |arguments: &[&str]| {
        let output = coordinator().args(arguments).stdin(Stdio::null()).output().expect("a program");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stderr), text(&output.stdout))
    };
    for arguments in [&[][..], &["redis://127.0.0.1/"], &["redis://127.0.0.1/", KEY, "more"]] {
        let (code, errors, _) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {errors}");
        assert!(errors.starts_with("usage: ") && errors.contains("URL KEY"), "{arguments:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    let (code, errors, _) = run(&["nonsense", KEY]);
    assert!([Some(1), Some(2)].contains(&code) && errors.lines().count() == 1, "{code:?}: {errors}");

    // A dead address is tried ten times; nine times it says that it goes on.
    let (code, errors, told) = run(&[&format!("redis://ann:secret@127.0.0.1:{}/", next_port()), KEY]);
    assert_eq!((code, errors.lines().count(), told.lines().count()), (Some(1), 1, 9), "{errors}\n{told}");
    assert!(!errors.contains("secret"), "{errors}");

    // A server that refuses it will not change its mind: a wrong password, a missing right, no module.
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    client.call(&["ACL", "SETUSER", "weak", "on", ">p", "~*", "&*", "+@connection"]);
    for (user, words) in [("weak:wrong", ["auth", "pass"]), ("weak:p", ["deploy.tasks"; 2])] {
        let (code, errors, told) = run(&[&format!("redis://{user}@127.0.0.1:{}/", server.port), KEY]);
        assert_eq!((code, told.lines().count()), (Some(1), 0), "{errors}\n{told}");
        let errors = errors.to_lowercase();
        assert!(words.iter().any(|word| errors.contains(word)), "{errors}");
    }
}

#[test]
fn python_coordinator_ends_with_a_message_where_it_cannot_work() {
    ends_with_a_message_where_it_cannot_work(python);
}

#[test]
fn javascript_coordinator_ends_with_a_message_where_it_cannot_work() {
    ends_with_a_message_where_it_cannot_work(node);
}

#[test]
fn rust_coordinator_ends_with_a_message_where_it_cannot_work() {
    ends_with_a_message_where_it_cannot_work(rust);
}

/// While a coordinator is cut off, its task is withdrawn: it must not act on what it read before.
#[test]
fn late_claim_stops_no_process() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    let first = client.deploy(KEY, &manifest(&AGENTS, "small"), &QUICK);
    client.carry_out_until(KEY, "successful");
    client.deploy(KEY, &manifest(&AGENTS, "large"), &QUICK);
    let task = client.tasks(KEY).remove(0);
    assert_eq!((&task["task"], &task["agent"], &task["attempt"]), (&json!("replace"), &json!("agent-1"), &json!(1)));
    client.call(&["DEPLOY.ROLLBACK", KEY]);
    let late = ["DEPLOY.REPORT", KEY, "agent-1", "starting", "VERSION", "2", "JOB", string(&task["job_id"])];
    assert_eq!(int(&client.call(&[&late[..], &["ATTEMPT", "1"]].concat())), 0);
    // Who stopped the old one before asking says so, and is given it to start by the next version.
    let instance = ["VERSION", "1", "JOB", &first.text("job_id"), "ATTEMPT", "1"];
    assert_eq!(int(&client.call(&[&["DEPLOY.REPORT", KEY, "agent-1", "stopped"], &instance[..]].concat())), 1);
    let record = client.status(KEY);
    let instance = array(&record["instances"]).iter().find(|instance| instance["agent"] == "agent-1").cloned();
    assert_eq!(instance.expect("it is on the record")["state"], "stopped");
}
