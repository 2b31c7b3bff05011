//! Runs a command handler: catches panics, sends the error reply, counts rejections by code.

use super::args::Args;
use super::call::{Call, Handler};
use super::ffi::{catch_panic, Ctx, Panicked, RStr};
use super::reply::{self, Answered};
use super::{stats, timers};

/// Runs a handler with the arguments that follow the command's name.
pub fn run(ctx: Ctx, arguments: &[RStr], handler: Handler) {
    let call = Call::new(ctx);
    match catch_panic("a command", || handler(&call, Args::new(arguments))) {
        Ok(Ok(Answered { .. })) => {}
        Ok(Err(error)) => {
            // A tick of a key that has disappeared is an error as well, but no client's.
            if !timers::is_ticking() {
                stats::count_rejection(error.code());
            }
            reply::error(ctx, &error);
        }
        Err(Panicked) => reply::after_panic(ctx, call.has_replied()),
    }
}
