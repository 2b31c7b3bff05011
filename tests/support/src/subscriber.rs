//! Subscribers of event channels.

use crate::client::{open, Client};
use crate::reply::{items, text};
use crate::server::Server;
use crate::wait::wait_for;
use serde_json::Value as Json;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Collects the events of all channels that match, in the order in which they come.
pub struct Subscriber {
    received: Arc<Mutex<Vec<Json>>>,
    publish: &'static str,
}

impl Subscriber {
    /// Is subscribed when this returns. Ends with the server.
    pub fn start(server: &Server, pattern: &str) -> Subscriber {
        Subscriber::listen(server, "PSUBSCRIBE", pattern, "PUBLISH")
    }

    /// To one channel, of sharded pub/sub.
    pub fn start_sharded(server: &Server, channel: &str) -> Subscriber {
        Subscriber::listen(server, "SSUBSCRIBE", channel, "SPUBLISH")
    }

    fn listen(server: &Server, subscribe: &str, to: &str, publish: &'static str) -> Subscriber {
        let mut connection = open(server.port, "resp2").expect("a connection");
        connection.send_packed_command(&redis::cmd(subscribe).arg(to).get_packed_command()).expect("sent");
        let first = connection.recv_response().unwrap_or_else(|error| panic!("{subscribe} {to}: {error}"));
        assert_eq!(text(&items(&first)[0]), subscribe.to_lowercase());
        let received = Arc::new(Mutex::new(Vec::new()));
        let into = received.clone();
        std::thread::spawn(move || {
            while let Ok(message) = connection.recv_response() {
                let parts = items(&message);
                if text(&parts[0]).ends_with("message") {
                    let payload = text(parts.last().expect("a message has a payload"));
                    let event = serde_json::from_str(&payload).expect("an event is JSON");
                    into.lock().expect("no holder panics").push(event);
                }
            }
        });
        Subscriber { received, publish }
    }

    pub fn events(&self) -> Vec<Json> {
        self.received.lock().expect("no holder panics").clone()
    }

    pub fn wait_for_event(&self, what: &str, is: impl Fn(&Json) -> bool) -> Json {
        wait_for(what, || self.events().into_iter().find(&is))
    }

    /// Everything published before this call: a message of our own, sent after it all, closes the list.
    pub fn events_until_now(&self, publisher: &mut Client, channel: &str) -> Vec<Json> {
        static MARKS: AtomicU64 = AtomicU64::new(0);
        let mark = serde_json::json!({ "mark": MARKS.fetch_add(1, Ordering::Relaxed) });
        publisher.call(&[self.publish, channel, &mark.to_string()]);
        self.wait_for_event("a message of our own", |event| *event == mark);
        self.events().into_iter().take_while(|event| *event != mark).filter(|e| e.get("mark").is_none()).collect()
    }
}
