//! The data type `deploymnt`: what hangs on a key, and how it is kept.

use super::ffi::{self, LogLevel};
use super::guard::guard;
use super::index::Entry;
use super::log::Sparing;
use crate::codec::{self, DecodeError};
use crate::engine::{apply, Change, ChangeSet, Record, Summary};
use redis_module::native_types::RedisType;
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

/// Stays 1 as long as the value is one string: what that string holds has a version of its own, in `codec`. A server
/// can carry a string that it does not understand, but not a shape that it does not know.
pub const ENCVER: i32 = 1;

pub static DEPLOYMENT: RedisType = RedisType::new("deploymnt", ENCVER, ffi::METHODS);

/// What a key holds.
#[derive(Debug, Clone)]
pub enum Stored {
    Record(Box<Record>),
    AtRest(AtRest),
    /// What a newer module wrote, or what arrived damaged from a primary or a file: kept byte for byte, read-only, and
    /// written back as it came. Refusing it there would end the server, or part it from its primary in silence.
    ///
    /// A record with changes behind it that could not be read (`with_change`) is one as well: nothing is decided from
    /// what is known to be old, and whoever can read the changes has the true record.
    Opaque {
        encver: i32,
        bytes: Vec<u8>,
    },
}

/// A record as the bytes that it is saved as: loaded, and not looked at since, or put to [`rest`](super::rest).
#[derive(Debug)]
pub struct AtRest {
    bytes: Box<[u8]>,
    entry: Entry,
}

/// Reading a larger one again would keep the server from its clients for a ms or more.
const REST_MOST_BYTES: usize = 64 << 10;
const REST_MOST_INSTANCES: usize = 256;

static AT_REST: AtomicU64 = AtomicU64::new(0);

/// How many records are at rest.
pub fn count_at_rest() -> u64 {
    AT_REST.load(Ordering::Relaxed)
}

impl AtRest {
    fn new(bytes: Box<[u8]>, entry: Entry) -> AtRest {
        AT_REST.fetch_add(1, Ordering::Relaxed);
        AtRest { bytes, entry }
    }

    pub fn entry(&self) -> Entry {
        self.entry
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What LIST shows; None of a forged one.
    pub fn summary(&self) -> Option<Summary> {
        codec::summary_of(&self.bytes).ok()
    }
}

impl Clone for AtRest {
    fn clone(&self) -> AtRest {
        AtRest::new(self.bytes.clone(), self.entry)
    }
}

impl Drop for AtRest {
    fn drop(&mut self) {
        AT_REST.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stored {
    pub fn is_at_rest(&self) -> bool {
        matches!(self, Stored::AtRest(_))
    }

    /// Reads a record that is at rest. One that cannot be read, which only a forged file has, is kept as it is.
    pub fn wake(&mut self, key: &str) {
        let Stored::AtRest(rest) = self else { return };
        let why = match guard("reading a record", || codec::decode_trusted_record(&rest.bytes)) {
            Ok(Ok(record)) => return *self = Stored::Record(Box::new(record)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "reading it failed".to_string(),
        };
        KEPT.say(LogLevel::Warning, &format!("record of key '{key}' kept as it is, read-only: {why}"));
        *self = Stored::Opaque { encver: ENCVER, bytes: std::mem::take(&mut rest.bytes).into_vec() };
    }

    /// Puts a record to rest, unless it is a large one.
    pub fn rest(&mut self) {
        let Stored::Record(record) = self else { return };
        if record.instances.len().max(record.services.len()) > REST_MOST_INSTANCES {
            return;
        }
        let (bytes, entry) = (codec::encode_record(record), Entry::of(self));
        if bytes.len() <= REST_MOST_BYTES {
            *self = Stored::AtRest(AtRest::new(bytes.into(), entry));
        }
    }

    /// The payload for RDB, AOF and DUMP.
    pub fn to_bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Stored::Record(record) => Cow::Owned(codec::encode_record(record)),
            Stored::AtRest(rest) => Cow::Borrowed(&rest.bytes),
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

/// Takes a payload of a file, or of a primary's whole data set. Refusing it would end the server. One that is whole and of
/// this format is not read yet.
pub fn load_at_rest(encver: i32, bytes: Vec<u8>, key: &str) -> Stored {
    match codec::summary_of(&bytes) {
        Ok(summary) if encver <= ENCVER => {
            let is_large = bytes.len() > REST_MOST_BYTES;
            let mut stored = Stored::AtRest(AtRest::new(bytes.into(), Entry::of_summary(&summary)));
            if is_large {
                stored.wake(key);
            }
            stored
        }
        _ => load_or_keep(encver, bytes, key),
    }
}

/// Takes a payload that cannot be refused: what cannot be read is kept as it is.
pub fn load_or_keep(encver: i32, bytes: Vec<u8>, key: &str) -> Stored {
    match read_whole(encver, &bytes, true) {
        Ok(record) => Stored::Record(Box::new(record)),
        Err(why) => {
            // It is something for the operator to see to.
            KEPT.say(LogLevel::Warning, &format!("record of key '{key}' kept as it is, read-only: {why}"));
            Stored::Opaque { encver, bytes }
        }
    }
}

/// Takes a client's payload, or refuses it.
pub fn load(encver: i32, bytes: &[u8], key: &str) -> Option<Stored> {
    match read_whole(encver, bytes, false) {
        Ok(record) => Some(Stored::Record(Box::new(record))),
        Err(why) => {
            // The client was told.
            REFUSED.say(LogLevel::Notice, &format!("record of key '{key}' refused: {why}"));
            None
        }
    }
}

/// A panic in decoding must not be taken for a refusal, which would end a loading server: so it is guarded by itself.
fn read_whole(encver: i32, bytes: &[u8], kept: bool) -> Result<Record, String> {
    match guard("decoding a record", || read(bytes, kept)) {
        Ok(Ok(record)) if encver <= ENCVER => Ok(record),
        Ok(Ok(_)) => Err(format!("its encoding version {encver} is newer than this module's")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("reading it failed".to_string()),
    }
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
pub fn first_revision(batch: &ChangeSet) -> Option<u64> {
    batch.changes.iter().find_map(|change| match change {
        Change::Event(event) => Some(event.revision),
        Change::Silent(_) => None,
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
        let batch = codec::decode_change_set(payload).ok()?;
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
    use crate::engine::command::{Command, Context, Deploy, Limits, Report, ReportedState};
    use crate::engine::{decide, Decision};

    fn decided(record: Option<&Record>, command: Command) -> Decision {
        let context = Context { key: "app", now_ms: 1_000, by: "default", limits: Limits::default() };
        decide(record, &command, &context).expect("a good command")
    }

    #[test]
    fn changes_that_were_kept_behind_a_record_are_made_up_for() {
        let manifest = br#"{"type":"service","nodes":[{"node_id":"a"}]}"#.to_vec();
        let first = decided(None, Command::Deploy(Deploy { manifest, ..Deploy::default() }));
        let (agent, state) = ("a".into(), ReportedState::Ready);
        let report = Report { agent, state, version: None, job: None, attempt: None, reason: None };
        let second = decided(Some(&first.record), Command::Report(report));
        let (start, changes) = (codec::encode_change_set(&first.batch), codec::encode_change_set(&second.batch));

        let frozen = Stored::with_change(Some(&Stored::Record(Box::new(first.record.clone()))), &changes);
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
