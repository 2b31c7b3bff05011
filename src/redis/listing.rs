//! DEPLOY.LIST: the deployments of the selected database, page by page, from the index.

use super::args::{self, syntax, unknown, Args};
use super::data_type::Stored;
use super::ffi::{Ctx, Key, Rights, Slot};
use super::glob::matches;
use super::{index, Answered, Call, Refusal};
use crate::engine::deployment::Status;
use crate::engine::Summary;
use crate::view::{self, View};
use std::borrow::Cow;
use std::sync::Arc;

const STATUSES: &str = "running, awaiting_promotion, paused, successful, failed, cancelled, version_recorded";
const COUNT_DEFAULT: usize = 10;
/// How many keys one call looks at before it returns what it has: a filter that admits little must not keep the server.
const LOOKED_AT_MAX: usize = 1_000;

/// `0` begins and ends. Any other cursor holds the last key seen, so a page begins right after it, whatever came or
/// went meanwhile.
const START: &str = "0";
const AFTER: &str = "after:";

struct Filter {
    status: Option<Status>,
    glob: Option<Arc<str>>,
}

pub fn list(call: &Call, mut args: Args) -> Result<Answered, Refusal> {
    let mut filter = Filter { status: None, glob: None };
    let (mut cursor, mut count) = (None, COUNT_DEFAULT);
    while let Some(option) = args.option()? {
        match &*option {
            b"STATUS" => filter.status = Some(args.value_word("STATUS", Status::parse, STATUSES)?),
            b"MATCH" => filter.glob = args.value_text("MATCH", args::GLOB_MAX)?,
            b"CURSOR" => cursor = args.value_text("CURSOR", args::CURSOR_MAX)?,
            b"COUNT" => count = usize::try_from(args.value_positive("COUNT")?).unwrap_or(usize::MAX),
            _ => return Err(unknown(&option)),
        }
    }
    let after = match cursor.as_deref() {
        None | Some(START) => None,
        Some(cursor) => Some(cursor.strip_prefix(AFTER).ok_or_else(|| syntax("CURSOR is none that LIST gave"))?),
    };
    let (next, entries) = page(call.ctx(), after, count, &filter);
    let cursor = next.map_or(START.to_string(), |key| format!("{AFTER}{key}"));
    Ok(call.reply_view(&View::List(vec![View::Str(Cow::Owned(cursor)), View::List(entries)]), false))
}

/// One page, and the key after which the next one begins: None where this was the last.
fn page(ctx: Ctx, after: Option<&str>, count: usize, filter: &Filter) -> (Option<Arc<str>>, Vec<View<'static>>) {
    let db = ctx.selected_db();
    let rights = Rights::of_caller(ctx);
    let look_at = count.max(LOOKED_AT_MAX);
    // One more than is looked at tells whether anything follows.
    let keys = index::page(db, after, look_at.saturating_add(1));
    let mut entries = Vec::new();
    let mut last = None;
    for key in keys.iter().take(look_at) {
        if entries.len() >= count {
            return (last, entries);
        }
        if let Some(entry) = entry(ctx, db, key, &rights, filter) {
            entries.push(entry);
        }
        last = Some(key.clone());
    }
    let more = keys.len() > look_at;
    (last.filter(|_| more), entries)
}

/// The entry of one key. The index is a hint, so the key is opened and looked at.
fn entry(ctx: Ctx, db: i32, key: &Arc<str>, rights: &Rights, filter: &Filter) -> Option<View<'static>> {
    if filter.glob.as_ref().is_some_and(|glob| !matches(glob.as_bytes(), key.as_bytes())) {
        return None;
    }
    let name = ctx.string(key.as_bytes());
    if !rights.may_read(&name) {
        return None;
    }
    let open = Key::peek(ctx, &name);
    let summary = match open.slot() {
        Slot::Ours(Stored::Record(record)) => Summary::of(record)?,
        Slot::Ours(Stored::AtRest(rest)) => rest.summary()?,
        // A record that a newer module wrote has nothing that could be told here.
        Slot::Ours(Stored::Opaque { .. }) => return None,
        Slot::Empty | Slot::Foreign => {
            index::remove(db, key.as_bytes());
            return None;
        }
    };
    // Many keys are opened one after another, and are replied together.
    let is_wanted = filter.status.is_none_or(|wanted| wanted == summary.status);
    is_wanted.then(|| view::list_entry(&summary, key).into_owned())
}
