//! Regions that come and go as a whole.

use std::sync::{MutexGuard, PoisonError};

use rocksdb::IngestExternalFileOptions;

use super::Worker;
use crate::apply::Batch;
use crate::error::Error;
use crate::keys;
use crate::read::{Keyspace, Tier};
use crate::snapshot::{Installing, staged};

impl Worker {
    /// Puts a snapshot that was received in the place of a region, as the module [`crate::snapshot`] says.
    pub(in crate::writer) fn install(&self, installing: &Installing) -> Result<(), Error> {
        let _alone = self.regions();
        self.queue.check_open()?;
        self.health.check_any()?;
        let database = &self.engine.database;
        let flush = || {
            let flushed = database.flush();
            flushed.map_err(|error| Error::io("flushing the install of a snapshot", error))
        };
        let mut batch = Batch::new(&self.engine);
        let cleared = batch.begin_install(installing)?;
        self.write(batch, None, true)?;
        flush()?;
        for (keyspace, start_key, end_key) in cleared {
            let family = self.engine.family(keyspace.family());
            database.compact_range_cf(&family, Some(start_key), Some(end_key));
        }
        for keyspace in [Keyspace::Raw, Keyspace::Versioned] {
            let files = staged(self.engine.directory().path(), installing, keyspace);
            let files = files.map_err(|error| Error::io("linking a snapshot", error))?;
            if files.is_empty() {
                continue;
            }
            let mut options = IngestExternalFileOptions::default();
            options.set_move_files(true);
            let family = self.engine.family(keyspace.family());
            let ingested = database.ingest_external_file_cf_opts(&family, &options, files);
            ingested.map_err(|error| Error::io("ingesting a snapshot", error))?;
        }
        let mut batch = Batch::new(&self.engine);
        batch.finish_install(installing);
        self.write(batch, None, true)?;
        flush()
    }

    /// Refuses to touch a region whose install has failed. The next open finishes it.
    pub(super) fn check_not_installing(&self, region_id: u64) -> Result<(), Error> {
        let mark = self
            .engine
            .state(&keys::installing::key(region_id), Tier::Disk)?;
        if mark.is_some() {
            return Err(Error::WritesStopped {
                cause: format!("the install of a snapshot of region {region_id} has failed"),
            });
        }
        Ok(())
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
        self.check_not_installing(region_id)?;
        let mut batch = Batch::new(&self.engine);
        batch.destroy_region(region_id, peer_id)?;
        self.write(batch, None, true)?;
        let flushed = self.engine.database.flush();
        flushed.map_err(|error| Error::io("flushing the end of a region", error))
    }
}
