//! The package of `scripts/package` is complete: unpacked and prepared, the sample configuration starts a server with
//! the module and its users, with nothing else of this repository; and its pages speak only of what is in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use test_support::prelude::*;
use test_support::sample::Sample;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn package(into: &Path) -> PathBuf {
    let mut command = Command::new(Path::new(ROOT).join("scripts/package"));
    let output = command.arg(into).env("REDIS_DEPLOY_MODULE", module_path()).output().expect("bash");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

fn unpack(tarball: &Path, into: &Path) -> PathBuf {
    let status = Command::new("tar").arg("xzf").arg(tarball).arg("-C").arg(into).status().expect("tar");
    assert!(status.success());
    let mut folders: Vec<PathBuf> =
        into.read_dir().expect("our own folder").flatten().map(|e| e.path()).filter(|path| path.is_dir()).collect();
    assert_eq!(folders.len(), 1, "one folder, of its own name: {folders:?}");
    folders.remove(0)
}

#[test]
fn tarball_starts_a_server_with_working_users() {
    let folder = new_folder();
    let tarball = package(&folder);
    let name = tarball.file_name().expect("a file").to_string_lossy().into_owned();
    assert_eq!(name, format!("redis-deploy-{}-linux-{}.tar.gz", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH));
    let sum = Command::new("sha256sum").args(["--check", &format!("{name}.sha256")]).current_dir(&folder).output();
    assert!(sum.expect("sha256sum").status.success());
    let first = std::fs::read(&tarball).expect("the tarball");
    assert_eq!(
        std::fs::read(package(&folder)).expect("the tarball"),
        first,
        "packed again it is the same, byte for byte"
    );

    let unpacked = unpack(&tarball, &folder);
    for file in [
        "libredis_deploy.so",
        "redis-deploy.conf",
        "sentinel.conf",
        "prepare",
        "prometheus.sh",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "docs/commands.md",
        "docs/operations.md",
        "examples/coordinator.py",
    ] {
        assert!(unpacked.join(file).metadata().is_ok_and(|file| file.len() > 0), "{file}");
    }
    let sample = Sample::complete(&unpacked);
    on_each_server(|kind| {
        let server = sample.server(kind);
        let log_in = |user: &str| sample.log_in(user, server.port);
        let (mut operator, mut coordinator) = (log_in("operator"), log_in("coordinator"));
        operator.deploy("agent-api", &manifest(&AGENTS, "small"), &QUICK);
        let task = coordinator.tasks("agent-api").remove(0);
        assert_eq!(task["task"], "start");
        coordinator.carry_out_tasks("agent-api");
        let register = ["DEPLOY.REGISTER", "agent-api", "agent-1", "web", "INSTANCE", "i", "ADDRESS", "h", "PORT", "1"];
        coordinator.call(&register);
        coordinator.wait_for_status("agent-api", "successful");
        assert_eq!(items(&log_in("caller").call(&["DEPLOY.RESOLVE", "agent-api"])).len(), 1);
        assert_eq!(log_in("reader").status("agent-api")["by"], "operator");
        assert_eq!(log_in("monitoring").info("deploy", "deploy_deployments_successful"), "1");
        let mut admin = log_in("admin");
        let values = Fields::of(&admin.call(&["CONFIG", "GET", "deploy.*"])).0;
        let values: BTreeMap<String, String> = values.into_iter().map(|(name, value)| (name, text(&value))).collect();
        // "All at their defaults", as the sample says: a server without it has the same.
        let plain = Server::start(kind, &[]);
        let defaults = Fields::of(&plain.client().call(&["CONFIG", "GET", "deploy.*"])).0;
        assert_eq!(values, defaults.into_iter().map(|(name, value)| (name, text(&value))).collect());
        // The path of the library holds wherever the data are, and in a file that the server has rewritten.
        admin.call(&["CONFIG", "REWRITE"]);
        let mut server = server;
        server.kill();
        server.start();
        assert_eq!(sample.log_in("reader", server.port).status("agent-api")["status"], "successful");
    });
    std::fs::remove_dir_all(&folder).expect("our own folder");
}

/// Code quotes and code blocks with the name of a file or a program of the repository. A line that says so may name one
/// that is not packed.
fn paths_that_are_not_packed(unpacked: &Path) -> Vec<String> {
    let folders = ["scripts/", "tests/", "packaging/", "src/", "docs/", "examples/", "benches/", "target/", "cargo "];
    let mut missing = Vec::new();
    let pages = unpacked.join("docs").read_dir().expect("the manual").flatten().map(|entry| entry.path());
    let pages = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    for page in pages.chain([unpacked.join("README.md")]) {
        let text = std::fs::read_to_string(&page).expect("a page");
        for line in text.lines().filter(|line| !line.to_lowercase().contains("repository")) {
            let words = line
                .split(['`', ' ', '(', ')', '"', '|'])
                .chain(folders.iter().filter(|f| line.starts_with(**f)).copied());
            for word in words.filter(|word| folders.iter().any(|folder| word.starts_with(folder))) {
                if !unpacked.join(word.split('#').next().unwrap_or(word)).exists() {
                    missing.push(format!("{}: {word}: {line}", page.file_name().unwrap_or_default().to_string_lossy()));
                }
            }
        }
    }
    missing
}

#[test]
fn pages_of_the_tarball_name_only_what_is_packed() {
    let folder = new_folder();
    let unpacked = unpack(&package(&folder), &folder);
    assert_eq!(paths_that_are_not_packed(&unpacked), Vec::<String>::new());
    let readme = std::fs::read_to_string(unpacked.join("README.md")).expect("the README");
    for word in ["scripts/", "cargo", "target/", "<!--", "repository only", "tarball only", "end -->"] {
        assert!(!readme.contains(word), "{word}");
    }
    // The quick start of the README loads the library that is packed.
    let command = readme.lines().find(|line| line.starts_with("redis-server ")).expect("the quick start");
    assert_eq!(command, "redis-server --loadmodule \"$PWD/libredis_deploy.so\"");
    // No page tells anybody to load a module by a path that depends on the folder.
    for page in ["README.md", "docs/operations.md", "docs/tour.md", "redis-deploy.conf"] {
        let text = std::fs::read_to_string(unpacked.join(page)).expect("a page");
        assert!(!text.contains("loadmodule ./") && !text.contains("loadmodule lib"), "{page}");
    }
    std::fs::remove_dir_all(&folder).expect("our own folder");
}

/// Ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The packed clients, as the user that the sample has for them.
#[test]
fn sample_coordinators_work_with_the_sample_acl() {
    let folder = new_folder();
    let unpacked = unpack(&package(&folder), &folder);
    let sample = Sample::complete(&unpacked);
    let server = sample.server(ServerKind::Redis70);
    let url = sample.url("coordinator", server.port);
    let log = std::fs::File::create(folder.join("coordinators.log")).expect("a file");
    let spawn = |program: &str, script: &Path, key: &str| {
        let mut command = Command::new(program);
        command.arg(script).args([&url, key]).env("PYTHONPATH", Path::new(ROOT).join(".clients"));
        let log = || log.try_clone().expect("a file");
        Process(command.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn().expect("python3 and node"))
    };
    // From the repository, where node finds its libraries; the packed ones are the same.
    for script in ["coordinator.py", "coordinator.mjs"] {
        let read = |folder: &Path| std::fs::read(folder.join("examples").join(script)).expect("a script");
        assert_eq!(read(&unpacked), read(Path::new(ROOT)));
    }
    let examples = Path::new(ROOT).join("examples");
    let _python = spawn("python3", &examples.join("coordinator.py"), "agent-python");
    let _node = spawn("node", &examples.join("coordinator.mjs"), "agent-node");
    let mut operator = sample.log_in("operator", server.port);
    let serving = r#"{"type":"service","nodes":[{"node_id":"a","services":[{"name":"web"}]},{"node_id":"b"}]}"#;
    for key in ["agent-python", "agent-node"] {
        operator.deploy(key, serving, &QUICK);
    }
    for key in ["agent-python", "agent-node"] {
        let ended = wait_for(&format!("{key} to be successful"), || {
            let record = operator.status(key);
            let denied = std::fs::read_to_string(folder.join("coordinators.log")).unwrap_or_default();
            assert!(!denied.contains("NOPERM"), "{denied}");
            (record["status"] == "successful").then_some(record)
        });
        assert_eq!(array(&ended["services"]).len(), 1);
    }
    assert_eq!(items(&sample.log_in("admin", server.port).call(&["ACL", "LOG"])), [], "what was refused");
    std::fs::remove_dir_all(&folder).expect("our own folder");
}
