//! SPEC 4.3: agents go while fewer than `max_parallel` of those that went are without a healthy verdict, and none is
//! unhealthy.

use super::{Step, View};
use crate::engine::deployment::Role;

pub(super) fn next(view: &View) -> Step {
    if view.all_placed() {
        return if view.all_placed_are_healthy() { Step::Finish } else { Step::Wait };
    }
    let parallel = view.deployment.policy.parallel(view.deployment.changed.len());
    let without_verdict = view.own.placed - view.own.healthy;
    if view.own.unhealthy > 0 || without_verdict >= parallel {
        return Step::Wait;
    }
    Step::Release { agents: view.next(parallel - without_verdict), role: Role::Primary }
}
