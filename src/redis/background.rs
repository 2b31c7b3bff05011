//! The background thread: it writes large replies and frees large structures, as the server's lazyfree and bio threads
//! do. Ten thousand service instances are some hundred and seventy thousand values, and every other client would wait
//! for them.

use std::sync::mpsc::{channel, Sender};
use std::sync::{Mutex, PoisonError};

/// From this number of entries on a reply is written in the background: writing them takes about as long as copying the
/// record.
pub const BACKGROUND_MIN_ENTRIES: usize = 500;

type Job = Box<dyn FnOnce() + Send>;

/// The queue of the thread, which starts with the first job.
static JOBS: Mutex<Option<Sender<Job>>> = Mutex::new(None);

/// Sends a job to the background thread; returns it where the thread cannot be started. A job catches its own panics.
fn submit(job: Job) -> Result<(), Job> {
    let mut jobs = JOBS.lock().unwrap_or_else(PoisonError::into_inner);
    let job = match jobs.as_ref() {
        None => job,
        Some(sender) => match sender.send(job) {
            Ok(()) => return Ok(()),
            Err(unsent) => unsent.0,
        },
    };
    let (sender, receiver) = channel::<Job>();
    let started = std::thread::Builder::new().name("deploy-bg".to_string()).spawn(move || {
        for job in receiver {
            job();
        }
    });
    if started.is_err() {
        return Err(job);
    }
    let outcome = sender.send(job).map_err(|unsent| unsent.0);
    *jobs = Some(sender);
    outcome
}

/// Runs a job on the background thread, or at once where there is none.
pub fn run(job: impl FnOnce() + Send + 'static) {
    if let Err(job) = submit(Box::new(job)) {
        job();
    }
}

/// Frees a large structure on the background thread.
pub fn lazy_free(value: impl Send + 'static) {
    run(move || drop(value));
}
