//! The shell: all that knows Redis, and nothing that decides.
//!
//! ```text
//! command ─► serve (guard) ─► args ─► read:   key ─► view ─► reply
//!                                  └► change: key ─► engine::decide ─► commit ─► reply
//! timer ───► turn ─► DEPLOY.APPLY key TICK ─► change
//! primary, AOF, slot migration ─► DEPLOY.APPLY key … ─► store (nothing is decided, nothing published)
//! ```
//!
//! There is one write path, [`change`]: whatever alters a record goes through it, so that storing, replicating, the
//! timer, publishing and notifying cannot be forgotten one by one. `unsafe` is in [`ffi`] alone.

#![deny(unsafe_code)]

pub mod args;
pub mod aside;
pub mod blocking;
pub mod callers;
pub mod clock;
pub mod config;
pub mod coordinators;
pub mod data_type;
#[allow(unsafe_code)]
pub mod ffi;
pub mod glob;
pub mod guard;
pub mod home_db;
pub mod index;
pub mod info;
pub mod kept;
pub mod listing;
pub mod log;
pub mod memory;
pub mod menu;
pub mod operators;
pub mod publish;
pub mod replication;
pub mod reply;
pub mod rest;
pub mod timers;

use crate::codec;
use crate::engine::{self, Code, Command, Context, DecisionReply, Record, Rejection};
use crate::view::View;
use args::Args;
use data_type::Stored;
use ffi::{Aside, Ctx, Key, LogLevel, Slot, Unavailable};
use index::Entry;
use kept::{Kept, Question};
use publish::Announcement;
use redis_module::{RedisResult, RedisString, RedisValue, Status};
use std::cell::Cell;
use std::ffi::CStr;

/// Why a command is not carried out.
#[derive(Debug)]
pub enum Refusal {
    /// The server's own complaint about the number of arguments.
    Arity,
    Rejected(Rejection),
    /// Nothing that the caller could do better.
    Internal(String),
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Refusal {
        Refusal::Rejected(rejection)
    }
}

impl Refusal {
    fn code(&self) -> Code {
        match self {
            Refusal::Arity | Refusal::Internal(_) => Code::Err,
            Refusal::Rejected(rejection) => rejection.code(),
        }
    }
}

/// The reply was sent: what a handler ends with, so that none can forget it.
pub struct Answered(());

/// One call of a command.
pub struct Call {
    ctx: Ctx,
    answered: Cell<bool>,
}

impl Call {
    pub fn ctx(&self) -> Ctx {
        self.ctx
    }

    /// Replies a view, as one JSON string where that was asked for.
    pub fn reply_view(&self, view: &View, json: bool) -> Answered {
        if json {
            let text = view.to_json();
            self.answered.set(true);
            self.ctx.reply_bytes(text.as_bytes());
        } else {
            self.answered.set(true);
            reply::view(self.ctx, view);
        }
        Answered(())
    }

    /// Replies a page for a person's eyes, line by line.
    pub fn reply_page(&self, lines: &[String]) -> Answered {
        self.answered.set(true);
        reply::page(self.ctx, lines);
        Answered(())
    }

    /// Replies an array of lines.
    pub fn reply_lines(&self, lines: &[String]) -> Answered {
        self.answered.set(true);
        reply::lines(self.ctx, lines);
        Answered(())
    }

    pub fn reply_int(&self, number: i64) -> Answered {
        self.answered.set(true);
        self.ctx.reply_int(number);
        Answered(())
    }

    /// Replies what the engine answered.
    fn reply_decided(&self, reply: &DecisionReply) -> Answered {
        match reply {
            DecisionReply::Receipt(receipt) => self.reply_view(&crate::view::receipt(receipt), false),
            DecisionReply::Changed(changed) => self.reply_int(i64::from(*changed)),
            DecisionReply::Nothing => self.reply_view(&View::Null, false),
        }
    }
}

pub type Handler = fn(&Call, Args) -> Result<Answered, Refusal>;

/// The door of every command: the guard, the reply to a refusal, and the count of refusals.
pub fn serve(context: &redis_module::Context, argv: &[RedisString], handler: Handler) -> RedisResult {
    let call = Call { ctx: Ctx::of(context), answered: Cell::new(false) };
    match guard::guard("a command", || handler(&call, Args::new(argv.get(1..).unwrap_or_default()))) {
        Ok(Ok(Answered(()))) => {}
        Ok(Err(refusal)) => {
            // A tick of a key that has gone meanwhile is refused as well, but nobody was told.
            if !timers::is_ticking() {
                info::count_refusal(refusal.code());
            }
            reply::refusal(call.ctx, &refusal);
        }
        Err(guard::Panicked) => {
            info::count_refusal(Code::Err);
            // A second reply to one command would be taken for the reply to the next.
            if !call.answered.get() {
                call.ctx.reply_error(reply::INTERNAL);
            }
        }
    }
    Ok(RedisValue::NoReply)
}

// ---- reading ---------------------------------------------------------------------------------------------------------

/// A key as the engine knows it: UTF-8, and not empty. A key that is neither is no deployment's (rule 8 "Codes").
fn key_text(key: &RedisString) -> Option<&str> {
    std::str::from_utf8(key.as_slice()).ok().filter(|text| !text.is_empty())
}

fn no_such_key(key: &RedisString) -> Rejection {
    Rejection::NoSuchKey(key.to_string_lossy())
}

/// The record at an open key, None where there is none.
fn record_at(key: &mut Key) -> Result<Option<&Record>, Rejection> {
    key.wake();
    match key.slot() {
        Slot::Empty => Ok(None),
        Slot::Foreign => Err(Rejection::WrongType),
        Slot::Ours(Stored::Record(record)) => Ok(Some(record)),
        Slot::Ours(Stored::AtRest(_) | Stored::Opaque { .. }) => Err(Rejection::ReadOnlyRecord),
    }
}

/// A reading command: replies what `shape` makes of the key's record.
pub fn read(
    call: &Call,
    key: &RedisString,
    json: bool,
    shape: impl for<'r> FnOnce(&'r Record, &'r str) -> Result<View<'r>, Rejection>,
) -> Result<Answered, Refusal> {
    at_record(call, key, |record, name| Ok(call.reply_view(&shape(record, name)?, json)))
}

/// Answers with what is at a key; refuses where that is no record.
fn at_record(
    call: &Call,
    key: &RedisString,
    answer: impl FnOnce(&Record, &str) -> Result<Answered, Refusal>,
) -> Result<Answered, Refusal> {
    at_open(&mut Key::read(call.ctx(), key), key, answer)
}

fn at_open(
    open: &mut Key,
    key: &RedisString,
    answer: impl FnOnce(&Record, &str) -> Result<Answered, Refusal>,
) -> Result<Answered, Refusal> {
    let (Some(record), Some(name)) = (record_at(open)?, key_text(key)) else { return Err(no_such_key(key).into()) };
    answer(record, name)
}

/// A reading command whose reply has as many entries as `extent` says: a large one is written beside.
pub fn read_at_length(
    call: &Call,
    key: &RedisString,
    json: bool,
    extent: impl FnOnce(&Record) -> usize,
    shape: impl for<'r> FnOnce(&'r Record, &'r str) -> Result<View<'r>, Rejection> + Send + 'static,
) -> Result<Answered, Refusal> {
    answer_at_length(call, &mut Key::read(call.ctx(), key), key, json, extent, shape)
}

fn answer_at_length(
    call: &Call,
    open: &mut Key,
    key: &RedisString,
    json: bool,
    extent: impl FnOnce(&Record) -> usize,
    shape: impl for<'r> FnOnce(&'r Record, &'r str) -> Result<View<'r>, Rejection> + Send + 'static,
) -> Result<Answered, Refusal> {
    at_open(open, key, |record, name| {
        if extent(record) >= aside::LARGE {
            if let Some(caller) = Aside::begin(call.ctx) {
                call.answered.set(true);
                aside::reply_aside(caller, record.clone(), name.to_string(), json, shape);
                return Ok(Answered(()));
            }
        }
        Ok(call.reply_view(&shape(record, name)?, json))
    })
}

/// The same, of a question that is asked again and again: the reply may be one that was kept. `words` are all that the
/// reply depends on beside the record, the key first.
///
/// In a script or a transaction nothing new is kept: what is called there counts for what called it.
pub fn read_often(
    call: &Call,
    command: &CStr,
    words: &[RedisString],
    extent: impl Fn(&Record) -> usize,
    shape: impl for<'r> FnOnce(&'r Record, &'r str) -> Result<View<'r>, Rejection> + Send + 'static,
) -> Result<Answered, Refusal> {
    let (ctx, key) = (call.ctx(), words.first().ok_or(Refusal::Arity)?);
    if kept::is_making() {
        // Here it has been looked at already, and counted.
        return answer_at_length(call, &mut Key::peek(ctx, key), key, false, |_| 0, shape);
    }
    let mut open = Key::read(ctx, key);
    let flags = ctx.flags();
    let question = Question { words, is_resp3: flags.is_resp3() };
    let Some(kept) = open.kept() else { return answer_at_length(call, &mut open, key, false, extent, shape) };
    if kept.find(&question).is_some_and(|reply| ctx.reply_again(reply)) {
        call.answered.set(true);
        return Ok(Answered(()));
    }
    let is_again = !flags.denies_blocking() && kept.is_asked_again(&question);
    if is_again && record_at(&mut open)?.is_some_and(|record| extent(record) < aside::LARGE) {
        // Nothing is held open while the server runs another command.
        drop(open);
        let made = kept::make(ctx, command, &question);
        open = Key::peek(ctx, key);
        match (made, open.kept()) {
            (Some(reply), Some(kept)) if ctx.reply_again(&reply) => {
                call.answered.set(true);
                kept.keep(&question, reply);
                return Ok(Answered(()));
            }
            (_, kept) => kept.into_iter().for_each(Kept::give_up),
        }
    }
    answer_at_length(call, &mut open, key, false, extent, shape)
}

/// The same for a person's eyes.
pub fn read_page(
    call: &Call,
    key: &RedisString,
    page: impl FnOnce(&Record, &str) -> Vec<String>,
) -> Result<Answered, Refusal> {
    at_record(call, key, |record, name| Ok(call.reply_page(&page(record, name))))
}

/// Asks the engine something about a key and the present time, without changing anything.
fn ask<T>(
    ctx: Ctx,
    key: &RedisString,
    question: impl FnOnce(Option<&Record>, &Context) -> Result<T, Rejection>,
) -> Result<T, Rejection> {
    let mut open = Key::read(ctx, key);
    let record = record_at(&mut open)?;
    let name = key_text(key).ok_or_else(|| no_such_key(key))?;
    let by = caller(ctx);
    question(record, &Context { key: name, now_ms: clock::now(ctx), by: &by, limits: config::limits() })
}

/// The ACL user on whose behalf this runs.
fn caller(ctx: Ctx) -> String {
    ctx.user_name().map_or_else(|| "default".to_string(), |name| name.to_string_lossy())
}

// ---- the one write path ----------------------------------------------------------------------------------------------

/// What came of a command.
pub struct Outcome {
    pub reply: DecisionReply,
    pub changed: bool,
}

/// Decides a command and carries the decision out. Refused, or without effect, it leaves no trace.
///
/// The record is changed where it hangs. The key is opened for reading all the same: one that is opened for writing
/// counts as changed when it closes, for WATCH and for the caches of clients, and most reports say nothing new.
pub fn change(ctx: Ctx, key: &RedisString, command: &Command) -> Result<Outcome, Refusal> {
    let mut open = Key::read(ctx, key);
    record_at(&mut open)?;
    let name = key_text(key).ok_or_else(|| no_such_key(key))?;
    // Not every change has somebody's name on it, and on Redis 7.0 the question is dear.
    let by = if command.has_author() { caller(ctx) } else { String::new() };
    let context = Context { key: name, now_ms: clock::now(ctx), by: &by, limits: config::limits() };

    let mut fresh = None;
    let record = match open.record_mut() {
        Some(record) => record,
        None => fresh.insert(codec::empty_record()),
    };
    let committed = commit(ctx, key, record, command, &context);
    if !matches!(committed, Ok((_, Some(_)))) {
        open.unchanged();
    }
    let (reply, announcement) = committed?;
    let Some(announcement) = announcement else { return Ok(Outcome { reply, changed: false }) };
    let is_new = fresh.is_some();
    if let Some(fresh) = fresh {
        drop(open);
        open = Key::write(ctx, key);
        if !open.put(Stored::Record(Box::new(fresh))) {
            ctx.log(LogLevel::Warning, &format!("the server did not store the record of key '{name}'"));
            return Err(Refusal::Internal("the server did not store the record".to_string()));
        }
    }
    if let Slot::Ours(stored) = open.slot() {
        let (db, entry) = (ctx.selected_db(), Entry::of(stored));
        blocking::changed(db, name, stored);
        index::set(db, name, entry);
        if entry.due().is_some() {
            timers::arm(ctx);
        }
        if entry.is_over() {
            open.stand_in_line();
        }
    }
    drop(open);
    if !is_new {
        ctx.signal_changed(key);
    }
    announcement.publish(ctx);
    ctx.notify(c"deploy.changed", key);
    Ok(Outcome { reply, changed: true })
}

/// Decides a command on the record, which is as it was where the command is refused or has no effect: then there is
/// nothing to announce.
fn commit(
    ctx: Ctx,
    key: &RedisString,
    record: &mut Record,
    command: &Command,
    context: &Context,
) -> Result<(DecisionReply, Option<Announcement>), Refusal> {
    let pending = engine::decide_in_place(record, command, context)?;
    if pending.batch.changes.is_empty() {
        return Ok((pending.reply, None));
    }
    // All that costs or could fail comes before the commitment. Replicating is the first step of all, because the server
    // may refuse it: it does where DEPLOY.APPLY was renamed. It only queues what is sent when the command ends, so the
    // order against storing does not show.
    let payload = codec::encode_uncommitted(&pending);
    let announcement = Announcement::of(context.key, &pending.batch);
    if !ctx.replicate(replication::APPLY, key, &payload) {
        return Err(Refusal::Internal(
            "DEPLOY.APPLY, which replicates every change, was renamed or removed".to_string(),
        ));
    }
    Ok((pending.commit(), Some(announcement)))
}

// ---- loading ---------------------------------------------------------------------------------------------------------

/// What OnLoad does beside registering the type and the commands.
pub fn init(context: &redis_module::Context, args: &[RedisString]) -> Status {
    let ctx = Ctx::of(context);
    guard::install();
    match guard::guard("loading the module", || set_up(ctx, args)) {
        Ok(Ok(())) => Status::Ok,
        Ok(Err(Unavailable)) | Err(guard::Panicked) => Status::Err,
    }
}

fn set_up(ctx: Ctx, args: &[RedisString]) -> Result<(), Unavailable> {
    ffi::set_options(ctx);
    menu::describe(ctx)?;
    config::register(ctx, args)?;
    ffi::register_info(ctx);
    ffi::subscribe_to_server(ctx)?;
    home_db::listen(ctx)?;
    // Last: a timer of a module that did not load would fire into nothing.
    timers::start(ctx);
    ctx.log(LogLevel::Notice, &format!("version {}: {}", env!("CARGO_PKG_VERSION"), config::summary()));
    Ok(())
}
