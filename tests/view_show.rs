//! DEPLOY.SHOW for every situation that an operator meets: `tests/testdata/pages/*.txt`, each a list of scenes (`==
//! title`) with what led there and the page that is seen then. `UPDATE_GOLDEN=1 cargo test --test view_show` writes
//! the pages as they are now: look at them as an operator would before committing them.
//!
//! Commands and times are those of the scenarios of `engine_scenarios`; only SHOW is answered.

use proptest::prelude::*;
use redis_deploy::engine::Record;
use redis_deploy::view::{self, DEFAULT_WIDTH, MAX_WIDTH, MIN_WIDTH};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;
use test_support::arbitrary;
use test_support::scenario::World;
use unicode_width::UnicodeWidthChar;

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/pages");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("the pages are there").map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    files
}

/// The file as it would be were its pages those that are shown.
fn played(text: &str) -> String {
    let mut out = String::new();
    let mut head = World::default(); // what the file defines before its first scene
    let mut world = World::default();
    let mut started = false;
    let mut asked = None;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        } else if line.starts_with("==") {
            if !started {
                head = world.clone();
            }
            started = true;
            world = head.clone();
        } else if line == "----" {
            while lines.next_if(|page| page.starts_with('|')).is_some() {}
            let asked: String = asked.take().expect("SHOW before `----`");
            out.push_str(&world.run(&asked));
        } else if line.ends_with(" SHOW") {
            asked = Some(line.to_string());
        } else {
            let answer = world.run(line);
            let code = answer.split(' ').next().unwrap_or_default();
            assert!(code.chars().any(|c| !c.is_ascii_uppercase()) || code.is_empty(), "{line}: {answer}");
        }
    }
    out
}

#[test]
fn show_pages_are_unchanged() {
    let update = test_support::updates_golden();
    let mut wrong = Vec::new();
    for path in files() {
        let name = path.file_name().expect("a file").to_string_lossy().to_string();
        let written = fs::read_to_string(&path).expect("readable");
        let played = played(&written);
        if update {
            fs::write(&path, &played).expect("writable");
        }
        let both = written.lines().zip(played.lines()).enumerate();
        if let Some((at, (was, is))) = both.filter(|_| !update).find(|(_, (was, is))| was != is) {
            wrong.push(format!("{name}:{}\n  - {was}\n  + {is}", at + 1));
        }
        assert!(update || written.lines().count() == played.lines().count() || !wrong.is_empty(), "{name}");
    }
    assert!(wrong.is_empty(), "pages look differently:\n\n{}\n", wrong.join("\n\n"));
}

// ---- what holds of any page -----------------------------------------------------------------------------------------

/// The most lines that a page has, whatever is on the record.
const LINES: usize = 100;

fn page(record: &Record, key: &str, now_ms: u64) -> Vec<String> {
    page_of_width(record, key, now_ms, DEFAULT_WIDTH)
}

fn page_of_width(record: &Record, key: &str, now_ms: u64, width: usize) -> Vec<String> {
    let page = view::show(record, key, now_ms, width);
    assert!(!page.is_empty() && page.len() <= LINES, "{} lines", page.len());
    for line in &page {
        assert!(columns(line) <= width, "{} columns: {line}", columns(line));
        assert_eq!(line.trim_end(), line, "blanks at the end would blink");
    }
    page
}

/// The display width of a line. No character of it may be one that a terminal acts upon or does not show.
fn columns(line: &str) -> usize {
    let mut last_was_letter = false;
    let mut columns = 0;
    for c in line.chars() {
        let width = c.width().unwrap_or_else(|| panic!("{c:?} in {line:?}"));
        assert!(width > 0 || last_was_letter, "{c:?} in {line:?}");
        assert!(!is_directive(c), "{c:?} in {line:?}");
        last_was_letter |= width > 0;
        columns += width;
    }
    columns
}

/// Characters that reorder, join or hide others, end a line, or are blank.
fn is_directive(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{a0}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202f}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{3000}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
        || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

fn texts() -> impl Strategy<Value = String> {
    let scripts = "[a\\\\ й代한ก\u{301}\u{e34}\u{200b}\u{202e}\u{1f680}]{0,300}";
    prop_oneof![".{0,300}", "[\\x00-\\x7f]{0,300}", scripts, Just("a\x1b[2J\x1b]0;x\x07\r\n\u{202e}\\".repeat(40))]
}

fn times() -> impl Strategy<Value = u64> {
    let near = 1_790_000_000_000u64;
    prop_oneof![any::<u64>(), near - 1_000_000..near + 1_000_000, Just(0), Just(u64::MAX)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// For any record and any present time.
    #[test]
    fn pages_fit_a_terminal(record in arbitrary::records(), key in texts(), now_ms in times()) {
        page(&record, &key, now_ms);
    }

    /// With untrusted strings in every text of the record, and any numbers.
    #[test]
    fn hostile_texts_stay_in_their_columns(
        record in arbitrary::records(), hostile in texts(), number in any::<u64>(), now_ms in times(),
        width in MIN_WIDTH..=MAX_WIDTH,
    ) {
        let record = spoilt(record, &hostile, number);
        page_of_width(&record, &hostile, now_ms, width);
    }
}

/// The record with every text, and many a number, replaced.
fn spoilt(mut record: Record, hostile: &str, number: u64) -> Record {
    let text: std::sync::Arc<str> = std::sync::Arc::from(hostile);
    record.revision = number;
    record.last_version = number;
    for version in std::sync::Arc::make_mut(&mut record.versions) {
        let version = std::sync::Arc::make_mut(version);
        version.by = text.clone();
        version.tag = Some(text.clone());
        version.reason = Some(text.clone());
        version.bundle = Some(text.clone());
    }
    if let Some(d) = record.deployment.as_mut().map(std::sync::Arc::make_mut) {
        d.id = text.clone();
        d.by = text.clone();
        d.reason = Some(text.clone());
        d.mode_reason = text.clone();
        d.ended = d.ended.as_ref().map(|_| text.clone());
        d.last_action.iter_mut().for_each(|action| action.by = text.clone());
        d.deferred_failure.iter_mut().for_each(|deferred| deferred.words = text.clone());
        d.changed = d.changed.iter().cloned().chain([text.clone()]).collect();
    }
    let instances: Vec<_> = record.instances.iter().cloned().collect();
    for mut instance in instances {
        record.instances.remove(&instance.key());
        instance.agent = std::sync::Arc::from(format!("{hostile}{}", instance.agent));
        instance.reason = Some(text.clone());
        instance.since = number;
        record.instances.insert(instance);
    }
    record
}

/// A reason that fits on a line of its own is on the page once, whole, whatever the width and the state of the agent.
#[test]
fn reasons_of_agents_that_are_not_healthy_are_whole() {
    let reason = "cannot open /var/lib/models/large-0042.bin: x"; // less than the narrowest line
    for (state, later) in [("failed", None), ("unready", None), ("starting", None), ("starting", Some("@9000 TICK"))] {
        for width in [MIN_WIDTH, DEFAULT_WIDTH, MAX_WIDTH] {
            let mut world = World::default();
            world.run("manifest v1 = service a-rather-long-name-of-an-agent b");
            world.run("@0 DEPLOY v1 MIN_HEALTHY_MS 1000 HEALTHY_DEADLINE_MS 5000 PROGRESS_DEADLINE_MS 60000");
            world.run(&format!("@10 REPORT a-rather-long-name-of-an-agent {state} REASON \"{reason}\""));
            later.map(|line| world.run(line));
            let page = page_of_width(world.expect_record(), "app", 9_000, width);
            let agents = page.iter().skip_while(|line| !line.starts_with("AGENT")).take_while(|line| !line.is_empty());
            // A verdict, which quotes it, may need two lines.
            let agents: Vec<&str> = agents.map(|line| line.trim()).collect();
            let told = agents.join(" ").matches(reason).count();
            assert_eq!(told, 1, "{state} at {width}: {page:#?}");
        }
    }
}

/// Where the page is too narrow for the last column of the versions, it is below them, not cut to nothing.
#[test]
fn narrow_pages_say_what_a_version_is_below_it() {
    let mut world = World::default();
    world.run("manifest v1 = service a");
    world.run("@0 DEPLOY v1 REASON \"larger model\"");
    let versions = |width| -> Vec<String> {
        let page = page_of_width(world.expect_record(), "app", 9_000, width);
        page.into_iter()
            .skip_while(|line| !line.starts_with("VERSION IS"))
            .take_while(|line| !line.is_empty())
            .collect()
    };
    let narrow = versions(MIN_WIDTH);
    assert!(narrow[0].ends_with(" AGE") && narrow[1].ends_with(" 9s"), "{narrow:#?}");
    assert_eq!(narrow[2], "    larger model");
    let wide = versions(DEFAULT_WIDTH);
    assert!(wide[0].ends_with(" WHAT") && wide[1].ends_with(" larger model"), "{wide:#?}");
}

#[test]
fn batch_run_that_was_stopped_is_shown_as_stopped() {
    let mut world = World::default();
    world.run("manifest v1 = batch a");
    world.run("@0 DEPLOY v1");
    world.run("@10 STOP");
    world.run("@20 REPORT * stopped");
    let page = page(world.expect_record(), "app", 30);
    assert!(page.iter().any(|line| line.ends_with("the run was stopped")), "{page:#?}");
    assert!(page.iter().any(|line| line.starts_with("1 ") && line.contains(" stopped ")), "{page:#?}");
}

/// Events of one kind in a row have one line, each failure its own.
#[test]
fn events_in_a_row_are_folded_and_failures_never() {
    let mut world = World::default();
    world.run("manifest v1 = service a b c d e");
    world.run("@0 DEPLOY v1 MIN_HEALTHY_MS 1000 HEALTHY_DEADLINE_MS 5000 PROGRESS_DEADLINE_MS 60000");
    for agent in ["a", "b", "c", "d", "e"] {
        world.run(&format!("@10 REPORT {agent} starting"));
    }
    world.run("@6000 TICK");
    let events = |world: &World| -> Vec<String> {
        let page = page(world.expect_record(), "app", 7_000);
        page.into_iter().skip_while(|line| !line.starts_with("UTC")).skip(1).collect()
    };
    let failures = events(&world).iter().filter(|line| line.contains("agent_unhealthy")).count();
    assert_eq!(failures, 5);

    world.run("@8000 STOP");
    let last = events(&world).pop().expect("a line");
    assert!(last.contains("task_issued") && last.contains("5 times, last: stop e v1, by ops"), "{last}");
}

#[test]
fn names_and_reasons_of_other_scripts_are_printed() {
    let mut world = World::default();
    world.run("manifest v1 = service агент-1 агент-2 代理");
    world.run("@0 DEPLOY v1 REASON \"größer ключ 更快\"");
    let page = page(world.expect_record(), "ключ", 20);
    for start in ["ключ ", "by          ops: größer ключ 更快", "агент-1  1 ", "агент-2  1 ", "代理     1 "]
    {
        assert!(page.iter().any(|line| line.starts_with(start)), "{start}: {page:#?}");
    }
}

#[test]
fn hostile_reasons_are_escaped() {
    let mut world = World::default();
    world.run("manifest v1 = service a b");
    world.run("@0 DEPLOY v1");
    world.run("@10 REPORT a failed REASON \"\u{1b}[2J\u{1b}[1;1Hall is well\r\nSTATUS: \u{202e}fine\"");
    let page = page(world.expect_record(), "app", 20);
    assert!(
        page.iter().any(|line| line.contains(r"\u{1b}[2J\u{1b}[1;1Hall is well\r\nSTATUS: \u{202e}fine")),
        "{page:?}"
    );
}

/// Within a rollout the lines that are there stay where they are: labels, agents and columns.
#[test]
fn line_positions_are_stable_during_a_rollout() {
    let mut world = World::default();
    world.run("manifest v1 = service a b c");
    world.run("manifest v2 = service a=2 b=2 c=2");
    world.run("given v1");
    let mut pages = Vec::new();
    for line in [
        "@60000 DEPLOY v2 CANARY 1",
        "@60100 REPORT a starting",
        "@61000 REPORT a ready",
        "@65000 TICK",
        "@71000 TICK",
        "@72000 PAUSE REASON lunch",
        "@73000 RESUME",
        "@74000 PROMOTE",
        "@75000 REPORT b ready",
        "@85000 TICK",
        "@86000 REPORT c ready",
        "@96000 TICK",
    ] {
        world.run(line);
        let now: u64 = line[1..6].parse().expect("a time");
        pages.push(page(world.expect_record(), "app", now + 500));
    }
    let first_words = |page: &Vec<String>| -> Vec<String> {
        let tables = page.iter().position(|line| line.starts_with("UTC")).expect("events");
        page[..tables].iter().map(|line| line.split("  ").next().unwrap_or_default().to_string()).collect()
    };
    let column = |page: &Vec<String>| page.iter().find(|line| line.starts_with("AGENT")).cloned();
    for page in &pages {
        assert_eq!(page.len(), pages[0].len(), "{page:#?}");
        assert_eq!(column(page), column(&pages[0]));
        assert_eq!(first_words(page)[1..], first_words(&pages[0])[1..]);
    }
}

/// Trouble has lines of its own, but not more than there is room for.
#[test]
fn pages_with_many_problems_fit_a_terminal() {
    let names: Vec<String> = (1..=25).map(|n| format!("worker-{n:02}")).collect();
    let mut world = World::default();
    world.run(&format!("manifest v1 = service {}", names.join(" ")));
    world.run(&format!("manifest v2 = service {}=2", names.join("=2 ")));
    for n in 0..12 {
        world.run(&format!("@{n} DEPLOY v{} TAG tag-{n} REASON \"{}\"", n % 2 + 1, "why ".repeat(200)));
    }
    for agent in &names {
        world.run(&format!("@100 REPORT {agent} failed REASON \"{}\"", "because of this and that ".repeat(40)));
    }
    let page = page(world.expect_record(), "app", 500);
    let agents = page.iter().skip_while(|line| !line.starts_with("AGENT")).take_while(|line| !line.is_empty());
    let more = agents.filter(|line| line.starts_with("    ") && !line.starts_with("     ")).count();
    // One for each, and ten that make the first reasons longer.
    assert_eq!(more, 30, "{page:#?}");
    assert!(page.iter().any(|line| line == "and 5 more: 5 unhealthy"), "{page:#?}");
}

#[test]
fn pages_with_ten_thousand_agents_fit_a_terminal() {
    let names: Vec<String> = (1..=10_000).map(|n| format!("worker-{n}")).collect();
    let mut world = World::default();
    world.run(&format!("manifest v1 = service {}", names.join(" ")));
    world.run("policy MIN_HEALTHY_MS 1000");
    world.run("@0 DEPLOY v1");
    for (agent, state) in [("worker-7000", "failed"), ("worker-6000", "starting"), ("worker-5000", "ready")] {
        world.run(&format!("@10 REPORT {agent} {state}"));
    }
    let began = Instant::now();
    let page = page(world.expect_record(), "app", 500);
    eprintln!("a page of 10,000 agents in {:?}", began.elapsed());
    let agents: Vec<&String> = page.iter().skip_while(|line| !line.starts_with("AGENT")).skip(1).collect();
    assert!(agents[0].starts_with("worker-7000 ") && agents[0].contains("failed"), "{page:#?}");
    let more = agents.iter().find(|line| line.starts_with("and ")).expect("the rest, counted");
    assert_eq!(**more, "and 9980 more: 9980 waiting");
    // In the order in which they go, which is that of the manifest.
    assert!(page.iter().any(|line| line.starts_with("worker-1 ")), "{page:#?}");
}
