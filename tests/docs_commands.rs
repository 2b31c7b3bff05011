//! Promise: `docs/commands.json` is what the command table says, and `docs/commands.md` describes every command.

use redis_deploy::redis::command_table;
use std::path::Path;

fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).expect("a page of docs/")
}

#[test]
fn commands_json_is_generated_from_the_command_table() {
    let generated = command_table::commands_json().expect("plain data");
    assert!(page("commands.json") == generated, "docs/commands.json is outdated: run scripts/commands-json");
}

#[test]
fn every_command_has_a_heading_in_the_reference() {
    let reference = page("commands.md");
    for command in command_table::user_commands() {
        let name = command.name.to_string_lossy();
        let has_heading = reference.lines().any(|line| line.starts_with('#') && line.contains(&*name));
        assert!(has_heading, "{name} has no heading in docs/commands.md");
    }
}

#[test]
fn the_reference_says_what_each_command_costs_as_the_command_table_does() {
    let reference = page("commands.md").replace('\n', " ");
    for command in command_table::user_commands() {
        let heading = format!("### {} ", command.name.to_string_lossy());
        let (_, section) = reference.split_once(&heading).expect("a heading");
        let section = section.split("### ").next().unwrap_or(section);
        let cost = format!("Complexity: {}", command.complexity);
        assert!(section.contains(&cost), "{heading}is not said to have {cost}");
    }
}
