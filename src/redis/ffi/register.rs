//! Registration in OnLoad: commands and their metadata, configurations, events, INFO. Everything that is registered is
//! an argument.

use super::api::{api, Unavailable};
use super::context::Ctx;
use super::panic::catch_panic_or;
use super::string::{c_text, RStr};
use redis_module::raw;
use std::ffi::{c_char, c_int, c_longlong, c_void, CStr, CString};
use std::ptr;

const OK: c_int = raw::REDISMODULE_OK as c_int;

fn ok(status: c_int) -> Result<(), Unavailable> {
    match status {
        OK => Ok(()),
        _ => Err(Unavailable),
    }
}

// ---- events and INFO ------------------------------------------------------------------------------------------------

pub type KeyspaceCallback =
    unsafe extern "C" fn(*mut raw::RedisModuleCtx, c_int, *const c_char, *mut raw::RedisModuleString) -> c_int;
pub type ServerEventCallback = unsafe extern "C" fn(*mut raw::RedisModuleCtx, raw::RedisModuleEvent, u64, *mut c_void);
pub type InfoCallback = unsafe extern "C" fn(*mut raw::RedisModuleInfoCtx, c_int);
pub type FilterCallback = unsafe extern "C" fn(*mut raw::RedisModuleCommandFilterCtx);

/// Registers the INFO section, in the place of the crate's own, which allocates inside a signal handler.
pub fn register_info(ctx: Ctx, callback: InfoCallback) {
    if let Some(register) = api!(RedisModule_RegisterInfoFunc) {
        // SAFETY: an extern "C" function of this library, which is never unloaded.
        unsafe { register(ctx.raw(), Some(callback)) };
    }
}

/// Registers a filter that sees each command before it runs.
pub fn register_command_filter(ctx: Ctx, callback: FilterCallback) {
    if let Some(register) = api!(RedisModule_RegisterCommandFilter) {
        // SAFETY: an extern "C" function of this library, which is never unloaded.
        unsafe { register(ctx.raw(), Some(callback), 0) };
    }
}

/// Subscribes to the notifications of generic commands.
pub fn subscribe_to_keyspace(ctx: Ctx, callback: KeyspaceCallback) -> Result<(), Unavailable> {
    let subscribe = api!(RedisModule_SubscribeToKeyspaceEvents).ok_or(Unavailable)?;
    // SAFETY: an extern "C" function of this library, which is never unloaded.
    ok(unsafe { subscribe(ctx.raw(), raw::REDISMODULE_NOTIFY_GENERIC, Some(callback)) })
}

/// Subscribes to server events. Only events may be named whose id means the same on Redis and on Valkey.
pub fn subscribe_to_server(ctx: Ctx, ids: &[u64], callback: ServerEventCallback) -> Result<(), Unavailable> {
    let subscribe = api!(RedisModule_SubscribeToServerEvent).ok_or(Unavailable)?;
    for id in ids {
        let event = raw::RedisModuleEvent { id: *id, dataver: 1 };
        // SAFETY: an extern "C" function of this library, which is never unloaded; version 1 is the only one that the
        // data of these events has.
        ok(unsafe { subscribe(ctx.raw(), event, Some(callback)) })?;
    }
    Ok(())
}

// ---- configuration --------------------------------------------------------------------------------------------------

pub type GetNumber = unsafe extern "C" fn(*const c_char, *mut c_void) -> c_longlong;
pub type SetNumber =
    unsafe extern "C" fn(*const c_char, c_longlong, *mut c_void, *mut *mut raw::RedisModuleString) -> c_int;
pub type GetText = unsafe extern "C" fn(*const c_char, *mut c_void) -> *mut raw::RedisModuleString;
pub type SetText = unsafe extern "C" fn(
    *const c_char,
    *mut raw::RedisModuleString,
    *mut c_void,
    *mut *mut raw::RedisModuleString,
) -> c_int;
pub type GetChoice = unsafe extern "C" fn(*const c_char, *mut c_void) -> c_int;
pub type SetChoice = unsafe extern "C" fn(*const c_char, c_int, *mut c_void, *mut *mut raw::RedisModuleString) -> c_int;

/// Registers a number from `min` to `max`; `is_memory` accepts `1mb` for it. The callbacks get `config` as their data.
pub fn register_number<T: Sync>(
    ctx: Ctx,
    name: &CStr,
    (initial, min, max): (i64, i64, i64),
    is_memory: bool,
    config: &'static T,
    (get, set): (GetNumber, SetNumber),
) -> Result<(), Unavailable> {
    let register = api!(RedisModule_RegisterNumericConfig).ok_or(Unavailable)?;
    let flags = if is_memory { raw::REDISMODULE_CONFIG_MEMORY } else { raw::REDISMODULE_CONFIG_DEFAULT };
    // SAFETY: the name is copied; the data is a static that the callbacks only read through a shared reference.
    ok(unsafe {
        register(ctx.raw(), name.as_ptr(), initial, flags, min, max, Some(get), Some(set), None, data_of(config))
    })
}

/// Registers a text. The callbacks get `config` as their data.
pub fn register_text<T: Sync>(
    ctx: Ctx,
    name: &CStr,
    initial: &str,
    config: &'static T,
    (get, set): (GetText, SetText),
) -> Result<(), Unavailable> {
    let register = api!(RedisModule_RegisterStringConfig).ok_or(Unavailable)?;
    let initial = c_text(initial);
    let (name, initial, flags) = (name.as_ptr(), initial.as_ptr(), raw::REDISMODULE_CONFIG_DEFAULT);
    // SAFETY: name and initial value are copied; the data is a static, as above.
    ok(unsafe { register(ctx.raw(), name, initial, flags, Some(get), Some(set), None, data_of(config)) })
}

/// Registers a choice among named values. The callbacks get `config` as their data.
pub fn register_choice<T: Sync>(
    ctx: Ctx,
    name: &CStr,
    initial: c_int,
    choices: &[(&CStr, c_int)],
    config: &'static T,
    (get, set): (GetChoice, SetChoice),
) -> Result<(), Unavailable> {
    let register = api!(RedisModule_RegisterEnumConfig).ok_or(Unavailable)?;
    let mut names: Vec<*const c_char> = choices.iter().map(|(name, _)| name.as_ptr()).collect();
    let values: Vec<c_int> = choices.iter().map(|(_, value)| *value).collect();
    // SAFETY: names and values are two arrays of this length, and are copied; the data is a static, as above.
    ok(unsafe {
        register(
            ctx.raw(),
            name.as_ptr(),
            initial,
            raw::REDISMODULE_CONFIG_DEFAULT,
            names.as_mut_ptr(),
            values.as_ptr(),
            values.len() as c_int,
            Some(get),
            Some(set),
            None,
            data_of(config),
        )
    })
}

/// Makes callback data of a static.
fn data_of<T>(config: &'static T) -> *mut c_void {
    ptr::from_ref(config).cast_mut().cast()
}

/// Applies the values of the configuration file. The crate's macro ignores its result; an error that OnLoad does not
/// return crashes some servers later.
pub fn load_configs(ctx: Ctx) -> Result<(), Unavailable> {
    let load = api!(RedisModule_LoadConfigs).ok_or(Unavailable)?;
    // SAFETY: the context is valid for this call.
    ok(unsafe { load(ctx.raw()) })
}

// ---- commands -------------------------------------------------------------------------------------------------------

/// The function that the server calls for a command.
#[derive(Clone, Copy)]
pub struct EntryPoint(unsafe extern "C" fn(*mut raw::RedisModuleCtx, *mut *mut raw::RedisModuleString, c_int) -> c_int);

/// Makes the entry point of a command from its handler, which gets the arguments after the command's name. The handler
/// is a function or a closure without captures: the entry point is made from its type alone.
pub const fn entry_point<H: Fn(Ctx, &[RStr]) + Copy + 'static>(_handler: H) -> EntryPoint {
    const { assert!(size_of::<H>() == 0, "a handler has no captures") };
    EntryPoint(run_command::<H>)
}

unsafe extern "C" fn run_command<H: Fn(Ctx, &[RStr]) + Copy + 'static>(
    ctx: *mut raw::RedisModuleCtx,
    argv: *mut *mut raw::RedisModuleString,
    argc: c_int,
) -> c_int {
    catch_panic_or("a command", (), || {
        // SAFETY: the arguments of the running command, which live until it returns.
        let arguments = unsafe { RStr::from_argv(argv, argc) };
        // SAFETY: `entry_point` was given a value of this type, which has no bytes and is Copy.
        let handler = unsafe { ptr::NonNull::<H>::dangling().as_ref() };
        handler(Ctx::from_raw(ctx), arguments.get(1..).unwrap_or_default());
    });
    OK
}

/// Creates a command. `has_key`: its first argument is a key, and the only one.
pub fn create_command(
    ctx: Ctx,
    name: &CStr,
    entry: EntryPoint,
    flags: &CStr,
    has_key: bool,
) -> Result<(), Unavailable> {
    let create = api!(RedisModule_CreateCommand).ok_or(Unavailable)?;
    // As the server's own commands are registered: lower case, looked up in any case.
    let name = c_text(&name.to_string_lossy().to_ascii_lowercase());
    let key = c_int::from(has_key);
    // SAFETY: an extern "C" function of this library, which is never unloaded; name and flags are read at once.
    ok(unsafe { create(ctx.raw(), name.as_ptr(), Some(entry.0), flags.as_ptr(), key, key, key) })
}

/// Answers the server's question which arguments of a command with the flag `getkeys-api` are keys: the first one, if
/// `has_key` says so. Returns false where the server has no such question, and wants the command carried out.
pub fn answer_keys_request(ctx: Ctx, access: KeyAccess, has_key: impl FnOnce() -> bool) -> bool {
    // SAFETY: the context is valid for this call.
    let is_asked = api!(RedisModule_IsKeysPositionRequest).is_some_and(|is| unsafe { is(ctx.raw()) } != 0);
    if let (true, Some(report)) = (is_asked, api!(RedisModule_KeyAtPosWithFlags)) {
        if has_key() {
            // SAFETY: the server asks for keys, and the position is that of an argument.
            unsafe { report(ctx.raw(), 1, access.flags() as c_int) };
        }
    }
    is_asked
}

/// Adds an ACL category; False where the server lets modules add none.
pub fn add_acl_category(ctx: Ctx, name: &CStr) -> bool {
    // SAFETY: a C string, which is copied.
    api!(RedisModule_AddACLCategory).is_some_and(|add| unsafe { add(ctx.raw(), name.as_ptr()) } == OK)
}

/// Sets a command's ACL categories. Servers before 7.2 have no such call, which is no error.
pub fn set_acl_categories(ctx: Ctx, name: &CStr, categories: &str) -> Result<(), Unavailable> {
    let Some(set) = api!(RedisModule_SetCommandACLCategories) else { return Ok(()) };
    let categories = c_text(categories);
    let command = command(ctx, name).ok_or(Unavailable)?;
    // SAFETY: the command is one of ours; the string is read at once.
    ok(unsafe { set(command, categories.as_ptr()) })
}

fn command(ctx: Ctx, name: &CStr) -> Option<*mut raw::RedisModuleCommand> {
    let get = api!(RedisModule_GetCommand)?;
    // SAFETY: a C string that lives through the call.
    let command = unsafe { get(ctx.raw(), name.as_ptr()) };
    (!command.is_null()).then_some(command)
}

/// The access of a command to its key: what key patterns of ACLs are checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAccess {
    /// The command has no key.
    None,
    /// Reads the value.
    Read,
    /// Reads and updates the value (`RW_UPDATE`).
    RwUpdate,
    /// Reads the value and deletes something of it (`RW_DELETE`).
    RwDelete,
    /// Updates the value without replying what it holds, as SADD and HSET do (`W_UPDATE`).
    WUpdate,
    /// Deletes something of the value without replying what it holds (`W_DELETE`).
    WDelete,
}

impl KeyAccess {
    /// The flags of the key specification. The server takes one of UPDATE and INSERT, and what DEPLOY does to an
    /// existing record is more than an insertion.
    fn flags(self) -> u32 {
        use raw::{
            REDISMODULE_CMD_KEY_ACCESS as ACCESS, REDISMODULE_CMD_KEY_DELETE as DELETE, REDISMODULE_CMD_KEY_RO as RO,
            REDISMODULE_CMD_KEY_RW as RW, REDISMODULE_CMD_KEY_UPDATE as UPDATE,
        };
        match self {
            KeyAccess::None => 0,
            KeyAccess::Read => RO | ACCESS,
            KeyAccess::RwUpdate => RW | ACCESS | UPDATE,
            KeyAccess::RwDelete => RW | ACCESS | DELETE,
            KeyAccess::WUpdate => RW | UPDATE,
            KeyAccess::WDelete => RW | DELETE,
        }
    }
}

/// The kind of an argument, as COMMAND DOCS knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ArgumentKind {
    Key,
    #[default]
    String,
    Integer,
    Pattern,
    /// A keyword without a value.
    PureToken,
    OneOf,
    /// Several arguments in a row.
    Block,
}

/// One argument of a command, as COMMAND DOCS describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Argument {
    /// Unique among its siblings.
    pub name: String,
    /// The text of a hint; empty where that is the token or the parts.
    pub display: String,
    pub kind: ArgumentKind,
    pub token: Option<String>,
    pub optional: bool,
    pub multiple: bool,
    pub parts: Vec<Argument>,
}

/// A command's metadata, as COMMAND INFO and COMMAND DOCS show it.
pub struct CommandInfo<'a> {
    pub name: &'a CStr,
    pub access: KeyAccess,
    /// The command itself says whether its first argument is a key: it has the flag `getkeys-api`.
    pub has_movable_key: bool,
    pub arity: i32,
    pub summary: &'a str,
    pub complexity: &'a str,
    pub since: &'a str,
    pub tips: &'a str,
    pub arguments: &'a [Argument],
}

static INFO_VERSION: raw::RedisModuleCommandInfoVersion = raw::RedisModuleCommandInfoVersion {
    version: 1,
    sizeof_historyentry: size_of::<raw::RedisModuleCommandHistoryEntry>(),
    sizeof_keyspec: size_of::<raw::RedisModuleCommandKeySpec>(),
    sizeof_arg: size_of::<raw::RedisModuleCommandArg>(),
};

/// Sets a command's summary, arity, tips, arguments and key specification. Without it, a module's key is declared
/// "read and write", which refuses read-only users their reads.
pub fn set_command_info(ctx: Ctx, info: &CommandInfo) -> Result<(), Unavailable> {
    let (set, command) = (api!(RedisModule_SetCommandInfo).ok_or(Unavailable)?, command(ctx, info.name));
    let command = command.ok_or(Unavailable)?;
    let mut texts = Texts::default();
    let mut arguments = ArgumentList::of(info.arguments, &mut texts);
    // SAFETY: an all-zero specification is the one that ends the list (null pointers, INVALID).
    let mut keys: [raw::RedisModuleCommandKeySpec; 2] = unsafe { std::mem::zeroed() };
    keys[0].flags = u64::from(info.access.flags());
    if info.has_movable_key {
        // The server then asks the command, and takes its word.
        keys[0].flags |= u64::from(raw::REDISMODULE_CMD_KEY_VARIABLE_FLAGS);
    }
    keys[0].begin_search_type = raw::RedisModuleKeySpecBeginSearchType_REDISMODULE_KSPEC_BS_INDEX;
    keys[0].bs.index = raw::RedisModuleCommandKeySpec__bindgen_ty_1__bindgen_ty_1 { pos: 1 };
    keys[0].find_keys_type = raw::RedisModuleKeySpecFindKeysType_REDISMODULE_KSPEC_FK_RANGE;
    keys[0].fk.range = raw::RedisModuleCommandKeySpec__bindgen_ty_2__bindgen_ty_1 { lastkey: 0, keystep: 1, limit: 0 };
    let command_info = raw::RedisModuleCommandInfo {
        version: &INFO_VERSION,
        summary: texts.keep(info.summary),
        complexity: texts.keep(info.complexity),
        since: texts.keep(info.since),
        history: ptr::null_mut(),
        tips: if info.tips.is_empty() { ptr::null() } else { texts.keep(info.tips) },
        arity: info.arity,
        key_specs: if info.access == KeyAccess::None { ptr::null_mut() } else { keys.as_mut_ptr() },
        args: arguments.list(),
    };
    // SAFETY: everything that `command_info` points to lives in `texts`, `arguments` and `keys` until here, and is
    // copied; the lists end in a zeroed element. The version is static, as it must be.
    ok(unsafe { set(command, &command_info) })
}

/// C strings that live as long as this does.
#[derive(Default)]
struct Texts(Vec<CString>);

impl Texts {
    fn keep(&mut self, text: &str) -> *const c_char {
        let text = c_text(text);
        // The heap of a CString does not move with it.
        let start = text.as_ptr();
        self.0.push(text);
        start
    }
}

/// A list of arguments as C has it, with the lists of their parts.
struct ArgumentList {
    list: Vec<raw::RedisModuleCommandArg>,
    _parts: Vec<ArgumentList>,
}

impl ArgumentList {
    fn of(arguments: &[Argument], texts: &mut Texts) -> ArgumentList {
        let (mut list, mut parts) = (Vec::new(), Vec::new());
        for argument in arguments {
            let mut of = ArgumentList::of(&argument.parts, texts);
            let mut flags = raw::REDISMODULE_CMD_ARG_NONE;
            if argument.optional {
                flags |= raw::REDISMODULE_CMD_ARG_OPTIONAL;
            }
            if argument.multiple {
                flags |= raw::REDISMODULE_CMD_ARG_MULTIPLE;
            }
            list.push(raw::RedisModuleCommandArg {
                name: texts.keep(&argument.name),
                type_: argument_type(argument.kind),
                // The first and only key specification.
                key_spec_index: if argument.kind == ArgumentKind::Key { 0 } else { -1 },
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
        ArgumentList { list, _parts: parts }
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

fn argument_type(kind: ArgumentKind) -> raw::RedisModuleCommandArgType {
    match kind {
        ArgumentKind::Key => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_KEY,
        ArgumentKind::String => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_STRING,
        ArgumentKind::Integer => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_INTEGER,
        ArgumentKind::Pattern => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_PATTERN,
        ArgumentKind::PureToken => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_PURE_TOKEN,
        ArgumentKind::OneOf => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_ONEOF,
        ArgumentKind::Block => raw::RedisModuleCommandArgType_REDISMODULE_ARG_TYPE_BLOCK,
    }
}
