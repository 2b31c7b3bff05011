//! HealthViolation injection: after a fault of the reference coordinator, its agents or Redis during a rollout, the
//! rollout ends in the status that the rules require, no process is left over, and no agent runs twice at once.

use std::os::unix::process::ExitStatusExt;
use test_support::prelude::*;
use test_support::processes::*;

const KEY: &str = "agent-api";
const PAIR: [&str; 2] = ["web-1", "web-2"];

/// A server, a host, and a first version that runs on it.
fn begun(behaviour: &str, extra: &[&str]) -> (Server, Host, Coordinator) {
    let server = Server::start(ServerKind::Redis70, extra);
    let host = Host::new();
    let coordinator = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    let mut client = server.client();
    client.deploy(KEY, &App::new(&host, &PAIR, behaviour).manifest("first"), &BRISK);
    let record = client.wait_for_status(KEY, "successful");
    host.assert_runs(&record);
    (server, host, coordinator)
}

fn killed_at(step: &str) {
    let (server, host, mut coordinator) = begun("good", &[]);
    let mut client = server.client();
    coordinator.kill();
    let mut dying = Coordinator::start_failing_at(&host, "one", &[url(&server)], &[KEY], step);
    let second = App::new(&host, &PAIR, "good").manifest("second");
    let strategy = if step == "before-stopped" { "blue-green" } else { "rolling" };
    client.deploy(KEY, &second, &[&BRISK[..], &["STRATEGY", strategy]].concat());
    assert_eq!(dying.wait_for_end().signal(), Some(9), "{step}: it was to kill itself");

    let next = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    client.wait_for_status(KEY, "successful");
    wait_until("the old side to have gone", || client.tasks(KEY).is_empty());
    let record = client.status(KEY);
    assert_eq!(record["current_version"], 2, "{step}");
    assert_eq!(record["health"]["healthy"], 2, "{step}");
    host.assert_runs(&record);
    // At most the one that was being started has had to be started twice.
    for agent in PAIR {
        let attempts = if agent == "web-1" { 2 } else { 1 };
        assert!(host.agent(agent).attempt <= attempts, "{step}: {agent}\n{}", next.log());
    }
    host.stop(&mut client, KEY);
}

#[test]
fn crash_before_claiming_a_task_is_recovered() {
    killed_at("task-seen");
}

#[test]
fn crash_after_claiming_a_task_is_recovered() {
    killed_at("taken-up");
}

#[test]
fn crash_after_signalling_the_old_process_is_recovered() {
    killed_at("old-told-to-stop");
}

#[test]
fn crash_between_stop_and_start_is_recovered() {
    killed_at("old-gone");
}

#[test]
fn crash_after_persisting_an_intended_start_is_recovered() {
    killed_at("note-written");
}

#[test]
fn crash_before_persisting_a_started_process_is_recovered() {
    killed_at("started");
}

#[test]
fn crash_before_reporting_a_started_process_is_recovered() {
    killed_at("start-noted");
}

#[test]
fn crash_before_reporting_ready_is_recovered() {
    killed_at("before-ready");
}

#[test]
fn crash_before_reporting_stopped_is_recovered() {
    killed_at("before-stopped");
}

/// A thread that has ended would leave a coordinator that runs and hears nothing.
#[test]
fn panic_in_a_thread_ends_the_coordinator_and_leaves_its_agents() {
    let (server, host, mut coordinator) = begun("good", &[]);
    let before = host.agents();
    coordinator.kill();
    let mut panicking = Coordinator::start_failing_at(&host, "one", &[url(&server)], &[KEY], "connection-usable");
    assert_eq!(panicking.wait_for_end().code(), Some(101), "{}", panicking.log());
    assert!(panicking.log().contains("exits after a panic; agents keep running"), "{}", panicking.log());
    let _next = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    wait_until("it to go on with them", || panicking.log().matches("goes on").count() >= 2);
    assert_eq!(host.agents(), before);
    host.stop(&mut server.client(), KEY);
}

#[test]
fn invalid_url_ends_the_coordinator_without_showing_its_password() {
    let host = Host::new();
    let mut coordinator = Coordinator::start(&host, "one", &["http://ann:secret@localhost/".to_string()], &[KEY]);
    assert_eq!(coordinator.wait_for_end().code(), Some(1));
    assert!(coordinator.log().contains("--redis http://localhost/: "), "{}", coordinator.log());
    assert!(!coordinator.log().contains("secret"), "{}", coordinator.log());
}

// ---- agents that behave badly ---------------------------------------------------------------------------------------

const ONE: [&str; 1] = ["web-1"];

/// Unhealthy soon, and failed at the first unhealthy agent.
const STRICT: [&str; 6] = ["MIN_HEALTHY_MS", "150", "HEALTHY_DEADLINE_MS", "1500", "PROGRESS_DEADLINE_MS", "0"];

#[test]
fn exiting_agent_exhausts_its_restarts_and_fails_the_deployment() {
    let (server, host, coordinator) = begun("good", &[]);
    let mut client = server.client();
    let untouched = host.agent("web-2");
    let broken = App::new(&host, &PAIR, "exits").manifest("second");
    client.deploy(KEY, &broken, &[&BRISK[..], &["AUTO_REVERT", "true"]].concat());
    let record = wait_for("the revert", || {
        Some(client.status(KEY)).filter(|record| record["target_version"] == 3 && record["status"] == "successful")
    });
    assert_eq!(record["cause"], "agent_failed");
    let reason = string(&record["reason"]);
    assert!(
        reason.contains("agent web-1 failed: exited with 3; the restart policy is exhausted (2 restarts in 1m)"),
        "{reason}"
    );
    // One start and two restarts.
    let said = coordinator.log();
    let started = |attempt: u32| said.matches(&format!("web-1 v2 in dep_agent-api_1: attempt {attempt} runs")).count();
    assert_eq!([1, 2, 3, 4].map(started), [1, 1, 1, 0], "{said}");
    // Each is told, but for one that ends before Redis has answered about the last.
    let log = client.log_without_repetition(KEY);
    let told = log.iter().filter(|event| event["type"] == "agent_state" && event["version"] == 2);
    let told: Vec<(&str, u64)> = told.map(|event| (string(&event["state"]), number(&event["attempt"]))).collect();
    assert!(told.is_sorted_by_key(|(_, attempt)| attempt), "{told:?}");
    assert_eq!((told.first(), told.last()), (Some(&("starting", 1)), Some(&("failed", 3))), "{told:?}");
    host.assert_runs(&record);
    assert_eq!(host.agent("web-2"), untouched, "the rollout never came to it");
    host.stop(&mut client, KEY);
}

#[test]
fn hanging_agent_is_unhealthy_at_its_deadline_and_rolled_back() {
    let (server, host, _coordinator) = begun("good", &[]);
    let mut client = server.client();
    client.deploy(KEY, &App::new(&host, &PAIR, "hangs").manifest("second"), &STRICT);
    let record = client.wait_for_status(KEY, "failed");
    assert_eq!(record["cause"], "unhealthy_agent");
    let why = string(&record["description"]);
    assert!(why.contains("check up") && why.contains("Connection refused"), "it says which check, and why: {why}");
    // It is left as it is, until an operator acts.
    host.assert_runs(&record);
    assert_eq!(host.agent("web-1").version, 2);
    client.call(&["DEPLOY.ROLLBACK", KEY]);
    let record = client.wait_for_status(KEY, "successful");
    host.assert_runs(&record);
    assert_eq!(host.agent("web-1").version, 3);
    host.stop(&mut client, KEY);
}

fn states_of(client: &mut Client, attempt: u64) -> Vec<(String, Option<String>)> {
    let log = client.events_after(KEY, 0);
    let states = log.iter().filter(|event| event["type"] == "agent_state" && event["attempt"] == attempt);
    states.map(|event| (string(&event["state"]).to_string(), event["reason"].as_str().map(str::to_string))).collect()
}

/// A process that has not opened its port yet is no failure, however often it is checked meanwhile.
#[test]
fn failing_checks_are_not_reported_during_the_start_period() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let host = Host::new();
    let mut coordinator = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    let mut client = server.client();
    let app = App { start_period_ms: 60_000, ..App::new(&host, &ONE, "starts-after 700") };
    client.deploy(KEY, &app.manifest("first"), &BRISK);
    client.wait_for_status(KEY, "successful");
    let states: Vec<String> = states_of(&mut client, 1).into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, ["starting", "ready"]);
    // The period ends with the first success: what fails then is told at once.
    host.agent("web-1").signal("STOP");
    wait_until("its check to fail", || client.status(KEY)["instances"][0]["state"] == "unready");
    host.agent("web-1").signal("CONT");
    wait_until("its check to pass", || client.status(KEY)["instances"][0]["state"] == "ready");
    // A restart has a period of its own, also where the coordinator is another one by then.
    host.agent("web-1").signal("KILL");
    wait_until("it to be started again", || host.agents().get("web-1").is_some_and(|all| all[0].attempt == 2));
    coordinator.kill();
    let _next = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    wait_until("it to be ready again", || states_of(&mut client, 2).last().is_some_and(|(state, _)| state == "ready"));
    let told = states_of(&mut client, 2).into_iter().filter_map(|(_, reason)| reason);
    assert_eq!(told.filter(|reason| reason.contains("check up")).collect::<Vec<_>>(), Vec::<String>::new());
    host.stop(&mut client, KEY);
}

#[test]
fn failing_checks_are_reported_after_the_start_period() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let host = Host::new();
    let _coordinator = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    let mut client = server.client();
    let app = App { start_period_ms: 400, ..App::new(&host, &ONE, "hangs") };
    client.deploy(KEY, &app.manifest("first"), &BRISK);
    let instance = wait_for("its check to be critical", || {
        let instance = client.status(KEY)["instances"][0].clone();
        (instance["state"] == "unready").then_some(instance)
    });
    assert!(string(&instance["reason"]).contains("Connection refused"), "{instance}");
    let times: Vec<u64> = client
        .events_after(KEY, 0)
        .iter()
        .filter(|event| event["type"] == "agent_state")
        .map(|event| number(&event["at"]))
        .collect();
    assert!(times[1] - times[0] >= 400, "{times:?}");
    host.stop(&mut client, KEY);
}

/// The first failure need not be the present one.
#[test]
fn new_reason_of_a_failing_check_replaces_the_old_one() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let host = Host::new();
    let _coordinator = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    let mut client = server.client();
    let app = App { start_period_ms: 0, ..App::new(&host, &ONE, "starts-unhealthy 400") };
    client.deploy(KEY, &app.manifest("first"), &BRISK);
    for words in ["Connection refused", "status 503"] {
        wait_until(words, || {
            let record = client.status(KEY);
            [&record["instances"], &record["services"]]
                .iter()
                .all(|list| list[0]["reason"].as_str().is_some_and(|reason| reason.contains(words)))
        });
    }
    // It is said once, and not at each run of the check.
    let revision = client.status(KEY)["revision"].clone();
    wait_past(unix_ms() + 1_500);
    assert_eq!(client.status(KEY)["revision"], revision);
    host.stop(&mut client, KEY);
}

#[test]
fn agent_ignoring_sigterm_is_killed_before_its_successor_starts() {
    let (server, host, coordinator) = begun("deaf", &[]);
    let mut client = server.client();
    client.deploy(KEY, &App::new(&host, &PAIR, "good").manifest("second"), &BRISK);
    let record = client.wait_for_status(KEY, "successful");
    host.assert_runs(&record);
    assert_eq!(coordinator.log().matches("SIGKILL").count(), 2, "{}", coordinator.log());
    // Who is told to stop is taken out of the callers' sight before it goes, however long it takes to go.
    client.deploy(KEY, &App::new(&host, &PAIR, "deaf").manifest("third"), &BRISK);
    client.wait_for_status(KEY, "successful");
    client.call(&["DEPLOY.STOP", KEY]);
    wait_until("nobody to be resolved", || array(&client.json(&["DEPLOY.RESOLVE", KEY, "JSON"])).is_empty());
    assert_eq!(host.agents().len(), 2);
    host.stop(&mut client, KEY);
}

#[test]
fn child_processes_end_with_their_agent() {
    let (server, host, mut coordinator) = begun("parent", &[]);
    let mut client = server.client();
    let (shells, agents): (Vec<_>, Vec<_>) = host.processes().into_iter().partition(|process| !process.is_agent);
    assert_eq!((shells.len(), agents.len()), (4, 2), "a child in its process group, and one that has left it, each");
    // The agent itself dies: what it has left is ended before it is started again.
    host.agent("web-1").signal("KILL");
    wait_until("web-1 to run again", || host.agents().get("web-1").is_some_and(|all| all[0].attempt == 2));
    wait_until("its services", || array(&client.json(&["DEPLOY.RESOLVE", KEY, "JSON"])).len() == 2);
    let of_first = host.processes().into_iter().filter(|process| process.agent == "web-1" && process.attempt == 1);
    assert_eq!(of_first.collect::<Vec<_>>(), []);
    // And where nobody was there when it died.
    coordinator.kill();
    let well = host.agent("web-1");
    host.agent("web-2").signal("KILL");
    // What an agent has started is not taken for the agent, with a note of it or without.
    for entry in std::fs::read_dir(host.state("one").join("agents")).expect("notes").flatten() {
        if entry.file_name().to_string_lossy().contains("web-1") {
            std::fs::remove_file(entry.path()).expect("a note");
        }
    }
    let _next = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    wait_until("web-2 to run again", || host.agents().get("web-2").is_some_and(|all| all[0].attempt == 2));
    let of_first = host.processes().into_iter().filter(|process| process.agent == "web-2" && process.attempt == 1);
    assert_eq!(of_first.collect::<Vec<_>>(), []);
    wait_until("its services", || array(&client.json(&["DEPLOY.RESOLVE", KEY, "JSON"])).len() == 2);
    assert_eq!(host.agent("web-1"), well);
    // It is the agent whose end it waits for, also where it did not start it.
    well.signal("KILL");
    wait_until("web-1 to run again", || host.agents().get("web-1").is_some_and(|all| all[0].attempt == 3));
    host.stop(&mut client, KEY);
}

#[test]
fn crashed_agent_is_restarted_and_becomes_healthy() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let host = Host::new();
    let _coordinator = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    let mut client = server.client();
    client.deploy(KEY, &App::new(&host, &ONE, "dies-once 2500").manifest("first"), &BRISK);
    client.wait_for_status(KEY, "successful");
    let record = wait_for("the second attempt to be healthy", || {
        let record = client.status(KEY);
        let instance = &record["instances"][0];
        (instance["attempt"] == 2 && instance["health"] == "healthy").then_some(record)
    });
    assert_eq!(record["status"], "successful", "it is closed");
    let log = client.events_after(KEY, 0);
    // Whether or not its check was first to notice, and the restart quicker than the word about the end.
    let restart = log.iter().find(|e| e["state"] == "starting" && e["attempt"] == 2).expect("its restart was told");
    assert!(string(&restart["reason"]).ends_with(": exited with 4"), "{restart}");
    assert_eq!(
        client.json(&["DEPLOY.RESOLVE", KEY, "JSON"])[0]["port"].to_string(),
        host.agent("web-1").variable("PORT").unwrap()
    );
    host.stop(&mut client, KEY);
}

#[test]
fn failed_agent_does_not_reopen_a_finished_deployment() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let host = Host::new();
    let mut coordinator = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    let mut client = server.client();
    let app = App { attempts: 1, ..App::new(&host, &ONE, "dies 1500") };
    client.deploy(KEY, &app.manifest("first"), &BRISK);
    client.wait_for_status(KEY, "successful");
    let failed = |client: &mut Client| client.status(KEY)["instances"][0]["state"] == "failed";
    wait_until("it to have failed", || failed(&mut client));
    assert_eq!(client.status(KEY)["status"], "successful");
    assert_eq!(host.processes(), []);
    assert_eq!(client.json(&["DEPLOY.RESOLVE", KEY, "JSON"]), serde_json::json!([]));
    // A new coordinator does not begin to count anew.
    coordinator.kill();
    let _next = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    client.deploy(KEY, &App::new(&host, &ONE, "good").manifest("second"), &BRISK);
    let record = client.wait_for_status(KEY, "successful");
    assert_eq!(record["instances"][0]["version"], 2);
    let starts = client.events_after(KEY, 0);
    let starts = starts.iter().filter(|e| e["type"] == "agent_state" && e["version"] == 1 && e["state"] == "starting");
    assert_eq!(starts.count(), 2);
    host.stop(&mut client, KEY);
}

#[test]
fn flapping_check_prevents_health_below_the_failure_threshold() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let host = Host::new();
    let _coordinator = Coordinator::start(&host, "one", &[url(&server)], &["flapping", "patient"]);
    let mut client = server.client();
    let flapping = App::new(&host, &ONE, "flaps 250");
    let patient = App { failures_before_critical: 60, ..App::new(&host, &ONE, "flaps 250") };
    let limits = ["MIN_HEALTHY_MS", "700", "HEALTHY_DEADLINE_MS", "2500", "PROGRESS_DEADLINE_MS", "0"];
    client.deploy("flapping", &flapping.manifest("first"), &limits);
    client.deploy("patient", &patient.manifest("first"), &limits);
    client.wait_for_status("patient", "successful");
    let record = client.wait_for_status("flapping", "failed");
    assert_eq!(record["cause"], "unhealthy_agent");
    // It is not restarted for it, and the record follows it up and down.
    assert_eq!(record["instances"][0]["attempt"], 1);
    let log = client.events_after("flapping", 0);
    let states = log.iter().filter(|e| e["type"] == "agent_state").map(|e| string(&e["state"])).collect::<Vec<_>>();
    assert!(states.windows(3).any(|three| three == ["ready", "unready", "ready"]), "{states:?}");
    let whys = log.iter().filter(|e| e["state"] == "unready").map(|e| string(&e["reason"])).collect::<Vec<_>>();
    assert!(whys.iter().any(|why| why.starts_with("check up: ") && why.ends_with("status 503")), "{whys:?}");
    client.call(&["DEPLOY.STOP", "patient"]);
    host.stop(&mut client, "flapping");
}

// ---- Redis ----------------------------------------------------------------------------------------------------------

#[test]
fn redis_restart_during_a_rollout_is_survived() {
    let (mut server, host, _coordinator) = begun("good", &["--appendonly", "yes", "--appendfsync", "always"]);
    let before = host.agents();
    server.restart(End::Kill);
    let mut client = server.client();
    assert_eq!(host.agents(), before);
    client.deploy(KEY, &App::new(&host, &PAIR, "good").manifest("second"), &BRISK);
    for state in ["starting", "ready"] {
        wait_until("the first agent to get on", || {
            client.events_after(KEY, 0).iter().any(|e| e["version"] == 2 && e["state"] == state)
        });
        server.restart(End::Kill);
        client = server.client();
    }
    let record = client.wait_for_status(KEY, "successful");
    host.assert_runs(&record);
    for agent in PAIR {
        assert_eq!(host.agent(agent).attempt, 1, "Redis's death is no reason to restart anybody");
    }
    host.stop(&mut client, KEY);
}

#[test]
fn redis_restart_with_lost_writes_is_survived() {
    // No persistence but the snapshot of a moment: all that was decided since has never happened.
    let (mut server, host, _coordinator) = begun("good", &[]);
    let mut client = server.client();
    client.call(&["SAVE"]);
    client.deploy(KEY, &App::new(&host, &PAIR, "good").manifest("second"), &BRISK);
    client.wait_for_status(KEY, "successful");
    server.restart(End::Kill);
    let mut client = server.client();
    assert_eq!(client.status(KEY)["current_version"], 1);
    wait_until("version 1 to run again", || {
        let record = client.status(KEY);
        let back =
            array(&record["instances"]).iter().all(|i| i["version"] == 1 && i["state"] == "ready" && i["attempt"] == 2);
        back && host.agents().values().flatten().all(|process| process.version == 1)
    });
    host.stop(&mut client, KEY);
}

#[test]
fn agents_are_supervised_while_redis_is_unreachable_and_reported_later() {
    let (server, host, coordinator) = begun("good", &[]);
    let mut client = server.client();
    server.signal("STOP");
    wait_until("the coordinator to notice", || coordinator.log().contains("no Redis"));
    let before = host.agent("web-2");
    host.agent("web-1").signal("KILL");
    wait_until("it to be restarted", || host.agents().get("web-1").is_some_and(|all| all[0].attempt == 2));
    server.signal("CONT");
    wait_until("the record to know", || {
        let record = client.status(KEY);
        record["instances"][0]["attempt"] == 2 && array(&record["instances"]).iter().all(|i| i["health"] == "healthy")
    });
    assert_eq!(host.agent("web-2"), before);
    let record = client.status(KEY);
    host.assert_runs(&record);
    host.stop(&mut client, KEY);
}

#[test]
fn failures_during_an_outage_of_redis_and_coordinator_are_reported() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let host = Host::new();
    let mut coordinator = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    let mut client = server.client();
    let app = App { attempts: 0, ..App::new(&host, &ONE, "good") };
    client.deploy(KEY, &app.manifest("first"), &BRISK);
    client.wait_for_status(KEY, "successful");
    server.signal("STOP");
    host.agent("web-1").signal("KILL");
    // Its end, and that its policy is exhausted, is in its note; nobody else has been told.
    wait_until("its end to be noted", || {
        let notes = std::fs::read_dir(host.state("one").join("agents")).expect("notes").flatten();
        notes.filter_map(|note| std::fs::read_to_string(note.path()).ok()).any(|note| note.contains("has no restarts"))
    });
    coordinator.kill();
    server.signal("CONT");
    let _next = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    wait_until("the record to hear of it", || client.status(KEY)["instances"][0]["state"] == "failed");
    let reason = client.status(KEY)["instances"][0]["reason"].clone();
    assert!(string(&reason).contains("the restart policy has no restarts"), "{reason}");
    assert_eq!(host.processes(), []);
    host.stop(&mut client, KEY);
}

#[test]
fn rollout_completes_despite_repeated_disconnects() {
    let (server, host, coordinator) = begun("good", &[]);
    let mut client = server.client();
    client.deploy(KEY, &App::new(&host, &PAIR, "good").manifest("second"), &BRISK);
    let connections = || coordinator.log().matches("connected to").count();
    for _ in 0..10 {
        let before = connections();
        for kind in ["normal", "pubsub"] {
            client.call(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
        }
        wait_until("it to be connected again", || connections() > before);
    }
    let record = client.wait_for_status(KEY, "successful");
    assert_eq!(record["current_version"], 2);
    host.assert_runs(&record);
    for agent in PAIR {
        assert_eq!(host.agent(agent).attempt, 1);
    }
    host.stop(&mut client, KEY);
}

#[test]
fn coordinator_follows_failovers_to_the_new_primary() {
    let (first, second) = (Server::start(ServerKind::Redis70, &[]), Server::start(ServerKind::Redis70, &[]));
    second.replicate_from(&first);
    let host = Host::new();
    let coordinator = Coordinator::start(&host, "one", &[url(&first), url(&second)], &[KEY]);
    let mut client = first.client();
    client.deploy(KEY, &App::new(&host, &PAIR, "good").manifest("first"), &BRISK);
    client.wait_for_status(KEY, "successful");
    client.deploy(KEY, &App::new(&host, &PAIR, "good").manifest("second"), &BRISK);
    wait_until("the first agent to be ready", || {
        client.events_after(KEY, 0).iter().any(|e| e["version"] == 2 && e["state"] == "ready")
    });
    client.call(&["FAILOVER"]);
    wait_until("the replica to take over", || second.client().info("replication", "role") == "master");
    let mut client = second.client();
    let record = client.wait_for_status(KEY, "successful");
    assert_eq!(record["current_version"], 2);
    host.assert_runs(&record);
    for agent in PAIR {
        assert_eq!(host.agent(agent).attempt, 1, "a failover is no reason to restart anybody");
    }
    assert!(coordinator.log().contains(&format!("connected to {}", url(&second))), "{}", coordinator.log());

    // The new primary dies, and the old one is promoted as an operator would.
    let mut second = second;
    first.catch_up_with(&second);
    second.kill();
    let mut client = first.client();
    client.call(&["REPLICAOF", "NO", "ONE"]);
    client.deploy(KEY, &App::new(&host, &PAIR, "good").manifest("third"), &BRISK);
    let record = client.wait_for_status(KEY, "successful");
    host.assert_runs(&record);
    host.stop(&mut client, KEY);
}

// ---- coordinators ---------------------------------------------------------------------------------------------------

#[test]
fn coordinators_with_different_globs_share_a_deployment() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let host = Host::new();
    let start = |name, globs: [&str; 2]| {
        Coordinator::start(&host, name, &[url(&server)], &[KEY, "--agents", globs[0], "--agents", globs[1]])
    };
    let (_one, mut two) = (start("one", ["web-1", "api-*"]), start("two", ["web-[2-9]", "db"]));
    let mut client = server.client();
    let agents = ["web-1", "web-2", "api-1", "db"];
    client.deploy(KEY, &App::new(&host, &agents, "good").manifest("first"), &BRISK);
    client.wait_for_status(KEY, "successful");
    client.deploy(
        KEY,
        &App::new(&host, &agents, "good").manifest("second"),
        &[&BRISK[..], &["MAX_PARALLEL", "2"]].concat(),
    );
    // One of them dies meanwhile, and is replaced.
    wait_until("web-2 to be taken up", || {
        client
            .events_after(KEY, 0)
            .iter()
            .any(|e| e["version"] == 2 && e["agent"] == "web-2" && e["type"] == "agent_state")
    });
    two.kill();
    let _two = start("two", ["web-[2-9]", "db"]);
    let record = client.wait_for_status(KEY, "successful");
    assert_eq!(record["current_version"], 2);
    host.assert_runs(&record);
    for (agent, owner) in [("web-1", "one"), ("api-1", "one"), ("web-2", "two"), ("db", "two")] {
        let state = host.agent(agent).variable("DEPLOY_COORDINATOR").expect("a marker");
        assert_eq!(state, host.state(owner).display().to_string(), "{agent}");
    }
    host.stop(&mut client, KEY);
}

/// Waits until every agent of the record runs once, under one coordinator, and stays so.
fn wait_until_each_runs_once(client: &mut Client, host: &Host, agents: &[&str]) {
    let settled = |client: &mut Client| {
        let record = client.status(KEY);
        let is_well = array(&record["instances"]).iter().all(|i| i["state"] == "ready" && i["health"] == "healthy");
        let runs = host.agents();
        let is_once = runs.values().all(|processes| processes.len() == 1);
        (is_well && is_once && runs.len() == agents.len()).then(|| (record["revision"].clone(), runs))
    };
    let first = wait_for("every agent to run once", || settled(client));
    // Two polls and a pause before a repetition later, nothing has changed.
    wait_past(unix_ms() + 2_500);
    assert_eq!(settled(client), Some(first));
}

/// The agents of two coordinators are not divided here, which is a mistake: each claims what it finds.
#[test]
fn later_coordinator_with_the_same_agents_takes_over_and_the_earlier_one_yields() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let host = Host::new();
    let start = |name| Coordinator::start(&host, name, &[url(&server)], &[KEY]);
    let mut one = start("one");
    let mut client = server.client();
    let agents = ["web-1", "web-2", "web-3"];
    client.deploy(KEY, &App::new(&host, &agents, "good").manifest("first"), &BRISK);
    client.wait_for_status(KEY, "successful");
    let before = number(&client.status(KEY)["revision"]);

    let mut two = start("two");
    wait_until("the earlier one to yield", || one.log().matches("its process here is stopped").count() == agents.len());
    wait_until_each_runs_once(&mut client, &host, &agents);
    let record = client.status(KEY);
    let attempts: Vec<u64> = array(&record["instances"]).iter().map(|i| number(&i["attempt"])).collect();
    assert_eq!(attempts, [2, 2, 2]);
    for process in host.agents().into_values().flatten() {
        assert_eq!(process.variable("DEPLOY_COORDINATOR"), Some(host.state("two").display().to_string()));
    }
    // Of each agent: a claim, ready, unhealthy and healthy again, and its service at two addresses.
    let events = number(&record["revision"]) - before;
    assert!(events <= 10 * agents.len() as u64, "{events} events");
    assert!(one.is_alive() && two.is_alive());

    // The restart of an agent is its coordinator's.
    host.agent("web-1").signal("KILL");
    wait_until("web-1 to run again", || host.agents().get("web-1").is_some_and(|all| all[0].attempt == 3));
    wait_until_each_runs_once(&mut client, &host, &agents);
    assert_eq!(host.agent("web-1").variable("DEPLOY_COORDINATOR"), Some(host.state("two").display().to_string()));

    // Told to stop, what runs is stopped before it is reported, by whoever runs it.
    client.call(&["DEPLOY.STOP", KEY]);
    wait_until("all agents to be reported stopped", || array(&client.status(KEY)["instances"]).is_empty());
    assert_eq!(host.processes(), [], "after all was reported stopped");
}

/// Both read each task, and one of them gets it.
#[test]
fn coordinators_with_the_same_agents_start_each_agent_once() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let host = Host::new();
    let coordinators = ["one", "two"].map(|name| Coordinator::start(&host, name, &[url(&server)], &[KEY]));
    for coordinator in &coordinators {
        wait_until("it to be connected", || coordinator.log().contains("connected to"));
    }
    let mut client = server.client();
    let agents = ["web-1", "web-2", "web-3", "web-4", "web-5", "web-6"];
    client.deploy(KEY, &App::new(&host, &agents, "good").manifest("first"), &BRISK);
    let record = client.wait_for_status(KEY, "successful");
    let attempts: Vec<u64> = array(&record["instances"]).iter().map(|i| number(&i["attempt"])).collect();
    assert_eq!(attempts, [1; 6]);
    wait_until_each_runs_once(&mut client, &host, &agents);
    host.assert_nothing_ran_twice();
    let first = number(&record["revision"]);
    // An update in place: the old process may be one coordinator's, and the new one the other's.
    let parallel = [&BRISK[..], &["MAX_PARALLEL", "3"]].concat();
    client.deploy(KEY, &App::new(&host, &agents, "good").manifest("second"), &parallel);
    client.wait_for_status(KEY, "successful");
    wait_until_each_runs_once(&mut client, &host, &agents);
    let record = client.status(KEY);
    host.assert_runs(&record);
    let events = number(&record["revision"]) - first;
    assert!(events <= 15 * agents.len() as u64, "{events} events");
    client.call(&["DEPLOY.STOP", KEY]);
    wait_until("all agents to be reported stopped", || array(&client.status(KEY)["instances"]).is_empty());
    wait_until("all processes to end", || host.processes().is_empty());
}

#[test]
fn state_directory_is_locked_to_one_coordinator() {
    let (server, host, mut coordinator) = begun("good", &[]);
    let mut second = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    assert_eq!(second.wait_for_end().code(), Some(1));
    assert!(second.log().contains("is in use by another coordinator"), "{}", second.log());
    assert!(coordinator.is_alive());
    host.stop(&mut server.client(), KEY);
}

#[test]
fn agents_outlive_their_coordinator_and_are_adopted_again() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let host = Host::new();
    let ttl_ms = 1_500;
    let arguments = [KEY, "--service-ttl-ms", &ttl_ms.to_string()];
    let mut coordinator = Coordinator::start(&host, "one", &[url(&server)], &arguments);
    let mut client = server.client();
    let agents = ["web-1", "web-2", "web-3"];
    client.deploy(KEY, &App::new(&host, &agents, "good").manifest("first"), &BRISK);
    client.wait_for_status(KEY, "successful");
    // For as long as it is there, no TTL runs out.
    wait_past(unix_ms() + 2 * ttl_ms);
    assert_eq!(array(&client.json(&["DEPLOY.RESOLVE", KEY, "JSON"])).len(), 3);
    let log = client.events_after(KEY, 0);
    let late = log.iter().filter(|e| e["type"] == "service_status" && e["status"] == "critical");
    assert_eq!(late.count(), 0, "{log:?}");
    let before = host.agents();
    coordinator.kill();
    // One dies unseen, and one's note is lost: it is found by its environment.
    before["web-3"][0].signal("KILL");
    for entry in std::fs::read_dir(host.state("one").join("agents")).expect("notes").flatten() {
        if entry.file_name().to_string_lossy().contains("web-2") {
            std::fs::remove_file(entry.path()).expect("a note");
        }
    }
    wait_until("the services' TTLs to run out", || array(&client.json(&["DEPLOY.RESOLVE", KEY, "JSON"])).is_empty());
    let _next = Coordinator::start(&host, "one", &[url(&server)], &arguments);
    wait_until("all to be well again", || {
        let record = client.status(KEY);
        array(&record["instances"]).iter().all(|i| i["health"] == "healthy" && i["state"] == "ready")
            && array(&client.json(&["DEPLOY.RESOLVE", KEY, "JSON"])).len() == 3
    });
    for agent in PAIR {
        assert_eq!(host.agent(agent), before[agent][0], "it runs on");
    }
    assert_eq!(host.agent("web-3").attempt, 2);
    let record = client.status(KEY);
    assert_eq!(record["instances"][0]["attempt"], 1);
    assert_eq!(record["instances"][2]["attempt"], 2);
    host.stop(&mut client, KEY);
}

#[test]
fn agents_ended_by_a_reboot_have_not_failed() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let host = Host::new();
    let mut coordinator = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    let mut client = server.client();
    let app = App { attempts: 0, ..App::new(&host, &PAIR, "good") };
    client.deploy(KEY, &app.manifest("first"), &BRISK);
    client.wait_for_status(KEY, "successful");
    coordinator.kill();
    for agent in PAIR {
        host.agent(agent).signal("KILL");
    }
    // One note is of another start of the system; by the other, its agent just died.
    for entry in std::fs::read_dir(host.state("one").join("agents")).expect("notes").flatten() {
        if entry.file_name().to_string_lossy().contains("web-1") {
            let text = std::fs::read_to_string(entry.path()).expect("a note");
            let mut note: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            note["boot"] = "another".into();
            std::fs::write(entry.path(), note.to_string()).expect("a note");
        }
    }
    let _next = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    wait_until("the one to be ready and the other to have failed", || {
        let record = client.status(KEY);
        record["instances"][0]["state"] == "ready" && record["instances"][1]["state"] == "failed"
    });
    assert_eq!(host.agent("web-1").attempt, 2);
    host.stop(&mut client, KEY);
}

#[test]
fn sigterm_leaves_or_stops_agents_as_configured() {
    let (server, host, mut coordinator) = begun("good", &[]);
    let mut client = server.client();
    let before = host.agents();
    signal(coordinator.pid(), "TERM");
    assert_eq!(coordinator.wait_for_end().code(), Some(0));
    assert_eq!(host.agents(), before);
    let mut coordinator = Coordinator::start(&host, "one", &[url(&server)], &[KEY, "--stop-on-exit"]);
    wait_until("it to go on with them", || coordinator.log().matches("goes on").count() == 2);
    signal(coordinator.pid(), "TERM");
    assert_eq!(coordinator.wait_for_end().code(), Some(0));
    assert_eq!(host.processes(), []);
    let record = client.status(KEY);
    for instance in array(&record["instances"]) {
        assert_eq!(instance["state"], "unready", "{record}");
    }
    assert_eq!(array(&record["services"]).len(), 0);
    // Back again, they are started again, as new attempts.
    let _next = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
    wait_until("all to be healthy again", || {
        let record = client.status(KEY);
        array(&record["instances"]).iter().all(|i| i["health"] == "healthy" && i["attempt"] == 2)
    });
    host.stop(&mut client, KEY);
}

// ---- records --------------------------------------------------------------------------------------------------------

#[test]
fn deleted_key_keeps_its_agents_until_the_next_deploy() {
    let (server, host, mut coordinator) = begun("good", &[]);
    let mut client = server.client();
    let before = host.agents();
    client.call(&["DEL", KEY]);
    wait_until("the coordinator to hear of it", || coordinator.log().contains("is gone"));
    // They run on, and are restarted as ever.
    before["web-1"][0].signal("KILL");
    wait_until("web-1 to run again", || host.agents().get("web-1").is_some_and(|all| all[0].attempt == 2));
    assert_eq!(host.agents()["web-2"], before["web-2"]);
    // The same version, job and agents once more, and yet others: the old ones go first.
    client.deploy(KEY, &App::new(&host, &PAIR, "good").manifest("anew"), &BRISK);
    let record = client.wait_for_status(KEY, "successful");
    host.assert_runs(&record);
    for agent in PAIR {
        assert_ne!(host.agent(agent).pid, before[agent][0].pid);
        assert_eq!(host.agent(agent).variable("LABEL").as_deref(), Some("anew"));
    }
    // With --stop-deleted-ms they are stopped, also where nobody was there when the key went.
    coordinator.kill();
    client.call(&["DEL", KEY]);
    let _next = Coordinator::start(&host, "one", &[url(&server)], &["--match", "agent-*", "--stop-deleted-ms", "100"]);
    wait_until("all to be stopped", || host.processes().is_empty());
    host.assert_nothing_ran_twice();
}

#[test]
fn newer_version_supersedes_a_rollout_at_any_step() {
    let (server, host, _coordinator) = begun("deaf", &[]); // slow to go, so that there is a middle
    let mut client = server.client();
    for (label, next) in [("second", "third"), ("fourth", "fifth")] {
        client.deploy(
            KEY,
            &App::new(&host, &PAIR, "deaf").manifest(label),
            &[&BRISK[..], &["MAX_PARALLEL", "2"]].concat(),
        );
        wait_until("the first to be taken up", || client.tasks(KEY).len() < 2);
        client.deploy(
            KEY,
            &App::new(&host, &PAIR, "deaf").manifest(next),
            &[&BRISK[..], &["MAX_PARALLEL", "2"]].concat(),
        );
        let record = client.wait_for_status(KEY, "successful");
        host.assert_runs(&record);
        for agent in PAIR {
            assert_eq!(host.agent(agent).variable("LABEL").as_deref(), Some(next));
        }
    }
    host.stop(&mut client, KEY);
}

#[test]
fn canaries_precede_promotion_and_blue_green_stops_the_old_job() {
    let (server, host, _coordinator) = begun("good", &[]);
    let mut client = server.client();
    let before = host.agent("web-2");
    client.deploy(KEY, &App::new(&host, &PAIR, "good").manifest("second"), &[&BRISK[..], &["CANARY", "1"]].concat());
    client.wait_for_status(KEY, "awaiting_promotion");
    assert_eq!(host.agent("web-2"), before);
    client.call(&["DEPLOY.PROMOTE", KEY]);
    client.wait_for_status(KEY, "successful");
    // The same agents in a second job, beside the first, and then instead of it.
    let options = [&BRISK[..], &["STRATEGY", "blue-green", "CANARY", "1"]].concat();
    client.deploy(KEY, &App::new(&host, &PAIR, "good").manifest("third"), &options);
    let record = client.wait_for_status(KEY, "awaiting_promotion");
    host.assert_runs(&record);
    assert_eq!(host.agents().values().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    client.call(&["DEPLOY.PROMOTE", KEY]);
    wait_until("the old side to have gone", || client.tasks(KEY).is_empty());
    let record = client.status(KEY);
    host.assert_runs(&record);
    assert_eq!(host.agents().values().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
    host.stop(&mut client, KEY);
}

#[test]
fn services_checks_ports_and_variables_follow_the_manifest() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let host = Host::new();
    let _coordinator =
        Coordinator::start(&host, "one", &[url(&server)], &["--match", "app:*", "--address", "127.0.0.9"]);
    let mut client = server.client();
    let fixed = next_port();
    let gate = host.folder.join("gate");
    let mut node = App::new(&host, &ONE, "good").node("web-1", "${env.PORT}");
    node["resources"]["ports"] = serde_json::json!([{ "label": "side-door", "port": "auto" }]);
    node["services"] = serde_json::json!([
        { "name": "web", "port": fixed, "address": "0.0.0.0", "tags": ["a", "b"], "meta": { "at": "${service.port}" },
          "checks": [{ "type": "tcp", "port": "${service.port}", "interval": "40ms", "timeout": "1s" },
                     { "type": "http", "path": "/health", "expected_status": 200, "interval_ms": 40 },
                     { "type": "script", "command": "test", "args": ["-e", gate], "interval_ms": 40 }] },
        { "name": "side", "port": "${env.DEPLOY_PORT_SIDE_DOOR}", "address": "127.0.0.1",
          "checks": [{ "name": "not required", "type": "tcp", "interval_ms": 40, "required": false }] },
    ]);
    let manifest = serde_json::json!({ "type": "service", "nodes": [node, { "node_id": "sink" }] }).to_string();
    client.deploy("app:x", &manifest, &BRISK);
    // The script fails for as long as there is no gate, and with a code that is a warning, which does not keep the
    // agent from being ready, and its service from being resolved.
    wait_until("the warning", || {
        array(&client.status("app:x")["services"]).iter().any(|s| s["service"] == "web" && s["status"] == "warning")
    });
    std::fs::write(&gate, "open").expect("the gate");
    wait_until("both services", || array(&client.json(&["DEPLOY.RESOLVE", "app:x", "JSON"])).len() == 2);
    let services = client.json(&["DEPLOY.RESOLVE", "app:x", "JSON"]);
    let service = |name: &str| array(&services).iter().find(|s| s["service"] == name).expect("a service").clone();
    assert_eq!((&service("web")["address"], &service("web")["port"]), (&"127.0.0.9".into(), &fixed.into()));
    assert_eq!(service("web")["tags"], serde_json::json!(["a", "b"]));
    assert_eq!(service("web")["meta"], serde_json::json!({ "at": fixed.to_string() }));
    assert_eq!(service("side")["address"], "127.0.0.1");
    let agent = host.agent("web-1");
    let variables =
        ["DEPLOY_KEY", "DEPLOY_NODE", "DEPLOY_JOB", "PORT", "LABEL", "DEPLOY_PORT_WEB", "MN_PORT_SIDE_DOOR"];
    let [key, node, job, port, label, web, side] = variables.map(|name| agent.variable(name).unwrap_or_default());
    let fixed = fixed.to_string();
    assert_eq!([key, node, job], ["app:x", "web-1", "dep_app-x_1"]);
    assert_eq!([port, label, web], [fixed.clone(), fixed.clone(), fixed]);
    assert_eq!(side, service("side")["port"].to_string());
    // A node without a command is nobody's here: its task stays.
    let tasks = client.tasks("app:x");
    assert_eq!(tasks.iter().map(|task| string(&task["agent"])).collect::<Vec<_>>(), ["sink"]);
    client.call(&["DEPLOY.STOP", "app:x"]);
    wait_until("all to be stopped", || host.processes().is_empty());
}

#[test]
fn unstartable_agent_fails_with_the_reason() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let host = Host::new();
    let _coordinator = Coordinator::start(&host, "one", &[url(&server)], &["--match", "*"]);
    let mut client = server.client();
    let mut app = App::new(&host, &ONE, "good").json("first");
    for (key, field, value, words) in [
        ("missing", "command", serde_json::json!(["/no/such/program"]), "cannot start: /no/such/program: No such file"),
        ("shape", "command", serde_json::json!("a line for a shell"), "config.command must be an array"),
        (
            "variable",
            "command",
            serde_json::json!(["sleep", "${env.NOBODY}"]),
            "cannot start: ${env.NOBODY} is not set",
        ),
    ] {
        app["nodes"][0]["config"][field] = value;
        client.deploy(key, &app.to_string(), &BRISK);
        let record = client.wait_for_status(key, "failed");
        assert_eq!(record["cause"], "agent_failed");
        let why = string(&record["description"]);
        assert!(why.contains(words), "{key}: {why}");
    }
}
