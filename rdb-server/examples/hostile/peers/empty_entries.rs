//! Messages of millions of entries of two bytes, which take many times as much once they are decoded.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures::future::try_join_all;
use tokio::time::timeout;

use crate::trial::Trial;
use crate::wire::{Ending, Line, framed_bytes};

const CALLS: usize = 16;
const ENTRIES: usize = 4_000_000;
const ROUNDS: usize = 3;

/// A message that is refused while it is decoded takes no longer than its way through the loopback.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// Paths, and the tag of their repeated field.
const METHODS: [(&str, u8); 5] = [
    ("/kvrpc.KvRaw/RawBatchPut", 2),
    ("/kvrpc.KvRaw/RawBatchGet", 2),
    ("/kvrpc.KvRaw/RawBatchDelete", 2),
    ("/kvrpc.KvCas/BatchGet", 2),
    ("/kvrpc.KvBatch/Batch", 3),
];

pub(super) async fn play(trial: &mut Trial) -> anyhow::Result<()> {
    trial.begin().await?;
    let address = trial.address();
    for (path, field) in METHODS {
        // A length-delimited field, and its length.
        let message = framed_bytes(&[field << 3 | 2, 0].repeat(ENTRIES));
        for _ in 0..ROUNDS {
            let calls = (0..CALLS).map(|_| call(&address, path, message.clone()));
            let endings = timeout(ANSWERED_WITHIN, try_join_all(calls)).await;
            let endings = endings
                .with_context(|| format!("{path}: no answer within {ANSWERED_WITHIN:?}"))??;
            let refused = endings
                .iter()
                .filter(|ending| **ending == Ending::Refused)
                .count();
            trial.expect(refused == CALLS, format!("{path}: {endings:?}"));
        }
    }
    trial.gone().await
}

/// Calls on a connection of its own, so that all messages arrive side by side.
async fn call(address: &str, path: &str, message: Bytes) -> anyhow::Result<Ending> {
    Ok(Line::open(address).await?.ask(path, message).await)
}
