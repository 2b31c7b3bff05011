//! Records in mid rollout, and how one sees that a rollout goes on in one place and nowhere else.
//!
//! For tests that do something to a *key* and ask what became of the deployment. Used with `#[path]` beside
//! `mod common`.

#![allow(dead_code)] // each test binary uses its own part of this

use crate::common::*;
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// How soon the verdict is due that [`in_mid_rollout`] leaves open, in ms: long enough to do something to the key
/// before, short enough to wait for.
pub const VERDICT_MS: u64 = 300;

/// Version 1 is successful; of version 2 the canary is ready, and its verdict, which only the timer can give, is due
/// [`VERDICT_MS`] later.
pub fn in_mid_rollout(client: &mut Client, key: &str) {
    in_mid_rollout_with(client, key, VERDICT_MS);
}

pub fn in_mid_rollout_with(client: &mut Client, key: &str, verdict_ms: u64) {
    client.deploy(key, &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "0", "TAG", "one", "REQUEST", "r-1"]);
    client.carry_out_until(key, "successful");
    let verdict_ms = verdict_ms.to_string();
    let options = ["CANARY", "1", "MIN_HEALTHY_MS", &verdict_ms, "REASON", "larger é"];
    client.deploy(key, &manifest(&AGENTS, "large"), &options);
    let register = ["DEPLOY.REGISTER", key, "agent-1", "http", "INSTANCE", "i-1", "ADDRESS", "10.0.0.1", "PORT", "80"];
    client.call(&[&register[..], &["TAGS", "2", "a", "b", "META", r#"{"zone":"x"}"#]].concat());
    client.carry_out_tasks(key);
}

/// The record goes on by itself to where a person is needed, and from there to its end. Waits for the timer.
pub fn goes_on(client: &mut Client, key: &str) {
    client.wait_for_status(key, "awaiting_promotion");
    client.call(&["DEPLOY.PROMOTE", key]);
    // The rest need not wait as long as the canary.
    let record = wait_for(&format!("{key} to be successful"), || {
        client.carry_out_tasks(key);
        Some(client.status(key)).filter(|record| record["status"] == "successful")
    });
    assert_eq!(record["current_version"], 2, "{key}");
    assert_eq!(record["health"]["healthy"], 3, "{key}");
}

/// No key, no record, no entry in the listing.
pub fn is_gone(client: &mut Client, key: &str) {
    assert_eq!(int(&client.call(&["EXISTS", key])), 0, "{key}");
    assert!(client.refused(&["DEPLOY.STATUS", key]).starts_with("NOTFOUND "), "{key}");
    assert!(!listed(client).contains_key(key), "{key} is listed");
}

/// The selected database's listing, read page by page.
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

/// What a full scan of the selected database finds of our type.
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

/// The listing, and the numbers of INFO, say of every database what a full scan finds there. Only true of a server
/// where nothing happens meanwhile, so it is tried until it holds.
pub fn index_is_true(client: &mut Client, databases: &[u32]) {
    let mut last = String::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_until("the index to be true", || match compare(client, databases) {
            Ok(()) => true,
            Err(difference) => {
                last = difference;
                false
            }
        });
    }));
    assert!(found.is_ok(), "the index is not true: {last}");
}

fn compare(client: &mut Client, databases: &[u32]) -> Result<(), String> {
    let mut of_status: BTreeMap<String, u64> = BTreeMap::new();
    let (mut timers, mut tasks) = (0, 0);
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
        }
    }
    client.call(&["SELECT", "0"]);
    for status in ["running", "awaiting_promotion", "paused", "successful", "failed", "cancelled", "version_recorded"] {
        let (told, is) = (client.info("deploy", &format!("deploy_deployments_{status}")), of_status.get(status));
        if told != is.copied().unwrap_or_default().to_string() {
            outcome = Err(format!("INFO counts {told} as {status}, there are {is:?}"));
        }
    }
    for (name, is) in [("deploy_timers_armed", timers), ("deploy_tasks_outstanding", tasks)] {
        let told = client.info("deploy", name);
        if told != is.to_string() {
            outcome = Err(format!("INFO says {name}:{told}, there are {is}"));
        }
    }
    outcome
}

/// All that can be read of a record, without anything that asks for its time.
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

/// Rewrites the append-only file from what is there now. A replica that has just synced is rewriting its own already.
pub fn rewrite_aof(client: &mut Client) {
    let at_rest = |client: &mut Client| {
        client.info("persistence", "aof_rewrite_in_progress") == "0"
            && client.info("persistence", "aof_rewrite_scheduled") == "0"
    };
    wait_until("an earlier rewrite of the append-only file", || at_rest(client));
    client.call(&["BGREWRITEAOF"]);
    wait_until("the rewrite of the append-only file", || at_rest(client));
    assert_eq!(client.info("persistence", "aof_last_bgrewrite_status"), "ok");
}

/// Draws that are the same for the same seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 … `below` - 1.
    pub fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }
}

/// Whether the long runs were asked for.
pub fn long_run() -> bool {
    std::env::var_os("REDIS_DEPLOY_LONG").is_some_and(|value| value == "1")
}
