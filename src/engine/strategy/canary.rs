//! SPEC 4.4: the first `canary` changed agents go at once; all of them healthy, a promotion decides about the rest.

use super::{Step, View};
use crate::engine::deployment::Role;

pub(super) fn next(view: &View) -> Step {
    let canaries = view.deployment.canaries as usize;
    if view.own.placed < canaries {
        Step::Release { agents: view.next(canaries - view.own.placed), role: Role::Canary }
    } else if !view.all_placed_are_healthy() {
        Step::Wait
    } else if view.deployment.policy.auto_promote {
        Step::Promote
    } else {
        Step::Await
    }
}
