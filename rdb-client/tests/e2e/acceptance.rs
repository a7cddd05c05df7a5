//! The main job, as an application sees it.
//!
//! Each promise is a function over a [`Client`], so that it can be run over every way that leads to a store. All of them
//! share one cluster, so each keeps to keys that begin with its own name.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use rdb_client::{Client, Error, ScanOptions};

use crate::harness::{CallPath, Cluster, HANG_GUARD, guarded, over_both_paths};

/// Longest value that a conflict carries, in bytes.
const CONFLICT_VALUE_BYTES_MAX: usize = 64 << 10;

over_both_paths! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    a_cluster_does_its_main_job,
}

async fn a_cluster_does_its_main_job(path: CallPath) {
    let cluster = Cluster::start().await;
    let client = async || cluster.client_over(path).await.with_timeout(HANG_GUARD);
    let clients = [client().await, client().await];
    guarded("the main job", every_promise(&clients)).await;
}

/// Runs all of this module over clients of one cluster whose store is empty.
async fn every_promise(clients: &[Client; 2]) {
    let [one, other] = clients;
    an_empty_store_has_nothing(one).await;
    a_raw_value_is_read_back_by_every_client(one, other).await;
    a_missing_key_is_created_with_version_1(one).await;
    a_conflict_names_the_current_version_and_value(one, other).await;
    a_conflict_omits_a_value_over_64_kib(one).await;
    racing_wins_equal_the_final_version(clients).await;
    a_created_again_key_shows_no_old_version(one, other).await;
    an_empty_value_is_a_value(one).await;
    the_two_keyspaces_do_not_see_each_other(one).await;
    keys_and_values_are_any_bytes_up_to_their_limits(one).await;
    batches_are_read_back_in_the_order_asked_for(one, other).await;
    scans_page_through_ranges_in_both_directions(one).await;
    versioned_scans_and_batches_carry_versions(one, other).await;
    a_range_delete_takes_its_range_and_nothing_else(one).await;
}

/// Goes first: later promises leave keys behind.
async fn an_empty_store_has_nothing(client: &Client) {
    assert_eq!(client.raw_get("k1").await, Ok(None));
    assert_eq!(client.get("k1").await, Ok(None));
    assert_eq!(client.raw_delete("k1").await, Ok(()));
    assert_eq!(raw_scan(client, "", ScanOptions::default()).await, []);
    assert_eq!(
        client.raw_batch_get(["k1", "k2"]).await,
        Ok(vec![None, None])
    );
    assert_conflict(client.cas_put("k1", 1, "v").await, 0, None);
    assert_conflict(client.cas_delete("k1", 1).await, 0, None);
}

async fn a_raw_value_is_read_back_by_every_client(one: &Client, other: &Client) {
    one.raw_put("k1", "v1").await.expect("put");
    assert_eq!(other.raw_get("k1").await, Ok(Some("v1".into())));
    other.raw_put("k1", "v2").await.expect("put");
    assert_eq!(one.raw_get("k1").await, Ok(Some("v2".into())));
    one.raw_delete("k1").await.expect("delete");
    assert_eq!(other.raw_get("k1").await, Ok(None));
}

async fn a_missing_key_is_created_with_version_1(client: &Client) {
    assert_eq!(client.cas_put("k1", 0, "created").await, Ok(1));
    let entry = client.get("k1").await.expect("get").expect("created");
    assert_eq!((entry.version, entry.value), (1, Bytes::from("created")));
}

async fn a_conflict_names_the_current_version_and_value(one: &Client, other: &Client) {
    for version in 0..10 {
        let value = format!("value of version {}", version + 1);
        assert_eq!(
            one.cas_put("conflict", version, value).await,
            Ok(version + 1)
        );
    }
    let current = Some("value of version 10");
    assert_conflict(other.cas_put("conflict", 5, "late").await, 10, current);
    assert_conflict(other.cas_put("conflict", 11, "early").await, 10, current);
    assert_conflict(other.cas_put("conflict", 0, "new").await, 10, current);
    assert_conflict(other.cas_delete("conflict", 5).await, 10, current);
    let entry = one.get("conflict").await.expect("get").expect("unharmed");
    assert_eq!(entry.version, 10);
}

async fn a_conflict_omits_a_value_over_64_kib(client: &Client) {
    let longest = vec![b'x'; CONFLICT_VALUE_BYTES_MAX];
    let longer = vec![b'x'; CONFLICT_VALUE_BYTES_MAX + 1];
    for (key, value, expected) in [
        ("omit/not", longest.clone(), Some(longest)),
        ("omit/yes", longer, None),
    ] {
        assert_eq!(client.cas_put(key, 0, value).await.map(drop), Ok(()));
        match client.cas_put(key, 0, "again").await {
            Err(Error::Conflict { current_value, .. }) => {
                assert!(current_value.as_deref() == expected.as_deref(), "{key}");
            }
            other => panic!("{key}: expected a conflict, got {other:?}"),
        }
    }
}

async fn racing_wins_equal_the_final_version(clients: &[Client; 2]) {
    const RACERS: usize = 64;
    const ROUNDS: usize = 10;
    let racers = (0..RACERS).map(|number| {
        let client = clients[number % clients.len()].clone();
        tokio::spawn(async move {
            let (mut wins, mut version) = (0_u64, 0);
            for _ in 0..ROUNDS {
                match client.cas_put("race", version, number.to_string()).await {
                    Ok(new_version) => {
                        assert_eq!(new_version, version + 1);
                        (wins, version) = (wins + 1, new_version);
                    }
                    Err(Error::Conflict {
                        current_version, ..
                    }) => {
                        assert!(
                            current_version > version,
                            "a conflict names a newer version"
                        );
                        version = current_version;
                    }
                    Err(error) => panic!("racer {number}: {error}"),
                }
            }
            wins
        })
    });
    let wins: u64 = join_all(racers)
        .await
        .into_iter()
        .map(|racer| racer.expect("a racer does not panic"))
        .sum();
    let entry = clients[0]
        .get("race")
        .await
        .expect("get")
        .expect("someone won");
    println!("{RACERS} racers won {wins} of {} swaps", RACERS * ROUNDS);
    assert_eq!(wins, entry.version);
}

async fn a_created_again_key_shows_no_old_version(one: &Client, other: &Client) {
    let mut seen = HashSet::new();
    for round in 0..20 {
        let mut version = one.cas_put("again", 0, "created").await.expect("created");
        assert!(
            seen.insert(version),
            "round {round} shows version {version} again"
        );
        for _ in 0..round % 3 {
            version = other
                .cas_put("again", version, "swapped")
                .await
                .expect("swapped");
            assert!(
                seen.insert(version),
                "round {round} shows version {version} again"
            );
        }
        other.cas_delete("again", version).await.expect("deleted");
        assert_eq!(one.get("again").await, Ok(None));
        assert_conflict(one.cas_delete("again", version).await, 0, None);
        assert_conflict(one.cas_put("again", version, "late").await, 0, None);
    }
}

async fn an_empty_value_is_a_value(client: &Client) {
    client.raw_put("empty", "").await.expect("put");
    assert_eq!(client.raw_get("empty").await, Ok(Some(Bytes::new())));
    let version = client.cas_put("empty", 0, "").await.expect("created");
    let entry = client.get("empty").await.expect("get").expect("it exists");
    assert_eq!((entry.version, entry.value), (version, Bytes::new()));
    assert_conflict(client.cas_put("empty", 0, "v").await, version, Some(""));
    let entries = raw_scan(client, "empty", ScanOptions::default()).await;
    assert_eq!(entries, [entry_of("empty", "")]);
    let values = client.raw_batch_get(["empty", "empty/missing"]).await;
    assert_eq!(values, Ok(vec![Some(Bytes::new()), None]));
}

async fn the_two_keyspaces_do_not_see_each_other(client: &Client) {
    client.raw_put("spaces/raw", "r").await.expect("put");
    client
        .cas_put("spaces/versioned", 0, "v")
        .await
        .expect("created");
    assert_eq!(client.get("spaces/raw").await, Ok(None));
    assert_eq!(client.raw_get("spaces/versioned").await, Ok(None));
    let raw = raw_scan(client, "spaces/", ScanOptions::default()).await;
    assert_eq!(raw, [entry_of("spaces/raw", "r")]);

    client.raw_put("spaces/versioned", "r").await.expect("put");
    client
        .raw_delete_range("spaces/".."spaces0")
        .await
        .expect("deleted");
    let kept = client
        .get("spaces/versioned")
        .await
        .expect("get")
        .expect("kept");
    assert_eq!(kept.value, Bytes::from("v"));
}

async fn keys_and_values_are_any_bytes_up_to_their_limits(client: &Client) {
    let limits = client.limits();
    let longest_key = vec![0xff_u8; limits.key_bytes_max as usize];
    let longest_value = vec![0xff_u8; limits.value_bytes_max as usize];
    for key in [&[0][..], &[0xff, 0, b'\n'], &longest_key] {
        client
            .raw_put(key, longest_value.clone())
            .await
            .expect("put");
        let value = client.raw_get(key).await.expect("get").expect("written");
        assert!(value == longest_value, "{} bytes came back", value.len());
        client.raw_delete(key).await.expect("delete");

        let version = client
            .cas_put(key, 0, longest_value.clone())
            .await
            .expect("created");
        let entry = client.get(key).await.expect("get").expect("written");
        assert!(entry.version == version && entry.value == longest_value);
        client.cas_delete(key, version).await.expect("deleted");
    }
    for (result, field) in [
        (client.raw_put("", "v").await, "key"),
        (
            client
                .raw_put([longest_key.as_slice(), b"k"].concat(), "v")
                .await,
            "key",
        ),
        (
            client
                .raw_put("k", [longest_value.as_slice(), b"v"].concat())
                .await,
            "value",
        ),
    ] {
        match result {
            Err(Error::InvalidArgument { field: named, .. }) => assert_eq!(named, field),
            other => panic!("expected {field} to be refused, got {other:?}"),
        }
    }
}

async fn batches_are_read_back_in_the_order_asked_for(one: &Client, other: &Client) {
    let entries = |value: &'static str| {
        (0..1000).map(move |number| (format!("batch/{number:04}"), format!("{value} {number}")))
    };
    one.raw_batch_put(entries("first")).await.expect("put");
    one.raw_batch_put(entries("second")).await.expect("put");
    let asked = ["batch/0999", "batch/none", "batch/0000", "batch/0500"];
    let expected = [
        Some("second 999".into()),
        None,
        Some("second 0".into()),
        Some("second 500".into()),
    ];
    assert_eq!(other.raw_batch_get(asked).await, Ok(expected.to_vec()));
    one.raw_batch_delete(asked).await.expect("deleted");
    assert_eq!(other.raw_batch_get(asked).await, Ok(vec![None; 4]));
    let left = raw_scan(other, "batch/", ScanOptions::default()).await;
    assert_eq!(left.len(), 997);

    let twice = [("batch/twice", "earlier"), ("batch/twice", "later")];
    one.raw_batch_put(twice).await.expect("put");
    assert_eq!(other.raw_get("batch/twice").await, Ok(Some("later".into())));

    let nothing: [(&str, &str); 0] = [];
    assert_eq!(one.raw_batch_put(nothing).await, Ok(()));
    let limits = one.limits();
    let too_many = (0..=limits.batch_entries_max).map(|number| (number.to_string(), ""));
    match one.raw_batch_put(too_many).await {
        Err(Error::InvalidArgument { limit, .. }) => {
            assert_eq!(limit, Some(limits.batch_entries_max));
        }
        other => panic!("expected the batch to be refused, got {other:?}"),
    }
}

async fn scans_page_through_ranges_in_both_directions(client: &Client) {
    // About 8 MiB: many pages of 1 MiB, with an entry larger than a page among them.
    let model: BTreeMap<Bytes, Bytes> = (0..2000)
        .map(|number| {
            let length = if number == 1000 { 3 << 20 } else { 2500 };
            let value = vec![number as u8; length];
            (format!("scan/{number:04}").into(), value.into())
        })
        .collect();
    let entries: Vec<_> = model
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for chunk in entries.chunks(500) {
        client
            .raw_batch_put(chunk.iter().cloned())
            .await
            .expect("put");
    }

    let page_entries = (client.limits().scan_page_bytes / 2500) as usize;
    for reverse in [false, true] {
        for limit in [
            None,
            Some(0),
            Some(1),
            Some(page_entries),
            Some(1500),
            Some(5000),
        ] {
            for keys_only in [false, true] {
                let options = ScanOptions::default()
                    .with_limit(limit)
                    .with_reverse(reverse)
                    .with_keys_only(keys_only);
                let found = raw_scan(client, "scan/", options).await;
                let expected = expected_of(&model, options);
                assert!(found == expected, "{options:?}: {} entries", found.len());
            }
        }
    }

    let options = ScanOptions::default().with_keys_only(true);
    let included: Vec<_> = client
        .raw_scan("scan/0010"..="scan/0019", options)
        .map_ok(|entry| entry.key)
        .try_collect()
        .await
        .expect("scan");
    let expected: Vec<Bytes> = model.keys().skip(10).take(10).cloned().collect();
    assert_eq!(included, expected);
    let empty: Vec<_> = client
        .raw_scan("scan/0010".."scan/0010", options)
        .collect()
        .await;
    assert_eq!(empty, []);
    let inverted: Vec<_> = client.raw_scan("scan/2".."scan/1", options).collect().await;
    assert!(
        matches!(&inverted[..], [Err(Error::InvalidArgument { .. })]),
        "{inverted:?}"
    );
}

async fn versioned_scans_and_batches_carry_versions(one: &Client, other: &Client) {
    for number in 0..30_u64 {
        let key = format!("versioned/{number:02}");
        let created = one.cas_put(&key, 0, "created").await.expect("created");
        if number % 2 == 1 {
            one.cas_put(&key, created, "swapped")
                .await
                .expect("swapped");
        }
    }
    let forward: Vec<_> = other
        .scan("versioned/".."versioned0", ScanOptions::default())
        .try_collect()
        .await
        .expect("scan");
    assert_eq!(forward.len(), 30);
    for pair in forward.chunks(2) {
        assert_eq!(pair[0].value, Bytes::from("created"));
        assert_eq!(pair[1].value, Bytes::from("swapped"));
        assert_eq!(pair[0].version + 1, pair[1].version);
    }
    let options = ScanOptions::default()
        .with_limit(3)
        .with_reverse(true)
        .with_keys_only(true);
    let backward: Vec<_> = other
        .scan("versioned/".."versioned0", options)
        .try_collect()
        .await
        .expect("scan");
    for (found, expected) in backward.iter().zip(forward.iter().rev().take(3)) {
        assert_eq!(
            (&found.key, found.version),
            (&expected.key, expected.version)
        );
        assert_eq!(found.value, Bytes::new());
    }
    assert_eq!(backward.len(), 3);
    let asked = ["versioned/07", "versioned/none", "versioned/00"];
    let found = other.batch_get(asked).await.expect("read");
    let expected = [Some(&forward[7]), None, Some(&forward[0])];
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(
            found.as_ref().map(|found| (found.version, &found.value)),
            expected.map(|expected| (expected.version, &expected.value))
        );
    }
    assert_eq!(found.len(), 3);
}

async fn a_range_delete_takes_its_range_and_nothing_else(client: &Client) {
    let keys: Vec<_> = (0..10).map(|number| format!("range/{number}")).collect();
    client
        .raw_batch_put(keys.iter().map(|key| (key, "v")))
        .await
        .expect("put");
    client
        .raw_delete_range("range/3".."range/6")
        .await
        .expect("deleted");
    client.raw_delete_range("range/8"..).await.expect("deleted");
    let left = raw_scan(client, "range/", ScanOptions::default()).await;
    let expected = [0, 1, 2, 6, 7].map(|number| entry_of(&keys[number], "v"));
    assert_eq!(left, expected);
    for refused in [
        client.raw_delete_range("range/6".."range/3").await,
        client.raw_delete_range("range/3".."range/3").await,
    ] {
        assert!(
            matches!(refused, Err(Error::InvalidArgument { .. })),
            "{refused:?}"
        );
    }
}

/// All raw entries whose keys begin with `prefix`.
async fn raw_scan(client: &Client, prefix: &str, options: ScanOptions) -> Vec<(Bytes, Bytes)> {
    let scanned = client.raw_scan_prefix(prefix, options);
    let entries = scanned.map_ok(|entry| (entry.key, entry.value));
    entries.try_collect().await.expect("scan")
}

/// What a scan of the whole model returns.
fn expected_of(model: &BTreeMap<Bytes, Bytes>, options: ScanOptions) -> Vec<(Bytes, Bytes)> {
    let entry = |(key, value): (&Bytes, &Bytes)| match options.keys_only {
        true => (key.clone(), Bytes::new()),
        false => (key.clone(), value.clone()),
    };
    let limit = options.limit.unwrap_or(usize::MAX);
    match options.reverse {
        false => model.iter().take(limit).map(entry).collect(),
        true => model.iter().rev().take(limit).map(entry).collect(),
    }
}

fn entry_of(key: &str, value: &'static str) -> (Bytes, Bytes) {
    (Bytes::copy_from_slice(key.as_bytes()), value.into())
}

fn assert_conflict<T: std::fmt::Debug>(
    result: Result<T, Error>,
    version: u64,
    value: Option<&'static str>,
) {
    let expected = Error::Conflict {
        current_version: version,
        current_value: value.map(Bytes::from),
    };
    assert_eq!(result.expect_err("a conflict"), expected);
}
