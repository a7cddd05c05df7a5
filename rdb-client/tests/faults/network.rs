//! A network of its own for each run: a namespace for each process, all on one bridge, which clients are on, too.
//!
//! What one process sends to another is lost where the other one receives it, so a cut has a direction, and what is sent meets
//! silence. Clients and the placement driver reach all stores all the time. Linux drops packets so by a routing rule, before
//! which the table of local addresses is moved.

use std::net::Ipv4Addr;
use std::process::Command;

use crate::harness::Port;

/// Priorities of rules: what is dropped comes before what is local.
const DROP: &str = "50";
const LOCAL: &str = "100";

pub(crate) struct Network {
    /// Unique on the machine while it is reserved.
    port: Port,
    hosts: usize,
    cuts: Vec<(usize, usize)>,
}

impl Network {
    /// A network of these many hosts, which is not made yet.
    pub(crate) fn of(hosts: usize) -> Self {
        Self {
            port: Port::reserve(),
            hosts,
            cuts: Vec::new(),
        }
    }

    /// Makes it. `false`: this process may not make namespaces.
    pub(crate) fn make(&self) -> bool {
        let bridge = &self.bridge();
        ip(&["netns", "add", &self.namespace(0)])
            && ip(&["link", "add", bridge, "type", "bridge"])
            && ip(&[
                "address",
                "add",
                &format!("{}/28", self.address(0)),
                "dev",
                bridge,
            ])
            && ip(&["link", "set", bridge, "up"])
            && (0..self.hosts).all(|host| self.make_host(host))
    }

    fn make_host(&self, host: usize) -> bool {
        let (namespace, bridge) = (&self.namespace(host), &self.bridge());
        let link = &self.link(host);
        let inside = |arguments: &[&str]| ip(&[&["-n", namespace], arguments].concat());
        (host == 0 || ip(&["netns", "add", namespace]))
            && ip(&[
                "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace,
            ])
            && ip(&["link", "set", link, "master", bridge, "up"])
            && inside(&[
                "address",
                "add",
                &format!("{}/28", self.host(host)),
                "dev",
                "eth0",
            ])
            && inside(&["link", "set", "eth0", "up"])
            && inside(&["link", "set", "lo", "up"])
            && inside(&["rule", "add", "priority", LOCAL, "lookup", "local"])
            && inside(&["rule", "delete", "priority", "0"])
    }

    pub(crate) fn namespace(&self, host: usize) -> String {
        format!("flaredb-{}-{host}", self.port.number())
    }

    /// The address of a host.
    pub(crate) fn host(&self, host: usize) -> String {
        self.address(1 + host).to_string()
    }

    pub(crate) fn namespaces(&self) -> Vec<String> {
        (0..self.hosts).map(|host| self.namespace(host)).collect()
    }

    pub(crate) fn bridge(&self) -> String {
        format!("fdb{}h", self.port.number())
    }

    fn link(&self, host: usize) -> String {
        format!("{}{host}", self.bridge())
    }

    /// Loses all that a host sends and receives, also to and from clients.
    pub(crate) fn unplug(&self, host: usize) {
        assert!(ip(&["link", "set", &self.link(host), "down"]));
    }

    pub(crate) fn plug(&self, host: usize) {
        assert!(ip(&["link", "set", &self.link(host), "up"]));
    }

    /// One of the 14 addresses of the network, in the block that carriers share (RFC 6598).
    fn address(&self, number: usize) -> Ipv4Addr {
        let block = u32::from(Ipv4Addr::new(100, 64, 0, 0));
        let number = u32::try_from(number).expect("there are 14");
        Ipv4Addr::from(block + u32::from(self.port.number()) * 16 + 1 + number)
    }

    /// Loses all that one host sends to another.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        // A rule cannot be added twice.
        if !self.cuts.contains(&(from, to)) {
            self.cuts.push((from, to));
            self.rule("add", from, to);
        }
    }

    /// Loses nothing any more.
    pub(crate) fn mend(&mut self) {
        for (from, to) in std::mem::take(&mut self.cuts) {
            self.rule("delete", from, to);
        }
    }

    fn rule(&self, verb: &str, from: usize, to: usize) {
        let (namespace, from) = (self.namespace(to), self.host(from));
        let rule = [
            "-n",
            &namespace,
            "rule",
            verb,
            "priority",
            DROP,
            "from",
            &from,
            "blackhole",
        ];
        assert!(ip(&rule), "{rule:?}");
    }
}

fn ip(arguments: &[&str]) -> bool {
    let output = Command::new("ip").args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}
