//! Swaps on keys that neither the store nor the operating system has in memory. A swap reads before it writes.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use rdb_client::Client;
use rustix::fs::{Advice, fadvise};

use crate::kernel;
use crate::trial::Trial;

const KEYS: usize = 32_768;
const VALUE_BYTES: usize = 4 << 10;

/// Swaps at a time: as many as a few busy clients have.
const CALLERS: usize = 2_048;

pub(super) async fn play(trial: &mut Trial) -> anyhow::Result<()> {
    let client = trial.client().await;
    swap_all(&client, 0, VALUE_BYTES).await?;
    // A drain flushes, so that nothing is left in a log to be replayed into memory.
    let store = &mut trial.cluster.store;
    store.terminate();
    let status = store.exited().await;
    ensure!(status.success(), "the store ended with {status}");
    forget_files(store.data_dir()).context("the files stay cached")?;
    store.start_serving().await;

    trial.begin().await?;
    let store = trial.cluster.store.process_id();
    let (began, read_before) = (Instant::now(), kernel::read_from_disk(store)?);
    swap_all(&client, 1, 16).await?;
    let (elapsed, read) = (
        began.elapsed(),
        kernel::read_from_disk(store)? - read_before,
    );
    trial.note(format!(
        "{KEYS} cold swaps took {elapsed:.1?} and read {} MiB from the disk",
        read >> 20
    ));
    trial.expect(
        read >= (KEYS * VALUE_BYTES / 2) as u64,
        "the keys were not cold",
    );
    trial.gone().await
}

/// Swaps every key once, in an order that has nothing to do with that of the keys.
async fn swap_all(
    client: &Client,
    expected_version: u64,
    value_bytes: usize,
) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(expected_version);
    let mut numbers: Vec<usize> = (0..KEYS).collect();
    random.shuffle(&mut numbers);
    let swaps = stream::iter(numbers).map(|number| {
        // Random, so that it does not compress.
        let mut value = vec![0; value_bytes];
        fastrand::Rng::with_seed(number as u64).fill(&mut value);
        async move {
            let key = format!("cold-{number:08}");
            client.cas_put(key, expected_version, value).await
        }
    });
    swaps
        .buffer_unordered(CALLERS)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok(())
}

/// Takes the files of a directory out of the operating system's cache.
fn forget_files(directory: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget_files(&entry.path())?;
        } else {
            let file = File::open(entry.path())?;
            // Only what is clean can be forgotten.
            file.sync_all()?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}
