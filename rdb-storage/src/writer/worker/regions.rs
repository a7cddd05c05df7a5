//! Regions that are added and removed as a whole.

use std::sync::{MutexGuard, PoisonError};

use rocksdb::{IngestExternalFileOptions, LiveFile};

use super::Worker;
use crate::apply::Batch;
use crate::error::Error;
use crate::read::Keyspace;
use crate::region::RegionDescriptor;
use crate::snapshot::{Installing, Staged, staged};

/// Most ingested files that may lie on top of deleted data of a keyspace, in the level that flushes write to. When that level has this
/// many, RocksDB compacts it; with several times as many it holds writes back.
const TOP_FILES_MAX: usize = 4;

/// More than an install writes beside table files that are compacted or copied: a few records, and what deletes.
const BESIDE_BYTES: u64 = 2 << 20;

impl Worker {
    /// Replaces a region with a received snapshot, as the module [`crate::snapshot`] says. `marked` is called once its mark is
    /// durable. `find_space` is told how many bytes that takes at most, once what can be dropped is dropped.
    pub(in crate::writer) fn install(
        &self,
        installing: &Installing,
        marked: impl FnOnce(),
        find_space: impl FnOnce(u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let _alone = self.regions();
        self.queue.check_open()?;
        self.health.check_any()?;
        let region = &installing.state.region;
        // A mark that is there was flushed, with all that comes with it.
        if self.engine.installing(region.id)?.as_ref() != Some(installing) {
            let mut batch = Batch::new(&self.engine);
            batch.begin_install(installing)?;
            self.write_flushed(batch)?;
        }
        marked();
        self.engine.drop_files(region)?;
        let staged = [Keyspace::Raw, Keyspace::Versioned].map(|keyspace| {
            let staged = staged(self.engine.directory().path(), installing, keyspace);
            staged.map_err(|error| Error::io("linking a snapshot", error))
        });
        let [raw, versioned] = staged;
        let staged = [(Keyspace::Raw, raw?), (Keyspace::Versioned, versioned?)];
        find_space(self.bytes_needed(region, &staged)?)?;
        self.clear_again(region)?;
        for (keyspace, staged) in staged {
            if is_to_compact(&staged) {
                self.compact(region, keyspace);
            }
            self.ingest(keyspace, staged)?;
        }
        let mut batch = Batch::new(&self.engine);
        batch.finish_install(installing);
        self.write_flushed(batch)?;
        self.resume(region.id);
        Ok(())
    }

    /// Takes writes to a region again. A read that began before its data was gone, and fails late, says nothing of it.
    fn resume(&self, region_id: u64) {
        self.engine.begin_replacement();
        self.health.resume_region(region_id);
    }

    /// After files were dropped: what one of them had deleted may show again.
    fn clear_again(&self, region: &RegionDescriptor) -> Result<(), Error> {
        let mut batch = Batch::new(&self.engine);
        batch.clear(region);
        self.write_flushed(batch)
    }

    fn write_flushed(&self, batch: Batch<'_>) -> Result<(), Error> {
        self.write(batch, None, true)?;
        let flushed = self.engine.database.flush();
        flushed.map_err(|error| Error::io("flushing what has become of a region", error))
    }

    /// About the most bytes that the rest of an install takes, some of them only for a while. Files with only keys of the region do not
    /// count: a compaction leaves nothing of them.
    fn bytes_needed(
        &self,
        region: &RegionDescriptor,
        staged: &[(Keyspace, Staged)],
    ) -> Result<u64, Error> {
        let files = self.engine.database.live_files();
        let files = files.map_err(|error| Error::io("listing table files", error))?;
        let mut bytes = BESIDE_BYTES;
        for (keyspace, staged) in staged {
            if is_to_compact(staged) {
                let of_family = files
                    .iter()
                    .filter(|file| file.column_family_name == keyspace.family().name());
                let kept = of_family.filter(|file| reaches_across(file, region));
                bytes += kept.map(|file| file.size as u64).sum::<u64>();
            }
            let copied = staged.copied_bytes();
            bytes += copied.map_err(|error| Error::io("looking at a snapshot", error))?;
        }
        Ok(bytes)
    }

    /// Compacts the remains of a region, together with their deletions. Does nothing if there are neither.
    fn compact(&self, region: &RegionDescriptor, keyspace: Keyspace) {
        let (start_key, end_key) = (&region.start_key[..], region.upper_bound());
        let family = self.engine.family(keyspace.family());
        let database = &self.engine.database;
        database.compact_range_cf(&family, Some(start_key), Some(end_key));
    }

    fn ingest(&self, keyspace: Keyspace, staged: Staged) -> Result<(), Error> {
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

    /// Removes a region, and leaves a tombstone for its peer. A crash or a failure after that may leave keys that belong to no region,
    /// which do no harm.
    pub(in crate::writer) fn destroy_region(
        &self,
        region_id: u64,
        peer_id: u64,
    ) -> Result<(), Error> {
        let _alone = self.regions();
        self.queue.check_open()?;
        self.health.check_any()?;
        let stored = self.engine.region(region_id)?;
        let installing = self.engine.installing(region_id)?;
        let mut batch = Batch::new(&self.engine);
        batch.destroy_region(region_id, peer_id)?;
        self.write_flushed(batch)?;
        let installing = installing.map(|installing| installing.state.region);
        for region in stored.into_iter().chain(installing) {
            let dropped = self.engine.drop_files(&region);
            if let Err(error) = dropped.and_then(|()| self.clear_again(&region)) {
                tracing::error!(region_id, %error, "keys of a region that was destroyed stay");
            }
        }
        self.resume(region_id);
        Ok(())
    }
}

/// Whether a file may have keys of the region, and others.
fn reaches_across(file: &LiveFile, region: &RegionDescriptor) -> bool {
    let (start_key, end_key) = (Some(&region.start_key[..]), Some(region.upper_bound()));
    let (first, last) = (file.start_key.as_deref(), file.end_key.as_deref());
    let overlaps = first < end_key && last >= start_key;
    overlaps && (first < start_key || last >= end_key)
}

fn is_to_compact(staged: &Staged) -> bool {
    staged.files.len() > TOP_FILES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_across_a_border_of_a_region_have_something_that_stays() {
        let region = RegionDescriptor {
            id: 1,
            start_key: "d".into(),
            end_key: "m".into(),
            conf_version: 1,
            version: 1,
            peers: Vec::new(),
        };
        let reaches_across = |first: &str, last: &str| {
            let file = LiveFile {
                column_family_name: "default".to_owned(),
                name: "/1.sst".to_owned(),
                size: 1,
                level: 0,
                start_key: Some(first.into()),
                end_key: Some(last.into()),
                num_entries: 1,
                num_deletions: 0,
            };
            reaches_across(&file, &region)
        };
        for (first, last) in [("a", "d"), ("a", "z"), ("l", "m"), ("d", "x")] {
            assert!(reaches_across(first, last), "{first} to {last}");
        }
        for (first, last) in [("a", "c"), ("d", "l"), ("e", "f"), ("m", "z")] {
            assert!(!reaches_across(first, last), "{first} to {last}");
        }
    }
}
