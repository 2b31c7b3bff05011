//! One instance that is to run here: its process, its checks, its restarts, and what is to be said of them.

use crate::checks::Outcome;
use crate::identity::Id;
use crate::manifest::{filled, mirror_neuron_variable_of_port, variable_of_port, CheckSpec, Spec};
use crate::process::{self, Group};
use crate::record::{Instance, Registration, Service, Statement};
use crate::restart::{Restarts, Verdict};
use crate::store::Note;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Child;
use std::sync::mpsc::Sender;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A process group that is ours to look after; its leader is our child, unless an earlier coordinator started it.
pub struct Process {
    pub group: Group,
    pub child: Option<Child>,
}

impl Process {
    /// Reaps it where it is our child, and says how it has ended.
    pub fn how_it_ended(&mut self) -> String {
        match self.child.take().map(|mut child| child.wait()) {
            Some(Ok(status)) => match status.code() {
                Some(code) => format!("exited with {code}"),
                None => format!("ended by {status}"),
            },
            _ => "ended; it was started by an earlier coordinator, so nobody knows how".to_string(),
        }
    }
}

/// What is known of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckState {
    /// Of a process that was found running: nothing yet.
    Unknown,
    /// Of a process that has just started: it has neither passed nor failed often enough.
    Pending,
    Passing,
    Warning(String),
    Critical(String),
}

pub struct CheckRun {
    /// Which of the services it belongs to.
    pub service: usize,
    pub spec: CheckSpec,
    pub state: CheckState,
    failures: u32,
    /// The check goes on for as long as this is kept.
    pub running: Option<Sender<()>>,
}

/// Where a service of the running process answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub name: String,
    /// As registered.
    pub address: String,
    /// Where checks go, unless they say otherwise.
    pub check_host: String,
    pub port: u16,
    pub tags: Vec<String>,
    pub meta: Option<Json>,
}

/// What comes next while no process runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    Start(Instant),
    /// Nothing: the restart policy is exhausted.
    Never(String),
}

pub struct Life {
    pub id: Id,
    pub spec: Arc<Spec>,
    /// Tells the outcomes of checks of this life's present process from those of others.
    pub token: u64,
    /// Of the process that runs, or ran last; 0: there was none.
    pub attempt: u32,
    pub ports: BTreeMap<String, u16>,
    pub restarts: Restarts,
    pub process: Option<Process>,
    pub endpoints: Vec<Endpoint>,
    pub checks: Vec<CheckRun>,
    pub was_ready: bool,
    pub next: Next,
    /// How the last process ended.
    pub last_end: Option<String>,
    /// When the TTLs of its services are to be refreshed.
    pub refresh_at: Instant,
}

impl Life {
    pub fn new(id: Id, spec: Arc<Spec>, note: Option<Note>, now: Instant) -> Life {
        let (attempt, ports, restarts, failed) = match note {
            Some(note) => (note.attempt, note.ports, note.restarts, note.failed),
            None => (0, BTreeMap::new(), Restarts::default(), None),
        };
        Life {
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
            next: failed.map_or(Next::Start(now), Next::Never),
            last_end: None,
            refresh_at: now,
        }
    }

    pub fn note(&self) -> Note {
        Note {
            id: self.id.clone(),
            attempt: self.attempt,
            process: self.process.as_ref().map(|process| (process.group.pid, process.group.start)),
            ports: self.ports.clone(),
            restarts: self.restarts.clone(),
            failed: match &self.next {
                Next::Never(reason) => Some(reason.clone()),
                Next::Start(_) => None,
            },
        }
    }

    // ---- starting and ending -------------------------------------------------------------------------------------

    /// The attempt that the next process is. One that is on the record and was never begun here is taken; otherwise it
    /// is a new one, so that nobody mistakes it for what ran before.
    pub fn next_attempt(&self, recorded: Option<&Instance>) -> u32 {
        match recorded {
            Some(instance) if instance.state == "starting" && instance.attempt > self.attempt => instance.attempt,
            Some(instance) => self.attempt.max(instance.attempt).saturating_add(1),
            None => self.attempt.saturating_add(1),
        }
    }

    /// Draws the ports of the next process: the fixed ones as they are, for the others free ones.
    pub fn draw_ports(&mut self) -> Result<(), String> {
        // Held until all are drawn, so that they differ.
        let mut held = Vec::new();
        self.ports.clear();
        for port in &self.spec.ports {
            let number = match port.fixed {
                Some(number) => number,
                None => {
                    let drawn =
                        TcpListener::bind(("0.0.0.0", 0)).and_then(|listener| Ok((listener.local_addr()?, listener)));
                    let (address, listener) =
                        drawn.map_err(|error| format!("no free port for {}: {error}", port.label))?;
                    held.push(listener);
                    address.port()
                }
            };
            self.ports.insert(port.label.clone(), number);
        }
        Ok(())
    }

    /// The environment of the process: the manifest's, and who and where it is.
    pub fn environment(&self, node: &str, state_dir: &str) -> Result<BTreeMap<String, String>, String> {
        let mut ours = BTreeMap::new();
        let mut set = |name: &str, value: String| ours.insert(name.to_string(), value);
        set(process::COORDINATOR, state_dir.to_string());
        set("DEPLOY_KEY", self.id.key.clone());
        set("DEPLOY_VERSION", self.id.version.to_string());
        set("DEPLOY_SUBMITTED_AT", self.id.submitted_at.to_string());
        set("DEPLOY_JOB", self.id.job.clone());
        set("DEPLOY_AGENT", self.id.agent.clone());
        set("DEPLOY_NODE", node.to_string());
        set("DEPLOY_ATTEMPT", self.attempt.to_string());
        set("MN_JOB_ID", self.id.job.clone());
        for (label, port) in &self.ports {
            set(&variable_of_port(label), port.to_string());
            set(&mirror_neuron_variable_of_port(label), port.to_string());
        }
        if let Some(port) = self.main_port() {
            set("PORT", port.to_string());
        }
        let mut all = BTreeMap::new();
        for (name, value) in &self.spec.environment {
            let value = filled(value, &ours, None).map_err(|fault| format!("config.environment.{name}: {fault}"))?;
            all.insert(name.clone(), value);
        }
        // What we tell an agent wins: by it we find the agent again.
        all.extend(ours);
        Ok(all)
    }

    /// The port of the first service that asked for one, else the first port at all.
    fn main_port(&self) -> Option<u16> {
        let of_services = self.spec.services.iter().filter_map(|service| self.ports.get(&service.name));
        let of_resources = self.spec.ports.iter().filter_map(|port| self.ports.get(&port.label));
        of_services.chain(of_resources).next().copied()
    }

    /// Where its services answer.
    pub fn find_endpoints(
        &self,
        environment: &BTreeMap<String, String>,
        advertised: &str,
    ) -> Result<Vec<Endpoint>, String> {
        let of_service = |service: &crate::manifest::ServiceSpec| {
            let of = |fault: String| format!("service {}: {fault}", service.name);
            let port = filled(&service.port, environment, None).map_err(of)?;
            let port = port.parse().map_err(|_| of(format!("{port} is no port")))?;
            let given = service.address.as_deref().map(|address| filled(address, environment, Some(port)).map_err(of));
            let given = given.transpose()?;
            let anywhere = given.as_deref().is_none_or(|address| ["0.0.0.0", "::", "*", ""].contains(&address));
            let fill = |text: &String| filled(text, environment, Some(port)).unwrap_or_else(|_| text.clone());
            let check_host = if anywhere { "127.0.0.1".to_string() } else { given.clone().unwrap_or_default() };
            Ok(Endpoint {
                name: service.name.clone(),
                address: given.filter(|_| !anywhere).unwrap_or_else(|| advertised.to_string()),
                check_host,
                port,
                tags: service.tags.iter().map(fill).collect(),
                meta: service.meta.as_ref().map(|meta| filled_json(meta, environment, port)),
            })
        };
        self.spec.services.iter().map(of_service).collect()
    }

    /// The checks of its services, none of them carried out yet.
    pub fn new_checks(&self, first: CheckState) -> Vec<CheckRun> {
        let of_services = self.spec.services.iter().enumerate();
        let each =
            of_services.flat_map(|(service, spec)| spec.checks.iter().map(move |check| (service, check.clone())));
        each.map(|(service, spec)| CheckRun { service, spec, state: first.clone(), failures: 0, running: None })
            .collect()
    }

    /// Takes note of the end of its process, or of its not having started. `now_ms` is unix time.
    pub fn ended(&mut self, how: String, now: Instant, now_ms: u64) {
        self.checks.clear();
        self.was_ready = false;
        self.next = match self.restarts.after_end(&self.spec.restart, now_ms) {
            Verdict::After(delay) => Next::Start(now + delay),
            Verdict::Exhausted => {
                let spent = match self.spec.restart.attempts {
                    0 => "the restart policy has no restarts".to_string(),
                    _ => format!("the restart policy is exhausted ({})", Restarts::words(&self.spec.restart)),
                };
                Next::Never(format!("{how}; {spent}"))
            }
        };
        self.last_end = Some(how);
    }

    // ---- checks --------------------------------------------------------------------------------------------------

    /// Takes a check's outcome in; true where its state is another one now.
    pub fn checked(&mut self, index: usize, outcome: Outcome) -> bool {
        let Some(check) = self.checks.get_mut(index) else { return false };
        let before = check.state.clone();
        match outcome {
            Outcome::Passing => (check.state, check.failures) = (CheckState::Passing, 0),
            Outcome::Warning(why) => (check.state, check.failures) = (CheckState::Warning(why), 0),
            Outcome::Failing(why) => {
                check.failures = check.failures.saturating_add(1);
                if check.failures >= check.spec.failures_before_critical {
                    check.state = CheckState::Critical(format!("check {}: {why}", check.spec.name));
                }
            }
        }
        let ready = self.is_up();
        self.was_ready |= ready == Some(true);
        self.checks[index].state != before
    }

    fn required(&self) -> impl Iterator<Item = &CheckRun> {
        self.checks.iter().filter(|check| check.spec.required)
    }

    /// Its process runs and its required checks pass. None while that is not known.
    pub fn is_up(&self) -> Option<bool> {
        if self.process.is_none() {
            return Some(false);
        }
        if self.required().any(|check| check.state == CheckState::Unknown) {
            return None;
        }
        Some(!self.required().any(|check| matches!(check.state, CheckState::Pending | CheckState::Critical(_))))
    }

    fn first_fault(&self) -> Option<String> {
        self.required().find_map(|check| match &check.state {
            CheckState::Critical(why) => Some(why.clone()),
            _ => None,
        })
    }

    fn status_of_service(&self, index: usize) -> (&'static str, Option<String>) {
        let of_it = || self.required().filter(|check| check.service == index);
        for check in of_it() {
            if let CheckState::Critical(why) = &check.state {
                return ("critical", Some(why.clone()));
            }
        }
        if of_it().any(|check| check.state == CheckState::Pending) {
            return ("critical", Some("not checked yet".to_string()));
        }
        for check in of_it() {
            if let CheckState::Warning(why) = &check.state {
                return ("warning", Some(format!("check {}: {why}", check.spec.name)));
            }
        }
        ("passing", None)
    }

    // ---- what is to be said --------------------------------------------------------------------------------------

    /// What its record should say and does not: of its services first, so that a verdict names the check that failed.
    pub fn statements(
        &mut self,
        recorded: &Instance,
        services: &[Service],
        ttl_ms: u64,
        now: Instant,
    ) -> Vec<Statement> {
        if self.process.is_some() && self.is_up().is_none() {
            return Vec::new();
        }
        let refresh = now >= self.refresh_at;
        if refresh {
            self.refresh_at = now + Duration::from_millis(ttl_ms / 3);
        }
        let mut all = self.about_services(services, ttl_ms, refresh);
        all.extend(self.about_itself(recorded));
        all
    }

    fn about_services(&self, services: &[Service], ttl_ms: u64, refresh: bool) -> Vec<Statement> {
        let mut all = Vec::new();
        for (index, spec) in self.spec.services.iter().enumerate() {
            let instance = self.id.service_instance(&spec.name);
            let recorded = services.iter().find(|service| service.instance == instance);
            let Some(endpoint) = self.endpoints.get(index).filter(|_| self.process.is_some()) else {
                if recorded.is_some_and(|service| service.status != "critical") {
                    let reason = Some(self.last_end.clone().unwrap_or_else(|| "it does not run".to_string()));
                    all.push(Statement::Check { instance, status: "critical", reason });
                }
                continue;
            };
            let (status, reason) = self.status_of_service(index);
            let is_here = |service: &&Service| {
                (service.address.as_str(), service.port, service.ttl_ms)
                    == (&endpoint.address, endpoint.port, Some(ttl_ms))
            };
            match recorded.filter(is_here) {
                Some(service) if service.status == status && !(refresh && status != "critical") => {}
                Some(_) => all.push(Statement::Check { instance, status, reason }),
                None => all.push(Statement::Register(Box::new(Registration {
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

    fn about_itself(&self, recorded: &Instance) -> Option<Statement> {
        let (mut state, mut reason) = match (&self.process, self.is_up()?) {
            (Some(_), true) => ("ready", None),
            // A check that has failed often enough says why it is not ready, also where it never was.
            (Some(_), false) if self.was_ready || self.first_fault().is_some() => ("unready", self.first_fault()),
            (Some(_), false) => ("starting", None),
            (None, _) => match (&self.next, &self.last_end) {
                (Next::Never(reason), _) => ("failed", Some(reason.clone())),
                // It waits for its turn: what ran in its place before is still on its way out.
                (Next::Start(_), None) if !["ready", "unready"].contains(&recorded.state.as_str()) => return None,
                (Next::Start(_), None) => ("unready", Some("it does not run; it is started again".to_string())),
                (Next::Start(_), Some(how)) => ("unready", Some(format!("{how}; it is started again"))),
            },
        };
        let attempt = self.attempt.max(recorded.attempt);
        // `starting` is what a new attempt says; of this one more is known already.
        if state == "starting"
            && attempt == recorded.attempt
            && !["waiting", "starting"].contains(&recorded.state.as_str())
        {
            (state, reason) = ("unready", self.first_fault());
        }
        if recorded.state == state && recorded.attempt == attempt {
            return None;
        }
        if state == "starting" && attempt > 1 {
            reason = self.last_end.clone().or(reason);
        }
        Some(Statement::Report {
            agent: self.id.agent.clone(),
            state,
            version: self.id.version,
            job: self.id.job.clone(),
            attempt,
            reason,
        })
    }
}

/// Meta is for other people's eyes: what cannot be filled in stays as it is.
fn filled_json(json: &Json, environment: &BTreeMap<String, String>, port: u16) -> Json {
    match json {
        Json::String(text) => Json::String(filled(text, environment, Some(port)).unwrap_or_else(|_| text.clone())),
        Json::Array(items) => items.iter().map(|item| filled_json(item, environment, port)).collect(),
        Json::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), filled_json(value, environment, port))).collect()
        }
        other => other.clone(),
    }
}
