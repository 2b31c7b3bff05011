//! What a manifest says of how a node runs here. In the shape of the manifests that the module is made for:
//!
//! ```json
//! {"node_id": "web",
//!  "config": {"command": ["./server", "--port", "${env.PORT}"], "environment": {"LOG": "info"}, "workdir": "/srv",
//!             "shutdown_delay_ms": 500, "kill_timeout_ms": 5000},
//!  "resources": {"ports": [{"label": "admin", "port": "auto"}]},
//!  "services": [{"name": "web", "port": "auto", "address": "0.0.0.0", "tags": [], "meta": {},
//!                "checks": [{"name": "up", "type": "http", "path": "/health", "interval_ms": 500, "timeout": "1s",
//!                            "failures_before_critical": 2}]}]}
//! ```
//!
//! and, for all nodes,
//! `"policies": {"restart": {"attempts": 2, "interval_ms": 60000, "delay_ms": 100, "mode": "fail"}}`.
//! A duration is a number of ms under a name that ends in `_ms`, or a text such as `"2s"` under the name without it.

use crate::restart::{Growth, Mode, RestartPolicy};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How one node runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub command: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub workdir: Option<String>,
    /// Ports by label: those of `resources.ports`, and one under the name of each service that asks for one.
    pub ports: Vec<PortSpec>,
    pub services: Vec<ServiceSpec>,
    pub restart: RestartPolicy,
    /// Between the deregistration of its services and SIGTERM (Nomad's `shutdown_delay`); None: the coordinator's.
    pub shutdown_delay: Option<Duration>,
    /// Between SIGTERM and SIGKILL (Nomad's `kill_timeout`); None: the coordinator's.
    pub kill_timeout: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PortSpec {
    pub label: String,
    /// None: any free one.
    pub fixed: Option<u16>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSpec {
    pub name: String,
    pub address: Option<String>,
    /// The port as text, in which `${env.NAME}` stands for a variable of the agent.
    pub port: String,
    pub tags: Vec<String>,
    pub meta: Option<Json>,
    pub checks: Vec<CheckSpec>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct CheckSpec {
    pub name: String,
    pub kind: CheckKind,
    /// None: the service's.
    pub address: Option<String>,
    pub port: Option<String>,
    pub interval: Duration,
    pub timeout: Duration,
    /// How many failures in a row it takes; at least 1.
    pub failures_before_critical: u32,
    /// A check that is not required is carried out and logged, and decides nothing.
    pub required: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum CheckKind {
    /// Passing with a status of 2xx, or the one expected; 429 is a warning (Consul's rule).
    Http { path: String, expected_status: Option<u16> },
    /// Passing where the port takes a connection.
    Tcp,
    /// Passing where the command exits with 0; 1 is a warning (Consul's rule).
    Script { command: Vec<String> },
}

/// What a manifest says of a node: how it runs, None where there is nothing to run, or why it cannot be run.
pub type Reading = Result<Option<Arc<Spec>>, String>;
/// By node id.
pub type Specs = BTreeMap<String, Reading>;

/// Every node of a manifest.
pub fn specs(manifest: &Json) -> Specs {
    let restart = restart_policy(&manifest["policies"]["restart"]);
    let mut all = Specs::new();
    for place in [manifest, &manifest["agents"]] {
        let listed = ["nodes", "extra_nodes"].into_iter().flat_map(|name| place[name].as_array().into_iter().flatten());
        for node in listed {
            if let Some(id) = node["node_id"].as_str() {
                all.insert(id.to_string(), spec(node, &restart));
            }
        }
        for (id, node) in place["registry"].as_object().into_iter().flatten() {
            all.insert(id.clone(), spec(node, &restart));
        }
    }
    all
}

fn spec(node: &Json, restart: &Result<RestartPolicy, String>) -> Reading {
    let config = &node["config"];
    if config["command"].is_null() {
        return Ok(None);
    }
    let command = words(&config["command"], "config.command")?;
    if command.is_empty() {
        return Err("config.command is empty".to_string());
    }
    let mut environment = BTreeMap::new();
    if let Some(variables) = object(&config["environment"], "config.environment")? {
        for (name, value) in variables {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(format!("config.environment: {name:?} is no name of a variable"));
            }
            environment.insert(name.clone(), plain_text(value, &format!("config.environment.{name}"))?);
        }
    }
    let mut ports = Vec::new();
    for port in array(&node["resources"]["ports"], "resources.ports")? {
        let label = port["label"].as_str().ok_or("resources.ports: a port has no label")?.to_string();
        let fixed = match &port["port"] {
            Json::Null => None,
            Json::String(text) if text == "auto" => None,
            given => port_number(given).ok_or_else(|| format!("resources.ports: {label} has a bad port {given}"))?,
        };
        ports.push(PortSpec { label, fixed });
    }
    let mut services = Vec::new();
    for service in array(&node["services"], "services")? {
        services.push(self::service(service, &mut ports)?);
    }
    let restart = restart.clone()?;
    Ok(Some(Arc::new(Spec {
        command,
        environment,
        workdir: optional_text(&config["workdir"], "config.workdir")?,
        ports,
        services,
        restart,
        shutdown_delay: duration(config, "shutdown_delay")?,
        kill_timeout: duration(config, "kill_timeout")?,
    })))
}

fn service(service: &Json, ports: &mut Vec<PortSpec>) -> Result<ServiceSpec, String> {
    let name = service["name"].as_str().ok_or("services: a service has no name")?.to_string();
    let port = match &service["port"] {
        Json::String(text) if text.contains("${") => text.clone(),
        given => {
            let any = given.is_null() || given.as_str() == Some("auto");
            let fixed = if any {
                None
            } else {
                port_number(given).ok_or_else(|| format!("service {name}: bad port {given}"))?
            };
            if !ports.iter().any(|port| port.label == name) {
                ports.push(PortSpec { label: name.clone(), fixed });
            }
            format!("${{env.{}}}", variable_of_port(&name))
        }
    };
    let mut checks = Vec::new();
    for given in array(&service["checks"], "checks")? {
        checks.push(check(given).map_err(|fault| format!("service {name}: {fault}"))?);
    }
    Ok(ServiceSpec {
        address: optional_text(&service["address"], "address")?,
        port,
        tags: words(&service["tags"], "tags")?,
        meta: Some(service["meta"].clone()).filter(|meta| !meta.is_null()),
        checks,
        name,
    })
}

fn check(check: &Json) -> Result<CheckSpec, String> {
    let kind = check["type"].as_str().ok_or("a check has no type")?;
    let name = optional_text(&check["name"], "name")?.unwrap_or_else(|| kind.to_string());
    let of = |fault: String| format!("check {name}: {fault}");
    let number = |field: &str| match &check[field] {
        Json::Null => Ok(None),
        given => match given.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(of(format!("{field} must be a number"))),
        },
    };
    let expected_status = number("expected_status")?.and_then(|status| u16::try_from(status).ok());
    let kind = match kind {
        "http" => {
            let path = optional_text(&check["path"], "path").map_err(of)?.unwrap_or_else(|| "/".to_string());
            CheckKind::Http { path, expected_status }
        }
        "tcp" => CheckKind::Tcp,
        "script" => {
            let mut command = match &check["command"] {
                Json::String(program) => vec![program.clone()],
                given => words(given, "command").map_err(of)?,
            };
            command.extend(words(&check["args"], "args").map_err(of)?);
            if command.is_empty() {
                return Err(of("a script needs a command".to_string()));
            }
            CheckKind::Script { command }
        }
        other => return Err(of(format!("type {other} is not one of http, tcp, script"))),
    };
    let port = match &check["port"] {
        Json::Null => None,
        given => Some(plain_text(given, "port").map_err(of)?),
    };
    Ok(CheckSpec {
        kind,
        address: optional_text(&check["address"], "address").map_err(of)?,
        port,
        interval: duration(check, "interval").map_err(of)?.unwrap_or(Duration::from_secs(1)),
        timeout: duration(check, "timeout").map_err(of)?.unwrap_or(Duration::from_secs(1)),
        failures_before_critical: number("failures_before_critical")?.unwrap_or(1).max(1),
        required: check["required"].as_bool().unwrap_or(true),
        name,
    })
}

fn restart_policy(given: &Json) -> Result<RestartPolicy, String> {
    let default = RestartPolicy::default();
    if given.is_null() {
        return Ok(default);
    }
    let of = |fault: String| format!("policies.restart: {fault}");
    let attempts = match &given["attempts"] {
        Json::Null => default.attempts,
        n => {
            n.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| of("attempts must be a number".to_string()))?
        }
    };
    let growth = match given["delay_function"].as_str() {
        None | Some("constant") => Growth::Constant,
        Some("exponential") => Growth::Exponential,
        Some("fibonacci") => Growth::Fibonacci,
        Some(other) => return Err(of(format!("unknown delay_function {other}"))),
    };
    let mode = match given["mode"].as_str() {
        None | Some("fail") => Mode::Fail,
        Some("delay") => Mode::Delay,
        Some(other) => return Err(of(format!("mode {other} is neither fail nor delay"))),
    };
    let time = |name: &str, default: Duration| duration(given, name).map(|d| d.unwrap_or(default)).map_err(of);
    Ok(RestartPolicy {
        attempts,
        interval: time("interval", default.interval)?,
        delay: time("delay", default.delay)?,
        max_delay: time("max_delay", default.max_delay)?,
        growth,
        mode,
    })
}

// ---- ports, variables and texts ------------------------------------------------------------------------------------

/// `DEPLOY_PORT_` and the label in capitals.
pub fn variable_of_port(label: &str) -> String {
    format!("DEPLOY_PORT_{}", in_capitals(label))
}

/// The name by which MirrorNeuron's own manifests refer to a port.
pub fn mirror_neuron_variable_of_port(label: &str) -> String {
    format!("MN_PORT_{}", in_capitals(label))
}

fn in_capitals(label: &str) -> String {
    label.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// Puts values in the place of `${env.NAME}`, and of `${service.port}` where there is one. All else stays as it is.
pub fn filled(text: &str, variables: &BTreeMap<String, String>, service_port: Option<u16>) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else { break };
        let (whole, name) = (&rest[start..=start + length], &rest[start + 2..start + length]);
        out.push_str(&rest[..start]);
        match (name.strip_prefix("env."), service_port) {
            (Some(name), _) => match variables.get(name) {
                Some(value) => out.push_str(value),
                None => return Err(format!("{whole} is not set")),
            },
            (None, Some(port)) if name == "service.port" => out.push_str(&port.to_string()),
            _ => out.push_str(whole),
        }
        rest = &rest[start + length + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// A port number, 0 counting as none; None where it is no port.
fn port_number(given: &Json) -> Option<Option<u16>> {
    let number = match given {
        Json::String(text) => text.parse().ok()?,
        _ => u16::try_from(given.as_u64()?).ok()?,
    };
    Some((number != 0).then_some(number))
}

fn duration(of: &Json, name: &str) -> Result<Option<Duration>, String> {
    let in_ms = format!("{name}_ms");
    match (&of[&in_ms], &of[name]) {
        (Json::Null, Json::Null) => Ok(None),
        (Json::Null, Json::String(text)) => match humantime::parse_duration(text) {
            Ok(duration) => Ok(Some(duration)),
            Err(error) => Err(format!("{name}: {error}")),
        },
        (Json::Null, _) => Err(format!("{name} must be a text such as \"2s\"; {in_ms} takes a number")),
        (ms, _) => match ms.as_u64() {
            Some(ms) => Ok(Some(Duration::from_millis(ms))),
            None => Err(format!("{in_ms} must be a number of ms")),
        },
    }
}

fn array<'j>(given: &'j Json, name: &str) -> Result<&'j [Json], String> {
    match given {
        Json::Null => Ok(&[]),
        Json::Array(items) => Ok(items),
        _ => Err(format!("{name} must be an array")),
    }
}

fn object<'j>(given: &'j Json, name: &str) -> Result<Option<&'j serde_json::Map<String, Json>>, String> {
    match given {
        Json::Null => Ok(None),
        Json::Object(fields) => Ok(Some(fields)),
        _ => Err(format!("{name} must be an object")),
    }
}

fn words(given: &Json, name: &str) -> Result<Vec<String>, String> {
    array(given, name)?.iter().map(|word| plain_text(word, name)).collect()
}

fn optional_text(given: &Json, name: &str) -> Result<Option<String>, String> {
    match given {
        Json::Null => Ok(None),
        _ => plain_text(given, name).map(Some),
    }
}

/// A text, or a number or boolean as one.
fn plain_text(given: &Json, name: &str) -> Result<String, String> {
    let text = match given {
        Json::String(text) => text.clone(),
        Json::Number(number) => number.to_string(),
        Json::Bool(yes) => yes.to_string(),
        _ => return Err(format!("{name} must be a text, not {given}")),
    };
    match text.contains('\0') {
        true => Err(format!("{name} has a zero byte")),
        false => Ok(text),
    }
}
