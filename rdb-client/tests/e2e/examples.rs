//! The examples do what their documentation says, each against a real cluster.

use std::process::{Command, Stdio};

use crate::harness::{Cluster, binary, guarded};

#[tokio::test]
async fn every_example_says_what_it_is_there_to_show() {
    let cluster = Cluster::start().await;
    for (example, expected) in [
        ("counter", &["counted 200 from 0 to 200"][..]),
        ("counter", &["counted 200 from 200 to 400"]),
        (
            "lock",
            &[
                "quick writes: true",
                "slow writes with its old token: false",
            ],
        ),
        ("lock", &["slow writes with its old token: false"]),
        ("queue", &["4 consumers took 20 messages"]),
        #[cfg(feature = "metrics")]
        (
            "client_metrics",
            &[
                "flaredb_client_calls_total{kind=\"raw_put\",outcome=\"ok\"} 100",
                "flaredb_client_calls_total{kind=\"compare_and_swap\",outcome=\"conflict\"} 1",
                "# TYPE flaredb_client_call_duration_seconds histogram",
            ],
        ),
        (
            "timestamps",
            &[
                "in order over two clients: true",
                "1000 at once",
                "stored and read back unchanged: true",
            ],
        ),
    ] {
        let output = run(example, &cluster.pd.address()).await;
        for expected in expected {
            assert!(output.contains(expected), "{example}: {output}");
        }
    }
}

/// What an example prints, of one that succeeds.
async fn run(example: &str, pd_address: &str) -> String {
    let mut command = Command::new(binary(&format!("examples/{example}")));
    command
        .arg(pd_address)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let ended = tokio::task::spawn_blocking(move || command.output());
    let ended = guarded(example, ended).await.expect("no panic");
    let output = ended.expect("the example can be started");
    assert!(output.status.success(), "{example}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}
