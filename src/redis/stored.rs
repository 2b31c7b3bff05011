//! The stored value: what a key of this module holds, and how it is encoded and decoded.

use super::ffi::{catch_panic, LogLevel, LogLimiter};
use crate::codec::{self, DecodeError};
use crate::engine::deployment::{Deployment, Status};
use crate::engine::rejection::ReadOnlyReason;
use crate::engine::time::UnixMs;
use crate::engine::{apply, next_deadline, Change, ChangeSet, Record, Summary};
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// The encoding version of the data type. It stays 1 as long as the value is one string: what that string holds has a
/// format number of its own, in [`codec`]. A server can carry a string that it does not understand, but not a shape
/// that it does not know.
pub const ENCVER: i32 = 1;

/// The value of a key.
#[derive(Debug, Clone)]
pub enum Stored {
    Record(Box<Record>),
    Encoded(EncodedRecord),
    /// A payload that cannot be read here: written by a newer module, or damaged on its way from a primary or a file.
    /// It is kept byte for byte, read-only, and written back as it came. Refusing it there would end the server, or
    /// make it diverge from its primary.
    ///
    /// A record followed by changes that could not be read ([`Stored::append_undecoded`]) is one as well: nothing is
    /// decided from a state that is known to be old, and a module that can read the changes has the true record.
    Opaque {
        encver: i32,
        bytes: Vec<u8>,
        reason: ReadOnlyReason,
    },
}

/// A record as the bytes that it is saved as: loaded and not accessed since, or encoded after an idle time.
#[derive(Debug)]
pub struct EncodedRecord {
    bytes: Box<[u8]>,
    entry: IndexEntry,
}

/// Larger records are never kept encoded: decoding one would block the server's clients for a millisecond or more.
const MAX_ENCODED_BYTES: usize = 64 << 10;
const MAX_ENCODED_INSTANCES: usize = 256;

static ENCODED_RECORDS: AtomicU64 = AtomicU64::new(0);

/// The number of records that are kept encoded.
pub fn encoded_records() -> u64 {
    ENCODED_RECORDS.load(Ordering::Relaxed)
}

impl EncodedRecord {
    fn new(bytes: Box<[u8]>, entry: IndexEntry) -> EncodedRecord {
        ENCODED_RECORDS.fetch_add(1, Ordering::Relaxed);
        EncodedRecord { bytes, entry }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The summary that LIST shows; None for a forged payload.
    pub fn summary(&self) -> Option<Summary> {
        codec::summary_of(&self.bytes).ok()
    }

    /// The record's own fields, its deployment among them, without its lists; None for a forged payload.
    pub fn header(&self) -> Option<Record> {
        codec::header_of(&self.bytes).ok()
    }
}

impl Clone for EncodedRecord {
    fn clone(&self) -> EncodedRecord {
        EncodedRecord::new(self.bytes.clone(), self.entry)
    }
}

impl Drop for EncodedRecord {
    fn drop(&mut self) {
        ENCODED_RECORDS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A key in a database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DbKey {
    pub db: i32,
    pub key: Arc<str>,
}

/// The properties of a stored value that the index keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexEntry {
    /// The value is opaque: it has no status, no tasks, and is never due.
    pub is_unreadable: bool,
    /// The time of the next tick, unix time in ms.
    pub due: Option<UnixMs>,
    /// The status of the deployment; None for an opaque value.
    pub status: Option<Status>,
    /// The number of open tasks.
    pub tasks: u32,
    /// The number of instances that drain.
    pub draining: u32,
    /// The number of instances on standby.
    pub standby: u32,
    /// The order of deployments of one status in the page of a database: the time since which it runs or waits, or at
    /// which it failed. 0 for one that the page does not name.
    pub since: UnixMs,
}

impl IndexEntry {
    pub fn of(stored: &Stored) -> IndexEntry {
        match stored {
            Stored::Record(record) => IndexEntry {
                is_unreadable: false,
                due: next_deadline(record),
                status: record.deployment.as_ref().map(|d| d.status),
                tasks: count(record.instances.open_tasks()),
                draining: count(record.instances.draining()),
                standby: count(record.instances.standby()),
                since: record.deployment.as_deref().map_or(0, |d| since(d, record.updated_at)),
            },
            Stored::Encoded(encoded) => encoded.entry,
            Stored::Opaque { .. } => IndexEntry { is_unreadable: true, ..IndexEntry::default() },
        }
    }

    /// Of bytes with this summary. More of them is read for those few that the page of the database may show.
    fn of_summary(summary: &Summary, bytes: &[u8]) -> IndexEntry {
        let is_shown = summary.status.is_active() || summary.status == Status::Failed;
        let deployment = || codec::header_of(bytes).ok()?.deployment;
        let since = match is_shown {
            true => deployment().map_or(summary.updated_at, |d| since(&d, summary.updated_at)),
            false => 0,
        };
        IndexEntry {
            is_unreadable: false,
            due: summary.due,
            status: Some(summary.status),
            tasks: count(summary.tasks),
            draining: count(summary.draining),
            standby: count(summary.standby),
            since,
        }
    }

    /// The deployment is terminal, and nothing becomes due.
    pub fn is_finished(&self) -> bool {
        self.due.is_none() && self.status.is_some_and(|status| !status.is_active())
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Returns [`IndexEntry::since`]. A deployment does not say since when it awaits its promotion.
fn since(d: &Deployment, updated_at: UnixMs) -> UnixMs {
    match d.status {
        Status::Running => d.created_at,
        Status::Paused => d.last_action.as_ref().map_or(updated_at, |action| action.at),
        Status::AwaitingPromotion => updated_at,
        Status::Failed => d.finished_at.unwrap_or(updated_at),
        Status::Successful | Status::Cancelled | Status::VersionRecorded => 0,
    }
}

static READ_ONLY_LOG: LogLimiter = LogLimiter::new();
static REFUSED_LOG: LogLimiter = LogLimiter::new();
static SUMMARY_LOG: LogLimiter = LogLimiter::new();

impl Stored {
    pub fn record(record: Record) -> Stored {
        Stored::Record(Box::new(record))
    }

    /// Decodes an encoded record in place. One that cannot be decoded, which only a forged file or a faulty disk has,
    /// becomes read-only. The summary by which the record was known until now may be as wrong: the record counts, so
    /// whoever keeps an [`IndexEntry`] of the value has to renew it ([`Key::record`] does).
    ///
    /// [`Key::record`]: super::record_key::Key::record
    pub fn decode(&mut self, key: &str) {
        let Stored::Encoded(encoded) = self else { return };
        match catch_panic("decoding a record", || codec::decode_trusted_record(&encoded.bytes)) {
            Ok(Ok((record, summary))) => {
                if summary != Summary::of(&record) {
                    let text = format!(
                        "record of key '{key}' is not what its summary said, as which it was listed and counted: the \
                         file that it was loaded from is damaged or forged"
                    );
                    SUMMARY_LOG.log(LogLevel::Warning, &text);
                }
                *self = Stored::record(record);
            }
            failed => {
                let error = failed.map(|result| result.err()).ok().flatten();
                let bytes = std::mem::take(&mut encoded.bytes).into_vec();
                *self = Stored::read_only(ENCVER, bytes, error, key);
            }
        }
    }

    /// Encodes a record in place, unless it is a large one.
    pub fn encode(&mut self) {
        let Stored::Record(record) = self else { return };
        if record.instances.len().max(record.services.len()) > MAX_ENCODED_INSTANCES {
            return;
        }
        let (bytes, entry) = (codec::encode_record(record), IndexEntry::of(self));
        if bytes.len() <= MAX_ENCODED_BYTES {
            *self = Stored::Encoded(EncodedRecord::new(bytes.into(), entry));
        }
    }

    /// Returns the payload for RDB, AOF and DUMP.
    pub fn to_bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Stored::Record(record) => Cow::Owned(codec::encode_record(record)),
            Stored::Encoded(encoded) => Cow::Borrowed(&encoded.bytes),
            Stored::Opaque { bytes, .. } => Cow::Borrowed(bytes),
        }
    }

    /// Returns the value with a change appended that cannot be applied here. A newer module can apply it. A value that
    /// was read-only before stays so for the reason that it had.
    pub fn append_undecoded(existing: Option<&Stored>, payload: &[u8]) -> Stored {
        let mut bytes = existing.map(|stored| stored.to_bytes().into_owned()).unwrap_or_default();
        bytes.extend_from_slice(payload);
        match existing {
            Some(Stored::Opaque { encver, reason, .. }) => Stored::Opaque { encver: *encver, bytes, reason: *reason },
            _ => Stored::Opaque { encver: ENCVER, bytes, reason: ReadOnlyReason::NotApplied },
        }
    }

    /// Keeps a payload that cannot be decoded; `error` is None where decoding it panicked. The operator has to act, so
    /// it is logged.
    fn read_only(encver: i32, bytes: Vec<u8>, error: Option<DecodeError>, key: &str) -> Stored {
        let reason = read_only_reason(encver, &bytes);
        let error = match (reason, error) {
            (ReadOnlyReason::NotApplied, _) => "a change of it cannot be applied".to_string(),
            (_, Some(error)) => error.to_string(),
            (_, None) => "decoding it failed".to_string(),
        };
        READ_ONLY_LOG.log(LogLevel::Warning, &format!("record of key '{key}' kept as it is, read-only: {error}"));
        Stored::Opaque { encver, bytes, reason }
    }

    /// Loads a payload of a file, or of a primary's data set; it cannot be refused without ending the server. An intact
    /// one of this format is not decoded yet.
    pub fn load_lazily(encver: i32, bytes: Vec<u8>, key: &str) -> Stored {
        match codec::summary_of(&bytes) {
            Ok(summary) if encver <= ENCVER => {
                let is_large = bytes.len() > MAX_ENCODED_BYTES;
                let entry = IndexEntry::of_summary(&summary, &bytes);
                let mut stored = Stored::Encoded(EncodedRecord::new(bytes.into(), entry));
                if is_large {
                    stored.decode(key);
                }
                stored
            }
            _ => Stored::load_or_keep(encver, bytes, key),
        }
    }

    /// Loads a payload that cannot be refused: one that cannot be decoded becomes read-only.
    pub fn load_or_keep(encver: i32, bytes: Vec<u8>, key: &str) -> Stored {
        match decode_whole(encver, &bytes, true) {
            Ok(record) => Stored::record(record),
            Err(error) => Stored::read_only(encver, bytes, error, key),
        }
    }

    /// Loads a client's payload, or refuses it.
    pub fn load(encver: i32, bytes: &[u8], key: &str) -> Option<Stored> {
        match decode_whole(encver, bytes, false) {
            Ok(record) => Some(Stored::record(record)),
            Err(error) => {
                let error = error.map_or_else(|| "decoding it failed".to_string(), |error| error.to_string());
                REFUSED_LOG.log(LogLevel::Notice, &format!("record of key '{key}' refused: {error}"));
                None
            }
        }
    }
}

/// Decodes a payload. A panic in decoding must not be taken for a refusal, which would end a loading server, so it is
/// caught here: the error is None then. With `keep`, changes may follow the record that an older module could not
/// apply.
fn decode_whole(encver: i32, bytes: &[u8], keep: bool) -> Result<Record, Option<DecodeError>> {
    match catch_panic("decoding a record", || decode(bytes, keep)) {
        Ok(Ok(record)) if encver <= ENCVER => Ok(record),
        Ok(Ok(_)) => {
            Err(Some(DecodeError::Invalid(format!("its encoding version {encver} is newer than this module's"))))
        }
        Ok(Err(error)) => Err(Some(error)),
        Err(_) => Err(None),
    }
}

fn decode(bytes: &[u8], keep: bool) -> Result<Record, DecodeError> {
    match codec::decode_record(bytes) {
        Err(error) if keep => decode_with_changes(bytes).ok_or(error),
        outcome => outcome,
    }
}

/// Returns the reason why a payload is read-only that could not be decoded: the same one on every path on which it may
/// have come.
fn read_only_reason(encver: i32, bytes: &[u8]) -> ReadOnlyReason {
    if encver > ENCVER {
        return ReadOnlyReason::NewerVersion;
    }
    // Changes that could not be applied are behind their record, see `append_undecoded`.
    let payloads = codec::split(bytes).unwrap_or_else(|| vec![bytes]);
    let Some((first, changes)) = payloads.split_first() else { return ReadOnlyReason::Damaged };
    match codec::envelope_error(first) {
        _ if codec::is_change_set(first) => ReadOnlyReason::NotApplied,
        Some(DecodeError::NewerFormat { .. }) => ReadOnlyReason::NewerVersion,
        None if !changes.is_empty() && codec::decode_record(first).is_ok() => ReadOnlyReason::NotApplied,
        _ => ReadOnlyReason::Damaged,
    }
}

/// The revision of a change set's first event; None where it has silent changes alone.
pub fn first_revision(changes: &ChangeSet) -> Option<u64> {
    changes.changes.iter().find_map(|change| match change {
        Change::Event(event) => Some(event.revision),
        Change::Silent(_) => None,
    })
}

/// Decodes a record and applies the change sets that follow it.
fn decode_with_changes(bytes: &[u8]) -> Option<Record> {
    let payloads = codec::split(bytes)?;
    let (first, rest) = payloads.split_first()?;
    let (mut record, changes) = match codec::decode_record(first) {
        Ok(record) => (record, rest),
        // The first change of the key could not be read.
        Err(_) => (codec::empty_record(), payloads.as_slice()),
    };
    for payload in changes {
        let changes = codec::decode_change_set(payload).ok()?;
        let follows = first_revision(&changes).is_none_or(|first| first == record.revision.saturating_add(1));
        if !follows {
            return None;
        }
        apply(&mut record, &changes);
    }
    // The result is validated as a whole, like anything from outside.
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
    fn appended_changes_are_applied_by_a_module_that_can_read_them() {
        let manifest = br#"{"type":"service","nodes":[{"node_id":"a"}]}"#.to_vec();
        let first = decided(None, Command::Deploy(Deploy { manifest, ..Deploy::default() }));
        let (agent, state) = ("a".into(), ReportedState::Ready);
        let report = Report { agent, state, version: None, job: None, attempt: None, reason: None, sessions: None };
        let second = decided(Some(&first.record), Command::Report(report));
        let (start, changes) =
            (codec::encode_change_set(&first.change_set), codec::encode_change_set(&second.change_set));

        let frozen = Stored::append_undecoded(Some(&Stored::record(first.record.clone())), &changes);
        assert_eq!(decode(&frozen.to_bytes(), true), Ok(second.record.clone()));
        // A key that began with what could not be read.
        let frozen = Stored::append_undecoded(Some(&Stored::append_undecoded(None, &start)), &changes);
        assert_eq!(decode(&frozen.to_bytes(), true), Ok(second.record));

        // A client's payload is a record and nothing else; and a change that does not follow is none.
        assert!(decode(&frozen.to_bytes(), false).is_err());
        assert!(decode(&Stored::append_undecoded(None, &changes).to_bytes(), true).is_err());
        assert!(decode(&Stored::append_undecoded(Some(&frozen), b"dp and so on").to_bytes(), true).is_err());
    }
}
