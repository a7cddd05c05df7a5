//! Receiving a region from another replica.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::SstFileWriter;

use super::RegionState;
use super::chunk::{self, Chunk, Counts};
use super::install::{Installing, Staging};
use crate::applied::AppliedState;
use crate::engine::{Engine, table_options};
use crate::error::Error;
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::read::Keyspace;
use crate::storage::Storage;

/// Bytes at which a table file is ended. If a memtable is smaller, its size counts instead.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A region on its way here. Its chunks become table files, which go away with this. Nothing that is stored changes.
pub struct IncomingRegion {
    storage: Storage,
    region_id: u64,
    staging: Staging,
    /// Bytes at which a table file is ended.
    file_bytes: u64,
    state: Option<RegionState>,
    /// The keyspace of the last chunk, and its last key.
    reached: (Keyspace, Bytes),
    file: Option<SstFileWriter<'static>>,
    /// Files of each keyspace.
    files: [u32; 2],
    counts: Counts,
    is_complete: bool,
}

/// A region that has arrived in full.
pub struct ReceivedRegion {
    storage: Storage,
    installing: Installing,
    staging: Staging,
}

impl IncomingRegion {
    pub(crate) fn begin(
        storage: Storage,
        engine: &Arc<Engine>,
        region_id: u64,
        write_buffer_bytes: usize,
    ) -> Result<Self, Error> {
        Ok(Self {
            staging: Staging::create(engine.directory().path(), region_id)?,
            file_bytes: FILE_BYTES_MAX.min(write_buffer_bytes as u64),
            storage,
            region_id,
            state: None,
            reached: (Keyspace::Raw, Bytes::new()),
            file: None,
            files: [0; 2],
            counts: [0; 2],
            is_complete: false,
        })
    }

    /// Takes the next chunk. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when it is damaged or not the next one; [`Error::Io`] when it cannot be written. The region cannot
    /// be received then.
    pub fn add(&mut self, chunk: Bytes) -> Result<(), Error> {
        let chunk = chunk::read(chunk).map_err(|error| refused(error.to_string()))?;
        if self.is_complete {
            return Err(refused("a chunk comes after the last one"));
        }
        match (chunk, &self.state) {
            (Chunk::State(state), None) if state.region.id == self.region_id => {
                let others = self.storage.engine().present_regions()?;
                let mut others = others.iter().filter(|other| other.id != self.region_id);
                if others.any(|other| other.overlaps(&state.region)) {
                    return Err(refused("the region overlaps another one of this store"));
                }
                self.state = Some(state);
                Ok(())
            }
            (Chunk::State(_), _) => Err(refused("a chunk is that of another region")),
            (_, None) => Err(refused("the first chunk is missing")),
            (Chunk::Entries(keyspace, entries), Some(_)) => self.add_entries(keyspace, entries),
            (Chunk::End(counts), Some(_)) if counts == self.counts => self.end(),
            (Chunk::End(_), Some(_)) => Err(refused("a chunk is missing")),
        }
    }

    /// The region, if all of it is here.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`].
    pub fn complete(self) -> Result<ReceivedRegion, Error> {
        match self.state {
            Some(state) if self.is_complete => Ok(ReceivedRegion {
                storage: self.storage,
                installing: Installing {
                    state,
                    folder: self.staging.name().to_owned(),
                    files: self.files,
                },
                staging: self.staging,
            }),
            _ => Err(refused("the last chunk is missing")),
        }
    }

    fn add_entries(
        &mut self,
        keyspace: Keyspace,
        entries: Vec<(Bytes, Bytes)>,
    ) -> Result<(), Error> {
        if keyspace != self.reached.0 {
            if keyspace == Keyspace::Raw {
                return Err(refused("the keys are not in order"));
            }
            self.end_file()?;
            self.reached = (keyspace, Bytes::new());
        }
        for (key, value) in entries {
            self.check(keyspace, &key, &value)?;
            let file = match &mut self.file {
                Some(file) => file,
                none => {
                    self.staging.check_space()?;
                    let number = &mut self.files[keyspace as usize];
                    let file = begin_file(&self.staging.file(keyspace, *number))?;
                    *number += 1;
                    none.insert(file)
                }
            };
            file.put(&key, &value).map_err(not_written)?;
            let is_full = file.file_size() >= self.file_bytes;
            self.counts[keyspace as usize] += 1;
            self.reached.1 = key;
            if is_full {
                self.end_file()?;
            }
        }
        Ok(())
    }

    fn check(&self, keyspace: Keyspace, key: &Bytes, value: &[u8]) -> Result<(), Error> {
        let region = self.state.as_ref().map(|state| &state.region);
        let is_within = region.is_some_and(|region| {
            *key >= region.start_key
                && key[..] < *region.upper_bound()
                && key.len() <= KEY_BYTES_MAX
        });
        if !is_within || *key <= self.reached.1 {
            return Err(refused("a key is not the next one of the region"));
        }
        let parts = keyspace.parts(value);
        let parts = parts.map_err(|error| refused(error.to_string()))?;
        if parts.1.len() > VALUE_BYTES_MAX {
            return Err(refused("a value is too long"));
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), Error> {
        match self.file.take() {
            Some(mut file) => file.finish().map_err(not_written),
            None => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        self.end_file()?;
        self.staging.sync()?;
        self.is_complete = true;
        Ok(())
    }
}

impl ReceivedRegion {
    /// The position that it is as of, and the membership.
    pub fn applied(&self) -> &AppliedState {
        &self.installing.state.applied
    }

    /// Replaces the stored region with it, durably. Nobody may apply to the region or read it meanwhile. Blocks.
    ///
    /// # Errors
    ///
    /// As [`Storage::apply`], and [`Error::Io`]. Then the stored region must not be used before the next open.
    pub fn install(self) -> Result<(), Error> {
        let storage = self.storage.clone();
        let (installing, staging) = self.into_parts();
        // From the mark on, the next open needs the files if this does not succeed.
        staging.keep();
        storage.install(&installing)
    }
}

impl ReceivedRegion {
    pub(super) fn into_parts(self) -> (Installing, Staging) {
        (self.installing, self.staging)
    }
}

fn begin_file(path: &Path) -> Result<SstFileWriter<'static>, Error> {
    let file = SstFileWriter::create(table_options());
    file.open(path).map_err(not_written)?;
    Ok(file)
}

fn not_written(error: rocksdb::Error) -> Error {
    Error::io("writing a snapshot that arrives", error)
}

fn refused(cause: impl Into<String>) -> Error {
    Error::InvalidArgument {
        field: "chunk",
        limit: None,
        cause: cause.into(),
    }
}
