//! Sessions of appends, at the end that sends: what is acknowledged, and what a silent store costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::select_all;
use futures::{Stream, StreamExt, stream};
use openraft::errors::RPCError;
use openraft::raft::{StreamAppendError, StreamAppendResult};
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use rdb_proto::raftpb;
use rdb_proto::raftpb::answer::Outcome;
use rdb_proto::raftpb::{Answer, Appended, Item};
use rdb_raft::transport::{
    CONNECTION_BYTES_MAX, Client, SESSION_BYTES_MAX, SESSION_ITEMS_MAX, Transport,
};
use rdb_raft::{StoreNode, Timing, TypeConfig, Vote};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{Append, append, client, option, transport, unreachable_for};
use crate::entries::{entry, log_id};
use crate::scripted;
use crate::scripted::Scripted;
use crate::stores::{Addresses, GROUP_ID, first_start, identity};
use crate::voters::GUARD;

type Answered = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// Nobody is patient for long.
const IMPATIENT: Timing = Timing {
    heartbeat_ms: 10,
    election_timeout_min_ms: 300,
    election_timeout_max_ms: 500,
};

/// All answers of a session.
fn session(
    mut client: Client,
    appends: impl Stream<Item = Append> + Send + Unpin + 'static,
) -> AbortOnDropHandle<Vec<Answered>> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let answers = client.stream_append(appends, option(GUARD)).await;
        answers.unwrap().collect().await
    }))
}

async fn end(session: AbortOnDropHandle<Vec<Answered>>) -> Vec<Answered> {
    let ended = timeout(GUARD, session).await;
    ended.expect("the session ends in time").unwrap()
}

/// A session in which an append of some entries, one without entries and one of one entry were sent.
struct Pipelined {
    session: AbortOnDropHandle<Vec<Answered>>,
    items: Vec<Item>,
    bulk: scripted::Stream,
    _urgent: scripted::Stream,
    _store: Scripted,
    _transport: Transport,
}

impl Pipelined {
    async fn start(first_entries: u64) -> Self {
        let mut store = Scripted::start().await;
        let transport = transport(store.addresses());
        let entries = (1..=first_entries).map(|index| entry(1, index, "a"));
        let appends = [
            append(0, entries.collect()),
            append(first_entries, Vec::new()),
            append(first_entries, vec![entry(1, first_entries + 1, "b")]),
        ];
        let session = session(client(&transport).await, stream::iter(appends));
        let (mut bulk, urgent) = store.accepted().await;
        let mut items = Vec::new();
        while items.len() < 3 {
            items.extend(bulk.items().await);
        }
        Self {
            session,
            items,
            bulk,
            _urgent: urgent,
            _store: store,
            _transport: transport,
        }
    }

    async fn answer(&self, index: usize, outcome: Outcome) {
        let Item {
            session, sequence, ..
        } = self.items[index];
        let outcome = Some(outcome);
        let answer = Answer {
            session,
            sequence,
            outcome,
        };
        self.bulk.reply([answer]).await;
    }

    async fn appended(&self, index: usize) {
        self.answer(index, Outcome::Appended(Appended {})).await;
    }
}

fn matching(index: u64) -> Answered {
    Ok(Ok(Some(log_id(1, index))))
}

#[tokio::test]
async fn an_answer_is_passed_on_once_no_later_request_with_its_log_id_is_unanswered() {
    for (first_entries, expected) in [
        (1, vec![matching(1), matching(2)]),
        (3, vec![matching(2), matching(3), matching(4)]),
    ] {
        let pipelined = Pipelined::start(first_entries).await;
        for index in 0..3 {
            pipelined.appended(index).await;
        }
        assert_eq!(end(pipelined.session).await, expected);
    }
}

#[tokio::test]
async fn the_last_entry_is_not_acknowledged_if_a_later_request_with_its_log_id_is_refused() {
    for (first_entries, acknowledged) in [(1, vec![]), (3, vec![matching(2)])] {
        let pipelined = Pipelined::start(first_entries).await;
        pipelined.appended(0).await;
        let higher = raftpb::Vote {
            term: 5,
            peer_id: 3,
            committed: false,
        };
        pipelined.answer(1, Outcome::HigherVote(higher)).await;
        let refused = Ok(Err(StreamAppendError::HigherVote(Vote::new(5, 3))));
        let expected = [acknowledged, vec![refused]].concat();
        assert_eq!(end(pipelined.session).await, expected);
    }
}

#[tokio::test]
async fn the_last_entry_is_not_acknowledged_if_a_later_request_with_its_log_id_is_lost() {
    let pipelined = Pipelined::start(1).await;
    pipelined.appended(0).await;
    let Pipelined { session, bulk, .. } = pipelined;
    drop(bulk);
    let answers = end(session).await;
    assert!(matches!(answers[..], [Err(RPCError::Network(_))]));
}

#[tokio::test]
async fn a_conflict_names_the_entry_before_the_first_one() {
    let pipelined = Pipelined::start(1).await;
    let conflict = Outcome::Conflict(raftpb::Conflict {});
    pipelined.answer(0, conflict).await;
    let conflict = StreamAppendError::Conflict(log_id(1, 0));
    assert_eq!(end(pipelined.session).await, [Ok(Err(conflict))]);
}

#[tokio::test]
async fn a_session_without_requests_ends() {
    let mut store = Scripted::start().await;
    let transport = transport(store.addresses());
    let none = session(client(&transport).await, stream::iter([]));
    let (_bulk, _urgent) = store.accepted().await;
    assert_eq!(end(none).await, []);
}

#[tokio::test]
async fn an_answer_that_is_missing_ends_the_session() {
    let pipelined = Pipelined::start(1).await;
    pipelined.appended(1).await;
    let answers = end(pipelined.session).await;
    assert!(matches!(answers[..], [Err(RPCError::Network(_))]));
}

#[tokio::test]
async fn a_store_that_answers_nothing_costs_no_more_than_a_window() {
    for (payload_bytes, taken_max) in [
        (1, SESSION_ITEMS_MAX),
        (1 << 20, SESSION_BYTES_MAX >> 20),
        (3 << 20, (SESSION_BYTES_MAX >> 20).div_ceil(3)),
    ] {
        let store = Scripted::start().await;
        let transport = Transport::new(identity(1), IMPATIENT, store.addresses(), first_start());
        let taken = Arc::<AtomicUsize>::default();
        let appends = endless(payload_bytes, &taken);
        let answers = end(session(client(&transport).await, appends)).await;
        assert!(matches!(answers[..], [Err(RPCError::Timeout(_))]));
        assert!(taken.load(Ordering::Relaxed) <= taken_max);
    }
}

#[tokio::test]
async fn all_sessions_to_a_store_share_a_window() {
    const SESSIONS: usize = 8;
    let store = Scripted::start().await;
    let transport = Transport::new(identity(1), IMPATIENT, store.addresses(), first_start());
    let taken = Arc::<AtomicUsize>::default();
    let sessions: Vec<_> = (0..SESSIONS)
        .map(|_| {
            let (mut network, taken) = (transport.network(GROUP_ID, 1), Arc::clone(&taken));
            AbortOnDropHandle::new(tokio::spawn(async move {
                let mut client = network.new_client(2, &StoreNode { store_id: 2 }).await;
                let appends = endless(1 << 20, &taken);
                let mut answers = client.stream_append(appends, option(GUARD)).await.unwrap();
                let first = answers.next().await;
                // The others, on the same thread, have not noticed yet that this one has ended.
                (first, taken.load(Ordering::Relaxed))
            }))
        })
        .collect();
    let first = timeout(GUARD, select_all(sessions)).await;
    let (answer, taken) = first.expect("one ends in time").0.unwrap();
    assert!(matches!(answer, Some(Err(RPCError::Timeout(_)))));
    // Each session may have one that waits for room.
    assert!(taken <= (CONNECTION_BYTES_MAX >> 20) + SESSIONS, "{taken}");
}

/// Appends with a payload each, which count how many were taken.
fn endless(
    payload_bytes: usize,
    taken: &Arc<AtomicUsize>,
) -> impl Stream<Item = Append> + Unpin + Send + 'static {
    let taken = Arc::clone(taken);
    stream::iter(0..).map(move |previous| {
        taken.fetch_add(1, Ordering::Relaxed);
        append(
            previous,
            vec![entry(1, previous + 1, vec![0; payload_bytes])],
        )
    })
}

/// openraft is late with the first append of a session after an error. Without it, its leader would try again and again, and do
/// nothing else.
#[tokio::test]
async fn a_session_takes_an_append_before_it_says_that_its_store_is_unreachable() {
    let nowhere = transport(Addresses::of([]));
    unreachable_for(&nowhere, "its address is not known").await;
    let (late, appends) = mpsc::channel::<Append>(1);
    let appends = stream::unfold(appends, |mut appends| async {
        Some((appends.recv().await?, appends))
    });
    let client = client(&nowhere).await;
    let mut answers = Box::pin(session(client, appends.boxed()));
    let early = timeout(Duration::from_millis(200), &mut answers).await;
    assert!(early.is_err(), "it waits for an append: {early:?}");
    late.send(append(0, Vec::new())).await.unwrap();
    let answers = timeout(GUARD, answers).await.expect("it ends in time");
    assert!(matches!(answers.unwrap()[..], [Err(_)]));
}
