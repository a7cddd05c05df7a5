//! The checksum of a region at one position of its log. Replicas that have applied the same log up to the same position
//! have the same checksum.
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
//! Integers are big-endian. Releases whose checksums of the same data differ must not share the method that asks for them.

use std::hash::Hasher;

use bytes::Bytes;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::error::Error;
use crate::read::Keyspace;
use crate::region::RegionDescriptor;
use crate::view::RegionView;

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

impl RegionView<'_> {
    /// Reads all of the region, some MiB at a time. Before each part `goes_on` gets the number of bytes read so far, and
    /// decides whether to go on; it may block. `None`: it stopped. The reads do not fill the block cache.
    ///
    /// # Errors
    ///
    /// [`Error::DataLoss`] and [`Error::Io`], also when a snapshot has replaced the region meanwhile.
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
        let mut entries = self.entries(keyspace, start_key, 0)?;
        let mut bytes_left = SLICE_BYTES;
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
