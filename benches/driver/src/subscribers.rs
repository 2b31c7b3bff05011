//! Subscribers that read what they are sent and do nothing with it. One thread reads for all of them, in turns of a
//! millisecond, so that they take as little of the machine as they can.

use crate::resp::{command, Conn};
use crate::server::Target;
use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

const TURN: Duration = Duration::from_millis(1);
/// So many turns without a byte, and everything has arrived. Counted in the reader's own turns: on a busy machine it may
/// have had none for a while.
const QUIET: u64 = 8;

pub struct Subscribers {
    received: Arc<AtomicU64>,
    turns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Subscribers {
    /// So many connections, each subscribed to all `channels`.
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
        let (received, turns, stop) = (counter(), counter(), Arc::new(AtomicBool::new(false)));
        let (bytes, done, ends) = (received.clone(), turns.clone(), stop.clone());
        let reader = std::thread::spawn(move || read_all(&conns, &bytes, &done, &ends));
        Subscribers { received, turns, stop, reader: Some(reader) }
    }

    /// Waits until nothing is on its way any more, so that nobody's next round pays for it.
    pub fn settle(&self) {
        loop {
            let (received, turns) = (self.received(), self.turns.load(Ordering::Relaxed));
            while self.turns.load(Ordering::Relaxed) < turns + QUIET {
                std::thread::sleep(TURN);
            }
            if self.received() == received {
                return;
            }
        }
    }

    /// Bytes that all of them have got.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

fn read_all(conns: &[Conn], received: &AtomicU64, turns: &AtomicU64, stop: &AtomicBool) {
    let mut buffer = vec![0; 256 * 1024];
    while !stop.load(Ordering::Relaxed) {
        for conn in conns {
            loop {
                match conn.stream().read(&mut buffer) {
                    Ok(0) => panic!("a subscriber was cut off"),
                    Ok(bytes) => received.fetch_add(bytes as u64, Ordering::Relaxed),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("a subscriber: {error}"),
                };
            }
        }
        turns.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(TURN);
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
