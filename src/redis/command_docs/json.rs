//! `docs/commands.json`: the commands in the form that RedisJSON and RedisBloom ship, for documentation and client
//! tools.

use crate::redis::ffi::{Argument, ArgumentKind};
use serde::Serialize;
use serde_json::Map;

/// One command of `commands.json`.
#[derive(Debug, Serialize)]
pub struct CommandDoc<'a> {
    pub summary: &'a str,
    pub complexity: &'a str,
    pub since: &'a str,
    /// `deploy` for all of them.
    pub group: &'a str,
    pub arity: i32,
    pub command_flags: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command_tips: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<ArgumentDoc>,
}

/// One argument of a command; a field is left out where it is false or empty.
#[derive(Debug, Serialize)]
pub struct ArgumentDoc {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_text: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    optional: bool,
    #[serde(skip_serializing_if = "is_false")]
    multiple: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    arguments: Vec<ArgumentDoc>,
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

impl ArgumentDoc {
    /// Describes arguments as the table parsed them.
    pub fn of(arguments: Vec<Argument>) -> Vec<ArgumentDoc> {
        let one = |argument: Argument| ArgumentDoc {
            kind: type_name(argument.kind),
            display_text: Some(argument.display).filter(|text| !text.is_empty() && *text != argument.name),
            name: argument.name,
            token: argument.token,
            optional: argument.optional,
            multiple: argument.multiple,
            arguments: ArgumentDoc::of(argument.parts),
        };
        arguments.into_iter().map(one).collect()
    }
}

fn type_name(kind: ArgumentKind) -> &'static str {
    match kind {
        ArgumentKind::Key => "key",
        ArgumentKind::String => "string",
        ArgumentKind::Integer => "integer",
        ArgumentKind::Pattern => "pattern",
        ArgumentKind::PureToken => "pure-token",
        ArgumentKind::OneOf => "oneof",
        ArgumentKind::Block => "block",
    }
}

/// Returns the file's content: a map from names to commands, in the order of the table.
pub fn commands_json<'a>(
    commands: impl Iterator<Item = (String, CommandDoc<'a>)>,
) -> Result<String, serde_json::Error> {
    let map = commands.map(|(name, doc)| Ok((name, serde_json::to_value(doc)?)));
    let map = map.collect::<Result<Map<_, _>, serde_json::Error>>()?;
    Ok(serde_json::to_string_pretty(&map)? + "\n")
}
