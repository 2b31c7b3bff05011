//! `redis-deploy`: deployments of long-running agent workloads as a Redis data type.
//!
//! Registers the module: its name, version, data type and allocator. The decisions are in [`engine`], the shapes of
//! replies in [`view`], the payloads in [`codec`], and everything that knows Redis, the command table among it, in
//! [`redis`].

#![deny(unsafe_op_in_unsafe_fn)]

#[deny(unsafe_code)]
pub mod codec;
#[deny(unsafe_code)]
pub mod engine;
pub mod redis;
#[deny(unsafe_code)]
pub mod view;

use redis::callbacks::DEPLOYMENT;
use redis::ffi::Ctx;
use redis_module::{redis_module, Context, RedisString, Status};

/// Tests link this library outside a server, where the server's allocator does not exist.
#[cfg(not(feature = "system-alloc"))]
type Allocator = redis_module::alloc::RedisAlloc;
#[cfg(not(feature = "system-alloc"))]
const ALLOCATOR: Allocator = redis_module::alloc::RedisAlloc;
#[cfg(feature = "system-alloc")]
type Allocator = std::alloc::System;
#[cfg(feature = "system-alloc")]
const ALLOCATOR: Allocator = std::alloc::System;

/// 0.1.0 as the server shows it: major * 10000 + minor * 100 + patch.
const VERSION: i32 = 100;

fn init(context: &Context, arguments: &[RedisString]) -> Status {
    let arguments: Vec<String> = arguments.iter().map(RedisString::to_string_lossy).collect();
    match redis::init(Ctx::of(context), &arguments) {
        true => Status::Ok,
        false => Status::Err,
    }
}

// The commands are registered from `redis::command_table`: the crate's own registration retains each argument of each
// call.
redis_module! {
    name: "deploy",
    version: VERSION,
    allocator: (Allocator, ALLOCATOR),
    data_types: [DEPLOYMENT],
    init: init,
    commands: [],
}
