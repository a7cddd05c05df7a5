//! This store's place in the cluster: registration, and heartbeats afterwards.
//!
//! The store keeps what it learned at its first registration: its ids in the identity file, its regions in the state
//! column family. From then on these are authoritative, and [`Regions::restore`] lets the store serve before it has
//! reached the placement driver.
//!
//! Each start of the process is an *incarnation*, see [`Identity::next_incarnation`]. It registers twice. The placement driver accepts a
//! start that names the incarnation in its identity file; the store writes the new one there and registers again to say so. A store without
//! regions gets them, and serves, only after that. So a data directory and its copy are not both accepted.
//!
//! The answer to a heartbeat may ask for changes of regions. They are made concurrently with heartbeats, see [`Regions::follow`].
//!
//! A restarted store serves at once, but may wait up to 20 s until it is registered again: the placement driver gives a
//! store's place to another process only when the last one has been silent for that long.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdb_proto::error::details;
use rdb_proto::metapb::StoreStats;
use rdb_proto::pdpb::pd_client::PdClient;
use rdb_proto::pdpb::{
    GetStoresRequest, GetStoresResponse, RegisterStoreRequest, RegisterStoreResponse,
    StoreHeartbeatRequest, StoreHeartbeatResponse,
};
use rdb_proto::rare_line::RareLine;
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use rdb_storage::{Identity, Storage, StorageStats};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::error::ServerError;
use crate::metrics::LoadMeter;
use crate::placement_drivers::PlacementDrivers;
use crate::regions::{Regions, Report};
use crate::rights::RightsCopy;

const PD_CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two tries to reach the placement driver. It doubles after each, with jitter.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(3);

/// A heartbeat is sent without figures when reading them takes longer.
const STATS_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a lasting failure is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How long a store that serves may wait for its registration before that is worth a warning. After an ordinary restart it is
/// 20 s, and another 20 s if the placement driver is also restarted.
const ORDINARY_WAIT: Duration = Duration::from_secs(45);

/// How long heartbeats wait for it to be known whether rights are enforced, which it is at once most of the time.
const TOLD_PATIENCE: Duration = Duration::from_secs(2);

/// Interval after a failed heartbeat, and bounds on the interval that the placement driver asks for. A restarted placement
/// driver has to hear from this store within 20 s, or another process may get its place.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(1);
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
const HEARTBEAT_MAX: Duration = Duration::from_secs(60);

/// Talks to the placement driver for as long as the store runs.
pub(crate) struct Placement {
    placement_drivers: PlacementDrivers,
    /// Position of the placement driver that is asked. A failure moves on to the next.
    current: usize,
    advertised: String,
    start_time_ms: u64,
    started_at: Instant,
    incarnation: u64,
    storage: Storage,
    regions: Arc<Regions>,
    rights: Arc<RightsCopy>,
    registered: watch::Sender<bool>,
    load: LoadMeter,
    /// Figures that are being read. A file system that hangs holds one thread, not one per heartbeat.
    reading_stats: Option<JoinHandle<Result<StorageStats, rdb_storage::Error>>>,
    /// When this process started, or a placement driver last took it in.
    taken_in_at: Instant,
    /// The line of the log about a failure.
    failure_line: RareLine,
}

impl Placement {
    /// `registered` turns true once regions are served.
    pub(crate) fn new(
        placement_drivers: PlacementDrivers,
        advertised: String,
        storage: Storage,
        regions: Arc<Regions>,
        rights: Arc<RightsCopy>,
        load: LoadMeter,
        registered: watch::Sender<bool>,
    ) -> Result<Self, ServerError> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Self {
            placement_drivers,
            current: 0,
            advertised,
            start_time_ms: now.as_millis() as u64,
            started_at: Instant::now(),
            incarnation: storage
                .identity()
                .next_incarnation(regions.starts().own())?,
            storage,
            regions,
            rights,
            registered,
            load,
            reading_stats: None,
            taken_in_at: Instant::now(),
            failure_line: RareLine::every(LOG_INTERVAL),
        })
    }

    /// Registers, then sends heartbeats. Ends only when the placement driver refuses the store for good; dropping the
    /// future ends it otherwise.
    pub(crate) async fn run(mut self) -> Result<(), ServerError> {
        let mut unadopted = Some(self.register().await?);
        let rights = Arc::clone(&self.rights);
        if timeout(TOLD_PATIENCE, rights.told()).await.is_err() {
            tracing::warn!(
                "registered, and not told yet whether rights are enforced: this store refuses calls and takes no regions before"
            );
        }
        let (mut groups, mut news) = (self.regions.states(), self.regions.news());
        loop {
            if let Some(response) = unadopted.take_if(|_| rights.is_told()) {
                self.adopt(response).await?;
            }
            // What changes while the heartbeat is made is in the next one.
            groups.borrow_and_update();
            news.borrow_and_update();
            let answered = self.heartbeat().await?;
            if answered.is_some() {
                self.learn_addresses().await?;
            }
            let pause = answered.unwrap_or(HEARTBEAT_DEFAULT);
            sleep(HEARTBEAT_MIN).await;
            tokio::select! {
                () = sleep(pause - HEARTBEAT_MIN) => {}
                Ok(()) = groups.changed() => {}
                Ok(()) = news.changed() => {}
                () = rights.told(), if unadopted.is_some() => {}
            }
        }
    }

    /// Asks until this start is accepted and kept.
    async fn register(&mut self) -> Result<RegisterStoreResponse, ServerError> {
        let mut pause = RETRY_MIN;
        let mut refusals = 0;
        loop {
            let (cause, passes) = match self.try_register().await {
                Ok(response) if self.has_kept(&response) => {
                    self.note_taken_in();
                    return Ok(response);
                }
                Ok(response) => match self.keep(&response).await? {
                    Ok(()) => continue,
                    Err(cause) => (cause, true),
                },
                Err(status) if is_refusal(status.code()) => {
                    let cause = status.message().to_owned();
                    refusals += 1;
                    // One of several may belong to another cluster.
                    if refusals >= self.placement_drivers.count() {
                        return Err(ServerError::Refused { cause });
                    }
                    (cause, false)
                }
                Err(status) => {
                    refusals = 0;
                    (status.message().to_owned(), may_pass(status.code()))
                }
            };
            let is_ordinary = self.is_ordinary(passes);
            if !is_ordinary {
                self.placement_drivers.note_trouble(&cause);
            }
            if self.failure_line.take_turn(Instant::now()).is_some() {
                let serving = self.is_serving();
                let what = "waiting for the placement driver to register this store";
                if is_ordinary {
                    tracing::info!(%cause, serving, "{what}");
                } else {
                    tracing::warn!(%cause, serving, "{what}");
                }
            }
            sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn try_register(&mut self) -> Result<RegisterStoreResponse, Status> {
        let identity = self.storage.identity();
        let request = RegisterStoreRequest {
            address: self.advertised.clone(),
            store_id: identity.store_id.unwrap_or_default(),
            cluster_id: identity.cluster_id.unwrap_or_default(),
            incarnation: self.incarnation,
            kept_incarnation: identity.incarnation.unwrap_or_default(),
        };
        let request = self.placement_drivers.request(request);
        let response = self
            .call(|mut client| async move { client.register_store(request).await })
            .await?;
        if response.cluster_id == 0 || response.store_id == 0 {
            return Err(Status::internal(
                "the placement driver answered without ids",
            ));
        }
        Ok(response)
    }

    /// Whether the directory has kept these ids and this incarnation. The request that was answered said so.
    fn has_kept(&self, response: &RegisterStoreResponse) -> bool {
        let Identity {
            cluster_id,
            store_id,
            incarnation,
            ..
        } = self.storage.identity();
        (cluster_id, store_id, incarnation)
            == (
                Some(response.cluster_id),
                Some(response.store_id),
                Some(self.incarnation),
            )
    }

    /// Makes the answer durable. The inner error may pass, such as a full disk.
    async fn keep(
        &self,
        response: &RegisterStoreResponse,
    ) -> Result<Result<(), String>, ServerError> {
        let (cluster_id, store_id) = (response.cluster_id, response.store_id);
        let (storage, incarnation) = (self.storage.clone(), self.incarnation);
        let kept =
            spawn_blocking(move || storage.assign(cluster_id, Some(store_id), Some(incarnation)));
        match kept.await? {
            Ok(()) => {
                let kept = self.storage.identity().start();
                self.regions.starts().set_own(kept).await;
                Ok(Ok(()))
            }
            Err(error @ rdb_storage::Error::Io { .. }) => Ok(Err(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// Serves the regions of the answer, unless there are regions on the disk. It has to be known whether rights are enforced.
    async fn adopt(&self, response: RegisterStoreResponse) -> Result<(), ServerError> {
        let RegisterStoreResponse {
            cluster_id,
            store_id,
            regions,
            ..
        } = response;
        self.regions.adopt(regions).await?;
        self.registered.send_replace(true);
        tracing::info!(cluster_id, store_id, "registered with the placement driver");
        Ok(())
    }

    /// Sends one heartbeat and returns the pause until the next. `None`: the placement driver did not take it. Fails when another
    /// process has taken this store's id, which the placement driver accepted while it could not hear this one, or when an
    /// operator has removed the store.
    async fn heartbeat(&mut self) -> Result<Option<Duration>, ServerError> {
        let stats = self.stats().await;
        let report = self.regions.report();
        let region_count = report.count;
        let status = match self.try_heartbeat(report, stats).await {
            Ok(response) => {
                self.note_taken_in();
                self.regions.order(response.steps, response.removed);
                let takes_regions = region_count == 0 && self.rights.is_told();
                if takes_regions && !response.regions.is_empty() {
                    self.regions.adopt(response.regions).await?;
                }
                let interval = Duration::from_millis(response.interval_ms);
                return Ok(Some(interval.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX)));
            }
            Err(status) => status,
        };
        let cause = status.message().to_owned();
        if is_final(&status) {
            return Err(ServerError::Refused { cause });
        }
        if !self.is_ordinary(may_pass(status.code())) {
            self.placement_drivers.note_trouble(&cause);
        }
        if self.failure_line.take_turn(Instant::now()).is_some() {
            let serving = self.is_serving();
            tracing::warn!(%cause, serving, "the placement driver did not take the heartbeat");
        }
        Ok(None)
    }

    async fn try_heartbeat(
        &mut self,
        report: Report,
        stats: Option<StorageStats>,
    ) -> Result<StoreHeartbeatResponse, Status> {
        let stats = stats.map(|stats| StoreStats {
            capacity_bytes: stats.capacity_bytes,
            available_bytes: stats.available_bytes,
            key_count: stats.key_count,
            data_bytes: stats.data_bytes,
            start_time_ms: self.start_time_ms,
            uptime_ms: Some(self.started_at.elapsed().as_millis() as u64),
        });
        let identity = self.storage.identity();
        let request = StoreHeartbeatRequest {
            cluster_id: identity.cluster_id.unwrap_or_default(),
            store_id: identity.store_id.unwrap_or_default(),
            address: self.advertised.clone(),
            stats,
            incarnation: self.incarnation,
            leads: report.leads,
            region_count: Some(report.count),
            holds: report.holds,
            takes_no_replicas: report.takes_no_replicas,
            load: self.load.take(Instant::now()),
        };
        let request = self.placement_drivers.request(request);
        self.call(|mut client| async move { client.store_heartbeat(request).await })
            .await
    }

    /// If somebody wants to connect to other stores, asks the placement driver that has taken the last heartbeat for their
    /// addresses. A failure is left to the next heartbeat.
    async fn learn_addresses(&mut self) -> Result<(), ServerError> {
        if !self.regions.addresses().were_wanted() {
            return Ok(());
        }
        let request = self.placement_drivers.request(GetStoresRequest {});
        let asked = self.call(|mut client| async move { client.get_stores(request).await });
        let Ok(GetStoresResponse { stores }) = asked.await else {
            return Ok(());
        };
        let stores = stores.into_iter().map(|store| (store.id, store.address));
        let (addresses, stores) = (Arc::clone(self.regions.addresses()), stores.collect());
        if let Err(error) = spawn_blocking(move || addresses.learn(stores)).await? {
            tracing::warn!(%error, "the addresses of other stores are not kept for the next start");
        }
        Ok(())
    }

    /// The storage's figures, unless they cannot be read in time. Heartbeats are sent even without them. This also learns the sizes of
    /// regions.
    async fn stats(&mut self) -> Option<StorageStats> {
        let (storage, regions) = (self.storage.clone(), Arc::clone(&self.regions));
        let read = move || {
            regions.learn_sizes();
            storage.stats()
        };
        let reading = self
            .reading_stats
            .get_or_insert_with(|| spawn_blocking(read));
        let read = timeout(STATS_TIMEOUT, reading).await.ok()?;
        self.reading_stats = None;
        read.ok()?.ok()
    }

    /// Calls the current placement driver. A failure moves on to the next one.
    async fn call<T, F>(&mut self, call: impl FnOnce(PdClient<Channel>) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let over = |channel: Channel| {
            let client = PdClient::new(channel);
            call(client.max_decoding_message_size(MESSAGE_BYTES_MAX))
        };
        let asked = self.current;
        let answer = self.placement_drivers.call(asked, PD_CALL_TIMEOUT, over);
        let answer = answer.await;
        if answer.is_err() {
            self.current = self.placement_drivers.after(asked);
        }
        answer
    }

    fn note_taken_in(&mut self) {
        self.taken_in_at = Instant::now();
        self.placement_drivers.note_taken_in(self.current);
    }

    /// Whether calls for keys are served: there are regions, and it is known who may call.
    fn is_serving(&self) -> bool {
        *self.registered.borrow() && !self.rights.refuses()
    }

    /// Whether a failure is one that comes with each restart, of this store or of the placement driver, and is over soon.
    fn is_ordinary(&self, passes: bool) -> bool {
        passes && *self.registered.borrow() && self.taken_in_at.elapsed() < ORDINARY_WAIT
    }
}

/// Whether the refusal of a heartbeat is final: another process lives with the store's id, or the store was removed. A
/// refusal without a field may come from a placement driver of another cluster, or from one with an old data directory.
fn is_final(status: &Status) -> bool {
    let names_store = || details(status).is_some_and(|details| details.field == "store_id");
    match status.code() {
        Code::AlreadyExists => true,
        Code::FailedPrecondition => names_store(),
        _ => false,
    }
}

/// Whether a failure may end by itself. Else the placement driver is of another cluster or none, or has another data directory.
fn may_pass(code: Code) -> bool {
    !is_refusal(code) && code != Code::Unimplemented
}

/// Whether the refusal is final: the store belongs to another cluster, or another process lives with its id. A refusal of the store's
/// identity is not final: it ends when an operator has given the store a token or the right.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::FailedPrecondition | Code::AlreadyExists | Code::InvalidArgument
    )
}
