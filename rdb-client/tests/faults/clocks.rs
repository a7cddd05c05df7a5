//! A store whose clock is not right: the leader's lease lasts longer by the clocks of others.

use crate::run::Run;
use crate::stores::{LinkKind, Setup, Stores};

/// The store whose clock is slow, and how slow. A leader uses four fifths of its lease.
const SLOW: usize = 0;
const RATE: f64 = 0.85;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_is_slow_is_cut_off() {
    let setup = Setup {
        links: Some(LinkKind::Any),
        clock_rate: Some(RATE),
        ..Setup::default()
    };
    let name = "a_leader_whose_clock_is_slow_is_cut_off";
    let Some(mut run) = Run::begin(name, setup).await else {
        return;
    };
    while run.leaders_hit() < Run::rounds() {
        run.dwell().await;
        let mut leader = run.stores.leader().await;
        while leader.store != SLOW {
            // It hands over to one of the others.
            let stopped = &mut run.stores.nodes[leader.store];
            stopped.terminate();
            assert!(stopped.exited().await.success());
            run.stores.another_leads(leader).await;
            run.stores.nodes[leader.store].start_serving().await;
            leader = run.stores.leader().await;
        }
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
