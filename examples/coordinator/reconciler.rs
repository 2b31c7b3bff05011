//! This host: what runs on it, brought to what the records want, and told to them.
//!
//! Nothing here follows a script of steps. Each turn compares what is with what should be, and does what is missing, so
//! that it does not matter where an earlier coordinator was killed, or which answers were lost:
//!
//! - a task `start` or `replace` that nobody has taken up is taken up by reporting `starting`. From that moment the
//!   record wants the new instance, and callers are no longer sent to the old one; before it, nothing is touched;
//! - what runs in a place and is not what the record wants there is ended; once nothing runs there any more, what is
//!   wanted is started;
//! - where the record says something else of an instance than is true, the truth is reported.

use crate::checks::{self, Outcome};
use crate::failpoint::{Failpoint, Step};
use crate::identity::{Id, PlaceId};
use crate::life::{CheckState, Life, Next, Process};
use crate::link::{Ask, Told};
use crate::manifest::Reading;
use crate::options::Options;
use crate::place::{Leaving, Place};
use crate::process::{self, FoundAgent, Group};
use crate::record::{Instance, Snapshot, Statement};
use crate::store::Store;
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub enum Happening {
    Told(Told),
    /// The leader of a process group has ended.
    Ended(Group),
    Checked {
        place: PlaceId,
        token: u64,
        check: usize,
        outcome: Outcome,
    },
    /// A signal asks to end.
    Shutdown,
}

/// How often a process is started that could not be, for want of its place or of room for its note.
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// After so long the same is said again to a record that has not changed by it.
const SAY_AGAIN: Duration = Duration::from_secs(1);
/// The agent that stands for a batch job.
const BATCH: &str = "*";

#[derive(Default)]
struct Deployment {
    snapshot: Option<Arc<Snapshot>>,
    gone_since: Option<Instant>,
    /// Something is said, and the reading after it has not come yet.
    waiting: bool,
    /// What was said last, at which revision, and when.
    said: Option<(u64, Vec<Statement>, Instant)>,
    /// What was complained of already.
    complaints: BTreeSet<String>,
}

pub struct Host {
    options: Options,
    store: Store,
    failpoint: Failpoint,
    to_link: Sender<Ask>,
    to_itself: Sender<Happening>,
    deployments: BTreeMap<String, Deployment>,
    places: BTreeMap<PlaceId, Place>,
    connected: bool,
    tokens: u64,
    /// How often it was asked to end.
    shutdowns: u32,
    /// When it no longer waits for Redis to hear of its end.
    leaves_at: Instant,
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Host {
    /// The keys of what an earlier coordinator has left here.
    pub fn keys(&self) -> BTreeSet<String> {
        self.places.keys().map(|place| place.key.clone()).collect()
    }

    pub fn new(
        options: Options,
        store: Store,
        failpoint: Failpoint,
        to_link: Sender<Ask>,
        to_itself: Sender<Happening>,
    ) -> Host {
        let (deployments, places) = (BTreeMap::new(), BTreeMap::new());
        let mut host = Host {
            options,
            store,
            failpoint,
            to_link,
            to_itself,
            deployments,
            places,
            connected: false,
            tokens: 0,
            shutdowns: 0,
            leaves_at: Instant::now(),
        };
        host.find_what_runs();
        host
    }

    /// Processes that an earlier coordinator on this state directory has left. They are not touched before their record
    /// has been read.
    fn find_what_runs(&mut self) {
        let noted = |id: &Id| self.store.note_of(id).and_then(|note| Some((note.attempt, note.process?)));
        let mut found = process::find(&self.store.folder, noted);
        for pid in found.checks {
            process::kill(pid, Signal::KILL);
        }
        // Some programs write over their environment; their note finds them.
        for note in self.store.notes() {
            let Some((pid, start)) = note.process else { continue };
            let group = Group { id: note.id, attempt: note.attempt, pid, start };
            if !found.agents.iter().any(|known| known.group.pid == pid) && group.leader_runs() {
                found.agents.push(FoundAgent { group, environment: BTreeMap::new() });
            }
        }
        for FoundAgent { group, environment } in found.agents {
            eprintln!("coordinator: {} runs already (pid {}, attempt {})", group.id, group.pid, group.attempt);
            if self.options.matching.is_none() && !self.options.keys.contains(&group.id.key) {
                eprintln!("coordinator: key {} is not followed: its agents are left as they are", group.id.key);
            }
            self.watch(&group);
            self.places.entry(group.id.place()).or_default().found.push(FoundAgent { group, environment });
        }
    }

    fn watch(&self, group: &Group) {
        let (tell, ended) = (self.to_itself.clone(), group.clone());
        process::watch(group, move || {
            let _ = tell.send(Happening::Ended(ended)); // nobody listens once the coordinator ends
        });
    }

    /// Until a signal ends it.
    pub fn run(&mut self, inbox: &Receiver<Happening>) {
        loop {
            let now = Instant::now();
            let next = self.turn(now);
            if self.shutdowns > 0 && self.may_go(now) {
                return;
            }
            let first = match inbox.recv_timeout(next.saturating_duration_since(now)) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let now = Instant::now();
            for happening in std::iter::once(first).chain(inbox.try_iter()) {
                self.take_in(happening, now);
            }
        }
    }

    /// Its agents have ended, where that was asked for, and Redis has heard of it, where it listens.
    fn may_go(&self, now: Instant) -> bool {
        let heard = !self.connected || !self.deployments.values().any(|deployment| deployment.waiting);
        let all_ended = self.places.values().all(Place::is_empty);
        !self.options.stop_on_exit || all_ended && (heard || self.shutdowns > 1 || now > self.leaves_at)
    }

    fn take_in(&mut self, happening: Happening, now: Instant) {
        match happening {
            Happening::Told(told) => self.told(told, now),
            Happening::Ended(group) => self.ended(&group, now),
            Happening::Checked { place, token, check, outcome } => {
                let life = self.places.get_mut(&place).and_then(|place| place.life.as_mut());
                if let Some(life) = life.filter(|life| life.token == token) {
                    // While it starts up, that it does not answer yet is no news.
                    if life.checked(check, outcome) && life.was_ready {
                        let check = &life.checks[check];
                        eprintln!("coordinator: {}: check {} is {:?}", life.id, check.spec.name, check.state);
                    }
                }
            }
            Happening::Shutdown => self.shut_down(now),
        }
    }

    fn told(&mut self, told: Told, now: Instant) {
        match told {
            Told::Connected(url) => {
                eprintln!("coordinator: connected to {url}");
                self.connected = true;
                for deployment in self.deployments.values_mut() {
                    (deployment.waiting, deployment.said) = (true, None); // the reading that follows comes first
                }
                for life in self.places.values_mut().filter_map(|place| place.life.as_mut()) {
                    life.refresh_at = now;
                }
            }
            Told::Lost(why) => {
                eprintln!("coordinator: no Redis ({why}); agents run on");
                self.connected = false;
            }
            Told::Seen { key, snapshot } if self.shutdowns == 0 => self.absorb(&key, *snapshot, now),
            Told::Seen { key, .. } => {
                if let Some(deployment) = self.deployments.get_mut(&key) {
                    deployment.waiting = false; // it has heard our farewell
                }
            }
            Told::Gone { key } => {
                let deployment = self.deployments.entry(key.clone()).or_default();
                (deployment.snapshot, deployment.waiting, deployment.said) = (None, false, None);
                if deployment.gone_since.is_none() {
                    deployment.gone_since = Some(now);
                    if self.places.keys().any(|place| place.key == key) {
                        let then = match self.options.stop_deleted_ms {
                            Some(ms) => format!("its agents are stopped in {ms} ms if it is not back"),
                            None => "its agents run on".to_string(),
                        };
                        eprintln!("coordinator: key {key} is gone; {then}");
                    }
                }
            }
            Told::Refused { key, statement, error } => {
                let deployment = self.deployments.entry(key.clone()).or_default();
                if deployment.complaints.insert(error.clone()) {
                    eprintln!("coordinator: {key}: refused: {error} ({statement:?})");
                }
            }
        }
    }

    // ---- what a record wants -------------------------------------------------------------------------------------

    fn absorb(&mut self, key: &str, snapshot: Snapshot, now: Instant) {
        let mut wanted: BTreeMap<PlaceId, (Id, &Instance)> = BTreeMap::new();
        let mut unread = BTreeSet::new();
        for instance in snapshot.status.instances.iter().filter(|i| self.options.owns(&i.agent) && i.agent != BATCH) {
            let id = id_of(key, instance, &snapshot);
            let place = id.place();
            let kept = self.places.get(&place).is_some_and(|place| place.keeps(&id));
            let task = snapshot.task_of(instance);
            let told_to_stop = task.is_some_and(|task| task.task == "stop");
            // What has failed or stopped and is kept here is kept: the record may have to hear that it is otherwise.
            let wants = instance.is_said_to_run() || kept && (instance.state != "waiting" || task.is_some());
            if told_to_stop || !wants {
                continue;
            }
            if !snapshot.specs.contains_key(&(instance.version, instance.node.clone())) {
                unread.insert(place.clone()); // its version could not be read just now: nothing is touched
            }
            let better = |(other, _): &(Id, &Instance)| other.version < id.version;
            if wanted.get(&place).is_none_or(better) {
                wanted.insert(place, (id, instance));
            }
        }
        let here: BTreeSet<PlaceId> = self.places.keys().filter(|place| place.key == key).cloned().collect();
        for place in here.into_iter().chain(wanted.keys().cloned()).collect::<BTreeSet<_>>() {
            match wanted.get(&place) {
                _ if unread.contains(&place) => {}
                Some((id, instance)) => {
                    let spec = snapshot.specs.get(&(instance.version, instance.node.clone())).cloned();
                    self.want(&place, id, instance, spec, now);
                }
                None => self.want_nothing(&place, now),
            }
        }
        let deployment = self.deployments.entry(key.to_string()).or_default();
        (deployment.gone_since, deployment.waiting) = (None, false);
        if deployment.snapshot.replace(Arc::new(snapshot)).is_none() {
            self.tidy(key);
        }
    }

    /// Forgets what an earlier coordinator noted of instances that neither run nor are to run.
    fn tidy(&self, key: &str) {
        for note in self.store.notes().into_iter().filter(|note| note.id.key == key) {
            if self.places.get(&note.id.place()).is_none_or(|place| !place.has(&note.id)) {
                self.store.forget(&note.id);
            }
        }
    }

    fn want(&mut self, place_id: &PlaceId, id: &Id, instance: &Instance, spec: Option<Reading>, now: Instant) {
        let place = self.places.entry(place_id.clone()).or_default();
        if place.life.as_ref().is_some_and(|life| life.id == *id) {
            return;
        }
        let Some(Ok(Some(spec))) = spec else {
            // No command, or none that is understood: it is not run here, so what is here is not it.
            return self.want_nothing(place_id, now);
        };
        let note = self.store.note_of(id);
        if instance.state == "starting" && note.is_none() {
            self.failpoint.reach(Step::TakenUp);
        }
        retire(place, &self.options, &self.store, now);
        let mut life = Life::new(id.clone(), spec, note.clone(), now);
        // Of several, which there should not be, the newest goes on.
        place.found.sort_by_key(|found| found.group.attempt);
        let wanted = place.found.iter().rposition(|found| found.group.id == *id && found.group.leader_runs());
        let found = wanted.map(|at| place.found.remove(at));
        dismiss_found(place, &self.options, now);
        match found {
            Some(found) => self.adopt(place_id, life, found, instance, now),
            None => {
                if note.is_some_and(|note| note.process.is_some()) {
                    // It ran when the last coordinator was there, and ended since.
                    life.ended("ended while no coordinator was there".to_string(), now, unix_ms());
                    if let Err(error) = self.store.write(&life.note()) {
                        eprintln!("coordinator: {id}: no note: {error}");
                    }
                }
                place.life = Some(life);
            }
        }
    }

    fn want_nothing(&mut self, place: &PlaceId, now: Instant) {
        let Some(place) = self.places.get_mut(place) else { return };
        retire(place, &self.options, &self.store, now);
        dismiss_found(place, &self.options, now);
    }

    /// Goes on with a process that an earlier coordinator started.
    fn adopt(&mut self, place_id: &PlaceId, mut life: Life, found: FoundAgent, recorded: &Instance, now: Instant) {
        let FoundAgent { group, environment } = found;
        if life.attempt != group.attempt || life.ports.is_empty() {
            let port = |label: &String| environment.get(&crate::manifest::variable_of_port(label))?.parse().ok();
            let labels = life.spec.ports.iter().map(|port| port.label.clone());
            life.ports = labels.filter_map(|label| Some((label.clone(), port(&label)?))).collect();
        }
        life.attempt = group.attempt;
        life.next = Next::Start(now); // a note of a failure is older than this process
        life.was_ready = ["ready", "unready"].contains(&recorded.state.as_str());
        life.process = Some(Process { group, child: None });
        let id = life.id.clone();
        self.look_after(place_id, life, &recorded.node, CheckState::Unknown);
        eprintln!("coordinator: {id} goes on");
    }

    /// Finds out where a running process answers, begins its checks, and notes it.
    fn look_after(&mut self, place_id: &PlaceId, mut life: Life, node: &str, first: CheckState) {
        self.tokens += 1;
        life.token = self.tokens;
        let state_dir = self.store.folder.to_string_lossy().into_owned();
        let environment = life.environment(node, &state_dir).unwrap_or_default();
        life.endpoints = life.find_endpoints(&environment, &self.options.address).unwrap_or_default();
        life.checks = life.new_checks(first);
        for (index, run) in life.checks.iter_mut().enumerate() {
            let Some(endpoint) = life.endpoints.get(run.service) else { continue };
            let fill = |text: &String| crate::manifest::filled(text, &environment, Some(endpoint.port));
            let port = run.spec.port.as_ref().and_then(|port| fill(port).ok()?.parse().ok()).unwrap_or(endpoint.port);
            let host = run.spec.address.as_ref().and_then(|address| fill(address).ok());
            let check = checks::Check {
                spec: run.spec.clone(),
                host: host.unwrap_or_else(|| endpoint.check_host.clone()),
                port,
                environment: environment.clone(),
                workdir: life.spec.workdir.clone(),
                output: self.store.log_of(place_id).ok(),
            };
            let (tell, place, token) = (self.to_itself.clone(), place_id.clone(), life.token);
            let tell = move |outcome| {
                tell.send(Happening::Checked { place: place.clone(), token, check: index, outcome }).is_ok()
            };
            run.running = Some(checks::begin(check, tell));
        }
        life.was_ready |= life.is_up() == Some(true);
        if let Err(error) = self.store.write(&life.note()) {
            eprintln!("coordinator: {}: no note: {error}", life.id);
        }
        self.places.entry(place_id.clone()).or_default().life = Some(life);
    }

    // ---- turns ---------------------------------------------------------------------------------------------------

    /// Does what is to be done now; when to look again at the latest.
    fn turn(&mut self, now: Instant) -> Instant {
        let mut next = now + Duration::from_secs(60);
        for place_id in self.places.keys().cloned().collect::<Vec<_>>() {
            if let Some(again) = self.turn_of_place(&place_id, now) {
                next = next.min(again);
            }
        }
        self.places.retain(|_, place| !place.is_empty());
        if self.shutdowns > 0 {
            return next.min(self.leaves_at.max(now + TRY_AGAIN));
        }
        for key in self.deployments.keys().cloned().collect::<Vec<_>>() {
            self.stop_what_is_deleted(&key, now, &mut next);
            self.speak(&key, now);
        }
        let refreshed = self.places.values().filter_map(|place| place.life.as_ref()).map(|life| life.refresh_at);
        refreshed.filter(|at| self.connected && *at > now).fold(next, Instant::min)
    }

    fn turn_of_place(&mut self, place_id: &PlaceId, now: Instant) -> Option<Instant> {
        let place = self.places.get_mut(place_id)?;
        let emptied = place.tick(now, &self.store, &self.failpoint);
        let again = place.next(now);
        let due = match &place.life {
            Some(Life { process: None, next: Next::Start(at), .. }) => *at,
            _ => return again,
        };
        if !place.leaving.is_empty() || !place.found.is_empty() {
            return again;
        }
        if emptied {
            self.failpoint.reach(Step::OldGone);
        }
        match now >= due {
            true => self.start(place_id, now).or(again),
            false => Some(due),
        }
    }

    /// Starts the process of a place in which nothing runs; when to try again, where it could not be tried.
    fn start(&mut self, place_id: &PlaceId, now: Instant) -> Option<Instant> {
        let again = Some(now + TRY_AGAIN);
        let place = self.places.get_mut(place_id)?;
        let lock = match self.store.take_place(place_id) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                if !std::mem::replace(&mut place.complained, true) {
                    eprintln!("coordinator: {} {}: a process still has the place", place_id.key, place_id.agent);
                }
                return again;
            }
            Err(error) => {
                eprintln!("coordinator: {} {}: no lock: {error}", place_id.key, place_id.agent);
                return again;
            }
        };
        place.complained = false;
        let snapshot = self.deployments.get(&place_id.key).and_then(|deployment| deployment.snapshot.as_ref());
        let mut life = place.life.take()?;
        let recorded = snapshot.and_then(|snapshot| {
            let of_it = |i: &&Instance| i.is(&life.id.agent, life.id.version, &life.id.job);
            snapshot.status.instances.iter().find(of_it)
        });
        life.attempt = life.next_attempt(recorded);
        let node = recorded.map_or_else(|| life.id.agent.clone(), |instance| instance.node.clone());
        let drawn = life.draw_ports();
        // From here on a process may exist that only its environment tells of, so the note comes first.
        if let Err(error) = self.store.write(&life.note()) {
            eprintln!("coordinator: {}: no note, so no start: {error}", life.id);
            life.attempt -= 1;
            place.life = Some(life);
            return again;
        }
        self.failpoint.reach(Step::NoteWritten);
        match drawn.and_then(|()| self.spawn(place_id, &life, &node, lock)) {
            Ok(process) => {
                eprintln!("coordinator: {}: attempt {} runs as pid {}", life.id, life.attempt, process.group.pid);
                self.watch(&process.group);
                life.process = Some(process);
                self.look_after(place_id, life, &node, CheckState::Pending);
                self.failpoint.reach(Step::StartNoted);
                None
            }
            Err(fault) => {
                eprintln!("coordinator: {}: cannot start: {fault}", life.id);
                life.ended(format!("cannot start: {fault}"), now, unix_ms());
                if let Err(error) = self.store.write(&life.note()) {
                    eprintln!("coordinator: {}: no note: {error}", life.id);
                }
                place_life(&mut self.places, place_id, life);
                again
            }
        }
    }

    fn spawn(&self, place: &PlaceId, life: &Life, node: &str, lock: std::fs::File) -> Result<Process, String> {
        let state_dir = self.store.folder.to_string_lossy().into_owned();
        let environment = life.environment(node, &state_dir)?;
        life.find_endpoints(&environment, &self.options.address)?;
        let fill = |text: &String| crate::manifest::filled(text, &environment, None);
        let command: Vec<String> = life.spec.command.iter().map(fill).collect::<Result<_, String>>()?;
        let output = self.store.log_of(place).map_err(|error| format!("its log: {error}"))?;
        let start = process::Start {
            command: &command,
            environment: &environment,
            workdir: life.spec.workdir.as_deref(),
            place: lock,
            output,
        };
        let child = process::start(start).map_err(|error| format!("{}: {error}", command[0]))?;
        self.failpoint.reach(Step::Started);
        let pid = child.id() as i32;
        // Not reaped yet, so it is there even where it has ended already.
        let start = process::start_of_any(pid).unwrap_or(0);
        Ok(Process { group: Group { id: life.id.clone(), attempt: life.attempt, pid, start }, child: Some(child) })
    }

    fn ended(&mut self, group: &Group, now: Instant) {
        let Some(place) = self.places.get_mut(&group.id.place()) else { return };
        let kill_timeout = self.options.kill_timeout();
        if let Some(life) = place.life.as_mut() {
            if life.process.as_ref().is_some_and(|process| process.group == *group) {
                if let Some(mut process) = life.process.take() {
                    let how = process.how_it_ended();
                    eprintln!("coordinator: {}: {how}", life.id);
                    life.ended(how, now, unix_ms());
                    if let Err(error) = self.store.write(&life.note()) {
                        eprintln!("coordinator: {}: no note: {error}", life.id);
                    }
                    // What it has left of its group goes before it is started again.
                    if !process.group.is_gone(&self.store.folder) {
                        place.leaving.push(Leaving::new(process, Duration::ZERO, kill_timeout, now));
                    }
                }
                return;
            }
        }
        // On its way out anyway; a zombie of ours does not count as one that runs.
        if let Some(process) = place.child_of(group) {
            process.how_it_ended();
        }
    }

    fn stop_what_is_deleted(&mut self, key: &str, now: Instant, next: &mut Instant) {
        let Some(after) = self.options.stop_deleted_ms else { return };
        let Some(since) = self.deployments.get(key).and_then(|deployment| deployment.gone_since) else { return };
        let at = since + Duration::from_millis(after);
        if now < at {
            *next = (*next).min(at);
            return;
        }
        for place in self.places.keys().filter(|place| place.key == key).cloned().collect::<Vec<_>>() {
            self.want_nothing(&place, now);
        }
    }

    fn shut_down(&mut self, now: Instant) {
        self.shutdowns += 1;
        self.leaves_at = now + self.options.redis_timeout();
        if !self.options.stop_on_exit {
            return;
        }
        if self.shutdowns > 1 {
            for leaving in self.places.values_mut().flat_map(|place| &mut place.leaving) {
                leaving.hurry(now);
            }
            return;
        }
        eprintln!("coordinator: told to end; stopping its agents");
        let mut farewells: BTreeMap<String, Vec<Statement>> = BTreeMap::new();
        for life in self.places.values().filter_map(|place| place.life.as_ref()) {
            let all = farewells.entry(life.id.key.clone()).or_default();
            let services = life.spec.services.iter();
            all.extend(services.map(|s| Statement::Deregister { instance: life.id.service_instance(&s.name) }));
            if life.process.is_some() {
                all.push(Statement::Report {
                    agent: life.id.agent.clone(),
                    state: "unready",
                    version: life.id.version,
                    job: life.id.job.clone(),
                    attempt: life.attempt,
                    reason: Some("its coordinator was told to end".to_string()),
                });
            }
        }
        for (key, statements) in farewells {
            if let Some(deployment) = self.deployments.get_mut(&key).filter(|_| self.connected) {
                deployment.waiting = self.to_link.send(Ask::Say { key, statements }).is_ok();
            }
        }
        for place in self.places.keys().cloned().collect::<Vec<_>>() {
            self.want_nothing(&place, now);
        }
    }

    // ---- what is said --------------------------------------------------------------------------------------------

    fn speak(&mut self, key: &str, now: Instant) {
        let Some(deployment) = self.deployments.get(key) else { return };
        if !self.connected || deployment.waiting {
            return;
        }
        let Some(snapshot) = deployment.snapshot.clone() else { return };
        let mut statements = Vec::new();
        let mut complaints = Vec::new();
        for instance in &snapshot.status.instances {
            if instance.agent == BATCH {
                complaints.push("batch jobs are not run here; their task stays".to_string());
            } else if self.options.owns(&instance.agent) {
                statements.extend(self.about(key, instance, &snapshot, now, &mut complaints));
            }
        }
        let Some(deployment) = self.deployments.get_mut(key) else { return };
        for complaint in complaints {
            if deployment.complaints.insert(complaint.clone()) {
                eprintln!("coordinator: {key}: {complaint}");
            }
        }
        if statements.is_empty() {
            return;
        }
        let revision = snapshot.status.revision;
        // Refreshes of TTLs, which change no revision, come no sooner than this either.
        let pause = SAY_AGAIN.min(Duration::from_millis(self.options.service_ttl_ms / 3));
        let repeats = |(of, what, at): &(u64, Vec<Statement>, Instant)| {
            *of == revision && *what == statements && now < *at + pause
        };
        if deployment.said.as_ref().is_some_and(repeats) {
            return;
        }
        for statement in &statements {
            if let Statement::Report { agent, state, version, attempt, reason, .. } = statement {
                match *state {
                    "ready" => self.failpoint.reach(Step::BeforeReady),
                    "stopped" => self.failpoint.reach(Step::BeforeStopped),
                    _ => {}
                }
                let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                eprintln!("coordinator: {key} {agent} v{version}: reports {state}, attempt {attempt}{reason}");
            }
        }
        deployment.said = Some((revision, statements.clone(), now));
        deployment.waiting = self.to_link.send(Ask::Say { key: key.to_string(), statements }).is_ok();
    }

    /// What is to be said about one instance on the record.
    fn about(
        &mut self,
        key: &str,
        instance: &Instance,
        snapshot: &Snapshot,
        now: Instant,
        complaints: &mut Vec<String>,
    ) -> Vec<Statement> {
        let id = id_of(key, instance, snapshot);
        let place = self.places.get_mut(&id.place());
        let report = |state, attempt, reason| Statement::Report {
            agent: instance.agent.clone(),
            state,
            version: instance.version,
            job: instance.job_id.clone(),
            attempt,
            reason,
        };
        if snapshot.is_told_to_stop(instance) {
            if place.is_none_or(|place| !place.has(&id)) {
                return vec![report("stopped", instance.attempt, None)];
            }
            // Nobody is to be sent to it while it ends. Only services that were registered here are taken away.
            let of_it = snapshot.status.services.iter().filter(|service| service.agent == instance.agent);
            let ours = of_it.filter(|service| service.instance == id.service_instance(&service.service));
            return ours.map(|service| Statement::Deregister { instance: service.instance.clone() }).collect();
        }
        if let Some(life) = place.and_then(|place| place.life.as_mut()).filter(|life| life.id == id) {
            let statements = life.statements(instance, &snapshot.status.services, self.options.service_ttl_ms, now);
            return statements;
        }
        let Some(spec) = snapshot.specs.get(&(instance.version, instance.node.clone())) else { return Vec::new() };
        let task = snapshot.task_of(instance);
        match (spec, task) {
            (Ok(None), _) => {
                complaints.push(format!(
                    "node {} of v{} has no config.command: left to others",
                    instance.node, instance.version
                ));
                Vec::new()
            }
            (Err(fault), _) if task.is_some() || instance.is_said_to_run() => {
                let attempt = task.map_or(instance.attempt, |task| task.attempt);
                vec![report("failed", attempt, Some(format!("its manifest cannot be run: {fault}")))]
            }
            (Ok(Some(_)), Some(task)) if instance.state == "waiting" => {
                self.failpoint.reach(Step::TaskSeen);
                vec![report("starting", task.attempt, None)]
            }
            _ => Vec::new(),
        }
    }
}

fn id_of(key: &str, instance: &Instance, snapshot: &Snapshot) -> Id {
    Id {
        key: key.to_string(),
        agent: instance.agent.clone(),
        job: instance.job_id.clone(),
        version: instance.version,
        submitted_at: snapshot.status.submitted_at(instance.version),
    }
}

fn place_life(places: &mut BTreeMap<PlaceId, Place>, place: &PlaceId, life: Life) {
    places.entry(place.clone()).or_default().life = Some(life);
}

/// Lets what runs in a place go. Callers who have just resolved its services are still served for a while.
fn retire(place: &mut Place, options: &Options, store: &Store, now: Instant) {
    let Some(life) = place.life.take() else { return };
    let Some(process) = life.process else { return store.forget(&life.id) };
    let drain = match life.spec.services.is_empty() {
        true => Duration::ZERO,
        false => life.spec.shutdown_delay.unwrap_or_else(|| options.shutdown_delay()),
    };
    let kill_timeout = life.spec.kill_timeout.unwrap_or_else(|| options.kill_timeout());
    place.leaving.push(Leaving::new(process, drain, kill_timeout, now));
}

/// Lets go what an earlier coordinator left, and nobody wants.
fn dismiss_found(place: &mut Place, options: &Options, now: Instant) {
    for FoundAgent { group, .. } in place.found.drain(..) {
        eprintln!("coordinator: {} is not wanted any more", group.id);
        let process = Process { group, child: None };
        place.leaving.push(Leaving::new(process, options.shutdown_delay(), options.kill_timeout(), now));
    }
}
