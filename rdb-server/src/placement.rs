//! This store's place in the cluster: registration, and heartbeats afterwards.
//!
//! What the store learned at its first registration is on its disk (its ids in the identity file, its regions in the
//! state column family) and is the truth from then on: [`restore`] lets it serve before the placement driver was reached.
//!
//! Each start of the process is an *incarnation*, a random number. The placement driver accepts one that names the
//! incarnation it accepted before, which is kept in the identity file. So of a data directory and a copy of it only one
//! goes on: whichever was accepted last.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdb_proto::metapb::{Region, StoreStats};
use rdb_proto::pdpb::pd_client::PdClient;
use rdb_proto::pdpb::{RegisterStoreRequest, RegisterStoreResponse, StoreHeartbeatRequest};
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use rdb_proto::transport::{AddressError, endpoint};
use rdb_storage::{Command, Storage, Submission};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::error::ServerError;
use crate::region::{RegionHandle, from_wire, to_wire};
use crate::router::{Membership, Router};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two tries to reach the placement driver; doubled after each, with jitter.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(3);

/// How often a lasting failure is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The next heartbeat after one that failed, and bounds on what the placement driver may say. A placement driver that was
/// restarted gives this store's place to nobody else for 20 s, and has to hear of it meanwhile.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(1);
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
const HEARTBEAT_MAX: Duration = Duration::from_secs(60);

/// Lets the router serve what an earlier registration left on the disk. Says whether there are regions to serve.
pub(crate) fn restore(storage: &Storage, router: &Router) -> Result<bool, ServerError> {
    let identity = storage.identity();
    let (Some(cluster_id), Some(store_id)) = (identity.cluster_id, identity.store_id) else {
        return Ok(false);
    };
    let regions = storage.regions()?;
    let has_regions = !regions.is_empty();
    let regions = regions.into_iter().map(to_wire);
    let regions = regions.map(|region| Arc::new(RegionHandle::new(region, storage)));
    router.set(Membership::new(cluster_id, store_id, regions.collect()));
    Ok(has_regions)
}

/// Talks to the placement driver for as long as the store runs.
pub(crate) struct Placement {
    clients: Vec<PdClient<Channel>>,
    /// Which of the clients is asked; the next one after a failure.
    current: usize,
    advertised: String,
    start_time_ms: u64,
    incarnation: u64,
    storage: Storage,
    router: Router,
    registered: watch::Sender<bool>,
}

impl Placement {
    /// `registered` turns true once the router serves.
    pub(crate) fn new(
        pd_addresses: &[String],
        advertised: String,
        storage: Storage,
        router: Router,
        registered: watch::Sender<bool>,
    ) -> Result<Self, AddressError> {
        let client = |address: &String| {
            let endpoint = endpoint(address, CONNECT_TIMEOUT)?;
            let client = PdClient::new(endpoint.connect_lazy());
            Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX))
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Self {
            clients: pd_addresses.iter().map(client).collect::<Result<_, _>>()?,
            current: 0,
            advertised,
            start_time_ms: now.as_millis() as u64,
            incarnation: fastrand::u64(1..),
            storage,
            router,
            registered,
        })
    }

    /// Registers, then sends heartbeats. Ends only when the placement driver refuses the store for good; dropping the
    /// future ends it otherwise.
    pub(crate) async fn run(mut self) -> Result<(), ServerError> {
        let response = self.register().await?;
        self.adopt(response).await?;
        loop {
            let pause = self.heartbeat().await?;
            tokio::time::sleep(pause).await;
        }
    }

    async fn register(&mut self) -> Result<RegisterStoreResponse, ServerError> {
        let identity = self.storage.identity();
        let request = RegisterStoreRequest {
            address: self.advertised.clone(),
            store_id: identity.store_id.unwrap_or_default(),
            cluster_id: identity.cluster_id.unwrap_or_default(),
            incarnation: self.incarnation,
            previous_incarnation: identity.incarnation.unwrap_or_default(),
        };
        let mut pause = RETRY_MIN;
        let mut last_log: Option<Instant> = None;
        loop {
            let request = request.clone();
            let answer = self
                .call(|mut client| async move { client.register_store(request).await })
                .await;
            let status = match answer {
                Ok(response) if response.cluster_id == 0 || response.store_id == 0 => {
                    Status::internal("the placement driver answered without ids")
                }
                Ok(response) => return Ok(response),
                Err(status) if is_refusal(status.code()) => {
                    let cause = status.message().to_owned();
                    return Err(ServerError::Refused { cause });
                }
                Err(status) => status,
            };
            if last_log.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                last_log = Some(Instant::now());
                let serving = *self.registered.borrow();
                tracing::warn!(
                    error = status.message(),
                    serving,
                    "waiting for the placement driver to register this store"
                );
            }
            tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Makes what the placement driver said durable, then serves it. Regions on the disk are newer than what it knows.
    async fn adopt(&self, response: RegisterStoreResponse) -> Result<(), ServerError> {
        let RegisterStoreResponse {
            cluster_id,
            store_id,
            regions,
        } = response;
        let (storage, incarnation) = (self.storage.clone(), self.incarnation);
        let on_disk = spawn_blocking(move || {
            storage.assign(cluster_id, Some(store_id), Some(incarnation))?;
            storage.regions()
        });
        if on_disk.await??.is_empty() {
            self.store_regions(regions).await?;
        }
        restore(&self.storage, &self.router)?;
        self.registered.send_replace(true);
        tracing::info!(cluster_id, store_id, "registered with the placement driver");
        Ok(())
    }

    /// All at once: a part of them would look like all at the next start.
    async fn store_regions(&self, regions: Vec<Region>) -> Result<(), ServerError> {
        let Some(first) = regions.first() else {
            return Ok(());
        };
        let region_id = first.id;
        let commands = regions
            .into_iter()
            .map(|region| Command::PutRegion(from_wire(region)));
        let submission = Submission::new(region_id, commands.collect());
        self.storage.submit(submission)?.await?;
        Ok(())
    }

    /// Sends one heartbeat and says when to send the next. It fails when another process lives with this store's id, which
    /// the placement driver learned while this one could not be heard.
    async fn heartbeat(&mut self) -> Result<Duration, ServerError> {
        let status = match self.try_heartbeat().await {
            Ok(interval_ms) => {
                let interval = Duration::from_millis(interval_ms);
                return Ok(interval.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX));
            }
            Err(status) => status,
        };
        let cause = status.message().to_owned();
        if status.code() == Code::AlreadyExists {
            return Err(ServerError::Refused { cause });
        }
        tracing::warn!(%cause, "the placement driver did not take the heartbeat; serving goes on");
        Ok(HEARTBEAT_DEFAULT)
    }

    async fn try_heartbeat(&mut self) -> Result<u64, Status> {
        let storage = self.storage.clone();
        let stats = spawn_blocking(move || storage.stats()).await;
        let stats = stats
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::internal(error.to_string()))?;
        let identity = self.storage.identity();
        let request = StoreHeartbeatRequest {
            cluster_id: identity.cluster_id.unwrap_or_default(),
            store_id: identity.store_id.unwrap_or_default(),
            address: self.advertised.clone(),
            stats: Some(StoreStats {
                capacity_bytes: stats.capacity_bytes,
                available_bytes: stats.available_bytes,
                key_count: stats.key_count,
                data_bytes: stats.data_bytes,
                start_time_ms: self.start_time_ms,
            }),
            incarnation: self.incarnation,
        };
        let answer = self
            .call(|mut client| async move { client.store_heartbeat(request).await })
            .await;
        answer.map(|response| response.interval_ms)
    }

    /// One call to the placement driver that is asked at the moment; after a failure the next one is.
    async fn call<T, F>(&mut self, call: impl FnOnce(PdClient<Channel>) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let Some(client) = self.clients.get(self.current) else {
            return Err(Status::failed_precondition("no placement driver is named"));
        };
        let answer = tokio::time::timeout(CALL_TIMEOUT, call(client.clone())).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        if answer.is_err() {
            self.current = (self.current + 1) % self.clients.len();
        }
        answer.map(tonic::Response::into_inner)
    }
}

/// Whether asking again could not help: the store belongs elsewhere, or another one lives with its id.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::FailedPrecondition | Code::AlreadyExists | Code::InvalidArgument
    )
}
