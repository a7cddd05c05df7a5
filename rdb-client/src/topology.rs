//! Stores, regions and routes, as plain types.

use std::time::Duration;

use bytes::Bytes;
use rdb_proto::{metapb, pdpb};

/// The state of a store, by its heartbeats to the placement driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreState {
    /// A heartbeat arrived within the last 20 seconds.
    Up,
    /// No heartbeat for 20 seconds.
    Disconnected,
    /// No heartbeat for 30 minutes, or what the placement driver's `--store-down-after-s` says.
    Down,
    /// It is leaving, whether it is up or not, and its replicas move to other stores.
    Leaving,
    /// The answer has no state, or one that this release does not know.
    Unknown,
}

/// Figures of a store's last heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Size of the file system that holds the data directory, in bytes.
    pub capacity_bytes: u64,
    /// Bytes of it that are free for the store.
    pub available_bytes: u64,
    /// Estimated number of keys in both keyspaces together.
    pub key_count: u64,
    /// Bytes of the store's table files.
    pub data_bytes: u64,
    /// When the store process started, in milliseconds since the Unix epoch.
    pub start_time_ms: u64,
}

/// What a store did in a short time before its last heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreLoad {
    /// How long that time was.
    pub window: Duration,
    /// Commands that read and that were answered, or given up, in it.
    pub reads: u64,
    /// The same of commands that write.
    pub writes: u64,
    /// About how long the slowest hundredth of the reads took at least. `None`: there were none.
    pub read_p99: Option<Duration>,
    /// The same of the writes.
    pub write_p99: Option<Duration>,
    /// Bytes of writes that waited or were being applied at its end.
    pub write_queue_bytes: u64,
    /// Bytes of writes from which on clients are told to back off.
    pub write_queue_bytes_max: u64,
}

impl StoreLoad {
    /// Reads in a second.
    pub fn reads_per_s(&self) -> f64 {
        self.per_s(self.reads)
    }

    /// Writes in a second.
    pub fn writes_per_s(&self) -> f64 {
        self.per_s(self.writes)
    }

    fn per_s(&self, count: u64) -> f64 {
        count as f64 / self.window.max(Duration::from_millis(1)).as_secs_f64()
    }
}

/// A registered store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Store {
    /// Made by the placement driver, never reused.
    pub id: u64,
    /// Where clients reach it, as `host:port`.
    pub address: String,
    /// The state when the answer was made.
    pub state: StoreState,
    /// How long ago the last heartbeat came. `None`: none since the placement driver started.
    pub last_heartbeat_age: Option<Duration>,
    /// The figures of the last heartbeat. `None`: none since the placement driver started.
    pub stats: Option<StoreStats>,
    /// What it did before the last heartbeat. `None`: not known, e.g. since that was 20 seconds ago, or since the store or the
    /// placement driver is of an older release. Stores of routes never have it.
    pub load: Option<StoreLoad>,
}

/// The version of a region's description; both counters only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionEpoch {
    /// Grows with every change of the region's peers.
    pub conf_version: u64,
    /// Grows with every change of the region's key range.
    pub version: u64,
}

/// One replica of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Made by the placement driver, never reused.
    pub id: u64,
    /// The store that holds this replica.
    pub store_id: u64,
    /// Whether it has no vote: it has come in a short time ago, or is about to leave.
    pub is_learner: bool,
}

/// A contiguous range of keys, `[start_key, end_key)`, the unit of placement.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Region {
    /// Made by the placement driver, never reused.
    pub id: u64,
    /// First key of the region. Empty: from the lowest key.
    pub start_key: Bytes,
    /// First key behind the region. Empty: no upper bound.
    pub end_key: Bytes,
    /// The version of this description.
    pub epoch: RegionEpoch,
    /// The replicas.
    pub peers: Vec<Peer>,
}

/// A region together with the store that serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionRoute {
    /// The region.
    pub region: Region,
    /// The store that takes its reads and writes. `None`: not known at the moment.
    pub leader: Option<Store>,
    /// The Raft term that the leader was elected in. `None`: nobody has reported a leader.
    pub term: Option<u64>,
    /// The stores of the region's peers, in the order of the peers. Unregistered stores are left out.
    pub peers: Vec<Store>,
    /// The ids of the peers with a vote that have not lived for 20 seconds though their stores are up, as the leader says: it does
    /// not hear of them, or they do not catch up. They are replaced as on a store that is down, and named then also while their stores
    /// are silent.
    pub absent_peers: Vec<u64>,
    /// About how many bytes of table files the region takes on one store, as its leader has said last. `None`: none has.
    pub bytes: Option<u64>,
}

/// Something that the placement driver says is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Something has to be done. Else it is something to know.
    pub is_alarm: bool,
    /// What is wrong, in words.
    pub what: String,
    /// What to do about it.
    pub to_do: String,
}

impl From<metapb::Store> for Store {
    fn from(store: metapb::Store) -> Self {
        Self {
            state: store.state().into(),
            id: store.id,
            address: store.address,
            last_heartbeat_age: store.last_heartbeat_age_ms.map(Duration::from_millis),
            stats: store.stats.map(StoreStats::from),
            load: store.load.map(StoreLoad::from),
        }
    }
}

impl From<metapb::StoreState> for StoreState {
    fn from(state: metapb::StoreState) -> Self {
        match state {
            metapb::StoreState::Up => Self::Up,
            metapb::StoreState::Disconnected => Self::Disconnected,
            metapb::StoreState::Down => Self::Down,
            metapb::StoreState::Leaving => Self::Leaving,
            metapb::StoreState::Unspecified => Self::Unknown,
        }
    }
}

impl From<pdpb::Finding> for Finding {
    fn from(finding: pdpb::Finding) -> Self {
        Self {
            is_alarm: finding.is_alarm,
            what: finding.what,
            to_do: finding.to_do,
        }
    }
}

impl From<metapb::StoreStats> for StoreStats {
    fn from(stats: metapb::StoreStats) -> Self {
        Self {
            capacity_bytes: stats.capacity_bytes,
            available_bytes: stats.available_bytes,
            key_count: stats.key_count,
            data_bytes: stats.data_bytes,
            start_time_ms: stats.start_time_ms,
        }
    }
}

impl From<metapb::StoreLoad> for StoreLoad {
    fn from(load: metapb::StoreLoad) -> Self {
        Self {
            window: Duration::from_millis(load.window_ms),
            reads: load.reads,
            writes: load.writes,
            read_p99: load.read_p99_us.map(Duration::from_micros),
            write_p99: load.write_p99_us.map(Duration::from_micros),
            write_queue_bytes: load.write_queue_bytes,
            write_queue_bytes_max: load.write_queue_bytes_max,
        }
    }
}

impl From<metapb::Region> for Region {
    fn from(region: metapb::Region) -> Self {
        let epoch = region.epoch_or_default();
        let peers = region.peers.iter().map(|peer| Peer {
            id: peer.id,
            store_id: peer.store_id,
            is_learner: peer.learner,
        });
        Self {
            id: region.id,
            peers: peers.collect(),
            epoch: RegionEpoch {
                conf_version: epoch.conf_version,
                version: epoch.version,
            },
            start_key: region.start_key,
            end_key: region.end_key,
        }
    }
}
