//! The log, and every event.

use crate::json::{assert_json, value};
use crate::record::{event, logged, record, service, text, texts, version, KEY, T};
use redis_deploy::engine::deployment::{Cause, Mode, Status};
use redis_deploy::engine::event::{Adopted, AgentReport, Event, EventBody, InstanceRef, NewDeployment};
use redis_deploy::engine::instance::{DrainOutcome, InstanceState, Role, TaskKind};
use redis_deploy::engine::manifest::ManifestText;
use redis_deploy::engine::policy::Strategy;
use redis_deploy::engine::record::Record;
use redis_deploy::engine::services::CheckStatus;
use redis_deploy::engine::time::Deadline;
use redis_deploy::engine::version::Version;
use redis_deploy::view::{self, LoggedEvent};
use serde_json::Value;
use std::sync::Arc;

/// `[first, last, revisions]` of the page.
fn page(record: &Record, after: Option<u64>, count: Option<usize>) -> (u64, u64, Vec<u64>) {
    let view = view::events(record, KEY, after, count);
    let page = value(&view);
    let revision = |event: &Value| serde_json::from_str::<Value>(event.as_str()?).ok()?["revision"].as_u64();
    let revisions = page[2].as_array().expect("a list").iter().filter_map(revision).collect();
    (page[0].as_u64().expect("a number"), page[1].as_u64().expect("a number"), revisions)
}

#[test]
fn events_are_paged_by_revision() {
    let mut record = record();
    logged(&mut record, 5..=9);
    assert_eq!(page(&record, None, None), (5, 9, vec![5, 6, 7, 8, 9]));
    assert_eq!(page(&record, None, Some(2)), (5, 9, vec![5, 6]));
    assert_eq!(page(&record, Some(6), Some(2)), (5, 9, vec![7, 8]));
    assert_eq!(page(&record, Some(8), None), (5, 9, vec![9]));
    assert_eq!(page(&record, Some(9), None), (5, 9, vec![]));
    // Of the future: nothing. Older than the log: the first number says so.
    assert_eq!(page(&record, Some(u64::MAX), None), (5, 9, vec![]));
    assert_eq!(page(&record, Some(1), Some(1)), (5, 9, vec![5]));
    assert_eq!(page(&record, Some(0), Some(usize::MAX)), (5, 9, vec![5, 6, 7, 8, 9]));
}

#[test]
fn empty_log_begins_after_the_last_revision() {
    assert_json(&view::events(&record(), KEY, None, None), "[13,12,[]]");
    assert_json(&view::events(&record(), KEY, Some(12), Some(5)), "[13,12,[]]");
}

#[test]
fn logged_events_equal_the_published_text() {
    let mut record = record();
    logged(&mut record, 5..=5);
    let first = record.log.iter().next().expect("it was logged");
    let published = view::event_json(&first, KEY);
    assert_eq!(view::events(&record, KEY, None, None).events, std::slice::from_ref(&published));
    let mut text = b"after ".to_vec();
    view::append_event_json(&first, KEY, &mut text);
    assert_eq!(text, format!("after {published}").into_bytes());
}

fn shown(event: &Event) -> LoggedEvent<'static> {
    LoggedEvent { event: Arc::new(event.clone()), key: KEY }
}

fn instance_ref() -> InstanceRef {
    InstanceRef { agent: text("a@h"), node: text("a"), job_id: text("job"), role: Role::Canary }
}

fn new_deployment() -> Box<NewDeployment> {
    Box::new(NewDeployment {
        version: Version {
            tag: Some(text("gold")),
            agents: Some(texts(&["a@h", "b@h"])),
            rollback_of: Some(1),
            reason: Some(text("why")),
            job_id: text("job"),
            ..version(3)
        },
        mode: Mode::BlueGreen,
        strategy: Strategy::BlueGreen,
        requested_strategy: Strategy::Canary,
        mode_reason: text("topology changed: node b added"),
        cause: Some(Cause::AgentFailed),
        source_version: Some(2),
        source_job_id: Some(text("dep_agent-api_1")),
        requested_job: Some(text("job")),
        changed: texts(&["a@h", "b@h"]),
        adopted: vec![Adopted { agent: text("a@h"), version: 1 }],
        removed_agents: texts(&["c@h"]),
        canaries: 1,
        progress: Deadline::Running { at: T + 600_000 },
        trimmed: vec![1, 2],
    })
}

const BEGINNING: &str = r#""mode":"blue_green","strategy":"blue-green","requested_strategy":"canary",
    "changed_agents":["a@h","b@h"],"reason":"why","by":"default","rollback_of":1,"cause":"agent_failed",
    "source_version":2,"source_job_id":"dep_agent-api_1","job_id":"job",
    "policy":{default policy},
    "bundle":"s3://b/v3","tag":"gold","gone_agents":["c@h"],"canaries":1,"progress_at":1790000600000,
    "mode_reason":"topology changed: node b added","trimmed_versions":[1,2],"progress_left_ms":null,
    "requested_job_id":"job","job_type":"service","agents":["a@h","b@h"],"stable":false,"outcome":null,
    "submitted_at":1790000000000,"adopted_instances":{"a@h":1}"#;

const SUBJECT: &str = r#""agent":"a@h","node":"a","job_id":"job","role":"canary""#;

/// Every kind of event, with the fields of its type.
fn every_event() -> Vec<(EventBody, String)> {
    let by = || text("ann");
    let reason = || Some(text("why"));
    let running = Deadline::Running { at: T + 600_000 };
    vec![
        (EventBody::DeploymentStarted(new_deployment()), BEGINNING.to_string()),
        (EventBody::DeploymentNoop(new_deployment()), BEGINNING.to_string()),
        (EventBody::VersionRecorded(new_deployment()), BEGINNING.to_string()),
        (
            EventBody::RollbackStarted {
                from_version: 2,
                rollback_of: 1,
                cause: Some(Cause::UnhealthyAgent),
                by: text("auto"),
                reason: None,
            },
            r#""from_version":2,"rollback_of":1,"cause":"unhealthy_agent","by":"auto","reason":null"#.to_string(),
        ),
        (
            EventBody::TaskIssued {
                instance: instance_ref(),
                task: TaskKind::Replace,
                from_version: Some(2),
                attempt: 1,
                bundle: Some(text("s3://b/v3")),
                deadline: Deadline::Running { at: T + 300_000 },
                by: by(),
                reason: reason(),
                drain: None,
            },
            r#""task":"replace","agent":"a@h","node":"a","from_version":2,"job_id":"job","role":"canary","attempt":1,
            "bundle":"s3://b/v3","since":1790000000000,"healthy_deadline_at":1790000300000,
            "healthy_deadline_left_ms":null,"by":"ann","reason":"why""#
                .to_string(),
        ),
        (
            EventBody::TaskDone {
                instance: instance_ref(),
                task: TaskKind::Stop,
                withdrawn: true,
                removes_instance: true,
            },
            format!(r#""task":"stop",{SUBJECT},"withdrawn":true,"leaves":true"#),
        ),
        (
            EventBody::AgentState {
                instance: instance_ref(),
                state: AgentReport::State(InstanceState::Ready),
                attempt: 2,
                reason: reason(),
                healthy_at: Some(T + 10_000),
                removes_instance: false,
                fails_at_resume: false,
            },
            format!(
                r#"{SUBJECT},"state":"ready","attempt":2,"reason":"why","leaves":false,"healthy_at":1790000010000,
                "fails_at_resume":false"#
            ),
        ),
        (
            EventBody::AgentHealthy { instance: instance_ref(), progress: running },
            format!(r#"{SUBJECT},"progress_at":1790000600000,"progress_left_ms":null"#),
        ),
        (
            EventBody::AgentUnhealthy {
                instance: instance_ref(),
                reason: text("never ready"),
                resumes_with: Some(running),
                fails_at_resume: true,
            },
            format!(
                r#"{SUBJECT},"reason":"never ready","fails_at_resume":true,"reopens":true,
                "progress_at":1790000600000,"progress_left_ms":null"#
            ),
        ),
        (
            EventBody::AgentDraining {
                instance: instance_ref(),
                outcome: DrainOutcome::Replace { version: 4 },
                sessions: Some(12),
                deadline: running,
                by: by(),
                reason: reason(),
            },
            format!(
                r#"{SUBJECT},"sessions":12,"successor_version":4,"drain_at":1790000600000,"drain_left_ms":null,
                "follow_up":"replace","by":"ann","reason":"why""#
            ),
        ),
        (
            EventBody::AgentDrained { instance: instance_ref(), sessions: None, forced: true, by: by(), reason: None },
            format!(r#"{SUBJECT},"sessions":null,"forced":true,"by":"ann","reason":null"#),
        ),
        (EventBody::AwaitingPromotion { healthy: 2 }, r#""healthy":2"#.to_string()),
        (
            EventBody::DeploymentPromoted { progress: Deadline::Off, by: by(), reason: reason(), full: true },
            r#""by":"ann","reason":"why","progress_at":null,"progress_left_ms":null,"full":true"#.to_string(),
        ),
        (EventBody::BakeStarted { bake: running }, r#""bake_at":1790000600000"#.to_string()),
        (EventBody::DeploymentPaused { by: by(), reason: reason() }, r#""by":"ann","reason":"why""#.to_string()),
        (
            EventBody::DeploymentResumed { status: Status::Running, progress: running, by: by(), reason: reason() },
            r#""status":"running","by":"ann","reason":"why","progress_at":1790000600000,"progress_left_ms":null"#
                .to_string(),
        ),
        (
            EventBody::DeploymentFailed {
                cause: Cause::Operator,
                description: text("failed by ann"),
                by: by(),
                reason: reason(),
            },
            r#""cause":"operator","description":"failed by ann","by":"ann","reason":"why""#.to_string(),
        ),
        (
            EventBody::DeploymentCancelled {
                cause: Cause::NewerVersion,
                description: text("version 4 came"),
                by: by(),
                reason: None,
            },
            r#""cause":"newer_version","description":"version 4 came","by":"ann","reason":null"#.to_string(),
        ),
        (
            EventBody::DeploymentSuccessful { description: text("3 of 3 agents healthy"), by: by(), reason: reason() },
            r#""description":"3 of 3 agents healthy","by":"ann","reason":"why""#.to_string(),
        ),
        (
            EventBody::FallbackBlueGreen {
                agent: text("a@h"),
                reason: text("holds state"),
                job_id: text("job"),
                changed: texts(&["a@h"]),
                canaries: 0,
            },
            r#""agent":"a@h","reason":"holds state","job_id":"job","changed_agents":["a@h"],"canaries":0"#.to_string(),
        ),
        (
            EventBody::VersionTagged { tag: text("gold"), replaced: Some(text("silver")), by: by() },
            r#""tag":"gold","replaced_tag":"silver","by":"ann","reason":null"#.to_string(),
        ),
        (
            EventBody::VersionUntagged { tag: text("gold"), by: by() },
            r#""tag":"gold","by":"ann","reason":null"#.to_string(),
        ),
        (
            EventBody::ServiceRegistered { service: Box::new(service("web-1", "a@h", 3)), healthy_at: None },
            r#""service":"web","instance":"web-1","agent":"a@h","job_id":"dep_agent-api_1","address":"10.0.0.7",
            "port":8080,"status":"passing","tags":["blue","http"],"meta":{"zone":"a"},"ttl_ms":5000,
            "since":1790000000400,"reason":null,"expires_at":1790000005400,"healthy_at":null"#
                .to_string(),
        ),
        (
            EventBody::ServiceStatus {
                instance: text("web-1"),
                service: text("web"),
                agent: text("a@h"),
                status: CheckStatus::Critical,
                reason: Some(text("TTL ran out")),
                expires_at: None,
                healthy_at: Some(T + 10_000),
            },
            r#""service":"web","instance":"web-1","agent":"a@h","status":"critical","reason":"TTL ran out",
            "expires_at":null,"healthy_at":1790000010000"#
                .to_string(),
        ),
        (
            EventBody::ServiceDeregistered {
                instance: text("web-1"),
                service: text("web"),
                agent: text("a@h"),
                reason: text("deregistered"),
                healthy_at: None,
            },
            r#""service":"web","instance":"web-1","agent":"a@h","reason":"deregistered","healthy_at":null"#.to_string(),
        ),
    ]
}

#[test]
fn events_include_all_their_fields() {
    for (body, fields) in every_event() {
        let event = event(body);
        let expected = format!(
            r#"{{"revision":12,"at":1790000000000,"key":"agent-api","deployment_id":"dep_agent-api_3",
            "type":"{}","version":3,{fields}}}"#,
            event.body.name()
        );
        assert_json(&shown(&event), &expected);
    }
}

#[test]
fn events_cover_every_documented_type() {
    let contract = "deployment_started task_issued task_done agent_state agent_healthy agent_unhealthy \
        awaiting_promotion deployment_promoted deployment_paused deployment_resumed deployment_failed \
        deployment_cancelled deployment_successful deployment_noop version_recorded fallback_blue_green \
        rollback_started version_tagged version_untagged service_registered service_status service_deregistered \
        agent_draining agent_drained bake_started";
    let mut types: Vec<&str> = contract.split_whitespace().collect();
    let mut tested: Vec<&str> = every_event().iter().map(|(body, _)| body.name()).collect();
    types.sort_unstable();
    tested.sort_unstable();
    assert_eq!(tested, types);
}

#[test]
fn events_omit_manifests_and_stay_small() {
    let mut large = new_deployment();
    large.version.content =
        Arc::new(ManifestText::new(text(&format!(r#"{{"nodes":[],"x":"{}"}}"#, "y".repeat(1 << 20)))));
    assert!(view::event_json(&event(EventBody::DeploymentStarted(large)), KEY).len() < 2000);
}

#[test]
fn paused_deadlines_give_their_remaining_time() {
    let held = Deadline::Paused { left_ms: 77 };
    let json = |body| value(&shown(&event(body)));
    let healthy = json(EventBody::AgentHealthy { instance: instance_ref(), progress: held });
    assert_eq!((&healthy["progress_at"], &healthy["progress_left_ms"]), (&Value::Null, &Value::from(77)));
    let issued = json(EventBody::TaskIssued {
        instance: instance_ref(),
        task: TaskKind::Start,
        from_version: None,
        attempt: 1,
        bundle: None,
        deadline: held,
        by: text("auto"),
        reason: None,
        drain: None,
    });
    assert_eq!(issued["healthy_deadline_left_ms"], 77);
    assert_eq!(issued["healthy_deadline_at"], Value::Null);
    let unhealthy = json(EventBody::AgentUnhealthy {
        instance: instance_ref(),
        reason: text("r"),
        resumes_with: None,
        fails_at_resume: false,
    });
    assert_eq!(unhealthy["reopens"], false);
    assert_eq!(unhealthy["progress_at"], Value::Null);
}

#[test]
fn completed_and_unsafe_are_states_of_events() {
    for (report, name) in [(AgentReport::Completed, "completed"), (AgentReport::Unsafe, "unsafe")] {
        let body = EventBody::AgentState {
            instance: instance_ref(),
            state: report,
            attempt: 1,
            reason: None,
            healthy_at: None,
            removes_instance: true,
            fails_at_resume: true,
        };
        let event = value(&shown(&event(body)));
        assert_eq!(event["state"], name);
        assert_eq!(event["fails_at_resume"], true);
    }
}
