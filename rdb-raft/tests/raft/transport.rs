//! Both ends of the transport, each against a peer that does what a test says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::select_all;
use futures::{Stream, StreamExt, stream};
use openraft::errors::RPCError;
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest};
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use rdb_proto::raftpb::answer::Outcome;
use rdb_proto::raftpb::item::Request;
use rdb_proto::raftpb::raft_peer_client::RaftPeerClient;
use rdb_proto::raftpb::{self, Answer, Appended, Envelope, Hello, Item, Reply};
use rdb_proto::transport::{ServeOptions, endpoint};
use rdb_raft::log::{LogDevice, MemoryDevice};
use rdb_raft::transport::{
    CONNECTION_BYTES_MAX, Client, SESSION_BYTES_MAX, SESSION_ITEMS_MAX, Starts, Transport,
};
use rdb_raft::{Entry, StoreNode, Timing, TypeConfig, Vote};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::entries::{entry, log_id};
use crate::payloads::Payloads;
use crate::scripted::{self, Scripted};
use crate::stores::{Addresses, CLUSTER_ID, GROUP_ID, Store, TIMING, first_start, identity};
use crate::voters::{GUARD, wait_until};

type Append = AppendEntriesRequest<TypeConfig>;
type Answered = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// Nobody is patient for long.
const IMPATIENT: Timing = Timing {
    heartbeat_ms: 10,
    election_timeout_min_ms: 300,
    election_timeout_max_ms: 500,
};

/// What peer 1 on store 1 sends to peer 2 on store 2 with.
async fn client(transport: &Transport) -> Client {
    let mut network = transport.network(GROUP_ID, 1);
    network.new_client(2, &StoreNode { store_id: 2 }).await
}

fn transport(addresses: Arc<Addresses>) -> Transport {
    Transport::new(identity(1), TIMING, addresses, first_start())
}

fn append(previous: u64, entries: Vec<Entry>) -> Append {
    Append {
        vote: Vote::new_committed(1, 1),
        prev_log_id: Some(log_id(1, previous)),
        entries,
        leader_commit: None,
    }
}

fn option(hard_ttl: Duration) -> RPCOption {
    RPCOption::new(hard_ttl)
}

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

/// What an append to store 2 fails with.
async fn unreachable(transport: &Transport) -> String {
    let mut client = client(transport).await;
    let append = append(0, Vec::new());
    match client.append_entries(append, option(GUARD)).await {
        Err(RPCError::Unreachable(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Waits until that is the cause. An attempt on a busy machine may end by its time.
async fn unreachable_for(transport: &Transport, cause: &str) {
    let tried = async { while !unreachable(transport).await.contains(cause) {} };
    timeout(GUARD, tried).await.expect(cause);
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

#[tokio::test]
async fn a_store_that_is_not_there_is_unreachable() {
    let nowhere = transport(Addresses::of([]));
    unreachable_for(&nowhere, "its address is not known").await;
    // It keeps the port, and does not listen.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    unreachable_for(&transport(Addresses::of([(2, address)])), "refused").await;
}

/// Store 2, which has peer 2.
pub(crate) async fn served() -> (Store, String) {
    served_with(Arc::<MemoryDevice>::default(), ServeOptions::default()).await
}

pub(crate) async fn served_with(
    device: Arc<dyn LogDevice>,
    options: ServeOptions,
) -> (Store, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let payloads = Payloads::bootstrapped([1, 2, 3]);
    let addresses = Addresses::of([]);
    let store = Store::start_on(2, listener, addresses, device, payloads, options).await;
    (store, address)
}

#[tokio::test]
async fn an_address_that_another_store_has_taken_over_is_not_used() {
    let (store, address) = served().await;
    let transport = transport(Addresses::of([(3, address)]));
    let mut network = transport.network(GROUP_ID, 1);
    let mut client = network.new_client(3, &StoreNode { store_id: 3 }).await;
    let vote = || VoteRequest::new(Vote::new(9, 1), Some(log_id(9, 9)));
    // A vote waits for a connection as long as it may.
    let soon = Duration::from_millis(100);
    let mut is_refused = async || match client.vote(vote(), option(soon)).await {
        Err(error) => {
            let cause = "the store here is 2, and 3 is expected";
            error.to_string().contains(cause)
        }
        Ok(answer) => panic!("{answer:?}"),
    };
    let refused = timeout(GUARD, async { while !is_refused().await {} });
    refused.await.expect("it is refused in time");
    assert_eq!(store.group.leader().term, 0);
    store.stop().await;
}

async fn connect(address: &str) -> RaftPeerClient<Channel> {
    let endpoint = endpoint(address, GUARD).unwrap();
    RaftPeerClient::new(endpoint.connect().await.unwrap())
}

pub(crate) fn hello() -> Hello {
    Hello {
        cluster_id: CLUSTER_ID,
        from_store: 1,
        to_store: 2,
        election_timeout_max_ms: TIMING.election_timeout_max_ms,
        start: 1,
        met_start: 0,
    }
}

#[tokio::test]
async fn a_stream_that_is_not_meant_for_the_store_is_refused() {
    let (store, address) = served().await;
    let mut client = connect(&address).await;
    let other_cluster = Hello {
        cluster_id: 8,
        ..hello()
    };
    let other_store = Hello {
        to_store: 3,
        ..hello()
    };
    let other_timing = Hello {
        election_timeout_max_ms: 2999,
        ..hello()
    };
    for (hello, code, cause) in [
        (Some(other_cluster), Code::FailedPrecondition, "cluster"),
        (Some(other_store), Code::FailedPrecondition, "store"),
        (Some(other_timing), Code::FailedPrecondition, "timeout"),
        (None, Code::InvalidArgument, "hello"),
    ] {
        let items = Vec::new();
        let envelopes = [Envelope { hello, items }];
        let open_end = || stream::iter(envelopes.clone()).chain(stream::pending());
        let bulk = timeout(GUARD, client.bulk(open_end())).await.unwrap();
        let urgent = timeout(GUARD, client.urgent(open_end())).await.unwrap();
        for refused in [bulk.map(drop), urgent.map(drop)] {
            let refused: Status = refused.unwrap_err();
            assert_eq!(refused.code(), code);
            assert!(refused.message().contains(cause), "{refused}");
        }
    }
    store.stop().await;
}

/// A stream to store 2 as store 1 has it.
pub(crate) struct Calling {
    pub(crate) envelopes: mpsc::Sender<Envelope>,
    pub(crate) replies: Streaming<Reply>,
}

impl Calling {
    pub(crate) async fn start(address: &str, is_bulk: bool) -> Self {
        let greeted = Self::greet(address, is_bulk, hello()).await;
        let mut calling = greeted.unwrap();
        let welcome = timeout(GUARD, calling.replies.message()).await;
        let welcome = welcome.expect("it comes in time").unwrap().unwrap();
        assert_eq!((welcome.start, welcome.answers), (Some(1), Vec::new()));
        calling
    }

    pub(crate) async fn greet(address: &str, is_bulk: bool, hello: Hello) -> Result<Self, Status> {
        let (envelopes, receiver) = mpsc::channel(16);
        let greeting = Envelope {
            hello: Some(hello),
            items: Vec::new(),
        };
        envelopes.send(greeting).await.unwrap();
        let sent = stream::unfold(receiver, |mut receiver| async move {
            let envelope = receiver.recv().await?;
            Some((envelope, receiver))
        });
        let mut client = connect(address).await;
        let accepted = async {
            match is_bulk {
                true => client.bulk(sent).await,
                false => client.urgent(sent).await,
            }
        };
        let accepted = timeout(GUARD, accepted).await.expect("answered in time");
        Ok(Self {
            envelopes,
            replies: accepted?.into_inner(),
        })
    }

    /// Waits until the store has ended the stream.
    async fn ended(&mut self) {
        let ended = async {
            while self
                .replies
                .message()
                .await
                .is_ok_and(|reply| reply.is_some())
            {}
        };
        timeout(GUARD, ended).await.expect("it ends in time");
    }

    /// What is answered to items that were sent together.
    pub(crate) async fn ask(&mut self, items: Vec<Item>) -> Vec<Answer> {
        let count = items.len();
        let hello = None;
        let envelope = Envelope { hello, items };
        self.envelopes.send(envelope).await.unwrap();
        let mut answers = Vec::new();
        while answers.len() < count {
            let reply = timeout(GUARD, self.replies.message()).await;
            let reply = reply.expect("it comes in time").unwrap();
            answers.extend(reply.expect("it goes on").answers);
        }
        answers.sort_by_key(|answer| (answer.session, answer.sequence));
        answers
    }
}

pub(crate) fn item(session: u64, sequence: u64, request: Request) -> Item {
    Item {
        group_id: GROUP_ID,
        from_peer: 1,
        to_peer: 2,
        session,
        sequence,
        request: Some(request),
    }
}

/// An append of a leader of term 1 to an empty log.
pub(crate) fn entries(previous: u64, payloads: &[&'static str]) -> Request {
    let entries = payloads.iter().map(|payload| raftpb::Entry {
        term: 1,
        kind: raftpb::Kind::Proposed.into(),
        payload: payload.as_bytes().into(),
    });
    let previous = raftpb::LogId {
        term: u64::from(previous > 0),
        index: previous,
    };
    Request::Append(raftpb::Append {
        term: 1,
        previous: Some(previous),
        committed: None,
        entries: entries.collect(),
    })
}

pub(crate) fn refusal(answer: &Answer) -> &str {
    match &answer.outcome {
        Some(Outcome::Refusal(refusal)) => &refusal.cause,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn is_appended(answer: &Answer) -> bool {
    matches!(answer.outcome, Some(Outcome::Appended(_)))
}

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

#[tokio::test]
async fn nothing_is_taken_from_a_start_once_a_later_one_was_met() {
    let (store, address) = served().await;
    for is_bulk in [true, false] {
        let start_of = |start| Hello { start, ..hello() };
        let first = if is_bulk { 5 } else { 15 };
        let earlier = Calling::greet(&address, is_bulk, start_of(first)).await;
        let mut earlier = earlier.expect("it is the latest one");
        let later = Calling::greet(&address, !is_bulk, start_of(first + 1)).await;
        let mut later = later.expect("it is later");
        earlier.ended().await;
        let again = Calling::greet(&address, is_bulk, start_of(first)).await;
        assert_eq!(
            again.err().map(|refused| refused.code()),
            Some(Code::AlreadyExists)
        );
        let served = later.ask(vec![item(1, 0, entries(0, &[]))]).await;
        assert!(is_appended(&served[0]), "the later one is served");
    }
    store.stop().await;
}

#[tokio::test]
async fn a_store_learns_from_who_calls_it_that_it_is_outdated() {
    let (store, address) = served().await;
    for is_bulk in [true, false] {
        let met_start = 2;
        let hello = Hello {
            met_start,
            ..hello()
        };
        let refused = Calling::greet(&address, is_bulk, hello).await;
        assert_eq!(
            refused.err().map(|refused| refused.code()),
            Some(Code::FailedPrecondition)
        );
    }
    let outdated = timeout(GUARD, store.starts.outdated()).await;
    assert_eq!(outdated.expect("it knows"), 1);
    store.stop().await;
}

#[tokio::test]
async fn a_store_learns_from_whom_it_calls_that_it_is_outdated() {
    let (store, address) = served().await;
    let later = Hello {
        start: 2,
        ..hello()
    };
    drop(
        Calling::greet(&address, true, later)
            .await
            .expect("it is the latest one"),
    );
    let starts = first_start();
    let addresses = Addresses::of([(2, address)]);
    let transport = Transport::new(identity(1), TIMING, addresses, Arc::clone(&starts));
    unreachable_for(&transport, "has started again since").await;
    let outdated = timeout(GUARD, starts.outdated()).await;
    assert_eq!(outdated.expect("it knows"), 2);
    store.stop().await;
}

#[tokio::test]
async fn answers_of_an_earlier_start_are_not_counted() {
    let store = Scripted::of_start(4).await;
    let starts = Starts::new(1, BTreeMap::from([(2, 5)]), |_, _| Ok(()));
    let transport = Transport::new(identity(1), TIMING, store.addresses(), starts);
    unreachable_for(&transport, "start 4 is older than 5").await;
}

#[tokio::test]
async fn a_store_that_has_registered_says_so_to_those_it_is_connected_to() {
    let (store, address) = served().await;
    let starts = first_start();
    let addresses = Addresses::of([(2, address.clone())]);
    let transport = Transport::new(identity(1), TIMING, addresses, Arc::clone(&starts));
    let mut client = client(&transport).await;
    let mut beat = async || {
        let append = Append {
            prev_log_id: Some(log_id(0, 0)),
            ..append(0, Vec::new())
        };
        client.append_entries(append, option(GUARD)).await
    };
    beat().await.expect("it is reached");
    starts.set_own(2).await;
    transport.greet([2]);
    let is_met = async || {
        let earlier = Calling::greet(&address, true, hello()).await;
        earlier.is_err_and(|refused| refused.code() == Code::AlreadyExists)
    };
    let met = timeout(GUARD, async { while !is_met().await {} });
    met.await.expect("the other store meets it in time");
    let reached = timeout(GUARD, async { while beat().await.is_err() {} });
    reached.await.expect("it is reached again");
    store.stop().await;
}

#[tokio::test]
async fn a_store_is_greeted_as_soon_as_it_is_there() {
    let (store, address) = served().await;
    let starts = Starts::new(2, BTreeMap::new(), |_, _| Ok(()));
    let addresses = Addresses::of([]);
    let transport = Transport::new(identity(1), TIMING, Arc::clone(&addresses) as _, starts);
    transport.greet([2]);
    wait_until("several attempts fail", || addresses.asked() > 2).await;
    addresses.tell(2, address.clone());
    let is_met = async || {
        let earlier = Calling::greet(&address, true, hello()).await;
        earlier.is_err_and(|refused| refused.code() == Code::AlreadyExists)
    };
    let met = timeout(GUARD, async { while !is_met().await {} });
    met.await.expect("it is greeted in time");
    store.stop().await;
}
