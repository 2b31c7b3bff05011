//! Options of a test run, read from its environment.

use crate::wait::unix_ms;
use std::io::Write;

/// Returns whether the long variants are to be run (`REDIS_DEPLOY_LONG=1`), as `scripts/test all` does.
pub fn is_long_run() -> bool {
    std::env::var_os("REDIS_DEPLOY_LONG").is_some_and(|value| value == "1")
}

/// Returns whether golden files are to be written anew instead of compared (`UPDATE_GOLDEN=1`).
pub fn updates_golden() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1")
}

/// Returns whether a time has passed before which the calling test had to get here. If so, it is recorded as skipped.
#[track_caller]
pub fn skip_if_past(due_ms: u64) -> bool {
    let is_past = unix_ms() >= due_ms;
    if is_past {
        let caller = std::panic::Location::caller();
        // With one test thread, tests run on the main one.
        let name = std::thread::current().name().filter(|name| *name != "main").map(str::to_string);
        let name = name.unwrap_or_else(|| format!("{}:{}", caller.file(), caller.line()));
        skip(&name, "the machine is too slow for this test");
    }
    is_past
}

/// Records that a test could not tell anything, for a reason that is not the module's, such as a machine too slow for
/// its times. Appends a line to the file that `REDIS_DEPLOY_SKIPPED` names, which `scripts/test` counts.
pub fn skip(name: &str, reason: &str) {
    let line = format!("test-skipped: {name}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("REDIS_DEPLOY_SKIPPED") {
        // One write of a short line in append mode: those of other test processes stay whole.
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.to_string_lossy()));
    }
}
