//! A network of its own for each run: a namespace for each process, all on one bridge, which clients are on, too.
//!
//! What one process sends to another is lost where the other one receives it, so a cut has a direction, and what is sent meets
//! silence. Clients and the placement driver reach all stores all the time. Linux drops packets so by a routing rule, before
//! which the table of local addresses is moved.

use std::net::Ipv4Addr;
use std::process::Command;

use crate::harness::Port;
use crate::janitor::Janitor;

/// Priorities of rules: what is dropped comes before what is local.
const DROP: &str = "50";
const LOCAL: &str = "100";

/// Bytes per second that a slow link carries.
const SLOW_RATE: &str = "40kbps";

pub(crate) struct Network {
    /// Unique on the machine while it is reserved.
    port: Port,
    hosts: usize,
    cuts: Vec<(usize, usize)>,
}

impl Network {
    /// A network of these many hosts with the janitor that clears it up. There is no network where this process may not make
    /// namespaces.
    pub(crate) fn make(hosts: usize) -> (Option<Self>, Janitor) {
        let network = Self {
            port: Port::reserve(),
            hosts,
            cuts: Vec::new(),
        };
        let namespaces: Vec<_> = (0..hosts).map(|host| network.namespace(host)).collect();
        let janitor = Janitor::engage(&network.bridge(), &namespaces);
        (network.is_made().then_some(network), janitor)
    }

    fn is_made(&self) -> bool {
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
            && (0..self.hosts).all(|host| self.is_host_made(host))
    }

    fn is_host_made(&self, host: usize) -> bool {
        let (namespace, bridge) = (&self.namespace(host), &self.bridge());
        let link = &format!("{bridge}{host}");
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

    fn bridge(&self) -> String {
        format!("fdb{}h", self.port.number())
    }

    /// One of the 14 addresses of the network, in the block that carriers share (RFC 6598).
    fn address(&self, number: usize) -> Ipv4Addr {
        let block = u32::from(Ipv4Addr::new(100, 64, 0, 0));
        let number = u32::try_from(number).expect("there are 14");
        Ipv4Addr::from(block + u32::from(self.port.number()) * 16 + 1 + number)
    }

    /// Loses all that one host sends to another.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cuts.push((from, to));
        self.rule("add", from, to);
    }

    /// Loses all that these hosts send to each other.
    pub(crate) fn cut_both(&mut self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
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

    /// Makes what a host sends slow. `false`: this kernel cannot.
    pub(crate) fn slow_down(&self, host: usize) -> bool {
        let namespace = self.namespace(host);
        run(
            "tc",
            &[
                "-n", &namespace, "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", SLOW_RATE,
                "burst", "4kb", "latency", "400ms",
            ],
        )
        .is_some()
    }

    /// How many packets had to wait.
    pub(crate) fn slowed_packets(&self, host: usize) -> u64 {
        let namespace = self.namespace(host);
        let shown = run(
            "tc",
            &["-n", &namespace, "-s", "qdisc", "show", "dev", "eth0"],
        );
        let shown = shown.expect("it was slowed down");
        let mut words = shown
            .split_whitespace()
            .skip_while(|&word| word != "overlimits");
        words
            .nth(1)
            .and_then(|count| count.parse().ok())
            .expect("tc says")
    }

    pub(crate) fn speed_up(&self, host: usize) {
        let namespace = self.namespace(host);
        let sped_up = run(
            "tc",
            &["-n", &namespace, "qdisc", "delete", "dev", "eth0", "root"],
        );
        assert!(sped_up.is_some());
    }
}

fn ip(arguments: &[&str]) -> bool {
    run("ip", arguments).is_some()
}

/// What a program prints, if it succeeds.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
