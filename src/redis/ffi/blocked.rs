//! Blocked clients: the handle, its three callbacks, and work put off to the next turn of the event loop.
//!
//! A client waits for a change ([`Blocked`]) or for a large reply ([`Aside`]).
//!
//! A handle of the first kind lives until it is given to `RM_UnblockClient`, exactly once: after a wake, after a timeout,
//! or after the client has gone. All of it happens on the main thread, so that none can be given back twice or used after
//! that. One of the second kind is owned, and given back when its owner ends.

use super::{api, Ctx};
use crate::redis::blocking::{self, Answer};
use crate::redis::guard::or_else;
use redis_module::raw;
use std::ffi::{c_int, c_void};
use std::ptr;

/// A client that waits. Only a name for it: what it points at is touched by the server alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blocked(usize);

impl Blocked {
    fn raw(self) -> *mut raw::RedisModuleBlockedClient {
        self.0 as *mut raw::RedisModuleBlockedClient
    }

    fn of(raw: *mut raw::RedisModuleBlockedClient) -> Blocked {
        Blocked(raw as usize)
    }

    /// Gives the handle back: the client is answered in the next turn of the event loop, where it is still there.
    pub fn wake(self, answer: Option<Answer>) {
        let data = answer.map_or(ptr::null_mut(), |answer| Box::into_raw(Box::new(answer)).cast());
        if let Some(unblock) = api!(RedisModule_UnblockClient) {
            // SAFETY: the registry in `blocking` held the handle until now, and forgot it before this call.
            unsafe { unblock(self.raw(), data) };
        }
    }
}

/// Blocks the caller, for ever as far as the server knows: `blocking` measures the time. None where the server refuses.
pub fn block(ctx: Ctx) -> Option<Blocked> {
    let (block, watch) = (api!(RedisModule_BlockClient)?, api!(RedisModule_SetDisconnectCallback)?);
    // SAFETY: extern "C" functions of this library, which is never unloaded; the context is valid for this call.
    let handle = unsafe { block(ctx.raw, Some(answered), Some(timed_out), Some(free_answer), 0) };
    if handle.is_null() {
        return None;
    }
    // SAFETY: the handle was given a moment ago.
    unsafe { watch(handle, Some(gone)) };
    Some(Blocked::of(handle))
}

/// The client is woken: `Blocked::wake` has left the answer.
unsafe extern "C" fn answered(ctx: *mut raw::RedisModuleCtx, _: *mut *mut raw::RedisModuleString, _: c_int) -> c_int {
    or_else("a woken client", (), || {
        // SAFETY: the context is that of a blocked client, whose data is the box that `wake` made, or null.
        let answer =
            api!(RedisModule_GetBlockedClientPrivateData).and_then(|get| unsafe { get(ctx).cast::<Answer>().as_ref() });
        blocking::reply(Ctx { raw: ctx }, answer);
    });
    raw::REDISMODULE_OK as c_int
}

/// CLIENT UNBLOCK, which the server lets only those be told that have such a callback.
unsafe extern "C" fn timed_out(ctx: *mut raw::RedisModuleCtx, _: *mut *mut raw::RedisModuleString, _: c_int) -> c_int {
    or_else("a client whose time is up", (), || {
        // SAFETY: the context is that of a blocked client.
        let handle = api!(RedisModule_GetBlockedClientHandle).map(|get| unsafe { get(ctx) });
        if let Some(handle) = handle.filter(|handle| !handle.is_null()) {
            blocking::time_is_up(Ctx { raw: ctx }, Blocked::of(handle));
        }
    });
    raw::REDISMODULE_OK as c_int
}

/// The client has removed_agents: closed, killed, or told off because this server became a replica.
unsafe extern "C" fn gone(_: *mut raw::RedisModuleCtx, handle: *mut raw::RedisModuleBlockedClient) {
    or_else("a client that has gone", (), || blocking::has_gone(Blocked::of(handle)));
}

unsafe extern "C" fn free_answer(_: *mut raw::RedisModuleCtx, data: *mut c_void) {
    or_else("an answer", (), || {
        if !data.is_null() {
            // SAFETY: the box that `wake` made, which the server forgets now.
            drop(unsafe { Box::from_raw(data.cast::<Answer>()) });
        }
    });
}

/// The timer of those who do not wait for ever.
pub(super) unsafe extern "C" fn limit_reached(ctx: *mut raw::RedisModuleCtx, _data: *mut c_void) {
    or_else("clients whose time is up", (), || blocking::limits_reached(Ctx { raw: ctx }));
}

/// Asks for `blocking::look_again` once, in the next turn of the event loop. False where the server cannot.
pub fn look_again_soon() -> bool {
    let Some(once) = api!(RedisModule_EventLoopAddOneShot) else { return false };
    // SAFETY: an extern "C" function of this library, which is never unloaded; no data.
    unsafe { once(Some(look_again), ptr::null_mut()) == raw::REDISMODULE_OK as c_int }
}

unsafe extern "C" fn look_again(_: *mut c_void) {
    or_else("waiting clients", (), || {
        let Some(get) = api!(RedisModule_GetThreadSafeContext) else { return };
        let Some(free) = api!(RedisModule_FreeThreadSafeContext) else { return };
        // SAFETY: a context of no client's is asked for by null. This is the main thread, which has the lock.
        let ctx = unsafe { get(ptr::null_mut()) };
        if ctx.is_null() {
            return;
        }
        or_else("waiting clients", (), || blocking::look_again(Ctx { raw: ctx }));
        // SAFETY: ours, and not used after this.
        unsafe { free(ctx) };
    });
}

/// A client that another thread answers. It waits until this is dropped.
pub struct Aside {
    client: *mut raw::RedisModuleBlockedClient,
    ctx: *mut raw::RedisModuleCtx,
}

// SAFETY: the handle and its context belong to whoever holds this. Replies that are written through the context gather
// in a place of their own, which the server looks at once the client was given back; it asks for no lock.
unsafe impl Send for Aside {}

impl Aside {
    /// Has the caller wait. None where it cannot.
    pub fn begin(ctx: Ctx) -> Option<Aside> {
        let (block, get) = (api!(RedisModule_BlockClient)?, api!(RedisModule_GetThreadSafeContext)?);
        if ctx.flags().denies_blocking() || api!(RedisModule_FreeThreadSafeContext).is_none() {
            return None;
        }
        // SAFETY: the context is valid for this call; without callbacks and for as long as it takes.
        let client = unsafe { block(ctx.raw, None, None, None, 0) };
        if client.is_null() {
            return None;
        }
        // SAFETY: the handle was given a moment ago. Asked for here, on the main thread, since it looks at the client.
        let ctx = unsafe { get(client) };
        Some(Aside { client, ctx })
    }

    /// For replies alone.
    pub fn ctx(&self) -> Ctx {
        Ctx { raw: self.ctx }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let (Some(free), Some(unblock)) = (api!(RedisModule_FreeThreadSafeContext), api!(RedisModule_UnblockClient))
        {
            // SAFETY: both are ours, given back here and nowhere else, the context first. Any thread may do so.
            unsafe {
                free(self.ctx);
                unblock(self.client, ptr::null_mut());
            }
        }
    }
}
