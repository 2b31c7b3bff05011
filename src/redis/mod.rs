//! The shell: everything that knows Redis, and nothing that decides.
//!
//! ```text
//! command ─► dispatch ─► commands ─► read_path:  key ─► view ─► reply
//!                                └► write_path:  key ─► engine::decide_in_place ─► replicate ─► commit ─► reply
//! timer ───► DEPLOY.TICK key ─► write_path
//! primary, AOF, slot migration ─► DEPLOY.APPLY key … ─► write_path (nothing is decided)
//! ```
//!
//! Modules use modules on their own floor and on lower ones; `tests/layers.rs` has the list. Raw pointers and `unsafe` are at the C
//! boundary alone: [`ffi`] calls the server, and the server calls [`callbacks`].

#![deny(unsafe_code)]

pub mod args;
pub mod background;
pub mod blocked_clients;
pub mod call;
pub mod callbacks;
pub mod clock;
pub mod command_docs;
pub mod command_table;
pub mod commands;
pub mod compat;
pub mod config;
pub mod dispatch;
pub mod error;
#[allow(unsafe_code)]
pub mod ffi;
pub mod glob;
pub mod idle;
pub mod idle_queue;
pub mod importing;
pub mod index;
pub mod info;
pub mod keyspace;
pub mod mem_usage;
pub mod publish;
pub mod read_path;
pub mod record_key;
pub mod replication;
pub mod reply;
pub mod resp;
pub mod slot;
mod stats;
pub mod stored;
pub mod timers;
pub mod write_path;

use config::ModuleArguments;
use ffi::{Ctx, LogLevel};

/// Sets the module up in OnLoad, once the crate has registered the data type. False stops the load; the log says why.
pub fn init(ctx: Ctx, arguments: &[String]) -> bool {
    ffi::install_panic_hook();
    match ffi::catch_panic("loading the module", || set_up(ctx, arguments)) {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            ctx.log(LogLevel::Warning, &format!("not loaded: {error}"));
            false
        }
        Err(ffi::Panicked) => false,
    }
}

fn set_up(ctx: Ctx, arguments: &[String]) -> Result<(), String> {
    let unavailable = |what: &str| format!("the server does not let the module {what}");
    ctx.set_options();
    callbacks::set_record_type();
    command_table::register(ctx).map_err(|_| unavailable("register its commands"))?;
    callbacks::register_configs(ctx, &ModuleArguments::parse(arguments)?)?;
    callbacks::register_info(ctx);
    callbacks::subscribe(ctx).map_err(|_| unavailable("subscribe to its events"))?;
    // Last: the timer of a module that did not load would fire into nothing.
    timers::start(ctx);
    ctx.log(LogLevel::Notice, &format!("version {}: {}", env!("CARGO_PKG_VERSION"), config::summary()));
    Ok(())
}
