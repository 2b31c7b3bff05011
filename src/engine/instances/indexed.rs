//! Storage of many instances: by agent, with indexes that every change updates and that can be rebuilt from the
//! instances.

use super::counts::{counted, HealthCounts};
use super::due::{due_times, InstanceDue};
use crate::engine::instance::{Instance, InstanceKey, Role};
use crate::engine::time::UnixMs;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Indexed {
    /// Each agent's instances, oldest first.
    by_agent: BTreeMap<Arc<str>, Vec<Instance>>,
    indexes: Indexes,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Indexes {
    counts: BTreeMap<(u64, Arc<str>), HealthCounts>,
    tasks: BTreeMap<u64, InstanceKey>,
    due: BTreeSet<(UnixMs, InstanceDue, InstanceKey)>,
    drained: BTreeSet<InstanceKey>,
    draining: usize,
    standby: usize,
    running: usize,
    len: usize,
}

impl Indexed {
    pub fn len(&self) -> usize {
        self.indexes.len
    }

    pub fn running(&self) -> usize {
        self.indexes.running
    }

    pub fn iter(&self) -> impl Iterator<Item = &Instance> {
        self.by_agent.values().flatten()
    }

    pub fn into_vec(self) -> Vec<Instance> {
        self.by_agent.into_values().flatten().collect()
    }

    pub fn of_agent(&self, agent: &str) -> &[Instance] {
        self.by_agent.get(agent).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn get(&self, key: &InstanceKey) -> Option<&Instance> {
        self.by_agent.get(&key.agent)?.iter().find(|i| i.is_at(key))
    }

    pub fn counts(&self, version: u64, job_id: &Arc<str>) -> HealthCounts {
        self.indexes.counts.get(&(version, job_id.clone())).copied().unwrap_or_default()
    }

    /// Open tasks, in the order in which they were issued.
    pub fn tasks(&self) -> impl Iterator<Item = &Instance> {
        self.indexes.tasks.values().filter_map(|key| self.get(key))
    }

    pub fn open_tasks(&self) -> usize {
        self.indexes.tasks.len()
    }

    pub fn draining(&self) -> usize {
        self.indexes.draining
    }

    pub fn standby(&self) -> usize {
        self.indexes.standby
    }

    /// The instances whose drain has ended, and whose follow-up is still to be issued.
    pub fn drained(&self) -> impl Iterator<Item = &Instance> {
        self.indexes.drained.iter().filter_map(|key| self.get(key))
    }

    pub fn next_due(&self) -> Option<(UnixMs, InstanceDue, InstanceKey)> {
        self.indexes.due.first().cloned()
    }

    pub fn next_due_at(&self) -> Option<UnixMs> {
        self.indexes.due.first().map(|(at, ..)| *at)
    }

    pub fn insert(&mut self, instance: Instance) {
        self.indexes.add(&instance);
        // Nearly every agent has one instance, so the list grows by exactly one.
        let list = self.by_agent.entry(instance.agent.clone()).or_default();
        let index = list.partition_point(|i| i.created <= instance.created);
        list.reserve_exact(1);
        list.insert(index, instance);
    }

    pub fn remove(&mut self, key: &InstanceKey) -> Option<Instance> {
        let list = self.by_agent.get_mut(&key.agent)?;
        let index = list.iter().position(|i| i.is_at(key))?;
        let instance = list.remove(index);
        match list.is_empty() {
            true => drop(self.by_agent.remove(&key.agent)),
            false => list.shrink_to_fit(),
        }
        self.indexes.remove(&instance);
        Some(instance)
    }

    /// Changes one instance and returns the previous one; None where there is none.
    pub fn update(&mut self, key: &InstanceKey, change: impl FnOnce(&mut Instance)) -> Option<Instance> {
        let instance = self.by_agent.get_mut(&key.agent)?.iter_mut().find(|i| i.is_at(key))?;
        let before = instance.clone();
        change(instance);
        instance.restore_key(&before);
        self.indexes.update(&before, instance);
        Some(before)
    }

    /// Returns true if the indexes are those of the instances.
    pub fn is_consistent(&self) -> bool {
        let mut rebuilt = Indexed::default();
        self.iter().for_each(|instance| rebuilt.insert(instance.clone()));
        *self == rebuilt
    }
}

impl Indexes {
    fn add(&mut self, instance: &Instance) {
        self.len += 1;
        self.standby += usize::from(instance.role == Role::Standby);
        self.running += usize::from(instance.is_running());
        self.add_counts(instance);
        self.add_drain(instance);
        self.add_task(instance);
        self.add_due(instance);
    }

    fn remove(&mut self, instance: &Instance) {
        self.len -= 1;
        self.standby -= usize::from(instance.role == Role::Standby);
        self.running -= usize::from(instance.is_running());
        self.remove_counts(instance);
        self.remove_drain(instance);
        self.remove_task(instance);
        self.remove_due(instance);
    }

    /// Updates the indexes after a change. Most changes alter few of them, and updating an index is expensive.
    fn update(&mut self, before: &Instance, after: &Instance) {
        if before.is_running() != after.is_running() {
            self.running -= usize::from(before.is_running());
            self.running += usize::from(after.is_running());
        }
        let counts_as = |i: &Instance| (i.health, i.role, i.deployed_version(), i.awaited_version());
        if counts_as(before) != counts_as(after) {
            self.remove_counts(before);
            self.add_counts(after);
        }
        self.standby -= usize::from(before.role == Role::Standby);
        self.standby += usize::from(after.role == Role::Standby);
        if before.drain != after.drain {
            self.remove_drain(before);
            self.add_drain(after);
        }
        if before.task != after.task {
            self.remove_task(before);
            self.add_task(after);
        }
        if !due_times(before).eq(due_times(after)) {
            self.remove_due(before);
            self.add_due(after);
        }
    }

    fn add_counts(&mut self, instance: &Instance) {
        if let Some((version, counted)) = counted(instance) {
            self.counts.entry((version, instance.job_id.clone())).or_default().add(counted);
        }
    }

    fn remove_counts(&mut self, instance: &Instance) {
        let Some((version, counted)) = counted(instance) else { return };
        let group = (version, instance.job_id.clone());
        if let Some(counts) = self.counts.get_mut(&group) {
            counts.remove(counted);
            if *counts == HealthCounts::default() {
                self.counts.remove(&group);
            }
        }
    }

    fn add_drain(&mut self, instance: &Instance) {
        self.draining += usize::from(instance.drain.is_some());
        if instance.is_drained() {
            self.drained.insert(instance.key());
        }
    }

    fn remove_drain(&mut self, instance: &Instance) {
        self.draining -= usize::from(instance.drain.is_some());
        if instance.is_drained() {
            self.drained.remove(&instance.key());
        }
    }

    fn add_task(&mut self, instance: &Instance) {
        if let Some(task) = &instance.task {
            self.tasks.insert(task.revision, instance.key());
        }
    }

    fn remove_task(&mut self, instance: &Instance) {
        if let Some(task) = &instance.task {
            self.tasks.remove(&task.revision);
        }
    }

    fn add_due(&mut self, instance: &Instance) {
        self.due.extend(due_times(instance).map(|(at, due)| (at, due, instance.key())));
    }

    fn remove_due(&mut self, instance: &Instance) {
        for (at, due) in due_times(instance) {
            self.due.remove(&(at, due, instance.key()));
        }
    }
}
