//! Derived shapes to bytes and back, by bincode: the only file that names it.
//!
//! Numbers above 250 take a byte for their size and then 2, 4 or 8 bytes, little-endian; smaller ones take one byte. A
//! text, a byte string and a list begin with their length, an option with 0 or 1, an enum with the index of its
//! variant. A struct is its fields in the order of their declaration: the encoding names nothing, so the order of
//! fields and of variants is part of a format.

use super::error::{DecodeError, MAX_PAYLOAD_BYTES};
use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::error::DecodeError as BincodeError;
use serde::{Deserialize, Serialize};
use serde_bytes::Bytes;

const CONFIG: Configuration<LittleEndian, Varint, Limit<MAX_PAYLOAD_BYTES>> =
    bincode::config::standard().with_limit::<MAX_PAYLOAD_BYTES>();

/// The longest length that takes a single byte.
const MAX_ONE_BYTE_LENGTH: u8 = 250;

/// A buffer that bincode appends to.
struct Buffer<'b>(&'b mut Vec<u8>);

impl bincode::enc::write::Writer for Buffer<'_> {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// Appends a value.
#[inline]
pub(super) fn write(value: &impl Serialize, bytes: &mut Vec<u8>) {
    bincode::serde::encode_into_writer(value, Buffer(bytes), CONFIG)
        .expect("a Vec takes any bytes, and every list of a shape knows its length");
}

/// Appends a value as a byte string, that is behind the length of its bytes.
pub(super) fn write_length_prefixed(value: &impl Serialize, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.push(0);
    write(value, bytes);
    let length = bytes.len() - start - 1;
    match (u8::try_from(length), bytes.get_mut(start)) {
        (Ok(short), Some(prefix)) if short <= MAX_ONE_BYTE_LENGTH => *prefix = short,
        _ => {
            let mut prefix = Vec::new();
            write(&length, &mut prefix);
            bytes.splice(start..=start, prefix);
        }
    }
}

/// Bytes that values are taken from, one after the other.
pub(super) struct Reader<'p> {
    rest: &'p [u8],
}

impl<'p> Reader<'p> {
    pub(super) fn of(bytes: &'p [u8]) -> Reader<'p> {
        Reader { rest: bytes }
    }

    /// Takes the next value, which borrows its texts from the bytes.
    #[inline]
    pub(super) fn read<T: Deserialize<'p>>(&mut self) -> Result<T, DecodeError> {
        let (value, length) = bincode::serde::borrow_decode_from_slice(self.rest, CONFIG).map_err(decode_error)?;
        self.rest = self.rest.get(length..).unwrap_or_default();
        Ok(value)
    }

    /// Takes the next value, a byte string, unread.
    #[inline]
    pub(super) fn read_bytes(&mut self) -> Result<&'p [u8], DecodeError> {
        // Nearly every event is this short, and a log that is loaded is split into all of them.
        if let Some((&length, rest)) = self.rest.split_first().filter(|(length, _)| **length <= MAX_ONE_BYTE_LENGTH) {
            let (bytes, rest) = rest.split_at_checked(usize::from(length)).ok_or(DecodeError::Malformed)?;
            self.rest = rest;
            return Ok(bytes);
        }
        self.read::<&Bytes>().map(|bytes| &**bytes)
    }

    pub(super) fn rest(&self) -> &'p [u8] {
        self.rest
    }

    /// Checks that nothing follows.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        match self.rest {
            [] => Ok(()),
            _ => Err(DecodeError::Malformed),
        }
    }
}

fn decode_error(error: BincodeError) -> DecodeError {
    match error {
        // A value that its type does not have: a number beyond its bound, a variant that does not exist.
        BincodeError::OtherString(what) => DecodeError::Invalid(what),
        _ => DecodeError::Malformed,
    }
}
