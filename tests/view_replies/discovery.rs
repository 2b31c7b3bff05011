//! RESOLVE.

use crate::json::{assert_json, value};
use crate::record::{instance, record, service, text, KEY};
use redis_deploy::engine::instance::{Drain, DrainOutcome, DrainPhase, Instance, Role};
use redis_deploy::engine::record::Record;
use redis_deploy::engine::services::{CheckStatus, Service};
use redis_deploy::engine::time::Deadline;
use redis_deploy::view::{self, ResolveFilter, RoleFilter};

/// One service for each role and status that matters: `<role>-<status>`.
fn discovered() -> Record {
    let mut record = record();
    let owners = [("p", Role::Primary, 1), ("c", Role::Canary, 2), ("n", Role::Candidate, 2), ("r", Role::Retired, 1)];
    for (i, (agent, role, number)) in owners.into_iter().enumerate() {
        record.instances.insert(Instance { role, ..instance(agent, number, 30 + i as u64) });
        for status in [CheckStatus::Passing, CheckStatus::Warning, CheckStatus::Critical] {
            let id = format!("{}-{}", role.name(), status.name());
            record.services.insert(Service { status, ..service(&id, agent, number) });
        }
    }
    record.services.insert(Service {
        service: text("admin"),
        tags: vec![text("green")],
        meta: None,
        ttl_ms: None,
        expires_at: None,
        ..service("primary-admin", "p", 1)
    });
    record
}

fn resolved(filter: ResolveFilter) -> Vec<String> {
    let record = discovered();
    let entries = view::resolve(&record, KEY, &filter);
    let entries = value(&entries);
    let entries = entries.as_array().expect("a list");
    entries.iter().filter_map(|e| e["instance"].as_str().map(str::to_string)).collect()
}

#[test]
fn resolve_returns_primary_passing_instances_by_default() {
    let any = RoleFilter::Any;
    assert_eq!(resolved(ResolveFilter::default()), ["primary-admin", "primary-passing"]);
    assert_eq!(
        resolved(ResolveFilter { all: true, ..ResolveFilter::default() }),
        ["primary-admin", "primary-critical", "primary-passing", "primary-warning"]
    );
    assert_eq!(
        resolved(ResolveFilter { role: RoleFilter::Is(Role::Canary), ..ResolveFilter::default() }),
        ["canary-passing"]
    );
    assert_eq!(
        resolved(ResolveFilter { role: RoleFilter::Is(Role::Candidate), all: true, ..ResolveFilter::default() }),
        ["candidate-critical", "candidate-passing", "candidate-warning"]
    );
    assert_eq!(
        resolved(ResolveFilter { role: any, ..ResolveFilter::default() }),
        ["canary-passing", "candidate-passing", "primary-admin", "primary-passing"]
    );
    let everything = resolved(ResolveFilter { role: any, all: true, ..ResolveFilter::default() });
    assert_eq!(everything.len(), 13);
    assert!(everything.contains(&"retired-passing".to_string()));
}

#[test]
fn resolve_filters_by_service_and_by_tag() {
    assert_eq!(
        resolved(ResolveFilter { service: Some("admin".into()), ..ResolveFilter::default() }),
        ["primary-admin"]
    );
    assert_eq!(
        resolved(ResolveFilter { service: Some("web".into()), ..ResolveFilter::default() }),
        ["primary-passing"]
    );
    assert_eq!(resolved(ResolveFilter { tag: Some("green".into()), ..ResolveFilter::default() }), ["primary-admin"]);
    assert_eq!(resolved(ResolveFilter { tag: Some("http".into()), ..ResolveFilter::default() }), ["primary-passing"]);
    assert!(resolved(ResolveFilter {
        service: Some("web".into()),
        tag: Some("green".into()),
        ..ResolveFilter::default()
    })
    .is_empty());
    // Names are exact: no prefix, no other case.
    assert!(resolved(ResolveFilter { service: Some("WEB".into()), ..ResolveFilter::default() }).is_empty());
    assert!(resolved(ResolveFilter { tag: Some("htt".into()), ..ResolveFilter::default() }).is_empty());
}

#[test]
fn resolved_instances_name_their_deployment() {
    let record = discovered();
    let filter = ResolveFilter { service: Some("admin".into()), ..ResolveFilter::default() };
    assert_json(
        &view::resolve(&record, KEY, &filter),
        r#"[{"service":"admin","instance":"primary-admin","agent":"p","address":"10.0.0.7","port":8080,
        "status":"passing","tags":["green"],"meta":null,"ttl_ms":null,"since":1790000000400,
        "deployment_key":"agent-api","deployment_id":"dep_agent-api_1","deployment_version":1,
        "deployment_role":"primary","job_id":"dep_agent-api_1","reason":null,"expires_at":null,
        "sessions":null,"drain_at":null}]"#,
    );
}

/// Rule 10.4: an instance that drains is resolved by its role alone, and from the end of its drain on by nothing.
#[test]
fn draining_instances_are_resolved_by_their_role_until_the_end_of_their_drain() {
    let drain = |phase, deadline| Drain {
        phase,
        outcome: DrainOutcome::Stop,
        role: Role::Primary,
        deadline,
        idle_ms: 10_000,
        idle: Deadline::Off,
    };
    let with = |drain: Drain| {
        let mut record = record();
        let drain = Some(Box::new(drain));
        let owner = Instance { role: Role::Draining, drain, sessions: Some(12), ..instance("d", 1, 30) };
        record.instances.insert(owner);
        record.services.insert(service("d-1", "d", 1));
        record
    };
    let of_role = |role| ResolveFilter { role, all: true, ..ResolveFilter::default() };
    let roles = [RoleFilter::Is(Role::Draining), RoleFilter::Any];
    let open = [
        (DrainPhase::Issued, Deadline::Running { at: 1_790_000_300_000 }, r#""drain_at":1790000300000"#),
        (DrainPhase::TakenUp, Deadline::Paused { left_ms: 5 }, r#""drain_at":null"#),
    ];
    for (phase, deadline, drain_at) in open {
        let record = with(drain(phase, deadline));
        assert_json(&view::resolve(&record, KEY, &ResolveFilter::default()), "[]");
        for role in roles {
            let entries = value(&view::resolve(&record, KEY, &of_role(role))).to_string();
            assert!(entries.contains(r#""deployment_role":"draining""#), "{entries}");
            assert!(entries.contains(r#""sessions":12"#) && entries.contains(drain_at), "{entries}");
        }
    }
    for phase in [DrainPhase::Ended, DrainPhase::Succeeded] {
        let record = with(drain(phase, Deadline::Off));
        for role in roles {
            assert_json(&view::resolve(&record, KEY, &of_role(role)), "[]");
        }
        let status = value(&view::status(&record, KEY).expect("a deployment"));
        assert_eq!(status["services"][0]["instance"], "d-1", "STATUS lists them still");
    }
}

#[test]
fn services_without_owner_are_not_resolved() {
    let mut record = record();
    record.services.insert(service("orphan", "nobody", 2));
    let everything = ResolveFilter { role: RoleFilter::Any, all: true, ..ResolveFilter::default() };
    assert_json(&view::resolve(&record, KEY, &everything), "[]");
}

#[test]
fn role_filter_parses_names_except_retired() {
    assert_eq!(RoleFilter::parse("Primary"), Some(RoleFilter::Is(Role::Primary)));
    assert_eq!(RoleFilter::parse("CANARY"), Some(RoleFilter::Is(Role::Canary)));
    assert_eq!(RoleFilter::parse("candidate"), Some(RoleFilter::Is(Role::Candidate)));
    assert_eq!(RoleFilter::parse("draining"), Some(RoleFilter::Is(Role::Draining)));
    assert_eq!(RoleFilter::parse("any"), Some(RoleFilter::Any));
    assert_eq!(RoleFilter::parse("retired"), None);
    assert_eq!(RoleFilter::parse(""), None);
}
