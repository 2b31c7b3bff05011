//! A world from one seed: a clock, some systems under test, and all that act on them. Each step is one random action;
//! in the end operators and faults cease, and every deployment has to reach a terminal status.

use super::coordinators::{self, RealWorld};
use super::operators;
use super::sut::{Broken, Input, Sut};
use redis_deploy::engine::command::{Check, Report, ReportedState};
use redis_deploy::engine::deployment::Status;
use redis_deploy::engine::instance::{Instance, Role};
use redis_deploy::engine::services::CheckStatus;
use redis_deploy::engine::{next_deadline, Command, DecisionReply, Limits, Record, Rejection};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use test_support::manifests::Content;
use test_support::rng::Rng;

/// Number of steps before faults and operator commands cease.
pub const STEPS: u64 = 160;
/// Number of rounds in which a world without faults has to settle.
const ROUNDS: usize = 400;
/// The first time of a world, like that of a server.
pub const DAWN: u64 = 1_790_000_000_000;

/// The punctuality of a world's timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ticks {
    /// At every deadline.
    Punctual,
    /// Now and then.
    Late,
}

pub struct World {
    seed: u64,
    now: u64,
    ticks: Ticks,
    /// Some reports are false: then the record is not compared with the processes.
    wild: bool,
    clock_jumps: bool,
    /// Time often passes without any action.
    harsh: bool,
    /// Operators act often.
    eager: bool,
    suts: Vec<App>,
    pub history: Vec<Input>,
}

struct App {
    sut: Sut,
    real: RealWorld,
    content: Content,
    past: Vec<Content>,
}

/// A broken rule and the history that led to it.
#[derive(Debug, Clone)]
pub struct Failure {
    pub broken: Broken,
    pub history: Vec<Input>,
}

/// Returns the systems of a seed in their initial state.
pub fn suts(seed: u64) -> Vec<Sut> {
    let mut rng = Rng::new(seed, u64::MAX);
    let count = *rng.pick(&[1, 1, 1, 2, 2, 3]);
    let sut = |n: u64, rng: &mut Rng| {
        let limits = Limits {
            history_max: *rng.pick(&[50, 50, 4, 2, 1]),
            events_max: *rng.pick(&[100, 100, 5, 0]),
            versions_alive_max: *rng.pick(&[8, 8, 2, 1]),
            ..Limits::default()
        };
        Sut::new(["api", "shop:eu", "x"][n as usize].to_string().replace(':', "-"), limits)
    };
    (0..count).map(|n| sut(n, &mut rng)).collect()
}

/// Counts of events of a world.
#[derive(Debug, Default)]
pub struct Lived {
    pub inputs: u64,
    /// Events by type; beginnings by mode as well.
    pub events: BTreeMap<&'static str, u64>,
}

/// Returns the latest time at which an instance has to be ready, to be healthy at its deadline.
fn last_moment(record: &Record, instance: &Instance) -> Option<u64> {
    let min = record.version(instance.version)?.policy.min_healthy_ms;
    instance.deadline.at()?.checked_sub(min)
}

/// Rule 10.4: every drain ends, and what follows it is issued; only a pause holds those that lead to its replacements.
fn every_drain_has_ended(record: &Record) -> Result<(), Broken> {
    let is_paused = record.deployment.as_ref().is_some_and(|d| d.status == Status::Paused);
    match record.instances.iter().find(|i| i.drain.is_some() && (i.is_leaving() || !is_paused)) {
        None => Ok(()),
        Some(i) => Err(Broken {
            rule: "every_drain_ends",
            words: format!("version {} of {} still drains: {:?}", i.version, i.agent, i.drain),
        }),
    }
}

/// Rule 12.3: every standby leaves in the end; only a pause of the bake holds those of the bake.
fn every_standby_has_left(record: &Record) -> Result<(), Broken> {
    let is_paused = record.deployment.as_ref().is_some_and(|d| d.status == Status::Paused);
    let stays = |i: &&Instance| i.role == Role::Standby && (i.standby_until.is_some() || !is_paused);
    match record.instances.iter().find(stays) {
        None => Ok(()),
        Some(i) => Err(Broken {
            rule: "every_standby_leaves",
            words: format!("version {} of {} still stands by: {:?}", i.version, i.agent, i.standby_until),
        }),
    }
}

/// Draws a number of sessions that nobody counted.
fn lied_sessions(rng: &mut Rng) -> Option<u32> {
    rng.chance(25).then(|| rng.between(0, 2) as u32)
}

/// Lives a whole world through, less the steps to skip.
pub fn live(seed: u64, skip: &BTreeSet<u64>) -> Result<Lived, Box<Failure>> {
    let mut world = World::new(seed);
    let outcome = world.all(skip);
    let World { history, suts, .. } = world;
    match outcome {
        Ok(()) => {
            let mut lived = Lived { inputs: history.len() as u64, ..Lived::default() };
            for (name, n) in suts.iter().flat_map(|app| &app.sut.events) {
                *lived.events.entry(name).or_default() += n;
            }
            Ok(lived)
        }
        Err(broken) => Err(Box::new(Failure { broken, history })),
    }
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed, u64::MAX - 1);
        let ticks = if rng.chance(65) { Ticks::Punctual } else { Ticks::Late };
        let (wild, clock_jumps, harsh) = (rng.chance(20), rng.chance(25), rng.chance(35));
        let app = |sut| {
            let content = Content::first(&mut rng);
            let mut real = RealWorld::default();
            real.gloomy = rng.chance(50);
            App { sut, real, content, past: Vec::new() }
        };
        let suts = suts(seed).into_iter().map(app).collect();
        World { seed, now: DAWN, ticks, wild, clock_jumps, harsh, eager: rng.chance(12), suts, history: Vec::new() }
    }

    fn all(&mut self, skip: &BTreeSet<u64>) -> Result<(), Broken> {
        for at in 0..self.suts.len() {
            self.bake(at)?;
        }
        for step in (0..STEPS).filter(|step| !skip.contains(step)) {
            self.step(&mut Rng::new(self.seed, step))?;
        }
        self.come_to_rest()
    }

    /// Brings a system that bakes to its first bake: few would get so far, and then something has to come.
    fn bake(&mut self, at: usize) -> Result<(), Broken> {
        let mut rng = Rng::new(self.seed, u64::MAX - 3);
        if !self.suts[at].content.bakes {
            return Ok(());
        }
        for config in 1..3 {
            let app = &mut self.suts[at];
            app.content.nodes[0].config = config;
            app.past.push(app.content.clone());
            let deploy = Command::Deploy(app.content.deploy());
            self.ask(at, "ops", deploy)?.ok();
            let waits = |record: &Record| {
                record.deployment.as_ref().is_some_and(|d| d.status == Status::Running && !d.is_baking)
            };
            for _ in 0..ROUNDS {
                if !self.suts[at].sut.record.as_ref().is_some_and(waits) || self.calm_round(at, &mut rng)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Executes a command, now.
    fn ask(
        &mut self,
        at: usize,
        by: &'static str,
        command: Command,
    ) -> Result<Result<DecisionReply, Rejection>, Broken> {
        let app = &mut self.suts[at];
        let reloaded = std::mem::take(&mut app.sut.reload);
        let input = Input { at: self.now, sut: at, by, command, reloaded };
        self.history.push(input);
        let input = &self.history[self.history.len() - 1];
        app.sut.feed(input)
    }

    fn tick(&mut self, at: usize) -> Result<(), Broken> {
        if self.suts[at].sut.record.is_some() {
            self.ask(at, "auto", Command::Tick)?
                .map_err(|r| Broken { rule: "a_tick_is_never_refused", words: r.to_string() })?;
        }
        Ok(())
    }

    // ---- restless ---------------------------------------------------------------------------------------------------

    fn step(&mut self, rng: &mut Rng) -> Result<(), Broken> {
        let at = rng.below(self.suts.len());
        self.time_passes(rng, at)?;
        let is_delicate = self.suts[at].sut.record.as_ref().is_some_and(operators::is_delicate);
        let operators = match (self.eager, is_delicate) {
            (true, _) => 60,
            (false, true) => 20,
            (false, false) => 9,
        };
        match rng.weighted(&[operators, 30, 26, 34, 7, 3, 3, 8, if self.wild { 12 } else { 0 }]) {
            0 => self.operator(rng, at),
            1 => self.coordinator(rng, at),
            2 => self.process(rng, at),
            3 => {
                for _ in 0..rng.between(1, 6) {
                    if let Some(letter) = self.suts[at].real.post(rng) {
                        self.deliver(at, letter)?;
                    }
                }
                Ok(())
            }
            4 => {
                for _ in 0..rng.between(1, 3) {
                    self.tick(at)?;
                }
                Ok(())
            }
            5 => {
                let app = &mut self.suts[at];
                if let Some(record) = &app.sut.record {
                    app.real.reconcile(record);
                }
                Ok(())
            }
            6 => {
                self.suts[at].sut.reload = true;
                Ok(())
            }
            7 => {
                let app = &mut self.suts[at];
                if let Some(record) = app.sut.record.as_ref().filter(|_| app.content.has_sessions) {
                    app.real.callers_turn(rng, record, self.now);
                }
                Ok(())
            }
            _ => self.lie(rng, at),
        }
    }

    fn time_passes(&mut self, rng: &mut Rng, at: usize) -> Result<(), Broken> {
        let due = self.suts[at].sut.record.as_ref().and_then(next_deadline).unwrap_or(self.now).max(self.now);
        if rng.chance(6) {
            // The last moment at which an instance may get ready in time.
            let last = self.suts[at].sut.record.as_ref().and_then(|record| {
                let waiting: Vec<u64> = record
                    .instances
                    .iter()
                    .filter_map(|i| last_moment(record, i))
                    .filter(|at| *at >= self.now)
                    .collect();
                waiting.into_iter().min()
            });
            if let Some(last) = last {
                return self.time_comes(last);
            }
        }
        // Few wait for a deadline with their hands in their pockets.
        let due = if due - self.now > 250 && !rng.chance(if self.harsh { 50 } else { 6 }) { self.now } else { due };
        let [long, very_long] = if self.harsh { [4, 2] } else { [1, 0] };
        let then = match rng.weighted(&[30, 20, 20, 9, 4, 7, long, very_long, if self.clock_jumps { 2 } else { 0 }]) {
            0 => self.now,
            1 => self.now + rng.between(1, 6),
            2 => self.now + rng.between(5, 50),
            3 => due,
            4 => due.saturating_sub(1).max(self.now),
            5 => due + rng.between(1, 10),
            6 => self.now + rng.between(100, 900),
            7 => self.now + 10_000,
            _ if rng.chance(20) => self.now + 100_000,
            _ => self.now.saturating_sub(*rng.pick(&[1, 40, 500, 20_000])),
        };
        self.time_comes(then)
    }

    /// Time passes until then, and the timers see to it.
    fn time_comes(&mut self, then: u64) -> Result<(), Broken> {
        if self.ticks == Ticks::Punctual {
            for _ in 0..200 {
                let next = (0..self.suts.len())
                    .filter_map(|at| Some((self.suts[at].sut.record.as_ref().and_then(next_deadline)?, at)))
                    .filter(|(due, _)| *due <= then)
                    .min();
                let Some((due, at)) = next else { break };
                self.now = self.now.max(due);
                self.tick(at)?;
            }
        }
        self.now = then;
        Ok(())
    }

    fn operator(&mut self, rng: &mut Rng, at: usize) -> Result<(), Broken> {
        let app = &mut self.suts[at];
        let record = app.sut.record.as_ref();
        let mut command = operators::ask(rng, &mut app.content, &mut app.past, record, self.wild);
        match rng.below(14) {
            0 => self.two_operators(at, command),
            1 => {
                if let (Command::Deploy(deploy), true) = (&mut command, rng.chance(50)) {
                    deploy.if_version = None;
                    deploy.request = Some(Arc::from(format!("again-{}", self.history.len())));
                }
                let first = self.ask(at, "ops", command.clone())?;
                self.again(at, command, first)
            }
            _ => {
                self.ask(at, "ops", command)?.ok();
                Ok(())
            }
        }
    }

    /// Two at a time, each sure of what is there: one winner and one clear refusal (rule 3 IFVERSION, ID).
    fn two_operators(&mut self, at: usize, command: Command) -> Result<(), Broken> {
        let Command::Deploy(mut first) = command else {
            self.ask(at, "ops", command)?.ok();
            return Ok(());
        };
        self.tick(at)?;
        let newest = self.suts[at].sut.record.as_ref().map_or(0, |r| r.last_version);
        first.if_version = Some(newest);
        first.request = None;
        let mut second = first.clone();
        second.bundle = Some(Arc::from(format!("s3://other/{}", self.history.len())));
        let first = self.ask(at, "ops", Command::Deploy(first))?;
        let recorded = self.suts[at].sut.record.as_ref().map_or(0, |r| r.last_version) > newest;
        let second = self.ask(at, "rival", Command::Deploy(second))?;
        if recorded && !matches!(second, Err(Rejection::OtherVersion { .. })) {
            return Err(Broken { rule: "two_operators_have_one_winner", words: format!("{first:?} and {second:?}") });
        }
        Ok(())
    }

    /// Repeats are harmless (rule 3): the same answer, and nothing changes.
    fn again(&mut self, at: usize, command: Command, first: Result<DecisionReply, Rejection>) -> Result<(), Broken> {
        let fresh = |request: &Option<Arc<str>>| request.as_ref().is_some_and(|id| id.starts_with("again-"));
        let (repeatable, remembered) = match &command {
            Command::Deploy(deploy) => (deploy.request.is_some(), fresh(&deploy.request)),
            Command::Rollback(rollback) => (rollback.request.is_some(), fresh(&rollback.request)),
            Command::Pause(_) | Command::Resume(_) | Command::Promote { .. } | Command::Stop { .. } => (true, false),
            _ => (false, false),
        };
        if !repeatable {
            return Ok(());
        }
        // Without `min_healthy_ms` something may be due already that was not due a moment ago.
        let second = self.ask(at, "ops", command.clone())?;
        let settled = self.suts[at].sut.record.clone();
        let third = self.ask(at, "ops", command)?;
        let after = &self.suts[at].sut.record;
        let same_reply = (second == third || second.is_err()) && (!remembered || first.is_err() || first == second);
        if !same_reply || (settled != *after && third.is_ok()) {
            return Err(Broken {
                rule: "repeats_are_harmless",
                words: format!("{first:?}, {second:?} and then {third:?}"),
            });
        }
        Ok(())
    }

    fn coordinator(&mut self, rng: &mut Rng, at: usize) -> Result<(), Broken> {
        let app = &mut self.suts[at];
        let Some(record) = &app.sut.record else { return Ok(()) };
        let beside = app.real.coordinator_turn(rng, record);
        if let (Err(words), false) = (beside, self.wild || self.clock_jumps) {
            return Err(Broken { rule: "no_agent_runs_twice_in_one_job", words });
        }
        Ok(())
    }

    fn process(&mut self, rng: &mut Rng, at: usize) -> Result<(), Broken> {
        let app = &mut self.suts[at];
        if let Some(record) = &app.sut.record {
            for _ in 0..rng.between(1, 6) {
                app.real.process_turn(rng, record, self.now);
            }
        }
        Ok(())
    }

    fn deliver(&mut self, at: usize, letter: Command) -> Result<(), Broken> {
        if self.suts[at].sut.record.is_some() {
            self.ask(at, "coordinator", letter)?.ok();
        }
        Ok(())
    }

    /// Draws a false report.
    fn lie(&mut self, rng: &mut Rng, at: usize) -> Result<(), Broken> {
        let Some(record) = &self.suts[at].sut.record else { return Ok(()) };
        let keys: Vec<_> = record.instances.iter().map(|i| i.key()).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let key = rng.pick(&keys).clone();
        let services: Vec<_> = record.services.iter().map(|s| s.instance.clone()).collect();
        let newest = record.last_version;
        let status = *rng.pick(&[CheckStatus::Passing, CheckStatus::Warning, CheckStatus::Critical]);
        let command = match rng.below(8) {
            0 if !services.is_empty() => Command::Check(Check {
                instance: rng.pick(&services).clone(),
                status,
                reason: coordinators::reason(rng),
                sessions: lied_sessions(rng),
            }),
            1 => {
                let id: Arc<str> = Arc::from(format!("svc-{}", rng.below(4)));
                coordinators::register(&key, ["http", "grpc", "other"][rng.below(3)], &id, Some(30), status)
            }
            _ => {
                let version = match rng.below(4) {
                    0 => None,
                    1 => Some(rng.between(1, newest + 1)),
                    _ => Some(key.version),
                };
                Command::Report(Report {
                    agent: key.agent.clone(),
                    state: *rng.pick(&ReportedState::ALL),
                    version,
                    job: rng.chance(50).then(|| key.job_id.clone()),
                    attempt: rng.chance(40).then(|| rng.between(1, 4) as u32),
                    reason: coordinators::reason(rng),
                    sessions: lied_sessions(rng),
                })
            }
        };
        self.deliver(at, command)
    }

    // ---- at rest ----------------------------------------------------------------------------------------------------

    /// Operators are silent, coordinators read TASKS and nothing else: every deployment ends (or waits for a person).
    fn come_to_rest(&mut self) -> Result<(), Broken> {
        for at in 0..self.suts.len() {
            let mut rng = Rng::new(self.seed, u64::MAX - 2);
            let app = &mut self.suts[at];
            if app.sut.record.is_none() {
                continue;
            }
            if self.wild {
                app.real.believe(app.sut.record.as_ref().expect("asked above"));
            } else if rng.chance(50) {
                // What is in the post arrives, in any order; or it never does.
                rng.shuffle(&mut app.real.letters);
                for letter in std::mem::take(&mut app.real.letters) {
                    self.deliver(at, letter)?;
                }
            }
            self.suts[at].real.forget();
            self.rest(at, &mut rng)?;
            let record = self.suts[at].sut.record.as_ref().expect("asked above");
            let ended = record.deployment.as_ref().is_some_and(|d| d.status != Status::Running);
            if !ended {
                return Err(Broken {
                    rule: "who_reads_tasks_brings_every_deployment_to_its_end",
                    words: "it is still running".into(),
                });
            }
            every_drain_has_ended(record)?;
            every_standby_has_left(record)?;
            // A pause holds drains that nobody takes up.
            let is_held = |i: &&Instance| i.drain.as_ref().is_some_and(|drain| drain.deadline.at().is_none());
            if let Some(task) = record.instances.tasks().find(|i| !is_held(i)) {
                let words = format!("{:?} of {} is still to be done", task.task.as_ref().map(|t| t.kind), task.agent);
                return Err(Broken { rule: "no_task_for_work_already_done", words });
            }
            let app = &mut self.suts[at];
            if let Some(record) = &app.sut.record {
                app.real.reconcile(record);
            }
            for letter in std::mem::take(&mut self.suts[at].real.letters) {
                self.deliver(at, letter)?;
            }
            self.rest(at, &mut rng)?;
            let app = &self.suts[at];
            if let Some(words) = app.sut.record.as_ref().and_then(|record| app.real.differs_from(record)) {
                return Err(Broken { rule: "in_the_end_what_runs_is_what_is_said", words });
            }
        }
        Ok(())
    }

    /// Rounds of TASKS, reports and time, until nothing is left to do.
    fn rest(&mut self, at: usize, rng: &mut Rng) -> Result<(), Broken> {
        for _ in 0..ROUNDS {
            if self.calm_round(at, rng)? {
                return Ok(());
            }
        }
        Err(Broken { rule: "a_calm_world_comes_to_rest", words: format!("not within {ROUNDS} rounds") })
    }

    /// Coordinators do what TASKS lists, processes get ready, and the next deadline comes. Returns true if nothing is
    /// left to do.
    fn calm_round(&mut self, at: usize, rng: &mut Rng) -> Result<bool, Broken> {
        let app = &mut self.suts[at];
        let record = app.sut.record.as_ref().expect("only systems with a record settle");
        for errand in coordinators::errands(record) {
            let beside = app.real.run(rng, &errand, record);
            if let (Err(words), false) = (beside, self.wild || self.clock_jumps) {
                return Err(Broken { rule: "no_agent_runs_twice_in_one_job", words });
            }
        }
        let mut said = std::mem::take(&mut app.real.letters);
        said.extend(app.real.calm_turn(record));
        let quiet = said.is_empty();
        for word in said {
            self.deliver(at, word)?;
        }
        let due = self.suts[at].sut.record.as_ref().and_then(next_deadline);
        if let Some(due) = due {
            self.now = self.now.max(due);
            self.tick(at)?;
        }
        Ok(due.is_none() && quiet)
    }
}
