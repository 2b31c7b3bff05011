//! Storage instances of a record, with what is asked of them often: counts, tasks, what is due.
//!
//! Small of them, as nearly all records have, lie side by side, and each question looks at each. Many are found by indexes,
//! which every change brings up to date, and which can be told again from the instances.

use super::instance::{is_same, Health, Instance, InstanceKey};
use super::time::UnixMs;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// The health of one version's instances in one job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HealthCounts {
    pub placed: usize,
    pub pending: usize,
    pub healthy: usize,
    pub unhealthy: usize,
}

/// What becomes due about an instance. The order is the order at equal times: a verdict comes before the deadline it meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstanceDue {
    Healthy,
    Deadline,
}

/// Up to so many lie side by side: looking at each is then faster than an index, and takes a fraction of its memory.
const SMALL_MAX: usize = 32;

#[derive(Debug, Clone, Default)]
pub struct Instances {
    storage: Storage,
    /// While a transaction is open.
    undo: Option<UndoLog>,
}

/// What was at the places that changed, in order.
#[derive(Debug, Clone, Default)]
struct UndoLog {
    /// Most commands change one instance, and need no memory of their own for it.
    first: Option<UndoEntry>,
    others: Vec<UndoEntry>,
}

/// What was at a place before it changed.
#[derive(Debug, Clone)]
enum UndoEntry {
    Instance(Instance),
    Nothing(InstanceKey),
}

#[derive(Debug, Clone)]
enum Storage {
    Small(Small),
    Indexed(Box<Indexed>),
}

#[derive(Debug, Clone, Default)]
struct Small {
    /// By agent, and of one agent oldest first.
    list: Vec<Instance>,
    /// When something is due next: every command asks, and few change it.
    due_at: Option<UnixMs>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Indexed {
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

fn due_times(instance: &Instance) -> impl Iterator<Item = (UnixMs, InstanceDue)> {
    let healthy = instance.healthy_at.map(|at| (at, InstanceDue::Healthy));
    let deadline = instance.deadline.at().map(|at| (at, InstanceDue::Deadline));
    healthy.into_iter().chain(deadline)
}

/// The earlier of the two.
fn due_at(instance: &Instance) -> Option<UnixMs> {
    match (instance.healthy_at, instance.deadline.at()) {
        (Some(healthy), Some(deadline)) => Some(healthy.min(deadline)),
        (healthy, deadline) => healthy.or(deadline),
    }
}

/// Where an instance lies: by agent, and of one agent oldest first.
fn place(instance: &Instance) -> (&str, u64) {
    (&instance.agent, instance.created)
}

/// An agent's places among a few.
fn places_of(few: &[Instance], agent: &str) -> Range<usize> {
    let start = few.partition_point(|i| *i.agent < *agent);
    let count = few.iter().skip(start).take_while(|i| *i.agent == *agent).count();
    start..start + count
}

/// The place among a few. Most keys are made of the instance's own texts: those are found without reading any.
fn position(few: &[Instance], key: &InstanceKey) -> Option<usize> {
    let is_itself = |i: &Instance| {
        i.version == key.version && Arc::ptr_eq(&i.agent, &key.agent) && Arc::ptr_eq(&i.job_id, &key.job_id)
    };
    let is_there = |at: &usize| few.get(*at).is_some_and(|i| i.is_at(key));
    few.iter().position(is_itself).or_else(|| places_of(few, &key.agent).find(is_there))
}

impl Instances {
    pub fn len(&self) -> usize {
        match &self.storage {
            Storage::Small(few) => few.list.len(),
            Storage::Indexed(many) => many.indexes.len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many count as running (rule 4.1).
    pub fn running(&self) -> usize {
        match &self.storage {
            Storage::Small(few) => few.list.iter().filter(|i| i.is_running()).count(),
            Storage::Indexed(many) => many.indexes.running,
        }
    }

    /// By agent, and of one agent oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Instance> {
        let (few, many) = match &self.storage {
            Storage::Small(few) => (few.list.as_slice(), None),
            Storage::Indexed(many) => (&[][..], Some(many.by_agent.values().flatten())),
        };
        few.iter().chain(many.into_iter().flatten())
    }

    /// An agent's instances, oldest first.
    pub fn of_agent(&self, agent: &str) -> &[Instance] {
        match &self.storage {
            Storage::Small(few) => few.list.get(places_of(&few.list, agent)).unwrap_or_default(),
            Storage::Indexed(many) => many.by_agent.get(agent).map(Vec::as_slice).unwrap_or_default(),
        }
    }

    pub fn get(&self, key: &InstanceKey) -> Option<&Instance> {
        match &self.storage {
            Storage::Small(few) => position(&few.list, key).and_then(|at| few.list.get(at)),
            Storage::Indexed(many) => many.by_agent.get(&key.agent)?.iter().find(|i| i.is_at(key)),
        }
    }

    pub fn counts(&self, version: u64, job_id: &Arc<str>) -> HealthCounts {
        match &self.storage {
            Storage::Small(few) => few.counts(version, job_id),
            Storage::Indexed(many) => many.indexes.counts.get(&(version, job_id.clone())).copied().unwrap_or_default(),
        }
    }

    /// Open tasks, in the order in which they were issued.
    pub fn tasks(&self) -> impl Iterator<Item = &Instance> {
        let (few, many) = match &self.storage {
            Storage::Small(few) => {
                let mut open: Vec<&Instance> = few.list.iter().filter(|i| i.task.is_some()).collect();
                open.sort_by_key(|i| i.task.as_ref().map(|task| task.revision));
                (open, None)
            }
            Storage::Indexed(many) => (Vec::new(), Some(many.indexes.tasks.values().filter_map(|key| self.get(key)))),
        };
        few.into_iter().chain(many.into_iter().flatten())
    }

    pub fn open_tasks(&self) -> usize {
        match &self.storage {
            Storage::Small(few) => few.list.iter().filter(|i| i.task.is_some()).count(),
            Storage::Indexed(many) => many.indexes.tasks.len(),
        }
    }

    /// What is due next, and when.
    pub fn next_due(&self) -> Option<(UnixMs, InstanceDue, InstanceKey)> {
        match &self.storage {
            Storage::Small(few) => {
                let all = few.list.iter().flat_map(|i| due_times(i).map(move |(at, verdict)| (at, verdict, i)));
                let next = all.min_by_key(|(at, verdict, i)| (*at, *verdict, &i.agent, i.version, &i.job_id));
                next.map(|(at, verdict, instance)| (at, verdict, instance.key()))
            }
            Storage::Indexed(many) => many.indexes.due.first().cloned(),
        }
    }

    /// When something is due next.
    pub fn next_due_at(&self) -> Option<UnixMs> {
        match &self.storage {
            Storage::Small(few) => few.due_at,
            Storage::Indexed(many) => many.indexes.due.first().map(|(at, ..)| *at),
        }
    }

    pub fn insert(&mut self, instance: Instance) {
        let key = instance.key();
        let before = self.take(&key);
        self.put(instance);
        record_undo(&mut self.undo, before.map_or(UndoEntry::Nothing(key), UndoEntry::Instance));
    }

    pub fn remove(&mut self, key: &InstanceKey) -> bool {
        let Some(before) = self.take(key) else { return false };
        record_undo(&mut self.undo, UndoEntry::Instance(before));
        true
    }

    /// Changes one instance; false where there is none. Its key and its place among the agent's instances stay.
    pub fn update(&mut self, key: &InstanceKey, change: impl FnOnce(&mut Instance)) -> bool {
        let Instances { storage, undo } = self;
        let is_there = match storage {
            Storage::Small(few) => few.update(key, change, |before| record_undo(undo, UndoEntry::Instance(before))),
            Storage::Indexed(many) => many.update(key, change, |before| record_undo(undo, UndoEntry::Instance(before))),
        };
        is_there.is_some()
    }

    /// Changes every instance that `filter` admits.
    pub fn update_where(&mut self, filter: impl Fn(&Instance) -> bool, change: impl Fn(&mut Instance)) {
        let keys: Vec<InstanceKey> = self.iter().filter(|i| filter(i)).map(Instance::key).collect();
        for key in keys {
            self.update(&key, &change);
        }
    }

    /// For how many there is room side by side; None where indexes find them.
    pub fn inline_capacity(&self) -> Option<usize> {
        match &self.storage {
            Storage::Small(few) => Some(few.list.capacity()),
            Storage::Indexed(_) => None,
        }
    }

    /// Whether the order, and the indexes where there are any, are what the instances themselves tell.
    pub fn is_consistent(&self) -> bool {
        match &self.storage {
            Storage::Small(few) => {
                let is_sorted = few.list.is_sorted_by(|a, b| place(a) < place(b));
                few.list.len() <= SMALL_MAX && is_sorted && few.due_at == few.list.iter().filter_map(due_at).min()
            }
            Storage::Indexed(many) => {
                let mut again = Indexed::default();
                self.iter().for_each(|instance| again.put(instance.clone()));
                **many == again
            }
        }
    }

    // ---- transactions ------------------------------------------------------------------------------------------------

    pub(super) fn begin(&mut self) {
        self.undo = Some(UndoLog::default());
    }

    pub(super) fn commit(&mut self) {
        self.undo = None;
    }

    /// Everything as it was when the transaction began.
    pub(super) fn roll_back(&mut self) {
        let UndoLog { first, others } = self.undo.take().unwrap_or_default();
        for past in first.into_iter().chain(others).rev() {
            match past {
                UndoEntry::Nothing(key) => {
                    self.take(&key);
                }
                UndoEntry::Instance(instance) => {
                    self.take(&instance.key());
                    self.put(instance);
                }
            }
        }
    }

    // ---- where they lie ----------------------------------------------------------------------------------------------

    fn put(&mut self, instance: Instance) {
        match &mut self.storage {
            Storage::Small(few) if few.list.len() < SMALL_MAX => few.put(instance),
            Storage::Small(few) => {
                let mut many = Box::<Indexed>::default();
                few.list.drain(..).chain([instance]).for_each(|instance| many.put(instance));
                self.storage = Storage::Indexed(many);
            }
            Storage::Indexed(many) => many.put(instance),
        }
    }

    fn take(&mut self, key: &InstanceKey) -> Option<Instance> {
        match &mut self.storage {
            Storage::Small(few) => few.take(key),
            Storage::Indexed(many) => {
                let instance = many.take(key);
                if many.indexes.len == 0 {
                    self.storage = Storage::default();
                }
                instance
            }
        }
    }
}

fn record_undo(undo: &mut Option<UndoLog>, past: UndoEntry) {
    match undo {
        Some(UndoLog { first: first @ None, .. }) => *first = Some(past),
        Some(UndoLog { others, .. }) => others.push(past),
        None => {}
    }
}

impl HealthCounts {
    fn count(&mut self, health: Health, comes: bool) {
        step(&mut self.placed, comes);
        match health {
            Health::Pending => step(&mut self.pending, comes),
            Health::Healthy => step(&mut self.healthy, comes),
            Health::Unhealthy => step(&mut self.unhealthy, comes),
        }
    }
}

impl Small {
    fn counts(&self, version: u64, job_id: &Arc<str>) -> HealthCounts {
        let mut counts = HealthCounts::default();
        let of_it = self.list.iter().filter(|i| i.version == version && is_same(&i.job_id, job_id));
        of_it.for_each(|i| counts.count(i.health, true));
        counts
    }

    fn put(&mut self, instance: Instance) {
        let due = due_at(&instance);
        let at = self.list.partition_point(|i| place(i) <= place(&instance));
        self.list.reserve_exact(1);
        self.list.insert(at, instance);
        self.reschedule(None, due);
    }

    fn take(&mut self, key: &InstanceKey) -> Option<Instance> {
        let instance = position(&self.list, key).map(|at| self.list.remove(at))?;
        self.reschedule(due_at(&instance), None);
        Some(instance)
    }

    /// None where there is no such instance. `done` is given what it was before.
    fn update(
        &mut self,
        key: &InstanceKey,
        change: impl FnOnce(&mut Instance),
        done: impl FnOnce(Instance),
    ) -> Option<()> {
        let instance = position(&self.list, key).and_then(|at| self.list.get_mut(at))?;
        let before = instance.clone();
        change(instance);
        instance.restore_key(&before);
        let due = due_at(instance);
        self.reschedule(due_at(&before), due);
        done(before);
        Some(())
    }

    /// What was due at one time is due at another now.
    fn reschedule(&mut self, before: Option<UnixMs>, after: Option<UnixMs>) {
        if before == after {
            return;
        }
        self.due_at = match before.is_some() && before == self.due_at {
            true => self.list.iter().filter_map(due_at).min(),
            false => self.due_at.into_iter().chain(after).min(),
        };
    }
}

impl Indexed {
    fn put(&mut self, instance: Instance) {
        self.indexes.count(&instance, true);
        // Nearly every agent has one instance: no room is kept for more.
        let list = self.by_agent.entry(instance.agent.clone()).or_insert_with(|| Vec::with_capacity(1));
        let at = list.partition_point(|i| i.created <= instance.created);
        list.insert(at, instance);
    }

    fn take(&mut self, key: &InstanceKey) -> Option<Instance> {
        let list = self.by_agent.get_mut(&key.agent)?;
        let at = list.iter().position(|i| i.is_at(key))?;
        let instance = list.remove(at);
        if list.is_empty() {
            self.by_agent.remove(&key.agent);
        }
        self.indexes.count(&instance, false);
        Some(instance)
    }

    fn update(
        &mut self,
        key: &InstanceKey,
        change: impl FnOnce(&mut Instance),
        done: impl FnOnce(Instance),
    ) -> Option<()> {
        let instance = self.by_agent.get_mut(&key.agent)?.iter_mut().find(|i| i.is_at(key))?;
        let before = instance.clone();
        change(instance);
        instance.restore_key(&before);
        self.indexes.recount(&before, instance);
        done(before);
        Some(())
    }
}

impl Indexes {
    /// Takes in a change of one instance. Most change little of what is counted, and an index is dear to change.
    fn recount(&mut self, before: &Instance, after: &Instance) {
        let changes = [(before, false), (after, true)];
        if before.is_running() != after.is_running() {
            changes.iter().for_each(|(instance, comes)| self.count_running(instance, *comes));
        }
        if before.health != after.health {
            changes.iter().for_each(|(instance, comes)| self.count_health(instance, *comes));
        }
        if before.task != after.task {
            changes.iter().for_each(|(instance, comes)| self.list_task(instance, *comes));
        }
        if !due_times(before).eq(due_times(after)) {
            changes.iter().for_each(|(instance, comes)| self.list_dues(instance, *comes));
        }
    }

    fn count(&mut self, instance: &Instance, comes: bool) {
        step(&mut self.len, comes);
        self.count_running(instance, comes);
        self.count_health(instance, comes);
        self.list_task(instance, comes);
        self.list_dues(instance, comes);
    }

    fn count_running(&mut self, instance: &Instance, comes: bool) {
        if instance.is_running() {
            step(&mut self.running, comes);
        }
    }

    fn count_health(&mut self, instance: &Instance, comes: bool) {
        let place = (instance.version, instance.job_id.clone());
        let counts = self.counts.entry(place.clone()).or_default();
        counts.count(instance.health, comes);
        if counts.placed == 0 {
            self.counts.remove(&place);
        }
    }

    fn list_task(&mut self, instance: &Instance, comes: bool) {
        match &instance.task {
            Some(task) if comes => {
                self.tasks.insert(task.revision, instance.key());
            }
            Some(task) => {
                self.tasks.remove(&task.revision);
            }
            None => {}
        }
    }

    fn list_dues(&mut self, instance: &Instance, comes: bool) {
        for (at, verdict) in due_times(instance) {
            if comes {
                self.due.insert((at, verdict, instance.key()));
            } else {
                self.due.remove(&(at, verdict, instance.key()));
            }
        }
    }
}

fn step(n: &mut usize, comes: bool) {
    if comes {
        *n += 1;
    } else {
        *n -= 1;
    }
}
