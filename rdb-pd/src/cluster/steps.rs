//! The next step of a region, as a pure function of what is known. At most one step comes out.
//!
//! The rules, in this order:
//!
//! 1. Nothing is decided while a store of the region is [`Unheard`](Liveness::Unheard), or while the leader hears of no majority and
//!    so can change nothing.
//! 2. An operator's request goes first. The rest waits for it.
//! 3. Learners that nothing needs are removed, and so are learners on stores that have to go. Learners are kept if they will
//!    be needed once silent stores are back, or once stores whose learners were given up are tried again.
//! 4. Too few voters, or a voter on a store that has to go: learners are added on the best stores, as many as are needed,
//!    or none if there are too few stores for all of them. Then they are promoted, the last one first.
//! 5. Too many voters, or an even number that is above the number to grow to and includes a voter on such a store: a voter on
//!    a store that is down goes, else one on a leaving store, else one that does not live, else the one with the lowest id.
//!    The leader stays, or hands over first.
//!
//! There are two target numbers of voters. Each is the setting, or the largest odd number of stores below it: an even number
//! of voters survives no more losses than the odd one below it, and needs one voter more. A region *grows* to what it can
//! have now: on its own stores that are not down, and on others that are up. It *shrinks* to what its own stores and all
//! others could hold, so that no replica is given up because stores fail or leave. The number to grow to is never larger than
//! the number to shrink to, so no step undoes another.
//!
//! A voter *lives* if its store is up, and its leader has heard of it lately and knows that it has caught up. A voter is removed
//! only if most of the remaining ones live, and becomes the next leader only if it lives itself. A voter that has not lived for a
//! long time although its store is up is *dead*, as if its store were down, even if the store is silent in between. But only the
//! leader says so: if most voters do not live, the leader may be the one that is cut off, and no voter counts as dead.
//!
//! A step changes one member. It is sent to the leader of one `conf_version`, and done at most once.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use rdb_proto::metapb::Peer;

use super::PEERS_MAX;

/// Most regions that have learners at a time that have not caught up.
pub(super) const LEARNING_REGIONS_MAX: usize = 8;

/// What the leader of a region should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Add a learner on the store with this id.
    AddLearner(u64),
    /// Give the learner with this id a vote.
    Promote(u64),
    /// Remove the peer with this id.
    Remove(u64),
    /// Hand over to the peer with this id.
    TransferLeader(u64),
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The members are as they should be. With a [`Wish`]: as it asks.
    Done,
    Step(Step),
    Waits(Obstacle),
}

impl fmt::Display for Next {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => write!(formatter, "is done"),
            Self::Step(Step::AddLearner(store_id)) => {
                write!(formatter, "the leader adds a learner on store {store_id}")
            }
            Self::Step(Step::Promote(peer_id)) => {
                write!(
                    formatter,
                    "peer {peer_id} gets its vote once it has caught up"
                )
            }
            Self::Step(Step::Remove(peer_id)) => {
                write!(formatter, "the leader removes peer {peer_id}")
            }
            Self::Step(Step::TransferLeader(peer_id)) => {
                write!(formatter, "the leader hands over to peer {peer_id}")
            }
            Self::Waits(obstacle) => write!(formatter, "waits: {obstacle}"),
        }
    }
}

/// Why there is no step though the members are not as they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Obstacle {
    #[error("the placement driver has started, or was asleep, and has not heard of store {0} yet")]
    Unheard(u64),
    #[error("the leader does not hear of a majority of the voters")]
    LeaderCutOff,
    #[error("store {0} is silent")]
    Silent(u64),
    #[error("store {0} can take no replica")]
    Unusable(u64),
    #[error("store {0} has too little free space for the region")]
    NoRoom(u64),
    #[error("too few stores can take a replica")]
    NoPlace,
    #[error("{LEARNING_REGIONS_MAX} other regions have learners")]
    OthersLearn,
    #[error("the region has {PEERS_MAX} peers")]
    Full,
    #[error("the leader is on store {0}, which takes no replicas (--durability=os)")]
    Alone(u64),
    #[error(
        "a majority of the other voters is not there: on stores that are up, heard of by the leader, and caught up"
    )]
    NoMajority,
    #[error(
        "peer {peer_id} does not live though store {store_id} is up: the leader does not hear of it, or it does not catch up"
    )]
    Absent { peer_id: u64, store_id: u64 },
    #[error("no other voter can lead: none is heard of by the leader and has caught up")]
    NoSuccessor,
    #[error("peer {0} was asked to lead a moment ago")]
    WasAsked(u64),
}

/// How many voters a region should have on `stores` stores: the setting, or the largest odd number of stores below it.
pub(super) fn voters_on(stores: usize, replicas: usize) -> usize {
    if stores >= replicas {
        replicas
    } else {
        stores.saturating_sub(1) | 1
    }
}

/// What an operator asks for. A store with a voter of the region, and one without a peer of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) add: Option<u64>,
    pub(super) remove: Option<u64>,
}

/// What is known of the process of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Liveness {
    /// It was heard of lately.
    Up,
    /// It was not, and this process has not listened for long enough to tell what that means.
    Unheard,
    /// It is disconnected.
    Silent,
    /// It is down.
    Down,
}

/// A store, as a place for replicas.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) liveness: Liveness,
    pub(super) is_leaving: bool,
    /// Whether it holds regions that others hold, too, as far as is known.
    pub(super) may_take_replicas: bool,
    /// Whether it has said so.
    pub(super) takes_replicas: bool,
    /// How many peers of all regions it has.
    pub(super) peer_count: usize,
    /// `None`: it has not said.
    pub(super) available_bytes: Option<u64>,
}

impl Place {
    /// Whether regions should do without it.
    fn is_lost(&self) -> bool {
        self.is_leaving || self.liveness == Liveness::Down
    }

    fn is_usable(&self) -> bool {
        self.liveness == Liveness::Up && !self.is_leaving && self.takes_replicas
    }

    /// Whether it has free space for `bytes`, as far as is known.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.available_bytes
            .is_none_or(|available| available >= bytes)
    }
}

/// A voter that was asked to lead, and did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) peer_id: u64,
    /// Whether that was so lately that it may lead yet.
    pub(super) is_recent: bool,
}

/// A voter that has not lived for a while though its store is up, or is lost, and its store may be silent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Absent {
    pub(super) peer_id: u64,
    /// Whether it was away for so long that it should be replaced.
    pub(super) is_lost: bool,
}

/// A region, and all that its next step depends on.
pub(super) struct Case<'a> {
    /// As the leader has applied them.
    pub(super) peers: &'a [Peer],
    /// The peer that leads.
    pub(super) leader: u64,
    /// The stores of the cluster by their ids.
    pub(super) places: &'a BTreeMap<u64, Place>,
    /// How many voters the region should have.
    pub(super) replicas: usize,
    pub(super) wish: Option<Wish>,
    /// The peers that live, as far as the leader knows, itself among them if it hears of a majority. `None`: it does not tell.
    pub(super) live: Option<&'a [u64]>,
    pub(super) absent: Vec<Absent>,
    /// The peer that was last asked to lead.
    pub(super) asked: Option<Asked>,
    /// The store that an operator has taken a replica from. It comes last.
    pub(super) avoided: Option<u64>,
    /// Stores whose learners were given up. Their learners go, and they get no others.
    pub(super) given_up: Vec<u64>,
    /// The free space that a new peer needs.
    pub(super) bytes_needed: u64,
    /// The peers that were answered as new ones for these members. Their stores come first.
    pub(super) new_peers: &'a [Peer],
    /// Whether it may get a learner.
    pub(super) may_learn: bool,
}

impl Case<'_> {
    pub(super) fn next_step(&self) -> Next {
        let is_unheard = |store_id: &u64| {
            self.place(*store_id)
                .is_some_and(|p| p.liveness == Liveness::Unheard)
        };
        let stores = self.peers.iter().map(|peer| peer.store_id);
        if let Some(store_id) = stores.filter(is_unheard).min() {
            return Next::Waits(Obstacle::Unheard(store_id));
        }
        if self.live.is_some_and(|live| !live.contains(&self.leader)) {
            return Next::Waits(Obstacle::LeaderCutOff);
        }
        match self.wish {
            Some(wish) => self.fulfil(wish),
            None => self.tend(),
        }
    }

    /// How many voters the region should have: as many as it can have on the stores that are there, and no fewer than
    /// it has now, up to the setting.
    pub(super) fn goal(&self) -> usize {
        let count = self.voters().count().min(self.replicas);
        count.max(self.voters_reachable())
    }

    fn fulfil(&self, wish: Wish) -> Next {
        if let Some(store_id) = wish.add {
            match self.peer_on(store_id) {
                None => return self.add_learner_on(store_id),
                Some(peer) if peer.learner => return self.promote(peer),
                Some(_) => {}
            }
        }
        match wish.remove.and_then(|store_id| self.peer_on(store_id)) {
            Some(peer) => self.take_away(peer),
            None => Next::Done,
        }
    }

    /// What comes next if the leader hears of a majority and nobody asks for anything.
    pub(super) fn tend(&self) -> Next {
        if let Some(in_doubt) = self.voters().find(|peer| self.is_in_doubt(peer)) {
            return Next::Waits(if self.is_up(in_doubt) {
                absent(in_doubt)
            } else {
                Obstacle::Silent(in_doubt.store_id)
            });
        }
        let needed = self.learners_needed();
        let (needless, kept) = self.learners(needed.max(self.learners_needed_later()));
        if let Some(peer) = needless {
            return Next::Step(Step::Remove(peer.id));
        }
        if needed == 0 {
            return match self.shrink() {
                Next::Done if kept.is_empty() => self.watch(),
                Next::Done => Next::Waits(self.unheard().next().map_or(Obstacle::NoPlace, absent)),
                next => next,
            };
        }
        let wanted = &kept[..needed.min(kept.len())];
        let missing = needed - wanted.len();
        let mut obstacle = Obstacle::NoPlace;
        if missing > 0 {
            match self.add_learners(missing) {
                Next::Waits(waits) => obstacle = waits,
                added => return added,
            }
        }
        self.promote_one_of(wanted, needed, obstacle)
    }

    /// There is nothing to do, but an absent voter is worth reporting.
    fn watch(&self) -> Next {
        let is_absent = |peer: &&Peer| {
            let mut absent = self.absent.iter();
            absent.any(|absent| absent.peer_id == peer.id)
        };
        let absent_voter = self.voters().find(is_absent);
        absent_voter.map_or(Next::Done, |peer| Next::Waits(absent(peer)))
    }

    /// Voters that do not live at the moment though their stores are up.
    fn unheard(&self) -> impl Iterator<Item = &Peer> {
        self.voters()
            .filter(|peer| self.is_up(peer) && !self.is_live(peer))
    }

    /// How many learners the region needs: one for each voter that it lacks, or one to replace a voter.
    fn learners_needed(&self) -> usize {
        let count = self.voters().count();
        let grown = self.voters_reachable();
        if count < grown {
            return grown - count;
        }
        usize::from(self.has_lost_voter() && !self.has_surplus())
    }

    /// How many it will need once silent stores are back and stores that are left alone are tried again, plus one for each voter
    /// that may turn out to be dead.
    fn learners_needed_later(&self) -> usize {
        let has_room = |store_id, place: &Place| {
            self.peer_on(store_id).is_some() || place.has_room(self.bytes_needed)
        };
        let grown = self.voters_if(has_room);
        grown.saturating_sub(self.voters().count()) + self.unheard().count()
    }

    /// Whether one of the voters should go: there are too many, or there is an even number with a lost one, and the others
    /// survive as many losses without it. A silent store may be the place for a replica of a leaving store.
    fn has_surplus(&self) -> bool {
        let count = self.voters().count();
        let has_one_down = self.voters().any(|peer| self.is_down(peer));
        let is_better_without_one = (has_one_down && count > self.voters_reachable())
            || (self.has_lost_voter() && count > self.voters_once_silent_are_back());
        count > self.voters_kept() || (count.is_multiple_of(2) && is_better_without_one)
    }

    fn has_lost_voter(&self) -> bool {
        self.voters().any(|peer| self.is_lost(peer))
    }

    /// A learner to remove, if there is one, and those to keep: at most `kept_max`, those on live stores first.
    fn learners(&self, kept_max: usize) -> (Option<&Peer>, Vec<&Peer>) {
        let learners = self.peers.iter().filter(|peer| peer.learner);
        let mut learners: Vec<_> = learners.collect();
        learners.sort_by_key(|peer| (!self.may_stay(peer), !self.is_up(peer), peer.id));
        let kept = learners.iter().take(kept_max);
        let kept = kept.take_while(|peer| self.may_stay(peer)).count();
        (learners.get(kept).copied(), learners[..kept].to_vec())
    }

    /// A learner on the best store, unless there are too few stores for all that are missing.
    fn add_learners(&self, missing: usize) -> Next {
        let usable = self
            .places
            .iter()
            .filter(|&(&store_id, place)| place.is_usable() && self.is_open(store_id, place));
        if usable.clone().count() < missing {
            return Next::Waits(Obstacle::NoPlace);
        }
        let best = usable.min_by_key(|&(&store_id, place)| {
            (
                self.new_peers.iter().all(|peer| peer.store_id != store_id),
                self.avoided == Some(store_id),
                place.peer_count,
                Reverse(place.available_bytes),
                store_id,
            )
        });
        match best {
            Some((&store_id, _)) => self.add_learner_on(store_id),
            None => Next::Waits(Obstacle::NoPlace),
        }
    }

    fn add_learner_on(&self, store_id: u64) -> Next {
        let place = self.place(store_id);
        let Some(place) = place.filter(|place| place.is_usable()) else {
            return Next::Waits(Obstacle::Unusable(store_id));
        };
        if !place.has_room(self.bytes_needed) {
            return Next::Waits(Obstacle::NoRoom(store_id));
        }
        let leader = self.peers.iter().find(|peer| peer.id == self.leader);
        let leader_place =
            leader.and_then(|peer| Some((peer.store_id, self.place(peer.store_id)?)));
        if let Some((store_id, place)) = leader_place
            && !place.may_take_replicas
        {
            return Next::Waits(Obstacle::Alone(store_id));
        }
        if self.peers.len() >= PEERS_MAX {
            return Next::Waits(Obstacle::Full);
        }
        if !self.may_learn {
            return Next::Waits(Obstacle::OthersLearn);
        }
        Next::Step(Step::AddLearner(store_id))
    }

    /// Promotes the last of the learners, since the others have most likely caught up when it has. The number of voters does
    /// not become even unless it can become odd again at once.
    fn promote_one_of(&self, wanted: &[&Peer], needed: usize, obstacle: Obstacle) -> Next {
        let live = wanted.iter().filter(|peer| self.is_up(peer));
        let all_are_live = live.clone().count() == needed;
        let becomes_odd = self.voters().count().is_multiple_of(2);
        match live.max_by_key(|peer| peer.id) {
            Some(last) if all_are_live || becomes_odd => self.promote(last),
            _ => {
                let silent = wanted.iter().find(|peer| !self.is_up(peer));
                let silent = silent.map(|peer| Obstacle::Silent(peer.store_id));
                Next::Waits(silent.unwrap_or(obstacle))
            }
        }
    }

    fn promote(&self, learner: &Peer) -> Next {
        if self.is_up(learner) {
            Next::Step(Step::Promote(learner.id))
        } else {
            Next::Waits(Obstacle::Silent(learner.store_id))
        }
    }

    fn shrink(&self) -> Next {
        if !self.has_surplus() {
            return Next::Done;
        }
        let first = self.voters().min_by_key(|peer| {
            let is_leader = peer.id == self.leader;
            let is_lost = self.is_lost(peer);
            let rank = (!self.is_down(peer), !is_lost, self.is_live(peer));
            // A leader that is not lost goes last of all. A lost leader goes last among equals.
            (!is_lost && is_leader, rank, is_leader, peer.id)
        });
        first.map_or(Next::Done, |peer| self.take_away(peer))
    }

    /// Removes a peer, unless that puts the region at risk. A leader hands over before.
    fn take_away(&self, peer: &Peer) -> Next {
        if peer.learner {
            return Next::Step(Step::Remove(peer.id));
        }
        let others = self.voters().filter(|other| other.id != peer.id);
        let live = others.clone().filter(|other| self.is_live(other));
        if live.clone().count() * 2 <= others.count() {
            return Next::Waits(Obstacle::NoMajority);
        }
        if peer.id != self.leader {
            return Next::Step(Step::Remove(peer.id));
        }
        self.hand_over_to_one_of(live)
    }

    /// Asks live peers to take the lead, one after the other, those on stores that stay first. Each has a little time.
    fn hand_over_to_one_of<'peers>(
        &self,
        live: impl Iterator<Item = &'peers Peer> + Clone,
    ) -> Next {
        if let Some(Asked { peer_id, is_recent }) = self.asked
            && is_recent
            && live.clone().any(|peer| peer.id == peer_id)
        {
            return Next::Waits(Obstacle::WasAsked(peer_id));
        }
        let turn = |peer: &Peer| (self.is_lost(peer), peer.id);
        let asked = self.asked.map(|asked| asked.peer_id);
        let asked = self.peers.iter().find(|peer| asked == Some(peer.id));
        let last_turn = asked.map(turn);
        let next = live.min_by_key(|peer| {
            let was_before = last_turn.is_some_and(|last_turn| turn(peer) <= last_turn);
            (was_before, turn(peer))
        });
        match next {
            Some(successor) => Next::Step(Step::TransferLeader(successor.id)),
            None => Next::Waits(Obstacle::NoSuccessor),
        }
    }

    /// How many voters the region can have at the moment.
    fn voters_reachable(&self) -> usize {
        self.voters_if(|store_id, place| {
            place.liveness != Liveness::Silent && self.is_open(store_id, place)
        })
    }

    /// The same once all stores that are silent are back.
    fn voters_once_silent_are_back(&self) -> usize {
        self.voters_if(|store_id, place| self.is_open(store_id, place))
    }

    /// How many voters the region could have on stores with a peer of it that may stay, and on stores that may get one. Stores that
    /// are down or leaving, or whose voter is dead, do not count.
    fn voters_if(&self, may_get_one: impl Fn(u64, &Place) -> bool) -> usize {
        let is_reachable = |&(&store_id, place): &(&u64, &Place)| {
            let is_fit = place.may_take_replicas || self.has_voter_on(store_id);
            let has_peer = || {
                let peer = self.peer_on(store_id);
                peer.is_some_and(|peer| !peer.learner || self.may_stay(peer))
            };
            let has_dead_voter = || {
                self.voters()
                    .any(|p| p.store_id == store_id && self.is_dead(p))
            };
            let is_there = !place.is_lost() && !has_dead_voter();
            is_fit && is_there && (has_peer() || may_get_one(store_id, place))
        };
        self.voters_on(self.places.iter().filter(is_reachable).count())
    }

    /// How many voters the region keeps, whether or not the stores that can hold them answer.
    pub(super) fn voters_kept(&self) -> usize {
        let could_hold = |&(&store_id, place): &(&u64, &Place)| {
            let has_voter = self.has_voter_on(store_id);
            !has_voter && place.may_take_replicas && !place.is_leaving
        };
        let others = self.places.iter().filter(could_hold).count();
        self.voters_on(self.voters().count() + others)
    }

    fn voters_on(&self, stores: usize) -> usize {
        voters_on(stores, self.replicas)
    }

    fn has_voter_on(&self, store_id: u64) -> bool {
        self.voters().any(|peer| peer.store_id == store_id)
    }

    fn voters(&self) -> impl Iterator<Item = &Peer> + Clone {
        self.peers.iter().filter(|peer| !peer.learner)
    }

    fn peer_on(&self, store_id: u64) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.store_id == store_id)
    }

    fn place(&self, store_id: u64) -> Option<&Place> {
        self.places.get(&store_id)
    }

    fn is_up(&self, peer: &Peer) -> bool {
        self.place(peer.store_id)
            .is_some_and(|place| place.liveness == Liveness::Up)
    }

    fn is_live(&self, peer: &Peer) -> bool {
        self.is_up(peer) && self.live.is_none_or(|live| live.contains(&peer.id))
    }

    /// A store that the cluster does not have any more is down for good.
    fn is_down(&self, peer: &Peer) -> bool {
        let place = self.place(peer.store_id);
        place.is_none_or(|place| place.liveness == Liveness::Down) || self.is_dead(peer)
    }

    /// Whether the region should do without a peer. A store that the cluster no longer has counts as lost.
    fn is_lost(&self, peer: &Peer) -> bool {
        let place = self.place(peer.store_id);
        place.is_none_or(Place::is_lost) || self.is_dead(peer)
    }

    /// Whether a voter is as good as on a store that is down, though its store is up, or was.
    fn is_dead(&self, peer: &Peer) -> bool {
        self.is_lost_to_leader(peer) && self.has_majority()
    }

    /// Whether a voter would be dead by this report. In the next one a majority may live again. Nothing is decided until then: a step
    /// might have to be undone, or might hit a voter that was only late this time.
    fn is_in_doubt(&self, peer: &Peer) -> bool {
        let place = self.place(peer.store_id);
        let may_live = place.is_some_and(|place| place.liveness != Liveness::Down);
        may_live && self.is_lost_to_leader(peer) && !self.has_majority()
    }

    fn is_lost_to_leader(&self, peer: &Peer) -> bool {
        let mut lost = self.absent.iter().filter(|absent| absent.is_lost);
        lost.any(|absent| absent.peer_id == peer.id) && !self.is_live(peer)
    }

    fn has_majority(&self) -> bool {
        let live = self.voters().filter(|voter| self.is_live(voter));
        live.count() * 2 > self.voters().count()
    }

    /// Whether a store without a peer of the region may get one, once it can take replicas at all.
    fn is_open(&self, store_id: u64, place: &Place) -> bool {
        self.peer_on(store_id).is_none()
            && !self.given_up.contains(&store_id)
            && place.has_room(self.bytes_needed)
    }

    /// Whether a learner is of use where it is.
    fn may_stay(&self, learner: &Peer) -> bool {
        let is_given_up = self.given_up.contains(&learner.store_id);
        self.place(learner.store_id)
            .is_some_and(|place| !place.is_lost() && place.may_take_replicas && !is_given_up)
    }
}

fn absent(&Peer { id, store_id, .. }: &Peer) -> Obstacle {
    Obstacle::Absent {
        peer_id: id,
        store_id,
    }
}

#[cfg(test)]
mod tests;
