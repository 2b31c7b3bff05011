//! Servers of the benchmark's own: on free ports of 127.0.0.1, in temporary folders, ended with it.

use crate::resp::Conn;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// Polls until `condition` gives a value; panics, with what was waited for, after a long time.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Where a server is, for whoever sends it something and asks what that cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub port: u16,
    pub pid: u32,
}

impl Target {
    pub fn conn(self) -> Conn {
        Conn::to(self.port)
    }

    /// CPU time of all threads so far, in ns. The kernel's `utime` and `stime` count in steps of 10 ms; this does not.
    pub fn cpu_ns(self) -> u64 {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.pid));
        let threads = tasks.read_dir().into_iter().flatten().flatten();
        threads.filter_map(|thread| first_number(&thread.path().join("schedstat"))).sum()
    }
}

fn first_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}

pub struct Server {
    pub target: Target,
    pub folder: PathBuf,
    extra: Vec<String>,
    child: Child,
}

fn new_folder() -> PathBuf {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let name = format!("redis-deploy-bench-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr()).expect("a free port").port()
}

/// The library that is measured, and the floor, which was built beside this program.
pub fn modules() -> (PathBuf, PathBuf) {
    let here = std::env::current_exe().expect("this program has a path");
    let floor = here.with_file_name("libfloor.so");
    let module = std::env::var_os("REDIS_DEPLOY_MODULE")
        .map(PathBuf::from)
        .expect("REDIS_DEPLOY_MODULE names the module's library, as scripts/bench does");
    for library in [&module, &floor] {
        assert!(library.is_file(), "there is no {}", library.display());
    }
    (module, floor)
}

fn launch(port: u16, folder: &Path, extra: &[String]) -> Child {
    let (module, floor) = modules();
    let mut command = Command::new(std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into()));
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--logfile", "log"]);
    command.args(["--enable-debug-command", "local", "--port"]).arg(port.to_string()).arg("--dir").arg(folder);
    // Slow subscribers are the benchmark's own doing, and no reason to cut them off.
    command.args(["--client-output-buffer-limit", "pubsub", "0", "0", "0"]);
    command.args(["--client-output-buffer-limit", "replica", "0", "0", "0", "--repl-diskless-sync-delay", "0"]);
    command.arg("--loadmodule").arg(module).arg("--loadmodule").arg(floor).args(extra);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and exec, only a system call that touches no memory. The kernel kills the server when the
    // thread that started it ends, which is the main one here.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command.spawn().expect("a server that can be started: redis-server on the PATH, or REDIS_SERVER")
}

impl Server {
    /// Starts a server with the module and the floor; `extra` are further words of its command line.
    pub fn start(extra: &[&str]) -> Server {
        let folder = new_folder();
        let extra: Vec<String> = extra.iter().map(|word| word.to_string()).collect();
        for _ in 0..5 {
            let port = free_port();
            let child = launch(port, &folder, &extra);
            let target = Target { port, pid: child.id() };
            let mut server = Server { target, folder: folder.clone(), extra: extra.clone(), child };
            if server.answers() {
                return server;
            }
            let _ = server.child.kill();
            let _ = server.child.wait();
            eprintln!("   a server did not start; once more:\n{}", server.log());
        }
        panic!("no server could be started");
    }

    /// Waits until it has loaded its data; false where it ends before, or another process has its port.
    fn answers(&mut self) -> bool {
        wait_for("a server to start", || {
            if self.child.try_wait().ok().flatten().is_some() {
                return Some(false);
            }
            let mut conn = Conn::try_to(self.target.port).ok()?;
            let is_ours = conn.info_text("server", "process_id")? == self.target.pid.to_string();
            Some(is_ours && conn.info("persistence", "loading") == 0.0).filter(|ready| *ready || !is_ours)
        })
    }

    pub fn conn(&self) -> Conn {
        self.target.conn()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Ends it without saving and starts it again in the same folder.
    pub fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = launch(self.target.port, &self.folder, &self.extra);
        self.target.pid = self.child.id();
        assert!(self.answers(), "it did not start again:\n{}", self.log());
    }

    /// Makes `self` a replica and waits until it has everything.
    pub fn replicate_from(&self, primary: &Server) {
        let mut conn = self.conn();
        conn.call(&["REPLICAOF", "127.0.0.1", &primary.target.port.to_string()]);
        wait_for("the replica to be in sync", || {
            (conn.info_text("replication", "master_link_status")? == "up").then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
