//! Keys, and the value that hangs on one.

use super::{api, Ctx};
use crate::engine::Record;
use crate::redis::data_type::{Stored, DEPLOYMENT};
use crate::redis::kept::Kept;
use redis_module::{raw, RedisString};
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;

/// An open key. It closes with this value, and the server signals WATCH and client caches if it was open for writing:
/// so whoever only may write opens for reading first.
pub struct Key {
    raw: *mut raw::RedisModuleKey,
    /// What was kept with the record that [`Key::record_mut`] gave away.
    kept_before: Kept,
}

/// What hangs on a key, in a box: its value, and the replies that are kept beside it.
pub(super) struct Hung {
    pub stored: Stored,
    pub kept: Kept,
}

impl Hung {
    /// As the server takes it. Of nothing new is anything kept.
    pub fn boxed(stored: Stored) -> *mut c_void {
        Box::into_raw(Box::new(Hung { stored, kept: Kept::default() })).cast()
    }
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
        ManuallyDrop::new(Key { raw, kept_before: Kept::default() })
    }

    fn open(ctx: Ctx, name: &RedisString, mode: u32) -> Key {
        let raw = match api!(RedisModule_OpenKey) {
            // SAFETY: context and name are valid for this call; the handle is closed by Drop, before the call returns.
            Some(open) => unsafe { open(ctx.raw, name.inner, mode as c_int) },
            None => std::ptr::null_mut(),
        };
        Key { raw: raw.cast(), kept_before: Kept::default() }
    }

    /// Existence is that the key opened for reading; ours is what has our type. The server's enumeration of types is not
    /// asked: it grows, and answers "empty" for what it does not know.
    pub fn slot(&self) -> Slot<'_> {
        if self.raw.is_null() {
            return Slot::Empty;
        }
        match self.value() {
            // SAFETY: the value is of our type, so it is what `put` or `rdb_load` boxed. It stays while the key is open and
            // nobody puts another, which would take `&mut self`.
            Some(value) => Slot::Ours(unsafe { &(*value).stored }),
            None => Slot::Foreign,
        }
    }

    /// The record, to be changed in place. Nobody is told: see [`Ctx::signal_changed`]. The replies that were kept with it
    /// go, unless it is [`unchanged`](Key::unchanged).
    pub fn record_mut(&mut self) -> Option<&mut Record> {
        // SAFETY: as in `slot`; `&mut self` says that nobody else looks at it.
        let hung = unsafe { &mut *self.value()? };
        self.kept_before = std::mem::take(&mut hung.kept);
        match &mut hung.stored {
            Stored::Record(record) => Some(record),
            Stored::Opaque { .. } => None,
        }
    }

    /// The record that was given away to be changed is what it was before.
    pub fn unchanged(&mut self) {
        let kept = std::mem::take(&mut self.kept_before);
        if let Some(place) = self.kept() {
            *place = kept;
        }
    }

    /// What is kept with the record.
    pub fn kept(&mut self) -> Option<&mut Kept> {
        // SAFETY: as in `slot`; `&mut self` says that nobody else looks at it.
        self.value().map(|value| unsafe { &mut (*value).kept })
    }

    fn value(&self) -> Option<*mut Hung> {
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
                unsafe { *value = Hung { stored, kept: Kept::default() } };
                true
            }
            None => self.replace(stored),
        }
    }

    /// Deletes what is there, with its TTL, and puts a value.
    #[must_use]
    pub fn replace(&mut self, stored: Stored) -> bool {
        let Some(set) = api!(RedisModule_ModuleTypeSetValue) else { return false };
        let value = Hung::boxed(stored);
        // SAFETY: the handle is open; the type is ours, and so is the value, which the server owns from here on.
        let status = unsafe { set(self.raw, *DEPLOYMENT.raw_type.borrow(), value) };
        if status != raw::REDISMODULE_OK as c_int {
            // SAFETY: the server did not take it, so it is still the box that it was.
            drop(unsafe { Box::from_raw(value.cast::<Hung>()) });
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
