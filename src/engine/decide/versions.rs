//! DEPLOY and ROLLBACK: the commands that record a version.

use super::checks::check_deployment_id;
use super::warnings::plan_warnings;
use crate::engine::command::{Deploy, Rollback, RollbackTo};
use crate::engine::deployment::{Mode, Status};
use crate::engine::draft::Draft;
use crate::engine::event::EventBody;
use crate::engine::instance::Role;
use crate::engine::manifest::{self, Manifest, ManifestText, BATCH_AGENT};
use crate::engine::planner::{self, StoredVersion, VersionMeta, VersionPlan, VersionSpec};
use crate::engine::policy::{Policy, Strategy};
use crate::engine::record::Record;
use crate::engine::rejection::Rejection;
use crate::engine::version::Version;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The maximum number of tagged versions: a tagged version is never trimmed.
pub const MAX_TAGS: usize = 1_000;
/// The maximum number of outstanding batch runs: a version that runs is never trimmed.
pub const MAX_RUNS: usize = 1_000;
/// The maximum number of instances of a key, for each agent that `deploy.agents-max` allows: an instance whose stop was
/// requested and that never reports it stays on the record.
pub const INSTANCES_PER_AGENT: usize = 4;

/// The result of DEPLOY and ROLLBACK.
pub(in crate::engine) enum Deployed {
    /// Nothing differs from the current deployment (rule 4.2).
    Unchanged,
    /// The plan, and warnings of what is allowed, but may not be intended.
    Started { plan: VersionPlan, warnings: Vec<String> },
}

/// Decides DEPLOY (rules 4.1, 4.2, 4.5 to 4.8). PLAN does the same, and drops the draft.
pub(in crate::engine) fn deploy(draft: &mut Draft, deploy: &Deploy) -> Result<Deployed, Rejection> {
    let newest = draft.record.last_version;
    if let Some(given) = deploy.if_version.filter(|given| *given != newest) {
        return Err(Rejection::OtherVersion { newest, given });
    }
    let limits = draft.context.limits;
    if deploy.manifest.len() > limits.manifest_max_bytes {
        return Err(Rejection::Limit { what: "MANIFEST".to_string(), max: limits.manifest_max_bytes as u64 });
    }
    let partial = Manifest::parse_partial(&deploy.manifest).map_err(Rejection::Invalid)?;
    let (manifest, mut violations) = (partial.manifest, partial.violations);
    violations.extend(partial.later_violations);
    let node_ids = manifest.node_ids();
    if partial.nodes_are_valid {
        match &deploy.agents {
            Some(agents) => violations.extend(manifest::agents_violations(&node_ids, agents)),
            None if node_ids.is_empty() => {
                violations.push("nodes must have at least one node, or AGENTS must be given".to_string());
            }
            None => {}
        }
    }
    let policy = Policy::default().merged_with(&manifest.policy).merged_with(&deploy.policy);
    if partial.policy_is_valid {
        violations.extend(policy.conflicts());
    }
    if !violations.is_empty() {
        return Err(Rejection::Invalid(violations));
    }
    let agents = deploy.agents.as_ref().map_or(node_ids.len(), Vec::len);
    if agents > limits.agents_max {
        return Err(Rejection::Limit { what: "the number of agents".to_string(), max: limits.agents_max as u64 });
    }
    let content = shared_content(&draft.record, &deploy.manifest, &manifest);
    let spec = VersionSpec {
        manifest: &manifest,
        content,
        agents: deploy.agents.as_ref().map(|agents| agents.iter().cloned().collect()),
        bundle: deploy.bundle.clone(),
        policy,
        requested_job: deploy.job.clone(),
        adopts: false,
        deployment_id: draft.context_id(),
    };
    validate_job_type(&draft.record, &spec)?;
    if is_unchanged(&draft.record, &spec, false) {
        if let Some(tag) = &deploy.tag {
            set_tag(draft, draft.target(), tag)?;
        }
        return Ok(Deployed::Unchanged);
    }
    if let Some(tag) = &deploy.tag {
        validate_tag(&draft.record, tag, None)?;
    }
    let mut warnings = manifest.warnings.clone();
    warnings.extend(cancels(draft));
    let by = draft.by(&deploy.reason);
    let unproved = draft.deployment().filter(|d| d.status.is_active() && d.needs_evidence()).map(|d| d.id.to_string());
    draft.supersede(&by, &format!("version {}", newest + 1));
    let plan = planner::plan_version(&draft.record, &spec);
    if let Some(deployment_id) = unproved.filter(|_| plan.mode == Mode::Noop) {
        return Err(Rejection::Unproved { deployment_id });
    }
    validate_job(&draft.record, &spec, &plan)?;
    validate_runs(&draft.record, &plan)?;
    validate_instances(draft, &plan)?;
    validate_versions_alive(draft, &plan)?;
    let meta = VersionMeta {
        tag: deploy.tag.clone(),
        rollback_of: None,
        cause: None,
        by: by.name,
        reason: deploy.reason.clone(),
    };
    planner::begin(draft, &spec, &plan, meta);
    warnings.extend(plan_warnings(&draft.record, deploy.job.is_some()));
    Ok(Deployed::Started { plan, warnings })
}

/// Warns that an active deployment will be cancelled.
fn cancels(draft: &Draft) -> Option<String> {
    let active = draft.deployment().filter(|d| d.status.is_active());
    active.map(|d| format!("deployment {} is {} and will be cancelled", d.id, d.status.name()))
}

/// Returns the text of a manifest, shared with a version that has the same.
fn shared_content(record: &Record, text: &[u8], manifest: &Manifest) -> Arc<ManifestText> {
    let known = record.versions.iter().rev().find(|v| v.content.text().as_bytes() == text);
    match known {
        Some(version) => version.content.clone(),
        None => Arc::new(ManifestText::of(Arc::from(String::from_utf8_lossy(text)), manifest)),
    }
}

/// Checks that a key does not change from service to batch, or back, while instances run (rule 8 "Batch").
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

/// Returns true if manifest, bundle, agents and policy equal those of the current deployment, and that one is active or
/// successful (rule 4.2). Where nothing runs any more there is something to do (rule 4.1), and a batch job is run again
/// (rule 4.7).
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

/// Checks the requested job. A second job needs a name that no instance has, so that the two sides can be told apart. A
/// first one needs a name in which nothing is still to stop, so that no agent runs twice in one job.
fn validate_job(record: &Record, new: &VersionSpec, plan: &VersionPlan) -> Result<(), Rejection> {
    let Some(job) = &new.requested_job else { return Ok(()) };
    let mut named = record.instances.iter().filter(|i| i.job_id == *job);
    let taken = match plan.mode {
        Mode::BlueGreen => named.next().is_some(),
        Mode::Initial => named.any(|i| i.is_leaving() && i.state.is_running()),
        _ => false,
    };
    match taken {
        true => Err(Rejection::JobTaken(job.to_string())),
        false => Ok(()),
    }
}

fn validate_runs(record: &Record, plan: &VersionPlan) -> Result<(), Rejection> {
    let outstanding = record.instances.of_agent(BATCH_AGENT).len();
    if plan.mode == Mode::VersionOnly && outstanding >= MAX_RUNS {
        return Err(Rejection::Limit { what: "the number of outstanding runs".to_string(), max: MAX_RUNS as u64 });
    }
    Ok(())
}

fn validate_instances(draft: &Draft, plan: &VersionPlan) -> Result<(), Rejection> {
    let max = draft.context.limits.agents_max.saturating_mul(INSTANCES_PER_AGENT);
    match draft.record.instances.len() + plan.changed.len() > max {
        true => Err(Rejection::Limit { what: "the number of instances".to_string(), max: max as u64 }),
        false => Ok(()),
    }
}

/// Checks that no further job starts while many versions drain or are on standby (rule 10.13). A rollback that adopts
/// passes.
fn validate_versions_alive(draft: &Draft, plan: &VersionPlan) -> Result<(), Rejection> {
    let max = draft.context.limits.versions_alive_max;
    let alive = || draft.record.instances.iter().filter(|i| matches!(i.role, Role::Draining | Role::Standby));
    let versions: BTreeSet<u64> = alive().map(|i| i.version).collect();
    match versions.first() {
        Some(&oldest)
            if matches!(plan.mode, Mode::BlueGreen | Mode::Initial)
                && plan.adopted.is_empty()
                && versions.len() >= max =>
        {
            let of_oldest = || alive().filter(|i| i.version == oldest);
            let sessions: u64 = of_oldest().filter_map(|i| i.sessions).map(u64::from).sum();
            // Some may not have reported any number.
            let at_least = if of_oldest().any(|i| i.sessions.is_none()) { "at least " } else { "" };
            let holds = format!("{at_least}{sessions} sessions on {} instances", of_oldest().count());
            Err(Rejection::VersionsAlive { versions: versions.len(), max, oldest, holds })
        }
        _ => Ok(()),
    }
}

/// Decides ROLLBACK (rules 4.12 and 19.1).
pub(super) fn rollback(draft: &mut Draft, rollback: &Rollback) -> Result<Deployed, Rejection> {
    let d = check_deployment_id(draft, &rollback.id)?;
    if let (RollbackTo::NewestStable, true, Some(rollback_of)) =
        (&rollback.to, d.is_rollback_in_effect(), d.rollback_of)
    {
        return match d.status.is_active() {
            true => Ok(Deployed::Unchanged),
            false => Err(Rejection::RolledBackAlready { version: d.target_version, rollback_of }),
        };
    }
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
    let old = StoredVersion::read(record, number).map_err(|violation| Rejection::Invalid(vec![violation]))?;
    let policy = old.rollback_policy(record).merged_with(&rollback.policy);
    let violations = policy.conflicts();
    if !violations.is_empty() {
        return Err(Rejection::Invalid(violations));
    }
    let adopts = !matches!(rollback.policy.strategy, Some(Strategy::Rolling | Strategy::Canary));
    let spec = old.spec(policy, draft.context_id(), adopts);
    validate_job_type(record, &spec)?;
    if is_unchanged(record, &spec, true) {
        return Ok(Deployed::Unchanged);
    }
    if old.job_type().is_batch() {
        validate_runs(record, &planner::plan_version(record, &spec))?;
    }
    let mut warnings = old.warnings().to_vec();
    warnings.extend(cancels(draft));
    let by = draft.by(&rollback.reason);
    draft.supersede(&by, &format!("a rollback to version {number}"));
    let plan = planner::plan_version(&draft.record, &spec);
    validate_versions_alive(draft, &plan)?;
    let meta =
        VersionMeta { tag: None, rollback_of: Some(number), cause: None, by: by.name, reason: rollback.reason.clone() };
    planner::roll_back(draft, &spec, &plan, number, meta);
    warnings.extend(plan_warnings(&draft.record, false));
    Ok(Deployed::Started { plan, warnings })
}

/// Gives a version a tag, in the place of the one that it has.
pub(super) fn set_tag(draft: &mut Draft, number: u64, tag: &Arc<str>) -> Result<(), Rejection> {
    let version = draft.record.version(number).ok_or(Rejection::NoSuchVersion(number))?.clone();
    validate_tag(&draft.record, tag, Some(number))?;
    if version.tag.as_ref() != Some(tag) {
        let by = draft.by(&None).name;
        draft.emit(number, EventBody::VersionTagged { tag: tag.clone(), replaced: version.tag.clone(), by });
    }
    Ok(())
}

/// Checks that a tag is free for a version (None: a new one).
fn validate_tag(record: &Record, tag: &Arc<str>, version: Option<u64>) -> Result<(), Rejection> {
    match record.version_of_tag(tag) {
        Some(other) if Some(other.number) != version => {
            Err(Rejection::TagTaken { tag: tag.to_string(), version: other.number })
        }
        Some(_) => Ok(()),
        // A version that has a tag gets another in its place.
        None if record.versions.iter().filter(|v| v.tag.is_some() && Some(v.number) != version).count() >= MAX_TAGS => {
            Err(Rejection::Limit { what: "the number of tags".to_string(), max: MAX_TAGS as u64 })
        }
        None => Ok(()),
    }
}
