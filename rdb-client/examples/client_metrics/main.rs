//! What a client reports to the crate `metrics`, as Prometheus reads it.
//!
//! The recorder is installed before the client connects: a client keeps to the one that it finds then. An application serves
//! the text at `/metrics`, or has the crate do it that its recorder comes from.
//!
//! Run it beside a cluster: `client_metrics [PD_ADDRESS]`.

use rdb_client::{Client, Error};
use tokio::task::JoinSet;

use recorder::Numbers;

mod recorder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers = Numbers::default();
    metrics::set_global_recorder(numbers.clone())?;

    let pd_address = std::env::args().nth(1);
    let client = Client::connect([pd_address.as_deref().unwrap_or("127.0.0.1:2379")]).await?;
    let mut tasks = JoinSet::new();
    for number in 0..100 {
        let client = client.clone();
        tasks.spawn(async move {
            let key = format!("example/metrics/{number}");
            client.raw_put(key.clone(), "v").await?;
            client.raw_get(key).await
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    // No key has this version: one call ends in a conflict.
    match client.cas_put("example/metrics", u64::MAX, "v").await {
        Err(Error::Conflict { .. }) => {}
        other => println!("{other:?}"),
    }
    client.tso().await?;

    print!("{}", numbers.text());
    Ok(())
}
