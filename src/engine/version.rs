//! Versions: the recorded contents of a key.

use super::deployment::{Cause, Outcome};
use super::manifest::{self, JobType, ManifestText, BATCH_AGENT};
use super::policy::{Policy, Strategy};
use super::time::UnixMs;
use std::sync::Arc;

/// One version. It never changes, except its `stable` flag, its `tag`, and its result (`outcome`; `job_id` and
/// `strategy` after a fallback to blue-green).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub number: u64,
    pub deployment_id: Arc<str>,
    pub job_id: Arc<str>,
    pub job_type: JobType,
    pub strategy: Strategy,
    pub policy: Policy,
    pub content: Arc<ManifestText>,
    /// `AGENTS` as given, where they differ from the node ids.
    pub agents: Option<Arc<[Arc<str>]>>,
    pub bundle: Option<Arc<str>>,
    pub tag: Option<Arc<str>>,
    pub stable: bool,
    pub rollback_of: Option<u64>,
    pub outcome: Option<Outcome>,
    pub submitted_at: UnixMs,
    pub by: Arc<str>,
    pub reason: Option<Arc<str>>,
    /// The cause of the end of its deployment; None where that was successful, or has not ended.
    pub cause: Option<Cause>,
    /// The description of that end.
    pub description: Option<Arc<str>>,
    /// The time of its promotion, and who promoted it: an ACL user, or `auto`. None without a promotion of its own.
    pub promoted_at: Option<UnixMs>,
    pub promoted_by: Option<Arc<str>>,
    /// The time at which its deployment ended, or its batch job reported.
    pub finished_at: Option<UnixMs>,
}

impl Version {
    /// Returns the agents with their nodes, in manifest order.
    pub fn agents_with_nodes(&self) -> Vec<(Arc<str>, Arc<str>)> {
        manifest::agents_with_nodes(self.content.node_ids(), self.agents.as_deref())
    }

    /// Returns the node of an agent (rule 1.5).
    pub fn node_of(&self, agent: &Arc<str>) -> Arc<str> {
        if self.agents.is_none() || self.content.has_node(agent) {
            return agent.clone();
        }
        let known = manifest::node_ids_of(agent).find(|id| self.content.has_node(id));
        Arc::from(known.unwrap_or_else(|| manifest::implied_node(agent)))
    }

    pub fn has_agent(&self, agent: &str) -> bool {
        if self.job_type.is_batch() && agent == BATCH_AGENT {
            return true;
        }
        match &self.agents {
            Some(agents) => agents.iter().any(|a| &**a == agent),
            None => self.content.has_node(agent),
        }
    }
}
