//! Promise: a reply that was kept is the reply that would be written now, to the byte, whatever has happened to its record
//! and wherever it is asked for.

use redis::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use test_support::prelude::*;

const KEY: &str = "app";

/// A client that reads bytes.
struct Raw {
    stream: TcpStream,
    /// How often a plain reply was asked for.
    spellings: usize,
}

impl Raw {
    fn to(server: &Server, is_resp3: bool) -> Raw {
        let stream = TcpStream::connect(("127.0.0.1", server.port)).expect("a connection");
        stream.set_read_timeout(Some(patience())).expect("a socket option");
        let mut raw = Raw { stream, spellings: 0 };
        raw.ask(&["HELLO", if is_resp3 { "3" } else { "2" }]);
        raw
    }

    /// The bytes of the reply.
    fn ask(&mut self, words: &[&str]) -> Vec<u8> {
        const END: &[u8] = b"$9\r\nthe-end-!\r\n";
        let command = |words: &[&str]| {
            let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
            format!("*{}\r\n{words}", words.matches('$').count())
        };
        let sent = command(words) + &command(&["ECHO", "the-end-!"]);
        self.stream.write_all(sent.as_bytes()).expect("the server reads");
        let mut bytes = Vec::new();
        let mut part = [0; 1 << 16];
        while !bytes.ends_with(END) {
            let count = self.stream.read(&mut part).expect("the server answers");
            assert!(count > 0, "the server hung up");
            bytes.extend_from_slice(&part[..count]);
        }
        bytes.truncate(bytes.len() - END.len());
        bytes
    }

    /// Everything that a key resolves to, asked in words that were not used before: so it is not kept.
    fn plain(&mut self, key: &str) -> Vec<u8> {
        self.spellings += 1;
        let (spelling, letters) = (self.spellings, "roleanyall");
        let spelt: String = letters
            .char_indices()
            .map(|(place, letter)| if spelling >> place & 1 == 1 { letter.to_ascii_uppercase() } else { letter })
            .collect();
        self.ask(&["DEPLOY.RESOLVE", key, &spelt[..4], &spelt[4..7], &spelt[7..]])
    }

    /// The same, asked as everybody asks.
    fn usual(&mut self, key: &str) -> Vec<u8> {
        self.ask(&["DEPLOY.RESOLVE", key, "ROLE", "any", "ALL"])
    }

    /// Asks until the reply is kept.
    fn usual_kept(&mut self, key: &str) -> Vec<u8> {
        for _ in 0..3 {
            self.usual(key);
        }
        self.usual(key)
    }

    #[track_caller]
    fn assert_true(&mut self, key: &str, what: &str) {
        let plain = self.plain(key);
        let usual = self.usual(key);
        assert_eq!(String::from_utf8_lossy(&usual), String::from_utf8_lossy(&plain), "after {what}");
    }
}

/// Three agents at version 1, each with an instance, and one of them with all that an instance can have.
fn serve(client: &mut Client, key: &str) {
    client.deploy(key, &manifest(&AGENTS, "m1"), &QUICK);
    client.carry_out_until(key, "successful");
    for agent in AGENTS {
        register(client, key, agent, &["TTL", "600000"]);
    }
    register(client, key, AGENTS[0], &["TAGS", "2", "blue", "é", "META", r#"{"a":[1,"\r\n"]}"#]);
}

fn register(client: &mut Client, key: &str, agent: &str, options: &[&str]) {
    let instance = format!("{agent}-http");
    let words = ["DEPLOY.REGISTER", key, agent, "http", "INSTANCE", &instance, "ADDRESS", "10.0.0.1", "PORT", "80"];
    client.call(&[&words[..], options].concat());
}

/// How often RESOLVE ran: what a client called, and what the module had called to keep its reply.
fn runs(client: &mut Client) -> u64 {
    let stats = client.info("commandstats", "cmdstat_deploy.resolve");
    let calls = stats.split(',').find_map(|field| field.strip_prefix("calls="));
    calls.and_then(|calls| calls.parse().ok()).unwrap_or(0)
}

/// How many replies were made to be kept while this many were asked for.
fn kept_by(client: &mut Client, asked: u64, work: impl FnOnce()) -> u64 {
    let before = runs(client);
    work();
    runs(client) - before - asked
}

#[test]
fn the_second_asking_has_a_reply_kept_which_is_the_first_to_the_byte() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        serve(&mut client, KEY);
        let forms: [&[&str]; 4] = [&[], &["JSON"], &["SERVICE", "http"], &["tag", "é", "json"]];
        for is_resp3 in [false, true] {
            // Of other forms than these: more than so many are not kept at a time.
            client.report(KEY, AGENTS[0], "unready");
            client.report(KEY, AGENTS[0], "ready");
            let mut raw = Raw::to(&server, is_resp3);
            for form in forms {
                let words = [&["DEPLOY.RESOLVE", KEY], form].concat();
                let mut replies = Vec::new();
                let kept = kept_by(&mut client, 5, || replies.extend((0..5).map(|_| raw.ask(&words))));
                assert_eq!(kept, 1, "{words:?}");
                assert!(replies[0].len() > 100, "{words:?}");
                assert!(replies.iter().all(|reply| *reply == replies[0]), "{words:?}");
            }
            // All four are still there.
            let all = || forms.iter().for_each(|form| drop(raw.ask(&[&["DEPLOY.RESOLVE", KEY], *form].concat())));
            assert_eq!(kept_by(&mut client, 4, all), 0);
        }
        // The two protocols do not get into each other's way, whoever came first.
        let (mut old, mut new) = (Raw::to(&server, false), Raw::to(&server, true));
        for _ in 0..4 {
            assert!(old.usual(KEY).starts_with(b"*3\r\n*34\r\n"));
            assert!(new.usual(KEY).starts_with(b"*3\r\n%17\r\n"));
        }
        // Errors are nobody's.
        for _ in 0..4 {
            assert!(old.usual("nobody").starts_with(b"-NOTFOUND"));
            assert!(old.ask(&["DEPLOY.RESOLVE", KEY, "ROLE", "x"]).starts_with(b"-ERR"));
        }
    });
}

#[test]
fn whatever_changes_a_record_changes_the_reply() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        serve(&mut client, KEY);
        for is_resp3 in [false, true] {
            let mut raw = Raw::to(&server, is_resp3);
            let instance = format!("{}-http", AGENTS[1]);
            let mut last = raw.usual_kept(KEY);
            let mut step = |what: &str, work: &mut dyn FnMut(&mut Client)| {
                raw.usual_kept(KEY);
                work(&mut client);
                raw.assert_true(KEY, what);
                let now = raw.usual(KEY);
                assert_ne!(String::from_utf8_lossy(&now), String::from_utf8_lossy(&last), "{what} changed nothing");
                last = now;
            };
            step("CHECK", &mut |client| drop(client.call(&["DEPLOY.CHECK", KEY, &instance, "critical"])));
            step("CHECK with a reason", &mut |client| {
                client.call(&["DEPLOY.CHECK", KEY, &instance, "warning", "REASON", "no answer"]);
            });
            step("DEREGISTER", &mut |client| drop(client.call(&["DEPLOY.DEREGISTER", KEY, &instance])));
            step("REGISTER", &mut |client| register(client, KEY, AGENTS[1], &["TTL", "600000"]));
            // Moves nothing but the TTL, and no revision.
            step("a refresh", &mut |client| {
                let before = unix_ms();
                wait_until("the clock to move", || unix_ms() > before + 1);
                register(client, KEY, AGENTS[1], &["TTL", "600000"]);
            });
            step("a TTL that runs out", &mut |client| {
                register(client, KEY, AGENTS[1], &["TTL", "1"]);
                wait_until("the server to see it", || {
                    let services = &client.status(KEY)["services"];
                    array(services).iter().any(|service| service["status"] == "critical")
                });
            });
            step("a roll-out", &mut |client| {
                client.deploy(KEY, &manifest(&AGENTS, if is_resp3 { "m3" } else { "m2" }), &QUICK);
                client.carry_out_until(KEY, "successful");
                AGENTS.iter().for_each(|agent| register(client, KEY, agent, &[]));
            });
        }
    });
}

#[test]
fn a_promotion_and_a_report_change_the_reply() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let mut raw = Raw::to(&server, false);
        serve(&mut client, KEY);
        let beside = [&QUICK[..], &["STRATEGY", "blue-green", "CANARY", "1"]].concat();
        client.deploy(KEY, &manifest(&AGENTS, "m2"), &beside);
        for task in client.tasks(KEY) {
            let (agent, id) = (string(&task["agent"]), format!("{}-2", string(&task["agent"])));
            let of = ["VERSION", "2", "JOB", string(&task["job_id"])];
            raw.usual_kept(KEY);
            client.call(&[&["DEPLOY.REPORT", KEY, agent, "starting"], &of[..]].concat());
            raw.assert_true(KEY, "REPORT");
            raw.usual_kept(KEY);
            let words = ["DEPLOY.REGISTER", KEY, agent, "http", "INSTANCE", &id, "ADDRESS", "10.0.0.2", "PORT", "80"];
            client.call(&[&words[..], &of].concat());
            raw.assert_true(KEY, "REGISTER of a candidate");
            raw.usual_kept(KEY);
            client.call(&[&["DEPLOY.REPORT", KEY, agent, "ready"], &of[..]].concat());
            raw.assert_true(KEY, "REPORT");
        }
        client.wait_for_status(KEY, "awaiting_promotion");
        let before = raw.usual_kept(KEY);
        client.call(&["DEPLOY.PROMOTE", KEY]);
        raw.assert_true(KEY, "PROMOTE");
        assert_ne!(raw.usual(KEY), before);
    });
}

#[test]
fn what_changes_nothing_leaves_it_where_it_is() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let mut other = server.client();
        serve(&mut client, KEY);
        let mut raw = Raw::to(&server, false);
        raw.usual_kept(KEY);
        let kept = kept_by(&mut other, 1, || {
            // Said before; refused; asked about.
            client.report(KEY, AGENTS[0], "ready");
            client.refused(&["DEPLOY.REPORT", KEY, "nobody", "ready"]);
            client.refused(&["DEPLOY.CHECK", KEY, "nobody", "passing"]);
            client.status(KEY);
            client.call(&["DUMP", KEY]);
            raw.usual(KEY);
        });
        assert_eq!(kept, 0);
        raw.assert_true(KEY, "nothing");
    });
}

#[test]
fn whatever_moves_copies_or_replaces_a_key_is_seen() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let mut raw = Raw::to(&server, false);
        serve(&mut client, KEY);
        let is_gone = |raw: &mut Raw, key: &str| {
            for _ in 0..3 {
                assert!(raw.usual(key).starts_with(b"-NOTFOUND"), "{key}");
            }
        };

        raw.usual_kept(KEY);
        client.call(&["RENAME", KEY, "other"]);
        raw.assert_true("other", "RENAME");
        is_gone(&mut raw, KEY);
        raw.usual_kept("other");
        client.call(&["RENAME", "other", KEY]);
        raw.assert_true(KEY, "RENAME back");

        raw.usual_kept(KEY);
        client.call(&["COPY", KEY, "copy"]);
        raw.assert_true("copy", "COPY");
        raw.usual_kept("copy");
        client.call(&["DEPLOY.CHECK", "copy", "agent-1-http", "critical"]);
        raw.assert_true("copy", "a change of the copy");
        raw.assert_true(KEY, "a change of the copy");
        raw.usual_kept(KEY);
        client.call(&["COPY", "copy", KEY, "REPLACE"]);
        raw.assert_true(KEY, "COPY … REPLACE");

        let Value::BulkString(dump) = client.call(&["DUMP", KEY]) else { panic!("a payload") };
        client.call(&["DEPLOY.DEREGISTER", KEY, "agent-1-http"]);
        raw.usual_kept(KEY);
        client.call(&[&b"RESTORE"[..], KEY.as_bytes(), b"0", &dump, b"REPLACE"]);
        raw.assert_true(KEY, "RESTORE … REPLACE");

        raw.usual_kept(KEY);
        client.call(&["SELECT", "1"]);
        serve(&mut client, KEY);
        client.call(&["DEPLOY.CHECK", KEY, "agent-2-http", "warning"]);
        client.call(&["SWAPDB", "0", "1"]);
        raw.assert_true(KEY, "SWAPDB");
        assert!(String::from_utf8_lossy(&raw.usual(KEY)).contains("warning"));
        raw.usual_kept(KEY);
        client.call(&["SWAPDB", "0", "1"]);
        raw.assert_true(KEY, "SWAPDB back");
        client.call(&["SELECT", "0"]);

        raw.usual_kept(KEY);
        client.call(&["SET", KEY, "x"]);
        assert!(raw.usual(KEY).starts_with(b"-WRONGTYPE"));
        client.call(&["RENAME", "copy", KEY]);
        raw.assert_true(KEY, "RENAME over another");

        for how in [&["UNLINK", KEY][..], &["DEL", KEY], &["FLUSHALL"], &["FLUSHALL", "ASYNC"], &["PEXPIRE", KEY, "1"]]
        {
            raw.usual_kept(KEY);
            client.call(how);
            wait_until("it to be gone", || client.call(&["EXISTS", KEY]) == Value::Int(0));
            is_gone(&mut raw, KEY);
            serve(&mut client, KEY);
            raw.assert_true(KEY, "another record");
        }

        raw.usual_kept(KEY);
        client.call(&["DEBUG", "RELOAD"]);
        raw.assert_true(KEY, "DEBUG RELOAD");
    });
}

#[test]
fn a_replica_keeps_replies_of_its_own() {
    on_each_server(|kind| {
        let (primary, replica) = (Server::start(kind, &[]), Server::start(kind, &[]));
        let mut client = primary.client();
        serve(&mut client, KEY);
        replica.replicate_from(&primary);
        let (mut there, mut here) = (Raw::to(&replica, false), Raw::to(&primary, false));
        let mut asked = replica.client();
        assert_eq!(kept_by(&mut asked, 4, || drop(there.usual_kept(KEY))), 1);
        let instance = format!("{}-http", AGENTS[0]);
        for status in ["critical", "warning", "passing"] {
            there.usual_kept(KEY);
            client.call(&["DEPLOY.CHECK", KEY, &instance, status]);
            replica.catch_up_with(&primary);
            there.assert_true(KEY, "a change of the primary");
            assert_eq!(there.usual(KEY), here.usual(KEY));
        }
        // A refresh is no event.
        there.usual_kept(KEY);
        register(&mut client, KEY, AGENTS[1], &["TTL", "500000"]);
        replica.catch_up_with(&primary);
        there.assert_true(KEY, "a refresh at the primary");
        // A new file from the primary.
        there.usual_kept(KEY);
        replica.client().call(&["REPLICAOF", "NO", "ONE"]);
        client.call(&["DEPLOY.DEREGISTER", KEY, &instance]);
        replica.replicate_from(&primary);
        there.assert_true(KEY, "a resynchronisation");
        assert_eq!(there.usual(KEY), here.usual(KEY));
    });
}

#[test]
fn transactions_and_scripts_are_answered_and_keep_nothing() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let mut other = server.client();
        serve(&mut client, KEY);
        let mut raw = Raw::to(&server, false);
        let mut new = Raw::to(&server, true);
        let script = "return redis.call('DEPLOY.RESOLVE', KEYS[1], 'ROLE', 'any', 'ALL')";
        let script3 = "redis.setresp(3); return redis.call('DEPLOY.RESOLVE', KEYS[1], 'ROLE', 'any', 'ALL')";
        let in_script = |raw: &mut Raw, script: &str| raw.ask(&["EVAL", script, "1", KEY]);
        let mut plain = Vec::new();
        let kept = kept_by(&mut other, 12, || {
            for _ in 0..4 {
                plain = vec![in_script(&mut raw, script), in_script(&mut new, script), in_script(&mut new, script3)];
            }
        });
        assert_eq!(kept, 0, "in scripts");
        assert_eq!(kept_by(&mut other, 3, || drop(exec(&server))), 0, "in transactions");
        let before = exec(&server);

        raw.usual_kept(KEY);
        new.usual_kept(KEY);
        let after = vec![in_script(&mut raw, script), in_script(&mut new, script), in_script(&mut new, script3)];
        assert_eq!(after, plain);
        assert_eq!(exec(&server), before);

        // A change and its reading in one transaction, and in one script.
        raw.usual_kept(KEY);
        client.call(&["MULTI"]);
        client.call(&["DEPLOY.CHECK", KEY, "agent-1-http", "critical"]);
        client.call(&["DEPLOY.RESOLVE", KEY, "ROLE", "any", "ALL"]);
        let replies = client.call(&["EXEC"]);
        assert_eq!(items(&replies)[1], other.call(&["DEPLOY.RESOLVE", KEY, "ROLE", "any", "all"]));
        raw.assert_true(KEY, "a transaction");
        raw.usual_kept(KEY);
        let change = "redis.call('DEPLOY.CHECK', KEYS[1], 'agent-1-http', 'warning') \
            return redis.call('DEPLOY.RESOLVE', KEYS[1], 'ROLE', 'any', 'ALL')";
        let replies = client.call(&["EVAL", change, "1", KEY]);
        assert_eq!(replies, other.call(&["EVAL", &script.replace("'any'", "'aNy'"), "1", KEY]));
        raw.assert_true(KEY, "a script");
    });
}

fn exec(server: &Server) -> Value {
    let mut client = server.client();
    client.call(&["MULTI"]);
    for _ in 0..3 {
        client.call(&["DEPLOY.RESOLVE", KEY, "ROLE", "any", "ALL"]);
    }
    client.call(&["EXEC"])
}

#[test]
fn a_kept_reply_is_counted_and_a_long_one_is_not_kept() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let mut other = server.client();
        serve(&mut client, KEY);
        let mut raw = Raw::to(&server, false);
        let usage = |client: &mut Client| int(&client.call(&["MEMORY", "USAGE", KEY]));
        let before = usage(&mut client);
        let reply = raw.usual_kept(KEY);
        let with = usage(&mut client);
        let length = i64::try_from(reply.len()).expect("a length");
        assert!((length..length + 1024).contains(&(with - before)), "{before} and {with}: {length}");
        client.report(KEY, AGENTS[0], "unready");
        client.report(KEY, AGENTS[0], "ready");
        assert!(usage(&mut client) < with);

        let meta = format!(r#"{{"x":"{}"}}"#, "y".repeat(4000));
        for n in 0..30 {
            let id = format!("large-{n}");
            let words =
                ["DEPLOY.REGISTER", KEY, AGENTS[0], "http", "INSTANCE", &id, "ADDRESS", "10.0.0.1", "PORT", "80"];
            client.call(&[&words[..], &["META", &meta]].concat());
        }
        let before = usage(&mut client);
        // Tried once, and not again while the record is the same.
        assert_eq!(kept_by(&mut other, 8, || (0..8).for_each(|_| drop(raw.usual(KEY)))), 1);
        // The reply has more than 120,000 bytes. How large a block becomes may differ by a page, on allocators that map them.
        assert!((usage(&mut client) - before).abs() < 4_096);
        raw.assert_true(KEY, "a long reply");
    });
}

#[test]
fn the_rights_of_the_caller_are_asked_for_as_ever() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        serve(&mut client, KEY);
        client.call(&["ACL", "SETUSER", "reader", "on", "nopass", "%R~app", "+deploy.resolve", "+echo"]);
        client.call(&["ACL", "SETUSER", "stranger", "on", "nopass", "~other", "+deploy.resolve", "+echo"]);
        let mut raw = Raw::to(&server, false);
        let plain = raw.plain(KEY);
        raw.ask(&["AUTH", "reader", "x"]);
        assert_eq!(raw.usual_kept(KEY), plain);
        let mut raw = Raw::to(&server, false);
        raw.ask(&["AUTH", "stranger", "x"]);
        for _ in 0..3 {
            assert!(raw.usual(KEY).starts_with(b"-NOPERM"));
        }
    });
}

/// Readers that never stop, while records change, go, and are freed on another thread.
#[test]
fn nothing_is_mixed_up_or_lost_in_a_storm() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &["--lazyfree-lazy-user-del", "yes", "--lazyfree-lazy-user-flush", "yes"]);
        let mut client = server.client();
        let stop = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = [false, true, false]
            .into_iter()
            .map(|is_resp3| {
                let (mut raw, stop) = (Raw::to(&server, is_resp3), stop.clone());
                std::thread::spawn(move || {
                    let mut seen = 0;
                    while !stop.load(Ordering::Relaxed) {
                        for key in ["a", "b"] {
                            let reply = String::from_utf8(raw.usual(key)).expect("UTF-8");
                            // Of this key, in this protocol.
                            assert!(reply.starts_with('*') || reply.starts_with("-NOTFOUND"), "{reply}");
                            assert_eq!(reply.contains("%17"), is_resp3 && reply.contains("address"), "{reply}");
                            let other = if key == "a" { "dep_b_" } else { "dep_a_" };
                            assert!(!reply.contains(other), "{reply}");
                            seen += 1;
                        }
                    }
                    seen
                })
            })
            .collect();
        let rounds = if is_long_run() { 2_000 } else { 150 };
        let mut raw = Raw::to(&server, false);
        for round in 0..rounds {
            for key in ["a", "b"] {
                client.deploy(key, &manifest(&AGENTS, "m1"), &SLOW);
                AGENTS.iter().for_each(|agent| register(&mut client, key, agent, &[]));
                for status in ["critical", "passing"] {
                    raw.usual_kept(key);
                    client.call(&["DEPLOY.CHECK", key, "agent-2-http", status]);
                    raw.assert_true(key, "a change");
                }
                raw.usual_kept(key);
                if round % 3 == 0 {
                    client.call(&["RENAME", key, "elsewhere"]);
                    raw.usual_kept("elsewhere");
                    client.call(&["UNLINK", "elsewhere"]);
                }
            }
            match round % 3 {
                0 => {}
                1 => drop(client.call(&["UNLINK", "a", "b"])),
                _ => drop(client.call(&["FLUSHALL", "ASYNC"])),
            }
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().expect("no reader saw what may not be") > 100);
        }
        assert!(server.is_alive());
        assert_eq!(client.info("deploy", "deploy_internal_errors"), "0");
    });
}
