//! What the server tells about the commands: COMMAND INFO and DOCS, the keys they touch, ACL categories.
//!
//! A module's key is declared "read and write" unless somebody says better, which would refuse readers their reads.
//! `lib.rs` has the handlers and the flags; this table has the rest, and [`describe`] refuses to load where the two do
//! not know the same commands.

use super::ffi::{self, Ctx, LogLevel, Unavailable};
use crate::engine::command::{CheckStatus, Reported};
use crate::engine::deployment::Status;
use crate::engine::policy::POLICY_FIELDS;
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
    Write { replies: bool, deletes: bool },
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
            ctx.log(LogLevel::Warning, &format!("deploy: {} cannot be described", info.name.to_string_lossy()));
            return Err(Unavailable);
        }
        let access = match info.access {
            Access::None | Access::Read => "read",
            Access::Write { .. } => "write",
        };
        let own = if own { "deploy " } else { "" };
        if !ffi::set_acl_categories(ctx, info.name, &format!("{own}{access} {}", info.categories)) {
            ctx.log(LogLevel::Warning, &format!("deploy: {} gets no ACL categories", info.name.to_string_lossy()));
            return Err(Unavailable);
        }
    }
    Ok(())
}

// ---- DEPLOY.HELP -----------------------------------------------------------------------------------------------------

/// How wide a line of the help gets, behind the line numbers of redis-cli.
const HELP_WIDTH: usize = 95;

/// Each command with its arguments and a line about it, in the manner of the server's own HELP commands.
pub fn help() -> Vec<String> {
    let mut lines = vec!["DEPLOY.<command> key [<argument> ...]. Commands are:".to_string()];
    for info in COMMANDS.iter().filter(|info| info.name != APPLY) {
        // What several commands take has its words once, below.
        let syntax = info.syntax.replace("{policy}", "[policy-field value]...").replace("{status}", "status");
        let line = format!("{} {}", info.name.to_string_lossy(), readable(&expanded(&syntax)));
        lines.extend(folded(line.trim_end()));
        lines.push(format!("    {}", info.summary));
    }
    lines.push("Statuses of a deployment are:".to_string());
    lines.push(format!("    {}", Status::ALL.map(Status::name).join(", ")));
    lines.push("Policy fields and their values are:".to_string());
    lines.extend(policy_fields().map(|field| format!("    {}", readable(&field))));
    lines
}

/// `state:ready|failed` as a person would write it: `ready|failed`.
fn readable(syntax: &str) -> String {
    let word = |word: &str| match word.split_once(':') {
        Some((before, words)) => {
            let bracket = before.len() - before.trim_start_matches('[').len();
            format!("{}{words}", &before[..bracket])
        }
        None => word.to_string(),
    };
    syntax.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Lines that break between arguments, the later ones indented.
fn folded(syntax: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    let mut depth = 0;
    let mut piece = String::new();
    for word in syntax.split(' ') {
        if !piece.is_empty() {
            piece.push(' ');
        }
        piece.push_str(word);
        depth += word.matches('[').count();
        depth -= word.matches(']').count().min(depth);
        if depth > 0 {
            continue;
        }
        if !line.is_empty() && line.len() + 1 + piece.len() > HELP_WIDTH {
            lines.push(std::mem::replace(&mut line, "       ".to_string()));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&std::mem::take(&mut piece));
    }
    lines.push(line);
    lines
}

// ---- arguments, for COMMAND DOCS -------------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    Key,
    #[default]
    Text,
    Integer,
    Pattern,
    /// A word that stands for itself.
    Token,
    OneOf,
    /// Several arguments behind one another.
    Block,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Argument {
    /// Unique among its siblings.
    pub name: String,
    /// What a hint shows in its place; empty where that is its token or its parts.
    pub display: String,
    pub kind: Kind,
    pub token: Option<String>,
    pub optional: bool,
    pub multiple: bool,
    pub parts: Vec<Argument>,
}

impl CommandInfo {
    /// The arguments that `syntax` writes.
    pub fn arguments(&self) -> Vec<Argument> {
        let syntax = self.written().replace('[', " [ ").replace(']', " ] ");
        let mut arguments = sequence(&mut syntax.split_whitespace().peekable());
        name_by_value(&mut arguments);
        arguments
    }

    /// The syntax with all that stands for something written out.
    fn written(&self) -> String {
        let policy: Vec<String> = policy_fields().map(|field| format!("[{field}]")).collect();
        expanded(&self.syntax.replace("{policy}", &policy.join(" ")))
    }
}

/// Closed sets of words, from where the parser has them.
fn expanded(syntax: &str) -> String {
    let checks = [CheckStatus::Passing, CheckStatus::Warning, CheckStatus::Critical].map(CheckStatus::name);
    syntax
        .replace("{status}", &format!("status:{}", Status::ALL.map(Status::name).join("|")))
        .replace("{state}", &format!("state:{}", Reported::ALL.map(Reported::name).join("|")))
        .replace("{check}", &format!("status:{}", checks.join("|")))
}

/// The policy's options, each with its value.
fn policy_fields() -> impl Iterator<Item = String> {
    POLICY_FIELDS.iter().map(|field| {
        let value = match *field {
            "strategy" => "strategy:rolling|canary|blue-green",
            "health_check" => "health-check:checks|agent_states",
            "auto_promote" | "auto_revert" => "flag:true|false",
            "max_parallel" | "canary" => "count-or-percentage",
            _ => "ms",
        };
        format!("{} {value}", field.to_ascii_uppercase())
    })
}

type Words<'s> = std::iter::Peekable<std::str::SplitWhitespace<'s>>;

/// Reads up to a closing bracket, or a bar, or the end.
fn sequence(words: &mut Words) -> Vec<Argument> {
    let mut arguments: Vec<Argument> = Vec::new();
    while let Some(word) = words.next_if(|word| *word != "]" && *word != "|") {
        if word == "[" {
            arguments.push(optional(words));
            continue;
        }
        let is_token = word.chars().all(|c| !c.is_ascii_lowercase());
        arguments.push(if is_token { keyword(word, words) } else { plain(word) });
    }
    arguments
}

/// Older hints show an argument's name, so it is what its value is called. Siblings have names of their own: where
/// several values are called the same, each keeps the name of its keyword.
fn name_by_value(arguments: &mut [Argument]) {
    for place in 0..arguments.len() {
        let word = arguments[place].display.clone();
        let is_shared = arguments.iter().enumerate().any(|(other, a)| other != place && (a.name == word || a.display == word));
        if !word.is_empty() && !is_shared {
            arguments[place].name = word;
        }
        name_by_value(&mut arguments[place].parts);
    }
}

fn optional(words: &mut Words) -> Argument {
    let mut choices = vec![sequence(words)];
    while words.next_if_eq(&"|").is_some() {
        choices.push(sequence(words));
    }
    words.next_if_eq(&"]");
    let mut choices: Vec<Argument> = choices.into_iter().map(|arguments| block(None, arguments)).collect();
    let argument = if choices.len() == 1 { choices.pop() } else { None };
    let argument = argument.unwrap_or_else(|| Argument {
        name: choices.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join("-or-"),
        kind: Kind::OneOf,
        parts: choices,
        ..Argument::default()
    });
    Argument { optional: true, ..argument }
}

/// A keyword with the values that follow it.
fn keyword(word: &str, words: &mut Words) -> Argument {
    let is_value = |next: &&str| next.starts_with(|c: char| c.is_ascii_lowercase());
    let mut values = Vec::new();
    while let Some(value) = words.next_if(is_value) {
        values.push(plain(value));
    }
    match values.len() {
        0 => Argument {
            name: word.to_ascii_lowercase(),
            kind: Kind::Token,
            token: Some(word.to_string()),
            ..Argument::default()
        },
        _ => block(Some(word), values),
    }
}

/// One argument as it is, several as a block.
fn block(token: Option<&str>, mut arguments: Vec<Argument>) -> Argument {
    let name = token.map(str::to_ascii_lowercase);
    if arguments.len() == 1 {
        if let Some(only) = arguments.pop() {
            let token = token.map(str::to_string).or(only.token.clone());
            return Argument { name: name.unwrap_or(only.name.clone()), token, ..only };
        }
    }
    Argument {
        name: name.or_else(|| arguments.first().map(|a| a.name.clone())).unwrap_or_default(),
        kind: Kind::Block,
        token: token.map(str::to_string),
        parts: arguments,
        ..Argument::default()
    }
}

fn plain(word: &str) -> Argument {
    let bare = word.trim_end_matches("...");
    let (name, words) = bare.split_once(':').unwrap_or((bare, ""));
    let kind = match name {
        _ if !words.is_empty() => Kind::OneOf,
        "key" => Kind::Key,
        "n" | "port" | "ms" | "count" | "revision" => Kind::Integer,
        "glob" => Kind::Pattern,
        _ => Kind::Text,
    };
    let choice = |word: &str| Argument {
        name: word.to_string(),
        kind: Kind::Token,
        token: Some(word.to_string()),
        ..Argument::default()
    };
    Argument {
        name: name.to_string(),
        // What is shown in its place: its name may become that of its keyword, to be the only one of it.
        display: name.to_string(),
        kind,
        multiple: bare.len() < word.len(),
        parts: words.split('|').filter(|word| !word.is_empty()).map(choice).collect(),
        ..Argument::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(arguments: &[Argument]) -> String {
        let one = |a: &Argument| {
            let many = if a.multiple { "..." } else { "" };
            let inner = match a.kind {
                Kind::Token => a.token.clone().unwrap_or_default(),
                Kind::Block => [a.token.clone().unwrap_or_default(), written(&a.parts)].join(" ").trim().to_string(),
                Kind::OneOf => {
                    let parts: Vec<String> = a.parts.iter().map(|p| written(std::slice::from_ref(p))).collect();
                    [a.token.clone().unwrap_or_default(), parts.join(" | ")].join(" ").trim().to_string() + many
                }
                _ => match &a.token {
                    Some(token) => format!("{token} <{}>", a.name),
                    None => format!("{}{many}", a.name),
                },
            };
            if a.optional { format!("[{inner}]") } else { inner }
        };
        arguments.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn arguments_are_read_from_the_syntax() {
        let of = |syntax| written(&row(c"x", Access::Read, 1, "", "", syntax).arguments());
        assert_eq!(of("key n [JSON]"), "key n [JSON]");
        assert_eq!(of("key INSTANCE id [TAGS n tag...]"), "key INSTANCE <id> [TAGS n tag...]");
        assert_eq!(of("key [VERSION n | TAG tag] [ALL]"), "key [VERSION <n> | TAG <tag>] [ALL]");
        assert_eq!(of("key JOB id ID id [TTL ms]"), "key JOB <job> ID <id> [TTL <ms>]");
        assert_eq!(of("key state:on|off [ROLE role:a|b] word:c|d..."), "key on | off [ROLE a | b] c | d...");
        assert!(of("key {policy}").starts_with(
            "key [STRATEGY rolling | canary | blue-green] [MAX_PARALLEL <max_parallel>]"
        ));
    }

    #[test]
    fn siblings_have_names_of_their_own() {
        fn judge(command: &CStr, arguments: &[Argument]) {
            let mut names: Vec<&str> = arguments.iter().map(|a| a.name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), arguments.len(), "{command:?}: {arguments:?}");
            arguments.iter().for_each(|argument| judge(command, &argument.parts));
        }
        COMMANDS.iter().for_each(|info| judge(info.name, &info.arguments()));
    }

    #[test]
    fn the_help_has_every_command_in_lines_for_a_terminal() {
        let help = help();
        for info in COMMANDS.iter().filter(|info| info.name != APPLY) {
            let name = info.name.to_string_lossy();
            let place = help.iter().position(|line| line.split(' ').next() == Some(&name)).expect("its line");
            let summary = help[place..].iter().find(|line| line.starts_with("    ") && !line.starts_with("     "));
            assert_eq!(summary.map(|line| line.trim()), Some(info.summary));
        }
        for line in &help {
            assert!(line.len() <= HELP_WIDTH, "{line}");
            assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line}");
            assert!(!line.contains(['{', '}']), "{line}");
            assert_eq!(line.matches('[').count(), line.matches(']').count(), "a break inside an argument: {line}");
        }
    }

    #[test]
    fn each_command_has_a_key_or_says_that_it_has_none() {
        for info in COMMANDS {
            let has_key = info.arguments().first().is_some_and(|a| a.kind == Kind::Key);
            assert_eq!(has_key, info.access != Access::None, "{:?}", info.name);
        }
    }
}
