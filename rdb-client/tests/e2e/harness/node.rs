//! One process of a cluster, with its address, its data directory and its log, which all outlive the process.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rdb_proto::transport::{Connector, endpoint};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::NamedTempFile;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::binaries::binary;
use super::ports::Port;
use super::{HANG_GUARD, POLL_INTERVAL, found, guarded};

/// A process that can be started, killed and started again. Dropping it kills the process, and prints its log when the test
/// has failed.
#[derive(Debug)]
pub(crate) struct Node {
    program: &'static str,
    host: String,
    port: Port,
    /// The network namespace it runs in, instead of this process's.
    namespace: Option<String>,
    data_dir: PathBuf,
    /// Flags and their values.
    flags: Vec<(String, String)>,
    /// Environment variables and their values.
    environment: Vec<(String, OsString)>,
    /// How it is connected to. `None`: as plain text.
    connector: Option<Connector>,
    process: Option<Child>,
    /// The output of all its processes, one after the other.
    log: NamedTempFile,
    /// Where the output of the present process begins, in bytes.
    log_start: u64,
}

impl Node {
    /// A placement driver, not started yet.
    pub(crate) fn placement_driver(data_dir: impl Into<PathBuf>) -> Self {
        Self::new("rdb-pd", data_dir.into())
    }

    /// A store that belongs to the placement driver at `pd_address`, not started yet.
    pub(crate) fn store(data_dir: impl Into<PathBuf>, pd_address: &str) -> Self {
        Self::new("rdb-server", data_dir.into()).with_flag("--pd", pd_address)
    }

    fn new(program: &'static str, data_dir: PathBuf) -> Self {
        Self {
            program,
            host: "127.0.0.1".to_owned(),
            port: Port::reserve(),
            namespace: None,
            data_dir,
            flags: Vec::new(),
            environment: Vec::new(),
            connector: None,
            process: None,
            log: NamedTempFile::new().expect("the temporary directory can be written"),
            log_start: 0,
        }
    }

    /// The same node with one more flag, from its next start on.
    pub(crate) fn with_flag(mut self, flag: &str, value: &str) -> Self {
        self.flags.push((flag.to_owned(), value.to_owned()));
        self
    }

    /// The same node, which has to be connected to so.
    #[allow(dead_code, reason = "not every suite encrypts connections")]
    pub(crate) fn connected_by(mut self, connector: Connector) -> Self {
        self.connector = Some(connector);
        self
    }

    /// Sets an environment variable from the next start on.
    #[allow(dead_code, reason = "not every suite sets one")]
    pub(crate) fn set_environment(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// The same node, listening on `host` in a network namespace, from its next start on.
    #[allow(dead_code, reason = "not every suite has one")]
    pub(crate) fn in_namespace(mut self, name: &str, host: &str) -> Self {
        self.namespace = Some(name.to_owned());
        self.host = host.to_owned();
        self
    }

    /// `host:port`, the same after every restart.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port.number())
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Starts the process and returns at once.
    pub(crate) fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.program);
        let log = File::options()
            .append(true)
            .open(self.log.path())
            .expect("the log can be opened again");
        self.log_start = log.metadata().expect("the log has a length").len();
        let mut command = self.command();
        command
            .args(["--addr", &self.address(), "--data-dir"])
            .arg(&self.data_dir)
            .args(self.flags.iter().flat_map(|(flag, value)| [flag, value]))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log can be opened again"))
            .stderr(log);
        // Settings of whoever runs the tests must not become the processes'.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"RDB_") {
                command.env_remove(name);
            }
        }
        command.env_remove("NOTIFY_SOCKET");
        // The port of its status pages may be another node's. Only who asks for status pages gets some.
        command.env("RDB_PD_STATUS_ADDR", "none");
        command.env("RDB_SERVER_STATUS_ADDR", "none");
        let environment = self.environment.iter();
        command.envs(environment.map(|(name, value)| (name, value)));
        self.process = Some(command.spawn().expect("the binary can be started"));
    }

    /// Starts the process and waits until it serves.
    pub(crate) async fn start_serving(&mut self) {
        self.start();
        self.wait_for_health(ServingStatus::Serving).await;
    }

    /// Waits until the process says over gRPC that it is `wanted`.
    pub(crate) async fn wait_for_health(&mut self, wanted: ServingStatus) {
        let address = self.address();
        let what = format!("{} at {address} becomes {wanted:?}", self.program);
        guarded(&what, async {
            // It may not listen yet, and it may die.
            let connector = self.connector.clone();
            while watch_health(&address, connector.clone(), wanted)
                .await
                .is_err()
            {
                self.assert_running(&what);
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        })
        .await;
    }

    /// Waits until the present process has logged `text`.
    pub(crate) async fn wait_for_log(&self, text: &str) {
        let what = format!("{} logs {text:?}", self.program);
        found(&what, async || self.log().contains(text).then_some(())).await;
    }

    /// What the present (or last) process has written so far.
    pub(crate) fn log(&self) -> String {
        let mut bytes = Vec::new();
        let mut log = File::open(self.log.path()).expect("the log exists");
        log.seek(SeekFrom::Start(self.log_start))
            .and_then(|_| log.read_to_end(&mut bytes))
            .expect("the log can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The same node with status pages on a free port, from its next start on.
    #[allow(dead_code, reason = "the tests of the servers look at them")]
    pub(crate) fn with_status(self) -> Self {
        self.with_flag("--status-addr", "127.0.0.1:0")
    }

    /// Where the status pages of the present process are, once it has said so.
    #[allow(dead_code, reason = "the tests of the servers look at them")]
    pub(crate) async fn status_address(&self) -> String {
        let what = format!("{} says where its status pages are", self.program);
        found(&what, async || {
            let log = self.log();
            let (_, rest) = log.split_once(" status_addr=")?;
            let (address, _) = rest.split_once(char::is_whitespace)?;
            Some(address.to_owned())
        })
        .await
    }

    /// The highest term in which the present (or last) process, a store, knows of a leader.
    pub(crate) fn leader_term(&self) -> Option<u64> {
        let log = self.log();
        let told = log
            .lines()
            .filter(|line| line.contains("a group has a leader"));
        let terms = told.map(|line| {
            let (_, term) = line.split_once(" term=").expect("it has one");
            let digits = term.split_whitespace().next();
            digits
                .and_then(|digits| digits.parse().ok())
                .expect("a number")
        });
        terms.max()
    }

    /// SIGKILL; returns when the process is gone.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("the process was started");
        process.kill().expect("a child can be killed");
        process.wait().expect("a child can be waited for");
    }

    /// SIGTERM; see [`exited`](Self::exited).
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP: connections stay open, and nothing is answered. Returns when every thread has stopped.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        let process = self.process.as_ref().expect("the process was started");
        let stopped = waitid(
            WaitId::Pid(Pid::from_child(process)),
            WaitIdOptions::STOPPED,
        );
        stopped.expect("a child can be waited for");
    }

    /// SIGCONT, after [`pause`](Self::pause).
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("the process was started");
        kill_process(Pid::from_child(process), signal).expect("a child can be signalled");
    }

    /// The id of the process that runs.
    pub(crate) fn process_id(&self) -> u32 {
        self.process.as_ref().expect("the process was started").id()
    }

    /// How much memory of its own, as opposed to mapped files, the process has in use, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process_id()));
        let status = status.expect("the process runs");
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:")?.strip_suffix("kB"));
        let kib: u64 = kib.expect("Linux says").trim().parse().expect("a number");
        kib << 10
    }

    /// Waits until the process has ended by itself.
    pub(crate) async fn exited(&mut self) -> ExitStatus {
        let what = format!("{} exits", self.program);
        let process = self.process.as_mut().expect("the process was started");
        let status = found(&what, async || {
            process.try_wait().expect("a child can be asked")
        })
        .await;
        self.process = None;
        status
    }

    /// Whether it has ended, or was never started.
    pub(crate) fn has_ended(&mut self) -> bool {
        let ended = |process: &mut Child| process.try_wait().expect("a child can be asked");
        if self
            .process
            .as_mut()
            .is_some_and(|process| ended(process).is_some())
        {
            self.process = None;
        }
        self.process.is_none()
    }

    /// The program; `ip netns exec` replaces itself by it, so that signals reach it.
    fn command(&self) -> Command {
        let program = binary(self.program);
        let Some(namespace) = &self.namespace else {
            return Command::new(program);
        };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program);
        command
    }

    fn assert_running(&mut self, what: &str) {
        let process = self.process.as_mut().expect("the process was started");
        if let Some(status) = process.try_wait().expect("a child can be asked") {
            panic!("waiting that {what}, but it ended with {status}");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended already; there is nobody to tell if not even that can be found out.
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            let log = fs::read(self.log.path()).unwrap_or_default();
            let (program, address) = (self.program, self.address());
            eprintln!("---- log of {program} at {address}:");
            eprintln!("{}", String::from_utf8_lossy(&log));
        }
    }
}

/// A new connection to a process, past every client library.
pub(crate) async fn connect(address: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = endpoint(address, HANG_GUARD).expect("a loopback address");
    endpoint.connect().await
}

/// The same to a process that may not be there yet.
pub(crate) async fn connect_when_listening(address: &str) -> Channel {
    guarded("a process listens", async {
        loop {
            match connect(address).await {
                Ok(channel) => return channel,
                Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    })
    .await
}

/// Returns once the process says `wanted`; fails when it is not there or goes away.
async fn watch_health(
    address: &str,
    connector: Option<Connector>,
    wanted: ServingStatus,
) -> Result<(), Box<dyn std::error::Error>> {
    let channel = match connector {
        Some(connector) => {
            let endpoint = endpoint(address, HANG_GUARD)?;
            endpoint.connect_with_connector(connector).await?
        }
        None => connect(address).await?,
    };
    let mut statuses = HealthClient::new(channel)
        .watch(HealthCheckRequest::default())
        .await?
        .into_inner();
    while let Some(status) = statuses.message().await? {
        if status.status() == wanted {
            return Ok(());
        }
    }
    Err("the watch ended".into())
}
