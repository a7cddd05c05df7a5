//! Replicas that come and go while stores are lost, and leaders that hand over.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use rdb_client::{Client, RegionRoute, Store};
use tokio::time::sleep;

use crate::harness::{HANG_GUARD, found};
use crate::run::Run;
use crate::stores::{STORES, Setup, Stores};

/// How long a leader lives on while members change.
const CHANGES_MS_MAX: u64 = 2000;

pub(crate) async fn client(run: &Run) -> Client {
    let connected = Client::connect([run.stores.pd.address()]).await;
    let client = connected.expect("the placement driver serves");
    client.with_timeout(HANG_GUARD)
}

/// The store at an address that was registered last.
pub(crate) async fn store_at(client: &Client, address: &str) -> Option<Store> {
    let stores = client.stores().await.expect("it answers");
    let here = stores.into_iter().filter(|store| store.address == address);
    here.max_by_key(|store| store.id)
}

/// The only region.
pub(crate) async fn region(client: &Client) -> RegionRoute {
    let route = client.region("").await.expect("it answers");
    route.expect("there is a region")
}

/// The stores of its voters, if they are as many as there are to be, and there is no other member.
pub(crate) fn voters_of_whole(route: &RegionRoute) -> Option<BTreeSet<u64>> {
    let peers = route.region.peers.iter();
    let voters = peers.map(|peer| (!peer.is_learner).then_some(peer.store_id));
    let voters = voters.collect::<Option<BTreeSet<_>>>()?;
    (voters.len() == STORES).then_some(voters)
}

/// Waits until the region is whole. Returns the stores of its voters.
pub(crate) async fn is_whole(client: &Client) -> BTreeSet<u64> {
    let whole = async || voters_of_whole(&region(client).await);
    found("the region is whole", whole).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_lose_their_disks() {
    let name = "followers_lose_their_disks";
    let Some(mut run) = Run::begin(name, Setup::default()).await else {
        return;
    };
    let client = client(&run).await;
    for _ in 0..Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        let [follower, _] = Stores::others(leader.store);
        let follower = &mut run.stores.nodes[follower];
        let address = follower.address();
        let lost = store_at(&client, &address).await.expect("it is known");
        follower.kill();
        fs::remove_dir_all(follower.data_dir()).expect("it is there");
        // The address is that of the lost store until that has been silent for a while.
        let is_another = async || {
            if follower.has_ended() {
                follower.start();
            }
            let known = store_at(&client, &address).await?;
            (known.id > lost.id).then_some(known.id)
        };
        let new = found("the store registers as another", is_another).await;
        client.remove_store(lost.id).await.expect("it may leave");
        let replaced = async || {
            let stores = is_whole(&client).await;
            (stores.contains(&new) && !stores.contains(&lost.id)).then_some(())
        };
        found("the lost replica is replaced", replaced).await;
        run.load.goes_on().await;
    }
    run.end().await;
}

/// A replica goes, and comes back as another peer, since there is no other store for it. The leader is killed on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_killed_while_members_change() {
    let setup = Setup {
        loses_majority: true,
        ..Setup::default()
    };
    let name = "leaders_are_killed_while_members_change";
    let Some(mut run) = Run::begin(name, setup).await else {
        return;
    };
    let client = client(&run).await;
    while run.leaders_hit() < 3 * Run::rounds() {
        run.dwell().await;
        is_whole(&client).await;
        let before = region(&client).await.region;
        let leader = run.stores.leader().await;
        let [follower, _] = Stores::others(leader.store);
        let address = run.stores.nodes[follower].address();
        let known = store_at(&client, &address).await.expect("it is known");
        // The operator of the round before may not know yet that it is done.
        let taken = async || client.remove_peer(before.id, known.id).await.ok();
        found("the placement driver takes the operator", taken).await;
        // It tells the leader with the next heartbeat.
        let changes = async || {
            let now = region(&client).await.region;
            (now.epoch.conf_version > before.epoch.conf_version).then_some(())
        };
        found("the members change", changes).await;
        sleep(Duration::from_millis(run.random.u64(0..CHANGES_MS_MAX))).await;
        let leader = run.stores.leader().await;
        let is_changing = voters_of_whole(&region(&client).await).is_none();
        run.stores.nodes[leader.store].kill();
        if is_changing {
            run.note_hit(leader);
        }
        // Until the replica is back, the others are no majority without it.
        run.stores.nodes[leader.store].start();
        run.load.goes_on().await;
        run.stores.all_serve().await;
    }
    is_whole(&client).await;
    // Out, in as a learner, and promoted.
    let changes = region(&client).await.region.epoch.conf_version;
    assert!(changes > 3 * run.leaders_hit(), "{changes} changes");
    run.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_hand_over() {
    let Some(mut run) = Run::begin("leaders_hand_over", Setup::default()).await else {
        return;
    };
    let client = client(&run).await;
    let mut handed_over = 0;
    while handed_over < 4 * Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        let others = Stores::others(leader.store);
        let other = others[run.random.usize(0..others.len())];
        let address = run.stores.nodes[other].address();
        let to = store_at(&client, &address).await.expect("it is known");
        // It is refused while the leader has not heard of that store for a while.
        let leads = async || {
            let route = region(&client).await;
            client.transfer_leader(&route, to.id).await.ok()
        };
        let term = found("it leads", leads).await;
        assert!(term >= leader.term, "term {term} after {leader:?}");
        let next = run.stores.another_leads(leader).await;
        handed_over += u64::from(next.store == other);
        run.load.goes_on().await;
    }
    run.end().await;
}
