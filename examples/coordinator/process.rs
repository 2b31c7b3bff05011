//! Agents as processes: how they are started, found again, watched and ended.
//!
//! An agent is the leader of a process group of its own, and carries in its environment who it is. So a coordinator
//! that was killed at any moment finds it again: by the file that it wrote (`store`), by that environment, or, in the
//! moment between fork and exec in which there is neither, by the lock of its place. The agent's standard input is that
//! lock: an empty file, locked for as long as a process has it open.

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

/// The variable that tells whose process it is: the path of the coordinator's state directory.
pub const COORDINATOR: &str = "DEPLOY_COORDINATOR";
/// The variable that marks the process of a script check, which is not the agent.
pub const CHECK: &str = "DEPLOY_CHECK";

/// A process group that runs, or ran, an instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub id: Id,
    pub attempt: u32,
    /// The leader's process id, and the group's.
    pub pid: i32,
    /// When the leader started, in ticks since boot: a process id alone may be somebody else's by now. 0 where the
    /// leader had gone already when the group was found.
    pub start: u64,
}

/// What `/proc/<pid>/stat` says.
struct Stat {
    pid: i32,
    pgrp: i32,
    session: i32,
    start: u64,
    ended: bool,
}

fn stat(pid: i32) -> Option<Stat> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything, brackets too.
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        pid,
        pgrp: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
        ended: matches!(*fields.first()?, "Z" | "X"),
    })
}

fn all_pids() -> impl Iterator<Item = i32> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A process's environment as it was given at its start. Empty where that is not ours to read.
fn environment(pid: i32) -> BTreeMap<String, String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let pairs = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    pairs.filter_map(|pair| pair.split_once('=').map(|(name, value)| (name.to_string(), value.to_string()))).collect()
}

/// When a process started; None where it has ended.
pub fn start_of(pid: i32) -> Option<u64> {
    stat(pid).filter(|stat| !stat.ended).map(|stat| stat.start)
}

/// The same, also where it has ended and was not reaped yet.
pub fn start_of_any(pid: i32) -> Option<u64> {
    stat(pid).map(|stat| stat.start)
}

fn id_in(environment: &BTreeMap<String, String>) -> Option<(Id, u32)> {
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

/// What runs here on behalf of a state directory, whoever started it.
pub struct Found {
    pub agents: Vec<FoundAgent>,
    /// Script checks that their coordinator has left behind.
    pub checks: Vec<i32>,
}

/// A process with the environment that it was given.
type Marked = (Stat, BTreeMap<String, String>);

/// An attempt of an instance of which at least one process runs, with the environment that it was given.
pub struct FoundAgent {
    pub group: Group,
    pub environment: BTreeMap<String, String>,
}

/// `noted` is what is known of the process of an instance: its attempt, process id and start.
pub fn find(state_dir: &Path, noted: impl Fn(&Id) -> Option<(u32, (i32, u64))>) -> Found {
    let mut found = Found { agents: Vec::new(), checks: Vec::new() };
    let mut by_attempt: Vec<((Id, u32), Vec<Marked>)> = Vec::new();
    let ours = std::process::id() as i32;
    for pid in all_pids().filter(|pid| *pid != ours) {
        let environment = environment(pid);
        if environment.get(COORDINATOR).map(String::as_str) != state_dir.to_str() {
            continue;
        }
        let Some(stat) = stat(pid).filter(|stat| !stat.ended) else { continue };
        if environment.contains_key(CHECK) {
            found.checks.push(pid);
        } else if let Some(attempt) = id_in(&environment) {
            match by_attempt.iter_mut().find(|(known, _)| *known == attempt) {
                Some((_, processes)) => processes.push((stat, environment)),
                None => by_attempt.push((attempt, vec![(stat, environment)])),
            }
        }
    }
    for ((id, attempt), mut processes) in by_attempt {
        processes.sort_by_key(|(stat, _)| stat.start);
        let known = noted(&id).filter(|(of, _)| *of == attempt).map(|(_, process)| process);
        // Without a note: what the agent has started has the same environment, started later, and either is in its
        // group or has taken a session of its own, which the agent did not.
        let leads = |(stat, _): &&Marked| stat.pid == stat.pgrp && stat.pid != stat.session;
        let (pid, start) = known.unwrap_or_else(|| match processes.iter().find(leads) {
            Some((agent, _)) => (agent.pid, agent.start),
            None => (processes[0].0.pgrp, 0), // it has ended, and this is what it left
        });
        let at = processes.iter().position(|(stat, _)| stat.pid == pid).unwrap_or(0);
        let environment = processes.swap_remove(at).1;
        found.agents.push(FoundAgent { group: Group { id, attempt, pid, start }, environment });
    }
    found
}

impl Group {
    pub fn leader_runs(&self) -> bool {
        start_of(self.pid).is_some_and(|start| start == self.start)
    }

    /// Processes of this group that have not ended; the leader may have.
    fn in_group(&self) -> Vec<i32> {
        // A leader of the same number that started at another time: the group is gone, and its number somebody else's.
        if stat(self.pid).is_some_and(|leader| leader.start != self.start) {
            return Vec::new();
        }
        let of_group = |stat: &Stat| stat.pgrp == self.pid && !stat.ended;
        all_pids().filter_map(stat).filter(of_group).map(|stat| stat.pid).collect()
    }

    /// Processes that carry the environment of this attempt, in its group or out of it.
    fn marked(&self, state_dir: &Path) -> Vec<i32> {
        let ours = std::process::id() as i32;
        let is_its = |pid: &i32| {
            let environment = environment(*pid);
            environment.get(COORDINATOR).map(String::as_str) == state_dir.to_str()
                && !environment.contains_key(CHECK)
                && id_in(&environment).is_some_and(|(id, attempt)| id == self.id && attempt == self.attempt)
                && stat(*pid).is_some_and(|stat| !stat.ended)
        };
        all_pids().filter(|pid| *pid != ours).filter(is_its).collect()
    }

    /// Nothing of it runs any more, in its group or out of it.
    pub fn is_gone(&self, state_dir: &Path) -> bool {
        self.in_group().is_empty() && self.marked(state_dir).is_empty()
    }

    pub fn signal(&self, signal: Signal, state_dir: &Path) {
        let in_group = self.in_group();
        if !in_group.is_empty() {
            if let Some(group) = Pid::from_raw(self.pid) {
                let _ = kill_process_group(group, signal); // it may just have ended
            }
        }
        for pid in self.marked(state_dir).into_iter().filter(|pid| !in_group.contains(pid)) {
            kill(pid, signal);
        }
    }
}

pub fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal); // it may just have ended
    }
}

/// Waits for a process to end, somebody else's child too, without reaping it. False at the timeout.
pub fn wait_for_end(pid: i32, timeout: Option<Duration>) -> bool {
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

/// Calls back, from another thread, once the leader of a group has ended.
pub fn watch(group: &Group, ended: impl FnOnce() + Send + 'static) {
    let group = group.clone();
    thread::spawn(move || {
        if group.leader_runs() {
            wait_for_end(group.pid, None);
        }
        ended();
    });
}

/// Everything that the start of a process takes.
pub struct Start<'a> {
    pub command: &'a [String],
    pub environment: &'a BTreeMap<String, String>,
    pub workdir: Option<&'a str>,
    /// Standard input.
    pub place: File,
    /// Standard output and error.
    pub output: File,
}

/// A command with an environment that has nothing of our own instructions in it.
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

pub fn start(start: Start) -> io::Result<Child> {
    let mut command = command(start.command, start.environment, start.workdir)?;
    command.stdin(start.place).stderr(start.output.try_clone()?).stdout(start.output);
    command.spawn()
}
