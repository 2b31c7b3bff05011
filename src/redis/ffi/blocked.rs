//! Blocked clients: a client that waits for a change ([`Blocked`]) or for a large reply ([`DeferredClient`]).
//!
//! A [`Blocked`] handle lives until it is given to `RM_UnblockClient`, exactly once: after an answer, after a timeout,
//! or after the client disconnected. All of it happens on the main thread, so none is given back twice or used
//! afterwards. A [`DeferredClient`] is owned, and given back when dropped.

use super::api::api;
use super::context::Ctx;
use super::panic::catch_panic_or;
use redis_module::raw;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr;

/// The callbacks of one kind of blocked client. The server carries the answer as an opaque box.
pub trait BlockedHandler {
    type Answer;

    /// Replies to a client that was unblocked with this answer.
    fn reply(ctx: Ctx, answer: Option<&Self::Answer>);

    /// Replies to a client that CLIENT UNBLOCK released as if its timeout had passed.
    fn on_timeout(ctx: Ctx, client: Blocked<Self>)
    where
        Self: Sized;

    /// Forgets a client that disconnected, was killed, or was blocked when this server became a replica.
    fn on_disconnect(client: Blocked<Self>)
    where
        Self: Sized;
}

/// A blocked client. Only an identity here: the server alone accesses what it points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blocked<H>(usize, PhantomData<fn() -> H>);

impl<H: BlockedHandler> Blocked<H> {
    fn of(raw: *mut raw::RedisModuleBlockedClient) -> Blocked<H> {
        Blocked(raw as usize, PhantomData)
    }

    /// Blocks the caller, without a timeout of the server's own. None where the server refuses.
    pub fn block(ctx: Ctx) -> Option<Blocked<H>> {
        let (block, watch) = (api!(RedisModule_BlockClient)?, api!(RedisModule_SetDisconnectCallback)?);
        // SAFETY: extern "C" functions of this library, which is never unloaded; the context is valid for this call.
        let handle =
            unsafe { block(ctx.raw(), Some(on_unblocked::<H>), Some(on_timeout::<H>), Some(free_answer::<H>), 0) };
        if handle.is_null() {
            return None;
        }
        // SAFETY: the handle was returned by the call before.
        unsafe { watch(handle, Some(on_disconnect::<H>)) };
        Some(Blocked::of(handle))
    }

    /// Gives the handle back: the client, if still connected, is answered in the next turn of the event loop. Called
    /// once for each handle.
    pub fn unblock(self, answer: Option<H::Answer>) {
        let data = answer.map_or(ptr::null_mut(), |answer| Box::into_raw(Box::new(answer)).cast());
        if let Some(unblock) = api!(RedisModule_UnblockClient) {
            // SAFETY: whoever holds the handle forgets it with this call.
            unsafe { unblock(self.0 as *mut raw::RedisModuleBlockedClient, data) };
        }
    }
}

unsafe extern "C" fn on_unblocked<H: BlockedHandler>(
    ctx: *mut raw::RedisModuleCtx,
    _: *mut *mut raw::RedisModuleString,
    _: c_int,
) -> c_int {
    catch_panic_or("an unblocked client", (), || {
        // SAFETY: the context is that of a blocked client, whose data is the box that `unblock` made, or null.
        let answer = api!(RedisModule_GetBlockedClientPrivateData)
            .and_then(|get| unsafe { get(ctx).cast::<H::Answer>().as_ref() });
        H::reply(Ctx::from_raw(ctx), answer);
    });
    raw::REDISMODULE_OK as c_int
}

/// Called for CLIENT UNBLOCK, which the server allows only for clients that have such a callback.
unsafe extern "C" fn on_timeout<H: BlockedHandler>(
    ctx: *mut raw::RedisModuleCtx,
    _: *mut *mut raw::RedisModuleString,
    _: c_int,
) -> c_int {
    catch_panic_or("a timed-out client", (), || {
        // SAFETY: the context is that of a blocked client.
        let handle = api!(RedisModule_GetBlockedClientHandle).map(|get| unsafe { get(ctx) });
        if let Some(handle) = handle.filter(|handle| !handle.is_null()) {
            H::on_timeout(Ctx::from_raw(ctx), Blocked::of(handle));
        }
    });
    raw::REDISMODULE_OK as c_int
}

unsafe extern "C" fn on_disconnect<H: BlockedHandler>(
    _: *mut raw::RedisModuleCtx,
    handle: *mut raw::RedisModuleBlockedClient,
) {
    catch_panic_or("a disconnected client", (), || H::on_disconnect(Blocked::of(handle)));
}

unsafe extern "C" fn free_answer<H: BlockedHandler>(_: *mut raw::RedisModuleCtx, data: *mut c_void) {
    catch_panic_or("an answer", (), || {
        if !data.is_null() {
            // SAFETY: the box that `unblock` made, which the server forgets now.
            drop(unsafe { Box::from_raw(data.cast::<H::Answer>()) });
        }
    });
}

/// A client that another thread replies to. It is blocked until this is dropped.
pub struct DeferredClient {
    client: *mut raw::RedisModuleBlockedClient,
    ctx: *mut raw::RedisModuleCtx,
}

// SAFETY: the handle and its context belong to whoever holds this. Replies written through the context are collected in
// a buffer of their own, which the server reads once the client was given back; writing them needs no lock.
unsafe impl Send for DeferredClient {}

impl DeferredClient {
    /// Blocks the caller. None where it cannot be blocked.
    pub fn block(ctx: Ctx) -> Option<DeferredClient> {
        let (block, get) = (api!(RedisModule_BlockClient)?, api!(RedisModule_GetThreadSafeContext)?);
        if ctx.flags().denies_blocking() || api!(RedisModule_FreeThreadSafeContext).is_none() {
            return None;
        }
        // SAFETY: the context is valid for this call; no callbacks, no timeout.
        let client = unsafe { block(ctx.raw(), None, None, None, 0) };
        if client.is_null() {
            return None;
        }
        // SAFETY: the handle was returned by the call before. Called on the main thread, since it reads the client.
        let ctx = unsafe { get(client) };
        Some(DeferredClient { client, ctx })
    }

    /// The context to write the reply through, and for nothing else.
    pub fn ctx(&self) -> Ctx {
        Ctx::from_raw(self.ctx)
    }
}

impl Drop for DeferredClient {
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
