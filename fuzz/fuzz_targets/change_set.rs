//! Decodes arbitrary bytes as change sets, as received from a primary or read from an AOF. They are rejected or
//! applied. Applying is total: no change panics, and the resulting record can be encoded.
//!
//! The first byte is the number of change sets, which are applied to one record in order.

#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_deploy::codec::{decode_change_set, decode_record, encode_change_set, encode_record};
use redis_deploy::engine::{self, Record};
use redis_deploy::view;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_change_set(bytes);
    let Some((count, rest)) = bytes.split_first() else { return };
    let chunk_size = rest.len().div_ceil(usize::from(count % 4) + 1).max(1);
    let mut record = Record::empty();
    for payload in rest.chunks(chunk_size) {
        let Ok(change_set) = decode_change_set(&wrap(payload)) else { continue };
        assert_eq!(
            decode_change_set(&encode_change_set(&change_set)).as_ref(),
            Ok(&change_set),
            "encoding and decoding is lossless"
        );
        engine::apply(&mut record, &change_set);
    }
    view::to_json(&view::status(&record, "key"));
    view::to_json(&view::tasks(&record));
    engine::next_deadline(&record);
    let _ = decode_record(&encode_record(&record));
});

/// Wraps a payload in the envelope of a change set.
fn wrap(payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"dp\x01\x00\x02\x00".to_vec();
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}
