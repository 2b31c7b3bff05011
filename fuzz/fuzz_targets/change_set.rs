//! Any bytes as a batch of changes, as a primary or an append-only file gives them: refused, or applied. Applying is
//! total: whatever the changes say, nothing panics, and what comes of it can be written.
//!
//! The first byte says how many batches there are; they are applied one after the other to one record.

#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_deploy::codec::{decode_batch, decode_record, encode_batch, encode_record};
use redis_deploy::engine::{self, Record};
use redis_deploy::view;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_batch(bytes);
    let Some((count, rest)) = bytes.split_first() else { return };
    let each = rest.len().div_ceil(usize::from(count % 4) + 1).max(1);
    let mut record = Record::empty();
    for payload in rest.chunks(each) {
        let Ok(batch) = decode_batch(&enveloped(payload)) else { continue };
        assert_eq!(decode_batch(&encode_batch(&batch)).as_ref(), Ok(&batch), "written back, it is what was read");
        engine::apply(&mut record, &batch);
    }
    view::status(&record, "key", 0).to_json();
    view::tasks(&record).to_json();
    engine::next_deadline(&record);
    let _ = decode_record(&encode_record(&record));
});

fn enveloped(payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"dp\x02\x00\x02\x00".to_vec();
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}
