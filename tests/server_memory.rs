//! Memory: MEMORY USAGE is accurate within a tenth, and deleted records free their memory. At `maxmemory`, commands
//! that begin something are rejected (`OOM`), those that follow, pause or end a rollout are accepted, as DEL is, and
//! timers wait (rule 6).
//!
//! | rejected with `OOM` | accepted |
//! | --- | --- |
//! | DEPLOY, ROLLBACK, PROMOTE, RESUME, TAG, REGISTER | REPORT, CHECK, DEREGISTER, PAUSE, FAIL, STOP, UNTAG |

use serde_json::json;
use std::sync::{Mutex, MutexGuard};
use test_support::prelude::*;
use test_support::rollout::*;

const KEY: &str = "agent-api";

/// One at a time: some of these fill the memory that others measure.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn used(client: &mut Client) -> f64 {
    client.info("memory", "used_memory").parse().expect("a number")
}

/// Nodes with some text each, as real ones have.
fn large_manifest(agents: usize, text: usize) -> String {
    let nodes: Vec<_> = (0..agents)
        .map(|n| json!({ "node_id": format!("agent-{n}"), "prompt": "x".repeat(text), "services": [{ "name": "http" }] }))
        .collect();
    json!({ "type": "service", "nodes": nodes }).to_string()
}

/// Records as they are in practice, from small to large. What each is called, and how one is made.
type Making = fn(&mut Client, &str);
const SHAPES: [(&str, Making); 5] = [
    ("a fresh deployment of three agents", |client, key| {
        client.deploy(key, &manifest(&AGENTS, "small"), &SLOW);
    }),
    ("one in mid rollout, with services", |client, key| start_rollout_with(client, key, 200_000)),
    ("fifty agents, all reported, with a service each", |client, key| {
        client.deploy(key, &large_manifest(50, 100), &SLOW);
        for n in 0..50 {
            let (agent, instance) = (format!("agent-{n}"), format!("i-{n}"));
            client.report(key, &agent, "ready");
            let words =
                ["DEPLOY.REGISTER", key, &agent, "http", "INSTANCE", &instance, "ADDRESS", "10.0.0.1", "PORT", "80"];
            client.call(&words);
        }
    }),
    ("a long history of large manifests", |client, key| {
        for n in 0..12 {
            let manifest = large_manifest(3, 3_000 + n);
            client.deploy(key, &manifest, &["MIN_HEALTHY_MS", "100", "REASON", "the next one"]);
        }
    }),
    ("a full log of one agent's reports", |client, key| {
        client.deploy(key, &manifest(&["a"], "small"), &SLOW);
        for n in 0..60 {
            let state = if n % 2 == 0 { "ready" } else { "unready" };
            client.call(&[
                "DEPLOY.REPORT",
                key,
                "a",
                state,
                "REASON",
                "a probe of the health endpoint timed out after 5 s",
            ]);
        }
    }),
];

#[test]
fn memory_usage_is_accurate_within_ten_percent() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let mut wrong = Vec::new();
        for (what, make) in SHAPES {
            client.call(&["FLUSHALL", "SYNC"]);
            make(&mut client, KEY);
            client.call(&["DEPLOY.PAUSE", KEY]);
            let payload = dump(&mut client, KEY);
            client.call(&["DEL", KEY]);
            // Each restored from bytes, so that none shares anything with another.
            let count = (4_000_000 / payload.len()).clamp(100, 1_500);
            let before = used(&mut client);
            let keys: Vec<String> = (0..count).map(|n| format!("svc-{n:05}")).collect();
            for key in &keys {
                restore(&mut client, key, &payload, &[]).expect("restored");
            }
            let is = (used(&mut client) - before) / count as f64;
            let told = int(&client.call(&["MEMORY", "USAGE", &keys[0], "SAMPLES", "0"])) as f64;
            let off = (told / is - 1.0) * 100.0;
            eprintln!("   {what}: {is:.0} bytes each, told {told:.0} ({off:+.1} %), a payload of {}", payload.len());
            if off.abs() > 10.0 {
                wrong.push(format!("{what}: told {told:.0}, is {is:.0} ({off:+.1} %)"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

/// Reports every agent as ready.
fn all_ready(client: &mut Client, key: &str, agents: usize) {
    for n in 0..agents {
        client.report(key, &format!("agent-{n}"), "ready");
    }
}

/// Records as commands leave them, with the capacity that grew on the way, which a restored record does not have.
const HISTORIES: [(&str, Making); 8] = [
    ("twenty agents after an update of all at once", |client, key| update_at_once(client, key, 20)),
    ("twenty agents in the middle of an update of all at once", |client, key| {
        client.deploy(key, &large_manifest(20, 10), &["MIN_HEALTHY_MS", "0"]);
        all_ready(client, key, 20);
        client.deploy(key, &large_manifest(20, 11), &["MIN_HEALTHY_MS", "200000", "MAX_PARALLEL", "100%"]);
        all_ready(client, key, 7);
    }),
    ("sixty agents after an update of all at once", |client, key| update_at_once(client, key, 60)),
    ("two hundred agents after an update of all at once", |client, key| update_at_once(client, key, 200)),
    ("twenty-five of sixty agents, after the others have stopped", |client, key| {
        update_at_once(client, key, 60);
        client.deploy(
            key,
            &large_manifest(25, 12),
            &["MIN_HEALTHY_MS", "0", "STRATEGY", "rolling", "MAX_PARALLEL", "100%"],
        );
        all_ready(client, key, 25);
        for task in client.tasks(key) {
            client.call(&[
                "DEPLOY.REPORT",
                key,
                string(&task["agent"]),
                "stopped",
                "VERSION",
                &task["version"].to_string(),
                "JOB",
                string(&task["job_id"]),
            ]);
        }
    }),
    ("five agents after many updates, one by one", |client, key| {
        for round in 0..12 {
            client.deploy(
                key,
                &large_manifest(5, 10 + round),
                &["MIN_HEALTHY_MS", "0", "REQUEST", &format!("r-{round}")],
            );
            all_ready(client, key, 5);
        }
    }),
    ("twenty agents with services that come and go", |client, key| {
        update_at_once(client, key, 20);
        for round in 0..3 {
            for n in 0..20 {
                let (agent, instance) = (format!("agent-{n}"), format!("i-{n}-{round}"));
                let words = ["INSTANCE", &instance, "ADDRESS", "10.0.0.1", "PORT", "80", "TTL", "600000"];
                client.call(&[&["DEPLOY.REGISTER", key, &agent, "http"][..], &words].concat());
                if round < 2 {
                    client.call(&["DEPLOY.DEREGISTER", key, &instance]);
                }
            }
        }
    }),
    ("one agent that flaps", |client, key| {
        client.deploy(key, &manifest(&["a"], "small"), &SLOW);
        for n in 0..140 {
            client.call(&["DEPLOY.REPORT", key, "a", if n % 2 == 0 { "ready" } else { "unready" }]);
        }
    }),
];

fn update_at_once(client: &mut Client, key: &str, agents: usize) {
    for text in [10, 11] {
        client.deploy(
            key,
            &large_manifest(agents, text),
            &["MIN_HEALTHY_MS", "0", "MAX_PARALLEL", "100%", "HEALTH_CHECK", "agent_states"],
        );
        all_ready(client, key, agents);
    }
}

#[test]
fn memory_usage_counts_what_commands_leave_behind() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        client.call(&["CONFIG", "SET", "deploy.encode-idle-ms", "0"]);
        let mut wrong = Vec::new();
        for (what, make) in HISTORIES {
            client.call(&["FLUSHALL", "SYNC"]);
            // What the server itself keeps after the first: buffers, tables, statistics.
            make(&mut client, "first");
            let before = used(&mut client);
            let keys: Vec<String> = (0..40).map(|n| format!("svc-{n:05}")).collect();
            for key in &keys {
                make(&mut client, key);
            }
            let is = (used(&mut client) - before) / keys.len() as f64;
            let told = int(&client.call(&["MEMORY", "USAGE", &keys[0], "SAMPLES", "0"])) as f64;
            let off = (told / is - 1.0) * 100.0;
            eprintln!("   {what}: {is:.0} bytes each, told {told:.0} ({off:+.1} %)");
            if off.abs() > 10.0 {
                wrong.push(format!("{what}: told {told:.0}, is {is:.0} ({off:+.1} %)"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
fn deleted_records_free_their_memory() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let round = |client: &mut Client| {
            for n in 0..48 {
                start_rollout_with(client, &format!("svc-{n}"), 200_000);
            }
            // In every way in which a key goes.
            for n in 0..48 {
                let key = format!("svc-{n}");
                match n % 6 {
                    0 => drop(client.call(&["DEL", &key])),
                    1 => drop(client.call(&["UNLINK", &key])),
                    2 => drop(client.call(&["SET", &key, "x"])),
                    3 => drop(client.call(&["PEXPIRE", &key, "1"])),
                    4 => drop(client.call(&["RENAME", &key, "one-name"])),
                    _ => {}
                }
            }
            client.call(&["FLUSHALL", "SYNC"]);
        };
        // The first round fills what stays: tables, buffers, the allocator's own.
        round(&mut client);
        let after_one = used(&mut client);
        for _ in 0..3 {
            round(&mut client);
        }
        wait_until("the memory to be given back", || used(&mut client) < after_one + 100_000.0);
    });
}

/// Lets nothing more into the server's memory, or anything again.
fn fill(client: &mut Client, full: bool) {
    client.call(&["CONFIG", "SET", "maxmemory", if full { "1" } else { "0" }]);
}

#[test]
fn commands_that_end_rollouts_are_accepted_at_maxmemory() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &["--maxmemory-policy", "noeviction"]);
        let replica = Server::start(kind, &[]);
        replica.replicate_from(&server);
        let mut client = server.client();
        start_rollout_with(&mut client, KEY, 200_000);
        let published = Subscriber::start(&server, "deploy:events:*");
        let before = dump(&mut client, KEY);
        fill(&mut client, true);
        assert!(client.refused(&["SET", "x", "y"]).starts_with("OOM "), "the server's own");
        let manifest = manifest(&AGENTS, "huge");
        for words in [
            &["DEPLOY.DEPLOY", KEY, "MANIFEST", &manifest][..],
            &["DEPLOY.DEPLOY", "new", "MANIFEST", &manifest],
            &["DEPLOY.ROLLBACK", KEY],
            &["DEPLOY.PROMOTE", KEY],
            &["DEPLOY.RESUME", KEY],
            &["DEPLOY.TAG", KEY, "2", "two"],
            &["DEPLOY.REGISTER", KEY, "agent-2", "http", "INSTANCE", "i-2", "ADDRESS", "h", "PORT", "1"],
        ] {
            let line = client.refused(words);
            assert!(line.starts_with("OOM "), "{words:?}: {line}");
        }
        assert_eq!(dump(&mut client, KEY), before, "refused, nothing has changed");
        assert!(published.events_until_now(&mut client, "deploy:events:mark").is_empty());

        // Reading goes on, and so does what brings a rollout to its end.
        for words in [
            &["DEPLOY.STATUS", KEY][..],
            &["DEPLOY.PLAN", KEY, "MANIFEST", &manifest],
            &["DEPLOY.LIST"],
            &["DEPLOY.TASKS", KEY],
            &["DEPLOY.CHECK", KEY, "i-1", "critical"],
            &["DEPLOY.REPORT", KEY, "agent-1", "unready"],
            &["DEPLOY.REPORT", KEY, "agent-1", "ready"],
            &["DEPLOY.CHECK", KEY, "i-1", "passing"],
            &["DEPLOY.DEREGISTER", KEY, "i-1"],
            &["DEPLOY.UNTAG", KEY, "one"],
            &["DEPLOY.PAUSE", KEY],
            &["DEPLOY.FAIL", KEY],
            &["DEPLOY.STOP", KEY],
            &["DEPLOY.REPORT", KEY, "agent-2", "stopped"],
        ] {
            client.call(words);
        }
        let record = client.status(KEY);
        assert_eq!((&record["status"], &record["cause"]), (&json!("failed"), &json!("operator")));
        replica.catch_up_with(&server);
        assert_eq!(replica.client().status(KEY), record);
        client.call(&["DEL", KEY]);
        fill(&mut client, false);
        assert_index_matches(&mut client, &[0]);
    });
}

#[test]
fn timers_wait_at_maxmemory() {
    let _alone = alone();
    on_each_server(|kind| {
        let server = Server::start(kind, &["--maxmemory-policy", "noeviction"]);
        let mut client = server.client();
        start_rollout(&mut client, KEY);
        fill(&mut client, true);
        // A client's command is what the server sees its memory at.
        assert!(client.refused(&["SET", "x", "y"]).starts_with("OOM "));
        let record = client.status(KEY);
        let Some(due) = record["deadlines"]["next_at"].as_u64().filter(|_| record["status"] == "running") else {
            return skip("timers_wait_at_maxmemory", "the machine is too slow: the verdict was given before");
        };
        let revision = number(&record["revision"]);
        wait_until("the verdict's time to pass", || unix_ms() > due + 300);
        assert_eq!(number(&client.status(KEY)["revision"]), revision, "nothing was written");
        let again = unix_ms();
        fill(&mut client, false);
        assert_completes(&mut client, KEY);
        let events = client.events_after(KEY, revision);
        let verdict = events.iter().find(|event| event["type"] == "agent_healthy").expect("the verdict");
        assert!(number(&verdict["at"]) + 5 >= again, "{verdict}");
        assert_index_matches(&mut client, &[0]);
    });
}
