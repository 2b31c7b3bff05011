//! Commands for callers of the agents (rule 3): the addresses of their services.

use crate::engine::sessions::MAX_SESSION_ID_BYTES;
use crate::engine::Record;
use crate::redis::args::{self, syntax, unknown, Args};
use crate::redis::background::BACKGROUND_MIN_ENTRIES;
use crate::redis::call::Call;
use crate::redis::error::CommandError;
use crate::redis::read_path::read_large;
use crate::redis::reply::Answered;
use crate::view::{self, ResolveFilter, RoleFilter};

const ROLES: &str = "primary, canary, candidate, draining, standby, any";

/// `DEPLOY.RESOLVE key [SESSION id] [VERSION n] [SERVICE name] [TAG tag] [ROLE role] [ALL] [JSON]`
pub fn resolve(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let (mut filter, mut role, mut json) = (ResolveFilter::default(), None, false);
    while let Some(option) = args.option()? {
        match &*option {
            b"SESSION" => filter.session = Some(args.value_bytes("SESSION", MAX_SESSION_ID_BYTES)?.into()),
            b"VERSION" => filter.version = Some(args.value_positive("VERSION")?),
            b"SERVICE" => filter.service = args.value_name("SERVICE", args::SERVICE_MAX)?,
            b"TAG" => filter.tag = args.value_name("TAG", args::TAG_MAX)?,
            b"ROLE" => role = Some(args.value_word("ROLE", RoleFilter::parse, ROLES)?),
            b"ALL" => filter.all = true,
            b"JSON" => json = args.last_json()?,
            _ => return Err(unknown(&option)),
        }
    }
    match role {
        Some(_) if filter.session.is_some() => return Err(syntax("ROLE and SESSION exclude each other")),
        Some(_) if filter.version.is_some() => return Err(syntax("ROLE and VERSION exclude each other")),
        Some(role) => filter.role = role,
        None => {}
    }
    let admitted = filter.clone();
    let size = |record: &Record| view::count_resolved(record, &admitted, BACKGROUND_MIN_ENTRIES);
    read_large(call, key, json, size, move |record, name, reply| reply.write(&view::resolve(record, name, &filter)))
}
