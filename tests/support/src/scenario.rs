//! The scenario language: commands to the engine as one would type them into redis-cli, each with its time, and
//! replies as short lines. Scenarios, SHOW pages and the transition matrix are written in it.
//!
//! ```text
//! manifest v1 = service a b c       a service with three nodes of one content
//! manifest v2 = service a=2 b c     like v1, with another content of `a`
//! manifest v3 = batch a             likewise: system, sysbatch
//! manifest v4 = {"nodes":[…]}       a manifest as it stands
//! limits history_max=3              the server's configuration; also events_max, agents_max, manifest_max_bytes
//! user alice                        the user of all commands from here on
//! policy MIN_HEALTHY_MS 1000 …      options that every DEPLOY and PLAN has from here on, unless it has its own
//! given v1                          v1 was deployed at 0, every agent ready at once, successful at min_healthy_ms
//!
//! @0 DEPLOY v1 MIN_HEALTHY_MS 1000  every changing command, with its options; PLAN and TICK
//! @0 STATUS | TASKS | HISTORY | SERVICES | COUNTS | NEXT
//! ```
//!
//! Every command is checked for what holds always: a rejection changes nothing, the record satisfies its invariants,
//! and the events, applied to the earlier record, give the later one.

use redis_deploy::engine::command::{
    Check, Deploy, EndDrains, Operate, Register, Report, ReportedState, Rollback, RollbackTo,
};
use redis_deploy::engine::deadline::{next_due, Due};
use redis_deploy::engine::deployment::{Cause, Receipt, Status};
use redis_deploy::engine::event::NewDeployment;
use redis_deploy::engine::instance::{DrainOutcome, Instance, InstanceKey};
use redis_deploy::engine::policy::{Policy, PolicyPatch, POLICY_FIELDS};
use redis_deploy::engine::services::CheckStatus;
use redis_deploy::engine::time::Deadline;
use redis_deploy::engine::{
    apply, decide, invariants, plan, Change, Command, Context, Decision, DecisionReply, Event, EventBody, Limits,
    Record, Rejection, SilentChange,
};
use redis_deploy::view;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// One key, its record, and the definitions of a scenario.
#[derive(Clone)]
pub struct World {
    pub key: String,
    pub by: String,
    pub limits: Limits,
    pub record: Option<Record>,
    pub manifests: BTreeMap<String, Vec<u8>>,
    pub policy: Vec<String>,
}

impl Default for World {
    fn default() -> World {
        World {
            key: "app".to_string(),
            by: "ops".to_string(),
            limits: Limits::default(),
            record: None,
            manifests: BTreeMap::new(),
            policy: Vec::new(),
        }
    }
}

/// The outcome of a command, before it is formatted.
pub enum Outcome {
    Done(Box<Decision>),
    Rejected(Rejection),
}

impl World {
    /// Decides a command and stores the new record. Panics where an invariant does not hold.
    pub fn execute(&mut self, now_ms: u64, command: &Command) -> Outcome {
        let context = Context { key: &self.key, now_ms, by: &self.by, limits: self.limits };
        match decide(self.record.as_ref(), command, &context) {
            Err(rejection) => Outcome::Rejected(rejection),
            Ok(decision) => {
                let mut folded = self.record.clone().unwrap_or_default();
                apply(&mut folded, &decision.change_set);
                assert_eq!(folded, decision.record, "the events give the record: {command:?}");
                if let Err(broken) = invariants::check(&decision.record) {
                    panic!("after {command:?} at {now_ms}: {broken}\n{:#?}", decision.change_set);
                }
                let mut revision = self.record.as_ref().map_or(0, |r| r.revision);
                for event in events(&decision) {
                    revision += 1;
                    assert_eq!(event.revision, revision, "one revision for each event");
                    assert_eq!(event.at, now_ms, "an event happens when it is decided");
                }
                assert_eq!(decision.record.revision, revision);
                self.record = Some(decision.record.clone());
                Outcome::Done(Box::new(decision))
            }
        }
    }

    /// Executes a line of a scenario and returns its reply.
    pub fn run(&mut self, line: &str) -> String {
        let words = split(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["manifest", name, "=", ..] => {
                let body = line.split_once('=').expect("matched").1.trim();
                self.manifests.insert(name.to_string(), manifest_text(body).into_bytes());
                String::new()
            }
            ["limits", settings @ ..] => {
                for setting in settings {
                    let (name, value) = setting.split_once('=').expect("limits NAME=VALUE");
                    let value: usize = value.parse().expect("a number");
                    match name {
                        "history_max" => self.limits.history_max = value,
                        "events_max" => self.limits.events_max = value,
                        "manifest_max_bytes" => self.limits.manifest_max_bytes = value,
                        "agents_max" => self.limits.agents_max = value,
                        "versions_alive_max" => self.limits.versions_alive_max = value,
                        other => panic!("unknown limit {other}"),
                    }
                }
                String::new()
            }
            ["policy", options @ ..] => {
                self.policy = options.iter().map(|word| word.to_string()).collect();
                String::new()
            }
            ["given", operands @ ..] => {
                self.given(operands);
                String::new()
            }
            ["user", name] => {
                self.by = name.to_string();
                String::new()
            }
            [time, verb, operands @ ..] if time.starts_with('@') => {
                let now: u64 = time[1..].parse().unwrap_or_else(|_| panic!("a time: {time}"));
                self.command(now, verb, operands).unwrap_or_else(|rejection| rejection)
            }
            _ => panic!("what is `{line}`?"),
        }
    }

    fn given(&mut self, operands: &[&str]) {
        self.command(0, "DEPLOY", operands).expect("a deployment");
        let waiting: Vec<Arc<str>> = self.expect_record().instances.iter().map(|i| i.agent.clone()).collect();
        for agent in waiting {
            self.command(0, "REPORT", &[&agent, "ready"]).expect("a report");
        }
        let healthy = self.expect_record().deployment.as_ref().expect("one").policy.min_healthy_ms;
        self.command(healthy, "TICK", &[]).expect("time passes");
        assert_eq!(self.expect_record().deployment.as_ref().expect("one").status, Status::Successful);
    }

    /// Returns the record. Panics where there is none.
    pub fn expect_record(&self) -> &Record {
        self.record.as_ref().expect("a record")
    }

    fn command(&mut self, now: u64, verb: &str, operands: &[&str]) -> Result<String, String> {
        match verb {
            "STATUS" => return Ok(self.record.as_ref().map_or("NOTFOUND\n".to_string(), status)),
            "TASKS" => return Ok(self.record.as_ref().map_or("NOTFOUND\n".to_string(), tasks)),
            "HISTORY" => return Ok(self.record.as_ref().map_or("NOTFOUND\n".to_string(), history)),
            "COUNTS" => return Ok(self.record.as_ref().map_or("NOTFOUND\n".to_string(), counts)),
            "SERVICES" => return Ok(self.record.as_ref().map_or("NOTFOUND\n".to_string(), services)),
            "SHOW" => {
                return Ok(self.record.as_ref().map_or("NOTFOUND\n".to_string(), |record| page(record, &self.key, now)))
            }
            "NEXT" => return Ok(self.record.as_ref().map_or("NOTFOUND\n".to_string(), next)),
            "PLAN" => {
                let asked = self.deploy(operands)?;
                let context = Context { key: &self.key, now_ms: now, by: &self.by, limits: self.limits };
                return match plan(self.record.as_ref(), &asked, &context) {
                    Ok(plan) => Ok(plan_lines(&plan)),
                    Err(rejection) => Err(rejection_line(&rejection)),
                };
            }
            _ => {}
        }
        let command = self.parse(verb, operands)?;
        match self.execute(now, &command) {
            Outcome::Rejected(rejection) => Err(rejection_line(&rejection)),
            Outcome::Done(decision) => {
                let mut text = match &decision.reply {
                    DecisionReply::Changed(changed) => format!("{}\n", u8::from(*changed)),
                    DecisionReply::Nothing if decision.change_set.changes.is_empty() => "nothing\n".to_string(),
                    DecisionReply::Nothing => String::new(),
                    DecisionReply::Receipt(r) => format!(
                        "{} v{} {} {}, job {}, revision {}\n",
                        r.deployment_id,
                        r.version,
                        r.mode.name(),
                        r.status.name(),
                        r.job_id,
                        r.revision
                    ),
                };
                if let DecisionReply::Receipt(Receipt { warnings: Some(warnings), .. }) = &decision.reply {
                    warnings.iter().for_each(|warning| text.push_str(&format!("  warning: {warning}\n")));
                }
                for change in &decision.change_set.changes {
                    text.push_str(&change_line(change));
                }
                Ok(text)
            }
        }
    }

    /// Parses a command; `Err` is the syntax error that a server would reply.
    pub fn parse(&self, verb: &str, operands: &[&str]) -> Result<Command, String> {
        let arc = |text: &str| -> Arc<str> { Arc::from(text) };
        Ok(match (verb, operands) {
            ("DEPLOY", _) => Command::Deploy(self.deploy(operands)?),
            ("ROLLBACK", options) => {
                let mut rollback = Rollback {
                    to: RollbackTo::NewestStable,
                    id: None,
                    reason: None,
                    request: None,
                    policy: PolicyPatch::default(),
                };
                each_option(options, |name, value| {
                    match name {
                        "VERSION" => rollback.to = RollbackTo::Version(number(value)),
                        "TAG" => rollback.to = RollbackTo::Tag(arc(value)),
                        "ID" => rollback.id = Some(arc(value)),
                        "REASON" => rollback.reason = Some(arc(value)),
                        "REQUEST" => rollback.request = Some(arc(value)),
                        field => policy_option(&mut rollback.policy, field, value)?,
                    }
                    Ok(())
                })?;
                Command::Rollback(rollback)
            }
            ("PROMOTE", ["FULL", options @ ..]) => {
                let Command::Promote { options, .. } = self.parse("PROMOTE", options)? else { panic!("PROMOTE") };
                Command::Promote { options, full: true }
            }
            ("STOP", ["NOW", options @ ..]) => {
                let Command::Stop { options, .. } = self.parse("STOP", options)? else { panic!("STOP") };
                Command::Stop { options, now: true }
            }
            ("DRAIN", options) => {
                let mut drain = EndDrains { version: 0, ms: 0, id: None, reason: None };
                each_option(options, |name, value| {
                    match name {
                        "VERSION" => drain.version = number(value),
                        "MS" => drain.ms = number(value),
                        "ID" => drain.id = Some(arc(value)),
                        "REASON" => drain.reason = Some(arc(value)),
                        other => panic!("unknown option {other}"),
                    }
                    Ok(())
                })?;
                Command::Drain(drain)
            }
            ("PROMOTE" | "PAUSE" | "RESUME" | "FAIL" | "STOP", options) => {
                let mut operate = Operate::default();
                each_option(options, |name, value| {
                    match name {
                        "ID" => operate.id = Some(arc(value)),
                        "REASON" => operate.reason = Some(arc(value)),
                        other => panic!("unknown option {other}"),
                    }
                    Ok(())
                })?;
                match verb {
                    "PROMOTE" => Command::Promote { options: operate, full: false },
                    "PAUSE" => Command::Pause(operate),
                    "RESUME" => Command::Resume(operate),
                    "FAIL" => Command::Fail(operate),
                    _ => Command::Stop { options: operate, now: false },
                }
            }
            ("TAG", [version, tag]) => Command::Tag { version: number(version), tag: arc(tag) },
            ("UNTAG", [tag]) => Command::Untag { tag: arc(tag) },
            ("REPORT", [agent, state, options @ ..]) => {
                let mut report = Report {
                    agent: arc(agent),
                    state: ReportedState::parse(state).unwrap_or_else(|| panic!("a state: {state}")),
                    version: None,
                    job: None,
                    attempt: None,
                    reason: None,
                    sessions: None,
                };
                each_option(options, |name, value| {
                    match name {
                        "VERSION" => report.version = Some(number(value)),
                        "JOB" => report.job = Some(arc(value)),
                        "ATTEMPT" => report.attempt = Some(number(value) as u32),
                        "REASON" => report.reason = Some(arc(value)),
                        "SESSIONS" => report.sessions = Some(number(value) as u32),
                        other => panic!("unknown option {other}"),
                    }
                    Ok(())
                })?;
                Command::Report(report)
            }
            // Rollouts do not depend on the address, which may be left out here.
            ("REGISTER", [agent, service, "INSTANCE", id, options @ ..]) => {
                let mut register = Register {
                    agent: arc(agent),
                    service: arc(service),
                    instance: arc(id),
                    address: arc("10.0.0.1"),
                    port: 80,
                    version: None,
                    job: None,
                    status: CheckStatus::Passing,
                    ttl_ms: None,
                    tags: Vec::new(),
                    meta: None,
                    reason: None,
                };
                each_option(options, |name, value| {
                    match name {
                        "ADDRESS" => register.address = arc(value),
                        "PORT" => register.port = number(value) as u16,
                        "VERSION" => register.version = Some(number(value)),
                        "JOB" => register.job = Some(arc(value)),
                        "STATUS" => register.status = CheckStatus::parse(value).expect("a check's status"),
                        "TTL" => register.ttl_ms = Some(number(value)),
                        "META" => register.meta = Some(arc(value)),
                        "REASON" => register.reason = Some(arc(value)),
                        "TAGS" => register.tags = value.split(',').map(Arc::from).collect(),
                        other => panic!("unknown option {other}"),
                    }
                    Ok(())
                })?;
                Command::Register(register)
            }
            ("CHECK", [id, state, options @ ..]) => {
                let status = CheckStatus::parse(state).expect("a status");
                let mut check = Check { instance: arc(id), status, reason: None, sessions: None };
                each_option(options, |name, value| {
                    match name {
                        "REASON" => check.reason = Some(arc(value)),
                        "SESSIONS" => check.sessions = Some(number(value) as u32),
                        other => panic!("unknown option {other}"),
                    }
                    Ok(())
                })?;
                Command::Check(check)
            }
            ("DEREGISTER", [id]) => Command::Deregister { instance: arc(id) },
            ("TICK", []) => Command::Tick,
            _ => panic!("what is {verb} {operands:?}?"),
        })
    }

    fn deploy(&self, operands: &[&str]) -> Result<Deploy, String> {
        let [name, rest @ ..] = operands else { panic!("DEPLOY which manifest?") };
        let manifest = self.manifests.get(*name).unwrap_or_else(|| panic!("no manifest {name}")).clone();
        let mut deploy = Deploy { manifest, ..Deploy::default() };
        let words: Vec<&str> = self.policy.iter().map(String::as_str).chain(rest.iter().copied()).collect();
        let mut rest = words.as_slice();
        while let [name, value, more @ ..] = rest {
            rest = more;
            let text: Arc<str> = Arc::from(*value);
            match *name {
                "BUNDLE" => deploy.bundle = Some(text),
                "JOB" => deploy.job = Some(text),
                "TAG" => deploy.tag = Some(text),
                "REASON" => deploy.reason = Some(text),
                "REQUEST" => deploy.request = Some(text),
                "IFVERSION" => deploy.if_version = Some(number(value)),
                "AGENTS" => {
                    let n = number(value) as usize;
                    deploy.agents = Some(more[..n].iter().map(|agent| Arc::from(*agent)).collect());
                    rest = &more[n..];
                }
                field => policy_option(&mut deploy.policy, field, value)?,
            }
        }
        assert!(rest.is_empty(), "an option without a value: {rest:?}");
        Ok(deploy)
    }
}

fn each_option(mut options: &[&str], mut option: impl FnMut(&str, &str) -> Result<(), String>) -> Result<(), String> {
    while let [name, value, rest @ ..] = options {
        option(name, value)?;
        options = rest;
    }
    assert!(options.is_empty(), "an option without a value: {options:?}");
    Ok(())
}

fn policy_option(patch: &mut PolicyPatch, name: &str, value: &str) -> Result<(), String> {
    let field = name.to_ascii_lowercase();
    assert!(POLICY_FIELDS.iter().any(|known| known.name == field), "unknown option {name}");
    patch.set_option(&field, value).map_err(|error| format!("ERR {name}{} {}\n", error.place, error.expected))
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("a number: {text}"))
}

/// Words, with quotes of either kind around those with blanks or the other kind in them, as redis-cli has them.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quote, mut any) = (None, false);
    for c in line.chars() {
        match c {
            '"' | '\'' if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() && !any && !line.starts_with("manifest") => {
                quote = Some(c);
                any = true;
            }
            ' ' if quote.is_none() => {
                if any {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            c => {
                word.push(c);
                any = true;
            }
        }
    }
    if any {
        words.push(word);
    }
    words
}

/// `service a=2 b c`, or the JSON itself.
pub fn manifest_text(body: &str) -> String {
    let mut words = body.split(' ');
    let Some(kind @ ("service" | "system" | "batch" | "sysbatch")) = words.next() else { return body.to_string() };
    let nodes: Vec<String> = words
        .map(|word| {
            let (node, content) = word.split_once('=').unwrap_or((word, "1"));
            format!(r#"{{"node_id":"{node}","image":"{content}"}}"#)
        })
        .collect();
    format!(r#"{{"type":"{kind}","nodes":[{}]}}"#, nodes.join(","))
}

pub fn events(decision: &Decision) -> impl Iterator<Item = &Arc<Event>> {
    decision.change_set.changes.iter().filter_map(|change| match change {
        Change::Event(event) => Some(event),
        Change::Silent(_) => None,
    })
}

// ---- formatting -----------------------------------------------------------------------------------------------------

pub fn rejection_line(rejection: &Rejection) -> String {
    format!("{} {}\n", rejection.code().word(), rejection)
}

fn maybe<T: std::fmt::Display>(value: &Option<T>) -> String {
    value.as_ref().map_or("-".to_string(), T::to_string)
}

fn because(reason: &Option<Arc<str>>) -> String {
    reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"))
}

fn clock(clock: &Deadline) -> String {
    match clock {
        Deadline::Off => "off".to_string(),
        Deadline::Running { at } => format!("@{at}"),
        Deadline::Paused { left_ms } => format!("held {left_ms}"),
    }
}

fn list(agents: &[Arc<str>]) -> String {
    agents.iter().map(|agent| agent.to_string()).collect::<Vec<_>>().join(" ")
}

fn cause(cause: &Option<Cause>) -> String {
    cause.map_or("-".to_string(), |cause| cause.name().to_string())
}

pub fn change_line(change: &Change) -> String {
    match change {
        Change::Event(event) => format!("{} {}\n", event.revision, event_line(event)),
        Change::Silent(SilentChange::ServiceRefreshed { instance, expires_at }) => {
            format!("- {instance} refreshed until @{}\n", maybe(expires_at))
        }
        Change::Silent(SilentChange::SessionsReported { instance, sessions, idle }) => {
            let idle = if *idle == Deadline::Off { String::new() } else { format!(", idle {}", clock(idle)) };
            format!("- {} v{} holds {sessions} sessions{idle}\n", instance.agent, instance.version)
        }
        Change::Silent(SilentChange::RequestRecorded { request, .. }) => format!("- request {request} remembered\n"),
    }
}

fn new_deployment(b: &NewDeployment) -> String {
    let mut text = format!("{} {}", b.mode.name(), b.strategy.name());
    if b.strategy != b.requested_strategy {
        write!(text, " for {}", b.requested_strategy.name()).expect("a string");
    }
    write!(text, ": {};", b.mode_reason).expect("a string");
    if !b.changed.is_empty() {
        write!(text, " changed {};", list(&b.changed)).expect("a string");
    }
    if !b.removed_agents.is_empty() {
        write!(text, " removed {};", list(&b.removed_agents)).expect("a string");
    }
    if b.canaries > 0 {
        write!(text, " canaries {};", b.canaries).expect("a string");
    }
    if let Some(number) = b.version.rollback_of {
        write!(text, " rollback of v{number};").expect("a string");
    }
    if let Some(cause) = b.cause {
        write!(text, " after {};", cause.name()).expect("a string");
    }
    if let Some(tag) = &b.version.tag {
        write!(text, " tag {tag};").expect("a string");
    }
    if !b.trimmed.is_empty() {
        write!(text, " trimmed {:?};", b.trimmed).expect("a string");
    }
    write!(text, " progress {}; by {}{}", clock(&b.progress), b.version.by, because(&b.version.reason))
        .expect("a string");
    text
}

fn outcome(outcome: DrainOutcome) -> String {
    match outcome {
        DrainOutcome::Stop => "to stop".to_string(),
        DrainOutcome::Replace { version } => format!("for v{version}"),
        DrainOutcome::Open => "for nothing yet".to_string(),
    }
}

fn holding(sessions: &Option<u32>) -> String {
    sessions.map_or("sessions unknown".to_string(), |sessions| format!("{sessions} sessions"))
}

pub fn event_line(event: &Event) -> String {
    let v = event.version;
    let name = event.body.name();
    match &event.body {
        EventBody::DeploymentStarted(b) | EventBody::DeploymentNoop(b) | EventBody::VersionRecorded(b) => {
            format!("{name} v{v} {}", new_deployment(b))
        }
        EventBody::RollbackStarted { from_version, rollback_of, cause: why, by, reason } => format!(
            "{name} v{v} from v{from_version} to the content of v{rollback_of}, cause {}, by {by}{}",
            cause(why),
            because(reason)
        ),
        EventBody::TaskIssued { instance, task, from_version, attempt, bundle, deadline, by, reason, drain } => {
            let mut text = format!("{name} {} {} v{v} {}", task.name(), instance.agent, instance.role.name());
            if let Some(from) = from_version {
                write!(text, " from v{from}").expect("a string");
            }
            write!(text, " in {} attempt {attempt}", instance.job_id).expect("a string");
            if let Some(bundle) = bundle {
                write!(text, " bundle {bundle}").expect("a string");
            }
            if *deadline != Deadline::Off {
                write!(text, " healthy deadline {}", clock(deadline)).expect("a string");
            }
            if let Some(drain) = drain {
                let (outcome, end) = (outcome(drain.outcome), clock(&drain.deadline));
                write!(text, " {outcome}, ends {end}, idle {} ms", drain.idle_ms).expect("a string");
            }
            if &**by != "auto" {
                write!(text, " by {by}{}", because(reason)).expect("a string");
            }
            text
        }
        EventBody::TaskDone { instance, task, withdrawn, removes_instance } => format!(
            "{name} {} {} v{v}{}{}",
            task.name(),
            instance.agent,
            if *withdrawn { " withdrawn" } else { "" },
            if *removes_instance { " leaves" } else { "" }
        ),
        EventBody::AgentState { instance, state, attempt, reason, healthy_at, removes_instance, fails_at_resume } => {
            let mut text = format!("{name} {} v{v} {} attempt {attempt}", instance.agent, state.name());
            if let Some(at) = healthy_at {
                write!(text, " healthy @{at}").expect("a string");
            }
            text.push_str(if *removes_instance { " leaves" } else { "" });
            text.push_str(if *fails_at_resume { " fails at resume" } else { "" });
            text + &because(reason)
        }
        EventBody::AgentHealthy { instance, progress } => {
            format!("{name} {} v{v} progress {}", instance.agent, clock(progress))
        }
        EventBody::AgentUnhealthy { instance, reason, resumes_with, fails_at_resume } => {
            let mut text = format!("{name} {} v{v}: {reason}", instance.agent);
            if let Some(progress) = resumes_with {
                write!(text, "; runs again, progress {}", clock(progress)).expect("a string");
            }
            text.push_str(if *fails_at_resume { "; fails at resume" } else { "" });
            text
        }
        EventBody::AgentDraining { instance, outcome: next, sessions, deadline, by, reason } => {
            let (outcome, end) = (outcome(*next), clock(deadline));
            let holds = holding(sessions);
            format!("{name} {} v{v} {holds}, {outcome}, ends {end} by {by}{}", instance.agent, because(reason))
        }
        EventBody::AgentDrained { instance, sessions, forced, by, reason } => {
            let forced = if *forced { " forced" } else { "" };
            format!("{name} {} v{v} {}{forced} by {by}{}", instance.agent, holding(sessions), because(reason))
        }
        EventBody::AwaitingPromotion { healthy } => format!("{name} v{v} {healthy} healthy"),
        EventBody::DeploymentPromoted { progress, by, reason, full } => {
            let full = if *full { " full" } else { "" };
            format!("{name} v{v}{full} progress {} by {by}{}", clock(progress), because(reason))
        }
        EventBody::DeploymentPaused { by, reason } => format!("{name} v{v} by {by}{}", because(reason)),
        EventBody::DeploymentResumed { status, progress, by, reason } => {
            format!("{name} v{v} {} progress {} by {by}{}", status.name(), clock(progress), because(reason))
        }
        EventBody::DeploymentFailed { cause, description, by, reason }
        | EventBody::DeploymentCancelled { cause, description, by, reason } => {
            format!("{name} v{v} {}: {description}; by {by}{}", cause.name(), because(reason))
        }
        EventBody::BakeStarted { bake } => format!("{name} v{v} {}", clock(bake)),
        EventBody::DeploymentSuccessful { description, by, reason } => {
            let by = if &**by == "auto" { String::new() } else { format!(" by {by}{}", because(reason)) };
            format!("{name} v{v} {description}{by}")
        }
        EventBody::FallbackBlueGreen { agent, reason, job_id, changed, canaries } => {
            format!("{name} v{v} for {agent}: {reason}; job {job_id}, changed {}, canaries {canaries}", list(changed))
        }
        EventBody::VersionTagged { tag, replaced, by } => {
            format!("{name} v{v} {tag} instead of {} by {by}", maybe(replaced))
        }
        EventBody::VersionUntagged { tag, by } => format!("{name} v{v} {tag} by {by}"),
        EventBody::ServiceRegistered { service, healthy_at } => format!(
            "{name} {} {} of {} v{v} {}{}{}",
            service.service,
            service.instance,
            service.owner.agent,
            service.status.name(),
            service.expires_at.map_or(String::new(), |at| format!(" until @{at}")),
            healthy_at.map_or(String::new(), |at| format!(" healthy @{at}"))
        ),
        EventBody::ServiceStatus { instance, service, agent, status, reason, expires_at, healthy_at } => format!(
            "{name} {service} {instance} of {agent} v{v} {}{}{}{}",
            status.name(),
            expires_at.map_or(String::new(), |at| format!(" until @{at}")),
            healthy_at.map_or(String::new(), |at| format!(" healthy @{at}")),
            because(reason)
        ),
        EventBody::ServiceDeregistered { instance, service, agent, reason, healthy_at } => format!(
            "{name} {service} {instance} of {agent} v{v}{} ({reason})",
            healthy_at.map_or(String::new(), |at| format!(" healthy @{at}"))
        ),
    }
}

fn policy(p: &Policy) -> String {
    let fields = serde_json::to_value(p).expect("plain data");
    let value = |name: &str| fields[name].as_str().map_or_else(|| fields[name].to_string(), str::to_string);
    let later = ["steps", "gates", "cohort"];
    let unused = serde_json::to_value(Policy::default()).expect("plain data");
    let is_shown = |name: &str| !later.contains(&name) || fields[name] != unused[name];
    let names = POLICY_FIELDS.iter().map(|field| field.name).filter(|name| is_shown(name));
    names.map(|name| format!("{name} {}", value(name))).collect::<Vec<_>>().join(" ")
}

/// Formats a record: a line for the deployment, one for its counts, one for each instance.
fn status(record: &Record) -> String {
    let d = record.deployment.as_ref().expect("a record has a deployment");
    let own = record.instances.counts(d.target_version, &d.target_job_id);
    let mut text = format!("{} {}", d.id, d.status.name());
    if d.status == Status::Paused {
        write!(text, " from {}", d.paused_from.map_or("-", Status::name)).expect("a string");
    }
    writeln!(
        text,
        ", cause {}, {} {} ({}){}{}: {}",
        cause(&d.cause),
        d.mode.name(),
        d.strategy.name(),
        d.requested_strategy.name(),
        d.rollback_of.map_or(String::new(), |of| format!(", rollback of v{of}")),
        if d.promoted { ", promoted" } else { "" },
        d.ended.as_deref().unwrap_or(&d.mode_reason),
    )
    .expect("a string");
    writeln!(
        text,
        "current {} stable {} source {} target {} rollback {}; {} of {} healthy, {} pending, {} unhealthy; progress {}{}",
        maybe(&record.current_version),
        maybe(&record.stable_version()),
        maybe(&d.source_version),
        d.target_version,
        maybe(&record.rollback_target()),
        own.healthy,
        d.changed.len(),
        own.pending,
        own.unhealthy,
        clock(&d.progress),
        if d.is_baking { format!("; bakes {}", clock(&d.bake)) } else { String::new() }
    )
    .expect("a string");
    for instance in record.instances.iter() {
        text.push_str(&instance_line(instance));
    }
    text
}

fn instance_line(i: &Instance) -> String {
    let mut text = format!(
        "  {} v{} in {} {} {} {} attempt {}",
        i.agent,
        i.version,
        i.job_id,
        i.role.name(),
        i.state.name(),
        i.health.name(),
        i.attempt
    );
    if let Some(task) = &i.task {
        write!(text, ", to {}", task.kind.name()).expect("a string");
    }
    if let Some(at) = i.healthy_at {
        write!(text, ", healthy @{at}").expect("a string");
    }
    if i.deadline != Deadline::Off {
        write!(text, ", deadline {}", clock(&i.deadline)).expect("a string");
    }
    if let Some(sessions) = i.sessions {
        write!(text, ", {sessions} sessions").expect("a string");
    }
    if let Some(until) = i.standby_until {
        write!(text, ", standby until @{until}").expect("a string");
    }
    if let Some(version) = i.adopted_for {
        write!(text, ", adopted for v{version}").expect("a string");
    }
    if let Some(drain) = &i.drain {
        write!(text, ", drain {:?} {}", drain.phase, outcome(drain.outcome)).expect("a string");
        if drain.is_open() {
            write!(text, " ends {}", clock(&drain.deadline)).expect("a string");
        }
        if drain.idle != Deadline::Off {
            write!(text, ", idle {}", clock(&drain.idle)).expect("a string");
        }
    }
    text + &because(&i.reason) + "\n"
}

/// Formats a SHOW page, with a bar before each line, so that empty ones are visible.
fn page(record: &Record, key: &str, now: u64) -> String {
    let mut text = String::new();
    for line in view::show(record, key, now, view::DEFAULT_WIDTH) {
        let bar = if line.is_empty() { "|" } else { "| " };
        writeln!(text, "{bar}{line}").expect("a string");
    }
    text
}

fn tasks(record: &Record) -> String {
    let mut text = String::new();
    for i in record.instances.tasks() {
        let task = i.task.as_ref().expect("a task");
        writeln!(
            text,
            "{} {} v{} {} in {} since @{}{}",
            task.kind.name(),
            i.agent,
            i.version,
            i.role.name(),
            i.job_id,
            task.since,
            i.from_version.map_or(String::new(), |v| format!(" from v{v}"))
        )
        .expect("a string");
    }
    if text.is_empty() {
        text.push_str("no tasks\n");
    }
    text
}

fn history(record: &Record) -> String {
    let mut text = String::new();
    for v in record.versions.iter().rev() {
        writeln!(
            text,
            "v{} {} {} job {}{}{}{} outcome {} by {}{}: {}",
            v.number,
            v.deployment_id,
            v.job_type.name(),
            v.job_id,
            if v.stable { ", stable" } else { "" },
            v.tag.as_ref().map_or(String::new(), |tag| format!(", tag {tag}")),
            v.rollback_of.map_or(String::new(), |of| format!(", rollback of v{of}")),
            v.outcome.map_or("-", |o| o.name()),
            v.by,
            because(&v.reason),
            policy(&v.policy)
        )
        .expect("a string");
        if let (Some(at), Some(by)) = (v.promoted_at, &v.promoted_by) {
            writeln!(text, "  promoted @{at} by {by}").expect("a string");
        }
        if let (Some(at), Some(description)) = (v.finished_at, &v.description) {
            let cause = v.cause.map_or(String::new(), |cause| format!("{}: ", cause.name()));
            writeln!(text, "  ended @{at} {cause}{description}").expect("a string");
        }
    }
    text
}

/// Formats the versions for which each instance counts (rule 11.6).
fn counts(record: &Record) -> String {
    let mut text = String::new();
    for i in record.instances.iter() {
        let of: Vec<u64> = record.versions.iter().map(|v| v.number).filter(|number| i.counts_for(*number)).collect();
        let until = record.until_version(i);
        writeln!(text, "{} v{} in {} counts for {of:?}, until v{until}", i.agent, i.version, i.job_id)
            .expect("a string");
    }
    text
}

fn services(record: &Record) -> String {
    let mut text = String::new();
    for s in record.services.iter() {
        writeln!(
            text,
            "{} {} of {} v{} {} {} since @{}{}{}",
            s.service,
            s.instance,
            s.owner.agent,
            s.owner.version,
            record.instances.get(&s.owner).map_or("-", |owner| owner.role.name()),
            s.status.name(),
            s.since,
            s.expires_at.map_or(String::new(), |at| format!(" until @{at}")),
            because(&s.reason)
        )
        .expect("a string");
    }
    if text.is_empty() {
        text.push_str("no services\n");
    }
    text
}

fn next(record: &Record) -> String {
    let instance = |key: InstanceKey| format!("{} v{}", key.agent, key.version);
    match next_due(record) {
        None => "nothing is due\n".to_string(),
        Some((at, due)) => {
            let what = match due {
                Due::Ttl(id) => format!("TTL of {id}"),
                Due::Healthy(key) => format!("{} healthy", instance(key)),
                Due::HealthyDeadline(key) => format!("healthy deadline of {}", instance(key)),
                Due::Idle(key) => format!("{} idle", instance(key)),
                Due::DrainDeadline(key) => format!("drain deadline of {}", instance(key)),
                Due::StandbyEnd(key) => format!("end of the standby of {}", instance(key)),
                Due::BakeEnd => "end of the bake".to_string(),
                Due::ProgressDeadline => "progress deadline".to_string(),
            };
            format!("@{at} {what}\n")
        }
    }
}

fn plan_lines(plan: &redis_deploy::engine::Plan) -> String {
    let mut text = format!(
        "v{} {} {} ({}): {}\n",
        plan.version,
        plan.mode.name(),
        plan.strategy.name(),
        plan.requested_strategy.name(),
        plan.reason
    );
    for (agent, why) in &plan.changed_agents {
        writeln!(text, "  {agent}: {why}").expect("a string");
    }
    for batch in &plan.batches {
        writeln!(text, "  +{} {} {}", batch.earliest_ms, batch.role.name(), list(&batch.agents)).expect("a string");
    }
    for warning in &plan.warnings {
        writeln!(text, "  warning: {warning}").expect("a string");
    }
    text
}
