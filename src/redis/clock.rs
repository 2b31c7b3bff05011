//! The server's clock, read once per command: the engine is told the time.

use super::ffi::{self, Ctx};
use crate::engine::time::UnixMs;
use std::time::{SystemTime, UNIX_EPOCH};

/// The time for a decision. Inside a script or a transaction it is the time at which that began, as for the server's
/// own commands, where the server can tell (Redis 7.2 and later). A timer runs in neither, so its decisions are on
/// time.
pub fn now(ctx: Ctx) -> UnixMs {
    match ffi::cached_microseconds() {
        Some(micros) if ctx.flags().is_in_script_or_multi() => micros / 1000,
        _ => wall(),
    }
}

/// The wall clock, unix time in ms.
pub fn wall() -> UnixMs {
    ffi::milliseconds().unwrap_or_else(|| micros() / 1000)
}

/// The wall clock, unix time in µs, to measure the lag of a timer.
pub fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
