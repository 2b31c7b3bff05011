//! Timers: deadlines fire on the server, without any client, not early, and on an idle server at most 10 ms late. Where
//! writes are paused they wait.

use serde_json::{json, Value as Json};
use std::sync::{Mutex, MutexGuard};
use test_support::prelude::*;

const KEY: &str = "agent-api";

/// These tests measure time, so one runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn event_of(client: &mut Client, key: &str, is: impl Fn(&Json) -> bool) -> Json {
    client.events_after(key, 0).into_iter().find(is).unwrap_or_else(|| panic!("no such event of {key}"))
}

/// Returns how late an event was. Panics where it was early.
fn lateness(event: &Json, due: u64) -> u64 {
    let at = number(&event["at"]);
    assert!(at >= due, "{} ms early: {event}", due - at);
    at - due
}

/// Asserts that the median is within 10 ms: single deadlines may be late on a busy machine.
fn assert_punctual(mut lateness: Vec<u64>) {
    lateness.sort_unstable();
    let median = lateness[lateness.len() / 2];
    assert!(median <= 10, "late by {lateness:?} ms");
}

#[test]
fn agents_become_healthy_after_min_healthy_ms_without_clients() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let published = Subscriber::start(&server, "deploy:events:*");
        let mut client = server.client();
        let mut late = Vec::new();
        for round in 0..9 {
            let key = format!("svc-{round}");
            client.deploy(&key, &manifest(&["a"], "small"), &["MIN_HEALTHY_MS", "120"]);
            client.report(&key, "a", "ready");
            let ready = event_of(&mut client, &key, |e| e["type"] == "agent_state" && e["state"] == "ready");
            // Only listen from here on: nothing that a client asks may be what moves it.
            let verdict = published.wait_for_event("the verdict", |e| e["key"] == key && e["type"] == "agent_healthy");
            late.push(lateness(&verdict, number(&ready["at"]) + 120));
            published.wait_for_event("its end", |e| e["key"] == key && e["type"] == "deployment_successful");
        }
        assert_punctual(late);
    });
}

#[test]
fn healthy_deadline_fails_a_deployment_without_progress_deadline() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let published = Subscriber::start(&server, "deploy:events:*");
        let mut client = server.client();
        let mut late = Vec::new();
        for round in 0..5 {
            let key = format!("svc-{round}");
            let options = ["MIN_HEALTHY_MS", "50", "HEALTHY_DEADLINE_MS", "150", "PROGRESS_DEADLINE_MS", "0"];
            client.deploy(&key, &manifest(&["a"], "small"), &options);
            let task = event_of(&mut client, &key, |e| e["type"] == "task_issued");
            let verdict =
                published.wait_for_event("the verdict", |e| e["key"] == key && e["type"] == "agent_unhealthy");
            late.push(lateness(&verdict, number(&task["at"]) + 150));
            assert!(!string(&verdict["reason"]).is_empty());
            published.wait_for_event("its end", |e| e["key"] == key && e["type"] == "deployment_failed");
            assert_eq!(client.status(&key)["cause"], "unhealthy_agent");
        }
        assert_punctual(late);
    });
}

#[test]
fn progress_deadline_fails_a_stalled_rollout() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let published = Subscriber::start(&server, "deploy:events:*");
        let mut client = server.client();
        let mut late = Vec::new();
        for round in 0..5 {
            let key = format!("svc-{round}");
            let options = ["MIN_HEALTHY_MS", "20", "HEALTHY_DEADLINE_MS", "900", "PROGRESS_DEADLINE_MS", "1000"];
            client.deploy(&key, &manifest(&["a", "b"], "small"), &options);
            // One makes progress, which gives the other the time anew, and not for ever.
            client.report(&key, "a", "ready");
            let healthy = published.wait_for_event("progress", |e| e["key"] == key && e["type"] == "agent_healthy");
            let failed = published.wait_for_event("the end", |e| e["key"] == key && e["type"] == "deployment_failed");
            late.push(lateness(&failed, number(&healthy["at"]) + 1000));
            let record = client.status(&key);
            assert_eq!((&record["status"], &record["cause"]), (&json!("failed"), &json!("progress_deadline")));
            let deadlines = record["deadlines"].as_object().expect("an object");
            assert!(deadlines.values().all(Json::is_null), "nothing runs any more: {deadlines:?}");
        }
        assert_punctual(late);
    });
}

#[test]
fn unready_report_restarts_the_healthy_wait() {
    let _alone = alone();
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    client.deploy(KEY, &manifest(&["a"], "small"), &["MIN_HEALTHY_MS", "800"]);
    client.report(KEY, "a", "ready");
    client.report(KEY, "a", "unready");
    client.report(KEY, "a", "ready");
    let record = client.wait_for_status(KEY, "successful");
    let readies: Vec<Json> = client
        .events_after(KEY, 0)
        .into_iter()
        .filter(|e| e["type"] == "agent_state" && e["state"] == "ready")
        .collect();
    assert_eq!(readies.len(), 2);
    let healthy = event_of(&mut client, KEY, |e| e["type"] == "agent_healthy");
    lateness(&healthy, number(&readies[1]["at"]) + 800);
    assert_eq!(record["finished_at"], healthy["at"], "the last verdict is the end, in the same step");
}

#[test]
fn simultaneous_deadlines_fire_once_and_in_order() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let published = Subscriber::start(&server, "deploy:events:*");
        let mut client = server.client();
        let keys: Vec<String> = (0..200).map(|n| format!("svc-{n:03}")).collect();
        for key in &keys {
            client.deploy(key, &manifest(&["a", "b"], "small"), &["MIN_HEALTHY_MS", "1000"]);
            client.report(key, "a", "ready");
            client.report(key, "b", "ready");
        }
        for key in &keys {
            published.wait_for_event("every end", |e| e["type"] == "deployment_successful" && e["key"] == *key);
        }
        let events = published.events_until_now(&mut client, "deploy:events:mark");
        for key in &keys {
            let of_key: Vec<&Json> = events.iter().filter(|e| e["key"] == *key).collect();
            let revisions: Vec<u64> = of_key.iter().map(|e| number(&e["revision"])).collect();
            assert_eq!(revisions, (1..=revisions.len() as u64).collect::<Vec<_>>(), "{key}");
            let verdicts = of_key.iter().filter(|e| e["type"] == "agent_healthy");
            assert_eq!(verdicts.map(|e| string(&e["agent"])).collect::<Vec<_>>(), ["a", "b"], "{key}");
            for ready in of_key.iter().filter(|e| e["state"] == "ready") {
                let verdict = of_key.iter().find(|e| e["type"] == "agent_healthy" && e["agent"] == ready["agent"]);
                lateness(verdict.expect("counted above"), number(&ready["at"]) + 1000);
            }
        }
    });
}

#[test]
fn paused_writes_defer_verdicts() {
    let _alone = alone();
    on_each_server(|kind| {
        // Alone and with a replica: the server would end itself in both.
        for replicas in [0, 1] {
            let mut primary = Server::start(kind, &[]);
            let replicas: Vec<Server> = (0..replicas).map(|_| Server::start(kind, &[])).collect();
            replicas.iter().for_each(|replica| replica.replicate_from(&primary));
            let mut client = primary.client();
            client.deploy(KEY, &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "1000"]);
            client.carry_out_tasks(KEY);
            let record = client.status(KEY);
            let due = number(&record["deadlines"]["next_at"]);
            let paused_until = unix_ms() + 1800;
            client.call(&["CLIENT", "PAUSE", "1800", "WRITE"]);
            wait_until("a moment past the due time", || unix_ms() > due + 200);
            if unix_ms() < paused_until - 100 {
                assert_eq!(client.status(KEY), record, "nothing is written in the pause, and reading goes on");
            }
            let record = client.wait_for_status(KEY, "successful");
            assert!(number(&record["finished_at"]) + 50 >= paused_until, "not within the pause");
            assert!(primary.is_alive());
            for replica in &replicas {
                replica.catch_up_with(&primary);
                assert_eq!(replica.client().status(KEY), record);
            }
        }
    });
}

#[test]
fn shutdown_waiting_for_a_replica_completes() {
    let _alone = alone();
    on_each_server(|kind| {
        let mut primary = Server::start(kind, &["--shutdown-timeout", "2"]);
        let replica = Server::start(kind, &[]);
        replica.replicate_from(&primary);
        let mut client = primary.client();
        client.deploy(KEY, &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "800"]);
        client.carry_out_tasks(KEY);
        // The replica reads no more, so the primary waits for it, and the verdicts fall due meanwhile.
        replica.signal("STOP");
        client.call(&["SET", "something", "to wait for"]);
        primary.restart(End::Save);
        replica.signal("CONT");
        let record = primary.client().wait_for_status(KEY, "successful");
        assert_eq!(record["health"]["healthy"], 3, "the save before the end had it all");
    });
}

#[test]
fn idle_deployments_use_no_cpu() {
    let _alone = alone();
    let server = Server::start(ServerKind::Redis70, &[]);
    let replica = Server::start(ServerKind::Redis70, &[]);
    replica.replicate_from(&server);
    let mut client = server.client();
    for n in 0..50 {
        let key = format!("svc-{n}");
        client.deploy(&key, &manifest(&["a"], "small"), &QUICK);
        client.carry_out_until(&key, "successful");
    }
    client.deploy("waiting", &manifest(&["a"], "small"), &SLOW);
    replica.catch_up_with(&server);
    let (offset, since) = (client.replication_offset(), unix_ms());
    wait_until("many ticks to pass", || unix_ms() > since + 300);
    assert_eq!(client.replication_offset(), offset, "nothing due, nothing written");
}

#[test]
fn busy_client_does_not_starve_the_timer() {
    const COUNT: usize = 3_000;
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut connection = redis::Client::open(format!("redis://127.0.0.1:{}/", server.port))
            .and_then(|client| client.get_connection())
            .expect("a connection");
        // Each of them is due at once, and all of them are sent in one breath.
        let mut pipe = redis::pipe();
        for n in 0..COUNT {
            let key = format!("due-{n}");
            pipe.cmd("DEPLOY.DEPLOY")
                .arg(&[&key, "MANIFEST", &manifest(&["a"], "small"), "MIN_HEALTHY_MS", "0"])
                .ignore();
            pipe.cmd("DEPLOY.REPORT").arg(&[&key, "a", "ready"]).ignore();
        }
        pipe.cmd("INFO").arg("deploy");
        let (info,): (String,) = pipe.query(&mut connection).expect("all are taken");
        let fired = info.lines().find_map(|line| line.strip_prefix("deploy_timers_fired:")).expect("a field of INFO");
        let fired: usize = fired.parse().expect("a number");
        assert!(fired >= COUNT / 10, "{fired} of {COUNT} while the client was busy");
    });
}
