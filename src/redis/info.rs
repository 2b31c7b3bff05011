//! `INFO deploy` (rule 8 "INFO"). Every number is kept as it changes, so that asking costs the same at any size.

use super::{data_type, guard, index, publish, timers};
use crate::engine::deployment::Status;
use crate::engine::Code;
use std::ffi::CStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the numbers go. The server puts `deploy_` before each name.
pub trait InfoWriter {
    fn number(&mut self, name: &CStr, value: u64);
}

static REFUSED: [AtomicU64; Code::ALL.len()] = [const { AtomicU64::new(0) }; Code::ALL.len()];

/// A command was refused with this code.
pub fn count_refusal(code: Code) {
    let place = Code::ALL.iter().position(|c| *c == code);
    if let Some(count) = place.and_then(|place| REFUSED.get(place)) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

pub fn write(out: &mut impl InfoWriter) {
    let counts = index::counts();
    for (status, count) in Status::ALL.iter().zip(counts.by_status) {
        out.number(status_name(*status), count);
    }
    let lag = timers::lag();
    out.number(c"timers_armed", counts.timers);
    out.number(c"timers_fired", lag.fired);
    out.number(c"timer_lag_p50_us", lag.p50_us);
    out.number(c"timer_lag_p99_us", lag.p99_us);
    out.number(c"timer_lag_max_us", lag.max_us);
    out.number(c"events_published", publish::published());
    out.number(c"tasks_outstanding", counts.tasks);
    out.number(c"records_at_rest", data_type::count_at_rest());
    for (code, count) in Code::ALL.iter().zip(&REFUSED) {
        out.number(code_name(*code), count.load(Ordering::Relaxed));
    }
    out.number(c"internal_errors", guard::caught());
}

fn status_name(status: Status) -> &'static CStr {
    match status {
        Status::Running => c"deployments_running",
        Status::AwaitingPromotion => c"deployments_awaiting_promotion",
        Status::Paused => c"deployments_paused",
        Status::Successful => c"deployments_successful",
        Status::Failed => c"deployments_failed",
        Status::Cancelled => c"deployments_cancelled",
        Status::VersionRecorded => c"deployments_version_recorded",
    }
}

fn code_name(code: Code) -> &'static CStr {
    match code {
        Code::Err => c"refused_err",
        Code::WrongType => c"refused_wrongtype",
        Code::NotFound => c"refused_notfound",
        Code::Invalid => c"refused_invalid",
        Code::BadState => c"refused_badstate",
        Code::Unhealthy => c"refused_unhealthy",
        Code::Conflict => c"refused_conflict",
        Code::Limit => c"refused_limit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Names(Vec<String>);

    impl InfoWriter for Names {
        fn number(&mut self, name: &CStr, _value: u64) {
            self.0.push(name.to_string_lossy().into_owned());
        }
    }

    #[test]
    fn names_are_those_of_statuses_and_codes() {
        let mut names = Names::default();
        write(&mut names);
        for status in Status::ALL {
            assert!(names.0.contains(&format!("deployments_{}", status.name())));
        }
        for code in Code::ALL {
            assert!(names.0.contains(&format!("refused_{}", code.word().to_lowercase())));
        }
    }
}
