//! Reading a region for another replica.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use super::RegionState;
use super::chunk::{self, Entries};
use crate::applied::AppliedState;
use crate::engine::Engine;
use crate::error::Error;
use crate::read::Keyspace;
use crate::view::RegionView;

/// Chunks that are read ahead.
const AHEAD: usize = 1;

/// Bytes that RocksDB reads ahead of a scan.
const READAHEAD_BYTES: usize = 1 << 20;

/// A region as of one applied position, read chunk by chunk. A separate thread holds RocksDB's snapshot and reads; dropping this ends it.
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
            let sent = view_and_state(&engine, region_id).and_then(|(view, state)| {
                let _ = taken.send(Ok(state.applied.clone()));
                let sending = Sending {
                    view: &view,
                    chunks: &sender,
                };
                sending.send(state)
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
    view: &'a RegionView<'a>,
    chunks: &'a SyncSender<Result<Bytes, Error>>,
}

/// Nobody takes the chunks any more.
struct GivenUp;

impl Sending<'_> {
    fn send(&self, state: RegionState) -> Result<(), Error> {
        let mut counts = [0; 2];
        let sent = self.put(chunk::state(&state)).and_then(|()| {
            for (count, keyspace) in counts.iter_mut().zip([Keyspace::Raw, Keyspace::Versioned]) {
                match self.send_keyspace(keyspace, count)? {
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
        keyspace: Keyspace,
        count: &mut u64,
    ) -> Result<Result<(), Error>, GivenUp> {
        let start_key = &self.view.region.start_key;
        let mut stored = match self.view.entries(keyspace, start_key, READAHEAD_BYTES) {
            Ok(stored) => stored,
            Err(error) => return Ok(Err(error)),
        };
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

fn view_and_state(engine: &Engine, region_id: u64) -> Result<(RegionView<'_>, RegionState), Error> {
    let missing = |what| Error::DataLoss {
        cause: format!("region {region_id} has no {what}"),
    };
    let view = RegionView::take(engine, region_id)?.ok_or_else(|| missing("state"))?;
    let membership = view.membership.clone();
    let state = RegionState {
        region: view.region.clone(),
        applied: AppliedState {
            position: view.position.clone(),
            membership: membership.ok_or_else(|| missing("membership"))?,
        },
        version_floor: view.version_floor,
    };
    Ok((view, state))
}
