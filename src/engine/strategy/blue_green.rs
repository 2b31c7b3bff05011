//! SPEC 4.5: a second job with every agent of the target; all of them healthy, one step makes it primary.

use super::{Step, View};
use crate::engine::deployment::Role;

pub(super) fn next(view: &View) -> Step {
    if view.deployment.promoted {
        Step::Finish
    } else if !view.all_placed() {
        Step::Release { agents: view.next(usize::MAX), role: Role::Candidate }
    } else if !view.all_placed_are_healthy() {
        Step::Wait
    } else if view.deployment.canaries > 0 && !view.deployment.policy.auto_promote {
        Step::Await
    } else {
        Step::Promote
    }
}
