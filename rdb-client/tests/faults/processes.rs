//! Stores that are killed, that stand still, and that are told to end.

use tokio::time::sleep;

use crate::run::Run;
use crate::stores::{STORES, Setup, Stores};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_killed() {
    let Some(mut run) = Run::begin("leaders_are_killed", Setup::default()).await else {
        return;
    };
    while run.leaders_hit() < 2 * Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        run.stores.nodes[leader.store].kill();
        run.note_hit(leader);
        run.load.goes_on().await;
        run.stores.another_leads(leader).await;
        run.stores.nodes[leader.store].start_serving().await;
    }
    run.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_stand_still_for_longer_than_their_lease() {
    let name = "leaders_stand_still_for_longer_than_their_lease";
    let Some(mut run) = Run::begin(name, Setup::default()).await else {
        return;
    };
    while run.leaders_hit() < Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        run.stores.nodes[leader.store].pause();
        run.note_hit(leader);
        run.stores.another_leads(leader).await;
        run.load.goes_on().await;
        run.stores.nodes[leader.store].resume();
        run.load.goes_on().await;
        run.stores.all_serve().await;
    }
    run.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_are_killed_and_stand_still() {
    let name = "followers_are_killed_and_stand_still";
    let Some(mut run) = Run::begin(name, Setup::default()).await else {
        return;
    };
    for _ in 0..Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        let [one, other] = Stores::others(leader.store);
        run.stores.nodes[one].kill();
        run.load.goes_on().await;
        run.stores.nodes[one].start_serving().await;
        run.stores.nodes[other].pause();
        // When it goes on, it has long missed its leader.
        sleep(run.patience()).await;
        run.load.goes_on().await;
        run.stores.nodes[other].resume();
        run.load.goes_on().await;
        run.stores.all_serve().await;
    }
    run.end().await;
}

/// Each store hands over what it leads, and flushes its data. In the end one leads that was restarted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_are_restarted_one_after_the_other() {
    let name = "stores_are_restarted_one_after_the_other";
    let Some(mut run) = Run::begin(name, Setup::default()).await else {
        return;
    };
    for _ in 0..Run::rounds() {
        for store in 0..STORES {
            run.dwell().await;
            run.stores.nodes[store].terminate();
            assert!(run.stores.nodes[store].exited().await.success());
            run.load.goes_on().await;
            run.stores.nodes[store].start_serving().await;
        }
    }
    run.end().await;
}
