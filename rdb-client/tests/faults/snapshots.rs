//! A store that is away until the others have cut the logs that it needs.

use rdb_client::{Client, Error};

use crate::harness::{HANG_GUARD, found};
use crate::run::Run;
use crate::stores::{Setup, Stores};

const LOG_MIB_MAX: u64 = 16;

/// More than leaders keep then, in values of 1 MiB.
const LARGE_PUTS: u64 = 120;

/// Few, so that a snapshot is small.
const LARGE_KEYS: u64 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_come_back_by_a_snapshot() {
    let setup = Setup {
        log_mib_max: Some(LOG_MIB_MAX),
        ..Setup::default()
    };
    let Some(mut run) = Run::begin("followers_come_back_by_a_snapshot", setup).await else {
        return;
    };
    let client = Client::connect([run.stores.pd.address()]).await;
    let client = client.expect("the placement driver serves");
    let client = client.with_timeout(HANG_GUARD);
    for _ in 0..Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        let [follower, _] = Stores::others(leader.store);
        run.stores.nodes[follower].kill();
        put_more_than_a_log_keeps(&client).await;
        let follower = &mut run.stores.nodes[follower];
        follower.start_serving().await;
        follower.wait_for_log("a snapshot was received").await;
        run.load.goes_on().await;
    }
    run.end().await;
}

async fn put_more_than_a_log_keeps(client: &Client) {
    for number in 0..LARGE_PUTS {
        let put = async || {
            let key = format!("large-{}", number % LARGE_KEYS);
            match client.raw_put(key, vec![number as u8; 1 << 20]).await {
                Ok(()) => Some(()),
                Err(Error::Undetermined { .. }) => None,
                Err(error) => panic!("put {number}: {error}"),
            }
        };
        found("a large value is put", put).await;
    }
}
