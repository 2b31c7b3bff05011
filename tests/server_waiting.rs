//! Blocked clients (rules 3.4, 10.12, 19.7, 19.10): what WAIT replies, keys that are deleted and made again, logs that
//! begin anew, the outcome of batch runs, and cached replies of clients that track their keys.

use redis::Value;
use std::thread::JoinHandle;
use test_support::prelude::*;
use test_support::resp::{command, Reply};
use test_support::rollout::*;

const KEY: &str = "agent-api";
const BATCH: &str = r#"{"type":"batch","nodes":[{"node_id":"a"}]}"#;
const BATCH_RERUN: &str = r#"{"type":"batch","nodes":[{"node_id":"a","again":true}]}"#;

type Answer = JoinHandle<Result<Value, String>>;

/// Starts clients that wait, and returns once all of them are blocked.
fn waiting(server: &Server, commands: &[&[&str]]) -> Vec<Answer> {
    let mut client = server.client();
    let blocked = |client: &mut Client| client.info("clients", "blocked_clients").parse::<usize>().expect("a number");
    let before = blocked(&mut client);
    let start = |words: &&[&str]| {
        let mut client = server.client();
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        std::thread::spawn(move || client.try_call(&words))
    };
    let answers: Vec<Answer> = commands.iter().map(start).collect();
    wait_until("the clients to wait", || blocked(&mut client) == before + commands.len());
    answers
}

fn answer(answer: Answer) -> Result<Value, String> {
    answer.join().expect("no panic")
}

/// The names of a reply's fields, in their order.
fn names(reply: &Value) -> String {
    items(reply).iter().step_by(2).map(text).collect::<Vec<_>>().join(" ")
}

#[test]
fn wait_replies_a_receipt_and_how_the_deployment_stands() {
    const FIELDS: &str = "deployment_key deployment_id version job_id status mode revision cause description phase \
                          finished_at";
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        client.begin_rollout(KEY, 200_000);
        let mut answers = waiting(&server, &[&["DEPLOY.WAIT", KEY], &["DEPLOY.WAIT", KEY, "UNTIL", "1", "paused"]]);
        client.call(&["DEPLOY.PAUSE", KEY]);
        let paused = answer(answers.pop().expect("two")).expect("a reply");
        assert_eq!(names(&paused), FIELDS);
        let paused = Fields::of(&paused);
        assert_eq!((paused.text("status").as_str(), paused.int("version")), ("paused", 2));
        client.call(&["DEPLOY.FAIL", KEY, "REASON", "too slow"]);
        let failed = Fields::of(&answer(answers.pop().expect("one")).expect("a reply"));
        assert_eq!((failed.text("status").as_str(), failed.text("cause").as_str()), ("failed", "operator"));
        assert_eq!(failed.text("description"), "failed by default: too slow");
        assert_eq!(failed.int("finished_at"), number(&client.status(KEY)["finished_at"]) as i64);

        // Of the past, the same; superseded or ended long ago.
        client.deploy(KEY, &manifest(&AGENTS, "third"), &SLOW);
        let past = client.call(&["DEPLOY.WAIT", KEY, "ID", "dep_agent-api_2"]);
        assert_eq!(names(&past), FIELDS);
        let past = Fields::of(&past);
        for name in ["deployment_id", "job_id", "status", "cause", "description"] {
            assert_eq!(past.text(name), failed.text(name), "{name}");
        }
        assert_eq!(past.int("finished_at"), failed.int("finished_at"));
    });
}

#[test]
fn key_made_again_is_another_one_for_who_waits() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let deploy = ["DEPLOY.DEPLOY", KEY, "MANIFEST", &manifest(&AGENTS, "small")];
        let make = |client: &mut Client| {
            client.call(&["FLUSHALL"]);
            client.deploy("other", &manifest(&AGENTS, "small"), &SLOW);
            client.begin_rollout(KEY, 200_000);
        };
        make(&mut client);
        let payload = dump(&mut client, "other");
        client.call(&["SELECT", "1"]);
        client.deploy(KEY, &manifest(&AGENTS, "in the other database"), &SLOW);
        client.call(&["SELECT", "0"]);
        let transaction = |client: &mut Client, commands: &[&[&str]]| {
            client.call(&["MULTI"]);
            commands.iter().for_each(|words| drop(client.call(words)));
            client.call(&["EXEC"]);
        };
        type Way<'w> = (&'w str, Box<dyn Fn(&mut Client) + 'w>);
        let ways: [Way; 6] = [
            ("deleted and deployed", Box::new(|client| transaction(client, &[&["DEL", KEY], &deploy]))),
            ("unlinked and deployed", Box::new(|client| transaction(client, &[&["UNLINK", KEY], &deploy]))),
            ("flushed and deployed", Box::new(|client| transaction(client, &[&["FLUSHALL"], &deploy]))),
            ("overwritten by RENAME", Box::new(|client| drop(client.call(&["RENAME", "other", KEY])))),
            (
                "overwritten by RESTORE",
                Box::new(|client| drop(restore(client, KEY, &payload, &["REPLACE"]).expect("a record"))),
            ),
            ("swapped", Box::new(|client| drop(client.call(&["SWAPDB", "0", "1"])))),
        ];
        for (way, remove) in &ways {
            make(&mut client);
            client.call(&["SELECT", "1"]);
            client.deploy(KEY, &manifest(&AGENTS, "in the other database"), &SLOW);
            client.call(&["SELECT", "0"]);
            let revision = client.status(KEY)["revision"].to_string();
            let id = "dep_agent-api_2";
            let mut answers = waiting(
                &server,
                &[&["DEPLOY.WAIT", KEY, "ID", id], &["DEPLOY.EVENTS", KEY, "AFTER", &revision, "BLOCK", "0"]],
            );
            remove(&mut client);
            let events = answer(answers.pop().expect("two"));
            let waited = answer(answers.pop().expect("one"));
            assert!(waited.as_ref().is_err_and(|error| error.starts_with("NOTFOUND ")), "{way}: {waited:?}");
            // The log begins anew, below or above what the reader has read; it is told the last revision there is.
            let events = events.unwrap_or_else(|error| panic!("{way}: {error}"));
            let last = client.status(KEY)["revision"].clone();
            assert_eq!(int(&items(&events)[1]), number(&last) as i64, "{way}");
        }
        client.call(&["SWAPDB", "0", "1"]);
    });
}

#[test]
fn deleted_key_is_not_found() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let begin = |client: &mut Client| client.begin_rollout(KEY, 200_000)["revision"].to_string();
        let commands: [&[&str]; 4] =
            [&["DEL", KEY], &["RENAME", KEY, "renamed"], &["MOVE", KEY, "5"], &["PEXPIRE", KEY, "1"]];
        for command in commands {
            client.call(&["FLUSHALL"]);
            let revision = begin(&mut client);
            let answers =
                waiting(&server, &[&["DEPLOY.WAIT", KEY], &["DEPLOY.EVENTS", KEY, "AFTER", &revision, "BLOCK", "0"]]);
            client.call(command);
            for waited in answers {
                let error = answer(waited).expect_err("the key is gone");
                assert!(error.starts_with("NOTFOUND "), "{command:?}: {error}");
            }
        }
        client.call(&["FLUSHALL"]);
        begin(&mut client);
        let answers = waiting(&server, &[&["DEPLOY.WAIT", KEY]]);
        client.call(&["SET", KEY, "a string"]);
        for waited in answers {
            assert!(answer(waited).expect_err("another type").starts_with("WRONGTYPE "));
        }
    });
}

/// A load flushes everything first, and brings the same record back.
#[test]
fn clients_wait_on_while_the_data_set_is_loaded_again() {
    on_each_server(|kind| {
        let server = Server::start(kind, &["--enable-debug-command", "yes"]);
        let mut client = server.client();
        let revision = client.begin_rollout(KEY, 200_000)["revision"].to_string();
        let mut answers =
            waiting(&server, &[&["DEPLOY.WAIT", KEY], &["DEPLOY.EVENTS", KEY, "AFTER", &revision, "BLOCK", "0"]]);
        client.call(&["DEBUG", "RELOAD"]);
        assert_eq!(client.info("clients", "blocked_clients"), "2");
        client.call(&["DEPLOY.FAIL", KEY]);
        assert!(!items(&items(&answer(answers.pop().expect("two")).expect("events"))[2]).is_empty());
        let waited = answer(answers.pop().expect("one")).expect("a reply");
        assert_eq!(Fields::of(&waited).text("status"), "failed");
    });
}

/// A full resynchronization may bring a shorter log, where a failover or a crash has lost events.
#[test]
fn readers_of_a_log_that_lost_events_are_answered() {
    on_each_server(|kind| {
        let (primary, replica) = (Server::start(kind, &[]), Server::start(kind, &[]));
        let mut client = primary.client();
        client.begin_rollout(KEY, 200_000);
        let shorter = dump(&mut client, KEY);
        let last = number(&client.status(KEY)["revision"]) as i64;
        client.call(&["DEPLOY.PAUSE", KEY]);
        let revision = client.status(KEY)["revision"].to_string();
        replica.replicate_from(&primary);
        replica.catch_up_with(&primary);
        let mut answers =
            waiting(&replica, &[&["DEPLOY.WAIT", KEY], &["DEPLOY.EVENTS", KEY, "AFTER", &revision, "BLOCK", "0"]]);
        // The primary loses the event while the replica cannot hear it.
        restore(&mut client, "new", &shorter, &[]).expect("restored");
        replica.signal("STOP");
        client.call(&["CLIENT", "KILL", "TYPE", "replica"]);
        client.call(&["RENAME", "new", KEY]);
        client.call(&["DEBUG", "CHANGE-REPL-ID"]);
        replica.signal("CONT");
        replica.catch_up_with(&primary);
        let events = answer(answers.pop().expect("two")).expect("events");
        assert_eq!(int(&items(&events)[1]), last);
        // The other one waits on, for a deployment that is there.
        client.call(&["DEPLOY.FAIL", KEY]);
        let waited = answer(answers.pop().expect("one")).expect("a reply");
        assert_eq!(Fields::of(&waited).text("status"), "failed");
    });
}

#[test]
fn events_after_the_last_revision_are_answered_at_once() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        client.begin_rollout(KEY, 200_000);
        let old = client.status(KEY)["revision"].clone();
        client.call(&["DEL", KEY]);
        client.deploy(KEY, &manifest(&AGENTS, "small"), &SLOW);
        let reply = client.call(&["DEPLOY.EVENTS", KEY, "AFTER", &old.to_string(), "BLOCK", "0"]);
        let [first, last, events] = items(&reply) else { panic!("{reply:?}") };
        assert_eq!((int(first), int(last)), (1, number(&client.status(KEY)["revision"]) as i64));
        assert!(int(last) < number(&old) as i64 && items(events).is_empty(), "{reply:?}");
    });
}

#[test]
fn outcome_of_a_batch_run_can_be_waited_for() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    client.deploy(KEY, BATCH, &[]);
    let recorded = Fields::of(&client.call(&["DEPLOY.WAIT", KEY]));
    assert_eq!(recorded.text("status"), "version_recorded", "without a word the version is enough");
    let recorded = Fields::of(&client.call(&["DEPLOY.WAIT", KEY, "UNTIL", "2", "version_recorded", "completed"]));
    assert_eq!(recorded.text("description"), "version recorded");

    let completes: &[&str] = &["DEPLOY.WAIT", KEY, "UNTIL", "2", "completed", "failed"];
    let first = waiting(&server, &[completes, &["DEPLOY.WAIT", KEY, "UNTIL", "1", "FAILED"]]);
    // A newer run does not end the wait for the older one.
    client.deploy(KEY, BATCH_RERUN, &[]);
    let second = waiting(&server, &[completes]);
    client.call(&["DEPLOY.REPORT", KEY, "*", "completed", "VERSION", "1"]);
    for waited in first {
        let completed = Fields::of(&answer(waited).expect("a reply"));
        assert_eq!((completed.int("version"), completed.text("status").as_str()), (1, "version_recorded"));
        assert_eq!(completed.text("description"), "the batch job completed");
    }
    client.call(&["DEPLOY.REPORT", KEY, "*", "failed", "REASON", "exit 2"]);
    for waited in second {
        let failed = Fields::of(&answer(waited).expect("a reply"));
        assert_eq!((failed.int("version"), failed.text("cause").as_str()), (2, "agent_failed"));
        assert_eq!(failed.text("description"), "the batch job failed: exit 2");
    }
    let reply = Fields::of(&client.call(completes));
    assert_eq!(reply.text("cause"), "agent_failed", "what has ended is replied at once");

    // A run that is stopped before it reports will have no outcome: nobody waits for it.
    client.deploy(KEY, BATCH, &[]);
    let stopped = waiting(&server, &[completes]);
    client.call(&["DEPLOY.STOP", KEY]);
    client.call(&["DEPLOY.REPORT", KEY, "*", "stopped"]);
    for waited in stopped {
        let stopped = Fields::of(&answer(waited).expect("a reply"));
        assert_eq!((stopped.text("status").as_str(), stopped.text("cause").as_str()), ("version_recorded", "stopped"));
        assert_eq!(stopped.text("description"), "the batch job was stopped");
    }
    let reply = Fields::of(&client.call(completes));
    assert_eq!(reply.text("cause"), "stopped", "it is not taken for a success");
    // Nor is one that had stopped before, or one of the past.
    client.deploy(KEY, BATCH_RERUN, &[]);
    client.call(&["DEPLOY.REPORT", KEY, "*", "starting"]);
    client.call(&["DEPLOY.REPORT", KEY, "*", "stopped"]);
    client.call(&["DEPLOY.STOP", KEY]);
    assert_eq!(Fields::of(&client.call(completes)).text("cause"), "stopped");
    client.deploy(KEY, BATCH, &[]);
    let past = Fields::of(&client.call(&["DEPLOY.WAIT", KEY, "ID", &format!("dep_{KEY}_4")]));
    assert_eq!(past.text("cause"), "stopped");
    let error = client.refused(&["DEPLOY.WAIT", KEY, "UNTIL", "1", "done"]);
    assert!(error.starts_with("ERR UNTIL must be one of ") && error.contains("'done'"), "{error}");
}

fn assert_waiting(client: &mut Client, waiters: usize, what: &str) {
    assert_eq!(client.info("clients", "blocked_clients"), waiters.to_string(), "{what}");
}

/// Version 2 has taken over in a blue-green update, and the three instances of version 1 drain (rule 10.7).
fn begin_drains(client: &mut Client) {
    client.deploy(KEY, &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "0"]);
    client.carry_out_until(KEY, "successful");
    let options = ["STRATEGY", "blue-green", "MIN_HEALTHY_MS", "0", "DRAIN_MS", "600000"];
    client.deploy(KEY, &manifest(&AGENTS, "large"), &options);
    client.carry_out_tasks(KEY);
    client.wait_for_status(KEY, "successful");
}

fn report_old(client: &mut Client, agent: &str, state: &str) {
    client.call(&["DEPLOY.REPORT", KEY, agent, state, "VERSION", "1", "JOB", "dep_agent-api_1"]);
}

#[test]
fn wait_until_drained_ends_with_the_last_instance_that_drains_or_stops() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        begin_drains(&mut client);
        let past = ["DEPLOY.WAIT", KEY, "ID", "dep_agent-api_1", "UNTIL", "1", "drained"];
        let present = ["DEPLOY.WAIT", KEY, "UNTIL", "1", "drained"];
        let answers = waiting(&server, &[&present, &past, &[&present[..], &["TIMEOUT", "60000"]].concat()]);
        // Any other word beside it, and the end of the deployment suffices.
        let at_once = client.call(&["DEPLOY.WAIT", KEY, "UNTIL", "2", "drained", "failed"]);
        assert_eq!(Fields::of(&at_once).text("status"), "successful");
        assert_eq!(client.call(&[&present[..], &["TIMEOUT", "1"]].concat()), Value::Nil);

        for agent in AGENTS {
            report_old(&mut client, agent, "draining");
            report_old(&mut client, agent, "drained");
            assert_waiting(&mut client, 3, "a stop task is open");
        }
        assert_eq!(client.info("deploy", "deploy_instances_draining"), "0");
        for agent in &AGENTS[..2] {
            report_old(&mut client, agent, "stopped");
            assert_waiting(&mut client, 3, "one is still to stop");
        }
        report_old(&mut client, AGENTS[2], "stopped");
        let ids: Vec<String> = answers
            .into_iter()
            .map(|waiter| {
                let reply = Fields::of(&answer(waiter).expect("a reply"));
                assert_eq!(reply.text("status"), "successful");
                reply.text("deployment_id")
            })
            .collect();
        assert_eq!(ids, ["dep_agent-api_2", "dep_agent-api_1", "dep_agent-api_2"]);
        // It is so already.
        for words in [&present[..], &past] {
            assert_eq!(Fields::of(&client.call(words)).text("status"), "successful");
        }
    });
}

#[test]
fn wait_until_drained_waits_for_the_end_of_the_deployment_as_well() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let record = client.begin_rollout(KEY, 200_000);
        let id = string(&record["deployment_id"]).to_string();
        let words = ["DEPLOY.WAIT", KEY, "UNTIL", "1", "drained"];
        let mut answers = waiting(&server, &[&words, &["DEPLOY.WAIT", KEY, "UNTIL", "2", "paused", "drained"]]);
        client.call(&["DEPLOY.PAUSE", KEY]);
        let paused = Fields::of(&answer(answers.pop().expect("two")).expect("a reply"));
        assert_eq!(paused.text("status"), "paused");
        client.call(&["DEPLOY.RESUME", KEY]);
        assert_waiting(&mut client, 1, "the deployment runs");
        // Stopped, it has ended, and its instances have not.
        client.call(&["DEPLOY.STOP", KEY]);
        assert_waiting(&mut client, 1, "instances are to be stopped");
        client.carry_out_tasks(KEY);
        let ended = Fields::of(&answer(answers.pop().expect("one")).expect("a reply"));
        assert_eq!((ended.text("deployment_id"), ended.text("status")), (id, "cancelled".to_string()));

        // A deleted key, and one without drains.
        client.deploy(KEY, &manifest(&AGENTS, "fourth"), &SLOW);
        let answers = waiting(&server, &[&words]);
        client.call(&["DEL", KEY]);
        for waiter in answers {
            let refused = answer(waiter).expect_err("no key");
            assert!(refused.starts_with("NOTFOUND "), "{refused}");
        }
        client.deploy(KEY, r#"{"type":"batch","nodes":[{"node_id":"a"}]}"#, &[]);
        assert_eq!(Fields::of(&client.call(&words)).text("status"), "version_recorded");
        let refused = client.refused(&["DEPLOY.WAIT", KEY, "UNTIL", "1", "draining"]);
        assert!(refused.contains("completed, drained"), "{refused}");
    });
}

#[test]
fn wait_until_drained_replies_at_once_in_transactions_and_scripts() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        begin_drains(&mut client);
        let words = ["DEPLOY.WAIT", KEY, "UNTIL", "1", "drained"];
        let script = "return redis.call('DEPLOY.WAIT', KEYS[1], 'UNTIL', '1', 'drained')";
        let replies = |client: &mut Client| -> Vec<Value> {
            client.call(&["MULTI"]);
            client.call(&words);
            let in_transaction = items(&client.call(&["EXEC"]))[0].clone();
            vec![in_transaction, client.call(&["EVAL", script, "1", KEY])]
        };
        assert_eq!(replies(&mut client), [Value::Nil, Value::Nil]);
        client.call(&["DEPLOY.DRAIN", KEY, "VERSION", "1", "NOW"]);
        assert_eq!(replies(&mut client), [Value::Nil, Value::Nil]);
        client.carry_out_tasks(KEY);
        for reply in replies(&mut client) {
            assert_eq!(Fields::of(&reply).text("status"), "successful");
        }
    });
}

/// A client that caches a reply until it is told of a change must not be told of it before it has the reply.
#[test]
fn tracked_clients_are_told_of_every_change_after_their_reply() {
    const SERVICES: usize = 2_000;
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        client.deploy(KEY, &manifest(&["a"], "small"), &SLOW);
        for id in 0..SERVICES {
            let id = format!("i{id}");
            let words = ["DEPLOY.REGISTER", KEY, "a", "web", "INSTANCE", &id, "ADDRESS", "10.0.0.1", "PORT", "80"];
            client.call(&words);
        }
        let statuses = ["critical", "passing"];
        for round in 0..20 {
            let mut tracked = server.conn();
            tracked.call(&["HELLO", "3"]);
            tracked.call(&["CLIENT", "TRACKING", "ON"]);
            tracked.send(&command(&["DEPLOY.RESOLVE", KEY, "ALL", "JSON"]));
            client.call(&["DEPLOY.CHECK", KEY, "i0", statuses[round % 2], "REASON", &format!("round {round}")]);
            let (cached, is_told_before) = match tracked.reply() {
                Reply::Push(_) => (tracked.reply().text(), true),
                reply => (reply.text(), false),
            };
            let is_stale = cached != text(&client.call(&["DEPLOY.RESOLVE", KEY, "ALL", "JSON"]));
            assert!(!(is_stale && is_told_before), "round {round}: the reply is older than the invalidation");
            if is_stale {
                assert!(matches!(tracked.reply(), Reply::Push(_)), "round {round}: told of the change");
            }
        }
    });
}
