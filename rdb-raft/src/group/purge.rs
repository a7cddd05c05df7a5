//! Purging the log.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::metrics::WaitError;
use tokio::time::Instant;

use super::{Ended, Group, RaftMetrics};
use crate::machine::Applied;
use crate::simulation::spawn_blocking;
use crate::types::LogId;

/// Why a log was not purged.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// The group has ended.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// The state machine could not be flushed, or could not say what is.
    #[error("the state machine could not be flushed: {0}")]
    Flush(#[from] io::Error),
}

/// How long to wait for a snapshot before it is asked for again. openraft ignores a request while it builds another one.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(1);

/// Most that the log of a leader keeps for peers that are behind, in bytes. A peer that is further behind gets a snapshot.
pub const LOG_BYTES_MAX: u64 = 1 << 30;

/// What a peer keeps that does not lead, in bytes. It does not know how far the others are, and may have to lead.
const FOLLOWER_BYTES: u64 = 64 << 20;

/// What is known of the last look at the log.
#[derive(Default)]
pub(super) struct Purging {
    /// How far the other members were, by their ids.
    matched: BTreeMap<u64, u64>,
    /// Up to which index openraft was asked to purge.
    asked: u64,
}

impl Group {
    /// Purges the log in large strides, and never beyond what the state machine has flushed. Most calls find nothing to do;
    /// they are cheap. When so much is unflushed that a restart would take long, the state machine is flushed first.
    ///
    /// A leader keeps what other members lack, up to `log_bytes_max`, and up to twice as much for a member that has advanced since the
    /// last call. It also keeps what follows a snapshot that is being sent, for at most an hour. A member that needs more than is kept
    /// gets a snapshot, even if appends to it are under way. A peer that does not lead keeps 64 MiB at most. What was applied before the
    /// start does not count.
    ///
    /// # Errors
    ///
    /// See [`PurgeError`].
    pub async fn purge(&self, log_bytes_max: u64) -> Result<(), PurgeError> {
        self.check_running()?;
        if let Ok(purging) = self.purging.try_lock() {
            self.end_slow_streams(&purging);
        }
        if self.shared.strides.is_empty() {
            return Ok(());
        }
        // One that is given up holds the lock until it is done.
        let group = self.clone();
        self.lasting(async move {
            let mut purging = group.purging.lock().await;
            let needed_after = group.needed_after(&mut purging, log_bytes_max);
            group.purge_flushed(&mut purging, needed_after).await
        })
        .await
    }

    /// The last purged entry. What another peer lacks up to it has to come with a snapshot.
    pub fn purged(&self) -> Option<LogId> {
        self.raft.metrics().borrow_watched().purged
    }

    /// The index up to which other members do not need the log.
    pub(super) fn needed_after(&self, purging: &mut Purging, log_bytes_max: u64) -> u64 {
        let strides = &self.shared.strides;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.nodes().map(|(id, _)| *id);
        let (own, others): (Vec<_>, Vec<_>) = members.partition(|member| *member == metrics.id);
        if others.is_empty() {
            // The members may not be known yet.
            return if own.is_empty() { 0 } else { u64::MAX };
        }
        let Some(replication) = &metrics.replication else {
            purging.matched.clear();
            return strides
                .last_before(FOLLOWER_BYTES.min(log_bytes_max))
                .unwrap_or(0);
        };
        let mut needed_after = self.shared.holds.first(Instant::now()).unwrap_or(u64::MAX);
        let matched = others.into_iter().map(|member| {
            let matched = replication.get(&member).copied().flatten();
            (member, matched.map_or(0, |matched| matched.index))
        });
        let matched: BTreeMap<_, _> = matched.collect();
        for (member, matched) in &matched {
            let before = purging.matched.get(member);
            let advances = before.is_some_and(|before| matched > before);
            let bytes_max = if advances {
                2 * log_bytes_max
            } else {
                log_bytes_max
            };
            if strides.bytes_after(*matched) <= bytes_max {
                needed_after = needed_after.min(*matched);
            }
        }
        purging.matched = matched;
        needed_after
    }

    async fn purge_flushed(
        &self,
        purging: &mut Purging,
        needed_after: u64,
    ) -> Result<(), PurgeError> {
        let strides = &self.shared.strides;
        if strides.last_up_to(needed_after).is_none() && !strides.want_flush(0) {
            return Ok(());
        }
        let flushed = self.flush_if_wanted().await?;
        let Some(position) = flushed.position else {
            return Ok(());
        };
        let Some(upto) = strides.last_up_to(position.index.min(needed_after)) else {
            return Ok(());
        };
        self.shared.snapshots.set_flushed(flushed);
        self.build_snapshot(position).await?;
        let purged = self.raft.trigger().purge_log(upto).await;
        purged.map_err(Ended::from)?;
        purging.asked = upto;
        strides.remove(upto);
        Ok(())
    }

    /// What is flushed, after a flush if too much is not.
    async fn flush_if_wanted(&self) -> Result<Applied, PurgeError> {
        let (machine, strides) = (Arc::clone(&self.machine), Arc::clone(&self.shared.strides));
        // Added before it is looked at: the shutdown waits for it, or it has begun and is seen.
        let user = self.shared.users.add();
        if user.should_stop() {
            return Err(PurgeError::Ended(self.end()));
        }
        let flush = move || {
            let _user = user;
            let flushed = machine.flushed()?;
            let flushed_index = flushed.position.map_or(0, |flushed| flushed.index);
            if !strides.want_flush(flushed_index) {
                return Ok(flushed);
            }
            machine.flush()?;
            machine.flushed()
        };
        let flushed = spawn_blocking(flush).await.map_err(io::Error::other)?;
        flushed.map_err(PurgeError::Flush)
    }

    /// Waits until openraft knows that this much is flushed: it purges up to its last snapshot, which here is only a position.
    async fn build_snapshot(&self, position: LogId) -> Result<(), Ended> {
        let is_built = |metrics: &RaftMetrics| metrics.snapshot >= Some(position);
        loop {
            self.raft.trigger().snapshot().await?;
            let wait = self.raft.wait(Some(SNAPSHOT_WAIT));
            match wait.metrics(is_built, "a snapshot").await {
                Ok(_) => return Ok(()),
                Err(WaitError::Timeout(..)) => {}
                Err(WaitError::ShuttingDown) => return Err(self.end()),
            }
        }
    }

    /// A requested purge that is not done waits for a stream that has not yet sent the entries.
    fn end_slow_streams(&self, purging: &Purging) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let purged = metrics.purged.map_or(0, |purged| purged.index);
        let Some(replication) = metrics
            .replication
            .as_ref()
            .filter(|_| purged < purging.asked)
        else {
            return;
        };
        for (member, matched) in replication {
            let matched = matched.map_or(0, |matched| matched.index);
            if *member != metrics.id && matched < purging.asked {
                self.slow_streams.end(*member);
            }
        }
    }
}
