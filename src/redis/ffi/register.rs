//! What OnLoad tells the server: options, configuration, command information, events, INFO.

use super::{api, c_text, callbacks, Ctx, Unavailable, IS_VALKEY};
use crate::redis::config::{self, Initial, Publish};
use crate::redis::menu::{Access, Argument, CommandInfo, Kind};
use redis_module::raw;
use std::ffi::{c_int, c_void, CStr, CString};
use std::ptr;
use std::sync::atomic::Ordering;

const OK: c_int = raw::REDISMODULE_OK as c_int;

/// Valkey's option "handles atomic slot migration": without it, a server with the module refuses to move slots.
const VALKEY_HANDLE_ATOMIC_SLOT_MIGRATION: c_int = 1 << 5;

/// Says what the module can bear. First of all, since without HANDLE_IO_ERRORS a crafted payload ends the server.
pub fn set_options(ctx: Ctx) {
    let is_valkey = server_is_valkey(ctx);
    IS_VALKEY.store(is_valkey, Ordering::Relaxed);
    let mut options =
        raw::REDISMODULE_OPTIONS_HANDLE_IO_ERRORS as c_int | raw::REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD as c_int;
    // SAFETY: takes nothing.
    let known = api!(RedisModule_GetModuleOptionsAll).map_or(0, |all| unsafe { all() });
    if is_valkey && known & VALKEY_HANDLE_ATOMIC_SLOT_MIGRATION != 0 {
        options |= VALKEY_HANDLE_ATOMIC_SLOT_MIGRATION;
    }
    if let Some(set) = api!(RedisModule_SetModuleOptions) {
        // SAFETY: the context is valid for this call.
        unsafe { set(ctx.raw, options) };
    }
}

/// By its own word: versions alone do not tell Redis from Valkey, and their numbers for options and events part ways.
fn server_is_valkey(ctx: Ctx) -> bool {
    let (Some(get), Some(field), Some(free)) =
        (api!(RedisModule_GetServerInfo), api!(RedisModule_ServerInfoGetFieldC), api!(RedisModule_FreeServerInfo))
    else {
        return false;
    };
    // SAFETY: C strings; the data is freed once, after the last look at the field.
    unsafe {
        let data = get(ctx.raw, c"server".as_ptr());
        if data.is_null() {
            return false;
        }
        let name = field(data, c"server_name".as_ptr());
        let is_valkey = !name.is_null() && CStr::from_ptr(name).to_bytes() == b"valkey";
        free(ctx.raw, data);
        is_valkey
    }
}

/// Registers every configuration; the error names the one that failed.
pub fn register_configs(ctx: Ctx, initial: &Initial) -> Result<(), String> {
    let (Some(number), Some(string), Some(choice)) = (
        api!(RedisModule_RegisterNumericConfig),
        api!(RedisModule_RegisterStringConfig),
        api!(RedisModule_RegisterEnumConfig),
    ) else {
        return Err("*".to_string());
    };
    for config in config::NUMBERS {
        let flags = if config.is_memory { raw::REDISMODULE_CONFIG_MEMORY } else { raw::REDISMODULE_CONFIG_DEFAULT };
        let data: *mut c_void = ptr::from_ref(config).cast_mut().cast();
        // SAFETY: the name is copied; the data is a static, which the callbacks only read through a shared reference.
        let status = unsafe {
            number(
                ctx.raw,
                config.name.as_ptr(),
                initial.number(config),
                flags,
                config.min,
                config.max,
                Some(callbacks::get_number),
                Some(callbacks::set_number),
                None,
                data,
            )
        };
        named(status, config.name)?;
    }
    let prefix = initial.channel_prefix.as_deref().map(c_text);
    let prefix = prefix.as_deref().unwrap_or(config::CHANNEL_PREFIX_DEFAULT);
    // SAFETY: name and default are copied; there is no data.
    let status = unsafe {
        string(
            ctx.raw,
            config::CHANNEL_PREFIX.as_ptr(),
            prefix.as_ptr(),
            raw::REDISMODULE_CONFIG_DEFAULT,
            Some(callbacks::get_prefix),
            Some(callbacks::set_prefix),
            None,
            ptr::null_mut(),
        )
    };
    named(status, config::CHANNEL_PREFIX)?;
    let mut names = config::PUBLISH_NAMES.map(|(name, _)| name.as_ptr());
    let values = config::PUBLISH_NAMES.map(|(_, value)| value as c_int);
    // SAFETY: names and values are two arrays of this length, and are copied.
    let status = unsafe {
        choice(
            ctx.raw,
            config::PUBLISH.as_ptr(),
            initial.publish.unwrap_or(Publish::Classic) as c_int,
            raw::REDISMODULE_CONFIG_DEFAULT,
            names.as_mut_ptr(),
            values.as_ptr(),
            values.len() as c_int,
            Some(callbacks::get_publish),
            Some(callbacks::set_publish),
            None,
            ptr::null_mut(),
        )
    };
    named(status, config::PUBLISH)
}

fn named(status: c_int, name: &CStr) -> Result<(), String> {
    if status == OK {
        Ok(())
    } else {
        Err(name.to_string_lossy().into_owned())
    }
}

/// Takes over the values of the configuration file. The crate's macro ignores what comes of it; an error that is not
/// returned from OnLoad crashes some servers later.
pub fn load_configs(ctx: Ctx) -> Result<(), Unavailable> {
    // SAFETY: the context is valid for this call.
    match api!(RedisModule_LoadConfigs) {
        Some(load) if unsafe { load(ctx.raw) } == OK => Ok(()),
        _ => Err(Unavailable),
    }
}

/// Registers INFO's section, in the place of the crate's own, which allocates inside a signal handler.
pub fn register_info(ctx: Ctx) {
    if let Some(register) = api!(RedisModule_RegisterInfoFunc) {
        // SAFETY: an extern "C" function of this library, which is never unloaded.
        unsafe { register(ctx.raw, Some(callbacks::info)) };
    }
}

/// Whether this is one of the servers that `home_db` is about.
pub fn leaves_clients_astray() -> bool {
    const PUTS_CLIENTS_BACK: c_int = 0x09_01_02;
    // SAFETY: takes nothing.
    let version = api!(RedisModule_GetServerVersion).map_or(0, |version| unsafe { version() });
    IS_VALKEY.load(Ordering::Relaxed) && version < PUTS_CLIENTS_BACK
}

/// Has the filter of `home_db` look at each command.
pub fn filter_commands(ctx: Ctx) {
    if let Some(register) = api!(RedisModule_RegisterCommandFilter) {
        // SAFETY: an extern "C" function of this library, which is never unloaded.
        unsafe { register(ctx.raw, Some(callbacks::filter), 0) };
    }
}

/// Subscribes to what generic commands do to keys.
pub fn subscribe_to_keys(ctx: Ctx) -> Result<(), Unavailable> {
    let subscribe = api!(RedisModule_SubscribeToKeyspaceEvents).ok_or(Unavailable)?;
    // SAFETY: an extern "C" function of this library, which is never unloaded.
    match unsafe { subscribe(ctx.raw, raw::REDISMODULE_NOTIFY_GENERIC, Some(callbacks::keyspace_event)) } {
        OK => Ok(()),
        _ => Err(Unavailable),
    }
}

/// Subscribes to what happens to the server and its databases.
pub fn subscribe_to_server(ctx: Ctx) -> Result<(), Unavailable> {
    let server = api!(RedisModule_SubscribeToServerEvent).ok_or(Unavailable)?;
    // Only events whose number means the same on Redis and on Valkey.
    for id in [
        raw::REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED,
        raw::REDISMODULE_EVENT_FLUSHDB,
        raw::REDISMODULE_EVENT_LOADING,
        raw::REDISMODULE_EVENT_SWAPDB,
        raw::REDISMODULE_EVENT_REPL_ASYNC_LOAD,
    ] {
        // SAFETY: an extern "C" function of this library, which is never unloaded; version 1 is the only one that the
        // data of these events has.
        let status =
            unsafe { server(ctx.raw, raw::RedisModuleEvent { id, dataver: 1 }, Some(callbacks::server_event)) };
        if status != OK {
            return Err(Unavailable);
        }
    }
    Ok(())
}

// ---- what COMMAND and ACL say of the commands ------------------------------------------------------------------------

static INFO_VERSION: raw::RedisModuleCommandInfoVersion = raw::RedisModuleCommandInfoVersion {
    version: 1,
    sizeof_historyentry: size_of::<raw::RedisModuleCommandHistoryEntry>(),
    sizeof_keyspec: size_of::<raw::RedisModuleCommandKeySpec>(),
    sizeof_arg: size_of::<raw::RedisModuleCommandArg>(),
};

/// Adds a category of our own; false where the server lets modules add none.
pub fn add_acl_category(ctx: Ctx, name: &CStr) -> bool {
    // SAFETY: a C string, which is copied.
    api!(RedisModule_AddACLCategory).is_some_and(|add| unsafe { add(ctx.raw, name.as_ptr()) } == OK)
}

/// Sets a command's categories. True also where the server has no such call, which is before 7.2.
pub fn set_acl_categories(ctx: Ctx, name: &CStr, categories: &str) -> bool {
    let Some(set) = api!(RedisModule_SetCommandACLCategories) else { return true };
    let categories = c_text(categories);
    // SAFETY: the command is one of ours; the string is read at once.
    command(ctx, name).is_some_and(|command| unsafe { set(command, categories.as_ptr()) } == OK)
}

fn command(ctx: Ctx, name: &CStr) -> Option<*mut raw::RedisModuleCommand> {
    let get = api!(RedisModule_GetCommand)?;
    // SAFETY: a C string that lives through the call.
    let command = unsafe { get(ctx.raw, name.as_ptr()) };
    (!command.is_null()).then_some(command)
}

/// Sets a command's summary, arity, tips, arguments and key specification.
pub fn set_command_info(ctx: Ctx, info: &CommandInfo) -> bool {
    let (Some(set), Some(command)) = (api!(RedisModule_SetCommandInfo), command(ctx, info.name)) else { return false };
    let mut texts = Texts::default();
    let mut arguments = Arguments::of(&info.arguments(), &mut texts);
    let flags = match info.access {
        Access::None => 0,
        Access::Read => raw::REDISMODULE_CMD_KEY_RO | raw::REDISMODULE_CMD_KEY_ACCESS,
        Access::Write { replies, deletes } => {
            let access = if replies { raw::REDISMODULE_CMD_KEY_ACCESS } else { 0 };
            let effect = if deletes { raw::REDISMODULE_CMD_KEY_DELETE } else { raw::REDISMODULE_CMD_KEY_UPDATE };
            raw::REDISMODULE_CMD_KEY_RW | access | effect
        }
    };
    // SAFETY: an all-zero specification is the one that ends the list (null pointers, INVALID).
    let mut keys: [raw::RedisModuleCommandKeySpec; 2] = unsafe { std::mem::zeroed() };
    keys[0].flags = u64::from(flags);
    keys[0].begin_search_type = raw::RedisModuleKeySpecBeginSearchType_REDISMODULE_KSPEC_BS_INDEX;
    keys[0].bs.index = raw::RedisModuleCommandKeySpec__bindgen_ty_1__bindgen_ty_1 { pos: 1 };
    keys[0].find_keys_type = raw::RedisModuleKeySpecFindKeysType_REDISMODULE_KSPEC_FK_RANGE;
    keys[0].fk.range = raw::RedisModuleCommandKeySpec__bindgen_ty_2__bindgen_ty_1 { lastkey: 0, keystep: 1, limit: 0 };
    let told = raw::RedisModuleCommandInfo {
        version: &INFO_VERSION,
        summary: texts.keep(info.summary),
        complexity: texts.keep(info.complexity),
        since: texts.keep(env!("CARGO_PKG_VERSION")),
        history: ptr::null_mut(),
        tips: if info.tips.is_empty() { ptr::null() } else { texts.keep(info.tips) },
        arity: info.arity,
        key_specs: if info.access == Access::None { ptr::null_mut() } else { keys.as_mut_ptr() },
        args: arguments.list(),
    };
    // SAFETY: all that `told` points to lives in `texts`, `arguments` and `keys` until here, and is copied; the lists end
    // in a zeroed element. The version is static, as it must be.
    unsafe { set(command, &told) == OK }
}

/// C strings that live as long as this does.
#[derive(Default)]
struct Texts(Vec<CString>);

impl Texts {
    fn keep(&mut self, text: &str) -> *const std::ffi::c_char {
        let text = c_text(text);
        // The heap of a CString does not move with it.
        let start = text.as_ptr();
        self.0.push(text);
        start
    }
}

/// A list of arguments as C has it, with the lists of what they are made of.
struct Arguments {
    list: Vec<raw::RedisModuleCommandArg>,
    _parts: Vec<Arguments>,
}

impl Arguments {
    fn of(arguments: &[Argument], texts: &mut Texts) -> Arguments {
        let (mut list, mut parts) = (Vec::new(), Vec::new());
        for argument in arguments {
            let mut of = Arguments::of(&argument.parts, texts);
            let mut flags = raw::REDISMODULE_CMD_ARG_NONE;
            if argument.optional {
                flags |= raw::REDISMODULE_CMD_ARG_OPTIONAL;
            }
            if argument.multiple {
                flags |= raw::REDISMODULE_CMD_ARG_MULTIPLE;
            }
            list.push(raw::RedisModuleCommandArg {
                name: texts.keep(&argument.name),
                type_: kind(argument.kind),
                // The first and only key specification.
                key_spec_index: if argument.kind == Kind::Key { 0 } else { -1 },
                token: argument.token.as_deref().map_or(ptr::null(), |token| texts.keep(token)),
                summary: ptr::null(),
                since: ptr::null(),
                flags: flags as c_int,
                deprecated_since: ptr::null(),
                subargs: of.list(),
                display_text: match argument.display.as_str() {
                    "" => ptr::null(),
                    text => texts.keep(text),
                },
            });
            parts.push(of);
        }
        if !list.is_empty() {
            // SAFETY: all zero is the element that ends the list.
            list.push(unsafe { std::mem::zeroed() });
        }
        Arguments { list, _parts: parts }
    }

    /// The list, null where it is empty. The heap of a Vec does not move with it.
    fn list(&mut self) -> *mut raw::RedisModuleCommandArg {
        if self.list.is_empty() {
            ptr::null_mut()
        } else {
            self.list.as_mut_ptr()
        }
    }
}

fn kind(kind: Kind) -> raw::RedisModuleCommandArgType {
    match kind {
        Kind::Key => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_KEY,
        Kind::Text => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_STRING,
        Kind::Integer => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_INTEGER,
        Kind::Pattern => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_PATTERN,
        Kind::Token => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_PURE_TOKEN,
        Kind::OneOf => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_ONEOF,
        Kind::Block => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_BLOCK,
    }
}
