//! Paused writes (CLIENT PAUSE, failover, shutdown): deadlines wait, the server does not abort, nothing is lost, and
//! what was due happens as soon as writes are allowed, on the primary of that time.

use serde_json::{json, Value as Json};
use test_support::cluster::Cluster;
use test_support::prelude::*;

const KEY: &str = "agent-api";
const EVERYTHING: &str = "deploy:events:*";

fn pair(kind: ServerKind, extra: &[&str]) -> (Server, Server) {
    let (primary, replica) = (Server::start(kind, extra), Server::start(kind, extra));
    replica.replicate_from(&primary);
    (primary, replica)
}

fn is_primary(server: &Server) -> bool {
    server.client().info("replication", "role") == "master"
}

fn wait_for_link(replica: &Server) {
    wait_until("the link to the primary", || replica.client().info("replication", "master_link_status") == "up");
}

/// The kind of deadline at a key, and the status to which it leads.
const DUE: [(&str, &str); 4] =
    [("verdict", "successful"), ("deadline", "failed"), ("progress", "failed"), ("ttl", "successful")];

/// The key of a test; in a cluster with a tag in front that puts all of them on one node.
fn named(tag: &str, key: &str) -> String {
    format!("{tag}{key}")
}

/// Writes keys of which each kind of deadline is due in about a second. Returns the time by which all are due, or
/// None where the machine is too slow.
fn begin_everything(client: &mut Client, tag: &str) -> Option<u64> {
    let until = unix_ms() + 1_100;
    for (key, _) in DUE {
        let deadlines: &[&str] = match key {
            "verdict" => &["MIN_HEALTHY_MS", "1000"],
            "deadline" => &["MIN_HEALTHY_MS", "50", "HEALTHY_DEADLINE_MS", "1000", "PROGRESS_DEADLINE_MS", "0"],
            "progress" => &["MIN_HEALTHY_MS", "50", "HEALTHY_DEADLINE_MS", "900", "PROGRESS_DEADLINE_MS", "1000"],
            _ => &["MIN_HEALTHY_MS", "0"],
        };
        client.deploy(&named(tag, key), &manifest(&["a"], "small"), deadlines);
    }
    client.report(&named(tag, "verdict"), "a", "ready");
    client.carry_out_until(&named(tag, "ttl"), "successful");
    let service = ["http", "INSTANCE", "i", "ADDRESS", "h", "PORT", "80", "TTL", "1000"];
    client.call(&[&["DEPLOY.REGISTER", &named(tag, "ttl"), "a"], &service[..]].concat());
    (!skip_if_past(until - 300)).then_some(until)
}

fn statuses(client: &mut Client, tag: &str) -> Vec<Json> {
    DUE.iter().map(|(key, _)| client.status(&named(tag, key))).collect()
}

/// Asserts that all deadlines have fired, once, and not before `not_before`.
fn assert_everything_happened(client: &mut Client, tag: &str, not_before: u64) {
    for (key, status) in DUE {
        client.wait_for_status(&named(tag, key), status);
    }
    wait_until("the TTL", || client.status(&named(tag, "ttl"))["services"][0]["status"] == "critical");
    for (key, of_type) in [
        ("verdict", "agent_healthy"),
        ("deadline", "agent_unhealthy"),
        ("progress", "deployment_failed"),
        ("ttl", "service_status"),
    ] {
        let log = client.log_without_repetition(&named(tag, key));
        let found: Vec<&Json> = log.iter().filter(|event| event["type"] == of_type).collect();
        assert_eq!(found.len(), 1, "{key}: {log:?}");
        let at = number(&found[0]["at"]);
        assert!(at + 50 >= not_before, "{key}: {} ms too early", not_before - at);
    }
}

#[test]
fn deadlines_in_a_client_pause_fire_after_it() {
    on_each_server(|kind| {
        for how in ["WRITE", "ALL"] {
            let (mut primary, replica) = pair(kind, &[]);
            let heard = Subscriber::start(&primary, EVERYTHING);
            let mut client = primary.client();
            let Some(due) = begin_everything(&mut client, "") else { return };
            heard.wait_for_event("the last of the beginning", |event| event["type"] == "service_registered");
            let (before, heard_before) = (statuses(&mut client, ""), heard.events().len());
            client.call(&["CLIENT", "PAUSE", if how == "ALL" { "2000" } else { "60000" }, how]);
            let mut over_at = unix_ms() + 2_000;
            wait_past(due + 300);
            assert_eq!(heard.events().len(), heard_before);
            if how == "WRITE" {
                assert_eq!(statuses(&mut client, ""), before, "reading goes on, and nothing is written");
                // What was due does not wait for the pause's own end.
                over_at = unix_ms();
                client.call(&["CLIENT", "UNPAUSE"]);
            }
            assert_everything_happened(&mut client, "", over_at);
            assert!(primary.is_alive());
            replica.assert_equal_to(&primary);
        }
    });
}

#[test]
fn deadlines_in_a_failover_fire_on_the_later_primary() {
    on_each_server(|kind| {
        // The replica is stopped, so the primary waits for it: it is given up at a timeout, given up on request, or
        // carried through as the replica comes back.
        for end in ["timeout", "abort", "success"] {
            let (mut primary, replica) = pair(kind, &[]);
            let mut client = primary.client();
            let Some(due) = begin_everything(&mut client, "") else { return };
            replica.signal("STOP");
            client.call(&["SET", "something", "to wait for"]);
            let timeout = if end == "timeout" { "2500" } else { "60000" };
            client.call(&["FAILOVER", "TO", "127.0.0.1", &replica.port.to_string(), "TIMEOUT", timeout]);
            let began = unix_ms();
            let state = |client: &mut Client| client.info("replication", "master_failover_state");
            let before = statuses(&mut client, "");
            if skip_if_past(due) {
                return;
            }
            wait_past(due + 300);
            let record = statuses(&mut client, "");
            if state(&mut client) == "waiting-for-sync" {
                assert_eq!(record, before, "nothing is decided while it waits");
            }
            assert!(primary.is_alive());
            match end {
                "timeout" => {
                    wait_until("it to be given up", || state(&mut client) == "no-failover");
                    assert_everything_happened(&mut client, "", began + 2_500);
                    replica.signal("CONT");
                }
                "abort" => {
                    let at = unix_ms();
                    client.call(&["FAILOVER", "ABORT"]);
                    assert_everything_happened(&mut client, "", at);
                    replica.signal("CONT");
                }
                _ => {
                    let at = unix_ms();
                    replica.signal("CONT");
                    wait_until("the roles to change", || is_primary(&replica) && !is_primary(&primary));
                    assert_everything_happened(&mut replica.client(), "", at);
                    wait_for_link(&primary);
                    primary.assert_equal_to(&replica);
                    continue;
                }
            }
            assert!(primary.is_alive() && is_primary(&primary));
            replica.assert_equal_to(&primary);
        }
    });
}

#[test]
fn deadlines_in_a_waiting_shutdown_fire_after_abort_or_restart() {
    on_each_server(|kind| {
        // It waits for the replica, which is stopped, up to 60 seconds.
        let (mut primary, replica) =
            pair(kind, &["--shutdown-timeout", "60", "--appendonly", "yes", "--appendfsync", "always"]);
        let mut client = primary.client();
        let Some(due) = begin_everything(&mut client, "") else { return };
        replica.signal("STOP");
        client.call(&["SET", "something", "to wait for"]);
        let mut other = primary.client();
        let asked = std::thread::spawn(move || other.try_call(&["SHUTDOWN", "NOSAVE"]));
        wait_until("it to have been asked", || !client.info("server", "shutdown_in_milliseconds").is_empty());
        let before = statuses(&mut client, "");
        if skip_if_past(due) {
            return;
        }
        wait_past(due + 300);
        assert_eq!(statuses(&mut client, ""), before, "nothing is decided while it waits");
        assert!(primary.is_alive() && !asked.is_finished());

        // Called off, it is a primary like any other.
        let at = unix_ms();
        client.call(&["SHUTDOWN", "ABORT"]);
        assert!(asked.join().expect("a thread").is_err(), "the one who asked is told");
        assert_everything_happened(&mut client, "", at);

        // Asked again by a signal, it ends as it should, once the replica has everything.
        client.call(&["FLUSHALL"]);
        let Some(due) = begin_everything(&mut client, "") else { return };
        client.call(&["SET", "something", "else to wait for"]);
        primary.signal("TERM");
        wait_past(due + 300);
        assert!(primary.is_alive(), "it still waits for its replica");
        replica.signal("CONT");
        let status = primary.wait_for_end();
        assert!(status.success(), "{status}");

        // The replica was given everything, and the file has it. What was due happens after the next start.
        let mut reader = replica.client();
        assert_eq!(reader.status("verdict")["status"], "running");
        let at = unix_ms();
        primary.start_again();
        assert_everything_happened(&mut primary.client(), "", at);
        replica.client().call(&["REPLICAOF", "NO", "ONE"]);
        assert_everything_happened(&mut replica.client(), "", at);
    });
}

/// Even without replicas the server asserts that nothing is written in a pause.
#[test]
fn client_pause_defers_deadlines_without_replicas() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &["--appendonly", "yes"]);
        let mut client = server.client();
        let Some(due) = begin_everything(&mut client, "") else { return };
        client.call(&["MULTI"]);
        client.call(&["CLIENT", "PAUSE", "60000", "WRITE"]);
        client.call(&["DEPLOY.TAG", "ttl", "1", "within-the-transaction"]);
        client.call(&["EXEC"]);
        let before = statuses(&mut client, "");
        wait_past(due + 300);
        assert_eq!(statuses(&mut client, ""), before);
        let at = unix_ms();
        client.call(&["CLIENT", "UNPAUSE"]);
        assert_everything_happened(&mut client, "", at);
        assert!(server.is_alive());
    });
}

/// The other primaries, which would have to vote, are stopped: so the primary holds its traffic back for seconds.
#[test]
fn deadlines_in_a_cluster_failover_fire_on_the_later_primary() {
    on_each_server(|kind| {
        for is_voted_for in [true, false] {
            let mut cluster = Cluster::start(kind, 1, 30_000, &[]);
            let tag = format!("{{{}}}", cluster.keys(1)[0]);
            let (primary, replica, voters) = (&cluster.nodes[0], &cluster.nodes[3], &cluster.nodes[1..3]);
            let mut client = primary.client();
            let Some(due) = begin_everything(&mut client, &tag) else { return };
            voters.iter().for_each(|voter| voter.signal("STOP"));
            replica.client().call(&["CLUSTER", "FAILOVER"]);
            wait_until("the primary to be asked", || primary.log().contains("anual failover requested by replica"));
            let before = statuses(&mut client, &tag);
            if skip_if_past(due) {
                return;
            }
            wait_past(due + 300);
            assert_eq!(statuses(&mut client, &tag), before, "nothing is decided while it waits");
            let at = unix_ms();
            let now_primary = if is_voted_for {
                voters.iter().for_each(|voter| voter.signal("CONT"));
                wait_until("the roles to change", || is_primary(replica) && !is_primary(primary));
                replica
            } else {
                // Nobody votes within its time, and the primary remains one. The others stay stopped: it is late votes
                // that they would give.
                primary
            };
            assert_everything_happened(&mut now_primary.client(), &tag, at);
            let now_replica = if is_voted_for { primary } else { replica };
            wait_for_link(now_replica);
            now_replica.catch_up_with(now_primary);
            let mut reader = now_replica.client();
            reader.call(&["READONLY"]);
            assert_eq!(statuses(&mut reader, &tag), statuses(&mut now_primary.client(), &tag));
            assert!(cluster.nodes.iter_mut().all(Server::is_alive));
        }
    });
}

#[test]
fn cluster_failovers_lose_and_repeat_no_event() {
    on_each_server(|kind| {
        for _cluster in 0..if is_long_run() { 10 } else { 1 } {
            let mut cluster = Cluster::start(kind, 1, 15_000, &[]);
            fail_over_there_and_back(&cluster);
            assert!(cluster.nodes.iter_mut().all(Server::is_alive));
        }
    });
}

/// Twice in one cluster: soon after an election, Redis 7.0 takes the votes of that one for the next.
fn fail_over_there_and_back(cluster: &Cluster) {
    let keys: Vec<String> = cluster.keys(3 * 60).into_iter().step_by(3).collect();
    let mut sides = [&cluster.nodes[0], &cluster.nodes[3]];
    for version in 1..=2 {
        let [primary, replica] = sides;
        let mut client = primary.client();
        // Verdicts all the time, so that some fall due whenever the primary holds its traffic back.
        let began = unix_ms();
        for (n, key) in keys.iter().enumerate() {
            let ms = (400 + 20 * n as u64).saturating_sub((unix_ms() - began) / 2).to_string();
            client.deploy(key, &manifest(&["a"], &format!("model-{version}")), &["MIN_HEALTHY_MS", &ms]);
            client.call(&["DEPLOY.REPORT", key, "a", "ready", "VERSION", &version.to_string()]);
        }
        // Who asks for a failover must be known as a replica.
        cluster.wait_until_stable();
        replica.client().call(&["CLUSTER", "FAILOVER"]);
        wait_until("the roles to change", || is_primary(replica) && !is_primary(primary));
        wait_for_link(primary);
        let mut client = replica.client();
        for key in &keys {
            assert_eq!(client.wait_for_status(key, "successful")["current_version"], json!(version));
        }
        primary.catch_up_with(replica);
        let mut reader = primary.client();
        reader.call(&["READONLY"]);
        for key in &keys {
            client.log_without_repetition(key);
            assert_eq!(reader.status(key), client.status(key));
            assert_eq!(reader.call(&["DUMP", key]), client.call(&["DUMP", key]));
        }
        sides.reverse();
    }
}

/// Writing goes on while traffic is held back again and again, and at random moments.
#[test]
fn random_pauses_do_not_end_the_server() {
    on_each_server(|kind| {
        let (mut primary, replica) = pair(kind, &[]);
        let (mut client, mut pauser) = (primary.client(), primary.client());
        for round in 0..if is_long_run() { 300 } else { 30 } {
            let key = format!("{KEY}-{}", round % 20);
            let ms = (round * 7 % 40).to_string();
            client.deploy(&key, &manifest(&["a", "b"], &format!("model-{round}")), &["MIN_HEALTHY_MS", &ms]);
            client.carry_out_tasks(&key);
            let pause = (5 + round * 13 % 60).to_string();
            pauser.call(&["CLIENT", "PAUSE", &pause, if round % 2 == 0 { "WRITE" } else { "ALL" }]);
        }
        for n in 0..20 {
            client.carry_out_until(&format!("{KEY}-{n}"), "successful");
        }
        assert!(primary.is_alive());
        replica.assert_equal_to(&primary);
    });
}
