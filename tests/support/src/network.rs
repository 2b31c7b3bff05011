//! Hosts in network namespaces, joined by a bridge, that can be cut off from the others and joined again.
//!
//! Processes of a host talk to each other host by its address. Tests reach them by Unix sockets, which know no network:
//! a test has clients on both sides of a cut.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

/// A network of hosts, which is removed when this is dropped. Processes in it have to be ended before.
pub struct Network {
    name: String,
    hosts: usize,
}

impl Network {
    /// Makes a network. The error says why this machine does not let us.
    pub fn new(hosts: usize) -> Result<Network, String> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        // The names of network interfaces have at most 15 characters.
        let name = format!("rd{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let network = Network { name, hosts: 0 };
        network.build(hosts)
    }

    fn build(mut self, hosts: usize) -> Result<Network, String> {
        let hub = self.namespace("hub");
        run("ip", &["netns", "add", &hub])?;
        run("ip", &["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        run("ip", &["-n", &hub, "link", "set", "bridge", "up"])?;
        for host in 0..hosts {
            let (namespace, port) = (self.host(host), port(host));
            run("ip", &["netns", "add", &namespace])?;
            self.hosts += 1;
            let pair = ["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &namespace];
            run("ip", &[&["-n", &hub][..], &pair].concat())?;
            run("ip", &["-n", &hub, "link", "set", &port, "master", "bridge", "up"])?;
            let address = format!("{}/24", self.address(host));
            run("ip", &["-n", &namespace, "address", "add", &address, "dev", "eth0"])?;
            run("ip", &["-n", &namespace, "link", "set", "eth0", "up"])?;
            run("ip", &["-n", &namespace, "link", "set", "lo", "up"])?;
        }
        // What processes are started with has to work as well.
        run("ip", &["netns", "exec", &hub, "true"])?;
        Ok(self)
    }

    fn namespace(&self, what: &str) -> String {
        format!("{}-{what}", self.name)
    }

    fn host(&self, host: usize) -> String {
        self.namespace(&host.to_string())
    }

    /// Returns the address of a host, which only hosts of this network reach.
    pub fn address(&self, host: usize) -> String {
        format!("10.111.0.{}", host + 1)
    }

    /// Returns a command that runs a program on a host. The process is the program's own: it can be ended by its id.
    pub fn command(&self, host: usize, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host(host)]).arg(program);
        command
    }

    /// Cuts a host off from all others: what is sent is lost, and nobody is told.
    pub fn cut(&self, host: usize) {
        self.set_port(host, "down");
    }

    /// Joins a host to the others again.
    pub fn join(&self, host: usize) {
        self.set_port(host, "up");
    }

    fn set_port(&self, host: usize, state: &str) {
        let hub = self.namespace("hub");
        run("ip", &["-n", &hub, "link", "set", &port(host), state]).unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            let _ = run("ip", &["netns", "delete", &self.host(host)]);
        }
        let _ = run("ip", &["netns", "delete", &self.namespace("hub")]);
    }
}

fn port(host: usize) -> String {
    format!("port{host}")
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    output.status.success().then_some(()).ok_or_else(|| format!("{program} {}: {said}", args.join(" ")))
}
