//! Format 2: its payloads to and from values of the engine, where they differ from those of format 1.
//!
//! The shapes are in [`format2`](super::format2), apart from the engine's types on purpose: those may change, and the
//! compiler then says here what no longer fits.

use super::error::DecodeError;
use super::format::{
    convert_struct_with_node, convert_version, node_or_agent, other_node, read_event, read_record_header,
    read_struct_with_node, read_version, Format, StoredVersionShape,
};
use super::format2::*;
use super::shape::{
    convert_enum, convert_struct, read_enum, read_struct, shared_text, IntoValue, Number, Shape, Texts,
};
use super::wire::{write_length_prefixed, Reader};
use crate::engine::event_log::EventCodec;
use crate::engine::manifest::ManifestText;
use crate::engine::{deployment, event, instance, policy, services, summary, version};
use std::borrow::Cow;
use std::sync::Arc;

pub(super) struct Format2;

impl Format for Format2 {
    type Summary<'a> = Summary<'a>;
    type RecordHeader<'a> = RecordHeader<'a>;
    type StoredVersion<'a> = StoredVersion<'a>;
    type Instance<'a> = Instance<'a>;
    type Service<'a> = Service<'a>;
    type IdempotencyEntry<'a> = IdempotencyEntry<'a>;
    type Change<'a> = Change<'a>;

    fn log_events(events: &[u8]) -> Result<Cow<'_, [u8]>, DecodeError> {
        Ok(Cow::Borrowed(events))
    }
}

// ---- events, as a log has them --------------------------------------------------------------------------------------

/// Encodes the events of a log in the newest format: each behind its length.
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
        read_event::<Event>(event, &mut Texts::copied()).ok()
    }
}

/// Returns the codec by which a log keeps its events encoded.
pub(super) fn event_codec() -> &'static dyn EventCodec {
    &LogCodec
}

/// Appends an event as a log has it: behind its length.
pub(super) fn write_event(event: &event::Event, bytes: &mut Vec<u8>) {
    write_length_prefixed(&Event::of(event), bytes);
}

impl<'a> IntoValue<'a, event::Change> for Change<'a> {
    #[inline]
    fn into_value(self, texts: &mut Texts<'a>) -> Result<event::Change, DecodeError> {
        Ok(match self {
            Change::Event(bytes) => event::Change::Event(Arc::new(read_event::<Event>(bytes, texts)?)),
            Change::Silent(silent) => event::Change::Silent(silent.into_value(texts)?),
        })
    }
}

// ---- versions, whose manifests are elsewhere ------------------------------------------------------------------------

convert_version! {
    number, deployment_id, job_id, job_type, strategy, policy, agents, bundle, tag, stable, rollback_of, outcome,
    submitted_at, by, reason, cause, description, promoted_at, promoted_by, finished_at,
}

read_record_header! {}

convert_struct_with_node! { InstanceRef<'a> = event::InstanceRef { job_id, role } }

convert_struct_with_node! { Instance<'a> = instance::Instance {
    version, job_id, role, state, health, attempt, task_at, since, reason, from_version, task, healthy_at, deadline,
    was_healthy, created, sessions, drain, standby_until, adopted_for, not_counted_for,
} }

// ---- field by field -------------------------------------------------------------------------------------------------

convert_struct! { Deployment<'a> = deployment::Deployment {
    id, status, cause, ended, mode, strategy, requested_strategy, mode_reason, rollback_of, by, reason, source_version,
    source_job_id, target_version, target_job_id, requested_job, policy, changed, removed_agents, canaries, promoted,
    progress, is_baking, bake, skips_bake, awaiting_since, paused_from, deferred_failure, unsafe_report, last_action,
    created_at, finished_at,
} }

convert_struct! { Summary<'a> = summary::Summary {
    due, tasks, deployment_id, status, mode, strategy, current_version, stable_version, target_version, healthy, desired,
    updated_at, draining, standby,
} }

convert_struct! { Policy<'a> = policy::Policy {
    strategy, max_parallel, canary, min_healthy_ms, healthy_deadline_ms, progress_deadline_ms, health_check, auto_promote,
    auto_revert, drain_ms, steps, gates, bake_ms, cohort,
} }

convert_struct! { Step<'a> = policy::Step { percent, soak_ms, gates } }

convert_struct! { Gate<'a> = policy::Gate { condition, timeout_ms, on_timeout } }

convert_enum! { Condition<'a> = policy::Condition {
    Measure { metric, bound, min_count },
    Verdict,
    Approvals { count, others },
} }

convert_enum! { Bound = policy::Bound { Max(measured), Min(measured), MaxRatio(ratio), MinRatio(ratio) } }

convert_enum! { Measured = policy::Measured { Share(share), Mean(mean) } }

convert_struct! { Percentage = policy::Percentage { thousandths } }

convert_enum! { OnTimeout = policy::OnTimeout { Fail, Pass } }

convert_struct! { Task = instance::Task { kind, revision, since } }

convert_struct! { Drain = instance::Drain { phase, outcome, role, deadline, idle_ms, idle } }

convert_struct! { NewDrain = event::NewDrain { outcome, deadline, idle_ms } }

convert_struct! { Service<'a> = services::Service {
    instance, owner, service, address, port, tags, meta, status, reason, ttl_ms, expires_at, since, attempt,
} }

convert_struct! { IdempotencyEntry<'a> = deployment::IdempotencyEntry { request, receipt } }

convert_struct! { Receipt<'a> = deployment::Receipt {
    deployment_key, deployment_id, version, job_id, status, mode, revision, warnings,
} }

convert_struct! { NewDeployment<'a> = event::NewDeployment {
    version, mode, strategy, requested_strategy, mode_reason, cause, source_version, source_job_id, requested_job,
    changed, adopted, removed_agents, canaries, progress, trimmed,
} }

convert_enum! { SilentChange<'a> = event::SilentChange {
    ServiceRefreshed { instance, expires_at },
    SessionsReported { instance, sessions, idle },
    RequestRecorded { request, receipt },
} }

convert_struct! { Event<'a> = event::Event { revision, at, deployment_id, version, body } }

convert_enum! { EventBody<'a> = event::EventBody {
    DeploymentStarted(new),
    DeploymentNoop(new),
    VersionRecorded(new),
    RollbackStarted { from_version, rollback_of, cause, by, reason },
    TaskIssued { instance, task, from_version, attempt, bundle, deadline, by, reason, drain },
    TaskDone { instance, task, withdrawn, removes_instance },
    AgentState { instance, state, attempt, reason, healthy_at, removes_instance, fails_at_resume },
    AgentHealthy { instance, progress },
    AgentUnhealthy { instance, reason, resumes_with, fails_at_resume },
    AgentDraining { instance, outcome, sessions, deadline, by, reason },
    AgentDrained { instance, sessions, forced, by, reason },
    AwaitingPromotion { healthy },
    DeploymentPromoted { progress, by, reason, full },
    BakeStarted { bake },
    DeploymentPaused { by, reason },
    DeploymentResumed { status, progress, by, reason },
    DeploymentFailed { cause, description, by, reason },
    DeploymentCancelled { cause, description, by, reason },
    DeploymentSuccessful { description, by, reason },
    FallbackBlueGreen { agent, reason, job_id, changed, canaries },
    VersionTagged { tag, replaced, by },
    VersionUntagged { tag, by },
    ServiceRegistered { service, healthy_at },
    ServiceStatus { instance, service, agent, status, reason, expires_at, healthy_at },
    ServiceDeregistered { instance, service, agent, reason, healthy_at },
} }

convert_enum! { DrainOutcome = instance::DrainOutcome { Stop, Replace { version }, Open } }

convert_enum! { DrainPhase = instance::DrainPhase { Issued, TakenUp, Ended, Succeeded } }

convert_enum! { Role = instance::Role { Primary, Canary, Candidate, Retired, Draining, Standby } }

convert_enum! { TaskKind = instance::TaskKind { Start, Replace, Stop, Run, Drain } }

convert_struct! { Adopted<'a> = event::Adopted { agent, version } }

convert_enum! { Mode = deployment::Mode { Initial, InPlace, BlueGreen, Noop, VersionOnly, Unchanged, SwitchBack } }
