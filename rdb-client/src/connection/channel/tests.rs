//! What a connection reports of a request, depending on what the peer does.

use std::iter::repeat_n;
use std::time::Duration;

use futures::future::join_all;
use rdb_proto::auth::Token;
use rdb_proto::kvrpc::RawGetRequest;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use tokio::time::timeout;

use super::super::scripted_peer::{INTERNAL_ERROR, REFUSED_STREAM, Reaction, ScriptedPeer};
use super::*;
use crate::Config;

async fn connect(address: &str) -> Result<Channel, Box<dyn StdError + Send + Sync>> {
    Channel::connect(address, &Security::default()).await
}

/// Calls a peer that plays this script, once for each of the statuses.
async fn called<const CALLS: usize>(script: Vec<Reaction>) -> [Status; CALLS] {
    let peer = ScriptedPeer::start(vec![script]).await;
    let client = KvRawClient::new(connect(&peer.address).await.expect("it listens"));
    let mut statuses = Vec::new();
    for _ in 0..CALLS {
        let called = client.clone().raw_get(RawGetRequest::default()).await;
        statuses.push(called.expect_err("nobody answers"));
    }
    statuses.try_into().expect("as many")
}

fn error(status: &Status) -> &ConnectionError {
    ConnectionError::of(status).expect("the connection failed")
}

#[tokio::test]
async fn a_failure_says_whether_the_request_was_processed_and_whether_the_connection_is_broken() {
    use Reaction::{GoAwayAfter, GoAwayBefore, Ignore, Reset};
    for (reaction, is_unprocessed, is_broken) in [
        (Reset(REFUSED_STREAM), true, false),
        (Reset(INTERNAL_ERROR), false, false),
        (GoAwayBefore, true, true),
        (GoAwayAfter, false, true),
        // The connection is closed instead.
        (Ignore, false, true),
    ] {
        // The last one is not reached.
        let script = if is_broken {
            vec![reaction]
        } else {
            vec![reaction, reaction, Ignore]
        };
        let called = timeout(Duration::from_secs(60), called(script)).await;
        let [first, next] = called.expect("calls end");
        let said = [error(&first).is_unprocessed(), error(&first).is_broken()];
        let expected = [is_unprocessed, is_broken];
        assert_eq!(said, expected, "{reaction:?}: {first:?}");
        // A connection that is gone does not write it.
        let said = [error(&next).is_unprocessed(), error(&next).is_broken()];
        let expected = [is_unprocessed || is_broken, is_broken];
        assert_eq!(said, expected, "{reaction:?}, the next: {next:?}");
    }
}

/// How many of `calls` are certainly not processed by a peer that plays this script, which ends when it drains. It is greeted first if it
/// settles.
async fn unprocessed(calls: usize, script: Vec<Reaction>) -> usize {
    let is_greeted = matches!(script[..], [Reaction::Settle(_), ..]);
    let peer = ScriptedPeer::start(vec![script]).await;
    let client = KvRawClient::new(connect(&peer.address).await.expect("it listens"));
    if is_greeted {
        let greeted = client.clone().raw_get(RawGetRequest::default()).await;
        greeted.expect("it answers");
    }
    let all = (0..calls).map(|_| {
        let mut client = client.clone();
        async move { client.raw_get(RawGetRequest::default()).await }
    });
    let ended = timeout(Duration::from_secs(60), join_all(all)).await;
    let ended = ended.expect("calls end").into_iter();
    let failed = ended.map(|result| result.expect_err("nobody answers"));
    failed
        .filter(|status| error(status).is_unprocessed())
        .count()
}

#[tokio::test]
async fn a_call_beyond_those_under_way_is_certainly_not_processed_when_the_peer_drains() {
    // The peer would not get as many if the client left a larger distance to its limit.
    for (accepted, under_way) in [
        (CONCURRENT_STREAMS_MIN, CALLS_BEFORE_SETTINGS),
        (100, 99),
        (CONCURRENT_STREAMS_MAX, CALLS_MAX),
        (u32::MAX, CALLS_MAX),
    ] {
        let mut script = vec![Reaction::Settle(accepted)];
        script.extend(repeat_n(Reaction::Ignore, under_way - 1));
        script.push(Reaction::GoAwayAfter);
        let beyond = 5;
        let unprocessed = unprocessed(under_way + beyond, script).await;
        assert_eq!(unprocessed, beyond, "{accepted} are accepted");
    }
}

#[tokio::test]
async fn calls_that_meet_a_drain_before_the_peers_settings_are_certainly_not_processed() {
    let mut script = vec![Reaction::Ignore; CALLS_BEFORE_SETTINGS - 1];
    script.push(Reaction::GoAwayAfter);
    let unprocessed = unprocessed(CALLS_MAX, script).await;
    assert_eq!(unprocessed, CALLS_MAX - CALLS_BEFORE_SETTINGS);
}

/// Calls over `channel` until it is broken and says so with certainty.
async fn call_until_closed(channel: Channel) {
    let client = KvRawClient::new(channel);
    loop {
        let called = client.clone().raw_get(RawGetRequest::default()).await;
        let status = called.expect_err("nobody answers");
        if error(&status).is_unprocessed() {
            return;
        }
    }
}

/// A request can enter the queue of a connection just while the connection ends. hyper alone would leave the call waiting
/// then, about once in a thousand connections here.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_call_is_left_waiting_when_its_connection_ends() {
    // Each connection is closed at its first request.
    let peer = ScriptedPeer::start(vec![vec![Reaction::Ignore]; 1_000]).await;
    for _ in 0..1_000 {
        let channel = connect(&peer.address).await.expect("it listens");
        let calls = (0..8).map(|_| tokio::spawn(call_until_closed(channel.clone())));
        let ended = timeout(Duration::from_secs(60), join_all(calls)).await;
        for ended in ended.expect("calls end") {
            ended.expect("no panic");
        }
    }
}

#[tokio::test]
async fn a_status_of_the_peer_is_not_the_connections() {
    for status in [Status::unavailable("drained"), Status::unknown("")] {
        assert!(ConnectionError::of(&status).is_none());
    }
}

#[tokio::test]
async fn every_request_carries_the_token_as_a_value_that_is_not_shown() {
    let peer = ScriptedPeer::start(vec![vec![]; 2]).await;
    let text = format!("flaredb_{}", "0f".repeat(32));
    let token: Token = text.parse().expect("it is one");
    let config = Config::default().with_token(token);
    let security = Security::of(&config).expect("it is valid");
    let channel = Channel::connect(&peer.address, &security).await;
    let channel = channel.expect("it listens");
    for channel in [channel.clone(), channel] {
        let request = channel.addressed(Request::new(Body::empty()));
        let carried = request.headers().get(AUTHORIZATION).expect("it is there");
        assert_eq!(carried, format!("Bearer {text}").as_str());
        assert!(carried.is_sensitive());
        assert!(!format!("{channel:?}{request:?}").contains("0f0f"));
    }
    let channel = connect(&peer.address).await.expect("it listens");
    let request = channel.addressed(Request::new(Body::empty()));
    assert!(!request.headers().contains_key(AUTHORIZATION));
}

#[tokio::test]
async fn the_token_of_a_file_is_that_of_the_next_look_and_only_such_a_token_changes() {
    let directory = tempfile::tempdir().expect("the temporary directory can be written");
    let file = directory.path().join("token");
    let text = format!("flaredb_{}", "a1".repeat(32));
    std::fs::write(&file, format!("{text}\n")).expect("written");
    let security = Security::of(&Config::default().with_token_file(&file)).expect("it is valid");
    let value = security.changing_token().expect("it may change");
    assert_eq!(value, format!("Bearer {text}").as_str());
    let given = Config::default().with_token(text.parse().expect("it is one"));
    let given = Security::of(&given).expect("it is valid");
    assert!(given.changing_token().is_none() && Security::default().changing_token().is_none());
}
