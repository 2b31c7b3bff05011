//! Replication: a replica has the records of its primary, decides nothing, and continues the rollouts when it is
//! promoted. Outcomes are replicated, not commands.

use serde_json::{json, Value as Json};
use test_support::prelude::*;

const KEY: &str = "agent-api";
const CHANNEL: &str = "deploy:events:agent-api";

fn pair(kind: ServerKind) -> (Server, Server) {
    let (primary, replica) = (Server::start(kind, &[]), Server::start(kind, &[]));
    replica.replicate_from(&primary);
    (primary, replica)
}

/// All that can be read, of each.
fn assert_the_same(primary: &Server, replica: &Server) {
    replica.catch_up_with(primary);
    let (mut ours, mut theirs) = (primary.client(), replica.client());
    assert_eq!(theirs.status(KEY), ours.status(KEY));
    assert_eq!(theirs.events_after(KEY, 0), ours.events_after(KEY, 0));
    for words in [&["DEPLOY.HISTORY", KEY][..], &["DEPLOY.TASKS", KEY], &["DEPLOY.VERSION", KEY, "1"], &["DUMP", KEY]] {
        assert_eq!(theirs.call(words), ours.call(words), "{words:?}");
    }
}

#[test]
fn replica_equals_its_primary_at_every_step() {
    on_each_server(|kind| {
        let (primary, replica) = pair(kind);
        let mut client = primary.client();
        client.deploy(KEY, &manifest(&AGENTS, "small"), &[&QUICK[..], &["REQUEST", "r-1", "TAG", "one"]].concat());
        assert_the_same(&primary, &replica);
        client.carry_out_until(KEY, "successful");
        assert_the_same(&primary, &replica);
        client.deploy(KEY, &manifest(&AGENTS, "large"), &[&QUICK[..], &["CANARY", "1"]].concat());
        client.carry_out_until(KEY, "awaiting_promotion");
        assert_the_same(&primary, &replica);
        client.call(&["DEPLOY.PROMOTE", KEY]);
        client.call(&["DEPLOY.PAUSE", KEY]);
        assert_the_same(&primary, &replica);
        client.call(&["DEPLOY.RESUME", KEY]);
        client.carry_out_until(KEY, "successful");
        client.call(&["DEPLOY.ROLLBACK", KEY]);
        client.call(&["DEPLOY.FAIL", KEY, "REASON", "enough"]);
        assert_the_same(&primary, &replica);
    });
}

/// A replica that may be written to goes its own way, which the module cannot prevent: it says so in the log.
#[test]
fn conflicting_changes_of_the_primary_are_logged_on_a_writable_replica() {
    on_each_server(|kind| {
        let (primary, mut replica) = pair(kind);
        let (mut client, mut theirs) = (primary.client(), replica.client());
        theirs.call(&["CONFIG", "SET", "replica-read-only", "no"]);
        client.deploy(KEY, &manifest(&AGENTS, "small"), &QUICK);
        client.deploy("quiet", &manifest(&AGENTS, "small"), &QUICK);
        replica.catch_up_with(&primary);
        assert_eq!(theirs.status(KEY), client.status(KEY));
        let not_applied = |replica: &Server, key: &str| {
            let line = format!("change of key '{key}' not applied: ");
            replica
                .log()
                .lines()
                .filter_map(|text| text.split_once(&line))
                .map(|(_, why)| why.to_string())
                .collect::<Vec<_>>()
        };
        // The same command on either side, and yet another event.
        theirs.report(KEY, "agent-1", "failed");
        client.report(KEY, "agent-1", "starting");
        // One that this server has and its primary has not; and a key that each has begun by itself.
        theirs.deploy("own", &manifest(&AGENTS, "large"), &QUICK);
        client.deploy("own", &manifest(&AGENTS, "small"), &QUICK);
        client.report("quiet", "agent-1", "starting");
        replica.catch_up_with(&primary);
        for key in [KEY, "own"] {
            let lines = not_applied(&replica, key);
            assert_eq!(lines.len(), 1, "{key}: {}", replica.log());
            assert!(lines[0].contains("the record has another change of revision"), "{lines:?}");
        }
        assert_eq!(not_applied(&replica, "quiet"), [""; 0]);
        assert_eq!(theirs.status("quiet"), client.status("quiet"));
        let own: Json = serde_json::from_str(&manifest(&AGENTS, "large")).expect("JSON");
        assert_eq!(theirs.json(&["DEPLOY.VERSION", "own", "1", "JSON"])["manifest"], own, "its own change stays");
        // Nothing is decided by time here, not even for its own deployment.
        theirs.deploy("timed", &manifest(&["a"], "small"), &["MIN_HEALTHY_MS", "50"]);
        theirs.report("timed", "a", "ready");
        let due = unix_ms() + 50;
        wait_past(due + 300);
        assert_eq!(theirs.status("timed")["status"], "running");
        assert!(replica.is_alive());
        // A full synchronisation makes both equal.
        theirs.call(&["REPLICAOF", "NO", "ONE"]);
        replica.replicate_from(&primary);
        replica.assert_equal_to(&primary);
    });
}

#[test]
fn late_replica_receives_all_records() {
    on_each_server(|kind| {
        let (primary, replica) = (Server::start(kind, &[]), Server::start(kind, &[]));
        let mut client = primary.client();
        client.deploy(KEY, &manifest(&AGENTS, "small"), &QUICK);
        client.carry_out_until(KEY, "successful");
        client.deploy(KEY, &manifest(&AGENTS, "large"), &SLOW);
        client.carry_out_tasks(KEY);
        replica.client().deploy("its-own", &manifest(&["x"], "small"), &QUICK);
        replica.replicate_from(&primary);
        assert_the_same(&primary, &replica);
        assert!(
            replica.client().refused(&["DEPLOY.STATUS", "its-own"]).starts_with("NOTFOUND "),
            "what it had is gone"
        );
        let listed = replica.client().call(&["DEPLOY.LIST"]);
        assert_eq!(listed, client.call(&["DEPLOY.LIST"]));
    });
}

#[test]
fn replica_is_passive_until_promoted() {
    on_each_server(|kind| {
        let (mut primary, replica) = pair(kind);
        let mut client = primary.client();
        client.deploy(KEY, &manifest(&AGENTS, "small"), &QUICK);
        client.carry_out_until(KEY, "successful");
        client.deploy(KEY, &manifest(&AGENTS, "large"), &["MIN_HEALTHY_MS", "3000", "CANARY", "1"]);
        client.carry_out_tasks(KEY);
        replica.catch_up_with(&primary);
        let before = client.status(KEY);
        let due = number(&before["deadlines"]["next_at"]);
        if skip_if_past(due) {
            return;
        }

        // The primary is gone, the verdict falls due, and a good while passes: the replica may not give it.
        primary.kill();
        let mut client = replica.client();
        wait_until("half a second past the verdict's time", || unix_ms() > due + 500);
        assert_eq!(client.status(KEY), before);
        for words in [&["DEPLOY.PAUSE", KEY][..], &["DEPLOY.REPORT", KEY, "agent-1", "unready"]] {
            assert!(client.refused(words).starts_with("READONLY "), "{words:?}");
        }

        // Promoted, it gives it at once, and leads the rollout to its end.
        let published = Subscriber::start(&replica, CHANNEL);
        client.call(&["REPLICAOF", "NO", "ONE"]);
        client.wait_for_status(KEY, "awaiting_promotion");
        let events = client.events_after(KEY, number(&before["revision"]));
        assert_eq!(events[0]["type"], "agent_healthy");
        assert_eq!(published.wait_for_event("the verdict", |e| e["type"] == "agent_healthy"), events[0]);
        client.call(&["DEPLOY.PROMOTE", KEY]);
        let record = client.carry_out_until(KEY, "successful");
        assert_eq!((&record["current_version"], &record["health"]["healthy"]), (&json!(2), &json!(3)));
    });
}

#[test]
fn replica_subscribers_receive_every_event_once() {
    on_each_server(|kind| {
        let (primary, replica) = pair(kind);
        let (here, there) = (Subscriber::start(&primary, CHANNEL), Subscriber::start(&replica, CHANNEL));
        let mut client = primary.client();
        client.deploy(KEY, &manifest(&AGENTS, "small"), &QUICK);
        client.carry_out_until(KEY, "successful");
        let logged = client.events_after(KEY, 0);
        let of_primary = here.events_until_now(&mut client, CHANNEL);
        assert_eq!(of_primary, logged);
        // A message of the primary reaches the replica's subscribers too, after all that came before it.
        let mark = json!({"mark": "the end"});
        client.call(&["PUBLISH", CHANNEL, &mark.to_string()]);
        there.wait_for_event("the primary's message", |event| *event == mark);
        let of_replica: Vec<Json> = there.events().into_iter().filter(|event| event.get("mark").is_none()).collect();
        assert_eq!(of_replica, logged);
    });
}

#[test]
fn internal_command_is_rejected_for_clients() {
    on_each_server(|kind| {
        let (primary, replica) = pair(kind);
        let mut client = primary.client();
        client.deploy(KEY, &manifest(&AGENTS, "small"), &SLOW);
        let before = client.status(KEY);
        for words in [
            &["DEPLOY.APPLY"][..],
            &["DEPLOY.APPLY", KEY],
            &["DEPLOY.APPLY", KEY, "x"],
            &["DEPLOY.APPLY", KEY, "x", "y"],
        ] {
            let line = client.refused(words);
            assert!(line.starts_with("ERR ") || line.starts_with("NOPERM "), "{line}");
        }
        assert_eq!(client.status(KEY), before);
        assert_the_same(&primary, &replica);
    });
}
