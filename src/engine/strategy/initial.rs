//! First deployment (rule 4.1): every agent is released at once, as primary.

use super::step::{Step, StrategyInput};
use crate::engine::instance::Role;

pub(super) fn next(input: &StrategyInput) -> Step {
    if !input.all_released() {
        Step::Release { agents: input.next(usize::MAX), role: Role::Primary }
    } else if input.all_released_are_healthy() {
        Step::Finish
    } else {
        Step::Wait
    }
}
