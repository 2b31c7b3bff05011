//! RESTORE and RDB payloads are untrusted. Damaged and hostile ones are rejected, without a crash or a large
//! allocation. Payloads of a newer module are kept byte for byte, read-only, where rejecting them would end the
//! server or make it diverge from its primary, and rejected elsewhere (rule 6, "Persistence").

use redis::Value;
use serde_json::json;
use std::fs;
use std::io::Write;
use test_support::payload::*;
use test_support::prelude::*;
use test_support::replication::*;
use test_support::resp::*;
use test_support::rng::Rng;
use test_support::rollout::{self, *};

const KEY: &str = "agent-api";
const PLAIN: [&str; 2] = ["--rdbcompression", "no"];

#[test]
fn crc64_matches_the_server() {
    assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
}

/// A record with something of everything, that nothing happens to by itself.
fn rich_record(client: &mut Client, key: &str) {
    start_rollout_with(client, key, 200_000);
    client.call(&["DEPLOY.PAUSE", key, "REASON", "to look at it"]);
}

fn dump_of(client: &mut Client, key: &str) -> Dump {
    Dump::parse(&rollout::dump(client, key))
}

fn megabytes(client: &mut Client, field: &str) -> f64 {
    client.info("memory", field).parse::<f64>().expect("a number") / f64::from(1 << 20)
}

// ---- damaged and hostile --------------------------------------------------------------------------------------------

/// RESTOREs each payload, a few at a time, and does with each that was taken what a client may do.
struct Siege<'s> {
    server: &'s mut Server,
    wire: Conn,
    waiting: Vec<(String, Vec<u8>)>,
    sent: u64,
    taken: u64,
}

/// Few enough that they themselves take no memory to speak of.
const AT_ONCE: usize = 40;

impl Siege<'_> {
    fn of(server: &mut Server) -> Siege<'_> {
        let wire = server.conn();
        Siege { server, wire, waiting: Vec::new(), sent: 0, taken: 0 }
    }

    /// `what` is for the message, should the server not survive it.
    fn restore(&mut self, what: impl Into<String>, payload: Vec<u8>) {
        self.waiting.push((what.into(), payload));
        if self.waiting.len() >= AT_ONCE {
            self.storm();
        }
    }

    fn storm(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let commands: Vec<Vec<u8>> = waiting
            .iter()
            .enumerate()
            .map(|(n, (_, payload))| command(&[b"RESTORE".as_slice(), format!("s-{n}").as_bytes(), b"0", payload]))
            .collect();
        let names = || waiting.iter().map(|(what, _)| what.as_str()).collect::<Vec<_>>().join(", ");
        let replies = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.wire.pipeline(&commands)));
        let replies = replies.unwrap_or_else(|_| panic!("the server did not survive one of: {}", names()));
        self.sent += replies.len() as u64;
        for (n, reply) in replies.iter().enumerate() {
            match reply {
                Reply::Error(line) => assert!(!line.contains("internal"), "{}: {line}", waiting[n].0),
                Reply::Text(ok) if ok == "OK" => self.use_it(&format!("s-{n}"), &waiting[n].0),
                other => panic!("{}: {other:?}", waiting[n].0),
            }
        }
        if !self.server.is_alive() {
            panic!("the server ended at one of: {}", names());
        }
    }

    /// A payload that was taken is a record like any other: nothing that is asked of it may end in an internal error.
    fn use_it(&mut self, key: &str, what: &str) {
        self.taken += 1;
        let manifest = manifest(&["agent-1", "agent-9"], "other");
        let words: &[&[&str]] = &[
            &["DEPLOY.STATUS", key, "JSON"],
            &["DEPLOY.HISTORY", key],
            &["DEPLOY.TASKS", key],
            &["DEPLOY.EVENTS", key],
            &["DEPLOY.RESOLVE", key, "ROLE", "any", "ALL"],
            &["DEPLOY.RESUME", key],
            &["DEPLOY.REPORT", key, "agent-1", "unready"],
            &["DEPLOY.REPORT", key, "agent-1", "ready"],
            &["DEPLOY.CHECK", key, "i-1", "critical"],
            &["DEPLOY.PROMOTE", key],
            &["DEPLOY.PLAN", key, "MANIFEST", &manifest],
            &["DEPLOY.DEPLOY", key, "MANIFEST", &manifest],
            &["DEPLOY.ROLLBACK", key],
            &["DUMP", key],
            &["MEMORY", "USAGE", key],
            &["DEPLOY.STOP", key],
            &["DEL", key],
        ];
        let commands: Vec<Vec<u8>> = words.iter().map(|words| command(words)).collect();
        for (words, reply) in words.iter().zip(self.wire.pipeline(&commands)) {
            if let Reply::Error(line) = reply {
                assert!(!line.contains("internal"), "{what}: {}: {line}", words.join(" "));
            }
        }
    }

    fn end(mut self) -> (u64, u64) {
        self.storm();
        (self.sent, self.taken)
    }
}

/// Replacements for numbers that claim too much: the encoding's prefixes of 64, 128 and 32 bits, full and moderate.
const BOMBS: [&[u8]; 6] = [
    b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xfd\x00\x00\x00\x00\x04\x00\x00\x00",
    b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xfc\xff\xff\xff\xff",
    b"\xfc\x00\x00\x00\x20",
    b"\xfb\xff\xff",
];

#[test]
fn damaged_and_hostile_payloads_are_rejected_without_large_allocations() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &PLAIN);
        let mut client = server.client();
        rich_record(&mut client, KEY);
        let before = rollout::dump(&mut client, KEY);
        let dump = Dump::parse(&before);
        let payload = &dump.envelope[HEADER_BYTES..dump.envelope.len() - CRC32_BYTES];
        let (used, began) = (megabytes(&mut client, "used_memory"), unix_ms());
        // A default run takes every second one; the long one takes them all.
        let seed = unix_ms();
        let mut rng = Rng::seeded(seed);
        eprintln!("   a payload of {} bytes, seed {seed}", payload.len());
        let mut chosen = |one_in: usize| is_long_run() || rng.below(one_in) == 0;

        let mut siege = Siege::of(&mut server);
        // Cut at every byte: with the outer checksum right, then with the inner one right as well.
        let body = dump.body();
        for length in 0..body.len() {
            siege.restore(format!("cut at {length}"), dump.finished(body[..length].to_vec()));
        }
        for length in 0..dump.envelope.len() {
            siege.restore(format!("envelope cut at {length}"), dump.of(&dump.envelope[..length]));
        }
        for length in 0..payload.len() {
            siege.restore(format!("payload cut at {length}"), dump.of(&envelope(1, 1, &payload[..length])));
        }
        let (cut, taken) = (siege.sent, siege.taken);
        assert_eq!(taken, 0, "what is cut short is no record");

        // Every bit flipped, under a right outer checksum: the inner one tells.
        for bit in 0..dump.envelope.len() * 8 {
            if chosen(2) {
                let mut flipped = dump.envelope.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                siege.restore(format!("bit {bit}"), dump.of(&flipped));
            }
        }
        assert_eq!(siege.taken, 0, "the inner checksum tells every flipped bit");

        // Under two right checksums only the content can tell, and what cannot be told is another good record.
        for bit in 0..payload.len() * 8 {
            if chosen(2) {
                let mut flipped = payload.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                siege.restore(format!("payload bit {bit}"), dump.of(&envelope(1, 1, &flipped)));
            }
        }

        // Claims of length at every place.
        for at in 0..payload.len() {
            for bomb in BOMBS {
                if chosen(2) {
                    let replaced = [&payload[..at], bomb, payload.get(at + 1..).unwrap_or_default()].concat();
                    siege.restore(format!("bomb {bomb:?} at {at}"), dump.of(&envelope(1, 1, &replaced)));
                    let mut over = payload.to_vec();
                    over.truncate(at);
                    over.extend(bomb);
                    siege.restore(format!("bomb {bomb:?} at the end {at}"), dump.of(&envelope(1, 1, &over)));
                }
            }
        }

        // Several changes at once, anywhere.
        let mut rng = Rng::seeded(seed + 1);
        for round in 0..if is_long_run() { 40_000 } else { 8_000 } {
            let mut scrambled = payload.to_vec();
            for _ in 0..1 + rng.below(6) {
                let at = rng.below(scrambled.len());
                match rng.below(4) {
                    0 => scrambled[at] = rng.next_u64() as u8,
                    1 => scrambled[at] = scrambled[at].wrapping_add(1),
                    2 => drop(scrambled.remove(at)),
                    _ => scrambled.insert(at, rng.next_u64() as u8),
                }
            }
            siege.restore(format!("scramble {round} of seed {seed}"), dump.of(&envelope(1, 1, &scrambled)));
        }
        // And what is no record at all.
        for other in [envelope(1, 2, payload), envelope(0, 1, payload), envelope(1, 0, payload), Vec::new()] {
            siege.restore("another kind", dump.of(&other));
        }
        let (sent, taken) = siege.end();

        let peak = megabytes(&mut client, "used_memory_peak");
        let seconds = (unix_ms() - began) as f64 / 1000.0;
        eprintln!("   {sent} payloads in {seconds:.1} s, {cut} of them cut; {taken} are records; {used:.1} MiB became {peak:.1}");
        assert!(peak < used + 6.0, "memory went from {used:.1} to {peak:.1} MiB");
        assert_eq!(rollout::dump(&mut client, KEY), before, "the record beside them is as it was");
        assert_eq!(client.info("deploy", "deploy_panics_caught"), "0", "{}", server.log());
        assert_index_matches(&mut client, &[0]);
        assert!(server.is_alive());
    });
}

#[test]
fn forged_rdb_lengths_do_not_end_the_server() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &PLAIN);
        let mut client = server.client();
        rich_record(&mut client, KEY);
        let dump = dump_of(&mut client, KEY);
        let mut siege = Siege::of(&mut server);
        // The string's own length, as the server's format has it, and the mark before it.
        for claim in [
            &b"\x80\xff\xff\xff\xff"[..],
            b"\x80\x10\x00\x00\x00",
            b"\x81\x00\x00\x00\xff\xff\xff\xff\xff",
            b"\x81\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x7f\xff",
            b"\xc0\x01",
            b"\xc1\x01\x02",
            b"\xc2\x01\x02\x03\x04",
            b"\xc3\x40\x64\x80\x10\x00\x00\x00",
            b"\xc3\x05\x80\xff\xff\xff\xff",
        ] {
            for tail in [&dump.envelope[..], &[]] {
                let body = [&dump.head[..], b"\x05", claim, tail, b"\x00"].concat();
                siege.restore(format!("{claim:?}"), dump.finished(body));
            }
        }
        for opcode in 0..=255u8 {
            let mut body = dump.body();
            body[10] = opcode;
            siege.restore(format!("opcode {opcode}"), dump.finished(body));
        }
        // Another version of the value's encoding, and another module's name.
        for at in 2..10 {
            for bit in 0..8 {
                let mut body = dump.body();
                body[at] ^= 1 << bit;
                siege.restore(format!("module id, byte {at} bit {bit}"), dump.finished(body));
            }
        }
        let (sent, taken) = siege.end();
        eprintln!("   {sent} payloads, {taken} taken");
        assert!(server.is_alive());
        assert_eq!(client.info("deploy", "deploy_panics_caught"), "0");
    });
}

#[test]
fn replica_survives_arbitrary_commands_of_its_primary() {
    on_each_server(|kind| {
        let source = Server::start(kind, &PLAIN);
        let mut client = source.client();
        let mut stream = ReplicationStream::of(&source);
        start_rollout_with(&mut client, KEY, 200_000);
        let batches: Vec<Vec<u8>> = stream
            .commands_until_now(&mut client)
            .into_iter()
            .filter(|words| words[0].eq_ignore_ascii_case(b"DEPLOY.APPLY"))
            .map(|words| words[2].clone())
            .collect();
        assert!(batches.len() > 4);

        let mut replica = Server::start(kind, &PLAIN);
        let mut primary = FakePrimary::of(&replica);
        let mut rng = Rng::seeded(7);
        let mut client = replica.client();
        for round in 0..if is_long_run() { 4_000 } else { 400 } {
            let key = format!("svc-{round}");
            for batch in &batches {
                let mut body = batch[HEADER_BYTES..batch.len() - CRC32_BYTES].to_vec();
                let whole = match rng.below(6) {
                    // As it is, so that the record exists for those that follow.
                    0..3 => batch.clone(),
                    3 => batch[..rng.below(batch.len())].to_vec(),
                    _ => {
                        for _ in 0..1 + rng.below(3) {
                            let at = rng.below(body.len());
                            body[at] = body[at].wrapping_add(1 + rng.below(255) as u8);
                        }
                        envelope(1, 2, &body)
                    }
                };
                primary.send(&[b"DEPLOY.APPLY".as_slice(), key.as_bytes(), &whole]);
            }
            if round % 50 == 49 {
                primary.wait_until_applied(&replica);
                assert!(replica.is_alive());
            }
        }
        primary.wait_until_applied(&replica);
        // Whatever became of them, they can be asked about.
        for key in scanned(&mut client) {
            for words in
                [&["DEPLOY.STATUS", &key][..], &["DEPLOY.TASKS", &key], &["DEPLOY.EVENTS", &key], &["DUMP", &key]]
            {
                if let Err(line) = client.try_call(words) {
                    assert!(!line.contains("internal"), "{words:?}: {line}");
                }
            }
        }
        assert_eq!(client.info("deploy", "deploy_panics_caught"), "0", "{}", replica.log());
        assert!(replica.is_alive());
    });
}

// ---- newer than this module -----------------------------------------------------------------------------------------

/// Commands that are rejected with BADSTATE for a record that cannot be decoded.
fn is_read_only(client: &mut Client, key: &str) {
    let manifest = manifest(&AGENTS, "huge");
    for words in [
        &["DEPLOY.STATUS", key][..],
        &["DEPLOY.HISTORY", key],
        &["DEPLOY.DEPLOY", key, "MANIFEST", &manifest],
        &["DEPLOY.PLAN", key, "MANIFEST", &manifest],
        &["DEPLOY.PROMOTE", key],
        &["DEPLOY.ROLLBACK", key],
        &["DEPLOY.PAUSE", key],
        &["DEPLOY.RESUME", key],
        &["DEPLOY.FAIL", key],
        &["DEPLOY.STOP", key],
        &["DEPLOY.TAG", key, "1", "x"],
        &["DEPLOY.REPORT", key, "agent-1", "ready"],
        &["DEPLOY.REGISTER", key, "agent-1", "http", "INSTANCE", "i-2", "ADDRESS", "h", "PORT", "1"],
        &["DEPLOY.CHECK", key, "i-1", "passing"],
        &["DEPLOY.DEREGISTER", key, "i-1"],
        &["DEPLOY.TASKS", key],
        &["DEPLOY.RESOLVE", key],
        &["DEPLOY.EVENTS", key],
    ] {
        let line = client.refused(words);
        assert!(line.starts_with("BADSTATE ") || line.starts_with("READONLY "), "{words:?}: {line}");
        if line.starts_with("BADSTATE ") {
            assert!(line.contains("newer") && line.contains("read-only"), "{words:?}: {line}");
        }
    }
}

/// Saves, and puts a newer format's record in the place of KEY's while the server is down. Gives the new payload.
fn with_a_newer_record(server: &mut Server) -> Vec<u8> {
    let dump = dump_of(&mut server.client(), KEY);
    let newer = of_newer_format(&dump.envelope);
    let file = server.folder.join("dump.rdb");
    server.restart_after(End::Save, || {
        let patched = patched_file(&fs::read(&file).expect("it was saved"), &dump.envelope, &newer);
        fs::write(&file, patched).expect("our own folder");
    });
    dump.of(&newer)
}

#[test]
fn newer_format_in_an_rdb_file_is_kept_read_only() {
    on_each_server(|kind| {
        let mut server = Server::start(kind, &PLAIN);
        let mut client = server.client();
        start_rollout(&mut client, KEY);
        start_rollout_with(&mut client, "known", 3_000);
        let newer = with_a_newer_record(&mut server);
        let mut client = server.client();
        is_read_only(&mut client, KEY);
        assert_eq!(rollout::dump(&mut client, KEY), newer, "byte for byte");
        assert_eq!(text(&client.call(&["TYPE", KEY])), "deploymnt");
        assert_eq!(scanned(&mut client), [KEY, "known"]);

        // The keys around it go on, and it stays what it is through all that keeps data.
        assert_completes(&mut client, "known");
        client.call(&["DEBUG", "RELOAD"]);
        assert_eq!(rollout::dump(&mut client, KEY), newer, "DEBUG RELOAD");
        client.call(&["RENAME", KEY, "renamed"]);
        client.call(&["COPY", "renamed", KEY]);
        client.call(&["COPY", "renamed", KEY, "DB", "2"]);
        client.call(&["DEL", "renamed"]);
        assert_eq!(rollout::dump(&mut client, KEY), newer, "RENAME and COPY");
        is_read_only(&mut client, KEY);
        let digest = client.call(&["DEBUG", "DIGEST-VALUE", KEY]);
        assert!(int(&client.call(&["MEMORY", "USAGE", KEY])) as usize >= newer.len());
        server.restart(End::Save);
        let mut client = server.client();
        assert_eq!(rollout::dump(&mut client, KEY), newer, "a restart");
        assert_eq!(client.call(&["DEBUG", "DIGEST-VALUE", KEY]), digest);

        // A replica gets the same bytes, and what was not decided cannot be undone by promoting it.
        let replica = Server::start(kind, &PLAIN);
        replica.replicate_from(&server);
        let mut theirs = replica.client();
        assert_eq!(dump(&mut theirs, KEY), newer, "a replica");
        is_read_only(&mut theirs, KEY);
        theirs.call(&["REPLICAOF", "NO", "ONE"]);
        is_read_only(&mut theirs, KEY);
        assert_eq!(dump(&mut theirs, KEY), newer, "a promoted replica");

        // One may delete it, and begin anew.
        client.call(&["DEL", KEY]);
        assert_eq!(client.deploy(KEY, &manifest(&AGENTS, "small"), &QUICK).int("version"), 1);
        assert_index_matches(&mut client, &[0]);
    });
}

#[test]
fn restore_of_a_newer_format_is_rejected() {
    on_each_server(|kind| {
        let server = Server::start(kind, &PLAIN);
        let mut client = server.client();
        rich_record(&mut client, KEY);
        let dump = dump_of(&mut client, KEY);
        let newer = dump.of(&of_newer_format(&dump.envelope));
        let line = restore(&mut client, "newer", &newer, &[]).expect_err("refused");
        assert!(line.starts_with("ERR "), "{line}");
        let before = rollout::dump(&mut client, KEY);
        restore(&mut client, KEY, &newer, &["REPLACE"]).expect_err("refused");
        assert_eq!(rollout::dump(&mut client, KEY), before, "and replaces nothing");
        client.call(&["MULTI"]);
        restore(&mut client, "newer", &newer, &[]).expect("queued");
        let outcome = client.try_call(&["EXEC"]);
        assert!(!matches!(&outcome, Ok(Value::Array(replies)) if replies.contains(&Value::Okay)), "{outcome:?}");
        assert_eq!(scanned(&mut client), [KEY]);
    });
}

#[test]
fn newer_format_in_an_append_only_file_is_kept() {
    on_each_server(|kind| {
        for preamble in ["yes", "no"] {
            let args = ["--rdbcompression", "no", "--appendonly", "yes", "--aof-use-rdb-preamble", preamble];
            let mut server = Server::start(kind, &args);
            let mut client = server.client();
            start_rollout_with(&mut client, KEY, 200_000);
            let dump = dump_of(&mut client, KEY);
            let newer = of_newer_format(&dump.envelope);
            let file = server.append_only_file();
            // As a newer module would have written it: a RESTORE that a client sent, a rewritten record, and a change.
            let batch = envelope(99, 2, b"whatever it is that comes next year");
            server.restart_after(End::NoSave, || {
                let mut file = fs::OpenOptions::new().append(true).open(file).expect("our own folder");
                let whole = dump.of(&newer);
                for words in [
                    &[b"RESTORE".as_slice(), b"restored", b"0", &whole][..],
                    &[b"DEPLOY.APPLY", b"rewritten", b"RECORD", &newer],
                    &[b"DEPLOY.APPLY", KEY.as_bytes(), &batch],
                    &[b"SET", b"after", b"all that"],
                ] {
                    file.write_all(&command(words)).expect("our own folder");
                }
            });
            let mut client = server.client();
            assert_eq!(text(&client.call(&["GET", "after"])), "all that", "{}", server.log());
            let is_kept = |client: &mut Client, when: &str| {
                for key in ["restored", "rewritten"] {
                    is_read_only(client, key);
                    assert_eq!(rollout::dump(client, key), dump.of(&newer), "{key}, {when}, preamble {preamble}");
                }
                // The record that lacks a change is read-only too: what it says is known to be old.
                let line = client.refused(&["DEPLOY.PAUSE", KEY]);
                assert!(line.starts_with("BADSTATE "), "{when}: {line}");
            };
            is_kept(&mut client, "loaded");
            rewrite_aof(&mut client);
            server.restart(End::NoSave);
            is_kept(&mut server.client(), "rewritten and loaded");
            assert!(server.is_alive());
        }
    });
}

#[test]
fn newer_or_damaged_payload_from_the_primary_is_kept() {
    on_each_server(|kind| {
        let source = Server::start(kind, &PLAIN);
        let mut client = source.client();
        rich_record(&mut client, KEY);
        let dump = dump_of(&mut client, KEY);
        let newer = of_newer_format(&dump.envelope);
        let mut damaged = dump.envelope.clone();
        damaged[HEADER_BYTES + 3] ^= 1;

        let args = ["--rdbcompression", "no", "--appendonly", "yes", "--aof-use-rdb-preamble", "no"];
        let mut replica = Server::start(kind, &args);
        let mut primary = FakePrimary::of(&replica);
        primary.send(&[b"RESTORE".as_slice(), b"newer", b"0", &dump.of(&newer)]);
        primary.send(&[b"RESTORE".as_slice(), b"damaged", b"0", &dump.of(&damaged)]);
        primary.send(&[b"RESTORE".as_slice(), b"good", b"0", &dump.of(&dump.envelope)]);
        primary.send(&[b"DEPLOY.APPLY".as_slice(), b"whole", b"RECORD", &dump.envelope]);
        primary.send(&[b"DEPLOY.APPLY".as_slice(), b"frozen", b"RECORD", &dump.envelope]);
        primary.send(&[b"RESTORE".as_slice(), b"newer-changed", b"0", &dump.of(&newer)]);
        primary.send(&[b"RESTORE".as_slice(), b"damaged-changed", b"0", &dump.of(&damaged)]);
        for key in ["frozen", "newer-changed", "damaged-changed", "begun"] {
            primary.send(&[b"DEPLOY.APPLY".as_slice(), key.as_bytes(), &envelope(99, 2, b"a change of next year")]);
        }
        primary.wait_until_applied(&replica);
        let mut client = replica.client();
        let all_is_right = |client: &mut Client, when: &str| {
            for (key, envelope) in
                [("newer", &newer), ("damaged", &damaged), ("good", &dump.envelope), ("whole", &dump.envelope)]
            {
                assert_eq!(rollout::dump(client, key), dump.of(envelope), "{key}, {when}");
            }
            is_read_only(client, "newer");
            // Each says why it is read-only, however it came there.
            for (key, why) in [
                ("newer", "was written by a newer version"),
                ("newer-changed", "was written by a newer version"),
                ("damaged", "is damaged"),
                ("damaged-changed", "is damaged"),
                ("frozen", "a change of this record could not be applied"),
                ("begun", "a change of this record could not be applied"),
            ] {
                let line = client.refused(&["DEPLOY.STATUS", key]);
                assert!(line.starts_with("BADSTATE ") && line.contains(why), "{key}, {when}: {line}");
            }
            assert_eq!(client.info("deploy", "deploy_records_unreadable"), "6", "{when}");
            assert_eq!(client.status("good")["status"], json!("paused"), "{when}");
            assert_eq!(client.status("whole")["status"], json!("paused"), "{when}");
        };
        all_is_right(&mut client, "as it came");
        rewrite_aof(&mut client);
        client.call(&["REPLICAOF", "NO", "ONE"]);
        all_is_right(&mut client, "promoted");
        server_restarts(&mut replica);
        all_is_right(&mut replica.client(), "rewritten as commands, and restarted");
        // As a primary it decides about what it can read, and about nothing else.
        let mut client = replica.client();
        client.call(&["DEPLOY.RESUME", "good"]);
        is_read_only(&mut client, "newer");
    });
}

fn server_restarts(server: &mut Server) {
    server.restart(End::NoSave);
}
