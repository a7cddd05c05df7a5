//! What systemd is told by both servers, and the units that start them.

use std::process::Command;

use rdb_proto::transport::NOT_SERVING_CAUSE;
use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::configuration::program as program_without_settings;
use crate::harness::{Cluster, Node, binary, connect, guarded, skipped};

/// The other end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let socket = UnixDatagram::bind(directory.path().join("notify"));
        Self {
            socket: socket.expect("a socket can be made"),
            directory,
        }
    }

    fn watch(&self, node: &mut Node) {
        node.set_environment("NOTIFY_SOCKET", self.directory.path().join("notify"));
    }

    /// Waits for a message that has this line, and returns all that came until then.
    async fn told(&self, wanted: &str) -> Vec<String> {
        let mut lines = Vec::new();
        guarded(&format!("{wanted} is told"), async {
            while !lines.iter().any(|line: &String| line.contains(wanted)) {
                let mut message = vec![0; 4096];
                let length = self.socket.recv(&mut message).await;
                message.truncate(length.expect("the socket works"));
                let message = String::from_utf8(message).expect("text");
                lines.extend(message.lines().map(str::to_owned));
            }
        })
        .await;
        lines
    }
}

const READY: &str = "READY=1";
const STOPPING: &str = "STOPPING=1";

/// One look, without a second try.
async fn assert_serves(node: &Node) {
    let channel = connect(&node.address()).await.expect("it listens");
    let mut client = HealthClient::new(channel);
    let answer = client.check(HealthCheckRequest::default());
    let answer = answer.await.expect("it answers");
    let cause = answer.metadata().get(NOT_SERVING_CAUSE);
    assert_eq!(cause, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_ready_once_it_has_started_and_says_when_it_stops() {
    let mut cluster = Cluster::prepare();
    let (of_pd, of_store) = (Manager::new(), Manager::new());
    of_pd.watch(&mut cluster.pd);
    of_store.watch(&mut cluster.store);

    cluster.store.start();
    let waiting = of_store.told("STATUS=it has not registered").await;
    assert!(!waiting.contains(&READY.to_owned()), "{waiting:?}");

    cluster.pd.start();
    of_pd.told(READY).await;
    assert_serves(&cluster.pd).await;
    of_store.told(READY).await;
    cluster.store.wait_for_health(ServingStatus::Serving).await;
    let client = cluster.client().await;
    client.raw_put("k", "v").await.expect("it serves");

    for (manager, node) in [(&of_store, &mut cluster.store), (&of_pd, &mut cluster.pd)] {
        node.terminate();
        let told = manager.told(STOPPING).await;
        assert!(!told.contains(&READY.to_owned()), "{told:?}");
        assert!(node.exited().await.success());
    }
}

/// So a restart of one store after the other goes on, and a machine boots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_without_a_leader_holds_up_no_start() {
    let mut cluster = Cluster::prepare();
    cluster.pd = cluster.pd.with_flag("--initial-replicas", "2");
    let data_dir = cluster.directory.path().join("other");
    let mut other = Node::store(data_dir, &cluster.pd.address());
    cluster.pd.start_serving().await;
    cluster.store.start();
    other.start_serving().await;
    cluster.store.wait_for_health(ServingStatus::Serving).await;
    other.kill();
    cluster.store.kill();

    let manager = Manager::new();
    manager.watch(&mut cluster.store);
    cluster.store.start();
    let told = manager.told(READY).await;
    let waits = " has no leader";
    if !told.iter().any(|line| line.contains(waits)) {
        let told = manager.told(waits).await;
        assert!(!told.contains(&"STATUS=serving".to_owned()), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_that_is_not_there_is_warned_of_and_stops_nothing() {
    let mut cluster = Cluster::prepare();
    let nowhere = cluster.directory.path().join("nowhere");
    cluster.pd.set_environment("NOTIFY_SOCKET", nowhere);
    cluster.pd.start_serving().await;
    let warning = "the service manager cannot be told";
    cluster.pd.wait_for_log(warning).await;
}

const UNITS: [(&str, &str); 2] = [
    (
        "rdb-server",
        include_str!("../../../docs/systemd/rdb-server.service"),
    ),
    (
        "rdb-pd",
        include_str!("../../../docs/systemd/rdb-pd.service"),
    ),
];

#[test]
fn systemd_has_nothing_to_object_to_in_the_units() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        skipped("systemd-analyze, of the package systemd, is not installed");
        return;
    }
    let directory = TempDir::new().expect("the temporary directory can be written");
    for (program, unit) in UNITS {
        let installed = format!("/usr/bin/{program}");
        assert!(unit.contains(&installed), "{unit}");
        let here = binary(program).display().to_string();
        let path = directory.path().join(format!("{program}.service"));
        std::fs::write(&path, unit.replace(&installed, &here)).expect("it can be written");
        let judge = |arguments: &[&str]| {
            let mut command = Command::new("systemd-analyze");
            let judged = command.args(arguments).arg(&path).output();
            judged.expect("it can be started")
        };
        let verified = judge(&["verify", "--recursive-errors=no"]);
        let objections = String::from_utf8_lossy(&verified.stderr);
        // An unknown key is only a warning.
        assert!(
            verified.status.success() && objections.is_empty(),
            "{objections}"
        );
        // From 0 to 100. Without any hardening it is 96.
        let exposed = judge(&["security", "--offline=yes", "--threshold=25"]);
        assert!(exposed.status.success(), "{exposed:?}");
    }
}

/// What a unit starts is what the program takes.
#[test]
fn the_units_start_the_programs_with_flags_that_they_have() {
    let directory = TempDir::new().expect("the temporary directory can be written");
    let file = directory.path().join("settings.toml");
    std::fs::write(&file, "").expect("it can be written");
    for (program, unit) in UNITS {
        let mut lines = unit.lines();
        let start = lines.find_map(|line| line.strip_prefix("ExecStart="));
        let start = start.expect("it starts something");
        let arguments = start.split(' ').skip(1).map(|argument| match argument {
            "${STATE_DIRECTORY}" => directory.path().display().to_string(),
            named if named.ends_with(".toml") => file.display().to_string(),
            flag => flag.to_owned(),
        });
        let output = program_without_settings(program)
            .args(arguments)
            .arg("--print-config")
            .output()
            .expect("the binary can be started");
        let printed = String::from_utf8_lossy(&output.stdout);
        let told = "# From the flag --data-dir\n";
        assert!(
            output.status.success() && printed.contains(told),
            "{output:?}"
        );
    }
}
