//! An update policy, complete.

use super::View;
use crate::engine::policy::{CountOrPercent, Policy};

pub(super) fn policy(policy: &Policy) -> View<'static> {
    View::map([
        ("strategy", policy.strategy.name().into()),
        ("max_parallel", amount(policy.max_parallel)),
        ("canary", amount(policy.canary)),
        ("min_healthy_ms", policy.min_healthy_ms.into()),
        ("healthy_deadline_ms", policy.healthy_deadline_ms.into()),
        ("progress_deadline_ms", policy.progress_deadline_ms.into()),
        ("health_check", policy.health_check.name().into()),
        ("auto_promote", policy.auto_promote.into()),
        ("auto_revert", policy.auto_revert.into()),
    ])
}

/// As it is written in a manifest: a number, or a percentage as text.
fn amount(amount: CountOrPercent) -> View<'static> {
    match amount {
        CountOrPercent::Count(count) => count.into(),
        CountOrPercent::Percent(percent) => format!("{percent}%").into(),
    }
}
