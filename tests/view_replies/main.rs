//! What people and programs read: the shapes of SPEC 7 and the events of SPEC 5, to the letter.

mod discovery;
mod events;
mod json;
mod record;
mod replies;
mod status;
