//! A client of the protocol (RESP2, and of RESP3 maps, nulls and pushes) over a plain socket, for what no client library does: thousands of commands ahead
//! of their replies, replication streams, and measurements in which a client library would be part of the result. It
//! writes bytes that were made before, and can skip replies without storing them.

use crate::wait::patience;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const CHUNK: usize = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Text(String),
    Error(String),
    Int(i64),
    Bytes(Vec<u8>),
    Nil,
    Array(Vec<Reply>),
    /// A message that the server sent unasked.
    Push(Vec<Reply>),
}

impl Reply {
    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Error(_))
    }

    pub fn int(&self) -> i64 {
        match self {
            Reply::Int(number) => *number,
            other => panic!("not a number: {other:?}"),
        }
    }

    pub fn text(&self) -> String {
        match self {
            Reply::Text(text) => text.clone(),
            Reply::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("not a text: {other:?}"),
        }
    }

    pub fn bytes(self) -> Vec<u8> {
        match self {
            Reply::Bytes(bytes) => bytes,
            other => panic!("not bytes: {other:?}"),
        }
    }

    pub fn array(self) -> Vec<Reply> {
        match self {
            Reply::Array(items) => items,
            other => panic!("not an array: {other:?}"),
        }
    }
}

/// Appends one command as a client sends it.
pub fn put<A: AsRef<[u8]>>(out: &mut Vec<u8>, words: &[A]) {
    write!(out, "*{}\r\n", words.len()).expect("memory");
    for word in words {
        let word = word.as_ref();
        write!(out, "${}\r\n", word.len()).expect("memory");
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

pub fn command<A: AsRef<[u8]>>(words: &[A]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, words);
    out
}

/// A reply that was skipped, for the comparison in [`Conn::skip_like`].
pub struct Seen {
    bytes: Vec<u8>,
    what: (u8, i64),
}

/// One connection.
pub struct Conn {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Length of the part of the buffer that has been read.
    at: usize,
    /// Bytes read since the connection was opened.
    consumed: u64,
}

impl Conn {
    pub fn to(port: u16) -> Conn {
        Conn::try_to(port).unwrap_or_else(|error| panic!("no connection to port {port}: {error}"))
    }

    pub fn try_to(port: u16) -> std::io::Result<Conn> {
        Conn::over(TcpStream::connect(("127.0.0.1", port))?)
    }

    /// Takes over a connected socket.
    pub fn over(stream: TcpStream) -> std::io::Result<Conn> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience()))?;
        stream.set_write_timeout(Some(patience()))?;
        Ok(Conn { stream, buffer: Vec::with_capacity(CHUNK), at: 0, consumed: 0 })
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Returns how many bytes of replies were read.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    fn fill(&mut self) {
        if self.at > 0 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        let old = self.buffer.len();
        self.buffer.resize(old + CHUNK, 0);
        let read = self.stream.read(&mut self.buffer[old..]).expect("the server answers");
        assert!(read > 0, "the server hung up");
        self.buffer.truncate(old + read);
    }

    fn unread(&self) -> usize {
        self.buffer.len() - self.at
    }

    fn advance(&mut self, bytes: usize) {
        self.at += bytes;
        self.consumed += bytes as u64;
    }

    /// Reads the next line, without its end.
    pub fn line(&mut self) -> &[u8] {
        let mut looked_at = 0;
        let length = loop {
            let fresh = &self.buffer[self.at + looked_at..];
            match fresh.iter().position(|byte| *byte == b'\n') {
                Some(position) => break looked_at + position + 1,
                None => {
                    looked_at = self.unread();
                    self.fill();
                }
            }
        };
        let start = self.at;
        self.advance(length);
        let line = &self.buffer[start..start + length - 1];
        line.strip_suffix(b"\r").unwrap_or(line)
    }

    /// Reads and drops a number of bytes.
    pub fn discard(&mut self, mut bytes: usize) {
        while bytes > self.unread() {
            let unread = self.unread();
            bytes -= unread;
            self.advance(unread);
            self.fill();
        }
        self.advance(bytes);
    }

    /// Reads a number of bytes.
    pub fn take(&mut self, bytes: usize) -> Vec<u8> {
        while self.unread() < bytes {
            self.fill();
        }
        let taken = self.buffer[self.at..self.at + bytes].to_vec();
        self.advance(bytes);
        taken
    }

    /// Reads the first line of a reply: its kind, and the number behind it where there is one. Panics at an error
    /// reply, which would be measured as a fast one.
    fn head(&mut self) -> (u8, i64) {
        let line = self.line();
        let (kind, rest) = line.split_first().expect("a reply begins with its kind");
        if *kind == b'-' {
            panic!("an error reply: {}", String::from_utf8_lossy(rest));
        }
        let number = match kind {
            b'+' => 0,
            _ => std::str::from_utf8(rest).ok().and_then(|rest| rest.parse().ok()).expect("a number"),
        };
        (*kind, number)
    }

    /// Skips one reply. Returns its kind, and its number or length.
    pub fn skip(&mut self) -> (u8, i64) {
        let (kind, number) = self.head();
        match (kind, usize::try_from(number)) {
            (b'$', Ok(length)) => self.discard(length + 2),
            (b'*', Ok(count)) => self.skip_all(count),
            _ => {}
        }
        (kind, number)
    }

    /// Like [`Conn::skip`], but a reply with the bytes of the one before is skipped by one comparison, so that the
    /// time to parse large replies is not measured.
    pub fn skip_like(&mut self, last: &mut Option<Seen>) -> (u8, i64) {
        if let Some(Seen { bytes, what }) = last {
            loop {
                let unread = self.unread().min(bytes.len());
                if self.buffer[self.at..self.at + unread] != bytes[..unread] {
                    break;
                }
                if unread == bytes.len() {
                    self.advance(unread);
                    return *what;
                }
                self.fill();
            }
        }
        let before = self.consumed;
        let what = self.skip();
        let length = usize::try_from(self.consumed - before).expect("a length");
        let bytes = self.at.checked_sub(length).map(|start| self.buffer[start..self.at].to_vec());
        *last = bytes.map(|bytes| Seen { bytes, what });
        what
    }

    pub fn skip_all(&mut self, count: usize) {
        for _ in 0..count {
            self.skip();
        }
    }

    pub fn reply(&mut self) -> Reply {
        let line = String::from_utf8_lossy(self.line()).into_owned();
        let (kind, rest) = line.split_at(1);
        match kind {
            "+" => Reply::Text(rest.to_string()),
            "-" => Reply::Error(rest.to_string()),
            ":" => Reply::Int(rest.parse().expect("a number")),
            "$" | "*" if rest == "-1" => Reply::Nil,
            "$" => {
                let length: usize = rest.parse().expect("a length");
                let bytes = self.take(length);
                self.discard(2);
                Reply::Bytes(bytes)
            }
            "*" => Reply::Array((0..rest.parse::<usize>().expect("a count")).map(|_| self.reply()).collect()),
            "%" => Reply::Array((0..2 * rest.parse::<usize>().expect("a count")).map(|_| self.reply()).collect()),
            ">" => Reply::Push((0..rest.parse::<usize>().expect("a count")).map(|_| self.reply()).collect()),
            "_" => Reply::Nil,
            _ => panic!("not read here: {line}"),
        }
    }

    /// Sends all commands, then reads as many replies.
    pub fn pipeline(&mut self, commands: &[Vec<u8>]) -> Vec<Reply> {
        self.send(&commands.concat());
        let mut replies = Vec::new();
        for command in commands {
            let reply = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.reply()));
            replies.push(reply.unwrap_or_else(|_| panic!("no reply to {}", String::from_utf8_lossy(command))));
        }
        replies
    }

    /// Reads and drops what has been received by now, so that the peer does not run into a full socket buffer.
    pub fn discard_received(&mut self) {
        self.stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket option");
        let _ = self.stream.read(&mut [0; CHUNK]);
        self.stream.set_read_timeout(Some(patience())).expect("a socket option");
        self.at = self.buffer.len();
    }

    pub fn try_call<A: AsRef<[u8]>>(&mut self, words: &[A]) -> Reply {
        self.send(&command(words));
        self.reply()
    }

    /// Sends a command that must succeed.
    pub fn call<A: AsRef<[u8]>>(&mut self, words: &[A]) -> Reply {
        match self.try_call(words) {
            Reply::Error(text) => {
                let words: Vec<_> =
                    words.iter().map(|word| String::from_utf8_lossy(word.as_ref()).into_owned()).collect();
                let command: String = words.join(" ").chars().take(200).collect();
                panic!("{text}\nto {command}")
            }
            reply => reply,
        }
    }

    /// Like [`Conn::call`], with the command as one would type it.
    pub fn run(&mut self, line: &str) -> Reply {
        self.call(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Returns a field of INFO as a number, or 0 where there is none.
    pub fn info(&mut self, section: &str, field: &str) -> f64 {
        self.info_text(section, field).and_then(|text| text.parse().ok()).unwrap_or(0.0)
    }

    pub fn info_text(&mut self, section: &str, field: &str) -> Option<String> {
        let text = self.call(&["INFO", section]).text();
        text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(|value| value.trim().to_string()))
    }

    /// Sends many commands, a batch ahead of their replies, none of which may be an error. `write` appends the nth
    /// command.
    pub fn many(&mut self, count: usize, mut write: impl FnMut(usize, &mut Vec<u8>)) {
        const BATCH: usize = 500;
        let (mut out, mut sent, mut in_flight) = (Vec::new(), 0, 0);
        while sent < count || in_flight > 0 {
            let batch = BATCH.min(count - sent);
            out.clear();
            (sent..sent + batch).for_each(|n| write(n, &mut out));
            self.send(&out);
            self.skip_all(in_flight);
            (sent, in_flight) = (sent + batch, batch);
        }
    }
}
