//! Calls that have sent or read large messages and stay open: what has held the messages must not stay with the calls.

use std::future::pending;

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use rdb_proto::kvrpc::{BatchCommand, BatchRequest, RawGetRequest, batch_command::Request};
use tokio::task::JoinSet;

use crate::trial::Trial;
use crate::wire::{Line, framed, framed_bytes, send};

const CONNECTIONS: usize = 20;
const BATCH: &str = "/kvrpc.KvBatch/Batch";
const BATCH_STREAMS: usize = 16;

/// Calls of other methods on a connection.
const CALLS: usize = 20;

/// Below the 4 MiB that gRPC libraries take unless told otherwise.
const REFLECTION_BYTES: usize = 3 << 20;
const LARGE_BYTES: usize = 6 << 20;
const ANSWER_BYTES: usize = 4 << 20;

/// Field 7 of a request of reflection, which is answered. One without a question would end its stream.
const LIST_SERVICES: &[u8] = &[7 << 3 | 2, 1, b'*'];

/// A field number that no request has.
const UNKNOWN_FIELD: u8 = 15;

pub(super) async fn batched(trial: &mut Trial) -> anyhow::Result<()> {
    hold(trial, BATCH, BATCH_STREAMS, vec![large(&[], LARGE_BYTES)]).await
}

/// One answer after the other, all of which are read.
pub(super) async fn answered(trial: &mut Trial) -> anyhow::Result<()> {
    let client = trial.client().await;
    client.raw_put("large", vec![b'x'; ANSWER_BYTES]).await?;
    trial.begin().await?;
    let mut kept = Vec::new();
    for _ in 0..CONNECTIONS {
        let line = Line::open_reading(&trial.address()).await?;
        for _ in 0..BATCH_STREAMS {
            let mut call = line.call(BATCH).await?;
            send(&mut call.request, get(), false).await?;
            let answered = call.message(ANSWER_BYTES).await?;
            kept.push((line.clone(), answered.context("a stream ended")?));
        }
    }
    trial.stay().await;
    drop(kept);
    trial.gone().await
}

/// A small message after the large one: what was charged for the large one may have been given back.
pub(super) async fn reflecting(trial: &mut Trial) -> anyhow::Result<()> {
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let messages = [
        large(LIST_SERVICES, REFLECTION_BYTES),
        large(LIST_SERVICES, 100),
    ];
    hold(trial, path, CALLS, messages.into()).await
}

/// A unary call whose message is complete, and a second one that is not.
pub(super) async fn unary(trial: &mut Trial) -> anyhow::Result<()> {
    let messages = [large(&[], LARGE_BYTES), large(&[], 100).slice(..50)];
    hold(trial, "/kvrpc.KvRaw/RawPut", CALLS, messages.into()).await
}

/// Begins one call after the other on each connection. All of them stay open.
async fn hold(
    trial: &mut Trial,
    path: &'static str,
    calls: usize,
    messages: Vec<Bytes>,
) -> anyhow::Result<()> {
    trial.begin().await?;
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let line = Line::open_reading(&trial.address()).await?;
        let messages = messages.clone();
        connections.spawn(async move {
            let mut kept = Vec::new();
            for _ in 0..calls {
                let mut call = line.call(path).await?;
                // A refused call is not made again.
                for message in messages.clone() {
                    let _ = send(&mut call.request, message, false).await;
                }
                kept.push(call);
            }
            pending::<Result<(), h2::Error>>().await
        });
    }
    trial.stay().await;
    trial.expect(connections.try_join_next().is_none(), "a connection ended");
    drop(connections);
    trial.gone().await
}

fn get() -> Bytes {
    let get = RawGetRequest {
        context: None,
        key: "large".into(),
    };
    let command = BatchCommand {
        request: Some(Request::RawGet(get)),
        ..BatchCommand::default()
    };
    framed(&BatchRequest {
        commands: vec![command],
        ..BatchRequest::default()
    })
}

/// A message of these fields and a large one that no service knows.
fn large(fields: &[u8], value_bytes: usize) -> Bytes {
    let mut message = BytesMut::from(fields);
    message.put_u8(UNKNOWN_FIELD << 3 | 2);
    prost::encoding::encode_varint(value_bytes as u64, &mut message);
    message.put_bytes(0, value_bytes);
    framed_bytes(&message)
}
