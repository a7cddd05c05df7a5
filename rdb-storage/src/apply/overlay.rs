//! What the commands of one batch see: what is stored, and on top of it what earlier commands of the batch did.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use super::Unreadable;
use crate::engine::{Engine, Family};
use crate::error::Error;
use crate::keys;
use crate::limits::CONFLICT_VALUE_BYTES_MAX;

/// How many values are read at a time: each may have 4 MiB.
const READ_CHUNK_KEYS: usize = 32;

/// The current state of a versioned key, as far as a command needs it.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) version: u64,
    /// For conflicts; `None` when it is too long for one.
    pub(super) value: Option<Bytes>,
}

impl Record {
    pub(super) fn new(version: u64, value: &Bytes) -> Self {
        let value = (value.len() <= CONFLICT_VALUE_BYTES_MAX).then(|| value.clone());
        Self { version, value }
    }

    fn stored(record: &[u8]) -> Result<Self, Error> {
        let (version, value) = keys::versioned::decode(record)?;
        let fits = value.len() <= CONFLICT_VALUE_BYTES_MAX;
        let value = fits.then(|| Bytes::copy_from_slice(value));
        Ok(Self { version, value })
    }
}

#[derive(Debug, Clone, Copy)]
struct Floor {
    value: u64,
    raised: bool,
}

/// Records of the batch's keys, and the floors of its regions.
pub(super) struct Overlay {
    records: HashMap<Bytes, Record>,
    floors: HashMap<u64, Floor>,
}

impl Overlay {
    /// Reads the records of `keys`, each once. No other key may be asked for later.
    pub(super) fn load<'a>(
        engine: &Engine,
        keys: impl Iterator<Item = &'a Bytes>,
    ) -> Result<Self, Unreadable> {
        let keys: Vec<&Bytes> = keys.collect::<BTreeSet<_>>().into_iter().collect();
        let mut records = HashMap::with_capacity(keys.len());
        let family = engine.family(Family::Versioned);
        for chunk in keys.chunks(READ_CHUNK_KEYS) {
            let found = engine
                .database
                .batched_multi_get_cf(family, chunk.iter().copied(), true);
            for (key, record) in chunk.iter().zip(found) {
                let unreadable = |error| Unreadable {
                    key: Some((*key).clone()),
                    error,
                };
                let record = record.map_err(Error::from_read).map_err(unreadable)?;
                if let Some(record) = record {
                    let record = Record::stored(&record).map_err(unreadable)?;
                    records.insert((*key).clone(), record);
                }
            }
        }
        let floors = HashMap::new();
        Ok(Self { records, floors })
    }

    pub(super) fn record(&self, key: &Bytes) -> Option<&Record> {
        self.records.get(key)
    }

    pub(super) fn put(&mut self, key: &Bytes, record: Record) {
        self.records.insert(key.clone(), record);
    }

    pub(super) fn delete(&mut self, key: &Bytes) {
        self.records.remove(key);
    }

    /// The region's version floor.
    pub(super) fn floor(&mut self, engine: &Engine, region_id: u64) -> Result<u64, Error> {
        self.floor_mut(engine, region_id).map(|floor| floor.value)
    }

    /// Raises the region's floor to at least `version`.
    pub(super) fn raise_floor(
        &mut self,
        engine: &Engine,
        region_id: u64,
        version: u64,
    ) -> Result<(), Error> {
        let floor = self.floor_mut(engine, region_id)?;
        if floor.value < version {
            *floor = Floor {
                value: version,
                raised: true,
            };
        }
        Ok(())
    }

    /// The floors that have to be written, with their regions.
    pub(super) fn raised_floors(&self) -> impl Iterator<Item = (u64, u64)> {
        let raised = self.floors.iter().filter(|(_, floor)| floor.raised);
        raised.map(|(region_id, floor)| (*region_id, floor.value))
    }

    fn floor_mut(&mut self, engine: &Engine, region_id: u64) -> Result<&mut Floor, Error> {
        use std::collections::hash_map::Entry;
        match self.floors.entry(region_id) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let family = engine.family(Family::RaftState);
                let key = keys::version_floor::key(region_id);
                let stored = engine
                    .database
                    .get_pinned_cf(&family, key)
                    .map_err(Error::from_read)?;
                let value = match stored {
                    Some(record) => keys::version_floor::decode(&record)?,
                    None => 0,
                };
                Ok(entry.insert(Floor {
                    value,
                    raised: false,
                }))
            }
        }
    }
}
