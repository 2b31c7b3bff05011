//! The index of all keys: database and key → the time of the record's next tick, and its status. It serves the timer,
//! `DEPLOY.LIST`, the page of a database and INFO.
//!
//! It is a hint: whoever uses an entry opens the key and looks. So it need not observe every way in which a key can
//! appear or disappear, only enough of them that what is missing is found and what is stale is harmless:
//!
//! - written by the write path
//! - added by `rdb_load`, and by the notifications `restore`, `rename_to`, `copy_to`, `move_to`
//! - removed by `unlink` (DEL, UNLINK, expiry, eviction, SET over it, the source of RENAME and MOVE), and by FLUSHDB
//! - removed when another node of the cluster serves the key's slot; held back while its slot is on the way to this node
//!   ([`importing`](super::importing))
//! - swapped by SWAPDB, and by the end of a replica's asynchronous load, which fills an index of its own beside the old
//!
//! Counts are kept with every change, and so is the order of what the page of a database shows, so that INFO and that
//! page cost the same however many deployments there are.
//! Keys that are not UTF-8 are no deployment keys (rule 8 "Codes"), and are not in it.

use super::importing;
use super::stored::{DbKey, IndexEntry};
use crate::engine::deployment::Status;
use crate::engine::time::UnixMs;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The counts that INFO shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatusCounts {
    /// In the order of [`Status::ALL`].
    pub by_status: [u64; Status::ALL.len()],
    pub timers: u64,
    pub tasks: u64,
    /// Instances that drain.
    pub draining: u64,
    /// Instances on standby.
    pub standby: u64,
    /// Records that are kept as bytes, because they cannot be read.
    pub unreadable: u64,
}

impl StatusCounts {
    const NONE: StatusCounts =
        StatusCounts { by_status: [0; Status::ALL.len()], timers: 0, tasks: 0, draining: 0, standby: 0, unreadable: 0 };

    fn add(&mut self, entry: &IndexEntry) {
        if let Some(count) = self.count_of(entry) {
            *count = count.saturating_add(1);
        }
        self.tasks = self.tasks.saturating_add(u64::from(entry.tasks));
        self.draining = self.draining.saturating_add(u64::from(entry.draining));
        self.standby = self.standby.saturating_add(u64::from(entry.standby));
        self.unreadable = self.unreadable.saturating_add(u64::from(entry.is_unreadable));
    }

    fn remove(&mut self, entry: &IndexEntry) {
        if let Some(count) = self.count_of(entry) {
            *count = count.saturating_sub(1);
        }
        self.tasks = self.tasks.saturating_sub(u64::from(entry.tasks));
        self.draining = self.draining.saturating_sub(u64::from(entry.draining));
        self.standby = self.standby.saturating_sub(u64::from(entry.standby));
        self.unreadable = self.unreadable.saturating_sub(u64::from(entry.is_unreadable));
    }

    fn count_of(&mut self, entry: &IndexEntry) -> Option<&mut u64> {
        let index = entry.status.and_then(|status| Status::ALL.iter().position(|s| *s == status));
        index.and_then(|index| self.by_status.get_mut(index))
    }
}

/// One key of the index. Keys are compared once, to find the slot: the due times, which change with every report, refer
/// to it by number.
#[derive(Debug)]
struct Slot {
    key: DbKey,
    entry: IndexEntry,
    /// The time at which the timer visits the key: its due time, or later where a tick has to be retried.
    due: Option<UnixMs>,
}

type SlotId = u32;

/// A slab of slots. It grows by a chunk at a time: with a million keys, no insertion copies them all.
#[derive(Debug)]
struct Slab {
    chunks: Vec<Vec<Option<Slot>>>,
    free: Vec<SlotId>,
}

const CHUNK: usize = 4_096;

impl Slab {
    const fn new() -> Slab {
        Slab { chunks: Vec::new(), free: Vec::new() }
    }

    fn get_mut(&mut self, id: SlotId) -> Option<&mut Slot> {
        self.chunks.get_mut(id as usize / CHUNK)?.get_mut(id as usize % CHUNK)?.as_mut()
    }

    fn insert(&mut self, slot: Slot) -> SlotId {
        if let Some(id) = self.free.pop() {
            if let Some(empty) = self.chunks.get_mut(id as usize / CHUNK).and_then(|c| c.get_mut(id as usize % CHUNK)) {
                *empty = Some(slot);
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
        (self.chunks.len().saturating_sub(1) * CHUNK + last.saturating_sub(1)) as SlotId
    }

    fn remove(&mut self, id: SlotId) -> Option<Slot> {
        let slot = self.chunks.get_mut(id as usize / CHUNK)?.get_mut(id as usize % CHUNK)?.take()?;
        self.free.push(id);
        Some(slot)
    }
}

/// A section of the page of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Deployments that wait for a person.
    Waiting,
    Running,
    Failed,
}

impl Section {
    fn of(entry: &IndexEntry) -> Option<Section> {
        match entry.status? {
            Status::AwaitingPromotion | Status::Paused => Some(Section::Waiting),
            Status::Running => Some(Section::Running),
            Status::Failed => Some(Section::Failed),
            Status::Successful | Status::Cancelled | Status::VersionRecorded => None,
        }
    }
}

/// One database.
#[derive(Debug, Default)]
struct Db {
    /// In key order, for LIST.
    keys: BTreeMap<Arc<str>, SlotId>,
    /// The keys that the page of the database may show, by [`IndexEntry::since`].
    shown: BTreeSet<(Section, UnixMs, SlotId)>,
    /// Without timers.
    counts: StatusCounts,
}

impl Db {
    fn replace(&mut self, id: SlotId, old: &IndexEntry, new: &IndexEntry) {
        self.counts.remove(old);
        self.counts.add(new);
        let (section, was_in) = (Section::of(new), Section::of(old));
        if (section, new.since) != (was_in, old.since) {
            was_in.map(|section| self.shown.remove(&(section, old.since, id)));
            section.map(|section| self.shown.insert((section, new.since, id)));
        }
    }
}

/// The index of one data set.
#[derive(Debug)]
pub struct Index {
    dbs: BTreeMap<i32, Db>,
    slots: Slab,
    due: BTreeSet<(UnixMs, SlotId)>,
    counts: StatusCounts,
}

impl Index {
    const fn new() -> Index {
        Index { dbs: BTreeMap::new(), slots: Slab::new(), due: BTreeSet::new(), counts: StatusCounts::NONE }
    }

    /// Large enough that freeing it takes a while.
    pub fn is_large(&self) -> bool {
        self.slots.chunks.len() > 1
    }

    fn find(&self, db: i32, key: &str) -> Option<SlotId> {
        self.dbs.get(&db)?.keys.get(key).copied()
    }

    fn set(&mut self, db: i32, key: &str, mut entry: IndexEntry) -> SlotId {
        let id = match self.find(db, key) {
            Some(id) => id,
            None => {
                let key = DbKey { db, key: Arc::from(key) };
                let id = self.slots.insert(Slot { key: key.clone(), entry: IndexEntry::default(), due: None });
                self.dbs.entry(db).or_default().keys.insert(key.key, id);
                id
            }
        };
        if let Some(slot) = self.slots.get_mut(id) {
            // The record does not say since when it awaits its promotion: from the first time that this was seen.
            if entry.status == Some(Status::AwaitingPromotion) && slot.entry.status == entry.status {
                entry.since = slot.entry.since;
            }
            let old = std::mem::replace(&mut slot.entry, entry);
            self.counts.remove(&old);
            self.counts.add(&entry);
            self.dbs.entry(db).or_default().replace(id, &old, &entry);
        }
        self.schedule(id, entry.due);
        id
    }

    fn remove(&mut self, db: i32, key: &str) {
        let Some(of_db) = self.dbs.get_mut(&db) else { return };
        let Some(id) = of_db.keys.remove(key) else { return };
        if let Some(slot) = self.slots.get_mut(id) {
            of_db.replace(id, &slot.entry, &IndexEntry::default());
        }
        self.free(id);
    }

    fn free(&mut self, id: SlotId) {
        self.schedule(id, None);
        if let Some(slot) = self.slots.remove(id) {
            self.counts.remove(&slot.entry);
        }
    }

    /// Returns at most `count` keys of a section: the newest failures, but of what runs or waits the oldest.
    fn shown(&mut self, db: i32, section: Section, count: usize) -> Vec<Arc<str>> {
        let Some(of_db) = self.dbs.get(&db) else { return Vec::new() };
        let all = of_db.shown.range((section, UnixMs::MIN, SlotId::MIN)..=(section, UnixMs::MAX, SlotId::MAX));
        let ids: Vec<SlotId> = match section {
            Section::Failed => all.rev().take(count).map(|(.., id)| *id).collect(),
            Section::Waiting | Section::Running => all.take(count).map(|(.., id)| *id).collect(),
        };
        ids.into_iter().filter_map(|id| self.slots.get_mut(id).map(|slot| slot.key.key.clone())).collect()
    }

    /// Sets or clears the time at which the timer visits a key.
    fn schedule(&mut self, id: SlotId, at: Option<UnixMs>) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        if slot.due != at {
            if let Some(old) = slot.due {
                self.due.remove(&(old, id));
            }
            slot.due = at;
            if let Some(at) = at {
                self.due.insert((at, id));
            }
            self.counts.timers = self.due.len() as u64;
        }
    }

    /// The earliest due key, with its time.
    fn first_due(&mut self) -> Option<(UnixMs, SlotId, DbKey)> {
        let (at, id) = *self.due.first()?;
        self.slots.get_mut(id).map(|slot| (at, id, slot.key.clone()))
    }

    /// Removes one database, or all where `db` is negative. Returns the old index where all of it was removed.
    fn flush(&mut self, db: i32) -> Option<Index> {
        if db < 0 || self.dbs.keys().all(|known| *known == db) {
            return Some(std::mem::replace(self, Index::new()));
        }
        for id in self.dbs.remove(&db).unwrap_or_default().keys.into_values() {
            self.free(id);
        }
        None
    }

    fn finished_after(&mut self, after: Option<&DbKey>, count: usize) -> (Vec<DbKey>, Option<DbKey>) {
        let first_db = after.map_or(i32::MIN, |after| after.db);
        let mut ids = Vec::new();
        for (db, of_db) in self.dbs.range(first_db..) {
            let from = match after {
                Some(after) if after.db == *db => Bound::Excluded(&*after.key),
                _ => Bound::Unbounded,
            };
            ids.extend(of_db.keys.range::<str, _>((from, Bound::Unbounded)).take(count - ids.len()).map(|(_, id)| *id));
            if ids.len() >= count {
                break;
            }
        }
        let is_full = ids.len() >= count;
        let (mut finished, mut last) = (Vec::new(), None);
        for id in ids {
            let Some(slot) = self.slots.get_mut(id) else { continue };
            if slot.entry.is_finished() {
                finished.push(slot.key.clone());
            }
            last = Some(slot.key.clone());
        }
        (finished, last.filter(|_| is_full))
    }

    fn swap(&mut self, first: i32, second: i32) {
        let sides = [(first, second), (second, first)];
        let sides = sides.map(|(from, to)| (to, self.dbs.remove(&from).unwrap_or_default()));
        for (to, of_db) in sides {
            for id in of_db.keys.values() {
                if let Some(slot) = self.slots.get_mut(*id) {
                    slot.key.db = to;
                }
            }
            self.dbs.insert(to, of_db);
        }
    }
}

/// The index in use, and the index that an asynchronous load fills.
struct Indexes {
    live: Index,
    staged: Option<Index>,
    /// The last record that a load has read.
    last_loaded: Option<SlotId>,
    /// Keys decoded by `rdb_load` whose value the server then discarded (already expired).
    dropped: Vec<DbKey>,
}

static INDEXES: Mutex<Indexes> =
    Mutex::new(Indexes { live: Index::new(), staged: None, last_loaded: None, dropped: Vec::new() });

/// Locks the indexes: for one statement, and never across a call of the server, which may call back in here.
fn indexes() -> MutexGuard<'static, Indexes> {
    INDEXES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(name: &[u8]) -> Option<&str> {
    std::str::from_utf8(name).ok()
}

/// Sets the entry of a key, unless its slot is still another node's.
pub fn set(db: i32, key: &str, entry: IndexEntry) {
    if !importing::defer(db, key) {
        indexes().live.set(db, key, entry);
    }
}

pub fn remove(db: i32, name: &[u8]) {
    if let Some(key) = text(name) {
        indexes().live.remove(db, key);
    }
}

/// Removes one database, or all where `db` is negative. Returns the old index where all of it was removed.
pub fn flush(db: i32) -> Option<Index> {
    indexes().live.flush(db)
}

/// Exchanges two databases.
pub fn swap(first: i32, second: i32) {
    if first != second {
        indexes().live.swap(first, second);
    }
}

/// Begins an index for an asynchronous load: what is loaded from here on belongs to a data set that is not served yet.
pub fn begin_staging() {
    indexes().staged = Some(Index::new());
}

/// Ends an asynchronous load: the new data set is served from here on, or was discarded. Returns the other index.
pub fn finish_staging(completed: bool) -> Option<Index> {
    let mut indexes = indexes();
    match indexes.staged.take() {
        Some(staged) if completed => Some(std::mem::replace(&mut indexes.live, staged)),
        staged => {
            indexes.dropped.clear();
            staged
        }
    }
}

/// Adds a record that `rdb_load` has read. It may not become a key, if it has expired: see [`last_load_was_dropped`].
pub fn add_loaded(db: i32, name: &[u8], entry: IndexEntry) {
    let Some(key) = text(name).filter(|key| !importing::defer(db, key)) else { return };
    let mut indexes = indexes();
    let Indexes { live, staged, last_loaded, .. } = &mut *indexes;
    *last_loaded = Some(staged.as_mut().unwrap_or(live).set(db, key, entry));
}

/// Marks the last loaded record as one that the server freed at once.
pub fn last_load_was_dropped() {
    let mut indexes = indexes();
    let Indexes { live, staged, last_loaded, dropped } = &mut *indexes;
    let slot = last_loaded.take().and_then(|id| staged.as_mut().unwrap_or(live).slots.get_mut(id));
    dropped.extend(slot.map(|slot| slot.key.clone()));
}

/// Ends a load: returns the keys that it has read and that may not exist. Those of a data set that is not served yet
/// are returned when it is.
pub fn take_dropped() -> Vec<DbKey> {
    let mut indexes = indexes();
    indexes.last_loaded = None;
    match indexes.staged {
        Some(_) => Vec::new(),
        None => std::mem::take(&mut indexes.dropped),
    }
}

/// The earliest time at which the timer has to visit a key.
pub fn next_due() -> Option<UnixMs> {
    indexes().live.due.first().map(|(at, _)| *at)
}

/// Takes the earliest due key, with its due time, and reschedules it at `until`, so that a key whose tick fails is
/// retried later.
pub fn take_due(now: UnixMs, until: UnixMs) -> Option<(UnixMs, DbKey)> {
    let mut indexes = indexes();
    let (at, id, key) = indexes.live.first_due().filter(|(at, ..)| *at <= now)?;
    indexes.live.schedule(id, Some(until));
    Some((at, key))
}

/// Postpones the visit of a key to `until`.
pub fn postpone(db: i32, key: &str, until: UnixMs) {
    let mut indexes = indexes();
    let Some(id) = indexes.live.find(db, key) else { return };
    if indexes.live.slots.get_mut(id).and_then(|slot| slot.due).is_some_and(|at| at < until) {
        indexes.live.schedule(id, Some(until));
    }
}

/// Returns the keys of a database that follow `after`, in key order, at most `count`.
pub fn page(db: i32, after: Option<&str>, count: usize) -> Vec<Arc<str>> {
    let indexes = indexes();
    let Some(of_db) = indexes.live.dbs.get(&db) else { return Vec::new() };
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    of_db.keys.range::<str, _>((from, Bound::Unbounded)).take(count).map(|(key, _)| key.clone()).collect()
}

/// Returns the keys with finished deployments among the next `count` keys after `after`, over all databases, and the
/// last key looked at; None at the end.
pub fn finished_after(after: Option<&DbKey>, count: usize) -> (Vec<DbKey>, Option<DbKey>) {
    indexes().live.finished_after(after, count)
}

/// Returns every key.
pub fn keys() -> Vec<DbKey> {
    let indexes = indexes();
    let of_db = |(db, of_db): (&i32, &Db)| {
        let db = *db;
        of_db.keys.keys().map(move |key| DbKey { db, key: key.clone() }).collect::<Vec<_>>()
    };
    indexes.live.dbs.iter().flat_map(of_db).collect()
}

pub fn counts() -> StatusCounts {
    indexes().live.counts
}

/// Returns the counts of one database, without timers.
pub fn counts_of(db: i32) -> StatusCounts {
    indexes().live.dbs.get(&db).map(|of_db| of_db.counts).unwrap_or_default()
}

/// Returns at most `count` keys of a section of the page of a database: the newest failures, but of what runs or waits
/// the oldest.
pub fn shown(db: i32, section: Section, count: usize) -> Vec<Arc<str>> {
    indexes().live.shown(db, section, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(due: Option<UnixMs>, status: Status, tasks: u32) -> IndexEntry {
        IndexEntry { due, status: Some(status), tasks, ..IndexEntry::default() }
    }

    /// All due times, in order.
    fn due_times(index: &mut Index) -> Vec<(UnixMs, i32, String)> {
        let ids: Vec<(UnixMs, SlotId)> = index.due.iter().copied().collect();
        let with_key = |(at, id)| index.slots.get_mut(id).map(|slot| (at, slot.key.db, slot.key.key.to_string()));
        ids.into_iter().filter_map(with_key).collect()
    }

    fn running(index: &Index) -> u64 {
        index.counts.by_status[0]
    }

    #[test]
    fn counts_and_due_times_follow_every_change() {
        let mut index = Index::new();
        index.set(0, "a", entry(Some(50), Status::Running, 2));
        index.set(0, "b", entry(None, Status::Successful, 0));
        index.set(1, "a", entry(Some(20), Status::Running, 1));
        assert_eq!((running(&index), index.counts.timers, index.counts.tasks), (2, 2, 3));
        index.set(0, "b", IndexEntry { draining: 3, standby: 2, ..entry(None, Status::Successful, 0) });
        assert_eq!((index.counts.draining, index.dbs[&0].counts.draining), (3, 3));
        assert_eq!((index.counts.standby, index.dbs[&0].counts.standby), (2, 2));
        assert_eq!(due_times(&mut index), [(20, 1, "a".to_string()), (50, 0, "a".to_string())]);

        index.set(1, "a", entry(None, Status::Failed, 0));
        assert_eq!((running(&index), index.counts.timers, index.counts.tasks), (1, 1, 2));

        index.remove(0, "a");
        index.remove(0, "a");
        index.remove(0, "b");
        assert_eq!((running(&index), index.counts.timers, index.counts.tasks), (0, 0, 0));
        assert_eq!((index.counts.draining, index.counts.standby), (0, 0));
    }

    #[test]
    fn unreadable_records_are_counted_as_such_and_as_nothing_else() {
        let unreadable = IndexEntry { is_unreadable: true, ..IndexEntry::default() };
        let mut index = Index::new();
        index.set(0, "a", entry(Some(50), Status::Running, 2));
        index.set(0, "a", unreadable);
        index.set(0, "a", unreadable);
        index.set(1, "b", unreadable);
        assert_eq!(index.counts, StatusCounts { unreadable: 2, ..StatusCounts::default() });
        index.set(1, "b", entry(None, Status::Failed, 0));
        assert_eq!(index.counts.unreadable, 1);
        index.remove(0, "a");
        assert_eq!(index.counts.unreadable, 0);
    }

    #[test]
    fn swap_exchanges_databases_with_equal_keys() {
        let mut index = Index::new();
        index.set(0, "a", entry(Some(50), Status::Running, 2));
        index.set(1, "a", entry(Some(20), Status::Successful, 1));
        index.set(1, "b", entry(None, Status::Failed, 0));
        let counts = index.counts;
        index.swap(0, 1);
        assert_eq!(index.counts, counts);
        assert_eq!(due_times(&mut index), [(20, 0, "a".to_string()), (50, 1, "a".to_string())]);
        assert_eq!(index.dbs[&0].keys.len(), 2);
        assert_eq!(index.dbs[&1].keys.len(), 1);
        index.swap(1, 7);
        assert_eq!(due_times(&mut index).last(), Some(&(50, 7, "a".to_string())));
        index.remove(7, "a");
        index.remove(0, "a");
        assert!(due_times(&mut index).is_empty());
    }

    #[test]
    fn finished_records_are_found_page_by_page() {
        let mut index = Index::new();
        let mut all = Vec::new();
        for (db, key, is_finished) in
            [(0, "a", true), (0, "b", false), (0, "c", true), (3, "a", true), (3, "b", true), (7, "c", false)]
        {
            let status = if is_finished { Status::Successful } else { Status::Running };
            index.set(db, key, entry(None, status, 0));
            all.extend(is_finished.then(|| DbKey { db, key: Arc::from(key) }));
        }
        for count in 1..8 {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let (page, last) = index.finished_after(after.as_ref(), count);
                found.extend(page);
                after = last;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, all, "{count} at a time");
        }
    }

    #[test]
    fn flush_removes_one_database_or_all() {
        let mut index = Index::new();
        index.set(0, "a", entry(Some(50), Status::Running, 2));
        index.set(3, "a", entry(Some(20), Status::Running, 1));
        index.flush(3);
        assert_eq!((running(&index), index.counts.timers, index.counts.tasks), (1, 1, 2));
        index.flush(-1);
        assert_eq!(index.counts, StatusCounts::default());
        assert!(index.dbs.is_empty() && index.due.is_empty() && index.slots.chunks.is_empty());
    }

    #[test]
    fn sections_hold_what_a_page_shows_in_order() {
        let mut index = Index::new();
        let at = |status, since| IndexEntry { since, ..entry(None, status, 0) };
        let shown = |index: &mut Index, db| -> Vec<String> {
            [Section::Waiting, Section::Running, Section::Failed]
                .map(|section| index.shown(db, section, 2).join(" "))
                .into()
        };
        for n in 0..5_u64 {
            index.set(0, &format!("done-{n}"), at(Status::Successful, 0));
            index.set(0, &format!("failed-{n}"), at(Status::Failed, 100 + n));
            index.set(0, &format!("running-{n}"), at(Status::Running, 100 - n));
        }
        index.set(0, "paused", at(Status::Paused, 7));
        index.set(0, "awaiting", at(Status::AwaitingPromotion, 5));
        assert_eq!(shown(&mut index, 0), ["awaiting paused", "running-4 running-3", "failed-4 failed-3"]);
        // A change of a record that goes on waiting does not move it.
        index.set(0, "awaiting", at(Status::AwaitingPromotion, 50));
        assert_eq!(shown(&mut index, 0)[0], "awaiting paused");
        index.set(0, "running-4", at(Status::Failed, 90));
        index.set(0, "awaiting", at(Status::Successful, 0));
        index.remove(0, "failed-4");
        assert_eq!(shown(&mut index, 0), ["paused", "running-3 running-2", "failed-3 failed-2"]);
        index.set(1, "other", at(Status::Failed, 1));
        index.swap(0, 1);
        assert_eq!(shown(&mut index, 0), ["", "", "other"]);
        assert_eq!(shown(&mut index, 1)[2], "failed-3 failed-2");
        assert_eq!(index.dbs[&1].counts.by_status.iter().sum::<u64>(), 16);
        let all = index.dbs.values().map(|db| db.counts.by_status.iter().sum::<u64>()).sum::<u64>();
        assert_eq!(index.counts.by_status.iter().sum::<u64>(), all);
        index.flush(1);
        assert_eq!(shown(&mut index, 1), ["", "", ""]);
        assert_eq!(shown(&mut index, 0), ["", "", "other"]);
    }

    #[test]
    fn free_slots_are_reused_first() {
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
