//! `redis-cli` in a pipe, on a terminal, and with a line that is being typed.
//!
//! The terminal is that of `script`, which every Debian has.

use crate::server::Server;
use crate::wait::wait_until;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

fn cli(server: &Server) -> Vec<String> {
    ["redis-cli".to_string(), "-p".to_string(), server.port.to_string()].into()
}

/// Returns what redis-cli prints to a pipe.
pub fn redis_cli(server: &Server, words: &[&str]) -> Vec<String> {
    let cli = cli(server);
    let output = Command::new(&cli[0]).args(&cli[1..]).args(words).stdin(Stdio::null()).output().expect("redis-cli");
    printed(&output.stdout)
}

/// Returns what redis-cli prints to a terminal of 100 columns.
pub fn on_terminal(server: &Server, words: &[&str]) -> Vec<String> {
    let output = terminal(&format!("exec {} {}", cli(server).join(" "), words.join(" ")), 100)
        .stdin(Stdio::null())
        .output()
        .expect("script");
    printed(&output.stdout)
}

fn printed(output: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(output).lines().map(|line| line.trim_end().to_string()).collect()
}

fn terminal(command: &str, columns: usize) -> Command {
    let mut script = Command::new("script");
    // redis-cli keeps a history file at home.
    script.args(["-qec", &format!("stty cols {columns} rows 50; {command}"), "/dev/null"]);
    script.env("TERM", "xterm").env("HOME", std::env::temp_dir());
    script
}

/// An interactive redis-cli.
pub struct Session {
    script: Child,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Session {
    /// Starts it and waits for its prompt.
    pub fn start(server: &Server) -> Session {
        let mut script = terminal(&format!("exec {}", cli(server).join(" ")), 500)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script");
        let mut output = script.stdout.take().expect("a pipe");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = seen.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut buffer) {
                into.lock().expect("no holder panics").extend_from_slice(&buffer[..read]);
            }
        });
        let session = Session { script, seen };
        wait_until("redis-cli's prompt", || session.screen().contains(&format!(":{}>", server.port)));
        session
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("no holder panics")).into_owned()
    }

    /// Types words, waits for the hint behind them, and deletes the words again.
    pub fn expect_hint(&mut self, words: &str, hint: &str) {
        let before = self.screen().len();
        self.type_in(words);
        // The hint is in another colour, so it comes behind an escape sequence.
        wait_until(&format!("`{hint}` behind `{words}`"), || {
            self.screen().get(before..).is_some_and(|new| new.contains(&format!("m{hint}")))
        });
        self.type_in("\x15");
    }

    fn type_in(&mut self, keys: &str) {
        let keyboard = self.script.stdin.as_mut().expect("a pipe");
        keyboard.write_all(keys.as_bytes()).and_then(|()| keyboard.flush()).expect("a keyboard");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The end of the terminal ends redis-cli.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}
