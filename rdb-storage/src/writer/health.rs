//! Whether writes are accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::error::{Error, remedy};

/// Whether writes are taken. It only ever gets worse until the next open, unless all data of a region goes or is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteHealth {
    /// They are.
    Healthy,
    /// Writes of some regions are not accepted, since something could not be read. All others are.
    RegionsStopped {
        /// What was met, by the region's id.
        causes: BTreeMap<u64, String>,
    },
    /// None is: an IO error ended writing.
    Stopped {
        /// What RocksDB said.
        cause: String,
    },
}

impl WriteHealth {
    /// Why not all writes are taken, and what can be done.
    pub fn cause(&self) -> Option<String> {
        match self {
            Self::Healthy => None,
            Self::RegionsStopped { causes } => {
                let causes = causes.iter();
                let causes = causes.map(|(id, cause)| format!("region {id}: {cause}"));
                let causes = causes.collect::<Vec<_>>().join("; ");
                Some(format!("writes to some regions have stopped: {causes}"))
            }
            Self::Stopped { cause } => {
                Some(format!("writes have stopped: {cause}; {}", remedy(cause)))
            }
        }
    }
}

/// The health of one storage, and who watches it.
pub(crate) struct Health {
    health: watch::Sender<WriteHealth>,
    /// Whether `health` is no longer healthy. Every write looks here first, since looking at the other takes a lock that all of them share.
    /// Set before the other changes, so that a write that is told of a failure finds it set. Acquire and release.
    impaired: AtomicBool,
    /// Regions of whose logs an entry could not be applied.
    stuck: Mutex<BTreeSet<u64>>,
}

impl Health {
    pub(crate) fn new() -> Self {
        Self {
            health: watch::Sender::new(WriteHealth::Healthy),
            impaired: AtomicBool::new(false),
            stuck: Mutex::default(),
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<WriteHealth> {
        self.health.subscribe()
    }

    /// Refuses a write to a region for which writing has ended.
    pub(crate) fn check(&self, region_id: u64) -> Result<(), Error> {
        if !self.impaired.load(Ordering::Acquire) {
            return Ok(());
        }
        let cause = match &*self.health.borrow() {
            WriteHealth::Healthy => return Ok(()),
            WriteHealth::RegionsStopped { causes } => match causes.get(&region_id) {
                None => return Ok(()),
                Some(cause) => format!("region {region_id}: {cause}"),
            },
            WriteHealth::Stopped { cause } => cause.clone(),
        };
        Err(Error::WritesStopped { cause })
    }

    /// Refuses entries of a region's log when all writing has ended, or when one before them could not be applied. What else
    /// has stopped writes to the region is no reason: the entries are in the log.
    pub(crate) fn check_log(&self, region_id: u64) -> Result<(), Error> {
        if !self.impaired.load(Ordering::Acquire) {
            return Ok(());
        }
        let stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        if stuck.contains(&region_id) {
            return self.check(region_id);
        }
        self.check_any()
    }

    /// Refuses any write when all writing has ended.
    pub(crate) fn check_any(&self) -> Result<(), Error> {
        match &*self.health.borrow() {
            WriteHealth::Stopped { cause } => Err(Error::WritesStopped {
                cause: cause.clone(),
            }),
            WriteHealth::Healthy | WriteHealth::RegionsStopped { .. } => Ok(()),
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        matches!(*self.health.borrow(), WriteHealth::Stopped { .. })
    }

    /// Ends writing. The first cause is kept.
    pub(crate) fn stop(&self, cause: String) {
        tracing::error!(%cause, "writes have stopped, reads go on; {}", remedy(&cause));
        self.impaired.store(true, Ordering::Release);
        self.health.send_if_modified(|health| {
            let is_first = !matches!(health, WriteHealth::Stopped { .. });
            if is_first {
                *health = WriteHealth::Stopped { cause };
            }
            is_first
        });
    }

    /// Ends applying a region's log and all other writing to it, and returns why.
    pub(crate) fn stop_log(&self, region_id: u64, error: Error) -> Error {
        let stuck = self.stuck.lock();
        stuck
            .unwrap_or_else(PoisonError::into_inner)
            .insert(region_id);
        self.stop_region(region_id, error)
    }

    /// Takes writes to a region again, since what could not be read of it is gone.
    pub(crate) fn resume_region(&self, region_id: u64) {
        let stuck = self.stuck.lock();
        stuck
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&region_id);
        self.health.send_if_modified(|health| {
            let WriteHealth::RegionsStopped { causes } = health else {
                return false;
            };
            let was_stopped = causes.remove(&region_id).is_some();
            if causes.is_empty() {
                *health = WriteHealth::Healthy;
            }
            was_stopped
        });
    }

    /// Ends writing to a region whose data could not be read, and returns why.
    pub(crate) fn stop_region(&self, region_id: u64, error: Error) -> Error {
        self.stop_region_if(region_id, error, || true)
    }

    /// The same if `is_still_so`. That is called under the lock, so nobody can resume the region between the call and the stop.
    pub(crate) fn stop_region_if(
        &self,
        region_id: u64,
        error: Error,
        is_still_so: impl FnOnce() -> bool,
    ) -> Error {
        let cause = error.to_string();
        self.impaired.store(true, Ordering::Release);
        let mut is_stopped = false;
        self.health.send_if_modified(|health| {
            is_stopped = is_still_so();
            if !is_stopped {
                return false;
            }
            match health {
                WriteHealth::Healthy => {
                    let causes = BTreeMap::from([(region_id, cause.clone())]);
                    *health = WriteHealth::RegionsStopped { causes };
                    true
                }
                WriteHealth::RegionsStopped { causes } => {
                    causes.entry(region_id).or_insert_with(|| cause.clone());
                    true
                }
                WriteHealth::Stopped { .. } => false,
            }
        });
        if is_stopped {
            tracing::error!(
                region_id,
                %cause,
                "writes to a region have stopped, reads go on; they are refused until its data is replaced or the storage is opened \
                 again"
            );
        } else {
            tracing::info!(region_id, %cause, "data could not be read that was replaced meanwhile");
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damage() -> Error {
        Error::DataLoss {
            cause: "a damaged block".to_owned(),
        }
    }

    #[test]
    fn what_can_be_done_depends_on_what_has_stopped_writes() {
        for (cause, expected) in [
            (
                "IO error: No space left on device: While appending",
                "free space, then restart",
            ),
            (
                "Corruption: block checksum mismatch",
                "a restart does not mend",
            ),
            ("the writer thread panicked", "mend that, then restart"),
        ] {
            let health = Health::new();
            health.stop(cause.to_owned());
            let told = health.watch().borrow().cause().expect("it has stopped");
            let begin = format!("writes have stopped: {cause}; {expected}");
            assert!(told.starts_with(&begin), "{told}");
        }
    }

    #[test]
    fn a_region_takes_writes_again_once_what_could_not_be_read_is_gone() {
        let health = Health::new();
        health.stop_log(1, damage());
        health.stop_region(2, damage());
        assert!(health.check_log(1).is_err());
        health.resume_region(1);
        assert_eq!((health.check(1), health.check_log(1)), (Ok(()), Ok(())));
        assert!(health.check(2).is_err());
        health.resume_region(2);
        assert_eq!(*health.watch().borrow(), WriteHealth::Healthy);
        health.stop("the disk has failed".to_owned());
        health.resume_region(1);
        assert!(health.check(1).is_err() && health.check_log(1).is_err());
    }
}
