//! The table of versions, newest first.

use super::page::{Page, NAME, REASON};
use super::text::{escape_name, escape_text, format_duration, pad};
use crate::engine::deployment::{Deployment, Outcome};
use crate::engine::record::Record;
use crate::engine::time::UnixMs;
use crate::engine::version::Version;
use std::sync::Arc;

/// The number of versions that have a line. The target, current, stable and rollback versions always have one.
const SHOWN: usize = 5;

const VERSION: usize = 7;
const MARKS: usize = 23;
const OUTCOME: usize = 10;
const BY: usize = 10;
const AGE: usize = 6;
/// The columns of a row up to WHAT, and the fewest that WHAT has: with less, it is below the row.
const ROW: usize = VERSION + MARKS + OUTCOME + BY + AGE + 4;
const WHAT_MIN: usize = 12;

pub(super) fn write(page: &mut Page, record: &Record, d: &Deployment, now: UnixMs) {
    let is_narrow = page.width <= ROW + WHAT_MIN;
    let mut line = |cells: [&str; 5], rest: &str| {
        let [version, marks, outcome, by, age] = cells;
        let (rest, below) = if is_narrow { ("", rest) } else { (rest, "") };
        page.line(format!(
            "{} {} {} {} {} {rest}",
            pad(version, VERSION),
            pad(marks, MARKS),
            pad(outcome, OUTCOME),
            pad(by, BY),
            pad(age, AGE)
        ));
        if !below.is_empty() {
            page.below(below, 1);
        }
    };
    line(["VERSION", "IS", "OUTCOME", "BY", "AGE"], if is_narrow { "" } else { "WHAT" });
    let shown = shown(record, d);
    for version in &shown {
        line(
            [
                &version.number.to_string(),
                &marks(record, d, version),
                outcome(version),
                &escape_name(&version.by, BY),
                &format_duration(now.saturating_sub(version.submitted_at)),
            ],
            &what(version),
        );
    }
    let more = record.versions.len().saturating_sub(shown.len());
    if more > 0 {
        page.line(format!("and {more} more"));
    }
}

fn shown<'r>(record: &'r Record, d: &Deployment) -> Vec<&'r Arc<Version>> {
    let needed = [Some(d.target_version), record.current_version, record.stable_version(), record.rollback_target()];
    let is_needed = |version: &Version| needed.contains(&Some(version.number));
    let mut room = SHOWN.saturating_sub(record.versions.iter().filter(|version| is_needed(version)).count());
    let mut shown = Vec::new();
    for version in record.versions.iter().rev() {
        if is_needed(version) {
            shown.push(version);
        } else if room > 0 {
            room -= 1;
            shown.push(version);
        }
    }
    shown
}

fn marks(record: &Record, d: &Deployment, version: &Version) -> String {
    let number = Some(version.number);
    let marks = [
        (d.status.is_active() && number == Some(d.target_version), "target"),
        (number == record.current_version, "current"),
        (version.stable, "stable"),
        (number == record.rollback_target(), "rollback"),
    ];
    marks.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect::<Vec<_>>().join(" ")
}

fn outcome(version: &Version) -> &'static str {
    match version.outcome {
        None => "-",
        Some(Outcome::VersionRecorded) if version.cause.is_some() => "stopped",
        Some(Outcome::VersionRecorded) => "recorded",
        Some(outcome) => outcome.name(),
    }
}

fn what(version: &Version) -> String {
    let tag = version.tag.as_ref().map(|tag| format!("tag {}", escape_name(tag, NAME)));
    let rollback = version.rollback_of.map(|of| format!("rollback to {of}"));
    let reason = version.reason.as_ref().filter(|reason| !reason.is_empty()).map(|reason| escape_text(reason, REASON));
    [tag, rollback, reason].into_iter().flatten().collect::<Vec<_>>().join("; ")
}
