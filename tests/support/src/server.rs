//! The launcher of real servers with the module.
//!
//! The library under test is the one that `cargo build --release` made, or that `REDIS_DEPLOY_MODULE` names.

use crate::client::{connect, Client};
use crate::resp::Conn;
use crate::wait::{wait_for, wait_until};
use std::net::TcpListener;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// The distribution's own `redis-server`, 7.0 on Debian 12.
    Redis70,
    Redis80,
    Redis82,
    Redis86,
    Valkey80,
    Valkey81,
    Valkey91,
}

impl ServerKind {
    pub const ALL: [ServerKind; 7] = [
        ServerKind::Redis70,
        ServerKind::Redis80,
        ServerKind::Redis82,
        ServerKind::Redis86,
        ServerKind::Valkey80,
        ServerKind::Valkey81,
        ServerKind::Valkey91,
    ];

    pub fn name(self) -> &'static str {
        match self {
            ServerKind::Redis70 => "redis-7.0",
            ServerKind::Redis80 => "redis-8.0",
            ServerKind::Redis82 => "redis-8.2",
            ServerKind::Redis86 => "redis-8.6",
            ServerKind::Valkey80 => "valkey-8.0",
            ServerKind::Valkey81 => "valkey-8.1",
            ServerKind::Valkey91 => "valkey-9.1",
        }
    }

    /// Returns the path of the binary, if this machine has it. `REDIS_DEPLOY_SERVERS` lists servers as `name=path,…`.
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

/// Runs a test on every available server, and fails with the names of those on which it failed.
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

/// Returns the library under test. Panics where it is older than its sources.
pub fn module_path() -> PathBuf {
    if let Some(path) = std::env::var_os("REDIS_DEPLOY_MODULE") {
        return path.into();
    }
    let root = crate::repository();
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
    let newest_of = |entry: std::fs::DirEntry| match entry.file_type().ok()?.is_dir() {
        true => newest_source(&entry.path()),
        false => Some((entry.path(), entry.metadata().ok()?.modified().ok()?)),
    };
    entries.filter_map(newest_of).max_by_key(|(_, changed)| *changed)
}

/// The way in which a server is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SHUTDOWN SAVE: with an RDB file.
    Save,
    /// SHUTDOWN NOSAVE: with what the append-only file has.
    NoSave,
    /// SIGKILL.
    Kill,
}

/// Returns a free port below the range from which the system draws by itself, so that it stays free over a restart.
/// Each process begins at another one; a port in use is passed over.
pub fn next_port() -> u16 {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    loop {
        let offset = u64::from(std::process::id()) * 577 + DRAWN.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (offset % 20_000) as u16;
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

/// The command line of a server, from which it is started and restarted.
#[derive(Debug, Clone)]
pub struct Launcher {
    kind: ServerKind,
    args: Vec<String>,
    further_modules: Vec<PathBuf>,
    prepare: fn(&mut Command),
}

impl Launcher {
    pub fn new(kind: ServerKind) -> Launcher {
        Launcher { kind, args: Vec::new(), further_modules: Vec::new(), prepare: |_| () }
    }

    /// Adds arguments, such as `["--appendonly", "yes"]`.
    pub fn args(mut self, args: &[&str]) -> Launcher {
        self.args.extend(args.iter().map(|arg| arg.to_string()));
        self
    }

    /// Adds a module that is loaded beside the one under test.
    pub fn further_module(mut self, library: PathBuf) -> Launcher {
        self.further_modules.push(library);
        self
    }

    /// Sets a function that is given the command before each start.
    pub fn prepare(mut self, prepare: fn(&mut Command)) -> Launcher {
        self.prepare = prepare;
        self
    }

    /// Starts a server in a folder of its own, on a free port.
    pub fn start(self) -> Server {
        let folder = new_folder();
        for _ in 0..5 {
            let port = next_port();
            let mut child = self.spawn(port, &folder);
            if is_ready(&mut child, port) {
                return Server { kind: self.kind, port, folder, launcher: self, child };
            }
            let _ = child.kill();
            let _ = child.wait();
            if !log_of(&folder).contains("Address already in use") {
                break;
            }
        }
        panic!("{} did not start:\n{}", self.kind.name(), log_of(&folder));
    }

    fn spawn(&self, port: u16, folder: &Path) -> Child {
        let binary = self.kind.binary().unwrap_or_else(|| panic!("{} is not on this machine", self.kind.name()));
        let mut command = Command::new(&binary);
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--logfile", "server.log", "--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0"])
            // No pings between primary and replica: only writes move the offsets.
            .args(["--repl-ping-replica-period", "3600", "--repl-timeout", "7200"])
            .arg("--dir")
            .arg(folder)
            .args(&self.args)
            .arg("--loadmodule")
            .arg(module_path())
            .args(module_arguments());
        for library in &self.further_modules {
            command.arg("--loadmodule").arg(library);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        (self.prepare)(&mut command);
        command.spawn().unwrap_or_else(|error| panic!("{}: {error}", binary.display()))
    }
}

/// A server with the module in a folder of its own. It is killed when this is dropped.
pub struct Server {
    pub kind: ServerKind,
    pub port: u16,
    pub folder: PathBuf,
    launcher: Launcher,
    child: Child,
}

impl Server {
    /// Starts a server with the module; `extra` are further arguments, such as `["--appendonly", "yes"]`.
    pub fn start(kind: ServerKind, extra: &[&str]) -> Server {
        Launcher::new(kind).args(extra).start()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the argument behind an option of its command line.
    pub fn argument(&self, option: &str) -> Option<&str> {
        let position = self.launcher.args.iter().position(|arg| arg == option)?;
        self.launcher.args.get(position + 1).map(String::as_str)
    }

    /// Ends the server and starts it again with the same arguments and files.
    pub fn restart(&mut self, end: End) {
        self.restart_after(end, || ());
    }

    /// Like [`Server::restart`], with an action in between, while the server is down.
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
                // Only a refused SHUTDOWN is answered.
                if let Err(error) = self.client().try_call(&["SHUTDOWN", how]) {
                    assert!(!error.starts_with("ERR"), "SHUTDOWN {how}: {error}");
                }
            }
        }
        wait_until("the server to end", || self.child.try_wait().expect("our own child").is_some());
    }

    /// Returns a client, or None where the server takes no connections.
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
        Client::open(self.port, protocol).unwrap_or_else(|error| panic!("no connection: {error}\n{}", self.log()))
    }

    /// Returns a connection below the level of a client library.
    pub fn conn(&self) -> Conn {
        Conn::to(self.port)
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

    /// Compares all that this replica holds and replies with its primary's, while writes are paused.
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
        for counted in
            [&statuses[..], &["timers_armed", "tasks_outstanding", "instances_draining", "instances_standby"]].concat()
        {
            let field = format!("deploy_{counted}");
            assert_eq!(ours.info("deploy", &field), theirs.info("deploy", &field), "{field}");
        }
        theirs.call(&["CLIENT", "UNPAUSE"]);
    }

    /// Kills it, for good.
    pub fn kill(&mut self) {
        self.end(End::Kill);
    }

    /// Sends our own child a signal, such as `STOP`.
    pub fn signal(&self, name: &str) {
        // The shell's own kill: not every system has a program of that name.
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Waits for it to end by itself, and returns its exit status.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        wait_for("the server to end", || self.child.try_wait().expect("our own child"))
    }

    /// Starts it again, on the same port and in the same folder, after it has ended.
    pub fn start_again(&mut self) {
        assert!(!self.is_alive(), "it has not ended");
        self.child = self.launcher.spawn(self.port, &self.folder);
        assert!(is_ready(&mut self.child, self.port), "it did not start again:\n{}", self.log());
    }

    pub fn log(&self) -> String {
        log_of(&self.folder)
    }

    /// Returns the append-only file that grows.
    pub fn append_only_file(&self) -> PathBuf {
        let folder = self.folder.join("appendonlydir").read_dir().expect("the append-only folder").flatten();
        let grows = |path: &PathBuf| path.to_string_lossy().ends_with(".incr.aof");
        let mut files: Vec<PathBuf> = folder.map(|entry| entry.path()).filter(grows).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files.remove(0)
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

/// Returns further arguments of the module (`REDIS_DEPLOY_ARGUMENTS`), with which all tests are to pass as well.
fn module_arguments() -> Vec<String> {
    let arguments = std::env::var("REDIS_DEPLOY_ARGUMENTS").unwrap_or_default();
    arguments.split_whitespace().map(str::to_string).collect()
}

/// Waits until our child, and no other process on that port, is up and has loaded its data.
fn is_ready(child: &mut Child, port: u16) -> bool {
    let ours = child.id().to_string();
    let mut ended = false;
    wait_until("the server to answer", || {
        ended = child.try_wait().expect("our own child").is_some();
        let ready = || {
            let mut client = connect(port)?;
            client.try_call(&["PING"]).ok()?;
            Some(client.info("server", "process_id") == ours && client.info("persistence", "loading") == "0")
        };
        ended || ready() == Some(true)
    });
    !ended
}

fn log_of(folder: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(folder.join("server.log")).unwrap_or_default()).into_owned()
}
