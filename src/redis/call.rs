//! One call of a command: its context and its reply.

use super::args::Args;
use super::error::CommandError;
use super::ffi::Ctx;
use super::reply::{Answered, ReplyWriter};
use crate::engine::DecisionReply;
use crate::view;
use serde::Serialize;
use std::cell::Cell;

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

    /// Returns true once a reply was started.
    pub fn has_replied(&self) -> bool {
        self.replied.get()
    }

    /// Returns the writer of the reply, which is one JSON string if `json`.
    pub fn writer(&self, json: bool) -> ReplyWriter<'_> {
        ReplyWriter::new(self.ctx, json, &self.replied)
    }

    /// Replies a shape, as one JSON string if `json`.
    pub fn reply<T: Serialize + ?Sized>(&self, shape: &T, json: bool) -> Answered {
        self.writer(json).write(shape)
    }

    /// Sends the reply by a function, or leaves it to whoever unblocks the client.
    pub fn reply_by(&self, send: impl FnOnce(Ctx)) -> Answered {
        self.writer(false).send(send)
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
            DecisionReply::Receipt(receipt) => match view::receipt_with_warnings(receipt) {
                Some(receipt) => self.reply(&receipt, false),
                None => self.reply(&view::receipt(receipt), false),
            },
            DecisionReply::Changed(changed) => self.reply_int(i64::from(*changed)),
            DecisionReply::Nothing => self.reply_by(Ctx::reply_null),
        }
    }
}
