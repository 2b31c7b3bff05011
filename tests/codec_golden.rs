//! Payloads: golden files of the frozen format, round trips, damaged and untrusted bytes.
//!
//! The golden files are written anew only by `UPDATE_GOLDEN=1 cargo test --test codec_golden`, and only for a format
//! that no release has written yet.

use proptest::prelude::*;
use redis_deploy::codec;
use redis_deploy::codec::{
    decode_change_set, decode_record, decode_trusted_record, encode_change_set, encode_record, encode_uncommitted,
    header_of, summary_of, DecodeError, MAX_INSTANCES_PER_AGENT, MAX_NUMBER, MAX_TEXT_BYTES, MAX_TIME_MS,
};
use redis_deploy::engine;
use redis_deploy::engine::command::{Command, Context, Deploy, Limits, Report, ReportedState};
use redis_deploy::engine::deployment::{Mode, Status};
use redis_deploy::engine::event::EVENT_NAMES;
use redis_deploy::engine::manifest::ManifestText;
use redis_deploy::engine::policy::{Condition, Gate, Gates, OnTimeout, Step};
use redis_deploy::engine::record::Record;
use redis_deploy::engine::{Change, ChangeSet, EventBody, Summary};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use test_support::payload::{envelope, with_checksum, CRC32_BYTES, HEADER_BYTES};
use test_support::{arbitrary, golden, updates_golden};

// ---- golden files ---------------------------------------------------------------------------------------------------

/// The formats that are read, each with its values behind the golden files. The last one is written.
const FORMATS: [u16; 2] = [1, 2];

fn golden_record(format: u16) -> Record {
    match format {
        1 => golden::record(),
        _ => golden::record_of_format_2(),
    }
}

fn golden_batches(format: u16) -> Vec<(&'static str, ChangeSet)> {
    match format {
        1 => golden::change_sets(),
        _ => golden::change_sets_of_format_2(),
    }
}

/// One change set with a change of each type, as a command with many effects makes it.
fn change_set_of_all(format: u16) -> ChangeSet {
    let mut changes: Vec<Change> = golden_batches(format).into_iter().flat_map(|(_, one)| one.changes).collect();
    for (revision, change) in (46..).zip(&mut changes) {
        if let Change::Event(event) = change {
            Arc::make_mut(event).revision = revision;
        }
    }
    ChangeSet { changes, log_max: 100 }
}

fn golden_file(format: u16, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/codec").join(format!("v{format}-{name}.bin"))
}

/// Returns the bytes of a golden file. Those of the format that is written must be what is written now.
fn golden_bytes(format: u16, name: &str, written_now: &[u8]) -> Vec<u8> {
    let file = golden_file(format, name);
    let is_written = Some(&format) == FORMATS.last();
    if updates_golden() && is_written {
        std::fs::write(&file, written_now).expect("the golden file is writable");
    }
    let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert_eq!(bytes == written_now, is_written, "the bytes of {name} have changed: that takes a new format");
    bytes
}

#[test]
fn records_of_every_format_are_read() {
    for format in FORMATS {
        let record = golden_record(format);
        let bytes = golden_bytes(format, "record", &encode_record(&record));
        assert_eq!(decode_record(&bytes), Ok(record.clone()), "format {format}");
        let trusted = decode_trusted_record(&bytes);
        assert_eq!(trusted, Ok((record.clone(), Summary::of(&record))), "format {format}");
        assert_eq!(summary_of(&bytes).ok(), Summary::of(&record), "format {format}");
        let header = header_of(&bytes).expect("it is valid");
        assert_eq!((header.deployment, header.revision), (record.deployment, record.revision), "format {format}");
        // Its log is written anew, and can be written on.
        let read = decode_record(&bytes).expect("it is valid");
        assert_eq!(decode_record(&encode_record(&read)), Ok(read), "format {format}");
    }
}

#[test]
fn change_sets_of_every_format_are_read() {
    for format in FORMATS {
        let change_set = change_set_of_all(format);
        let bytes = golden_bytes(format, "change_set", &encode_change_set(&change_set));
        assert_eq!(decode_change_set(&bytes), Ok(change_set), "format {format}");
        for (name, change_set) in golden_batches(format) {
            let bytes = golden_bytes(format, name, &encode_change_set(&change_set));
            assert_eq!(decode_change_set(&bytes), Ok(change_set), "{name} of format {format}");
        }
    }
}

/// The types of events that format 2 added.
const EVENTS_OF_FORMAT_2: [&str; 3] = ["agent_draining", "agent_drained", "bake_started"];

#[test]
fn each_type_of_event_has_a_golden_file() {
    for format in FORMATS {
        let change_sets = golden_batches(format);
        let names: BTreeSet<&str> = change_sets.iter().map(|(name, _)| *name).collect();
        let is_known = |name: &&str| format > 1 || !EVENTS_OF_FORMAT_2.contains(name);
        let events: BTreeSet<&str> = EVENT_NAMES.iter().copied().filter(is_known).collect();
        let silent = if format == 1 { 2 } else { 3 };
        assert_eq!(names.len(), events.len() + silent, "one change set for each type of event and of silent change");
        let mut types = BTreeSet::new();
        for (name, change_set) in &change_sets {
            let [change] = &change_set.changes[..] else { panic!("{name} has one change") };
            if let Change::Event(event) = change {
                assert_eq!(event.body.name(), *name);
                types.insert(event.body.name());
            }
            assert!(golden_file(format, name).exists() || updates_golden(), "{name} of format {format}");
        }
        assert_eq!(types, events);
    }
}

#[test]
fn golden_files_are_all_of_a_known_name() {
    let mut known = BTreeSet::new();
    for format in FORMATS {
        known.extend(golden_batches(format).iter().map(|(name, _)| golden_file(format, name)));
        known.extend(["record", "change_set"].map(|name| golden_file(format, name)));
    }
    let folder = golden_file(1, "record").parent().expect("a folder").to_path_buf();
    for entry in std::fs::read_dir(folder).expect("the golden files") {
        let file = entry.expect("a file").path();
        assert!(known.contains(&file), "{} is of no test", file.display());
    }
}

/// A change set of an earlier format comes from a primary that is not upgraded yet: it leads to the same record.
#[test]
fn change_sets_of_an_earlier_format_lead_to_the_same_record() {
    let read = |name: &str| std::fs::read(golden_file(1, name)).expect("a golden file");
    let (record, change_set) = (read("record"), read("change_set"));
    let mut replica = decode_record(&record).expect("it is valid");
    engine::apply(&mut replica, &decode_change_set(&change_set).expect("it is valid"));
    let mut expected = golden::record();
    engine::apply(&mut expected, &change_set_of_all(1));
    assert_eq!(replica, expected);
}

/// Configuration without a file of failing seeds: a failure becomes a test of its own.
fn unsaved() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

// ---- there and back -------------------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(unsaved())]

    #[test]
    fn records_round_trip(record in arbitrary::records()) {
        let bytes = encode_record(&record);
        prop_assert_eq!(decode_record(&bytes), Ok(record.clone()));
        prop_assert_eq!(encode_record(&decode_record(&bytes).expect("it was just read")), bytes);
    }

    /// A replica gets every change set encoded, and at any time the record.
    #[test]
    fn encoded_batches_give_a_replica_the_same_record(history in arbitrary::histories()) {
        let mut replica = Record::empty();
        for decision in history {
            let batch = decode_change_set(&encode_change_set(&decision.change_set)).expect("the engine made it");
            engine::apply(&mut replica, &batch);
            prop_assert_eq!(&replica, &decision.record);
            replica = decode_record(&encode_record(&replica)).expect("the engine made it");
            prop_assert_eq!(&replica, &decision.record);
        }
    }

    #[test]
    fn a_change_set_survives(batch in arbitrary::change_sets()) {
        let bytes = encode_change_set(&batch);
        prop_assert_eq!(decode_change_set(&bytes), Ok(batch));
    }
}

#[test]
fn a_shared_manifest_is_encoded_once() {
    // A log has no manifests.
    let record = Record { log: Default::default(), ..golden::record() };
    let bytes = encode_record(&record);
    for version in record.versions.iter() {
        let text = version.content.text().as_bytes();
        assert_eq!(
            bytes.windows(text.len()).filter(|window| *window == text).count(),
            1,
            "of version {}",
            version.number
        );
    }
    let read = decode_record(&bytes).expect("it is valid");
    assert!(Arc::ptr_eq(&read.versions[0].content, &read.versions[1].content));
}

#[test]
fn equal_texts_of_a_decoded_record_are_one_in_memory() {
    let read = decode_record(&encode_record(&golden::record())).expect("it is valid");
    let deployment = read.deployment.as_ref().expect("it has one");
    let [old, canary] = read.instances.of_agent("monitor") else { panic!("the golden record has two of it") };
    let service = read.services.get("monitor-1").expect("the golden record has it");
    for agent in [&old.agent, &canary.agent, &canary.node, &service.owner.agent] {
        assert!(Arc::ptr_eq(&deployment.changed[0], agent));
    }
    for job_id in [&read.versions[2].job_id, &canary.job_id, &service.owner.job_id, &read.requests[0].receipt.job_id] {
        assert!(Arc::ptr_eq(&deployment.target_job_id, job_id));
    }
    assert!(Arc::ptr_eq(&deployment.id, &read.versions[2].deployment_id));
    assert!(Arc::ptr_eq(&deployment.by, &read.versions[2].by));
}

#[test]
fn a_node_is_left_out_where_it_is_the_agent() {
    let times =
        |text: &str, bytes: &[u8]| bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count();
    let mut golden = golden::change_sets();
    let (_, healthy) = golden.swap_remove(7);
    assert_eq!(times("monitor", &encode_change_set(&healthy)), 1);
    let mut other = healthy.clone();
    if let Change::Event(event) = &mut other.changes[0] {
        if let EventBody::AgentHealthy { instance, .. } = &mut Arc::make_mut(event).body {
            instance.agent = "monitor@a".into();
        }
    }
    for change_set in [healthy, other] {
        let read = decode_change_set(&encode_change_set(&change_set));
        assert_eq!(read, Ok(change_set));
    }
}

#[test]
fn events_of_a_change_set_share_their_texts() {
    let read = decode_change_set(&encode_change_set(&change_set_of_all(2))).expect("it is valid");
    let events = read.changes.iter().filter_map(|change| match change {
        Change::Event(event) => Some(&event.deployment_id),
        Change::Silent(_) => None,
    });
    let ids: Vec<&Arc<str>> = events.collect();
    assert!(ids.windows(2).all(|pair| Arc::ptr_eq(pair[0], pair[1])));
}

#[test]
fn equal_manifests_are_encoded_once_though_they_are_two_in_memory() {
    let mut record = golden::record();
    let text = record.versions[0].content.text().to_string();
    Arc::make_mut(&mut Arc::make_mut(&mut record.versions)[0]).content = Arc::new(ManifestText::new(Arc::from(text)));
    assert_eq!(encode_record(&record), encode_record(&golden::record()));
}

// ---- encoded before the commit --------------------------------------------------------------------------------------

/// The log has the bytes of each event already, and those are sent.
#[test]
fn uncommitted_changes_are_encoded_as_any_change_set() {
    let manifest =
        |word| format!(r#"{{"type":"service","nodes":[{{"node_id":"a","word":{word}}},{{"node_id":"b"}}]}}"#);
    let deploy = |word, request: Option<&str>| {
        let request = request.map(Arc::from);
        Command::Deploy(Deploy { manifest: manifest(word).into_bytes(), request, ..Deploy::default() })
    };
    let report = |agent: &str, reason: String| {
        let reason = Some(Arc::from(reason));
        Command::Report(Report {
            agent: agent.into(),
            state: ReportedState::Ready,
            version: None,
            job: None,
            attempt: None,
            reason,
            sessions: None,
        })
    };
    let long = "so long that its event's length takes more than a byte: ".repeat(20);
    let commands = [
        deploy(1, Some("first")),
        deploy(1, Some("first")),
        report("a", "well".into()),
        report("b", long),
        deploy(2, Some("second")),
        deploy(3, None),
    ];
    let (mut record, mut changes) = (codec::empty_record(), 0);
    for (now_ms, command) in (1_000..).zip(&commands) {
        let context = Context { key: "app", now_ms, by: "default", limits: Limits::default() };
        let pending = engine::decide_in_place(&mut record, command, &context).expect("a good command");
        assert_eq!(encode_uncommitted(&pending), encode_change_set(&pending.change_set), "{command:?}");
        changes += pending.change_set.changes.len();
        pending.commit();
        assert_eq!(decode_record(&encode_record(&record)).as_ref(), Ok(&record));
    }
    assert!(changes > 12, "{changes}");
}

#[test]
fn a_summary_is_read_alone_and_must_be_true() {
    for record in [golden::record(), Record { log: Default::default(), ..golden::record() }] {
        assert_eq!(summary_of(&encode_record(&record)).ok(), Summary::of(&record));
    }
    assert_eq!(summary_of(b"dp\x01"), Err(DecodeError::Truncated));
    assert_eq!(summary_of(&encode_change_set(&golden::change_sets()[0].1)), Err(DecodeError::Malformed));
    // That of an untrusted record is compared: the one byte by which these two differ is the status.
    let mut record = golden::record();
    let bytes = encode_record(&record);
    let status = Summary::of(&record).expect("it has a deployment").status;
    deployment(&mut record).status = if status == Status::Failed { Status::Cancelled } else { Status::Failed };
    let other = encode_record(&record);
    let place =
        bytes.iter().zip(&other).skip(HEADER_BYTES).position(|(a, b)| a != b).expect("they differ") + HEADER_BYTES;
    let lies = with_checksum([&bytes[..place], &other[place..=place], &bytes[place + 1..]].concat());
    let why = "its summary is that of another record".to_string();
    assert_eq!(decode_record(&lies), Err(DecodeError::Invalid(why)));
}

/// The log of a record that this server has saved is validated when it is read out.
#[test]
fn a_trusted_record_is_decoded_with_its_log_unread() {
    let record = golden::record();
    assert_eq!(decode_trusted_record(&encode_record(&record)), Ok((record.clone(), Summary::of(&record))));
    let mut unread = 0;
    let whole = encode_record(&record);
    let without = encode_record(&Record { log: Default::default(), ..record.clone() });
    for place in without.len()..whole.len() - CRC32_BYTES {
        let mut scratched = whole.clone();
        scratched[place] ^= 0x55;
        let scratched = with_checksum(scratched);
        if let Ok((read, _)) = decode_trusted_record(&scratched) {
            unread += u32::from(decode_record(&scratched).is_err());
            // An event that cannot be decoded is left out.
            assert!(read.log.iter().count() <= record.log.len());
            assert_eq!(read.instances, record.instances);
        }
    }
    assert!(unread > 0, "some of the log was not validated");
}

// ---- damaged, foreign and newer bytes -------------------------------------------------------------------------------

/// Returns the envelope of a record around a payload.
fn enveloped(payload: &[u8]) -> Vec<u8> {
    envelope(2, 1, payload)
}

#[test]
fn envelope_has_the_documented_layout() {
    let bytes = encode_record(&golden::record());
    let payload = &bytes[HEADER_BYTES..bytes.len() - CRC32_BYTES];
    assert_eq!(enveloped(payload), bytes);
}

#[test]
fn a_truncated_envelope_is_refused() {
    for bytes in [encode_record(&golden::record()), encode_change_set(&golden::change_sets()[0].1)] {
        for length in 0..bytes.len() {
            assert_eq!(decode_record(&bytes[..length]), Err(DecodeError::Truncated), "at {length}");
            assert_eq!(decode_change_set(&bytes[..length]), Err(DecodeError::Truncated), "at {length}");
        }
    }
}

#[test]
fn a_truncated_payload_in_a_right_envelope_is_refused() {
    let bytes = encode_record(&golden::record());
    let payload = &bytes[HEADER_BYTES..bytes.len() - CRC32_BYTES];
    for length in 0..payload.len() {
        assert!(decode_record(&enveloped(&payload[..length])).is_err(), "at {length}");
    }
}

#[test]
fn bit_flips_are_rejected() {
    let bytes = encode_record(&golden::record());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_record(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn any_flipped_bit_under_a_right_checksum_is_refused_or_read_consistently() {
    let bytes = encode_record(&golden::record());
    let mut still_valid = 0;
    for bit in 0..(bytes.len() - CRC32_BYTES) * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(record) = decode_record(&with_checksum(flipped)) {
            still_valid += 1;
            assert_eq!(decode_record(&encode_record(&record)), Ok(record), "bit {bit}");
        }
    }
    assert!(still_valid > 0, "changed texts and times are as good as others");
}

proptest! {
    #![proptest_config(unsaved())]

    #[test]
    fn scrambled_payloads_are_refused_or_read_consistently(
        record in arbitrary::records(),
        scrambles in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let bytes = encode_record(&record);
        let mut payload = bytes[HEADER_BYTES..bytes.len() - CRC32_BYTES].to_vec();
        for (place, byte) in scrambles {
            let place = place.index(payload.len());
            payload[place] = byte;
        }
        if let Ok(read) = decode_record(&enveloped(&payload)) {
            prop_assert_eq!(decode_record(&encode_record(&read)), Ok(read));
        }
    }

    #[test]
    fn noise_is_refused_or_read_consistently(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_record(&noise);
        let _ = decode_change_set(&noise);
        let _ = decode_record(&enveloped(&noise));
    }
}

#[test]
fn trailing_bytes_are_refused() {
    let bytes = encode_record(&golden::record());
    assert_eq!(decode_record(&[&bytes[..], b"\0"].concat()), Err(DecodeError::Malformed));
    let payload = &bytes[HEADER_BYTES..bytes.len() - CRC32_BYTES];
    assert_eq!(decode_record(&enveloped(&[payload, b"\0"].concat())), Err(DecodeError::Malformed));
}

#[test]
fn a_newer_format_is_distinguished_from_damage() {
    let mut newer = encode_record(&golden::record());
    newer[2..4].copy_from_slice(&3u16.to_le_bytes());
    assert_eq!(decode_record(&newer), Err(DecodeError::Checksum));
    newer[4..6].copy_from_slice(&[7, 0xff]);
    let newer = with_checksum(newer);
    assert_eq!(decode_record(&newer), Err(DecodeError::NewerFormat { format: 3 }));
    assert_eq!(decode_change_set(&newer), Err(DecodeError::NewerFormat { format: 3 }));
    assert_eq!(decode_record(&newer[..newer.len() - 1]), Err(DecodeError::Truncated));
}

#[test]
fn foreign_bytes_and_other_kinds_are_refused() {
    let record = encode_record(&golden::record());
    assert_eq!(decode_record(b""), Err(DecodeError::Truncated));
    assert_eq!(decode_record(b"REDIS0011"), Err(DecodeError::NotOurs));
    assert_eq!(decode_change_set(&record), Err(DecodeError::Malformed));
    assert_eq!(decode_record(&encode_change_set(&golden::change_sets()[0].1)), Err(DecodeError::Malformed));
    for (place, byte) in [(2, 0), (4, 0), (5, 1)] {
        let mut odd = record.clone();
        odd[place] = byte;
        assert_eq!(decode_record(&with_checksum(odd)), Err(DecodeError::Malformed), "byte {place} as {byte}");
    }
    let mut huge = record.clone();
    huge[6..10].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(decode_record(&huge), Err(DecodeError::TooLarge));
}

// ---- valid bytes, invalid values ------------------------------------------------------------------------------------

fn refusal(change: impl FnOnce(&mut Record)) -> String {
    let mut record = golden::record();
    change(&mut record);
    match decode_record(&encode_record(&record)) {
        Err(DecodeError::Invalid(why)) => why,
        other => panic!("expected an invalid record, not {other:?}"),
    }
}

fn deployment(record: &mut Record) -> &mut engine::deployment::Deployment {
    record.deployment.as_mut().map(Arc::make_mut).expect("the golden record has one")
}

fn relog(record: &mut Record, change: impl FnOnce(&mut Vec<Arc<engine::Event>>)) {
    let mut log = record.log.iter().collect();
    change(&mut log);
    record.log = log.into_iter().collect();
}

/// Changes the canary.
fn canary(record: &mut Record, change: impl FnOnce(&mut engine::instance::Instance)) {
    let mut canary = record.instances.iter().find(|i| i.version == 3).expect("the golden record has one").clone();
    record.instances.remove(&canary.key());
    change(&mut canary);
    record.instances.insert(canary);
}

fn approved_by(count: u32) -> Gate {
    Gate { condition: Condition::Approvals { count, others: false }, timeout_ms: 0, on_timeout: OnTimeout::Fail }
}

#[test]
fn a_decoded_record_is_validated_as_a_users_input() {
    let version = |record: &mut Record, change: fn(&mut engine::version::Version)| {
        change(Arc::make_mut(&mut Arc::make_mut(&mut record.versions)[2]));
    };
    assert_eq!(refusal(|r| Arc::make_mut(&mut r.versions).swap(0, 1)), "its versions are not in order");
    assert_eq!(refusal(|r| version(r, |v| v.number = 2)), "its versions are not in order");
    assert_eq!(refusal(|r| r.last_version = 2), "a version is newer than the newest");
    assert_eq!(refusal(|r| version(r, |v| v.tag = Some("first".into()))), "two versions have the same tag");
    assert_eq!(refusal(|r| r.current_version = Some(9)), "its current version is missing");
    assert_eq!(refusal(|r| deployment(r).target_version = 9), "its target version is missing");
    assert_eq!(refusal(|r| deployment(r).mode = Mode::Unchanged), "its deployment has a mode that only replies have");
    assert_eq!(refusal(|r| r.deployment = None), "it has no deployment");
    assert_eq!(refusal(|r| r.revision = 10), "a task is newer than the record");
    assert_eq!(refusal(|r| r.revision = 41), "an instance is newer than the record");
    assert_eq!(refusal(|r| r.revision = 44), "the log ends with the newest event");
    assert_eq!(refusal(|r| relog(r, |log| log.swap(0, 1))), "the log has no gaps");
    assert_eq!(refusal(|r| canary(r, |i| i.created = 2)), "two instances came at once");
    assert_eq!(refusal(|r| canary(r, |i| i.node = "n".repeat(257).into())), "an agent's id is too long");
    assert_eq!(
        refusal(|r| version(r, |v| v.policy.healthy_deadline_ms = 1)),
        "policies.update.min_healthy_ms must be less than healthy_deadline_ms (20000 is not less than 1)"
    );
    assert_eq!(
        refusal(|r| version(r, |v| v.policy.progress_deadline_ms = 1 << 53)),
        "policies.update.progress_deadline_ms must be 0 or a positive integer"
    );
    assert_eq!(
        refusal(|r| version(r, |v| v.policy.steps = vec![Step { percent: 100, soak_ms: 0, gates: None }])),
        "policies.update.steps must be an array of at most 20 steps"
    );
    assert_eq!(
        refusal(|r| version(r, |v| v.policy.gates = Gates::from([("signed".into(), approved_by(0))]))),
        "policies.update.gates must be an object of at most 16 gates"
    );
    assert_eq!(
        refusal(|r| version(r, |v| v.policy.cohort = Some("".into()))),
        "policies.update.cohort must be a text of 1 to 128 bytes"
    );
    assert_eq!(
        refusal(|r| version(r, |v| v.content = Arc::new(ManifestText::new(r#"{"nodes":3}"#.into())))),
        "nodes must be an array"
    );
    assert_eq!(
        refusal(|r| version(r, |v| v.agents = Some(Arc::from(["stranger".into()])))),
        "AGENTS names stranger, which is an agent of no node"
    );
    assert_eq!(
        refusal(|r| r.requests = Arc::new(std::iter::repeat_n(r.requests[0].clone(), 17).collect())),
        "it remembers too many requests"
    );
}

#[test]
fn decoded_numbers_and_times_cannot_overflow_arithmetic() {
    assert_eq!(refusal(|r| r.revision = MAX_NUMBER + 1), "9007199254740992 is beyond 9007199254740991");
    assert_eq!(refusal(|r| r.updated_at = MAX_TIME_MS + 1), "18014398509481985 is beyond 18014398509481984");
    let mut record = golden::record();
    record.revision = MAX_NUMBER;
    record.log = Default::default();
    record.updated_at = MAX_TIME_MS;
    assert_eq!(decode_record(&encode_record(&record)), Ok(record));
}

#[test]
fn instances_per_agent_are_bounded() {
    let mut record = golden::record();
    record.revision = 1_000_000;
    record.log = Default::default();
    let planner = record.instances.of_agent("planner@a")[0].clone();
    for i in 1..MAX_INSTANCES_PER_AGENT as u64 {
        let job_id = Arc::from(format!("job-{i}"));
        record.instances.insert(engine::instance::Instance { job_id, created: 100 + i, ..planner.clone() });
    }
    assert_eq!(decode_record(&encode_record(&record)), Ok(record.clone()));
    record.instances.insert(engine::instance::Instance { job_id: "one more".into(), created: 99_999, ..planner });
    assert_eq!(
        decode_record(&encode_record(&record)),
        Err(DecodeError::Invalid("agent planner@a has too many instances".to_string()))
    );
}

#[test]
fn text_lengths_are_bounded() {
    let mut record = golden::record();
    deployment(&mut record).reason = Some("x".repeat(MAX_TEXT_BYTES).into());
    assert_eq!(decode_record(&encode_record(&record)), Ok(record.clone()));
    deployment(&mut record).reason = Some("x".repeat(MAX_TEXT_BYTES + 1).into());
    assert_eq!(decode_record(&encode_record(&record)), Err(DecodeError::TooLarge));
}

#[test]
fn a_manifest_is_in_a_change_set_and_not_in_the_log() {
    let (_, batch) = golden::change_sets().swap_remove(0);
    let Change::Event(event) = &batch.changes[0] else { panic!("an event comes first") };
    let mut late = (**event).clone();
    late.revision = 45;
    assert_eq!(
        refusal(|r| relog(r, |log| *log.last_mut().expect("the golden record's") = Arc::new(late))),
        "its log has a manifest"
    );
    let mut slim = (**event).clone();
    if let EventBody::DeploymentStarted(beginning) = &mut slim.body {
        beginning.version.content = Arc::new(ManifestText::omitted());
    }
    let slim = ChangeSet { changes: vec![Change::Event(Arc::new(slim))], log_max: 100 };
    assert!(matches!(decode_change_set(&encode_change_set(&slim)), Err(DecodeError::Invalid(_))));
}

#[test]
fn the_events_of_a_change_set_are_in_order() {
    let (_, batch) = golden::change_sets().swap_remove(9);
    let twice = ChangeSet { changes: [batch.changes.clone(), batch.changes].concat(), log_max: 100 };
    assert_eq!(
        decode_change_set(&encode_change_set(&twice)),
        Err(DecodeError::Invalid("its events are not in order".to_string()))
    );
}
