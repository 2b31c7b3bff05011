//! Deploys arbitrary bytes as manifests, two of them in order. They are rejected with their violations, or stored byte
//! for byte.

#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_deploy::codec::{decode_record, encode_record};
use redis_deploy::engine::command::Deploy;
use redis_deploy::engine::manifest::Manifest;
use redis_deploy::engine::{self, Command, Context, Limits};
use redis_deploy::view;

fuzz_target!(|bytes: &[u8]| {
    let separator = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (first, second) = (&bytes[..separator], bytes.get(separator + 1..).unwrap_or_default());
    let _ = Manifest::parse(first);
    let Some(record) = deploy(None, first, 1_000) else { return };
    let stored = record.versions[0].content.text().as_bytes();
    assert_eq!(stored, first, "stored byte for byte");
    assert_eq!(decode_record(&encode_record(&record)).as_ref(), Ok(&record), "an accepted record can be decoded");
    view::to_json(&view::status(&record, "key"));
    if let Some(record) = deploy(Some(&record), second, 2_000) {
        assert_eq!(decode_record(&encode_record(&record)).as_ref(), Ok(&record), "an accepted record can be decoded");
        view::to_json(&view::status(&record, "key"));
    }
});

/// Deploys a manifest; None if it is rejected.
fn deploy(record: Option<&engine::Record>, manifest: &[u8], now_ms: u64) -> Option<engine::Record> {
    let command = Command::Deploy(Deploy { manifest: manifest.to_vec(), ..Deploy::default() });
    let context = Context { key: "key", now_ms, by: "someone", limits: Limits::default() };
    engine::decide(record, &command, &context).ok().map(|decision| decision.record)
}
