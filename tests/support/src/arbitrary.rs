//! Generators of valid records and batches from a list of numbers, the tape, which proptest draws and shrinks. Past
//! the end of the tape all numbers are 0: the first choice, the shortest list.
//!
//! `engine` is at the root of the crate, and of `tests/codec_memory.rs`, which compiles this file too.

use crate::engine::command::{
    Check, Command, Context, Deploy, Limits, Operate, Register, Report, ReportedState, Rollback, RollbackTo,
};
use crate::engine::decide::{decide, Decision};
use crate::engine::deployment::{Cause, IdempotencyEntry, Mode, Receipt, Status};
use crate::engine::event::{
    AgentReport, Change, ChangeSet, Event, EventBody, InstanceRef, NewDeployment, SilentChange,
};
use crate::engine::instance::{Instance, InstanceKey, InstanceState, Role, TaskKind};
use crate::engine::manifest::{JobType, ManifestText};
use crate::engine::policy::{CountOrPercent, HealthCheck, Policy, PolicyPatch, Strategy as Rollout, POLICY_FIELDS};
use crate::engine::record::Record;
use crate::engine::services::{CheckStatus, Service};
use crate::engine::time::Deadline;
use crate::engine::version::Version;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

pub fn records() -> impl Strategy<Value = Record> {
    tapes().prop_map(|tape| Tape::new(&tape).record())
}

/// Decisions of the engine about one key, one command after the other; never empty.
pub fn histories() -> impl Strategy<Value = Vec<Decision>> {
    tapes().prop_map(|tape| Tape::new(&tape).history())
}

pub fn change_sets() -> impl Strategy<Value = ChangeSet> {
    tapes().prop_map(|tape| Tape::new(&tape).batch())
}

fn tapes() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(any::<u32>(), 0..800)
}

pub const EVENT_KINDS: u32 = crate::engine::event::EVENT_NAMES.len() as u32;

const NOW_MS: u64 = 1_790_000_000_000;

struct Tape<'a> {
    rest: &'a [u32],
}

impl Tape<'_> {
    fn new(tape: &[u32]) -> Tape<'_> {
        Tape { rest: tape }
    }

    fn next(&mut self) -> u32 {
        match self.rest.split_first() {
            Some((next, rest)) => {
                self.rest = rest;
                *next
            }
            None => 0,
        }
    }

    fn below(&mut self, end: u32) -> u32 {
        self.next() % end
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u32) as usize]
    }

    fn maybe<T>(&mut self, some: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| some(self))
    }

    fn several<T>(&mut self, most: u32, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| one(self)).collect()
    }

    /// Returns a small, an ordinary or the largest duration that a policy allows.
    fn duration(&mut self) -> u64 {
        match self.below(4) {
            0 => u64::from(self.below(300)),
            1 => u64::from(self.next()),
            2 => (1 << 53) - 1,
            _ => 10_000,
        }
    }

    fn time(&mut self) -> u64 {
        NOW_MS + u64::from(self.next())
    }

    fn number(&mut self) -> u64 {
        match self.below(3) {
            0 => 1 + u64::from(self.below(250)),
            1 => u64::from(self.next()),
            _ => (1 << 53) - 1,
        }
    }

    fn text(&mut self) -> Arc<str> {
        match self.below(5) {
            0 => Arc::from(""),
            1 => Arc::from(format!("text {}", self.below(5))),
            2 => Arc::from("größer ☂ \u{1F600}\0\n"),
            3 => Arc::from("x".repeat(self.below(300) as usize)),
            _ => Arc::from("ops"),
        }
    }

    fn id(&mut self, what: &str) -> Arc<str> {
        Arc::from(format!("{what}-{}", self.below(6)))
    }

    fn ids(&mut self, what: &str) -> Arc<[Arc<str>]> {
        self.several(5, |tape| tape.id(what)).into()
    }

    fn clock(&mut self) -> Deadline {
        match self.below(3) {
            0 => Deadline::Off,
            1 => Deadline::Running { at: self.time() },
            _ => Deadline::Paused { left_ms: self.duration() },
        }
    }

    fn amount(&mut self) -> CountOrPercent {
        match self.flag() {
            false => CountOrPercent::Count(self.below(20)),
            true => CountOrPercent::Percent(self.next()),
        }
    }

    fn rollout(&mut self) -> Rollout {
        self.pick(&[Rollout::Rolling, Rollout::Canary, Rollout::BlueGreen])
    }

    fn policy(&mut self) -> Policy {
        let mut patch = PolicyPatch::default();
        for field in POLICY_FIELDS {
            let value = match (field.syntax.split_once(':'), field.syntax) {
                (Some((_, words)), _) => self.pick(&words.split('|').collect::<Vec<_>>()).to_string(),
                (None, "ms") => self.duration().to_string(),
                (None, "count-or-percentage") => match self.amount() {
                    CountOrPercent::Count(count) => count.to_string(),
                    CountOrPercent::Percent(percent) => format!("{percent}%"),
                },
                (None, "cohort") => self.text().to_string(),
                (None, "steps-json") => self.steps(),
                (None, "gates-json") => self.gates(),
                (None, syntax) => panic!("{}: no values of the syntax {syntax}", field.name),
            };
            // A value that is out of the field's range leaves the default.
            let _ = patch.set_option(field.name, &value);
        }
        let mut policy = Policy::default().merged_with(&patch);
        if !policy.steps.is_empty() {
            policy.canary = CountOrPercent::Count(0);
        }
        if !policy.conflicts().is_empty() {
            policy.healthy_deadline_ms = policy.min_healthy_ms.min((1 << 53) - 2) + 1;
            policy.min_healthy_ms = policy.healthy_deadline_ms - 1;
            policy.progress_deadline_ms = 0;
        }
        policy
    }

    fn steps(&mut self) -> String {
        let percents: BTreeSet<u32> = (0..self.below(4)).map(|_| 1 + self.below(99)).collect();
        let gates = ["", r#","gates":[]"#];
        let steps: Vec<String> = percents
            .into_iter()
            .map(|percent| format!(r#"{{"percent":{percent},"soak_ms":{}{}}}"#, self.below(100_000), self.pick(&gates)))
            .collect();
        format!("[{}]", steps.join(","))
    }

    fn gates(&mut self) -> String {
        let gates: Vec<String> = (0..self.below(4))
            .map(|i| {
                let gate = self.pick(&[
                    r#""metric":"failed","max":"2.5%""#,
                    r#""metric":"tokens","min":100,"min_count":7"#,
                    r#""metric":"tokens","max_ratio":"150.001%","timeout_ms":5"#,
                    r#""metric":"failed","min_ratio":"0.01%","on_timeout":"pass""#,
                    r#""verdict":true"#,
                    r#""approvals":2,"others":true"#,
                ]);
                format!(r#""gate {i}":{{{gate}}}"#)
            })
            .collect();
        format!("{{{}}}", gates.join(","))
    }

    fn manifest(&mut self, nodes: &[Arc<str>], job_type: JobType) -> Arc<ManifestText> {
        let model = self.below(3);
        let nodes: Vec<String> = nodes
            .iter()
            .map(|id| format!(r#"{{"node_id":"{id}","model":"m{model}","services":[{{"name":"http"}}]}}"#))
            .collect();
        let text = format!(r#"{{"type":"{}","nodes":[{}],"edges":[]}}"#, job_type.name(), nodes.join(","));
        Arc::new(ManifestText::new(Arc::from(text)))
    }

    fn version(&mut self, number: u64, content: Arc<ManifestText>, job_type: JobType) -> Version {
        Version {
            number,
            deployment_id: Arc::from(format!("dep_agent-api_{number}")),
            job_id: self.id("job"),
            job_type,
            strategy: self.rollout(),
            policy: self.policy(),
            content,
            agents: None,
            bundle: self.maybe(Tape::text),
            tag: None,
            stable: false,
            rollback_of: self.maybe(|_| 1),
            outcome: None,
            submitted_at: self.time(),
            by: self.text(),
            reason: self.maybe(Tape::text),
            cause: self.maybe(Tape::cause),
            description: self.maybe(Tape::text),
            promoted_at: self.maybe(Tape::time),
            promoted_by: self.maybe(Tape::text),
            finished_at: self.maybe(Tape::time),
        }
    }

    fn cause(&mut self) -> Cause {
        self.pick(&[
            Cause::UnhealthyAgent,
            Cause::ProgressDeadline,
            Cause::AgentFailed,
            Cause::Operator,
            Cause::NewerVersion,
            Cause::Stopped,
        ])
    }

    fn history(&mut self) -> Vec<Decision> {
        let mut history: Vec<Decision> = Vec::new();
        let mut now_ms = NOW_MS;
        for _ in 0..=self.below(40) {
            now_ms += self.pick(&[0, 1, 1_000, 5_000, 10_000, 10_000, 10_000, 300_000]);
            let record = history.last().map(|decision| &decision.record);
            let command = match record {
                None => Command::Deploy(self.deploy()),
                Some(record) => self.command(record),
            };
            let limits = Limits { history_max: 4, events_max: 20, ..Limits::default() };
            let context = Context { key: "agent-api", now_ms, by: "ops", limits };
            // A rejected command changes nothing.
            history.extend(decide(record, &command, &context));
        }
        history
    }

    /// Returns a record that the engine made, with arbitrary events and remembered requests in place of some.
    fn record(&mut self) -> Record {
        let mut record = self.history().pop().expect("the first DEPLOY is not refused").record;
        let omitted = Arc::new(ManifestText::omitted());
        let mut log: Vec<_> = record.log.iter().collect();
        for event in &mut log {
            if self.flag() {
                let kind = self.below(EVENT_KINDS);
                *event = Arc::new(self.event(event.revision, kind, &omitted));
            }
        }
        record.log = log.into_iter().collect();
        for i in 0..self.below(4) {
            Arc::make_mut(&mut record.requests)
                .push_back(IdempotencyEntry { request: Arc::from(format!("r{i}")), receipt: self.receipt() });
        }
        record
    }

    fn deploy(&mut self) -> Deploy {
        let nodes: Vec<Arc<str>> = (0..=self.below(3)).map(|i| Arc::from(format!("node-{i}"))).collect();
        let agents = self.maybe(|_| nodes.iter().map(|node| Arc::from(format!("{node}@host"))).collect());
        let job_type = self.pick(&[JobType::Service, JobType::Service, JobType::System, JobType::Batch]);
        Deploy {
            manifest: self.manifest(&nodes, job_type).text().as_bytes().to_vec(),
            bundle: self.maybe(Tape::text),
            job: self.maybe(|tape| tape.id("job")),
            agents,
            tag: self.maybe(|tape| tape.id("tag")),
            reason: self.maybe(Tape::text),
            request: self.maybe(|tape| tape.id("request")),
            if_version: None,
            policy: PolicyPatch {
                strategy: self.maybe(Tape::rollout),
                max_parallel: self.maybe(Tape::amount),
                canary: self.maybe(Tape::amount),
                min_healthy_ms: self.maybe(|tape| u64::from(tape.below(10_000))),
                progress_deadline_ms: self.maybe(|tape| tape.pick(&[0, 300_000, (1 << 53) - 1])),
                health_check: Some(self.pick(&[
                    HealthCheck::AgentStates,
                    HealthCheck::AgentStates,
                    HealthCheck::Checks,
                ])),
                auto_promote: self.maybe(Tape::flag),
                auto_revert: self.maybe(Tape::flag),
                ..PolicyPatch::default()
            },
        }
    }

    fn command(&mut self, record: &Record) -> Command {
        let keys: Vec<InstanceKey> = record.instances.iter().map(Instance::key).collect();
        let owner = match keys.len() {
            0 => InstanceKey { agent: Arc::from("nobody"), version: 1, job_id: Arc::from("none") },
            many => keys[self.below(many as u32) as usize].clone(),
        };
        let operate = |tape: &mut Self| Operate { id: None, reason: tape.maybe(Tape::text) };
        match self.below(30) {
            0 => Command::Deploy(self.deploy()),
            1 => Command::Rollback(Rollback {
                to: RollbackTo::NewestStable,
                id: None,
                reason: self.maybe(Tape::text),
                request: self.maybe(|tape| tape.id("request")),
                policy: PolicyPatch::default(),
            }),
            2 => Command::Promote { options: operate(self), full: self.flag() },
            3 => Command::Pause(operate(self)),
            4 => Command::Resume(operate(self)),
            5 => Command::Fail(operate(self)),
            6 => Command::Stop { options: operate(self), now: self.flag() },
            7 => Command::Tag { version: record.last_version, tag: self.id("tag") },
            8 => Command::Untag { tag: self.id("tag") },
            9..=11 => Command::Register(Register {
                agent: owner.agent,
                service: Arc::from("http"),
                instance: self.id("service"),
                address: self.text(),
                port: self.next() as u16,
                version: Some(owner.version),
                job: Some(owner.job_id),
                status: self.check_status(),
                ttl_ms: self.maybe(|tape| 1 + tape.duration()),
                tags: self.several(3, Tape::text),
                meta: self.maybe(|_| Arc::from(r#"{"zone":"a"}"#)),
                reason: self.maybe(Tape::text),
            }),
            12 => Command::Check(Check {
                instance: self.id("service"),
                status: self.check_status(),
                reason: self.maybe(Tape::text),
                sessions: self.maybe(|tape| tape.below(3)),
            }),
            13..=14 => Command::Tick,
            _ => Command::Report(Report {
                agent: owner.agent,
                state: match self.below(4) {
                    0 => self.pick(&ReportedState::ALL),
                    _ => ReportedState::Ready,
                },
                version: Some(owner.version),
                job: Some(owner.job_id),
                attempt: None,
                reason: self.maybe(Tape::text),
                sessions: self.maybe(|tape| tape.below(3)),
            }),
        }
    }

    fn service(&mut self, instance: Arc<str>, owner: InstanceKey) -> Service {
        let ttl_ms = self.maybe(Tape::duration);
        Service {
            instance,
            owner,
            service: self.pick(&["http", "grpc"]).into(),
            address: self.text(),
            port: self.next() as u16,
            tags: self.several(3, Tape::text),
            meta: self.maybe(|_| Arc::from(r#"{"zone":"a"}"#)),
            status: self.check_status(),
            reason: self.maybe(Tape::text),
            ttl_ms,
            expires_at: ttl_ms.and_then(|_| self.maybe(Tape::time)),
            since: self.time(),
            attempt: self.next(),
        }
    }

    fn check_status(&mut self) -> CheckStatus {
        self.pick(&[CheckStatus::Passing, CheckStatus::Warning, CheckStatus::Critical])
    }

    fn receipt(&mut self) -> Receipt {
        Receipt {
            deployment_key: Arc::from("agent-api"),
            deployment_id: self.text(),
            version: self.number(),
            job_id: self.id("job"),
            status: self.pick(&Status::ALL),
            mode: self.pick(&[
                Mode::Initial,
                Mode::InPlace,
                Mode::BlueGreen,
                Mode::Noop,
                Mode::VersionOnly,
                Mode::Unchanged,
            ]),
            revision: self.number(),
            warnings: self.maybe(|tape| tape.several(3, Tape::text)),
        }
    }

    fn instance_ref(&mut self) -> InstanceRef {
        InstanceRef {
            agent: self.id("agent"),
            node: self.id("node"),
            job_id: self.id("job"),
            role: self.pick(&[Role::Primary, Role::Canary, Role::Candidate, Role::Retired]),
        }
    }

    fn new_deployment(&mut self, content: &Arc<ManifestText>) -> Box<NewDeployment> {
        let number = 1 + u64::from(self.below(9));
        let changed = self.ids("agent");
        Box::new(NewDeployment {
            version: self.version(number, content.clone(), JobType::Service),
            mode: self.pick(&[Mode::Initial, Mode::InPlace, Mode::BlueGreen, Mode::Noop, Mode::VersionOnly]),
            strategy: self.rollout(),
            requested_strategy: self.rollout(),
            mode_reason: self.text(),
            cause: self.maybe(Tape::cause),
            source_version: self.maybe(Tape::number),
            source_job_id: self.maybe(|tape| tape.id("job")),
            requested_job: self.maybe(|tape| tape.id("job")),
            canaries: self.below(changed.len() as u32 + 1),
            changed,
            adopted: Vec::new(),
            removed_agents: self.ids("agent"),
            progress: self.clock(),
            trimmed: self.several(4, Tape::number),
        })
    }

    fn event(&mut self, revision: u64, kind: u32, content: &Arc<ManifestText>) -> Event {
        Event {
            revision,
            at: self.time(),
            deployment_id: Arc::from(format!("dep_agent-api_{}", self.below(9))),
            version: self.number(),
            body: self.body(kind, content),
        }
    }

    fn body(&mut self, kind: u32, content: &Arc<ManifestText>) -> EventBody {
        match kind {
            0 => EventBody::DeploymentStarted(self.new_deployment(content)),
            1 => EventBody::DeploymentNoop(self.new_deployment(content)),
            2 => EventBody::VersionRecorded(self.new_deployment(content)),
            3 => EventBody::RollbackStarted {
                from_version: self.number(),
                rollback_of: self.number(),
                cause: self.maybe(Tape::cause),
                by: self.text(),
                reason: self.maybe(Tape::text),
            },
            4 => EventBody::TaskIssued {
                instance: self.instance_ref(),
                task: self.pick(&[TaskKind::Start, TaskKind::Replace, TaskKind::Stop, TaskKind::Run]),
                from_version: self.maybe(Tape::number),
                attempt: self.next(),
                bundle: self.maybe(Tape::text),
                deadline: self.clock(),
                by: self.text(),
                reason: self.maybe(Tape::text),
                drain: None,
            },
            5 => EventBody::TaskDone {
                instance: self.instance_ref(),
                task: self.pick(&[TaskKind::Start, TaskKind::Replace, TaskKind::Stop, TaskKind::Run]),
                withdrawn: self.flag(),
                removes_instance: self.flag(),
            },
            6 => EventBody::AgentState {
                instance: self.instance_ref(),
                state: match self.below(3) {
                    0 => AgentReport::State(self.pick(&InstanceState::ALL)),
                    1 => AgentReport::Completed,
                    _ => AgentReport::Unsafe,
                },
                attempt: self.next(),
                reason: self.maybe(Tape::text),
                healthy_at: self.maybe(Tape::time),
                removes_instance: self.flag(),
                fails_at_resume: self.flag(),
            },
            7 => EventBody::AgentHealthy { instance: self.instance_ref(), progress: self.clock() },
            8 => EventBody::AgentUnhealthy {
                instance: self.instance_ref(),
                reason: self.text(),
                resumes_with: self.maybe(Tape::clock),
                fails_at_resume: self.flag(),
            },
            9 => EventBody::AwaitingPromotion { healthy: self.next() },
            10 => EventBody::DeploymentPromoted {
                progress: self.clock(),
                by: self.text(),
                reason: self.maybe(Tape::text),
                full: self.flag(),
            },
            11 => EventBody::DeploymentPaused { by: self.text(), reason: self.maybe(Tape::text) },
            12 => EventBody::DeploymentResumed {
                status: self.pick(&Status::ALL),
                progress: self.clock(),
                by: self.text(),
                reason: self.maybe(Tape::text),
            },
            13 => EventBody::DeploymentFailed {
                cause: self.cause(),
                description: self.text(),
                by: self.text(),
                reason: self.maybe(Tape::text),
            },
            14 => EventBody::DeploymentCancelled {
                cause: self.cause(),
                description: self.text(),
                by: self.text(),
                reason: self.maybe(Tape::text),
            },
            15 => EventBody::DeploymentSuccessful {
                description: self.text(),
                by: self.text(),
                reason: self.maybe(Tape::text),
            },
            16 => EventBody::FallbackBlueGreen {
                agent: self.id("agent"),
                reason: self.text(),
                job_id: self.id("job"),
                changed: self.ids("agent"),
                canaries: self.below(3),
            },
            17 => EventBody::VersionTagged { tag: self.text(), replaced: self.maybe(Tape::text), by: self.text() },
            18 => EventBody::VersionUntagged { tag: self.text(), by: self.text() },
            19 => {
                let instance = self.id("service");
                let owner = InstanceKey { agent: self.id("agent"), version: self.number(), job_id: self.id("job") };
                EventBody::ServiceRegistered {
                    service: Box::new(self.service(instance, owner)),
                    healthy_at: self.maybe(Tape::time),
                }
            }
            20 => EventBody::ServiceStatus {
                instance: self.id("service"),
                service: self.text(),
                agent: self.id("agent"),
                status: self.check_status(),
                reason: self.maybe(Tape::text),
                expires_at: self.maybe(Tape::time),
                healthy_at: self.maybe(Tape::time),
            },
            _ => EventBody::ServiceDeregistered {
                instance: self.id("service"),
                service: self.text(),
                agent: self.id("agent"),
                reason: self.text(),
                healthy_at: self.maybe(Tape::time),
            },
        }
    }

    fn batch(&mut self) -> ChangeSet {
        let nodes = [Arc::from("node-0"), Arc::from("node-1")];
        let content = self.manifest(&nodes, JobType::Service);
        let mut revision = u64::from(self.next());
        let log_max = self.below(1000) as usize;
        let changes = self.several(12, |tape| match tape.below(EVENT_KINDS + 2) {
            0 => Change::Silent(SilentChange::ServiceRefreshed {
                instance: tape.id("service"),
                expires_at: tape.maybe(Tape::time),
            }),
            1 => Change::Silent(SilentChange::RequestRecorded { request: tape.text(), receipt: tape.receipt() }),
            kind => {
                revision += 1;
                Change::Event(Arc::new(tape.event(revision, kind - 2, &content)))
            }
        });
        ChangeSet { changes, log_max }
    }
}
