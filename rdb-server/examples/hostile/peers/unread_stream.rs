//! Streams whose answers wait when the store is asked to stop.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rdb_proto::kvrpc::{BatchCommand, BatchRequest, RawGetRequest, batch_command::Request};
use tokio::time::sleep;

use crate::siege::{Insistence, Siege};
use crate::trial::Trial;
use crate::wire::{Ending, Line, framed, send};

const CONNECTIONS: usize = 4;
const STREAMS: usize = 16;
const GETS: u64 = 64;
const VALUE_BYTES: usize = 64 << 10;

/// Time for the answers to wait. Far less than a stalled answer may stay, which is 10 s.
const PAUSE: Duration = Duration::from_secs(2);

/// Clients that do not close their streams get 2 s for it; the rest is for the flush.
const DRAINED_WITHIN: Duration = Duration::from_secs(4);

pub(super) async fn play(trial: &mut Trial) -> anyhow::Result<()> {
    let client = trial.client().await;
    client.raw_put("answer", vec![b'x'; VALUE_BYTES]).await?;
    trial.begin().await?;
    let message = gets();
    let siege = Siege::lay(
        &trial.address(),
        CONNECTIONS,
        STREAMS,
        Insistence::Once,
        move |line, _| {
            let message = message.clone();
            async move { Ending::of(ask(&line, message).await) }
        },
    );
    sleep(PAUSE).await;
    trial.store_ends()?;

    let store = &mut trial.cluster.store;
    store.terminate();
    let began = Instant::now();
    let status = store.exited().await;
    let drained = began.elapsed();
    trial.note(format!("drained in {drained:.1?}; {}", siege.endings()));
    trial.expect(status.success(), format!("the store ended with {status}"));
    trial.expect(
        drained <= DRAINED_WITHIN,
        format!("the drain took {drained:.1?}"),
    );
    Ok(())
}

fn gets() -> Bytes {
    let get = RawGetRequest {
        context: None,
        key: "answer".into(),
    };
    let commands = (0..GETS).map(|id| BatchCommand {
        id,
        request: Some(Request::RawGet(get.clone())),
        ..BatchCommand::default()
    });
    framed(&BatchRequest {
        commands: commands.collect(),
        ..BatchRequest::default()
    })
}

async fn ask(line: &Line, message: Bytes) -> Result<Ending, h2::Error> {
    let mut call = line.call("/kvrpc.KvBatch/Batch").await?;
    send(&mut call.request, message, false).await?;
    call.ended().await
}
