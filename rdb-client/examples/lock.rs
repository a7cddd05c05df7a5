//! A lock with a lease, and a fence against a holder that was slower than its lease.
//!
//! A lock alone protects nothing: its holder may stand still, for a garbage collection or a paused machine, until the lease
//! is over and somebody else holds the lock, and then go on as if nothing had happened. So the lock hands out a number
//! that grows with every holder, and what the lock protects refuses a number lower than one it has seen. Here the version
//! of the lock's key is that number: versions only grow, and none ever comes back.
//!
//! Leases are measured with the cluster's timestamps, so the holders' clocks do not matter.
//!
//! Run it beside a cluster: `lock [PD_ADDRESS]`.

use std::time::Duration;

use rdb_client::{Client, Error};

const LOCK: &str = "example/lock";
const PROTECTED: &str = "example/protected";

/// Grows with every holder of the lock.
type FencingToken = u64;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pd_address = std::env::args().nth(1);
    let client = Client::connect([pd_address.as_deref().unwrap_or("127.0.0.1:2379")]).await?;

    let slow = acquire(&client, "slow", Duration::ZERO).await?;
    println!("slow holds the lock with token {slow}, and its lease is over already");
    let quick = acquire(&client, "quick", Duration::from_secs(10)).await?;
    println!("quick holds the lock with token {quick}");

    let written = write_protected(&client, quick, "by quick").await?;
    println!("quick writes: {written}");
    let written = write_protected(&client, slow, "by slow").await?;
    println!("slow writes with its old token: {written}");

    release(&client, quick).await?;
    Ok(())
}

/// Waits for the lock and takes it for as long as `lease`.
async fn acquire(client: &Client, holder: &str, lease: Duration) -> Result<FencingToken, Error> {
    loop {
        let now_ms = client.tso().await?.physical_ms();
        let current = client.get(LOCK).await?;
        let held_until_ms = current.as_ref().map_or(0, |lock| lease_end_ms(&lock.value));
        if held_until_ms > now_ms {
            tokio::time::sleep(Duration::from_millis(held_until_ms - now_ms)).await;
            continue;
        }
        let version = current.map_or(0, |lock| lock.version);
        let value = format!("{} {holder}", now_ms + lease.as_millis() as u64);
        match client.cas_put(LOCK, version, value).await {
            // Another one was quicker.
            Err(Error::Conflict { .. }) => {}
            acquired => return acquired,
        }
    }
}

/// Gives the lock back, if it is still held. It is written and not deleted, so that there is always a version to expect.
async fn release(client: &Client, token: FencingToken) -> Result<(), Error> {
    match client.cas_put(LOCK, token, "0 nobody").await {
        Ok(_) | Err(Error::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes what the lock protects, unless somebody with a later token has done so; says whether it was written.
async fn write_protected(client: &Client, token: FencingToken, value: &str) -> Result<bool, Error> {
    let value = format!("{token} {value}");
    loop {
        let current = client.get(PROTECTED).await?;
        let seen = current.as_ref().map_or(0, |entry| number(&entry.value));
        if seen > token {
            return Ok(false);
        }
        let version = current.map_or(0, |entry| entry.version);
        match client.cas_put(PROTECTED, version, value.clone()).await {
            Ok(_) => return Ok(true),
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

fn lease_end_ms(lock: &[u8]) -> u64 {
    number(lock)
}

/// The number that a value begins with.
fn number(value: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(value);
    let number = text.split(' ').next();
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
