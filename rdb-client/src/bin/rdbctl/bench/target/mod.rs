//! The targets of a benchmark: databases behind one trait, and the limits that they are measured against.
//!
//! Every target is called through one HTTP/2 connection per process and server with the windows of
//! [`rdb_proto::transport`], so that differences are the servers'.

mod echo_client;
mod echo_server;
mod etcd;
mod failures;
mod flaredb;

use std::future::Future;

use bytes::Bytes;

use super::keys::KEY_BYTES;
use super::recorder::OperationError;

pub(crate) use echo_client::EchoClient;
pub(crate) use echo_server::serve_echo;
pub(crate) use etcd::Etcd;
pub(crate) use flaredb::{FlareDb, IdleConnections, open_timestamp_stream};

/// A database of single values, as strict as it offers: a write is durable when it is answered, a read sees every write
/// that was answered before it began. Cheap to clone; clones share connections.
pub(crate) trait Target: Clone + Send + Sync + 'static {
    const NAME: &str;

    /// Most entries of one [`put_batch`](Self::put_batch) while keys are loaded.
    const LOAD_BATCH_ENTRIES: u64;

    /// Batches at a time while keys are loaded.
    const LOAD_CONCURRENCY: usize;

    /// Writes one value.
    fn put(
        &self,
        key: [u8; KEY_BYTES],
        value: Bytes,
    ) -> impl Future<Output = Result<(), OperationError>> + Send;

    /// Reads one value; `None`: there is no such key.
    fn get(
        &self,
        key: [u8; KEY_BYTES],
    ) -> impl Future<Output = Result<Option<Bytes>, OperationError>> + Send;

    /// Writes several values, not necessarily at once.
    fn put_batch(
        &self,
        entries: Vec<([u8; KEY_BYTES], Bytes)>,
    ) -> impl Future<Output = Result<(), OperationError>> + Send;
}
