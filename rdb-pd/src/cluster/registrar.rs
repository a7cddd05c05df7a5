//! The one task that changes what is durable.
//!
//! A registration has three steps: decide, persist, apply. All of them have to happen: after a change that is durable but
//! not applied, the next decision would give out the same id again. So callers queue their registration and wait for the
//! answer. A caller that hangs up does not interrupt the steps. If they have not begun, its registration is dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdb_proto::pdpb::RegisterStoreResponse;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use super::{ClusterError, Refusal, Registration, Shared, Start};

/// Most registrations in the queue. The caller of one more is told to ask again.
pub(super) const QUESTIONS_MAX: usize = 256;

/// How often the registrar notes that this process is awake.
const AWAKE_INTERVAL: Duration = Duration::from_secs(1);

/// How often a registration is logged, and how often a refusal.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// A registration that waits for its answer.
pub(super) struct Question {
    pub(super) registration: Registration,
    pub(super) answer: oneshot::Sender<Result<RegisterStoreResponse, ClusterError>>,
}

/// Answers registrations, one after the other. [`run`](Self::run) has to be driven for as long as the process serves.
pub struct Registrar {
    pub(super) shared: Arc<Shared>,
    pub(super) questions: mpsc::Receiver<Question>,
    pub(super) registered: RareLine,
    pub(super) refused: RareLine,
}

/// A line of the log that is written at most once a [`LOG_INTERVAL`]: for a copy in a restart loop, and for floods.
#[derive(Debug, Default)]
pub(super) struct RareLine {
    written_at: Option<Instant>,
    left_out: u64,
}

impl RareLine {
    /// Takes the turn to write the line, if there is one. Returns how many lines were left out since the last turn.
    fn take_turn(&mut self, now: Instant) -> Option<u64> {
        let is_recent = |at| now.saturating_duration_since(at) < LOG_INTERVAL;
        if self.written_at.is_some_and(is_recent) {
            self.left_out += 1;
            return None;
        }
        self.written_at = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Registrar {
    /// Runs until the future is dropped. Callers that still wait are then told that the process stops. A change that was
    /// being persisted may be durable; the next process loads it.
    pub async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        tokio::join!(self.answer_questions(), stay_awake(&shared));
    }

    async fn answer_questions(&mut self) {
        while let Some(Question {
            registration,
            answer,
        }) = self.questions.recv().await
        {
            if !answer.is_closed() {
                // The caller may have hung up meanwhile. The decision stands.
                let _ = answer.send(self.register(&registration).await);
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
            Err(refusal) => self.log_refusal(&registration.start, refusal, now),
        }
        let (store_id, changes) = decided?;
        let changed = !changes.is_empty();
        shared.persist_and_apply(changes).await?;
        if changed
            && registration.is_kept()
            && let Some(left_out) = self.registered.take_turn(now)
        {
            let address = &registration.start.address;
            tracing::info!(store_id, address, left_out, "a store registered");
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

    fn log_refusal(&mut self, start: &Start, refusal: &Refusal, now: Instant) {
        if let Some(left_out) = self.refused.take_turn(now) {
            let Start {
                store_id, address, ..
            } = start;
            tracing::warn!(store_id, address, left_out, cause = %refusal, "refused a store");
        }
    }
}

async fn stay_awake(shared: &Shared) {
    let mut ticks = interval(AWAKE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.write(|state| state.listening.note_awake(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_second_with_the_count_of_the_others() {
        let mut line = RareLine::default();
        let begun = Instant::now();
        let written = (0..25).filter_map(|tenth| line.take_turn(begun + tenth * LOG_INTERVAL / 10));
        assert_eq!(written.collect::<Vec<_>>(), [0, 9, 9]);
    }
}
