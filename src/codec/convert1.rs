//! Format 1: its payloads to and from values of the engine.
//!
//! The shapes are in [`format1`](super::format1), apart from the engine's types on purpose: those may change, and the
//! compiler then says here what no longer fits.

use super::error::{DecodeError, MAX_INSTANCES_PER_AGENT};
use super::format1::*;
use super::shape::{convert_enum, convert_struct, shared_text, Number, Shape, Texts};
use super::wire::{write, write_length_prefixed, Reader};
use crate::engine::event_log::{EventCodec, Log as EventLog};
use crate::engine::manifest::ManifestText;
use crate::engine::{deployment, event, instance, manifest, policy, record, services, summary, time, version};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

// ---- the record -----------------------------------------------------------------------------------------------------

/// Appends the payload of a record.
pub(super) fn write_record(record: &record::Record, payload: &mut Vec<u8>) {
    let record::Record {
        revision,
        last_version,
        current_version,
        current_job_id,
        versions,
        deployment,
        instances,
        services,
        log,
        requests,
        created_at,
        updated_at,
    } = record;
    let summary = summary::Summary::of(record);
    write(&summary.as_ref().map(Summary::of), payload);
    let header = RecordHeader {
        revision: Shape::of(revision),
        last_version: Shape::of(last_version),
        current_version: Shape::of(current_version),
        current_job_id: Shape::of(current_job_id),
        deployment: deployment.as_deref().map(Shape::of),
        created_at: Shape::of(created_at),
        updated_at: Shape::of(updated_at),
    };
    write(&header, payload);
    write_versions(versions, payload);
    write(&instances.len(), payload);
    instances.iter().for_each(|instance| write(&Instance::of(instance), payload));
    write(&services.len(), payload);
    services.iter().for_each(|service| write(&Service::of(&**service), payload));
    write(&requests.len(), payload);
    requests.iter().for_each(|entry| write(&IdempotencyEntry::of(entry), payload));
    match log.encoded() {
        Some((count, events)) => write(&Log { count: Shape::of(&count), events }, payload),
        None => {
            let mut events = Vec::new();
            log.iter().for_each(|event| write_event(&event, &mut events));
            write(&Log { count: Shape::of(&log.len()), events: &events }, payload);
        }
    }
}

/// Appends the manifests, each once, and then the versions.
fn write_versions(versions: &[Arc<version::Version>], payload: &mut Vec<u8>) {
    // Versions share a manifest in memory: its text, which is long, is looked at only where its address is new.
    let mut by_address: BTreeMap<*const ManifestText, usize> = BTreeMap::new();
    let mut by_text: HashMap<&str, usize, foldhash::fast::RandomState> = HashMap::default();
    let mut manifests: Vec<&str> = Vec::new();
    let mut indexes: Vec<usize> = Vec::with_capacity(versions.len());
    for version in versions {
        let text = version.content.text();
        indexes.push(*by_address.entry(Arc::as_ptr(&version.content)).or_insert_with(|| {
            *by_text.entry(text).or_insert_with(|| {
                manifests.push(text);
                manifests.len() - 1
            })
        }));
    }
    write(&manifests, payload);
    write(&versions.len(), payload);
    for (index, version) in indexes.iter().zip(versions) {
        write(&StoredVersion { manifest: Shape::of(index), version: Version::of(version) }, payload);
    }
}

/// Reads a record and the summary in front of it.
pub(super) fn read_record(payload: &[u8]) -> Result<(record::Record, Option<summary::Summary>), DecodeError> {
    let (mut from, mut texts) = (Reader::of(payload), Texts::interned());
    let summary = from.read::<Option<Summary>>()?.into_value(&mut texts)?;
    let mut record = read_header(from.read()?, &mut texts)?;
    record.versions = Arc::new(read_versions(&mut from, &mut texts)?);
    let instances: usize = from.read()?;
    for _ in 0..instances {
        let instance = from.read::<Instance>()?.into_value(&mut texts)?;
        if record.instances.of_agent(&instance.agent).len() >= MAX_INSTANCES_PER_AGENT {
            return Err(DecodeError::Invalid(format!("agent {} has too many instances", instance.agent)));
        }
        record.instances.insert(instance);
    }
    if record.instances.len() != instances {
        return Err(DecodeError::Invalid("an instance comes twice".to_string()));
    }
    let services: usize = from.read()?;
    for _ in 0..services {
        record.services.insert(from.read::<Service>()?.into_value(&mut texts)?);
    }
    if record.services.len() != services {
        return Err(DecodeError::Invalid("a service instance comes twice".to_string()));
    }
    let requests = Arc::make_mut(&mut record.requests);
    for _ in 0..from.read::<usize>()? {
        requests.push_back(from.read::<IdempotencyEntry>()?.into_value(&mut texts)?);
    }
    let Log { count, events } = from.read()?;
    from.finish()?;
    let count = count.into_value(&mut texts)?;
    record.log = EventLog::from_encoded(event_codec(), count, events.to_vec()).ok_or(DecodeError::Malformed)?;
    Ok((record, summary))
}

fn read_header<'a>(header: RecordHeader<'a>, texts: &mut Texts<'a>) -> Result<record::Record, DecodeError> {
    let RecordHeader { revision, last_version, current_version, current_job_id, deployment, created_at, updated_at } =
        header;
    Ok(record::Record {
        revision: revision.into_value(texts)?,
        last_version: last_version.into_value(texts)?,
        current_version: current_version.into_value(texts)?,
        current_job_id: current_job_id.into_value(texts)?,
        deployment: deployment.map(|deployment| deployment.into_value(texts).map(Arc::new)).transpose()?,
        created_at: created_at.into_value(texts)?,
        updated_at: updated_at.into_value(texts)?,
        ..record::Record::empty()
    })
}

/// Reads the manifests, and the versions that refer to them. A writer numbers manifests in the order of their first use:
/// any other list is refused, since a manifest that no version uses would be copied and never validated.
fn read_versions<'a>(from: &mut Reader<'a>, texts: &mut Texts<'a>) -> Result<Vec<Arc<version::Version>>, DecodeError> {
    let mut unused = Vec::new();
    for _ in 0..from.read::<usize>()? {
        unused.push(from.read::<&str>()?);
    }
    let mut unused = unused.into_iter();
    let mut manifests: Vec<Arc<ManifestText>> = Vec::new();
    let mut versions = Vec::new();
    for _ in 0..from.read::<usize>()? {
        let StoredVersion { manifest, version } = from.read()?;
        let index: usize = manifest.into_value(texts)?;
        if index == manifests.len() {
            let text = unused.next().ok_or(DecodeError::Malformed)?;
            manifests.push(Arc::new(ManifestText::new(shared_text(text)?)));
        }
        let content = manifests.get(index).cloned().ok_or(DecodeError::Malformed)?;
        versions.push(Arc::new(version.with_content(content, texts)?));
    }
    match unused.next() {
        None => Ok(versions),
        Some(_) => Err(DecodeError::Invalid("it has a manifest of no version".to_string())),
    }
}

/// Reads the summary in front of a record, and nothing else of it.
pub(super) fn read_summary(payload: &[u8]) -> Result<Option<summary::Summary>, DecodeError> {
    Reader::of(payload).read::<Option<Summary>>()?.into_value(&mut Texts::copied())
}

// ---- change sets ----------------------------------------------------------------------------------------------------

/// Appends the payload of a change set. `known_events` are the bytes of its events as the log has them, or nothing.
pub(super) fn write_change_set(change_set: &event::ChangeSet, known_events: &[u8], payload: &mut Vec<u8>) {
    let event::ChangeSet { changes, log_max } = change_set;
    let mut known = Reader::of(known_events);
    let mut scratch = Vec::new();
    write(&Number::of(log_max), payload);
    write(&changes.len(), payload);
    for change in changes {
        match change {
            event::Change::Event(event) => {
                let bytes = match known.read_bytes() {
                    // The log leaves manifests out.
                    Ok(bytes) if !event.body.has_manifest() => bytes,
                    _ => {
                        scratch.clear();
                        scratch.reserve(256);
                        write(&Event::of(&**event), &mut scratch);
                        &scratch
                    }
                };
                write(&Change::Event(bytes), payload);
            }
            event::Change::Silent(silent) => write(&Change::Silent(Shape::of(silent)), payload),
        }
    }
}

/// Reads a change set.
pub(super) fn read_change_set(payload: &[u8]) -> Result<event::ChangeSet, DecodeError> {
    let mut from = Reader::of(payload);
    let (log_max, count) = (from.read::<Number>()?, from.read::<usize>()?);
    let mut texts = if count > 1 { Texts::interned() } else { Texts::copied() };
    let log_max = log_max.into_value(&mut texts)?;
    let mut changes = Vec::new();
    for _ in 0..count {
        changes.push(match from.read()? {
            Change::Event(bytes) => event::Change::Event(Arc::new(event_of(bytes, &mut texts)?)),
            Change::Silent(silent) => event::Change::Silent(silent.into_value(&mut texts)?),
        });
    }
    from.finish()?;
    Ok(event::ChangeSet { changes, log_max })
}

// ---- events, as a log has them --------------------------------------------------------------------------------------

/// Encodes the events of a log in this format: each behind its length.
struct LogCodec;

impl EventCodec for LogCodec {
    fn encode(&self, event: &event::Event, bytes: &mut Vec<u8>) {
        write_event(event, bytes);
    }

    fn split_first<'b>(&self, bytes: &'b [u8]) -> Option<(&'b [u8], &'b [u8])> {
        let mut from = Reader::of(bytes);
        let event = from.read_bytes().ok()?;
        Some((event, from.rest()))
    }

    fn revision(&self, event: &[u8]) -> Option<u64> {
        Reader::of(event).read::<Number>().ok().map(|revision| revision.0)
    }

    fn decode(&self, event: &[u8]) -> Option<event::Event> {
        event_of(event, &mut Texts::copied()).ok()
    }
}

/// Returns the codec by which a log keeps its events encoded.
pub(super) fn event_codec() -> &'static dyn EventCodec {
    &LogCodec
}

fn write_event(event: &event::Event, bytes: &mut Vec<u8>) {
    write_length_prefixed(&Event::of(event), bytes);
}

fn event_of<'a>(bytes: &'a [u8], texts: &mut Texts<'a>) -> Result<event::Event, DecodeError> {
    let mut from = Reader::of(bytes);
    let event: Event = from.read()?;
    from.finish()?;
    event.into_value(texts)
}

// ---- what differs in more than its texts ----------------------------------------------------------------------------

impl<'a> Version<'a> {
    #[inline(always)]
    fn of(version: &'a version::Version) -> Version<'a> {
        let version::Version {
            number,
            deployment_id,
            job_id,
            job_type,
            strategy,
            policy,
            content: _,
            agents,
            bundle,
            tag,
            stable,
            rollback_of,
            outcome,
            submitted_at,
            by,
            reason,
        } = version;
        Version {
            number: Shape::of(number),
            deployment_id: Shape::of(deployment_id),
            job_id: Shape::of(job_id),
            job_type: Shape::of(job_type),
            strategy: Shape::of(strategy),
            policy: Shape::of(policy),
            agents: Shape::of(agents),
            bundle: Shape::of(bundle),
            tag: Shape::of(tag),
            stable: Shape::of(stable),
            rollback_of: Shape::of(rollback_of),
            outcome: Shape::of(outcome),
            submitted_at: Shape::of(submitted_at),
            by: Shape::of(by),
            reason: Shape::of(reason),
        }
    }

    fn with_content(self, content: Arc<ManifestText>, texts: &mut Texts<'a>) -> Result<version::Version, DecodeError> {
        let Version {
            number,
            deployment_id,
            job_id,
            job_type,
            strategy,
            policy,
            agents,
            bundle,
            tag,
            stable,
            rollback_of,
            outcome,
            submitted_at,
            by,
            reason,
        } = self;
        Ok(version::Version {
            number: number.into_value(texts)?,
            deployment_id: deployment_id.into_value(texts)?,
            job_id: job_id.into_value(texts)?,
            job_type: job_type.into_value(texts)?,
            strategy: strategy.into_value(texts)?,
            policy: policy.into_value(texts)?,
            content,
            agents: agents.into_value(texts)?,
            bundle: bundle.into_value(texts)?,
            tag: tag.into_value(texts)?,
            stable: stable.into_value(texts)?,
            rollback_of: rollback_of.into_value(texts)?,
            outcome: outcome.into_value(texts)?,
            submitted_at: submitted_at.into_value(texts)?,
            by: by.into_value(texts)?,
            reason: reason.into_value(texts)?,
        })
    }
}

impl<'a> Shape<'a, version::Version> for VersionWithManifest<'a> {
    #[inline(always)]
    fn of(version: &'a version::Version) -> VersionWithManifest<'a> {
        VersionWithManifest { version: Version::of(version), manifest: version.content.text() }
    }

    fn into_value(self, texts: &mut Texts<'a>) -> Result<version::Version, DecodeError> {
        let content = Arc::new(ManifestText::new(shared_text(self.manifest)?));
        self.version.with_content(content, texts)
    }
}

/// Returns the node where it is not the agent itself.
#[inline]
fn other_node<'a>(node: &'a Arc<str>, agent: &Arc<str>) -> Option<&'a str> {
    (!Arc::ptr_eq(node, agent) && node != agent).then_some(&**node)
}

#[inline]
fn node_or_agent<'a>(node: Option<&'a str>, agent: &Arc<str>, texts: &mut Texts<'a>) -> Result<Arc<str>, DecodeError> {
    match node {
        Some(node) => node.into_value(texts),
        None => Ok(agent.clone()),
    }
}

/// Converts a struct as `convert_struct` does, except for its `node`, which is left out where it is the agent itself.
macro_rules! convert_struct_with_node {
    ($shape:ty = $engine:ty { $($field:ident),* $(,)? }) => {
        impl<'a> Shape<'a, $engine> for $shape {
            #[inline(always)]
            fn of(value: &'a $engine) -> Self {
                type Engine = $engine;
                let Engine { agent, node, $($field),* } = value;
                Self { agent: Shape::of(agent), node: other_node(node, agent), $($field: Shape::of($field)),* }
            }

            #[inline]
            fn into_value(self, texts: &mut Texts<'a>) -> Result<$engine, DecodeError> {
                type Engine = $engine;
                let Self { agent, node, $($field),* } = self;
                let agent: Arc<str> = agent.into_value(texts)?;
                Ok(Engine {
                    node: node_or_agent(node, &agent, texts)?,
                    agent,
                    $($field: Shape::into_value($field, texts)?),*
                })
            }
        }
    };
}

convert_struct_with_node! { InstanceRef<'a> = event::InstanceRef { job_id, role } }

convert_struct_with_node! { Instance<'a> = instance::Instance {
    version, job_id, role, state, health, attempt, task_at, since, reason, from_version, task, healthy_at, deadline,
    was_healthy, created,
} }

// ---- field by field -------------------------------------------------------------------------------------------------

convert_struct! { Summary<'a> = summary::Summary {
    due, tasks, deployment_id, status, mode, strategy, current_version, stable_version, target_version, healthy, desired,
    updated_at,
} }

convert_struct! { Deployment<'a> = deployment::Deployment {
    id, status, cause, ended, mode, strategy, requested_strategy, mode_reason, rollback_of, by, reason, source_version,
    source_job_id, target_version, target_job_id, requested_job, policy, changed, removed_agents, canaries, promoted,
    progress, paused_from, deferred_failure, unsafe_report, last_action, created_at, finished_at,
} }

convert_struct! { DeferredFailure<'a> = deployment::DeferredFailure { cause, words } }

convert_struct! { UnsafeReport<'a> = deployment::UnsafeReport { agent, words } }

convert_struct! { Action<'a> = deployment::Action { name, by, at, reason } }

convert_struct! { Policy = policy::Policy {
    strategy, max_parallel, canary, min_healthy_ms, healthy_deadline_ms, progress_deadline_ms, health_check, auto_promote,
    auto_revert,
} }

convert_struct! { Task = instance::Task { kind, revision, since } }

convert_struct! { InstanceKey<'a> = instance::InstanceKey { agent, version, job_id } }

convert_struct! { Service<'a> = services::Service {
    instance, owner, service, address, port, tags, meta, status, reason, ttl_ms, expires_at, since,
} }

convert_struct! { IdempotencyEntry<'a> = deployment::IdempotencyEntry { request, receipt } }

convert_struct! { Receipt<'a> = deployment::Receipt {
    deployment_key, deployment_id, version, job_id, status, mode, revision,
} }

convert_struct! { NewDeployment<'a> = event::NewDeployment {
    version, mode, strategy, requested_strategy, mode_reason, cause, source_version, source_job_id, requested_job,
    changed, removed_agents, canaries, progress, trimmed,
} }

convert_enum! { SilentChange<'a> = event::SilentChange {
    ServiceRefreshed { instance, expires_at },
    RequestRecorded { request, receipt },
} }

convert_struct! { Event<'a> = event::Event { revision, at, deployment_id, version, body } }

convert_enum! { EventBody<'a> = event::EventBody {
    DeploymentStarted(new),
    DeploymentNoop(new),
    VersionRecorded(new),
    RollbackStarted { from_version, rollback_of, cause, by, reason },
    TaskIssued { instance, task, from_version, attempt, bundle, deadline, by, reason },
    TaskDone { instance, task, withdrawn, removes_instance },
    AgentState { instance, state, attempt, reason, healthy_at, removes_instance, fails_at_resume },
    AgentHealthy { instance, progress },
    AgentUnhealthy { instance, reason, resumes_with, fails_at_resume },
    AwaitingPromotion { healthy },
    DeploymentPromoted { progress, by, reason },
    DeploymentPaused { by, reason },
    DeploymentResumed { status, progress, by, reason },
    DeploymentFailed { cause, description, by, reason },
    DeploymentCancelled { cause, description, by, reason },
    DeploymentSuccessful { description },
    FallbackBlueGreen { agent, reason, job_id, changed, canaries },
    VersionTagged { tag, replaced, by },
    VersionUntagged { tag, by },
    ServiceRegistered { service, healthy_at },
    ServiceStatus { instance, service, agent, status, reason, expires_at, healthy_at },
    ServiceDeregistered { instance, service, agent, reason, healthy_at },
} }

convert_enum! { AgentReport = event::AgentReport { State(state), Completed, Unsafe } }

convert_enum! { CountOrPercent = policy::CountOrPercent { Count(count), Percent(percent) } }

convert_enum! { Cause = deployment::Cause {
    UnhealthyAgent, ProgressDeadline, AgentFailed, Operator, NewerVersion, Stopped,
} }

convert_enum! { CheckStatus = services::CheckStatus { Passing, Warning, Critical } }

convert_enum! { Deadline = time::Deadline { Off, Running { at }, Paused { left_ms } } }

convert_enum! { Health = instance::Health { Pending, Healthy, Unhealthy } }

convert_enum! { HealthCheck = policy::HealthCheck { Checks, AgentStates } }

convert_enum! { InstanceState = instance::InstanceState { Waiting, Starting, Ready, Unready, Failed, Stopped } }

convert_enum! { JobType = manifest::JobType { Service, System, Batch, Sysbatch } }

convert_enum! { Mode = deployment::Mode { Initial, InPlace, BlueGreen, Noop, VersionOnly, Unchanged } }

convert_enum! { Outcome = deployment::Outcome { Successful, Failed, Cancelled, VersionRecorded, Completed } }

convert_enum! { Role = instance::Role { Primary, Canary, Candidate, Retired } }

convert_enum! { Status = deployment::Status {
    Running, AwaitingPromotion, Paused, Successful, Failed, Cancelled, VersionRecorded,
} }

convert_enum! { Strategy = policy::Strategy { Rolling, Canary, BlueGreen } }

convert_enum! { TaskKind = instance::TaskKind { Start, Replace, Stop, Run } }

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::command::{Command, Context, Deploy, Limits};
    use crate::engine::decide;

    /// Returns the payload of a record's versions: its manifests, in an order of their own, then the rest as written.
    fn with_manifests(versions: &[Arc<version::Version>], manifests: &[&str]) -> Vec<u8> {
        let (mut written, mut own) = (Vec::new(), Vec::new());
        write_versions(versions, &mut written);
        write(&versions.iter().map(|version| &**version.content.text()).collect::<Vec<_>>(), &mut own);
        let mut payload = Vec::new();
        write(&manifests, &mut payload);
        payload.extend_from_slice(written.strip_prefix(&*own).expect("each version has a manifest of its own"));
        payload
    }

    #[test]
    fn manifests_that_no_version_uses_are_refused() {
        let texts = ["1", "2"].map(|image| format!(r#"{{"nodes":[{{"node_id":"a","image":"{image}"}}]}}"#));
        let mut record = record::Record::empty();
        for text in &texts {
            let deploy = Command::Deploy(Deploy { manifest: text.clone().into_bytes(), ..Deploy::default() });
            let context = Context { key: "app", now_ms: 1_000, by: "default", limits: Limits::default() };
            record = decide(Some(&record), &deploy, &context).expect("a valid manifest").record;
        }
        let [first, second] = texts.each_ref().map(String::as_str);
        let read = |manifests: &[&str]| {
            let payload = with_manifests(&record.versions, manifests);
            read_versions(&mut Reader::of(&payload), &mut Texts::interned()).map(|versions| versions.len())
        };
        assert_eq!(read(&[first, second]), Ok(2));
        assert_eq!(read(&[first]), Err(DecodeError::Malformed));
        let unused = DecodeError::Invalid("it has a manifest of no version".to_string());
        assert_eq!(read(&[first, second, "{}"]), Err(unused));

        // The first version refers to the second manifest: the index skips one.
        let mut payload = with_manifests(&record.versions, &[first, second]);
        let mut list = Vec::new();
        write(&[first, second].as_slice(), &mut list);
        let index = list.len() + 1;
        assert_eq!(payload[index], 0);
        payload[index] = 1;
        assert_eq!(read_versions(&mut Reader::of(&payload), &mut Texts::interned()), Err(DecodeError::Malformed));
    }
}
