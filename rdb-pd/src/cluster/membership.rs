//! Steps for reporting leaders, ids for the peers that they add, and replicas that are no longer members.
//!
//! - A step is for the members that the leader has reported, if those are stored. A leader of an earlier term gets none.
//! - The id of a new peer is durable before it is answered. For the same members and the same store it stays the same. So
//!   two leaders that take the same step add the same peer, and no id ever stands for peers on two stores.
//! - Peers that may be about to be added are known, also after a restart, until the members have changed. A store's data
//!   for such a peer is not taken for a removed replica.
//! - No replica is taken for removed before the leader of its region has reported to this process, whose data directory may
//!   be an older copy. A store that is not in the directory may have registered since, and counts as silent at first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdb_proto::metapb::{Peer, RegionEpoch};
use rdb_proto::pdpb::{HeldPeer, RegionStep, region_step};

use super::reports::{Leadership, Report};
use super::state::{Change, KnownRegion, KnownStore, State};
use super::steps::{Absent, Asked, Case, LEARNING_REGIONS_MAX, Next, Place, Step};
use super::stores::is_recent;
use super::{DISCONNECTED_AFTER, HEARTBEAT_INTERVAL, PEERS_MAX};
use crate::keys::NewPeers;

/// How long it is remembered who was asked to lead. While a leader has to go, one is asked with each heartbeat.
const ASKED_FOR: Duration = DISCONNECTED_AFTER;

/// A region that a store has reported to lead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Led {
    region_id: u64,
    leadership: Leadership,
    epoch: RegionEpoch,
}

impl From<&Report> for Led {
    fn from(report: &Report) -> Self {
        Self {
            region_id: report.region_id,
            leadership: Leadership {
                peer_id: report.peer_id,
                term: report.term,
            },
            epoch: report.epoch,
        }
    }
}

/// A peer that a region will get, and that has no id yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nameless {
    led: Led,
    store_id: u64,
}

/// What the steps of all regions depend on.
pub(super) struct Surroundings {
    pub(super) now: Instant,
    pub(super) places: BTreeMap<u64, Place>,
    /// The regions with learners that catch up, or that are about to get some. A region without a reporting leader does not
    /// count: its learners get nothing.
    learning: BTreeSet<u64>,
}

impl State {
    /// Ids for these peers, as changes that have to be made durable.
    pub(super) fn decide_new_peers(&self, nameless: &[Nameless]) -> Vec<Change> {
        let mut counters = self.counters;
        let mut changes = Vec::new();
        for &Nameless { led, store_id } in nameless {
            let known = self.as_led(&led);
            let Some(known) = known.filter(|known| known.new_peer_on(store_id).is_none()) else {
                continue;
            };
            counters.peer_id += 1;
            let mut peers = known.new_peers.clone();
            peers.push(Peer {
                id: counters.peer_id,
                store_id,
                learner: true,
            });
            peers.drain(..peers.len().saturating_sub(PEERS_MAX));
            changes.push(Change::NewPeers(NewPeers {
                region_id: known.region.id,
                conf_version: known.conf_version(),
                peers,
            }));
        }
        if !changes.is_empty() {
            changes.push(Change::Counters(counters));
        }
        changes
    }

    /// The next step of each of these regions, and the new peers whose steps wait for an id. Operators that are done, or whose time
    /// is over, end.
    ///
    /// Send everything that is returned to the leader: a peer that is asked to lead has a little time from now on.
    pub(super) fn take_steps(
        &mut self,
        led: &[Led],
        now: Instant,
    ) -> (Vec<RegionStep>, Vec<Nameless>) {
        self.end_overdue_operators(now);
        let (mut steps, mut nameless) = (Vec::new(), Vec::new());
        for (led, next) in self.next_steps(led, now) {
            match next {
                Next::Done => self.operators.end_done(led.region_id, now),
                Next::Waits(_) => {}
                Next::Step(step) => {
                    let known = self.region_mut(led.region_id);
                    match (known.and_then(|known| known.take_step(step, now)), step) {
                        (Some(taken), _) => steps.push(taken),
                        (None, Step::AddLearner(store_id)) => {
                            nameless.push(Nameless { led, store_id });
                        }
                        (None, _) => {}
                    }
                }
            }
        }
        (steps, nameless)
    }

    /// The steps that add these peers, now that they have ids. A region with another leader or other members by now gets none, nor
    /// does a store that is leaving by now, or has left.
    pub(super) fn take_named(&mut self, named: &[Nameless], now: Instant) -> Vec<RegionStep> {
        let steps = named.iter().filter_map(|&Nameless { led, store_id }| {
            self.as_led(&led)?;
            let store = self.stores.get(&store_id)?;
            if store.record.is_leaving || store.record.has_left {
                return None;
            }
            let known = self.region_mut(led.region_id)?;
            known.take_step(Step::AddLearner(store_id), now)
        });
        steps.collect()
    }

    /// The replicas that a store holds and does not lead, and that are no longer members.
    pub(super) fn removed_of(&self, store_id: u64, holds: &[HeldPeer]) -> Vec<HeldPeer> {
        let is_removed = |held: &&HeldPeer| {
            let known = self.region_by_id(held.region_id);
            known.is_some_and(|known| known.has_removed(store_id, held))
        };
        holds.iter().filter(is_removed).copied().collect()
    }

    pub(super) fn surroundings(&self, now: Instant) -> Surroundings {
        let place_of = |store: &KnownStore| Place {
            liveness: self.liveness(store, now),
            is_leaving: store.record.is_leaving,
            may_take_replicas: store.may_take_replicas(),
            takes_replicas: store.takes_replicas(),
            peer_count: 0,
            available_bytes: store.stats.map(|stats| stats.available_bytes),
        };
        let places = self.confirmed();
        let places = places.map(|store| (store.record.id, place_of(store)));
        let mut places: BTreeMap<_, _> = places.collect();
        let mut learning = BTreeSet::new();
        for known in self.regions.values() {
            for peer in known.region.peers.iter().chain(&known.new_peers) {
                if !self.stores.contains_key(&peer.store_id) {
                    let unknown = || place_of(&KnownStore::default());
                    places.entry(peer.store_id).or_insert_with(unknown);
                }
                if let Some(place) = places.get_mut(&peer.store_id) {
                    place.peer_count += 1;
                }
            }
            if known.is_learning(now) && !self.is_silent(known.reported_at, now) {
                learning.insert(known.region.id);
            }
        }
        Surroundings {
            now,
            places,
            learning,
        }
    }

    /// The next step of a region, by its stored members. `None`: its leader has not reported.
    pub(super) fn next_step(
        &self,
        known: &KnownRegion,
        surroundings: &Surroundings,
    ) -> Option<Next> {
        known.leadership?;
        Some(self.case(known, surroundings).next_step())
    }

    /// A region as it is known. If its leader has not reported, it has none.
    pub(super) fn case<'a>(
        &self,
        known: &'a KnownRegion,
        surroundings: &'a Surroundings,
    ) -> Case<'a> {
        let region_id = known.region.id;
        let Surroundings {
            now,
            places,
            learning,
        } = surroundings;
        Case {
            peers: &known.region.peers,
            leader: known.leadership.map_or(0, |leadership| leadership.peer_id),
            places,
            replicas: self.settings.replicas,
            wish: self.operators.wish(region_id),
            live: known.live.as_deref(),
            absent: self.absent(known, *now),
            asked: known.asked(*now),
            avoided: self.operators.avoided(region_id),
            given_up: known.lagging.given_up(*now).collect(),
            bytes_needed: self.bytes_needed(known),
            new_peers: &known.new_peers,
            may_learn: learning.contains(&region_id) || learning.len() < LEARNING_REGIONS_MAX,
        }
    }

    /// The voters of a region that do not live although their stores are up, by the leader's last report. A lost voter stays lost while
    /// its store is silent again.
    pub(super) fn absent(&self, known: &KnownRegion, now: Instant) -> Vec<Absent> {
        let Some(reported_at) = known.reported_at.filter(|&at| is_recent(at, now)) else {
            return Vec::new();
        };
        let peers = &known.region.peers;
        let since = self.listening.since(now);
        let mut absent = known.lagging.absent(peers, (since, reported_at));
        if !absent.is_empty() {
            let up = self.peers_on_stores_up(peers, now);
            // A leader that hears of no majority does not name itself.
            let leader = known.leadership.map(|leadership| leadership.peer_id);
            let is_live = |id: &u64| {
                let is_heard_of = known.live.as_ref().is_none_or(|live| live.contains(id));
                (is_heard_of || leader == Some(*id)) && up.contains(id)
            };
            absent.retain(|Absent { peer_id, is_lost }| {
                !is_live(peer_id) && (*is_lost || up.contains(peer_id))
            });
        }
        absent
    }

    /// What a new peer of a region may take, with what is rewritten meanwhile.
    pub(super) fn bytes_needed(&self, known: &KnownRegion) -> u64 {
        let bytes = self.bytes_of(known);
        bytes.saturating_add(bytes / 4)
    }

    /// What a region holds, as far as a leader has said; else at most what its leader's store does.
    fn bytes_of(&self, known: &KnownRegion) -> u64 {
        if let Some(bytes) = known.bytes {
            return bytes;
        }
        let leads_on = known.leader().map(|(peer, _)| peer.store_id);
        leads_on.map_or(0, |store_id| self.data_bytes(store_id))
    }

    fn next_steps(&self, led: &[Led], now: Instant) -> Vec<(Led, Next)> {
        if led.is_empty() {
            return Vec::new();
        }
        let mut surroundings = self.surroundings(now);
        let mut steps = Vec::new();
        for &one in led {
            let Some(known) = self.as_led(&one) else {
                continue;
            };
            let Some(next) = self.next_step(known, &surroundings) else {
                continue;
            };
            if let Next::Step(Step::AddLearner(store_id)) = next {
                surroundings.learning.insert(known.region.id);
                if known.new_peer_on(store_id).is_none()
                    && let Some(place) = surroundings.places.get_mut(&store_id)
                {
                    place.peer_count += 1;
                }
            }
            steps.push((one, next));
        }
        steps
    }

    /// The region, if what its leader has reported is what is known.
    fn as_led(&self, led: &Led) -> Option<&KnownRegion> {
        let known = self.region_by_id(led.region_id)?;
        let is_known = known.leadership == Some(led.leadership)
            && known.region.epoch_or_default() == led.epoch;
        is_known.then_some(known)
    }
}

impl KnownRegion {
    /// The step in the form for its leader. `None`: it needs a new peer, which has no id yet.
    fn take_step(&mut self, step: Step, now: Instant) -> Option<RegionStep> {
        let step = match step {
            Step::AddLearner(store_id) => {
                // It has its place to learn from now on.
                self.adding_at = Some(now);
                region_step::Step::AddLearner(*self.new_peer_on(store_id)?)
            }
            Step::Promote(peer_id) => region_step::Step::Promote(peer_id),
            Step::Remove(peer_id) => region_step::Step::Remove(peer_id),
            Step::TransferLeader(peer_id) => {
                self.successor = Some((peer_id, now));
                region_step::Step::TransferLeader(peer_id)
            }
        };
        Some(RegionStep {
            region_id: self.region.id,
            conf_version: self.conf_version(),
            step: Some(step),
        })
    }

    fn asked(&self, now: Instant) -> Option<Asked> {
        let (peer_id, at) = self.successor?;
        let passed = now.saturating_duration_since(at);
        (passed < ASKED_FOR).then_some(Asked {
            peer_id,
            is_recent: passed < HEARTBEAT_INTERVAL,
        })
    }

    fn new_peer_on(&self, store_id: u64) -> Option<&Peer> {
        let mut peers = self.new_peers.iter();
        peers.find(|peer| peer.store_id == store_id)
    }

    /// Whether it has learners that have not caught up, or its leader was told to add one so lately that it may not have reported it.
    fn is_learning(&self, now: Instant) -> bool {
        let is_recent = |at| now.saturating_duration_since(at) < DISCONNECTED_AFTER;
        let live = self.live.as_ref();
        let is_behind = |peer: &Peer| live.is_none_or(|live| !live.contains(&peer.id));
        let mut peers = self.region.peers.iter();
        self.adding_at.is_some_and(is_recent) || peers.any(|peer| peer.learner && is_behind(peer))
    }

    /// Whether a replica is no longer a member. The members come from a leader that has applied more than the replica, so the
    /// replica was not added since. A replica that waits for its data gives up by itself. A replica whose data is from before
    /// its peer was added (peer id 0) is of use only to members and to peers that are about to be added.
    fn has_removed(&self, store_id: u64, held: &HeldPeer) -> bool {
        let mut expected = self.region.peers.iter().chain(&self.new_peers);
        let (is_expected, since) = if held.peer_id == 0 {
            let is_expected = expected.any(|peer| peer.store_id == store_id);
            (is_expected, held.conf_version)
        } else {
            let is_expected = expected.any(|peer| peer.id == held.peer_id);
            (is_expected, held.conf_version.saturating_add(1))
        };
        let is_known = self.leadership.is_some() && held.conf_version != 0;
        is_known && !is_expected && self.conf_version() >= since
    }
}

#[cfg(test)]
mod tests;
