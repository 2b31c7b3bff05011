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
/// So long without a byte, and everything has arrived.
const QUIET: Duration = Duration::from_millis(15);

pub struct Subscribers {
    received: Arc<AtomicU64>,
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
        let (received, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ends) = (received.clone(), stop.clone());
        let reader = std::thread::spawn(move || read_all(&conns, &count, &ends));
        Subscribers { received, stop, reader: Some(reader) }
    }

    /// Waits until nothing is on its way any more, so that nobody's next round pays for it.
    pub fn settle(&self) {
        let mut before = self.received.load(Ordering::Relaxed);
        loop {
            std::thread::sleep(QUIET);
            let now = self.received.load(Ordering::Relaxed);
            if now == before {
                return;
            }
            before = now;
        }
    }

    /// Bytes that all of them have got.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

fn read_all(conns: &[Conn], received: &AtomicU64, stop: &AtomicBool) {
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
