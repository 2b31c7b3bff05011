//! Manifests and policy options that many tests share.

use serde_json::Value as Json;

/// Returns the manifest of a service whose agents run `model`, one node each, in a chain.
pub fn manifest(agents: &[&str], model: &str) -> String {
    let nodes: Vec<Json> = agents
        .iter()
        .map(|agent| serde_json::json!({ "node_id": agent, "agent_type": "executor", "config": { "model": model } }))
        .collect();
    let edges: Vec<Json> = agents
        .windows(2)
        .map(|pair| serde_json::json!({ "from_node": pair[0], "to_node": pair[1], "message_type": "done" }))
        .collect();
    serde_json::json!({ "type": "service", "nodes": nodes, "edges": edges, "entrypoints": [agents[0]] }).to_string()
}

pub const AGENTS: [&str; 3] = ["agent-1", "agent-2", "agent-3"];

/// Policy options: healthy soon, no deadline within a test.
pub const QUICK: [&str; 2] = ["MIN_HEALTHY_MS", "50"];
/// Policy options: not healthy within a test.
pub const SLOW: [&str; 2] = ["MIN_HEALTHY_MS", "200000"];
