//! Ends appends to peers that keep the log from being purged for too long.
//!
//! openraft purges nothing that a stream of appends still has to send, however slow the stream is. When a stream ends with an error,
//! openraft purges what it was asked to, and sends a snapshot to a peer that lacks those entries.

use std::collections::BTreeMap;
use std::future::Future;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory};
use tokio::select;
use tokio::sync::watch;

use crate::types::{Snapshot, StoreNode, TypeConfig, Vote};

type RpcError = RPCError<TypeConfig>;

type Answer = Result<StreamAppendResult<TypeConfig>, RpcError>;

/// The streams of appends of a group.
#[derive(Clone, Default)]
pub(super) struct SlowStreams {
    /// How often those to a peer were ended.
    ended: watch::Sender<BTreeMap<u64, u64>>,
}

impl SlowStreams {
    /// Ends the present streams to a peer. Later ones are not touched.
    pub(super) fn end(&self, peer_id: u64) {
        self.ended
            .send_modify(|ended| *ended.entry(peer_id).or_default() += 1);
    }

    /// Passes on the answers of a stream until it is ended.
    fn watch<'s>(&self, peer_id: u64, answers: BoxStream<'s, Answer>) -> BoxStream<'s, Answer> {
        let mut ended = self.ended.subscribe();
        let count = move |ended: &BTreeMap<u64, u64>| ended.get(&peer_id).copied().unwrap_or(0);
        let before = count(&ended.borrow());
        let end = Box::pin(async move {
            // It fails when the group is gone, which ends its streams, too.
            let _ = ended.wait_for(|ended| count(ended) > before).await;
        });
        let answers = stream::unfold(Some((answers, end)), |watched| async {
            let (mut answers, mut end) = watched?;
            select! {
                biased;
                () = &mut end => {
                    let cause = "the log is not kept any longer for a peer that is far behind";
                    Some((Err(NetworkError::from_string(cause).into()), None))
                }
                answer = answers.next() => Some((answer?, Some((answers, end)))),
            }
        });
        answers.boxed()
    }
}

/// A network whose streams of appends can be ended.
pub(super) struct EndingStreams<Network> {
    pub(super) network: Network,
    pub(super) streams: SlowStreams,
}

impl<Network: RaftNetworkFactory<TypeConfig>> RaftNetworkFactory<TypeConfig>
    for EndingStreams<Network>
{
    type Network = EndingClient<Network::Network>;

    async fn new_client(&mut self, target: u64, node: &StoreNode) -> Self::Network {
        EndingClient {
            client: self.network.new_client(target, node).await,
            streams: Some((self.streams.clone(), target)),
        }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &StoreNode) -> Self::Network {
        EndingClient {
            client: self.network.new_heartbeat_client(target, node).await,
            streams: None,
        }
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &StoreNode) -> Self::Network {
        EndingClient {
            client: self.network.new_snapshot_client(target, node).await,
            streams: None,
        }
    }
}

/// A client of an [`EndingStreams`].
pub(super) struct EndingClient<Client> {
    client: Client,
    /// For replication: the streams that it is one of, and the peer.
    streams: Option<(SlowStreams, u64)>,
}

impl<Client: NetStreamAppend<TypeConfig>> NetStreamAppend<TypeConfig> for EndingClient<Client> {
    fn stream_append<'s, S>(
        &'s mut self,
        appends: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Answer>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let streams = self.streams.clone();
        let begun = self.client.stream_append(appends, option);
        Box::pin(async move {
            let answers = begun.await?;
            Ok(match streams {
                Some((streams, peer_id)) => streams.watch(peer_id, answers),
                None => answers,
            })
        })
    }
}

impl<Client: NetVote<TypeConfig>> NetVote<TypeConfig> for EndingClient<Client> {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.client.vote(request, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.client.pre_vote(request, option).await
    }
}

impl<Client: NetTransferLeader<TypeConfig>> NetTransferLeader<TypeConfig> for EndingClient<Client> {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        self.client.transfer_leader(request, option).await
    }
}

impl<Client: NetSnapshot<TypeConfig>> NetSnapshot<TypeConfig> for EndingClient<Client> {
    type SnapshotData = Client::SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Self::SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        self.client
            .full_snapshot(vote, snapshot, cancel, option)
            .await
    }
}

impl<Client: NetBackoff<TypeConfig>> NetBackoff<TypeConfig> for EndingClient<Client> {
    fn backoff(&self) -> Option<Backoff> {
        self.client.backoff()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn only_streams_to_the_peer_that_were_there_are_ended() {
        let streams = SlowStreams::default();
        let open = |peer_id| streams.watch(peer_id, stream::pending().boxed());
        let (mut ended, mut other) = (open(1), open(2));
        streams.end(1);
        let mut later = open(1);
        assert!(matches!(ended.next().await, Some(Err(_))));
        assert!(ended.next().await.is_none());
        assert!(other.next().now_or_never().is_none());
        assert!(later.next().now_or_never().is_none());
        let mut over = streams.watch(1, stream::iter([Ok(Ok(None))]).boxed());
        assert!(matches!(over.next().await, Some(Ok(Ok(None)))));
        assert!(over.next().await.is_none());
    }
}
