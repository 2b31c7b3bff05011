//! Transactions: every command works in MULTI, in scripts and in functions; what one of them changes goes out as one
//! unit, so that a replica has all of it or nothing; and time is read once per command (rule 6, "Transactions and
//! scripts").

use redis::Value;
use serde_json::{json, Value as Json};
use test_support::prelude::*;
use test_support::replication::*;
use test_support::resp::*;
use test_support::rollout::*;

const KEY: &str = "agent-api";

/// Every command once, in an order in which none is refused.
fn all_commands() -> Vec<Vec<String>> {
    let (small, large) = (manifest(&AGENTS, "small"), manifest(&AGENTS, "large"));
    let words: &[&[&str]] = &[
        &["DEPLOY.PLAN", KEY, "MANIFEST", &small],
        &["DEPLOY.DEPLOY", KEY, "MANIFEST", &small, "MIN_HEALTHY_MS", "0", "TAG", "one"],
        &["DEPLOY.REPORT", KEY, "agent-1", "ready"],
        &["DEPLOY.REPORT", KEY, "agent-2", "ready"],
        &["DEPLOY.REGISTER", KEY, "agent-3", "http", "INSTANCE", "i-1", "ADDRESS", "10.0.0.1", "PORT", "80"],
        &["DEPLOY.CHECK", KEY, "i-1", "passing"],
        &["DEPLOY.RESOLVE", KEY, "ROLE", "any", "ALL", "JSON"],
        &["DEPLOY.PAUSE", KEY],
        &["DEPLOY.RESUME", KEY],
        &["DEPLOY.REPORT", KEY, "agent-3", "ready"],
        &["DEPLOY.DEREGISTER", KEY, "i-1"],
        &["DEPLOY.TAG", KEY, "1", "first"],
        &["DEPLOY.UNTAG", KEY, "first"],
        &["DEPLOY.DEPLOY", KEY, "MANIFEST", &large, "MIN_HEALTHY_MS", "100000"],
        &["DEPLOY.REPORT", KEY, "agent-1", "starting"],
        &["DEPLOY.LIST"],
        &["DEPLOY.STATUS", KEY, "JSON"],
        &["DEPLOY.HISTORY", KEY, "JSON"],
        &["DEPLOY.VERSION", KEY, "1", "JSON"],
        &["DEPLOY.TASKS", KEY, "JSON"],
        &["DEPLOY.EVENTS", KEY, "AFTER", "0"],
        // The blocking ones reply at once: nil, and an empty log.
        &["DEPLOY.WAIT", KEY, "TIMEOUT", "0"],
        &["DEPLOY.EVENTS", KEY, "AFTER", "1000000", "BLOCK", "0"],
        &["DEPLOY.FAIL", KEY],
        &["DEPLOY.ROLLBACK", KEY],
        &["DEPLOY.STOP", KEY],
    ];
    words.iter().map(|words| words.iter().map(|word| word.to_string()).collect()).collect()
}

/// Outcome of [`all_commands`].
fn has_happened(client: &mut Client, replies: &[Value], how: &str) {
    assert_eq!(replies.len(), all_commands().len(), "{how}");
    for (words, reply) in all_commands().iter().zip(replies) {
        assert!(!matches!(reply, Value::ServerError(_)), "{how}: {}: {reply:?}", words[0]);
        if words[0] == "DEPLOY.WAIT" {
            assert_eq!(*reply, Value::Nil, "{how}");
        }
    }
    let record = client.status(KEY);
    assert_eq!((&record["status"], &record["cause"]), (&json!("cancelled"), &json!("stopped")), "{how}");
    assert_eq!(record["target_version"], 3, "{how}");
    assert_eq!(record["stable_version"], 1, "{how}");
    let types: Vec<String> =
        client.events_after(KEY, 0).iter().map(|event| string(&event["type"]).to_string()).collect();
    for happened in ["service_registered", "service_deregistered", "deployment_paused", "version_untagged"] {
        assert!(types.iter().any(|t| t == happened), "{how}: no {happened} in {types:?}");
    }
}

/// A transaction's replies, refusals among them, which a client library would turn into one error.
fn executed(server: &Server, commands: &[&[&[u8]]]) -> Vec<Reply> {
    let mut wire = server.conn();
    let (multi, exec) = (command(&["MULTI"]), command(&["EXEC"]));
    let commands: Vec<Vec<u8>> = commands.iter().map(|words| command(words)).collect();
    let replies = wire.pipeline(&[vec![multi], commands, vec![exec]].concat());
    match replies.last() {
        Some(Reply::Array(replies)) => replies.clone(),
        other => panic!("EXEC: {other:?}"),
    }
}

#[test]
fn commands_work_in_transactions() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        client.call(&["MULTI"]);
        for words in all_commands() {
            assert_eq!(text(&client.call(&words)), "QUEUED", "{words:?}");
        }
        let replies = client.call(&["EXEC"]);
        has_happened(&mut client, items(&replies), "MULTI");
        // Thrown away, nothing has happened.
        let before = dump(&mut client, KEY);
        client.call(&["MULTI"]);
        client.call(&["DEPLOY.DEPLOY", KEY, "MANIFEST", &manifest(&AGENTS, "huge")]);
        client.call(&["DISCARD"]);
        assert_eq!(dump(&mut client, KEY), before);
        // A refusal is one reply among the others, which hold.
        let huge = manifest(&AGENTS, "huge");
        let replies = executed(
            &server,
            &[
                &[b"DEPLOY.DEPLOY".as_slice(), KEY.as_bytes(), b"MANIFEST", huge.as_bytes()],
                &[b"DEPLOY.PROMOTE", KEY.as_bytes()],
                &[b"DEPLOY.TAG", KEY.as_bytes(), b"4", b"four"],
            ],
        );
        assert_eq!(replies.iter().map(Reply::is_error).collect::<Vec<_>>(), [false, true, false], "{replies:?}");
        assert_eq!(client.json(&["DEPLOY.VERSION", KEY, "4", "JSON"])["tag"], "four");
    });
}

/// Calls each of the commands that its arguments hold, a count before each, and replies all replies.
const SCRIPT: &str = r#"
    local replies, at = {}, 1
    while at <= #ARGV do
        local count = tonumber(ARGV[at])
        local words = {}
        for i = 1, count do words[i] = ARGV[at + i] end
        local reply = redis.call(unpack(words))
        if reply == false then reply = "nil" end
        replies[#replies + 1] = reply
        at = at + count + 1
    end
    return replies
"#;

fn as_arguments(commands: &[Vec<String>]) -> Vec<String> {
    commands.iter().flat_map(|words| [vec![words.len().to_string()], words.clone()].concat()).collect()
}

/// Lua has no nil in a list, so the script said it in words.
fn unquoted(replies: Value) -> Vec<Value> {
    let nil = Value::BulkString(b"nil".to_vec());
    items(&replies).iter().map(|reply| if *reply == nil { Value::Nil } else { reply.clone() }).collect()
}

fn load_function(client: &mut Client) {
    let library = format!("#!lua name=tests\nredis.register_function('run', function(KEYS, ARGV)\n{SCRIPT}\nend)");
    client.call(&["FUNCTION", "LOAD", &library]);
}

#[test]
fn commands_work_in_scripts_and_functions() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        load_function(&mut client);
        let arguments = as_arguments(&all_commands());
        for head in [["EVAL", SCRIPT, "1", KEY], ["FCALL", "run", "1", KEY]] {
            let words: Vec<String> = head.iter().map(|w| w.to_string()).chain(arguments.clone()).collect();
            let replies = unquoted(client.call(&words));
            has_happened(&mut client, &replies, head[0]);
            client.call(&["DEL", KEY]);
        }
        // A script that may only read, reads.
        start_rollout_with(&mut client, KEY, 200_000);
        let read = "return redis.call('DEPLOY.STATUS', KEYS[1], 'JSON')";
        assert_eq!(client.json(&["EVAL_RO", read, "1", KEY]), client.status(KEY));
        let write = "return redis.call('DEPLOY.PAUSE', KEYS[1])";
        assert!(client.refused(&["EVAL_RO", write, "1", KEY]).contains("rite"), "writing from a read-only script");
        // A refusal can be caught, and has its code.
        let refused = "return redis.pcall('DEPLOY.STATUS', 'nothing')['err']";
        assert!(text(&client.call(&["EVAL", refused, "1", KEY])).starts_with("NOTFOUND "));
        assert!(client
            .refused(&["EVAL", "return redis.call('DEPLOY.STATUS', 'nothing')", "0"])
            .starts_with("NOTFOUND "));
    });
}

#[test]
fn transactions_and_scripts_replicate_as_one_unit() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        load_function(&mut client);
        let deploy = |key: &str| -> Vec<String> {
            ["DEPLOY.DEPLOY", key, "MANIFEST", &manifest(&AGENTS, "small"), SLOW[0], SLOW[1]].map(Into::into).into()
        };
        let reports = AGENTS.map(|agent| ["DEPLOY.REPORT", "a", agent, "ready"].map(String::from).to_vec());
        let commands = [vec![deploy("a"), deploy("b")], reports.to_vec()].concat();
        let arguments = as_arguments(&commands);

        let mut stream = ReplicationStream::of(&server);
        for how in ["one command", "MULTI", "EVAL", "FCALL"] {
            match how {
                "one command" => drop(client.call(&commands[0])),
                "MULTI" => {
                    client.call(&["MULTI"]);
                    commands.iter().for_each(|words| drop(client.call(words)));
                    client.call(&["EXEC"]);
                }
                script => {
                    let what = if script == "EVAL" { SCRIPT } else { "run" };
                    let words = [vec![script.into(), what.into(), "1".into(), "a".into()], arguments.clone()].concat();
                    client.call(&words);
                }
            }
            client.call(&["DEL", "a", "b"]);
            let sent = stream.commands_until_now(&mut client);
            let names: Vec<String> =
                sent.iter().map(|words| String::from_utf8_lossy(&words[0]).to_uppercase()).collect();
            let shape = names.join(" ");
            let count = |name: &str| names.iter().filter(|n| *n == name).count();
            if how == "one command" {
                assert_eq!(names, ["DEPLOY.APPLY", "DEL"], "a change is one command by itself");
                continue;
            }
            // All of it between one MULTI and one EXEC, the deletion after them.
            assert_eq!((count("MULTI"), count("EXEC")), (1, 1), "{how}: {shape}");
            assert_eq!(names.first().map(String::as_str), Some("MULTI"), "{how}: {shape}");
            let end = names.iter().position(|name| name == "EXEC").expect("counted");
            assert_eq!(names[end + 1..], ["DEL"], "{how}: {shape}");
            assert_eq!(count("DEPLOY.APPLY"), commands.len(), "{how}: one change for each command: {shape}");
            let others = names.iter().filter(|n| !["MULTI", "EXEC", "DEPLOY.APPLY", "DEL"].contains(&n.as_str()));
            assert_eq!(others.count(), 0, "{how}: {shape}");
        }
        // A reading command, a refused one and one without effect send nothing at all.
        start_rollout_with(&mut client, "c", 200_000);
        client.call(&["DEPLOY.PAUSE", "c"]);
        stream.commands_until_now(&mut client);
        let words: [&[&[u8]]; 4] = [
            &[b"DEPLOY.STATUS", b"c"],
            &[b"DEPLOY.PAUSE", b"c"],
            &[b"DEPLOY.PROMOTE", b"c"],
            &[b"DEPLOY.REPORT", b"c", b"agent-1", b"ready"],
        ];
        executed(&server, &words);
        assert_eq!(stream.commands_until_now(&mut client), Vec::<Vec<Vec<u8>>>::new());
    });
}

#[test]
fn timer_steps_replicate_as_one_unit() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        start_rollout(&mut client, KEY);
        let mut stream = ReplicationStream::of(&server);
        client.wait_for_status(KEY, "awaiting_promotion");
        let sent = stream.commands_until_now(&mut client);
        let names: Vec<String> = sent.iter().map(|words| String::from_utf8_lossy(&words[0]).to_uppercase()).collect();
        // The change that makes two events; or nothing, where the verdict came before the stream.
        if !names.is_empty() {
            assert_eq!(names, ["DEPLOY.APPLY"]);
        }
    });
}

#[test]
fn replica_applies_transactions_atomically() {
    on_each_server(|kind| {
        let (primary, replica) = (Server::start(kind, &[]), Server::start(kind, &[]));
        replica.replicate_from(&primary);
        let mut client = primary.client();
        for key in ["a", "b"] {
            start_rollout_with(&mut client, key, 200_000);
        }
        replica.catch_up_with(&primary);
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let writer = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut rounds = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    for word in ["DEPLOY.PAUSE", "DEPLOY.RESUME"] {
                        client.call(&["MULTI"]);
                        client.call(&[word, "a"]);
                        client.call(&[word, "b"]);
                        client.call(&["EXEC"]);
                        let script = format!("redis.call('{word}', 'b') redis.call('{word}', 'a')");
                        client.call(&["EVAL", &script, "2", "a", "b"]);
                    }
                    rounds += 1;
                }
                rounds
            }
        });
        let mut theirs = replica.client();
        let (mut looks, mut paused, began) = (0, 0, unix_ms());
        while unix_ms() < began + 700 {
            theirs.call(&["MULTI"]);
            theirs.call(&["DEPLOY.STATUS", "a", "JSON"]);
            theirs.call(&["DEPLOY.STATUS", "b", "JSON"]);
            let pair = theirs.call(&["EXEC"]);
            let status = |n: usize| -> Json {
                serde_json::from_str::<Json>(&text(&items(&pair)[n])).expect("JSON")["status"].clone()
            };
            assert_eq!(status(0), status(1), "a replica saw half of a unit");
            paused += u64::from(status(0) == "paused");
            looks += 1;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let rounds = writer.join().expect("the writer");
        eprintln!("   {looks} looks, {paused} of them at a pause, over {rounds} rounds");
    });
}

#[test]
fn watch_aborts_only_on_changes() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let (mut client, mut other) = (server.client(), server.client());
        start_rollout_with(&mut client, KEY, 200_000);
        let mut is_seen = |words: &[&str], seen: bool| {
            client.call(&["WATCH", KEY]);
            let _ = other.try_call(words);
            client.call(&["MULTI"]);
            client.call(&["PING"]);
            assert_eq!(client.call(&["EXEC"]) == Value::Nil, seen, "{words:?}");
        };
        is_seen(&["DEPLOY.STATUS", KEY], false);
        is_seen(&["DEPLOY.LIST"], false);
        is_seen(&["DEPLOY.PROMOTE", KEY], false); // refused
        is_seen(&["DEPLOY.REPORT", KEY, "agent-1", "ready"], false); // known
        is_seen(&["DEPLOY.REPORT", KEY, "agent-1", "unready"], true);
        is_seen(&["DEPLOY.PAUSE", KEY], true);
        is_seen(&["DEPLOY.PAUSE", KEY], false); // paused already
        is_seen(&["DEPLOY.STOP", KEY], true);
        // What the timer does is a change like any other.
        start_rollout(&mut client, "timed");
        client.call(&["WATCH", "timed"]);
        let mut third = server.client();
        third.wait_for_status("timed", "awaiting_promotion");
        client.call(&["MULTI"]);
        client.call(&["PING"]);
        assert_eq!(client.call(&["EXEC"]), Value::Nil);
    });
}

#[test]
fn time_is_read_once_per_command() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        // A large deployment is many events, all of one time.
        let agents: Vec<String> = (0..400).map(|n| format!("agent-{n}")).collect();
        let agents: Vec<&str> = agents.iter().map(String::as_str).collect();
        client.call(&["CONFIG", "SET", "deploy.events-max", "1000"]);
        client.deploy("large", &manifest(&agents, "small"), &SLOW);
        let times = |client: &mut Client, key: &str| -> Vec<u64> {
            client.events_after(key, 0).iter().map(|event| number(&event["at"])).collect()
        };
        let of_deploy = times(&mut client, "large");
        assert_eq!(of_deploy.len(), 401);
        assert!(of_deploy.iter().all(|at| *at == of_deploy[0]));

        // In a script that takes its time the clock never goes back; where the server has a frozen one, it stands.
        start_rollout_with(&mut client, KEY, 200_000);
        let already = number(&client.status(KEY)["revision"]);
        let script = "for i = 1, 4 do
                redis.call('DEPLOY.REPORT', KEYS[1], 'agent-1', i % 2 == 1 and 'unready' or 'ready')
                for n = 1, 3000000 do local _ = n * n end
            end";
        let began = unix_ms();
        client.call(&["EVAL", script, "1", KEY]);
        let took = unix_ms() - began;
        let events = client.events_after(KEY, already);
        let of_script: Vec<u64> = events.iter().map(|event| number(&event["at"])).collect();
        assert!(of_script.len() >= 4, "{events:?}");
        assert!(of_script.is_sorted(), "{of_script:?}");
        if kind != ServerKind::Redis70 {
            assert!(of_script.iter().all(|at| *at == of_script[0]), "over {took} ms: {of_script:?}");
        }
        let after = client.status(KEY);
        client.report(KEY, "agent-1", "unready");
        let next = number(&client.status(KEY)["updated_at"]);
        assert!(next >= number(&after["updated_at"]), "time goes on after a script");
    });
}

#[test]
fn internal_command_is_rejected_in_every_context() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let mut stream = ReplicationStream::of(&server);
        start_rollout_with(&mut client, KEY, 200_000);
        let sent = stream.commands_until_now(&mut client);
        let payload =
            sent.iter().rfind(|words| words[0].eq_ignore_ascii_case(b"DEPLOY.APPLY")).expect("changes")[2].clone();
        let before = dump(&mut client, KEY);
        let envelope: Vec<u8> = before[..].to_vec();
        let apply: Vec<Vec<&[u8]>> = vec![
            vec![b"DEPLOY.APPLY", KEY.as_bytes(), &payload],
            vec![b"DEPLOY.APPLY", b"new", &payload],
            vec![b"DEPLOY.TICK", KEY.as_bytes()],
            vec![b"DEPLOY.APPLY", KEY.as_bytes(), b"RECORD", &envelope],
            vec![b"DEPLOY.APPLY", KEY.as_bytes(), b"RECORD", b""],
            vec![b"deploy.apply", KEY.as_bytes(), b""],
        ];
        load_function(&mut client);
        for words in &apply {
            let line = client.refused(words);
            assert!(line.starts_with("ERR "), "{line}");
            // In a transaction, when it is its turn.
            let replies = executed(&server, &[words]);
            assert!(replies.iter().all(Reply::is_error), "{replies:?}");
            // In a script and in a function.
            let head = [b"EVAL".as_slice(), b"return redis.call(unpack(ARGV))", b"1", KEY.as_bytes()];
            let line = client.refused(&[&head[..], words].concat());
            assert!(line.starts_with("ERR "), "{line}");
            let count = words.len().to_string();
            let head = [b"FCALL".as_slice(), b"run", b"1", KEY.as_bytes(), count.as_bytes()];
            let line = client.refused(&[&head[..], words].concat());
            assert!(line.starts_with("ERR "), "{line}");
        }
        assert_eq!(dump(&mut client, KEY), before);
        assert_eq!(scanned(&mut client), [KEY]);

        // A user may be denied it by name; and whoever has the write commands still cannot use it.
        client.call(&["ACL", "SETUSER", "denied", "on", ">x", "~*", "&*", "+@all", "-deploy.apply"]);
        client.call(&["ACL", "SETUSER", "writer", "on", ">x", "~*", "&*", "+@write"]);
        let mut denied = server.client();
        denied.call(&["AUTH", "denied", "x"]);
        assert!(denied.refused(&apply[0]).starts_with("NOPERM "));
        denied.call(&["AUTH", "writer", "x"]);
        let line = denied.refused(&apply[0]);
        assert!(line.starts_with("ERR ") || line.starts_with("NOPERM "), "{line}");
        // Denying it to the default user stops neither commands nor timers nor replicas.
        client.call(&["ACL", "SETUSER", "default", "-deploy.apply"]);
        let replica = Server::start(kind, &[]);
        replica.replicate_from(&server);
        start_rollout(&mut client, "other");
        assert_completes(&mut client, "other");
        replica.catch_up_with(&server);
        assert_eq!(replica.client().status("other"), client.status("other"));

        // On a replica that takes writes from clients, it is still none of theirs.
        let mut theirs = replica.client();
        theirs.call(&["CONFIG", "SET", "replica-read-only", "no"]);
        for words in &apply {
            let line = theirs.refused(words);
            assert!(line.starts_with("ERR "), "{line}");
        }
        assert_eq!(dump(&mut theirs, KEY), before);
    });
}
