//! Writes to replicated regions, on the thread that applies their logs: entries and first states.

use std::sync::atomic::Ordering;

use super::Worker;
use crate::applied::{AppliedState, flushed};
use crate::apply::{BATCH_RANGE_DELETES_MAX, Batch, Entry};
use crate::command::{Outcome, range_delete_count};
use crate::error::Error;
use crate::log_entry::{ApplyOptions, LogChange, LogEntry};
use crate::read::ReadError;
use crate::region::RegionDescriptor;

/// What an entry and a command of it take in a log beside keys and values, in bytes.
const LOG_OVERHEAD_BYTES: usize = 32;

impl Worker {
    /// Applies entries of one region on the thread of the caller. `None`: that would block, and nothing was applied.
    pub(in super::super) fn apply(
        &self,
        region_id: u64,
        entries: &[LogEntry],
        options: ApplyOptions,
        may_block: bool,
    ) -> Result<Option<Vec<Vec<Outcome>>>, Error> {
        self.queue.check_open()?;
        self.health.check_log(region_id)?;
        if entries.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let mut batch = if may_block {
            Batch::new(&self.engine)
        } else {
            Batch::inline(&self.engine)
        };
        let loaded = entries
            .iter()
            .map(|entry| entry.as_applied(region_id, options));
        let loaded: Vec<_> = loaded.collect();
        // Without blocking the first part could be written, and a later one not.
        if !may_block && batch_len(&loaded) < loaded.len() {
            return Ok(None);
        }
        let mut disk_bytes = if may_block { usize::MAX } else { 0 };
        for entry in &loaded {
            match batch.load(entry, &mut disk_bytes) {
                Err(ReadError::NotInMemory) if !may_block => return Ok(None),
                read => {
                    read.map_err(|error| self.health.stop_log(region_id, error.into()))?;
                }
            }
        }
        let mut outcomes = Vec::with_capacity(loaded.len());
        let mut rest = &loaded[..];
        let written = loop {
            let (part, later) = rest.split_at(batch_len(rest));
            outcomes.extend(part.iter().map(|entry| batch.apply(entry)));
            batch.put_position(region_id, &entries[outcomes.len() - 1].position);
            if later.is_empty() {
                break self.write(batch, options.write_ahead_log, may_block);
            }
            if let Err(error) = self.write(batch.cut(), options.write_ahead_log, may_block) {
                break Err(error);
            }
            rest = later;
        };
        let is_begun = rest.len() < loaded.len();
        let written = written.map_err(|error| match error {
            // That holds for the part that failed, and not for those before it.
            Error::WritesStopped { cause } if is_begun => Error::Undetermined { cause },
            error => error,
        });
        if !written? {
            return Ok(None);
        }
        if options.write_ahead_log.is_none() {
            let bytes = entries.iter().map(log_bytes).sum::<usize>() as u64;
            self.replayed_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(Some(outcomes))
    }

    /// Writes the first states of regions that have none, together. Whether there were any. A region that a snapshot is to replace has
    /// none, and gets none.
    pub(in super::super) fn bootstrap(
        &self,
        regions: &[(RegionDescriptor, AppliedState)],
    ) -> Result<bool, Error> {
        let _alone = self.regions();
        let mut batch = Batch::new(&self.engine);
        let mut is_empty = true;
        for (region, state) in regions {
            self.check(region.id)?;
            if flushed(&self.engine, region.id)?.is_none()
                && self.engine.installing(region.id)?.is_none()
            {
                batch.put_first_state(region, state);
                is_empty = false;
            }
        }
        if is_empty {
            return Ok(false);
        }
        self.write(batch, None, true)?;
        let flushed = self.engine.database.flush();
        flushed.map_err(|error| Error::io("flushing the first states of regions", error))?;
        Ok(true)
    }

    /// Bounds how much of the logs a start applies again.
    pub(super) fn bound_replay(&self) {
        let bytes = self.replayed_bytes.load(Ordering::Relaxed);
        if bytes <= self.replayed_bytes_max {
            return;
        }
        self.replayed_bytes.store(0, Ordering::Relaxed);
        if let Err(error) = self.engine.database.begin_flush() {
            tracing::warn!(%error, "a start will have to apply more of the logs than it should");
        }
    }
}

/// How many of the entries go into one write batch.
fn batch_len(entries: &[Entry<'_>]) -> usize {
    let mut range_deletes = 0;
    let fits = |entry: &&Entry<'_>| {
        range_deletes += range_delete_count(entry.commands);
        range_deletes <= BATCH_RANGE_DELETES_MAX
    };
    entries.iter().take_while(fits).count().max(1)
}

/// About how long an entry is in its log.
fn log_bytes(entry: &LogEntry) -> usize {
    let commands = match &entry.change {
        LogChange::Proposal(proposal) => &proposal.commands[..],
        LogChange::Membership(_) | LogChange::Check | LogChange::Blank => &[],
    };
    let commands = commands.iter();
    let bytes = commands.map(|command| command.payload_bytes() + LOG_OVERHEAD_BYTES);
    bytes.sum::<usize>() + LOG_OVERHEAD_BYTES
}
