//! Scans over pages and regions.

use std::ops::{Bound, RangeBounds};

use futures::{StreamExt, TryStreamExt};
use rdb_client::{Client, Error, ScanOptions};

use crate::fates::cluster::{Cluster, region};
use crate::fates::store::PAGE_ENTRIES;

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";

/// A letter a key, over three regions.
async fn alphabet() -> (Cluster, Client) {
    let regions = vec![
        region(1, 1, "", "h"),
        region(2, 1, "h", "p"),
        region(3, 1, "p", ""),
    ];
    let cluster = Cluster::with_regions(regions).await;
    let client = cluster.client().await;
    let entries = LETTERS
        .chars()
        .map(|letter| (letter.to_string(), letter.to_string()));
    client.raw_batch_put(entries).await.unwrap();
    (cluster, client)
}

async fn letters<'a>(
    client: &Client,
    range: impl RangeBounds<&'a str>,
    options: ScanOptions,
) -> String {
    let entries: Vec<_> = client.raw_scan(range, options).try_collect().await.unwrap();
    let keys: Vec<u8> = entries.into_iter().flat_map(|entry| entry.key).collect();
    String::from_utf8(keys).unwrap()
}

fn bounds<'a>(start: &'a str, end: &'a str) -> (Bound<&'a str>, Bound<&'a str>) {
    (Bound::Included(start), Bound::Excluded(end))
}

#[tokio::test]
async fn a_scan_goes_over_pages_and_regions_both_ways() {
    let (_cluster, client) = alphabet().await;
    let forward = ScanOptions::default();
    let reverse = ScanOptions {
        reverse: true,
        ..forward
    };
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
        assert_eq!(
            letters(&client, bounds(start, end), forward).await,
            expected
        );
        assert_eq!(
            letters(&client, bounds(start, end), reverse).await,
            backwards(&expected)
        );
    }
}

#[tokio::test]
async fn the_limit_is_that_of_the_whole_stream() {
    let (cluster, client) = alphabet().await;
    for limit in [0, 1, PAGE_ENTRIES, 10, 26, 100] {
        let options = ScanOptions {
            limit: Some(limit),
            ..ScanOptions::default()
        };
        assert_eq!(
            letters(&client, .., options).await,
            LETTERS[..limit.min(26)]
        );
        let options = ScanOptions {
            reverse: true,
            ..options
        };
        assert_eq!(letters(&client, .., options).await.len(), limit.min(26));
    }
    let requests = cluster.node.store.requests();
    let options = ScanOptions {
        limit: Some(2),
        ..ScanOptions::default()
    };
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
    let options = ScanOptions {
        keys_only: true,
        ..ScanOptions::default()
    };
    let entries: Vec<_> = client
        .raw_scan::<&str>(.., options)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(entries.len(), 26);
    assert!(entries.iter().all(|entry| entry.value.is_empty()));
}

#[tokio::test]
async fn a_versioned_scan_shows_versions() {
    let (_cluster, client) = alphabet().await;
    client.cas_put("a", 0, "1").await.unwrap();
    client.cas_put("a", 1, "2").await.unwrap();
    client.cas_put("z", 0, "3").await.unwrap();
    let entries: Vec<_> = client
        .scan::<&str>(.., ScanOptions::default())
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
async fn a_scan_goes_on_when_a_region_splits_under_it() {
    for reverse in [false, true] {
        let cluster = Cluster::start().await;
        let client = cluster.client().await;
        let entries = LETTERS.chars().map(|letter| (letter.to_string(), "v"));
        client.raw_batch_put(entries).await.unwrap();
        let options = ScanOptions {
            reverse,
            ..ScanOptions::default()
        };
        let mut stream = client.raw_scan::<&str>(.., options);
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
    let mut stream = client.raw_scan::<&str>(.., ScanOptions::default());
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
