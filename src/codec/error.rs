//! Errors of decoding, and the limits on what is decoded.

use thiserror::Error;

/// The largest payload, in bytes: the limit of a bulk string in Redis.
pub const MAX_PAYLOAD_BYTES: usize = 512 << 20;

/// The longest single text, in bytes. A manifest is the longest that there is, so `deploy.manifest-max-bytes` must not
/// allow more. It is parsed when it comes from an untrusted source, and a tree of JSON values is many times its text.
pub const MAX_TEXT_BYTES: usize = 4 << 20;

/// The largest count or sequence number (2^53 - 1: exact in every JSON reader, and far from overflow).
pub const MAX_NUMBER: u64 = (1 << 53) - 1;

/// The latest time and the longest duration, in ms: room for a present time plus the longest duration of a policy.
pub const MAX_TIME_MS: u64 = 1 << 54;

/// The most instances of one agent. Two are usual, and each deployment that no coordinator carries out may leave one
/// more. They are searched one by one, so a payload with a million of them would block the server.
pub const MAX_INSTANCES_PER_AGENT: usize = 4096;

/// Reason for which bytes are refused.
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
    /// The envelope is intact, so the payload can be kept as it is until the module is upgraded.
    #[error("the payload has format {format}, which a newer version of the module wrote")]
    NewerFormat { format: u16 },
    #[error("the payload is malformed")]
    Malformed,
    /// Decodable, and yet no value that this module would have written.
    #[error("the payload is invalid: {0}")]
    Invalid(String),
}
