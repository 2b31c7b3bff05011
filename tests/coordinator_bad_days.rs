//! Promise: whatever happens to the reference coordinator, to its agents or to Redis in the middle of a rollout, the
//! rollout ends in the state that the contract says, no process is left over, and no agent runs twice at once.

mod common;
#[path = "common/site.rs"]
mod site;

use common::*;
use site::*;
use std::os::unix::process::ExitStatusExt;

const KEY: &str = "agent-api";
const PAIR: [&str; 2] = ["web-1", "web-2"];

/// A server, a host, and a first version that runs on it.
fn begun(behaviour: &str, extra: &[&str]) -> (Server, Site, Coordinator) {
    let server = Server::start(ServerKind::Redis70, extra);
    let site = Site::new();
    let coordinator = Coordinator::start(&site, "one", &[url(&server)], &[KEY]);
    let mut client = server.client();
    client.deploy(KEY, &App::new(&site, &PAIR, behaviour).manifest("first"), &BRISK);
    let record = client.wait_for_status(KEY, "successful");
    site.assert_true_to(&record);
    (server, site, coordinator)
}

fn killed_at(step: &str) {
    let (server, site, mut coordinator) = begun("good", &[]);
    let mut client = server.client();
    coordinator.kill();
    let mut dying = Coordinator::start_to_die(&site, "one", &[url(&server)], &[KEY], step);
    let second = App::new(&site, &PAIR, "good").manifest("second");
    let strategy = if step == "before-stopped" { "blue-green" } else { "rolling" };
    client.deploy(KEY, &second, &[&BRISK[..], &["STRATEGY", strategy]].concat());
    assert_eq!(dying.wait_for_end().signal(), Some(9), "{step}: it was to kill itself");

    let next = Coordinator::start(&site, "one", &[url(&server)], &[KEY]);
    client.wait_for_status(KEY, "successful");
    wait_until("the old side to have gone", || client.tasks(KEY).is_empty());
    let record = client.status(KEY);
    assert_eq!(record["current_version"], 2, "{step}");
    assert_eq!(record["health"]["healthy"], 2, "{step}");
    site.assert_true_to(&record);
    // At most the one that was being started has had to be started twice.
    for agent in PAIR {
        let attempts = if agent == "web-1" { 2 } else { 1 };
        assert!(site.agent(agent).attempt <= attempts, "{step}: {agent}\n{}", next.log());
    }
    site.stop(&mut client, KEY);
}

#[test]
fn killed_before_a_task_is_taken_up() {
    killed_at("task-seen");
}

#[test]
fn killed_after_a_task_is_taken_up() {
    killed_at("taken-up");
}

#[test]
fn killed_after_the_old_process_was_told_to_stop() {
    killed_at("old-told-to-stop");
}

#[test]
fn killed_between_the_stop_and_the_start() {
    killed_at("old-gone");
}

#[test]
fn killed_when_the_start_is_noted_and_not_done() {
    killed_at("note-written");
}

#[test]
fn killed_when_the_process_runs_and_is_not_noted() {
    killed_at("started");
}

#[test]
fn killed_when_the_process_is_noted_and_not_reported() {
    killed_at("start-noted");
}

#[test]
fn killed_before_it_reports_ready() {
    killed_at("before-ready");
}

#[test]
fn killed_before_it_reports_stopped() {
    killed_at("before-stopped");
}
