//! The context of a call into the module, and the questions and orders that go to the server through it.

use super::api::api;
use super::log::{log_line, LogLevel};
use super::server;
use super::string::{RStr, RString};
use redis_module::{raw, Context};
use std::ffi::{c_char, c_int, CStr};

/// The context of a call into the module: valid until that call returns, hence not `Send` and stored nowhere.
#[derive(Clone, Copy)]
pub struct Ctx {
    raw: *mut raw::RedisModuleCtx,
}

/// State of the server and of the caller at this moment (`RM_GetContextFlags`).
#[derive(Clone, Copy)]
pub struct Flags(c_int);

/// Valkey's flag for the client that imports a slot. Redis has another meaning for this bit.
const VALKEY_SLOT_IMPORT_CLIENT: u32 = 1 << 25;

impl Flags {
    /// The flags that need no client, for callbacks without a context.
    pub fn without_context() -> Flags {
        // SAFETY: the function takes a null context for flags that need no client.
        Flags(api!(RedisModule_GetContextFlags).map_or(0, |get| unsafe { get(std::ptr::null_mut()) }))
    }

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

    /// This process is a forked child (RDB save, AOF rewrite).
    pub fn is_child(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_IS_CHILD)
    }

    /// A forked child of this process is saving.
    pub fn has_child(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_ACTIVE_CHILD)
    }

    pub fn is_cluster(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_CLUSTER)
    }

    /// The command runs in a script or a transaction, where the server's clock stands still.
    pub fn is_in_script_or_multi(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_LUA | raw::REDISMODULE_CTX_FLAGS_MULTI)
    }

    /// The caller cannot be blocked: a transaction, a script, or a client that says so.
    pub fn denies_blocking(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_DENY_BLOCKING) || self.is_in_script_or_multi()
    }

    /// The command was decided elsewhere and must be obeyed: it comes from the primary, the AOF or a slot migration.
    pub fn is_replicated_or_loading(self) -> bool {
        self.has(raw::REDISMODULE_CTX_FLAGS_REPLICATED)
            || self.is_loading()
            || (server::is_valkey() && self.has(VALKEY_SLOT_IMPORT_CLIENT))
    }
}

type PublishFn =
    unsafe extern "C" fn(*mut raw::RedisModuleCtx, *mut raw::RedisModuleString, *mut raw::RedisModuleString) -> c_int;

impl Ctx {
    pub fn of(context: &Context) -> Ctx {
        Ctx { raw: context.ctx }
    }

    /// Wraps the context that the server passed to a callback.
    pub(in crate::redis) fn from_raw(raw: *mut raw::RedisModuleCtx) -> Ctx {
        Ctx { raw }
    }

    pub(in crate::redis) fn raw(self) -> *mut raw::RedisModuleCtx {
        self.raw
    }

    pub fn flags(self) -> Flags {
        // SAFETY: the context is valid for this call.
        Flags(api!(RedisModule_GetContextFlags).map_or(0, |get| unsafe { get(self.raw) }))
    }

    /// Declares what the module handles. Called first in OnLoad: without HANDLE_IO_ERRORS a crafted payload aborts the
    /// server.
    pub fn set_options(self) {
        server::set_options(self.raw);
    }

    pub fn log(self, level: LogLevel, text: &str) {
        log_line(self.raw, level, text);
    }

    pub fn selected_db(self) -> i32 {
        // SAFETY: the context is valid for this call.
        api!(RedisModule_GetSelectedDb).map_or(0, |get| unsafe { get(self.raw) })
    }

    pub fn select_db(self, db: i32) -> bool {
        // SAFETY: the context is valid for this call.
        api!(RedisModule_SelectDb).is_some_and(|select| unsafe { select(self.raw, db) } == raw::REDISMODULE_OK as c_int)
    }

    /// Returns true if this node serves a key: always, except in a cluster for a slot of another node.
    pub fn serves(self, key: &RStr) -> bool {
        let arguments = [RString::new(key.as_slice())];
        // RM_Call refuses the key of another node. Nothing is changed: no access time, and no error of the server's.
        !self.flags().is_cluster() || self.call(c"TYPE", c"Ev", &arguments).is_ok()
    }

    /// Returns true if the caller uses CLIENT TRACKING.
    pub fn client_tracks_keys(self) -> bool {
        const TRACKING: u64 = raw::REDISMODULE_CLIENTINFO_FLAG_TRACKING as u64;
        client_info(self.client_id()).is_some_and(|info| info.flags & TRACKING != 0)
    }

    /// The id of the client on whose behalf this runs.
    pub fn client_id(self) -> u64 {
        // SAFETY: the context is valid for this call.
        api!(RedisModule_GetClientId).map_or(0, |get| unsafe { get(self.raw) })
    }

    /// The ACL user of the caller; None for callers without one (the primary, a timer, another module).
    pub fn user_name(self) -> Option<RString> {
        let get = api!(RedisModule_GetCurrentUserName)?;
        if !self.has_user() {
            return None;
        }
        // SAFETY: the context is valid for this call, and its client has a user or the server checks that itself; the
        // string is ours to free, which RString does.
        let name = unsafe { get(self.raw) };
        (!name.is_null()).then(|| RString::owned(name))
    }

    /// Returns true if the caller has a user. Redis 7 dereferences a null pointer when it looks up the name of a caller
    /// without one. A command that does not exist, called as the caller's user, reveals it: a missing user is the error
    /// that is found first.
    fn has_user(self) -> bool {
        const CHECKS_ITSELF: c_int = 0x08_00_00;
        if server::version() >= CHECKS_ITSELF {
            return true;
        }
        let arguments = [RString::new(b"")];
        !self.call(c"DEPLOY._NOBODY", c"CEv", &arguments).is_err_and(|error| error.contains("no user"))
    }

    /// Replicates `command key payload`. False where the server refuses, which it does for a renamed command.
    #[must_use]
    pub fn replicate(self, command: &CStr, key: &RStr, payload: &[u8]) -> bool {
        let Some(replicate) = api!(RedisModule_Replicate) else { return false };
        let (buffer, length) = (payload.as_ptr().cast::<c_char>(), payload.len());
        // SAFETY: the format names exactly the arguments that follow: a string, then a buffer with its length.
        let status = unsafe { replicate(self.raw, command.as_ptr(), c"sb".as_ptr(), key.raw(), buffer, length) };
        status == raw::REDISMODULE_OK as c_int
    }

    /// Replicates the running command as it came.
    pub fn replicate_verbatim(self) {
        if let Some(replicate) = api!(RedisModule_ReplicateVerbatim) {
            // SAFETY: the context is valid for this call.
            unsafe { replicate(self.raw) };
        }
    }

    /// Calls a command with these arguments. `format` has the options of RM_Call and must end in `v`. The error is the
    /// text of the error reply.
    pub fn call(self, command: &CStr, format: &CStr, arguments: &[RString]) -> Result<(), String> {
        debug_assert!(format.to_bytes().ends_with(b"v"));
        let Some(call) = api!(RedisModule_Call) else { return Err("the server has no RM_Call".to_string()) };
        let arguments: Vec<*mut raw::RedisModuleString> = arguments.iter().map(|argument| argument.raw()).collect();
        // SAFETY: the format ends in a list of strings, and a list with its length follows; the strings live through
        // the call.
        let reply = unsafe { call(self.raw, command.as_ptr(), format.as_ptr(), arguments.as_ptr(), arguments.len()) };
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

    /// Publishes to the subscribers of this server and, in a cluster, of every node.
    pub fn publish(self, channel: &RStr, message: &RStr) {
        self.publish_through(api!(RedisModule_PublishMessage), channel, message);
    }

    /// Publishes with sharded pub/sub: in a cluster, to the shard that owns the channel's slot.
    pub fn publish_in_shard(self, channel: &RStr, message: &RStr) {
        self.publish_through(api!(RedisModule_PublishMessageShard), channel, message);
    }

    fn publish_through(self, publish: Option<PublishFn>, channel: &RStr, message: &RStr) {
        if let Some(publish) = publish {
            // SAFETY: two strings that live through the call.
            unsafe { publish(self.raw, channel.raw(), message.raw()) };
        }
    }

    /// Signals WATCH and client-side caches that a key's value has changed (RM_SignalModifiedKey).
    pub fn signal_modified(self, key: &RStr) {
        if let Some(signal) = api!(RedisModule_SignalModifiedKey) {
            // SAFETY: a string that lives through the call.
            unsafe { signal(self.raw, key.raw()) };
        }
    }

    /// Sends a keyspace notification of the module class.
    pub fn notify(self, event: &CStr, key: &RStr) {
        if let Some(notify) = api!(RedisModule_NotifyKeyspaceEvent) {
            // SAFETY: a C string and a string that live through the call.
            unsafe { notify(self.raw, raw::REDISMODULE_NOTIFY_MODULE, event.as_ptr(), key.raw()) };
        }
    }
}

/// Returns what the server tells about a client; None for one without a connection, such as a script's.
fn client_info(client: u64) -> Option<raw::RedisModuleClientInfo> {
    let get = api!(RedisModule_GetClientInfoById)?;
    // SAFETY: all zero is a valid value of this structure of numbers.
    let mut info: raw::RedisModuleClientInfo = unsafe { std::mem::zeroed() };
    info.version = 1;
    // SAFETY: the structure says its version, and is filled by this call.
    let status = unsafe { get(std::ptr::from_mut(&mut info).cast(), client) };
    (status == raw::REDISMODULE_OK as c_int).then_some(info)
}

/// The text of an error reply; None where the reply is not an error.
fn reply_error_text(reply: *mut raw::RedisModuleCallReply) -> Option<String> {
    let kind = api!(RedisModule_CallReplyType)?;
    // SAFETY: the reply is valid until the caller frees it.
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
            // SAFETY: pointer and length come from the reply, which is not freed yet.
            let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) };
            String::from_utf8_lossy(bytes).trim().to_string()
        }
        _ => "an error without a text".to_string(),
    })
}
