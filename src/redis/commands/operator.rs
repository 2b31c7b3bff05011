//! Commands for operators (rule 3): they start, control, end and show deployments.

use crate::engine::command::{Deploy, EndDrains, Operate, Rollback, RollbackTo};
use crate::engine::policy::PolicyPatch;
use crate::engine::time::MAX_WAIT_MS;
use crate::engine::{plan as plan_deploy, Command, Record};
use crate::redis::args::{self, syntax, unknown, Args};
use crate::redis::call::Call;
use crate::redis::error::CommandError;
use crate::redis::ffi::RStr;
use crate::redis::read_path::{query, read, read_large};
use crate::redis::reply::Answered;
use crate::redis::write_path::change_and_reply;
use crate::view;

pub fn deploy(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.deployable_key()?;
    let (deploy, _) = deploy_options(&mut args, false)?;
    change_and_reply(call, key, &Command::Deploy(deploy))
}

pub fn plan(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.deployable_key()?;
    let (deploy, json) = deploy_options(&mut args, true)?;
    let plan = query(call.ctx(), key, |record, context| plan_deploy(record, &deploy, context))?;
    Ok(call.reply(&view::plan(&plan), json))
}

fn deploy_options(args: &mut Args, takes_json: bool) -> Result<(Deploy, bool), CommandError> {
    let mut deploy = Deploy::default();
    let mut manifest = None;
    let mut json = false;
    while let Some(option) = args.option()? {
        match &*option {
            // The engine validates length, encoding and content, and reports all violations at once.
            b"MANIFEST" => manifest = Some(args.value("MANIFEST")?.to_vec()),
            b"BUNDLE" => deploy.bundle = args.value_text("BUNDLE", args::BUNDLE_MAX)?,
            b"JOB" => deploy.job = args.value_name("JOB", args::JOB_MAX)?,
            b"AGENTS" => deploy.agents = Some(args.value_names("AGENTS", 1, usize::MAX, args::AGENT_MAX)?),
            b"TAG" => deploy.tag = args.value_name("TAG", args::TAG_MAX)?,
            b"REASON" => deploy.reason = args.value_text("REASON", args::REASON_MAX)?,
            b"REQUEST" => deploy.request = args.value_name("REQUEST", args::REQUEST_MAX)?,
            b"IFVERSION" => deploy.if_version = Some(args.value_number("IFVERSION")?),
            b"JSON" if takes_json => json = args.last_json()?,
            _ if args.policy(&option, &mut deploy.policy)? => {}
            _ => return Err(unknown(&option)),
        }
    }
    deploy.manifest = manifest.ok_or_else(|| syntax("MANIFEST is missing"))?;
    Ok((deploy, json))
}

pub fn rollback(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.bounded_key()?;
    let mut to = RollbackTo::NewestStable;
    let (mut id, mut reason, mut request) = (None, None, None);
    let mut policy = PolicyPatch::default();
    while let Some(option) = args.option()? {
        match &*option {
            b"VERSION" | b"TAG" if to != RollbackTo::NewestStable => {
                return Err(syntax("VERSION and TAG exclude each other"));
            }
            b"VERSION" => to = RollbackTo::Version(args.value_positive("VERSION")?),
            b"TAG" => {
                if let Some(tag) = args.value_name("TAG", args::TAG_MAX)? {
                    to = RollbackTo::Tag(tag);
                }
            }
            b"ID" => id = args.value_name("ID", args::DEPLOYMENT_ID_MAX)?,
            b"REASON" => reason = args.value_text("REASON", args::REASON_MAX)?,
            b"REQUEST" => request = args.value_name("REQUEST", args::REQUEST_MAX)?,
            _ if args.policy(&option, &mut policy)? => {}
            _ => return Err(unknown(&option)),
        }
    }
    change_and_reply(call, key, &Command::Rollback(Rollback { to, id, reason, request, policy }))
}

/// Parses the arguments that PAUSE, RESUME and FAIL share.
fn operate(call: &Call, args: Args, command: fn(Operate) -> Command) -> Result<Answered, CommandError> {
    let (key, options, _) = operate_options(args, None)?;
    change_and_reply(call, key, &command(options))
}

/// Parses the key and the options that operators' commands share, and a flag that one of them may have besides: whether
/// it is given.
fn operate_options<'a>(mut args: Args<'a>, flag: Option<&[u8]>) -> Result<(&'a RStr, Operate, bool), CommandError> {
    let key = args.key()?;
    let (mut options, mut is_given) = (Operate::default(), false);
    while let Some(option) = args.option()? {
        if flag.is_some_and(|flag| *option == *flag) {
            is_given = true;
        } else if !operate_option(&mut args, &option, &mut options)? {
            return Err(unknown(&option));
        }
    }
    Ok((key, options, is_given))
}

/// Parses the options that operators' commands share. Returns false for another one.
fn operate_option(args: &mut Args, option: &[u8], to: &mut Operate) -> Result<bool, CommandError> {
    match option {
        b"ID" => to.id = args.value_name("ID", args::DEPLOYMENT_ID_MAX)?,
        b"REASON" => to.reason = args.value_text("REASON", args::REASON_MAX)?,
        _ => return Ok(false),
    }
    Ok(true)
}

pub fn promote(call: &Call, args: Args) -> Result<Answered, CommandError> {
    let (key, options, full) = operate_options(args, Some(b"FULL"))?;
    change_and_reply(call, key, &Command::Promote { options, full })
}

pub fn pause(call: &Call, args: Args) -> Result<Answered, CommandError> {
    operate(call, args, Command::Pause)
}

pub fn resume(call: &Call, args: Args) -> Result<Answered, CommandError> {
    operate(call, args, Command::Resume)
}

pub fn fail(call: &Call, args: Args) -> Result<Answered, CommandError> {
    operate(call, args, Command::Fail)
}

pub fn stop(call: &Call, args: Args) -> Result<Answered, CommandError> {
    let (key, options, now) = operate_options(args, Some(b"NOW"))?;
    change_and_reply(call, key, &Command::Stop { options, now })
}

pub fn drain(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let (mut version, mut ms, mut options) = (None, None, Operate::default());
    while let Some(option) = args.option()? {
        match &*option {
            b"VERSION" => version = Some(args.value_positive("VERSION")?),
            b"MS" | b"NOW" if ms.is_some() => return Err(syntax("MS and NOW exclude each other")),
            b"MS" => ms = Some(args.value_between("MS", 0, MAX_WAIT_MS)?),
            b"NOW" => ms = Some(0),
            _ if operate_option(&mut args, &option, &mut options)? => {}
            _ => return Err(unknown(&option)),
        }
    }
    let version = version.ok_or_else(|| syntax("VERSION is missing"))?;
    let ms = ms.ok_or_else(|| syntax("MS or NOW is missing"))?;
    let Operate { id, reason } = options;
    change_and_reply(call, key, &Command::Drain(EndDrains { version, ms, id, reason }))
}

pub fn tag(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let version = args.positive("version")?;
    let tag = args.name("tag", args::TAG_MAX)?;
    args.end()?;
    change_and_reply(call, key, &Command::Tag { version, tag })
}

pub fn untag(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let tag = args.name("tag", args::TAG_MAX)?;
    args.end()?;
    change_and_reply(call, key, &Command::Untag { tag })
}

// ---- reading --------------------------------------------------------------------------------------------------------

pub fn status(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let json = args.only_json()?;
    let size = |record: &Record| Ok(record.instances.len() + record.services.len());
    read_large(call, key, json, size, |record, name, reply| reply.write(&view::status(record, name)))
}

pub fn history(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let (mut count, mut json) = (usize::MAX, false);
    while let Some(option) = args.option()? {
        match &*option {
            b"COUNT" => count = usize::try_from(args.value_positive("COUNT")?).unwrap_or(usize::MAX),
            b"JSON" => json = args.last_json()?,
            _ => return Err(unknown(&option)),
        }
    }
    read(call, key, json, |record, _, reply| Ok(reply.write(&view::history(record, count))))
}

pub fn version(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let number = args.positive("version")?;
    let json = args.only_json()?;
    read(call, key, json, |record, _, reply| Ok(reply.write(&view::version(record, number)?)))
}
