//! The part of a group's log that is in memory: where the log begins and ends, the vote, and the last entries.

use std::io::{self, ErrorKind};
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use openraft::LogState;

use super::cache::{Cache, CachedBytes};
use super::{LogDevice, keys};
use crate::encoding;
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// The log of one group. Its [`super::LogStore`] changes it; readers and the writer share it.
pub(super) struct GroupLog {
    group_id: u64,
    /// Whose log it was when it was opened, if that was noted.
    peer_id: Option<u64>,
    /// Whether a vote waits until it is durable. Each proposal looks at it, so it is beside the lock.
    awaits_vote: AtomicBool,
    /// The damage that a read has met first, if one has. openraft does not pass on of which kind an error was.
    damage: OnceLock<String>,
    state: Mutex<State>,
}

/// - The log holds the entries from `first_index` up to but not including `end()`, without a hole. It is empty if the two are equal.
/// - `last` is the last entry, or `purged` if there is none.
/// - `cache` holds the last entries. Those before them are durable, so they can be read from the device.
struct State {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    first_index: u64,
    cache: Cache,
    /// Entries before this index are durable.
    durable_end: u64,
    /// Entries before this index are applied.
    applied_end: u64,
    /// Grows with each truncation. By it one knows whether an index still is the entry that it was.
    truncations: u64,
    /// How many of the truncations are not durable yet.
    unwritten_truncations: u64,
}

/// What a log holds of a range, at one moment.
pub(super) struct View {
    /// The entries to read from the device. They come before the cached ones.
    pub(super) stored: Range<u64>,
    pub(super) cached: Vec<Entry>,
    pub(super) truncations: u64,
}

impl GroupLog {
    /// The log that a device holds of a group.
    pub(super) fn open(
        device: &dyn LogDevice,
        group_id: u64,
        all_cached_bytes: Arc<CachedBytes>,
    ) -> io::Result<Self> {
        let vote = device.get(&keys::vote(group_id))?;
        let vote = vote.map(|vote| encoding::vote::decode(&vote)).transpose()?;
        let peer_id = noted_peer(device, group_id)?;
        let purged = device.get(&keys::purged(group_id))?;
        let purged = purged.map(|purged| encoding::log_id::decode(&purged));
        let purged = purged.transpose()?;
        let start = keys::entry(group_id, end_after(purged));
        let (first_index, last) = match first_and_last(device, group_id, &start)? {
            Some((first_index, last)) => (first_index, Some(last)),
            None => (end_after(purged), purged),
        };
        let state = State {
            vote,
            purged,
            last,
            first_index,
            cache: Cache::new(all_cached_bytes),
            durable_end: end_after(last),
            applied_end: 0,
            truncations: 0,
            unwritten_truncations: 0,
        };
        Ok(Self {
            group_id,
            peer_id,
            awaits_vote: AtomicBool::new(false),
            damage: OnceLock::new(),
            state: Mutex::new(state),
        })
    }

    pub(super) fn group_id(&self) -> u64 {
        self.group_id
    }

    pub(super) fn log_state(&self) -> LogState<TypeConfig> {
        let state = self.state();
        LogState {
            last_purged_log_id: state.purged,
            last_log_id: state.last,
        }
    }

    /// Whether it never had entries, and never began behind any.
    pub(super) fn is_unused(&self) -> bool {
        self.state().last.is_none()
    }

    pub(super) fn peer_id(&self) -> Option<u64> {
        self.peer_id
    }

    pub(super) fn vote(&self) -> Option<Vote> {
        self.state().vote
    }

    /// Notes that a vote waits until it is durable.
    pub(super) fn await_vote(&self) {
        self.awaits_vote.store(true, Ordering::Release);
    }

    /// Whether a vote waits until it is durable. After a failure it does for ever.
    pub(super) fn awaits_vote(&self) -> bool {
        self.awaits_vote.load(Ordering::Acquire)
    }

    /// Notes a vote that is durable.
    pub(super) fn set_vote(&self, vote: Vote) {
        self.state().vote = Some(vote);
        self.awaits_vote.store(false, Ordering::Release);
    }

    /// Notes why a read has failed, if that is damage.
    pub(super) fn note_failed_read(&self, error: &io::Error) {
        if error.kind() == ErrorKind::InvalidData {
            // The first one stays.
            let _ = self.damage.set(error.to_string());
        }
    }

    /// The damage that a read has met, if one has.
    pub(super) fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    /// Adds entries to the end, and returns the count of truncations.
    ///
    /// # Errors
    ///
    /// When they do not follow the last entry. Nothing is added.
    pub(super) fn append(&self, entries: &[Entry]) -> io::Result<u64> {
        let mut state = self.state();
        let mut last = state.last;
        for entry in entries {
            check_follows(last, entry.log_id)?;
            last = Some(entry.log_id);
        }
        if let Some(first) = entries.first()
            && state.is_empty()
        {
            state.first_index = first.log_id.index;
        }
        for entry in entries {
            state.cache.push(entry.clone());
        }
        state.last = last;
        state.trim();
        Ok(state.truncations)
    }

    /// Removes the entries after `last`, or all, and returns their indexes.
    pub(super) fn truncate_after(&self, last: Option<LogId>) -> Range<u64> {
        let mut state = self.state();
        let kept_end = end_after(last).max(state.first_index);
        let removed = kept_end..state.end();
        if removed.is_empty() {
            return removed;
        }
        state.cache.truncate(kept_end);
        if kept_end == state.first_index {
            state.last = state.purged;
            state.first_index = state.end();
        } else {
            state.last = last;
        }
        state.durable_end = state.durable_end.min(kept_end);
        state.truncations += 1;
        state.unwritten_truncations += 1;
        removed
    }

    /// Notes that one more truncation is durable.
    pub(super) fn set_truncated(&self) {
        self.state().unwritten_truncations -= 1;
    }

    /// Whether a truncation is not durable yet. If the writer has stopped, it never will be.
    pub(super) fn has_unwritten_truncation(&self) -> bool {
        self.state().unwritten_truncations > 0
    }

    /// Removes the entries up to `upto` and returns their indexes, or `None` if that was done before.
    pub(super) fn purge(&self, upto: LogId) -> Option<Range<u64>> {
        let mut state = self.state();
        let kept_start = end_after(Some(upto));
        if kept_start <= end_after(state.purged) {
            return None;
        }
        let (first_index, end) = (state.first_index, state.end());
        state.purged = Some(upto);
        state.cache.drop_before(kept_start);
        if kept_start >= end {
            state.last = Some(upto);
            state.durable_end = kept_start;
        }
        state.first_index = first_index.max(kept_start);
        Some(first_index..kept_start.min(end).max(first_index))
    }

    /// Notes that the entries up to an index are durable, if they are still those that they were.
    pub(super) fn set_durable(&self, index: u64, truncations: u64) {
        let mut state = self.state();
        if state.truncations == truncations {
            state.durable_end = state.durable_end.max(index.saturating_add(1));
            state.trim();
        }
    }

    /// Notes that the entries up to an index are applied.
    pub(super) fn set_applied(&self, index: u64) {
        let mut state = self.state();
        state.applied_end = state.applied_end.max(index.saturating_add(1));
        state.trim();
    }

    /// What the log holds of a range. The cached entries end with the one that reaches `cached_bytes_max`.
    pub(super) fn view(&self, range: Range<u64>, cached_bytes_max: usize) -> View {
        let state = self.state();
        let start = range.start.max(state.first_index);
        let end = range.end.min(state.end()).max(start);
        let cached_start = state.cache.first_index().unwrap_or(state.end());
        View {
            stored: start..end.min(cached_start).max(start),
            cached: state.cache.read(start..end, cached_bytes_max),
            truncations: state.truncations,
        }
    }

    /// Whether more of its entries are not durable than are kept until they are applied.
    pub(super) fn has_much_unwritten(&self) -> bool {
        self.state().cache.has_many_unapplied()
    }

    /// The first index that the log holds or would hold, and the count of truncations.
    pub(super) fn first_index_and_truncations(&self) -> (u64, u64) {
        let state = self.state();
        (state.first_index, state.truncations)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end(&self) -> u64 {
        end_after(self.last)
    }

    fn is_empty(&self) -> bool {
        self.first_index == self.end()
    }

    fn trim(&mut self) {
        self.cache.trim(self.durable_end.min(self.applied_end));
        self.cache.trim_unapplied(self.durable_end);
    }
}

fn end_after(last: Option<LogId>) -> u64 {
    last.map_or(0, |last| last.index.saturating_add(1))
}

/// The peer that was noted as the owner of a group's log.
pub(super) fn noted_peer(device: &dyn LogDevice, group_id: u64) -> io::Result<Option<u64>> {
    let peer = device.get(&keys::peer(group_id))?;
    let peer = peer.map(|peer| encoding::peer::decode(&peer));
    Ok(peer.transpose()?)
}

/// The first index of a group's entries from `start` on, and the last entry.
fn first_and_last(
    device: &dyn LogDevice,
    group_id: u64,
    start: &[u8],
) -> io::Result<Option<(u64, LogId)>> {
    let end = keys::entries_end(group_id);
    let Some((last_key, last)) = device.last(start, &end)? else {
        return Ok(None);
    };
    let last = encoding::entry::decode(keys::index(&last_key)?, last)?;
    let mut first_index = Ok(last.log_id.index);
    let mut visit = |key: &[u8], _: &[u8]| {
        first_index = keys::index(key);
        ControlFlow::Break(())
    };
    device.scan(start, &end, &mut visit)?;
    Ok(Some((first_index?, last.log_id)))
}

/// A log that never held anything may begin anywhere.
fn check_follows(last: Option<LogId>, next: LogId) -> io::Result<()> {
    match last {
        Some(last) if end_after(Some(last)) != next.index => {
            let message = format!("entry {} does not follow entry {}", next.index, last.index);
            Err(io::Error::new(ErrorKind::InvalidInput, message))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::MemoryDevice;
    use crate::types::{Content, Payload};

    /// Three of these are less than a group keeps, and four are more.
    const PAYLOAD_BYTES: usize = 300_000;

    fn log() -> GroupLog {
        GroupLog::open(&MemoryDevice::default(), 1, Arc::default()).unwrap()
    }

    fn append(log: &GroupLog, indexes: Range<u64>) -> u64 {
        let entries = indexes.map(|index| Entry {
            log_id: LogId::new_term_index(1, index),
            payload: Content::Normal(Payload(vec![0; PAYLOAD_BYTES].into())),
        });
        log.append(&entries.collect::<Vec<_>>()).unwrap()
    }

    /// The entries that are no longer in memory.
    fn stored(log: &GroupLog) -> Range<u64> {
        log.view(0..u64::MAX, usize::MAX).stored
    }

    #[test]
    fn entries_stay_in_memory_until_they_are_durable_and_applied() {
        let log = log();
        let truncations = append(&log, 0..8);
        log.set_applied(5);
        assert!(stored(&log).is_empty());
        log.set_durable(2, truncations);
        assert_eq!(stored(&log), 0..3);
        log.set_durable(7, truncations);
        assert_eq!(stored(&log), 0..5);

        let log = self::log();
        let truncations = append(&log, 0..8);
        log.set_durable(7, truncations);
        assert!(stored(&log).is_empty());
        log.set_applied(2);
        assert_eq!(stored(&log), 0..3);
    }

    #[test]
    fn what_was_durable_before_a_truncation_is_not_durable_after_it() {
        let log = log();
        let truncations = append(&log, 0..8);
        log.set_durable(7, truncations);
        log.truncate_after(Some(LogId::new_term_index(1, 1)));
        append(&log, 2..8);
        log.set_applied(7);
        assert_eq!(stored(&log), 0..2);
    }

    #[test]
    fn what_became_durable_after_it_was_truncated_is_another_entry() {
        let log = log();
        let truncations = append(&log, 0..8);
        log.truncate_after(None);
        append(&log, 0..8);
        log.set_applied(7);
        log.set_durable(7, truncations);
        assert!(stored(&log).is_empty());
    }
}
