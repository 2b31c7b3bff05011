//! The manifest (rule 2): what the module reads of it, every fault with its path, and what differs between two.

use super::names::named_enum;
use super::policy::PolicyPatch;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

/// The longest node or agent id, in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// How deep a manifest may be nested, so that replies that embed it stay within what JSON readers take.
pub const MAX_DEPTH: usize = 100;

/// Node fields that a person reads and no runtime does: a change of them changes no agent.
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
    /// Batch and sysbatch have no rollout (rule 4.7).
    pub fn is_batch(self) -> bool {
        matches!(self, JobType::Batch | JobType::Sysbatch)
    }
}

/// The agent of a batch job's `run` task (rule 7).
pub const BATCH_AGENT: &str = "*";

/// A manifest's text, kept byte for byte, with the little that is asked of it often. Shared between versions.
#[derive(Debug, Clone)]
pub struct ManifestText {
    text: Arc<str>,
    read: OnceLock<ParsedText>,
}

#[derive(Debug, Clone)]
struct ParsedText {
    outline: Outline,
    /// Whether any node declares a service.
    declares: bool,
}

impl ParsedText {
    fn of(outline: Outline) -> ParsedText {
        ParsedText { declares: outline.services.values().any(|names| !names.is_empty()), outline }
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
        ManifestText { text, read: OnceLock::new() }
    }

    /// Stands where a manifest is left out (the log).
    pub fn omitted() -> ManifestText {
        ManifestText::new(Arc::from(""))
    }

    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    fn read(&self) -> &ParsedText {
        self.read.get_or_init(|| match Manifest::parse(self.text.as_bytes()) {
            Ok(manifest) => ParsedText::of(manifest.outline()),
            // Only what passed `parse` comes onto a record; a text that does not has no nodes.
            Err(_) => ParsedText::of(Outline::default()),
        })
    }

    fn outline(&self) -> &Outline {
        &self.read().outline
    }

    /// Reads the manifest, and has its outline from then on where that will be asked for; or gives its faults.
    pub fn parse_and_cache(&self, will_be_asked: bool) -> Result<Vec<Arc<str>>, Vec<String>> {
        let manifest = Manifest::parse(self.text.as_bytes())?;
        let node_ids = manifest.node_ids();
        if will_be_asked {
            self.read.get_or_init(|| ParsedText::of(manifest.outline()));
        }
        Ok(node_ids)
    }

    /// The outline, where it was asked for already.
    pub fn cached_outline(&self) -> Option<&Outline> {
        self.read.get().map(|read| &read.outline)
    }

    pub fn node_ids(&self) -> &[Arc<str>] {
        &self.outline().nodes
    }

    pub fn has_node(&self, node: &str) -> bool {
        self.outline().services.contains_key(node)
    }

    /// The names of the services that a node declares (rule 8 "Manifest").
    pub fn services_of(&self, node: &str) -> &[Arc<str>] {
        match self.read() {
            ParsedText { declares: false, .. } => &[],
            ParsedText { outline, .. } => outline.services.get(node).map(Vec::as_slice).unwrap_or_default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub id: Arc<str>,
    /// The node as given, less what is cosmetic.
    pub body: Value,
    pub services: Vec<Arc<str>>,
}

/// One edge's four fields, each as JSON text: `null` where it is missing.
pub type Edge = [String; 4];

/// What the module reads of a manifest.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub value: Value,
    pub job_type: JobType,
    pub policy: PolicyPatch,
    pub nodes: Vec<Node>,
    pub edges: BTreeSet<Edge>,
    pub entrypoints: BTreeSet<String>,
    /// What is odd but allowed: PLAN says so.
    pub warnings: Vec<String>,
    /// `deployment.key`; the command's key wins.
    pub key: Option<String>,
}

/// A manifest as far as it could be read.
pub struct PartialManifest {
    pub manifest: Manifest,
    /// All of its own faults at once, each with its path.
    pub faults: Vec<String>,
    /// Whether its nodes are without fault, so that `AGENTS` can be judged by them.
    pub nodes_are_sound: bool,
    /// Whether its policy fields are without fault, so that clashes between them can be judged.
    pub policy_is_sound: bool,
}

impl Manifest {
    /// A manifest without fault.
    pub fn parse(text: &[u8]) -> Result<Manifest, Vec<String>> {
        let reading = Manifest::read(text)?;
        if reading.faults.is_empty() {
            Ok(reading.manifest)
        } else {
            Err(reading.faults)
        }
    }

    /// Reads what can be read, so that a caller can name faults of its own beside the manifest's. `Err` where it is
    /// no JSON object at all.
    pub fn read(text: &[u8]) -> Result<PartialManifest, Vec<String>> {
        let text = std::str::from_utf8(text).map_err(|_| vec!["manifest must be UTF-8 text".to_string()])?;
        let value: Value =
            serde_json::from_str(text).map_err(|error| vec![format!("manifest must be a JSON object: {error}")])?;
        if is_deeper(&value, MAX_DEPTH) {
            return Err(vec![format!("manifest must not be nested deeper than {MAX_DEPTH} levels")]);
        }
        let Value::Object(top) = &value else {
            return Err(vec!["manifest must be a JSON object".to_string()]);
        };
        let mut parser = Parser::default();
        let agents = match top.get("agents") {
            None | Some(Value::Null) => None,
            Some(Value::Object(agents)) => Some(agents),
            Some(_) => {
                parser.faults.push("agents must be an object".to_string());
                None
            }
        };
        parser.nodes(top, "");
        if let Some(agents) = agents {
            parser.nodes(agents, "agents.");
        }
        let nodes_are_sound = parser.faults.is_empty();
        parser.links(top, "");
        if let Some(agents) = agents {
            parser.links(agents, "agents.");
        }
        let others = parser.faults.len();
        let (job_type, policy) = parser.policies(top);
        let policy_is_sound = parser.faults.len() == others;
        let key = parser.deployment_key(top);
        parser.validate_links();
        let Parser { faults, nodes, edges, entrypoints, warnings, .. } = parser;
        let manifest = Manifest { job_type, policy, nodes, edges, entrypoints, warnings, key, value };
        Ok(PartialManifest { manifest, faults, nodes_are_sound, policy_is_sound })
    }

    fn outline(&self) -> Outline {
        Outline {
            nodes: self.nodes.iter().map(|n| n.id.clone()).collect(),
            services: self.nodes.iter().map(|n| (n.id.clone(), n.services.clone())).collect(),
        }
    }

    pub fn node_ids(&self) -> Vec<Arc<str>> {
        self.nodes.iter().map(|n| n.id.clone()).collect()
    }

    /// Nodes by id, for comparing two manifests.
    pub fn nodes_by_id(&self) -> BTreeMap<&str, &Node> {
        self.nodes.iter().map(|n| (&*n.id, n)).collect()
    }
}

/// The agents of a version with their nodes, in manifest order: the node ids themselves, or `AGENTS`, each joined to
/// its node (the whole id, or the part before `@`). Without any node in the manifest the agents imply theirs.
pub fn agents_with_nodes(node_ids: &[Arc<str>], agents: Option<&[Arc<str>]>) -> Vec<(Arc<str>, Arc<str>)> {
    let Some(agents) = agents else {
        return node_ids.iter().map(|id| (id.clone(), id.clone())).collect();
    };
    let rank: BTreeMap<&str, usize> = node_ids.iter().enumerate().map(|(i, id)| (&**id, i)).collect();
    let mut joined: Vec<(usize, Arc<str>, Arc<str>)> = agents
        .iter()
        .map(|agent| {
            let (place, node) = node_of(agent, &rank).unwrap_or_else(|| (rank.len(), Arc::from(before_at(agent))));
            (place, agent.clone(), node)
        })
        .collect();
    joined.sort_by_key(|(place, _, _)| *place);
    joined.into_iter().map(|(_, agent, node)| (agent, node)).collect()
}

fn node_of(agent: &str, rank: &BTreeMap<&str, usize>) -> Option<(usize, Arc<str>)> {
    [agent, before_at(agent)].into_iter().find_map(|id| rank.get(id).map(|place| (*place, Arc::from(id))))
}

fn before_at(agent: &str) -> &str {
    agent.split_once('@').map_or(agent, |(node, _)| node)
}

/// What is wrong with `AGENTS` for a manifest with these nodes.
pub fn agents_violations(node_ids: &[Arc<str>], agents: &[Arc<str>]) -> Vec<String> {
    let rank: BTreeMap<&str, usize> = node_ids.iter().enumerate().map(|(i, id)| (&**id, i)).collect();
    let mut seen = BTreeSet::new();
    let mut faults = Vec::new();
    if agents.is_empty() {
        faults.push("AGENTS must name at least one agent".to_string());
    }
    for agent in agents {
        if let Err(must) = check_id(agent) {
            faults.push(format!("AGENTS {agent:?} {must}"));
        } else if !seen.insert(agent) {
            faults.push(format!("AGENTS names {agent} twice"));
        } else if !node_ids.is_empty() && node_of(agent, &rank).is_none() {
            faults.push(format!("AGENTS names {agent}, which is an agent of no node"));
        }
    }
    faults
}

/// Node and agent ids: 1 to 256 bytes, no control characters, and not the `*` of a batch job.
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
    faults: Vec<String>,
    warnings: Vec<String>,
    nodes: Vec<Node>,
    seen: BTreeSet<Arc<str>>,
    edges: BTreeSet<Edge>,
    entrypoints: BTreeSet<String>,
}

/// A field that may be left out; null is as good as left out.
fn present<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    object.get(field).filter(|value| !value.is_null())
}

impl Parser {
    fn array<'a>(&mut self, object: &'a Map<String, Value>, prefix: &str, field: &str) -> &'a [Value] {
        match present(object, field) {
            None => &[],
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.faults.push(format!("{prefix}{field} must be an array"));
                &[]
            }
        }
    }

    fn nodes(&mut self, object: &Map<String, Value>, prefix: &str) {
        for field in ["nodes", "extra_nodes"] {
            for (i, item) in self.array(object, prefix, field).iter().enumerate() {
                let path = format!("{prefix}{field}[{i}]");
                let Value::Object(node) = item else {
                    self.faults.push(format!("{path} must be an object"));
                    continue;
                };
                match node.get("node_id") {
                    Some(Value::String(id)) => self.node(&path, &format!("{path}.node_id"), id, item),
                    _ => self.faults.push(format!("{path}.node_id must be a non-empty string")),
                }
            }
        }
        match present(object, "registry") {
            None => {}
            Some(Value::Object(registry)) => {
                for (name, item) in registry {
                    let path = format!("{prefix}registry.{name}");
                    self.node(&path, &path, name, item);
                }
            }
            Some(_) => self.faults.push(format!("{prefix}registry must be an object")),
        }
    }

    fn node(&mut self, path: &str, id_path: &str, id: &str, item: &Value) {
        if let Err(must) = check_id(id) {
            self.faults.push(format!("{id_path} {must}"));
            return;
        }
        let id: Arc<str> = Arc::from(id);
        if !self.seen.insert(id.clone()) {
            self.faults.push(format!("{id_path} is {id}, which another node has"));
            return;
        }
        let mut body = item.clone();
        let mut services = Vec::new();
        if let Value::Object(fields) = &mut body {
            for field in COSMETIC {
                fields.remove(field);
            }
            services = self.services(path, fields);
        }
        self.nodes.push(Node { id, body, services });
    }

    fn services(&mut self, path: &str, node: &Map<String, Value>) -> Vec<Arc<str>> {
        let items = self.array(node, &format!("{path}."), "services");
        let mut names: Vec<Arc<str>> = Vec::new();
        for (i, item) in items.iter().enumerate() {
            match item.get("name") {
                Some(Value::String(name)) if !name.is_empty() => {
                    if !names.iter().any(|n| **n == **name) {
                        names.push(Arc::from(name.as_str()));
                    }
                }
                _ => self.faults.push(format!("{path}.services[{i}].name must be a non-empty string")),
            }
        }
        names
    }

    fn links(&mut self, object: &Map<String, Value>, prefix: &str) {
        for field in ["edges", "extra_edges"] {
            for (i, item) in self.array(object, prefix, field).iter().enumerate() {
                let path = format!("{prefix}{field}[{i}]");
                let Value::Object(edge) = item else {
                    self.faults.push(format!("{path} must be an object"));
                    continue;
                };
                for end in ["from_node", "to_node"] {
                    if present(edge, end).is_some_and(|v| !v.is_string()) {
                        self.faults.push(format!("{path}.{end} must be a string"));
                    }
                }
                self.edges.insert(
                    ["from_node", "to_node", "message_type", "routing_mode"]
                        .map(|field| edge.get(field).map_or_else(|| "null".to_string(), canonical)),
                );
            }
        }
        for (i, item) in self.array(object, prefix, "entrypoints").iter().enumerate() {
            match item {
                Value::String(id) => {
                    self.entrypoints.insert(id.clone());
                }
                _ => self.faults.push(format!("{prefix}entrypoints[{i}] must be a string")),
            }
        }
    }

    /// Edges and entrypoints of unknown nodes are odd, not wrong (rule 8 "Manifest").
    fn validate_links(&mut self) {
        let known = |id: &str| self.seen.contains(id);
        let mut odd = BTreeSet::new();
        for edge in &self.edges {
            for end in &edge[..2] {
                if let Ok(Value::String(id)) = serde_json::from_str(end) {
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

    fn object<'a>(
        &mut self,
        object: &'a Map<String, Value>,
        prefix: &str,
        field: &str,
    ) -> Option<&'a Map<String, Value>> {
        match present(object, field)? {
            Value::Object(inner) => Some(inner),
            _ => {
                self.faults.push(format!("{prefix}{field} must be an object"));
                None
            }
        }
    }

    fn policies(&mut self, top: &Map<String, Value>) -> (JobType, PolicyPatch) {
        let policies = self.object(top, "", "policies");
        let scheduler = policies.and_then(|p| self.object(p, "policies.", "scheduler"));
        let given = scheduler
            .and_then(|s| present(s, "job_type").map(|v| ("policies.scheduler.job_type", v)))
            .or_else(|| present(top, "type").map(|v| ("type", v)));
        let job_type = match given {
            None => JobType::Batch,
            Some((path, value)) => value
                .as_str()
                .and_then(|text| JobType::ALL.into_iter().find(|job_type| job_type.name() == text))
                .unwrap_or_else(|| {
                    self.warnings.push(format!("{path} is {value}, which is no job type: it is deployed as batch"));
                    JobType::Batch
                }),
        };
        let mut unknown = Vec::new();
        let policy = match policies.and_then(|p| p.get("update")) {
            None => PolicyPatch::default(),
            Some(update) => PolicyPatch::from_manifest(update, &mut self.faults, &mut unknown),
        };
        self.warnings.extend(unknown.into_iter().map(|field| format!("policies.update.{field} is no policy field")));
        (job_type, policy)
    }

    fn deployment_key(&mut self, top: &Map<String, Value>) -> Option<String> {
        present(top, "deployment")?.get("key")?.as_str().map(str::to_string)
    }
}

/// Whether a JSON value has more than so many levels; the parser's own limit bounds this recursion.
pub(super) fn is_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|item| is_deeper(item, levels - 1)),
        Value::Object(fields) => levels == 0 || fields.values().any(|item| is_deeper(item, levels - 1)),
        _ => false,
    }
}

/// A JSON value as text with its object keys in order, so that equal values have equal texts.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
            let inner: Vec<String> =
                sorted.into_iter().map(|(k, v)| format!("{}:{}", Value::String(k.clone()), canonical(v))).collect();
            format!("{{{}}}", inner.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        scalar => scalar.to_string(),
    }
}

/// Why two manifests are not of the same topology (rule 2), or None where they are.
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

/// Which fields of a node differ, in words; None where its agents need not change.
pub fn node_change(old: &Node, new: &Node) -> Option<String> {
    if old.body == new.body {
        return None;
    }
    let fields = match (&old.body, &new.body) {
        (Value::Object(was), Value::Object(is)) => {
            let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
            let differing: Vec<&str> =
                names.into_iter().filter(|name| was.get(*name) != is.get(*name)).map(String::as_str).collect();
            some(&differing)
        }
        _ => "whole node".to_string(),
    };
    Some(format!("node changed: {fields}"))
}
