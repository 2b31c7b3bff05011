//! DEPLOY.HELP: each command with its arguments and a line about it, in the manner of the server's own HELP commands.

use super::syntax::{expand, policy_fields};
use crate::engine::deployment::{Outcome, Status};
use std::borrow::Cow;

/// The maximum width of a line, behind the line numbers of redis-cli.
const HELP_WIDTH: usize = 95;

/// Returns the help, line by line, of commands with their name, syntax and summary.
pub fn help_lines<'a>(commands: impl Iterator<Item = (Cow<'a, str>, &'a str, &'a str)>) -> Vec<String> {
    let mut lines = vec!["DEPLOY.<command> key [<argument> ...]. Commands are:".to_string()];
    for (name, syntax, summary) in commands {
        lines.extend(synopsis(&name, syntax));
        lines.push(format!("    {summary}"));
    }
    lines.extend(statuses());
    lines.extend(outcomes());
    lines.extend(policy());
    lines
}

/// Returns the help of one command, line by line: how it is written, what it does and costs, and the words that its
/// synopsis only names.
pub fn command_help(name: &str, syntax: &str, summary: &str, complexity: &str) -> Vec<String> {
    let mut lines = synopsis(name, syntax);
    lines.push(format!("    {summary}"));
    lines.push(format!("    Complexity: {complexity}."));
    if syntax.contains("{status}") || syntax.contains("status...") {
        lines.extend(statuses());
    }
    if syntax.contains("UNTIL") {
        lines.extend(outcomes());
    }
    if syntax.contains("{policy}") {
        lines.extend(policy());
    }
    lines
}

/// Returns a command with its arguments. The words of what several commands take are listed once, below.
fn synopsis(name: &str, syntax: &str) -> Vec<String> {
    let syntax = syntax.replace("{policy}", "[policy-field value]...").replace("{status}", "status");
    folded(format!("{name} {}", readable(&expand(&syntax))).trim_end())
}

fn statuses() -> [String; 2] {
    ["Statuses of a deployment are:".to_string(), format!("    {}", Status::ALL.map(Status::name).join(", "))]
}

/// Returns the words that UNTIL takes besides statuses (rules 10.12 and 19.7).
fn outcomes() -> [String; 4] {
    let words = [Outcome::Completed, Outcome::Failed].map(Outcome::name);
    [
        "Outcomes of a batch job, which UNTIL takes too, are:".to_string(),
        format!("    {}", words.join(", ")),
        "UNTIL takes besides:".to_string(),
        "    drained: the deployment has ended, and no instance is draining, on standby or to be stopped".to_string(),
    ]
}

fn policy() -> impl Iterator<Item = String> {
    let fields = policy_fields().map(|field| format!("    {}", readable(&field)));
    std::iter::once("Policy fields and their values are:".to_string()).chain(fields)
}

/// Removes argument names from alternatives: `state:ready|failed` becomes `ready|failed`.
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

/// Breaks a line between arguments; the lines that follow are indented.
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
    fn lines_fit_a_terminal_and_break_between_arguments() {
        let commands =
            [("DEPLOY.X", "key {state} [STATUS {status}] {policy} [TAGS n tag...] [REASON text]", "Does x.")];
        let help =
            help_lines(commands.map(|(name, syntax, summary)| (Cow::Borrowed(name), syntax, summary)).into_iter());
        assert!(help[1].starts_with("DEPLOY.X key starting|ready|"), "{help:?}");
        assert!(help.contains(&"    Does x.".to_string()));
        for line in &help {
            assert!(line.len() <= HELP_WIDTH, "{line}");
            assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line}");
            assert!(!line.contains(['{', '}']), "{line}");
            assert_eq!(line.matches('[').count(), line.matches(']').count(), "a break inside an argument: {line}");
        }
    }
}
