//! Service instances (rules 3 and 4.9): addresses of agents, with checks and TTLs.

use super::instance::{Instance, InstanceKey};
use super::names::named_enum;
use super::time::UnixMs;
use super::undo::UndoLog;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

named_enum! {
    /// The status of a service instance.
    pub enum CheckStatus {
        Passing = "passing",
        Warning = "warning",
        Critical = "critical",
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The id, unique within the key.
    pub instance: Arc<str>,
    pub owner: InstanceKey,
    pub service: Arc<str>,
    pub address: Arc<str>,
    pub port: u16,
    pub tags: Vec<Arc<str>>,
    /// A JSON value, as given.
    pub meta: Option<Arc<str>>,
    pub status: CheckStatus,
    pub reason: Option<Arc<str>>,
    pub ttl_ms: Option<u64>,
    /// The time at which it becomes critical unless refreshed; None without a TTL, or once it has expired.
    pub expires_at: Option<UnixMs>,
    /// The time of the last change of status.
    pub since: UnixMs,
    /// The attempt of its owner that registered it.
    pub attempt: u32,
}

/// The id of a service instance, and the instance before a change.
type UndoEntry = (Arc<str>, Option<Arc<Service>>);

/// Every service instance of a record, found by id, by owner and by expiry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    by_id: BTreeMap<Arc<str>, Arc<Service>>,
    /// Ids in order.
    by_owner: BTreeMap<InstanceKey, Vec<Arc<str>>>,
    expiry: BTreeSet<(UnixMs, Arc<str>)>,
    undo: UndoLog<UndoEntry>,
}

impl Services {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub fn get(&self, instance: &str) -> Option<&Arc<Service>> {
        self.by_id.get(instance)
    }

    /// Every service instance, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_id.values()
    }

    /// The service instances of an owner, by id.
    pub fn of_owner(&self, owner: &InstanceKey) -> impl Iterator<Item = &Arc<Service>> + Clone + '_ {
        self.by_owner.get(owner).into_iter().flatten().filter_map(|id| self.by_id.get(id))
    }

    /// The service instances of an instance, by id. Without services, no key is made.
    pub fn of_instance(&self, instance: &Instance) -> impl Iterator<Item = &Arc<Service>> + Clone + '_ {
        let owner = (!self.is_empty()).then(|| instance.key());
        owner.and_then(|owner| self.by_owner.get(&owner)).into_iter().flatten().filter_map(|id| self.by_id.get(id))
    }

    pub fn insert(&mut self, service: Service) {
        let id = service.instance.clone();
        let before = self.take(&id);
        self.put(Arc::new(service));
        self.undo.record((id, before));
    }

    pub fn remove(&mut self, instance: &str) -> Option<Arc<Service>> {
        let service = self.take(instance)?;
        self.undo.record((service.instance.clone(), Some(service.clone())));
        Some(service)
    }

    pub fn update(&mut self, instance: &str, change: impl FnOnce(&mut Service)) {
        if let Some(before) = self.take(instance) {
            let mut service = (*before).clone();
            change(&mut service);
            service.instance = before.instance.clone();
            self.put(Arc::new(service));
            self.undo.record((before.instance.clone(), Some(before)));
        }
    }

    /// The earliest expiry, with the id.
    pub fn next_expiry(&self) -> Option<(UnixMs, &Arc<str>)> {
        self.expiry.first().map(|(at, id)| (*at, id))
    }

    // ---- transactions -----------------------------------------------------------------------------------------------

    pub(super) fn begin(&mut self) {
        self.undo.begin();
    }

    pub(super) fn commit(&mut self) {
        self.undo.commit();
    }

    /// Restores the services as they were when the transaction began.
    pub(super) fn roll_back(&mut self) {
        for (id, before) in self.undo.roll_back() {
            self.take(&id);
            if let Some(service) = before {
                self.put(service);
            }
        }
    }

    // ---- indexes ----------------------------------------------------------------------------------------------------

    fn put(&mut self, service: Arc<Service>) {
        // Nearly every instance has one service, so no further capacity is reserved.
        let ids = self.by_owner.entry(service.owner.clone()).or_insert_with(|| Vec::with_capacity(1));
        let index = ids.partition_point(|id| *id < service.instance);
        ids.insert(index, service.instance.clone());
        if let Some(at) = service.expires_at {
            self.expiry.insert((at, service.instance.clone()));
        }
        self.by_id.insert(service.instance.clone(), service);
    }

    fn take(&mut self, instance: &str) -> Option<Arc<Service>> {
        let service = self.by_id.remove(instance)?;
        if let Some(ids) = self.by_owner.get_mut(&service.owner) {
            ids.retain(|id| **id != *instance);
            if ids.is_empty() {
                self.by_owner.remove(&service.owner);
            }
        }
        if let Some(at) = service.expires_at {
            self.expiry.remove(&(at, service.instance.clone()));
        }
        Some(service)
    }
}
