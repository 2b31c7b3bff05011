//! SPEC 4.1: every agent at once, as primary; no canary phase.

use super::{Step, View};
use crate::engine::deployment::Role;

pub(super) fn next(view: &View) -> Step {
    if !view.all_placed() {
        Step::Release { agents: view.next(usize::MAX), role: Role::Primary }
    } else if view.all_placed_are_healthy() {
        Step::Finish
    } else {
        Step::Wait
    }
}
