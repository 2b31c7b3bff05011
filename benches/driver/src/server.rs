//! Servers of the benchmark: those of the tests, with the baseline module beside the module, and killed with this
//! process.

use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use test_support::resp::Conn;
use test_support::server::{End, Launcher, Server as TestServer, ServerKind};
pub use test_support::wait::wait_for;

/// The address and process of a server, for clients that measure its CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub port: u16,
    pub pid: u32,
}

impl Target {
    pub fn conn(self) -> Conn {
        Conn::to(self.port)
    }

    /// Returns the CPU time of all threads so far, in ns. `utime` and `stime` of the kernel count in steps of 10 ms.
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
    server: TestServer,
}

impl Server {
    /// Starts a server with the module and the baseline module; `extra` are further arguments.
    pub fn start(extra: &[&str]) -> Server {
        let baseline = std::env::current_exe().expect("this program has a path").with_file_name("libfloor.so");
        // Slow subscribers are part of what is measured, and not to be disconnected.
        let limits = [
            &["--client-output-buffer-limit", "pubsub", "0", "0", "0"][..],
            &["--client-output-buffer-limit", "replica", "0", "0", "0"],
        ];
        let launcher = Launcher::new(ServerKind::Redis70).args(&limits.concat()).args(extra);
        let server = launcher.further_module(baseline).prepare(end_with_this_thread).start();
        Server { target: Target { port: server.port, pid: server.pid() }, server }
    }

    /// Kills it and starts it again in the same folder.
    pub fn restart(&mut self) {
        self.server.restart(End::Kill);
        self.target.pid = self.server.pid();
    }

    pub fn replicate_from(&self, primary: &Server) {
        self.server.replicate_from(&primary.server);
    }
}

impl Deref for Server {
    type Target = TestServer;

    fn deref(&self) -> &TestServer {
        &self.server
    }
}

/// Lets the kernel kill the server when the thread that started it ends, which is the main one here.
fn end_with_this_thread(command: &mut Command) {
    // SAFETY: between fork and exec, only a system call that touches no memory.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}
