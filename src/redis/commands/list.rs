//! DEPLOY.LIST: the deployments of the selected database, page by page, from the index.

use crate::engine::deployment::{Deployment, Status};
use crate::engine::Summary;
use crate::redis::args::{self, syntax, unknown, Args};
use crate::redis::call::Call;
use crate::redis::error::CommandError;
use crate::redis::ffi::{Ctx, KeyValue, RString, Rights};
use crate::redis::glob::matches;
use crate::redis::index;
use crate::redis::record_key::Key;
use crate::redis::reply::Answered;
use crate::redis::stored::Stored;
use crate::view;
use std::sync::Arc;

const STATUSES: &str = "running, awaiting_promotion, paused, successful, failed, cancelled, version_recorded";
const COUNT_DEFAULT: usize = 10;
/// The most keys that one call visits before it returns: a filter that admits few must not block the server.
const MAX_VISITED: usize = 1_000;

/// The cursor that starts and ends a listing. Any other cursor holds the last key seen, so that a page starts right
/// after it, whatever was added or removed meanwhile.
const START: &str = "0";
const AFTER: &str = "after:";

struct Filter {
    /// Empty for all.
    statuses: Vec<Status>,
    glob: Option<Arc<str>>,
}

pub fn list(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let mut filter = Filter { statuses: Vec::new(), glob: None };
    let (mut cursor, mut count, mut json) = (None, COUNT_DEFAULT, false);
    while let Some(option) = args.option()? {
        match &*option {
            b"STATUS" => filter.statuses = args.value_words("STATUS", Status::parse, STATUSES)?,
            b"MATCH" => filter.glob = args.value_text("MATCH", args::GLOB_MAX)?,
            // It has a key, and a key may have any length: RENAME and RESTORE make it.
            b"CURSOR" => cursor = args.value_text("CURSOR", usize::MAX)?,
            b"COUNT" => count = usize::try_from(args.value_positive("COUNT")?).unwrap_or(usize::MAX),
            b"JSON" => json = args.last_json()?,
            _ => return Err(unknown(&option)),
        }
    }
    let after = match cursor.as_deref() {
        None | Some(START) => None,
        Some(cursor) => Some(cursor.strip_prefix(AFTER).ok_or_else(|| syntax("CURSOR is none that LIST gave"))?),
    };
    let (next, entries) = page(call.ctx(), after, count, &filter);
    let cursor = next.map_or(START.to_string(), |key| format!("{AFTER}{key}"));
    let entries: Vec<_> = entries.iter().map(|(key, summary, d)| view::list_entry(summary, d, key)).collect();
    Ok(call.reply(&(cursor, entries), json))
}

/// A key with the summary of its record, and its deployment.
type Listed = (Arc<str>, Summary, Arc<Deployment>);

/// Returns one page, and the key after which the next one starts: None where this is the last.
fn page(ctx: Ctx, after: Option<&str>, count: usize, filter: &Filter) -> (Option<Arc<str>>, Vec<Listed>) {
    let db = ctx.selected_db();
    let rights = Rights::of_caller(ctx);
    let max_visited = count.max(MAX_VISITED);
    // One key more than is visited tells if any follow.
    let keys = index::page(db, after, max_visited.saturating_add(1));
    let mut entries = Vec::new();
    let mut last = None;
    for key in keys.iter().take(max_visited) {
        if entries.len() >= count {
            return (last, entries);
        }
        if let Some(entry) = entry(ctx, db, key, &rights, filter) {
            entries.push(entry);
        }
        last = Some(key.clone());
    }
    let more = keys.len() > max_visited;
    (last.filter(|_| more), entries)
}

/// Returns the entry of one key. The index is a hint, so the key is opened.
fn entry(ctx: Ctx, db: i32, key: &Arc<str>, rights: &Rights, filter: &Filter) -> Option<Listed> {
    if filter.glob.as_ref().is_some_and(|glob| !matches(glob.as_bytes(), key.as_bytes())) {
        return None;
    }
    let name = RString::new(key.as_bytes());
    if !rights.may_read(&name) {
        return None;
    }
    let open = Key::peek(ctx, &name);
    let is_wanted = |summary: &Summary| filter.statuses.is_empty() || filter.statuses.contains(&summary.status);
    let (summary, deployment) = match open.stored() {
        KeyValue::Ours(Stored::Record(record)) => {
            (Summary::of(record).filter(is_wanted)?, record.deployment.as_ref().map(Arc::clone)?)
        }
        KeyValue::Ours(Stored::Encoded(encoded)) => {
            (encoded.summary().filter(is_wanted)?, encoded.header()?.deployment?)
        }
        // A read-only record has no summary.
        KeyValue::Ours(Stored::Opaque { .. }) => return None,
        KeyValue::Empty | KeyValue::Foreign => {
            index::remove(db, key.as_bytes());
            return None;
        }
    };
    Some((key.clone(), summary, deployment))
}
