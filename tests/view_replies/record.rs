//! A record by hand: the one of the example in rule 7.

use redis_deploy::engine::deployment::{Deployment, Mode, Outcome, Status};
use redis_deploy::engine::event::{Event, EventBody};
use redis_deploy::engine::instance::{Health, Instance, InstanceKey, InstanceState, Role, Task, TaskKind};
use redis_deploy::engine::manifest::{JobType, ManifestText};
use redis_deploy::engine::policy::{Policy, Strategy};
use redis_deploy::engine::record::Record;
use redis_deploy::engine::services::{CheckStatus, Service};
use redis_deploy::engine::time::Deadline;
use redis_deploy::engine::version::Version;
use std::sync::Arc;

pub const KEY: &str = "agent-api";
pub const T: u64 = 1_790_000_000_000;
const MANIFEST: &str = r#"{"nodes":[{"node_id":"agent-1"},{"node_id":"agent-2"},{"node_id":"agent-3"}]}"#;

pub fn text(text: &str) -> Arc<str> {
    Arc::from(text)
}

pub fn texts(all: &[&str]) -> Arc<[Arc<str>]> {
    all.iter().map(|t| text(t)).collect()
}

pub fn version(number: u64) -> Version {
    Version {
        number,
        deployment_id: text(&format!("dep_agent-api_{number}")),
        job_id: text("dep_agent-api_1"),
        job_type: JobType::Service,
        strategy: Strategy::Rolling,
        policy: Policy::default(),
        content: Arc::new(ManifestText::new(text(MANIFEST))),
        agents: None,
        bundle: Some(text(&format!("s3://b/v{number}"))),
        tag: None,
        stable: false,
        rollback_of: None,
        outcome: None,
        submitted_at: T,
        by: text("default"),
        reason: None,
        cause: None,
        description: None,
        promoted_at: None,
        promoted_by: None,
        finished_at: None,
    }
}

pub fn instance(agent: &str, number: u64, created: u64) -> Instance {
    Instance {
        agent: text(agent),
        node: text(agent),
        version: number,
        job_id: text("dep_agent-api_1"),
        role: Role::Primary,
        state: InstanceState::Ready,
        health: Health::Healthy,
        attempt: 1,
        task_at: T,
        since: T + 400,
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

pub fn task(kind: TaskKind, revision: u64) -> Option<Task> {
    Some(Task { kind, revision, since: T + revision })
}

pub fn deployment() -> Deployment {
    Deployment {
        id: text("dep_agent-api_2"),
        status: Status::Running,
        cause: None,
        ended: None,
        mode: Mode::InPlace,
        strategy: Strategy::Rolling,
        requested_strategy: Strategy::Rolling,
        mode_reason: text("same topology"),
        rollback_of: None,
        by: text("default"),
        reason: Some(text("faster model")),
        source_version: Some(1),
        source_job_id: Some(text("dep_agent-api_1")),
        target_version: 2,
        target_job_id: text("dep_agent-api_1"),
        requested_job: None,
        policy: Policy::default(),
        changed: texts(&["agent-2", "agent-1", "agent-3"]),
        removed_agents: texts(&[]),
        canaries: 0,
        promoted: false,
        progress: Deadline::Running { at: T + 600_000 },
        is_baking: false,
        bake: Deadline::Off,
        skips_bake: false,
        awaiting_since: None,
        paused_from: None,
        deferred_failure: None,
        unsafe_report: None,
        last_action: None,
        created_at: T,
        finished_at: None,
    }
}

/// The record of the example in rule 7: agent-2 is replaced and healthy, agent-1 replaced and pending, agent-3 not yet.
pub fn record() -> Record {
    let mut record = Record::empty();
    record.revision = 12;
    record.last_version = 2;
    record.current_version = Some(1);
    record.current_job_id = Some(text("dep_agent-api_1"));
    record.versions = vec![
        Arc::new(Version { stable: true, outcome: Some(Outcome::Successful), ..version(1) }),
        Arc::new(Version { reason: Some(text("faster model")), ..version(2) }),
    ]
    .into();
    record.deployment = Some(deployment().into());
    record.instances.insert(instance("agent-3", 1, 4));
    record.instances.insert(instance("agent-2", 2, 8));
    record.instances.insert(Instance {
        health: Health::Pending,
        was_healthy: false,
        healthy_at: Some(T + 10_000),
        deadline: Deadline::Running { at: T + 300_000 },
        ..instance("agent-1", 2, 11)
    });
    record.created_at = T - 1000;
    record.updated_at = T + 400;
    record
}

/// The record with its deployment changed.
pub fn record_where(change: impl FnOnce(&mut Deployment)) -> Record {
    let mut record = record();
    let mut deployment = deployment();
    change(&mut deployment);
    record.deployment = Some(deployment.into());
    record
}

pub fn logged(record: &mut Record, revisions: std::ops::RangeInclusive<u64>) {
    record.revision = *revisions.end();
    for revision in revisions {
        let body = EventBody::AwaitingPromotion { healthy: 1 };
        record.log.push(&Arc::new(Event { revision, ..event(body) }));
    }
}

pub fn event(body: EventBody) -> Event {
    Event { revision: 12, at: T, deployment_id: text("dep_agent-api_3"), version: 3, body }
}

pub fn service(id: &str, agent: &str, number: u64) -> Service {
    Service {
        instance: text(id),
        owner: InstanceKey { agent: text(agent), version: number, job_id: text("dep_agent-api_1") },
        service: text("web"),
        address: text("10.0.0.7"),
        port: 8080,
        tags: vec![text("blue"), text("http")],
        meta: Some(text(r#"{"zone":"a"}"#)),
        status: CheckStatus::Passing,
        reason: None,
        ttl_ms: Some(5000),
        expires_at: Some(T + 5400),
        since: T + 400,
        attempt: 1,
    }
}
