//! Types of policy fields that have no parts.

use super::value::{digits, PolicyValue, Scalar};
use crate::engine::names::named_enum;
use serde::{Serialize, Serializer};

named_enum! {
    /// The strategy of an update.
    pub enum Strategy {
        Rolling = "rolling",
        Canary = "canary",
        BlueGreen = "blue-green",
    }
}

named_enum! {
    /// The condition under which an instance is healthy (rule 4.9).
    pub enum HealthCheck {
        /// Ready, each declared service passing, and no registered service other than passing.
        Checks = "checks",
        /// Ready.
        AgentStates = "agent_states",
    }
}

/// A number of agents, or a percentage of the changed ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountOrPercent {
    Count(u32),
    Percent(u32),
}

impl CountOrPercent {
    /// Returns the number of agents of `total`: percentages round up, and nothing exceeds all.
    pub fn of(self, total: usize) -> usize {
        match self {
            CountOrPercent::Count(n) => (n as usize).min(total),
            CountOrPercent::Percent(p) => total.saturating_mul(p.min(100) as usize).div_ceil(100),
        }
    }

    fn from_percent_text(text: &str) -> Option<CountOrPercent> {
        text.strip_suffix('%').and_then(digits).and_then(|n| u32::try_from(n).ok()).map(CountOrPercent::Percent)
    }
}

/// As in a manifest: a number, or a percentage as text.
impl Serialize for CountOrPercent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            CountOrPercent::Count(count) => serializer.serialize_u32(*count),
            CountOrPercent::Percent(percent) => serializer.collect_str(&format_args!("{percent}%")),
        }
    }
}

impl Scalar for Strategy {
    fn parse_scalar(value: PolicyValue) -> Option<Strategy> {
        let text = value.text()?;
        Strategy::parse(text).or_else(|| text.eq_ignore_ascii_case("blue_green").then_some(Strategy::BlueGreen))
    }
}

impl Scalar for HealthCheck {
    fn parse_scalar(value: PolicyValue) -> Option<HealthCheck> {
        value.text().and_then(HealthCheck::parse)
    }
}

impl Scalar for CountOrPercent {
    fn parse_scalar(value: PolicyValue) -> Option<CountOrPercent> {
        u64::parse_scalar(value)
            .and_then(|n| u32::try_from(n).ok())
            .map(CountOrPercent::Count)
            .or_else(|| value.text().and_then(CountOrPercent::from_percent_text))
    }
}
