//! Time is an argument. The engine never reads a clock; it is told `now_ms`, unix time in milliseconds of the server.

/// Unix time in milliseconds, as the server's clock has it.
pub type UnixMs = u64;

/// The largest duration a policy or a TTL may name, in ms (2^53 - 1: exact in every JSON reader).
pub const MAX_DURATION_MS: u64 = (1 << 53) - 1;

/// A deadline that can be held: rule 4.13, a pause keeps what a deadline had left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Deadline {
    /// It does not run and has nothing left to run.
    #[default]
    Off,
    /// It runs out at this time.
    Running { at: UnixMs },
    /// It is held, with this much left.
    Paused { left_ms: u64 },
}

impl Deadline {
    /// A clock that starts now and runs for `ms`; 0 is no deadline at all (rule 2, `progress_deadline_ms`).
    pub fn after(now: UnixMs, ms: u64) -> Deadline {
        if ms == 0 {
            Deadline::Off
        } else {
            Deadline::Running { at: now.saturating_add(ms) }
        }
    }

    /// A running or held clock that has at least `ms` to run from now; it never moves back (rule 4.10).
    pub fn extend(self, now: UnixMs, ms: u64) -> Deadline {
        match self {
            Deadline::Off => Deadline::Off,
            Deadline::Running { at } => Deadline::Running { at: at.max(now.saturating_add(ms)) },
            Deadline::Paused { left_ms } => Deadline::Paused { left_ms: left_ms.max(ms) },
        }
    }

    pub fn at(self) -> Option<UnixMs> {
        match self {
            Deadline::Running { at } => Some(at),
            Deadline::Off | Deadline::Paused { .. } => None,
        }
    }

    pub fn pause(self, now: UnixMs) -> Deadline {
        match self {
            Deadline::Running { at } => Deadline::Paused { left_ms: at.saturating_sub(now) },
            other => other,
        }
    }

    pub fn resume(self, now: UnixMs) -> Deadline {
        match self {
            Deadline::Paused { left_ms } => Deadline::Running { at: now.saturating_add(left_ms) },
            other => other,
        }
    }
}
