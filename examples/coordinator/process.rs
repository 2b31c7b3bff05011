//! Agent processes: starting, finding, watching and signalling them.
//!
//! An agent is the leader of its own process group, and its environment contains its instance id. Therefore the next
//! coordinator finds it at whatever moment the last one was killed: by its state file (`state_dir`) or by its
//! environment. Between fork and exec, when neither exists, the child holds the lock of the state directory, for which
//! the next coordinator waits. The lock of its slot is the agent's standard input: an empty file that stays locked
//! while a process has it open.

use crate::identity::Id;
use rustix::event::{poll, PollFd, PollFlags};
use rustix::process::{kill_process, kill_process_group, pidfd_open, Pid, PidfdFlags, Signal};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

/// Environment variable with the path of the coordinator's state directory.
pub const COORDINATOR_VARIABLE: &str = "DEPLOY_COORDINATOR";
/// Environment variable that marks the process of a script check.
pub const CHECK_VARIABLE: &str = "DEPLOY_CHECK";

/// Process group of an instance.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessGroup {
    pub id: Id,
    pub attempt: u32,
    /// Process id of the leader and of the group.
    pub pid: i32,
    /// Start time of the leader in ticks since boot, since a process id may be reused. 0 if the leader had already
    /// ended when the group was found.
    pub start: u64,
}

/// Fields of `/proc/<pid>/stat`.
struct Stat {
    pid: i32,
    pgrp: i32,
    session: i32,
    start: u64,
    ended: bool,
}

/// Reads `/proc/<pid>/stat`.
fn stat(pid: i32) -> Option<Stat> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name in parentheses may contain any character, parentheses too.
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        pid,
        pgrp: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
        ended: matches!(*fields.first()?, "Z" | "X"),
    })
}

/// Returns the ids of all processes.
fn all_pids() -> impl Iterator<Item = i32> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Returns the initial environment of a process; empty without the permission to read it.
fn environment(pid: i32) -> BTreeMap<String, String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let pairs = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    pairs.filter_map(|pair| pair.split_once('=').map(|(name, value)| (name.to_string(), value.to_string()))).collect()
}

/// Returns the start time of a process; None if it has ended.
pub fn start_time(pid: i32) -> Option<u64> {
    stat(pid).filter(|stat| !stat.ended).map(|stat| stat.start)
}

/// Returns the start time of a process, even if it has ended but has not been reaped.
pub fn start_time_unreaped(pid: i32) -> Option<u64> {
    stat(pid).map(|stat| stat.start)
}

/// Reads instance id and attempt from an environment.
fn id_from(environment: &BTreeMap<String, String>) -> Option<(Id, u32)> {
    let get = |name: &str| environment.get(name).cloned();
    let id = Id {
        key: get("DEPLOY_KEY")?,
        agent: get("DEPLOY_AGENT")?,
        job: get("DEPLOY_JOB")?,
        version: get("DEPLOY_VERSION")?.parse().ok()?,
        submitted_at: get("DEPLOY_SUBMITTED_AT")?.parse().ok()?,
    };
    Some((id, get("DEPLOY_ATTEMPT")?.parse().ok()?))
}

/// Processes that belong to a state directory, whichever coordinator started them.
pub struct Found {
    pub agents: Vec<FoundAgent>,
    /// Process ids of script checks that outlived their coordinator.
    pub checks: Vec<i32>,
}

/// A process with its initial environment.
type MarkedProcess = (Stat, BTreeMap<String, String>);

/// An attempt of which at least one process runs, with its initial environment.
pub struct FoundAgent {
    pub group: ProcessGroup,
    pub environment: BTreeMap<String, String>,
}

/// Finds the processes that belong to a state directory. `saved` returns attempt, process id and start time from the
/// state file of an instance.
pub fn scan(state_dir: &Path, saved: impl Fn(&Id) -> Option<(u32, (i32, u64))>) -> Found {
    let mut found = Found { agents: Vec::new(), checks: Vec::new() };
    let mut by_attempt: Vec<((Id, u32), Vec<MarkedProcess>)> = Vec::new();
    let ours = std::process::id() as i32;
    for pid in all_pids().filter(|pid| *pid != ours) {
        let environment = environment(pid);
        if environment.get(COORDINATOR_VARIABLE).map(String::as_str) != state_dir.to_str() {
            continue;
        }
        let Some(stat) = stat(pid).filter(|stat| !stat.ended) else { continue };
        if environment.contains_key(CHECK_VARIABLE) {
            found.checks.push(pid);
        } else if let Some(attempt) = id_from(&environment) {
            match by_attempt.iter_mut().find(|(known, _)| *known == attempt) {
                Some((_, processes)) => processes.push((stat, environment)),
                None => by_attempt.push((attempt, vec![(stat, environment)])),
            }
        }
    }
    for ((id, attempt), mut processes) in by_attempt {
        processes.sort_by_key(|(stat, _)| stat.start);
        let known = saved(&id).filter(|(of, _)| *of == attempt).map(|(_, process)| process);
        // Without a state file: children of the agent have the same environment, but started later, and are either in
        // its group or lead a session, which the agent does not.
        let leads = |(stat, _): &&MarkedProcess| stat.pid == stat.pgrp && stat.pid != stat.session;
        let (pid, start) = known.unwrap_or_else(|| match processes.iter().find(leads) {
            Some((agent, _)) => (agent.pid, agent.start),
            None => (processes[0].0.pgrp, 0), // the leader has ended
        });
        let index = processes.iter().position(|(stat, _)| stat.pid == pid).unwrap_or(0);
        let environment = processes.swap_remove(index).1;
        found.agents.push(FoundAgent { group: ProcessGroup { id, attempt, pid, start }, environment });
    }
    found
}

impl ProcessGroup {
    /// Returns whether the leader has not ended.
    pub fn leader_is_running(&self) -> bool {
        start_time(self.pid).is_some_and(|start| start == self.start)
    }

    /// Returns the running processes of this group.
    fn members(&self) -> Vec<i32> {
        // A leader with another start time means that the group has ended and its id was reused.
        if stat(self.pid).is_some_and(|leader| leader.start != self.start) {
            return Vec::new();
        }
        let of_group = |stat: &Stat| stat.pgrp == self.pid && !stat.ended;
        all_pids().filter_map(stat).filter(of_group).map(|stat| stat.pid).collect()
    }

    /// Returns the running processes with the environment of this attempt, in its group or not.
    fn marked_processes(&self, state_dir: &Path) -> Vec<i32> {
        let ours = std::process::id() as i32;
        let is_marked = |pid: &i32| {
            let environment = environment(*pid);
            environment.get(COORDINATOR_VARIABLE).map(String::as_str) == state_dir.to_str()
                && !environment.contains_key(CHECK_VARIABLE)
                && id_from(&environment).is_some_and(|(id, attempt)| id == self.id && attempt == self.attempt)
                && stat(*pid).is_some_and(|stat| !stat.ended)
        };
        all_pids().filter(|pid| *pid != ours).filter(is_marked).collect()
    }

    /// Returns whether all its processes have ended, in its group or not.
    pub fn is_gone(&self, state_dir: &Path) -> bool {
        self.members().is_empty() && self.marked_processes(state_dir).is_empty()
    }

    /// Sends a signal to all its processes.
    pub fn signal(&self, signal: Signal, state_dir: &Path) {
        let members = self.members();
        if !members.is_empty() {
            if let Some(group) = Pid::from_raw(self.pid) {
                let _ = kill_process_group(group, signal); // fails if it has just ended
            }
        }
        for pid in self.marked_processes(state_dir).into_iter().filter(|pid| !members.contains(pid)) {
            kill(pid, signal);
        }
    }
}

/// Sends a signal to a process.
pub fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal); // fails if it has just ended
    }
}

/// Waits for a process to end without reaping it; it need not be a child. Returns false at the timeout.
pub fn wait_for_exit(pid: i32, timeout: Option<Duration>) -> bool {
    let Some(Ok(handle)) = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return true };
    let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
    loop {
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], timeout.as_ref()) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return true,
        }
    }
}

/// Calls `ended` from another thread once the leader of a group has ended.
pub fn on_leader_exit(group: &ProcessGroup, ended: impl FnOnce() + Send + 'static) {
    let group = group.clone();
    thread::spawn(move || {
        if group.leader_is_running() {
            wait_for_exit(group.pid, None);
        }
        ended();
    });
}

/// Arguments of [`start`].
pub struct StartOptions<'a> {
    pub command: &'a [String],
    pub environment: &'a BTreeMap<String, String>,
    pub workdir: Option<&'a str>,
    /// Standard input.
    pub slot_lock: File,
    /// Standard output and error.
    pub output: File,
}

/// Builds a command in a process group of its own. `DEPLOY_` variables of the coordinator are not inherited.
pub fn command(words: &[String], environment: &BTreeMap<String, String>, workdir: Option<&str>) -> io::Result<Command> {
    let (program, arguments) = words.split_first().ok_or_else(|| io::Error::other("the command is empty"))?;
    let mut command = Command::new(program);
    command.args(arguments);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DEPLOY_")) {
        command.env_remove(name);
    }
    command.envs(environment);
    if let Some(workdir) = workdir {
        command.current_dir(workdir);
    }
    command.process_group(0);
    Ok(command)
}

/// Starts the process of an agent.
pub fn start(options: StartOptions) -> io::Result<Child> {
    let mut command = command(options.command, options.environment, options.workdir)?;
    command.stdin(options.slot_lock).stderr(options.output.try_clone()?).stdout(options.output);
    command.spawn()
}
