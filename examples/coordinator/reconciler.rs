//! Reconciler: brings the processes on this host to the state that the records ask for, and reports their state.
//!
//! It keeps no plan. Each pass compares the actual with the desired state and acts on the differences, so that the
//! moment at which an earlier coordinator was killed, and lost replies, do not matter:
//!
//! - An unclaimed `start` or `replace` task is claimed by reporting `starting`. From then on the record asks for the
//!   new instance, and DEPLOY.RESOLVE leaves the old one out; before, nothing is changed.
//! - An instance that another coordinator has claimed, or has claimed back by a later attempt, is left to it: its process
//!   here is stopped.
//! - A process in a slot that is not of the instance assigned to it is stopped. Once the slot is empty, the assigned
//!   instance is started. The same holds for a process of an earlier attempt than the one claimed.
//! - An unclaimed `drain` task is taken up by reporting `draining`. Once the record shows that it is, and that the
//!   instance is still this coordinator's, its process is told to drain; before, nothing is changed.
//! - If the state of an instance differs from the record, it is reported.

use crate::api::{claim_reason, Instance, Snapshot, Task, Update};
use crate::checks::{self, Outcome};
use crate::connection::{ConnectionEvent, Request};
use crate::drain::{self, Sessions};
use crate::failpoint::{Failpoint, Step};
use crate::identity::{Id, SlotId};
use crate::manifest::{self, DrainOrder, DrainSignal, Spec, SpecResult};
use crate::options::Options;
use crate::process::{self, FoundAgent, ProcessGroup};
use crate::slot::{Slot, StoppingProcess};
use crate::state_dir::StateDir;
use crate::supervisor::{CheckState, NextStart, Process, Supervisor};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Input of the reconciler.
pub enum Event {
    Connection(ConnectionEvent),
    /// The leader of a process group has ended.
    Exited(ProcessGroup),
    /// A check of a supervised process was run. `token` identifies the process.
    Checked {
        slot: SlotId,
        token: u64,
        check: usize,
        outcome: Outcome,
    },
    /// A supervised process was told to drain, or to go on.
    Told {
        slot: SlotId,
        token: u64,
        to_drain: bool,
        outcome: Result<(), String>,
        at: Instant,
    },
    /// A supervised process was asked for the number of its sessions.
    Sessions {
        slot: SlotId,
        token: u64,
        outcome: Result<Sessions, String>,
    },
    /// A signal asks the coordinator to end.
    Shutdown,
}

/// Interval at which a start is retried that failed because of the slot's lock or of the state file.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Delay after which an update is sent again that has had no effect, or that somebody has overridden; doubled up to the
/// maximum while that goes on.
const RESEND_INTERVAL: Duration = Duration::from_secs(1);
const RESEND_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// Agent name in the `run` task of a batch job.
const BATCH_AGENT: &str = "*";

/// State of a deployment key.
#[derive(Default)]
struct Deployment {
    snapshot: Option<Arc<Snapshot>>,
    deleted_since: Option<Instant>,
    /// Set from sending updates until the record has been read again.
    awaiting_read: bool,
    /// The last update sent about each instance and service.
    sent: BTreeMap<String, Sent>,
    /// Messages that are logged once.
    logged: BTreeSet<String>,
}

/// An update that was sent.
struct Sent {
    update: Update,
    at: Instant,
    /// Delay before it is sent again.
    pause: Duration,
}

/// The coordinator that runs an instance which the record has as running, as far as this one knows.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Owner {
    /// This coordinator, up to this attempt.
    Us(u32),
    /// It was running, with this attempt, when this coordinator started, and nothing here is its process: it is to be
    /// taken over by a claim of the next attempt.
    TakeOver(u32),
    /// Another coordinator has claimed it.
    Other,
}

/// State of the main loop.
pub struct Reconciler {
    options: Options,
    state_dir: StateDir,
    failpoint: Failpoint,
    to_connection: Sender<Request>,
    to_self: Sender<Event>,
    deployments: BTreeMap<String, Deployment>,
    slots: BTreeMap<SlotId, Slot>,
    owners: BTreeMap<Id, Owner>,
    /// Set once all records have been read for the first time.
    caught_up: bool,
    connected: bool,
    last_token: u64,
    /// Number of signals that asked it to end.
    shutdown_signals: u32,
    /// Time until which it waits for Redis to take its last updates.
    exit_deadline: Instant,
}

/// Returns the current Unix time in ms.
fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Reconciler {
    /// Returns the keys of the agents that an earlier coordinator left running.
    pub fn keys(&self) -> BTreeSet<String> {
        self.slots.keys().map(|slot| slot.key.clone()).collect()
    }

    /// Creates the reconciler and finds the agents that an earlier coordinator left running.
    pub fn new(
        options: Options,
        state_dir: StateDir,
        failpoint: Failpoint,
        to_connection: Sender<Request>,
        to_self: Sender<Event>,
    ) -> Reconciler {
        let (deployments, slots) = (BTreeMap::new(), BTreeMap::new());
        let mut reconciler = Reconciler {
            options,
            state_dir,
            failpoint,
            to_connection,
            to_self,
            deployments,
            slots,
            owners: BTreeMap::new(),
            caught_up: false,
            connected: false,
            last_token: 0,
            shutdown_signals: 0,
            exit_deadline: Instant::now(),
        };
        reconciler.find_running();
        reconciler
    }

    /// Finds the processes that an earlier coordinator with this state directory left running. They are left alone
    /// until their record has been read.
    fn find_running(&mut self) {
        let saved_process = |id: &Id| self.state_dir.load(id).and_then(|saved| Some((saved.attempt, saved.process?)));
        let mut found = process::scan(&self.state_dir.path, saved_process);
        for pid in found.checks {
            process::kill(pid, Signal::KILL);
        }
        // Programs that overwrite their environment are found by their saved state.
        for saved in self.state_dir.load_all() {
            let Some((pid, start)) = saved.process else { continue };
            let group = ProcessGroup { id: saved.id, attempt: saved.attempt, pid, start };
            if !found.agents.iter().any(|known| known.group.pid == pid) && group.leader_is_running() {
                found.agents.push(FoundAgent { group, environment: BTreeMap::new() });
            }
        }
        for FoundAgent { group, environment } in found.agents {
            eprintln!("coordinator: {} is already running (pid {}, attempt {})", group.id, group.pid, group.attempt);
            if self.options.matching.is_none() && !self.options.keys.contains(&group.id.key) {
                eprintln!("coordinator: key {} is not among the given keys: its agents are left running", group.id.key);
            }
            self.watch(&group);
            self.slots.entry(group.id.slot()).or_default().found.push(FoundAgent { group, environment });
        }
    }

    /// Has an event sent when the leader of a group ends.
    fn watch(&self, group: &ProcessGroup) {
        let (sender, exited) = (self.to_self.clone(), group.clone());
        process::on_leader_exit(group, move || {
            let _ = sender.send(Event::Exited(exited)); // fails only while the coordinator exits
        });
    }

    /// Runs until a signal asks the coordinator to end.
    pub fn run(&mut self, events: &Receiver<Event>) {
        loop {
            let now = Instant::now();
            let next = self.reconcile(now);
            if self.shutdown_signals > 0 && self.may_exit(now) {
                return;
            }
            let first = match events.recv_timeout(next.saturating_duration_since(now)) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let now = Instant::now();
            for event in std::iter::once(first).chain(events.try_iter()) {
                self.handle(event, now);
            }
        }
    }

    /// Returns whether the coordinator may exit: with `--stop-on-exit`, once its agents have ended and the record has
    /// been updated, if Redis is reachable.
    fn may_exit(&self, now: Instant) -> bool {
        let is_sent = !self.connected || !self.deployments.values().any(|deployment| deployment.awaiting_read);
        let all_ended = self.slots.values().all(Slot::is_empty);
        !self.options.stop_on_exit || all_ended && (is_sent || self.shutdown_signals > 1 || now > self.exit_deadline)
    }

    /// Updates the state by an event.
    fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Connection(event) => self.on_connection_event(event, now),
            Event::Exited(group) => self.on_exit(&group, now),
            Event::Checked { slot, token, check, outcome } => {
                if let Some(supervisor) = self.supervisor_of(&slot, token) {
                    // Checks that fail while the agent starts are not logged.
                    if supervisor.on_check(check, outcome, now) && supervisor.was_ready {
                        let check = &supervisor.checks[check];
                        eprintln!("coordinator: {}: check {} is {:?}", supervisor.id, check.spec.name, check.state);
                    }
                }
            }
            Event::Told { slot, token, to_drain, outcome, at } => self.on_told(&slot, token, to_drain, outcome, at),
            Event::Sessions { slot, token, outcome } => {
                let Some(supervisor) = self.supervisor_of(&slot, token) else { return };
                let fault = match outcome {
                    Ok(sessions) => {
                        supervisor.drain.sessions = Some(sessions);
                        None
                    }
                    // One that is still starting answers nothing.
                    Err(fault) => Some(fault).filter(|_| supervisor.was_ready),
                };
                if fault.is_some() && supervisor.drain.fault.is_none() {
                    let fault = fault.as_deref().unwrap_or_default();
                    eprintln!("coordinator: {}: its sessions are unknown: {fault}", supervisor.id);
                }
                supervisor.drain.fault = fault;
            }
            Event::Shutdown => self.on_shutdown(now),
        }
    }

    /// Returns the supervisor of a slot whose process has this token.
    fn supervisor_of(&mut self, slot: &SlotId, token: u64) -> Option<&mut Supervisor> {
        let supervisor = self.slots.get_mut(slot)?.supervisor.as_mut()?;
        (supervisor.token == token && supervisor.process.is_some()).then_some(supervisor)
    }

    /// Updates the state by an event of the connection.
    fn on_connection_event(&mut self, event: ConnectionEvent, now: Instant) {
        match event {
            ConnectionEvent::Connected => {
                self.connected = true;
                for deployment in self.deployments.values_mut() {
                    // Nothing is sent before the record has been read again.
                    deployment.awaiting_read = true;
                    deployment.sent.clear();
                }
                for supervisor in self.slots.values_mut().filter_map(|slot| slot.supervisor.as_mut()) {
                    supervisor.refresh_at = now;
                }
            }
            ConnectionEvent::CaughtUp => self.caught_up = true,
            ConnectionEvent::Lost => self.connected = false,
            ConnectionEvent::Read { key, snapshot } if self.shutdown_signals == 0 => {
                self.apply_snapshot(&key, *snapshot, now)
            }
            ConnectionEvent::Read { key, .. } => {
                if let Some(deployment) = self.deployments.get_mut(&key) {
                    deployment.awaiting_read = false; // the last updates have been sent
                }
            }
            ConnectionEvent::NotFound { key } => {
                let deployment = self.deployments.entry(key.clone()).or_default();
                (deployment.snapshot, deployment.awaiting_read) = (None, false);
                deployment.sent.clear();
                if deployment.deleted_since.is_none() {
                    deployment.deleted_since = Some(now);
                    if self.slots.keys().any(|slot| slot.key == key) {
                        let then = match self.options.stop_deleted_ms {
                            Some(ms) => format!("its agents are stopped in {ms} ms unless it is deployed again"),
                            None => "its agents keep running".to_string(),
                        };
                        eprintln!("coordinator: key {key} is gone; {then}");
                    }
                }
            }
            ConnectionEvent::Claimed { key, update } => self.on_claimed(&key, update),
            ConnectionEvent::Rejected { key, update, error } => {
                let deployment = self.deployments.entry(key.clone()).or_default();
                if deployment.logged.insert(error.clone()) {
                    eprintln!("coordinator: {key}: rejected: {error} ({update:?})");
                }
            }
        }
    }

    /// Notes an attempt as this coordinator's. Where the reply is lost, the reason on the record tells.
    fn on_claimed(&mut self, key: &str, update: Update) {
        let Update::Report { agent, version, job, attempt, .. } = update else { return };
        let Some(snapshot) = self.deployments.get(key).and_then(|deployment| deployment.snapshot.as_ref()) else {
            return;
        };
        let submitted_at = snapshot.status.submitted_at(version);
        self.owners.insert(Id { key: key.to_string(), agent, job, version, submitted_at }, Owner::Us(attempt));
    }

    // ---- desired state ----------------------------------------------------------------------------------------------

    /// Assigns the instances of a record to their slots.
    fn apply_snapshot(&mut self, key: &str, snapshot: Snapshot, now: Instant) {
        let mut desired: BTreeMap<SlotId, (Id, &Instance)> = BTreeMap::new();
        let mut unread = BTreeSet::new();
        let status = &snapshot.status;
        self.owners.retain(|id, _| id.key != key || status.submitted_at(id.version) == id.submitted_at);
        let is_relevant = |i: &&Instance| self.options.owns(&i.agent) && i.agent != BATCH_AGENT;
        for instance in status.instances.iter().filter(is_relevant).collect::<Vec<_>>() {
            let id = instance_id(key, instance, &snapshot);
            let slot = id.slot();
            let is_held = self.slots.get(&slot).is_some_and(|slot| slot.holds(&id));
            let task = snapshot.task_of(instance);
            let must_stop = task.is_some_and(|task| task.task == "stop");
            // An instance that the record has as failed or stopped stays in its slot: its state may have to be
            // corrected.
            let is_desired = instance.is_running() || is_held && (instance.state != "waiting" || task.is_some());
            if must_stop || !is_desired || instance.is_running() && !self.is_ours(&id, instance, &snapshot) {
                continue;
            }
            if !snapshot.specs.contains_key(&(instance.version, instance.node.clone())) {
                unread.insert(slot.clone()); // its version could not be read: the slot stays as it is
            }
            let is_older = |(other, _): &(Id, &Instance)| other.version < id.version;
            if desired.get(&slot).is_none_or(is_older) {
                desired.insert(slot, (id, instance));
            }
        }
        let occupied: BTreeSet<SlotId> = self.slots.keys().filter(|slot| slot.key == key).cloned().collect();
        for slot in occupied.into_iter().chain(desired.keys().cloned()).collect::<BTreeSet<_>>() {
            match desired.get(&slot) {
                _ if unread.contains(&slot) => {}
                Some((id, instance)) => {
                    let spec = snapshot.specs.get(&(instance.version, instance.node.clone())).cloned();
                    let task = snapshot.task_of(instance);
                    self.assign(&slot, id, instance, task, spec, now);
                }
                None => self.clear_slot(&slot, now),
            }
        }
        let deployment = self.deployments.entry(key.to_string()).or_default();
        (deployment.deleted_since, deployment.awaiting_read) = (None, false);
        if deployment.snapshot.replace(Arc::new(snapshot)).is_none() {
            self.remove_stale_files(key);
        }
    }

    /// Returns whether an instance that the record has as running is to run here.
    fn is_ours(&mut self, id: &Id, instance: &Instance, snapshot: &Snapshot) -> bool {
        let owner = self.owners.get(id).copied();
        let claimed_here = instance.claimant().map(|claimant| claimant == self.state_dir.coordinator);
        let held = self.slots.get(&id.slot()).and_then(|slot| slot.attempt_of(id));
        let now = match (claimed_here, owner) {
            (Some(true), _) => Owner::Us(instance.attempt),
            // A record that a failover or a crash has set back has an earlier attempt.
            (None, Some(Owner::Us(attempt))) if instance.attempt <= attempt => Owner::Us(attempt),
            (_, Some(Owner::TakeOver(attempt))) if instance.attempt <= attempt => Owner::TakeOver(attempt),
            (_, Some(_)) => Owner::Other,
            (_, None) => {
                let saved = self.state_dir.load(id).map(|saved| saved.attempt);
                match held.max(saved) {
                    Some(attempt) if instance.attempt <= attempt && claimed_here.is_none() => {
                        Owner::Us(instance.attempt)
                    }
                    Some(_) => Owner::Other,
                    None if !self.caught_up || self.is_set_back(id, snapshot) => Owner::TakeOver(instance.attempt),
                    None => Owner::Other,
                }
            }
        };
        if now == Owner::Other && held.is_some() {
            let attempt = instance.attempt;
            eprintln!(
                "coordinator: {id}: another coordinator has claimed attempt {attempt}; its process here is stopped"
            );
        }
        self.owners.insert(id.clone(), now);
        matches!(now, Owner::Us(_))
    }

    /// Returns whether a record has lost changes since it was last read, and knew the version of the instance then.
    fn is_set_back(&self, id: &Id, snapshot: &Snapshot) -> bool {
        let before = self.deployments.get(&id.key).and_then(|deployment| deployment.snapshot.as_ref());
        before.is_some_and(|before| {
            snapshot.status.revision < before.status.revision
                && before.status.submitted_at(id.version) == id.submitted_at
        })
    }

    /// Removes the state files of instances that neither run nor are assigned to a slot.
    fn remove_stale_files(&self, key: &str) {
        for saved in self.state_dir.load_all().into_iter().filter(|saved| saved.id.key == key) {
            if self.slots.get(&saved.id.slot()).is_none_or(|slot| !slot.contains(&saved.id)) {
                self.state_dir.remove(&saved.id);
            }
        }
    }

    /// Assigns an instance to its slot, and stops everything else in it.
    fn assign(
        &mut self,
        slot_id: &SlotId,
        id: &Id,
        instance: &Instance,
        task: Option<&Task>,
        spec: Option<SpecResult>,
        now: Instant,
    ) {
        let slot = self.slots.entry(slot_id.clone()).or_default();
        let is_claimed = instance.claimant() == Some(&self.state_dir.coordinator);
        // An attempt that was claimed since, because the record has asked for a restart.
        let is_over = |attempt: u32| is_claimed && attempt < instance.attempt;
        if let Some(supervisor) = slot.supervisor.as_mut().filter(|supervisor| supervisor.id == *id) {
            supervisor.follow(instance, task, now);
            if is_over(supervisor.attempt) {
                if let Some(process) = supervisor.begin_anew(now) {
                    let stopping = stop_of(process, &supervisor.spec, &self.options, now);
                    slot.stopping.push(stopping);
                }
            }
            return;
        }
        let Some(Ok(Some(spec))) = spec else {
            // An instance without a valid command is not run here.
            return self.clear_slot(slot_id, now);
        };
        let saved = self.state_dir.load(id);
        if instance.state == "starting" && saved.is_none() {
            self.failpoint.reach(Step::TakenUp);
        }
        stop_current(slot, &self.options, &self.state_dir, now);
        let mut supervisor = Supervisor::new(id.clone(), spec, saved.clone(), now);
        // If several processes were found, which should not happen, the newest is kept.
        slot.found.sort_by_key(|found| found.group.attempt);
        let is_it = |group: &ProcessGroup| group.id == *id && !is_over(group.attempt) && group.leader_is_running();
        let position = slot.found.iter().rposition(|found| is_it(&found.group));
        let found = position.map(|position| slot.found.remove(position));
        stop_found(slot, &self.options, now);
        supervisor.follow(instance, task, now);
        match found {
            Some(found) => self.adopt(slot_id, supervisor, found, instance, now),
            None => {
                if saved.is_some_and(|saved| saved.process.is_some() && !is_over(saved.attempt)) {
                    // It ran when the last coordinator ended, and has ended since.
                    supervisor.on_exit("ended while no coordinator was running".to_string(), now, unix_ms());
                    if let Err(error) = self.state_dir.save(&supervisor.saved()) {
                        eprintln!("coordinator: {id}: cannot save its state: {error}");
                    }
                }
                slot.supervisor = Some(supervisor);
            }
        }
    }

    /// Stops everything in a slot.
    fn clear_slot(&mut self, slot: &SlotId, now: Instant) {
        let Some(slot) = self.slots.get_mut(slot) else { return };
        stop_current(slot, &self.options, &self.state_dir, now);
        stop_found(slot, &self.options, now);
    }

    /// Takes over a process that an earlier coordinator started.
    fn adopt(
        &mut self,
        slot_id: &SlotId,
        mut supervisor: Supervisor,
        found: FoundAgent,
        recorded: &Instance,
        now: Instant,
    ) {
        let FoundAgent { group, environment } = found;
        if supervisor.attempt != group.attempt || supervisor.ports.is_empty() {
            let port = |label: &String| environment.get(&manifest::port_variable(label))?.parse().ok();
            let labels = supervisor.spec.ports.iter().map(|port| port.label.clone());
            supervisor.ports = labels.filter_map(|label| Some((label.clone(), port(&label)?))).collect();
        }
        supervisor.attempt = group.attempt;
        supervisor.next = NextStart::At(now); // a saved failure is older than this process
        supervisor.was_ready =
            supervisor.attempt == recorded.attempt && ["ready", "unready"].contains(&recorded.state.as_str());
        supervisor.started_at = (!supervisor.was_ready).then_some(now);
        supervisor.process = Some(Process { group, child: None });
        let id = supervisor.id.clone();
        self.supervise(slot_id, supervisor, &recorded.node, CheckState::Unknown);
        eprintln!("coordinator: {id} goes on");
    }

    /// Resolves the endpoints of a running process, starts its checks and saves its state.
    fn supervise(&mut self, slot_id: &SlotId, mut supervisor: Supervisor, node: &str, first: CheckState) {
        self.last_token += 1;
        supervisor.token = self.last_token;
        let state_dir = self.state_dir.path.to_string_lossy().into_owned();
        let environment = supervisor.environment(node, &state_dir).unwrap_or_default();
        supervisor.endpoints = supervisor.resolve_endpoints(&environment, &self.options.address).unwrap_or_default();
        supervisor.checks = supervisor.new_checks(first);
        for (index, run) in supervisor.checks.iter_mut().enumerate() {
            let Some(endpoint) = supervisor.endpoints.get(run.service) else { continue };
            let fill = |text: &String| manifest::filled(text, &environment, Some(endpoint.port));
            let port = run.spec.port.as_ref().and_then(|port| fill(port).ok()?.parse().ok()).unwrap_or(endpoint.port);
            let host = run.spec.address.as_ref().and_then(|address| fill(address).ok());
            let check = checks::Check {
                spec: run.spec.clone(),
                host: host.unwrap_or_else(|| endpoint.check_host.clone()),
                port,
                environment: environment.clone(),
                workdir: supervisor.spec.workdir.clone(),
                output: self.state_dir.open_log(slot_id).ok(),
            };
            let (sender, slot, token) = (self.to_self.clone(), slot_id.clone(), supervisor.token);
            let report =
                move |outcome| sender.send(Event::Checked { slot: slot.clone(), token, check: index, outcome }).is_ok();
            run.running = Some(checks::start(check, report));
        }
        supervisor.requests = supervisor.resolve_requests(&environment).unwrap_or_default();
        if let Some(sessions) = supervisor.requests.sessions.clone() {
            let (sender, slot, token) = (self.to_self.clone(), slot_id.clone(), supervisor.token);
            let report = move |outcome| sender.send(Event::Sessions { slot: slot.clone(), token, outcome }).is_ok();
            supervisor.drain.polling = Some(drain::poll_sessions(sessions, report));
        }
        supervisor.was_ready |= supervisor.readiness() == Some(true);
        if let Err(error) = self.state_dir.save(&supervisor.saved()) {
            eprintln!("coordinator: {}: cannot save its state: {error}", supervisor.id);
        }
        self.slots.entry(slot_id.clone()).or_default().supervisor = Some(supervisor);
    }

    // ---- reconciliation ---------------------------------------------------------------------------------------------

    /// Acts on all differences between the actual and the desired state. Returns the time of the next pass.
    fn reconcile(&mut self, now: Instant) -> Instant {
        let mut next = now + Duration::from_secs(60);
        for slot_id in self.slots.keys().cloned().collect::<Vec<_>>() {
            let wakeups = [self.reconcile_slot(&slot_id, now), self.steer_drain(&slot_id, now)];
            next = wakeups.into_iter().flatten().fold(next, Instant::min);
        }
        self.slots.retain(|_, slot| !slot.is_empty());
        if self.shutdown_signals > 0 {
            return next.min(self.exit_deadline.max(now + RETRY_INTERVAL));
        }
        for key in self.deployments.keys().cloned().collect::<Vec<_>>() {
            self.stop_deleted(&key, now, &mut next);
            self.send_updates(&key, now);
        }
        let refreshed =
            self.slots.values().filter_map(|slot| slot.supervisor.as_ref()).map(|supervisor| supervisor.refresh_at);
        refreshed.filter(|at| self.connected && *at > now).fold(next, Instant::min)
    }

    /// Advances the stops in a slot, and starts its instance when it is due. Returns the time of the next pass.
    fn reconcile_slot(&mut self, slot_id: &SlotId, now: Instant) -> Option<Instant> {
        let slot = self.slots.get_mut(slot_id)?;
        let emptied = slot.tick(now, &self.state_dir, &self.failpoint);
        let next_wakeup = slot.next_wakeup(now);
        let due = match &slot.supervisor {
            Some(Supervisor { process: None, next: NextStart::At(at), .. }) => *at,
            _ => return next_wakeup,
        };
        if !slot.stopping.is_empty() || !slot.found.is_empty() {
            return next_wakeup;
        }
        if emptied {
            self.failpoint.reach(Step::OldGone);
        }
        match now >= due {
            true => self.start(slot_id, now).or(next_wakeup),
            false => Some(due),
        }
    }

    /// Tells the process of a slot to drain, or to go on, as the record asks. Returns the time of the next attempt.
    fn steer_drain(&mut self, slot_id: &SlotId, now: Instant) -> Option<Instant> {
        let supervisor = self.slots.get_mut(slot_id)?.supervisor.as_mut()?;
        let (id, token) = (supervisor.id.clone(), supervisor.token);
        let (process, spec) = (supervisor.process.as_ref()?, supervisor.requests.drain.as_ref()?);
        let Some(to_drain) = supervisor.drain.next_order(now) else {
            return supervisor.drain.retry_at.filter(|at| *at > now);
        };
        let url = match (to_drain, &spec.order, &spec.undo) {
            (true, DrainOrder::Signal(signal), _) => {
                self.failpoint.reach(Step::DrainTakenUp);
                let signal = match signal {
                    DrainSignal::Usr1 => Signal::USR1,
                    DrainSignal::Usr2 => Signal::USR2,
                    DrainSignal::Hup => Signal::HUP,
                    DrainSignal::Term => Signal::TERM,
                };
                if process.group.leader_is_running() {
                    process::kill(process.group.pid, signal);
                }
                // It takes a moment to act on it.
                let delay = supervisor.spec.sessions.as_ref().map_or(Duration::ZERO, |sessions| sessions.interval);
                self.on_told(slot_id, token, true, Ok(()), now + delay);
                return None;
            }
            (true, DrainOrder::Http(url), _) => url,
            (false, _, Some(url)) => url,
            (false, _, None) => {
                eprintln!("coordinator: {id}: its drain was withdrawn, and its manifest has no drain.undo");
                self.on_told(slot_id, token, false, Ok(()), now);
                return None;
            }
        };
        if to_drain {
            self.failpoint.reach(Step::DrainTakenUp);
        }
        let url = url.clone();
        supervisor.drain.is_busy = true;
        let (sender, slot) = (self.to_self.clone(), slot_id.clone());
        drain::post(url, move |outcome| {
            let _ = sender.send(Event::Told { slot, token, to_drain, outcome, at: Instant::now() });
            // fails only while the coordinator exits
        });
        None
    }

    /// Notes what a process was told. What failed is repeated.
    fn on_told(&mut self, slot: &SlotId, token: u64, to_drain: bool, outcome: Result<(), String>, at: Instant) {
        let Some(supervisor) = self.supervisor_of(slot, token) else { return };
        let (id, what) = (supervisor.id.clone(), if to_drain { "drain" } else { "go on" });
        match outcome {
            Ok(()) => {
                eprintln!("coordinator: {id}: told to {what}");
                supervisor.drain.note_told(to_drain, at);
                let saved = supervisor.saved();
                if let Err(error) = self.state_dir.save(&saved) {
                    eprintln!("coordinator: {id}: cannot save its state: {error}");
                }
            }
            Err(error) => {
                if supervisor.drain.retry_at.is_none() {
                    eprintln!("coordinator: {id}: cannot be told to {what}: {error}");
                }
                supervisor.drain.note_failure(to_drain, at + RESEND_INTERVAL);
            }
        }
    }

    /// Starts the process of an empty slot. Returns the time of the next attempt if it could not be started.
    fn start(&mut self, slot_id: &SlotId, now: Instant) -> Option<Instant> {
        let retry_at = Some(now + RETRY_INTERVAL);
        let slot = self.slots.get_mut(slot_id)?;
        let lock = match self.state_dir.lock_slot(slot_id) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                if !std::mem::replace(&mut slot.lock_logged, true) {
                    eprintln!("coordinator: {} {}: a process still holds the slot's lock", slot_id.key, slot_id.agent);
                }
                return retry_at;
            }
            Err(error) => {
                eprintln!("coordinator: {} {}: cannot lock its slot: {error}", slot_id.key, slot_id.agent);
                return retry_at;
            }
        };
        slot.lock_logged = false;
        let snapshot = self.deployments.get(&slot_id.key).and_then(|deployment| deployment.snapshot.as_ref());
        let mut supervisor = slot.supervisor.take()?;
        let recorded = snapshot.and_then(|snapshot| {
            let is_it = |i: &&Instance| i.is(&supervisor.id.agent, supervisor.id.version, &supervisor.id.job);
            snapshot.status.instances.iter().find(is_it)
        });
        supervisor.attempt = supervisor.next_attempt(recorded);
        let node = recorded.map_or_else(|| supervisor.id.agent.clone(), |instance| instance.node.clone());
        let ports = supervisor.allocate_ports();
        // The state is saved before the process exists, so that a killed coordinator never leaves an unknown process.
        if let Err(error) = self.state_dir.save(&supervisor.saved()) {
            eprintln!("coordinator: {}: not started, cannot save its state: {error}", supervisor.id);
            supervisor.attempt -= 1;
            slot.supervisor = Some(supervisor);
            return retry_at;
        }
        self.failpoint.reach(Step::NoteWritten);
        match ports.and_then(|()| self.spawn(slot_id, &supervisor, &node, lock)) {
            Ok(process) => {
                eprintln!(
                    "coordinator: {}: attempt {} runs as pid {}",
                    supervisor.id, supervisor.attempt, process.group.pid
                );
                self.watch(&process.group);
                supervisor.process = Some(process);
                supervisor.started_at = Some(now);
                self.supervise(slot_id, supervisor, &node, CheckState::Pending);
                self.failpoint.reach(Step::StartNoted);
                None
            }
            Err(error) => {
                eprintln!("coordinator: {}: cannot start: {error}", supervisor.id);
                supervisor.on_exit(format!("cannot start: {error}"), now, unix_ms());
                if let Err(error) = self.state_dir.save(&supervisor.saved()) {
                    eprintln!("coordinator: {}: cannot save its state: {error}", supervisor.id);
                }
                self.slots.entry(slot_id.clone()).or_default().supervisor = Some(supervisor);
                retry_at
            }
        }
    }

    /// Starts the process of an instance, with the lock of its slot.
    fn spawn(
        &self,
        slot: &SlotId,
        supervisor: &Supervisor,
        node: &str,
        lock: std::fs::File,
    ) -> Result<Process, String> {
        let state_dir = self.state_dir.path.to_string_lossy().into_owned();
        let environment = supervisor.environment(node, &state_dir)?;
        supervisor.resolve_endpoints(&environment, &self.options.address)?;
        supervisor.resolve_requests(&environment)?;
        let fill = |text: &String| manifest::filled(text, &environment, None);
        let command: Vec<String> = supervisor.spec.command.iter().map(fill).collect::<Result<_, String>>()?;
        let output = self.state_dir.open_log(slot).map_err(|error| format!("its log: {error}"))?;
        let options = process::StartOptions {
            command: &command,
            environment: &environment,
            workdir: supervisor.spec.workdir.as_deref(),
            slot_lock: lock,
            output,
        };
        let child = process::start(options).map_err(|error| format!("{}: {error}", command[0]))?;
        self.failpoint.reach(Step::Started);
        let pid = child.id() as i32;
        // The child is not reaped yet, so /proc has it even if it has already ended.
        let start = process::start_time_unreaped(pid).unwrap_or(0);
        Ok(Process {
            group: ProcessGroup { id: supervisor.id.clone(), attempt: supervisor.attempt, pid, start },
            child: Some(child),
        })
    }

    /// Handles the end of a group's leader.
    fn on_exit(&mut self, group: &ProcessGroup, now: Instant) {
        let Some(slot) = self.slots.get_mut(&group.id.slot()) else { return };
        let kill_timeout = self.options.kill_timeout();
        if let Some(supervisor) = slot.supervisor.as_mut() {
            if supervisor.process.as_ref().is_some_and(|process| process.group == *group) {
                if let Some(mut process) = supervisor.process.take() {
                    let exit = process.reap();
                    eprintln!("coordinator: {}: {exit}", supervisor.id);
                    supervisor.on_exit(exit, now, unix_ms());
                    if let Err(error) = self.state_dir.save(&supervisor.saved()) {
                        eprintln!("coordinator: {}: cannot save its state: {error}", supervisor.id);
                    }
                    // The rest of its group is stopped before a restart.
                    if !process.group.is_gone(&self.state_dir.path) {
                        slot.stopping.push(StoppingProcess::new(process, Duration::ZERO, kill_timeout, now));
                    }
                }
                return;
            }
        }
        // It is being stopped; its leader must be reaped.
        if let Some(process) = slot.process_of(group) {
            process.reap();
        }
    }

    /// Stops the agents of a key that has been deleted for longer than `--stop-deleted-ms`.
    fn stop_deleted(&mut self, key: &str, now: Instant, next: &mut Instant) {
        let Some(after) = self.options.stop_deleted_ms else { return };
        let Some(since) = self.deployments.get(key).and_then(|deployment| deployment.deleted_since) else { return };
        let at = since + Duration::from_millis(after);
        if now < at {
            *next = (*next).min(at);
            return;
        }
        for slot in self.slots.keys().filter(|slot| slot.key == key).cloned().collect::<Vec<_>>() {
            self.clear_slot(&slot, now);
        }
    }

    /// Handles a signal: with `--stop-on-exit`, deregisters the services and stops all agents.
    fn on_shutdown(&mut self, now: Instant) {
        self.shutdown_signals += 1;
        self.exit_deadline = now + self.options.redis_timeout();
        if !self.options.stop_on_exit {
            return;
        }
        if self.shutdown_signals > 1 {
            for stopping in self.slots.values_mut().flat_map(|slot| &mut slot.stopping) {
                stopping.kill_now(now);
            }
            return;
        }
        eprintln!("coordinator: shutting down; stopping its agents");
        let mut last_updates: BTreeMap<String, Vec<Update>> = BTreeMap::new();
        for supervisor in self.slots.values().filter_map(|slot| slot.supervisor.as_ref()) {
            let all = last_updates.entry(supervisor.id.key.clone()).or_default();
            let services = supervisor.spec.services.iter();
            all.extend(services.map(|s| Update::Deregister { instance: supervisor.id.service_instance(&s.name) }));
            if supervisor.process.is_some() {
                all.push(Update::Report {
                    agent: supervisor.id.agent.clone(),
                    state: "unready",
                    version: supervisor.id.version,
                    job: supervisor.id.job.clone(),
                    attempt: supervisor.attempt,
                    reason: Some("its coordinator is shutting down".to_string()),
                });
            }
        }
        for (key, updates) in last_updates {
            if let Some(deployment) = self.deployments.get_mut(&key).filter(|_| self.connected) {
                deployment.awaiting_read = self.to_connection.send(Request::Send { key, updates }).is_ok();
            }
        }
        for slot in self.slots.keys().cloned().collect::<Vec<_>>() {
            self.clear_slot(&slot, now);
        }
    }

    // ---- updates ----------------------------------------------------------------------------------------------------

    /// Sends the updates that a record needs, unless they were sent a moment ago.
    fn send_updates(&mut self, key: &str, now: Instant) {
        let Some(deployment) = self.deployments.get(key) else { return };
        if !self.connected || deployment.awaiting_read {
            return;
        }
        let Some(snapshot) = deployment.snapshot.clone() else { return };
        let mut updates = Vec::new();
        let mut messages = Vec::new();
        for instance in &snapshot.status.instances {
            if instance.agent == BATCH_AGENT {
                messages.push("batch jobs are not supported: their task is left to other coordinators".to_string());
            } else if self.options.owns(&instance.agent) {
                updates.extend(self.updates_for(key, instance, &snapshot, now, &mut messages));
            }
        }
        let Some(deployment) = self.deployments.get_mut(key) else { return };
        for message in messages {
            if deployment.logged.insert(message.clone()) {
                eprintln!("coordinator: {key}: {message}");
            }
        }
        updates.retain(|update| deployment.may_send(update, &snapshot, now));
        if updates.is_empty() {
            return;
        }
        for update in &updates {
            if let Update::Sessions { agent, state: state @ ("draining" | "drained"), version, number, .. } = update {
                let number = number.map(|number| format!(", {number} sessions")).unwrap_or_default();
                eprintln!("coordinator: {key} {agent} v{version}: reports {state}{number}");
            }
            if let Update::Report { agent, state, version, attempt, reason, .. } = update {
                match *state {
                    "ready" => self.failpoint.reach(Step::BeforeReady),
                    "stopped" => self.failpoint.reach(Step::BeforeStopped),
                    _ => {}
                }
                let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                eprintln!("coordinator: {key} {agent} v{version}: reports {state}, attempt {attempt}{reason}");
            }
        }
        deployment.awaiting_read = self.to_connection.send(Request::Send { key: key.to_string(), updates }).is_ok();
    }

    /// Returns the updates that the record needs about one of its instances. `messages` are to be logged.
    fn updates_for(
        &mut self,
        key: &str,
        instance: &Instance,
        snapshot: &Snapshot,
        now: Instant,
        messages: &mut Vec<String>,
    ) -> Vec<Update> {
        let id = instance_id(key, instance, snapshot);
        let owner = self.owners.get(&id).copied();
        let claim = Some(claim_reason(&self.state_dir.coordinator, None));
        let slot = self.slots.get_mut(&id.slot());
        let report = |state, attempt, reason| Update::Report {
            agent: instance.agent.clone(),
            state,
            version: instance.version,
            job: instance.job_id.clone(),
            attempt,
            reason,
        };
        if owner == Some(Owner::Other) && instance.state != "waiting" {
            return Vec::new();
        }
        if snapshot.must_stop(instance) {
            if slot.is_none_or(|slot| !slot.contains(&id)) {
                // An instance that was never started has no attempt; its task is about the first.
                return vec![report("stopped", instance.attempt.max(1), None)];
            }
            // Callers must not resolve it while it ends. Only services that this coordinator registered are removed.
            let services = snapshot.status.services.iter().filter(|service| service.agent == instance.agent);
            let ours = services.filter(|service| service.instance == id.service_instance(&service.service));
            return ours.map(|service| Update::Deregister { instance: service.instance.clone() }).collect();
        }
        // A task announces the next attempt of an instance that has drained: it is claimed before its process is
        // touched.
        let is_to_restart =
            |supervisor: &Supervisor| instance.state == "waiting" && supervisor.attempt <= instance.attempt;
        let supervisor = slot.and_then(|slot| slot.supervisor.as_mut()).filter(|supervisor| supervisor.id == id);
        if let Some(supervisor) = supervisor.filter(|supervisor| !is_to_restart(supervisor)) {
            let (services, ttl_ms) = (&snapshot.status.services, self.options.service_ttl_ms);
            return supervisor.updates(instance, services, ttl_ms, &self.state_dir.coordinator, now);
        }
        let Some(spec) = snapshot.specs.get(&(instance.version, instance.node.clone())) else { return Vec::new() };
        let task = snapshot.task_of(instance);
        match (spec, task) {
            (Ok(None), _) => {
                messages.push(format!(
                    "node {} of v{} has no config.command: it is left to other coordinators",
                    instance.node, instance.version
                ));
                Vec::new()
            }
            (Err(error), _) if task.is_some() || instance.is_running() => {
                let attempt = task.map_or(instance.attempt, |task| task.attempt);
                vec![report("failed", attempt, Some(format!("its manifest cannot be run: {error}")))]
            }
            (Ok(Some(_)), Some(task)) if instance.state == "waiting" => {
                self.failpoint.reach(Step::TaskSeen);
                vec![report("starting", task.attempt, claim)]
            }
            // What drains is not started again: a process of another coordinator may still hold its sessions.
            (Ok(Some(_)), _) if instance.is_draining() => Vec::new(),
            (Ok(Some(_)), _) if owner == Some(Owner::TakeOver(instance.attempt)) && instance.is_running() => {
                vec![report("starting", instance.attempt.saturating_add(1), claim)]
            }
            _ => Vec::new(),
        }
    }
}

impl Deployment {
    /// Returns whether an update may be sent now, and notes that it is. One that repeats the last one about its subject
    /// has had no effect, has been overridden, or has another reason: it waits for its pause, which grows. A refresh of a
    /// TTL is no repetition.
    fn may_send(&mut self, update: &Update, snapshot: &Snapshot, now: Instant) -> bool {
        let is_refresh = match update {
            Update::Check { instance, status: "passing", .. } => {
                snapshot.status.services.iter().any(|known| known.instance == *instance && known.status == "passing")
            }
            _ => false,
        };
        // Whoever has not been overridden for so long begins anew.
        self.sent.retain(|_, sent| now < sent.at + 2 * sent.pause);
        let repeated =
            self.sent.get(&update.subject()).filter(|sent| sent.update.states_the_same_as(update) && !is_refresh);
        if repeated.is_some_and(|sent| now < sent.at + sent.pause) {
            return false;
        }
        let pause = repeated.map_or(RESEND_INTERVAL, |sent| (sent.pause * 2).min(RESEND_INTERVAL_MAX));
        self.sent.insert(update.subject(), Sent { update: update.clone(), at: now, pause });
        true
    }
}

/// Returns the id of an instance on a record.
fn instance_id(key: &str, instance: &Instance, snapshot: &Snapshot) -> Id {
    Id {
        key: key.to_string(),
        agent: instance.agent.clone(),
        job: instance.job_id.clone(),
        version: instance.version,
        submitted_at: snapshot.status.submitted_at(instance.version),
    }
}

/// Begins to stop the assigned instance of a slot. The shutdown delay serves callers that have just resolved its
/// services.
fn stop_current(slot: &mut Slot, options: &Options, state_dir: &StateDir, now: Instant) {
    let Some(supervisor) = slot.supervisor.take() else { return };
    let Some(process) = supervisor.process else { return state_dir.remove(&supervisor.id) };
    slot.stopping.push(stop_of(process, &supervisor.spec, options, now));
}

/// Returns the stop of a process, with the delays of its manifest.
fn stop_of(process: Process, spec: &Spec, options: &Options, now: Instant) -> StoppingProcess {
    let delay = match spec.services.is_empty() {
        true => Duration::ZERO,
        false => spec.shutdown_delay.unwrap_or_else(|| options.shutdown_delay()),
    };
    let kill_timeout = spec.kill_timeout.unwrap_or_else(|| options.kill_timeout());
    StoppingProcess::new(process, delay, kill_timeout, now)
}

/// Begins to stop the found processes that are not of the assigned instance.
fn stop_found(slot: &mut Slot, options: &Options, now: Instant) {
    for FoundAgent { group, .. } in slot.found.drain(..) {
        eprintln!("coordinator: {} is no longer needed", group.id);
        let process = Process { group, child: None };
        slot.stopping.push(StoppingProcess::new(process, options.shutdown_delay(), options.kill_timeout(), now));
    }
}
