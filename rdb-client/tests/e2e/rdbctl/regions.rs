//! What the command line tells of regions and stores, and what it says of a check.

use serde_json::json;

use super::{DONE, FAILED, NOT_FOUND, Rdbctl, USAGE, assert_exit, errors, objects};
use crate::harness::{Cluster, found};

#[tokio::test]
async fn a_region_and_a_store_are_shown_by_their_ids() {
    let cluster = Cluster::start().await;
    let rdbctl = Rdbctl::of(&cluster);
    // A store may serve before its first heartbeat has told in which term it leads.
    let is_led = async || {
        let listed = rdbctl.run(["region", "list", "-o", "json"]).await;
        assert_exit(&listed, DONE, "region list");
        let region = objects(&listed).swap_remove(0);
        let term = region["term"].as_u64()?;
        Some((region, term))
    };
    let (region, term) = &found("the region is led", is_led).await;
    let store_id = &region["peers"][0]["store_id"];
    assert_eq!(
        region["peers"][0]["address"],
        json!(cluster.store.address())
    );
    let by_id = [
        "region",
        "show",
        "--id",
        &region["id"].to_string(),
        "-o",
        "json",
    ];
    let by_id = rdbctl.run(by_id).await;
    assert_exit(&by_id, DONE, "region show --id");
    let of_key = rdbctl.run(["region", "show", "k", "-o", "json"]).await;
    for shown in [by_id, of_key] {
        assert_eq!(objects(&shown)[0]["id"], region["id"]);
    }
    let stored = ["store", "show", &store_id.to_string(), "-o", "json"];
    let stored = rdbctl.run(stored).await;
    assert_exit(&stored, DONE, "store show");
    let store = &objects(&stored)[0];
    assert_eq!(
        (&store["id"], &store["region_count"]),
        (store_id, &json!(1))
    );

    let (region, to) = (region["id"].to_string(), store_id.to_string());
    let transfer = ["operator", "transfer-leader", &region, &to];
    let transferred = rdbctl.run(transfer).await;
    assert_exit(&transferred, DONE, "it leads already");
    let told = format!("store {to} leads region {region} in term {term}\n");
    assert_eq!(String::from_utf8_lossy(&transferred.stdout), told);
    let transferred = rdbctl.run(transfer.iter().chain(&["-o", "json"])).await;
    let told = json!({"store_id": store_id, "region_id": 1, "term": term});
    assert_eq!(objects(&transferred), [told]);

    for (arguments, code) in [
        (&["region", "show", "--id", "99"][..], NOT_FOUND),
        (&["region", "check", "--id", "99"], NOT_FOUND),
        (&["store", "show", "99"], NOT_FOUND),
        (&["region", "show"], USAGE),
        (&["region", "show", "k", "--id", "1"], USAGE),
        (&["region", "check", "--id", "0"], USAGE),
        (&["store", "show", "0"], USAGE),
        (&["operator", "transfer-leader", "99", "1"], NOT_FOUND),
        (&["operator", "transfer-leader", "1", "99"], USAGE),
        (&["operator", "transfer-leader", "1"], USAGE),
    ] {
        let refused = rdbctl.run(arguments).await;
        assert_exit(&refused, code, arguments);
    }
}

#[tokio::test]
async fn a_check_of_a_sole_replica_succeeds_and_one_without_an_answer_names_the_store() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.raw_put("a", "12").await.expect("put");
    client.cas_put("b", 0, "345").await.expect("swapped");
    let rdbctl = Rdbctl::of(&cluster);
    let check = async || {
        let check = ["region", "check", "-o", "json", "--timeout", "10m"];
        rdbctl.run(check).await
    };
    let checked = check().await;
    assert_exit(&checked, DONE, "region check");
    let rows = objects(&checked);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["status"], "equal");
    assert_eq!(
        (&rows[0]["key_count"], &rows[0]["bytes"]),
        (&json!(2), &json!(3 + 12))
    );
    let checksum = rows[0]["checksum"].as_str().expect("it is there");
    assert_eq!(checksum.len(), 32);

    cluster.store.kill();
    cluster.store.start_serving().await;
    let again = check().await;
    assert_exit(&again, DONE, "the check is applied again, and another one");
    assert_eq!(objects(&again)[0]["checksum"], checksum);

    cluster.store.kill();
    let without = rdbctl.run(["region", "check", "--timeout", "1s"]).await;
    assert_exit(&without, FAILED, "nobody leads");
    assert!(
        errors(&without).contains("region 1"),
        "{}",
        errors(&without)
    );
}
