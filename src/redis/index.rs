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
//! Keys that are not UTF-8 are no deployment keys (rule 8), and are not in it.

use super::data_type::Stored;
use super::ffi::{Ctx, Key, LogLevel, Slot as KeySlot};
use super::{aside, home_db, rest, timers};
use crate::engine::deployment::Status;
use crate::engine::time::UnixMs;
use crate::engine::{next_deadline, Summary};
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
            Stored::AtRest(rest) => rest.entry(),
            Stored::Opaque { .. } => Entry { due: None, status: None, tasks: 0 },
        }
    }

    pub fn of_summary(summary: &Summary) -> Entry {
        Entry { due: summary.due, status: Some(summary.status), tasks: summary.tasks }
    }

    /// The deployment has ended, and nothing becomes due about it.
    pub fn is_over(&self) -> bool {
        self.due.is_none() && self.status.is_some_and(|status| !status.is_active())
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

impl Counts {
    fn count(&mut self, entry: &Entry, comes: bool) {
        let step = |n: &mut u64, by: u64| *n = if comes { n.saturating_add(by) } else { n.saturating_sub(by) };
        let place = entry.status.and_then(|status| Status::ALL.iter().position(|s| *s == status));
        if let Some(count) = place.and_then(|place| self.by_status.get_mut(place)) {
            step(count, 1);
        }
        step(&mut self.tasks, entry.tasks as u64);
    }
}

/// What the index keeps of a key. The texts are compared once, to find the slot: what moves with every report, the times,
/// names its slot by number.
#[derive(Debug)]
struct Slot {
    place: Place,
    entry: Entry,
    /// When the timer should look at the key: its due time, or later where a tick has to be tried again.
    wake: Option<UnixMs>,
}

type Id = u32;

/// Grows by a chunk at a time: with a million keys, none of them waits while all are copied.
#[derive(Debug)]
struct Slots {
    chunks: Vec<Vec<Option<Slot>>>,
    free: Vec<Id>,
}

const CHUNK: usize = 4_096;

impl Slots {
    const fn new() -> Slots {
        Slots { chunks: Vec::new(), free: Vec::new() }
    }

    fn get_mut(&mut self, id: Id) -> Option<&mut Slot> {
        self.chunks.get_mut(id as usize / CHUNK)?.get_mut(id as usize % CHUNK)?.as_mut()
    }

    fn insert(&mut self, slot: Slot) -> Id {
        if let Some(id) = self.free.pop() {
            if let Some(place) = self.chunks.get_mut(id as usize / CHUNK).and_then(|c| c.get_mut(id as usize % CHUNK)) {
                *place = Some(slot);
                return id;
            }
        }
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(Some(slot)),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(Some(slot));
                self.chunks.push(chunk);
            }
        }
        let last = self.chunks.last().map_or(0, Vec::len);
        (self.chunks.len().saturating_sub(1) * CHUNK + last.saturating_sub(1)) as Id
    }

    fn remove(&mut self, id: Id) -> Option<Slot> {
        let slot = self.chunks.get_mut(id as usize / CHUNK)?.get_mut(id as usize % CHUNK)?.take()?;
        self.free.push(id);
        Some(slot)
    }
}

#[derive(Debug)]
struct Index {
    /// In key order, for LIST.
    dbs: BTreeMap<i32, BTreeMap<Arc<str>, Id>>,
    slots: Slots,
    wakes: BTreeSet<(UnixMs, Id)>,
    counts: Counts,
}

impl Index {
    const fn new() -> Index {
        Index {
            dbs: BTreeMap::new(),
            slots: Slots::new(),
            wakes: BTreeSet::new(),
            counts: Counts { by_status: [0; Status::ALL.len()], timers: 0, tasks: 0 },
        }
    }

    fn is_large(&self) -> bool {
        self.slots.chunks.len() > 1
    }

    fn find(&self, db: i32, key: &str) -> Option<Id> {
        self.dbs.get(&db)?.get(key).copied()
    }

    fn set(&mut self, db: i32, key: &str, entry: Entry) -> Id {
        let id = match self.find(db, key) {
            Some(id) => id,
            None => {
                let place = Place { db, key: Arc::from(key) };
                let empty = Entry { due: None, status: None, tasks: 0 };
                let id = self.slots.insert(Slot { place: place.clone(), entry: empty, wake: None });
                self.dbs.entry(db).or_default().insert(place.key, id);
                id
            }
        };
        if let Some(slot) = self.slots.get_mut(id) {
            let old = std::mem::replace(&mut slot.entry, entry);
            self.counts.count(&old, false);
            self.counts.count(&entry, true);
        }
        self.wake(id, entry.due);
        id
    }

    fn remove(&mut self, db: i32, key: &str) {
        let Some(id) = self.dbs.get_mut(&db).and_then(|keys| keys.remove(key)) else { return };
        self.wake(id, None);
        if let Some(slot) = self.slots.remove(id) {
            self.counts.count(&slot.entry, false);
        }
    }

    /// Sets or takes away the time at which the timer looks at a key.
    fn wake(&mut self, id: Id, at: Option<UnixMs>) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        if slot.wake != at {
            if let Some(old) = slot.wake {
                self.wakes.remove(&(old, id));
            }
            slot.wake = at;
            if let Some(at) = at {
                self.wakes.insert((at, id));
            }
            self.counts.timers = self.wakes.len() as u64;
        }
    }

    /// The next key to look at, with the time.
    fn next(&mut self) -> Option<(UnixMs, Id, Place)> {
        let (at, id) = *self.wakes.first()?;
        self.slots.get_mut(id).map(|slot| (at, id, slot.place.clone()))
    }

    fn flush(&mut self, db: i32) -> Option<Index> {
        if db < 0 || self.dbs.keys().all(|known| *known == db) {
            return Some(std::mem::replace(self, Index::new()));
        }
        for id in self.dbs.remove(&db).unwrap_or_default().into_values() {
            self.wake(id, None);
            if let Some(slot) = self.slots.remove(id) {
                self.counts.count(&slot.entry, false);
            }
        }
        None
    }

    fn swap(&mut self, first: i32, second: i32) {
        let sides = [(first, second), (second, first)];
        let sides = sides.map(|(from, to)| (to, self.dbs.remove(&from).unwrap_or_default()));
        for (to, keys) in sides {
            for id in keys.values() {
                if let Some(slot) = self.slots.get_mut(*id) {
                    slot.place.db = to;
                }
            }
            self.dbs.insert(to, keys);
        }
    }
}

/// The index in use, and the one that an asynchronous load fills.
struct Shelf {
    live: Index,
    staged: Option<Index>,
    /// The last record that a load has read.
    last_loaded: Option<Id>,
    /// What was read by a load and became no key.
    doubtful: Vec<Place>,
}

static SHELF: Mutex<Shelf> =
    Mutex::new(Shelf { live: Index::new(), staged: None, last_loaded: None, doubtful: Vec::new() });

/// Held for the length of one statement and never across a call of the server, which may call back in here.
fn shelf() -> MutexGuard<'static, Shelf> {
    SHELF.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(name: &[u8]) -> Option<&str> {
    std::str::from_utf8(name).ok()
}

/// A key has a record of this kind now.
pub fn set(db: i32, key: &str, entry: Entry) {
    shelf().live.set(db, key, entry);
}

pub fn remove(db: i32, name: &[u8]) {
    if let Some(key) = text(name) {
        shelf().live.remove(db, key);
    }
}

/// All databases where `db` is negative. What is thrown away whole is freed beside: with a million keys it takes a while.
pub fn flush(db: i32) {
    let old = shelf().live.flush(db);
    if let Some(old) = old.filter(Index::is_large) {
        aside::drop_aside(old);
    }
}

pub fn swap(first: i32, second: i32) {
    if first != second {
        shelf().live.swap(first, second);
        rest::swap(first, second);
    }
}

/// An asynchronous load begins: what is loaded from here on belongs to a data set that is not served yet.
pub fn stage() {
    shelf().staged = Some(Index::new());
}

/// It ends: the new data set is served from here on, or was thrown away.
pub fn unstage(completed: bool) {
    let old = {
        let mut shelf = shelf();
        match shelf.staged.take() {
            Some(staged) if completed => Some(std::mem::replace(&mut shelf.live, staged)),
            staged => {
                shelf.doubtful.clear();
                staged
            }
        }
    };
    if let Some(old) = old.filter(Index::is_large) {
        aside::drop_aside(old);
    }
}

/// `rdb_load` read a record. It need not become a key, if it has expired: see [`doubt_last_loaded`].
pub fn note_load(db: i32, name: &[u8], stored: &Stored) {
    let Some(key) = text(name) else { return };
    let entry = Entry::of(stored);
    let mut shelf = shelf();
    let Shelf { live, staged, last_loaded, .. } = &mut *shelf;
    *last_loaded = Some(staged.as_mut().unwrap_or(live).set(db, key, entry));
}

/// What was loaded last is freed at once.
pub fn doubt_last_loaded() {
    let mut shelf = shelf();
    let Shelf { live, staged, last_loaded, doubtful } = &mut *shelf;
    let slot = last_loaded.take().and_then(|id| staged.as_mut().unwrap_or(live).slots.get_mut(id));
    doubtful.extend(slot.map(|slot| slot.place.clone()));
}

/// After a load, looks at the keys that it has read and that may be none.
pub fn verify(ctx: Ctx) {
    let doubtful = {
        let mut shelf = shelf();
        shelf.last_loaded = None;
        // Those of a data set that is not served yet are looked at when it is.
        if shelf.staged.is_some() {
            return;
        }
        std::mem::take(&mut shelf.doubtful)
    };
    let home = ctx.selected_db();
    for place in doubtful {
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
        ctx.log(
            LogLevel::Notice,
            &format!("{all} deployments loaded, {timers} wait for a time, {tasks} tasks are open"),
        );
    }
}

/// A generic command made a key out of another one. Nothing is written here: that is forbidden inside a notification.
pub fn on_keyspace_event(ctx: Ctx, event: &[u8], name: &[u8]) {
    if matches!(event, b"restore" | b"rename_to" | b"copy_to" | b"move_to") {
        look(ctx, name);
        Key::peek(ctx, &ctx.string(name)).stand_in_line_anew();
        if ctx.flags().is_primary() {
            timers::arm(ctx);
        }
    }
    home_db::after(ctx, event);
}

/// Brings the entry of a key up to what is really there.
pub fn look(ctx: Ctx, name: &[u8]) {
    let (db, Some(key)) = (ctx.selected_db(), text(name)) else { return };
    let entry = match Key::peek(ctx, &ctx.string(name)).slot() {
        KeySlot::Ours(stored) => Some(Entry::of(stored)),
        KeySlot::Empty | KeySlot::Foreign => None,
    };
    match entry {
        Some(entry) => set(db, key, entry),
        None => shelf().live.remove(db, key),
    }
}

/// The time at which the timer has to look at some key next.
pub fn next_wake() -> Option<UnixMs> {
    shelf().live.wakes.first().map(|(at, _)| *at)
}

/// A key whose time has come, with the time. It is put off to `until`, so that one that fails is not tried at once.
pub fn take_due(now: UnixMs, until: UnixMs) -> Option<(UnixMs, Place)> {
    let mut shelf = shelf();
    let (at, id, place) = shelf.live.next().filter(|(at, ..)| *at <= now)?;
    shelf.live.wake(id, Some(until));
    Some((at, place))
}

/// Has the timer look at a key no earlier than at `until`.
pub fn put_off(db: i32, key: &str, until: UnixMs) {
    let mut shelf = shelf();
    let Some(id) = shelf.live.find(db, key) else { return };
    if shelf.live.slots.get_mut(id).and_then(|slot| slot.wake).is_some_and(|at| at < until) {
        shelf.live.wake(id, Some(until));
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

    fn entry(due: Option<UnixMs>, status: Status, tasks: usize) -> Entry {
        Entry { due, status: Some(status), tasks }
    }

    /// All wakes, in order.
    fn wakes(index: &mut Index) -> Vec<(UnixMs, i32, String)> {
        let ids: Vec<(UnixMs, Id)> = index.wakes.iter().copied().collect();
        let place = |(at, id)| index.slots.get_mut(id).map(|slot| (at, slot.place.db, slot.place.key.to_string()));
        ids.into_iter().filter_map(place).collect()
    }

    fn running(index: &Index) -> u64 {
        index.counts.by_status[0]
    }

    #[test]
    fn counts_and_wakes_follow_every_change() {
        let mut index = Index::new();
        index.set(0, "a", entry(Some(50), Status::Running, 2));
        index.set(0, "b", entry(None, Status::Successful, 0));
        index.set(1, "a", entry(Some(20), Status::Running, 1));
        assert_eq!((running(&index), index.counts.timers, index.counts.tasks), (2, 2, 3));
        assert_eq!(wakes(&mut index), [(20, 1, "a".to_string()), (50, 0, "a".to_string())]);

        index.set(1, "a", entry(None, Status::Failed, 0));
        assert_eq!((running(&index), index.counts.timers, index.counts.tasks), (1, 1, 2));

        index.remove(0, "a");
        index.remove(0, "a");
        assert_eq!((running(&index), index.counts.timers, index.counts.tasks), (0, 0, 0));
    }

    #[test]
    fn a_swap_exchanges_two_databases_that_have_the_same_key() {
        let mut index = Index::new();
        index.set(0, "a", entry(Some(50), Status::Running, 2));
        index.set(1, "a", entry(Some(20), Status::Successful, 1));
        index.set(1, "b", entry(None, Status::Failed, 0));
        let counts = index.counts;
        index.swap(0, 1);
        assert_eq!(index.counts, counts);
        assert_eq!(wakes(&mut index), [(20, 0, "a".to_string()), (50, 1, "a".to_string())]);
        assert_eq!(index.dbs[&0].len(), 2);
        assert_eq!(index.dbs[&1].len(), 1);
        index.swap(1, 7);
        assert_eq!(wakes(&mut index).last(), Some(&(50, 7, "a".to_string())));
        index.remove(7, "a");
        index.remove(0, "a");
        assert!(wakes(&mut index).is_empty());
    }

    #[test]
    fn a_flush_takes_one_database_or_all() {
        let mut index = Index::new();
        index.set(0, "a", entry(Some(50), Status::Running, 2));
        index.set(3, "a", entry(Some(20), Status::Running, 1));
        index.flush(3);
        assert_eq!((running(&index), index.counts.timers, index.counts.tasks), (1, 1, 2));
        index.flush(-1);
        assert_eq!(index.counts, Counts::default());
        assert!(index.dbs.is_empty() && index.wakes.is_empty() && index.slots.chunks.is_empty());
    }

    #[test]
    fn a_slot_that_is_free_again_is_taken_first() {
        let mut index = Index::new();
        let names: Vec<String> = (0..CHUNK + 10).map(|n| n.to_string()).collect();
        for name in &names {
            index.set(0, name, entry(Some(7), Status::Running, 1));
        }
        assert_eq!(index.slots.chunks.len(), 2);
        for name in names.iter().rev().skip(5) {
            index.remove(0, name);
        }
        assert_eq!((running(&index), index.counts.timers, index.counts.tasks), (5, 5, 5));
        for name in &names {
            index.set(0, name, entry(Some(8), Status::Running, 2));
        }
        let all = names.len() as u64;
        assert_eq!((running(&index), index.counts.timers, index.counts.tasks), (all, all, 2 * all));
        assert_eq!(index.slots.chunks.len(), 2);
    }
}
