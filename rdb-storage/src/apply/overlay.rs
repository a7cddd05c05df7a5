//! What the commands of one batch see: the stored data, with the effects of earlier commands of the batch on top.
//!
//! Everything that is stored is read before the first command is applied.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::command::Outcome;
use crate::engine::Engine;
use crate::error::Error;
use crate::keys;
use crate::limits::CONFLICT_VALUE_BYTES_MAX;
use crate::read::{Keyspace, ReadError, Tier};
use crate::region::RegionDescriptor;

/// The current state of a versioned key, as far as commands need it.
#[derive(Debug)]
struct Record {
    /// 0: the key does not exist.
    version: u64,
    value: Value,
}

/// A value, for conflicts.
#[derive(Debug)]
enum Value {
    /// There is none, or it is too long for a conflict.
    Omitted,
    /// It is stored, and no command has needed it yet. The number is its length in bytes.
    Stored(usize),
    /// A copy, which conflicts share.
    Copied(Bytes),
    /// Shares the buffer of the command that wrote it, and is copied when the first conflict needs it.
    Written(Bytes),
}

#[derive(Debug, Clone, Copy)]
struct Floor {
    value: u64,
    raised: bool,
}

/// Records of the batch's keys, and the floors, epochs and descriptors of its regions.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    records: HashMap<Bytes, Record>,
    floors: BTreeMap<u64, Floor>,
    /// The `version` of each region's epoch; 0 for a region that is not stored.
    epochs: BTreeMap<u64, u64>,
    /// Only of regions for which a membership needs it. `None`: the region is not stored.
    descriptors: BTreeMap<u64, Option<RegionDescriptor>>,
    bytes_read: usize,
    /// When more were read, no further record is. `None`: there is no bound.
    bytes_read_max: Option<usize>,
}

impl Overlay {
    /// From now on records are read only until they have more than `bytes_max` together.
    pub(super) fn bound_reads(&mut self, bytes_max: usize) {
        self.bytes_read_max = Some(bytes_max);
    }

    /// Reads the record of a key that a command expects at `expected_version`. Its value is needed only by a command that
    /// expects another version; it is copied if `values_bytes_left` allows. Returns how many bytes were read.
    pub(super) fn load_record(
        &mut self,
        engine: &Engine,
        tier: Tier,
        key: &Bytes,
        expected_version: u64,
        values_bytes_left: &mut usize,
    ) -> Result<usize, ReadError> {
        let loaded = self.records.get(key);
        if loaded.is_some_and(|record| !record.misses_value(expected_version, *values_bytes_left)) {
            return Ok(0);
        }
        if self.bytes_read_max.is_some_and(|max| self.bytes_read > max) {
            return Err(ReadError::NotInMemory);
        }
        let mut record_bytes = 0;
        let mut record = Record {
            version: 0,
            value: Value::Omitted,
        };
        if let Some(stored) = engine.record(Keyspace::Versioned, key, tier)? {
            let (version, value) = keys::versioned::decode(&stored).map_err(Error::from)?;
            record_bytes = stored.len();
            self.bytes_read += record_bytes;
            record = Record::stored(version, value.len());
            if record.misses_value(expected_version, *values_bytes_left) {
                *values_bytes_left -= value.len();
                record.value = Value::Copied(Bytes::copy_from_slice(value));
            }
        }
        self.records.insert(key.clone(), record);
        Ok(record_bytes)
    }

    /// Forgets what is known of regions, and the records that `other` has, too.
    pub(super) fn forget(&mut self, other: &Self) {
        self.floors.clear();
        self.epochs.clear();
        self.descriptors.clear();
        for key in other.records.keys() {
            self.records.remove(key);
        }
    }

    /// Bytes of values that were copied.
    pub(super) fn copied_bytes(&self) -> usize {
        let copied = self.records.values().map(|record| match &record.value {
            Value::Copied(value) => value.len(),
            _ => 0,
        });
        copied.sum()
    }

    pub(super) fn load_floor(&mut self, engine: &Engine, region_id: u64) -> Result<(), Error> {
        if let Entry::Vacant(entry) = self.floors.entry(region_id) {
            let value = engine.version_floor(region_id, Tier::Disk)?;
            entry.insert(Floor {
                value,
                raised: false,
            });
        }
        Ok(())
    }

    pub(super) fn load_epoch(&mut self, engine: &Engine, region_id: u64) -> Result<(), Error> {
        if let Entry::Vacant(entry) = self.epochs.entry(region_id) {
            entry.insert(engine.epoch_version(region_id)?);
        }
        Ok(())
    }

    pub(super) fn load_region(&mut self, engine: &Engine, region_id: u64) -> Result<(), Error> {
        if let Entry::Vacant(entry) = self.descriptors.entry(region_id) {
            entry.insert(engine.region(region_id)?);
        }
        Ok(())
    }

    pub(super) fn bytes_read(&self) -> usize {
        self.bytes_read
    }

    /// The version of a key; 0: it does not exist.
    pub(super) fn version(&self, key: &Bytes) -> u64 {
        self.records.get(key).map_or(0, |record| record.version)
    }

    pub(super) fn put(&mut self, key: &Bytes, version: u64, value: &Bytes) {
        let value = if value.len() > CONFLICT_VALUE_BYTES_MAX {
            Value::Omitted
        } else {
            Value::Written(value.clone())
        };
        self.records.insert(key.clone(), Record { version, value });
    }

    pub(super) fn delete(&mut self, key: &Bytes) {
        let (version, value) = (0, Value::Omitted);
        self.records.insert(key.clone(), Record { version, value });
    }

    /// The conflict of a command with the present state of its key. Its value counts against `values_bytes_left`.
    pub(super) fn conflict(&mut self, key: &Bytes, values_bytes_left: &mut usize) -> Outcome {
        let record = self.records.get_mut(key);
        let current_version = record.as_ref().map_or(0, |record| record.version);
        let value = record.and_then(|record| record.value.shared(*values_bytes_left));
        *values_bytes_left -= value.as_ref().map_or(0, Bytes::len);
        Outcome::Conflict {
            current_version,
            current_value: value,
        }
    }

    /// The region's version floor.
    pub(super) fn floor(&self, region_id: u64) -> u64 {
        self.floors.get(&region_id).map_or(0, |floor| floor.value)
    }

    /// Raises the region's floor to at least `version`.
    pub(super) fn raise_floor(&mut self, region_id: u64, version: u64) {
        if self.floor(region_id) < version {
            let floor = Floor {
                value: version,
                raised: true,
            };
            self.floors.insert(region_id, floor);
        }
    }

    /// The floors that have to be written, with their regions.
    pub(super) fn raised_floors(&self) -> impl Iterator<Item = (u64, u64)> {
        let raised = self.floors.iter().filter(|(_, floor)| floor.raised);
        raised.map(|(region_id, floor)| (*region_id, floor.value))
    }

    /// The `version` of the region's epoch; 0: it is not stored.
    pub(super) fn epoch_version(&self, region_id: u64) -> u64 {
        self.epochs.get(&region_id).copied().unwrap_or(0)
    }

    /// The region's descriptor. `None`: it is not stored.
    pub(super) fn region(&self, region_id: u64) -> Option<&RegionDescriptor> {
        self.descriptors.get(&region_id)?.as_ref()
    }

    pub(super) fn put_region(&mut self, region: RegionDescriptor) {
        self.epochs.insert(region.id, region.version);
        self.descriptors.insert(region.id, Some(region));
    }
}

impl Record {
    fn stored(version: u64, value_bytes: usize) -> Self {
        let value = if value_bytes > CONFLICT_VALUE_BYTES_MAX {
            Value::Omitted
        } else {
            Value::Stored(value_bytes)
        };
        Self { version, value }
    }

    /// Whether the conflict of a command that expects `expected_version` would lack the value, and has room for it.
    fn misses_value(&self, expected_version: u64, bytes_left: usize) -> bool {
        let fits = matches!(self.value, Value::Stored(bytes) if bytes <= bytes_left);
        fits && self.version != expected_version
    }
}

impl Value {
    /// The value for a conflict, if it has no more than `bytes_max`.
    fn shared(&mut self, bytes_max: usize) -> Option<Bytes> {
        if let Self::Written(value) = self {
            *self = Self::Copied(Bytes::copy_from_slice(value));
        }
        match self {
            Self::Copied(value) if value.len() <= bytes_max => Some(value.clone()),
            _ => None,
        }
    }
}
