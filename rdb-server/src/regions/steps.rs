//! The steps of the regions that this store leads: one change of members or of leadership at a time, as the placement driver decides.
//!
//! A step is for one `conf_version`. It is taken only if this store has applied that version, and if its membership is the one in
//! force: the group compares the two when it proposes. So a step is taken at most once, and never concurrently with another.

use rdb_proto::metapb::Peer;
use rdb_proto::pdpb::RegionStep;
use rdb_proto::pdpb::region_step::Step;
use rdb_raft::group::{ChangeError, Group, TransferError};
use rdb_storage::Durability;
use tokio::task::spawn_blocking;

use super::Regions;
use crate::region::Described;

/// Why a step is not taken.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("this store does not have the region")]
    NoRegion,
    #[error("it was decided for conf_version {decided_for}, and the region has {applied}")]
    Decided { decided_for: u64, applied: u64 },
    #[error(
        "--durability=os: after a power cut this store would break what it has promised to other stores"
    )]
    NoReplicas,
    #[error("this store does not lead the region, or does not hear of a majority of its voters")]
    NoMajority,
    #[error("it is not known here")]
    Unknown,
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("the region cannot be read: {0}")]
    Unread(String),
}

impl NotTaken {
    /// Whether it may be taken later, or another store has to take it.
    fn may_pass(&self) -> bool {
        match self {
            Self::NoRegion
            | Self::Decided { .. }
            | Self::NoMajority
            | Self::Unknown
            | Self::Change(
                ChangeError::NotLeader
                | ChangeError::NotReady { .. }
                | ChangeError::NotCaughtUp { .. }
                | ChangeError::Ended(_),
            )
            | Self::Transfer(TransferError::NotLeader | TransferError::Ended(_)) => true,
            Self::NoReplicas | Self::Change(_) | Self::Transfer(_) | Self::Unread(_) => false,
        }
    }
}

/// For the log.
fn described(step: Option<&Step>) -> String {
    match step {
        Some(Step::AddLearner(Peer { id, store_id, .. })) => {
            format!("add learner {id} on store {store_id}")
        }
        Some(Step::Promote(peer_id)) => format!("promote peer {peer_id}"),
        Some(Step::Remove(peer_id)) => format!("remove peer {peer_id}"),
        Some(Step::TransferLeader(peer_id)) => format!("hand over to peer {peer_id}"),
        None => "unknown".to_owned(),
    }
}

impl Regions {
    /// Takes a step, and waits until it is done.
    pub(super) async fn take_step(&self, step: RegionStep) {
        let region_id = step.region_id;
        let what = described(step.step.as_ref());
        match self.try_step(step).await {
            Ok(()) => tracing::info!(region_id, step = what, "a step was taken"),
            Err(error) if error.may_pass() => {
                tracing::debug!(region_id, step = what, %error, "a step is not taken");
            }
            Err(error) => tracing::warn!(region_id, step = what, %error, "a step is not taken"),
        }
    }

    async fn try_step(&self, step: RegionStep) -> Result<(), NotTaken> {
        let RegionStep {
            region_id,
            conf_version: decided_for,
            step,
        } = step;
        let group = {
            let replicas = self.replicas();
            let replica = replicas.open.get(&region_id);
            replica.ok_or(NotTaken::NoRegion)?.group.clone()
        };
        let storage = self.storage.clone();
        let read = spawn_blocking(move || Described::read(&storage, region_id)).await;
        let described = read.map_err(|panic| NotTaken::Unread(panic.to_string()))?;
        let described = described.map_err(|error| NotTaken::Unread(error.to_string()))?;
        let described = described.ok_or(NotTaken::NoRegion)?;
        let applied = described.region.conf_version;
        if applied != decided_for {
            return Err(NotTaken::Decided {
                decided_for,
                applied,
            });
        }
        self.take(&group, step.ok_or(NotTaken::Unknown)?, &described)
            .await
    }

    async fn take(&self, group: &Group, step: Step, described: &Described) -> Result<(), NotTaken> {
        let under = &described.members;
        // The group would refuse it, and openraft log an error.
        if !group.is_live() {
            return Err(NotTaken::NoMajority);
        }
        match step {
            Step::AddLearner(_) if self.durability == Durability::Os => {
                return Err(NotTaken::NoReplicas);
            }
            Step::AddLearner(Peer { id, store_id, .. }) => {
                group.add_learner(id, store_id, under).await?;
            }
            Step::Promote(peer_id) => group.promote(peer_id, under).await?,
            Step::Remove(peer_id) => group.remove(peer_id, under).await?,
            Step::TransferLeader(peer_id) => {
                group.check_membership(under)?;
                group.hand_over_to(peer_id).await?;
            }
        }
        Ok(())
    }
}
