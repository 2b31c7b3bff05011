//! The commands, by audience: each function parses the arguments of one command and replies.

pub mod coordinator;
pub mod discovery;
pub mod internal;
pub mod list;
pub mod operator;
pub mod show;
pub mod wait;
