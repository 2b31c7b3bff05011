//! One index (database and key → when it wants a tick, and its status) for the timer, for `DEPLOY.LIST` and for INFO.
//!
//! It is a hint: whoever uses an entry opens the key and looks. So it need not know of every way in which a key can
//! come or go, only of enough of them that what is missing is found and what is stale is harmless:
//!
//! - written by the one write path and by DEPLOY.APPLY
//! - found by `rdb_load`, and by the notifications `restore`, `rename_to`, `copy_to`, `move_to`
//! - gone by `unlink` (DEL, UNLINK, expiry, eviction, SET over it, the source of RENAME and MOVE), and by FLUSHDB
//! - swapped by SWAPDB, and by the end of a replica's asynchronous load, which fills an index of its own beside the old
//!
//! Counts for INFO are kept with every change, so that INFO costs the same however many deployments there are.
//! Keys that are not UTF-8 are no deployment keys (SPEC 8), and are not in it.

use super::data_type::Stored;
use super::ffi::{Ctx, Key, LogLevel, Slot};
use super::{home_db, timers};
use crate::engine::deployment::Status;
use crate::engine::next_deadline;
use crate::engine::time::UnixMs;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is known of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// When it wants a tick.
    due: Option<UnixMs>,
    /// None for a record that a newer module wrote.
    status: Option<Status>,
    tasks: usize,
}

impl Entry {
    pub fn of(stored: &Stored) -> Entry {
        match stored {
            Stored::Record(record) => Entry {
                due: next_deadline(record),
                status: record.deployment.as_ref().map(|d| d.status),
                tasks: record.instances.open_tasks(),
            },
            Stored::Opaque { .. } => Entry { due: None, status: None, tasks: 0 },
        }
    }

    pub fn due(&self) -> Option<UnixMs> {
        self.due
    }
}

/// A key in a database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub db: i32,
    pub key: Arc<str>,
}

/// What INFO tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// In the order of [`Status::ALL`].
    pub by_status: [u64; Status::ALL.len()],
    pub timers: u64,
    pub tasks: u64,
}

#[derive(Debug, Default)]
struct Index {
    dbs: BTreeMap<i32, BTreeMap<Arc<str>, Entry>>,
    /// When the timer should look at a key: its due time, or later where a tick has to be tried again.
    wakes: BTreeSet<(UnixMs, Place)>,
    /// The wake of each key that has one, to find it in `wakes`.
    wake_of: BTreeMap<Place, UnixMs>,
    counts: Counts,
}

impl Index {
    const fn new() -> Index {
        Index {
            dbs: BTreeMap::new(),
            wakes: BTreeSet::new(),
            wake_of: BTreeMap::new(),
            counts: Counts { by_status: [0; Status::ALL.len()], timers: 0, tasks: 0 },
        }
    }

    fn set(&mut self, place: &Place, entry: Entry) {
        let old = self.dbs.entry(place.db).or_default().insert(place.key.clone(), entry);
        if let Some(old) = old {
            self.count(&old, false);
        }
        self.count(&entry, true);
        self.wake(place, entry.due);
    }

    fn remove(&mut self, place: &Place) {
        let Some(keys) = self.dbs.get_mut(&place.db) else { return };
        if let Some(old) = keys.remove(&place.key) {
            self.count(&old, false);
        }
        self.wake(place, None);
    }

    /// Sets or takes away the time at which the timer looks at a key.
    fn wake(&mut self, place: &Place, at: Option<UnixMs>) {
        let old = match at {
            Some(at) => self.wake_of.insert(place.clone(), at),
            None => self.wake_of.remove(place),
        };
        if let Some(old) = old {
            self.wakes.remove(&(old, place.clone()));
        }
        if let Some(at) = at {
            self.wakes.insert((at, place.clone()));
        }
        self.counts.timers = self.wakes.len() as u64;
    }

    fn count(&mut self, entry: &Entry, comes: bool) {
        let step = |n: &mut u64, by: u64| *n = if comes { n.saturating_add(by) } else { n.saturating_sub(by) };
        let place = entry.status.and_then(|status| Status::ALL.iter().position(|s| *s == status));
        if let Some(count) = place.and_then(|place| self.counts.by_status.get_mut(place)) {
            step(count, 1);
        }
        step(&mut self.counts.tasks, entry.tasks as u64);
    }

    fn flush(&mut self, db: i32) {
        if db < 0 {
            *self = Index::new();
            return;
        }
        for (key, old) in self.dbs.remove(&db).unwrap_or_default() {
            self.count(&old, false);
            self.wake(&Place { db, key }, None);
        }
    }

    fn swap(&mut self, first: i32, second: i32) {
        let sides = [(first, second), (second, first)];
        let sides = sides.map(|(from, to)| (from, to, self.dbs.remove(&from).unwrap_or_default()));
        // All of both go before any comes, for a key may be in both.
        for (from, _, keys) in &sides {
            for (key, entry) in keys {
                self.count(entry, false);
                self.wake(&Place { db: *from, key: key.clone() }, None);
            }
        }
        for (_, to, keys) in sides {
            for (key, entry) in keys {
                self.set(&Place { db: to, key }, entry);
            }
        }
    }
}

/// The index in use, and the one that an asynchronous load fills.
struct Shelf {
    live: Index,
    staged: Option<Index>,
}

static SHELF: Mutex<Shelf> = Mutex::new(Shelf { live: Index::new(), staged: None });

/// Held for the length of one statement and never across a call of the server, which may call back in here.
fn shelf() -> MutexGuard<'static, Shelf> {
    SHELF.lock().unwrap_or_else(PoisonError::into_inner)
}

fn place(db: i32, name: &[u8]) -> Option<Place> {
    std::str::from_utf8(name).ok().map(|key| Place { db, key: Arc::from(key) })
}

/// A key has a record of this kind now.
pub fn set(db: i32, key: &str, entry: Entry) {
    shelf().live.set(&Place { db, key: Arc::from(key) }, entry);
}

pub fn remove(db: i32, name: &[u8]) {
    if let Some(place) = place(db, name) {
        shelf().live.remove(&place);
    }
}

/// All databases where `db` is negative.
pub fn flush(db: i32) {
    shelf().live.flush(db);
}

pub fn swap(first: i32, second: i32) {
    if first != second {
        shelf().live.swap(first, second);
    }
}

/// An asynchronous load begins: what is loaded from here on belongs to a data set that is not served yet.
pub fn stage() {
    shelf().staged = Some(Index::new());
}

/// It ends: the new data set is served from here on, or was thrown away.
pub fn unstage(completed: bool) {
    let mut shelf = shelf();
    if let Some(staged) = shelf.staged.take().filter(|_| completed) {
        shelf.live = staged;
    }
}

/// `rdb_load` read a record. It need not become a key, if it has expired: [`verify`] sorts that out.
pub fn note_load(db: i32, name: &[u8], stored: &Stored) {
    let Some(place) = place(db, name) else { return };
    let mut shelf = shelf();
    let Shelf { live, staged } = &mut *shelf;
    staged.as_mut().unwrap_or(live).set(&place, Entry::of(stored));
}

/// Looks at every key, after a load.
pub fn verify(ctx: Ctx) {
    let places: Vec<Place> = {
        let shelf = shelf();
        let of = |(db, keys): (&i32, &BTreeMap<Arc<str>, Entry>)| {
            keys.keys().map(|key| Place { db: *db, key: key.clone() }).collect::<Vec<_>>()
        };
        shelf.live.dbs.iter().flat_map(of).collect()
    };
    let home = ctx.selected_db();
    for place in places {
        if ctx.select_db(place.db) {
            look(ctx, place.key.as_bytes());
        }
    }
    ctx.select_db(home);
}

/// Says in the log what a load has brought.
pub fn tell_loaded(ctx: Ctx) {
    let counts = counts();
    let all: u64 = counts.by_status.iter().sum();
    if all > 0 {
        let Counts { timers, tasks, .. } = counts;
        ctx.log(LogLevel::Notice, &format!("{all} deployments loaded, {timers} wait for a time, {tasks} tasks are open"));
    }
}

/// A generic command made a key out of another one. Nothing is written here: that is forbidden inside a notification.
pub fn on_keyspace_event(ctx: Ctx, event: &[u8], name: &[u8]) {
    if matches!(event, b"restore" | b"rename_to" | b"copy_to" | b"move_to") {
        look(ctx, name);
        if ctx.flags().is_primary() {
            timers::arm(ctx);
        }
    }
    home_db::after(ctx, event);
}

/// Brings the entry of a key up to what is really there.
pub fn look(ctx: Ctx, name: &[u8]) {
    let Some(place) = place(ctx.selected_db(), name) else { return };
    let entry = match Key::peek(ctx, &ctx.string(name)).slot() {
        Slot::Ours(stored) => Some(Entry::of(stored)),
        Slot::Empty | Slot::Foreign => None,
    };
    match entry {
        Some(entry) => shelf().live.set(&place, entry),
        None => shelf().live.remove(&place),
    }
}

/// The time at which the timer has to look at some key next.
pub fn next_wake() -> Option<UnixMs> {
    shelf().live.wakes.first().map(|(at, _)| *at)
}

/// A key whose time has come, with the time. It is put off to `until`, so that one that fails is not tried at once.
pub fn take_due(now: UnixMs, until: UnixMs) -> Option<(UnixMs, Place)> {
    let mut shelf = shelf();
    let (at, place) = shelf.live.wakes.first().filter(|(at, _)| *at <= now).cloned()?;
    shelf.live.wake(&place, Some(until));
    Some((at, place))
}

/// Has the timer look at a key no earlier than at `until`.
pub fn put_off(place: &Place, until: UnixMs) {
    let mut shelf = shelf();
    if shelf.live.wake_of.get(place).is_some_and(|at| *at < until) {
        shelf.live.wake(place, Some(until));
    }
}

/// The next keys of a database after `after`, in key order, at most `count`.
pub fn page(db: i32, after: Option<&str>, count: usize) -> Vec<Arc<str>> {
    let shelf = shelf();
    let Some(keys) = shelf.live.dbs.get(&db) else { return Vec::new() };
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    keys.range::<str, _>((from, Bound::Unbounded)).take(count).map(|(key, _)| key.clone()).collect()
}

pub fn counts() -> Counts {
    shelf().live.counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(db: i32, key: &str) -> Place {
        Place { db, key: Arc::from(key) }
    }

    fn entry(due: Option<UnixMs>, status: Status, tasks: usize) -> Entry {
        Entry { due, status: Some(status), tasks }
    }

    fn running(index: &Index) -> u64 {
        index.counts.by_status[0]
    }

    #[test]
    fn counts_and_wakes_follow_every_change() {
        let mut index = Index::new();
        index.set(&at(0, "a"), entry(Some(50), Status::Running, 2));
        index.set(&at(0, "b"), entry(None, Status::Successful, 0));
        index.set(&at(1, "a"), entry(Some(20), Status::Running, 1));
        assert_eq!((running(&index), index.counts.timers, index.counts.tasks), (2, 2, 3));
        assert_eq!(index.wakes.first(), Some(&(20, at(1, "a"))));

        index.set(&at(1, "a"), entry(None, Status::Failed, 0));
        assert_eq!((running(&index), index.counts.timers, index.counts.tasks), (1, 1, 2));

        index.remove(&at(0, "a"));
        index.remove(&at(0, "a"));
        assert_eq!((running(&index), index.counts.timers, index.counts.tasks), (0, 0, 0));
    }

    #[test]
    fn a_swap_exchanges_two_databases_that_have_the_same_key() {
        let mut index = Index::new();
        index.set(&at(0, "a"), entry(Some(50), Status::Running, 2));
        index.set(&at(1, "a"), entry(Some(20), Status::Successful, 1));
        index.set(&at(1, "b"), entry(None, Status::Failed, 0));
        let counts = index.counts;
        index.swap(0, 1);
        assert_eq!(index.counts, counts);
        assert_eq!(index.wakes.iter().cloned().collect::<Vec<_>>(), [(20, at(0, "a")), (50, at(1, "a"))]);
        assert_eq!(index.dbs[&0].len(), 2);
        assert_eq!(index.dbs[&1].len(), 1);
        index.swap(1, 7);
        assert_eq!(index.wakes.last(), Some(&(50, at(7, "a"))));
    }

    #[test]
    fn a_flush_takes_one_database_or_all() {
        let mut index = Index::new();
        index.set(&at(0, "a"), entry(Some(50), Status::Running, 2));
        index.set(&at(3, "a"), entry(Some(20), Status::Running, 1));
        index.flush(3);
        assert_eq!((running(&index), index.counts.timers, index.counts.tasks), (1, 1, 2));
        index.flush(-1);
        assert_eq!(index.counts, Counts::default());
        assert!(index.dbs.is_empty() && index.wakes.is_empty() && index.wake_of.is_empty());
    }
}
