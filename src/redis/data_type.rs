//! The data type `deploymnt`: what hangs on a key, and how it is kept.

use super::ffi::{self, LogLevel};
use super::guard::guard;
use super::log::Sparing;
use crate::codec::{self, DecodeError};
use crate::engine::{apply, Batch, Change, Record};
use redis_module::native_types::RedisType;
use std::borrow::Cow;

/// Stays 1 as long as the value is one string: what that string holds has a version of its own, in `codec`. A server
/// can carry a string that it does not understand, but not a shape that it does not know.
pub const ENCVER: i32 = 1;

pub static DEPLOYMENT: RedisType = RedisType::new("deploymnt", ENCVER, ffi::METHODS);

/// What a key holds.
// Always behind one box, the one that hangs on the key.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
pub enum Stored {
    Record(Record),
    /// What a newer module wrote, or what arrived damaged from a primary or a file: kept byte for byte, read-only, and
    /// written back as it came. Refusing it there would end the server, or part it from its primary in silence.
    ///
    /// A record with changes behind it that could not be read (`with_change`) is one as well: nothing is decided from
    /// what is known to be old, and whoever can read the changes has the true record.
    Opaque { encver: i32, bytes: Vec<u8> },
}

impl Stored {
    /// The payload for RDB, AOF and DUMP.
    pub fn to_bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Stored::Record(record) => Cow::Owned(codec::encode_record(record)),
            Stored::Opaque { bytes, .. } => Cow::Borrowed(bytes),
        }
    }

    /// The value with a change behind it that cannot be applied here.
    pub fn with_change(existing: Option<&Stored>, payload: &[u8]) -> Stored {
        let mut bytes = existing.map(|stored| stored.to_bytes().into_owned()).unwrap_or_default();
        bytes.extend_from_slice(payload);
        Stored::Opaque { encver: ENCVER, bytes }
    }
}

static KEPT: Sparing = Sparing::new();
static REFUSED: Sparing = Sparing::new();

/// Reads a payload. `keep` where it cannot be refused: it is then kept as it is. None refuses it.
pub fn load(encver: i32, bytes: Vec<u8>, keep: bool, key: &str) -> Option<Stored> {
    // Decoding is guarded by itself: a panic in it must not be taken for a refusal, which would end a loading server.
    let why = match guard("decoding a record", || read(&bytes, keep)) {
        Ok(Ok(record)) if encver <= ENCVER => return Some(Stored::Record(record)),
        Ok(Ok(_)) => format!("its encoding version {encver} is newer than this module's"),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "reading it failed".to_string(),
    };
    // Kept, it is something for the operator to see to; refused, the client was told.
    match keep {
        true => KEPT.say(LogLevel::Warning, &format!("record of key '{key}' kept as it is, read-only: {why}")),
        false => REFUSED.say(LogLevel::Notice, &format!("record of key '{key}' refused: {why}")),
    }
    keep.then_some(Stored::Opaque { encver, bytes })
}

/// A record; or, where it was kept, one with the changes behind it that an older module could not read.
fn read(bytes: &[u8], kept: bool) -> Result<Record, DecodeError> {
    let outcome = codec::decode_record(bytes);
    match outcome {
        Err(error) if kept => with_changes(bytes).ok_or(error),
        outcome => outcome,
    }
}

/// The revision of a batch's first event; None where it has notes alone.
pub fn first_revision(batch: &Batch) -> Option<u64> {
    batch.changes.iter().find_map(|change| match change {
        Change::Event(event) => Some(event.revision),
        Change::Note(_) => None,
    })
}

fn with_changes(bytes: &[u8]) -> Option<Record> {
    let payloads = codec::split(bytes)?;
    let (first, rest) = payloads.split_first()?;
    let (mut record, changes) = match codec::decode_record(first) {
        Ok(record) => (record, rest),
        // A key that began with what could not be read.
        Err(_) => (codec::empty_record(), payloads.as_slice()),
    };
    for payload in changes {
        let batch = codec::decode_batch(payload).ok()?;
        let follows = first_revision(&batch).is_none_or(|first| first == record.revision.saturating_add(1));
        if !follows {
            return None;
        }
        apply(&mut record, &batch);
    }
    // What was put together is judged as a whole, like anything from outside.
    codec::decode_record(&codec::encode_record(&record)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::command::{Command, Context, Deploy, Limits, Report, Reported};
    use crate::engine::{decide, Decision};

    fn decided(record: Option<&Record>, command: Command) -> Decision {
        let context = Context { key: "app", now_ms: 1_000, by: "default", limits: Limits::default() };
        decide(record, &command, &context).expect("a good command")
    }

    #[test]
    fn changes_that_were_kept_behind_a_record_are_made_up_for() {
        let manifest = br#"{"type":"service","nodes":[{"node_id":"a"}]}"#.to_vec();
        let first = decided(None, Command::Deploy(Deploy { manifest, ..Deploy::default() }));
        let (agent, state) = ("a".into(), Reported::Ready);
        let report = Report { agent, state, version: None, job: None, attempt: None, reason: None };
        let second = decided(Some(&first.record), Command::Report(report));
        let (start, changes) = (codec::encode_batch(&first.batch), codec::encode_batch(&second.batch));

        let frozen = Stored::with_change(Some(&Stored::Record(first.record.clone())), &changes);
        assert_eq!(read(&frozen.to_bytes(), true), Ok(second.record.clone()));
        // A key that began with what could not be read.
        let frozen = Stored::with_change(Some(&Stored::with_change(None, &start)), &changes);
        assert_eq!(read(&frozen.to_bytes(), true), Ok(second.record));

        // A client's payload is a record and nothing else; and a change that does not follow is none.
        assert!(read(&frozen.to_bytes(), false).is_err());
        assert!(read(&Stored::with_change(None, &changes).to_bytes(), true).is_err());
        assert!(read(&Stored::with_change(Some(&frozen), b"dp and so on").to_bytes(), true).is_err());
    }
}
