//! The planner: the mode of a new version, and the agents it changes with the reasons. DEPLOY, ROLLBACK, reverts and
//! PLAN use it.

use super::deployment::{Cause, Mode};
use super::draft::{Actor, Draft};
use super::event::{Adopted, EventBody, NewDeployment};
use super::instance::{Health, Instance, Role, TaskKind};
use super::manifest::{self, JobType, Manifest, ManifestText, BATCH_AGENT};
use super::policy::{Policy, Strategy};
use super::record::Record;
use super::time::Deadline;
use super::version::Version;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A version about to be recorded.
pub(super) struct VersionSpec<'a> {
    pub manifest: &'a Manifest,
    pub content: Arc<ManifestText>,
    pub agents: Option<Arc<[Arc<str>]>>,
    pub bundle: Option<Arc<str>>,
    pub policy: Policy,
    pub requested_job: Option<Arc<str>>,
    /// True if what still runs the content may take over again (rule 12.5).
    pub adopts: bool,
    pub deployment_id: Arc<str>,
}

#[derive(Debug, Clone)]
pub(super) struct VersionPlan {
    pub mode: Mode,
    pub strategy: Strategy,
    pub mode_reason: String,
    /// The changed agents in the order of their release, each with the reason.
    pub changed: Vec<(Arc<str>, String)>,
    pub adopted: Vec<Adopted>,
    pub removed_agents: Vec<Arc<str>>,
    pub job_id: Arc<str>,
    pub source_version: Option<u64>,
    pub source_job_id: Option<Arc<str>>,
    pub canaries: usize,
}

/// Returns the primaries, which run in one job: an in-place update keeps the job (rule 1.4).
fn primaries<'a>(record: &'a Record) -> impl Iterator<Item = &'a Instance> + 'a {
    record
        .instances
        .iter()
        .filter(|i| i.is_running() && matches!(i.lasting_role(), Role::Primary | Role::Canary))
        .filter(|i| &*i.agent != BATCH_AGENT && !i.is_withdrawn())
}

/// Returns a job id that no instance has: the requested one, else the deployment's id, else that with a number.
pub(super) fn unused_job_id(record: &Record, requested: Option<&Arc<str>>, deployment_id: &Arc<str>) -> Arc<str> {
    let taken: BTreeSet<Arc<str>> = record.instances.iter().map(|i| i.job_id.clone()).collect();
    requested
        .into_iter()
        .chain([deployment_id])
        .cloned()
        .chain((2..).map(|n| Arc::from(format!("{deployment_id}-{n}"))))
        .find(|name| !taken.contains(name))
        .unwrap_or_else(|| deployment_id.clone())
}

pub(super) fn plan_version(record: &Record, new: &VersionSpec) -> VersionPlan {
    let mut plan = VersionPlan {
        mode: Mode::VersionOnly,
        strategy: new.policy.strategy,
        mode_reason: String::new(),
        changed: Vec::new(),
        adopted: Vec::new(),
        removed_agents: Vec::new(),
        job_id: new.requested_job.clone().unwrap_or_else(|| new.deployment_id.clone()),
        source_version: record.current_version,
        source_job_id: record.current_job_id.clone(),
        canaries: 0,
    };
    if new.manifest.job_type.is_batch() {
        plan.mode_reason = format!("job type {} has no rollout", new.manifest.job_type.name());
        return plan;
    }
    let agents_with_nodes = manifest::agents_with_nodes(&new.manifest.node_ids(), new.agents.as_deref());
    let sources = ManifestCache::of(record);
    plan_rollout(record, new, &agents_with_nodes, &sources, &mut plan);
    if new.adopts && plan.mode != Mode::Noop {
        adopt(record, new, agents_with_nodes, &sources, &mut plan);
    }
    plan
}

/// Plans a switch-back where instances in another job than the primaries' still run the content: they take over, and
/// what is missing beside them is started (rule 12.5).
fn adopt(
    record: &Record,
    new: &VersionSpec,
    agents_with_nodes: Vec<(Arc<str>, Arc<str>)>,
    sources: &ManifestCache,
    plan: &mut VersionPlan,
) {
    let serving_jobs: BTreeSet<&Arc<str>> = primaries(record).map(|i| &i.job_id).collect();
    let content = WantedContent::of(record, sources, new);
    let mut of_job: BTreeMap<&Arc<str>, Adoption> = BTreeMap::new();
    for (agent, node) in &agents_with_nodes {
        let mut jobs = BTreeSet::new();
        for instance in record.instances.of_agent(agent).iter().rev() {
            let is_adoptable = instance.can_be_adopted()
                && !serving_jobs.contains(&instance.job_id)
                && content.is_run_by(instance, node);
            if is_adoptable && jobs.insert(&instance.job_id) {
                of_job.entry(&instance.job_id).or_default().add(instance);
            }
        }
    }
    // The job with most of them; of several, the newest.
    let best = of_job.into_iter().max_by_key(|(_, adoption)| (adoption.instances.len(), adoption.newest));
    let Some((job_id, Adoption { instances: adopted, .. })) = best else { return };
    let (all, kept) = (agents_with_nodes.len(), adopted.len());
    let why = format!("{kept} of {all} agents still run this content in job {job_id}");
    plan.mode = if kept == all { Mode::SwitchBack } else { Mode::BlueGreen };
    plan.strategy = Strategy::BlueGreen;
    plan.job_id = job_id.clone();
    plan.changed = agents_with_nodes.into_iter().map(|(agent, _)| (agent, why.clone())).collect();
    plan.canaries = if kept == all { 0 } else { new.policy.canaries(all) };
    plan.mode_reason = why;
    plan.removed_agents = Vec::new();
    // Agents are released in order: those that are placed already come first.
    let is_adopted: BTreeSet<&Arc<str>> = adopted.iter().map(|adopted| &adopted.agent).collect();
    plan.changed.sort_by_key(|(agent, _)| !is_adopted.contains(agent));
    plan.adopted = adopted;
}

/// The instances of one job that a switch-back can adopt.
#[derive(Default)]
struct Adoption {
    instances: Vec<Adopted>,
    /// The revision at which the newest of them was added.
    newest: u64,
}

impl Adoption {
    fn add(&mut self, instance: &Instance) {
        self.instances.push(Adopted { agent: instance.agent.clone(), version: instance.version });
        self.newest = self.newest.max(instance.created);
    }
}

/// The content of a new version, and the nodes of the older versions that may have the same.
struct WantedContent<'a> {
    nodes: BTreeMap<&'a str, &'a manifest::Node>,
    /// By version: those with the same bundle and topology.
    alike: BTreeMap<u64, BTreeMap<&'a str, &'a manifest::Node>>,
}

impl<'a> WantedContent<'a> {
    fn of(record: &Record, sources: &'a ManifestCache, new: &VersionSpec<'a>) -> WantedContent<'a> {
        let is_alike = |number: u64, source: &Manifest| {
            record.version(number).is_some_and(|version| version.bundle == new.bundle)
                && manifest::topology_change(source, new.manifest).is_none()
        };
        let alike = sources.0.iter().filter(|(number, source)| is_alike(**number, source));
        WantedContent {
            nodes: new.manifest.nodes_by_id(),
            alike: alike.map(|(number, source)| (*number, source.nodes_by_id())).collect(),
        }
    }

    /// Returns true for an instance that runs what the new version has for its agent.
    fn is_run_by(&self, instance: &Instance, node: &str) -> bool {
        let Some(nodes) = self.alike.get(&instance.version) else { return false };
        match (nodes.get(&*instance.node), self.nodes.get(node)) {
            (Some(was), Some(is)) => manifest::node_change(was, is).is_none(),
            (None, None) => true,
            _ => false,
        }
    }
}

/// Plans a rollout in which nothing is adopted.
fn plan_rollout(
    record: &Record,
    new: &VersionSpec,
    agents_with_nodes: &[(Arc<str>, Arc<str>)],
    sources: &ManifestCache,
    plan: &mut VersionPlan,
) {
    plan.removed_agents = removed_agents(record, agents_with_nodes);
    let each = |why: &str| agents_with_nodes.iter().map(|(agent, _)| (agent.clone(), why.to_string())).collect();

    let Some(primary) = primaries(record).max_by_key(|i| i.version) else {
        let why = if record.last_version == 0 { "first version" } else { "no running instance" };
        plan.mode = Mode::Initial;
        plan.job_id = new.requested_job.clone().unwrap_or_else(|| unused_job_id(record, None, &new.deployment_id));
        plan.mode_reason = why.to_string();
        plan.changed = each(why);
        return;
    };
    plan.source_version = record.current_version.or(Some(primary.version));
    plan.source_job_id = Some(primary.job_id.clone());

    let topology = sources.get(primary.version).and_then(|source| manifest::topology_change(source, new.manifest));
    let (mode, why) = match topology {
        Some(why) => (Mode::BlueGreen, why),
        None => {
            let changed = changed_agents(record, new, agents_with_nodes, sources, &primary.job_id);
            if changed.is_empty() {
                plan.mode = Mode::Noop;
                plan.mode_reason = "every agent runs this content and is healthy".to_string();
                plan.job_id = primary.job_id.clone();
                return;
            }
            plan.mode_reason = format!("{} of {} agents changed", changed.len(), agents_with_nodes.len());
            plan.changed = changed;
            match new.policy.strategy {
                Strategy::BlueGreen => (Mode::BlueGreen, "strategy blue-green".to_string()),
                Strategy::Rolling | Strategy::Canary => (Mode::InPlace, String::new()),
            }
        }
    };
    plan.mode = mode;
    if mode == Mode::BlueGreen {
        plan.strategy = Strategy::BlueGreen;
        plan.job_id = unused_job_id(record, new.requested_job.as_ref(), &new.deployment_id);
        plan.changed = each(&why);
        plan.removed_agents = Vec::new();
        plan.mode_reason = why;
    } else {
        plan.job_id = primary.job_id.clone();
    }
    plan.canaries = new.policy.canaries(plan.changed.len());
}

/// The manifests of the versions that agents run, each parsed once.
struct ManifestCache(BTreeMap<u64, Manifest>);

impl ManifestCache {
    fn of(record: &Record) -> ManifestCache {
        let numbers: BTreeSet<u64> = record.instances.iter().map(|i| i.version).collect();
        let read = |number: u64| {
            let version = record.version(number)?;
            Manifest::parse(version.content.text().as_bytes()).ok().map(|manifest| (number, manifest))
        };
        ManifestCache(numbers.into_iter().filter_map(read).collect())
    }

    fn get(&self, version: u64) -> Option<&Manifest> {
        self.0.get(&version)
    }
}

/// Returns the changed agents (rule 2, rule 8 "Changed, again"): compared with what each agent now runs.
fn changed_agents(
    record: &Record,
    new: &VersionSpec,
    agents_with_nodes: &[(Arc<str>, Arc<str>)],
    sources: &ManifestCache,
    job_id: &Arc<str>,
) -> Vec<(Arc<str>, String)> {
    let nodes = new.manifest.nodes_by_id();
    let old_nodes: BTreeMap<u64, BTreeMap<&str, &manifest::Node>> =
        sources.0.iter().map(|(number, manifest)| (*number, manifest.nodes_by_id())).collect();
    let why = |agent: &str, node: &str| -> Option<String> {
        let Some(old) = record.running_instance(agent) else { return Some("new agent".to_string()) };
        if !old.state.is_running() {
            return Some(format!("not running: {}", old.state.name()));
        }
        if old.drain.is_some() {
            return Some(format!("version {} of it drains", old.version));
        }
        // An agent that restarted while a later version of it was still to be started in the same job.
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
    agents_with_nodes.iter().filter_map(|(agent, node)| why(agent, node).map(|why| (agent.clone(), why))).collect()
}

/// Returns the agents of the record that the new version does not have.
fn removed_agents(record: &Record, agents_with_nodes: &[(Arc<str>, Arc<str>)]) -> Vec<Arc<str>> {
    let kept: BTreeSet<&Arc<str>> = agents_with_nodes.iter().map(|(agent, _)| agent).collect();
    let left: BTreeSet<Arc<str>> = record
        .instances
        .iter()
        .filter(|i| !i.is_leaving() && !i.is_withdrawn() && i.role != Role::Standby && !kept.contains(&i.agent))
        .map(|i| i.agent.clone())
        .collect();
    left.into_iter().collect()
}

/// The properties of a version beside its content.
pub(super) struct VersionMeta {
    pub tag: Option<Arc<str>>,
    pub rollback_of: Option<u64>,
    pub cause: Option<Cause>,
    pub by: Arc<str>,
    pub reason: Option<Arc<str>>,
}

/// Records the version and starts its deployment.
pub(super) fn begin(draft: &mut Draft, new: &VersionSpec, plan: &VersionPlan, meta: VersionMeta) {
    deregister_withdrawn(draft);
    for adopted in &plan.adopted {
        draft.withdraw(&adopted.key(&plan.job_id), false);
    }
    let number = draft.record.last_version + 1;
    let version = Version {
        number,
        deployment_id: new.deployment_id.clone(),
        job_id: plan.job_id.clone(),
        job_type: new.manifest.job_type,
        strategy: plan.strategy,
        policy: new.policy.clone(),
        content: new.content.clone(),
        agents: new.agents.clone(),
        bundle: new.bundle.clone(),
        tag: meta.tag,
        stable: false,
        rollback_of: meta.rollback_of,
        outcome: None,
        submitted_at: draft.now(),
        by: meta.by,
        reason: meta.reason,
        cause: None,
        description: None,
        promoted_at: None,
        promoted_by: None,
        finished_at: None,
    };
    let runs = matches!(plan.mode, Mode::Initial | Mode::InPlace | Mode::BlueGreen | Mode::SwitchBack);
    let progress = match runs {
        true => Deadline::after(draft.now(), new.policy.progress_deadline_ms),
        false => Deadline::Off,
    };
    let started = Box::new(NewDeployment {
        version,
        mode: plan.mode,
        strategy: plan.strategy,
        requested_strategy: new.policy.strategy,
        mode_reason: Arc::from(plan.mode_reason.as_str()),
        cause: meta.cause,
        source_version: plan.source_version,
        source_job_id: plan.source_job_id.clone(),
        requested_job: new.requested_job.clone(),
        changed: plan.changed.iter().map(|(agent, _)| agent.clone()).collect(),
        adopted: plan.adopted.clone(),
        removed_agents: plan.removed_agents.iter().cloned().collect(),
        canaries: plan.canaries as u32,
        progress,
        trimmed: versions_to_trim(&draft.record, draft.context.limits.history_max),
    });
    let body = match plan.mode {
        Mode::Noop => EventBody::DeploymentNoop(started),
        Mode::VersionOnly => EventBody::VersionRecorded(started),
        _ => EventBody::DeploymentStarted(started),
    };
    draft.emit_for(new.deployment_id.clone(), number, body);
    if !plan.adopted.is_empty() {
        stop_unfit(draft, plan);
    }
    match plan.mode {
        Mode::Noop => draft.stop_removed(&plan.removed_agents),
        Mode::VersionOnly => draft.run_batch(number, plan.job_id.clone()),
        _ => {}
    }
}

/// Requests the stop of standbys that a switch-back could not adopt, in the job where their agents start anew: an agent
/// must not run there twice.
fn stop_unfit(draft: &mut Draft, plan: &VersionPlan) {
    let unfit = draft.record.instances.keys_where(|i| i.role == Role::Standby && i.job_id == plan.job_id);
    for key in unfit {
        draft.request_stop(&key, Role::Retired, Actor::auto());
    }
}

/// Deregisters the services of withdrawn instances, each with its event, before the instances are removed (rule 8
/// "Services").
fn deregister_withdrawn(draft: &mut Draft) {
    for key in draft.record.instances.keys_where(Instance::is_withdrawn) {
        draft.clear_services(&key, "withdrawn");
    }
}

/// Returns the versions to trim when one more is recorded: the oldest, except those that are tagged, current, the
/// newest stable one, or run by an agent (rule 8 "Tags").
fn versions_to_trim(record: &Record, history_max: usize) -> Vec<u64> {
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

/// A stored version, as the target of a rollback.
pub(super) struct StoredVersion {
    manifest: Manifest,
    version: Arc<Version>,
}

impl StoredVersion {
    pub fn read(record: &Record, number: u64) -> Result<StoredVersion, String> {
        let version = record.version(number).ok_or_else(|| format!("version {number} is not in the history"))?;
        let manifest = Manifest::parse(version.content.text().as_bytes()).map_err(|faults| faults.join("; "))?;
        Ok(StoredVersion { manifest, version: version.clone() })
    }

    /// Returns what is unusual about its manifest, but allowed.
    pub fn warnings(&self) -> &[String] {
        &self.manifest.warnings
    }

    pub fn job_type(&self) -> JobType {
        self.version.job_type
    }

    /// Returns the specification of a rollback: the stored manifest and bundle, and the given policy (rule 4.12).
    pub fn spec(&self, policy: Policy, deployment_id: Arc<str>, adopts: bool) -> VersionSpec<'_> {
        VersionSpec {
            manifest: &self.manifest,
            content: self.version.content.clone(),
            agents: self.version.agents.clone(),
            bundle: self.version.bundle.clone(),
            policy,
            requested_job: None,
            adopts,
            deployment_id,
        }
    }

    /// Returns the policy of a rollback to it, in the place of the record's deployment (rule 9.2).
    pub fn rollback_policy(&self, record: &Record) -> Policy {
        let replaced = record.deployment.as_ref().map(|d| &d.policy);
        self.version.policy.for_rollback(replaced.unwrap_or(&self.version.policy))
    }
}

/// Plans a rollback to a version, without starting it.
pub(super) fn plan_rollback(record: &Record, number: u64, deployment_id: &Arc<str>) -> Result<VersionPlan, String> {
    let old = StoredVersion::read(record, number)?;
    Ok(plan_version(record, &old.spec(old.rollback_policy(record), deployment_id.clone(), true)))
}

/// Reverts to a version because the current deployment failed (rule 4.11).
pub(super) fn revert(draft: &mut Draft, number: u64, cause: Cause, reason: Arc<str>) {
    let Ok(old) = StoredVersion::read(&draft.record, number) else { return };
    let by: Arc<str> = Arc::from(super::draft::AUTO);
    let meta = VersionMeta { tag: None, rollback_of: Some(number), cause: Some(cause), by, reason: Some(reason) };
    let spec = old.spec(old.rollback_policy(&draft.record), draft.context_id(), true);
    let plan = plan_version(&draft.record, &spec);
    roll_back(draft, &spec, &plan, number, meta);
}

/// Starts a new deployment of a stored version, as it is planned.
pub(super) fn roll_back(draft: &mut Draft, new: &VersionSpec, plan: &VersionPlan, number: u64, meta: VersionMeta) {
    let from_version = draft.deployment().map_or(0, |d| d.target_version);
    let body = EventBody::RollbackStarted {
        from_version,
        rollback_of: number,
        cause: meta.cause,
        by: meta.by.clone(),
        reason: meta.reason.clone(),
    };
    let next = draft.record.last_version + 1;
    draft.emit_for(new.deployment_id.clone(), next, body);
    begin(draft, new, plan, meta);
}
