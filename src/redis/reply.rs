//! Replies: views and errors, written by the server's reply functions.

use super::error::CommandError;
use super::ffi::Ctx;
use crate::engine::{Code, Rejection};
use crate::view::View;

/// The error reply to a panic; the log has its message.
pub const INTERNAL_ERROR: &str = "ERR internal error, nothing more is known here; see the server's log";

/// Replies a view: maps are maps in RESP3 and flat arrays in RESP2, booleans 0 and 1 in both.
pub fn view(ctx: Ctx, view: &View) {
    match view {
        View::Null => ctx.reply_null(),
        View::Int(number) => ctx.reply_int(*number),
        View::Bool(flag) => ctx.reply_int(i64::from(*flag)),
        View::Str(text) | View::Raw(text) => ctx.reply_bytes(text.as_bytes()),
        View::List(items) => {
            ctx.reply_array(items.len());
            items.iter().for_each(|item| self::view(ctx, item));
        }
        View::Map(fields) => {
            ctx.reply_map(fields.len());
            for (name, value) in fields {
                ctx.reply_bytes(name.as_bytes());
                self::view(ctx, value);
            }
        }
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
