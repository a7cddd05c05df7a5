//! FlareDB's client library.
//!
//! ```no_run
//! use rdb_client::{Bytes, Client, Error, Timestamp, Versioned};
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
//! A [`Client`] finds the store that leads each key's region, remembers it, and retries failed attempts until the call's
//! deadline. Concurrent calls on one client are sent together, without waiting for each other. So share one client or its
//! clones, and make calls from as many tasks as there is work for.
//!
//! There are two keyspaces. `raw_*` calls work on the raw one, where the last write wins; [`Client::get`],
//! [`Client::cas_put`] and their siblings on the versioned one, which is written by compare-and-swap only. Neither sees the
//! other's keys.
//!
//! # When a write's fate is unknown
//!
//! A write that may have been applied is never sent again. It ends in [`Error::Undetermined`]. Every other error says that
//! the write was not applied and will not be. An undetermined write may also be applied *later*: after a read that did not
//! see it, and over a write that was made since. So a read that does not see the write proves nothing. In the versioned
//! keyspace a fence does: once another swap has replaced the version that the lost write expected, the lost write can no
//! longer be applied.
//!
//! ```no_run
//! # use rdb_client::{Client, Error};
//! # async fn rename(client: Client, version: u64) -> Result<(), Error> {
//! // At least version 1: a key that is deleted is absent again, but never has an old version again.
//! let new_name = "Ada, set by writer 7"; // names its writer, so that a conflict tells whose value it is
//! let mut swapped = client.cas_put("name", version, new_name).await;
//! while matches!(swapped, Err(Error::Undetermined { .. })) {
//!     // The same swap once more. At most one of them is applied, however late the first one arrives.
//!     swapped = client.cas_put("name", version, new_name).await;
//! }
//! match swapped {
//!     Ok(version) => println!("ours, version {version}"),
//!     Err(Error::Conflict { current_value: Some(value), .. }) if value == new_name => {
//!         println!("ours: an earlier swap was applied, and its response got lost");
//!     }
//!     // Another writer's value: ours may have been there before it, and will not come any more.
//!     other => println!("{other:?}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Client::update`] does this.
//!
//! # Traces
//!
//! A call can be a part of a trace: [`Client::with_trace`] takes the [`TraceContext`] that its caller has, in the form of the W3C's
//! `traceparent`. This crate makes no spans, and depends on no tracing library.
//!
//! # What it needs
//!
//! An application needs tokio's feature `rt` and a runtime of either kind with `enable_all()`. This crate enables the other
//! features of tokio that it uses. It has no default features. Its feature `tls` encrypts connections: it adds rustls with `ring`,
//! which needs a C compiler. Its feature `cli` is for `rdbctl` only.
//!
//! # TLS
//!
//! With the feature `tls`, `Config::with_tls` has every connection encrypted. A connection is refused when the server's certificate
//! has expired, comes from no CA that the client trusts, or is for another host than the address, and when the server asks for a
//! certificate that the client does not have. That counts as an unreachable server: the call was not applied, and is tried again
//! until its deadline, since certificates are renewed and other addresses may work. Its error then says why.
//!
//! # Users and rights
//!
//! If the placement driver runs with `--auth`, each call belongs to a user and needs that user's rights. A client shows who it is by a
//! token that every call carries, or by its certificate.
//!
//! ```no_run
//! use rdb_client::{Client, Config, Error};
//!
//! # async fn example() -> Result<(), Error> {
//! let config = Config::default().with_token_file("/run/secrets/flaredb-token");
//! let client = Client::connect_with(["127.0.0.1:2379"], config).await?;
//! match client.raw_put("app/k1", "v1").await {
//!     Err(Error::PermissionDenied { cause }) => println!("it was not applied: {cause}"),
//!     other => other?,
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Error::PermissionDenied`] and [`Error::Unauthenticated`] end a call at once. A new right or a new token counts some seconds later, so
//! a caller that has just got one has to try again. A token in a file is replaced without a failed call: `docs/security.md` says how.
//! Without TLS anybody on the network path can read it. [`Client::add_user`] and its siblings administer users; [`auth`] has what they
//! take.
//!
//! # Metrics
//!
//! [`Client::stats`] has the most important counts. With the feature `metrics`, clients also report to the recorder of the
//! crate [`metrics`](https://docs.rs/metrics): calls by kind and outcome and how long they took, retries, region lookups,
//! connections, and the sizes of messages. All names begin with `flaredb_client_`; `docs/monitoring.md` lists them. The
//! example `client_metrics` writes them as Prometheus reads them.
//!
//! Install the recorder before [`Client::connect`]: a client keeps the one that it finds then. For the same reason the
//! recorder must not forget figures that do not change for a while.
//!
//! ```toml
//! [dependencies]
//! rdb-client = { path = "…", features = ["metrics"] }
//! ```
//!
//! # Where things are
//!
//! - [`Client`] and its calls: `client`, `raw`, `versioned`, `update`, `tso`, `cluster`,
//!   `health`, `region_admin`, `membership`, `auth_admin`
//! - requests for many keys or regions: `multi_key`, `delete_range`, `scan`
//! - arguments of calls: `key`, `range`, `config`, `token_source`; results: `topology`, `timestamp`, `limits`, `stats`, `error`, with
//!   `detach` for values out of large messages
//! - one request: `rpc` (the message), `routing` (its store), `fate` (whether it was applied), `retry` (the next attempt)
//! - concurrent requests: `dispatch` (point reads and writes share streams), `tso` (calls share requests)
//! - below them: `stream` (keeping one open), `connection` (one per address), `counters`, `figures` (the feature `metrics`)

#![forbid(unsafe_code)]
// A new field or variant does not break an application.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod auth_admin;
mod client;
mod cluster;
mod config;
mod connection;
mod counters;
mod delete_range;
mod detach;
mod dispatch;
mod error;
mod fate;
mod figures;
mod health;
mod key;
mod limits;
mod membership;
mod multi_key;
mod range;
mod raw;
mod region_admin;
mod retry;
mod routing;
mod rpc;
mod scan;
mod stats;
mod stream;
mod timestamp;
mod token_source;
mod topology;
mod tso;
mod update;
mod versioned;

pub use bytes::Bytes;
pub use rdb_proto::auth::{InvalidToken, Token};
pub use rdb_proto::trace::{InvalidTraceContext, TraceContext, TraceId};

pub use client::Client;
pub use config::Config;
pub use error::{Cause, Error};
pub use health::{Health, ProcessHealth, Role};
pub use key::Key;
pub use limits::Limits;
pub use membership::{Operator, OperatorState, Removal};
pub use range::KeyRange;
pub use raw::KeyValue;
#[cfg(feature = "tls")]
pub use rdb_proto::transport::tls::ClientTlsOptions as Tls;
pub use region_admin::{RegionCheck, ReplicaCheck, ReplicaOutcome};
pub use scan::{ScanOptions, ScanStream};
pub use stats::ClientStats;
pub use timestamp::{Timestamp, Timestamps, TimestampsIter};
pub use token_source::TokenSource;
pub use topology::{
    Finding, Peer, Region, RegionEpoch, RegionRoute, Store, StoreLoad, StoreState, StoreStats,
};
pub use versioned::{Versioned, VersionedKeyValue};

/// Users and what they may do: what the calls of [`Client`] that administer them take and give.
pub mod auth {
    pub use rdb_proto::auth::{Keyspace, Role};

    pub use crate::auth_admin::{Enabled, Grant, Identity, User, Users, Verdict};
}

/// The README's snippets compile as doctests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
