//! The processes behind a key, the coordinators that start and stop them, and the messages that they send.
//! Coordinators are slow and crash; messages are lost, duplicated, delayed and reordered, and were true when they
//! were sent.

use super::operators;
use redis_deploy::engine::command::{Check, Register, Report, ReportedState};
use redis_deploy::engine::instance::{Instance, InstanceKey, InstanceState, Role, TaskKind};
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

/// Conduct of a process about its sessions while it drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It says `drained` when the last one has ended.
    Says,
    /// It says how many there are, and no more.
    Counts,
    /// It exits when the last one has ended.
    Exits,
    /// It knows nothing of drains, and its coordinator neither.
    Silent,
}

/// A process that really runs.
#[derive(Debug, Clone)]
pub struct Process {
    pub attempt: u32,
    pub state: InstanceState,
    pub temper: Temper,
    pub manner: Manner,
    /// The times at which its sessions end.
    pub sessions: Vec<u64>,
    /// Its coordinator told it to drain.
    pub drains: bool,
}

/// A task as a coordinator read it, perhaps a while ago.
#[derive(Debug, Clone)]
pub struct Errand {
    pub kind: TaskKind,
    pub key: InstanceKey,
    pub attempt: u32,
}

#[derive(Debug, Default)]
pub struct RealWorld {
    /// An agent runs once in a job, beside what drains there to be stopped.
    pub processes: BTreeMap<InstanceKey, Process>,
    pub letters: Vec<Command>,
    /// Many processes are of a bad temper.
    pub gloomy: bool,
    errands: [VecDeque<Errand>; 2],
    /// Number of starts of each instance, by any coordinator.
    attempts: BTreeMap<InstanceKey, u32>,
}

pub fn errands(record: &Record) -> Vec<Errand> {
    let errand =
        |i: &Instance| i.task.as_ref().map(|task| Errand { kind: task.kind, key: i.key(), attempt: i.attempt.max(1) });
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

/// The state and the number of sessions that a process reports.
fn word_with_sessions(key: &InstanceKey, process: &Process) -> Command {
    with_sessions(word_of(key, process), process.sessions.len() as u32)
}

fn with_sessions(mut word: Command, held: u32) -> Command {
    match &mut word {
        Command::Report(Report { sessions, .. }) | Command::Check(Check { sessions, .. }) => *sessions = Some(held),
        _ => {}
    }
    word
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

    /// Carries a task out. A runtime runs an agent once in a job: what ran before is ended first, unless it drains to
    /// be stopped, and what is newer than the task stays.
    pub fn run(&mut self, rng: &mut Rng, errand: &Errand, record: &Record) -> Result<(), String> {
        match errand.kind {
            TaskKind::Stop => self.stop(&errand.key),
            TaskKind::Drain => self.drain(rng, &errand.key),
            TaskKind::Start | TaskKind::Replace | TaskKind::Run => return self.start(rng, errand, record),
        }
        Ok(())
    }

    fn stop(&mut self, key: &InstanceKey) {
        let attempt = self.processes.remove(key).map(|process| process.attempt);
        self.letters.push(report(key, ReportedState::Stopped, attempt));
    }

    /// Takes a drain up: not every coordinator knows how.
    fn drain(&mut self, rng: &mut Rng, key: &InstanceKey) {
        let Some(process) = self.processes.get_mut(key) else { return self.stop(key) };
        if process.manner == Manner::Silent {
            return;
        }
        if rng.chance(4) {
            self.letters.push(report(key, ReportedState::Unsafe, None));
            return;
        }
        process.drains = true;
        let held = process.sessions.len() as u32;
        let word = report(key, ReportedState::Draining, Some(process.attempt));
        self.letters.push(match rng.below(3) {
            0 => with_sessions(word, held),
            1 if process.manner == Manner::Counts => word_with_sessions(key, process),
            _ => word,
        });
    }

    fn start(&mut self, rng: &mut Rng, errand: &Errand, record: &Record) -> Result<(), String> {
        let mut beside = Ok(());
        let key = &errand.key;
        let stored = record.instances.get(key);
        // It has drained, and is started anew: with the attempt of the task.
        let restarts = stored.is_some_and(|i| i.is_to_restart() && i.attempt == errand.attempt);
        let same_place = |other: &InstanceKey| other.agent == key.agent && other.job_id == key.job_id;
        if let Some(running) = self.processes.get(key) {
            if !restarts || (running.attempt == errand.attempt && !running.drains) {
                self.letters.push(word_of(key, running));
                return Ok(());
            }
            self.processes.remove(key);
        }
        if self.processes.keys().any(|other| same_place(other) && other.version > key.version) {
            return Ok(());
        }
        let drains_away = |other: &InstanceKey| record.instances.get(other).is_some_and(Instance::is_leaving);
        let before: Vec<InstanceKey> =
            self.processes.keys().filter(|other| same_place(other) && !drains_away(other)).cloned().collect();
        for old in before {
            let open = stored.filter(|i| i.task.as_ref().is_some_and(|t| t.kind == errand.kind));
            let runs_since = record
                .instances
                .get(&old)
                .filter(|i| i.is_running() && i.state != InstanceState::Waiting)
                .map(|i| i.since);
            if let (TaskKind::Start, Some(open), Some(since)) = (errand.kind, open, runs_since) {
                if since < open.task_at {
                    let words =
                        format!("{} is started in {} where version {} of it runs", key.agent, key.job_id, old.version);
                    beside = Err(words);
                }
            }
            if errand.kind == TaskKind::Replace && rng.chance(4) {
                self.letters.push(report(key, ReportedState::Unsafe, None));
                return Ok(());
            }
            let attempt = self.processes.remove(&old).map(|process| process.attempt);
            if rng.chance(30) {
                self.letters.push(report(&old, ReportedState::Stopped, attempt));
            }
        }
        let temper = match rng.weighted(if self.gloomy { &[74, 12, 7, 7] } else { &[95, 3, 1, 1] }) {
            0 => Temper::Good,
            1 => Temper::Flaps,
            2 => Temper::Stuck,
            _ => Temper::Doomed,
        };
        let manner =
            *rng.pick(&[Manner::Says, Manner::Says, Manner::Counts, Manner::Counts, Manner::Exits, Manner::Silent]);
        let next = self.attempts.get(key).copied().unwrap_or(0) + 1;
        let attempt = if restarts { errand.attempt } else { next };
        if restarts {
            self.say_no_more_of(key);
        }
        self.attempts.insert(key.clone(), attempt);
        let process =
            Process { attempt, state: InstanceState::Starting, temper, manner, sessions: Vec::new(), drains: false };
        self.letters.push(word_of(key, &process));
        self.processes.insert(key.clone(), process);
        beside
    }

    /// Forgets what ran before: whoever starts an instance anew has nothing more to say of it.
    fn say_no_more_of(&mut self, key: &InstanceKey) {
        let is_about = |letter: &Command| {
            matches!(letter, Command::Report(report)
                if report.agent == key.agent && report.version == Some(key.version) && report.job.as_ref() == Some(&key.job_id))
        };
        self.letters.retain(|letter| !is_about(letter));
    }

    /// Callers begin sessions on what RESOLVE returns; each ends by itself.
    pub fn callers_turn(&mut self, rng: &mut Rng, record: &Record, now: u64) {
        let takes_sessions = |key: &&InstanceKey| {
            record.instances.get(key).is_some_and(|i| i.role == Role::Primary && i.state == InstanceState::Ready)
        };
        let open: Vec<InstanceKey> = self.processes.keys().filter(takes_sessions).cloned().collect();
        if open.is_empty() {
            return;
        }
        for _ in 0..rng.between(1, 4) {
            let ends = now + *rng.pick(&[5, 60, 60, 300, 300, 2_000, 60_000]);
            if let Some(process) = self.processes.get_mut(rng.pick(&open)) {
                process.sessions.push(ends);
            }
        }
    }

    /// One of the processes does something: gets ready, flaps, restarts, fails, ends, finishes its sessions; or its
    /// services do.
    pub fn process_turn(&mut self, rng: &mut Rng, record: &Record, now: u64) {
        let keys: Vec<InstanceKey> = self.processes.keys().cloned().collect();
        if keys.is_empty() {
            return;
        }
        // What may take over, or is watched before it is called stable, has its crises while it matters.
        let is_delicate = operators::is_delicate(record);
        let matters = |key: &&InstanceKey| match record.instances.get(key) {
            Some(i) => i.role == Role::Standby || (is_delicate && record.is_own(i)),
            None => false,
        };
        let watched: Vec<&InstanceKey> = keys.iter().filter(matters).collect();
        let in_crisis = !watched.is_empty() && rng.chance(60);
        let key = if in_crisis { (*rng.pick(&watched)).clone() } else { rng.pick(&keys).clone() };
        let Some(process) = self.processes.get_mut(&key) else { return };
        if &*key.agent == BATCH_AGENT {
            if rng.chance(40) {
                self.processes.remove(&key);
                let outcome = if rng.chance(75) { ReportedState::Completed } else { ReportedState::Failed };
                self.letters.push(because(rng, report(&key, outcome, None)));
            }
            return;
        }
        process.sessions.retain(|ends| *ends > now);
        process.drains &= record.instances.get(&key).is_some_and(Instance::has_open_drain);
        if process.drains && rng.chance(50) {
            return self.drain_turn(rng, &key);
        }
        if process.manner != Manner::Silent && rng.chance(if process.sessions.is_empty() { 4 } else { 20 }) {
            let word = word_with_sessions(&key, process);
            self.letters.push(word);
        }
        let [up, down, restart, end] = match process.temper {
            Temper::Good => [95, 1, 2, 0],
            Temper::Flaps => [60, 30, 15, 1],
            Temper::Stuck => [0, 0, 20, 2],
            Temper::Doomed => [30, 10, 20, 30],
        };
        let [down, end] = if in_crisis { [down + 25, end + 6] } else { [down, end] };
        if rng.chance(end) {
            let attempt = process.attempt;
            self.processes.remove(&key);
            let state = if rng.chance(70) { ReportedState::Failed } else { ReportedState::Stopped };
            self.letters.push(because(rng, report(&key, state, Some(attempt))));
            if rng.chance(30) {
                // Another observer has seen it as well, and may know why.
                self.letters.push(because(rng, report(&key, state, Some(attempt))));
            }
        } else if rng.chance(restart) {
            process.attempt += 1;
            process.sessions.clear();
            process.drains = false;
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

    /// A process that drains says so, in its manner; now and then it fails instead.
    fn drain_turn(&mut self, rng: &mut Rng, key: &InstanceKey) {
        let Some(process) = self.processes.get(key) else { return };
        let (attempt, is_idle) = (process.attempt, process.sessions.is_empty());
        let ends_with = match process.manner {
            _ if rng.chance(4) => Some(ReportedState::Failed),
            Manner::Exits if is_idle => Some(ReportedState::Stopped),
            _ => None,
        };
        if let Some(state) = ends_with {
            self.processes.remove(key);
            self.letters.push(report(key, state, Some(attempt)));
        } else if process.manner == Manner::Says && is_idle {
            self.letters.push(report(key, ReportedState::Drained, Some(attempt)));
        } else if process.manner != Manner::Silent {
            self.letters.push(word_with_sessions(key, process));
        }
    }

    fn service_turn(&mut self, rng: &mut Rng, key: &InstanceKey, record: &Record) {
        let Some(i) = record.instances.get(key) else { return };
        let Some(version) = record.version(key.version) else { return };
        let held = self.processes.get(key).filter(|process| process.manner != Manner::Silent && rng.chance(20));
        let held = held.map(|process| process.sessions.len() as u32);
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
                    Command::Check(Check { instance: id, status, reason: reason(rng), sessions: held })
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
        self.processes.retain(|key, _| record.instances.get(key).is_some());
        for i in record
            .instances
            .iter()
            .filter(|i| !matches!(i.state, InstanceState::Waiting | InstanceState::Failed | InstanceState::Stopped))
        {
            if !self.processes.contains_key(&i.key()) {
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
            let (attempt, state, drains) = (i.attempt, i.state, i.has_open_drain());
            let (temper, manner, sessions) = (Temper::Good, Manner::Says, Vec::new());
            self.processes.insert(i.key(), Process { attempt, state, temper, manner, sessions, drains });
        }
    }

    /// All coordinators start afresh: nothing in the post, nothing in mind.
    pub fn forget(&mut self) {
        self.letters.clear();
        self.errands = Default::default();
    }

    /// The weather calms: whoever can get ready does, batch jobs complete, services pass, callers hang up. What each
    /// would say.
    pub fn calm_turn(&mut self, record: &Record) -> Vec<Command> {
        let mut words = Vec::new();
        let mut ended = BTreeSet::new();
        for (key, process) in &mut self.processes {
            process.sessions.clear();
            if &*key.agent == BATCH_AGENT {
                words.push(report(key, ReportedState::Completed, None));
                ended.insert(key.clone());
                continue;
            }
            if process.temper == Temper::Doomed && process.state != InstanceState::Ready {
                words.push(report(key, ReportedState::Failed, Some(process.attempt)));
                ended.insert(key.clone());
                continue;
            }
            if process.temper != Temper::Stuck {
                process.state = InstanceState::Ready;
            }
            let (Some(i), Some(version)) = (record.instances.get(key), record.version(key.version)) else {
                // Its report was answered 0, and the record does not have it: it is not wanted.
                words.push(word_of(key, process));
                ended.insert(key.clone());
                continue;
            };
            if i.state != process.state || i.attempt != process.attempt {
                words.push(word_of(key, process));
            }
            if i.has_open_drain() && i.task.is_none() {
                match process.manner {
                    Manner::Says => words.push(report(key, ReportedState::Drained, Some(process.attempt))),
                    Manner::Counts if i.sessions != Some(0) => words.push(word_with_sessions(key, process)),
                    Manner::Exits => {
                        words.push(report(key, ReportedState::Stopped, Some(process.attempt)));
                        ended.insert(key.clone());
                        continue;
                    }
                    Manner::Counts | Manner::Silent => {}
                }
            }
            if i.state == InstanceState::Waiting || process.state != InstanceState::Ready {
                continue;
            }
            let well = |s: &&Arc<Service>| s.status == CheckStatus::Passing && s.ttl_ms.is_none();
            for service in record.services.of_owner(key).filter(|s| !well(s)) {
                words.push(register(key, &service.service, &service.instance, None, CheckStatus::Passing));
            }
            for name in version.content.services_of(&i.node) {
                if !record.services.of_owner(key).any(|s| s.service == *name) {
                    words.push(register(key, name, &service_id(key, name), None, CheckStatus::Passing));
                }
            }
        }
        self.processes.retain(|key, _| !ended.contains(key));
        words
    }

    /// Returns a difference between the processes and the record, once all has settled.
    pub fn differs_from(&self, record: &Record) -> Option<String> {
        for (key, process) in &self.processes {
            match record.instances.get(key) {
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
        let running =
            |i: &&Instance| matches!(i.state, InstanceState::Starting | InstanceState::Ready | InstanceState::Unready);
        let said = record.instances.iter().filter(running).count();
        (said != self.processes.len())
            .then(|| format!("{said} instances are said to run, and {} do", self.processes.len()))
    }
}
