//! Drains by the reference coordinator (rule 10): its processes are told once, what they say about their sessions is
//! reported, and none is stopped or replaced while it holds one, whatever happens to the coordinator meanwhile.

use serde_json::{json, Value as Json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use test_support::prelude::*;
use test_support::processes::*;

const KEY: &str = "agent-api";
const ONE: [&str; 1] = ["web-1"];
const PAIR: [&str; 2] = ["web-1", "web-2"];

/// A drain that does not end by itself while a test runs.
const LONG: [&str; 2] = ["DRAIN_MS", "600000"];

/// A server, a host, and a first version that runs on it.
struct Scene {
    /// Ends before its host does, which would find it starting agents anew.
    coordinator: Coordinator,
    host: Host,
    client: Client,
    server: Server,
    behaviour: &'static str,
    agents: &'static [&'static str],
    config: Json,
}

impl Scene {
    fn begin(agents: &'static [&'static str], behaviour: &'static str, config: Json) -> Scene {
        let server = Server::start(ServerKind::Redis70, &[]);
        let host = Host::new();
        let coordinator = Coordinator::start(&host, "one", &[url(&server)], &[KEY]);
        let client = server.client();
        let mut scene = Scene { host, coordinator, client, server, behaviour, agents, config };
        scene.deploy("first", &[]);
        scene.client.wait_for_status(KEY, "successful");
        scene
    }

    /// Begins with one agent, which holds session `s1`.
    fn with_session(behaviour: &'static str, config: Json) -> (Scene, Process) {
        let mut scene = Scene::begin(&ONE, behaviour, config);
        let old = scene.host.agent("web-1");
        scene.hold_session(&old, "s1");
        (scene, old)
    }

    /// Begins with one agent, which holds session `s1` and is told to drain in place.
    fn draining(config: Json) -> (Scene, Process) {
        let (mut scene, old) = Scene::with_session("good", config);
        scene.deploy("second", &LONG);
        scene.wait_until_told(&old);
        (scene, old)
    }

    /// Begins with one agent, which holds session `s1` and was told to drain, of which the record knows nothing any
    /// more.
    fn with_lost_drain(config: Json) -> (Scene, Process) {
        let (mut scene, old) = Scene::with_session("good", config);
        scene.client.call(&["SAVE"]);
        scene.deploy("second", &LONG);
        scene.wait_until_told(&old);
        scene.lose_second_version();
        (scene, old)
    }

    /// Deploys a version. Without options it would not drain.
    fn deploy(&mut self, label: &str, options: &[&str]) {
        let app = App { config: self.config.clone(), ..App::new(&self.host, self.agents, self.behaviour) };
        self.client.deploy(KEY, &app.manifest(label), &[&BRISK[..], options].concat());
    }

    /// Ends its coordinator with SIGKILL and starts another one with the same state directory.
    fn replace_coordinator(&mut self) {
        self.coordinator.kill();
        self.coordinator = Coordinator::start(&self.host, "one", &[url(&self.server)], &[KEY]);
    }

    /// Ends the server, which has saved the first version alone.
    fn lose_second_version(&mut self) {
        self.server.restart(End::Kill);
        self.client = self.server.client();
        assert_eq!(self.client.status(KEY)["current_version"], 1);
    }

    fn instance(&mut self, agent: &str, version: u64) -> Json {
        let record = self.client.status(KEY);
        let found = array(&record["instances"]).iter().find(|i| i["agent"] == agent && i["version"] == version);
        found.cloned().unwrap_or_default()
    }

    fn processes(&self, agent: &str) -> Vec<Process> {
        self.host.agents().remove(agent).unwrap_or_default()
    }

    fn wait_for_sessions(&mut self, process: &Process, sessions: u64) {
        let (agent, version) = (process.agent.as_str(), process.version);
        wait_until("its sessions to be reported", || self.instance(agent, version)["sessions"] == sessions);
    }

    /// Begins the first session of an agent, and waits until the record knows of it: an agent without sessions would
    /// drain by its idle time.
    fn hold_session(&mut self, process: &Process, id: &str) {
        assert_eq!(begin_session(process, id), 200);
        self.wait_for_sessions(process, 1);
    }

    /// Waits until an agent that began as version 1 was told to drain.
    fn wait_until_told(&mut self, process: &Process) {
        wait_until("it to be told to drain", || drains(process) > 0);
        assert_eq!(self.instance(&process.agent, 1)["role"], "draining");
    }

    fn events(&mut self, kind: &str) -> Vec<Json> {
        self.client.events_after(KEY, 0).into_iter().filter(|event| event["type"] == kind).collect()
    }

    /// Returns what was reported about agents at version 1, with the attempts. A check may fail before the process is
    /// ready, and when it ends.
    fn states_of_first_version(&mut self) -> Vec<String> {
        let events = self.events("agent_state").into_iter();
        let of_first = events.filter(|event| event["version"] == 1 && event["state"] != "unready");
        of_first.map(|event| format!("{} {}", string(&event["state"]), event["attempt"])).collect()
    }

    /// Ends session `s1`, and with it the drain and the deployment.
    fn finish_drained(mut self, old: &Process) {
        end_session(old, "s1");
        self.client.wait_for_status(KEY, "successful");
        assert_eq!(self.events("agent_drained").last().expect("it has drained")["forced"], false);
        self.finish();
    }

    fn finish(mut self) {
        self.client.call(&["DEPLOY.STOP", KEY, "NOW"]);
        self.host.stop(&mut self.client, KEY);
    }
}

/// Sends a request to an agent. Returns status and body.
fn request(process: &Process, method: &str, path: &str) -> (u16, String) {
    let port = process.variable("PORT").expect("its port");
    let url = format!("http://127.0.0.1:{port}{path}");
    let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build();
    let agent = ureq::Agent::new_with_config(config);
    let response = match method {
        "POST" => agent.post(&url).send_empty(),
        "DELETE" => agent.delete(&url).call(),
        _ => agent.get(&url).call(),
    };
    let mut response = response.unwrap_or_else(|error| panic!("{method} {url}: {error}"));
    (response.status().as_u16(), response.body_mut().read_to_string().expect("a body"))
}

fn drains_by_signal() -> Json {
    let sessions = drains_by_http()["sessions"].clone();
    json!({ "drain": { "signal": "SIGUSR1" }, "sessions": sessions, "sessions_interval_ms": 40 })
}

fn begin_session(process: &Process, id: &str) -> u16 {
    request(process, "POST", &format!("/session/{id}")).0
}

fn end_session(process: &Process, id: &str) {
    assert_eq!(request(process, "DELETE", &format!("/session/{id}")).0, 200, "it holds session {id}");
}

/// Counts how often a process was told to drain.
fn drains(process: &Process) -> u32 {
    request(process, "GET", "/drains").1.parse().expect("a number")
}

/// Answer to a request: a status and a body; None leaves it open.
type Answer = Option<(u16, &'static str)>;

/// A server that stands in for agents where they are told to drain and asked for their sessions: it answers as the test
/// says, at first with one session, and counts what it is asked.
struct StandIn {
    port: u16,
    state: Arc<Mutex<StandInState>>,
}

#[derive(Default)]
struct StandInState {
    answers: BTreeMap<String, Answer>,
    asked: BTreeMap<String, usize>,
}

impl StandIn {
    fn start() -> StandIn {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("its own address").port();
        let state: Arc<Mutex<StandInState>> = Arc::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || StandInState::serve(&state, stream));
            }
        });
        StandIn { port, state }
    }

    fn config(&self) -> Json {
        let url = |what: &str| format!("http://127.0.0.1:{}/${{env.DEPLOY_AGENT}}/{what}", self.port);
        json!({
            "drain": { "http": url("drain"), "undo": url("undo") },
            "sessions": url("sessions"), "sessions_interval_ms": 40,
        })
    }

    /// Answers so from now on.
    fn answer(&self, path: &str, answer: Answer) {
        self.state.lock().expect("no holder panics").answers.insert(path.to_string(), answer);
    }

    /// Returns how often it was asked.
    fn asked(&self, path: &str) -> usize {
        self.state.lock().expect("no holder panics").asked.get(path).copied().unwrap_or_default()
    }

    /// Waits until it was asked so often again.
    fn wait_until_asked(&self, path: &str, times: usize) {
        let before = self.asked(path);
        wait_until(&format!("{path} to be asked"), || self.asked(path) >= before + times);
    }

    /// Begins with agents that hold one session each, as they say here.
    fn begin(&self, agents: &'static [&'static str]) -> Scene {
        let mut scene = Scene::begin(agents, "good", self.config());
        for agent in agents {
            wait_until("its session to be reported", || scene.instance(agent, 1)["sessions"] == 1);
        }
        scene
    }
}

impl StandInState {
    fn serve(state: &Mutex<StandInState>, mut stream: TcpStream) {
        let (mut request, mut part) = (Vec::new(), [0; 1024]);
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut part) {
                Ok(read) if read > 0 => request.extend_from_slice(&part[..read]),
                _ => return,
            }
        }
        let request = String::from_utf8_lossy(&request);
        let path = request.split_whitespace().nth(1).unwrap_or_default();
        let answer = {
            let mut state = state.lock().expect("no holder panics");
            *state.asked.entry(path.to_string()).or_default() += 1;
            state.answers.get(path).copied().unwrap_or(Some((200, "1")))
        };
        // Both fail where the caller has given up.
        let _ = match answer {
            Some((status, body)) => {
                let length = body.len();
                write!(stream, "HTTP/1.1 {status} -\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
            }
            None => stream.read(&mut part).map(drop),
        };
    }
}

// ---- a drain and its end --------------------------------------------------------------------------------------------

#[test]
fn agent_is_replaced_once_it_has_finished_its_sessions() {
    let mut scene = Scene::begin(&PAIR, "good", drains_by_http());
    let old = scene.host.agent("web-1");
    for id in ["s1", "s2"] {
        assert_eq!(begin_session(&old, id), 200);
    }
    scene.wait_for_sessions(&old, 2);

    scene.deploy("second", &LONG);
    scene.wait_until_told(&old);
    assert_eq!(begin_session(&old, "s3"), 503);
    assert_eq!(request(&old, "GET", "/session/s1").0, 200);
    let found = scene.client.json(&["DEPLOY.RESOLVE", KEY, "VERSION", "1", "SESSION", "s1", "JSON"]);
    assert_eq!(array(&found).len(), 1, "its callers find it");
    // The number on the record follows. At 1 it is not drained.
    end_session(&old, "s2");
    scene.wait_for_sessions(&old, 1);
    assert_eq!(scene.events("agent_drained"), Vec::<Json>::new());
    assert_eq!(scene.host.agent("web-1"), old);
    assert_eq!(drains(&old), 1);

    end_session(&old, "s1");
    let record = scene.client.wait_for_status(KEY, "successful");
    scene.host.assert_runs(&record);
    assert_eq!(scene.host.agent("web-1").version, 2);
    let drained = scene.events("agent_drained");
    assert_eq!(drained.len(), 2, "{drained:?}");
    for event in drained {
        assert_eq!((&event["forced"], &event["sessions"]), (&json!(false), &json!(0)), "{event}");
    }
    scene.finish();
}

#[test]
fn drained_side_of_a_blue_green_deployment_is_stopped() {
    let (mut scene, old) = Scene::with_session("good", drains_by_http());
    scene.deploy("second", &[&LONG[..], &["STRATEGY", "blue-green"]].concat());
    scene.client.wait_for_status(KEY, "successful");
    scene.wait_until_told(&old);
    assert_eq!(scene.processes("web-1").len(), 2, "the old side goes on serving");
    end_session(&old, "s1");
    wait_until("the old side to have gone", || scene.processes("web-1").len() == 1);
    assert_eq!(scene.host.agent("web-1").version, 2);
    wait_until("that to be reported", || array(&scene.client.status(KEY)["instances"]).len() == 1);
    scene.finish();
}

#[test]
fn agent_without_sessions_drains_at_once() {
    let mut scene = Scene::begin(&PAIR, "good", json!({}));
    scene.deploy("second", &LONG);
    let record = scene.client.wait_for_status(KEY, "successful");
    scene.host.assert_runs(&record);
    assert_eq!(scene.events("agent_drained").len(), 2);
    scene.finish();
}

/// Nobody tells it, so it may begin a session at any time: the record counts the time without one.
#[test]
fn agent_that_cannot_be_told_drains_by_its_idle_time() {
    let mut scene =
        Scene::begin(&ONE, "good", json!({ "sessions": drains_by_http()["sessions"], "sessions_interval_ms": 40 }));
    let old = scene.host.agent("web-1");
    scene.hold_session(&old, "s1");
    scene.deploy("second", &LONG);
    wait_until("the drain to be taken up", || !scene.events("agent_draining").is_empty());
    end_session(&old, "s1");
    scene.client.wait_for_status(KEY, "successful");
    let drained = scene.events("agent_drained").remove(0);
    let said = scene.events("task_issued");
    let issued = said.iter().find(|event| event["task"] == "drain").expect("its task");
    let idle_ms = number(&issued["min_healthy_ms"]);
    assert!(number(&drained["at"]) >= number(&issued["at"]) + idle_ms, "{drained}");
    assert_eq!(drained["forced"], false);
    assert_eq!(drains(&scene.host.agent("web-1")), 0);
    scene.finish();
}

#[test]
fn agent_is_told_to_drain_by_a_signal() {
    let (scene, old) = Scene::draining(drains_by_signal());
    assert_eq!(begin_session(&old, "s2"), 503);
    assert_eq!(drains(&old), 1);
    scene.finish_drained(&old);
}

#[test]
fn drain_that_takes_too_long_ends_with_a_stop_from_the_server() {
    let (mut scene, _) = Scene::with_session("good", drains_by_http());
    scene.deploy("second", &["DRAIN_MS", "700", "STRATEGY", "blue-green"]);
    scene.client.wait_for_status(KEY, "successful");
    wait_until("the old side to have gone", || scene.processes("web-1").len() == 1);
    let drained = scene.events("agent_drained").remove(0);
    assert_eq!((&drained["forced"], &drained["sessions"]), (&json!(true), &json!(1)), "{drained}");
    scene.finish();
}

#[test]
fn agent_that_ends_in_its_drain_is_not_started_again() {
    let (mut scene, _) = Scene::with_session("dies-in-drain", drains_by_http());
    scene.deploy("second", &LONG);
    scene.client.wait_for_status(KEY, "successful");
    assert_eq!(scene.states_of_first_version(), ["starting 1", "ready 1", "stopped 1"]);
    assert_eq!(scene.host.agent("web-1").version, 2);
    scene.finish();
}

/// The call hangs, then fails, then succeeds.
#[test]
fn drain_call_that_fails_is_repeated_and_delays_no_other_agent() {
    let stand_in = StandIn::start();
    let mut scene = stand_in.begin(&PAIR);
    let old = scene.host.agent("web-1");
    stand_in.answer("/web-1/drain", None);
    scene.deploy("second", &[&LONG[..], &["MAX_PARALLEL", "2"]].concat());
    wait_until("both to be told", || PAIR.iter().all(|agent| stand_in.asked(&format!("/{agent}/drain")) > 0));
    stand_in.answer("/web-2/sessions", Some((200, "0")));
    wait_until("the other to be replaced", || scene.instance("web-2", 2)["health"] == "healthy");
    stand_in.answer("/web-1/drain", Some((503, "")));
    stand_in.wait_until_asked("/web-1/drain", 2);
    assert_eq!(scene.host.agent("web-1"), old);
    assert_eq!(scene.events("agent_drained").len(), 1);
    stand_in.answer("/web-1/drain", Some((200, "")));
    wait_until("it to be told", || scene.coordinator.log().matches("told to drain").count() == 2);
    stand_in.answer("/web-1/sessions", Some((200, "0")));
    scene.client.wait_for_status(KEY, "successful");
    let drained = scene.events("agent_drained");
    assert_eq!(drained.iter().map(|event| event["forced"] == false).collect::<Vec<_>>(), [true, true]);
    assert_eq!(stand_in.asked("/web-2/drain"), 1);
    scene.finish();
}

#[test]
fn answer_that_is_no_number_of_sessions_is_not_taken_for_none() {
    let stand_in = StandIn::start();
    let mut scene = stand_in.begin(&ONE);
    scene.deploy("second", &LONG);
    wait_until("it to be told", || scene.coordinator.log().contains("told to drain"));
    let bodies = [
        "",
        "none",
        "-0",
        "0.0",
        "0 0",
        "00",
        "0x0",
        "\"0\"",
        "null",
        "false",
        "[]",
        "[0]",
        "{}",
        "{\"sessions\":null}",
        "{\"sessions\":[]}",
        "{\"sessions\":\"0\"}",
        "{\"sessions\":0",
        "4294967296",
        "<html>0</html>",
    ];
    let statuses = [302, 404, 429, 500, 503].map(|status| Some((status, "0")));
    for answer in bodies.map(|body| Some((200, body))).into_iter().chain(statuses).chain([None]) {
        stand_in.answer("/web-1/sessions", answer);
        stand_in.wait_until_asked("/web-1/sessions", 2);
        assert_eq!(scene.instance("web-1", 1)["sessions"], 1, "{answer:?}");
        assert_eq!(scene.events("agent_drained"), Vec::<Json>::new(), "{answer:?}");
    }
    assert!(scene.coordinator.log().contains("its sessions are unknown"), "{}", scene.coordinator.log());
    stand_in.answer("/web-1/sessions", Some((200, "{\"sessions\":0}")));
    scene.client.wait_for_status(KEY, "successful");
    assert_eq!(scene.events("agent_drained").remove(0)["forced"], false);
    scene.finish();
}

/// The end of a drain is the record's affair: whoever changes it need not tell the process.
#[test]
fn changed_deadline_of_a_drain_counts() {
    let (mut scene, old) = Scene::draining(drains_by_http());
    let mut drain_for = |ms: &str| scene.client.call(&["DEPLOY.DRAIN", KEY, "VERSION", "1", "MS", ms]);
    drain_for("900000");
    assert_eq!(request(&old, "GET", "/session/s1").0, 200);
    assert_eq!(drains(&old), 1);
    drain_for("300");
    let record = scene.client.wait_for_status(KEY, "successful");
    scene.host.assert_runs(&record);
    let drained = scene.events("agent_drained").remove(0);
    assert_eq!((&drained["forced"], &drained["sessions"]), (&json!(true), &json!(1)), "{drained}");
    scene.finish();
}

/// The pause holds its clocks, and the replacement.
#[test]
fn agent_that_finishes_its_sessions_in_a_pause_is_replaced_after_it() {
    let (mut scene, old) = Scene::draining(drains_by_http());
    scene.client.call(&["DEPLOY.PAUSE", KEY]);
    end_session(&old, "s1");
    scene.wait_for_sessions(&old, 0);
    assert_eq!(scene.client.tasks(KEY), Vec::<Json>::new());
    assert_eq!(begin_session(&old, "s2"), 503);
    scene.client.call(&["DEPLOY.RESUME", KEY]);
    let record = scene.client.wait_for_status(KEY, "successful");
    scene.host.assert_runs(&record);
    assert_eq!(scene.events("agent_drained").remove(0)["forced"], false);
    scene.finish();
}

// ---- drains that lead to nothing ------------------------------------------------------------------------------------

#[test]
fn agent_is_not_told_of_a_drain_that_was_withdrawn() {
    let mut scene = Scene::begin(&ONE, "good", drains_by_http());
    let old = scene.host.agent("web-1");
    signal(scene.coordinator.pid(), "STOP");
    scene.deploy("second", &LONG);
    assert_eq!(scene.instance("web-1", 1)["role"], "draining");
    scene.deploy("first", &LONG);
    assert_eq!(scene.instance("web-1", 1)["role"], "primary");
    signal(scene.coordinator.pid(), "CONT");
    // It has read the record since: it reports what it is told afterwards.
    scene.hold_session(&old, "s1");
    assert_eq!(drains(&old), 0);
    assert_eq!(scene.host.agent("web-1"), old);
    scene.finish();
}

/// A record that was set back has no drain any more, and its process goes on.
#[test]
fn told_agent_is_told_to_go_on_when_its_drain_is_lost() {
    let (mut scene, old) = Scene::with_lost_drain(drains_by_http());
    wait_until("it to accept sessions again", || begin_session(&old, "s2") == 200);
    assert_eq!(scene.host.agent("web-1"), old);
    // The next drain is told again.
    scene.wait_for_sessions(&old, 2);
    scene.deploy("second", &LONG);
    wait_until("it to be told to drain", || drains(&old) == 2);
    for id in ["s1", "s2"] {
        end_session(&old, id);
    }
    scene.client.wait_for_status(KEY, "successful");
    scene.finish();
}

#[test]
fn drained_agent_without_a_successor_is_started_anew() {
    let (mut scene, old) = Scene::draining(drains_by_http());
    scene.client.call(&["DEPLOY.FAIL", KEY]);
    end_session(&old, "s1");
    wait_until("it to run again", || scene.processes("web-1").iter().any(|process| process.attempt == 2));
    wait_until("it to be healthy", || {
        let instance = scene.instance("web-1", 1);
        instance["role"] == "primary" && instance["state"] == "ready" && instance["health"] == "healthy"
    });
    let new = scene.host.agent("web-1");
    assert_eq!((new.version, new.attempt), (1, 2));
    assert_eq!(begin_session(&new, "s2"), 200);
    wait_until("its services", || array(&scene.client.json(&["DEPLOY.RESOLVE", KEY, "JSON"])).len() == 1);
    let resolved = scene.client.json(&["DEPLOY.RESOLVE", KEY, "JSON"]);
    assert_eq!(Some(resolved[0]["port"].to_string()), new.variable("PORT"));
    scene.finish();
}

/// Without `undo` it can be told nothing. It holds sessions, so it runs on.
#[test]
fn agent_that_cannot_be_told_to_go_on_runs_on() {
    let (mut scene, old) = Scene::with_lost_drain(drains_by_signal());
    wait_until("that to be logged", || scene.coordinator.log().contains("has no drain.undo"));
    assert_eq!(request(&old, "GET", "/session/s1").0, 200);
    // The next drain is told again.
    scene.deploy("second", &LONG);
    wait_until("it to be told to drain", || drains(&old) == 2);
    scene.finish_drained(&old);
}

/// Its call was left without an answer, and its drain is lost then.
#[test]
fn agent_that_may_have_been_told_is_told_to_go_on_until_it_answers() {
    let stand_in = StandIn::start();
    let mut scene = stand_in.begin(&ONE);
    let old = scene.host.agent("web-1");
    scene.client.call(&["SAVE"]);
    stand_in.answer("/web-1/drain", None);
    stand_in.answer("/web-1/undo", Some((503, "")));
    scene.deploy("second", &LONG);
    wait_until("it to be told", || stand_in.asked("/web-1/drain") > 0);
    scene.lose_second_version();
    stand_in.wait_until_asked("/web-1/undo", 2);
    stand_in.answer("/web-1/undo", Some((200, "")));
    wait_until("it to have answered", || scene.coordinator.log().contains("told to go on"));
    assert_eq!(scene.host.agent("web-1"), old);
    scene.finish();
}

/// It would take sessions again, a moment before it is stopped.
#[test]
fn drained_agent_that_is_to_be_restarted_is_not_told_to_go_on() {
    let stand_in = StandIn::start();
    let mut scene = stand_in.begin(&ONE);
    scene.deploy("second", &LONG);
    wait_until("it to be told", || stand_in.asked("/web-1/drain") > 0);
    scene.client.call(&["DEPLOY.FAIL", KEY]);
    stand_in.answer("/web-1/sessions", Some((200, "0")));
    wait_until("it to be restarted", || {
        let instance = scene.instance("web-1", 1);
        instance["attempt"] == 2 && instance["state"] == "ready"
    });
    assert_eq!(stand_in.asked("/web-1/undo"), 0);
    scene.finish();
}

/// As every attempt, it is claimed first.
#[test]
fn agent_that_ended_in_a_drain_without_a_successor_is_not_started_before_its_claim() {
    let (mut scene, old) = Scene::draining(drains_by_http());
    scene.client.call(&["DEPLOY.FAIL", KEY]);
    scene.coordinator.kill();
    old.signal("KILL");
    wait_until("it to have ended", || scene.host.processes().is_empty());
    let urls = [url(&scene.server)];
    Coordinator::start_failing_at(&scene.host, "one", &urls, &[KEY], "task-seen").wait_for_end();
    assert_eq!(scene.host.processes(), []);
    assert_eq!(scene.instance("web-1", 1)["state"], "waiting");
    scene.replace_coordinator();
    wait_until("it to run again", || scene.instance("web-1", 1)["state"] == "ready");
    let states = scene.states_of_first_version();
    assert_eq!(states, ["starting 1", "ready 1", "stopped 1", "starting 2", "ready 2"]);
    assert_eq!(scene.host.agent("web-1").attempt, 2);
    scene.finish();
}

// ---- coordinators ---------------------------------------------------------------------------------------------------

#[test]
fn next_coordinator_goes_on_with_a_drain() {
    let (mut scene, old) = Scene::draining(drains_by_http());
    wait_until("that to be noted", || scene.coordinator.log().contains("told to drain"));
    scene.replace_coordinator();
    wait_until("it to go on", || scene.coordinator.log().contains("goes on"));
    assert_eq!(begin_session(&old, "s2"), 503);
    assert_eq!(scene.host.agent("web-1"), old);
    assert_eq!(drains(&old), 1);
    scene.finish_drained(&old);
}

/// Checks that the next coordinator does what follows a drain, and nobody before it.
#[test]
fn drain_that_ends_while_nobody_coordinates_is_followed_by_the_replacement() {
    let (mut scene, old) = Scene::draining(drains_by_http());
    scene.coordinator.kill();
    scene.client.call(&["DEPLOY.DRAIN", KEY, "VERSION", "1", "NOW"]);
    assert_eq!(request(&old, "GET", "/session/s1").0, 200);
    scene.replace_coordinator();
    let record = scene.client.wait_for_status(KEY, "successful");
    scene.host.assert_runs(&record);
    assert_eq!(scene.host.agent("web-1").version, 2);
    scene.finish();
}

#[test]
fn crash_between_taking_a_drain_up_and_telling_the_agent_is_recovered() {
    let (mut scene, old) = Scene::with_session("good", drains_by_http());
    scene.coordinator.kill();
    let urls = [url(&scene.server)];
    let mut dying = Coordinator::start_failing_at(&scene.host, "one", &urls, &[KEY], "drain-taken-up");
    scene.deploy("second", &LONG);
    dying.wait_for_end();
    assert_eq!(drains(&old), 0);
    assert_eq!(scene.events("agent_draining").len(), 1);
    scene.replace_coordinator();
    scene.wait_until_told(&old);
    assert_eq!(drains(&old), 1);
    scene.finish_drained(&old);
}

/// While nobody coordinated, it finished its sessions and ended.
#[test]
fn agent_that_ended_in_its_drain_unseen_is_not_started_again() {
    let (mut scene, old) = Scene::draining(drains_by_http());
    scene.coordinator.kill();
    old.signal("KILL");
    wait_until("it to have ended", || scene.host.processes().is_empty());
    scene.replace_coordinator();
    let record = scene.client.wait_for_status(KEY, "successful");
    scene.host.assert_runs(&record);
    let states = scene.events("agent_state");
    let attempts = states.iter().filter(|event| event["version"] == 1).map(|event| number(&event["attempt"]));
    assert_eq!(attempts.max(), Some(1));
    scene.finish();
}

/// Both read the task; the drain is carried out by whoever runs the agent.
#[test]
fn one_of_two_coordinators_with_the_same_agents_drains_each_agent() {
    let mut scene = Scene::begin(&PAIR, "good", drains_by_http());
    let old = PAIR.map(|agent| scene.host.agent(agent));
    for process in &old {
        scene.hold_session(process, "s1");
    }
    scene.deploy("second", &[&LONG[..], &["MAX_PARALLEL", "2"]].concat());
    for process in &old {
        scene.wait_until_told(process);
    }
    // It does not take over what drains. Once it has run an agent of another key, it has seen this one.
    let second = Coordinator::start(&scene.host, "two", &[url(&scene.server)], &[KEY, "other"]);
    scene.client.deploy("other", &App::new(&scene.host, &["db"], "good").manifest("first"), &BRISK);
    scene.client.wait_for_status("other", "successful");
    scene.client.call(&["DEPLOY.STOP", "other"]);
    wait_until("the other key to have stopped", || array(&scene.client.status("other")["instances"]).is_empty());
    assert_eq!(PAIR.map(|agent| scene.host.agent(agent)), old);
    assert_eq!(PAIR.map(|agent| number(&scene.instance(agent, 1)["attempt"])), [1, 1]);
    for process in &old {
        end_session(process, "s1");
    }
    scene.client.wait_for_status(KEY, "successful");
    assert_eq!(second.log().matches("told to drain").count(), 0, "{}", second.log());
    let drained = scene.events("agent_drained");
    assert_eq!(drained.iter().map(|event| event["forced"] == false).collect::<Vec<_>>(), [true, true]);
    // From here on each runs some of the agents, or none. What one replaces may be a process of the other's, which ends
    // a little later.
    let runs_once = |scene: &Scene| PAIR.iter().all(|agent| scene.processes(agent).len() == 1);
    wait_until("each agent to run once", || runs_once(&scene));
    let middle = PAIR.map(|agent| scene.host.agent(agent));
    for process in &middle {
        assert_eq!(process.version, 2);
        scene.hold_session(process, "s2");
    }
    scene.deploy("third", &[&LONG[..], &["MAX_PARALLEL", "2"]].concat());
    for process in &middle {
        wait_until("it to be told to drain", || drains(process) > 0);
    }
    for process in &middle {
        assert_eq!(drains(process), 1);
        end_session(process, "s2");
    }
    let record = scene.client.wait_for_status(KEY, "successful");
    wait_until("each agent to run once", || runs_once(&scene));
    scene.host.assert_runs(&record);
    let taken_up = scene.events("task_done").iter().filter(|e| e["task"] == "drain" && e["withdrawn"] != true).count();
    assert_eq!(taken_up, 4, "each drain was taken up once");
    scene.client.call(&["DEPLOY.STOP", KEY, "NOW"]);
    wait_until("all agents to be reported stopped", || array(&scene.client.status(KEY)["instances"]).is_empty());
    wait_until("all processes to end", || scene.host.processes().is_empty());
}
