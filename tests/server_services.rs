//! Services: callers see one version of an agent at a time, a failing check takes effect at once, TTLs are absolute and
//! cheap to refresh, and services move with their record.

use redis::Value;
use redis_deploy::engine::time::UnixMs;
use serde_json::{json, Value as Json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use test_support::prelude::*;

const KEY: &str = "agent-api";
const CHANNEL: &str = "deploy:events:agent-api";

/// Some of these tests measure time, so one runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Agents that run `model`, each of which declares the service `http`.
fn serving(agents: &[&str], model: &str) -> String {
    let node = |agent: &&str| json!({ "node_id": agent, "model": model, "services": [{ "name": "http" }] });
    json!({ "type": "service", "nodes": agents.iter().map(node).collect::<Vec<_>>() }).to_string()
}

fn register(client: &mut Client, agent: &str, instance: &str, options: &[&str]) -> i64 {
    let words = ["DEPLOY.REGISTER", KEY, agent, "http", "INSTANCE", instance, "ADDRESS", "10.0.0.1", "PORT", "80"];
    int(&client.call(&[&words[..], options].concat()))
}

fn service(client: &mut Client, instance: &str) -> Option<Json> {
    array(&client.status(KEY)["services"]).iter().find(|s| s["instance"] == instance).cloned()
}

fn status_of(client: &mut Client, instance: &str) -> String {
    service(client, instance).map_or_else(|| "gone".to_string(), |s| string(&s["status"]).to_string())
}

fn expiry_of(client: &mut Client, instance: &str) -> UnixMs {
    number(&service(client, instance).unwrap_or_else(|| panic!("no {instance}"))["expires_at"])
}

fn agent(client: &mut Client, agent: &str) -> Json {
    let record = client.status(KEY);
    let of_it: Vec<&Json> = array(&record["instances"]).iter().filter(|i| i["agent"] == agent).collect();
    of_it.last().map(|i| (*i).clone()).unwrap_or_else(|| panic!("no agent {agent}"))
}

fn resolved(client: &mut Client, options: &[&str]) -> BTreeSet<String> {
    let entries = client.json(&[&["DEPLOY.RESOLVE", KEY], options, &["JSON"]].concat());
    array(&entries).iter().map(|entry| string(&entry["instance"]).to_string()).collect()
}

fn set(instances: &[&str]) -> BTreeSet<String> {
    instances.iter().map(|instance| instance.to_string()).collect()
}

fn events_of(client: &mut Client, kind: &str) -> Vec<Json> {
    client.events_after(KEY, 0).into_iter().filter(|event| event["type"] == kind).collect()
}

/// Carries out the open tasks with their services, the instance of agent `a` at version 2 being `a@2`; `after_each` is
/// called after every single step that callers can see.
fn carry_out(client: &mut Client, mut after_each: impl FnMut()) {
    for task in client.tasks(KEY) {
        let (name, version) = (string(&task["agent"]), task["version"].to_string());
        let instance = ["VERSION", &version, "JOB", string(&task["job_id"])];
        let report = |client: &mut Client, state: &str| {
            client.call(&[&["DEPLOY.REPORT", KEY, name, state], &instance[..]].concat());
        };
        if task["task"] == "stop" {
            report(client, "stopped");
            after_each();
            continue;
        }
        report(client, "starting");
        after_each();
        register(client, name, &format!("{name}@{version}"), &instance);
        after_each();
        report(client, "ready");
    }
}

fn carry_out_until(client: &mut Client, status: &str, mut after_each: impl FnMut()) -> Json {
    wait_for(&format!("{KEY} to be {status}"), || {
        carry_out(client, &mut after_each);
        Some(client.status(KEY)).filter(|record| record["status"] == status)
    })
}

// ---- concurrent readers ---------------------------------------------------------------------------------------------

/// Clients that do nothing but RESOLVE, in every form, and write down what they see whenever it is something else.
struct Readers {
    stop: Arc<AtomicBool>,
    counts: Vec<Arc<AtomicU64>>,
    threads: Vec<std::thread::JoinHandle<Vec<BTreeSet<String>>>>,
}

/// The forms of one question that all have one answer.
const FORMS: [(&str, &[&str]); 4] =
    [("resp2", &[]), ("resp3", &[]), ("resp2", &["JSON"]), ("resp2", &["SERVICE", "http", "ROLE", "primary", "JSON"])];

impl Readers {
    fn start(server: &Server) -> Readers {
        let stop = Arc::new(AtomicBool::new(false));
        let mut readers = Readers { stop: stop.clone(), counts: Vec::new(), threads: Vec::new() };
        for (protocol, options) in FORMS {
            let mut client = if protocol == "resp3" { server.client_resp3() } else { server.client() };
            let (stop, count) = (stop.clone(), Arc::new(AtomicU64::new(0)));
            readers.counts.push(count.clone());
            readers.threads.push(std::thread::spawn(move || {
                let mut seen: Vec<BTreeSet<String>> = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let is = look(&mut client, options);
                    if seen.last() != Some(&is) {
                        seen.push(is);
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
                seen
            }));
        }
        readers
    }

    fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Waits until each of them has looked some more times. The first reply may have been under way.
    fn look(&self) {
        let before: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        wait_until("every reader to look", || {
            let dead = self.threads.iter().any(|thread| thread.is_finished());
            assert!(!dead, "a reader saw what may not be");
            self.counts.iter().zip(&before).all(|(count, before)| count.load(Ordering::Relaxed) >= before + 5)
        });
    }

    /// Every reader saw just these, one after the other, and nothing else at any time.
    fn saw(self, expected: &[&[&str]]) {
        self.look();
        let count = self.count();
        self.stop.store(true, Ordering::Relaxed);
        let expected: Vec<BTreeSet<String>> = expected.iter().map(|instances| set(instances)).collect();
        for (thread, form) in self.threads.into_iter().zip(FORMS) {
            let seen = thread.join().expect("a reader that saw nothing wrong");
            assert_eq!(seen, expected, "as seen by {form:?}");
        }
        eprintln!("   {count} replies checked");
        assert!(count >= 100, "only {count} replies: nobody was looking");
    }
}

/// One reply, each entry of which has to agree with itself.
fn look(client: &mut Client, options: &[&str]) -> BTreeSet<String> {
    let words = [&["DEPLOY.RESOLVE", KEY], options].concat();
    let entries: Vec<Json> = match options.last() {
        Some(&"JSON") => array(&client.json(&words)).clone(),
        _ => {
            let named = |entry: &Value| {
                Value::Map(
                    Fields::of(entry)
                        .0
                        .into_iter()
                        .map(|(name, value)| (Value::BulkString(name.into()), value))
                        .collect(),
                )
            };
            items(&client.call(&words)).iter().map(|entry| as_json(&named(entry))).collect()
        }
    };
    let mut seen = BTreeSet::new();
    for entry in &entries {
        let instance = format!("{}@{}", string(&entry["agent"]), entry["deployment_version"]);
        assert_eq!(entry["instance"], instance.as_str());
        assert_eq!(entry["deployment_key"], KEY);
        assert_eq!(entry["deployment_id"], format!("dep_{KEY}_{}", entry["deployment_version"]).as_str());
        assert_eq!((&entry["deployment_role"], &entry["status"]), (&json!("primary"), &json!("passing")));
        assert!(seen.insert(instance), "twice: {entries:?}");
    }
    seen
}

const NOW: [&str; 2] = ["MIN_HEALTHY_MS", "50"];
const V1: &[&str] = &["agent-1@1", "agent-2@1", "agent-3@1"];
const V2: &[&str] = &["agent-1@2", "agent-2@2", "agent-3@2"];

fn first_version(client: &mut Client) {
    client.deploy(KEY, &serving(&AGENTS, "small"), &NOW);
    carry_out_until(client, "successful", || ());
}

#[test]
fn canary_services_are_hidden_until_promotion() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        first_version(&mut client);
        let readers = Readers::start(&server);
        readers.look();
        client.deploy(KEY, &serving(&AGENTS, "large"), &[&NOW[..], &["CANARY", "1"]].concat());
        readers.look();
        carry_out_until(&mut client, "awaiting_promotion", || readers.look());
        assert_eq!(resolved(&mut client, &["ROLE", "canary"]), set(&["agent-1@2"]));
        client.call(&["DEPLOY.PROMOTE", KEY]);
        readers.look();
        carry_out_until(&mut client, "successful", || readers.look());
        readers.saw(&[
            V1,
            // Its successor has reported, and is hidden.
            &["agent-2@1", "agent-3@1"],
            &["agent-1@2", "agent-2@1", "agent-3@1"],
            &["agent-1@2", "agent-3@1"],
            &["agent-1@2", "agent-2@2", "agent-3@1"],
            &["agent-1@2", "agent-2@2"],
            V2,
        ]);
    });
}

#[test]
fn blue_green_promotion_switches_all_services_at_once() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        first_version(&mut client);
        let readers = Readers::start(&server);
        readers.look();
        let beside = ["STRATEGY", "blue-green"];
        client.deploy(KEY, &serving(&AGENTS, "large"), &[&NOW[..], &beside[..], &["CANARY", "1"]].concat());
        carry_out_until(&mut client, "awaiting_promotion", || readers.look());
        assert_eq!(resolved(&mut client, &["ROLE", "candidate"]), set(V2));
        client.call(&["DEPLOY.PROMOTE", KEY]);
        readers.look();
        assert_eq!(resolved(&mut client, &["ROLE", "any"]), set(V2), "the old ones are retired");
        assert_eq!(resolved(&mut client, &["ROLE", "any", "ALL"]).len(), 6);
        // They stop, and leave; and the next promotion comes by itself.
        carry_out(&mut client, || readers.look());
        assert_eq!(resolved(&mut client, &["ROLE", "any", "ALL"]), set(V2));
        client.deploy(KEY, &serving(&AGENTS, "huge"), &[&NOW[..], &beside[..]].concat());
        carry_out_until(&mut client, "successful", || readers.look());
        readers.saw(&[V1, V2, &["agent-1@3", "agent-2@3", "agent-3@3"]]);
    });
}

#[test]
fn failed_canary_stays_hidden_and_rollback_restores_its_agent() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        first_version(&mut client);
        let readers = Readers::start(&server);
        readers.look();
        client.deploy(KEY, &serving(&AGENTS, "large"), &[&NOW[..], &["CANARY", "1"]].concat());
        carry_out_until(&mut client, "awaiting_promotion", || readers.look());
        client.call(&["DEPLOY.CHECK", KEY, "agent-1@2", "critical", "REASON", "503"]);
        let refusal = client.refused(&["DEPLOY.PROMOTE", KEY]);
        assert!(refusal.starts_with("UNHEALTHY ") && refusal.contains("agent-1@2"), "{refusal}");
        client.call(&["DEPLOY.CHECK", KEY, "agent-1@2", "passing"]);
        client.call(&["DEPLOY.REPORT", KEY, "agent-1", "failed", "VERSION", "2"]);
        client.wait_for_status(KEY, "failed");
        readers.look();
        client.call(&["DEPLOY.ROLLBACK", KEY]);
        carry_out_until(&mut client, "successful", || readers.look());
        // A candidate that fails is never seen at all.
        let beside = ["STRATEGY", "blue-green"];
        client.deploy(KEY, &serving(&AGENTS, "huge"), &[&NOW[..], &beside[..], &["CANARY", "1"]].concat());
        carry_out_until(&mut client, "awaiting_promotion", || readers.look());
        client.call(&["DEPLOY.FAIL", KEY]);
        carry_out(&mut client, || readers.look());
        readers.saw(&[V1, &["agent-2@1", "agent-3@1"], &["agent-1@3", "agent-2@1", "agent-3@1"]]);
    });
}

#[test]
fn auto_revert_restores_all_services() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        first_version(&mut client);
        let options = [&NOW[..], &["STRATEGY", "blue-green", "AUTO_REVERT", "true"]].concat();
        client.deploy(KEY, &serving(&AGENTS, "large"), &options);
        let readers = Readers::start(&server);
        readers.look();
        carry_out(&mut client, || readers.look());
        client.call(&["DEPLOY.REPORT", KEY, "agent-2", "failed", "VERSION", "2"]);
        carry_out_until(&mut client, "failed", || readers.look());
        readers.saw(&[V1]);
    });
}

// ---- the health check -----------------------------------------------------------------------------------------------

#[test]
fn agent_health_follows_its_services() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let manifest = json!({ "type": "service", "nodes": [
            { "node_id": "web", "services": [{ "name": "http" }] }, { "node_id": "plain" },
        ] });
        client.deploy(KEY, &manifest.to_string(), &["MIN_HEALTHY_MS", "200"]);
        client.report(KEY, "web", "ready");
        client.report(KEY, "plain", "ready");
        wait_until("the agent without services", || agent(&mut client, "plain")["health"] == "healthy");
        let not_by = |client: &mut Client, what: &str| {
            let until = unix_ms() + 260;
            wait_until("more than min_healthy_ms", || unix_ms() > until);
            assert_eq!(agent(client, "web")["health"], "pending", "{what}");
        };
        not_by(&mut client, "nothing registered");
        let other = ["DEPLOY.REGISTER", KEY, "web", "admin", "INSTANCE", "adm", "ADDRESS", "10.0.0.1", "PORT", "81"];
        client.call(&other);
        not_by(&mut client, "another service than what it declares");
        register(&mut client, "web", "i-1", &["STATUS", "warning"]);
        not_by(&mut client, "a warning");
        client.call(&["DEPLOY.CHECK", KEY, "adm", "critical"]);
        client.call(&["DEPLOY.CHECK", KEY, "i-1", "passing"]);
        not_by(&mut client, "what it need not have registered is critical");
        client.call(&["DEPLOY.CHECK", KEY, "adm", "passing"]);
        client.wait_for_status(KEY, "successful");
        let passing = events_of(&mut client, "service_status").pop().expect("one");
        let healthy = events_of(&mut client, "agent_healthy").pop().expect("one");
        assert!(number(&healthy["at"]) >= number(&passing["at"]) + 200, "{passing} {healthy}");

        // A check that turns critical: in the same step.
        client.call(&["DEPLOY.CHECK", KEY, "i-1", "critical", "REASON", "answers 503"]);
        let web = agent(&mut client, "web");
        assert_eq!(web["health"], "unhealthy");
        let reason = string(&web["reason"]);
        assert!(reason.contains("i-1") && reason.contains("answers 503"), "{reason}");
        let last: Vec<Json> = client.events_after(KEY, number(&healthy["revision"]));
        let (check, verdict) = (&last[last.len() - 2], &last[last.len() - 1]);
        assert_eq!((&check["type"], &verdict["type"]), (&json!("service_status"), &json!("agent_unhealthy")));
        assert_eq!(check["at"], verdict["at"]);
        assert_eq!(client.status(KEY)["status"], "successful", "what has ended stays so");
        // Flapping begins the wait anew.
        client.call(&["DEPLOY.CHECK", KEY, "i-1", "passing"]);
        client.call(&["DEPLOY.CHECK", KEY, "i-1", "warning"]);
        client.call(&["DEPLOY.CHECK", KEY, "i-1", "passing"]);
        let passing = events_of(&mut client, "service_status").pop().expect("one");
        wait_until("its recovery", || agent(&mut client, "web")["health"] == "healthy");
        let healthy = events_of(&mut client, "agent_healthy").pop().expect("one");
        assert!(number(&healthy["at"]) >= number(&passing["at"]) + 200, "{passing} {healthy}");
        // Gone is as bad.
        client.call(&["DEPLOY.DEREGISTER", KEY, "i-1"]);
        let web = agent(&mut client, "web");
        assert!(web["health"] == "unhealthy" && string(&web["reason"]).contains("http"), "{web}");
    });
}

// ---- TTL ------------------------------------------------------------------------------------------------------------

#[test]
fn expired_ttl_makes_services_critical() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let published = Subscriber::start(&server, CHANNEL);
        let mut client = server.client();
        client.deploy(KEY, &serving(&["web"], "small"), &["MIN_HEALTHY_MS", "0"]);
        client.report(KEY, "web", "ready");
        let mut late = Vec::new();
        for round in 0..5 {
            let from = number(&client.status(KEY)["revision"]);
            register(&mut client, "web", "i-1", &["TTL", if round % 2 == 0 { "150" } else { "151" }]);
            client.wait_for_status(KEY, "successful");
            let service = service(&mut client, "i-1").expect("it is registered");
            assert_eq!(resolved(&mut client, &[]), set(&["i-1"]));
            let due = number(&service["expires_at"]);
            // From here on nobody asks: it is the server that finds out.
            let is_it = |e: &Json| e["type"] == "service_status" && number(&e["revision"]) > from;
            let ran_out = published.wait_for_event("the end of its time", is_it);
            assert_eq!((&ran_out["status"], &ran_out["instance"]), (&json!("critical"), &json!("i-1")));
            assert!(number(&ran_out["at"]) >= due, "early: {ran_out}, due at {due}");
            late.push(number(&ran_out["at"]) - due);
            let verdict = published.wait_for_event("the verdict", |e| {
                e["type"] == "agent_unhealthy" && number(&e["revision"]) > number(&ran_out["revision"])
            });
            assert_eq!(verdict["at"], ran_out["at"], "a failed check is felt at once");
            assert!(string(&verdict["reason"]).contains("i-1"), "{verdict}");
            assert!(resolved(&mut client, &[]).is_empty());
            assert_eq!(resolved(&mut client, &["ALL"]), set(&["i-1"]));
        }
        late.sort_unstable();
        eprintln!("   late by {late:?} ms");
        assert!(late[2] <= 30, "late by {late:?} ms");
    });
}

#[test]
fn refreshed_services_stay_passing() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        client.deploy(KEY, &serving(&["web"], "small"), &["MIN_HEALTHY_MS", "0"]);
        client.report(KEY, "web", "ready");
        register(&mut client, "web", "i-1", &["TTL", "1000"]);
        let first = expiry_of(&mut client, "i-1");
        let mut refreshes = 0;
        wait_until("its first time to pass twice over", || {
            // A check refreshes, and so does registering the same again.
            let reply = match refreshes % 2 {
                0 => int(&client.call(&["DEPLOY.CHECK", KEY, "i-1", "passing"])),
                _ => register(&mut client, "web", "i-1", &["TTL", "1000"]),
            };
            assert_eq!(reply, 0, "nothing is new");
            assert_eq!(resolved(&mut client, &[]), set(&["i-1"]));
            refreshes += 1;
            unix_ms() > first + 1000
        });
        assert!(expiry_of(&mut client, "i-1") > first + 1000);
        assert!(events_of(&mut client, "service_status").is_empty());
        assert_eq!(agent(&mut client, "web")["health"], "healthy");
        // Registered without a TTL it has no time to run out.
        register(&mut client, "web", "i-1", &[]);
        assert_eq!(service(&mut client, "i-1").expect("it is there")["expires_at"], Json::Null);
    });
}

#[test]
fn services_are_removed_with_their_instance() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let published = Subscriber::start(&server, CHANNEL);
        let mut client = server.client();
        first_version(&mut client);
        let left = |client: &mut Client| -> Vec<String> {
            let events = published.events_until_now(client, CHANNEL);
            let gone = events.iter().filter(|e| e["type"] == "service_deregistered");
            gone.map(|e| string(&e["instance"]).to_string()).collect()
        };
        // Replaced by another version; a task alone changes nothing.
        client.deploy(KEY, &serving(&AGENTS, "large"), &NOW);
        assert_eq!(resolved(&mut client, &[]), set(V1));
        carry_out(&mut client, || ());
        assert_eq!(left(&mut client), ["agent-1@1"]);
        carry_out_until(&mut client, "successful", || ());
        assert_eq!(left(&mut client), V1);
        // Stopped without being told to.
        client.report(KEY, "agent-2", "stopped");
        assert_eq!(left(&mut client).pop().as_deref(), Some("agent-2@2"));
        assert_eq!(resolved(&mut client, &[]), set(&["agent-1@2", "agent-3@2"]));
        // Told to stop, and stopped.
        client.call(&["DEPLOY.STOP", KEY]);
        let before = left(&mut client).len();
        carry_out(&mut client, || ());
        assert_eq!(left(&mut client)[before..], ["agent-1@2", "agent-3@2"]);
        assert!(resolved(&mut client, &["ROLE", "any", "ALL"]).is_empty());
        assert!(array(&client.status(KEY)["services"]).is_empty());
    });
}

#[test]
fn ttl_refreshes_are_replicated_compactly() {
    const REFRESHES: u64 = 1000;
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &["--appendonly", "yes", "--auto-aof-rewrite-percentage", "0"]);
        let replica = Server::start(kind, &[]);
        replica.replicate_from(&server);
        let mut client = server.client();
        let mut its = replica.client();
        client.deploy(KEY, &serving(&["web"], "small"), &["MIN_HEALTHY_MS", "0"]);
        client.report(KEY, "web", "ready");
        register(&mut client, "web", "i-1", &["TTL", "600000"]);
        client.wait_for_status(KEY, "successful");
        let size =
            |client: &mut Client| -> u64 { client.info("persistence", "aof_current_size").parse().expect("a size") };
        let rewrite = |client: &mut Client| {
            client.call(&["BGREWRITEAOF"]);
            wait_until("the rewrite", || {
                client.info("persistence", "aof_rewrite_in_progress") == "0"
                    && client.info("persistence", "aof_rewrite_scheduled") == "0"
            });
            size(client)
        };
        let applied = |its: &mut Client| -> u64 {
            let stats = ["cmdstat_DEPLOY.APPLY", "cmdstat_deploy.apply"].map(|name| its.info("commandstats", name));
            let calls = |stat: &String| stat.strip_prefix("calls=")?.split(',').next()?.parse::<u64>().ok();
            stats.iter().find_map(calls).unwrap_or(0)
        };
        let base = rewrite(&mut client);
        replica.catch_up_with(&server);
        let published = Subscriber::start(&server, CHANNEL);
        let published_there = Subscriber::start(&replica, CHANNEL);
        let before = client.status(KEY);
        let expiry = expiry_of(&mut client, "i-1");
        let applied_before = applied(&mut its);
        let mut last = unix_ms();
        for _ in 0..REFRESHES {
            // Within one millisecond there is nothing to move.
            wait_until("the next millisecond", || unix_ms() > last);
            last = unix_ms();
            assert_eq!(int(&client.call(&["DEPLOY.CHECK", KEY, "i-1", "passing"])), 0);
        }
        replica.catch_up_with(&server);
        let after = client.status(KEY);
        assert!(expiry_of(&mut client, "i-1") >= expiry + REFRESHES);
        assert_eq!(expiry_of(&mut its, "i-1"), expiry_of(&mut client, "i-1"), "the replica's time moves along");
        for same in ["revision", "updated_at", "events", "instances"] {
            assert_eq!(after[same], before[same], "{same}");
        }
        assert_eq!(published.events_until_now(&mut client, CHANNEL), [] as [Json; 0]);
        assert_eq!(published_there.events_until_now(&mut its, CHANNEL), [] as [Json; 0]);
        let moved = applied(&mut its) - applied_before;
        assert!(moved > REFRESHES / 2, "only {moved} of {REFRESHES} refreshes moved anything");
        let bytes = (size(&mut client) - base) / moved;
        let rewritten = rewrite(&mut client);
        eprintln!("   {bytes} bytes of AOF for each of {moved} refreshes; {base} bytes before, {rewritten} rewritten");
        assert!(bytes < 300, "{bytes} bytes each");
        assert!(rewritten <= base + 100, "{base} before, {rewritten} bytes after the rewrite");
    });
}

// ---- wherever the record goes ---------------------------------------------------------------------------------------

/// One service that runs out soon, one that does not, one that cannot. When the first runs out.
fn three_services(client: &mut Client, soon: &str) -> UnixMs {
    client.deploy(KEY, &serving(&["web"], "small"), &["MIN_HEALTHY_MS", "0"]);
    client.report(KEY, "web", "ready");
    let options = ["TAGS", "2", "a", "b", "META", r#"{"zone":"é"}"#];
    register(client, "web", "for-ever", &options);
    register(client, "web", "long", &["TTL", "600000"]);
    register(client, "web", "soon", &["TTL", soon]);
    client.wait_for_status(KEY, "successful");
    expiry_of(client, "soon")
}

/// `soon` is critical, found out at once by a server that has the record since `since`; the others are as they were.
fn ran_out(client: &mut Client, before: &Json, due: UnixMs, since: UnixMs) {
    wait_until("the end of its time", || status_of(client, "soon") == "critical");
    let event = events_of(client, "service_status").pop().expect("one");
    let at = number(&event["at"]);
    let could = since.max(due);
    assert!(at >= due && at <= could + 500, "at {at}, due at {due}, a server since {since}");
    assert_eq!(service(client, "soon").expect("it is there")["expires_at"], Json::Null);
    for same in ["for-ever", "long"] {
        let was = array(&before["services"]).iter().find(|s| s["instance"] == same).cloned();
        assert_eq!(service(client, same), was, "{same}");
    }
    assert_eq!(resolved(client, &[]), set(&["for-ever", "long"]));
    assert_eq!(agent(client, "web")["health"], "unhealthy");
}

#[test]
fn services_and_ttls_survive_a_restart() {
    let _alone = alone();
    let ways: [(&[&str], End); 3] = [
        (&[], End::Save),
        (&["--appendonly", "yes", "--aof-use-rdb-preamble", "yes"], End::NoSave),
        (&["--appendonly", "yes", "--aof-use-rdb-preamble", "no", "--appendfsync", "always"], End::Kill),
    ];
    on_each_server(|kind| {
        for (args, end) in ways {
            let mut server = Server::start(kind, args);
            let mut client = server.client();
            let due = three_services(&mut client, "1500");
            let before = client.status(KEY);
            let all = resolved(&mut client, &[]);
            if skip_if_past(due) {
                return;
            }
            assert_eq!(all, set(&["for-ever", "long", "soon"]));
            server.restart_after(end, || wait_until("its time to pass", || unix_ms() > due + 50));
            let since = unix_ms();
            ran_out(&mut server.client(), &before, due, since);

            // Refreshed, it is back, and a restart within its time leaves it so.
            let mut client = server.client();
            register(&mut client, "web", "soon", &["TTL", "600000"]);
            let before = client.status(KEY)["services"].clone();
            server.restart(end);
            assert_eq!(server.client().status(KEY)["services"], before, "{args:?}");
        }
    });
}

#[test]
fn promoted_replica_expires_ttls_of_its_primary() {
    let _alone = alone();
    on_each_server(|kind| {
        let (mut primary, replica) = (Server::start(kind, &[]), Server::start(kind, &[]));
        replica.replicate_from(&primary);
        let mut client = primary.client();
        let due = three_services(&mut client, "1500");
        let before = client.status(KEY);
        replica.catch_up_with(&primary);
        let mut its = replica.client();
        assert_eq!(its.status(KEY)["services"], before["services"]);
        primary.kill();
        wait_until("its time to pass", || unix_ms() > due + 100);
        assert_eq!(status_of(&mut its, "soon"), "passing", "a replica decides nothing");
        let since = unix_ms();
        its.call(&["REPLICAOF", "NO", "ONE"]);
        ran_out(&mut its, &before, due, since);
    });
}

#[test]
fn services_and_ttls_move_with_their_key() {
    let _alone = alone();
    on_each_server(|kind| {
        let (here, there) = (Server::start(kind, &[]), Server::start(kind, &[]));
        let (mut ours, mut theirs) = (here.client(), there.client());
        let due = three_services(&mut ours, "1500");
        let before = ours.status(KEY);
        assert_eq!(text(&ours.call(&["MIGRATE", "127.0.0.1", &there.port.to_string(), KEY, "0", "5000"])), "OK");
        assert_eq!(theirs.status(KEY)["services"], before["services"], "absolute times");
        ran_out(&mut theirs, &before, due, unix_ms());

        // In a payload that lies about while its time passes.
        let due = three_services(&mut ours, "1000");
        let before = ours.status(KEY);
        let Value::BulkString(payload) = ours.call(&["DUMP", KEY]) else { panic!("a payload") };
        ours.call(&["DEL", KEY]);
        wait_until("its time to pass", || unix_ms() > due + 50);
        theirs.call(&[&b"RESTORE"[..], KEY.as_bytes(), b"0", &payload, b"REPLACE"]);
        ran_out(&mut theirs, &before, due, unix_ms());
    });
}

// ---- large answers --------------------------------------------------------------------------------------------------

/// Returns the server's own execution time of each call, in µs, ascending.
fn busy_for(client: &mut Client, times: usize, mut call: impl FnMut(&mut Client, usize)) -> Vec<u64> {
    client.call(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    client.call(&["CONFIG", "SET", "slowlog-max-len", "1000"]);
    client.call(&["SLOWLOG", "RESET"]);
    for n in 0..times {
        call(client, n);
    }
    client.call(&["CONFIG", "SET", "slowlog-log-slower-than", "-1"]);
    let log = client.call(&["SLOWLOG", "GET", "1000"]);
    let entry = |entry: &Value| {
        let fields = items(entry);
        text(&items(&fields[3])[0]).starts_with("DEPLOY.").then(|| int(&fields[2]) as u64)
    };
    let mut busy: Vec<u64> = items(&log).iter().filter_map(entry).collect();
    // One more where a reply was made to be kept.
    assert!((times..=times + 1).contains(&busy.len()), "{}", busy.len());
    busy.sort_unstable();
    busy
}

#[test]
fn resolve_handles_ten_thousand_service_instances() {
    const AGENTS: usize = 100;
    const EACH: usize = 100;
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let names: Vec<String> = (0..AGENTS).map(|n| format!("agent-{n:03}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        client.deploy(KEY, &manifest(&names, "small"), &SLOW);
        let mut connection = redis::Client::open(format!("redis://127.0.0.1:{}/", server.port))
            .and_then(|client| client.get_connection())
            .expect("a connection");
        let begun = std::time::Instant::now();
        for name in &names {
            let mut pipe = redis::pipe();
            for n in 0..EACH {
                pipe.cmd("DEPLOY.REGISTER").arg(&[KEY, name, &format!("svc-{}", n % 10)]);
                pipe.arg(&["INSTANCE", &format!("{name}-{n:03}"), "ADDRESS", "10.0.0.1", "PORT", "8080"]);
                pipe.arg(&["TTL", "3600000", "TAGS", "2", "a", "b", "META", r#"{"zone":"x"}"#]);
            }
            let replies: Vec<i64> = pipe.query(&mut connection).expect("all are registered");
            assert!(replies.iter().all(|reply| *reply == 1));
        }
        eprintln!("   {} registered in {:?}", AGENTS * EACH, begun.elapsed());

        let all = client.json(&["DEPLOY.RESOLVE", KEY, "JSON"]);
        assert_eq!(array(&all).len(), AGENTS * EACH);
        assert_eq!(items(&client.call(&["DEPLOY.RESOLVE", KEY])).len(), AGENTS * EACH);
        let ids: BTreeSet<&str> = array(&all).iter().map(|entry| string(&entry["instance"])).collect();
        let expected = names.iter().flat_map(|name| (0..EACH).map(move |n| format!("{name}-{n:03}")));
        assert!(ids.iter().copied().map(String::from).eq(expected.collect::<BTreeSet<_>>()), "each of them once");
        let one = client.json(&["DEPLOY.RESOLVE", KEY, "SERVICE", "svc-3", "JSON"]);
        assert_eq!(array(&one).len(), AGENTS * EACH / 10);

        let report = |what: &str, busy: &[u64]| {
            eprintln!("   {what}: median {} us, max {} us", busy[busy.len() / 2], busy[busy.len() - 1]);
            busy[busy.len() / 2]
        };
        let busy = busy_for(&mut client, 21, |c, _| drop(c.call(&["DEPLOY.RESOLVE", KEY])));
        let resolve = report("RESOLVE", &busy);
        let busy = busy_for(&mut client, 21, |c, _| drop(c.call(&["DEPLOY.RESOLVE", KEY, "JSON"])));
        let resolve_json = report("RESOLVE JSON", &busy);
        let busy = busy_for(&mut client, 21, |c, _| drop(c.call(&["DEPLOY.RESOLVE", KEY, "SERVICE", "svc-3"])));
        report("RESOLVE SERVICE, a tenth", &busy);
        let busy = busy_for(&mut client, 21, |c, _| drop(c.call(&["DEPLOY.RESOLVE", KEY, "SERVICE", "nothing"])));
        report("RESOLVE SERVICE, none", &busy);
        let busy = busy_for(&mut client, 21, |c, _| drop(c.call(&["DEPLOY.CHECK", KEY, "agent-050-050", "passing"])));
        report("CHECK, a refresh", &busy);
        let busy = busy_for(&mut client, 21, |c, n| {
            let status = if n % 2 == 0 { "critical" } else { "passing" };
            c.call(&["DEPLOY.CHECK", KEY, "agent-050-050", status]);
        });
        let check = report("CHECK, a change", &busy);
        let busy = busy_for(&mut client, 21, |c, n| {
            c.report(KEY, "agent-050", if n % 2 == 0 { "ready" } else { "unready" });
        });
        report("REPORT", &busy);
        // Generous: a machine that does other things as well runs this.
        for (what, median) in [("RESOLVE", resolve), ("RESOLVE JSON", resolve_json), ("CHECK", check)] {
            assert!(median < 200_000, "{what} blocks the server for {median} us");
        }
    });
}

/// Checks a reply so large that the module may write it on another thread.
#[test]
fn large_replies_are_consistent_with_their_request_time() {
    const COUNT: usize = 1_000;
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let connect = || {
            redis::Client::open(format!("redis://127.0.0.1:{}/", server.port))
                .and_then(|client| client.get_connection())
                .expect("a connection")
        };
        let mut other = connect();
        let fill = |client: &mut Client, connection: &mut redis::Connection| {
            client.deploy(KEY, &manifest(&["agent-1"], "small"), &SLOW);
            let mut pipe = redis::pipe();
            for n in 0..COUNT {
                pipe.cmd("DEPLOY.REGISTER").arg(&[KEY, "agent-1", "web", "INSTANCE", &format!("i-{n:04}")]);
                pipe.arg(&["ADDRESS", "10.0.0.1", "PORT", "8080"]);
            }
            pipe.query::<Vec<i64>>(connection).expect("all are registered");
        };
        fill(&mut client, &mut other);

        for form in [&["DEPLOY.RESOLVE", KEY][..], &["DEPLOY.RESOLVE", KEY, "JSON"], &["DEPLOY.STATUS", KEY, "JSON"]] {
            let alone = client.call(form);
            client.call(&["MULTI"]);
            client.call(form);
            assert_eq!(items(&client.call(&["EXEC"])), [alone], "nobody can wait in a transaction");
        }

        // What follows in the same breath is answered after it, and has no part in it.
        let mut pipe = redis::pipe();
        pipe.cmd("DEPLOY.RESOLVE").arg(KEY).cmd("DEL").arg(KEY).cmd("DEPLOY.RESOLVE").arg(KEY).ignore();
        pipe.cmd("ECHO").arg("after");
        use redis::ConnectionLike;
        let replies = other.req_packed_commands(&pipe.get_packed_pipeline(), 0, 4).expect("four replies");
        assert_eq!(replies.len(), 4);
        assert_eq!(items(&replies[0]).len(), COUNT);
        assert_eq!(int(&replies[1]), 1);
        assert!(matches!(&replies[2], Value::ServerError(error) if error.code() == "NOTFOUND"), "{:?}", replies[2]);
        assert_eq!(text(&replies[3]), "after");

        // Callers that do not wait for the answer.
        fill(&mut client, &mut other);
        for n in 0..50 {
            let mut hasty = connect();
            hasty.send_packed_command(&redis::cmd("DEPLOY.RESOLVE").arg(KEY).get_packed_command()).expect("sent");
            if n % 2 == 0 {
                client.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            }
        }
        assert_eq!(items(&client.call(&["DEPLOY.RESOLVE", KEY])).len(), COUNT);
        wait_until("nobody waits any more", || client.info("clients", "blocked_clients") == "0");
    });
}
