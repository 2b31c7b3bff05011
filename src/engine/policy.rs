//! The update policy (rule 2): its fields, their defaults and ranges, and the precedence
//! default < `policies.update` < option of the command.

use super::time::MAX_DURATION_MS;
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strategy {
    Rolling,
    Canary,
    BlueGreen,
}

impl Strategy {
    pub fn name(self) -> &'static str {
        match self {
            Strategy::Rolling => "rolling",
            Strategy::Canary => "canary",
            Strategy::BlueGreen => "blue-green",
        }
    }

    fn parse(text: &str) -> Option<Strategy> {
        match text.to_ascii_lowercase().as_str() {
            "rolling" => Some(Strategy::Rolling),
            "canary" => Some(Strategy::Canary),
            "blue-green" | "blue_green" => Some(Strategy::BlueGreen),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthCheck {
    /// Ready, each declared service passing, nothing registered other than passing.
    Checks,
    /// Ready.
    AgentStates,
}

impl HealthCheck {
    pub fn name(self) -> &'static str {
        match self {
            HealthCheck::Checks => "checks",
            HealthCheck::AgentStates => "agent_states",
        }
    }

    fn parse(text: &str) -> Option<HealthCheck> {
        match text.to_ascii_lowercase().as_str() {
            "checks" => Some(HealthCheck::Checks),
            "agent_states" => Some(HealthCheck::AgentStates),
            _ => None,
        }
    }
}

/// A number of agents, or a percentage of the changed ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountOrPercent {
    Count(u32),
    Percent(u32),
}

impl CountOrPercent {
    /// How many of `total` agents this is: percentages round up, and nothing is more than all.
    pub fn of(self, total: usize) -> usize {
        match self {
            CountOrPercent::Count(n) => (n as usize).min(total),
            CountOrPercent::Percent(p) => total.saturating_mul(p.min(100) as usize).div_ceil(100),
        }
    }

    fn from_percent_text(text: &str) -> Option<CountOrPercent> {
        text.strip_suffix('%').and_then(digits).and_then(|n| u32::try_from(n).ok()).map(CountOrPercent::Percent)
    }

    fn from_json(value: &Value) -> Option<CountOrPercent> {
        match value {
            Value::Number(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()).map(CountOrPercent::Count),
            Value::String(text) => CountOrPercent::from_percent_text(text),
            _ => None,
        }
    }

    fn from_option(text: &str) -> Option<CountOrPercent> {
        CountOrPercent::from_percent_text(text)
            .or_else(|| digits(text).and_then(|n| u32::try_from(n).ok()).map(CountOrPercent::Count))
    }
}

/// Plain decimal digits: no sign, no blanks, no exponent.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// A complete policy, as a deployment carries it. Units: all `_ms` are milliseconds, 0 to 2^53 - 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub strategy: Strategy,
    /// 0 acts as 1.
    pub max_parallel: CountOrPercent,
    pub canary: CountOrPercent,
    pub min_healthy_ms: u64,
    pub healthy_deadline_ms: u64,
    /// 0: the first unhealthy instance fails the deployment.
    pub progress_deadline_ms: u64,
    pub health_check: HealthCheck,
    pub auto_promote: bool,
    pub auto_revert: bool,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            strategy: Strategy::Rolling,
            max_parallel: CountOrPercent::Count(1),
            canary: CountOrPercent::Count(0),
            min_healthy_ms: 10_000,
            healthy_deadline_ms: 300_000,
            progress_deadline_ms: 600_000,
            health_check: HealthCheck::Checks,
            auto_promote: false,
            auto_revert: false,
        }
    }
}

impl Policy {
    /// How many replaced instances may be without a healthy verdict at once, of `changed` agents; at least 1.
    pub fn parallel(&self, changed: usize) -> usize {
        self.max_parallel.of(changed).max(1)
    }

    /// How many of `changed` agents go first as canaries; strategy `canary` with 0 acts as 1.
    pub fn canaries(&self, changed: usize) -> usize {
        let count = self.canary.of(changed);
        if count == 0 && self.strategy == Strategy::Canary {
            changed.min(1)
        } else {
            count
        }
    }

    /// Whether a blue-green promotion waits for PROMOTE, or an update in place has a canary phase.
    pub fn has_canary(&self) -> bool {
        self.canaries(usize::MAX / 200) > 0
    }

    /// The policy of a rollback to a version with this one: it does not wait (rule 4.12, 8 "Rollback").
    pub fn for_rollback(&self) -> Policy {
        let strategy = match self.strategy {
            Strategy::Canary => Strategy::Rolling,
            other => other,
        };
        Policy { strategy, canary: CountOrPercent::Count(0), ..self.clone() }
    }

    pub fn merged_with(&self, patch: &PolicyPatch) -> Policy {
        Policy {
            strategy: patch.strategy.unwrap_or(self.strategy),
            max_parallel: patch.max_parallel.unwrap_or(self.max_parallel),
            canary: patch.canary.unwrap_or(self.canary),
            min_healthy_ms: patch.min_healthy_ms.unwrap_or(self.min_healthy_ms),
            healthy_deadline_ms: patch.healthy_deadline_ms.unwrap_or(self.healthy_deadline_ms),
            progress_deadline_ms: patch.progress_deadline_ms.unwrap_or(self.progress_deadline_ms),
            health_check: patch.health_check.unwrap_or(self.health_check),
            auto_promote: patch.auto_promote.unwrap_or(self.auto_promote),
            auto_revert: patch.auto_revert.unwrap_or(self.auto_revert),
        }
    }

    /// Faults between fields, each with its path.
    pub fn conflicts(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.min_healthy_ms >= self.healthy_deadline_ms {
            faults.push(format!(
                "policies.update.min_healthy_ms must be less than healthy_deadline_ms ({} is not less than {})",
                self.min_healthy_ms, self.healthy_deadline_ms
            ));
        }
        if self.progress_deadline_ms != 0 && self.progress_deadline_ms < self.healthy_deadline_ms {
            faults.push(format!(
                "policies.update.progress_deadline_ms must be 0 or at least healthy_deadline_ms ({} is less than {})",
                self.progress_deadline_ms, self.healthy_deadline_ms
            ));
        }
        faults
    }
}

/// Some fields of a policy: what a manifest or a command sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyPatch {
    pub strategy: Option<Strategy>,
    pub max_parallel: Option<CountOrPercent>,
    pub canary: Option<CountOrPercent>,
    pub min_healthy_ms: Option<u64>,
    pub healthy_deadline_ms: Option<u64>,
    pub progress_deadline_ms: Option<u64>,
    pub health_check: Option<HealthCheck>,
    pub auto_promote: Option<bool>,
    pub auto_revert: Option<bool>,
}

/// The names of the policy fields, which are also the names of the command's options.
pub const POLICY_FIELDS: [&str; 9] = [
    "strategy",
    "max_parallel",
    "canary",
    "min_healthy_ms",
    "healthy_deadline_ms",
    "progress_deadline_ms",
    "health_check",
    "auto_promote",
    "auto_revert",
];

fn expected(field: &str) -> &'static str {
    match field {
        "strategy" => "must be rolling, canary or blue-green",
        "max_parallel" | "canary" => "must be a non-negative integer or a percentage",
        "min_healthy_ms" => "must be a non-negative integer",
        "healthy_deadline_ms" => "must be a positive integer",
        "progress_deadline_ms" => "must be 0 or a positive integer",
        "health_check" => "must be checks or agent_states",
        _ => "must be a boolean",
    }
}

/// One field's value, from either of its two writings.
trait PolicyValue {
    fn text(&self) -> Option<&str>;
    fn amount(&self) -> Option<CountOrPercent>;
    fn millis(&self) -> Option<u64>;
    fn flag(&self) -> Option<bool>;
}

impl PolicyValue for Value {
    fn text(&self) -> Option<&str> {
        self.as_str()
    }
    fn amount(&self) -> Option<CountOrPercent> {
        CountOrPercent::from_json(self)
    }
    fn millis(&self) -> Option<u64> {
        self.as_u64()
    }
    fn flag(&self) -> Option<bool> {
        self.as_bool()
    }
}

impl PolicyValue for str {
    fn text(&self) -> Option<&str> {
        Some(self)
    }
    fn amount(&self) -> Option<CountOrPercent> {
        CountOrPercent::from_option(self)
    }
    fn millis(&self) -> Option<u64> {
        digits(self)
    }
    fn flag(&self) -> Option<bool> {
        match self.to_ascii_lowercase().as_str() {
            "true" | "yes" | "1" => Some(true),
            "false" | "no" | "0" => Some(false),
            _ => None,
        }
    }
}

impl PolicyPatch {
    /// Sets one field; `Err` with what the field must be. Unknown fields are the caller's to judge.
    fn set(&mut self, field: &str, value: &(impl PolicyValue + ?Sized)) -> Result<(), &'static str> {
        fn put<T>(slot: &mut Option<T>, value: Option<T>) -> Option<()> {
            *slot = Some(value?);
            Some(())
        }
        let millis = value.millis().filter(|ms| *ms <= MAX_DURATION_MS);
        let set = match field {
            "strategy" => put(&mut self.strategy, value.text().and_then(Strategy::parse)),
            "max_parallel" => put(&mut self.max_parallel, value.amount()),
            "canary" => put(&mut self.canary, value.amount()),
            "min_healthy_ms" => put(&mut self.min_healthy_ms, millis),
            "healthy_deadline_ms" => put(&mut self.healthy_deadline_ms, millis.filter(|ms| *ms > 0)),
            "progress_deadline_ms" => put(&mut self.progress_deadline_ms, millis),
            "health_check" => put(&mut self.health_check, value.text().and_then(HealthCheck::parse)),
            "auto_promote" => put(&mut self.auto_promote, value.flag()),
            "auto_revert" => put(&mut self.auto_revert, value.flag()),
            _ => None,
        };
        set.ok_or_else(|| expected(field))
    }

    /// Sets a field from a command's option; `Err` with what the option must be.
    pub fn set_option(&mut self, field: &str, value: &str) -> Result<(), &'static str> {
        self.set(field, value)
    }

    /// Reads `policies.update`. Faults go to `faults` with their path; unknown fields to `unknown`.
    pub fn from_manifest(update: &Value, faults: &mut Vec<String>, unknown: &mut Vec<String>) -> PolicyPatch {
        let mut patch = PolicyPatch::default();
        let Value::Object(fields) = update else {
            faults.push("policies.update must be an object".to_string());
            return patch;
        };
        for (field, value) in fields {
            if !POLICY_FIELDS.contains(&field.as_str()) {
                unknown.push(field.clone());
            } else if let Err(must) = patch.set(field, value) {
                faults.push(format!("policies.update.{field} {must}"));
            }
        }
        let canary = patch.canary.unwrap_or(CountOrPercent::Count(0));
        let canary_is_sound = patch.canary.is_some() || !fields.contains_key("canary");
        if canary_is_sound
            && patch.strategy == Some(Strategy::Canary)
            && patch.auto_promote == Some(true)
            && matches!(canary, CountOrPercent::Count(0) | CountOrPercent::Percent(0))
        {
            faults.push(
                "policies.update.canary must be greater than 0 for strategy canary with auto_promote".to_string(),
            );
        }
        patch
    }
}
