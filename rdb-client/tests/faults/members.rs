//! Replicas that come and go while stores are lost.

use std::collections::BTreeSet;
use std::fs;

use rdb_client::{Client, Error, Store};

use crate::harness::{HANG_GUARD, found};
use crate::run::Run;
use crate::stores::{STORES, Setup, Stores};

async fn client(run: &Run) -> Client {
    let connected = Client::connect([run.stores.pd.address()]).await;
    let client = connected.expect("the placement driver serves");
    client.with_timeout(HANG_GUARD)
}

/// The store at an address that was registered last.
async fn store_at(client: &Client, address: &str) -> Option<Store> {
    let stores = client.stores().await.expect("it answers");
    let here = stores.into_iter().filter(|store| store.address == address);
    here.max_by_key(|store| store.id)
}

/// Waits until the region has as many voters as there are stores, and no other member. Returns their stores.
async fn is_whole(client: &Client) -> BTreeSet<u64> {
    let whole = async || {
        let route = client.region("").await.expect("it answers")?;
        let peers = route.region.peers.iter();
        let voters = peers.map(|peer| (!peer.is_learner).then_some(peer.store_id));
        let voters = voters.collect::<Option<BTreeSet<_>>>()?;
        (voters.len() == STORES).then_some(voters)
    };
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_killed_while_members_change() {
    let name = "leaders_are_killed_while_members_change";
    let Some(mut run) = Run::begin(name, Setup::default()).await else {
        return;
    };
    let client = client(&run).await;
    while run.leaders_hit() < 3 * Run::rounds() {
        run.dwell().await;
        is_whole(&client).await;
        let leader = run.stores.leader().await;
        let [follower, _] = Stores::others(leader.store);
        let address = run.stores.nodes[follower].address();
        let known = store_at(&client, &address).await.expect("it is known");
        let route = client.region("").await.expect("it answers");
        let region_id = route.expect("there is a region").region.id;
        // It goes, and comes back as another peer, since there is no other store for it.
        match client.remove_peer(region_id, known.id).await {
            // That of the round before may not know yet that it is done.
            Ok(_) | Err(Error::Refused { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        run.load.goes_on().await;
        run.stores.nodes[leader.store].kill();
        run.note_hit(leader);
        // Until the replica is back, the others are no majority without it.
        run.stores.nodes[leader.store].start();
        run.load.goes_on().await;
        run.stores.all_serve().await;
    }
    // Each change adds three to it at least: out by way of a joint membership, in as a learner.
    let have_changed = async || {
        is_whole(&client).await;
        let route = client.region("").await.expect("it answers")?;
        (route.region.epoch.conf_version > 3).then_some(())
    };
    found("the members have changed", have_changed).await;
    run.end().await;
}
