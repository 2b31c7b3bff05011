//! Access control: the server's ACL applies to the commands by name, by category where there is one, and by key, also
//! for reading alone. A rejected user changes nothing.
//!
//! The users are those of the sample configuration (`packaging/redis-deploy.conf`), and some that show single rights.

use redis_deploy::redis::command_table::{user_commands, Command};
use serde_json::Value as Json;
use std::collections::BTreeSet;
use test_support::prelude::*;

const KEY: &str = "agent-api";
const SAMPLE: &str = include_str!("../packaging/redis-deploy.conf");

/// A user of the sample configuration: its rules, and a password, which the sample leaves to the operator.
fn sample_user(name: &str) -> Vec<String> {
    let line = SAMPLE.lines().find(|line| line.starts_with(&format!("user {name} "))).expect("a user of the sample");
    let rules = line.split(' ').skip(1).map(str::to_string);
    rules.chain([format!(">change-me-{name}")]).collect()
}

fn log_in(server: &Server, name: &str, password: &str) -> Client {
    let mut client = server.client();
    client.call(&["AUTH", name, password]);
    client
}

fn make_users(client: &mut Client) {
    for name in ["operator", "coordinator", "caller", "reader", "monitoring"] {
        client.call(&[&["ACL", "SETUSER"].map(str::to_string)[..], &sample_user(name)].concat());
    }
    for (name, rights) in [
        ("promoter", "~* +deploy.status +deploy.promote"),
        ("rescuer", "~* +deploy.status +deploy.rollback +deploy.fail"),
        ("elsewhere", "~other-* +@all"),
        ("reads-keys", "%R~* +@all"),
    ] {
        let rules = format!("{name} on >change-me-{name} resetchannels -@all {rights}");
        client.call(&[&["ACL", "SETUSER"][..], &rules.split(' ').collect::<Vec<_>>()].concat());
    }
}

/// The commands that users may call, by their names without the prefix.
fn commands() -> impl Iterator<Item = (&'static str, &'static Command)> {
    user_commands().map(|command| (command.name.to_str().expect("ASCII").trim_start_matches("DEPLOY."), command))
}

/// Every command, called well: at its key, with the arguments that it requires.
fn calls() -> Vec<(&'static str, Vec<String>)> {
    let manifest = manifest(&AGENTS, "other");
    let call = |(name, command): (&'static str, &Command)| {
        let key = if command.syntax.starts_with("key") || command.syntax.starts_with("[key]") { KEY } else { "" };
        let arguments = match name {
            "DEPLOY" | "PLAN" => "MANIFEST MANIFEST-TEXT",
            "VERSION" => "1",
            "TAG" => "1 one",
            "UNTAG" => "first",
            "DRAIN" => "VERSION 1 NOW",
            "WAIT" => "UNTIL 1 awaiting_promotion",
            "REPORT" => "agent-1 unready",
            "REGISTER" => "agent-1 web INSTANCE i-2 ADDRESS h PORT 1",
            "CHECK" => "i-1 critical",
            "DEREGISTER" => "i-1",
            _ => "",
        };
        let text = format!("DEPLOY.{name} {key} {arguments}");
        (name, text.split_whitespace().map(|word| word.replace("MANIFEST-TEXT", &manifest)).collect())
    };
    commands().map(call).collect()
}

/// The commands that change nothing.
fn reads() -> String {
    let reads = commands().filter(|(_, command)| command.flags.to_string_lossy().starts_with("readonly"));
    reads.map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

const OPERATES: &str = "DEPLOY PROMOTE ROLLBACK PAUSE RESUME FAIL STOP DRAIN TAG UNTAG";

/// The commands of each user.
fn allowed(user: &str) -> String {
    match user {
        "operator" => format!("{} {OPERATES}", reads()),
        "coordinator" => "LIST STATUS VERSION EVENTS TASKS RESOLVE REPORT REGISTER CHECK DEREGISTER".into(),
        "caller" => "RESOLVE".into(),
        "reader" | "reads-keys" => reads(),
        "monitoring" => String::new(),
        "promoter" => "STATUS PROMOTE".into(),
        "rescuer" => "STATUS ROLLBACK FAIL".into(),
        // It has no key, and one that does not show is no secret.
        "elsewhere" => "LIST HELP".into(),
        other => panic!("an unknown user {other}"),
    }
}

const USERS: [&str; 9] =
    ["operator", "coordinator", "caller", "reader", "monitoring", "promoter", "rescuer", "elsewhere", "reads-keys"];

/// A record at which every command has something to do: a canary that awaits its promotion, a tag, a service.
fn prepare(client: &mut Client) {
    client.call(&["DEL", KEY]);
    client.deploy(KEY, &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "0", "TAG", "first"]);
    client.carry_out_until(KEY, "successful");
    client.deploy(KEY, &manifest(&AGENTS, "large"), &["MIN_HEALTHY_MS", "0", "CANARY", "1"]);
    client.call(&["DEPLOY.REGISTER", KEY, "agent-2", "web", "INSTANCE", "i-1", "ADDRESS", "h", "PORT", "1"]);
    client.carry_out_until(KEY, "awaiting_promotion");
}

#[test]
fn acl_users_have_exactly_their_rights() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut root = server.client();
        make_users(&mut root);
        prepare(&mut root);
        let published = Subscriber::start(&server, "*");
        for user in USERS {
            let allowed: BTreeSet<String> = allowed(user).split(' ').map(str::to_string).collect();
            for (name, words) in calls() {
                let mut client = log_in(&server, user, &format!("change-me-{user}"));
                let before =
                    (root.status(KEY), root.call(&["DUMP", KEY]), root.info("replication", "master_repl_offset"));
                match (client.try_call(&words), allowed.contains(name)) {
                    (Ok(_), true) => {}
                    // One that is allowed may still be refused by the state; not by the server.
                    (Err(error), true) => assert!(!error.starts_with("NOPERM"), "{user} {name}: {error}"),
                    (Ok(reply), false) => panic!("{user} may {name}: {reply:?}"),
                    (Err(error), false) => {
                        assert!(error.starts_with("NOPERM"), "{user} {name}: {error}");
                        let after = (
                            root.status(KEY),
                            root.call(&["DUMP", KEY]),
                            root.info("replication", "master_repl_offset"),
                        );
                        assert_eq!(after, before, "{user} was refused {name}, and something has happened");
                    }
                }
                if root.status(KEY)["revision"] != before.0["revision"] {
                    prepare(&mut root);
                }
            }
        }
        let events = published.events_until_now(&mut root, "deploy:events:marks");
        let by: BTreeSet<&str> = events.iter().filter_map(|event| event["by"].as_str()).collect();
        assert_eq!(
            by,
            BTreeSet::from(["auto", "default", "operator", "promoter", "rescuer"]),
            "who has done something"
        );
    });
}

/// A command that is new is to be given to somebody in the sample, or to be left out knowingly, here.
#[test]
fn sample_acl_covers_every_command() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    let commands = client.call(&["COMMAND", "LIST", "FILTERBY", "MODULE", "deploy"]);
    let given: BTreeSet<&str> = SAMPLE.split_whitespace().filter_map(|word| word.strip_prefix("+deploy.")).collect();
    for command in items(&commands).iter().map(text) {
        let name = command.strip_prefix("deploy.").expect("the module's prefix");
        assert_eq!(
            given.contains(name),
            !["apply", "tick"].contains(&name),
            "{command} in packaging/redis-deploy.conf"
        );
    }
}

#[test]
fn list_omits_keys_without_read_permission() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut root = server.client();
        for key in ["agent-a", "agent-b", "other-a"] {
            root.deploy(key, &manifest(&AGENTS, "small"), &SLOW);
        }
        for (rules, listed) in [
            ("~agent-*", &["agent-a", "agent-b"][..]),
            ("%R~other-*", &["other-a"]),
            ("%W~agent-* %R~agent-b", &["agent-b"]),
            ("%W~*", &[]),
            ("resetkeys", &[]),
            ("~*", &["agent-a", "agent-b", "other-a"]),
        ] {
            let rules = format!("somebody reset on >p +deploy.list {rules}");
            root.call(&[&["ACL", "SETUSER"][..], &rules.split(' ').collect::<Vec<_>>()].concat());
            let mut client = log_in(&server, "somebody", "p");
            let page = client.call(&["DEPLOY.LIST", "COUNT", "2"]);
            let mut keys: Vec<String> =
                items(&items(&page)[1]).iter().map(|entry| Fields::of(entry).text("deployment_key")).collect();
            let cursor = text(&items(&page)[0]);
            if cursor != "0" {
                let page = client.call(&["DEPLOY.LIST", "CURSOR", &cursor]);
                keys.extend(items(&items(&page)[1]).iter().map(|entry| Fields::of(entry).text("deployment_key")));
            }
            assert_eq!(keys, listed, "{rules}");
        }
    });
}

/// `@deploy` where a module may add a category (Redis 7.4, Valkey 8.1), `@read` and `@write` since 7.2; Redis 7.0 has
/// neither for modules, and gives their commands by name alone.
#[test]
fn acl_categories_exist_where_supported() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut root = server.client();
        let has_categories = kind != ServerKind::Redis70;
        let ours = |root: &mut Client, category: &str| -> BTreeSet<String> {
            match root.try_call(&["ACL", "CAT", category]) {
                Ok(commands) => items(&commands)
                    .iter()
                    .map(|c| text(c).to_lowercase())
                    .filter(|c| c.starts_with("deploy."))
                    .collect(),
                Err(_) => BTreeSet::new(),
            }
        };
        let (all, read, write, waits) =
            (ours(&mut root, "deploy"), ours(&mut root, "read"), ours(&mut root, "write"), ours(&mut root, "blocking"));
        // Valkey 8.0 has the categories and grants by them, and leaves the commands of modules out of their lists.
        if !has_categories || kind == ServerKind::Valkey80 {
            assert!(all.is_empty() && read.is_empty() && write.is_empty() && waits.is_empty());
        } else {
            let commands = root.call(&["COMMAND", "LIST", "FILTERBY", "MODULE", "deploy"]);
            assert_eq!(all, items(&commands).iter().map(|c| text(c).to_lowercase()).collect());
            assert!(read.is_disjoint(&write));
            for name in reads().split(' ') {
                assert!(read.contains(&format!("deploy.{}", name.to_lowercase())), "{name}");
            }
            for name in format!("{OPERATES} REPORT REGISTER CHECK DEREGISTER APPLY").split(' ') {
                assert!(write.contains(&format!("deploy.{}", name.to_lowercase())), "{name}");
            }
            assert_eq!(waits, BTreeSet::from(["deploy.events".into(), "deploy.wait".into()]));
        }
        if !has_categories {
            return;
        }

        prepare(&mut root);
        root.call(&["ACL", "SETUSER", "looker", "on", ">p", "%R~*", "+@read"]);
        root.call(&["ACL", "SETUSER", "doer", "on", ">p", "~*", "+@deploy"]);
        let mut looker = log_in(&server, "looker", "p");
        looker.call(&["DEPLOY.STATUS", KEY]);
        assert!(looker.refused(&["DEPLOY.PAUSE", KEY]).starts_with("NOPERM"));
        let mut doer = log_in(&server, "doer", "p");
        doer.call(&["DEPLOY.PAUSE", KEY]);
        assert!(doer.refused(&["GET", "x"]).starts_with("NOPERM"));
    });
}

/// The internal command may be denied to everybody: neither the timer nor a replica comes as a user.
#[test]
fn internal_command_can_be_denied_to_all_users() {
    on_each_server(|kind| {
        let (server, replica) = (Server::start(kind, &[]), Server::start(kind, &[]));
        replica.replicate_from(&server);
        let mut client = server.client();
        client.call(&["ACL", "SETUSER", "default", "-deploy.apply", "-deploy.tick"]);
        replica.client().call(&["ACL", "SETUSER", "default", "-deploy.apply", "-deploy.tick"]);
        assert!(client.refused(&["DEPLOY.APPLY", KEY, "x"]).starts_with("NOPERM"));
        client.deploy(KEY, &manifest(&AGENTS, "small"), &QUICK);
        client.carry_out_until(KEY, "successful");
        replica.assert_equal_to(&server);
    });
}

/// Checks the ACL user, time and reason of an action: on the record, in the history, and in the event.
#[test]
fn operator_actions_record_user_time_and_reason() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut root = server.client();
        root.call(&["ACL", "SETUSER", "ada", "on", ">p", "~*", "+@all"]);
        let mut ada = log_in(&server, "ada", "p");
        let published = Subscriber::start(&server, "deploy:events:*");
        let canary = [&QUICK[..], &["CANARY", "1"]].concat();
        let mut acts = |key: &str, words: &[&str], kind: &str| {
            let before = unix_ms();
            let revision =
                root.try_call(&["DEPLOY.STATUS", key]).map_or(0, |status| Fields::of(&status).int("revision"));
            let why = format!("because of {kind}");
            let takes_reason = !["DEPLOY.TAG", "DEPLOY.UNTAG"].contains(&words[0]);
            let reason = ["REASON", why.as_str()];
            ada.call(&[words, if takes_reason { &reason } else { &[] }].concat());
            let events = root.events_after(key, revision as u64);
            let event = events.iter().find(|event| event["type"] == kind);
            let event = event.unwrap_or_else(|| panic!("{words:?} leaves {kind} in {events:?}")).clone();
            assert_eq!(event["by"], "ada", "{event}");
            assert_eq!(event["reason"], if takes_reason { why.clone().into() } else { Json::Null }, "{event}");
            assert!((before - 1..=unix_ms()).contains(&number(&event["at"])), "{event}");
            published.wait_for_event("the same event", |heard| *heard == event);
            let record = root.status(key);
            if ["deployment_started", "rollback_started"].contains(&kind) {
                assert_eq!((&record["by"], &record["reason"]), (&"ada".into(), &why.clone().into()));
                let newest = &root.json(&["DEPLOY.HISTORY", key, "JSON"])[0];
                assert_eq!((&newest["by"], &newest["reason"]), (&"ada".into(), &why.into()));
                assert_eq!(newest["submitted_at"], event["at"]);
            }
            // The record tells it by its last events as well.
            let shown = array(&record["events"])
                .iter()
                .any(|shown| *shown == event || shown.as_str() == Some(&event.to_string()));
            assert!(shown || events.len() > 10, "{kind} in {}", record["events"]);
        };
        let mut coordinator = server.client();
        let (small, large) = (manifest(&AGENTS, "small"), manifest(&AGENTS, "large"));
        acts(KEY, &[&["DEPLOY.DEPLOY", KEY, "MANIFEST", &small], &QUICK[..]].concat(), "deployment_started");
        coordinator.carry_out_until(KEY, "successful");
        acts(KEY, &[&["DEPLOY.DEPLOY", KEY, "MANIFEST", &large], &canary[..]].concat(), "deployment_started");
        coordinator.carry_out_until(KEY, "awaiting_promotion");
        acts(KEY, &["DEPLOY.PROMOTE", KEY], "deployment_promoted");
        acts(KEY, &["DEPLOY.PAUSE", KEY], "deployment_paused");
        acts(KEY, &["DEPLOY.RESUME", KEY], "deployment_resumed");
        acts(KEY, &["DEPLOY.FAIL", KEY], "deployment_failed");
        acts(KEY, &["DEPLOY.ROLLBACK", KEY], "rollback_started");
        acts(KEY, &["DEPLOY.TAG", KEY, "1", "one"], "version_tagged");
        acts(KEY, &["DEPLOY.UNTAG", KEY, "one"], "version_untagged");
        acts(KEY, &["DEPLOY.STOP", KEY], "deployment_cancelled");
        let drains = [&QUICK[..], &["DRAIN_MS", "600000"]].concat();
        acts("drains", &[&["DEPLOY.DEPLOY", "drains", "MANIFEST", &small], &drains[..]].concat(), "deployment_started");
        coordinator.carry_out_until("drains", "successful");
        coordinator.call(&["DEPLOY.STOP", "drains"]);
        acts("drains", &["DEPLOY.DRAIN", "drains", "VERSION", "1", "MS", "500000"], "agent_draining");
        acts("drains", &["DEPLOY.DRAIN", "drains", "VERSION", "1", "NOW"], "agent_drained");
        let mut batch: Json = serde_json::from_str(&small).expect("JSON");
        batch["type"] = "batch".into();
        acts("nightly", &["DEPLOY.DEPLOY", "nightly", "MANIFEST", &batch.to_string()], "version_recorded");
    });
}
