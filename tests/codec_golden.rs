//! Compatibility of saved bytes: every release reads what an earlier one wrote, and rejects everything else.
//!
//! The golden files are written anew only by `UPDATE_GOLDEN=1 cargo test --test codec_golden`, and only for a
//! format that no release has written yet.

use proptest::prelude::*;
use redis_deploy::codec;
use redis_deploy::codec::{
    decode_batch, decode_record, decode_saved_record, encode_batch, encode_pending, encode_record, overview_of,
    DecodeError, MAX_INSTANCES_PER_AGENT, MAX_NUMBER, MAX_TEXT_BYTES, MAX_TIME_MS,
};
use redis_deploy::engine;
use redis_deploy::engine::command::{Command, Context, Deploy, Limits, Report, Reported};
use redis_deploy::engine::deployment::{Mode, Record, Status};
use redis_deploy::engine::manifest::Content;
use redis_deploy::engine::{Batch, Change, EventBody, Overview};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use test_support::{arbitrary, golden, updates_golden};

const HEADER_BYTES: usize = 10;
const CHECKSUM_BYTES: usize = 4;

// ---- golden files ----------------------------------------------------------------------------------------------------

fn golden_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/codec").join(format!("v2-{name}.bin"))
}

fn golden_bytes(name: &str, written_now: &[u8]) -> Vec<u8> {
    let file = golden_file(name);
    if updates_golden() {
        std::fs::write(&file, written_now).expect("the golden file is writable");
    }
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn golden_record_encodes_and_decodes_unchanged() {
    let record = golden::record();
    let bytes = golden_bytes("record", &encode_record(&record));
    assert_eq!(encode_record(&record), bytes, "the bytes have changed: that takes a new format");
    assert_eq!(decode_record(&bytes), Ok(record));
}

#[test]
fn golden_changes_encode_and_decode_unchanged() {
    let batches = golden::batches();
    let kinds: BTreeSet<&str> = batches.iter().map(|(name, _)| *name).collect();
    assert_eq!(kinds.len(), arbitrary::EVENT_KINDS as usize + 2, "one batch for each kind of change");
    for (name, batch) in batches {
        let bytes = golden_bytes(name, &encode_batch(&batch));
        assert_eq!(encode_batch(&batch), bytes, "the bytes of {name} have changed: that takes a new format");
        assert_eq!(decode_batch(&bytes), Ok(batch), "{name}");
    }
}

/// Configuration without a file of failing seeds: a failure becomes a test of its own.
fn unsaved() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

// ---- there and back --------------------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(unsaved())]

    #[test]
    fn records_round_trip(record in arbitrary::records()) {
        let bytes = encode_record(&record);
        prop_assert_eq!(decode_record(&bytes), Ok(record.clone()));
        prop_assert_eq!(encode_record(&decode_record(&bytes).expect("it was just read")), bytes);
    }

    /// A replica gets every batch as bytes, and may be sent the record as bytes at any point.
    #[test]
    fn encoded_batches_give_a_replica_the_same_record(history in arbitrary::histories()) {
        let mut replica = Record::empty();
        for decision in history {
            let batch = decode_batch(&encode_batch(&decision.batch)).expect("the engine made it");
            engine::apply(&mut replica, &batch);
            prop_assert_eq!(&replica, &decision.record);
            replica = decode_record(&encode_record(&replica)).expect("the engine made it");
            prop_assert_eq!(&replica, &decision.record);
        }
    }

    #[test]
    fn batches_round_trip(batch in arbitrary::batches()) {
        let bytes = encode_batch(&batch);
        prop_assert_eq!(decode_batch(&bytes), Ok(batch));
    }
}

#[test]
fn repeated_strings_are_encoded_once_and_shared_after_decoding() {
    // An event says all that it says by itself.
    let record = Record { log: Default::default(), ..golden::record() };
    let bytes = encode_record(&record);
    for once in [&**record.versions[0].content.text(), "dep_agent-api_2", "looking into it"] {
        let found = bytes.windows(once.len()).filter(|window| *window == once.as_bytes()).count();
        assert_eq!(found, 1, "{once}");
    }
    let read = decode_record(&bytes).expect("it is valid");
    assert!(Arc::ptr_eq(&read.versions[0].content, &read.versions[1].content));
    let deployment = read.deployment.as_ref().expect("it has one");
    assert!(Arc::ptr_eq(&deployment.changed[0], &read.instances.of_agent("monitor")[0].agent));
    assert!(Arc::ptr_eq(&deployment.id, &read.versions[2].deployment_id));
}

#[test]
fn equal_manifests_are_encoded_once() {
    let mut record = golden::record();
    let text = record.versions[0].content.text().to_string();
    Arc::make_mut(&mut Arc::make_mut(&mut record.versions)[0]).content = Arc::new(Content::new(Arc::from(text)));
    assert_eq!(encode_record(&record), encode_record(&golden::record()));
}

// ---- what was packed before ------------------------------------------------------------------------------------------

/// The log has the bytes of each event already: what is sent is those, and not what is like them.
#[test]
fn pending_changes_encode_like_a_batch() {
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
            state: Reported::Ready,
            version: None,
            job: None,
            attempt: None,
            reason,
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
        let pending = engine::transact(&mut record, command, &context).expect("a good command");
        assert_eq!(encode_pending(&pending), encode_batch(&pending.batch), "{command:?}");
        changes += pending.batch.changes.len();
        pending.commit();
        assert_eq!(decode_record(&encode_record(&record)).as_ref(), Ok(&record));
    }
    assert!(changes > 12, "{changes}");
}

#[test]
fn overview_is_decoded_from_the_front_of_a_record() {
    for record in [golden::record(), Record { log: Default::default(), ..golden::record() }] {
        assert_eq!(overview_of(&encode_record(&record)).ok(), Overview::of(&record));
    }
    assert_eq!(overview_of(b"dp\x02"), Err(DecodeError::Truncated));
    assert_eq!(overview_of(&encode_batch(&golden::batches()[0].1)), Err(DecodeError::Malformed));
    // A stranger's must be true: here the one byte by which the two differ is that of another status.
    let mut record = golden::record();
    let bytes = encode_record(&record);
    let status = Overview::of(&record).expect("it has a deployment").status;
    deployment(&mut record).status = if status == Status::Failed { Status::Cancelled } else { Status::Failed };
    let other = encode_record(&record);
    let place =
        bytes.iter().zip(&other).skip(HEADER_BYTES).position(|(a, b)| a != b).expect("they differ") + HEADER_BYTES;
    let lies = with_right_checksum([&bytes[..place], &other[place..=place], &bytes[place + 1..]].concat());
    let why = "its overview is that of another record".to_string();
    assert_eq!(decode_record(&lies), Err(DecodeError::Invalid(why)));
}

/// Of what this server has saved, that which is only read out is judged when it is.
#[test]
fn saved_records_decode_without_their_log() {
    let record = golden::record();
    assert_eq!(decode_saved_record(&encode_record(&record)), Ok(record.clone()));
    let mut unread = 0;
    let whole = encode_record(&record);
    let without = encode_record(&Record { log: Default::default(), ..record.clone() });
    for place in without.len()..whole.len() - CHECKSUM_BYTES {
        let mut scratched = whole.clone();
        scratched[place] ^= 0x55;
        let scratched = with_right_checksum(scratched);
        if let Ok(read) = decode_saved_record(&scratched) {
            unread += u32::from(decode_record(&scratched).is_err());
            // What cannot be read is left out, and the record goes on.
            assert!(read.log.iter().count() <= record.log.len());
            assert_eq!(read.instances, record.instances);
        }
    }
    assert!(unread > 0, "some of the log was not judged");
}

// ---- damaged, foreign and newer bytes --------------------------------------------------------------------------------

/// Puts a right checksum under changed bytes.
fn with_right_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let summed = bytes.len() - CHECKSUM_BYTES;
    let checksum = crc32fast::hash(&bytes[..summed]);
    bytes[summed..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// An envelope around a payload.
fn sealed(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_le_bytes();
    let bytes = [b"dp\x02\x00\x01\x00", &length[..], payload, &[0; CHECKSUM_BYTES]].concat();
    with_right_checksum(bytes)
}

#[test]
fn envelope_has_the_documented_layout() {
    let bytes = encode_record(&golden::record());
    let payload = &bytes[HEADER_BYTES..bytes.len() - CHECKSUM_BYTES];
    assert_eq!(sealed(payload), bytes);
}

#[test]
fn truncated_envelopes_are_rejected() {
    for bytes in [encode_record(&golden::record()), encode_batch(&golden::batches()[0].1)] {
        for length in 0..bytes.len() {
            assert_eq!(decode_record(&bytes[..length]), Err(DecodeError::Truncated), "at {length}");
            assert_eq!(decode_batch(&bytes[..length]), Err(DecodeError::Truncated), "at {length}");
        }
    }
}

#[test]
fn truncated_payloads_in_valid_envelopes_are_rejected() {
    let bytes = encode_record(&golden::record());
    let payload = &bytes[HEADER_BYTES..bytes.len() - CHECKSUM_BYTES];
    for length in 0..payload.len() {
        assert!(decode_record(&sealed(&payload[..length])).is_err(), "at {length}");
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
fn bit_flips_with_a_valid_checksum_do_not_panic() {
    let bytes = encode_record(&golden::record());
    let mut still_valid = 0;
    for bit in 0..(bytes.len() - CHECKSUM_BYTES) * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(record) = decode_record(&with_right_checksum(flipped)) {
            still_valid += 1;
            assert_eq!(decode_record(&encode_record(&record)), Ok(record), "bit {bit}");
        }
    }
    assert!(still_valid > 0, "changed texts and times are as good as others");
}

proptest! {
    #![proptest_config(unsaved())]

    #[test]
    fn scrambled_payloads_do_not_panic(
        record in arbitrary::records(),
        scrambles in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let bytes = encode_record(&record);
        let mut payload = bytes[HEADER_BYTES..bytes.len() - CHECKSUM_BYTES].to_vec();
        for (place, byte) in scrambles {
            let place = place.index(payload.len());
            payload[place] = byte;
        }
        if let Ok(read) = decode_record(&sealed(&payload)) {
            prop_assert_eq!(decode_record(&encode_record(&read)), Ok(read));
        }
    }

    #[test]
    fn random_bytes_do_not_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_record(&noise);
        let _ = decode_batch(&noise);
        let _ = decode_record(&sealed(&noise));
    }
}

#[test]
fn trailing_bytes_are_rejected() {
    let bytes = encode_record(&golden::record());
    assert_eq!(decode_record(&[&bytes[..], b"\0"].concat()), Err(DecodeError::Malformed));
    let payload = &bytes[HEADER_BYTES..bytes.len() - CHECKSUM_BYTES];
    assert_eq!(decode_record(&sealed(&[payload, b"\0"].concat())), Err(DecodeError::Malformed));
}

#[test]
fn newer_formats_are_distinguished_from_damage() {
    let mut newer = encode_record(&golden::record());
    newer[2..4].copy_from_slice(&3u16.to_le_bytes());
    assert_eq!(decode_record(&newer), Err(DecodeError::Checksum));
    newer[4..6].copy_from_slice(&[7, 0xff]);
    let newer = with_right_checksum(newer);
    assert_eq!(decode_record(&newer), Err(DecodeError::NewerFormat { format: 3 }));
    assert_eq!(decode_batch(&newer), Err(DecodeError::NewerFormat { format: 3 }));
    assert_eq!(decode_record(&newer[..newer.len() - 1]), Err(DecodeError::Truncated));
}

#[test]
fn foreign_and_mismatched_envelopes_are_rejected() {
    let record = encode_record(&golden::record());
    assert_eq!(decode_record(b""), Err(DecodeError::Truncated));
    assert_eq!(decode_record(b"REDIS0011"), Err(DecodeError::NotOurs));
    assert_eq!(decode_batch(&record), Err(DecodeError::Malformed));
    assert_eq!(decode_record(&encode_batch(&golden::batches()[0].1)), Err(DecodeError::Malformed));
    for (place, byte) in [(2, 0), (2, 1), (4, 0), (5, 1)] {
        let mut odd = record.clone();
        odd[place] = byte;
        assert_eq!(decode_record(&with_right_checksum(odd)), Err(DecodeError::Malformed), "byte {place} as {byte}");
    }
    let mut huge = record.clone();
    huge[6..10].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(decode_record(&huge), Err(DecodeError::TooLarge));
}

// ---- valid bytes, invalid values -------------------------------------------------------------------------------------

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

/// Changes the canary, or what becomes of it.
fn canary(record: &mut Record, change: impl FnOnce(&mut engine::deployment::Instance)) {
    let mut canary = record.instances.iter().find(|i| i.version == 3).expect("the golden record has one").clone();
    record.instances.remove(&canary.key());
    change(&mut canary);
    record.instances.insert(canary);
}

#[test]
fn decoded_records_are_validated_like_user_input() {
    let version = |record: &mut Record, change: fn(&mut engine::history::Version)| {
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
        refusal(|r| version(r, |v| v.policy.healthy_deadline_ms = 0)),
        "policies.update.min_healthy_ms must be less than healthy_deadline_ms (20000 is not less than 0)"
    );
    assert_eq!(
        refusal(|r| version(r, |v| v.policy.progress_deadline_ms = 1 << 53)),
        "a policy names too long a duration"
    );
    assert_eq!(
        refusal(|r| version(r, |v| v.content = Arc::new(Content::new(r#"{"nodes":3}"#.into())))),
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
        record.instances.insert(engine::deployment::Instance { job_id, created: 100 + i, ..planner.clone() });
    }
    assert_eq!(decode_record(&encode_record(&record)), Ok(record.clone()));
    record.instances.insert(engine::deployment::Instance { job_id: "one more".into(), created: 99_999, ..planner });
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
fn manifests_are_in_batches_and_not_in_the_log() {
    let (_, batch) = golden::batches().swap_remove(0);
    let Change::Event(event) = &batch.changes[0] else { panic!("an event comes first") };
    let mut late = (**event).clone();
    late.revision = 45;
    assert_eq!(
        refusal(|r| relog(r, |log| *log.last_mut().expect("the golden record's") = Arc::new(late))),
        "its log has a manifest"
    );
    let mut slim = (**event).clone();
    if let EventBody::DeploymentStarted(beginning) = &mut slim.body {
        beginning.version.content = Arc::new(Content::omitted());
    }
    let slim = Batch { changes: vec![Change::Event(Arc::new(slim))], log_max: 100 };
    assert!(matches!(decode_batch(&encode_batch(&slim)), Err(DecodeError::Invalid(_))));
}

#[test]
fn batches_with_events_out_of_order_are_rejected() {
    let (_, batch) = golden::batches().swap_remove(9);
    let twice = Batch { changes: [batch.changes.clone(), batch.changes].concat(), log_max: 100 };
    assert_eq!(
        decode_batch(&encode_batch(&twice)),
        Err(DecodeError::Invalid("its events are not in order".to_string()))
    );
}
