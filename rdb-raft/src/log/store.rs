//! The log of a group as openraft writes it.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend};
use tokio::sync::oneshot;

use super::group_log::GroupLog;
use super::health::stopped;
use super::job::{Flushed, Job};
use super::queue::Queue;
use super::{LogDevice, LogReader, UNWRITTEN_BYTES_MAX};
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// The log of one group, and the only one that changes it.
///
/// A change is made in memory and queued for the writer before its method returns. Only a vote waits until it is durable.
/// When the writer has stopped, changes fail. Memory may then be ahead of the device; the next open resolves that.
pub struct LogStore {
    log: Arc<GroupLog>,
    queue: Arc<Queue>,
    device: Arc<dyn LogDevice>,
}

impl LogStore {
    pub(super) fn new(log: Arc<GroupLog>, queue: Arc<Queue>, device: Arc<dyn LogDevice>) -> Self {
        Self { log, queue, device }
    }

    /// The peer whose log it was when it was opened. `None`: nobody had noted that.
    pub(crate) fn peer_id(&self) -> Option<u64> {
        self.log.peer_id()
    }

    /// Notes whose log it is, durably.
    pub(crate) async fn note_peer(&self, peer_id: u64) -> io::Result<()> {
        let durable = self.queue_note(peer_id)?;
        let ended = |_| stopped("the writer ended before it was written whose log it is");
        durable.await.map_err(ended)?
    }

    /// The same without waiting: it is durable before any later change of this log is. The receiver says when.
    pub(crate) fn queue_note(&self, peer_id: u64) -> io::Result<oneshot::Receiver<io::Result<()>>> {
        let (noted, durable) = oneshot::channel();
        self.queue.push(Job::Peer {
            group_id: self.log.group_id(),
            peer_id: Some(peer_id),
            noted,
        })?;
        Ok(durable)
    }

    /// Whether it never had entries, and never began behind any. It may have a vote.
    pub(crate) fn is_unused(&self) -> bool {
        self.log.is_unused()
    }

    /// A barrier, to wait until truncations of this log are durable.
    pub(crate) fn barrier(&self) -> Barrier {
        Barrier {
            log: Arc::clone(&self.log),
            queue: Arc::clone(&self.queue),
        }
    }

    /// What the writer has not written yet. A write that takes longer than `patience` stands still.
    pub(crate) fn backlog(&self, patience: Duration) -> Backlog {
        Backlog {
            log: Arc::downgrade(&self.log),
            queue: Arc::clone(&self.queue),
            patience,
        }
    }

    /// A reader of this log. It sees every change at once.
    pub fn reader(&self) -> LogReader {
        LogReader::new(Arc::clone(&self.log), Arc::clone(&self.device))
    }
}

/// What the writer of all logs has not written yet, as one group sees it.
#[derive(Clone)]
pub(crate) struct Backlog {
    /// It ends with the group.
    log: Weak<GroupLog>,
    queue: Arc<Queue>,
    patience: Duration,
}

impl Backlog {
    /// Whether it is so much that the group should propose nothing more. What other leaders send counts, too. So while the disk works, only
    /// a group that has much of it itself is refused.
    pub(crate) fn is_full(&self) -> bool {
        let has_much = || self.log_is(GroupLog::has_much_unwritten);
        self.queue.unwritten_bytes() > UNWRITTEN_BYTES_MAX
            && (has_much() || self.queue.stands_still(self.patience))
    }

    /// Whether the group's vote waits until it is durable. openraft takes up nothing before that, and publishes nothing: a peer that still
    /// seems to lead no longer does.
    pub(crate) fn awaits_vote(&self) -> bool {
        self.log_is(GroupLog::awaits_vote)
    }

    fn log_is(&self, is_it: fn(&GroupLog) -> bool) -> bool {
        self.log.upgrade().is_some_and(|log| is_it(&log))
    }
}

/// Keeps what comes in the place of truncated entries from being durable before they are gone. Otherwise the next start could find a log
/// that contradicts the state.
pub(crate) struct Barrier {
    log: Arc<GroupLog>,
    queue: Arc<Queue>,
}

impl Barrier {
    /// Waits until all truncations so far are durable. Nearly always they are, so it only looks. Entries that were appended need not be
    /// durable: a log may end before the state.
    ///
    /// # Errors
    ///
    /// When the writer has stopped and a truncation is not durable.
    pub(crate) async fn pass(&self) -> io::Result<()> {
        if !self.log.has_unwritten_truncation() {
            return Ok(());
        }
        let (reached, durable) = oneshot::channel();
        self.queue.push(Job::Barrier { reached })?;
        let ended = |_| stopped("the writer ended before the truncation was written");
        durable.await.map_err(ended)?
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        Ok(self.log.log_state())
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (saved, durable) = oneshot::channel();
        self.log.await_vote();
        self.queue.push(Job::Vote {
            group_id: self.log.group_id(),
            vote: *vote,
            saved,
        })?;
        let ended = |_| stopped("the writer ended before the vote was written");
        durable.await.map_err(ended)??;
        self.log.set_vote(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let truncations = self.log.append(&entries)?;
        self.queue.push(Job::Append {
            log: Arc::clone(&self.log),
            entries,
            truncations,
            flushed: Flushed::new(callback),
        })
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let removed = self.log.truncate_after(last_log_id);
        if removed.is_empty() {
            return Ok(());
        }
        self.queue.push(Job::Truncate {
            log: Arc::clone(&self.log),
            removed,
        })
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let Some(removed) = self.log.purge(log_id) else {
            return Ok(());
        };
        self.queue.push(Job::Purge {
            group_id: self.log.group_id(),
            removed,
            upto: log_id,
        })
    }
}
