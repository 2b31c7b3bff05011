//! Properties of all histories: random commands at random times (also with the server's clock set back), from
//! operators, from coordinators who report late, twice, out of order and about the wrong version or attempt, and from
//! services. A failing history is shrunk and printed.
//!
//! The properties of every single command (the invariants, the fold of its events, one revision for each event)
//! are checked by `World::execute`.

use proptest::prelude::*;
use redis_deploy::codec;
use redis_deploy::engine::command::{Check, Deploy, Operate, Register, Report, ReportedState, Rollback, RollbackTo};
use redis_deploy::engine::deployment::{Cause, Deployment, Mode, Status};
use redis_deploy::engine::event::{ChangeSet, InstanceRef};
use redis_deploy::engine::instance::{Health, Instance, InstanceKey, InstanceState, Role, TaskKind};
use redis_deploy::engine::policy::{CountOrPercent, HealthCheck, PolicyPatch, Strategy as Rollout};
use redis_deploy::engine::services::CheckStatus;
use redis_deploy::engine::time::Deadline;
use redis_deploy::engine::{
    apply, invariants, next_deadline, plan, Change, Command, Context, DecisionReply, Event, EventBody, Record,
    SilentChange,
};
use redis_deploy::view::{self, ResolveFilter, RoleFilter};
use std::collections::BTreeMap;
use std::sync::Arc;
use test_support::scenario::{events, Outcome, World};

/// Manifests of one topology with changing content, of other topologies, with services, per host, and of a batch job.
const MANIFESTS: [&str; 9] = [
    r#"{"type":"service","nodes":[{"node_id":"a"},{"node_id":"b"},{"node_id":"c"},{"node_id":"d"}]}"#,
    r#"{"type":"service","nodes":[{"node_id":"a","v":1},{"node_id":"b","v":1},{"node_id":"c","v":1},{"node_id":"d","v":1}]}"#,
    r#"{"type":"service","nodes":[{"node_id":"a","v":2},{"node_id":"b"},{"node_id":"c","v":2},{"node_id":"d","alias":"x"}]}"#,
    r#"{"type":"service","nodes":[{"node_id":"a","services":[{"name":"s"}]},{"node_id":"b"},{"node_id":"c"},{"node_id":"d"}]}"#,
    r#"{"type":"service","nodes":[{"node_id":"a"},{"node_id":"b"},{"node_id":"c"}]}"#,
    r#"{"type":"service","nodes":[{"node_id":"a"},{"node_id":"b"},{"node_id":"c"},{"node_id":"d"}],"edges":[{"from_node":"a","to_node":"b"}]}"#,
    r#"{"type":"system","registry":{"a":{},"b":{"v":1}}}"#,
    r#"{"type":"batch","nodes":[{"node_id":"a"}]}"#,
    r#"{"type":"service","nodes":[{"node_id":"a"}],"policies":{"update":{"min_healthy_ms":-1}}}"#,
];

const AGENTS: [&str; 9] = ["a", "b", "c", "d", "a@1", "a@2", "b@1", "*", "nobody"];
const STATES: [ReportedState; 9] = [
    ReportedState::Starting,
    ReportedState::Ready,
    ReportedState::Ready,
    ReportedState::Ready,
    ReportedState::Unready,
    ReportedState::Failed,
    ReportedState::Stopped,
    ReportedState::Completed,
    ReportedState::Unsafe,
];

#[derive(Debug, Clone)]
enum When {
    /// As long after the last command; before it where the clock was set back.
    After(i64),
    /// The time of the next deadline, plus an offset.
    Due(i64),
}

#[derive(Debug, Clone)]
enum Asked {
    Deploy {
        manifest: usize,
        agents: Option<usize>,
        bundle: bool,
        policy: Vec<(usize, usize)>,
        request: Option<u8>,
        if_version: Option<u8>,
        tag: Option<u8>,
        job: Option<u8>,
    },
    /// Back from the newest version by so many; None: the newest stable one.
    Rollback {
        back: Option<u64>,
        policy: Vec<(usize, usize)>,
        request: Option<u8>,
    },
    Operate {
        what: u8,
        wrong_id: bool,
    },
    Tag {
        back: u64,
        tag: u8,
    },
    Untag {
        tag: u8,
    },
    /// About somebody, who may be unknown.
    Report {
        agent: usize,
        state: usize,
        back: Option<u64>,
        attempt: Option<u32>,
        old_job: bool,
    },
    /// About one of the instances on the record, exactly.
    ReportExactly {
        instance: usize,
        state: usize,
        attempt: Option<u32>,
    },
    /// A coordinator that does the open tasks, the first so many of them.
    Work {
        tasks: usize,
        well: bool,
    },
    Register {
        agent: usize,
        id: u8,
        status: usize,
        ttl: Option<u64>,
        back: Option<u64>,
    },
    Check {
        id: u8,
        status: usize,
    },
    Deregister {
        id: u8,
    },
    Tick,
}

fn policy() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((0usize..8, 0usize..4), 0..5)
}

fn asked() -> impl Strategy<Value = Asked> {
    let deploy = (
        prop_oneof![6 => 0usize..3, 2 => 3usize..9],
        prop::option::weighted(0.15, 0usize..4),
        prop::bool::weighted(0.1),
        policy(),
        prop::option::weighted(0.1, 0u8..3),
        prop::option::weighted(0.1, 0u8..6),
        prop::option::weighted(0.1, 0u8..3),
        prop::option::weighted(0.1, 0u8..2),
    )
        .prop_map(|(manifest, agents, bundle, policy, request, if_version, tag, job)| Asked::Deploy {
            manifest,
            agents,
            bundle,
            policy,
            request,
            if_version,
            tag,
            job,
        });
    prop_oneof![
        5 => deploy,
        3 => (prop::option::of(0u64..4), policy(), prop::option::weighted(0.1, 0u8..3))
            .prop_map(|(back, policy, request)| Asked::Rollback { back, policy, request }),
        8 => (0u8..16, prop::bool::weighted(0.1)).prop_map(|(what, wrong_id)| Asked::Operate { what, wrong_id }),
        1 => (0u64..4, 0u8..3).prop_map(|(back, tag)| Asked::Tag { back, tag }),
        1 => (0u8..3).prop_map(|tag| Asked::Untag { tag }),
        12 => (0usize..12, 0usize..STATES.len(), prop::option::weighted(0.2, 0u32..4))
            .prop_map(|(instance, state, attempt)| Asked::ReportExactly { instance, state, attempt }),
        4 => (
            0usize..AGENTS.len(),
            0usize..STATES.len(),
            prop::option::weighted(0.3, 0u64..3),
            prop::option::weighted(0.2, 0u32..4),
            prop::bool::weighted(0.1),
        )
            .prop_map(|(agent, state, back, attempt, old_job)| Asked::Report { agent, state, back, attempt, old_job }),
        10 => (1usize..6, prop::bool::weighted(0.95)).prop_map(|(tasks, well)| Asked::Work { tasks, well }),
        4 => (0usize..4, 0u8..4, 0usize..6, prop::option::of(1u64..3000), prop::option::weighted(0.2, 0u64..2))
            .prop_map(|(agent, id, status, ttl, back)| Asked::Register { agent, id, status, ttl, back }),
        3 => (0u8..4, 0usize..6).prop_map(|(id, status)| Asked::Check { id, status }),
        1 => (0u8..4).prop_map(|id| Asked::Deregister { id }),
        4 => Just(Asked::Tick),
    ]
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        12 => prop::sample::select(vec![0i64, 0, 1, 1, 99, 500, 999, 1000]).prop_map(When::After),
        1 => prop::sample::select(vec![2500i64, 5000, 10_000, 30_000]).prop_map(When::After),
        1 => prop::sample::select(vec![-1i64, -700, -20_000]).prop_map(When::After),
        4 => prop::sample::select(vec![0i64, 0, 0, -1, 1, 700]).prop_map(When::Due),
    ]
}

/// One thing that happens; or the coordinators doing all that is to be done for a while, in time.
fn chunk() -> impl Strategy<Value = Vec<(When, Asked)>> {
    let steady = (1usize..5).prop_map(|rounds| {
        let round = [(When::After(1), Asked::Work { tasks: 9, well: true }), (When::Due(0), Asked::Tick)];
        std::iter::repeat_n(round, rounds).flatten().collect::<Vec<_>>()
    });
    prop_oneof![8 => (when(), asked()).prop_map(|one| vec![one]), 1 => steady]
}

fn history() -> impl Strategy<Value = Vec<(When, Asked)>> {
    let first = (prop_oneof![9 => 0usize..3, 1 => Just(7)], prop::bool::weighted(0.8)).prop_map(|(manifest, well)| {
        let deploy = Asked::Deploy {
            manifest,
            agents: None,
            bundle: false,
            policy: Vec::new(),
            request: None,
            if_version: None,
            tag: None,
            job: None,
        };
        let done = [(When::After(1), Asked::Work { tasks: 9, well: true }), (When::Due(0), Asked::Tick)];
        std::iter::once((When::After(0), deploy)).chain(done.into_iter().filter(move |_| well)).collect::<Vec<_>>()
    });
    (first, prop::collection::vec(chunk(), 1..60))
        .prop_map(|(first, rest)| first.into_iter().chain(rest.into_iter().flatten()).collect())
}

fn patch(choices: &[(usize, usize)], quick: bool) -> PolicyPatch {
    let mut patch = PolicyPatch::default();
    if quick {
        patch.min_healthy_ms = Some(1000);
        patch.healthy_deadline_ms = Some(5000);
        patch.progress_deadline_ms = Some(10_000);
    }
    for (field, value) in choices {
        match field {
            0 => {
                patch.strategy = Some([Rollout::Rolling, Rollout::Canary, Rollout::BlueGreen, Rollout::Rolling][*value])
            }
            1 => {
                patch.max_parallel = Some(
                    [
                        CountOrPercent::Count(0),
                        CountOrPercent::Count(2),
                        CountOrPercent::Percent(51),
                        CountOrPercent::Count(9),
                    ][*value],
                )
            }
            2 => {
                patch.canary = Some(
                    [
                        CountOrPercent::Count(0),
                        CountOrPercent::Count(1),
                        CountOrPercent::Percent(50),
                        CountOrPercent::Count(9),
                    ][*value],
                )
            }
            3 => patch.min_healthy_ms = Some([0, 1, 1000, 4999][*value]),
            4 => patch.progress_deadline_ms = Some([0, 5000, 10_000, 20_000][*value]),
            5 => patch.auto_promote = Some(value % 2 == 0),
            6 => patch.auto_revert = Some(value % 2 == 0),
            _ => patch.health_check = Some(if value % 2 == 0 { HealthCheck::AgentStates } else { HealthCheck::Checks }),
        }
    }
    patch
}

fn name(prefix: &str, n: u8) -> Arc<str> {
    Arc::from(format!("{prefix}{n}"))
}

fn status(n: usize) -> CheckStatus {
    match n {
        4 => CheckStatus::Warning,
        5 => CheckStatus::Critical,
        _ => CheckStatus::Passing,
    }
}

/// The commands that something asked is, on this record.
fn commands(record: Option<&Record>, asked: &Asked) -> Vec<Command> {
    let newest = record.map_or(0, |r| r.last_version);
    let back = |n: &Option<u64>| n.map(|n| newest.saturating_sub(n));
    let one = |command| vec![command];
    match asked {
        Asked::Deploy { manifest, agents, bundle, policy, request, if_version, tag, job } => {
            one(Command::Deploy(Deploy {
                manifest: MANIFESTS[*manifest].as_bytes().to_vec(),
                bundle: bundle.then(|| Arc::from("s3://b/1")),
                job: job.map(|n| name("job-", n)),
                agents: agents.map(|n| {
                    let lists: [&[&str]; 4] = [&["a", "b"], &["a@1", "a@2", "b@1"], &["a@1", "b"], &["zz"]];
                    lists[n].iter().map(|agent| Arc::from(*agent)).collect()
                }),
                tag: tag.map(|n| name("tag-", n)),
                reason: None,
                request: request.map(|n| name("request-", n)),
                if_version: if_version.map(u64::from),
                policy: patch(policy, true),
            }))
        }
        Asked::Rollback { back: n, policy, request } => one(Command::Rollback(Rollback {
            to: back(n).map_or(RollbackTo::NewestStable, RollbackTo::Version),
            id: None,
            reason: None,
            request: request.map(|n| name("request-", n)),
            policy: patch(policy, false),
        })),
        Asked::Operate { what, wrong_id } => {
            let operate = Operate { id: wrong_id.then(|| Arc::from("dep_other_1")), reason: Some(Arc::from("so")) };
            one(match what {
                0..=5 => Command::Promote { options: operate, full: false },
                6..=8 => Command::Pause(operate),
                9..=12 => Command::Resume(operate),
                13 | 14 => Command::Fail(operate),
                _ => Command::Stop { options: operate, now: false },
            })
        }
        Asked::Tag { back, tag } => {
            one(Command::Tag { version: newest.saturating_sub(*back), tag: name("tag-", *tag) })
        }
        Asked::Untag { tag } => one(Command::Untag { tag: name("tag-", *tag) }),
        Asked::Report { agent, state, back: n, attempt, old_job } => one(Command::Report(Report {
            agent: Arc::from(AGENTS[*agent]),
            state: STATES[*state],
            version: back(n),
            job: old_job.then(|| Arc::from("dep_app_1")),
            attempt: *attempt,
            reason: None,
            sessions: None,
        })),
        Asked::ReportExactly { instance, state, attempt } => record.map_or(Vec::new(), |record| {
            let all: Vec<&Instance> = record.instances.iter().collect();
            let Some(i) = all.get(instance % all.len().max(1)) else { return Vec::new() };
            one(Command::Report(Report {
                agent: i.agent.clone(),
                state: STATES[*state],
                version: Some(i.version),
                job: Some(i.job_id.clone()),
                attempt: *attempt,
                reason: None,
                sessions: None,
            }))
        }),
        Asked::Work { tasks, well } => record.map_or(Vec::new(), |record| {
            record.instances.tasks().take(*tasks).map(|instance| Command::Report(work(instance, *well))).collect()
        }),
        Asked::Register { agent, id, status: n, ttl, back: b } => one(Command::Register(Register {
            agent: Arc::from(AGENTS[*agent]),
            service: Arc::from("s"),
            instance: name("i", *id),
            address: Arc::from("10.0.0.1"),
            port: 80,
            version: back(b),
            job: None,
            status: status(*n),
            ttl_ms: *ttl,
            tags: Vec::new(),
            meta: None,
            reason: None,
        })),
        Asked::Check { id, status: n } => {
            one(Command::Check(Check { instance: name("i", *id), status: status(*n), reason: None, sessions: None }))
        }
        Asked::Deregister { id } => one(Command::Deregister { instance: name("i", *id) }),
        Asked::Tick => one(Command::Tick),
    }
}

/// Reports of a coordinator that has completed a task.
fn work(instance: &Instance, well: bool) -> Report {
    let kind = instance.task.as_ref().map(|task| task.kind);
    let state = match kind {
        Some(TaskKind::Stop) => ReportedState::Stopped,
        Some(TaskKind::Run) if well => ReportedState::Completed,
        _ if well => ReportedState::Ready,
        _ => ReportedState::Failed,
    };
    Report {
        agent: instance.agent.clone(),
        state,
        version: Some(instance.version),
        job: Some(instance.job_id.clone()),
        attempt: None,
        reason: None,
        sessions: None,
    }
}

/// The time of a command.
fn at(now: u64, when: &When, record: Option<&Record>) -> u64 {
    match when {
        When::After(ms) => now.saturating_add_signed(*ms),
        When::Due(beside) => record.and_then(next_deadline).unwrap_or(now).saturating_add_signed(*beside),
    }
}

// ---- the rules, told again from the record --------------------------------------------------------------------------

fn deployment(record: &Record) -> Option<&Deployment> {
    record.deployment.as_deref()
}

/// The deployment's own instances, counted one by one.
fn own(record: &Record) -> Vec<&Instance> {
    let Some(d) = deployment(record) else { return Vec::new() };
    record.instances.iter().filter(|i| i.version == d.target_version && i.job_id == d.target_job_id).collect()
}

fn amount(amount: CountOrPercent, total: usize) -> usize {
    match amount {
        CountOrPercent::Count(n) => (n as usize).min(total),
        CountOrPercent::Percent(p) => ((total * p as usize) as f64 / 100.0).ceil().min(total as f64) as usize,
    }
}

/// Checks one event, given the record before it and after it. `onward`: the clock was never set back.
fn judge(before: &Record, event: &Event, after: &Record, onward: bool) {
    let words = test_support::scenario::event_line(event);
    let same = match (deployment(before), deployment(after)) {
        (Some(was), Some(is)) if was.id == is.id => Some((was, is)),
        _ => None,
    };
    if let Some((was, is)) = same {
        if !was.status.is_active() {
            assert_eq!((was.status, was.cause), (is.status, is.cause), "a terminal deployment never changes: {words}");
            assert_eq!(was.ended, is.ended, "nor does what is said of it: {words}");
        }
        if let (Deadline::Running { at: was }, Deadline::Running { at: is }) = (was.progress, is.progress) {
            assert!(is >= was, "the progress deadline never moves back: {words}");
        }
        if was.status == Status::Paused && is.status == Status::Paused {
            if let (Deadline::Paused { left_ms: was }, Deadline::Paused { left_ms: is }) = (was.progress, is.progress) {
                assert!(is >= was, "a held deadline keeps what it had left: {words}");
            }
        }
    }
    assert!(after.last_version >= before.last_version && after.last_version <= before.last_version + 1);
    match &event.body {
        EventBody::DeploymentStarted(b) | EventBody::DeploymentNoop(b) | EventBody::VersionRecorded(b) => {
            assert_eq!(b.version.number, before.last_version + 1, "version numbers have no gap: {words}");
            assert!(!before.is_active(), "at most one deployment is active: {words}");
            let left = after.instances.iter().any(|i| i.state == InstanceState::Waiting && i.task.is_none());
            let open = after.instances.iter().any(|i| i.task.as_ref().is_some_and(|t| t.kind == TaskKind::Replace));
            assert!(!left && !open, "what nobody has taken up counts for nothing: {words}");
            let kept = before.instances.iter().all(|i| after.version(i.version).is_some());
            assert!(kept, "what an agent runs is not trimmed: {words}");
        }
        EventBody::RollbackStarted { rollback_of, cause, .. } => {
            let source = before.version(*rollback_of).expect("it is in the history");
            assert!(source.stable || source.job_type.is_batch(), "back to what was stable: {words}");
            if cause.is_some() {
                let failed = deployment(before).expect("one");
                assert_eq!(failed.status, Status::Failed, "a revert follows a failure: {words}");
                assert!(failed.rollback_of.is_none(), "a rollback never reverts: {words}");
                assert!(failed.policy.auto_revert);
            }
        }
        EventBody::TaskIssued { instance, task: TaskKind::Start | TaskKind::Replace, .. } => {
            let d = deployment(before).expect("one");
            assert_eq!(d.status, Status::Running, "no release but in a running deployment: {words}");
            assert!(d.changed.contains(&instance.agent), "only changed agents go: {words}");
            let own = own(before);
            if d.mode == Mode::InPlace {
                let waiting = own.iter().filter(|i| i.health != Health::Healthy).count();
                if d.canaries > 0 && !d.promoted {
                    assert_eq!(instance.role, Role::Canary, "{words}");
                    assert!(
                        own.len() < d.canaries as usize,
                        "nothing beyond the canaries before the promotion: {words}"
                    );
                } else {
                    assert_eq!(instance.role, Role::Primary, "{words}");
                    assert!(
                        own.iter().all(|i| i.health != Health::Unhealthy),
                        "no release while one is unhealthy: {words}"
                    );
                    let parallel = amount(d.policy.max_parallel, d.changed.len()).max(1);
                    assert!(waiting < parallel, "at most {parallel} without a verdict: {words}");
                }
            }
        }
        EventBody::DeploymentPromoted { by, .. } => {
            let d = deployment(before).expect("one");
            let rule = d.policy.auto_promote || (d.mode == Mode::BlueGreen && d.canaries == 0);
            assert!(**by != *"auto" || rule, "a person has the word: {words}");
            let own = own(before);
            assert!(own.iter().all(|i| i.health == Health::Healthy), "no promotion while one is not healthy: {words}");
            assert!(!own.is_empty());
            let roles = self::own(after).iter().all(|i| i.role == Role::Primary);
            assert!(roles, "nothing but primary after the promotion: {words}");
        }
        EventBody::TaskIssued { instance, task: TaskKind::Stop, .. } => {
            let instance = before
                .instances
                .of_agent(&instance.agent)
                .iter()
                .find(|i| i.version == event.version && i.job_id == instance.job_id);
            let state = instance.map(|i| i.state);
            assert_ne!(state, Some(InstanceState::Stopped), "no task for work already done: {words}");
        }
        EventBody::DeploymentFailed { cause, .. } => {
            let d = deployment(before).expect("one");
            assert!(
                *cause == Cause::Operator || matches!(d.status, Status::Running | Status::AwaitingPromotion),
                "nothing fails by itself while paused: {words}"
            );
            if *cause == Cause::ProgressDeadline {
                assert!(d.progress.at().is_some_and(|at| at <= event.at), "not before its time: {words}");
            }
        }
        EventBody::DeploymentSuccessful { .. } => {
            let d = deployment(before).expect("one");
            assert!(d
                .changed
                .iter()
                .all(|agent| own(before).iter().any(|i| i.agent == *agent && i.health == Health::Healthy)));
            assert_eq!(after.stable_version(), Some(d.target_version));
            assert_eq!(after.current_version, Some(d.target_version));
        }
        EventBody::AgentHealthy { instance, progress } => {
            let instance = before
                .instances
                .of_agent(&instance.agent)
                .iter()
                .find(|i| i.version == event.version && i.job_id == instance.job_id);
            let instance = instance.expect("it is on the record");
            let min = before.version(event.version).expect("kept").policy.min_healthy_ms;
            assert_eq!(instance.state, InstanceState::Ready);
            let d = deployment(before).expect("one");
            let own = instance.version == d.target_version && instance.job_id == d.target_job_id;
            match progress {
                Deadline::Running { at } if own && !instance.was_healthy => {
                    assert!(*at >= event.at + d.policy.progress_deadline_ms, "a first health renews it: {words}");
                }
                same => assert!(*same == d.progress || (own && !instance.was_healthy), "nothing else does: {words}"),
            }
            assert!(!onward || event.at >= instance.since + min, "not healthy before its time: {words}");
        }
        _ => {}
    }
}

/// Checks the record after a command.
fn validate_rest(record: &Record) {
    let Some(d) = deployment(record) else { return };
    if d.status == Status::Running {
        assert!(next_deadline(record).is_some(), "what runs has a deadline, so it always ends");
    }
    if d.status == Status::Successful && d.mode == Mode::BlueGreen {
        for instance in record.instances.iter() {
            let own = instance.version == d.target_version && instance.job_id == d.target_job_id;
            assert!(own || instance.is_stopping(), "each old instance gets a stop task");
            assert!(if own {
                instance.role == Role::Primary || instance.is_stopping()
            } else {
                instance.role == Role::Retired
            });
        }
    }
    for agent in d.removed_agents.iter().filter(|_| d.status == Status::Successful) {
        assert!(record.instances.of_agent(agent).iter().all(Instance::is_stopping), "{agent} is gone");
    }
}

/// Model of what callers may see, kept from the events: registered services and the roles of their owners.
#[derive(Default)]
struct Callers {
    roles: BTreeMap<InstanceKey, (Role, TaskKind)>,
    services: BTreeMap<Arc<str>, Known>,
}

struct Known {
    owner: InstanceKey,
    status: CheckStatus,
    expires_at: Option<u64>,
}

impl Callers {
    fn hear(&mut self, change: &Change, after: &Record) {
        let event = match change {
            Change::Silent(SilentChange::ServiceRefreshed { instance, expires_at }) => {
                self.services.get_mut(instance).expect("it is registered").expires_at = *expires_at;
                return;
            }
            Change::Silent(_) => return,
            Change::Event(event) => event,
        };
        match &event.body {
            EventBody::TaskIssued { instance, task, .. } => {
                let (agent, job_id) = (instance.agent.clone(), instance.job_id.clone());
                self.roles.insert(InstanceKey { agent, version: event.version, job_id }, (instance.role, *task));
            }
            EventBody::DeploymentPromoted { .. } => {
                let d = deployment(after).expect("one");
                for (key, (role, task)) in &mut self.roles {
                    let own = key.version == d.target_version && key.job_id == d.target_job_id;
                    // A canary that an older attempt left runs this content as well, where nothing changes its agent.
                    let left = *task != TaskKind::Stop && !d.changed.contains(&key.agent);
                    match (d.mode, *role) {
                        (Mode::BlueGreen, _) if own => *role = Role::Primary,
                        // A canary that was never promoted keeps its role until its stop task, in the same step.
                        (Mode::BlueGreen, Role::Canary) => {}
                        (Mode::BlueGreen, _) => *role = Role::Retired,
                        (_, Role::Canary) if (own && *task != TaskKind::Stop) || left => *role = Role::Primary,
                        _ => {}
                    }
                }
            }
            EventBody::DeploymentSuccessful { .. } | EventBody::DeploymentNoop(_) => {
                let job_id = &deployment(after).expect("one").target_job_id;
                let canaries = self.roles.iter_mut().filter(|(key, (role, task))| {
                    key.job_id == *job_id && *role == Role::Canary && *task != TaskKind::Stop
                });
                canaries.for_each(|(_, (role, _))| *role = Role::Primary);
            }
            EventBody::ServiceRegistered { service, .. } => {
                let (owner, status, expires_at) = (service.owner.clone(), service.status, service.expires_at);
                self.services.insert(service.instance.clone(), Known { owner, status, expires_at });
            }
            EventBody::ServiceStatus { instance, status, expires_at, .. } => {
                let known = self.services.get_mut(instance).expect("it is registered");
                (known.status, known.expires_at) = (*status, *expires_at);
            }
            EventBody::ServiceDeregistered { instance, .. } => {
                self.services.remove(instance).expect("it is registered");
            }
            _ => {}
        }
    }

    /// RESOLVE says so, of every role, and whatever the status.
    fn judge(&self, record: &Record) {
        let roles = [Role::Primary, Role::Canary, Role::Candidate];
        let filters = roles.map(|role| (RoleFilter::Is(role), vec![role])).into_iter();
        for (role, admitted) in filters.chain([(RoleFilter::Any, roles.to_vec())]) {
            for all in [false, true] {
                let retired = all && role == RoleFilter::Any;
                let shown = |known: &Known| {
                    let (in_role, _) = self.roles.get(&known.owner).expect("a service's owner has had a task");
                    (admitted.contains(in_role) || retired) && (all || known.status == CheckStatus::Passing)
                };
                let expected: Vec<&str> =
                    self.services.iter().filter(|(_, known)| shown(known)).map(|(id, _)| &**id).collect();
                let reply = view::resolve(record, "app", &ResolveFilter { role, all, ..ResolveFilter::default() });
                let reply: serde_json::Value = serde_json::from_str(&view::to_json(&reply)).expect("JSON");
                let entries = reply.as_array().expect("a list");
                let seen: Vec<&str> = entries.iter().filter_map(|entry| entry["instance"].as_str()).collect();
                assert_eq!(seen, expected, "RESOLVE with {role:?}, all: {all}");
            }
        }
    }

    /// Checks that services past their TTL are not passing.
    fn validate_times(&self, now: u64) {
        let late = self.services.iter().find(|(_, known)| known.expires_at.is_some_and(|at| at < now));
        assert!(late.is_none(), "{:?} has run out", late.map(|(id, _)| id));
    }
}

/// A Tick is harmless: early, late and repeated.
fn validate_ticks(world: &World, now: u64) {
    let tick = |world: &World, now: u64| -> (World, Vec<&'static str>) {
        let mut world = world.clone();
        match world.execute(now, &Command::Tick) {
            Outcome::Done(decision) => {
                assert_eq!(decision.reply, DecisionReply::Nothing);
                let kinds = events(&decision).map(|event| event.body.name()).collect();
                (world, kinds)
            }
            Outcome::Rejected(rejection) => panic!("a tick was refused: {rejection}"),
        }
    };
    let record = world.record.as_ref().expect("a record");
    let (settled, _) = tick(world, now);
    let (again, nothing) = tick(&settled, now);
    assert!(nothing.is_empty(), "a repeated tick changes nothing: {nothing:?}");
    assert_eq!(again.record, settled.record);
    let Some(due) = next_deadline(record) else {
        assert!(tick(world, u64::MAX / 2).1.is_empty(), "where nothing is due, nothing comes");
        return;
    };
    if due > 0 {
        assert!(tick(world, due - 1).1.is_empty(), "an early tick changes nothing");
    }
    let (punctual, kinds) = tick(world, due);
    assert!(!kinds.is_empty(), "what is due comes");
    let next = next_deadline(punctual.record.as_ref().expect("a record")).unwrap_or(due + 100_000);
    assert!(next > due, "what was due is done");
    assert_eq!(kinds, tick(world, next - 1).1, "a late tick decides what a punctual one would have");
}

/// PLAN is the same decision as DEPLOY, without doing it.
fn validate_plan(world: &World, now: u64, asked: &Deploy, outcome: &Outcome) {
    let record = world.record.as_ref();
    let known = |r: &Record| r.requests.iter().any(|known| asked.request.as_ref() == Some(&known.request));
    if record.is_some_and(known) {
        return; // DEPLOY replies from memory, PLAN plans
    }
    let context = Context { key: &world.key, now_ms: now, by: &world.by, limits: world.limits };
    match (plan(record, asked, &context), outcome) {
        (Err(planned), Outcome::Rejected(refused)) => assert_eq!(planned, *refused),
        (Ok(plan), Outcome::Done(decision)) => {
            let DecisionReply::Receipt(receipt) = &decision.reply else { panic!("DEPLOY replies a receipt") };
            assert_eq!((plan.version, plan.mode), (receipt.version, receipt.mode));
            if plan.mode == Mode::Unchanged {
                return;
            }
            let released: Vec<&Arc<str>> = events(decision)
                .filter(|event| event.version == plan.version)
                .filter_map(|event| match &event.body {
                    EventBody::TaskIssued { instance, task, .. } if *task != TaskKind::Stop => Some(&instance.agent),
                    _ => None,
                })
                .collect();
            let first: Vec<&Arc<str>> = plan.batches.first().map_or(Vec::new(), |batch| batch.agents.iter().collect());
            assert_eq!(released, first, "the first batch goes at once");
            let d = decision.record.deployment.as_ref().expect("one");
            assert!(d.changed.iter().eq(plan.changed_agents.iter().map(|(agent, _)| agent)));
            let batched: usize = plan.batches.iter().map(|batch| batch.agents.len()).sum();
            assert_eq!(batched, if plan.mode == Mode::VersionOnly { 1 } else { d.changed.len() });
        }
        (Ok(_), Outcome::Rejected(refused)) => panic!("planned, but refused: {refused}"),
        (Err(refused), Outcome::Done(_)) => panic!("done, but not planned: {refused}"),
    }
}

/// Checks that a repeated command changes nothing and gets the same reply.
fn validate_repeat(world: &World, now: u64, command: &Command, reply: &DecisionReply) {
    let status = world.expect_record().deployment.as_ref().expect("one").status;
    let repeats = match command {
        Command::Pause(_) | Command::Stop { .. } => true,
        Command::Resume(_) => status.is_active(),
        Command::Promote { .. } => matches!(status, Status::Running | Status::Successful),
        Command::Deploy(Deploy { request, .. }) | Command::Rollback(Rollback { request, .. }) => request.is_some(),
        Command::Report(report) => report.version.is_some() && report.job.is_some(),
        Command::Register(_) | Command::Check(_) | Command::Tick => true,
        _ => false,
    };
    if !repeats {
        return;
    }
    let Outcome::Done(again) = world.clone().execute(now, command) else {
        panic!("refused when repeated: {command:?}")
    };
    let receipt = |reply: &DecisionReply| matches!(reply, DecisionReply::Receipt(_)).then(|| reply.clone());
    assert_eq!(receipt(&again.reply), receipt(reply), "answered the same: {command:?}");
    // A verdict that is due at this very time comes with the next command, whatever it is.
    let due = next_deadline(world.expect_record()).is_some_and(|at| at <= now);
    assert!(due || again.change_set.changes.is_empty(), "nothing changes: {command:?}\n{:#?}", again.change_set);
    if matches!(again.reply, DecisionReply::Changed(_)) {
        assert_eq!(again.reply, DecisionReply::Changed(false), "known already: {command:?}");
    }
}

/// A server with so little room that versions are trimmed and the log is short.
fn small() -> World {
    let mut world = World::default();
    world.limits.history_max = 3;
    world.limits.events_max = 12;
    world
}

/// Plays a history; every promise is checked at every step. Gives the world at its end, the time, and what was not
/// refused.
fn play(history: &[(When, Asked)], ticks: bool) -> (World, u64, Vec<(u64, Command)>) {
    let mut world = small();
    let mut now = 100_000;
    let mut second: Option<Record> = None; // fed with events only
    let mut callers = Callers::default();
    let mut accepted = Vec::new();
    let mut onward = true;
    for (when, asked) in history {
        let then = at(now, when, world.record.as_ref());
        onward &= then >= now;
        now = then;
        for command in commands(world.record.as_ref(), asked) {
            let before = world.record.clone();
            let unasked = world.clone();
            let outcome = world.execute(now, &command);
            if let Command::Deploy(deploy) = &command {
                validate_plan(&unasked, now, deploy, &outcome);
            }
            match outcome {
                Outcome::Rejected(_) => assert_eq!(world.record, before, "a refused command changes nothing"),
                Outcome::Done(decision) => {
                    accepted.push((now, command.clone()));
                    let change_set = &decision.change_set;
                    assert_eq!(
                        change_set.changes.is_empty(),
                        before == world.record,
                        "no change without an event or a note"
                    );
                    let follower = second.get_or_insert_with(Record::empty);
                    for change in &change_set.changes {
                        let was = follower.clone();
                        apply(follower, &ChangeSet { changes: vec![change.clone()], log_max: change_set.log_max });
                        if let Change::Event(event) = change {
                            judge(&was, event, follower, onward);
                        }
                        callers.hear(change, follower);
                        callers.judge(follower);
                    }
                    // A remembered REQUEST is answered from memory: there, nothing moves on.
                    if !change_set.changes.is_empty() {
                        callers.validate_times(now);
                    }
                    assert_eq!(Some(&*follower), world.record.as_ref(), "a follower that is fed events is equal");
                    validate_rest(follower);
                    validate_repeat(&world, now, &command, &decision.reply);
                    if ticks {
                        validate_ticks(&world, now);
                    }
                }
            }
        }
    }
    (world, now, accepted)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_keep_all_invariants(history in history()) {
        play(&history, true);
    }

    /// Without the refused commands the same record comes out, and the reasons why they were refused leave no trace.
    #[test]
    fn rejected_commands_have_no_effect(history in history()) {
        let (world, _, accepted) = play(&history, false);
        let mut without = small();
        for (now, command) in &accepted {
            let outcome = without.execute(*now, command);
            prop_assert!(matches!(outcome, Outcome::Done(_)));
        }
        prop_assert_eq!(world.record, without.record);
    }

    /// A coordinator that only reads TASKS, and an operator who answers what waits for one, bring every deployment to
    /// its end.
    #[test]
    fn every_deployment_reaches_a_terminal_status(history in history()) {
        let (mut world, mut now, _) = play(&history, false);
        for round in 0.. {
            let Some(record) = world.record.clone() else { return Ok(()) };
            let d = record.deployment.as_ref().expect("one");
            let tasks: Vec<&Instance> = record.instances.tasks().collect();
            if tasks.is_empty() && !d.status.is_active() {
                break;
            }
            prop_assert!(round < 200, "it does not end: {:#?}", world.expect_record().deployment);
            for instance in tasks {
                // An earlier report may have brought the record up to date, and this task with it.
                if world.expect_record().instances.get(&instance.key()).is_none_or(|i| i.task != instance.task) {
                    continue;
                }
                let command = Command::Report(work(instance, true));
                let Outcome::Done(decision) = world.execute(now, &command) else { panic!("a task's report was refused") };
                prop_assert!(!decision.change_set.changes.is_empty(), "a task that a report does not end: {:?}", command);
            }
            match world.expect_record().deployment.as_ref().expect("one").status {
                Status::Paused => { world.execute(now, &Command::Resume(Operate::default())); }
                Status::AwaitingPromotion => { world.execute(now, &Command::Promote { options: Operate::default(), full: false }); }
                _ => {}
            }
            now = next_deadline(world.expect_record()).unwrap_or(now).max(now);
            world.execute(now, &Command::Tick);
        }
        invariants::check(world.expect_record()).expect("the record is sound");
    }
}

// ---- the log --------------------------------------------------------------------------------------------------------

fn logged(revision: u64) -> Arc<Event> {
    let instance = InstanceRef {
        agent: Arc::from(format!("agent-{}", revision % 7)),
        node: Arc::from("node"),
        job_id: Arc::from("dep_app_1"),
        role: Role::Primary,
    };
    let body = match revision % 3 {
        0 => EventBody::AwaitingPromotion { healthy: revision as u32 },
        1 => EventBody::TaskDone {
            instance,
            task: TaskKind::Start,
            withdrawn: revision.is_multiple_of(2),
            removes_instance: false,
        },
        _ => EventBody::AgentHealthy { instance, progress: Deadline::Running { at: revision } },
    };
    Arc::new(Event { revision, at: revision * 10, deployment_id: Arc::from("dep_app_1"), version: 1, body })
}

proptest! {
    /// A log of bytes answers as one that keeps its events as they are.
    #[test]
    fn encoded_log_equals_the_plain_log(steps in prop::collection::vec((1u64..20, 0usize..80), 1..20), asked in 0u64..200) {
        let (mut packed, mut plain) = (codec::empty_record(), Record::empty());
        let mut revision = 0;
        for (more, max) in steps {
            for record in [&mut packed, &mut plain] {
                let changes = (1..=more).map(|n| Change::Event(logged(revision + n))).collect();
                apply(record, &ChangeSet { changes, log_max: max });
            }
            revision += more;
            prop_assert_eq!(&packed.log, &plain.log);
            prop_assert_eq!(packed.log.len(), plain.log.len());
            prop_assert_eq!(packed.log.first_revision(), plain.log.first_revision());
            for after in [0, asked, revision.saturating_sub(1), revision] {
                let expected: Vec<_> = plain.log.iter().filter(|event| event.revision > after).collect();
                prop_assert_eq!(packed.log.after(after).collect::<Vec<_>>(), expected);
            }
            let newest: Vec<_> = plain.log.iter().skip(plain.log.len().saturating_sub(asked as usize)).collect();
            prop_assert_eq!(packed.log.newest(asked as usize).collect::<Vec<_>>(), newest);
            packed = codec::decode_record(&codec::encode_record(&packed)).unwrap_or(packed);
        }
    }
}
