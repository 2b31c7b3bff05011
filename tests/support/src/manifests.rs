//! Random manifests: families of small ones, changed a little from deploy to deploy.

use crate::rng::Rng;
use redis_deploy::engine::command::Deploy;
use redis_deploy::engine::policy::{CountOrPercent, HealthCheck, PolicyPatch, Strategy};
use serde_json::{json, Map, Value};
use std::sync::Arc;

/// The content of a manifest, and the options of its deployment.
#[derive(Debug, Clone)]
pub struct Content {
    pub job_type: &'static str,
    pub nodes: Vec<Node>,
    pub edges: Vec<(usize, usize)>,
    pub entrypoint: usize,
    pub bundle: u64,
    pub note: u64,
    /// Hosts on which every node of a `system` job has an agent.
    pub hosts: Vec<u64>,
    pub policy: PolicyPatch,
    /// The policy is part of the manifest instead of the command's options.
    pub policy_in_manifest: bool,
    /// Its agents hold sessions: most of its policies let them drain.
    pub has_sessions: bool,
    /// Most of its updates are blue-green, and bake.
    pub bakes: bool,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub id: String,
    pub config: u64,
    pub display_name: u64,
    pub services: Vec<&'static str>,
}

const NAMES: [&str; 8] = ["ask", "find", "judge", "plan", "rank", "sum", "talk", "write"];

impl Content {
    pub fn first(rng: &mut Rng) -> Content {
        let job_type =
            *rng.pick(&["service", "service", "service", "service", "system", "system", "batch", "sysbatch"]);
        let count = rng.between(1, if job_type == "system" { 2 } else { 5 }) as usize;
        // A node whose id is that of another's agent on the first host: agents belong to the longest id.
        let is_ambiguous = job_type == "system" && rng.chance(30);
        let nodes = NAMES[..count]
            .iter()
            .enumerate()
            .map(|(at, name)| Node {
                id: if is_ambiguous && at > 0 { format!("{}@h1", NAMES[0]) } else { name.to_string() },
                config: rng.between(0, 2),
                display_name: 0,
                services: match rng.below(4) {
                    0 => vec!["http"],
                    1 if rng.chance(30) => vec!["http", "grpc"],
                    _ => Vec::new(),
                },
            })
            .collect();
        let mut content = Content {
            job_type,
            nodes,
            edges: vec![(0, count - 1)],
            entrypoint: 0,
            bundle: 0,
            note: 0,
            hosts: if job_type == "system" { (1..=rng.between(1, 3)).collect() } else { Vec::new() },
            policy: PolicyPatch::default(),
            policy_in_manifest: false,
            has_sessions: rng.chance(50),
            bakes: !matches!(job_type, "batch" | "sysbatch") && rng.chance(50),
        };
        content.another_policy(rng);
        content
    }

    pub fn another_policy(&mut self, rng: &mut Rng) {
        let min = *rng.pick(&[0, 1, 10, 30, 30, 100]);
        let healthy = min + *rng.pick(&[1, 60, 200, 400, 2_000, 2_000, 5_000, 5_000, 20_000]);
        let progress = *rng.pick(&[0, healthy, healthy * 2, healthy + 300, healthy * 5]);
        let amount = |rng: &mut Rng, most: u64| match rng.below(3) {
            0 => CountOrPercent::Percent(*rng.pick(&[0, 25, 50, 100, 130])),
            _ => CountOrPercent::Count(rng.between(0, most) as u32),
        };
        let max_parallel = Some(amount(rng, 3));
        let canary = if rng.chance(45) { Some(amount(rng, 3)) } else { None };
        let strategy = match rng.below(5) {
            0 => Some(Strategy::BlueGreen),
            1 => Some(Strategy::Canary),
            2 => Some(Strategy::Rolling),
            _ => None,
        };
        self.policy.strategy = strategy;
        self.policy.max_parallel = max_parallel;
        self.policy.canary = canary;
        self.policy.min_healthy_ms = Some(min);
        self.policy.healthy_deadline_ms = Some(healthy);
        self.policy.progress_deadline_ms = Some(if progress != 0 { progress.max(healthy) } else { 0 });
        self.policy.health_check = rng.chance(25).then_some(HealthCheck::AgentStates);
        self.policy.auto_promote = rng.chance(40).then_some(true);
        self.policy.auto_revert = rng.chance(45).then_some(true);
        self.policy.drain_ms = self.has_sessions.then(|| *rng.pick(&[0, 20, 100, 400, 400, 3_000, 3_000, 30_000]));
        self.policy.bake_ms = rng.chance(35).then(|| *rng.pick(&[5, 60, 60, 300, 300, 3_000, 60_000]));
        if self.bakes {
            self.bake_mostly(rng, min);
        }
        self.policy_in_manifest = rng.chance(30);
        if self.policy_in_manifest
            && self.policy.strategy == Some(Strategy::Canary)
            && matches!(self.policy.canary, None | Some(CountOrPercent::Count(0) | CountOrPercent::Percent(0)))
        {
            self.policy.auto_promote = None;
        }
    }

    /// Gives it a policy with which an update gets as far as its bake, and bakes long enough for something to come.
    fn bake_mostly(&mut self, rng: &mut Rng, min_healthy_ms: u64) {
        let healthy = min_healthy_ms + *rng.pick(&[400, 2_000, 5_000, 20_000]);
        if rng.chance(70) {
            self.policy.strategy = Some(Strategy::BlueGreen);
        }
        if rng.chance(75) {
            self.policy.canary = None;
        }
        self.policy.healthy_deadline_ms = Some(healthy);
        self.policy.progress_deadline_ms = Some(*rng.pick(&[0, healthy, healthy + 300, healthy * 5]));
        self.policy.health_check = rng.chance(60).then_some(HealthCheck::AgentStates);
        self.policy.bake_ms = rng.chance(90).then(|| *rng.pick(&[60, 300, 3_000, 3_000, 60_000]));
    }

    /// Makes one typical change.
    pub fn change(&mut self, rng: &mut Rng) {
        match rng.weighted(&[40, 12, 8, 12, 8, 10, 6, 4]) {
            0 => {
                for _ in 0..rng.between(1, 3) {
                    let at = rng.below(self.nodes.len());
                    self.nodes[at].config = rng.between(0, 3);
                }
            }
            1 => self.bundle = rng.between(0, 3),
            2 => {
                let at = rng.below(self.nodes.len());
                self.nodes[at].display_name += 1;
            }
            3 => self.another_policy(rng),
            4 => self.edges = vec![(rng.below(self.nodes.len()), rng.below(self.nodes.len()))],
            5 => match self.nodes.len() {
                n if n > 1 && rng.chance(50) => {
                    self.nodes.pop();
                    self.edges = vec![(0, 0)];
                    self.entrypoint = 0;
                }
                n if n < NAMES.len() => {
                    let services = if rng.chance(30) { vec!["http"] } else { Vec::new() };
                    self.nodes.push(Node { id: NAMES[n].to_string(), config: 0, display_name: 0, services });
                }
                _ => self.note += 1,
            },
            6 => {
                let at = rng.below(self.nodes.len());
                let services = &mut self.nodes[at].services;
                *services = if services.is_empty() { vec!["http"] } else { Vec::new() };
            }
            _ => self.note += 1,
        }
        if !self.hosts.is_empty() && rng.chance(40) {
            let host = rng.between(1, 4);
            match self.hosts.iter().position(|h| *h == host) {
                Some(at) if self.hosts.len() > 1 => {
                    self.hosts.remove(at);
                }
                Some(_) => {}
                None => self.hosts.push(host),
            }
        }
    }

    pub fn is_batch(&self) -> bool {
        matches!(self.job_type, "batch" | "sysbatch")
    }

    pub fn agents(&self) -> Option<Vec<Arc<str>>> {
        (!self.hosts.is_empty()).then(|| {
            let instance = |node: &Node| {
                self.hosts.iter().map(|host| Arc::from(format!("{}@h{host}", node.id))).collect::<Vec<_>>()
            };
            self.nodes.iter().flat_map(instance).collect()
        })
    }

    pub fn manifest(&self) -> Vec<u8> {
        let node = |node: &Node| {
            let services: Vec<Value> = node.services.iter().map(|name| json!({ "name": name })).collect();
            let mut body = json!({"node_id": node.id, "model": node.config, "display_name": node.display_name});
            if !services.is_empty() {
                body["services"] = Value::Array(services);
            }
            body
        };
        let id = |at: usize| self.nodes[at.min(self.nodes.len() - 1)].id.clone();
        let edges: Vec<Value> = self
            .edges
            .iter()
            .map(|(from, to)| json!({"from_node": id(*from), "to_node": id(*to), "message_type": "m"}))
            .collect();
        let mut manifest = json!({
            "type": self.job_type,
            "description": self.note,
            "nodes": self.nodes.iter().map(node).collect::<Vec<_>>(),
            "edges": edges,
            "entrypoints": [id(self.entrypoint)],
        });
        if self.policy_in_manifest {
            manifest["policies"] = json!({"update": written(&self.policy)});
        }
        manifest.to_string().into_bytes()
    }

    pub fn deploy(&self) -> Deploy {
        Deploy {
            manifest: self.manifest(),
            bundle: (self.bundle > 0).then(|| Arc::from(format!("s3://b/{}", self.bundle))),
            agents: self.agents(),
            policy: if self.policy_in_manifest { PolicyPatch::default() } else { self.policy.clone() },
            ..Deploy::default()
        }
    }
}

/// The fields that a patch sets, in the order of the policy table, as a manifest has them.
pub fn written(patch: &PolicyPatch) -> Map<String, Value> {
    match serde_json::to_value(patch) {
        Ok(Value::Object(fields)) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        other => panic!("not an object: {other:?}"),
    }
}
