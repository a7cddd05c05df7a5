//! The usual clusters: one placement driver with one store, or with several that hold each region together.

use std::path::Path;

use rdb_client::Client;
use tempfile::TempDir;

use super::{CallPath, Node};

/// Starts a placement driver, which serves then, and as many stores, which may not serve yet. Each has a replica of each region. `set_up`
/// sees each store before.
#[allow(
    dead_code,
    reason = "the fault suite gives each node a place of its own"
)]
pub(crate) async fn start_replicated(
    directory: &Path,
    store_count: usize,
    set_up: impl Fn(Node) -> Node,
) -> (Node, Vec<Node>) {
    let pd = Node::placement_driver(directory.join("pd"));
    let mut pd = pd.with_flag("--initial-replicas", &store_count.to_string());
    pd.start_serving().await;
    let stores = (1..=store_count).map(|number| {
        let store = Node::store(directory.join(format!("store-{number}")), &pd.address());
        let mut store = set_up(store);
        store.start();
        store
    });
    let stores = stores.collect();
    (pd, stores)
}

/// A placement driver and a store in a temporary directory, which goes after them.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) pd: Node,
    pub(crate) store: Node,
    pub(crate) directory: TempDir,
}

impl Cluster {
    /// A cluster that serves.
    pub(crate) async fn start() -> Self {
        let mut cluster = Self::prepare();
        cluster.pd.start_serving().await;
        cluster.store.start_serving().await;
        cluster
    }

    /// A cluster of which nothing runs yet.
    pub(crate) fn prepare() -> Self {
        Self::prepare_with(|node| node)
    }

    /// A cluster whose new store runs and waits for the placement driver.
    pub(crate) async fn of_a_waiting_store() -> Self {
        let mut cluster = Self::prepare();
        cluster.store.start();
        cluster
            .store
            .wait_for_log("waiting for the placement driver")
            .await;
        cluster
    }

    /// The same as [`prepare`](Self::prepare), on `host` in a network namespace.
    #[allow(dead_code, reason = "not every suite has one")]
    pub(crate) fn prepare_in(namespace: &str, host: &str) -> Self {
        Self::prepare_with(|node| node.in_namespace(namespace, host))
    }

    fn prepare_with(place: impl Fn(Node) -> Node) -> Self {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let pd = place(Node::placement_driver(directory.path().join("pd")));
        let store = place(Node::store(directory.path().join("store"), &pd.address()));
        Self {
            pd,
            store,
            directory,
        }
    }

    /// A client of its own, with connections of its own.
    pub(crate) async fn client(&self) -> Client {
        self.client_over(CallPath::Batched).await
    }

    /// The same, whose calls go over this path.
    pub(crate) async fn client_over(&self, path: CallPath) -> Client {
        Client::connect_with([self.pd.address()], path.config())
            .await
            .expect("the placement driver serves")
    }
}
