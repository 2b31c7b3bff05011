//! Encoding of records and change sets, for the RDB, the AOF, DUMP and replication.
//!
//! ```text
//! magic "dp" │ format u16 │ kind u8 │ flags u8 │ payload length u32 │ payload │ crc32 of all before it
//! ```
//!
//! Integers of the envelope are little-endian. The envelope is the same for every format, so that an older module can
//! tell a newer one's payload ([`DecodeError::NewerFormat`]) from a damaged one, and keep it as it is.
//!
//! The shapes of a format's payloads are in one file, such as [`format1`], frozen once released, and their conversion
//! from and to the engine's types in another, such as [`convert1`]. A new shape is a new format: [`format2`] states its
//! differences only, and every older format goes on being read. The order of the parts is in [`payload`], once for all
//! formats.
//!
//! Bytes are untrusted: length and checksum are checked before the payload is decoded, decoding takes memory in
//! proportion to the bytes that are there and not to the lengths that they claim, and a decoded value is
//! [validated](validation) as if a user had sent it.

mod convert1;
mod convert2;
mod error;
mod format;
mod format1;
mod format2;
mod payload;
mod shape;
mod validation;
mod wire;

use self::convert1::Format1;
use self::convert2::Format2;
use crate::engine::event_log::Log;
use crate::engine::{ChangeSet, Record, Summary, Uncommitted};
pub use error::{DecodeError, MAX_INSTANCES_PER_AGENT, MAX_NUMBER, MAX_PAYLOAD_BYTES, MAX_TEXT_BYTES, MAX_TIME_MS};

/// The first two bytes of every envelope.
const MAGIC: [u8; 2] = *b"dp";

/// The format that is written. Every format that a release has written is read.
const FORMAT: u16 = 2;

/// The length of an envelope before and after its payload, in bytes.
const HEADER_BYTES: usize = 10;
const CHECKSUM_BYTES: usize = 4;
/// The position of the kind in an envelope.
const KIND_AT: usize = 4;

/// Kind of a payload, in the envelope: a record is never read as a change set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Record = 1,
    ChangeSet = 2,
}

/// Returns a record before its first event, with a log that keeps encoded events.
pub fn empty_record() -> Record {
    Record { log: Log::with_codec(convert2::event_codec()), ..Record::empty() }
}

/// Encodes a record, with its summary in front.
pub fn encode_record(record: &Record) -> Vec<u8> {
    wrap(Kind::Record, |payload| payload::write_record(record, payload))
}

/// Reads the summary of a record. Nothing behind it is decoded, and the summary is not validated.
///
/// # Errors
///
/// [`DecodeError`] where the envelope or the summary is damaged, or of a newer format.
pub fn summary_of(bytes: &[u8]) -> Result<Summary, DecodeError> {
    let summary = match unwrap_envelope(Kind::Record, bytes)? {
        (1, payload) => payload::read_summary::<Format1>(payload)?,
        (_, payload) => payload::read_summary::<Format2>(payload)?,
    };
    summary.ok_or(DecodeError::Malformed)
}

/// Reads a record's own fields, its deployment among them. Its lists are not read, and empty.
///
/// # Errors
///
/// [`DecodeError`] where the envelope or these fields are damaged, or of a newer format.
pub fn header_of(bytes: &[u8]) -> Result<Record, DecodeError> {
    match unwrap_envelope(Kind::Record, bytes)? {
        (1, payload) => payload::read_header::<Format1>(payload),
        (_, payload) => payload::read_header::<Format2>(payload),
    }
}

/// Decodes a record from an untrusted source, and validates all of it as if a user had sent it.
///
/// # Errors
///
/// [`DecodeError`] where the bytes are not a whole record of this format, or hold a value that the engine would not
/// have made.
pub fn decode_record(bytes: &[u8]) -> Result<Record, DecodeError> {
    let (record, summary) = read_record(bytes)?;
    validation::validate_record(&record)?;
    match summary == Summary::of(&record) {
        true => Ok(record),
        false => Err(DecodeError::Invalid("its summary is that of another record".to_string())),
    }
}

/// Decodes a record that this server, or one like it, has encoded. The log, and manifests of versions that nobody runs,
/// are not validated: that would cost many times the rest, and they are only read out. An event that turns out to be
/// damaged is left out when the log is read. The summary is returned as well: it may say otherwise than the record.
///
/// # Errors
///
/// [`DecodeError`] as for [`decode_record`], less what is not validated.
pub fn decode_trusted_record(bytes: &[u8]) -> Result<(Record, Option<Summary>), DecodeError> {
    let (record, summary) = read_record(bytes)?;
    validation::validate_trusted(&record)?;
    Ok((record, summary))
}

/// Reads a record of any format, and the summary in front of it.
fn read_record(bytes: &[u8]) -> Result<(Record, Option<Summary>), DecodeError> {
    match unwrap_envelope(Kind::Record, bytes)? {
        (1, payload) => payload::read_record::<Format1>(payload),
        (_, payload) => payload::read_record::<Format2>(payload),
    }
}

/// Encodes a change set.
pub fn encode_change_set(change_set: &ChangeSet) -> Vec<u8> {
    wrap(Kind::ChangeSet, |payload| payload::write_change_set(change_set, &[], payload))
}

/// Encodes the changes of a command that is not committed yet. Its events are encoded already, in the log, and their
/// bytes are copied: the result is that of [`encode_change_set`].
pub fn encode_uncommitted(uncommitted: &Uncommitted) -> Vec<u8> {
    wrap(Kind::ChangeSet, |payload| {
        payload::write_change_set(&uncommitted.change_set, uncommitted.encoded_events(), payload);
    })
}

/// Decodes and validates a change set.
///
/// # Errors
///
/// [`DecodeError`] where the bytes are not a whole change set of this format, or hold a value that the engine would not
/// have made.
pub fn decode_change_set(bytes: &[u8]) -> Result<ChangeSet, DecodeError> {
    let change_set = match unwrap_envelope(Kind::ChangeSet, bytes)? {
        (1, payload) => payload::read_change_set::<Format1>(payload)?,
        (_, payload) => payload::read_change_set::<Format2>(payload)?,
    };
    validation::validate_change_set(&change_set)?;
    Ok(change_set)
}

/// Splits concatenated envelopes, unread. None where the bytes are something else.
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

/// Returns the error of a payload that is not intact, or of a newer format; None for one that this module can read as
/// far as the envelope tells.
pub fn envelope_error(bytes: &[u8]) -> Option<DecodeError> {
    let as_record = unwrap_envelope(Kind::Record, bytes);
    as_record.or_else(|_| unwrap_envelope(Kind::ChangeSet, bytes)).err()
}

/// Returns whether an envelope is that of a change set, of whatever format.
pub fn is_change_set(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC) && bytes.get(KIND_AT) == Some(&(Kind::ChangeSet as u8))
}

/// Puts the envelope around the payload that `write` appends.
fn wrap(kind: Kind, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&[kind as u8, 0]);
    let length_at = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    write(&mut bytes);
    // No server stores a payload beyond 4 GiB, and no reader accepts this length.
    let length = u32::try_from(bytes.len() - HEADER_BYTES).unwrap_or(u32::MAX);
    bytes[length_at..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Checks the envelope, and returns the format and the payload.
fn unwrap_envelope(kind: Kind, bytes: &[u8]) -> Result<(u16, &[u8]), DecodeError> {
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
    // The bytes are as they were written. A newer format may have kinds and flags that are not known here.
    match u16::from_le_bytes(*format) {
        format if format > FORMAT => Err(NewerFormat { format }),
        format @ 1..=FORMAT if kind_given == kind as u8 && flags == 0 => Ok((format, payload)),
        _ => Err(Malformed),
    }
}
