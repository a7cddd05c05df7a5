//! A store in the world: all that a process has of this crate, and clients beside it.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use rdb_proto::transport::{ServeOptions, Services, serve};
use rdb_raft::group::{Group, GroupState};
use rdb_raft::log::LogDevice;
use rdb_raft::transport::{AddressBook, Dialing, PeerService, Starts, StoreIdentity, Transport};
use rdb_raft::{Node, Timing};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::device::Device;
use crate::history::Outcome;
use crate::machine::List;
use crate::wire::{Listening, PORT, connector};
use crate::world::{GROUPS, World};

/// Elections begin soon after a lease, so that what breaks a lease can be seen.
const TIMING: Timing = Timing {
    heartbeat_ms: 100,
    election_timeout_min_ms: 400,
    election_timeout_max_ms: 1500,
};

/// The clients of a group that each store has. One that writes may have to wait, while the other one reads on.
const CLIENTS: [Calls; 2] = [Calls::Reads, Calls::All];

/// How long a client waits between two calls at most, and for the end of one.
const PAUSE_MS_MAX: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(2);

/// Batches that were not synced and that a crash leaves at most.
const UNSYNCED_MAX: usize = 3;

pub(crate) fn name(store_id: u64) -> String {
    format!("store-{store_id}")
}

/// What a store keeps while it does not run.
#[derive(Default)]
pub(crate) struct Disk {
    starts: u64,
    met: BTreeMap<u64, u64>,
    log: Arc<Device>,
    lists: BTreeMap<u64, Arc<List>>,
}

impl Disk {
    /// The state of a group on this store, as it is now.
    pub(crate) fn list(&self, group_id: u64) -> Option<&Arc<List>> {
        self.lists.get(&group_id)
    }

    /// Its log takes no more until the next start, so its groups end.
    pub(crate) fn fail(&self) {
        self.log.fail();
    }

    pub(crate) fn fails(&self) -> bool {
        self.log.fails()
    }

    /// What the next start finds.
    fn start(&mut self, store_id: u64, world: &Arc<World>) {
        self.starts += 1;
        let unsynced = fastrand::usize(..=UNSYNCED_MAX);
        self.log = self.log.after_crash(unsynced);
        for group_id in GROUPS {
            let before = self.lists.get(&group_id).map(|list| list.after_crash());
            let list = before.unwrap_or_else(|| List::bootstrapped(world, store_id, group_id));
            self.lists.insert(group_id, list);
        }
    }
}

struct Names;

impl AddressBook for Names {
    fn address(&self, store_id: u64) -> BoxFuture<'_, Option<String>> {
        ready(Some(format!("{}:{PORT}", name(store_id)))).boxed()
    }
}

/// Runs a store until it crashes.
pub(crate) async fn run(store_id: u64, world: Arc<World>) -> turmoil::Result {
    let (start, met, log, lists) = {
        let mut disk = world.disk(store_id);
        disk.start(store_id, &world);
        let Disk {
            starts,
            met,
            log,
            lists,
        } = &*disk;
        (*starts, met.clone(), Arc::clone(log), lists.clone())
    };
    world.note(store_id, format_args!("starts for the {start}. time"));
    let identity = StoreIdentity {
        cluster_id: 1,
        store_id,
    };
    let listening = Listening::bind(store_id, &world).await?;
    let of_disk = Arc::clone(&world);
    let starts = Starts::new(start, met, move |_, met| {
        of_disk.disk(store_id).met.clone_from(met);
        Ok(())
    });
    let node = Arc::new(Node::start(TIMING, log as Arc<dyn LogDevice>)?);
    let service = PeerService::new(
        Arc::new(identity.into()),
        Arc::clone(&node),
        Arc::clone(&starts),
    );
    let services = Services::default().add_service(service);
    let options = ServeOptions::default();
    let serving = serve(listening, services, options, CancellationToken::new());
    tokio::spawn(serving);

    let dialing = Dialing {
        connector: connector(store_id, &world),
        token: None,
    };
    let transport = Transport::with_dialing(identity, TIMING, Arc::new(Names), starts, dialing);
    transport.greet(world.store_ids().filter(|id| *id != store_id));
    tokio::spawn(watch_states(store_id, node.states(), Arc::clone(&world)));
    for (group_id, list) in lists {
        let network = transport.network(group_id, store_id);
        let machine = Arc::clone(&list) as _;
        let group = match node.open(group_id, store_id, machine, network).await {
            Ok(group) => group,
            Err(_) if world.disk(store_id).fails() => break,
            Err(error) => return Err(error.into()),
        };
        for calls in CLIENTS {
            let client = Client {
                calls,
                store_id,
                group_id,
                group: group.clone(),
                list: Arc::clone(&list),
                world: Arc::clone(&world),
            };
            tokio::spawn(client.run());
        }
    }
    pending().await
}

async fn watch_states(
    store_id: u64,
    mut states: watch::Receiver<BTreeMap<u64, GroupState>>,
    world: Arc<World>,
) {
    let mut before = BTreeMap::new();
    while states.changed().await.is_ok() {
        let now = states.borrow_and_update().clone();
        for (group_id, state) in &now {
            if before.get(group_id) == Some(state) {
                continue;
            }
            match state {
                GroupState::Running(leader) => world.knows_leader(store_id, *group_id, *leader),
                GroupState::Ended(ended) => world.ends(store_id, *group_id, ended),
            }
        }
        before = now;
    }
}

#[derive(Clone, Copy)]
enum Calls {
    Reads,
    All,
}

/// Calls a group, one call after the other.
struct Client {
    calls: Calls,
    store_id: u64,
    group_id: u64,
    group: Group,
    list: Arc<List>,
    world: Arc<World>,
}

impl Client {
    async fn run(self) {
        while !self.world.is_over() {
            sleep(Duration::from_millis(fastrand::u64(1..=PAUSE_MS_MAX))).await;
            let leads = self.group.leader().peer_id == Some(self.store_id);
            if !leads && fastrand::u8(..) > 10 {
                continue;
            }
            match (self.calls, fastrand::u8(..100)) {
                (Calls::All, 0) => self.hand_over().await,
                (Calls::All, 1..80) => self.write().await,
                _ => self.read().await,
            }
        }
    }

    async fn write(&self) {
        let (call, value) = self.world.history(self.group_id).begin_write(self.store_id);
        let (sender, answer) = oneshot::channel();
        let payload = value.to_be_bytes().to_vec().into();
        self.group
            .propose(payload, |answer| drop(sender.send(answer)));
        let outcome = match timeout(PATIENCE, answer).await {
            Ok(Ok(Ok(answer))) => answer.into_inner().unwrap_or(Outcome::Unknown),
            Ok(Ok(Err(error))) if error.is_certain() => Outcome::NotApplied,
            Ok(_) | Err(_) => Outcome::Unknown,
        };
        self.end(call, outcome, format_args!("write {value}"));
    }

    async fn read(&self) {
        let call = self.world.history(self.group_id).begin_read(self.store_id);
        let permitted = timeout(PATIENCE, self.group.permit_read()).await;
        let outcome = match permitted {
            Ok(Ok(())) => self.list.seen(),
            Ok(Err(_)) | Err(_) => Outcome::NotApplied,
        };
        self.end(call, outcome, format_args!("read"));
    }

    fn end(&self, call: usize, outcome: Outcome, what: std::fmt::Arguments<'_>) {
        self.world.history(self.group_id).end(call, outcome);
        let group_id = self.group_id;
        self.world.note(
            self.store_id,
            format_args!("group {group_id}: {what}: {outcome:?}"),
        );
    }

    async fn hand_over(&self) {
        let others: Vec<_> = self.world.store_ids().collect();
        let to = others[fastrand::usize(..others.len())];
        let handed_over = self.group.hand_over_to(to).await;
        let group_id = self.group_id;
        self.world.note(
            self.store_id,
            format_args!("group {group_id}: hand over to {to}: {handed_over:?}"),
        );
    }
}
