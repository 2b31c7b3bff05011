//! Checks that several commands share.

use crate::engine::deployment::Deployment;
use crate::engine::draft::Draft;
use crate::engine::rejection::Rejection;
use std::sync::Arc;

/// Returns the current deployment.
///
/// # Errors
/// `CONFLICT` where `id` names another one.
pub(super) fn check_deployment_id(draft: &Draft, id: &Option<Arc<str>>) -> Result<Arc<Deployment>, Rejection> {
    let Some(d) = &draft.record.deployment else { return Err(Rejection::NoSuchKey(draft.context.key.to_string())) };
    match id {
        Some(given) if *given != d.id => {
            Err(Rejection::OtherDeployment { current: d.id.to_string(), given: given.to_string() })
        }
        _ => Ok(d.clone()),
    }
}

/// Returns the rejection of a command that the status does not allow.
pub(super) fn bad_state(d: &Deployment, expected: &'static str) -> Rejection {
    Rejection::BadState { deployment_id: d.id.to_string(), status: d.status.name(), expected }
}
