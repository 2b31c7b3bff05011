//! Commands for coordinators (rule 3): open tasks, reports, services.

use crate::engine::command::{Check, Command, Register, Report, ReportedState};
use crate::engine::services::CheckStatus;
use crate::engine::time::MAX_DURATION_MS;
use crate::engine::Record;
use crate::redis::args::{self, syntax, unknown, Args};
use crate::redis::call::Call;
use crate::redis::error::CommandError;
use crate::redis::read_path::read_large;
use crate::redis::reply::Answered;
use crate::redis::write_path::change_and_reply;
use crate::view;

const STATES: &str = "starting, ready, unready, failed, stopped, completed, unsafe, draining, drained";
const STATUSES: &str = "passing, warning, critical";

pub fn tasks(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let json = args.only_json()?;
    let size = |record: &Record| Ok(record.instances.open_tasks());
    read_large(call, key, json, size, |record, _, reply| reply.write(&view::tasks(record)))
}

pub fn report(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let agent = args.name("agent", args::AGENT_MAX)?;
    let state = args.word("state", ReportedState::parse, STATES)?;
    let mut report = Report { agent, state, version: None, job: None, attempt: None, reason: None, sessions: None };
    while let Some(option) = args.option()? {
        match &*option {
            b"VERSION" => report.version = Some(args.value_positive("VERSION")?),
            b"JOB" => report.job = args.value_name("JOB", args::JOB_ID_MAX)?,
            b"ATTEMPT" => {
                let attempt = args.value_up_to("ATTEMPT", u64::from(u32::MAX))?;
                report.attempt = u32::try_from(attempt).ok();
            }
            b"REASON" => report.reason = args.value_text("REASON", args::REASON_MAX)?,
            b"SESSIONS" => report.sessions = Some(sessions(&mut args)?),
            _ => return Err(unknown(&option)),
        }
    }
    change_and_reply(call, key, &Command::Report(report))
}

fn sessions(args: &mut Args) -> Result<u32, CommandError> {
    let sessions = args.value_between("SESSIONS", 0, u64::from(u32::MAX))?;
    Ok(u32::try_from(sessions).unwrap_or(u32::MAX))
}

pub fn register(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let agent = args.name("agent", args::AGENT_MAX)?;
    let service = args.name("service", args::SERVICE_MAX)?;
    let (mut instance, mut address, mut port) = (None, None, None);
    let (mut version, mut job, mut ttl_ms, mut meta, mut reason) = (None, None, None, None, None);
    let (mut status, mut tags) = (CheckStatus::Passing, Vec::new());
    while let Some(option) = args.option()? {
        match &*option {
            b"INSTANCE" => instance = args.value_name("INSTANCE", args::INSTANCE_MAX)?,
            b"ADDRESS" => address = args.value_name("ADDRESS", args::ADDRESS_MAX)?,
            b"PORT" => port = u16::try_from(args.value_up_to("PORT", u64::from(u16::MAX))?).ok(),
            b"VERSION" => version = Some(args.value_positive("VERSION")?),
            b"JOB" => job = args.value_name("JOB", args::JOB_ID_MAX)?,
            b"STATUS" => status = args.value_word("STATUS", CheckStatus::parse, STATUSES)?,
            b"TTL" => ttl_ms = Some(args.value_up_to("TTL", MAX_DURATION_MS)?),
            b"TAGS" => tags = args.value_names("TAGS", 0, args::TAGS_MAX, args::TAG_MAX)?,
            b"META" => meta = args.value_name("META", args::META_MAX)?,
            b"REASON" => reason = args.value_text("REASON", args::REASON_MAX)?,
            _ => return Err(unknown(&option)),
        }
    }
    let missing = |option: &str| syntax(format!("{option} is missing"));
    let register = Register {
        agent,
        service,
        instance: instance.ok_or_else(|| missing("INSTANCE"))?,
        address: address.ok_or_else(|| missing("ADDRESS"))?,
        port: port.ok_or_else(|| missing("PORT"))?,
        version,
        job,
        status,
        ttl_ms,
        tags,
        meta,
        reason,
    };
    change_and_reply(call, key, &Command::Register(register))
}

pub fn check(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let instance = args.name("instance-id", args::INSTANCE_MAX)?;
    let status = args.word("status", CheckStatus::parse, STATUSES)?;
    let (mut reason, mut sessions) = (None, None);
    while let Some(option) = args.option()? {
        match &*option {
            b"REASON" => reason = args.value_text("REASON", args::REASON_MAX)?,
            b"SESSIONS" => sessions = Some(self::sessions(&mut args)?),
            _ => return Err(unknown(&option)),
        }
    }
    change_and_reply(call, key, &Command::Check(Check { instance, status, reason, sessions }))
}

pub fn deregister(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let instance = args.name("instance-id", args::INSTANCE_MAX)?;
    args.end()?;
    change_and_reply(call, key, &Command::Deregister { instance })
}
