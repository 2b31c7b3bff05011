//! Bake, standby, switch-back and the places of sessions on a server (rules 11 and 12): a bake ends by the server's
//! timer, and neither a restart nor a failover shortens or extends it; going back is one command, and starts nothing.

use test_support::prelude::*;
use test_support::rollout::Aftermath;

const KEY: &str = "agent-api";
const BAKES: [&str; 6] = ["STRATEGY", "blue-green", "MIN_HEALTHY_MS", "0", "BAKE_MS", "600000"];

/// Version 1 runs with a service for each agent; version 2 has taken over, and bakes.
fn begin_bake(client: &mut Client, policy: &[&str]) {
    client.deploy(KEY, &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "0"]);
    client.carry_out_until(KEY, "successful");
    register(client, "1");
    client.deploy(KEY, &manifest(&AGENTS, "large"), policy);
    client.carry_out_tasks(KEY);
    register(client, "2");
    wait_until("the bake to begin", || client.status(KEY)["phase"] == "baking");
}

fn register(client: &mut Client, version: &str) {
    for agent in AGENTS {
        let id = format!("web-{agent}-v{version}");
        let address = ["INSTANCE", &id, "ADDRESS", "10.0.0.1", "PORT", "80", "VERSION", version];
        client.call(&[&["DEPLOY.REGISTER", KEY, agent, "web"][..], &address].concat());
    }
}

fn roles(client: &mut Client, version: u64) -> Vec<String> {
    let record = client.status(KEY);
    let of_version = array(&record["instances"]).iter().filter(|instance| instance["version"] == version);
    of_version.map(|instance| string(&instance["role"]).to_string()).collect()
}

/// Returns where sessions go now, and those that began at version 1: the replies, byte for byte.
fn places(client: &mut Client) -> Vec<redis::Value> {
    let mut all = Vec::new();
    for n in 0..300 {
        let session = format!("session-{n}");
        for version in [&[][..], &["VERSION", "1"]] {
            for form in [&[][..], &["JSON"]] {
                let words = [&["DEPLOY.RESOLVE", KEY, "SESSION", &session], version, form].concat();
                let reply = client.call(&words);
                assert!(!matches!(&reply, redis::Value::Array(entries) if entries.is_empty()), "{words:?}");
                all.push(reply);
            }
        }
    }
    all
}

#[test]
fn bake_survives_reloads_restarts_and_failovers_and_ends_by_the_timer() {
    on_each_server(|kind| {
        let aof = ["--appendonly", "yes", "--appendfsync", "always"];
        let (mut primary, replica) = (Server::start(kind, &aof), Server::start(kind, &[]));
        replica.replicate_from(&primary);
        let mut client = primary.client();
        begin_bake(&mut client, &BAKES);
        let record = client.status(KEY);
        assert_eq!((&record["current_version"], &record["stable_version"]), (&2.into(), &1.into()));
        assert_eq!(roles(&mut client, 1), ["standby"; 3]);
        assert_eq!(client.info("deploy", "deploy_instances_standby"), "3");
        let before = (record["deadlines"].clone(), places(&mut client));
        assert!(!before.0["bake_at"].is_null(), "{record}");
        client.call(&["DEBUG", "RELOAD"]);
        assert_eq!((client.status(KEY)["deadlines"].clone(), places(&mut client)), before);
        for end in [End::Save, End::Kill] {
            primary.restart(end);
            let mut client = primary.client();
            assert_eq!((client.status(KEY)["deadlines"].clone(), places(&mut client)), before);
        }
        replica.assert_equal_to(&primary);
        let mut on_replica = replica.client();
        assert_eq!((on_replica.status(KEY)["deadlines"].clone(), places(&mut on_replica)), before);
        primary.kill();
        on_replica.call(&["REPLICAOF", "NO", "ONE"]);
        assert_eq!(on_replica.status(KEY)["deadlines"], before.0);

        // Another one, which ends soon.
        on_replica.call(&["DEPLOY.ROLLBACK", KEY]);
        on_replica.carry_out_tasks(KEY);
        on_replica.deploy(KEY, &manifest(&AGENTS, "huge"), &[&BAKES[..4], &["BAKE_MS", "300"]].concat());
        on_replica.carry_out_tasks(KEY);
        let record = on_replica.wait_for_status(KEY, "successful");
        assert_eq!(record["stable_version"], record["target_version"]);
        let log = on_replica.log_without_repetition(KEY);
        let of = |kind: &str| log.iter().rfind(|event| event["type"] == kind).map(|event| number(&event["at"]));
        let (began, ended) = (of("bake_started").expect("a bake"), of("deployment_successful").expect("its end"));
        assert!(ended >= began + 300, "{began} to {ended}");
    });
}

#[test]
fn replica_ends_no_bake_until_it_is_promoted() {
    on_each_server(|kind| {
        let (mut primary, replica) = (Server::start(kind, &[]), Server::start(kind, &[]));
        replica.replicate_from(&primary);
        let record = Aftermath::Bake.begin(&mut primary.client(), KEY, 1_500);
        let due = Aftermath::due(&record);
        replica.assert_equal_to(&primary);
        if skip_if_past(due) {
            return;
        }
        primary.kill();
        let mut client = replica.client();
        wait_past(due + 100);
        assert_eq!(client.status(KEY), record);
        client.call(&["REPLICAOF", "NO", "ONE"]);
        Aftermath::Bake.assert_ends_once(&mut client, KEY, due + 100);
    });
}

#[test]
fn rollback_during_a_bake_switches_back_without_a_start() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        begin_bake(&mut client, &BAKES);
        let receipt = Fields::of(&client.call(&["DEPLOY.ROLLBACK", KEY, "REASON", "slow"]));
        assert_eq!((receipt.text("mode"), receipt.text("status")), ("switch_back".into(), "successful".into()));
        assert_eq!(receipt.text("job_id"), "dep_agent-api_1");
        assert_eq!(
            (roles(&mut client, 1), roles(&mut client, 2)),
            (vec!["primary".into(); 3], vec!["retired".into(); 3])
        );
        assert!(client.tasks(KEY).iter().all(|task| task["task"] == "stop" && task["version"] == 2));
        let resolved = client.json(&["DEPLOY.RESOLVE", KEY, "JSON"]);
        assert!(array(&resolved).len() == 3 && array(&resolved).iter().all(|entry| entry["deployment_version"] == 1));
        assert_eq!(client.status(KEY)["instances"][0]["until_version"], 3);
    });
}

#[test]
fn failure_in_a_bake_reverts_in_the_same_step() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        begin_bake(&mut client, &[&BAKES[..], &["AUTO_REVERT", "true"]].concat());
        client.call(&["DEPLOY.REPORT", KEY, AGENTS[0], "failed", "VERSION", "2", "REASON", "out of memory"]);
        let record = client.status(KEY);
        assert_eq!((&record["mode"], &record["status"]), (&"switch_back".into(), &"successful".into()));
        assert_eq!((&record["current_version"], &record["stable_version"]), (&3.into(), &3.into()));
        assert_eq!(roles(&mut client, 1), ["primary"; 3]);
    });
}

#[test]
fn resolve_refuses_what_makes_no_sense() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        begin_bake(&mut client, &BAKES);
        let mut refused = |words: &[&str]| client.refused(&[&["DEPLOY.RESOLVE", KEY][..], words].concat());
        for words in [
            &["SESSION", ""][..],
            &["SESSION", &"x".repeat(257)],
            &["SESSION", "a", "ROLE", "any"],
            &["ROLE", "any", "VERSION", "1"],
            &["VERSION", "0"],
            &["ROLE", "retired"],
        ] {
            let error = refused(words);
            assert!(error.starts_with("ERR") || error.starts_with("LIMIT"), "{words:?}: {error}");
        }
        assert!(refused(&["VERSION", "3"]).starts_with("NOTFOUND"));
        assert!(refused(&["SESSION", "a", "VERSION", "3", "JSON"]).starts_with("NOTFOUND"));
        let standbys = client.json(&["DEPLOY.RESOLVE", KEY, "ROLE", "standby", "JSON"]);
        assert_eq!(array(&standbys).len(), 3);
        let of_one = client.json(&["DEPLOY.RESOLVE", KEY, "VERSION", "1", "SERVICE", "web", "JSON"]);
        assert_eq!(array(&of_one).len(), 3);
        // The id of a session is bytes, not text.
        let of_bytes = client.call(&[b"DEPLOY.RESOLVE", KEY.as_bytes(), b"SESSION", b"\xff\0\xfe"]);
        assert!(matches!(&of_bytes, redis::Value::Array(entries) if entries.len() == 1), "{of_bytes:?}");
    });
}
