//! DEPLOY.WAIT and DEPLOY.EVENTS, which can block their caller.

use crate::engine::deployment::{Outcome, Status};
use crate::redis::args::{self, syntax, unknown, Args};
use crate::redis::blocked_clients::{block, wait_reply, Until, WaitCondition, DRAINED};
use crate::redis::call::Call;
use crate::redis::error::CommandError;
use crate::redis::read_path::with_open_record;
use crate::redis::record_key::{no_such_key, Key};
use crate::redis::reply::Answered;
use crate::redis::stored::DbKey;
use crate::view;
use std::sync::Arc;

/// The longest timeout, in ms: what the server accepts.
const MAX_TIMEOUT_MS: u64 = i64::MAX as u64 / 1_000_000;

fn timeout(option: &str, args: &mut Args) -> Result<i64, CommandError> {
    let ms = args.value_number(option)?;
    i64::try_from(ms).ok().filter(|_| ms <= MAX_TIMEOUT_MS).ok_or_else(|| syntax(format!("{option} is out of range")))
}

/// `DEPLOY.WAIT key [ID id] [UNTIL n status …] [TIMEOUT ms]`
pub fn wait(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let mut id = None;
    let mut until = Until::default();
    let mut timeout_ms = 0;
    while let Some(option) = args.option()? {
        match &*option {
            b"ID" => id = args.value_name("ID", args::DEPLOYMENT_ID_MAX)?,
            b"UNTIL" => {
                for word in args.value_names("UNTIL", 1, Status::ALL.len() + 2, args::TAG_MAX)? {
                    if !until.add(&word) {
                        let statuses = Status::ALL.map(Status::name).join(", ");
                        let known = format!("{statuses}, {}, {DRAINED}", Outcome::Completed.name());
                        return Err(args::not_one_of("UNTIL", &known, word.as_bytes()));
                    }
                }
            }
            b"TIMEOUT" => timeout_ms = timeout("TIMEOUT", &mut args)?,
            _ => return Err(unknown(&option)),
        }
    }
    let mut open = Key::read(call.ctx(), key);
    let db = open.db();
    with_open_record(&mut open, key, |record, name| {
        let Some(current) = &record.deployment else { return Err(no_such_key(key).into()) };
        let deployment_id = id.unwrap_or_else(|| current.id.clone());
        let key = DbKey { db, key: Arc::from(name) };
        match wait_reply(record, &key.key, &deployment_id, until)? {
            Some(view) => Ok(call.reply(&view, false)),
            None => {
                let condition = WaitCondition::Status { deployment_id, until };
                block(call, key, record, condition, timeout_ms, &())
            }
        }
    })
}

/// `DEPLOY.EVENTS key [AFTER revision] [COUNT n] [BLOCK ms]`
pub fn events(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let (mut after, mut count, mut block_ms) = (None, None, None);
    while let Some(option) = args.option()? {
        match &*option {
            b"AFTER" => after = Some(args.value_number("AFTER")?),
            b"COUNT" => count = Some(usize::try_from(args.value_positive("COUNT")?).unwrap_or(usize::MAX)),
            b"BLOCK" => block_ms = Some(timeout("BLOCK", &mut args)?),
            _ => return Err(unknown(&option)),
        }
    }
    let mut open = Key::read(call.ctx(), key);
    let db = open.db();
    with_open_record(&mut open, key, |record, name| {
        let page = view::events(record, name, after, count);
        // A caller whose AFTER is above the last revision has read another log, which has begun anew: it waits for
        // nothing, and is told so by the last revision (rule 3.4).
        let has_news = match after {
            Some(after) => record.revision != after,
            None => !record.log.is_empty(),
        };
        match block_ms {
            Some(timeout_ms) if !has_news => {
                let condition = WaitCondition::Events { after: record.revision, count };
                block(call, DbKey { db, key: Arc::from(name) }, record, condition, timeout_ms, &page)
            }
            _ => Ok(call.reply(&page, false)),
        }
    })
}
