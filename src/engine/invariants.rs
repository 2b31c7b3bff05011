//! Invariants: they hold for every record after every event, and are checked for every record from outside.

use super::deployment::{Mode, Status, MAX_REQUEST_IDS};
use super::instance::{Drain, DrainOutcome, DrainPhase, Health, Instance, InstanceState, Role, TaskKind};
use super::manifest::BATCH_AGENT;
use super::record::Record;
use super::time::Deadline;
use std::collections::BTreeSet;

macro_rules! must {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}

/// Checks every invariant; the error names the first one that does not hold.
pub fn check(record: &Record) -> Result<(), String> {
    history(record)?;
    deployment(record)?;
    instances(record)?;
    services(record)?;
    log(record)
}

fn history(record: &Record) -> Result<(), String> {
    must!(!record.versions.is_empty(), "a record has at least one version");
    must!(record.versions.windows(2).all(|w| w[0].number < w[1].number), "versions ascend without reuse");
    must!(record.versions.iter().all(|v| v.number >= 1), "versions count from 1");
    let newest = record.versions.last().map_or(0, |v| v.number);
    must!(newest == record.last_version, "the newest version {newest} is the last one, {}", record.last_version);
    must!(
        record.current_version.is_none_or(|n| record.version(n).is_some()),
        "the current version is kept in the history"
    );
    let tags: Vec<_> = record.versions.iter().filter_map(|v| v.tag.as_ref()).collect();
    must!(tags.iter().collect::<BTreeSet<_>>().len() == tags.len(), "a tag names one version");
    must!(record.requests.len() <= MAX_REQUEST_IDS, "at most {MAX_REQUEST_IDS} requests are remembered");
    Ok(())
}

fn deployment(record: &Record) -> Result<(), String> {
    let Some(d) = &record.deployment else { return Err("a record has a deployment".to_string()) };
    must!(d.target_version == record.last_version, "the deployment is that of the newest version");
    let Some(version) = record.version(d.target_version) else { return Err("the target is kept".to_string()) };
    must!(version.deployment_id == d.id, "the target version names its deployment");
    must!(version.policy == d.policy, "the deployment has the policy of its version");
    let active = d.status.is_active();
    must!(active == d.finished_at.is_none(), "a deployment is finished when it is terminal, and not before");
    must!(active == d.ended.is_none(), "how it ended is said when it has");
    must!(active == version.outcome.is_none(), "a version has an outcome when its deployment has ended");
    must!((d.status == Status::Paused) == d.paused_from.is_some(), "only a paused deployment remembers from where");
    must!(!version.stable || !active, "a version is stable only once its deployment is successful");
    let own = record.instances.counts(d.target_version, &d.target_job_id);
    let is_held = own.awaiting_drain > 0 && own.healthy == own.placed;
    let bakes = d.is_baking && d.bake != Deadline::Off;
    must!(d.is_baking || d.bake == Deadline::Off, "only a deployment that bakes has the clock of a bake");
    must!(!d.is_baking || active && d.has_bake() && own.placed == d.changed.len(), "what bakes serves everything");
    must!(!bakes || own.healthy == own.placed, "a bake runs while every instance is healthy");
    must!(!d.is_baking || record.current_version == Some(d.target_version), "what bakes is current");
    match (d.status, d.progress) {
        (Status::Running, progress) if bakes => {
            must!(progress == Deadline::Off, "the progress deadline does not run while the bake does")
        }
        (Status::Running, Deadline::Running { .. }) => must!(!is_held, "a drain holds the progress deadline"),
        (Status::Running, Deadline::Off) => {
            must!(d.policy.progress_deadline_ms == 0, "a running deployment has a deadline, so that it ends")
        }
        (Status::Running, Deadline::Paused { .. }) => {
            must!(is_held, "a pause or a drain holds the progress deadline, and nothing else")
        }
        (Status::Paused, progress) => must!(progress.at().is_none(), "no deadline runs while paused"),
        (_, progress) => {
            must!(progress == Deadline::Off, "the progress deadline does not run while {}", d.status.name())
        }
    }
    must!(d.status == Status::Paused || d.deferred_failure.is_none(), "only a pause puts a failure off");
    must!(d.status == Status::Paused || d.unsafe_report.is_none(), "only a pause puts a fallback off");
    let awaits = d.status == Status::AwaitingPromotion || d.paused_from == Some(Status::AwaitingPromotion);
    must!(awaits || d.awaiting_since.is_none(), "only a deployment that awaits its promotion says since when");
    if d.status == Status::AwaitingPromotion {
        must!(own.healthy == own.released() && own.placed > 0, "a promotion is awaited while all canaries are healthy");
        must!(!d.promoted, "a promotion is awaited before it, not after");
    }
    must!(d.canaries as usize <= d.changed.len(), "there are no more canaries than changed agents");
    must!(d.changed.iter().collect::<BTreeSet<_>>().len() == d.changed.len(), "an agent changes once");
    if active {
        must!(own.released() <= d.changed.len(), "no more agents are released than change");
        let awaits = |i: &Instance| i.awaited_version() == Some(d.target_version);
        let released = |agent: &str| record.instances.of_agent(agent).iter().any(|i| record.is_own(i) || awaits(i));
        let first = d.changed.iter().take(own.released()).all(|agent| released(agent));
        must!(first, "agents go in the order of the changed agents");
    }
    if d.status == Status::Running && d.policy.progress_deadline_ms == 0 {
        must!(own.unhealthy == 0, "without a progress deadline the first unhealthy instance fails the deployment");
    }
    if active && d.mode == Mode::InPlace && d.canaries > 0 && !d.promoted {
        must!(own.released() <= d.canaries as usize, "only canaries go before the promotion");
    }
    Ok(())
}

fn instances(record: &Record) -> Result<(), String> {
    must!(record.instances.is_consistent(), "the counts are the instances' own");
    let mut keys = BTreeSet::new();
    let mut created = BTreeSet::new();
    let mut tasks = BTreeSet::new();
    for instance in record.instances.iter() {
        let name = format!("{} of version {}", instance.agent, instance.version);
        must!(keys.insert(instance.key()), "{name} is on the record once");
        must!(created.insert(instance.created), "{name} came with an event of its own");
        must!(instance.created <= record.revision, "{name} came with a past event");
        must!(record.version(instance.version).is_some(), "{name} runs a version that is kept");
        if let Some(task) = &instance.task {
            must!(tasks.insert(task.revision), "the task of {name} came with an event of its own");
            must!(task.revision <= record.revision, "the task of {name} came with a past event");
        }
        one(record, instance, &name)?;
    }
    Ok(())
}

fn one(record: &Record, instance: &Instance, name: &str) -> Result<(), String> {
    let batch = &*instance.agent == BATCH_AGENT;
    let version = instance.version;
    let is_start = instance.task.as_ref().is_some_and(|task| task.kind == TaskKind::Start);
    match instance.task.as_ref().map(|t| t.kind) {
        Some(TaskKind::Start | TaskKind::Replace) => {
            must!(instance.state == InstanceState::Waiting, "{name} has reported, so its task has ended");
            must!(!batch, "a batch job is run, not started");
        }
        Some(TaskKind::Drain) => {
            let is_issued = instance.drain.as_ref().is_some_and(|drain| drain.phase == DrainPhase::Issued);
            must!(is_issued, "nobody has taken up the drain of {name}");
        }
        Some(TaskKind::Run) => must!(batch, "{name} is no batch job"),
        Some(TaskKind::Stop) => {
            must!(
                instance.healthy_at.is_none() && instance.deadline == Deadline::Off,
                "{name} is told to stop: no verdict"
            );
        }
        None => {}
    }
    if let Some(drain) = &instance.drain {
        one_drain(record, instance, drain, name)?;
    }
    must!((instance.role == Role::Draining) == instance.drain.is_some(), "{name} has the role of a drain with a drain");
    must!(
        instance.not_counted_for.is_sorted_by(|a, b| a < b) && instance.not_counted_for.iter().all(|n| *n > version),
        "{name} counts for its own version, and says once for which later one it does not"
    );
    must!(
        (instance.attempt == 0) == (instance.state == InstanceState::Waiting)
            || instance.is_stopping()
            || is_start
            || instance.drain.is_some(),
        "{name} counts attempts from its first report"
    );
    match instance.health {
        Health::Healthy => {
            must!(instance.deadline == Deadline::Off && instance.was_healthy, "{name} is judged healthy");
            must!(
                instance.is_stopping() || record.check_health(instance).is_ok(),
                "{name} is healthy, so it is ready and passing"
            );
            must!(instance.healthy_at.is_none(), "{name} is healthy already");
        }
        Health::Unhealthy => must!(instance.deadline == Deadline::Off, "{name} has been judged"),
        Health::Pending => {}
    }
    if let Some(at) = instance.healthy_at {
        must!(record.check_health(instance).is_ok(), "{name} becomes healthy at {at}, so all is well with it");
    } else if instance.health != Health::Healthy && !instance.is_stopping() && !batch {
        must!(record.check_health(instance).is_err(), "all is well with {name}, so its verdict is due");
    }
    let Some(d) = &record.deployment else { return Ok(()) };
    if matches!(instance.deadline, Deadline::Paused { .. }) {
        must!(d.status == Status::Paused && record.is_own(instance), "only a pause holds the deadline of {name}");
    }
    if instance.role == Role::Candidate && !instance.is_stopping() {
        must!(
            d.status.is_active() && d.has_second_job() && record.is_own(instance) && !d.promoted,
            "{name} is a candidate of a deployment under way"
        );
    }
    if instance.role == Role::Retired {
        must!(instance.is_stopping(), "{name} is retired, so it is told to stop");
    }
    let keeps_time = matches!(instance.role, Role::Standby | Role::Candidate | Role::Retired);
    must!(instance.standby_until.is_none() || keeps_time || instance.drain.is_some(), "{name} is on standby no more");
    if instance.role == Role::Standby {
        must!(instance.task.is_none() && instance.deadline == Deadline::Off, "{name} stands by: no task, no deadline");
        must!(
            instance.standby_until.is_some() || (d.is_baking && d.mode == Mode::BlueGreen && !record.is_own(instance)),
            "{name} stands by for a bake, or until a time"
        );
    }
    if record.is_own(instance) && d.status == Status::Successful && !instance.is_leaving() {
        must!(instance.role == Role::Primary, "{name} is primary after success");
    }
    Ok(())
}

fn one_drain(record: &Record, instance: &Instance, drain: &Drain, name: &str) -> Result<(), String> {
    let Some(d) = &record.deployment else { return Ok(()) };
    let is_held = d.status == Status::Paused && drain.awaited_version() == Some(d.target_version);
    match drain.phase {
        DrainPhase::Issued => {
            let issued = matches!(&instance.task, Some(task) if task.kind == TaskKind::Drain);
            must!(issued, "the drain of {name} waits for a coordinator");
            must!(drain.outcome != DrainOutcome::Open, "the drain of {name} that nobody has taken up leads somewhere");
            must!(drain.idle == Deadline::Off, "{name} is not idle before its drain is taken up");
        }
        DrainPhase::TakenUp => {
            let is_idle = instance.sessions == Some(0);
            must!(is_idle == (drain.idle != Deadline::Off), "{name} is idle while it says that it holds no session");
        }
        DrainPhase::Ended => must!(is_held, "what follows the drain of {name} is issued with its end"),
        DrainPhase::Succeeded => {
            let follows = |i: &Instance| {
                i.job_id == instance.job_id && i.created > instance.created && i.state == InstanceState::Waiting
            };
            must!(record.instances.of_agent(&instance.agent).iter().any(follows), "{name} has a successor");
        }
    }
    if drain.is_open() {
        must!(matches!(drain.deadline, Deadline::Paused { .. }) == is_held, "only a pause holds the drain of {name}");
        must!(drain.deadline != Deadline::Off, "the drain of {name} ends");
        must!(drain.idle == Deadline::Off || (drain.idle.at().is_none() == is_held), "the clocks of {name} run alike");
    }
    Ok(())
}

fn services(record: &Record) -> Result<(), String> {
    for service in record.services.iter() {
        must!(
            record.instances.get(&service.owner).is_some(),
            "service instance {} belongs to an instance on the record",
            service.instance
        );
    }
    Ok(())
}

fn log(record: &Record) -> Result<(), String> {
    let revisions: Vec<u64> = record.log.revisions().collect();
    must!(revisions.windows(2).all(|w| w[1] == w[0] + 1), "the log has no gaps");
    must!(revisions.last().is_none_or(|last| *last == record.revision), "the log ends with the newest event");
    Ok(())
}
