//! Contests: several ways to do a thing take turns at it, round by round and in changing order, so that whatever else
//! the machine does falls on all of them. A ratio is taken within a round and is then the median of the rounds.

use crate::resp::{Conn, Seen};
use crate::server::Target;
use std::time::{Duration, Instant};

/// How commands are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// One connection; two batches of so many commands are on their way at any time.
    Pipelined(usize),
    /// So many connections, each waiting for its reply before its next command.
    Connections(usize),
}

/// What one round gave.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Operations per second.
    pub rate: f64,
    /// CPU time of the server per operation.
    pub cpu_us: f64,
    /// From sending to the reply; None where commands were sent ahead of replies.
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    /// Bytes of replies per operation.
    pub reply_bytes: f64,
}

/// One way to do the thing.
pub trait Contestant {
    fn name(&self) -> &'static str;
    fn target(&self) -> Target;
    /// Does it for about so long: operations done, time taken, bytes of replies, and in `latencies` the ns of each
    /// where they are known.
    fn work(&mut self, sending: Sending, time: Duration, latencies: &mut Vec<u64>) -> Done;

    fn round(&mut self, sending: Sending, time: Duration) -> Sample {
        let mut latencies = Vec::new();
        let cpu = self.target().cpu_ns();
        let done = self.work(sending, time, &mut latencies);
        let cpu = self.target().cpu_ns() - cpu;
        latencies.sort_unstable();
        let at = |percent| (!latencies.is_empty()).then(|| percentile(&latencies, percent) / 1e3);
        let operations = done.operations.max(1) as f64;
        Sample {
            rate: done.operations as f64 / done.took.as_secs_f64(),
            cpu_us: cpu as f64 / 1e3 / operations,
            p50_us: at(50.0),
            p99_us: at(99.0),
            reply_bytes: done.reply_bytes as f64 / operations,
        }
    }
}

pub struct Done {
    pub operations: u64,
    pub took: Duration,
    pub reply_bytes: u64,
}

/// The value at or below which so many percent of the sorted values lie.
pub fn percentile(sorted: &[u64], percent: f64) -> f64 {
    let place = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted.get(place.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0) as f64
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// What the reply to a command must be: anything else would be another command than the one that is measured.
#[derive(Debug, Clone, Copy)]
pub enum Expected {
    /// Whatever is no error.
    Any,
    Int(i64),
    /// A bulk string that is there.
    Bytes,
    Array,
}

impl Expected {
    pub fn check(self, (kind, number): (u8, i64), name: &str) {
        let right = match self {
            Expected::Any => true,
            Expected::Int(expected) => kind == b':' && number == expected,
            Expected::Bytes => kind == b'$' && number >= 0,
            Expected::Array => kind == b'*' && number > 0,
        };
        assert!(right, "{name}: a reply {}{number}, expected {self:?}", kind as char);
    }
}

/// Appends the nth command of a connection: of one among several, or None where there is only one, which sends ahead.
pub type WriteCommand = Box<dyn FnMut(Option<usize>, u64, &mut Vec<u8>)>;

/// A contestant whose operation is one command.
pub struct OneCommand {
    pub name: &'static str,
    pub target: Target,
    pub expected: Expected,
    pub write: WriteCommand,
    /// How many commands each connection has sent: what comes next goes on from there.
    sent: Vec<u64>,
    last: Option<Seen>,
}

impl OneCommand {
    pub fn new(
        name: &'static str,
        target: Target,
        expected: Expected,
        write: impl FnMut(Option<usize>, u64, &mut Vec<u8>) + 'static,
    ) -> OneCommand {
        OneCommand { name, target, expected, write: Box::new(write), sent: Vec::new(), last: None }
    }

    /// The same command each time.
    pub fn same(name: &'static str, target: Target, expected: Expected, words: &[&str]) -> OneCommand {
        let command = crate::resp::command(words);
        OneCommand::new(name, target, expected, move |_, _, out| out.extend_from_slice(&command))
    }

    fn next(&mut self, conn: Option<usize>, out: &mut Vec<u8>) {
        let place = conn.map_or(0, |conn| conn + 1);
        if self.sent.len() <= place {
            self.sent.resize(place + 1, 0);
        }
        (self.write)(conn, self.sent[place], out);
        self.sent[place] += 1;
    }

    fn batch(&mut self, size: usize, out: &mut Vec<u8>) {
        out.clear();
        (0..size).for_each(|_| self.next(None, out));
    }

    fn pipelined(&mut self, batch: usize, time: Duration) -> Done {
        let mut conn = self.target.conn();
        let (mut out, mut operations, mut in_flight) = (Vec::new(), 0, 0);
        let start = Instant::now();
        for _ in 0..2 {
            self.batch(batch, &mut out);
            conn.send(&out);
            in_flight += batch;
        }
        while in_flight > 0 {
            for _ in 0..batch {
                self.expected.check(conn.skip_like(&mut self.last), self.name);
            }
            operations += batch as u64;
            in_flight -= batch;
            if start.elapsed() < time {
                self.batch(batch, &mut out);
                conn.send(&out);
                in_flight += batch;
            }
        }
        Done { operations, took: start.elapsed(), reply_bytes: conn.consumed() }
    }

    fn side_by_side(&mut self, count: usize, time: Duration, latencies: &mut Vec<u64>) -> Done {
        let mut conns: Vec<Conn> = (0..count).map(|_| self.target.conn()).collect();
        let mut sent_at = Vec::new();
        let (mut out, mut operations) = (Vec::new(), 0);
        let start = Instant::now();
        for (n, conn) in conns.iter_mut().enumerate() {
            out.clear();
            self.next(Some(n), &mut out);
            sent_at.push(Instant::now());
            conn.send(&out);
        }
        let mut going_on = true;
        while going_on {
            going_on = start.elapsed() < time;
            for (n, conn) in conns.iter_mut().enumerate() {
                self.expected.check(conn.skip_like(&mut self.last), self.name);
                latencies.push(sent_at[n].elapsed().as_nanos() as u64);
                operations += 1;
                if going_on {
                    out.clear();
                    self.next(Some(n), &mut out);
                    sent_at[n] = Instant::now();
                    conn.send(&out);
                }
            }
        }
        let reply_bytes = conns.iter().map(Conn::consumed).sum();
        Done { operations, took: start.elapsed(), reply_bytes }
    }
}

impl Contestant for OneCommand {
    fn name(&self) -> &'static str {
        self.name
    }

    fn target(&self) -> Target {
        self.target
    }

    fn work(&mut self, sending: Sending, time: Duration, latencies: &mut Vec<u64>) -> Done {
        match sending {
            Sending::Pipelined(batch) => self.pipelined(batch, time),
            Sending::Connections(count) => self.side_by_side(count, time, latencies),
        }
    }
}

/// What a contest gave: for each contestant, in the order in which they were given, a sample of each round.
pub struct Outcome {
    names: Vec<&'static str>,
    samples: Vec<Vec<Sample>>,
}

impl Outcome {
    fn of(&self, name: &str) -> &[Sample] {
        let place = self.names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("no contestant {name}"));
        &self.samples[place]
    }

    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    pub fn median_of(&self, name: &str, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(self.of(name).iter().map(figure).collect())
    }

    /// Operations per second.
    pub fn rate(&self, name: &str) -> f64 {
        self.median_of(name, |sample| sample.rate)
    }

    pub fn cpu_us(&self, name: &str) -> f64 {
        self.median_of(name, |sample| sample.cpu_us)
    }

    /// How many times as many operations per second the one did as the other.
    pub fn ratio(&self, name: &str, than: &str) -> f64 {
        median(self.of(name).iter().zip(self.of(than)).map(|(a, b)| a.rate / b.rate).collect())
    }

    /// The same by the server's CPU time, which the machine's other work disturbs less.
    pub fn cpu_ratio(&self, name: &str, than: &str) -> f64 {
        median(self.of(name).iter().zip(self.of(than)).map(|(a, b)| b.cpu_us / a.cpu_us).collect())
    }
}

/// Has them take turns. `settle` is called between one's turn and the next one's.
pub fn contest(
    contestants: &mut [Box<dyn Contestant>],
    sending: Sending,
    rounds: usize,
    time: Duration,
    mut settle: impl FnMut(),
) -> Outcome {
    let count = contestants.len();
    let mut samples = vec![Vec::new(); count];
    for contestant in contestants.iter_mut() {
        contestant.round(sending, time / 5);
        settle();
    }
    for round in 0..rounds {
        for turn in 0..count {
            let place = (round + turn) % count;
            samples[place].push(contestants[place].round(sending, time));
            settle();
        }
    }
    Outcome { names: contestants.iter().map(|c| c.name()).collect(), samples }
}
