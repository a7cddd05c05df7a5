//! What groups cost that nobody writes to: three stores, each a process of its own, with a peer of every group. Prints one line of
//! JSON for each store: the share of a core that it takes, and its anonymous memory before and after its groups were opened.
//!
//! ```text
//! quiet_groups DIR GROUPS SECONDS
//! ```
//!
//! The logs are real, in DIR, which must exist; they are removed in the end. What entries are applied to is a position in memory,
//! and the peers reach each other over loopback, as stores do. It is measured for SECONDS once each group has a leader.
//!
//! The memory grows for half an hour, by up to 0.75 MiB for each group. openraft keeps its commands in a ring of 4,096 places, which is
//! not there before it is used, and each heartbeat takes the next place.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::TcpListener as Listener;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use rdb_proto::transport::{ServeOptions, Services, serve};
use rdb_raft::group::GroupState;
use rdb_raft::machine::{
    Applied, ApplyError, Committed, SnapshotSink, SnapshotSource, StateMachine,
};
use rdb_raft::transport::{AddressBook, PeerService, Starts, StoreIdentity, Transport};
use rdb_raft::{Answer, Content, LogId, Membership, Node, StoreNode, StoredMembership, Timing};
use rdb_storage::{Role, Storage, StorageOptions};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const USAGE: &str = "usage: quiet_groups DIR GROUPS SECONDS";

const STORES: u64 = 3;
const GROUPS_MAX: u64 = 100_000;

/// Elections of all groups at once take their time.
const LED_WITHIN: Duration = Duration::from_secs(300);

/// How long the groups are left alone before they are measured.
const SETTLES: Duration = Duration::from_secs(10);

/// Ticks of the processor time in `/proc`, in a second. Linux says 100 to every process.
const TICKS_PER_SECOND: f64 = 100.0;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let run = match *arguments {
        [directory, groups, seconds] => run_stores(directory, groups, seconds),
        ["store", id, addresses, directory, groups, seconds] => {
            run_store(id, addresses, directory, groups, seconds)
        }
        _ => Err(USAGE.into()),
    };
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Starts this program once for each store, and prints what they say. A store ends with its standard input.
fn run_stores(directory: &str, groups: &str, seconds: &str) -> Result<(), Failure> {
    let directory = tempfile::TempDir::new_in(Path::new(directory))?;
    let listeners = (0..STORES).map(|_| Listener::bind("127.0.0.1:0"));
    let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
    let addresses = listeners.iter().map(|listener| {
        let address = listener.local_addr()?;
        Ok::<_, io::Error>(address.to_string())
    });
    let addresses = addresses.collect::<io::Result<Vec<_>>>()?.join(",");
    drop(listeners);
    let stores = (1..=STORES).map(|id| {
        let data = directory.path().join(id.to_string());
        let mut store = Command::new(std::env::current_exe()?);
        store.arg("store").arg(id.to_string()).arg(&addresses);
        store.arg(data).arg(groups).arg(seconds);
        store.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
    });
    let mut stores = stores.collect::<io::Result<Vec<_>>>()?;
    let told = stores.iter_mut().map(tell).collect::<Result<Vec<_>, _>>();
    for mut store in stores {
        drop(store.stdin.take());
        store.wait()?;
    }
    told.map(drop)
}

fn tell(store: &mut Child) -> Result<(), Failure> {
    let mut line = String::new();
    if let Some(output) = store.stdout.as_mut() {
        BufReader::new(output).read_line(&mut line)?;
    }
    if line.is_empty() {
        return Err("a store has ended without a figure".into());
    }
    print!("{line}");
    Ok(())
}

fn run_store(
    id: &str,
    addresses: &str,
    directory: &str,
    groups: &str,
    seconds: &str,
) -> Result<(), Failure> {
    let (store_id, groups, seconds) = (id.parse()?, groups.parse()?, seconds.parse()?);
    if !(1..=GROUPS_MAX).contains(&groups) || !(1..=3600).contains(&seconds) {
        return Err(USAGE.into());
    }
    let addresses: Vec<_> = addresses.split(',').map(str::to_owned).collect();
    let store = Store {
        id: store_id,
        addresses: Addresses((1..).zip(addresses).collect()),
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(store.measure(Path::new(directory), groups, Duration::from_secs(seconds)))
}

struct Store {
    id: u64,
    addresses: Addresses,
}

impl Store {
    async fn measure(
        self,
        directory: &Path,
        groups: u64,
        measured: Duration,
    ) -> Result<(), Failure> {
        let options = StorageOptions {
            replicated: true,
            ..StorageOptions::new(Role::Server)
        };
        let storage = Storage::open(directory, options)?;
        let log = Arc::new(storage.open_log()?);
        let timing = Timing::default();
        let node = Arc::new(Node::start(timing, Arc::clone(&log) as _)?);
        let identity = StoreIdentity {
            cluster_id: 1,
            store_id: self.id,
        };
        let starts = Starts::new(1, BTreeMap::new(), |_, _| Ok(()));
        let own_address = self.addresses.0.get(&self.id).ok_or(USAGE)?;
        let listener = TcpListener::bind(own_address.as_str()).await?;
        let of_service = (Arc::clone(&node), Arc::clone(&starts));
        let service = PeerService::new(Arc::new(identity.into()), of_service.0, of_service.1);
        let services = Services::default().add_service(service);
        let drain = CancellationToken::new();
        let served = serve(listener, services, ServeOptions::default(), drain.clone());
        let serving = tokio::spawn(served);
        let empty_bytes = anonymous_bytes()?;

        let id = self.id;
        let transport = Transport::new(identity, timing, Arc::new(self.addresses), starts);
        for group_id in 1..=groups {
            let network = transport.network(group_id, id);
            node.open(group_id, id, Arc::new(Position::first()?), network)
                .await?;
        }
        let mut states = node.states();
        let all_led = states.wait_for(|states| {
            let is_led = |state: &GroupState| {
                matches!(state, GroupState::Running(leader) if leader.peer_id.is_some())
            };
            states.len() as u64 == groups && states.values().all(is_led)
        });
        drop(timeout(LED_WITHIN, all_led).await??);
        sleep(SETTLES).await;

        let (began, before) = (Instant::now(), processor_time()?);
        sleep(measured).await;
        let used = processor_time()?.saturating_sub(before);
        let cores = used.as_secs_f64() / began.elapsed().as_secs_f64();
        let leads = node
            .states()
            .borrow()
            .values()
            .filter(
                |state| matches!(state, GroupState::Running(leader) if leader.peer_id == Some(id)),
            )
            .count();
        let bytes = anonymous_bytes()?;
        println!(
            "{{\"store\":{id},\"groups\":{groups},\"leads\":{leads},\"cores\":{cores:.4},\
             \"anonymous_bytes_before\":{empty_bytes},\"anonymous_bytes\":{bytes}}}"
        );
        // The others are measured, too.
        spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new())).await??;
        node.shut_down().await;
        drain.cancel();
        serving.await??;
        spawn_blocking(move || {
            log.close()?;
            storage.close()
        })
        .await??;
        Ok(())
    }
}

/// User and system time of this process. Its name, which may hold anything, ends with the last parenthesis.
fn processor_time() -> Result<Duration, Failure> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat
        .rsplit_once(") ")
        .ok_or("/proc/self/stat has another form")?;
    let mut ticks = 0;
    for field in fields.split(' ').skip(11).take(2) {
        ticks += field.parse::<u64>()?;
    }
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND))
}

fn anonymous_bytes() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = kib.ok_or("/proc/self/status has another form")?.parse()?;
    Ok(kib << 10)
}

/// Where the stores are.
struct Addresses(BTreeMap<u64, String>);

impl AddressBook for Addresses {
    fn address(&self, store_id: u64) -> BoxFuture<'_, Option<String>> {
        ready(self.0.get(&store_id).cloned()).boxed()
    }
}

/// A state machine that only knows how far it is.
struct Position(Mutex<Applied>);

impl Position {
    /// That of a first voter. The first peer on each store has its id.
    fn first() -> Result<Self, Failure> {
        let beginning = Some(LogId::new_term_index(0, 0));
        let stores = 1..=STORES;
        let nodes = stores
            .clone()
            .map(|store_id| (store_id, StoreNode { store_id }));
        let membership =
            Membership::new(vec![stores.collect()], nodes.collect::<BTreeMap<_, _>>())?;
        Ok(Self(Mutex::new(Applied {
            position: beginning,
            membership: StoredMembership::new(beginning, membership),
        })))
    }
}

impl StateMachine for Position {
    fn apply(&self, entries: &[Committed], _may_block: bool) -> Result<Vec<Answer>, ApplyError> {
        let mut applied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for Committed { entry, .. } in entries {
            applied.position = Some(entry.log_id);
            if let Content::Membership(membership) = &entry.payload {
                applied.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
        }
        Ok(entries.iter().map(|_| Answer::default()).collect())
    }

    fn flushed(&self) -> io::Result<Applied> {
        Ok(self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn snapshot(&self) -> io::Result<(Applied, Box<dyn SnapshotSource>)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn receive(&self) -> io::Result<Box<dyn SnapshotSink>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
