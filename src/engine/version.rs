//! Versions: the recorded contents of a key.

use super::deployment::Outcome;
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
}

impl Version {
    /// Returns the agents with their nodes, in manifest order.
    pub fn agents_with_nodes(&self) -> Vec<(Arc<str>, Arc<str>)> {
        manifest::agents_with_nodes(self.content.node_ids(), self.agents.as_deref())
    }

    /// Returns the node of an agent: the whole id, or the part before `@`.
    pub fn node_of(&self, agent: &Arc<str>) -> Arc<str> {
        if self.agents.is_none() || self.content.has_node(agent) {
            return agent.clone();
        }
        agent.split_once('@').map_or_else(|| agent.clone(), |(node, _)| Arc::from(node))
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
