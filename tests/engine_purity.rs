//! Purity of the engine: no clock, random numbers, sockets, files, logger, threads, globals or hash order, and no
//! panic. Read from its sources.

use std::fs;
use std::path::Path;

/// Words that are forbidden in the engine, each with the reason.
const FORBIDDEN: [(&str, &str); 41] = [
    ("Instant", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("std::time", "time is an argument"),
    ("chrono", "time is an argument"),
    ("rand", "no random numbers"),
    ("RandomState", "no random numbers"),
    ("DefaultHasher", "no random numbers"),
    ("HashMap", "its order differs from server to server"),
    ("HashSet", "its order differs from server to server"),
    ("std::fs", "no I/O"),
    ("std::net", "no I/O"),
    ("std::io", "no I/O"),
    ("std::env", "no I/O"),
    ("std::process", "no I/O"),
    ("std::os", "no I/O"),
    ("println", "no I/O"),
    ("eprintln", "no I/O"),
    ("print", "no I/O"),
    ("dbg", "no I/O"),
    ("log::", "no logger"),
    ("tracing", "no logger"),
    ("thread", "no threads"),
    ("thread_local", "no globals"),
    ("Mutex", "no threads"),
    ("RwLock", "no threads"),
    ("Atomic", "no globals"),
    ("static", "no globals"),
    ("LazyLock", "no globals"),
    ("lazy_static", "no globals"),
    ("RefCell", "no hidden state"),
    ("UnsafeCell", "no hidden state"),
    ("redis_module", "no server"),
    ("unsafe", "no raw memory"),
    ("unwrap", "a panic is no refusal"),
    ("expect", "a panic is no refusal"),
    ("panic", "a panic is no refusal"),
    ("todo", "a panic is no refusal"),
    ("unimplemented", "a panic is no refusal"),
    ("unreachable", "a panic is no refusal"),
    ("assert", "a panic is no refusal"),
    ("f64", "floats round"),
];

/// Roots of paths that may be used.
const MAY_USE: [&str; 9] =
    ["std", "indexmap", "json_event_parser", "serde", "serde_json", "thiserror", "crate", "super", "self"];

/// Returns a line without its comment and its string literals.
fn code(line: &str) -> String {
    let mut out = String::new();
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => {
                chars.next();
            }
            '"' => quoted = !quoted,
            '/' if !quoted && chars.peek() == Some(&'/') => break,
            c if !quoted => out.push(c),
            _ => {}
        }
    }
    out
}

/// Returns whether the code has a whole word (`print!` is not in `fingerprint`).
fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let free = |c: Option<char>, edge: Option<char>| !c.is_some_and(part) || !edge.is_some_and(part);
        free(before, word.chars().next()) && free(after, word.chars().next_back()) && before != Some('\'')
    })
}

/// Returns the faults of one source.
fn faults(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = code(line);
        let mut fault = |words: String| faults.push(format!("{name}:{}: {words}: {}", number + 1, line.trim()));
        for (word, why) in FORBIDDEN {
            if has_word(&code, word) {
                fault(format!("{word} ({why})"));
            }
        }
        // The one lazily read value: a manifest's outline, which is a function of its text.
        if has_word(&code, "OnceLock") && name != "manifest.rs" {
            fault("OnceLock (no globals)".to_string());
        }
        if let Some(path) =
            code.trim_start().strip_prefix("pub use ").or_else(|| code.trim_start().strip_prefix("use "))
        {
            let root = path.split("::").next().unwrap_or_default().trim_end_matches(';').trim();
            // Below the engine's own root, a module re-exports what it declares.
            let own = name == "mod.rs" && text.contains(&format!("mod {root};"));
            if !own && !MAY_USE.contains(&root) {
                fault(format!("use of {root}"));
            }
        }
        if let Some(path) = code.trim_start().strip_prefix("use crate::") {
            if !path.starts_with("engine") {
                fault("use of what is outside the engine".to_string());
            }
        }
        if code.contains("extern crate") {
            fault("extern crate".to_string());
        }
    }
    faults
}

#[test]
fn engine_sources_are_pure() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine");
    let found = test_support::rust_files(&folder);
    assert!(found.len() > 15, "these are not the engine's sources");
    let mut all = Vec::new();
    for path in found {
        let name = path.strip_prefix(&folder).expect("inside").to_string_lossy().to_string();
        all.extend(faults(&name, &fs::read_to_string(&path).expect("readable")));
    }
    assert!(all.is_empty(), "the engine is not pure:\n{}", all.join("\n"));
}

#[test]
fn impure_lines_are_found() {
    for line in [
        "let now = std::time::Instant::now();",
        "use std::collections::HashMap;",
        "static mut COUNT: u64 = 0;",
        "thread_local! { static X: u8 = 0 }",
        "let n = list.first().unwrap();",
        "let n = list.first().expect(\"one\"); // fine words",
        "panic!(\"no\");",
        "unsafe { *pointer }",
        "use redis_module::Context;",
        "use crate::redis::Deadline;",
        "use bincode::Encode;",
        "static ONCE: OnceLock<u8> = OnceLock::new();",
        "println!(\"here\");",
    ] {
        assert!(!faults("decide.rs", line).is_empty(), "not found: {line}");
    }
    for line in [
        "// unwrap is a word, too",
        "let words = \"panic at the HashMap\";",
        "fn who(&'static self) -> &'static str {",
        "let n = list.first().copied().unwrap_or_default();",
        "let fingerprint = expected(operand);",
        "use super::time::Deadline;",
        "use std::collections::BTreeMap;",
        "use crate::engine::deployment::Role;",
    ] {
        assert_eq!(faults("decide.rs", line), Vec::<String>::new());
    }
}
