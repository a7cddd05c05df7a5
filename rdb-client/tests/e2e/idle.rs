//! Connections that nobody uses are closed, and their clients do not notice.

use crate::harness::{CallPath, Cluster, found, over_both_paths};

const CLOSED_TIMES: usize = 3;

/// How many connections the process that listens at `address` has open, as the kernel says.
fn connection_count(address: &str) -> usize {
    const ESTABLISHED: &str = "01";
    let (_, port) = address.rsplit_once(':').expect("host:port");
    let port: u16 = port.parse().expect("host:port");
    let local = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").expect("this is Linux");
    let is_ours = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns[1].ends_with(&local) && columns[3] == ESTABLISHED
    };
    table.lines().skip(1).filter(is_ours).count()
}

async fn calls_after_a_pause_do_not_fail(path: CallPath) {
    let mut cluster = Cluster::prepare();
    cluster.pd.start_serving().await;
    cluster.store = cluster.store.with_flag("--idle-timeout-s", "1");
    cluster.store.start_serving().await;
    let client = cluster.client_over(path).await;
    for round in 0..CLOSED_TIMES {
        client
            .raw_put("key", format!("{round}"))
            .await
            .expect("served");
        let read = client.raw_get("key").await.expect("served");
        assert_eq!(read.as_deref(), Some(round.to_string().as_bytes()));
        found("all connections are closed", async || {
            (connection_count(&cluster.store.address()) == 0).then_some(())
        })
        .await;
    }
}

over_both_paths!(
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    calls_after_a_pause_do_not_fail,
);
