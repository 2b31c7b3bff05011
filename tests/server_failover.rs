//! Failover: a replica equals its primary byte for byte and decides nothing, however long it is disconnected.
//! Promoted by hand, by FAILOVER or by Sentinel, it continues under the same deadlines, and the old primary becomes
//! its equal replica.

use serde_json::{json, Value as Json};
use std::process::{Child, Command, Stdio};
use test_support::prelude::*;
use test_support::workload::{persist_all, Workload};

const KEY: &str = "agent-api";
const EVERYTHING: &str = "deploy:events:*";

fn pair(kind: ServerKind, extra: &[&str]) -> (Server, Server) {
    let (primary, replica) = (Server::start(kind, extra), Server::start(kind, extra));
    replica.replicate_from(&primary);
    (primary, replica)
}

/// Empty where no answer can be had: Sentinel cuts off all clients of a server that it gives another role.
fn replication(server: &Server, field: &str) -> String {
    server.try_client().map(|mut client| client.info("replication", field)).unwrap_or_default()
}

fn is_primary(server: &Server) -> bool {
    replication(server, "role") == "master"
}

fn wait_for_link(replica: &Server) {
    wait_until("the link to the primary", || replication(replica, "master_link_status") == "up");
}

/// The verdict that a rollout waited for at `before`, given by a new primary: after its time, and not long after.
fn assert_taken_over(client: &mut Client, before: &Json) {
    let (revision, due) = (number(&before["revision"]), number(&before["deadlines"]["next_at"]));
    wait_until("the verdict", || number(&client.status(KEY)["revision"]) > revision);
    let verdict = client.log_without_repetition(KEY)[revision as usize].clone();
    assert_eq!(verdict["type"], "agent_healthy");
    let at = number(&verdict["at"]);
    assert!((due..due + 5_000).contains(&at), "due at {due}, given at {at}");
}

#[test]
fn chained_replicas_stay_equal_under_a_random_workload() {
    let asked = std::env::var("REDIS_DEPLOY_SEED").ok().map(|seed| seed.parse().expect("a seed is a number"));
    let (seeds, steps) = if is_long_run() { (1..=4, 2_000) } else { (1..=1, 500) };
    let seeds: Vec<u64> = asked.map_or(seeds.collect(), |seed| vec![seed]);
    on_each_server(|kind| {
        for seed in &seeds {
            eprintln!("   REDIS_DEPLOY_SEED={seed}");
            let (primary, replica) = pair(kind, &["--appendonly", "yes"]);
            let second = Server::start(kind, &[]);
            second.replicate_from(&replica);
            let mut client = primary.client();
            let mut workload = Workload::new(*seed);
            for step in 1..=steps {
                workload.step(&mut client);
                if step % 100 == 0 {
                    persist_all(&mut client);
                    replica.assert_equal_to(&primary);
                    second.assert_equal_to(&replica);
                }
            }
            assert!(workload.accepted > steps / 3, "{} done, {} refused", workload.accepted, workload.rejected);
            // Its append-only file says the same once more, without anything being decided anew. Not on the Valkey that
            // leaves the reader of the file on another database after a COPY … DB; at its start it is spared that.
            if kind == ServerKind::Valkey81 {
                continue;
            }
            let mut reader = replica.client();
            wait_until("no rewrite", || reader.info("persistence", "aof_rewrite_in_progress") == "0");
            client.call(&["CLIENT", "PAUSE", "60000", "WRITE"]);
            replica.catch_up_with(&primary);
            reader.call(&["DEBUG", "LOADAOF"]);
            replica.assert_equal_to(&primary);
        }
    });
}

#[test]
fn disconnected_replica_decides_nothing() {
    on_each_server(|kind| {
        let primary = Server::start(kind, &[]);
        // A writable one: nothing but the module itself keeps its timer from writing.
        let replica = Server::start(kind, &["--replica-read-only", "no"]);
        replica.replicate_from(&primary);
        let heard = Subscriber::start(&replica, EVERYTHING);
        let mut client = primary.client();
        client.deploy("service", &manifest(&["a"], "small"), &QUICK);
        client.carry_out_until("service", "successful");
        let began = unix_ms();
        client.begin_rollout("verdict", 2_000);
        let deadlines = ["MIN_HEALTHY_MS", "100", "HEALTHY_DEADLINE_MS", "2000", "PROGRESS_DEADLINE_MS", "0"];
        client.deploy("deadline", &manifest(&["a"], "small"), &deadlines);
        let deadlines = ["MIN_HEALTHY_MS", "100", "HEALTHY_DEADLINE_MS", "1900", "PROGRESS_DEADLINE_MS", "2000"];
        client.deploy("progress", &manifest(&["a"], "small"), &deadlines);
        let service = ["http", "INSTANCE", "i", "ADDRESS", "h", "PORT", "80", "TTL", "2000"];
        client.call(&[&["DEPLOY.REGISTER", "service", "a"], &service[..]].concat());
        let keys = ["verdict", "deadline", "progress", "service"];
        let before = keys.map(|key| client.status(key));
        replica.catch_up_with(&primary);
        primary.signal("STOP");
        if skip_if_past(began + 1_900) {
            return;
        }
        // What the replica has applied it has published; the subscriber may not have read it all yet.
        let published: usize = before.iter().map(|record| number(&record["revision"]) as usize).sum();
        wait_until("what came before to be read", || heard.events().len() == published);

        let mut reader = replica.client();
        let stays_as_it_was = |reader: &mut Client| {
            for (key, record) in keys.iter().zip(&before) {
                assert_eq!(reader.status(key), *record);
            }
            assert_eq!(reader.info("deploy", "deploy_timers_fired"), "0");
        };
        wait_past(began + 2_800);
        stays_as_it_was(&mut reader);
        reader.call(&["DEBUG", "RELOAD"]);
        wait_past(unix_ms() + 300);
        stays_as_it_was(&mut reader);
        assert_eq!(heard.events().len(), published);

        // All of it happens on the primary, and comes from there.
        primary.signal("CONT");
        for (key, status) in [("deadline", "failed"), ("progress", "failed")] {
            client.wait_for_status(key, status);
        }
        wait_until("the TTL", || client.status("service")["services"][0]["status"] == "critical");
        client.carry_out_until("verdict", "successful");
        replica.assert_equal_to(&primary);
    });
}

#[test]
fn partial_resync_delivers_missed_changes_and_events_once() {
    on_each_server(|kind| {
        let (primary, replica) = pair(kind, &[]);
        let heard = Subscriber::start(&replica, EVERYTHING);
        let (mut client, mut there) = (primary.client(), replica.client());
        let full = client.info("stats", "sync_full");
        let rounds = if is_long_run() { 25 } else { 3 };
        for round in 0..rounds {
            let key = format!("svc-{round}");
            client.begin_rollout(&key, 30);
            there.call(&["CLIENT", "KILL", "TYPE", "master"]);
            // Tasks, reports and verdicts, while nobody is there to be told.
            let script = "for i = 1, 20 do redis.call('DEPLOY.TAG', KEYS[1], 1, 'tag-' .. i) end";
            client.call(&["EVAL", script, "1", &key]);
            client.carry_out_until(&key, "successful");
            wait_for_link(&replica);
            replica.assert_equal_to(&primary);
        }
        assert_eq!(client.info("stats", "sync_full"), full, "no full resync");
        assert_eq!(client.info("stats", "sync_partial_ok"), rounds.to_string());
        client.call(&["PUBLISH", "deploy:events:mark", "{\"mark\":1}"]);
        heard.wait_for_event("the primary's message", |event| event["mark"] == 1);
        for round in 0..rounds {
            let key = format!("svc-{round}");
            let of_key: Vec<Json> = heard.events().into_iter().filter(|event| event["key"] == *key).collect();
            assert_eq!(of_key, client.log_without_repetition(&key));
        }
    });
}

/// Makes the primary forget what a partial resync would need, and lets it go on to `then`.
fn force_a_full_resync(primary: &Server, replica: &Server, then: impl FnOnce(&mut Client)) {
    let mut client = primary.client();
    replica.signal("STOP");
    client.call(&["CLIENT", "KILL", "TYPE", "replica"]);
    let filler = "x".repeat(50_000);
    for _ in 0..10 {
        client.call(&["SET", "filler", &filler]);
    }
    then(&mut client);
    replica.signal("CONT");
}

#[test]
fn full_resync_replaces_all_records_with_and_without_disk() {
    on_each_server(|kind| {
        let (primary, replica) = pair(kind, &["--repl-backlog-size", "16kb"]);
        let mut client = primary.client();
        for (round, (diskless, load)) in
            [("no", "disabled"), ("yes", "disabled"), ("yes", "on-empty-db"), ("no", "swapdb"), ("yes", "swapdb")]
                .into_iter()
                .enumerate()
        {
            client.call(&["CONFIG", "SET", "repl-diskless-sync", diskless]);
            replica.client().call(&["CONFIG", "SET", "repl-diskless-load", load]);
            let (old, new) = (format!("old-{round}"), format!("new-{round}"));
            client.begin_rollout(&old, 200_000);
            replica.assert_equal_to(&primary);
            let before = client.info("stats", "sync_full");
            force_a_full_resync(&primary, &replica, |client| {
                client.call(&["RENAME", &old, &new]);
                client.begin_rollout("another", 30);
            });
            wait_until("a full resync", || client.info("stats", "sync_full") != before);
            wait_for_link(&replica);
            replica.assert_equal_to(&primary);
            assert!(!replica.client().listed().contains(&old), "{diskless}, {load}");
        }
        // What was loaded so is as alive as anything else.
        replica.client().call(&["REPLICAOF", "NO", "ONE"]);
        replica.client().carry_out_until("another", "successful");
    });
}

#[test]
fn replica_serves_old_records_until_a_swapdb_load_completes() {
    on_each_server(|kind| {
        let diskless = ["--repl-diskless-sync", "yes", "--repl-diskless-load", "swapdb"];
        let small = ["--repl-backlog-size", "16kb", "--rdbcompression", "no"];
        let answering = ["--loading-process-events-interval-bytes", "1024"];
        let (primary, replica) = pair(kind, &[&diskless[..], &small, &answering].concat());
        let (mut client, mut reader) = (primary.client(), replica.client());
        client.begin_rollout("old", 200_000);
        // Enough that the primary sends it in many pieces.
        for n in 0..100 {
            client.call(&["SET", &format!("filler-{n}"), &"x".repeat(20_000)]);
        }
        replica.assert_equal_to(&primary);
        let old = client.status("old");
        let is_loading = |reader: &mut Client| reader.info("persistence", "async_loading") == "1";

        // Each key takes the primary 20 ms, so the load takes seconds. The first one is broken off in the middle.
        client.call(&["CONFIG", "SET", "rdb-key-save-delay", "20000"]);
        force_a_full_resync(&primary, &replica, |client| {
            client.call(&["RENAME", "old", "new"]);
            client.call(&["DEPLOY.PAUSE", "new"]);
        });
        wait_until("the load to begin", || is_loading(&mut reader));
        assert_eq!((reader.status("old"), reader.listed()), (old.clone(), vec!["old".to_string()]));
        client.call(&["CLIENT", "KILL", "TYPE", "replica"]);
        wait_until("the load to be given up", || !is_loading(&mut reader));
        assert_eq!((reader.status("old"), reader.listed()), (old.clone(), vec!["old".to_string()]));

        wait_until("the next load to begin", || is_loading(&mut reader));
        assert_eq!((reader.status("old"), reader.listed()), (old, vec!["old".to_string()]));
        assert_eq!(reader.info("deploy", "deploy_deployments_running"), "1");
        client.call(&["CONFIG", "SET", "rdb-key-save-delay", "0"]);
        wait_for_link(&replica);
        replica.assert_equal_to(&primary);
        assert_eq!(reader.listed(), ["new"]);
        assert_eq!(reader.info("deploy", "deploy_deployments_paused"), "1");
    });
}

#[test]
fn manual_promotion_keeps_deadlines() {
    on_each_server(|kind| {
        let (mut primary, replica) = pair(kind, &[]);
        let before = primary.client().begin_rollout(KEY, 1_000);
        replica.catch_up_with(&primary);
        let mut client = replica.client();
        assert_eq!(client.status(KEY), before);
        client.call(&["REPLICAOF", "NO", "ONE"]);
        assert_eq!(client.status(KEY)["deadlines"], before["deadlines"]);
        assert_taken_over(&mut client, &before);

        // The old primary knew nothing of it, and has decided by itself. As a replica it has what the new one has.
        primary.client().wait_for_status(KEY, "running");
        wait_until("its own verdict", || primary.client().status(KEY)["revision"] != before["revision"]);
        primary.client().call(&["DEPLOY.FAIL", KEY, "REASON", "on the wrong side"]);
        primary.replicate_from(&replica);
        primary.assert_equal_to(&replica);
        client.carry_out_until(KEY, "successful");
        primary.assert_equal_to(&replica);

        // Killed in the next rollout, it comes back with nothing, and gets all of it.
        let before = client.begin_rollout(KEY, 1_000);
        primary.kill();
        primary.start_again();
        primary.replicate_from(&replica);
        primary.assert_equal_to(&replica);
        assert_taken_over(&mut client, &before);
        let record = client.carry_out_until(KEY, "successful");
        assert_eq!((&record["cause"], &record["health"]["healthy"]), (&Json::Null, &json!(3)));
    });
}

#[test]
fn failover_keeps_deadlines() {
    on_each_server(|kind| {
        let (first, second) = pair(kind, &[]);
        let full = first.client().info("stats", "sync_full");
        let mut sides = [&first, &second];
        // There and back again, each time in mid rollout.
        for _round in 0..if is_long_run() { 20 } else { 2 } {
            let [primary, replica] = sides;
            let before = primary.client().begin_rollout(KEY, 1_000);
            replica.catch_up_with(primary);
            primary.client().call(&["FAILOVER", "TO", "127.0.0.1", &replica.port.to_string()]);
            wait_until("the roles to change", || is_primary(replica) && !is_primary(primary));
            wait_for_link(primary);
            let mut client = replica.client();
            let record = client.status(KEY);
            if record["revision"] == before["revision"] {
                assert_eq!(record, before);
            }
            assert_taken_over(&mut client, &before);
            client.carry_out_until(KEY, "successful");
            primary.assert_equal_to(replica);
            client.call(&["DEL", KEY]);
            sides.reverse();
        }
        assert_eq!(first.client().info("stats", "sync_full"), full, "nobody needed more than what was missing");
    });
}

/// A Sentinel, which is the same server in another mode.
struct Sentinel {
    port: u16,
    folder: std::path::PathBuf,
    child: Child,
}

impl Sentinel {
    fn start(kind: ServerKind, primary: &Server) -> Sentinel {
        let (port, folder) = (next_port(), new_folder());
        let config = [
            format!("port {port}\nbind 127.0.0.1\ndir {}\nlogfile server.log", folder.display()),
            format!("sentinel monitor deploy 127.0.0.1 {} 2", primary.port),
            "sentinel down-after-milliseconds deploy 1500".to_string(),
            "sentinel failover-timeout deploy 10000".to_string(),
        ];
        let file = folder.join("sentinel.conf");
        std::fs::write(&file, config.join("\n")).expect("a file");
        let child = Command::new(kind.binary().expect("a server that is tested"))
            .arg(&file)
            .arg("--sentinel")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a sentinel");
        Sentinel { port, folder, child }
    }

    /// A field of what it knows about the primary.
    fn knows(&self, field: &str) -> String {
        let answer = connect(self.port).and_then(|mut client| client.try_call(&["SENTINEL", "MASTER", "deploy"]).ok());
        answer.map(|fields| Fields::of(&fields).text(field)).unwrap_or_default()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
            eprintln!("-- log of the sentinel on port {}:\n{log}", self.port);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn sentinel_failover_keeps_deadlines_and_fences_the_old_primary() {
    on_each_server(|kind| {
        // With these two settings a primary that has lost its replicas cannot write, so the one that Sentinel gave up,
        // and which comes back without knowing it, does nothing until it is told.
        let fence = ["--min-replicas-to-write", "1", "--min-replicas-max-lag", "3"];
        let (primary, replica) = pair(kind, &fence);
        let other = Server::start(kind, &fence);
        other.replicate_from(&primary);
        let has_replicas = |server: &Server, count: &str| {
            wait_until("replicas that answer", || replication(server, "min_slaves_good_slaves") == count);
        };
        let sentinels = [(); 3].map(|()| Sentinel::start(kind, &primary));
        for sentinel in &sentinels {
            wait_until("a sentinel to know everybody", || {
                sentinel.knows("num-slaves") == "2" && sentinel.knows("num-other-sentinels") == "2"
            });
        }
        has_replicas(&primary, "2");
        let heard = [&replica, &other].map(|server| Subscriber::start(server, EVERYTHING));
        let before = primary.client().begin_rollout(KEY, 1_500);
        let due = number(&before["deadlines"]["next_at"]);
        replica.catch_up_with(&primary);
        other.catch_up_with(&primary);
        primary.signal("STOP");
        if skip_if_past(due) {
            return;
        }

        wait_until("a new primary", || is_primary(&replica) || is_primary(&other));
        let promoted = if is_primary(&replica) { &replica } else { &other };
        has_replicas(promoted, "1");
        let mut client = promoted.client();
        wait_until("the verdict", || client.status(KEY)["revision"] != before["revision"]);
        client.carry_out_until(KEY, "successful");
        let log = client.log_without_repetition(KEY);
        let verdict = &log[number(&before["revision"]) as usize];
        assert_eq!(verdict["type"], "agent_healthy");
        assert!(number(&verdict["at"]) >= due);

        // The old one wakes up and takes itself for the primary, until a sentinel tells it otherwise.
        primary.signal("CONT");
        let mut old = primary.client();
        let mut looked = 0;
        wait_until("the old primary to be told", || {
            let record = old.try_call(&["DEPLOY.STATUS", KEY, "JSON"]);
            let still_primary = is_primary(&primary);
            if still_primary {
                let record = record.map(|reply| serde_json::from_str::<Json>(&text(&reply)).expect("JSON"));
                assert_eq!(record.as_ref(), Ok(&before), "after {looked} looks");
                looked += 1;
            }
            !still_primary
        });
        wait_for_link(&primary);
        primary.assert_equal_to(promoted);
        // Sentinel cuts off the subscribers of a server that it gives another role. What they had heard, they had
        // heard once, and the rest is in the log.
        for heard in heard.map(|subscriber| subscriber.events()) {
            assert!(heard.len() >= number(&before["revision"]) as usize);
            assert_eq!(heard, log[..heard.len()]);
        }
    });
}

#[test]
fn blocked_clients_are_answered_on_replicas_and_unblocked_on_demoted_primaries() {
    on_each_server(|kind| {
        let (mut primary, mut replica) = pair(kind, &[]);
        let mut client = primary.client();
        client.begin_rollout(KEY, 100);
        let revision = number(&client.status(KEY)["revision"]).to_string();
        replica.catch_up_with(&primary);
        let waiting = |server: &Server, words: &[&str]| {
            let mut client = server.client();
            let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
            std::thread::spawn(move || client.try_call(&words))
        };
        let is_blocked = |server: &Server, count: &str| {
            wait_until("clients that wait", || server.client().info("clients", "blocked_clients") == count);
        };

        // On a replica, by what the primary decides.
        let status = waiting(&replica, &["DEPLOY.WAIT", KEY, "TIMEOUT", "15000"]);
        let events = waiting(&replica, &["DEPLOY.EVENTS", KEY, "AFTER", &revision, "BLOCK", "15000"]);
        client.carry_out_until(KEY, "successful");
        let status = status.join().expect("a waiter").expect("a status");
        assert_eq!(Fields::of(&status).text("status"), "successful");
        let events = events.join().expect("a waiter").expect("events");
        assert!(!items(&items(&events)[2]).is_empty());

        // On a primary that steps down: told so, or cut off, and the server lives.
        client.begin_rollout(KEY, 100);
        replica.catch_up_with(&primary);
        let on_primary = waiting(&primary, &["DEPLOY.WAIT", KEY, "TIMEOUT", "0"]);
        let on_replica = waiting(&replica, &["DEPLOY.WAIT", KEY, "TIMEOUT", "0"]);
        is_blocked(&primary, "1");
        is_blocked(&replica, "1");
        client.call(&["FAILOVER"]);
        wait_until("the roles to change", || is_primary(&replica) && !is_primary(&primary));
        let told = on_primary.join().expect("a waiter").expect_err("it cannot know");
        assert!(told.starts_with("UNBLOCKED ") || told.starts_with("(no reply)"), "{told}");
        wait_for_link(&primary);
        let mut client = replica.client();
        client.carry_out_until(KEY, "successful");
        let status = on_replica.join().expect("a waiter").expect("a status");
        assert_eq!(Fields::of(&status).text("status"), "successful");
        is_blocked(&primary, "0");
        is_blocked(&replica, "0");
        primary.assert_equal_to(&replica);
        assert!(primary.is_alive() && replica.is_alive());
    });
}
