//! What the server calls. Each entry unpacks its pointers, and hands values to a function that knows none; each is
//! behind the guard, since a panic that leaves an extern "C" function ends the server.

use super::key::Hung;
use super::{api, Ctx, Flags, Key, Slot};
use crate::redis::blocking;
use crate::redis::config::{self, NumberConfig};
use crate::redis::data_type::{self, Stored};
use crate::redis::guard::{guard, or_else};
use crate::redis::info::{self, InfoWriter};
use crate::redis::{home_db, index, memory, replication, timers};
use redis_module::{raw, RedisString, TYPE_METHOD_VERSION};
use std::ffi::{c_char, c_int, c_longlong, c_void, CStr};
use std::ptr;

// ---- the data type ---------------------------------------------------------------------------------------------------

pub const METHODS: raw::RedisModuleTypeMethods = raw::RedisModuleTypeMethods {
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
    // Its answer 0 means "always in the background"; without one the server frees as it goes, which is what is wanted.
    free_effort: None,
    free_effort2: None,
    unlink: None,
    copy: None,
    defrag: None,
};

/// A value of ours, as the server hands it back.
///
/// # Safety
/// `value` is what `rdb_load`, `copy` or `Key::put` gave the server, and is not freed yet.
unsafe fn stored<'v>(value: *const c_void) -> Option<&'v Stored> {
    // SAFETY: the caller's promise.
    unsafe { value.cast::<Hung>().as_ref() }.map(|hung| &hung.stored)
}

unsafe extern "C" fn rdb_load(io: *mut raw::RedisModuleIO, encver: c_int) -> *mut c_void {
    or_else("rdb_load", ptr::null_mut(), || {
        let Some(bytes) = load_buffer(io) else { return ptr::null_mut() };
        // SAFETY: the IO is valid for this call, and so is its context.
        let ctx = api!(RedisModule_GetContextFromIO).map(|get| Ctx { raw: unsafe { get(io) } });
        // Loading, or told by a primary, refusing would end the server or part it from its primary.
        let keep = ctx.is_some_and(|ctx| ctx.flags().is_loading() || ctx.flags().is_replica());
        let key = key_of_io(io).map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
        let Some(stored) = data_type::load(encver, bytes, keep, &key) else { return ptr::null_mut() };
        if let (Some(name), Some(db)) = (key_of_io(io), api!(RedisModule_GetDbIdFromIO)) {
            // SAFETY: the IO is valid for this call.
            index::note_load(unsafe { db(io) }, name, &stored);
        }
        Hung::boxed(stored)
    })
}

fn key_of_io<'k>(io: *mut raw::RedisModuleIO) -> Option<&'k [u8]> {
    // SAFETY: the IO is valid for this call; the name, where it has one, as long.
    let name = api!(RedisModule_GetKeyNameFromIO).map(|get| unsafe { get(io) })?;
    (!name.is_null()).then(|| RedisString::string_as_slice(name))
}

/// One string of the payload, None where it cannot be read.
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
    let written = guard("rdb_save", || {
        // SAFETY: the server hands back a value of ours.
        save(io, unsafe { stored(value) }.map(Stored::to_bytes).as_deref().unwrap_or_default());
    });
    if written.is_err() {
        fail_in_child();
        // In the server itself something must stand there, or the whole file could not be read. This is kept as a
        // damaged record.
        or_else("rdb_save", (), || save(io, &[]));
    }
}

fn save(io: *mut raw::RedisModuleIO, bytes: &[u8]) {
    if let Some(save) = api!(RedisModule_SaveStringBuffer) {
        // SAFETY: the IO is valid for this call; a buffer with its length, which is copied.
        unsafe { save(io, bytes.as_ptr().cast::<c_char>(), bytes.len()) }
    }
}

/// A record could not be written. A child that saves for the server had better fail as a whole: the server tells, tries
/// again, and still has everything, whereas a file without the record would be taken for good.
fn fail_in_child() {
    // SAFETY: flags that need no client are told without a context.
    let flags = api!(RedisModule_GetContextFlags).map_or(0, |get| unsafe { get(ptr::null_mut()) });
    if Flags(flags).is_child() {
        std::process::abort();
    }
}

/// Also how Valkey moves a slot: what it emits must be complete, and replace what is there.
unsafe extern "C" fn aof_rewrite(io: *mut raw::RedisModuleIO, key: *mut raw::RedisModuleString, value: *mut c_void) {
    let written = guard("aof_rewrite", || {
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
    or_else("digest", (), || {
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

/// Possibly on another thread: it releases memory and does nothing else. The index is told by `unlink` and FLUSHDB.
unsafe extern "C" fn free(value: *mut c_void) {
    // Not `or_else`: it logs, and a Drop of plain data cannot panic anyhow.
    let _ = std::panic::catch_unwind(|| {
        if !value.is_null() {
            // SAFETY: the value is a box of ours, and the server forgets it now.
            drop(unsafe { Box::from_raw(value.cast::<Hung>()) });
        }
    });
}

unsafe extern "C" fn mem_usage(_: *mut raw::RedisModuleKeyOptCtx, value: *const c_void, _samples: usize) -> usize {
    or_else("mem_usage", 0, || {
        // SAFETY: the server hands back a value of ours.
        let hung = unsafe { value.cast::<Hung>().as_ref() };
        // The value is counted as if it were alone in its box.
        let around = super::block_size(size_of::<Hung>()).saturating_sub(super::block_size(size_of::<Stored>()));
        hung.map_or(0, |hung| memory::of(&hung.stored) + around + hung.kept.memory())
    })
}

/// A key of ours goes: DEL, UNLINK, expiry, eviction, or something put in its place.
unsafe extern "C" fn unlink(opt: *mut raw::RedisModuleKeyOptCtx, _value: *const c_void) {
    or_else("unlink", (), || {
        let (name, db) = (api!(RedisModule_GetKeyNameFromOptCtx), api!(RedisModule_GetDbIdFromOptCtx));
        let (Some(name), Some(db)) = (name, db) else { return };
        // SAFETY: the option context is valid for this call.
        let (name, db) = unsafe { (name(opt), db(opt)) };
        if !name.is_null() {
            let name = RedisString::string_as_slice(name);
            index::remove(db, name);
            blocking::doubt_one(db, name);
            home_db::note_lost();
        }
    });
}

unsafe extern "C" fn copy(_: *mut raw::RedisModuleKeyOptCtx, value: *const c_void) -> *mut c_void {
    home_db::note_lost();
    // SAFETY: the server hands back a value of ours.
    or_else("copy", ptr::null_mut(), || unsafe { stored(value) }.map_or(ptr::null_mut(), |s| Hung::boxed(s.clone())))
}

// ---- time ------------------------------------------------------------------------------------------------------------

pub(super) unsafe extern "C" fn timer(ctx: *mut raw::RedisModuleCtx, _data: *mut c_void) {
    or_else("timer", (), || timers::turn(Ctx { raw: ctx }));
}

// ---- what happens to keys and databases ------------------------------------------------------------------------------

pub(super) unsafe extern "C" fn keyspace_event(
    ctx: *mut raw::RedisModuleCtx,
    _kind: c_int,
    event: *const c_char,
    key: *mut raw::RedisModuleString,
) -> c_int {
    or_else("keyspace event", (), || {
        if event.is_null() || key.is_null() {
            return;
        }
        // SAFETY: valid for this call. Another module's event name may be no UTF-8, so bytes it stays.
        let event = unsafe { CStr::from_ptr(event) }.to_bytes();
        // Some keys are on the server's stack: their bytes may be read, but retaining them ends the server.
        index::on_keyspace_event(Ctx { raw: ctx }, event, RedisString::string_as_slice(key));
    });
    raw::REDISMODULE_OK as c_int
}

pub(super) unsafe extern "C" fn server_event(
    ctx: *mut raw::RedisModuleCtx,
    event: raw::RedisModuleEvent,
    sub: u64,
    data: *mut c_void,
) {
    or_else("server event", (), || {
        let ctx = Ctx { raw: ctx };
        match (event.id, sub) {
            (raw::REDISMODULE_EVENT_FLUSHDB, _) => {
                // SAFETY: this event carries this structure.
                if let Some(flush) = unsafe { data.cast::<raw::RedisModuleFlushInfo>().as_ref() } {
                    index::flush(flush.dbnum);
                    blocking::doubt(|place| flush.dbnum < 0 || place.db == flush.dbnum);
                }
            }
            (raw::REDISMODULE_EVENT_SWAPDB, _) => {
                // SAFETY: this event carries this structure.
                if let Some(swap) = unsafe { data.cast::<raw::RedisModuleSwapDbInfo>().as_ref() } {
                    let both = [swap.dbnum_first, swap.dbnum_second];
                    index::swap(both[0], both[1]);
                    blocking::doubt(|place| both.contains(&place.db));
                }
            }
            (raw::REDISMODULE_EVENT_REPL_ASYNC_LOAD, raw::REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_STARTED) => {
                index::stage();
            }
            (raw::REDISMODULE_EVENT_REPL_ASYNC_LOAD, raw::REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_ABORTED) => {
                index::unstage(false);
            }
            (raw::REDISMODULE_EVENT_REPL_ASYNC_LOAD, raw::REDISMODULE_SUBEVENT_REPL_ASYNC_LOAD_COMPLETED) => {
                index::unstage(true);
                blocking::doubt(|_| true);
            }
            (raw::REDISMODULE_EVENT_LOADING, raw::REDISMODULE_SUBEVENT_LOADING_ENDED) => {
                index::verify(ctx);
                index::tell_loaded(ctx);
                timers::go_on(ctx);
            }
            (raw::REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED, _) => timers::go_on(ctx),
            _ => {}
        }
    });
}

/// One key of a scan. A handle that is missing is one that the server did not want to open: it is opened here.
pub(super) unsafe extern "C" fn scanned(
    ctx: *mut raw::RedisModuleCtx,
    name: *mut raw::RedisModuleString,
    key: *mut raw::RedisModuleKey,
    data: *mut c_void,
) {
    or_else("scan", (), || {
        let name = RedisString::string_as_slice(name);
        let ours = if key.is_null() {
            let ctx = Ctx { raw: ctx };
            matches!(Key::peek(ctx, &ctx.string(name)).slot(), Slot::Ours(_))
        } else {
            matches!(Key::borrowed(key).slot(), Slot::Ours(_))
        };
        // SAFETY: the data is the list of whoever scans, who waits meanwhile.
        if let (true, Some(found)) = (ours, unsafe { data.cast::<Vec<Vec<u8>>>().as_mut() }) {
            found.push(name.to_vec());
        }
    });
}

/// Looks at each command before it runs; registered on the servers that `home_db` is about, and on no other.
pub(super) unsafe extern "C" fn filter(command: *mut raw::RedisModuleCommandFilterCtx) {
    or_else("command filter", (), || {
        let (Some(count), Some(get), Some(client)) = (
            api!(RedisModule_CommandFilterArgsCount),
            api!(RedisModule_CommandFilterArgGet),
            api!(RedisModule_CommandFilterGetClientId),
        ) else {
            return;
        };
        // SAFETY: the filter context is valid for this call, and so are its arguments; there is one at least.
        let (count, name) = unsafe { (count(command), get(command, 0)) };
        if !name.is_null() && home_db::is_of_interest(RedisString::string_as_slice(name)) {
            // SAFETY: as above.
            let client = unsafe { client(command) };
            if let Some(db) = db_of_client(client) {
                home_db::note(client, db, count);
            }
        }
    });
}

/// The selected database of a client; None of one that is not connected, such as a script's.
fn db_of_client(client: u64) -> Option<i32> {
    let get = api!(RedisModule_GetClientInfoById)?;
    // SAFETY: all zero is a valid value of this structure of numbers.
    let mut info: raw::RedisModuleClientInfo = unsafe { std::mem::zeroed() };
    info.version = 1;
    // SAFETY: the structure says its version, and is filled by this call.
    let status = unsafe { get(ptr::from_mut(&mut info).cast(), client) };
    (status == raw::REDISMODULE_OK as c_int).then_some(i32::from(info.db))
}

// ---- configuration ---------------------------------------------------------------------------------------------------

pub(super) unsafe extern "C" fn get_number(_name: *const c_char, data: *mut c_void) -> c_longlong {
    // SAFETY: the data is the static that was registered with this callback.
    or_else("config", 0, || unsafe { data.cast::<NumberConfig>().as_ref() }.map_or(0, NumberConfig::get))
}

pub(super) unsafe extern "C" fn set_number(
    _name: *const c_char,
    value: c_longlong,
    data: *mut c_void,
    _error: *mut *mut raw::RedisModuleString,
) -> c_int {
    or_else("config", raw::REDISMODULE_ERR as c_int, || {
        // SAFETY: the data is the static that was registered with this callback.
        if let Some(config) = unsafe { data.cast::<NumberConfig>().as_ref() } {
            config.set(value);
        }
        raw::REDISMODULE_OK as c_int
    })
}

pub(super) unsafe extern "C" fn get_prefix(_name: *const c_char, _data: *mut c_void) -> *mut raw::RedisModuleString {
    /// The string last handed out: the server copies it, and leaves it ours.
    static LAST: std::sync::atomic::AtomicPtr<raw::RedisModuleString> =
        std::sync::atomic::AtomicPtr::new(ptr::null_mut());
    or_else("config", ptr::null_mut(), || {
        let Some(create) = api!(RedisModule_CreateString) else { return ptr::null_mut() };
        let prefix = config::channel_prefix();
        // SAFETY: a buffer with its length, which is copied; a string without a context is ours to free.
        let fresh = unsafe { create(ptr::null_mut(), prefix.as_ptr().cast::<c_char>(), prefix.len()) };
        let old = LAST.swap(fresh, std::sync::atomic::Ordering::Relaxed);
        if let (false, Some(free)) = (old.is_null(), api!(RedisModule_FreeString)) {
            // SAFETY: created by an earlier call, and handed to nobody who keeps it.
            unsafe { free(ptr::null_mut(), old) };
        }
        fresh
    })
}

pub(super) unsafe extern "C" fn set_prefix(
    _name: *const c_char,
    value: *mut raw::RedisModuleString,
    _data: *mut c_void,
    error: *mut *mut raw::RedisModuleString,
) -> c_int {
    or_else("config", raw::REDISMODULE_ERR as c_int, || {
        match config::set_channel_prefix(RedisString::string_as_slice(value)) {
            Ok(()) => raw::REDISMODULE_OK as c_int,
            Err(text) => {
                if let (false, Some(create)) = (error.is_null(), api!(RedisModule_CreateString)) {
                    // SAFETY: the server offers the place, and frees the string that is put there.
                    unsafe { *error = create(ptr::null_mut(), text.as_ptr().cast::<c_char>(), text.len()) };
                }
                raw::REDISMODULE_ERR as c_int
            }
        }
    })
}

pub(super) unsafe extern "C" fn get_publish(_name: *const c_char, _data: *mut c_void) -> c_int {
    or_else("config", 0, || config::publish_mode() as c_int)
}

pub(super) unsafe extern "C" fn set_publish(
    _name: *const c_char,
    value: c_int,
    _data: *mut c_void,
    _error: *mut *mut raw::RedisModuleString,
) -> c_int {
    or_else("config", raw::REDISMODULE_ERR as c_int, || {
        config::set_publish_mode(value);
        raw::REDISMODULE_OK as c_int
    })
}

// ---- INFO ------------------------------------------------------------------------------------------------------------

struct Section(*mut raw::RedisModuleInfoCtx);

impl InfoWriter for Section {
    fn number(&mut self, name: &CStr, value: u64) {
        if let Some(add) = api!(RedisModule_InfoAddFieldULongLong) {
            // SAFETY: the INFO context is valid for this call, and the name is copied.
            unsafe { add(self.0, name.as_ptr(), value) };
        }
    }
}

pub(super) unsafe extern "C" fn info(ctx: *mut raw::RedisModuleInfoCtx, for_crash_report: c_int) {
    // In a crash report this runs inside a signal handler, where allocating or waiting for a lock could hang it.
    if for_crash_report != 0 {
        return;
    }
    let _ = guard("INFO", || {
        let Some(section) = api!(RedisModule_InfoAddSection) else { return };
        // SAFETY: the INFO context is valid for this call. An error says that the caller did not ask for this section.
        if unsafe { section(ctx, c"".as_ptr()) } == raw::REDISMODULE_OK as c_int {
            info::write(&mut Section(ctx));
        }
    });
}
