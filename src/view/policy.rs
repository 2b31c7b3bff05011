//! An update policy with all its fields.

use super::value::int;
use crate::engine::policy::{CountOrPercent, Policy};
use serde::{Serialize, Serializer};

/// The policy of a deployment or version, as a manifest would state it (rule 2). Durations are in ms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyView {
    pub strategy: &'static str,
    pub max_parallel: AmountView,
    pub canary: AmountView,
    pub min_healthy_ms: i64,
    pub healthy_deadline_ms: i64,
    /// 0: the deployment fails with its first unhealthy agent.
    pub progress_deadline_ms: i64,
    pub health_check: &'static str,
    pub auto_promote: bool,
    pub auto_revert: bool,
}

/// A number of agents: an integer, or a percentage as text (`"25%"`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AmountView(CountOrPercent);

impl Serialize for AmountView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            CountOrPercent::Count(count) => serializer.serialize_i64(int(count)),
            CountOrPercent::Percent(percent) => serializer.collect_str(&format_args!("{percent}%")),
        }
    }
}

pub(super) fn policy(policy: &Policy) -> PolicyView {
    PolicyView {
        strategy: policy.strategy.name(),
        max_parallel: AmountView(policy.max_parallel),
        canary: AmountView(policy.canary),
        min_healthy_ms: int(policy.min_healthy_ms),
        healthy_deadline_ms: int(policy.healthy_deadline_ms),
        progress_deadline_ms: int(policy.progress_deadline_ms),
        health_check: policy.health_check.name(),
        auto_promote: policy.auto_promote,
        auto_revert: policy.auto_revert,
    }
}
