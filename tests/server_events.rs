//! Events: the published ones equal the log, complete and in order, and a client that missed messages can catch up.

use redis::Value;
use serde_json::Value as Json;
use test_support::prelude::*;

const KEY: &str = "agent-api";
const CHANNEL: &str = "deploy:events:agent-api";

/// A whole story: a first version, a canary, a promotion, a pause, a rollback that is failed by hand.
fn tell(client: &mut Client) {
    client.deploy(KEY, &manifest(&AGENTS, "small"), &[&QUICK[..], &["REASON", "first"]].concat());
    client.carry_out_until(KEY, "successful");
    client.deploy(KEY, &manifest(&AGENTS, "large"), &[&QUICK[..], &["CANARY", "1"]].concat());
    client.carry_out_until(KEY, "awaiting_promotion");
    client.call(&["DEPLOY.PROMOTE", KEY, "REASON", "good"]);
    client.call(&["DEPLOY.PAUSE", KEY, "REASON", "lunch"]);
    client.call(&["DEPLOY.RESUME", KEY]);
    client.carry_out_until(KEY, "successful");
    client.call(&["DEPLOY.ROLLBACK", KEY]);
    client.call(&["DEPLOY.FAIL", KEY, "REASON", "enough"]);
}

#[test]
fn published_events_equal_the_log() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let published = Subscriber::start(&server, CHANNEL);
        let mut client = server.client();
        tell(&mut client);
        let logged = client.events_after(KEY, 0);
        assert_eq!(published.events_until_now(&mut client, CHANNEL), logged);

        let revisions: Vec<u64> = logged.iter().map(|event| number(&event["revision"])).collect();
        let last = number(&client.status(KEY)["revision"]);
        assert_eq!(revisions, (1..=last).collect::<Vec<_>>(), "one revision each, none left out");
        assert!(logged.is_sorted_by_key(|event| number(&event["at"])), "in the order of time");
        for event in &logged {
            assert_eq!(event["key"], KEY);
            assert_eq!(names_of(event)[..6], ["revision", "at", "key", "deployment_id", "type", "version"], "{event}");
        }
        let types: Vec<&str> = logged.iter().map(|event| string(&event["type"])).collect();
        for expected in [
            "deployment_started",
            "task_issued",
            "task_done",
            "agent_state",
            "agent_healthy",
            "awaiting_promotion",
            "deployment_promoted",
            "deployment_paused",
            "deployment_resumed",
            "deployment_successful",
            "rollback_started",
            "deployment_failed",
        ] {
            assert!(types.contains(&expected), "{expected} in {types:?}");
        }
        let event = |kind: &str| logged.iter().find(|event| event["type"] == kind).expect("seen above");
        assert_eq!(
            (&event("deployment_started")["by"], &event("deployment_started")["reason"]),
            (&"default".into(), &"first".into())
        );
        assert_eq!(
            (&event("deployment_started")["mode"], &event("deployment_started")["strategy"]),
            (&"initial".into(), &"rolling".into())
        );
        assert_eq!(
            (&event("deployment_promoted")["by"], &event("deployment_promoted")["reason"]),
            (&"default".into(), &"good".into())
        );
        assert_eq!(event("deployment_paused")["reason"], "lunch");
        assert_eq!(event("deployment_failed")["reason"], "enough");
        let task = event("task_issued");
        assert_eq!(
            (&task["task"], &task["agent"], &task["role"]),
            (&"start".into(), &"agent-1".into(), &"primary".into())
        );
        assert_eq!(event("agent_state")["state"], "starting");
    });
}

#[test]
fn status_has_the_last_ten_events() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    tell(&mut client);
    let logged = client.events_after(KEY, 0);
    let record = client.status(KEY);
    assert_eq!(array(&record["events"])[..], logged[logged.len() - 10..]);
}

#[test]
fn events_after_a_revision_can_be_read() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    tell(&mut client);
    let all = client.events_after(KEY, 0);
    let last = all.len() as u64;
    let mut page = |options: &[&str]| {
        let reply = client.call(&[&["DEPLOY.EVENTS", KEY], options].concat());
        let [Value::Int(first), Value::Int(last), Value::Array(events)] = items(&reply) else { panic!("{reply:?}") };
        let events: Vec<Json> =
            events.iter().map(|e| serde_json::from_str(&text(e)).expect("an event is JSON")).collect();
        (*first as u64, *last as u64, events)
    };
    assert_eq!(page(&[]), (1, last, all.clone()));
    assert_eq!(page(&["AFTER", "0"]), (1, last, all.clone()));
    assert_eq!(page(&["AFTER", "5", "COUNT", "3"]), (1, last, all[5..8].to_vec()), "oldest first");
    assert_eq!(page(&["COUNT", "3"]), (1, last, all[..3].to_vec()));
    assert_eq!(page(&["AFTER", &last.to_string()]), (1, last, vec![]));
    assert_eq!(page(&["AFTER", "99999"]), (1, last, vec![]), "from the future: nothing yet");
    let (mut after, mut collected) = (0, Vec::new());
    while after < last {
        let (_, _, events) = page(&["AFTER", &after.to_string(), "COUNT", "4"]);
        after = number(&events.last().expect("progress")["revision"]);
        collected.extend(events);
    }
    assert_eq!(collected, all);
}

#[test]
fn log_keeps_the_last_hundred_events_and_its_first_revision() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    client.deploy(KEY, &manifest(&AGENTS, "small"), &SLOW);
    while number(&client.status(KEY)["revision"]) < 150 {
        client.call(&["DEPLOY.PAUSE", KEY]);
        client.call(&["DEPLOY.RESUME", KEY]);
    }
    let last = number(&client.status(KEY)["revision"]);
    let reply = client.call(&["DEPLOY.EVENTS", KEY, "AFTER", "7"]);
    assert_eq!(int(&items(&reply)[0]) as u64, last - 99, "older than the log: the first number says so");
    assert_eq!(int(&items(&reply)[1]) as u64, last);
    assert_eq!(items(&items(&reply)[2]).len(), 100);
}

#[test]
fn events_are_published_to_a_channel_per_key() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let (ours, all) = (Subscriber::start(&server, CHANNEL), Subscriber::start(&server, "deploy:events:*"));
    let mut client = server.client();
    client.deploy("other", &manifest(&["x"], "small"), &SLOW);
    client.deploy(KEY, &manifest(&["x"], "small"), &SLOW);
    let events = ours.events_until_now(&mut client, CHANNEL);
    assert!(!events.is_empty() && events.iter().all(|event| event["key"] == KEY));
    let events = all.events_until_now(&mut client, CHANNEL);
    assert!(events.iter().any(|event| event["key"] == "other"));
}

#[test]
fn duplicate_reports_change_the_record_once() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let (mut one, mut two) = (server.client(), server.client());
    one.deploy(KEY, &manifest(&AGENTS, "small"), &SLOW);
    for state in ["starting", "ready"] {
        assert_eq!(one.report(KEY, "agent-1", state), 1);
        assert_eq!(two.report(KEY, "agent-1", state), 0, "{state} is known already");
    }
    let about: Vec<Json> = one
        .events_after(KEY, 0)
        .into_iter()
        .filter(|e| e["type"] == "agent_state" && e["agent"] == "agent-1")
        .collect();
    assert_eq!(about.len(), 2, "{about:?}");
}

#[test]
fn waiting_client_is_answered_when_timeout_and_change_coincide() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let record = client.begin_rollout(KEY, 200_000);
        let after = record["revision"].to_string();
        let waits: [&[&str]; 2] = [
            &["DEPLOY.EVENTS", KEY, "AFTER", &after, "BLOCK", "300"],
            &["DEPLOY.WAIT", KEY, "UNTIL", "1", "paused", "TIMEOUT", "300"],
        ];
        for words in waits {
            let waits = std::thread::scope(|scope| {
                let waiting = scope.spawn(|| server.client().try_call(words));
                wait_until("the client to wait", || client.info("clients", "blocked_clients") == "1");
                // In one turn of the server's loop the time passes, and then comes the change.
                client.call(&["MULTI"]);
                client.call(&["DEBUG", "SLEEP", "0.6"]);
                client.call(&["DEPLOY.PAUSE", KEY]);
                client.call(&["EXEC"]);
                waiting.join().expect("no panic")
            });
            assert!(waits.is_ok(), "{words:?}: {waits:?}");
            client.call(&["DEPLOY.RESUME", KEY]);
        }
    });
}

#[test]
fn waiting_clients_have_individual_timeouts() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let record = client.begin_rollout(KEY, 200_000);
        let after = record["revision"].to_string();
        let server = &server;
        let wait_ms = |limit: &str| {
            let began = std::time::Instant::now();
            let reply = server.client().call(&["DEPLOY.WAIT", KEY, "TIMEOUT", limit]);
            (reply, began.elapsed().as_millis() as u64)
        };
        std::thread::scope(|scope| {
            // One that waits for longer than all others, and is woken by a change in the end.
            let longest = scope.spawn(|| wait_ms("60000"));
            wait_until("it to wait", || client.info("clients", "blocked_clients") == "1");
            let limits = ["700", "300", "500", "200", "400", "200"];
            let waiting = limits.map(|limit| (limit, scope.spawn(move || wait_ms(limit))));
            // One that is told to stop waiting.
            let unblocked = scope.spawn(|| {
                let mut waiting = server.client();
                waiting.call(&["CLIENT", "SETNAME", "unblocked"]);
                waiting.call(&["DEPLOY.EVENTS", KEY, "AFTER", &after, "BLOCK", "60000"])
            });
            let id = wait_for("its id", || {
                let list = text(&client.call(&["CLIENT", "LIST"]));
                let waits = |line: &&str| line.contains("name=unblocked ") && line.contains("cmd=deploy.events");
                let line = list.lines().find(waits)?;
                Some(line.split_once("id=")?.1.split(' ').next()?.to_string())
            });
            assert_eq!(int(&client.call(&["CLIENT", "UNBLOCK", &id, "TIMEOUT"])), 1);
            let reply = unblocked.join().expect("no panic");
            assert_eq!(items(&items(&reply)[2]).len(), 0, "nothing new");
            for (limit, waiting) in waiting {
                let (reply, took_ms) = waiting.join().expect("no panic");
                assert_eq!(reply, Value::Nil, "{limit}");
                assert!(took_ms >= limit.parse().expect("ms"), "{limit} was over after {took_ms}");
            }
            assert_eq!(client.info("clients", "blocked_clients"), "1");
            client.call(&["DEPLOY.FAIL", KEY]);
            assert_eq!(Fields::of(&longest.join().expect("no panic").0).text("status"), "failed");
        });
    });
}
