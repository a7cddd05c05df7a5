//! What the writer is asked to do.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use super::group_log::GroupLog;
use super::health::stopped;
use super::{Batch, keys};
use crate::encoding;
use crate::types::{Entry, LogId, TypeConfig, Vote, entry_bytes};

/// Most entries that are truncated one by one. A range delete slows every later read near it, and most truncations are short.
const POINT_DELETES_MAX: u64 = 1024;

/// About what a change without entries adds to a batch.
const CHANGE_BYTES: usize = 64;

/// One change of one group's log. Dropping it unanswered reads as a failure.
pub(super) enum Job {
    Append {
        log: Arc<GroupLog>,
        entries: Vec<Entry>,
        /// The log's count of truncations when the entries were appended.
        truncations: u64,
        flushed: Flushed,
    },
    Vote {
        group_id: u64,
        vote: Vote,
        saved: oneshot::Sender<io::Result<()>>,
    },
    /// Notes whose log it is. `None`: nobody knows.
    Peer {
        group_id: u64,
        peer_id: Option<u64>,
        noted: oneshot::Sender<io::Result<()>>,
    },
    /// Removes everything of the log, in any state.
    Destroy {
        group_id: u64,
        destroyed: oneshot::Sender<io::Result<()>>,
    },
    /// Changes nothing.
    Barrier {
        reached: oneshot::Sender<io::Result<()>>,
    },
    Truncate {
        log: Arc<GroupLog>,
        removed: Range<u64>,
    },
    Purge {
        group_id: u64,
        removed: Range<u64>,
        upto: LogId,
    },
}

impl Job {
    /// About what it adds to a batch.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.iter().map(entry_bytes).sum(),
            Self::Vote { .. }
            | Self::Peer { .. }
            | Self::Destroy { .. }
            | Self::Barrier { .. }
            | Self::Truncate { .. }
            | Self::Purge { .. } => CHANGE_BYTES,
        }
    }

    /// How many entries it appends.
    pub(super) fn entry_count(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.len(),
            _ => 0,
        }
    }

    pub(super) fn write(&self, batch: &mut Batch) {
        match self {
            Self::Append { log, entries, .. } => {
                for entry in entries {
                    let key = keys::entry(log.group_id(), entry.log_id.index);
                    batch.put(&key, |value| encoding::entry::encode(entry, value));
                }
            }
            Self::Vote { group_id, vote, .. } => {
                let vote = encoding::vote::encode(vote);
                batch.put(&keys::vote(*group_id), |value| {
                    value.extend_from_slice(&vote);
                });
            }
            Self::Peer {
                group_id, peer_id, ..
            } => {
                let key = keys::peer(*group_id);
                match peer_id {
                    Some(peer_id) => {
                        let peer = encoding::peer::encode(*peer_id);
                        batch.put(&key, |value| value.extend_from_slice(&peer));
                    }
                    None => batch.delete(&key),
                }
            }
            Self::Destroy { group_id, .. } => {
                batch.delete(&keys::vote(*group_id));
                batch.delete(&keys::purged(*group_id));
                batch.delete(&keys::peer(*group_id));
                let (start, end) = (keys::entry(*group_id, 0), keys::entries_end(*group_id));
                batch.delete_range(&start, &end);
            }
            Self::Barrier { .. } => {}
            Self::Truncate { log, removed } => {
                if removed.end - removed.start > POINT_DELETES_MAX {
                    delete_range(log.group_id(), removed, batch);
                    return;
                }
                for index in removed.clone() {
                    batch.delete(&keys::entry(log.group_id(), index));
                }
            }
            Self::Purge {
                group_id,
                removed,
                upto,
            } => {
                let upto = encoding::log_id::encode(upto);
                batch.put(&keys::purged(*group_id), |value| {
                    value.extend_from_slice(&upto);
                });
                if !removed.is_empty() {
                    delete_range(*group_id, removed, batch);
                }
            }
        }
    }

    /// Says that it is durable, or why not.
    pub(super) fn complete(self, result: Result<(), &str>) {
        match self {
            Self::Append {
                log,
                entries,
                truncations,
                flushed,
            } => {
                if let (Ok(()), Some(last)) = (result, entries.last()) {
                    log.set_durable(last.log_id.index, truncations);
                }
                flushed.complete(result);
            }
            Self::Vote { saved: done, .. }
            | Self::Peer { noted: done, .. }
            | Self::Destroy {
                destroyed: done, ..
            }
            | Self::Barrier { reached: done } => {
                // A group that has ended does not need its answer.
                let _ = done.send(result.map_err(stopped));
            }
            Self::Truncate { log, .. } if result.is_ok() => log.set_truncated(),
            Self::Truncate { .. } | Self::Purge { .. } => {}
        }
    }
}

fn delete_range(group_id: u64, removed: &Range<u64>, batch: &mut Batch) {
    let start = keys::entry(group_id, removed.start);
    let end = keys::entry(group_id, removed.end);
    batch.delete_range(&start, &end);
}

/// What openraft waits for after an append. It would wait for ever if this were dropped in silence.
pub(super) struct Flushed(Option<IOFlushed<TypeConfig>>);

impl Flushed {
    pub(super) fn new(flushed: IOFlushed<TypeConfig>) -> Self {
        Self(Some(flushed))
    }

    fn complete(mut self, result: Result<(), &str>) {
        self.answer(result);
    }

    fn answer(&mut self, result: Result<(), &str>) {
        if let Some(flushed) = self.0.take() {
            flushed.io_completed(result.map_err(stopped));
        }
    }
}

impl Drop for Flushed {
    fn drop(&mut self) {
        self.answer(Err("the writer ended before the append was written"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Change, MemoryDevice};

    fn changes(job: &Job) -> (usize, bool) {
        let mut batch = Batch::default();
        job.write(&mut batch);
        let is_range = |change| matches!(change, Change::DeleteRange { .. });
        (batch.changes().count(), batch.changes().any(is_range))
    }

    #[test]
    fn only_long_tails_are_truncated_by_a_range_delete() {
        let log = GroupLog::open(&MemoryDevice::default(), 1, Arc::default()).unwrap();
        let log = Arc::new(log);
        let truncate = |removed| Job::Truncate {
            log: Arc::clone(&log),
            removed,
        };
        assert_eq!(changes(&truncate(5..1029)), (1024, false));
        assert_eq!(changes(&truncate(5..1030)), (1, true));
    }

    #[test]
    fn a_purge_deletes_from_the_first_entry_that_is_there() {
        let purge = |removed| Job::Purge {
            group_id: 1,
            removed,
            upto: LogId::new_term_index(1, 9),
        };
        let mut batch = Batch::default();
        purge(5..10).write(&mut batch);
        let (start, end) = (keys::entry(1, 5), keys::entry(1, 10));
        let range = Change::DeleteRange {
            start: &start,
            end: &end,
        };
        assert!(batch.changes().any(|change| change == range));
        assert_eq!(changes(&purge(5..5)), (1, false));
    }
}
