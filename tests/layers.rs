//! The layers of the sources: imports point downward, and no files import each other in a circle.
//!
//! Reads the import paths of all files (`use` trees, and paths in code that begin with `crate`, `super`, `self` or a
//! child module) and follows names that a `mod.rs` re-exports to the file that defines them. A re-export in a
//! `mod.rs` of what its own children define is no import.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A folder and its floors, from the ground to the top. A name covers a file or a folder in it; `mod` is the folder's
/// own `mod.rs`. A file may import from its own floor and from those below.
struct Layers {
    folder: &'static str,
    floors: &'static [&'static [&'static str]],
}

const CRATE: Layers = Layers { folder: "src", floors: &[&["engine"], &["codec", "view"], &["redis"], &["lib"]] };

const ENGINE: Layers = Layers {
    folder: "src/engine",
    floors: &[
        &["json", "names", "rejection", "sessions", "time", "undo"],
        &["instance", "policy"],
        &["deployment", "manifest", "services"],
        &["command", "version"],
        &["event", "instances"],
        &["event_log"],
        &["record"],
        &["deadline", "invariants", "strategy", "transaction"],
        &["evolve", "summary"],
        &["draft"],
        &["health_rules", "planner", "tasks"],
        &["drains"],
        &["rollout"],
        &["decide"],
        &["plan"],
        &["mod"],
    ],
};

const REDIS: Layers = Layers {
    folder: "src/redis",
    floors: &[
        &["config", "error", "glob", "resp", "slot", "stats"],
        &["ffi"],
        &["args", "clock", "publish", "reply", "stored"],
        &["background", "call", "command_docs", "importing", "index", "mem_usage", "replication"],
        &["idle_queue"],
        &["info", "record_key"],
        &["blocked_clients", "idle", "keyspace", "read_path"],
        &["compat"],
        &["timers"],
        &["callbacks", "dispatch", "write_path"],
        &["commands"],
        &["command_table"],
        &["mod"],
    ],
};

#[test]
fn folders_import_downward() {
    assert_no_faults(&upward_imports(&CRATE, &Sources::read()));
}

#[test]
fn engine_files_import_downward() {
    assert_no_faults(&upward_imports(&ENGINE, &Sources::read()));
}

#[test]
fn engine_files_have_no_import_cycle() {
    assert_no_faults(&import_cycles("src/engine", &Sources::read()));
}

#[test]
fn redis_files_import_downward() {
    assert_no_faults(&upward_imports(&REDIS, &Sources::read()));
}

#[test]
fn redis_files_have_no_import_cycle() {
    assert_no_faults(&import_cycles("src/redis", &Sources::read()));
}

#[test]
fn codec_files_have_no_import_cycle() {
    assert_no_faults(&import_cycles("src/codec", &Sources::read()));
}

#[test]
fn view_files_have_no_import_cycle() {
    assert_no_faults(&import_cycles("src/view", &Sources::read()));
}

fn assert_no_faults(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

// ---- checks ---------------------------------------------------------------------------------------------------------

/// Returns the imports from a higher floor, the files on no floor, and the names on a floor that no file has.
fn upward_imports(layers: &Layers, sources: &Sources) -> Vec<String> {
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    let floor_of = |file: &str| {
        let inside = file.strip_prefix(layers.folder)?.strip_prefix('/')?.strip_suffix(".rs")?;
        let covers = |name: &str| inside == name || inside.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
        let floors = layers.floors.iter().enumerate();
        floors.flat_map(|(floor, names)| names.iter().map(move |name| (floor, *name))).find(|(_, name)| covers(name))
    };
    for file in sources.files_in(layers.folder) {
        match floor_of(file) {
            Some((_, name)) => drop(used.insert(name)),
            None => faults.push(format!("{file} is on no floor")),
        }
    }
    let unused = layers.floors.iter().copied().flatten().filter(|name| !used.contains(*name));
    faults.extend(unused.map(|name| format!("{} has no {name}, which is on a floor", layers.folder)));
    for import in sources.imports() {
        if let (Some((from, _)), Some((to, _))) = (floor_of(&import.from), floor_of(&import.to)) {
            if to > from {
                faults.push(format!("{import}: floor {to} is above floor {from}"));
            }
        }
    }
    faults
}

/// Returns each set of files of a folder that import each other in a circle, with the imports that close it.
fn import_cycles(folder: &str, sources: &Sources) -> Vec<String> {
    let imports = sources.imports();
    let inside: BTreeSet<&str> = sources.files_in(folder).collect();
    let mut reached: BTreeMap<&str, BTreeSet<&str>> = inside.iter().map(|file| (*file, BTreeSet::new())).collect();
    for import in imports.iter().filter(|import| inside.contains(&*import.from) && inside.contains(&*import.to)) {
        reached.entry(&import.from).or_default().insert(&import.to);
    }
    // The transitive closure: small folders need no better algorithm.
    for middle in &inside {
        for file in &inside {
            if reached[file].contains(middle) {
                let further = reached[middle].clone();
                reached.entry(file).or_default().extend(further);
            }
        }
    }
    let mut faults = Vec::new();
    let mut told = BTreeSet::new();
    for file in &inside {
        let together = |other: &str| reached[file].contains(other) && reached[other].contains(file);
        let circle: BTreeSet<&str> = inside.iter().copied().filter(|other| together(other)).collect();
        if circle.is_empty() || !told.insert(circle.clone()) {
            continue;
        }
        faults.push(format!("{} files in a circle:", circle.len()));
        let closing = imports.iter().filter(|i| circle.contains(&*i.from) && circle.contains(&*i.to));
        faults.extend(closing.map(|import| format!("    {import}")));
    }
    faults
}

// ---- sources --------------------------------------------------------------------------------------------------------

/// One import between two files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    from: String,
    line: usize,
    to: String,
    path: String,
}

impl std::fmt::Display for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {} (of {})", self.from, self.line, self.path, self.to)
    }
}

/// A module path below the crate's root: `["redis", "ffi"]`.
type Module = Vec<String>;

/// All sources of the crate, by module.
struct Sources {
    modules: BTreeMap<Module, Source>,
}

struct Source {
    file: String,
    parsed: Parsed,
}

impl Sources {
    fn read() -> Sources {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = test_support::rust_files(&root.join("src"));
        assert!(files.len() > 40, "these are not the sources");
        let texts: Vec<(String, String)> = files
            .iter()
            .map(|path| {
                let name = path.strip_prefix(root).expect("inside").to_string_lossy().into_owned();
                (name, fs::read_to_string(path).expect("readable"))
            })
            .collect();
        Sources::of(texts.iter().map(|(file, text)| (file.as_str(), text.as_str())))
    }

    fn of<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Sources {
        let modules = texts.into_iter().map(|(file, text)| {
            let source = Source { file: file.to_string(), parsed: parse(text) };
            (module_of(file), source)
        });
        Sources { modules: modules.collect() }
    }

    fn files_in<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a str> {
        let files = self.modules.values().map(|source| source.file.as_str());
        files.filter(move |file| file.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')))
    }

    fn imports(&self) -> Vec<Import> {
        let mut imports = BTreeSet::new();
        for (module, source) in &self.modules {
            for mention in &source.parsed.mentions {
                let here: Module = module.iter().chain(&mention.inside).cloned().collect();
                let Some(target) = self.resolve(&here, &mention.path, 0) else { continue };
                let of_child = target.len() > module.len() && target.starts_with(module);
                let facade = source.file.ends_with("/mod.rs") || source.file.ends_with("/lib.rs");
                if target == *module || (mention.is_reexport && of_child && facade) {
                    continue;
                }
                imports.insert(Import {
                    from: source.file.clone(),
                    line: mention.line,
                    to: self.modules[&target].file.clone(),
                    path: mention.path.join("::"),
                });
            }
        }
        imports.into_iter().collect()
    }

    /// Returns the module whose file defines what a path names; None for a path out of the crate.
    fn resolve(&self, here: &[String], path: &[String], depth: usize) -> Option<Module> {
        let mut at: Module = here.to_vec();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => {
                at.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    at.pop()?;
                    rest = &rest[1..];
                }
            }
            child => {
                at.push(child.to_string());
                if !self.modules.contains_key(&at) {
                    return None;
                }
                rest = &rest[1..];
            }
        }
        // Modules within a file are part of it.
        while !self.modules.keys().any(|module| module.starts_with(&at)) {
            at.pop()?;
        }
        while let [segment, further @ ..] = rest {
            at.push(segment.clone());
            if !self.modules.contains_key(&at) {
                at.pop();
                match self.reexported(&at, segment, depth) {
                    Some(target) if target != at => at = target,
                    _ => break,
                }
            }
            rest = further;
        }
        self.modules.contains_key(&at).then_some(at)
    }

    /// Returns the module that defines a name which a module re-exports.
    fn reexported(&self, module: &Module, name: &str, depth: usize) -> Option<Module> {
        if depth > 8 {
            return None;
        }
        let source = self.modules.get(module)?;
        let reexports = || source.parsed.mentions.iter().filter(|mention| mention.is_reexport);
        let named = reexports().find(|mention| mention.name.as_deref() == Some(name));
        if let Some(mention) = named {
            return self.resolve(module, &mention.path, depth + 1);
        }
        let globs = reexports().filter(|mention| mention.name.is_none());
        let mut targets = globs.filter_map(|mention| self.resolve(module, &mention.path, depth + 1));
        targets.find(|target| self.modules[target].parsed.defined.contains(name))
    }
}

/// Returns the module of a file below `src`: that of `src/redis/mod.rs` is `redis`.
fn module_of(file: &str) -> Module {
    let inside = file.strip_prefix("src/").and_then(|file| file.strip_suffix(".rs")).expect("a source");
    let mut module: Module = inside.split('/').map(str::to_string).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

// ---- the parser -----------------------------------------------------------------------------------------------------

/// A path that a file mentions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mention {
    path: Vec<String>,
    /// The name that a `use` gives it; None for a glob, and for a path in code.
    name: Option<String>,
    is_reexport: bool,
    /// Modules within the file around it.
    inside: Vec<String>,
    line: usize,
}

#[derive(Debug, Default)]
struct Parsed {
    mentions: Vec<Mention>,
    /// Names of items at any depth.
    defined: BTreeSet<String>,
}

fn parse(text: &str) -> Parsed {
    const ITEMS: [&str; 9] = ["fn", "struct", "enum", "union", "trait", "type", "const", "static", "mod"];
    let tokens = tokens(text);
    let word = |at: usize| tokens.get(at).map_or("", |(token, _)| token.as_str());
    let mut parsed = Parsed::default();
    // The open braces, those of modules with their name.
    let mut scopes: Vec<Option<String>> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let (token, line) = &tokens[at];
        let inside = || scopes.iter().flatten().cloned().collect::<Vec<_>>();
        if ITEMS.contains(&token.as_str()) {
            parsed.defined.insert(word(at + 1).to_string());
        }
        match token.as_str() {
            "mod" if word(at + 2) == "{" => {
                scopes.push(Some(word(at + 1).to_string()));
                at += 3;
            }
            "{" => {
                scopes.push(None);
                at += 1;
            }
            "}" => {
                scopes.pop();
                at += 1;
            }
            // `use<'a>` is a bound.
            "use" if word(at + 1) != "<" => {
                let is_reexport = at > 0 && (word(at - 1) == "pub" || word(at - 1) == ")");
                let mut names = Vec::new();
                at = use_tree(&tokens, at + 1, &[], &mut names);
                let mentions = names.into_iter().map(|(path, name)| Mention {
                    path,
                    name,
                    is_reexport,
                    inside: inside(),
                    line: *line,
                });
                parsed.mentions.extend(mentions);
            }
            // `pub(in crate::redis)` says who may see, and imports nothing.
            _ if word(at + 1) == "::"
                && is_identifier(token)
                && !(at > 1 && word(at - 1) == "in" && word(at - 2) == "(") =>
            {
                let mut path = vec![token.clone()];
                at += 1;
                while word(at) == "::" && is_identifier(word(at + 1)) {
                    path.push(word(at + 1).to_string());
                    at += 2;
                }
                // The rest of `a::<T>::b` is no path of its own.
                while word(at) == "::" {
                    at += 1;
                }
                let mention = Mention { path, name: None, is_reexport: false, inside: inside(), line: *line };
                parsed.mentions.push(mention);
            }
            _ => at += 1,
        }
    }
    parsed
}

/// Reads a tree of a `use` from a token on, and returns the position behind it. Collects each path with its name.
fn use_tree(
    tokens: &[(String, usize)],
    mut at: usize,
    prefix: &[String],
    names: &mut Vec<(Vec<String>, Option<String>)>,
) -> usize {
    let word = |at: usize| tokens.get(at).map_or("", |(token, _)| token.as_str());
    let mut path = prefix.to_vec();
    if word(at) == "::" {
        at += 1;
    }
    loop {
        match word(at) {
            "{" => {
                at += 1;
                while !["}", ""].contains(&word(at)) {
                    at = use_tree(tokens, at, &path, names);
                    if word(at) == "," {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "*" => {
                names.push((path, None));
                return at + 1;
            }
            "self" if !path.is_empty() => at += 1,
            segment if is_identifier(segment) => {
                path.push(segment.to_string());
                at += 1;
            }
            _ => return at + 1,
        }
        if word(at) == "::" {
            at += 1;
            continue;
        }
        let mut name = path.last().cloned();
        if word(at) == "as" {
            name = Some(word(at + 1).to_string());
            at += 2;
        }
        names.push((path, name));
        return at;
    }
}

fn is_identifier(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Splits a source into words, `::` and single signs, each with its line. Leaves out comments, literals and lifetimes.
fn tokens(text: &str) -> Vec<(String, usize)> {
    let chars: Vec<char> = text.chars().collect();
    let at_is = |at: usize, what: char| chars.get(at) == Some(&what);
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        let c = chars[at];
        if c == '/' && at_is(at + 1, '/') {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if c == '/' && at_is(at + 1, '*') {
            let mut depth = 0;
            while at < chars.len() {
                if chars[at] == '/' && at_is(at + 1, '*') {
                    depth += 1;
                    at += 2;
                } else if chars[at] == '*' && at_is(at + 1, '/') {
                    depth -= 1;
                    at += 2;
                    if depth == 0 {
                        break;
                    }
                } else {
                    at += 1;
                }
            }
        } else if let Some(end) = string_end(&chars, at) {
            at = end;
        } else if c == '\'' {
            // A lifetime, or a character.
            let is_character = at_is(at + 1, '\\') || at_is(at + 2, '\'');
            at += 1;
            if is_character {
                while at < chars.len() && chars[at] != '\'' {
                    at += if chars[at] == '\\' { 2 } else { 1 };
                }
                at += 1;
            } else {
                while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                    at += 1;
                }
            }
        } else if c.is_alphanumeric() || c == '_' {
            while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                at += 1;
            }
            found.push((chars[start..at].iter().collect(), line));
        } else if c == ':' && at_is(at + 1, ':') {
            at += 2;
            found.push(("::".to_string(), line));
        } else {
            at += 1;
            if !c.is_whitespace() {
                found.push((c.to_string(), line));
            }
        }
        line += chars[start..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    found
}

/// Returns the position behind a string literal that begins here: `"…"`, `b"…"`, `c"…"`, `r#"…"#`.
fn string_end(chars: &[char], at: usize) -> Option<usize> {
    let mut open = at;
    while open < at + 2 && chars.get(open).is_some_and(|c| ['b', 'c', 'r'].contains(c)) {
        open += 1;
    }
    let is_raw = open > at && chars[open - 1] == 'r';
    let mut hashes = 0;
    while is_raw && chars.get(open) == Some(&'#') {
        hashes += 1;
        open += 1;
    }
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let mut end = open + 1;
    while let Some(c) = chars.get(end) {
        match c {
            '\\' if !is_raw => end += 2,
            '"' if chars[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes => {
                return Some(end + 1 + hashes);
            }
            _ => end += 1,
        }
    }
    Some(chars.len())
}

// ---- tests of the checks --------------------------------------------------------------------------------------------

fn paths(text: &str) -> Vec<String> {
    parse(text).mentions.iter().map(|mention| mention.path.join("::")).collect()
}

/// Imports between the sources, as `from -> to`.
fn arrows(sources: &[(&str, &str)]) -> Vec<String> {
    let imports = Sources::of(sources.iter().copied()).imports();
    imports.iter().map(|import| format!("{} -> {}", import.from, import.to)).collect()
}

const TWO_FLOORS: Layers = Layers { folder: "src/shop", floors: &[&["shelf"], &["till"], &["mod"]] };

#[test]
fn use_trees_are_expanded() {
    let text =
        "pub(crate) use super::shelf::{self, goods::{Apple as Fruit, Pear}, *};\nuse crate::{\n    a,\n    b::C,\n};";
    let expected = [
        "super::shelf",
        "super::shelf::goods::Apple",
        "super::shelf::goods::Pear",
        "super::shelf",
        "crate::a",
        "crate::b::C",
    ];
    assert_eq!(paths(text), expected);
    let mentions = parse(text).mentions;
    assert_eq!(mentions[1].name.as_deref(), Some("Fruit"));
    assert_eq!(mentions[3].name, None, "a glob");
    assert_eq!(mentions.iter().map(|mention| mention.is_reexport).collect::<Vec<_>>()[3..5], [true, false]);
    assert_eq!((mentions[3].line, mentions[4].line), (1, 2));
}

#[test]
fn paths_in_code_are_found() {
    assert_eq!(
        paths("fn a() -> crate::shop::Till { super::shelf::take::<u8>(1) }"),
        ["crate::shop::Till", "super::shelf::take"]
    );
    assert_eq!(paths("$crate::shop::go(|x| x)"), ["crate::shop::go"]);
}

#[test]
fn comments_literals_and_visibilities_are_no_imports() {
    for text in [
        "// use crate::a;",
        "/* use crate::a; /* use crate::b; */ use crate::c; */",
        "let a = \"use crate::a; \\\" crate::b\";",
        "let a = r#\"crate::a \" crate::b\"#;",
        "let a = b\"crate::a\";",
        "let a: &'static str = x; let c = '\"'; let d = '\\'';",
        "pub(in crate::shop) struct A;",
    ] {
        assert_eq!(paths(text), Vec::<String>::new(), "{text}");
    }
    assert_eq!(paths("let c = '\"'; use crate::a;"), ["crate::a"], "a quote in a character opens no string");
}

#[test]
fn reexports_lead_to_the_file_that_defines_a_name() {
    let sources = [
        ("src/shop/mod.rs", "mod shelf;\nmod till;\npub use shelf::*;\npub use till::Till as Desk;"),
        ("src/shop/shelf.rs", "pub struct Apple;"),
        ("src/shop/till.rs", "use super::Apple;\npub struct Till;"),
        ("src/street.rs", "use crate::shop::{Apple, Desk, Nothing};"),
    ];
    let expected = [
        "src/shop/till.rs -> src/shop/shelf.rs",
        "src/street.rs -> src/shop/mod.rs",
        "src/street.rs -> src/shop/shelf.rs",
        "src/street.rs -> src/shop/till.rs",
    ];
    assert_eq!(arrows(&sources), expected, "and the re-exports themselves are no imports");
}

#[test]
fn a_module_within_a_file_is_part_of_it() {
    let sources = [
        ("src/shop/shelf.rs", "mod tests {\n    use super::*;\n    use super::super::till::Till;\n}"),
        ("src/shop/till.rs", ""),
        ("src/shop/mod.rs", ""),
    ];
    assert_eq!(arrows(&sources), ["src/shop/shelf.rs -> src/shop/till.rs"]);
}

#[test]
fn an_upward_import_is_found() {
    let downward =
        [("src/shop/mod.rs", "use shelf::A;"), ("src/shop/shelf.rs", ""), ("src/shop/till.rs", "use super::shelf::A;")];
    assert_eq!(upward_imports(&TWO_FLOORS, &Sources::of(downward)), Vec::<String>::new());
    let upward = [
        ("src/shop/mod.rs", ""),
        ("src/shop/shelf.rs", "\nuse super::till::B;"),
        ("src/shop/till.rs", "use super::A;"),
    ];
    let expected = [
        "src/shop/shelf.rs:2: super::till::B (of src/shop/till.rs): floor 1 is above floor 0",
        "src/shop/till.rs:1: super::A (of src/shop/mod.rs): floor 2 is above floor 1",
    ];
    assert_eq!(upward_imports(&TWO_FLOORS, &Sources::of(upward)), expected);
}

#[test]
fn a_file_on_no_floor_and_a_floor_without_its_file_are_found() {
    let sources = [("src/shop/mod.rs", ""), ("src/shop/shelf/low.rs", ""), ("src/shop/cellar.rs", "")];
    let expected = ["src/shop/cellar.rs is on no floor", "src/shop has no till, which is on a floor"];
    assert_eq!(upward_imports(&TWO_FLOORS, &Sources::of(sources)), expected);
}

#[test]
fn an_import_cycle_is_found() {
    let line = [("src/shop/a.rs", "use super::b::B;"), ("src/shop/b.rs", "use super::c::C;"), ("src/shop/c.rs", "")];
    assert_eq!(import_cycles("src/shop", &Sources::of(line)), Vec::<String>::new());
    let circle = [
        ("src/shop/a.rs", "use super::b::B;"),
        ("src/shop/b.rs", "use super::c::C;"),
        ("src/shop/c.rs", "fn f() {\n    super::a::f()\n}"),
        ("src/shop/d.rs", "use super::a::f;"),
    ];
    let found = import_cycles("src/shop", &Sources::of(circle));
    assert_eq!(found.len(), 4, "{found:?}");
    assert_eq!(found[0], "3 files in a circle:");
    assert!(found[3].ends_with("src/shop/c.rs:2: super::a::f (of src/shop/a.rs)"), "{found:?}");
}
