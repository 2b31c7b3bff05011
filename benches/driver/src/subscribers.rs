//! Subscribers that discard their messages. One thread polls all of them every millisecond, to use little CPU.

use crate::resp::{command, Conn};
use crate::server::Target;
use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// Number of polls without data after which all messages count as received. Time alone would not do: on a busy machine
/// the thread may not run for a while.
const QUIET_POLLS: u64 = 8;

/// Subscribed connections, and the thread that reads them.
pub struct Subscribers {
    received: Arc<AtomicU64>,
    polls: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Subscribers {
    /// Opens `count` connections, each subscribed to all `channels`.
    pub fn start(target: Target, count: usize, channels: &[String]) -> Subscribers {
        let words: Vec<&str> = std::iter::once("SUBSCRIBE").chain(channels.iter().map(String::as_str)).collect();
        let mut conns = Vec::new();
        for _ in 0..count {
            let mut conn = Conn::to(target.port);
            conn.send(&command(&words));
            conn.skip_all(channels.len());
            conn.stream().set_nonblocking(true).expect("a socket option");
            conns.push(conn);
        }
        let counter = || Arc::new(AtomicU64::new(0));
        let (received, polls, stop) = (counter(), counter(), Arc::new(AtomicBool::new(false)));
        let (bytes, done, ends) = (received.clone(), polls.clone(), stop.clone());
        let reader = std::thread::spawn(move || read_all(&conns, &bytes, &done, &ends));
        Subscribers { received, polls, stop, reader: Some(reader) }
    }

    /// Waits until all messages are received, so that the next run is not charged for them.
    pub fn settle(&self) {
        loop {
            let (received, polls) = (self.received(), self.polls.load(Ordering::Relaxed));
            while self.polls.load(Ordering::Relaxed) < polls + QUIET_POLLS {
                std::thread::sleep(POLL_INTERVAL);
            }
            if self.received() == received {
                return;
            }
        }
    }

    /// Returns the number of bytes received by all connections.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// Polls all connections until `stop` is set.
fn read_all(conns: &[Conn], received: &AtomicU64, polls: &AtomicU64, stop: &AtomicBool) {
    let mut buffer = vec![0; 256 * 1024];
    while !stop.load(Ordering::Relaxed) {
        for conn in conns {
            loop {
                match conn.stream().read(&mut buffer) {
                    Ok(0) => panic!("a subscriber was disconnected"),
                    Ok(bytes) => received.fetch_add(bytes as u64, Ordering::Relaxed),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("a subscriber: {error}"),
                };
            }
        }
        polls.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(POLL_INTERVAL);
    }
}

impl Drop for Subscribers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
