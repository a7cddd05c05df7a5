//! A store whose memory is taken by others.

use std::convert::Infallible;
use std::future::poll_fn;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::header::{CONTENT_TYPE, TE};
use http_body_util::StreamBody;
use hyper::body::Frame;
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::kvrpc::RawPutRequest;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::transport::limits::{CALL_BYTES, CONNECTION_BYTES_GUARANTEED};
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::transport::Channel;
use tower_service::Service;

use crate::harness::{CallPath, Cluster, HANG_GUARD, connect, found, guarded, over_both_paths};

const STORE_MIB: usize = 16;

const VALUE_BYTES: usize = 1 << 20;

/// What one connection takes: with what its call costs, no more than what is guaranteed, so that it need not give way.
const HELD_BYTES: usize = CONNECTION_BYTES_GUARANTEED - 2 * CALL_BYTES;

over_both_paths! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    a_write_that_finds_no_room_is_certainly_not_applied_and_sent_again,
}

async fn a_write_that_finds_no_room_is_certainly_not_applied_and_sent_again(path: CallPath) {
    let mut cluster = Cluster::prepare();
    cluster.store = cluster
        .store
        .with_flag("--bytes-in-flight-mib", &STORE_MIB.to_string());
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let client = cluster.client_over(path).await.with_timeout(HANG_GUARD);
    assert_eq!(client.get("k").await, Ok(None));

    let channel = async || {
        let channel = connect(&cluster.store.address()).await;
        channel.expect("the store listens")
    };
    let mut others = JoinSet::new();
    for _ in 0..=(STORE_MIB << 20) / HELD_BYTES {
        let channel = channel().await;
        others.spawn(async move {
            // The store gives up on a message that does not arrive.
            loop {
                begin_message(channel.clone()).await;
            }
        });
    }
    let probe = channel().await;
    found("all room is taken", async || {
        is_full(probe.clone()).await.then_some(())
    })
    .await;

    let retries = client.stats().retries;
    let swapping = tokio::spawn({
        let client = client.clone();
        async move { client.cas_put("k", 0, vec![b'v'; VALUE_BYTES]).await }
    });
    // On a slow machine it may find room where the store has just given up on another message.
    found("the write is sent again", async || {
        let is_again = client.stats().retries > retries;
        (is_again || swapping.is_finished()).then_some(())
    })
    .await;
    others.shutdown().await;
    let swapped = guarded("the write is applied", swapping).await;
    assert_eq!(swapped.expect("no panic"), Ok(1));
    assert_eq!(client.stats().undetermined_writes, 0);
}

/// Sends the header of a message and never the rest. Returns when the store gives up on it.
async fn begin_message(mut channel: Channel) {
    let header = [&[0][..], &(HELD_BYTES as u32).to_be_bytes()].concat();
    let header = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(header)))]);
    let request = http::Request::post("/kvrpc.KvRaw/RawPut")
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(Body::new(StreamBody::new(header.chain(stream::pending()))));
    let request = request.expect("it is a request");
    let ready = poll_fn(|context| channel.poll_ready(context)).await;
    ready.expect("the store listens");
    let _ = channel.call(request).await;
}

/// Whether the store has no room for a write.
async fn is_full(channel: Channel) -> bool {
    let request = RawPutRequest {
        context: None,
        key: "probe".into(),
        value: vec![b'v'; VALUE_BYTES].into(),
    };
    let answer = KvRawClient::new(channel).raw_put(request).await;
    let region_error = answer.expect("an answer").into_inner().region_error;
    region_error.is_some_and(|error| matches!(error.kind, Some(Kind::ServerBusy(_))))
}
