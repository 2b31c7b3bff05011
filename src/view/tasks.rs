//! What coordinators still have to do (rule 3 TASKS).

use super::View;
use crate::engine::instance::{Instance, InstanceState, Task, TaskKind};
use crate::engine::manifest::BATCH_AGENT;
use crate::engine::record::Record;

/// Open tasks, in the order in which they were issued.
pub fn tasks(record: &Record) -> View<'_> {
    View::list(record.instances.tasks().filter_map(|instance| Some(task(record, instance, instance.task.as_ref()?))))
}

fn task<'a>(record: &'a Record, instance: &'a Instance, task: &'a Task) -> View<'a> {
    let bundle = record.version(instance.version).and_then(|version| version.bundle.as_ref());
    // What is told to stop replaces nothing, whatever brought it here.
    let from_version = instance.from_version.filter(|_| task.kind != TaskKind::Stop);
    View::map([
        ("task", task.kind.name().into()),
        ("agent", if task.kind == TaskKind::Run { BATCH_AGENT.into() } else { (&instance.agent).into() }),
        ("node", (&instance.node).into()),
        ("version", instance.version.into()),
        ("from_version", from_version.into()),
        ("job_id", (&instance.job_id).into()),
        ("role", instance.role.name().into()),
        ("attempt", attempt(instance, task.kind).into()),
        ("bundle", bundle.into()),
        ("since", task.since.into()),
    ])
}

/// The attempt that the coordinator reports with: the one it is about to make, or the one it is to stop.
fn attempt(instance: &Instance, kind: TaskKind) -> u32 {
    if kind != TaskKind::Stop && instance.state == InstanceState::Waiting {
        instance.attempt.saturating_add(1)
    } else {
        instance.attempt
    }
}
