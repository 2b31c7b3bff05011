//! Bytes ↔ values: what the RDB, the AOF, DUMP and replication carry.
//!
//! ```text
//! magic "dp" │ format u16 │ kind u8 │ flags u8 │ payload length u32 │ payload │ crc32 of all before it
//! ```
//!
//! Integers of the envelope are little-endian. The envelope is the same for every format, so that an older module can
//! tell a newer one's payload ([`DecodeError::NewerFormat`]) from a damaged one, and keep it as it is. What a format's
//! payload looks like is in its own file, frozen once released; a new shape is a new format with a file of its own,
//! and the old file goes on reading.
//!
//! Bytes from outside are believed in nothing: length and checksum are judged before the payload is touched, decoding
//! takes memory in proportion to what is there and not to what is claimed, and a value is [judged](validation) as if a
//! user had sent it.

mod v2;
mod validation;

use crate::engine::event_log::{EventCodec, Log};
use crate::engine::{ChangeSet, Event, Record, Summary, Uncommitted};
use thiserror::Error;

/// Two bytes that start all that this module writes.
const MAGIC: [u8; 2] = *b"dp";

/// The format that is written. Every format that a release has written is read; the one before this was in none.
const FORMAT: u16 = 2;

/// The bytes before the payload, and the checksum after it.
const HEADER_BYTES: usize = 10;
const CHECKSUM_BYTES: usize = 4;

/// The largest payload: what a bulk string of Redis holds.
pub const MAX_PAYLOAD_BYTES: usize = 512 << 20;

/// The longest single text. A manifest is the longest that there is: `deploy.manifest-max-bytes` must not allow more.
/// It is parsed when it comes from outside, and a tree of JSON values is many times its text.
pub const MAX_TEXT_BYTES: usize = 4 << 20;

/// The largest count or sequence number (2^53 - 1: exact in every JSON reader, and far from overflow).
pub const MAX_NUMBER: u64 = (1 << 53) - 1;

/// The latest time and the longest duration, in ms: a clock's reading plus the longest duration that a policy may name.
pub const MAX_TIME_MS: u64 = 1 << 54;

/// The most instances of one agent. Two are usual, and each deployment that nobody carries out may leave one more;
/// they are searched one by one, so a payload with a million of them would keep the server busy.
pub const MAX_INSTANCES_PER_AGENT: usize = 4096;

/// Why bytes are refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    #[error("not a payload of this module")]
    NotOurs,
    #[error("the payload is cut short")]
    Truncated,
    #[error("the payload's checksum does not match")]
    Checksum,
    #[error("the payload, or a text in it, is larger than allowed")]
    TooLarge,
    /// Intact, so it can be kept as it is until the module is newer.
    #[error("the payload has format {format}, which a newer version of the module wrote")]
    NewerFormat { format: u16 },
    #[error("the payload is malformed")]
    Malformed,
    /// Readable, and yet nothing that this module would have written.
    #[error("the payload is invalid: {0}")]
    Invalid(String),
}

/// What a payload is, in the envelope: a record is never read as a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Record = 1,
    ChangeSet = 2,
}

/// How the log of a record is kept, in the shapes of the present format.
struct LogCodec;

impl EventCodec for LogCodec {
    fn encode(&self, event: &Event, bytes: &mut Vec<u8>) {
        v2::encode_event(event, bytes);
    }

    fn split_first<'b>(&self, bytes: &'b [u8]) -> Option<(&'b [u8], &'b [u8])> {
        v2::split_first_event(bytes)
    }

    fn revision(&self, event: &[u8]) -> Option<u64> {
        v2::revision_of_event(event)
    }

    fn decode(&self, event: &[u8]) -> Option<Event> {
        v2::decode_event(event).ok()
    }
}

fn event_codec() -> &'static dyn EventCodec {
    &LogCodec
}

/// A record before its first event, as a server keeps it: with a log of bytes.
pub fn empty_record() -> Record {
    Record { log: Log::with_codec(event_codec()), ..Record::empty() }
}

pub fn encode_record(record: &Record) -> Vec<u8> {
    seal(Kind::Record, |payload| v2::write_record(record, payload))
}

/// What an intact record says of itself; nothing else of it is read, and nothing is judged.
pub fn summary_of(bytes: &[u8]) -> Result<Summary, DecodeError> {
    v2::read_summary(open(Kind::Record, bytes)?)?.ok_or(DecodeError::Malformed)
}

/// Judged as if a user had sent it, whole.
pub fn decode_record(bytes: &[u8]) -> Result<Record, DecodeError> {
    let (record, summary) = v2::read_record(open(Kind::Record, bytes)?)?;
    validation::validate_record(&record)?;
    match summary == Summary::of(&record) {
        true => Ok(record),
        false => Err(DecodeError::Invalid("its summary is that of another record".to_string())),
    }
}

/// A record that this server has saved itself, or one like it. What is only read out, the log and
/// manifests that nobody runs, is left for when it is: to judge it costs many times the rest.
pub fn decode_trusted_record(bytes: &[u8]) -> Result<Record, DecodeError> {
    let (record, _) = v2::read_record(open(Kind::Record, bytes)?)?;
    validation::validate_trusted(&record)?;
    Ok(record)
}

pub fn encode_change_set(batch: &ChangeSet) -> Vec<u8> {
    seal(Kind::ChangeSet, |payload| v2::write_change_set(batch, &[], payload))
}

/// The same of changes that are not committed yet: of their events the log has the bytes already.
pub fn encode_uncommitted(uncommitted: &Uncommitted) -> Vec<u8> {
    seal(Kind::ChangeSet, |payload| v2::write_change_set(&uncommitted.batch, uncommitted.encoded_events(), payload))
}

pub fn decode_change_set(bytes: &[u8]) -> Result<ChangeSet, DecodeError> {
    let batch = v2::read_change_set(open(Kind::ChangeSet, bytes)?)?;
    validation::validate_change_set(&batch)?;
    Ok(batch)
}

/// Takes payloads that stand behind one another apart, unread. None where the bytes are something else.
pub fn split(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut payloads = Vec::new();
    while !bytes.is_empty() {
        let header = bytes.first_chunk::<HEADER_BYTES>().filter(|header| header.starts_with(&MAGIC))?;
        let length = u32::from_le_bytes(*header.last_chunk::<4>()?) as usize;
        let (payload, rest) = bytes.split_at_checked(length.checked_add(HEADER_BYTES + CHECKSUM_BYTES)?)?;
        payloads.push(payload);
        bytes = rest;
    }
    Some(payloads)
}

/// Puts the envelope around what `write` appends.
fn seal(kind: Kind, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&[kind as u8, 0]);
    let length_at = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    write(&mut bytes);
    // A payload beyond 4 GiB cannot be kept by any server; its length is one that no reader accepts.
    let length = u32::try_from(bytes.len() - HEADER_BYTES).unwrap_or(u32::MAX);
    bytes[length_at..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Judges the envelope, and gives the payload of the present format.
fn open(kind: Kind, bytes: &[u8]) -> Result<&[u8], DecodeError> {
    use DecodeError::{Checksum, Malformed, NewerFormat, NotOurs, TooLarge, Truncated};

    let (magic, rest) = bytes.split_first_chunk::<2>().ok_or(Truncated)?;
    if *magic != MAGIC {
        return Err(NotOurs);
    }
    let (format, rest) = rest.split_first_chunk::<2>().ok_or(Truncated)?;
    let (&[kind_given, flags], rest) = rest.split_first_chunk::<2>().ok_or(Truncated)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(Truncated)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_PAYLOAD_BYTES {
        return Err(TooLarge);
    }
    let (payload, checksum) = rest.split_at_checked(length).ok_or(Truncated)?;
    let checksum = match checksum.len() {
        CHECKSUM_BYTES => <[u8; CHECKSUM_BYTES]>::try_from(checksum).map_err(|_| Malformed)?,
        less if less < CHECKSUM_BYTES => return Err(Truncated),
        _ => return Err(Malformed),
    };
    let summed = bytes.get(..HEADER_BYTES + length).ok_or(Truncated)?;
    if crc32fast::hash(summed) != u32::from_le_bytes(checksum) {
        return Err(Checksum);
    }
    // From here on the bytes are as they were written. Kinds and flags of a newer format are its own business.
    match u16::from_le_bytes(*format) {
        format if format > FORMAT => Err(NewerFormat { format }),
        FORMAT if kind_given == kind as u8 && flags == 0 => Ok(payload),
        _ => Err(Malformed),
    }
}
