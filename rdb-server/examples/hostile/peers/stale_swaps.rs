//! Swaps that expect a version of long ago: each small request is answered with a large value.

use bytes::Bytes;
use rdb_proto::kvrpc::{BatchCommand, BatchRequest, CompareAndSwapRequest, batch_command::Request};

use crate::siege::{Insistence, Siege};
use crate::trial::Trial;
use crate::wire::{Ending, Line, framed, send};

const CONNECTIONS: usize = 4;
const STREAMS: usize = 16;
const MESSAGES: usize = 64;
const SWAPS: u64 = 64;

/// The largest value that a conflict carries.
const VALUE_BYTES: usize = 64 << 10;

pub(super) async fn play(trial: &mut Trial) -> anyhow::Result<()> {
    let client = trial.client().await;
    client.cas_put("hot", 0, vec![b'x'; VALUE_BYTES]).await?;
    trial.begin().await?;
    let message = stale_swaps();
    let siege = Siege::lay(
        &trial.address(),
        CONNECTIONS,
        STREAMS,
        Insistence::AgainAndAgain,
        move |line, _| {
            let message = message.clone();
            async move { Ending::of(swap(&line, message).await) }
        },
    );
    trial.stay().await;
    trial.note(siege.endings());
    drop(siege);
    trial.gone().await
}

fn stale_swaps() -> Bytes {
    let swap = CompareAndSwapRequest {
        context: None,
        key: "hot".into(),
        expected_version: 999,
        value: "never".into(),
    };
    let commands = (0..SWAPS).map(|id| BatchCommand {
        id,
        request: Some(Request::CompareAndSwap(swap.clone())),
        ..BatchCommand::default()
    });
    framed(&BatchRequest {
        commands: commands.collect(),
        ..BatchRequest::default()
    })
}

/// Sends as many messages as the store takes, and then none.
async fn swap(line: &Line, message: Bytes) -> Result<Ending, h2::Error> {
    let mut call = line.call("/kvrpc.KvBatch/Batch").await?;
    for _ in 0..MESSAGES {
        send(&mut call.request, message.clone(), false).await?;
    }
    call.ended().await
}
