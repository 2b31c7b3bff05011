//! Replies: a view or a refusal, in the words of the protocol.

use super::ffi::Ctx;
use super::Refusal;
use crate::engine::{Code, Rejection};
use crate::view::View;

/// What the reply to a panic says; the log has the rest.
pub const INTERNAL: &str = "ERR internal error, nothing more is known here; see the server's log";

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

/// Replies lines for a person's eyes, as INFO does: a verbatim string in RESP3, a bulk string in RESP2.
pub fn page(ctx: Ctx, lines: &[String]) {
    ctx.reply_verbatim(&lines.join("\n"));
}

/// Replies an array with a status for each line.
pub fn lines(ctx: Ctx, lines: &[String]) {
    ctx.reply_array(lines.len());
    lines.iter().for_each(|line| ctx.reply_status(line));
}

/// Replies a refusal, its code word first. The one place where a refusal becomes a text of the protocol.
pub fn refusal(ctx: Ctx, refusal: &Refusal) {
    match refusal {
        Refusal::Arity => ctx.reply_wrong_arity(),
        Refusal::Rejected(rejection) => ctx.reply_error(&error(rejection)),
        Refusal::Internal(text) => ctx.reply_error(&format!("{} {text}", Code::Err.word())),
    }
}

fn error(rejection: &Rejection) -> String {
    format!("{} {rejection}", rejection.code().word())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_starts_with_its_code() {
        assert_eq!(error(&Rejection::WrongType), "WRONGTYPE Operation against a key holding the wrong kind of value");
        assert_eq!(error(&Rejection::NoSuchKey("a".to_string())), "NOTFOUND no deployment at key 'a'");
        assert_eq!(error(&Rejection::Syntax("COUNT is missing".to_string())), "ERR COUNT is missing");
    }
}
