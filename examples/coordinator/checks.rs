//! Health checks of an agent's services. Each runs on its own thread until the agent's process ends.

use crate::manifest::{CheckKind, CheckSpec};
use crate::process;
use rustix::process::{kill_process_group, Pid, Signal};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::process::Stdio;
use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// Result of one run of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Passing,
    Warning(String),
    Failing(String),
}

/// A check with all its variables substituted.
pub struct Check {
    pub spec: CheckSpec,
    pub host: String,
    pub port: u16,
    /// For scripts: environment and working directory of the agent, and the file to which output is written.
    pub environment: BTreeMap<String, String>,
    pub workdir: Option<String>,
    pub output: Option<File>,
}

/// Runs a check at its interval, until the returned sender is dropped or `report` returns false.
pub fn start(check: Check, report: impl Fn(Outcome) -> bool + Send + 'static) -> Sender<()> {
    repeat(check.spec.interval, move || report(check.run()))
}

/// Calls `run` at an interval from a thread of its own, until the returned sender is dropped or it returns false.
pub fn repeat(interval: Duration, mut run: impl FnMut() -> bool + Send + 'static) -> Sender<()> {
    let (running, stopped) = channel();
    thread::spawn(move || loop {
        let next = Instant::now() + interval;
        if !run() {
            return;
        }
        let delay = next.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match stopped.recv_timeout(delay) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return,
        }
    });
    running
}

/// Returns a client for requests to an agent. It follows no redirect, and a status is no error.
pub fn http_client(timeout: Duration) -> ureq::Agent {
    // The agent is on this host: a proxy from the environment must not answer for it.
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .build();
    ureq::Agent::new_with_config(config)
}

impl Check {
    /// Runs the check once.
    fn run(&self) -> Outcome {
        match &self.spec.kind {
            CheckKind::Http { path, expected_status } => self.http(path, *expected_status),
            CheckKind::Tcp => self.tcp(),
            CheckKind::Script { command } => {
                self.script(command).unwrap_or_else(|error| Outcome::Failing(format!("{}: {error}", command[0])))
            }
        }
    }

    /// GETs the path.
    fn http(&self, path: &str, expected: Option<u16>) -> Outcome {
        let slash = if path.starts_with('/') { "" } else { "/" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let url = format!("http://{host}:{}{slash}{path}", self.port);
        match http_client(self.spec.timeout).get(&url).call() {
            Ok(response) => match (response.status().as_u16(), expected) {
                (status, Some(expected)) if status == expected => Outcome::Passing,
                (status, Some(expected)) => Outcome::Failing(format!("{url}: status {status}, expected {expected}")),
                (200..=299, None) => Outcome::Passing,
                (429, None) => Outcome::Warning(format!("{url}: status 429")),
                (status, None) => Outcome::Failing(format!("{url}: status {status}")),
            },
            Err(error) => Outcome::Failing(format!("{url}: {error}")),
        }
    }

    /// Connects to the port.
    fn tcp(&self) -> Outcome {
        let mut last = format!("{}: no address", self.host);
        for address in (self.host.as_str(), self.port).to_socket_addrs().into_iter().flatten() {
            match TcpStream::connect_timeout(&address, self.spec.timeout.max(Duration::from_millis(1))) {
                Ok(_) => return Outcome::Passing,
                Err(error) => last = format!("{address}: {error}"),
            }
        }
        Outcome::Failing(last)
    }

    /// Runs the command, and kills its process group at the timeout.
    fn script(&self, words: &[String]) -> io::Result<Outcome> {
        let mut environment = self.environment.clone();
        environment.insert(process::CHECK_VARIABLE.to_string(), self.spec.name.clone());
        let mut command = process::command(words, &environment, self.workdir.as_deref())?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(output) = &self.output {
            command.stdout(output.try_clone()?).stderr(output.try_clone()?);
        }
        let mut child = command.spawn()?;
        let pid = child.id() as i32;
        let in_time = process::wait_for_exit(pid, Some(self.spec.timeout));
        // Background processes of the script do not outlive it.
        if let Some(group) = Pid::from_raw(pid) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let status = child.wait()?;
        Ok(match status.code() {
            _ if !in_time => Outcome::Failing(format!("{} took longer than {:?}", words[0], self.spec.timeout)),
            Some(0) => Outcome::Passing,
            Some(1) => Outcome::Warning(format!("{} exited with 1", words[0])),
            _ => Outcome::Failing(format!("{}: {status}", words[0])),
        })
    }
}
