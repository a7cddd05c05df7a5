//! Snapshots on their way between stores.
//!
//! Each has its own connection, which ends with it, so that appends and votes never wait for it.
//!
//! - A store sends and receives few at a time. A snapshot is taken only after the receiving store has accepted it, which needs a place
//!   and disk space. One that is not accepted, or is given up on its way, is tried again with a growing delay.
//! - The total rate at which a store sends snapshots is bounded.
//! - A snapshot that makes no progress for [`PATIENCE`] is given up, at both ends. While the peer installs it, it says so, for some
//!   minutes at most.
//! - The membership in a snapshot names the peer as that of its store. Both ends refuse any other snapshot: a leader that has not yet
//!   applied the membership that added the peer asks nobody, and tries again.
//! - The state machine is read as the connection takes its chunks. Each end has a few chunks of a snapshot in memory.
//! - It ends with the leadership, and with the group at either end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdb_proto::figures::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::types::StoredMembership;

/// Whether a snapshot with this membership is for a peer on a store: the peer is the only member on that store. After any other snapshot
/// the store's next start would not know which peer it has, or would mistake another one, with other promises, for it.
pub(super) fn is_for(membership: &StoredMembership, peer_id: u64, store_id: u64) -> bool {
    let nodes = membership.nodes();
    let on_store = nodes.filter(|(_, node)| node.store_id == store_id);
    on_store.map(|(id, _)| *id).eq([peer_id])
}

/// How long nothing may move.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How often a peer that receives a snapshot says that it still does.
pub(super) const REPLY_INTERVAL: Duration = Duration::from_secs(1);

/// Snapshots that a store sends at a time.
const SENT_MAX: usize = 2;

/// Most that a store sends of all snapshots, in bytes per second.
const BYTES_PER_SECOND: u64 = 64 << 20;

/// What all snapshots that a store sends have in common.
pub(super) struct Sending {
    places: Arc<Semaphore>,
    /// When the next chunk may be sent.
    next: Mutex<Option<Instant>>,
    /// Those that were sent and installed.
    pub(super) sent: Counter,
}

impl Default for Sending {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(SENT_MAX)),
            next: Mutex::default(),
            sent: Counter::default(),
        }
    }
}

impl Sending {
    /// Waits for a place to send a snapshot from.
    pub(super) async fn place(&self) -> OwnedSemaphorePermit {
        let place = Arc::clone(&self.places).acquire_owned().await;
        place.expect("nobody closes it")
    }

    /// Waits until `bytes` more may be sent.
    pub(super) async fn pace(&self, bytes: usize) {
        let takes = Duration::from_secs(1) * bytes as u32 / BYTES_PER_SECOND as u32;
        let due = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let due = next.map_or(now, |next| next.max(now));
            *next = Some(due + takes);
            due
        };
        sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures::FutureExt;

    use super::*;
    use crate::types::{Membership, StoreNode};

    #[test]
    fn a_snapshot_is_for_a_peer_only_as_of_when_its_store_had_it_and_no_other_one() {
        let as_of = |peers: &[(u64, u64)]| {
            let nodes = peers
                .iter()
                .map(|&(id, store_id)| (id, StoreNode { store_id }));
            let nodes: BTreeMap<_, _> = nodes.collect();
            let membership = Membership::new(vec![[1].into()], nodes).unwrap();
            StoredMembership::new(None, membership)
        };
        assert!(is_for(&as_of(&[(1, 10), (5, 50)]), 5, 50));
        for other in [
            &[(1, 10)][..],
            &[(1, 10), (4, 50)],
            &[(1, 10), (4, 50), (5, 50)],
            &[(1, 10), (5, 40)],
        ] {
            assert!(!is_for(&as_of(other), 5, 50), "{other:?}");
        }
    }

    #[tokio::test]
    async fn what_is_sent_together_keeps_to_the_rate() {
        let sending = Sending::default();
        let began = Instant::now();
        // The last one may go once those before it have had their time.
        for _ in 0..5 {
            sending.pace(4 << 20).await;
        }
        assert!(began.elapsed() >= Duration::from_millis(250));
    }

    #[tokio::test]
    async fn few_are_sent_at_a_time() {
        let sending = Sending::default();
        let free = || sending.place().now_or_never();
        let places: Vec<_> = std::iter::from_fn(free).collect();
        assert_eq!(places.len(), SENT_MAX);
        drop(places);
        assert!(free().is_some());
    }
}
