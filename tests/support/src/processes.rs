//! A host with coordinators and their agents, as real processes: for the tests of `examples/coordinator.rs`.
//!
//! Every agent is `examples/http_agent.rs`. Agents log their runs to a folder, in which an agent that ran twice at once
//! leaves a file `violation…`.

use crate::client::Client;
use crate::reply::{array, number, string};
use crate::server::{new_folder, Server};
use crate::wait::{wait_for, wait_until};
use serde_json::{json, Value as Json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::SystemTime;

/// Returns the path of a compiled example. `cargo test` compiles them all; `cargo test --test` does not.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let binary = test.parent().and_then(Path::parent).expect("target/<profile>/deps").join("examples").join(name);
    let built = binary.metadata().and_then(|m| m.modified()).unwrap_or_else(|error| {
        panic!("{}: {error}; this test needs `cargo build --examples` first", binary.display())
    });
    let sources = crate::repository().join("examples");
    let own = [sources.join(format!("{name}.rs")), sources.join(name)];
    let newest = own.iter().filter_map(|path| newest_in(path)).max().expect("the example's source");
    assert!(newest <= built, "{} is older than its source: `cargo build --examples` first", binary.display());
    binary
}

fn newest_in(path: &Path) -> Option<SystemTime> {
    if path.is_dir() {
        return fs::read_dir(path).ok()?.flatten().filter_map(|entry| newest_in(&entry.path())).max();
    }
    path.metadata().ok()?.modified().ok()
}

// ---- hosts ----------------------------------------------------------------------------------------------------------

/// A folder with the state directories of coordinators and the run logs of their agents. All their processes are
/// killed when this is dropped.
pub struct Host {
    pub folder: PathBuf,
}

impl Default for Host {
    fn default() -> Host {
        Host::new()
    }
}

impl Host {
    pub fn new() -> Host {
        let folder = new_folder().canonicalize().expect("a folder");
        fs::create_dir(folder.join("diary")).expect("a folder");
        Host { folder }
    }

    pub fn state(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns all processes of all coordinators, check scripts and children of agents included.
    pub fn processes(&self) -> Vec<Process> {
        let marker = format!("DEPLOY_COORDINATOR={}/", self.folder.display());
        running().into_iter().filter(|process| process.marker.starts_with(&marker)).collect()
    }

    /// Returns the agents by name, without their child processes.
    pub fn agents(&self) -> BTreeMap<String, Vec<Process>> {
        let mut all: BTreeMap<String, Vec<Process>> = BTreeMap::new();
        for process in self.processes().into_iter().filter(|process| process.is_agent) {
            all.entry(process.agent.clone()).or_default().push(process);
        }
        all
    }

    pub fn agent(&self, name: &str) -> Process {
        let mut of_it = self.agents().remove(name).unwrap_or_default();
        assert_eq!(of_it.len(), 1, "{name}: {of_it:?}");
        of_it.remove(0)
    }

    /// Asserts that no agent ran twice at once.
    pub fn assert_nothing_ran_twice(&self) {
        for entry in fs::read_dir(self.folder.join("diary")).expect("the diary").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(!name.starts_with("violation"), "{name}: {}", fs::read_to_string(entry.path()).unwrap_or_default());
        }
    }

    /// Asserts that exactly the agents of the record run, in their versions.
    pub fn assert_runs(&self, record: &Json) {
        let said: Vec<(String, u64)> = array(&record["instances"])
            .iter()
            .filter(|i| ["starting", "ready", "unready"].contains(&string(&i["state"])))
            .map(|i| (string(&i["agent"]).to_string(), number(&i["version"])))
            .collect();
        let mut runs: Vec<(String, u64)> =
            self.agents().into_values().flatten().map(|process| (process.agent, process.version)).collect();
        runs.sort();
        assert_eq!(runs, said, "what runs, and what the record says: {record}");
    }

    /// Stops the deployment and asserts that no process is left.
    pub fn stop(&self, client: &mut Client, key: &str) {
        client.call(&["DEPLOY.STOP", key]);
        wait_until("all agents to be reported stopped", || array(&client.status(key)["instances"]).is_empty());
        assert_eq!(self.processes(), [], "after all was reported stopped");
        assert_eq!(client.tasks(key), Vec::<Json>::new());
        self.assert_nothing_ran_twice();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
                let log = fs::read_to_string(entry.path().with_extension("log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().rev().take(40).collect();
                if !lines.is_empty() && entry.path().extension().is_some() {
                    eprintln!("-- {}:", entry.path().display());
                    lines.iter().rev().for_each(|line| eprintln!("   {line}"));
                }
            }
        }
        for process in self.processes() {
            process.signal("KILL");
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

// ---- processes ------------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    pub pid: u32,
    pub agent: String,
    pub version: u64,
    pub attempt: u64,
    pub job: String,
    pub is_agent: bool,
    marker: String,
}

impl Process {
    pub fn signal(&self, name: &str) {
        signal(self.pid, name);
    }

    /// Returns a variable of its environment.
    pub fn variable(&self, name: &str) -> Option<String> {
        environment(self.pid).remove(name)
    }
}

pub fn signal(pid: u32, name: &str) {
    // The shell's own kill: not every system has a program of that name. What has ended already is no fault.
    let _ = Command::new("sh").args(["-c", &format!("kill -{name} {pid} 2>/dev/null")]).status();
}

fn environment(pid: u32) -> BTreeMap<String, String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    words.filter_map(|word| word.split_once('=').map(|(name, value)| (name.into(), value.into()))).collect()
}

fn running() -> Vec<Process> {
    let pids = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let of_pid = |pid: u32| {
        let mut environment = environment(pid);
        let coordinator = environment.remove("DEPLOY_COORDINATOR")?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
        let mut number = |name: &str| environment.remove(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let (version, attempt) = (number("DEPLOY_VERSION"), number("DEPLOY_ATTEMPT"));
        (state != 'Z').then(|| Process {
            pid,
            version,
            attempt,
            agent: environment.remove("DEPLOY_AGENT").unwrap_or_default(),
            job: environment.remove("DEPLOY_JOB").unwrap_or_default(),
            is_agent: stat.contains("(http_agent)"),
            marker: format!("DEPLOY_COORDINATOR={coordinator}/"),
        })
    };
    pids.filter_map(of_pid).collect()
}

// ---- coordinators ---------------------------------------------------------------------------------------------------

/// The process of a coordinator. It is killed when this is dropped; its agents continue, as after a crash.
pub struct Coordinator {
    child: Child,
    name: String,
    folder: PathBuf,
}

impl Coordinator {
    /// Starts one with the state directory `name`; `extra` are further arguments, keys among them.
    pub fn start(host: &Host, name: &str, urls: &[String], extra: &[&str]) -> Coordinator {
        Coordinator::start_by(Command::new(example("coordinator")), host, name, urls, extra)
    }

    /// Starts one that kills itself at a step.
    pub fn start_failing_at(host: &Host, name: &str, urls: &[String], extra: &[&str], step: &str) -> Coordinator {
        let mut command = Command::new(example("coordinator"));
        command.env("DEPLOY_COORDINATOR_DIE_AT", step);
        Coordinator::start_by(command, host, name, urls, extra)
    }

    /// Starts one by a command for its program, which may run it on another host.
    pub fn start_by(mut command: Command, host: &Host, name: &str, urls: &[String], extra: &[&str]) -> Coordinator {
        let log = host.folder.join(format!("{name}.log"));
        let log = fs::OpenOptions::new().create(true).append(true).open(log).expect("a log");
        command.arg("--state-dir").arg(host.state(name));
        command.args(urls.iter().flat_map(|url| ["--redis", url]));
        command.args(["--poll-ms", "500", "--shutdown-delay-ms", "20", "--kill-timeout-ms", "400"]);
        command.args(["--redis-timeout-ms", "1000"]).args(extra);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("the coordinator");
        Coordinator { child, name: name.to_string(), folder: host.folder.clone() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }

    pub fn wait_for_end(&mut self) -> ExitStatus {
        wait_for("the coordinator to end", || self.child.try_wait().expect("our own child"))
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join(format!("{}.log", self.name))).unwrap_or_default()
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn url(server: &Server) -> String {
    format!("redis://127.0.0.1:{}/", server.port)
}

// ---- manifests ------------------------------------------------------------------------------------------------------

/// A manifest of agents of one behaviour, each with one service, `web`, under an HTTP check.
pub struct App<'a> {
    pub host: &'a Host,
    pub agents: &'a [&'a str],
    pub behaviour: &'a str,
    /// Failures in a row after which the check is critical.
    pub failures_before_critical: u64,
    /// Restarts that the policy allows within a minute.
    pub attempts: u64,
    /// Time in which failing checks of a new process are not reported.
    pub start_period_ms: u64,
    /// Further fields of `config`.
    pub config: Json,
}

impl<'a> App<'a> {
    pub fn new(host: &'a Host, agents: &'a [&'a str], behaviour: &'a str) -> App<'a> {
        let config = json!({});
        App { host, agents, behaviour, failures_before_critical: 1, attempts: 2, start_period_ms: 500, config }
    }

    /// Returns the manifest; `label` makes the version differ from others.
    pub fn json(&self, label: &str) -> Json {
        let nodes: Vec<Json> = self.agents.iter().map(|agent| self.node(agent, label)).collect();
        let restart = json!({ "attempts": self.attempts, "interval_ms": 60_000, "delay_ms": 50, "mode": "fail" });
        json!({ "type": "service", "nodes": nodes, "policies": { "restart": restart } })
    }

    pub fn manifest(&self, label: &str) -> String {
        self.json(label).to_string()
    }

    pub fn node(&self, agent: &str, label: &str) -> Json {
        let check = json!({
            "name": "up", "type": "http", "path": "/health", "interval_ms": 40, "timeout_ms": 2000,
            "failures_before_critical": self.failures_before_critical, "start_period_ms": self.start_period_ms,
        });
        let mut config = json!({
            "command": [example("http_agent")],
            "environment": {
                "AGENT_BEHAVIOUR": self.behaviour,
                "AGENT_DIARY": self.host.folder.join("diary"),
                "LABEL": label,
            },
        });
        config.as_object_mut().expect("fields").extend(self.config.as_object().expect("fields").clone());
        json!({
            "node_id": agent,
            "config": config,
            "services": [{ "name": "web", "port": "auto", "checks": [check] }],
        })
    }
}

/// Returns the fields of `config` by which an agent is told to drain, and asked for its sessions.
pub fn drains_by_http() -> Json {
    json!({
        "drain": { "http": "http://127.0.0.1:${env.PORT}/drain", "undo": "http://127.0.0.1:${env.PORT}/resume" },
        "sessions": "http://127.0.0.1:${env.PORT}/sessions", "sessions_interval_ms": 40,
    })
}

/// Policy options: healthy soon, and deadlines that a busy machine does not miss.
pub const BRISK: [&str; 6] = ["MIN_HEALTHY_MS", "150", "HEALTHY_DEADLINE_MS", "15000", "PROGRESS_DEADLINE_MS", "16000"];
