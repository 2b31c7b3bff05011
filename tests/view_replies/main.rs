//! Replies in full: the shapes of rule 7 and the events of rule 5.

mod discovery;
mod events;
mod json;
mod record;
mod replies;
mod sessions;
mod status;
