//! Compatibility of saved files: RDB and append-only files that real servers wrote in payload format 1 still load.
//!
//! `UPDATE_GOLDEN=1 cargo test --test server_golden_files` writes the files of the servers of this machine anew. That is
//! only for a format that no release has written yet.
//!
//! Nothing in the files becomes due: they are loaded years later, and their replies are compared with those of the day
//! on which they were written.

use serde_json::{json, Value as Json};
use std::fs;
use std::path::{Path, PathBuf};
use test_support::prelude::*;
use test_support::rollout;

/// Servers that wrote files, and those that can load them: a Redis does not read the RDB versions of Valkey 9.
const WRITERS: [(ServerKind, &[ServerKind]); 2] =
    [(ServerKind::Redis70, &ServerKind::ALL), (ServerKind::Valkey91, &[ServerKind::Valkey91])];

/// The append-only file's base has whole records as commands, and its increment has change sets.
const AOF_OF_COMMANDS: [&str; 4] = ["--appendonly", "yes", "--aof-use-rdb-preamble", "no"];

const AT_ONCE: [&str; 2] = ["MIN_HEALTHY_MS", "0"];

fn golden_folder(writer: ServerKind) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/servers").join(writer.name())
}

fn copy_folder(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let path = entry.expect("a file").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copy");
    }
}

// ---- the files -------------------------------------------------------------------------------------------------------

/// Makes records in states with no deadline: the first half of the files.
fn make_ended_records(client: &mut Client) {
    let (small, large) = (manifest(&AGENTS, "small"), manifest(&AGENTS, "large"));
    client.deploy(
        "successful",
        &small,
        &[&AT_ONCE[..], &["TAG", "first", "REASON", "café", "BUNDLE", "s3://b/1"]].concat(),
    );
    client.carry_out_until("successful", "successful");
    client.deploy("successful", &large, &[&AT_ONCE[..], &["REQUEST", "build-7", "JOB", "nightly"]].concat());
    client.carry_out_until("successful", "successful");

    client.deploy("failed", &small, &AT_ONCE);
    client.carry_out_until("failed", "successful");
    client.deploy("failed", &large, &[&AT_ONCE[..], &["AUTO_REVERT", "false"]].concat());
    client.call(&["DEPLOY.REPORT", "failed", "agent-1", "failed", "REASON", "exit 137"]);
    assert_eq!(client.status("failed")["status"], "failed");

    client.deploy("reverted", &small, &AT_ONCE);
    client.carry_out_until("reverted", "successful");
    client.deploy("reverted", &large, &[&AT_ONCE[..], &["AUTO_REVERT", "true"]].concat());
    client.report("reverted", "agent-1", "failed");
    client.carry_out_until("reverted", "successful");

    client.deploy("stopped", &small, &AT_ONCE);
    client.call(&["DEPLOY.STOP", "stopped", "REASON", "no longer needed"]);
}

/// Makes records with tasks, waiting operators, a batch job and services: the second half.
fn make_open_records(client: &mut Client) {
    let (small, large) = (manifest(&AGENTS, "small"), manifest(&AGENTS, "large"));
    client.deploy("paused", &small, &AT_ONCE);
    client.carry_out_until("paused", "successful");
    client.deploy("paused", &large, &["MIN_HEALTHY_MS", "60000", "CANARY", "2"]);
    client.report("paused", "agent-1", "starting");
    client.call(&["DEPLOY.PAUSE", "paused", "REASON", "a look at the metrics"]);

    client.deploy("awaiting", &small, &AT_ONCE);
    client.carry_out_until("awaiting", "successful");
    client.deploy("awaiting", &large, &[&AT_ONCE[..], &["CANARY", "1"]].concat());
    client.carry_out_until("awaiting", "awaiting_promotion");
    // While it waits for PROMOTE, the progress deadline runs on; paused, it does not.
    client.call(&["DEPLOY.PAUSE", "awaiting"]);

    client.deploy("blue_green", &small, &AT_ONCE);
    client.carry_out_until("blue_green", "successful");
    client.deploy("blue_green", &large, &["MIN_HEALTHY_MS", "60000", "STRATEGY", "blue-green"]);
    client.report("blue_green", "agent-2", "starting");
    client.call(&["DEPLOY.PAUSE", "blue_green"]);

    let batch = r#"{"type":"batch","nodes":[{"node_id":"ignored"}]}"#;
    client.deploy("batch", batch, &["JOB", "run-1"]);
    client.deploy("batch", batch, &["JOB", "run-2"]);

    client.deploy("serving", &small, &AT_ONCE);
    client.carry_out_until("serving", "successful");
    for (agent, status) in [("agent-1", "passing"), ("agent-2", "warning")] {
        let address = ["ADDRESS", "10.0.0.1", "PORT", "8080", "STATUS", status, "TAGS", "2", "eu", "gpu"];
        let words = [&["DEPLOY.REGISTER", "serving", agent, "web", "INSTANCE", agent][..], &address].concat();
        client.call(&[&words[..], &["META", r#"{"zone":"a"}"#]].concat());
    }
}

/// Returns the replies of all records by their keys.
fn replies(client: &mut Client) -> Json {
    let mut keys = client.listed();
    keys.sort();
    keys.into_iter().map(|key| (key.clone(), Json::Array(rollout::everything(client, &key)))).collect()
}

/// Writes the files of a server, and the replies that they are to give.
fn write_files(writer: ServerKind) {
    let folder = golden_folder(writer);
    let server = Server::start(writer, &AOF_OF_COMMANDS);
    let mut client = server.client();
    make_ended_records(&mut client);
    rollout::rewrite_aof(&mut client);
    make_open_records(&mut client);
    client.call(&["SAVE"]);
    let replies = replies(&mut client);
    for (key, replies) in replies.as_object().expect("keys") {
        assert_eq!(replies[0]["deadlines"]["next"], json!(null), "{key} has a deadline that passes");
    }
    copy_folder(&server.folder.join("appendonlydir"), &folder.join("appendonlydir"));
    fs::copy(server.folder.join("dump.rdb"), folder.join("dump.rdb")).expect("the RDB file");
    let text = serde_json::to_string(&replies).expect("JSON");
    fs::write(folder.join("replies.json"), text + "\n").expect("the replies");
}

// ---- tests -----------------------------------------------------------------------------------------------------------

/// Asserts that a reply says all that an older one said. Later versions may add fields.
fn assert_says(reply: &Json, older: &Json, path: &str) {
    match (reply, older) {
        (Json::Object(fields), Json::Object(older)) => {
            for (name, older) in older {
                let field = fields.get(name).unwrap_or_else(|| panic!("{path} has no {name}"));
                assert_says(field, older, &format!("{path}.{name}"));
            }
        }
        (Json::Array(items), Json::Array(older)) => {
            assert_eq!(items.len(), older.len(), "{path}");
            for (index, (item, older)) in items.iter().zip(older).enumerate() {
                assert_says(item, older, &format!("{path}[{index}]"));
            }
        }
        _ => assert_eq!(reply, older, "{path}"),
    }
}

/// Loads files of each writer on each server that can read them, and compares the replies with those of the writer.
fn assert_files_load(arguments: &[&str], install: impl Fn(&Path, &Path)) {
    for (writer, readers) in WRITERS {
        if updates_golden() && writer.binary().is_some() {
            write_files(writer);
        }
        let golden = golden_folder(writer);
        let expected = fs::read_to_string(golden.join("replies.json")).expect("the replies of the writer");
        let expected: Json = serde_json::from_str(&expected).expect("JSON");
        for reader in readers.iter().filter(|reader| reader.binary().is_some()) {
            eprintln!("-- files of {} on {}", writer.name(), reader.name());
            let mut server = Server::start(*reader, arguments);
            let folder = server.folder.clone();
            server.restart_after(End::NoSave, || install(&golden, &folder));
            let mut client = server.client();
            assert_eq!(client.listed().len(), 9);
            let loaded = replies(&mut client);
            for (key, expected) in expected.as_object().expect("keys") {
                assert_says(&loaded[key], expected, &format!("{key} of {} on {}", writer.name(), reader.name()));
            }
            rollout::assert_index_matches(&mut client, &[0]);
            // The record goes on: it can be decoded for a change, and encoded again.
            client.deploy("successful", &manifest(&AGENTS, "small"), &AT_ONCE);
            client.carry_out_until("successful", "successful");
            client.call(&["DEPLOY.RESUME", "paused"]);
            assert_eq!(client.status("paused")["status"], "running");
        }
    }
}

#[test]
fn rdb_and_append_only_files_of_format_1_load() {
    // One after the other: with UPDATE_GOLDEN both write the files.
    assert_files_load(&[], |golden, folder| {
        fs::copy(golden.join("dump.rdb"), folder.join("dump.rdb")).expect("a copy");
    });
    assert_files_load(&AOF_OF_COMMANDS, |golden, folder| {
        copy_folder(&golden.join("appendonlydir"), &folder.join("appendonlydir"));
    });
}

#[test]
fn golden_files_differ_by_writer_and_are_of_format_1() {
    for (writer, _) in WRITERS {
        let rdb = fs::read(golden_folder(writer).join("dump.rdb")).expect("the RDB file");
        let magic: &[u8] = if writer == ServerKind::Redis70 { b"REDIS0010" } else { b"VALKEY080" };
        assert!(rdb.starts_with(magic), "{}: {:?}", writer.name(), &rdb[..9]);
        let envelope = b"dp\x01\x00\x01";
        let records = rdb.windows(envelope.len()).filter(|window| window == envelope).count();
        assert!(records >= 1, "{}: no record of format 1", writer.name());
    }
}
