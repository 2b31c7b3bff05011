//! Example agent for `examples/coordinator.rs`: a small HTTP service that returns its version. The demo and the tests
//! of the coordinator run it; for the tests it can simulate faults.
//!
//! ```text
//! GET /                      {"version":2,"agent":"web-1","attempt":1}
//! GET /health                200, or 503 if it is unhealthy
//! POST /session/ID[?ms=N]    begins a session, which it holds until DELETE, and for N ms at most; 503 in a drain
//! GET /session/ID            a call within a session; 404 if it does not hold it
//! DELETE /session/ID         ends a session
//! GET /sessions              {"sessions":3}
//! POST /drain                from now on it begins no session, and serves those that it holds
//! POST /resume               ends the drain
//! GET /drains                how often it was told to drain
//! ```
//!
//! SIGUSR1 is the same as `POST /drain`.
//!
//! The coordinator sets its port (`PORT`) and its instance id (`DEPLOY_…`). At SIGTERM it answers open requests and
//! exits. Two further variables come from its manifest:
//!
//! - `AGENT_BEHAVIOUR`: the fault to simulate, see [`Behaviour`];
//! - `AGENT_DIARY`: a directory in which it holds a lock for its slot while it runs. If another process holds the lock,
//!   the agent runs twice: it then writes a file `violation-…` into the directory, and keeps running.

use rustix::fs::{flock, FlockOperation};
use signal_hook::consts::{SIGTERM, SIGUSR1};
use std::collections::BTreeMap;
use std::env;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{exit, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Simulated fault. The values of `AGENT_BEHAVIOUR` are in `from_environment`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Good,
    /// Exits with 3 immediately.
    Exits,
    /// Runs, but never opens its port.
    Hangs,
    /// Opens its port after this many ms.
    StartsAfter(u64),
    /// Opens its port after this many ms, and fails every health check then.
    StartsUnhealthy(u64),
    /// Ignores SIGTERM.
    IgnoresSigterm,
    /// Exits with 4 after this many ms.
    Dies(u64),
    /// Exits with 4 after this many ms in its first attempt only.
    DiesOnce(u64),
    /// Fails every health check.
    Unhealthy,
    /// Fails every health check from its first session on.
    UnhealthyWithSessions,
    /// Exits with 4 once it drains.
    DiesInDrain,
    /// Alternates between healthy and unhealthy every this many ms.
    Flaps(u64),
    /// Has a child in its process group and another in a session of its own; both ignore SIGTERM.
    Parent,
}

impl Behaviour {
    /// Parses `AGENT_BEHAVIOUR`: a name, and a number of ms where the behaviour takes one.
    fn from_environment() -> Behaviour {
        let given = env::var("AGENT_BEHAVIOUR").unwrap_or_else(|_| "good".to_string());
        let (name, ms) = given.split_once(' ').unwrap_or((&given, "100"));
        let ms = ms.parse().unwrap_or_else(|_| panic!("AGENT_BEHAVIOUR: {ms} is not a number of ms"));
        match name {
            "good" => Behaviour::Good,
            "exits" => Behaviour::Exits,
            "hangs" => Behaviour::Hangs,
            "starts-after" => Behaviour::StartsAfter(ms),
            "starts-unhealthy" => Behaviour::StartsUnhealthy(ms),
            "deaf" => Behaviour::IgnoresSigterm,
            "dies" => Behaviour::Dies(ms),
            "dies-once" => Behaviour::DiesOnce(ms),
            "unhealthy" => Behaviour::Unhealthy,
            "unhealthy-with-sessions" => Behaviour::UnhealthyWithSessions,
            "dies-in-drain" => Behaviour::DiesInDrain,
            "flaps" => Behaviour::Flaps(ms),
            "parent" => Behaviour::Parent,
            other => panic!("AGENT_BEHAVIOUR: unknown behaviour {other}"),
        }
    }
}

/// Returns an environment variable, or an empty string.
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// The sessions that it holds.
#[derive(Default)]
struct Sessions {
    /// Their ends at the latest, by id.
    held: BTreeMap<String, Instant>,
    /// True once it has held one.
    had_any: bool,
    is_draining: bool,
    /// Number of times that it was told to drain.
    drains: u32,
}

impl Sessions {
    /// Begins to drain.
    fn drain(&mut self) {
        self.is_draining = true;
        self.drains += 1;
    }

    /// Answers a request about sessions: status and body; None if it is about something else.
    fn answer(&mut self, method: &str, path: &str) -> Option<(&'static str, String)> {
        let now = Instant::now();
        self.held.retain(|_, end| now < *end);
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let done = ("200 OK", String::new());
        Some(match (method, path, path.strip_prefix("/session/")) {
            ("POST", "/drain", _) => {
                self.drain();
                done
            }
            ("POST", "/resume", _) => {
                self.is_draining = false;
                done
            }
            ("GET", "/drains", _) => ("200 OK", self.drains.to_string()),
            ("GET", "/sessions", _) => ("200 OK", format!("{{\"sessions\":{}}}", self.held.len())),
            ("POST", _, Some(id)) if self.is_draining && !self.held.contains_key(id) => {
                ("503 Service Unavailable", "draining\n".to_string())
            }
            ("POST", _, Some(id)) => {
                let ms = query.strip_prefix("ms=").and_then(|ms| ms.parse().ok()).unwrap_or(60_000);
                self.held.insert(id.to_string(), now + Duration::from_millis(ms));
                self.had_any = true;
                ("200 OK", about())
            }
            ("GET", _, Some(id)) if self.held.contains_key(id) => ("200 OK", about()),
            ("DELETE", _, Some(id)) if self.held.remove(id).is_some() => done,
            (_, _, Some(id)) => ("404 Not Found", format!("no session {id}\n")),
            _ => return None,
        })
    }
}

/// Describes this process as JSON.
fn about() -> String {
    let (version, attempt) = (variable("DEPLOY_VERSION"), variable("DEPLOY_ATTEMPT"));
    let agent = variable("DEPLOY_AGENT");
    format!("{{\"version\":{version},\"agent\":\"{agent}\",\"attempt\":{attempt}}}\n")
}

fn main() {
    let behaviour = Behaviour::from_environment();
    let _lock = env::var("AGENT_DIARY").ok().and_then(|folder| lock_slot(Path::new(&folder)));
    if behaviour == Behaviour::Exits {
        exit(3);
    }
    if behaviour == Behaviour::Parent {
        // The children inherit the environment; the first also the process group.
        #[allow(clippy::zombie_processes)] // they are meant to outlive this process
        for program in [&["sh"][..], &["setsid", "sh"]] {
            let mut command = Command::new(program[0]);
            command.args(&program[1..]).args(["-c", "trap '' TERM; exec sleep 600"]);
            command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{program:?}: {error}"));
        }
    }
    let terminated = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, terminated.clone()).expect("a handler for SIGTERM");
    let told_by_signal = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGUSR1, told_by_signal.clone()).expect("a handler for SIGUSR1");
    let sessions: Arc<Mutex<Sessions>> = Arc::default();
    let open_requests = Arc::new(AtomicUsize::new(0));
    if let Behaviour::StartsAfter(ms) | Behaviour::StartsUnhealthy(ms) = behaviour {
        thread::sleep(Duration::from_millis(ms));
    }
    if behaviour != Behaviour::Hangs {
        if let Ok(port) = env::var("PORT") {
            serve(&port, behaviour, open_requests.clone(), sessions.clone());
        }
    }
    let started_at = Instant::now();
    loop {
        thread::sleep(Duration::from_millis(5));
        let age = started_at.elapsed().as_millis() as u64;
        let is_draining = {
            let mut sessions = sessions.lock().expect("no holder panics");
            if told_by_signal.swap(false, Ordering::Relaxed) {
                sessions.drain();
            }
            sessions.is_draining
        };
        let dies = match behaviour {
            Behaviour::DiesInDrain => is_draining,
            Behaviour::Dies(ms) => age >= ms,
            Behaviour::DiesOnce(ms) => age >= ms && variable("DEPLOY_ATTEMPT") == "1",
            _ => false,
        };
        if dies {
            exit(4);
        }
        if terminated.load(Ordering::Relaxed)
            && behaviour != Behaviour::IgnoresSigterm
            && open_requests.load(Ordering::Relaxed) == 0
        {
            exit(0);
        }
    }
}

/// Locks the slot in the diary for as long as the file is open. If it is locked already, records the violation.
fn lock_slot(diary: &Path) -> Option<File> {
    let slot = [variable("DEPLOY_KEY"), variable("DEPLOY_JOB"), variable("DEPLOY_AGENT")].join("~").replace('/', "_");
    let open = |name: &str| OpenOptions::new().create(true).append(true).open(diary.join(name)).expect("the diary");
    let lock = open(&format!("slot-{slot}"));
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return Some(lock);
    }
    let text = format!(
        "v{} attempt {} ran at the same time as another\n",
        variable("DEPLOY_VERSION"),
        variable("DEPLOY_ATTEMPT")
    );
    open(&format!("violation-{slot}")).write_all(text.as_bytes()).expect("the diary");
    None
}

/// Serves HTTP requests, each on its own thread.
fn serve(port: &str, behaviour: Behaviour, open_requests: Arc<AtomicUsize>, sessions: Arc<Mutex<Sessions>>) {
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).unwrap_or_else(|error| {
        eprintln!("port {port}: {error}");
        exit(5)
    });
    let started_at = Instant::now();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            open_requests.fetch_add(1, Ordering::Relaxed);
            let (open_requests, sessions) = (open_requests.clone(), sessions.clone());
            thread::spawn(move || {
                let _ = answer(stream, behaviour, started_at, &sessions); // fails if the caller has disconnected
                open_requests.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
}

/// Answers one request.
fn answer(
    mut stream: TcpStream,
    behaviour: Behaviour,
    started_at: Instant,
    sessions: &Mutex<Sessions>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let (mut request, mut part) = (Vec::new(), [0; 1024]);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part)? {
            0 => return Ok(()),
            read => request.extend_from_slice(&part[..read]),
        }
    }
    let request = String::from_utf8_lossy(&request);
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut sessions = sessions.lock().expect("no holder panics");
    let healthy = match behaviour {
        Behaviour::UnhealthyWithSessions => !sessions.had_any,
        Behaviour::Unhealthy | Behaviour::StartsUnhealthy(_) => false,
        Behaviour::Flaps(ms) => (started_at.elapsed().as_millis() as u64 / ms).is_multiple_of(2),
        _ => true,
    };
    let (status, body) = match (path.starts_with("/health"), healthy) {
        (true, true) => ("200 OK", "healthy\n".to_string()),
        (true, false) => ("503 Service Unavailable", "unhealthy\n".to_string()),
        (false, _) => sessions.answer(method, path).unwrap_or_else(|| ("200 OK", about())),
    };
    drop(sessions);
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}
