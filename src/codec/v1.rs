//! Format 1, frozen: the shapes as they lie in the bytes, and the only file that names bincode.
//!
//! ```text
//! payload of a record   texts │ Head │ versions │ instances │ services │ log │ requests
//! payload of a batch    texts │ log_max │ changes
//! ```
//!
//! Each plural is a count and then so many of the shape. Every text lies in the payload once, in `texts`; elsewhere is
//! its place there. So manifests, agents and jobs that many name are stored once, and are one `Arc` again when read.
//!
//! The encoding is positional: fields and variants are known by their order alone. **Never reorder, remove, insert or
//! append here**; a new shape is a new format. The shapes are apart from the engine's types on purpose: those may
//! change, and the compiler then says here what no longer fits.
//!
//! Shapes are read one at a time and turned into the engine's values at once, so that a payload cannot make more of
//! them than its bytes pay for.

use super::{DecodeError, MAX_INSTANCES_PER_AGENT, MAX_NUMBER, MAX_PAYLOAD_BYTES, MAX_TEXT_BYTES, MAX_TIME_MS};
use crate::engine::manifest::Content;
use crate::engine::{command, deployment, event, health, history, instances, policy, services, time};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

type Encoding = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_PAYLOAD_BYTES>,
>;

const ENCODING: Encoding = bincode::config::standard().with_limit::<MAX_PAYLOAD_BYTES>();

// ---- payloads --------------------------------------------------------------------------------------------------------

pub(super) fn write_record(record: &deployment::Record, payload: &mut Vec<u8>) {
    let log: Vec<Arc<event::Event>> = record.log.iter().collect();
    let mut writer = Writer::new();
    writer.value::<Head, _>(record);
    writer.values::<Version, _>(record.versions.len(), record.versions.iter().map(|version| &**version));
    writer.values::<Instance, _>(record.instances.len(), record.instances.iter());
    writer.values::<Service, _>(record.services.len(), record.services.iter().map(|service| &**service));
    writer.values::<Event, _>(log.len(), log.iter());
    writer.values::<Remembered, _>(record.requests.len(), record.requests.iter());
    writer.finish(payload);
}

pub(super) fn read_record(payload: &[u8]) -> Result<deployment::Record, DecodeError> {
    let mut reader = Reader::open(payload)?;
    let head: deployment::Record = reader.value::<Head, _>()?;
    let mut record = deployment::Record { log: super::empty_log(), ..head };
    for _ in 0..reader.count()? {
        Arc::make_mut(&mut record.versions).push(Arc::new(reader.value::<Version, _>()?));
    }
    let instances = reader.count()?;
    for _ in 0..instances {
        let instance: deployment::Instance = reader.value::<Instance, _>()?;
        if record.instances.of_agent(&instance.agent).len() >= MAX_INSTANCES_PER_AGENT {
            return Err(DecodeError::Invalid(format!("agent {} has too many instances", instance.agent)));
        }
        record.instances.insert(instance);
    }
    if record.instances.len() != instances {
        return Err(DecodeError::Invalid("an instance comes twice".to_string()));
    }
    let services = reader.count()?;
    for _ in 0..services {
        record.services.insert(reader.value::<Service, _>()?);
    }
    if record.services.len() != services {
        return Err(DecodeError::Invalid("a service instance comes twice".to_string()));
    }
    let events = reader.count()?;
    for _ in 0..events {
        record.log.push(reader.value::<Event, _>()?);
    }
    for _ in 0..reader.count()? {
        Arc::make_mut(&mut record.requests).push_back(reader.value::<Remembered, _>()?);
    }
    reader.finish()?;
    Ok(record)
}

/// Events by themselves, for the memory of this process alone.
pub(super) fn write_events(events: &[Arc<event::Event>], payload: &mut Vec<u8>) {
    let mut writer = Writer::new();
    writer.values::<Event, _>(events.len(), events.iter());
    writer.finish(payload);
}

pub(super) fn read_events(payload: &[u8]) -> Result<Vec<Arc<event::Event>>, DecodeError> {
    let mut reader = Reader::open(payload)?;
    let mut events = Vec::new();
    for _ in 0..reader.count()? {
        events.push(reader.value::<Event, _>()?);
    }
    reader.finish()?;
    Ok(events)
}

pub(super) fn write_batch(batch: &event::Batch, payload: &mut Vec<u8>) {
    let mut writer = Writer::new();
    writer.value::<Number, _>(&batch.log_max);
    writer.values::<Change, _>(batch.changes.len(), batch.changes.iter());
    writer.finish(payload);
}

pub(super) fn read_batch(payload: &[u8]) -> Result<event::Batch, DecodeError> {
    let mut reader = Reader::open(payload)?;
    let log_max = reader.value::<Number, _>()?;
    let mut changes = Vec::new();
    for _ in 0..reader.count()? {
        changes.push(reader.value::<Change, _>()?);
    }
    reader.finish()?;
    Ok(event::Batch { changes, log_max })
}

// ---- how a shape stands for a value of the engine --------------------------------------------------------------------

/// A shape in the bytes that stands for an engine's `Value`.
trait Shape<Value>: Sized {
    fn of<'a>(value: &'a Value, texts: &mut TextsToWrite<'a>) -> Self;
    fn into_value(self, texts: &mut TextsRead) -> Result<Value, DecodeError>;
}

/// A struct of the engine, field by field in the frozen order.
macro_rules! frozen_struct {
    ($name:ident = $engine:ty { $($field:ident: $shape:ty),* $(,)? }) => {
        #[derive(Serialize, Deserialize)]
        struct $name {
            $($field: $shape),*
        }

        impl Shape<$engine> for $name {
            fn of<'a>(value: &'a $engine, texts: &mut TextsToWrite<'a>) -> Self {
                type Engine = $engine;
                let Engine { $($field),* } = value;
                $name { $($field: Shape::of($field, texts)),* }
            }

            fn into_value(self, texts: &mut TextsRead) -> Result<$engine, DecodeError> {
                type Engine = $engine;
                Ok(Engine { $($field: self.$field.into_value(texts)?),* })
            }
        }
    };
}

/// An enum of the engine, variant by variant in the frozen order: each is known by its place, counted from 0.
macro_rules! frozen_enum {
    ($name:ident = $engine:ty {
        $($variant:ident $({ $($field:ident: $shape:ty),* $(,)? })? $(($inner:ident: $inner_shape:ty))?),* $(,)?
    }) => {
        #[derive(Serialize, Deserialize)]
        enum $name {
            $($variant $({ $($field: $shape),* })? $(($inner_shape))?),*
        }

        #[allow(unused_variables)] // most enums hold no text
        impl Shape<$engine> for $name {
            fn of<'a>(value: &'a $engine, texts: &mut TextsToWrite<'a>) -> Self {
                type Engine = $engine;
                match value {
                    $(Engine::$variant $({ $($field),* })? $(($inner))? => {
                        $name::$variant $({ $($field: Shape::of($field, texts)),* })? $((Shape::of($inner, texts)))?
                    })*
                }
            }

            fn into_value(self, texts: &mut TextsRead) -> Result<$engine, DecodeError> {
                type Engine = $engine;
                Ok(match self {
                    $($name::$variant $({ $($field),* })? $(($inner))? => {
                        Engine::$variant $({ $($field: $field.into_value(texts)?),* })? $(($inner.into_value(texts)?))?
                    })*
                })
            }
        }
    };
}

// ---- the record ------------------------------------------------------------------------------------------------------

/// The record's own fields; what it holds many of follows.
#[derive(Serialize, Deserialize)]
struct Head {
    revision: Number,
    last_version: Number,
    current_version: Option<Number>,
    current_job_id: Option<Text>,
    deployment: Option<Deployment>,
    created_at: Millis,
    updated_at: Millis,
}

impl Shape<deployment::Record> for Head {
    fn of<'a>(record: &'a deployment::Record, texts: &mut TextsToWrite<'a>) -> Head {
        let deployment::Record {
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
        Head {
            revision: Shape::of(revision, texts),
            last_version: Shape::of(last_version, texts),
            current_version: Shape::of(current_version, texts),
            current_job_id: Shape::of(current_job_id, texts),
            deployment: deployment.as_deref().map(|deployment| Shape::of(deployment, texts)),
            created_at: Shape::of(created_at, texts),
            updated_at: Shape::of(updated_at, texts),
        }
    }

    fn into_value(self, texts: &mut TextsRead) -> Result<deployment::Record, DecodeError> {
        Ok(deployment::Record {
            revision: self.revision.into_value(texts)?,
            last_version: self.last_version.into_value(texts)?,
            current_version: self.current_version.into_value(texts)?,
            current_job_id: self.current_job_id.into_value(texts)?,
            deployment: self.deployment.into_value(texts)?.map(Arc::new),
            created_at: self.created_at.into_value(texts)?,
            updated_at: self.updated_at.into_value(texts)?,
            ..deployment::Record::empty()
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
    gone: List<Text>,
    canaries: u32,
    promoted: bool,
    progress: Clock,
    paused_from: Option<Status>,
    doom: Option<Doom>,
    unsafe_report: Option<UnsafeReport>,
    last_action: Option<Action>,
    created_at: Millis,
    finished_at: Option<Millis>,
} }

frozen_struct! { Doom = deployment::Doom { cause: Cause, words: Text } }

frozen_struct! { UnsafeReport = deployment::UnsafeReport { agent: Text, words: Text } }

frozen_struct! { Action = deployment::Action { name: Text, by: Text, at: Millis, reason: Option<Text> } }

frozen_struct! { Version = history::Version {
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
    max_parallel: Amount,
    canary: Amount,
    min_healthy_ms: Millis,
    healthy_deadline_ms: Millis,
    progress_deadline_ms: Millis,
    health_check: HealthCheck,
    auto_promote: bool,
    auto_revert: bool,
} }

frozen_struct! { Instance = deployment::Instance {
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
    deadline: Clock,
    was_healthy: bool,
    created: Number,
} }

frozen_struct! { Task = deployment::Task { kind: TaskKind, revision: Number, since: Millis } }

frozen_struct! { InstanceKey = instances::InstanceKey { agent: Text, version: Number, job_id: Text } }

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

frozen_struct! { Remembered = deployment::Remembered { request: Text, receipt: Receipt } }

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

frozen_enum! { Change = event::Change { Event(event: Event), Note(note: Note) } }

frozen_enum! { Note = event::Note {
    ServiceRefreshed { instance: Text, expires_at: Option<Millis> },
    RequestRemembered { request: Text, receipt: Receipt },
} }

frozen_struct! { Event = event::Event {
    revision: Number,
    at: Millis,
    deployment_id: Text,
    version: Number,
    body: EventBody,
} }

frozen_enum! { EventBody = event::EventBody {
    DeploymentStarted(beginning: Box<Beginning>),
    DeploymentNoop(beginning: Box<Beginning>),
    VersionRecorded(beginning: Box<Beginning>),
    RollbackStarted { from_version: Number, rollback_of: Number, cause: Option<Cause>, by: Text, reason: Option<Text> },
    TaskIssued {
        of: Subject,
        task: TaskKind,
        from_version: Option<Number>,
        attempt: u32,
        bundle: Option<Text>,
        deadline: Clock,
        by: Text,
        reason: Option<Text>,
    },
    TaskDone { of: Subject, task: TaskKind, withdrawn: bool, leaves: bool },
    AgentState {
        of: Subject,
        state: AgentReport,
        attempt: u32,
        reason: Option<Text>,
        healthy_at: Option<Millis>,
        leaves: bool,
        dooms: bool,
    },
    AgentHealthy { of: Subject, progress: Clock },
    AgentUnhealthy { of: Subject, reason: Text, reopens: Option<Clock>, dooms: bool },
    AwaitingPromotion { healthy: u32 },
    DeploymentPromoted { progress: Clock, by: Text, reason: Option<Text> },
    DeploymentPaused { by: Text, reason: Option<Text> },
    DeploymentResumed { status: Status, progress: Clock, by: Text, reason: Option<Text> },
    DeploymentFailed { cause: Cause, description: Text, by: Text, reason: Option<Text> },
    DeploymentCancelled { cause: Cause, description: Text, by: Text, reason: Option<Text> },
    DeploymentSuccessful { description: Text },
    FallbackBlueGreen { agent: Text, reason: Text, job_id: Text, changed: List<Text>, canaries: u32 },
    VersionTagged { tag: Text, replaced: Option<Text>, by: Text },
    VersionUntagged { tag: Text, by: Text },
    ServiceRegistered { service: Box<Service>, healthy_at: Option<Millis> },
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

frozen_struct! { Beginning = event::Beginning {
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
    gone: List<Text>,
    canaries: u32,
    progress: Clock,
    trimmed: List<Number>,
} }

frozen_struct! { Subject = event::Subject { agent: Text, node: Text, job_id: Text, role: Role } }

// ---- words -----------------------------------------------------------------------------------------------------------

frozen_enum! { AgentReport = event::AgentReport { State(state: InstanceState), Completed, Unsafe } }

frozen_enum! { Amount = policy::Amount { Count(count: u32), Percent(percent: u32) } }

frozen_enum! { Cause = deployment::Cause {
    UnhealthyAgent,
    ProgressDeadline,
    AgentFailed,
    Operator,
    NewerVersion,
    Stopped,
} }

frozen_enum! { CheckStatus = command::CheckStatus { Passing, Warning, Critical } }

frozen_enum! { Clock = time::Clock { Off, Running { at: Millis }, Held { left_ms: Millis } } }

frozen_enum! { Health = health::Health { Pending, Healthy, Unhealthy } }

frozen_enum! { HealthCheck = policy::HealthCheck { Checks, AgentStates } }

frozen_enum! { InstanceState = health::InstanceState { Waiting, Starting, Ready, Unready, Failed, Stopped } }

frozen_enum! { JobType = history::JobType { Service, System, Batch, Sysbatch } }

frozen_enum! { Mode = deployment::Mode { Initial, InPlace, BlueGreen, Noop, VersionOnly, Unchanged } }

frozen_enum! { Outcome = history::Outcome { Successful, Failed, Cancelled, VersionRecorded, Completed } }

frozen_enum! { Role = deployment::Role { Primary, Canary, Candidate, Retired } }

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

frozen_enum! { TaskKind = deployment::TaskKind { Start, Replace, Stop, Run } }

// ---- scalars and lists -----------------------------------------------------------------------------------------------

/// A count or a sequence number.
#[derive(Serialize, Deserialize)]
struct Number(u64);

impl Shape<u64> for Number {
    fn of<'a>(value: &'a u64, _: &mut TextsToWrite<'a>) -> Number {
        Number(*value)
    }

    fn into_value(self, _: &mut TextsRead) -> Result<u64, DecodeError> {
        within(self.0, MAX_NUMBER)
    }
}

impl Shape<usize> for Number {
    fn of<'a>(value: &'a usize, _: &mut TextsToWrite<'a>) -> Number {
        // A bound beyond all numbers is no bound, written so or so.
        Number((*value as u64).min(MAX_NUMBER))
    }

    fn into_value(self, _: &mut TextsRead) -> Result<usize, DecodeError> {
        usize::try_from(within(self.0, MAX_NUMBER)?).map_err(|_| DecodeError::TooLarge)
    }
}

/// A time or a duration.
#[derive(Serialize, Deserialize)]
struct Millis(u64);

impl Shape<u64> for Millis {
    fn of<'a>(value: &'a u64, _: &mut TextsToWrite<'a>) -> Millis {
        Millis(*value)
    }

    fn into_value(self, _: &mut TextsRead) -> Result<u64, DecodeError> {
        within(self.0, MAX_TIME_MS)
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
            fn of<'a>(value: &'a $plain, _: &mut TextsToWrite<'a>) -> $plain {
                *value
            }

            fn into_value(self, _: &mut TextsRead) -> Result<$plain, DecodeError> {
                Ok(self)
            }
        })*
    };
}

plain!(bool, u16, u32);

impl<Value, S: Shape<Value>> Shape<Option<Value>> for Option<S> {
    fn of<'a>(value: &'a Option<Value>, texts: &mut TextsToWrite<'a>) -> Option<S> {
        value.as_ref().map(|value| S::of(value, texts))
    }

    fn into_value(self, texts: &mut TextsRead) -> Result<Option<Value>, DecodeError> {
        self.map(|shape| shape.into_value(texts)).transpose()
    }
}

impl<Value, S: Shape<Value>> Shape<Box<Value>> for Box<S> {
    fn of<'a>(value: &'a Box<Value>, texts: &mut TextsToWrite<'a>) -> Box<S> {
        Box::new(S::of(value, texts))
    }

    fn into_value(self, texts: &mut TextsRead) -> Result<Box<Value>, DecodeError> {
        Ok(Box::new((*self).into_value(texts)?))
    }
}

impl Shape<Arc<event::Event>> for Event {
    fn of<'a>(value: &'a Arc<event::Event>, texts: &mut TextsToWrite<'a>) -> Event {
        Event::of(&**value, texts)
    }

    fn into_value(self, texts: &mut TextsRead) -> Result<Arc<event::Event>, DecodeError> {
        Ok(Arc::new(self.into_value(texts)?))
    }
}

/// A list within a shape. It is a Vec in the bytes, but takes memory as its elements come and not as their number says:
/// serde's own Vec reserves up to a mebibyte for a number that nothing backs.
#[derive(Serialize)]
#[serde(transparent)]
struct List<S>(Vec<S>);

impl<'de, S: Deserialize<'de>> Deserialize<'de> for List<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<List<S>, D::Error> {
        struct Elements<S>(PhantomData<S>);

        impl<'de, S: Deserialize<'de>> Visitor<'de> for Elements<S> {
            type Value = List<S>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<List<S>, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = elements.next_element()? {
                    list.push(element);
                }
                Ok(List(list))
            }
        }

        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

impl<Value, S: Shape<Value>> Shape<Vec<Value>> for List<S> {
    fn of<'a>(values: &'a Vec<Value>, texts: &mut TextsToWrite<'a>) -> List<S> {
        List(values.iter().map(|value| S::of(value, texts)).collect())
    }

    fn into_value(self, texts: &mut TextsRead) -> Result<Vec<Value>, DecodeError> {
        self.0.into_iter().map(|shape| shape.into_value(texts)).collect()
    }
}

impl<Value, S: Shape<Value>> Shape<Arc<[Value]>> for List<S> {
    fn of<'a>(values: &'a Arc<[Value]>, texts: &mut TextsToWrite<'a>) -> List<S> {
        List(values.iter().map(|value| S::of(value, texts)).collect())
    }

    fn into_value(self, texts: &mut TextsRead) -> Result<Arc<[Value]>, DecodeError> {
        let values: Vec<Value> = self.into_value(texts)?;
        Ok(Arc::from(values))
    }
}

// ---- texts -----------------------------------------------------------------------------------------------------------

/// A text's place among the payload's texts.
#[derive(Serialize, Deserialize)]
struct Text(u32);

impl Shape<Arc<str>> for Text {
    fn of<'a>(value: &'a Arc<str>, texts: &mut TextsToWrite<'a>) -> Text {
        Text(texts.place(value))
    }

    fn into_value(self, texts: &mut TextsRead) -> Result<Arc<str>, DecodeError> {
        texts.text(self.0)
    }
}

/// A manifest, by its text.
#[derive(Serialize, Deserialize)]
struct Manifest(u32);

impl Shape<Arc<Content>> for Manifest {
    fn of<'a>(value: &'a Arc<Content>, texts: &mut TextsToWrite<'a>) -> Manifest {
        Manifest(texts.manifest_place(value))
    }

    fn into_value(self, texts: &mut TextsRead) -> Result<Arc<Content>, DecodeError> {
        texts.manifest(self.0)
    }
}

/// The texts that shapes name, in the order in which they are first named.
#[derive(Default)]
struct TextsToWrite<'a> {
    texts: Vec<&'a str>,
    /// Empty while there are few.
    places: HashMap<&'a str, u32>,
    /// Manifests are long: one that versions share is looked up by where it lies in memory, not by its text.
    manifests: HashMap<*const Content, u32>,
}

impl<'a> TextsToWrite<'a> {
    fn place(&mut self, text: &'a str) -> u32 {
        /// So many are found faster by looking at each, and few batches have more.
        const FEW: usize = 16;
        if self.places.is_empty() {
            if let Some(place) = self.texts.iter().position(|known| *known == text) {
                return place as u32;
            }
            if self.texts.len() < FEW {
                self.texts.push(text);
                return self.texts.len() as u32 - 1;
            }
            self.places = self.texts.iter().zip(0..).map(|(text, place)| (*text, place)).collect();
        }
        let next = self.texts.len() as u32;
        let place = *self.places.entry(text).or_insert(next);
        if place == next {
            self.texts.push(text);
        }
        place
    }

    fn manifest_place(&mut self, content: &'a Arc<Content>) -> u32 {
        let address = Arc::as_ptr(content);
        if let Some(place) = self.manifests.get(&address) {
            return *place;
        }
        let place = self.place(content.text());
        self.manifests.insert(address, place);
        place
    }
}

/// The texts of a payload that is being read.
struct TextsRead {
    texts: Vec<Arc<str>>,
    /// By place: what several versions contain is one in memory.
    manifests: BTreeMap<u32, Arc<Content>>,
}

impl TextsRead {
    fn text(&self, place: u32) -> Result<Arc<str>, DecodeError> {
        self.texts.get(place as usize).cloned().ok_or(DecodeError::Malformed)
    }

    fn manifest(&mut self, place: u32) -> Result<Arc<Content>, DecodeError> {
        if let Some(content) = self.manifests.get(&place) {
            return Ok(content.clone());
        }
        let content = Arc::new(Content::new(self.text(place)?));
        self.manifests.insert(place, content.clone());
        Ok(content)
    }
}

// ---- bytes -----------------------------------------------------------------------------------------------------------

fn append(bytes: &mut Vec<u8>, shape: &impl Serialize) {
    bincode::serde::encode_into_std_write(shape, bytes, ENCODING)
        .expect("a Vec takes any bytes, and no shape here is of a kind that bincode refuses to write");
}

struct Writer<'a> {
    texts: TextsToWrite<'a>,
    shapes: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new() -> Writer<'a> {
        Writer { texts: TextsToWrite::default(), shapes: Vec::with_capacity(256) }
    }

    fn value<S: Shape<Value> + Serialize, Value>(&mut self, value: &'a Value) {
        let shape = S::of(value, &mut self.texts);
        append(&mut self.shapes, &shape);
    }

    fn values<S: Shape<Value> + Serialize, Value: 'a>(
        &mut self,
        count: usize,
        values: impl Iterator<Item = &'a Value>,
    ) {
        append(&mut self.shapes, &(count as u64));
        for value in values {
            self.value::<S, Value>(value);
        }
    }

    /// The texts are known last and come first.
    fn finish(self, payload: &mut Vec<u8>) {
        append(payload, &(self.texts.texts.len() as u64));
        for text in self.texts.texts {
            append(payload, &text);
        }
        payload.extend_from_slice(&self.shapes);
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    texts: TextsRead,
}

impl<'a> Reader<'a> {
    fn open(payload: &'a [u8]) -> Result<Reader<'a>, DecodeError> {
        let mut reader = Reader { rest: payload, texts: TextsRead { texts: Vec::new(), manifests: BTreeMap::new() } };
        let texts = reader.count()?;
        reader.texts.texts.reserve_exact(texts);
        for _ in 0..texts {
            let text: &'a str = reader.shape()?;
            if text.len() > MAX_TEXT_BYTES {
                return Err(DecodeError::TooLarge);
            }
            reader.texts.texts.push(Arc::from(text));
        }
        Ok(reader)
    }

    fn shape<S: Deserialize<'a>>(&mut self) -> Result<S, DecodeError> {
        let (shape, read) =
            bincode::serde::borrow_decode_from_slice(self.rest, ENCODING).map_err(|_| DecodeError::Malformed)?;
        self.rest = self.rest.get(read..).ok_or(DecodeError::Malformed)?;
        Ok(shape)
    }

    fn value<S: Shape<Value> + Deserialize<'a>, Value>(&mut self) -> Result<Value, DecodeError> {
        self.shape::<S>()?.into_value(&mut self.texts)
    }

    /// How many shapes follow. Each takes a byte at least, so more than there are bytes is a lie.
    fn count(&mut self) -> Result<usize, DecodeError> {
        let count: u64 = self.shape()?;
        match usize::try_from(count) {
            Ok(count) if count <= self.rest.len() => Ok(count),
            _ => Err(DecodeError::Malformed),
        }
    }

    fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Malformed)
        }
    }
}
