//! The package of `scripts/package` is complete: unpacked, the sample configuration starts a server with the module
//! and its users, with nothing else of this repository.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use test_support::prelude::*;

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

/// Ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As the first lines of the sample say, but on a free port.
fn start(kind: ServerKind, folder: &Path) -> (Process, u16) {
    let port = next_port();
    let mut command = Command::new(kind.binary().expect("a server that there is"));
    command.args(["./redis-deploy.conf", "--logfile", "server.log", "--port", &port.to_string()]).current_dir(folder);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map(Process).expect("a server");
    wait_until("the server to answer", || {
        let log = || std::fs::read_to_string(folder.join("server.log")).unwrap_or_default();
        let ended = child.0.try_wait().expect("our own child");
        assert!(ended.is_none(), "the server did not start: {ended:?}\n{}", log());
        connect(port).is_some_and(|mut client| client.try_call(&["PING"]).is_err_and(|e| e.starts_with("NOAUTH")))
    });
    (child, port)
}

fn log_in(port: u16, name: &str) -> Client {
    let mut client = connect(port).expect("a connection");
    client.call(&["AUTH", name, &format!("change-me-{name}")]);
    client
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
        "prometheus.lua",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "docs/commands.md",
        "docs/operations.md",
        "examples/coordinator.py",
    ] {
        assert!(unpacked.join(file).metadata().is_ok_and(|file| file.len() > 0), "{file}");
    }
    on_each_server(|kind| {
        let (server, port) = start(kind, &unpacked);
        let (mut operator, mut coordinator) = (log_in(port, "operator"), log_in(port, "coordinator"));
        operator.deploy("agent-api", &manifest(&AGENTS, "small"), &QUICK);
        let task = coordinator.tasks("agent-api").remove(0);
        assert_eq!(task["task"], "start");
        coordinator.carry_out_tasks("agent-api");
        let register = ["DEPLOY.REGISTER", "agent-api", "agent-1", "web", "INSTANCE", "i", "ADDRESS", "h", "PORT", "1"];
        coordinator.call(&register);
        coordinator.wait_for_status("agent-api", "successful");
        assert_eq!(items(&log_in(port, "caller").call(&["DEPLOY.RESOLVE", "agent-api"])).len(), 1);
        assert_eq!(log_in(port, "reader").status("agent-api")["by"], "operator");
        let mut monitoring = log_in(port, "monitoring");
        assert_eq!(monitoring.info("deploy", "deploy_deployments_successful"), "1");
        // As redis_exporter calls it: names and numbers in turn, one pair for each of INFO's.
        let script = std::fs::read_to_string(unpacked.join("prometheus.lua")).expect("packed");
        let numbers = Fields::of(&monitoring.call(&["EVAL", &script, "0", "0"]));
        assert_eq!(numbers.text("deploy_deployments_successful"), "1");
        let info = text(&monitoring.call(&["INFO", "deploy"]));
        assert_eq!(numbers.0.len(), info.lines().filter(|line| line.starts_with("deploy_")).count());
        let values = Fields::of(&monitoring.call(&["CONFIG", "GET", "deploy.*"])).0;
        let values: BTreeMap<String, String> = values.into_iter().map(|(name, value)| (name, text(&value))).collect();
        // "All at their defaults", as the sample says: a server without it has the same.
        let plain = Server::start(kind, &[]);
        let defaults = Fields::of(&plain.client().call(&["CONFIG", "GET", "deploy.*"])).0;
        assert_eq!(values, defaults.into_iter().map(|(name, value)| (name, text(&value))).collect());
        operator.call(&["DEPLOY.STOP", "agent-api"]);
        drop(server);
        std::fs::remove_dir_all(unpacked.join("appendonlydir")).expect("the sample is persistent");
    });
    std::fs::remove_dir_all(&folder).expect("our own folder");
}

/// The packed clients, as the user that the sample has for them.
#[test]
fn sample_coordinators_work_with_the_sample_acl() {
    let folder = new_folder();
    let unpacked = unpack(&package(&folder), &folder);
    let (server, port) = start(ServerKind::Redis70, &unpacked);
    let url = format!("redis://coordinator:change-me-coordinator@127.0.0.1:{port}/");
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
    let mut operator = log_in(port, "operator");
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
    drop(server);
    std::fs::remove_dir_all(&folder).expect("our own folder");
}
