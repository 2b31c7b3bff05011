//! The values behind the golden files: one record, and one batch for each kind of change. Never change a value: add
//! another.
//!
//! `engine` is at the root of the crate, and of `tests/codec_memory.rs`, which compiles this file too.

use crate::engine::deployment::{
    Action, Cause, DeferredFailure, Deployment, IdempotencyEntry, Mode, Outcome, Receipt, Status, UnsafeReport,
};
use crate::engine::event::{
    Adopted, AgentReport, Change, ChangeSet, Event, EventBody, InstanceRef, NewDeployment, NewDrain, SilentChange,
};
use crate::engine::instance::{
    Drain, DrainOutcome, DrainPhase, Health, Instance, InstanceKey, InstanceState, Role, Task, TaskKind,
};
use crate::engine::manifest::{JobType, ManifestText};
use crate::engine::policy::{CountOrPercent, HealthCheck, Policy, PolicyPatch, Strategy};
use crate::engine::record::Record;
use crate::engine::services::{CheckStatus, Service};
use crate::engine::time::Deadline;
use crate::engine::version::Version;
use std::sync::Arc;

const T: u64 = 1_790_000_000_000;

fn text(text: &str) -> Arc<str> {
    Arc::from(text)
}

fn some(text: &str) -> Option<Arc<str>> {
    Some(Arc::from(text))
}

fn texts(of: &[&str]) -> Arc<[Arc<str>]> {
    of.iter().map(|text| Arc::from(*text)).collect()
}

fn manifest(model: &str) -> Arc<ManifestText> {
    let text = format!(
        r#"{{"type":"service","nodes":[{{"node_id":"monitor","model":"{model}","services":[{{"name":"http"}}]}},{{"node_id":"planner","model":"{model}"}}]}}"#
    );
    Arc::new(ManifestText::new(Arc::from(text)))
}

fn canary_policy() -> Policy {
    Policy {
        strategy: Strategy::Canary,
        max_parallel: CountOrPercent::Percent(25),
        canary: CountOrPercent::Count(1),
        min_healthy_ms: 20_000,
        auto_revert: true,
        ..Policy::default()
    }
}

fn version(number: u64, content: Arc<ManifestText>) -> Version {
    Version {
        number,
        deployment_id: Arc::from(format!("dep_agent-api_{number}")),
        job_id: text("dep_agent-api_2"),
        job_type: JobType::Service,
        strategy: Strategy::Rolling,
        policy: Policy::default(),
        content,
        agents: None,
        bundle: None,
        tag: None,
        stable: false,
        rollback_of: None,
        outcome: None,
        submitted_at: T + 1000 * number,
        by: text("default"),
        reason: None,
        cause: None,
        description: None,
        promoted_at: None,
        promoted_by: None,
        finished_at: None,
    }
}

fn target_version(content: Arc<ManifestText>) -> Version {
    Version {
        strategy: Strategy::Canary,
        policy: canary_policy(),
        agents: Some(texts(&["monitor", "planner@a"])),
        bundle: some("s3://b/v3"),
        by: text("ops"),
        reason: some("faster model"),
        ..version(3, content)
    }
}

fn instance(agent: &str, node: &str, version: u64, created: u64) -> Instance {
    Instance {
        agent: text(agent),
        node: text(node),
        version,
        job_id: text("dep_agent-api_2"),
        role: Role::Primary,
        state: InstanceState::Ready,
        health: Health::Healthy,
        attempt: 1,
        task_at: T + 2000,
        since: T + 2500,
        reason: None,
        from_version: None,
        task: None,
        healthy_at: None,
        deadline: Deadline::Off,
        was_healthy: true,
        created,
        sessions: None,
        drain: None,
        standby_until: None,
        adopted_for: None,
        not_counted_for: Box::default(),
    }
}

fn service(instance: &str, owner: InstanceKey) -> Service {
    Service {
        instance: text(instance),
        owner,
        service: text("http"),
        address: text("10.0.0.7"),
        port: 8080,
        tags: vec![text("v3"), text("eu")],
        meta: some(r#"{"zone":"a"}"#),
        status: CheckStatus::Passing,
        reason: None,
        ttl_ms: Some(15_000),
        expires_at: Some(T + 30_000),
        since: T + 3600,
        attempt: 1,
    }
}

fn receipt() -> Receipt {
    Receipt {
        deployment_key: text("agent-api"),
        deployment_id: text("dep_agent-api_3"),
        version: 3,
        job_id: text("dep_agent-api_2"),
        status: Status::Running,
        mode: Mode::InPlace,
        revision: 41,
        warnings: Some(Vec::new()),
    }
}

fn instance_ref() -> InstanceRef {
    InstanceRef { agent: text("monitor"), node: text("monitor"), job_id: text("dep_agent-api_2"), role: Role::Canary }
}

fn new_deployment(version: Version) -> Box<NewDeployment> {
    Box::new(NewDeployment {
        version,
        mode: Mode::InPlace,
        strategy: Strategy::Canary,
        requested_strategy: Strategy::Canary,
        mode_reason: text("same topology"),
        cause: None,
        source_version: Some(2),
        source_job_id: some("dep_agent-api_2"),
        requested_job: some("spare"),
        changed: texts(&["monitor", "planner@a"]),
        adopted: Vec::new(),
        removed_agents: texts(&["planner@b"]),
        canaries: 1,
        progress: Deadline::Running { at: T + 603_000 },
        trimmed: vec![],
    })
}

/// Returns a record in which version 3 is deployed as a canary and paused, version 2 runs, and an instance of version
/// 1 is being stopped.
pub fn record() -> Record {
    let first = manifest("small");
    let mut record = Record {
        revision: 45,
        last_version: 3,
        current_version: Some(2),
        current_job_id: some("dep_agent-api_2"),
        created_at: T + 1000,
        updated_at: T + 4000,
        ..Record::empty()
    };
    record.versions = vec![
        Arc::new(Version {
            job_id: text("dep_agent-api_1"),
            stable: true,
            tag: some("first"),
            outcome: Some(Outcome::Successful),
            ..version(1, first.clone())
        }),
        Arc::new(Version {
            strategy: Strategy::BlueGreen,
            policy: Policy {
                strategy: Strategy::BlueGreen,
                health_check: HealthCheck::AgentStates,
                ..Policy::default()
            },
            agents: Some(texts(&["monitor", "planner@a", "planner@b"])),
            stable: true,
            rollback_of: Some(1),
            outcome: Some(Outcome::Successful),
            ..version(2, first)
        }),
        Arc::new(target_version(manifest("large"))),
    ]
    .into();
    record.deployment = Some(
        Deployment {
            id: text("dep_agent-api_3"),
            status: Status::Paused,
            cause: None,
            ended: None,
            mode: Mode::InPlace,
            strategy: Strategy::Canary,
            requested_strategy: Strategy::Canary,
            mode_reason: text("same topology"),
            rollback_of: None,
            by: text("ops"),
            reason: some("faster model"),
            source_version: Some(2),
            source_job_id: some("dep_agent-api_2"),
            target_version: 3,
            target_job_id: text("dep_agent-api_2"),
            requested_job: some("spare"),
            policy: canary_policy(),
            changed: texts(&["monitor", "planner@a"]),
            removed_agents: texts(&["planner@b"]),
            canaries: 1,
            promoted: false,
            progress: Deadline::Paused { left_ms: 599_000 },
            is_baking: false,
            bake: Deadline::Off,
            skips_bake: false,
            awaiting_since: None,
            paused_from: Some(Status::Running),
            deferred_failure: Some(DeferredFailure {
                cause: Cause::AgentFailed,
                words: text("agent monitor failed: out of memory"),
            }),
            unsafe_report: Some(UnsafeReport { agent: text("planner@a"), words: text("it holds a lease") }),
            last_action: Some(Action {
                name: text("pause"),
                by: text("ops"),
                at: T + 4000,
                reason: some("looking into it"),
            }),
            created_at: T + 3000,
            finished_at: None,
        }
        .into(),
    );
    record.instances.insert(Instance {
        job_id: text("dep_agent-api_1"),
        role: Role::Retired,
        reason: some("lost"),
        health: Health::Unhealthy,
        state: InstanceState::Unready,
        task: Some(Task { kind: TaskKind::Stop, revision: 30, since: T + 2900 }),
        ..instance("monitor", "monitor", 1, 2)
    });
    record.instances.insert(Instance {
        role: Role::Canary,
        health: Health::Pending,
        attempt: 2,
        from_version: Some(2),
        healthy_at: Some(T + 23_500),
        deadline: Deadline::Paused { left_ms: 299_000 },
        was_healthy: false,
        ..instance("monitor", "monitor", 3, 42)
    });
    record.instances.insert(instance("planner@a", "planner", 2, 21));
    record.instances.insert(instance("planner@b", "planner", 2, 22));
    let [canary, old] = [("monitor", 3), ("planner@b", 2)].map(|(agent, version)| InstanceKey {
        agent: text(agent),
        version,
        job_id: text("dep_agent-api_2"),
    });
    record.services.insert(service("monitor-1", canary));
    record.services.insert(Service {
        tags: vec![],
        meta: None,
        status: CheckStatus::Critical,
        reason: some("connection refused"),
        ttl_ms: None,
        expires_at: None,
        ..service("planner-b", old)
    });
    let omitted = Arc::new(ManifestText::omitted());
    let bodies = [
        (41, EventBody::DeploymentStarted(new_deployment(target_version(omitted)))),
        (
            42,
            EventBody::TaskIssued {
                instance: instance_ref(),
                task: TaskKind::Replace,
                from_version: Some(2),
                attempt: 1,
                bundle: some("s3://b/v3"),
                deadline: Deadline::Running { at: T + 303_000 },
                by: text("auto"),
                reason: None,
                drain: None,
            },
        ),
        (
            43,
            EventBody::TaskDone {
                instance: instance_ref(),
                task: TaskKind::Replace,
                withdrawn: false,
                removes_instance: false,
            },
        ),
        (
            44,
            EventBody::AgentState {
                instance: instance_ref(),
                state: AgentReport::State(InstanceState::Ready),
                attempt: 2,
                reason: None,
                healthy_at: Some(T + 23_500),
                removes_instance: false,
                fails_at_resume: false,
            },
        ),
        (45, EventBody::DeploymentPaused { by: text("ops"), reason: some("looking into it") }),
    ];
    for (revision, body) in bodies {
        record.log.push(&Arc::new(event(revision, body)));
    }
    Arc::make_mut(&mut record.requests).push_back(IdempotencyEntry { request: text("req-1"), receipt: receipt() });
    record
}

/// Returns the record with a value in each field that format 2 added.
pub fn record_of_format_2() -> Record {
    let mut record = record();
    let versions = Arc::make_mut(&mut record.versions);
    let ends = [
        (None, "2 of 2 agents healthy", Some((T + 1400, text("auto"))), T + 1500),
        (Some(Cause::ProgressDeadline), "no progress within 1000 ms", None, T + 2600),
    ];
    for (version, (cause, description, promotion, finished_at)) in versions.iter_mut().zip(ends) {
        let version = Arc::make_mut(version);
        (version.promoted_at, version.promoted_by) = promotion.unzip();
        (version.cause, version.description, version.finished_at) = (cause, some(description), Some(finished_at));
    }
    for version in versions.iter_mut() {
        let policy = &mut Arc::make_mut(version).policy;
        policy.drain_ms = 60_000;
        // Steps are instead of canaries.
        if policy.canary == CountOrPercent::Count(0) {
            *policy = policy.merged_with(&policy_fields_of_format_2());
        }
    }
    record.instances.insert(Instance {
        role: Role::Draining,
        task: Some(Task { kind: TaskKind::Drain, revision: 31, since: T + 3900 }),
        sessions: Some(12),
        drain: Some(Box::new(Drain {
            phase: DrainPhase::Issued,
            outcome: DrainOutcome::Stop,
            role: Role::Primary,
            deadline: Deadline::Running { at: T + 60_000 },
            idle_ms: 10_000,
            idle: Deadline::Off,
        })),
        standby_until: Some(T + 70_000),
        adopted_for: Some(2),
        not_counted_for: [3].into(),
        ..instance("planner@c", "planner", 2, 29)
    });
    if let Some(deployment) = &mut record.deployment {
        let deployment = Arc::make_mut(deployment);
        deployment.policy.drain_ms = 60_000;
        (deployment.awaiting_since, deployment.paused_from) = (Some(T + 3500), Some(Status::AwaitingPromotion));
    }
    record.services.update("monitor-1", |service| service.attempt = 2);
    let requests = Arc::make_mut(&mut record.requests);
    requests.push_back(IdempotencyEntry { request: text("req-2"), receipt: receipt_with_warnings() });
    record
}

fn policy_fields_of_format_2() -> PolicyPatch {
    let mut patch = PolicyPatch::default();
    let fields = [
        (
            "steps",
            r#"[{"percent":10,"soak_ms":60000},{"percent":50,"gates":["errors","signed"]},{"percent":99,"gates":[]}]"#,
        ),
        (
            "gates",
            r#"{"errors":{"metric":"failed","max":"2.5%"},"tokens":{"metric":"tokens","min":100,"min_count":7},
                "latency":{"metric":"ms","max_ratio":"150%","timeout_ms":9000},
                "served":{"metric":"failed","min_ratio":"0.001%"},
                "checked":{"verdict":true,"on_timeout":"pass"},"signed":{"approvals":2,"others":true}}"#,
        ),
        ("bake_ms", "120000"),
        ("cohort", "blue"),
    ];
    for (field, value) in fields {
        patch.set_option(field, value).expect("a value of the field");
    }
    patch
}

fn receipt_with_warnings() -> Receipt {
    Receipt {
        warnings: Some(vec![text("no type: batch"), text("policies.update.colour is no policy field")]),
        ..receipt()
    }
}

/// Returns [`change_sets`] with a value in each field that format 2 added.
pub fn change_sets_of_format_2() -> Vec<(&'static str, ChangeSet)> {
    let mut batches = change_sets();
    batches.extend(changes_that_format_2_added());
    for change in batches.iter_mut().flat_map(|(_, batch)| &mut batch.changes) {
        match change {
            Change::Event(event) => match &mut Arc::make_mut(event).body {
                EventBody::ServiceRegistered { service, .. } => service.attempt = 2,
                EventBody::TaskIssued { drain, .. } => *drain = Some(new_drain()),
                EventBody::DeploymentStarted(new) => {
                    new.adopted = vec![Adopted { agent: text("monitor"), version: 1 }];
                }
                EventBody::DeploymentPromoted { full, .. } => *full = true,
                EventBody::DeploymentSuccessful { by, reason, .. } => (*by, *reason) = (text("ops"), some("sure")),
                _ => {}
            },
            Change::Silent(SilentChange::RequestRecorded { receipt, .. }) => *receipt = receipt_with_warnings(),
            Change::Silent(SilentChange::ServiceRefreshed { .. } | SilentChange::SessionsReported { .. }) => {}
        }
    }
    batches
}

fn new_drain() -> NewDrain {
    let outcome = DrainOutcome::Replace { version: 3 };
    NewDrain { outcome, deadline: Deadline::Running { at: T + 90_000 }, idle_ms: 20_000 }
}

/// Returns a batch of each kind of change that format 2 added.
fn changes_that_format_2_added() -> Vec<(&'static str, ChangeSet)> {
    let bodies = [
        EventBody::AgentDraining {
            instance: instance_ref(),
            outcome: DrainOutcome::Stop,
            sessions: Some(70_000),
            deadline: Deadline::Paused { left_ms: 40_000 },
            by: text("ops"),
            reason: some("because"),
        },
        EventBody::BakeStarted { bake: Deadline::Running { at: T + 80_000 } },
        EventBody::AgentDrained {
            instance: instance_ref(),
            sessions: None,
            forced: true,
            by: text("auto"),
            reason: None,
        },
    ];
    let idle = Deadline::Running { at: T + 50_000 };
    let instance = InstanceKey { agent: text("monitor"), version: 2, job_id: text("dep_agent-api_2") };
    let sessions = Change::Silent(SilentChange::SessionsReported { instance, sessions: 0, idle });
    let events = (60..).zip(bodies).map(|(revision, body)| {
        let name = body.name();
        (name, Change::Event(Arc::new(event(revision, body))))
    });
    let all = events.chain([("sessions_reported", sessions)]);
    all.map(|(name, change)| (name, ChangeSet { changes: vec![change], log_max: 100 })).collect()
}

fn event(revision: u64, body: EventBody) -> Event {
    Event { revision, at: T + 100 * revision, deployment_id: text("dep_agent-api_3"), version: 3, body }
}

/// Returns a batch of each kind of change by its name: first the events in the order of the enum, then the notes.
pub fn change_sets() -> Vec<(&'static str, ChangeSet)> {
    let by = || text("ops");
    let reason = || some("because");
    let progress = Deadline::Running { at: T + 605_000 };
    let begun = || new_deployment(target_version(manifest("large")));
    let bodies = vec![
        EventBody::DeploymentStarted(begun()),
        EventBody::DeploymentNoop(Box::new(NewDeployment {
            mode: Mode::Noop,
            changed: texts(&[]),
            canaries: 0,
            progress: Deadline::Off,
            trimmed: vec![1, 300],
            ..*begun()
        })),
        EventBody::VersionRecorded(Box::new(NewDeployment {
            version: Version { job_type: JobType::Sysbatch, ..version(3, manifest("batch")) },
            mode: Mode::VersionOnly,
            cause: Some(Cause::AgentFailed),
            ..*begun()
        })),
        EventBody::RollbackStarted {
            from_version: 3,
            rollback_of: 2,
            cause: Some(Cause::ProgressDeadline),
            by: text("auto"),
            reason: None,
        },
        EventBody::TaskIssued {
            instance: instance_ref(),
            task: TaskKind::Start,
            from_version: None,
            attempt: 1,
            bundle: some("s3://b/v3"),
            deadline: Deadline::Running { at: T + 303_000 },
            by: by(),
            reason: reason(),
            drain: None,
        },
        EventBody::TaskDone { instance: instance_ref(), task: TaskKind::Run, withdrawn: true, removes_instance: true },
        EventBody::AgentState {
            instance: instance_ref(),
            state: AgentReport::Unsafe,
            attempt: 70_000,
            reason: reason(),
            healthy_at: None,
            removes_instance: false,
            fails_at_resume: true,
        },
        EventBody::AgentHealthy { instance: instance_ref(), progress },
        EventBody::AgentUnhealthy {
            instance: instance_ref(),
            reason: text("not ready"),
            resumes_with: Some(progress),
            fails_at_resume: false,
        },
        EventBody::AwaitingPromotion { healthy: 1 },
        EventBody::DeploymentPromoted { progress, by: by(), reason: reason(), full: false },
        EventBody::DeploymentPaused { by: by(), reason: reason() },
        EventBody::DeploymentResumed { status: Status::AwaitingPromotion, progress, by: by(), reason: reason() },
        EventBody::DeploymentFailed {
            cause: Cause::UnhealthyAgent,
            description: text("agent monitor is unhealthy"),
            by: text("auto"),
            reason: None,
        },
        EventBody::DeploymentCancelled {
            cause: Cause::NewerVersion,
            description: text("version 4 came"),
            by: by(),
            reason: reason(),
        },
        EventBody::DeploymentSuccessful { description: text("2 of 2 agents healthy"), by: text("auto"), reason: None },
        EventBody::FallbackBlueGreen {
            agent: text("monitor"),
            reason: text("monitor is unsafe to replace"),
            job_id: text("dep_agent-api_3"),
            changed: texts(&["monitor", "planner@a"]),
            canaries: 1,
        },
        EventBody::VersionTagged { tag: text("good"), replaced: some("fine"), by: by() },
        EventBody::VersionUntagged { tag: text("good"), by: by() },
        EventBody::ServiceRegistered {
            service: Box::new(service(
                "monitor-1",
                InstanceKey { agent: text("monitor"), version: 3, job_id: text("dep_agent-api_2") },
            )),
            healthy_at: Some(T + 24_000),
        },
        EventBody::ServiceStatus {
            instance: text("monitor-1"),
            service: text("http"),
            agent: text("monitor"),
            status: CheckStatus::Warning,
            reason: some("slow"),
            expires_at: Some(T + 45_000),
            healthy_at: None,
        },
        EventBody::ServiceDeregistered {
            instance: text("monitor-1"),
            service: text("http"),
            agent: text("monitor"),
            reason: text("stopped"),
            healthy_at: None,
        },
    ];
    let events = bodies.into_iter().map(|body| {
        let name = body.name();
        (name, Change::Event(Arc::new(event(46, body))))
    });
    let notes = [
        (
            "service_refreshed",
            Change::Silent(SilentChange::ServiceRefreshed {
                instance: text("monitor-1"),
                expires_at: Some(T + 60_000),
            }),
        ),
        (
            "request_recorded",
            Change::Silent(SilentChange::RequestRecorded { request: text("req-1"), receipt: receipt() }),
        ),
    ];
    events.chain(notes).map(|(name, change)| (name, ChangeSet { changes: vec![change], log_max: 100 })).collect()
}
