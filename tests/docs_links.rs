//! Promise: links lead somewhere, in the repository and in the tarball of `scripts/package`: to files, and to headings
//! within them. Paths that pages name are there, and so is every rule that code and tests cite.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The text of a page without its code blocks.
fn prose(text: &str) -> String {
    let mut in_code = false;
    let mut prose = String::new();
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        prose.push_str(if in_code || is_fence { "" } else { line });
        prose.push('\n');
    }
    prose
}

/// The targets of `[text](target)`.
fn links(prose: &str) -> Vec<String> {
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_string()).collect()
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(prose: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
            let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
            let count = seen.entry(anchor.clone()).or_default();
            *count += 1;
            if *count == 1 {
                anchor
            } else {
                format!("{anchor}-{}", *count - 1)
            }
        })
        .collect()
}

/// A path without `..`, so that one that leads out of the folder is seen to do so.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                if !normal.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    Some(normal)
}

fn markdown_files(folder: &Path, pages: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().expect("a folder").flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(['.', '_']) || ["target", "node_modules"].contains(&&*name) {
            continue;
        }
        if path.is_dir() {
            markdown_files(&path, pages);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
}

/// The links of all pages in a folder that lead nowhere.
fn broken_links(root: &Path) -> Vec<String> {
    let mut pages = Vec::new();
    markdown_files(root, &mut pages);
    assert!(pages.len() > 5, "{pages:?}");
    let read = |path: &Path| prose(&std::fs::read_to_string(path).unwrap_or_default());
    let mut broken = Vec::new();
    for page in pages {
        let from = page.strip_prefix(root).expect("a page of this folder").to_path_buf();
        for link in links(&read(&page)) {
            if link.starts_with("http://") || link.starts_with("https://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() {
                Some(from.clone())
            } else {
                normal(&from.parent().unwrap_or(Path::new("")).join(path))
            };
            let leads_somewhere = target.is_some_and(|target| {
                let file = root.join(&target);
                file.exists() && (anchor.is_empty() || anchors(&read(&file)).contains(anchor))
            });
            if !leads_somewhere {
                broken.push(format!("{}: {link}", from.display()));
            }
        }
    }
    broken
}

#[test]
fn links_in_the_repository_lead_somewhere() {
    assert_eq!(broken_links(Path::new(ROOT)), Vec::<String>::new());
}

/// No library is needed for it: the test's own program stands in.
#[test]
fn links_in_the_tarball_lead_somewhere() {
    let folder = std::env::temp_dir().join(format!("redis-deploy-links-{}", std::process::id()));
    let mut command = Command::new(Path::new(ROOT).join("scripts/package"));
    let library = std::env::current_exe().expect("this program");
    let output = command.arg(&folder).env("REDIS_DEPLOY_MODULE", library).output().expect("bash");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tarball = String::from_utf8_lossy(&output.stdout).trim().to_string();
    let mut tar = Command::new("tar");
    let status = tar.args(["xzf", &tarball, "-C"]).arg(&folder).arg("--strip-components=1").status().expect("tar");
    assert!(status.success());

    assert_eq!(broken_links(&folder), Vec::<String>::new());
    let readme = std::fs::read_to_string(folder.join("README.md")).expect("the README");
    for page in ["docs/ARCHITECTURE.md", "docs/CONTRIBUTING.md"] {
        assert!(!readme.contains(page), "a page for contributors is linked in the tarball: {page}");
        assert!(!folder.join(page).exists(), "{page} is packed");
    }
    std::fs::remove_dir_all(&folder).expect("our own folder");
}

/// Paths in code quotes, such as `scripts/demo`.
#[test]
fn paths_that_pages_name_are_there() {
    let mut pages = Vec::new();
    markdown_files(Path::new(ROOT), &mut pages);
    let folders = ["scripts/", "tests/", "packaging/", "src/", "docs/", "examples/", "benches/"];
    for page in pages {
        let text = prose(&std::fs::read_to_string(&page).expect("a page"));
        let quoted = text.split('`').skip(1).step_by(2);
        let paths = quoted.filter(|quoted| folders.iter().any(|folder| quoted.starts_with(folder)));
        for path in paths.filter(|path| !path.contains([' ', '{', '*', '<'])) {
            assert!(Path::new(ROOT).join(path).exists(), "{}: {path}", page.display());
        }
    }
}

/// `4.9` and `8 "Tasks"` of `rule 4.9` and `rule 8 "Tasks"`.
fn cited_rules(text: &str) -> Vec<String> {
    let mut rules = Vec::new();
    for rest in text.split("rule ").skip(1) {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number = rest[..digits].trim_end_matches('.');
        if number.is_empty() {
            continue;
        }
        match rest[digits..].strip_prefix(" \"").and_then(|rest| rest.split_once('"')) {
            Some((name, _)) => rules.push(format!("{number} \"{name}\"")),
            None => rules.push(number.to_string()),
        }
    }
    rules
}

/// The rules of docs/rules.md, each as it is cited.
fn known_rules() -> BTreeSet<String> {
    let text = prose(&std::fs::read_to_string(Path::new(ROOT).join("docs/rules.md")).expect("the rules"));
    let mut known = BTreeSet::new();
    let mut section = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.split(' ').next().unwrap_or_default().to_string();
            known.insert(section.clone());
        } else if let Some(title) = line.strip_prefix("### ") {
            let numbered = title.split_once(' ').filter(|(number, _)| number.starts_with(&format!("{section}.")));
            known.extend(numbered.map(|(number, _)| number.to_string()));
            known.insert(format!("{section} \"{}\"", numbered.map_or(title, |(_, name)| name)));
        }
    }
    known
}

fn source_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            source_files(&path, files);
        } else if path.extension().is_some_and(|e| ["rs", "txt", "md"].iter().any(|known| e == *known)) {
            files.push(path);
        }
    }
}

#[test]
fn cited_rules_are_in_the_rules() {
    let known = known_rules();
    assert!(known.contains("4.9") && known.contains("8 \"Tasks\"") && known.contains("2"), "{known:?}");
    let mut files = vec![Path::new(ROOT).join("README.md")];
    for folder in ["src", "tests", "docs", "examples", "benches"] {
        source_files(&Path::new(ROOT).join(folder), &mut files);
    }
    let mut unknown = BTreeSet::new();
    for file in files.iter().filter(|file| !file.ends_with("docs_links.rs")) {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        for rule in cited_rules(&text).into_iter().filter(|rule| !known.contains(rule)) {
            unknown.insert(format!("{}: rule {rule}", file.strip_prefix(ROOT).unwrap_or(file).display()));
        }
    }
    assert_eq!(unknown, BTreeSet::new());
}

#[test]
fn links_anchors_and_citations_are_found() {
    assert_eq!(links("[a](b.md) and [c](#d-e)."), ["b.md", "#d-e"]);
    let page =
        prose("# A `b`, c!\n```sh\n# no heading\n```\n## 4.9 Health of an instance\n## 4.9 Health of an instance\n");
    let expected = ["49-health-of-an-instance", "49-health-of-an-instance-1", "a-b-c"];
    assert_eq!(anchors(&page).into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(normal(Path::new("docs/../README.md")), Some(PathBuf::from("README.md")));
    assert_eq!(normal(Path::new("docs/../../README.md")), None);
    assert_eq!(cited_rules("(rule 4.9). rule 8 \"Tasks\"; a rule of thumb, rule 2"), ["4.9", "8 \"Tasks\"", "2"]);
}
