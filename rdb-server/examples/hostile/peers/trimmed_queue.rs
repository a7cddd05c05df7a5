//! An ordinary client that keeps a queue and trims it from its head, so that range deletes with one start nest.

use std::time::{Duration, Instant};

use crate::kernel;
use crate::trial::Trial;

const TRIMS: usize = 20_000;

/// Trims whose mean is compared.
const SAMPLE: usize = 1_000;

/// How much longer the last ones may take. A mean over a thousand synced writes varies that much by itself.
const GROWTH_MAX: f64 = 2.0;

/// When it gives up.
const PATIENCE: Duration = Duration::from_secs(300);

const REOPENED_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn play(trial: &mut Trial) -> anyhow::Result<()> {
    let client = trial.client().await;
    trial.begin().await?;
    let began = Instant::now();
    let mut times = Vec::with_capacity(TRIMS);
    for number in 0..TRIMS {
        let (head, next) = (key(number), key(number + 1));
        let trim_began = Instant::now();
        client.raw_delete_range("q"..head.as_str()).await?;
        times.push(trim_began.elapsed());
        client.raw_put(&next, "entry").await?;
        client.raw_get(&next).await?;
        if began.elapsed() > PATIENCE {
            trial.expect(false, format!("only {number} trims within {PATIENCE:?}"));
            break;
        }
    }
    let (first, last) = (
        mean(times.iter().take(SAMPLE)),
        mean(times.iter().rev().take(SAMPLE)),
    );
    trial.note(format!(
        "{} trims; the first {SAMPLE} took {first:.2?} each, the last {last:.2?}",
        times.len()
    ));
    trial.expect(
        last.as_secs_f64() <= GROWTH_MAX * first.as_secs_f64(),
        "the time of a trim grows",
    );
    trial.gone().await?;

    let store = &mut trial.cluster.store;
    store.kill();
    let began = Instant::now();
    store.start_serving().await;
    let reopened = began.elapsed();
    let resident = kernel::resident(store.process_id())? >> 20;
    trial.note(format!(
        "reopened in {reopened:.1?} after SIGKILL; resident then: {resident} MiB"
    ));
    trial.expect(
        reopened <= REOPENED_WITHIN,
        format!("reopening took {reopened:.1?}"),
    );
    Ok(())
}

fn key(number: usize) -> String {
    format!("q{number:08}")
}

fn mean<'a>(times: impl ExactSizeIterator<Item = &'a Duration>) -> Duration {
    let count = times.len().max(1);
    times.sum::<Duration>() / u32::try_from(count).expect("a sample")
}
