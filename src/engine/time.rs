//! Time is an argument. The engine never reads a clock; it is told `now_ms`, unix time in milliseconds of the server.

/// Unix time in milliseconds, as the server's clock has it.
pub type UnixMs = u64;

/// The largest duration a policy or a TTL may name, in ms (2^53 - 1: exact in every JSON reader).
pub const MAX_DURATION_MS: u64 = (1 << 53) - 1;

/// A deadline that can be held: SPEC 4.13, a pause keeps what a deadline had left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Clock {
    /// It does not run and has nothing left to run.
    #[default]
    Off,
    /// It runs out at this time.
    Running { at: UnixMs },
    /// It is held, with this much left.
    Held { left_ms: u64 },
}

impl Clock {
    /// A clock that starts now and runs for `ms`; 0 is no deadline at all (SPEC 2, `progress_deadline_ms`).
    pub fn starting(now: UnixMs, ms: u64) -> Clock {
        if ms == 0 {
            Clock::Off
        } else {
            Clock::Running { at: now.saturating_add(ms) }
        }
    }

    /// A running or held clock that has at least `ms` to run from now; it never moves back (SPEC 4.10).
    pub fn renewed(self, now: UnixMs, ms: u64) -> Clock {
        match self {
            Clock::Off => Clock::Off,
            Clock::Running { at } => Clock::Running { at: at.max(now.saturating_add(ms)) },
            Clock::Held { left_ms } => Clock::Held { left_ms: left_ms.max(ms) },
        }
    }

    pub fn at(self) -> Option<UnixMs> {
        match self {
            Clock::Running { at } => Some(at),
            Clock::Off | Clock::Held { .. } => None,
        }
    }

    pub fn hold(self, now: UnixMs) -> Clock {
        match self {
            Clock::Running { at } => Clock::Held { left_ms: at.saturating_sub(now) },
            other => other,
        }
    }

    pub fn release(self, now: UnixMs) -> Clock {
        match self {
            Clock::Held { left_ms } => Clock::Running { at: now.saturating_add(left_ms) },
            other => other,
        }
    }
}
