//! Reference coordinator: runs the agents of redis-deploy deployments as processes on this host.
//!
//! ```text
//! cargo run --example coordinator -- agent-api                       # the agents of one deployment
//! cargo run --example coordinator -- --match 'shop:*' --agents 'web-*' --redis redis://a/ --redis redis://b/
//! ```
//!
//! `--help` lists the options and the exit codes. Modules, all under `coordinator/`:
//!
//! | module | purpose |
//! | --- | --- |
//! | `connection` | Redis client: subscribes, reads records, sends updates, reconnects to the primary |
//! | `reconciler` | main loop: compares the processes on this host with the records and removes the differences |
//! | `slot` | an agent in a job, of which at most one process runs at a time |
//! | `supervisor` | one instance: its process, checks and restarts |
//! | `process` | starting, finding, watching and ending processes |
//! | `state_dir` | files that survive the coordinator: instance state, slot locks, logs |
//! | `manifest`, `restart`, `checks` | manifest parsing, restart policy, health checks |
//! | `drain` | telling a process to drain, and the number of its sessions |
//! | `api`, `identity` | replies and commands of the module, identifiers of instances |
//! | `options` | command line |
//! | `failpoint` | steps at which a test makes the coordinator kill itself |
//!
//! Guarantees, as long as no other coordinator has the same agents: an agent never runs twice at the same time in its
//! job; no process is lost, at whatever moment the coordinator is killed; the death of the coordinator or of Redis does
//! not affect healthy agents. `docs/coordinators.md` says what happens otherwise, and lists the fields of manifests.
//!
//! Not implemented: batch jobs, following the slots of a Redis Cluster, sharded pub/sub (records are still read every
//! `--poll-ms`), rotation of the agents' logs.

#[path = "coordinator/api.rs"]
mod api;
#[path = "coordinator/checks.rs"]
mod checks;
#[path = "coordinator/connection.rs"]
mod connection;
#[path = "coordinator/drain.rs"]
mod drain;
#[path = "coordinator/failpoint.rs"]
mod failpoint;
#[path = "coordinator/identity.rs"]
mod identity;
#[path = "coordinator/manifest.rs"]
mod manifest;
#[path = "coordinator/options.rs"]
mod options;
#[path = "coordinator/process.rs"]
mod process;
#[path = "coordinator/reconciler.rs"]
mod reconciler;
#[path = "coordinator/restart.rs"]
mod restart;
#[path = "coordinator/slot.rs"]
mod slot;
#[path = "coordinator/state_dir.rs"]
mod state_dir;
#[path = "coordinator/supervisor.rs"]
mod supervisor;

use clap::Parser;
use reconciler::{Event, Reconciler};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::cell::RefCell;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::thread;

/// Exit code after a panic in any thread.
const PANIC_EXIT_CODE: i32 = 101;

fn main() -> ExitCode {
    exit_on_panic();
    match run(options::Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coordinator: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Has a panic in any thread end the process. Without the thread of its connection, for instance, a coordinator would
/// continue to run and hear nothing. Its agents keep running, and the next coordinator takes them over.
fn exit_on_panic() {
    let print_panic = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print_panic(panic);
        eprintln!("coordinator: exits after a panic; agents keep running");
        std::process::exit(PANIC_EXIT_CODE);
    }));
}

/// Runs the coordinator until a signal ends it.
fn run(options: options::Options) -> Result<(), String> {
    let failpoint = failpoint::Failpoint::from_environment()?;
    for url in &options.redis {
        redis::Client::open(url.as_str())
            .map_err(|error| format!("--redis {}: {error}", connection::without_password(url)))?;
    }
    let state_dir = state_dir::StateDir::open(&options.state_dir)?;
    let (to_reconciler, events) = channel();
    let (to_connection, requests) = channel();

    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|error| format!("signals: {error}"))?;
    let sender = to_reconciler.clone();
    thread::spawn(move || {
        for _ in signals.forever() {
            let _ = sender.send(Event::Shutdown); // fails only after the reconciler has returned
        }
    });

    if options.end_with_parent {
        let set = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
        set.map_err(|error| format!("--end-with-parent: {error}"))?;
    }

    let mut reconciler =
        Reconciler::new(options.clone(), state_dir, failpoint, to_connection.clone(), to_reconciler.clone());
    let notify = move |event| {
        let _ = to_reconciler.send(Event::Connection(event)); // fails only while the process exits
    };
    // DEPLOY.LIST does not list a key that was deleted while no coordinator ran, but its agents may still run here.
    let matching = options.matching.as_deref().and_then(|matching| glob::Pattern::new(matching).ok());
    let left_over = reconciler.keys().into_iter().filter(|key| matching.as_ref().is_some_and(|glob| glob.matches(key)));
    let keys = RefCell::new(left_over.collect());
    let connection = connection::RedisConnection { options, requests, to_self: to_connection, notify, failpoint, keys };
    thread::spawn(move || connection.run());
    reconciler.run(&events);
    Ok(())
}
