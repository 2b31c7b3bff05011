//! Persistence: records survive every persistence mode of Redis, deadlines are absolute, and a server restarted in mid
//! rollout continues it.

use serde_json::Value as Json;
use test_support::prelude::*;

const KEY: &str = "agent-api";

/// Every way to keep data, and the ends of a server that it survives without loss.
#[derive(Debug, Clone, Copy)]
struct Way {
    name: &'static str,
    args: &'static [&'static str],
    end: End,
}

const WAYS: [Way; 5] = [
    Way { name: "RDB", args: &[], end: End::Save },
    Way {
        name: "AOF with RDB preamble",
        args: &["--appendonly", "yes", "--aof-use-rdb-preamble", "yes"],
        end: End::NoSave,
    },
    Way { name: "AOF of commands", args: &["--appendonly", "yes", "--aof-use-rdb-preamble", "no"], end: End::NoSave },
    Way {
        name: "AOF with appendfsync always, and SIGKILL",
        args: &["--appendonly", "yes", "--appendfsync", "always", "--aof-use-rdb-preamble", "yes"],
        end: End::Kill,
    },
    Way {
        name: "AOF of commands with appendfsync always, and SIGKILL",
        args: &["--appendonly", "yes", "--appendfsync", "always", "--aof-use-rdb-preamble", "no"],
        end: End::Kill,
    },
];

fn on_each_server_and_way(test: impl Fn(Way, &mut Server)) {
    on_each_server(|kind| {
        for way in WAYS {
            eprintln!("   {}", way.name);
            test(way, &mut Server::start(kind, way.args));
        }
    });
}

/// Versions, a tag, a reason, a half-done canary rollout with one agent ready: a record with something of everything.
fn start_rollout(client: &mut Client, key: &str) {
    client.deploy(key, &manifest(&AGENTS, "small"), &[&QUICK[..], &["TAG", "one", "REASON", "first é"]].concat());
    client.carry_out_until(key, "successful");
    client.deploy(key, &manifest(&AGENTS, "large"), &[&SLOW[..], &["CANARY", "2", "BUNDLE", "s3://b/v2"]].concat());
    client.report(key, "agent-1", "starting");
    client.report(key, "agent-1", "ready");
    client.report(key, "agent-2", "starting");
}

/// All that can be read of a record.
fn everything(client: &mut Client, key: &str) -> Vec<Json> {
    let mut all = vec![
        client.status(key),
        client.json(&["DEPLOY.HISTORY", key, "JSON"]),
        client.json(&["DEPLOY.VERSION", key, "1", "JSON"]),
        client.json(&["DEPLOY.VERSION", key, "2", "JSON"]),
        Json::Array(client.tasks(key)),
    ];
    all.extend(client.events_after(key, 0));
    all
}

fn rewrite_aof(client: &mut Client) {
    client.call(&["BGREWRITEAOF"]);
    wait_until_no_rewrite(client);
    assert_eq!(client.info("persistence", "aof_last_bgrewrite_status"), "ok");
}

fn wait_until_no_rewrite(client: &mut Client) {
    wait_until("the rewrite of the append-only file", || {
        client.info("persistence", "aof_rewrite_in_progress") == "0"
            && client.info("persistence", "aof_rewrite_scheduled") == "0"
    });
}

#[test]
fn records_survive_every_kind_of_restart() {
    on_each_server_and_way(|way, server| {
        let mut client = server.client();
        start_rollout(&mut client, KEY);
        client.deploy("second", &manifest(&AGENTS, "small"), &SLOW);
        client.deploy("second", &manifest(&AGENTS, "large"), &SLOW);
        client.call(&["DEPLOY.PAUSE", KEY]);
        client.call(&["DEPLOY.RESUME", KEY]);
        let before = (everything(&mut client, KEY), everything(&mut client, "second"));
        let listed = client.call(&["DEPLOY.LIST"]);
        server.restart(way.end);
        let mut client = server.client();
        assert_eq!(everything(&mut client, KEY), before.0, "{}", way.name);
        assert_eq!(everything(&mut client, "second"), before.1, "{}", way.name);
        assert_eq!(client.call(&["DEPLOY.LIST"]), listed, "{}", way.name);
    });
}

#[test]
fn append_only_rewrite_keeps_records() {
    on_each_server(|kind| {
        for preamble in ["yes", "no"] {
            let args = ["--appendonly", "yes", "--appendfsync", "always", "--aof-use-rdb-preamble", preamble];
            let mut server = Server::start(kind, &args);
            let mut client = server.client();
            start_rollout(&mut client, KEY);
            rewrite_aof(&mut client);
            let rewritten = everything(&mut client, KEY);
            server.restart(End::Kill);
            let mut client = server.client();
            assert_eq!(everything(&mut client, KEY), rewritten, "preamble {preamble}");
            // And what is appended to a rewritten one.
            client.report(KEY, "agent-2", "ready");
            let appended = everything(&mut client, KEY);
            server.restart(End::Kill);
            assert_eq!(everything(&mut server.client(), KEY), appended, "preamble {preamble}, appended");
        }
    });
}

#[test]
fn rollouts_continue_after_a_restart() {
    on_each_server_and_way(|way, server| {
        let mut client = server.client();
        client.deploy(KEY, &manifest(&AGENTS, "small"), &QUICK);
        client.carry_out_until(KEY, "successful");
        client.deploy(KEY, &manifest(&AGENTS, "large"), &["MIN_HEALTHY_MS", "800", "CANARY", "1", "MAX_PARALLEL", "2"]);
        client.carry_out_tasks(KEY);
        let ready = client.events_after(KEY, 0).into_iter().rfind(|event| event["state"] == "ready").expect("reported");
        let (due, revision) = (number(&ready["at"]) + 800, number(&ready["revision"]));
        server.restart(way.end);
        // Nobody asks and nobody reports: the timer moves it on by itself.
        let mut client = server.client();
        client.wait_for_status(KEY, "awaiting_promotion");
        let events = client.events_after(KEY, revision);
        assert_eq!(events[0]["type"], "agent_healthy", "{}", way.name);
        assert!(number(&events[0]["at"]) >= due, "{}: a deadline is absolute and not early: {events:?}", way.name);
        // The rest of the rollout, over another restart.
        client.call(&["DEPLOY.PROMOTE", KEY]);
        client.carry_out_tasks(KEY);
        server.restart(way.end);
        let record = server.client().carry_out_until(KEY, "successful");
        assert_eq!(record["current_version"], 2, "{}", way.name);
        assert_eq!(record["health"]["healthy"], 3, "{}", way.name);
    });
}

#[test]
fn deadlines_passed_while_down_fire_after_the_start() {
    on_each_server_and_way(|way, server| {
        let mut client = server.client();
        let options = ["MIN_HEALTHY_MS", "0", "HEALTHY_DEADLINE_MS", "600", "PROGRESS_DEADLINE_MS", "600"];
        client.deploy(KEY, &manifest(&AGENTS, "small"), &options);
        let record = client.status(KEY);
        let due = number(&record["created_at"]) + 600;
        server.restart_after(way.end, || wait_until("the deadline to pass", || unix_ms() > due));
        let mut client = server.client();
        let record = client.wait_for_status(KEY, "failed");
        assert_eq!(record["cause"], "progress_deadline", "{}", way.name);
        assert!(number(&record["finished_at"]) >= due);
    });
}

#[test]
fn published_events_are_on_disk() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &["--appendonly", "yes", "--appendfsync", "always"]);
        for round in 0..3 {
            let key = format!("svc-{round}");
            let published = Subscriber::start(&server, &format!("deploy:events:{key}"));
            let mut client = server.client();
            client.deploy(&key, &manifest(&AGENTS, "small"), &QUICK);
            client.carry_out_tasks(&key);
            // The timer's own event, and then the end without any warning.
            let seen = published.wait_for_event("a verdict", |event| event["type"] == "agent_healthy");
            server.restart(End::Kill);
            let kept = server.client().events_after(&key, 0);
            assert!(kept.contains(&seen), "round {round}: {seen} is not in {kept:?}");
        }
    });
}

#[test]
fn reload_and_dump_copies_are_equal() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        start_rollout(&mut client, KEY);
        let before = everything(&mut client, KEY);
        client.call(&["DEBUG", "RELOAD"]);
        assert_eq!(everything(&mut client, KEY), before, "DEBUG RELOAD");
        let redis::Value::BulkString(bytes) = client.call(&["DUMP", KEY]) else { panic!("DUMP replies bytes") };
        client.call(&["DEL", KEY]);
        client.call(&[b"RESTORE".as_slice(), KEY.as_bytes(), b"0", &bytes]);
        assert_eq!(everything(&mut client, KEY), before, "DUMP and RESTORE");
        assert_eq!(client.call(&["DUMP", KEY]), redis::Value::BulkString(bytes), "the same bytes again");
    });
}
