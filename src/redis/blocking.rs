//! Clients that wait: DEPLOY.WAIT for a status, DEPLOY.EVENTS … BLOCK for events.
//!
//! A registry of its own rather than the server's blocking on keys, for two reasons: the server would ask every client
//! of a key at every change, and it does not wake one when the key goes before 7.2. Here a change looks at those it
//! wakes, and at no others: clients that wait for the same stand together, and statuses are looked at only where one
//! changed. What is replied is what was so at that change, whatever has happened since.
//!
//! How long a client waits is measured here too, by one timer for the next of them: with a time limit of the server's
//! own, Redis 7.0 never answers a client whose time is up in the same turn of the event loop in which it is woken.
//!
//! A key that goes, or becomes another, is only known to have changed (`doubt`): what is there then is looked at in the
//! next turn of the event loop, when the command that did it is over.

use super::args::{self, syntax, unknown, Args};
use super::data_type::Stored;
use super::ffi::{self, Blocked, Ctx, Key, Slot, TimerId};
use super::index::Place;
use super::reply;
use super::{key_text, no_such_key, record_at, Answered, Call, Refusal};
use crate::engine::deployment::Status;
use crate::engine::{Record, Rejection};
use crate::view::{self, View};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a woken client is told. Shared by all that were woken by the same.
#[derive(Debug, Clone)]
pub enum Answer {
    Shown(Arc<View<'static>>),
    Refused(Rejection),
}

/// Statuses as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Statuses(u8);

impl Statuses {
    fn add(&mut self, status: Status) {
        self.0 |= Statuses::bit(status);
    }

    fn has(self, status: Status) -> bool {
        self.0 & Statuses::bit(status) != 0
    }

    fn bit(status: Status) -> u8 {
        Status::ALL.iter().position(|s| *s == status).map_or(0, |place| 1 << place)
    }
}

/// What a client waits for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    /// A deployment's end, or one of these statuses.
    Status { deployment_id: Arc<str>, until: Statuses },
    /// An event after this revision.
    Events { after: u64, count: Option<usize> },
}

/// The clients that wait at one key.
#[derive(Debug, Default)]
struct Room {
    by_status: BTreeMap<(Arc<str>, Statuses), BTreeSet<Blocked>>,
    by_revision: BTreeMap<u64, BTreeMap<Option<usize>, BTreeSet<Blocked>>>,
    /// The deployment and status that were last looked at.
    seen: Option<(Arc<str>, Status)>,
}

impl Room {
    fn is_empty(&self) -> bool {
        self.by_status.is_empty() && self.by_revision.is_empty()
    }

    fn everybody(&self) -> Vec<Blocked> {
        let by_revision = self.by_revision.values().flat_map(BTreeMap::values).flatten();
        self.by_status.values().flatten().chain(by_revision).copied().collect()
    }
}

#[derive(Debug)]
struct Waiting {
    place: Place,
    wish: Wish,
    /// None: for ever.
    limit: Option<Instant>,
}

#[derive(Default)]
struct Registry {
    rooms: BTreeMap<Place, Room>,
    waiting: BTreeMap<Blocked, Waiting>,
    /// Those that do not wait for ever, by when their time is up.
    limits: BTreeSet<(Instant, Blocked)>,
    /// The timer for the first of them, and when it is due: not later than that.
    timer: Option<(Instant, TimerId)>,
    doubtful: BTreeSet<Place>,
    /// A look at the doubtful is already asked for.
    asked: bool,
}

static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);

/// Whether anybody waits at a key. Nobody does at most changes, which then need not ask further.
static IS_WAITED: AtomicBool = AtomicBool::new(false);

/// Held for the length of one function and never across a call of the server, which may call back in here.
fn registry<T>(work: impl FnOnce(&mut Registry) -> T) -> T {
    let mut guard: MutexGuard<Option<Registry>> = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    let registry = guard.get_or_insert_with(Registry::default);
    let outcome = work(registry);
    IS_WAITED.store(!registry.rooms.is_empty(), Ordering::Relaxed);
    outcome
}

impl Registry {
    fn enter(&mut self, who: Blocked, waiting: Waiting, seen: Option<(Arc<str>, Status)>) {
        let room = self.rooms.entry(waiting.place.clone()).or_default();
        match &waiting.wish {
            Wish::Status { deployment_id, until } => {
                room.by_status.entry((deployment_id.clone(), *until)).or_default().insert(who);
                room.seen = seen;
            }
            Wish::Events { after, count } => {
                room.by_revision.entry(*after).or_default().entry(*count).or_default().insert(who);
            }
        }
        self.limits.extend(waiting.limit.map(|limit| (limit, who)));
        self.waiting.insert(who, waiting);
    }

    /// Forgets a client; None where it was forgotten before.
    fn leave(&mut self, who: Blocked) -> Option<(Place, Wish)> {
        let Waiting { place, wish, limit } = self.waiting.remove(&who)?;
        if let Some(limit) = limit {
            self.limits.remove(&(limit, who));
        }
        if let Some(room) = self.rooms.get_mut(&place) {
            match &wish {
                Wish::Status { deployment_id, until } => {
                    let group = (deployment_id.clone(), *until);
                    if room.by_status.get_mut(&group).is_some_and(|all| all.remove(&who) && all.is_empty()) {
                        room.by_status.remove(&group);
                    }
                }
                Wish::Events { after, count } => {
                    if let Some(groups) = room.by_revision.get_mut(after) {
                        if groups.get_mut(count).is_some_and(|all| all.remove(&who) && all.is_empty()) {
                            groups.remove(count);
                        }
                        if groups.is_empty() {
                            room.by_revision.remove(after);
                        }
                    }
                }
            }
            if room.is_empty() {
                self.rooms.remove(&place);
            }
        }
        Some((place, wish))
    }

    /// Those whose time is up forget what they waited for.
    fn leave_by(&mut self, now: Instant) -> Vec<(Blocked, Place, Wish)> {
        let due = self.limits.iter().take_while(|(limit, _)| *limit <= now).map(|(_, who)| *who);
        due.collect::<Vec<_>>()
            .into_iter()
            .filter_map(|who| self.leave(who).map(|(place, wish)| (who, place, wish)))
            .collect()
    }

    /// Who is woken by this record, and with what.
    fn woken_by(&mut self, place: &Place, record: &Record) -> Vec<(Blocked, Answer)> {
        let Some(room) = self.rooms.get_mut(place) else { return Vec::new() };
        let key = &*place.key;
        let mut woken = Vec::new();
        for (after, groups) in room.by_revision.range(..record.revision) {
            for (count, all) in groups {
                let shown = Arc::new(view::events(record, key, Some(*after), *count).into_owned());
                woken.extend(all.iter().map(|who| (*who, Answer::Shown(shown.clone()))));
            }
        }
        let now = record.deployment.as_ref().map(|d| (d.id.clone(), d.status));
        if !room.by_status.is_empty() && room.seen != now {
            room.seen = now;
            for ((id, until), all) in &room.by_status {
                let answer = match arrived(record, key, id, *until) {
                    Ok(None) => continue,
                    Ok(Some(view)) => Answer::Shown(Arc::new(view.into_owned())),
                    Err(rejection) => Answer::Refused(rejection),
                };
                woken.extend(all.iter().map(|who| (*who, answer.clone())));
            }
        }
        for (who, _) in &woken {
            self.leave(*who);
        }
        woken
    }

    fn everybody_at(&mut self, place: &Place, rejection: &Rejection) -> Vec<(Blocked, Answer)> {
        let all = self.rooms.get(place).map(Room::everybody).unwrap_or_default();
        for who in &all {
            self.leave(*who);
        }
        all.into_iter().map(|who| (who, Answer::Refused(rejection.clone()))).collect()
    }
}

/// What a client that waits for a deployment is replied, None as long as it has to wait.
fn arrived<'r>(record: &'r Record, key: &'r str, id: &str, until: Statuses) -> Result<Option<View<'r>>, Rejection> {
    if let Some(d) = record.deployment.as_ref().filter(|d| *d.id == *id) {
        let over = !d.status.is_active() || until.has(d.status);
        return Ok(over.then(|| view::status(record, key, record.updated_at)));
    }
    let past = record.versions.iter().find(|v| *v.deployment_id == *id);
    past.and_then(|version| view::final_status(record, key, version))
        .map(Some)
        .ok_or_else(|| Rejection::NoSuchDeployment(id.to_string()))
}

// ---- commands --------------------------------------------------------------------------------------------------------

/// The longest time a client may ask to wait, in ms: what the server takes.
const LONGEST_MS: u64 = i64::MAX as u64 / 1_000_000;

fn timeout(option: &str, args: &mut Args) -> Result<i64, Refusal> {
    let ms = args.value_number(option)?;
    i64::try_from(ms).ok().filter(|_| ms <= LONGEST_MS).ok_or_else(|| syntax(format!("{option} is out of range")))
}

/// `DEPLOY.WAIT key [ID id] [UNTIL n status …] [TIMEOUT ms]`
pub fn wait(call: &Call, mut args: Args) -> Result<Answered, Refusal> {
    let key = args.key()?;
    let mut id = None;
    let mut until = Statuses::default();
    let mut timeout_ms = 0;
    while let Some(option) = args.option()? {
        match &*option {
            b"ID" => id = args.value_name("ID", args::DEPLOYMENT_ID_MAX)?,
            b"UNTIL" => {
                for word in args.value_names("UNTIL", 1, Status::ALL.len(), args::TAG_MAX)? {
                    let known = Status::ALL.map(Status::name).join(", ");
                    let status = Status::parse(&word);
                    until.add(status.ok_or_else(|| syntax(format!("UNTIL must name statuses: {known}")))?);
                }
            }
            b"TIMEOUT" => timeout_ms = timeout("TIMEOUT", &mut args)?,
            _ => return Err(unknown(&option)),
        }
    }
    let mut open = Key::read(call.ctx(), key);
    let (Some(record), Some(name)) = (record_at(&mut open)?, key_text(key)) else {
        return Err(no_such_key(key).into());
    };
    let Some(current) = &record.deployment else { return Err(no_such_key(key).into()) };
    let deployment_id = id.unwrap_or_else(|| current.id.clone());
    if let Some(view) = arrived(record, name, &deployment_id, until)? {
        return Ok(call.reply_view(&view, false));
    }
    let seen = Some((current.id.clone(), current.status));
    wait_for(call, name, Wish::Status { deployment_id, until }, seen, timeout_ms, &View::Null)
}

/// `DEPLOY.EVENTS key [AFTER revision] [COUNT n] [BLOCK ms]`
pub fn events(call: &Call, mut args: Args) -> Result<Answered, Refusal> {
    let key = args.key()?;
    let (mut after, mut count, mut block) = (None, None, None);
    while let Some(option) = args.option()? {
        match &*option {
            b"AFTER" => after = Some(args.value_number("AFTER")?),
            b"COUNT" => count = Some(usize::try_from(args.value_positive("COUNT")?).unwrap_or(usize::MAX)),
            b"BLOCK" => block = Some(timeout("BLOCK", &mut args)?),
            _ => return Err(unknown(&option)),
        }
    }
    let mut open = Key::read(call.ctx(), key);
    let (Some(record), Some(name)) = (record_at(&mut open)?, key_text(key)) else {
        return Err(no_such_key(key).into());
    };
    let shown = view::events(record, name, after, count);
    let there = after.unwrap_or(0);
    match block {
        Some(timeout_ms) if record.revision <= there || record.log.is_empty() => {
            let after = there.max(record.revision);
            wait_for(call, name, Wish::Events { after, count }, None, timeout_ms, &shown)
        }
        _ => Ok(call.reply_view(&shown, false)),
    }
}

/// Blocks the caller; one that cannot be blocked is answered as at the timeout, at once.
fn wait_for(
    call: &Call,
    key: &str,
    wish: Wish,
    seen: Option<(Arc<str>, Status)>,
    timeout_ms: i64,
    at_timeout: &View,
) -> Result<Answered, Refusal> {
    let ctx = call.ctx();
    if ctx.flags().denies_blocking() {
        return Ok(call.reply_view(at_timeout, false));
    }
    let Some(who) = ffi::block(ctx) else {
        return Err(Refusal::Internal("the server cannot block this client".to_string()));
    };
    let place = Place { db: ctx.selected_db(), key: Arc::from(key) };
    let timeout = u64::try_from(timeout_ms).ok().filter(|ms| *ms > 0).map(Duration::from_millis);
    let limit = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    registry(|registry| registry.enter(who, Waiting { place, wish, limit }, seen));
    arm(ctx);
    call.answered.set(true);
    Ok(Answered(()))
}

// ---- what happens meanwhile ------------------------------------------------------------------------------------------

/// A record was stored: those who waited for what it now is are woken.
pub fn changed(db: i32, key: &str, stored: &Stored) {
    if !IS_WAITED.load(Ordering::Relaxed) {
        return;
    }
    let place = Place { db, key: Arc::from(key) };
    let woken = registry(|registry| match stored {
        Stored::Record(record) => registry.woken_by(&place, record),
        Stored::AtRest(_) | Stored::Opaque { .. } => registry.everybody_at(&place, &Rejection::ReadOnlyRecord),
    });
    wake(woken);
}

fn wake(woken: Vec<(Blocked, Answer)>) {
    for (who, answer) in woken {
        who.wake(Some(answer));
    }
}

/// What these keys hold may have become something else: it is looked at as soon as the running command is over.
pub fn doubt(which: impl Fn(&Place) -> bool) {
    let ask = registry(|registry| {
        let doubtful: Vec<Place> = registry.rooms.keys().filter(|place| which(place)).cloned().collect();
        registry.doubtful.extend(doubtful);
        let ask = !registry.doubtful.is_empty() && !registry.asked;
        registry.asked |= ask;
        ask
    });
    if ask && !ffi::look_again_soon() {
        registry(|registry| registry.asked = false);
    }
}

/// The same for one key, which is what most are.
pub fn doubt_one(db: i32, name: &[u8]) {
    if !IS_WAITED.load(Ordering::Relaxed) {
        return;
    }
    doubt(|place| place.db == db && place.key.as_bytes() == name);
}

/// Looks at the keys that were in doubt.
pub fn look_again(ctx: Ctx) {
    let doubtful = registry(|registry| {
        registry.asked = false;
        std::mem::take(&mut registry.doubtful)
    });
    for place in doubtful {
        if !ctx.select_db(place.db) {
            continue;
        }
        let name = ctx.string(place.key.as_bytes());
        let mut open = Key::peek(ctx, &name);
        open.wake();
        let gone = match open.slot() {
            Slot::Ours(stored) => {
                // Another record may be at the same status: it is not the one that was seen.
                registry(|registry| {
                    if let Some(room) = registry.rooms.get_mut(&place) {
                        room.seen = None;
                    }
                });
                changed(place.db, &place.key, stored);
                continue;
            }
            Slot::Empty => Rejection::NoSuchKey(place.key.to_string()),
            Slot::Foreign => Rejection::WrongType,
        };
        wake(registry(|registry| registry.everybody_at(&place, &gone)));
    }
}

/// Sees to it that the timer comes when the first client's time is up.
fn arm(ctx: Ctx) {
    let (first, timer) = registry(|registry| (registry.limits.first().map(|(limit, _)| *limit), registry.timer));
    let Some(first) = first else { return };
    if timer.is_some_and(|(due, _)| due <= first) {
        return;
    }
    if let Some((_, later)) = timer {
        ctx.stop_timer(later);
    }
    // Whole ms, rounded up: nobody's time is up before its time.
    let rest = first.saturating_duration_since(Instant::now());
    let after_ms = u64::try_from(rest.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
    let timer = ctx.create_timer_for_waiting(after_ms).map(|timer| (first, timer));
    registry(|registry| registry.timer = timer);
}

/// The timer has come: whose time is up is answered.
pub fn limits_reached(ctx: Ctx) {
    let left = registry(|registry| {
        registry.timer = None;
        registry.leave_by(Instant::now())
    });
    for (who, place, wish) in left {
        who.wake(at_timeout(ctx, &place, &wish));
    }
    arm(ctx);
}

/// What a client is told whose time is up: WAIT nil, EVENTS what is there, which is nothing new.
fn at_timeout(ctx: Ctx, place: &Place, wish: &Wish) -> Option<Answer> {
    let Wish::Events { after, .. } = wish else { return None };
    if !ctx.select_db(place.db) {
        return None;
    }
    let name = ctx.string(place.key.as_bytes());
    let mut open = Key::peek(ctx, &name);
    Some(match record_at(&mut open) {
        Ok(Some(record)) => Answer::Shown(Arc::new(view::events(record, &place.key, Some(*after), None).into_owned())),
        Ok(None) => Answer::Refused(Rejection::NoSuchKey(place.key.to_string())),
        Err(rejection) => Answer::Refused(rejection),
    })
}

/// CLIENT UNBLOCK lets a client's time be up at once.
pub fn time_is_up(ctx: Ctx, who: Blocked) {
    let Some((place, wish)) = registry(|registry| registry.leave(who)) else { return };
    reply(ctx, at_timeout(ctx, &place, &wish).as_ref());
    who.wake(None);
}

/// A client has gone without having been answered.
pub fn has_gone(who: Blocked) {
    if registry(|registry| registry.leave(who)).is_some() {
        who.wake(None);
    }
}

/// Answers a client that was woken.
pub fn reply(ctx: Ctx, answer: Option<&Answer>) {
    match answer {
        Some(Answer::Shown(view)) => reply::view(ctx, view),
        Some(Answer::Refused(rejection)) => reply::refusal(ctx, &Refusal::Rejected(rejection.clone())),
        None => ctx.reply_null(),
    }
}
