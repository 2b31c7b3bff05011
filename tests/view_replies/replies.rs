//! LIST, HISTORY, VERSION, TASKS, PLAN and receipts.

use crate::json::{assert_json, reply};
use crate::record::{instance, record, task, text, texts, version, KEY};
use redis_deploy::engine::deployment::{Cause, Deployment, Mode, Outcome, Receipt, Status};
use redis_deploy::engine::instance::{Instance, InstanceState, Role, TaskKind};
use redis_deploy::engine::manifest::{JobType, ManifestText};
use redis_deploy::engine::plan;
use redis_deploy::engine::policy::Strategy;
use redis_deploy::engine::version::Version;
use redis_deploy::engine::{Rejection, Summary};
use redis_deploy::view;
use serde_json::Value;
use std::sync::Arc;

#[test]
fn list_entries_are_excerpts_of_the_status() {
    let mut record = record();
    let summary = Summary::of(&record).expect("it has a deployment");
    let mut deployment = record.deployment.take().expect("it has one");
    assert_json(
        &view::list_entry(&summary, &deployment, KEY),
        r#"{"deployment_key":"agent-api","deployment_id":"dep_agent-api_2","status":"running","mode":"in_place",
        "strategy":"rolling","current_version":1,"stable_version":1,"target_version":2,"healthy":1,"desired":3,
        "updated_at":1790000000400,"cause":null,"by":"default","reason":"faster model","phase":null,"exposure":null}"#,
    );
    // The cause of a failure is none of the revert that was successful.
    let deployment = Arc::make_mut(&mut deployment);
    (deployment.cause, deployment.reason) = (Some(Cause::AgentFailed), Some(text("why")));
    let listed =
        |deployment: &Deployment| serde_json::to_value(view::list_entry(&summary, deployment, KEY)).expect("JSON");
    let entry = listed(deployment);
    assert_eq!((&entry["cause"], &entry["reason"]), (&Value::from("agent_failed"), &Value::from("why")));
    deployment.status = Status::Successful;
    assert_eq!(listed(deployment)["cause"], Value::Null);
}

#[test]
fn history_lists_versions_newest_first() {
    let mut record = record();
    record.versions = vec![
        record.versions[0].clone(),
        Arc::new(Version {
            strategy: Strategy::Canary,
            bundle: None,
            tag: Some(text("gold")),
            stable: true,
            rollback_of: Some(1),
            outcome: Some(Outcome::Cancelled),
            reason: Some(text("back")),
            job_type: JobType::System,
            cause: Some(Cause::NewerVersion),
            description: Some(text("cancelled by version 4")),
            promoted_at: Some(1_790_000_000_300),
            promoted_by: Some(text("ann")),
            finished_at: Some(1_790_000_000_400),
            ..version(3)
        }),
    ]
    .into();
    assert_json(
        &view::history(&record, usize::MAX),
        r#"[{"version":3,"deployment_id":"dep_agent-api_3","job_id":"dep_agent-api_1","job_type":"system",
        "strategy":"canary","bundle":null,"tag":"gold","stable":true,"rollback_of":1,"outcome":"cancelled",
        "submitted_at":1790000000000,"by":"default","reason":"back",
        "cause":"newer_version","description":"cancelled by version 4","promoted_at":1790000000300,
        "promoted_by":"ann","finished_at":1790000000400},
        {"version":1,"deployment_id":"dep_agent-api_1","job_id":"dep_agent-api_1","job_type":"service",
        "strategy":"rolling","bundle":"s3://b/v1","tag":null,"stable":true,"rollback_of":null,"outcome":"successful",
        "submitted_at":1790000000000,"by":"default","reason":null,
        "cause":null,"description":null,"promoted_at":null,"promoted_by":null,"finished_at":null}]"#,
    );
    let newest: Vec<i64> = view::history(&record, 1).iter().map(|version| version.version).collect();
    assert_eq!(newest, [3]);
}

#[test]
fn version_includes_the_manifest_as_given() {
    let given = "{ \"nodes\" : [ {\"node_id\":\"agent-1\"} ],\n  \"x\": \"\\u00e9\" }";
    let mut record = record();
    Arc::make_mut(&mut record.versions)[1] = Arc::new(Version {
        content: Arc::new(ManifestText::new(text(given))),
        agents: Some(texts(&["agent-1@a", "agent-1@b"])),
        ..version(2)
    });
    let view = view::version(&record, 2).expect("version 2 is kept");
    let reply = reply(&view);
    let names: Vec<&str> = reply.as_object().expect("a map").keys().map(String::as_str).collect();
    assert_eq!(
        names[..14].join(" "),
        "version deployment_id job_id job_type strategy bundle tag stable rollback_of outcome submitted_at by reason \
         manifest"
    );
    // A string for the server's reply, byte for byte; in JSON a value, byte for byte as well.
    assert_eq!(reply["manifest"], given);
    let json = view::to_json(&view);
    assert!(json.contains(&format!("\"manifest\":{given},")), "{json}");
    let parsed: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(parsed["manifest"]["x"], "é");
    assert_eq!(parsed["agents"].to_string(), r#"["agent-1@a","agent-1@b"]"#);
    assert_eq!(parsed["policy"]["min_healthy_ms"], 10_000);
    assert_eq!(names[16..].join(" "), "cause description promoted_at promoted_by finished_at");

    assert_eq!(view::version(&record, 3), Err(Rejection::NoSuchVersion(3)));
}

#[test]
fn version_with_a_damaged_manifest_is_an_error() {
    let mut record = record();
    for damaged in ["{", "nodes", r#"{"nodes":[]} x"#] {
        let content = Arc::new(ManifestText::new(text(damaged)));
        Arc::make_mut(&mut record.versions)[1] = Arc::new(Version { content, ..version(2) });
        assert_eq!(view::version(&record, 2), Err(Rejection::DamagedManifest(2)), "{damaged}");
        assert!(view::version(&record, 1).is_ok(), "the others are read");
        assert_eq!(view::history(&record, usize::MAX).len(), 2);
    }
}

#[test]
fn tasks_are_in_issue_order_with_their_attempt() {
    let mut record = record();
    record.instances.insert(Instance {
        state: InstanceState::Waiting,
        attempt: 0,
        role: Role::Canary,
        from_version: Some(1),
        task: task(TaskKind::Replace, 21),
        ..instance("agent-3", 2, 21)
    });
    record.instances.insert(Instance {
        attempt: 4,
        role: Role::Retired,
        from_version: Some(1),
        task: task(TaskKind::Stop, 20),
        ..instance("agent-1", 1, 2)
    });
    // Told to stop before anybody took it up: a report has attempt 1 or higher.
    record.instances.insert(Instance {
        state: InstanceState::Waiting,
        attempt: 0,
        task: task(TaskKind::Stop, 24),
        ..instance("agent-5", 2, 5)
    });
    record.instances.insert(Instance {
        state: InstanceState::Unready,
        attempt: 1,
        task: task(TaskKind::Start, 22),
        ..instance("agent-4", 2, 22)
    });
    record.instances.insert(Instance {
        state: InstanceState::Waiting,
        attempt: 0,
        task: task(TaskKind::Run, 23),
        ..instance("*", 7, 23)
    });
    assert_json(
        &view::tasks(&record),
        r#"[{"task":"stop","agent":"agent-1","node":"agent-1","version":1,"from_version":null,
            "job_id":"dep_agent-api_1","role":"retired","attempt":4,"bundle":"s3://b/v1","since":1790000000020,"successor_version":null,"drain_at":null},
           {"task":"replace","agent":"agent-3","node":"agent-3","version":2,"from_version":1,
            "job_id":"dep_agent-api_1","role":"canary","attempt":1,"bundle":"s3://b/v2","since":1790000000021,"successor_version":null,"drain_at":null},
           {"task":"start","agent":"agent-4","node":"agent-4","version":2,"from_version":null,
            "job_id":"dep_agent-api_1","role":"primary","attempt":1,"bundle":"s3://b/v2","since":1790000000022,"successor_version":null,"drain_at":null},
           {"task":"run","agent":"*","node":"*","version":7,"from_version":null,
            "job_id":"dep_agent-api_1","role":"primary","attempt":1,"bundle":null,"since":1790000000023,"successor_version":null,"drain_at":null},
           {"task":"stop","agent":"agent-5","node":"agent-5","version":2,"from_version":null,
            "job_id":"dep_agent-api_1","role":"primary","attempt":1,"bundle":"s3://b/v2","since":1790000000024,"successor_version":null,"drain_at":null}]"#,
    );
}

#[test]
fn plan_lists_agents_and_batches() {
    let plan = plan::Plan {
        deployment_key: text(KEY),
        version: 3,
        mode: Mode::InPlace,
        strategy: Strategy::Canary,
        requested_strategy: Strategy::Canary,
        reason: text("same topology"),
        changed_agents: vec![(text("a"), "bundle changed".to_string()), (text("b"), "node changed: x".to_string())],
        batches: vec![
            plan::PlanStep { agents: vec![text("a")], role: Role::Canary, earliest_ms: 0 },
            plan::PlanStep { agents: vec![text("b")], role: Role::Primary, earliest_ms: 10_000 },
        ],
        warnings: vec!["JOB is left aside".to_string()],
    };
    assert_json(
        &view::plan(&plan),
        r#"{"deployment_key":"agent-api","version":3,"mode":"in_place","strategy":"canary",
        "requested_strategy":"canary","reason":"same topology",
        "changed_agents":[{"agent":"a","why":"bundle changed"},{"agent":"b","why":"node changed: x"}],
        "batches":[{"agents":["a"],"role":"canary","earliest_ms":0},{"agents":["b"],"role":"primary","earliest_ms":10000}],
        "warnings":["JOB is left aside"]}"#,
    );
}

#[test]
fn receipts_have_seven_fields_and_warnings() {
    let receipt = Receipt {
        deployment_key: text(KEY),
        deployment_id: text("dep_agent-api_3"),
        version: 3,
        job_id: text("job"),
        status: Status::AwaitingPromotion,
        mode: Mode::Unchanged,
        revision: 14,
        warnings: None,
    };
    assert_json(
        &view::receipt(&receipt),
        r#"{"deployment_key":"agent-api","deployment_id":"dep_agent-api_3","version":3,"job_id":"job",
        "status":"awaiting_promotion","mode":"unchanged","revision":14}"#,
    );
    assert_eq!(view::receipt_with_warnings(&receipt), None);
    let receipt = Receipt { warnings: Some(vec![text("no type: batch")]), ..receipt };
    assert_json(
        &view::receipt_with_warnings(&receipt).expect("it has warnings"),
        r#"{"deployment_key":"agent-api","deployment_id":"dep_agent-api_3","version":3,"job_id":"job",
        "status":"awaiting_promotion","mode":"unchanged","revision":14,"warnings":["no type: batch"]}"#,
    );
}
