//! Promise: the documentation is true. The README's quick start and the tour are typed into a real `redis-cli` at a
//! real server, and the replies are those shown; the reference names every command, configuration, metric, event and
//! error.

use std::io::Write;
use std::process::{Command, Stdio};
use test_support::prelude::*;

const README: &str = include_str!("../README.md");
const TOUR: &str = include_str!("../docs/tour.md");
const COMMANDS: &str = include_str!("../docs/commands.md");
const EVENTS: &str = include_str!("../docs/events.md");
const OPERATIONS: &str = include_str!("../docs/operations.md");

fn section(page: &'static str, title: &str) -> &'static str {
    let start = page.find(&format!("\n{title}\n")).unwrap_or_else(|| panic!("no section {title}"));
    let rest = &page[start + 1..];
    let level = title.split(' ').next().expect("a heading");
    // Up to the next heading of its own level.
    let end = rest[level.len()..].find(&format!("\n{level} ")).map_or(rest.len(), |end| end + level.len());
    &rest[..end]
}

/// The commands of a page, each with the lines that it is shown to reply.
fn steps(page: &'static str) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut steps: Vec<(&str, Vec<&str>)> = Vec::new();
    for block in page.split("```text\n").skip(1) {
        let block = block.split("\n```").next().expect("a block ends");
        for line in block.lines() {
            match (line.strip_prefix("> "), steps.last_mut()) {
                (Some(command), _) => steps.push((command, Vec::new())),
                (None, Some((_, lines))) => lines.push(line),
                (None, None) => panic!("a block begins with a command: {line}"),
            }
        }
    }
    steps
}

/// Returns the output of redis-cli at its prompt.
fn typed(port: u16, command: &str) -> Vec<String> {
    let mut cli = Command::new("redis-cli");
    cli.args(["-3", "--no-raw", "-p", &port.to_string()]);
    let mut cli = cli.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("redis-cli");
    writeln!(cli.stdin.take().expect("a pipe"), "{command}").expect("written");
    let output = cli.wait_with_output().expect("its end");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("text");
    // How long it took is not part of the reply.
    let is_timing = |line: &str| line.starts_with('(') && line.ends_with("s)");
    lines.lines().map(masked).filter(|line| !line.is_empty() && !is_timing(line)).collect()
}

/// Without times (unix ms) and trailing blanks.
fn masked(line: &str) -> String {
    let mut masked = String::new();
    for part in line.split_inclusive(|c: char| !c.is_ascii_digit()) {
        let digits = part.trim_end_matches(|c: char| !c.is_ascii_digit());
        masked.push_str(if digits.len() == 13 { "<time>" } else { digits });
        masked.push_str(&part[digits.len()..]);
    }
    masked.trim_end().to_string()
}

/// Returns whether the lines are those shown, where `…` stands for any number of them.
fn is_as_shown(shown: &[String], lines: &[String]) -> bool {
    match (shown.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "…" => {
            is_as_shown(rest, lines) || lines.split_first().is_some_and(|(_, lines)| is_as_shown(shown, lines))
        }
        (Some((first, shown)), Some((line, lines))) => line_is_as_shown(first, line) && is_as_shown(shown, lines),
        _ => false,
    }
}

/// `…` within a line stands for any text.
fn line_is_as_shown(shown: &str, line: &str) -> bool {
    match shown.split_once('…') {
        None => shown == line,
        Some((start, end)) => line.len() >= start.len() + end.len() && line.starts_with(start) && line.ends_with(end),
    }
}

fn assert_replies_are_as_shown(steps: Vec<(&'static str, Vec<&'static str>)>, least: usize) {
    let server = Server::start(ServerKind::Redis70, &[]);
    assert!(steps.len() >= least, "{} steps", steps.len());
    for (command, shown) in steps {
        let lines = typed(server.port, command);
        let shown: Vec<String> = shown.into_iter().map(masked).collect();
        assert!(shown.iter().any(|line| line != "…"), "{command}: nothing is shown");
        assert!(
            is_as_shown(&shown, &lines),
            "\n> {command}\n-- shown:\n{}\n-- replied:\n{}",
            shown.join("\n"),
            lines.join("\n")
        );
    }
}

#[test]
fn the_tour_is_as_shown() {
    assert_replies_are_as_shown(steps(TOUR), 16);
}

#[test]
fn the_quick_start_is_as_shown() {
    assert_replies_are_as_shown(steps(section(README, "## Quick start")), 5);
}

#[test]
fn what_is_shown_is_compared() {
    let lines = |text: &str| text.split(' ').map(str::to_string).collect::<Vec<_>>();
    assert!(is_as_shown(&lines("a … d"), &lines("a b c d")));
    assert!(is_as_shown(&lines("a … b …"), &lines("a b")));
    assert!(!is_as_shown(&lines("a … d"), &lines("a b c")));
    assert!(!is_as_shown(&lines("a b"), &lines("a b c")));
    assert!(!is_as_shown(&lines("a b c"), &lines("a b")));
    assert!(is_as_shown(&lines("a b…d"), &lines("a bccd")));
    assert!(!is_as_shown(&lines("a b…d"), &lines("a bcc")));
    assert!(!is_as_shown(&lines("a bc…cd"), &lines("a bcd")));
    assert_eq!(masked("10# \"since\" => (integer) 1795530593663  "), "10# \"since\" => (integer) <time>");
    assert_eq!(masked("3# \"version\" => (integer) 12"), "3# \"version\" => (integer) 12");
}

/// Returns whether the page has a word, by itself or as the end of a list such as `deploy_refused_err`, `…_limit`.
fn names(text: &str, word: &str, prefixes: &[&str]) -> bool {
    let short = |prefix: &&str| word.strip_prefix(*prefix).is_some_and(|rest| text.contains(&format!("`…_{rest}`")));
    text.contains(&format!("`{word}`")) || prefixes.iter().any(short)
}

#[test]
fn readme_reference_is_complete() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let mut client = server.client();

    let commands = client.call(&["COMMAND", "LIST", "FILTERBY", "MODULE", "deploy"]);
    for command in items(&commands).iter().map(|name| text(name).to_uppercase()) {
        assert!(COMMANDS.contains(&format!("\n### {command}\n")), "{command}");
    }
    for (name, _) in Fields::of(&client.call(&["CONFIG", "GET", "deploy.*"])).0 {
        let name = name.strip_prefix("deploy.").expect("the module's prefix");
        assert!(section(OPERATIONS, "## Configuration").contains(&format!("| `{name}` |")), "{name}");
    }
    let info = text(&client.call(&["INFO", "deploy"]));
    let fields = info.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name);
    let numbers = section(OPERATIONS, "## Metrics");
    for field in fields {
        let prefixes = ["deploy_deployments_", "deploy_refused_", "deploy_timer_lag_"].map(|p| p.trim_end_matches('_'));
        let prefixes = prefixes.map(|prefix| format!("{prefix}_"));
        assert!(names(numbers, field, &prefixes.each_ref().map(String::as_str)), "{field} in {numbers}");
    }
    for event in redis_deploy::engine::event::EVENT_NAMES {
        assert!(names(section(EVENTS, "## Types"), event, &[]), "{event}");
    }
    for code in ["ERR", "WRONGTYPE", "NOTFOUND", "INVALID", "BADSTATE", "UNHEALTHY", "CONFLICT", "LIMIT"] {
        assert!(section(COMMANDS, "## Errors").contains(&format!("| `{code}` |")), "{code}");
    }
}
