//! Gates: conditions that must hold before a step passes.

use super::value::{all, digits, integer, with_json, FieldError, FieldType, Fields, PolicyValue};
use crate::engine::json::Json;
use crate::engine::names::named_enum;
use crate::engine::time::{MAX_DURATION_MS, MAX_WAIT_MS};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The maximum number of gates.
pub const MAX_GATES: usize = 16;
/// The number of outcomes that a measure needs where it does not say.
const DEFAULT_MIN_COUNT: u64 = 20;
/// The metric that is counted without a name: the percentage of failed outcomes.
pub const FAILED: &str = "failed";

/// The gates of a policy by name.
pub type Gates = BTreeMap<Arc<str>, Gate>;

/// A condition that must hold before a step passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    pub condition: Condition,
    /// The timeout of the gate, counted from the end of the soak, at most [`MAX_WAIT_MS`]. 0: none.
    pub timeout_ms: u64,
    pub on_timeout: OnTimeout,
}

named_enum! {
    /// The result of a gate that times out.
    pub enum OnTimeout {
        Fail = "fail",
        Pass = "pass",
    }
}

/// The kinds of gates, each with what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// A bound on the outcomes that callers report.
    Measure {
        /// [`FAILED`], or the name of a metric whose mean is taken.
        metric: Arc<str>,
        bound: Bound,
        /// The number of outcomes without which nothing is decided, at least 1.
        min_count: u64,
    },
    /// The answer of an external system.
    Verdict,
    /// Answers of different ACL users.
    Approvals {
        /// The number of users, at least 1.
        count: u32,
        /// True if the user who deployed does not count.
        others: bool,
    },
}

/// The bound of a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Max(Measured),
    Min(Measured),
    /// At most this percentage of the source's value.
    MaxRatio(Percentage),
    /// At least this percentage of the source's value.
    MinRatio(Percentage),
}

/// A value of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    /// A share, of the metric [`FAILED`].
    Share(Percentage),
    /// A mean in whole units of any other metric, at most 2^53 - 1.
    Mean(u64),
}

/// A percentage with at most three decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percentage {
    /// Thousandths of a percent: 2.5% is 2,500. At most 2^53 - 1.
    pub thousandths: u64,
}

impl Percentage {
    /// Parses `2.5%`.
    fn parse(text: &str) -> Option<Percentage> {
        let number = text.strip_suffix('%')?;
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        if !(1..=3).contains(&decimals.len()) {
            return None;
        }
        let thousandths = digits(whole)?.checked_mul(1_000)?.checked_add(digits(&format!("{decimals:0<3}"))?)?;
        (thousandths <= MAX_NUMBER).then_some(Percentage { thousandths })
    }

    fn is_share(self) -> bool {
        self.thousandths <= 100_000
    }
}

impl fmt::Display for Percentage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decimals) = (self.thousandths / 1_000, self.thousandths % 1_000);
        match decimals {
            0 => write!(f, "{whole}%"),
            _ => write!(f, "{whole}.{}%", format!("{decimals:03}").trim_end_matches('0')),
        }
    }
}

/// The largest number of a gate, 2^53 - 1: JSON readers keep it exactly.
const MAX_NUMBER: u64 = MAX_DURATION_MS;

impl Bound {
    /// Returns the field of the bound.
    fn name(self) -> &'static str {
        match self {
            Bound::Max(_) => "max",
            Bound::Min(_) => "min",
            Bound::MaxRatio(_) => "max_ratio",
            Bound::MinRatio(_) => "min_ratio",
        }
    }
}

/// As in a manifest: a percentage is text, a mean is a number.
impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Bound::Max(Measured::Mean(mean)) | Bound::Min(Measured::Mean(mean)) => serializer.serialize_u64(*mean),
            Bound::Max(Measured::Share(percentage)) | Bound::Min(Measured::Share(percentage)) => {
                serializer.collect_str(percentage)
            }
            Bound::MaxRatio(percentage) | Bound::MinRatio(percentage) => serializer.collect_str(percentage),
        }
    }
}

/// As in a manifest, with what it leaves to defaults.
impl Serialize for Gate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let own_fields = match self.condition {
            Condition::Measure { .. } => 3,
            Condition::Verdict => 1,
            Condition::Approvals { .. } => 2,
        };
        let mut map = serializer.serialize_map(Some(own_fields + 2))?;
        match &self.condition {
            Condition::Measure { metric, bound, min_count } => {
                map.serialize_entry("metric", metric)?;
                map.serialize_entry("min_count", min_count)?;
                map.serialize_entry(bound.name(), bound)?;
            }
            Condition::Verdict => map.serialize_entry("verdict", &true)?,
            Condition::Approvals { count, others } => {
                map.serialize_entry("approvals", count)?;
                map.serialize_entry("others", others)?;
            }
        }
        map.serialize_entry("timeout_ms", &self.timeout_ms)?;
        map.serialize_entry("on_timeout", &self.on_timeout)?;
        map.end()
    }
}

// ---- parsing --------------------------------------------------------------------------------------------------------

const NAME: &str = "must be a name of 1 to 128 bytes without control characters";

/// Returns true for a text that can be the name of a gate or of a metric.
pub(super) fn is_name(text: &str) -> bool {
    (1..=128).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The fields that only a measure has.
const BOUNDS: [&str; 4] = ["max", "min", "max_ratio", "min_ratio"];

impl Gate {
    fn parse(value: &Json, place: &str) -> Result<Gate, Vec<FieldError>> {
        let mut fields = Fields::of(value, place)?;
        let kinds: Vec<&str> = ["metric", "verdict", "approvals"].into_iter().filter(|kind| fields.has(kind)).collect();
        let condition = match kinds[..] {
            ["metric"] => measure(&mut fields),
            ["verdict"] => fields
                .get("verdict", "must be true", |value| value.as_bool().filter(|is| *is))
                .map(|_| Condition::Verdict),
            ["approvals"] => approvals(&mut fields),
            _ => {
                let expected = "must have exactly one of metric, verdict and approvals".to_string();
                return Err(vec![FieldError { place: place.to_string(), expected }]);
            }
        };
        let expected = "must be a non-negative integer, at most ten years";
        let timeout_ms =
            fields.get("timeout_ms", expected, |value| integer(value).filter(|ms| *ms <= MAX_WAIT_MS)).unwrap_or(0);
        let on_timeout = fields
            .get("on_timeout", "must be fail or pass", |value| value.as_str().and_then(OnTimeout::parse))
            .unwrap_or(OnTimeout::Fail);
        fields.finish("this gate", condition.map(|condition| Gate { condition, timeout_ms, on_timeout }))
    }
}

fn measure(fields: &mut Fields) -> Option<Condition> {
    let metric: Option<Arc<str>> =
        fields.get("metric", NAME, |value| value.as_str().filter(|name| is_name(name)).map(Arc::from));
    let min_count = fields
        .get("min_count", "must be a positive integer", |value| {
            integer(value).filter(|count| (1..=MAX_NUMBER).contains(count))
        })
        .unwrap_or(DEFAULT_MIN_COUNT);
    let given: Vec<&'static str> = BOUNDS.into_iter().filter(|bound| fields.has(bound)).collect();
    let is_share = metric.as_deref() == Some(FAILED);
    let bounds: Vec<Option<Bound>> = given.iter().map(|name| bound(fields, name, is_share)).collect();
    match bounds[..] {
        [bound] => Some(Condition::Measure { metric: metric?, bound: bound?, min_count }),
        _ => {
            fields.error_of_the_object(format!("must have exactly one of {}", BOUNDS.join(", ")));
            None
        }
    }
}

fn bound(fields: &mut Fields, name: &'static str, is_share: bool) -> Option<Bound> {
    let percentage = |value: &Json| value.as_str().and_then(Percentage::parse);
    if matches!(name, "max_ratio" | "min_ratio") {
        let expected = "must be a percentage of the source's value, such as \"150%\", with at most three decimals";
        let ratio = fields.get(name, expected, percentage)?;
        return Some(if name == "max_ratio" { Bound::MaxRatio(ratio) } else { Bound::MinRatio(ratio) });
    }
    let measured = if is_share {
        let expected = "must be a percentage from \"0%\" to \"100%\", such as \"2.5%\", with at most three decimals";
        Measured::Share(fields.get(name, expected, |value| percentage(value).filter(|share| share.is_share()))?)
    } else {
        let expected = "must be a non-negative integer, a mean in units of the metric";
        Measured::Mean(fields.get(name, expected, |value| integer(value).filter(|mean| *mean <= MAX_NUMBER))?)
    };
    Some(if name == "max" { Bound::Max(measured) } else { Bound::Min(measured) })
}

fn approvals(fields: &mut Fields) -> Option<Condition> {
    let count = fields.get("approvals", "must be a positive integer", |value| {
        integer(value).and_then(|count| u32::try_from(count).ok()).filter(|count| *count >= 1)
    });
    let others = fields.get("others", "must be a boolean", Json::as_bool).unwrap_or(false);
    Some(Condition::Approvals { count: count?, others })
}

impl FieldType for Gates {
    fn parse(value: PolicyValue) -> Result<Gates, Vec<FieldError>> {
        with_json(value, |value| {
            let gates = value.as_object().filter(|gates| gates.iter().count() <= MAX_GATES).ok_or_else(Vec::new)?;
            let twice = gates
                .repeated()
                .iter()
                .map(|name| FieldError { place: format!(".{name}"), expected: "comes twice".to_string() });
            let parsed = gates.iter().map(|(name, gate)| {
                let place = format!(".{name}");
                match is_name(name) {
                    true => Ok((Arc::from(name.as_str()), Gate::parse(gate, &place)?)),
                    false => Err(vec![FieldError { place, expected: NAME.to_string() }]),
                }
            });
            all(parsed, twice.collect())
        })
    }
}

/// Returns true for gates that the parser accepts: those of a decoded policy may not be.
pub(super) fn are_gates(gates: &Gates) -> bool {
    gates.len() <= MAX_GATES && gates.iter().all(|(name, gate)| is_name(name) && gate.is_valid())
}

impl Gate {
    fn is_valid(&self) -> bool {
        let condition = match &self.condition {
            Condition::Measure { metric, bound, min_count } => {
                let fits = match bound {
                    Bound::Max(Measured::Share(share)) | Bound::Min(Measured::Share(share)) => {
                        &**metric == FAILED && share.is_share()
                    }
                    Bound::Max(Measured::Mean(_)) | Bound::Min(Measured::Mean(_)) => &**metric != FAILED,
                    Bound::MaxRatio(_) | Bound::MinRatio(_) => true,
                };
                is_name(metric) && *min_count >= 1 && fits
            }
            Condition::Verdict => true,
            Condition::Approvals { count, .. } => *count >= 1,
        };
        condition && self.timeout_ms <= MAX_WAIT_MS
    }
}
