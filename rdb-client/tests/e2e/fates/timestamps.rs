//! The client's stream of timestamps: who shares a request, and what happens when the stream does not answer.

use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::poll;
use rdb_client::{Client, Config, Error, Timestamp};
use rdb_proto::error::Fault;
use tonic::Code;

use crate::fates::cluster::{CLUSTER_ID, Cluster, PATIENT, PdNode, SHORT, connect};
use crate::harness::{CallPath, HANG_GUARD, found, guarded};

/// Far more than there are requests in flight.
const CALLERS: usize = 1_000;

async fn client_of(pd: &PdNode) -> Client {
    connect([pd.proxy.address]).await
}

/// A client that makes a unary call for each timestamp.
async fn unary_client_of(pd: &PdNode) -> Client {
    let config = Config::default().with_timeout(PATIENT).with_unary(true);
    let addresses = [pd.proxy.address.to_string()];
    Client::connect_with(addresses, config).await.unwrap()
}

fn spawn_tso(client: &Client) -> tokio::task::JoinHandle<Result<Timestamp, Error>> {
    let client = client.clone();
    tokio::spawn(async move { client.tso().await })
}

#[tokio::test]
async fn callers_that_come_together_share_a_request() {
    let pd = PdNode::start(CLUSTER_ID).await;
    let client = client_of(&pd).await;
    let tasks: Vec<_> = (0..CALLERS).map(|_| spawn_tso(&client)).collect();
    let mut taken: Vec<_> = join_all(tasks)
        .await
        .into_iter()
        .map(|taken| taken.unwrap().unwrap())
        .collect();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), CALLERS);
    let stats = client.stats();
    assert_eq!(stats.tso_timestamps, CALLERS as u64);
    assert_eq!(stats.tso_requests, pd.pd.tso_requests() as u64);
    assert!(stats.tso_requests <= 10, "{stats:?}");
}

#[tokio::test]
async fn a_call_that_begins_after_a_request_was_sent_is_not_answered_by_it() {
    let pd = PdNode::start(CLUSTER_ID).await;
    let (client, other) = (client_of(&pd).await, unary_client_of(&pd).await);
    for round in 1..=20 {
        pd.pd.hold_timestamps(true);
        let early = spawn_tso(&client);
        // The early call's timestamp is taken, and on its way.
        pd.pd.wait_tso_requests(2 * round - 1).await;
        let between = other.tso().await.unwrap();
        let late = spawn_tso(&client);
        tokio::task::yield_now().await;
        pd.pd.hold_timestamps(false);
        let (early, late) = (early.await.unwrap().unwrap(), late.await.unwrap().unwrap());
        assert!(
            early < between && between < late,
            "{early} {between} {late}"
        );
    }
}

#[tokio::test]
async fn nothing_is_sent_for_callers_that_went_away() {
    let pd = PdNode::start(CLUSTER_ID).await;
    let client = client_of(&pd).await;
    for stream_is_open in [false, true] {
        let before = client.stats();
        let mut calls: Vec<_> = (0..CALLERS).map(|_| Box::pin(client.tso())).collect();
        for call in &mut calls {
            assert!(poll!(call).is_pending());
        }
        assert_eq!(client.stats().calls_in_flight, CALLERS as u64);
        drop(calls);
        assert_eq!(client.stats().calls_in_flight, 0);
        client.tso().await.unwrap();
        let after = client.stats();
        let requests = after.tso_requests - before.tso_requests;
        let timestamps = after.tso_timestamps - before.tso_timestamps;
        assert_eq!((requests, timestamps), (1, 1), "{stream_is_open}");
    }
    assert_eq!(pd.pd.tso_requests(), 2);
}

#[tokio::test]
async fn callers_that_go_away_do_not_disturb_the_others() {
    let pd = PdNode::start(CLUSTER_ID).await;
    let client = client_of(&pd).await;
    pd.pd.hold_timestamps(true);
    let mut tasks: Vec<_> = (0..CALLERS).map(|_| spawn_tso(&client)).collect();
    pd.pd.wait_tso_requests(1).await;
    tasks.extend((0..CALLERS).map(|_| spawn_tso(&client)));
    tokio::task::yield_now().await;
    // Of each request some go, whether it was sent or not.
    let (gone, stay): (Vec<_>, Vec<_>) = tasks
        .into_iter()
        .enumerate()
        .partition(|(index, _)| index % 2 == 0);
    for (_, task) in gone {
        task.abort();
    }
    pd.pd.hold_timestamps(false);
    let mut taken = Vec::new();
    for (_, task) in stay {
        taken.push(task.await.unwrap().unwrap());
    }
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), CALLERS);
}

#[tokio::test]
async fn batches_are_consecutive_and_share_nothing() {
    let pd = PdNode::start(CLUSTER_ID).await;
    let client = client_of(&pd).await;
    let counts = (0..CALLERS as u32).map(|caller| [1, 7, 300, 40_000, 65_536][caller as usize % 5]);
    let calls = counts.map(|count| {
        let client = client.clone();
        async move { (count, client.tso_batch(count).await.unwrap()) }
    });
    let mut ranges: Vec<_> = join_all(calls)
        .await
        .into_iter()
        .map(|(count, taken)| {
            assert_eq!(taken.len(), count as usize);
            let first = taken.first().as_u64();
            first..first + u64::from(count)
        })
        .collect();
    ranges.sort_unstable_by_key(|range| range.start);
    assert!(ranges.is_sorted_by(|one, next| one.end <= next.start));
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_the_one_beside_it_goes_on() {
    let pd = PdNode::start(CLUSTER_ID).await;
    let client = client_of(&pd).await;
    pd.pd.hold_timestamps(true);
    let patient = spawn_tso(&client.with_timeout(HANG_GUARD));
    let began = Instant::now();
    let hurried = client.with_timeout(SHORT);
    let ended = guarded("the deadline", hurried.tso()).await;
    assert!(
        matches!(ended, Err(Error::DeadlineExceeded { timeout: SHORT, .. })),
        "{ended:?}"
    );
    assert!(began.elapsed() >= SHORT);
    assert!(!patient.is_finished());
    pd.pd.hold_timestamps(false);
    assert!(patient.await.unwrap().is_ok());
}

#[tokio::test]
async fn calls_without_a_placement_driver_end_with_the_cause() {
    let pd = PdNode::start(CLUSTER_ID).await;
    let client = client_of(&pd).await;
    pd.proxy.refuse().await;
    let hurried = client.with_timeout(SHORT).tso().await;
    let error = hurried.expect_err("nobody is there");
    let address = pd.proxy.address.to_string();
    assert!(error.to_string().contains(&address), "{error}");
    pd.proxy.listen();
    assert!(client.tso().await.is_ok());
}

#[tokio::test]
async fn requests_in_flight_on_a_broken_stream_are_sent_again() {
    let pd = PdNode::start(CLUSTER_ID).await;
    let client = client_of(&pd).await;
    pd.pd.hold_timestamps(true);
    let early = spawn_tso(&client);
    pd.pd.wait_tso_requests(1).await;
    pd.proxy.cut().await;
    let late = spawn_tso(&client);
    pd.pd.hold_timestamps(false);
    assert_ne!(early.await.unwrap().unwrap(), late.await.unwrap().unwrap());
}

#[tokio::test]
async fn a_fault_that_passes_is_waited_for_and_one_that_stays_ends_the_call() {
    let pd = PdNode::start(CLUSTER_ID).await;
    let client = client_of(&pd).await;
    for _ in 0..3 {
        let fault = Fault::new(Code::Unavailable, "stalled");
        pd.pd.fail_timestamps(fault.into());
    }
    assert!(client.tso().await.is_ok());

    pd.pd
        .fail_timestamps(Fault::new(Code::Internal, "a bug").into());
    let failed = client.tso().await;
    assert!(
        matches!(&failed, Err(Error::Internal { cause }) if cause.contains("a bug")),
        "{failed:?}"
    );
    assert!(client.tso().await.is_ok());
}

#[tokio::test]
async fn a_client_that_is_not_let_in_any_more_is_told_so_at_once() {
    let pd = PdNode::start(CLUSTER_ID).await;
    for client in [client_of(&pd).await, unary_client_of(&pd).await] {
        client.tso().await.unwrap();
        let refusal = Fault::new(Code::Unauthenticated, "the token is no user's");
        pd.pd.fail_timestamps(refusal.clone().into());
        pd.pd.refuse(Some(refusal.clone().into()));
        let failed = client.tso().await;
        assert!(
            matches!(&failed, Err(Error::Unauthenticated { cause }) if &**cause == "the token is no user's"),
            "{failed:?}"
        );
        // One that is let in again, or by another token, notices nothing.
        pd.pd.fail_timestamps(refusal.into());
        pd.pd.refuse(None);
        client.tso().await.unwrap();
    }
}

#[tokio::test]
async fn a_silent_placement_driver_is_left_for_another() {
    let (silent, other) = (
        PdNode::start(CLUSTER_ID).await,
        PdNode::start(CLUSTER_ID).await,
    );
    let config = Config::default().with_timeout(HANG_GUARD);
    let addresses = [silent.proxy.address, other.proxy.address].map(|address| address.to_string());
    let client = Client::connect_with(addresses, config).await.unwrap();
    client.tso().await.unwrap();
    assert_eq!(other.pd.tso_requests(), 0);
    other.pd.set_next_timestamp(1_000);
    silent.pd.hold_timestamps(true);
    client.tso().await.unwrap();
    client.tso().await.unwrap();
    assert_eq!((silent.pd.tso_requests(), other.pd.tso_requests()), (2, 2));
}

#[tokio::test]
async fn what_a_member_took_without_accepting_the_stream_is_asked_of_another() {
    let (mute, other) = (
        PdNode::start(CLUSTER_ID).await,
        PdNode::start(CLUSTER_ID).await,
    );
    let config = Config::default()
        .with_timeout(HANG_GUARD)
        .with_connect_timeout(Duration::from_millis(500));
    let addresses = [mute.proxy.address, other.proxy.address].map(|address| address.to_string());
    let client = Client::connect_with(addresses, config).await.unwrap();
    mute.pd.hold_streams(true);
    other.pd.set_next_timestamp(1_000);
    assert!(client.tso().await.unwrap().as_u64() >= 1_000);
}

#[tokio::test]
async fn the_stream_ends_with_the_client() {
    let pd = PdNode::start(CLUSTER_ID).await;
    let client = client_of(&pd).await;
    client.tso().await.unwrap();
    assert!(pd.proxy.connections() > 0);
    drop(client);
    guarded("the connection is closed", pd.proxy.closed()).await;
}

#[tokio::test]
async fn unary_calls_do_not_use_the_stream() {
    let pd = PdNode::start(CLUSTER_ID).await;
    let client = unary_client_of(&pd).await;
    let first = client.tso().await.unwrap();
    assert!(client.tso_batch(5).await.unwrap().first() > first);
    assert_eq!(pd.pd.tso_requests(), 0);
}

#[tokio::test]
async fn a_timestamp_that_was_given_before_is_an_error_that_names_both() {
    let pd = PdNode::start(CLUSTER_ID).await;
    for client in [client_of(&pd).await, unary_client_of(&pd).await] {
        pd.pd.set_next_timestamp(100);
        assert_eq!(client.tso_batch(10).await.unwrap().first().as_u64(), 100);
        for first in [109, 50] {
            pd.pd.set_next_timestamp(first);
            let result = client.tso().await;
            let named = format!("timestamp {first} after 109");
            assert!(
                matches!(&result, Err(Error::Internal { cause }) if cause.contains(&named)),
                "{result:?}"
            );
        }
        pd.pd.set_next_timestamp(110);
        assert_eq!(client.tso().await.unwrap().as_u64(), 110);
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_right_is_an_error_and_those_after_it_are_not() {
    let pd = PdNode::start(CLUSTER_ID).await;
    for client in [client_of(&pd).await, unary_client_of(&pd).await] {
        pd.pd.set_next_timestamp(u64::MAX);
        let result = client.tso_batch(2).await;
        assert!(matches!(result, Err(Error::Internal { .. })), "{result:?}");
        pd.pd.set_next_timestamp(100);
        assert_eq!(client.tso().await.unwrap().as_u64(), 100);
    }
}

#[tokio::test]
async fn a_timestamp_of_another_cluster_is_an_error() {
    let pd = PdNode::start(CLUSTER_ID).await;
    for client in [client_of(&pd).await, unary_client_of(&pd).await] {
        pd.pd.give_timestamps_of(8);
        let mismatch = Error::ClusterMismatch {
            expected: CLUSTER_ID,
            found: 8,
        };
        assert_eq!(client.tso().await, Err(mismatch));
        pd.pd.give_timestamps_of(CLUSTER_ID);
        assert!(client.tso().await.is_ok());
    }
}

/// The foreign one gives its timestamps in the name of the client's cluster, so that only the greeting can tell.
#[tokio::test]
async fn a_placement_driver_that_took_over_the_address_meanwhile_is_greeted_before_it_is_believed()
{
    let pd = PdNode::start(CLUSTER_ID).await;
    let foreign = PdNode::start(CLUSTER_ID + 1).await;
    foreign.pd.give_timestamps_of(CLUSTER_ID);
    foreign.pd.set_next_timestamp(1_000);
    let own_address = pd.hidden_address();
    for client in [client_of(&pd).await, unary_client_of(&pd).await] {
        client.tso().await.unwrap();
        pd.proxy.lead_to(foreign.hidden_address()).await;
        // The client notices that its idle connection has ended.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        let result = client.with_timeout(SHORT).tso().await;
        let mismatch = Error::ClusterMismatch {
            expected: CLUSTER_ID,
            found: CLUSTER_ID + 1,
        };
        assert_eq!(result, Err(mismatch));
        pd.proxy.lead_to(own_address).await;
        // The client may not have noticed yet that the foreign one is gone.
        found("its own answers again", async || client.tso().await.ok()).await;
    }
}

#[test]
fn calls_end_at_their_deadline_when_the_runtime_of_the_first_one_stands_still() {
    let serving = tokio::runtime::Runtime::new().unwrap();
    let current_thread = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    for path in [CallPath::Unary, CallPath::Batched] {
        let cluster = serving.block_on(Cluster::start());
        let (first, second) = (current_thread(), current_thread());
        let client = first.block_on(async {
            let client = cluster.client_over(path).await;
            client.tso().await.unwrap();
            client.raw_put("k", "v").await.unwrap();
            client
        });
        // From now on nobody drives the first runtime.
        let hurried = client.with_timeout(SHORT);
        second.block_on(async {
            let got_timestamp = guarded("a timestamp", hurried.tso()).await;
            let read = guarded("a read", hurried.raw_get("k")).await;
            let written = guarded("a write", hurried.raw_put("k", "v")).await;
            let scanned = guarded("a batch", hurried.raw_batch_get(["k"])).await;
            let results = [
                got_timestamp.map(drop),
                read.map(drop),
                written,
                scanned.map(drop),
            ];
            assert!(results.iter().all(Result::is_err), "{path:?}: {results:?}");
        });
        drop(first);
        second.block_on(async {
            guarded("a timestamp", client.tso()).await.unwrap();
            let read = guarded("a read", client.raw_get("k")).await;
            assert_eq!(read, Ok(Some("v".into())), "{path:?}");
        });
    }
}

#[test]
fn a_call_that_waits_for_anothers_lookup_goes_on_when_the_runtime_of_that_has_ended() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let (serving, first, second) = (runtime(), runtime(), runtime());
    let cluster = serving.block_on(Cluster::start());
    let client = second.block_on(cluster.client());
    cluster.pd.pd.hold_lookups(true);
    let asking = client.clone();
    first.spawn(async move { asking.raw_get("k").await });
    serving.block_on(cluster.pd.pd.wait_region_lookups(1));
    let mut waiting = Box::pin(client.raw_get("k"));
    let mut go_on = || second.block_on(async { assert!(poll!(&mut waiting).is_pending()) });
    go_on();
    drop(first);
    go_on();
    cluster.pd.pd.hold_lookups(false);
    assert_eq!(second.block_on(guarded("a read", waiting)), Ok(None));
}

#[test]
fn calls_go_on_when_the_runtime_of_the_first_one_has_ended() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let (serving, first, second) = (runtime(), runtime(), runtime());
    let pd = serving.block_on(PdNode::start(CLUSTER_ID));
    let (client, before) = first.block_on(async {
        let client = client_of(&pd).await;
        let before = client.tso().await.unwrap();
        (client, before)
    });
    drop(first);
    assert!(second.block_on(client.tso()).unwrap() > before);
}
