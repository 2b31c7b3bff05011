//! One call of a command: its context, and its reply, which is sent exactly once.

use super::args::Args;
use super::error::CommandError;
use super::ffi::Ctx;
use super::reply;
use crate::engine::DecisionReply;
use crate::view::{self, View};
use std::cell::Cell;

/// Proof that the reply was sent: a handler cannot return without it.
pub struct Answered(());

/// One call of a command.
pub struct Call {
    ctx: Ctx,
    replied: Cell<bool>,
}

/// The handler of a command.
pub type Handler = fn(&Call, Args) -> Result<Answered, CommandError>;

impl Call {
    pub fn new(ctx: Ctx) -> Call {
        Call { ctx, replied: Cell::new(false) }
    }

    pub fn ctx(&self) -> Ctx {
        self.ctx
    }

    /// True once a reply was begun: a second one would be taken for the reply to the next command.
    pub fn has_replied(&self) -> bool {
        self.replied.get()
    }

    /// Marks the reply as sent: by `send`, or later by whoever unblocks the client.
    pub fn reply_by(&self, send: impl FnOnce(Ctx)) -> Answered {
        self.replied.set(true);
        send(self.ctx);
        Answered(())
    }

    /// Replies a view, as one JSON string if `json`.
    pub fn reply_view(&self, view: &View, json: bool) -> Answered {
        match json.then(|| view.to_json()) {
            Some(text) => self.reply_by(|ctx| ctx.reply_bytes(text.as_bytes())),
            None => self.reply_by(|ctx| reply::view(ctx, view)),
        }
    }

    /// Replies a page of text for people: a verbatim string in RESP3.
    pub fn reply_page(&self, lines: &[String]) -> Answered {
        self.reply_by(|ctx| ctx.reply_verbatim(&lines.join("\n")))
    }

    /// Replies an array of simple strings.
    pub fn reply_lines(&self, lines: &[String]) -> Answered {
        self.reply_by(|ctx| {
            ctx.reply_array(lines.len());
            lines.iter().for_each(|line| ctx.reply_status(line));
        })
    }

    pub fn reply_int(&self, number: i64) -> Answered {
        self.reply_by(|ctx| ctx.reply_int(number))
    }

    /// Replies the engine's answer to a changing command.
    pub fn reply_decision(&self, reply: &DecisionReply) -> Answered {
        match reply {
            DecisionReply::Receipt(receipt) => self.reply_view(&view::receipt(receipt), false),
            DecisionReply::Changed(changed) => self.reply_int(i64::from(*changed)),
            DecisionReply::Nothing => self.reply_by(Ctx::reply_null),
        }
    }
}
