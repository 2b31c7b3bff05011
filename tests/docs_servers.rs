//! Promise: the servers that tests know are those that `scripts/test all` fetches and that the documentation lists.

use test_support::prelude::*;

const SERVERS: &str = include_str!("../scripts/servers.sh");
const TEST: &str = include_str!("../scripts/test");
const COMPATIBILITY: &str = include_str!("../docs/compatibility.md");

#[test]
fn every_server_is_fetched_tested_and_documented() {
    let all = TEST.lines().find(|line| line.trim_start().starts_with("all) ")).expect("the servers of `all`");
    for kind in ServerKind::ALL {
        let name = kind.name();
        let (brand, version) = name.split_once('-').expect("brand and version");
        let brand = if brand == "redis" { "Redis" } else { "Valkey" };
        let row = format!("| {brand} {version} | {version}.");
        assert_eq!(COMPATIBILITY.matches(&row).count(), 1, "{row:?} in docs/compatibility.md");
        // The distribution's own is there already.
        if kind != ServerKind::Redis70 {
            assert_eq!(SERVERS.matches(&format!("\n{name}|")).count(), 1, "{name} in scripts/servers.sh");
            assert!(all.contains(name), "{name} in scripts/test");
        }
    }
    let rows = COMPATIBILITY.lines().filter(|line| line.starts_with("| Redis ") || line.starts_with("| Valkey "));
    let servers = rows.filter(|line| line.contains(" | every test run | ") || line.contains(" | long runs | "));
    assert_eq!(servers.count(), ServerKind::ALL.len(), "rows of docs/compatibility.md");
}
