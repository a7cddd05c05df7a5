//! A store whose clock is not right: the leader's lease lasts longer by the clocks of others.

use rdb_client::Client;

use crate::harness::found;
use crate::members::{client, region, store_at};
use crate::run::Run;
use crate::stores::{Leader, LinkKind, Setup, Stores};

/// The store whose clock is slow, and how slow. A leader uses four fifths of its lease, which are almost the whole lease then by the
/// clocks of others.
const SLOW: usize = 0;
const RATE: f64 = 0.81;

/// A leader that used all of its lease would permit reads for 1.4 s more than others wait for it. They wait for an election timeout on
/// top of that, which is shorter in about every fourth round.
const ELECTION_TIMEOUT_MAX_MS: u64 = 6000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_is_slow_is_cut_off() {
    let setup = Setup {
        links: Some(LinkKind::Any),
        clock_rate: Some(RATE),
        election_timeout_max_ms: Some(ELECTION_TIMEOUT_MAX_MS),
        ..Setup::default()
    };
    let name = "a_leader_whose_clock_is_slow_is_cut_off";
    let Some(mut run) = Run::begin(name, setup).await else {
        return;
    };
    let client = client(&run).await;
    while run.leaders_hit() < 2 * Run::rounds() {
        run.dwell().await;
        // Who campaigns draws another timeout. Without that, the others would keep theirs, and the shorter one would decide each time.
        for other in Stores::others(SLOW) {
            leads(&run, &client, other).await;
        }
        let leader = leads(&run, &client, SLOW).await;
        for other in Stores::others(SLOW) {
            run.stores.links().cut_both(SLOW, other);
        }
        run.note_hit(leader);
        run.stores.another_leads(leader).await;
        run.load.goes_on().await;
        run.stores.links().mend();
        run.load.goes_on().await;
    }
    let (passed, shown) = run.stores.shims[SLOW].clock();
    let rate = shown / passed;
    assert!(
        passed > 1.0 && (rate - RATE).abs() < 0.01,
        "{shown} s of {passed} s"
    );
    run.end().await;
}

/// Has a store lead.
async fn leads(run: &Run, client: &Client, store: usize) -> Leader {
    found("the store leads", async || {
        let leader = run.stores.leader().await;
        if leader.store == store {
            return Some(leader);
        }
        let to = store_at(client, run.stores.address(store)).await?;
        // It is refused while the leader has not heard of that store for a while.
        let _ = client.transfer_leader(&region(client).await, to.id).await;
        None
    })
    .await
}
