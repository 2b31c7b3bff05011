//! Idle records: a finished record that is not accessed is kept encoded, in a third of the memory, which only INFO
//! shows. A loaded record stays encoded until it is accessed or has a deadline due, which it meets.

use serde_json::Value as Json;
use std::time::{Duration, Instant};
use test_support::prelude::*;
use test_support::rollout::*;

const KEY: &str = "agent-api";

/// Short, so that a test need not wait.
const SOON: [&str; 4] = ["CONFIG", "SET", "deploy.encode-idle-ms", "40"];
const NEVER: [&str; 4] = ["CONFIG", "SET", "deploy.encode-idle-ms", "0"];

fn at_rest(client: &mut Client) -> u64 {
    client.info("deploy", "deploy_records_encoded").parse().expect("a number")
}

fn wait_for_rest(client: &mut Client, records: u64) {
    wait_until(&format!("{records} records to rest"), || at_rest(client) == records);
}

/// Two versions, a tag, a request, a service without a TTL: over, with something of everything.
fn finished(client: &mut Client, key: &str) {
    client.deploy(key, &manifest(&AGENTS, "small"), &[&QUICK[..], &["TAG", "one", "REASON", "first é"]].concat());
    client.carry_out_until(key, "successful");
    client.deploy(
        key,
        &manifest(&AGENTS, "large"),
        &[&QUICK[..], &["MAX_PARALLEL", "100%", "REQUEST", "r-2"]].concat(),
    );
    client.carry_out_until(key, "successful");
    client.call(&["DEPLOY.REGISTER", key, "agent-1", "http", "INSTANCE", "i-1", "ADDRESS", "10.0.0.1", "PORT", "80"]);
}

fn digest(client: &mut Client) -> String {
    text(&client.call(&["DEBUG", "DIGEST"]))
}

#[test]
fn idle_records_reply_and_dump_unchanged() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        client.call(&NEVER);
        finished(&mut client, KEY);
        let (before, listed) = (everything(&mut client, KEY), as_json(&client.call(&["DEPLOY.LIST"])));
        let (payload, digested) = (dump(&mut client, KEY), digest(&mut client));
        let awake = int(&client.call(&["MEMORY", "USAGE", KEY]));
        assert_eq!(at_rest(&mut client), 0);

        client.call(&SOON);
        // The next change has it stand in line; one and its opposite leave only their events.
        client.call(&["DEPLOY.TAG", KEY, "2", "two"]);
        client.call(&["DEPLOY.UNTAG", KEY, "two"]);
        wait_for_rest(&mut client, 1);
        let resting = int(&client.call(&["MEMORY", "USAGE", KEY]));
        assert!(resting * 2 < awake, "{resting} bytes at rest, {awake} awake");

        // What these tell is of the record as it rests, and leaves it so.
        let (payload_2, digested_2) = (dump(&mut client, KEY), digest(&mut client));
        let listed_2 = as_json(&client.call(&["DEPLOY.LIST"]));
        client.call(&["DEPLOY.LIST", "STATUS", "successful", "MATCH", "agent-*"]);
        assert_eq!(at_rest(&mut client), 1);
        // The same record once more, awake.
        client.call(&NEVER);
        let after = everything(&mut client, KEY);
        assert_eq!(at_rest(&mut client), 0);
        assert_eq!((dump(&mut client, KEY), digest(&mut client)), (payload_2.clone(), digested_2.clone()));
        assert_eq!(as_json(&client.call(&["DEPLOY.LIST"])), listed_2);
        assert_ne!((payload_2, digested_2), (payload, digested), "there were two events more");
        assert_ne!(listed, listed_2);
        assert_eq!(after.len(), before.len() + 2);
        assert_eq!(after[1..before.len()], before[1..], "all but the status, which shows the last events");
    });
}

#[test]
fn a_lowered_idle_time_counts_for_queued_records() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        client.call(&["CONFIG", "SET", "deploy.encode-idle-ms", "3600000"]);
        finished(&mut client, "a");
        finished(&mut client, "b");
        assert_eq!(at_rest(&mut client), 0);
        client.call(&SOON);
        wait_for_rest(&mut client, 2);
        // Raised, it counts as well: what is used now stays as it is.
        client.call(&["CONFIG", "SET", "deploy.encode-idle-ms", "3600000"]);
        client.status("a");
        finished(&mut client, "c");
        wait_past(unix_ms() + 300);
        assert_eq!(at_rest(&mut client), 1);
        client.call(&SOON);
        wait_for_rest(&mut client, 3);
    });
}

#[test]
fn records_that_ended_while_encoding_was_off_are_encoded_once_it_is_on() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &[]);
        let mut client = server.client();
        client.call(&NEVER);
        finished(&mut client, "a");
        client.begin_rollout("goes-on", 200_000);
        client.call(&["SELECT", "3"]);
        for n in 0..150 {
            // Recorded, and so ended at once.
            client.deploy(&format!("many-{n:03}"), r#"{"type":"batch","nodes":[{"node_id":"x"}]}"#, &[]);
        }
        client.call(&["SELECT", "0"]);
        wait_past(unix_ms() + 200);
        assert_eq!(at_rest(&mut client), 0);
        client.call(&SOON);
        wait_for_rest(&mut client, 1 + 150);
        assert_index_matches(&mut client, &[0, 3]);
        wait_for_rest(&mut client, 1 + 150);
        // Off while some are queued, and on again.
        client.call(&["CONFIG", "SET", "deploy.encode-idle-ms", "3600000"]);
        finished(&mut client, "b");
        client.call(&NEVER);
        finished(&mut client, "c");
        client.call(&SOON);
        wait_for_rest(&mut client, 3 + 150);
        // Loaded and read while it is off.
        client.call(&NEVER);
        server.restart(End::Save);
        let mut client = server.client();
        client.call(&NEVER);
        let loaded = at_rest(&mut client);
        client.status("a");
        assert_eq!(at_rest(&mut client), loaded - 1);
        client.call(&SOON);
        wait_for_rest(&mut client, loaded);
    });
}

#[test]
fn changes_to_idle_records_continue_their_log() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        client.call(&SOON);
        finished(&mut client, KEY);
        wait_for_rest(&mut client, 1);
        let events = Subscriber::start(&server, "deploy:events:*");
        client.deploy(KEY, &manifest(&AGENTS, "larger"), &QUICK);
        events.wait_for_event("the third version", |event| {
            event["type"] == "deployment_started" && event["version"] == 3
        });
        client.carry_out_until(KEY, "successful");
        wait_for_rest(&mut client, 1);
        client.log_without_repetition(KEY);
        // Asked again and again, it does not rest: its time is counted from the last that asked.
        let until = Instant::now() + Duration::from_millis(400);
        client.status(KEY);
        while Instant::now() < until {
            client.status(KEY);
            assert_eq!(at_rest(&mut client), 0);
        }
        wait_for_rest(&mut client, 1);
    });
}

#[test]
fn active_records_and_records_with_deadlines_are_not_encoded() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        client.call(&SOON);
        finished(&mut client, "over");
        client.begin_rollout("goes-on", 200_000);
        finished(&mut client, "has-a-ttl");
        let ttl = ["INSTANCE", "i-2", "ADDRESS", "10.0.0.2", "PORT", "80", "TTL", "600000"];
        client.call(&[&["DEPLOY.REGISTER", "has-a-ttl", "agent-2", "http"][..], &ttl].concat());
        let agents: Vec<String> = (0..300).map(|n| format!("agent-{n}")).collect();
        let agents: Vec<&str> = agents.iter().map(String::as_str).collect();
        client.deploy("large", &manifest(&agents, "small"), &QUICK);
        client.carry_out_until("large", "successful");
        finished(&mut client, "over-too");
        wait_for_rest(&mut client, 2);
        // Long enough for each of the others to have been looked at.
        client.call(&["DEPLOY.TAG", "over", "1", "looked-at"]);
        wait_for_rest(&mut client, 1);
        wait_for_rest(&mut client, 2);
        assert_eq!(at_rest(&mut client), 2);
        client.call(&["DEPLOY.DEREGISTER", "has-a-ttl", "i-2"]);
        wait_for_rest(&mut client, 3);
    });
}

#[test]
fn generic_commands_work_on_idle_records() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        client.call(&SOON);
        finished(&mut client, "a");
        wait_for_rest(&mut client, 1);
        let payload = dump(&mut client, "a");
        // At rest, and awake as the generic commands find it.
        for is_awake in [false, true] {
            let settled = |client: &mut Client, records| {
                wait_for_rest(client, records);
                if is_awake {
                    for key in client.listed() {
                        client.status(&key);
                    }
                }
            };
            settled(&mut client, 1);
            client.call(&["RENAME", "a", "b"]);
            settled(&mut client, 1);
            client.call(&["COPY", "b", "c"]);
            settled(&mut client, 2);
            client.call(&["MOVE", "c", "1"]);
            settled(&mut client, 2);
            client.call(&["SWAPDB", "0", "1"]);
            settled(&mut client, 2);
            client.call(&["SWAPDB", "0", "1"]);
            restore(&mut client, "d", &payload, &[]).expect("its own payload");
            assert_eq!(client.listed(), ["b", "d"]);
            client.status("d");
            client.call(&["DEPLOY.TAG", "d", "1", "mine"]);
            settled(&mut client, 3);
            assert_index_matches(&mut client, &[0, 1]);
            client.call(&["SELECT", "0"]);
            wait_for_rest(&mut client, 3);
            client.call(&["UNLINK", "d"]);
            client.call(&["SELECT", "1"]);
            client.call(&["FLUSHDB"]);
            client.call(&["SELECT", "0"]);
            wait_for_rest(&mut client, 1);
            client.call(&["RENAME", "b", "a"]);
        }
        client.call(&["FLUSHALL", "ASYNC"]);
        wait_for_rest(&mut client, 0);
    });
}

#[test]
fn loaded_records_stay_encoded_and_keep_their_deadlines() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &[]);
        let mut client = server.client();
        for key in ["over-1", "over-2"] {
            finished(&mut client, key);
        }
        // Ready, and healthy only after the restart; then the next agent goes.
        client.deploy("rollout", &manifest(&AGENTS, "small"), &QUICK);
        client.carry_out_until("rollout", "successful");
        client.deploy("rollout", &manifest(&AGENTS, "large"), &["MIN_HEALTHY_MS", "1500"]);
        client.report("rollout", "agent-1", "ready");
        let keys = ["over-1", "over-2", "rollout"];
        let before: Vec<Vec<Json>> = keys.map(|key| everything(&mut client, key)).into();
        let digested = digest(&mut client);
        server.restart(End::Save);

        let mut client = server.client();
        assert_eq!(at_rest(&mut client), 3, "nobody has asked for any");
        assert_eq!(client.listed(), keys);
        assert_eq!(digest(&mut client), digested);
        assert_eq!(at_rest(&mut client), 3);
        assert_index_matches(&mut client, &[0]);
        let events = client.events_after("rollout", 0).len();
        wait_until("the next agent to get its task", || client.events_after("rollout", 0).len() > events);
        assert_eq!(client.tasks("rollout")[0]["agent"], "agent-2");
        for (key, before) in keys.iter().zip(&before).take(2) {
            assert_eq!(&everything(&mut client, key), before, "{key}");
        }
        assert_eq!(at_rest(&mut client), 0);
    });
}

/// The timer decodes an idle record when it becomes due.
#[test]
fn deadlines_decode_loaded_records() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &[]);
        let mut client = server.client();
        client.deploy(KEY, &manifest(&["a"], "small"), &["MIN_HEALTHY_MS", "1500"]);
        client.report(KEY, "a", "ready");
        server.restart(End::Save);
        let mut client = server.client();
        assert_eq!(at_rest(&mut client), 1);
        wait_until("INFO to tell that it has ended", || client.info("deploy", "deploy_deployments_successful") == "1");
        assert_eq!(at_rest(&mut client), 0);
        assert_eq!(client.status(KEY)["status"], "successful");
    });
}

#[test]
fn idle_records_are_encoded_on_replicas() {
    on_each_server(|kind| {
        let (primary, replica) = (Server::start(kind, &[]), Server::start(kind, &[]));
        let (mut client, mut other) = (primary.client(), replica.client());
        client.call(&SOON);
        other.call(&SOON);
        finished(&mut client, KEY);
        replica.replicate_from(&primary);
        assert_eq!(at_rest(&mut other), 1, "a whole data set was loaded");
        client.call(&["DEPLOY.TAG", KEY, "2", "two"]);
        replica.catch_up_with(&primary);
        replica.assert_equal_to(&primary);
        wait_for_rest(&mut client, 1);
        wait_for_rest(&mut other, 1);
        replica.assert_equal_to(&primary);
        client.deploy(KEY, &manifest(&AGENTS, "third"), &QUICK);
        client.carry_out_until(KEY, "successful");
        replica.catch_up_with(&primary);
        replica.assert_equal_to(&primary);
        // Promoted, it goes on from what rested.
        wait_for_rest(&mut other, 1);
        other.call(&["REPLICAOF", "NO", "ONE"]);
        other.deploy(KEY, &manifest(&AGENTS, "fourth"), &QUICK);
        other.carry_out_until(KEY, "successful");
        other.log_without_repetition(KEY);
    });
}
