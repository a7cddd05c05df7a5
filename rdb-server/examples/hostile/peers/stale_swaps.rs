//! Swaps that expect a version of long ago. Each small request has the store read a large value, and is answered with it unless it
//! is too large.

use bytes::Bytes;
use rdb_proto::kvrpc::{BatchCommand, BatchRequest, CompareAndSwapRequest, batch_command::Request};

use crate::siege::{Insistence, Siege};
use crate::trial::Trial;
use crate::wire::{Ending, Line, framed, send};

const STREAMS: usize = 16;
const MESSAGES: usize = 64;

/// What the peer sends, and what its swaps meet.
struct Swaps {
    connections: usize,
    /// The swaps of a message, all on one key.
    count: u64,
    value_bytes: usize,
}

/// Swaps on a value of the largest size that a conflict carries.
pub(super) async fn answered_with_the_value(trial: &mut Trial) -> anyhow::Result<()> {
    let swaps = Swaps {
        connections: 4,
        count: 64,
        value_bytes: 64 << 10,
    };
    play(trial, swaps).await
}

/// As many swaps as a message may have, on a value of the largest size that there is.
pub(super) async fn of_the_largest_value(trial: &mut Trial) -> anyhow::Result<()> {
    let swaps = Swaps {
        connections: 1,
        count: 4096,
        value_bytes: 4 << 20,
    };
    play(trial, swaps).await
}

async fn play(trial: &mut Trial, swaps: Swaps) -> anyhow::Result<()> {
    let client = trial.client().await;
    let value = vec![b'x'; swaps.value_bytes];
    client.cas_put("hot", 0, value).await?;
    trial.begin().await?;
    let message = stale_swaps(swaps.count);
    let siege = Siege::lay(
        &trial.address(),
        swaps.connections,
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

fn stale_swaps(count: u64) -> Bytes {
    let swap = CompareAndSwapRequest {
        context: None,
        key: "hot".into(),
        expected_version: 999,
        value: "never".into(),
    };
    let commands = (0..count).map(|id| BatchCommand {
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
