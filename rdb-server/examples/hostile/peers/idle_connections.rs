//! Connections that take every place and do nothing.

use std::time::{Duration, Instant};

use anyhow::Context;
use rdb_proto::transport::limits::CONNECTIONS_MAX;
use tokio::time::{sleep, timeout};

use crate::harness::connect;
use crate::trial::Trial;
use crate::wire::Line;

/// Clients that come after them.
const NEWCOMERS: usize = 10;

/// When a newcomer counts as shut out.
const ADMITTED_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn play(trial: &mut Trial) -> anyhow::Result<()> {
    trial.begin().await?;
    let address = trial.address();
    let mut lines = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        // The last of them may find no place.
        if let Ok(line) = Line::open(&address).await {
            lines.push(line);
        }
    }
    let mut slowest = Duration::ZERO;
    let mut shut_out = 0;
    for _ in 0..NEWCOMERS {
        let began = Instant::now();
        match timeout(ADMITTED_WITHIN, be_served(&address)).await {
            Ok(Ok(())) => slowest = slowest.max(began.elapsed()),
            _ => shut_out += 1,
        }
        sleep(Duration::from_millis(100)).await;
    }
    trial.note(format!(
        "{shut_out} of {NEWCOMERS} newcomers shut out; slowest of the others {slowest:.1?}"
    ));
    trial.expect(shut_out == 0, "a newcomer was shut out");
    drop(lines);
    trial.gone().await
}

/// A new client's first call, which it makes again while there is no place for it.
async fn be_served(address: &str) -> anyhow::Result<()> {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    loop {
        let call = async {
            let channel = connect(address).await.context("not admitted")?;
            HealthClient::new(channel)
                .check(HealthCheckRequest::default())
                .await
                .context("closed")
        };
        if call.await.is_ok() {
            return Ok(());
        }
        sleep(Duration::from_millis(50)).await;
    }
}
