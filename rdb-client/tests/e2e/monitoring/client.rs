//! What a client reports, against real servers; and against a scripted one where those do not fail on demand.

use std::collections::BTreeSet;

use futures::{FutureExt, StreamExt};
use metrics::{LocalRecorderGuard, Unit, set_default_local_recorder};
use rdb_client::{Client, Config, Error, ScanOptions};

use super::recorder::Numbers;
use crate::fates;
use crate::fates::cluster::SHORT;
use crate::fates::leaders::Group;
use crate::fates::proxy::Mode;
use crate::harness::{CallPath, Cluster, HANG_GUARD, found, guarded};

/// Clients that connect on this thread report to `numbers` until the guard is dropped.
fn recorded(numbers: &Numbers) -> LocalRecorderGuard<'_> {
    set_default_local_recorder(numbers)
}

/// The calls of a kind that ended so.
fn calls(numbers: &Numbers, kind: &str, outcome: &str) -> Option<f64> {
    let labels = format!("{{kind=\"{kind}\",outcome=\"{outcome}\"}}");
    numbers.get(&format!("flaredb_client_calls_total{labels}"))
}

fn measured(numbers: &Numbers, kind: &str) -> Option<f64> {
    let labels = format!("{{kind=\"{kind}\"}}");
    numbers.get(&format!("flaredb_client_call_duration_seconds{labels}"))
}

#[tokio::test]
async fn a_call_is_counted_once_by_what_it_does_and_how_it_ended() {
    let cluster = Cluster::start().await;
    let numbers = Numbers::default();
    let _recorded = recorded(&numbers);
    let client = cluster.client().await;
    assert_eq!(calls(&numbers, "control", "ok"), Some(1.0), "it connected");
    for number in 0..3 {
        let put = client.raw_put(format!("{number}"), "v").await;
        put.expect("put");
    }
    for _ in 0..2 {
        client.raw_get("0").await.expect("read");
    }
    client.raw_delete("0").await.expect("deleted");
    let version = client.cas_put("swapped", 0, "v").await.expect("swapped");
    let refused = client.cas_put("swapped", version + 7, "v").await;
    assert!(
        matches!(refused, Err(Error::Conflict { .. })),
        "{refused:?}"
    );
    client.get("swapped").await.expect("read");
    let updated = client.update("swapped", |_| "w").await;
    let version = updated.expect("written").version;
    client.cas_delete("swapped", version).await.expect("gone");
    let entries = [("b1", "v"), ("b2", "v")];
    client.raw_batch_put(entries).await.expect("put");
    client.raw_batch_get(["b1", "b2"]).await.expect("read");
    let scanned = client.raw_scan(.., ScanOptions::default());
    let scanned: Vec<_> = scanned.collect().await;
    assert_eq!(scanned.len(), 4);
    client.raw_delete_range("b1".."b2").await.expect("deleted");
    client.tso_batch(5).await.expect("timestamps");
    client.tso().await.expect("a timestamp");

    for (kind, outcome, count) in [
        ("raw_put", "ok", 3.0),
        ("raw_get", "ok", 2.0),
        ("raw_delete", "ok", 1.0),
        // One by itself, and one of the update.
        ("compare_and_swap", "ok", 2.0),
        ("compare_and_swap", "conflict", 1.0),
        ("get", "ok", 2.0),
        ("compare_and_delete", "ok", 1.0),
        ("raw_batch_put", "ok", 1.0),
        ("raw_batch_get", "ok", 1.0),
        ("raw_scan", "ok", 1.0),
        ("raw_delete_range", "ok", 1.0),
        ("tso", "ok", 2.0),
        ("raw_put", "undetermined", 0.0),
        ("raw_get", "given_up", 0.0),
    ] {
        let counted = calls(&numbers, kind, outcome);
        assert_eq!(counted, Some(count), "{kind} {outcome}");
    }
    assert_eq!(measured(&numbers, "compare_and_swap"), Some(3.0));
    assert_eq!(measured(&numbers, "raw_put"), Some(3.0));
    assert_eq!(calls(&numbers, "raw_get", "conflict"), None, "it cannot be");
    assert_eq!(numbers.get("flaredb_client_calls_in_flight"), Some(0.0));
    assert_eq!(client.stats().calls_in_flight, 0);

    // Each call waited for the one before, so none of those about one key shared a message, nor those for timestamps a request.
    let messages = numbers.get("flaredb_client_message_commands");
    assert!(messages >= Some(12.0), "{messages:?}");
    let requests = numbers.get("flaredb_client_tso_request_timestamps");
    assert!(requests >= Some(2.0), "{requests:?}");
    let lookups = numbers.get("flaredb_client_region_lookups_total{outcome=\"ok\"}");
    assert!(lookups >= Some(1.0), "{lookups:?}");
    // One to the store, one to the placement driver, and one for its stream. A busy machine may break one.
    let made = numbers.get("flaredb_client_connection_attempts_total{outcome=\"ok\"}");
    assert!(made >= Some(3.0), "{made:?}");
    let connections = numbers.get("flaredb_client_connections");
    assert!(
        connections > Some(0.0) && connections <= made,
        "{connections:?}"
    );
    drop(client);
    found("the connections go with the client", async || {
        let connections = numbers.get("flaredb_client_connections");
        (connections == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_store_that_is_gone_shows_as_errors_and_retries() {
    let mut cluster = Cluster::start().await;
    let numbers = Numbers::default();
    let _recorded = recorded(&numbers);
    let client = cluster.client().await;
    client.raw_put("k", "v").await.expect("put");
    let retries = || numbers.get("flaredb_client_retries_total{reason=\"unavailable\"}");
    assert_eq!(retries(), Some(0.0));

    cluster.store.kill();
    let failed = client.with_timeout(SHORT).raw_get("k").await;
    let outcome = match failed {
        Err(Error::Unavailable { .. }) => "unavailable",
        Err(Error::DeadlineExceeded { .. }) => "deadline_exceeded",
        other => panic!("the store is not there: {other:?}"),
    };
    assert_eq!(calls(&numbers, "raw_get", outcome), Some(1.0));

    let patient = client.with_timeout(HANG_GUARD);
    let before = retries();
    let read = tokio::spawn(async move { patient.raw_get("k").await });
    found("a retry", async || (retries() > before).then_some(())).await;
    let in_flight = numbers.get("flaredb_client_calls_in_flight");
    assert_eq!(in_flight, Some(1.0));
    cluster.store.start_serving().await;
    let read = guarded("the read goes on", read).await.expect("no panic");
    assert_eq!(read.expect("read").as_deref(), Some(&b"v"[..]));
    assert_eq!(calls(&numbers, "raw_get", "ok"), Some(1.0));
    let failed = numbers.get("flaredb_client_connection_attempts_total{outcome=\"failed\"}");
    assert!(failed >= Some(1.0), "{failed:?}");
}

#[tokio::test]
async fn a_call_whose_future_is_dropped_is_given_up_and_in_flight_no_more() {
    let cluster = Cluster::start().await;
    let numbers = Numbers::default();
    let _recorded = recorded(&numbers);
    let client = cluster.client().await;
    assert!(client.raw_get("k").now_or_never().is_none());
    assert!(client.tso().now_or_never().is_none());
    assert_eq!(calls(&numbers, "raw_get", "given_up"), Some(1.0));
    assert_eq!(calls(&numbers, "tso", "given_up"), Some(1.0));
    assert_eq!(numbers.get("flaredb_client_calls_in_flight"), Some(0.0));
}

#[tokio::test]
async fn an_attempt_to_connect_that_nobody_answers_has_failed() {
    let cluster = fates::cluster::Cluster::start().await;
    let numbers = Numbers::default();
    let _recorded = recorded(&numbers);
    let config = Config::default().with_timeout(HANG_GUARD);
    let config = config.with_connect_timeout(SHORT);
    let address = cluster.pd.proxy.address.to_string();
    let client = Client::connect_with([address], config);
    let client = client.await.expect("it is connected");
    let failed = || numbers.get("flaredb_client_connection_attempts_total{outcome=\"failed\"}");
    let before = failed();
    cluster.node.proxy.set_mode(Mode::HoldAnswers);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.raw_get("k").await }
    });
    found("an attempt that failed", async || {
        (failed() > before).then_some(())
    })
    .await;
    waiting.abort();
}

#[tokio::test]
async fn a_search_for_a_leader_is_counted() {
    let group = Group::start().await;
    let numbers = Numbers::default();
    let _recorded = recorded(&numbers);
    let client = group.client_over(CallPath::Batched).await;
    client.raw_put("k", "1").await.expect("put");
    let searches = || numbers.get("flaredb_client_leader_searches_total");
    let before = searches();
    assert!(before.is_some(), "it is there from the start");
    group.depose(2);
    let write = tokio::spawn(async move { client.raw_put("k", "2").await });
    found("a search", async || (searches() > before).then_some(())).await;
    group.elect(3, 3);
    write.await.expect("no panic").expect("put");
}

#[tokio::test]
async fn clients_of_one_process_add_to_the_same_figures() {
    let cluster = fates::cluster::Cluster::start().await;
    let numbers = Numbers::default();
    let _recorded = recorded(&numbers);
    let clients = [cluster.client().await, cluster.client().await];
    for client in &clients {
        client.raw_get("k").await.expect("read");
    }
    assert_eq!(calls(&numbers, "raw_get", "ok"), Some(2.0));
    let [one, other] = clients;
    drop(one);
    other.raw_get("k").await.expect("read");
    assert_eq!(calls(&numbers, "raw_get", "ok"), Some(3.0));
    let connections = numbers.get("flaredb_client_connections");
    assert!(connections > Some(0.0), "{connections:?}");
}

#[tokio::test]
async fn a_write_whose_fate_is_unknown_is_counted_as_that() {
    let cluster = fates::cluster::Cluster::start().await;
    let numbers = Numbers::default();
    let _recorded = recorded(&numbers);
    let client = cluster.client().await;
    client.raw_get("k").await.expect("read");
    cluster.node.proxy.set_mode(Mode::CutRequests);
    let lost = client.raw_put("k", "v").await;
    assert!(matches!(lost, Err(Error::Undetermined { .. })), "{lost:?}");
    assert_eq!(calls(&numbers, "raw_put", "undetermined"), Some(1.0));
    assert_eq!(calls(&numbers, "raw_put", "ok"), Some(0.0));
}

#[tokio::test]
async fn every_figure_is_described_with_its_unit_and_documented() {
    let cluster = Cluster::start().await;
    let numbers = Numbers::default();
    let _recorded = recorded(&numbers);
    let client = cluster.client().await;
    client.raw_put("k", "v").await.expect("put");
    let mut names = BTreeSet::new();
    for (name, unit, help) in numbers.described() {
        let is_duration = name.ends_with("_seconds");
        let expected = if is_duration {
            Unit::Seconds
        } else {
            Unit::Count
        };
        assert_eq!(unit, Some(expected), "{name}");
        assert!(help.len() > 10 && help.ends_with('.'), "{name}: {help:?}");
        assert!(name.starts_with("flaredb_client_"), "{name}");
        names.insert(name);
    }
    let documented = include_str!("../../../../docs/monitoring.md").split('`');
    let documented = documented.filter(|word| word.starts_with("flaredb_client_"));
    let documented = documented.map(|word| word.split('{').next().unwrap_or(word).to_owned());
    let documented: BTreeSet<_> = documented.collect();
    assert_eq!(names, documented, "docs/monitoring.md has them all");
}
