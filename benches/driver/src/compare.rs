//! Comparison of variants: they run alternately, round by round and in rotating order, so that other load on the
//! machine affects all of them. A ratio is taken within a round, and its median over the rounds is the result.

use crate::resp::{Conn, Seen};
use crate::server::Target;
use std::time::{Duration, Instant};

/// Load that a variant puts on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// One connection with two batches of this many commands in flight.
    Pipelined(usize),
    /// This many connections, each of which waits for the reply before it sends the next command.
    Connections(usize),
}

/// Measurement of one round.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Operations per second.
    pub rate: f64,
    /// CPU time of the server per operation.
    pub cpu_us: f64,
    /// Median latency; None for a pipelined load.
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    /// Bytes of replies per operation.
    pub reply_bytes: f64,
}

/// One of the implementations that are compared.
pub trait Variant {
    /// Returns the name in the results.
    fn name(&self) -> &'static str;
    /// Returns the server that it runs on.
    fn target(&self) -> Target;
    /// Runs for about `time`. Appends the latency of each operation in ns to `latencies`, unless the load is pipelined.
    fn work(&mut self, load: Load, time: Duration, latencies: &mut Vec<u64>) -> Done;

    /// Runs and measures one round.
    fn round(&mut self, load: Load, time: Duration) -> Sample {
        let mut latencies = Vec::new();
        let cpu = self.target().cpu_ns();
        let done = self.work(load, time, &mut latencies);
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

/// Work done in one round.
pub struct Done {
    pub operations: u64,
    pub took: Duration,
    pub reply_bytes: u64,
}

/// Returns a percentile of sorted values.
pub fn percentile(sorted: &[u64], percent: f64) -> f64 {
    let index = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted.get(index.saturating_sub(1).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0) as f64
}

/// Returns the median; NaN of no values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// Expected reply. Another reply means that something else is measured, and ends the benchmark.
#[derive(Debug, Clone, Copy)]
pub enum Expected {
    /// Any reply but an error.
    Any,
    Int(i64),
    /// A bulk string, not null.
    Bytes,
    /// An array, not empty.
    Array,
}

impl Expected {
    /// Panics if a reply, as type byte and number, is not the expected one.
    pub fn check(self, (kind, number): (u8, i64), name: &str) {
        let is_expected = match self {
            Expected::Any => true,
            Expected::Int(expected) => kind == b':' && number == expected,
            Expected::Bytes => kind == b'$' && number >= 0,
            Expected::Array => kind == b'*' && number > 0,
        };
        assert!(is_expected, "{name}: reply {}{number}, expected {self:?}", kind as char);
    }
}

/// Appends the nth command of a connection. The index of the connection is None for a pipelined load.
pub type WriteCommand = Box<dyn FnMut(Option<usize>, u64, &mut Vec<u8>)>;

/// Variant whose operation is a single command.
pub struct SingleCommand {
    pub name: &'static str,
    pub target: Target,
    pub expected: Expected,
    pub write: WriteCommand,
    /// Number of commands that each connection has sent, over all rounds.
    sent: Vec<u64>,
    last: Option<Seen>,
}

impl SingleCommand {
    /// Creates a variant whose commands are made by `write`.
    pub fn new(
        name: &'static str,
        target: Target,
        expected: Expected,
        write: impl FnMut(Option<usize>, u64, &mut Vec<u8>) + 'static,
    ) -> SingleCommand {
        SingleCommand { name, target, expected, write: Box::new(write), sent: Vec::new(), last: None }
    }

    /// Creates a variant that repeats a command.
    pub fn same(name: &'static str, target: Target, expected: Expected, words: &[&str]) -> SingleCommand {
        let command = crate::resp::command(words);
        SingleCommand::new(name, target, expected, move |_, _, out| out.extend_from_slice(&command))
    }

    /// Appends the next command of a connection.
    fn next(&mut self, conn: Option<usize>, out: &mut Vec<u8>) {
        let index = conn.map_or(0, |conn| conn + 1);
        if self.sent.len() <= index {
            self.sent.resize(index + 1, 0);
        }
        (self.write)(conn, self.sent[index], out);
        self.sent[index] += 1;
    }

    /// Replaces `out` by a batch of commands.
    fn batch(&mut self, size: usize, out: &mut Vec<u8>) {
        out.clear();
        (0..size).for_each(|_| self.next(None, out));
    }

    /// Runs a pipelined load.
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

    /// Runs a load of `count` connections.
    fn concurrent(&mut self, count: usize, time: Duration, latencies: &mut Vec<u64>) -> Done {
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
        let mut continues = true;
        while continues {
            continues = start.elapsed() < time;
            for (n, conn) in conns.iter_mut().enumerate() {
                self.expected.check(conn.skip_like(&mut self.last), self.name);
                latencies.push(sent_at[n].elapsed().as_nanos() as u64);
                operations += 1;
                if continues {
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

impl Variant for SingleCommand {
    fn name(&self) -> &'static str {
        self.name
    }

    fn target(&self) -> Target {
        self.target
    }

    fn work(&mut self, load: Load, time: Duration, latencies: &mut Vec<u64>) -> Done {
        match load {
            Load::Pipelined(batch) => self.pipelined(batch, time),
            Load::Connections(count) => self.concurrent(count, time, latencies),
        }
    }
}

/// Result of a comparison.
pub struct Comparison {
    names: Vec<&'static str>,
    /// A sample of each round, by variant in the order of `names`.
    samples: Vec<Vec<Sample>>,
}

impl Comparison {
    /// Returns the samples of a variant.
    fn of(&self, name: &str) -> &[Sample] {
        let index = self.names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("no variant {name}"));
        &self.samples[index]
    }

    /// Returns the names of the variants.
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// Returns the median of a figure over the rounds.
    pub fn median_of(&self, name: &str, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(self.of(name).iter().map(figure).collect())
    }

    /// Returns operations per second.
    pub fn rate(&self, name: &str) -> f64 {
        self.median_of(name, |sample| sample.rate)
    }

    /// Returns the server's CPU time per operation.
    pub fn cpu_us(&self, name: &str) -> f64 {
        self.median_of(name, |sample| sample.cpu_us)
    }

    /// Returns the ratio of operations per second of `name` to those of `than`.
    pub fn ratio(&self, name: &str, than: &str) -> f64 {
        median(self.of(name).iter().zip(self.of(than)).map(|(a, b)| a.rate / b.rate).collect())
    }

    /// Returns the ratio of operations per CPU second of the server, which other load on the machine affects less.
    pub fn cpu_ratio(&self, name: &str, than: &str) -> f64 {
        median(self.of(name).iter().zip(self.of(than)).map(|(a, b)| b.cpu_us / a.cpu_us).collect())
    }
}

/// Runs the variants alternately. `between` is called after each run.
pub fn compare(
    variants: &mut [Box<dyn Variant>],
    load: Load,
    rounds: usize,
    time: Duration,
    mut between: impl FnMut(),
) -> Comparison {
    let count = variants.len();
    let mut samples = vec![Vec::new(); count];
    for variant in variants.iter_mut() {
        variant.round(load, time / 5);
        between();
    }
    for round in 0..rounds {
        for offset in 0..count {
            let index = (round + offset) % count;
            samples[index].push(variants[index].round(load, time));
            between();
        }
    }
    Comparison { names: variants.iter().map(|c| c.name()).collect(), samples }
}
