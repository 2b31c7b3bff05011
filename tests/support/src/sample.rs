//! The sample configuration, as an operator uses it: completed by `prepare`, and copied to the folder of each server.

use crate::client::{connect, Client};
use crate::server::{module_path, new_folder, next_port, ServerKind};
use crate::wait::wait_until;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A folder with the completed sample configuration.
pub struct Sample {
    pub folder: PathBuf,
    passwords: BTreeMap<String, String>,
}

impl Sample {
    /// Completes the files of the repository, beside the library under test.
    pub fn of_repository() -> Sample {
        let folder = new_folder();
        for entry in crate::repository().join("packaging").read_dir().expect("the samples").flatten() {
            fs::copy(entry.path(), folder.join(entry.file_name())).expect("a sample");
        }
        fs::copy(module_path(), folder.join("libredis_deploy.so")).expect("the library");
        Sample::complete(&folder)
    }

    /// Completes the files in a folder by `prepare`.
    pub fn complete(folder: &Path) -> Sample {
        // From elsewhere: the script finds its folder by itself.
        let prepared = Command::new(folder.join("prepare")).current_dir("/").output().expect("a shell");
        assert!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));
        let passwords = fs::read_to_string(folder.join("passwords")).expect("the passwords");
        let pairs = passwords.lines().filter_map(|line| line.split_once(' '));
        let passwords = pairs.map(|(user, password)| (user.to_string(), password.to_string())).collect();
        Sample { folder: folder.to_path_buf(), passwords }
    }

    pub fn users(&self) -> Vec<&str> {
        self.passwords.keys().map(String::as_str).collect()
    }

    pub fn password(&self, user: &str) -> &str {
        self.passwords.get(user).unwrap_or_else(|| panic!("no password of {user}"))
    }

    pub fn url(&self, user: &str, port: u16) -> String {
        format!("redis://{user}:{}@127.0.0.1:{port}/", self.password(user))
    }

    /// Returns a client that has logged in, or None where there is no server, or it has cut the connection again.
    pub fn try_log_in(&self, user: &str, port: u16) -> Option<Client> {
        let mut client = connect(port)?;
        client.try_call(&["AUTH", user, self.password(user)]).ok().map(|_| client)
    }

    pub fn log_in(&self, user: &str, port: u16) -> Client {
        let mut client = connect(port).expect("a server");
        client.call(&["AUTH", user, self.password(user)]);
        client
    }

    /// Starts a server from `redis-deploy.conf`: on a free port, and with its files in a folder of its own.
    pub fn server(&self, kind: ServerKind) -> SampleServer {
        let (port, folder) = (next_port(), new_folder());
        let text = fs::read_to_string(self.folder.join("redis-deploy.conf")).expect("the sample");
        let changes =
            [("port 6379", format!("port {port}")), ("# dir /var/lib/redis", format!("dir {}", folder.display()))];
        let config = write_changed(&folder, "redis-deploy.conf", text, &changes);
        let monitoring = self.password("monitoring").to_string();
        let mut server = SampleServer { kind, port, config, folder, monitoring, child: None };
        server.start();
        server
    }

    /// Starts a sentinel from `sentinel.conf`: on a free port, alone, and quicker to find that the primary is down.
    pub fn sentinel(&self, kind: ServerKind, primary: u16) -> SampleServer {
        let (port, folder) = (next_port(), new_folder());
        let text = fs::read_to_string(self.folder.join("sentinel.conf")).expect("the sample");
        let changes = [
            ("port 26379", format!("port {port}\nlogfile server.log\ndir {}", folder.display())),
            ("sentinel monitor deploy 127.0.0.1 6379 2", format!("sentinel monitor deploy 127.0.0.1 {primary} 1")),
            ("down-after-milliseconds deploy 5000", "down-after-milliseconds deploy 1000".to_string()),
            ("failover-timeout deploy 60000", "failover-timeout deploy 10000".to_string()),
        ];
        let config = write_changed(&folder, "sentinel.conf", text, &changes);
        let mut sentinel = SampleServer { kind, port, config, folder, monitoring: String::new(), child: None };
        sentinel.spawn(&["--sentinel"]);
        sentinel
    }
}

/// Writes a configuration with some of its lines changed, all of which have to be there.
fn write_changed(folder: &Path, name: &str, mut text: String, changes: &[(&str, String)]) -> PathBuf {
    for (from, to) in changes {
        assert_eq!(text.matches(from).count(), 1, "{from} in {name}");
        text = text.replace(from, to);
    }
    fs::write(folder.join(name), text).expect("our own folder");
    folder.join(name)
}

/// A server or a sentinel that was started from the sample configuration. It is killed when this is dropped.
pub struct SampleServer {
    kind: ServerKind,
    pub port: u16,
    config: PathBuf,
    folder: PathBuf,
    /// Password of the user that asks whether it has loaded its data.
    monitoring: String,
    child: Option<Child>,
}

impl SampleServer {
    /// Starts the server again, from its own file, which the server or a sentinel may have rewritten.
    pub fn start(&mut self) {
        self.spawn(&["--logfile", "server.log"]);
        wait_until("the server to have loaded its data", || {
            let ended = self.child.as_mut().expect("started above").try_wait().expect("our own child");
            assert!(ended.is_none(), "the server did not start: {ended:?}\n{}", self.log());
            self.has_loaded()
        });
    }

    fn has_loaded(&self) -> bool {
        let Some(mut client) = connect(self.port) else { return false };
        let logged_in = client.try_call(&["AUTH", "monitoring", &self.monitoring]);
        let info = logged_in.and_then(|_| client.try_call(&["INFO", "persistence"]));
        info.is_ok_and(|info| crate::reply::text(&info).contains("\r\nloading:0\r\n"))
    }

    fn spawn(&mut self, arguments: &[&str]) {
        let mut command = Command::new(self.kind.binary().expect("a server that is tested"));
        command.arg(&self.config).args(arguments).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("a server"));
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill(); // it may have ended
            let _ = child.wait();
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }
}

impl Drop for SampleServer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("-- log of the server on port {}:\n{}", self.port, self.log());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
