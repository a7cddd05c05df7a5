//! Connections that do not speak, do not read, or are too many.

use std::io::ErrorKind;
use std::time::Instant;

use futures::future::join_all;
use rdb_proto::kvrpc::RawGetRequest;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::pdpb::GetTsoRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Response, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::bad_input::wire::{VALUE_BYTES_MAX, Wire, bytes};
use crate::harness::{Cluster, connect, found, guarded};

/// Sends `opening` and reads until the process closes the connection.
async fn closed_after(address: &str, opening: &[u8]) {
    let mut stream = TcpStream::connect(address)
        .await
        .expect("the process listens");
    stream
        .write_all(opening)
        .await
        .expect("a new connection takes bytes");
    let mut answer = Vec::new();
    match guarded("the connection is closed", stream.read_to_end(&mut answer)).await {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_do_not_speak_http_2_are_closed() {
    let wire = Wire::start().await;
    let (store, pd) = (wire.cluster.store.address(), wire.cluster.pd.address());
    let garbage: Vec<u8> = (0..2_000).map(|_| fastrand::u8(..)).collect();
    let openings: [&[u8]; 4] = [
        &garbage,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"",
        b"PRI * HTTP/2.0",
    ];
    let of_each = openings.map(|opening| {
        let (of_store, of_pd) = (closed_after(&store, opening), closed_after(&pd, opening));
        async { tokio::join!(of_store, of_pd) }
    });
    join_all(of_each).await;
    wire.assert_unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_the_http_2_library_warns_of_leave_no_line_in_the_log() {
    const PING_ACK: &[u8] = b"\0\0\x08\x06\x01\0\0\0\0unasked!";
    const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0";
    const PAYLOAD: &[u8] = b"answered";
    let wire = Wire::start().await;
    for node in [&wire.cluster.store, &wire.cluster.pd] {
        let stream = TcpStream::connect(node.address()).await;
        let mut stream = stream.expect("the process listens");
        let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        frames.extend(PING_ACK.repeat(1_000));
        // Its answer shows that all before it were read.
        frames.extend([PING, PAYLOAD].concat());
        stream.write_all(&frames).await.expect("it is read");
        let mut answers = Vec::new();
        while !answers.windows(PAYLOAD.len()).any(|part| part == PAYLOAD) {
            let read = guarded("an answer", stream.read_buf(&mut answers)).await;
            assert_ne!(read.expect("an answer, not a reset"), 0);
        }
        let log = node.log();
        assert!(!log.contains("ping"), "{log}");
    }
    wire.assert_unaffected().await;
}

/// Whether a process serves one more connection. A store that has no place for it refuses its calls and closes it: only another
/// store would be served.
async fn is_served(address: &str) -> bool {
    let Ok(channel) = connect(address).await else {
        return false;
    };
    let mut health = HealthClient::new(channel);
    let checked = health.check(HealthCheckRequest::default());
    guarded("an answer or the end", checked).await.is_ok()
}

/// A connection with a call in flight, so that it does not make room for others.
type Held = (
    HealthClient<Channel>,
    Response<Streaming<HealthCheckResponse>>,
);

/// Takes a place of a process. The watch that saw it become healthy may give its place back a moment later.
async fn held_place(address: &str) -> Held {
    found("a free place", async || {
        let mut health = HealthClient::new(connect(address).await.ok()?);
        let watch = health.watch(HealthCheckRequest::default()).await.ok()?;
        Some((health, watch))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_above_the_cap_is_not_served_while_all_are_in_use() {
    const CONNECTIONS_MAX: usize = 4;
    let mut cluster = Cluster::prepare();
    cluster.pd.start_serving().await;
    let cap = CONNECTIONS_MAX.to_string();
    cluster.store = cluster.store.with_flag("--connections-max", &cap);
    cluster.store.start_serving().await;
    let address = cluster.store.address();

    let mut held = Vec::new();
    while held.len() < CONNECTIONS_MAX {
        held.push(held_place(&address).await);
    }
    for _ in 0..3 * CONNECTIONS_MAX {
        assert!(!is_served(&address).await, "every place is taken");
    }
    for (health, _) in &mut held {
        let served = health.check(HealthCheckRequest::default()).await;
        served.expect("those who have a place keep it");
    }

    drop(held.pop());
    found("the place is given back", async || {
        is_served(&address).await.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connections_leave_at_most_a_line_a_second_in_the_log() {
    const REFUSED: usize = 500;
    const LINE: &str = "connection closed: all places for connections are taken";
    // A store would keep a place for other stores.
    let cluster = Cluster::prepare();
    let mut pd = cluster.pd.with_flag("--connections-max", "1");
    let began = Instant::now();
    pd.start_serving().await;
    let address = pd.address();
    let _held = held_place(&address).await;
    for _ in 0..REFUSED {
        closed_after(&address, b"").await;
    }
    pd.wait_for_log(LINE).await;
    let lines = pd.log().matches(LINE).count();
    let seconds = began.elapsed().as_secs() as usize;
    assert!(lines <= seconds + 1, "{lines} lines in {seconds} s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_holds_up_only_itself() {
    let mut wire = Wire::start().await;
    let value = bytes(VALUE_BYTES_MAX);
    wire.cluster
        .client()
        .await
        .raw_put("large", value)
        .await
        .expect("served");

    // Answers to these are far more than every window together; none is ever read.
    let requests = futures::stream::repeat(GetTsoRequest { count: None });
    let unread_timestamps = wire.pd.tso(requests).await.expect("served");
    let deaf = connect(&wire.cluster.store.address())
        .await
        .expect("the store listens");
    let mut unread = Vec::new();
    for _ in 0..64 {
        let mut raw = KvRawClient::new(deaf.clone()).max_decoding_message_size(usize::MAX);
        let request = RawGetRequest {
            context: None,
            key: "large".into(),
        };
        let mut call = Box::pin(async move { raw.raw_get(request).await });
        // Polled once, so that the request is sent; never again, so that its answer is not read.
        assert!(futures::poll!(&mut call).is_pending());
        unread.push(call);
    }
    wire.assert_unaffected().await;
    drop((unread, unread_timestamps));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generic_tools_find_health_and_reflection() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let cluster = Cluster::start().await;
    for (address, service) in [
        (cluster.store.address(), "kvrpc.KvCas"),
        (cluster.pd.address(), "pdpb.Pd"),
    ] {
        let channel = connect(&address).await.expect("the process listens");
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
        let services = match answer.and_then(|answer| answer.message_response) {
            Some(MessageResponse::ListServicesResponse(list)) => list.service,
            other => panic!("{other:?}"),
        };
        let names: Vec<&str> = services
            .iter()
            .map(|service| service.name.as_str())
            .collect();
        assert!(names.contains(&service), "{names:?}");
        assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
    }
}
