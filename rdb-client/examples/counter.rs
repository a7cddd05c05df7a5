//! A counter that many tasks count up at once, without losing a count.
//!
//! `Client::update` makes the next value from the present one and writes it only if nobody was faster; if somebody was, it
//! starts again from what that one wrote. A put in its place would lose counts: two tasks read 5, and both write 6.
//!
//! The counter is created first and never deleted. From then on every swap names a version of at least 1, so that one
//! whose response got lost can be made again without counting twice.
//!
//! Run it beside a cluster: `counter [PD_ADDRESS]`.

use std::time::Duration;

use rdb_client::{Client, Error, Versioned};
use tokio::task::JoinSet;

const TASKS: u64 = 8;
const COUNTS_PER_TASK: u64 = 25;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pd_address = std::env::args().nth(1);
    let client = Client::connect([pd_address.as_deref().unwrap_or("127.0.0.1:2379")]).await?;
    match client.cas_put("example/counter", 0, encode(0)).await {
        Ok(_) | Err(Error::Conflict { .. }) => {}
        Err(error) => return Err(error.into()),
    }

    // A count waits for those that were faster, so it may take longer than a single call.
    let client = client.with_timeout(Duration::from_secs(60));
    let before = decode(client.get("example/counter").await?.as_ref());
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let client = client.clone();
        tasks.spawn(async move {
            for _ in 0..COUNTS_PER_TASK {
                // `Undetermined` ends this: whether it has counted is then for a person to decide.
                let next = |current: Option<&Versioned>| encode(decode(current) + 1);
                client.update("example/counter", next).await?;
            }
            Ok::<(), Error>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let after = decode(client.get("example/counter").await?.as_ref());
    println!("counted {} from {before} to {after}", after - before);
    Ok(())
}

fn encode(count: u64) -> Vec<u8> {
    count.to_be_bytes().to_vec()
}

/// A key that does not exist counts as 0, and so does what is no count.
fn decode(entry: Option<&Versioned>) -> u64 {
    let bytes = entry.and_then(|entry| entry.value[..].try_into().ok());
    bytes.map_or(0, u64::from_be_bytes)
}
