//! The description of a region, as far as this store has applied its log.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use rdb_proto::metapb::Region;
use rdb_raft::StoredMembership;
use rdb_raft::encoding::stored_membership;
use rdb_storage::{Error, PeerDescriptor, RegionDescriptor, Storage};

use super::to_wire;

/// A region as of one entry of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) region: RegionDescriptor,
    /// The roles of its peers.
    pub(crate) members: StoredMembership,
}

impl Described {
    /// The region as it is stored now. `None`: it is not, or is being replaced by a snapshot. Blocks.
    pub(crate) fn read(storage: &Storage, region_id: u64) -> Result<Option<Self>, Error> {
        let Some((region, state)) = storage.described(region_id)? else {
            return Ok(None);
        };
        let members = stored_membership::decode(&state.membership);
        let members = members.map_err(|error| Error::DataLoss {
            cause: format!("region {region_id}: its membership: {error}"),
        })?;
        Ok(Some(Self { region, members }))
    }

    /// The region in its form on the wire, with the roles of its peers. During a change of the voters, the old and the new ones are voters.
    pub(crate) fn to_wire(&self) -> Region {
        let voters: BTreeSet<_> = self.members.membership().voter_ids().collect();
        let mut region = to_wire(self.region.clone());
        for peer in &mut region.peers {
            peer.learner = !voters.contains(&peer.id);
        }
        region
    }
}

/// The peer of a region on a store.
pub(crate) fn peer_on(region: &RegionDescriptor, store_id: u64) -> Option<PeerDescriptor> {
    let mut peers = region.peers.iter();
    peers.find(|peer| peer.store_id == store_id).copied()
}

/// The latest that is known of a region. Nothing is known of one whose peer waits for its first state.
#[derive(Default)]
pub(crate) struct Description(RwLock<Option<Arc<Described>>>);

impl Description {
    pub(crate) fn get(&self) -> Option<Arc<Described>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns whether it is later than what was known. Else that stays.
    pub(crate) fn learn(&self, described: Described) -> bool {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_later = known.as_ref().is_none_or(|known| {
            let (known, learned) = (&known.region, &described.region);
            let versions = (learned.version, learned.conf_version);
            known.version <= versions.0
                && known.conf_version <= versions.1
                && (known.version, known.conf_version) != versions
        });
        if is_later {
            *known = Some(Arc::new(described));
        }
        is_later
    }

    /// Whether other stores hold the region beside this one, which has that peer. They do if it waits for the region.
    pub(crate) fn has_others(&self, peer_id: u64) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().is_none_or(|known| {
            let mut peers = known.region.peers.iter();
            peers.any(|peer| peer.id != peer_id)
        })
    }
}

#[cfg(test)]
mod tests {
    use rdb_raft::{LogId, Membership, StoreNode};

    use super::*;

    fn described(conf_version: u64, voters: &[&[u64]], learners: &[u64]) -> Described {
        let members: BTreeSet<u64> = voters
            .iter()
            .copied()
            .flatten()
            .chain(learners)
            .copied()
            .collect();
        let nodes = members.iter().map(|&id| (id, StoreNode { store_id: id }));
        let configs = voters.iter().map(|voters| voters.iter().copied().collect());
        let nodes: std::collections::BTreeMap<_, _> = nodes.collect();
        let membership = Membership::new(configs.collect(), nodes).expect("all have nodes");
        let log_id = LogId::new_term_index(1, conf_version);
        let peers = members
            .iter()
            .map(|&id| PeerDescriptor { id, store_id: id });
        Described {
            region: RegionDescriptor {
                id: 1,
                start_key: "".into(),
                end_key: "".into(),
                conf_version,
                version: 1,
                peers: peers.collect(),
            },
            members: StoredMembership::new(Some(log_id), membership),
        }
    }

    fn learners(described: &Described) -> Vec<u64> {
        let peers = described.to_wire().peers.into_iter();
        peers
            .filter(|peer| peer.learner)
            .map(|peer| peer.id)
            .collect()
    }

    #[test]
    fn whoever_has_no_vote_is_a_learner() {
        assert_eq!(learners(&described(1, &[&[1, 2]], &[3])), [3]);
        assert!(learners(&described(2, &[&[1, 2], &[1, 2, 3]], &[])).is_empty());
        assert!(learners(&described(2, &[&[1, 2, 3], &[1, 2]], &[])).is_empty());
    }

    #[test]
    fn only_what_is_later_is_learned() {
        let description = Description::default();
        let mut latest = None;
        // What the region says differs each time, to see whose word it is.
        let learned = [
            (2, 2, true),
            (2, 2, false),
            (2, 1, false),
            (1, 2, false),
            (1, 3, false),
            (3, 1, false),
            (2, 3, true),
            (3, 3, true),
            (4, 5, true),
        ];
        for (learner, (version, conf_version, is_later)) in (10..).zip(learned) {
            let mut described = described(conf_version, &[&[1]], &[learner]);
            described.region.version = version;
            assert_eq!(description.learn(described.clone()), is_later, "{learner}");
            if is_later {
                latest = Some(described);
            }
            assert_eq!(description.get().as_deref(), latest.as_ref());
        }
    }

    #[test]
    fn whether_others_hold_a_region_depends_on_its_peers_alone() {
        let description = Description::default();
        assert!(description.has_others(1), "it waits for others");
        description.learn(described(2, &[&[1]], &[]));
        assert!(!description.has_others(1));
        assert!(description.has_others(2), "the only peer is another one");
        description.learn(described(3, &[&[1]], &[2]));
        assert!(description.has_others(1));
    }
}
