//! Which starts of stores are known.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::simulation::spawn_blocking;

/// Most stores whose starts are remembered.
pub const STARTS_MAX: usize = 4096;

/// The number of the start of this store, and the latest ones of the others that it has met. The module `transport` says what
/// they are for.
///
/// - A number is remembered before anything is taken from its store, and it never gets smaller.
/// - What is remembered outlasts the process, unless the disk does not take it. Then it is kept at the next meeting.
pub struct Starts {
    own: watch::Sender<u64>,
    /// By store.
    met: watch::Sender<BTreeMap<u64, u64>>,
    /// The store that has met a later start of this one.
    outdated_by: watch::Sender<Option<u64>>,
    /// What was kept last. Locked while more is kept.
    kept: Arc<Mutex<BTreeMap<u64, u64>>>,
    keep: Arc<Keep>,
}

/// Makes the start of this store durable, and those of others, by store. It may block.
type Keep = dyn Fn(u64, &BTreeMap<u64, u64>) -> io::Result<()> + Send + Sync;

/// Why nothing is taken from a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotMet {
    #[error("store {store_id} has started again since: its start {start} is older than {latest}")]
    Older {
        store_id: u64,
        start: u64,
        latest: u64,
    },
    #[error("more than {STARTS_MAX} stores were met")]
    TooMany,
}

impl Starts {
    /// `own` is what the data directory of this store has kept, and `met` what `keep` was told last.
    pub fn new(
        own: u64,
        met: BTreeMap<u64, u64>,
        keep: impl Fn(u64, &BTreeMap<u64, u64>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            own: watch::Sender::new(own),
            met: watch::Sender::new(met.clone()),
            outdated_by: watch::Sender::default(),
            kept: Arc::new(Mutex::new(met)),
            keep: Arc::new(keep),
        })
    }

    /// Notes the start of this store once its directory has kept it. Connections are made again, so that others meet it.
    pub async fn set_own(&self, start: u64) {
        let is_later = self.own.send_if_modified(|own| {
            let is_later = start > *own;
            *own = start.max(*own);
            is_later
        });
        if is_later && let Err(error) = self.write(Arc::clone(&self.kept).lock_owned().await).await
        {
            tracing::warn!(%error, "the number of this start is only kept with its incarnation");
        }
    }

    /// Waits until it turns out that this store has started later from another directory. Returns the store that said so.
    pub async fn outdated(&self) -> u64 {
        let mut outdated_by = self.outdated_by.subscribe();
        loop {
            if let Some(store_id) = *outdated_by.borrow_and_update() {
                return store_id;
            }
            // The sender is in `self`.
            let _ = outdated_by.changed().await;
        }
    }

    /// The start of this store.
    pub fn own(&self) -> u64 {
        *self.own.borrow()
    }

    /// The latest start of a store that this one has met. 0: none.
    pub(super) fn met(&self, store_id: u64) -> u64 {
        self.met.borrow().get(&store_id).copied().unwrap_or(0)
    }

    /// Remembers a start of another store. When this returns, it is durable, if the disk takes it.
    ///
    /// # Errors
    ///
    /// Why nothing may be taken from the store.
    pub(super) async fn meet(&self, store_id: u64, start: u64) -> Result<(), NotMet> {
        let mut not_met = None;
        self.met.send_if_modified(|met| {
            let latest = met.get(&store_id).copied().unwrap_or(0);
            if start < latest {
                not_met = Some(NotMet::Older {
                    store_id,
                    start,
                    latest,
                });
            } else if latest == 0 && met.len() >= STARTS_MAX {
                not_met = Some(NotMet::TooMany);
            }
            let is_later = start > latest && not_met.is_none();
            if is_later {
                met.insert(store_id, start);
            }
            is_later
        });
        match not_met {
            Some(not_met) => Err(not_met),
            None => {
                self.keep(store_id, start).await;
                Ok(())
            }
        }
    }

    async fn keep(&self, store_id: u64, start: u64) {
        let kept = Arc::clone(&self.kept).lock_owned().await;
        if kept.get(&store_id).copied().unwrap_or(0) >= start {
            return;
        }
        if let Err(error) = self.write(kept).await {
            tracing::warn!(store_id, %error, "the start of another store is not remembered beyond this process");
        }
    }

    async fn write(&self, mut kept: OwnedMutexGuard<BTreeMap<u64, u64>>) -> io::Result<()> {
        let (own, met) = (self.own(), self.met.borrow().clone());
        let keep = Arc::clone(&self.keep);
        // The caller may be gone before this is done. The lock is held until then.
        let written = spawn_blocking(move || {
            keep(own, &met)?;
            *kept = met;
            Ok(())
        });
        written.await.map_err(io::Error::other)?
    }

    /// Another store has met a later start of this one than `start`. It means nothing if this one has just registered.
    pub(super) fn note_outdated(&self, by: u64, start: u64) {
        if self.own() == start {
            self.outdated_by.send_replace(Some(by));
        }
    }

    /// Waits until this store has another start than `start`.
    pub(super) fn registered_again(&self, start: u64) -> impl Future<Output = ()> + Send + use<> {
        let mut own = self.own.subscribe();
        async move {
            // It fails when nobody registers any more.
            if own.wait_for(|own| *own != start).await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// Waits until a later start of another store was met than `start`.
    pub(super) fn superseded(
        &self,
        store_id: u64,
        start: u64,
    ) -> impl Future<Output = ()> + Send + use<> {
        let mut met = self.met.subscribe();
        let is_later =
            move |met: &BTreeMap<u64, u64>| met.get(&store_id).copied().unwrap_or(0) > start;
        async move {
            if met.wait_for(is_later).await.is_err() {
                std::future::pending().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn older(start: u64, latest: u64) -> Result<(), NotMet> {
        let store_id = 2;
        Err(NotMet::Older {
            store_id,
            start,
            latest,
        })
    }

    #[tokio::test]
    async fn a_start_is_kept_before_it_is_met_and_older_ones_are_refused_from_then_on() {
        let disk = Arc::<Mutex<BTreeMap<u64, u64>>>::default();
        let is_full = Arc::new(AtomicBool::new(false));
        let open = || {
            let (written, is_full) = (Arc::clone(&disk), Arc::clone(&is_full));
            let met = written.lock().unwrap().clone();
            Starts::new(1, met, move |_, met| {
                if is_full.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                written.lock().unwrap().clone_from(met);
                Ok(())
            })
        };
        let starts = open();
        assert_eq!(starts.meet(2, 0).await, Ok(()), "one without a number");
        assert_eq!(starts.meet(2, 7).await, Ok(()));
        assert_eq!(disk.lock().unwrap().get(&2), Some(&7));
        assert_eq!(starts.meet(2, 6).await, older(6, 7));
        assert_eq!(starts.meet(3, 1).await, Ok(()), "each has its own");
        let starts = open();
        assert_eq!(starts.meet(2, 6).await, older(6, 7), "after a restart");

        is_full.store(true, Ordering::Relaxed);
        assert_eq!(starts.meet(2, 8).await, Ok(()));
        assert_eq!(starts.meet(2, 7).await, older(7, 8), "it is known here");
        is_full.store(false, Ordering::Relaxed);
        assert_eq!(starts.meet(2, 8).await, Ok(()));
        assert_eq!(disk.lock().unwrap().get(&2), Some(&8), "made up for");
    }

    #[tokio::test]
    async fn no_more_stores_are_met_than_are_remembered() {
        let starts = Starts::new(1, BTreeMap::new(), |_, _| Ok(()));
        for store_id in 0..STARTS_MAX as u64 {
            assert_eq!(starts.meet(store_id, 1).await, Ok(()));
        }
        assert_eq!(starts.meet(u64::MAX, 1).await, Err(NotMet::TooMany));
        assert_eq!(starts.meet(0, 2).await, Ok(()), "one that is known");
    }

    #[tokio::test]
    async fn a_store_that_has_just_registered_is_not_outdated() {
        let starts = Starts::new(1, BTreeMap::new(), |_, _| Ok(()));
        starts.set_own(2).await;
        starts.note_outdated(3, 1);
        starts.note_outdated(4, 2);
        assert_eq!(starts.outdated().await, 4);
    }
}
