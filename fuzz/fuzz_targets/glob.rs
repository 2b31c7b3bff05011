//! Matches arbitrary patterns of DEPLOY.LIST MATCH against arbitrary keys: terminates soon and does not panic. The rest
//! of the argument parser reads the server's strings and is tested inside a server by `tests/server_arguments.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_deploy::redis::glob::matches;

fuzz_target!(|bytes: &[u8]| {
    let separator = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (pattern, key) = (&bytes[..separator], bytes.get(separator + 1..).unwrap_or_default());
    matches(pattern, key);
});
