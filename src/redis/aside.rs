//! Large replies are written, and large things freed, beside the server's own thread: ten thousand service instances are
//! some hundred and seventy thousand values, and every other client would wait for them.
//!
//! The server's thread copies the record, whose texts are shared, and goes on; the caller waits, and gets what was so at
//! that moment. In a transaction or a script, where nobody can wait, the reply is written at once.

use super::ffi::Aside;
use super::guard::{guard, Panicked};
use super::{info, reply, Refusal};
use crate::engine::{Code, Record, Rejection};
use crate::view::View;
use std::sync::mpsc::{channel, Sender};
use std::sync::{Mutex, PoisonError};

/// From so many entries on a reply is large. So many take about as long to write as a record takes to be copied.
pub const LARGE: usize = 500;

type Work = Box<dyn FnOnce() + Send>;

/// The way to the thread that writes, which starts with the first large reply.
static WRITER: Mutex<Option<Sender<Work>>> = Mutex::new(None);

/// Hands work to the thread; gives it back where there is none to be had.
fn hand_over(work: Work) -> Result<(), Work> {
    let mut writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    let work = match writer.as_ref() {
        None => work,
        Some(writer) => match writer.send(work) {
            Ok(()) => return Ok(()),
            Err(unsent) => unsent.0,
        },
    };
    let (sender, receiver) = channel::<Work>();
    let begun = std::thread::Builder::new().name("deploy-replies".to_string()).spawn(move || {
        for work in receiver {
            // What panics here is the work's own business, and is caught there.
            work();
        }
    });
    if begun.is_err() {
        return Err(work);
    }
    let outcome = sender.send(work).map_err(|unsent| unsent.0);
    *writer = Some(sender);
    outcome
}

/// Frees something large on the other thread.
pub fn drop_aside(what: impl Send + 'static) {
    // Where there is no other thread, it is freed here.
    drop(hand_over(Box::new(move || drop(what))));
}

/// Has a waiting client answered on the other thread, with what `shape` makes of a copy of the record.
pub fn reply_aside(
    caller: Aside,
    record: Record,
    name: String,
    json: bool,
    shape: impl for<'r> FnOnce(&'r Record, &'r str) -> Result<View<'r>, Rejection> + Send + 'static,
) {
    let work = move || {
        let ctx = caller.ctx();
        let made = guard("a large reply", || {
            let view = shape(&record, &name)?;
            match json {
                true => ctx.reply_bytes(view.to_json().as_bytes()),
                false => reply::view(ctx, &view),
            }
            Ok(())
        });
        match made {
            Ok(Ok(())) => {}
            Ok(Err(rejection)) => reply::refusal(ctx, &Refusal::Rejected(rejection)),
            Err(Panicked) => {
                info::count_refusal(Code::Err);
                ctx.reply_error(reply::INTERNAL);
            }
        }
        drop(caller);
    };
    // The caller waits already, so without another thread it is this one that answers.
    if let Err(work) = hand_over(Box::new(work)) {
        work();
    }
}
