//! Writers that go on whatever becomes of the stores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::future::join_all;
use rdb_client::{Client, Error};
use tokio::task::JoinHandle;

use crate::harness::{found, guarded};

/// The writers, until they are stopped.
pub(crate) struct Load {
    client: Client,
    value: Value,
    progress: Arc<Progress>,
    writers: Vec<JoinHandle<Written>>,
}

/// What is put under the key with a number.
type Value = fn(u64) -> Vec<u8>;

struct Progress {
    stop: AtomicBool,
    /// How many puts were acknowledged, by writer.
    acknowledged: Vec<AtomicU64>,
}

/// What a writer was told of the keys that it put, one after the other.
#[derive(Default)]
struct Written {
    acknowledged: Vec<u64>,
    undetermined: u64,
}

fn key(writer: usize, number: u64) -> String {
    format!("key-{writer}-{number}")
}

/// Puts keys until it is stopped. Each put has to succeed, unless it was under way when a leader was lost.
async fn write(client: Client, writer: usize, value: Value, progress: Arc<Progress>) -> Written {
    let mut written = Written::default();
    for number in 0.. {
        if progress.stop.load(Ordering::Relaxed) {
            break;
        }
        match client.raw_put(key(writer, number), value(number)).await {
            Ok(()) => written.acknowledged.push(number),
            Err(Error::Undetermined { .. }) => written.undetermined += 1,
            Err(error) => panic!("put {number} of writer {writer}: {error}"),
        }
        let acknowledged = written.acknowledged.len() as u64;
        progress.acknowledged[writer].store(acknowledged, Ordering::Relaxed);
    }
    written
}

impl Load {
    /// Begins it, and waits until all writers have some puts acknowledged.
    pub(crate) async fn begin(client: Client, writers: usize, value: Value) -> Self {
        let progress = Arc::new(Progress {
            stop: AtomicBool::new(false),
            acknowledged: (0..writers).map(|_| AtomicU64::new(0)).collect(),
        });
        let writers = (0..writers).map(|writer| {
            let progress = Arc::clone(&progress);
            tokio::spawn(write(client.clone(), writer, value, progress))
        });
        let load = Self {
            writers: writers.collect(),
            client,
            value,
            progress,
        };
        load.goes_on().await;
        load
    }

    /// Waits until each writer has some more puts acknowledged than it has now.
    pub(crate) async fn goes_on(&self) {
        let counts = || {
            let counts = self.progress.acknowledged.iter();
            let counts = counts.map(|count| count.load(Ordering::Relaxed));
            counts.collect::<Vec<_>>()
        };
        let before = counts();
        let have_more = async || {
            let mut pairs = counts().into_iter().zip(&before);
            pairs.all(|(now, before)| now >= before + 20).then_some(())
        };
        found("all writers go on", have_more).await;
    }

    /// Ends it, and checks that all that was acknowledged is there. Returns how many puts of each writer were undetermined.
    pub(crate) async fn end(self) -> Vec<u64> {
        self.progress.stop.store(true, Ordering::Relaxed);
        let written = guarded("the writers end", join_all(self.writers)).await;
        let mut undetermined = Vec::with_capacity(written.len());
        for (writer, written) in written.into_iter().enumerate() {
            let written = written.expect("a writer does not fail");
            undetermined.push(written.undetermined);
            for number in written.acknowledged {
                let found = self.client.raw_get(key(writer, number)).await;
                let found = found.expect("read");
                assert_eq!(found.as_deref(), Some(&(self.value)(number)[..]));
            }
        }
        undetermined
    }
}
