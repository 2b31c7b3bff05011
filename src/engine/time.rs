//! Time is an argument: the engine never reads a clock, and gets `now_ms`, the server's unix time in ms.

/// Unix time in ms, by the server's clock.
pub type UnixMs = u64;

/// The longest duration of a policy or a TTL, in ms (2^53 - 1: exact in every JSON parser).
pub const MAX_DURATION_MS: u64 = (1 << 53) - 1;

/// The longest drain, bake or standby, in ms: ten years (rule 9.2).
pub const MAX_WAIT_MS: u64 = 10 * 365 * 24 * 3_600_000;

/// A deadline that can be paused: a pause keeps the time that is left (rule 4.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Deadline {
    /// It does not run, and has no time left.
    #[default]
    Off,
    /// It expires at this time.
    Running { at: UnixMs },
    /// It is paused, with this much left.
    Paused { left_ms: u64 },
}

impl Deadline {
    /// Returns a deadline that expires `ms` from now; 0 is no deadline (rule 2, `progress_deadline_ms`).
    pub fn after(now: UnixMs, ms: u64) -> Deadline {
        if ms == 0 {
            Deadline::Off
        } else {
            Deadline::Running { at: now.saturating_add(ms) }
        }
    }

    /// Returns a running or paused deadline with at least `ms` left; it is never moved back (rule 4.10).
    pub fn extend(self, now: UnixMs, ms: u64) -> Deadline {
        match self {
            Deadline::Off => Deadline::Off,
            Deadline::Running { at } => Deadline::Running { at: at.max(now.saturating_add(ms)) },
            Deadline::Paused { left_ms } => Deadline::Paused { left_ms: left_ms.max(ms) },
        }
    }

    /// Returns the time at which it expires; None where it does not run.
    pub fn at(self) -> Option<UnixMs> {
        match self {
            Deadline::Running { at } => Some(at),
            Deadline::Off | Deadline::Paused { .. } => None,
        }
    }

    /// Returns the ms that a paused deadline has left.
    pub fn left_ms(self) -> Option<u64> {
        match self {
            Deadline::Paused { left_ms } => Some(left_ms),
            Deadline::Off | Deadline::Running { .. } => None,
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
