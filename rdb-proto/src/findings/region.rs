//! What is wrong with regions.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;

/// Most regions, or stores, that a finding names.
const NAMED_MAX: usize = 5;

/// Who leads a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// A replica that answers.
    Answers,
    /// A replica that does not answer.
    Silent,
    /// The placement driver has not heard which peer leads.
    Unknown,
}

/// What is the matter with a region, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegionTrouble {
    /// Too few replicas answer for reads and writes.
    NoMajority,
    /// Enough replicas answer, but the leader does not.
    NoLeader,
    /// Enough replicas answer, but the placement driver has not heard which one leads, e.g. after its own start.
    UnknownLeader,
    /// Fewer replicas answer than there are.
    Missing,
    /// There are two replicas only.
    Pair,
    /// There is one replica only.
    Single,
}

impl RegionTrouble {
    /// All of them, in their order.
    pub const ALL: [Self; 6] = [
        Self::NoMajority,
        Self::NoLeader,
        Self::UnknownLeader,
        Self::Missing,
        Self::Pair,
        Self::Single,
    ];

    /// What is the matter with a region that has `voters` voters, of which `alive` answer.
    pub fn of(voters: usize, alive: usize, lead: Lead) -> Option<Self> {
        if alive <= voters / 2 {
            Some(Self::NoMajority)
        } else if lead == Lead::Unknown {
            Some(Self::UnknownLeader)
        } else if lead == Lead::Silent {
            Some(Self::NoLeader)
        } else if alive < voters {
            Some(Self::Missing)
        } else if voters == 1 {
            Some(Self::Single)
        } else if voters == 2 {
            Some(Self::Pair)
        } else {
            None
        }
    }

    /// Whether reads and writes of the region wait, as far as is known.
    pub fn is_without_leader(self) -> bool {
        matches!(
            self,
            Self::NoLeader | Self::UnknownLeader | Self::NoMajority
        )
    }

    /// Whether replicas of the region do not answer.
    pub fn is_missing_replicas(self) -> bool {
        matches!(self, Self::Missing | Self::NoMajority)
    }

    /// In a few words.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoMajority => "no majority",
            Self::NoLeader => "leader silent",
            Self::UnknownLeader => "leader unknown",
            Self::Missing => "replicas missing",
            Self::Pair => "two replicas",
            Self::Single => "one replica",
        }
    }

    /// `missed` are the stores of the replicas that do not answer of regions without a majority.
    fn finding(self, ids: Vec<u64>, missed: &BTreeSet<u64>) -> Finding {
        let (what, to_do) = match self {
            Self::NoMajority => (
                "too few replicas answer for reads and writes",
                "start the stores that do not answer again with their --data-dir: nothing is read or written before more than \
                 half of the replicas answer, and `rdbctl region list` says where those are. If half of them or more are gone for \
                 good, the region cannot be served any more, and other stores do not help: import an export into a new cluster",
            ),
            Self::NoLeader => (
                "the replica that leads does not answer",
                "look again in ten seconds: more than half of the replicas answer, and elect a leader. If they do not, \
                 see the logs of their stores",
            ),
            Self::UnknownLeader => (
                "the placement driver has not heard which replica leads",
                "look again in ten seconds: leaders report after a start of the placement driver, or replicas elect one. If \
                 they do not, see the logs of their stores",
            ),
            Self::Missing => (
                "reads and writes go on, but not all replicas answer",
                "see to the stores above that do not answer, or to the replicas that `rdbctl region list` shows as \
                 (absent)",
            ),
            Self::Pair => (
                "there are two replicas only, and reads and writes stop with either store",
                "have at least three stores; rdb-pd --replicas says how many replicas there are to be",
            ),
            Self::Single => (
                "there is one replica only, and its data is lost with its store",
                "have at least three stores; rdb-pd --replicas says how many replicas there are to be",
            ),
        };
        let missing = if self == Self::NoMajority && !missed.is_empty() {
            let missed: Vec<_> = missed.iter().copied().collect();
            format!("; none on {} does", named("store", &missed))
        } else {
            String::new()
        };
        let what = format!("{}: {what}{missing}", named("region", &ids));
        let finding = match self {
            Self::UnknownLeader | Self::Pair | Self::Single => Finding::notice(what, to_do),
            Self::NoMajority | Self::NoLeader | Self::Missing => Finding::alarm(what, to_do),
        };
        finding.of_regions(ids)
    }
}

/// What is wrong with regions, of which the ids and troubles are given: a finding for each trouble, the worst first. `missed` are the
/// stores of the voters that do not answer of regions without a majority.
pub fn of_regions(
    regions: impl IntoIterator<Item = (u64, RegionTrouble)>,
    missed: &BTreeSet<u64>,
) -> Vec<Finding> {
    let mut in_trouble: BTreeMap<RegionTrouble, Vec<u64>> = BTreeMap::new();
    for (id, trouble) in regions {
        in_trouble.entry(trouble).or_default().push(id);
    }
    let in_trouble = in_trouble.into_iter();
    in_trouble
        .map(|(trouble, ids)| trouble.finding(ids, missed))
        .collect()
}

fn named(noun: &str, ids: &[u64]) -> String {
    let shown = ids.iter().take(NAMED_MAX);
    let shown: Vec<String> = shown.map(u64::to_string).collect();
    let plural = if ids.len() == 1 { "" } else { "s" };
    let rest = match ids.len() - shown.len() {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    format!("{noun}{plural} {}{rest}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_trouble_of_a_region_is_told() {
        for (voters, alive, lead, trouble) in [
            (3, 3, Lead::Answers, None),
            (3, 2, Lead::Answers, Some(RegionTrouble::Missing)),
            (3, 2, Lead::Silent, Some(RegionTrouble::NoLeader)),
            (3, 3, Lead::Unknown, Some(RegionTrouble::UnknownLeader)),
            (3, 1, Lead::Answers, Some(RegionTrouble::NoMajority)),
            (1, 1, Lead::Answers, Some(RegionTrouble::Single)),
            (2, 2, Lead::Answers, Some(RegionTrouble::Pair)),
            (0, 0, Lead::Unknown, Some(RegionTrouble::NoMajority)),
        ] {
            assert_eq!(RegionTrouble::of(voters, alive, lead), trouble);
        }
    }

    #[test]
    fn regions_in_one_trouble_are_one_finding_which_names_a_few() {
        let many = (1..=9).map(|id| (id, RegionTrouble::Missing));
        let one = [(10, RegionTrouble::NoMajority)];
        let findings = of_regions(many.chain(one), &BTreeSet::from([2, 3]));
        let [worst, missing] = &findings[..] else {
            panic!("{findings:?}");
        };
        assert!(worst.what.starts_with("region 10: too few"), "{worst:?}");
        let ends_with = "; none on stores 2, 3 does";
        assert!(worst.what.ends_with(ends_with), "{worst:?}");
        assert!(
            worst.to_do.contains("cannot be served any more"),
            "{worst:?}"
        );
        let named = "regions 1, 2, 3, 4, 5 and 4 more: reads and writes go on";
        assert!(missing.what.starts_with(named), "{missing:?}");
        assert_eq!(missing.region_ids.len(), 9);
    }
}
