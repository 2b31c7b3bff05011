//! Calls into the server, in safe types: the lower half of the C boundary. It uses nothing of the module above it, and
//! gets functions and rows as arguments. The upper half, [`callbacks`](super::callbacks), is everything that the server
//! calls by name of a data type, an event or a configuration.
//!
//! - [`context`]: the context of a call; [`reply`]: the reply functions; [`server`]: facts about the process;
//!   [`slots`]: slots that move
//! - [`string`], [`key`]: strings, keys and the values at them
//! - [`blocked`], [`timer`]: blocked clients, timers, work for the next turn of the event loop
//! - [`register`]: registration in OnLoad
//! - [`panic`]: the panic boundary; [`log`]: the server's log; [`acl`]: rights of the caller
//!
//! Every `unsafe` block rests on this: the server calls a module on its main thread alone, except `free`, which
//! releases memory and does nothing else, and `rdb_save`, `aof_rewrite` in a forked child. A pointer that the server
//! passes is valid until the call returns. API function pointers are written once, before OnLoad, and read afterwards.

mod acl;
mod api;
mod blocked;
mod context;
mod key;
mod log;
mod panic;
mod register;
mod reply;
mod server;
mod slots;
mod string;
mod timer;

pub use acl::Rights;
pub(crate) use api::api;
pub use api::Unavailable;
pub use blocked::{Blocked, BlockedHandler, DeferredClient};
pub use context::{Ctx, Flags};
pub use key::{Key, KeyValue, ValueType};
pub use log::{LogLevel, LogLimiter};
pub use panic::{catch_panic, catch_panic_or, install_panic_hook, panics_caught, Panicked};
pub use register::*;
pub use server::{alloc_size, avoids_replica_traffic, cached_microseconds, has_db_switch_bug, milliseconds};
pub use slots::{slot_events, slot_move, SlotMove, SlotRanges};
pub(in crate::redis) use string::bytes_of;
pub use string::{RStr, RString};
pub use timer::{run_in_next_turn, TimerId};
