//! The update policy (rule 2): one table of its fields, and the precedence
//! default < `policies.update` < option of the command.

mod gate;
mod scalar;
mod step;
mod value;

pub use self::gate::{Bound, Condition, Gate, Gates, Measured, OnTimeout, Percentage, FAILED};
pub use self::scalar::{CountOrPercent, HealthCheck, Strategy};
pub use self::step::Step;
pub use self::value::{FieldError, PolicyValue};

use self::gate::are_gates;
use self::step::are_steps;
use self::value::FieldType;
use super::json::Json;
use super::time::{MAX_DURATION_MS, MAX_WAIT_MS};
use serde::Serialize;
use std::sync::Arc;

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
            /// Sets one field; the errors say what its value must be. Unknown fields are the caller's to report.
            fn set(&mut self, field: &str, value: PolicyValue) -> Result<(), Vec<FieldError>> {
                match field {
                    $(stringify!($name) => self.$name = Some(parse_field(value, $in_range, $expected)?),)*
                    _ => return Err(vec![FieldError::of_the_value("must be a policy field")]),
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
    /// The levels of exposure through which the rollout goes.
    steps: Vec<Step> = Vec::new(), are_steps, "must be an array of at most 20 steps", "steps-json";
    /// The conditions that steps wait for, by name.
    gates: Gates = Gates::new(), are_gates, "must be an object of at most 16 gates", "gates-json";
    /// The time for which the target is watched before it is called stable (rule 12), at most [`MAX_WAIT_MS`]. 0: none.
    bake_ms: u64 = 0, wait, "must be a non-negative integer, at most ten years", "ms";
    /// Hashed with the id of a session to give its bucket (rule 11.7). None: the deployment id.
    cohort: Option<Arc<str>> = None, cohort, "must be a text of 1 to 128 bytes", "cohort";
}

/// Parses a value and checks its range.
fn parse_field<T: FieldType>(
    value: PolicyValue,
    in_range: impl Fn(&T) -> bool,
    expected: &str,
) -> Result<T, Vec<FieldError>> {
    match T::parse(value) {
        Ok(parsed) if in_range(&parsed) => Ok(parsed),
        Err(errors) if !errors.is_empty() => Err(errors),
        _ => Err(vec![FieldError::of_the_value(expected)]),
    }
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

fn cohort(cohort: &Option<Arc<str>>) -> bool {
    cohort.as_ref().is_none_or(|text| (1..=128).contains(&text.len()))
}

fn positive_duration(ms: &u64) -> bool {
    *ms > 0 && duration(ms)
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
    /// "Rollback") and has neither steps, gates nor a bake. It gives sessions at least the time that `replaced` does, the
    /// policy of the deployment before it (rule 9.2).
    pub fn for_rollback(&self, replaced: &Policy) -> Policy {
        let strategy = match self.strategy {
            Strategy::Canary => Strategy::Rolling,
            other => other,
        };
        let drain_ms = self.drain_ms.max(replaced.drain_ms);
        Policy {
            strategy,
            canary: CountOrPercent::Count(0),
            drain_ms,
            steps: Vec::new(),
            gates: Gates::new(),
            bake_ms: 0,
            ..self.clone()
        }
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
        if !self.steps.is_empty() && !matches!(self.canary, CountOrPercent::Count(0) | CountOrPercent::Percent(0)) {
            conflicts
                .push("policies.update.steps must be empty where policies.update.canary is greater than 0".to_string());
        }
        for (i, step) in self.steps.iter().enumerate() {
            for (j, gate) in step.gates.iter().flatten().enumerate().filter(|(_, gate)| !self.gates.contains_key(*gate))
            {
                conflicts.push(format!(
                    "policies.update.steps[{i}].gates[{j}] must be a gate of policies.update.gates, not {gate}"
                ));
            }
        }
        conflicts
    }
}

impl PolicyPatch {
    /// Sets a field from a command's option.
    ///
    /// # Errors
    /// The first that is wrong with the value.
    pub fn set_option(&mut self, field: &str, value: &str) -> Result<(), FieldError> {
        self.set(field, PolicyValue::Option(value)).map_err(|errors| {
            errors.into_iter().next().unwrap_or_else(|| FieldError::of_the_value("must be another value"))
        })
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
            } else if let Err(errors) = patch.set(field, PolicyValue::Json(value)) {
                let violation =
                    |error: FieldError| format!("policies.update.{field}{} {}", error.place, error.expected);
                violations.extend(errors.into_iter().map(violation));
            }
        }
        let canary = patch.canary.unwrap_or(CountOrPercent::Count(0));
        let canary_is_valid = patch.canary.is_some() || !fields.contains("canary");
        if canary_is_valid
            && patch.strategy == Some(Strategy::Canary)
            && patch.auto_promote == Some(true)
            && patch.steps.as_ref().is_none_or(Vec::is_empty)
            && matches!(canary, CountOrPercent::Count(0) | CountOrPercent::Percent(0))
        {
            violations.push(
                "policies.update.canary must be greater than 0 for strategy canary with auto_promote".to_string(),
            );
        }
        patch
    }
}
