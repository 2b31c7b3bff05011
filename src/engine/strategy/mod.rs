//! Strategies: each returns the next [`Step`] of a running deployment.

mod bake;
mod blue_green;
mod canary;
mod initial;
mod rolling;
mod step;

pub use self::step::Step;
use self::step::StrategyInput;
use super::deployment::Mode;
use super::record::Record;

/// Returns the next step of the record's deployment.
pub fn next(record: &Record) -> Step {
    let Some(deployment) = &record.deployment else { return Step::Wait };
    let own = record.instances.counts(deployment.target_version, &deployment.target_job_id);
    let input = StrategyInput { deployment, own };
    if deployment.is_baking {
        return bake::next(&input);
    }
    match deployment.mode {
        Mode::Initial => initial::next(&input),
        Mode::InPlace if deployment.canaries > 0 && !deployment.promoted => canary::next(&input),
        Mode::InPlace => rolling::next(&input),
        Mode::BlueGreen | Mode::SwitchBack => blue_green::next(&input),
        Mode::Noop | Mode::VersionOnly | Mode::Unchanged => Step::Wait,
    }
}
