//! The reference coordinator: runs the agents of redis-deploy deployments as processes on this host.
//!
//! ```text
//! cargo run --example coordinator -- agent-api                       # the agents of one deployment
//! cargo run --example coordinator -- --match 'shop:*' --agents 'web-*' --redis redis://a/ --redis redis://b/
//! ```
//!
//! `--help` lists the options and the exit codes. How it works, file by file, all under `coordinator/`:
//!
//! | file | |
//! | --- | --- |
//! | `link` | the connection: subscribes, reads records, says what is to be said, finds the primary again |
//! | `host` | the loop: what is, compared with what the records want |
//! | `place`, `life` | an agent in a job, which runs at most once; and one instance of it: process, checks, restarts |
//! | `process`, `store` | processes, and how they are found again; the state directory |
//! | `manifest`, `restart`, `checks` | what a manifest says, and what comes of it |
//! | `record`, `identity` | what is read and said; who is who |
//! | `failpoint` | where a test lets it die |
//!
//! What it promises: an agent never runs twice at once in its job; no process is lost sight of, wherever the
//! coordinator is killed; healthy agents are not touched by the death of the coordinator or of Redis.
//!
//! What it does not do: run batch jobs, follow a Redis Cluster's slots, listen to sharded pub/sub (it reads the records
//! every `--poll-ms` all the same), rotate the agents' logs.

#[path = "coordinator/checks.rs"]
mod checks;
#[path = "coordinator/failpoint.rs"]
mod failpoint;
#[path = "coordinator/reconciler.rs"]
mod host;
#[path = "coordinator/identity.rs"]
mod identity;
#[path = "coordinator/supervisor.rs"]
mod life;
#[path = "coordinator/connection.rs"]
mod link;
#[path = "coordinator/manifest.rs"]
mod manifest;
#[path = "coordinator/options.rs"]
mod options;
#[path = "coordinator/slot.rs"]
mod place;
#[path = "coordinator/process.rs"]
mod process;
#[path = "coordinator/api.rs"]
mod record;
#[path = "coordinator/restart.rs"]
mod restart;
#[path = "coordinator/state_dir.rs"]
mod store;

use clap::Parser;
use host::{Happening, Host};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::cell::RefCell;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::thread;

fn main() -> ExitCode {
    match run(options::Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("coordinator: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: options::Options) -> Result<(), String> {
    let failpoint = failpoint::Failpoint::from_environment()?;
    let store = store::Store::open(&options.state_dir)?;
    let (to_host, inbox) = channel();
    let (to_link, asks) = channel();

    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|error| format!("signals: {error}"))?;
    let tell = to_host.clone();
    thread::spawn(move || {
        for _ in signals.forever() {
            let _ = tell.send(Happening::Shutdown); // it has ended already
        }
    });

    if options.end_with_parent {
        let set = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
        set.map_err(|error| format!("--end-with-parent: {error}"))?;
    }

    let mut host = Host::new(options.clone(), store, failpoint, to_link.clone(), to_host.clone());
    let tell = move |told| {
        let _ = to_host.send(Happening::Told(told)); // the host has ended, and this thread goes with it
    };
    // With --match, a key that was deleted while no coordinator was there is not listed, and its agents may be here.
    let matching = options.matching.as_deref().and_then(|matching| glob::Pattern::new(matching).ok());
    let left_over = host.keys().into_iter().filter(|key| matching.as_ref().is_some_and(|glob| glob.matches(key)));
    let keys = RefCell::new(left_over.collect());
    let link = link::Link { options, asks, to_itself: to_link, tell, keys };
    thread::spawn(move || link.run());
    host.run(&inbox);
    Ok(())
}
