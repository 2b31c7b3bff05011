//! Measures redis-deploy: `scripts/bench`, and `benches/README.md` for what is measured and how.
//!
//! Every figure is a ratio to something that ran in the same minute on the same machine, or stands beside one.

mod contest;
mod contestants;
mod points;
mod rollout;
mod server;
mod stream;
mod subscribers;
mod table;

use contest::Sending;
use points::crowd::{self, Crowd};
use points::{memory, reading, reports, saving, timers, wire};
use serde_json::{json, Value as Json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use table::Results;
use test_support::{resp, wait};

const PIPELINED: Sending = Sending::Pipelined(50);

/// What can be asked for by name, in the order in which it is done.
const PARTS: [&str; 11] =
    ["report", "loads", "due", "storm", "memory", "wire", "saving", "reading", "flat", "list", "idle"];
/// Those that share a server with many deployments, which is made for the first of them.
const OF_A_CROWD: [&str; 3] = ["flat", "list", "idle"];

const USAGE: &str = "\
usage: scripts/bench [--quick] [--only NAME]… [--deployments N] [--rounds N] [--json PATH]
  --quick          a smoke run: everything once, briefly and small; its figures say little
  --only NAME      one part; may be given again. Parts, and the points that they are about:
                   report loads (1) flat (2) due storm idle (3) memory flat (4) wire saving (5) reading list (6)
  --deployments N  for flat, list and idle, 1,000,000 unless given
  --rounds N       of each contest, 5 unless given
  --json PATH      where the figures go, target/bench.json unless given";

/// One run.
pub struct Bench {
    quick: bool,
    only: Vec<String>,
    deployments: usize,
    rounds: usize,
    /// Of one contestant's turn.
    time: Duration,
    json: PathBuf,
    results: Results,
}

fn main() {
    // A server with millions of keys loads for longer than those of the tests.
    wait::set_patience(Duration::from_secs(120));
    let mut bench = match options(std::env::args().skip(1)) {
        Ok(bench) => bench,
        Err(complaint) => {
            eprintln!("{complaint}\n{USAGE}");
            std::process::exit(2);
        }
    };
    let (start, load_before) = (Instant::now(), load_average());
    bench.run();
    let mut machine = machine();
    machine["load_average_before"] = load_before.into();
    machine["load_average_after"] = load_average().into();
    machine["took_s"] = start.elapsed().as_secs().into();
    println!("{}", bench.results.markdown());
    let word = |name: &str| machine[name].as_str().map_or_else(|| machine[name].to_string(), str::to_string);
    println!(
        "Measured on {} cores of {}, {}; load average {} before and {} after; {} s.",
        word("cores"),
        word("cpu"),
        word("server"),
        word("load_average_before"),
        word("load_average_after"),
        word("took_s")
    );
    if bench.quick {
        println!("A quick run: small, short and once. Its figures say little.");
    }
    let text = serde_json::to_string_pretty(&bench.results.json(machine)).expect("JSON");
    match std::fs::write(&bench.json, text) {
        Ok(()) => eprintln!("== written to {}", bench.json.display()),
        Err(error) => {
            eprintln!("error: {}: {error}", bench.json.display());
            std::process::exit(1);
        }
    }
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Bench, String> {
    let mut bench = Bench {
        quick: false,
        only: Vec::new(),
        deployments: 0,
        rounds: 0,
        time: Duration::from_millis(400),
        json: "target/bench.json".into(),
        results: Results::default(),
    };
    let number = |text: Option<String>, name: &str| {
        let number = text.and_then(|text| text.replace([',', '_'], "").parse().ok()).filter(|n| *n > 0);
        number.ok_or_else(|| format!("{name} needs a positive number"))
    };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => bench.quick = true,
            "--only" => {
                let name = args.next().filter(|name| PARTS.contains(&name.as_str()));
                bench.only.push(name.ok_or_else(|| format!("--only needs one of {}", PARTS.join(", ")))?);
            }
            "--deployments" => bench.deployments = number(args.next(), &arg)?,
            "--rounds" => bench.rounds = number(args.next(), &arg)?,
            "--json" => bench.json = args.next().ok_or("--json needs a path")?.into(),
            "--help" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            _ => return Err(format!("unknown: {arg}")),
        }
    }
    let or = |given: usize, quick: usize, usual: usize| match given {
        0 if bench.quick => quick,
        0 => usual,
        given => given,
    };
    (bench.deployments, bench.rounds) = (or(bench.deployments, 20_000, 1_000_000), or(bench.rounds, 1, 5));
    if bench.quick {
        bench.time = Duration::from_millis(100);
    }
    Ok(bench)
}

impl Bench {
    fn run(&mut self) {
        let mut crowd = None;
        for part in PARTS {
            if !self.only.is_empty() && !self.only.iter().any(|name| name == part) {
                continue;
            }
            eprintln!("== {part}");
            if OF_A_CROWD.contains(&part) && crowd.is_none() {
                crowd = Some(Crowd::gather(self));
            }
            match (part, &crowd) {
                ("report", _) => reports::report(self),
                ("loads", _) => reports::loads(self),
                ("due", _) => timers::due(self),
                ("storm", _) => timers::storm(self),
                ("memory", _) => memory::memory(self),
                ("wire", _) => wire::wire(self),
                ("saving", _) => saving::saving(self),
                ("reading", _) => reading::reading(self),
                ("flat", Some(crowd)) => crowd::flat(self, crowd),
                ("list", Some(crowd)) => crowd::list(self, crowd),
                ("idle", Some(crowd)) => crowd::idle(self, crowd),
                _ => unreachable!("every part is done above"),
            }
        }
    }
}

// ---- on what it was measured ----------------------------------------------------------------------------------------

fn machine() -> Json {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = read("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:").map(|rest| rest.trim().to_string()));
    let server = server::Server::start(&[]);
    let mut conn = server.conn();
    let version = ["valkey_version", "redis_version"].iter().find_map(|field| {
        let version = conn.info_text("server", field)?;
        Some(format!("{} {version}", field.split('_').next().unwrap_or_default()))
    });
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": cpu.map(|(_, model)| model),
        "memory": memory,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "server": version,
        "allocator": conn.info_text("memory", "mem_allocator"),
    })
}

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or_default().to_string()
}
