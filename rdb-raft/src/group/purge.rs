//! Letting go of the log.

use std::io;
use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use tokio::task::spawn_blocking;

use super::lease::is_sole_voter;
use super::{Ended, Group, RaftMetrics};
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

impl Group {
    /// Purges the log in large strides, and never beyond what the state machine has flushed. Most calls find nothing to do;
    /// they are cheap. When so much is not flushed that a restart would take long, the state machine is flushed first.
    ///
    /// The log of several voters is kept: a follower that is behind cannot be given the data itself yet.
    ///
    /// # Errors
    ///
    /// See [`PurgeError`].
    pub async fn purge(&self) -> Result<(), PurgeError> {
        if self.strides.is_empty() {
            return Ok(());
        }
        // openraft ignores a second request while it builds a snapshot, and that one may be older.
        let _one_at_a_time = self.purging.lock().await;
        let Some(flushed) = self.flush_if_wanted().await? else {
            return Ok(());
        };
        let Some(upto) = self.strides.flushed(flushed.index) else {
            return Ok(());
        };
        if !is_sole_voter(&self.raft.metrics().borrow_watched()) {
            return Ok(());
        }
        let trigger = self.raft.trigger();
        trigger.snapshot().await.map_err(Ended::from)?;
        let is_built = |metrics: &RaftMetrics| metrics.snapshot >= Some(flushed);
        self.wait_until(is_built).await?;
        trigger.purge_log(upto).await.map_err(Ended::from)?;
        self.strides.remove(upto);
        Ok(())
    }

    /// What is flushed.
    async fn flush_if_wanted(&self) -> Result<Option<LogId>, PurgeError> {
        let (machine, strides) = (Arc::clone(&self.machine), Arc::clone(&self.strides));
        let flush = move || {
            let flushed = machine.flushed()?.position;
            if !strides.want_flush(flushed.map_or(0, |flushed| flushed.index)) {
                return Ok(flushed);
            }
            machine.flush()?;
            Ok(machine.flushed()?.position)
        };
        spawn_blocking(flush)
            .await
            .map_err(io::Error::other)?
            .map_err(PurgeError::Flush)
    }
}
