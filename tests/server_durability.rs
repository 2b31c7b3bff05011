//! Durability: acknowledged commands are kept. A server that writes its append-only file at each command may be
//! killed at any moment, in mid rollout, in mid rewrite, and every command that was answered is there when it starts
//! again, whole.
//!
//! `REDIS_DEPLOY_LONG=1` kills a hundred times instead of ten.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use test_support::prelude::*;
use test_support::rng::Rng;
use test_support::rollout::*;

/// Acknowledgements of one writer: for each key, the reasons of the answered commands, in order.
#[derive(Default)]
struct Acknowledged {
    reasons: BTreeMap<String, Vec<String>>,
    /// Sent and never answered: there or not, but not in halves.
    in_flight: Option<(String, String)>,
}

/// So many commands to one key.
const PER_KEY: u64 = 8;

fn deploy<'w>(key: &'w str, manifest: &'w str, reason: &'w str) -> Vec<&'w str> {
    vec!["DEPLOY.DEPLOY", key, "MANIFEST", manifest, "MIN_HEALTHY_MS", "5", "REASON", reason]
}

/// Deploys, reports, pauses, resumes and fails, with a reason of its own for each, until the server is gone.
fn write_until_the_end(mut client: Client, writer: u64, round: u64, over: &AtomicBool) -> Acknowledged {
    let mut rng = Rng::seeded(round * 1000 + writer);
    let mut told = Acknowledged::default();
    let (mut paused, mut failed) = (false, false);
    for n in 0u64.. {
        // A key's log keeps 100 events, so a key is left before it is full.
        let key = format!("svc-{round}-{writer}-{}", n / PER_KEY);
        let reason = format!("r-{round}-{writer}-{n}");
        let agent = AGENTS[rng.below(3)];
        let manifest = manifest(&AGENTS, &format!("model-{n}"));
        // Nothing that would only repeat what is so already: that is answered, and leaves no trace.
        let words: Vec<&str> = match rng.below(6) {
            _ if n % PER_KEY == 0 => deploy(&key, &manifest, &reason),
            0 => deploy(&key, &manifest, &reason),
            1 if paused => vec!["DEPLOY.RESUME", &key, "REASON", &reason],
            1 if !failed => vec!["DEPLOY.PAUSE", &key, "REASON", &reason],
            2 if !failed => vec!["DEPLOY.FAIL", &key, "REASON", &reason],
            3 => vec!["DEPLOY.REPORT", &key, agent, "unready", "REASON", &reason],
            _ => vec!["DEPLOY.REPORT", &key, agent, "ready", "REASON", &reason],
        };
        match client.try_call(&words) {
            // Known already: there is nothing to keep.
            Ok(redis::Value::Int(0)) => {}
            Ok(_) => {
                match words[0] {
                    "DEPLOY.DEPLOY" => (paused, failed) = (false, false),
                    "DEPLOY.PAUSE" => paused = true,
                    "DEPLOY.RESUME" => paused = false,
                    "DEPLOY.FAIL" => (paused, failed) = (false, true),
                    _ => {}
                }
                told.reasons.entry(key).or_default().push(reason);
            }
            Err(line) if line.starts_with("(no reply)") => {
                told.in_flight = Some((key, reason));
                break;
            }
            Err(line) => assert!(line.starts_with("BADSTATE "), "{words:?}: {line}"),
        }
        if over.load(Ordering::Relaxed) {
            break;
        }
    }
    told
}

#[test]
fn acknowledged_commands_survive_a_kill() {
    let rounds = if is_long_run() { 100 } else { 10 };
    on_each_server(|kind| {
        let seed = unix_ms();
        let mut rng = Rng::seeded(seed);
        let (mut commands, mut unanswered, mut kept) = (0, 0, 0);
        let mut server = None;
        for round in 0..rounds {
            // Both kinds of file, each over several rounds, since a file that was loaded once is appended to.
            let preamble = if (round / 5) % 2 == 0 { "yes" } else { "no" };
            if round % 5 == 0 {
                let args = ["--appendonly", "yes", "--appendfsync", "always", "--aof-use-rdb-preamble", preamble];
                server = Some(Server::start(kind, &args));
            }
            let server = server.as_mut().expect("started");
            let over = Arc::new(AtomicBool::new(false));
            let writers: Vec<_> = (0..3)
                .map(|writer| {
                    let (client, over) = (server.client(), over.clone());
                    std::thread::spawn(move || write_until_the_end(client, writer, round, &over))
                })
                .collect();
            // The moment is drawn; in some rounds it falls into a rewrite of the file.
            let rewrites = rng.below(2) == 0;
            std::thread::sleep(Duration::from_millis(rng.between(20, 219)));
            if rewrites {
                server.client().call(&["BGREWRITEAOF"]);
                std::thread::sleep(Duration::from_micros(rng.between(0, 29_999)));
            }
            server.kill();
            over.store(true, Ordering::Relaxed);
            let told: Vec<Acknowledged> = writers.into_iter().map(|writer| writer.join().expect("a writer")).collect();
            server.restart(End::Kill);
            let mut client = server.client();
            for acknowledged in &told {
                for (key, reasons) in &acknowledged.reasons {
                    let events = client.events_after(key, 0);
                    let has = |reason: &str| events.iter().any(|event| event["reason"] == reason);
                    let known = reasons_of_versions(&mut client, key);
                    for reason in reasons {
                        assert!(
                            has(reason) || known.contains(reason),
                            "round {round} of seed {seed}, preamble {preamble}, rewrite {rewrites}: {key} lacks {reason}: {events:?}"
                        );
                        kept += 1;
                    }
                    let revisions: Vec<u64> = events.iter().map(|event| number(&event["revision"])).collect();
                    assert!(revisions.windows(2).all(|pair| pair[1] == pair[0] + 1), "{key}: {revisions:?}");
                }
                commands += acknowledged.reasons.values().map(Vec::len).sum::<usize>();
                unanswered += usize::from(acknowledged.in_flight.is_some());
            }
            assert_index_matches(&mut client, &[0]);
        }
        eprintln!("   {rounds} kills: {commands} answered commands, {kept} kept, {unanswered} in flight");
        assert!(commands > 0);
    });
}

fn reasons_of_versions(client: &mut Client, key: &str) -> Vec<String> {
    let versions = client.json(&["DEPLOY.HISTORY", key, "JSON"]);
    array(&versions).iter().filter_map(|version| Some(version["reason"].as_str()?.to_string())).collect()
}
