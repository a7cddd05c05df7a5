//! Letting go of the log.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::metrics::WaitError;
use tokio::task::spawn_blocking;

use super::lease::is_sole_voter;
use super::{Ended, Group, RaftMetrics};
use crate::machine::Applied;
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

impl Group {
    /// Purges the log in large strides, and never beyond what the state machine has flushed. Most calls find nothing to do;
    /// they are cheap. When so much is not flushed that a restart would take long, the state machine is flushed first.
    ///
    /// The log of a group with other members is kept: one that is behind cannot be given the data itself yet.
    ///
    /// # Errors
    ///
    /// See [`PurgeError`].
    pub async fn purge(&self) -> Result<(), PurgeError> {
        let running = self.raft.metrics().borrow_watched().running_state.clone();
        running.map_err(Ended::from)?;
        if self.strides.is_empty() || !(self.is_alone() || self.strides.want_flush(0)) {
            return Ok(());
        }
        // One that is given up holds the lock until it is done.
        let group = self.clone();
        self.lasting(async move {
            let _one_at_a_time = group.purging.lock().await;
            group.purge_flushed().await
        })
        .await
    }

    async fn purge_flushed(&self) -> Result<(), PurgeError> {
        let flushed = self.flush_if_wanted().await?;
        let Some(position) = flushed.position else {
            return Ok(());
        };
        let Some(upto) = self.strides.flushed(position.index) else {
            return Ok(());
        };
        if self.is_alone() {
            self.snapshots.set_flushed(flushed);
            self.build_snapshot(position).await?;
            let purged = self.raft.trigger().purge_log(upto).await;
            purged.map_err(Ended::from)?;
        }
        // With other members they are forgotten, so that they do not cost a look at the state machine again and again.
        self.strides.remove(upto);
        Ok(())
    }

    /// Whether the group has no other member, not even a learner.
    fn is_alone(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        is_sole_voter(&metrics) && metrics.membership_config.nodes().count() == 1
    }

    /// Waits until openraft knows that so much is flushed.
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

    /// What is flushed.
    async fn flush_if_wanted(&self) -> Result<Applied, PurgeError> {
        let (machine, strides) = (Arc::clone(&self.machine), Arc::clone(&self.strides));
        // Added before it is looked at: the shutdown waits for it, or it has begun and is seen.
        let user = self.users.add();
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
}
