//! A random workload from a seed: every command of the module and the generic commands of Redis, singly, in scripts
//! and in transactions, with policies so quick that deadlines pass between them. Most commands are valid; the others
//! are rejected.

use crate::client::Client;
use crate::fixtures::manifest;
use crate::rng::Rng;

const KEYS: [&str; 5] = ["api", "worker", "cron", "edge", "spare"];
const AGENTS: [&str; 4] = ["a", "b", "c", "d"];
const MODELS: [&str; 3] = ["small", "medium", "large"];

pub struct Workload {
    rng: Rng,
    /// Number of accepted commands.
    pub accepted: usize,
    /// Number of rejected commands.
    pub rejected: usize,
}

type Words = Vec<String>;

fn words(text: &str) -> Words {
    text.split_whitespace().map(str::to_string).collect()
}

impl Workload {
    pub fn new(seed: u64) -> Workload {
        Workload { rng: Rng::new(seed, 0), accepted: 0, rejected: 0 }
    }

    /// Sends one command, one script or one transaction.
    pub fn step(&mut self, client: &mut Client) {
        match self.rng.weighted(&[70, 12, 12, 6]) {
            0 => {
                let command = self.command();
                self.send(client, &command);
            }
            1 => {
                let commands: Vec<Words> = (0..1 + self.rng.below(5)).map(|_| self.command()).collect();
                let script = self.script(&commands);
                self.send(client, &script);
            }
            2 => {
                client.call(&["MULTI"]);
                for _ in 0..1 + self.rng.below(5) {
                    let command = self.command();
                    let _queued = client.try_call(&command);
                }
                self.send(client, &words("EXEC"));
            }
            _ => {
                let command = self.generic();
                self.send(client, &command);
            }
        }
    }

    fn send(&mut self, client: &mut Client, command: &[String]) {
        match client.try_call(command) {
            Ok(_) => self.accepted += 1,
            Err(line) => {
                assert!(!line.starts_with("(no reply)"), "{command:?}: {line}");
                assert!(!line.contains("internal error"), "{command:?}: {line}");
                self.rejected += 1;
            }
        }
    }

    /// Returns a script of some commands that either goes on after a rejected one (`pcall`) or ends with its error
    /// (`call`).
    fn script(&mut self, commands: &[Words]) -> Words {
        let call = if self.rng.chance(70) { "pcall" } else { "call" };
        let mut arguments = Vec::new();
        let mut body = String::new();
        for command in commands {
            let operands: Vec<String> =
                (0..command.len()).map(|n| format!("ARGV[{}]", arguments.len() + n + 1)).collect();
            body.push_str(&format!("redis.{call}({})\n", operands.join(",")));
            arguments.extend(command.iter().cloned());
        }
        let mut script = vec!["EVAL".to_string(), body, KEYS.len().to_string()];
        script.extend(KEYS.map(str::to_string));
        script.extend(arguments);
        script
    }

    fn key(&mut self) -> &'static str {
        KEYS[self.rng.below(4)]
    }

    fn agent(&mut self) -> &'static str {
        AGENTS[self.rng.below(AGENTS.len())]
    }

    fn command(&mut self) -> Words {
        let key = self.key();
        match self.rng.weighted(&[14, 6, 3, 6, 2, 2, 5, 3, 40, 9, 7, 3]) {
            0 => self.deploy(key),
            1 => words(&format!("DEPLOY.PROMOTE {key}")),
            2 => words(&format!("DEPLOY.PAUSE {key}")),
            3 => words(&format!("DEPLOY.RESUME {key}")),
            4 => words(&format!("DEPLOY.FAIL {key} REASON enough")),
            5 => words(&format!("DEPLOY.STOP {key}")),
            6 => words(&format!("DEPLOY.ROLLBACK {key}")),
            7 => {
                let version = self.rng.between(1, 9);
                words(&match self.rng.below(3) {
                    0 => format!("DEPLOY.UNTAG {key} tag-{}", version % 3),
                    _ => format!("DEPLOY.TAG {key} {version} tag-{}", version % 3),
                })
            }
            8 => {
                let states = ["starting", "ready", "unready", "failed", "stopped", "unsafe"];
                let state = states[self.rng.weighted(&[20, 60, 8, 2, 9, 1])];
                words(&format!("DEPLOY.REPORT {key} {} {state}", self.agent()))
            }
            9 => {
                let (agent, ttl) = (self.agent(), self.rng.between(10, 200));
                let ttl = if self.rng.chance(50) { format!("TTL {ttl}") } else { String::new() };
                words(&format!("DEPLOY.REGISTER {key} {agent} http INSTANCE i-{agent} ADDRESS host PORT 80 {ttl}"))
            }
            10 => {
                let status = self.rng.pick(&["passing", "warning", "critical"]);
                words(&format!("DEPLOY.CHECK {key} i-{} {status}", self.agent()))
            }
            _ => words(&format!("DEPLOY.DEREGISTER {key} i-{}", self.agent())),
        }
    }

    fn deploy(&mut self, key: &str) -> Words {
        let first = if self.rng.chance(15) { 1 } else { 0 };
        let last = if self.rng.chance(15) { 3 } else { 4 };
        let model = *self.rng.pick(&MODELS);
        let mut command = words(&format!("DEPLOY.DEPLOY {key} MANIFEST"));
        command.push(manifest(&AGENTS[first..last], model));
        let healthy = self.rng.between(0, 40);
        command.extend(words(&format!("MIN_HEALTHY_MS {healthy}")));
        if self.rng.chance(40) {
            let deadline = healthy + self.rng.between(20, 300);
            command.extend(words(&format!("HEALTHY_DEADLINE_MS {deadline}")));
            if self.rng.chance(50) {
                command.extend(words(&format!("PROGRESS_DEADLINE_MS {}", deadline + self.rng.between(0, 200))));
            }
        }
        for (percent, option) in [
            (30, "MAX_PARALLEL 2"),
            (30, "CANARY 1"),
            (30, "STRATEGY blue-green"),
            (30, "AUTO_REVERT true"),
            (30, "AUTO_PROMOTE true"),
            (30, "HEALTH_CHECK agent_states"),
        ] {
            if self.rng.chance(percent) {
                command.extend(words(option));
            }
        }
        if self.rng.chance(20) {
            command.extend(words(&format!("REQUEST r-{}", self.rng.below(5))));
        }
        command
    }

    /// Returns a command of Redis itself for keys of any type.
    fn generic(&mut self) -> Words {
        let (key, other) = (self.key(), *self.rng.pick(&KEYS));
        words(&match self.rng.below(14) {
            0 | 1 => format!("RENAME {key} {other}"),
            2 => format!("COPY {key} {other} REPLACE"),
            3 => format!("COPY {key} {other} DB 1 REPLACE"),
            4 => format!("MOVE {key} 1"),
            5 => "SWAPDB 0 1".to_string(),
            6 => format!("DEL {key}"),
            7 => format!("UNLINK {key}"),
            8 => format!("PEXPIRE {key} 30"),
            9 => format!("SET {key} something"),
            10 => {
                let script = "local found = redis.call('DUMP', KEYS[1])
                              if found then redis.call('RESTORE', KEYS[2], 0, found, 'REPLACE') end";
                return [&["EVAL", script, "2", key, other].map(str::to_string)[..]].concat();
            }
            11 if self.rng.chance(10) => "FLUSHALL ASYNC".to_string(),
            12 if self.rng.chance(10) => "FLUSHDB".to_string(),
            _ => format!("COPY spare {key} REPLACE"),
        })
    }
}

/// Removes the expiry of all keys, so that none expires while they are compared.
pub fn persist_all(client: &mut Client) {
    for db in ["1", "0"] {
        client.call(&["SELECT", db]);
        for key in KEYS {
            client.call(&["PERSIST", key]);
        }
    }
}
