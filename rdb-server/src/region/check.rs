//! The check of a region, and how far its log is applied.

use bytes::Bytes;
use rdb_raft::encoding::log_id;
use rdb_raft::{Answer, LogId};
use rdb_storage::{Error, LogChange};
use tokio::sync::oneshot;

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
            // Whoever waited may be gone.
            let _ = answer.send(given);
        });
        let answer = answered.await;
        let answer = answer.map_err(|_| outcomes::undetermined("the check was lost"))?;
        let answer = answer.map_err(|error| outcomes::unanswered(error, leadership))?;
        let position = Answer::into_inner(answer);
        position.ok_or_else(|| outcomes::undetermined("the check has no position"))
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
