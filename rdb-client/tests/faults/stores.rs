//! A placement driver and three stores, or four, each in a network namespace of its own where this process may make them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rdb_proto::metapb::RegionRoute;
use rdb_proto::pdpb::GetRegionRequest;
use rdb_proto::pdpb::pd_client::PdClient;
use tokio::time::timeout;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{Node, connect, found};
use crate::janitor::Janitor;
use crate::links::Links;
use crate::load::Load;
use crate::network::Network;
use crate::proxies::Proxies;
use crate::shim::{Shim, ShimLibrary};

/// The stores of most runs, and the replicas of each region in all of them.
pub(crate) const STORES: usize = 3;

const ELECTION_TIMEOUT_MAX_MS: u64 = 1800;

/// How long syncs wait for a store that writes nothing, and how often.
const HOLD: Duration = Duration::from_secs(1);
const HOLDS_MAX: usize = 100;

/// Makes the stores break a promise: the value of `RDB_MUTANT` in their environment, see `rdb_raft::mutant`.
const MUTANT: &str = "RDB_FAULTS_MUTANT";

/// Has proxies used where namespaces could be, too.
const PROXIES: &str = "RDB_FAULTS_PROXIES";

/// What a run asks of its stores and of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Setup {
    /// Links between stores that can be cut.
    pub(crate) links: Option<LinkKind>,
    /// The shim in all stores.
    pub(crate) shim: bool,
    /// The rate of the first store's clock, if it is not right.
    pub(crate) clock_rate: Option<f64>,
    /// The size of each store's disk.
    pub(crate) disk_mib: Option<u32>,
    /// The longest election timeout, which is also the lease. By default short, so that a run is. After a long lease the shortest
    /// timeout is short.
    pub(crate) election_timeout_max_ms: Option<u64>,
    /// How much of its log a leader keeps for a store that is away.
    pub(crate) log_mib_max: Option<u64>,
    /// One store more than there are replicas.
    pub(crate) spare: bool,
    /// After how long a silent store's replicas are replaced.
    pub(crate) store_down_after_s: Option<u64>,
    /// There may be no majority for as long as faults last.
    pub(crate) loses_majority: bool,
}

impl Setup {
    pub(crate) fn election_timeout_max(self) -> Duration {
        let max_ms = self.election_timeout_max_ms;
        Duration::from_millis(max_ms.unwrap_or(ELECTION_TIMEOUT_MAX_MS))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkKind {
    /// Network namespaces where this process may make them, else proxies.
    Any,
    /// They can be slow, too.
    Proxies,
}

/// A store that leads the region, and its term.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leader {
    pub(crate) store: usize,
    pub(crate) term: u64,
}

pub(crate) struct Stores {
    pub(crate) pd: Node,
    pub(crate) nodes: Vec<Node>,
    /// Where each is reached.
    addresses: Vec<String>,
    /// Of each store, if it was asked for.
    pub(crate) shims: Vec<Shim>,
    links: Option<Links>,
    janitor: Janitor,
}

impl Stores {
    /// Stores whose region has a leader, or what this machine lacks.
    pub(crate) async fn start(setup: Setup) -> Result<Self, &'static str> {
        let count = STORES + usize::from(setup.spare);
        // The placement driver comes after the stores.
        let network = Network::of(count + 1);
        let janitor = Janitor::engage(&network.bridge(), &network.namespaces());
        let wants_proxies =
            setup.links == Some(LinkKind::Proxies) || std::env::var_os(PROXIES).is_some();
        let network = Some(network).filter(|network| !wants_proxies && network.make());
        assert!(
            network.is_some() || wants_proxies || !must_make_namespaces(),
            "root cannot make network namespaces, and RDB_REQUIRE_ALL_TESTS is set"
        );
        let directory = janitor.directory();
        let place = |node: Node, host| match &network {
            Some(network) => node.in_namespace(&network.namespace(host), &network.host(host)),
            None => node,
        };
        let pd = place(Node::placement_driver(directory.join("pd")), count);
        let mut pd = pd.with_flag("--initial-replicas", &STORES.to_string());
        if let Some(seconds) = setup.store_down_after_s {
            pd = pd.with_flag("--store-down-after-s", &seconds.to_string());
        }
        pd.start_serving().await;
        let mut stores = Self {
            nodes: Vec::new(),
            addresses: Vec::new(),
            shims: Vec::new(),
            pd,
            links: None,
            janitor,
        };
        for number in 0..count {
            let disk = stores.disk(number);
            fs::create_dir(&disk).expect("the directory can be written");
            if let Some(mib) = setup.disk_mib
                && !mount(&disk, mib)
            {
                return Err("this process may not mount a file system");
            }
            let store = Node::store(disk.join("data"), &stores.pd.address());
            let mut store = with_raft_flags(place(store, number), setup);
            if let Ok(mutant) = std::env::var(MUTANT) {
                store.set_environment("RDB_MUTANT", mutant);
            }
            stores.nodes.push(store);
        }
        if (setup.shim || setup.clock_rate.is_some()) && !stores.load_shims(setup.clock_rate) {
            return Err("there is no C compiler");
        }
        match (network, setup.links) {
            (Some(network), _) => stores.links = Some(Links::Namespaces(network)),
            (None, Some(_)) => stores.go_through_proxies().await,
            (None, None) => {}
        }
        if stores.addresses.is_empty() {
            stores.addresses = stores.nodes.iter().map(Node::address).collect();
        }
        for store in &mut stores.nodes {
            store.start();
        }
        stores.all_serve().await;
        stores.leader().await;
        Ok(stores)
    }

    /// `false`: there is no C compiler.
    fn load_shims(&mut self, clock_rate: Option<f64>) -> bool {
        let Some(library) = ShimLibrary::compile(self.janitor.directory()) else {
            return false;
        };
        for (number, store) in self.nodes.iter_mut().enumerate() {
            let rate = clock_rate.filter(|_| number == 0).unwrap_or(1.0);
            let shim = Shim::of(store.data_dir());
            for (name, value) in shim.environment(&library, rate) {
                store.set_environment(name, value);
            }
            self.shims.push(shim);
        }
        true
    }

    async fn go_through_proxies(&mut self) {
        let stores = self.nodes.iter();
        let stores = stores.map(|store| (store.data_dir().to_owned(), store.address()));
        let proxies = Proxies::open(&stores.collect::<Vec<_>>()).await;
        for (number, store) in self.nodes.iter_mut().enumerate() {
            let address = proxies.address(number);
            store.set_environment("RDB_SERVER_ADVERTISE_ADDR", &address);
            self.addresses.push(address);
        }
        self.links = Some(Links::Proxies(proxies));
    }

    /// Where a store keeps its data directory.
    pub(crate) fn disk(&self, number: usize) -> PathBuf {
        self.janitor.directory().join(format!("store-{number}"))
    }

    /// Leaves no room on a disk beside what its files have.
    pub(crate) async fn fill_disk(&self, number: usize) {
        // The store may write meanwhile, and a disk does not become smaller than what it holds.
        found("the disk is full", async || {
            let disk = rustix::fs::statvfs(self.disk(number)).expect("it is mounted");
            let used_kib = (disk.f_blocks - disk.f_bfree) * disk.f_frsize / 1024;
            let used_kib = u32::try_from(used_kib).expect("it is small");
            self.resize_disk(number, used_kib).then_some(())
        })
        .await;
    }

    /// Whether it could be done.
    pub(crate) fn resize_disk(&self, number: usize, kib: u32) -> bool {
        let options = format!("remount,size={kib}k");
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", &options]).arg(self.disk(number)).output();
        status.expect("mount worked before").status.success()
    }

    /// Has the syncs of these stores wait until they are released or the power is cut, and waits until each has written what it cannot
    /// sync.
    ///
    /// All of them never get there if all that the leader has proposed was synced right before, since without syncs nothing more is
    /// proposed. Then all go on, and it begins anew.
    pub(crate) async fn hold_syncs(&self, stores: &[usize], load: &Load) {
        let shims = || stores.iter().map(|&store| &self.shims[store]);
        for _ in 0..HOLDS_MAX {
            let held: Vec<_> = shims().map(|shim| (shim, shim.hold_syncs())).collect();
            let are_unsynced = async || {
                let mut held = held.iter();
                let all = held.all(|(shim, held_at)| shim.has_unsynced_log(held_at));
                all.then_some(())
            };
            let unsynced = found("the stores have something to lose", are_unsynced);
            if timeout(HOLD, unsynced).await.is_ok() {
                return;
            }
            shims().for_each(Shim::release_syncs);
            load.goes_on().await;
        }
        panic!("after {HOLDS_MAX} tries some store has nothing to lose");
    }

    /// What a run says of its links. Without any, it needs none.
    pub(crate) fn link_name(&self) -> &'static str {
        self.links.as_ref().map_or("none", Links::name)
    }

    pub(crate) fn links(&mut self) -> &mut Links {
        self.links.as_mut().expect("the setup asks for it")
    }

    pub(crate) async fn all_serve(&mut self) {
        for store in &mut self.nodes {
            store.wait_for_health(ServingStatus::Serving).await;
        }
    }

    /// The numbers of the other stores, where there is no spare one.
    pub(crate) fn others(number: usize) -> [usize; STORES - 1] {
        [(number + 1) % STORES, (number + 2) % STORES]
    }

    /// Where clients and other stores reach a store.
    pub(crate) fn address(&self, number: usize) -> &str {
        &self.addresses[number]
    }

    /// The leader, of whose term no store knows a later one.
    pub(crate) async fn leader(&self) -> Leader {
        let leads = async || self.reported().await.filter(|&leader| self.leads(leader));
        found("a store leads", leads).await
    }

    /// Whether no store knows of a leader in a later term.
    pub(crate) fn leads(&self, leader: Leader) -> bool {
        let mut terms = self.nodes.iter().filter_map(Node::leader_term);
        terms.all(|term| term <= leader.term)
    }

    /// Waits until another store leads, in a later term.
    pub(crate) async fn another_leads(&self, than: Leader) -> Leader {
        let is_another = |leader: &Leader| leader.store != than.store && leader.term > than.term;
        let leads = async || self.reported().await.filter(is_another);
        found("another store leads", leads).await
    }

    /// What the placement driver was told, which may be late.
    async fn reported(&self) -> Option<Leader> {
        let RegionRoute { leader, term, .. } = self.route().await?;
        let leader = leader?;
        let mut addresses = self.addresses.iter();
        let store = addresses.position(|address| *address == leader.address);
        Some(Leader {
            store: store.expect("one of them"),
            term,
        })
    }

    async fn route(&self) -> Option<RegionRoute> {
        let channel = connect(&self.pd.address()).await.expect("it listens");
        let mut pd = PdClient::new(channel);
        let asked = pd.get_region(GetRegionRequest::default()).await;
        asked.expect("it answers").into_inner().route
    }
}

/// Proxies are for those who may not make them.
fn must_make_namespaces() -> bool {
    std::env::var_os("RDB_REQUIRE_ALL_TESTS").is_some() && rustix::process::geteuid().is_root()
}

fn with_raft_flags(store: Node, setup: Setup) -> Node {
    let (heartbeat_ms, min_ms) = match setup.election_timeout_max_ms {
        Some(_) => (100, 300),
        None => (250, 900),
    };
    let max_ms = setup.election_timeout_max().as_millis();
    let store = match setup.log_mib_max {
        Some(mib) => store.with_flag("--raft-log-mib-max", &mib.to_string()),
        None => store,
    };
    store
        .with_flag("--raft-heartbeat-ms", &heartbeat_ms.to_string())
        .with_flag("--raft-election-timeout-min-ms", &min_ms.to_string())
        .with_flag("--raft-election-timeout-max-ms", &max_ms.to_string())
}

fn mount(directory: &Path, mib: u32) -> bool {
    let size = format!("size={mib}m");
    let mut mount = Command::new("mount");
    let status = mount
        .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
        .arg(directory)
        .status();
    status.is_ok_and(|status| status.success())
}
