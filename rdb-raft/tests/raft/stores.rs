//! Stores in one process that reach each other over loopback, each through a proxy of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all, ready};
use rdb_proto::transport::{ByteBudget, ServeOptions, Services, serve};
use rdb_raft::group::{Group, ProposeError};
use rdb_raft::log::{LogDevice, MemoryDevice};
use rdb_raft::transport::{AddressBook, PeerService, Starts, StoreIdentity, Transport};
use rdb_raft::{Node, Timing};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::payloads::Payloads;
use crate::proxy::Proxy;
use crate::voters::{GUARD, campaign, wait_until};

pub(crate) const CLUSTER_ID: u64 = 7;

pub(crate) const GROUP_ID: u64 = 11;

/// Short enough to wait for another leader.
pub(crate) const TIMING: Timing = Timing {
    heartbeat_ms: 200,
    election_timeout_min_ms: 2000,
    election_timeout_max_ms: 3000,
};

/// What a leader keeps of its log for others: two strides of a purge.
pub(crate) const KEPT_BYTES: u64 = 32 << 20;

/// Where a store believes the others to be.
#[derive(Default)]
pub(crate) struct Addresses {
    known: Mutex<HashMap<u64, String>>,
    /// How often one was asked for.
    asked: AtomicUsize,
}

impl Addresses {
    pub(crate) fn of(addresses: impl IntoIterator<Item = (u64, String)>) -> Arc<Self> {
        Arc::new(Self {
            known: Mutex::new(addresses.into_iter().collect()),
            asked: AtomicUsize::new(0),
        })
    }

    pub(crate) fn tell(&self, store_id: u64, address: String) {
        self.known.lock().unwrap().insert(store_id, address);
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl AddressBook for Addresses {
    fn address(&self, store_id: u64) -> BoxFuture<'_, Option<String>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let address = self.known.lock().unwrap().get(&store_id).cloned();
        ready(address).boxed()
    }
}

pub(crate) fn identity(store_id: u64) -> StoreIdentity {
    StoreIdentity {
        cluster_id: CLUSTER_ID,
        store_id,
    }
}

/// A store in its first start, which has met nobody. What it meets is forgotten with it.
pub(crate) fn first_start() -> Arc<Starts> {
    Starts::new(1, BTreeMap::new(), |_, _| Ok(()))
}

/// Serves other stores.
pub(crate) struct Served {
    drain: CancellationToken,
    serving: AbortOnDropHandle<()>,
}

impl Served {
    pub(crate) fn start(listener: TcpListener, services: Services, options: ServeOptions) -> Self {
        let drain = CancellationToken::new();
        let options = ServeOptions {
            drain_timeout: 10 * GUARD,
            ..options
        };
        let served = serve(listener, services, options, drain.clone());
        let serving = tokio::spawn(async { served.await.unwrap() });
        Self {
            drain,
            serving: AbortOnDropHandle::new(serving),
        }
    }

    /// Waits until nothing is served any more.
    pub(crate) async fn stop(self) {
        self.drain.cancel();
        let stopped = timeout(GUARD, self.serving).await;
        stopped.expect("the drain ends in time").unwrap();
    }
}

/// A store with a peer of one group. The first peer of a store has its id.
pub(crate) struct Store {
    pub(crate) id: u64,
    pub(crate) peer_id: u64,
    pub(crate) node: Arc<Node>,
    pub(crate) group: Group,
    pub(crate) payloads: Arc<Payloads>,
    pub(crate) starts: Arc<Starts>,
    pub(crate) served: Served,
}

impl Store {
    pub(crate) async fn start(
        id: u64,
        ways: &Ways,
        device: Arc<dyn LogDevice>,
        payloads: Arc<Payloads>,
    ) -> Self {
        let listener = ways.listener(id).await;
        let addresses = ways.addresses(id);
        Self::start_with(
            ways.timing,
            [id; 2],
            listener,
            addresses,
            device,
            payloads,
            ways.options(),
        )
        .await
    }

    /// A store whose disk was lost, with a peer that knows nothing.
    pub(crate) async fn start_empty(id: u64, peer_id: u64, ways: &Ways) -> Self {
        let (device, payloads) = (Arc::<MemoryDevice>::default(), Arc::default());
        let (listener, addresses) = (ways.listener(id).await, ways.addresses(id));
        let ids = [id, peer_id];
        Self::start_with(
            ways.timing,
            ids,
            listener,
            addresses,
            device,
            payloads,
            ways.options(),
        )
        .await
    }

    pub(crate) async fn start_on(
        id: u64,
        listener: TcpListener,
        addresses: Arc<Addresses>,
        device: Arc<dyn LogDevice>,
        payloads: Arc<Payloads>,
        options: ServeOptions,
    ) -> Self {
        Self::start_with(
            TIMING, [id; 2], listener, addresses, device, payloads, options,
        )
        .await
    }

    async fn start_with(
        timing: Timing,
        [id, peer_id]: [u64; 2],
        listener: TcpListener,
        addresses: Arc<Addresses>,
        device: Arc<dyn LogDevice>,
        payloads: Arc<Payloads>,
        options: ServeOptions,
    ) -> Self {
        let node = Node::start_keeping(KEPT_BYTES, timing, device).unwrap();
        let (node, starts) = (Arc::new(node), first_start());
        let transport = Transport::new(identity(id), timing, addresses, Arc::clone(&starts));
        let network = transport.network(GROUP_ID, peer_id);
        let machine = Arc::clone(&payloads) as _;
        let group = node
            .open(GROUP_ID, peer_id, machine, network)
            .await
            .unwrap();
        let of_service = (Arc::clone(&node), Arc::clone(&starts));
        let service = PeerService::new(Arc::new(identity(id).into()), of_service.0, of_service.1);
        let services = Services::default().add_service(service);
        Self {
            id,
            peer_id,
            node,
            group,
            payloads,
            starts,
            served: Served::start(listener, services, options),
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.group.leader().peer_id == Some(self.peer_id)
    }

    /// Campaigns as if a leader of an earlier term had handed its leadership over. For a group without a leader.
    pub(crate) async fn lead(&self) {
        campaign(&self.group, self.peer_id).await;
        wait_until("it leads", || self.leads()).await;
        let permitted = timeout(GUARD, self.group.permit_read()).await;
        permitted.expect("it serves its term in time").unwrap();
    }

    pub(crate) async fn write(&self, payload: impl Into<Vec<u8>>) -> Result<(), ProposeError> {
        let (sender, outcome) = oneshot::channel();
        let complete = |outcome| drop(sender.send(outcome));
        self.group.propose(Bytes::from(payload.into()), complete);
        let outcome = timeout(GUARD, outcome).await;
        outcome.expect("it is answered in time").unwrap().map(drop)
    }

    pub(crate) async fn has_applied(&self, payloads: &[Bytes]) {
        let what = format!("store {} has applied all", self.id);
        wait_until(&what, || self.payloads.payloads() == payloads).await;
    }

    pub(crate) async fn has_applied_some(&self, count_min: usize) {
        let what = format!("store {} has applied some", self.id);
        wait_until(&what, || self.payloads.payloads().len() >= count_min).await;
    }

    /// Ends all of it, as a drain does.
    pub(crate) async fn stop(self) {
        self.served.stop().await;
        let shut_down = timeout(GUARD, self.node.shut_down()).await;
        shut_down.expect("it shuts down in time");
    }
}

/// The ways between stores 1 to 4.
pub(crate) struct Ways {
    proxies: HashMap<(u64, u64), Proxy>,
    timing: Timing,
    /// What clients have in flight, of all stores together.
    pub(crate) clients: ByteBudget,
}

impl Ways {
    pub(crate) async fn new() -> Self {
        Self::of_stores_with(TIMING).await
    }

    pub(crate) async fn of_stores_with(timing: Timing) -> Self {
        let mut proxies = HashMap::new();
        for from in 1..=4 {
            for to in 1..=4 {
                proxies.insert((from, to), Proxy::start().await);
            }
        }
        let clients = ServeOptions::default().bytes_in_flight;
        Self {
            proxies,
            timing,
            clients,
        }
    }

    /// What a store serves with.
    fn options(&self) -> ServeOptions {
        ServeOptions {
            bytes_in_flight: self.clients.clone(),
            ..ServeOptions::default()
        }
    }

    pub(crate) fn addresses(&self, from: u64) -> Arc<Addresses> {
        let ways = self.proxies.iter();
        let ways = ways.filter(|((caller, _), _)| *caller == from);
        Addresses::of(ways.map(|((_, to), proxy)| (*to, proxy.address.clone())))
    }

    /// What a store that starts listens on. All ways to it lead there.
    pub(crate) async fn listener(&self, store_id: u64) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ways = self.proxies.iter().filter(|((_, to), _)| *to == store_id);
        for (_, way) in ways {
            way.lead_to(listener.local_addr().unwrap());
        }
        listener
    }

    pub(crate) fn way(&self, from: u64, to: u64) -> &Proxy {
        &self.proxies[&(from, to)]
    }

    /// All ways of a store, to others and from them.
    pub(crate) fn of(&self, store_id: u64) -> impl Iterator<Item = &Proxy> {
        let ways = self.proxies.iter();
        let ways = ways.filter(move |((from, to), _)| *from == store_id || *to == store_id);
        ways.map(|(_, proxy)| proxy)
    }
}

/// Stores 1, 2 and 3 with their logs in memory.
pub(crate) struct Stores {
    pub(crate) ways: Ways,
    pub(crate) stores: Vec<Store>,
    pub(crate) devices: [Arc<MemoryDevice>; 3],
}

impl Stores {
    pub(crate) async fn start() -> Self {
        Self::start_with(TIMING).await
    }

    pub(crate) async fn start_with(timing: Timing) -> Self {
        let ways = Ways::of_stores_with(timing).await;
        let devices = <[Arc<MemoryDevice>; 3]>::default();
        let stores = (1..).zip(&devices).map(|(id, device)| {
            let payloads = Payloads::bootstrapped([1, 2, 3]);
            Store::start(id, &ways, Arc::clone(device) as _, payloads)
        });
        let stores = join_all(stores).await;
        Self {
            ways,
            stores,
            devices,
        }
    }

    /// Three stores of which the first one leads.
    pub(crate) async fn led() -> Self {
        Self::led_with(TIMING).await
    }

    pub(crate) async fn led_with(timing: Timing) -> Self {
        let stores = Self::start_with(timing).await;
        stores.stores[0].lead().await;
        stores
    }

    /// Waits until one of them leads that is not `but`, and serves its term.
    pub(crate) async fn leader(&self, but: Option<u64>) -> &Store {
        let find = || {
            let mut stores = self.stores.iter();
            stores.find(|store| store.leads() && Some(store.id) != but)
        };
        let found = timeout(GUARD, async {
            loop {
                if let Some(leader) = find()
                    && leader.group.permit_read().await.is_ok()
                {
                    return leader;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        found.await.expect("one leads in time")
    }

    pub(crate) async fn stop(self) {
        join_all(self.stores.into_iter().map(Store::stop)).await;
    }
}
