//! Every instance of a record, with what is asked of them often: counts, open tasks, due times.
//!
//! Few instances, as nearly all records have, are a sorted vector that is scanned ([`small`]); many have indexes
//! ([`indexed`]).

mod counts;
mod due;
mod indexed;
mod small;

pub use self::counts::HealthCounts;
pub use self::due::InstanceDue;

use self::indexed::Indexed;
use self::small::Small;
use super::instance::{Instance, InstanceKey};
use super::time::UnixMs;
use super::undo::UndoLog;
use std::sync::Arc;

/// Indexed storage returns to small storage at this number of instances. Fewer than small storage holds, so that a
/// record at its limit does not change storage with every report.
const SMALL_AGAIN: usize = 24;

#[derive(Debug, Clone, Default)]
pub struct Instances {
    storage: Storage,
    undo: UndoLog<UndoEntry>,
}

/// An instance before a change.
#[derive(Debug, Clone)]
enum UndoEntry {
    Present(Instance),
    Absent(InstanceKey),
}

#[derive(Debug, Clone)]
enum Storage {
    Small(Small),
    Indexed(Box<Indexed>),
}

impl Default for Storage {
    fn default() -> Storage {
        Storage::Small(Small::default())
    }
}

impl PartialEq for Instances {
    fn eq(&self, other: &Instances) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Instances {}

impl Instances {
    pub fn len(&self) -> usize {
        match &self.storage {
            Storage::Small(small) => small.as_slice().len(),
            Storage::Indexed(indexed) => indexed.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of instances that count as running (rule 4.1).
    pub fn running(&self) -> usize {
        match &self.storage {
            Storage::Small(small) => small.as_slice().iter().filter(|i| i.is_running()).count(),
            Storage::Indexed(indexed) => indexed.running(),
        }
    }

    /// All instances, by agent, and of one agent oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Instance> {
        let (small, indexed) = match &self.storage {
            Storage::Small(small) => (small.as_slice(), None),
            Storage::Indexed(indexed) => (&[][..], Some(indexed.iter())),
        };
        small.iter().chain(indexed.into_iter().flatten())
    }

    /// An agent's instances, oldest first.
    pub fn of_agent(&self, agent: &str) -> &[Instance] {
        match &self.storage {
            Storage::Small(small) => small.of_agent(agent),
            Storage::Indexed(indexed) => indexed.of_agent(agent),
        }
    }

    pub fn get(&self, key: &InstanceKey) -> Option<&Instance> {
        match &self.storage {
            Storage::Small(small) => small.get(key),
            Storage::Indexed(indexed) => indexed.get(key),
        }
    }

    pub fn counts(&self, version: u64, job_id: &Arc<str>) -> HealthCounts {
        match &self.storage {
            Storage::Small(small) => small.counts(version, job_id),
            Storage::Indexed(indexed) => indexed.counts(version, job_id),
        }
    }

    /// The instances with an open task, in the order in which the tasks were issued.
    pub fn tasks(&self) -> impl Iterator<Item = &Instance> {
        let (small, indexed) = match &self.storage {
            Storage::Small(small) => (small.tasks(), None),
            Storage::Indexed(indexed) => (Vec::new(), Some(indexed.tasks())),
        };
        small.into_iter().chain(indexed.into_iter().flatten())
    }

    /// The number of open tasks.
    pub fn open_tasks(&self) -> usize {
        match &self.storage {
            Storage::Small(small) => small.as_slice().iter().filter(|i| i.task.is_some()).count(),
            Storage::Indexed(indexed) => indexed.open_tasks(),
        }
    }

    /// The number of instances that drain.
    pub fn draining(&self) -> usize {
        match &self.storage {
            Storage::Small(small) => small.draining(),
            Storage::Indexed(indexed) => indexed.draining(),
        }
    }

    /// The number of instances on standby.
    pub fn standby(&self) -> usize {
        match &self.storage {
            Storage::Small(small) => small.standby(),
            Storage::Indexed(indexed) => indexed.standby(),
        }
    }

    /// The instances whose drain has ended, and whose follow-up is still to be issued.
    pub fn drained(&self) -> impl Iterator<Item = &Instance> {
        let (small, indexed) = match &self.storage {
            Storage::Small(small) => (small.as_slice(), None),
            Storage::Indexed(indexed) => (&[][..], Some(indexed.drained())),
        };
        small.iter().filter(|i| i.is_drained()).chain(indexed.into_iter().flatten())
    }

    /// The earliest due item, with its time.
    pub fn next_due(&self) -> Option<(UnixMs, InstanceDue, InstanceKey)> {
        match &self.storage {
            Storage::Small(small) => small.next_due(),
            Storage::Indexed(indexed) => indexed.next_due(),
        }
    }

    /// The earliest due time.
    pub fn next_due_at(&self) -> Option<UnixMs> {
        match &self.storage {
            Storage::Small(small) => small.next_due_at(),
            Storage::Indexed(indexed) => indexed.next_due_at(),
        }
    }

    /// Adds an instance, in the place of one with the same key.
    pub fn insert(&mut self, instance: Instance) {
        let key = instance.key();
        let before = self.take(&key);
        self.put(instance);
        self.undo.record(before.map_or(UndoEntry::Absent(key), UndoEntry::Present));
    }

    /// Removes an instance; false where there is none.
    pub fn remove(&mut self, key: &InstanceKey) -> bool {
        let Some(before) = self.take(key) else { return false };
        self.undo.record(UndoEntry::Present(before));
        true
    }

    /// Changes one instance; false where there is none. Its key and its age among the agent's instances stay.
    pub fn update(&mut self, key: &InstanceKey, change: impl FnOnce(&mut Instance)) -> bool {
        let before = match &mut self.storage {
            Storage::Small(small) => small.update(key, change),
            Storage::Indexed(indexed) => indexed.update(key, change),
        };
        let Some(before) = before else { return false };
        self.undo.record(UndoEntry::Present(before));
        true
    }

    /// Returns the keys of the instances that `filter` admits, so that they can be changed.
    pub fn keys_where(&self, filter: impl Fn(&Instance) -> bool) -> Vec<InstanceKey> {
        self.iter().filter(|i| filter(i)).map(Instance::key).collect()
    }

    /// Changes every instance that `filter` admits.
    pub fn update_where(&mut self, filter: impl Fn(&Instance) -> bool, change: impl Fn(&mut Instance)) {
        for key in self.keys_where(filter) {
            self.update(&key, &change);
        }
    }

    /// The capacity of small storage, in instances; None for indexed storage.
    pub fn inline_capacity(&self) -> Option<usize> {
        match &self.storage {
            Storage::Small(small) => Some(small.capacity()),
            Storage::Indexed(_) => None,
        }
    }

    /// Returns true if order and indexes are those of the instances.
    pub fn is_consistent(&self) -> bool {
        match &self.storage {
            Storage::Small(small) => small.is_consistent(),
            Storage::Indexed(indexed) => indexed.is_consistent(),
        }
    }

    // ---- transactions -----------------------------------------------------------------------------------------------

    pub(super) fn begin(&mut self) {
        self.undo.begin();
    }

    pub(super) fn commit(&mut self) {
        self.undo.commit();
    }

    /// Restores the instances as they were when the transaction began.
    pub(super) fn roll_back(&mut self) {
        for entry in self.undo.roll_back() {
            match entry {
                UndoEntry::Absent(key) => drop(self.take(&key)),
                UndoEntry::Present(instance) => {
                    self.take(&instance.key());
                    self.put(instance);
                }
            }
        }
    }

    // ---- storage ----------------------------------------------------------------------------------------------------

    fn put(&mut self, instance: Instance) {
        match &mut self.storage {
            Storage::Small(small) if small.is_full() => {
                let mut indexed = Box::<Indexed>::default();
                let all = std::mem::take(small).into_vec().into_iter().chain([instance]);
                all.for_each(|instance| indexed.insert(instance));
                self.storage = Storage::Indexed(indexed);
            }
            Storage::Small(small) => small.insert(instance),
            Storage::Indexed(indexed) => indexed.insert(instance),
        }
    }

    fn take(&mut self, key: &InstanceKey) -> Option<Instance> {
        match &mut self.storage {
            Storage::Small(small) => small.remove(key),
            Storage::Indexed(indexed) => {
                let instance = indexed.remove(key);
                if indexed.len() <= SMALL_AGAIN {
                    let mut small = Small::default();
                    std::mem::take(&mut **indexed).into_vec().into_iter().for_each(|instance| small.insert(instance));
                    self.storage = Storage::Small(small);
                }
                instance
            }
        }
    }
}
