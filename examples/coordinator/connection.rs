//! Redis client of the coordinator. It runs on its own thread, so that agents are supervised while Redis is slow or
//! unreachable.
//!
//! It subscribes before it reads the records, so that no change is missed between the two. An event only triggers a
//! read of its record; a lost one causes a delay of at most `--poll-ms`. Only a primary is used, since a replica or a
//! demoted primary would return stale records.

use crate::api::{Snapshot, Status, Update};
use crate::failpoint::{Failpoint, Step};
use crate::manifest;
use crate::options::Options;
use redis::{Client, Connection, ErrorKind, PushKind, RedisError, RedisResult, ServerErrorKind, Value};
use serde_json::Value as Json;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// A request to the connection's thread.
pub enum Request {
    /// Sends updates and then reads the record.
    Send { key: String, updates: Vec<Update> },
    /// Reads the record of a key, for which an event was published.
    Read(String),
    /// The subscription of the session with this number has ended.
    SubscriptionEnded(u64),
}

/// A result, sent to the reconciler.
pub enum ConnectionEvent {
    /// Connected to a primary.
    Connected,
    /// Every record has been read since it was connected.
    CaughtUp,
    /// Not connected any more, or again not.
    Lost,
    /// A record was read.
    Read { key: String, snapshot: Box<Snapshot> },
    /// The key holds no deployment.
    NotFound { key: String },
    /// A report of `starting` has changed the record, so its attempt is this coordinator's.
    Claimed { key: String, update: Update },
    /// The module rejected an update.
    Rejected { key: String, update: Update, error: String },
}

/// The connection, before its thread is started.
pub struct RedisConnection<T: Fn(ConnectionEvent)> {
    pub options: Options,
    pub requests: Receiver<Request>,
    /// Sender for the subscription's thread.
    pub to_self: Sender<Request>,
    pub notify: T,
    pub failpoint: Failpoint,
    /// Keys to read, which DEPLOY.LIST may not list any more.
    pub keys: RefCell<BTreeSet<String>>,
}

/// Delay before it connects again; doubled up to the maximum while no record could be read.
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Interval at which the subscription's thread checks whether its session has ended.
const LISTENER_POLL: Duration = Duration::from_millis(250);

/// State of an established connection. Dropping it ends the subscription.
struct Session {
    connection: Connection,
    /// Cache of parsed manifests, by key, version and submission time. A version never changes.
    specs: BTreeMap<(String, u64, u64), manifest::Specs>,
    subscribed: Arc<AtomicBool>,
    number: u64,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.subscribed.store(false, Ordering::Relaxed);
    }
}

impl<T: Fn(ConnectionEvent)> RedisConnection<T> {
    /// Connects, and reconnects, until all senders of requests are dropped.
    pub fn run(self) {
        let (mut number, mut last_error, mut delay) = (0, String::new(), RETRY);
        loop {
            number += 1;
            let reason = match self.connect(number) {
                Ok((url, session)) => {
                    (self.notify)(ConnectionEvent::Connected);
                    let on_usable = || {
                        eprintln!("coordinator: connected to {url}");
                        last_error.clear();
                        delay = RETRY;
                    };
                    match self.run_session(session, on_usable) {
                        Ok(()) => return,
                        Err(error) => error.to_string(),
                    }
                }
                Err(reason) => reason,
            };
            (self.notify)(ConnectionEvent::Lost);
            if last_error != reason {
                eprintln!("coordinator: no Redis ({reason}); agents keep running");
                last_error = reason;
            }
            // Requests made meanwhile are dropped: the reconciler repeats them once the record has been read.
            let until = Instant::now() + delay;
            delay = (delay * 2).min(RETRY_MAX);
            while let Some(timeout) = until.checked_duration_since(Instant::now()) {
                if let Err(RecvTimeoutError::Disconnected) = self.requests.recv_timeout(timeout) {
                    return;
                }
            }
        }
    }

    /// Connects to the first of the configured URLs that is a primary.
    fn connect(&self, number: u64) -> Result<(String, Session), String> {
        let mut errors = Vec::new();
        for url in &self.options.redis {
            match self.connect_to(url, number) {
                Ok(session) => return Ok((without_password(url), session)),
                Err(error) => errors.push(format!("{}: {error}", without_password(url))),
            }
        }
        Err(errors.join("; "))
    }

    /// Connects to a URL and subscribes to the events of its deployments.
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
        let subscribed = Arc::new(AtomicBool::new(true));
        self.subscribe(open()?, number, subscribed.clone())?;
        Ok(Session { connection, specs: BTreeMap::new(), subscribed, number })
    }

    /// Subscribes to the events, and starts a thread that receives them while `active` is set.
    fn subscribe(&self, mut connection: Connection, number: u64, active: Arc<AtomicBool>) -> RedisResult<()> {
        let prefix = self.options.channel_prefix.clone();
        let channels: Vec<String> = self.options.keys.iter().map(|key| format!("{prefix}{key}")).collect();
        let pattern = self.options.matching.as_ref().map(|glob| format!("{prefix}{glob}"));
        let to_self = self.to_self.clone();
        let (subscribed, result) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let result = subscribe_to(&mut connection, "SUBSCRIBE", &channels);
            let result = result.and_then(|()| subscribe_to(&mut connection, "PSUBSCRIBE", pattern.as_slice()));
            let mut channel = connection.as_pubsub();
            let result = result.and_then(|()| channel.set_read_timeout(Some(LISTENER_POLL)));
            if subscribed.send(result).is_err() {
                return;
            }
            while active.load(Ordering::Relaxed) {
                match channel.get_message() {
                    Ok(message) => {
                        let key = message.get_channel_name().strip_prefix(&prefix).unwrap_or_default().to_string();
                        if to_self.send(Request::Read(key)).is_err() {
                            return;
                        }
                    }
                    Err(error) if error.is_timeout() => {}
                    Err(_) => break,
                }
            }
            let _ = to_self.send(Request::SubscriptionEnded(number));
        });
        let failed = || RedisError::from((ErrorKind::Io, "the subscription failed"));
        result.recv().unwrap_or_else(|_| Err(failed()))
    }

    /// Serves requests and reads the records. Calls `on_usable` when all of them have been read for the first time.
    /// Returns an error when the connection fails or the server refuses a command, and Ok when all senders of requests
    /// are dropped.
    fn run_session(&self, mut session: Session, on_usable: impl FnOnce()) -> RedisResult<()> {
        let mut next_poll = Instant::now();
        let mut on_usable = Some(on_usable);
        loop {
            let mut to_read = BTreeSet::new();
            if Instant::now() >= next_poll {
                self.list_keys(&mut session)?;
                to_read.extend(self.keys.borrow().iter().cloned());
                next_poll = Instant::now() + self.options.poll();
            } else {
                let timeout = next_poll.saturating_duration_since(Instant::now());
                let first = match self.requests.recv_timeout(timeout) {
                    Ok(request) => request,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                };
                // Events come in bursts: one read of a record serves all of them.
                for request in std::iter::once(first).chain(self.requests.try_iter()) {
                    match request {
                        Request::Read(key) => {
                            self.keys.borrow_mut().insert(key.clone());
                            to_read.insert(key);
                        }
                        Request::Send { key, updates } => {
                            self.send(&mut session, &key, updates)?;
                            to_read.insert(key);
                        }
                        Request::SubscriptionEnded(number) if number == session.number => {
                            return Err(RedisError::from((ErrorKind::Io, "the subscription has ended")));
                        }
                        Request::SubscriptionEnded(_) => {}
                    }
                }
            }
            for key in to_read {
                match self.read(&mut session, &key)? {
                    Some(snapshot) => (self.notify)(ConnectionEvent::Read { key, snapshot: Box::new(snapshot) }),
                    None => (self.notify)(ConnectionEvent::NotFound { key }),
                }
            }
            if let Some(on_usable) = on_usable.take() {
                on_usable();
                (self.notify)(ConnectionEvent::CaughtUp);
                self.failpoint.panic_at(Step::ConnectionUsable);
            }
        }
    }

    /// Adds the configured keys, and those that match the glob, to `keys`.
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

    /// Sends updates about a key.
    fn send(&self, session: &mut Session, key: &str, updates: Vec<Update>) -> RedisResult<()> {
        for update in updates {
            match update.command(key).query::<i64>(&mut session.connection) {
                Ok(1) if matches!(update, Update::Report { state: "starting", .. }) => {
                    (self.notify)(ConnectionEvent::Claimed { key: key.to_string(), update });
                }
                // 0: already known or stale; the read that follows tells which.
                Ok(_) => {}
                Err(error) if is_rejection(&error) => {
                    (self.notify)(ConnectionEvent::Rejected { key: key.to_string(), update, error: error.to_string() });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads a record; None if the key holds no deployment.
    fn read(&self, session: &mut Session, key: &str) -> RedisResult<Option<Snapshot>> {
        let [role, status, tasks] = read_in_transaction(&mut session.connection, key)?;
        require_primary(&role?)?;
        let (status, tasks) = match (status, tasks) {
            (Ok(status), Ok(tasks)) => (status, tasks),
            (Err(error), _) | (_, Err(error)) if ["NOTFOUND", "WRONGTYPE"].contains(&error.code().unwrap_or("")) => {
                return Ok(None)
            }
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let status: Status = parse_reply(status, "DEPLOY.STATUS")?;
        let mut snapshot = Snapshot { tasks: parse_reply(tasks, "DEPLOY.TASKS")?, specs: BTreeMap::new(), status };
        let cache_key = |version| (key.to_string(), version, snapshot.status.submitted_at(version));
        let versions: BTreeSet<u64> = snapshot.status.instances.iter().map(|instance| instance.version).collect();
        let used: BTreeSet<_> = versions.iter().map(|version| cache_key(*version)).collect();
        session.specs.retain(|cached, _| cached.0 != key || used.contains(cached));
        for version in versions {
            if !session.specs.contains_key(&cache_key(version)) {
                let mut command = redis::cmd("DEPLOY.VERSION");
                command.arg(key).arg(version).arg("JSON");
                match command.query::<Value>(&mut session.connection) {
                    Ok(reply) => {
                        let version_json: Json = parse_reply(reply, "DEPLOY.VERSION")?;
                        session.specs.insert(cache_key(version), manifest::specs(&version_json["manifest"]));
                    }
                    Err(error) if error.code() == Some("NOTFOUND") => continue, // deleted since the status was read
                    Err(error) => return Err(error),
                }
            }
        }
        let known = |instance: &crate::api::Instance| {
            let spec = session.specs.get(&cache_key(instance.version))?.get(&instance.node).cloned();
            Some(((instance.version, instance.node.clone()), spec.unwrap_or(Ok(None))))
        };
        snapshot.specs = snapshot.status.instances.iter().filter_map(known).collect();
        Ok(Some(snapshot))
    }
}

/// Subscribes to channels. The client library takes a refusal of SUBSCRIBE for its confirmation, so the replies are read
/// here. Events between them may be dropped, since the records are read afterwards.
fn subscribe_to(connection: &mut Connection, command: &str, channels: &[String]) -> RedisResult<()> {
    if channels.is_empty() {
        return Ok(());
    }
    connection.send_packed_command(&redis::cmd(command).arg(channels).get_packed_command())?;
    let mut confirmed = 0;
    while confirmed < channels.len() {
        let is_confirmation = match connection.recv_response()?.extract_error()? {
            Value::Push { kind: PushKind::Subscribe | PushKind::PSubscribe, .. } => true,
            Value::Array(parts) => {
                matches!(parts.first(), Some(Value::BulkString(kind)) if kind.eq_ignore_ascii_case(command.as_bytes()))
            }
            _ => false,
        };
        confirmed += usize::from(is_confirmation);
    }
    Ok(())
}

/// Queries ROLE, DEPLOY.STATUS and DEPLOY.TASKS in a transaction, whose replies are returned. The client library panics
/// if a server refuses MULTI or EXEC in a pipeline that it has made atomic itself, so they are ordinary commands here.
fn read_in_transaction(connection: &mut Connection, key: &str) -> RedisResult<[RedisResult<Value>; 3]> {
    let mut transaction = redis::pipe();
    transaction.ignore_errors().cmd("MULTI").cmd("ROLE");
    transaction.cmd("DEPLOY.STATUS").arg(key).arg("JSON").cmd("DEPLOY.TASKS").arg(key).arg("JSON").cmd("EXEC");
    let mut replies: Vec<RedisResult<Value>> = transaction.query(connection)?;
    let executed = replies.pop().unwrap_or_else(|| Err(unexpected_reply("EXEC")));
    // A command that is refused says why; EXEC says only that there was one.
    replies.into_iter().collect::<RedisResult<Vec<Value>>>()?;
    let Value::Array(replies) = executed? else { return Err(unexpected_reply("EXEC")) };
    <[_; 3]>::try_from(replies.into_iter().map(Value::extract_error).collect::<Vec<_>>())
        .map_err(|_| unexpected_reply("EXEC"))
}

/// Parses a JSON reply of a command.
fn parse_reply<J: serde::de::DeserializeOwned>(reply: Value, command: &'static str) -> RedisResult<J> {
    let text: String = redis::from_redis_value(reply)?;
    serde_json::from_str(&text).map_err(|error| {
        RedisError::from((ErrorKind::UnexpectedReturnType, "unexpected JSON", format!("{command}: {error}")))
    })
}

/// Builds the error for a reply of another shape than documented.
fn unexpected_reply(command: &'static str) -> RedisError {
    RedisError::from((ErrorKind::UnexpectedReturnType, "unexpected reply", command.to_string()))
}

/// Returns an error unless the reply of ROLE is that of a primary.
fn require_primary(role: &Value) -> RedisResult<()> {
    let name = match role {
        Value::Array(parts) => parts.first().cloned().and_then(|name| redis::from_redis_value::<String>(name).ok()),
        _ => None,
    };
    match name.as_deref() {
        Some("master") => Ok(()),
        _ => Err(RedisError::from((ErrorKind::Io, "the server is not a primary"))),
    }
}

/// Returns whether the module rejected the command. Errors that another server, or the same one later, may not give are
/// connection errors instead.
fn is_rejection(error: &RedisError) -> bool {
    let is_server_state = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::TryAgain
        )
    );
    let is_temporary = ["NOREPLICAS", "MISCONF", "BUSY", "NOAUTH"].contains(&error.code().unwrap_or(""));
    error.code().is_some() && !is_server_state && !is_temporary && !error.is_connection_dropped()
}

/// Removes user and password from a URL, for log lines.
pub fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, address))) => format!("{scheme}://{address}"),
        _ => url.to_string(),
    }
}
