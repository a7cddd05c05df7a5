//! Which process answers at an address, and what becomes of a command that is sent to the wrong one.

use rdb_proto::errorpb::NotReady;
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::metapb::{Store, StoreStats};
use serde_json::{Value, json};

use super::{FAILED, Rdbctl, USAGE, assert_exit, errors, objects};
use crate::fates::cluster as scripted;
use crate::harness::Cluster;

/// Time enough for a busy machine where what is asked does answer.
const PATIENT: &str = "10m";

#[tokio::test]
async fn without_a_placement_driver_health_has_its_rows_and_a_failure_says_it_once() {
    let mut cluster = Cluster::start().await;
    cluster.pd.kill();
    let rdbctl = Rdbctl::of(&cluster);
    let health = rdbctl.run(["health", "-o", "json"]).await;
    assert_exit(&health, FAILED, "health");
    let lines = objects(&health);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0]["address"], json!(cluster.pd.address()));
    assert_eq!(lines[0]["status"], "unreachable");
    assert_eq!(
        lines[1]["error"]["message"],
        "1 of 1 processes are not serving, and no store is known"
    );

    let read = rdbctl.run(["raw", "get", "k", "--timeout", "1s"]).await;
    assert_exit(&read, FAILED, "a read");
    let errors = errors(&read);
    assert!(errors.matches("unavailable").count() <= 1, "{errors}");
}

#[tokio::test]
async fn a_store_that_is_asked_as_a_placement_driver_is_called_that() {
    let cluster = scripted::Cluster::start().await;
    let (store, pd) = (cluster.node.proxy.address, cluster.pd.proxy.address);
    let refusal = format!("error: --pd: {store} is no placement driver\n");
    let rdbctl = Rdbctl::at(store);
    let read = rdbctl.run(["raw", "get", "k", "--timeout", PATIENT]).await;
    assert_exit(&read, USAGE, "a read");
    assert_eq!(errors(&read), refusal);
    for both in [format!("{store},{pd}"), format!("{pd},{store}")] {
        let read = rdbctl
            .run(["raw", "get", "k", "--timeout", PATIENT, "--pd", &both])
            .await;
        assert_exit(&read, USAGE, &both);
        assert_eq!(errors(&read), refusal);
    }
    let health = rdbctl
        .run(["health", "-o", "json", "--timeout", PATIENT])
        .await;
    assert_exit(&health, FAILED, "health");
    let row = &objects(&health)[0];
    assert_eq!(row["status"], "wrong_process");
    assert_eq!(row["cause"], format!("{store} is no placement driver"));
}

#[tokio::test]
async fn health_tells_who_answers_at_an_address_and_why_it_does_not_serve() {
    let cluster = scripted::Cluster::start().await;
    let stopping = scripted::StoreNode::start(3, Vec::new()).await;
    let reason = "the store is shutting down".to_owned();
    stopping
        .store
        .refuse_always(Kind::NotReady(NotReady { reason }));
    let known = cluster.node.description();
    let full = StoreStats {
        available_bytes: 5,
        ..StoreStats::default()
    };
    cluster.node.set_serving(false);
    cluster.pd.pd.set_stores(vec![
        Store {
            stats: Some(full),
            ..known.clone()
        },
        Store { id: 2, ..known },
        stopping.description(),
        Store {
            id: 4,
            address: cluster.pd.proxy.address.to_string(),
            ..Store::default()
        },
    ]);
    let rdbctl = Rdbctl::at(cluster.pd.proxy.address);
    let health = rdbctl
        .run(["health", "-o", "json", "--timeout", PATIENT])
        .await;
    assert_exit(&health, FAILED, "health");
    let full =
        "it takes no writes (its last heartbeat: 5 bytes of its disk are free); its log says why";
    let rows = objects(&health);
    let rows = rows
        .iter()
        .map(|row| [&row["store_id"], &row["status"], &row["cause"]]);
    let rows: Vec<Value> = rows.map(|cells| json!(cells)).collect();
    assert_eq!(
        rows[..5],
        [
            json!([null, "serving", null]),
            json!([1, "not_serving", full]),
            json!([2, "wrong_process", "it is store 1"]),
            json!([3, "not_serving", "the store is shutting down"]),
            json!([4, "wrong_process", "it is no store"]),
        ]
    );
}

#[tokio::test]
async fn placement_drivers_of_different_clusters_are_refused_in_either_order() {
    let cluster = scripted::Cluster::start().await;
    let other = scripted::PdNode::start(scripted::CLUSTER_ID + 1).await;
    let (ours, other) = (cluster.pd.proxy.address, other.proxy.address);
    let rdbctl = Rdbctl::at(ours);
    for (first, second) in [(ours, other), (other, ours)] {
        let both = format!("{first},{second}");
        let write = rdbctl
            .run(["raw", "put", "k", "v", "--timeout", PATIENT, "--pd", &both])
            .await;
        assert_exit(&write, USAGE, &both);
        let foreign = format!("error: --pd: placement driver at {second} belongs to cluster");
        let errors = errors(&write);
        assert!(errors.contains(&foreign), "{errors}");

        let health = rdbctl
            .run(["health", "-o", "json", "--timeout", PATIENT, "--pd", &both])
            .await;
        assert_exit(&health, FAILED, &both);
        let rows = objects(&health);
        assert_eq!(rows[0]["status"], "serving");
        assert_eq!(rows[1]["status"], "wrong_process");
    }
    assert_eq!(cluster.node.store.applied("k"), 0);
}
