//! Facts about the server process: brand, version, clock, allocator.

use super::api::api;
use redis_module::raw;
use std::ffi::{c_int, CStr};
use std::sync::atomic::{AtomicBool, Ordering};

static IS_VALKEY: AtomicBool = AtomicBool::new(false);

/// Valkey's option "handles atomic slot migration": without it, a server with the module refuses to move slots.
const VALKEY_HANDLE_ATOMIC_SLOT_MIGRATION: c_int = 1 << 5;

/// Declares what the module handles. It is called first in OnLoad: without HANDLE_IO_ERRORS a crafted payload aborts
/// the server.
pub(super) fn set_options(ctx: *mut raw::RedisModuleCtx) {
    let is_valkey = detect_valkey(ctx);
    IS_VALKEY.store(is_valkey, Ordering::Relaxed);
    let mut options =
        raw::REDISMODULE_OPTIONS_HANDLE_IO_ERRORS as c_int | raw::REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD as c_int;
    // SAFETY: takes nothing.
    let known = api!(RedisModule_GetModuleOptionsAll).map_or(0, |all| unsafe { all() });
    if is_valkey && known & VALKEY_HANDLE_ATOMIC_SLOT_MIGRATION != 0 {
        options |= VALKEY_HANDLE_ATOMIC_SLOT_MIGRATION;
    }
    if let Some(set) = api!(RedisModule_SetModuleOptions) {
        // SAFETY: the context is valid for this call.
        unsafe { set(ctx, options) };
    }
}

/// Reads the brand from INFO: version numbers do not tell Redis from Valkey, and the numbers of options and events of
/// the two differ.
fn detect_valkey(ctx: *mut raw::RedisModuleCtx) -> bool {
    let (Some(get), Some(field), Some(free)) =
        (api!(RedisModule_GetServerInfo), api!(RedisModule_ServerInfoGetFieldC), api!(RedisModule_FreeServerInfo))
    else {
        return false;
    };
    // SAFETY: C strings; the data is freed once, after the last access to the field.
    unsafe {
        let data = get(ctx, c"server".as_ptr());
        if data.is_null() {
            return false;
        }
        let name = field(data, c"server_name".as_ptr());
        let is_valkey = !name.is_null() && CStr::from_ptr(name).to_bytes() == b"valkey";
        free(ctx, data);
        is_valkey
    }
}

/// True on Valkey, once [`set_options`] has run.
pub fn is_valkey() -> bool {
    IS_VALKEY.load(Ordering::Relaxed)
}

/// The server's version as `0x00MMmmpp`; 0 where the server does not tell.
pub fn version() -> c_int {
    // SAFETY: takes nothing.
    api!(RedisModule_GetServerVersion).map_or(0, |version| unsafe { version() })
}

/// True on Valkey 8.1 to 9.1.1, which leave the calling client on the database of a keyspace notification
/// (valkey#4024).
pub fn has_db_switch_bug() -> bool {
    const FIXED_IN: c_int = 0x09_01_02;
    is_valkey() && version() < FIXED_IN
}

/// The server's wall clock, unix time in ms.
pub fn milliseconds() -> Option<u64> {
    let read = api!(RedisModule_Milliseconds)?;
    // SAFETY: takes nothing.
    u64::try_from(unsafe { read() }).ok()
}

/// The time at which the running command, script or transaction began, unix time in µs. None before Redis 7.2.
pub fn cached_microseconds() -> Option<u64> {
    let read = api!(RedisModule_CachedMicroseconds)?;
    // SAFETY: takes nothing.
    u64::try_from(unsafe { read() }).ok()
}

/// True while replica traffic is paused (CLIENT PAUSE, FAILOVER, shutdown): replicating then aborts the server.
pub fn avoids_replica_traffic() -> bool {
    // SAFETY: takes nothing.
    api!(RedisModule_AvoidReplicaTraffic).is_some_and(|avoid| unsafe { avoid() != 0 })
}

/// The size in bytes that the server's allocator uses for a block of `bytes`, found by allocating one.
pub fn alloc_size(bytes: usize) -> usize {
    /// Larger blocks are not allocated to find their size: rounding matters little there.
    const MAX_PROBED: usize = 1 << 20;
    let functions = (api!(RedisModule_Alloc), api!(RedisModule_MallocSize), api!(RedisModule_Free));
    match functions {
        (Some(alloc), Some(size_of), Some(free)) if bytes <= MAX_PROBED => {
            // SAFETY: allocated, measured and freed here, and never read.
            unsafe {
                let block = alloc(bytes);
                let size = size_of(block);
                free(block);
                size
            }
        }
        _ => bytes.next_multiple_of(16),
    }
}
