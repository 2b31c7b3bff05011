//! The open tasks of coordinators (rule 3 TASKS).

use super::value::int;
use crate::engine::instance::{Instance, Task, TaskKind};
use crate::engine::manifest::BATCH_AGENT;
use crate::engine::record::Record;
use serde::Serialize;

/// One open task (rule 7, task).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskView<'a> {
    /// `start`, `replace`, `stop`, `run` or `drain`.
    pub task: &'static str,
    /// `*` for `run`, as it is reported.
    pub agent: &'a str,
    pub node: &'a str,
    pub version: i64,
    /// The version that a `replace` replaces.
    pub from_version: Option<i64>,
    pub job_id: &'a str,
    pub role: &'static str,
    /// The attempt to report with: the one that is about to be made, or the one to drain or to stop.
    pub attempt: i64,
    pub bundle: Option<&'a str>,
    pub since: i64,
    /// The version whose instance follows a `drain`. Null where nothing does.
    pub successor_version: Option<i64>,
    /// The time at which a `drain` ends at the latest. Null while it is held.
    pub drain_at: Option<i64>,
}

/// Returns the open tasks in the order in which they were issued.
pub fn tasks(record: &Record) -> Vec<TaskView<'_>> {
    record.instances.tasks().filter_map(|instance| Some(task(record, instance, instance.task.as_ref()?))).collect()
}

fn task<'a>(record: &'a Record, instance: &'a Instance, task: &'a Task) -> TaskView<'a> {
    let bundle = record.version(instance.version).and_then(|version| version.bundle.as_deref());
    // A later attempt replaces nothing, and neither does a stop or a drain.
    let from_version = instance.from_version.filter(|_| task.kind == TaskKind::Replace);
    let drain = instance.drain.as_ref();
    TaskView {
        task: task.kind.name(),
        agent: if task.kind == TaskKind::Run { BATCH_AGENT } else { &instance.agent },
        node: &instance.node,
        version: int(instance.version),
        from_version: from_version.map(int),
        job_id: &instance.job_id,
        role: instance.role.name(),
        attempt: int(attempt(instance)),
        bundle,
        since: int(task.since),
        successor_version: drain.and_then(|drain| drain.outcome.successor_version()).map(int),
        drain_at: drain.and_then(|drain| drain.deadline.at()).map(int),
    }
}

fn attempt(instance: &Instance) -> u32 {
    // An instance that never reported has attempt 0, and no report has.
    instance.attempt.max(1)
}
