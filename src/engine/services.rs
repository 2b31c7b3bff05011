//! Service instances (SPEC 3, 4.9): who answers where, for which instance, and until when unless refreshed.

use super::command::CheckStatus;
use super::instances::InstanceKey;
use super::time::UnixMs;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Unique within the key.
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
    /// When it becomes critical unless refreshed; None without a TTL, or when it has run out.
    pub expires_at: Option<UnixMs>,
    /// When its status last changed.
    pub since: UnixMs,
}

/// All service instances of a record, found by id, by owner and by expiry. The two indexes follow every change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    by_id: BTreeMap<Arc<str>, Arc<Service>>,
    by_owner: BTreeSet<(InstanceKey, Arc<str>)>,
    expiry: BTreeSet<(UnixMs, Arc<str>)>,
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

    /// By service instance id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_id.values()
    }

    pub fn of_owner<'a>(&'a self, owner: &'a InstanceKey) -> impl Iterator<Item = &'a Arc<Service>> + 'a {
        self.by_owner
            .range((owner.clone(), Arc::from(""))..)
            .take_while(move |(key, _)| key == owner)
            .filter_map(|(_, id)| self.by_id.get(id))
    }

    pub fn insert(&mut self, service: Service) {
        self.remove(&service.instance);
        self.by_owner.insert((service.owner.clone(), service.instance.clone()));
        if let Some(at) = service.expires_at {
            self.expiry.insert((at, service.instance.clone()));
        }
        self.by_id.insert(service.instance.clone(), Arc::new(service));
    }

    pub fn remove(&mut self, instance: &str) -> Option<Arc<Service>> {
        let service = self.by_id.remove(instance)?;
        self.by_owner.remove(&(service.owner.clone(), service.instance.clone()));
        if let Some(at) = service.expires_at {
            self.expiry.remove(&(at, service.instance.clone()));
        }
        Some(service)
    }

    pub fn update(&mut self, instance: &str, change: impl FnOnce(&mut Service)) {
        if let Some(service) = self.remove(instance) {
            let mut service = (*service).clone();
            change(&mut service);
            self.insert(service);
        }
    }

    /// The next one to run out, with its time.
    pub fn next_expiry(&self) -> Option<(UnixMs, &Arc<str>)> {
        self.expiry.first().map(|(at, id)| (*at, id))
    }
}
