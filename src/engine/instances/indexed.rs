//! Storage of many instances: by agent, with indexes that every change updates and that can be rebuilt from the
//! instances.

use super::counts::HealthCounts;
use super::due::{due_times, InstanceDue};
use crate::engine::instance::{Instance, InstanceKey};
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
        self.running += usize::from(instance.is_running());
        self.add_health(instance);
        self.add_task(instance);
        self.add_due(instance);
    }

    fn remove(&mut self, instance: &Instance) {
        self.len -= 1;
        self.running -= usize::from(instance.is_running());
        self.remove_health(instance);
        self.remove_task(instance);
        self.remove_due(instance);
    }

    /// Updates the indexes after a change. Most changes alter few of them, and updating an index is expensive.
    fn update(&mut self, before: &Instance, after: &Instance) {
        if before.is_running() != after.is_running() {
            self.running -= usize::from(before.is_running());
            self.running += usize::from(after.is_running());
        }
        if before.health != after.health {
            self.remove_health(before);
            self.add_health(after);
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

    fn add_health(&mut self, instance: &Instance) {
        self.counts.entry((instance.version, instance.job_id.clone())).or_default().add(instance.health);
    }

    fn remove_health(&mut self, instance: &Instance) {
        let group = (instance.version, instance.job_id.clone());
        if let Some(counts) = self.counts.get_mut(&group) {
            counts.remove(instance.health);
            if counts.placed == 0 {
                self.counts.remove(&group);
            }
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
