//! Stores that do not hear each other. Clients and the placement driver reach all of them all the time.

use crate::harness::found;
use crate::links::Links;
use crate::run::Run;
use crate::stores::{LinkKind, Setup, Stores};

const SETUP: Setup = Setup {
    links: Some(LinkKind::Any),
    shim: false,
    clock_rate: None,
    disk_mib: None,
    election_timeout_max_ms: None,
    log_mib_max: None,
    spare: false,
    store_down_after_s: None,
    loses_majority: false,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_cut_off_from_all_others() {
    cut_leaders("leaders_are_cut_off_from_all_others", Links::cut_both).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_not_heard_but_hear_others() {
    cut_leaders("leaders_are_not_heard_but_hear_others", Links::cut).await;
}

/// They cannot commit anything, and their followers have no reason to elect another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_heard_but_hear_nobody() {
    let cut = |links: &mut Links, leader, other| links.cut(other, leader);
    cut_leaders("leaders_are_heard_but_hear_nobody", cut).await;
}

/// Cuts leaders from each other store, by a function that takes the leader and the other one.
async fn cut_leaders(name: &'static str, cut: impl Fn(&mut Links, usize, usize)) {
    let Some(mut run) = Run::begin(name, SETUP).await else {
        return;
    };
    while run.leaders_hit() < Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        for other in Stores::others(leader.store) {
            cut(run.stores.links(), leader.store, other);
        }
        run.note_hit(leader);
        run.stores.another_leads(leader).await;
        run.dwell().await;
        run.stores.links().mend();
        run.load.goes_on().await;
        run.stores.all_serve().await;
    }
    run.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_are_cut_off_from_all_others() {
    let name = "followers_are_cut_off_from_all_others";
    cut_followers(name, |follower, _| Stores::others(follower).to_vec()).await;
}

/// The third store hears both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_are_cut_off_from_their_leader() {
    let name = "followers_are_cut_off_from_their_leader";
    cut_followers(name, |_, leader| vec![leader]).await;
}

/// Cuts a follower from other stores: which ones, a function says that takes the follower and the leader.
async fn cut_followers(name: &'static str, from: impl Fn(usize, usize) -> Vec<usize>) {
    let Some(mut run) = Run::begin(name, SETUP).await else {
        return;
    };
    for _ in 0..Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        let [follower, _] = Stores::others(leader.store);
        for other in from(follower, leader.store) {
            run.stores.links().cut_both(follower, other);
        }
        let cut_off = &run.stores.nodes[follower];
        let log_start = cut_off.log().len();
        let notices = async || {
            let log = cut_off.log();
            log[log_start..]
                .contains("another store cannot be reached")
                .then_some(())
        };
        found("it notices", notices).await;
        run.dwell().await;
        run.stores.links().mend();
        run.stores.all_serve().await;
    }
    run.end().await;
}

/// A follower keeps a promise to its leader across a restart: to elect nobody else as long as the leader may count on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_followers_restart_while_their_leader_is_cut_off() {
    let name = "all_followers_restart_while_their_leader_is_cut_off";
    // The leader's lease outlives their start by far.
    let setup = Setup {
        election_timeout_max_ms: Some(8000),
        loses_majority: true,
        ..SETUP
    };
    let Some(mut run) = Run::begin(name, setup).await else {
        return;
    };
    while run.leaders_hit() < Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        for other in Stores::others(leader.store) {
            run.stores.links().cut_both(leader.store, other);
        }
        run.note_hit(leader);
        for other in Stores::others(leader.store) {
            run.stores.nodes[other].kill();
            run.stores.nodes[other].start();
        }
        run.stores.another_leads(leader).await;
        run.dwell().await;
        run.stores.links().mend();
        run.load.goes_on().await;
        run.stores.all_serve().await;
    }
    run.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_leaders_send_to_others_is_slow() {
    let setup = Setup {
        links: Some(LinkKind::Proxies),
        ..SETUP
    };
    let name = "what_leaders_send_to_others_is_slow";
    let Some(mut run) = Run::begin(name, setup).await else {
        return;
    };
    while run.leaders_hit() < Run::rounds() {
        run.dwell().await;
        let leader = run.stores.leader().await;
        let links = run.stores.links();
        let before = links.delayed();
        for other in Stores::others(leader.store) {
            links.slow_down(leader.store, other);
        }
        run.note_hit(leader);
        run.dwell().await;
        run.dwell().await;
        let links = run.stores.links();
        // Heartbeats at least.
        let is_slow = async || (links.delayed() > before).then_some(());
        found("something is slow", is_slow).await;
        links.mend();
        run.load.goes_on().await;
    }
    run.end().await;
}
