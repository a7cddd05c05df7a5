//! More connections than there are places, while every place is in use: a line of the log for each would fill a disk.

use std::time::Instant;

use futures::future::join_all;
use rdb_proto::transport::limits::CONNECTIONS_MAX;

use crate::trial::Trial;
use crate::wire::Line;

/// One place is the bystander's.
const HOLDERS: usize = CONNECTIONS_MAX - 1;

const REFUSED: usize = 5_000;
const AT_A_TIME: usize = 50;

/// Lines that a flood may cost beside one a second.
const SPARE_LINES: usize = 10;

pub(super) async fn play(trial: &mut Trial) -> anyhow::Result<()> {
    trial.begin().await?;
    let address = trial.address();
    let mut holders = Vec::new();
    for _ in 0..HOLDERS {
        // A stream that stays open is a call in flight, so the place is in use.
        if let Ok(line) = Line::open(&address).await
            && let Ok(call) = line.call("/kvrpc.KvBatch/Batch").await
        {
            holders.push((line, call));
        }
    }
    trial.expect(
        holders.len() == HOLDERS,
        format!("only {} of {HOLDERS} found a place", holders.len()),
    );
    let (lines_before, began) = (log_lines(trial), Instant::now());
    for _ in 0..REFUSED / AT_A_TIME {
        let calls = (0..AT_A_TIME).map(|_| refused(&address));
        join_all(calls).await;
    }
    let elapsed = began.elapsed();
    let lines = log_lines(trial) - lines_before;
    trial.note(format!(
        "{REFUSED} refused in {elapsed:.1?} wrote {lines} lines to the log"
    ));
    let allowed = elapsed.as_secs() as usize + SPARE_LINES;
    trial.expect(lines <= allowed, format!("{lines} lines in the log"));
    drop(holders);
    trial.gone().await
}

/// Connects, and makes a call that finds out that there was no place.
async fn refused(address: &str) {
    if let Ok(line) = Line::open(address).await
        && let Ok(call) = line.call("/kvrpc.KvBatch/Batch").await
    {
        drop(call);
    }
}

fn log_lines(trial: &Trial) -> usize {
    trial.cluster.store.log().lines().count()
}
