//! Peers that lag behind, as the leaders of their regions say: learners that are given up, and voters that are absent.
//!
//! The store of a learner may be unreachable for the leader, or have a full disk. The learner would wait for ever, and keep other
//! regions from having any. So it is given up after a while, and its store gets no other one of that region for a while, each
//! time for twice as long, until a peer of the region lives there.
//!
//! A voter may be dead though its store is up: its group could not be opened, or has ended. It is absent once it has not lived for
//! [`DISCONNECTED_AFTER`], and lost once it has not for as long as a store is silent before it is down, and longer if there is much
//! data. Once its store was silent, that begins anew.
//!
//! Kept in memory only: a placement driver that is started anew waits again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdb_proto::metapb::Peer;

use super::DISCONNECTED_AFTER;
use super::steps::Absent;

/// How long a learner may take, and longer if there is much data.
pub(super) const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// What a peer gets at least, in bytes a second.
const BYTES_PER_SECOND: u64 = 4 << 20;

/// How long the store of a learner that was given up is left alone the first time.
pub(super) const LEFT_ALONE_FOR: Duration = Duration::from_secs(10 * 60);

/// The longest that a store is left alone. A store that was not tried again for as long after that begins anew.
const LEFT_ALONE_FOR_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a learner of a region of that size may take.
pub(super) fn patience(bytes: u64) -> Duration {
    PATIENCE + transfer_time(bytes)
}

/// How long a peer may take to get so much.
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

/// Those of one region.
#[derive(Debug, Clone, Default)]
pub(super) struct Lagging {
    /// Since when each has lagged behind, as one leader says without a pause, by their ids.
    behind_since: BTreeMap<u64, Instant>,
    /// The stores whose learners were given up.
    given_up: BTreeMap<u64, GivenUp>,
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
    /// Takes what a leader says. `awake_since`: this process has listened since then. Returns the stores whose learners are given
    /// up now.
    pub(super) fn note(
        &mut self,
        Seen { peers, live, up }: Seen<'_>,
        patience: Duration,
        (awake_since, now): (Instant, Instant),
    ) -> Vec<u64> {
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
            if peer.learner && waited >= patience && self.give_up(peer.store_id, now) {
                given_up.push(peer.store_id);
            }
        }
        given_up
    }

    /// Forgets how long peers have lagged behind: another leader has reported, or the same one after a silence, in which a learner may
    /// have got nothing either.
    pub(super) fn begin_anew(&mut self) {
        self.behind_since.clear();
    }

    /// The voters that are absent, as the leader has said last, at `reported_at`.
    pub(super) fn absent(
        &self,
        peers: &[Peer],
        lost_after: Duration,
        (awake_since, reported_at): (Instant, Instant),
    ) -> Vec<Absent> {
        let voters = peers.iter().filter(|peer| !peer.learner);
        let absent = voters.filter_map(|peer| {
            let since = *self.behind_since.get(&peer.id)?;
            let behind_for = reported_at.saturating_duration_since(since.max(awake_since));
            (behind_for >= DISCONNECTED_AFTER).then_some(Absent {
                peer_id: peer.id,
                is_lost: behind_for >= lost_after,
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

    /// Begins anew with a store, since an operator wants it to have a replica.
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
            lagging.note(seen, PATIENCE, (awake_since, at(seconds)))
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
            lagging.note(seen(&[], &[]), PATIENCE, (now, now));
        }
        lagging.note(seen(&[peer], &[peer.id]), PATIENCE, (now, now));
        lagging.give_up(3, now);
        assert_eq!(lagging.given_up(now + LEFT_ALONE_FOR).count(), 0);
    }

    #[test]
    fn a_voter_is_absent_only_while_its_store_is_up_and_this_process_awake() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let voter = [Peer {
            id: 7,
            store_id: 3,
            learner: false,
        }];
        let lost_after = Duration::from_secs(100);
        let mut lagging = Lagging::default();
        for (seconds, up, awake_since, is_lost) in [
            (0, true, 0, None),
            (19, true, 0, None),
            (20, true, 0, Some(false)),
            (99, true, 0, Some(false)),
            (100, true, 0, Some(true)),
            (110, true, 95, None),
            (195, true, 95, Some(true)),
            (200, false, 95, None),
            (201, true, 95, None),
            (221, true, 95, Some(false)),
        ] {
            let seen = Seen {
                peers: &voter,
                live: &[],
                up: if up { &[7] } else { &[] },
            };
            let given_up = lagging.note(seen, Duration::ZERO, (at(awake_since), at(seconds)));
            assert!(given_up.is_empty(), "it is no learner");
            let times = (at(awake_since), at(seconds));
            let absent = lagging.absent(&voter, lost_after, times);
            let told = absent.iter().map(|absent| (absent.peer_id, absent.is_lost));
            let expected = is_lost.map(|is_lost| (7, is_lost));
            assert!(told.eq(expected), "at {seconds}: {absent:?}");
        }
    }
}
