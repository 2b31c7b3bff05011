//! Commands for operators (rule 3): they begin, judge and end deployments.

use super::args::{self, syntax, unknown, Args};
use super::{ask, change, key_text, menu, read, read_at_length, read_page, Answered, Call, Refusal};
use crate::engine::command::{Deploy, Operate, Rollback, RollbackTo};
use crate::engine::policy::PolicyPatch;
use crate::engine::{plan as plan_deploy, Command, Record, Rejection};
use crate::view;
use redis_module::RedisString;

fn decided(call: &Call, key: &RedisString, command: &Command) -> Result<Answered, Refusal> {
    let outcome = change(call.ctx(), key, command)?;
    Ok(call.reply_decided(&outcome.reply))
}

pub fn deploy(call: &Call, mut args: Args) -> Result<Answered, Refusal> {
    let key = deployable_key(&mut args)?;
    let (deploy, _) = deploy_options(&mut args, false)?;
    decided(call, key, &Command::Deploy(deploy))
}

pub fn plan(call: &Call, mut args: Args) -> Result<Answered, Refusal> {
    let key = deployable_key(&mut args)?;
    let (deploy, json) = deploy_options(&mut args, true)?;
    let plan = ask(call.ctx(), key, |record, context| plan_deploy(record, &deploy, context))?;
    Ok(call.reply_view(&view::plan(&plan), json))
}

/// A key at which a deployment may begin: its name goes into ids, events and channels, so it must be text.
fn deployable_key<'a>(args: &mut Args<'a>) -> Result<&'a RedisString, Refusal> {
    let key = args.key()?;
    match key_text(key) {
        Some(_) => Ok(key),
        None => Err(syntax("key must be UTF-8 and not empty")),
    }
}

fn deploy_options(args: &mut Args, takes_json: bool) -> Result<(Deploy, bool), Refusal> {
    let mut deploy = Deploy::default();
    let mut manifest = None;
    let mut json = false;
    while let Some(option) = args.option()? {
        match &*option {
            // Its length, encoding and content are judged by the engine, all faults at once.
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

pub fn rollback(call: &Call, mut args: Args) -> Result<Answered, Refusal> {
    let key = args.key()?;
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
    decided(call, key, &Command::Rollback(Rollback { to, id, reason, request, policy }))
}

/// PROMOTE, PAUSE, RESUME, FAIL and STOP take the same.
fn operate(call: &Call, mut args: Args, command: fn(Operate) -> Command) -> Result<Answered, Refusal> {
    let key = args.key()?;
    let mut operate = Operate::default();
    while let Some(option) = args.option()? {
        match &*option {
            b"ID" => operate.id = args.value_name("ID", args::DEPLOYMENT_ID_MAX)?,
            b"REASON" => operate.reason = args.value_text("REASON", args::REASON_MAX)?,
            _ => return Err(unknown(&option)),
        }
    }
    decided(call, key, &command(operate))
}

pub fn promote(call: &Call, args: Args) -> Result<Answered, Refusal> {
    operate(call, args, Command::Promote)
}

pub fn pause(call: &Call, args: Args) -> Result<Answered, Refusal> {
    operate(call, args, Command::Pause)
}

pub fn resume(call: &Call, args: Args) -> Result<Answered, Refusal> {
    operate(call, args, Command::Resume)
}

pub fn fail(call: &Call, args: Args) -> Result<Answered, Refusal> {
    operate(call, args, Command::Fail)
}

pub fn stop(call: &Call, args: Args) -> Result<Answered, Refusal> {
    operate(call, args, Command::Stop)
}

pub fn tag(call: &Call, mut args: Args) -> Result<Answered, Refusal> {
    let key = args.key()?;
    let version = args.positive("version")?;
    let tag = args.name("tag", args::TAG_MAX)?;
    args.end()?;
    decided(call, key, &Command::Tag { version, tag })
}

pub fn untag(call: &Call, mut args: Args) -> Result<Answered, Refusal> {
    let key = args.key()?;
    let tag = args.name("tag", args::TAG_MAX)?;
    args.end()?;
    decided(call, key, &Command::Untag { tag })
}

// ---- what they read --------------------------------------------------------------------------------------------------

pub fn status(call: &Call, mut args: Args) -> Result<Answered, Refusal> {
    let key = args.key()?;
    let json = args.only_json()?;
    let now = super::clock::now(call.ctx());
    let extent = |record: &Record| record.instances.len() + record.services.len();
    read_at_length(call, key, json, extent, move |record, name| Ok(view::status(record, name, now)))
}

pub fn show(call: &Call, mut args: Args) -> Result<Answered, Refusal> {
    let key = args.key()?;
    args.end()?;
    let now = super::clock::now(call.ctx());
    read_page(call, key, |record, name| view::show(record, name, now))
}

pub fn help(call: &Call, args: Args) -> Result<Answered, Refusal> {
    args.end()?;
    Ok(call.reply_lines(&menu::help()))
}

pub fn history(call: &Call, mut args: Args) -> Result<Answered, Refusal> {
    let key = args.key()?;
    let json = args.only_json()?;
    read(call, key, json, |record, _| Ok(view::history(record)))
}

pub fn version(call: &Call, mut args: Args) -> Result<Answered, Refusal> {
    let key = args.key()?;
    let number = args.positive("version")?;
    let json = args.only_json()?;
    read(call, key, json, |record, _| view::version(record, number).ok_or(Rejection::NoSuchVersion(number)))
}
