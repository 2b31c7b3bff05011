//! The update policy (rule 2): one table of its fields, and the precedence
//! default < `policies.update` < option of the command.

use super::json::Json;
use super::names::named_enum;
use super::time::{MAX_DURATION_MS, MAX_WAIT_MS};
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

/// Parses plain decimal digits: no sign, no blanks, no exponent.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// One field of the policy: its names and texts, for options, errors and documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyField {
    /// The name in a manifest. In upper case it is the option's.
    pub name: &'static str,
    /// The requirement on a value, for errors: `must be a boolean`.
    pub expected: &'static str,
    /// The value in the syntax of the command table.
    pub syntax: &'static str,
}

/// Defines the policy from its table: the complete policy, the patch, defaults, precedence, parsing, bounds and names.
/// Each line is `name: type = default, check of the range, expected value, syntax`.
macro_rules! policy_table {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr, $in_range:expr, $expected:literal, $syntax:literal;)*) => {
        /// A complete policy, as a deployment carries it. All `_ms` are milliseconds, 0 to 2^53 - 1.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        pub struct Policy { $($(#[$doc])* pub $name: $type),* }

        /// Some fields of a policy: those that a manifest or a command sets.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
        pub struct PolicyPatch { $(pub $name: Option<$type>),* }

        /// Every field, in the order of replies.
        pub const POLICY_FIELDS: &[PolicyField] =
            &[$(PolicyField { name: stringify!($name), expected: $expected, syntax: $syntax }),*];

        impl Default for Policy {
            fn default() -> Policy {
                Policy { $($name: $default),* }
            }
        }

        impl Policy {
            /// Returns the policy with the fields of a patch in the place of its own.
            pub fn merged_with(&self, patch: &PolicyPatch) -> Policy {
                Policy { $($name: patch.$name.clone().unwrap_or_else(|| self.$name.clone())),* }
            }

            /// Returns the violations of ranges, each with its path. A decoded policy may have some, a parsed one has
            /// none.
            fn out_of_range(&self) -> Vec<String> {
                let mut violations = Vec::new();
                $(if !in_range(&self.$name, $in_range) {
                    violations.push(format!("policies.update.{} {}", stringify!($name), $expected));
                })*
                violations
            }
        }

        impl PolicyPatch {
            /// Sets one field; the error says what the value must be. Unknown fields are the caller's to report.
            fn set(&mut self, field: &str, value: PolicyValue) -> Result<(), &'static str> {
                match field {
                    $(stringify!($name) => {
                        let parsed = <$type as FieldType>::parse(value).filter(|parsed| in_range(parsed, $in_range));
                        self.$name = Some(parsed.ok_or($expected)?);
                    })*
                    _ => return Err("must be a policy field"),
                }
                Ok(())
            }
        }
    };
}

policy_table! {
    strategy: Strategy = Strategy::Rolling, any,
        "must be rolling, canary or blue-green", "strategy:rolling|canary|blue-green";
    /// 0 acts as 1.
    max_parallel: CountOrPercent = CountOrPercent::Count(1), any,
        "must be a non-negative integer or a percentage", "count-or-percentage";
    canary: CountOrPercent = CountOrPercent::Count(0), any,
        "must be a non-negative integer or a percentage", "count-or-percentage";
    min_healthy_ms: u64 = 10_000, duration, "must be a non-negative integer", "ms";
    healthy_deadline_ms: u64 = 300_000, positive_duration, "must be a positive integer", "ms";
    /// 0: the first unhealthy instance fails the deployment.
    progress_deadline_ms: u64 = 600_000, duration, "must be 0 or a positive integer", "ms";
    health_check: HealthCheck = HealthCheck::Checks, any,
        "must be checks or agent_states", "health-check:checks|agent_states";
    auto_promote: bool = false, any, "must be a boolean", "flag:true|false";
    auto_revert: bool = false, any, "must be a boolean", "flag:true|false";
    /// The longest time for which an instance may finish its sessions before it is replaced or stopped (rule 10), at
    /// most [`MAX_WAIT_MS`]. 0: no drain.
    drain_ms: u64 = 0, wait, "must be a non-negative integer, at most ten years", "ms";
    /// The time for which the target is watched before it is called stable (rule 12), at most [`MAX_WAIT_MS`]. 0: none.
    bake_ms: u64 = 0, wait, "must be a non-negative integer, at most ten years", "ms";
}

fn in_range<T>(value: &T, check: impl Fn(&T) -> bool) -> bool {
    check(value)
}

fn any<T>(_value: &T) -> bool {
    true
}

fn duration(ms: &u64) -> bool {
    *ms <= MAX_DURATION_MS
}

fn wait(ms: &u64) -> bool {
    *ms <= MAX_WAIT_MS
}

fn positive_duration(ms: &u64) -> bool {
    *ms > 0 && duration(ms)
}

/// The value of a field in either of its two notations.
#[derive(Clone, Copy)]
pub enum PolicyValue<'a> {
    /// A JSON value of a manifest.
    Json(&'a Json),
    /// The text of a command's option.
    Option(&'a str),
}

impl<'a> PolicyValue<'a> {
    fn text(self) -> Option<&'a str> {
        match self {
            PolicyValue::Json(value) => value.as_str(),
            PolicyValue::Option(text) => Some(text),
        }
    }
}

/// A type of policy fields.
trait FieldType: Sized {
    fn parse(value: PolicyValue) -> Option<Self>;
}

impl FieldType for Strategy {
    fn parse(value: PolicyValue) -> Option<Strategy> {
        let text = value.text()?;
        Strategy::parse(text).or_else(|| text.eq_ignore_ascii_case("blue_green").then_some(Strategy::BlueGreen))
    }
}

impl FieldType for HealthCheck {
    fn parse(value: PolicyValue) -> Option<HealthCheck> {
        value.text().and_then(HealthCheck::parse)
    }
}

impl FieldType for CountOrPercent {
    fn parse(value: PolicyValue) -> Option<CountOrPercent> {
        u64::parse(value)
            .and_then(|n| u32::try_from(n).ok())
            .map(CountOrPercent::Count)
            .or_else(|| value.text().and_then(CountOrPercent::from_percent_text))
    }
}

impl FieldType for u64 {
    fn parse(value: PolicyValue) -> Option<u64> {
        match value {
            PolicyValue::Json(value) => value.as_number().and_then(digits),
            PolicyValue::Option(text) => digits(text),
        }
    }
}

impl FieldType for bool {
    fn parse(value: PolicyValue) -> Option<bool> {
        match value {
            PolicyValue::Json(value) => value.as_bool(),
            PolicyValue::Option(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "1" => Some(true),
                "false" | "no" | "0" => Some(false),
                _ => None,
            },
        }
    }
}

impl Policy {
    /// Returns the number of replaced instances that may be without a healthy verdict at once, of `changed` agents; at
    /// least 1.
    pub fn parallel(&self, changed: usize) -> usize {
        self.max_parallel.of(changed).max(1)
    }

    /// Returns the number of `changed` agents that are canaries; strategy `canary` with 0 acts as 1.
    pub fn canaries(&self, changed: usize) -> usize {
        let count = self.canary.of(changed);
        if count == 0 && self.strategy == Strategy::Canary {
            changed.min(1)
        } else {
            count
        }
    }

    /// Returns the policy of a rollback to a version with this one: it does not wait for a promotion (rule 4.12, rule 8
    /// "Rollback") and does not bake, and gives sessions at least the time that `replaced` does, the policy of the deployment before it
    /// (rule 9.2).
    pub fn for_rollback(&self, replaced: &Policy) -> Policy {
        let strategy = match self.strategy {
            Strategy::Canary => Strategy::Rolling,
            other => other,
        };
        let drain_ms = self.drain_ms.max(replaced.drain_ms);
        Policy { strategy, canary: CountOrPercent::Count(0), drain_ms, bake_ms: 0, ..self.clone() }
    }

    /// Returns the violations of one policy, each with its path: ranges first, then conflicts between fields.
    pub fn violations(&self) -> Vec<String> {
        let mut violations = self.out_of_range();
        violations.extend(self.conflicts());
        violations
    }

    /// Returns the conflicts between fields, each with its path.
    pub fn conflicts(&self) -> Vec<String> {
        let mut conflicts = Vec::new();
        if self.min_healthy_ms >= self.healthy_deadline_ms {
            conflicts.push(format!(
                "policies.update.min_healthy_ms must be less than healthy_deadline_ms ({} is not less than {})",
                self.min_healthy_ms, self.healthy_deadline_ms
            ));
        }
        if self.progress_deadline_ms != 0 && self.progress_deadline_ms < self.healthy_deadline_ms {
            conflicts.push(format!(
                "policies.update.progress_deadline_ms must be 0 or at least healthy_deadline_ms ({} is less than {})",
                self.progress_deadline_ms, self.healthy_deadline_ms
            ));
        }
        conflicts
    }
}

impl PolicyPatch {
    /// Sets a field from a command's option; the error says what the option must be.
    pub fn set_option(&mut self, field: &str, value: &str) -> Result<(), &'static str> {
        self.set(field, PolicyValue::Option(value))
    }

    /// Parses `policies.update`. Violations go to `violations` with their path; unknown fields to `unknown`.
    pub fn from_manifest(update: &Json, violations: &mut Vec<String>, unknown: &mut Vec<String>) -> PolicyPatch {
        let mut patch = PolicyPatch::default();
        let Json::Object(fields) = update else {
            violations.push("policies.update must be an object".to_string());
            return patch;
        };
        for (field, value) in fields.iter() {
            if !POLICY_FIELDS.iter().any(|known| known.name == field) {
                unknown.push(field.clone());
            } else if let Err(expected) = patch.set(field, PolicyValue::Json(value)) {
                violations.push(format!("policies.update.{field} {expected}"));
            }
        }
        let canary = patch.canary.unwrap_or(CountOrPercent::Count(0));
        let canary_is_valid = patch.canary.is_some() || !fields.contains("canary");
        if canary_is_valid
            && patch.strategy == Some(Strategy::Canary)
            && patch.auto_promote == Some(true)
            && matches!(canary, CountOrPercent::Count(0) | CountOrPercent::Percent(0))
        {
            violations.push(
                "policies.update.canary must be greater than 0 for strategy canary with auto_promote".to_string(),
            );
        }
        patch
    }
}
