//! Restart policy as in Nomad: `attempts` restarts within `interval_ms`, each after a delay. Beyond that, mode `fail`
//! gives up and mode `delay` waits for the next interval.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Restart policy of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct RestartPolicy {
    pub attempts: u32,
    pub interval: Duration,
    pub delay: Duration,
    pub max_delay: Duration,
    pub growth: Growth,
    pub mode: Mode,
}

/// Growth of the delay from restart to restart within an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    Constant,
    Exponential,
    Fibonacci,
}

/// Behaviour once the attempts of an interval are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The instance has failed.
    Fail,
    /// The instance is restarted in the next interval.
    Delay,
}

impl Default for RestartPolicy {
    /// Nomad's default for services: 2 attempts in 30 minutes, 15 s apart, mode `fail`.
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
    /// Returns the delay before the `nth` restart of an interval, counted from 1.
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

/// Restart counter of an instance. It is part of the state file, so that it survives the coordinator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    /// Start of the interval, Unix ms.
    since: u64,
    count: u32,
}

/// Decision of the policy after a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Restart after this delay.
    After(Duration),
    /// No further restart.
    Exhausted,
}

impl Restarts {
    /// Decides on a restart after a process has ended at `now`, Unix ms.
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

    /// Describes a policy in the reason of a failure: `2 restarts in 1m`.
    pub fn describe(policy: &RestartPolicy) -> String {
        let plural = if policy.attempts == 1 { "" } else { "s" };
        format!("{} restart{plural} in {}", policy.attempts, humantime::format_duration(policy.interval))
    }
}
