//! The wire is cut: a store in a network namespace of its own, whose link goes down and comes back. Skipped where this process may not make
//! namespaces.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use rdb_client::Error;

use crate::harness::{CallPath, Cluster, guarded, over_both_paths, skipped};

/// What a call may take while the wire is cut. Connections are given up after 15 s of silence.
const PATIENCE: Duration = Duration::from_secs(2);

fn ip(arguments: &[&str]) -> bool {
    let output = Command::new("ip").args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

/// A namespace that is reached over one link. Both go when this is dropped.
struct Namespace {
    name: String,
    link: String,
    /// The address inside, of a network of its own: both paths may be under test at a time, in several processes, and one that
    /// was killed leaves its link behind.
    address: String,
}

impl Namespace {
    fn make(path: CallPath) -> Option<Self> {
        let process = std::process::id();
        let (id, net) = match path {
            CallPath::Unary => (format!("{process}u"), 2 * process),
            CallPath::Batched => (format!("{process}b"), 2 * process + 1),
        };
        let (name, link, inner) = (
            format!("flaredb-{id}"),
            format!("fdb{id}"),
            format!("fdbi{id}"),
        );
        // One of the networks of four addresses of the block for benchmarks between networks (RFC 2544), which nothing routes.
        let network = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + net % (1 << 15) * 4;
        let outside = &format!("{}/30", Ipv4Addr::from(network + 1));
        let address = Ipv4Addr::from(network + 2).to_string();
        if !ip(&["netns", "add", &name]) {
            return None;
        }
        let namespace = Self {
            name: name.clone(),
            link: link.clone(),
            address: address.clone(),
        };
        let inside = |arguments: &[&str]| ip(&[&["-n", &name], arguments].concat());
        let made = ip(&[
            "link", "add", &link, "type", "veth", "peer", "name", &inner, "netns", &name,
        ]) && ip(&["address", "add", outside, "dev", &link])
            && ip(&["link", "set", &link, "up"])
            && inside(&["address", "add", &format!("{address}/30"), "dev", &inner])
            && inside(&["link", "set", &inner, "up"])
            && inside(&["link", "set", "lo", "up"]);
        made.then_some(namespace)
    }

    fn cut(&self) {
        assert!(ip(&["link", "set", &self.link, "down"]));
    }

    fn mend(&self) {
        assert!(ip(&["link", "set", &self.link, "up"]));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["link", "delete", &self.link]);
        ip(&["netns", "delete", &self.name]);
    }
}

over_both_paths! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    calls_over_a_cut_wire_end_in_time_with_the_right_fate_and_go_on_when_it_is_mended,
}

async fn calls_over_a_cut_wire_end_in_time_with_the_right_fate_and_go_on_when_it_is_mended(
    path: CallPath,
) {
    let Some(namespace) = Namespace::make(path) else {
        skipped("this process may not make network namespaces");
        return;
    };
    let mut cluster = Cluster::prepare_in(&namespace.name, &namespace.address);
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let client = cluster.client_over(path).await;
    assert_eq!(client.cas_put("counter", 0, "0").await, Ok(1));

    namespace.cut();
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

    namespace.mend();
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
