//! Commands for callers of the agents (rule 3): the addresses of their services.

use crate::engine::Record;
use crate::redis::args::{self, unknown, Args};
use crate::redis::background::BACKGROUND_MIN_ENTRIES;
use crate::redis::call::Call;
use crate::redis::error::CommandError;
use crate::redis::read_path::read_large;
use crate::redis::reply::Answered;
use crate::view::{self, ResolveFilter, RoleFilter};

/// `DEPLOY.RESOLVE key [SERVICE name] [TAG tag] [ROLE role] [ALL] [JSON]`
pub fn resolve(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let key = args.key()?;
    let (mut service, mut tag, mut role, mut all, mut json) = (None, None, RoleFilter::default(), false, false);
    while let Some(option) = args.option()? {
        match &*option {
            b"SERVICE" => service = args.value_name("SERVICE", args::SERVICE_MAX)?,
            b"TAG" => tag = args.value_name("TAG", args::TAG_MAX)?,
            b"ROLE" => {
                role = args.value_word("ROLE", RoleFilter::parse, "primary, canary, candidate, draining, any")?
            }
            b"ALL" => all = true,
            b"JSON" => json = args.last_json()?,
            _ => return Err(unknown(&option)),
        }
    }
    let filter = ResolveFilter { service, tag, role, all };
    let admitted = filter.clone();
    let size = |record: &Record| view::count_resolved(record, &admitted, BACKGROUND_MIN_ENTRIES);
    read_large(call, key, json, size, move |record, name, reply| reply.write(&view::resolve(record, name, &filter)))
}
