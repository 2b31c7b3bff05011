//! The restart policy, Nomad's: `attempts` restarts within `interval_ms`, each after a delay. Beyond that, mode `fail`
//! gives up and mode `delay` waits for the next interval.

use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
pub struct RestartPolicy {
    pub attempts: u32,
    pub interval: Duration,
    pub delay: Duration,
    pub max_delay: Duration,
    pub growth: Growth,
    pub mode: Mode,
}

/// How the delay grows from restart to restart within an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    Constant,
    Exponential,
    Fibonacci,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Fail,
    Delay,
}

impl Default for RestartPolicy {
    /// Nomad's for services: 2 attempts in 30 minutes, 15 s apart, then it has failed.
    fn default() -> RestartPolicy {
        RestartPolicy {
            attempts: 2,
            interval: Duration::from_secs(30 * 60),
            delay: Duration::from_secs(15),
            max_delay: Duration::from_secs(60 * 60),
            growth: Growth::Constant,
            mode: Mode::Fail,
        }
    }
}

impl RestartPolicy {
    /// Before the `nth` restart of an interval, counted from 1.
    fn delay_before(&self, nth: u32) -> Duration {
        let factor = match self.growth {
            Growth::Constant => 1,
            Growth::Exponential => 1u32 << (nth - 1).min(20),
            Growth::Fibonacci => {
                let (mut last, mut this) = (0u32, 1u32);
                for _ in 1..nth.min(30) {
                    (last, this) = (this, last.saturating_add(this));
                }
                this
            }
        };
        self.delay.saturating_mul(factor).min(self.max_delay)
    }
}

/// What an instance has used up of its policy. Kept in its file, so that a new coordinator goes on counting.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    /// When the interval began, unix ms.
    since: u64,
    count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    After(Duration),
    Exhausted,
}

impl Restarts {
    /// What follows an end at `now`, unix ms.
    pub fn after_end(&mut self, policy: &RestartPolicy, now: u64) -> Verdict {
        let interval = policy.interval.as_millis() as u64;
        if self.count == 0 || now.saturating_sub(self.since) > interval {
            *self = Restarts { since: now, count: 0 };
        }
        if self.count < policy.attempts {
            self.count += 1;
            return Verdict::After(policy.delay_before(self.count));
        }
        match policy.mode {
            Mode::Fail => Verdict::Exhausted,
            Mode::Delay => {
                let next = self.since.saturating_add(interval).saturating_sub(now);
                *self = Restarts { since: now.saturating_add(next), count: 1.min(policy.attempts) };
                Verdict::After(Duration::from_millis(next).max(policy.delay))
            }
        }
    }

    /// `2 restarts in 60 s`, for the reason of a failure.
    pub fn words(policy: &RestartPolicy) -> String {
        let plural = if policy.attempts == 1 { "" } else { "s" };
        format!("{} restart{plural} in {}", policy.attempts, humantime::format_duration(policy.interval))
    }
}
