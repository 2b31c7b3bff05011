//! Replication stream of a primary, read as by a replica.

use crate::resp::{command, Conn, Reply};
use crate::server::Target;
use std::collections::BTreeMap;

/// Connection that receives the replication stream.
pub struct ReplicationStream {
    conn: Conn,
}

/// Commands of one name in the stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub commands: u64,
    pub bytes: u64,
    /// Bytes of the last arguments alone.
    pub last_argument_bytes: u64,
}

impl ReplicationStream {
    /// Connects as a replica. The stream begins with the changes after this call.
    pub fn of(primary: Target) -> ReplicationStream {
        let mut conn = primary.conn();
        conn.send(&command(&["SYNC"]));
        // The primary sends empty lines as keepalive until the RDB file is ready.
        let length = loop {
            let line = String::from_utf8_lossy(conn.line()).into_owned();
            if let Some(length) = line.strip_prefix('$') {
                break length.parse().expect("an RDB file with its length");
            }
            assert!(line.is_empty(), "unexpected line from the primary: {line}");
        };
        conn.discard(length);
        ReplicationStream { conn }
    }

    /// Runs `work` and counts the commands that it replicates, by name.
    pub fn tally(&mut self, primary: Target, work: impl FnOnce(&mut Conn)) -> BTreeMap<String, Tally> {
        const END: [&str; 3] = ["SET", "bench:end-of-work", "1"];
        let mut conn = primary.conn();
        work(&mut conn);
        conn.call(&END);
        let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
        loop {
            let before = self.conn.consumed();
            let words: Vec<Vec<u8>> = self.conn.reply().array().into_iter().map(Reply::bytes).collect();
            if words.iter().zip(END).all(|(word, end)| word == end.as_bytes()) {
                return tallies;
            }
            let name = words.first().map(|name| String::from_utf8_lossy(name).to_uppercase()).unwrap_or_default();
            let tally = tallies.entry(name).or_default();
            tally.commands += 1;
            tally.bytes += self.conn.consumed() - before;
            tally.last_argument_bytes += words.last().map_or(0, Vec::len) as u64;
        }
    }
}

/// Returns the mean size of the change that the module replicates for one report.
pub fn payload_of_one(
    target: Target,
    reports: &mut impl FnMut(Option<usize>, u64, &mut Vec<u8>),
    agents: usize,
) -> usize {
    let count = agents * 2;
    let tallies = ReplicationStream::of(target).tally(target, |conn| {
        conn.many(count, |n, out| reports(None, n as u64, out));
    });
    let applied = tallies.get("DEPLOY.APPLY").copied().unwrap_or_default();
    assert_eq!(applied.commands, count as u64, "one command for each report: {tallies:?}");
    (applied.last_argument_bytes / applied.commands) as usize
}
