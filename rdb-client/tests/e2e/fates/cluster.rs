//! Starting scripted processes, and clients that talk to them.

use std::net::SocketAddr;
use std::time::Duration;

use rdb_client::Client;
use rdb_proto::authpb::auth_server::AuthServer;
use rdb_proto::batch::KvBatchServer;
use rdb_proto::kvrpc::kv_cas_server::KvCasServer;
use rdb_proto::kvrpc::kv_raw_server::KvRawServer;
use rdb_proto::metapb::{self, Region, RegionEpoch, RegionRoute};
use rdb_proto::pdpb::pd_server::PdServer;
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use rdb_proto::transport::{HealthHandle, ServeOptions, Services, health, serve};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fates::placement_driver::ScriptedPd;
use crate::fates::proxy::Proxy;
use crate::fates::store::Store;
use crate::harness::CallPath;

pub(crate) const CLUSTER_ID: u64 = 7;

/// Long enough for every call that is meant to succeed.
pub(crate) const PATIENT: Duration = Duration::from_secs(30);

/// Short, for calls that are meant to run into their deadline.
pub(crate) const SHORT: Duration = Duration::from_secs(1);

/// One store and a placement driver that knows it.
pub(crate) struct Cluster {
    pub(crate) node: StoreNode,
    pub(crate) pd: PdNode,
}

impl Cluster {
    /// The store leads all of `regions`.
    pub(crate) async fn with_regions(regions: Vec<Region>) -> Self {
        let node = StoreNode::start(1, regions.clone()).await;
        let pd = PdNode::start(CLUSTER_ID).await;
        pd.pd.set_routes(
            regions
                .into_iter()
                .map(|region| node.route(region))
                .collect(),
        );
        pd.pd.set_stores(vec![node.description()]);
        Self { node, pd }
    }

    /// The store leads three regions, which begin at "", "h" and "p".
    pub(crate) async fn with_three_regions() -> Self {
        Self::with_regions(vec![
            region(1, 1, "", "h"),
            region(2, 1, "h", "p"),
            region(3, 1, "p", ""),
        ])
        .await
    }

    /// The store leads one region over everything.
    pub(crate) async fn start() -> Self {
        Self::with_regions(vec![region(1, 1, "", "")]).await
    }

    /// Where the path does not matter.
    pub(crate) async fn client(&self) -> Client {
        self.client_over(CallPath::Batched).await
    }

    pub(crate) async fn client_over(&self, path: CallPath) -> Client {
        connect_over(path, [self.pd.proxy.address]).await
    }
}

/// A store behind a proxy, whose address is the one that everybody knows.
pub(crate) struct StoreNode {
    pub(crate) store: Store,
    pub(crate) proxy: Proxy,
    served: Served,
}

impl StoreNode {
    pub(crate) async fn start(id: u64, regions: Vec<Region>) -> Self {
        let store = Store::new(id, regions);
        let batch = KvBatchServer::new(store.clone());
        Self::serve(&store, |services| services.add_service(batch)).await
    }

    /// A store of a release that does not know streams of commands.
    pub(crate) async fn start_without_streams(id: u64, regions: Vec<Region>) -> Self {
        Self::serve(&Store::new(id, regions), |services| services).await
    }

    async fn serve(store: &Store, more: impl FnOnce(Services) -> Services) -> Self {
        let store = store.clone();
        let raw = KvRawServer::new(store.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let cas = KvCasServer::new(store.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let services = Services::default().add_service(raw).add_service(cas);
        let served = Served::start(more(services)).await;
        Self {
            proxy: Proxy::start(served.address),
            store,
            served,
        }
    }

    pub(crate) fn description(&self) -> metapb::Store {
        metapb::Store {
            id: self.store.id,
            address: self.proxy.address.to_string(),
            ..metapb::Store::default()
        }
    }

    pub(crate) fn route(&self, region: Region) -> RegionRoute {
        RegionRoute {
            region: Some(region),
            leader: Some(self.description()),
            ..RegionRoute::default()
        }
    }

    /// The same store gets another address; the old one refuses.
    pub(crate) async fn move_away(&mut self) -> Proxy {
        self.proxy.refuse().await;
        std::mem::replace(&mut self.proxy, Proxy::start(self.served.address))
    }

    /// The address that only its own proxy knows.
    pub(crate) fn hidden_address(&self) -> SocketAddr {
        self.served.address
    }

    pub(crate) fn set_serving(&self, serving: bool) {
        self.served.health.set_serving(serving);
    }
}

/// A placement driver behind a proxy.
pub(crate) struct PdNode {
    pub(crate) pd: ScriptedPd,
    pub(crate) proxy: Proxy,
    served: Served,
}

impl PdNode {
    pub(crate) async fn start(cluster_id: u64) -> Self {
        let pd = ScriptedPd::new(cluster_id);
        let services = Services::default()
            .add_service(PdServer::new(pd.clone()))
            .add_service(AuthServer::new(pd.clone()));
        let served = Served::start(services).await;
        Self {
            proxy: Proxy::start(served.address),
            pd,
            served,
        }
    }

    /// The address that only its own proxy knows.
    pub(crate) fn hidden_address(&self) -> SocketAddr {
        self.served.address
    }
}

/// A gRPC server that ends when it is dropped.
struct Served {
    address: SocketAddr,
    health: HealthHandle,
    task: JoinHandle<()>,
}

impl Served {
    async fn start(services: Services) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = CancellationToken::new();
        let (health, service) = health(&[], drain.clone());
        health.set_serving(true);
        let serving = serve(
            listener,
            services.add_service(service),
            ServeOptions::default(),
            drain,
        );
        let task = tokio::spawn(async move { serving.await.unwrap() });
        Self {
            address,
            health,
            task,
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn connect(addresses: impl IntoIterator<Item = SocketAddr>) -> Client {
    connect_over(CallPath::Batched, addresses).await
}

pub(crate) async fn connect_over(
    path: CallPath,
    addresses: impl IntoIterator<Item = SocketAddr>,
) -> Client {
    let config = path.config().with_timeout(PATIENT);
    let addresses = addresses.into_iter().map(|address| address.to_string());
    Client::connect_with(addresses, config).await.unwrap()
}

/// A region; an empty bound is none.
pub(crate) fn region(
    id: u64,
    version: u64,
    start_key: &'static str,
    end_key: &'static str,
) -> Region {
    Region {
        id,
        start_key: start_key.into(),
        end_key: end_key.into(),
        epoch: Some(RegionEpoch {
            conf_version: 1,
            version,
        }),
        peers: Vec::new(),
    }
}
