//! The state of the cluster, and its durable part.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use rdb_proto::metapb::{Peer, Region, StoreLoad, StoreStats};
use rdb_storage::{Command, ScanRange, Storage, random_id};

use super::Settings;
use super::lagging::Lagging;
use super::listening::Listening;
use super::operators::Operators;
use super::reports::Leadership;
use super::strangers::Strangers;
use crate::error::PdError;
use crate::keys::{self, AwayVoters, Counters, NewPeers, StoreRecord};

/// How far ids move ahead when the data directory may be an older copy: more ids than were given out since the copy was
/// made.
const RESTORED_IDS_SKIPPED: u64 = 1_000_000;

/// The state of a store.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownStore {
    pub(super) record: StoreRecord,
    /// When its present start was last heard of by this process.
    pub(super) heard_at: Option<Instant>,
    /// The next start, which waits at the registered address until the present one is silent.
    pub(super) waiting: Option<Waiting>,
    /// Figures of the last heartbeat.
    pub(super) stats: Option<StoreStats>,
    /// What its present start did before its last heartbeat, if that told it, and when it did.
    pub(super) load: Option<(StoreLoad, Instant)>,
    /// What the last heartbeat of its present start said. `None`: there was none.
    pub(super) takes_no_replicas: Option<bool>,
    /// Whether the last heartbeat named replicas that it has.
    pub(super) has_replicas: bool,
}

/// A start that was told to ask again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) incarnation: u64,
    /// When it asked first.
    pub(super) since: Instant,
    /// When it asked last.
    pub(super) asked_at: Instant,
}

/// The state of a region.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownRegion {
    pub(super) region: Region,
    /// Who leads it, as far as this process has heard.
    pub(super) leadership: Option<Leadership>,
    /// When that leader was first heard of.
    pub(super) led_since: Option<Instant>,
    /// When a leader was last heard of, in a report that counts.
    pub(super) reported_at: Option<Instant>,
    /// The peers that live, as the leader has said last. `None`: it does not tell.
    pub(super) live: Option<Vec<u64>>,
    /// About how many bytes it holds, as a leader has said last.
    pub(super) bytes: Option<u64>,
    pub(super) lagging: Lagging,
    /// The voter that was asked last to lead, and when.
    pub(super) successor: Option<(u64, Instant)>,
    /// Those that its leader may be about to add.
    pub(super) new_peers: Vec<Peer>,
    /// When the leader was last told to add a peer.
    pub(super) adding_at: Option<Instant>,
}

/// The state of the cluster.
#[derive(Debug)]
pub(super) struct State {
    pub(super) cluster_id: u64,
    pub(super) settings: Settings,
    pub(super) listening: Listening,
    pub(super) operators: Operators,
    pub(super) strangers: Strangers,
    pub(super) counters: Counters,
    /// The stores by their id.
    pub(super) stores: BTreeMap<u64, KnownStore>,
    /// The regions by their start key.
    pub(super) regions: BTreeMap<Bytes, KnownRegion>,
    /// The start key of each region by its id. Nothing changes a region's start key.
    start_keys: BTreeMap<u64, Bytes>,
}

/// A part of the durable state that changes. Changes that belong together are written as one batch.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    Counters(Counters),
    Store(StoreRecord),
    /// The record of the store with this id is dropped.
    NoStore(u64),
    Region(Region),
    NewPeers(NewPeers),
    Away(AwayVoters),
}

impl Change {
    /// The change as a write to the storage.
    pub(super) fn command(&self) -> Command {
        let (key, value) = match self {
            Self::Counters(counters) => {
                (Bytes::from_static(keys::COUNTERS), counters.encode_to_vec())
            }
            Self::Store(record) => (keys::store(record.id), record.encode_to_vec()),
            Self::NoStore(id) => {
                return Command::DeleteRaw {
                    key: keys::store(*id),
                };
            }
            Self::Region(region) => (keys::region(region.id), region.encode_to_vec()),
            Self::NewPeers(peers) => (keys::new_peers(peers.region_id), peers.encode_to_vec()),
            Self::Away(away) if away.voters.is_empty() => {
                return Command::DeleteRaw {
                    key: keys::away(away.region_id),
                };
            }
            Self::Away(away) => (keys::away(away.region_id), away.encode_to_vec()),
        };
        let value = value.into();
        Command::PutRaw { key, value }
    }
}

impl State {
    /// A cluster without stores and regions, in a process that starts to listen.
    pub(super) fn new(cluster_id: u64, now: Instant) -> Self {
        Self {
            cluster_id,
            settings: Settings::default(),
            listening: Listening::start(now),
            operators: Operators::default(),
            strangers: Strangers::default(),
            counters: Counters::default(),
            stores: BTreeMap::new(),
            regions: BTreeMap::new(),
            start_keys: BTreeMap::new(),
        }
    }

    pub(super) fn load_or_create(storage: &Storage, now: Instant) -> Result<Self, PdError> {
        let cluster_id = match storage.get_raw(keys::CLUSTER_ID)? {
            Some(bytes) => {
                keys::decode_u64(&bytes).ok_or(PdError::Damaged { what: "cluster id" })?
            }
            None => {
                let cluster_id = random_id()?;
                storage.put_raw(
                    Bytes::from_static(keys::CLUSTER_ID),
                    keys::encode_u64(cluster_id),
                )?;
                cluster_id
            }
        };
        let counters = storage.get_raw(keys::COUNTERS)?.unwrap_or_default();
        let mut state = Self {
            counters: decode(&counters, "record of id counters")?,
            ..Self::new(cluster_id, now)
        };
        for bytes in values(storage, keys::STORE_PREFIX)? {
            state.apply(Change::Store(decode(&bytes, "record of a store")?));
        }
        for bytes in values(storage, keys::REGION_PREFIX)? {
            state.apply(Change::Region(decode(&bytes, "record of a region")?));
        }
        for bytes in values(storage, keys::NEW_PEERS_PREFIX)? {
            let what = "record of a region's new peers";
            state.apply(Change::NewPeers(decode(&bytes, what)?));
        }
        for bytes in values(storage, keys::AWAY_PREFIX)? {
            state.restore_away(decode(
                &bytes,
                "record of a region's voters that were away",
            )?);
        }
        Ok(state)
    }

    /// The changes that make a data directory usable when it may be an older copy. Ids that were given out since are skipped. The next
    /// start of every store is accepted, since the directory may not know its last one. Voters that were away may have come back long
    /// ago.
    pub(super) fn changes_after_restore(&self) -> Vec<Change> {
        let counters = Counters {
            store_id: self.counters.store_id + RESTORED_IDS_SKIPPED,
            region_id: self.counters.region_id + RESTORED_IDS_SKIPPED,
            peer_id: self.counters.peer_id + RESTORED_IDS_SKIPPED,
        };
        let forgotten = self.stores.values().map(|store| {
            Change::Store(StoreRecord {
                id: store.record.id,
                address: store.record.address.clone(),
                is_leaving: store.record.is_leaving,
                has_left: store.record.has_left,
                ..StoreRecord::default()
            })
        });
        let away = self.regions.values().map(|known| {
            Change::Away(AwayVoters {
                region_id: known.region.id,
                voters: Vec::new(),
            })
        });
        let changes = [Change::Counters(counters)].into_iter().chain(forgotten);
        changes.chain(away).collect()
    }

    /// Applies a change that is durable.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Counters(counters) => self.counters = counters,
            Change::Store(record) => {
                let store = self.stores.entry(record.id).or_default();
                if store.record.incarnation != record.incarnation {
                    store.takes_no_replicas = None;
                    store.load = None;
                }
                store.record = record;
            }
            Change::NoStore(id) => {
                self.stores.remove(&id);
            }
            Change::Region(region) => {
                let start_key = region.start_key.clone();
                self.start_keys.insert(region.id, start_key.clone());
                let known = self.regions.entry(start_key).or_default();
                if known.conf_version() != region.epoch_or_default().conf_version {
                    known.new_peers.clear();
                }
                known.region = region;
            }
            Change::NewPeers(NewPeers {
                region_id,
                conf_version,
                peers,
            }) => {
                if let Some(known) = self.region_mut(region_id)
                    && known.conf_version() == conf_version
                {
                    known.new_peers = peers;
                }
            }
            Change::Away(AwayVoters { region_id, voters }) => {
                if let Some(known) = self.region_mut(region_id) {
                    known.lagging.note_stored(voters);
                }
            }
        }
    }

    /// Takes what an earlier process has stored of voters that were away.
    pub(super) fn restore_away(&mut self, AwayVoters { region_id, voters }: AwayVoters) {
        if let Some(known) = self.region_mut(region_id) {
            known.lagging.restore(voters);
        }
    }

    /// Forgets what an earlier process has stored of voters that were away.
    pub(super) fn forget_away(&mut self) {
        for known in self.regions.values_mut() {
            known.lagging.restore(Vec::new());
        }
    }

    pub(super) fn region_by_id(&self, region_id: u64) -> Option<&KnownRegion> {
        self.regions.get(self.start_keys.get(&region_id)?)
    }

    pub(super) fn region_mut(&mut self, region_id: u64) -> Option<&mut KnownRegion> {
        self.regions.get_mut(self.start_keys.get(&region_id)?)
    }
}

impl KnownStore {
    /// Whether it takes replicas of regions that others hold, too, as far as is known.
    pub(super) fn may_take_replicas(&self) -> bool {
        self.takes_no_replicas != Some(true)
    }

    /// Whether it has said that it does.
    pub(super) fn takes_replicas(&self) -> bool {
        self.takes_no_replicas == Some(false)
    }
}

impl KnownRegion {
    pub(super) fn conf_version(&self) -> u64 {
        self.region.epoch_or_default().conf_version
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
