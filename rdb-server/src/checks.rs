//! Checks of regions: the checksum of this store's replica at the position of a check in the region's log.
//!
//! A replica that applies a check takes a snapshot right behind it, before it applies anything else. The apply waits for
//! nothing else. The snapshot is held by its own thread, and read only when somebody asks for the checksum. So a check
//! that nobody asks for costs little, such as one that is applied again after a start.
//!
//! - A region has one check, the last one applied. It stays, with its checksum, until the next one.
//! - A snapshot is held for [`HELD_FOR`] after somebody has last asked, and at most [`HELD_MAX`] are held at a time. RocksDB
//!   keeps what was overwritten since.
//! - Between slices of work the thread sleeps for as long as it has worked, up to [`SLEEP_MAX`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rdb_storage::{RegionChecksum, RegionView, Storage};
use tokio::sync::{Semaphore, watch};

/// How long a snapshot is held for somebody to ask.
const HELD_FOR: Duration = Duration::from_secs(60);

/// Most snapshots that are held at a time, each of another region.
const HELD_MAX: u32 = 8;

/// Longest sleep between two slices.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// The checks of a store.
pub(crate) struct Checks {
    storage: Storage,
    places: Arc<Semaphore>,
    held_for: Duration,
    /// The latest of each region, by the region's id.
    latest: watch::Sender<BTreeMap<u64, Arc<Check>>>,
}

/// A check that was applied. Its thread ends when this is dropped.
pub(crate) struct Check {
    /// The index of its entry.
    index: u64,
    /// Tells the thread that somebody asks.
    asked: SyncSender<()>,
    progress: watch::Receiver<Progress>,
}

/// How far a check is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The snapshot is held, or being read: how many bytes were.
    Summed { bytes: u64 },
    /// It is done.
    Done(RegionChecksum),
    /// There is no checksum.
    Failed(String),
}

impl Checks {
    pub(crate) fn new(storage: Storage) -> Self {
        Self {
            storage,
            places: Arc::new(Semaphore::new(HELD_MAX as usize)),
            held_for: HELD_FOR,
            latest: watch::Sender::default(),
        }
    }

    /// Holds a snapshot of the region, which has just applied the check at `position`. Blocks until it is taken.
    pub(crate) fn hold(&self, region_id: u64, index: u64, position: &[u8]) {
        // The thread of the check before ends, and gives its place back.
        self.forget(region_id);
        let (asked, asks) = sync_channel(1);
        let (told, progress) = watch::channel(Progress::Summed { bytes: 0 });
        let holder = Holder {
            asks,
            told: told.clone(),
            held_for: self.held_for,
        };
        if let Err(cause) = self.begin(region_id, position.to_vec(), holder) {
            tracing::warn!(region_id, index, cause, "a check has no checksum");
            told.send_replace(Progress::Failed(cause));
        }
        let check = Arc::new(Check {
            index,
            asked,
            progress,
        });
        self.latest
            .send_modify(|latest| drop(latest.insert(region_id, check)));
    }

    fn begin(&self, region_id: u64, position: Vec<u8>, holder: Holder) -> Result<(), String> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place
            .map_err(|_| format!("this store holds {HELD_MAX} snapshots for checks already"))?;
        let storage = self.storage.clone();
        let (taken, is_taken) = sync_channel::<()>(0);
        let thread = thread::Builder::new().name("rdb-check".to_owned());
        let begun = thread.spawn(move || {
            // The place is given back last, when the storage can be closed.
            let (_place, storage) = (place, storage);
            let told = holder.told.clone();
            let summed = storage.view_region(region_id, |snapshot| {
                drop(taken);
                holder.sum(snapshot, &position)
            });
            let progress = match summed {
                Ok(Some(Ok(checksum))) => Progress::Done(checksum),
                Ok(Some(Err(cause))) => Progress::Failed(cause),
                Ok(None) => Progress::Failed("the region is not stored".to_owned()),
                Err(error) => Progress::Failed(error.to_string()),
            };
            told.send_replace(progress);
        });
        begun.map_err(|error| format!("its thread cannot be started: {error}"))?;
        // Its other end is dropped, when the snapshot is taken or cannot be.
        let _ = is_taken.recv();
        Ok(())
    }

    /// Asks for the checksum at the check with this index, and waits for it. `None`: this store has not applied that check in time.
    pub(crate) async fn progress(
        &self,
        region_id: u64,
        index: u64,
        wait: Duration,
    ) -> Option<Progress> {
        let mut latest = self.latest.subscribe();
        let until = tokio::time::Instant::now() + wait;
        let applied = latest.wait_for(|latest| {
            let check = latest.get(&region_id);
            check.is_some_and(|check| check.index >= index)
        });
        let applied = tokio::time::timeout_at(until, applied).await.ok()?;
        let check = applied.ok()?.get(&region_id).cloned()?;
        if check.index > index {
            let later = check.index;
            let cause = format!("a later check, at index {later}, has taken its place");
            return Some(Progress::Failed(cause));
        }
        // Full: it knows already. Ended: so has the sum.
        let _ = check.asked.try_send(());
        let mut progress = check.progress.clone();
        // A later check ends this one.
        drop(check);
        let is_over = |progress: &Progress| !matches!(progress, Progress::Summed { .. });
        let waited = tokio::time::timeout_at(until, progress.wait_for(is_over)).await;
        if let Ok(Err(_)) = waited {
            let cause = "its thread has panicked".to_owned();
            return Some(Progress::Failed(cause));
        }
        drop(waited);
        let progress = progress.borrow().clone();
        Some(progress)
    }

    /// Holds no snapshot of a region any more.
    pub(crate) fn forget(&self, region_id: u64) {
        self.latest
            .send_modify(|latest| drop(latest.remove(&region_id)));
    }

    /// Holds no snapshot any more, and waits until the last one is given back. From now on a check has no checksum.
    pub(crate) async fn close(&self) {
        self.latest.send_replace(BTreeMap::new());
        if let Ok(places) = self.places.acquire_many(HELD_MAX).await {
            places.forget();
        }
    }
}

/// What the thread of a check is told, and what it tells.
struct Holder {
    /// Disconnected: nobody needs the checksum any more.
    asks: Receiver<()>,
    told: watch::Sender<Progress>,
    held_for: Duration,
}

impl Holder {
    fn sum(&self, snapshot: &RegionView<'_>, position: &[u8]) -> Result<RegionChecksum, String> {
        if snapshot.position() != position {
            return Err("its snapshot was taken at another position".to_owned());
        }
        let unasked = || format!("nobody asked for it within {:?}", self.held_for);
        if self.asks.recv_timeout(self.held_for).is_err() {
            return Err(unasked());
        }
        let mut asked_at = Instant::now();
        let mut worked_since = Instant::now();
        let summed = snapshot.checksum(|bytes| {
            thread::sleep(worked_since.elapsed().min(SLEEP_MAX));
            worked_since = Instant::now();
            self.told.send_replace(Progress::Summed { bytes });
            match self.asks.try_recv() {
                Ok(()) => asked_at = Instant::now(),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return false,
            }
            asked_at.elapsed() < self.held_for
        });
        let summed = summed.map_err(|error| error.to_string())?;
        summed.ok_or_else(unasked)
    }
}

#[cfg(test)]
mod tests {
    use rdb_storage::{
        AppliedState, ApplyOptions, Command, LogChange, LogEntry, Proposal, RegionDescriptor, Role,
        StorageOptions,
    };
    use tempfile::TempDir;
    use tokio::task::spawn_blocking;

    use super::*;

    const PATIENT: Duration = Duration::from_secs(300);

    struct Region {
        checks: Arc<Checks>,
        index: u64,
        _directory: TempDir,
    }

    impl Region {
        fn new(held_for: Duration) -> Self {
            let directory = tempfile::tempdir().expect("the temporary directory can be written");
            let options = StorageOptions::new(Role::Server);
            let storage = Storage::open(directory.path(), options).expect("a new directory");
            let region = RegionDescriptor {
                id: 1,
                start_key: "".into(),
                end_key: "".into(),
                conf_version: 1,
                version: 1,
                peers: Vec::new(),
            };
            let state = AppliedState {
                position: "0".into(),
                membership: "m".into(),
            };
            let begun = storage.bootstrap_regions(&[(region, state)]);
            begun.expect("written");
            let checks = Arc::new(Checks {
                held_for,
                ..Checks::new(storage)
            });
            Self {
                checks,
                index: 0,
                _directory: directory,
            }
        }

        fn apply(&mut self, change: LogChange) -> String {
            self.index += 1;
            let position = self.index.to_string();
            let entry = LogEntry {
                position: position.clone().into(),
                change,
            };
            let applied = self
                .checks
                .storage
                .apply(1, &[entry], ApplyOptions::default());
            applied.expect("applied");
            position
        }

        fn put(&mut self, value: &'static str) {
            let put = Command::PutRaw {
                key: "k".into(),
                value: value.into(),
            };
            let proposal = Proposal {
                epoch_version: 1,
                commands: vec![put],
            };
            self.apply(LogChange::Proposal(proposal));
        }

        fn check(&mut self) -> u64 {
            let position = self.apply(LogChange::Check);
            self.checks.hold(1, self.index, position.as_bytes());
            self.index
        }

        async fn progress(&self, index: u64) -> Option<Progress> {
            self.checks.progress(1, index, PATIENT).await
        }
    }

    fn digest(progress: Option<Progress>) -> u128 {
        match progress {
            Some(Progress::Done(checksum)) => checksum.digest,
            other => panic!("{other:?}"),
        }
    }

    fn failure(progress: Option<Progress>) -> String {
        match progress {
            Some(Progress::Failed(cause)) => cause,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_checksum_is_that_of_the_position_whatever_is_applied_later() {
        let mut region = Region::new(HELD_FOR);
        region.put("one");
        let first = region.check();
        region.put("two");
        let one = digest(region.progress(first).await);
        assert_eq!(digest(region.progress(first).await), one, "it is kept");
        let second = region.check();
        let two = digest(region.progress(second).await);
        assert_ne!(one, two);
        region.put("one");
        let third = region.check();
        assert_eq!(digest(region.progress(third).await), one);
        let cause = failure(region.progress(first).await);
        assert!(cause.contains("a later check"), "{cause}");
    }

    #[tokio::test]
    async fn a_check_that_is_not_applied_yet_is_waited_for_and_told_of_when_it_is_not() {
        let mut region = Region::new(HELD_FOR);
        let soon = region.checks.progress(1, 1, Duration::from_millis(1));
        assert_eq!(soon.await, None);
        let checks = Arc::clone(&region.checks);
        let waiting = tokio::spawn(async move { checks.progress(1, 1, PATIENT).await });
        tokio::task::yield_now().await;
        let checked = spawn_blocking(move || region.check()).await;
        assert_eq!(checked.expect("no panic"), 1);
        digest(waiting.await.expect("no panic"));
    }

    #[tokio::test]
    async fn a_snapshot_that_nobody_asks_for_is_given_back() {
        let mut region = Region::new(Duration::from_millis(1));
        let index = region.check();
        let places = region.checks.places.acquire_many(HELD_MAX).await;
        drop(places.expect("open"));
        let cause = failure(region.progress(index).await);
        assert!(cause.contains("nobody asked"), "{cause}");
    }

    #[tokio::test]
    async fn as_many_snapshots_are_held_as_may_be_and_none_after_the_end() {
        let mut region = Region::new(HELD_FOR);
        let places = Arc::clone(&region.checks.places);
        let places = places.try_acquire_many_owned(HELD_MAX);
        let index = region.check();
        let cause = failure(region.progress(index).await);
        assert!(cause.contains("snapshots"), "{cause}");
        drop(places);
        region.check();
        region.checks.close().await;
        let index = region.check();
        failure(region.progress(index).await);
    }
}
