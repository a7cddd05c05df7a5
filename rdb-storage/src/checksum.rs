//! What a region holds at one position of its log, as a checksum. Replicas that have applied the same log up to the same
//! position have the same one.
//!
//! It is SipHash-1-3 with 128 bits and a key of zeros, over
//!
//! ```text
//! region    [bytes start key][bytes end key][u64 epoch's conf version][u64 epoch's version][u64 version floor]
//! entry     [u8 keyspace: 1 raw, 2 versioned][bytes key][bytes value, or version and value]
//!           all of the raw keyspace in the order of their keys, then all of the versioned one
//!
//! bytes     [u32 length][length × u8]
//! ```
//!
//! Integers are big-endian. Releases that make other checksums of the same data must not share a method that asks for them.

use std::hash::Hasher;

use bytes::Bytes;
use rocksdb::{ReadOptions, Snapshot};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::engine::{Engine, Family};
use crate::error::Error;
use crate::keys;
use crate::read::Keyspace;
use crate::region::RegionDescriptor;

/// About how many bytes are read at once. An iterator keeps table files that compactions have replaced, so none is kept for
/// long.
const SLICE_BYTES: usize = 4 << 20;

/// The checksum of a region, and how much there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionChecksum {
    /// The checksum that the module documents.
    pub digest: u128,
    /// The keys of both keyspaces.
    pub key_count: u64,
    /// The bytes of keys, versions and values.
    pub bytes: u64,
}

/// A look at a region as it was at one position of its log. RocksDB keeps what is overwritten for as long as this is there.
pub struct RegionView<'a> {
    engine: &'a Engine,
    snapshot: Snapshot<'a>,
    region: RegionDescriptor,
    position: Bytes,
    version_floor: u64,
}

impl<'a> RegionView<'a> {
    /// `None`: the region is not stored, or its log was never applied.
    pub(crate) fn take(engine: &'a Engine, region_id: u64) -> Result<Option<Self>, Error> {
        let snapshot = engine.database.snapshot();
        let mut options = ReadOptions::default();
        options.set_snapshot(&snapshot);
        let family = engine.family(Family::RaftState);
        let record = |key: [u8; 9]| {
            let record = engine.database.get_cf_opt(&family, key, &options);
            record.map_err(Error::from_read)
        };
        let key = keys::region::key(region_id);
        let region = record(key)?;
        let position = record(keys::applied_position::key(region_id))?;
        let (Some(region), Some(position)) = (region, position) else {
            return Ok(None);
        };
        let floor = record(keys::version_floor::key(region_id))?;
        let floor = floor.map(|floor| keys::version_floor::decode(&floor));
        let region = keys::region::decode(&key, &region)?;
        let version_floor = floor.transpose()?.unwrap_or(0);
        drop(options);
        Ok(Some(Self {
            engine,
            snapshot,
            region,
            position: position.into(),
            version_floor,
        }))
    }

    /// The position of the last entry that was applied.
    pub fn position(&self) -> &Bytes {
        &self.position
    }

    /// Reads all of the region, some MiB at a time. Before each part `goes_on` is told how many bytes were read, and decides
    /// whether this goes on; it may take its time. `None`: it did not. What is read does not get into the block cache.
    ///
    /// # Errors
    ///
    /// [`Error::DataLoss`] and [`Error::Io`].
    pub fn checksum(
        &self,
        mut goes_on: impl FnMut(u64) -> bool,
    ) -> Result<Option<RegionChecksum>, Error> {
        let mut sum = Sum::default();
        let RegionDescriptor {
            start_key, end_key, ..
        } = &self.region;
        sum.add_bytes(start_key);
        sum.add_bytes(end_key);
        for number in [
            self.region.conf_version,
            self.region.version,
            self.version_floor,
        ] {
            sum.hasher.write(&number.to_be_bytes());
        }
        for keyspace in [Keyspace::Raw, Keyspace::Versioned] {
            let mut next = Some(start_key.clone());
            while let Some(start_key) = next {
                if !goes_on(sum.bytes) {
                    return Ok(None);
                }
                next = self.add_slice(keyspace, &start_key, &mut sum)?;
            }
        }
        Ok(Some(sum.finish()))
    }

    /// Adds the entries from `start_key` on. Returns where the next slice begins, if there is one.
    fn add_slice(
        &self,
        keyspace: Keyspace,
        start_key: &[u8],
        sum: &mut Sum,
    ) -> Result<Option<Bytes>, Error> {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options.fill_cache(false);
        if !start_key.is_empty() {
            options.set_iterate_lower_bound(start_key);
        }
        if !self.region.end_key.is_empty() {
            options.set_iterate_upper_bound(self.region.end_key.as_ref());
        }
        let family = self.engine.family(keyspace.family());
        let mut entries = self.engine.database.raw_iterator_cf_opt(&family, options);
        let mut bytes_left = SLICE_BYTES;
        entries.seek_to_first();
        while let Some((key, record)) = entries.item() {
            if bytes_left == 0 {
                return Ok(Some(Bytes::copy_from_slice(key)));
            }
            sum.add_entry(keyspace, key, record);
            bytes_left = bytes_left.saturating_sub(key.len() + record.len());
            entries.next();
        }
        entries.status().map_err(Error::from_read)?;
        Ok(None)
    }
}

#[derive(Default)]
struct Sum {
    hasher: SipHasher13,
    key_count: u64,
    bytes: u64,
}

impl Sum {
    fn add_entry(&mut self, keyspace: Keyspace, key: &[u8], record: &[u8]) {
        self.hasher.write(&[match keyspace {
            Keyspace::Raw => 1,
            Keyspace::Versioned => 2,
        }]);
        self.add_bytes(key);
        self.add_bytes(record);
        self.key_count += 1;
        self.bytes += (key.len() + record.len()) as u64;
    }

    fn add_bytes(&mut self, bytes: &[u8]) {
        self.hasher.write(&(bytes.len() as u32).to_be_bytes());
        self.hasher.write(bytes);
    }

    fn finish(self) -> RegionChecksum {
        RegionChecksum {
            digest: self.hasher.finish128().into(),
            key_count: self.key_count,
            bytes: self.bytes,
        }
    }
}
