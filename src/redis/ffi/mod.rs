//! The door to C: every raw pointer and every `unsafe` of the module is in this folder, one kind to a file.
//!
//! - this file: the context of a call, and what is asked of the server through it
//! - [`key`]: keys and the values that hang on them
//! - [`call_reply`]: replies that are kept to be given again
//! - [`callbacks`]: what the server calls, each entry behind the panic guard
//! - [`register`]: what OnLoad tells the server
//!
//! What all of them rely on, once: the server calls a module on its main thread alone, except `free`, which releases
//! memory and does nothing else, and `rdb_save`, `aof_rewrite` in a forked child. A pointer that the server hands over
//! is valid until the call returns. Function pointers are written once, before OnLoad, and read afterwards.

mod blocked;
mod call_reply;
mod callbacks;
mod key;
mod register;

pub use blocked::{block, look_again_soon, Aside, Blocked};
pub use call_reply::CallReply;
pub use callbacks::METHODS;
pub use key::{Key, Slot};
pub use register::*;

use redis_module::{raw, Context, RedisString};
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// One function of the module API: None where the server is too old to have it.
macro_rules! api {
    ($name:ident) => {
        // SAFETY: written by the crate's initialisation before OnLoad runs, and never again.
        unsafe { redis_module::raw::$name }
    };
}
use api;

/// The server does not have this, or refused it; it has logged why where there is more to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

/// What surrounds a call into the module: valid until that call returns, hence not `Send` and kept nowhere.
#[derive(Clone, Copy)]
pub struct Ctx {
    raw: *mut raw::RedisModuleCtx,
}

/// What the server says about itself and the caller at this moment.
#[derive(Clone, Copy)]
pub struct Flags(c_int);

/// Valkey's flag for the client that brings a slot's keys. Redis has another meaning for this bit.
const VALKEY_SLOT_IMPORT_CLIENT: u32 = 1 << 25;

static IS_VALKEY: AtomicBool = AtomicBool::new(false);

impl Flags {
    fn has(self, flag: u32) -> bool {
        (self.0 as u32) & flag != 0
    }

    pub fn is_primary(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_MASTER)
    }

    pub fn is_replica(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_SLAVE)
    }

    pub fn is_loading(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_LOADING)
    }

    pub fn is_async_loading(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_ASYNC_LOADING)
    }

    pub fn is_child(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_IS_CHILD)
    }

    /// A child of this process saves.
    pub fn has_child(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_ACTIVE_CHILD)
    }

    pub fn is_cluster(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_CLUSTER)
    }

    /// In a script or a transaction, where the server holds its own clock still.
    pub fn is_in_unit(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_LUA | raw::REDISMODULE_CTX_FLAGS_MULTI)
    }

    /// The caller speaks the newer protocol, which has maps.
    pub fn is_resp3(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_RESP3)
    }

    /// The caller cannot wait: a transaction, a script, or a client that says so.
    pub fn denies_blocking(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_DENY_BLOCKING) || self.is_in_unit()
    }

    /// The caller only hands on what happened elsewhere: the primary, the AOF, or a slot on its way here.
    pub fn hands_on(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_REPLICATED)
            || self.is_loading()
            || (IS_VALKEY.load(Ordering::Relaxed) && self.has(VALKEY_SLOT_IMPORT_CLIENT))
    }
}

#[derive(Clone, Copy)]
pub enum LogLevel {
    Warning,
    Notice,
}

/// Writes a line into the server's log; the module's name goes in front where the server knows it.
fn log_line(ctx: *mut raw::RedisModuleCtx, level: LogLevel, text: &str) {
    let Some(log) = api!(RedisModule_Log) else { return };
    let level = match level {
        LogLevel::Warning => c"warning",
        LogLevel::Notice => c"notice",
    };
    let text = c_text(text);
    // SAFETY: three C strings that live through the call; a context may be null.
    unsafe { log(ctx, level.as_ptr(), c"%s".as_ptr(), text.as_ptr()) }
}

/// Logs where no context is at hand: the server then does not know whose line it is.
pub fn log(level: LogLevel, text: &str) {
    log_line(ptr::null_mut(), level, &format!("deploy: {text}"));
}

/// A text as C wants it. What C, or a line of the protocol, would end at becomes a blank.
pub(super) fn c_text(text: &str) -> CString {
    let clean: Vec<u8> = text.bytes().map(|b| if b < b' ' || b == 0x7f { b' ' } else { b }).collect();
    CString::new(clean).unwrap_or_default()
}

/// The server's wall clock, in ms.
pub fn milliseconds() -> Option<u64> {
    let read = api!(RedisModule_Milliseconds)?;
    // SAFETY: takes nothing.
    u64::try_from(unsafe { read() }).ok()
}

/// The time at which the running command, script or transaction began, in µs. None before Redis 7.2.
pub fn cached_microseconds() -> Option<u64> {
    let read = api!(RedisModule_CachedMicroseconds)?;
    // SAFETY: takes nothing.
    u64::try_from(unsafe { read() }).ok()
}

/// What the server's allocator takes for a block of so many bytes. It is asked with one.
pub fn block_size(bytes: usize) -> usize {
    /// Beyond, its rounding is too little to take so much for a question.
    const ASKED_MAX: usize = 1 << 20;
    let ask = (api!(RedisModule_Alloc), api!(RedisModule_MallocSize), api!(RedisModule_Free));
    match ask {
        (Some(alloc), Some(size_of), Some(free)) if bytes <= ASKED_MAX => {
            // SAFETY: allocated, asked about and freed here, and never read.
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

/// Whether the server holds replica traffic back now; writing then would end it.
pub fn avoids_replica_traffic() -> bool {
    // SAFETY: takes nothing.
    api!(RedisModule_AvoidReplicaTraffic).is_some_and(|avoid| unsafe { avoid() } != 0)
}

fn publish_through(ctx: Ctx, through: Option<Publish>, channel: &RedisString, message: &RedisString) {
    if let Some(publish) = through {
        // SAFETY: two strings that live through the call.
        unsafe { publish(ctx.raw, channel.inner, message.inner) };
    }
}

impl Ctx {
    pub fn of(context: &Context) -> Ctx {
        Ctx { raw: context.ctx }
    }

    pub fn flags(self) -> Flags {
        // SAFETY: the context is valid for this call.
        Flags(api!(RedisModule_GetContextFlags).map_or(0, |get| unsafe { get(self.raw) }))
    }

    pub fn log(self, level: LogLevel, text: &str) {
        log_line(self.raw, level, text);
    }

    pub fn string(self, bytes: &[u8]) -> RedisString {
        RedisString::create_from_slice(self.raw, bytes)
    }

    pub fn selected_db(self) -> i32 {
        // SAFETY: the context is valid for this call.
        api!(RedisModule_GetSelectedDb).map_or(0, |get| unsafe { get(self.raw) })
    }

    /// The client on whose behalf this runs.
    pub fn client_id(self) -> u64 {
        // SAFETY: the context is valid for this call.
        api!(RedisModule_GetClientId).map_or(0, |get| unsafe { get(self.raw) })
    }

    pub fn select_db(self, db: i32) -> bool {
        // SAFETY: the context is valid for this call.
        api!(RedisModule_SelectDb).is_some_and(|select| unsafe { select(self.raw, db) } == raw::REDISMODULE_OK as c_int)
    }

    /// The ACL user of the caller; None for callers without one (the primary, a timer, another module).
    pub fn user_name(self) -> Option<RedisString> {
        let get = api!(RedisModule_GetCurrentUserName)?;
        if !self.may_ask_for_user() {
            return None;
        }
        // SAFETY: the context is valid for this call, and its client has a user or the server looks for itself; the string
        // is ours to free, which RedisString does.
        let name = unsafe { get(self.raw) };
        (!name.is_null()).then(|| RedisString::from_redis_module_string(self.raw, name))
    }

    /// Redis 7 ends with a null pointer where a caller without a user is asked for its name. A command that does not
    /// exist, run as the caller's user, tells: that there is no user is complained of first.
    fn may_ask_for_user(self) -> bool {
        const LOOKS_FOR_ITSELF: c_int = 0x08_00_00;
        // SAFETY: takes nothing.
        if api!(RedisModule_GetServerVersion).is_some_and(|version| unsafe { version() } >= LOOKS_FOR_ITSELF) {
            return true;
        }
        !self.call(c"DEPLOY._NOBODY", c"CEbb", b"", b"").is_err_and(|complaint| complaint.contains("no user"))
    }

    /// The names of all records in the selected database. It looks at every key there is.
    pub fn scan(self) -> Vec<Vec<u8>> {
        let (Some(create), Some(scan), Some(destroy)) =
            (api!(RedisModule_ScanCursorCreate), api!(RedisModule_Scan), api!(RedisModule_ScanCursorDestroy))
        else {
            return Vec::new();
        };
        let mut found: Vec<Vec<u8>> = Vec::new();
        let data: *mut c_void = ptr::from_mut(&mut found).cast();
        // SAFETY: the cursor is created and destroyed here; the callback writes to `found` while this function waits, and
        // nobody else does.
        unsafe {
            let cursor = create();
            while scan(self.raw, cursor, Some(callbacks::scanned), data) != 0 {}
            destroy(cursor);
        }
        found
    }

    /// Replicates `DEPLOY.APPLY key payload`. False where the server refuses, which it does for a renamed command.
    #[must_use]
    pub fn replicate(self, command: &CStr, key: &RedisString, payload: &[u8]) -> bool {
        let Some(replicate) = api!(RedisModule_Replicate) else { return false };
        let (buffer, length) = (payload.as_ptr().cast::<c_char>(), payload.len());
        // SAFETY: the format names exactly the arguments that follow: a string, then a buffer with its length.
        let status = unsafe { replicate(self.raw, command.as_ptr(), c"sb".as_ptr(), key.inner, buffer, length) };
        status == raw::REDISMODULE_OK as c_int
    }

    /// Hands the running command on to replicas and the AOF as it came.
    pub fn replicate_verbatim(self) {
        if let Some(replicate) = api!(RedisModule_ReplicateVerbatim) {
            // SAFETY: the context is valid for this call.
            unsafe { replicate(self.raw) };
        }
    }

    /// Runs a command of two arguments. `format` must end in `bb`. The text of an error reply is the error.
    pub fn call(self, command: &CStr, format: &CStr, first: &[u8], second: &[u8]) -> Result<(), String> {
        debug_assert!(format.to_bytes().ends_with(b"bb"));
        let Some(call) = api!(RedisModule_Call) else { return Err("the server has no RM_Call".to_string()) };
        // SAFETY: the format ends in two buffers, and two buffers with their lengths follow.
        let reply = unsafe {
            call(
                self.raw,
                command.as_ptr(),
                format.as_ptr(),
                first.as_ptr().cast::<c_char>(),
                first.len(),
                second.as_ptr().cast::<c_char>(),
                second.len(),
            )
        };
        if reply.is_null() {
            return Err("the server refused the call".to_string());
        }
        let outcome = reply_error_text(reply).map_or(Ok(()), Err);
        if let Some(free) = api!(RedisModule_FreeCallReply) {
            // SAFETY: the reply is ours, and is not used after this.
            unsafe { free(reply) };
        }
        outcome
    }

    /// Publishes to the subscribers of this server, and of every node where it is in a cluster.
    pub fn publish(self, channel: &RedisString, message: &RedisString) {
        publish_through(self, api!(RedisModule_PublishMessage), channel, message);
    }

    /// The same with sharded pub/sub; in a cluster, to the shard that has the channel's slot.
    pub fn publish_in_shard(self, channel: &RedisString, message: &RedisString) {
        publish_through(self, api!(RedisModule_PublishMessageShard), channel, message);
    }

    /// Tells WATCH and the caches of clients that a key's value has changed.
    pub fn signal_changed(self, key: &RedisString) {
        if let Some(signal) = api!(RedisModule_SignalModifiedKey) {
            // SAFETY: a string that lives through the call.
            unsafe { signal(self.raw, key.inner) };
        }
    }

    /// Sends a keyspace notification of the module class.
    pub fn notify(self, event: &CStr, key: &RedisString) {
        if let Some(notify) = api!(RedisModule_NotifyKeyspaceEvent) {
            // SAFETY: a C string and a string that live through the call.
            unsafe { notify(self.raw, raw::REDISMODULE_NOTIFY_MODULE, event.as_ptr(), key.inner) };
        }
    }

    /// Asks for a call of the timer callback in `after_ms`.
    pub fn create_timer(self, after_ms: u64) -> Option<TimerId> {
        self.create_timer_of(after_ms, callbacks::timer)
    }

    /// The same, of the callback for clients that wait.
    pub fn create_timer_for_waiting(self, after_ms: u64) -> Option<TimerId> {
        self.create_timer_of(after_ms, blocked::limit_reached)
    }

    fn create_timer_of(
        self,
        after_ms: u64,
        callback: unsafe extern "C" fn(*mut raw::RedisModuleCtx, *mut c_void),
    ) -> Option<TimerId> {
        let create = api!(RedisModule_CreateTimer)?;
        let period = i64::try_from(after_ms).unwrap_or(i64::MAX);
        // SAFETY: the callback is an extern "C" function of this library, which is never unloaded; no data is handed over.
        Some(TimerId(unsafe { create(self.raw, period, Some(callback), ptr::null_mut()) }))
    }

    /// Takes a timer back. It must not be the one whose callback is running: the server would free it twice.
    pub fn stop_timer(self, timer: TimerId) {
        if let Some(stop) = api!(RedisModule_StopTimer) {
            // SAFETY: a timer that is gone already is an error status; there is no data to take back.
            unsafe { stop(self.raw, timer.0, ptr::null_mut()) };
        }
    }

    // ---- replies

    pub fn reply_null(self) {
        if let Some(reply) = api!(RedisModule_ReplyWithNull) {
            // SAFETY: the context is valid for this call.
            unsafe { reply(self.raw) };
        }
    }

    pub fn reply_int(self, number: i64) {
        if let Some(reply) = api!(RedisModule_ReplyWithLongLong) {
            // SAFETY: the context is valid for this call.
            unsafe { reply(self.raw, number) };
        }
    }

    pub fn reply_bytes(self, bytes: &[u8]) {
        if let Some(reply) = api!(RedisModule_ReplyWithStringBuffer) {
            // SAFETY: a buffer with its length, which is copied.
            unsafe { reply(self.raw, bytes.as_ptr().cast::<c_char>(), bytes.len()) };
        }
    }

    pub fn reply_array(self, length: usize) {
        if let Some(reply) = api!(RedisModule_ReplyWithArray) {
            // SAFETY: the context is valid for this call.
            unsafe { reply(self.raw, std::ffi::c_long::try_from(length).unwrap_or(0)) };
        }
    }

    /// A map in RESP3, a flat array in RESP2.
    pub fn reply_map(self, length: usize) {
        if let Some(reply) = api!(RedisModule_ReplyWithMap) {
            // SAFETY: the context is valid for this call.
            unsafe { reply(self.raw, std::ffi::c_long::try_from(length).unwrap_or(0)) };
        }
    }

    /// A status, such as `OK`: a text of one line, printable ASCII, that nobody quotes.
    pub fn reply_status(self, text: &str) {
        let text = c_text(text);
        if let Some(reply) = api!(RedisModule_ReplyWithSimpleString) {
            // SAFETY: a C string that lives through the call, without what would end a line of the protocol.
            unsafe { reply(self.raw, text.as_ptr()) };
        }
    }

    /// A text to be shown as it is: a verbatim string in RESP3.
    pub fn reply_verbatim(self, text: &str) {
        if let Some(reply) = api!(RedisModule_ReplyWithVerbatimString) {
            // SAFETY: a buffer with its length, which is copied.
            unsafe { reply(self.raw, text.as_ptr().cast::<c_char>(), text.len()) };
        }
    }

    /// An error whose text starts with its code word.
    pub fn reply_error(self, text: &str) {
        let text = c_text(text);
        if let Some(reply) = api!(RedisModule_ReplyWithError) {
            // SAFETY: a C string that lives through the call.
            unsafe { reply(self.raw, text.as_ptr()) };
        }
    }

    /// The server's own "wrong number of arguments".
    pub fn reply_wrong_arity(self) {
        if let Some(reply) = api!(RedisModule_WrongArity) {
            // SAFETY: the context is valid for this call.
            unsafe { reply(self.raw) };
        }
    }
}

type Publish =
    unsafe extern "C" fn(*mut raw::RedisModuleCtx, *mut raw::RedisModuleString, *mut raw::RedisModuleString) -> c_int;

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TimerId(raw::RedisModuleTimerID);

/// The text of an error reply, None where the reply is none.
fn reply_error_text(reply: *mut raw::RedisModuleCallReply) -> Option<String> {
    let kind = api!(RedisModule_CallReplyType)?;
    // SAFETY: the reply is valid until it is freed by the caller.
    if unsafe { kind(reply) } != raw::REDISMODULE_REPLY_ERROR as c_int {
        return None;
    }
    let mut length = 0;
    let text = api!(RedisModule_CallReplyStringPtr).map(|text| {
        // SAFETY: as above; `length` is set with the pointer.
        unsafe { text(reply, &mut length) }
    });
    Some(match text {
        Some(start) if !start.is_null() => {
            // SAFETY: the pointer and the length come from the reply, which is still there.
            let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) };
            String::from_utf8_lossy(bytes).trim().to_string()
        }
        _ => "an error without a text".to_string(),
    })
}

/// The rights of the user who calls, for keys that are not arguments of the command.
pub struct Rights {
    /// Null where the caller has no user: it may read everything.
    user: *mut raw::RedisModuleUser,
}

impl Rights {
    pub fn of_caller(ctx: Ctx) -> Rights {
        let user = match (ctx.user_name(), api!(RedisModule_GetModuleUserFromUserName)) {
            // SAFETY: the name lives through the call; the user is ours to free.
            (Some(name), Some(get)) => unsafe { get(name.inner) },
            _ => ptr::null_mut(),
        };
        Rights { user }
    }

    pub fn may_read(&self, key: &RedisString) -> bool {
        let Some(check) = api!(RedisModule_ACLCheckKeyPermissions) else { return true };
        if self.user.is_null() {
            return true;
        }
        // SAFETY: the user was not freed yet, and the key lives through the call.
        let status = unsafe { check(self.user, key.inner, raw::REDISMODULE_CMD_KEY_ACCESS as c_int) };
        status == raw::REDISMODULE_OK as c_int
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        if let (false, Some(free)) = (self.user.is_null(), api!(RedisModule_FreeModuleUser)) {
            // SAFETY: it came from GetModuleUserFromUserName, and this is its end.
            unsafe { free(self.user) };
        }
    }
}
