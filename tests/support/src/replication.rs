//! Both ends of a replication link: the stream that a primary sends to its replicas, and a scripted primary.

use crate::client::Client;
use crate::resp::{command, Conn, Reply};
use crate::server::Server;
use crate::wait::wait_until;
use std::net::TcpListener;

/// The replication stream of a primary.
pub struct ReplicationStream {
    conn: Conn,
}

impl ReplicationStream {
    /// Opens the stream, which begins with the first write after this call.
    pub fn of(primary: &Server) -> ReplicationStream {
        let mut conn = primary.conn();
        conn.send(&command(&["SYNC"]));
        // Newlines keep the connection alive until the file is ready.
        let length = loop {
            let line = String::from_utf8_lossy(conn.line()).into_owned();
            if !line.is_empty() {
                let length = line.strip_prefix('$').expect("a file in one piece");
                break length.parse().expect("a length");
            }
        };
        conn.discard(length);
        ReplicationStream { conn }
    }

    /// Returns the next command, its words as bytes, except PING and SELECT.
    pub fn next_command(&mut self) -> Vec<Vec<u8>> {
        loop {
            let Reply::Array(words) = self.conn.reply() else { panic!("the stream holds commands") };
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

    /// Returns all commands up to a write of this call.
    pub fn commands_until_now(&mut self, client: &mut Client) -> Vec<Vec<Vec<u8>>> {
        client.call(&["SET", "marker-key", "x"]);
        let mut commands = Vec::new();
        loop {
            let next = self.next_command();
            if next.len() > 1 && next[1] == b"marker-key" {
                return commands;
            }
            commands.push(next);
        }
    }
}

/// A primary without data, of which a test dictates every command to its replica.
pub struct FakePrimary {
    conn: Conn,
    /// Bytes sent after the file.
    offset: u64,
}

impl FakePrimary {
    pub fn of(replica: &Server) -> FakePrimary {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        replica.client().call(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
        let (stream, _) = listener.accept().expect("the replica connects");
        let mut conn = Conn::over(stream).expect("a socket option");
        loop {
            let Reply::Array(words) = conn.reply() else { panic!("a replica sends commands") };
            let Some(Reply::Bytes(name)) = words.first() else { panic!("a command has a name") };
            match name.to_ascii_uppercase().as_slice() {
                b"PING" => conn.send(b"+PONG\r\n"),
                b"PSYNC" => break,
                _ => conn.send(b"+OK\r\n"),
            }
        }
        let mut file = b"REDIS0009\xff".to_vec();
        // A checksum of zero says that there is none.
        file.extend([0; 8]);
        conn.send(format!("+FULLRESYNC {} 0\r\n${}\r\n", "a".repeat(40), file.len()).as_bytes());
        conn.send(&file);
        let mut primary = FakePrimary { conn, offset: 0 };
        primary.send(&["SELECT", "0"]);
        primary.wait_until_applied(replica);
        primary
    }

    /// Sends a command.
    pub fn send<A: AsRef<[u8]>>(&mut self, words: &[A]) {
        let bytes = command(words);
        self.offset += bytes.len() as u64;
        self.conn.send(&bytes);
    }

    /// Waits until the replica has applied all that was sent.
    pub fn wait_until_applied(&mut self, replica: &Server) {
        // The replica reports its offset again and again; unread, the reports would fill the socket buffer.
        self.conn.discard_received();
        let sent = self.offset.to_string();
        let mut client = replica.client();
        wait_until("the replica to apply its primary's commands", || {
            client.info("replication", "slave_repl_offset") == sent
        });
    }
}
