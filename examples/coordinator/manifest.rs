//! Parses how the nodes of a manifest are run, in the format of MirrorNeuron's manifests:
//!
//! ```json
//! {"node_id": "web",
//!  "config": {"command": ["./server", "--port", "${env.PORT}"], "environment": {"LOG": "info"}, "workdir": "/srv",
//!             "shutdown_delay_ms": 500, "kill_timeout_ms": 5000, "drain": {"http": "http://127.0.0.1:${env.PORT}/drain"},
//!             "sessions": "http://127.0.0.1:${env.PORT}/sessions", "sessions_interval_ms": 1000},
//!  "resources": {"ports": [{"label": "admin", "port": "auto"}]},
//!  "services": [{"name": "web", "port": "auto", "address": "0.0.0.0", "tags": [], "meta": {},
//!                "checks": [{"name": "up", "type": "http", "path": "/health", "interval_ms": 500, "timeout": "1s",
//!                            "start_period": "10s", "failures_before_critical": 2}]}]}
//! ```
//!
//! and, for all nodes:
//! `"policies": {"restart": {"attempts": 2, "interval_ms": 60000, "delay_ms": 100, "mode": "fail"}}`.
//!
//! A duration is a number of ms in a field whose name ends in `_ms`, or a string such as `"2s"` in the field without
//! it.

use crate::restart::{Growth, Mode, RestartPolicy};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Run-time specification of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    pub command: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub workdir: Option<String>,
    /// Ports by label: those of `resources.ports`, and one under the name of each service that asks for one.
    pub ports: Vec<PortSpec>,
    pub services: Vec<ServiceSpec>,
    pub restart: RestartPolicy,
    /// Delay between the deregistration of its services and SIGTERM, Nomad's `shutdown_delay`; None: the coordinator's.
    pub shutdown_delay: Option<Duration>,
    /// Delay between SIGTERM and SIGKILL, Nomad's `kill_timeout`; None: the coordinator's.
    pub kill_timeout: Option<Duration>,
    /// None: the process is not told that it is to drain.
    pub drain: Option<DrainSpec>,
    pub sessions: Option<SessionsSpec>,
}

/// Requests that tell a process to finish its sessions and to accept no new ones.
#[derive(Debug, Clone, PartialEq)]
pub struct DrainSpec {
    pub order: DrainOrder,
    /// URL for a POST that tells it to accept new sessions again.
    pub undo: Option<String>,
}

/// Way to tell a process to drain.
#[derive(Debug, Clone, PartialEq)]
pub enum DrainOrder {
    /// A POST to a URL.
    Http(String),
    /// A signal to the leader of the process group.
    Signal(DrainSignal),
}

/// Signal that tells a process to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainSignal {
    Usr1,
    Usr2,
    Hup,
    Term,
}

/// Source of the number of sessions that a process holds.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionsSpec {
    pub url: String,
    pub interval: Duration,
}

/// A port that the agent needs.
#[derive(Debug, Clone, PartialEq)]
pub struct PortSpec {
    pub label: String,
    /// None: any free port.
    pub fixed: Option<u16>,
}

/// A service of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSpec {
    pub name: String,
    pub address: Option<String>,
    /// Port as text, in which `${env.NAME}` stands for a variable of the agent.
    pub port: String,
    pub tags: Vec<String>,
    pub meta: Option<Json>,
    pub checks: Vec<CheckSpec>,
}

/// A health check of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckSpec {
    pub name: String,
    pub kind: CheckKind,
    /// None: the address of the service.
    pub address: Option<String>,
    pub port: Option<String>,
    pub interval: Duration,
    pub timeout: Duration,
    /// Time after the start of the process in which failures do not count, until it has passed once; as Docker's
    /// `start_period`.
    pub start_period: Duration,
    /// Number of consecutive failures after which it is critical; at least 1.
    pub failures_before_critical: u32,
    /// A check that is not required is run and logged, but does not affect readiness.
    pub required: bool,
}

/// Type of a check.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckKind {
    /// Passes with a status of 2xx, or with the expected one; 429 is a warning, as in Consul.
    Http { path: String, expected_status: Option<u16> },
    /// Passes if the port accepts a connection.
    Tcp,
    /// Passes if the command exits with 0; 1 is a warning, as in Consul.
    Script { command: Vec<String> },
}

/// Specification of a node: None if it has no command, an error if it is invalid.
pub type SpecResult = Result<Option<Arc<Spec>>, String>;
/// Specifications by node id.
pub type Specs = BTreeMap<String, SpecResult>;

/// Parses all nodes of a manifest.
pub fn specs(manifest: &Json) -> Specs {
    let restart = restart_policy(&manifest["policies"]["restart"]);
    let mut all = Specs::new();
    for parent in [manifest, &manifest["agents"]] {
        let listed =
            ["nodes", "extra_nodes"].into_iter().flat_map(|name| parent[name].as_array().into_iter().flatten());
        for node in listed {
            if let Some(id) = node["node_id"].as_str() {
                all.insert(id.to_string(), spec(node, &restart));
            }
        }
        for (id, node) in parent["registry"].as_object().into_iter().flatten() {
            all.insert(id.clone(), spec(node, &restart));
        }
    }
    all
}

/// Parses a node.
fn spec(node: &Json, restart: &Result<RestartPolicy, String>) -> SpecResult {
    let config = &node["config"];
    if config["command"].is_null() {
        return Ok(None);
    }
    let command = string_list(&config["command"], "config.command")?;
    if command.is_empty() {
        return Err("config.command is empty".to_string());
    }
    let mut environment = BTreeMap::new();
    if let Some(variables) = object(&config["environment"], "config.environment")? {
        for (name, value) in variables {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(format!("config.environment: {name:?} is no name of a variable"));
            }
            environment.insert(name.clone(), scalar_text(value, &format!("config.environment.{name}"))?);
        }
    }
    let mut ports = Vec::new();
    for port in array(&node["resources"]["ports"], "resources.ports")? {
        let label = port["label"].as_str().ok_or("resources.ports: a port has no label")?.to_string();
        let fixed = match &port["port"] {
            Json::Null => None,
            Json::String(text) if text == "auto" => None,
            value => port_number(value).ok_or_else(|| format!("resources.ports: {label} has a bad port {value}"))?,
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
        drain: drain(&config["drain"])?,
        sessions: sessions(config)?,
    })))
}

/// Parses how a process is told to drain.
fn drain(value: &Json) -> Result<Option<DrainSpec>, String> {
    let Some(fields) = object(value, "config.drain")? else { return Ok(None) };
    let order = match (fields.get("http"), fields.get("signal")) {
        (Some(url), None) => DrainOrder::Http(http_url(url, "config.drain.http")?),
        (None, Some(signal)) => DrainOrder::Signal(match signal.as_str() {
            Some("SIGUSR1") => DrainSignal::Usr1,
            Some("SIGUSR2") => DrainSignal::Usr2,
            Some("SIGHUP") => DrainSignal::Hup,
            Some("SIGTERM") => DrainSignal::Term,
            _ => {
                return Err(format!("config.drain.signal: {signal} is not one of SIGUSR1, SIGUSR2, SIGHUP, SIGTERM"));
            }
        }),
        _ => return Err("config.drain needs either http or signal".to_string()),
    };
    let undo = &value["undo"];
    let undo = (!undo.is_null()).then(|| http_url(undo, "config.drain.undo")).transpose()?;
    Ok(Some(DrainSpec { order, undo }))
}

/// Parses where a process says how many sessions it holds.
fn sessions(config: &Json) -> Result<Option<SessionsSpec>, String> {
    let interval = duration(config, "sessions_interval").map_err(|error| format!("config.{error}"))?;
    let url = &config["sessions"];
    if url.is_null() {
        return Ok(None);
    }
    let interval = interval.unwrap_or(Duration::from_secs(1));
    Ok(Some(SessionsSpec { url: http_url(url, "config.sessions")?, interval }))
}

/// Parses a service of a node. Its port is added to `ports`.
fn service(service: &Json, ports: &mut Vec<PortSpec>) -> Result<ServiceSpec, String> {
    let name = service["name"].as_str().ok_or("services: a service has no name")?.to_string();
    let port = match &service["port"] {
        Json::String(text) if text.contains("${") => text.clone(),
        value => {
            let any = value.is_null() || value.as_str() == Some("auto");
            let fixed = if any {
                None
            } else {
                port_number(value).ok_or_else(|| format!("service {name}: bad port {value}"))?
            };
            if !ports.iter().any(|port| port.label == name) {
                ports.push(PortSpec { label: name.clone(), fixed });
            }
            format!("${{env.{}}}", port_variable(&name))
        }
    };
    let mut checks = Vec::new();
    for value in array(&service["checks"], "checks")? {
        checks.push(check(value).map_err(|error| format!("service {name}: {error}"))?);
    }
    Ok(ServiceSpec {
        address: optional_text(&service["address"], "address")?,
        port,
        tags: string_list(&service["tags"], "tags")?,
        meta: Some(service["meta"].clone()).filter(|meta| !meta.is_null()),
        checks,
        name,
    })
}

/// Parses a check of a service.
fn check(check: &Json) -> Result<CheckSpec, String> {
    let kind = check["type"].as_str().ok_or("a check has no type")?;
    let name = optional_text(&check["name"], "name")?.unwrap_or_else(|| kind.to_string());
    let context = |error: String| format!("check {name}: {error}");
    let number = |field: &str| match &check[field] {
        Json::Null => Ok(None),
        value => match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(context(format!("{field} must be a number"))),
        },
    };
    let expected_status = number("expected_status")?.and_then(|status| u16::try_from(status).ok());
    let kind = match kind {
        "http" => {
            let path = optional_text(&check["path"], "path").map_err(context)?.unwrap_or_else(|| "/".to_string());
            CheckKind::Http { path, expected_status }
        }
        "tcp" => CheckKind::Tcp,
        "script" => {
            let mut command = match &check["command"] {
                Json::String(program) => vec![program.clone()],
                value => string_list(value, "command").map_err(context)?,
            };
            command.extend(string_list(&check["args"], "args").map_err(context)?);
            if command.is_empty() {
                return Err(context("a script needs a command".to_string()));
            }
            CheckKind::Script { command }
        }
        other => return Err(context(format!("type {other} is not one of http, tcp, script"))),
    };
    let port = match &check["port"] {
        Json::Null => None,
        value => Some(scalar_text(value, "port").map_err(context)?),
    };
    Ok(CheckSpec {
        kind,
        address: optional_text(&check["address"], "address").map_err(context)?,
        port,
        interval: duration(check, "interval").map_err(context)?.unwrap_or(Duration::from_secs(1)),
        timeout: duration(check, "timeout").map_err(context)?.unwrap_or(Duration::from_secs(1)),
        start_period: duration(check, "start_period").map_err(context)?.unwrap_or(Duration::from_secs(5)),
        failures_before_critical: number("failures_before_critical")?.unwrap_or(1).max(1),
        required: check["required"].as_bool().unwrap_or(true),
        name,
    })
}

/// Parses the restart policy.
fn restart_policy(value: &Json) -> Result<RestartPolicy, String> {
    let default = RestartPolicy::default();
    if value.is_null() {
        return Ok(default);
    }
    let context = |error: String| format!("policies.restart: {error}");
    let attempts = match &value["attempts"] {
        Json::Null => default.attempts,
        n => n
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| context("attempts must be a number".to_string()))?,
    };
    let growth = match value["delay_function"].as_str() {
        None | Some("constant") => Growth::Constant,
        Some("exponential") => Growth::Exponential,
        Some("fibonacci") => Growth::Fibonacci,
        Some(other) => return Err(context(format!("unknown delay_function {other}"))),
    };
    let mode = match value["mode"].as_str() {
        None | Some("fail") => Mode::Fail,
        Some("delay") => Mode::Delay,
        Some(other) => return Err(context(format!("mode {other} is neither fail nor delay"))),
    };
    let time = |name: &str, default: Duration| duration(value, name).map(|d| d.unwrap_or(default)).map_err(context);
    Ok(RestartPolicy {
        attempts,
        interval: time("interval", default.interval)?,
        delay: time("delay", default.delay)?,
        max_delay: time("max_delay", default.max_delay)?,
        growth,
        mode,
    })
}

// ---- variables and fields -------------------------------------------------------------------------------------------

/// Returns the environment variable of a port: `DEPLOY_PORT_` and the label in capitals.
pub fn port_variable(label: &str) -> String {
    format!("DEPLOY_PORT_{}", to_variable_name(label))
}

/// Returns the environment variable by which MirrorNeuron's manifests refer to a port.
pub fn mirror_neuron_port_variable(label: &str) -> String {
    format!("MN_PORT_{}", to_variable_name(label))
}

/// Converts a label to capitals, digits and underscores.
fn to_variable_name(label: &str) -> String {
    label.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// Substitutes `${env.NAME}`, and `${service.port}` if there is one. Everything else stays as it is.
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

/// Parses a port number; None if it is not one. 0 stands for any free port.
fn port_number(value: &Json) -> Option<Option<u16>> {
    let number = match value {
        Json::String(text) => text.parse().ok()?,
        _ => u16::try_from(value.as_u64()?).ok()?,
    };
    Some((number != 0).then_some(number))
}

/// Parses a duration: a number of ms in `<name>_ms`, or a string in `<name>`.
fn duration(parent: &Json, name: &str) -> Result<Option<Duration>, String> {
    let in_ms = format!("{name}_ms");
    match (&parent[&in_ms], &parent[name]) {
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

/// Returns the items of an optional array.
fn array<'j>(value: &'j Json, name: &str) -> Result<&'j [Json], String> {
    match value {
        Json::Null => Ok(&[]),
        Json::Array(items) => Ok(items),
        _ => Err(format!("{name} must be an array")),
    }
}

/// Returns the fields of an optional object.
fn object<'j>(value: &'j Json, name: &str) -> Result<Option<&'j serde_json::Map<String, Json>>, String> {
    match value {
        Json::Null => Ok(None),
        Json::Object(fields) => Ok(Some(fields)),
        _ => Err(format!("{name} must be an object")),
    }
}

/// Parses a URL of the agent.
fn http_url(value: &Json, name: &str) -> Result<String, String> {
    let url = scalar_text(value, name)?;
    match url.starts_with("http://") {
        true => Ok(url),
        false => Err(format!("{name} must begin with http://, not {value}")),
    }
}

/// Parses an optional array of strings.
fn string_list(value: &Json, name: &str) -> Result<Vec<String>, String> {
    array(value, name)?.iter().map(|word| scalar_text(word, name)).collect()
}

/// Parses an optional string.
fn optional_text(value: &Json, name: &str) -> Result<Option<String>, String> {
    match value {
        Json::Null => Ok(None),
        _ => scalar_text(value, name).map(Some),
    }
}

/// Returns a string, or a number or boolean as text.
fn scalar_text(value: &Json, name: &str) -> Result<String, String> {
    let text = match value {
        Json::String(text) => text.clone(),
        Json::Number(number) => number.to_string(),
        Json::Bool(yes) => yes.to_string(),
        _ => return Err(format!("{name} must be a text, not {value}")),
    };
    match text.contains('\0') {
        true => Err(format!("{name} has a zero byte")),
        false => Ok(text),
    }
}
