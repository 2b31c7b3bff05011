//! LIST's MATCH: any pattern on any key ends soon and does not panic. The rest of the argument parser reads the server's
//! own strings, which exist inside a server only: `tests/server_arguments.rs` does the same to it there.

#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_deploy::redis::glob::matches;

fuzz_target!(|bytes: &[u8]| {
    let middle = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (pattern, key) = (&bytes[..middle], bytes.get(middle + 1..).unwrap_or_default());
    matches(pattern, key);
});
