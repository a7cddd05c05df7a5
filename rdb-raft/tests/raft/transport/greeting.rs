//! Who is connected to whom: addresses, greetings, starts.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use openraft::raft::VoteRequest;
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use rdb_proto::auth::{Token, TokenFile};
use rdb_proto::raftpb::{Envelope, Hello};
use rdb_raft::transport::{Dialing, Starts, Transport};
use rdb_raft::{StoreNode, Vote};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::{Append, append, client, option, transport, unreachable_for};
use crate::calling::{Calling, connect, entries, hello, is_appended, item, served};
use crate::entries::log_id;
use crate::scripted::Scripted;
use crate::stores::{Addresses, GROUP_ID, TIMING, first_start, identity};
use crate::voters::{GUARD, wait_until};

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

fn token(digit: &str) -> Token {
    format!("flaredb_{}", digit.repeat(64)).parse().unwrap()
}

/// What store 1 sends with, and its token: a file in a directory.
fn with_token(addresses: Arc<Addresses>, token: &Token) -> (Transport, TokenFile, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    fs::write(&path, token.to_string()).unwrap();
    let file = TokenFile::open(&path).unwrap();
    let dialing = Dialing {
        token: Some(file.clone()),
        ..Dialing::default()
    };
    let transport = Transport::with_dialing(identity(1), TIMING, addresses, first_start(), dialing);
    (transport, file, directory)
}

/// The port may speak TLS: whoever listens on the way would read the token.
#[tokio::test]
async fn a_token_is_not_sent_to_a_port_that_does_not_answer() {
    const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let addresses = Addresses::of([(2, address)]);
    let (transport, _file, _directory) = with_token(addresses, &token("a"));
    transport.greet([2]);
    let accepted = timeout(GUARD, silent.accept()).await;
    let (mut stream, _) = accepted.expect("it connects in time").unwrap();
    let mut sent = Vec::new();
    let ended = timeout(GUARD, stream.read_to_end(&mut sent)).await;
    ended.expect("it gives up in time").unwrap();
    assert_eq!(sent, GREETING);
}

#[tokio::test]
async fn a_store_with_another_token_is_connected_anew_before_it_leaves_the_connection() {
    let [old, new] = ["a", "b"].map(token);
    let mut other = Scripted::start().await;
    let (transport, file, directory) = with_token(other.addresses(), &old);
    transport.greet([2]);
    let (mut bulk, mut urgent) = other.accepted().await;
    fs::write(directory.path().join("token"), new.to_string()).unwrap();
    file.note_taken(new);
    let (mut next_bulk, _next_urgent) = other.accepted().await;
    bulk.ended().await;
    urgent.ended().await;
    let mut client = client(&transport).await;
    let sending = client.append_entries(append(0, Vec::new()), option(GUARD));
    tokio::select! {
        sent = sending => panic!("{sent:?}"),
        items = next_bulk.items() => assert_eq!(items.len(), 1),
    }
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
