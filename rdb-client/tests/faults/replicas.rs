//! Whether all replicas hold the same.

use std::fmt::Write as _;

use rdb_client::{Client, ReplicaOutcome};

use crate::harness::found;
use crate::stores::STORES;

/// What differs between replicas at one position of a region's log. All stores are up. A check is made again when a replica has no
/// checksum, such as one that got its data by a snapshot meanwhile.
pub(crate) async fn problems(pd_address: &str) -> String {
    let client = Client::connect([pd_address]).await;
    let client = client.expect("the placement driver serves");
    let routes = client.regions().await.expect("it answers");
    assert!(!routes.is_empty(), "there is a region");
    let mut problems = String::new();
    for route in &routes {
        let check = found("all replicas have a checksum", async || {
            let check = client.check_region(route).await.ok()?;
            let has_checksum =
                |outcome: &ReplicaOutcome| matches!(outcome, ReplicaOutcome::Checksum { .. });
            let mut replicas = check.replicas.iter();
            replicas
                .all(|replica| has_checksum(&replica.outcome))
                .then_some(check)
        });
        let check = check.await;
        assert_eq!(check.replicas.len(), STORES, "each store has a replica");
        let first = &check.replicas[0].outcome;
        if check
            .replicas
            .iter()
            .any(|replica| replica.outcome != *first)
        {
            let _ = writeln!(problems, "the replicas differ: {check:#?}");
        }
    }
    problems
}
