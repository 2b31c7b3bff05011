//! The ordinary client of the tests: one connection of the `redis` crate, commands as words.

use crate::fixtures::{manifest, AGENTS};
use crate::reply::{array, int, items, number, string, text, Fields};
use crate::wait::{patience, wait_for};
use redis::{Connection, RedisError, Value};
use serde_json::Value as Json;

/// Opens a connection to a port of this machine; `protocol` is `resp2` or `resp3`.
pub(crate) fn open(port: u16, protocol: &str) -> Result<Connection, RedisError> {
    redis::Client::open(format!("redis://127.0.0.1:{port}/?protocol={protocol}"))?.get_connection()
}

/// Returns a client of the server that listens on a port; None where there is none.
pub fn connect(port: u16) -> Option<Client> {
    Client::open(port, "resp2").ok()
}

/// Returns a client of the server that listens on a Unix socket; None where there is none.
pub fn connect_unix(socket: &std::path::Path) -> Option<Client> {
    let connection = redis::Client::open(format!("redis+unix://{}", socket.display())).ok()?.get_connection().ok()?;
    connection.set_read_timeout(Some(patience())).ok()?;
    Some(Client { connection })
}

/// One connection, in words: `client.call(&["DEPLOY.PAUSE", "agent-api"])`.
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects to a port of this machine; `protocol` is `resp2` or `resp3`.
    pub(crate) fn open(port: u16, protocol: &str) -> Result<Client, RedisError> {
        let connection = open(port, protocol)?;
        connection.set_read_timeout(Some(patience()))?;
        Ok(Client { connection })
    }

    /// The reply, or the error line as the server sent it (`NOTFOUND no deployment …`).
    pub fn try_call<A: AsRef<[u8]>>(&mut self, words: &[A]) -> Result<Value, String> {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(word.as_ref());
        }
        command.query::<Value>(&mut self.connection).map_err(|error| match error.code() {
            Some(code) => format!("{code} {}", error.detail().unwrap_or_default()),
            None => format!("(no reply) {error}"),
        })
    }

    pub fn call<A: AsRef<[u8]>>(&mut self, words: &[A]) -> Value {
        self.try_call(words).unwrap_or_else(|error| panic!("{}: {error}", shown(words)))
    }

    /// The error line of a command that is to be refused.
    pub fn refused<A: AsRef<[u8]>>(&mut self, words: &[A]) -> String {
        match self.try_call(words) {
            Ok(reply) => panic!("{}: not refused, but {reply:?}", shown(words)),
            Err(line) => line,
        }
    }

    /// The reply of a reading command in its JSON form.
    pub fn json<A: AsRef<[u8]>>(&mut self, words: &[A]) -> Json {
        let text = text(&self.call(words));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}: {text}", shown(words)))
    }

    pub fn status(&mut self, key: &str) -> Json {
        self.json(&["DEPLOY.STATUS", key, "JSON"])
    }

    pub fn tasks(&mut self, key: &str) -> Vec<Json> {
        array(&self.json(&["DEPLOY.TASKS", key, "JSON"])).clone()
    }

    /// The record's log after a revision.
    pub fn events_after(&mut self, key: &str, revision: u64) -> Vec<Json> {
        let Value::Array(parts) = self.call(&["DEPLOY.EVENTS", key, "AFTER", &revision.to_string()]) else {
            panic!("EVENTS replies an array")
        };
        let [_, _, Value::Array(events)] = parts.as_slice() else { panic!("EVENTS replies three parts: {parts:?}") };
        events.iter().map(|event| serde_json::from_str(&text(event)).expect("an event is JSON")).collect()
    }

    pub fn deploy(&mut self, key: &str, manifest: &str, options: &[&str]) -> Fields {
        let words = [&["DEPLOY.DEPLOY", key, "MANIFEST", manifest], options].concat();
        Fields::of(&self.call(&words))
    }

    /// 1 where the report changed something.
    pub fn report(&mut self, key: &str, agent: &str, state: &str) -> i64 {
        int(&self.call(&["DEPLOY.REPORT", key, agent, state]))
    }

    /// Reports every open task as done, as a coordinator would. Returns their number.
    pub fn carry_out_tasks(&mut self, key: &str) -> usize {
        let tasks = self.tasks(key);
        for task in &tasks {
            let states: &[&str] = match string(&task["task"]) {
                "stop" => &["stopped"],
                "drain" => &["draining", "drained"],
                _ => &["starting", "ready"],
            };
            let version = task["version"].to_string();
            let instance = ["VERSION", &version, "JOB", string(&task["job_id"])];
            for state in states {
                self.call(&[&["DEPLOY.REPORT", key, string(&task["agent"]), state], &instance[..]].concat());
            }
        }
        tasks.len()
    }

    /// Acts as coordinator until the deployment has this status, and gives its record.
    pub fn carry_out_until(&mut self, key: &str, status: &str) -> Json {
        wait_for(&format!("{key} to be {status}"), || {
            self.carry_out_tasks(key);
            Some(self.status(key)).filter(|record| record["status"] == status)
        })
    }

    pub fn wait_for_status(&mut self, key: &str, status: &str) -> Json {
        wait_for(&format!("{key} to be {status}"), || {
            Some(self.status(key)).filter(|record| record["status"] == status)
        })
    }

    /// Version 1 successful, version 2 in mid rollout: its first agent is ready and waits for its verdict.
    pub fn begin_rollout(&mut self, key: &str, min_healthy_ms: u64) -> Json {
        self.begin_update(key, &["MIN_HEALTHY_MS", &min_healthy_ms.to_string()]);
        self.status(key)
    }

    /// Version 1 successful, version 2 deployed under a policy, and its first tasks carried out.
    pub fn begin_update(&mut self, key: &str, policy: &[&str]) {
        self.deploy(key, &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "0"]);
        self.carry_out_until(key, "successful");
        self.deploy(key, &manifest(&AGENTS, "large"), policy);
        self.carry_out_tasks(key);
    }

    /// The whole log of a key, in which every revision comes once, in order, and nobody is healthy twice.
    pub fn log_without_repetition(&mut self, key: &str) -> Vec<Json> {
        let log = self.events_after(key, 0);
        let revisions: Vec<u64> = log.iter().map(|event| number(&event["revision"])).collect();
        assert_eq!(revisions, (1..=revisions.len() as u64).collect::<Vec<_>>(), "{key}");
        let mut verdicts: Vec<String> = log
            .iter()
            .filter(|event| event["type"] == "agent_healthy")
            .map(|event| format!("{} {}", event["agent"], event["version"]))
            .collect();
        let counted = verdicts.len();
        verdicts.sort();
        verdicts.dedup();
        assert_eq!(verdicts.len(), counted, "{key}: a verdict was given twice: {log:?}");
        log
    }

    /// The keys that DEPLOY.LIST tells of.
    pub fn listed(&mut self) -> Vec<String> {
        let reply = self.call(&["DEPLOY.LIST", "COUNT", "10000"]);
        let [_, Value::Array(entries)] = items(&reply) else { panic!("LIST replies two parts: {reply:?}") };
        entries.iter().map(|entry| Fields::of(entry).text("deployment_key")).collect()
    }

    /// One field of INFO.
    pub fn info(&mut self, section: &str, field: &str) -> String {
        let all = self.try_call(&["INFO", section]).map(|reply| text(&reply)).unwrap_or_default();
        let line = all.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_default().to_string()
    }

    /// Returns the replication offset of this primary.
    pub fn replication_offset(&mut self) -> u64 {
        self.info("replication", "master_repl_offset").parse().expect("an offset")
    }
}

fn shown<A: AsRef<[u8]>>(words: &[A]) -> String {
    let cut = |word: &A| String::from_utf8_lossy(word.as_ref()).chars().take(80).collect::<String>();
    words.iter().map(cut).collect::<Vec<_>>().join(" ")
}
