//! Drains: telling a process to finish its sessions, and asking it how many it holds. Requests run on threads of their
//! own, so that a slow process delays no other.

use crate::checks::{http_client, repeat};
use crate::manifest::SessionsSpec;
use serde_json::Value as Json;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

/// Timeout of a request to a process.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Demand of the record on an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asked {
    #[default]
    Serve,
    /// To drain; no coordinator has taken it up.
    Drain,
    /// To drain, which a coordinator has taken up.
    DrainTakenUp,
    /// To be restarted, after its drain, once that is claimed.
    Restart,
}

/// Drain of the process of an instance.
#[derive(Default)]
pub struct Drain {
    pub asked: Asked,
    /// True once the process was told to drain, until it was told to go on.
    pub told: bool,
    /// True once a request to drain has failed: the process may have heard it nevertheless.
    pub may_be_told: bool,
    /// True while a request is under way.
    pub is_busy: bool,
    /// Time before which a failed request is not repeated.
    pub retry_at: Option<Instant>,
    /// Time from which an answer about sessions is one of a process that drains.
    pub settled_at: Option<Instant>,
    /// Its last answer about sessions.
    pub sessions: Option<Sessions>,
    /// The last fault of a request about sessions, which is logged once.
    pub fault: Option<String>,
    /// Dropping it ends the requests about sessions.
    pub polling: Option<Sender<()>>,
}

/// Answer of a process about its sessions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sessions {
    pub number: u32,
    /// Time before which it cannot have been given.
    pub asked_at: Instant,
}

impl Drain {
    /// Returns whether the process is to be told something now: `Some(true)` to drain, `Some(false)` to go on.
    pub fn next_order(&self, now: Instant) -> Option<bool> {
        let wanted = match self.asked {
            Asked::Serve => false,
            Asked::DrainTakenUp => true,
            // A drain that nobody has taken up may still be withdrawn.
            Asked::Drain | Asked::Restart => return None,
        };
        let is_due = !self.is_busy && self.retry_at.is_none_or(|at| now >= at);
        let is_news = wanted != self.told || self.may_be_told && !wanted;
        (is_due && is_news).then_some(wanted)
    }

    /// Returns whether the process has said, after it was told, that it holds no session.
    pub fn is_empty(&self) -> bool {
        let (Some(sessions), Some(settled_at)) = (self.sessions, self.settled_at) else { return false };
        self.told && sessions.number == 0 && sessions.asked_at >= settled_at
    }

    /// Notes that the process was told to drain, or to go on.
    pub fn note_told(&mut self, told: bool, settled_at: Instant) {
        (self.told, self.may_be_told, self.is_busy, self.retry_at) = (told, false, false, None);
        self.settled_at = told.then_some(settled_at);
    }

    /// Notes that a request to drain, or to go on, has failed.
    pub fn note_failure(&mut self, to_drain: bool, retry_at: Instant) {
        self.may_be_told |= to_drain;
        (self.is_busy, self.retry_at) = (false, Some(retry_at));
    }

    /// Forgets what was said to a process and by it. What the record asks stays.
    pub fn forget_process(&mut self) {
        *self = Drain { asked: self.asked, ..Drain::default() };
    }
}

/// POSTs to a URL of a process, and calls `done` with the outcome.
pub fn post(url: String, done: impl FnOnce(Result<(), String>) + Send + 'static) {
    thread::spawn(move || {
        let outcome = match http_client(REQUEST_TIMEOUT).post(&url).send_empty() {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(format!("{url}: status {}", response.status().as_u16())),
            Err(error) => Err(format!("{url}: {error}")),
        };
        done(outcome);
    });
}

/// Asks a process for the number of its sessions at an interval, until the returned sender is dropped or `report`
/// returns false.
pub fn poll_sessions(
    spec: SessionsSpec,
    report: impl Fn(Result<Sessions, String>) -> bool + Send + 'static,
) -> Sender<()> {
    repeat(spec.interval, move || {
        let asked_at = Instant::now();
        report(number_of_sessions(&spec.url).map(|number| Sessions { number, asked_at }))
    })
}

/// GETs the number of sessions of a process.
fn number_of_sessions(url: &str) -> Result<u32, String> {
    let mut response = http_client(REQUEST_TIMEOUT).get(url).call().map_err(|error| format!("{url}: {error}"))?;
    if !response.status().is_success() {
        return Err(format!("{url}: status {}", response.status().as_u16()));
    }
    let body = response.body_mut().read_to_string().map_err(|error| format!("{url}: {error}"))?;
    parse_sessions(&body).ok_or_else(|| format!("{url}: no number of sessions in {body:?}"))
}

/// Parses a number of sessions: plain, or as `{"sessions": n}`.
pub fn parse_sessions(body: &str) -> Option<u32> {
    let json: Json = serde_json::from_str(body.trim()).ok()?;
    let number = if json.is_object() { &json["sessions"] } else { &json };
    u32::try_from(number.as_u64()?).ok()
}
