//! Requests that stop halfway: what has arrived of them waits for the rest.

use bytes::Bytes;
use rdb_proto::kvrpc::{KeyValue, RawBatchPutRequest};

use crate::siege::{Insistence, Siege};
use crate::trial::Trial;
use crate::wire::{Ending, Line, framed, send};

/// What each request says that it has.
const WHOLE_BYTES: usize = 6 << 20;

pub(super) async fn on_one_connection(trial: &mut Trial) -> anyhow::Result<()> {
    play(trial, 1, 250, 4 << 20, Insistence::AgainAndAgain).await
}

pub(super) async fn on_twenty_connections(trial: &mut Trial) -> anyhow::Result<()> {
    play(trial, 20, 50, 2 << 20, Insistence::AgainAndAgain).await
}

pub(super) async fn on_a_thousand_connections(trial: &mut Trial) -> anyhow::Result<()> {
    play(trial, 1_000, 1, 1 << 20, Insistence::AgainAndAgain).await
}

/// Sends only headers, once for each call, 64 calls at a time: as many as a connection may have that is one of so many. Those that are
/// refused take no answer.
pub(super) async fn without_body(trial: &mut Trial) -> anyhow::Result<()> {
    play(trial, 1_000, 120, 0, Insistence::Once).await
}

async fn play(
    trial: &mut Trial,
    connections: usize,
    calls: usize,
    sent_bytes: usize,
    insistence: Insistence,
) -> anyhow::Result<()> {
    trial.begin().await?;
    let half = batch().slice(..sent_bytes);
    let siege = Siege::lay(
        &trial.address(),
        connections,
        calls,
        insistence,
        move |line, _| {
            let half = half.clone();
            async move { Ending::of(stop_halfway(&line, half).await) }
        },
    );
    trial.stay().await;
    trial.note(siege.endings());
    drop(siege);
    trial.gone().await
}

fn batch() -> Bytes {
    let entry = KeyValue {
        key: "half".into(),
        value: vec![b'x'; 64 << 10].into(),
    };
    framed(&RawBatchPutRequest {
        context: None,
        entries: vec![entry; WHOLE_BYTES / (64 << 10) - 1],
    })
}

async fn stop_halfway(line: &Line, half: Bytes) -> Result<Ending, h2::Error> {
    let mut call = line.call("/kvrpc.KvRaw/RawBatchPut").await?;
    send(&mut call.request, half, false).await?;
    call.ended().await
}
