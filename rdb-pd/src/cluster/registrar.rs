//! The one task that changes what is durable.
//!
//! A registration has three steps: decide, persist, apply. All of them have to happen: after a change that is durable but
//! not applied, the next decision would give out the same id again. So callers queue their registration and wait for the
//! answer. A caller that hangs up does not interrupt the steps. If they have not begun, its registration is dropped. A
//! heartbeat takes the same way if it changes a region.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdb_proto::pdpb::{RegisterStoreResponse, RemoveStoreResponse};
use rdb_proto::rare_line::RareLine;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use super::membership::Nameless;
use super::state::Change;
use super::{ClusterError, Heartbeat, Refusal, Registration, Shared, Start};

/// Most questions in the queue. The caller of one more is told to ask again.
pub(super) const QUESTIONS_MAX: usize = 256;

/// How often the registrar notes that this process is awake.
const AWAKE_INTERVAL: Duration = Duration::from_secs(1);

/// Where the answer to a question goes.
pub(super) type Answer<T> = oneshot::Sender<Result<T, ClusterError>>;

/// What waits for a decision.
pub(super) enum Question {
    /// A start of a store registers.
    Registration(Registration, Answer<RegisterStoreResponse>),
    /// A heartbeat was taken that changes a region. Its reports are those that do.
    Heartbeat(Heartbeat, Answer<()>),
    /// Peers that leaders are to add need ids.
    NewPeers(Vec<Nameless>, Answer<()>),
    /// A store should leave, or stay after all.
    Leaving {
        store_id: u64,
        is_leaving: bool,
        answer: Answer<RemoveStoreResponse>,
    },
}

/// Answers questions, one after the other. [`run`](Self::run) has to be driven for as long as the process serves.
pub struct Registrar {
    pub(super) shared: Arc<Shared>,
    pub(super) questions: mpsc::Receiver<Question>,
    pub(super) registered: RareLine,
    pub(super) refused: RareLine,
}

impl Registrar {
    /// Runs until the future is dropped. Callers that still wait are then told that the process stops. A change that was
    /// being persisted may be durable; the next process loads it.
    pub async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        tokio::join!(self.answer_questions(), stay_awake(&shared));
    }

    async fn answer_questions(&mut self) {
        while let Some(question) = self.questions.recv().await {
            // The caller may hang up meanwhile. The decision holds.
            match question {
                Question::Registration(registration, answer) if !answer.is_closed() => {
                    let _ = answer.send(self.register(&registration).await);
                }
                Question::Heartbeat(heartbeat, answer) if !answer.is_closed() => {
                    let _ = answer.send(self.change_regions(&heartbeat).await);
                }
                Question::NewPeers(nameless, answer) if !answer.is_closed() => {
                    let _ = answer.send(self.name_new_peers(&nameless).await);
                }
                Question::Leaving {
                    store_id,
                    is_leaving,
                    answer,
                } if !answer.is_closed() => {
                    let _ = answer.send(self.change_leaving(store_id, is_leaving).await);
                }
                Question::Registration(..)
                | Question::Heartbeat(..)
                | Question::NewPeers(..)
                | Question::Leaving { .. } => {}
            }
        }
    }

    async fn register(
        &mut self,
        registration: &Registration,
    ) -> Result<RegisterStoreResponse, ClusterError> {
        let shared = Arc::clone(&self.shared);
        let now = Instant::now();
        let decided = shared.read(|state| state.decide_registration(registration, now));
        match &decided {
            Ok(_) => {}
            Err(Refusal::MayBeAlive { .. }) => {
                shared.write(|state| state.note_waiting(&registration.start, now));
            }
            Err(refusal) => {
                let start = &registration.start;
                shared.write(|state| state.strangers.note_refused(start, refusal, now));
                self.log_refusal(start, refusal, now);
            }
        }
        let (store_id, changes) = decided?;
        let changed = !changes.is_empty();
        make_durable(&shared, changes).await?;
        if changed
            && registration.is_kept()
            && let Some(left_out) = self.registered.take_turn(now)
        {
            let address = &registration.start.address;
            tracing::info!(store_id, address, left_out, "a store registered");
            let (has_region, initial_replicas) =
                shared.read(|state| (!state.regions.is_empty(), state.settings.initial_replicas));
            if !has_region {
                tracing::info!(initial_replicas, "the first region waits for more stores");
            }
        }
        Ok(shared.write(|state| {
            state.heard_of(store_id, &registration.start, None, Instant::now());
            RegisterStoreResponse {
                cluster_id: state.cluster_id,
                store_id,
                regions: state.regions_of(store_id),
            }
        }))
    }

    async fn change_regions(&self, heartbeat: &Heartbeat) -> Result<(), ClusterError> {
        let now = Instant::now();
        let changes = self
            .shared
            .read(|state| state.decide_heartbeat(heartbeat, now));
        make_durable(&self.shared, changes).await?;
        self.let_stores_leave().await
    }

    async fn name_new_peers(&self, nameless: &[Nameless]) -> Result<(), ClusterError> {
        let changes = self.shared.read(|state| state.decide_new_peers(nameless));
        make_durable(&self.shared, changes).await
    }

    async fn change_leaving(
        &self,
        store_id: u64,
        is_leaving: bool,
    ) -> Result<RemoveStoreResponse, ClusterError> {
        let now = Instant::now();
        let decided = self
            .shared
            .read(|state| state.decide_leaving(store_id, is_leaving, now));
        let changes = decided?;
        if !changes.is_empty() {
            make_durable(&self.shared, changes).await?;
            tracing::info!(
                store_id,
                is_leaving,
                "an operator has a store leave, or stay"
            );
        }
        self.let_stores_leave().await?;
        Ok(self.shared.read(|state| RemoveStoreResponse {
            has_left: state
                .stores
                .get(&store_id)
                .is_some_and(|store| store.record.has_left),
            region_count: state.region_count(store_id) as u64,
        }))
    }

    async fn let_stores_leave(&self) -> Result<(), ClusterError> {
        let now = Instant::now();
        let changes = self.shared.read(|state| state.decide_departures(now));
        let left = changes.iter().filter_map(|change| match change {
            Change::Store(record) => Some(record.id),
            _ => None,
        });
        let left: Vec<_> = left.collect();
        make_durable(&self.shared, changes).await?;
        for store_id in left {
            tracing::info!(store_id, "a store has left: no region has a replica on it");
        }
        Ok(())
    }

    fn log_refusal(&mut self, start: &Start, refusal: &Refusal, now: Instant) {
        if let Some(left_out) = self.refused.take_turn(now) {
            let Start {
                store_id, address, ..
            } = start;
            tracing::warn!(store_id, address, left_out, cause = %refusal, "refused a store");
        }
    }
}

/// Writes the changes as one, then shows them to the others.
async fn make_durable(shared: &Shared, changes: Vec<Change>) -> Result<(), ClusterError> {
    let regions = changes.iter().filter_map(|change| match change {
        Change::Region(region) => Some(region.clone()),
        _ => None,
    });
    let regions: Vec<_> = regions.collect();
    shared.persist_and_apply(changes).await?;
    for region in regions {
        let epoch = region.epoch_or_default();
        let (conf_version, version) = (epoch.conf_version, epoch.version);
        let stores: Vec<_> = region.peers.iter().map(|peer| peer.store_id).collect();
        tracing::info!(
            region_id = region.id,
            conf_version,
            version,
            ?stores,
            "a region has new peers"
        );
    }
    Ok(())
}

async fn stay_awake(shared: &Shared) {
    let mut ticks = interval(AWAKE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.write(|state| state.listening.note_awake(Instant::now()));
    }
}
