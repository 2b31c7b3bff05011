//! Generic key commands: the record moves with its key, its rollout continues there and only there, and the listing,
//! INFO and the timers follow (rule 6, "Persistence").
//!
//! Each case does one thing to a record in mid rollout whose next step is due shortly and can only come from the
//! timer. It passes when that step happens under the new name, and a full scan agrees with the listing.

use redis::Value;
use serde_json::json;
use test_support::prelude::*;
use test_support::rollout::*;

const KEY: &str = "agent-api";
const CHANNELS: &str = "deploy:events:*";

fn ok(client: &mut Client, words: &[&str]) {
    assert_eq!(client.call(words), Value::Okay, "{words:?}");
}

fn one(client: &mut Client, words: &[&str]) {
    assert_eq!(client.call(words), Value::Int(1), "{words:?}");
}

/// The keys whose events were published from here on.
fn channels_since(published: &Subscriber, client: &mut Client, already: usize) -> Vec<String> {
    let events = published.events_until_now(client, "deploy:events:mark");
    let mut keys: Vec<String> = events[already..].iter().map(|event| string(&event["key"]).to_string()).collect();
    keys.sort();
    keys.dedup();
    keys
}

#[test]
fn rename_moves_the_rollout() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let published = Subscriber::start(&server, CHANNELS);
        let mut client = server.client();

        start_rollout(&mut client, KEY);
        let before = dump(&mut client, KEY);
        ok(&mut client, &["RENAME", KEY, "renamed"]);
        let already = published.events_until_now(&mut client, "deploy:events:mark").len();
        assert_gone(&mut client, KEY);
        assert_eq!(client.status("renamed")["deployment_id"], "dep_agent-api_2", "ids never change");
        if client.status("renamed")["status"] == "running" {
            assert_eq!(dump(&mut client, "renamed"), before);
        }
        assert_completes(&mut client, "renamed");
        assert_eq!(channels_since(&published, &mut client, already), ["renamed"]);
        assert_gone(&mut client, KEY);
        assert_index_matches(&mut client, &[0]);
        // Later ids carry the new key and go on counting.
        let next = client.deploy("renamed", &manifest(&AGENTS, "huge"), &QUICK);
        assert_eq!((next.text("deployment_id"), next.int("version")), ("dep_renamed_3".into(), 3));

        // Over another record in mid rollout, which is gone with its timer; over a string; and to itself.
        start_rollout(&mut client, "other");
        start_rollout(&mut client, "moved");
        ok(&mut client, &["RENAME", "other", "moved"]);
        client.call(&["SET", "a-string", "x"]);
        ok(&mut client, &["RENAME", "moved", "a-string"]);
        ok(&mut client, &["RENAME", "a-string", "a-string"]);
        assert_gone(&mut client, "other");
        assert_gone(&mut client, "moved");
        assert_eq!(client.status("a-string")["deployment_id"], "dep_other_2");
        assert_completes(&mut client, "a-string");
        assert_index_matches(&mut client, &[0]);

        // RENAMENX, refused and done.
        start_rollout(&mut client, "nx");
        assert_eq!(client.call(&["RENAMENX", "nx", "a-string"]), Value::Int(0));
        one(&mut client, &["RENAMENX", "nx", "nx-renamed"]);
        assert_gone(&mut client, "nx");
        assert_completes(&mut client, "nx-renamed");
        // And a string over a record: it is a string from then on.
        start_rollout(&mut client, "lost");
        client.call(&["SET", "s", "x"]);
        ok(&mut client, &["RENAME", "s", "lost"]);
        assert!(client.refused(&["DEPLOY.STATUS", "lost"]).starts_with("WRONGTYPE "));
        assert_index_matches(&mut client, &[0]);
    });
}

#[test]
fn copies_continue_independently() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        start_rollout(&mut client, KEY);
        let before = dump(&mut client, KEY);
        client.deploy("taken", &manifest(&AGENTS, "small"), &SLOW);
        let taken = client.status("taken");
        one(&mut client, &["COPY", KEY, "copied"]);
        one(&mut client, &["COPY", KEY, KEY, "DB", "5"]);
        assert_eq!(client.call(&["COPY", KEY, "taken"]), Value::Int(0), "not without REPLACE");
        assert_eq!(client.status("taken"), taken);
        one(&mut client, &["COPY", KEY, "taken", "REPLACE"]);
        client.call(&["SET", "a-string", "x"]);
        one(&mut client, &["COPY", KEY, "a-string", "REPLACE"]);
        assert_eq!(dump(&mut client, KEY), before, "the original is as it was");
        // A copy shares nothing: what happens to one does not happen to the other.
        client.call(&["DEPLOY.STOP", "copied"]);
        assert_eq!(client.status("copied")["status"], "cancelled");
        for key in [KEY, "taken", "a-string"] {
            assert_completes(&mut client, key);
        }
        client.call(&["SELECT", "5"]);
        assert_completes(&mut client, KEY);
        let history = client.json(&["DEPLOY.VERSION", KEY, "1", "JSON"]);
        assert_eq!(history["tag"], "one");
        assert_eq!(array(&client.json(&["DEPLOY.RESOLVE", KEY, "ROLE", "any", "ALL", "JSON"])).len(), 1);
        assert_index_matches(&mut client, &[0, 5]);
    });
}

#[test]
fn move_moves_the_rollout_to_another_database() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        start_rollout(&mut client, KEY);
        one(&mut client, &["MOVE", KEY, "3"]);
        assert_gone(&mut client, KEY);
        start_rollout(&mut client, KEY);
        assert_eq!(client.call(&["MOVE", KEY, "3"]), Value::Int(0), "it is taken there");
        assert_completes(&mut client, KEY);
        client.call(&["SELECT", "3"]);
        assert_completes(&mut client, KEY);
        assert_index_matches(&mut client, &[0, 3]);
    });
}

/// A transaction may leave the database that it began in, and the server's own idea of the selected one with it.
#[test]
fn transactions_and_scripts_keep_records_in_their_databases() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let transaction = |client: &mut Client, commands: &[&[&str]]| {
            client.call(&["SELECT", "0"]);
            client.call(&["FLUSHALL"]);
            client.call(&["SELECT", "1"]);
            start_rollout(client, KEY);
            client.call(&["MULTI"]);
            commands.iter().for_each(|words| drop(client.call(words)));
            client.call(&["EXEC"]);
            client.call(&["SELECT", "0"]);
            assert_index_matches(client, &[0, 1, 2]);
        };
        transaction(&mut client, &[&["MOVE", KEY, "0"]]);
        transaction(
            &mut client,
            &[&["MOVE", KEY, "0"], &["DEPLOY.DEPLOY", "other", "MANIFEST", &manifest(&AGENTS, "in 1")]],
        );
        transaction(&mut client, &[&["COPY", KEY, KEY, "DB", "0"], &["DEPLOY.PAUSE", KEY], &["SET", "after", "1"]]);
        transaction(
            &mut client,
            &[&["SELECT", "2"], &["SELECT", "1"], &["COPY", KEY, "copied", "DB", "2"], &["RENAME", KEY, "new"]],
        );
        transaction(&mut client, &[&["SELECT", "0"], &["DEPLOY.DEPLOY", KEY, "MANIFEST", &manifest(&AGENTS, "in 0")]]);
        transaction(
            &mut client,
            &[&["SWAPDB", "0", "1"], &["DEPLOY.DEPLOY", "other", "MANIFEST", &manifest(&AGENTS, "in 1")]],
        );

        // What follows is written to the client's own database.
        for (commands, database) in [
            (vec![vec!["MOVE", KEY, "0"], vec!["SET", "after", "1"]], "1"),
            (vec![vec!["COPY", KEY, KEY, "DB", "0"], vec!["SET", "after", "1"]], "1"),
            (
                vec![
                    vec!["SELECT", "2"],
                    vec!["SELECT", "1"],
                    vec!["COPY", KEY, KEY, "DB", "0"],
                    vec!["SET", "after", "1"],
                ],
                "1",
            ),
        ] {
            transaction(&mut client, &commands.iter().map(Vec::as_slice).collect::<Vec<_>>());
            client.call(&["SELECT", database]);
            assert_eq!(text(&client.call(&["GET", "after"])), "1", "{commands:?}");
            client.call(&["SELECT", "0"]);
            assert_eq!(client.call(&["GET", "after"]), Value::Nil, "{commands:?}");
        }
        let scripts = [
            "redis.call('COPY', KEYS[1], KEYS[1], 'DB', 0) redis.call('SET', 'after', 1)",
            "redis.call('MOVE', KEYS[1], 0) redis.call('SET', 'after', 1)",
            "redis.call('SELECT', 2) redis.call('SELECT', 1) redis.call('COPY', KEYS[1], KEYS[1], 'DB', 0) redis.call('SET', 'after', 1)",
        ];
        for script in scripts {
            client.call(&["SELECT", "0"]);
            client.call(&["FLUSHALL"]);
            client.call(&["SELECT", "1"]);
            start_rollout(&mut client, KEY);
            client.call(&["EVAL", script, "1", KEY]);
            assert_eq!(text(&client.call(&["GET", "after"])), "1", "{script}");
            client.call(&["SELECT", "0"]);
            assert_eq!(client.call(&["GET", "after"]), Value::Nil, "{script}");
            assert_completes(&mut client, KEY);
            assert_index_matches(&mut client, &[0, 1, 2]);
        }
    });
}

#[test]
fn swapdb_swaps_rollouts() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        // The same key in both, in different states; one key in each alone; and a third database that is not meant.
        start_rollout(&mut client, KEY);
        client.deploy("zero", &manifest(&AGENTS, "small"), &SLOW);
        client.call(&["SELECT", "1"]);
        client.deploy(KEY, &manifest(&["x"], "small"), &SLOW);
        start_rollout(&mut client, "one");
        client.call(&["SELECT", "2"]);
        start_rollout(&mut client, KEY);
        ok(&mut client, &["SWAPDB", "0", "1"]);
        assert_index_matches(&mut client, &[0, 1, 2]);
        client.call(&["SELECT", "0"]);
        assert_eq!(client.status(KEY)["target_version"], 1);
        assert_gone(&mut client, "zero");
        assert_completes(&mut client, "one");
        client.call(&["SELECT", "1"]);
        assert_gone(&mut client, "one");
        assert_eq!(client.status("zero")["status"], "running");
        assert_completes(&mut client, KEY);
        client.call(&["SELECT", "2"]);
        assert_completes(&mut client, KEY);
        ok(&mut client, &["SWAPDB", "9", "1"]);
        ok(&mut client, &["SWAPDB", "0", "0"]);
        assert_index_matches(&mut client, &[0, 1, 2, 9]);
    });
}

#[test]
fn restored_dump_continues() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        start_rollout(&mut client, KEY);
        let before = (everything(&mut client, KEY), dump(&mut client, KEY));
        client.call(&["SET", "a-string", "x"]);
        start_rollout(&mut client, "taken");
        assert!(restore(&mut client, KEY, &before.1, &[]).expect_err("it is there").starts_with("BUSYKEY "));
        client.call(&["DEL", KEY]);
        restore(&mut client, KEY, &before.1, &[]).expect("restored");
        restore(&mut client, "restored", &before.1, &[]).expect("restored");
        restore(&mut client, "a-string", &before.1, &["REPLACE"]).expect("restored");
        restore(&mut client, "taken", &before.1, &["REPLACE", "IDLETIME", "5"]).expect("restored");
        let expires = (unix_ms() + 3_600_000).to_string();
        client.call(&[b"RESTORE", b"mortal".as_slice(), expires.as_bytes(), &before.1, b"ABSTTL"]);
        if client.status(KEY)["status"] == "running" {
            assert_eq!(everything(&mut client, KEY), before.0);
        }
        for key in [KEY, "restored", "a-string", "taken", "mortal"] {
            assert_completes(&mut client, key);
        }
        assert!(int(&client.call(&["PTTL", "mortal"])) > 3_500_000, "a change leaves the TTL as it is");
        // One that lies long in a drawer: what fell due meanwhile happens as it is put back.
        restore(&mut client, "late", &before.1, &[]).expect("restored");
        assert_completes(&mut client, "late");
        assert_index_matches(&mut client, &[0]);
    });
}

#[test]
fn migrated_record_continues_on_the_target() {
    on_each_server(|kind| {
        let (here, there) = (Server::start(kind, &[]), Server::start(kind, &[]));
        let (mut ours, mut theirs) = (here.client(), there.client());
        start_rollout(&mut ours, KEY);
        theirs.deploy("copied", &manifest(&["x"], "small"), &QUICK);
        let before = everything(&mut ours, KEY);
        let port = there.port.to_string();
        ok(&mut ours, &["MIGRATE", "127.0.0.1", &port, KEY, "0", "5000"]);
        assert_gone(&mut ours, KEY);
        if theirs.status(KEY)["status"] == "running" {
            assert_eq!(everything(&mut theirs, KEY), before);
        }
        assert_completes(&mut theirs, KEY);
        start_rollout(&mut ours, "copied");
        ok(&mut ours, &["MIGRATE", "127.0.0.1", &port, "copied", "0", "5000", "COPY", "REPLACE"]);
        assert_completes(&mut theirs, "copied");
        assert_completes(&mut ours, "copied");
        assert_index_matches(&mut ours, &[0]);
        assert_index_matches(&mut theirs, &[0]);
    });
}

/// Ways in which a key goes, in words that name it as KEY.
const ENDS: [&[&str]; 7] = [
    &["DEL", KEY],
    &["UNLINK", KEY],
    &["SET", KEY, "a string"],
    &["SET", KEY, "a string", "EX", "1000"],
    &["PEXPIRE", KEY, "1"],
    &["PEXPIREAT", KEY, "1"],
    &["SORT", "nothing", "BY", "nosort", "STORE", KEY],
];

#[test]
fn deleted_records_have_no_effects() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        for end in ENDS {
            start_rollout(&mut client, KEY);
            let due = number(&client.status(KEY)["deadlines"]["next_at"]);
            let published = Subscriber::start(&server, CHANNELS);
            client.call(end);
            if end[0] == "SET" {
                assert!(client.refused(&["DEPLOY.STATUS", KEY]).starts_with("WRONGTYPE "), "{end:?}");
            } else {
                wait_until("the key to be gone", || client.call(&["EXISTS", KEY]) == Value::Int(0));
                assert_gone(&mut client, KEY);
            }
            assert_index_matches(&mut client, &[0]);
            let value = client.try_call(&["GET", KEY]);
            wait_until("the verdict's time to pass", || unix_ms() > due + 120);
            assert_eq!(client.try_call(&["GET", KEY]), value, "{end:?}");
            let after: Vec<_> = published.events_until_now(&mut client, "deploy:events:mark");
            let after: Vec<_> = after.iter().filter(|event| number(&event["at"]) >= due).collect();
            assert!(after.is_empty(), "{end:?}: {after:?}");
            client.call(&["DEL", KEY]);
            // The key begins anew.
            assert_eq!(client.deploy(KEY, &manifest(&AGENTS, "small"), &QUICK).int("version"), 1, "{end:?}");
            client.call(&["DEL", KEY]);
        }
        assert_index_matches(&mut client, &[0]);
    });
}

#[test]
fn expiry_removes_a_record_at_its_time() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        start_rollout(&mut client, KEY);
        one(&mut client, &["EXPIRE", KEY, "1000"]);
        assert_completes(&mut client, KEY);
        let left = int(&client.call(&["TTL", KEY]));
        assert!(left > 900, "changes leave the TTL as it is, it is {left} s");
        one(&mut client, &["PERSIST", KEY]);
        assert_eq!(client.call(&["TTL", KEY]), Value::Int(-1));

        // Where the server does not look for what has expired, an expired record is still none, and its timer is idle.
        client.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
        start_rollout(&mut client, "mortal");
        let due = number(&client.status("mortal")["deadlines"]["next_at"]);
        let published = Subscriber::start(&server, CHANNELS);
        one(&mut client, &["PEXPIRE", "mortal", "20"]);
        wait_until("the verdict's time to pass", || unix_ms() > due + 120);
        let events = published.events_until_now(&mut client, "deploy:events:mark");
        assert!(events.is_empty(), "{events:?}");
        assert_gone(&mut client, "mortal");
        assert_index_matches(&mut client, &[0]);
        client.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "1"]);

        // A replica is told of an expiry as of any other.
        let replica = Server::start(kind, &[]);
        replica.replicate_from(&server);
        start_rollout(&mut client, "mortal");
        one(&mut client, &["PEXPIRE", "mortal", "50"]);
        wait_until("the key to be gone", || client.call(&["EXISTS", "mortal"]) == Value::Int(0));
        replica.catch_up_with(&server);
        assert_gone(&mut replica.client(), "mortal");
        assert_index_matches(&mut replica.client(), &[0]);
    });
}

#[test]
fn flush_removes_only_the_flushed_databases() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let replica = Server::start(kind, &[]);
        replica.replicate_from(&server);
        let mut client = server.client();
        for how in [&["SYNC"][..], &["ASYNC"], &[]] {
            for db in ["0", "4"] {
                client.call(&["SELECT", db]);
                start_rollout(&mut client, KEY);
                client.deploy("second", &manifest(&AGENTS, "small"), &SLOW);
            }
            ok(&mut client, &[&["FLUSHDB"], how].concat());
            assert_gone(&mut client, KEY);
            assert_index_matches(&mut client, &[0, 4]);
            client.call(&["SELECT", "0"]);
            assert_completes(&mut client, KEY);
            start_rollout(&mut client, "third");
            ok(&mut client, &[&["FLUSHALL"], how].concat());
            assert_gone(&mut client, KEY);
            assert_gone(&mut client, "third");
            assert_index_matches(&mut client, &[0, 4]);
            assert_eq!(client.info("deploy", "deploy_timers_armed"), "0");
            replica.catch_up_with(&server);
            assert_index_matches(&mut replica.client(), &[0, 4]);
        }
        // In the unit that flushed, too, a key begins anew.
        start_rollout(&mut client, KEY);
        client.call(&["MULTI"]);
        client.call(&["FLUSHALL", "ASYNC"]);
        client.call(&["DEPLOY.DEPLOY", KEY, "MANIFEST", &manifest(&AGENTS, "small"), "MIN_HEALTHY_MS", "0"]);
        client.call(&["EXEC"]);
        client.carry_out_until(KEY, "successful");
        assert_index_matches(&mut client, &[0, 4]);
    });
}

#[test]
fn reload_keeps_rollouts_in_all_databases() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        client.call(&["DEBUG", "RELOAD"]);
        client.call(&["SELECT", "7"]);
        start_rollout(&mut client, KEY);
        client.call(&["SELECT", "0"]);
        start_rollout(&mut client, KEY);
        client.deploy("mortal", &manifest(&AGENTS, "small"), &SLOW);
        client.call(&["PEXPIRE", "mortal", "1000000"]);
        let before = everything(&mut client, KEY);
        client.call(&["DEBUG", "RELOAD"]);
        if client.status(KEY)["status"] == "running" {
            assert_eq!(everything(&mut client, KEY), before);
        }
        assert!(int(&client.call(&["PTTL", "mortal"])) > 900_000);
        assert_index_matches(&mut client, &[0, 7]);
        assert_completes(&mut client, KEY);
        client.call(&["SELECT", "7"]);
        assert_completes(&mut client, KEY);
        // Without a save before, what is in memory is dropped for what the file has, which is nothing of these two.
        start_rollout(&mut client, "not-saved");
        client.call(&["DEBUG", "RELOAD", "NOSAVE"]);
        assert_gone(&mut client, "not-saved");
        assert_index_matches(&mut client, &[0, 7]);
    });
}

#[test]
fn evicted_records_leave_index_and_timers() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &["--maxmemory-policy", "allkeys-lru"]);
        let mut client = server.client();
        let text = format!("{:>8000}", "é");
        let nodes = json!([{ "node_id": "a", "description": text }]).to_string();
        let manifest = format!(r#"{{"type":"service","nodes":{nodes}}}"#);
        let used: u64 = client.info("memory", "used_memory").parse().expect("a number");
        ok(&mut client, &["CONFIG", "SET", "maxmemory", &(used + 6_000_000).to_string()]);
        let evicted = |client: &mut Client| client.info("stats", "evicted_keys").parse::<u64>().expect("a number");
        for n in 0..2_000 {
            let key = format!("svc-{n}");
            client.deploy(&key, &manifest, &["MIN_HEALTHY_MS", "300"]);
            // Some of them have a timer that is soon due.
            if n % 3 == 0 {
                let _ = client.try_call(&["DEPLOY.REPORT", &key, "a", "ready"]);
            }
            if n > 600 && evicted(&mut client) > 100 {
                break;
            }
        }
        assert!(evicted(&mut client) > 100, "nothing was evicted");
        // What is left ends by itself; what is gone is not brought back by its timer.
        ok(&mut client, &["CONFIG", "SET", "maxmemory", "0"]);
        wait_until("the timers", || {
            scanned(&mut client).iter().all(|key| {
                let record = client_status(&server, key);
                record["status"] == "successful" || record["instances"][0]["state"] == "waiting"
            })
        });
        assert_index_matches(&mut client, &[0]);
        let keys = int(&client.call(&["DBSIZE"]));
        assert!(keys > 0 && listed(&mut client).len() as i64 == keys);
        assert!(server.is_alive());
        assert_eq!(client.info("deploy", "deploy_panics_caught"), "0");
    });
}

fn client_status(server: &Server, key: &str) -> serde_json::Value {
    server.client().status(key)
}

#[test]
fn debug_digest_distinguishes_records() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        start_rollout_with(&mut client, KEY, 200_000);
        let digest = |client: &mut Client, key: &str| text(&items(&client.call(&["DEBUG", "DIGEST-VALUE", key]))[0]);
        let first = digest(&mut client, KEY);
        assert_ne!(first, "0".repeat(40));
        client.call(&["COPY", KEY, "copied"]);
        let payload = dump(&mut client, KEY);
        restore(&mut client, "restored", &payload, &[]).expect("restored");
        assert_eq!(digest(&mut client, "copied"), first);
        assert_eq!(digest(&mut client, "restored"), first);
        let whole = text(&client.call(&["DEBUG", "DIGEST"]));
        client.call(&["DEBUG", "RELOAD"]);
        assert_eq!(text(&client.call(&["DEBUG", "DIGEST"])), whole, "after a reload");
        // A replica's is the same; a changed record's is another; and every further change makes yet another.
        let replica = Server::start(kind, &[]);
        replica.replicate_from(&server);
        assert_eq!(text(&replica.client().call(&["DEBUG", "DIGEST"])), whole, "on a replica");
        let mut seen = vec![first];
        for words in [
            &["DEPLOY.REPORT", "copied", "agent-1", "unready", "REASON", "a"][..],
            &["DEPLOY.REPORT", "copied", "agent-1", "ready"],
            &["DEPLOY.TAG", "copied", "2", "two"],
            &["DEPLOY.CHECK", "copied", "i-1", "critical"],
            &["DEPLOY.PAUSE", "copied"],
        ] {
            client.call(words);
            let next = digest(&mut client, "copied");
            assert!(!seen.contains(&next), "{words:?}");
            seen.push(next);
        }
        replica.catch_up_with(&server);
        let whole = text(&client.call(&["DEBUG", "DIGEST"]));
        assert_eq!(text(&replica.client().call(&["DEBUG", "DIGEST"])), whole, "on a replica, after changes");
    });
}

#[test]
fn object_and_debug_commands_work_on_records() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        start_rollout_with(&mut client, KEY, 200_000);
        client.call(&["SET", "a-string", "x"]);
        client.call(&["RPUSH", "a-list", "x"]);
        assert_eq!(text(&client.call(&["TYPE", KEY])), "deploymnt");
        assert_eq!(scanned(&mut client), [KEY]);
        assert!(!text(&client.call(&["OBJECT", "ENCODING", KEY])).is_empty());
        assert_eq!(client.call(&["OBJECT", "REFCOUNT", KEY]), Value::Int(1));
        assert_eq!(client.call(&["OBJECT", "IDLETIME", KEY]), Value::Int(0));
        one(&mut client, &["TOUCH", KEY]);
        assert!(text(&client.call(&["DEBUG", "OBJECT", KEY])).contains("encoding:"));
        // A listing and a look of the timer are nobody's use of the key; reading it is.
        restore_idle(&mut client, 1000);
        client.call(&["DEPLOY.LIST"]);
        let idle = int(&client.call(&["OBJECT", "IDLETIME", "idle"]));
        assert!(idle >= 1000, "a listing is no use of a key: idle for {idle} s");
        client.status("idle");
        assert!(int(&client.call(&["OBJECT", "IDLETIME", "idle"])) < 1000);
        // Commands of other types keep away from it.
        for words in [&["GET", KEY][..], &["LPUSH", KEY, "x"], &["APPEND", KEY, "x"], &["HGETALL", KEY], &["SORT", KEY]]
        {
            assert!(client.refused(words).starts_with("WRONGTYPE "), "{words:?}");
        }
        // And its own from theirs.
        for words in [&["DEPLOY.STATUS", "a-list"][..], &["DEPLOY.PAUSE", "a-string"], &["DEPLOY.TASKS", "a-string"]] {
            assert!(client.refused(words).starts_with("WRONGTYPE "), "{words:?}");
        }
        assert_eq!(text(&client.call(&["GET", "a-string"])), "x");
    });
}

/// A key `idle` that nobody has used for so many seconds.
fn restore_idle(client: &mut Client, seconds: u64) {
    let payload = dump(client, KEY);
    restore(client, "idle", &payload, &["IDLETIME", &seconds.to_string()]).expect("restored");
}

#[test]
fn active_defragmentation_keeps_records_intact() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &[]);
        let mut client = server.client();
        let on = client.try_call(&["CONFIG", "SET", "activedefrag", "yes"]);
        if let Err(line) = on {
            // Its allocator cannot, so there is nothing to be harmed.
            eprintln!("   {} has no active defragmentation: {line}", kind.name());
            return;
        }
        for (name, value) in [
            ("active-defrag-ignore-bytes", "1"),
            ("active-defrag-threshold-lower", "0"),
            ("active-defrag-threshold-upper", "1"),
            ("active-defrag-cycle-min", "60"),
            ("active-defrag-cycle-max", "90"),
        ] {
            ok(&mut client, &["CONFIG", "SET", name, value]);
        }
        let keys: Vec<String> = (0..400).map(|n| format!("svc-{n}")).collect();
        for key in &keys {
            client.deploy(key, &manifest(&AGENTS, "small"), &SLOW);
        }
        // Holes to be closed.
        for key in keys.iter().step_by(2) {
            client.call(&["DEL", key]);
        }
        let kept: Vec<&String> = keys.iter().skip(1).step_by(2).collect();
        let before: Vec<_> = kept.iter().map(|key| dump(&mut client, key)).collect();
        let work = |client: &mut Client| {
            let number =
                |client: &mut Client, name: &str| client.info("stats", name).parse::<u64>().unwrap_or_default();
            number(client, "active_defrag_hits") + number(client, "active_defrag_key_misses")
        };
        let began = work(&mut client);
        let since = unix_ms();
        wait_until("some defragmentation", || work(&mut client) > began || unix_ms() > since + 3_000);
        eprintln!("   {}: {} hits and misses", kind.name(), work(&mut client) - began);
        let after: Vec<_> = kept.iter().map(|key| dump(&mut client, key)).collect();
        assert!(before == after);
        start_rollout(&mut client, "svc-0");
        assert_completes(&mut client, "svc-0");
        assert_index_matches(&mut client, &[0]);
        assert!(server.is_alive());
    });
}
