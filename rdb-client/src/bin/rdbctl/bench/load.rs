//! Writes what a workload expects to find.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use fastrand::Rng;
use futures::{StreamExt, TryStreamExt, stream};
use rdb_client::{Client, Error};

use super::arguments::Data;
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

/// Writes all keys of the raw keyspace, and says how that went.
pub(crate) async fn load_raw<T: Target>(
    target: &T,
    data: &Data,
    progress: &Progress,
) -> Result<Measured, Failure> {
    let per_value = BATCH_VALUE_BYTES / u64::from(data.value_size).max(1);
    let batch = T::LOAD_BATCH_ENTRIES.min(per_value).max(1);
    let values = Values::new(data.value_size);
    let recorder = Arc::new(Recorder::new(1, 1));
    let loaded = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
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
            recorder.record(begun.elapsed());
            Ok::<u64, OperationError>(loaded.fetch_add(written, Ordering::Relaxed) + written)
        })
    };
    let firsts = (0..data.keys).step_by(usize::try_from(batch).unwrap_or(usize::MAX));
    let mut batches = stream::iter(firsts.map(load_batch)).buffer_unordered(T::LOAD_CONCURRENCY);
    while let Some(ended) = batches.next().await {
        let loaded = ended.map_err(|error| Failure::failed(error.to_string()))?;
        let loaded =
            loaded.map_err(|error| Failure::failed(format!("loading: {}", error.message)))?;
        progress.show_loading(loaded, data.keys);
    }
    Ok(Measured {
        elapsed: began.elapsed(),
        operations_by_caller: vec![data.keys],
        conflicts: 0,
        not_started: None,
        latencies: recorder.latencies(),
        errors: recorder.errors(),
    })
}

/// Creates the keys of the versioned keyspace that do not exist, and returns all with their versions.
pub(crate) async fn load_versioned(
    client: &Client,
    data: &Data,
    progress: &Progress,
) -> Result<Vec<OwnedKey>, Failure> {
    let values = Values::new(data.value_size);
    // Responses with many long values would not fit one message.
    let per_value = BATCH_VALUE_BYTES / u64::from(data.value_size).max(1);
    let batch = VERSIONS_AT_ONCE.min(per_value).max(1);
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
