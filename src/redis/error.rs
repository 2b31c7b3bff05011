//! The error of a command.

use crate::engine::{Code, Rejection};

/// The error that a command ends with.
#[derive(Debug)]
pub enum CommandError {
    /// The server's own error about the number of arguments.
    WrongArity,
    Rejected(Rejection),
    /// An error that is not the caller's.
    Internal(String),
}

impl CommandError {
    /// A syntax error.
    pub fn syntax(text: impl Into<String>) -> CommandError {
        CommandError::Rejected(Rejection::Syntax(text.into()))
    }

    pub fn code(&self) -> Code {
        match self {
            CommandError::WrongArity | CommandError::Internal(_) => Code::Err,
            CommandError::Rejected(rejection) => rejection.code(),
        }
    }
}

impl From<Rejection> for CommandError {
    fn from(rejection: Rejection) -> CommandError {
        CommandError::Rejected(rejection)
    }
}
