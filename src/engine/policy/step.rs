//! Steps: the levels of exposure through which a rollout goes.

use super::gate::is_name;
use super::value::{all, integer, with_json, FieldError, FieldType, Fields, PolicyValue};
use crate::engine::json::Json;
use crate::engine::time::MAX_WAIT_MS;
use serde::Serialize;
use std::sync::Arc;

/// The maximum number of steps.
pub const MAX_STEPS: usize = 20;

/// One level of exposure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The share of new sessions (blue-green) or of changed agents (in place), 1 to 99.
    pub percent: u32,
    /// The time for which the step must hold without an unhealthy instance, at most [`MAX_WAIT_MS`].
    pub soak_ms: u64,
    /// The names of the gates that must pass. None: all gates of the policy.
    pub gates: Option<Vec<Arc<str>>>,
}

const PERCENT: &str = "must be an integer from 1 to 99";

impl Step {
    fn parse(value: &Json, place: &str) -> Result<Step, Vec<FieldError>> {
        let mut fields = Fields::of(value, place)?;
        let percent = fields.require("percent", PERCENT, |value| {
            integer(value).and_then(|percent| u32::try_from(percent).ok()).filter(|percent| is_percent(*percent))
        });
        let soak = "must be a non-negative integer, at most ten years";
        let soak_ms = fields.get("soak_ms", soak, |value| integer(value).filter(|ms| *ms <= MAX_WAIT_MS)).unwrap_or(0);
        let gates = fields.get("gates", "must be an array of names of gates, each once", gate_names).flatten();
        fields.finish("a step", percent.map(|percent| Step { percent, soak_ms, gates }))
    }
}

fn is_percent(percent: u32) -> bool {
    (1..=99).contains(&percent)
}

/// Returns names of gates; null stands for all gates.
fn gate_names(value: &Json) -> Option<Option<Vec<Arc<str>>>> {
    if value.is_null() {
        return Some(None);
    }
    let mut names: Vec<Arc<str>> = Vec::new();
    for name in value.as_array()? {
        let name = name.as_str().filter(|name| is_name(name) && !names.iter().any(|known| **known == **name))?;
        names.push(Arc::from(name));
    }
    Some(Some(names))
}

impl FieldType for Vec<Step> {
    fn parse(value: PolicyValue) -> Result<Vec<Step>, Vec<FieldError>> {
        with_json(value, |value| {
            let items = value.as_array().filter(|items| items.len() <= MAX_STEPS).ok_or_else(Vec::new)?;
            let parsed = items.iter().enumerate().map(|(i, item)| Step::parse(item, &format!("[{i}]")));
            let steps: Vec<Step> = all(parsed, Vec::new())?;
            match first_not_rising(&steps) {
                None => Ok(steps),
                Some(i) => Err(vec![FieldError {
                    place: format!("[{i}].percent"),
                    expected: "must be greater than that of the step before".to_string(),
                }]),
            }
        })
    }
}

/// Returns the index of the first step that does not rise above the one before it.
fn first_not_rising(steps: &[Step]) -> Option<usize> {
    steps.windows(2).position(|pair| pair[1].percent <= pair[0].percent).map(|i| i + 1)
}

/// Returns true for steps that the parser accepts: those of a decoded policy may not be.
#[allow(clippy::ptr_arg, reason = "the policy table passes a reference to the field")]
pub(super) fn are_steps(steps: &Vec<Step>) -> bool {
    steps.len() <= MAX_STEPS
        && first_not_rising(steps).is_none()
        && steps.iter().all(|step| is_percent(step.percent) && step.soak_ms <= MAX_WAIT_MS)
}
