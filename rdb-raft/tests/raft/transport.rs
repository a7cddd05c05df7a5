//! Both ends of the transport, each against a peer that does what a test says.

mod appends;
mod greeting;
mod serving;

use std::sync::Arc;
use std::time::Duration;

use openraft::errors::RPCError;
use openraft::network::RPCOption;
use openraft::raft::AppendEntriesRequest;
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use rdb_raft::transport::{Client, Transport};
use rdb_raft::{Entry, StoreNode, TypeConfig, Vote};
use tokio::time::timeout;

use crate::entries::log_id;
use crate::stores::{Addresses, GROUP_ID, TIMING, first_start, identity};
use crate::voters::GUARD;

pub(crate) type Append = AppendEntriesRequest<TypeConfig>;

/// What peer 1 on store 1 sends to peer 2 on store 2 with.
pub(crate) async fn client(transport: &Transport) -> Client {
    let mut network = transport.network(GROUP_ID, 1);
    network.new_client(2, &StoreNode { store_id: 2 }).await
}

pub(crate) fn transport(addresses: Arc<Addresses>) -> Transport {
    Transport::new(identity(1), TIMING, addresses, first_start())
}

pub(crate) fn append(previous: u64, entries: Vec<Entry>) -> Append {
    Append {
        vote: Vote::new_committed(1, 1),
        prev_log_id: Some(log_id(1, previous)),
        entries,
        leader_commit: None,
    }
}

pub(crate) fn option(hard_ttl: Duration) -> RPCOption {
    RPCOption::new(hard_ttl)
}

/// What an append to store 2 fails with.
pub(crate) async fn unreachable(transport: &Transport) -> String {
    let mut client = client(transport).await;
    let append = append(0, Vec::new());
    match client.append_entries(append, option(GUARD)).await {
        Err(RPCError::Unreachable(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Waits until that is the cause. An attempt on a busy machine may end by its time.
pub(crate) async fn unreachable_for(transport: &Transport, cause: &str) {
    let tried = async { while !unreachable(transport).await.contains(cause) {} };
    timeout(GUARD, tried).await.expect(cause);
}
