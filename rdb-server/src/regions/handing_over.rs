//! Regions that others are to lead: since this store ends, or since it cannot write.

use std::time::Duration;

use futures::future::join_all;
use rdb_raft::log::LogHealth;
use rdb_storage::WriteHealth;
use tokio::time::{sleep, timeout};

use super::Regions;

/// How often regions are looked at for what keeps them from writing.
const KEEP_INTERVAL: Duration = Duration::from_millis(500);

/// How long a drain waits for others to take over what this store leads.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

impl Regions {
    /// Refuses writes that wait for a quorum that is gone, and hands over what this store leads and cannot write.
    pub(crate) async fn keep(&self) {
        let (write_health, log_health) = (self.storage.write_health(), self.node.log_health());
        loop {
            sleep(KEEP_INTERVAL).await;
            for (_, proposer) in self.proposers() {
                proposer.refuse_stalled();
            }
            let cannot_write = match (&*log_health.borrow(), &*write_health.borrow()) {
                (LogHealth::Stopped { .. }, _) | (_, WriteHealth::Stopped { .. }) => {
                    self.group_ids()
                }
                (_, WriteHealth::RegionsStopped { causes }) => causes.keys().copied().collect(),
                (_, WriteHealth::Healthy) => Vec::new(),
            };
            self.hand_over_these(cannot_write).await;
        }
    }

    /// Lets other stores lead what this one leads, and gives them a little time for it.
    pub(crate) async fn hand_over(&self) {
        let handed_over = timeout(HAND_OVER_TIMEOUT, async {
            self.hand_over_these(self.group_ids()).await;
            let proposers = self.proposers();
            let mut states = self.node.states();
            // It fails when all groups have ended.
            let _ = states
                .wait_for(|states| {
                    !proposers.iter().any(|(id, proposer)| {
                        let leadership = proposer.leadership();
                        let leads = leadership.term_led(states.get(id)).is_some();
                        leads && leadership.has_other_voters()
                    })
                })
                .await;
        });
        if handed_over.await.is_err() {
            tracing::warn!(
                "regions were not handed over; others lead them after an election timeout"
            );
        }
    }

    /// Ends at once what this store holds together with others. For a store that must not be here: it may have forgotten what it
    /// has promised to them.
    pub(crate) async fn leave(&self) {
        let groups: Vec<_> = {
            let replicas = self.replicas();
            let shared = replicas.open.values();
            let shared = shared.filter(|replica| replica.description.has_others(replica.peer_id));
            shared.map(|replica| replica.group.clone()).collect()
        };
        join_all(groups.iter().map(|group| group.shut_down())).await;
    }

    async fn hand_over_these(&self, group_ids: Vec<u64>) {
        let handing_over = group_ids.into_iter().filter_map(|region_id| {
            let group = self.node.group(region_id)?;
            Some(async move {
                match group.hand_over().await {
                    Ok(Some(peer_id)) => tracing::info!(region_id, peer_id, "handing over"),
                    Ok(None) => {}
                    Err(error) => tracing::debug!(region_id, %error, "not handed over"),
                }
            })
        });
        join_all(handing_over).await;
    }

    fn group_ids(&self) -> Vec<u64> {
        self.node.states().borrow().keys().copied().collect()
    }
}
