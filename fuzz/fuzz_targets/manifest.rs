//! Any bytes as a manifest: refused with its faults, or read; and two of them compared. The text goes through DEPLOY and
//! comes back byte for byte.

#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_deploy::codec::{decode_record, encode_record};
use redis_deploy::engine::command::Deploy;
use redis_deploy::engine::manifest::Manifest;
use redis_deploy::engine::{self, Command, Context, Limits};
use redis_deploy::view;

fuzz_target!(|bytes: &[u8]| {
    let middle = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (first, second) = (&bytes[..middle], bytes.get(middle + 1..).unwrap_or_default());
    let _ = Manifest::parse(first);
    let Some(record) = deployed(None, first, 1_000) else { return };
    let kept = record.versions[0].content.text().as_bytes();
    assert_eq!(kept, first, "kept byte for byte");
    assert_eq!(decode_record(&encode_record(&record)).as_ref(), Ok(&record), "what was accepted can be read back");
    view::to_json(&view::status(&record, "key"));
    if let Some(record) = deployed(Some(&record), second, 2_000) {
        assert_eq!(decode_record(&encode_record(&record)).as_ref(), Ok(&record), "what was accepted can be read back");
        view::to_json(&view::status(&record, "key"));
    }
});

fn deployed(record: Option<&engine::Record>, manifest: &[u8], now_ms: u64) -> Option<engine::Record> {
    let command = Command::Deploy(Deploy { manifest: manifest.to_vec(), ..Deploy::default() });
    let context = Context { key: "key", now_ms, by: "someone", limits: Limits::default() };
    engine::decide(record, &command, &context).ok().map(|decision| decision.record)
}
