//! Fuzzing of the argument parser: no arguments end the server or leave it without a reply (rule 3, "Errors"). The
//! parser reads the server's own strings and runs only inside one, which gets random commands that are nearly valid.

use redis_deploy::engine::policy::POLICY_FIELDS;
use redis_deploy::redis::command_table::{user_commands, Command};
use std::collections::BTreeMap;
use test_support::prelude::*;
use test_support::resp::*;
use test_support::rng::Rng;
use test_support::rollout::*;

const KEYS: [&str; 6] = ["agent-api", "a-string", "nothing", "", "\u{7f}", "ключ"];

/// Keywords and values. The options of the policy come from its table.
const WORDS: [&str; 69] = [
    "MANIFEST",
    "BUNDLE",
    "JOB",
    "AGENTS",
    "TAG",
    "REASON",
    "REQUEST",
    "IFVERSION",
    "ID",
    "VERSION",
    "STATUS",
    "MATCH",
    "CURSOR",
    "COUNT",
    "JSON",
    "UNTIL",
    "TIMEOUT",
    "AFTER",
    "BLOCK",
    "ATTEMPT",
    "INSTANCE",
    "ADDRESS",
    "PORT",
    "TTL",
    "TAGS",
    "META",
    "SERVICE",
    "ROLE",
    "ALL",
    "rolling",
    "canary",
    "blue-green",
    "checks",
    "agent_states",
    "true",
    "false",
    "running",
    "successful",
    "passing",
    "critical",
    "warning",
    "ready",
    "starting",
    "unready",
    "failed",
    "stopped",
    "completed",
    "unsafe",
    "primary",
    "any",
    "agent-1",
    "agent-2",
    "http",
    "i-1",
    "*",
    "a*[^b",
    "25%",
    "100%",
    "0",
    "1",
    "2",
    "3",
    "-1",
    "65536",
    "18446744073709551615",
    "18446744073709551616",
    "1e3",
    "dep_agent-api_2",
    "after:",
];

/// Options with values that they take.
const OPTIONS: [&str; 20] = [
    "REASON because",
    "REQUEST r-1",
    "TAG t-1",
    "JOB j-1",
    "BUNDLE s3://b",
    "IFVERSION 1",
    "STRATEGY canary",
    "CANARY 1",
    "MAX_PARALLEL 50%",
    "MIN_HEALTHY_MS 0",
    "AUTO_REVERT true",
    "ID dep_agent-api_2",
    "VERSION 1",
    "JSON",
    "COUNT 5",
    "TIMEOUT 5",
    "AFTER 3",
    "BLOCK 5",
    "ROLE any",
    "ATTEMPT 2",
];

fn word(rng: &mut Rng, manifests: &[String]) -> Vec<u8> {
    let mut word = match rng.below(12) {
        0 => manifests[rng.below(manifests.len())].clone().into_bytes(),
        1 => KEYS[rng.below(KEYS.len())].as_bytes().to_vec(),
        2 => rng.next_u64().to_string().into_bytes(),
        _ => {
            let index = rng.below(WORDS.len() + POLICY_FIELDS.len());
            let option = |index: usize| POLICY_FIELDS[index].name.to_uppercase();
            WORDS.get(index).map_or_else(|| option(index - WORDS.len()), ToString::to_string).into_bytes()
        }
    };
    match rng.below(24) {
        0 if !word.is_empty() => {
            let at = rng.below(word.len());
            word[at] = rng.next_u64() as u8;
        }
        1 => word.truncate(rng.below(word.len() + 1)),
        2 => word.make_ascii_lowercase(),
        3 => word = word.repeat(1 + rng.below(300)),
        4 => word.insert(rng.below(word.len() + 1), b'\0'),
        _ => {}
    }
    word
}

/// A command that is nearly right: one of ours, a key that is mostly there, and what its options take, more or less.
fn nearly_right(rng: &mut Rng, manifests: &[String]) -> Vec<Vec<u8>> {
    let commands: Vec<&Command> = user_commands().collect();
    let name = commands[rng.below(commands.len())].name.to_str().expect("ASCII");
    let mut words = vec![name.as_bytes().to_vec()];
    if rng.below(20) != 0 {
        let key = if rng.below(3) != 0 { KEYS[0] } else { KEYS[rng.below(KEYS.len())] };
        words.push(key.as_bytes().to_vec());
    }
    let required: &[&str] = match name.trim_start_matches("DEPLOY.") {
        "DEPLOY" | "PLAN" => &["MANIFEST"],
        "REPORT" => &["agent-1", "ready"],
        "REGISTER" => &["agent-1", "http", "INSTANCE", "i-1", "ADDRESS", "h", "PORT", "80"],
        "CHECK" => &["i-1", "passing"],
        "VERSION" => &["1"],
        "TAG" => &["1", "t-1"],
        "UNTAG" => &["t-1"],
        "DEREGISTER" => &["i-1"],
        _ => &[],
    };
    if rng.below(8) != 0 {
        for part in required {
            words.push(part.as_bytes().to_vec());
            if *part == "MANIFEST" {
                words.push(manifests[rng.below(manifests.len())].clone().into_bytes());
            }
        }
    }
    for _ in 0..rng.below(4) {
        let option = OPTIONS[rng.below(OPTIONS.len())];
        words.extend(option.split(' ').map(|part| part.as_bytes().to_vec()));
    }
    if rng.below(2) == 0 {
        for _ in 0..rng.below(4) {
            words.push(word(rng, manifests));
        }
    }
    words
}

#[test]
fn arbitrary_arguments_do_not_end_the_server() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &[]);
        let mut client = server.client();
        client.call(&["SET", "a-string", "x"]);
        let manifests = [
            manifest(&AGENTS, "small"),
            manifest(&AGENTS, "large"),
            manifest(&["x"], "small"),
            r#"{"type":"batch","nodes":[{"node_id":"a"}]}"#.to_string(),
            r#"{"nodes":[{"node_id":"a"}],"policies":{"update":{"canary":"50%","max_parallel":-1}}}"#.to_string(),
        ];
        let seed = unix_ms();
        let mut rng = Rng::seeded(seed);
        let mut wire = server.conn();
        let (mut sent, mut codes) = (0, BTreeMap::<String, u64>::new());
        let began = unix_ms();
        for _ in 0..if is_long_run() { 10_000 } else { 1_000 } {
            // In a transaction, where nothing blocks. What is wrong at sight ends it, so each is one of its own.
            let batch: Vec<Vec<Vec<u8>>> = (0..50).map(|_| nearly_right(&mut rng, &manifests)).collect();
            let commands: Vec<Vec<u8>> =
                batch.iter().flat_map(|words| [command(&["MULTI"]), command(words), command(&["EXEC"])]).collect();
            let replies = wire.pipeline(&commands);
            for (words, replies) in batch.iter().zip(replies.chunks(3)) {
                let reply = match &replies[2] {
                    Reply::Array(one) => &one[0],
                    _ => &replies[1],
                };
                let code = match reply {
                    Reply::Error(line) => {
                        assert!(!line.contains("internal"), "seed {seed}: {words:?}: {line}");
                        line.split(' ').next().unwrap_or_default().to_string()
                    }
                    _ => "taken".to_string(),
                };
                *codes.entry(code).or_default() += 1;
                sent += 1;
            }
        }
        eprintln!("   {sent} commands in {} ms, seed {seed}: {codes:?}", unix_ms() - began);
        for code in codes.keys() {
            let known =
                ["taken", "ERR", "WRONGTYPE", "NOTFOUND", "INVALID", "BADSTATE", "UNHEALTHY", "CONFLICT", "LIMIT"];
            assert!(known.contains(&code.as_str()), "seed {seed}: an error of code {code}");
        }
        assert!(codes["taken"] > 1_000, "seed {seed}: nearly right, and not all wrong");
        assert!(server.is_alive());
        assert_eq!(client.info("deploy", "deploy_panics_caught"), "0", "{}", server.log());
        // What was taken is a good record: it can be saved and read back, on a replica too.
        client.call(&["DEPLOY.STOP", KEYS[0]]);
        assert_index_matches(&mut client, &[0]);
        let replica = Server::start(kind, &[]);
        replica.replicate_from(&server);
        let before = dump(&mut client, KEYS[0]);
        assert_eq!(dump(&mut replica.client(), KEYS[0]), before);
        client.call(&["DEBUG", "RELOAD"]);
        assert_eq!(dump(&mut client, KEYS[0]), before);
        client.status(KEYS[0]);
    });
}
