//! The words for an instance's state and health (rule 4.9).

/// What is known of an instance from reports; `waiting` until the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstanceState {
    Waiting,
    Starting,
    Ready,
    Unready,
    Failed,
    Stopped,
}

impl InstanceState {
    pub const ALL: [InstanceState; 6] = [
        InstanceState::Waiting,
        InstanceState::Starting,
        InstanceState::Ready,
        InstanceState::Unready,
        InstanceState::Failed,
        InstanceState::Stopped,
    ];

    pub fn name(self) -> &'static str {
        match self {
            InstanceState::Waiting => "waiting",
            InstanceState::Starting => "starting",
            InstanceState::Ready => "ready",
            InstanceState::Unready => "unready",
            InstanceState::Failed => "failed",
            InstanceState::Stopped => "stopped",
        }
    }

    pub fn is_running(self) -> bool {
        !matches!(self, InstanceState::Failed | InstanceState::Stopped)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    Pending,
    Healthy,
    Unhealthy,
}

impl Health {
    pub fn name(self) -> &'static str {
        match self {
            Health::Pending => "pending",
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
        }
    }
}
