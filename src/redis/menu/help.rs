//! DEPLOY.HELP: each command with its arguments and a line about it, in the manner of the server's own HELP commands.

use super::syntax::{expanded, policy_fields};
use super::{APPLY, COMMANDS};
use crate::engine::deployment::Status;

/// How wide a line of the help gets, behind the line numbers of redis-cli.
const HELP_WIDTH: usize = 95;

/// The help, line by line.
pub fn help() -> Vec<String> {
    let mut lines = vec!["DEPLOY.<command> key [<argument> ...]. Commands are:".to_string()];
    for info in COMMANDS.iter().filter(|info| info.name != APPLY) {
        // What several commands take has its words once, below.
        let syntax = info.syntax.replace("{policy}", "[policy-field value]...").replace("{status}", "status");
        let line = format!("{} {}", info.name.to_string_lossy(), readable(&expanded(&syntax)));
        lines.extend(folded(line.trim_end()));
        lines.push(format!("    {}", info.summary));
    }
    lines.push("Statuses of a deployment are:".to_string());
    lines.push(format!("    {}", Status::ALL.map(Status::name).join(", ")));
    lines.push("Policy fields and their values are:".to_string());
    lines.extend(policy_fields().map(|field| format!("    {}", readable(&field))));
    lines
}

/// `state:ready|failed` as a person would write it: `ready|failed`.
fn readable(syntax: &str) -> String {
    let word = |word: &str| match word.split_once(':') {
        Some((before, words)) => {
            let bracket = before.len() - before.trim_start_matches('[').len();
            format!("{}{words}", &before[..bracket])
        }
        None => word.to_string(),
    };
    syntax.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Lines that break between arguments, the later ones indented.
fn folded(syntax: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    let mut depth = 0;
    let mut piece = String::new();
    for word in syntax.split(' ') {
        if !piece.is_empty() {
            piece.push(' ');
        }
        piece.push_str(word);
        depth += word.matches('[').count();
        depth -= word.matches(']').count().min(depth);
        if depth > 0 {
            continue;
        }
        if !line.is_empty() && line.len() + 1 + piece.len() > HELP_WIDTH {
            lines.push(std::mem::replace(&mut line, "       ".to_string()));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&std::mem::take(&mut piece));
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_has_every_command_in_lines_for_a_terminal() {
        let help = help();
        for info in COMMANDS.iter().filter(|info| info.name != APPLY) {
            let name = info.name.to_string_lossy();
            let place = help.iter().position(|line| line.split(' ').next() == Some(&name)).expect("its line");
            let summary = help[place..].iter().find(|line| line.starts_with("    ") && !line.starts_with("     "));
            assert_eq!(summary.map(|line| line.trim()), Some(info.summary));
        }
        for line in &help {
            assert!(line.len() <= HELP_WIDTH, "{line}");
            assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line}");
            assert!(!line.contains(['{', '}']), "{line}");
            assert_eq!(line.matches('[').count(), line.matches(']').count(), "a break inside an argument: {line}");
        }
    }
}
