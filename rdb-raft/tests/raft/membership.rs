//! Peers that come to a group and leave it.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use openraft::storage::RaftLogStorage;
use openraft::{LogState, RaftLogReader};
use rdb_raft::MissingPeer;
use rdb_raft::group::{ChangeError, Member};
use rdb_raft::log::{LogWriter, MemoryDevice};
use rdb_raft::machine::StateMachine;
use rdb_raft::transport::Transport;
use tokio::time::timeout;

use crate::payloads::Payloads;
use crate::snapshots::LONG;
use crate::stores::{GROUP_ID, Store, Stores, Ways, first_start, identity};
use crate::voters::{GUARD, wait_until};

fn applied(store: &Store) -> Vec<Bytes> {
    store.payloads.payloads()
}

fn voters(store: &Store) -> Vec<u64> {
    let members = store.group.members().into_iter();
    let voters = members.filter(|member| member.is_voter);
    voters.map(|voter| voter.peer_id).collect()
}

/// Promotes a peer, once it has caught up.
async fn promote(leader: &Store, peer_id: u64) {
    let promoted = timeout(GUARD, async {
        loop {
            match leader.group.promote(peer_id).await {
                Ok(()) => return,
                Err(ChangeError::NotCaughtUp { .. } | ChangeError::NotReady { .. }) => {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
    promoted.await.expect("it is promoted in time");
}

#[tokio::test]
async fn a_peer_on_a_store_that_lost_its_disk_takes_the_place_of_the_one_that_was_there() {
    let mut stores = Stores::led_with(LONG).await;
    stores.stores[0].write("before").await.unwrap();
    let lost = stores.stores.pop().unwrap();
    lost.has_applied_some(1).await;
    lost.stop().await;

    let empty = Store::start_empty(3, 4, &stores.ways).await;
    let leader = &stores.stores[0];
    leader.write("meanwhile").await.unwrap();
    leader.group.remove(3).await.unwrap();
    assert_eq!(voters(leader), [1, 2]);
    leader.group.add_learner(4, 3).await.unwrap();
    assert_eq!(voters(leader), [1, 2]);
    empty.has_applied(&applied(leader)).await;
    // Nobody has the log from its beginning.
    assert_eq!(empty.payloads.state().installs, 1);
    promote(leader, 4).await;
    assert_eq!(voters(leader), [1, 2, 4]);
    leader.write("after").await.unwrap();
    empty.has_applied(&applied(leader)).await;
    wait_until("it knows of all", || voters(&empty) == [1, 2, 4]).await;

    // Its vote counts, and it can lead.
    for way in stores.ways.of(2) {
        way.cut();
    }
    leader.write("with two of three").await.unwrap();
    leader.group.transfer_leader(4).await.unwrap();
    wait_until("it leads", || empty.leads()).await;
    empty.group.permit_read().await.unwrap();
    empty.write("by the new one").await.unwrap();
    leader.has_applied(&applied(&empty)).await;
    empty.stop().await;
    stores.stop().await;
}

#[tokio::test]
async fn changes_that_would_harm_the_group_are_refused() {
    let stores = Stores::led_with(LONG).await;
    let [leader, follower, _] = &stores.stores[..] else {
        panic!("there are three");
    };
    let group = &leader.group;
    let member = |peer_id, store_id| Err(ChangeError::IsMember { peer_id, store_id });
    assert_eq!(group.add_learner(2, 9).await, member(2, 2));
    assert_eq!(group.add_learner(9, 2).await, member(2, 2));
    assert_eq!(group.remove(1).await, Err(ChangeError::Leads));
    let stranger = Err(ChangeError::NotMember { peer_id: 9 });
    assert_eq!(group.remove(9).await, stranger);
    assert_eq!(group.promote(9).await, stranger);
    let of_follower = follower.group.add_learner(9, 9).await;
    assert_eq!(of_follower, Err(ChangeError::NotLeader));
    assert_eq!(follower.group.promote(1).await, Err(ChangeError::NotLeader));

    // Nothing is known of it but its name.
    group.add_learner(9, 9).await.unwrap();
    let writes = (0..1100).map(|number| leader.write(vec![number as u8]));
    for written in join_all(writes).await {
        written.unwrap();
    }
    let behind = group.promote(9).await;
    assert!(
        matches!(behind, Err(ChangeError::NotCaughtUp { peer_id: 9, .. })),
        "{behind:?}"
    );
    group.remove(9).await.unwrap();
    let expected = [1, 2, 3].map(|id| Member {
        peer_id: id,
        store_id: id,
        is_voter: true,
    });
    assert_eq!(group.members(), expected);
    stores.stop().await;
}

#[tokio::test]
async fn a_group_grows_from_one_voter_to_three_while_it_is_written() {
    let ways = Ways::of_stores_with(LONG).await;
    let alone = Payloads::bootstrapped([1]);
    let first = Store::start(1, &ways, Arc::<MemoryDevice>::default(), alone).await;
    first.group.lead_alone().await.unwrap();
    first.write("alone").await.unwrap();
    let others = [
        Store::start_empty(2, 2, &ways).await,
        Store::start_empty(3, 3, &ways).await,
    ];
    let growing = async {
        for other in &others {
            first.group.add_learner(other.id, other.id).await.unwrap();
            promote(&first, other.id).await;
        }
    };
    let writing = async {
        for number in 0..200 {
            first.write(format!("write {number}")).await.unwrap();
        }
    };
    tokio::join!(growing, writing);
    for other in &others {
        other.has_applied(&applied(&first)).await;
    }
    assert_eq!(voters(&first), [1, 2, 3]);
    let [second, third] = others;
    for store in [second, third, first] {
        store.stop().await;
    }
}

#[tokio::test]
async fn a_peer_that_was_removed_is_destroyed_and_its_group_can_be_opened_with_another_one() {
    let stores = Stores::led_with(LONG).await;
    let [leader, _, removed] = &stores.stores[..] else {
        panic!("there are three");
    };
    leader.write("before").await.unwrap();
    removed.has_applied_some(1).await;
    leader.group.remove(3).await.unwrap();
    let node = &removed.node;
    let mut missing = node.missing_peers();
    node.destroy(GROUP_ID).await.unwrap();
    node.destroy(GROUP_ID).await.unwrap();
    assert!(node.group(GROUP_ID).is_none());
    let device = Arc::new(stores.devices[2].after_power_cut(0));
    let writer = LogWriter::start(device).unwrap();
    let mut log = writer.open_group(GROUP_ID).unwrap();
    assert_eq!(log.get_log_state().await.unwrap(), LogState::default());
    assert_eq!(log.reader().read_vote().await.unwrap(), None);

    leader.group.add_learner(4, 3).await.unwrap();
    let asked = timeout(GUARD, missing.recv()).await;
    let asked = asked.expect("another store asks for it in time").unwrap();
    let expected = MissingPeer {
        group_id: GROUP_ID,
        peer_id: 4,
    };
    assert_eq!(asked, expected);
    let transport = Transport::new(identity(3), LONG, stores.ways.addresses(3), first_start());
    let (machine, network) = (Arc::<Payloads>::default(), transport.network(GROUP_ID, 4));
    let opened = node.open(
        GROUP_ID,
        4,
        Arc::clone(&machine) as Arc<dyn StateMachine>,
        network,
    );
    opened.await.unwrap();
    wait_until("it has all", || machine.payloads() == applied(leader)).await;
    promote(leader, 4).await;
    stores.stop().await;
}
