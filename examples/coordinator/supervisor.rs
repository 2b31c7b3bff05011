//! Supervisor of one instance: its process, checks and restarts, and the updates about them.

use crate::api::{claim_reason, is_other_reason, Instance, Registration, Service, Task, Update};
use crate::checks::Outcome;
use crate::drain::{Asked, Drain};
use crate::identity::Id;
use crate::manifest::{
    filled, mirror_neuron_port_variable, port_variable, CheckSpec, DrainOrder, DrainSpec, SessionsSpec, Spec,
};
use crate::process::{self, ProcessGroup};
use crate::restart::{Restarts, Verdict};
use crate::state_dir::SavedInstance;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Child;
use std::sync::mpsc::Sender;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A supervised process group. Its leader is a child of this process unless an earlier coordinator started it.
pub struct Process {
    pub group: ProcessGroup,
    pub child: Option<Child>,
}

impl Process {
    /// Reaps the leader if it is a child of this process, and describes its exit.
    pub fn reap(&mut self) -> String {
        match self.child.take().map(|mut child| child.wait()) {
            Some(Ok(status)) => match status.code() {
                Some(code) => format!("exited with {code}"),
                None => format!("ended by {status}"),
            },
            _ => "ended with an unknown status; an earlier coordinator had started it".to_string(),
        }
    }
}

/// State of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckState {
    /// Not run yet, for a process that was found running.
    Unknown,
    /// Neither passed nor failed often enough yet, for a process that was just started.
    Pending,
    Passing,
    Warning(String),
    Critical(String),
}

/// A check of the running process.
pub struct CheckRun {
    /// Index of its service in the spec.
    pub service: usize,
    pub spec: CheckSpec,
    pub state: CheckState,
    failures: u32,
    /// True once it has passed since the process was started, which ends its start period.
    has_passed: bool,
    /// Dropping it stops the check.
    pub running: Option<Sender<()>>,
}

/// Endpoint of a service of the running process.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub name: String,
    /// Registered address.
    pub address: String,
    /// Default host of its checks.
    pub check_host: String,
    pub port: u16,
    pub tags: Vec<String>,
    pub meta: Option<Json>,
}

/// Requests that tell the running process to drain, and ask it for its sessions.
#[derive(Default)]
pub struct Requests {
    pub drain: Option<DrainSpec>,
    pub sessions: Option<SessionsSpec>,
}

/// Next start while no process runs.
#[derive(Debug, Clone, PartialEq)]
pub enum NextStart {
    At(Instant),
    /// The restart policy is exhausted, with the reason.
    Never(String),
    /// It has ended in its drain, and holds no session any more; with the reason.
    Drained(String),
}

/// State of an instance that is assigned to a slot.
pub struct Supervisor {
    pub id: Id,
    pub spec: Arc<Spec>,
    /// Identifies the current process in the outcomes of checks.
    pub token: u64,
    /// Attempt of the current or last process; 0 if there was none.
    pub attempt: u32,
    pub ports: BTreeMap<String, u16>,
    pub restarts: Restarts,
    pub process: Option<Process>,
    pub endpoints: Vec<Endpoint>,
    pub checks: Vec<CheckRun>,
    pub was_ready: bool,
    /// Time from which the start periods of its checks count. None while no process runs, and for one that was found
    /// running and had been ready.
    pub started_at: Option<Instant>,
    pub next: NextStart,
    /// Description of the last exit.
    pub last_exit: Option<String>,
    /// Time of the next refresh of its services' TTLs.
    pub refresh_at: Instant,
    pub drain: Drain,
    /// Of the running process.
    pub requests: Requests,
}

impl Supervisor {
    /// Creates a supervisor without a process, from the saved state if there is one.
    pub fn new(id: Id, spec: Arc<Spec>, saved: Option<SavedInstance>, now: Instant) -> Supervisor {
        let (attempt, ports, restarts, failed, told) = match saved {
            Some(saved) => (saved.attempt, saved.ports, saved.restarts, saved.failed, saved.told_to_drain),
            None => (0, BTreeMap::new(), Restarts::default(), None, false),
        };
        let mut drain = Drain::default();
        if told {
            drain.note_told(true, now);
        }
        Supervisor {
            id,
            spec,
            token: 0,
            attempt,
            ports,
            restarts,
            process: None,
            endpoints: Vec::new(),
            checks: Vec::new(),
            was_ready: false,
            started_at: None,
            next: failed.map_or(NextStart::At(now), NextStart::Never),
            last_exit: None,
            refresh_at: now,
            drain,
            requests: Requests::default(),
        }
    }

    /// Returns the state to save.
    pub fn saved(&self) -> SavedInstance {
        SavedInstance {
            id: self.id.clone(),
            attempt: self.attempt,
            process: self.process.as_ref().map(|process| (process.group.pid, process.group.start)),
            ports: self.ports.clone(),
            restarts: self.restarts.clone(),
            failed: match &self.next {
                NextStart::Never(reason) => Some(reason.clone()),
                NextStart::At(_) | NextStart::Drained(_) => None,
            },
            told_to_drain: self.drain.told,
        }
    }

    // ---- start and exit ---------------------------------------------------------------------------------------------

    /// Returns the attempt of the next process: the one on the record if it was never started here, else a new one, so
    /// that it is not taken for an earlier process.
    pub fn next_attempt(&self, recorded: Option<&Instance>) -> u32 {
        match recorded {
            Some(instance)
                if ["waiting", "starting"].contains(&instance.state.as_str()) && instance.attempt > self.attempt =>
            {
                instance.attempt
            }
            Some(instance) => self.attempt.max(instance.attempt).saturating_add(1),
            None => self.attempt.saturating_add(1),
        }
    }

    /// Allocates the ports of the next process: fixed ones, and free ones for `auto`.
    pub fn allocate_ports(&mut self) -> Result<(), String> {
        // Kept open until all are allocated, so that they differ.
        let mut listeners = Vec::new();
        self.ports.clear();
        for port in &self.spec.ports {
            let number = match port.fixed {
                Some(number) => number,
                None => {
                    let bound =
                        TcpListener::bind(("0.0.0.0", 0)).and_then(|listener| Ok((listener.local_addr()?, listener)));
                    let (address, listener) =
                        bound.map_err(|error| format!("no free port for {}: {error}", port.label))?;
                    listeners.push(listener);
                    address.port()
                }
            };
            self.ports.insert(port.label.clone(), number);
        }
        Ok(())
    }

    /// Builds the environment of the process: the manifest's, and variables with its instance id and ports.
    pub fn environment(&self, node: &str, state_dir: &str) -> Result<BTreeMap<String, String>, String> {
        let mut ours = BTreeMap::new();
        let mut set = |name: &str, value: String| ours.insert(name.to_string(), value);
        set(process::COORDINATOR_VARIABLE, state_dir.to_string());
        set("DEPLOY_KEY", self.id.key.clone());
        set("DEPLOY_VERSION", self.id.version.to_string());
        set("DEPLOY_SUBMITTED_AT", self.id.submitted_at.to_string());
        set("DEPLOY_JOB", self.id.job.clone());
        set("DEPLOY_AGENT", self.id.agent.clone());
        set("DEPLOY_NODE", node.to_string());
        set("DEPLOY_ATTEMPT", self.attempt.to_string());
        set("MN_JOB_ID", self.id.job.clone());
        for (label, port) in &self.ports {
            set(&port_variable(label), port.to_string());
            set(&mirror_neuron_port_variable(label), port.to_string());
        }
        if let Some(port) = self.main_port() {
            set("PORT", port.to_string());
        }
        let mut all = BTreeMap::new();
        for (name, value) in &self.spec.environment {
            let value = filled(value, &ours, None).map_err(|error| format!("config.environment.{name}: {error}"))?;
            all.insert(name.clone(), value);
        }
        // These take precedence, since an agent is found again by its environment.
        all.extend(ours);
        Ok(all)
    }

    /// Returns the port of the first service that has one, else the first port.
    fn main_port(&self) -> Option<u16> {
        let service_ports = self.spec.services.iter().filter_map(|service| self.ports.get(&service.name));
        let resource_ports = self.spec.ports.iter().filter_map(|port| self.ports.get(&port.label));
        service_ports.chain(resource_ports).next().copied()
    }

    /// Returns the endpoints of its services.
    pub fn resolve_endpoints(
        &self,
        environment: &BTreeMap<String, String>,
        advertised: &str,
    ) -> Result<Vec<Endpoint>, String> {
        let endpoint = |service: &crate::manifest::ServiceSpec| {
            let context = |error: String| format!("service {}: {error}", service.name);
            let port = filled(&service.port, environment, None).map_err(context)?;
            let port = port.parse().map_err(|_| context(format!("{port} is not a port")))?;
            let address = service.address.as_deref();
            let address =
                address.map(|address| filled(address, environment, Some(port)).map_err(context)).transpose()?;
            let is_wildcard = address.as_deref().is_none_or(|address| ["0.0.0.0", "::", "*", ""].contains(&address));
            let fill = |text: &String| filled(text, environment, Some(port)).unwrap_or_else(|_| text.clone());
            let check_host = if is_wildcard { "127.0.0.1".to_string() } else { address.clone().unwrap_or_default() };
            Ok(Endpoint {
                name: service.name.clone(),
                address: address.filter(|_| !is_wildcard).unwrap_or_else(|| advertised.to_string()),
                check_host,
                port,
                tags: service.tags.iter().map(fill).collect(),
                meta: service.meta.as_ref().map(|meta| interpolate_json(meta, environment, port)),
            })
        };
        self.spec.services.iter().map(endpoint).collect()
    }

    /// Returns the checks of its services in their first state, not started.
    pub fn new_checks(&self, first: CheckState) -> Vec<CheckRun> {
        let services = self.spec.services.iter().enumerate();
        let checks = services.flat_map(|(service, spec)| spec.checks.iter().map(move |check| (service, check.clone())));
        checks
            .map(|(service, spec)| CheckRun {
                service,
                spec,
                state: first.clone(),
                failures: 0,
                has_passed: false,
                running: None,
            })
            .collect()
    }

    /// Handles the exit of its process, or a failed start, and schedules the restart. `now_ms` is Unix time.
    pub fn on_exit(&mut self, exit: String, now: Instant, now_ms: u64) {
        self.forget_process();
        if self.drain.asked != Asked::Serve {
            self.next = NextStart::Drained(exit.clone());
            self.last_exit = Some(exit);
            return;
        }
        self.next = match self.restarts.after_end(&self.spec.restart, now_ms) {
            Verdict::After(delay) => NextStart::At(now + delay),
            Verdict::Exhausted => {
                let policy = match self.spec.restart.attempts {
                    0 => "the restart policy has no restarts".to_string(),
                    _ => format!("the restart policy is exhausted ({})", Restarts::describe(&self.spec.restart)),
                };
                NextStart::Never(format!("{exit}; {policy}"))
            }
        };
        self.last_exit = Some(exit);
    }

    /// Forgets what belongs to a process that has ended or is no longer its own.
    fn forget_process(&mut self) {
        self.checks.clear();
        self.was_ready = false;
        self.started_at = None;
        self.drain.forget_process();
    }

    /// Returns its process, if it has one, so that it can be stopped, and starts the next as soon as its slot is empty.
    pub fn begin_anew(&mut self, now: Instant) -> Option<Process> {
        self.forget_process();
        (self.next, self.last_exit) = (NextStart::At(now), None);
        self.process.take()
    }

    /// Returns its drain and its sessions with the variables substituted in their URLs.
    pub fn resolve_requests(&self, environment: &BTreeMap<String, String>) -> Result<Requests, String> {
        let fill = |url: &String, name: &str| {
            filled(url, environment, None).map_err(|error| format!("config.{name}: {error}"))
        };
        let drain = |spec: &DrainSpec| -> Result<DrainSpec, String> {
            let order = match &spec.order {
                DrainOrder::Http(url) => DrainOrder::Http(fill(url, "drain.http")?),
                DrainOrder::Signal(signal) => DrainOrder::Signal(*signal),
            };
            let undo = spec.undo.as_ref().map(|url| fill(url, "drain.undo")).transpose()?;
            Ok(DrainSpec { order, undo })
        };
        let sessions = |spec: &SessionsSpec| -> Result<SessionsSpec, String> {
            Ok(SessionsSpec { url: fill(&spec.url, "sessions")?, interval: spec.interval })
        };
        Ok(Requests {
            drain: self.spec.drain.as_ref().map(drain).transpose()?,
            sessions: self.spec.sessions.as_ref().map(sessions).transpose()?,
        })
    }

    // ---- drains -----------------------------------------------------------------------------------------------------

    /// Follows the role that the record gives it. An instance that drains is not started again, and one that has
    /// drained not before that is claimed.
    pub fn follow(&mut self, recorded: &Instance, task: Option<&Task>, now: Instant) {
        self.drain.asked = match recorded.is_draining() {
            true if task.is_some_and(|task| task.task == "drain") => Asked::Drain,
            true => Asked::DrainTakenUp,
            false if recorded.state == "waiting" => Asked::Restart,
            false => Asked::Serve,
        };
        match (self.drain.asked, &self.next) {
            (Asked::Serve, NextStart::Drained(_)) => self.next = NextStart::At(now),
            (Asked::Drain | Asked::DrainTakenUp | Asked::Restart, NextStart::At(_)) if self.process.is_none() => {
                let exit = self.last_exit.clone();
                self.next = NextStart::Drained(exit.unwrap_or_else(|| "it is not running".to_string()));
            }
            _ => {}
        }
    }

    /// Returns the report about its drain or its sessions, if the record does not have it.
    fn drain_update(&self, recorded: &Instance) -> Option<Update> {
        if self.process.is_none() || self.attempt != recorded.attempt {
            return None;
        }
        let number = self.drain.sessions.map(|sessions| sessions.number);
        let has_drained = match (&self.spec.drain, &self.spec.sessions) {
            (None, None) => true, // it has no sessions
            (Some(_), Some(_)) => self.drain.is_empty(),
            // Its end, or the record's own count of idle time, tells.
            _ => false,
        };
        let is_news = number.is_some() && number != recorded.sessions;
        let (state, number) = match (self.drain.asked, recorded.state.as_str()) {
            (Asked::Drain, _) => ("draining", number),
            (Asked::DrainTakenUp, _) if has_drained && recorded.drain_at.is_some() => ("drained", None),
            (Asked::DrainTakenUp, _) if is_news => ("draining", number),
            (Asked::Serve, "ready") if is_news => ("ready", number),
            (Asked::Serve, "unready") if is_news => ("unready", number),
            _ => return None,
        };
        Some(Update::Sessions {
            agent: self.id.agent.clone(),
            state,
            version: self.id.version,
            job: self.id.job.clone(),
            attempt: self.attempt,
            number,
        })
    }

    // ---- checks -----------------------------------------------------------------------------------------------------

    /// Handles the outcome of a check. Returns whether the state of the check has changed.
    pub fn on_check(&mut self, index: usize, outcome: Outcome, now: Instant) -> bool {
        let started_at = self.started_at;
        let Some(check) = self.checks.get_mut(index) else { return false };
        let before = check.state.clone();
        match outcome {
            Outcome::Passing => (check.state, check.failures, check.has_passed) = (CheckState::Passing, 0, true),
            Outcome::Warning(why) => {
                (check.state, check.failures, check.has_passed) = (CheckState::Warning(why), 0, true)
            }
            Outcome::Failing(_)
                if !check.has_passed && started_at.is_some_and(|at| now < at + check.spec.start_period) =>
            {
                check.state = CheckState::Pending;
            }
            Outcome::Failing(why) => {
                check.failures = check.failures.saturating_add(1);
                if check.failures >= check.spec.failures_before_critical {
                    check.state = CheckState::Critical(format!("check {}: {why}", check.spec.name));
                }
            }
        }
        let ready = self.readiness();
        self.was_ready |= ready == Some(true);
        self.checks[index].state != before
    }

    /// Returns the checks that decide on readiness.
    fn required_checks(&self) -> impl Iterator<Item = &CheckRun> {
        self.checks.iter().filter(|check| check.spec.required)
    }

    /// Returns whether its process runs and its required checks pass; None while that is unknown.
    pub fn readiness(&self) -> Option<bool> {
        if self.process.is_none() {
            return Some(false);
        }
        if self.required_checks().any(|check| check.state == CheckState::Unknown) {
            return None;
        }
        Some(!self.required_checks().any(|check| matches!(check.state, CheckState::Pending | CheckState::Critical(_))))
    }

    /// Returns the reason of the first critical check.
    fn first_failure(&self) -> Option<String> {
        self.required_checks().find_map(|check| match &check.state {
            CheckState::Critical(why) => Some(why.clone()),
            _ => None,
        })
    }

    /// Returns whether a required check of a service is critical.
    fn has_failed_check(&self, index: usize) -> bool {
        self.required_checks().any(|check| check.service == index && matches!(check.state, CheckState::Critical(_)))
    }

    /// Returns the status of a service by its checks, with the reason.
    fn service_status(&self, index: usize) -> (&'static str, Option<String>) {
        let checks = || self.required_checks().filter(|check| check.service == index);
        for check in checks() {
            if let CheckState::Critical(why) = &check.state {
                return ("critical", Some(why.clone()));
            }
        }
        if checks().any(|check| check.state == CheckState::Pending) {
            return ("critical", Some("not checked yet".to_string()));
        }
        for check in checks() {
            if let CheckState::Warning(why) = &check.state {
                return ("warning", Some(format!("check {}: {why}", check.spec.name)));
            }
        }
        ("passing", None)
    }

    // ---- updates ----------------------------------------------------------------------------------------------------

    /// Returns the updates that bring its record up to date. Those of services come first, so that the reason for an
    /// unhealthy agent names the failed check.
    pub fn updates(
        &mut self,
        recorded: &Instance,
        services: &[Service],
        ttl_ms: u64,
        coordinator: &str,
        now: Instant,
    ) -> Vec<Update> {
        if self.process.is_some() && self.readiness().is_none() {
            return Vec::new();
        }
        let refresh = now >= self.refresh_at;
        if refresh {
            self.refresh_at = now + Duration::from_millis(ttl_ms / 3);
        }
        // Services that are registered before a new attempt is known would be those of the earlier one.
        let mut all = match self.is_new_attempt(recorded) {
            true => Vec::new(),
            false => self.service_updates(services, ttl_ms, refresh),
        };
        let state = self.state_update(recorded, coordinator);
        // Outside drains the number comes with the state on the record, which must not override a new one.
        let may_follow = state.is_none() || self.drain.asked != Asked::Serve;
        all.extend(state);
        all.extend(self.drain_update(recorded).filter(|_| may_follow));
        all
    }

    /// Returns the updates about its services.
    fn service_updates(&self, services: &[Service], ttl_ms: u64, refresh: bool) -> Vec<Update> {
        let mut all = Vec::new();
        for (index, spec) in self.spec.services.iter().enumerate() {
            let instance = self.id.service_instance(&spec.name);
            let recorded = services.iter().find(|service| service.instance == instance);
            let Some(endpoint) = self.endpoints.get(index).filter(|_| self.process.is_some()) else {
                if recorded.is_some_and(|service| service.status != "critical") {
                    let reason = Some(self.last_exit.clone().unwrap_or_else(|| "it is not running".to_string()));
                    all.push(Update::Check { instance, status: "critical", reason });
                }
                continue;
            };
            let (status, reason) = self.service_status(index);
            let is_current = |service: &&Service| {
                (service.address.as_str(), service.port, service.ttl_ms)
                    == (&endpoint.address, endpoint.port, Some(ttl_ms))
            };
            match recorded.filter(is_current) {
                Some(service)
                    if service.status == status
                        && !(refresh && status != "critical")
                        && !(self.has_failed_check(index)
                            && reason
                                .as_deref()
                                .is_some_and(|why| is_other_reason(service.reason.as_deref(), why))) => {}
                Some(_) => all.push(Update::Check { instance, status, reason }),
                None => all.push(Update::Register(Box::new(Registration {
                    agent: self.id.agent.clone(),
                    version: self.id.version,
                    job: self.id.job.clone(),
                    service: endpoint.name.clone(),
                    instance,
                    address: endpoint.address.clone(),
                    port: endpoint.port,
                    status,
                    ttl_ms,
                    tags: endpoint.tags.clone(),
                    meta: endpoint.meta.clone(),
                }))),
            }
        }
        all
    }

    /// Returns whether its process is of an attempt that the record does not have.
    fn is_new_attempt(&self, recorded: &Instance) -> bool {
        self.process.is_some() && self.attempt > recorded.attempt
    }

    /// Returns the report of its state, if the record has another one. A new attempt is always reported as `starting`
    /// first, since that is the claim, which another coordinator may have made before.
    fn state_update(&self, recorded: &Instance, coordinator: &str) -> Option<Update> {
        let (mut state, mut reason) = match (&self.process, self.readiness()?) {
            (Some(_), _) if self.is_new_attempt(recorded) => ("starting", None),
            (Some(_), true) => ("ready", None),
            // A critical check is a reason to report `unready` even if the agent was never ready.
            (Some(_), false) if self.was_ready || self.first_failure().is_some() => ("unready", self.first_failure()),
            (Some(_), false) => ("starting", None),
            (None, _) => match (&self.next, &self.last_exit) {
                (NextStart::Never(reason), _) => ("failed", Some(reason.clone())),
                (NextStart::Drained(reason), _) => ("stopped", Some(reason.clone())),
                // The processes that ran in its slot before are still being stopped.
                (NextStart::At(_), None) if !["ready", "unready"].contains(&recorded.state.as_str()) => return None,
                (NextStart::At(_), None) => ("unready", Some("it is not running and will be restarted".to_string())),
                (NextStart::At(_), Some(exit)) => ("unready", Some(format!("{exit}; it will be restarted"))),
            },
        };
        // What is said without a process is about the attempt that the record has; the process of a later one may have
        // ended before it was reported.
        let attempt = match state {
            "unready" | "stopped" if self.process.is_none() => recorded.attempt.max(1),
            _ => self.attempt.max(recorded.attempt),
        };
        // `starting` would begin a new attempt; for one that the record knows, `unready` is reported.
        if state == "starting"
            && attempt == recorded.attempt
            && !["waiting", "starting"].contains(&recorded.state.as_str())
        {
            (state, reason) = ("unready", self.first_failure());
        }
        let has_other_reason = reason
            .as_deref()
            .is_some_and(|reason| state == "unready" && is_other_reason(recorded.reason.as_deref(), reason));
        if recorded.state == state && recorded.attempt == attempt && !has_other_reason {
            return None;
        }
        if state == "starting" {
            reason = Some(claim_reason(coordinator, self.last_exit.as_deref().filter(|_| attempt > 1)));
        }
        Some(Update::Report {
            agent: self.id.agent.clone(),
            state,
            version: self.id.version,
            job: self.id.job.clone(),
            attempt,
            reason,
        })
    }
}

/// Substitutes variables in all strings of a JSON value. Unknown ones stay as they are, since META is informational.
fn interpolate_json(json: &Json, environment: &BTreeMap<String, String>, port: u16) -> Json {
    match json {
        Json::String(text) => Json::String(filled(text, environment, Some(port)).unwrap_or_else(|_| text.clone())),
        Json::Array(items) => items.iter().map(|item| interpolate_json(item, environment, port)).collect(),
        Json::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), interpolate_json(value, environment, port))).collect()
        }
        other => other.clone(),
    }
}
