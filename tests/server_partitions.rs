//! Partitions: a primary that is cut off from its replicas and from the sentinels, with clients on both sides.
//!
//! With the fence of the documentation (`min-replicas-to-write`, `min-replicas-max-lag`) the cut-off primary acknowledges
//! and decides nothing any more once the lag has passed. What it acknowledged before is lost with it, and WAIT says so;
//! what survives is one consistent history, and a coordinator that heard the other one ends as it says.

use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::client::connect_unix;
use test_support::network::Network;
use test_support::prelude::*;
use test_support::processes::{example, App, Coordinator, Host};

const MAX_LAG_S: u64 = 3;
/// A replica's lag is known in whole seconds, and looked at once a second, as often as replicas answer.
const FENCE_MS: u64 = MAX_LAG_S * 1_000 + 2_000;
/// For a busy machine.
const SLACK_MS: u64 = 1_000;
const PORT: u16 = 6379;
const APP: &str = "app";
const REPLICAS: i64 = 2;
/// Rollouts whose verdicts fall due one after the other, before, while and after the primary is cut off. In the short
/// variant the last is due some time after the fence.
const DUE: u64 = 200;
const DUE_IF_SHORT: u64 = 110;
const DUE_EVERY_MS: u64 = 75;
/// Deploys of each side, at most.
const MAX_DEPLOYS: usize = 4_000;
/// The timeout of WAIT: replicas answer at once, or not at all.
const WAIT_MS: &str = "200";

/// A server or sentinel on a host of a network. It is killed when this is dropped.
struct Node {
    child: Child,
    folder: PathBuf,
    address: String,
}

impl Node {
    fn start(network: &Network, host: usize, kind: ServerKind, fence: bool) -> Node {
        let mut args: Vec<String> = vec![];
        if fence {
            let lag = MAX_LAG_S.to_string();
            args.extend(["--min-replicas-to-write", "1", "--min-replicas-max-lag", &lag].map(str::to_string));
        }
        let debug = ["--enable-debug-command", "yes"];
        args.extend(debug.map(str::to_string));
        args.extend(["--repl-diskless-sync-delay", "0", "--save", "", "--loadmodule"].map(str::to_string));
        args.push(module_path().display().to_string());
        Node::spawn(network, host, kind, PORT, &[], &args)
    }

    fn sentinel(network: &Network, host: usize, kind: ServerKind) -> Node {
        let monitored = format!("sentinel monitor deploy {} {PORT} 2", network.address(0));
        let config =
            [&monitored, "sentinel down-after-milliseconds deploy 1500", "sentinel failover-timeout deploy 10000"];
        let sentinel = Node::spawn(network, host, kind, PORT + 20_000, &config, &["--sentinel".to_string()]);
        if !is_long_run() {
            // It meets the others sooner, and sooner tells a primary that comes back that it is none any more.
            let periods = ["publish-period", "500", "info-period", "1000", "min-link-reconnect-period", "1000"];
            sentinel.client().call(&[&["SENTINEL", "DEBUG"], &periods[..]].concat());
        }
        sentinel
    }

    fn spawn(network: &Network, host: usize, kind: ServerKind, port: u16, config: &[&str], args: &[String]) -> Node {
        let (folder, address) = (new_folder(), network.address(host));
        let common = [
            format!("port {port}\nbind {address}\nprotected-mode no\ndir {}", folder.display()),
            format!("logfile server.log\nunixsocket {}", folder.join("socket").display()),
        ];
        let file = folder.join("server.conf");
        std::fs::write(&file, [&common.join("\n"), &config.join("\n"), ""].join("\n")).expect("a file");
        let binary = kind.binary().expect("a server that is tested");
        let mut command = network.command(host, &binary);
        command.arg(&file).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let node = Node { child: command.spawn().expect("a server"), folder, address };
        wait_until("the server to answer", || {
            node.try_client().is_some_and(|mut client| client.try_call(&["PING"]).is_ok())
        });
        node
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    fn try_client(&self) -> Option<Client> {
        connect_unix(&self.socket())
    }

    fn client(&self) -> Client {
        wait_for("a connection", || self.try_client())
    }

    /// Empty where no answer can be had: Sentinel cuts off all clients of a server that it gives another role.
    fn replication(&self, field: &str) -> String {
        self.try_client().map(|mut client| client.info("replication", field)).unwrap_or_default()
    }

    fn is_primary(&self) -> bool {
        self.replication("role") == "master"
    }

    /// A field of what a sentinel knows about the primary.
    fn knows(&self, field: &str) -> String {
        let answer = self.try_client().and_then(|mut client| client.try_call(&["SENTINEL", "MASTER", "deploy"]).ok());
        answer.map(|fields| Fields::of(&fields).text(field)).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("-- log of {}:", self.address);
            tail.iter().rev().for_each(|line| eprintln!("   {line}"));
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Hears every event of one server, on a new connection whenever the last one was cut off.
struct Listener {
    /// Each event with the number of its connection.
    heard: Arc<Mutex<Vec<(usize, Json)>>>,
    is_over: Arc<AtomicBool>,
}

impl Listener {
    fn start(socket: PathBuf) -> Listener {
        let (heard, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (is_ready, ready) = std::sync::mpsc::channel();
        let (into, over) = (heard.clone(), is_over.clone());
        std::thread::spawn(move || {
            for connection in 0.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let _ = listen(&socket, connection, &into, &is_ready);
                std::thread::sleep(Duration::from_millis(5)); // between two attempts to connect
            }
        });
        ready.recv().expect("a subscription");
        Listener { heard, is_over }
    }

    fn heard(&self) -> Vec<(usize, Json)> {
        self.heard.lock().expect("no holder panics").clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn listen(
    socket: &Path,
    connection: usize,
    into: &Mutex<Vec<(usize, Json)>>,
    is_ready: &std::sync::mpsc::Sender<()>,
) -> redis::RedisResult<()> {
    let mut client = redis::Client::open(format!("redis+unix://{}", socket.display()))?.get_connection()?;
    let mut pubsub = client.as_pubsub();
    pubsub.psubscribe("deploy:events:*")?;
    let _ = is_ready.send(());
    loop {
        let payload: String = pubsub.get_message()?.get_payload()?;
        let event = serde_json::from_str(&payload).expect("an event is JSON");
        into.lock().expect("no holder panics").push((connection, event));
    }
}

/// A deploy that a server acknowledged.
struct Acknowledged {
    key: String,
    began: u64,
    at: u64,
    /// The reply of WAIT, the number of replicas that have it. None where it was not asked, or cut off.
    replicas: Option<i64>,
}

/// Deploys new keys on one side until it is told to stop, and after each asks WAIT for a number of replicas, if that is
/// not 0. Returns those that were acknowledged.
fn write_until(node: &Node, prefix: &str, replicas: i64, is_over: &AtomicBool) -> Vec<Acknowledged> {
    let mut acknowledged = Vec::new();
    let mut client = None;
    for n in 0..MAX_DEPLOYS {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{prefix}-{n}");
        let words = ["DEPLOY.DEPLOY", &key, "MANIFEST", &manifest(&["a"], "small")];
        let connected = client.take().or_else(|| node.try_client());
        if let Some(mut connected) = connected {
            let began = unix_ms();
            if may_be_cut_off(connected.try_call(&words)).is_some() {
                let at = unix_ms();
                let wait = ["WAIT", &replicas.to_string(), WAIT_MS];
                let counted = (replicas > 0).then(|| may_be_cut_off(connected.try_call(&wait))).flatten();
                acknowledged.push(Acknowledged { key, began, at, replicas: counted.map(|reply| int(&reply)) });
            }
            client = (!is_closed(&mut connected)).then_some(connected);
        }
        std::thread::sleep(Duration::from_millis(10)); // a load, not a wait: a hundred deploys a second
    }
    acknowledged
}

/// Returns the reply; None for one of the errors that come with a cut.
fn may_be_cut_off(reply: Result<redis::Value, String>) -> Option<redis::Value> {
    reply
        .inspect_err(|line| {
            let wait_on_replica = line.contains("WAIT cannot be used with replica instances");
            let expected = ["NOREPLICAS", "READONLY", "UNBLOCKED", "LOADING", "MASTERDOWN", "(no reply)"];
            assert!(wait_on_replica || expected.iter().any(|code| line.starts_with(code)), "{line}");
        })
        .ok()
}

fn is_closed(client: &mut Client) -> bool {
    client.try_call(&["PING"]).is_err_and(|line| line.starts_with("(no reply)"))
}

/// Three servers, three sentinels, and what clients saw of one cut.
struct Cut {
    /// The time at which the primary was cut off.
    at: u64,
    acknowledged: Vec<Acknowledged>,
    acknowledged_elsewhere: Vec<Acknowledged>,
    /// The events that each host heard; `promoted` is the index of the new primary.
    heard: [Vec<(usize, Json)>; 3],
    promoted: usize,
    log_of_each: BTreeMap<String, Vec<Json>>,
}

impl Cut {
    /// The times at which the cut-off side last acknowledged a deploy, and last gave a verdict, in ms from the cut.
    fn last_ms(&self) -> (u64, u64) {
        let acknowledged = self.acknowledged.iter().map(|deploy| deploy.at).max().unwrap_or(0);
        // What it decided later, as one of the survivors' replicas, is theirs, and in their log.
        let own = self.heard[0].iter().map(|(_, event)| event).filter(|event| {
            let log = self.log_of_each.get(string(&event["key"]));
            event["type"] == "agent_healthy" && !log.is_some_and(|log| log.contains(event))
        });
        let decided = own.map(|event| number(&event["at"])).max().unwrap_or(0);
        (acknowledged.saturating_sub(self.at), decided.saturating_sub(self.at))
    }

    fn lost(&self) -> usize {
        self.acknowledged.iter().filter(|deploy| !self.survived(deploy)).count()
    }

    fn survived(&self, deploy: &Acknowledged) -> bool {
        self.log_of_each.contains_key(&deploy.key)
    }

    /// Asserts what the documentation says of WAIT. All replicas: it survives, whichever of them is promoted. None: it may be lost.
    /// One of two is no promise on the side that is cut off, as the other one may be promoted.
    fn assert_wait_tells_what_survives(&self) {
        let (before, after): (Vec<_>, Vec<_>) = self.acknowledged.iter().partition(|deploy| deploy.began <= self.at);
        let all: Vec<_> = before.iter().filter(|deploy| deploy.replicas == Some(REPLICAS)).collect();
        assert!(!all.is_empty(), "before the cut WAIT counts all replicas");
        for deploy in all {
            assert!(self.survived(deploy), "{} was on all replicas", deploy.key);
        }
        let told: Vec<_> = after.iter().filter_map(|deploy| Some((&deploy.key, deploy.replicas?))).collect();
        assert!(!told.is_empty(), "some are acknowledged after the cut");
        assert!(told.iter().all(|(_, replicas)| *replicas == 0), "nobody has what comes after the cut: {told:?}");

        let has_replica = |deploy: &&Acknowledged| deploy.replicas.is_some_and(|replicas| replicas > 0);
        let elsewhere: Vec<_> = self.acknowledged_elsewhere.iter().filter(has_replica).collect();
        assert!(!elsewhere.is_empty(), "the new primary has a replica");
        for deploy in elsewhere {
            assert!(self.survived(deploy), "{} was on a replica of the new primary", deploy.key);
        }
    }

    /// One consistent history: each log is whole, and whatever was said about one revision of it, once or twice, is the
    /// same. Only what the old primary had decided before the cut may have reached one replica and not the other.
    fn assert_one_history(&self) {
        for deploy in &self.acknowledged_elsewhere {
            assert!(self.survived(deploy), "{} was acknowledged by the new primary", deploy.key);
        }
        for Acknowledged { key, at, .. } in self.acknowledged.iter().filter(|deploy| deploy.at + 500 < self.at) {
            assert!(self.log_of_each.contains_key(key), "{key} was acknowledged {} ms before the cut", self.at - at);
        }
        for (host, events) in self.heard.iter().enumerate().skip(1) {
            for (_, event) in events {
                if host != self.promoted && number(&event["at"]) <= self.at {
                    continue;
                }
                let log = self.log_of_each.get(string(&event["key"]));
                let log = log.unwrap_or_else(|| panic!("heard on host {host}, of no key: {event}"));
                assert_eq!(Some(event), log.get(number(&event["revision"]) as usize - 1), "heard on host {host}");
            }
        }
        let twice = |events: &[(usize, Json)]| {
            let mut counts: BTreeMap<(usize, String), usize> = BTreeMap::new();
            for (connection, event) in events {
                let of_event = (*connection, format!("{} {}", event["key"], event["revision"]));
                *counts.entry(of_event).or_default() += 1;
            }
            counts.values().filter(|count| **count > 1).count()
        };
        eprintln!("   heard twice on one connection: {:?}", self.heard.each_ref().map(|events| twice(events)));
    }
}

/// Cuts the primary off, waits until the others have another one, and for the cut-off side to be fenced; then joins it
/// again, and waits until it follows.
fn cut_once(network: &Network, kind: ServerKind, fence: bool) -> Cut {
    let nodes: [Node; 3] = std::array::from_fn(|host| Node::start(network, host, kind, fence));
    for node in &nodes[1..] {
        node.client().call(&["REPLICAOF", &nodes[0].address, &PORT.to_string()]);
        wait_until("a replica to be in sync", || node.replication("master_link_status") == "up");
    }
    let sentinels: [Node; 3] = std::array::from_fn(|host| Node::sentinel(network, host, kind));
    for sentinel in &sentinels {
        wait_until("a sentinel to know everybody", || {
            sentinel.knows("num-slaves") == "2" && sentinel.knows("num-other-sentinels") == "2"
        });
    }
    let caught_up = |primary: &Node, others: &[&Node]| {
        wait_until("the replicas to catch up", || {
            let offset = primary.replication("master_repl_offset");
            others.iter().all(|node| {
                node.replication("master_link_status") == "up" && node.replication("slave_repl_offset") == offset
            })
        });
    };
    if fence {
        wait_until("replicas that answer", || nodes[0].replication("min_slaves_good_slaves") == "2");
    }
    let listeners = nodes.each_ref().map(|node| Listener::start(node.socket()));

    // A coordinator with real agents on the host of the primary, and rollouts with verdicts to come.
    let host = Host::new();
    let urls: Vec<String> = nodes.iter().map(|node| format!("redis://{}:{PORT}/", node.address)).collect();
    let program = network.command(0, &example("coordinator"));
    let coordinator = Coordinator::start_by(program, &host, "coordinator", &urls, &[APP]);
    let app = App::new(&host, &["web-1", "web-2"], "good");
    let quick = ["MIN_HEALTHY_MS", "100", "MAX_PARALLEL", "2"];
    let mut client = nodes[0].client();
    client.deploy(APP, &app.manifest("first"), &quick);
    client.wait_for_status(APP, "successful");
    let due = if is_long_run() { DUE } else { DUE_IF_SHORT };
    for n in 0..due {
        let key = format!("due-{n}");
        client.deploy(&key, &manifest(&["a"], "small"), &["MIN_HEALTHY_MS", &(1_000 + n * DUE_EVERY_MS).to_string()]);
        client.report(&key, "a", "ready");
    }
    caught_up(&nodes[0], &[&nodes[1], &nodes[2]]);

    let (left_over, right_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let (at, new, acknowledged, acknowledged_elsewhere) = std::thread::scope(|scope| {
        let left = scope.spawn(|| write_until(&nodes[0], "left", 0, &left_over));
        let careful_left = scope.spawn(|| write_until(&nodes[0], "careful-left", REPLICAS, &left_over));
        wait_until("writes before the cut", || client.listed().iter().any(|key| key == "left-100"));
        network.cut(0);
        let at = unix_ms();
        // Acknowledged within the lag, and taken up by the coordinator: a version that will never have been.
        client.deploy(APP, &app.manifest("discarded"), &quick);
        let labels = || -> Vec<Option<String>> {
            host.agents().into_values().flatten().map(|agent| agent.variable("LABEL")).collect()
        };
        wait_until("the coordinator to begin the version", || labels().contains(&Some("discarded".to_string())));
        let new = wait_for("a new primary", || (1..3).find(|host| nodes[*host].is_primary()));
        let promoted = &nodes[new];
        let right = scope.spawn(|| write_until(promoted, "right", 0, &right_over));
        let careful_right = scope.spawn(|| write_until(promoted, "careful-right", 1, &right_over));
        wait_for("the new primary to have a replica that answers", || {
            promoted.client().try_call(&["SET", "marker", "x"]).ok()
        });
        promoted.client().deploy(APP, &app.manifest("survivor"), &quick);
        // For as long as anything may be acknowledged; it stays fenced until it is told.
        wait_past(at + FENCE_MS + SLACK_MS + if is_long_run() { 2_000 } else { 0 });
        network.join(0);
        wait_until("the old primary to be told", || !nodes[0].is_primary());
        left_over.store(true, Ordering::Relaxed);
        right_over.store(true, Ordering::Relaxed);
        let both = [[left, careful_left], [right, careful_right]];
        let [left, right] = both.map(|side| side.map(|writer| writer.join().expect("a writer")).into_iter().flatten());
        (at, new, left.collect(), right.collect())
    });
    let promoted = &nodes[new];

    // The coordinator ends where the survivors are.
    let mut client = promoted.client();
    let record = client.wait_for_status(APP, "successful");
    wait_until("the coordinator to have done its tasks", || client.tasks(APP).is_empty());
    wait_until("the agents of the version that survived", || {
        let agents = host.agents();
        agents.len() == 2 && agents.values().flatten().all(|a| a.variable("LABEL").as_deref() == Some("survivor"))
    });
    host.assert_runs(&record);
    host.assert_nothing_ran_twice();
    drop(coordinator);
    for n in 0..due {
        client.wait_for_status(&format!("due-{n}"), "successful");
    }

    client.call(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    let others: Vec<&Node> = nodes.iter().filter(|node| node.address != promoted.address).collect();
    caught_up(promoted, &others);
    let keys = client.listed();
    for node in &others {
        let mut theirs = node.client();
        assert_eq!(theirs.listed(), keys);
        assert_eq!(theirs.call(&["DEBUG", "DIGEST"]), client.call(&["DEBUG", "DIGEST"]));
    }
    let log_of_each = keys.into_iter().map(|key| (key.clone(), client.log_without_repetition(&key))).collect();
    let heard = listeners.each_ref().map(Listener::heard);
    Cut { at, acknowledged, acknowledged_elsewhere, heard, promoted: new, log_of_each }
}

/// Returns the network; None, and recorded as skipped, where this machine does not let us make one.
fn network(test: &str) -> Option<Network> {
    match Network::new(3) {
        Ok(network) => Some(network),
        Err(reason) => {
            skip(test, &format!("no network namespaces: {reason}"));
            None
        }
    }
}

/// One cut; on each server in the long variant. Its times are those of real servers that miss each other.
#[test]
fn fenced_primary_that_is_cut_off_stops_and_one_history_survives() {
    for kind in if is_long_run() { ServerKind::available() } else { vec![ServerKind::Redis70] } {
        let Some(network) = network("fenced_primary_that_is_cut_off_stops_and_one_history_survives") else { return };
        let cut = cut_once(&network, kind, true);
        let (acknowledged, decided) = cut.last_ms();
        eprintln!(
            "{}: of {} deploys on the cut-off side {} are lost; the last was acknowledged {acknowledged} ms after the \
             cut, and the last verdict given {decided} ms after it",
            kind.name(),
            cut.acknowledged.len(),
            cut.lost()
        );
        cut.assert_one_history();
        cut.assert_wait_tells_what_survives();
        let bound = FENCE_MS + SLACK_MS;
        assert!(acknowledged <= bound, "a deploy was acknowledged {acknowledged} ms after the cut");
        assert!(decided <= bound, "a verdict was given {decided} ms after the cut");
    }
}

/// Documented of the fence: without it the cut-off side goes on until it is joined again.
#[test]
fn primary_without_a_fence_goes_on_when_cut_off() {
    if !is_long_run() {
        return;
    }
    let Some(network) = network("primary_without_a_fence_goes_on_when_cut_off") else { return };
    let kind = ServerKind::Redis70;
    let cut = cut_once(&network, kind, false);
    let (acknowledged, decided) = cut.last_ms();
    eprintln!("{}: {} deploys lost without a fence, {acknowledged} ms, {decided} ms", kind.name(), cut.lost());
    cut.assert_one_history();
    cut.assert_wait_tells_what_survives();
    assert!(acknowledged > FENCE_MS + SLACK_MS && decided > FENCE_MS + SLACK_MS);
}
