//! Command metadata (COMMAND INFO, DOCS, GETKEYS, ACL CAT, redis-cli's hints) on every server: each documented option
//! is accepted, and each accepted one is documented.

use redis::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use test_support::prelude::*;
use test_support::terminal::Session;

// ---- COMMAND INFO ---------------------------------------------------------------------------------------------------

/// The commands that only the module, a primary or the AOF issues.
const INTERNAL: [&str; 2] = ["deploy.apply", "deploy.tick"];

/// name, arity, flags, key flags (none: no key), tips. Tips and flags are sets.
#[rustfmt::skip]
const COMMANDS: [(&str, i64, &str, &str, &str); 27] = [
    ("deploy.deploy", -2, "write denyoom", "RW access update", ""),
    ("deploy.plan", -2, "readonly", "RO access", ""),
    (
        "deploy.list",
        -1,
        "readonly",
        "",
        "",
    ),
    ("deploy.status", -2, "readonly", "RO access", ""),
    // It says itself whether its first argument is a key.
    ("deploy.show", -1, "readonly movablekeys", "RO access variable_flags", "nondeterministic_output"),
    ("deploy.history", -2, "readonly", "RO access", ""),
    ("deploy.version", -3, "readonly fast", "RO access", ""),
    ("deploy.promote", -2, "write denyoom", "RW access update", ""),
    ("deploy.rollback", -2, "write denyoom", "RW access update", ""),
    ("deploy.pause", -2, "write", "RW access update", ""),
    ("deploy.resume", -2, "write denyoom", "RW access update", ""),
    ("deploy.fail", -2, "write", "RW access update", ""),
    ("deploy.stop", -2, "write", "RW access update", ""),
    ("deploy.drain", -2, "write", "RW access update", ""),
    ("deploy.tag", 4, "write denyoom", "RW access update", ""),
    ("deploy.untag", 3, "write", "RW access delete", ""),
    ("deploy.events", -2, "readonly blocking", "RO access", ""),
    ("deploy.wait", -2, "readonly blocking", "RO access", ""),
    ("deploy.tasks", -2, "readonly", "RO access", ""),
    ("deploy.report", -4, "write", "RW update", ""),
    ("deploy.register", -4, "write denyoom", "RW update", ""),
    ("deploy.check", -4, "write", "RW update", ""),
    ("deploy.deregister", 3, "write", "RW delete", ""),
    ("deploy.resolve", -2, "readonly", "RO access", ""),
    ("deploy.help", -1, "readonly fast loading stale", "", ""),
    ("deploy.apply", -3, "write denyoom", "RW update", ""),
    ("deploy.tick", 2, "write denyoom", "RW update", ""),
];

fn set(words: &str) -> BTreeSet<String> {
    words.split_whitespace().map(str::to_string).collect()
}

fn texts(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Array(all) | Value::Set(all) => all.iter().map(text).collect(),
        other => panic!("not a list: {other:?}"),
    }
}

#[test]
fn command_info_reports_flags_and_key_access() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let known = client.call(&["COMMAND", "LIST", "FILTERBY", "MODULE", "deploy"]);
        let expected: BTreeSet<String> = COMMANDS.iter().map(|(name, ..)| name.to_string()).collect();
        assert_eq!(texts(&known), expected);
        let has_category =
            !client.call(&["ACL", "CAT"]).eq(&Value::Nil) && texts(&client.call(&["ACL", "CAT"])).contains("deploy");
        for (name, arity, flags, key, tips) in COMMANDS {
            let reply = client.call(&["COMMAND", "INFO", name]);
            let info = items(&items(&reply)[0]);
            assert_eq!(text(&info[0]), name);
            assert_eq!(int(&info[1]), arity, "{name}");
            let mut given = texts(&info[2]);
            assert!(given.remove("module"), "{name}: {given:?}");
            assert_eq!(given, set(flags), "{name}");
            let places = if key.is_empty() { [0, 0, 0] } else { [1, 1, 1] };
            assert_eq!([int(&info[3]), int(&info[4]), int(&info[5])], places, "{name}");
            assert_eq!(texts(&info[7]), set(tips), "{name}");
            match (items(&info[8]), key) {
                ([], "") => {}
                ([spec], key) => {
                    let spec = Fields::of(spec);
                    assert_eq!(texts(spec.get("flags")), set(key), "{name}");
                    let search = Fields::of(spec.get("begin_search"));
                    assert_eq!(search.text("type"), "index", "{name}");
                    assert_eq!(Fields::of(search.get("spec")).int("index"), 1, "{name}");
                    let find = Fields::of(spec.get("find_keys"));
                    assert_eq!(find.text("type"), "range", "{name}");
                    let range = Fields::of(find.get("spec"));
                    assert_eq!([range.int("lastkey"), range.int("keystep"), range.int("limit")], [0, 1, 0], "{name}");
                }
                (specs, _) => panic!("{name}: {specs:?}"),
            }
            // Categories go with the flags, where the server lets a module set them.
            if has_category {
                let categories = texts(&info[6]);
                let in_category = |category: &str| categories.contains(&format!("@{category}"));
                let flags = set(flags);
                assert!(in_category("deploy"), "{name}");
                assert_eq!(
                    (in_category("write"), in_category("read")),
                    (flags.contains("write"), flags.contains("readonly")),
                    "{name}"
                );
                assert_eq!(
                    (in_category("fast"), in_category("slow")),
                    (flags.contains("fast"), !flags.contains("fast")),
                    "{name}"
                );
                assert_eq!(in_category("blocking"), flags.contains("blocking"), "{name}");
            }
        }
    });
}

#[test]
fn command_getkeys_finds_the_key() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        for (name, arity, _, key, _) in COMMANDS {
            let words: Vec<String> = (1..arity.abs().max(2)).map(|n| format!("word-{n}")).collect();
            let call = |command: &str| -> Vec<String> {
                ["COMMAND", command, name].iter().map(|word| word.to_string()).chain(words.clone()).collect()
            };
            if key.is_empty() {
                if arity < 0 {
                    let refused = client.refused(&call("GETKEYS"));
                    assert!(refused.contains("no key arguments"), "{name}: {refused}");
                }
                continue;
            }
            assert_eq!(texts(&client.call(&call("GETKEYS"))), set("word-1"), "{name}");
            let reply = client.call(&call("GETKEYSANDFLAGS"));
            let pair = items(&items(&reply)[0]);
            let key = key.replace("variable_flags", "");
            assert_eq!((text(&pair[0]), texts(&pair[1])), ("word-1".to_string(), set(&key)), "{name}");
        }
    });
}

// ---- COMMAND DOCS ---------------------------------------------------------------------------------------------------

/// One argument, as COMMAND DOCS has it.
#[derive(Debug)]
struct Argument {
    name: String,
    kind: String,
    token: Option<String>,
    flags: BTreeSet<String>,
    parts: Vec<Argument>,
}

impl Argument {
    fn of(value: &Value) -> Argument {
        let fields = Fields::of(value);
        let has = |name: &str| fields.names().contains(&name);
        Argument {
            name: fields.text("name"),
            kind: fields.text("type"),
            token: has("token").then(|| fields.text("token")),
            flags: if has("flags") { texts(fields.get("flags")) } else { BTreeSet::new() },
            parts: if has("arguments") { arguments(fields.get("arguments")) } else { Vec::new() },
        }
    }

    fn is(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }

    /// The keywords that may stand where this argument does.
    fn keywords(&self) -> Vec<String> {
        match (&self.token, self.kind.as_str()) {
            (Some(token), _) => vec![token.clone()],
            // A word out of a closed set in its place is no keyword; a choice of keywords with values is one of them.
            (None, "oneof") if self.parts.iter().any(|part| part.kind != "pure-token") => {
                self.parts.iter().flat_map(Argument::keywords).collect()
            }
            (None, _) => Vec::new(),
        }
    }

    /// Every way to write it, with values that `sample` knows.
    fn written(&self, sample: &impl Fn(&str, &str, usize) -> String) -> Vec<Vec<String>> {
        let behind = self.token.clone().filter(|_| self.kind != "pure-token");
        let keyword = behind.as_deref().unwrap_or_default();
        let value = |times: usize| -> Vec<String> { (0..times).map(|n| sample(keyword, &self.name, n)).collect() };
        let ways: Vec<Vec<String>> = match self.kind.as_str() {
            "pure-token" => vec![vec![self.token.clone().expect("a token")]],
            "oneof" => self.parts.iter().flat_map(|part| part.written(sample)).collect(),
            // How many, and as many.
            "block" => (1..=2)
                .map(|times| {
                    let [count, each] = self.parts.as_slice() else { panic!("{self:?}") };
                    assert_eq!((count.kind.as_str(), each.is("multiple")), ("integer", true), "{self:?}");
                    let each = (0..times).map(|n| sample(keyword, &each.name, n));
                    [times.to_string()].into_iter().chain(each).collect()
                })
                .collect(),
            _ => vec![value(1)],
        };
        let keyword: Vec<String> = behind.into_iter().collect();
        ways.into_iter().map(|way| [&keyword[..], &way[..]].concat()).collect()
    }
}

fn arguments(value: &Value) -> Vec<Argument> {
    items(value).iter().map(Argument::of).collect()
}

/// The arguments of a command, None where it has no documentation.
fn docs(client: &mut Client, name: &str) -> (Fields, Vec<Argument>) {
    let reply = Fields::of(&client.call(&["COMMAND", "DOCS", name]));
    let fields = Fields::of(reply.get(name));
    let arguments = match fields.names().contains(&"arguments") {
        true => arguments(fields.get("arguments")),
        false => Vec::new(),
    };
    (fields, arguments)
}

/// The words before the first keyword, each with a value that is taken.
fn positional(arguments: &[Argument], sample: &impl Fn(&str, &str, usize) -> String) -> Vec<String> {
    let is_positional = |a: &&Argument| (!a.is("optional") || a.kind == "key") && a.keywords().is_empty();
    let required = arguments.iter().take_while(is_positional);
    required.flat_map(|argument| argument.written(sample).remove(0)).collect()
}

const BASE: &str = "base";
/// A record whose instances drain.
const DRAINING: &str = "draining";

/// A value for each argument, such that the command is taken at a copy of [`prepared`]'s record.
fn sample(command: &str, keyword: &str, name: &str, n: usize) -> String {
    let value = match (command, keyword, name) {
        (_, "MANIFEST", _) => return manifest(&AGENTS, "huge"),
        (_, "META", _) => r#"{"zone":"a"}"#,
        (_, "BUNDLE", _) => "s3://bucket/bundle",
        (_, "JOB", _) => "dep_base_1",
        (_, "AGENTS", _) => AGENTS[n],
        ("deploy.deploy" | "deploy.plan", "TAG", _) | ("deploy.tag", _, "tag") => "three",
        (_, "TAG", _) | ("deploy.untag", _, "tag") => "one",
        (_, "TAGS", _) => ["blue", "green"][n],
        (_, "REASON", _) => "because",
        (_, "REQUEST", _) => "request-1",
        (_, "IFVERSION", _) => "2",
        (_, "MAX_PARALLEL", _) => "50%",
        // Steps are instead of canaries.
        (_, "CANARY", _) => "0",
        (_, "STEPS", _) => r#"[{"percent":50}]"#,
        (_, "GATES", _) => r#"{"checked":{"verdict":true}}"#,
        (_, "COHORT", _) => "blue",
        (_, "PROGRESS_DEADLINE_MS", _) => "900000",
        (_, option, _) if option.ends_with("_MS") => "20000",
        ("deploy.drain", "ID", _) => "dep_draining_1",
        (_, "ID", _) => "dep_base_2",
        (_, "UNTIL", _) => ["awaiting_promotion", "failed"][n],
        ("deploy.list", "STATUS", _) => ["running", "failed"][n],
        (_, "WIDTH", _) => "100",
        (_, "MATCH", _) => "*",
        (_, "CURSOR", _) => "0",
        (_, "INSTANCE", _) | (_, _, "instance-id") => "i-1",
        (_, "ADDRESS", _) => "10.0.0.9",
        (_, "PORT", _) => "80",
        (_, "SERVICE", _) | (_, _, "service") => "http",
        (_, "SESSION", _) => "call-1",
        (_, "TTL", _) => "60000",
        (_, "VERSION" | "ATTEMPT" | "AFTER" | "COUNT" | "BLOCK" | "TIMEOUT" | "SESSIONS" | "MS", _) | (_, "", "n") => {
            "1"
        }
        ("deploy.drain", "", "key") => DRAINING,
        (_, "", "key") => BASE,
        (_, "", "agent") => "agent-2",
        (_, "", "command") => "status",
        _ => panic!("{command}: what is a good value for {keyword} {name}?"),
    };
    value.to_string()
}

/// Version 1 successful, of version 2 the canary waits for its promotion; an instance of a service. Beside it, a record
/// whose instances drain.
fn prepared(server: &Server) -> Client {
    let mut client = server.client();
    client.deploy(BASE, &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "0", "TAG", "one"]);
    client.carry_out_until(BASE, "successful");
    client.deploy(BASE, &manifest(&AGENTS, "large"), &["MIN_HEALTHY_MS", "0", "CANARY", "1", "TAG", "two"]);
    client.carry_out_until(BASE, "awaiting_promotion");
    let register = ["DEPLOY.REGISTER", BASE, "agent-2", "http", "INSTANCE", "i-1", "ADDRESS", "10.0.0.1", "PORT", "80"];
    client.call(&register);
    client.deploy(DRAINING, &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "0", "DRAIN_MS", "200000"]);
    client.carry_out_until(DRAINING, "successful");
    client.call(&["DEPLOY.STOP", DRAINING]);
    client
}

#[test]
fn command_docs_describe_every_command() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        for (name, _, _, key, _) in COMMANDS {
            let (fields, arguments) = docs(&mut client, name);
            assert!(fields.text("summary").ends_with('.'), "{name}");
            assert!(fields.text("complexity").starts_with("O("), "{name}");
            assert_eq!(fields.text("since"), env!("CARGO_PKG_VERSION"), "{name}");
            assert_eq!(fields.text("group"), "module", "{name}");
            assert_eq!(fields.text("module"), "deploy", "{name}");
            let keys = arguments.iter().filter(|argument| argument.kind == "key").count();
            assert_eq!(keys, usize::from(!key.is_empty()), "{name}");
        }
    });
}

/// Every option that is documented, in each way in which it may be written, is taken in a call that is right otherwise.
#[test]
fn documented_options_are_accepted() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = prepared(&server);
        let mut copies = 0;
        for (name, ..) in COMMANDS.iter().filter(|(name, ..)| !INTERNAL.contains(name)) {
            let (_, arguments) = docs(&mut client, name);
            let sample = |keyword: &str, value: &str, n: usize| sample(name, keyword, value, n);
            let (optional, required): (Vec<_>, Vec<_>) = arguments.iter().partition(|a| a.is("optional"));
            let mut calls: Vec<Vec<String>> = vec![vec![name.to_string()]];
            for argument in &required {
                let ways = argument.written(&sample);
                calls = calls.iter().flat_map(|call| ways.iter().map(|way| [&call[..], &way[..]].concat())).collect();
            }
            // Options go behind the simplest call, each alone.
            let simplest = calls[0].clone();
            for argument in &optional {
                calls.extend(argument.written(&sample).iter().map(|way| [&simplest[..], &way[..]].concat()));
            }
            for mut call in calls {
                if let Some(key) = call.get(1).filter(|key| [BASE, DRAINING].contains(&key.as_str())).cloned() {
                    copies += 1;
                    call[1] = format!("copy-{copies}");
                    client.call(&["COPY", &key, &call[1]]);
                }
                if *name == "deploy.wait" && !call.iter().any(|word| word == "TIMEOUT") {
                    call.extend(["TIMEOUT", "5"].map(str::to_string));
                }
                // A service completes nothing.
                match (client.try_call(&call), call.iter().any(|word| word == "completed")) {
                    (Ok(_), false) => {}
                    (Err(refused), true) if refused.starts_with("INVALID ") || refused.starts_with("BADSTATE ") => {}
                    (outcome, _) => panic!("{call:?}: {outcome:?}"),
                }
            }
        }
        assert!(copies > 100, "{copies} calls at keys");
    });
}

/// Returns all words in capitals of the sources, among which are all keywords of the parsers.
fn words_of_the_sources() -> BTreeSet<String> {
    let mut words: BTreeSet<String> = BTreeSet::new();
    for path in test_support::rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let source = std::fs::read_to_string(path).expect("readable");
        let is_word =
            |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        words.extend(source.split('"').filter(is_word).map(str::to_string));
    }
    // Policy fields are options by their own names.
    words.extend(redis_deploy::engine::policy::POLICY_FIELDS.iter().map(|field| field.name.to_uppercase()));
    assert!(words.contains("MANIFEST") && words.contains("ATTEMPT") && words.contains("AUTO_REVERT"));
    words
}

/// Compares the options that a parser accepts with those that are documented.
#[test]
fn accepted_options_are_documented() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = prepared(&server);
        let mut candidates = words_of_the_sources();
        let all: BTreeMap<&str, Vec<Argument>> =
            COMMANDS.iter().map(|(name, ..)| (*name, docs(&mut client, name).1)).collect();
        let keywords =
            |arguments: &[Argument]| -> BTreeSet<String> { arguments.iter().flat_map(Argument::keywords).collect() };
        candidates.extend(all.values().flat_map(|arguments| keywords(arguments)));
        let before = client.status(BASE);
        // HELP takes the name of a command, whatever it is, and no option.
        for (name, ..) in COMMANDS.iter().filter(|(name, ..)| !INTERNAL.contains(name) && *name != "deploy.help") {
            let sample = |keyword: &str, value: &str, n: usize| sample(name, keyword, value, n);
            let mut first = [vec![name.to_string()], positional(&all[name], &sample)].concat();
            if all[name].iter().any(|argument| argument.is("optional") && ["now", "full"].contains(&&*argument.name)) {
                // A word that needs no value is enough to change something: refused by another option, it is taken as
                // well.
                first.extend(["ID", "of-none"].map(str::to_string));
            }
            let mut taken = BTreeSet::new();
            for word in &candidates {
                // An option that needs a value complains about that, one that needs none is taken.
                let reply = client.try_call(&[&first[..], std::slice::from_ref(word)].concat());
                let unknown = reply.as_ref().is_err_and(|error| {
                    error.contains(&format!("unknown option '{word}'")) || error.contains("wrong number of arguments")
                });
                if !unknown {
                    taken.insert(word.clone());
                }
            }
            assert_eq!(taken, keywords(&all[name]), "{name}");
        }
        assert_eq!(client.status(BASE), before, "asking changed nothing");
    });
}

/// Compares the values of closed sets that an error lists with those that are documented.
#[test]
fn accepted_values_are_documented() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = prepared(&server);
        let mut seen = 0;
        for (name, ..) in COMMANDS.iter().filter(|(name, ..)| !INTERNAL.contains(name)) {
            let (_, arguments) = docs(&mut client, name);
            let choices = arguments
                .iter()
                .enumerate()
                .filter(|(_, a)| a.kind == "oneof" && a.parts.iter().all(|p| p.kind == "pure-token"));
            for (place, choice) in choices {
                let words: BTreeSet<String> = choice.parts.iter().filter_map(|part| part.token.clone()).collect();
                let sample = |keyword: &str, value: &str, n: usize| sample(name, keyword, value, n);
                let before: Vec<String> = arguments[..place]
                    .iter()
                    .filter(|a| !a.is("optional"))
                    .flat_map(|a| a.written(&sample).remove(0))
                    .collect();
                let call = [
                    vec![name.to_string()],
                    before,
                    choice.token.clone().into_iter().collect(),
                    vec!["nonsense".into()],
                ];
                let refused = client.refused(&call.concat());
                let must = refused.split("must be ").nth(1).unwrap_or_else(|| panic!("{refused}"));
                let must = must.trim_start_matches("one of ").split(", not ").next().unwrap_or_default();
                let told: BTreeSet<String> = must.replace(" or ", ", ").split(", ").map(str::to_string).collect();
                let told = if must == "a boolean" { set("true false") } else { told };
                assert_eq!(told, words, "{name} {:?}: {refused}", choice.token);
                seen += 1;
            }
        }
        assert!(seen >= 15, "{seen} choices");
    });
}

// ---- hints ----------------------------------------------------------------------------------------------------------

#[test]
fn redis_cli_shows_syntax_hints() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut session = Session::start(&server);
        session.expect_hint(
            "DEPLOY.DEPLOY ",
            "key MANIFEST json [BUNDLE ref] [JOB job-id] [AGENTS n id [id ...]] [TAG tag]",
        );
        session.expect_hint(
            "deploy.report agent-api ",
            "agent starting|ready|unready|failed|stopped|completed|unsafe|draining|drained",
        );
        session.expect_hint(
            "DEPLOY.ROLLBACK ",
            "key [VERSION n|TAG tag] [ID id] [REASON text] [REQUEST request] [STRATEGY",
        );
        session.expect_hint(
            "DEPLOY.RESOLVE ",
            "key [SESSION id] [VERSION n] [SERVICE name] [TAG tag] [ROLE primary|canary|candidate|draining|standby|any] [ALL] [JSON]",
        );
        session.expect_hint("DEPLOY.SHOW ", "[key] [WIDTH n]");
        session.expect_hint("DEPLOY.DRAIN ", "key VERSION n MS ms|NOW [ID id] [REASON text]");
    });
}
