//! Rule 17.2: a change that moves only a TTL or a number of sessions disturbs no client that caches or watches the key,
//! on the primary and on its replicas; any other change does.

use redis::Value;
use test_support::prelude::*;
use test_support::resp::{Conn, Reply};

const KEY: &str = "agent-api";

/// The changes that are silent, and some that are not.
const CHANGES: [(&str, bool); 13] = [
    ("REGISTER KEY agent-1 web INSTANCE i-1 ADDRESS 10.0.0.1 PORT 80 TTL 600000", false),
    ("CHECK KEY i-1 passing", false),
    ("CHECK KEY i-1 passing SESSIONS 4", false),
    ("REPORT KEY agent-1 ready SESSIONS 5", false),
    ("REPORT KEY agent-1 ready SESSIONS 0", false),
    ("CHECK KEY i-1 warning", true),
    ("CHECK KEY i-1 passing SESSIONS 7", true),
    ("REGISTER KEY agent-1 web INSTANCE i-1 ADDRESS 10.0.0.2 PORT 80 TTL 600000", true),
    ("REPORT KEY agent-1 unready SESSIONS 7", true),
    ("STOP KEY", true),
    ("REPORT KEY agent-2 ready SESSIONS 1", true), // it takes the drain up
    ("REPORT KEY agent-2 ready SESSIONS 2", false),
    ("REPORT KEY agent-2 drained", true),
];

/// Two clients of one server that want to know of changes: one caches a reply, one watches the key.
struct Observers {
    caching: Conn,
    watching: Client,
}

impl Observers {
    fn of(server: &Server) -> Observers {
        let mut caching = server.conn();
        caching.call(&["HELLO", "3"]);
        caching.call(&["CLIENT", "TRACKING", "ON"]);
        Observers { caching, watching: server.client() }
    }

    fn start(&mut self) {
        self.caching.call(&["DEPLOY.RESOLVE", KEY, "ALL", "JSON"]);
        self.watching.call(&["WATCH", KEY]);
    }

    /// Returns whether the caching one was told of a change since, and whether the transaction of the other one fails.
    fn were_disturbed(&mut self) -> [bool; 2] {
        self.watching.call(&["MULTI"]);
        self.watching.call(&["PING"]);
        let is_aborted = self.watching.call(&["EXEC"]) == Value::Nil;
        self.caching.send(&test_support::resp::command(&["PING"]));
        let is_told = matches!(self.caching.reply(), Reply::Push(_));
        if is_told {
            self.caching.reply();
        }
        [is_told, is_aborted]
    }
}

#[test]
fn silent_changes_disturb_no_observer() {
    on_each_server(|kind| {
        let (server, replica) = (Server::start(kind, &[]), Server::start(kind, &[]));
        let mut client = server.client();
        client.deploy(KEY, &manifest(&AGENTS, "small"), &["MIN_HEALTHY_MS", "0", "DRAIN_MS", "600000"]);
        let register = "REGISTER KEY agent-1 web INSTANCE i-1 ADDRESS 10.0.0.1 PORT 80 TTL 600000";
        let call = |client: &mut Client, command: &str| {
            client.call(&format!("DEPLOY.{command}").replace("KEY", KEY).split(' ').collect::<Vec<_>>());
        };
        call(&mut client, register);
        client.carry_out_until(KEY, "successful");
        replica.replicate_from(&server);
        let mut observers = [Observers::of(&server), Observers::of(&replica)];
        let dump = |client: &mut Client| client.call(&["DUMP", KEY]);
        for (command, is_noticed) in CHANGES {
            observers.iter_mut().for_each(Observers::start);
            wait_past(unix_ms()); // a TTL moves with the clock
            let (before, revision) = (dump(&mut client), client.status(KEY)["revision"].clone());
            call(&mut client, command);
            assert_ne!(dump(&mut client), before, "{command} changes the record");
            assert_eq!(client.status(KEY)["revision"] != revision, is_noticed, "{command} is an event");
            replica.catch_up_with(&server);
            for (observers, place) in observers.iter_mut().zip(["primary", "replica"]) {
                assert_eq!(observers.were_disturbed(), [is_noticed; 2], "{command}, on the {place}");
            }
        }
        replica.assert_equal_to(&server);
    });
}
