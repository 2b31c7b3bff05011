//! Simulation of the engine: seeded worlds of operators, coordinators, agents and clocks, all with faults. The rules
//! (`simulation/rules.rs`) are checked after every event. `scripts/simulate N [SEED]` runs N seeds.

mod simulation;

use redis_deploy::engine::event::EVENT_NAMES;
use simulation::{bakes, drains, format, shrink, world};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

/// Number of seeds that a plain `cargo test` simulates.
const SEEDS: u64 = 20_000;
/// Number of failures that are printed; the others are counted.
const TOLD: usize = 1;

/// Modes that must occur in a thousand worlds, as every type of event must.
const MODES: [&str; 4] = ["initial", "in_place", "blue_green", "switch_back"];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.trim().parse().ok()
}

#[test]
fn every_rule_holds_in_simulated_worlds() {
    let first = number("SIMULATE_SEED").unwrap_or(1);
    let count = number("SIMULATE_SEEDS").unwrap_or(SEEDS);
    let all = number("SIMULATE_ALL").is_some_and(|n| n > 0);
    let threads = number("SIMULATE_THREADS")
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(2, |n| n.get() as u64));
    let next = AtomicU64::new(first);
    let lived = Mutex::new(world::Lived::default());
    let failures = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed - first >= count {
                    return;
                }
                match std::panic::catch_unwind(|| world::live(seed, &BTreeSet::new())) {
                    Ok(Ok(this)) => {
                        let mut lived = lived.lock().expect("no thread panics with it");
                        lived.inputs += this.inputs;
                        for (name, n) in this.events {
                            *lived.events.entry(name).or_default() += n;
                        }
                    }
                    Ok(Err(failure)) => {
                        failures.lock().expect("no thread panics with it").insert(seed, Some(*failure));
                    }
                    Err(_) => {
                        failures.lock().expect("no thread panics with it").insert(seed, None);
                    }
                }
                if !all && !failures.lock().expect("no thread panics with it").is_empty() {
                    return;
                }
            });
        }
    });
    let failures = failures.into_inner().expect("all threads have ended");
    let lived = lived.into_inner().expect("all threads have ended");
    println!("{count} seeds from {first}, {} inputs, {} failures", lived.inputs, failures.len());
    let counted: Vec<String> = lived.events.iter().map(|(name, n)| format!("{name} {n}")).collect();
    println!("what happened: {}", counted.join(", "));
    let mut by_rule: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (seed, failure) in &failures {
        by_rule.entry(failure.as_ref().map_or("panic", |f| f.broken.rule)).or_default().push(*seed);
    }
    for (rule, seeds) in &by_rule {
        println!("  {rule}: {} seeds, first {}", seeds.len(), seeds[0]);
    }
    let mut told = BTreeSet::new();
    for (seed, failure) in &failures {
        let Some(failure) = failure else {
            println!("\nseed {seed} panics");
            continue;
        };
        if (all && !told.insert(failure.broken.rule)) || (!all && told.len() >= TOLD) {
            continue;
        }
        told.insert(failure.broken.rule);
        let shortest = shrink::shorten(*seed, failure.clone());
        println!("\nseed {seed} breaks the rule {}: {}", shortest.failure.broken.rule, shortest.failure.broken.words);
        if !shortest.alone {
            println!("(the world around these inputs matters: what its processes do is part of the seed)");
        }
        for input in &shortest.failure.history {
            println!("  {}", format::line(input));
        }
        println!("run it again: scripts/simulate 1 {seed}");
    }
    assert!(failures.is_empty(), "{} of {count} seeds fail; see above", failures.len());
    // Rules about what never happens hold of themselves.
    for name in EVENT_NAMES.iter().chain(&MODES).chain(&drains::SITUATIONS).chain(&bakes::SITUATIONS) {
        assert!(count < 1_000 || lived.events.contains_key(*name), "{name} never happened");
    }
}
