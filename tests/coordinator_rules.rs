//! The reference coordinator's reading of manifests, as Nomad and MirrorNeuron define them, and its restart policy,
//! which is Nomad's. It is no library, so the files of the example are included by their path.

#[path = "../examples/coordinator/checks.rs"]
#[allow(dead_code)]
mod checks;
#[path = "../examples/coordinator/drain.rs"]
#[allow(dead_code)]
mod drain;
#[path = "../examples/coordinator/identity.rs"]
#[allow(dead_code)]
mod identity;
#[path = "../examples/coordinator/manifest.rs"]
#[allow(dead_code)]
mod manifest;
#[path = "../examples/coordinator/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "../examples/coordinator/restart.rs"]
#[allow(dead_code)]
mod restart;

use drain::{parse_sessions, Asked, Drain, Sessions};
use identity::{file_name, Id};
use manifest::{filled, specs, CheckKind, DrainOrder, DrainSignal, DrainSpec, SessionsSpec, Spec};
use restart::{Growth, Mode, RestartPolicy, Restarts, Verdict};
use serde_json::{json, Value as Json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn spec_of(manifest: &Json, node: &str) -> Result<Option<Arc<Spec>>, String> {
    specs(manifest).remove(node).unwrap_or_else(|| panic!("no node {node}"))
}

// ---- manifests ------------------------------------------------------------------------------------------------------

/// The parts of MirrorNeuron's manifests that matter here, as they stand there.
fn coworker() -> Json {
    json!({
        "agents": {
            "nodes": [{ "node_id": "report_sink", "config": { "terminal_sink": true } }],
            "extra_nodes": [{
                "node_id": "mcp",
                "config": {
                    "command": ["mn-job-mcp-server"],
                    "environment": { "MN_MCP_PATH": "/mcp", "RETRIES": 3 },
                },
                "resources": { "ports": [{ "label": "mcp-collaboration", "port": "auto", "protocol": "http" }] },
                "services": [{
                    "address": "127.0.0.1",
                    "name": "mn-job-collaboration",
                    "port": "${env.MN_PORT_MCP_COLLABORATION}",
                    "tags": ["mcp", "job-collaboration"],
                    "meta": { "job_id": "${env.MN_JOB_ID}", "path": "/mcp" },
                    "checks": [{
                        "name": "tcp-ready", "type": "tcp", "port": "${service.port}",
                        "interval_ms": 100, "timeout_ms": 1000, "failures_before_critical": 3,
                    }],
                }],
            }, {
                "node_id": "web_ui",
                "config": { "command": ["python3.11", "services/cctv_web_ui.py"] },
                "resources": { "ports": [{ "label": "web_ui", "port": 61000, "protocol": "http" }] },
                "services": [{
                    "address": "0.0.0.0", "name": "cctv-operator-web-ui", "port": 61000,
                    "checks": [{
                        "interval": "2s", "name": "http-ready", "path": "/healthz", "timeout": "1s", "type": "http",
                        "start_period": "1m",
                    }],
                }],
            }],
        },
        "policies": { "restart": {
            "attempts": 2, "delay_function": "constant", "delay_ms": 100, "interval_ms": 60000, "max_delay_ms": 100,
            "mode": "fail",
        } },
    })
}

#[test]
fn reference_manifests_are_parsed() {
    let manifest = coworker();
    assert_eq!(spec_of(&manifest, "report_sink"), Ok(None), "without a command there is nothing to run");
    let spec = spec_of(&manifest, "mcp").expect("sound").expect("a command");
    assert_eq!(spec.command, ["mn-job-mcp-server"]);
    assert_eq!(spec.environment["RETRIES"], "3");
    assert_eq!((spec.ports[0].label.as_str(), spec.ports[0].fixed), ("mcp-collaboration", None));
    assert_eq!(spec.ports.len(), 1, "the service refers to that port, and asks for none of its own");
    let service = &spec.services[0];
    assert_eq!(service.port, "${env.MN_PORT_MCP_COLLABORATION}");
    let check = &service.checks[0];
    assert_eq!((check.kind.clone(), check.interval, check.timeout), (CheckKind::Tcp, ms(100), ms(1000)));
    assert_eq!((check.failures_before_critical, check.required), (3, true));
    assert_eq!(check.start_period, ms(5000), "where none is given");
    let restart = RestartPolicy {
        attempts: 2,
        interval: ms(60_000),
        delay: ms(100),
        max_delay: ms(100),
        growth: Growth::Constant,
        mode: Mode::Fail,
    };
    assert_eq!(spec.restart, restart);

    let spec = spec_of(&manifest, "web_ui").expect("sound").expect("a command");
    let ports: Vec<_> = spec.ports.iter().map(|port| (port.label.as_str(), port.fixed)).collect();
    assert_eq!(ports, [("web_ui", Some(61000)), ("cctv-operator-web-ui", Some(61000))]);
    let check = &spec.services[0].checks[0];
    assert_eq!(check.kind, CheckKind::Http { path: "/healthz".to_string(), expected_status: None });
    assert_eq!((check.interval, check.timeout, check.failures_before_critical), (ms(2000), ms(1000), 1));
    assert_eq!(check.start_period, ms(60_000));
}

#[test]
fn invalid_manifests_are_rejected_with_the_reason() {
    let node = |node: Json| spec_of(&json!({ "registry": { "a": node } }), "a").expect_err("it is refused");
    let service = |service: Json| node(json!({ "config": { "command": ["x"] }, "services": [service] }));
    let config = |fields: Json| {
        let mut config = json!({ "command": ["x"] });
        config.as_object_mut().expect("fields").extend(fields.as_object().expect("fields").clone());
        node(json!({ "config": config }))
    };
    let check = |check: Json| service(json!({ "name": "web", "checks": [check] }));
    for (fault, words) in [
        (node(json!({ "config": { "command": "a line" } })), "config.command must be an array"),
        (node(json!({ "config": { "command": [] } })), "config.command is empty"),
        (node(json!({ "config": { "command": ["a", {}] } })), "config.command must be a text, not {}"),
        (node(json!({ "config": { "command": ["a"], "environment": { "A=B": "" } } })), "no name of a variable"),
        (node(json!({ "config": { "command": ["a"], "kill_timeout": 5 } })), "kill_timeout_ms takes a number"),
        (config(json!({ "drain": "now" })), "config.drain must be an object"),
        (config(json!({ "drain": {} })), "config.drain needs either http or signal"),
        (
            config(json!({ "drain": { "http": "http://a/", "signal": "SIGHUP" } })),
            "config.drain needs either http or signal",
        ),
        (config(json!({ "drain": { "http": "/drain" } })), "config.drain.http must begin with http://, not"),
        (config(json!({ "drain": { "signal": "SIGKILL" } })), "is not one of SIGUSR1, SIGUSR2, SIGHUP, SIGTERM"),
        (config(json!({ "drain": { "signal": "SIGHUP", "undo": 1 } })), "config.drain.undo must begin with http://"),
        (config(json!({ "sessions": "https://a/" })), "config.sessions must begin with http://"),
        (config(json!({ "sessions": "http://a/", "sessions_interval": 1 })), "sessions_interval_ms takes a number"),
        (service(json!({ "port": 1 })), "a service has no name"),
        (service(json!({ "name": "web", "port": 70000 })), "service web: bad port 70000"),
        (check(json!({ "name": "up" })), "service web: a check has no type"),
        (
            check(json!({ "name": "up", "type": "grpc" })),
            "service web: check up: type grpc is not one of http, tcp, script",
        ),
        (check(json!({ "type": "script" })), "service web: check script: a script needs a command"),
        (check(json!({ "type": "tcp", "interval": "soon" })), "service web: check tcp: interval:"),
        (check(json!({ "type": "tcp", "start_period": 5 })), "check tcp: start_period must be a text such as"),
    ] {
        assert!(fault.contains(words), "{fault:?} does not say {words:?}");
    }
    let restart = |restart: Json| {
        let node = json!({ "node_id": "a", "config": { "command": ["x"] } });
        let manifest = json!({ "nodes": [node], "policies": { "restart": restart } });
        spec_of(&manifest, "a").expect_err("it is refused")
    };
    assert_eq!(restart(json!({ "mode": "panic" })), "policies.restart: mode panic is neither fail nor delay");
    assert_eq!(restart(json!({ "attempts": "two" })), "policies.restart: attempts must be a number");
}

#[test]
fn drains_and_sessions_are_parsed() {
    let of = |fields: Json| {
        let mut config = json!({ "command": ["x"] });
        config.as_object_mut().expect("fields").extend(fields.as_object().expect("fields").clone());
        let spec =
            spec_of(&json!({ "registry": { "a": { "config": config } } }), "a").expect("sound").expect("a command");
        (spec.drain.clone(), spec.sessions.clone())
    };
    assert_eq!(of(json!({})), (None, None));
    let by_http = json!({
        "drain": { "http": "http://127.0.0.1:${env.PORT}/drain", "undo": "http://127.0.0.1:${env.PORT}/resume" },
        "sessions": "http://127.0.0.1:${env.PORT}/sessions",
    });
    let drain = DrainSpec {
        order: DrainOrder::Http("http://127.0.0.1:${env.PORT}/drain".to_string()),
        undo: Some("http://127.0.0.1:${env.PORT}/resume".to_string()),
    };
    let sessions = SessionsSpec { url: "http://127.0.0.1:${env.PORT}/sessions".to_string(), interval: ms(1000) };
    assert_eq!(of(by_http), (Some(drain), Some(sessions)));
    for (name, signal) in [
        ("SIGUSR1", DrainSignal::Usr1),
        ("SIGUSR2", DrainSignal::Usr2),
        ("SIGHUP", DrainSignal::Hup),
        ("SIGTERM", DrainSignal::Term),
    ] {
        let drain = DrainSpec { order: DrainOrder::Signal(signal), undo: None };
        assert_eq!(of(json!({ "drain": { "signal": name } })), (Some(drain), None));
    }
    let (_, sessions) = of(json!({ "sessions": "http://a/", "sessions_interval": "3s" }));
    assert_eq!(sessions.expect("it is given").interval, ms(3000));
}

#[test]
fn sessions_are_counted_in_plain_text_and_json() {
    for (body, number) in [
        ("3", Some(3)),
        (" 0\n", Some(0)),
        ("{\"sessions\": 2, \"since\": 1}", Some(2)),
        ("4294967295", Some(u32::MAX)),
        ("4294967296", None),
        ("-1", None),
        ("1.5", None),
        ("{\"sessions\": \"2\"}", None),
        ("{}", None),
        ("many", None),
        ("", None),
    ] {
        assert_eq!(parse_sessions(body), number, "{body:?}");
    }
}

#[test]
fn process_is_told_once_and_only_of_a_drain_that_was_taken_up() {
    let now = Instant::now();
    let mut drain = Drain::default();
    assert_eq!(drain.next_order(now), None);
    drain.asked = Asked::Drain;
    assert_eq!(drain.next_order(now), None, "it may still be withdrawn");
    drain.asked = Asked::DrainTakenUp;
    assert_eq!(drain.next_order(now), Some(true));
    drain.is_busy = true;
    assert_eq!(drain.next_order(now), None, "the request is under way");
    drain.note_failure(true, now + ms(5));
    assert_eq!(drain.next_order(now), None, "it has just failed");
    drain.asked = Asked::Serve;
    assert_eq!(drain.next_order(now + ms(5)), Some(false), "the process may have heard it");
    drain.asked = Asked::DrainTakenUp;
    assert_eq!(drain.next_order(now + ms(5)), Some(true));
    drain.note_told(true, now + ms(7));
    assert_eq!(drain.next_order(now + ms(9)), None);
    // An answer from before it was told says nothing about what it has accepted since.
    for (number, asked_at, is_empty) in [(0, ms(6), false), (1, ms(7), false), (0, ms(7), true)] {
        drain.sessions = Some(Sessions { number, asked_at: now + asked_at });
        assert_eq!(drain.is_empty(), is_empty, "{number} at {asked_at:?}");
    }
    drain.asked = Asked::Restart;
    assert_eq!(drain.next_order(now), None, "it is about to be stopped");
    drain.asked = Asked::Serve;
    assert_eq!(drain.next_order(now), Some(false));
    drain.note_told(false, now);
    assert_eq!((drain.next_order(now), drain.is_empty()), (None, false));
    // What a process was told, the next one was not.
    drain.asked = Asked::DrainTakenUp;
    drain.note_told(true, now);
    drain.forget_process();
    assert_eq!(drain.next_order(now), Some(true));
}

/// The names of the fields that the source reads: `value["field"]`, and those that it gives to a function.
fn fields_in(source: &str) -> std::collections::BTreeSet<&str> {
    let named = |before: &'static str, after: char| {
        source.split(before).skip(1).filter_map(move |rest| rest.split_once(after).map(|(name, _)| name))
    };
    let durations = named("duration(", ')').filter_map(|arguments| arguments.split('"').nth(1));
    let all = named("[\"", '"').chain(named("number(\"", '"')).chain(named("time(\"", '"')).chain(durations);
    all.filter(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')).collect()
}

#[test]
fn fields_of_manifests_are_documented() {
    let read = |path: &str| {
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a file")
    };
    let source = read("examples/coordinator/manifest.rs");
    let fields = fields_in(&source);
    for known in ["command", "kill_timeout", "start_period", "expected_status", "max_delay", "label"] {
        assert!(fields.contains(known), "{known}: {fields:?}");
    }
    let manual = read("docs/coordinators.md");
    let (_, reference) = manual.split_once("### What it reads from a manifest").expect("its section");
    for field in fields {
        let quotes = ['`', '.', ']', '['];
        let is_named =
            reference.split('`').skip(1).step_by(2).any(|quoted| quoted.split(quotes).any(|part| part == field));
        assert!(is_named, "{field} is not in docs/coordinators.md");
    }
}

#[test]
fn placeholders_are_filled_from_the_agents_environment() {
    let variables = BTreeMap::from([("PORT".to_string(), "8080".to_string())]);
    for (text, service_port, outcome) in [
        ("plain", None, Ok("plain")),
        ("--port=${env.PORT}!", None, Ok("--port=8080!")),
        ("${env.PORT}${env.PORT}", None, Ok("80808080")),
        ("${service.port}", Some(1), Ok("1")),
        ("${service.port}", None, Ok("${service.port}")),
        ("${HOME} $PORT ${", None, Ok("${HOME} $PORT ${")),
        ("${env.NOBODY}", None, Err("${env.NOBODY} is not set")),
    ] {
        let outcome = outcome.map(str::to_string).map_err(str::to_string);
        assert_eq!(filled(text, &variables, service_port), outcome, "{text}");
    }
}

// ---- restarts -------------------------------------------------------------------------------------------------------

fn policy(attempts: u32, mode: Mode) -> RestartPolicy {
    RestartPolicy { attempts, interval: ms(1_000), delay: ms(10), max_delay: ms(60), growth: Growth::Constant, mode }
}

/// Computes the restarts of an agent that ends at these times, unix ms.
fn verdicts(policy: &RestartPolicy, ends: &[u64]) -> Vec<Verdict> {
    let mut restarts = Restarts::default();
    ends.iter().map(|at| restarts.after_end(policy, *at)).collect()
}

#[test]
fn restarts_are_limited_per_interval() {
    use Verdict::{After, Exhausted};
    let twice = policy(2, Mode::Fail);
    assert_eq!(verdicts(&twice, &[5_000, 5_100, 5_200]), [After(ms(10)), After(ms(10)), Exhausted]);
    assert_eq!(
        verdicts(&twice, &[5_000, 5_900, 6_001, 6_500, 7_000]),
        [
            After(ms(10)),
            After(ms(10)),
            After(ms(10)), // a new interval began with it
            After(ms(10)),
            Exhausted,
        ]
    );
    assert_eq!(verdicts(&policy(0, Mode::Fail), &[5_000]), [Exhausted]);
}

#[test]
fn delay_mode_waits_for_the_next_interval() {
    use Verdict::After;
    let found = verdicts(&policy(1, Mode::Delay), &[5_000, 5_100, 6_050, 7_020]);
    // The second end waits until 6,000; the ones after its restart for the intervals that began there to end.
    assert_eq!(found, [After(ms(10)), After(ms(900)), After(ms(950)), After(ms(980))]);
    assert_eq!(verdicts(&policy(0, Mode::Delay), &[5_000]), [After(ms(1_000))]);
}

#[test]
fn delays_grow_up_to_their_maximum() {
    let of = |growth| {
        let policy = RestartPolicy { growth, ..policy(9, Mode::Fail) };
        let all = verdicts(&policy, &[1, 2, 3, 4, 5, 6]);
        all.into_iter().map(|v| if let Verdict::After(d) = v { d.as_millis() } else { 0 }).collect::<Vec<_>>()
    };
    assert_eq!(of(Growth::Constant), [10, 10, 10, 10, 10, 10]);
    assert_eq!(of(Growth::Exponential), [10, 20, 40, 60, 60, 60]);
    assert_eq!(of(Growth::Fibonacci), [10, 10, 20, 30, 50, 60]);
}

// ---- names ----------------------------------------------------------------------------------------------------------

#[test]
fn file_and_service_names_are_safe_and_unique() {
    assert_eq!(file_name(&["app:x", "dep_app-x_1", "web/1"]), "app%3ax~dep_app-x_1~web%2f1");
    assert_ne!(file_name(&["a~b", "c"]), file_name(&["a", "b~c"]));
    let long = "x".repeat(256);
    let names = [file_name(&[&long, "a"]), file_name(&[&long, "b"])];
    assert_ne!(names[0], names[1]);
    assert!(names[0].len() <= 200);
    let id = |agent: &str| Id {
        key: "k".to_string(),
        agent: agent.to_string(),
        job: "j".to_string(),
        version: 2,
        submitted_at: 0,
    };
    assert_eq!(id("web").service_instance("http"), "j/web/v2/http");
    let (one, other) = (id(&format!("{long}1")), id(&format!("{long}2")));
    assert_ne!(one.service_instance("http"), other.service_instance("http"));
    assert!(one.service_instance("http").len() <= 256);
}
