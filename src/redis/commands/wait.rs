//! DEPLOY.WAIT and DEPLOY.EVENTS, which can block their caller.

use crate::engine::deployment::Status;
use crate::redis::args::{self, syntax, unknown, Args};
use crate::redis::blocked_clients::{block, is_satisfied, Statuses, WaitCondition};
use crate::redis::call::Call;
use crate::redis::error::CommandError;
use crate::redis::read_path::with_record;
use crate::redis::record_key::no_such_key;
use crate::redis::reply::Answered;
use crate::view;

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
    let mut until = Statuses::default();
    let mut timeout_ms = 0;
    while let Some(option) = args.option()? {
        match &*option {
            b"ID" => id = args.value_name("ID", args::DEPLOYMENT_ID_MAX)?,
            b"UNTIL" => {
                for word in args.value_names("UNTIL", 1, Status::ALL.len(), args::TAG_MAX)? {
                    let known = Status::ALL.map(Status::name).join(", ");
                    let status = Status::parse(&word);
                    until.add(status.ok_or_else(|| args::not_one_of("UNTIL", &known, word.as_bytes()))?);
                }
            }
            b"TIMEOUT" => timeout_ms = timeout("TIMEOUT", &mut args)?,
            _ => return Err(unknown(&option)),
        }
    }
    with_record(call, key, |record, name| {
        let Some(current) = &record.deployment else { return Err(no_such_key(key).into()) };
        let deployment_id = id.unwrap_or_else(|| current.id.clone());
        if is_satisfied(record, &deployment_id, until)? {
            return Ok(call.reply(&view::status_of(record, name, &deployment_id), false));
        }
        let seen = Some((current.id.clone(), current.status));
        block(call, name, WaitCondition::Status { deployment_id, until }, seen, timeout_ms, &())
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
    with_record(call, key, |record, name| {
        let page = view::events(record, name, after, count);
        let last_seen = after.unwrap_or(0);
        match block_ms {
            Some(timeout_ms) if record.revision <= last_seen || record.log.is_empty() => {
                let after = last_seen.max(record.revision);
                block(call, name, WaitCondition::Events { after, count }, None, timeout_ms, &page)
            }
            _ => Ok(call.reply(&page, false)),
        }
    })
}
