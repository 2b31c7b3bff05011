//! The connection to Redis, on a thread of its own: agents are looked after while Redis is slow or away.
//!
//! Subscribes first, and reads the records then, so that no change falls between the two. Each event says no more than
//! that there is something to read; a lost one costs nothing but time, for the record is read every `--poll-ms` anyway.
//! Only a primary counts: a replica, or a primary that was demoted, would tell of the past.

use crate::manifest;
use crate::options::Options;
use crate::record::{Snapshot, Statement, Status};
use redis::{Client, Connection, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use serde_json::Value as Json;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// What the link is asked for.
pub enum Ask {
    /// To say something, and to read the record after it.
    Say { key: String, statements: Vec<Statement> },
    /// An event of a key was published.
    Heard(String),
    /// The subscription has ended; which one, counted from the link's first.
    Deaf(u64),
}

/// What the link tells.
pub enum Told {
    Connected(String),
    Lost(String),
    Seen {
        key: String,
        snapshot: Box<Snapshot>,
    },
    /// There is no deployment under this key.
    Gone {
        key: String,
    },
    /// A statement that was refused.
    Refused {
        key: String,
        statement: Statement,
        error: String,
    },
}

pub struct Link<T: Fn(Told)> {
    pub options: Options,
    pub asks: Receiver<Ask>,
    /// For the listener, which talks to the link.
    pub to_itself: Sender<Ask>,
    pub tell: T,
    /// Keys that are looked at though DEPLOY.LIST may have them no longer.
    pub keys: RefCell<BTreeSet<String>>,
}

/// How long between two attempts to connect.
const RETRY: Duration = Duration::from_millis(200);
/// How often the listener looks whether it is still wanted.
const LISTENER_TURN: Duration = Duration::from_millis(250);

struct Session {
    connection: Connection,
    /// What each version's manifest says, by key, version and time of submission: a version never changes.
    specs: BTreeMap<(String, u64, u64), manifest::Specs>,
    listening: Arc<AtomicBool>,
    number: u64,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.listening.store(false, Ordering::Relaxed);
    }
}

impl<T: Fn(Told)> Link<T> {
    /// Goes on for as long as the coordinator does.
    pub fn run(self) {
        let (mut number, mut complained) = (0, String::new());
        loop {
            number += 1;
            let why = match self.connect(number) {
                Ok((url, session)) => {
                    complained.clear();
                    (self.tell)(Told::Connected(url));
                    match self.follow(session) {
                        Ok(()) => return,
                        Err(error) => error.to_string(),
                    }
                }
                Err(why) => why,
            };
            if complained != why {
                (self.tell)(Told::Lost(why.clone()));
                complained = why;
            }
            // What was asked meanwhile is asked again once the record has been read.
            let until = Instant::now() + RETRY;
            while let Some(rest) = until.checked_duration_since(Instant::now()) {
                if let Err(RecvTimeoutError::Disconnected) = self.asks.recv_timeout(rest) {
                    return;
                }
            }
        }
    }

    fn connect(&self, number: u64) -> Result<(String, Session), String> {
        let mut faults = Vec::new();
        for url in &self.options.redis {
            match self.connect_to(url, number) {
                Ok(session) => return Ok((without_password(url), session)),
                Err(error) => faults.push(format!("{}: {error}", without_password(url))),
            }
        }
        Err(faults.join("; "))
    }

    fn connect_to(&self, url: &str, number: u64) -> RedisResult<Session> {
        let client = Client::open(url)?;
        let timeout = self.options.redis_timeout();
        let open = || -> RedisResult<Connection> {
            let connection = client.get_connection_with_timeout(timeout)?;
            connection.set_read_timeout(Some(timeout))?;
            connection.set_write_timeout(Some(timeout))?;
            Ok(connection)
        };
        let mut connection = open()?;
        require_primary(&redis::cmd("ROLE").query(&mut connection)?)?;
        let listening = Arc::new(AtomicBool::new(true));
        self.listen(open()?, number, listening.clone())?;
        Ok(Session { connection, specs: BTreeMap::new(), listening, number })
    }

    /// Is subscribed when this returns.
    fn listen(&self, mut connection: Connection, number: u64, wanted: Arc<AtomicBool>) -> RedisResult<()> {
        let prefix = self.options.channel_prefix.clone();
        let channels: Vec<String> = self.options.keys.iter().map(|key| format!("{prefix}{key}")).collect();
        let pattern = self.options.matching.as_ref().map(|glob| format!("{prefix}{glob}"));
        let to_link = self.to_itself.clone();
        let (subscribed, answer) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let mut channel = connection.as_pubsub();
            let outcome = channels.iter().try_for_each(|name| channel.subscribe(name));
            let outcome = outcome.and_then(|()| pattern.iter().try_for_each(|glob| channel.psubscribe(glob)));
            let outcome = outcome.and_then(|()| channel.set_read_timeout(Some(LISTENER_TURN)));
            if subscribed.send(outcome).is_err() {
                return;
            }
            while wanted.load(Ordering::Relaxed) {
                match channel.get_message() {
                    Ok(message) => {
                        let key = message.get_channel_name().strip_prefix(&prefix).unwrap_or_default().to_string();
                        if to_link.send(Ask::Heard(key)).is_err() {
                            return;
                        }
                    }
                    Err(error) if error.is_timeout() => {}
                    Err(_) => break,
                }
            }
            let _ = to_link.send(Ask::Deaf(number));
        });
        let deaf = || RedisError::from((ErrorKind::Io, "the subscription failed"));
        answer.recv().unwrap_or_else(|_| Err(deaf()))
    }

    /// Follows the records until the connection fails, which is an error, or nobody asks any more.
    fn follow(&self, mut session: Session) -> RedisResult<()> {
        let mut next_poll = Instant::now();
        loop {
            let mut look = BTreeSet::new();
            if Instant::now() >= next_poll {
                self.list_keys(&mut session)?;
                look.extend(self.keys.borrow().iter().cloned());
                next_poll = Instant::now() + self.options.poll();
            } else {
                let rest = next_poll.saturating_duration_since(Instant::now());
                let first = match self.asks.recv_timeout(rest) {
                    Ok(ask) => ask,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                };
                // Events come in swarms: one reading answers all of them.
                for ask in std::iter::once(first).chain(self.asks.try_iter()) {
                    match ask {
                        Ask::Heard(key) => {
                            self.keys.borrow_mut().insert(key.clone());
                            look.insert(key);
                        }
                        Ask::Say { key, statements } => {
                            self.say(&mut session, &key, statements)?;
                            look.insert(key);
                        }
                        Ask::Deaf(number) if number == session.number => {
                            return Err(RedisError::from((ErrorKind::Io, "the subscription has ended")));
                        }
                        Ask::Deaf(_) => {}
                    }
                }
            }
            for key in look {
                match self.look(&mut session, &key)? {
                    Some(snapshot) => (self.tell)(Told::Seen { key, snapshot: Box::new(snapshot) }),
                    None => (self.tell)(Told::Gone { key }),
                }
            }
        }
    }

    fn list_keys(&self, session: &mut Session) -> RedisResult<()> {
        self.keys.borrow_mut().extend(self.options.keys.iter().cloned());
        let Some(glob) = &self.options.matching else { return Ok(()) };
        let mut cursor = "0".to_string();
        loop {
            let mut command = redis::cmd("DEPLOY.LIST");
            command.arg(&["MATCH", glob, "CURSOR", &cursor, "COUNT", "1000"]);
            let (next, entries): (String, Vec<BTreeMap<String, Value>>) = command.query(&mut session.connection)?;
            for entry in entries {
                if let Some(Value::BulkString(key)) = entry.get("deployment_key") {
                    self.keys.borrow_mut().insert(String::from_utf8_lossy(key).into_owned());
                }
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    fn say(&self, session: &mut Session, key: &str, statements: Vec<Statement>) -> RedisResult<()> {
        for statement in statements {
            match statement.command(key).query::<i64>(&mut session.connection) {
                // 0: known already, or no longer wanted. The reading that follows tells which.
                Ok(_) => {}
                Err(error) if is_refusal(&error) => {
                    (self.tell)(Told::Refused { key: key.to_string(), statement, error: error.to_string() });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// None where there is no deployment under the key.
    fn look(&self, session: &mut Session, key: &str) -> RedisResult<Option<Snapshot>> {
        let mut transaction = redis::pipe();
        transaction.atomic().ignore_errors();
        transaction.cmd("ROLE").cmd("DEPLOY.STATUS").arg(key).arg("JSON").cmd("DEPLOY.TASKS").arg(key).arg("JSON");
        let replies: Vec<RedisResult<Value>> = transaction.query(&mut session.connection)?;
        let [role, status, tasks] = <[_; 3]>::try_from(replies).map_err(|_| malformed("EXEC"))?;
        require_primary(&role?)?;
        let (status, tasks) = match (status, tasks) {
            (Ok(status), Ok(tasks)) => (status, tasks),
            (Err(error), _) | (_, Err(error)) if ["NOTFOUND", "WRONGTYPE"].contains(&error.code().unwrap_or("")) => {
                return Ok(None)
            }
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let status: Status = parsed(status, "DEPLOY.STATUS")?;
        let mut snapshot = Snapshot { tasks: parsed(tasks, "DEPLOY.TASKS")?, specs: BTreeMap::new(), status };
        let named = |version| (key.to_string(), version, snapshot.status.submitted_at(version));
        let versions: BTreeSet<u64> = snapshot.status.instances.iter().map(|instance| instance.version).collect();
        let wanted: BTreeSet<_> = versions.iter().map(|version| named(*version)).collect();
        session.specs.retain(|name, _| name.0 != key || wanted.contains(name));
        for version in versions {
            if !session.specs.contains_key(&named(version)) {
                let mut command = redis::cmd("DEPLOY.VERSION");
                command.arg(key).arg(version).arg("JSON");
                match command.query::<Value>(&mut session.connection) {
                    Ok(reply) => {
                        let version_json: Json = parsed(reply, "DEPLOY.VERSION")?;
                        session.specs.insert(named(version), manifest::specs(&version_json["manifest"]));
                    }
                    Err(error) if error.code() == Some("NOTFOUND") => continue, // it has just gone
                    Err(error) => return Err(error),
                }
            }
        }
        let known = |instance: &crate::record::Instance| {
            let spec = session.specs.get(&named(instance.version))?.get(&instance.node).cloned();
            Some(((instance.version, instance.node.clone()), spec.unwrap_or(Ok(None))))
        };
        snapshot.specs = snapshot.status.instances.iter().filter_map(known).collect();
        Ok(Some(snapshot))
    }
}

fn parsed<J: serde::de::DeserializeOwned>(reply: Value, command: &'static str) -> RedisResult<J> {
    let text: String = redis::from_redis_value(reply)?;
    serde_json::from_str(&text).map_err(|error| {
        RedisError::from((ErrorKind::UnexpectedReturnType, "no JSON that is understood", format!("{command}: {error}")))
    })
}

fn malformed(command: &'static str) -> RedisError {
    RedisError::from((ErrorKind::UnexpectedReturnType, "an unexpected reply", command.to_string()))
}

fn require_primary(role: &Value) -> RedisResult<()> {
    let name = match role {
        Value::Array(parts) => parts.first().cloned().and_then(|name| redis::from_redis_value::<String>(name).ok()),
        _ => None,
    };
    match name.as_deref() {
        Some("master") => Ok(()),
        _ => Err(RedisError::from((ErrorKind::Io, "it is not a primary"))),
    }
}

/// The command itself was refused; the connection and the server are well.
fn is_refusal(error: &RedisError) -> bool {
    let elsewhere = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::TryAgain
        )
    );
    let held_back = ["NOREPLICAS", "MISCONF", "BUSY", "NOAUTH"].contains(&error.code().unwrap_or(""));
    error.code().is_some() && !elsewhere && !held_back && !error.is_connection_dropped()
}

/// An URL as it may be shown.
fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
        _ => url.to_string(),
    }
}
