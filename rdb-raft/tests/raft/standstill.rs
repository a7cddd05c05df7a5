//! A log that stands still: its device neither finishes a write nor fails it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use rdb_raft::Timing;
use rdb_raft::group::{ProposeError, ReadError, TransferError};
use rdb_raft::log::{LogDevice, MemoryDevice};
use tokio::time::{sleep, timeout};

use crate::device::TestDevice;
use crate::payloads::Payloads;
use crate::stores::{Store, Stores, Ways};
use crate::voters::{GUARD, wait_until};

/// Opens the device again, also when a test fails: the thread of the log would never end.
pub(crate) struct Standstill(Arc<TestDevice>);

impl Standstill {
    pub(crate) fn of(device: &Arc<TestDevice>) -> Self {
        device.writes.close();
        Self(Arc::clone(device))
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        self.0.writes.open();
    }
}

/// No lease is over while the test runs, and an answer is waited for only briefly.
const LONG_LEASE: Timing = Timing {
    heartbeat_ms: 200,
    election_timeout_min_ms: 2000,
    election_timeout_max_ms: 600_000,
};

/// Three stores. The first one leads, and its log is on this device.
async fn led_on(device: &Arc<TestDevice>) -> Stores {
    let ways = Ways::of_stores_with(LONG_LEASE).await;
    let devices = <[Arc<MemoryDevice>; 3]>::default();
    let mut stores = Vec::new();
    for (id, memory) in (1..).zip(&devices) {
        let device: Arc<dyn LogDevice> = match id {
            1 => Arc::clone(device) as _,
            _ => Arc::clone(memory) as _,
        };
        let payloads = Payloads::bootstrapped([1, 2, 3]);
        stores.push(Store::start(id, &ways, device, payloads).await);
    }
    stores[0].lead().await;
    Stores {
        ways,
        stores,
        devices,
    }
}

#[tokio::test]
async fn a_leader_whose_log_stands_still_takes_proposals_only_up_to_a_bound() {
    let device = Arc::<TestDevice>::default();
    let stores = led_on(&device).await;
    let leader = &stores.stores[0];
    let standstill = Standstill::of(&device);
    let mut written = 0;
    let refused = loop {
        // The others have it, and they are a quorum.
        match leader.write(vec![0; 1 << 20]).await {
            Ok(()) => written += 1,
            Err(refused) => break refused,
        }
        assert!(written < 100, "nothing is refused");
    };
    assert_eq!(refused, ProposeError::Busy);
    assert!(written > 1, "it went on without its log");
    drop(standstill);
    let goes_on = async {
        while leader.write("later").await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(GUARD, goes_on).await.expect("it goes on in time");
    stores.stop().await;
}

#[tokio::test]
async fn a_leader_whose_log_stands_still_hands_over_and_leaves_no_calls_waiting() {
    let device = Arc::<TestDevice>::default();
    let stores = led_on(&device).await;
    let leader = &stores.stores[0];
    wait_until("all live", || leader.group.live_peers() == [1, 2, 3].into()).await;
    let standstill = Standstill::of(&device);
    leader.write("a").await.expect("the others have it");
    // What was to be written before is written.
    device.writes.wait_for_arrival();
    let unwritten_bytes = || leader.node.log_figures().unwritten_bytes.load(Relaxed);
    let of_the_write = unwritten_bytes();
    let group = leader.group.clone();
    let handing_over = tokio::spawn(async move {
        // On a busy machine nobody may answer in time.
        while group.hand_over_without_vote().await?.is_none() {
            sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, TransferError>(())
    });
    let successor = stores.leader(Some(leader.id)).await;
    successor.write("b").await.expect("a quorum has it");
    // From then on the group of the first one does nothing else. It has nothing else to write: it takes no proposals.
    wait_until("the vote for the successor waits for the log", || {
        unwritten_bytes() > of_the_write
    })
    .await;
    let refused = leader.write("c").await.unwrap_err();
    assert!(
        matches!(refused, ProposeError::NotQueued { .. }),
        "{refused}"
    );
    let permitted = timeout(GUARD, leader.group.permit_read()).await;
    let refused = permitted.expect("answered in time").unwrap_err();
    assert_eq!(refused, ReadError::NoQuorum);
    drop(standstill);
    let handed_over = timeout(GUARD, handing_over).await;
    handed_over
        .expect("it ends in time")
        .unwrap()
        .expect("it led");
    leader.has_applied(&["a", "b"].map(Bytes::from)).await;
    stores.stop().await;
}
