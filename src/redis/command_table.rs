//! The command table: one row per command. The server is told everything from it: the entry point, COMMAND INFO and
//! DOCS, the keys, the ACL categories. HELP, `docs/commands.json` and the lists of commands in tests come from it too.

use super::args::{self, Args};
use super::call::Call;
use super::command_docs::{command_help, help_lines, syntax, ArgumentDoc, CommandDoc};
use super::commands::{coordinator, discovery, internal, list, operator, show, wait};
use super::error::CommandError;
use super::ffi::{self, Argument, CommandInfo, Ctx, EntryPoint, KeyAccess, LogLevel, Unavailable};
use super::reply::Answered;
use super::{command_docs, dispatch, replication};
use std::ffi::CStr;

/// Makes the entry point of a handler.
macro_rules! entry {
    ($handler:expr) => {
        ffi::entry_point(|ctx, arguments| dispatch::run(ctx, arguments, $handler))
    };
}

/// Makes the entry point of DEPLOY.SHOW, whose first argument need not be a key.
macro_rules! entry_of_show {
    () => {
        ffi::entry_point(|ctx, arguments| {
            if !ffi::answer_keys_request(ctx, KeyAccess::Read, || show::has_key(arguments)) {
                dispatch::run(ctx, arguments, show::show);
            }
        })
    };
}

/// One command.
pub struct Command {
    pub name: &'static CStr,
    entry: EntryPoint,
    /// The flags of RM_CreateCommand. `deny-oom` is on the commands that start something, and so need memory: with
    /// `maxmemory` reached, a rollout can still be followed, paused and ended, as DEL still deletes. Reports are small,
    /// and let a rollout come to its end.
    pub flags: &'static CStr,
    /// The access to the key, the first argument: what key patterns of ACLs are checked against.
    pub access: KeyAccess,
    /// As Redis counts: with the command's name, negative for "at least". Keywords are not counted, not even required
    /// ones: the error about a missing one can then name it.
    pub arity: i32,
    pub summary: &'static str,
    pub complexity: &'static str,
    /// Hints for clients.
    pub tips: &'static str,
    /// The arguments, as the documentation writes them. `name:a|b` is one of these words; a name in braces stands for a
    /// closed set of words, see [`syntax::expand`].
    pub syntax: &'static str,
}

const SIZE: &str = "O(N) where N is the size of the record";
const CHANGE: &str = "O(N) where N is the number of agents and kept versions";

pub static COMMANDS: &[Command] = &[
    Command {
        name: c"DEPLOY.DEPLOY",
        entry: entry!(operator::deploy),
        flags: c"write deny-oom",
        access: KeyAccess::RwUpdate,
        arity: -2,
        summary: "Records the next version of an app and starts its deployment.",
        complexity: CHANGE,
        tips: "",
        syntax: "key MANIFEST json [BUNDLE ref] [JOB job-id] [AGENTS n id...] [TAG tag] [REASON text] [REQUEST id] [IFVERSION n] {policy}",
    },
    Command {
        name: c"DEPLOY.PLAN",
        entry: entry!(operator::plan),
        flags: c"readonly",
        access: KeyAccess::Read,
        arity: -2,
        summary: "Returns what DEPLOY.DEPLOY would do, without doing it.",
        complexity: CHANGE,
        tips: "",
        syntax: "key MANIFEST json [BUNDLE ref] [JOB job-id] [AGENTS n id...] [TAG tag] [REASON text] [REQUEST id] [IFVERSION n] {policy} [JSON]",
    },
    Command {
        name: c"DEPLOY.LIST",
        entry: entry!(list::list),
        flags: c"readonly",
        access: KeyAccess::None,
        arity: -1,
        summary: "Lists the deployments of the selected database.",
        complexity: "O(N) where N is the number of deployments looked at",
        // No request policy: each node has a cursor of its own, which no client can merge. redis-py fails at a response
        // policy `special`, and without one clients that ask all shards join pages and cursors into one list.
        tips: "",
        syntax: "[STATUS [n] {status}...] [MATCH glob] [CURSOR cursor] [COUNT count] [JSON]",
    },
    Command {
        name: c"DEPLOY.STATUS",
        entry: entry!(operator::status),
        flags: c"readonly",
        access: KeyAccess::Read,
        arity: -2,
        summary: "Returns the whole record of a deployment, without manifests.",
        complexity: SIZE,
        tips: "",
        syntax: "key [JSON]",
    },
    Command {
        name: c"DEPLOY.SHOW",
        entry: entry_of_show!(),
        // Without a key, WIDTH stands where the key would.
        flags: c"readonly getkeys-api",
        access: KeyAccess::Read,
        arity: -1,
        summary: "Returns the state of a deployment, or of all of the database, as a page of text.",
        complexity: "O(N) where N is the size of the record, or of the records named",
        // The page shows ages and remaining times.
        tips: "nondeterministic_output",
        syntax: "[key] [WIDTH n]",
    },
    Command {
        name: c"DEPLOY.HISTORY",
        entry: entry!(operator::history),
        flags: c"readonly",
        access: KeyAccess::Read,
        arity: -2,
        summary: "Returns the versions of an app, newest first.",
        complexity: "O(N) where N is the number of kept versions",
        tips: "",
        syntax: "key [COUNT n] [JSON]",
    },
    Command {
        name: c"DEPLOY.VERSION",
        entry: entry!(operator::version),
        flags: c"readonly fast",
        access: KeyAccess::Read,
        arity: -3,
        summary: "Returns one version with its manifest.",
        complexity: "O(log(N)) where N is the number of kept versions",
        tips: "",
        syntax: "key n [JSON]",
    },
    Command {
        name: c"DEPLOY.PROMOTE",
        entry: entry!(operator::promote),
        flags: c"write deny-oom",
        access: KeyAccess::RwUpdate,
        arity: -2,
        summary: "Makes the target version of a deployment primary.",
        complexity: CHANGE,
        tips: "",
        syntax: "key [FULL] [ID id] [REASON text]",
    },
    Command {
        name: c"DEPLOY.ROLLBACK",
        entry: entry!(operator::rollback),
        flags: c"write deny-oom",
        access: KeyAccess::RwUpdate,
        arity: -2,
        summary: "Starts a new deployment of an old stable version.",
        complexity: CHANGE,
        tips: "",
        syntax: "key [VERSION n | TAG tag] [ID id] [REASON text] [REQUEST id] {policy}",
    },
    Command {
        name: c"DEPLOY.PAUSE",
        entry: entry!(operator::pause),
        flags: c"write",
        access: KeyAccess::RwUpdate,
        arity: -2,
        summary: "Pauses a deployment.",
        complexity: CHANGE,
        tips: "",
        syntax: "key [ID id] [REASON text]",
    },
    Command {
        name: c"DEPLOY.RESUME",
        entry: entry!(operator::resume),
        flags: c"write deny-oom",
        access: KeyAccess::RwUpdate,
        arity: -2,
        summary: "Resumes a paused deployment.",
        complexity: CHANGE,
        tips: "",
        syntax: "key [ID id] [REASON text]",
    },
    Command {
        name: c"DEPLOY.FAIL",
        entry: entry!(operator::fail),
        flags: c"write",
        access: KeyAccess::RwUpdate,
        arity: -2,
        summary: "Fails a deployment.",
        complexity: CHANGE,
        tips: "",
        syntax: "key [ID id] [REASON text]",
    },
    Command {
        name: c"DEPLOY.STOP",
        entry: entry!(operator::stop),
        flags: c"write",
        access: KeyAccess::RwUpdate,
        arity: -2,
        summary: "Ends a deployment, and drains and stops every instance.",
        complexity: CHANGE,
        tips: "",
        syntax: "key [NOW] [ID id] [REASON text]",
    },
    Command {
        name: c"DEPLOY.DRAIN",
        entry: entry!(operator::drain),
        flags: c"write",
        access: KeyAccess::RwUpdate,
        arity: -2,
        summary: "Changes the deadline of the drains of a version, or ends them.",
        complexity: CHANGE,
        tips: "",
        syntax: "key VERSION n <MS ms | NOW> [ID id] [REASON text]",
    },
    Command {
        name: c"DEPLOY.TAG",
        entry: entry!(operator::tag),
        flags: c"write deny-oom",
        access: KeyAccess::RwUpdate,
        arity: 4,
        summary: "Gives a version a tag.",
        complexity: CHANGE,
        tips: "",
        syntax: "key n tag",
    },
    Command {
        name: c"DEPLOY.UNTAG",
        entry: entry!(operator::untag),
        flags: c"write",
        access: KeyAccess::RwDelete,
        arity: 3,
        summary: "Removes a tag.",
        complexity: CHANGE,
        tips: "",
        syntax: "key tag",
    },
    Command {
        name: c"DEPLOY.EVENTS",
        entry: entry!(wait::events),
        flags: c"readonly blocking",
        access: KeyAccess::Read,
        arity: -2,
        summary: "Returns the log of a record, oldest first.",
        complexity: "O(N) where N is the number of events replied",
        tips: "",
        syntax: "key [AFTER revision] [COUNT count] [BLOCK ms]",
    },
    Command {
        name: c"DEPLOY.WAIT",
        entry: entry!(wait::wait),
        flags: c"readonly blocking",
        access: KeyAccess::Read,
        arity: -2,
        summary: "Blocks until a deployment ends, reaches a given status or outcome, or has drained.",
        complexity: SIZE,
        tips: "",
        syntax: "key [ID id] [UNTIL n status...] [TIMEOUT ms]",
    },
    Command {
        name: c"DEPLOY.TASKS",
        entry: entry!(coordinator::tasks),
        flags: c"readonly",
        access: KeyAccess::Read,
        arity: -2,
        summary: "Returns the tasks that coordinators still have to carry out.",
        complexity: "O(N) where N is the number of open tasks",
        tips: "",
        syntax: "key [JSON]",
    },
    Command {
        name: c"DEPLOY.REPORT",
        entry: entry!(coordinator::report),
        flags: c"write",
        access: KeyAccess::WUpdate,
        arity: -4,
        summary: "Reports the state of an agent.",
        complexity: CHANGE,
        tips: "",
        syntax: "key agent {state} [VERSION n] [JOB job-id] [ATTEMPT n] [REASON text] [SESSIONS n]",
    },
    Command {
        name: c"DEPLOY.REGISTER",
        entry: entry!(coordinator::register),
        flags: c"write deny-oom",
        access: KeyAccess::WUpdate,
        arity: -4,
        summary: "Registers or refreshes a service instance of an agent.",
        complexity: CHANGE,
        tips: "",
        syntax: "key agent service INSTANCE id ADDRESS host PORT port [VERSION n] [JOB job-id] [STATUS {check}] [TTL ms] [TAGS n tag...] [META json] [REASON text]",
    },
    Command {
        name: c"DEPLOY.CHECK",
        entry: entry!(coordinator::check),
        flags: c"write",
        access: KeyAccess::WUpdate,
        arity: -4,
        summary: "Reports the outcome of a check of a service instance.",
        complexity: CHANGE,
        tips: "",
        syntax: "key instance-id {check} [REASON text] [SESSIONS n]",
    },
    Command {
        name: c"DEPLOY.DEREGISTER",
        entry: entry!(coordinator::deregister),
        flags: c"write",
        access: KeyAccess::WDelete,
        arity: 3,
        summary: "Removes a service instance.",
        complexity: CHANGE,
        tips: "",
        syntax: "key instance-id",
    },
    Command {
        name: c"DEPLOY.RESOLVE",
        entry: entry!(discovery::resolve),
        flags: c"readonly",
        access: KeyAccess::Read,
        arity: -2,
        summary: "Returns the service instances of an app, or the one for a session.",
        complexity: "O(N) where N is the number of service instances",
        tips: "",
        syntax: "key [SESSION id] [VERSION n] [SERVICE name] [TAG tag] \
                 [ROLE role:primary|canary|candidate|draining|standby|any] [ALL] [JSON]",
    },
    Command {
        // It needs no data, so it runs also while the server loads, and on a replica without its primary.
        name: c"DEPLOY.HELP",
        entry: entry!(help),
        flags: c"readonly fast allow-loading allow-stale",
        access: KeyAccess::None,
        arity: -1,
        summary: "Prints this help, or that of one command.",
        complexity: "O(1)",
        tips: "",
        syntax: "[command]",
    },
    Command {
        name: replication::APPLY,
        entry: entry!(internal::apply),
        flags: c"write deny-oom",
        access: KeyAccess::WUpdate,
        arity: -3,
        summary: "Internal: hands a change on to replicas and the AOF.",
        complexity: "O(N) where N is the size of what is handed on",
        tips: "",
        syntax: "key payload [record]",
    },
    // Without `deny-script`: the server refuses to let the timer call a command with it, as it refuses scripts.
    Command {
        name: replication::TICK,
        entry: entry!(internal::tick),
        flags: c"write deny-oom",
        access: KeyAccess::WUpdate,
        arity: 2,
        summary: "Internal: processes what is due.",
        complexity: CHANGE,
        tips: "",
        syntax: "key",
    },
];

/// Returns the commands that users may call.
pub fn user_commands() -> impl Iterator<Item = &'static Command> {
    COMMANDS.iter().filter(|command| !command.is_internal())
}

impl Command {
    /// Returns whether only the module itself, a primary or the AOF issues the command.
    pub fn is_internal(&self) -> bool {
        self.name == replication::APPLY || self.name == replication::TICK
    }

    /// Returns whether a word is the command's name, in any case, with or without the `DEPLOY.` that all of them have.
    fn is_named(&self, word: &[u8]) -> bool {
        let name = self.name.to_bytes();
        let short = name.split(|byte| *byte == b'.').next_back().unwrap_or(name);
        word.eq_ignore_ascii_case(name) || word.eq_ignore_ascii_case(short)
    }

    /// The arguments, as COMMAND DOCS describes them.
    pub fn arguments(&self) -> Vec<Argument> {
        syntax::parse(self.syntax)
    }

    fn has_flag(&self, flag: &str) -> bool {
        self.flags.to_bytes().split(|byte| *byte == b' ').any(|word| word == flag.as_bytes())
    }

    /// The ACL categories. `@deploy` exists where the server lets modules add one.
    fn acl_categories(&self, has_own: bool) -> String {
        let access = match self.access {
            KeyAccess::None | KeyAccess::Read => "read",
            _ => "write",
        };
        let speed = if self.has_flag("fast") { "fast" } else { "slow" };
        let own = if has_own { "deploy " } else { "" };
        let blocking = if self.has_flag("blocking") { " blocking" } else { "" };
        format!("{own}{access} {speed}{blocking}")
    }

    fn register(&self, ctx: Ctx, has_own_category: bool) -> Result<(), Unavailable> {
        ffi::create_command(ctx, self.name, self.entry, self.flags, self.access != KeyAccess::None)?;
        ffi::set_command_info(
            ctx,
            &CommandInfo {
                name: self.name,
                access: self.access,
                has_movable_key: self.has_flag("getkeys-api"),
                arity: self.arity,
                summary: self.summary,
                complexity: self.complexity,
                since: env!("CARGO_PKG_VERSION"),
                tips: self.tips,
                arguments: &self.arguments(),
            },
        )?;
        ffi::set_acl_categories(ctx, self.name, &self.acl_categories(has_own_category))
    }
}

/// Creates and describes every command. An error stops the load, and names the command in the log.
pub fn register(ctx: Ctx) -> Result<(), Unavailable> {
    let has_own_category = ffi::add_acl_category(ctx, c"deploy");
    for command in COMMANDS {
        command.register(ctx, has_own_category).inspect_err(|Unavailable| {
            let name = command.name.to_string_lossy();
            ctx.log(LogLevel::Warning, &format!("{name} cannot be registered"));
        })?;
    }
    Ok(())
}

/// Returns the content of `docs/commands.json`: every command but the internal ones.
///
/// # Errors
/// Those of the JSON serializer.
pub fn commands_json() -> Result<String, serde_json::Error> {
    let doc = |command: &'static Command| CommandDoc {
        summary: command.summary,
        complexity: command.complexity,
        since: env!("CARGO_PKG_VERSION"),
        group: "deploy",
        arity: command.arity,
        command_flags: command.flags.to_string_lossy().split(' ').map(str::to_string).collect(),
        command_tips: command.tips.split_whitespace().collect(),
        arguments: ArgumentDoc::of(command.arguments()),
    };
    command_docs::commands_json(user_commands().map(|c| (c.name.to_string_lossy().into_owned(), doc(c))))
}

/// `DEPLOY.HELP [command]`
fn help(call: &Call, mut args: Args) -> Result<Answered, CommandError> {
    let word = args.optional_bytes();
    args.end()?;
    let lines = match word {
        None => help_lines(user_commands().map(|c| (c.name.to_string_lossy(), c.syntax, c.summary))),
        Some(word) => {
            let Command { name, syntax, summary, complexity, .. } =
                user_commands().find(|command| command.is_named(word)).ok_or_else(|| args::unknown_command(word))?;
            command_help(&name.to_string_lossy(), syntax, summary, complexity)
        }
    };
    Ok(call.reply_lines(&lines))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::ffi::ArgumentKind;

    #[test]
    fn commands_have_a_key_exactly_if_they_declare_access() {
        for command in COMMANDS {
            let has_key = command.arguments().first().is_some_and(|a| a.kind == ArgumentKind::Key);
            assert_eq!(has_key, command.access != KeyAccess::None, "{:?}", command.name);
        }
    }

    #[test]
    fn argument_names_are_unique_among_siblings() {
        fn check(command: &CStr, arguments: &[Argument]) {
            let mut names: Vec<&str> = arguments.iter().map(|a| a.name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), arguments.len(), "{command:?}: {arguments:?}");
            arguments.iter().for_each(|argument| check(command, &argument.parts));
        }
        COMMANDS.iter().for_each(|command| check(command.name, &command.arguments()));
    }
}
