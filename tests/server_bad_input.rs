//! Rejected commands: each gets its code and a text that names the fault, and changes, publishes and replicates
//! nothing. No input ends the server (rule 3, "Errors").
//!
//! Each case is one command in one table. Before and after every one, the record's bytes, its STATUS and its event
//! revision, all other keys, and the replication offset are compared; at the end, the replica and the channels.

use redis_deploy::engine::policy::POLICY_FIELDS;
use serde_json::Value as Json;
use test_support::prelude::*;

const KEY: &str = "agent-api";
const CHANNEL: &str = "deploy:events:agent-api";

/// A command, the code of its refusal, and what its text has to name.
struct Case {
    words: Vec<Vec<u8>>,
    code: &'static str,
    names: &'static str,
}

fn case<A: AsRef<[u8]>>(words: &[A], code: &'static str, names: &'static str) -> Case {
    Case { words: words.iter().map(|word| word.as_ref().to_vec()).collect(), code, names }
}

/// A DEPLOY of a good manifest with bad options.
fn deploy(options: &[&str], code: &'static str, names: &'static str) -> Case {
    let good = manifest(&AGENTS, "huge");
    case(&[&["DEPLOY.DEPLOY", KEY, "MANIFEST", &good], options].concat(), code, names)
}

/// A DEPLOY of a bad manifest.
fn of_manifest(manifest: impl AsRef<[u8]>, code: &'static str, names: &'static str) -> Case {
    case(&[b"DEPLOY.DEPLOY", KEY.as_bytes(), b"MANIFEST", manifest.as_ref()], code, names)
}

/// All that must stay as it is.
#[derive(PartialEq)]
struct Untouched {
    record: Vec<u8>,
    status: Json,
    keys: usize,
    offset: u64,
}

impl Untouched {
    fn see(client: &mut Client) -> Untouched {
        let redis::Value::BulkString(record) = client.call(&["DUMP", KEY]) else { panic!("the record is there") };
        Untouched {
            record,
            status: client.status(KEY),
            keys: int(&client.call(&["DBSIZE"])) as usize,
            offset: client.replication_offset(),
        }
    }
}

/// Version 1 is successful, version 2 paused in mid rollout (so that no timer has anything to do), beside a string.
fn prepare(client: &mut Client) {
    client.deploy(KEY, &manifest(&AGENTS, "small"), &QUICK);
    client.carry_out_until(KEY, "successful");
    client.deploy(KEY, &manifest(&AGENTS, "large"), &SLOW);
    client.report(KEY, "agent-1", "ready");
    client.call(&["DEPLOY.PAUSE", KEY]);
    client.call(&["SET", "a-string", "x"]);
}

fn judge(cases: Vec<Case>) {
    on_each_server(|kind| {
        let mut primary = Server::start(kind, &[]);
        let mut replica = Server::start(kind, &[]);
        let mut client = primary.client();
        prepare(&mut client);
        replica.replicate_from(&primary);
        let published = Subscriber::start(&primary, "*");
        let before = Untouched::see(&mut client);
        let mut wrong = Vec::new();
        for case in &cases {
            let shown: Vec<String> =
                case.words.iter().map(|w| String::from_utf8_lossy(w).chars().take(60).collect()).collect();
            let shown = shown.join(" ");
            match client.try_call(&case.words) {
                Ok(reply) => wrong.push(format!("{shown}\n     not refused: {reply:?}")),
                Err(line) => {
                    let (code, text) = line.split_once(' ').unwrap_or((&line, ""));
                    if code != case.code || !text.to_lowercase().contains(&case.names.to_lowercase()) {
                        wrong.push(format!(
                            "{shown}\n     expected {} … {}\n          got {line}",
                            case.code, case.names
                        ));
                    }
                    if line.len() > 20_000 {
                        wrong.push(format!("{shown}\n     an error text of {} bytes", line.len()));
                    }
                }
            }
            assert!(primary.is_alive(), "the server ended at {shown}");
            if Untouched::see(&mut client) != before {
                wrong.push(format!("{shown}\n     changed something: {}", client.status(KEY)));
                break; // what follows would be compared with a state that is gone
            }
        }
        assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
        let events = published.events_until_now(&mut client, CHANNEL);
        assert!(events.is_empty(), "published: {events:?}");
        replica.catch_up_with(&primary);
        assert!(replica.is_alive());
        assert!(replica.client().status(KEY) == before.status, "the replica is as its primary");
    });
}

const KEYED: [&[&str]; 12] = [
    &["STATUS"],
    &["HISTORY"],
    &["VERSION", "1"],
    &["TASKS"],
    &["EVENTS"],
    &["PROMOTE"],
    &["PAUSE"],
    &["RESUME"],
    &["FAIL"],
    &["ROLLBACK"],
    &["REPORT", "agent-1", "ready"],
    &["DEPLOY", "MANIFEST", r#"{"type":"service","nodes":[{"node_id":"x"}]}"#],
];

/// The command of a `KEYED` row about a key.
fn about<'a>(row: &[&'a str], key: &'a [u8], name: &'a mut String) -> Vec<&'a [u8]> {
    *name = format!("DEPLOY.{}", row[0]);
    [&[name.as_bytes(), key], &row[1..].iter().map(|word| word.as_bytes()).collect::<Vec<_>>()[..]].concat()
}

#[test]
fn missing_and_mistyped_keys_are_rejected() {
    let mut cases = Vec::new();
    for row in KEYED {
        let mut name = String::new();
        cases.push(case(&about(row, b"a-string", &mut name), "WRONGTYPE", ""));
        if row[0] != "DEPLOY" {
            for key in [&b"nobody"[..], b"", b"nul\0nul", b"\xff\xfe", b"line\r\nline"] {
                cases.push(case(&about(row, key, &mut name), "NOTFOUND", ""));
            }
        }
    }
    judge(cases);
}

#[test]
fn invalid_deployment_keys_are_rejected() {
    let good = manifest(&AGENTS, "huge");
    let of_key = |key: &[u8]| case(&[b"DEPLOY.DEPLOY", key, b"MANIFEST", good.as_bytes()], "ERR", "key");
    judge(vec![of_key(b"\xff\xfe"), of_key(b"\xc3\x28"), of_key(b"")]);
}

#[test]
fn wrong_arities_are_rejected() {
    let mut cases = Vec::new();
    for row in KEYED {
        cases.push(case(&[format!("DEPLOY.{}", row[0])], "ERR", "wrong number of arguments"));
    }
    for words in [
        &["DEPLOY.DEPLOY", KEY][..],
        &["DEPLOY.VERSION", KEY],
        &["DEPLOY.REPORT", KEY],
        &["DEPLOY.REPORT", KEY, "agent-1"],
    ] {
        cases.push(case(words, "ERR", ""));
    }
    cases.push(case(&["DEPLOY.DEPLOY", KEY, "MANIFEST"], "ERR", ""));
    cases.push(case(&["DEPLOY.DEPLOY", KEY, "TAG", "t", "REASON", "r"], "ERR", "MANIFEST"));
    for option in ["BUNDLE", "JOB", "AGENTS", "TAG", "REASON", "REQUEST", "IFVERSION", "STRATEGY", "MIN_HEALTHY_MS"] {
        cases.push(deploy(&[option], "ERR", option));
    }
    for command in ["PROMOTE", "PAUSE", "RESUME", "FAIL", "ROLLBACK"] {
        for option in ["ID", "REASON"] {
            cases.push(case(&[&format!("DEPLOY.{command}"), KEY, option], "ERR", option));
        }
    }
    for option in ["VERSION", "TAG", "REQUEST"] {
        cases.push(case(&["DEPLOY.ROLLBACK", KEY, option], "ERR", option));
    }
    for option in ["VERSION", "JOB", "ATTEMPT", "REASON"] {
        cases.push(case(&["DEPLOY.REPORT", KEY, "agent-1", "ready", option], "ERR", option));
    }
    for option in ["STATUS", "MATCH", "CURSOR", "COUNT"] {
        cases.push(case(&["DEPLOY.LIST", option], "ERR", option));
    }
    for option in ["AFTER", "COUNT"] {
        cases.push(case(&["DEPLOY.EVENTS", KEY, option], "ERR", option));
    }
    judge(cases);
}

#[test]
fn unknown_and_repeated_options_are_rejected() {
    let mut cases = vec![
        deploy(&["BOGUS", "1"], "ERR", "BOGUS"),
        deploy(&["REASON", "a", "reason", "b"], "ERR", "option 'reason' is given twice"),
        deploy(&["MAX_PARALLEL", "1", "max_parallel", "1"], "ERR", "'max_parallel'"),
        deploy(&["MANIFEST", "{}"], "ERR", "MANIFEST"),
        case(&["DEPLOY.ROLLBACK", KEY, "VERSION", "1", "TAG", "x"], "ERR", "TAG"),
        case(&["DEPLOY.ROLLBACK", KEY, "VERSION", "1", "VERSION", "1"], "ERR", "VERSION"),
        case(&["DEPLOY.REPORT", KEY, "agent-1", "ready", "VERSION", "2", "version", "2"], "ERR", "'version'"),
        case(&["DEPLOY.REPORT", KEY, "agent-1", "ready", "BOGUS", "2"], "ERR", "BOGUS"),
        case(&["DEPLOY.LIST", "BOGUS"], "ERR", "BOGUS"),
        case(&["DEPLOY.LIST", "COUNT", "1", "COUNT", "1"], "ERR", "COUNT"),
        case(&["DEPLOY.EVENTS", KEY, "BOGUS", "1"], "ERR", "BOGUS"),
        case(&["DEPLOY.EVENTS", KEY, "AFTER", "1", "AFTER", "1"], "ERR", "AFTER"),
        case(&["DEPLOY.STATUS", KEY, "JSON", "JSON"], "ERR", "JSON"),
        case(&["DEPLOY.VERSION", KEY, "1", "BOGUS"], "ERR", "BOGUS"),
    ];
    for command in ["STATUS", "HISTORY", "TASKS", "PROMOTE", "PAUSE", "RESUME", "FAIL", "ROLLBACK"] {
        cases.push(case(&[&format!("DEPLOY.{command}"), KEY, "BOGUS"], "ERR", "BOGUS"));
    }
    for command in ["PROMOTE", "PAUSE", "RESUME", "FAIL", "ROLLBACK"] {
        cases.push(case(&[&format!("DEPLOY.{command}"), KEY, "REASON", "a", "REASON", "b"], "ERR", "REASON"));
    }
    // A word is repeated as it was typed.
    for (command, value) in [("PAUSE", "words"), ("FAIL", "Wörter"), ("STATUS", "json2"), ("ROLLBACK", "strateGY2")] {
        let words = [&format!("DEPLOY.{command}"), KEY, value];
        cases.push(case(&words, "ERR", leaked(format!("unknown option '{value}'"))));
    }
    cases.push(case(&["DEPLOY.LIST", "Status", "Sideways"], "ERR", "'Sideways'"));
    cases.push(case(&["DEPLOY.WAIT", KEY, "until", "1", "Sideways"], "ERR", "'Sideways'"));
    cases.push(case(&["DEPLOY.RESOLVE", KEY, "role", "Everyone"], "ERR", "'Everyone'"));
    cases.push(case(&["DEPLOY.REPORT", KEY, "agent-1", "Sleepy"], "ERR", "'Sleepy'"));
    cases.push(case(&["DEPLOY.CHECK", KEY, "i-1", "Fine"], "ERR", "'Fine'"));
    cases.push(case(&["DEPLOY.HELP", "Bogus"], "ERR", "unknown command 'Bogus'"));
    cases.push(deploy(&["strategy", "Sideways"], "ERR", "'Sideways'"));
    // A name of bytes is named as well as it can be.
    cases.push(case(&[b"DEPLOY.PAUSE".as_slice(), KEY.as_bytes(), b"\xff\xfe\0"], "ERR", ""));
    cases.push(case(&[b"DEPLOY.PAUSE".as_slice(), KEY.as_bytes(), b"BO\0GUS\r\n+OK"], "ERR", ""));
    cases.push(case(&[b"DEPLOY.PAUSE".as_slice(), KEY.as_bytes(), &[b'x'; 1 << 20]], "ERR", ""));
    judge(cases);
}

/// The policy fields that take a duration, or a count or percentage.
fn numeric_policy_fields() -> impl Iterator<Item = &'static str> {
    POLICY_FIELDS.iter().filter(|field| ["ms", "count-or-percentage"].contains(&field.syntax)).map(|field| field.name)
}

fn leaked(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

#[test]
fn invalid_numbers_and_values_are_rejected() {
    let mut cases = Vec::new();
    let no_numbers = ["-1", "99999999999999999999999999", "1.5", "", "x", "0x10", "1e3", " 1", "١"];
    for option in numeric_policy_fields().map(|name| leaked(name.to_uppercase())).chain(["IFVERSION"]) {
        for value in no_numbers {
            cases.push(deploy(&[option, value], "ERR", option));
        }
    }
    for value in ["-5%", "%", "1.5%", "x%"] {
        cases.push(deploy(&["MAX_PARALLEL", value], "ERR", "MAX_PARALLEL"));
        cases.push(deploy(&["CANARY", value], "ERR", "CANARY"));
    }
    cases.push(deploy(&["HEALTHY_DEADLINE_MS", "0"], "ERR", "HEALTHY_DEADLINE_MS"));
    for (option, value) in
        [("STRATEGY", "sideways"), ("HEALTH_CHECK", "maybe"), ("AUTO_PROMOTE", "perhaps"), ("AUTO_REVERT", "2")]
    {
        cases.push(deploy(&[option, value], "ERR", option));
    }
    for value in ["-1", "99999999999999999999999999", "x", "2000000000"] {
        cases.push(deploy(&["AGENTS", value, "a"], "ERR", "AGENTS"));
    }
    for value in ["0", "-1", "1.5", "x", "99999999999999999999999999", ""] {
        cases.push(case(&["DEPLOY.VERSION", KEY, value], "ERR", ""));
        cases.push(case(&["DEPLOY.ROLLBACK", KEY, "VERSION", value], "ERR", "VERSION"));
        cases.push(case(&["DEPLOY.REPORT", KEY, "agent-1", "ready", "VERSION", value], "ERR", "VERSION"));
        cases.push(case(&["DEPLOY.EVENTS", KEY, "COUNT", value], "ERR", "COUNT"));
        cases.push(case(&["DEPLOY.LIST", "COUNT", value], "ERR", "COUNT"));
    }
    for value in ["-1", "1.5", "x", "99999999999999999999999999"] {
        cases.push(case(&["DEPLOY.EVENTS", KEY, "AFTER", value], "ERR", "AFTER"));
    }
    for value in ["0", "-1", "1.5", "x", "4294967296", "99999999999999999999999999"] {
        cases.push(case(&["DEPLOY.REPORT", KEY, "agent-1", "ready", "ATTEMPT", value], "ERR", "ATTEMPT"));
    }
    cases.push(case(&["DEPLOY.LIST", "STATUS", "sideways"], "ERR", "STATUS"));
    cases.push(case(&["DEPLOY.REPORT", KEY, "agent-1", "sleeping"], "ERR", "state"));
    cases.push(case(&[b"DEPLOY.REPORT".as_slice(), KEY.as_bytes(), b"agent-1", b"rea\0dy"], "ERR", ""));
    judge(cases);
}

#[test]
fn unknown_versions_tags_agents_and_services_are_rejected() {
    let cases = vec![
        case(&["DEPLOY.VERSION", KEY, "99"], "NOTFOUND", "99"),
        case(&["DEPLOY.ROLLBACK", KEY, "VERSION", "99"], "NOTFOUND", "99"),
        case(&["DEPLOY.ROLLBACK", KEY, "TAG", "nope"], "NOTFOUND", "nope"),
        case(&["DEPLOY.ROLLBACK", KEY, "VERSION", "2"], "BADSTATE", "2"),
        case(&["DEPLOY.REPORT", KEY, "nobody", "ready"], "NOTFOUND", "nobody"),
        case(&["DEPLOY.REPORT", KEY, "", "ready"], "ERR", "agent"),
        case(&["DEPLOY.REPORT", KEY, "agent-1", "ready", "VERSION", "99"], "NOTFOUND", "99"),
        case(&[b"DEPLOY.REPORT".as_slice(), KEY.as_bytes(), b"agent-1\0", b"ready"], "NOTFOUND", ""),
        case(&["DEPLOY.PAUSE", KEY, "ID", "dep_agent-api_1"], "CONFLICT", "dep_agent-api_1"),
        case(&["DEPLOY.FAIL", KEY, "ID", ""], "ERR", "ID"),
        case(&["DEPLOY.PROMOTE", KEY], "BADSTATE", "dep_agent-api_2 is paused"),
        deploy(&["IFVERSION", "1"], "CONFLICT", "2"),
        deploy(&["IFVERSION", "0"], "CONFLICT", "2"),
    ];
    judge(cases);
}

#[test]
fn invalid_manifests_and_policies_are_rejected() {
    let in_policy =
        |text: &str| format!(r#"{{"type":"service","nodes":[{{"node_id":"a"}}],"policies":{{"update":{text}}}}}"#);
    let field = |name: &str, value: &str| in_policy(&format!(r#"{{"{name}":{value}}}"#));
    let deep =
        |depth: usize| format!(r#"{{"nodes":[{{"node_id":"a"}}],"deep":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let padding = "x".repeat(2 << 20);
    let mut cases = vec![
        of_manifest("", "INVALID", ""),
        of_manifest("{", "INVALID", ""),
        of_manifest("[]", "INVALID", "object"),
        of_manifest("null", "INVALID", "object"),
        of_manifest("5", "INVALID", "object"),
        of_manifest("{} x", "INVALID", ""),
        of_manifest("{}", "INVALID", "node"),
        of_manifest(r#"{"nodes":[]}"#, "INVALID", "node"),
        of_manifest(r#"{"nodes":5}"#, "INVALID", "nodes"),
        of_manifest(r#"{"nodes":[5]}"#, "INVALID", "nodes"),
        of_manifest(r#"{"nodes":[{}]}"#, "INVALID", "node_id"),
        of_manifest(r#"{"nodes":[{"node_id":7}]}"#, "INVALID", "node_id"),
        of_manifest(r#"{"nodes":[{"node_id":"twice"},{"node_id":"twice"}]}"#, "INVALID", "twice"),
        of_manifest(r#"{"nodes":[{"node_id":"twice"}],"agents":{"nodes":[{"node_id":"twice"}]}}"#, "INVALID", "twice"),
        of_manifest(r#"{"nodes":[{"node_id":"a"}],"edges":{}}"#, "INVALID", "edges"),
        of_manifest(r#"{"nodes":[{"node_id":"a"}],"registry":[]}"#, "INVALID", "registry"),
        of_manifest(b"{\"nodes\":[{\"node_id\":\"\xff\"}]}", "INVALID", ""),
        of_manifest(b"{\"nodes\":[{\"node_id\":\"a\0b\"}]}", "INVALID", ""),
        of_manifest(b"\0", "INVALID", ""),
        of_manifest(r#"{"nodes":[{"node_id":"a\u0000b"}]}"#, "INVALID", "node_id"),
        of_manifest(r#"{"nodes":[{"node_id":""}]}"#, "INVALID", "node_id"),
        of_manifest(deep(1_000), "INVALID", ""),
        of_manifest(deep(400_000), "INVALID", ""),
        of_manifest("[".repeat(1_000_000), "INVALID", ""),
        of_manifest(r#"{"a":"#.repeat(200_000), "INVALID", ""),
        of_manifest(format!(r#"{{"nodes":[{{"node_id":"a"}}],"padding":"{padding}"}}"#), "LIMIT", "MANIFEST"),
        of_manifest(padding, "LIMIT", "MANIFEST"),
        // All faults at once, each with its path.
        of_manifest(
            field("max_parallel", "-1"),
            "INVALID",
            "policies.update.max_parallel must be a non-negative integer or a percentage",
        ),
        of_manifest(
            in_policy(r#"{"max_parallel":-1,"canary":null,"auto_revert":"yes"}"#),
            "INVALID",
            "policies.update.max_parallel",
        ),
        of_manifest(
            in_policy(r#"{"max_parallel":-1,"canary":null,"auto_revert":"yes"}"#),
            "INVALID",
            "policies.update.canary",
        ),
        of_manifest(
            in_policy(r#"{"max_parallel":-1,"canary":null,"auto_revert":"yes"}"#),
            "INVALID",
            "policies.update.auto_revert",
        ),
        of_manifest(in_policy("5"), "INVALID", "policies.update"),
        of_manifest(in_policy(r#"{"min_healthy_ms":5000,"healthy_deadline_ms":4000}"#), "INVALID", "min_healthy_ms"),
        of_manifest(
            in_policy(r#"{"progress_deadline_ms":1,"healthy_deadline_ms":20000}"#),
            "INVALID",
            "progress_deadline_ms",
        ),
        of_manifest(in_policy(r#"{"strategy":"canary","auto_promote":true}"#), "INVALID", "canary"),
        deploy(&["MIN_HEALTHY_MS", "5000", "HEALTHY_DEADLINE_MS", "4000"], "INVALID", "min_healthy_ms"),
        deploy(&["AGENTS", "2", "agent-1", "agent-1"], "INVALID", "agent-1"),
        deploy(&["AGENTS", "1", "stranger"], "INVALID", "stranger"),
    ];
    for name in numeric_policy_fields() {
        let path = leaked(format!("policies.update.{name}"));
        for value in ["null", "-1", "1.5", "\"7\"", "[]", "{}", "true", "1e400", "99999999999999999999999999"] {
            // A number that JSON can write and no number type can hold is a fault of the text, not of the field.
            let names = if value == "1e400" { "" } else { path };
            cases.push(of_manifest(field(name, value), "INVALID", names));
        }
    }
    for (name, value) in [
        ("strategy", "\"sideways\""),
        ("strategy", "1"),
        ("health_check", "\"x\""),
        ("auto_promote", "1"),
        ("auto_revert", "\"true\""),
    ] {
        cases.push(of_manifest(field(name, value), "INVALID", name));
    }
    judge(cases);
}

/// Not errors, but what a parser might trip over: they are taken as they are, and the server goes on.
#[test]
fn unusual_valid_input_is_accepted() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    let text = manifest(&AGENTS, "small");
    for key in ["nul\0nul", "line\r\nline", "ünïcödé \u{1F680}", " ", "{tag}x", "a:b/c"] {
        client.deploy(key, &text, &["REASON", "nul \0, line \r\n, \u{1F680}"]);
        let record = client.status(key);
        assert_eq!(record["deployment_key"], key);
        assert_eq!(record["reason"], "nul \0, line \r\n, \u{1F680}");
        let id = string(&record["deployment_id"]);
        assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)), "{id}");
        client.carry_out_tasks(key);
        assert_eq!(client.events_after(key, 0)[0]["key"], key);
    }
}
