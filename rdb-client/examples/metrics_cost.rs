//! What reporting costs: the rates of `raw_get` of two clients in one process, by turns. One has connected before there was a
//! recorder, so that what it reports goes nowhere; the other has one that counts in memory.
//!
//! Run a release build beside a cluster: `metrics_cost [PD_ADDRESS [CALLERS [ROUNDS [SECONDS]]]]`. Each round has SECONDS for
//! each client. The last line is the mean of both and their ratio, which is to be at least 0.98.
//!
//! What the feature costs a process without a recorder is not seen here: for that, compare `rdbctl bench` of two builds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdb_client::{Client, Error};
use tokio::task::JoinSet;
use tokio::time::sleep;

use recorder::Numbers;

#[path = "client_metrics/recorder.rs"]
#[allow(dead_code, reason = "nothing is shown of it")]
mod recorder;

const KEYS: u64 = 1000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |position: usize, default: u64| {
        let argument = arguments.get(position);
        argument.map_or(Ok(default), |argument| argument.parse())
    };
    let (callers, rounds, seconds) = (number(1, 256)?, number(2, 10)?, number(3, 5)?);
    let round = Duration::from_secs(seconds);
    let address = arguments.first();
    let pd = address.map_or("127.0.0.1:2379", String::as_str);

    let unreported = Client::connect([pd]).await?;
    metrics::set_global_recorder(Numbers::default())?;
    let reported = Client::connect([pd]).await?;
    for key in 0..KEYS {
        unreported.raw_put(key_of(key), "v".repeat(100)).await?;
    }
    let (mut without, mut with) = (0.0, 0.0);
    for number in 1..=rounds {
        // Each goes first in every other round.
        let rates = if number % 2 == 0 {
            let with = rate(&reported, callers, round).await?;
            (rate(&unreported, callers, round).await?, with)
        } else {
            let without = rate(&unreported, callers, round).await?;
            (without, rate(&reported, callers, round).await?)
        };
        let ratio = rates.1 / rates.0;
        println!("{number}: {:.0}/s, {:.0}/s: {ratio:.3}", rates.0, rates.1);
        without += rates.0;
        with += rates.1;
    }
    let of = rounds as f64;
    println!(
        "without {:.0}/s, with {:.0}/s: {:.3}",
        without / of,
        with / of,
        with / without
    );
    Ok(())
}

/// Reads in a second.
async fn rate(client: &Client, callers: u64, round: Duration) -> Result<f64, Error> {
    let (done, is_over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let (client, done, is_over) = (client.clone(), Arc::clone(&done), Arc::clone(&is_over));
        tasks.spawn(async move {
            let mut key = caller;
            while !is_over.load(Ordering::Relaxed) {
                client.raw_get(key_of(key % KEYS)).await?;
                done.fetch_add(1, Ordering::Relaxed);
                key += 1;
            }
            Ok::<(), Error>(())
        });
    }
    sleep(round).await;
    let rate = done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    is_over.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a caller does not panic")?;
    }
    Ok(rate)
}

fn key_of(number: u64) -> String {
    format!("example/cost/{number}")
}
