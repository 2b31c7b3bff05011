//! Format 1: its payloads to values of the engine; where its shapes are those of the newest format, also from them.
//!
//! The shapes are in [`format1`](super::format1), apart from the engine's types on purpose: those may change, and the
//! compiler then says here what no longer fits. What a later format added gets its default.

use super::convert2::write_event;
use super::error::DecodeError;
use super::format::{
    node_or_agent, read_event, read_record_header, read_struct_with_node, read_version, Format, StoredVersionShape,
};
use super::format1::*;
use super::shape::{
    convert_enum, convert_struct, read_enum, read_struct, shared_text, IntoValue, Number, Shape, Texts,
};
use super::wire::Reader;
use crate::engine::manifest::ManifestText;
use crate::engine::{deployment, event, instance, manifest, policy, services, summary, time, version};
use std::borrow::Cow;
use std::sync::Arc;

pub(super) struct Format1;

impl Format for Format1 {
    type Summary<'a> = Summary<'a>;
    type RecordHeader<'a> = RecordHeader<'a>;
    type StoredVersion<'a> = StoredVersion<'a>;
    type Instance<'a> = Instance<'a>;
    type Service<'a> = Service<'a>;
    type IdempotencyEntry<'a> = IdempotencyEntry<'a>;
    type Change<'a> = Change<'a>;

    fn log_events(events: &[u8]) -> Result<Cow<'_, [u8]>, DecodeError> {
        let mut from = Reader::of(events);
        let mut rewritten = Vec::with_capacity(events.len());
        while !from.rest().is_empty() {
            write_event(&read_event::<Event>(from.read_bytes()?, &mut Texts::copied())?, &mut rewritten);
        }
        Ok(Cow::Owned(rewritten))
    }
}

read_record_header! {}

impl<'a> IntoValue<'a, event::Change> for Change<'a> {
    fn into_value(self, texts: &mut Texts<'a>) -> Result<event::Change, DecodeError> {
        Ok(match self {
            Change::Event(bytes) => event::Change::Event(Arc::new(read_event::<Event>(bytes, texts)?)),
            Change::Silent(silent) => event::Change::Silent(silent.into_value(texts)?),
        })
    }
}

// ---- versions, whose manifests are elsewhere ------------------------------------------------------------------------

read_version! { {
    number, deployment_id, job_id, job_type, strategy, policy, agents, bundle, tag, stable, rollback_of, outcome,
    submitted_at, by, reason,
} with { cause: None, description: None, promoted_at: None, promoted_by: None, finished_at: None } }

// ---- nodes ----------------------------------------------------------------------------------------------------------

read_struct_with_node! { InstanceRef<'a> = event::InstanceRef { job_id, role } }

read_struct_with_node! { Instance<'a> = instance::Instance {
    version, job_id, role, state, health, attempt, task_at, since, reason, from_version, task, healthy_at, deadline,
    was_healthy, created,
} with { sessions: None, drain: None, standby_until: None, adopted_for: None, not_counted_for: Box::default() } }

// ---- field by field -------------------------------------------------------------------------------------------------

read_struct! { Summary<'a> = summary::Summary {
    due, tasks, deployment_id, status, mode, strategy, current_version, stable_version, target_version, healthy, desired,
    updated_at,
} with { draining: 0, standby: 0 } }

read_struct! { Deployment<'a> = deployment::Deployment {
    id, status, cause, ended, mode, strategy, requested_strategy, mode_reason, rollback_of, by, reason, source_version,
    source_job_id, target_version, target_job_id, requested_job, policy, changed, removed_agents, canaries, promoted,
    progress, paused_from, deferred_failure, unsafe_report, last_action, created_at, finished_at,
} with { is_baking: false, bake: time::Deadline::Off, skips_bake: false, awaiting_since: None } }

convert_struct! { DeferredFailure<'a> = deployment::DeferredFailure { cause, words } }

convert_struct! { UnsafeReport<'a> = deployment::UnsafeReport { agent, words } }

convert_struct! { Action<'a> = deployment::Action { name, by, at, reason } }

read_struct! { Policy = policy::Policy {
    strategy, max_parallel, canary, min_healthy_ms, healthy_deadline_ms, progress_deadline_ms, health_check, auto_promote,
    auto_revert,
} with { drain_ms: 0, steps: Vec::new(), gates: policy::Gates::new(), bake_ms: 0, cohort: None } }

read_struct! { Task = instance::Task { kind, revision, since } }

convert_struct! { InstanceKey<'a> = instance::InstanceKey { agent, version, job_id } }

read_struct! { Service<'a> = services::Service {
    instance, owner, service, address, port, tags, meta, status, reason, ttl_ms, expires_at, since,
} with { attempt: 1 } }

read_struct! { IdempotencyEntry<'a> = deployment::IdempotencyEntry { request, receipt } }

read_struct! { Receipt<'a> = deployment::Receipt {
    deployment_key, deployment_id, version, job_id, status, mode, revision,
} with { warnings: Some(Vec::new()) } }

read_struct! { NewDeployment<'a> = event::NewDeployment {
    version, mode, strategy, requested_strategy, mode_reason, cause, source_version, source_job_id, requested_job,
    changed, removed_agents, canaries, progress, trimmed,
} with { adopted: Vec::new() } }

read_enum! { SilentChange<'a> = event::SilentChange {
    ServiceRefreshed { instance, expires_at },
    RequestRecorded { request, receipt },
} }

read_struct! { Event<'a> = event::Event { revision, at, deployment_id, version, body } }

read_enum! { EventBody<'a> = event::EventBody {
    DeploymentStarted(new),
    DeploymentNoop(new),
    VersionRecorded(new),
    RollbackStarted { from_version, rollback_of, cause, by, reason },
    TaskIssued { instance, task, from_version, attempt, bundle, deadline, by, reason } with { drain: None },
    TaskDone { instance, task, withdrawn, removes_instance },
    AgentState { instance, state, attempt, reason, healthy_at, removes_instance, fails_at_resume },
    AgentHealthy { instance, progress },
    AgentUnhealthy { instance, reason, resumes_with, fails_at_resume },
    AwaitingPromotion { healthy },
    DeploymentPromoted { progress, by, reason } with { full: false },
    DeploymentPaused { by, reason },
    DeploymentResumed { status, progress, by, reason },
    DeploymentFailed { cause, description, by, reason },
    DeploymentCancelled { cause, description, by, reason },
    DeploymentSuccessful { description } with { by: Arc::from(crate::engine::AUTO), reason: None },
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

read_enum! { Mode = deployment::Mode { Initial, InPlace, BlueGreen, Noop, VersionOnly, Unchanged } }

convert_enum! { Outcome = deployment::Outcome { Successful, Failed, Cancelled, VersionRecorded, Completed } }

read_enum! { Role = instance::Role { Primary, Canary, Candidate, Retired } }

convert_enum! { Status = deployment::Status {
    Running, AwaitingPromotion, Paused, Successful, Failed, Cancelled, VersionRecorded,
} }

convert_enum! { Strategy = policy::Strategy { Rolling, Canary, BlueGreen } }

read_enum! { TaskKind = instance::TaskKind { Start, Replace, Stop, Run } }
