//! Stores that leave, and replicas that somebody moves, as the command line tells of them.

use serde_json::{Value, json};

use super::{DONE, FAILED, NOT_FOUND, Rdbctl, USAGE, assert_exit, errors, objects};
use crate::harness::{Cluster, Node, found};

/// A cluster with a second store, which has no region. The leader has reported.
async fn two_stores() -> (Cluster, Node) {
    let cluster = Cluster::start().await;
    let directory = cluster.directory.path().join("second");
    let mut second = Node::store(directory, &cluster.pd.address());
    second.start_serving().await;
    let rdbctl = Rdbctl::of(&cluster);
    found("the leader has reported", async || {
        let regions = rdbctl.objects(&["region", "list"]).await;
        (!regions[0]["term"].is_null()).then_some(())
    })
    .await;
    (cluster, second)
}

impl Rdbctl {
    async fn objects(&self, arguments: &[&str]) -> Vec<Value> {
        let run = self.run(arguments.iter().chain(&["-o", "json"])).await;
        assert_exit(&run, DONE, arguments);
        objects(&run)
    }

    async fn refused(&self, arguments: &[&str], code: i32) -> String {
        let run = self.run(arguments).await;
        assert_exit(&run, code, arguments);
        errors(&run)
    }
}

#[tokio::test]
async fn a_store_without_replicas_leaves_at_once_ends_and_is_never_let_in_again() {
    let (cluster, mut second) = two_stores().await;
    let rdbctl = Rdbctl::of(&cluster);
    let left = json!({"store_id": 2, "state": "left", "region_count": 0});
    let removed = rdbctl.objects(&["store", "remove", "2"]).await;
    assert_eq!(removed, [left]);
    assert_eq!(second.exited().await.code(), Some(3));
    let log = second.log();
    assert!(log.contains("store 2 was removed"), "{log}");
    second.start();
    assert_eq!(second.exited().await.code(), Some(3));

    let again = rdbctl.run(["store", "remove", "2"]).await;
    assert_exit(&again, DONE, "the same again");
    assert_eq!(String::from_utf8_lossy(&again.stdout), "store 2 has left\n");
    let stores = rdbctl.objects(&["store", "list"]).await;
    assert_eq!((stores.len(), &stores[0]["id"]), (1, &json!(1)));
    let cancel = ["store", "remove", "2", "--cancel"];
    let told = rdbctl.refused(&cancel, FAILED).await;
    assert!(told.contains("cannot come back"), "{told}");
    let told = rdbctl.refused(&["store", "remove", "1"], FAILED).await;
    assert!(told.contains("Add a store first"), "{told}");
    let told = rdbctl.refused(&["store", "remove", "9"], NOT_FOUND).await;
    assert!(told.contains("there are stores 1"), "{told}");

    // Its machine comes back with an empty directory.
    std::fs::remove_dir_all(second.data_dir()).expect("it has ended");
    second.start_serving().await;
    let stores = rdbctl.objects(&["store", "list"]).await;
    let address = second.address();
    assert_eq!(
        (&stores[1]["id"], &stores[1]["address"]),
        (&json!(3), &json!(address))
    );
}

#[tokio::test]
async fn a_store_with_replicas_is_leaving_until_it_is_to_stay() {
    let (cluster, _second) = two_stores().await;
    let rdbctl = Rdbctl::of(&cluster);
    // So that its replica does not move.
    cluster.store.pause();
    let remove = rdbctl.run(["store", "remove", "1"]).await;
    assert_exit(&remove, DONE, "another store can hold the region");
    assert_eq!(
        String::from_utf8_lossy(&remove.stdout),
        "store 1 is leaving; 1 region has a replica on it\n"
    );
    let stores = rdbctl.objects(&["store", "list"]).await;
    assert_eq!(stores[0]["state"], "leaving");
    let shown = rdbctl.objects(&["store", "show", "1"]).await;
    assert_eq!(shown[0]["state"], "leaving");
    let added = rdbctl.run(["operator", "add-peer", "1", "1"]).await;
    assert_exit(&added, DONE, "it has one");
    assert_eq!(
        String::from_utf8_lossy(&added.stdout),
        "region 1: add-peer 1: done; nothing is to be done: the region is so\n"
    );
    let stays = rdbctl.objects(&["store", "remove", "1", "--cancel"]).await;
    assert_eq!(
        stays,
        [json!({"store_id": 1, "state": "stays", "region_count": 1})]
    );
    let stores = rdbctl.objects(&["store", "list"]).await;
    assert_ne!(stores[0]["state"], "leaving");
    cluster.store.resume();
}

#[tokio::test]
async fn a_change_of_a_region_is_listed_until_it_is_cancelled_and_afterwards() {
    let (cluster, _second) = two_stores().await;
    let rdbctl = Rdbctl::of(&cluster);
    assert!(rdbctl.objects(&["operator", "list"]).await.is_empty());
    // So that it is not made.
    cluster.store.pause();
    let added = rdbctl.objects(&["operator", "add-peer", "1", "2"]).await;
    let change = |operator: &Value| {
        let fields = ["region_id", "add_store_id", "remove_store_id", "state"];
        Value::from_iter(fields.map(|field| operator[field].clone()))
    };
    assert_eq!(change(&added[0]), json!([1, 2, null, "running"]));
    let again = rdbctl.objects(&["operator", "add-peer", "1", "2"]).await;
    assert_eq!(change(&again[0]), json!([1, 2, null, "running"]));
    let other = ["operator", "move-peer", "1", "1", "2"];
    let told = rdbctl.refused(&other, FAILED).await;
    assert!(told.contains("has an operator under way"), "{told}");
    let listed = rdbctl.objects(&["operator", "list"]).await;
    assert_eq!((listed.len(), change(&listed[0])), (1, change(&added[0])));
    assert!(
        listed[0]["status"]
            .as_str()
            .is_some_and(|status| !status.is_empty())
    );
    let text = rdbctl.run(["operator", "list"]).await;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("add-peer 2") && text.contains("running"),
        "{text}"
    );

    let cancelled = rdbctl.objects(&["operator", "cancel", "1"]).await;
    assert_eq!(change(&cancelled[0]), json!([1, 2, null, "cancelled"]));
    let again = rdbctl.objects(&["operator", "cancel", "1"]).await;
    assert_eq!(change(&again[0]), json!([1, 2, null, "cancelled"]));
    assert_eq!(again[0]["status"], "it was cancelled before");
    let moved = rdbctl.objects(&other).await;
    assert_eq!(change(&moved[0]), json!([1, 2, 1, "running"]));
    rdbctl.objects(&["operator", "cancel", "1"]).await;
    let listed = rdbctl.objects(&["operator", "list"]).await;
    assert_eq!(change(&listed[0]), json!([1, 2, 1, "cancelled"]));
    assert_eq!(listed.len(), 2);

    for (arguments, code, cause) in [
        (
            &["add-peer", "9", "2"][..],
            NOT_FOUND,
            "there are regions 1",
        ),
        (&["add-peer", "1", "9"], NOT_FOUND, "there are stores 1, 2"),
        (&["remove-peer", "1", "1"], FAILED, "the only replica"),
        (&["move-peer", "1", "1", "1"], USAGE, "STORE"),
        (&["cancel", "2"], NOT_FOUND, "no operator under way"),
    ] {
        let line = [&["operator"], arguments].concat();
        let told = rdbctl.refused(&line, code).await;
        assert!(told.contains(cause), "{told}");
    }
    let region = rdbctl.objects(&["region", "show", "--id", "1"]).await;
    assert_eq!(region[0]["peers"][0]["is_learner"], false);
    cluster.store.resume();
}
