//! Writes what a workload expects to find.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use fastrand::Rng;
use futures::{StreamExt, TryStreamExt, stream};
use rdb_client::{Client, Error};

use super::arguments::{Data, ValueSize};
use super::keys::key;
use super::progress::Progress;
use super::recorder::{OperationError, Recorder};
use super::report::Measured;
use super::target::Target;
use super::values::Values;
use super::workload::OwnedKey;
use crate::failure::Failure;

/// Most bytes of values in one batch.
const BATCH_VALUE_BYTES: u64 = 4 << 20;

/// Keys whose versions are asked for at once.
const VERSIONS_AT_ONCE: u64 = 1000;

/// Versioned keys that are created at a time: there is no batch for it.
const SWAPS_AT_ONCE: usize = 256;

/// How many entries of at most `most` fit one message.
fn batch_entries(most: u64, value: ValueSize) -> u64 {
    let per_value = BATCH_VALUE_BYTES / u64::from(value.value_bytes).max(1);
    most.min(per_value).max(1)
}

/// Writes all keys of the raw keyspace, and says how that went.
pub(crate) async fn load_raw(
    workload: &'static str,
    target: &Target,
    data: Data,
) -> Result<Measured, Failure> {
    let progress = Progress::new(workload);
    let batch = batch_entries(target.load_batch_entries(), data.value);
    let values = Values::new(data.value);
    let began = Instant::now();
    let recorder = Arc::new(Recorder::new(1, began));
    let loaded = Arc::new(AtomicU64::new(0));
    let load_batch = |first: u64| {
        let numbers = first..(first + batch).min(data.keys);
        let (target, values) = (target.clone(), values.clone());
        let (recorder, loaded) = (Arc::clone(&recorder), Arc::clone(&loaded));
        // A separate task, so that batches are made on all threads.
        tokio::spawn(async move {
            let mut rng = Rng::with_seed(first);
            let written = numbers.end - numbers.start;
            let entries = numbers.map(|number| (key(number), values.next(&mut rng)));
            let begun = Instant::now();
            target.put_batch(entries.collect()).await?;
            let ended = Instant::now();
            recorder.record(Some(ended - begun), ended);
            Ok::<u64, OperationError>(loaded.fetch_add(written, Ordering::Relaxed) + written)
        })
    };
    let firsts = (0..data.keys).step_by(usize::try_from(batch).unwrap_or(usize::MAX));
    let mut batches =
        stream::iter(firsts.map(load_batch)).buffer_unordered(target.load_concurrency());
    while let Some(ended) = batches.next().await {
        let loaded = ended.map_err(|error| Failure::failed(error.to_string()))?;
        let loaded =
            loaded.map_err(|error| Failure::failed(format!("loading: {}", error.message)))?;
        progress.show_loading(loaded, data.keys);
    }
    let ended = Instant::now();
    Ok(Measured {
        elapsed: ended - began,
        operations_by_caller: vec![data.keys],
        conflicts: 0,
        not_started: None,
        latencies: recorder.latencies(),
        longest_gap: recorder.longest_gap(ended),
        errors: recorder.errors(),
    })
}

/// Creates the keys of the versioned keyspace that do not exist, and returns all with their versions.
pub(crate) async fn load_versioned(
    workload: &'static str,
    client: &Client,
    data: Data,
) -> Result<Vec<OwnedKey>, Failure> {
    let progress = Progress::new(workload);
    let values = Values::new(data.value);
    let batch = batch_entries(VERSIONS_AT_ONCE, data.value);
    let mut owned = Vec::new();
    let mut first = 0;
    while first < data.keys {
        let numbers: Vec<u64> = (first..(first + batch).min(data.keys)).collect();
        first += batch;
        let found = client
            .batch_get(numbers.iter().map(|number| key(*number)))
            .await?;
        let versions = found.into_iter().map(|entry| Some(entry?.version));
        let created = stream::iter(numbers.into_iter().zip(versions)).map(|(number, version)| {
            let (client, values) = (client.clone(), values.clone());
            async move {
                let version = match version {
                    Some(version) => version,
                    None => create(&client, number, &values).await?,
                };
                Ok::<OwnedKey, Error>((number, Some(version)))
            }
        });
        let created: Vec<OwnedKey> = created.buffered(SWAPS_AT_ONCE).try_collect().await?;
        owned.extend(created);
        progress.show_loading(owned.len() as u64, data.keys);
    }
    Ok(owned)
}

async fn create(client: &Client, number: u64, values: &Values) -> Result<u64, Error> {
    let value = values.next(&mut Rng::with_seed(number));
    match client.cas_put(key(number), 0, value).await {
        Err(Error::Conflict {
            current_version, ..
        }) => Ok(current_version),
        created => created,
    }
}
