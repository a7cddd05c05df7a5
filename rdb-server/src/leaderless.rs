//! Regions that nobody leads, for the health of the store.
//!
//! A follower without a leader and a leader without a majority cannot serve, although Raft goes on naming the last leader. An ordinary
//! election takes some seconds and needs no attention, so a region may be without a leader for a while. After a start there is no such
//! grace until all regions that the store has by then have had a leader.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What was seen of the regions.
pub(crate) struct Leaderless {
    patience: Duration,
    /// Whether all regions were led at some moment since the store was registered.
    has_begun: bool,
    /// The regions without a leader, and since when.
    since: BTreeMap<u64, Instant>,
}

impl Leaderless {
    /// A region may be without a leader for as long as `patience`.
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            has_begun: false,
            since: BTreeMap::new(),
        }
    }

    /// Takes the regions that are served, each with whether somebody leads it. Returns why the store is not healthy, if it is not. A
    /// store that is not registered does not know yet which regions it has.
    pub(crate) fn note(
        &mut self,
        regions: &BTreeMap<u64, bool>,
        is_registered: bool,
        now: Instant,
    ) -> Option<String> {
        self.since
            .retain(|region_id, _| regions.get(region_id) == Some(&false));
        let unled = regions.iter().filter(|(_, is_led)| !**is_led);
        let unled: Vec<_> = unled.map(|(&region_id, _)| region_id).collect();
        for &region_id in &unled {
            self.since.entry(region_id).or_insert(now);
        }
        self.has_begun |= unled.is_empty() && is_registered;
        if !self.has_begun {
            let region_id = unled.first()?;
            return Some(format!("region {region_id} has no leader"));
        }
        let mut since = self.since.iter();
        let (region_id, _) =
            since.find(|(_, at)| now.saturating_duration_since(**at) >= self.patience)?;
        let seconds = self.patience.as_secs();
        Some(format!(
            "region {region_id} has no leader: for {seconds} s this store has heard of none, or leads and hears of no majority"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(12);

    /// What a registered store is told of `regions` at some second.
    fn telling() -> impl FnMut(u64, &[(u64, bool)]) -> String {
        let mut leaderless = Leaderless::new(PATIENCE);
        let begun = Instant::now();
        move |seconds, regions| {
            let regions = regions.iter().copied().collect();
            let now = begun + Duration::from_secs(seconds);
            let told = leaderless.note(&regions, true, now);
            told.unwrap_or_default()
        }
    }

    #[test]
    fn an_ordinary_election_is_not_told_and_a_lasting_lack_of_a_leader_is() {
        let mut told = telling();
        assert_eq!(told(0, &[(1, true), (2, false)]), "region 2 has no leader");
        assert_eq!(told(1, &[(1, true), (2, true)]), "");
        assert_eq!(told(2, &[(1, false), (2, true)]), "");
        assert_eq!(told(13, &[(1, false), (2, false)]), "");
        let cause = told(14, &[(1, false), (2, false)]);
        assert!(
            cause.starts_with("region 1 has no leader: for 12 s"),
            "{cause}"
        );
        assert_eq!(told(15, &[(1, false), (2, false)]), cause, "the same words");
        assert_eq!(told(16, &[(1, true), (2, false)]), "");
        assert_eq!(told(27, &[(1, false), (2, true)]), "", "it begins anew");
        // One that has left, and one that has just come, by a snapshot.
        assert_eq!(told(28, &[]), "");
        assert_eq!(told(29, &[(3, false)]), "");
        assert!(told(41, &[(3, false)]).starts_with("region 3 has no leader: for"));
    }

    #[test]
    fn the_first_region_of_a_store_that_had_none_may_elect_its_leader() {
        let mut told = telling();
        assert_eq!(told(0, &[]), "");
        assert_eq!(told(1, &[(1, false)]), "");
        assert!(told(13, &[(1, false)]).starts_with("region 1 has no leader: for"));
    }

    #[test]
    fn a_new_store_is_not_healthy_before_its_first_regions_have_a_leader() {
        let mut leaderless = Leaderless::new(PATIENCE);
        let now = Instant::now();
        assert_eq!(leaderless.note(&BTreeMap::new(), false, now), None);
        let unled = BTreeMap::from([(1, false)]);
        for is_registered in [false, true] {
            let told = leaderless.note(&unled, is_registered, now);
            assert_eq!(told.as_deref(), Some("region 1 has no leader"));
        }
    }
}
