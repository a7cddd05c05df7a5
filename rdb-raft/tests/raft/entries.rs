//! Entries, and waiting until they are durable.

use std::io;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::async_runtime::oneshot;
use rdb_raft::log::LogStore;
use rdb_raft::{Content, Entry, LogId, Payload, TypeConfig};

pub(crate) type Durable = <<openraft_rt_tokio::TokioRuntime as openraft::AsyncRuntime>::Oneshot as oneshot::Oneshot>::Receiver<io::Result<()>>;

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

pub(crate) fn entry(term: u64, index: u64, payload: impl Into<Vec<u8>>) -> Entry {
    Entry {
        log_id: log_id(term, index),
        payload: Content::Normal(Payload(payload.into().into())),
    }
}

/// Appends, and returns what says that the entries are durable.
pub(crate) async fn append(store: &mut LogStore, entries: Vec<Entry>) -> io::Result<Durable> {
    let (sender, durable) = TypeConfig::oneshot();
    store.append(entries, IOFlushed::signal(sender)).await?;
    Ok(durable)
}
