//! MEMORY USAGE: sums the heap blocks of a value, as the server's allocator rounds them.
//!
//! Texts are shared within a record, and each is counted once. The inside of B-trees is not accessible; their nodes are
//! estimated as for keys inserted in order.

use super::ffi;
use super::stored::Stored;
use crate::engine::deployment::{Deployment, IdempotencyEntry, Receipt};
use crate::engine::instance::{Instance, InstanceKey};
use crate::engine::instances::HealthCounts;
use crate::engine::manifest::{ManifestText, Outline};
use crate::engine::record::Record;
use crate::engine::services::Service;
use crate::engine::version::Version;
use std::collections::{HashMap, HashSet, VecDeque};
use std::mem::size_of;
use std::sync::Arc;

/// Returns the size of a value in bytes, in a heap cell of `cell_size` bytes.
pub fn of(stored: &Stored, cell_size: usize) -> usize {
    let mut meter = Meter::default();
    meter.block(cell_size);
    match stored {
        Stored::Record(record) => {
            meter.block(size_of::<Record>());
            meter.record(record);
        }
        Stored::Encoded(encoded) => meter.block(encoded.bytes().len()),
        Stored::Opaque { bytes, .. } => meter.block(bytes.capacity()),
    }
    meter.bytes
}

/// The two counters of an Arc.
const ARC: usize = 2 * size_of::<usize>();

/// Capacity of a B-tree node, its fill after insertion in order, and the size of its header in bytes.
const NODE_CAPACITY: usize = 11;
const NODE_FILL: usize = 7;
const NODE_HEAD: usize = 16;

#[derive(Default)]
struct Meter {
    bytes: usize,
    /// Addresses of shared blocks that are counted already.
    seen: HashSet<usize>,
    /// The allocator's size of a block, by the size asked for.
    blocks: HashMap<usize, usize>,
}

impl Meter {
    fn block(&mut self, size: usize) {
        if size > 0 {
            self.bytes += *self.blocks.entry(size).or_insert_with(|| ffi::alloc_size(size));
        }
    }

    /// Counts a shared block; false where it is counted already.
    fn shared(&mut self, address: usize, size: usize) -> bool {
        let is_new = self.seen.insert(address);
        if is_new {
            self.block((ARC + size).next_multiple_of(size_of::<usize>()));
        }
        is_new
    }

    fn text(&mut self, text: &Arc<str>) {
        self.shared(text.as_ptr().addr(), text.len());
    }

    fn texts<'t>(&mut self, texts: impl IntoIterator<Item = &'t Arc<str>>) {
        texts.into_iter().for_each(|text| self.text(text));
    }

    fn list(&mut self, list: &Arc<[Arc<str>]>) {
        if self.shared(list.as_ptr().addr(), size_of::<Arc<str>>() * list.len()) {
            self.texts(list.iter());
        }
    }

    /// Counts a B-tree of this many entries of this size.
    fn tree(&mut self, entries: usize, size: usize) {
        let leaf = NODE_HEAD + NODE_CAPACITY * size;
        let mut nodes = if entries <= NODE_CAPACITY { usize::from(entries > 0) } else { entries.div_ceil(NODE_FILL) };
        for _ in 0..nodes {
            self.block(leaf);
        }
        while nodes > 1 {
            nodes = if nodes <= NODE_CAPACITY { 1 } else { nodes.div_ceil(NODE_FILL) };
            for _ in 0..nodes {
                self.block(leaf + (NODE_CAPACITY + 1) * size_of::<usize>());
            }
        }
    }

    fn record(&mut self, record: &Record) {
        if self.shared(Arc::as_ptr(&record.versions).addr(), size_of::<Vec<Arc<Version>>>()) {
            self.block(record.versions.capacity() * size_of::<Arc<Version>>());
        }
        record.versions.iter().for_each(|version| {
            if self.shared(Arc::as_ptr(version).addr(), size_of::<Version>()) {
                self.version(version);
            }
        });
        self.texts(&record.current_job_id);
        record.deployment.iter().for_each(|deployment| {
            if self.shared(Arc::as_ptr(deployment).addr(), size_of::<Deployment>()) {
                self.deployment(deployment);
            }
        });
        self.instances(record);
        self.services(record);
        self.block(record.log.capacity());
        if self.shared(Arc::as_ptr(&record.requests).addr(), size_of::<VecDeque<IdempotencyEntry>>()) {
            self.block(record.requests.capacity() * size_of::<IdempotencyEntry>());
        }
        for IdempotencyEntry { request, receipt } in record.requests.iter() {
            let Receipt { deployment_key, deployment_id, job_id, warnings, .. } = receipt;
            self.texts([request, deployment_key, deployment_id, job_id]);
            if let Some(warnings) = warnings {
                self.block(warnings.capacity() * size_of::<Arc<str>>());
                self.texts(warnings);
            }
        }
    }

    fn version(&mut self, version: &Version) {
        self.texts([&version.deployment_id, &version.job_id, &version.by]);
        self.texts(version.bundle.iter().chain(&version.tag).chain(&version.reason));
        self.texts(version.description.iter().chain(&version.promoted_by));
        version.agents.iter().for_each(|agents| self.list(agents));
        if self.shared(Arc::as_ptr(&version.content).addr(), size_of::<ManifestText>()) {
            self.text(version.content.text());
            // Parsed on demand, so a record may have none.
            if let Some(Outline { nodes, services }) = version.content.cached_outline() {
                self.block(nodes.capacity() * size_of::<Arc<str>>());
                self.texts(nodes);
                self.tree(services.len(), size_of::<Arc<str>>() + size_of::<Vec<Arc<str>>>());
                for (node, names) in services {
                    self.text(node);
                    self.block(names.capacity() * size_of::<Arc<str>>());
                    self.texts(names);
                }
            }
        }
    }

    fn deployment(&mut self, deployment: &Deployment) {
        self.texts([&deployment.id, &deployment.mode_reason, &deployment.by, &deployment.target_job_id]);
        self.texts(deployment.ended.iter().chain(&deployment.reason));
        self.texts(deployment.source_job_id.iter().chain(&deployment.requested_job));
        self.list(&deployment.changed);
        self.list(&deployment.removed_agents);
        self.texts(deployment.deferred_failure.iter().map(|deferred| &deferred.words));
        self.texts(deployment.unsafe_report.iter().flat_map(|report| [&report.agent, &report.words]));
        self.texts(
            deployment
                .last_action
                .iter()
                .flat_map(|action| [&action.name, &action.by].into_iter().chain(&action.reason)),
        );
    }

    fn instances(&mut self, record: &Record) {
        let (mut agents, mut due_times) = (HashSet::new(), 0);
        let mut jobs = HashSet::new();
        for instance in record.instances.iter() {
            self.texts([&instance.agent, &instance.node, &instance.job_id]);
            self.texts(&instance.reason);
            agents.insert(instance.agent.as_ptr().addr());
            jobs.insert((instance.version, &*instance.job_id));
            due_times += usize::from(instance.healthy_at.is_some()) + usize::from(instance.deadline.at().is_some());
        }
        if let Some(capacity) = record.instances.inline_capacity() {
            return self.block(capacity * size_of::<Instance>());
        }
        let entry = size_of::<Arc<str>>() + size_of::<Vec<Instance>>();
        self.tree(agents.len(), entry);
        for _ in 0..agents.len() {
            self.block(size_of::<Instance>());
        }
        self.bytes += record.instances.len().saturating_sub(agents.len()) * size_of::<Instance>();
        self.tree(jobs.len(), size_of::<(u64, Arc<str>)>() + size_of::<HealthCounts>());
        self.tree(record.instances.open_tasks(), size_of::<(u64, InstanceKey)>());
        self.tree(due_times, size_of::<(u64, u64, InstanceKey)>());
    }

    fn services(&mut self, record: &Record) {
        let (mut owners, mut expiring) = (HashSet::new(), 0);
        for service in record.services.iter() {
            owners.insert((&service.owner.agent, service.owner.version, &service.owner.job_id));
            expiring += usize::from(service.expires_at.is_some());
            if self.shared(Arc::as_ptr(service).addr(), size_of::<Service>()) {
                self.service(service);
            }
        }
        self.tree(record.services.len(), size_of::<(Arc<str>, Arc<Service>)>());
        self.tree(owners.len(), size_of::<(InstanceKey, Vec<Arc<str>>)>());
        for _ in 0..owners.len() {
            self.block(size_of::<Arc<str>>());
        }
        self.bytes += record.services.len().saturating_sub(owners.len()) * size_of::<Arc<str>>();
        self.tree(expiring, size_of::<(u64, Arc<str>)>());
    }

    fn service(&mut self, service: &Service) {
        self.texts([
            &service.instance,
            &service.service,
            &service.address,
            &service.owner.agent,
            &service.owner.job_id,
        ]);
        self.texts(service.meta.iter().chain(&service.reason));
        self.block(service.tags.capacity() * size_of::<Arc<str>>());
        self.texts(&service.tags);
    }
}
