//! Strings of the server: borrowed arguments, and strings of our own.

use super::api::api;
use redis_module::raw;
use std::ffi::{c_char, c_int, CString};
use std::ops::Deref;
use std::ptr;

/// A string that the server owns: an argument of the running command. It is borrowed, since retaining each argument
/// costs more than reading it.
#[repr(transparent)]
pub struct RStr(*mut raw::RedisModuleString);

impl RStr {
    /// Borrows the arguments of a command.
    ///
    /// # Safety
    /// `argv` points to `argc` strings of the server that live, unchanged, for as long as the slice does.
    pub unsafe fn from_argv<'a>(argv: *mut *mut raw::RedisModuleString, argc: c_int) -> &'a [RStr] {
        match usize::try_from(argc) {
            // SAFETY: the caller's promise; `RStr` is transparent over the pointer.
            Ok(count) if !argv.is_null() => unsafe { std::slice::from_raw_parts(argv.cast::<RStr>(), count) },
            _ => &[],
        }
    }

    /// The bytes of the string.
    pub fn as_slice(&self) -> &[u8] {
        bytes_of(self.0)
    }

    /// The text of the string, with the replacement character in the place of what is not UTF-8.
    pub fn to_string_lossy(&self) -> String {
        String::from_utf8_lossy(self.as_slice()).into_owned()
    }

    pub(in crate::redis) fn raw(&self) -> *mut raw::RedisModuleString {
        self.0
    }
}

/// The bytes of a string that the server owns. Some are on its stack: they may be read, but never retained.
pub(in crate::redis) fn bytes_of<'a>(string: *const raw::RedisModuleString) -> &'a [u8] {
    let Some(read) = api!(RedisModule_StringPtrLen) else { return &[] };
    let mut length = 0;
    // SAFETY: a string of the server that outlives the borrow of whoever asks; `length` is set with the pointer.
    unsafe {
        let start = read(string, &mut length);
        if start.is_null() {
            return &[];
        }
        std::slice::from_raw_parts(start.cast::<u8>(), length)
    }
}

/// A string of our own, freed when dropped.
pub struct RString(RStr);

impl RString {
    /// Copies bytes into a new string. Null, which the API functions treat as a missing string, where the server is
    /// too old to have the function.
    pub fn new(bytes: &[u8]) -> RString {
        let string = api!(RedisModule_CreateString).map_or(ptr::null_mut(), |create| {
            // SAFETY: a buffer with its length, which is copied; without a context the string is ours to free.
            unsafe { create(ptr::null_mut(), bytes.as_ptr().cast::<c_char>(), bytes.len()) }
        });
        RString(RStr(string))
    }

    /// Takes a string over from the server.
    pub(super) fn owned(raw: *mut raw::RedisModuleString) -> RString {
        RString(RStr(raw))
    }

    /// Hands the string over to the server, which frees it.
    pub(in crate::redis) fn into_raw(self) -> *mut raw::RedisModuleString {
        std::mem::ManuallyDrop::new(self).0 .0
    }
}

impl Deref for RString {
    type Target = RStr;

    fn deref(&self) -> &RStr {
        &self.0
    }
}

impl Drop for RString {
    fn drop(&mut self) {
        if let (false, Some(free)) = (self.0 .0.is_null(), api!(RedisModule_FreeString)) {
            // SAFETY: created or taken over by this value, and freed here and nowhere else.
            unsafe { free(ptr::null_mut(), self.0 .0) };
        }
    }
}

/// Converts a text to a C string. Control characters, which would end a C string or a line of the protocol, become
/// blanks.
pub(in crate::redis) fn c_text(text: &str) -> CString {
    let clean: Vec<u8> = text.bytes().map(|b| if b < b' ' || b == 0x7f { b' ' } else { b }).collect();
    CString::new(clean).unwrap_or_default()
}
