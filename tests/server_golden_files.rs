//! Compatibility of saved files: RDB and append-only files that real servers wrote in payload format 1 still load.
//!
//! `UPDATE_GOLDEN=1 cargo test --test server_golden_files` writes the files of the servers of this machine anew. That is
//! only for a format that no release has written yet.
//!
//! Nothing in the files becomes due: they are loaded years later, and their replies are compared with those of the day
//! on which they were written. So a deployment in the files has ended, is paused or awaits its promotion (no deadline
//! runs then: rules 4.10 and 4.13), no instance in it awaits a verdict, and no service has a TTL. Writing the files
//! fails where a record has a deadline.

use serde_json::{json, Value as Json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
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

/// Writes the files of the servers of this machine, once and before a test reads them, if this run is to do so.
fn write_files_if_asked() {
    static WRITTEN: Once = Once::new();
    WRITTEN.call_once(|| {
        let writers = WRITERS.into_iter().map(|(writer, _)| writer).filter(|writer| writer.binary().is_some());
        writers.filter(|_| updates_golden()).for_each(write_files);
    });
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
        assert_eq!(replies[0]["deadlines"]["next_at"], json!(null), "{key} has a deadline that passes");
    }
    copy_folder(&server.folder.join("appendonlydir"), &folder.join("appendonlydir"));
    fs::copy(server.folder.join("dump.rdb"), folder.join("dump.rdb")).expect("the RDB file");
    let text = serde_json::to_string(&replies).expect("JSON");
    fs::write(folder.join("replies.json"), text + "\n").expect("the replies");
}

// ---- tests -----------------------------------------------------------------------------------------------------------

/// The fields that a later version derives from the same record by another rule: rule 19.1.
const DERIVED_ANEW: [&str; 1] = ["rollback_target"];

/// Asserts that a reply says all that an older one said. Later versions may add fields.
fn assert_says(reply: &Json, older: &Json, path: &str) {
    match (reply, older) {
        (Json::Object(fields), Json::Object(older)) => {
            for (name, older) in older.iter().filter(|(name, _)| !DERIVED_ANEW.contains(&name.as_str())) {
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
    write_files_if_asked();
    for (writer, readers) in WRITERS {
        let golden = golden_folder(writer);
        let expected = fs::read_to_string(golden.join("replies.json")).expect("the replies of the writer");
        let expected: Json = serde_json::from_str(&expected).expect("JSON");
        for reader in readers.iter().filter(|reader| reader.binary().is_some()) {
            eprintln!("-- files of {} on {}", writer.name(), reader.name());
            let mut server = Server::start(*reader, arguments);
            let folder = server.folder.clone();
            server.restart_after(End::NoSave, || install(&golden, &folder));
            let mut client = server.client();
            let loaded = replies(&mut client);
            let keys = |replies: &Json| replies.as_object().expect("keys").keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(&loaded), keys(&expected), "keys of {} on {}", writer.name(), reader.name());
            for (key, expected) in expected.as_object().expect("keys") {
                assert_says(&loaded[key], expected, &format!("{key} of {} on {}", writer.name(), reader.name()));
            }
            rollout::assert_index_matches(&mut client, &[0]);
            assert_records_continue(&mut client);
        }
    }
}

/// Asserts that loaded records can be decoded for a change and encoded again.
fn assert_records_continue(client: &mut Client) {
    let (small, large) = (manifest(&AGENTS, "small"), manifest(&AGENTS, "large"));
    client.deploy("successful", &small, &AT_ONCE);
    client.carry_out_until("successful", "successful");
    // The request id of version 2 is still known: a retry replies of version 2, and makes no version 4.
    let retried = client.deploy("successful", &large, &[&AT_ONCE[..], &["REQUEST", "build-7"]].concat());
    assert_eq!(retried.text("deployment_id"), "dep_successful_2");
    assert_eq!(client.status("successful")["current_version"], 3);

    client.call(&["DEPLOY.PROMOTE", "awaiting"]);
    assert_eq!(client.carry_out_until("awaiting", "successful")["current_version"], 2);
    client.call(&["DEPLOY.RESUME", "paused"]);
    assert_eq!(client.status("paused")["status"], "running");
}

#[test]
fn rdb_files_of_format_1_load() {
    assert_files_load(&[], |golden, folder| {
        fs::copy(golden.join("dump.rdb"), folder.join("dump.rdb")).expect("a copy");
    });
}

#[test]
fn append_only_files_of_format_1_load() {
    assert_files_load(&AOF_OF_COMMANDS, |golden, folder| {
        copy_folder(&golden.join("appendonlydir"), &folder.join("appendonlydir"));
    });
}

/// Counts the payloads of format 1 in the files: an append-only file that began with an RDB, or files of a newer
/// format, would load as well and show less.
#[test]
fn golden_files_differ_by_writer_and_are_of_format_1() {
    write_files_if_asked();
    for (writer, _) in WRITERS {
        let read = |name: &str| fs::read(golden_folder(writer).join(name)).expect("a golden file");
        let count = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).filter(|window| *window == text).count();
        let (record, change_set) = (b"dp\x01\x00\x01", b"dp\x01\x00\x02");

        let rdb = read("dump.rdb");
        let magic: &[u8] = if writer == ServerKind::Redis70 { b"REDIS0010" } else { b"VALKEY080" };
        assert!(rdb.starts_with(magic), "{}: {:?}", writer.name(), &rdb[..9]);
        assert_eq!(count(&rdb, record), 9, "records in the RDB file of {}", writer.name());

        let base = read("appendonlydir/appendonly.aof.2.base.aof");
        let increment = read("appendonlydir/appendonly.aof.2.incr.aof");
        assert_eq!(count(&base, record), 4, "records in the base of {}", writer.name());
        let commands = count(&increment, b"DEPLOY.APPLY");
        assert!(commands > 0 && count(&increment, change_set) == commands, "change sets of {}", writer.name());
    }
}
