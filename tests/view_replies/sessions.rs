//! RESOLVE with SESSION and VERSION (rule 11): where sessions go, and stay.

use crate::json::value;
use redis_deploy::engine::sessions::bucket;
use redis_deploy::view::{self, ResolveFilter};
use std::collections::BTreeMap;
use std::sync::Arc;
use test_support::scenario::World;

const SESSIONS: u64 = 2_000;

/// A world with an app of these agents, each with one service `web-<agent>`, after the given lines.
fn world(agents: &[&str], lines: &[&str]) -> World {
    let mut world = World::default();
    world.run("policy MIN_HEALTHY_MS 1000 HEALTHY_DEADLINE_MS 5000 PROGRESS_DEADLINE_MS 10000");
    for (name, image) in [("v1", ""), ("v2", "=2")] {
        let nodes: Vec<String> = agents.iter().map(|agent| format!("{agent}{image}")).collect();
        world.run(&format!("manifest {name} = service {}", nodes.join(" ")));
    }
    world.run("given v1");
    for agent in agents {
        world.run(&format!("@1000 REGISTER {agent} http INSTANCE web-{agent} VERSION 1"));
    }
    lines.iter().for_each(|line| drop(world.run(line)));
    world
}

fn resolved(world: &World, filter: ResolveFilter) -> Vec<String> {
    let entries = value(&view::resolve(world.expect_record(), "app", &filter));
    let entries = entries.as_array().expect("a list");
    entries.iter().filter_map(|e| e["instance"].as_str().map(str::to_string)).collect()
}

/// The place of a session, at most one.
fn place(world: &World, session: &str, version: Option<u64>) -> Option<String> {
    let session = Some(Arc::from(session.as_bytes()));
    let mut places = resolved(world, ResolveFilter { session, version, ..ResolveFilter::default() });
    assert!(places.len() <= 1, "{places:?}");
    places.pop()
}

/// The agent of each session, by number.
fn agents(world: &World, sessions: u64) -> Vec<Arc<str>> {
    let record = world.expect_record();
    let agent = |n: u64| {
        let session = Some(Arc::from(format!("session-{n}").as_bytes()));
        let resolved = view::resolve(record, "app", &ResolveFilter { session, ..ResolveFilter::default() });
        let agent = resolved.entries().next().map(|entry| Arc::from(entry.agent));
        agent.expect("a place")
    };
    (0..sessions).map(agent).collect()
}

fn places(world: &World) -> BTreeMap<u64, String> {
    (0..SESSIONS).map(|n| (n, place(world, &format!("session-{n}"), None).expect("a place"))).collect()
}

/// Frozen: another hash would move sessions between agents.
#[test]
fn sessions_go_where_the_frozen_hash_sends_them() {
    let world = world(&["a", "b", "c"], &[]);
    let places: Vec<_> = (0..12).map(|n| place(&world, &format!("session-{n}"), None).expect("a place")).collect();
    let expected = ["c", "c", "b", "c", "b", "b", "a", "a", "b", "c", "c", "a"].map(|agent| format!("web-{agent}"));
    assert_eq!(places, expected);
}

#[test]
fn agents_have_about_equal_shares_and_only_the_share_of_a_lost_one_moves() {
    let mut world = world(&["a", "b", "c", "d"], &[]);
    let before = places(&world);
    let mut shares: BTreeMap<&String, u64> = BTreeMap::new();
    before.values().for_each(|place| *shares.entry(place).or_default() += 1);
    assert_eq!(shares.len(), 4);
    assert!(shares.values().all(|share| (SESSIONS / 5..SESSIONS / 3).contains(share)), "{shares:?}");
    world.run("@2000 CHECK web-b critical");
    let without = places(&world);
    for (session, place) in &before {
        match place.as_str() {
            "web-b" => assert_ne!(without[session], "web-b"),
            place => assert_eq!(without[session], place),
        }
    }
    world.run("@3000 CHECK web-b passing");
    assert_eq!(places(&world), before, "it gets its own share back");
}

/// Checks that each agent has its share of 100,000 sessions, within half a point, and that an agent that leaves moves
/// no session but its own.
#[test]
fn one_of_five_agents_moves_its_share_at_most() {
    let mut world = world(&["a", "b", "c", "d", "e"], &[]);
    let before = agents(&world, 100_000);
    for agent in ["a", "b", "c", "d", "e"] {
        let share = before.iter().filter(|of| &***of == agent).count();
        assert!(share.abs_diff(20_000) <= 500, "{agent}: {share}");
    }
    world.run("@2000 REPORT c stopped");
    let without = agents(&world, 100_000);
    let moved = || before.iter().zip(&without).filter(|(was, is)| was != is);
    assert!(moved().all(|(was, is)| &**was == "c" && &**is != "c"));
    assert_eq!(moved().count(), before.iter().filter(|agent| &***agent == "c").count());
}

/// Checks that an exposure of so many percent has that share of 100,000 sessions, within half a point, and that a
/// smaller one has none that a larger one has not: raising the exposure moves sessions one way, and lowering it moves
/// the same ones back.
#[test]
fn exposures_have_their_share_and_are_nested() {
    for cohort in ["dep_agent-api_3", "dep_agent-api_4", "blue"] {
        let buckets: Vec<u64> = (0..100_000).map(|n| bucket(cohort, format!("session-{n}").as_bytes())).collect();
        let exposed = |percent: u64| buckets.iter().map(move |bucket| *bucket < percent * 100);
        for percent in 1..=99 {
            let count = exposed(percent).filter(|is| *is).count();
            assert!(count.abs_diff(percent as usize * 1_000) <= 500, "{cohort}: {count} at {percent} %");
            let is_nested = exposed(percent).zip(exposed(percent + 1)).all(|(less, more)| !less || more);
            assert!(is_nested, "{cohort}: {percent} %");
        }
        assert!(exposed(100).all(|is| is), "{cohort}");
    }
}

#[test]
fn a_replaced_agent_gets_its_sessions_back() {
    let mut world = world(&["a", "b"], &[]);
    let before = places(&world);
    world.run("@2000 DEPLOY v2");
    world.run("@2100 REPORT a ready VERSION 2");
    world.run("@2200 REGISTER a http INSTANCE web-a VERSION 2");
    assert_eq!(places(&world), before);
}

/// Among the service instances of one agent, the hash of the instance decides.
#[test]
fn a_session_has_one_of_its_agents_service_instances() {
    let world = world(&["a", "b"], &["@1000 REGISTER a http INSTANCE second-a VERSION 1"]);
    let of_a: Vec<_> = places(&world).into_values().filter(|place| place.ends_with("-a")).collect();
    for id in ["web-a", "second-a"] {
        assert!(of_a.iter().filter(|place| *place == id).count() > of_a.len() / 3, "{id}");
    }
}

/// A blue-green update with a drain: v1 drains, v2 is primary.
const BLUE_GREEN: [&str; 6] = [
    "@2000 DEPLOY v2 STRATEGY blue-green DRAIN_MS 60000",
    "@2100 REPORT a ready VERSION 2",
    "@2100 REPORT b ready VERSION 2",
    "@2200 REGISTER a http INSTANCE new-a VERSION 2",
    "@2200 REGISTER b http INSTANCE new-b VERSION 2",
    "@3200 TICK",
];

#[test]
fn a_session_stays_on_its_version_until_the_drain_of_its_instance_ends() {
    let mut world = world(&["a", "b"], &[]);
    let before = place(&world, "call-1", None).expect("a place");
    BLUE_GREEN.iter().for_each(|line| drop(world.run(line)));
    let after = place(&world, "call-1", None).expect("a place");
    assert_eq!(after.strip_prefix("new-"), before.strip_prefix("web-"), "new ones go to the same agent's new instance");
    assert_eq!(place(&world, "call-1", Some(1)), Some(before.clone()), "the session itself stays");
    let of = |version| ResolveFilter { version: Some(version), ..ResolveFilter::default() };
    assert_eq!(resolved(&world, of(1)), ["web-a", "web-b"]);
    assert_eq!(resolved(&world, of(2)), ["new-a", "new-b"]);
    // Drained, nobody is sent to it; never to another version.
    world.run("@4000 REPORT a drained VERSION 1");
    assert_eq!(resolved(&world, of(1)), ["web-b"]);
    world.run("@4100 REPORT b drained VERSION 1");
    assert_eq!(place(&world, "call-1", Some(1)), None);
    assert_eq!(resolved(&world, ResolveFilter { all: true, ..of(1) }), [""; 0]);
}

#[test]
fn an_unchanged_agent_counts_for_the_newer_version_too() {
    let mut world = world(&["a", "b"], &["manifest only-a = service a=2 b"]);
    world.run("@2000 DEPLOY only-a");
    let of = |version| ResolveFilter { version: Some(version), ..ResolveFilter::default() };
    assert_eq!(resolved(&world, of(2)), ["web-b"], "a would change and is not reached");
    assert_eq!(resolved(&world, of(1)), ["web-a", "web-b"]);
    world.run("@2100 FAIL");
    assert_eq!(resolved(&world, of(2)), ["web-b"], "whatever its end");
}

#[test]
fn a_standby_is_found_by_its_version_and_takes_no_new_session() {
    let mut world = world(&["a", "b"], &[]);
    for line in BLUE_GREEN {
        world.run(&line.replace("DRAIN_MS", "BAKE_MS"));
    }
    let of = |version| ResolveFilter { version: Some(version), ..ResolveFilter::default() };
    assert_eq!(resolved(&world, of(1)), ["web-a", "web-b"]);
    assert!(places(&world).values().all(|place| place.starts_with("new-")));
    world.run("@4000 ROLLBACK");
    assert_eq!(resolved(&world, of(1)), ["web-a", "web-b"]);
    assert_eq!(resolved(&world, of(3)), ["web-a", "web-b"], "what was adopted counts for the rollback too");
    assert!(places(&world).values().all(|place| place.starts_with("web-")));
}

#[test]
fn a_trimmed_version_is_empty_and_an_unknown_one_not_found() {
    let mut world = world(&["a", "b"], &["limits history_max=1"]);
    world.run("@2000 DEPLOY v2 MAX_PARALLEL 2");
    for agent in ["a", "b"] {
        world.run(&format!("@2100 REPORT {agent} ready VERSION 2"));
        world.run(&format!("@2200 REGISTER {agent} http INSTANCE web-{agent} VERSION 2"));
    }
    world.run("@3200 TICK");
    world.run("@3300 DEPLOY v2 MAX_PARALLEL 2 BUNDLE x");
    let record = world.expect_record();
    assert!(record.version(1).is_none());
    let of = |version| ResolveFilter { version: Some(version), ..ResolveFilter::default() };
    assert_eq!(resolved(&world, of(1)), [""; 0]);
    assert!(view::count_resolved(record, &of(1), 10).is_ok());
    assert!(view::count_resolved(record, &of(4), 10).is_err());
}
