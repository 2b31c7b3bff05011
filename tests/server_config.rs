//! Configuration by the server's own means: every value has a range and an effect, an invalid one is rejected and
//! stops a start with the reason, and CONFIG REWRITE keeps changes.

use redis::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use test_support::prelude::*;

const KEY: &str = "agent-api";

/// Rule 6 "Configuration", rule 10.13, and one more: name, default, least and most.
const NUMBERS: [(&str, i64, i64, i64); 7] = [
    ("deploy.history-max", 50, 1, 10_000),
    ("deploy.events-max", 100, 1, 100_000),
    ("deploy.manifest-max-bytes", 1 << 20, 1024, 4 << 20),
    ("deploy.agents-max", 10_000, 1, 100_000),
    ("deploy.versions-alive-max", 8, 1, 1_000),
    ("deploy.tick-budget-us", 1_000, 100, 1_000_000),
    ("deploy.encode-idle-ms", 10_000, 0, 86_400_000),
];

fn all(client: &mut Client) -> BTreeMap<String, String> {
    Fields::of(&client.call(&["CONFIG", "GET", "deploy.*"]))
        .0
        .into_iter()
        .map(|(name, value)| (name, text(&value)))
        .collect()
}

fn get(client: &mut Client, name: &str) -> String {
    all(client).remove(name).unwrap_or_else(|| panic!("there is no {name}"))
}

#[test]
fn configurations_have_defaults_and_ranges() {
    on_each_server(|kind| {
        let server = Server::start(kind, &[]);
        let mut client = server.client();
        let mut defaults: BTreeMap<String, String> =
            NUMBERS.iter().map(|(name, default, ..)| (name.to_string(), default.to_string())).collect();
        defaults.insert("deploy.channel-prefix".into(), "deploy:events:".into());
        defaults.insert("deploy.publish".into(), "classic".into());
        assert_eq!(all(&mut client), defaults);

        for (name, default, least, most) in NUMBERS {
            for good in [least, most, default] {
                client.call(&["CONFIG", "SET", name, &good.to_string()]);
                assert_eq!(get(&mut client, name), good.to_string());
            }
            for bad in [&(least - 1).to_string(), &(most + 1).to_string(), "many", "", "1.5"] {
                let error = client.refused(&["CONFIG", "SET", name, bad]);
                assert!(error.starts_with("ERR ") && error.contains(name), "{name} {bad}: {error}");
                assert_eq!(get(&mut client, name), default.to_string(), "{bad}");
            }
        }
        client.call(&["CONFIG", "SET", "deploy.manifest-max-bytes", "2mb"]);
        assert_eq!(get(&mut client, "deploy.manifest-max-bytes"), (2 << 20).to_string());
        for (name, bad, says) in [
            ("deploy.channel-prefix", "a{b", "must not contain braces"),
            ("deploy.channel-prefix", "a}b", "must not contain braces"),
            ("deploy.channel-prefix", &"x".repeat(257), "must not be longer than 256 bytes"),
            ("deploy.publish", "loud", "classic"),
            ("deploy.nothing", "1", "deploy.nothing"),
        ] {
            let error = client.refused(&["CONFIG", "SET", name, bad]);
            assert!(error.starts_with("ERR ") && error.contains(says), "{name} {bad}: {error}");
        }
        assert_eq!(get(&mut client, "deploy.channel-prefix"), "deploy:events:");
        // Several at once: all or none.
        client.refused(&["CONFIG", "SET", "deploy.history-max", "7", "deploy.events-max", "0"]);
        assert_eq!(get(&mut client, "deploy.history-max"), "50");
    });
}

#[test]
fn configuration_changes_take_effect_at_once() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();
    let set = |name: &str, value: &str| drop(server.client().call(&["CONFIG", "SET", name, value]));

    set("deploy.agents-max", "2");
    let error = client.refused(&["DEPLOY.DEPLOY", KEY, "MANIFEST", &manifest(&AGENTS, "small")]);
    assert!(error.starts_with("LIMIT ") && error.contains('2'), "{error}");
    set("deploy.agents-max", "3");
    set("deploy.manifest-max-bytes", "1kb");
    let long = manifest(&AGENTS, &"x".repeat(1024));
    let error = client.refused(&["DEPLOY.DEPLOY", KEY, "MANIFEST", &long]);
    assert!(error.starts_with("LIMIT ") && error.contains("MANIFEST"), "{error}");

    set("deploy.channel-prefix", "told:");
    let told = Subscriber::start(&server, "told:*");
    for version in 1..=3 {
        client.deploy(KEY, &manifest(&AGENTS, &format!("model-{version}")), &["MIN_HEALTHY_MS", "0"]);
        client.carry_out_until(KEY, "successful");
    }
    told.wait_for_event("an event on the new channel", |event| event["key"] == KEY);
    assert_eq!(array(&client.json(&["DEPLOY.HISTORY", KEY, "JSON"])).len(), 3);
    // With the next version: the current, the newest stable and the target are never trimmed.
    set("deploy.history-max", "1");
    set("deploy.events-max", "5");
    client.deploy(KEY, &manifest(&AGENTS, "model-4"), &["MIN_HEALTHY_MS", "0"]);
    let kept: Vec<u64> =
        array(&client.json(&["DEPLOY.HISTORY", KEY, "JSON"])).iter().map(|v| number(&v["version"])).collect();
    assert_eq!(kept, [4, 3]);
    assert_eq!(client.events_after(KEY, 0).len(), 5);

    set("deploy.publish", "sharded");
    let sharded = Subscriber::start_sharded(&server, "told:{agent-api}");
    client.call(&["DEPLOY.TAG", KEY, "3", "three"]);
    sharded.wait_for_event("an event by sharded pub/sub", |event| event["type"] == "version_tagged");

    // Not only what ends from now on.
    set("deploy.encode-idle-ms", "3600000");
    client.carry_out_until(KEY, "successful");
    set("deploy.encode-idle-ms", "20");
    wait_until("the record to be encoded", || client.info("deploy", "deploy_records_encoded") == "1");
}

/// A server that was started with a configuration file, as in a distribution.
struct FromFile {
    kind: ServerKind,
    folder: PathBuf,
    port: u16,
    child: Child,
}

impl FromFile {
    /// `lines` are added to the file: with `MODULE` for the library's path.
    fn launch(kind: ServerKind, lines: &str) -> FromFile {
        let (folder, port) = (new_folder(), next_port());
        let lines = lines.replace("MODULE", &module_path().display().to_string());
        let file =
            format!("port {port}\nbind 127.0.0.1\nsave \"\"\nlogfile server.log\ndir {}\n{lines}\n", folder.display());
        std::fs::write(folder.join("redis.conf"), file).expect("a file in our own folder");
        let child = FromFile::spawn(kind, &folder);
        FromFile { kind, folder, port, child }
    }

    fn spawn(kind: ServerKind, folder: &std::path::Path) -> Child {
        let mut command = Command::new(kind.binary().expect("a server that there is"));
        command.arg(folder.join("redis.conf")).current_dir(folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a server")
    }

    fn client(&mut self) -> Client {
        let mut client = wait_for("the server to answer", || {
            let ended = self.child.try_wait().expect("our own child");
            assert!(ended.is_none(), "the server did not start: {ended:?}\n{}", self.log());
            connect(self.port)
        });
        assert_eq!(client.info("server", "process_id"), self.child.id().to_string());
        client
    }

    fn restart(&mut self) {
        let _ = self.client().try_call(&["SHUTDOWN", "NOSAVE"]);
        wait_until("the server to end", || self.child.try_wait().expect("our own child").is_some());
        self.child = FromFile::spawn(self.kind, &self.folder);
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.join("server.log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for FromFile {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn config_rewrite_keeps_changed_values() {
    on_each_server(|kind| {
        let arguments = "loadmodule MODULE history-max 7 deploy.EVENTS-MAX 70 manifest-max-bytes 2mb publish Sharded";
        let mut server = FromFile::launch(kind, &format!("{arguments}\ndeploy.events-max 30\ndeploy.agents-max 5"));
        let mut client = server.client();
        let values = |client: &mut Client| {
            let all = all(client);
            let value = |name: &str| all[&format!("deploy.{name}")].clone();
            [
                value("history-max"),
                value("events-max"),
                value("manifest-max-bytes"),
                value("agents-max"),
                value("publish"),
                value("channel-prefix"),
            ]
        };
        // An argument sets what the file does not.
        assert_eq!(values(&mut client), ["7", "30", "2097152", "5", "sharded", "deploy:events:"]);
        let loaded = "version 0.1.0: history-max 7, events-max 30, manifest-max-bytes 2097152, agents-max 5";
        assert!(server.log().contains(loaded), "{}", server.log());

        for (name, value) in [
            ("deploy.history-max", "50"), // the default, but not what the argument says
            ("deploy.manifest-max-bytes", "3mb"),
            ("deploy.channel-prefix", "told \"here\":"),
            ("deploy.publish", "classic"),
        ] {
            client.call(&["CONFIG", "SET", name, value]);
        }
        let set = values(&mut client);
        assert_eq!(set, ["50", "30", "3145728", "5", "classic", "told \"here\":"]);
        client.call(&["CONFIG", "REWRITE"]);
        server.restart();
        assert_eq!(
            values(&mut server.client()),
            set,
            "{}",
            std::fs::read_to_string(server.folder.join("redis.conf")).expect("it")
        );
        // And once more, from the file that the server has written.
        server.client().call(&["CONFIG", "REWRITE"]);
        server.restart();
        assert_eq!(values(&mut server.client()), set);
    });
}

#[test]
fn invalid_configuration_stops_the_start_with_the_reason() {
    on_each_server(|kind| {
        for (lines, says) in [
            ("loadmodule MODULE\ndeploy.history-max 0", "deploy.history-max"),
            ("loadmodule MODULE\ndeploy.agents-max many", "deploy.agents-max"),
            ("loadmodule MODULE\ndeploy.manifest-max-bytes 5mb", "deploy.manifest-max-bytes"),
            ("loadmodule MODULE\ndeploy.channel-prefix a{b", "deploy.channel-prefix must not contain braces"),
            ("loadmodule MODULE\ndeploy.publish loud", "deploy.publish"),
            // The server's own line; newer ones name it in the line before.
            ("loadmodule MODULE\ndeploy.nothing 1", "Module Configuration detected without loadmodule"),
            ("loadmodule MODULE history-max 0", "not loaded: history-max must be an integer from 1 to 10000, and is 0"),
            ("loadmodule MODULE tick-budget-us 1kb", "not loaded: tick-budget-us must be an integer"),
            ("loadmodule MODULE manifest-max-bytes 1tb", "not loaded: manifest-max-bytes must be an integer"),
            ("loadmodule MODULE manifest-max-bytes 99999999999999999999mb", "not loaded: manifest-max-bytes must be"),
            ("loadmodule MODULE publish loud", "not loaded: publish must be classic or sharded, and is loud"),
            ("loadmodule MODULE channel-prefix a{b", "not loaded: deploy.channel-prefix must not contain braces"),
            ("loadmodule MODULE history-max", "not loaded: the argument history-max has no value"),
            ("loadmodule MODULE histroy-max 5", "not loaded: there is no configuration deploy.histroy-max"),
            ("loadmodule MODULE history-max 5 deploy.history-max 6", "not loaded: history-max is given twice"),
        ] {
            let mut server = FromFile::launch(kind, lines);
            let end = wait_for("the start to stop", || server.child.try_wait().expect("our own child"));
            assert_eq!(end.code(), Some(1), "{lines}: an exit and no crash: {end:?}\n{}", server.log());
            assert!(server.log().lines().any(|line| line.contains(says)), "{lines}:\n{}", server.log());
        }
    });
}

#[test]
fn replication_is_independent_of_the_replicas_configuration() {
    // What is decided is replicated as what happened: a replica with other limits holds the same.
    let primary = Server::start(ServerKind::Redis70, &[]);
    let replica = Server::start(ServerKind::Redis70, &[]);
    for (name, value) in [("deploy.history-max", "1"), ("deploy.events-max", "1"), ("deploy.agents-max", "1")] {
        replica.client().call(&["CONFIG", "SET", name, value]);
    }
    replica.replicate_from(&primary);
    let mut client = primary.client();
    for model in ["small", "large"] {
        client.deploy(KEY, &manifest(&AGENTS, model), &["MIN_HEALTHY_MS", "0"]);
        client.carry_out_until(KEY, "successful");
    }
    replica.assert_equal_to(&primary);
    assert_eq!(client.status(KEY)["current_version"], json!(2));
    assert!(matches!(replica.client().call(&["DEPLOY.LIST"]), Value::Array(_)));
}
