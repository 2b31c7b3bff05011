//! The time that decisions are made with: the server's, read once per command.

use super::ffi::{self, Ctx};
use crate::engine::time::UnixMs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Now, for a decision. Inside a script or a transaction it is the time at which that began, as for the server's own
/// commands, where the server can tell (from Redis 7.2 on). A timer is in none, so what it does is on time.
pub fn now(ctx: Ctx) -> UnixMs {
    match ffi::cached_microseconds() {
        Some(micros) if ctx.flags().is_in_unit() => micros / 1000,
        _ => wall(),
    }
}

/// The wall clock, in ms.
pub fn wall() -> UnixMs {
    ffi::milliseconds().unwrap_or_else(|| micros() / 1000)
}

/// The same clock in µs, to measure how late a timer is.
pub fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
