//! The log of a group as openraft reads it.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, ControlFlow, Range, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use openraft::{OptionalSend, RaftLogReader};

use super::group_log::GroupLog;
use super::{LogDevice, keys};
use crate::encoding::{self, DecodeError};
use crate::simulation::spawn_blocking;
use crate::types::{Entry, TypeConfig, Vote, entry_bytes};

/// What a read that may be short stops at. One entry is read in any case.
const READ_BYTES_MAX: usize = 1 << 20;

/// Reads one group's log. Cheap to clone.
///
/// The last entries come from memory. Older ones are read from the device, on a blocking thread.
#[derive(Clone)]
pub struct LogReader {
    log: Arc<GroupLog>,
    device: Arc<dyn LogDevice>,
}

impl LogReader {
    pub(super) fn new(log: Arc<GroupLog>, device: Arc<dyn LogDevice>) -> Self {
        Self { log, device }
    }

    /// Says that the entries up to an index are applied. The log need not keep them in memory any longer.
    pub fn set_applied(&self, index: u64) {
        self.log.set_applied(index);
    }

    /// The damage that a read has met, if one has.
    pub(crate) fn damage(&self) -> Option<&str> {
        self.log.damage()
    }

    /// The entries of a range, from the first one that the log holds. It ends early once it has `bytes_max`, but only
    /// after at least one entry.
    async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let read = self.try_read(range, bytes_max).await;
        read.inspect_err(|error| self.log.note_failed_read(error))
    }

    async fn try_read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        loop {
            let view = self.log.view(range.clone(), bytes_max);
            if view.stored.is_empty() {
                return Ok(view.cached);
            }
            let stored = self.read_stored(view.stored.clone(), bytes_max).await?;
            let (first_index, truncations) = self.log.first_index_and_truncations();
            if truncations != view.truncations {
                // Some of it may be gone, or be another entry by now.
                continue;
            }
            let Stored {
                mut entries,
                mut bytes,
            } = stored;
            let is_short = bytes >= bytes_max;
            self.check_no_hole(&entries, view.stored, first_index, is_short)?;
            for entry in view.cached {
                if bytes >= bytes_max {
                    break;
                }
                bytes = bytes.saturating_add(entry_bytes(&entry));
                entries.push(entry);
            }
            return Ok(entries);
        }
    }

    async fn read_stored(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Stored> {
        let (device, group_id) = (Arc::clone(&self.device), self.log.group_id());
        let read = move || read_stored(&*device, group_id, range, bytes_max);
        spawn_blocking(read).await.map_err(io::Error::other)?
    }

    /// Refuses what was read of a range if an entry is missing. Those before `first_index` were purged in the meantime.
    fn check_no_hole(
        &self,
        entries: &[Entry],
        range: Range<u64>,
        first_index: u64,
        is_short: bool,
    ) -> io::Result<()> {
        let mut next = entries
            .first()
            .map_or(range.end, |entry| entry.log_id.index)
            .min(range.start.max(first_index));
        for entry in entries {
            if entry.log_id.index != next {
                return Err(self.hole(next));
            }
            next += 1;
        }
        if next < range.end && !is_short {
            return Err(self.hole(next));
        }
        Ok(())
    }

    fn hole(&self, index: u64) -> io::Error {
        let group_id = self.log.group_id();
        let message = format!("entry {index} of the log of group {group_id} is missing");
        io::Error::new(io::ErrorKind::InvalidData, message)
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(indexes(&range), usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.vote())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, READ_BYTES_MAX).await
    }

    /// Reads as the stream is read, so that a long replay is never in memory as a whole.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let reader = self.clone();
        let chunks = stream::unfold(indexes(&range), move |mut left| {
            let reader = reader.clone();
            async move {
                let entries = match reader.read(left.clone(), READ_BYTES_MAX).await {
                    Ok(entries) => entries,
                    Err(error) => return Some((vec![Err(error)], 0..0)),
                };
                left.start = entries.last()?.log_id.index + 1;
                Some((entries.into_iter().map(Ok).collect(), left))
            }
        });
        chunks.flat_map(stream::iter)
    }
}

struct Stored {
    entries: Vec<Entry>,
    bytes: usize,
}

fn read_stored(
    device: &dyn LogDevice,
    group_id: u64,
    range: Range<u64>,
    bytes_max: usize,
) -> io::Result<Stored> {
    let start = keys::entry(group_id, range.start);
    let end = keys::entry(group_id, range.end);
    let mut stored = Stored {
        entries: Vec::new(),
        bytes: 0,
    };
    let mut damage = None;
    let mut visit = |key: &[u8], value: &[u8]| {
        match decode(key, value) {
            Ok(entry) => {
                stored.bytes += entry_bytes(&entry);
                stored.entries.push(entry);
            }
            Err(error) => damage = Some(error),
        }
        if damage.is_some() || stored.bytes >= bytes_max {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    device.scan(&start, &end, &mut visit)?;
    match damage {
        Some(damage) => Err(damage.into()),
        None => Ok(stored),
    }
}

fn decode(key: &[u8], value: &[u8]) -> Result<Entry, DecodeError> {
    encoding::entry::decode(keys::index(key)?, Bytes::copy_from_slice(value))
}

fn indexes(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

#[cfg(test)]
mod tests {
    use openraft::storage::{IOFlushed, RaftLogStorage};

    use super::*;
    use crate::log::{Batch, LogWriter, MemoryDevice};
    use crate::types::{Content, LogId, Payload};

    fn entry(index: u64) -> Entry {
        Entry {
            log_id: LogId::new_term_index(1, index),
            payload: Content::Normal(Payload(vec![0; 1000].into())),
        }
    }

    /// A log of ten entries, modified by a change.
    async fn changed(change: impl FnOnce(&mut Batch)) -> (LogWriter, LogReader) {
        let device = Arc::<MemoryDevice>::default();
        let writer = LogWriter::start(Arc::clone(&device) as _).unwrap();
        let mut store = writer.open_group(1).unwrap();
        let entries = (0..10).map(entry);
        store.append(entries, IOFlushed::noop()).await.unwrap();
        writer.close();
        let mut batch = Batch::default();
        change(&mut batch);
        device.write(&batch, true).unwrap();
        let reader = writer.open_group(1).unwrap().reader();
        (writer, reader)
    }

    #[tokio::test]
    async fn a_missing_entry_is_an_error_and_no_short_read() {
        let delete = |batch: &mut Batch| batch.delete(&keys::entry(1, 5));
        let (_writer, mut reader) = changed(delete).await;
        for range in [0..10, 5..10, 4..6] {
            let error = reader.try_get_log_entries(range).await.unwrap_err();
            let message = "entry 5 of the log of group 1 is missing";
            assert_eq!(error.to_string(), message);
        }
        let read = reader.try_get_log_entries(6..).await.unwrap();
        assert_eq!(read, (6..10).map(entry).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_damaged_entry_is_an_error() {
        let damage = |batch: &mut Batch| batch.put(&keys::entry(1, 5), |value| value.push(9));
        let (_writer, mut reader) = changed(damage).await;
        let error = reader.try_get_log_entries(..).await.unwrap_err();
        let message = "a log entry of 1 bytes cannot be read: its format is unknown";
        assert_eq!(error.to_string(), message);
        assert_eq!(reader.try_get_log_entries(..5).await.unwrap().len(), 5);
    }

    #[test]
    fn every_kind_of_range_has_its_indexes() {
        assert_eq!(indexes(&(3..5)), 3..5);
        assert_eq!(indexes(&(3..=5)), 3..6);
        assert_eq!(indexes(&(..)), 0..u64::MAX);
        let excluded = (Bound::Excluded(3), Bound::Excluded(5));
        assert_eq!(indexes(&excluded), 4..5);
    }
}
