//! Documentation of the commands, made from the command table: COMMAND DOCS, DEPLOY.HELP and
//! `docs/commands.json`.

mod help;
mod json;
pub mod syntax;

pub use help::{command_help, help_lines};
pub use json::{commands_json, ArgumentDoc, CommandDoc};
