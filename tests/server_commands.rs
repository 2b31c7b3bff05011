//! Commands: replies as in rules 3 and 7, in RESP2, RESP3 and JSON, through whole rollouts.

use redis::Value;
use serde_json::{json, Value as Json};
use test_support::prelude::*;

const KEY: &str = "agent-api";

const RECEIPT: [&str; 7] = ["deployment_key", "deployment_id", "version", "job_id", "status", "mode", "revision"];

#[rustfmt::skip]
const STATUS: [&str; 31] = [
    "deployment_key", "deployment_id", "status", "cause", "description", "mode", "strategy", "requested_strategy",
    "rollback_of", "by", "reason", "current_version", "stable_version", "source_version", "target_version",
    "rollback_target", "current_job_id", "source_job_id", "target_job_id", "bundle", "policy", "deadlines", "health",
    "instances", "services", "versions", "events", "created_at", "updated_at", "finished_at", "revision",
];

const HEALTH: [&str; 7] =
    ["desired", "placed", "pending", "healthy", "unhealthy", "canaries_desired", "canaries_healthy"];

#[rustfmt::skip]
const INSTANCE: [&str; 11] = [
    "agent", "node", "version", "job_id", "role", "state", "health", "attempt", "task_at", "since", "reason",
];

#[rustfmt::skip]
const POLICY: [&str; 9] = [
    "strategy", "max_parallel", "canary", "min_healthy_ms", "healthy_deadline_ms", "progress_deadline_ms",
    "health_check", "auto_promote", "auto_revert",
];

#[rustfmt::skip]
const VERSION: [&str; 13] = [
    "version", "deployment_id", "job_id", "job_type", "strategy", "bundle", "tag", "stable", "rollback_of", "outcome",
    "submitted_at", "by", "reason",
];

#[rustfmt::skip]
const LIST_ENTRY: [&str; 16] = [
    "deployment_key", "deployment_id", "status", "mode", "strategy", "current_version", "stable_version",
    "target_version", "healthy", "desired", "updated_at", "cause", "by", "reason", "phase", "exposure",
];

#[rustfmt::skip]
const TASK: [&str; 10] = [
    "task", "agent", "node", "version", "from_version", "job_id", "role", "attempt", "bundle", "since",
];

/// The contract's fields in the contract's order; more may follow.
fn assert_begins_with(names: &[&str], contract: &[&str]) {
    assert!(names.starts_with(contract), "\n   fields {names:?}\nexpected {contract:?}");
}

// ---- whole rollouts -------------------------------------------------------------------------------------------------

#[test]
fn rollout_with_canary_and_rollback_completes() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();

        // The first version: all at once.
        let first = client.deploy(KEY, &manifest(&AGENTS, "small"), &[&QUICK[..], &["REASON", "first"]].concat());
        assert_eq!(first.text("mode"), "initial");
        assert_eq!(first.text("status"), "running");
        assert_eq!(first.text("deployment_id"), "dep_agent-api_1");
        assert_eq!(first.text("job_id"), "dep_agent-api_1");
        assert_eq!(first.int("version"), 1);
        let tasks = client.tasks(KEY);
        assert_eq!(tasks.iter().map(|t| string(&t["agent"])).collect::<Vec<_>>(), AGENTS);
        assert!(tasks.iter().all(|t| t["task"] == "start" && t["role"] == "primary"));
        let record = client.carry_out_until(KEY, "successful");
        assert_eq!((&record["current_version"], &record["stable_version"]), (&json!(1), &json!(1)));

        // The second: a canary, which waits for a person.
        let second = client.deploy(KEY, &manifest(&AGENTS, "large"), &[&QUICK[..], &["CANARY", "1"]].concat());
        assert_eq!(second.text("mode"), "in_place");
        let tasks = client.tasks(KEY);
        assert_eq!(tasks.len(), 1, "only the canary is replaced: {tasks:?}");
        assert_eq!(tasks[0]["task"], "replace");
        assert_eq!(tasks[0]["agent"], "agent-1");
        assert_eq!(tasks[0]["role"], "canary");
        assert_eq!((&tasks[0]["version"], &tasks[0]["from_version"]), (&json!(2), &json!(1)));
        assert!(client.refused(&["DEPLOY.PROMOTE", KEY]).starts_with("UNHEALTHY "));
        let record = client.carry_out_until(KEY, "awaiting_promotion");
        assert_eq!(record["current_version"], 1, "an unpromoted canary is not current");
        assert_eq!(
            (&record["health"]["canaries_desired"], &record["health"]["canaries_healthy"]),
            (&json!(1), &json!(1))
        );
        assert!(client.tasks(KEY).is_empty(), "nothing goes on before the promotion");

        // Promoted, the others follow one by one.
        let promoted = Fields::of(&client.call(&["DEPLOY.PROMOTE", KEY, "REASON", "good"]));
        assert_eq!(promoted.text("status"), "running");
        assert_eq!(client.tasks(KEY).len(), 1, "max_parallel is 1");
        let record = client.carry_out_until(KEY, "successful");
        assert_eq!((&record["current_version"], &record["stable_version"]), (&json!(2), &json!(2)));
        assert_eq!(record["rollback_target"], 1);
        let instances = array(&record["instances"]);
        assert_eq!(instances.len(), 3);
        assert!(instances.iter().all(|i| i["version"] == 2 && i["role"] == "primary" && i["health"] == "healthy"));

        // And back: a new version with the old content.
        let back = Fields::of(&client.call(&["DEPLOY.ROLLBACK", KEY, "REASON", "bad answers"]));
        assert_eq!(back.int("version"), 3);
        let record = client.carry_out_until(KEY, "successful");
        assert_eq!((&record["rollback_of"], &record["stable_version"]), (&json!(1), &json!(3)));
        let versions = client.json(&["DEPLOY.HISTORY", KEY, "JSON"]);
        let numbers: Vec<u64> = array(&versions).iter().map(|v| number(&v["version"])).collect();
        assert_eq!(numbers, [3, 2, 1], "newest first");
        assert_eq!(
            client.json(&["DEPLOY.VERSION", KEY, "3", "JSON"])["manifest"],
            client.json(&["DEPLOY.VERSION", KEY, "1", "JSON"])["manifest"],
        );
    });
}

#[test]
fn rolling_update_respects_max_parallel() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    let agents = ["a", "b", "c", "d", "e"];
    client.deploy(KEY, &manifest(&agents, "small"), &QUICK);
    client.carry_out_until(KEY, "successful");

    client.deploy(KEY, &manifest(&agents, "large"), &[&QUICK[..], &["MAX_PARALLEL", "40%"]].concat());
    let mut begun = 0;
    let record = wait_for("the update to end", || {
        let record = client.status(KEY);
        let without_verdict =
            array(&record["instances"]).iter().filter(|i| i["version"] == 2 && i["health"] != "healthy");
        assert!(without_verdict.count() <= 2, "40% of five is two: {record}");
        begun += client.carry_out_tasks(KEY);
        (record["status"] == "successful").then_some(record)
    });
    assert_eq!(begun, 5, "every agent was replaced once");
    assert_eq!(record["health"]["healthy"], 5);
}

#[test]
fn nodes_are_read_from_all_manifest_shapes() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    let at_the_top = json!({"type": "service", "nodes": [{"node_id": "one"}, {"node_id": "two"}]});
    let under_agents = json!({
        "type": "service",
        "agents": {"nodes": [{"node_id": "one"}], "extra_nodes": [{"node_id": "two"}], "edges": [], "entrypoints": ["one"]},
    });
    let registry = json!({
        "policies": {"scheduler": {"job_type": "service"}, "update": {"max_parallel": 2}},
        "agents": {"registry": {"one": {"agent_type": "executor"}, "two": {}}},
    });
    for (key, manifest) in [("top", at_the_top), ("agents", under_agents), ("registry", registry)] {
        client.deploy(key, &manifest.to_string(), &QUICK);
        let mut agents: Vec<String> = client.tasks(key).iter().map(|t| string(&t["agent"]).to_string()).collect();
        agents.sort();
        assert_eq!(agents, ["one", "two"], "{key}");
        client.carry_out_until(key, "successful");
    }
    assert_eq!(client.status("registry")["policy"]["max_parallel"], 2, "the manifest's policy");
}

#[test]
fn options_override_the_manifest_and_defaults() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    let manifest = json!({
        "type": "service", "nodes": [{"node_id": "a"}],
        "policies": {"update": {"max_parallel": 3, "min_healthy_ms": 1234}},
    });
    client.deploy(KEY, &manifest.to_string(), &["max_parallel", "50%", "Auto_Revert", "TRUE"]);
    let policy = client.status(KEY)["policy"].clone();
    assert_eq!(policy["max_parallel"], "50%");
    assert_eq!(policy["min_healthy_ms"], 1234);
    assert_eq!(policy["healthy_deadline_ms"], 300000);
    assert_eq!(policy["auto_revert"], true);
    assert_eq!(policy["auto_promote"], false);
}

// ---- shapes ---------------------------------------------------------------------------------------------------------

/// A record in mid rollout that stands still, so that it can be read three times: version 1 successful, of version 2
/// the first agent ready and waited for.
fn start_rollout(server: &Server) -> Client {
    let mut client = server.client();
    client.deploy(KEY, &manifest(&AGENTS, "small"), &QUICK);
    client.carry_out_until(KEY, "successful");
    let options = [&SLOW[..], &["BUNDLE", "s3://b/v2", "TAG", "two", "REASON", "faster model"]].concat();
    client.deploy(KEY, &manifest(&AGENTS, "large"), &options);
    client.report(KEY, "agent-1", "starting");
    client.report(KEY, "agent-1", "ready");
    client
}

#[test]
fn reading_commands_agree_in_resp2_resp3_and_json() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut resp2 = start_rollout(&server);
        let mut resp3 = server.client_resp3();
        resp2.deploy("other", &manifest(&["x"], "small"), &SLOW);
        let commands: [&[&str]; 6] = [
            &["DEPLOY.STATUS", KEY],
            &["DEPLOY.HISTORY", KEY],
            &["DEPLOY.TASKS", KEY],
            &["DEPLOY.TASKS", "other"],
            &["DEPLOY.STATUS", "other"],
            &["DEPLOY.VERSION", KEY, "2"],
        ];
        for words in commands {
            let (flat, mapped) = (resp2.call(words), resp3.call(words));
            assert_eq!(flattened(&mapped), flat, "{words:?} in RESP2 and RESP3");
            let mut in_json = resp2.json(&[words, &["JSON"]].concat());
            // Events and manifests are values in JSON, and JSON texts elsewhere.
            in_json.get_mut("manifest").into_iter().for_each(as_text);
            in_json.get_mut("events").and_then(Json::as_array_mut).into_iter().flatten().for_each(as_text);
            assert_eq!(as_json(&mapped), with_numbers_for_booleans(&in_json), "{words:?} in RESP3 and JSON");
        }
        let words = ["DEPLOY.LIST"];
        assert_eq!(flattened(&resp3.call(&words)), resp2.call(&words));
        let words = ["DEPLOY.EVENTS", KEY];
        assert_eq!(flattened(&resp3.call(&words)), resp2.call(&words));
        // A changing command, repeated without effect, so that both protocols see the same.
        let words = ["DEPLOY.PAUSE", KEY];
        resp2.call(&words);
        assert_eq!(flattened(&resp3.call(&words)), resp2.call(&words));
    });
}

fn as_text(value: &mut Json) {
    *value = value.to_string().into();
}

#[test]
fn status_has_the_documented_fields_in_order() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = start_rollout(&server);
    let record = client.status(KEY);
    assert_begins_with(&names_of(&record), &STATUS);
    assert_begins_with(&names_of(&record["policy"]), &POLICY);
    assert_begins_with(&names_of(&record["health"]), &HEALTH);
    assert_begins_with(&names_of(&record["deadlines"]), &["progress_at", "next_at", "next"]);
    for instance in array(&record["instances"]) {
        assert_begins_with(&names_of(instance), &INSTANCE);
    }
    for version in array(&record["versions"]) {
        assert_begins_with(&names_of(version), &VERSION);
    }
    assert!(array(&record["events"]).len() <= 10, "the last ten events");

    let expect = |field: &str, value: Json| assert_eq!(record[field], value, "{field}");
    expect("deployment_key", json!(KEY));
    expect("deployment_id", json!("dep_agent-api_2"));
    expect("status", json!("running"));
    expect("cause", Json::Null);
    expect("mode", json!("in_place"));
    expect("strategy", json!("rolling"));
    expect("requested_strategy", json!("rolling"));
    expect("rollback_of", Json::Null);
    expect("by", json!("default"));
    expect("reason", json!("faster model"));
    expect("current_version", json!(1));
    expect("stable_version", json!(1));
    expect("source_version", json!(1));
    expect("target_version", json!(2));
    expect("rollback_target", json!(1));
    for job in ["current_job_id", "source_job_id", "target_job_id"] {
        expect(job, json!("dep_agent-api_1"));
    }
    expect("bundle", json!("s3://b/v2"));
    expect("services", json!([]));
    expect("finished_at", Json::Null);
    let health = json!({
        "desired": 3, "placed": 1, "pending": 1, "healthy": 0, "unhealthy": 0, "canaries_desired": 0, "canaries_healthy": 0,
    });
    expect("health", health);

    let new = array(&record["instances"]).iter().find(|i| i["version"] == 2).expect("the replaced one");
    assert_eq!(new["agent"], "agent-1");
    assert_eq!((&new["state"], &new["health"], &new["role"]), (&json!("ready"), &json!("pending"), &json!("primary")));
    assert_eq!(new["attempt"], 1);
    assert_eq!(record["deadlines"]["next_at"], number(&new["since"]) + 200_000, "min_healthy_ms after it was ready");
    assert_eq!(record["deadlines"]["next"], "agent-1 healthy");
    let started = number(&record["created_at"]);
    assert!(started.abs_diff(unix_ms()) < 60_000, "unix time in milliseconds: {started}");
    assert_eq!(record["deadlines"]["progress_at"], started + 600_000);
}

#[test]
fn history_version_tasks_list_and_receipts_have_the_documented_fields() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = start_rollout(&server);

    let versions = client.json(&["DEPLOY.HISTORY", KEY, "JSON"]);
    for version in array(&versions) {
        assert_begins_with(&names_of(version), &VERSION);
    }
    assert_eq!(versions[0]["version"], 2);
    assert_eq!(
        (&versions[0]["tag"], &versions[0]["stable"], &versions[0]["outcome"]),
        (&json!("two"), &json!(false), &Json::Null)
    );
    assert_eq!((&versions[1]["stable"], &versions[1]["outcome"]), (&json!(true), &json!("successful")));
    assert_eq!(versions[1]["job_type"], "service");

    // The manifest comes back byte for byte, or as the JSON value that it is.
    let odd = "{\"nodes\": [ {\"node_id\":\"x\"} ],\n \"type\":\"service\", \"note\":\"\\u00e9\"}";
    client.deploy("odd", odd, &SLOW);
    let fields = Fields::of(&client.call(&["DEPLOY.VERSION", "odd", "1"]));
    assert_begins_with(&fields.names(), &[&VERSION[..], &["manifest"]].concat());
    assert_eq!(fields.text("manifest"), odd);
    assert_eq!(client.json(&["DEPLOY.VERSION", "odd", "1", "JSON"])["manifest"]["note"], "é");

    let tasks = client.tasks("odd");
    assert_begins_with(&names_of(&tasks[0]), &TASK);
    assert_eq!(
        (&tasks[0]["from_version"], &tasks[0]["bundle"], &tasks[0]["attempt"]),
        (&Json::Null, &Json::Null, &json!(1))
    );

    let listed = client.call(&["DEPLOY.LIST"]);
    let [cursor, entries] = items(&listed) else { panic!("[next-cursor, [map …]]: {listed:?}") };
    assert_eq!(text(cursor), "0");
    let entries: Vec<Fields> = items(entries).iter().map(Fields::of).collect();
    assert_eq!(entries.iter().map(|e| e.text("deployment_key")).collect::<Vec<_>>(), [KEY, "odd"], "in key order");
    assert_begins_with(&entries[0].names(), &LIST_ENTRY);
    assert_eq!((entries[0].int("healthy"), entries[0].int("desired")), (0, 3));

    for words in [&["DEPLOY.PAUSE", KEY][..], &["DEPLOY.RESUME", KEY], &["DEPLOY.FAIL", KEY]] {
        let receipt = Fields::of(&client.call(words));
        assert_begins_with(&receipt.names(), &RECEIPT);
        assert_eq!(receipt.int("revision") as u64, number(&client.status(KEY)["revision"]));
    }
}

/// The attempt of a task is one to report with, also where the agent was never taken up.
#[test]
fn attempts_of_tasks_are_accepted_by_report() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        client.deploy(KEY, &manifest(&["a", "b"], "small"), &SLOW);
        client.report(KEY, "b", "starting");
        client.call(&["DEPLOY.STOP", KEY]);
        let tasks = client.tasks(KEY);
        assert_eq!(tasks.iter().map(|task| string(&task["task"])).collect::<Vec<_>>(), ["stop", "stop"]);
        let issued = client.events_after(KEY, 0);
        let issued = issued.iter().filter(|event| event["type"] == "task_issued" && event["task"] == "stop");
        assert!(issued.clone().count() == 2 && issued.clone().all(|event| event["attempt"] == 1), "{issued:?}");
        for task in tasks {
            let (job, attempt) = (string(&task["job_id"]), task["attempt"].to_string());
            let report = ["DEPLOY.REPORT", KEY, string(&task["agent"]), "stopped", "VERSION", "1", "JOB", job];
            let error = client.refused(&[&report[..], &["ATTEMPT", "0"]].concat());
            assert_eq!(error, "ERR ATTEMPT must be an integer from 1 to 4294967295");
            assert_eq!(int(&client.call(&[&report[..], &["ATTEMPT", &attempt]].concat())), 1, "{task}");
        }
        assert!(client.tasks(KEY).is_empty());
    });
}

/// LIST takes several statuses, and replies the same as JSON, whether a record is decoded or not.
#[test]
fn list_filters_by_several_statuses_and_replies_json() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        for key in ["done", "failed", "paused", "running"] {
            client.deploy(key, &manifest(&["a"], "small"), &[&QUICK[..], &["REASON", "größer"]].concat());
        }
        client.carry_out_until("done", "successful");
        client.call(&["DEPLOY.FAIL", "failed", "REASON", "too slow"]);
        client.call(&["DEPLOY.PAUSE", "paused"]);
        let check = |client: &mut Client| {
            let mut keys = |words: &[&str]| -> Vec<String> {
                let reply = client.call(&[&["DEPLOY.LIST"], words].concat());
                let json: serde_json::Value =
                    serde_json::from_str(&text(&client.call(&[&["DEPLOY.LIST"], words, &["JSON"]].concat())))
                        .expect("JSON");
                assert_eq!(as_json(&reply)[0], json[0]);
                let entries = json[1].as_array().expect("entries");
                let [_, flat] = items(&reply) else { panic!("{reply:?}") };
                for (entry, of_json) in items(flat).iter().map(Fields::of).zip(entries) {
                    assert_eq!(entry.names(), LIST_ENTRY);
                    assert_eq!(of_json.as_object().expect("a map").keys().collect::<Vec<_>>(), LIST_ENTRY);
                    assert_eq!(entry.text("by"), "default");
                }
                entries.iter().map(|entry| string(&entry["deployment_key"]).to_string()).collect()
            };
            assert_eq!(keys(&[]), ["done", "failed", "paused", "running"]);
            assert_eq!(keys(&["STATUS", "failed"]), ["failed"]);
            assert_eq!(keys(&["STATUS", "1", "failed"]), ["failed"]);
            assert_eq!(keys(&["STATUS", "3", "running", "PAUSED", "paused", "MATCH", "p*"]), ["paused"]);
            assert_eq!(keys(&["COUNT", "1", "STATUS", "2", "running", "paused"]), ["paused"]);
        };
        check(&mut client);
        let listed = as_json(&client.call(&["DEPLOY.LIST", "STATUS", "failed"]));
        client.call(&["DEBUG", "RELOAD"]);
        check(&mut client);
        assert_eq!(as_json(&client.call(&["DEPLOY.LIST", "STATUS", "failed"])), listed, "read from bytes");
        let failed = client.call(&["DEPLOY.LIST", "STATUS", "failed", "JSON"]);
        let failed: serde_json::Value = serde_json::from_str(&text(&failed)).expect("JSON");
        let entry = &failed[1][0];
        assert_eq!((&entry["cause"], &entry["reason"]), (&json!("operator"), &json!("too slow")));
        assert!(entry["phase"].is_null() && entry["exposure"].is_null());
        for (words, error) in [
            (&["STATUS", "0"][..], "STATUS must be followed by a positive integer, the number of its values"),
            (&["STATUS", "2", "failed"], "STATUS is followed by fewer values than it says"),
            (&["STATUS", "9999999999999999999", "failed"], "STATUS is followed by fewer values than it says"),
            (&["STATUS", "2", "failed", "sideways"], "not 'sideways'"),
            (&["JSON", "STATUS", "failed"], "JSON must be the last argument"),
        ] {
            let refused = client.refused(&[&["DEPLOY.LIST"], words].concat());
            assert!(refused.starts_with("ERR ") && refused.contains(error), "{words:?}: {refused}");
        }
    });
}

/// Every id and cursor that the module hands out is taken back, whatever the length of the key.
#[test]
fn ids_and_cursors_of_long_keys_are_accepted() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        for length in [250, 4_000, 4_001, 4_090, 5_000, 100_000, 1 << 20] {
            let key = "k".repeat(length);
            let receipt = client.deploy(&key, &manifest(&["a"], "small"), &["MIN_HEALTHY_MS", "0"]);
            let (id, job) = (receipt.text("deployment_id"), receipt.text("job_id"));
            assert_eq!(id, format!("dep_{}_1", "k".repeat(length.min(4_000))));
            for command in ["PAUSE", "RESUME"] {
                client.call(&[&format!("DEPLOY.{command}"), &key, "ID", &id]);
            }
            let of = ["VERSION", "1", "JOB", &job, "ATTEMPT", "1"];
            for state in ["starting", "ready"] {
                assert_eq!(int(&client.call(&[&["DEPLOY.REPORT", &key, "a", state][..], &of].concat())), 1);
            }
            let service = ["a", "http", "INSTANCE", "i-1", "ADDRESS", "h", "PORT", "1", "JOB", &job];
            client.call(&[&["DEPLOY.REGISTER", &key][..], &service].concat());
            client.call(&["DEPLOY.WAIT", &key, "ID", &id, "TIMEOUT", "20000"]);
            assert_eq!(client.status(&key)["status"], "successful");
        }

        // A key that no deployment can begin at, since its receipts could not be read back; RENAME makes it all the same.
        let longest = "k".repeat((1 << 20) + 1);
        for words in
            [&["DEPLOY.DEPLOY", &longest, "MANIFEST", &manifest(&["a"], "small")][..], &["DEPLOY.ROLLBACK", &longest]]
        {
            assert_eq!(client.refused(words), "LIMIT key is longer or more than the 1048576 allowed");
        }
        client.call(&["RENAME", &"k".repeat(1 << 20), &longest]);
        client.call(&["COPY", &longest, &"l".repeat(3 << 20)]);
        client.deploy("m", &manifest(&["a"], "small"), &[]);
        let mut keys = Vec::new();
        let mut cursor = "0".to_string();
        loop {
            let page = client.call(&["DEPLOY.LIST", "CURSOR", &cursor, "COUNT", "1"]);
            keys.extend(items(&items(&page)[1]).iter().map(|entry| Fields::of(entry).text("deployment_key").len()));
            cursor = text(&items(&page)[0]);
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(keys, [250, 4_000, 4_001, 4_090, 5_000, 100_000, (1 << 20) + 1, 3 << 20, 1]);
        // It goes on under its new name, and its id as well.
        let id = client.status(&longest)["deployment_id"].as_str().expect("an id").to_string();
        client.call(&["DEPLOY.STOP", &longest, "ID", &id]);
    });
}

#[test]
fn list_pages_filters_and_matches() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    for n in 0..25 {
        client.deploy(&format!("svc-{n:02}"), &manifest(&["a"], "small"), &SLOW);
    }
    client.call(&["DEPLOY.FAIL", "svc-03"]);
    client.call(&["SET", "svc-string", "not a deployment"]);

    let mut pages = |options: &[&str]| {
        let (mut cursor, mut keys) = ("0".to_string(), Vec::new());
        loop {
            let reply = client.call(&[&["DEPLOY.LIST", "CURSOR", &cursor], options].concat());
            let page = items(&items(&reply)[1]);
            keys.extend(page.iter().map(|entry| Fields::of(entry).text("deployment_key")));
            cursor = text(&items(&reply)[0]);
            if cursor == "0" {
                return keys;
            }
        }
    };
    let all: Vec<String> = (0..25).map(|n| format!("svc-{n:02}")).collect();
    assert_eq!(pages(&["COUNT", "4"]), all, "every one once, in key order");
    assert_eq!(pages(&["COUNT", "1000"]), all);
    assert_eq!(pages(&["MATCH", "svc-1?"]), all[10..20]);
    assert_eq!(pages(&["STATUS", "failed"]), ["svc-03"]);
    assert_eq!(pages(&["status", "running", "match", "*4", "count", "2"]), ["svc-04", "svc-14", "svc-24"]);

    client.call(&["DEL", "svc-05"]);
    client.call(&["SELECT", "1"]);
    let elsewhere = client.call(&["DEPLOY.LIST"]);
    assert!(items(&items(&elsewhere)[1]).is_empty(), "of the selected database only");
    client.call(&["SELECT", "0"]);
    let rest = client.call(&["DEPLOY.LIST", "COUNT", "100"]);
    assert_eq!(items(&items(&rest)[1]).len(), 24, "a deleted one is gone");
}

// ---- effects and states ---------------------------------------------------------------------------------------------

#[test]
fn repeated_commands_change_nothing() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = start_rollout(&server);
    for command in ["DEPLOY.PAUSE", "DEPLOY.RESUME"] {
        let first = client.call(&[command, KEY]);
        assert_eq!(client.call(&[command, KEY]), first);
    }
    let text = manifest(&AGENTS, "large");
    let options = [&SLOW[..], &["BUNDLE", "s3://b/v2"]].concat();
    let again = client.deploy(KEY, &text, &options);
    assert_eq!(again.text("mode"), "unchanged");
    assert_eq!(again.int("version"), 2);
    assert_eq!(client.report(KEY, "agent-1", "ready"), 0, "known already");
}

#[test]
fn request_id_makes_retries_idempotent() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    let options = [&SLOW[..], &["REQUEST", "r-1"]].concat();
    let first = client.deploy(KEY, &manifest(&["a"], "small"), &options);
    client.report(KEY, "a", "ready");
    let retried = client.deploy(KEY, &manifest(&["a"], "small"), &options);
    assert_eq!(first, retried, "the reply of the first call");
    assert_eq!(client.json(&["DEPLOY.HISTORY", KEY, "JSON"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn failed_guards_and_wrong_states_are_rejected_with_their_codes() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = start_rollout(&server);
    for command in ["PROMOTE", "PAUSE", "RESUME", "FAIL", "ROLLBACK"] {
        let words = [&format!("DEPLOY.{command}"), KEY, "ID", "dep_agent-api_1"];
        let line = client.refused(&words);
        assert!(line.starts_with("CONFLICT ") && line.contains("dep_agent-api_2"), "{command}: {line}");
    }
    let text = manifest(&AGENTS, "huge");
    let line = client.refused(&["DEPLOY.DEPLOY", KEY, "MANIFEST", &text, "IFVERSION", "1"]);
    assert!(line.starts_with("CONFLICT "), "{line}");
    assert!(client.refused(&["DEPLOY.PROMOTE", KEY]).starts_with("BADSTATE "), "nothing waits for a promotion");
    client.call(&["DEPLOY.PAUSE", KEY, "ID", "dep_agent-api_2"]);
    assert!(client.refused(&["DEPLOY.PROMOTE", KEY]).starts_with("BADSTATE "), "paused");

    let failed = Fields::of(&client.call(&["DEPLOY.FAIL", KEY, "REASON", "wrong answers"]));
    assert_eq!(failed.text("status"), "failed");
    let record = client.status(KEY);
    assert_eq!(
        (&record["cause"], &record["current_version"], &record["rollback_target"]),
        (&json!("operator"), &json!(1), &json!(1))
    );
    for command in ["DEPLOY.PROMOTE", "DEPLOY.PAUSE", "DEPLOY.RESUME"] {
        let line = client.refused(&[command, KEY]);
        assert!(line.starts_with("BADSTATE ") && line.contains("dep_agent-api_2 is failed"), "{command}: {line}");
    }
    let never = client.refused(&["DEPLOY.ROLLBACK", KEY, "VERSION", "2"]);
    assert!(never.starts_with("BADSTATE "), "version 2 was never stable: {never}");
}

#[test]
fn pause_issues_no_tasks_and_resume_continues_at_once() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    client.deploy(KEY, &manifest(&AGENTS, "small"), &QUICK);
    client.carry_out_until(KEY, "successful");
    client.deploy(KEY, &manifest(&AGENTS, "large"), &QUICK);
    client.call(&["DEPLOY.PAUSE", KEY]);
    client.carry_out_tasks(KEY);
    let record = wait_for("the replaced agent's verdict", || {
        Some(client.status(KEY)).filter(|record| record["health"]["healthy"] == 1)
    });
    assert_eq!(record["status"], "paused", "verdicts go on in a pause");
    assert_eq!(record["deadlines"]["progress_at"], Json::Null, "the progress deadline does not run");
    assert!(client.tasks(KEY).is_empty());
    client.call(&["DEPLOY.RESUME", KEY]);
    assert_eq!(client.tasks(KEY).len(), 1, "the next one, in the same step");
    client.carry_out_until(KEY, "successful");
}

#[test]
fn failed_report_fails_the_deployment_with_the_reason() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = start_rollout(&server);
    client.call(&["DEPLOY.REPORT", KEY, "agent-1", "failed", "REASON", "exit status 3"]);
    let record = client.status(KEY);
    assert_eq!((&record["status"], &record["cause"]), (&json!("failed"), &json!("agent_failed")));
    assert!(number(&record["finished_at"]) >= number(&record["created_at"]));
    assert!(record.to_string().contains("exit status 3"), "the reason is on the record");
    // It is closed: what is reported later keeps instances true and changes nothing else.
    client.call(&["DEPLOY.REPORT", KEY, "agent-1", "starting"]);
    client.call(&["DEPLOY.REPORT", KEY, "agent-1", "ready"]);
    let later = client.status(KEY);
    assert_eq!((&later["status"], &later["cause"]), (&json!("failed"), &json!("agent_failed")));
}

#[test]
fn server_knows_every_command() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    let commands = [
        "DEPLOY", "LIST", "STATUS", "HISTORY", "VERSION", "PROMOTE", "ROLLBACK", "PAUSE", "RESUME", "FAIL", "TASKS",
        "REPORT", "EVENTS",
    ];
    for command in commands {
        let known = client.call(&["COMMAND", "INFO", &format!("deploy.{command}")]);
        assert!(matches!(items(&known), [Value::Array(_)]), "{command}: {known:?}");
    }
    assert_eq!(client.deploy(KEY, &manifest(&["a"], "m"), &[]).text("mode"), "initial");
    assert_eq!(text(&client.call(&["TYPE", KEY])), "deploymnt");
}
