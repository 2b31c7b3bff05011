//! Measures redis-deploy: `scripts/bench`, and `docs/benchmarks.md` for what is measured and how.
//!
//! Every figure is a ratio to a variant that ran within the same minute on the same machine, or is printed beside one.

mod compare;
mod rollout;
mod scenarios;
mod server;
mod stream;
mod subscribers;
mod table;
mod variants;

use compare::Load;
use scenarios::scale::{self, ScaleServers};
use scenarios::{memory, reading, reports, saving, timers, wire};
use serde_json::{json, Value as Json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use table::Results;
use test_support::{resp, wait};

const PIPELINED: Load = Load::Pipelined(50);

/// Scenarios by their names for `--only`, in the order in which they run.
const SCENARIOS: [&str; 11] =
    ["report", "loads", "due", "storm", "memory", "wire", "saving", "reading", "flat", "list", "idle"];
/// Scenarios that share the server with many deployments, which is filled for the first of them.
const SCALE_SCENARIOS: [&str; 3] = ["flat", "list", "idle"];

const USAGE: &str = "\
usage: scripts/bench [--quick] [--only NAME]… [--deployments N] [--rounds N] [--json PATH]
  --quick          smoke run: each scenario once, short and small; the figures are not meaningful
  --only NAME      run one scenario; may be repeated. Scenarios:
                   report loads due storm memory wire saving reading flat list idle
  --deployments N  number of deployments for flat, list and idle (default: 1,000,000)
  --rounds N       rounds of each comparison (default: 5)
  --json PATH      output file of the figures (default: target/bench.json)";

/// Options and results of a run.
pub struct Bench {
    quick: bool,
    only: Vec<String>,
    deployments: usize,
    rounds: usize,
    /// Duration of one variant's run in a round.
    time: Duration,
    json: PathBuf,
    results: Results,
}

fn main() {
    // A server with millions of keys loads for longer than those of the tests.
    wait::set_patience(Duration::from_secs(120));
    let mut bench = match options(std::env::args().skip(1)) {
        Ok(bench) => bench,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
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
    let field = |name: &str| machine[name].as_str().map_or_else(|| machine[name].to_string(), str::to_string);
    println!(
        "Measured on {} cores of {}, {}; load average {} before and {} after; {} s.",
        field("cores"),
        field("cpu"),
        field("server"),
        field("load_average_before"),
        field("load_average_after"),
        field("took_s")
    );
    if bench.quick {
        println!("This was a quick run: its figures are not meaningful.");
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

/// Parses the command line.
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
                let name = args.next().filter(|name| SCENARIOS.contains(&name.as_str()));
                bench.only.push(name.ok_or_else(|| format!("--only needs one of {}", SCENARIOS.join(", ")))?);
            }
            "--deployments" => bench.deployments = number(args.next(), &arg)?,
            "--rounds" => bench.rounds = number(args.next(), &arg)?,
            "--json" => bench.json = args.next().ok_or("--json needs a path")?.into(),
            "--help" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            _ => return Err(format!("unknown option {arg}")),
        }
    }
    let or_default = |given: usize, quick: usize, usual: usize| match given {
        0 if bench.quick => quick,
        0 => usual,
        given => given,
    };
    bench.deployments = or_default(bench.deployments, 20_000, 1_000_000);
    bench.rounds = or_default(bench.rounds, 1, 5);
    if bench.quick {
        bench.time = Duration::from_millis(100);
    }
    Ok(bench)
}

impl Bench {
    /// Runs the selected scenarios.
    fn run(&mut self) {
        let mut scale = None;
        for scenario in SCENARIOS {
            if !self.only.is_empty() && !self.only.iter().any(|name| name == scenario) {
                continue;
            }
            eprintln!("== {scenario}");
            if SCALE_SCENARIOS.contains(&scenario) && scale.is_none() {
                scale = Some(ScaleServers::fill(self));
            }
            match (scenario, &scale) {
                ("report", _) => reports::report(self),
                ("loads", _) => reports::loads(self),
                ("due", _) => timers::due(self),
                ("storm", _) => timers::storm(self),
                ("memory", _) => memory::memory(self),
                ("wire", _) => wire::wire(self),
                ("saving", _) => saving::saving(self),
                ("reading", _) => reading::reading(self),
                ("flat", Some(scale)) => scale::flat(self, scale),
                ("list", Some(scale)) => scale::list(self, scale),
                ("idle", Some(scale)) => scale::idle(self, scale),
                _ => unreachable!("every scenario has an arm"),
            }
        }
    }
}

// ---- machine --------------------------------------------------------------------------------------------------------

/// Describes the machine and the server.
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

/// Returns the load average of the last minute.
fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or_default().to_string()
}
