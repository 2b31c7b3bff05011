//! PLAN agrees with DEPLOY, and real manifests are read correctly.
//!
//! The real ones are those of the folder that `REDIS_DEPLOY_MANIFESTS` names, or of `../shared/manifests` beside the
//! package; where there is none, a line says so.

use redis_deploy::engine::command::{Deploy, Operate, Register, Report, ReportedState};
use redis_deploy::engine::deployment::{Mode, Status};
use redis_deploy::engine::event::EventBody;
use redis_deploy::engine::instance::{InstanceKey, Role, TaskKind};
use redis_deploy::engine::manifest::BATCH_AGENT;
use redis_deploy::engine::policy::{PolicyPatch, Strategy};
use redis_deploy::engine::services::CheckStatus;
use redis_deploy::engine::{
    decide, invariants, next_deadline, plan, Change, Command, Context, DecisionReply, Limits, Plan, Record, Rejection,
};
use serde_json::{json, Value};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use test_support::manifests::Content;
use test_support::rng::Rng;

const KEY: &str = "app";

/// A key with the best of coordinators: it does every task at once, and all goes well.
struct Bench {
    record: Option<Record>,
    now: u64,
    /// Agents that were started, replaced or run: version, agent, role, time.
    went: Vec<(u64, Arc<str>, Role, u64)>,
}

impl Bench {
    fn new() -> Bench {
        Bench { record: None, now: 1_790_000_000_000, went: Vec::new() }
    }

    fn context(&self) -> Context<'static> {
        Context { key: KEY, now_ms: self.now, by: "ops", limits: Limits::default() }
    }

    fn ask(&mut self, command: Command) -> Result<DecisionReply, Rejection> {
        let decision = decide(self.record.as_ref(), &command, &self.context())?;
        for change in &decision.change_set.changes {
            let Change::Event(event) = change else { continue };
            if let EventBody::TaskIssued {
                instance, task: TaskKind::Start | TaskKind::Replace | TaskKind::Run, ..
            } = &event.body
            {
                self.went.push((event.version, instance.agent.clone(), instance.role, event.at));
            }
        }
        invariants::check(&decision.record).expect("the invariants hold");
        self.record = Some(decision.record);
        Ok(decision.reply)
    }

    fn plan(&self, deploy: &Deploy) -> Result<Plan, Rejection> {
        plan(self.record.as_ref(), deploy, &self.context())
    }

    fn record(&self) -> &Record {
        self.record.as_ref().expect("something was deployed")
    }

    fn status(&self) -> Status {
        self.record().deployment.as_ref().expect("something was deployed").status
    }

    fn report(&mut self, key: &InstanceKey, state: ReportedState) {
        let report = Report {
            agent: key.agent.clone(),
            state,
            version: Some(key.version),
            job: Some(key.job_id.clone()),
            attempt: None,
            reason: None,
            sessions: None,
        };
        self.ask(Command::Report(report)).expect("an honest report is taken");
    }

    fn get_ready(&mut self, key: &InstanceKey) {
        self.report(key, ReportedState::Starting);
        self.report(key, ReportedState::Ready);
        let Some(instance) = self.record().instances.get(key) else { return };
        let version = self.record().version(key.version).expect("what runs is kept");
        for name in version.content.services_of(&instance.node).to_vec() {
            let register = Register {
                agent: key.agent.clone(),
                instance: Arc::from(format!("{}-{}-{}-{name}", key.agent, key.version, key.job_id)),
                service: name,
                address: Arc::from("10.0.0.1"),
                port: 80,
                version: Some(key.version),
                job: Some(key.job_id.clone()),
                status: CheckStatus::Passing,
                ttl_ms: None,
                tags: Vec::new(),
                meta: None,
                reason: None,
            };
            self.ask(Command::Register(register)).expect("an honest registration is taken");
        }
    }

    fn tasks(&self) -> Vec<(TaskKind, InstanceKey)> {
        self.record().instances.tasks().filter_map(|i| Some((i.task.as_ref()?.kind, i.key()))).collect()
    }

    /// Does all tasks, promotes, and lets the time come, until the deployment has ended.
    fn play(&mut self) {
        for _ in 0..1_000 {
            for (task, key) in self.tasks() {
                match task {
                    TaskKind::Start | TaskKind::Replace => self.get_ready(&key),
                    TaskKind::Stop => self.report(&key, ReportedState::Stopped),
                    TaskKind::Run => self.report(&key, ReportedState::Completed),
                    TaskKind::Drain => self.report(&key, ReportedState::Drained),
                }
            }
            if !self.tasks().is_empty() {
                continue;
            }
            // Drains that were taken up before have no task.
            let draining: Vec<InstanceKey> =
                self.record().instances.iter().filter(|i| i.role == Role::Draining).map(|i| i.key()).collect();
            for key in draining {
                self.report(&key, ReportedState::Drained);
            }
            if !self.tasks().is_empty() {
                continue;
            }
            if self.status() == Status::AwaitingPromotion {
                self.ask(Command::Promote { options: Operate::default(), full: false })
                    .expect("all canaries are healthy");
            } else if let (Some(due), true) = (next_deadline(self.record()), self.status() == Status::Running) {
                self.now = self.now.max(due);
                self.ask(Command::Tick).expect("a tick is never refused");
            } else {
                return;
            }
        }
        panic!("an ideal rollout does not end");
    }
}

// ---- PLAN -----------------------------------------------------------------------------------------------------------

/// A key in some situation: a few deployments, each played to its end or left half-way, and something amiss.
fn situation(rng: &mut Rng, content: &mut Content) -> Bench {
    let mut bench = Bench::new();
    for _ in 0..rng.below(4) {
        let asked = bench.ask(Command::Deploy(content.deploy()));
        if asked.is_err() {
            break;
        }
        match rng.below(4) {
            0 => {
                let tasks = bench.tasks();
                for (task, key) in tasks.iter().filter(|_| rng.chance(60)) {
                    match task {
                        TaskKind::Start | TaskKind::Replace => bench.get_ready(key),
                        TaskKind::Stop => bench.report(key, ReportedState::Stopped),
                        TaskKind::Run => bench.report(key, ReportedState::Starting),
                        TaskKind::Drain => bench.report(key, ReportedState::Draining),
                    }
                }
                bench.now += rng.between(0, 60);
            }
            _ => bench.play(),
        }
        let keys: Vec<InstanceKey> = bench.record().instances.iter().map(|i| i.key()).collect();
        let troubles = if rng.chance(50) { rng.below(3) } else { 0 };
        for _ in 0..troubles {
            let state = *rng.pick(&[
                ReportedState::Unready,
                ReportedState::Failed,
                ReportedState::Stopped,
                ReportedState::Starting,
            ]);
            if !keys.is_empty() {
                let key = rng.pick(&keys).clone();
                bench.report(&key, state);
            }
        }
        let command = match rng.below(9) {
            0 => Command::Pause(Operate::default()),
            1 => Command::Fail(Operate::default()),
            2 => Command::Stop { options: Operate::default(), now: false },
            _ => Command::Tick,
        };
        let _ = bench.ask(command);
        bench.now += rng.between(0, 200);
        content.change(rng);
    }
    bench
}

/// Compares PLAN with what DEPLOY then does: mode, changed agents, and the earliest time of each.
#[test]
fn plan_matches_the_deployment() {
    let mut seen = BTreeSet::new();
    for seed in 1..=4_000 {
        let mut rng = Rng::new(seed, 1);
        let mut content = Content::first(&mut rng);
        let mut bench = situation(&mut rng, &mut content);
        let deploy = content.deploy();
        let before = bench.record.clone();
        let planned = bench.plan(&deploy);
        assert_eq!(bench.record, before, "seed {seed}: PLAN changes nothing");
        bench.went.clear();
        let from = bench.now;
        let done = bench.ask(Command::Deploy(deploy));
        let (planned, receipt) = match (planned, done) {
            (Ok(planned), Ok(DecisionReply::Receipt(receipt))) => (planned, receipt),
            (Err(planned), Err(done)) => {
                assert_eq!(planned, done, "seed {seed}: PLAN refuses what DEPLOY refuses");
                continue;
            }
            (planned, done) => panic!("seed {seed}: planned {planned:?}, and then {done:?}"),
        };
        seen.insert(planned.mode.name());
        assert_eq!(planned.mode, receipt.mode, "seed {seed}: the mode");
        assert_eq!(planned.version, receipt.version, "seed {seed}: the version");
        let began = bench.record().deployment.clone().expect("something was deployed");
        if planned.mode == Mode::Unchanged {
            assert!(planned.batches.is_empty() && planned.changed_agents.is_empty(), "seed {seed}: nothing is planned");
            assert_eq!(
                bench.record().last_version,
                before.map_or(0, |r| r.last_version),
                "seed {seed}: nothing is recorded"
            );
            continue;
        }
        assert_eq!(planned.strategy, began.strategy, "seed {seed}: the strategy");
        assert_eq!(planned.reason, began.mode_reason, "seed {seed}: the reason");
        if planned.mode != Mode::VersionOnly {
            let changed: Vec<&Arc<str>> = planned.changed_agents.iter().map(|(agent, _)| agent).collect();
            assert_eq!(changed, began.changed.iter().collect::<Vec<_>>(), "seed {seed}: the changed agents");
        }
        bench.play();
        let of_it = bench.went.iter().filter(|(version, ..)| *version == planned.version);
        let mut went: Vec<(Arc<str>, Role, u64)> =
            of_it.map(|(_, agent, role, at)| (agent.clone(), *role, at - from)).collect();
        let mut expected: Vec<(Arc<str>, Role, u64)> = planned
            .batches
            .iter()
            .flat_map(|batch| batch.agents.iter().map(|agent| (agent.clone(), batch.role, batch.earliest_ms)))
            .collect();
        if began.policy.drain_ms > 0 {
            // An agent that has to drain goes after others of its batch, at the same time.
            for agents in [&mut went, &mut expected] {
                agents.sort_by(|(a, _, at), (b, _, bt)| (at, a).cmp(&(bt, b)));
            }
        }
        assert_eq!(went, expected, "seed {seed}: who goes when");
        assert!(
            matches!(bench.status(), Status::Successful | Status::VersionRecorded),
            "seed {seed}: an ideal rollout is {:?}",
            bench.status()
        );
    }
    let all = ["blue_green", "in_place", "initial", "noop", "unchanged", "version_only"];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all, "every mode was planned");
}

// ---- real manifests -------------------------------------------------------------------------------------------------

fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("REDIS_DEPLOY_MANIFESTS").map(PathBuf::from);
    named.or_else(|| {
        let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/manifests");
        beside.is_dir().then_some(beside)
    })
}

/// Name and content of each real manifest; None where there is no folder of them.
fn real() -> Option<Vec<(String, Value)>> {
    let Some(folder) = folder() else {
        println!("SKIPPED: no folder of real manifests (name one in REDIS_DEPLOY_MANIFESTS)");
        return None;
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no manifest", folder.display());
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a manifest can be read");
        let name = path.file_name().map(|name| name.to_string_lossy().to_string()).unwrap_or_default();
        let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, value)
    };
    Some(files.into_iter().map(read).collect())
}

fn deploy(manifest: &Value) -> Deploy {
    Deploy { manifest: manifest.to_string().into_bytes(), ..Deploy::default() }
}

/// Returns the manifest as that of a service, rolled out agent by agent.
fn as_service(manifest: &Value) -> (Value, Deploy) {
    let mut service = manifest.clone();
    service["type"] = json!("service");
    if let Some(scheduler) = service.pointer_mut("/policies/scheduler").and_then(Value::as_object_mut) {
        scheduler.remove("job_type");
    }
    let policy = PolicyPatch { strategy: Some(Strategy::Rolling), ..PolicyPatch::default() };
    let deploy = Deploy { policy, ..deploy(&service) };
    (service, deploy)
}

/// One node of a manifest, wherever it is listed, with its id.
fn one_node(manifest: &mut Value) -> Option<(Arc<str>, &mut Value)> {
    for place in ["/registry", "/agents/registry"] {
        if manifest.pointer(place).and_then(Value::as_object).is_some_and(|registry| !registry.is_empty()) {
            let (id, node) = manifest.pointer_mut(place)?.as_object_mut()?.iter_mut().next_back()?;
            return node.is_object().then(|| (Arc::from(id.as_str()), node));
        }
    }
    let node = first_of(manifest, &["nodes", "extra_nodes"])?.last_mut()?;
    Some((Arc::from(node["node_id"].as_str()?), node))
}

/// The first place where a manifest lists something: at the top, or under `agents`.
fn first_of<'a>(manifest: &'a mut Value, fields: &[&str]) -> Option<&'a mut Vec<Value>> {
    let place = ["", "/agents"]
        .iter()
        .flat_map(|prefix| fields.iter().map(move |field| format!("{prefix}/{field}")))
        .find(|place| manifest.pointer(place).and_then(Value::as_array).is_some_and(|list| !list.is_empty()))?;
    manifest.pointer_mut(&place).and_then(Value::as_array_mut)
}

#[test]
fn real_manifests_deploy_successfully() {
    let Some(manifests) = real() else { return };
    for (name, manifest) in &manifests {
        let mut bench = Bench::new();
        let Ok(DecisionReply::Receipt(receipt)) = bench.ask(Command::Deploy(deploy(manifest))) else {
            panic!("{name}: {:?}", bench.plan(&deploy(manifest)))
        };
        let version = bench.record().version(1).expect("version 1 is recorded");
        let expected = if version.job_type.is_batch() { Mode::VersionOnly } else { Mode::Initial };
        assert_eq!(receipt.mode, expected, "{name}");
        if expected == Mode::Initial {
            let Ok(DecisionReply::Receipt(again)) = bench.ask(Command::Deploy(deploy(manifest))) else {
                panic!("{name}")
            };
            assert_eq!(again.mode, Mode::Unchanged, "{name}: the same again");
        } else {
            assert_eq!(bench.tasks()[0].1.agent.as_ref(), BATCH_AGENT, "{name}: one run task");
        }
        bench.play();
        if expected == Mode::Initial {
            assert_eq!(bench.status(), Status::Successful, "{name}");
            assert_eq!(
                bench.plan(&deploy(manifest)).map(|p| p.mode),
                Ok(Mode::Unchanged),
                "{name}: the same once more"
            );
        }
    }
    println!("{} real manifests deploy", manifests.len());
}

#[test]
fn changed_real_manifests_are_planned_by_their_change() {
    let Some(manifests) = real() else { return };
    for (name, manifest) in &manifests {
        let (service, first) = as_service(manifest);
        let mut bench = Bench::new();
        bench.ask(Command::Deploy(first.clone())).unwrap_or_else(|r| panic!("{name}: {r}"));
        let again = |manifest: &Value| Deploy { manifest: manifest.to_string().into_bytes(), ..first.clone() };
        assert_eq!(bench.plan(&again(&service)).map(|p| p.mode), Ok(Mode::Unchanged), "{name}: while it runs");
        bench.play();
        assert_eq!(bench.status(), Status::Successful, "{name}");
        let agents_with_nodes: Vec<Arc<str>> =
            bench.record().agents_with_nodes(1).into_iter().map(|(agent, _)| agent).collect();
        let plan = |deploy: &Deploy| bench.plan(deploy).unwrap_or_else(|r| panic!("{name}: {r}"));
        let agents = |plan: &Plan| plan.changed_agents.iter().map(|(agent, _)| agent.clone()).collect::<Vec<_>>();

        assert_eq!(plan(&again(&service)).mode, Mode::Unchanged, "{name}: the same again");

        let mut note = service.clone();
        note["description"] = json!("another description, and nothing else");
        assert_eq!(plan(&again(&note)).mode, Mode::Noop, "{name}: a description at the top");

        let bundle = Deploy { bundle: Some(Arc::from("s3://bundles/other")), ..again(&service) };
        let planned = plan(&bundle);
        assert_eq!(
            (planned.mode, agents(&planned)),
            (Mode::InPlace, agents_with_nodes.clone()),
            "{name}: another bundle"
        );

        let mut config = service.clone();
        let (id, node) = one_node(&mut config).unwrap_or_else(|| panic!("{name} has a node"));
        node["model"] = json!("another model");
        let planned = plan(&again(&config));
        assert_eq!((planned.mode, agents(&planned)), (Mode::InPlace, vec![id]), "{name}: one node's config");

        let mut cosmetic = service.clone();
        let (_, node) = one_node(&mut cosmetic).expect("it has one");
        node["display_name"] = json!("A Better Name");
        assert_eq!(plan(&again(&cosmetic)).mode, Mode::Noop, "{name}: a display name");

        let mut more = service.clone();
        more["extra_nodes"] = json!([{"node_id": "one-more-node"}]);
        let planned = plan(&again(&more));
        assert_eq!(
            (planned.mode, agents(&planned).len()),
            (Mode::BlueGreen, agents_with_nodes.len() + 1),
            "{name}: one node more"
        );

        let mut edge = service.clone();
        match first_of(&mut edge, &["edges", "extra_edges"]) {
            Some(edges) => edges[0]["message_type"] = json!("another-message"),
            None => edge["edges"] = json!([{"from_node": agents_with_nodes[0], "to_node": agents_with_nodes[0]}]),
        }
        let planned = plan(&again(&edge));
        assert_eq!(
            (planned.mode, agents(&planned)),
            (Mode::BlueGreen, agents_with_nodes.clone()),
            "{name}: another edge"
        );
    }
    println!("{} real manifests plan what a change of them implies", manifests.len());
}
