//! The demo, with real processes: a canary, its promotion, a broken version that is reverted, and versions that change
//! while callers hold sessions. No call fails, no session is cut off, and no process is left over.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use test_support::prelude::*;
use test_support::processes::example;

/// The number before a word.
fn before(word: &str, line: &str) -> u64 {
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|w| w.trim_end_matches(',') == word).unwrap_or_else(|| panic!("no {word}: {line}"));
    words[at - 1].parse().unwrap_or_else(|_| panic!("no number before {word}: {line}"))
}

fn example_processes(server: &Server) -> Vec<u32> {
    let url = format!("127.0.0.1:{}", server.port);
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    let of_demo = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("/coordinator\0") && line.contains(&url)
    };
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(of_demo).collect()
}

/// Runs the demo. Returns whether it succeeded, and what it printed.
fn run_demo(server: &Server, options: &[&str]) -> (bool, String) {
    for name in ["coordinator", "http_agent"] {
        example(name); // the demo runs these
    }
    let url = format!("redis://127.0.0.1:{}/", server.port);
    let mut demo = Command::new(example("demo"));
    demo.args(["--redis", &url, "--pace-ms", "300"]).args(options).stdin(Stdio::null());
    let demo = demo.output().expect("the demo");
    let printed = [demo.stdout, demo.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (demo.status.success(), printed.concat())
}

/// The numbers of the last line: sessions that have begun, that ended normally, and that were cut off.
fn sessions_in(told: &str) -> [u64; 3] {
    let line = told.lines().rev().find(|line| line.starts_with("sessions: begun ")).expect("a line about sessions");
    let numbers = line.split([' ', ',']).filter_map(|word| word.parse().ok());
    numbers.collect::<Vec<_>>().try_into().unwrap_or_else(|numbers| panic!("{numbers:?}: {line}"))
}

#[test]
fn calls_and_sessions_succeed_throughout_the_demo() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let (success, told) = run_demo(&server, &[]);
    assert!(success, "{told}");

    let total = told.lines().find(|line| line.contains(" calls, ") && line.ends_with(" failed")).expect("the total");
    assert_eq!(before("failed", total), 0, "{told}");
    let shares: BTreeMap<u64, u64> = told
        .lines()
        .filter(|line| line.starts_with("version ") && line.contains(" answers "))
        .map(|line| {
            (
                line["version ".len()..].split(':').next().expect("a version").parse().expect("a number"),
                before("answers", line),
            )
        })
        .collect();
    assert_eq!(shares.keys().collect::<Vec<_>>(), [&1, &2, &3, &4, &5, &6], "{told}");
    assert_eq!(shares[&3], 0, "the broken version is never called\n{told}");
    for version in [1, 2, 4, 5] {
        assert!(shares[&version] > 0, "version {version} has answered nobody\n{told}");
    }
    assert_eq!(shares.values().sum::<u64>(), before("calls", &total.replace("calls,", "calls")), "{told}");

    let [begun, ended, cut_off] = sessions_in(&told);
    assert!(begun > 0, "{told}");
    assert_eq!((ended, cut_off), (begun, 0), "{told}");
    let last = told.lines().last().expect("a line");
    assert_eq!(last, format!("sessions: begun {begun}, ended normally {begun}, cut off: 0"));
    let began = told.lines().find(|line| line.starts_with("sessions began: ")).expect("their versions");
    for version in [4, 5, 6] {
        assert!(began.contains(&format!(" at version {version}")), "{told}");
    }

    let mut client = server.client();
    let versions = client.json(&["DEPLOY.HISTORY", "hello", "JSON"]);
    let outcomes: Vec<&str> = array(&versions).iter().map(|version| string(&version["outcome"])).collect();
    assert_eq!(outcomes, ["successful", "failed", "successful", "successful", "failed", "successful", "successful"]);
    let log = client.events_after("hello", 0);
    let returned = log.iter().find(|event| event["type"] == "deployment_started" && event["version"] == 7);
    assert_eq!(returned.map(|event| string(&event["mode"])), Some("switch_back"));
    let drained = log.iter().filter(|event| event["type"] == "agent_drained");
    assert_eq!(drained.filter(|event| event["forced"] == true).count(), 0);
    assert_eq!(array(&client.status("hello")["instances"]).len(), 0);
    assert_eq!(example_processes(&server), Vec::<u32>::new());
}

/// Checks that the demo counts what it says about sessions.
#[test]
fn sessions_are_cut_off_without_a_drain() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let (success, told) = run_demo(&server, &["--drain-ms", "0"]);
    assert!(!success, "{told}");
    let [begun, ended, cut_off] = sessions_in(&told);
    assert!(cut_off > 0, "{told}");
    assert_eq!(begun, ended + cut_off, "{told}");
    assert_eq!(example_processes(&server), Vec::<u32>::new());
}

#[test]
fn interrupted_demo_leaves_no_process() {
    let server = Server::start(ServerKind::Redis70, &[]);
    let url = format!("redis://127.0.0.1:{}/", server.port);
    let folder = new_folder(); // killed, it cannot tidy up
    for how in ["INT", "KILL"] {
        let mut demo = Command::new(example("demo"))
            .args(["--redis", &url, "--pace-ms", "60000"])
            .env("TMPDIR", &folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the demo");
        let mut client = server.client();
        wait_until("its agents to run", || {
            let services = client.try_call(&["DEPLOY.RESOLVE", "hello", "JSON"]);
            services.is_ok_and(|services| text(&services).matches("\"instance\":").count() == 3)
        });
        let services = client.json(&["DEPLOY.RESOLVE", "hello", "JSON"]);
        let ports: Vec<u16> = array(&services).iter().map(|service| number(&service["port"]) as u16).collect();
        assert_eq!(ports.len(), 3);
        test_support::processes::signal(demo.id(), how);
        wait_until("the demo to end", || demo.try_wait().expect("our own child").is_some());
        wait_until("its coordinator to end", || example_processes(&server).is_empty());
        for port in ports {
            assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "{how}: an agent is still there");
        }
        client.call(&["DEL", "hello"]);
    }
    std::fs::remove_dir_all(folder).expect("a folder of our own");
}
