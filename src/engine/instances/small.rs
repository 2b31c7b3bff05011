//! Storage of few instances: a sorted vector, scanned. That is faster than indexes, and takes a fraction of their
//! memory.

use super::counts::{counted, HealthCounts};
use super::due::{due_at, due_times, InstanceDue};
use crate::engine::instance::{is_same, Instance, InstanceKey, Role};
use crate::engine::time::UnixMs;
use std::ops::Range;
use std::sync::Arc;

/// The maximum number of instances in this storage.
pub(super) const SMALL_MAX: usize = 32;

#[derive(Debug, Clone, Default)]
pub(super) struct Small {
    /// By agent, and of one agent oldest first.
    list: Vec<Instance>,
    /// The earliest due time: every command asks for it, and few change it.
    due_at: Option<UnixMs>,
    /// Asked for with every command as well, and nearly always none.
    few: Few,
}

/// The numbers of instances of which there are few, at most [`SMALL_MAX`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Few {
    /// Those that have a drain.
    draining: u8,
    standby: u8,
}

impl Few {
    fn of(instance: &Instance) -> Few {
        Few { draining: u8::from(instance.drain.is_some()), standby: u8::from(instance.role == Role::Standby) }
    }

    fn add(&mut self, other: Few) {
        self.draining += other.draining;
        self.standby += other.standby;
    }

    fn remove(&mut self, other: Few) {
        self.draining -= other.draining;
        self.standby -= other.standby;
    }
}

impl Small {
    pub fn as_slice(&self) -> &[Instance] {
        &self.list
    }

    pub fn into_vec(self) -> Vec<Instance> {
        self.list
    }

    pub fn is_full(&self) -> bool {
        self.list.len() >= SMALL_MAX
    }

    pub fn capacity(&self) -> usize {
        self.list.capacity()
    }

    pub fn draining(&self) -> usize {
        usize::from(self.few.draining)
    }

    pub fn standby(&self) -> usize {
        usize::from(self.few.standby)
    }

    pub fn of_agent(&self, agent: &str) -> &[Instance] {
        self.list.get(range_of(&self.list, agent)).unwrap_or_default()
    }

    pub fn get(&self, key: &InstanceKey) -> Option<&Instance> {
        index_of(&self.list, key).and_then(|index| self.list.get(index))
    }

    pub fn counts(&self, version: u64, job_id: &Arc<str>) -> HealthCounts {
        let mut counts = HealthCounts::default();
        let own = self.list.iter().filter(|i| is_same(&i.job_id, job_id)).filter_map(counted);
        own.filter(|(of, _)| *of == version).for_each(|(_, counted)| counts.add(counted));
        counts
    }

    /// Open tasks, in the order in which they were issued.
    pub fn tasks(&self) -> Vec<&Instance> {
        let mut open: Vec<&Instance> = self.list.iter().filter(|i| i.task.is_some()).collect();
        open.sort_by_key(|i| i.task.as_ref().map(|task| task.revision));
        open
    }

    pub fn next_due(&self) -> Option<(UnixMs, InstanceDue, InstanceKey)> {
        let all = self.list.iter().flat_map(|i| due_times(i).map(move |(at, due)| (at, due, i)));
        let next = all.min_by_key(|(at, due, i)| (*at, *due, &i.agent, i.version, &i.job_id));
        next.map(|(at, due, instance)| (at, due, instance.key()))
    }

    pub fn next_due_at(&self) -> Option<UnixMs> {
        self.due_at
    }

    pub fn insert(&mut self, instance: Instance) {
        let due = due_at(&instance);
        self.few.add(Few::of(&instance));
        let index = self.list.partition_point(|i| sort_key(i) <= sort_key(&instance));
        self.list.reserve_exact(1);
        self.list.insert(index, instance);
        self.reschedule(None, due);
    }

    pub fn remove(&mut self, key: &InstanceKey) -> Option<Instance> {
        let instance = index_of(&self.list, key).map(|index| self.list.remove(index))?;
        self.few.remove(Few::of(&instance));
        self.reschedule(due_at(&instance), None);
        Some(instance)
    }

    /// Changes one instance and returns the previous one; None where there is none.
    pub fn update(&mut self, key: &InstanceKey, change: impl FnOnce(&mut Instance)) -> Option<Instance> {
        let instance = index_of(&self.list, key).and_then(|index| self.list.get_mut(index))?;
        let before = instance.clone();
        change(instance);
        instance.restore_key(&before);
        let (due, few) = (due_at(instance), Few::of(instance));
        self.few.remove(Few::of(&before));
        self.few.add(few);
        self.reschedule(due_at(&before), due);
        Some(before)
    }

    /// Updates the earliest due time after one due time changed.
    fn reschedule(&mut self, before: Option<UnixMs>, after: Option<UnixMs>) {
        if before == after {
            return;
        }
        self.due_at = match before.is_some() && before == self.due_at {
            true => self.list.iter().filter_map(due_at).min(),
            false => self.due_at.into_iter().chain(after).min(),
        };
    }

    /// Returns true if order, earliest due time and counts are those of the instances.
    pub fn is_consistent(&self) -> bool {
        let is_sorted = self.list.is_sorted_by(|a, b| sort_key(a) < sort_key(b));
        let mut few = Few::default();
        self.list.iter().for_each(|instance| few.add(Few::of(instance)));
        let is_due = self.due_at == self.list.iter().filter_map(due_at).min();
        self.list.len() <= SMALL_MAX && is_sorted && is_due && self.few == few
    }
}

/// By agent, and of one agent oldest first.
fn sort_key(instance: &Instance) -> (&str, u64) {
    (&instance.agent, instance.created)
}

/// The range of an agent's instances.
fn range_of(list: &[Instance], agent: &str) -> Range<usize> {
    let start = list.partition_point(|i| *i.agent < *agent);
    let count = list.iter().skip(start).take_while(|i| *i.agent == *agent).count();
    start..start + count
}

/// Returns the index of an instance. Most keys share the instance's own texts: those are found by address, without
/// comparing text.
fn index_of(list: &[Instance], key: &InstanceKey) -> Option<usize> {
    let is_itself = |i: &Instance| {
        i.version == key.version && Arc::ptr_eq(&i.agent, &key.agent) && Arc::ptr_eq(&i.job_id, &key.job_id)
    };
    let is_equal = |index: &usize| list.get(*index).is_some_and(|i| i.is_at(key));
    list.iter().position(is_itself).or_else(|| range_of(list, &key.agent).find(is_equal))
}
