//! DEPLOY.PLAN: the same decision as DEPLOY, without doing it (SPEC 3, 7).

use super::command::{Context, Deploy};
use super::deployment::{Mode, Record, Role};
use super::policy::Strategy;
use super::rejection::Rejection;
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub agents: Vec<Arc<str>>,
    pub role: Role,
    /// The earliest time it can start, in ms counted from the deploy.
    pub earliest_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub deployment_key: Arc<str>,
    pub version: u64,
    pub mode: Mode,
    pub strategy: Strategy,
    pub requested_strategy: Strategy,
    pub reason: Arc<str>,
    /// Each changed agent, and why.
    pub changed_agents: Vec<(Arc<str>, String)>,
    pub batches: Vec<Batch>,
    pub warnings: Vec<String>,
}

pub fn plan(_record: Option<&Record>, _deploy: &Deploy, _context: &Context) -> Result<Plan, Rejection> {
    Err(Rejection::Syntax("PLAN is not decided yet".to_string()))
}
