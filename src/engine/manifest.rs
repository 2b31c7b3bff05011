//! The manifest (rule 2): parsing, violations with their paths, and the differences between two.

use super::json::{Json, JsonError, Object};
use super::names::named_enum;
use super::policy::PolicyPatch;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

/// The longest node or agent id, in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// The maximum nesting of a manifest, so that replies that embed it stay within the limits of JSON parsers.
pub const MAX_DEPTH: usize = 100;

/// Node fields for people, which no runtime reads: a change of them changes no agent.
const COSMETIC: [&str; 4] = ["alias", "display_name", "description", "metadata"];

named_enum! {
    pub enum JobType {
        Service = "service",
        System = "system",
        Batch = "batch",
        Sysbatch = "sysbatch",
    }
}

impl JobType {
    /// Returns the job type of this name, spelt exactly so.
    fn of_name(name: &str) -> Option<JobType> {
        JobType::ALL.into_iter().find(|job_type| job_type.name() == name)
    }

    /// Batch and sysbatch have no rollout (rule 4.7).
    pub fn is_batch(self) -> bool {
        matches!(self, JobType::Batch | JobType::Sysbatch)
    }
}

/// The agent of a batch job's `run` task (rule 7).
pub const BATCH_AGENT: &str = "*";

/// A manifest's text, kept byte for byte, with a summary that is parsed on demand. Versions share it.
#[derive(Debug, Clone)]
pub struct ManifestText {
    text: Arc<str>,
    summary: OnceLock<ManifestSummary>,
}

#[derive(Debug, Clone)]
struct ManifestSummary {
    outline: Outline,
    /// True if any node declares a service.
    declares_services: bool,
}

impl ManifestSummary {
    fn of(outline: Outline) -> ManifestSummary {
        ManifestSummary { declares_services: outline.services.values().any(|names| !names.is_empty()), outline }
    }
}

impl PartialEq for ManifestText {
    fn eq(&self, other: &ManifestText) -> bool {
        self.text == other.text
    }
}

impl Eq for ManifestText {}

/// Node ids in manifest order, and the services that each declares.
#[derive(Debug, Clone, Default)]
pub struct Outline {
    pub nodes: Vec<Arc<str>>,
    pub services: BTreeMap<Arc<str>, Vec<Arc<str>>>,
}

impl ManifestText {
    pub fn new(text: Arc<str>) -> ManifestText {
        ManifestText { text, summary: OnceLock::new() }
    }

    /// Makes the text of a manifest that is parsed already, so that it is not parsed again at the first reports.
    pub fn of(text: Arc<str>, manifest: &Manifest) -> ManifestText {
        ManifestText { text, summary: OnceLock::from(ManifestSummary::of(manifest.outline())) }
    }

    /// Returns the placeholder of a manifest that is left out (the log).
    pub fn omitted() -> ManifestText {
        ManifestText::new(Arc::from(""))
    }

    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    fn summary(&self) -> &ManifestSummary {
        self.summary.get_or_init(|| match Manifest::parse(self.text.as_bytes()) {
            Ok(manifest) => ManifestSummary::of(manifest.outline()),
            // Only a text that passed `parse` gets onto a record; any other has no nodes.
            Err(_) => ManifestSummary::of(Outline::default()),
        })
    }

    fn outline(&self) -> &Outline {
        &self.summary().outline
    }

    /// Reads the manifest, and has its outline from then on where that will be asked for; or gives its violations.
    /// With `cache`, the outline is kept, for a version that agents run.
    pub fn parse_and_cache(&self, cache: bool) -> Result<Vec<Arc<str>>, Vec<String>> {
        let manifest = Manifest::parse(self.text.as_bytes())?;
        let node_ids = manifest.node_ids();
        if cache {
            self.summary.get_or_init(|| ManifestSummary::of(manifest.outline()));
        }
        Ok(node_ids)
    }

    /// Returns the outline if it is parsed already.
    pub fn cached_outline(&self) -> Option<&Outline> {
        self.summary.get().map(|summary| &summary.outline)
    }

    pub fn node_ids(&self) -> &[Arc<str>] {
        &self.outline().nodes
    }

    pub fn has_node(&self, node: &str) -> bool {
        self.outline().services.contains_key(node)
    }

    /// Returns the names of the services that a node declares (rule 8 "Manifest").
    pub fn services_of(&self, node: &str) -> &[Arc<str>] {
        match self.summary() {
            ManifestSummary { declares_services: false, .. } => &[],
            ManifestSummary { outline, .. } => outline.services.get(node).map(Vec::as_slice).unwrap_or_default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub id: Arc<str>,
    /// The node as given, without cosmetic fields.
    pub body: Json,
    pub services: Vec<Arc<str>>,
}

/// One edge's four fields, each as JSON text: `null` where it is missing.
pub type Edge = [String; 4];

/// The parts of a manifest that the module reads.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub value: Json,
    pub job_type: JobType,
    pub policy: PolicyPatch,
    pub nodes: Vec<Node>,
    pub edges: BTreeSet<Edge>,
    pub entrypoints: BTreeSet<String>,
    /// Warnings of PLAN: unusual, but allowed.
    pub warnings: Vec<String>,
}

/// A manifest as far as it could be parsed.
pub struct PartialManifest {
    pub manifest: Manifest,
    /// Every violation, each with its path.
    pub violations: Vec<String>,
    /// Violations of rules that came with a later release, each with its path: DEPLOY refuses them, and a manifest that
    /// is stored already may have them.
    pub later_violations: Vec<String>,
    /// True if its nodes have no violation, so that `AGENTS` can be validated against them.
    pub nodes_are_valid: bool,
    /// True if no policy field is violated, so that conflicts between them can be validated.
    pub policy_is_valid: bool,
}

impl Manifest {
    /// Parses a manifest without violations.
    pub fn parse(text: &[u8]) -> Result<Manifest, Vec<String>> {
        let partial = Manifest::parse_partial(text)?;
        if partial.violations.is_empty() {
            Ok(partial.manifest)
        } else {
            Err(partial.violations)
        }
    }

    /// Parses as much as possible, so that a caller can report violations of its own beside the manifest's.
    ///
    /// # Errors
    /// The violation of a text that is no JSON object at all.
    pub fn parse_partial(text: &[u8]) -> Result<PartialManifest, Vec<String>> {
        let text = std::str::from_utf8(text).map_err(|_| vec!["manifest must be UTF-8 text".to_string()])?;
        let value = Json::parse(text, MAX_DEPTH).map_err(|error| match error {
            JsonError::Syntax(error) => vec![format!("manifest must be a JSON object: {error}")],
            JsonError::TooDeep => vec![format!("manifest must not be nested deeper than {MAX_DEPTH} levels")],
        })?;
        let Json::Object(top) = &value else {
            return Err(vec!["manifest must be a JSON object".to_string()]);
        };
        let mut parser = Parser::default();
        let agents = match top.get("agents") {
            None | Some(Json::Null) => None,
            Some(Json::Object(agents)) => Some(agents),
            Some(_) => {
                parser.violations.push("agents must be an object".to_string());
                None
            }
        };
        parser.nodes(top, "");
        if let Some(agents) = agents {
            parser.nodes(agents, "agents.");
        }
        let nodes_are_valid = parser.violations.is_empty();
        parser.links(top, "");
        if let Some(agents) = agents {
            parser.links(agents, "agents.");
        }
        let others = parser.violations.len();
        let (job_type, policy) = parser.policies(top);
        let policy_is_valid = parser.violations.len() == others;
        parser.validate_links();
        let Parser { violations, later_violations, nodes, edges, entrypoints, warnings, .. } = parser;
        let manifest = Manifest { job_type, policy, nodes, edges, entrypoints, warnings, value };
        Ok(PartialManifest { manifest, violations, later_violations, nodes_are_valid, policy_is_valid })
    }

    fn outline(&self) -> Outline {
        Outline {
            nodes: self.node_ids(),
            services: self.nodes.iter().map(|n| (n.id.clone(), n.services.clone())).collect(),
        }
    }

    pub fn node_ids(&self) -> Vec<Arc<str>> {
        self.nodes.iter().map(|n| n.id.clone()).collect()
    }

    /// Returns the nodes by id, for comparing two manifests.
    pub fn nodes_by_id(&self) -> BTreeMap<&str, &Node> {
        self.nodes.iter().map(|n| (&*n.id, n)).collect()
    }
}

/// Returns the agents of a version with their nodes, in manifest order: the node ids themselves, or `AGENTS`, each
/// joined to its node. Without any node in the manifest the agents imply theirs.
pub fn agents_with_nodes(node_ids: &[Arc<str>], agents: Option<&[Arc<str>]>) -> Vec<(Arc<str>, Arc<str>)> {
    let Some(agents) = agents else {
        return node_ids.iter().map(|id| (id.clone(), id.clone())).collect();
    };
    let rank: BTreeMap<&str, usize> = node_ids.iter().enumerate().map(|(i, id)| (&**id, i)).collect();
    let mut joined: Vec<(usize, Arc<str>, Arc<str>)> = agents
        .iter()
        .map(|agent| {
            let (place, node) = node_of(agent, &rank).unwrap_or_else(|| (rank.len(), Arc::from(implied_node(agent))));
            (place, agent.clone(), node)
        })
        .collect();
    joined.sort_by_key(|(place, _, _)| *place);
    joined.into_iter().map(|(_, agent, node)| (agent, node)).collect()
}

/// Returns the node of an agent: the one with the longest id that is the agent's id or its beginning before an `@`
/// (rule 1.5).
fn node_of(agent: &str, rank: &BTreeMap<&str, usize>) -> Option<(usize, Arc<str>)> {
    node_ids_of(agent).find_map(|id| rank.get(id).map(|place| (*place, Arc::from(id))))
}

/// The node ids that an agent may belong to, the longest first: `a@b@c`, `a@b`, `a`.
pub(super) fn node_ids_of(agent: &str) -> impl Iterator<Item = &str> {
    let beginnings = agent.rmatch_indices('@').filter_map(|(at, _)| agent.get(..at));
    std::iter::once(agent).chain(beginnings)
}

/// The node that an agent implies where the manifest has none: the part before the first `@`.
pub(super) fn implied_node(agent: &str) -> &str {
    agent.split_once('@').map_or(agent, |(node, _)| node)
}

/// Returns the violations of `AGENTS` for a manifest with these nodes.
pub fn agents_violations(node_ids: &[Arc<str>], agents: &[Arc<str>]) -> Vec<String> {
    let rank: BTreeMap<&str, usize> = node_ids.iter().enumerate().map(|(i, id)| (&**id, i)).collect();
    let mut seen = BTreeSet::new();
    let mut violations = Vec::new();
    if agents.is_empty() {
        violations.push("AGENTS must name at least one agent".to_string());
    }
    for agent in agents {
        if let Err(must) = check_id(agent) {
            violations.push(format!("AGENTS {agent:?} {must}"));
        } else if !seen.insert(agent) {
            violations.push(format!("AGENTS names {agent} twice"));
        } else if !node_ids.is_empty() && node_of(agent, &rank).is_none() {
            violations.push(format!("AGENTS names {agent}, which is an agent of no node"));
        }
    }
    violations
}

/// Checks a node or agent id: 1 to 256 bytes, no control characters, and not the `*` of a batch job.
fn check_id(id: &str) -> Result<(), String> {
    if id.is_empty() {
        Err("must be a non-empty string".to_string())
    } else if id.len() > MAX_ID_BYTES {
        Err(format!("must be at most {MAX_ID_BYTES} bytes"))
    } else if id.chars().any(char::is_control) {
        Err("must not contain control characters".to_string())
    } else if id == BATCH_AGENT {
        Err("must not be \"*\", which stands for a batch job".to_string())
    } else {
        Ok(())
    }
}

#[derive(Default)]
struct Parser {
    violations: Vec<String>,
    later_violations: Vec<String>,
    warnings: Vec<String>,
    nodes: Vec<Node>,
    seen: BTreeSet<Arc<str>>,
    edges: BTreeSet<Edge>,
    entrypoints: BTreeSet<String>,
}

/// Returns an optional field; null counts as left out.
fn present<'a>(object: &'a Object, field: &str) -> Option<&'a Json> {
    object.get(field).filter(|value| !value.is_null())
}

impl Parser {
    fn array<'a>(&mut self, object: &'a Object, prefix: &str, field: &str) -> &'a [Json] {
        match present(object, field) {
            None => &[],
            Some(Json::Array(items)) => items,
            Some(_) => {
                self.violations.push(format!("{prefix}{field} must be an array"));
                &[]
            }
        }
    }

    fn nodes(&mut self, object: &Object, prefix: &str) {
        for field in ["nodes", "extra_nodes"] {
            for (i, item) in self.array(object, prefix, field).iter().enumerate() {
                let path = format!("{prefix}{field}[{i}]");
                let Json::Object(node) = item else {
                    self.violations.push(format!("{path} must be an object"));
                    continue;
                };
                match node.get("node_id") {
                    Some(Json::String(id)) => self.node(&path, &format!("{path}.node_id"), id, item),
                    _ => self.violations.push(format!("{path}.node_id must be a non-empty string")),
                }
            }
        }
        match present(object, "registry") {
            None => {}
            Some(Json::Object(registry)) => {
                for (name, item) in registry.iter() {
                    let path = format!("{prefix}registry.{name}");
                    self.node(&path, &path, name, item);
                }
                let repeated: BTreeSet<&String> = registry.repeated().iter().collect();
                self.later_violations
                    .extend(repeated.iter().map(|name| format!("{prefix}registry.{name} comes twice")));
            }
            Some(_) => self.violations.push(format!("{prefix}registry must be an object")),
        }
    }

    fn node(&mut self, path: &str, id_path: &str, id: &str, item: &Json) {
        if let Err(must) = check_id(id) {
            self.violations.push(format!("{id_path} {must}"));
            return;
        }
        let id: Arc<str> = Arc::from(id);
        if !self.seen.insert(id.clone()) {
            self.violations.push(format!("{id_path} is {id}, which another node has"));
            return;
        }
        let mut body = item.clone();
        let mut services = Vec::new();
        if let Json::Object(fields) = &mut body {
            for field in COSMETIC {
                fields.remove(field);
            }
            services = self.services(path, fields);
        }
        self.nodes.push(Node { id, body, services });
    }

    fn services(&mut self, path: &str, node: &Object) -> Vec<Arc<str>> {
        let items = self.array(node, &format!("{path}."), "services");
        let mut names: Vec<Arc<str>> = Vec::new();
        for (i, item) in items.iter().enumerate() {
            match item.get("name") {
                Some(Json::String(name)) if !name.is_empty() => {
                    if !names.iter().any(|n| **n == **name) {
                        names.push(Arc::from(name.as_str()));
                    }
                }
                _ => self.violations.push(format!("{path}.services[{i}].name must be a non-empty string")),
            }
        }
        names
    }

    fn links(&mut self, object: &Object, prefix: &str) {
        for field in ["edges", "extra_edges"] {
            for (i, item) in self.array(object, prefix, field).iter().enumerate() {
                let path = format!("{prefix}{field}[{i}]");
                let Json::Object(edge) = item else {
                    self.violations.push(format!("{path} must be an object"));
                    continue;
                };
                for end in ["from_node", "to_node"] {
                    if present(edge, end).is_some_and(|v| v.as_str().is_none()) {
                        self.violations.push(format!("{path}.{end} must be a string"));
                    }
                }
                self.edges.insert(
                    ["from_node", "to_node", "message_type", "routing_mode"]
                        .map(|field| edge.get(field).map_or_else(|| "null".to_string(), Json::canonical)),
                );
            }
        }
        for (i, item) in self.array(object, prefix, "entrypoints").iter().enumerate() {
            match item {
                Json::String(id) => {
                    self.entrypoints.insert(id.clone());
                }
                _ => self.violations.push(format!("{prefix}entrypoints[{i}] must be a string")),
            }
        }
    }

    /// Warns of edges and entrypoints of unknown nodes (rule 8 "Manifest").
    fn validate_links(&mut self) {
        let known = |id: &str| self.seen.contains(id);
        let mut odd = BTreeSet::new();
        for edge in &self.edges {
            for end in &edge[..2] {
                if let Ok(Json::String(id)) = Json::parse(end, MAX_DEPTH) {
                    if !known(&id) {
                        odd.insert(format!("an edge names {id}, which is no node"));
                    }
                }
            }
        }
        for id in &self.entrypoints {
            if !known(id) {
                odd.insert(format!("entrypoint {id} is no node"));
            }
        }
        self.warnings.extend(odd);
    }

    fn object<'a>(&mut self, object: &'a Object, prefix: &str, field: &str) -> Option<&'a Object> {
        match present(object, field)? {
            Json::Object(inner) => Some(inner),
            _ => {
                self.violations.push(format!("{prefix}{field} must be an object"));
                None
            }
        }
    }

    fn policies(&mut self, top: &Object) -> (JobType, PolicyPatch) {
        let policies = self.object(top, "", "policies");
        let scheduler = policies.and_then(|p| self.object(p, "policies.", "scheduler"));
        let given = scheduler
            .and_then(|s| present(s, "job_type").map(|v| ("policies.scheduler.job_type", v)))
            .or_else(|| present(top, "type").map(|v| ("type", v)));
        let job_type = match given {
            None => {
                self.warnings.push("no type: batch".to_string());
                JobType::Batch
            }
            Some((path, value)) => value.as_str().and_then(JobType::of_name).unwrap_or_else(|| {
                let known = JobType::ALL.map(JobType::name).join(", ");
                self.later_violations.push(format!("{path} must be one of {known}, not {value}"));
                JobType::Batch
            }),
        };
        let mut unknown = Vec::new();
        let policy = match policies.and_then(|p| p.get("update")) {
            None => PolicyPatch::default(),
            Some(update) => PolicyPatch::from_manifest(update, &mut self.violations, &mut unknown),
        };
        self.warnings.extend(unknown.into_iter().map(|field| format!("policies.update.{field} is no policy field")));
        (job_type, policy)
    }
}

/// Returns the reason why two manifests differ in topology (rule 2); None where they do not.
pub fn topology_change(old: &Manifest, new: &Manifest) -> Option<String> {
    let (was, is) = (old.nodes_by_id(), new.nodes_by_id());
    let added: Vec<&str> = is.keys().filter(|id| !was.contains_key(*id)).copied().collect();
    let removed: Vec<&str> = was.keys().filter(|id| !is.contains_key(*id)).copied().collect();
    let mut parts = Vec::new();
    if !added.is_empty() {
        parts.push(format!("node {} added", some(&added)));
    }
    if !removed.is_empty() {
        parts.push(format!("node {} removed", some(&removed)));
    }
    if old.edges != new.edges {
        parts.push("edges differ".to_string());
    }
    if old.entrypoints != new.entrypoints {
        parts.push("entrypoints differ".to_string());
    }
    (!parts.is_empty()).then(|| format!("topology changed: {}", parts.join(", ")))
}

fn some(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        format!("{shown} and {} more", names.len() - SHOWN)
    } else {
        shown
    }
}

/// Describes the differing fields of a node; None where its agents need not change.
pub fn node_change(old: &Node, new: &Node) -> Option<String> {
    if old.body == new.body {
        return None;
    }
    let fields = match (&old.body, &new.body) {
        (Json::Object(was), Json::Object(is)) => {
            let names: BTreeSet<&String> = was.names().chain(is.names()).collect();
            let differing: Vec<&str> =
                names.into_iter().filter(|name| was.get(name) != is.get(name)).map(String::as_str).collect();
            some(&differing)
        }
        _ => "whole node".to_string(),
    };
    Some(format!("node changed: {fields}"))
}
