//! The shapes of rule 7 and the events of rule 5, byte for byte.

mod discovery;
mod events;
mod json;
mod record;
mod replies;
mod status;
