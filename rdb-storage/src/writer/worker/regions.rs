//! Regions that come and go as a whole.

use std::sync::{MutexGuard, PoisonError};

use rocksdb::IngestExternalFileOptions;

use super::Worker;
use crate::apply::Batch;
use crate::error::Error;
use crate::read::Keyspace;
use crate::region::RegionDescriptor;
use crate::snapshot::{Installing, staged};

/// Ingested files that may lie on top of what was deleted of a keyspace, in the level that flushes write to. When that level has as many,
/// RocksDB compacts it; with several times as many it holds writes back.
const TOP_FILES_MAX: u32 = 4;

impl Worker {
    /// Puts a snapshot that was received in the place of a region, as the module [`crate::snapshot`] says.
    pub(in crate::writer) fn install(&self, installing: &Installing) -> Result<(), Error> {
        let _alone = self.regions();
        self.queue.check_open()?;
        self.health.check_any()?;
        let flush = || {
            let flushed = self.engine.database.flush();
            flushed.map_err(|error| Error::io("flushing the install of a snapshot", error))
        };
        let mut batch = Batch::new(&self.engine);
        batch.begin_install(installing)?;
        self.write(batch, None, true)?;
        flush()?;
        let region = &installing.state.region;
        self.engine.drop_files(region)?;
        // What a file that is gone had deleted may show again.
        let mut batch = Batch::new(&self.engine);
        batch.clear(region)?;
        self.write(batch, None, true)?;
        flush()?;
        for keyspace in [Keyspace::Raw, Keyspace::Versioned] {
            if installing.files[keyspace as usize] > TOP_FILES_MAX {
                self.compact(region, keyspace);
            }
            self.ingest(installing, keyspace)?;
        }
        let mut batch = Batch::new(&self.engine);
        batch.finish_install(installing);
        self.write(batch, None, true)?;
        flush()
    }

    /// Compacts what is left of a region, with what deletes it. Does nothing if there is neither.
    fn compact(&self, region: &RegionDescriptor, keyspace: Keyspace) {
        let (start_key, end_key) = (&region.start_key[..], region.upper_bound());
        let family = self.engine.family(keyspace.family());
        let database = &self.engine.database;
        database.compact_range_cf(&family, Some(start_key), Some(end_key));
    }

    fn ingest(&self, installing: &Installing, keyspace: Keyspace) -> Result<(), Error> {
        let staged = staged(self.engine.directory().path(), installing, keyspace);
        let staged = staged.map_err(|error| Error::io("linking a snapshot", error))?;
        if staged.files.is_empty() {
            return Ok(());
        }
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(staged.can_move);
        let family = self.engine.family(keyspace.family());
        let database = &self.engine.database;
        let ingested = database.ingest_external_file_cf_opts(&family, &options, staged.files);
        ingested.map_err(|error| Error::io("ingesting a snapshot", error))
    }

    pub(super) fn regions(&self) -> MutexGuard<'_, ()> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes away what is stored of a region, and leaves a tombstone.
    pub(in crate::writer) fn destroy_region(
        &self,
        region_id: u64,
        peer_id: u64,
    ) -> Result<(), Error> {
        let _alone = self.regions();
        self.queue.check_open()?;
        self.health.check_any()?;
        let mut batch = Batch::new(&self.engine);
        batch.destroy_region(region_id, peer_id)?;
        self.write(batch, None, true)?;
        let flushed = self.engine.database.flush();
        flushed.map_err(|error| Error::io("flushing the end of a region", error))
    }
}
