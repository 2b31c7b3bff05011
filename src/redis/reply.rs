//! The reply path: shapes and errors, in the types of the protocol. A reply is sent exactly once.

use super::error::CommandError;
use super::ffi::{Ctx, LogLevel};
use super::resp::{self, ReplySink};
use super::stats;
use crate::engine::{Code, Rejection};
use crate::view::append_json;
use serde::Serialize;
use std::cell::Cell;

/// The error reply to a panic; the log has its message.
const INTERNAL_ERROR: &str = "ERR internal error, nothing more is known here; see the server's log";

/// The initial capacity of a JSON reply, in bytes: most fit.
const JSON_CAPACITY: usize = 2048;

/// Proof that the reply was sent: a handler cannot return without it.
pub struct Answered(());

/// Writes the reply of one command: as JSON where the caller asked for it, else in the types of the protocol.
#[derive(Clone, Copy)]
pub struct ReplyWriter<'c> {
    ctx: Ctx,
    json: bool,
    /// Set before the first byte of the reply. An error after that would be taken for the reply to the next command.
    replied: &'c Cell<bool>,
}

impl<'c> ReplyWriter<'c> {
    pub fn new(ctx: Ctx, json: bool, replied: &'c Cell<bool>) -> ReplyWriter<'c> {
        ReplyWriter { ctx, json, replied }
    }

    /// Replies a shape.
    pub fn write<T: Serialize + ?Sized>(self, shape: &T) -> Answered {
        if !self.json {
            return self.send(|ctx| self::shape(ctx, shape));
        }
        let mut json = Vec::with_capacity(JSON_CAPACITY);
        append_json(&mut json, shape);
        self.send(|ctx| ctx.reply_bytes(&json))
    }

    /// Marks the reply as started and sends it: by `send`, or later by whoever unblocks the client.
    pub fn send(self, send: impl FnOnce(Ctx)) -> Answered {
        self.replied.set(true);
        send(self.ctx);
        Answered(())
    }
}

/// Replies a shape in the types of the protocol.
pub fn shape<T: Serialize + ?Sized>(mut ctx: Ctx, shape: &T) {
    if let Err(error) = resp::write(&mut ctx, shape) {
        debug_assert!(false, "{error}");
        ctx.log(LogLevel::Warning, &format!("a reply is incomplete: {error}"));
    }
}

impl ReplySink for Ctx {
    fn null(&mut self) {
        self.reply_null();
    }

    fn integer(&mut self, number: i64) {
        self.reply_int(number);
    }

    fn bulk_string(&mut self, bytes: &[u8]) {
        self.reply_bytes(bytes);
    }

    fn array(&mut self, length: usize) {
        self.reply_array(length);
    }

    fn map(&mut self, length: usize) {
        self.reply_map(length);
    }
}

/// Ends the reply of a command that panicked, and counts it: as an internal error, unless a part of the reply was sent. A
/// second reply would be taken for that of the next command.
pub fn after_panic(ctx: Ctx, has_replied: bool) {
    stats::count_rejection(Code::Err);
    if !has_replied {
        ctx.reply_error(INTERNAL_ERROR);
    }
}

/// Replies an error, its code word first. The one place where an error becomes a text of the protocol.
pub fn error(ctx: Ctx, error: &CommandError) {
    match error {
        CommandError::WrongArity => ctx.reply_wrong_arity(),
        CommandError::Rejected(rejection) => ctx.reply_error(&error_text(rejection)),
        CommandError::Internal(text) => ctx.reply_error(&format!("{} {text}", Code::Err.word())),
    }
}

fn error_text(rejection: &Rejection) -> String {
    format!("{} {rejection}", rejection.code().word())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_starts_with_its_code() {
        assert_eq!(
            error_text(&Rejection::WrongType),
            "WRONGTYPE Operation against a key holding the wrong kind of value"
        );
        assert_eq!(error_text(&Rejection::NoSuchKey("a".to_string())), "NOTFOUND no deployment at key 'a'");
        assert_eq!(error_text(&Rejection::Syntax("COUNT is missing".to_string())), "ERR COUNT is missing");
    }
}
