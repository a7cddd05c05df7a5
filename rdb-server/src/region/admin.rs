//! Requests of operators to a region: a check, how far its log is applied, and another leader.

use bytes::Bytes;
use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use rdb_raft::encoding::log_id;
use rdb_raft::group::TransferError;
use rdb_raft::{Answer, LogId};
use rdb_storage::{Error, LogChange};
use tokio::sync::oneshot;
use tonic::Code;

use super::RegionHandle;
use super::outcomes;
use crate::error::Rejection;

impl RegionHandle {
    /// Has all replicas hold a snapshot at one position, which is returned once this one has applied it.
    pub(crate) async fn propose_check(&self) -> Result<LogId, Rejection> {
        let leadership = self.proposer.leadership();
        leadership.check()?;
        let (answer, answered) = oneshot::channel();
        let check = Bytes::from_static(LogChange::CHECK);
        leadership.group().propose(check, move |given| {
            // The caller may be gone.
            let _ = answer.send(given);
        });
        let answer = answered.await;
        let answer = answer.map_err(|_| outcomes::undetermined("the check was lost"))?;
        let answer = answer.map_err(|error| outcomes::unanswered(error, leadership))?;
        let position = Answer::into_inner(answer);
        position.ok_or_else(|| outcomes::undetermined("the check has no position"))
    }

    /// Lets the replica on another store lead. Returns the term in which this one does, if it is the one that is meant.
    pub(crate) async fn transfer_leader(&self, to_store: u64) -> Result<Option<u64>, Rejection> {
        let leadership = self.proposer.leadership();
        let invalid =
            |cause: String| Rejection::Fault(Fault::invalid_argument("to_store", None, cause));
        let mut peers = self.described().peers.into_iter();
        let Some(peer) = peers.find(|peer| peer.store_id == to_store) else {
            let region_id = self.region.id;
            let cause = format!("store {to_store} has no replica of region {region_id}");
            return Err(invalid(cause));
        };
        let leader = leadership.group().leader();
        if leadership.is_own(peer.id) && leader.peer_id == Some(peer.id) {
            return Ok(Some(leader.term));
        }
        leadership.check()?;
        match leadership.group().hand_over_to(peer.id).await {
            Ok(()) => Ok(None),
            Err(TransferError::NotLeader) => Err(leadership.refusal()),
            Err(error @ TransferError::NotAnotherVoter { .. }) => Err(invalid(error.to_string())),
            Err(error @ (TransferError::NotHeardOf { .. } | TransferError::Silent { .. })) => {
                let (code, since) = match error {
                    // A leader that was just elected hears of others soon.
                    TransferError::NotHeardOf { .. } => (Code::Unavailable, "since it leads"),
                    _ => (Code::FailedPrecondition, "lately"),
                };
                let cause = format!(
                    "the leader has not heard of store {to_store} {since}, so that one may not take over"
                );
                let fault = Fault::new(code, cause);
                Err(Rejection::Fault(fault.with_fate(Fate::NotApplied)))
            }
            Err(TransferError::Ended(ended)) => Err(leadership.not_done(ended)),
        }
    }

    /// The last entry that this replica has applied.
    pub(crate) fn applied(&self) -> Result<LogId, Rejection> {
        let position = self.storage.applied_position(self.region.id)?;
        let decoded = log_id::decode(&position.unwrap_or_default());
        decoded.map_err(|error| {
            let cause = error.to_string();
            Error::DataLoss { cause }.into()
        })
    }
}
