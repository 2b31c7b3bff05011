//! The protocol itself, for what no client library does: thousands of commands ahead of their replies, reading what a
//! primary tells its replicas, and being the primary of a real replica.

#![allow(dead_code)] // each test binary uses its own part of this

use crate::common::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Text(String),
    Error(String),
    Int(i64),
    Bytes(Vec<u8>),
    Nil,
    Array(Vec<Reply>),
}

impl Reply {
    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Error(_))
    }
}

/// One command as a client sends it.
pub fn command<A: AsRef<[u8]>>(words: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend(word);
        bytes.extend(b"\r\n");
    }
    bytes
}

pub struct Wire {
    stream: BufReader<TcpStream>,
}

impl Wire {
    pub fn to(server: &Server) -> Wire {
        Wire::over(TcpStream::connect(("127.0.0.1", server.port)).expect("a connection"))
    }

    fn over(stream: TcpStream) -> Wire {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        stream.set_nodelay(true).expect("a socket option");
        Wire { stream: BufReader::new(stream) }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("the server reads");
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).expect("the server answers");
        assert!(line.ends_with(b"\r\n"), "the server hung up at {line:?}");
        line.truncate(line.len() - 2);
        String::from_utf8_lossy(&line).into_owned()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).expect("the server sends what it announced");
        bytes
    }

    pub fn reply(&mut self) -> Reply {
        let line = self.line();
        let (kind, rest) = line.split_at(1);
        match kind {
            "+" => Reply::Text(rest.into()),
            "-" => Reply::Error(rest.into()),
            ":" => Reply::Int(rest.parse().expect("a number")),
            "$" | "*" if rest == "-1" => Reply::Nil,
            "$" => {
                let mut bytes = self.bytes(rest.parse::<usize>().expect("a length") + 2);
                bytes.truncate(bytes.len() - 2);
                Reply::Bytes(bytes)
            }
            "*" => Reply::Array((0..rest.parse().expect("a count")).map(|_| self.reply()).collect()),
            _ => panic!("not RESP2: {line}"),
        }
    }

    /// Sends all, then reads all: as many replies as commands.
    pub fn pipeline(&mut self, commands: &[Vec<u8>]) -> Vec<Reply> {
        self.send(&commands.concat());
        let mut replies = Vec::new();
        for command in commands {
            let reply = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.reply()));
            replies.push(reply.unwrap_or_else(|_| panic!("no reply to {}", String::from_utf8_lossy(command))));
        }
        replies
    }
}

// ---- what a primary tells its replicas -------------------------------------------------------------------------------

/// The stream that a replica would get.
pub struct ReplicationStream {
    wire: Wire,
}

impl ReplicationStream {
    /// Begins with what the primary does after this call.
    pub fn of(primary: &Server) -> ReplicationStream {
        let mut wire = Wire::to(primary);
        wire.send(&command(&["SYNC"]));
        // Newlines keep the connection awake until the file is ready.
        let length = loop {
            let mut byte = [0];
            wire.stream.read_exact(&mut byte).expect("the primary answers");
            if byte != *b"\n" {
                assert_eq!(byte, *b"$", "a file in one piece");
                break wire.line().parse().expect("a length");
            }
        };
        wire.bytes(length);
        ReplicationStream { wire }
    }

    /// The next command, its words as bytes; what only keeps the link up is left out.
    pub fn next(&mut self) -> Vec<Vec<u8>> {
        loop {
            let Reply::Array(words) = self.wire.reply() else { panic!("the stream holds commands") };
            let words: Vec<Vec<u8>> = words
                .into_iter()
                .map(|word| match word {
                    Reply::Bytes(bytes) => bytes,
                    other => panic!("a word of a command: {other:?}"),
                })
                .collect();
            if ![b"PING".as_slice(), b"SELECT"].contains(&words[0].to_ascii_uppercase().as_slice()) {
                return words;
            }
        }
    }

    /// Everything up to a mark of our own.
    pub fn until_now(&mut self, client: &mut Client) -> Vec<Vec<Vec<u8>>> {
        client.call(&["SET", "the-mark", "x"]);
        let mut commands = Vec::new();
        loop {
            let next = self.next();
            if next.len() > 1 && next[1] == b"the-mark" {
                return commands;
            }
            commands.push(next);
        }
    }
}

// ---- being a primary -------------------------------------------------------------------------------------------------

/// A primary without any data, whose every word to its replica is the test's.
pub struct FakePrimary {
    wire: Wire,
    /// Bytes sent after the file.
    offset: u64,
}

impl FakePrimary {
    pub fn of(replica: &Server) -> FakePrimary {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        replica.client().call(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
        let (stream, _) = listener.accept().expect("the replica connects");
        let mut wire = Wire::over(stream);
        loop {
            let Reply::Array(words) = wire.reply() else { panic!("a replica sends commands") };
            let Some(Reply::Bytes(name)) = words.first() else { panic!("a command has a name") };
            match name.to_ascii_uppercase().as_slice() {
                b"PING" => wire.send(b"+PONG\r\n"),
                b"PSYNC" => break,
                _ => wire.send(b"+OK\r\n"),
            }
        }
        let mut file = b"REDIS0009\xff".to_vec();
        // A checksum of zero says that there is none.
        file.extend([0; 8]);
        wire.send(format!("+FULLRESYNC {} 0\r\n${}\r\n", "a".repeat(40), file.len()).as_bytes());
        wire.send(&file);
        let mut primary = FakePrimary { wire, offset: 0 };
        primary.say(&["SELECT", "0"]);
        primary.is_heard(replica);
        primary
    }

    pub fn say<A: AsRef<[u8]>>(&mut self, words: &[A]) {
        let bytes = command(words);
        self.offset += bytes.len() as u64;
        self.wire.send(&bytes);
    }

    /// Waits until the replica has done all that was said.
    pub fn is_heard(&mut self, replica: &Server) {
        // What the replica reports must be read, or it would not get rid of it one day.
        self.wire.stream.get_ref().set_read_timeout(Some(Duration::from_millis(1))).expect("a socket option");
        let _ = self.wire.stream.fill_buf().map(|bytes| bytes.len()).map(|n| self.wire.stream.consume(n));
        let said = self.offset.to_string();
        let mut client = replica.client();
        wait_until("the replica to hear its primary", || client.info("replication", "slave_repl_offset") == said);
    }
}
