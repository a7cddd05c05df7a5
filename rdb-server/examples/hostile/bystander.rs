//! The well-behaved client: one put and one get at a time, on a connection that it had before the peer came. Beside it the
//! disk is asked how long a sync takes, since each put waits for one.

use std::future::Future;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use rdb_proto::errorpb::RegionError;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{RawGetRequest, RawPutRequest};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic::transport::Channel;

use crate::harness::connect;

/// When it gives a call up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(5);

/// A thread with a runtime of its own, so that playing the peer does not hold it up. Dropping it ends it.
pub(crate) struct Bystander {
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
    thread: thread::JoinHandle<anyhow::Result<Experience>>,
    disk: thread::JoinHandle<anyhow::Result<Duration>>,
}

/// How its calls went.
#[derive(Debug, Clone, Default)]
pub(crate) struct Experience {
    pub(crate) put: Calls,
    pub(crate) get: Calls,
    /// The slowest sync of a file that only this process writes.
    pub(crate) sync: Duration,
}

/// Calls of one kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls {
    pub(crate) count: usize,
    pub(crate) worst: Duration,
    pub(crate) failed: usize,
    pub(crate) first_failure: Option<String>,
}

impl Bystander {
    /// Connects, and goes on until it is asked how it went.
    pub(crate) async fn start(address: String) -> anyhow::Result<Self> {
        let (connected, first_calls) = tokio::sync::oneshot::channel();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async move {
                let raw = KvRawClient::new(connect(&address).await?);
                // So that what only the first call costs is paid.
                round(&raw, &mut Experience::default()).await;
                let _ = connected.send(());
                let mut experience = Experience::default();
                // A call that waits when it is asked to stop counts, too.
                while !stopped.is_cancelled() {
                    round(&raw, &mut experience).await;
                    sleep(PAUSE).await;
                }
                Ok(experience)
            })
        });
        first_calls.await.context("the bystander cannot connect")?;
        let stopped = stop.clone();
        Ok(Self {
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
            thread,
            disk: thread::spawn(move || slowest_sync(&stopped)),
        })
    }

    /// Ends it.
    pub(crate) fn experience(self) -> anyhow::Result<Experience> {
        self.stop.cancel();
        let panicked = |_| anyhow!("the bystander panicked");
        let mut experience = self.thread.join().map_err(panicked)??;
        experience.sync = self.disk.join().map_err(panicked)??;
        Ok(experience)
    }
}

/// Appends to a file and syncs it, again and again. The data of the cluster is on the same file system.
fn slowest_sync(stopped: &CancellationToken) -> anyhow::Result<Duration> {
    let mut file = tempfile::tempfile().context("a file in the temporary directory")?;
    let mut slowest = Duration::ZERO;
    while !stopped.is_cancelled() {
        let began = Instant::now();
        file.write_all(&[0; 100])?;
        file.sync_data()?;
        slowest = slowest.max(began.elapsed());
        thread::sleep(PAUSE);
    }
    Ok(slowest)
}

/// One put, and one get that has to find it.
async fn round(raw: &KvRawClient<Channel>, experience: &mut Experience) {
    let put = async {
        let request = RawPutRequest {
            context: None,
            key: "bystander".into(),
            value: "here".into(),
        };
        let answer = raw.clone().raw_put(request).await;
        served(answer, |answer| answer.region_error).map(drop)
    };
    experience.put.note(put).await;
    let get = async {
        let request = RawGetRequest {
            context: None,
            key: "bystander".into(),
        };
        let answer = raw.clone().raw_get(request).await;
        let found = served(answer, |answer| answer.region_error.clone())?;
        ensure!(found.value.as_deref() == Some(b"here"), "another value");
        Ok(())
    };
    experience.get.note(get).await;
}

fn served<T: Clone>(
    answer: Result<tonic::Response<T>, Status>,
    region_error: impl Fn(T) -> Option<Box<RegionError>>,
) -> anyhow::Result<T> {
    let answer = answer?.into_inner();
    match region_error(answer.clone()) {
        Some(refusal) => Err(anyhow!("{:?}", refusal.kind)),
        None => Ok(answer),
    }
}

impl Calls {
    async fn note(&mut self, call: impl Future<Output = anyhow::Result<()>>) {
        let began = Instant::now();
        let ended = timeout(PATIENCE, call).await;
        self.count += 1;
        self.worst = self.worst.max(began.elapsed());
        let failure = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        self.failed += 1;
        self.first_failure.get_or_insert(failure);
    }
}
