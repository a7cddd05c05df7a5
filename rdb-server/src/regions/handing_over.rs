//! Regions whose leadership this store hands over, because it ends, cannot write, or refuses all calls for lack of rights. A store cannot
//! write if its disk has failed, and also if the log waits too long for its disk.
//!
//! A store without rights, or with old ones, also refuses what other stores send, and gives no votes. One whose log waits cannot note a vote.
//! So it hands a region over only if the peers that answer it are a quorum without it. That is not so when too many stores of the group
//! are in the same state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, join3};
use rdb_raft::group::{GroupState, TransferError};
use rdb_raft::log::LogHealth;
use rdb_storage::WriteHealth;
use tokio::time::{sleep, timeout};

use super::Regions;
use crate::region::Proposer;
use crate::rights::RightsCopy;

/// How often regions are looked at for what keeps them from writing.
const KEEP_INTERVAL: Duration = Duration::from_millis(500);

/// How long a drain waits for others to take over what this store leads, or for groups to end.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// How soon a drain asks again who could take over.
const HAND_OVER_INTERVAL: Duration = Duration::from_millis(100);

impl Regions {
    /// Refuses writes that wait for a quorum that is gone, hands over what this store leads and cannot serve, and forgets what it has
    /// promised before its start when that is over.
    pub(crate) async fn keep(&self, rights: &RightsCopy) {
        // Handing over waits for others.
        let handing_over = self.hand_over_unserved(rights);
        join3(self.refuse_stalled(), handing_over, self.forget_promises()).await;
    }

    async fn refuse_stalled(&self) {
        loop {
            sleep(KEEP_INTERVAL).await;
            for (_, proposer) in self.proposers() {
                proposer.refuse_stalled();
            }
        }
    }

    async fn hand_over_unserved(&self, rights: &RightsCopy) {
        let (write_health, log_health) = (self.storage.write_health(), self.node.log_health());
        loop {
            sleep(KEEP_INTERVAL).await;
            let cannot_write = match (&*log_health.borrow(), &*write_health.borrow()) {
                (LogHealth::Stopped { .. }, _) | (_, WriteHealth::Stopped { .. }) => {
                    self.group_ids()
                }
                (_, WriteHealth::RegionsStopped { causes }) => causes.keys().copied().collect(),
                (_, WriteHealth::Healthy) => Vec::new(),
            };
            let cannot_vote = rights.refuses() || self.log_stands_still();
            let handing_over = async {
                if cannot_vote {
                    let ids = self.group_ids().into_iter();
                    join_all(ids.map(|id| self.hand_over_without_vote(id))).await;
                } else {
                    let ids = cannot_write.into_iter();
                    join_all(ids.map(|id| self.hand_over_one(id))).await;
                }
            };
            // A group answers nothing while it waits for the log to note the vote for its successor.
            let _ = timeout(self.leaderless_after(), handing_over).await;
        }
    }

    /// Whether the log waits too long for its disk.
    pub(crate) fn log_stands_still(&self) -> bool {
        self.node.log_stands_still()
    }

    /// Hands all regions that this store leads over to others, and waits a little for that.
    pub(crate) async fn hand_over(&self) {
        let proposers = self.proposers();
        let mut states = self.node.states();
        let leads = |states: &BTreeMap<u64, GroupState>, (id, proposer): &(u64, Arc<Proposer>)| {
            let leadership = proposer.leadership();
            leadership.term_led(states.get(id)).is_some() && leadership.has_other_voters()
        };
        let handed_over = timeout(HAND_OVER_TIMEOUT, async {
            let handing_over = proposers.iter().map(|led| {
                let states = states.clone();
                async move {
                    // The next leader may not be heard of yet, or not be up yet.
                    loop {
                        let still_leads = leads(&states.borrow(), led);
                        if !still_leads || self.hand_over_one(led.0).await.is_some() {
                            break;
                        }
                        sleep(HAND_OVER_INTERVAL).await;
                    }
                }
            });
            join_all(handing_over).await;
            // It fails when all groups have ended.
            let _ = states
                .wait_for(|states| !proposers.iter().any(|led| leads(states, led)))
                .await;
        });
        if handed_over.await.is_err() {
            tracing::warn!(
                "regions were not handed over; others lead them after an election timeout"
            );
        }
    }

    /// Ends at once all regions that this store shares with others. For a store that must not run: it may have forgotten its
    /// promises to them.
    pub(crate) async fn leave(&self) {
        let groups: Vec<_> = {
            let replicas = self.replicas();
            let shared = replicas.open.values();
            let shared = shared.filter(|replica| replica.description.has_others(replica.peer_id));
            shared.map(|replica| replica.group.clone()).collect()
        };
        let ending = join_all(groups.iter().map(|group| group.shut_down()));
        // One whose vote waits for a disk that hangs takes nothing up before that.
        if timeout(HAND_OVER_TIMEOUT, ending).await.is_err() {
            tracing::warn!(
                "regions that have not ended in time are left to the end of the process"
            );
        }
    }

    /// Hands one region over, if this store leads it. Returns the next leader. `None`: no peer that could lead answers, or the group
    /// has ended.
    async fn hand_over_one(&self, region_id: u64) -> Option<u64> {
        told(region_id, self.node.group(region_id)?.hand_over().await)
    }

    /// The same, if the others need no vote of this store.
    async fn hand_over_without_vote(&self, region_id: u64) -> Option<u64> {
        let group = self.node.group(region_id)?;
        told(region_id, group.hand_over_without_vote().await)
    }

    fn group_ids(&self) -> Vec<u64> {
        self.node.states().borrow().keys().copied().collect()
    }
}

fn told(region_id: u64, handed_over: Result<Option<u64>, TransferError>) -> Option<u64> {
    match handed_over {
        Ok(Some(peer_id)) => {
            tracing::info!(region_id, peer_id, "handing over");
            Some(peer_id)
        }
        Ok(None) => None,
        Err(error) => {
            tracing::debug!(region_id, %error, "not handed over");
            None
        }
    }
}
