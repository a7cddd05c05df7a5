//! Peers that come to a group and leave it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use openraft::network::RPCOption;
use openraft::raft::VoteRequest;
use openraft::storage::RaftLogStorage;
use openraft::{LogState, RaftLogReader, RaftNetworkFactory, RaftNetworkV2};
use rdb_raft::group::{ChangeError, GroupState, Member};
use rdb_raft::log::{LogWriter, MemoryDevice};
use rdb_raft::machine::StateMachine;
use rdb_raft::transport::Transport;
use rdb_raft::{MissingPeer, StoreNode, Vote};
use tokio::time::timeout;

use crate::device::TestDevice;
use crate::payloads::Payloads;
use crate::snapshots::LONG;
use crate::stores::{GROUP_ID, Store, Stores, Ways, first_start, identity};
use crate::told::Told;
use crate::voters::{GUARD, campaign, wait_until};

fn applied(store: &Store) -> Vec<Bytes> {
    store.payloads.payloads()
}

fn voters(store: &Store) -> Vec<u64> {
    let members = store.group.members().into_iter();
    let voters = members.filter(|member| member.is_voter);
    voters.map(|voter| voter.peer_id).collect()
}

async fn add_learner(leader: &Store, peer_id: u64, store_id: u64) {
    let group = &leader.group;
    let under = group.membership();
    let added = group.add_learner(peer_id, store_id, &under).await;
    added.unwrap();
}

async fn remove(leader: &Store, peer_id: u64) {
    let group = &leader.group;
    let under = group.membership();
    group.remove(peer_id, &under).await.unwrap();
}

/// Promotes a peer, once it has caught up.
async fn promote(leader: &Store, peer_id: u64) {
    let promoted = timeout(GUARD, async {
        loop {
            match leader
                .group
                .promote(peer_id, &leader.group.membership())
                .await
            {
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
    remove(leader, 3).await;
    assert_eq!(voters(leader), [1, 2]);
    add_learner(leader, 4, 3).await;
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

/// Its next start would not know which peer it has.
#[tokio::test]
async fn a_new_peer_gets_no_snapshot_as_of_before_it_was_added_and_none_is_taken() {
    let told = Told::listen();
    let mut stores = Stores::led_with(LONG).await;
    let lost = stores.stores.pop().unwrap();
    lost.stop().await;
    let empty = Store::start_empty(3, 4, &stores.ways).await;
    let leader = &stores.stores[0];
    remove(leader, 3).await;
    // It is a member for the leader, and cannot be added for good.
    stores.ways.of(2).for_each(|way| way.cut());
    let adding = add_learner(leader, 4, 3);
    let tried = async {
        told.wait_for("what has added the peer is not applied yet")
            .await;
        assert_eq!(leader.payloads.state().snapshots, 0);
        assert!(!is_installed(&empty));
        stores.ways.of(2).for_each(|way| way.heal());
    };
    tokio::join!(adding, tried);
    wait_until("it has a state", || is_installed(&empty)).await;
    leader.write("after").await.unwrap();
    empty.has_applied(&applied(leader)).await;
    empty.stop().await;
    stores.stop().await;
}

fn is_installed(store: &Store) -> bool {
    store.payloads.state().installs > 0
}

#[tokio::test]
async fn changes_that_would_harm_the_group_are_refused() {
    let stores = Stores::led_with(LONG).await;
    let [leader, follower, _] = &stores.stores[..] else {
        panic!("there are three");
    };
    let group = &leader.group;
    let member = |peer_id, store_id| Err(ChangeError::IsMember { peer_id, store_id });
    let under = &group.membership();
    assert_eq!(group.add_learner(2, 9, under).await, member(2, 2));
    assert_eq!(group.add_learner(9, 2, under).await, member(2, 2));
    assert_eq!(group.remove(1, under).await, Err(ChangeError::Leads));
    let stranger = Err(ChangeError::NotMember { peer_id: 9 });
    assert_eq!(group.remove(9, under).await, stranger);
    assert_eq!(group.promote(9, under).await, stranger);
    let of_follower = follower.group.add_learner(9, 9, under).await;
    assert_eq!(of_follower, Err(ChangeError::NotLeader));
    let of_follower = follower.group.promote(1, under).await;
    assert_eq!(of_follower, Err(ChangeError::NotLeader));

    // Nothing is known of it but its name.
    add_learner(leader, 9, 9).await;
    // It was decided for the members before.
    for outdated in [
        group.add_learner(8, 8, under).await,
        group.remove(2, under).await,
        group.check_membership(under),
    ] {
        assert!(
            matches!(outdated, Err(ChangeError::NotReady { .. })),
            "{outdated:?}"
        );
    }
    let under = group.membership();
    group.check_membership(&under).unwrap();
    let has_nothing = group.promote(9, &under).await;
    assert!(
        matches!(
            has_nothing,
            Err(ChangeError::NotCaughtUp { peer_id: 9, .. })
        ),
        "{has_nothing:?}"
    );
    let writes = (0..1100).map(|number| leader.write(vec![number as u8]));
    for written in join_all(writes).await {
        written.unwrap();
    }
    let behind = group.promote(9, &group.membership()).await;
    assert!(
        matches!(behind, Err(ChangeError::NotCaughtUp { peer_id: 9, .. })),
        "{behind:?}"
    );
    remove(leader, 9).await;
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
            add_learner(&first, other.id, other.id).await;
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
    remove(leader, 3).await;
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

    add_learner(leader, 4, 3).await;
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

/// Peers 4 and 5 have taken the places of 1 and 2 when peer 3 comes back, and one of them is down.
#[tokio::test]
async fn a_peer_that_was_away_while_all_others_were_replaced_votes_for_one_that_it_does_not_know() {
    let mut stores = Stores::led_with(LONG).await;
    stores.stores[0].write("before").await.unwrap();
    stores.stores[2].has_applied_some(1).await;
    stores.ways.of(3).for_each(|way| way.cut());
    let away = stores.stores.pop().unwrap();
    let (second, first) = (stores.stores.pop().unwrap(), stores.stores.pop().unwrap());

    let fourth = Store::start_empty(4, 4, &stores.ways).await;
    add_learner(&first, 4, 4).await;
    promote(&first, 4).await;
    remove(&first, 2).await;
    second.stop().await;
    first.group.transfer_leader(4).await.unwrap();
    wait_until("it leads", || fourth.leads()).await;
    fourth.group.permit_read().await.unwrap();
    let fifth = Store::start_empty(2, 5, &stores.ways).await;
    add_learner(&fourth, 5, 2).await;
    promote(&fourth, 5).await;
    remove(&fourth, 1).await;
    fourth.write("meanwhile").await.unwrap();
    fifth.has_applied(&applied(&fourth)).await;
    wait_until("it knows of all", || voters(&fifth) == [3, 4, 5]).await;
    first.stop().await;
    fourth.stop().await;

    assert_eq!(voters(&away), [1, 2, 3]);
    stores.ways.of(3).for_each(|way| way.heal());
    fifth.lead().await;
    fifth.write("after").await.unwrap();
    away.has_applied(&applied(&fifth)).await;
    assert_eq!(voters(&away), [3, 4, 5]);
    for store in [fifth, away] {
        store.stop().await;
    }
}

#[tokio::test]
async fn a_removed_peer_that_campaigns_is_heard_and_changes_nothing() {
    let stores = Stores::led_with(LONG).await;
    let [leader, follower, removed] = &stores.stores[..] else {
        panic!("there are three");
    };
    remove(leader, 3).await;
    follower.has_applied(&applied(leader)).await;
    wait_until("it knows of all", || voters(follower) == [1, 2]).await;
    let led = leader.group.leader();
    let addresses = stores.ways.addresses(3);
    let transport = Transport::new(identity(3), LONG, addresses, Arc::clone(&removed.starts));
    let mut network = transport.network(GROUP_ID, 3);
    for store_id in [1, 2] {
        let mut client = network.new_client(store_id, &StoreNode { store_id }).await;
        // As if its log were the longest.
        let last_log_id = Some(crate::entries::log_id(led.term, 1_000));
        let request = VoteRequest {
            vote: Vote::new(led.term + 1, 3),
            last_log_id,
            leadership_transfer: false,
        };
        let pre_vote = client.pre_vote(request.clone(), RPCOption::new(GUARD));
        assert!(!pre_vote.await.unwrap().vote_granted);
        let vote = client.vote(request, RPCOption::new(GUARD)).await;
        assert!(!vote.unwrap().vote_granted);
    }
    leader.write("after").await.unwrap();
    assert_eq!(leader.group.leader(), led);
    stores.stop().await;
}

#[tokio::test]
async fn a_leader_finishes_the_change_that_an_earlier_one_has_left() {
    let joint = || Payloads::joint([&[1, 2, 3], &[1, 2]]);
    let ways = Ways::of_stores_with(LONG).await;
    let start = |id| Store::start(id, &ways, Arc::<MemoryDevice>::default(), joint());
    let stores = join_all([start(1), start(2), start(3)]).await;
    let leader = &stores[0];
    campaign(&leader.group, 1).await;
    wait_until("the change is made", || leader.group.members().len() == 2).await;
    assert_eq!(voters(leader), [1, 2]);
    leader.write("after").await.unwrap();
    for store in stores {
        store.stop().await;
    }
}

#[tokio::test]
async fn a_leader_that_is_to_go_lets_another_one_finish_the_change() {
    let joint = || Payloads::joint([&[1, 2, 3], &[1, 2]]);
    let ways = Ways::of_stores_with(LONG).await;
    let start = |id| Store::start(id, &ways, Arc::<MemoryDevice>::default(), joint());
    let stores = join_all([start(1), start(2), start(3)]).await;
    campaign(&stores[2].group, 3).await;
    let is_made = |store: &Store| store.leads() && store.group.members().len() == 2;
    let is_made = || stores[..2].iter().any(is_made);
    wait_until("one that stays makes the change", is_made).await;
    for store in stores {
        store.stop().await;
    }
}

#[tokio::test]
async fn what_is_still_queued_of_a_group_that_is_destroyed_does_not_come_back() {
    let device = Arc::new(TestDevice::default());
    let ways = Ways::of_stores_with(LONG).await;
    let alone = Payloads::bootstrapped([1]);
    let store = Store::start(1, &ways, Arc::clone(&device) as _, alone).await;
    store.group.lead_alone().await.unwrap();
    store.write("durable").await.unwrap();
    device.writes.close();
    // The first is being written, and the second waits for that.
    let writing = async { tokio::join!(store.write("first"), store.write("second")) };
    let destroying = async {
        let gate = Arc::clone(&device);
        let arrived = tokio::task::spawn_blocking(move || gate.writes.wait_for_arrival());
        arrived.await.unwrap();
        let node = Arc::clone(&store.node);
        let destroyed = tokio::spawn(async move { node.destroy(GROUP_ID).await });
        // From here on nothing more is queued, and whoever looked at the device would miss what is.
        let mut states = store.node.states();
        let has_ended =
            |states: &BTreeMap<_, _>| matches!(states.get(&GROUP_ID), Some(GroupState::Ended(_)));
        let ended = timeout(GUARD, states.wait_for(has_ended)).await;
        drop(ended.expect("it ends in time").unwrap());
        device.writes.open();
        destroyed.await.unwrap().unwrap();
    };
    let _ = tokio::join!(writing, destroying);
    let writer = LogWriter::start(Arc::new(device.memory.after_power_cut(0))).unwrap();
    let mut log = writer.open_group(GROUP_ID).unwrap();
    assert_eq!(log.get_log_state().await.unwrap(), LogState::default());
    assert_eq!(log.reader().read_vote().await.unwrap(), None);
    store.stop().await;
}
