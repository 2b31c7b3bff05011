//! Bake (rule 12.2): the clock restarts once all instances are healthy again.

use super::step::{Step, StrategyInput};
use crate::engine::time::Deadline;

pub(super) fn next(input: &StrategyInput) -> Step {
    match input.deployment.bake {
        Deadline::Off if input.all_released_are_healthy() => Step::Bake,
        _ => Step::Wait,
    }
}
