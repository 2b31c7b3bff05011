//! Format 2, frozen: the shapes as they lie in the bytes, and the only file that names bincode.
//!
//! ```text
//! payload of a record   Summary │ Head │ versions │ instances │ services │ requests │ log
//! payload of a batch    log_max │ changes
//! log                   how many events │ how many bytes │ events, each behind its length
//! ```
//!
//! Each plural is a count and then so many of the shape. A text that was there before is its place among the texts so
//! far, so what many name is stored once, and is one `Arc` again when read: in a record less its log, and in each event
//! by itself. An event is the same bytes in a batch and in the log, and needs nothing around it to be read: so a log is
//! kept in memory, written and read as it is.
//!
//! The encoding is positional: fields and variants are known by their order alone. **Never reorder, remove, insert or
//! append here** once a release has written it; a new shape is a new format. The shapes are apart from the engine's
//! types on purpose: those may change, and the compiler then says here what no longer fits.
//!
//! Values are read one at a time, so that a payload cannot make more of them than its bytes pay for.

use super::{DecodeError, MAX_INSTANCES_PER_AGENT, MAX_NUMBER, MAX_PAYLOAD_BYTES, MAX_TEXT_BYTES, MAX_TIME_MS};
use crate::engine::event_log::Log;
use crate::engine::manifest::ManifestText;
use crate::engine::{deployment, event, instance, manifest, policy, record, services, summary, time, version};
use bincode::de::read::{BorrowReader, Reader as ReadBytes};
use bincode::de::{BorrowDecoder, Decode, DecoderImpl};
use bincode::enc::write::Writer as WriteBytes;
use bincode::enc::{Encode, Encoder, EncoderImpl};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

type Encoding = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_PAYLOAD_BYTES>,
>;

const ENCODING: Encoding = bincode::config::standard().with_limit::<MAX_PAYLOAD_BYTES>();

/// Up to here bincode's numbers are the one byte that they are. Most are, so the long way is not gone for them.
const ONE_BYTE_MAX: u8 = 250;

// ---- payloads --------------------------------------------------------------------------------------------------------

pub(super) fn write_record(record: &record::Record, payload: &mut Vec<u8>) {
    let summary = summary::Summary::of(record);
    let mut out = Writer::onto(payload);
    <Option<Summary> as Shape<_>>::write(&summary, &mut out);
    Head::write(record, &mut out);
    out.values::<Version, _>(record.versions.len(), record.versions.iter().map(|version| &**version));
    out.values::<Instance, _>(record.instances.len(), record.instances.iter());
    out.values::<Service, _>(record.services.len(), record.services.iter().map(|service| &**service));
    out.values::<IdempotencyEntry, _>(record.requests.len(), record.requests.iter());
    match record.log.encoded() {
        Some((count, bytes)) => write_log(count, bytes, &mut out),
        None => {
            let mut bytes = Vec::new();
            record.log.iter().for_each(|event| encode_event(&event, &mut bytes));
            write_log(record.log.len(), &bytes, &mut out);
        }
    }
}

fn write_log(count: usize, bytes: &[u8], out: &mut Writer) {
    out.number(count as u64);
    out.number(bytes.len() as u64);
    out.bytes(bytes);
}

/// A record, and what it says of itself.
pub(super) fn read_record(payload: &[u8]) -> Result<(record::Record, Option<summary::Summary>), DecodeError> {
    let mut from = Reader::of(payload);
    let summary = <Option<Summary> as Shape<_>>::read(&mut from)?;
    let mut record: record::Record = Head::read(&mut from)?;
    for _ in 0..from.count()? {
        Arc::make_mut(&mut record.versions).push(Arc::new(Version::read(&mut from)?));
    }
    let instances = from.count()?;
    for _ in 0..instances {
        let instance: instance::Instance = Instance::read(&mut from)?;
        if record.instances.of_agent(&instance.agent).len() >= MAX_INSTANCES_PER_AGENT {
            return Err(DecodeError::Invalid(format!("agent {} has too many instances", instance.agent)));
        }
        record.instances.insert(instance);
    }
    if record.instances.len() != instances {
        return Err(DecodeError::Invalid("an instance comes twice".to_string()));
    }
    let services = from.count()?;
    for _ in 0..services {
        record.services.insert(Service::read(&mut from)?);
    }
    if record.services.len() != services {
        return Err(DecodeError::Invalid("a service instance comes twice".to_string()));
    }
    for _ in 0..from.count()? {
        Arc::make_mut(&mut record.requests).push_back(IdempotencyEntry::read(&mut from)?);
    }
    let (count, length) = (from.count()?, from.count()?);
    let bytes = from.take(length)?;
    from.finish()?;
    record.log = Log::from_encoded(super::event_codec(), count, bytes.to_vec()).ok_or(DecodeError::Malformed)?;
    Ok((record, summary))
}

/// What a record says of itself, without reading any more of it.
pub(super) fn read_summary(payload: &[u8]) -> Result<Option<summary::Summary>, DecodeError> {
    <Option<Summary> as Shape<_>>::read(&mut Reader::of(payload))
}

/// `packed` are the batch's events as the log has them, or nothing.
pub(super) fn write_change_set(batch: &event::ChangeSet, packed: &[u8], payload: &mut Vec<u8>) {
    let mut packed = packed;
    let mut out = Writer::onto(payload);
    <Number as Shape<usize>>::write(&batch.log_max, &mut out);
    out.number(batch.changes.len() as u64);
    for change in &batch.changes {
        match change {
            event::Change::Event(event) => {
                out.number(EVENT);
                let rest = split_first_event(packed).map_or(packed, |(_, rest)| rest);
                match packed.get(..packed.len() - rest.len()) {
                    Some(known) if !known.is_empty() && !event.body.has_manifest() => out.bytes(known),
                    _ => encode_event(event, out.buffer()),
                }
                packed = rest;
            }
            event::Change::Silent(note) => {
                out.number(NOTE);
                out.begin_anew();
                Silent::write(note, &mut out);
            }
        }
    }
}

pub(super) fn read_change_set(payload: &[u8]) -> Result<event::ChangeSet, DecodeError> {
    let mut from = Reader::of(payload);
    let log_max = Number::read(&mut from)?;
    let mut changes = Vec::new();
    for _ in 0..from.count()? {
        changes.push(match from.number()? {
            EVENT => {
                let length = from.count()?;
                event::Change::Event(Arc::new(decode_event(from.take(length)?)?))
            }
            NOTE => {
                from.begin_anew();
                event::Change::Silent(Silent::read(&mut from)?)
            }
            _ => return Err(DecodeError::Malformed),
        });
    }
    from.finish()?;
    Ok(event::ChangeSet { changes, log_max })
}

const EVENT: u64 = 0;
const NOTE: u64 = 1;

// ---- events by themselves, as they lie in the log --------------------------------------------------------------------

/// Appends an event behind its length.
pub(super) fn encode_event(event: &event::Event, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.push(0);
    Event::write(event, &mut Writer::onto(bytes));
    let length = bytes.len() - start - 1;
    match u8::try_from(length) {
        // Nearly always.
        Ok(short) if short <= ONE_BYTE_MAX => {
            if let Some(place) = bytes.get_mut(start) {
                *place = short;
            }
        }
        _ => {
            let mut head = Vec::new();
            Writer::onto(&mut head).number(length as u64);
            bytes.splice(start..=start, head);
        }
    }
}

/// Takes the first event's bytes off, unread.
pub(super) fn split_first_event(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut from = Reader::of(bytes);
    let length = from.count().ok()?;
    let event = from.take(length).ok()?;
    Some((event, from.rest()))
}

/// The revision of an event that was split off: the first thing in it.
pub(super) fn revision_of_event(bytes: &[u8]) -> Option<u64> {
    Number::read(&mut Reader::of(bytes)).ok()
}

pub(super) fn decode_event(bytes: &[u8]) -> Result<event::Event, DecodeError> {
    let mut from = Reader::of(bytes);
    let event = Event::read(&mut from)?;
    from.finish()?;
    Ok(event)
}

// ---- how a shape stands for a value of the engine --------------------------------------------------------------------

/// A shape in the bytes, of an engine's `Value`.
trait Shape<Value> {
    fn write<'a>(value: &'a Value, out: &mut Writer<'a, '_>);
    fn read(from: &mut Reader) -> Result<Value, DecodeError>;
}

/// A struct of the engine, field by field in the frozen order.
macro_rules! frozen_struct {
    ($name:ident = $engine:ty { $($field:ident: $shape:ty),* $(,)? }) => {
        enum $name {}

        impl Shape<$engine> for $name {
            fn write<'a>(value: &'a $engine, out: &mut Writer<'a, '_>) {
                type Engine = $engine;
                let Engine { $($field),* } = value;
                $(<$shape as Shape<_>>::write($field, out);)*
            }

            fn read(from: &mut Reader) -> Result<$engine, DecodeError> {
                type Engine = $engine;
                // Fields are read in the order in which they stand here.
                Ok(Engine { $($field: <$shape as Shape<_>>::read(from)?),* })
            }
        }
    };
}

/// An enum of the engine, variant by variant in the frozen order: each is known by its place, counted from 0.
macro_rules! frozen_enum {
    ($name:ident = $engine:ty {
        $($variant:ident $({ $($field:ident: $shape:ty),* $(,)? })? $(($inner:ident: $inner_shape:ty))?),* $(,)?
    }) => {
        enum $name {}

        impl Shape<$engine> for $name {
            fn write<'a>(value: &'a $engine, out: &mut Writer<'a, '_>) {
                type Engine = $engine;
                #[allow(clippy::enum_variant_names)] // the names are the engine's
                enum Place { $($variant),* }
                match value {
                    $(Engine::$variant $({ $($field),* })? $(($inner))? => {
                        out.number(Place::$variant as u64);
                        $($(<$shape as Shape<_>>::write($field, out);)*)?
                        $(<$inner_shape as Shape<_>>::write($inner, out);)?
                    })*
                }
            }

            fn read(from: &mut Reader) -> Result<$engine, DecodeError> {
                type Engine = $engine;
                #[allow(clippy::enum_variant_names)] // the names are the engine's
                enum Place { $($variant),* }
                let place = from.number()?;
                $(if place == Place::$variant as u64 {
                    return Ok(Engine::$variant
                        $({ $($field: <$shape as Shape<_>>::read(from)?),* })?
                        $((<$inner_shape as Shape<_>>::read(from)?))?
                    );
                })*
                Err(DecodeError::Malformed)
            }
        }
    };
}

// ---- the record ------------------------------------------------------------------------------------------------------

frozen_struct! { Summary = summary::Summary {
    due: Option<Millis>,
    tasks: Number,
    deployment_id: Text,
    status: Status,
    mode: Mode,
    strategy: Strategy,
    current_version: Option<Number>,
    stable_version: Option<Number>,
    target_version: Number,
    healthy: Number,
    desired: Number,
    updated_at: Millis,
} }

/// The record's own fields; what it holds many of follows.
enum Head {}

impl Shape<record::Record> for Head {
    fn write<'a>(record: &'a record::Record, out: &mut Writer<'a, '_>) {
        let record::Record {
            revision,
            last_version,
            current_version,
            current_job_id,
            versions: _,
            deployment,
            instances: _,
            services: _,
            log: _,
            requests: _,
            created_at,
            updated_at,
        } = record;
        <Number as Shape<u64>>::write(revision, out);
        <Number as Shape<u64>>::write(last_version, out);
        <Option<Number> as Shape<Option<u64>>>::write(current_version, out);
        <Option<Text> as Shape<_>>::write(current_job_id, out);
        <Option<Deployment> as Shape<_>>::write(deployment, out);
        Millis::write(created_at, out);
        Millis::write(updated_at, out);
    }

    fn read(from: &mut Reader) -> Result<record::Record, DecodeError> {
        Ok(record::Record {
            revision: Number::read(from)?,
            last_version: Number::read(from)?,
            current_version: <Option<Number> as Shape<_>>::read(from)?,
            current_job_id: <Option<Text> as Shape<_>>::read(from)?,
            deployment: <Option<Deployment> as Shape<_>>::read(from)?,
            created_at: Millis::read(from)?,
            updated_at: Millis::read(from)?,
            ..record::Record::empty()
        })
    }
}

frozen_struct! { Deployment = deployment::Deployment {
    id: Text,
    status: Status,
    cause: Option<Cause>,
    ended: Option<Text>,
    mode: Mode,
    strategy: Strategy,
    requested_strategy: Strategy,
    mode_reason: Text,
    rollback_of: Option<Number>,
    by: Text,
    reason: Option<Text>,
    source_version: Option<Number>,
    source_job_id: Option<Text>,
    target_version: Number,
    target_job_id: Text,
    requested_job: Option<Text>,
    policy: Policy,
    changed: List<Text>,
    removed_agents: List<Text>,
    canaries: u32,
    promoted: bool,
    progress: Deadline,
    paused_from: Option<Status>,
    deferred_failure: Option<DeferredFailure>,
    unsafe_report: Option<UnsafeReport>,
    last_action: Option<Action>,
    created_at: Millis,
    finished_at: Option<Millis>,
} }

frozen_struct! { DeferredFailure = deployment::DeferredFailure { cause: Cause, words: Text } }

frozen_struct! { UnsafeReport = deployment::UnsafeReport { agent: Text, words: Text } }

frozen_struct! { Action = deployment::Action { name: Text, by: Text, at: Millis, reason: Option<Text> } }

frozen_struct! { Version = version::Version {
    number: Number,
    deployment_id: Text,
    job_id: Text,
    job_type: JobType,
    strategy: Strategy,
    policy: Policy,
    content: Manifest,
    agents: Option<List<Text>>,
    bundle: Option<Text>,
    tag: Option<Text>,
    stable: bool,
    rollback_of: Option<Number>,
    outcome: Option<Outcome>,
    submitted_at: Millis,
    by: Text,
    reason: Option<Text>,
} }

frozen_struct! { Policy = policy::Policy {
    strategy: Strategy,
    max_parallel: CountOrPercent,
    canary: CountOrPercent,
    min_healthy_ms: Millis,
    healthy_deadline_ms: Millis,
    progress_deadline_ms: Millis,
    health_check: HealthCheck,
    auto_promote: bool,
    auto_revert: bool,
} }

frozen_struct! { Instance = instance::Instance {
    agent: Text,
    node: Text,
    version: Number,
    job_id: Text,
    role: Role,
    state: InstanceState,
    health: Health,
    attempt: u32,
    task_at: Millis,
    since: Millis,
    reason: Option<Text>,
    from_version: Option<Number>,
    task: Option<Task>,
    healthy_at: Option<Millis>,
    deadline: Deadline,
    was_healthy: bool,
    created: Number,
} }

frozen_struct! { Task = instance::Task { kind: TaskKind, revision: Number, since: Millis } }

frozen_struct! { InstanceKey = instance::InstanceKey { agent: Text, version: Number, job_id: Text } }

frozen_struct! { Service = services::Service {
    instance: Text,
    owner: InstanceKey,
    service: Text,
    address: Text,
    port: u16,
    tags: List<Text>,
    meta: Option<Text>,
    status: CheckStatus,
    reason: Option<Text>,
    ttl_ms: Option<Millis>,
    expires_at: Option<Millis>,
    since: Millis,
} }

frozen_struct! { IdempotencyEntry = deployment::IdempotencyEntry { request: Text, receipt: Receipt } }

frozen_struct! { Receipt = deployment::Receipt {
    deployment_key: Text,
    deployment_id: Text,
    version: Number,
    job_id: Text,
    status: Status,
    mode: Mode,
    revision: Number,
} }

// ---- events and changes ----------------------------------------------------------------------------------------------

frozen_enum! { Silent = event::SilentChange {
    ServiceRefreshed { instance: Text, expires_at: Option<Millis> },
    RequestRecorded { request: Text, receipt: Receipt },
} }

frozen_struct! { Event = event::Event {
    revision: Number,
    at: Millis,
    deployment_id: Text,
    version: Number,
    body: EventBody,
} }

frozen_enum! { EventBody = event::EventBody {
    DeploymentStarted(beginning: NewDeployment),
    DeploymentNoop(beginning: NewDeployment),
    VersionRecorded(beginning: NewDeployment),
    RollbackStarted { from_version: Number, rollback_of: Number, cause: Option<Cause>, by: Text, reason: Option<Text> },
    TaskIssued {
        instance: InstanceRef,
        task: TaskKind,
        from_version: Option<Number>,
        attempt: u32,
        bundle: Option<Text>,
        deadline: Deadline,
        by: Text,
        reason: Option<Text>,
    },
    TaskDone { instance: InstanceRef, task: TaskKind, withdrawn: bool, removes_instance: bool },
    AgentState {
        instance: InstanceRef,
        state: AgentReport,
        attempt: u32,
        reason: Option<Text>,
        healthy_at: Option<Millis>,
        removes_instance: bool,
        fails_at_resume: bool,
    },
    AgentHealthy { instance: InstanceRef, progress: Deadline },
    AgentUnhealthy { instance: InstanceRef, reason: Text, resumes_with: Option<Deadline>, fails_at_resume: bool },
    AwaitingPromotion { healthy: u32 },
    DeploymentPromoted { progress: Deadline, by: Text, reason: Option<Text> },
    DeploymentPaused { by: Text, reason: Option<Text> },
    DeploymentResumed { status: Status, progress: Deadline, by: Text, reason: Option<Text> },
    DeploymentFailed { cause: Cause, description: Text, by: Text, reason: Option<Text> },
    DeploymentCancelled { cause: Cause, description: Text, by: Text, reason: Option<Text> },
    DeploymentSuccessful { description: Text },
    FallbackBlueGreen { agent: Text, reason: Text, job_id: Text, changed: List<Text>, canaries: u32 },
    VersionTagged { tag: Text, replaced: Option<Text>, by: Text },
    VersionUntagged { tag: Text, by: Text },
    ServiceRegistered { service: Service, healthy_at: Option<Millis> },
    ServiceStatus {
        instance: Text,
        service: Text,
        agent: Text,
        status: CheckStatus,
        reason: Option<Text>,
        expires_at: Option<Millis>,
        healthy_at: Option<Millis>,
    },
    ServiceDeregistered { instance: Text, service: Text, agent: Text, reason: Text, healthy_at: Option<Millis> },
} }

frozen_struct! { NewDeployment = event::NewDeployment {
    version: Version,
    mode: Mode,
    strategy: Strategy,
    requested_strategy: Strategy,
    mode_reason: Text,
    cause: Option<Cause>,
    source_version: Option<Number>,
    source_job_id: Option<Text>,
    requested_job: Option<Text>,
    changed: List<Text>,
    removed_agents: List<Text>,
    canaries: u32,
    progress: Deadline,
    trimmed: List<Number>,
} }

frozen_struct! { InstanceRef = event::InstanceRef { agent: Text, node: Text, job_id: Text, role: Role } }

// ---- words -----------------------------------------------------------------------------------------------------------

frozen_enum! { AgentReport = event::AgentReport { State(state: InstanceState), Completed, Unsafe } }

frozen_enum! { CountOrPercent = policy::CountOrPercent { Count(count: u32), Percent(percent: u32) } }

frozen_enum! { Cause = deployment::Cause {
    UnhealthyAgent,
    ProgressDeadline,
    AgentFailed,
    Operator,
    NewerVersion,
    Stopped,
} }

frozen_enum! { CheckStatus = services::CheckStatus { Passing, Warning, Critical } }

frozen_enum! { Deadline = time::Deadline { Off, Running { at: Millis }, Paused { left_ms: Millis } } }

frozen_enum! { Health = instance::Health { Pending, Healthy, Unhealthy } }

frozen_enum! { HealthCheck = policy::HealthCheck { Checks, AgentStates } }

frozen_enum! { InstanceState = instance::InstanceState { Waiting, Starting, Ready, Unready, Failed, Stopped } }

frozen_enum! { JobType = manifest::JobType { Service, System, Batch, Sysbatch } }

frozen_enum! { Mode = deployment::Mode { Initial, InPlace, BlueGreen, Noop, VersionOnly, Unchanged } }

frozen_enum! { Outcome = deployment::Outcome { Successful, Failed, Cancelled, VersionRecorded, Completed } }

frozen_enum! { Role = instance::Role { Primary, Canary, Candidate, Retired } }

frozen_enum! { Status = deployment::Status {
    Running,
    AwaitingPromotion,
    Paused,
    Successful,
    Failed,
    Cancelled,
    VersionRecorded,
} }

frozen_enum! { Strategy = policy::Strategy { Rolling, Canary, BlueGreen } }

frozen_enum! { TaskKind = instance::TaskKind { Start, Replace, Stop, Run } }

// ---- scalars and lists -----------------------------------------------------------------------------------------------

/// A count or a sequence number.
enum Number {}

impl Shape<u64> for Number {
    fn write<'a>(value: &'a u64, out: &mut Writer<'a, '_>) {
        out.number(*value);
    }

    fn read(from: &mut Reader) -> Result<u64, DecodeError> {
        within(from.number()?, MAX_NUMBER)
    }
}

impl Shape<usize> for Number {
    fn write<'a>(value: &'a usize, out: &mut Writer<'a, '_>) {
        // A bound beyond all numbers is no bound, written so or so.
        out.number((*value as u64).min(MAX_NUMBER));
    }

    fn read(from: &mut Reader) -> Result<usize, DecodeError> {
        usize::try_from(within(from.number()?, MAX_NUMBER)?).map_err(|_| DecodeError::TooLarge)
    }
}

/// A time or a duration.
enum Millis {}

impl Shape<u64> for Millis {
    fn write<'a>(value: &'a u64, out: &mut Writer<'a, '_>) {
        out.number(*value);
    }

    fn read(from: &mut Reader) -> Result<u64, DecodeError> {
        within(from.number()?, MAX_TIME_MS)
    }
}

fn within(value: u64, max: u64) -> Result<u64, DecodeError> {
    if value > max {
        return Err(DecodeError::Invalid(format!("{value} is beyond {max}")));
    }
    Ok(value)
}

/// What stands for itself.
macro_rules! plain {
    ($($plain:ty),*) => {
        $(impl Shape<$plain> for $plain {
            fn write<'a>(value: &'a $plain, out: &mut Writer<'a, '_>) {
                out.number(u64::from(*value));
            }

            fn read(from: &mut Reader) -> Result<$plain, DecodeError> {
                <$plain>::try_from(from.number()?).map_err(|_| DecodeError::Malformed)
            }
        })*
    };
}

plain!(u16, u32);

impl Shape<bool> for bool {
    fn write<'a>(value: &'a bool, out: &mut Writer<'a, '_>) {
        out.number(u64::from(*value));
    }

    fn read(from: &mut Reader) -> Result<bool, DecodeError> {
        match from.number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Malformed),
        }
    }
}

impl<Value, S: Shape<Value>> Shape<Option<Value>> for Option<S> {
    fn write<'a>(value: &'a Option<Value>, out: &mut Writer<'a, '_>) {
        <bool as Shape<bool>>::write(if value.is_some() { &true } else { &false }, out);
        if let Some(value) = value {
            S::write(value, out);
        }
    }

    fn read(from: &mut Reader) -> Result<Option<Value>, DecodeError> {
        <bool as Shape<bool>>::read(from)?.then(|| S::read(from)).transpose()
    }
}

/// What the engine keeps behind a pointer lies in the bytes as it is.
macro_rules! pointed_to {
    ($shape:ident = $pointer:ident<$engine:ty>) => {
        impl Shape<$pointer<$engine>> for $shape {
            fn write<'a>(value: &'a $pointer<$engine>, out: &mut Writer<'a, '_>) {
                <$shape as Shape<$engine>>::write(value, out);
            }

            fn read(from: &mut Reader) -> Result<$pointer<$engine>, DecodeError> {
                <$shape as Shape<$engine>>::read(from).map($pointer::new)
            }
        }
    };
}

pointed_to!(Deployment = Arc<deployment::Deployment>);
pointed_to!(NewDeployment = Box<event::NewDeployment>);
pointed_to!(Service = Box<services::Service>);

/// A list within a shape. It takes memory as its elements come and not as their number says.
struct List<S>(std::marker::PhantomData<S>);

impl<Value, S: Shape<Value>> Shape<Vec<Value>> for List<S> {
    fn write<'a>(values: &'a Vec<Value>, out: &mut Writer<'a, '_>) {
        out.values::<S, Value>(values.len(), values.iter());
    }

    fn read(from: &mut Reader) -> Result<Vec<Value>, DecodeError> {
        let count = from.count()?;
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(S::read(from)?);
        }
        Ok(values)
    }
}

impl<Value, S: Shape<Value>> Shape<Arc<[Value]>> for List<S> {
    fn write<'a>(values: &'a Arc<[Value]>, out: &mut Writer<'a, '_>) {
        out.values::<S, Value>(values.len(), values.iter());
    }

    fn read(from: &mut Reader) -> Result<Arc<[Value]>, DecodeError> {
        let values: Vec<Value> = <List<S> as Shape<Vec<Value>>>::read(from)?;
        Ok(Arc::from(values))
    }
}

// ---- texts -----------------------------------------------------------------------------------------------------------

/// A text: twice its length and its bytes, where it is new; where it is not, one more than twice its place among the
/// texts so far. The empty one is always new, and has no place.
enum Text {}

impl Shape<Arc<str>> for Text {
    fn write<'a>(value: &'a Arc<str>, out: &mut Writer<'a, '_>) {
        out.text(value);
    }

    fn read(from: &mut Reader) -> Result<Arc<str>, DecodeError> {
        from.text().map(|(text, _)| text)
    }
}

/// A manifest, by its text.
enum Manifest {}

impl Shape<Arc<ManifestText>> for Manifest {
    fn write<'a>(value: &'a Arc<ManifestText>, out: &mut Writer<'a, '_>) {
        out.manifest(value);
    }

    fn read(from: &mut Reader) -> Result<Arc<ManifestText>, DecodeError> {
        from.manifest()
    }
}

/// The texts that were written so far, in the order in which they came.
struct TextsWritten<'a> {
    /// So many are found faster by looking at each, and few events have more.
    first: [&'a str; FEW],
    count: usize,
    /// All of them, once there are more.
    places: Option<HashMap<&'a str, usize, foldhash::fast::RandomState>>,
    /// Manifests are long: one that versions share is looked up by where it lies in memory, not by its text.
    manifests: BTreeMap<*const ManifestText, usize>,
}

const FEW: usize = 16;

impl<'a> TextsWritten<'a> {
    fn new() -> TextsWritten<'a> {
        TextsWritten { first: [""; FEW], count: 0, places: None, manifests: BTreeMap::new() }
    }

    /// Where a text is; None where it is new, and has a place from now on.
    fn find_or_add(&mut self, text: &'a str) -> Option<usize> {
        let known = self.first.get(..self.count.min(FEW)).unwrap_or_default();
        if let Some(place) = known.iter().position(|known| is_same(known, text)) {
            return Some(place);
        }
        if let Some(free) = self.first.get_mut(self.count) {
            *free = text;
        } else {
            let first = || self.first.iter().zip(0..).map(|(text, place)| (*text, place)).collect();
            let place = *self.places.get_or_insert_with(first).entry(text).or_insert(self.count);
            if place < self.count {
                return Some(place);
            }
        }
        self.count += 1;
        None
    }
}

/// Many texts are not only equal but the same.
fn is_same(a: &str, b: &str) -> bool {
    a.len() == b.len() && (std::ptr::eq(a, b) || a == b)
}

// ---- bytes -----------------------------------------------------------------------------------------------------------

/// A buffer as bincode writes to it.
struct Buffer<'b>(&'b mut Vec<u8>);

impl WriteBytes for Buffer<'_> {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

struct Writer<'a, 'b> {
    encoder: EncoderImpl<Buffer<'b>, Encoding>,
    texts: TextsWritten<'a>,
}

impl<'a, 'b> Writer<'a, 'b> {
    fn onto(bytes: &'b mut Vec<u8>) -> Writer<'a, 'b> {
        Writer { encoder: EncoderImpl::new(Buffer(bytes), ENCODING), texts: TextsWritten::new() }
    }

    /// From here on no text was there before.
    fn begin_anew(&mut self) {
        if self.texts.count > 0 {
            self.texts = TextsWritten::new();
        }
    }

    #[inline]
    fn number(&mut self, number: u64) {
        match u8::try_from(number) {
            Ok(byte) if byte <= ONE_BYTE_MAX => self.buffer().push(byte),
            _ => number.encode(&mut self.encoder).expect("a Vec takes any bytes, and a number is never refused"),
        }
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        self.encoder.writer().0
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.buffer().extend_from_slice(bytes);
    }

    fn text(&mut self, text: &'a str) {
        match if text.is_empty() { None } else { self.texts.find_or_add(text) } {
            Some(place) => self.number((place as u64) << 1 | 1),
            None => {
                self.number((text.len() as u64) << 1);
                self.bytes(text.as_bytes());
            }
        }
    }

    fn manifest(&mut self, content: &'a Arc<ManifestText>) {
        let address = Arc::as_ptr(content);
        if let Some(place) = self.texts.manifests.get(&address) {
            return self.number((*place as u64) << 1 | 1);
        }
        let text = content.text();
        let next = self.texts.count;
        self.text(text);
        if self.texts.count > next {
            self.texts.manifests.insert(address, next);
        }
    }

    fn values<S: Shape<Value>, Value: 'a>(&mut self, count: usize, values: impl Iterator<Item = &'a Value>) {
        self.number(count as u64);
        for value in values {
            S::write(value, self);
        }
    }
}

/// Bytes as bincode reads them.
struct Bytes<'p>(&'p [u8]);

impl ReadBytes for Bytes<'_> {
    #[inline(always)]
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), bincode::error::DecodeError> {
        bytes.copy_from_slice(self.take_bytes(bytes.len())?);
        Ok(())
    }

    #[inline(always)]
    fn peek_read(&mut self, count: usize) -> Option<&[u8]> {
        self.0.get(..count)
    }

    #[inline(always)]
    fn consume(&mut self, count: usize) {
        self.0 = self.0.get(count..).unwrap_or_default();
    }
}

impl<'p> BorrowReader<'p> for Bytes<'p> {
    #[inline(always)]
    fn take_bytes(&mut self, length: usize) -> Result<&'p [u8], bincode::error::DecodeError> {
        let (bytes, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(bincode::error::DecodeError::UnexpectedEnd { additional: length.saturating_sub(self.0.len()) })?;
        self.0 = rest;
        Ok(bytes)
    }
}

struct Reader<'p> {
    decoder: DecoderImpl<Bytes<'p>, Encoding, ()>,
    /// The texts so far, less the empty ones.
    texts: Vec<Arc<str>>,
    /// By place of the text: what several versions contain is one in memory.
    manifests: BTreeMap<usize, Arc<ManifestText>>,
}

impl<'p> Reader<'p> {
    fn of(payload: &'p [u8]) -> Reader<'p> {
        let decoder = DecoderImpl::new(Bytes(payload), ENCODING, ());
        Reader { decoder, texts: Vec::new(), manifests: BTreeMap::new() }
    }

    /// From here on no text was there before.
    fn begin_anew(&mut self) {
        self.texts.clear();
        self.manifests.clear();
    }

    #[inline]
    fn number(&mut self) -> Result<u64, DecodeError> {
        let bytes = self.decoder.borrow_reader();
        match bytes.0.split_first() {
            Some((byte, rest)) if *byte <= ONE_BYTE_MAX => {
                bytes.0 = rest;
                Ok(u64::from(*byte))
            }
            _ => u64::decode(&mut self.decoder).map_err(|_| DecodeError::Malformed),
        }
    }

    fn rest(&mut self) -> &'p [u8] {
        self.decoder.borrow_reader().0
    }

    fn take(&mut self, length: usize) -> Result<&'p [u8], DecodeError> {
        self.decoder.borrow_reader().take_bytes(length).map_err(|_| DecodeError::Malformed)
    }

    /// How many follow. Each takes a byte at least, so more than there are bytes is a lie.
    fn count(&mut self) -> Result<usize, DecodeError> {
        match usize::try_from(self.number()?) {
            Ok(count) if count <= self.rest().len() => Ok(count),
            _ => Err(DecodeError::Malformed),
        }
    }

    /// A text, with its place if it has one.
    fn text(&mut self) -> Result<(Arc<str>, Option<usize>), DecodeError> {
        let number = self.number()?;
        let length_or_place = usize::try_from(number >> 1).map_err(|_| DecodeError::Malformed)?;
        if number & 1 == 1 {
            let text = self.texts.get(length_or_place).cloned().ok_or(DecodeError::Malformed)?;
            return Ok((text, Some(length_or_place)));
        }
        let bytes = self.take(length_or_place)?;
        if bytes.len() > MAX_TEXT_BYTES {
            return Err(DecodeError::TooLarge);
        }
        let text: Arc<str> = Arc::from(std::str::from_utf8(bytes).map_err(|_| DecodeError::Malformed)?);
        if bytes.is_empty() {
            return Ok((text, None));
        }
        self.texts.push(text.clone());
        Ok((text, Some(self.texts.len() - 1)))
    }

    fn manifest(&mut self) -> Result<Arc<ManifestText>, DecodeError> {
        let (text, place) = self.text()?;
        let Some(place) = place else { return Ok(Arc::new(ManifestText::new(text))) };
        let content = self.manifests.entry(place).or_insert_with(|| Arc::new(ManifestText::new(text)));
        Ok(content.clone())
    }

    fn finish(mut self) -> Result<(), DecodeError> {
        if self.rest().is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Malformed)
        }
    }
}
