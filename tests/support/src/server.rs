//! The harness of the server tests: real servers with the module, their clients, subscribers and replicas.
//!
//! A test asks for a server of a kind and talks to it as any client would. Nothing here sleeps to let something
//! happen: `wait_for` polls a condition until a deadline, and says what it waited for when that passes.
//!
//! The library under test is the one that `cargo build --release` made (or `REDIS_DEPLOY_MODULE` names).

#![allow(dead_code)] // each test binary uses its own part of this

pub mod cluster;
pub mod traffic;

use redis::{Connection, RedisError, Value};
use serde_json::Value as Json;
use std::net::TcpListener;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// How long anything may take before a test gives up on it: much longer than it takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

// ---------------------------------------------------------------------------------------------- waiting

/// Polls until `condition` gives a value; panics, with what was waited for, at the deadline.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()))
}

/// Waits for a time on the clock, and so for what could happen by then.
pub fn wait_past(at_ms: u64) {
    wait_until("a time to pass", || unix_ms() > at_ms);
}

/// Whether the long variants are to be run, as `scripts/test all` does.
pub fn is_long_run() -> bool {
    std::env::var_os("REDIS_DEPLOY_LONG").is_some()
}

pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is past 1970").as_millis() as u64
}

// ---------------------------------------------------------------------------------------------- servers

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// The distribution's own `redis-server`, 7.0 on Debian 12.
    Redis70,
    Redis82,
    Valkey81,
    Valkey91,
}

impl ServerKind {
    pub const ALL: [ServerKind; 4] =
        [ServerKind::Redis70, ServerKind::Redis82, ServerKind::Valkey81, ServerKind::Valkey91];

    pub fn name(self) -> &'static str {
        match self {
            ServerKind::Redis70 => "redis-7.0",
            ServerKind::Redis82 => "redis-8.2",
            ServerKind::Valkey81 => "valkey-8.1",
            ServerKind::Valkey91 => "valkey-9.1",
        }
    }

    /// Where it is, if this machine has it. `REDIS_DEPLOY_SERVERS` lists further servers as `name=path,…`.
    pub fn binary(self) -> Option<PathBuf> {
        let listed = std::env::var("REDIS_DEPLOY_SERVERS").unwrap_or_default();
        let found = listed.split(',').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == self.name());
        match (found, self) {
            (Some((_, path)), _) => Some(path.into()),
            (None, ServerKind::Redis70) => {
                Some(std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into()).into())
            }
            (None, _) => None,
        }
    }

    pub fn available() -> Vec<ServerKind> {
        ServerKind::ALL.into_iter().filter(|kind| kind.binary().is_some()).collect()
    }
}

/// Runs a test on every server there is, and says on which it failed.
pub fn on_each_server(test: impl Fn(ServerKind)) {
    let mut failed = Vec::new();
    for kind in ServerKind::available() {
        eprintln!("-- on {}", kind.name());
        if catch_unwind(AssertUnwindSafe(|| test(kind))).is_err() {
            failed.push(kind.name());
        }
    }
    assert!(failed.is_empty(), "failed on {}", failed.join(", "));
}

/// The library that is tested. One that is older than its sources would test yesterday's code.
pub fn module_path() -> PathBuf {
    if let Some(path) = std::env::var_os("REDIS_DEPLOY_MODULE") {
        return path.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let library = target.join("release/libredis_deploy.so");
    let built = library.metadata().and_then(|m| m.modified()).unwrap_or_else(|error| {
        panic!("{}: {error}; the server tests need `cargo build --release` first", library.display())
    });
    if let Some(newer) = newest_source(&root.join("src")).filter(|(_, changed)| *changed > built) {
        panic!("{} is older than {}: `cargo build --release` first", library.display(), newer.0.display());
    }
    library
}

fn newest_source(folder: &Path) -> Option<(PathBuf, SystemTime)> {
    let entries = folder.read_dir().ok()?.flatten();
    let of_entry = |entry: std::fs::DirEntry| match entry.file_type().ok()?.is_dir() {
        true => newest_source(&entry.path()),
        false => Some((entry.path(), entry.metadata().ok()?.modified().ok()?)),
    };
    entries.filter_map(of_entry).max_by_key(|(_, changed)| *changed)
}

/// How a server is brought to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SHUTDOWN SAVE: with an RDB file.
    Save,
    /// SHUTDOWN NOSAVE: with what the append-only file has.
    NoSave,
    /// SIGKILL.
    Kill,
}

/// A server with the module in a folder of its own. It ends with this value.
pub struct Server {
    pub kind: ServerKind,
    pub port: u16,
    pub folder: PathBuf,
    args: Vec<String>,
    child: Child,
}

/// Ports below the range from which the system draws by itself, so that one stays free over a restart.
/// Each process begins somewhere else; a port that somebody has is passed over.
pub fn next_port() -> u16 {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    loop {
        let place = u64::from(std::process::id()) * 577 + DRAWN.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (place % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub fn new_folder() -> PathBuf {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let name = format!("redis-deploy-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

impl Server {
    /// Starts a server with the module; `extra` are further arguments, such as `["--appendonly", "yes"]`.
    pub fn start(kind: ServerKind, extra: &[&str]) -> Server {
        let folder = new_folder();
        let args: Vec<String> = extra.iter().map(|arg| arg.to_string()).collect();
        for _ in 0..5 {
            let port = next_port();
            let mut child = launch(kind, port, &folder, &args);
            if answers(&mut child, port) {
                return Server { kind, port, folder, args, child };
            }
            let _ = child.kill();
            let _ = child.wait();
            if !log_of(&folder).contains("Address already in use") {
                break;
            }
        }
        panic!("{} did not start:\n{}", kind.name(), log_of(&folder));
    }

    /// Ends the server and starts it again with the same arguments and files.
    pub fn restart(&mut self, end: End) {
        self.restart_after(end, || ());
    }

    /// The same, with something in between, while it is down.
    pub fn restart_after(&mut self, end: End, meanwhile: impl FnOnce()) {
        self.end(end);
        meanwhile();
        self.start_again();
    }

    fn end(&mut self, end: End) {
        match end {
            End::Kill => self.child.kill().expect("our own child"),
            End::Save | End::NoSave => {
                let how = if end == End::Save { "SAVE" } else { "NOSAVE" };
                // It answers only where it refuses to go.
                if let Err(error) = self.client().try_call(&["SHUTDOWN", how]) {
                    assert!(!error.starts_with("ERR"), "SHUTDOWN {how}: {error}");
                }
            }
        }
        wait_until("the server to end", || self.child.try_wait().expect("our own child").is_some());
    }

    /// None where it does not take connections.
    pub fn try_client(&self) -> Option<Client> {
        connect(self.port)
    }

    pub fn client(&self) -> Client {
        self.connect("resp2")
    }

    pub fn client_resp3(&self) -> Client {
        self.connect("resp3")
    }

    fn connect(&self, protocol: &str) -> Client {
        let connection = open(self.port, protocol).unwrap_or_else(|e| panic!("no connection: {e}\n{}", self.log()));
        connection.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        Client { connection }
    }

    /// Makes this server a replica and waits until it has everything.
    pub fn replicate_from(&self, primary: &Server) {
        self.client().call(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
        wait_until("the replica to be in sync", || self.client().info("replication", "master_link_status") == "up");
        // Only then does FAILOVER take it.
        let (mut theirs, online) = (primary.client(), format!("port={},state=online", self.port));
        wait_until("the primary to know the replica", || {
            (0..8).any(|n| theirs.info("replication", &format!("slave{n}")).contains(&online))
        });
        self.catch_up_with(primary);
    }

    /// Waits until this replica has applied all that the primary has sent.
    pub fn catch_up_with(&self, primary: &Server) {
        let (mut ours, mut theirs) = (self.client(), primary.client());
        wait_until("the replica to catch up", || {
            ours.info("replication", "slave_repl_offset") == theirs.info("replication", "master_repl_offset")
        });
    }

    /// All that this replica holds and tells is what its primary holds and tells, while nothing is written.
    pub fn assert_equal_to(&self, primary: &Server) {
        let (mut ours, mut theirs) = (self.client(), primary.client());
        theirs.call(&["CLIENT", "PAUSE", "60000", "WRITE"]);
        self.catch_up_with(primary);
        for db in ["0", "1"] {
            ours.call(&["SELECT", db]);
            theirs.call(&["SELECT", db]);
            let listed = theirs.listed();
            assert_eq!(ours.listed(), listed);
            assert_eq!(ours.call(&["DEPLOY.LIST", "COUNT", "1000"]), theirs.call(&["DEPLOY.LIST", "COUNT", "1000"]));
            for key in &listed {
                assert_eq!(ours.status(key), theirs.status(key));
                for words in [&["DEPLOY.EVENTS", key][..], &["DEPLOY.TASKS", key], &["DUMP", key]] {
                    assert_eq!(ours.call(words), theirs.call(words), "{words:?}");
                }
                let digest = ["DEBUG", "DIGEST-VALUE", key];
                assert_eq!(ours.call(&digest), theirs.call(&digest), "{key}");
            }
        }
        assert_eq!(ours.call(&["DEBUG", "DIGEST"]), theirs.call(&["DEBUG", "DIGEST"]), "of everything");
        let statuses = ["deployments_running", "deployments_paused", "deployments_successful"];
        for counted in [&statuses[..], &["timers_armed", "tasks_outstanding"]].concat() {
            let field = format!("deploy_{counted}");
            assert_eq!(ours.info("deploy", &field), theirs.info("deploy", &field), "{field}");
        }
        theirs.call(&["CLIENT", "UNPAUSE"]);
    }

    /// Ends it without any warning, for good.
    pub fn kill(&mut self) {
        self.end(End::Kill);
    }

    /// Sends our own child a signal, such as `STOP`.
    pub fn signal(&self, name: &str) {
        // The shell's own kill: not every system has a program of that name.
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Waits for it to end by itself, and tells how it did.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        wait_for("the server to end", || self.child.try_wait().expect("our own child"))
    }

    /// Starts it again where it has ended.
    pub fn start_again(&mut self) {
        assert!(!self.is_alive(), "it has not ended");
        self.child = launch(self.kind, self.port, &self.folder, &self.args);
        assert!(answers(&mut self.child, self.port), "it did not start again:\n{}", self.log());
    }

    pub fn log(&self) -> String {
        log_of(&self.folder)
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.child.try_wait().ok().flatten();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("-- log of {} on port {} (ended by itself: {ended:?}):", self.kind.name(), self.port);
            tail.iter().rev().for_each(|line| eprintln!("   {line}"));
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Further arguments of the module, for who wants to see that everything holds with them as well: `rest-after-ms 1`.
fn module_arguments() -> Vec<String> {
    let arguments = std::env::var("REDIS_DEPLOY_ARGUMENTS").unwrap_or_default();
    arguments.split_whitespace().map(str::to_string).collect()
}

fn launch(kind: ServerKind, port: u16, folder: &Path, extra: &[String]) -> Child {
    let binary = kind.binary().unwrap_or_else(|| panic!("{} is not on this machine", kind.name()));
    Command::new(&binary)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--logfile", "server.log", "--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0"])
        // No pings between primary and replica: offsets move only with what happened.
        .args(["--repl-ping-replica-period", "3600", "--repl-timeout", "7200"])
        .arg("--dir")
        .arg(folder)
        .args(extra)
        .arg("--loadmodule")
        .arg(module_path())
        .args(module_arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", binary.display()))
}

/// Waits until our child, and no other process on that port, is up and has loaded its data.
fn answers(child: &mut Child, port: u16) -> bool {
    let ours = child.id().to_string();
    let mut ended = false;
    wait_until("the server to answer", || {
        ended = child.try_wait().expect("our own child").is_some();
        let ready = || {
            let mut client = Client { connection: open(port, "resp2").ok()? };
            client.try_call(&["PING"]).ok()?;
            Some(client.info("server", "process_id") == ours && client.info("persistence", "loading") == "0")
        };
        ended || ready() == Some(true)
    });
    !ended
}

fn open(port: u16, protocol: &str) -> Result<Connection, RedisError> {
    redis::Client::open(format!("redis://127.0.0.1:{port}/?protocol={protocol}"))?.get_connection()
}

/// A client of whatever server listens on a port; None where there is none.
pub fn connect(port: u16) -> Option<Client> {
    let connection = open(port, "resp2").ok()?;
    connection.set_read_timeout(Some(PATIENCE)).ok()?;
    Some(Client { connection })
}

fn log_of(folder: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(folder.join("server.log")).unwrap_or_default()).into_owned()
}

// ---------------------------------------------------------------------------------------------- clients

/// One connection, in words: `client.call(&["DEPLOY.PAUSE", "agent-api"])`.
pub struct Client {
    connection: Connection,
}

impl Client {
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

    /// What a coordinator does for every task that is open now; how many there were.
    pub fn carry_out_tasks(&mut self, key: &str) -> usize {
        let tasks = self.tasks(key);
        for task in &tasks {
            let states: &[&str] = if task["task"] == "stop" { &["stopped"] } else { &["starting", "ready"] };
            let version = task["version"].to_string();
            let of = ["VERSION", &version, "JOB", string(&task["job_id"])];
            for state in states {
                self.call(&[&["DEPLOY.REPORT", key, string(&task["agent"]), state], &of[..]].concat());
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
        self.deploy(key, &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "0"]);
        self.carry_out_until(key, "successful");
        let ms = min_healthy_ms.to_string();
        self.deploy(key, &manifest(&AGENTS, "large"), &["MIN_HEALTHY_MS", &ms]);
        self.carry_out_tasks(key);
        self.status(key)
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

    /// How much this primary has given to its replicas.
    pub fn replication_offset(&mut self) -> u64 {
        self.info("replication", "master_repl_offset").parse().expect("an offset")
    }
}

fn shown<A: AsRef<[u8]>>(words: &[A]) -> String {
    let cut = |word: &A| String::from_utf8_lossy(word.as_ref()).chars().take(80).collect::<String>();
    words.iter().map(cut).collect::<Vec<_>>().join(" ")
}

// ---------------------------------------------------------------------------------------------- replies

pub fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::VerbatimString { text, .. } => text.clone(),
        Value::Okay => "OK".into(),
        other => panic!("not a text: {other:?}"),
    }
}

pub fn int(value: &Value) -> i64 {
    match value {
        Value::Int(number) => *number,
        other => panic!("not an integer: {other:?}"),
    }
}

pub fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        other => panic!("not an array: {other:?}"),
    }
}

pub fn string(json: &Json) -> &str {
    json.as_str().unwrap_or_else(|| panic!("not a string: {json}"))
}

pub fn number(json: &Json) -> u64 {
    json.as_u64().unwrap_or_else(|| panic!("not a number: {json}"))
}

pub fn array(json: &Json) -> &Vec<Json> {
    json.as_array().unwrap_or_else(|| panic!("not an array: {json}"))
}

/// A map reply by its names: a map in RESP3, a flat array of names and values in RESP2.
#[derive(Debug, Clone, PartialEq)]
pub struct Fields(pub Vec<(String, Value)>);

impl Fields {
    pub fn of(value: &Value) -> Fields {
        match value {
            Value::Map(pairs) => Fields(pairs.iter().map(|(name, value)| (text(name), value.clone())).collect()),
            Value::Array(flat) => {
                assert!(flat.len().is_multiple_of(2), "a flat map has names and values: {flat:?}");
                Fields(flat.chunks(2).map(|pair| (text(&pair[0]), pair[1].clone())).collect())
            }
            other => panic!("not a map: {other:?}"),
        }
    }

    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    pub fn get(&self, name: &str) -> &Value {
        let found = self.0.iter().find(|(field, _)| field == name);
        &found.unwrap_or_else(|| panic!("no field {name} in {:?}", self.names())).1
    }

    pub fn text(&self, name: &str) -> String {
        text(self.get(name))
    }

    pub fn int(&self, name: &str) -> i64 {
        int(self.get(name))
    }
}

/// A reply in the shape that RESP2 gives it: maps as flat arrays.
pub fn flattened(value: &Value) -> Value {
    match value {
        Value::Map(pairs) => Value::Array(pairs.iter().flat_map(|(k, v)| [flattened(k), flattened(v)]).collect()),
        Value::Array(items) => Value::Array(items.iter().map(flattened).collect()),
        other => other.clone(),
    }
}

/// A RESP3 reply as the JSON form of the same command would give it, but for booleans, which are 0 and 1 here.
pub fn as_json(value: &Value) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Int(number) => (*number).into(),
        Value::Array(items) => items.iter().map(as_json).collect(),
        Value::Map(pairs) => Json::Object(pairs.iter().map(|(name, value)| (text(name), as_json(value))).collect()),
        other => text(other).into(),
    }
}

/// A JSON form with its booleans as 0 and 1.
pub fn with_numbers_for_booleans(json: &Json) -> Json {
    match json {
        Json::Bool(yes) => u64::from(*yes).into(),
        Json::Array(items) => items.iter().map(with_numbers_for_booleans).collect(),
        Json::Object(fields) => {
            Json::Object(fields.iter().map(|(name, value)| (name.clone(), with_numbers_for_booleans(value))).collect())
        }
        other => other.clone(),
    }
}

pub fn names_of(json: &Json) -> Vec<&str> {
    json.as_object().unwrap_or_else(|| panic!("not an object: {json}")).keys().map(String::as_str).collect()
}

// ---------------------------------------------------------------------------------------------- subscribers

/// Collects the events of all channels that match, in the order in which they come.
pub struct Subscriber {
    received: Arc<Mutex<Vec<Json>>>,
    publish: &'static str,
}

impl Subscriber {
    /// Is subscribed when this returns. Ends with the server.
    pub fn start(server: &Server, pattern: &str) -> Subscriber {
        Subscriber::listen(server, "PSUBSCRIBE", pattern, "PUBLISH")
    }

    /// To one channel, of sharded pub/sub.
    pub fn start_sharded(server: &Server, channel: &str) -> Subscriber {
        Subscriber::listen(server, "SSUBSCRIBE", channel, "SPUBLISH")
    }

    fn listen(server: &Server, subscribe: &str, to: &str, publish: &'static str) -> Subscriber {
        let mut connection = open(server.port, "resp2").expect("a connection");
        connection.send_packed_command(&redis::cmd(subscribe).arg(to).get_packed_command()).expect("sent");
        let first = connection.recv_response().unwrap_or_else(|error| panic!("{subscribe} {to}: {error}"));
        assert_eq!(text(&items(&first)[0]), subscribe.to_lowercase());
        let received = Arc::new(Mutex::new(Vec::new()));
        let into = received.clone();
        std::thread::spawn(move || {
            while let Ok(message) = connection.recv_response() {
                let parts = items(&message);
                if text(&parts[0]).ends_with("message") {
                    let payload = text(parts.last().expect("a message has a payload"));
                    let event = serde_json::from_str(&payload).expect("an event is JSON");
                    into.lock().expect("no holder panics").push(event);
                }
            }
        });
        Subscriber { received, publish }
    }

    pub fn events(&self) -> Vec<Json> {
        self.received.lock().expect("no holder panics").clone()
    }

    pub fn wait_for_event(&self, what: &str, is: impl Fn(&Json) -> bool) -> Json {
        wait_for(what, || self.events().into_iter().find(&is))
    }

    /// Everything published before this call: a message of our own, sent after it all, closes the list.
    pub fn events_until_now(&self, publisher: &mut Client, channel: &str) -> Vec<Json> {
        static MARKS: AtomicU64 = AtomicU64::new(0);
        let mark = serde_json::json!({ "mark": MARKS.fetch_add(1, Ordering::Relaxed) });
        publisher.call(&[self.publish, channel, &mark.to_string()]);
        self.wait_for_event("a message of our own", |event| *event == mark);
        self.events().into_iter().take_while(|event| *event != mark).filter(|e| e.get("mark").is_none()).collect()
    }
}

// ---------------------------------------------------------------------------------------------- manifests

/// A service of agents that run `model`, all of one node each and in a chain.
pub fn manifest(agents: &[&str], model: &str) -> String {
    let nodes: Vec<Json> = agents
        .iter()
        .map(|agent| serde_json::json!({ "node_id": agent, "agent_type": "executor", "config": { "model": model } }))
        .collect();
    let edges: Vec<Json> = agents
        .windows(2)
        .map(|pair| serde_json::json!({ "from_node": pair[0], "to_node": pair[1], "message_type": "done" }))
        .collect();
    serde_json::json!({ "type": "service", "nodes": nodes, "edges": edges, "entrypoints": [agents[0]] }).to_string()
}

pub const AGENTS: [&str; 3] = ["agent-1", "agent-2", "agent-3"];

/// Verdicts soon, deadlines never.
pub const QUICK: [&str; 2] = ["MIN_HEALTHY_MS", "50"];
/// Verdicts not within a test.
pub const SLOW: [&str; 2] = ["MIN_HEALTHY_MS", "200000"];
