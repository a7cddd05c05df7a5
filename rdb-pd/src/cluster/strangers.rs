//! What this placement driver refuses or ignores because its data directory does not know it or gives it no role, for the log
//! and the findings.
//!
//! - Stores of other clusters, and stores of this one without a record. Either they were given the wrong placement driver, or it was
//!   given the wrong directory.
//! - Reports of leaders with ids that were never given out here: the directory is older than the cluster.
//! - Other reports of leaders that are no peers of their regions: they are only logged.
//! - Calls as a store of callers that are none. They are refused before they are read, so only their address is known.
//!
//! A store that has left has a record, so it is no stranger. All of this is kept only in memory.

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdb_proto::auth::RefusedStores;
use rdb_proto::findings::{
    Finding, Stranger, no_stores, of_foreign_stores, of_missing_stores, of_older_directory,
    of_unknown_stores,
};
use rdb_proto::rare_line::RareLine;
use rdb_proto::transport::status::brief_text;

use super::locked;
use super::refusal::Refusal;
use super::reports::Report;
use super::state::{KnownRegion, State};
use super::stores::{Start, is_recent};

/// Most stores of this cluster that are remembered, and most of others: those that were refused last.
const REMEMBERED_MAX: usize = 8;

/// How long a store, or a call as one, is reported after it was last refused. A store is reported for longer while the cluster has no
/// stores. A store of this cluster is also reported for longer while a region [may need it](State::may_need). When a store without
/// replicas reports from its address, it is [forgotten](Strangers::forget_at) at once.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// How often the log tells of a store that is refused again and again, and of reports that name ids that were never given out here.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// The log lines about ignored reports: one for reports with ids that were never given out here, and one for all others.
const LATER_WORDS: &str = "ignored the report of a leader, since it names ids that were never given out here: this data directory is \
    older than the cluster. Stop this placement driver, and name the newest directory; if that is this one, see --tso-advance-ms";
const FOREIGN_WORDS: &str = "ignored the report of a leader that is no peer of its region";

/// Most bytes of an address that are shown.
const ADDRESS_BYTES_MAX: usize = 64;

/// What was refused or ignored lately.
#[derive(Debug)]
pub(super) struct Strangers {
    /// The one that was refused last comes last.
    refused: Vec<RefusedStore>,
    /// The last report that was ignored because it names ids that were never given out here.
    later: Option<LaterReport>,
    /// The line of the log about heartbeats of all refused stores.
    refused_line: RareLine,
    /// The line about reports that name ids that were never given out here.
    later_line: RareLine,
    /// The line about all other reports that are ignored.
    foreign_line: RareLine,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            refused: Vec::new(),
            later: None,
            refused_line: RareLine::default(),
            later_line: RareLine::every(LOG_INTERVAL),
            foreign_line: RareLine::default(),
        }
    }
}

#[derive(Debug)]
struct RefusedStore {
    stranger: Stranger,
    /// Where it says that clients reach it.
    address: String,
    refused_at: Instant,
    logged_at: Option<Instant>,
}

/// When and where the last call as a store was refused for who its caller is, and why. Anybody can make one, and none waits for the
/// state of the cluster: this has its own lock.
#[derive(Debug, Default)]
pub(crate) struct RefusedCall(Mutex<Option<(Instant, IpAddr, String)>>);

#[derive(Debug)]
struct LaterReport {
    region_id: u64,
    /// The stores of its replicas that have no record.
    store_ids: Vec<u64>,
    ignored_at: Instant,
}

impl Strangers {
    /// Remembers a start that was refused, if it is a stranger.
    pub(super) fn note_refused(&mut self, start: &Start, refusal: &Refusal, now: Instant) {
        let ours = match refusal {
            Refusal::ForeignCluster { ours, .. } => *ours,
            Refusal::UnknownStore { .. } => start.cluster_id,
            _ => return,
        };
        let position = self.refused.iter().position(|known| known.is(start));
        let known = position.map(|position| self.refused.remove(position));
        // A crowd of others makes nobody forget what this cluster lacks.
        let is_ours = start.cluster_id == ours;
        let is_like_it = |known: &&RefusedStore| (known.stranger.cluster_id == ours) == is_ours;
        let alike = self.refused.iter().filter(is_like_it).count();
        let oldest = self.refused.iter().position(|known| is_like_it(&known));
        if let Some(oldest) = oldest
            && alike >= REMEMBERED_MAX
        {
            self.refused.remove(oldest);
        }
        self.refused.push(RefusedStore {
            stranger: Stranger {
                cluster_id: start.cluster_id,
                store_id: start.store_id,
                address: brief_text(&start.address, ADDRESS_BYTES_MAX),
            },
            address: start.address.clone(),
            refused_at: now,
            logged_at: known.and_then(|known| known.logged_at),
        });
    }

    /// Forgets the stores at an address: the one that reports from there has no replicas, so it was started with an empty directory.
    pub(super) fn forget_at(&mut self, address: &str) {
        self.refused.retain(|known| known.address != address);
    }

    /// Writes to the log that the heartbeat of a stranger was refused, which comes again every second.
    pub(super) fn log_refused(&mut self, start: &Start, refusal: &Refusal, now: Instant) {
        let mut refused = self.refused.iter_mut();
        let Some(known) = refused.find(|known| known.is(start)) else {
            return;
        };
        let is_too_recent = |at| now.saturating_duration_since(at) < LOG_INTERVAL;
        if known.logged_at.is_some_and(is_too_recent) {
            self.refused_line.leave_out(1);
            return;
        }
        if let Some(left_out) = self.refused_line.take_turn(now) {
            known.logged_at = Some(now);
            let Stranger {
                store_id, address, ..
            } = &known.stranger;
            tracing::warn!(
                store_id,
                address,
                left_out,
                cause = %refusal,
                "refused the heartbeat of a store. If this placement driver is to serve it, its --data-dir is new or the wrong one: \
                 stop it, and name the right one"
            );
        }
    }
}

impl RefusedStore {
    fn is(&self, start: &Start) -> bool {
        let Stranger {
            cluster_id,
            store_id,
            ..
        } = self.stranger;
        (cluster_id, store_id) == (start.cluster_id, start.store_id)
    }
}

impl RefusedCall {
    /// Where it came from, and why it was refused, as long as it is reported.
    pub(super) fn told(&self, now: Instant) -> Option<(IpAddr, String)> {
        let last = locked(&self.0);
        let (at, address, cause) = last.as_ref()?;
        let is_told = now.saturating_duration_since(*at) < TOLD_FOR;
        is_told.then(|| (*address, cause.clone()))
    }
}

impl RefusedStores for RefusedCall {
    fn note(&self, address: IpAddr, cause: &str) {
        *locked(&self.0) = Some((Instant::now(), address, cause.to_owned()));
    }
}

impl State {
    /// Writes to the log that reports of a store were ignored. Remembers the last one that [is later](Self::is_later).
    pub(super) fn note_ignored(&mut self, store_id: u64, reports: &[&Report], now: Instant) {
        for report in reports {
            let (line, words) = if self.is_later(report) {
                self.note_later(report, now);
                (&mut self.strangers.later_line, LATER_WORDS)
            } else {
                (&mut self.strangers.foreign_line, FOREIGN_WORDS)
            };
            if let Some(left_out) = line.take_turn(now) {
                let Report {
                    region_id, peer_id, ..
                } = report;
                tracing::warn!(store_id, region_id, peer_id, left_out, "{words}");
            }
        }
    }

    /// Whether a report names ids that were never given out here: the data directory is older than the cluster.
    fn is_later(&self, report: &Report) -> bool {
        let is_new = |id: u64| id > self.counters.peer_id;
        report.region_id > self.counters.region_id
            || report.peers.iter().any(|peer| is_new(peer.id))
    }

    fn note_later(&mut self, report: &Report, now: Instant) {
        let stores = report.peers.iter().map(|peer| peer.store_id);
        let without_record = stores.filter(|store_id| !self.stores.contains_key(store_id));
        self.strangers.later = Some(LaterReport {
            region_id: report.region_id,
            store_ids: without_record.collect(),
            ignored_at: now,
        });
    }

    /// Whether the cluster has stores, or replicas, that the data directory does not know. Then it may have regions, too.
    pub(super) fn is_behind(&self, now: Instant) -> bool {
        let mut told = self.told_strangers(now);
        let have_replicas = || self.stores.values().any(|store| store.has_replicas);
        self.later_report(now).is_some()
            || (self.regions.is_empty() && have_replicas())
            || told.any(|stranger| stranger.cluster_id == self.cluster_id)
    }

    /// What is wrong with the cluster, as far as nobody else knows it.
    pub(super) fn findings(&self, now: Instant) -> Vec<Finding> {
        let mut told: Vec<Stranger> = self.told_strangers(now).cloned().collect();
        told.sort_by_key(|stranger| (stranger.cluster_id, stranger.store_id));
        let (ours, foreign): (Vec<_>, Vec<_>) = told
            .into_iter()
            .partition(|stranger| stranger.cluster_id == self.cluster_id);
        let (later, unknown): (Vec<_>, Vec<_>) = ours
            .into_iter()
            .partition(|stranger| stranger.store_id > self.counters.store_id);
        let report = self.later_report(now);
        let replicas = report.map(|report| (report.region_id, &report.store_ids[..]));

        let mut findings = Vec::new();
        if !foreign.is_empty() {
            findings.push(of_foreign_stores(self.cluster_id, &foreign));
        }
        if !later.is_empty() || replicas.is_some() {
            findings.push(of_older_directory(&later, replicas));
        }
        if !unknown.is_empty() {
            let mut ids = unknown.iter().map(|stranger| stranger.store_id);
            let may_be_needed = ids.any(|store_id| self.may_need(store_id, now));
            let refused = self.strangers.refused.iter();
            let refused = refused.filter(|refused| unknown.contains(&refused.stranger));
            let last = refused.map(|refused| refused.refused_at).max();
            let silence = last.map(|last| now.saturating_duration_since(last));
            let silence = silence.filter(|silence| *silence >= TOLD_FOR);
            findings.push(of_unknown_stores(&unknown, silence, may_be_needed));
        }
        // Nobody is asked for more stores then: they would be another cluster, or get another first region.
        if !findings.is_empty() {
            return findings;
        }
        let missing = self.stores_missing(now);
        if self.confirmed().next().is_none() {
            findings.push(no_stores());
        } else if missing > 0 {
            let wanted = self.settings.initial_replicas;
            findings.push(of_missing_stores(missing, wanted));
        }
        findings
    }

    /// The refused stores that are reported.
    fn told_strangers(&self, now: Instant) -> impl Iterator<Item = &Stranger> {
        let has_stores = self.confirmed().next().is_some();
        let is_told = move |refused: &&RefusedStore| {
            let id = refused.stranger.store_id;
            !has_stores
                || now.saturating_duration_since(refused.refused_at) < TOLD_FOR
                || (refused.stranger.cluster_id == self.cluster_id && self.may_need(id, now))
        };
        let refused = self.strangers.refused.iter().filter(is_told);
        refused.map(|refused| &refused.stranger)
    }

    /// Whether a store may hold what no other store does: a region has a replica on it as far as is known here, or has no leader
    /// that reports where its replicas are, or no region is known.
    fn may_need(&self, store_id: u64, now: Instant) -> bool {
        let needs = |known: &KnownRegion| {
            let mut peers = known.region.peers.iter();
            known.reported_at.is_none_or(|at| !is_recent(at, now))
                || peers.any(|peer| peer.store_id == store_id)
        };
        self.regions.is_empty() || self.regions.values().any(needs)
    }

    /// The last report that names ids that were never given out here, if that was lately.
    fn later_report(&self, now: Instant) -> Option<&LaterReport> {
        let report = self.strangers.later.as_ref();
        report.filter(|report| is_recent(report.ignored_at, now))
    }
}

#[cfg(test)]
mod tests;
