//! Who leads each region, as the leaders themselves say.
//!
//! - The report on a region with the highest term counts; among several with that term, the last one. A term has one
//!   leader, so these come from the same peer.
//! - Reports are kept only in memory. After a restart a region of several peers counts as led by nobody until its
//!   leader's heartbeat arrives.
//! - A leader whose store falls silent is still named until another leader reports a higher term.
//! - A report describes the region as its leader has applied it. If only the peers have changed since the region was stored,
//!   they are stored anew. A report of them by a leader of an earlier term does not count.

use std::cmp::Reverse;
use std::time::Instant;

use rdb_proto::metapb::{Peer, Region, RegionEpoch, StoreLoad, StoreStats};
use rdb_proto::pdpb::HeldPeer;

use super::lagging::{self, Bounds, Seen};
use super::state::{Change, KnownRegion, State};
use super::stores::{Start, is_recent};
use crate::keys::AwayVoters;

/// Most regions that one heartbeat changes: their descriptions are one write. The next heartbeat names the others again.
const CHANGED_REGIONS_MAX: usize = 64;

/// What a store says every few seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Heartbeat {
    /// The start that lives.
    pub start: Start,
    /// The store's figures, if it could find them out.
    pub stats: Option<StoreStats>,
    /// The regions that it leads, each once.
    pub reports: Vec<Report>,
    /// How many regions it has replicas of, if it says so: led ones, those that it holds, and others that are not named below.
    pub region_count: Option<u64>,
    /// Replicas that it does not lead.
    pub holds: Vec<HeldPeer>,
    /// Whether it says that it takes no replicas of regions that others hold, too.
    pub takes_no_replicas: bool,
    /// What it has done lately, if it says so. The period that this covers is not 0.
    pub load: Option<StoreLoad>,
}

impl Heartbeat {
    /// Whether the store has replicas, as far as it says.
    pub(super) fn has_replicas(&self) -> bool {
        let is_counted = self.region_count.is_some_and(|count| count > 0);
        is_counted || !self.reports.is_empty() || !self.holds.is_empty()
    }

    /// Whether it says that it has none.
    pub(super) fn has_no_region(&self) -> bool {
        self.region_count == Some(0)
    }
}

/// What the leader of a region says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The region.
    pub region_id: u64,
    /// The peer that leads, on the store that reports.
    pub peer_id: u64,
    /// The Raft term in which it was elected. Never 0.
    pub term: u64,
    /// The epoch of the region as the leader has applied it.
    pub epoch: RegionEpoch,
    /// The peers of the region at that epoch.
    pub peers: Vec<Peer>,
    /// The peers that the leader has heard of lately and that have caught up, including itself if it hears of a majority. `None`: it
    /// does not say.
    pub live: Option<Vec<u64>>,
    /// About how many bytes the region holds. `None`: it does not say.
    pub bytes: Option<u64>,
}

/// Who was reported to lead a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leadership {
    pub(super) peer_id: u64,
    pub(super) term: u64,
}

/// What a report is worth.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// A later leader has reported.
    Outdated,
    /// The region is not known, or has no such peer on that store.
    Foreign,
    /// It names the leader.
    Counts {
        /// The region with other peers than it is stored with.
        changed: Option<Region>,
    },
}

impl State {
    /// Notes who leads, and how the peers are. Returns the reports that are ignored because their region has no such peer.
    pub(super) fn note_reports<'reports>(
        &mut self,
        store_id: u64,
        reports: &'reports [Report],
        now: Instant,
    ) -> Vec<&'reports Report> {
        let (store_bytes, down_after) = (self.data_bytes(store_id), self.settings.store_down_after);
        let awake = (self.listening.since(now), now);
        let mut foreign = Vec::new();
        for report in reports {
            match self.judge(store_id, report) {
                Verdict::Outdated => {}
                Verdict::Foreign => foreign.push(report),
                Verdict::Counts { .. } => {
                    let up = self.peers_on_stores_up(&report.peers, now);
                    let seen = Seen {
                        peers: &report.peers,
                        live: report.live.as_deref().unwrap_or(&up),
                        up: &up,
                    };
                    let Some(known) = self.region_mut(report.region_id) else {
                        continue;
                    };
                    let leadership = Leadership {
                        peer_id: report.peer_id,
                        term: report.term,
                    };
                    let is_another = known.leadership.replace(leadership) != Some(leadership);
                    if is_another {
                        known.led_since = Some(now);
                    }
                    let before = known.reported_at.replace(now);
                    if is_another || before.is_none_or(|before| !is_recent(before, now)) {
                        known.lagging.begin_anew();
                    }
                    known.live.clone_from(&report.live);
                    known.bytes = report.bytes.or(known.bytes);
                    let bytes = known.bytes.unwrap_or(store_bytes);
                    let bounds = Bounds {
                        patience: lagging::patience(bytes),
                        lost_after: down_after + lagging::transfer_time(bytes),
                    };
                    for learns_on in known.lagging.note(seen, bounds, awake) {
                        let region_id = report.region_id;
                        tracing::warn!(
                            region_id,
                            store_id = learns_on,
                            "a learner does not catch up, and is given up"
                        );
                    }
                }
            }
        }
        foreign
    }

    pub(super) fn peers_on_stores_up(&self, peers: &[Peer], now: Instant) -> Vec<u64> {
        let is_up = |peer: &&Peer| {
            let store = self.stores.get(&peer.store_id);
            store.is_some_and(|store| store.is_up(now))
        };
        let up = peers.iter().filter(is_up);
        up.map(|peer| peer.id).collect()
    }

    /// How much a store holds, as far as it has said.
    pub(super) fn data_bytes(&self, store_id: u64) -> u64 {
        let store = self.stores.get(&store_id);
        let stats = store.and_then(|store| store.stats);
        stats.map_or(0, |stats| stats.data_bytes)
    }

    /// Keeps the reports that change what is stored, as many as one write takes: first those of regions whose peers have changed, then
    /// those of regions whose voters were away, the most unstored time first. So none waits for ever behind others that also change.
    pub(super) fn retain_changes(&self, store_id: u64, reports: &mut Vec<Report>) {
        let (mut changed, others): (Vec<_>, Vec<_>) = std::mem::take(reports)
            .into_iter()
            .partition(|report| self.changed_region(store_id, report).is_some());
        let away = others
            .into_iter()
            .filter(|report| self.unstored_away(report).is_some());
        let mut away: Vec<_> = away.collect();
        let parts = |report: &Report| {
            let known = self.region_by_id(report.region_id);
            known.map(|known| known.lagging.unstored_parts())
        };
        away.sort_by_key(|report| Reverse(parts(report)));
        changed.extend(away);
        changed.truncate(CHANGED_REGIONS_MAX);
        *reports = changed;
    }

    /// The regions whose peers have changed, and voters that were away.
    pub(super) fn decide_reports(&self, store_id: u64, reports: &[Report]) -> Vec<Change> {
        let changed = reports
            .iter()
            .filter_map(|report| self.changed_region(store_id, report));
        let away = reports
            .iter()
            .filter_map(|report| self.unstored_away(report));
        let changed = changed.map(Change::Region);
        changed.chain(away.map(Change::Away)).collect()
    }

    /// What to store about the region's voters that were away, if it is not stored.
    fn unstored_away(&self, report: &Report) -> Option<AwayVoters> {
        let known = self.region_by_id(report.region_id)?;
        let voters = known.lagging.unstored()?.to_vec();
        Some(AwayVoters {
            region_id: report.region_id,
            voters,
        })
    }

    fn changed_region(&self, store_id: u64, report: &Report) -> Option<Region> {
        match self.judge(store_id, report) {
            Verdict::Counts { changed } => changed,
            Verdict::Outdated | Verdict::Foreign => None,
        }
    }

    fn judge(&self, store_id: u64, report: &Report) -> Verdict {
        let Some(known) = self.region_by_id(report.region_id) else {
            return Verdict::Foreign;
        };
        let is_later = |leadership: Leadership| leadership.term > report.term;
        if known.leadership.is_some_and(is_later) {
            return Verdict::Outdated;
        }
        let changed = known.changed_by(report);
        let peers = &changed.as_ref().unwrap_or(&known.region).peers;
        let is_the_leader = |peer: &Peer| (peer.id, peer.store_id) == (report.peer_id, store_id);
        let was_given_out = |peer: &Peer| peer.id <= self.counters.peer_id;
        if peers.iter().any(is_the_leader) && peers.iter().all(was_given_out) {
            Verdict::Counts { changed }
        } else {
            Verdict::Foreign
        }
    }
}

impl KnownRegion {
    /// The peer that leads, and the term in which it was elected; 0: not reported. Nobody else can lead the region of a sole
    /// peer, so it needs no report. A sole learner waits for a leader that was not heard of.
    pub(super) fn leader(&self) -> Option<(&Peer, u64)> {
        let peers = &self.region.peers;
        let reported = self.leadership.and_then(|Leadership { peer_id, term }| {
            let peer = peers.iter().find(|peer| peer.id == peer_id)?;
            Some((peer, term))
        });
        let sole = match peers.as_slice() {
            [peer] if !peer.learner => Some((peer, 0)),
            _ => None,
        };
        reported.or(sole)
    }

    /// The region as it is described, if that is newer than what is known and only the peers have changed.
    fn changed_by(&self, report: &Report) -> Option<Region> {
        let (known, described) = (self.region.epoch_or_default(), report.epoch);
        let is_newer =
            described.version == known.version && described.conf_version > known.conf_version;
        is_newer.then(|| Region {
            epoch: Some(described),
            peers: report.peers.clone(),
            ..self.region.clone()
        })
    }
}

#[cfg(test)]
mod tests;
