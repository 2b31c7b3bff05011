//! Rolling (rule 4.3): agents are released while fewer than `max_parallel` of the released ones are without a healthy
//! verdict, and none is unhealthy. An agent that drains for its replacement is released, and has no verdict (rule
//! 10.6).

use super::step::{Step, StrategyInput};
use crate::engine::instance::Role;

pub(super) fn next(input: &StrategyInput) -> Step {
    if input.all_released() {
        return if input.all_released_are_healthy() { Step::Finish } else { Step::Wait };
    }
    let parallel = input.deployment.policy.parallel(input.deployment.changed.len());
    let without_verdict = input.own.released() - input.own.healthy;
    if input.own.unhealthy > 0 || without_verdict >= parallel {
        return Step::Wait;
    }
    Step::Release { agents: input.next(parallel - without_verdict), role: Role::Primary }
}
