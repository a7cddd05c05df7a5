//! Asked to stop: what is in flight is answered, streams are ended, nothing acknowledged is lost, and the exit code is 0.

use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use rdb_client::{Client, Error};
use rdb_proto::pdpb::GetTsoRequest;
use rdb_proto::pdpb::pd_client::PdClient;
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use crate::harness::{
    CallPath, Cluster, HANG_GUARD, Node, binary, connect, found, guarded, over_both_paths, skipped,
};
use crate::held_disk;
use crate::shim::Shim;

/// What the design promises for a drain.
const DRAIN_MAX: Duration = Duration::from_secs(10);

const WRITERS: u64 = 8;

/// Puts keys that nobody else writes, one after the other until told to stop. Returns how many were acknowledged.
async fn write(
    client: Client,
    writer: u64,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> u64 {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        match client
            .raw_put(format!("{writer}/{count}"), count.to_string())
            .await
        {
            Ok(()) => count += 1,
            Err(
                Error::Unavailable { .. }
                | Error::DeadlineExceeded { .. }
                | Error::Undetermined { .. },
            ) => break,
            Err(error) => panic!("{error:?}"),
        }
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    count
}

/// Everything that a client can hold open against a process, and that the process ends by itself when it drains.
async fn hold_open(address: &str) -> JoinSet<ServingStatus> {
    let mut held = JoinSet::new();
    let channel = connect(address).await.expect("the process listens");
    let watch = HealthClient::new(channel)
        .watch(HealthCheckRequest::default())
        .await;
    let mut statuses = watch.expect("served").into_inner();
    held.spawn(async move {
        let mut last = ServingStatus::Unknown;
        while let Ok(Some(status)) = statuses.message().await {
            last = status.status();
        }
        last
    });
    let silent = TcpStream::connect(address)
        .await
        .expect("the process listens");
    let idle = connect(address).await.expect("the process listens");
    held.spawn(async move {
        let _held = (silent, idle);
        futures::future::pending().await
    });
    held
}

/// Asked to stop, and asked again while at it, a process ends in time, and nothing has to be cut off.
async fn assert_drains(node: &mut Node) {
    node.terminate();
    node.terminate();
    assert_ends_well(node).await;
    let log = node.log();
    assert!(
        !log.contains("still in flight"),
        "a call was cut off: {log}"
    );
}

async fn assert_ends_well(node: &mut Node) {
    let asked = Instant::now();
    let status = node.exited().await;
    let took = asked.elapsed();
    println!("drained in {took:?}");
    assert!(status.success(), "{status}");
    assert!(took < DRAIN_MAX, "{took:?}");
}

over_both_paths! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    a_drain_under_load_ends_in_time_and_loses_nothing_acknowledged,
}

async fn a_drain_under_load_ends_in_time_and_loses_nothing_acknowledged(path: CallPath) {
    let mut cluster = Cluster::start().await;
    let client = cluster.client_over(path).await.with_timeout(HANG_GUARD);
    let (acknowledged, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let write = write(
            client.clone(),
            writer,
            Arc::clone(&acknowledged),
            Arc::clone(&stop),
        );
        writers.spawn(async move { (writer, write.await) });
    }
    let mut held = hold_open(&cluster.store.address()).await;
    guarded("writes are under way", async {
        while acknowledged.load(Ordering::Relaxed) < 50 * WRITERS {
            tokio::task::yield_now().await;
        }
    })
    .await;

    assert_drains(&mut cluster.store).await;
    stop.store(true, Ordering::Relaxed);
    let last_status = guarded("the watch ends", held.join_next()).await;
    assert_eq!(
        last_status.expect("two tasks").expect("no panic"),
        ServingStatus::NotServing
    );
    // Calls that the drain refused are made again until there is a store.
    cluster.store.start_serving().await;
    let counts = guarded("writers end", writers.join_all()).await;

    let client = cluster.client().await;
    for (writer, count) in counts {
        for number in 0..count {
            let value = client.raw_get(format!("{writer}/{number}")).await;
            assert_eq!(
                value,
                Ok(Some(number.to_string().into())),
                "{writer}/{number}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_of_timestamps_do_not_hold_up_the_placement_driver() {
    let mut cluster = Cluster::start().await;
    let address = cluster.pd.address();
    let mut held = hold_open(&address).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let channel = connect(&address).await.expect("the process listens");
        let one_then_silence = futures::stream::iter([GetTsoRequest { count: Some(7) }])
            .chain(futures::stream::pending());
        let mut answers = PdClient::new(channel)
            .tso(one_then_silence)
            .await
            .expect("served")
            .into_inner();
        assert!(answers.message().await.expect("an answer").is_some());
        streams.push(answers);
    }
    assert_drains(&mut cluster.pd).await;
    for mut answers in streams {
        let ended = guarded("the stream ends", answers.message()).await;
        assert!(matches!(ended, Ok(None)), "ended in good order: {ended:?}");
    }
    let last_status = guarded("the watch ends", held.join_next()).await;
    assert_eq!(
        last_status.expect("two tasks").expect("no panic"),
        ServingStatus::NotServing
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_from_the_terminal_is_a_drain_too() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.raw_put("k", "v").await.expect("served");
    cluster.store.signal(Signal::INT);
    assert_ends_well(&mut cluster.store).await;
    cluster.store.start_serving().await;
    assert_eq!(client.raw_get("k").await, Ok(Some("v".into())));
    cluster.pd.signal(Signal::INT);
    assert_ends_well(&mut cluster.pd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reflection_stream_that_never_ends_does_not_outlast_the_drain() {
    let mut cluster = Cluster::start().await;
    let mut streams = Vec::new();
    for address in [cluster.store.address(), cluster.pd.address()] {
        let channel = connect(&address).await.expect("the process listens");
        let stream = ServerReflectionClient::new(channel)
            .server_reflection_info(futures::stream::pending())
            .await;
        streams.push(stream.expect("served"));
    }
    cluster.store.terminate();
    cluster.pd.terminate();
    tokio::join!(
        assert_ends_well(&mut cluster.store),
        assert_ends_well(&mut cluster.pd),
    );
    drop(streams);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_still_waits_for_its_registration_stops_at_once() {
    let mut cluster = Cluster::of_a_waiting_store().await;
    assert_drains(&mut cluster.store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_log_waits_for_its_disk_stops_with_code_0_and_loses_nothing_acknowledged() {
    let Some((mut cluster, shim)) = held_disk::prepare() else {
        return skipped("there is no C compiler");
    };
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let client = cluster.client().await.with_timeout(HANG_GUARD);
    client.raw_put("acknowledged", "1").await.expect("put");

    let held_at = shim.hold_syncs();
    let writer = client.clone();
    let write = tokio::spawn(async move { writer.raw_put("held", "1").await });
    found("the write waits for a sync", async || {
        shim.has_unsynced_log(&held_at).then_some(())
    })
    .await;
    stops_though_its_disk_waits(&mut cluster.store, &shim).await;
    assert_eq!(client.raw_get("acknowledged").await, Ok(Some("1".into())));
    let written = guarded("the writer is answered", write).await;
    match written.expect("no panic") {
        Ok(()) => assert_eq!(client.raw_get("held").await, Ok(Some("1".into()))),
        Err(error) => assert!(matches!(error, Error::Undetermined { .. }), "{error:?}"),
    }
}

/// A thread of RocksDB is in the kernel at the end. The process neither waits for it nor lets it fall over what its end takes away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_flush_waits_for_its_disk_stops_with_code_0_and_loses_nothing() {
    let Some((mut cluster, shim)) = held_disk::prepare() else {
        return skipped("there is no C compiler");
    };
    cluster.store.set_environment("SHIM_HOLD_ENDING", ".sst");
    cluster.pd.start_serving().await;
    cluster.store.start_serving().await;
    let client = cluster.client().await.with_timeout(HANG_GUARD);
    client.raw_put("k", "v").await.expect("put");

    shim.hold_syncs();
    stops_though_its_disk_waits(&mut cluster.store, &shim).await;
    assert_eq!(client.raw_get("k").await, Ok(Some("v".into())));
}

/// Then it is started again, on a disk that works.
async fn stops_though_its_disk_waits(store: &mut Node, shim: &Shim) {
    store.terminate();
    let status = store.exited().await;
    let log = store.log();
    assert!(status.success(), "{status}: {log}");
    assert!(log.contains("flushing took too long"), "{log}");
    shim.release_syncs();
    store.start_serving().await;
}

/// Runs a server program that is expected to end by itself.
fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(binary(program))
        .args(arguments)
        .output()
        .expect("the binary can be started")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_start_says_why_and_its_exit_code_what_can_be_done() {
    let cluster = Cluster::start().await;
    let empty = tempfile::tempdir().expect("the temporary directory can be written");
    let other = empty.path().join("other").display().to_string();
    let taken = cluster.store.data_dir().display().to_string();
    let pd_directory = cluster.pd.data_dir().display().to_string();
    let address = cluster.store.address();
    let stranger = empty.path().join("stranger");
    std::fs::create_dir(&stranger).expect("a directory");
    std::fs::write(stranger.join("letter"), "dear diary").expect("a file");
    let stranger = stranger.display().to_string();
    for (code, program, arguments, says) in [
        (
            1,
            "rdb-server",
            &["--addr", &address, "--data-dir", &other][..],
            &address[..],
        ),
        (
            1,
            "rdb-server",
            &["--addr", "127.0.0.1:0", "--data-dir", &taken],
            "in use by another process",
        ),
        (
            1,
            "rdb-pd",
            &["--addr", "127.0.0.1:0", "--data-dir", &pd_directory],
            "in use by another process",
        ),
        (
            3,
            "rdb-server",
            &["--addr", "127.0.0.1:0", "--data-dir", &stranger],
            "not a FlareDB data directory",
        ),
        (
            2,
            "rdb-server",
            &["--addr", "0.0.0.0:0", "--data-dir", &other],
            "--advertise-addr",
        ),
        (
            2,
            "rdb-server",
            &["--pd", "nowhere", "--data-dir", &other],
            "--pd",
        ),
        (
            2,
            "rdb-server",
            &["--log-level", "a=b=c", "--data-dir", &other],
            "--log-level",
        ),
        (
            2,
            "rdb-pd",
            &["--clock-jump-max-s", "0", "--data-dir", &other],
            "--clock-jump-max-s",
        ),
    ] {
        let output = run(program, arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(says),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_server_does_not_take_a_placement_drivers_directory() {
    let directory = tempfile::tempdir().expect("the temporary directory can be written");
    std::fs::write(
        directory.path().join("flaredb.identity"),
        "role = pd\nformat = 1\ninitialized = no\n",
    )
    .expect("a file");
    let data_dir = directory.path().display().to_string();
    let output = run(
        "rdb-server",
        &["--addr", "127.0.0.1:0", "--data-dir", &data_dir],
    );
    assert_eq!(output.status.code(), Some(3));
    assert!(
        stderr(&output).contains("belongs to a pd"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn usage_errors_exit_with_2_and_help_gives_every_setting_its_variable_and_default() {
    for (program, prefix, settings) in [
        (
            "rdb-server",
            "RDB_SERVER",
            &[
                "addr",
                "advertise-addr",
                "pd",
                "data-dir",
                "durability",
                "block-cache-mib",
                "write-queue-mib",
                "bytes-in-flight-mib",
                "connections-max",
                "log-level",
            ][..],
        ),
        (
            "rdb-pd",
            "RDB_PD",
            &["addr", "data-dir", "clock-jump-max-s", "log-level"],
        ),
    ] {
        assert_eq!(run(program, &["--no-such-flag"]).status.code(), Some(2));
        let help = run(program, &["--help"]);
        assert!(help.status.success());
        let text = String::from_utf8_lossy(&help.stdout);
        for setting in settings {
            let flag = format!("--{setting} <");
            let variable = format!(
                "[env: {prefix}_{}=",
                setting.to_uppercase().replace('-', "_")
            );
            let (_, about) = text.split_once(&flag).expect(setting);
            let about = about.split("\n      --").next().unwrap_or_default();
            assert!(
                about.contains(&variable),
                "{variable} is missing in {about}"
            );
            assert!(about.contains("[default: "), "no default in {about}");
        }
    }
}
