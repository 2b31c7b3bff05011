//! What a command leads to: one match, one function per command. A function first judges, then lets things happen;
//! what it judged was brought up to `now` before (`Draft::process_due`), and what follows by itself comes after
//! (`Draft::advance`). A refusal drops the draft, so it changes nothing.

use super::command::{Check, Command, Context, Deploy, Operate, Register, Report, ReportedState, Rollback, RollbackTo};
use super::deployment::{Cause, Deployment, Mode, Receipt, Status};
use super::instance::{Health, Instance, InstanceKey, InstanceState, TaskKind};
use super::manifest::{self, Manifest, ManifestText, BATCH_AGENT};
use super::record::Record;

use super::draft::{instance_ref, Actor, Draft};
use super::event::{AgentReport, ChangeSet, EventBody, SilentChange};
use super::evolve::predecessors;
use super::planner::{self, StoredVersion, VersionMeta, VersionPlan, VersionSpec};
use super::policy::Policy;
use super::rejection::Rejection;
use super::services::CheckStatus;
use super::services::Service;
use super::transaction::Transaction;
use super::version::Version;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The most versions that may have a tag, for a tagged version is never trimmed.
pub const TAGS_MAX: usize = 1_000;
/// The most batch runs that may be outstanding, for what runs is never trimmed.
pub const RUNS_MAX: usize = 1_000;
/// How many instances a key may have for each agent that `deploy.agents-max` allows: what was told to stop and never
/// reports it stays on the record.
pub const INSTANCES_PER_AGENT: usize = 4;
/// How many service instances a key may have for each agent that `deploy.agents-max` allows.
pub const SERVICES_PER_AGENT: usize = 10;

/// How deep the meta of a service instance may be nested.
pub const META_DEPTH: usize = 32;

/// How much of what is due one tick takes up.
pub const MAX_DUE_PER_TICK: usize = 256;

/// What a command is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecisionReply {
    Receipt(Receipt),
    /// 1 where it changed something, 0 where it was known already or stale.
    Changed(bool),
    Nothing,
}

/// A command that was not refused. Where `batch.changes` is empty, nothing changed and `record` equals the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub batch: ChangeSet,
    pub record: Record,
    pub reply: DecisionReply,
}

/// What a command leads to, beside the record as it is.
pub fn decide(record: Option<&Record>, command: &Command, context: &Context) -> Result<Decision, Rejection> {
    let mut after = record.cloned().unwrap_or_default();
    let pending = decide_in_place(&mut after, command, context)?;
    let batch = pending.batch.clone();
    let reply = pending.commit();
    Ok(Decision { batch, record: after, reply })
}

/// A command that was not refused, done on the record itself. Unless it is committed, the record is as it was.
#[derive(Debug)]
pub struct Uncommitted<'r> {
    record: Transaction<'r>,
    /// Without changes, there is nothing to commit.
    pub batch: ChangeSet,
    pub reply: DecisionReply,
}

impl Uncommitted<'_> {
    /// The record with the changes, its log not yet cut.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The bytes of the batch's events, where the log keeps bytes.
    pub fn encoded_events(&self) -> &[u8] {
        self.record.encoded_events()
    }

    /// Lets the changes stand, and gives the reply.
    pub fn commit(self) -> DecisionReply {
        self.record.commit(self.batch.log_max);
        self.reply
    }
}

/// Decides in place: the same as [`decide`], without a copy of the record. An empty record is that of a new key.
pub fn decide_in_place<'r>(
    record: &'r mut Record,
    command: &Command,
    context: &Context,
) -> Result<Uncommitted<'r>, Rejection> {
    if record.deployment.is_none() && !matches!(command, Command::Deploy(_)) {
        return Err(Rejection::NoSuchKey(context.key.to_string()));
    }
    let mut draft = Draft::on(record, context);
    let request = match command {
        Command::Deploy(Deploy { request, .. }) | Command::Rollback(Rollback { request, .. }) => request.as_ref(),
        _ => None,
    };
    if let Some(known) = request.and_then(|id| draft.record.requests.iter().find(|r| r.request == *id)) {
        let reply = DecisionReply::Receipt(known.receipt.clone());
        return Ok(done(draft, reply));
    }
    draft.process_due(if matches!(command, Command::Tick) { MAX_DUE_PER_TICK } else { usize::MAX });
    let reply = match command {
        Command::Deploy(deploy) => {
            let outcome = self::deploy(&mut draft, deploy)?;
            Answer::Receipt(matches!(outcome, Deployed::Unchanged).then_some(Mode::Unchanged))
        }
        Command::Rollback(rollback) => Answer::Receipt(self::rollback(&mut draft, rollback)?),
        Command::Promote(op) => promote(&mut draft, op)?,
        Command::Pause(op) => pause(&mut draft, op)?,
        Command::Resume(op) => resume(&mut draft, op)?,
        Command::Fail(op) => fail(&mut draft, op)?,
        Command::Stop(op) => stop(&mut draft, op)?,
        Command::Tag { version, tag } => self::tag(&mut draft, *version, tag)?,
        Command::Untag { tag } => untag(&mut draft, tag)?,
        Command::Report(report) => Answer::Changed(self::report(&mut draft, report)?),
        Command::Register(register) => Answer::Changed(self::register(&mut draft, register)?),
        Command::Check(check) => Answer::Changed(self::check(&mut draft, check)?),
        Command::Deregister { instance } => Answer::Changed(deregister(&mut draft, instance)),
        Command::Tick => Answer::Nothing,
    };
    draft.advance();
    let reply = match reply {
        Answer::Receipt(mode) => draft.receipt(mode).map_or(DecisionReply::Nothing, DecisionReply::Receipt),
        Answer::Changed(changed) => DecisionReply::Changed(changed),
        Answer::Nothing => DecisionReply::Nothing,
    };
    if let (Some(id), DecisionReply::Receipt(receipt)) = (request, &reply) {
        draft.emit_silent(SilentChange::RequestRecorded { request: id.clone(), receipt: receipt.clone() });
    }
    Ok(done(draft, reply))
}

fn done<'r>(draft: Draft<'r, '_>, reply: DecisionReply) -> Uncommitted<'r> {
    let log_max = draft.context.limits.events_max;
    Uncommitted { record: draft.record, batch: ChangeSet { changes: draft.changes, log_max }, reply }
}

/// A reply before what follows by itself has happened.
enum Answer {
    /// With another mode than the deployment's own.
    Receipt(Option<Mode>),
    Changed(bool),
    Nothing,
}

const RECEIPT: Answer = Answer::Receipt(None);

fn check_deployment_id(draft: &Draft, id: &Option<Arc<str>>) -> Result<Arc<Deployment>, Rejection> {
    let Some(d) = &draft.record.deployment else { return Err(Rejection::NoSuchKey(draft.context.key.to_string())) };
    match id {
        Some(given) if *given != d.id => {
            Err(Rejection::OtherDeployment { current: d.id.to_string(), given: given.to_string() })
        }
        _ => Ok(d.clone()),
    }
}

fn bad_state(d: &Deployment, expected: &'static str) -> Rejection {
    Rejection::BadState { deployment_id: d.id.to_string(), status: d.status.name(), expected }
}

// ---- DEPLOY and ROLLBACK -------------------------------------------------------------------------------------------

pub(super) enum Deployed {
    Unchanged,
    Begun { proposal: VersionPlan, warnings: Vec<String> },
}

/// rule 4.1, 4.2, 4.5 to 4.8. PLAN asks the same, and throws the draft away.
pub(super) fn deploy(draft: &mut Draft, deploy: &Deploy) -> Result<Deployed, Rejection> {
    let newest = draft.record.last_version;
    if let Some(given) = deploy.if_version.filter(|given| *given != newest) {
        return Err(Rejection::OtherVersion { newest, given });
    }
    let limits = draft.context.limits;
    if deploy.manifest.len() > limits.manifest_max_bytes {
        return Err(Rejection::Limit { what: "MANIFEST".to_string(), max: limits.manifest_max_bytes as u64 });
    }
    let reading = Manifest::read(&deploy.manifest).map_err(Rejection::Invalid)?;
    let (manifest, mut faults) = (reading.manifest, reading.faults);
    let node_ids = manifest.node_ids();
    if reading.nodes_are_sound {
        match &deploy.agents {
            Some(agents) => faults.extend(manifest::agents_violations(&node_ids, agents)),
            None if node_ids.is_empty() => {
                faults.push("nodes must have at least one node, or AGENTS must be given".to_string());
            }
            None => {}
        }
    }
    let policy = Policy::default().merged_with(&manifest.policy).merged_with(&deploy.policy);
    if reading.policy_is_sound {
        faults.extend(policy.conflicts());
    }
    if !faults.is_empty() {
        return Err(Rejection::Invalid(faults));
    }
    let agents = deploy.agents.as_ref().map_or(node_ids.len(), Vec::len);
    if agents > limits.agents_max {
        return Err(Rejection::Limit { what: "the number of agents".to_string(), max: limits.agents_max as u64 });
    }
    let content = shared_content(&draft.record, &deploy.manifest);
    let candidate = VersionSpec {
        manifest: &manifest,
        content,
        agents: deploy.agents.as_ref().map(|agents| agents.iter().cloned().collect()),
        bundle: deploy.bundle.clone(),
        policy,
        requested_job: deploy.job.clone(),
        deployment_id: draft.context_id(),
    };
    validate_job_type(&draft.record, &candidate)?;
    if is_unchanged(&draft.record, &candidate, false) {
        return Ok(Deployed::Unchanged);
    }
    if let Some(tag) = &deploy.tag {
        validate_tag(&draft.record, tag, None)?;
    }
    let mut warnings = manifest.warnings.clone();
    if let Some(d) = draft.deployment().filter(|d| d.status.is_active()) {
        warnings.push(format!("deployment {} is {} and will be cancelled", d.id, d.status.name()));
    }
    let by = draft.by(&deploy.reason);
    draft.supersede(&by, &format!("version {}", newest + 1));
    let proposal = planner::plan_version(&draft.record, &candidate);
    validate_job(&draft.record, &candidate, &proposal)?;
    validate_runs(&draft.record, &proposal)?;
    validate_instances(draft, &proposal)?;
    let meta = VersionMeta {
        tag: deploy.tag.clone(),
        rollback_of: None,
        cause: None,
        by: by.name,
        reason: deploy.reason.clone(),
    };
    planner::begin(draft, &candidate, &proposal, meta);
    Ok(Deployed::Begun { proposal, warnings })
}

/// Equal manifests are kept once.
fn shared_content(record: &Record, text: &[u8]) -> Arc<ManifestText> {
    let known = record.versions.iter().rev().find(|v| v.content.text().as_bytes() == text);
    match known {
        Some(version) => version.content.clone(),
        None => Arc::new(ManifestText::new(Arc::from(String::from_utf8_lossy(text)))),
    }
}

/// rule 8 "Batch": a key does not turn from service to batch, or back, while instances run.
fn validate_job_type(record: &Record, new: &VersionSpec) -> Result<(), Rejection> {
    let batch = new.manifest.job_type.is_batch();
    let other = record
        .instances
        .iter()
        .filter(|i| i.is_running())
        .find_map(|i| record.version(i.version).filter(|v| v.job_type.is_batch() != batch));
    match other {
        None => Ok(()),
        Some(version) => Err(Rejection::Invalid(vec![format!(
            "type {} cannot follow {} while instances of version {} run",
            new.manifest.job_type.name(),
            version.job_type.name(),
            version.number
        )])),
    }
}

/// rule 4.2: manifest, bundle, agents and policy equal those of the current deployment, and that one is active or
/// successful. Where nothing runs any more there is something to do (rule 4.1), and a batch job is a rerun (rule 4.7).
fn is_unchanged(record: &Record, new: &VersionSpec, only_active: bool) -> bool {
    let Some(d) = &record.deployment else { return false };
    let counts =
        if only_active { d.status.is_active() } else { d.status.is_active() || d.status == Status::Successful };
    if !counts || new.manifest.job_type.is_batch() || record.instances.running() == 0 {
        return false;
    }
    let Some(version) = record.version(d.target_version) else { return false };
    version.bundle == new.bundle
        && version.policy == new.policy
        && same_agents(version, new)
        && same_manifest(version, new)
}

fn same_agents(version: &Version, new: &VersionSpec) -> bool {
    let names = |agents_with_nodes: Vec<(Arc<str>, Arc<str>)>| {
        agents_with_nodes.into_iter().map(|(agent, _)| agent).collect::<BTreeSet<_>>()
    };
    names(version.agents_with_nodes())
        == names(manifest::agents_with_nodes(&new.manifest.node_ids(), new.agents.as_deref()))
}

fn same_manifest(version: &Version, new: &VersionSpec) -> bool {
    version.content == new.content
        || Manifest::parse(version.content.text().as_bytes()).is_ok_and(|old| old.value == new.manifest.value)
}

/// A second job needs a name that no instance has: otherwise nobody could tell the two sides apart. A first one needs
/// a name in which nothing is still to stop: otherwise an agent would run twice in one job.
fn validate_job(record: &Record, new: &VersionSpec, proposal: &VersionPlan) -> Result<(), Rejection> {
    let Some(job) = &new.requested_job else { return Ok(()) };
    let mut named = record.instances.iter().filter(|i| i.job_id == *job);
    let taken = match proposal.mode {
        Mode::BlueGreen => named.next().is_some(),
        Mode::Initial => named.any(|i| i.is_stopping() && i.state.is_running()),
        _ => false,
    };
    match taken {
        true => Err(Rejection::JobTaken(job.to_string())),
        false => Ok(()),
    }
}

fn validate_runs(record: &Record, proposal: &VersionPlan) -> Result<(), Rejection> {
    let outstanding = record.instances.of_agent(BATCH_AGENT).len();
    if proposal.mode == Mode::VersionOnly && outstanding >= RUNS_MAX {
        return Err(Rejection::Limit { what: "the number of outstanding runs".to_string(), max: RUNS_MAX as u64 });
    }
    Ok(())
}

fn validate_instances(draft: &Draft, proposal: &VersionPlan) -> Result<(), Rejection> {
    let max = draft.context.limits.agents_max.saturating_mul(INSTANCES_PER_AGENT);
    match draft.record.instances.len() + proposal.changed.len() > max {
        true => Err(Rejection::Limit { what: "the number of instances".to_string(), max: max as u64 }),
        false => Ok(()),
    }
}

/// rule 4.12. The mode to reply, where it is not the deployment's own.
fn rollback(draft: &mut Draft, rollback: &Rollback) -> Result<Option<Mode>, Rejection> {
    let d = check_deployment_id(draft, &rollback.id)?;
    let record = &draft.record;
    let number = match &rollback.to {
        RollbackTo::Version(number) => *number,
        RollbackTo::Tag(tag) => record.version_of_tag(tag).ok_or_else(|| Rejection::NoSuchTag(tag.to_string()))?.number,
        RollbackTo::NewestStable => record.rollback_target().ok_or(Rejection::NoStableVersion)?,
    };
    let version = record.version(number).ok_or(Rejection::NoSuchVersion(number))?;
    if !version.job_type.is_batch() {
        if number == d.target_version && d.status == Status::Successful {
            return Err(Rejection::RunsAlready { version: number });
        }
        if !version.stable {
            return Err(Rejection::NeverStable { version: number });
        }
    }
    let old = StoredVersion::read(record, number).map_err(|fault| Rejection::Invalid(vec![fault]))?;
    let policy = old.rollback_policy().merged_with(&rollback.policy);
    let faults = policy.conflicts();
    if !faults.is_empty() {
        return Err(Rejection::Invalid(faults));
    }
    let candidate = old.candidate(policy.clone(), draft.context_id());
    validate_job_type(record, &candidate)?;
    if is_unchanged(record, &candidate, true) {
        return Ok(Some(Mode::Unchanged));
    }
    if old.job_type().is_batch() {
        validate_runs(record, &planner::plan_version(record, &candidate))?;
    }
    let by = draft.by(&rollback.reason);
    draft.supersede(&by, &format!("a rollback to version {number}"));
    let meta =
        VersionMeta { tag: None, rollback_of: Some(number), cause: None, by: by.name, reason: rollback.reason.clone() };
    planner::roll_back(draft, &old, policy, number, meta);
    Ok(None)
}

// ---- the operator's other commands ---------------------------------------------------------------------------------

/// rule 4.4.
fn promote(draft: &mut Draft, op: &Operate) -> Result<Answer, Rejection> {
    let d = check_deployment_id(draft, &op.id)?;
    let awaits = "awaiting_promotion";
    match d.status {
        Status::AwaitingPromotion => {
            let by = draft.by(&op.reason);
            draft.promote(by);
            Ok(RECEIPT)
        }
        Status::Running | Status::Successful if d.promoted => Ok(RECEIPT),
        Status::Running if d.canaries > 0 => {
            let (what, desired) = match d.mode {
                Mode::InPlace => ("canaries", d.canaries as usize),
                Mode::BlueGreen => ("candidates", d.changed.len()),
                _ => return Err(bad_state(&d, awaits)),
            };
            let healthy = draft.own_counts().healthy;
            Err(Rejection::Unhealthy { healthy, desired, what, why: draft.who_is_not_healthy() })
        }
        _ => Err(bad_state(&d, awaits)),
    }
}

const ACTIVE: &str = "an active deployment";

/// rule 4.13.
fn pause(draft: &mut Draft, op: &Operate) -> Result<Answer, Rejection> {
    let d = check_deployment_id(draft, &op.id)?;
    if !d.status.is_active() {
        return Err(bad_state(&d, ACTIVE));
    }
    if d.status != Status::Paused {
        let by = draft.by(&op.reason);
        draft.emit(d.target_version, EventBody::DeploymentPaused { by: by.name, reason: by.reason });
    }
    Ok(RECEIPT)
}

/// rule 4.13: goes on from where it was, at once.
fn resume(draft: &mut Draft, op: &Operate) -> Result<Answer, Rejection> {
    let d = check_deployment_id(draft, &op.id)?;
    if !d.status.is_active() {
        return Err(bad_state(&d, ACTIVE));
    }
    if d.status == Status::Paused {
        let by = draft.by(&op.reason);
        let status = d.paused_from.unwrap_or(Status::Running);
        let progress = d.progress.resume(draft.now());
        let body = EventBody::DeploymentResumed { status, progress, by: by.name, reason: by.reason };
        draft.emit(d.target_version, body);
    }
    Ok(RECEIPT)
}

fn fail(draft: &mut Draft, op: &Operate) -> Result<Answer, Rejection> {
    let d = check_deployment_id(draft, &op.id)?;
    if !d.status.is_active() {
        return Err(bad_state(&d, ACTIVE));
    }
    let by = draft.by(&op.reason);
    draft.fail(Cause::Operator, &words("failed", &by), by);
    Ok(RECEIPT)
}

/// `failed by ops: too slow`.
fn words(what: &str, by: &Actor) -> String {
    match &by.reason {
        Some(reason) => format!("{what} by {}: {reason}", by.name),
        None => format!("{what} by {}", by.name),
    }
}

/// Ends an active deployment, and gives every instance a `stop` task. Twice is as good as once.
fn stop(draft: &mut Draft, op: &Operate) -> Result<Answer, Rejection> {
    let d = check_deployment_id(draft, &op.id)?;
    let by = draft.by(&op.reason);
    if d.status.is_active() {
        let body = EventBody::DeploymentCancelled {
            cause: Cause::Stopped,
            description: Arc::from(words("stopped", &by)),
            by: by.name.clone(),
            reason: by.reason.clone(),
        };
        draft.emit(d.target_version, body);
    }
    let all: Vec<_> = draft.record.instances.iter().map(|i| (i.key(), i.role)).collect();
    for (key, role) in all {
        draft.request_stop(&key, role, by.clone());
    }
    Ok(RECEIPT)
}

fn tag(draft: &mut Draft, number: u64, tag: &Arc<str>) -> Result<Answer, Rejection> {
    let version = draft.record.version(number).ok_or(Rejection::NoSuchVersion(number))?.clone();
    validate_tag(&draft.record, tag, Some(number))?;
    if version.tag.as_ref() != Some(tag) {
        let by = draft.by(&None).name;
        draft.emit(number, EventBody::VersionTagged { tag: tag.clone(), replaced: version.tag.clone(), by });
    }
    Ok(RECEIPT)
}

fn validate_tag(record: &Record, tag: &Arc<str>, version: Option<u64>) -> Result<(), Rejection> {
    match record.version_of_tag(tag) {
        Some(other) if Some(other.number) != version => {
            Err(Rejection::TagTaken { tag: tag.to_string(), version: other.number })
        }
        Some(_) => Ok(()),
        // A version that has a tag gets another in its place.
        None if record.versions.iter().filter(|v| v.tag.is_some() && Some(v.number) != version).count() >= TAGS_MAX => {
            Err(Rejection::Limit { what: "the number of tags".to_string(), max: TAGS_MAX as u64 })
        }
        None => Ok(()),
    }
}

fn untag(draft: &mut Draft, tag: &Arc<str>) -> Result<Answer, Rejection> {
    let number = draft.record.version_of_tag(tag).ok_or_else(|| Rejection::NoSuchTag(tag.to_string()))?.number;
    let by = draft.by(&None).name;
    draft.emit(number, EventBody::VersionUntagged { tag: tag.clone(), by });
    Ok(RECEIPT)
}

// ---- coordinators --------------------------------------------------------------------------------------------------

/// Which instance is meant: the agent's newest one of that version and job. None where what is meant is removed_agents: stale.
fn find_instance<'r>(
    record: &'r Record,
    agent: &Arc<str>,
    version: Option<u64>,
    job: &Option<Arc<str>>,
) -> Result<Option<&'r Instance>, Rejection> {
    let all = record.instances.of_agent(agent);
    if all.is_empty() && !record.has_agent(agent) {
        return Err(Rejection::NoSuchAgent(agent.to_string()));
    }
    if let Some(number) = version {
        if record.version(number).is_none() && !all.iter().any(|i| i.version == number) {
            return Err(Rejection::NoSuchVersion(number));
        }
    }
    let meant = |i: &&Instance| {
        version.is_none_or(|number| i.version == number) && job.as_ref().is_none_or(|job| i.job_id == *job)
    };
    Ok(all.iter().rev().find(meant))
}

/// rule 3 "For coordinators", 8 "Attempts" and "Tasks".
fn report(draft: &mut Draft, report: &Report) -> Result<bool, Rejection> {
    let meant = find_instance(&draft.record, &report.agent, report.version, &report.job)?;
    let Some(instance) = meant else { return Ok(false) };
    let batch = &*instance.agent == BATCH_AGENT;
    let Some(attempt) = attempt(instance, report) else { return Ok(false) };
    let state = match report.state {
        ReportedState::Starting => InstanceState::Starting,
        ReportedState::Ready => InstanceState::Ready,
        ReportedState::Unready => InstanceState::Unready,
        ReportedState::Failed => InstanceState::Failed,
        ReportedState::Stopped => {
            let key = instance.key();
            return Ok(stopped(draft, &key, attempt, report));
        }
        ReportedState::Completed if !batch => {
            return Err(Rejection::NotABatchJob { agent: instance.agent.to_string(), version: instance.version })
        }
        ReportedState::Completed => {
            let instance = instance.clone();
            return Ok(batch_ended(draft, &instance, AgentReport::Completed, attempt, report));
        }
        ReportedState::Unsafe => {
            let instance = instance.clone();
            return Ok(mark_unsafe(draft, &instance, attempt, report));
        }
    };
    if state == InstanceState::Failed && batch {
        let instance = instance.clone();
        return Ok(batch_ended(draft, &instance, AgentReport::State(state), attempt, report));
    }
    if state == instance.state && attempt == instance.attempt {
        return Ok(false);
    }
    let version = instance.version;
    let first = instance.state == InstanceState::Waiting;
    let replaced = if first { predecessors(&draft.record, instance) } else { Vec::new() };
    let changed = state_event(draft, instance, state, attempt, report, false);
    let task = instance.task.as_ref().filter(|task| first && !batch && task.kind != TaskKind::Stop);
    let done = task.map(|task| EventBody::TaskDone {
        instance: instance_ref(instance),
        task: task.kind,
        withdrawn: false,
        removes_instance: false,
    });
    let health_effect = health_effect(instance, state, attempt, report);
    for old in &replaced {
        draft.clear_services(old, "replaced");
    }
    draft.emit(version, changed);
    if let Some(done) = done {
        draft.emit(version, done);
    }
    match health_effect {
        HealthEffect::Unhealthy(key, why) => draft.mark_unhealthy(&key, &why),
        HealthEffect::MayBreak(key) => draft.recheck_healthy(&key),
        HealthEffect::Stands => {}
    }
    Ok(true)
}

/// Which attempt is meant; None where that is over, or has started already.
fn attempt(instance: &Instance, report: &Report) -> Option<u32> {
    match (report.state, report.attempt) {
        (ReportedState::Starting, Some(given)) if given <= instance.attempt => None,
        (_, Some(given)) if given < instance.attempt => None,
        (_, Some(given)) => Some(given.max(1)),
        (ReportedState::Starting, None) if instance.state == InstanceState::Starting => None,
        (ReportedState::Starting, None) => Some(instance.attempt.saturating_add(1)),
        (_, None) => Some(instance.attempt.max(1)),
    }
}

/// What a report means for an instance's health, beside when it will be healthy.
enum HealthEffect {
    Stands,
    /// Healthy, it is so no longer where it is not ready.
    MayBreak(InstanceKey),
    Unhealthy(InstanceKey, String),
}

fn health_effect(instance: &Instance, state: InstanceState, attempt: u32, report: &Report) -> HealthEffect {
    if instance.is_stopping() {
        return HealthEffect::Stands;
    }
    match (instance.health, state) {
        // Ready again in a new attempt: what ran before has ended in between.
        (Health::Healthy, InstanceState::Ready) if attempt != instance.attempt => {
            HealthEffect::Unhealthy(instance.key(), format!("restarted: attempt {attempt}"))
        }
        (Health::Healthy | Health::Pending, InstanceState::Failed) => {
            HealthEffect::Unhealthy(instance.key(), because("failed", report))
        }
        (Health::Healthy, _) => HealthEffect::MayBreak(instance.key()),
        _ => HealthEffect::Stands,
    }
}

/// `failed: out of memory`.
fn because(what: &str, report: &Report) -> String {
    report.reason.as_ref().map_or_else(|| what.to_string(), |reason| format!("{what}: {reason}"))
}

/// An instance's state changes, with what follows for when it will be healthy.
fn state_event(
    draft: &Draft,
    instance: &Instance,
    state: InstanceState,
    attempt: u32,
    report: &Report,
    removes_instance: bool,
) -> EventBody {
    let restarted = instance.state != InstanceState::Waiting && attempt != instance.attempt;
    let broke = instance.state != InstanceState::Ready || restarted;
    let healthy_at = draft.healthy_at_if(instance, state, draft.record.services.of_instance(instance), broke);
    // After a fallback, what had been replaced counts to the old side (rule 4.6), and fails nothing.
    let fails_at_resume = state == InstanceState::Failed && draft.record.is_active() && draft.record.is_own(instance);
    EventBody::AgentState {
        instance: instance_ref(instance),
        state: AgentReport::State(state),
        attempt,
        reason: report.reason.clone(),
        healthy_at,
        removes_instance,
        fails_at_resume,
    }
}

/// `stopped`: done where it was told to, gone where another takes its place, not healthy at once where nobody asked.
fn stopped(draft: &mut Draft, key: &InstanceKey, attempt: u32, report: &Report) -> bool {
    let Some(instance) = draft.record.instances.get(key) else { return false };
    let told = instance.is_stopping();
    if !told && instance.state == InstanceState::Waiting {
        return false; // nothing of it has run that could have stopped
    }
    let replaced = draft.record.instances.of_agent(&instance.agent).iter().any(|i| {
        i.job_id == instance.job_id
            && i.created > instance.created
            && i.state == InstanceState::Waiting
            && matches!(&i.task, Some(task) if task.kind == TaskKind::Replace)
    });
    if instance.state == InstanceState::Stopped && !told && !replaced {
        return false;
    }
    if told || replaced {
        draft.clear_services(key, "stopped");
    }
    // Clearing services may have changed its outlook.
    let Some(instance) = draft.record.instances.get(key).cloned() else { return false };
    let body = state_event(draft, &instance, InstanceState::Stopped, attempt, report, replaced && !told);
    draft.emit(key.version, body);
    if told {
        let body = EventBody::TaskDone {
            instance: instance_ref(&instance),
            task: TaskKind::Stop,
            withdrawn: false,
            removes_instance: true,
        };
        draft.emit(key.version, body);
    } else if !replaced {
        draft.clear_services(key, "stopped");
        if instance.health != Health::Unhealthy {
            draft.mark_unhealthy(key, &because("stopped", report));
        }
    }
    true
}

/// rule 4.7: the outcome goes onto the version.
fn batch_ended(draft: &mut Draft, instance: &Instance, state: AgentReport, attempt: u32, report: &Report) -> bool {
    draft.clear_services(&instance.key(), "ended");
    let reference = instance_ref(instance);
    let task = instance.task.as_ref().map_or(TaskKind::Run, |task| task.kind);
    let reason = report.reason.clone();
    let body = EventBody::AgentState {
        instance: reference.clone(),
        state,
        attempt,
        reason,
        healthy_at: None,
        removes_instance: false,
        fails_at_resume: false,
    };
    draft.emit(instance.version, body);
    draft.emit(
        instance.version,
        EventBody::TaskDone { instance: reference, task, withdrawn: false, removes_instance: true },
    );
    true
}

/// rule 8 "Attempts": only about an unhealthy or pending in-place instance of an active deployment.
fn mark_unsafe(draft: &mut Draft, instance: &Instance, attempt: u32, report: &Report) -> bool {
    let Some(d) = draft.deployment() else { return false };
    let counts = d.status.is_active()
        && d.mode == Mode::InPlace
        && d.unsafe_report.is_none()
        && draft.record.is_own(instance)
        && instance.health != Health::Healthy;
    if counts {
        let body = EventBody::AgentState {
            instance: instance_ref(instance),
            state: AgentReport::Unsafe,
            attempt,
            reason: report.reason.clone(),
            healthy_at: instance.healthy_at,
            removes_instance: false,
            fails_at_resume: false,
        };
        draft.emit(instance.version, body);
    }
    counts
}

// ---- services ------------------------------------------------------------------------------------------------------

fn register(draft: &mut Draft, register: &Register) -> Result<bool, Rejection> {
    let known = draft.record.services.get(&register.instance).cloned();
    // A refresh that names neither version nor job stays where it is: the agent's newest instance may be one that
    // nobody has taken up yet, and the services of the old one stay until then (rule 8 "What an agent now runs").
    let stays = known
        .as_ref()
        .filter(|s| s.owner.agent == register.agent && register.version.is_none() && register.job.is_none());
    let owner = match stays {
        Some(service) => service.owner.clone(),
        None => match find_instance(&draft.record, &register.agent, register.version, &register.job)? {
            Some(owner) => owner.key(),
            None => return Ok(false),
        },
    };
    if let Some(meta) = &register.meta {
        match serde_json::from_str(meta) {
            Ok(value) if !manifest::is_deeper(&value, META_DEPTH) => {}
            _ => {
                return Err(Rejection::Invalid(vec![format!(
                    "META must be a JSON value of at most {META_DEPTH} levels"
                )]))
            }
        }
    }
    let max = draft.context.limits.agents_max.saturating_mul(SERVICES_PER_AGENT);
    if known.is_none() && draft.record.services.len() >= max {
        return Err(Rejection::Limit { what: "the number of service instances".to_string(), max: max as u64 });
    }
    let now = draft.now();
    let since = known.as_ref().filter(|s| s.status == register.status && s.owner == owner).map_or(now, |s| s.since);
    let service = Service {
        instance: register.instance.clone(),
        owner: owner.clone(),
        service: register.service.clone(),
        address: register.address.clone(),
        port: register.port,
        tags: register.tags.clone(),
        meta: register.meta.clone(),
        status: register.status,
        reason: None,
        ttl_ms: register.ttl_ms,
        expires_at: expiry(draft, register.ttl_ms, register.status),
        since,
    };
    if let Some(known) = known {
        let same_but = |s: &Service| Service {
            status: service.status,
            reason: None,
            expires_at: service.expires_at,
            since: service.since,
            ..s.clone()
        };
        if same_but(&known) == service {
            return Ok(refresh_service(draft, &known, register.status, None));
        }
        if known.owner != owner {
            draft.deregister(&register.instance, &format!("moved to agent {}", owner.agent));
            draft.recheck_healthy(&known.owner);
        }
    }
    let healthy_at = draft.healthy_at_with_service(&owner, &register.instance, Some(service.clone()));
    draft.emit(owner.version, EventBody::ServiceRegistered { service: Box::new(service), healthy_at });
    draft.recheck_healthy(&owner);
    Ok(true)
}

/// A critical service has nothing to lose: its TTL runs only while it is not critical.
fn expiry(draft: &Draft, ttl_ms: Option<u64>, status: CheckStatus) -> Option<u64> {
    ttl_ms.filter(|_| status != CheckStatus::Critical).map(|ttl| draft.now().saturating_add(ttl))
}

fn check(draft: &mut Draft, check: &Check) -> Result<bool, Rejection> {
    let known = draft.record.services.get(&check.instance).cloned();
    let known = known.ok_or_else(|| Rejection::NoSuchService(check.instance.to_string()))?;
    Ok(refresh_service(draft, &known, check.status, check.reason.clone()))
}

/// A new status is an event; the same one only moves the TTL, which is none (rule 8 "Services").
fn refresh_service(draft: &mut Draft, known: &Service, status: CheckStatus, reason: Option<Arc<str>>) -> bool {
    let expires_at = expiry(draft, known.ttl_ms, status);
    if known.status != status {
        draft.service_status(&known.instance, status, reason, expires_at);
        return true;
    }
    if known.expires_at != expires_at {
        draft.emit_silent(SilentChange::ServiceRefreshed { instance: known.instance.clone(), expires_at });
    }
    false
}

fn deregister(draft: &mut Draft, instance: &Arc<str>) -> bool {
    let Some(known) = draft.record.services.get(instance).cloned() else { return false };
    draft.deregister(instance, "deregistered");
    draft.recheck_healthy(&known.owner);
    true
}
