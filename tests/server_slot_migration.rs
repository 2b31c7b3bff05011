//! Slots that the server moves by itself, with all their keys and while clients write (Redis 8.4 and later: CLUSTER
//! MIGRATION; Valkey 9: CLUSTER MIGRATESLOTS). Each record is on one node at a time, byte for byte the same; index, LIST,
//! INFO and timers are those of the owner; and a move that is cancelled, or that loses a node, changes nothing.

use serde_json::Value as Json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use test_support::cluster::{id_of, moved_to, slot_of, Cluster};
use test_support::prelude::*;
use test_support::rng::Rng;
use test_support::rollout::Aftermath;

/// No failover unless a test asks for it, however busy the machine is.
const PATIENT_MS: u64 = 15_000;
const EAGER_MS: u64 = 1_500;
/// Keys beside the deployments in the slots that move. With a delay for each, they make a move take as long as needed.
const FILLERS: usize = 100;

/// Runs a test on the servers that move slots by themselves.
fn on_each_mover(test: impl Fn(ServerKind)) {
    on_each_server(|kind| {
        if [ServerKind::Redis86, ServerKind::Valkey91].contains(&kind) {
            test(kind);
        }
    });
}

/// A move of slots from one node to another, as the server tells of it.
struct Move<'c> {
    from: &'c Server,
    to: &'c Server,
    /// On Redis, which has moves started where the keys are to go.
    id: Option<String>,
}

impl<'c> Move<'c> {
    fn start(from: &'c Server, to: &'c Server, slots: &[u16]) -> Move<'c> {
        let ranges: Vec<String> = slots.iter().flat_map(|slot| [slot.to_string(), slot.to_string()]).collect();
        let ranges: Vec<&str> = ranges.iter().map(String::as_str).collect();
        let id = if from.kind == ServerKind::Redis86 {
            // Refused while keys of the slots are deleted from an earlier move.
            let words = [&["CLUSTER", "MIGRATION", "IMPORT"][..], &ranges].concat();
            Some(text(&wait_for("an import to be taken", || to.client().try_call(&words).ok())))
        } else {
            let target = id_of(to);
            let words = [&["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE"], &ranges[..], &["NODE", &target]].concat();
            wait_for("an export to be taken", || from.client().try_call(&words).ok());
            None
        };
        Move { from, to, id }
    }

    /// Returns how the move stands: `completed`, `canceled`, `failed`, or a word for what it does.
    fn state(&self) -> String {
        let jobs = match &self.id {
            Some(id) => self.to.client().call(&["CLUSTER", "MIGRATION", "STATUS", "ID", id]),
            None => self.from.client().call(&["CLUSTER", "GETSLOTMIGRATIONS"]),
        };
        // The newest comes first.
        let state = items(&jobs).first().map(|job| Fields::of(job).text("state")).unwrap_or_default();
        match state.as_str() {
            "success" => "completed".to_string(),
            "cancelled" => "canceled".to_string(),
            _ => state,
        }
    }

    fn cancel(&self) {
        match &self.id {
            Some(id) => self.to.client().call(&["CLUSTER", "MIGRATION", "CANCEL", "ID", id]),
            None => self.from.client().call(&["CLUSTER", "CANCELSLOTMIGRATIONS"]),
        };
        wait_until("the move to be cancelled", || self.state() == "canceled");
    }

    fn wait_until_completed(&self) {
        wait_until("the slots to have moved", || {
            let state = self.state();
            assert!(!["failed", "canceled"].contains(&state.as_str()), "{state}");
            state == "completed"
        });
    }
}

/// A cluster with deployments in slots of its first node, and with other keys in the same slots.
struct Setting {
    cluster: Cluster,
    keys: Vec<String>,
    slots: Vec<u16>,
}

impl Setting {
    fn start(kind: ServerKind, node_timeout_ms: u64) -> Setting {
        let cluster = Cluster::start(kind, 3, node_timeout_ms, &["--deploy.events-max", "5000"]);
        let keys: Vec<String> = cluster.keys(18).into_iter().step_by(3).collect();
        let mut client = cluster.nodes[0].client();
        let slots = keys.iter().map(|key| slot_of(&mut client, key)).collect();
        for key in &keys {
            for n in 0..FILLERS / keys.len() {
                client.call(&["SET", &format!("filler-{n}-{{{key}}}"), "x"]);
            }
        }
        Setting { cluster, keys, slots }
    }

    /// Begins a rollout of each key, with verdicts that fall due at different times.
    fn deploy_all(&self, label: &str) {
        for (n, key) in self.keys.iter().enumerate() {
            let ms = (20 + 60 * n).to_string();
            let mut client = self.cluster.client_of(key);
            client.deploy(key, &manifest(&AGENTS, label), &["MIN_HEALTHY_MS", &ms, "MAX_PARALLEL", "2"]);
            client.carry_out_tasks(key);
        }
    }

    /// Acts as coordinator of all keys, as far as somebody serves them.
    fn coordinate(&self) {
        for key in &self.keys {
            coordinate(&mut self.cluster.client_of(key), key);
        }
    }

    /// Every record is on one primary and its replica, equal on both, and LIST, INFO and timers of each node tell of its
    /// own records alone.
    fn assert_each_once(&self, home: &Server) {
        for key in &self.keys {
            self.cluster.client_of(key).carry_out_until(key, "successful");
        }
        let counted = |client: &mut Client| -> u64 {
            let statuses = ["running", "awaiting_promotion", "paused", "successful", "failed", "cancelled"];
            statuses.iter().map(|s| info_number(client, &format!("deploy_deployments_{s}"))).sum()
        };
        for primary in self.cluster.primaries() {
            let own: &[String] = if primary.port == home.port { &self.keys } else { &[] };
            let mut sorted = own.to_vec();
            sorted.sort();
            let replica = self.cluster.replica_of(primary);
            for node in [primary, replica] {
                let mut client = node.client();
                client.call(&["READONLY"]);
                let what = format!("the node on port {} ({})", node.port, client.info("replication", "role"));
                wait_until(&format!("{what} to list its own"), || client.listed() == sorted);
                assert_eq!(counted(&mut client), own.len() as u64, "{what}");
                assert_eq!(client.info("deploy", "deploy_timers_armed"), "0", "{what}");
                wait_until(&format!("{what} to hold its own"), || {
                    self.slots.iter().all(|slot| {
                        let held = client.call(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]);
                        (int(&held) > 0) == (primary.port == home.port)
                    })
                });
            }
            replica.catch_up_with(primary);
            let (mut ours, mut theirs) = (primary.client(), replica.client());
            theirs.call(&["READONLY"]);
            for key in own {
                wait_until("the replica to read for its primary", || theirs.try_call(&["DUMP", key]).is_ok());
                assert_eq!(theirs.call(&["DUMP", key]), ours.call(&["DUMP", key]), "{key}");
                let digest = ["DEBUG", "DIGEST-VALUE", key];
                assert_eq!(theirs.call(&digest), ours.call(&digest), "{key}");
            }
        }
    }
}

fn info_number(client: &mut Client, field: &str) -> u64 {
    client.info("deploy", field).parse().unwrap_or_else(|_| panic!("no {field}"))
}

/// Reports the open tasks of a key. Its slot may go at any moment, and so may its node.
fn coordinate(client: &mut Client, key: &str) {
    let mut ask = |words: &[&str]| match client.try_call(words) {
        Ok(reply) => Some(reply),
        Err(line) => {
            let passes = ["MOVED ", "TRYAGAIN ", "CLUSTERDOWN ", "(no reply)"];
            assert!(passes.iter().any(|start| line.starts_with(start)), "{line}");
            None
        }
    };
    let tasks = ask(&["DEPLOY.TASKS", key, "JSON"]).map_or("[]".to_string(), |reply| text(&reply));
    for task in array(&serde_json::from_str(&tasks).expect("JSON")) {
        ask(&["DEPLOY.REPORT", key, string(&task["agent"]), "ready"]);
    }
}

/// Has the source take its time over each key that it copies.
fn set_delay(node: &Server, micros: u64) {
    node.client().call(&["CONFIG", "SET", "rdb-key-save-delay", &micros.to_string()]);
}

/// Nothing of slots that are still on their way is to be seen where they go.
fn assert_nothing_arrived(to: &Server) {
    let mut client = to.client();
    assert_eq!(client.listed(), Vec::<String>::new());
    assert_eq!(client.info("deploy", "deploy_timers_armed"), "0");
    assert_eq!(client.info("deploy", "deploy_deployments_running"), "0");
}

#[test]
fn slots_move_back_and_forth_under_load_and_cancelled_moves_change_nothing() {
    on_each_mover(|kind| {
        let setting = Setting::start(kind, PATIENT_MS);
        let cluster = &setting.cluster;
        let mut homes = [&cluster.nodes[0], &cluster.nodes[1]];
        let heard = Subscriber::start(&cluster.nodes[2], "deploy:events:*");
        let mut still = homes[0].client();
        let still_key = format!("still-{{{}}}", setting.keys[0]);
        let record = still.begin_rollout(&still_key, 200_000);
        let dump = still.call(&["DUMP", &still_key]);
        let (mut moves, mut cancelled) = (0, 0);
        for round in 0..if is_long_run() { 30 } else { 4 } {
            let [from, to] = homes;
            setting.deploy_all(&format!("model-{round}"));
            // In every other round a first try is given up in the middle, while verdicts fall due.
            if round % 2 == 0 {
                set_delay(from, 20_000);
                let half = Move::start(from, to, &setting.slots);
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(300) {
                    setting.coordinate();
                    assert_nothing_arrived(to);
                }
                half.cancel();
                set_delay(from, 0);
                assert_nothing_arrived(to);
                assert_eq!(from.client().call(&["DUMP", &still_key]), dump);
                cancelled += 1;
            }
            let whole = Move::start(from, to, &setting.slots);
            let is_over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        setting.coordinate();
                    }
                });
                whole.wait_until_completed();
                is_over.store(true, Ordering::Relaxed);
            });
            cluster.wait_until_known(to);
            moves += 1;
            assert_eq!(to.client().status(&still_key), record);
            assert_eq!(to.client().call(&["DUMP", &still_key]), dump);
            // One timer runs, of the record in which nothing is due: on its owner.
            wait_until("the source to have no timer", || from.client().info("deploy", "deploy_timers_armed") == "0");
            assert!(info_number(&mut to.client(), "deploy_timers_armed") >= 1);
            homes.reverse();
        }
        let mut logged = cluster.client_of(&still_key).log_without_repetition(&still_key);
        homes[0].client().call(&["DEL", &still_key]);
        setting.assert_each_once(homes[0]);
        eprintln!("{}: {moves} moves completed, {cancelled} cancelled", kind.name());

        // Every event was published once, by whoever served the key then. The cluster's bus may lose a message, and
        // adds none.
        let mut published = 0;
        for primary in cluster.primaries() {
            heard.events_until_now(&mut primary.client(), "deploy:events:mark");
            published += info_number(&mut primary.client(), "deploy_events_published");
        }
        logged.extend(setting.keys.iter().flat_map(|key| cluster.client_of(key).log_without_repetition(key)));
        assert_eq!(published, logged.len() as u64);
        let mut heard: Vec<Json> = heard.events().into_iter().filter(|event| event.get("mark").is_none()).collect();
        for event in &logged {
            if let Some(position) = heard.iter().position(|other| other == event) {
                heard.remove(position);
            }
        }
        assert_eq!(heard, Vec::<Json>::new(), "heard twice, or of no log");
    });
}

/// The index follows although the server deletes keys slot by slot, and without a word to modules about each key. With
/// clients that track keys it deletes them one by one.
#[test]
fn index_follows_both_ways_of_deleting_moved_keys() {
    on_each_mover(|kind| {
        let setting = Setting::start(kind, PATIENT_MS);
        let [first, second, ..] = setting.cluster.nodes.as_slice() else { panic!("three primaries") };
        let mut sides = [first, second];
        for is_tracked in [false, true] {
            let [from, to] = sides;
            for key in &setting.keys {
                from.client().begin_rollout(key, 200_000);
            }
            let mut tracking = from.client_resp3();
            if is_tracked {
                tracking.call(&["CLIENT", "TRACKING", "ON"]);
            }
            let running = info_number(&mut from.client(), "deploy_deployments_running");
            assert_eq!(running, setting.keys.len() as u64);
            Move::start(from, to, &setting.slots).wait_until_completed();
            // INFO before LIST, which would itself drop what it does not find.
            wait_until("INFO of the source to follow", || {
                let mut client = from.client();
                let fields = ["deployments_running", "deployments_successful", "timers_armed", "tasks_outstanding"];
                fields.iter().all(|field| client.info("deploy", &format!("deploy_{field}")) == "0")
            });
            assert_eq!(from.client().listed(), Vec::<String>::new());
            setting.cluster.wait_until_known(to);
            sides.reverse();
        }
        for key in &setting.keys {
            sides[0].client().deploy(key, &manifest(&AGENTS, "quick"), &QUICK);
        }
        setting.assert_each_once(sides[0]);
    });
}

/// Drains and bakes end once and at their time, whether it comes while their slots move or after.
#[test]
fn drains_and_bakes_end_once_while_their_slots_move_and_after() {
    on_each_mover(|kind| {
        let setting = Setting::start(kind, PATIENT_MS);
        let [from, to, ..] = setting.cluster.nodes.as_slice() else { panic!("three primaries") };
        let (mut source, mut target) = (from.client(), to.client());
        set_delay(from, 5_000);
        let begin = |(n, key): (usize, &String)| {
            let aftermath = Aftermath::ALL[n % 2];
            let ms = if n < 4 { 300 + 150 * n as u64 } else { 6_000 };
            (aftermath, key.clone(), aftermath.begin(&mut from.client(), key, ms))
        };
        let begun: Vec<_> = setting.keys.iter().enumerate().map(begin).collect();
        Move::start(from, to, &setting.slots).wait_until_completed();
        setting.cluster.wait_until_known(to);
        let fired_by_source = info_number(&mut source, "deploy_timers_fired");
        for (_, key, record) in &begun[4..] {
            let moved = target.status(key);
            if skip_if_past(Aftermath::due(record)) {
                return;
            }
            assert_eq!(moved, *record);
        }
        for (aftermath, key, record) in &begun {
            aftermath.assert_ends_once(&mut target, key, Aftermath::due(record));
        }
        assert_eq!(info_number(&mut source, "deploy_timers_fired"), fired_by_source);
        setting.assert_each_once(to);
    });
}

/// The clients of a key that moves away are told so, and never that the key does not exist.
#[test]
fn waiting_clients_are_told_that_the_slot_has_moved() {
    on_each_mover(|kind| {
        let setting = Setting::start(kind, PATIENT_MS);
        let [from, to, ..] = setting.cluster.nodes.as_slice() else { panic!("three primaries") };
        let key = setting.keys[0].as_str();
        let record = from.client().begin_rollout(key, 200_000);
        let revision = record["revision"].to_string();
        let waits =
            [vec!["DEPLOY.WAIT", key, "TIMEOUT", "0"], vec!["DEPLOY.EVENTS", key, "AFTER", &revision, "BLOCK", "0"]];
        let told: Vec<String> = std::thread::scope(|scope| {
            let waiting: Vec<_> = waits
                .iter()
                .map(|words| {
                    let mut client = from.client();
                    scope.spawn(move || client.try_call(words).expect_err("it cannot know"))
                })
                .collect();
            let blocked = || from.client().info("clients", "blocked_clients") == "2";
            wait_until("two clients that wait", blocked);
            Move::start(from, to, &setting.slots).wait_until_completed();
            waiting.into_iter().map(|wait| wait.join().expect("a waiter")).collect()
        });
        for line in told {
            assert!(line.starts_with("UNBLOCKED ") || moved_to(&line) == Some(to.port), "{line}");
        }
        // A cluster client asks again, and is sent on.
        assert_eq!(moved_to(&from.client().refused(&["DEPLOY.WAIT", key, "TIMEOUT", "10"])), Some(to.port));
        setting.cluster.client_of(key).carry_out_tasks(key);
    });
}

/// A node that is killed in the middle: the slots end on one side, whole.
#[test]
fn moves_that_lose_a_node_leave_each_record_once() {
    on_each_mover(|kind| {
        let mut rng = Rng::seeded(unix_ms());
        for round in 0..if is_long_run() { 6 } else { 2 } {
            let mut setting = Setting::start(kind, EAGER_MS);
            setting.deploy_all("before");
            for key in &setting.keys {
                setting.cluster.client_of(key).carry_out_until(key, "successful");
            }
            setting.deploy_all("after");
            let logs: Vec<Vec<Json>> =
                setting.keys.iter().map(|key| setting.cluster.client_of(key).log_without_repetition(key)).collect();
            for primary in setting.cluster.primaries() {
                setting.cluster.replica_of(primary).catch_up_with(primary);
            }
            set_delay(&setting.cluster.nodes[0], 10_000);
            let killed = round % 2;
            let [from, to, ..] = setting.cluster.nodes.as_slice() else { panic!("three primaries") };
            drop(Move::start(from, to, &setting.slots));
            // A fault at a random moment: before, during and after the copy.
            std::thread::sleep(Duration::from_millis(rng.between(0, 1_500)));
            setting.cluster.nodes[killed].kill();
            let replica = setting.cluster.nodes[3 + killed].port;
            wait_until("the replica to be promoted", || {
                setting.cluster.primaries().iter().any(|primary| primary.port == replica)
            });
            setting.cluster.nodes[killed].start_again();
            set_delay(&setting.cluster.nodes[0], 0);
            setting.cluster.wait_until_stable();
            if kind == ServerKind::Redis86 {
                // It would try again, and again, until an operator cancels it.
                for node in &setting.cluster.nodes {
                    node.client().call(&["CLUSTER", "MIGRATION", "CANCEL", "ALL"]);
                }
            }
            let home = wait_for("one owner of all: all slots moved, or none", || {
                let homes: Vec<u16> = setting.keys.iter().map(|key| owner(&setting.cluster, key)).collect();
                let home = setting.cluster.nodes.iter().find(|node| node.port == homes[0]);
                home.filter(|home| homes.iter().all(|port| *port == home.port))
            });
            setting.assert_each_once(home);
            for (key, before) in setting.keys.iter().zip(&logs) {
                let log = setting.cluster.client_of(key).log_without_repetition(key);
                assert_eq!(log[..before.len()], before[..], "{key}: what was on the replicas has survived");
            }
        }
    });
}

/// Returns the port of the one primary that serves a key.
fn owner(cluster: &Cluster, key: &str) -> u16 {
    wait_for("one owner", || {
        let owners: Vec<u16> = cluster
            .primaries()
            .iter()
            .filter(|primary| primary.client().try_call(&["EXISTS", key]).is_ok())
            .map(|primary| primary.port)
            .collect();
        (owners.len() == 1).then(|| owners[0])
    })
}
