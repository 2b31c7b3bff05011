//! Keys, and the value that hangs on one.

use super::{api, Ctx};
use crate::engine::Record;
use crate::redis::data_type::{Stored, DEPLOYMENT};
use redis_module::{raw, RedisString};
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;

/// An open key. It closes with this value, and the server signals WATCH and client caches if it was open for writing:
/// so whoever only may write opens for reading first.
pub struct Key {
    raw: *mut raw::RedisModuleKey,
}

/// What is at a key.
pub enum Slot<'k> {
    Empty,
    /// Another type's value.
    Foreign,
    Ours(&'k Stored),
}

impl Key {
    pub fn read(ctx: Ctx, name: &RedisString) -> Key {
        Key::open(ctx, name, raw::REDISMODULE_READ)
    }

    /// Reads without leaving a trace: no LRU touch, no hit or miss, no expiry of what has run out. For the module's own
    /// looks at its keys, some of them inside a notification, where nothing may be written.
    pub fn peek(ctx: Ctx, name: &RedisString) -> Key {
        let quietly = raw::REDISMODULE_OPEN_KEY_NOTOUCH
            | raw::REDISMODULE_OPEN_KEY_NONOTIFY
            | raw::REDISMODULE_OPEN_KEY_NOSTATS
            | raw::REDISMODULE_OPEN_KEY_NOEXPIRE;
        Key::open(ctx, name, raw::REDISMODULE_READ | quietly)
    }

    pub fn write(ctx: Ctx, name: &RedisString) -> Key {
        Key::open(ctx, name, raw::REDISMODULE_READ | raw::REDISMODULE_WRITE)
    }

    /// A handle that somebody else opened and will close.
    pub(super) fn borrowed(raw: *mut raw::RedisModuleKey) -> ManuallyDrop<Key> {
        ManuallyDrop::new(Key { raw })
    }

    fn open(ctx: Ctx, name: &RedisString, mode: u32) -> Key {
        let raw = match api!(RedisModule_OpenKey) {
            // SAFETY: context and name are valid for this call; the handle is closed by Drop, before the call returns.
            Some(open) => unsafe { open(ctx.raw, name.inner, mode as c_int) },
            None => std::ptr::null_mut(),
        };
        Key { raw: raw.cast() }
    }

    /// Existence is that the key opened for reading; ours is what has our type. The server's enumeration of types is not
    /// asked: it grows, and answers "empty" for what it does not know.
    pub fn slot(&self) -> Slot<'_> {
        if self.raw.is_null() {
            return Slot::Empty;
        }
        match self.value() {
            // SAFETY: the value is of our type, so it is the Stored that `put` or `rdb_load` boxed. It stays while the key
            // is open and nobody puts another, which would take `&mut self`.
            Some(value) => Slot::Ours(unsafe { &*value }),
            None => Slot::Foreign,
        }
    }

    /// Has a record that is at rest read, so that it is there to be looked at.
    pub fn wake(&mut self) {
        // SAFETY: as in `slot`; `&mut self` says that nobody else looks at it.
        if let Some(stored) = self.value().map(|value| unsafe { &mut *value }) {
            stored.wake(|| self.name());
        }
    }

    /// The key's name, for the log.
    fn name(&self) -> String {
        let Some(get) = api!(RedisModule_GetKeyNameFromModuleKey) else { return String::new() };
        // SAFETY: the handle is open, and the name is read before it closes.
        let name = unsafe { get(self.raw) };
        if name.is_null() {
            return String::new();
        }
        String::from_utf8_lossy(RedisString::string_as_slice(name)).into_owned()
    }

    /// The record, to be changed in place. Nobody is told: see [`Ctx::signal_changed`].
    pub fn record_mut(&mut self) -> Option<&mut Record> {
        // SAFETY: as in `slot`; `&mut self` says that nobody else looks at it.
        match self.value().map(|value| unsafe { &mut *value }) {
            Some(Stored::Record(record)) => Some(record),
            _ => None,
        }
    }

    fn value(&self) -> Option<*mut Stored> {
        if self.raw.is_null() {
            return None;
        }
        let (get_type, get_value) = (api!(RedisModule_ModuleTypeGetType)?, api!(RedisModule_ModuleTypeGetValue)?);
        // SAFETY: the handle is open; null is what a key without a module's value gives.
        let (kind, value) = unsafe { (get_type(self.raw), get_value(self.raw)) };
        (!kind.is_null() && kind == *DEPLOYMENT.raw_type.borrow() && !value.is_null()).then_some(value.cast())
    }

    /// Puts a value in the place of ours; the key's TTL stays. A key that has none of ours gets one.
    #[must_use]
    pub fn put(&mut self, stored: Stored) -> bool {
        match self.value() {
            Some(value) => {
                // SAFETY: as in `slot`; `&mut self` says that nobody else looks at it.
                unsafe { *value = stored };
                true
            }
            None => self.replace(stored),
        }
    }

    /// Deletes what is there, with its TTL, and puts a value.
    #[must_use]
    pub fn replace(&mut self, stored: Stored) -> bool {
        let Some(set) = api!(RedisModule_ModuleTypeSetValue) else { return false };
        let value: *mut c_void = Box::into_raw(Box::new(stored)).cast();
        // SAFETY: the handle is open; the type is ours, and so is the value, which the server owns from here on.
        let status = unsafe { set(self.raw, *DEPLOYMENT.raw_type.borrow(), value) };
        if status != raw::REDISMODULE_OK as c_int {
            // SAFETY: the server did not take it, so it is still the box that it was.
            drop(unsafe { Box::from_raw(value.cast::<Stored>()) });
            return false;
        }
        true
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        if let (false, Some(close)) = (self.raw.is_null(), api!(RedisModule_CloseKey)) {
            // SAFETY: opened by `open`, closed here and nowhere else.
            unsafe { close(self.raw) };
        }
    }
}
