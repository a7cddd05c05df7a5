//! The cluster's metadata: its id, its stores, and which store serves which region.
//!
//! - `state.rs`: the state of the cluster, and its durable part.
//! - `stores.rs`, `regions.rs` and `reports.rs`: decisions, as pure functions of the state, the request and the time.
//!   `record.rs` is a store's record and how it evolves, `refusal.rs` why a start is refused.
//! - `registrar.rs`: the one task that decides, makes the decision durable and applies it to the state.
//! - `steps.rs`: the next step of a region, as a pure function. `membership.rs` has its inputs and hands out its result,
//!   `lagging.rs` says which learners are given up and which voters are absent, `operators.rs` is what operators ask for,
//!   `impossible.rs` why that is refused, and `leaving.rs` how stores leave.
//! - `counts.rs`: how many stores and regions there are, for monitoring. `overview.rs` is what the page shows of them.
//! - `strangers.rs`: what is refused or ignored because this data directory does not know it, and what that says of the directory.
//! - `listening.rs`: since when this process can tell that a store is silent.
//!
//! The service holds a [`Cluster`]. Heartbeats are kept only in memory, except for changes of regions and for how long voters were
//! away. So after a restart no store counts as heard of, and no leader as reported, until its next heartbeat.

mod counts;
mod impossible;
mod lagging;
mod leaving;
mod listening;
mod membership;
mod operators;
mod overview;
mod record;
mod refusal;
mod regions;
mod registrar;
mod reports;
#[cfg(test)]
mod scene;
mod state;
mod steps;
mod stores;
mod strangers;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rdb_proto::findings::Finding;
use rdb_proto::metapb::{RegionRoute, Store};
use rdb_proto::pdpb::{
    HeldPeer, Operator, RegionStep, RegisterStoreResponse, RemoveStoreResponse,
    StoreHeartbeatResponse,
};
use rdb_proto::rare_line::RareLine;
use rdb_storage::limits::{BATCH_ENTRIES_MAX, EMBEDDED_REGION_ID, KEY_BYTES_MAX};
use rdb_storage::{Storage, Submission};
use tokio::sync::{mpsc, oneshot};

use self::membership::Led;
use self::registrar::{Answer, QUESTIONS_MAX, Question};
use self::state::{Change, State};
use self::steps::Wish;
use self::strangers::RefusedCall;
use crate::error::PdError;

pub use counts::ClusterCounts;
pub use impossible::Impossible;
pub(crate) use overview::{ClusterLoad, Overview, ShownRegion, ShownStore, per_s};
pub use refusal::{Refusal, RegisteredStore};
pub use registrar::Registrar;
pub use reports::{Heartbeat, Report};
pub use stores::{Registration, Start};

/// A store without a heartbeat for this long is disconnected; until then it is live.
pub const DISCONNECTED_AFTER: Duration = Duration::from_secs(20);

/// A store without a heartbeat for this long is down, unless the operator sets another time.
pub const DOWN_AFTER: Duration = Duration::from_secs(30 * 60);

/// How often a store is asked to send a heartbeat.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// The same for a store that waits for the first region of the cluster.
const WAITING_INTERVAL: Duration = Duration::from_millis(500);

/// Most regions of one answer: with two keys of 8 KiB each they stay well under the message limit.
pub const REGIONS_MAX: u32 = 256;

/// Most stores of a cluster: the answer that lists all of them stays well under the message limit.
pub const STORES_MAX: usize = 10_000;

/// Longest encoding of a store in a list: its address of up to 255 bytes, and numbers.
const STORE_BYTES_MAX: usize = 352;

/// Longest encoding of the load of a store, which only the list of stores has.
const LOAD_BYTES_MAX: usize = 80;

/// How often a store is asked to send a heartbeat while somebody looks at the page, so that it shows what stores do at the moment.
const WATCHED_INTERVAL: Duration = Duration::from_secs(1);

/// What a store has told that it does counts for two heartbeats.
const LOAD_AGE_MAX: Duration = Duration::from_secs(2 * HEARTBEAT_INTERVAL.as_secs());

/// How long the content of the page is reused: a little less than the time between two requests of one page.
const OVERVIEW_AGE_MAX: Duration = Duration::from_millis(900);

/// For how long after a look at the page somebody counts as looking.
const WATCHED_FOR: Duration = Duration::from_secs(5);

/// Most stores and regions with which heartbeats come more often because somebody looks: each names all regions that its store leads.
const WATCHED_STORES_MAX: usize = 32;
const WATCHED_REGIONS_MAX: usize = 1024;

/// Most peers of a region: seven, seven that replace them in one change, and two that learn.
pub const PEERS_MAX: usize = 16;

/// Most voters that are kept of a region, and most that the first region begins with.
pub const REPLICAS_MAX: usize = 7;

/// Longest encoding of a peer in a region: two numbers, and whether it learns, and the first number again if it is absent.
const PEER_BYTES_MAX: usize = 37;

/// Longest encoding of a region in a list: two keys, its peers and their stores, the one that leads it, and numbers.
const REGION_BYTES_MAX: usize =
    2 * KEY_BYTES_MAX + PEERS_MAX * (PEER_BYTES_MAX + STORE_BYTES_MAX) + STORE_BYTES_MAX + 176;

/// Most stores that have got an id and not said that they keep it. The oldest make room for more.
const UNCONFIRMED_STORES_MAX: usize = 256;

/// What the operator sets.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How many stores the first region waits for.
    pub initial_replicas: usize,
    /// How many voters each region should have. With too few stores: the largest odd number that they can hold.
    pub replicas: usize,
    /// After how long without a heartbeat a store is down.
    pub store_down_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            initial_replicas: 1,
            replicas: 3,
            store_down_after: DOWN_AFTER,
        }
    }
}

/// A registration or a heartbeat failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The store is refused, for good or for now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What an operator asks for is not done.
    #[error(transparent)]
    Impossible(#[from] Impossible),
    /// The decision could not be made durable.
    #[error("the placement driver cannot write its data: {0}")]
    Storage(#[from] rdb_storage::Error),
    /// Too many registrations and heartbeats wait.
    #[error("{QUESTIONS_MAX} stores wait for the placement driver's disk; ask again")]
    Busy,
    /// The process stops.
    #[error("the placement driver stops")]
    Stopping,
}

/// The cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
    questions: mpsc::Sender<Question>,
}

struct Shared {
    storage: Storage,
    /// Never held across an await. Only the registrar changes the durable part.
    state: RwLock<State>,
    /// When somebody last looked at the page.
    watched_at: Mutex<Option<Instant>>,
    /// What the page last showed, and when it was put together. Held while that is done.
    shown: Mutex<Option<(Instant, Arc<Overview>)>>,
    refused_call: Arc<RefusedCall>,
}

impl Cluster {
    /// Loads the cluster from `storage`; a new one gets a random id. The [`Registrar`] has to run beside it. Blocks.
    ///
    /// `restored` means that the storage may be an older copy: ids that were given out since are skipped, and the next start
    /// of each store is accepted.
    ///
    /// # Errors
    ///
    /// When the storage cannot be read or written, or holds something else.
    pub fn open(
        storage: Storage,
        restored: bool,
        settings: Settings,
    ) -> Result<(Self, Registrar), PdError> {
        let mut state = State::load_or_create(&storage, Instant::now())?;
        state.settings = settings;
        if let Some(advice) = state.advice() {
            tracing::warn!("{advice}");
        }
        storage.assign(state.cluster_id, None, None)?;
        if restored {
            let changes = state.changes_after_restore();
            for part in changes.chunks(BATCH_ENTRIES_MAX) {
                storage.submit(submission(part))?.wait()?;
            }
            changes.into_iter().for_each(|change| state.apply(change));
            state.forget_away();
        }
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let shared = Arc::new(Shared {
            storage,
            state: RwLock::new(state),
            watched_at: Mutex::default(),
            shown: Mutex::default(),
            refused_call: Arc::default(),
        });
        let registrar = Registrar {
            shared: Arc::clone(&shared),
            questions: asked,
            registered: RareLine::default(),
            refused: RareLine::default(),
        };
        Ok((Self { shared, questions }, registrar))
    }

    /// The cluster's id, never 0.
    pub fn id(&self) -> u64 {
        self.shared.read(|state| state.cluster_id)
    }

    /// Registers a store. The same registration again gets the same answer.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Refused`] says why the store is refused.
    pub async fn register(
        &self,
        registration: Registration,
    ) -> Result<RegisterStoreResponse, ClusterError> {
        let question = |answer| Question::Registration(registration, answer);
        self.ask(question).await
    }

    /// Takes a store's heartbeat. Changes of regions that it causes are durable when it is answered, and so are the ids of
    /// peers in the answer.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Refused`] when the heartbeat does not come from the present start of a registered store. After any
    /// other error the store counts as heard of, and the leaders that it reported as known.
    pub async fn heartbeat(
        &self,
        mut heartbeat: Heartbeat,
    ) -> Result<StoreHeartbeatResponse, ClusterError> {
        let now = Instant::now();
        let store_id = heartbeat.start.store_id;
        let has_no_region = heartbeat.has_no_region();
        let led: Vec<_> = heartbeat.reports.iter().map(Led::from).collect();
        let changes = self.shared.write(|state| {
            if let Err(refusal) = state.check_heartbeat(&heartbeat.start) {
                let strangers = &mut state.strangers;
                strangers.note_refused(&heartbeat.start, &refusal, now);
                strangers.log_refused(&heartbeat.start, &refusal, now);
                return Err(refusal);
            }
            state.heard_of(store_id, &heartbeat.start, heartbeat.stats, now);
            state.note_replicas_taken(store_id, heartbeat.takes_no_replicas);
            state.note_replicas(&heartbeat);
            state.note_load(store_id, heartbeat.load, now);
            let ignored = state.note_reports(store_id, &heartbeat.reports, now);
            state.note_ignored(store_id, &ignored, now);
            state.retain_changes(store_id, &mut heartbeat.reports);
            let mut changes = state.decide_heartbeat(&heartbeat, now);
            changes.extend(state.decide_departures(now));
            Ok::<_, Refusal>(changes)
        })?;
        let holds = std::mem::take(&mut heartbeat.holds);
        if !changes.is_empty() {
            let is_away = |change: &Change| matches!(change, Change::Away(_));
            let is_advisory = changes.iter().all(is_away);
            let question = |answer| Question::Heartbeat(heartbeat, answer);
            match self.ask(question).await {
                Err(ClusterError::Storage(_) | ClusterError::Busy) if is_advisory => {
                    // The next heartbeat brings it again, and the store is told what to do meanwhile.
                    tracing::debug!(store_id, "what voters were away for is not stored");
                }
                asked => asked?,
            }
        }
        let steps = self.steps(&led).await?;
        let mut interval = if self.shared.is_watched(now) {
            WATCHED_INTERVAL
        } else {
            HEARTBEAT_INTERVAL
        };
        let mut regions = Vec::new();
        if has_no_region {
            self.shared.read(|state| {
                regions = state.regions_of(store_id);
                if state.regions.is_empty() {
                    interval = WAITING_INTERVAL;
                }
            });
        }
        Ok(StoreHeartbeatResponse {
            interval_ms: interval.as_millis() as u64,
            regions,
            steps,
            removed: self.removed_of(store_id, &holds),
        })
    }

    async fn steps(&self, led: &[Led]) -> Result<Vec<RegionStep>, ClusterError> {
        let now = Instant::now();
        let (mut steps, nameless) = self.shared.write(|state| state.take_steps(led, now));
        if !nameless.is_empty() {
            let of_question = nameless.clone();
            self.ask(|answer| Question::NewPeers(of_question, answer))
                .await?;
            let now = Instant::now();
            steps.extend(self.shared.write(|state| state.take_named(&nameless, now)));
        }
        Ok(steps)
    }

    fn removed_of(&self, store_id: u64, holds: &[HeldPeer]) -> Vec<HeldPeer> {
        self.shared.read(|state| state.removed_of(store_id, holds))
    }

    /// Has a store leave, or stay after all.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Impossible`] says why not.
    pub async fn change_leaving(
        &self,
        store_id: u64,
        is_leaving: bool,
    ) -> Result<RemoveStoreResponse, ClusterError> {
        let question = |answer| Question::Leaving {
            store_id,
            is_leaving,
            answer,
        };
        self.ask(question).await
    }

    /// Asks for a voter of a region on one store, and the removal of its peer on another one.
    ///
    /// # Errors
    ///
    /// Says why it cannot be done.
    pub fn add_operator(
        &self,
        region_id: u64,
        add: Option<u64>,
        remove: Option<u64>,
    ) -> Result<Operator, Impossible> {
        let (wish, now) = (Wish { add, remove }, Instant::now());
        self.shared
            .write(|state| state.add_operator(region_id, wish, now))
    }

    /// Ends the operator of a region.
    ///
    /// # Errors
    ///
    /// When the region has none.
    pub fn cancel_operator(&self, region_id: u64) -> Result<Operator, Impossible> {
        let now = Instant::now();
        self.shared
            .write(|state| state.cancel_operator(region_id, now))
    }

    /// The operators under way in the order of their regions, then what is changed without one, then the operators that have
    /// ended, the last one first.
    pub fn operators(&self) -> Vec<Operator> {
        let now = Instant::now();
        self.shared.write(|state| state.operators(now))
    }

    /// Most bytes that the list of all stores has at the moment. Cheap, unlike the list itself.
    pub fn stores_bytes_max(&self) -> usize {
        self.shared.read(|state| state.stores.len()) * (STORE_BYTES_MAX + LOAD_BYTES_MAX)
    }

    /// All stores that have kept their id, in the order of their ids.
    pub fn stores(&self) -> Vec<Store> {
        self.shared.read(|state| state.stores(Instant::now()))
    }

    /// How many stores and regions there are. Cheap beside their lists.
    pub fn counts(&self) -> ClusterCounts {
        self.shared.read(|state| state.counts(Instant::now()))
    }

    /// All that the page shows, put together at most once in [`OVERVIEW_AGE_MAX`]. With many regions that takes a while, so do
    /// not call it on a serving thread. Since somebody looks at the page, stores are asked to report more often for a while.
    pub(crate) fn overview(&self) -> Arc<Overview> {
        self.overview_at(Instant::now())
    }

    fn overview_at(&self, now: Instant) -> Arc<Overview> {
        *locked(&self.shared.watched_at) = Some(now);
        let mut shown = locked(&self.shared.shown);
        if let Some((at, overview)) = &*shown
            && now.saturating_duration_since(*at) < OVERVIEW_AGE_MAX
        {
            return Arc::clone(overview);
        }
        let overview = Arc::new(self.shared.overview(now));
        *shown = Some((now, Arc::clone(&overview)));
        overview
    }

    /// What is wrong with the cluster, as far as nobody else knows it.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.shared.read(|state| state.findings(Instant::now()))
    }

    /// Where the last call as a store came from that was refused lately, and why it was.
    pub(crate) fn refused_store(&self) -> Option<(IpAddr, String)> {
        self.shared.refused_call.told(Instant::now())
    }

    /// Has to be told of refused calls as a store.
    pub(crate) fn refused_call(&self) -> Arc<RefusedCall> {
        Arc::clone(&self.shared.refused_call)
    }

    /// Bytes of the disk of the data directory that are free, and all of them.
    pub(crate) fn space(&self) -> (u64, u64) {
        let data = self.shared.storage.figures().data;
        (data.available_bytes, data.capacity_bytes)
    }

    /// What all stores together do, as far as they have told.
    pub(crate) fn load(&self) -> Option<ClusterLoad> {
        self.shared.read(|state| state.load(Instant::now()))
    }

    /// The region that holds `key`, or why there is none.
    ///
    /// # Errors
    ///
    /// The cause, in a few words.
    pub fn region(&self, key: &[u8]) -> Result<RegionRoute, String> {
        let now = Instant::now();
        self.shared.read(|state| {
            let route = state.route(key, now);
            route.ok_or_else(|| state.no_region(now))
        })
    }

    /// Most bytes that a list of up to `limit` regions has at the moment.
    pub fn regions_bytes_max(&self, limit: usize) -> usize {
        limit.min(self.shared.read(|state| state.regions.len())) * REGION_BYTES_MAX
    }

    /// Up to `limit` regions in key order, from the one that holds `start_key` up to those that start below `end_key`
    /// (empty: no bound).
    pub fn regions(&self, start_key: &[u8], end_key: &[u8], limit: usize) -> Vec<RegionRoute> {
        let now = Instant::now();
        self.shared
            .read(|state| state.routes(start_key, end_key, limit, now))
    }

    async fn ask<T>(
        &self,
        question: impl FnOnce(Answer<T>) -> Question,
    ) -> Result<T, ClusterError> {
        let (answer, answered) = oneshot::channel();
        self.questions
            .try_send(question(answer))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => ClusterError::Busy,
                mpsc::error::TrySendError::Closed(_) => ClusterError::Stopping,
            })?;
        answered.await.map_err(|_| ClusterError::Stopping)?
    }
}

impl Shared {
    async fn persist_and_apply(&self, changes: Vec<Change>) -> Result<(), rdb_storage::Error> {
        if changes.is_empty() {
            return Ok(());
        }
        self.storage.submit(submission(&changes))?.await?;
        self.write(|state| changes.into_iter().for_each(|change| state.apply(change)));
        Ok(())
    }

    /// Whether somebody looks at the page, and heartbeats are cheap enough to come more often for that.
    fn is_watched(&self, now: Instant) -> bool {
        let watched_at = *locked(&self.watched_at);
        let is_looked_at =
            watched_at.is_some_and(|at| now.saturating_duration_since(at) < WATCHED_FOR);
        is_looked_at
            && self.read(|state| {
                state.confirmed().count() <= WATCHED_STORES_MAX
                    && state.regions.len() <= WATCHED_REGIONS_MAX
            })
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The changes as one write: all or none.
fn submission(changes: &[Change]) -> Submission {
    let commands = changes.iter().map(Change::command).collect();
    Submission::new(EMBEDDED_REGION_ID, commands)
}

#[cfg(test)]
mod tests;
