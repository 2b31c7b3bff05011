//! Blocked clients: DEPLOY.WAIT for a status, DEPLOY.EVENTS … BLOCK for events.
//!
//! A registry of its own rather than the server's blocking on keys, for two reasons: the server would visit every
//! client of a key at every change, and before 7.2 it does not unblock one whose key is deleted. Here a change visits
//! the clients that it unblocks, and no others: clients that wait for the same are grouped, and statuses are compared
//! only where one changed. The answer shows the record at that change, whatever has happened since.
//!
//! Timeouts are measured here too, by one timer for the earliest: with a timeout of the server's own, Redis 7.0 never
//! answers a client whose timeout passes in the turn of the event loop in which it is unblocked.
//!
//! A key that disappears, or is replaced, is only known to have changed ([`invalidate`]): its value is rechecked in the
//! next turn of the event loop, when the command that did it has ended.

use super::call::Call;
use super::error::CommandError;
use super::ffi::{catch_panic, run_in_next_turn, BlockedHandler, Ctx, KeyValue, Panicked, RString, TimerId};
use super::record_key::Key;
use super::reply::{self, Answered, ReplyWriter};
use super::stored::{DbKey, Stored};
use crate::engine::deployment::Status;
use crate::engine::{Record, Rejection};
use crate::view::{self, EventsPage};
use serde::Serialize;
use std::cell::{Cell, LazyCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

type Blocked = super::ffi::Blocked<WaitHandler>;

/// The answer to an unblocked client, shared by all that the same change unblocks.
#[derive(Debug, Clone)]
pub enum WaitAnswer {
    Status(Arc<Snapshot>),
    Events(Arc<EventsPage>),
    Error(Rejection),
}

/// The record at the change that ended a WAIT.
#[derive(Debug)]
pub struct Snapshot {
    record: Arc<Record>,
    key: Arc<str>,
    deployment_id: Arc<str>,
}

/// A set of statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Statuses(u8);

impl Statuses {
    pub fn add(&mut self, status: Status) {
        self.0 |= Statuses::bit(status);
    }

    fn contains(self, status: Status) -> bool {
        self.0 & Statuses::bit(status) != 0
    }

    fn bit(status: Status) -> u8 {
        Status::ALL.iter().position(|s| *s == status).map_or(0, |index| 1 << index)
    }
}

/// The condition that a client waits for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitCondition {
    /// The end of a deployment, or one of these statuses.
    Status { deployment_id: Arc<str>, until: Statuses },
    /// An event after this revision.
    Events { after: u64, count: Option<usize> },
}

/// The clients that wait for one key.
#[derive(Debug, Default)]
struct KeyWaiters {
    by_status: BTreeMap<(Arc<str>, Statuses), BTreeSet<Blocked>>,
    by_revision: BTreeMap<u64, BTreeMap<Option<usize>, BTreeSet<Blocked>>>,
    /// The deployment and status at the last check.
    seen: Option<(Arc<str>, Status)>,
}

impl KeyWaiters {
    fn is_empty(&self) -> bool {
        self.by_status.is_empty() && self.by_revision.is_empty()
    }

    fn all(&self) -> Vec<Blocked> {
        let by_revision = self.by_revision.values().flat_map(BTreeMap::values).flatten();
        self.by_status.values().flatten().chain(by_revision).copied().collect()
    }
}

#[derive(Debug)]
struct BlockedClient {
    key: DbKey,
    condition: WaitCondition,
    /// None: without a timeout.
    deadline: Option<Instant>,
}

#[derive(Default)]
struct Registry {
    by_key: BTreeMap<DbKey, KeyWaiters>,
    clients: BTreeMap<Blocked, BlockedClient>,
    /// The clients with a timeout, by its time.
    deadlines: BTreeSet<(Instant, Blocked)>,
    /// The timer for the first of them, and when it fires: not later than that.
    timer: Option<(Instant, TimerId)>,
    pending_recheck: BTreeSet<DbKey>,
    /// A recheck is scheduled.
    recheck_scheduled: bool,
}

static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);

/// True while a client is blocked. At most changes none is, and nothing else is looked up.
static HAS_CLIENTS: AtomicBool = AtomicBool::new(false);

/// Locks the registry for `work`, which never calls the server: that may call back in here.
fn registry<T>(work: impl FnOnce(&mut Registry) -> T) -> T {
    let mut guard: MutexGuard<Option<Registry>> = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    let registry = guard.get_or_insert_with(Registry::default);
    let outcome = work(registry);
    HAS_CLIENTS.store(!registry.by_key.is_empty(), Ordering::Relaxed);
    outcome
}

impl Registry {
    fn add(&mut self, client: Blocked, blocked: BlockedClient, seen: Option<(Arc<str>, Status)>) {
        let waiters = self.by_key.entry(blocked.key.clone()).or_default();
        match &blocked.condition {
            WaitCondition::Status { deployment_id, until } => {
                waiters.by_status.entry((deployment_id.clone(), *until)).or_default().insert(client);
                waiters.seen = seen;
            }
            WaitCondition::Events { after, count } => {
                waiters.by_revision.entry(*after).or_default().entry(*count).or_default().insert(client);
            }
        }
        self.deadlines.extend(blocked.deadline.map(|deadline| (deadline, client)));
        self.clients.insert(client, blocked);
    }

    /// Removes a client; None where it was removed before.
    fn remove(&mut self, client: Blocked) -> Option<BlockedClient> {
        let blocked = self.clients.remove(&client)?;
        if let Some(deadline) = blocked.deadline {
            self.deadlines.remove(&(deadline, client));
        }
        if let Some(waiters) = self.by_key.get_mut(&blocked.key) {
            match &blocked.condition {
                WaitCondition::Status { deployment_id, until } => {
                    let group = (deployment_id.clone(), *until);
                    if waiters.by_status.get_mut(&group).is_some_and(|all| all.remove(&client) && all.is_empty()) {
                        waiters.by_status.remove(&group);
                    }
                }
                WaitCondition::Events { after, count } => {
                    if let Some(groups) = waiters.by_revision.get_mut(after) {
                        if groups.get_mut(count).is_some_and(|all| all.remove(&client) && all.is_empty()) {
                            groups.remove(count);
                        }
                        if groups.is_empty() {
                            waiters.by_revision.remove(after);
                        }
                    }
                }
            }
            if waiters.is_empty() {
                self.by_key.remove(&blocked.key);
            }
        }
        Some(blocked)
    }

    /// Removes and returns all clients whose timeout has passed.
    fn take_expired(&mut self, now: Instant) -> Vec<(Blocked, BlockedClient)> {
        let expired = self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, client)| *client);
        let expired: Vec<Blocked> = expired.collect();
        expired.into_iter().filter_map(|client| Some((client, self.remove(client)?))).collect()
    }

    /// Removes and returns the clients whose condition this record meets, with their answers.
    fn take_satisfied(&mut self, key: &DbKey, record: &Record) -> Vec<(Blocked, WaitAnswer)> {
        let Some(waiters) = self.by_key.get_mut(key) else { return Vec::new() };
        let name = &*key.key;
        let mut satisfied = Vec::new();
        for (after, groups) in waiters.by_revision.range(..record.revision) {
            for (count, all) in groups {
                let page = Arc::new(view::events(record, name, Some(*after), *count));
                satisfied.extend(all.iter().map(|client| (*client, WaitAnswer::Events(page.clone()))));
            }
        }
        let now = record.deployment.as_ref().map(|d| (d.id.clone(), d.status));
        if !waiters.by_status.is_empty() && waiters.seen != now {
            waiters.seen = now;
            // One copy for all that this change unblocks.
            let copy = LazyCell::new(|| Arc::new(record.clone()));
            for ((id, until), all) in &waiters.by_status {
                let answer = match is_satisfied(record, id, *until) {
                    Ok(false) => continue,
                    Ok(true) => {
                        let (key, deployment_id) = (key.key.clone(), id.clone());
                        WaitAnswer::Status(Arc::new(Snapshot { record: copy.clone(), key, deployment_id }))
                    }
                    Err(rejection) => WaitAnswer::Error(rejection),
                };
                satisfied.extend(all.iter().map(|client| (*client, answer.clone())));
            }
        }
        for (client, _) in &satisfied {
            self.remove(*client);
        }
        satisfied
    }

    /// Removes and returns all clients of a key, with this error for each.
    fn take_all(&mut self, key: &DbKey, rejection: &Rejection) -> Vec<(Blocked, WaitAnswer)> {
        let all = self.by_key.get(key).map(KeyWaiters::all).unwrap_or_default();
        for client in &all {
            self.remove(*client);
        }
        all.into_iter().map(|client| (client, WaitAnswer::Error(rejection.clone()))).collect()
    }
}

/// Returns true if a client that waits for a deployment is to be answered now.
///
/// # Errors
/// `NOTFOUND` for a deployment that is not on the record.
pub fn is_satisfied(record: &Record, id: &str, until: Statuses) -> Result<bool, Rejection> {
    if let Some(d) = record.deployment.as_ref().filter(|d| *d.id == *id) {
        return Ok(!d.status.is_active() || until.contains(d.status));
    }
    match record.version_of_deployment(id) {
        Some(version) if version.outcome.is_some() => Ok(true),
        _ => Err(Rejection::NoSuchDeployment(id.to_string())),
    }
}

/// Blocks the caller until the condition is met, for at most `timeout_ms` (0: without a timeout). A caller that cannot
/// be blocked is answered at once, as at the timeout.
pub fn block(
    call: &Call,
    key: &str,
    condition: WaitCondition,
    seen: Option<(Arc<str>, Status)>,
    timeout_ms: i64,
    at_timeout: &impl Serialize,
) -> Result<Answered, CommandError> {
    let ctx = call.ctx();
    if ctx.flags().denies_blocking() {
        return Ok(call.reply(at_timeout, false));
    }
    let Some(client) = Blocked::block(ctx) else {
        return Err(CommandError::Internal("the server cannot block this client".to_string()));
    };
    let key = DbKey { db: ctx.selected_db(), key: Arc::from(key) };
    let timeout = u64::try_from(timeout_ms).ok().filter(|ms| *ms > 0).map(Duration::from_millis);
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    registry(|registry| registry.add(client, BlockedClient { key, condition, deadline }, seen));
    arm(ctx);
    Ok(call.reply_by(|_| {}))
}

// ---- changes --------------------------------------------------------------------------------------------------------

/// Unblocks the clients whose condition a stored value meets.
pub fn on_change(db: i32, key: &str, stored: &Stored) {
    if !HAS_CLIENTS.load(Ordering::Relaxed) {
        return;
    }
    let key = DbKey { db, key: Arc::from(key) };
    unblock(registry(|registry| match stored {
        Stored::Record(record) => registry.take_satisfied(&key, record),
        Stored::Opaque { reason, .. } => registry.take_all(&key, &Rejection::ReadOnlyRecord(*reason)),
        // A client that waits has the record decoded, and a finished one is encoded when nobody waits.
        Stored::Encoded(_) => Vec::new(),
    }));
}

fn unblock(clients: Vec<(Blocked, WaitAnswer)>) {
    for (client, answer) in clients {
        client.unblock(Some(answer));
    }
}

/// Schedules a recheck of keys that may hold another value: for when the running command has ended.
pub fn invalidate(filter: impl Fn(&DbKey) -> bool) {
    let schedule = registry(|registry| {
        let invalid: Vec<DbKey> = registry.by_key.keys().filter(|key| filter(key)).cloned().collect();
        registry.pending_recheck.extend(invalid);
        let schedule = !registry.pending_recheck.is_empty() && !registry.recheck_scheduled;
        registry.recheck_scheduled |= schedule;
        schedule
    });
    if schedule && !run_in_next_turn(recheck) {
        registry(|registry| registry.recheck_scheduled = false);
    }
}

/// Schedules a recheck of one key.
pub fn invalidate_key(db: i32, name: &[u8]) {
    if HAS_CLIENTS.load(Ordering::Relaxed) {
        invalidate(|key| key.db == db && key.key.as_bytes() == name);
    }
}

/// Rechecks the keys that were invalidated.
fn recheck(ctx: Ctx) {
    let keys = registry(|registry| {
        registry.recheck_scheduled = false;
        std::mem::take(&mut registry.pending_recheck)
    });
    for key in keys {
        if !ctx.select_db(key.db) {
            continue;
        }
        let mut open = Key::peek(ctx, &RString::new(key.key.as_bytes()));
        let error = match open.record() {
            Ok(Some(_)) => {
                // Another record may have the same status: it is not the one that was seen.
                registry(|registry| {
                    if let Some(waiters) = registry.by_key.get_mut(&key) {
                        waiters.seen = None;
                    }
                });
                if let KeyValue::Ours(stored) = open.stored() {
                    on_change(key.db, &key.key, stored);
                }
                continue;
            }
            Ok(None) => Rejection::NoSuchKey(key.key.to_string()),
            Err(rejection) => rejection,
        };
        unblock(registry(|registry| registry.take_all(&key, &error)));
    }
}

// ---- timeouts and replies -------------------------------------------------------------------------------------------

/// Arms the timer for the earliest timeout.
fn arm(ctx: Ctx) {
    let (first, timer) =
        registry(|registry| (registry.deadlines.first().map(|(deadline, _)| *deadline), registry.timer));
    let Some(first) = first else { return };
    if timer.is_some_and(|(at, _)| at <= first) {
        return;
    }
    if let Some((_, later)) = timer {
        ctx.stop_timer(later);
    }
    // Whole ms, rounded up: no timeout comes early.
    let left = first.saturating_duration_since(Instant::now());
    let after_ms = u64::try_from(left.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
    let timer = ctx.create_timer(after_ms, on_timer).map(|timer| (first, timer));
    registry(|registry| registry.timer = timer);
}

/// Answers the clients whose timeout has passed.
fn on_timer(ctx: Ctx) {
    let expired = registry(|registry| {
        registry.timer = None;
        registry.take_expired(Instant::now())
    });
    for (client, blocked) in expired {
        client.unblock(timeout_answer(ctx, &blocked));
    }
    arm(ctx);
}

/// Returns the answer at a timeout: nil for WAIT; for EVENTS the present log, which has nothing new.
fn timeout_answer(ctx: Ctx, blocked: &BlockedClient) -> Option<WaitAnswer> {
    let WaitCondition::Events { after, .. } = &blocked.condition else { return None };
    let DbKey { db, key } = &blocked.key;
    if !ctx.select_db(*db) {
        return None;
    }
    Some(match Key::peek(ctx, &RString::new(key.as_bytes())).record() {
        Ok(Some(record)) => WaitAnswer::Events(Arc::new(view::events(record, key, Some(*after), None))),
        Ok(None) => WaitAnswer::Error(Rejection::NoSuchKey(key.to_string())),
        Err(rejection) => WaitAnswer::Error(rejection),
    })
}

/// The server's callbacks for clients that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaitHandler;

impl BlockedHandler for WaitHandler {
    type Answer = WaitAnswer;

    fn reply(ctx: Ctx, answer: Option<&WaitAnswer>) {
        let replied = Cell::new(false);
        let writer = ReplyWriter::new(ctx, false, &replied);
        let outcome = catch_panic("the reply to a waiting client", || match answer {
            Some(WaitAnswer::Status(at)) => writer.write(&view::status_of(&at.record, &at.key, &at.deployment_id)),
            Some(WaitAnswer::Events(page)) => writer.write(&**page),
            Some(WaitAnswer::Error(rejection)) => {
                writer.send(|ctx| reply::error(ctx, &CommandError::Rejected(rejection.clone())))
            }
            None => writer.send(Ctx::reply_null),
        });
        match outcome {
            Ok(Answered { .. }) => {}
            Err(Panicked) => reply::after_panic(ctx, replied.get()),
        }
    }

    fn on_timeout(ctx: Ctx, client: Blocked) {
        let Some(blocked) = registry(|registry| registry.remove(client)) else { return };
        WaitHandler::reply(ctx, timeout_answer(ctx, &blocked).as_ref());
        client.unblock(None);
    }

    fn on_disconnect(client: Blocked) {
        if registry(|registry| registry.remove(client)).is_some() {
            client.unblock(None);
        }
    }
}
