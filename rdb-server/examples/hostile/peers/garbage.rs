//! What is not HTTP/2, or not gRPC, on every port.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::trial::Trial;
use crate::wire::{Ending, Line, PREFACE};

const ROUNDS: usize = 20;
const AT_A_TIME: usize = 10;

/// A connection that never speaks is closed after 5 s.
const CLOSED_WITHIN: Duration = Duration::from_secs(15);

pub(super) async fn play(trial: &mut Trial) -> anyhow::Result<()> {
    trial.begin().await?;
    let addresses = [trial.address(), trial.cluster.pd.address()];
    let mut open = 0;
    for round in 0..ROUNDS {
        let connections = (0..AT_A_TIME)
            .flat_map(|number| {
                addresses
                    .iter()
                    .map(move |address| (address, round * AT_A_TIME + number))
            })
            .map(|(address, seed)| is_closed(address, opening(seed)));
        open += join_all(connections)
            .await
            .into_iter()
            .filter(|closed| !closed)
            .count();
    }
    trial.expect(open == 0, format!("{open} connections stayed open"));
    for address in &addresses {
        refused_call(address).await?;
    }
    trial
        .client()
        .await
        .tso()
        .await
        .context("the placement driver after the garbage")?;
    trial.gone().await
}

/// Random bytes, HTTP/1, the beginning of TLS, and random frames after a good beginning.
fn opening(seed: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed as u64);
    let mut noise = vec![0; random.usize(1..4_000)];
    random.fill(&mut noise);
    match seed % 4 {
        0 => noise,
        1 => b"GET / HTTP/1.1\r\nHost: flaredb\r\n\r\n".to_vec(),
        2 => [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", &noise[..]].concat(),
        _ => {
            // A frame that is too long, so that it is an error whatever its type is.
            noise.insert(0, 0xff);
            [PREFACE, &noise].concat()
        }
    }
}

async fn is_closed(address: &str, opening: Vec<u8>) -> bool {
    let until_closed = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(&opening).await?;
        socket.read_to_end(&mut Vec::new()).await
    };
    // An error is a reset, which closes it, too.
    timeout(CLOSED_WITHIN, until_closed).await.is_ok()
}

/// Bodies that are not gRPC.
async fn refused_call(address: &str) -> anyhow::Result<()> {
    let line = Line::open(address).await?;
    for path in [
        "/kvrpc.KvRaw/RawPut",
        "/kvrpc.KvBatch/Batch",
        "/pdpb.Pd/GetTso",
        "/nobody/Nothing",
    ] {
        let ending = line.ask(path, Bytes::from_static(&[0xff; 64])).await;
        ensure!(
            ending == Ending::Refused,
            "{path}: {ending:?} instead of refused"
        );
    }
    Ok(())
}
