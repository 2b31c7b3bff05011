//! The processes behind a key, the coordinators that start and stop them, and the messages that they send.
//! Coordinators are slow and crash; messages are lost, duplicated, delayed and reordered, and were true when they
//! were sent.

use redis_deploy::engine::command::{Check, Register, Report, ReportedState};
use redis_deploy::engine::instance::{InstanceKey, InstanceState, TaskKind};
use redis_deploy::engine::manifest::BATCH_AGENT;
use redis_deploy::engine::services::{CheckStatus, Service};
use redis_deploy::engine::{Command, Record};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use test_support::rng::Rng;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temper {
    Good,
    /// Ready and unready, back and forth.
    Flaps,
    /// Never gets ready.
    Stuck,
    /// Fails for good one day.
    Doomed,
}

/// A process that really runs.
#[derive(Debug, Clone)]
pub struct Process {
    pub version: u64,
    pub attempt: u32,
    pub state: InstanceState,
    pub temper: Temper,
}

/// A task as a coordinator read it, perhaps a while ago.
#[derive(Debug, Clone)]
pub struct Errand {
    pub kind: TaskKind,
    pub key: InstanceKey,
}

#[derive(Debug, Default)]
pub struct RealWorld {
    /// By agent and job: where an agent of a job runs, it runs once.
    pub processes: BTreeMap<(Arc<str>, Arc<str>), Process>,
    pub letters: Vec<Command>,
    /// Many processes are of a bad temper.
    pub gloomy: bool,
    errands: [VecDeque<Errand>; 2],
    /// Number of starts of each instance, by any coordinator.
    attempts: BTreeMap<InstanceKey, u32>,
}

pub fn errands(record: &Record) -> Vec<Errand> {
    let errand = |i: &redis_deploy::engine::instance::Instance| {
        i.task.as_ref().map(|task| Errand { kind: task.kind, key: i.key() })
    };
    record.instances.tasks().filter_map(errand).collect()
}

fn report(key: &InstanceKey, state: ReportedState, attempt: Option<u32>) -> Command {
    Command::Report(Report {
        agent: key.agent.clone(),
        state,
        version: Some(key.version),
        job: Some(key.job_id.clone()),
        attempt,
        reason: None,
        sessions: None,
    })
}

/// The state that a process reports.
pub fn word_of(key: &InstanceKey, process: &Process) -> Command {
    let state = match process.state {
        InstanceState::Ready => ReportedState::Ready,
        InstanceState::Unready => ReportedState::Unready,
        _ => ReportedState::Starting,
    };
    report(key, state, Some(process.attempt))
}

/// Gives a report or a registration a reason, or none.
fn because(rng: &mut Rng, mut command: Command) -> Command {
    if let Command::Report(Report { reason: given, .. }) | Command::Register(Register { reason: given, .. }) =
        &mut command
    {
        *given = reason(rng);
    }
    command
}

/// A reason, or none.
pub fn reason(rng: &mut Rng) -> Option<Arc<str>> {
    rng.chance(20).then(|| Arc::from(*rng.pick(&["who knows", "disk full", "exit 1"])))
}

pub fn service_id(key: &InstanceKey, name: &str) -> Arc<str> {
    Arc::from(format!("{}-{}-{}-{name}", key.agent, key.version, key.job_id))
}

pub fn register(key: &InstanceKey, name: &str, id: &Arc<str>, ttl_ms: Option<u64>, status: CheckStatus) -> Command {
    Command::Register(Register {
        agent: key.agent.clone(),
        service: Arc::from(name),
        instance: id.clone(),
        address: Arc::from("10.0.0.1"),
        port: 80,
        version: Some(key.version),
        job: Some(key.job_id.clone()),
        status,
        ttl_ms,
        tags: Vec::new(),
        meta: None,
        reason: None,
    })
}

impl RealWorld {
    pub fn key(place: &(Arc<str>, Arc<str>), process: &Process) -> InstanceKey {
        InstanceKey { agent: place.0.clone(), version: process.version, job_id: place.1.clone() }
    }

    /// One turn of one of the two coordinators.
    pub fn coordinator_turn(&mut self, rng: &mut Rng, record: &Record) -> Result<(), String> {
        let which = rng.below(2);
        let mut beside = Ok(());
        let kind = rng.weighted(&[20, 40, 40, 3]);
        if kind == 0 || kind == 2 {
            self.errands[which] = errands(record).into();
        }
        match kind {
            0 => {}
            1 | 2 => {
                for _ in 0..rng.between(1, 6) {
                    let Some(errand) = self.errands[which].pop_front() else { break };
                    beside = beside.and(self.run(rng, &errand, record));
                }
            }
            _ => {
                // A crash: what it meant to do and what it had not yet sent is lost.
                self.errands[which].clear();
                if rng.chance(50) {
                    self.letters.clear();
                }
            }
        }
        beside
    }

    /// Carries a task out. A runtime runs an agent once in a job: what ran before is ended first, and what is newer
    /// than the task stays.
    pub fn run(&mut self, rng: &mut Rng, errand: &Errand, record: &Record) -> Result<(), String> {
        let mut beside = Ok(());
        let place = (errand.key.agent.clone(), errand.key.job_id.clone());
        if errand.kind == TaskKind::Stop {
            let mut attempt = None;
            if let Some(process) = self.processes.get(&place).filter(|p| p.version == errand.key.version) {
                attempt = Some(process.attempt);
                self.processes.remove(&place);
            }
            self.letters.push(report(&errand.key, ReportedState::Stopped, attempt));
            return Ok(());
        }
        if let Some(running) = self.processes.get(&place) {
            let old = RealWorld::key(&place, running);
            if running.version >= errand.key.version {
                if running.version == errand.key.version {
                    self.letters.push(word_of(&old, running));
                }
                return Ok(());
            }
            let open =
                record.instances.get(&errand.key).filter(|i| i.task.as_ref().is_some_and(|t| t.kind == errand.kind));
            let runs_since = record
                .instances
                .get(&old)
                .filter(|i| i.is_running() && i.state != InstanceState::Waiting)
                .map(|i| i.since);
            if let (TaskKind::Start, Some(open), Some(since)) = (errand.kind, open, runs_since) {
                if since < open.task_at {
                    beside =
                        Err(format!("{} is started in {} where version {} of it runs", place.0, place.1, old.version));
                }
            }
            if errand.kind == TaskKind::Replace && rng.chance(4) {
                self.letters.push(report(&errand.key, ReportedState::Unsafe, None));
                return Ok(());
            }
            let attempt = running.attempt;
            self.processes.remove(&place);
            if rng.chance(30) {
                self.letters.push(report(&old, ReportedState::Stopped, Some(attempt)));
            }
        }
        let temper = match rng.weighted(if self.gloomy { &[74, 12, 7, 7] } else { &[95, 3, 1, 1] }) {
            0 => Temper::Good,
            1 => Temper::Flaps,
            2 => Temper::Stuck,
            _ => Temper::Doomed,
        };
        let attempt = self.attempts.get(&errand.key).copied().unwrap_or(0) + 1;
        self.attempts.insert(errand.key.clone(), attempt);
        let process = Process { version: errand.key.version, attempt, state: InstanceState::Starting, temper };
        self.letters.push(word_of(&errand.key, &process));
        self.processes.insert(place, process);
        beside
    }

    /// One of the processes does something: gets ready, flaps, restarts, fails, ends; or its services do.
    pub fn process_turn(&mut self, rng: &mut Rng, record: &Record) {
        let places: Vec<_> = self.processes.keys().cloned().collect();
        if places.is_empty() {
            return;
        }
        let place = rng.pick(&places).clone();
        let Some(process) = self.processes.get_mut(&place) else { return };
        let key = RealWorld::key(&place, process);
        if &*key.agent == BATCH_AGENT {
            if rng.chance(40) {
                self.processes.remove(&place);
                let outcome = if rng.chance(75) { ReportedState::Completed } else { ReportedState::Failed };
                self.letters.push(because(rng, report(&key, outcome, None)));
            }
            return;
        }
        let [up, down, restart, end] = match process.temper {
            Temper::Good => [95, 1, 2, 0],
            Temper::Flaps => [60, 30, 15, 1],
            Temper::Stuck => [0, 0, 20, 2],
            Temper::Doomed => [30, 10, 20, 30],
        };
        if rng.chance(end) {
            let attempt = process.attempt;
            self.processes.remove(&place);
            let state = if rng.chance(70) { ReportedState::Failed } else { ReportedState::Stopped };
            self.letters.push(because(rng, report(&key, state, Some(attempt))));
            if rng.chance(30) {
                // Another observer has seen it as well, and may know why.
                self.letters.push(because(rng, report(&key, state, Some(attempt))));
            }
        } else if rng.chance(restart) {
            process.attempt += 1;
            self.attempts.insert(key.clone(), process.attempt);
            process.state = InstanceState::Starting;
            let word = word_of(&key, process);
            self.letters.push(word);
        } else if process.state == InstanceState::Ready {
            if rng.chance(down) {
                process.state = InstanceState::Unready;
                let word = word_of(&key, process);
                self.letters.push(because(rng, word));
            } else {
                self.service_turn(rng, &key, record);
            }
        } else if rng.chance(up) {
            process.state = InstanceState::Ready;
            let word = word_of(&key, process);
            self.letters.push(word);
            self.service_turn(rng, &key, record);
        }
    }

    fn service_turn(&mut self, rng: &mut Rng, key: &InstanceKey, record: &Record) {
        let Some(i) = record.instances.get(key) else { return };
        let Some(version) = record.version(key.version) else { return };
        let mut names: Vec<Arc<str>> = version.content.services_of(&i.node).to_vec();
        if rng.chance(10) {
            names.push(Arc::from("extra"));
        }
        for name in names {
            // Some agents use the same id in every job: while two run, one has to wait for the other.
            let id = if rng.chance(10) { Arc::from(format!("{}-{name}", key.agent)) } else { service_id(key, &name) };
            let bad = if rng.chance(50) { CheckStatus::Critical } else { CheckStatus::Warning };
            let status = if rng.chance(8) { bad } else { CheckStatus::Passing };
            let ttl = *rng.pick(&[None, None, Some(40), Some(200)]);
            self.letters.push(match record.services.get(&id) {
                Some(_) if rng.chance(4) => Command::Deregister { instance: id },
                Some(_) if rng.chance(80) => {
                    Command::Check(Check { instance: id, status, reason: reason(rng), sessions: None })
                }
                _ => because(rng, register(key, &name, &id, ttl, status)),
            });
        }
    }

    /// The next letter to arrive; some are lost, some come again, few wait their turn.
    pub fn post(&mut self, rng: &mut Rng) -> Option<Command> {
        if self.letters.is_empty() {
            return None;
        }
        let at = if rng.chance(75) { 0 } else { rng.below(self.letters.len()) };
        match rng.weighted(&[86, 8, 6]) {
            0 => Some(self.letters.remove(at)),
            1 => Some(self.letters[at].clone()),
            _ => {
                self.letters.remove(at);
                None
            }
        }
    }

    /// A coordinator compares what runs with STATUS: it ends what the record does not know, and says what has ended.
    pub fn reconcile(&mut self, record: &Record) {
        self.processes.retain(|place, process| record.instances.get(&RealWorld::key(place, process)).is_some());
        for i in record
            .instances
            .iter()
            .filter(|i| !matches!(i.state, InstanceState::Waiting | InstanceState::Failed | InstanceState::Stopped))
        {
            let runs = self.processes.get(&(i.agent.clone(), i.job_id.clone())).is_some_and(|p| p.version == i.version);
            if !runs {
                self.letters.push(report(&i.key(), ReportedState::Stopped, Some(i.attempt)));
            }
        }
    }

    /// Takes the record for the truth: what it says runs does run.
    pub fn believe(&mut self, record: &Record) {
        self.processes.clear();
        for i in record
            .instances
            .iter()
            .filter(|i| !matches!(i.state, InstanceState::Waiting | InstanceState::Failed | InstanceState::Stopped))
        {
            let process = Process { version: i.version, attempt: i.attempt, state: i.state, temper: Temper::Good };
            self.processes.insert((i.agent.clone(), i.job_id.clone()), process);
        }
    }

    /// All coordinators start afresh: nothing in the post, nothing in mind.
    pub fn forget(&mut self) {
        self.letters.clear();
        self.errands = Default::default();
    }

    /// The weather calms: whoever can get ready does, batch jobs complete, services pass. What each would say.
    pub fn calm_turn(&mut self, record: &Record) -> Vec<Command> {
        let mut words = Vec::new();
        let mut ended = BTreeSet::new();
        for (place, process) in &mut self.processes {
            let key = RealWorld::key(place, process);
            if &*key.agent == BATCH_AGENT {
                words.push(report(&key, ReportedState::Completed, None));
                ended.insert(place.clone());
                continue;
            }
            if process.temper == Temper::Doomed && process.state != InstanceState::Ready {
                words.push(report(&key, ReportedState::Failed, Some(process.attempt)));
                ended.insert(place.clone());
                continue;
            }
            if process.temper != Temper::Stuck {
                process.state = InstanceState::Ready;
            }
            let (Some(i), Some(version)) = (record.instances.get(&key), record.version(key.version)) else {
                // Its report was answered 0, and the record does not have it: it is not wanted.
                words.push(word_of(&key, process));
                ended.insert(place.clone());
                continue;
            };
            if i.state != process.state || i.attempt != process.attempt {
                words.push(word_of(&key, process));
            }
            if i.state == InstanceState::Waiting || process.state != InstanceState::Ready {
                continue;
            }
            let well = |s: &&Arc<Service>| s.status == CheckStatus::Passing && s.ttl_ms.is_none();
            for service in record.services.of_owner(&key).filter(|s| !well(s)) {
                words.push(register(&key, &service.service, &service.instance, None, CheckStatus::Passing));
            }
            for name in version.content.services_of(&i.node) {
                if !record.services.of_owner(&key).any(|s| s.service == *name) {
                    words.push(register(&key, name, &service_id(&key, name), None, CheckStatus::Passing));
                }
            }
        }
        self.processes.retain(|place, _| !ended.contains(place));
        words
    }

    /// Returns a difference between the processes and the record, once all has settled.
    pub fn differs_from(&self, record: &Record) -> Option<String> {
        for (place, process) in &self.processes {
            let key = RealWorld::key(place, process);
            match record.instances.get(&key) {
                None => {
                    return Some(format!(
                        "version {} of {} runs in {}, off the record",
                        key.version, key.agent, key.job_id
                    ))
                }
                Some(i) if i.state != process.state => {
                    return Some(format!(
                        "{} of version {} is {} and said to be {}",
                        key.agent,
                        key.version,
                        process.state.name(),
                        i.state.name()
                    ))
                }
                Some(_) => {}
            }
        }
        let running = |i: &&redis_deploy::engine::instance::Instance| {
            matches!(i.state, InstanceState::Starting | InstanceState::Ready | InstanceState::Unready)
        };
        let said = record.instances.iter().filter(running).count();
        (said != self.processes.len())
            .then(|| format!("{said} instances are said to run, and {} do", self.processes.len()))
    }
}
