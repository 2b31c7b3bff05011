//! Payloads of DUMP and RDB files, taken apart, changed and put together with valid checksums.
//!
//! ```text
//! DUMP       07 │ module id │ 05 │ string = envelope │ 00 │ RDB version u16 │ CRC-64 of all before it
//! envelope   "dp" │ format u16 │ kind u8 │ flags u8 │ payload length u32 │ payload │ CRC-32 of all before it
//! ```

use std::sync::OnceLock;

/// Computes the checksum of dumps and RDB files: CRC-64 "Jones", reflected, without inversion.
pub fn crc64(bytes: &[u8]) -> u64 {
    const POLYNOMIAL: u64 = 0xad93_d235_94c9_35a9;
    static TABLE: OnceLock<[u64; 256]> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let reflected = POLYNOMIAL.reverse_bits();
        std::array::from_fn(|byte| {
            (0..8).fold(byte as u64, |sum, _| if sum & 1 == 1 { (sum >> 1) ^ reflected } else { sum >> 1 })
        })
    });
    bytes.iter().fold(0, |sum, byte| table[(sum as u8 ^ byte) as usize] ^ (sum >> 8))
}

pub const HEADER_BYTES: usize = 10;
pub const CRC32_BYTES: usize = 4;
const TRAILER_BYTES: usize = 10;

/// Writes a valid CRC-32 to the end of a changed envelope.
pub fn with_checksum(mut envelope: Vec<u8>) -> Vec<u8> {
    let summed = envelope.len() - CRC32_BYTES;
    let sum = crc32fast::hash(&envelope[..summed]);
    envelope[summed..].copy_from_slice(&sum.to_le_bytes());
    envelope
}

/// Returns an envelope of this format and kind around a payload.
pub fn envelope(format: u16, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"dp".to_vec();
    bytes.extend(format.to_le_bytes());
    bytes.extend([kind, 0]);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    bytes.extend([0; CRC32_BYTES]);
    with_checksum(bytes)
}

/// Returns the envelope as of format 99, with an unknown flag.
pub fn of_newer_format(envelope: &[u8]) -> Vec<u8> {
    let mut newer = envelope.to_vec();
    newer[2..4].copy_from_slice(&99u16.to_le_bytes());
    newer[5] = 0x40;
    with_checksum(newer)
}

/// A DUMP taken apart. The server must not compress (`--rdbcompression no`).
#[derive(Debug, Clone)]
pub struct Dump {
    /// Type and module id.
    pub head: Vec<u8>,
    pub envelope: Vec<u8>,
    rdb_version: [u8; 2],
}

impl Dump {
    pub fn parse(dump: &[u8]) -> Dump {
        let (body, trailer) = dump.split_at(dump.len() - TRAILER_BYTES);
        assert_eq!(crc64(&dump[..dump.len() - 8]).to_le_bytes(), trailer[2..], "our CRC-64 is the server's");
        // Type, then the module id: a length of 64 bits.
        let (head, rest) = body.split_at(1 + 9);
        assert_eq!((head[0], head[1]), (7, 0x81), "a module's value");
        assert_eq!(rest[0], 5, "one string");
        let (length, begins) = read_length(&rest[1..]);
        let envelope = &rest[1 + begins..][..length];
        assert_eq!(&rest[1 + begins + length..], [0], "and nothing else");
        Dump { head: head.to_vec(), envelope: envelope.to_vec(), rdb_version: [trailer[0], trailer[1]] }
    }

    /// Returns a DUMP of this envelope.
    pub fn of(&self, envelope: &[u8]) -> Vec<u8> {
        let mut body = self.head.clone();
        body.push(5);
        write_length(envelope.len(), &mut body);
        body.extend(envelope);
        body.push(0);
        self.finished(body)
    }

    /// Returns it without the trailer, which [`Dump::finished`] appends.
    pub fn body(&self) -> Vec<u8> {
        let whole = self.of(&self.envelope);
        whole[..whole.len() - TRAILER_BYTES].to_vec()
    }

    /// Appends the server's RDB version and the checksum to a body.
    pub fn finished(&self, mut body: Vec<u8>) -> Vec<u8> {
        body.extend(self.rdb_version);
        body.extend(crc64(&body).to_le_bytes());
        body
    }
}

/// Reads a length of an RDB file: 6 bits, 14 bits, or 32 or 64 behind a prefix. Returns it and its own size in bytes.
fn read_length(bytes: &[u8]) -> (usize, usize) {
    match bytes[0] >> 6 {
        0 => ((bytes[0] & 0x3f) as usize, 1),
        1 => ((usize::from(bytes[0] & 0x3f) << 8) | usize::from(bytes[1]), 2),
        2 => (u32::from_be_bytes(bytes[1..5].try_into().expect("four bytes")) as usize, 5),
        _ => panic!("the string is compressed or a number"),
    }
}

fn write_length(length: usize, into: &mut Vec<u8>) {
    match length {
        0..0x40 => into.push(length as u8),
        0x40..0x4000 => into.extend((0x4000 | length as u16).to_be_bytes()),
        _ => {
            into.push(0x80);
            into.extend((length as u32).to_be_bytes());
        }
    }
}

/// Repositions an envelope in an RDB file by another of the same length, and updates the file's checksum.
pub fn patched_file(file: &[u8], envelope: &[u8], by: &[u8]) -> Vec<u8> {
    assert_eq!(envelope.len(), by.len());
    let positions: Vec<usize> =
        (0..file.len() - envelope.len()).filter(|at| file[*at..].starts_with(envelope)).collect();
    assert_eq!(positions.len(), 1, "the record is in the file once");
    let mut patched = file.to_vec();
    patched[positions[0]..][..by.len()].copy_from_slice(by);
    let summed = patched.len() - 8;
    let sum = crc64(&patched[..summed]);
    patched[summed..].copy_from_slice(&sum.to_le_bytes());
    patched
}
