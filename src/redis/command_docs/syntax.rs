//! The arguments of a command as COMMAND DOCS describes them, parsed from the syntax of the command table.

use crate::engine::command::ReportedState;
use crate::engine::deployment::Status;
use crate::engine::policy::POLICY_FIELDS;
use crate::engine::services::CheckStatus;
use crate::redis::ffi::{Argument, ArgumentKind};

/// Parses the arguments that `syntax` writes.
pub fn parse(syntax: &str) -> Vec<Argument> {
    let policy: Vec<String> = policy_fields().map(|field| format!("[{field}]")).collect();
    let mut syntax = expand(&syntax.replace("{policy}", &policy.join(" ")));
    for bracket in ["[", "]", "<", ">"] {
        syntax = syntax.replace(bracket, &format!(" {bracket} "));
    }
    let mut arguments = sequence(&mut syntax.split_whitespace().peekable());
    name_by_value(&mut arguments);
    arguments
}

/// Replaces names in braces by the closed sets of words that they stand for.
pub fn expand(syntax: &str) -> String {
    let checks = [CheckStatus::Passing, CheckStatus::Warning, CheckStatus::Critical].map(CheckStatus::name);
    syntax
        .replace("{status}", &format!("status:{}", Status::ALL.map(Status::name).join("|")))
        .replace("{state}", &format!("state:{}", ReportedState::ALL.map(ReportedState::name).join("|")))
        .replace("{check}", &format!("status:{}", checks.join("|")))
}

/// Returns the options of the policy fields, each with the syntax of its value.
pub fn policy_fields() -> impl Iterator<Item = String> {
    POLICY_FIELDS.iter().map(|field| format!("{} {}", field.name.to_ascii_uppercase(), field.syntax))
}

type Words<'s> = std::iter::Peekable<std::str::SplitWhitespace<'s>>;

/// Parses up to a closing bracket, a bar, or the end.
fn sequence(words: &mut Words) -> Vec<Argument> {
    let mut arguments: Vec<Argument> = Vec::new();
    while let Some(word) = words.next_if(|word| !matches!(*word, "]" | ">" | "|")) {
        let is_token = word.chars().all(|c| !c.is_ascii_lowercase());
        arguments.push(match word {
            "[" => Argument { optional: true, ..choice(words) },
            "<" => choice(words),
            _ if is_token => keyword(word, words),
            _ => plain(word),
        });
    }
    arguments
}

/// Names arguments by their values, which older clients show as hints. Names are unique among siblings: where several
/// values have one name, each argument keeps the name of its keyword.
fn name_by_value(arguments: &mut [Argument]) {
    for index in 0..arguments.len() {
        let word = arguments[index].display.clone();
        let is_shared =
            arguments.iter().enumerate().any(|(other, a)| other != index && (a.name == word || a.display == word));
        if !word.is_empty() && !is_shared {
            arguments[index].name = word;
        }
        name_by_value(&mut arguments[index].parts);
    }
}

/// Parses the alternatives between two brackets: `[a | b]` may be left out, of `<a | b>` one has to be given.
fn choice(words: &mut Words) -> Argument {
    let mut choices = vec![sequence(words)];
    while words.next_if_eq(&"|").is_some() {
        choices.push(sequence(words));
    }
    words.next_if(|word| matches!(*word, "]" | ">"));
    let mut choices: Vec<Argument> = choices.into_iter().map(|arguments| block(None, arguments)).collect();
    let argument = if choices.len() == 1 { choices.pop() } else { None };
    argument.unwrap_or_else(|| Argument {
        name: choices.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join("-or-"),
        kind: ArgumentKind::OneOf,
        parts: choices,
        ..Argument::default()
    })
}

/// Parses a keyword with the values that follow it.
fn keyword(word: &str, words: &mut Words) -> Argument {
    let is_value = |next: &&str| next.starts_with(|c: char| c.is_ascii_lowercase());
    let mut values = Vec::new();
    loop {
        if let Some(value) = words.next_if(is_value) {
            values.push(plain(value));
        } else if let Some(value) = optional_value(words) {
            values.push(Argument { optional: true, ..plain(value) });
        } else {
            break;
        }
    }
    match values.len() {
        0 => Argument {
            name: word.to_ascii_lowercase(),
            kind: ArgumentKind::PureToken,
            token: Some(word.to_string()),
            ..Argument::default()
        },
        _ => block(Some(word), values),
    }
}

/// Parses a value in brackets, which a keyword may have before its other values: `STATUS [n] status...`.
fn optional_value<'s>(words: &mut Words<'s>) -> Option<&'s str> {
    let mut ahead = words.clone();
    let value =
        ahead.next_if_eq(&"[").and_then(|_| ahead.next()).filter(|word| word.starts_with(char::is_lowercase))?;
    ahead.next_if_eq(&"]")?;
    *words = ahead;
    Some(value)
}

/// Returns one argument as it is, several as a block.
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
        kind: ArgumentKind::Block,
        token: token.map(str::to_string),
        parts: arguments,
        ..Argument::default()
    }
}

fn plain(word: &str) -> Argument {
    let bare = word.trim_end_matches("...");
    let (name, words) = bare.split_once(':').unwrap_or((bare, ""));
    let kind = match name {
        _ if !words.is_empty() => ArgumentKind::OneOf,
        "key" => ArgumentKind::Key,
        "n" | "port" | "ms" | "count" | "revision" => ArgumentKind::Integer,
        "glob" => ArgumentKind::Pattern,
        _ => ArgumentKind::String,
    };
    let choice = |word: &str| Argument {
        name: word.to_string(),
        kind: ArgumentKind::PureToken,
        token: Some(word.to_string()),
        ..Argument::default()
    };
    Argument {
        name: name.to_string(),
        // The text of a hint: the name may become that of the keyword, to be unique.
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
                ArgumentKind::PureToken => a.token.clone().unwrap_or_default(),
                ArgumentKind::Block => {
                    [a.token.clone().unwrap_or_default(), written(&a.parts)].join(" ").trim().to_string()
                }
                ArgumentKind::OneOf => {
                    let parts: Vec<String> = a.parts.iter().map(|p| written(std::slice::from_ref(p))).collect();
                    [a.token.clone().unwrap_or_default(), parts.join(" | ")].join(" ").trim().to_string() + many
                }
                _ => match &a.token {
                    Some(token) => format!("{token} <{}>", a.name),
                    None => format!("{}{many}", a.name),
                },
            };
            if a.optional {
                format!("[{inner}]")
            } else {
                inner
            }
        };
        arguments.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn arguments_are_read_from_the_syntax() {
        let of = |syntax| written(&parse(syntax));
        assert_eq!(of("key n [JSON]"), "key n [JSON]");
        assert_eq!(of("key INSTANCE id [TAGS n tag...]"), "key INSTANCE <id> [TAGS n tag...]");
        assert_eq!(of("key [VERSION n | TAG tag] [ALL]"), "key [VERSION <n> | TAG <tag>] [ALL]");
        assert_eq!(of("key <MS ms | NOW> [ALL]"), "key MS <ms> | NOW [ALL]");
        assert_eq!(of("[A [n] x...] [NOW [ID id]]"), "[A [n] x...] [NOW [ID <id>]]");
        assert_eq!(of("key JOB id ID id [TTL ms]"), "key JOB <job> ID <id> [TTL <ms>]");
        assert_eq!(of("key state:on|off [ROLE role:a|b] word:c|d..."), "key on | off [ROLE a | b] c | d...");
        assert!(of("key {policy}")
            .starts_with("key [STRATEGY rolling | canary | blue-green] [MAX_PARALLEL <max_parallel>]"));
    }
}
