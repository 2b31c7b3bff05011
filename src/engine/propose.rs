//! What a new version would do: its mode, the agents it changes and why. DEPLOY, ROLLBACK, a revert and PLAN all ask here.

use super::deployment::{Cause, Instance, Mode, Record, Role, TaskKind};
use super::draft::Draft;
use super::event::{Beginning, EventBody};
use super::health::{Health, InstanceState};
use super::history::{JobType, Version, BATCH_AGENT};
use super::manifest::{self, Content, Manifest};
use super::policy::{Policy, Strategy};
use super::time::Clock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is to become a version.
pub(super) struct Candidate<'a> {
    pub manifest: &'a Manifest,
    pub content: Arc<Content>,
    pub agents: Option<Arc<[Arc<str>]>>,
    pub bundle: Option<Arc<str>>,
    pub policy: Policy,
    pub requested_job: Option<Arc<str>>,
    pub deployment_id: Arc<str>,
}

#[derive(Debug, Clone)]
pub(super) struct Proposal {
    pub mode: Mode,
    pub strategy: Strategy,
    pub mode_reason: String,
    /// The agents in the order in which they go, each with the reason.
    pub changed: Vec<(Arc<str>, String)>,
    pub gone: Vec<Arc<str>>,
    pub job_id: Arc<str>,
    pub source_version: Option<u64>,
    pub source_job_id: Option<Arc<str>>,
    pub canaries: usize,
}

/// What a failed deployment left waiting, with its task withdrawn: it goes with the next beginning.
fn is_leftover(instance: &Instance) -> bool {
    instance.state == InstanceState::Waiting && instance.task.is_none()
}

/// The job in which the primaries run: all of them in one (SPEC 1, "in-place updates keep the job").
fn primaries<'a>(record: &'a Record) -> impl Iterator<Item = &'a Instance> + 'a {
    record
        .instances
        .iter()
        .filter(|i| i.is_running() && matches!(i.role, Role::Primary | Role::Canary) && &*i.agent != BATCH_AGENT)
        .filter(|i| !is_leftover(i))
}

/// A job name that no instance has: the one asked for, else the deployment's id, else that with a number.
pub(super) fn free_job(record: &Record, requested: Option<&Arc<str>>, deployment_id: &Arc<str>) -> Arc<str> {
    let taken: BTreeSet<Arc<str>> = record.instances.iter().map(|i| i.job_id.clone()).collect();
    requested
        .into_iter()
        .chain([deployment_id])
        .cloned()
        .chain((2..).map(|n| Arc::from(format!("{deployment_id}-{n}"))))
        .find(|name| !taken.contains(name))
        .unwrap_or_else(|| deployment_id.clone())
}

pub(super) fn propose(record: &Record, new: &Candidate) -> Proposal {
    let own_job = || new.requested_job.clone().unwrap_or_else(|| new.deployment_id.clone());
    let mut proposal = Proposal {
        mode: Mode::VersionOnly,
        strategy: new.policy.strategy,
        mode_reason: String::new(),
        changed: Vec::new(),
        gone: Vec::new(),
        job_id: own_job(),
        source_version: record.current_version,
        source_job_id: record.current_job_id.clone(),
        canaries: 0,
    };
    if new.manifest.job_type.is_batch() {
        proposal.mode_reason = format!("job type {} has no rollout", new.manifest.job_type.name());
        return proposal;
    }
    let node_ids = new.manifest.node_ids();
    let roster = manifest::roster(&node_ids, new.agents.as_deref());
    proposal.gone = gone(record, &roster);

    let Some(primary) = primaries(record).max_by_key(|i| i.version) else {
        let why = if record.last_version == 0 { "first version" } else { "no running instance" };
        proposal.mode = Mode::Initial;
        proposal.job_id = new.requested_job.clone().unwrap_or_else(|| free_job(record, None, &new.deployment_id));
        proposal.mode_reason = why.to_string();
        proposal.changed = roster.into_iter().map(|(agent, _)| (agent, why.to_string())).collect();
        return proposal;
    };
    proposal.source_version = record.current_version.or(Some(primary.version));
    proposal.source_job_id = Some(primary.job_id.clone());

    let sources = Sources::of(record);
    let topology = sources.get(primary.version).and_then(|source| manifest::topology_change(source, new.manifest));
    let (mode, why) = match topology {
        Some(why) => (Mode::BlueGreen, why),
        None => {
            let changed = changed_agents(record, new, &roster, &sources, &primary.job_id);
            if changed.is_empty() {
                proposal.mode = Mode::Noop;
                proposal.mode_reason = "every agent runs this content and is healthy".to_string();
                proposal.job_id = primary.job_id.clone();
                return proposal;
            }
            proposal.mode_reason = format!("{} of {} agents changed", changed.len(), roster.len());
            proposal.changed = changed;
            match new.policy.strategy {
                Strategy::BlueGreen => (Mode::BlueGreen, "strategy blue-green".to_string()),
                Strategy::Rolling | Strategy::Canary => (Mode::InPlace, String::new()),
            }
        }
    };
    proposal.mode = mode;
    if mode == Mode::BlueGreen {
        proposal.strategy = Strategy::BlueGreen;
        proposal.job_id = free_job(record, new.requested_job.as_ref(), &new.deployment_id);
        proposal.changed = roster.into_iter().map(|(agent, _)| (agent, why.clone())).collect();
        proposal.gone = Vec::new();
        proposal.mode_reason = why;
    } else {
        proposal.job_id = primary.job_id.clone();
    }
    proposal.canaries = new.policy.canaries(proposal.changed.len());
    proposal
}

/// The manifests of the versions that agents run, each read once.
struct Sources(BTreeMap<u64, Manifest>);

impl Sources {
    fn of(record: &Record) -> Sources {
        let numbers: BTreeSet<u64> = record.instances.iter().map(|i| i.version).collect();
        let read = |number: u64| {
            let version = record.version(number)?;
            Manifest::parse(version.content.text().as_bytes()).ok().map(|manifest| (number, manifest))
        };
        Sources(numbers.into_iter().filter_map(read).collect())
    }

    fn get(&self, version: u64) -> Option<&Manifest> {
        self.0.get(&version)
    }
}

/// SPEC 2 and 8, "Changed agents": compared with what each agent now runs.
fn changed_agents(
    record: &Record,
    new: &Candidate,
    roster: &[(Arc<str>, Arc<str>)],
    sources: &Sources,
    job_id: &Arc<str>,
) -> Vec<(Arc<str>, String)> {
    let nodes = new.manifest.nodes_by_id();
    let old_nodes: BTreeMap<u64, BTreeMap<&str, &manifest::Node>> =
        sources.0.iter().map(|(number, manifest)| (*number, manifest.nodes_by_id())).collect();
    let why = |agent: &str, node: &str| -> Option<String> {
        let Some(old) = record.now_runs(agent) else { return Some("new agent".to_string()) };
        if !old.state.is_running() {
            return Some(format!("not running: {}", old.state.name()));
        }
        // An agent that came back to life while a later version of it was still to be started in the same job.
        let waits =
            |i: &&Instance| i.created > old.created && matches!(&i.task, Some(task) if task.kind == TaskKind::Start);
        if let Some(later) = record.instances.of_agent(agent).iter().find(waits) {
            return Some(format!("version {} is still to be started", later.version));
        }
        if old.job_id != *job_id {
            return Some(format!("it runs in job {}", old.job_id));
        }
        let Some(version) = record.version(old.version) else { return Some("it runs an unknown version".to_string()) };
        let was = old_nodes.get(&old.version).and_then(|nodes| nodes.get(&*old.node));
        match (was, nodes.get(node)) {
            (Some(was), Some(is)) => {
                if let Some(words) = manifest::node_change(was, is) {
                    return Some(words);
                }
            }
            (None, None) => {}
            _ => return Some("another node".to_string()),
        }
        if version.bundle != new.bundle {
            return Some("bundle changed".to_string());
        }
        (old.health != Health::Healthy).then(|| format!("not healthy: {}", old.health.name()))
    };
    roster.iter().filter_map(|(agent, node)| why(agent, node).map(|why| (agent.clone(), why))).collect()
}

/// The agents of the record that the new version does without.
fn gone(record: &Record, roster: &[(Arc<str>, Arc<str>)]) -> Vec<Arc<str>> {
    let kept: BTreeSet<&Arc<str>> = roster.iter().map(|(agent, _)| agent).collect();
    let left: BTreeSet<Arc<str>> = record
        .instances
        .iter()
        .filter(|i| !i.is_told_to_stop() && !kept.contains(&i.agent))
        .filter(|i| !is_leftover(i))
        .map(|i| i.agent.clone())
        .collect();
    left.into_iter().collect()
}

/// What goes onto the record with a version beside its content.
pub(super) struct Submission {
    pub tag: Option<Arc<str>>,
    pub rollback_of: Option<u64>,
    pub cause: Option<Cause>,
    pub by: Arc<str>,
    pub reason: Option<Arc<str>>,
}

/// Records the version and begins its deployment.
pub(super) fn begin(draft: &mut Draft, new: &Candidate, proposal: &Proposal, submission: Submission) {
    clear_leftovers(draft);
    let number = draft.record.last_version + 1;
    let version = Version {
        number,
        deployment_id: new.deployment_id.clone(),
        job_id: proposal.job_id.clone(),
        job_type: new.manifest.job_type,
        strategy: proposal.strategy,
        policy: new.policy.clone(),
        content: new.content.clone(),
        agents: new.agents.clone(),
        bundle: new.bundle.clone(),
        tag: submission.tag,
        stable: false,
        rollback_of: submission.rollback_of,
        outcome: None,
        submitted_at: draft.now(),
        by: submission.by,
        reason: submission.reason,
    };
    let runs = matches!(proposal.mode, Mode::Initial | Mode::InPlace | Mode::BlueGreen);
    let progress = match runs {
        true => Clock::starting(draft.now(), new.policy.progress_deadline_ms),
        false => Clock::Off,
    };
    let bundle = version.bundle.clone();
    let beginning = Box::new(Beginning {
        version,
        mode: proposal.mode,
        strategy: proposal.strategy,
        requested_strategy: new.policy.strategy,
        mode_reason: Arc::from(proposal.mode_reason.as_str()),
        cause: submission.cause,
        source_version: proposal.source_version,
        source_job_id: proposal.source_job_id.clone(),
        requested_job: new.requested_job.clone(),
        changed: proposal.changed.iter().map(|(agent, _)| agent.clone()).collect(),
        gone: proposal.gone.iter().cloned().collect(),
        canaries: proposal.canaries as u32,
        progress,
        trimmed: to_trim(&draft.record, draft.context.limits.history_max),
    });
    let body = match proposal.mode {
        Mode::Noop => EventBody::DeploymentNoop(beginning),
        Mode::VersionOnly => EventBody::VersionRecorded(beginning),
        _ => EventBody::DeploymentStarted(beginning),
    };
    draft.emit_for(new.deployment_id.clone(), number, body);
    match proposal.mode {
        Mode::Noop => draft.stop_gone(&proposal.gone),
        Mode::VersionOnly => draft.run_batch(number, proposal.job_id.clone(), bundle),
        _ => {}
    }
}

/// The leftovers go with the beginning, and their services before them, each with its event (SPEC 8 "Services").
fn clear_leftovers(draft: &mut Draft) {
    let leftovers: Vec<_> = draft.record.instances.iter().filter(|i| is_leftover(i)).map(Instance::key).collect();
    for key in leftovers {
        draft.clear_services(&key, "withdrawn");
    }
}

/// Which versions leave when one more comes: the oldest, less those that are tagged, current, the newest stable one,
/// or run by an agent (SPEC 8 "Tags").
fn to_trim(record: &Record, history_max: usize) -> Vec<u64> {
    let excess = (record.versions.len() + 1).saturating_sub(history_max.max(1));
    if excess == 0 {
        return Vec::new();
    }
    let stable = record.stable_version();
    let run: BTreeSet<u64> = record.instances.iter().map(|i| i.version).collect();
    let kept = |v: &Version| {
        v.tag.is_some()
            || Some(v.number) == record.current_version
            || Some(v.number) == stable
            || run.contains(&v.number)
    };
    record.versions.iter().filter(|v| !kept(v)).map(|v| v.number).take(excess).collect()
}

/// An old version as a candidate for a rollback to it.
pub(super) struct Old {
    manifest: Manifest,
    version: Arc<Version>,
}

impl Old {
    pub fn read(record: &Record, number: u64) -> Result<Old, String> {
        let version = record.version(number).ok_or_else(|| format!("version {number} is not in the history"))?;
        let manifest = Manifest::parse(version.content.text().as_bytes()).map_err(|faults| faults.join("; "))?;
        Ok(Old { manifest, version: version.clone() })
    }

    pub fn job_type(&self) -> JobType {
        self.version.job_type
    }

    /// SPEC 4.12: the old one's manifest, bundle and policy, less its canary.
    pub fn candidate(&self, policy: Policy, deployment_id: Arc<str>) -> Candidate<'_> {
        Candidate {
            manifest: &self.manifest,
            content: self.version.content.clone(),
            agents: self.version.agents.clone(),
            bundle: self.version.bundle.clone(),
            policy,
            requested_job: None,
            deployment_id,
        }
    }

    pub fn rollback_policy(&self) -> Policy {
        self.version.policy.for_rollback()
    }
}

/// What a rollback to a version would do.
pub(super) fn of_version(record: &Record, number: u64, deployment_id: &Arc<str>) -> Result<Proposal, String> {
    let old = Old::read(record, number)?;
    Ok(propose(record, &old.candidate(old.rollback_policy(), deployment_id.clone())))
}

/// Brings a version back because the deployment before it failed (SPEC 4.11).
pub(super) fn revert(draft: &mut Draft, number: u64, cause: Cause, reason: Arc<str>) {
    let Ok(old) = Old::read(&draft.record, number) else { return };
    let by: Arc<str> = Arc::from(super::draft::AUTO);
    let submission = Submission { tag: None, rollback_of: Some(number), cause: Some(cause), by, reason: Some(reason) };
    roll_back(draft, &old, old.rollback_policy(), number, submission);
}

/// A new deployment of an old version.
pub(super) fn roll_back(draft: &mut Draft, old: &Old, policy: Policy, number: u64, submission: Submission) {
    let id = draft.context_id();
    let from_version = draft.deployment().map_or(0, |d| d.target_version);
    let body = EventBody::RollbackStarted {
        from_version,
        rollback_of: number,
        cause: submission.cause,
        by: submission.by.clone(),
        reason: submission.reason.clone(),
    };
    let next = draft.record.last_version + 1;
    draft.emit_for(id.clone(), next, body);
    let candidate = old.candidate(policy, id);
    let proposal = propose(&draft.record, &candidate);
    begin(draft, &candidate, &proposal, submission);
}
