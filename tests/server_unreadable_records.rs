//! Records whose content is wrong under a right checksum, as a forged file or a faulty disk has them. A load does not
//! decode records, so such a record is found when it is first read, by a command or by the timer. From then on the
//! index says what the record says, and an unreadable record is read-only, counted as that and as nothing else.

use redis_deploy::codec::{decode_record, encode_record, summary_of};
use redis_deploy::engine::manifest::ManifestText;
use redis_deploy::engine::record::Record;
use redis_deploy::engine::services::Service;
use redis_deploy::engine::version::Version;
use std::fs;
use std::io::Write;
use std::sync::Arc;
use test_support::payload::*;
use test_support::prelude::*;
use test_support::resp::command;
use test_support::rollout::{self, *};

/// An append-only file without compression: its end is written by the tests.
const AOF: [&str; 6] = ["--rdbcompression", "no", "--appendonly", "yes", "--aof-use-rdb-preamble", "no"];

fn dump_of(client: &mut Client, key: &str) -> Dump {
    Dump::parse(&rollout::dump(client, key))
}

fn record_of(dump: &Dump) -> Record {
    decode_record(&dump.envelope).expect("a record of this module")
}

/// Returns an envelope of the format that the server writes around the payload of a record.
fn enveloped(dump: &Dump, payload: &[u8]) -> Vec<u8> {
    envelope(format_of(&dump.envelope), 1, payload)
}

fn format_of(envelope: &[u8]) -> u16 {
    u16::from_le_bytes([envelope[2], envelope[3]])
}

/// Returns the payload of a record, split behind its summary.
fn split_summary(envelope: &[u8]) -> (&[u8], &[u8]) {
    let (payload, format) = (&envelope[HEADER_BYTES..envelope.len() - CRC32_BYTES], format_of(envelope));
    let is_whole =
        |length: &usize| summary_of(&test_support::payload::envelope(format, 1, &payload[..*length])).is_ok();
    let length = (0..payload.len()).find(is_whole).expect("a summary in front");
    payload.split_at(length)
}

/// Restarts the server with these values at these keys, which it loads without decoding them.
fn restart_with(server: &mut Server, values: &[(&str, Vec<u8>)]) {
    let file = server.append_only_file();
    server.restart_after(End::NoSave, || {
        let mut file = fs::OpenOptions::new().append(true).open(file).expect("our own folder");
        for (key, value) in values {
            file.write_all(&command(&[b"RESTORE".as_slice(), key.as_bytes(), b"0", value])).expect("our own folder");
        }
    });
}

fn counted(client: &mut Client, field: &str) -> u64 {
    client.info("deploy", &format!("deploy_{field}")).parse().expect("a number")
}

/// The number of ticks that the timer has issued.
fn ticks(client: &mut Client) -> u64 {
    let stats = client.info("commandstats", "cmdstat_deploy.tick");
    let calls = stats.split(',').find_map(|field| field.strip_prefix("calls="));
    calls.map_or(0, |calls| calls.parse().expect("a number"))
}

fn finish(client: &mut Client, key: &str) {
    client.deploy(key, &manifest(&["a"], "small"), &["MIN_HEALTHY_MS", "0"]);
    client.carry_out_until(key, "successful");
}

#[test]
fn a_record_counts_and_not_the_summary_in_front_of_it() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &AOF);
        let mut client = server.client();
        finish(&mut client, "over");
        client.deploy("runs", &manifest(&["a"], "small"), &["MIN_HEALTHY_MS", "1500"]);
        client.carry_out_tasks("runs");
        let (over, runs) = (dump_of(&mut client, "over"), dump_of(&mut client, "runs"));
        client.call(&["FLUSHALL"]);
        let of = |summary: &Dump, record: &Dump| {
            let payload = [split_summary(&summary.envelope).0, split_summary(&record.envelope).1].concat();
            record.of(&enveloped(record, &payload))
        };
        restart_with(&mut server, &[("looks-over", of(&over, &runs)), ("looks-running", of(&runs, &over))]);

        let mut client = server.client();
        assert_eq!(client.listed(), ["looks-over", "looks-running"]);
        // The timer finds out about the one that is said to be due: there is nothing to do, once.
        wait_until("the timer to look", || counted(&mut client, "deployments_running") == 0);
        assert_eq!((counted(&mut client, "timers_armed"), counted(&mut client, "deployments_successful")), (0, 2));
        let listed = rollout::listed(&mut client);
        assert_eq!(listed["looks-running"].text("status"), "successful");
        assert_eq!(listed["looks-running"].text("deployment_id"), "dep_over_1");
        let before = ticks(&mut client);
        assert!(before <= 2, "{before} ticks");
        assert!(
            server.log().contains("record of key 'looks-running' is not what its summary said"),
            "{}",
            server.log()
        );

        // Nobody can know about the other before it is read.
        assert_eq!(listed["looks-over"].text("status"), "successful");
        client.call(&["DEPLOY.TASKS", "looks-over"]);
        assert!(server.log().contains("record of key 'looks-over' is not what its summary said"), "{}", server.log());
        wait_until("its deadline to be met", || client.status("looks-over")["status"] == "successful");
        assert_index_matches(&mut client, &[0]);
        let events = client.events_after("looks-over", 0);
        assert!(events.iter().any(|event| event["type"] == "agent_healthy"), "{events:?}");
    });
}

#[test]
fn an_unreadable_record_leaves_the_timers_and_counts_as_that_alone() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &AOF);
        let mut client = server.client();
        client.deploy("due", &manifest(&["a"], "small"), &["MIN_HEALTHY_MS", "300"]);
        client.carry_out_tasks("due");
        let due = dump_of(&mut client, "due");
        finish(&mut client, "good");
        client.call(&["DEL", "due"]);
        // The summary is right, and what follows is nothing.
        let (summary, rest) = split_summary(&due.envelope);
        let forged = due.of(&enveloped(&due, &[summary, &vec![0xff; rest.len()]].concat()));
        restart_with(&mut server, &[("bad", forged.clone()), ("another", forged.clone())]);

        let mut client = server.client();
        wait_until("the timer to look", || counted(&mut client, "records_unreadable") == 2);
        let is_right = |client: &mut Client, unreadable: u64| {
            // Servers with valkey#4024 are asked for moved keys once the command has ended.
            wait_until("the index to know", || counted(client, "records_unreadable") == unreadable);
            assert_eq!((counted(client, "timers_armed"), counted(client, "tasks_outstanding")), (0, 0));
            assert_eq!((counted(client, "deployments_running"), counted(client, "deployments_successful")), (0, 1));
            assert_eq!(client.listed(), ["good"]);
        };
        is_right(&mut client, 2);
        let line = client.refused(&["DEPLOY.STATUS", "bad"]);
        assert!(line.starts_with("BADSTATE ") && line.contains("is damaged"), "{line}");
        assert_eq!(rollout::dump(&mut client, "bad"), forged, "byte for byte");
        assert!(server.log().contains("record of key 'bad' kept as it is, read-only"), "{}", server.log());
        let before = ticks(&mut client);
        assert!(before <= 4, "{before} ticks");
        wait_past(unix_ms() + 400);
        assert_eq!(ticks(&mut client), before, "it is not asked again");

        // It stays that through whatever happens to the key.
        client.call(&["RENAME", "another", "renamed"]);
        is_right(&mut client, 2);
        client.call(&["COPY", "renamed", "copied"]);
        is_right(&mut client, 3);
        client.call(&["MOVE", "copied", "1"]);
        is_right(&mut client, 3);
        client.call(&["SWAPDB", "1", "2"]);
        client.refused(&["DEPLOY.STOP", "bad"]);
        restore(&mut client, "restored", &forged, &[]).expect_err("a client's payload is judged");
        is_right(&mut client, 3);
        client.call(&["SELECT", "2"]);
        client.call(&["FLUSHDB"]);
        client.call(&["SELECT", "0"]);
        is_right(&mut client, 2);
        let replica = Server::start(kind, &["--rdbcompression", "no"]);
        replica.replicate_from(&server);
        let mut theirs = replica.client();
        theirs.refused(&["DEPLOY.STATUS", "bad"]);
        theirs.refused(&["DEPLOY.STATUS", "renamed"]);
        is_right(&mut theirs, 2);
        client.call(&["DEL", "bad"]);
        client.call(&["DEBUG", "RELOAD"]);
        wait_until("the timer to look again", || counted(&mut client, "records_unreadable") == 1);
        is_right(&mut client, 1);
        client.call(&["SET", "renamed", "something else"]);
        is_right(&mut client, 0);
    });
}

/// Texts that become a part of JSON replies are judged before they do.
#[test]
fn damaged_texts_of_a_record_are_errors_and_no_replies() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &AOF);
        let mut client = server.client();
        // Versions 1 and 2 are stable, and no agent runs version 1.
        for model in ["small", "large"] {
            client.deploy("good", &manifest(&["a"], model), &["MIN_HEALTHY_MS", "0", "MAX_PARALLEL", "100%"]);
            client.carry_out_until("good", "successful");
        }
        let register = ["a", "http", "INSTANCE", "i-1", "ADDRESS", "h", "PORT", "1", "META", r#"{"zone":1}"#];
        client.call(&[&["DEPLOY.REGISTER", "good"], &register[..]].concat());
        let dump = dump_of(&mut client, "good");
        let good = record_of(&dump);

        let mut bad_manifest = good.clone();
        let content = Arc::new(ManifestText::new(Arc::from(r#"{"nodes":["#)));
        let versions = Arc::make_mut(&mut bad_manifest.versions);
        versions[0] = Arc::new(Version { content, ..(*versions[0]).clone() });
        let mut bad_meta = good.clone();
        let service = good.services.iter().next().expect("a service");
        bad_meta.services.insert(Service { meta: Some(Arc::from("{zone")), ..(**service).clone() });
        let of = |record: &Record| dump.of(&encode_record(record));
        restart_with(&mut server, &[("manifest", of(&bad_manifest)), ("meta", of(&bad_meta))]);

        let mut client = server.client();
        for words in [&["DEPLOY.VERSION", "manifest", "1", "JSON"][..], &["DEPLOY.VERSION", "manifest", "1"]] {
            let line = client.refused(words);
            assert_eq!(
                line,
                "BADSTATE the manifest of version 1 is damaged: it is no JSON; its bytes are kept as they are"
            );
        }
        let line = client.refused(&["DEPLOY.ROLLBACK", "manifest"]);
        assert!(line.starts_with("INVALID manifest must be a JSON object"), "{line}");
        // The rest of the record is in use.
        assert_eq!(client.json(&["DEPLOY.VERSION", "manifest", "2", "JSON"])["manifest"]["type"], "service");
        assert_eq!(client.status("manifest")["status"], "successful");
        assert_eq!(client.json(&["DEPLOY.HISTORY", "manifest", "JSON"])[1]["version"], 1);
        client.deploy("manifest", &manifest(&["a"], "small"), &["MIN_HEALTHY_MS", "0", "MAX_PARALLEL", "100%"]);
        client.carry_out_until("manifest", "successful");

        let line = client.refused(&["DEPLOY.RESOLVE", "meta", "ROLE", "any", "ALL", "JSON"]);
        assert!(line.starts_with("BADSTATE ") && line.contains("is damaged"), "{line}");
        for record in [bad_manifest, bad_meta] {
            restore(&mut client, "restored", &of(&record), &[]).expect_err("a client's payload is judged");
        }
    });
}
