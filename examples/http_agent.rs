//! An agent to be run by `examples/coordinator.rs`: a small HTTP service that says which version of it answers. The
//! demo runs it, and the tests of the coordinator, for which it can also behave badly.
//!
//! ```text
//! GET /         {"version":2,"agent":"web-1","attempt":1}
//! GET /health   200, or 503 where it is sick
//! ```
//!
//! The coordinator tells it its port (`PORT`) and who it is (`DEPLOY_…`). Told to end by SIGTERM it answers what it was
//! asked already, and goes. Two more variables, of its manifest:
//!
//! - `AGENT_BEHAVIOUR`: how it is bad, one of [`Behaviour`];
//! - `AGENT_DIARY`: a folder in which it keeps a lock for its place while it runs. Where another process has that lock,
//!   the same agent runs twice: it writes that down as a file `violation-…` there, and runs on.

use rustix::fs::{flock, FlockOperation};
use signal_hook::consts::SIGTERM;
use std::env;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{exit, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Good,
    /// Exits with 3 at once.
    Exits,
    /// Runs, and never opens its port.
    Hangs,
    /// Takes no notice of SIGTERM.
    Deaf,
    /// Exits with 4 after so many ms.
    Dies(u64),
    /// Exits with 4 after so many ms in its first attempt, and is good afterwards.
    DiesOnce(u64),
    /// Is never healthy.
    Sick,
    /// Healthy and not, in turns of so many ms.
    Flaps(u64),
    /// Has a child in its process group, and another out of it; neither takes notice of SIGTERM.
    Parent,
}

impl Behaviour {
    fn from_environment() -> Behaviour {
        let given = env::var("AGENT_BEHAVIOUR").unwrap_or_else(|_| "good".to_string());
        let (name, ms) = given.split_once(' ').unwrap_or((&given, "100"));
        let ms = ms.parse().unwrap_or_else(|_| panic!("AGENT_BEHAVIOUR: {ms} is no number of ms"));
        match name {
            "good" => Behaviour::Good,
            "exits" => Behaviour::Exits,
            "hangs" => Behaviour::Hangs,
            "deaf" => Behaviour::Deaf,
            "dies" => Behaviour::Dies(ms),
            "dies-once" => Behaviour::DiesOnce(ms),
            "sick" => Behaviour::Sick,
            "flaps" => Behaviour::Flaps(ms),
            "parent" => Behaviour::Parent,
            other => panic!("AGENT_BEHAVIOUR: what is {other}?"),
        }
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

fn main() {
    let behaviour = Behaviour::from_environment();
    let _lock = env::var("AGENT_DIARY").ok().and_then(|folder| only_one(Path::new(&folder)));
    if behaviour == Behaviour::Exits {
        exit(3);
    }
    if behaviour == Behaviour::Parent {
        // The shells, and so the sleeps that take their place, have our environment and our process group.
        #[allow(clippy::zombie_processes)] // they outlive it, which is what they are for
        for program in [&["sh"][..], &["setsid", "sh"]] {
            let mut command = Command::new(program[0]);
            command.args(&program[1..]).args(["-c", "trap '' TERM; exec sleep 600"]);
            command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{program:?}: {error}"));
        }
    }
    let told_to_end = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, told_to_end.clone()).expect("a handler for SIGTERM");
    let busy = Arc::new(AtomicUsize::new(0));
    if behaviour != Behaviour::Hangs {
        if let Ok(port) = env::var("PORT") {
            serve(&port, behaviour, busy.clone());
        }
    }
    let began = Instant::now();
    loop {
        thread::sleep(Duration::from_millis(5));
        let age = began.elapsed().as_millis() as u64;
        let dies = match behaviour {
            Behaviour::Dies(ms) => age >= ms,
            Behaviour::DiesOnce(ms) => age >= ms && variable("DEPLOY_ATTEMPT") == "1",
            _ => false,
        };
        if dies {
            exit(4);
        }
        if told_to_end.load(Ordering::Relaxed) && behaviour != Behaviour::Deaf && busy.load(Ordering::Relaxed) == 0 {
            exit(0);
        }
    }
}

/// Locks its place in the diary, for as long as the file is open.
fn only_one(diary: &Path) -> Option<File> {
    let place = [variable("DEPLOY_KEY"), variable("DEPLOY_JOB"), variable("DEPLOY_AGENT")].join("~").replace('/', "_");
    let open = |name: &str| OpenOptions::new().create(true).append(true).open(diary.join(name)).expect("the diary");
    let lock = open(&format!("place-{place}"));
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return Some(lock);
    }
    let words = format!("v{} attempt {} ran beside another\n", variable("DEPLOY_VERSION"), variable("DEPLOY_ATTEMPT"));
    open(&format!("violation-{place}")).write_all(words.as_bytes()).expect("the diary");
    None
}

fn serve(port: &str, behaviour: Behaviour, busy: Arc<AtomicUsize>) {
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).unwrap_or_else(|error| {
        eprintln!("port {port}: {error}");
        exit(5)
    });
    let began = Instant::now();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            busy.fetch_add(1, Ordering::Relaxed);
            let busy = busy.clone();
            thread::spawn(move || {
                let _ = answer(stream, behaviour, began); // the caller has gone
                busy.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
}

fn answer(mut stream: TcpStream, behaviour: Behaviour, began: Instant) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let (mut request, mut part) = (Vec::new(), [0; 1024]);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part)? {
            0 => return Ok(()),
            read => request.extend_from_slice(&part[..read]),
        }
    }
    let healthy = match behaviour {
        Behaviour::Sick => false,
        Behaviour::Flaps(ms) => (began.elapsed().as_millis() as u64 / ms).is_multiple_of(2),
        _ => true,
    };
    let asks_for_health = request.starts_with(b"GET /health");
    let (status, body) = match (asks_for_health, healthy) {
        (true, true) => ("200 OK", "fine\n".to_string()),
        (true, false) => ("503 Service Unavailable", "sick\n".to_string()),
        (false, _) => {
            let (version, attempt) = (variable("DEPLOY_VERSION"), variable("DEPLOY_ATTEMPT"));
            let who = variable("DEPLOY_AGENT");
            ("200 OK", format!("{{\"version\":{version},\"agent\":\"{who}\",\"attempt\":{attempt}}}\n"))
        }
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}
