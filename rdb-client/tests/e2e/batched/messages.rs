//! Messages that are unusually large, or wrong.

use std::ops::Range;

use bytes::Bytes;
use futures::stream;
use prost::Message;
use rdb_proto::error::details;
use rdb_proto::errorpb::Fate;
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::kvrpc::batch_answer::Response;
use rdb_proto::kvrpc::batch_command::Request;
use rdb_proto::kvrpc::kv_batch_client::KvBatchClient;
use rdb_proto::kvrpc::{
    BatchCommand, BatchRequest, BatchResponse, CompareAndDeleteRequest, CompareAndSwapRequest,
    compare_and_swap_response as swap,
};
use rdb_proto::metapb::RegionEpoch;
use rdb_proto::transport::limits::{BATCH_COMMANDS_MAX, BATCH_STREAMS_MAX};
use tonic::{Code, Status};

use crate::batched::raw_stream::{RawStream, command, found_value, get, is_busy, put};
use crate::harness::{AsIs, Cluster, connect, found, guarded};

const VALUE_BYTES_MAX: usize = 4 << 20;

/// Longest value that a conflict carries, in bytes.
const CONFLICT_VALUE_BYTES_MAX: usize = 64 << 10;

async fn open(cluster: &Cluster) -> RawStream {
    let channel = connect(&cluster.store.address()).await;
    RawStream::open(channel.expect("the store listens")).await
}

fn swap(id: u64, key: impl Into<Bytes>, value: impl Into<Bytes>) -> BatchCommand {
    let swap = CompareAndSwapRequest {
        context: None,
        key: key.into(),
        expected_version: 0,
        value: value.into(),
    };
    command(id, Request::CompareAndSwap(swap))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_has_a_bounded_number_of_streams_and_one_that_ends_makes_room() {
    let cluster = Cluster::start().await;
    let channel = connect(&cluster.store.address()).await;
    let channel = channel.expect("the store listens");
    let mut streams = Vec::new();
    for _ in 0..BATCH_STREAMS_MAX {
        streams.push(RawStream::open(channel.clone()).await);
    }
    let mut client = KvBatchClient::new(channel);
    let refused = guarded("one more is refused", client.batch(stream::pending())).await;
    let refused = refused.expect_err("all places are taken");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let told = details(&refused).expect("details");
    assert_eq!(told.fate(), Fate::NotApplied);
    assert_eq!(told.limit, Some(BATCH_STREAMS_MAX as u64));

    let ends = streams.pop().expect("there are some");
    ends.assert_ended().await;
    found("its place is free", async || {
        client.batch(stream::pending()).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_too_many_commands_is_not_applied_and_ends_the_stream() {
    let cluster = Cluster::start().await;
    let mut stream = open(&cluster).await;
    let most = BATCH_COMMANDS_MAX as u64;
    let puts = |ids: Range<u64>| ids.map(|id| put(id, format!("key {id}"), "v")).collect();
    stream.send(puts(0..most)).await;
    stream.send(puts(most..2 * most + 1)).await;
    let (answers, end) = stream.answers_until_end(2 * most as usize + 1).await;
    assert!(answers.keys().copied().eq(0..most), "those of the first");
    let refused = end.expect("it has ended");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let told = details(&refused).expect("details");
    assert_eq!(told.fate(), Fate::NotApplied);
    assert_eq!((told.field.as_str(), told.limit), ("commands", Some(most)));
    let client = cluster.client().await;
    let found = |id: u64| client.raw_get(format!("key {id}"));
    assert_eq!(found(most - 1).await, Ok(Some("v".into())));
    assert_eq!(found(most).await, Ok(None), "what was refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_on_many_large_values_are_all_answered() {
    const CONFLICTS: u64 = 64;
    let cluster = Cluster::start().await;
    let mut stream = open(&cluster).await;
    let value = |id: u64| Bytes::from(vec![id as u8; CONFLICT_VALUE_BYTES_MAX]);
    let created = |id| swap(id, format!("key {id}"), value(id));
    stream.send((0..CONFLICTS).map(created).collect()).await;
    stream.answers(CONFLICTS as usize).await;
    let again = |id| swap(id, format!("key {id}"), "late");
    stream.send((0..CONFLICTS).map(again).collect()).await;
    for (id, answer) in stream.answers(CONFLICTS as usize).await {
        let Response::CompareAndSwap(answer) = answer else {
            panic!("{id}: {answer:?}");
        };
        let Some(swap::Result::Conflict(conflict)) = answer.result else {
            panic!("{id}: not a conflict");
        };
        assert!(conflict.current_value == Some(value(id)), "{id}");
    }
    stream.assert_ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_of_the_largest_values_can_be_asked_for_at_once() {
    const READS: u64 = 64;
    const VALUES: u64 = 4;
    let cluster = Cluster::start().await;
    let mut stream = open(&cluster).await;
    let value = |id: u64| Bytes::from(vec![(id % VALUES) as u8; VALUE_BYTES_MAX]);
    let key = |id: u64| format!("key {}", id % VALUES);
    for id in 0..VALUES {
        stream.send(vec![put(id, key(id), value(id))]).await;
    }
    stream.answers(VALUES as usize).await;
    let mut asked: Vec<u64> = (0..READS).collect();
    while !asked.is_empty() {
        let reads = asked.iter().map(|&id| get(id, key(id)));
        stream.send(reads.collect()).await;
        let mut answers = stream.answers(asked.len()).await;
        // On a busy machine a read may wait too long for the room of those before it.
        answers.retain(|_, answer| !is_busy(answer));
        for (id, answer) in &answers {
            assert!(found_value(answer) == Some(&value(*id)), "{id}");
        }
        asked.retain(|id| !answers.contains_key(id));
    }
    stream.assert_ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_commands_fail_alone_among_right_ones() {
    let cluster = Cluster::start().await;
    let mut stream = open(&cluster).await;
    let delete_nothing = CompareAndDeleteRequest {
        key: "k".into(),
        ..CompareAndDeleteRequest::default()
    };
    let elsewhere = BatchCommand {
        region_id: 999,
        ..put(6, "elsewhere", "v")
    };
    let newer = BatchCommand {
        region_id: 1,
        region_epoch: Some(RegionEpoch {
            conf_version: 1,
            version: 999,
        }),
        ..get(7, "newer")
    };
    let unknown = BatchCommand {
        id: 8,
        ..BatchCommand::default()
    };
    let commands = vec![
        put(0, "first", "v"),
        put(1, "", "v"),
        put(2, vec![b'k'; 8193], "v"),
        put(3, "long", vec![0; VALUE_BYTES_MAX + 1]),
        get(4, ""),
        command(5, Request::CompareAndDelete(delete_nothing)),
        elsewhere,
        newer,
        unknown,
        put(9, "last", "v"),
        get(10, "first of all"),
    ];
    let count = commands.len();
    stream.send(commands).await;
    for (id, answer) in stream.answers(count).await {
        let as_expected = match (id, &answer) {
            (0 | 9, Response::RawPut(_)) | (10, Response::RawGet(_)) => true,
            (1..=5, Response::Fault(fault)) => fault.code == Code::InvalidArgument as u32,
            (8, Response::Fault(fault)) => fault.code == Code::Unimplemented as u32,
            (6, Response::RegionError(error)) => {
                matches!(error.kind, Some(Kind::RegionNotFound(_)))
            }
            (7, Response::RegionError(error)) => {
                matches!(error.kind, Some(Kind::EpochNotMatch(_)))
            }
            _ => false,
        };
        assert!(as_expected, "{id}: {answer:?}");
    }
    stream.assert_ended().await;
    let client = cluster.client().await;
    for (key, value) in [("first", Some("v")), ("last", Some("v")), ("long", None)] {
        let found = client.raw_get(key).await;
        assert_eq!(found, Ok(value.map(Bytes::from)), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_protobuf_ends_its_stream_after_the_answers_and_nothing_else() {
    let cluster = Cluster::start().await;
    let channel = connect(&cluster.store.address())
        .await
        .expect("the store listens");
    let mut neighbour = RawStream::open(channel.clone()).await;

    let good = BatchRequest {
        commands: vec![put(1, "good", "v")],
        ..BatchRequest::default()
    };
    let bodies = [Bytes::from(good.encode_to_vec()), "\u{7f}garbage".into()];
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("connected");
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/kvrpc.KvBatch/Batch");
    let request = tonic::Request::new(stream::iter(bodies));
    let answers = grpc.streaming(request, path, AsIs).await;
    let mut answers = answers.expect("served").into_inner();
    let answer: Result<Option<Bytes>, Status> = guarded("an answer", answers.message()).await;
    let answer = answer.expect("an answer").expect("before the end");
    let answer = BatchResponse::decode(answer).expect("protobuf");
    assert_eq!(answer.answers.len(), 1);
    let ended = guarded("the stream ends", answers.message()).await;
    assert_eq!(ended.expect_err("refused").code(), Code::Internal);

    neighbour.send(vec![get(1, "good")]).await;
    let found = neighbour.answers(1).await;
    assert_eq!(found_value(&found[&1]), Some(&Bytes::from("v")));
    neighbour.assert_ended().await;
}
