//! A region of a small cluster, and the result of its steps.

mod growing;
mod properties;
mod removing;
mod replacing;
mod wishes;

use super::Liveness::{Down, Silent, Unheard, Up};
use super::Step::{AddLearner, Promote, Remove, TransferLeader};
use super::*;

/// A region of a small cluster, with a leader that does what it is told.
#[derive(Debug, Clone)]
struct Model {
    places: BTreeMap<u64, Place>,
    peers: Vec<Peer>,
    leader: u64,
    replicas: usize,
    wish: Option<Wish>,
    /// Peers that the leader does not hear of, or that do not catch up.
    deaf: Vec<u64>,
    /// The ones that were so for a while.
    absent: Vec<Absent>,
    /// Stores whose new peers are deaf.
    bad: Vec<u64>,
    asked: Option<Asked>,
    avoided: Option<u64>,
    given_up: Vec<u64>,
    bytes_needed: u64,
    new_peers: Vec<Peer>,
    may_learn: bool,
}

fn up() -> Place {
    Place {
        liveness: Up,
        is_leaving: false,
        may_take_replicas: true,
        takes_replicas: true,
        peer_count: 0,
        available_bytes: None,
    }
}

fn voter(id: u64) -> Peer {
    Peer {
        id,
        store_id: id,
        learner: false,
    }
}

fn learner(id: u64) -> Peer {
    Peer {
        learner: true,
        ..voter(id)
    }
}

impl Model {
    /// Stores that are up. The peers with the ids of the first ones vote there, and the first leads.
    fn of(stores: u64, voters: u64) -> Self {
        Self {
            places: (1..=stores).map(|id| (id, up())).collect(),
            peers: (1..=voters).map(voter).collect(),
            leader: 1,
            replicas: 3,
            wish: None,
            deaf: Vec::new(),
            absent: Vec::new(),
            bad: Vec::new(),
            asked: None,
            avoided: None,
            given_up: Vec::new(),
            bytes_needed: 0,
            new_peers: Vec::new(),
            may_learn: true,
        }
    }

    fn place(&mut self, store_id: u64) -> &mut Place {
        self.places.get_mut(&store_id).unwrap()
    }

    fn set(mut self, store_id: u64, liveness: Liveness) -> Self {
        self.place(store_id).liveness = liveness;
        self
    }

    fn leaves(mut self, store_id: u64) -> Self {
        self.place(store_id).is_leaving = true;
        self
    }

    /// A voter does not live, for a while or for long.
    fn lacks(mut self, peer_id: u64, is_lost: bool) -> Self {
        self.deaf.push(peer_id);
        self.absent.push(Absent { peer_id, is_lost });
        self
    }

    fn with(mut self, peer: Peer) -> Self {
        self.peers.push(peer);
        self
    }

    fn next(&self) -> Next {
        let peers = self.peers.iter().map(|peer| peer.id);
        let live: Vec<_> = peers.filter(|id| !self.deaf.contains(id)).collect();
        let case = Case {
            peers: &self.peers,
            leader: self.leader,
            places: &self.places,
            replicas: self.replicas,
            wish: self.wish,
            live: Some(&live),
            absent: self.absent.clone(),
            asked: self.asked,
            avoided: self.avoided,
            given_up: self.given_up.clone(),
            bytes_needed: self.bytes_needed,
            new_peers: &self.new_peers,
            may_learn: self.may_learn,
        };
        case.next_step()
    }

    /// The leader does it. A learner that does not catch up is not promoted, but given up, which ends an
    /// operator that wants it.
    fn apply(&mut self, step: Step) {
        let next_id = self.peers.iter().map(|peer| peer.id).max().unwrap() + 1;
        let next_id = next_id.max(100);
        match step {
            AddLearner(store_id) => {
                self.peers.push(Peer {
                    id: next_id,
                    store_id,
                    learner: true,
                });
                if self.bad.contains(&store_id) {
                    self.deaf.push(next_id);
                }
            }
            Promote(id) => {
                let mut peers = self.peers.iter_mut();
                let learner = peers.find(|peer| peer.id == id).unwrap();
                if self.deaf.contains(&id) {
                    let store_id = learner.store_id;
                    self.given_up.push(store_id);
                    self.wish = self.wish.filter(|wish| wish.add != Some(store_id));
                } else {
                    learner.learner = false;
                }
            }
            Remove(id) => {
                self.peers.retain(|peer| peer.id != id);
                self.deaf.retain(|&deaf| deaf != id);
            }
            TransferLeader(id) => self.leader = id,
        }
    }

    /// Takes steps until there is none, and returns them, with why there is none.
    fn run(&mut self) -> (Vec<Step>, Next) {
        let mut steps = Vec::new();
        loop {
            match self.next() {
                Next::Step(step) if steps.len() < 100 => {
                    self.apply(step);
                    steps.push(step);
                }
                other => return (steps, other),
            }
        }
    }

    fn steps(&mut self) -> Vec<Step> {
        self.run().0
    }

    fn waits(&self) -> Obstacle {
        match self.next() {
            Next::Waits(obstacle) => obstacle,
            other => panic!("{other:?}"),
        }
    }

    fn voters(&self) -> Vec<u64> {
        let voters = self.peers.iter().filter(|peer| !peer.learner);
        let mut stores: Vec<_> = voters.map(|peer| peer.store_id).collect();
        stores.sort_unstable();
        stores
    }

    fn lives(&self, peer: &Peer) -> bool {
        let place = self.places.get(&peer.store_id);
        let is_up = place.is_some_and(|place| place.liveness == Up);
        is_up && !self.deaf.contains(&peer.id)
    }

    /// Whether most voters live.
    fn has_majority(&self) -> bool {
        let voters = self.peers.iter().filter(|peer| !peer.learner);
        let live = voters.clone().filter(|voter| self.lives(voter));
        live.count() * 2 > voters.count()
    }

    /// The setting, or the largest odd number of stores below it.
    fn goal(&self, stores: usize) -> usize {
        if stores >= self.replicas {
            self.replicas
        } else {
            stores.saturating_sub(1) | 1
        }
    }
}
