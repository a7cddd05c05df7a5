//! Scans over pages and regions.

use futures::{StreamExt, TryStreamExt};
use rdb_client::{Bytes, Client, Error, KeyRange, KeyValue, ScanOptions};

use crate::fates::cluster::{Cluster, region};
use crate::fates::store::{PAGE_ENTRIES, PAGE_SKIPPED_MAX};

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";

/// A letter a key, over three regions.
async fn alphabet() -> (Cluster, Client) {
    let cluster = Cluster::with_three_regions().await;
    let client = cluster.client().await;
    let entries = LETTERS
        .chars()
        .map(|letter| (letter.to_string(), letter.to_string()));
    client.raw_batch_put(entries).await.unwrap();
    (cluster, client)
}

async fn letters(client: &Client, range: impl Into<KeyRange>, options: ScanOptions) -> String {
    let entries: Vec<_> = client.raw_scan(range, options).try_collect().await.unwrap();
    let keys: Vec<u8> = entries.into_iter().flat_map(|entry| entry.key).collect();
    String::from_utf8(keys).unwrap()
}

#[tokio::test]
async fn a_scan_goes_over_pages_and_regions_both_ways() {
    let (_cluster, client) = alphabet().await;
    let forward = ScanOptions::default();
    let reverse = forward.with_reverse(true);
    let backwards = |letters: &str| letters.chars().rev().collect::<String>();

    assert_eq!(letters(&client, .., forward).await, LETTERS);
    assert_eq!(letters(&client, .., reverse).await, backwards(LETTERS));
    for (start, end) in [
        ("b", "y"),
        ("h", "p"),
        ("g", "h"),
        ("h", "i"),
        ("c", "h"),
        ("", "q"),
    ] {
        let expected: String = LETTERS
            .chars()
            .filter(|letter| (start..end).contains(&letter.to_string().as_str()))
            .collect();
        assert_eq!(letters(&client, start..end, forward).await, expected);
        assert_eq!(
            letters(&client, start..end, reverse).await,
            backwards(&expected)
        );
    }
}

#[tokio::test]
async fn the_limit_is_that_of_the_whole_stream() {
    let (cluster, client) = alphabet().await;
    for limit in [0, 1, PAGE_ENTRIES, 10, 26, 100] {
        let options = ScanOptions::default().with_limit(limit);
        assert_eq!(
            letters(&client, .., options).await,
            LETTERS[..limit.min(26)]
        );
        let options = options.with_reverse(true);
        assert_eq!(letters(&client, .., options).await.len(), limit.min(26));
    }
    let requests = cluster.node.store.requests();
    let options = ScanOptions::default().with_limit(2);
    letters(&client, .., options).await;
    assert_eq!(
        cluster.node.store.requests(),
        requests + 1,
        "no page beyond the limit"
    );
}

#[tokio::test]
async fn a_scan_of_keys_leaves_values_out() {
    let (_cluster, client) = alphabet().await;
    let options = ScanOptions::default().with_keys_only(true);
    let entries: Vec<_> = client.raw_scan(.., options).try_collect().await.unwrap();
    assert_eq!(entries.len(), 26);
    assert!(entries.iter().all(|entry| entry.value.is_empty()));
}

#[tokio::test]
async fn what_was_read_together_does_not_keep_its_message() {
    let (_cluster, client) = alphabet().await;
    // Small ones are copied together.
    for key in ["a", "b", "c", "d", "e", "f"] {
        client.raw_put(key, vec![b'v'; 2048]).await.unwrap();
    }
    // Two full pages. Parts of one buffer would share it with each other.
    let entries = client.raw_scan("a".."g", ScanOptions::default());
    let entries: Vec<_> = entries.try_collect().await.unwrap();
    let own_memory = |entry: &KeyValue| entry.key.is_unique() && entry.value.is_unique();
    assert!(entries.iter().all(own_memory));
    let values = client.raw_batch_get(["a", "b", "c", "d"]).await.unwrap();
    assert!(values.iter().flatten().all(Bytes::is_unique));
}

#[tokio::test]
async fn a_versioned_scan_shows_versions() {
    let (_cluster, client) = alphabet().await;
    client.cas_put("a", 0, "1").await.unwrap();
    client.cas_put("a", 1, "2").await.unwrap();
    client.cas_put("z", 0, "3").await.unwrap();
    let entries: Vec<_> = client
        .scan(.., ScanOptions::default())
        .try_collect()
        .await
        .unwrap();
    let seen: Vec<_> = entries
        .iter()
        .map(|entry| (&entry.key[..], entry.version))
        .collect();
    assert_eq!(seen, [(&b"a"[..], 2), (b"z", 1)]);
}

#[tokio::test]
async fn a_scan_goes_on_behind_pages_that_are_empty() {
    let (cluster, client) = alphabet().await;
    // So many deleted keys in a row that pages find nothing else, in two regions.
    let deleted: Vec<String> = ('c'..='n').map(String::from).collect();
    assert!(deleted.len() > 4 * PAGE_SKIPPED_MAX);
    client.raw_batch_delete(&deleted).await.unwrap();
    let forward = ScanOptions::default();
    let left = "abopqrstuvwxyz";

    let requests = cluster.node.store.requests();
    assert_eq!(letters(&client, .., forward).await, left);
    let pages = cluster.node.store.requests() - requests;
    assert!(pages > left.len() / PAGE_ENTRIES + 3, "{pages} pages");
    let backwards: String = left.chars().rev().collect();
    let reverse = forward.with_reverse(true);
    assert_eq!(letters(&client, .., reverse).await, backwards);
    assert_eq!(letters(&client, .., forward.with_limit(3)).await, "abo");
    assert_eq!(letters(&client, "d".."m", forward).await, "");
}

#[tokio::test]
async fn a_prefix_is_scanned_without_its_neighbours() {
    let (_cluster, client) = alphabet().await;
    for key in ["b/1", "b/2", "b0"] {
        client.raw_put(key, "raw").await.unwrap();
        client.cas_put(key, 0, "versioned").await.unwrap();
    }
    let options = ScanOptions::default();
    let raw = client.raw_scan_prefix("b/", options);
    let raw: Vec<_> = raw.map_ok(|entry| entry.key).try_collect().await.unwrap();
    assert_eq!(raw, ["b/1", "b/2"]);
    let versioned = client.scan_prefix("b/", options.with_reverse(true));
    let versioned = versioned.map_ok(|entry| entry.key);
    let versioned: Vec<_> = versioned.try_collect().await.unwrap();
    assert_eq!(versioned, ["b/2", "b/1"]);
}

#[tokio::test]
async fn a_scan_goes_on_when_a_region_splits_under_it() {
    for reverse in [false, true] {
        let cluster = Cluster::start().await;
        let client = cluster.client().await;
        let entries = LETTERS.chars().map(|letter| (letter.to_string(), "v"));
        client.raw_batch_put(entries).await.unwrap();
        let options = ScanOptions::default().with_reverse(reverse);
        let mut stream = client.raw_scan(.., options);
        stream.next().await.unwrap().unwrap();
        cluster
            .node
            .store
            .set_regions(vec![region(1, 2, "", "k"), region(2, 2, "k", "")]);
        let rest: Vec<_> = stream.try_collect().await.unwrap();
        assert_eq!(rest.len(), LETTERS.len() - 1, "reverse: {reverse}");
    }
}

#[tokio::test]
async fn an_inverted_range_is_an_error_and_an_empty_one_an_empty_stream() {
    let (cluster, client) = alphabet().await;
    let requests = cluster.node.store.requests();
    let mut inverted = client.raw_scan("b".."a", ScanOptions::default());
    let first = inverted.next().await;
    assert!(
        matches!(first, Some(Err(Error::InvalidArgument { .. }))),
        "{first:?}"
    );
    assert!(inverted.next().await.is_none());
    assert!(
        client
            .raw_scan("a".."a", ScanOptions::default())
            .next()
            .await
            .is_none()
    );
    assert!(
        client
            .raw_scan(.."", ScanOptions::default())
            .next()
            .await
            .is_none()
    );
    assert_eq!(cluster.node.store.requests(), requests);
}

#[tokio::test]
async fn a_stream_reads_no_further_than_it_is_taken() {
    let (cluster, client) = alphabet().await;
    let requests = cluster.node.store.requests();
    let mut stream = client.raw_scan(.., ScanOptions::default());
    assert_eq!(
        cluster.node.store.requests(),
        requests,
        "not before the first entry is asked for"
    );
    for _ in 0..PAGE_ENTRIES {
        stream.next().await.unwrap().unwrap();
    }
    assert_eq!(cluster.node.store.requests(), requests + 1);
    drop(stream);
    client.raw_get("a").await.unwrap();
    assert_eq!(
        cluster.node.store.requests(),
        requests + 2,
        "the read alone"
    );
}
