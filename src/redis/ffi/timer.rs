//! Timers and work for the next turn of the event loop. Both run a plain function of the module, which travels as the
//! callback's data.

use super::api::api;
use super::context::Ctx;
use super::panic::catch_panic_or;
use redis_module::raw;
use std::ffi::{c_int, c_void};
use std::ptr;

/// A function that a timer or the event loop runs.
pub type Work = fn(Ctx);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerId(raw::RedisModuleTimerID);

impl Ctx {
    /// Creates a timer that runs `work` once, in `after_ms`. None where the server has no timers.
    pub fn create_timer(self, after_ms: u64, work: Work) -> Option<TimerId> {
        let create = api!(RedisModule_CreateTimer)?;
        let period = i64::try_from(after_ms).unwrap_or(i64::MAX);
        // SAFETY: the callback is an extern "C" function of this library, which is never unloaded; the data is a
        // function pointer, which `run_timer` turns back.
        Some(TimerId(unsafe { create(self.raw(), period, Some(run_timer), work as *mut c_void) }))
    }

    /// Cancels a timer. It must not be the one whose callback is running: the server would free it twice.
    pub fn stop_timer(self, timer: TimerId) {
        if let Some(stop) = api!(RedisModule_StopTimer) {
            // SAFETY: a timer that has fired already is an error status; its data is no allocation.
            unsafe { stop(self.raw(), timer.0, ptr::null_mut()) };
        }
    }
}

/// Turns callback data back into the function that it was made of.
///
/// # Safety
/// `data` is a [`Work`], cast to a pointer.
unsafe fn work_of(data: *mut c_void) -> Work {
    // SAFETY: the caller's promise; a function pointer has the size of a data pointer on every platform of the server.
    unsafe { std::mem::transmute::<*mut c_void, Work>(data) }
}

unsafe extern "C" fn run_timer(ctx: *mut raw::RedisModuleCtx, data: *mut c_void) {
    catch_panic_or("a timer", (), || {
        // SAFETY: the data is what `create_timer` passed.
        let work = unsafe { work_of(data) };
        work(Ctx::from_raw(ctx));
    });
}

/// Runs `work` once, in the next turn of the event loop. False where the server cannot.
pub fn run_in_next_turn(work: Work) -> bool {
    let Some(add) = api!(RedisModule_EventLoopAddOneShot) else { return false };
    // SAFETY: an extern "C" function of this library, which is never unloaded; the data is a function pointer.
    unsafe { add(Some(run_one_shot), work as *mut c_void) == raw::REDISMODULE_OK as c_int }
}

unsafe extern "C" fn run_one_shot(data: *mut c_void) {
    catch_panic_or("the event loop", (), || {
        let Some(get) = api!(RedisModule_GetThreadSafeContext) else { return };
        let Some(free) = api!(RedisModule_FreeThreadSafeContext) else { return };
        // SAFETY: null asks for a context without a client. This is the main thread, which has the lock.
        let ctx = unsafe { get(ptr::null_mut()) };
        if ctx.is_null() {
            return;
        }
        // SAFETY: the data is what `run_in_next_turn` passed.
        let work = unsafe { work_of(data) };
        catch_panic_or("the event loop", (), || work(Ctx::from_raw(ctx)));
        // SAFETY: ours, and not used after this.
        unsafe { free(ctx) };
    });
}
