//! A Redis Cluster of real servers: three primaries, and replicas for as many of them as a test needs.
//!
//! Made by cluster commands: epochs and slots first, then CLUSTER MEET between all nodes, then CLUSTER REPLICATE. The
//! client of a key follows MOVED as a cluster client would.

use crate::client::Client;
use crate::reply::{int, items, text};
use crate::server::{next_port, Server, ServerKind};
use crate::wait::{wait_for, wait_until};

pub const PRIMARIES: usize = 3;
const SLOTS: usize = 16384;

pub struct Cluster {
    /// The first three start as primaries; the others as replicas of the first, the second, the third.
    pub nodes: Vec<Server>,
}

impl Cluster {
    /// Starts a cluster and waits until every node knows the owner of each slot and all replicas are in sync. The
    /// timeout is that of automatic failovers: short in a test that kills, long in all others, where a busy machine
    /// must not be taken for a dead node.
    pub fn start(kind: ServerKind, replicas: usize, node_timeout_ms: u64, extra: &[&str]) -> Cluster {
        assert!(replicas <= PRIMARIES);
        let nodes: Vec<Server> = std::thread::scope(|scope| {
            let starting: Vec<_> =
                (0..PRIMARIES + replicas).map(|_| scope.spawn(|| start_node(kind, node_timeout_ms, extra))).collect();
            starting.into_iter().map(|node| node.join().expect("a node that starts")).collect()
        });
        let cluster = Cluster { nodes };
        cluster.join_up();
        cluster
    }

    fn join_up(&self) {
        for (position, node) in self.nodes.iter().enumerate() {
            let mut client = node.client();
            client.call(&["CLUSTER", "SET-CONFIG-EPOCH", &(position + 1).to_string()]);
            if position < PRIMARIES {
                let (first, last) = (first_slot(position), first_slot(position + 1) - 1);
                client.call(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            }
        }
        // Each node meets each other one: gossip would take longer.
        for node in &self.nodes {
            let mut client = node.client();
            for other in self.nodes.iter().filter(|other| other.port != node.port) {
                let bus = bus_port(other).to_string();
                client.call(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string(), &bus]);
            }
        }
        self.wait_until_all("to know all the others", |view| {
            view.len() == self.nodes.len() && view.iter().all(|node| !node.flags.contains("handshake"))
        });
        let ids: Vec<String> = self.nodes.iter().map(id_of).collect();
        for (replica, primary) in self.nodes[PRIMARIES..].iter().zip(&ids) {
            // Refused until gossip has brought the primary's slots.
            wait_until("a replica to be taken", || {
                replica.client().try_call(&["CLUSTER", "REPLICATE", primary]).is_ok()
            });
        }
        self.wait_until_stable();
    }

    /// Waits until all slots are served, every node reports it, and every replica is in sync.
    pub fn wait_until_stable(&self) {
        let replicas = self.nodes.len() - PRIMARIES;
        self.wait_until_all("to agree", |view| {
            let of_flag = |flag: &str| view.iter().filter(|node| node.flags.split(',').any(|f| f == flag)).count();
            of_flag("slave") == replicas
                && of_flag("master") == PRIMARIES
                && of_flag("fail") == 0
                && of_flag("fail?") == 0
        });
        for node in &self.nodes {
            let mut client = node.client();
            wait_until("the cluster to be ok", || {
                text(&client.call(&["CLUSTER", "INFO"])).contains("cluster_state:ok")
            });
            wait_until("the replica to be in sync", || {
                client.info("replication", "role") == "master"
                    || client.info("replication", "master_link_status") == "up"
            });
        }
    }

    fn wait_until_all(&self, what: &str, is: impl Fn(&[Known]) -> bool) {
        for node in &self.nodes {
            let mut client = node.client();
            wait_until(&format!("the node on port {} {what}", node.port), || is(&known_to(&mut client)));
        }
    }

    /// Returns the primary that serves the slot of a key.
    pub fn owner(&self, key: &str) -> &Server {
        wait_for("a node that has the key's slot", || {
            self.nodes.iter().find(|node| {
                node.client().try_call(&["EXISTS", key]).is_ok()
                    && node.client().info("replication", "role") == "master"
            })
        })
    }

    /// Returns a client of the node to which MOVED leads.
    pub fn client_of(&self, key: &str) -> Client {
        wait_for("a node that serves the key", || {
            let mut client = self.nodes.iter().find_map(Server::try_client)?;
            for _hop in 0..4 {
                match client.try_call(&["EXISTS", key]) {
                    Ok(_) => return Some(client),
                    Err(line) => client = self.node_on(moved_to(&line)?)?.try_client()?,
                }
            }
            None
        })
    }

    fn node_on(&self, port: u16) -> Option<&Server> {
        self.nodes.iter().find(|node| node.port == port)
    }

    /// Returns the nodes that are primaries now.
    pub fn primaries(&self) -> Vec<&Server> {
        let is_primary =
            |node: &&Server| node.try_client().is_some_and(|mut client| client.info("replication", "role") == "master");
        self.nodes.iter().filter(is_primary).collect()
    }

    /// Returns the replica that a primary has now.
    pub fn replica_of(&self, primary: &Server) -> &Server {
        let port = primary.port.to_string();
        wait_for("a replica", || {
            self.nodes
                .iter()
                .find(|node| node.try_client().is_some_and(|mut c| c.info("replication", "master_port") == port))
        })
    }

    /// Returns `count` keys, in slots of the first, second and third primary in turn.
    pub fn keys(&self, count: usize) -> Vec<String> {
        let mut client = self.nodes[0].client();
        let mut keys = Vec::new();
        for n in 0.. {
            let key = format!("svc-{n}");
            if position_of(slot_of(&mut client, &key)) == keys.len() % PRIMARIES {
                keys.push(key);
            }
            if keys.len() == count {
                break;
            }
        }
        keys
    }

    /// Moves a slot with all its keys, the way that redis-cli does it.
    pub fn reshard(&self, slot: u16, from: &Server, to: &Server, meanwhile: impl FnOnce(&mut Client, &mut Client)) {
        let (mut source, mut target) = (from.client(), to.client());
        let (slot, source_id, target_id) = (slot.to_string(), id_of(from), id_of(to));
        target.call(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]);
        source.call(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]);
        loop {
            let found = source.call(&["CLUSTER", "GETKEYSINSLOT", &slot, "10"]);
            let keys: Vec<String> = items(&found).iter().map(text).collect();
            if keys.is_empty() {
                break;
            }
            let port = to.port.to_string();
            let head = ["MIGRATE", "127.0.0.1", &port, "", "0", "10000", "KEYS"];
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            source.call(&[&head[..], &keys].concat());
        }
        meanwhile(&mut source, &mut target);
        // The target first, so that the slot always has an owner; then all other primaries.
        target.call(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
        source.call(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
        for other in self.primaries() {
            other.client().call(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
        }
        self.wait_until_known(to);
    }

    /// Waits until all others know in which epoch a node has its slots. Were a slot to move on before, gossip about its
    /// earlier owner could arrive later, and the server would drop its keys.
    pub fn wait_until_known(&self, node: &Server) {
        let id = id_of(node);
        let epoch_of = |view: &[Known]| view.iter().find(|known| known.id == id).map(|known| known.epoch.clone());
        let epoch = epoch_of(&known_to(&mut node.client()));
        self.wait_until_all("to know of the move", |view| epoch_of(view) == epoch);
    }
}

/// Returns the first slot of a primary, at the start.
fn first_slot(position: usize) -> usize {
    position * SLOTS / PRIMARIES
}

fn position_of(slot: u16) -> usize {
    (0..PRIMARIES).rev().find(|position| usize::from(slot) >= first_slot(*position)).expect("the first begins at 0")
}

fn start_node(kind: ServerKind, node_timeout_ms: u64, extra: &[&str]) -> Server {
    let (timeout, bus) = (node_timeout_ms.to_string(), next_port().to_string());
    let own = [
        &["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", &timeout][..],
        // By itself the bus takes the port plus 10000, which may be anybody's.
        &["--cluster-port", &bus, "--cluster-allow-replica-migration", "no"],
    ];
    Server::start(kind, &[&own.concat()[..], extra].concat())
}

fn bus_port(node: &Server) -> u16 {
    node.argument("--cluster-port").and_then(|port| port.parse().ok()).expect("a port, given at its start")
}

pub fn id_of(node: &Server) -> String {
    text(&node.client().call(&["CLUSTER", "MYID"]))
}

pub fn slot_of(client: &mut Client, key: &str) -> u16 {
    int(&client.call(&["CLUSTER", "KEYSLOT", key])) as u16
}

/// Returns the port in `MOVED 3999 127.0.0.1:6381`.
pub fn moved_to(line: &str) -> Option<u16> {
    let address = line.strip_prefix("MOVED ")?.split_whitespace().nth(1)?;
    address.rsplit(':').next()?.parse().ok()
}

/// One line of CLUSTER NODES.
struct Known {
    id: String,
    flags: String,
    epoch: String,
}

fn known_to(client: &mut Client) -> Vec<Known> {
    let Ok(reply) = client.try_call(&["CLUSTER", "NODES"]) else { return Vec::new() };
    let known = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_string);
        Known {
            id: words.next().unwrap_or_default(),
            flags: words.nth(1).unwrap_or_default(),
            epoch: words.nth(3).unwrap_or_default(),
        }
    };
    text(&reply).lines().map(known).collect()
}
