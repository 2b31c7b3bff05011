//! All instances of a record, with what is asked of them often: counts, tasks, what is due. Every change goes
//! through this container, so that the counts are the instances' own and can be told again from them.

use super::deployment::Instance;
use super::health::Health;
use super::time::UnixMs;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One agent at one version in one job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceKey {
    pub agent: Arc<str>,
    pub version: u64,
    pub job_id: Arc<str>,
}

/// The health of one version's instances in one job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub placed: usize,
    pub pending: usize,
    pub healthy: usize,
    pub unhealthy: usize,
}

/// What becomes due about an instance. The order is the order at equal times: a verdict comes before the deadline it meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Healthy,
    Deadline,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instances {
    /// Each agent's instances, oldest first.
    by_agent: BTreeMap<Arc<str>, Vec<Instance>>,
    tally: Tally,
    /// While a transaction is open: what was at the places that it changed, in order.
    journal: Option<Box<Vec<(InstanceKey, Option<Instance>)>>>,
}

/// What is asked often, kept in step with the instances.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tally {
    counts: BTreeMap<(u64, Arc<str>), Counts>,
    tasks: BTreeMap<u64, InstanceKey>,
    due: BTreeSet<(UnixMs, Verdict, InstanceKey)>,
    running: usize,
    len: usize,
}

fn dues(instance: &Instance) -> impl Iterator<Item = (UnixMs, Verdict, InstanceKey)> + '_ {
    let healthy = instance.healthy_at.map(|at| (at, Verdict::Healthy));
    let deadline = instance.deadline.at().map(|at| (at, Verdict::Deadline));
    healthy.into_iter().chain(deadline).map(|(at, verdict)| (at, verdict, instance.key()))
}

impl Instances {
    pub fn len(&self) -> usize {
        self.tally.len
    }

    pub fn is_empty(&self) -> bool {
        self.tally.len == 0
    }

    /// How many count as running (SPEC 4.1).
    pub fn running(&self) -> usize {
        self.tally.running
    }

    /// By agent, and of one agent oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Instance> {
        self.by_agent.values().flatten()
    }

    /// An agent's instances, oldest first.
    pub fn of_agent(&self, agent: &str) -> &[Instance] {
        self.by_agent.get(agent).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn get(&self, key: &InstanceKey) -> Option<&Instance> {
        self.of_agent(&key.agent).iter().find(|i| i.is_at(key))
    }

    pub fn counts(&self, version: u64, job_id: &Arc<str>) -> Counts {
        self.tally.counts.get(&(version, job_id.clone())).copied().unwrap_or_default()
    }

    /// Open tasks, in the order in which they were issued.
    pub fn tasks(&self) -> impl Iterator<Item = &Instance> {
        self.tally.tasks.values().filter_map(|key| self.get(key))
    }

    pub fn open_tasks(&self) -> usize {
        self.tally.tasks.len()
    }

    /// What is due next, and when.
    pub fn next_due(&self) -> Option<&(UnixMs, Verdict, InstanceKey)> {
        self.tally.due.first()
    }

    pub fn insert(&mut self, instance: Instance) {
        let key = instance.key();
        let before = self.take(&key);
        self.put(instance);
        self.note(key, before);
    }

    pub fn remove(&mut self, key: &InstanceKey) -> bool {
        let before = self.take(key);
        let is_gone = before.is_some();
        if is_gone {
            self.note(key.clone(), before);
        }
        is_gone
    }

    /// Changes one instance; false where there is none. Its key and its place among the agent's instances stay.
    pub fn update(&mut self, key: &InstanceKey, change: impl FnOnce(&mut Instance)) -> bool {
        let list = self.by_agent.get_mut(&key.agent).map(Vec::as_mut_slice).unwrap_or_default();
        let Some(instance) = list.iter_mut().find(|i| i.is_at(key)) else { return false };
        let before = instance.clone();
        change(instance);
        instance.agent = before.agent.clone();
        instance.version = before.version;
        instance.job_id = before.job_id.clone();
        instance.created = before.created;
        self.tally.recount(&before, instance);
        self.note(key.clone(), Some(before));
        true
    }

    /// Changes every instance that `of` picks.
    pub fn update_where(&mut self, of: impl Fn(&Instance) -> bool, change: impl Fn(&mut Instance)) {
        let keys: Vec<InstanceKey> = self.iter().filter(|i| of(i)).map(Instance::key).collect();
        for key in keys {
            self.update(&key, &change);
        }
    }

    /// The indexes told again from the instances, for whoever doubts them.
    pub fn recounted(&self) -> Instances {
        let mut fresh = Instances::default();
        for instance in self.iter() {
            fresh.put(instance.clone());
        }
        fresh
    }

    // ---- transactions ------------------------------------------------------------------------------------------------

    pub(super) fn begin(&mut self) {
        self.journal = Some(Box::default());
    }

    pub(super) fn commit(&mut self) {
        self.journal = None;
    }

    /// Everything as it was when the transaction began.
    pub(super) fn roll_back(&mut self) {
        for (key, before) in self.journal.take().into_iter().flat_map(|journal| journal.into_iter().rev()) {
            self.take(&key);
            if let Some(instance) = before {
                self.put(instance);
            }
        }
    }

    fn note(&mut self, key: InstanceKey, before: Option<Instance>) {
        if let Some(journal) = &mut self.journal {
            journal.push((key, before));
        }
    }

    // ---- the indexes -------------------------------------------------------------------------------------------------

    fn put(&mut self, instance: Instance) {
        self.tally.count(&instance, true);
        // Nearly every agent has one instance: no room is kept for more.
        let list = self.by_agent.entry(instance.agent.clone()).or_insert_with(|| Vec::with_capacity(1));
        let place = list.partition_point(|i| i.created <= instance.created);
        list.insert(place, instance);
    }

    fn take(&mut self, key: &InstanceKey) -> Option<Instance> {
        let list = self.by_agent.get_mut(&key.agent)?;
        let place = list.iter().position(|i| i.is_at(key))?;
        let instance = list.remove(place);
        if list.is_empty() {
            self.by_agent.remove(&key.agent);
        }
        self.tally.count(&instance, false);
        Some(instance)
    }
}

impl Tally {
    fn recount(&mut self, before: &Instance, after: &Instance) {
        let is_same = before.is_running() == after.is_running()
            && before.health == after.health
            && before.task == after.task
            && dues(before).eq(dues(after));
        if !is_same {
            self.count(before, false);
            self.count(after, true);
        }
    }

    fn count(&mut self, instance: &Instance, comes: bool) {
        let step = |n: &mut usize| if comes { *n += 1 } else { *n -= 1 };
        step(&mut self.len);
        if instance.is_running() {
            step(&mut self.running);
        }
        let place = (instance.version, instance.job_id.clone());
        let counts = self.counts.entry(place.clone()).or_default();
        step(&mut counts.placed);
        match instance.health {
            Health::Pending => step(&mut counts.pending),
            Health::Healthy => step(&mut counts.healthy),
            Health::Unhealthy => step(&mut counts.unhealthy),
        }
        if counts.placed == 0 {
            self.counts.remove(&place);
        }
        if let Some(task) = &instance.task {
            if comes {
                self.tasks.insert(task.revision, instance.key());
            } else {
                self.tasks.remove(&task.revision);
            }
        }
        for due in dues(instance) {
            if comes {
                self.due.insert(due);
            } else {
                self.due.remove(&due);
            }
        }
    }
}
