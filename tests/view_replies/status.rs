//! STATUS, its health and its description.

use crate::json::{assert_begins_with, assert_json, value};
use crate::record::{logged, record, record_where, service, text, texts, KEY, T};
use redis_deploy::engine::deployment::{Action, Cause, DeferredFailure, Deployment, Mode, Status, UnsafeReport};
use redis_deploy::engine::instance::{Health, InstanceState};
use redis_deploy::engine::policy::{CountOrPercent, HealthCheck, Policy, Strategy, POLICY_FIELDS};
use redis_deploy::engine::record::Record;
use redis_deploy::engine::time::Deadline;
use redis_deploy::engine::Summary;
use redis_deploy::view;
use serde_json::Value;

#[test]
fn status_matches_the_documented_example() {
    let example = r#"{"deployment_key":"agent-api","deployment_id":"dep_agent-api_2","status":"running","cause":null,"description":"1 of 3 agents healthy",
 "mode":"in_place","strategy":"rolling","requested_strategy":"rolling","rollback_of":null,"by":"default","reason":"faster model",
 "current_version":1,"stable_version":1,"source_version":1,"target_version":2,"rollback_target":1,
 "current_job_id":"dep_agent-api_1","source_job_id":"dep_agent-api_1","target_job_id":"dep_agent-api_1","bundle":"s3://b/v2",
 "policy":{"strategy":"rolling","max_parallel":1,"canary":0,"min_healthy_ms":10000,"healthy_deadline_ms":300000,"progress_deadline_ms":600000,"health_check":"checks","auto_promote":false,"auto_revert":false},
 "deadlines":{"progress_at":1790000600000,"next_at":1790000010000,"next":"agent-1 healthy"},
 "health":{"desired":3,"placed":2,"pending":1,"healthy":1,"unhealthy":0,"canaries_desired":0,"canaries_healthy":0},
 "instances":[{"agent":"agent-1","node":"agent-1","version":2,"job_id":"dep_agent-api_1","role":"primary","state":"ready","health":"pending","attempt":1,"task_at":1790000000000,"since":1790000000400,"reason":null}],
 "services":[],"versions":[],"events":[],
 "created_at":1790000000000,"updated_at":1790000000400,"finished_at":null,"revision":12}"#;
    let example: Value = serde_json::from_str(example).expect("the example is JSON");
    assert_begins_with(&value(&view::status(&record(), KEY)), &example, "status");
}

#[test]
fn status_covers_the_whole_record() {
    let mut record = record_where(|d| {
        d.last_action =
            Some(Action { name: text("resume"), by: text("ann"), at: T + 300, reason: Some(text("go on")) });
    });
    record.services.insert(service("web-1", "agent-2", 2));
    logged(&mut record, 12..=12);
    assert_json(
        &view::status(&record, KEY),
        r#"{"deployment_key":"agent-api","deployment_id":"dep_agent-api_2","status":"running","cause":null,
        "description":"1 of 3 agents healthy","mode":"in_place","strategy":"rolling","requested_strategy":"rolling",
        "rollback_of":null,"by":"default","reason":"faster model","current_version":1,"stable_version":1,
        "source_version":1,"target_version":2,"rollback_target":1,"current_job_id":"dep_agent-api_1",
        "source_job_id":"dep_agent-api_1","target_job_id":"dep_agent-api_1","bundle":"s3://b/v2",
        "policy":{default policy},
        "deadlines":{"progress_at":1790000600000,"next_at":1790000005400,"next":"service web-1 TTL","progress_left_ms":null,"bake_at":null},
        "health":{"desired":3,"placed":2,"pending":1,"healthy":1,"unhealthy":0,"canaries_desired":0,"canaries_healthy":0},
        "instances":[
          {"agent":"agent-1","node":"agent-1","version":2,"job_id":"dep_agent-api_1","role":"primary","state":"ready",
           "health":"pending","attempt":1,"task_at":1790000000000,"since":1790000000400,"reason":null,"task":null,
           "healthy_at":1790000010000,"healthy_deadline_at":1790000300000,
           "sessions":null,"drain_at":null,"until_version":2},
          {"agent":"agent-2","node":"agent-2","version":2,"job_id":"dep_agent-api_1","role":"primary","state":"ready",
           "health":"healthy","attempt":1,"task_at":1790000000000,"since":1790000000400,"reason":null,"task":null,
           "healthy_at":null,"healthy_deadline_at":null,
           "sessions":null,"drain_at":null,"until_version":2},
          {"agent":"agent-3","node":"agent-3","version":1,"job_id":"dep_agent-api_1","role":"primary","state":"ready",
           "health":"healthy","attempt":1,"task_at":1790000000000,"since":1790000000400,"reason":null,"task":null,
           "healthy_at":null,"healthy_deadline_at":null,
           "sessions":null,"drain_at":null,"until_version":2}],
        "services":[
          {"service":"web","instance":"web-1","agent":"agent-2","address":"10.0.0.7","port":8080,"status":"passing",
           "tags":["blue","http"],"meta":{"zone":"a"},"ttl_ms":5000,"since":1790000000400,"deployment_key":"agent-api",
           "deployment_id":"dep_agent-api_2","deployment_version":2,"deployment_role":"primary",
           "job_id":"dep_agent-api_1","reason":null,"expires_at":1790000005400,"sessions":null,"drain_at":null}],
        "versions":[
          {"version":2,"deployment_id":"dep_agent-api_2","job_id":"dep_agent-api_1","job_type":"service",
           "strategy":"rolling","bundle":"s3://b/v2","tag":null,"stable":false,"rollback_of":null,"outcome":null,
           "submitted_at":1790000000000,"by":"default","reason":"faster model",
           "cause":null,"description":null,"promoted_at":null,"promoted_by":null,"finished_at":null},
          {"version":1,"deployment_id":"dep_agent-api_1","job_id":"dep_agent-api_1","job_type":"service",
           "strategy":"rolling","bundle":"s3://b/v1","tag":null,"stable":true,"rollback_of":null,"outcome":"successful",
           "submitted_at":1790000000000,"by":"default","reason":null,
           "cause":null,"description":null,"promoted_at":null,"promoted_by":null,"finished_at":null}],
        "events":[
          {"revision":12,"at":1790000000000,"key":"agent-api","deployment_id":"dep_agent-api_3",
           "type":"awaiting_promotion","version":3,"healthy":1}],
        "created_at":1790000000000,"updated_at":1790000000400,"finished_at":null,"revision":12,
        "mode_reason":"same topology",
        "last_action":{"name":"resume","by":"ann","at":1790000000300,"reason":"go on"},
        "changed_agents":["agent-2","agent-1","agent-3"],"phase":null}"#,
    );
}

#[test]
fn status_is_independent_of_the_time() {}

#[test]
fn status_has_the_last_ten_events_oldest_first() {
    let mut record = record();
    logged(&mut record, 3..=40);
    let status = value(&view::status(&record, KEY));
    let revisions: Vec<u64> =
        status["events"].as_array().expect("a list").iter().filter_map(|e| e["revision"].as_u64()).collect();
    assert_eq!(revisions, (31..=40).collect::<Vec<u64>>());
}

#[test]
fn empty_record_has_no_status() {
    let empty = Record::empty();
    assert_eq!(view::status(&empty, KEY), None);
    assert_json(&view::status(&empty, KEY), "null");
    assert_eq!(Summary::of(&empty), None);
    assert_eq!(view::description(&empty), "");
    assert_json(&view::history(&empty, usize::MAX), "[]");
    assert_json(&view::tasks(&empty), "[]");
    assert_json(&view::events(&empty, KEY, None, None), "[1,0,[]]");
}

#[test]
fn policies_are_formatted_as_in_a_manifest() {
    let policy = Policy {
        strategy: Strategy::BlueGreen,
        max_parallel: CountOrPercent::Percent(25),
        canary: CountOrPercent::Percent(0),
        health_check: HealthCheck::AgentStates,
        auto_promote: true,
        auto_revert: true,
        ..Policy::default()
    };
    let record = record_where(|d| d.policy = policy);
    let replied = &value(&view::status(&record, KEY))["policy"];
    let example = r#"{"strategy":"blue-green","max_parallel":"25%","canary":"0%","min_healthy_ms":10000,
        "healthy_deadline_ms":300000,"progress_deadline_ms":600000,"health_check":"agent_states",
        "auto_promote":true,"auto_revert":true}"#;
    assert_begins_with(replied, &serde_json::from_str(example).expect("the example is JSON"), "policy");
    let names: Vec<&String> = replied.as_object().expect("an object").keys().collect();
    assert_eq!(names, POLICY_FIELDS.iter().map(|field| field.name).collect::<Vec<_>>());
}

#[test]
fn inactive_deadlines_are_null() {
    let deadlines = |record: &Record| value(&view::status(record, KEY))["deadlines"].to_string();
    let mut idle = record_where(|d| d.status = Status::Successful);
    idle.instances.update_where(
        |_| true,
        |i| {
            i.healthy_at = None;
            i.deadline = Deadline::Off;
        },
    );
    assert_eq!(
        deadlines(&idle),
        r#"{"progress_at":null,"next_at":null,"next":null,"progress_left_ms":null,"bake_at":null}"#
    );

    let mut paused = record_where(|d| {
        d.status = Status::Paused;
        d.progress = Deadline::Paused { left_ms: 500_000 };
    });
    paused.instances.update_where(|_| true, |i| i.deadline = i.deadline.pause(T));
    assert_eq!(
        deadlines(&paused),
        r#"{"progress_at":null,"next_at":1790000010000,"next":"agent-1 healthy","progress_left_ms":500000,"bake_at":null}"#
    );
}

#[test]
fn next_deadline_has_a_name() {
    let next = |record: &Record| value(&view::status(record, KEY))["deadlines"]["next"].clone();
    let mut record = record();
    assert_eq!(next(&record), "agent-1 healthy");
    record.instances.update_where(|_| true, |i| i.healthy_at = None);
    assert_eq!(next(&record), "agent-1 healthy deadline");
    record.instances.update_where(|_| true, |i| i.deadline = Deadline::Off);
    assert_eq!(next(&record), "progress deadline");
    record.services.insert(service("web-1", "agent-2", 2));
    assert_eq!(next(&record), "service web-1 TTL");
}

#[test]
fn running_description_counts_healthy_agents_of_the_phase() {
    assert_eq!(view::description(&record()), "1 of 3 agents healthy");
    assert_eq!(view::description(&record_where(|d| d.canaries = 2)), "1 of 2 canaries healthy");
    let promoted = record_where(|d| (d.canaries, d.promoted) = (2, true));
    assert_eq!(view::description(&promoted), "1 of 3 agents healthy");
    assert_eq!(view::description(&record_where(|d| d.mode = Mode::BlueGreen)), "1 of 3 candidates healthy");
    assert_eq!(view::description(&record_where(|d| d.mode = Mode::Initial)), "1 of 3 agents healthy");
}

#[test]
fn description_names_the_obstacle_of_a_rollout() {
    let mut record = record();
    record.instances.update_where(
        |i| &*i.agent == "agent-1",
        |i| {
            i.health = Health::Unhealthy;
            i.state = InstanceState::Starting;
            i.reason = Some(text("not healthy within 300 ms: never ready: starting"));
        },
    );
    let words = "not healthy within 300 ms: never ready: starting";
    assert_eq!(view::description(&record), format!("1 of 3 agents healthy, 1 unhealthy (agent-1: {words})"));
    record.instances.update_where(|i| &*i.agent == "agent-1", |i| i.reason = None);
    assert_eq!(view::description(&record), "1 of 3 agents healthy, 1 unhealthy (agent-1: not ready: starting)");
    // The verdict is no reason any more once something else is wrong, or nothing is.
    record.instances.update_where(
        |i| &*i.agent == "agent-1",
        |i| {
            i.state = InstanceState::Ready;
            i.reason = Some(text("not healthy within 300 ms: service web has no passing instance"));
        },
    );
    assert_eq!(view::description(&record), "1 of 3 agents healthy, 1 unhealthy (agent-1: ready, not long enough)");
}

#[test]
fn awaiting_and_paused_deployments_are_described() {
    let awaiting = record_where(|d| (d.status, d.canaries) = (Status::AwaitingPromotion, 1));
    assert_eq!(view::description(&awaiting), "1 of 1 canaries healthy, awaiting promotion");

    let pause = |d: &mut Deployment, from| {
        d.status = Status::Paused;
        d.paused_from = Some(from);
    };
    assert_eq!(view::description(&record_where(|d| pause(d, Status::Running))), "paused: 1 of 3 agents healthy");
    let awaiting = record_where(|d| {
        pause(d, Status::AwaitingPromotion);
        d.canaries = 1;
    });
    assert_eq!(view::description(&awaiting), "paused: 1 of 1 canaries healthy, awaiting promotion");
    let doomed = record_where(|d| {
        pause(d, Status::Running);
        d.deferred_failure = Some(DeferredFailure { cause: Cause::AgentFailed, words: text("agent-1 failed") });
    });
    assert_eq!(view::description(&doomed), "paused: 1 of 3 agents healthy; fails at resume: agent-1 failed");
    let falling_back = record_where(|d| {
        pause(d, Status::Running);
        d.unsafe_report = Some(UnsafeReport { agent: text("agent-1"), words: text("agent-1 holds state") });
    });
    assert_eq!(
        view::description(&falling_back),
        "paused: 1 of 3 agents healthy; falls back to blue-green at resume: agent-1 holds state"
    );
}

#[test]
fn finished_deployments_describe_their_outcome() {
    let failed = record_where(|d| {
        d.status = Status::Failed;
        d.cause = Some(Cause::ProgressDeadline);
        d.ended = Some(text("no progress for 600000 ms"));
        d.finished_at = Some(T + 900);
    });
    let status = value(&view::status(&failed, KEY));
    assert_eq!(status["status"], "failed");
    assert_eq!(status["cause"], "progress_deadline");
    assert_eq!(status["description"], "no progress for 600000 ms");
    assert_eq!(status["finished_at"], T + 900);
}

#[test]
fn description_counts_canaries_before_and_after_promotion() {
    let canaries = |record: &Record| {
        let health = value(&view::status(record, KEY))["health"].clone();
        (health["canaries_desired"].as_u64(), health["canaries_healthy"].as_u64())
    };
    // agent-2 and agent-1 go first; agent-1 is pending.
    assert_eq!(canaries(&record_where(|d| d.canaries = 2)), (Some(2), Some(1)));
    let mut record = record_where(|d| (d.canaries, d.promoted) = (2, true));
    assert_eq!(canaries(&record), (Some(2), Some(1)));
    record.instances.update_where(|i| &*i.agent == "agent-1", |i| i.health = Health::Healthy);
    assert_eq!(canaries(&record), (Some(2), Some(2)));
    // Healthy, but not an instance of this deployment.
    assert_eq!(canaries(&record_where(|d| (d.canaries, d.changed) = (1, texts(&["agent-3"])))), (Some(1), Some(0)));
    assert_eq!(canaries(&record_where(|d| (d.canaries, d.mode) = (2, Mode::BlueGreen))), (Some(0), Some(0)));
    assert_eq!(canaries(&record_where(|d| (d.canaries, d.mode) = (2, Mode::Initial))), (Some(0), Some(0)));
    assert_eq!(canaries(&record_where(|d| d.canaries = 99)), (Some(3), Some(1)));
}
