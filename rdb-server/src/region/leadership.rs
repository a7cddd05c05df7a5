//! Who leads a region, as this store knows it.

use std::fmt::Display;
use std::sync::Arc;

use rdb_proto::error::Fault;
use rdb_proto::errorpb::{Fate, NotLeader, RegionLeader, region_error::Kind};
use rdb_proto::metapb::{Region, Store};
use rdb_proto::pdpb::RegionReport;
use rdb_raft::group::{Group, GroupState, Leader, ReadError};
use tonic::Code;

use super::Description;
use crate::addresses::Addresses;
use crate::error::{Rejection, not_ready};

/// The peer of a region on this store, and where the others are.
pub(crate) struct Leadership {
    region_id: u64,
    description: Arc<Description>,
    peer_id: u64,
    group: Group,
    addresses: Arc<Addresses>,
}

impl Leadership {
    pub(crate) fn new(
        region_id: u64,
        description: Arc<Description>,
        peer_id: u64,
        group: Group,
        addresses: Arc<Addresses>,
    ) -> Self {
        Self {
            region_id,
            description,
            peer_id,
            group,
            addresses,
        }
    }

    pub(super) fn group(&self) -> &Group {
        &self.group
    }

    /// Whether it is the peer on this store.
    pub(super) fn is_own(&self, peer_id: u64) -> bool {
        peer_id == self.peer_id
    }

    /// Whether other stores hold the region, too.
    pub(crate) fn has_others(&self) -> bool {
        self.description.has_others(self.peer_id)
    }

    /// Whether another store may be able to lead.
    pub(crate) fn has_other_voters(&self) -> bool {
        let described = self.description.get();
        described.is_some_and(|described| {
            let mut voters = described.members.membership().voter_ids();
            voters.any(|voter| voter != self.peer_id)
        })
    }

    /// The term that this peer leads in, if it does in that state of its group.
    pub(crate) fn term_led(&self, state: Option<&GroupState>) -> Option<u64> {
        let Some(GroupState::Running(leader)) = state else {
            return None;
        };
        (leader.peer_id == Some(self.peer_id)).then_some(leader.term)
    }

    /// The report of the region to the placement driver if this peer leads it, without its size. A leader that no longer hears of a
    /// majority, or whose vote for another one waits for the disk, does not count itself among the peers that live.
    pub(crate) fn report(&self, state: Option<&GroupState>) -> Option<RegionReport> {
        let term = self.term_led(state)?;
        let described = self.description.get()?;
        let Region {
            id, epoch, peers, ..
        } = described.to_wire();
        // It has not applied yet what has made it a member.
        if peers.iter().all(|peer| peer.id != self.peer_id) {
            return None;
        }
        let mut live_peers = self.group.live_peers();
        if !self.group.is_live() {
            live_peers.remove(&self.peer_id);
        }
        let live = peers.iter().enumerate();
        let live = live.filter(|(_, peer)| live_peers.contains(&peer.id));
        let live = live.fold(0, |live, (position, _)| live | 1 << position);
        Some(RegionReport {
            region_id: id,
            peer_id: self.peer_id,
            term,
            epoch,
            peers,
            live: Some(live),
            bytes: None,
        })
    }

    /// Refuses what another store has to be asked for.
    pub(super) fn check(&self) -> Result<(), Rejection> {
        if self.has_others() && self.group.leader().peer_id != Some(self.peer_id) {
            return Err(self.refusal());
        }
        Ok(())
    }

    /// Whether a proposal might wait for a quorum that is gone, or for a vote that waits for the disk.
    pub(super) fn is_stalled(&self) -> bool {
        self.has_others() && !self.group.is_live()
    }

    /// Why something that was not done is refused: for `cause`, or since another store may be able to do it.
    pub(super) fn not_done(&self, cause: impl Display) -> Rejection {
        if self.has_others() {
            return self.refusal();
        }
        let fault = Fault::new(Code::Unavailable, cause.to_string());
        Rejection::Fault(fault.with_fate(Fate::NotApplied))
    }

    /// Why a read is not permitted.
    pub(super) fn not_permitted(&self, error: &ReadError) -> Rejection {
        match error {
            ReadError::NotLeader => self.refusal(),
            ReadError::Ended(ended) if !ended.has_failed => {
                not_ready("the replica on this store has ended").into()
            }
            ReadError::NoQuorum | ReadError::NotApplied | ReadError::Ended(_) => {
                self.not_done(error)
            }
        }
    }

    /// The answer of a peer that does not lead: who does, if that is known. A leader that may not serve at the moment does not
    /// name itself.
    pub(super) fn refusal(&self) -> Rejection {
        let Leader { term, peer_id } = self.group.leader();
        let leader = peer_id.filter(|&leader| leader != self.peer_id);
        let leader = leader.and_then(|leader| self.store_of(leader));
        Rejection::Routing(Kind::NotLeader(NotLeader {
            region_id: self.region_id,
            leader: leader.map(Box::new),
            term,
        }))
    }

    /// Who leads, as far as this store knows: itself, too.
    pub(super) fn leader(&self) -> RegionLeader {
        let Leader { term, peer_id } = self.group.leader();
        RegionLeader {
            leader: peer_id.and_then(|leader| self.store_of(leader)),
            term,
        }
    }

    /// The store of a peer, if this one can say where it is. Its own address it may not know.
    fn store_of(&self, peer_id: u64) -> Option<Store> {
        let described = self.description.get()?;
        let mut peers = described.region.peers.iter();
        let store_id = peers.find(|peer| peer.id == peer_id)?.store_id;
        let address = self.addresses.of(store_id);
        let address = if self.is_own(peer_id) {
            address.unwrap_or_default()
        } else {
            address?
        };
        Some(Store {
            id: store_id,
            address,
            ..Store::default()
        })
    }
}
