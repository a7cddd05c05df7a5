//! Why a start of a store is refused.

use super::stores::Start;
use super::{DISCONNECTED_AFTER, STORES_MAX};
use crate::keys::StoreRecord;

/// Why a registration is refused. Asking again helps only after [`MayBeAlive`](Self::MayBeAlive).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It belongs to another cluster.
    #[error(
        "the store belongs to cluster {theirs}, and this is cluster {ours}; point --pd to its own placement driver, or \
         restore a copy of that one's data directory if it is lost"
    )]
    ForeignCluster {
        /// The store's cluster.
        theirs: u64,
        /// This one.
        ours: u64,
    },
    /// It has an id that was never given out here, or whose record was dropped.
    #[error(
        "store {store_id} is not known here, though its cluster is: the placement driver's data directory is older than \
         this store, or the store ended before it was registered and its id was dropped. If it never served, it holds no \
         data: start it with an empty data directory"
    )]
    UnknownStore {
        /// The id it named.
        store_id: u64,
    },
    /// An operator has removed it.
    #[error(
        "store {store_id} was removed from this cluster: other stores hold what it held. To use the machine again, start it \
         with an empty data directory; it becomes a new store"
    )]
    Removed {
        /// Its id.
        store_id: u64,
    },
    /// Another process lives with its id at another address.
    #[error(
        "store {id} lives at {at}, and this process is at {claimed}. If its data directory is a copy, do not \
         serve it; if the store moved, end the process at {at} and start this one {} s later",
        DISCONNECTED_AFTER.as_secs(), id = .store.id, at = .store.address
    )]
    LivesElsewhere {
        /// The store.
        store: RegisteredStore,
        /// Where this process is.
        claimed: String,
    },
    /// Another process lives with its id and says that it has the same address.
    #[error(
        "another process lives as store {id} at {at}, so the data directory of this one is a copy: do not serve \
         it, and give each store its own --advertise-addr",
        id = .0.id, at = .0.address
    )]
    LivesHere(RegisteredStore),
    /// Another data directory with its id was accepted after this one.
    #[error(
        "store {id} was started from another data directory since (it is at {at}); this one is an old copy \
         and must not be served. If the placement driver's data directory is the old one, see its --tso-advance-ms",
        id = .0.id, at = .0.address
    )]
    Superseded(RegisteredStore),
    /// Another store lives at its address.
    #[error(
        "store {id} lives at {at}. Give each store its own --advertise-addr; if this store replaces that one, \
         end that one and start this one {} s later",
        DISCONNECTED_AFTER.as_secs(), id = .0.id, at = .0.address
    )]
    AddressTaken(RegisteredStore),
    /// The cluster has as many stores as it can have.
    #[error("the cluster has {STORES_MAX} stores, and can have no more")]
    TooManyStores,
    /// Another process may live with its id or at its address.
    #[error(
        "{} process of store {id} at {at} may be alive; its place is free once it has been silent for {} s",
        if *is_previous { "the previous" } else { "another" },
        DISCONNECTED_AFTER.as_secs(), id = .store.id, at = .store.address
    )]
    MayBeAlive {
        /// The store that may be alive.
        store: RegisteredStore,
        /// Whether it is the last process of the same store at the same address, as after a restart.
        is_previous: bool,
    },
}

/// The store that a start is refused for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredStore {
    /// Its id.
    pub id: u64,
    /// Where it is registered.
    pub address: String,
}

impl Refusal {
    pub(super) fn elsewhere(record: &StoreRecord, start: &Start) -> Self {
        Self::LivesElsewhere {
            store: record.registered(),
            claimed: start.address.clone(),
        }
    }

    pub(super) fn may_be_alive(record: &StoreRecord, start: &Start) -> Self {
        Self::MayBeAlive {
            store: record.registered(),
            is_previous: record.id == start.store_id && record.address == start.address,
        }
    }
}
