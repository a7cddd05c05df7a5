//! FlareDB's client library.
//!
//! ```no_run
//! use bytes::Bytes;
//! use rdb_client::{Client, Error, Timestamp, Versioned};
//!
//! # async fn example() -> Result<(), Error> {
//! let client = Client::connect(["127.0.0.1:2379"]).await?; // placement driver addresses only
//!
//! client.raw_put("k1", "v1").await?;
//! let value: Option<Bytes> = client.raw_get("k1").await?;
//!
//! let version = client.cas_put("k1", 0, "v1").await?; // 0: the key must not exist
//! match client.cas_put("k1", version + 1, "v2").await {
//!     Err(Error::Conflict { current_version, .. }) => assert_eq!(current_version, version),
//!     other => panic!("expected a conflict, got {other:?}"),
//! }
//! let entry: Option<Versioned> = client.get("k1").await?;
//!
//! let timestamp: Timestamp = client.tso().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] finds the store that leads each key's region, remembers it, and tries again inside one deadline when
//! something is in the way. What it never does is send a write a second time that may have been applied the first time:
//! such a write ends in [`Error::Undetermined`].
//!
//! Concurrent calls on one client are sent together, without waiting for each other: share one client, or its clones, and
//! call it from as many tasks as there is work for.
//!
//! There are two keyspaces. `raw_*` calls work on the raw one, where the last write wins; [`Client::get`],
//! [`Client::cas_put`] and their siblings on the versioned one, which is written by compare-and-swap only. Neither sees the
//! other's keys.
//!
//! # Where things are
//!
//! - [`Client`] and its calls: `client`, `raw`, `versioned`, `tso`, `cluster`, `health`
//! - requests over several regions: `batch`, `delete_range`, `scan`, with `range` for bounds
//! - one request: `rpc` (what is sent), `routing` (where to), `fate` (what became of it), `retry` (when again)
//! - concurrent requests: `dispatch` (point reads and writes share streams), `tso` (calls share requests)
//! - below them: `stream` (keeping one open), `connection` (one per address), `counters`
//! - plain types: `topology`, `timestamp`, `limits`, `config`, `stats`, `error`

#![forbid(unsafe_code)]

mod batch;
mod client;
mod cluster;
mod config;
mod connection;
mod counters;
mod delete_range;
mod dispatch;
mod error;
mod fate;
mod health;
mod limits;
mod range;
mod raw;
mod retry;
mod routing;
mod rpc;
mod scan;
mod stats;
mod stream;
mod timestamp;
mod topology;
mod tso;
mod versioned;

pub use client::Client;
pub use config::Config;
pub use error::Error;
pub use health::{Health, ProcessHealth, Role};
pub use limits::Limits;
pub use raw::KeyValue;
pub use scan::{ScanOptions, ScanStream};
pub use stats::ClientStats;
pub use timestamp::{Timestamp, Timestamps, TimestampsIter};
pub use topology::{Peer, Region, RegionEpoch, RegionRoute, Store, StoreState, StoreStats};
pub use versioned::{Versioned, VersionedKeyValue};

/// The README's snippets compile as doctests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
