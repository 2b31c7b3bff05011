//! Replies of the server's own making, kept to be given again: the one way in which a module sends a whole reply at once.
//!
//! A command is called as a client would call it, and what it answers, the very bytes, is kept. The call goes through a
//! context of this module's own, for two reasons. Such a reply remembers the context that it was called through, on Redis
//! 7.0 always, and looks at it when it is freed: that of a command is gone by then. And what is called through a context
//! that collects its replies by itself would be freed with it; this one does not collect.

use super::{api, Ctx};
use redis_module::{raw, RedisString};
use std::ffi::{c_char, CStr};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// The context that lives as long as the server does.
static LASTING: AtomicPtr<raw::RedisModuleCtx> = AtomicPtr::new(ptr::null_mut());

/// How many bytes of replies are kept altogether.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// The longest reply that is kept, and the most of all together: beyond, making them anew costs little beside what it
/// costs to send them.
const LONGEST: usize = 64 << 10;
const MOST: usize = 32 << 20;

/// A reply, owned.
pub struct CallReply {
    raw: *mut raw::RedisModuleCallReply,
    bytes: usize,
}

impl CallReply {
    /// What a reading command answers to these arguments in the caller's database. None where it refuses, where the
    /// server does not let it be called, and where the reply is too long to be kept.
    ///
    /// No right is asked for: the caller has called the same command with the same arguments.
    pub fn of(ctx: Ctx, command: &CStr, arguments: &[RedisString], is_resp3: bool) -> Option<CallReply> {
        let (call, bytes) = (api!(RedisModule_Call)?, api!(RedisModule_CallReplyProto)?);
        api!(RedisModule_FreeCallReply)?;
        let lasting = lasting(ctx)?;
        if !lasting.select_db(ctx.selected_db()) {
            return None;
        }
        let arguments: Vec<*mut raw::RedisModuleString> = arguments.iter().map(|argument| argument.inner).collect();
        let format = if is_resp3 { c"3v" } else { c"v" };
        // SAFETY: the context lives for ever, and this is the main thread; the format names a list of strings with its
        // length, and both follow. The strings live through the call.
        let raw = unsafe { call(lasting.raw, command.as_ptr(), format.as_ptr(), arguments.as_ptr(), arguments.len()) };
        if raw.is_null() {
            return None;
        }
        let mut reply = CallReply { raw, bytes: 0 };
        let mut length = 0;
        // SAFETY: the reply is ours; `length` is set with the pointer, which points into the reply.
        let first = unsafe {
            let start: *const c_char = bytes(reply.raw, &mut length);
            if start.is_null() || length == 0 {
                0
            } else {
                *start.cast::<u8>()
            }
        };
        // An error is nobody's but his who asked.
        if !matches!(first, b'*' | b'$') || length > LONGEST || KEPT.load(Ordering::Relaxed) + length > MOST {
            return None;
        }
        reply.bytes = length;
        KEPT.fetch_add(length, Ordering::Relaxed);
        Some(reply)
    }

    /// What it takes in memory, to within what the server does not tell.
    pub fn memory(&self) -> usize {
        /// The server's own structure around the bytes.
        const AROUND: usize = 128;
        /// Beyond, the bytes were put together from blocks, with as much room again.
        const ONE_BLOCK: usize = 16 << 10;
        let bytes = if self.bytes > ONE_BLOCK { 2 * self.bytes } else { self.bytes };
        super::block_size(bytes) + AROUND
    }
}

impl Drop for CallReply {
    /// Also on the thread on which the server frees a key's value: the reply and its bytes are its own, and of the context
    /// no more is looked at than whether it collects its replies, which nobody ever changes.
    fn drop(&mut self) {
        KEPT.fetch_sub(self.bytes, Ordering::Relaxed);
        if let Some(free) = api!(RedisModule_FreeCallReply) {
            // SAFETY: it is ours, freed here and nowhere else; the context that it remembers is there for ever.
            unsafe { free(self.raw) };
        }
    }
}

/// Made at the first use, by the main thread, and never freed.
fn lasting(ctx: Ctx) -> Option<Ctx> {
    let known = LASTING.load(Ordering::Relaxed);
    if !known.is_null() {
        return Some(Ctx { raw: known });
    }
    let make = api!(RedisModule_GetDetachedThreadSafeContext)?;
    // SAFETY: the context is valid for this call.
    let made = unsafe { make(ctx.raw) };
    LASTING.store(made, Ordering::Relaxed);
    (!made.is_null()).then_some(Ctx { raw: made })
}

impl Ctx {
    /// Replies as the server did then, byte for byte. False where it cannot.
    #[must_use]
    pub fn reply_again(self, reply: &CallReply) -> bool {
        // SAFETY: the context is valid for this call; the bytes of the reply are copied.
        api!(RedisModule_ReplyWithCallReply)
            .is_some_and(|again| unsafe { again(self.raw, reply.raw) } == raw::REDISMODULE_OK as i32)
    }
}
