//! A cluster, and stubs to say anything to it.

use bytes::Bytes;
use rdb_proto::errorpb::{RegionError, region_error::Kind};
use rdb_proto::kvrpc::kv_cas_client::KvCasClient;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{KeyValue, RawBatchPutRequest, RawGetRequest, RawPutRequest};
use rdb_proto::metapb::Context;
use rdb_proto::pdpb::pd_client::PdClient;
use tonic::Status;
use tonic::transport::Channel;

use crate::harness::{Cluster, connect};

pub(super) const VALUE_BYTES_MAX: usize = 4 << 20;

/// A cluster and stubs for its store and its placement driver.
pub(super) struct Wire {
    pub(super) cluster: Cluster,
    pub(super) raw: KvRawClient<Channel>,
    pub(super) cas: KvCasClient<Channel>,
    pub(super) pd: PdClient<Channel>,
}

impl Wire {
    pub(super) async fn to(cluster: Cluster) -> Self {
        let store = connect(&cluster.store.address())
            .await
            .expect("the store listens");
        let pd = connect(&cluster.pd.address())
            .await
            .expect("the placement driver listens");
        let unlimited = usize::MAX;
        Self {
            raw: KvRawClient::new(store.clone()).max_encoding_message_size(unlimited),
            cas: KvCasClient::new(store).max_encoding_message_size(unlimited),
            pd: PdClient::new(pd),
            cluster,
        }
    }

    pub(super) async fn start() -> Self {
        Self::to(Cluster::start().await).await
    }

    pub(super) async fn put(&mut self, key: Bytes, value: Bytes) -> Status {
        let request = RawPutRequest {
            context: None,
            key,
            value,
        };
        self.raw.raw_put(request).await.expect_err("refused")
    }

    pub(super) async fn put_batch(&mut self, entries: Vec<KeyValue>) -> Status {
        let request = RawBatchPutRequest {
            context: None,
            entries,
        };
        self.raw.raw_batch_put(request).await.expect_err("refused")
    }

    /// What the store says to a read with this context.
    pub(super) async fn with_context(&mut self, context: Context) -> Option<Kind> {
        let request = RawGetRequest {
            context: Some(context),
            key: "k".into(),
        };
        let answer = self
            .raw
            .raw_get(request)
            .await
            .expect("a routing answer is a response");
        answer
            .into_inner()
            .region_error
            .and_then(|error: Box<RegionError>| error.kind)
    }

    /// Everyone else is still served.
    pub(super) async fn assert_unaffected(&self) {
        let client = self.cluster.client().await;
        client
            .raw_put("unaffected", "yes")
            .await
            .expect("the store serves");
        assert_eq!(client.raw_get("unaffected").await, Ok(Some("yes".into())));
        client.tso().await.expect("the placement driver serves");
    }
}

pub(super) fn bytes(length: usize) -> Bytes {
    vec![b'x'; length].into()
}
