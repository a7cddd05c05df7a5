//! What is wrong with a cluster and known only to the placement driver.

use std::time::Duration;

use super::Finding;
use super::store::{is_damage, not_serving_advice};
use crate::shown::time;

/// Most stores that are named at once.
const NAMED_MAX: usize = 3;

/// A store that the placement driver refuses, since it does not know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// The cluster that it belongs to.
    pub cluster_id: u64,
    /// Its id in that cluster.
    pub store_id: u64,
    /// Where it says that clients reach it. Fit to be shown.
    pub address: String,
}

/// What to do about a placement driver that says that it does not serve, for this cause. `process` names it.
pub fn placement_driver_advice(process: &str, cause: &str) -> String {
    if !is_damage(cause) {
        return not_serving_advice(process, cause);
    }
    format!(
        "a restart does not mend damaged data. Stop {process}, keep its directory, and restore the newest copy that there is. Start that \
         once with --tso-advance-ms, at least the age of the copy: without it timestamps and ids may repeat. Do not start with an empty \
         directory: that makes a new cluster"
    )
}

/// Stores of other clusters report to the placement driver of cluster `ours`.
pub fn of_foreign_stores(ours: u64, stores: &[Stranger]) -> Finding {
    let name = |store: &Stranger| format!("{} of cluster {}", named(store), store.cluster_id);
    Finding::alarm(
        format!(
            "stores of another cluster report here and are refused: {}; this is cluster {ours}",
            listed(stores, name)
        ),
        "if they are to be served here, this placement driver was given a new or the wrong --data-dir: stop it, and start it with the \
         right one; start no store before. A copy of that one is started once with --tso-advance-ms, at least the age of the copy: without \
         it timestamps and ids may repeat. Else give those stores their own placement driver with --pd",
    )
}

/// The data directory of the placement driver lacks what the cluster has: `stores`, whose ids it has never given out, or replicas of a
/// region that it has never named, some of them on stores with these ids that it does not know.
pub fn of_older_directory(stores: &[Stranger], replicas: Option<(u64, &[u64])>) -> Finding {
    let mut lacking = Vec::new();
    if !stores.is_empty() {
        lacking.push(format!(
            "it has never given out the ids of {}",
            listed(stores, named)
        ));
    }
    if let Some((region_id, store_ids)) = replicas {
        let mut lacks = format!("it has never named all replicas of region {region_id}");
        if !store_ids.is_empty() {
            let ids = listed(store_ids, u64::to_string);
            lacks.push_str(&format!(", and knows no store with the id {ids}"));
        }
        lacking.push(lacks);
    }
    let region_ids = replicas.map(|(region_id, _)| region_id);
    Finding::alarm(
        format!(
            "the data directory of the placement driver looks older than the cluster: {}",
            lacking.join("; ")
        ),
        "stop rdb-pd, and start it with the newest data directory that there is. If that is this one, start it once with \
         --tso-advance-ms, at least the age of the copy: without it timestamps and ids may repeat",
    )
    .of_regions(region_ids.into_iter().collect())
}

/// Stores of the cluster are refused whose ids may have been given out, and that have no record. None has reported for the time of
/// `silence`, if that is known to be long. `may_be_needed`: they may have the only copies of data, since a region has no leader, or has a
/// replica on one of them.
pub fn of_unknown_stores(
    stores: &[Stranger],
    silence: Option<Duration>,
    may_be_needed: bool,
) -> Finding {
    let refused = match silence {
        Some(silence) => {
            let ago = time(silence.as_millis() as u64);
            format!("reported here and were refused, the last time {ago} ago")
        }
        None => "report here and are refused".to_owned(),
    };
    let to_do = if may_be_needed {
        "they may have the only copies of data: keep their directories. They registered after the copy was made that the data directory of \
         the placement driver comes from, or ended before they had registered. Where there is a newer data directory of the placement \
         driver, stop rdb-pd and start it with that one. Where all regions have leaders, move the replicas on these stores to others \
         (`rdbctl region list`, `rdbctl operator move-peer`)"
    } else {
        "they registered after the copy was made that the data directory of the placement driver comes from, or ended before they had \
         registered. All regions have leaders, and none has a replica on them. For as long as that is so, they can be started with empty \
         data directories; keep the old ones aside until all data was seen"
    };
    Finding::alarm(
        format!(
            "stores of this cluster {refused}, since the placement driver has no record of them: {}",
            listed(stores, named)
        ),
        to_do,
    )
}

/// What the first region waits for, of a cluster that has none.
pub fn first_region_waits(missing: usize, initial_replicas: usize) -> String {
    let stores = if missing == 1 { "store" } else { "stores" };
    format!(
        "the first region waits for {missing} more {stores} (--initial-replicas {initial_replicas})"
    )
}

/// A cluster has stores, but fewer than its first region waits for.
pub fn of_missing_stores(missing: usize, initial_replicas: usize) -> Finding {
    let waits = first_region_waits(missing, initial_replicas);
    Finding::alarm(
        format!("{waits}: nothing can be read or written before"),
        "start as many: rdb-server --pd ADDR --data-dir DIR. If they run, see their logs: a store counts once it has registered, for as long \
         as it is up and is not to leave, and not with --durability=os",
    )
}

fn named(store: &Stranger) -> String {
    format!("store {} at {}", store.store_id, store.address)
}

/// The first of `all`, and how many others there are.
fn listed<T>(all: &[T], name: impl Fn(&T) -> String) -> String {
    let first: Vec<String> = all.iter().take(NAMED_MAX).map(name).collect();
    let first = first.join(", ");
    match all.len().saturating_sub(NAMED_MAX) {
        0 => first,
        others => format!("{first} and {others} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    fn strangers(count: u64) -> Vec<Stranger> {
        let ids = 1..=count;
        let stranger = |store_id| Stranger {
            cluster_id: 77,
            store_id,
            address: format!("host{store_id}:1"),
        };
        ids.map(stranger).collect()
    }

    #[test]
    fn stores_of_another_cluster_are_named_with_it_and_with_the_data_directory_as_the_cause() {
        let finding = of_foreign_stores(5, &strangers(1));
        assert_eq!(finding.severity, Severity::Alarm);
        assert_eq!(
            finding.what,
            "stores of another cluster report here and are refused: store 1 at host1:1 of cluster 77; this is cluster 5"
        );
        for part in [
            "wrong --data-dir",
            "start no store before",
            "once with --tso-advance-ms",
        ] {
            assert!(finding.to_do.contains(part), "{}", finding.to_do);
        }
        let many = of_foreign_stores(5, &strangers(5)).what;
        assert!(many.contains("host3:1 of cluster 77 and 2 more;"), "{many}");
    }

    #[test]
    fn an_older_directory_is_told_by_what_it_lacks_with_the_flag_that_helps() {
        for (stores, replicas, lacks) in [
            (
                strangers(1),
                None,
                "it has never given out the ids of store 1 at host1:1",
            ),
            (
                Vec::new(),
                Some((7, &[9][..])),
                "it has never named all replicas of region 7, and knows no store with the id 9",
            ),
            (
                Vec::new(),
                Some((7, &[][..])),
                "it has never named all replicas of region 7",
            ),
        ] {
            let finding = of_older_directory(&stores, replicas);
            let what = "the data directory of the placement driver looks older than the cluster";
            assert_eq!(finding.what, format!("{what}: {lacks}"));
            assert_eq!(finding.severity, Severity::Alarm);
            assert_eq!(finding.region_ids.len(), usize::from(replicas.is_some()));
            let to_do = finding.to_do;
            assert!(to_do.contains("once with --tso-advance-ms"), "{to_do}");
        }
    }

    #[test]
    fn damage_of_the_placement_driver_is_answered_with_a_copy_that_is_moved_ahead() {
        let process = "the placement driver at pd:1";
        let damage = "writes have stopped: Corruption: block checksum mismatch";
        let to_do = placement_driver_advice(process, damage);
        assert!(to_do.contains("once with --tso-advance-ms"), "{to_do}");
        assert!(!to_do.contains("store remove"), "{to_do}");
        let full = placement_driver_advice(process, "IO error: No space left on device");
        assert!(full.contains("free space"), "{full}");
    }

    #[test]
    fn directories_that_may_have_the_only_copies_of_data_are_kept() {
        for (may_be_needed, told, untold) in [
            (true, "keep their directories", "empty"),
            (false, "with empty data directories", "only copies"),
        ] {
            let to_do = of_unknown_stores(&strangers(1), None, may_be_needed).to_do;
            assert!(to_do.contains(told), "{to_do}");
            assert!(!to_do.contains(untold), "{to_do}");
        }
    }

    #[test]
    fn stores_that_have_fallen_silent_since_are_told_as_such() {
        for (silence, told) in [
            (None, "report here and are refused, since"),
            (
                Some(Duration::from_secs(120)),
                "reported here and were refused, the last time 2m0s ago, since",
            ),
        ] {
            let what = of_unknown_stores(&strangers(1), silence, true).what;
            assert!(what.contains(told), "{what}");
        }
    }

    #[test]
    fn what_the_first_region_waits_for_is_counted() {
        for (missing, waits) in [
            (1, "waits for 1 more store (--initial-replicas 3)"),
            (2, "waits for 2 more stores (--initial-replicas 3)"),
        ] {
            let finding = of_missing_stores(missing, 3);
            assert_eq!(finding.severity, Severity::Alarm);
            assert!(finding.what.contains(waits), "{}", finding.what);
        }
    }
}
