//! The internal commands, DEPLOY.APPLY and DEPLOY.TICK; see [`replication`].

use crate::engine::Command;
use crate::redis::args::Args;
use crate::redis::call::Call;
use crate::redis::error::CommandError;
use crate::redis::ffi::{LogLevel, LogLimiter};
use crate::redis::reply::Answered;
use crate::redis::{keyspace, replication, timers, write_path};

static NOT_APPLIED_LOG: LogLimiter = LogLimiter::new();

/// `DEPLOY.APPLY key changes` and `DEPLOY.APPLY key RECORD record`
pub fn apply(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let payload = args.bytes()?;
    let record = match payload {
        word if word == replication::RECORD.to_bytes() => Some(args.bytes()?),
        _ => None,
    };
    args.end()?;
    let ctx = call.ctx();
    if !ctx.flags().is_replicated_or_loading() {
        let error = "DEPLOY.APPLY is internal: it is taken from the primary, the AOF or a slot migration only";
        return Err(CommandError::Internal(error.to_string()));
    }
    let outcome = match record {
        Some(record) => write_path::apply_record(ctx, key, record),
        None => write_path::apply(ctx, key, payload),
    };
    if let Err(CommandError::Internal(error)) = &outcome {
        // The server logs an error reply to its primary as critical, and one to its AOF not at all.
        let key = key.to_string_lossy();
        NOT_APPLIED_LOG.log(LogLevel::Warning, &format!("change of key '{key}' not applied: {error}"));
    }
    outcome?;
    // To this server's own AOF, and to its replicas.
    ctx.replicate_verbatim();
    Ok(call.reply_int(1))
}

/// `DEPLOY.TICK key`
pub fn tick(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    args.end()?;
    if !timers::is_ticking() {
        let error = "DEPLOY.TICK is internal: it is issued by the timer only";
        return Err(CommandError::Internal(error.to_string()));
    }
    let ctx = call.ctx();
    let db = ctx.selected_db();
    let outcome = write_path::change(ctx, key, &Command::Tick)?;
    if !outcome.changed {
        // The index may have been wrong about this key; if it was right, the tick is not repeated at once.
        keyspace::refresh(ctx, key);
        if let Ok(name) = std::str::from_utf8(key.as_slice()) {
            timers::postpone(db, name);
        }
    }
    Ok(call.reply_int(i64::from(outcome.changed)))
}
