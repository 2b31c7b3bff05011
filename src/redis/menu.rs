//! What the server tells about the commands: COMMAND INFO and DOCS, the keys they touch, ACL categories.
//!
//! A module's key is declared "read and write" unless somebody says better, which would refuse readers their reads.
//! `lib.rs` has the handlers and the flags; this table has the rest, and [`describe`] refuses to load where the two do
//! not know the same commands.

use super::ffi::{self, Ctx, LogLevel, Unavailable};
use crate::engine::policy::POLICY_FIELDS;
use std::ffi::CStr;

/// What a command does with its key, the first argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It has none.
    None,
    Read,
    /// It reads and changes the record. So does one that may create it: the server takes one of UPDATE and INSERT, and
    /// what DEPLOY does to a record that is there is more than an insertion.
    Update,
}

pub struct CommandInfo {
    pub name: &'static CStr,
    pub access: Access,
    /// As Redis counts: with the command's name, negative for "at least". Keywords are not counted, also where they must
    /// be there: the complaint about a missing one can then name it.
    pub arity: i32,
    pub summary: &'static str,
    pub complexity: &'static str,
    /// Hints for cluster clients.
    pub tips: &'static str,
    /// The arguments, as the README writes them; `{policy}` stands for the policy's options.
    syntax: &'static str,
}

const ONE: &str = "O(1)";
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
    CommandInfo { name, access, arity, summary, complexity, tips: "", syntax }
}

#[rustfmt::skip]
pub static COMMANDS: &[CommandInfo] = &[
    row(c"DEPLOY.DEPLOY", Access::Update, -2, CHANGE, "Records the next version of an app and starts its deployment.",
        "key MANIFEST json [BUNDLE ref] [JOB job-id] [AGENTS n id...] [TAG tag] [REASON text] [REQUEST id] [IFVERSION n] {policy}"),
    row(c"DEPLOY.PLAN", Access::Read, -2, CHANGE, "Replies what DEPLOY.DEPLOY would do, without doing it.",
        "key MANIFEST json [BUNDLE ref] [JOB job-id] [AGENTS n id...] [TAG tag] [REASON text] [REQUEST id] [IFVERSION n] {policy} [JSON]"),
    CommandInfo {
        // Each node knows its own keys: cluster clients ask all shards, and join the pages themselves.
        tips: "request_policy:all_shards response_policy:special nondeterministic_output_order",
        ..row(c"DEPLOY.LIST", Access::None, -1, "O(N) where N is the number of deployments looked at",
            "Lists the deployments of the selected database.",
            "[STATUS status] [MATCH glob] [CURSOR cursor] [COUNT count]")
    },
    row(c"DEPLOY.STATUS", Access::Read, -2, SIZE, "Replies the whole record of a deployment, less manifests.", "key [JSON]"),
    row(c"DEPLOY.HISTORY", Access::Read, -2, SIZE, "Replies the versions of an app, newest first.", "key [JSON]"),
    row(c"DEPLOY.VERSION", Access::Read, -3, SIZE, "Replies one version with its manifest.", "key n [JSON]"),
    row(c"DEPLOY.PROMOTE", Access::Update, -2, CHANGE, "Makes the target version of a deployment primary.", "key [ID id] [REASON text]"),
    row(c"DEPLOY.ROLLBACK", Access::Update, -2, CHANGE, "Starts a new deployment of an old stable version.",
        "key [VERSION n | TAG tag] [ID id] [REASON text] [REQUEST id] {policy}"),
    row(c"DEPLOY.PAUSE", Access::Update, -2, CHANGE, "Pauses a deployment.", "key [ID id] [REASON text]"),
    row(c"DEPLOY.RESUME", Access::Update, -2, CHANGE, "Resumes a paused deployment.", "key [ID id] [REASON text]"),
    row(c"DEPLOY.FAIL", Access::Update, -2, CHANGE, "Fails a deployment.", "key [ID id] [REASON text]"),
    row(c"DEPLOY.STOP", Access::Update, -2, CHANGE, "Ends a deployment and stops every instance.", "key [ID id] [REASON text]"),
    row(c"DEPLOY.TAG", Access::Update, 4, CHANGE, "Names a version.", "key n tag"),
    row(c"DEPLOY.UNTAG", Access::Update, 3, CHANGE, "Takes a version's name away.", "key tag"),
    row(c"DEPLOY.EVENTS", Access::Read, -2, "O(N) where N is the number of events replied", "Replies the log of a record, oldest first.",
        "key [AFTER revision] [COUNT count] [BLOCK ms]"),
    row(c"DEPLOY.WAIT", Access::Read, -2, SIZE, "Blocks until a deployment has ended, or has one of the statuses named.",
        "key [ID id] [UNTIL n status...] [TIMEOUT ms]"),
    row(c"DEPLOY.TASKS", Access::Read, -2, "O(N) where N is the number of open tasks", "Replies what coordinators still have to do.", "key [JSON]"),
    row(c"DEPLOY.REPORT", Access::Update, -4, CHANGE, "Reports the state of an agent.",
        "key agent state [VERSION n] [JOB job-id] [ATTEMPT n] [REASON text]"),
    row(c"DEPLOY.REGISTER", Access::Update, -4, CHANGE, "Registers or refreshes a service instance of an agent.",
        "key agent service INSTANCE id ADDRESS host PORT p [VERSION n] [JOB job-id] [STATUS status] [TTL ms] [TAGS n tag...] [META json]"),
    row(c"DEPLOY.CHECK", Access::Update, -4, CHANGE, "Reports the outcome of a check of a service instance.", "key instance-id status [REASON text]"),
    row(c"DEPLOY.DEREGISTER", Access::Update, 3, CHANGE, "Takes a service instance away.", "key instance-id"),
    row(c"DEPLOY.RESOLVE", Access::Read, -2, "O(N) where N is the number of service instances", "Replies where the services of an app are.",
        "key [SERVICE name] [TAG tag] [ROLE role] [ALL] [JSON]"),
    row(c"DEPLOY.APPLY", Access::Update, -3, ONE, "Internal: hands a change on to replicas and the AOF.", "key payload [record]"),
];

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
            Access::Update => "write",
        };
        let own = if own { "deploy " } else { "" };
        let waits = if info.waits() { " blocking" } else { "" };
        if !ffi::set_acl_categories(ctx, info.name, &format!("{own}{access} slow{waits}")) {
            ctx.log(LogLevel::Warning, &format!("{} gets no ACL categories", info.name.to_string_lossy()));
            return Err(Unavailable);
        }
    }
    Ok(())
}

// ---- arguments, for COMMAND DOCS -------------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Key,
    Text,
    Integer,
    Pattern,
    /// A word that stands for itself.
    Token,
    OneOf,
    /// Several arguments behind one another.
    Block,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    pub name: String,
    pub kind: Kind,
    pub token: Option<String>,
    pub optional: bool,
    pub multiple: bool,
    pub parts: Vec<Argument>,
}

impl CommandInfo {
    /// Whether it may keep its caller waiting, which is an ACL category of its own.
    fn waits(&self) -> bool {
        ["TIMEOUT ms", "BLOCK ms"].iter().any(|option| self.syntax.contains(option))
    }

    /// The arguments that `syntax` writes.
    pub fn arguments(&self) -> Vec<Argument> {
        let policy: Vec<String> = POLICY_FIELDS.iter().map(|f| format!("[{} {f}]", f.to_ascii_uppercase())).collect();
        let syntax = self.syntax.replace("{policy}", &policy.join(" "));
        let syntax = syntax.replace('[', " [ ").replace(']', " ] ");
        sequence(&mut syntax.split_whitespace().peekable())
    }
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
        token: None,
        optional: true,
        multiple: false,
        parts: choices,
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
            optional: false,
            multiple: false,
            parts: Vec::new(),
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
        optional: false,
        multiple: false,
        parts: arguments,
    }
}

fn plain(word: &str) -> Argument {
    let name = word.trim_end_matches("...");
    let kind = match name {
        "key" => Kind::Key,
        "n" | "p" | "ms" | "count" | "revision" => Kind::Integer,
        "glob" => Kind::Pattern,
        _ => Kind::Text,
    };
    Argument {
        name: name.to_string(),
        kind,
        token: None,
        optional: false,
        multiple: name.len() < word.len(),
        parts: Vec::new(),
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
                Kind::OneOf => a.parts.iter().map(|p| written(std::slice::from_ref(p))).collect::<Vec<_>>().join(" | "),
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
        assert_eq!(of("key INSTANCE id [TAGS n tag...]"), "key INSTANCE <instance> [TAGS n tag...]");
        assert_eq!(of("key [VERSION n | TAG tag] [ALL]"), "key [VERSION <version> | TAG <tag>] [ALL]");
        assert!(of("key {policy}").starts_with("key [STRATEGY <strategy>] [MAX_PARALLEL <max_parallel>]"));
    }

    #[test]
    fn each_command_has_a_key_or_says_that_it_has_none() {
        for info in COMMANDS {
            let has_key = info.arguments().first().is_some_and(|a| a.kind == Kind::Key);
            assert_eq!(has_key, info.access != Access::None, "{:?}", info.name);
        }
    }
}
