//! Canary (rule 4.4): the first `canary` changed agents are released at once; once all are healthy, a promotion
//! releases the rest.

use super::step::{Step, StrategyInput};
use crate::engine::instance::Role;

pub(super) fn next(input: &StrategyInput) -> Step {
    let canaries = input.deployment.canaries as usize;
    if input.own.released() < canaries {
        Step::Release { agents: input.next(canaries - input.own.released()), role: Role::Canary }
    } else if !input.all_released_are_healthy() {
        Step::Wait
    } else if input.deployment.policy.auto_promote {
        Step::Promote
    } else {
        Step::Await
    }
}
