//! Blue-green (rule 4.5): a second job with every agent of the target; once all are healthy, one step makes it primary.

use super::step::{Step, StrategyInput};
use crate::engine::instance::Role;

pub(super) fn next(input: &StrategyInput) -> Step {
    if input.deployment.promoted {
        Step::Finish
    } else if !input.all_released() {
        Step::Release { agents: input.next(usize::MAX), role: Role::Candidate }
    } else if !input.all_released_are_healthy() {
        Step::Wait
    } else if input.deployment.canaries > 0 && !input.deployment.policy.auto_promote {
        Step::Await
    } else {
        Step::Promote
    }
}
