//! The wire between a client and its cluster is cut: the link goes down and comes back.

use std::time::Duration;

use rdb_client::Error;

use crate::harness::{CallPath, Cluster, guarded, over_both_paths, skipped};
use crate::janitor::Janitor;
use crate::network::Network;

/// What a call may take while the wire is cut. Connections are given up after 15 s of silence.
const PATIENCE: Duration = Duration::from_secs(2);

over_both_paths! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    calls_over_a_cut_wire_end_in_time_with_the_right_fate_and_go_on_when_it_is_mended,
}

async fn calls_over_a_cut_wire_end_in_time_with_the_right_fate_and_go_on_when_it_is_mended(
    path: CallPath,
) {
    let network = Network::of(1);
    let _janitor = Janitor::engage(&network.bridge(), &network.namespaces());
    if !network.make() {
        skipped("this process may not make network namespaces");
        return;
    }
    let mut cluster = Cluster::prepare_in(&network.namespace(0), &network.host(0));
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let client = cluster.client_over(path).await;
    assert_eq!(client.cas_put("counter", 0, "0").await, Ok(1));

    network.unplug(0);
    let impatient = client.with_timeout(PATIENCE);
    let written = guarded("the deadline", impatient.cas_put("counter", 1, "1")).await;
    assert!(
        matches!(written, Err(Error::Undetermined { .. })),
        "it was sent: {written:?}"
    );
    let read = guarded("the deadline", impatient.get("counter")).await;
    let unanswered = matches!(
        read,
        Err(Error::DeadlineExceeded { .. } | Error::Unavailable { .. })
    );
    assert!(unanswered, "{read:?}");
    let timestamp = guarded("the deadline", impatient.tso()).await;
    assert!(matches!(
        timestamp,
        Err(Error::DeadlineExceeded { .. } | Error::Unavailable { .. })
    ));

    network.plug(0);
    let entry = guarded("reads go on", async {
        loop {
            if let Ok(entry) = client.get("counter").await {
                return entry.expect("it was created");
            }
        }
    })
    .await;
    // The packets may have got through after all, and the write may be on its way still; it is applied once at most.
    assert!([1, 2].contains(&entry.version), "{entry:?}");
    let version = match client.cas_put("counter", entry.version, "2").await {
        Err(Error::Conflict {
            current_version, ..
        }) if entry.version == 1 => {
            assert_eq!(current_version, 2, "applied after the read");
            client.cas_put("counter", 2, "2").await
        }
        swapped => swapped,
    };
    assert!([Ok(2), Ok(3)].contains(&version), "{version:?}");
    client.tso().await.expect("timestamps go on");
}
