//! Records in mid rollout, and assertions that a rollout continues under one key and nowhere else: for tests of what
//! generic commands, loads and failovers do to a key.

use crate::client::Client;
use crate::fixtures::{manifest, AGENTS};
use crate::reply::{array, int, items, number, string, text, Fields};
use crate::wait::{wait_for, wait_until};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// Time in ms after which the verdict is due that [`start_rollout`] leaves pending: long enough to do something to
/// the key before, short enough to wait for.
pub const VERDICT_MS: u64 = 300;

/// Deploys two versions: version 1 is successful, and of version 2 the canary is ready. Its verdict, which only the
/// timer gives, is due [`VERDICT_MS`] later.
pub fn start_rollout(client: &mut Client, key: &str) {
    start_rollout_with(client, key, VERDICT_MS);
}

pub fn start_rollout_with(client: &mut Client, key: &str, verdict_ms: u64) {
    client.deploy(key, &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "0", "TAG", "one", "REQUEST", "r-1"]);
    client.carry_out_until(key, "successful");
    let verdict_ms = verdict_ms.to_string();
    let options = ["CANARY", "1", "MIN_HEALTHY_MS", &verdict_ms, "REASON", "larger é"];
    client.deploy(key, &manifest(&AGENTS, "large"), &options);
    let register = ["DEPLOY.REGISTER", key, "agent-1", "http", "INSTANCE", "i-1", "ADDRESS", "10.0.0.1", "PORT", "80"];
    client.call(&[&register[..], &["TAGS", "2", "a", "b", "META", r#"{"zone":"x"}"#]].concat());
    client.carry_out_tasks(key);
}

/// Asserts that the rollout continues: by its timer to the promotion, and after PROMOTE to its end.
pub fn assert_completes(client: &mut Client, key: &str) {
    client.wait_for_status(key, "awaiting_promotion");
    client.call(&["DEPLOY.PROMOTE", key]);
    let record = wait_for(&format!("{key} to be successful"), || {
        client.carry_out_tasks(key);
        Some(client.status(key)).filter(|record| record["status"] == "successful")
    });
    assert_eq!(record["current_version"], 2, "{key}");
    assert_eq!(record["health"]["healthy"], 3, "{key}");
}

/// Aftermath of a blue-green update to version 2, which the server's timer ends at a fixed time.
#[derive(Debug, Clone, Copy)]
pub enum Aftermath {
    /// The agents of version 1 drain, and none says that it is idle.
    Drains,
    /// Version 2 bakes.
    Bake,
}

impl Aftermath {
    pub const ALL: [Aftermath; 2] = [Aftermath::Drains, Aftermath::Bake];

    /// Begins it, to end in `ms`. Returns the record.
    pub fn begin(self, client: &mut Client, key: &str, ms: u64) -> Json {
        let (option, status) = match self {
            Aftermath::Drains => ("DRAIN_MS", "successful"),
            Aftermath::Bake => ("BAKE_MS", "running"),
        };
        let policy = ["STRATEGY", "blue-green", "MIN_HEALTHY_MS", "0", option, &ms.to_string()];
        client.begin_update(key, &policy);
        wait_for(&format!("{key} to take over"), || {
            Some(client.status(key)).filter(|record| record["status"] == status && record["current_version"] == 2)
        })
    }

    /// Returns the time at which it ends.
    pub fn due(record: &Json) -> u64 {
        number(&record["deadlines"]["next_at"])
    }

    /// Asserts that it ends once and by itself, not before `due`.
    pub fn assert_ends_once(self, client: &mut Client, key: &str, due: u64) {
        wait_until(&format!("{key} to have no deadline"), || client.status(key)["deadlines"]["next_at"].is_null());
        let log = client.log_without_repetition(key);
        let (kind, count) = match self {
            Aftermath::Drains => ("agent_drained", AGENTS.len()),
            Aftermath::Bake => ("deployment_successful", 1),
        };
        let ended: Vec<&Json> = log
            .iter()
            .skip_while(|event| event["type"] != "deployment_promoted")
            .filter(|e| e["type"] == kind)
            .collect();
        assert_eq!(ended.len(), count, "{key}: {ended:?}");
        for event in ended {
            assert!(number(&event["at"]) >= due, "{key}: due at {due}: {event}");
            match self {
                Aftermath::Drains => assert_eq!((&event["forced"], &event["by"]), (&true.into(), &"auto".into())),
                Aftermath::Bake => assert_eq!(client.status(key)["stable_version"], 2),
            }
        }
        let tasks = client.tasks(key);
        assert_eq!(tasks.len(), AGENTS.len());
        assert!(tasks.iter().all(|task| task["task"] == "stop" && task["version"] == 1), "{key}: {tasks:?}");
    }
}

/// Asserts that there is no key, no record and no entry of DEPLOY.LIST.
pub fn assert_gone(client: &mut Client, key: &str) {
    assert_eq!(int(&client.call(&["EXISTS", key])), 0, "{key}");
    assert!(client.refused(&["DEPLOY.STATUS", key]).starts_with("NOTFOUND "), "{key}");
    assert!(!listed(client).contains_key(key), "{key} is listed");
}

/// Returns the entries of DEPLOY.LIST in the selected database, read page by page.
pub fn listed(client: &mut Client) -> BTreeMap<String, Fields> {
    let (mut all, mut cursor) = (BTreeMap::new(), "0".to_string());
    loop {
        let page = client.call(&["DEPLOY.LIST", "CURSOR", &cursor, "COUNT", "7"]);
        for entry in items(&items(&page)[1]) {
            let entry = Fields::of(entry);
            let key = entry.text("deployment_key");
            assert!(all.insert(key.clone(), entry).is_none(), "{key} is listed twice");
        }
        cursor = text(&items(&page)[0]);
        if cursor == "0" {
            return all;
        }
    }
}

/// Returns the keys of the module's type that SCAN finds in the selected database.
pub fn scanned(client: &mut Client) -> Vec<String> {
    let (mut all, mut cursor) = (Vec::new(), "0".to_string());
    loop {
        let page = client.call(&["SCAN", &cursor, "TYPE", "deploymnt", "COUNT", "100"]);
        all.extend(items(&items(&page)[1]).iter().map(text));
        cursor = text(&items(&page)[0]);
        if cursor == "0" {
            all.sort();
            all.dedup();
            return all;
        }
    }
}

/// Asserts that DEPLOY.LIST and INFO agree with a full scan of the databases. It is retried, since they agree only
/// while nothing changes.
pub fn assert_index_matches(client: &mut Client, databases: &[u32]) {
    let mut last = String::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_until("the index to match", || match compare(client, databases) {
            Ok(()) => true,
            Err(difference) => {
                last = difference;
                false
            }
        });
    }));
    assert!(found.is_ok(), "the index does not match: {last}");
}

fn compare(client: &mut Client, databases: &[u32]) -> Result<(), String> {
    let mut of_status: BTreeMap<String, u64> = BTreeMap::new();
    let (mut timers, mut tasks, mut draining, mut standby) = (0, 0, 0, 0);
    let mut outcome = Ok(());
    for db in databases {
        client.call(&["SELECT", &db.to_string()]);
        let (scanned, listed) = (scanned(client), listed(client));
        if scanned.iter().ne(listed.keys()) {
            outcome = Err(format!("db {db}: keys {scanned:?}, listed {:?}", listed.keys()));
        }
        for key in scanned {
            let Ok(record) = client.try_call(&["DEPLOY.STATUS", &key, "JSON"]) else { continue };
            let record: Json = serde_json::from_str(&text(&record)).expect("JSON");
            let status = string(&record["status"]).to_string();
            if listed.get(&key).is_some_and(|entry| entry.text("status") != status) {
                outcome = Err(format!("db {db}: {key} is {status}, and listed otherwise"));
            }
            *of_status.entry(status).or_default() += 1;
            timers += u64::from(!record["deadlines"]["next_at"].is_null());
            tasks += client.tasks(&key).len() as u64;
            let of_role = |role| array(&record["instances"]).iter().filter(|i| i["role"] == role).count() as u64;
            draining += of_role("draining");
            standby += of_role("standby");
        }
    }
    client.call(&["SELECT", "0"]);
    for status in ["running", "awaiting_promotion", "paused", "successful", "failed", "cancelled", "version_recorded"] {
        let (told, is) = (client.info("deploy", &format!("deploy_deployments_{status}")), of_status.get(status));
        if told != is.copied().unwrap_or_default().to_string() {
            outcome = Err(format!("INFO counts {told} as {status}, there are {is:?}"));
        }
    }
    for (name, is) in [
        ("deploy_timers_armed", timers),
        ("deploy_tasks_outstanding", tasks),
        ("deploy_instances_draining", draining),
        ("deploy_instances_standby", standby),
    ] {
        let told = client.info("deploy", name);
        if told != is.to_string() {
            outcome = Err(format!("INFO says {name}:{told}, there are {is}"));
        }
    }
    outcome
}

/// Returns the replies of all reading commands that do not depend on the time.
pub fn everything(client: &mut Client, key: &str) -> Vec<Json> {
    let mut all = vec![
        client.status(key),
        client.json(&["DEPLOY.HISTORY", key, "JSON"]),
        client.json(&["DEPLOY.RESOLVE", key, "ROLE", "any", "ALL", "JSON"]),
        Json::Array(client.tasks(key)),
    ];
    for version in array(&all[1]).clone() {
        all.push(client.json(&["DEPLOY.VERSION", key, &version["version"].to_string(), "JSON"]));
    }
    all.extend(client.events_after(key, 0));
    all
}

pub fn dump(client: &mut Client, key: &str) -> Vec<u8> {
    match client.call(&["DUMP", key]) {
        redis::Value::BulkString(bytes) => bytes,
        other => panic!("DUMP {key}: {other:?}"),
    }
}

pub fn restore(client: &mut Client, key: &str, payload: &[u8], options: &[&str]) -> Result<redis::Value, String> {
    let mut words: Vec<&[u8]> = vec![b"RESTORE", key.as_bytes(), b"0", payload];
    words.extend(options.iter().map(|word| word.as_bytes()));
    client.try_call(&words)
}

/// Rewrites the append-only file. A replica that has just synced is rewriting its own already, which is waited for.
pub fn rewrite_aof(client: &mut Client) {
    let is_idle = |client: &mut Client| {
        client.info("persistence", "aof_rewrite_in_progress") == "0"
            && client.info("persistence", "aof_rewrite_scheduled") == "0"
    };
    wait_until("an earlier rewrite of the append-only file", || is_idle(client));
    client.call(&["BGREWRITEAOF"]);
    wait_until("the rewrite of the append-only file", || is_idle(client));
    assert_eq!(client.info("persistence", "aof_last_bgrewrite_status"), "ok");
}
