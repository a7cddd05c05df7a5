//! Timestamps put events into one order, whoever takes them and whatever their clocks say.
//!
//! A timestamp that is taken after something happened is greater than every one that was taken before it, by any client of
//! the cluster. It is a number of 64 bits, so it can be part of a key or a value and be compared later.
//!
//! Run it beside a cluster: `timestamps [PD_ADDRESS]`.

use rdb_client::{Client, Timestamp};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pd_address = std::env::args().nth(1);
    let pd_address = pd_address.as_deref().unwrap_or("127.0.0.1:2379");
    let (one, other) = (
        Client::connect([pd_address]).await?,
        Client::connect([pd_address]).await?,
    );

    let before = one.tso().await?;
    let after = other.tso().await?;
    println!("in order over two clients: {}", before < after);

    // Calls that are made at once share a request; so do many timestamps of one call.
    let taken = one.tso_batch(1_000).await?;
    println!("{} at once, the first is {}", taken.len(), taken.first());

    // Stored with what it dates, and read back by whoever wants to compare.
    one.raw_put("example/dated", after.as_u64().to_be_bytes().to_vec())
        .await?;
    let stored = other.raw_get("example/dated").await?.unwrap_or_default();
    let stored = Timestamp::from(u64::from_be_bytes(stored[..].try_into()?));
    println!("stored and read back unchanged: {}", stored == after);
    let age = one
        .tso()
        .await?
        .physical()
        .duration_since(stored.physical());
    println!("taken {:?} ago, by the placement driver's clock", age?);
    Ok(())
}
