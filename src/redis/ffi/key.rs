//! Open keys, and typed access to the value of the module's data type at one.

use super::api::api;
use super::context::Ctx;
use super::panic::catch_panic_or;
use super::string::{bytes_of, RStr, RString};
use redis_module::raw;
use std::any::type_name;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::{fmt, ptr};

/// The server's handle of a data type, together with the Rust type of its values: each is a `Box<T>` that the server
/// owns.
pub struct ValueType<T> {
    raw: AtomicPtr<raw::RedisModuleType>,
    value: PhantomData<fn() -> T>,
}

impl<T> ValueType<T> {
    pub const fn new() -> ValueType<T> {
        ValueType { raw: AtomicPtr::new(ptr::null_mut()), value: PhantomData }
    }

    /// Sets the handle, once, when the type is registered.
    ///
    /// # Safety
    /// Every value of this type that the server holds is a `Box<T>`, made by [`ValueType::into_raw`].
    pub unsafe fn set(&self, raw: *mut raw::RedisModuleType) {
        self.raw.store(raw, Ordering::Relaxed);
    }

    /// Boxes a value for the server, which owns it from then on.
    pub fn into_raw(value: T) -> *mut c_void {
        Box::into_raw(Box::new(value)).cast()
    }

    /// Returns the value at a key, None where the key holds none of this type.
    fn value_at(&self, key: *mut raw::RedisModuleKey) -> Option<NonNull<T>> {
        let (get_type, get_value) = (api!(RedisModule_ModuleTypeGetType)?, api!(RedisModule_ModuleTypeGetValue)?);
        // SAFETY: the key is open; both return null for a key that holds no module value.
        let (found, value) = unsafe { (get_type(key), get_value(key)) };
        let is_ours = !found.is_null() && found == self.raw.load(Ordering::Relaxed);
        NonNull::new(value.cast()).filter(|_| is_ours)
    }
}

impl<T> fmt::Debug for ValueType<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ValueType").field(&type_name::<T>()).finish()
    }
}

/// The state of a key.
#[derive(Debug)]
pub enum KeyValue<V> {
    /// There is no such key.
    Empty,
    /// A value of another type.
    Foreign,
    /// A value of this module's type.
    Ours(V),
}

/// An open key, closed when dropped. The server signals WATCH and client-side caches when a key closes that was opened
/// for writing, so a caller that may write, but need not, opens it for reading first.
pub struct Key<T: 'static> {
    ctx: Ctx,
    raw: *mut raw::RedisModuleKey,
    kind: &'static ValueType<T>,
    /// The value of our type. Looked up once: nothing but `replace` changes it while the key is open.
    value: Option<NonNull<T>>,
}

impl<T> Key<T> {
    pub fn read(ctx: Ctx, name: &RStr, kind: &'static ValueType<T>) -> Key<T> {
        Key::open(ctx, name, kind, raw::REDISMODULE_READ)
    }

    /// Opens for reading without side effects: no LRU touch, no hit or miss, no expiry. For the module's own lookups,
    /// some of them inside a notification, where nothing may be written.
    pub fn peek(ctx: Ctx, name: &RStr, kind: &'static ValueType<T>) -> Key<T> {
        Key::open(ctx, name, kind, PEEK)
    }

    pub fn write(ctx: Ctx, name: &RStr, kind: &'static ValueType<T>) -> Key<T> {
        Key::open(ctx, name, kind, raw::REDISMODULE_READ | raw::REDISMODULE_WRITE)
    }

    fn open(ctx: Ctx, name: &RStr, kind: &'static ValueType<T>, mode: u32) -> Key<T> {
        let raw = match api!(RedisModule_OpenKey) {
            // SAFETY: context and name are valid for this call; Drop closes the handle, before the call returns.
            Some(open) => unsafe { open(ctx.raw(), name.raw(), mode as c_int) },
            None => ptr::null_mut(),
        };
        let raw: *mut raw::RedisModuleKey = raw.cast();
        let value = if raw.is_null() { None } else { kind.value_at(raw) };
        Key { ctx, raw, kind, value }
    }

    pub fn ctx(&self) -> Ctx {
        self.ctx
    }

    /// Returns the value. A key exists if it opened for reading, and is ours if it has our type. The server's
    /// enumeration of types is not asked: it grows, and answers "empty" for types that it does not know.
    pub fn value(&self) -> KeyValue<&T> {
        if self.raw.is_null() {
            return KeyValue::Empty;
        }
        match self.value {
            // SAFETY: a box of our type. It stays while the key is open and is not replaced, which takes `&mut self`.
            Some(value) => KeyValue::Ours(unsafe { value.as_ref() }),
            None => KeyValue::Foreign,
        }
    }

    /// Returns the value, to be modified in place. Nothing is signalled: see [`Ctx::signal_modified`].
    pub fn value_mut(&mut self) -> Option<&mut T> {
        // SAFETY: as in `value`; `&mut self` excludes other references.
        self.value.map(|mut value| unsafe { value.as_mut() })
    }

    /// Deletes what is at the key, with its TTL, and stores a value. False where the server refuses it.
    #[must_use]
    pub fn replace(&mut self, value: T) -> bool {
        let Some(set) = api!(RedisModule_ModuleTypeSetValue) else { return false };
        let value = ValueType::into_raw(value);
        // SAFETY: the key is open; the type is ours, and so is the value, which the server owns from here on.
        let status = unsafe { set(self.raw, self.kind.raw.load(Ordering::Relaxed), value) };
        if status != raw::REDISMODULE_OK as c_int {
            // SAFETY: the server did not take it, so it is still the box that was made above.
            drop(unsafe { Box::from_raw(value.cast::<T>()) });
            return false;
        }
        self.value = NonNull::new(value.cast());
        true
    }

    /// The address of the value of our type: it stays the same when the value moves to another key.
    pub fn address(&self) -> Option<usize> {
        self.value.map(|value| value.as_ptr().addr())
    }

    /// The key's database. In a transaction it may be another than the client's: the server's own "selected database" is
    /// that of the last SELECT or MOVE.
    pub fn db(&self) -> i32 {
        match api!(RedisModule_GetDbIdFromModuleKey) {
            // SAFETY: the key is open.
            Some(get) if !self.raw.is_null() => unsafe { get(self.raw) },
            // A key that does not exist was not opened.
            _ => self.ctx.selected_db(),
        }
    }

    /// The key's name; empty where the server does not tell.
    pub fn name(&self) -> String {
        let Some(get) = api!(RedisModule_GetKeyNameFromModuleKey) else { return String::new() };
        // SAFETY: the key is open, and the name is read before it closes.
        let name = unsafe { get(self.raw) };
        if name.is_null() {
            return String::new();
        }
        String::from_utf8_lossy(bytes_of(name)).into_owned()
    }
}

const PEEK: u32 = raw::REDISMODULE_READ
    | raw::REDISMODULE_OPEN_KEY_NOTOUCH
    | raw::REDISMODULE_OPEN_KEY_NONOTIFY
    | raw::REDISMODULE_OPEN_KEY_NOSTATS
    | raw::REDISMODULE_OPEN_KEY_NOEXPIRE;

impl<T> Drop for Key<T> {
    fn drop(&mut self) {
        if let (false, Some(close)) = (self.raw.is_null(), api!(RedisModule_CloseKey)) {
            // SAFETY: opened by `open`, closed here and nowhere else.
            unsafe { close(self.raw) };
        }
    }
}

/// State of one [`Ctx::scan`].
struct Scan<T: 'static> {
    kind: &'static ValueType<T>,
    found: Vec<Vec<u8>>,
}

impl Ctx {
    /// Returns the names of all keys in the selected database that hold a value of this type. It visits every key of
    /// the database.
    pub fn scan<T>(self, kind: &'static ValueType<T>) -> Vec<Vec<u8>> {
        let (Some(create), Some(scan), Some(destroy)) =
            (api!(RedisModule_ScanCursorCreate), api!(RedisModule_Scan), api!(RedisModule_ScanCursorDestroy))
        else {
            return Vec::new();
        };
        let mut state = Scan { kind, found: Vec::new() };
        let data: *mut c_void = ptr::from_mut(&mut state).cast();
        // SAFETY: the cursor is created and destroyed here; the callback has `state` for itself while this function
        // waits.
        unsafe {
            let cursor = create();
            while scan(self.raw(), cursor, Some(on_scanned::<T>), data) != 0 {}
            destroy(cursor);
        }
        state.found
    }
}

/// One key of a scan. Where the server did not open it, it is opened here.
unsafe extern "C" fn on_scanned<T: 'static>(
    ctx: *mut raw::RedisModuleCtx,
    name: *mut raw::RedisModuleString,
    key: *mut raw::RedisModuleKey,
    data: *mut c_void,
) {
    catch_panic_or("a scan", (), || {
        // SAFETY: the data is the state of whoever scans, who waits meanwhile.
        let Some(state) = (unsafe { data.cast::<Scan<T>>().as_mut() }) else { return };
        let name = bytes_of(name);
        let is_ours = match key.is_null() {
            true => {
                matches!(Key::peek(Ctx::from_raw(ctx), &RString::new(name), state.kind).value(), KeyValue::Ours(_))
            }
            false => state.kind.value_at(key).is_some(),
        };
        if is_ours {
            state.found.push(name.to_vec());
        }
    });
}
