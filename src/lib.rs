//! `redis-deploy`: deployments of long-running agent workloads as a Redis data type.
//!
//! This file is the menu: the module's name, its data type, and one row per command. What a command decides is in
//! [`engine`]; how it is asked and answered, in [`redis`].

pub mod codec;
pub mod engine;
pub mod redis;
pub mod view;

use redis::{blocking, callers, coordinators, listing, operators, replication, serve};
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

use redis::data_type::DEPLOYMENT;

/// 0.1.0 as the server shows it: major * 10000 + minor * 100 + patch.
const VERSION: i32 = 100;

fn init(context: &Context, args: &[RedisString]) -> Status {
    redis::init(context, args)
}

// `deny-oom` is on what begins something, and so asks for memory: with `maxmemory` reached, a rollout can still be
// followed, held and ended, as DEL still deletes. Small as they are, reports are what lets it come to its end.
//
// The last column, ACL categories, stays empty: the macro refuses to load with them where the server has none. They are
// set with the rest of what the server tells about a command, in `redis::menu`.
#[rustfmt::skip]
redis_module! {
    name: "deploy",
    version: VERSION,
    allocator: (Allocator, ALLOCATOR),
    data_types: [DEPLOYMENT],
    init: init,
    commands: [
        ["deploy.deploy",     |ctx, args: Vec<RedisString>| serve(ctx, &args, operators::deploy),       "write deny-oom", 1, 1, 1, ""],
        ["deploy.plan",       |ctx, args: Vec<RedisString>| serve(ctx, &args, operators::plan),         "readonly",       1, 1, 1, ""],
        ["deploy.list",       |ctx, args: Vec<RedisString>| serve(ctx, &args, listing::list),           "readonly",       0, 0, 0, ""],
        ["deploy.status",     |ctx, args: Vec<RedisString>| serve(ctx, &args, operators::status),       "readonly",       1, 1, 1, ""],
        ["deploy.show",       |ctx, args: Vec<RedisString>| serve(ctx, &args, operators::show),         "readonly",       1, 1, 1, ""],
        ["deploy.history",    |ctx, args: Vec<RedisString>| serve(ctx, &args, operators::history),      "readonly",       1, 1, 1, ""],
        ["deploy.version",    |ctx, args: Vec<RedisString>| serve(ctx, &args, operators::version),      "readonly fast",     1, 1, 1, ""],
        ["deploy.promote",    |ctx, args: Vec<RedisString>| serve(ctx, &args, operators::promote),      "write deny-oom", 1, 1, 1, ""],
        ["deploy.rollback",   |ctx, args: Vec<RedisString>| serve(ctx, &args, operators::rollback),     "write deny-oom", 1, 1, 1, ""],
        ["deploy.pause",      |ctx, args: Vec<RedisString>| serve(ctx, &args, operators::pause),        "write",          1, 1, 1, ""],
        ["deploy.resume",     |ctx, args: Vec<RedisString>| serve(ctx, &args, operators::resume),       "write deny-oom", 1, 1, 1, ""],
        ["deploy.fail",       |ctx, args: Vec<RedisString>| serve(ctx, &args, operators::fail),         "write",          1, 1, 1, ""],
        ["deploy.stop",       |ctx, args: Vec<RedisString>| serve(ctx, &args, operators::stop),         "write",          1, 1, 1, ""],
        ["deploy.tag",        |ctx, args: Vec<RedisString>| serve(ctx, &args, operators::tag),          "write deny-oom", 1, 1, 1, ""],
        ["deploy.untag",      |ctx, args: Vec<RedisString>| serve(ctx, &args, operators::untag),        "write",          1, 1, 1, ""],
        ["deploy.events",     |ctx, args: Vec<RedisString>| serve(ctx, &args, blocking::events),        "readonly blocking", 1, 1, 1, ""],
        ["deploy.wait",       |ctx, args: Vec<RedisString>| serve(ctx, &args, blocking::wait),          "readonly blocking", 1, 1, 1, ""],
        ["deploy.tasks",      |ctx, args: Vec<RedisString>| serve(ctx, &args, coordinators::tasks),     "readonly",       1, 1, 1, ""],
        ["deploy.report",     |ctx, args: Vec<RedisString>| serve(ctx, &args, coordinators::report),    "write",          1, 1, 1, ""],
        ["deploy.register",   |ctx, args: Vec<RedisString>| serve(ctx, &args, coordinators::register),  "write deny-oom", 1, 1, 1, ""],
        ["deploy.check",      |ctx, args: Vec<RedisString>| serve(ctx, &args, coordinators::check),     "write",          1, 1, 1, ""],
        ["deploy.deregister", |ctx, args: Vec<RedisString>| serve(ctx, &args, coordinators::deregister),"write",          1, 1, 1, ""],
        ["deploy.resolve",    |ctx, args: Vec<RedisString>| serve(ctx, &args, callers::resolve),        "readonly",       1, 1, 1, ""],
        // It has no data to wait for, so it is there also while the server loads, and on a replica that is cut off.
        ["deploy.help",       |ctx, args: Vec<RedisString>| serve(ctx, &args, operators::help),         "readonly fast allow-loading allow-stale", 0, 0, 0, ""],
        // Without `deny-script`, with which the server would not let the timer call it as a script would.
        ["deploy.apply",      |ctx, args: Vec<RedisString>| serve(ctx, &args, replication::apply),      "write deny-oom", 1, 1, 1, ""],
    ],
}
