//! What is known, and what of it is durable.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use rdb_proto::metapb::{Region, StoreStats};
use rdb_storage::{ScanRange, Storage};

use super::DISCONNECTED_AFTER;
use crate::error::PdError;
use crate::keys::{self, Counters, StoreRecord};

/// A store as it is known.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownStore {
    pub(super) record: StoreRecord,
    /// The last heartbeat or registration since this process started.
    pub(super) heard_at: Option<Instant>,
    /// Of the last heartbeat.
    pub(super) stats: Option<StoreStats>,
}

/// Everything that is known of the cluster.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) cluster_id: u64,
    /// Until then a store that was not heard of since this process started may be alive all the same.
    pub(super) settled_at: Option<Instant>,
    pub(super) counters: Counters,
    /// By id.
    pub(super) stores: BTreeMap<u64, KnownStore>,
    /// By start key.
    pub(super) regions: BTreeMap<Bytes, Region>,
}

/// A part of the durable state that changes. Changes that belong together are written as one batch.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    Counters(Counters),
    Store(StoreRecord),
    Region(Region),
}

impl Change {
    /// As it is stored.
    pub(super) fn entry(&self) -> (Bytes, Bytes) {
        match self {
            Self::Counters(counters) => (
                Bytes::from_static(keys::COUNTERS),
                counters.encode_to_vec().into(),
            ),
            Self::Store(record) => (keys::store(record.id), record.encode_to_vec().into()),
            Self::Region(region) => (keys::region(region.id), region.encode_to_vec().into()),
        }
    }
}

impl State {
    pub(super) fn load_or_create(storage: &Storage) -> Result<Self, PdError> {
        let cluster_id = match storage.get_raw(keys::CLUSTER_ID)? {
            Some(bytes) => {
                keys::decode_u64(&bytes).ok_or(PdError::Damaged { what: "cluster id" })?
            }
            None => {
                let cluster_id = fastrand::u64(1..);
                storage.put_raw(
                    Bytes::from_static(keys::CLUSTER_ID),
                    keys::encode_u64(cluster_id),
                )?;
                cluster_id
            }
        };
        let counters = storage.get_raw(keys::COUNTERS)?.unwrap_or_default();
        let mut state = Self {
            cluster_id,
            settled_at: Some(Instant::now() + DISCONNECTED_AFTER),
            counters: decode(&counters, "record of id counters")?,
            ..Self::default()
        };
        for bytes in values(storage, keys::STORE_PREFIX)? {
            state.apply(Change::Store(decode(&bytes, "record of a store")?));
        }
        for bytes in values(storage, keys::REGION_PREFIX)? {
            state.apply(Change::Region(decode(&bytes, "record of a region")?));
        }
        Ok(state)
    }

    /// Takes over a change that is durable.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Counters(counters) => self.counters = counters,
            Change::Store(record) => {
                let store = self.stores.entry(record.id).or_default();
                store.record = record;
            }
            Change::Region(region) => {
                self.regions.insert(region.start_key.clone(), region);
            }
        }
    }
}

fn decode<T: Message + Default>(bytes: &[u8], what: &'static str) -> Result<T, PdError> {
    T::decode(bytes).map_err(|_| PdError::Damaged { what })
}

/// All values whose keys start with `prefix`, which ends in a slash.
fn values(storage: &Storage, prefix: &'static [u8]) -> Result<Vec<Bytes>, PdError> {
    let mut end_key = prefix.to_vec();
    if let Some(last) = end_key.last_mut() {
        *last += 1;
    }
    let mut range = ScanRange {
        start_key: Bytes::from_static(prefix),
        end_key: end_key.into(),
        ..ScanRange::default()
    };
    let mut values = Vec::new();
    loop {
        let page = storage.scan_raw(&range)?;
        values.extend(page.entries.into_iter().map(|entry| entry.value));
        match page.resume_key {
            Some(resume_key) => range.start_key = resume_key,
            None => return Ok(values),
        }
    }
}
