//! Answers that nobody reads: the HTTP/2 window is 0, so the store has to keep them.

use bytes::Bytes;
use rdb_proto::kvrpc::{
    BatchGetRequest, RawBatchGetRequest, RawGetRequest, RawScanRequest, ScanRequest,
};

use crate::siege::{Insistence, Siege};
use crate::trial::Trial;
use crate::wire::framed;

const CONNECTIONS: usize = 20;
const CALLS: usize = 200;
const LARGE_BYTES: usize = 4 << 20;

/// Keys of a batch read; their values together are as large as one large value.
const KEYS: usize = 16;

pub(super) async fn gets(trial: &mut Trial) -> anyhow::Result<()> {
    let siege = lay_gets(trial, Insistence::Once).await?;
    trial.stay().await;
    // It stays: the store has to end what makes no progress.
    trial.gone().await?;
    trial.note(siege.endings());
    Ok(())
}

pub(super) async fn gets_again(trial: &mut Trial) -> anyhow::Result<()> {
    let siege = lay_gets(trial, Insistence::AgainAndAgain).await?;
    trial.stay().await;
    trial.note(siege.endings());
    drop(siege);
    trial.gone().await
}

async fn lay_gets(trial: &mut Trial, insistence: Insistence) -> anyhow::Result<Siege> {
    let client = trial.client().await;
    client.raw_put("large", vec![b'x'; LARGE_BYTES]).await?;
    trial.begin().await?;
    let get = framed(&RawGetRequest {
        context: None,
        key: "large".into(),
    });
    let requests = vec![("/kvrpc.KvRaw/RawGet", get)];
    Ok(lay(trial, insistence, requests))
}

pub(super) async fn pages_again(trial: &mut Trial) -> anyhow::Result<()> {
    let client = trial.client().await;
    let keys: Vec<String> = (0..KEYS)
        .map(|number| format!("page-{number:02}"))
        .collect();
    for key in &keys {
        let value = vec![b'x'; LARGE_BYTES / KEYS];
        client.raw_put(key, value.clone()).await?;
        client.cas_put(key, 0, value).await?;
    }
    trial.begin().await?;
    let keys: Vec<Bytes> = keys.into_iter().map(Bytes::from).collect();
    let requests = vec![
        (
            "/kvrpc.KvRaw/RawBatchGet",
            framed(&RawBatchGetRequest {
                context: None,
                keys: keys.clone(),
            }),
        ),
        (
            "/kvrpc.KvCas/BatchGet",
            framed(&BatchGetRequest {
                context: None,
                keys,
            }),
        ),
        ("/kvrpc.KvRaw/RawScan", framed(&RawScanRequest::default())),
        ("/kvrpc.KvCas/Scan", framed(&ScanRequest::default())),
    ];
    let siege = lay(trial, Insistence::AgainAndAgain, requests);
    trial.stay().await;
    trial.note(siege.endings());
    drop(siege);
    trial.gone().await
}

/// The calls of a connection take turns with the requests.
fn lay(trial: &Trial, insistence: Insistence, requests: Vec<(&'static str, Bytes)>) -> Siege {
    Siege::lay(
        &trial.address(),
        CONNECTIONS,
        CALLS,
        insistence,
        move |line, number| {
            let (path, request) = requests[number % requests.len()].clone();
            async move { line.ask(path, request).await }
        },
    )
}
