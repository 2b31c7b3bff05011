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
//! A key that is deleted is another one when it is made again. Whoever waited for it is set aside at once ([`on_removed`])
//! and judged in the next turn of the event loop, when the command that did it has ended, or the load: he waits on where
//! the same record is back, as after a full resynchronization, and is told where it is not.

use super::call::Call;
use super::error::CommandError;
use super::ffi::{catch_panic, run_in_next_turn, BlockedHandler, Ctx, Panicked, RStr, RString, TimerId};
use super::record_key::Key;
use super::reply::{self, Answered, ReplyWriter};
use super::stored::{DbKey, Stored};
use crate::engine::deployment::{Outcome, Status};
use crate::engine::instance::Instance;
use crate::engine::manifest::BATCH_AGENT;
use crate::engine::time::UnixMs;
use crate::engine::{Record, Rejection};
use crate::view::{self, EventsPage, WaitView};
use serde::Serialize;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

type Blocked = super::ffi::Blocked<WaitHandler>;

/// The answer to an unblocked client, shared by all that the same change unblocks.
#[derive(Debug, Clone)]
pub enum WaitAnswer {
    Status(Arc<WaitView>),
    Events(Arc<EventsPage>),
    Error(Rejection),
    /// The key is served by another node now.
    Unblocked,
}

/// The error that tells a client to ask the node that serves its key now; the code word is the server's own.
const UNBLOCKED: &str = "UNBLOCKED this node does not serve the key's slot any more";

/// The words that UNTIL names: statuses, outcomes of a batch run, and `drained`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Until {
    /// A bit for each of [`Status::ALL`].
    statuses: u8,
    /// The outcome of a batch run, rather than the record of its version (rule 19.7).
    run: bool,
    /// The end of the drains as well, rather than that of the deployment alone (rule 10.12).
    drained: bool,
}

/// The word of UNTIL that is no status and no outcome.
pub const DRAINED: &str = "drained";

impl Until {
    /// Adds a word; false where there is none such.
    #[must_use]
    pub fn add(&mut self, word: &str) -> bool {
        let status = Status::parse(word);
        let outcome = Outcome::parse(word).filter(|outcome| outcome.is_of_run());
        self.statuses |= status.map_or(0, Until::bit);
        self.run |= outcome.is_some();
        self.drained |= word == DRAINED;
        status.is_some() || outcome.is_some() || word == DRAINED
    }

    /// Returns true where the end of the deployment alone does not suffice: beside other words, it does as ever.
    fn waits_for_drains(self) -> bool {
        self == Until { drained: true, ..Until::default() }
    }

    fn names(self, status: Status) -> bool {
        self.statuses & Until::bit(status) != 0
    }

    fn bit(status: Status) -> u8 {
        Status::ALL.iter().position(|s| *s == status).map_or(0, |index| 1 << index)
    }
}

/// The state of a record that decides about conditions of [`WaitCondition::Status`]: they are compared only where it
/// has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    deployment_id: Arc<str>,
    status: Status,
    /// Of a batch job, whose runs end one by one: the revision.
    run: Option<u64>,
}

impl Seen {
    pub fn of(record: &Record) -> Option<Seen> {
        let deployment = record.deployment.as_ref()?;
        let is_batch = deployment.status == Status::VersionRecorded;
        let run = is_batch.then_some(record.revision);
        Some(Seen { deployment_id: deployment.id.clone(), status: deployment.status, run })
    }
}

/// The condition that a client waits for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitCondition {
    /// The end of a deployment, or what UNTIL names.
    Status { deployment_id: Arc<str>, until: Until },
    /// An event after this revision.
    Events { after: u64, count: Option<usize> },
}

/// The clients that wait for one key.
#[derive(Debug, Default)]
struct KeyWaiters {
    by_status: BTreeMap<(Arc<str>, Until), BTreeSet<Blocked>>,
    by_revision: BTreeMap<u64, BTreeMap<Option<usize>, BTreeSet<Blocked>>>,
    /// The state at the last check.
    seen: Option<Seen>,
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
    /// The time at which the record was created, which tells it from another one of this name.
    created_at: UnixMs,
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
    /// The clients whose key was deleted, or may hold another record.
    set_aside: Vec<(Blocked, BlockedClient)>,
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
    fn add(&mut self, client: Blocked, blocked: BlockedClient, seen: Option<Seen>) {
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

    /// Removes a client, also one that was set aside.
    fn forget(&mut self, client: Blocked) -> Option<BlockedClient> {
        let index = self.set_aside.iter().position(|(other, _)| *other == client);
        index.map(|index| self.set_aside.swap_remove(index).1).or_else(|| self.remove(client))
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
        let now = Seen::of(record);
        if !waiters.by_status.is_empty() {
            let is_new = waiters.seen != now;
            waiters.seen = now;
            // Drains end without a change of what is seen.
            let groups = waiters.by_status.iter().filter(|((_, until), _)| is_new || until.waits_for_drains());
            for ((id, until), all) in groups {
                let answer = match wait_reply(record, &key.key, id, *until) {
                    Ok(None) => continue,
                    Ok(Some(view)) => WaitAnswer::Status(Arc::new(view)),
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

    /// Removes and returns all clients of a key, with this answer for each.
    fn take_all(&mut self, key: &DbKey, answer: &WaitAnswer) -> Vec<(Blocked, WaitAnswer)> {
        let all = self.by_key.get(key).map(KeyWaiters::all).unwrap_or_default();
        for client in &all {
            self.remove(*client);
        }
        all.into_iter().map(|client| (client, answer.clone())).collect()
    }
}

/// Returns the reply to a client that waits for a deployment; None where it has to wait.
///
/// # Errors
/// `NOTFOUND` for a deployment that is not on the record.
pub fn wait_reply(record: &Record, key: &Arc<str>, id: &str, until: Until) -> Result<Option<WaitView>, Rejection> {
    let no_such = || Rejection::NoSuchDeployment(id.to_string());
    let version = record.version_of_deployment(id);
    // A run that has left the record without an outcome, since it was stopped, will have none.
    let waits_for_run = version.is_some_and(|version| {
        let waits = version.job_type.is_batch() && until.run && !until.names(Status::VersionRecorded);
        waits && record.instances.of_agent(BATCH_AGENT).iter().any(|run| run.version == version.number)
    });
    let is_satisfied = match record.deployment.as_ref().filter(|d| *d.id == *id) {
        Some(d) => !d.status.is_active() || until.names(d.status),
        None => version.ok_or_else(no_such)?.outcome.is_some(),
    };
    let waits_for_drains = || until.waits_for_drains() && !is_drained(record);
    match is_satisfied && !waits_for_run && !waits_for_drains() {
        true => view::wait(record, key, id).ok_or_else(no_such).map(Some),
        false => Ok(None),
    }
}

/// Returns true where no instance drains, stands by, or is still to be stopped (rule 10.12).
fn is_drained(record: &Record) -> bool {
    record.instances.draining() == 0
        && record.instances.standby() == 0
        && !record.instances.tasks().any(Instance::is_stopping)
}

/// Blocks the caller until the condition is met, for at most `timeout_ms` (0: without a timeout). A caller that cannot
/// be blocked is answered at once, as at the timeout.
pub fn block(
    call: &Call,
    key: DbKey,
    record: &Record,
    condition: WaitCondition,
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
    let timeout = u64::try_from(timeout_ms).ok().filter(|ms| *ms > 0).map(Duration::from_millis);
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let blocked = BlockedClient { key, created_at: record.created_at, condition, deadline };
    registry(|registry| registry.add(client, blocked, Seen::of(record)));
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
        Stored::Opaque { reason, .. } => {
            registry.take_all(&key, &WaitAnswer::Error(Rejection::ReadOnlyRecord(*reason)))
        }
        // A client that waits has the record decoded, and a finished one is encoded when nobody waits.
        Stored::Encoded(_) => Vec::new(),
    }));
}

fn unblock(clients: Vec<(Blocked, WaitAnswer)>) {
    for (client, answer) in clients {
        client.unblock(Some(answer));
    }
}

/// Sets the clients of a key aside that was deleted.
pub fn on_removed(db: i32, name: &[u8]) {
    if !HAS_CLIENTS.load(Ordering::Relaxed) {
        return;
    }
    if let Ok(name) = std::str::from_utf8(name) {
        set_aside(vec![DbKey { db, key: Arc::from(name) }]);
    }
}

/// Sets the clients of these databases aside: their keys were deleted, or another data set is served from here on.
pub fn on_dbs_replaced(is_replaced: impl Fn(i32) -> bool) {
    if HAS_CLIENTS.load(Ordering::Relaxed) {
        let keys = registry(|registry| registry.by_key.keys().filter(|key| is_replaced(key.db)).cloned().collect());
        set_aside(keys);
    }
}

fn set_aside(keys: Vec<DbKey>) {
    registry(|registry| {
        for key in keys {
            for client in registry.by_key.get(&key).map(KeyWaiters::all).unwrap_or_default() {
                let blocked = registry.remove(client).map(|blocked| (client, blocked));
                registry.set_aside.extend(blocked);
            }
        }
    });
    schedule_recheck();
}

/// Schedules a recheck of the clients that were set aside.
pub fn schedule_recheck() {
    let schedule = registry(|registry| {
        let schedule = !registry.set_aside.is_empty() && !registry.recheck_scheduled;
        registry.recheck_scheduled |= schedule;
        schedule
    });
    if schedule && !run_in_next_turn(recheck) {
        registry(|registry| registry.recheck_scheduled = false);
    }
}

/// Judges the clients that were set aside.
fn recheck(ctx: Ctx) {
    registry(|registry| registry.recheck_scheduled = false);
    if ctx.flags().is_loading() {
        return; // what is missing now may be loaded yet: the end of the load schedules it again
    }
    for (client, blocked) in registry(|registry| std::mem::take(&mut registry.set_aside)) {
        match answer_after_removal(ctx, &blocked) {
            Some(answer) => client.unblock(Some(answer)),
            // Nothing was seen of this record yet.
            None => registry(|registry| registry.add(client, blocked, None)),
        }
    }
    arm(ctx);
}

/// Returns the answer to a client whose key was deleted; None where it waits on, since the same record is back. What is
/// there otherwise is another one, and of its log a reader is told at once (rule 3.4).
fn answer_after_removal(ctx: Ctx, blocked: &BlockedClient) -> Option<WaitAnswer> {
    let DbKey { db, key } = &blocked.key;
    let name = RString::new(key.as_bytes());
    if !ctx.select_db(*db) {
        return Some(no_key_answer(ctx, key, &name));
    }
    let mut open = Key::peek(ctx, &name);
    let record = match open.record() {
        Ok(Some(record)) => record,
        Ok(None) => return Some(no_key_answer(ctx, key, &name)),
        Err(rejection) => return Some(WaitAnswer::Error(rejection)),
    };
    let is_same = record.created_at == blocked.created_at;
    match &blocked.condition {
        WaitCondition::Events { after, .. } if is_same && record.revision == *after => None,
        WaitCondition::Events { after, count } => {
            Some(WaitAnswer::Events(Arc::new(view::events(record, key, Some(*after), *count))))
        }
        WaitCondition::Status { .. } if !is_same => Some(WaitAnswer::Error(Rejection::NoSuchKey(key.to_string()))),
        WaitCondition::Status { deployment_id, until } => match wait_reply(record, key, deployment_id, *until) {
            Ok(view) => view.map(|view| WaitAnswer::Status(Arc::new(view))),
            Err(rejection) => Some(WaitAnswer::Error(rejection)),
        },
    }
}

/// Returns the answer about a key that is not there: gone, or served by another node.
fn no_key_answer(ctx: Ctx, key: &Arc<str>, name: &RStr) -> WaitAnswer {
    match ctx.serves(name) {
        true => WaitAnswer::Error(Rejection::NoSuchKey(key.to_string())),
        false => WaitAnswer::Unblocked,
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
    let name = RString::new(key.as_bytes());
    let mut open = Key::peek(ctx, &name);
    Some(match open.record() {
        Ok(Some(record)) => WaitAnswer::Events(Arc::new(view::events(record, key, Some(*after), None))),
        Ok(None) => no_key_answer(ctx, key, &name),
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
            Some(WaitAnswer::Status(view)) => writer.write(&**view),
            Some(WaitAnswer::Events(page)) => writer.write(&**page),
            Some(WaitAnswer::Error(rejection)) => {
                writer.send(|ctx| reply::error(ctx, &CommandError::Rejected(rejection.clone())))
            }
            Some(WaitAnswer::Unblocked) => writer.send(|ctx| ctx.reply_error(UNBLOCKED)),
            None => writer.send(Ctx::reply_null),
        });
        match outcome {
            Ok(Answered { .. }) => {}
            Err(Panicked) => reply::after_panic(ctx, replied.get()),
        }
    }

    fn on_timeout(ctx: Ctx, client: Blocked) {
        let Some(blocked) = registry(|registry| registry.forget(client)) else { return };
        WaitHandler::reply(ctx, timeout_answer(ctx, &blocked).as_ref());
        client.unblock(None);
    }

    fn on_disconnect(client: Blocked) {
        if registry(|registry| registry.forget(client)).is_some() {
            client.unblock(None);
        }
    }
}
