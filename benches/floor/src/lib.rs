//! Floor: the minimal work of a module write, as a baseline for `redis-deploy`. It opens its key, increments a counter,
//! replicates that with a command of its own, and publishes one event to the subscribers of this server, by the same
//! calls of the module API as `redis-deploy`.
//!
//! `FLOOR.WRITE key payload-bytes event-bytes` sets the sizes of what is replicated and published. The content is
//! constant filler, so that the cost of encoding it is not part of the floor.

use redis_module::native_types::RedisType;
use redis_module::{raw, redis_module, Context, NextArg, RedisError, RedisResult, RedisString, RedisValue};
use std::ffi::{c_char, c_int, c_void};

const ENCVER: i32 = 1;
static COUNTER: RedisType = RedisType::new("floor-cnt", ENCVER, METHODS);

/// Value of a key.
struct Counter(i64);

/// Content of payloads and events.
static FILLER: [u8; 4096] = [b'x'; 4096];

/// Returns `bytes` bytes of filler.
fn filler(bytes: i64) -> Result<&'static [u8], RedisError> {
    usize::try_from(bytes).ok().and_then(|bytes| FILLER.get(..bytes)).ok_or(RedisError::Str("ERR at most 4096 bytes"))
}

/// Handles FLOOR.WRITE.
fn write(ctx: &Context, args: Vec<RedisString>) -> RedisResult {
    let mut args = args.into_iter().skip(1);
    let key = args.next_arg()?;
    let payload = filler(args.next_i64()?)?;
    let event = filler(args.next_i64()?)?;
    args.done()?;
    let count = count(ctx, &key)?;
    replicate(ctx, &key, payload)?;
    let channel = ctx.create_string([b"floor:events:", key.as_slice()].concat());
    publish(ctx, &channel, &ctx.create_string(event));
    Ok(RedisValue::Integer(count))
}

/// Handles FLOOR.APPLY, the replicated form of a write.
fn apply(ctx: &Context, args: Vec<RedisString>) -> RedisResult {
    let key = args.into_iter().skip(1).next_arg()?;
    let count = count(ctx, &key)?;
    ctx.replicate_verbatim();
    Ok(RedisValue::Integer(count))
}

/// Increments the counter of a key.
fn count(ctx: &Context, key: &RedisString) -> Result<i64, RedisError> {
    let open = ctx.open_key_writable(key);
    match open.get_value::<Counter>(&COUNTER)? {
        Some(counter) => {
            counter.0 = counter.0.wrapping_add(1);
            Ok(counter.0)
        }
        None => open.set_value(&COUNTER, Counter(1)).map(|()| 1),
    }
}

/// Converts a status of the module API.
fn done(status: Option<c_int>) -> Result<(), RedisError> {
    (status == Some(raw::REDISMODULE_OK as c_int))
        .then_some(())
        .ok_or(RedisError::Str("ERR the server refused to replicate"))
}

/// Replicates a write.
fn replicate(ctx: &Context, key: &RedisString, payload: &[u8]) -> Result<(), RedisError> {
    // SAFETY: function pointers are written once, before the module is loaded. The format names exactly the arguments
    // that follow: a string, then a buffer with its length.
    done(unsafe {
        raw::RedisModule_Replicate.map(|replicate| {
            let (start, length) = (payload.as_ptr().cast::<c_char>(), payload.len());
            replicate(ctx.ctx, c"FLOOR.APPLY".as_ptr(), c"sb".as_ptr(), key.inner, start, length)
        })
    })
}

/// Publishes an event to the subscribers of this server.
fn publish(ctx: &Context, channel: &RedisString, event: &RedisString) {
    // SAFETY: as above; both strings outlive the call.
    unsafe { raw::RedisModule_PublishMessage.map(|publish| publish(ctx.ctx, channel.inner, event.inner)) };
}

// ---- the data type --------------------------------------------------------------------------------------------------

const METHODS: raw::RedisModuleTypeMethods = raw::RedisModuleTypeMethods {
    version: raw::REDISMODULE_TYPE_METHOD_VERSION as u64,
    rdb_load: Some(rdb_load),
    rdb_save: Some(rdb_save),
    // Called only for AOF files without RDB preamble, which the benchmark does not use.
    aof_rewrite: None,
    free: Some(free),
    mem_usage: None,
    digest: None,
    aux_load: None,
    aux_save: None,
    aux_save2: None,
    aux_save_triggers: 0,
    free_effort: None,
    unlink: None,
    copy: None,
    defrag: None,
    copy2: None,
    free_effort2: None,
    mem_usage2: None,
    unlink2: None,
};

unsafe extern "C" fn rdb_load(io: *mut raw::RedisModuleIO, _encver: c_int) -> *mut c_void {
    raw::load_signed(io).map_or(std::ptr::null_mut(), |count| Box::into_raw(Box::new(Counter(count))).cast())
}

unsafe extern "C" fn rdb_save(io: *mut raw::RedisModuleIO, value: *mut c_void) {
    // SAFETY: the server passes a value of this type.
    raw::save_signed(io, unsafe { &*value.cast::<Counter>() }.0);
}

unsafe extern "C" fn free(value: *mut c_void) {
    // SAFETY: the value was made by `Box::into_raw`, and the server does not use it any more.
    drop(unsafe { Box::from_raw(value.cast::<Counter>()) });
}

redis_module! {
    name: "floor",
    version: 1,
    allocator: (redis_module::alloc::RedisAlloc, redis_module::alloc::RedisAlloc),
    data_types: [COUNTER],
    commands: [
        ["floor.write", write, "write", 1, 1, 1, ""],
        ["floor.apply", apply, "write", 1, 1, 1, ""],
    ],
}
