//! The transition matrix: every status × every command, computed from the engine and compared with
//! `tests/testdata/transition_matrix.txt`. `UPDATE_GOLDEN=1 cargo test --test engine_transition_matrix` writes it
//! anew: read the difference against the rules before committing it.

use std::fmt::Write as _;
use std::path::Path;
use test_support::scenario::World;

const SETTINGS: &str = "\
manifest v1 = service a b c
manifest v2 = service a=2 b=2 c=2
manifest v3 = service a=3 b=3 c=3
manifest more = service a b c d
manifest job = batch x
policy MIN_HEALTHY_MS 1000 HEALTHY_DEADLINE_MS 5000 PROGRESS_DEADLINE_MS 10000";

/// A status and how one gets there. The last instant is 5000; agent `a` was reported on, `b` and `c` may wait.
const STATUSES: [(&str, &str); 24] = [
    ("initial running", "@4000 DEPLOY v1|@4500 REPORT a ready"),
    ("in place running", "given v1|@4000 DEPLOY v2 MAX_PARALLEL 2|@4500 REPORT a ready"),
    ("in place running, auto_revert", "given v1|@4000 DEPLOY v2 MAX_PARALLEL 2 AUTO_REVERT true|@4500 REPORT a ready"),
    ("canary running", "given v1|@4000 DEPLOY v2 CANARY 1|@4500 REPORT a ready"),
    ("awaiting_promotion", "given v1|@3900 DEPLOY v2 CANARY 1|@3900 REPORT a ready|@4900 TICK"),
    ("promoted running", "given v1|@3900 DEPLOY v2 CANARY 1|@3900 REPORT a ready|@4900 PROMOTE"),
    ("paused from running", "given v1|@4000 DEPLOY v2 MAX_PARALLEL 2|@4500 REPORT a ready|@4600 PAUSE"),
    ("paused from awaiting", "given v1|@3900 DEPLOY v2 CANARY 1|@3900 REPORT a ready|@4900 PAUSE"),
    ("paused and doomed", "given v1|@4000 DEPLOY v2 MAX_PARALLEL 2|@4500 REPORT a failed VERSION 1|@4600 PAUSE|@4700 REPORT b failed"),
    ("blue-green running", "given v1|@4000 DEPLOY v2 STRATEGY blue-green|@4500 REPORT a ready"),
    (
        "blue-green awaiting",
        "given v1|@3900 DEPLOY v2 STRATEGY blue-green CANARY 1|@3900 REPORT a ready|@3900 REPORT b ready|@3900 REPORT c ready|@4900 TICK",
    ),
    ("successful", "given v1"),
    ("failed", "given v1|@4000 DEPLOY v2 MAX_PARALLEL 2|@4500 REPORT a ready|@4600 FAIL"),
    ("cancelled (stopped)", "given v1|@4000 DEPLOY v2 MAX_PARALLEL 2|@4500 REPORT a ready|@4600 STOP"),
    ("noop", "given v1|@4000 DEPLOY v1 MAX_PARALLEL 2"),
    ("version_recorded", "@4000 DEPLOY job|@4500 REPORT * starting"),
    ("drain issued", "given v1|@4000 DEPLOY v2 MAX_PARALLEL 2 DRAIN_MS 20000"),
    (
        "drain taken up",
        "given v1|@4000 DEPLOY v2 MAX_PARALLEL 2 DRAIN_MS 20000|@4500 REPORT a draining VERSION 1 SESSIONS 2",
    ),
    (
        "drained, replacement issued",
        "given v1|@4000 DEPLOY v2 MAX_PARALLEL 2 DRAIN_MS 20000|@4500 REPORT a drained VERSION 1",
    ),
    (
        "drain held by a pause",
        "given v1|@4000 DEPLOY v2 MAX_PARALLEL 2 DRAIN_MS 20000|@4500 REPORT a draining VERSION 1 SESSIONS 2|@4600 PAUSE",
    ),
    (
        "drained in a pause",
        "given v1|@4000 DEPLOY v2 MAX_PARALLEL 2 DRAIN_MS 20000|@4600 PAUSE|@4700 REPORT a drained VERSION 1",
    ),
    (
        "failed, drain taken up",
        "given v1|@4000 DEPLOY v2 MAX_PARALLEL 2 DRAIN_MS 20000|@4500 REPORT a draining VERSION 1 SESSIONS 2|@4600 FAIL",
    ),
    (
        "blue-green, the old side drains",
        "given v1|@3900 DEPLOY v2 STRATEGY blue-green DRAIN_MS 20000|@3900 REPORT a ready|@3900 REPORT b ready|@3900 REPORT c ready|@4900 TICK|@4950 REPORT a draining VERSION 1 SESSIONS 2",
    ),
    (
        "stopped, everything drains",
        "given v1 DRAIN_MS 20000|@4500 STOP|@4600 REPORT a draining VERSION 1 SESSIONS 2",
    ),
];

/// Representative operands of every command. `@` is the instant.
const COMMANDS: [&str; 42] = [
    "DEPLOY v1",
    "DEPLOY v2 MAX_PARALLEL 2",
    "DEPLOY v3",
    "DEPLOY v3 STRATEGY blue-green",
    "DEPLOY v3 IFVERSION 9",
    "DEPLOY more",
    "DEPLOY job",
    "ROLLBACK",
    "ROLLBACK VERSION 1",
    "ROLLBACK VERSION 2",
    "ROLLBACK TAG none",
    "PROMOTE",
    "PAUSE",
    "RESUME",
    "FAIL",
    "FAIL ID dep_app_9",
    "STOP",
    "STOP NOW",
    "DRAIN VERSION 1 MS 0",
    "DRAIN VERSION 1 MS 500",
    "TAG 1 golden",
    "UNTAG golden",
    "REPORT a starting",
    "REPORT a ready",
    "REPORT a unready",
    "REPORT a failed",
    "REPORT a stopped",
    "REPORT a completed",
    "REPORT a unsafe",
    "REPORT a draining VERSION 1",
    "REPORT a drained VERSION 1",
    "REPORT a ready VERSION 1 SESSIONS 0",
    "REPORT a stopped VERSION 1",
    "REPORT b drained VERSION 1",
    "REPORT b starting",
    "REPORT b failed VERSION 1",
    "REPORT b stopped VERSION 1",
    "REPORT * completed",
    "REGISTER a http INSTANCE i STATUS critical",
    "CHECK i passing",
    "DEREGISTER i",
    "TICK",
];

/// The times of the ticks that stand for each of the deadlines, beside the instant itself.
const LATER: [u64; 3] = [6_000, 10_000, 30_000];

fn at(setup: &str) -> World {
    let mut world = World::default();
    for line in SETTINGS.lines().chain(setup.split('|')) {
        world.run(line);
    }
    world
}

/// An answer in one line: the code of a refusal with its words, or the reply, the status after it and the events'
/// names.
fn cell(world: &World, now: u64, command: &str) -> String {
    let mut after = world.clone();
    let answer = after.run(&format!("@{now} {command}"));
    let mut lines = answer.lines();
    let reply = lines.next().unwrap_or_default();
    let code = reply.split(' ').next().unwrap_or_default();
    if code.len() > 1 && code.chars().all(|c| c.is_ascii_uppercase()) {
        assert_eq!(after.record, world.record, "a refused command changes nothing");
        return reply.to_string();
    }
    let status = |world: &World| {
        world.record.as_ref().and_then(|r| r.deployment.as_ref()).map_or("-", |d| d.status.name()).to_string()
    };
    let (was, is) = (status(world), status(&after));
    let reply = match reply {
        "0" | "1" => format!("{reply}, "),
        _ => String::new(),
    };
    let status = if was == is { is } else { format!("-> {is}") };
    let before = world.record.as_ref().map_or(0, |r| r.revision);
    let mut events: Vec<(String, usize)> = Vec::new();
    for event in after.expect_record().log.iter().filter(|event| event.revision > before) {
        let name = match &event.body {
            redis_deploy::engine::EventBody::TaskIssued { task, .. } => format!("task_issued({})", task.name()),
            redis_deploy::engine::EventBody::TaskDone { task, withdrawn: true, .. } => {
                format!("withdrawn({})", task.name())
            }
            body => body.name().to_string(),
        };
        match events.last_mut() {
            Some((last, times)) if *last == name => *times += 1,
            _ => events.push((name, 1)),
        }
    }
    let events: Vec<String> =
        events.into_iter().map(|(name, times)| if times > 1 { format!("{name}*{times}") } else { name }).collect();
    let events = if events.is_empty() { "nothing".to_string() } else { events.join(" ") };
    format!("{reply}{status}: {events}")
}

fn matrix() -> String {
    let mut text = String::from(
        "# Every status × every command. Each cell: the refusal; or the reply of a coordinator's command, the status\n\
         # (`->` where it changed) and what happened. Written by tests/engine_transition_matrix.rs.\n",
    );
    for (status, setup) in STATUSES {
        let world = at(setup);
        writeln!(text, "\n== {status}").expect("a string");
        for line in setup.split('|') {
            writeln!(text, "   {line}").expect("a string");
        }
        text.push('\n');
        for command in COMMANDS {
            writeln!(text, "{command:<44}{}", cell(&world, 5_000, command)).expect("a string");
        }
        for now in LATER {
            writeln!(text, "{:<44}{}", format!("TICK at {now}"), cell(&world, now, "TICK")).expect("a string");
        }
    }
    text
}

#[test]
fn transition_matrix_is_unchanged() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/transition_matrix.txt");
    let now = matrix();
    if test_support::updates_golden() {
        std::fs::write(&path, &now).expect("writable");
    }
    let written = std::fs::read_to_string(&path).expect("the matrix is committed");
    for (line, (was, is)) in written.lines().zip(now.lines()).enumerate() {
        assert_eq!(was, is, "transition_matrix.txt:{}", line + 1);
    }
    assert_eq!(written.lines().count(), now.lines().count());
}

/// The first world of each status is really in it.
#[test]
fn transition_matrix_covers_every_status() {
    use redis_deploy::engine::deployment::Status;
    for status in Status::ALL {
        let there = STATUSES
            .iter()
            .any(|(_, setup)| at(setup).expect_record().deployment.as_ref().expect("one").status == status);
        assert!(there, "no world is {}", status.name());
    }
}
