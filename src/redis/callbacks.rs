//! Callbacks from the server, the upper half of the C boundary: those of the data type, of events, configurations and
//! INFO. Each entry unpacks its pointers, passes values to a function that knows none, and catches panics: one that
//! leaves an extern "C" function aborts the server.

#![allow(unsafe_code)]

use super::compat::valkey_4024;
use super::config::{Config, ConfigKind, ConfigValue, ModuleArguments, CONFIGS};
use super::ffi::{self, api, bytes_of, catch_panic, catch_panic_or, slot_events, slot_move};
use super::ffi::{Ctx, Flags, RString, SlotMove, Unavailable, ValueType};
use super::record_key::{KeyCell, RECORD_TYPE};
use super::stored::{IndexEntry, Stored};
use super::{blocked_clients, index, info, keyspace, mem_usage, replication, stored, timers};
use redis_module::native_types::RedisType;
use redis_module::{raw, TYPE_METHOD_VERSION};
use std::ffi::{c_char, c_int, c_longlong, c_void, CStr, CString};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

// ---- the data type --------------------------------------------------------------------------------------------------

/// The data type, registered by the crate before OnLoad continues.
pub static DEPLOYMENT: RedisType = RedisType::new("deploymnt", stored::ENCVER, METHODS);

/// Passes the registered type on to the keys. Called once, in OnLoad.
pub fn set_record_type() {
    // SAFETY: `rdb_load` and `copy` return boxed cells, and so does `Key::replace`: there is no other value of this
    // type.
    unsafe { RECORD_TYPE.set(*DEPLOYMENT.raw_type.borrow()) };
}

const METHODS: raw::RedisModuleTypeMethods = raw::RedisModuleTypeMethods {
    version: TYPE_METHOD_VERSION,
    rdb_load: Some(rdb_load),
    rdb_save: Some(rdb_save),
    aof_rewrite: Some(aof_rewrite),
    digest: Some(digest),
    free: Some(free),
    mem_usage2: Some(mem_usage),
    unlink2: Some(unlink),
    copy2: Some(copy),
    mem_usage: None,
    aux_load: None,
    aux_save: None,
    aux_save2: None,
    aux_save_triggers: 0,
    // Its answer 0 means "always in the background"; without one the server frees in the foreground, as intended.
    free_effort: None,
    free_effort2: None,
    unlink: None,
    copy: None,
    defrag: None,
};

/// Borrows a value of ours that the server passes back.
///
/// # Safety
/// `value` is what `rdb_load`, `copy` or `Key::replace` gave the server, and is not freed yet.
unsafe fn stored<'v>(value: *const c_void) -> Option<&'v Stored> {
    // SAFETY: the caller's promise.
    unsafe { value.cast::<KeyCell>().as_ref() }.map(|cell| &cell.stored)
}

unsafe extern "C" fn rdb_load(io: *mut raw::RedisModuleIO, encver: c_int) -> *mut c_void {
    catch_panic_or("rdb_load", ptr::null_mut(), || {
        let Some(bytes) = load_buffer(io) else { return ptr::null_mut() };
        // SAFETY: the IO is valid for this call, and so is its context.
        let ctx = api!(RedisModule_GetContextFromIO).map(|get| Ctx::from_raw(unsafe { get(io) }));
        let flags = ctx.map(Ctx::flags);
        let key = key_of_io(io).map(String::from_utf8_lossy).unwrap_or_default();
        let is_loading = flags.is_some_and(|flags| flags.is_loading() || flags.is_async_loading());
        let stored = match flags {
            _ if is_loading => Some(Stored::load_lazily(encver, bytes, &key)),
            // The payload comes from our primary: rejecting it would make the replica diverge.
            Some(flags) if flags.is_replica() => Some(Stored::load_or_keep(encver, bytes, &key)),
            _ => Stored::load(encver, &bytes, &key),
        };
        let Some(stored) = stored else { return ptr::null_mut() };
        if let (Some(name), Some(db)) = (key_of_io(io), api!(RedisModule_GetDbIdFromIO)) {
            // SAFETY: the IO is valid for this call.
            let db = unsafe { db(io) };
            index::add_loaded(db, name, IndexEntry::of(&stored));
            if !is_loading {
                valkey_4024::on_created(db, name);
            }
        }
        let value = ValueType::into_raw(KeyCell::new(stored));
        if is_loading {
            LAST_LOADED.store(value, Ordering::Relaxed);
        }
        value
    })
}

/// The value that the last `rdb_load` returned while loading. Freed before the next one, it became no key.
static LAST_LOADED: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

fn on_load_finished(ctx: Ctx) {
    LAST_LOADED.store(ptr::null_mut(), Ordering::Relaxed);
    keyspace::recheck_loaded(ctx);
}

fn key_of_io<'k>(io: *mut raw::RedisModuleIO) -> Option<&'k [u8]> {
    // SAFETY: the IO is valid for this call; the name, where it has one, as long.
    let name = api!(RedisModule_GetKeyNameFromIO).map(|get| unsafe { get(io) })?;
    (!name.is_null()).then(|| bytes_of(name))
}

/// Reads one string of the payload; None where it cannot be read.
fn load_buffer(io: *mut raw::RedisModuleIO) -> Option<Vec<u8>> {
    let (load, failed, free) =
        (api!(RedisModule_LoadStringBuffer)?, api!(RedisModule_IsIOError)?, api!(RedisModule_Free)?);
    let mut length = 0;
    // SAFETY: the IO is valid for this call; `length` is set with the pointer.
    let start = unsafe { load(io, &mut length) };
    // SAFETY: as above.
    if start.is_null() || unsafe { failed(io) } != 0 {
        return None;
    }
    // SAFETY: the server allocated `length` bytes for us, which are copied, and freed once.
    unsafe {
        let bytes = std::slice::from_raw_parts(start.cast::<u8>(), length).to_vec();
        free(start.cast());
        Some(bytes)
    }
}

unsafe extern "C" fn rdb_save(io: *mut raw::RedisModuleIO, value: *mut c_void) {
    let written = catch_panic("rdb_save", || {
        // SAFETY: the server hands back a value of ours.
        save(io, unsafe { stored(value) }.map(Stored::to_bytes).as_deref().unwrap_or_default());
    });
    if written.is_err() {
        fail_in_child();
        // In the server itself something must be written, or the whole file could not be read. An empty payload is
        // loaded as a damaged record.
        catch_panic_or("rdb_save", (), || save(io, &[]));
    }
}

fn save(io: *mut raw::RedisModuleIO, bytes: &[u8]) {
    if let Some(save) = api!(RedisModule_SaveStringBuffer) {
        // SAFETY: the IO is valid for this call; a buffer with its length, which is copied.
        unsafe { save(io, bytes.as_ptr().cast::<c_char>(), bytes.len()) }
    }
}

/// Aborts a forked child that could not write a record: the server reports the failed save, retries it, and still has
/// all data, whereas a file without the record would replace a good one.
fn fail_in_child() {
    if Flags::without_context().is_child() {
        std::process::abort();
    }
}

/// Emits a record for an AOF rewrite. Valkey moves slots by this as well: what it emits must be complete, and replace
/// what is there.
unsafe extern "C" fn aof_rewrite(io: *mut raw::RedisModuleIO, key: *mut raw::RedisModuleString, value: *mut c_void) {
    let written = catch_panic("aof_rewrite", || {
        // SAFETY: the server hands back a value of ours.
        let (Some(stored), Some(emit)) = (unsafe { stored(value) }, api!(RedisModule_EmitAOF)) else { return };
        let bytes = stored.to_bytes();
        let (word, command) = (replication::RECORD, replication::APPLY);
        let (buffer, length) = (bytes.as_ptr().cast::<c_char>(), bytes.len());
        // SAFETY: the format names exactly the arguments that follow: a string, a C string, a buffer with its length.
        unsafe { emit(io, command.as_ptr(), c"scb".as_ptr(), key, word.as_ptr(), buffer, length) }
    });
    if written.is_err() {
        fail_in_child();
    }
}

unsafe extern "C" fn digest(md: *mut raw::RedisModuleDigest, value: *mut c_void) {
    catch_panic_or("digest", (), || {
        let (add, end) = (api!(RedisModule_DigestAddStringBuffer), api!(RedisModule_DigestEndSequence));
        // SAFETY: the server hands back a value of ours.
        let (Some(stored), Some(add), Some(end)) = (unsafe { stored(value) }, add, end) else { return };
        let bytes = stored.to_bytes();
        // SAFETY: a buffer with its length, which is read at once.
        unsafe {
            add(md, bytes.as_ptr().cast::<c_char>(), bytes.len());
            end(md);
        }
    });
}

/// Releases memory and does nothing else: it may run on another thread, though not while data is loaded. The index
/// follows `unlink` and FLUSHDB.
unsafe extern "C" fn free(value: *mut c_void) {
    // Not `or_else`: it logs, and a Drop of plain data cannot panic anyhow.
    let _ = std::panic::catch_unwind(|| {
        if !value.is_null() {
            if LAST_LOADED.compare_exchange(value, ptr::null_mut(), Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                index::last_load_was_dropped();
            }
            valkey_4024::on_freed(value.addr());
            // SAFETY: the value is a box of ours, and the server forgets it now.
            drop(unsafe { Box::from_raw(value.cast::<KeyCell>()) });
        }
    });
}

unsafe extern "C" fn mem_usage(_: *mut raw::RedisModuleKeyOptCtx, value: *const c_void, _samples: usize) -> usize {
    catch_panic_or("mem_usage", 0, || {
        // SAFETY: the server hands back a value of ours.
        unsafe { stored(value) }.map_or(0, |stored| mem_usage::of(stored, size_of::<KeyCell>()))
    })
}

/// A key of ours is removed: by DEL, UNLINK, expiry, eviction, or another value in its place.
unsafe extern "C" fn unlink(opt: *mut raw::RedisModuleKeyOptCtx, value: *const c_void) {
    catch_panic_or("unlink", (), || {
        let (name, db) = (api!(RedisModule_GetKeyNameFromOptCtx), api!(RedisModule_GetDbIdFromOptCtx));
        let (Some(name), Some(db)) = (name, db) else { return };
        // SAFETY: the option context is valid for this call.
        let (name, db) = unsafe { (name(opt), db(opt)) };
        if !name.is_null() {
            let name = bytes_of(name);
            index::remove(db, name);
            blocked_clients::on_removed(db, name);
            valkey_4024::on_unlinked(db, value.addr());
        }
    });
}

unsafe extern "C" fn copy(opt: *mut raw::RedisModuleKeyOptCtx, value: *const c_void) -> *mut c_void {
    catch_panic_or("copy", ptr::null_mut(), || {
        if let (Some(name), Some(db)) =
            (api!(RedisModule_GetToKeyNameFromOptCtx), api!(RedisModule_GetToDbIdFromOptCtx))
        {
            // SAFETY: the option context is valid for this call.
            let (name, db) = unsafe { (name(opt), db(opt)) };
            if !name.is_null() {
                valkey_4024::on_created(db, bytes_of(name));
            }
        }
        // SAFETY: the server hands back a value of ours.
        unsafe { stored(value) }.map_or(ptr::null_mut(), |s| ValueType::into_raw(KeyCell::new(s.clone())))
    })
}

// ---- keys and databases ---------------------------------------------------------------------------------------------

unsafe extern "C" fn keyspace_event(
    ctx: *mut raw::RedisModuleCtx,
    _kind: c_int,
    event: *const c_char,
    key: *mut raw::RedisModuleString,
) -> c_int {
    catch_panic_or("keyspace event", (), || {
        if event.is_null() || key.is_null() {
            return;
        }
        // SAFETY: valid for this call. Another module's event name may be no UTF-8, so bytes it stays.
        let event = unsafe { CStr::from_ptr(event) }.to_bytes();
        // Some keys are on the server's stack: their bytes may be read, but retaining them aborts the server.
        let ctx = Ctx::from_raw(ctx);
        if keyspace::on_generic_event(ctx, event, bytes_of(key)) && ctx.flags().is_primary() {
            timers::arm(ctx);
        }
    });
    raw::REDISMODULE_OK as c_int
}

unsafe extern "C" fn server_event(
    ctx: *mut raw::RedisModuleCtx,
    event: raw::RedisModuleEvent,
    sub: u64,
    data: *mut c_void,
) {
    catch_panic_or("server event", (), || {
        let ctx = Ctx::from_raw(ctx);
        match (event.id, sub) {
            (raw::REDISMODULE_EVENT_FLUSHDB, _) => {
                // SAFETY: this event carries this structure.
                if let Some(flush) = unsafe { data.cast::<raw::RedisModuleFlushInfo>().as_ref() } {
                    keyspace::on_flush(flush.dbnum);
                    blocked_clients::on_dbs_replaced(|db| flush.dbnum < 0 || db == flush.dbnum);
                }
            }
            (raw::REDISMODULE_EVENT_SWAPDB, _) => {
                // SAFETY: this event carries this structure.
                if let Some(swap) = unsafe { data.cast::<raw::RedisModuleSwapDbInfo>().as_ref() } {
                    let both = [swap.dbnum_first, swap.dbnum_second];
                    keyspace::on_swap(both[0], both[1]);
                    blocked_clients::on_dbs_replaced(|db| both.contains(&db));
                }
            }
            (raw::REDISMODULE_EVENT_REPL_ASYNC_LOAD, raw::REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_STARTED) => {
                index::begin_staging();
            }
            (raw::REDISMODULE_EVENT_REPL_ASYNC_LOAD, raw::REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_ABORTED) => {
                keyspace::on_async_load_finished(false);
            }
            (raw::REDISMODULE_EVENT_REPL_ASYNC_LOAD, raw::REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_COMPLETED) => {
                keyspace::on_async_load_finished(true);
                on_load_finished(ctx);
                blocked_clients::on_dbs_replaced(|_| true);
            }
            (
                raw::REDISMODULE_EVENT_LOADING,
                raw::REDISMODULE_SUBEVENT_LOADING_RDB_START
                | raw::REDISMODULE_SUBEVENT_LOADING_AOF_START
                | raw::REDISMODULE_SUBEVENT_LOADING_REPL_START,
            ) => keyspace::on_load_started(),
            (raw::REDISMODULE_EVENT_LOADING, raw::REDISMODULE_SUBEVENT_LOADING_ENDED) => {
                on_load_finished(ctx);
                blocked_clients::schedule_recheck();
                keyspace::log_loaded(ctx);
                timers::resume(ctx);
            }
            (raw::REDISMODULE_EVENT_LOADING, raw::REDISMODULE_SUBEVENT_LOADING_FAILED) => {
                blocked_clients::schedule_recheck();
            }
            (raw::REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED, _) => {
                keyspace::on_role_change(ctx);
                timers::resume(ctx);
            }
            _ => {
                // SAFETY: the arguments of this event.
                let Some((step, slots)) = (unsafe { slot_move(event.id, sub, data) }) else { return };
                if keyspace::on_slot_move(ctx, step, &slots) && ctx.flags().is_primary() {
                    timers::arm(ctx);
                }
                if step == SlotMove::Trimmed {
                    blocked_clients::on_dbs_replaced(|_| true);
                }
            }
        }
    });
}

/// Sees each command before it runs; registered on servers with the fault that `valkey_4024` works around, and on no
/// other.
unsafe extern "C" fn command_filter(command: *mut raw::RedisModuleCommandFilterCtx) {
    catch_panic_or("command filter", (), || {
        let (Some(count), Some(get)) =
            (api!(RedisModule_CommandFilterArgsCount), api!(RedisModule_CommandFilterArgGet))
        else {
            return;
        };
        // SAFETY: the filter context is valid for this call.
        if unsafe { count(command) } != 3 {
            return;
        }
        let arguments = [0, 1, 2].map(|index| {
            // SAFETY: as above; there are three arguments.
            let argument = unsafe { get(command, index) };
            if argument.is_null() {
                return &[][..];
            }
            bytes_of(argument)
        });
        valkey_4024::on_command(&arguments);
    });
}

/// Subscribes to everything that happens to keys, databases and the server.
pub fn subscribe(ctx: Ctx) -> Result<(), Unavailable> {
    // Only events whose id means the same on Redis and on Valkey.
    let events = [
        raw::REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED,
        raw::REDISMODULE_EVENT_FLUSHDB,
        raw::REDISMODULE_EVENT_LOADING,
        raw::REDISMODULE_EVENT_SWAPDB,
        raw::REDISMODULE_EVENT_REPL_ASYNC_LOAD,
    ];
    ffi::subscribe_to_server(ctx, &events, server_event)?;
    ffi::subscribe_to_server(ctx, slot_events(), server_event)?;
    let needs_filter = valkey_4024::subscribe(ctx, |ctx| ffi::subscribe_to_keyspace(ctx, keyspace_event))?;
    if needs_filter {
        ffi::register_command_filter(ctx, command_filter);
    }
    Ok(())
}

// ---- configuration --------------------------------------------------------------------------------------------------

/// Registers every configuration, with the module's arguments as initial values, and applies the configuration file.
/// The error is a text for the log.
pub fn register_configs(ctx: Ctx, arguments: &ModuleArguments) -> Result<(), String> {
    for config in CONFIGS {
        let initial = arguments.get(config.name);
        let registered = match (&config.kind, initial) {
            (ConfigKind::Number { default, min, max, is_memory }, initial) => {
                let initial = if let Some(ConfigValue::Number(number)) = initial { *number } else { *default };
                let range = (initial, *min, *max);
                ffi::register_number(ctx, config.name, range, *is_memory, config, (get_number, set_number))
            }
            (ConfigKind::Text { default, .. }, initial) => {
                let initial = if let Some(ConfigValue::Text(text)) = initial { text } else { *default };
                ffi::register_text(ctx, config.name, initial, config, (get_text, set_text))
            }
            (ConfigKind::Choice(choices), initial) => {
                let initial = if let Some(ConfigValue::Number(number)) = initial { *number as c_int } else { 0 };
                let choices: Vec<(&CStr, c_int)> = choices.iter().copied().zip(0..).collect();
                ffi::register_choice(ctx, config.name, initial, &choices, config, (get_choice, set_choice))
            }
        };
        registered.map_err(|Unavailable| format!("deploy.{} cannot be registered", config.name.to_string_lossy()))?;
    }
    ffi::load_configs(ctx).map_err(|Unavailable| {
        "a value in the configuration file is not allowed; the line above says which".to_string()
    })
}

/// Borrows the configuration that was registered with a callback.
fn config_of<'c>(data: *mut c_void) -> Option<&'c Config> {
    // SAFETY: the data is the static that was registered with the callback.
    unsafe { data.cast::<Config>().as_ref() }
}

unsafe extern "C" fn get_number(_name: *const c_char, data: *mut c_void) -> c_longlong {
    catch_panic_or("a configuration", 0, || config_of(data).map_or(0, Config::get))
}

unsafe extern "C" fn set_number(
    _name: *const c_char,
    value: c_longlong,
    data: *mut c_void,
    _error: *mut *mut raw::RedisModuleString,
) -> c_int {
    catch_panic_or("a configuration", raw::REDISMODULE_ERR as c_int, || {
        config_of(data).into_iter().for_each(|config| config.set(value));
        raw::REDISMODULE_OK as c_int
    })
}

unsafe extern "C" fn get_choice(_name: *const c_char, data: *mut c_void) -> c_int {
    catch_panic_or("a configuration", 0, || config_of(data).map_or(0, |config| config.get() as c_int))
}

unsafe extern "C" fn set_choice(
    _name: *const c_char,
    value: c_int,
    data: *mut c_void,
    _error: *mut *mut raw::RedisModuleString,
) -> c_int {
    catch_panic_or("a configuration", raw::REDISMODULE_ERR as c_int, || {
        config_of(data).into_iter().for_each(|config| config.set(i64::from(value)));
        raw::REDISMODULE_OK as c_int
    })
}

unsafe extern "C" fn get_text(_name: *const c_char, data: *mut c_void) -> *mut raw::RedisModuleString {
    /// The string returned last: the server copies it, and leaves it ours.
    static LAST: AtomicPtr<raw::RedisModuleString> = AtomicPtr::new(ptr::null_mut());
    catch_panic_or("a configuration", ptr::null_mut(), || {
        let Some(config) = config_of(data) else { return ptr::null_mut() };
        let text = config.with_text(|text| RString::new(text.as_bytes())).into_raw();
        let old = LAST.swap(text, Ordering::Relaxed);
        if let (false, Some(free)) = (old.is_null(), api!(RedisModule_FreeString)) {
            // SAFETY: created by an earlier call, and passed to nobody who keeps it.
            unsafe { free(ptr::null_mut(), old) };
        }
        text
    })
}

unsafe extern "C" fn set_text(
    _name: *const c_char,
    value: *mut raw::RedisModuleString,
    data: *mut c_void,
    error: *mut *mut raw::RedisModuleString,
) -> c_int {
    catch_panic_or("a configuration", raw::REDISMODULE_ERR as c_int, || {
        match config_of(data).map(|config| config.set_text(bytes_of(value))) {
            Some(Ok(())) => raw::REDISMODULE_OK as c_int,
            Some(Err(text)) if !error.is_null() => {
                // SAFETY: the server offers the place, and frees the string that is stored there.
                unsafe { *error = RString::new(text.as_bytes()).into_raw() };
                raw::REDISMODULE_ERR as c_int
            }
            _ => raw::REDISMODULE_ERR as c_int,
        }
    })
}

// ---- INFO -----------------------------------------------------------------------------------------------------------

/// Registers the INFO section.
pub fn register_info(ctx: Ctx) {
    ffi::register_info(ctx, info_section);
}

unsafe extern "C" fn info_section(ctx: *mut raw::RedisModuleInfoCtx, for_crash_report: c_int) {
    // A crash report runs inside a signal handler, where allocating or waiting for a lock could deadlock.
    if for_crash_report != 0 {
        return;
    }
    catch_panic_or("INFO", (), || {
        let (Some(section), Some(add)) = (api!(RedisModule_InfoAddSection), api!(RedisModule_InfoAddFieldULongLong))
        else {
            return;
        };
        // SAFETY: the INFO context is valid for this call. An error says that the caller did not ask for this section.
        if unsafe { section(ctx, c"".as_ptr()) } != raw::REDISMODULE_OK as c_int {
            return;
        }
        for (name, value) in info::fields() {
            if let Ok(name) = CString::new(name) {
                // SAFETY: the INFO context is valid for this call, and the name is copied.
                unsafe { add(ctx, name.as_ptr(), value) };
            }
        }
    });
}
