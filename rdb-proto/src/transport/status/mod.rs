//! What a process shows of itself over HTTP/1.1, to people and to monitoring.
//!
//! - `address`: where it listens, and what `--status-addr` says about that.
//! - `server`: connections, each for one request and for a bounded time.
//! - `pages`: which path shows what. A [`Source`] is what a process has to show.
//! - `page` has the files of the page for people, `history` what the process did in the last 15 minutes, and `brief` cuts what the
//!   page shows to size.
//! - [`Exposition`]: metrics by name, in the text form of OpenMetrics. `process_metrics` and [`TransportMetrics`] are those that
//!   both servers have.
//!
//! Invariants:
//! - Nothing here takes a lock that a read, a write or a timestamp takes. Metrics are read from atomics.
//! - Peers can make it hold only a bounded amount: a few connections with small buffers, one answer each, for a few seconds at most.
//!   Metrics are written for one connection at a time.
//! - One task reads the figures for the page every second, and ends with the server. It keeps a fixed number of rows. Nothing else
//!   depends on it.
//! - What the page shows is put together off the serving threads, for one request at a time.
//! - Bodies of requests are not read, and requests change nothing.

mod address;
mod brief;
mod exposition;
mod history;
mod page;
mod pages;
mod process_metrics;
mod server;
mod transport_metrics;

pub use address::{StatusAddress, StatusListenError};
pub use brief::{brief_findings, brief_list, brief_text};
pub use exposition::{Exposition, Labels, text as metrics_text};
pub use history::{NEW_ROWS_BYTES_MAX, Reading, Readings};
pub use page::{PAGE_INTERVAL, STORE_COLUMNS, Subject, View};
pub use pages::Source;
pub use server::StatusServer;
pub use transport_metrics::TransportMetrics;
