//! Whether all replicas hold the same.

use std::fmt::Write as _;

use rdb_client::{Client, RegionCheck, ReplicaCheck, ReplicaOutcome};

use crate::harness::found;
use crate::stores::STORES;

/// What a replica answers that has applied the check but has stored another position.
const ANOTHER_POSITION: &str = "its snapshot was taken at another position";

/// What differs between replicas at one position of a region's log. All stores are up. A check is made again when a replica has no
/// checksum, such as one that got its data by a snapshot meanwhile.
pub(crate) async fn problems(pd_address: &str) -> String {
    let client = Client::connect([pd_address]).await;
    let client = client.expect("the placement driver serves");
    let routes = client.regions().await.expect("it answers");
    assert!(!routes.is_empty(), "there is a region");
    let mut problems = String::new();
    for route in &routes {
        let decided = async || match client.check_region(route).await {
            Ok(check) if is_decided(&check) => Some(check),
            again => {
                println!("the check is made again after {again:?}");
                None
            }
        };
        let check = found("a check of the replicas is decided", decided).await;
        assert_eq!(check.replicas.len(), STORES, "no replica is missing");
        if !are_equal(&check.replicas) {
            let _ = writeln!(problems, "the replicas do not hold the same: {check:#?}");
        }
    }
    problems
}

fn is_decided(check: &RegionCheck) -> bool {
    let mut outcomes = check.replicas.iter().map(|replica| &replica.outcome);
    outcomes.clone().any(is_at_another_position)
        || outcomes
            .clone()
            .all(|outcome| matches!(outcome, ReplicaOutcome::Checksum { .. }))
        || outcomes.all(has_applied_nothing)
}

/// A leader that has answered clients has applied something.
fn has_applied_nothing(outcome: &ReplicaOutcome) -> bool {
    matches!(outcome, ReplicaOutcome::NotReached { applied_index: 0 })
}

fn is_at_another_position(outcome: &ReplicaOutcome) -> bool {
    matches!(outcome, ReplicaOutcome::NoChecksum { cause } if cause == ANOTHER_POSITION)
}

fn are_equal(replicas: &[ReplicaCheck]) -> bool {
    let mut outcomes = replicas.iter().map(|replica| &replica.outcome);
    let first = &replicas[0].outcome;
    matches!(first, ReplicaOutcome::Checksum { .. }) && outcomes.all(|outcome| outcome == first)
}
