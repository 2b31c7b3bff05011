//! Commands for callers of the agents (rule 3): who answers where.

use super::args::{self, unknown, Args};
use super::{aside, read_often, Answered, Call, Refusal};
use crate::view::{self, ResolveFilter, RoleFilter};
use std::ffi::CStr;

const RESOLVE: &CStr = c"DEPLOY.RESOLVE";

pub fn resolve(call: &Call, mut args: Args) -> Result<Answered, Refusal> {
    let words = args.words();
    args.key()?;
    let (mut service, mut tag, mut role, mut all, mut json) = (None, None, RoleFilter::default(), false, false);
    while let Some(option) = args.option()? {
        match &*option {
            b"SERVICE" => service = args.value_name("SERVICE", args::SERVICE_MAX)?,
            b"TAG" => tag = args.value_name("TAG", args::TAG_MAX)?,
            b"ROLE" => role = args.value_word("ROLE", RoleFilter::parse, "primary, canary, candidate, any")?,
            b"ALL" => all = true,
            b"JSON" => json = args.last_json()?,
            _ => return Err(unknown(&option)),
        }
    }
    let filter = ResolveFilter { service, tag, role, all };
    let admitted = filter.clone();
    read_often(
        call,
        RESOLVE,
        words,
        |record| view::count_resolved(record, &admitted, aside::LARGE),
        move |record, name| {
            // A JSON text is written at once, and replied as it is.
            Ok(match json {
                true => view::resolve_json(record, name, &filter),
                false => view::resolve(record, name, &filter),
            })
        },
    )
}
