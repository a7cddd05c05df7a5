//! A queue that several consumers take from, each message once.
//!
//! A message's key is the timestamp at which it was enqueued: timestamps grow for all producers together, so the keys are
//! in the order of the queue. A consumer takes the first message by deleting it, on condition that it still has the
//! version that was read: of two consumers that saw the same message, one gets a conflict and looks again.
//!
//! A message that was taken is gone, so a consumer that dies while it works on one loses it. A queue that must not lose
//! any moves the message to a key of the consumer's own instead, with a lease as in the example `lock`.
//!
//! Run it beside a cluster: `queue [PD_ADDRESS]`.

use futures::TryStreamExt;
use rdb_client::{Bytes, Client, Error, ScanOptions};
use tokio::task::JoinSet;

const QUEUE: &str = "example/queue/";
const MESSAGES: usize = 20;
const CONSUMERS: usize = 4;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pd_address = std::env::args().nth(1);
    let client = Client::connect([pd_address.as_deref().unwrap_or("127.0.0.1:2379")]).await?;
    for number in 0..MESSAGES {
        enqueue(&client, format!("message {number}")).await?;
    }
    let mut consumers = JoinSet::new();
    for _ in 0..CONSUMERS {
        let client = client.clone();
        consumers.spawn(async move {
            let mut taken = Vec::new();
            while let Some(message) = dequeue(&client).await? {
                taken.push(message);
            }
            Ok::<_, Error>(taken)
        });
    }
    let mut taken = 0;
    while let Some(ended) = consumers.join_next().await {
        taken += ended??.len();
    }
    println!("{CONSUMERS} consumers took {taken} messages");
    Ok(())
}

/// Puts a message at the end.
async fn enqueue(client: &Client, message: impl Into<Bytes>) -> Result<(), Error> {
    let timestamp = client.tso().await?;
    // With leading zeros, since keys are ordered by their bytes.
    let key = format!("{QUEUE}{:020}", timestamp.as_u64());
    client.cas_put(key, 0, message).await?;
    Ok(())
}

/// Takes the first message; `None`: there is none.
async fn dequeue(client: &Client) -> Result<Option<Bytes>, Error> {
    let first = ScanOptions::default().with_limit(1);
    while let Some(entry) = client.scan_prefix(QUEUE, first).try_next().await? {
        match client.cas_delete(&entry.key, entry.version).await {
            Ok(()) => return Ok(Some(entry.value)),
            // Another consumer has it.
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
