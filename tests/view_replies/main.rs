//! What people and programs read: the shapes of rule 7 and the events of section 5, to the letter.

mod discovery;
mod events;
mod json;
mod record;
mod replies;
mod status;
