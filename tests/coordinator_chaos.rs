//! Chaos test: after random kills of coordinators, agents and Redis, and new versions in between, the processes match
//! the record, none is left over, and no agent ever ran twice at once.
//!
//! Seeded: `REDIS_DEPLOY_SEED=n` repeats a run, as far as real processes let themselves be repeated.

use serde_json::json;
use std::thread;
use std::time::Duration;
use test_support::prelude::*;
use test_support::processes::*;
use test_support::rng::Rng;

const KEY: &str = "agent-api";
const AGENTS: [&str; 3] = ["web-1", "web-2", "db"];
/// The steps at which a coordinator can be told to die.
const STEPS: [&str; 10] = [
    "task-seen",
    "taken-up",
    "old-told-to-stop",
    "old-gone",
    "note-written",
    "started",
    "start-noted",
    "before-ready",
    "before-stopped",
    "drain-taken-up",
];

struct Chaos {
    server: Server,
    /// They end before their host does, which would find them starting agents anew.
    coordinators: [Option<Coordinator>; 2],
    host: Host,
    rng: Rng,
    versions: u64,
    /// True if both coordinators are given all agents, by mistake, instead of their own.
    overlapping: bool,
}

impl Chaos {
    fn begin(seed: u64, overlapping: bool) -> Chaos {
        let server = Server::start(ServerKind::Redis70, &["--appendonly", "yes", "--appendfsync", "always"]);
        let (host, rng) = (Host::new(), Rng::seeded(seed));
        let mut chaos = Chaos { server, host, coordinators: [None, None], rng, versions: 0, overlapping };
        chaos.deploy();
        chaos
    }

    fn arguments(&self, which: usize) -> (&'static str, [&'static str; 3]) {
        let (name, agents) = [("one", "web-*"), ("two", "db")][which];
        (name, [KEY, "--agents", if self.overlapping { "*" } else { agents }])
    }

    fn deploy(&mut self) {
        self.versions += 1;
        let behaviours = ["good", "good", "deaf", "parent", "exits", "dies-once 300", "hangs", "dies-in-drain"];
        let behaviour = behaviours[self.rng.below(behaviours.len())];
        let config = if self.rng.below(2) == 0 { drains_by_http() } else { json!({}) };
        let app = App { config, ..App::new(&self.host, &AGENTS, behaviour) };
        let manifest = app.manifest(&format!("chaos {}", self.versions));
        let options: [&[&str]; 6] = [
            &[],
            &["CANARY", "1"],
            &["STRATEGY", "blue-green"],
            &["MAX_PARALLEL", "3", "AUTO_REVERT", "true"],
            &["MAX_PARALLEL", "2", "DRAIN_MS", "400"],
            &["STRATEGY", "blue-green", "DRAIN_MS", "400", "BAKE_MS", "200", "AUTO_REVERT", "true"],
        ];
        let limits = ["MIN_HEALTHY_MS", "100", "HEALTHY_DEADLINE_MS", "2000", "PROGRESS_DEADLINE_MS", "3000"];
        let options = [&limits[..], options[self.rng.below(6)]].concat();
        self.server.client().deploy(KEY, &manifest, &options);
    }

    fn start(&mut self, which: usize, dying: bool) {
        let (name, arguments) = self.arguments(which);
        let urls = [url(&self.server)];
        self.coordinators[which] = None; // killed, where it is there still
        self.coordinators[which] = Some(match dying {
            true => {
                let step = STEPS[self.rng.below(STEPS.len())];
                Coordinator::start_failing_at(&self.host, name, &urls, &arguments, step)
            }
            false => Coordinator::start(&self.host, name, &urls, &arguments),
        });
    }

    fn blow(&mut self) {
        match self.rng.below(12) {
            0 | 1 => self.deploy(),
            2..=5 => {
                let (which, dying) = (self.rng.below(2), self.rng.below(2) == 0);
                self.start(which, dying);
            }
            6 | 7 => {
                let agents: Vec<Process> = self.host.agents().into_values().flatten().collect();
                if !agents.is_empty() {
                    agents[self.rng.below(agents.len())].signal("KILL");
                }
            }
            8 => self.server.restart(End::Kill),
            9 => {
                let mut client = self.server.client();
                for kind in ["normal", "pubsub"] {
                    client.call(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
                }
            }
            10 => {
                let _ = self.server.client().try_call(&["DEPLOY.ROLLBACK", KEY]);
                // where there is nothing to go back to
            }
            _ => {
                let _ = self.server.client().try_call(&["DEPLOY.PROMOTE", KEY]);
                // where nothing waits for it
            }
        }
        thread::sleep(Duration::from_millis(self.rng.between(0, 199)));
    }

    /// The weather clears: a good version is deployed, and two coordinators that nobody kills look after it.
    fn end(mut self) {
        self.start(0, false);
        self.start(1, false);
        let mut client = self.server.client();
        let manifest = App { attempts: 9, ..App::new(&self.host, &AGENTS, "good") }.manifest("the last");
        client.deploy(KEY, &manifest, &BRISK);
        let record = wait_for("the last version to run", || {
            let record = client.status(KEY);
            let well = record["status"] == "successful" && client.tasks(KEY).is_empty();
            well.then_some(record)
        });
        if self.overlapping {
            // The one that lost an agent to the other may still be stopping its own.
            wait_until("each agent to run once", || self.host.agents().values().all(|running| running.len() == 1));
        }
        self.host.assert_runs(&record);
        let labels = self.host.agents().into_values().flatten().map(|agent| agent.variable("LABEL"));
        assert!(labels.into_iter().all(|label| label.as_deref() == Some("the last")));
        if self.overlapping {
            client.call(&["DEPLOY.STOP", KEY]);
            wait_until("all agents to be reported stopped", || array(&client.status(KEY)["instances"]).is_empty());
            wait_until("all processes to end", || self.host.processes().is_empty());
        } else {
            self.host.stop(&mut client, KEY);
        }
    }
}

fn run_seeds(overlapping: bool) {
    let asked = std::env::var("REDIS_DEPLOY_SEED").ok().map(|seed| seed.parse().expect("a seed is a number"));
    let (seeds, blows) = if is_long_run() { (1..=40, 120) } else { (1..=2, 40) };
    let seeds: Vec<u64> = asked.map_or(seeds.collect(), |seed| vec![seed]);
    for pair in seeds.chunks(2) {
        thread::scope(|scope| {
            for seed in pair {
                scope.spawn(move || {
                    eprintln!("REDIS_DEPLOY_SEED={seed}");
                    let mut chaos = Chaos::begin(*seed, overlapping);
                    for _ in 0..blows {
                        chaos.blow();
                    }
                    chaos.end();
                });
            }
        });
    }
}

#[test]
fn processes_match_the_record_after_random_faults() {
    run_seeds(false);
}

/// Agents may run twice for a while here. In the end each runs once, and no process is left over.
#[test]
fn coordinators_with_the_same_agents_agree_after_random_faults() {
    run_seeds(true);
}
