//! The engine's rules as scenarios: `tests/testdata/scenarios/*.txt`, at least one file for each rule of the
//! rollout. A file is a list of scenarios (`== title`), each on an empty key; a scenario is a list of commands with
//! their times, `----`, and the answers up to the next blank line. `UPDATE_GOLDEN=1 cargo test --test
//! engine_scenarios` writes what the engine answers now: read the difference against the rule before committing it.
//!
//! Between the commands of a scenario the clock only stands where the commands say so: time passes without a TICK, and
//! the engine does not notice before it is asked again.

use std::fs;
use std::path::{Path, PathBuf};
use test_support::scenario::World;

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/scenarios");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the scenarios are there")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    files.sort();
    files
}

/// The file as it would be were its answers the engine's.
fn played(text: &str) -> String {
    let mut out = String::new();
    let mut head = World::default(); // what the file defines before its first scenario
    let mut world = World::default();
    let mut started = false;
    let mut lines = text.lines().peekable();
    let mut commands: Vec<&str> = Vec::new();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        if line.starts_with('#') || line.trim().is_empty() {
            assert!(commands.is_empty(), "commands without `----` before: {line}");
        } else if line.starts_with("==") {
            assert!(commands.is_empty(), "commands without `----` before: {line}");
            if !started {
                head = world.clone();
            }
            started = true;
            world = head.clone();
        } else if line == "----" {
            while lines.next_if(|answer| !answer.trim().is_empty()).is_some() {}
            for command in std::mem::take(&mut commands) {
                let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let mut next = world.clone();
                    let answer = next.run(command);
                    (next, answer)
                }));
                let Ok((next, answer)) = said else { panic!("at: {command}\nafter:\n{out}") };
                world = next;
                out.push_str(&answer);
            }
        } else if line.starts_with('@') {
            commands.push(line);
        } else {
            world.run(line);
        }
    }
    assert!(commands.is_empty(), "commands without `----` at the end");
    out
}

#[test]
fn scenarios_are_unchanged() {
    let update = test_support::updates_golden();
    let mut wrong = Vec::new();
    let files = files();
    assert!(!files.is_empty());
    for path in files {
        let name = path.file_name().expect("a file").to_string_lossy().to_string();
        let written = fs::read_to_string(&path).expect("readable");
        let played = played(&written);
        if played == written {
            continue;
        }
        if update {
            fs::write(&path, &played).expect("writable");
            continue;
        }
        let (at, (was, is)) = written
            .lines()
            .chain(std::iter::repeat("(end)"))
            .zip(played.lines().chain(std::iter::repeat("(end)")))
            .enumerate()
            .find(|(_, (was, is))| was != is)
            .expect("they differ");
        let before: Vec<&str> = played.lines().take(at).collect();
        let context = before[before.len().saturating_sub(6)..].join("\n    ");
        wrong.push(format!("{name}:{}\n    {context}\n  - {was}\n  + {is}", at + 1));
    }
    assert!(wrong.is_empty(), "the engine answers differently:\n\n{}\n", wrong.join("\n\n"));
}

/// Each numbered rule has its file, with something that must happen and something that must not.
#[test]
fn every_rule_has_scenarios() {
    let files = files();
    let rollout = (1..=14).map(|rule| (rule, format!("4.{rule:02}_")));
    for (rule, prefix) in rollout.chain([(10, "10_".to_string()), (12, "12_".to_string())]) {
        let of_rule: Vec<&PathBuf> = files
            .iter()
            .filter(|path| path.file_name().expect("a file").to_string_lossy().starts_with(&prefix))
            .collect();
        assert!(!of_rule.is_empty(), "no scenario for rule {rule}");
        for path in of_rule {
            let text = fs::read_to_string(path).expect("readable");
            let first = text.lines().next().unwrap_or_default();
            assert!(first.starts_with(&format!("# Rule {rule}")), "{path:?} names its rule");
            assert!(text.matches("\n== must not").count() >= 1, "{path:?} says what must not happen");
            assert!(text.matches("\n== ").count() >= 2, "{path:?} says what must happen");
        }
    }
}
