//! Drains on a server (rule 10): they end by the server's timer, once, not early, and neither a restart nor a failover
//! shortens or extends them; SESSIONS is replicated, small and silent.

use serde_json::Value as Json;
use test_support::prelude::*;
use test_support::replication::ReplicationStream;
use test_support::resp::command;
use test_support::rollout::rewrite_aof;

const KEY: &str = "agent-api";
const OLD: [&str; 4] = ["VERSION", "1", "JOB", "dep_agent-api_1"];
const DRAINS: [&str; 6] = ["STRATEGY", "blue-green", "MIN_HEALTHY_MS", "0", "DRAIN_MS", "600000"];

/// Version 2 has taken over, and the instances of version 1 drain: one holds 12 sessions, one has been taken up without
/// a number, and nobody knows of the third yet.
fn begin_drains(client: &mut Client) {
    client.begin_update(KEY, &DRAINS);
    client.wait_for_status(KEY, "successful");
    report_old(client, "agent-1", &["draining", "SESSIONS", "12"]);
    report_old(client, "agent-2", &["draining"]);
}

fn report_old(client: &mut Client, agent: &str, state: &[&str]) -> i64 {
    int(&client.call(&[&["DEPLOY.REPORT", KEY, agent][..], state, &OLD].concat()))
}

/// The instances of version 1, as STATUS shows them.
fn old_instances(client: &mut Client) -> Vec<Json> {
    let record = client.status(KEY);
    array(&record["instances"]).iter().filter(|instance| instance["version"] == 1).cloned().collect()
}

/// Everything about the drains that must not change by itself.
fn drains(client: &mut Client) -> Vec<Json> {
    let mut all = old_instances(client);
    all.extend(client.tasks(KEY));
    all.push(client.status(KEY)["deadlines"].clone());
    all.push(client.json(&["DEPLOY.RESOLVE", KEY, "ROLE", "draining", "ALL", "JSON"]));
    all
}

/// Asserts that each drain has ended by its deadline, once and not before; as forced, since none said that it was idle.
fn assert_ended_at(client: &mut Client, drain_at: u64, agents: &[&str]) {
    wait_until("the drains to end", || client.info("deploy", "deploy_instances_draining") == "0");
    let log = client.log_without_repetition(KEY);
    let ended: Vec<&Json> = log.iter().filter(|event| event["type"] == "agent_drained").collect();
    let drained: Vec<&str> = ended.iter().map(|event| string(&event["agent"])).collect();
    assert_eq!(drained, agents);
    for event in ended {
        assert!(number(&event["at"]) >= drain_at && event["forced"] == true, "due at {drain_at}: {event}");
    }
    for instance in old_instances(client) {
        assert_eq!((&instance["role"], &instance["task"]), (&"retired".into(), &"stop".into()));
    }
}

/// Lets all drains end in a while, and returns the time.
fn end_drains_in(client: &mut Client, ms: u64) -> u64 {
    client.call(&["DEPLOY.DRAIN", KEY, "VERSION", "1", "MS", &ms.to_string()]);
    number(&old_instances(client)[0]["drain_at"])
}

#[test]
fn drains_survive_reloads_and_restarts_unchanged() {
    type Way = (&'static str, &'static [&'static str], fn(&mut Server));
    let ways: [Way; 5] = [
        ("DEBUG RELOAD", &[], |server| drop(server.client().call(&["DEBUG", "RELOAD"]))),
        ("RDB", &[], |server| server.restart(End::Save)),
        ("AOF of commands", &["--appendonly", "yes", "--aof-use-rdb-preamble", "no"], |server| {
            server.restart(End::NoSave);
        }),
        ("rewritten AOF", &["--appendonly", "yes", "--aof-use-rdb-preamble", "no"], |server| {
            rewrite_aof(&mut server.client());
            server.restart(End::NoSave);
        }),
        ("kill -9", &["--appendonly", "yes", "--appendfsync", "always"], |server| server.restart(End::Kill)),
    ];
    on_each_server(|kind| {
        for (way, args, restart) in ways {
            eprintln!("   {way}");
            let mut server = Server::start(kind, args);
            begin_drains(&mut server.client());
            let before = drains(&mut server.client());
            assert_eq!((&before[0]["sessions"], &before[1]["sessions"]), (&12.into(), &Json::Null));
            restart(&mut server);
            let mut client = server.client();
            assert_eq!(drains(&mut client), before, "{way}");
            assert_eq!(client.info("deploy", "deploy_instances_draining"), "3", "{way}");
            // What becomes due while it is down happens after the start.
            let drain_at = end_drains_in(&mut client, 300);
            restart(&mut server);
            assert_ended_at(&mut server.client(), drain_at, &AGENTS);
        }
    });
}

#[test]
fn failover_neither_shortens_nor_extends_a_drain() {
    on_each_server(|kind| {
        let (mut primary, replica) = (Server::start(kind, &[]), Server::start(kind, &[]));
        replica.replicate_from(&primary);
        let mut client = primary.client();
        begin_drains(&mut client);
        let drain_at = end_drains_in(&mut client, 1_500);
        replica.assert_equal_to(&primary);
        let before = drains(&mut client);
        if skip_if_past(drain_at) {
            return;
        }
        primary.kill();
        // A replica ends no drain, however late it is.
        let mut client = replica.client();
        wait_past(drain_at + 100);
        assert_eq!(drains(&mut client), before);
        assert_eq!(client.info("deploy", "deploy_instances_draining"), "3");
        client.call(&["REPLICAOF", "NO", "ONE"]);
        assert_ended_at(&mut client, drain_at, &AGENTS);
    });
}

/// Rules 10.3 and 10.4: idle for `min_healthy_ms`, and the agent is replaced by the server's timer.
#[test]
fn idle_instance_is_replaced_by_the_timer() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let published = Subscriber::start(&server, "deploy:events:*");
        let mut client = server.client();
        client.deploy(KEY, &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "0"]);
        client.carry_out_until(KEY, "successful");
        client.deploy(KEY, &manifest(&AGENTS, "large"), &["MIN_HEALTHY_MS", "200", "DRAIN_MS", "600000"]);
        let task = &client.tasks(KEY)[0];
        assert_eq!((&task["task"], &task["successor_version"]), (&"drain".into(), &2.into()));
        assert_eq!(number(&task["drain_at"]), number(&task["since"]) + 600_000);
        assert_eq!(report_old(&mut client, "agent-1", &["draining", "SESSIONS", "1"]), 1);
        let before = unix_ms();
        assert_eq!(report_old(&mut client, "agent-1", &["ready", "SESSIONS", "0"]), 0, "it is no news");
        let drained = published.wait_for_event("the end of the drain", |event| event["type"] == "agent_drained");
        assert!(number(&drained["at"]) + 1 >= before + 200, "{drained}");
        assert_eq!(
            (&drained["sessions"], &drained["forced"], &drained["by"]),
            (&0.into(), &false.into(), &"auto".into())
        );
        let replace = published.wait_for_event("the task", |event| event["task"] == "replace");
        assert_eq!((&replace["agent"], &replace["at"]), (&"agent-1".into(), &drained["at"]));
        client.carry_out_until(KEY, "successful");
        assert_eq!(client.info("deploy", "deploy_instances_draining"), "0");
    });
}

#[test]
fn sessions_are_replicated_in_few_bytes_and_published_to_nobody() {
    const MOST_BYTES: usize = 120;
    on_each_server(|kind| {
        let (server, replica) = (Server::start(kind, &[]), Server::start(kind, &[]));
        replica.replicate_from(&server);
        let mut client = server.client();
        begin_drains(&mut client);
        let service = ["DEPLOY.REGISTER", KEY, "agent-2", "web", "INSTANCE", "i-1", "ADDRESS", "h", "PORT", "1"];
        client.call(&[&service[..], &OLD].concat());
        replica.catch_up_with(&server);
        let subscribers = [Subscriber::start(&server, "*"), Subscriber::start(&replica, "*")];
        let mut stream = ReplicationStream::of(&server);
        let revision = client.status(KEY)["revision"].clone();
        assert_eq!(report_old(&mut client, "agent-1", &["ready", "SESSIONS", "4294967295"]), 0);
        assert_eq!(int(&client.call(&["DEPLOY.CHECK", KEY, "i-1", "passing", "SESSIONS", "7"])), 0);
        assert_eq!(report_old(&mut client, "agent-1", &["ready", "SESSIONS", "4294967295"]), 0);
        let sent = stream.commands_until_now(&mut client);
        assert_eq!(sent.len(), 2, "what is known already is not replicated");
        for words in sent {
            let bytes = command(&words).len();
            eprintln!("   {bytes} bytes");
            assert!(bytes <= MOST_BYTES, "{bytes} bytes");
        }
        assert_eq!(client.status(KEY)["revision"], revision);
        replica.catch_up_with(&server);
        let mut theirs = replica.client();
        for client in [&mut client, &mut theirs] {
            let sessions: Vec<Json> = old_instances(client).iter().map(|i| i["sessions"].clone()).collect();
            assert_eq!(sessions, [4_294_967_295_u64.into(), 7.into(), Json::Null]);
        }
        for (subscriber, publisher) in subscribers.iter().zip([&mut client, &mut theirs]) {
            let events = subscriber.events_until_now(publisher, "deploy:events:marks");
            assert!(events.is_empty(), "{events:?}");
        }
        replica.assert_equal_to(&server);
    });
}

#[test]
fn operators_end_drains_of_a_version_or_stop_at_once() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        begin_drains(&mut client);
        let drain =
            |client: &mut Client, words: &[&str]| client.try_call(&[&["DEPLOY.DRAIN", KEY][..], words].concat());
        for (words, refused) in [
            (&["NOW"][..], "ERR VERSION is missing"),
            (&["VERSION", "1"], "ERR MS or NOW is missing"),
            (&["VERSION", "1", "NOW", "MS", "5"], "ERR MS and NOW exclude each other"),
            (&["VERSION", "1", "MS", "-1"], "ERR MS must be an integer from 0 to "),
            (&["VERSION", "0", "NOW"], "ERR VERSION must be "),
            (&["VERSION", "2", "NOW"], "NOTFOUND "),
            (&["VERSION", "1", "NOW", "ID", "dep_agent-api_1"], "CONFLICT "),
        ] {
            let error = drain(&mut client, words).expect_err("refused");
            assert!(error.starts_with(refused), "{words:?}: {error}");
        }
        // Later than before, and then at once.
        let later = end_drains_in(&mut client, 900_000);
        assert!(later > unix_ms() + 800_000);
        let receipt = Fields::of(&drain(&mut client, &["VERSION", "1", "MS", "0"]).expect("a receipt"));
        assert_eq!((receipt.text("deployment_id").as_str(), receipt.int("version")), ("dep_agent-api_2", 2));
        assert_ended_at(&mut client, 0, &AGENTS);
        assert!(drain(&mut client, &["VERSION", "1", "NOW"]).expect_err("none drains").starts_with("NOTFOUND "));

        // STOP lets the new side drain as well, and with NOW it does not.
        client.carry_out_tasks(KEY);
        client.call(&["DEPLOY.STOP", KEY]);
        assert_eq!(client.info("deploy", "deploy_instances_draining"), "3");
        let page = text(&client.call(&["DEPLOY.SHOW"]));
        assert!(page.contains(" 3 open, 3 instances drain"), "{page}");
        client.call(&["DEPLOY.STOP", KEY, "NOW", "REASON", "the host is on fire"]);
        let tasks = client.tasks(KEY);
        assert_eq!(tasks.len(), 3);
        assert!(tasks.iter().all(|task| task["task"] == "stop"), "{tasks:?}");
        let revision = client.status(KEY)["revision"].clone();
        client.call(&["DEPLOY.STOP", KEY, "NOW"]);
        assert_eq!(client.status(KEY)["revision"], revision);
    });
}

/// Rule 10.4: callers find an instance that drains by its role, and from the end of its drain on not at all.
#[test]
fn callers_find_draining_instances_by_their_role() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        begin_drains(&mut client);
        for agent in AGENTS {
            let id = format!("old-{agent}");
            let words = ["DEPLOY.REGISTER", KEY, agent, "web", "INSTANCE", &id, "ADDRESS", "h", "PORT", "1"];
            client.call(&[&words[..], &OLD].concat());
        }
        let found = |client: &mut Client, options: &[&str]| -> Vec<String> {
            let words = [&["DEPLOY.RESOLVE", KEY][..], options, &["JSON"]].concat();
            array(&client.json(&words)).iter().map(|entry| string(&entry["instance"]).to_string()).collect()
        };
        assert_eq!(found(&mut client, &[]), [""; 0]);
        for role in ["draining", "any"] {
            assert_eq!(found(&mut client, &["ROLE", role]), ["old-agent-1", "old-agent-2", "old-agent-3"]);
        }
        let entry = client.call(&["DEPLOY.RESOLVE", KEY, "ROLE", "draining"]);
        let entry = Fields::of(&items(&entry)[0]);
        assert_eq!(entry.names().iter().rev().take(2).rev().copied().collect::<Vec<_>>(), ["sessions", "drain_at"]);
        assert_eq!(entry.int("sessions"), 12);
        report_old(&mut client, "agent-1", &["drained"]);
        assert_eq!(found(&mut client, &["ROLE", "draining", "ALL"]), ["old-agent-2", "old-agent-3"]);
        assert_eq!(found(&mut client, &["ROLE", "any"]), ["old-agent-2", "old-agent-3"]);
        assert_eq!(array(&client.status(KEY)["services"]).len(), 3, "STATUS lists them all");
        let refused = client.refused(&["DEPLOY.RESOLVE", KEY, "ROLE", "retired"]);
        assert!(refused.contains("primary, canary, candidate, draining, standby, any"), "{refused}");
    });
}

#[test]
fn a_thousand_drains_end_each_once() {
    let agents: Vec<String> = (1..=1_000).map(|n| format!("agent-{n:04}")).collect();
    let agents: Vec<&str> = agents.iter().map(String::as_str).collect();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        client.call(&["CONFIG", "SET", "deploy.events-max", "20000"]);
        client.deploy(KEY, &manifest(&agents, "small"), &["MIN_HEALTHY_MS", "0"]);
        client.carry_out_until(KEY, "successful");
        client.deploy(KEY, &manifest(&agents, "large"), &DRAINS);
        client.carry_out_tasks(KEY);
        client.wait_for_status(KEY, "successful");
        assert_eq!(client.info("deploy", "deploy_instances_draining"), "1000");
        let drain_at = end_drains_in(&mut client, 2_000);
        assert_ended_at(&mut client, drain_at, &agents);
    });
}
