//! What a store bounds of what others send, whatever they are: garbage, too much of it, and what clients have in flight.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use rdb_proto::kvrpc::RawGetRequest;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::raftpb::item::Request as ItemRequest;
use rdb_proto::raftpb::{self, Envelope, Item};
use rdb_proto::transport::limits::{MESSAGE_BYTES_MAX, RAFT_ENTRIES_MAX, RAFT_ITEMS_MAX};
use rdb_proto::transport::{BytesInFlight, ServeOptions, endpoint};
use rdb_raft::log::MemoryDevice;
use rdb_raft::transport::CONNECTION_BYTES_MAX;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::calling::{Calling, entries, hello, is_appended, item, refusal, served, served_with};
use crate::device::TestDevice;
use crate::snapshots::LONG;
use crate::standstill::Standstill;
use crate::stores::Stores;
use crate::voters::{GUARD, wait_until};

/// What ends the stream after the envelope was sent.
async fn refused(address: &str, is_bulk: bool, envelope: Envelope) -> Status {
    let mut calling = Calling::start(address, is_bulk).await;
    calling.envelopes.send(envelope).await.unwrap();
    let ended = async {
        loop {
            match calling.replies.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended in good order"),
                Err(status) => return status,
            }
        }
    };
    timeout(GUARD, ended).await.expect("it ends in time")
}

fn envelope(items: Vec<Item>) -> Envelope {
    let hello = None;
    Envelope { hello, items }
}

#[tokio::test]
async fn a_stream_ends_with_an_envelope_that_has_too_much() {
    let (store, address) = served().await;
    let empty = raftpb::Append {
        entries: vec![raftpb::Entry::default(); 1024],
        ..raftpb::Append::default()
    };
    let full = item(1, 0, ItemRequest::Append(empty));
    let bomb = vec![full; RAFT_ENTRIES_MAX / 1024 + 1];
    for is_bulk in [true, false] {
        let crowd = vec![Item::default(); RAFT_ITEMS_MAX + 1];
        for too_much in [crowd, bomb.clone()] {
            let status = refused(&address, is_bulk, envelope(too_much)).await;
            assert_eq!(status.code(), Code::OutOfRange, "{status}");
        }
        let again = Envelope {
            hello: Some(hello()),
            items: Vec::new(),
        };
        let status = refused(&address, is_bulk, again).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let mut calling = Calling::start(&address, true).await;
    let crowd = (1..=RAFT_ITEMS_MAX as u64).map(|session| Item {
        group_id: 12,
        ..item(session, 0, entries(0, &[]))
    });
    let answers = calling.ask(crowd.collect()).await;
    assert_eq!(answers.len(), RAFT_ITEMS_MAX, "as many as there may be");
    assert_eq!(refusal(&answers[0]), "this store has no group 12");
    store.stop().await;
}

#[tokio::test]
async fn a_stream_of_garbage_is_refused_and_others_are_served() {
    let (store, address) = served().await;
    for path in ["/raftpb.RaftPeer/Bulk", "/raftpb.RaftPeer/Urgent"] {
        // Its first field is where an envelope has the greeting.
        let garbage = Bytes::from_static(&[0xff; 100]);
        let channel = endpoint(&address, GUARD).unwrap().connect().await.unwrap();
        let mut client = Grpc::new(channel);
        client.ready().await.unwrap();
        let codec = ProstCodec::<Bytes, raftpb::Reply>::default();
        let garbage = stream::iter([garbage]).chain(stream::pending());
        let path = PathAndQuery::from_static(path);
        let called = client.streaming(Request::new(garbage), path, codec);
        let refused = timeout(GUARD, called).await.expect("answered in time");
        assert_eq!(refused.unwrap_err().code(), Code::Internal);
    }
    let mut calling = Calling::start(&address, true).await;
    let appended = calling.ask(vec![item(1, 0, entries(0, &["a"]))]).await;
    assert!(is_appended(&appended[0]));
    store.stop().await;
}

/// Sessions that nobody waits for have tasks, and openraft has their entries.
#[tokio::test]
async fn a_stream_holds_no_more_than_it_may_while_the_log_stands_still() {
    let device = Arc::<TestDevice>::default();
    let options = ServeOptions::default();
    let budget = options.stores_bytes_in_flight.clone();
    let (store, address) = served_with(Arc::clone(&device) as _, options).await;
    let mut calling = Calling::start(&address, true).await;
    let first = calling.ask(vec![item(1, 0, entries(0, &["a"]))]).await;
    assert!(is_appended(&first[0]));
    let standstill = Standstill::of(&device);
    // Each begins a session. The last one is the only one that is answered in any case.
    let sessions = 2 * RAFT_ITEMS_MAX as u64;
    let envelopes = calling.envelopes.clone();
    let sending = tokio::spawn(async move {
        let mut items = (2..=sessions).map(|session| item(session, 0, entries(1, &["b"])));
        loop {
            let some: Vec<_> = items.by_ref().take(64).collect();
            if some.is_empty() {
                break;
            }
            envelopes.send(envelope(some)).await.unwrap();
        }
    });
    // With the last envelope, which waits for room.
    let bound = CONNECTION_BYTES_MAX + (1 << 20);
    wait_until("the stream holds what it may", || {
        let taken = budget.bytes_taken();
        assert!(taken <= bound, "{taken}");
        taken >= CONNECTION_BYTES_MAX
    })
    .await;
    drop(standstill);
    let answered = async {
        loop {
            let reply = calling.replies.message().await.unwrap().unwrap();
            let taken = budget.bytes_taken();
            assert!(taken <= bound, "{taken}");
            if reply
                .answers
                .iter()
                .any(|answer| answer.session == sessions)
            {
                return;
            }
        }
    };
    timeout(GUARD, answered)
        .await
        .expect("all are taken in time");
    sending.await.unwrap();
    drop(calling);
    wait_until("all is given back", || budget.bytes_taken() == 0).await;
    store.stop().await;
}

#[tokio::test]
async fn a_session_of_a_group_that_has_ended_is_refused() {
    let (store, address) = served().await;
    let mut calling = Calling::start(&address, true).await;
    store.group.shut_down().await;
    let answers = calling.ask(vec![item(1, 0, entries(0, &["a"]))]).await;
    assert!(refusal(&answers[0]).contains("ended"), "{answers:?}");
    store.stop().await;
}

/// Clients may wait for what other stores send, and the other stores for what this one sends.
#[tokio::test]
async fn stores_that_are_full_of_what_clients_have_in_flight_take_what_other_stores_send() {
    let stores = Stores::start_with(LONG).await;
    let clients = &stores.ways.clients;
    let mut held = Vec::new();
    // As several connections do.
    while let Some(all) = BytesInFlight::of_connection(clients).try_reserve(MESSAGE_BYTES_MAX) {
        held.push(all);
    }
    assert!(held.len() > 1);
    stores.stores[0].lead().await;
    for number in 0..8 {
        let payload = vec![number; 1 << 20];
        stores.stores[0]
            .write(payload)
            .await
            .expect("a quorum has it");
    }
    for store in &stores.stores {
        store.has_applied_some(8).await;
    }
    // Votes pass, too.
    stores.stores[1].lead().await;
    stores.stores[1]
        .write("later")
        .await
        .expect("a quorum has it");
    drop(held);
    stores.stop().await;
}

#[tokio::test]
async fn another_store_gets_a_connection_when_clients_have_all_places() {
    let options = ServeOptions {
        connections_max: 1,
        // Those of the clients may close a moment later.
        store_connections_max: 4,
        ..ServeOptions::default()
    };
    let (store, address) = served_with(Arc::<MemoryDevice>::default(), options).await;
    let mut busy = Calling::start(&address, true).await;
    for _ in 0..3 {
        let channel = endpoint(&address, GUARD).unwrap().connect().await.unwrap();
        let mut client = KvRawClient::new(channel);
        let get = client.raw_get(RawGetRequest::default());
        let answer = timeout(GUARD, get).await.expect("answered in time");
        let answer = answer.expect("an answer").into_inner();
        assert!(answer.region_error.is_some(), "it is told to come again");
    }
    let mut beyond = Calling::start(&address, false).await;
    for calling in [&mut busy, &mut beyond] {
        let served = calling.ask(vec![item(1, 0, entries(0, &[]))]).await;
        assert!(is_appended(&served[0]));
    }
    store.stop().await;
}
