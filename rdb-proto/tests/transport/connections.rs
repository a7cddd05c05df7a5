//! Who may have a connection, and for how long.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use rdb_proto::kvrpc::RawPutRequest;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::transport::limits::{
    CONCURRENT_STREAMS_MAX, CONNECTION_CLOSE_TIMEOUT, LOW_WINDOWS, MESSAGE_BYTES_MAX, WATCH_BYTES,
};
use rdb_proto::transport::{ByteBudget, ServeOptions, endpoint};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1alpha::ServerReflectionRequest;
use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1alpha::server_reflection_response::MessageResponse;

use crate::fixture::{HANG_GUARD, TestServer, get, guarded, is_not_served, until};
use crate::lazy_peer::LazyPeer;
use crate::peer::{Peer, RAW_DELETE, RAW_GET, SHORT, framed};

const WINDOW_BYTES: u32 = 1 << 20;

fn idle_after(idle_timeout: Duration) -> ServeOptions {
    ServeOptions {
        idle_timeout: Some(idle_timeout),
        // Sets the length of a tick.
        send_stall_timeout: SHORT,
        ..ServeOptions::default()
    }
}

#[tokio::test]
async fn http_1_is_told_where_the_status_page_is() {
    let server = TestServer::start(ServeOptions::default()).await;
    let answer = server.refusal_of_http_1().await;
    assert!(answer.contains("--status-addr"), "{answer}");
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go_away_and_closed() {
    let server = TestServer::start(idle_after(SHORT)).await;
    let peer = loop {
        let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
        let call = async {
            let call = peer.try_call(RAW_GET, framed(&get(10)), true).await?;
            call.read().await
        };
        // On a busy machine the connection may be idle for too long before the call.
        if call.await.is_ok() {
            break peer;
        }
    };
    let ended = guarded("the connection ends", peer.connection).await;
    ended.expect("no panic").expect("in good order");
}

#[tokio::test]
async fn a_connection_with_a_call_in_flight_is_closed_only_after_its_answer() {
    let server = TestServer::start(idle_after(SHORT)).await;
    // Longer than what silent streams get.
    let pause = CONNECTION_CLOSE_TIMEOUT + 3 * SHORT;
    let (peer, answer) = loop {
        let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
        let call = peer.try_call(RAW_DELETE, framed(&get(10)), true).await;
        let mut answer = Box::pin(async { call?.read().await });
        match tokio::time::timeout(pause, &mut answer).await {
            Err(_) => break (peer, answer),
            // On a busy machine the connection may be idle for too long before the call.
            Ok(Err(error)) if error.is_go_away() => {}
            Ok(ended) => panic!("{:?}", ended.map(|answer| answer.message)),
        }
    };
    server.deletes.notify_one();
    answer.await.expect("an answer, not a reset");
    let ended = guarded("the connection ends", peer.connection).await;
    ended.expect("no panic").expect("in good order");
}

#[tokio::test]
async fn calls_that_meet_an_idle_close_are_answered_or_certainly_not_served() {
    const CLIENTS: usize = 8;
    let server = TestServer::start(idle_after(Duration::from_millis(30))).await;
    let clients = (0..CLIENTS).map(async |first_pause_ms| {
        let mut client = server.client().await;
        let mut served = 0;
        for pause_ms in (0..2 * 60).skip(first_pause_ms).step_by(CLIENTS) {
            match client.raw_put(RawPutRequest::default()).await {
                Ok(_) => served += 1,
                Err(status) => assert!(is_not_served(&status), "{status:?}"),
            }
            tokio::time::sleep(Duration::from_millis(pause_ms % 60)).await;
        }
        served
    });
    let served: usize = join_all(clients).await.into_iter().sum();
    assert_eq!(served, server.puts.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_silent_watch_does_not_keep_a_connection() {
    let server = TestServer::start(idle_after(SHORT)).await;
    let endpoint = endpoint(&server.address, HANG_GUARD).expect("an address");
    let mut watch = loop {
        let mut health = HealthClient::new(endpoint.connect().await.expect("it listens"));
        match health.watch(HealthCheckRequest::default()).await {
            Ok(watch) => break watch.into_inner(),
            // On a busy machine the connection may be idle for too long before the call.
            Err(status) => assert!(is_not_served(&status), "{status:?}"),
        }
    };
    watch.next().await.expect("the status").expect("the status");
    let ended = guarded("the watch ends", watch.next())
        .await
        .expect("a status");
    assert_eq!(ended.expect_err("an end").code(), Code::Unavailable);
}

#[tokio::test]
async fn a_silent_watch_is_charged_for_no_more_than_it_holds() {
    let server = TestServer::start(ServeOptions::default()).await;
    let endpoint = endpoint(&server.address, HANG_GUARD).expect("an address");
    let mut health = HealthClient::new(endpoint.connect().await.expect("it listens"));
    let watch = health.watch(HealthCheckRequest::default()).await;
    let mut watch = watch.expect("served").into_inner();
    watch.next().await.expect("the status").expect("the status");
    until("it is charged less", || {
        server.budget.bytes_taken() == WATCH_BYTES
    })
    .await;
    drop((watch, health));
    server.all_is_given_back().await;
}

#[tokio::test]
async fn the_longest_idle_connection_makes_room_for_a_new_one() {
    let server = TestServer::start(ServeOptions {
        connections_max: 2,
        ..ServeOptions::default()
    })
    .await;
    let mut busy = Peer::connect(&server, WINDOW_BYTES).await;
    let call = busy.call(RAW_DELETE, framed(&get(10)), true).await;
    let idle = Peer::connect(&server, WINDOW_BYTES).await;
    server
        .client()
        .await
        .raw_get(get(10))
        .await
        .expect("room is made");
    let ended = guarded("the idle connection ends", idle.connection).await;
    ended.expect("no panic").expect("in good order");
    server.deletes.notify_one();
    call.read().await.expect("the call in flight is answered");
}

#[tokio::test]
async fn a_connection_that_was_told_to_go_away_ends_whatever_its_peer_does() {
    let server = TestServer::start(ServeOptions {
        // A call that does not arrive lasts longer than the pause until the next.
        send_stall_timeout: 30 * SHORT,
        call_timeout: 10 * SHORT,
        ..idle_after(SHORT)
    })
    .await;
    let peer = LazyPeer::connect(&server, false).await;
    let ended = guarded("the connection ends", peer.connection).await;
    ended.expect("no panic");
}

#[tokio::test]
async fn peers_that_do_not_go_away_keep_no_newcomer_out() {
    // As many as may be open beyond the places.
    const PEERS: usize = 64;
    let server = TestServer::start(ServeOptions {
        connections_max: 1,
        call_timeout: 10 * HANG_GUARD,
        ..ServeOptions::default()
    })
    .await;
    let mut peers = Vec::new();
    for _ in 0..=PEERS {
        peers.push(LazyPeer::connect(&server, false).await);
    }
    let endpoint = endpoint(&server.address, HANG_GUARD).expect("an address");
    let served = async {
        while KvRawClient::new(endpoint.connect_lazy())
            .raw_get(get(10))
            .await
            .is_err()
        {
            tokio::time::sleep(SHORT).await;
        }
    };
    guarded("a newcomer is served", served).await;
}

#[tokio::test]
async fn a_connection_beyond_the_share_of_its_address_is_closed() {
    let server = TestServer::start(ServeOptions {
        connections_per_address_max: Some(1),
        ..ServeOptions::default()
    })
    .await;
    let mut first = server.client().await;
    first.raw_get(get(10)).await.expect("served");
    let endpoint = endpoint(&server.address, HANG_GUARD).expect("an address");
    let second = async {
        let channel = endpoint.connect().await?;
        HealthClient::new(channel)
            .check(HealthCheckRequest::default())
            .await?;
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    assert!(guarded("it is closed", second).await.is_err());
    first.raw_get(get(10)).await.expect("served");
}

#[tokio::test]
async fn a_connection_after_many_others_has_a_small_window_and_is_served_all_the_same() {
    const OTHERS: usize = 2 * LOW_WINDOWS;
    let server = TestServer::start(ServeOptions {
        bytes_in_flight: ByteBudget::new(2 * MESSAGE_BYTES_MAX),
        ..ServeOptions::default()
    })
    .await;
    let mut others = Vec::new();
    for _ in 0..OTHERS {
        others.push(Peer::connect(&server, WINDOW_BYTES).await);
    }
    // An answer shows that those before it were accepted, and that its peer knows the limits of the server.
    let mut peer = Peer::connect(&server, WINDOW_BYTES).await;
    let first = peer.call(RAW_GET, framed(&get(0)), true).await;
    first.read().await.expect("served");
    let mut calls = Vec::new();
    for _ in 0..CONCURRENT_STREAMS_MAX {
        // A small frame that is not the last of its call.
        let mut call = peer.call(RAW_GET, framed(&get(0)), false).await;
        call.sending.send_data(Bytes::new(), true).expect("open");
        calls.push(call);
    }
    for call in calls {
        call.read().await.expect("an answer, not a reset");
    }
    let mut client = server.client().await;
    let put = RawPutRequest {
        value: vec![0; MESSAGE_BYTES_MAX - 100].into(),
        ..RawPutRequest::default()
    };
    client.raw_put(put).await.expect("served");
}

#[tokio::test]
async fn reflection_answers_in_its_older_version_too() {
    let server = TestServer::start(ServeOptions::default()).await;
    let endpoint = endpoint(&server.address, HANG_GUARD).expect("an address");
    let channel = endpoint.connect().await.expect("it listens");
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let answers = client
        .server_reflection_info(futures::stream::iter([request]))
        .await;
    let answer = answers
        .expect("served")
        .into_inner()
        .message()
        .await
        .expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.and_then(|a| a.message_response)
    else {
        panic!("no list of services");
    };
    assert!(
        list.service
            .iter()
            .any(|service| service.name == "kvrpc.KvRaw")
    );
}
