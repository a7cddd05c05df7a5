//! Regions that are added and removed as a whole.

use std::sync::{MutexGuard, PoisonError};

use rocksdb::{IngestExternalFileOptions, LiveFile, properties};

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

/// More than the two files across the borders of a region bring into a compaction, with what they overlap in the level below. RocksDB
/// ends a file that it writes before both have 25 times the size of a file (`max_compaction_bytes`), which is 64 MiB.
const BORDER_BYTES_MAX: u64 = 2 * (2 << 30);

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

    /// About the most bytes that the rest of an install takes, some of them only for a while.
    fn bytes_needed(
        &self,
        region: &RegionDescriptor,
        staged: &[(Keyspace, Staged)],
    ) -> Result<u64, Error> {
        let database = &self.engine.database;
        let unlisted = |error| Error::io("listing table files", error);
        let files = database.live_files().map_err(unlisted)?;
        let mut bytes = BESIDE_BYTES;
        for (keyspace, staged) in staged {
            if is_to_compact(staged) {
                let family = self.engine.family(keyspace.family());
                let base_level = database.property_int_value_cf(&family, properties::BASE_LEVEL);
                let base_level = base_level.map_err(unlisted)?;
                let base_level = base_level.map_or(i32::MAX, |level| level as i32);
                let of_family = files
                    .iter()
                    .filter(|file| file.column_family_name == keyspace.family().name());
                bytes += rewritten_bytes(of_family, region, base_level);
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

/// Most bytes that the compaction of a region rewrites at a time, with all that its files overlap in the next level:
///
/// - all of level 0, whose files have keys of all regions, and of the base level, which that is compacted into;
/// - of the deeper levels what two files overlap, those that the compaction has written across the borders of the region. It goes from
///   level to level, and drops what it has rewritten.
///
/// Files with only keys of the region do not count: the compaction leaves nothing of them.
fn rewritten_bytes<'a>(
    files: impl Iterator<Item = &'a LiveFile>,
    region: &RegionDescriptor,
    base_level: i32,
) -> u64 {
    let (mut top, mut deeper) = (0, 0);
    for file in files.filter(|file| has_others(file, region)) {
        let bytes = file.size as u64;
        if file.level > base_level {
            deeper += bytes;
        } else {
            top += bytes;
        }
    }
    top + deeper.min(BORDER_BYTES_MAX)
}

/// Whether a file may have keys of other regions.
fn has_others(file: &LiveFile, region: &RegionDescriptor) -> bool {
    let (start_key, end_key) = (Some(&region.start_key[..]), Some(region.upper_bound()));
    file.start_key.as_deref() < start_key || file.end_key.as_deref() >= end_key
}

fn is_to_compact(staged: &Staged) -> bool {
    staged.files.len() > TOP_FILES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_compaction_may_rewrite_of_other_regions_counts() {
        let region = RegionDescriptor {
            id: 1,
            start_key: "d".into(),
            end_key: "m".into(),
            conf_version: 1,
            version: 1,
            peers: Vec::new(),
        };
        let rewritten = |files: &[(i32, &str, &str, usize)]| {
            let files = files.iter().map(|&(level, first, last, size)| LiveFile {
                column_family_name: "default".to_owned(),
                name: "/1.sst".to_owned(),
                size,
                level,
                start_key: Some(first.into()),
                end_key: Some(last.into()),
                num_entries: 1,
                num_deletions: 0,
            });
            let files: Vec<_> = files.collect();
            rewritten_bytes(files.iter(), &region, 4)
        };
        for (first, last) in [("a", "d"), ("a", "z"), ("l", "m"), ("a", "c"), ("m", "z")] {
            assert_eq!(rewritten(&[(0, first, last, 7)]), 7, "{first} to {last}");
        }
        for (first, last) in [("d", "l"), ("e", "f")] {
            assert_eq!(rewritten(&[(0, first, last, 7)]), 0, "{first} to {last}");
        }
        // What no key of the region is in is overlapped by files of the level above.
        let overlapped = [(0, "a", "z", 1), (4, "a", "b", 10), (5, "a", "c", 100)];
        assert_eq!(rewritten(&overlapped), 111);
        let large = 8_usize << 30;
        assert_eq!(rewritten(&[(4, "m", "z", large)]), large as u64);
        assert_eq!(rewritten(&[(5, "m", "z", large)]), BORDER_BYTES_MAX);
    }
}
