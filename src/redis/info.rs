//! `INFO deploy` (rule 8 "INFO"): one list of fields. Every number is kept as it changes, so that INFO costs the same
//! at any size.

use super::index::StatusCounts;
use super::stats::{RolloutCounts, TimerLag};
use super::{ffi, index, stats, stored};
use crate::engine::deployment::Status;
use crate::engine::Code;

/// The numbers that the fields are made of.
struct Snapshot {
    counts: StatusCounts,
    lag: TimerLag,
    rollouts: RolloutCounts,
    rejections: [u64; Code::ALL.len()],
}

/// The value of a field.
type Value = fn(&Snapshot) -> u64;

/// The fields, in their order. The server prefixes each name with `deploy_`. `{status}` and `{code}` stand for one
/// field for each status and each error code.
const FIELDS: &[(&str, Source)] = &[
    ("deployments_{status}", Source::ByStatus),
    ("timers_armed", Source::Number(|s| s.counts.timers)),
    ("timers_fired", Source::Number(|s| s.lag.fired)),
    ("timer_lag_p50_us", Source::Number(|s| s.lag.p50_us)),
    ("timer_lag_p99_us", Source::Number(|s| s.lag.p99_us)),
    ("timer_lag_max_us", Source::Number(|s| s.lag.max_us)),
    ("events_published", Source::Number(|_| stats::events_published())),
    ("tasks_outstanding", Source::Number(|s| s.counts.tasks)),
    ("instances_draining", Source::Number(|s| s.counts.draining)),
    ("instances_standby", Source::Number(|s| s.counts.standby)),
    ("records_unreadable", Source::Number(|s| s.counts.unreadable)),
    ("records_encoded", Source::Number(|_| stored::encoded_records())),
    ("refused_{code}", Source::ByCode),
    ("rollouts_started_total", Source::Number(|s| s.rollouts.started)),
    ("rollouts_successful_total", Source::Number(|s| s.rollouts.successful)),
    ("rollouts_failed_total", Source::Number(|s| s.rollouts.failed)),
    ("rollouts_reverted_total", Source::Number(|s| s.rollouts.reverted)),
    ("rollouts_cancelled_total", Source::Number(|s| s.rollouts.cancelled)),
    ("panics_caught", Source::Number(|_| ffi::panics_caught())),
];

enum Source {
    Number(Value),
    ByStatus,
    ByCode,
}

/// Returns every field with its value, in order.
pub fn fields() -> Vec<(String, u64)> {
    let snapshot = Snapshot {
        counts: index::counts(),
        lag: stats::timer_lag(),
        rollouts: stats::rollouts(),
        rejections: stats::rejections(),
    };
    let mut fields = Vec::new();
    for (name, source) in FIELDS {
        match source {
            Source::Number(value) => fields.push((name.to_string(), value(&snapshot))),
            Source::ByStatus => {
                for (status, count) in Status::ALL.iter().zip(snapshot.counts.by_status) {
                    fields.push((name.replace("{status}", status.name()), count));
                }
            }
            Source::ByCode => {
                for (code, count) in Code::ALL.iter().zip(snapshot.rejections) {
                    fields.push((name.replace("{code}", &code.word().to_lowercase()), count));
                }
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_codes_have_a_field_each() {
        let names: Vec<String> = fields().into_iter().map(|(name, _)| name).collect();
        for status in Status::ALL {
            assert!(names.contains(&format!("deployments_{}", status.name())));
        }
        for code in Code::ALL {
            assert!(names.contains(&format!("refused_{}", code.word().to_lowercase())));
        }
        assert_eq!(names.len(), names.iter().collect::<std::collections::BTreeSet<_>>().len());
    }
}
