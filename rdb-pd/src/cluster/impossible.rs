//! Why an operator's request is refused.

use super::DISCONNECTED_AFTER;
use super::operators::OPERATORS_MAX;

/// Most ids that a message lists.
const LISTED_MAX: usize = 16;

/// Why what an operator asks for is not done. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// The region is not known.
    #[error("there is no region {region_id}; {present}")]
    NoRegion {
        /// The region.
        region_id: u64,
        /// Which there are.
        present: String,
    },
    /// The store is not known.
    #[error("there is no store {store_id}; {present}")]
    NoStore {
        /// The store.
        store_id: u64,
        /// Which there are.
        present: String,
    },
    /// Which members the region has is not known: no leader has reported since this process has started.
    #[error(
        "the placement driver has started, and the leader of region {region_id} has not reported yet; ask again in some seconds"
    )]
    Unconfirmed {
        /// The region.
        region_id: u64,
    },
    /// The region has no operator.
    #[error("region {region_id} has no operator under way; {present}")]
    NoOperator {
        /// The region.
        region_id: u64,
        /// Which have one.
        present: String,
    },
    /// The region has an operator already.
    #[error("region {region_id} has an operator under way; wait until it has ended, or cancel it")]
    HasOperator {
        /// The region.
        region_id: u64,
    },
    /// No more operators can be under way.
    #[error("{OPERATORS_MAX} operators are under way; wait until one has ended, or cancel one")]
    TooManyOperators,
    /// The store has no peer of the region.
    #[error("store {store_id} has no replica of region {region_id}; {present}")]
    NoReplica {
        /// The region.
        region_id: u64,
        /// The store.
        store_id: u64,
        /// Which stores have.
        present: String,
    },
    /// No other store has a voter of the region.
    #[error(
        "store {store_id} has the only replica of region {region_id}; add one on another store first"
    )]
    SoleReplica {
        /// The region.
        region_id: u64,
        /// The store.
        store_id: u64,
    },
    /// The move would only remove a replica: the other store already has one.
    #[error(
        "store {to} has a replica of region {region_id} already, so a move would only take away the one on store {from}. If this is the \
         rest of a move that was cancelled, has timed out, or was under way when the placement driver has started: `rdbctl operator \
         remove-peer {region_id} {from}` finishes it, and `rdbctl operator remove-peer {region_id} {to}` undoes it. {} Else name a store \
         without a replica",
        prospect(*voters, *kept)
    )]
    NoMove {
        /// The region.
        region_id: u64,
        /// The store that is to lose its replica.
        from: u64,
        /// The store that has one.
        to: u64,
        /// How many replicas the region has that vote.
        voters: usize,
        /// How many it should have.
        kept: usize,
    },
    /// The store sends no heartbeats.
    #[error(
        "store {store_id} is silent: it sends no heartbeats, and gets no replica before it does. Start it, or name another store"
    )]
    Silent {
        /// The store.
        store_id: u64,
    },
    /// The store's disk is too full.
    #[error(
        "store {store_id} has too little free space: the region may take {needed} bytes. Make room, or name another store"
    )]
    NoRoom {
        /// The store.
        store_id: u64,
        /// How much it needs free.
        needed: u64,
    },
    /// The store is leaving.
    #[error("store {store_id} is leaving; it gets no replicas")]
    Leaves {
        /// The store.
        store_id: u64,
    },
    /// The store does not keep what it promises to others.
    #[error("store {store_id} takes no replicas, since it runs with --durability=os")]
    TakesNoReplicas {
        /// The store.
        store_id: u64,
    },
    /// The store has left for good.
    #[error(
        "store {store_id} has left the cluster and cannot come back; it may start as a new store with an empty data directory"
    )]
    HasLeft {
        /// The store.
        store_id: u64,
    },
    /// Too few stores can take the replicas of the store that should leave.
    #[error(
        "region {region_id} is to keep {needed} replicas, and without store {store_id} {usable} stores can hold one, are up and \
         do not leave. Add a store first; or, if fewer replicas are enough, start rdb-pd with a lower --replicas and ask again"
    )]
    TooFewStores {
        /// The store.
        store_id: u64,
        /// A region on it, or on another one that leaves.
        region_id: u64,
        /// How many voters it should keep.
        needed: usize,
        /// How many other stores could have one.
        usable: usize,
    },
    /// A store was not heard of since this process has started or woken up. It may be up.
    #[error(
        "the placement driver has started, or was asleep, and has not heard of store {store_id} yet; ask again in {} s",
        DISCONNECTED_AFTER.as_secs()
    )]
    Unheard {
        /// The store.
        store_id: u64,
    },
}

/// What happens to a region with `voters` voters once nobody asks for more.
fn prospect(voters: usize, kept: usize) -> String {
    if voters > kept {
        format!("If nobody asks, one goes by itself: the region has {voters}, and {kept} are kept.")
    } else {
        format!(
            "Another one comes then, if there is a store for it: the region has {voters}, and {kept} are kept."
        )
    }
}

/// Which there are, in words.
pub(super) fn listed<'ids>(what: &str, ids: impl Iterator<Item = &'ids u64>) -> String {
    let ids: Vec<_> = ids.map(u64::to_string).collect();
    let shown = ids.iter().take(LISTED_MAX);
    let shown: Vec<_> = shown.map(String::as_str).collect();
    match (shown.join(", "), ids.len().saturating_sub(LISTED_MAX)) {
        (shown, _) if shown.is_empty() => format!("there are no {what}"),
        (shown, 0) => format!("there are {what} {shown}"),
        (shown, more) => format!("there are {what} {shown} and {more} more"),
    }
}
