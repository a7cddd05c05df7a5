//! What a store does with the items that it is sent.

use rdb_proto::raftpb;
use rdb_proto::raftpb::answer::Outcome;
use rdb_proto::raftpb::item::Request;
use rdb_proto::raftpb::{Envelope, Item};
use tokio::time::timeout;

use crate::calling::{Calling, entries, is_appended, item, refusal, served};
use crate::voters::GUARD;

#[tokio::test]
async fn an_item_for_a_peer_that_is_not_here_is_refused_and_the_stream_goes_on() {
    let (store, address) = served().await;
    for is_bulk in [true, false] {
        let mut calling = Calling::start(&address, is_bulk).await;
        let unknown_group = Item {
            group_id: 12,
            ..item(1, 0, entries(0, &["a"]))
        };
        let unknown_peer = Item {
            to_peer: 3,
            ..item(2, 0, entries(0, &["a"]))
        };
        let payloads: &[&str] = if is_bulk { &["a"] } else { &[] };
        let served = item(3, 0, entries(0, payloads));
        let answers = calling.ask(vec![unknown_group, unknown_peer, served]).await;
        assert_eq!(refusal(&answers[0]), "this store has no group 12");
        assert!(refusal(&answers[1]).contains("another peer"));
        assert!(is_appended(&answers[2]), "{:?}", answers[2]);
    }
    store.stop().await;
}

/// One that was away may be needed by members that it does not know.
#[tokio::test]
async fn only_a_transfer_has_to_come_from_a_member() {
    let (store, address) = served().await;
    let mut calling = Calling::start(&address, false).await;
    let of = |from_peer, session, request| Item {
        from_peer,
        ..item(session, 0, request)
    };
    let transfer = Request::Transfer(raftpb::Transfer {
        term: 1,
        next_leader: 2,
        last: None,
    });
    let answers = calling.ask(vec![
        of(3, 1, entries(0, &[])),
        of(9, 2, entries(0, &[])),
        of(9, 3, transfer),
    ]);
    let answers = answers.await;
    assert!(refusal(&answers[0]).contains("peer 3 of store 1 is no"));
    assert!(is_appended(&answers[1]), "{:?}", answers[1]);
    assert!(refusal(&answers[2]).contains("peer 9 of store 1 is no"));
    store.stop().await;
}

#[tokio::test]
async fn a_session_ends_with_what_cannot_be_appended() {
    let (store, address) = served().await;
    let mut calling = Calling::start(&address, true).await;
    let gap = calling.ask(vec![item(1, 1, entries(0, &["a"]))]).await;
    assert_eq!(refusal(&gap[0]), "an append is missing");
    let vote = Request::Vote(raftpb::Campaign::default());
    let vote = calling.ask(vec![item(2, 0, vote)]).await;
    assert_eq!(refusal(&vote[0]), "a session consists of appends");

    let conflicting = calling.ask(vec![item(3, 0, entries(7, &["h"]))]).await;
    let outcome = &conflicting[0].outcome;
    assert!(matches!(outcome, Some(Outcome::Conflict(_))), "{outcome:?}");
    // What comes after it is not answered, and neither is what is late.
    let late = item(3, 1, entries(8, &["i"]));
    let later = item(4, 0, entries(0, &["a", "b"]));
    let latest = item(4, 1, entries(2, &["c"]));
    let envelope = Envelope {
        hello: None,
        items: vec![late.clone()],
    };
    calling.envelopes.send(envelope).await.unwrap();
    let answers = calling.ask(vec![later, latest]).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.session == 4 && is_appended(answer))
    );
    store.stop().await;
}

#[tokio::test]
async fn entries_are_taken_in_sessions_only() {
    let (store, address) = served().await;
    let mut calling = Calling::start(&address, false).await;
    let answers = calling.ask(vec![item(1, 0, entries(0, &["a"]))]).await;
    assert_eq!(refusal(&answers[0]), "entries are sent in sessions");
    store.stop().await;
}

#[tokio::test]
async fn malformed_appends_are_refused() {
    let (store, address) = served().await;
    let mut calling = Calling::start(&address, true).await;
    let append = |change: fn(&mut raftpb::Append)| {
        let mut request = entries(0, &["a", "b"]);
        if let Request::Append(append) = &mut request {
            change(append);
        }
        request
    };
    let requests = [
        append(|append| append.entries[1].term = 2),
        append(|append| append.entries[1].term = 0),
        append(|append| append.entries[0].kind = 0),
        append(|append| append.entries[0].kind = raftpb::Kind::Blank.into()),
        append(|append| append.entries[0].kind = raftpb::Kind::Membership.into()),
        append(|append| {
            append.previous = Some(raftpb::LogId {
                term: 0,
                index: u64::MAX,
            })
        }),
        append(|append| append.entries = vec![append.entries[0].clone(); 1025]),
    ];
    let items = (1..)
        .zip(requests)
        .map(|(session, request)| item(session, 0, request));
    for answer in calling.ask(items.collect()).await {
        assert!(refusal(&answer).contains("malformed"), "{answer:?}");
    }
    store.stop().await;
}

#[tokio::test]
async fn streams_end_when_the_server_drains() {
    let (store, address) = served().await;
    let mut bulk = Calling::start(&address, true).await;
    let mut urgent = Calling::start(&address, false).await;
    let appended = bulk.ask(vec![item(1, 0, entries(0, &["a"]))]).await;
    assert!(is_appended(&appended[0]));
    let ended = async {
        let bulk = bulk.replies.message().await;
        (bulk, urgent.replies.message().await)
    };
    let (ended, ()) = tokio::join!(timeout(GUARD, ended), store.stop());
    let (bulk, urgent) = ended.expect("they end in time");
    assert!(bulk.unwrap().is_none() && urgent.unwrap().is_none());
}
