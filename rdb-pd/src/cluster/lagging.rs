//! Peers that lag behind, as the leaders of their regions say: learners that are given up, and voters that are absent.
//!
//! The store of a learner may be unreachable for the leader, or have a full disk. The learner would wait for ever, and take the
//! place of other regions' learners. So it is given up after a while. Then its store gets no other learner of that region for a
//! while, each time for twice as long, until a peer of the region lives there.
//!
//! A voter may be dead though its store is up: its group could not be opened, or has ended, or the store crashes again and again. It is
//! absent once its leader has not heard of it for [`DISCONNECTED_AFTER`]. It is lost once it was *away* for as long as a store has to be
//! silent to be down, and longer if there is much data:
//!
//! - The time between two reports of one leader counts as away if they are less than [`DISCONNECTED_AFTER`] apart, and in both a
//!   majority of the voters lives and the voter does not, whether or not its store is silent. This process has to be awake in between.
//! - Time in which the leader says that the voter lives is subtracted, [`PAYS_BACK`] times. So a voter that lives for more than a third
//!   of the time is not lost.
//! - All other time changes nothing: between two leaders, while no leader reports, in a sleep of this process.
//! - A lost voter stays lost until it lives.
//!
//! Time away is counted as a fraction of the bound at that moment. So a change of the region's size or of the setting makes no voter lost
//! by itself, and changes nothing that is stored.
//!
//! Time away is stored in whole [`PARTS`] of the bound, without the last part. So a restarted placement driver goes on with most of it. But
//! a voter that has come back meanwhile, and is briefly away in the first reports, is not taken for lost. All else is only in memory.
//! A placement driver whose directory may be an older copy forgets what is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdb_proto::metapb::Peer;

use super::DISCONNECTED_AFTER;
use super::steps::Absent;
use crate::keys::AwayVoter;

/// How long a learner may take, and longer if there is much data.
pub(super) const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// What a peer gets at least, in bytes a second.
const BYTES_PER_SECOND: u64 = 4 << 20;

/// How long the store of a learner that was given up is left alone the first time.
pub(super) const LEFT_ALONE_FOR: Duration = Duration::from_secs(10 * 60);

/// The longest that a store is left alone. A store that was not tried again for the same time after that starts over.
const LEFT_ALONE_FOR_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How many times the time in which a voter lives is taken off that in which it was away.
const PAYS_BACK: u128 = 2;

/// The time that a voter was away is stored each time it reaches another of this many parts of the time that makes it lost.
const PARTS: u32 = 8;

/// What a voter that is lost was away for. A power of two, so that all parts are whole.
const LOST: u64 = 1 << 40;

/// How long a learner of a region of that size may take.
pub(super) fn patience(bytes: u64) -> Duration {
    PATIENCE + transfer_time(bytes)
}

/// How long a peer may take to get that many bytes.
pub(super) fn transfer_time(bytes: u64) -> Duration {
    Duration::from_secs(bytes / BYTES_PER_SECOND)
}

/// What a leader says of the peers of its region, and what is known of their stores.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) peers: &'a [Peer],
    /// Those that live.
    pub(super) live: &'a [u64],
    /// Those whose stores are up.
    pub(super) up: &'a [u64],
}

impl Seen<'_> {
    /// Whether most voters live, on stores that are up.
    fn has_majority(&self) -> bool {
        let voters = self.peers.iter().filter(|peer| !peer.learner);
        let is_live = |peer: &&Peer| self.live.contains(&peer.id) && self.up.contains(&peer.id);
        voters.clone().filter(is_live).count() * 2 > voters.count()
    }
}

/// How long peers of a region may lag behind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// After this time a learner is given up.
    pub(super) patience: Duration,
    /// After this time a voter is lost.
    pub(super) lost_after: Duration,
}

/// The peers of one region that lag behind.
#[derive(Debug, Clone, Default)]
pub(super) struct Lagging {
    /// Since when each has lagged behind, as one leader says without a pause, by their ids.
    behind_since: BTreeMap<u64, Instant>,
    /// The voters that were away and have not paid that back, by their ids.
    away: BTreeMap<u64, Away>,
    /// When the last report of the present leader came, if a majority lived in it.
    counted_at: Option<Instant>,
    /// What should be stored of `away`, and what is stored.
    to_store: Vec<AwayVoter>,
    stored: Vec<AwayVoter>,
    /// The stores whose learners were given up.
    given_up: BTreeMap<u64, GivenUp>,
}

/// A voter that was away.
#[derive(Debug, Clone, Copy, Default)]
struct Away {
    /// For how long, less what was paid back. Never more than [`LOST`], so that it pays back from the first moment on.
    counted: u64,
    /// Whether the last report has said that it does not live.
    is_away: bool,
    is_lost: bool,
}

impl Away {
    /// What is stored of it.
    fn parts(self) -> u32 {
        let parts = self.counted / (LOST / u64::from(PARTS));
        (parts as u32).min(PARTS - 1)
    }

    fn of_parts(parts: u32) -> Self {
        let parts = parts.min(PARTS - 1);
        Self {
            counted: LOST / u64::from(PARTS) * u64::from(parts),
            ..Self::default()
        }
    }
}

/// The part of the bound that a time is, rounded up, so that parts of the whole bound add up to at least the whole.
fn part_of(time_ns: u128, lost_after: Duration) -> u64 {
    let part = time_ns.saturating_mul(u128::from(LOST));
    let part = part.div_ceil(lost_after.as_nanos().max(1));
    part.min(u128::from(LOST)) as u64
}

/// A store whose learner was given up.
#[derive(Debug, Clone, Copy)]
struct GivenUp {
    /// The last time.
    at: Instant,
    /// How many times in a row, at least once.
    times: u32,
}

impl GivenUp {
    fn left_alone_for(self) -> Duration {
        let doubled = 1_u32.checked_shl(self.times - 1).unwrap_or(u32::MAX);
        LEFT_ALONE_FOR
            .saturating_mul(doubled)
            .min(LEFT_ALONE_FOR_MAX)
    }

    fn is_left_alone(self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < self.left_alone_for()
    }

    fn is_remembered(self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < self.left_alone_for() + LEFT_ALONE_FOR_MAX
    }
}

impl Lagging {
    /// Takes a leader's report. `awake_since`: this process has listened since then. Returns the stores whose learners are given up now.
    pub(super) fn note(
        &mut self,
        seen: Seen<'_>,
        bounds: Bounds,
        (awake_since, now): (Instant, Instant),
    ) -> Vec<u64> {
        self.count_away(seen, bounds.lost_after, (awake_since, now));
        let Seen { peers, live, up } = seen;
        let is_behind =
            |peer: &&Peer| !live.contains(&peer.id) && (peer.learner || up.contains(&peer.id));
        let behind: Vec<_> = peers.iter().filter(is_behind).collect();
        self.behind_since
            .retain(|&id, _| behind.iter().any(|peer| peer.id == id));
        let lives_on = |store_id| {
            let mut peers = peers.iter();
            peers.any(|peer| peer.store_id == store_id && live.contains(&peer.id))
        };
        self.given_up
            .retain(|&store_id, given_up| !lives_on(store_id) && given_up.is_remembered(now));
        let mut given_up = Vec::new();
        for peer in behind {
            let since = *self.behind_since.entry(peer.id).or_insert(now);
            let waited = now.saturating_duration_since(since.max(awake_since));
            if peer.learner && waited >= bounds.patience && self.give_up(peer.store_id, now) {
                given_up.push(peer.store_id);
            }
        }
        given_up
    }

    /// Counts for how long voters were away, and how much of it they have paid back.
    fn count_away(
        &mut self,
        seen: Seen<'_>,
        lost_after: Duration,
        (awake_since, now): (Instant, Instant),
    ) {
        let before = self.counted_at.filter(|&before| before >= awake_since);
        let has_majority = seen.has_majority();
        let passed = match before {
            Some(before) if has_majority => now.saturating_duration_since(before),
            _ => Duration::ZERO,
        };
        self.counted_at = has_majority.then_some(now);
        let is_voter = |id| seen.peers.iter().any(|peer| peer.id == id && !peer.learner);
        self.away.retain(|&id, _| is_voter(id));
        for peer in seen.peers.iter().filter(|peer| !peer.learner) {
            if seen.live.contains(&peer.id) {
                if let Some(away) = self.away.get_mut(&peer.id) {
                    let paid_back = part_of(passed.as_nanos() * PAYS_BACK, lost_after);
                    away.counted = away.counted.saturating_sub(paid_back);
                    (away.is_away, away.is_lost) = (false, false);
                }
            } else {
                let away = self.away.entry(peer.id).or_default();
                if away.is_away && !passed.is_zero() {
                    let counted = away.counted + part_of(passed.as_nanos(), lost_after);
                    away.counted = counted.min(LOST);
                    away.is_lost |= away.counted == LOST;
                }
                away.is_away = true;
            }
        }
        self.away.retain(|_, away| away.is_away || away.counted > 0);
        let to_store = self.away.iter().map(|(&peer_id, away)| AwayVoter {
            peer_id,
            away_eighths: away.parts(),
        });
        self.to_store = to_store.filter(|voter| voter.away_eighths > 0).collect();
    }

    /// What to store about voters that were away, if that differs from what is stored.
    pub(super) fn unstored(&self) -> Option<&[AwayVoter]> {
        (self.to_store != self.stored).then_some(&self.to_store)
    }

    /// How far what is stored is behind, in parts of the bounds of all voters.
    pub(super) fn unstored_parts(&self) -> u32 {
        let parts_of = |voters: &[AwayVoter], peer_id| {
            let mut voters = voters.iter().filter(|voter| voter.peer_id == peer_id);
            voters.next().map_or(0, |voter| voter.away_eighths)
        };
        let all = self.to_store.iter().chain(&self.stored);
        let ids: BTreeSet<_> = all.map(|voter| voter.peer_id).collect();
        let behind = ids.into_iter().map(|id| {
            let (to_store, stored) = (parts_of(&self.to_store, id), parts_of(&self.stored, id));
            to_store.abs_diff(stored)
        });
        behind.sum()
    }

    pub(super) fn note_stored(&mut self, voters: Vec<AwayVoter>) {
        self.stored = voters;
    }

    /// What is stored.
    #[cfg(test)]
    pub(super) fn stored(&self) -> &[AwayVoter] {
        &self.stored
    }

    /// Goes on with what is stored.
    pub(super) fn restore(&mut self, voters: Vec<AwayVoter>) {
        let away = voters
            .iter()
            .map(|voter| (voter.peer_id, Away::of_parts(voter.away_eighths)));
        self.away = away.collect();
        self.to_store.clone_from(&voters);
        self.stored = voters;
    }

    /// Another leader has reported, or the same one after a silence. Forgets how long peers have lagged behind, since a learner may
    /// have got nothing in between. The time that voters were away stays.
    pub(super) fn begin_anew(&mut self) {
        self.behind_since.clear();
        self.counted_at = None;
    }

    /// The voters that are absent by the leader's last report, at `reported_at`, and those that are lost. The store of a lost voter may
    /// be silent.
    pub(super) fn absent(
        &self,
        peers: &[Peer],
        (awake_since, reported_at): (Instant, Instant),
    ) -> Vec<Absent> {
        let voters = peers.iter().filter(|peer| !peer.learner);
        let absent = voters.filter_map(|peer| {
            let away = self.away.get(&peer.id);
            let is_lost = away.is_some_and(|away| away.is_lost);
            let since = self.behind_since.get(&peer.id);
            let is_behind = since.is_some_and(|&since| {
                let behind_for = reported_at.saturating_duration_since(since.max(awake_since));
                behind_for >= DISCONNECTED_AFTER
            });
            (is_behind || is_lost).then_some(Absent {
                peer_id: peer.id,
                is_lost,
            })
        });
        absent.collect()
    }

    /// Gives the learner of a store up. Returns whether the store was not left alone already.
    pub(super) fn give_up(&mut self, store_id: u64, now: Instant) -> bool {
        let before = self.given_up.get(&store_id);
        let was_left_alone = before.is_some_and(|given_up| given_up.is_left_alone(now));
        let times = before.map_or(0, |given_up| given_up.times) + u32::from(!was_left_alone);
        self.given_up.insert(store_id, GivenUp { at: now, times });
        !was_left_alone
    }

    /// Starts over with a store, since an operator wants it to have a replica.
    pub(super) fn forgive(&mut self, store_id: u64, peers: &[Peer]) {
        self.given_up.remove(&store_id);
        for peer in peers.iter().filter(|peer| peer.store_id == store_id) {
            self.behind_since.remove(&peer.id);
        }
    }

    /// The stores that are left alone.
    pub(super) fn given_up(&self, now: Instant) -> impl Iterator<Item = u64> {
        let given_up = self.given_up.iter();
        let left_alone = given_up.filter(move |(_, given_up)| given_up.is_left_alone(now));
        left_alone.map(|(&store_id, _)| store_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        patience: PATIENCE,
        lost_after: Duration::from_secs(100),
    };

    fn seen<'a>(peers: &'a [Peer], live: &'a [u64]) -> Seen<'a> {
        Seen {
            peers,
            live,
            up: &[],
        }
    }

    #[test]
    fn much_data_takes_longer_and_so_does_a_placement_driver_that_was_asleep() {
        assert_eq!(patience(4 << 30), PATIENCE + Duration::from_secs(1024));
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let learner = [Peer {
            id: 7,
            store_id: 3,
            learner: true,
        }];
        let mut lagging = Lagging::default();
        let mut note = |live: &[u64], awake_since, seconds| {
            let seen = seen(&learner, live);
            lagging.note(seen, BOUNDS, (awake_since, at(seconds)))
        };
        assert!(note(&[], begun, 0).is_empty());
        assert!(note(&[7], begun, 100).is_empty(), "it has caught up");
        assert!(note(&[], begun, 200).is_empty());
        assert!(note(&[], at(300), 550).is_empty(), "asleep until 300");
        assert_eq!(note(&[], at(300), 600), [3]);
        assert!(note(&[], at(300), 601).is_empty(), "told once");
    }

    #[test]
    fn a_store_is_left_alone_for_twice_as_long_each_time_until_its_peer_lives() {
        let peer = Peer {
            id: 7,
            store_id: 3,
            learner: true,
        };
        let mut lagging = Lagging::default();
        let mut now = Instant::now();
        for doubled in [1, 2, 4, 8, 16, 32, 64, 128, 144, 144] {
            assert!(lagging.give_up(3, now));
            assert!(!lagging.give_up(3, now), "it is left alone");
            let over = now + LEFT_ALONE_FOR * doubled;
            let just_before = over - Duration::from_secs(1);
            assert_eq!(lagging.given_up(just_before).collect::<Vec<_>>(), [3]);
            assert_eq!(lagging.given_up(over).count(), 0, "{doubled}");
            now = over;
            lagging.note(seen(&[], &[]), BOUNDS, (now, now));
        }
        lagging.note(seen(&[peer], &[peer.id]), BOUNDS, (now, now));
        lagging.give_up(3, now);
        assert_eq!(lagging.given_up(now + LEFT_ALONE_FOR).count(), 0);
    }

    /// Three voters; the test looks at the third. One leader reports every five seconds.
    struct Watch {
        lagging: Lagging,
        voters: [Peer; 3],
        begun: Instant,
        seconds: u64,
        awake_since: u64,
        lost_after: Duration,
    }

    impl Watch {
        fn begin() -> Self {
            Self {
                lagging: Lagging::default(),
                voters: [1, 2, 3].map(|id| Peer {
                    id,
                    store_id: id,
                    learner: false,
                }),
                begun: Instant::now(),
                seconds: 0,
                awake_since: 0,
                lost_after: BOUNDS.lost_after,
            }
        }

        fn times(&self) -> (Instant, Instant) {
            let at = |seconds| self.begun + Duration::from_secs(seconds);
            (at(self.awake_since), at(self.seconds))
        }

        /// Reports for this long, in which these peers live and the stores of these are up.
        fn pass(&mut self, seconds: u64, live: &[u64], up: &[u64]) {
            for _ in 0..seconds / 5 {
                self.seconds += 5;
                let seen = Seen {
                    peers: &self.voters,
                    live,
                    up,
                };
                let bounds = Bounds {
                    lost_after: self.lost_after,
                    ..BOUNDS
                };
                let given_up = self.lagging.note(seen, bounds, self.times());
                assert!(given_up.is_empty(), "they are no learners");
            }
        }

        /// Whether the third voter is lost, if it is absent.
        fn third(&self) -> Option<bool> {
            let absent = self.lagging.absent(&self.voters, self.times());
            let mut absent = absent.iter().filter(|absent| absent.peer_id == 3);
            absent.next().map(|absent| absent.is_lost)
        }

        fn is_lost(&self) -> bool {
            self.third() == Some(true)
        }

        /// Another process takes over. Returns what it finds for the third voter, in eighths.
        fn restart(&mut self) -> u32 {
            if let Some(voters) = self.lagging.unstored() {
                let voters = voters.to_vec();
                self.lagging.note_stored(voters);
            }
            let stored = self.lagging.stored().to_vec();
            self.lagging = Lagging::default();
            let mut third = stored.iter().filter(|voter| voter.peer_id == 3);
            let away_eighths = third.next().map_or(0, |voter| voter.away_eighths);
            self.lagging.restore(stored);
            assert_eq!(self.lagging.unstored(), None);
            away_eighths
        }

        fn sleep(&mut self, seconds: u64) {
            self.seconds += seconds;
            self.awake_since = self.seconds;
        }
    }

    const ALL: [u64; 3] = [1, 2, 3];

    #[test]
    fn a_voter_is_absent_only_while_its_store_is_up_and_this_process_awake() {
        let mut watch = Watch::begin();
        watch.pass(20, &[1, 2], &ALL);
        assert_eq!(watch.third(), None, "the first report has begun it");
        watch.pass(5, &[1, 2], &ALL);
        assert_eq!(watch.third(), Some(false));
        watch.pass(75, &[1, 2], &ALL);
        assert_eq!(watch.third(), Some(false));
        watch.pass(5, &[1, 2], &ALL);
        assert_eq!(watch.third(), Some(true));
        watch.pass(5, &ALL, &ALL);
        assert_eq!(watch.third(), None);

        let mut watch = Watch::begin();
        watch.pass(25, &[1, 2], &ALL);
        watch.sleep(60);
        watch.pass(15, &[1, 2], &ALL);
        assert_eq!(watch.third(), None);
        watch.pass(5, &[1, 2], &[1, 2]);
        assert_eq!(watch.third(), None, "its store is silent");
    }

    #[test]
    fn what_a_voter_was_away_for_stays_over_silences_sleeps_and_leaders() {
        let mut watch = Watch::begin();
        // The first report only begins.
        watch.pass(5, &[1, 2], &ALL);
        for _ in 0..3 {
            watch.pass(15, &[1, 2], &ALL);
            watch.pass(15, &[1, 2], &[1, 2]);
        }
        assert!(!watch.is_lost());
        // So does that of another leader.
        watch.lagging.begin_anew();
        watch.pass(5, &[1, 2], &ALL);
        assert!(!watch.is_lost());
        // And that after a sleep.
        watch.sleep(1_000);
        watch.pass(5, &[1, 2], &ALL);
        watch.pass(5, &[1, 2], &ALL);
        assert!(!watch.is_lost());
        watch.pass(5, &[1, 2], &ALL);
        assert!(watch.is_lost());
        watch.pass(500, &[1, 2], &[1, 2]);
        assert!(watch.is_lost(), "also while its store is silent again");
    }

    #[test]
    fn most_of_what_a_voter_was_away_for_outlives_the_process() {
        let mut watch = Watch::begin();
        watch.pass(15, &[1, 2], &ALL);
        assert_eq!(watch.restart(), 0, "it is not worth a write");
        watch.pass(60, &[1, 2], &ALL);
        assert_eq!(watch.lagging.unstored().map(<[_]>::len), Some(1));
        assert_eq!(watch.restart(), 4, "50 s and not 62.5");
        watch.pass(50, &[1, 2], &ALL);
        assert!(!watch.is_lost(), "the first report only begins");
        watch.pass(5, &[1, 2], &ALL);
        assert!(watch.is_lost());
        // It may have come back in between, and be away only now.
        assert_eq!(watch.restart(), 7, "never all of it");
        watch.pass(15, &[1, 2], &ALL);
        assert!(!watch.is_lost());
        watch.pass(5, &[1, 2], &ALL);
        assert!(watch.is_lost());
        watch.restart();
        watch.pass(45, &ALL, &ALL);
        assert_eq!(watch.restart(), 0, "it was paid back, but for 7 s");
    }

    #[test]
    fn what_is_stored_stays_over_a_restart_whatever_the_bound_is() {
        for seconds in [100, 1801, 20, 7] {
            for away in (0..seconds + 20).step_by(5) {
                let mut watch = Watch::begin();
                watch.lost_after = Duration::from_secs(seconds);
                watch.pass(away, &[1, 2], &ALL);
                watch.restart();
                watch.pass(5, &[1, 2], &ALL);
                assert_eq!(watch.lagging.unstored(), None, "{away} of {seconds} s");
            }
        }
    }

    /// A size becomes known, or an operator sets another bound.
    #[test]
    fn another_bound_makes_no_voter_lost_and_is_no_reason_to_write() {
        let mut watch = Watch::begin();
        watch.lost_after = Duration::from_secs(1800);
        watch.pass(230, &[1, 2], &ALL);
        assert_eq!(watch.restart(), 1, "225 s");
        watch.lost_after = Duration::from_secs(180);
        watch.pass(5, &[1, 2], &ALL);
        watch.pass(155, &[1, 2], &ALL);
        assert!(!watch.is_lost(), "seven eighths are 157.5 s");
        watch.pass(5, &[1, 2], &ALL);
        assert!(watch.is_lost());

        let mut watch = Watch::begin();
        watch.pass(60, &[1, 2], &ALL);
        watch.restart();
        for seconds in [100, 1_000, 1_001, 10_000, 60] {
            watch.lost_after = Duration::from_secs(seconds);
            // The first report only begins.
            watch.lagging.begin_anew();
            watch.pass(5, &[1, 2], &ALL);
            assert!(!watch.is_lost());
            assert_eq!(watch.lagging.unstored(), None, "with {seconds} s");
        }
    }

    #[test]
    fn a_record_that_nobody_writes_is_taken_for_seven_eighths_at_most() {
        let mut watch = Watch::begin();
        let voters = vec![AwayVoter {
            peer_id: 3,
            away_eighths: u32::MAX,
        }];
        watch.lagging.restore(voters);
        watch.pass(15, &[1, 2], &ALL);
        assert!(!watch.is_lost());
        watch.pass(5, &[1, 2], &ALL);
        assert!(watch.is_lost());
    }

    #[test]
    fn a_voter_that_lives_for_a_moment_after_each_start_is_lost_at_last() {
        let mut watch = Watch::begin();
        for _ in 0..25 {
            watch.pass(5, &ALL, &ALL);
            watch.pass(20, &[1, 2], &[1, 2]);
        }
        assert!(watch.is_lost());
    }

    #[test]
    fn a_voter_that_is_lost_is_so_until_it_lives_also_if_its_region_grows() {
        let mut watch = Watch::begin();
        watch.pass(105, &[1, 2], &ALL);
        assert!(watch.is_lost());
        watch.lost_after *= 10;
        watch.pass(5, &[1, 2], &ALL);
        assert!(watch.is_lost());
        watch.pass(5, &ALL, &ALL);
        watch.pass(10, &[1, 2], &ALL);
        assert!(!watch.is_lost());
    }

    #[test]
    fn a_leader_that_hears_of_no_majority_counts_nothing() {
        let mut watch = Watch::begin();
        watch.pass(5_000, &[1], &ALL);
        assert_eq!(watch.third(), Some(false));
        watch.pass(100, &[1, 2], &ALL);
        assert!(!watch.is_lost(), "the first report only begins");
        watch.pass(5, &[1, 2], &ALL);
        assert!(watch.is_lost());
    }

    #[test]
    fn a_voter_that_lives_pays_back_what_it_was_away_for() {
        let mut watch = Watch::begin();
        // It lives for half of the time.
        for _ in 0..100 {
            watch.pass(45, &[1, 2], &ALL);
            watch.pass(45, &ALL, &ALL);
        }
        assert!(!watch.is_lost());
        // For a ninth of it.
        for _ in 0..20 {
            watch.pass(40, &[1, 2], &ALL);
            watch.pass(5, &ALL, &ALL);
        }
        watch.pass(40, &[1, 2], &ALL);
        assert!(watch.is_lost());
        // From the first moment on, however long it was.
        watch.pass(10_000, &[1, 2], &ALL);
        watch.pass(5, &ALL, &ALL);
        watch.pass(10, &[1, 2], &ALL);
        assert!(!watch.is_lost());
        watch.pass(50, &ALL, &ALL);
        watch.pass(100, &[1, 2], &ALL);
        assert!(!watch.is_lost());
        watch.pass(5, &[1, 2], &ALL);
        assert!(watch.is_lost());
    }
}
