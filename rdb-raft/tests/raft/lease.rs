//! The permission to read, and who may take over meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use openraft::raft::VoteRequest;
use rdb_raft::group::{Group, LeadError, ReadError, TransferError, VoteError};
use rdb_raft::log::MemoryDevice;
use rdb_raft::simulation::oversleep;
use rdb_raft::{Timing, Vote};
use tokio::time::{sleep, timeout};

use crate::entries::log_id;
use crate::network::Network;
use crate::voters::{GUARD, Voter, wait_until};

/// Short enough to wait for another leader.
const SHORT: Timing = Timing {
    heartbeat_ms: 200,
    election_timeout_min_ms: 2000,
    election_timeout_max_ms: 3000,
};

/// Nobody campaigns by the clock while the test runs, and no lease is over.
const LONG: Timing = Timing {
    heartbeat_ms: 500,
    election_timeout_min_ms: 300_000,
    election_timeout_max_ms: 600_000,
};

#[tokio::test]
async fn a_leader_that_is_cut_off_stops_to_permit_reads_before_another_one_leads() {
    is_cut_off_and_stops_to_permit_reads(SHORT).await;
}

/// A leader uses four fifths of its lease. So this one is just fast enough.
const SLOW_CLOCK_PERCENT: u64 = 81;

#[tokio::test]
async fn a_leader_whose_clock_is_slow_stops_to_permit_reads_before_another_one_leads() {
    // Its intervals are that much longer by the clocks of the others.
    let slow = |interval_ms| interval_ms * 100 / SLOW_CLOCK_PERCENT;
    let of_leader = Timing {
        heartbeat_ms: slow(SHORT.heartbeat_ms),
        election_timeout_min_ms: slow(SHORT.election_timeout_min_ms),
        election_timeout_max_ms: slow(SHORT.election_timeout_max_ms),
    };
    is_cut_off_and_stops_to_permit_reads(of_leader).await;
}

async fn is_cut_off_and_stops_to_permit_reads(of_leader: Timing) {
    let network = Network::<Group>::default();
    let [leader, second, third] = Voter::three_by([of_leader, SHORT, SHORT], &network).await;
    leader.lead().await;
    leader.group.permit_read().await.unwrap();
    assert!(!second.group.try_permit_read());
    assert_eq!(second.group.permit_read().await, Err(ReadError::NotLeader));

    network.cut(1, 2);
    network.cut(1, 3);
    // As soon as the followers would elect another one, or have. One of them may have heard of the leader a little later.
    let would_vote = async |voter: &Voter, candidate| {
        let request = VoteRequest::new(Vote::new(1000, candidate), Some(log_id(1000, 1000)));
        let voted = voter.group.pre_vote(request).await.unwrap();
        voted.vote_granted
    };
    let would_elect = async || {
        let both_vote = would_vote(&second, 3).await && would_vote(&third, 2).await;
        both_vote || second.leads() || third.leads()
    };
    while !would_elect().await {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(!leader.group.try_permit_read());
    wait_until("another one leads", || second.leads() || third.leads()).await;
    assert!(!leader.group.try_permit_read());
    let refused = leader.group.permit_read().await.unwrap_err();
    assert!(matches!(
        refused,
        ReadError::NotLeader | ReadError::NoQuorum
    ));
}

#[tokio::test]
async fn a_new_leader_permits_reads_after_it_has_applied_what_was_acknowledged_before() {
    let network = Network::<Group>::default();
    let [first, second, _third] = Voter::three(SHORT, &network).await;
    first.lead().await;
    first.write("a").await.unwrap();

    // The second has it in its log, and does not apply it. The third does not have it.
    network.cut(1, 3);
    second.payloads.state().reads_the_disk = true;
    second.payloads.applies.close();
    first.write("b").await.unwrap();
    network.cut(1, 2);
    wait_until("the second leads", || second.leads()).await;
    let permitted = second.group.try_permit_read();
    let mut permit = Box::pin(second.group.permit_read());
    let early = timeout(Duration::from_millis(500), &mut permit).await;

    // Opened before anything can fail, since the runtime waits for the thread at the gate.
    second.payloads.applies.open();
    assert!(!permitted && early.is_err());
    permit.await.unwrap();
    assert_eq!(second.payloads.payloads(), ["a", "b"]);
}

#[tokio::test]
async fn a_leader_that_hands_over_permits_no_more_reads() {
    let network = Network::<Group>::default();
    let [first, second, third] = Voter::three(LONG, &network).await;
    first.lead().await;
    first.group.permit_read().await.unwrap();
    first.write("a").await.unwrap();
    wait_until("the second has it", || second.has_applied(&["a"])).await;
    first.group.transfer_leader(2).await.unwrap();
    wait_until("the second leads", || second.leads()).await;
    assert!(!first.group.try_permit_read());
    second.group.permit_read().await.unwrap();
    assert!(second.group.try_permit_read());

    // Nobody hears of it, so that nobody takes over.
    network.cut(1, 2);
    network.cut(2, 3);
    second.group.transfer_leader(3).await.unwrap();
    assert!(!second.group.try_permit_read());
    let refused = second.group.permit_read().await;
    assert_eq!(refused, Err(ReadError::NotLeader));
    assert!(second.leads() && !third.leads());
}

#[tokio::test]
async fn leadership_is_not_handed_over_to_a_voter_that_is_silent() {
    let network = Network::<Group>::default();
    network.cut(1, 2);
    let [leader, _second, third] = Voter::three(LONG, &network).await;
    leader.lead().await;
    leader.write("a").await.unwrap();
    leader.group.permit_read().await.unwrap();
    let refused = leader.group.hand_over_to(2).await;
    assert_eq!(refused, Err(TransferError::NotHeardOf { peer_id: 2 }));
    assert!(leader.group.try_permit_read(), "it leads on");
    wait_until("the third lives", || {
        leader.group.live_peers() == [1, 3].into()
    })
    .await;
    assert_eq!(third.group.live_peers(), [3].into(), "it does not lead");
    leader.group.hand_over_to(3).await.unwrap();
    wait_until("the third leads", || third.leads()).await;
}

/// No lease is over while the test runs, and an answer is waited for only briefly.
const LONG_LEASE: Timing = Timing {
    heartbeat_ms: 200,
    election_timeout_min_ms: 2000,
    election_timeout_max_ms: 600_000,
};

#[tokio::test]
async fn a_voter_that_has_died_within_the_lease_deposes_no_leader() {
    let network = Network::<Group>::default();
    let [leader, _second, third] = Voter::three(LONG_LEASE, &network).await;
    leader.lead().await;
    wait_until("all live", || leader.group.live_peers() == [1, 2, 3].into()).await;
    network.cut(1, 2);
    let refused = leader.group.hand_over_to(2).await;
    assert_eq!(refused, Err(TransferError::Silent { peer_id: 2 }));
    leader.write("a").await.expect("it leads on");
    assert!(leader.group.try_permit_read());
    leader.group.hand_over_to(3).await.unwrap();
    wait_until("the third leads", || third.leads()).await;
}

#[tokio::test]
async fn a_leader_whose_machine_has_slept_permits_reads_once_a_quorum_has_answered_anew() {
    let network = Network::<Group>::default();
    let [leader, _second, _third] = Voter::three(LONG_LEASE, &network).await;
    leader.lead().await;
    assert!(leader.group.try_permit_read());
    oversleep(1000);
    assert!(!leader.group.try_permit_read());
    leader.group.permit_read().await.unwrap();
    assert!(leader.group.try_permit_read());

    network.cut(1, 2);
    network.cut(1, 3);
    assert!(leader.group.try_permit_read(), "its lease is long");
    oversleep(1000);
    assert!(!leader.group.try_permit_read());
    let refused = leader.group.permit_read().await;
    assert_eq!(refused, Err(ReadError::NoQuorum));
    assert!(!leader.group.try_permit_read());
}

/// As a store does that ends, and does not care who leads then.
#[tokio::test]
async fn who_leads_next_is_alive_even_if_another_log_is_more_complete() {
    let network = Network::<Group>::default();
    let [leader, second, third] = Voter::three(LONG_LEASE, &network).await;
    leader.lead().await;
    wait_until("all live", || leader.group.live_peers() == [1, 2, 3].into()).await;
    network.cut(1, 2);
    leader.write("a").await.expect("the third has it");
    network.cut(1, 3);
    assert_eq!(leader.group.hand_over().await, Ok(None));
    assert!(leader.leads() && leader.group.try_permit_read());

    network.mend(1, 2);
    let handed_over = async {
        loop {
            match leader.group.hand_over().await.expect("it leads") {
                Some(peer_id) => return peer_id,
                None => assert!(leader.leads(), "it leads on"),
            }
        }
    };
    let handed_over = timeout(GUARD, handed_over).await;
    assert_eq!(handed_over.expect("in time"), 2);
    wait_until("the second leads", || second.leads()).await;
    assert!(!third.leads());
}

/// As a store does that takes nothing from others at the moment, and has no vote for them.
#[tokio::test]
async fn who_has_no_vote_for_others_hands_over_only_to_a_quorum_of_them() {
    let network = Network::<Group>::default();
    let [leader, second, third] = Voter::three(LONG_LEASE, &network).await;
    network.cut(1, 2);
    leader.lead().await;
    wait_until("the third lives", || {
        leader.group.live_peers() == [1, 3].into()
    })
    .await;
    assert_eq!(leader.group.hand_over_without_vote().await, Ok(None));
    assert!(leader.leads() && leader.group.try_permit_read());

    network.mend(1, 2);
    wait_until("all live", || leader.group.live_peers() == [1, 2, 3].into()).await;
    let successor = leader.group.hand_over_without_vote().await;
    assert!(successor.expect("it leads").is_some());
    wait_until("another leads", || second.leads() || third.leads()).await;
}

/// No heartbeat is due while the test runs, and none would be sent to who has answered a minute ago.
const SELDOM: Timing = Timing {
    heartbeat_ms: 200_000,
    election_timeout_min_ms: 600_000,
    election_timeout_max_ms: 900_000,
};

#[tokio::test]
async fn voters_that_have_just_answered_are_asked_again_at_once() {
    for is_named in [false, true] {
        let network = Network::<Group>::default();
        let [leader, second, third] = Voter::three(SELDOM, &network).await;
        leader.lead().await;
        leader.write("a").await.unwrap();
        wait_until("all live", || leader.group.live_peers() == [1, 2, 3].into()).await;
        let handed_over = async {
            if is_named {
                leader.group.hand_over_to(2).await.map(|()| Some(2))
            } else {
                leader.group.hand_over().await
            }
        };
        let handed_over = timeout(GUARD, handed_over).await.expect("in time");
        let successor = handed_over.unwrap().expect("both are there");
        let successor = [&second, &third][successor as usize - 2];
        wait_until("it leads", || successor.leads()).await;
    }
}

#[tokio::test]
async fn the_most_complete_log_leads_next_and_not_the_one_that_answers_first() {
    let network = Network::<Group>::default();
    let [leader, _second, third] = Voter::three(SELDOM, &network).await;
    leader.lead().await;
    wait_until("all live", || leader.group.live_peers() == [1, 2, 3].into()).await;
    network.starve(2);
    for payload in ["a", "b", "c"] {
        leader.write(payload).await.expect("the third has it");
    }
    network.slow_down(3);
    assert_eq!(leader.group.hand_over().await, Ok(Some(3)));
    wait_until("the third leads", || third.leads()).await;
}

/// No lease is over while the test runs, and an answer comes in time also on a busy machine.
const PATIENT: Timing = Timing {
    heartbeat_ms: 200,
    election_timeout_min_ms: 10_000,
    election_timeout_max_ms: 600_000,
};

#[tokio::test]
async fn one_that_lacks_much_leads_next_only_if_nobody_else_answers_for_a_while() {
    let network = Network::<Group>::default();
    let [leader, _second, third] = Voter::three(PATIENT, &network).await;
    leader.lead().await;
    wait_until("all live", || leader.group.live_peers() == [1, 2, 3].into()).await;
    network.starve(2);
    let writes = (0..1_100).map(|_| leader.write("a"));
    for written in join_all(writes).await {
        written.expect("the third has it");
    }
    network.cut(1, 3);
    let began = Instant::now();
    assert_eq!(leader.group.hand_over().await, Ok(Some(2)));
    let waited = Duration::from_millis(PATIENT.election_timeout_min_ms / 2);
    assert!(began.elapsed() >= waited);

    // It does not take over before it has the rest. The leader can do nothing but try another one, which it need not hear of for that.
    assert!(!leader.group.try_permit_read());
    network.mend(1, 3);
    assert_eq!(leader.group.hand_over().await, Ok(Some(3)));
    wait_until("the third leads", || third.leads()).await;
}

#[tokio::test]
async fn leadership_is_handed_over_to_another_voter_only() {
    let network = Network::<Group>::default();
    let [leader, second, _third] = Voter::three(LONG, &network).await;
    leader.lead().await;
    for peer_id in [1, 4] {
        for refused in [
            leader.group.transfer_leader(peer_id).await,
            leader.group.hand_over_to(peer_id).await,
        ] {
            assert_eq!(refused, Err(TransferError::NotAnotherVoter { peer_id }));
        }
    }
    for refused in [
        second.group.transfer_leader(3).await,
        second.group.hand_over_to(3).await,
    ] {
        assert_eq!(refused, Err(TransferError::NotLeader));
    }
    leader.write("a").await.unwrap();
    leader.group.permit_read().await.unwrap();
    assert!(leader.group.try_permit_read());
}

#[tokio::test]
async fn a_voter_that_starts_again_elects_nobody_while_its_leader_may_count_on_it() {
    starts_again_and_elects_nobody(LONG).await;
}

/// By which no promise is kept for long.
const BRIEF: Timing = Timing {
    heartbeat_ms: 10,
    election_timeout_min_ms: 30,
    election_timeout_max_ms: 31,
};

#[tokio::test]
async fn a_voter_that_starts_again_with_a_shorter_timeout_keeps_what_it_has_promised_by_the_longer()
{
    starts_again_and_elects_nobody(BRIEF).await;
}

async fn starts_again_and_elects_nobody(again: Timing) {
    let network = Network::<Group>::default();
    let [leader, second, third] = Voter::three(LONG, &network).await;
    leader.lead().await;
    leader.write("a").await.unwrap();
    wait_until("the third has it", || third.has_applied(&["a"])).await;
    leader.group.permit_read().await.unwrap();

    // The leader counts on what the second has acknowledged. The second starts again and does not hear of it.
    network.cut(1, 2);
    network.cut(1, 3);
    let pre_votes = network.pre_votes();
    let second = second.kill_and_start(again, &network).await;
    // Several times as long as it would keep a promise that it has made by the brief ones.
    sleep(Duration::from_millis(10 * BRIEF.election_timeout_max_ms)).await;
    assert_eq!(network.pre_votes(), pre_votes, "nobody campaigns");
    let term = leader.group.leader().term + 1;
    let mut request = VoteRequest::new(Vote::new(term, 3), Some(log_id(term - 1, 9)));
    let refused = Err(VoteError::Quarantined);
    assert_eq!(second.group.pre_vote(request.clone()).await, refused);
    assert_eq!(second.group.vote(request.clone()).await, refused);
    assert!(leader.group.try_permit_read());

    // The leader has no more lease when it hands over.
    request.leadership_transfer = true;
    let voted = second.group.vote(request).await.unwrap();
    assert!(voted.vote_granted);
    second.group.shut_down().await;
}

#[tokio::test]
async fn voters_that_all_start_again_elect_a_leader() {
    let network = Network::<Group>::default();
    let [first, second, third] = Voter::three(SHORT, &network).await;
    first.lead().await;
    first.write("a").await.unwrap();
    for voter in [&first, &second, &third] {
        voter.group.shut_down().await;
    }
    let (began, pre_votes) = (Instant::now(), network.pre_votes());
    let mut voters = Vec::new();
    for voter in [first, second, third] {
        voters.push(voter.kill_and_start(SHORT, &network).await);
    }
    wait_until("one campaigns", || network.pre_votes() > pre_votes).await;
    assert!(began.elapsed() > Duration::from_millis(SHORT.election_timeout_max_ms));
    wait_until("one leads", || voters.iter().any(Voter::leads)).await;
    let leader = voters.iter().find(|voter| voter.leads()).unwrap();
    leader.group.permit_read().await.unwrap();
    assert_eq!(leader.payloads.payloads(), ["a"]);
}

#[tokio::test]
async fn only_a_sole_voter_leads_alone() {
    let network = Network::<Group>::default();
    let [leader, second, _third] = Voter::three(LONG, &network).await;
    leader.lead().await;
    let term = leader.group.leader().term;
    assert_eq!(
        second.group.lead_alone().await,
        Err(LeadError::NotSoleVoter)
    );
    assert_eq!(second.group.leader().term, term);
    leader.write("a").await.unwrap();
    assert!(leader.leads());
}

#[tokio::test]
async fn a_peer_that_knows_no_voters_does_not_lead() {
    let network = Network::<Group>::default();
    let (device, payloads) = (MemoryDevice::default(), Arc::default());
    let stranger = Voter::start(1, LONG, &network, device, payloads).await;
    assert_eq!(
        stranger.group.lead_alone().await,
        Err(LeadError::NotSoleVoter)
    );
}
