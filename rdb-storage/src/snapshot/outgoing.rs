//! Reading a region for another replica.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use rocksdb::{DB, ReadOptions, SnapshotWithThreadMode};

use super::RegionState;
use super::chunk::{self, Entries};
use crate::applied::AppliedState;
use crate::engine::{Engine, Family};
use crate::error::Error;
use crate::keys;
use crate::keys::raw::ABOVE_EVERY_KEY;
use crate::read::Keyspace;
use crate::region::RegionDescriptor;

/// Chunks that are read ahead.
const AHEAD: usize = 1;

/// Bytes that RocksDB reads ahead of a scan.
const READAHEAD_BYTES: usize = 1 << 20;

/// A region as of one applied position, read chunk by chunk. A thread of its own holds RocksDB's snapshot and reads; dropping this ends
/// it.
pub struct RegionSnapshot {
    applied: AppliedState,
    /// `None`: they are over.
    chunks: Option<Receiver<Result<Bytes, Error>>>,
    thread: Option<JoinHandle<()>>,
}

impl RegionSnapshot {
    /// Takes it. Blocks.
    pub(crate) fn take(engine: Arc<Engine>, region_id: u64) -> Result<Self, Error> {
        let (sender, chunks) = sync_channel(AHEAD);
        let (taken, state) = sync_channel(1);
        let thread = thread::Builder::new().name("rdb-snapshot".to_owned());
        let thread = thread.spawn(move || {
            let snapshot = engine.database.snapshot();
            let state = read_state(&engine, &snapshot, region_id);
            if let Ok(state) = &state {
                let _ = taken.send(Ok(state.applied.clone()));
            }
            let sent = state.and_then(|state| {
                let sending = Sending {
                    engine: &engine,
                    snapshot: &snapshot,
                    chunks: &sender,
                };
                sending.send(&state)
            });
            if let Err(error) = sent {
                let _ = taken.try_send(Err(error.clone()));
                let _ = sender.send(Err(error));
            }
        });
        let thread =
            thread.map_err(|error| Error::io("starting a thread for a snapshot", error))?;
        let ended = |_| Err(Error::io("taking a snapshot", "its thread has ended"));
        let applied = state.recv().unwrap_or_else(ended)?;
        Ok(Self {
            applied,
            chunks: Some(chunks),
            thread: Some(thread),
        })
    }

    /// The position that it is as of, and the membership.
    pub fn applied(&self) -> &AppliedState {
        &self.applied
    }

    /// The next chunk, of about 1 MiB, or of one entry that is longer. `None`: that was all. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::DataLoss`] and [`Error::Io`]. There are no more chunks then.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let next = self.chunks.as_ref().and_then(|chunks| chunks.recv().ok());
        if !matches!(next, Some(Ok(_))) {
            self.chunks = None;
        }
        next.transpose()
    }
}

/// Waits for the thread, which has to read a chunk to its end at most: the storage can be closed after it.
impl Drop for RegionSnapshot {
    fn drop(&mut self) {
        self.chunks = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it ended the chunks without their last one.
            let _ = thread.join();
        }
    }
}

struct Sending<'a> {
    engine: &'a Engine,
    snapshot: &'a SnapshotWithThreadMode<'a, DB>,
    chunks: &'a SyncSender<Result<Bytes, Error>>,
}

/// Nobody takes the chunks any more.
struct GivenUp;

impl Sending<'_> {
    fn send(&self, state: &RegionState) -> Result<(), Error> {
        let mut counts = [0; 2];
        let sent = self.put(chunk::state(state)).and_then(|()| {
            for (count, keyspace) in counts.iter_mut().zip([Keyspace::Raw, Keyspace::Versioned]) {
                match self.send_keyspace(&state.region, keyspace, count)? {
                    Ok(()) => {}
                    Err(error) => return Ok(Err(error)),
                }
            }
            self.put(chunk::end(counts)).map(Ok)
        });
        sent.unwrap_or(Ok(()))
    }

    fn send_keyspace(
        &self,
        region: &RegionDescriptor,
        keyspace: Keyspace,
        count: &mut u64,
    ) -> Result<Result<(), Error>, GivenUp> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(READAHEAD_BYTES);
        options.set_iterate_lower_bound(&region.start_key[..]);
        options.set_iterate_upper_bound(end_key(region));
        let family = self.engine.family(keyspace.family());
        let mut stored = self.snapshot.raw_iterator_cf_opt(&family, options);
        stored.seek_to_first();
        let mut entries = Entries::new(keyspace);
        while let Some((key, value)) = stored.item() {
            entries.push(key, value);
            *count += 1;
            if entries.is_full() {
                let full = std::mem::replace(&mut entries, Entries::new(keyspace));
                full.finish().map_or(Ok(()), |chunk| self.put(chunk))?;
            }
            stored.next();
        }
        if let Err(error) = stored.status() {
            return Ok(Err(Error::from_read(error)));
        }
        entries.finish().map_or(Ok(()), |chunk| self.put(chunk))?;
        Ok(Ok(()))
    }

    fn put(&self, chunk: Bytes) -> Result<(), GivenUp> {
        self.chunks.send(Ok(chunk)).map_err(|_| GivenUp)
    }
}

/// The upper bound of a region's keys.
pub(super) fn end_key(region: &RegionDescriptor) -> &[u8] {
    if region.end_key.is_empty() {
        &ABOVE_EVERY_KEY
    } else {
        &region.end_key
    }
}

fn read_state(
    engine: &Engine,
    snapshot: &SnapshotWithThreadMode<'_, DB>,
    region_id: u64,
) -> Result<RegionState, Error> {
    let family = engine.family(Family::RaftState);
    let record = |key: [u8; 9]| snapshot.get_cf(&family, key).map_err(Error::from_read);
    let needed = |key, what: &str| {
        record(key)?.ok_or_else(|| Error::DataLoss {
            cause: format!("region {region_id} has no {what}"),
        })
    };
    let key = keys::region::key(region_id);
    let floor = record(keys::version_floor::key(region_id))?;
    let floor = floor.map(|floor| keys::version_floor::decode(&floor));
    Ok(RegionState {
        region: keys::region::decode(&key, &needed(key, "descriptor")?)?,
        applied: AppliedState {
            position: needed(keys::applied_position::key(region_id), "position")?.into(),
            membership: needed(keys::membership::key(region_id), "membership")?.into(),
        },
        version_floor: floor.transpose()?.unwrap_or(0),
    })
}
