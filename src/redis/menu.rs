//! What the server tells about the commands: COMMAND INFO and DOCS, the keys they touch, ACL categories.
//!
//! A module's key is declared "read and write" unless somebody says better, which would refuse readers their reads.
//! `lib.rs` has the handlers and the flags; this table has the rest, and [`describe`] refuses to load where the two do
//! not know the same commands.

mod help;
mod syntax;

pub use help::help;
pub use syntax::{Argument, Kind};

use super::ffi::{self, Ctx, LogLevel, Unavailable};
use std::ffi::CStr;

/// What a command does with its key, the first argument: what key patterns of ACLs are held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It has none.
    None,
    Read,
    /// It changes the record. `replies` what the record holds, so that it takes the right to read as well; one that says
    /// no more than whether anything has changed does not, as SADD and HSET do not. `deletes`, or else updates: the
    /// server takes one of UPDATE and INSERT, and what DEPLOY does to a record that is there is more than an insertion.
    Write {
        replies: bool,
        deletes: bool,
    },
}

const OPERATES: Access = Access::Write { replies: true, deletes: false };
const UNNAMES: Access = Access::Write { replies: true, deletes: true };
const REPORTS: Access = Access::Write { replies: false, deletes: false };
const REMOVES: Access = Access::Write { replies: false, deletes: true };

pub struct CommandInfo {
    pub name: &'static CStr,
    pub access: Access,
    /// As Redis counts: with the command's name, negative for "at least". Keywords are not counted, also where they must
    /// be there: the complaint about a missing one can then name it.
    pub arity: i32,
    pub summary: &'static str,
    pub complexity: &'static str,
    /// Hints for clients.
    pub tips: &'static str,
    /// Further ACL categories: how long it takes, and whether it may block. The flags in `lib.rs` say the same.
    categories: &'static str,
    /// The arguments, as the README writes them. `name:a|b` is one of these words; a name in braces stands for what
    /// [`CommandInfo::written`] puts in its place.
    syntax: &'static str,
}

const SLOW: &str = "slow";
const FAST: &str = "fast";
const BLOCKING: &str = "slow blocking";

const SIZE: &str = "O(N) where N is the size of the record";
const CHANGE: &str = "O(N) where N is the number of agents and kept versions";

const fn row(
    name: &'static CStr,
    access: Access,
    arity: i32,
    complexity: &'static str,
    summary: &'static str,
    syntax: &'static str,
) -> CommandInfo {
    CommandInfo { name, access, arity, summary, complexity, tips: "", categories: SLOW, syntax }
}

#[rustfmt::skip]
pub static COMMANDS: &[CommandInfo] = &[
    row(c"DEPLOY.DEPLOY", OPERATES, -2, CHANGE, "Records the next version of an app and starts its deployment.",
        "key MANIFEST json [BUNDLE ref] [JOB job-id] [AGENTS n id...] [TAG tag] [REASON text] [REQUEST id] [IFVERSION n] {policy}"),
    row(c"DEPLOY.PLAN", Access::Read, -2, CHANGE, "Replies what DEPLOY.DEPLOY would do, without doing it.",
        "key MANIFEST json [BUNDLE ref] [JOB job-id] [AGENTS n id...] [TAG tag] [REASON text] [REQUEST id] [IFVERSION n] {policy} [JSON]"),
    CommandInfo {
        // Each node knows its own keys: cluster clients ask all shards, and join the pages themselves.
        tips: "request_policy:all_shards response_policy:special nondeterministic_output_order",
        ..row(c"DEPLOY.LIST", Access::None, -1, "O(N) where N is the number of deployments looked at",
            "Lists the deployments of the selected database.",
            "[STATUS {status}] [MATCH glob] [CURSOR cursor] [COUNT count]")
    },
    row(c"DEPLOY.STATUS", Access::Read, -2, SIZE, "Replies the whole record of a deployment, less manifests.", "key [JSON]"),
    CommandInfo {
        // It says for how long, and how soon.
        tips: "nondeterministic_output",
        ..row(c"DEPLOY.SHOW", Access::Read, 2, SIZE, "Replies the state of a deployment as a page of text.", "key")
    },
    row(c"DEPLOY.HISTORY", Access::Read, -2, SIZE, "Replies the versions of an app, newest first.", "key [JSON]"),
    CommandInfo {
        categories: FAST,
        ..row(c"DEPLOY.VERSION", Access::Read, -3, "O(log(N)) where N is the number of kept versions",
            "Replies one version with its manifest.", "key n [JSON]")
    },
    row(c"DEPLOY.PROMOTE", OPERATES, -2, CHANGE, "Makes the target version of a deployment primary.", "key [ID id] [REASON text]"),
    row(c"DEPLOY.ROLLBACK", OPERATES, -2, CHANGE, "Starts a new deployment of an old stable version.",
        "key [VERSION n | TAG tag] [ID id] [REASON text] [REQUEST id] {policy}"),
    row(c"DEPLOY.PAUSE", OPERATES, -2, CHANGE, "Pauses a deployment.", "key [ID id] [REASON text]"),
    row(c"DEPLOY.RESUME", OPERATES, -2, CHANGE, "Resumes a paused deployment.", "key [ID id] [REASON text]"),
    row(c"DEPLOY.FAIL", OPERATES, -2, CHANGE, "Fails a deployment.", "key [ID id] [REASON text]"),
    row(c"DEPLOY.STOP", OPERATES, -2, CHANGE, "Ends a deployment and stops every instance.", "key [ID id] [REASON text]"),
    row(c"DEPLOY.TAG", OPERATES, 4, CHANGE, "Names a version.", "key n tag"),
    row(c"DEPLOY.UNTAG", UNNAMES, 3, CHANGE, "Takes a version's name away.", "key tag"),
    CommandInfo {
        categories: BLOCKING,
        ..row(c"DEPLOY.EVENTS", Access::Read, -2, "O(N) where N is the number of events replied", "Replies the log of a record, oldest first.",
            "key [AFTER revision] [COUNT count] [BLOCK ms]")
    },
    CommandInfo {
        categories: BLOCKING,
        ..row(c"DEPLOY.WAIT", Access::Read, -2, SIZE, "Blocks until a deployment has ended, or has one of the statuses named.",
            "key [ID id] [UNTIL n status...] [TIMEOUT ms]")
    },
    row(c"DEPLOY.TASKS", Access::Read, -2, "O(N) where N is the number of open tasks", "Replies what coordinators still have to do.", "key [JSON]"),
    row(c"DEPLOY.REPORT", REPORTS, -4, CHANGE, "Reports the state of an agent.",
        "key agent {state} [VERSION n] [JOB job-id] [ATTEMPT n] [REASON text]"),
    row(c"DEPLOY.REGISTER", REPORTS, -4, CHANGE, "Registers or refreshes a service instance of an agent.",
        "key agent service INSTANCE id ADDRESS host PORT port [VERSION n] [JOB job-id] [STATUS {check}] [TTL ms] [TAGS n tag...] [META json]"),
    row(c"DEPLOY.CHECK", REPORTS, -4, CHANGE, "Reports the outcome of a check of a service instance.", "key instance-id {check} [REASON text]"),
    row(c"DEPLOY.DEREGISTER", REMOVES, 3, CHANGE, "Takes a service instance away.", "key instance-id"),
    row(c"DEPLOY.RESOLVE", Access::Read, -2, "O(N) where N is the number of service instances", "Replies where the services of an app are.",
        "key [SERVICE name] [TAG tag] [ROLE role:primary|canary|candidate|any] [ALL] [JSON]"),
    CommandInfo {
        categories: FAST,
        ..row(c"DEPLOY.HELP", Access::None, 1, "O(1)", "Prints this help.", "")
    },
    row(APPLY, REPORTS, -3, "O(N) where N is the size of what is handed on", "Internal: hands a change on to replicas and the AOF.", "key payload [record]"),
];

/// Nobody but the server has to know it.
const APPLY: &CStr = c"DEPLOY.APPLY";

/// Tells the server all of the above. An error names what is missing on either side.
pub fn describe(ctx: Ctx) -> Result<(), Unavailable> {
    let own = ffi::add_acl_category(ctx, c"deploy");
    for info in COMMANDS {
        if !ffi::set_command_info(ctx, info) {
            ctx.log(LogLevel::Warning, &format!("{} cannot be described", info.name.to_string_lossy()));
            return Err(Unavailable);
        }
        let access = match info.access {
            Access::None | Access::Read => "read",
            Access::Write { .. } => "write",
        };
        let own = if own { "deploy " } else { "" };
        if !ffi::set_acl_categories(ctx, info.name, &format!("{own}{access} {}", info.categories)) {
            ctx.log(LogLevel::Warning, &format!("{} gets no ACL categories", info.name.to_string_lossy()));
            return Err(Unavailable);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_key_or_says_that_it_has_none() {
        for info in COMMANDS {
            let has_key = info.arguments().first().is_some_and(|a| a.kind == Kind::Key);
            assert_eq!(has_key, info.access != Access::None, "{:?}", info.name);
        }
    }
}
