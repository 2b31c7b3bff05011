//! Documentation of the commands, made from the command table: COMMAND DOCS and DEPLOY.HELP.

mod help;
pub mod syntax;

pub use help::help_lines;
