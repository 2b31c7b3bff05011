//! The server's reply functions, one each.

use super::api::api;
use super::context::Ctx;
use super::string::c_text;
use std::ffi::{c_char, c_long};

impl Ctx {
    pub fn reply_null(self) {
        if let Some(reply) = api!(RedisModule_ReplyWithNull) {
            // SAFETY: the context is valid for this call.
            unsafe { reply(self.raw()) };
        }
    }

    pub fn reply_int(self, number: i64) {
        if let Some(reply) = api!(RedisModule_ReplyWithLongLong) {
            // SAFETY: the context is valid for this call.
            unsafe { reply(self.raw(), number) };
        }
    }

    /// Replies a bulk string.
    pub fn reply_bytes(self, bytes: &[u8]) {
        if let Some(reply) = api!(RedisModule_ReplyWithStringBuffer) {
            // SAFETY: a buffer with its length, which is copied.
            unsafe { reply(self.raw(), bytes.as_ptr().cast::<c_char>(), bytes.len()) };
        }
    }

    /// Begins an array of `length` elements, which follow.
    pub fn reply_array(self, length: usize) {
        if let Some(reply) = api!(RedisModule_ReplyWithArray) {
            // SAFETY: the context is valid for this call.
            unsafe { reply(self.raw(), c_long::try_from(length).unwrap_or(0)) };
        }
    }

    /// Begins a map of `length` fields, which follow: a map in RESP3, a flat array in RESP2.
    pub fn reply_map(self, length: usize) {
        if let Some(reply) = api!(RedisModule_ReplyWithMap) {
            // SAFETY: the context is valid for this call.
            unsafe { reply(self.raw(), c_long::try_from(length).unwrap_or(0)) };
        }
    }

    /// Replies a simple string, such as `OK`: one line of printable ASCII.
    pub fn reply_status(self, text: &str) {
        let text = c_text(text);
        if let Some(reply) = api!(RedisModule_ReplyWithSimpleString) {
            // SAFETY: a C string that lives through the call, without what would end a line of the protocol.
            unsafe { reply(self.raw(), text.as_ptr()) };
        }
    }

    /// Replies a text to be displayed as it is: a verbatim string in RESP3, a bulk string in RESP2.
    pub fn reply_verbatim(self, text: &str) {
        if let Some(reply) = api!(RedisModule_ReplyWithVerbatimString) {
            // SAFETY: a buffer with its length, which is copied.
            unsafe { reply(self.raw(), text.as_ptr().cast::<c_char>(), text.len()) };
        }
    }

    /// Replies an error whose text starts with its code word.
    pub fn reply_error(self, text: &str) {
        let text = c_text(text);
        if let Some(reply) = api!(RedisModule_ReplyWithError) {
            // SAFETY: a C string that lives through the call.
            unsafe { reply(self.raw(), text.as_ptr()) };
        }
    }

    /// Replies the server's own "wrong number of arguments".
    pub fn reply_wrong_arity(self) {
        if let Some(reply) = api!(RedisModule_WrongArity) {
            // SAFETY: the context is valid for this call.
            unsafe { reply(self.raw()) };
        }
    }
}
