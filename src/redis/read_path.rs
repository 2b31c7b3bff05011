//! The read path: opens a key, and replies a shape of its record.

use super::background::{self, BACKGROUND_MIN_ENTRIES};
use super::call::Call;
use super::error::CommandError;
use super::ffi::{catch_panic, Ctx, DeferredClient, Panicked, RStr};
use super::record_key::{key_name, no_such_key, Key};
use super::reply::{self, Answered, ReplyWriter};
use super::{clock, config};
use crate::engine::{Context, Record, Rejection};
use std::cell::Cell;

/// Calls `answer` with the record at an open key and the key's name.
///
/// # Errors
/// `NOTFOUND` where there is no key; see [`Key::record`].
pub fn with_open_record<T>(
    open: &mut Key,
    key: &RStr,
    answer: impl FnOnce(&Record, &str) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let (Some(record), Some(name)) = (open.record()?, key_name(key)) else { return Err(no_such_key(key).into()) };
    answer(record, name)
}

/// Calls `answer` with the record at a key.
pub fn with_record(
    call: &Call,
    key: &RStr,
    answer: impl FnOnce(&Record, &str) -> Result<Answered, CommandError>,
) -> Result<Answered, CommandError> {
    with_open_record(&mut Key::read(call.ctx(), key), key, answer)
}

/// Replies a key's record: `answer` writes the reply.
pub fn read(
    call: &Call,
    key: &RStr,
    json: bool,
    answer: impl FnOnce(&Record, &str, ReplyWriter) -> Result<Answered, Rejection>,
) -> Result<Answered, CommandError> {
    with_record(call, key, |record, name| Ok(answer(record, name, call.writer(json))?))
}

/// Like [`read`], for a reply with as many entries as `size` returns, unless it rejects the command: a large one is
/// written in the background, from a copy of the record, whose texts are shared. In a transaction or a script, where
/// nobody can be blocked, and for a client with CLIENT TRACKING, it is written at once.
pub fn read_large(
    call: &Call,
    key: &RStr,
    json: bool,
    size: impl FnOnce(&Record) -> Result<usize, Rejection>,
    answer: impl FnOnce(&Record, &str, ReplyWriter) -> Answered + Send + 'static,
) -> Result<Answered, CommandError> {
    with_record(call, key, |record, name| {
        // A client that tracks its keys is told of a change when it happens: a reply that is written later would be
        // taken for the news.
        if size(record)? >= BACKGROUND_MIN_ENTRIES && !call.ctx().client_tracks_keys() {
            if let Some(client) = DeferredClient::block(call.ctx()) {
                let (record, name) = (record.clone(), name.to_string());
                return Ok(call.reply_by(|_| reply_in_background(client, record, name, json, answer)));
            }
        }
        Ok(answer(record, name, call.writer(json)))
    })
}

/// Replies to a blocked client on the background thread.
fn reply_in_background(
    client: DeferredClient,
    record: Record,
    name: String,
    json: bool,
    answer: impl FnOnce(&Record, &str, ReplyWriter) -> Answered + Send + 'static,
) {
    background::run(move || {
        let ctx = client.ctx();
        let replied = Cell::new(false);
        match catch_panic("a large reply", || answer(&record, &name, ReplyWriter::new(ctx, json, &replied))) {
            Ok(Answered { .. }) => {}
            Err(Panicked) => reply::after_panic(ctx, replied.get()),
        }
        drop(client);
    });
}

/// Asks the engine about a key at the present time, without changing anything.
pub fn query<T>(
    ctx: Ctx,
    key: &RStr,
    question: impl FnOnce(Option<&Record>, &Context) -> Result<T, Rejection>,
) -> Result<T, Rejection> {
    let mut open = Key::read(ctx, key);
    let record = open.record()?;
    let name = key_name(key).ok_or_else(|| no_such_key(key))?;
    let by = acl_user(ctx);
    question(record, &Context { key: name, now_ms: clock::now(ctx), by: &by, limits: config::limits() })
}

/// Returns the name of the ACL user on whose behalf this runs.
pub fn acl_user(ctx: Ctx) -> String {
    ctx.user_name().map_or_else(|| "default".to_string(), |name| name.to_string_lossy())
}
