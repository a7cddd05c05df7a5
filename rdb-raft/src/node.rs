//! All groups of a store.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use futures::future::join_all;
use openraft::RaftNetworkFactory;
use openraft::network::NetSnapshot;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, broadcast, mpsc, watch};
use tokio::task::JoinHandle;

use crate::figures::{LogFigures, NodeFigures};
use crate::group::{Group, GroupState, LOG_BYTES_MAX, StartError};
use crate::log::{LogDevice, LogHealth, LogStore, LogWriter};
use crate::machine::{SnapshotData, StateMachine};
use crate::simulation::spawn_blocking;
use crate::supervisor::supervise;
use crate::timing::{Timing, TimingError};
use crate::types::TypeConfig;

/// Snapshots that a store receives at a time.
const SNAPSHOTS_RECEIVED_MAX: usize = 2;

/// Missing peers that nobody has looked at yet. They are asked for again.
const MISSING_MAX: usize = 64;

/// Groups that have been opened and that the supervisor has not begun to watch.
const OPENED_MAX: usize = 16;

/// The groups of a store, with the writer of their logs.
///
/// The supervisor watches them all, purges their logs, and finishes their changes of members. A group that fails ends alone, unless the
/// log has failed, which all groups share. A group that has ended stays here, since a sole voter may still permit reads.
pub struct Node {
    timing: Timing,
    /// The longest election timeout by which peers may have promised something before this start. 0: not a longer one.
    promised_ms: u64,
    log: Arc<LogWriter>,
    groups: Arc<Groups>,
    /// Held while a group is opened. `None` after the shutdown has begun.
    opened: Mutex<Option<mpsc::Sender<(u64, Group)>>>,
    states: watch::Receiver<States>,
    /// Gone once the supervisor is.
    published: Weak<watch::Sender<States>>,
    /// Places for snapshots that arrive.
    receiving: Arc<Semaphore>,
    missing: broadcast::Sender<MissingPeer>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
    figures: Arc<NodeFigures>,
}

pub(crate) type Groups = RwLock<BTreeMap<u64, Group>>;
pub(crate) type States = BTreeMap<u64, GroupState>;

/// A peer that another store has asked for, of a group that this store does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingPeer {
    /// The group.
    pub group_id: u64,
    /// Its peer on this store.
    pub peer_id: u64,
}

/// Why a store has no groups.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An interval cannot be.
    #[error(transparent)]
    Timing(#[from] TimingError),
    /// The log's writer has not started.
    #[error("the writer of the Raft log cannot start: {0}")]
    Writer(#[from] io::Error),
}

/// Why a group was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is open.
    #[error("group {group_id} is open")]
    IsOpen {
        /// The group.
        group_id: u64,
    },
    /// All groups were shut down.
    #[error("the groups of this store were shut down")]
    ShutDown,
    /// The log cannot be read.
    #[error("the log of group {group_id} cannot be read: {cause}")]
    Log {
        /// The group.
        group_id: u64,
        /// What the device said.
        cause: io::Error,
    },
    /// The log is that of another peer.
    #[error("the log of group {group_id} is that of peer {noted}, not of peer {peer_id}")]
    OtherPeer {
        /// The group.
        group_id: u64,
        /// Who was to be opened.
        peer_id: u64,
        /// Whose log it is.
        noted: u64,
    },
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl Node {
    /// Starts the writer of the logs and the supervisor. There are no groups yet.
    ///
    /// # Errors
    ///
    /// See [`NodeError`].
    pub fn start(timing: Timing, device: Arc<dyn LogDevice>) -> Result<Self, NodeError> {
        Self::start_keeping(LOG_BYTES_MAX, timing, device)
    }

    /// The same with another bound for what leaders keep of their logs, see [`Group::purge`].
    ///
    /// # Errors
    ///
    /// See [`NodeError`].
    pub fn start_keeping(
        log_bytes_max: u64,
        timing: Timing,
        device: Arc<dyn LogDevice>,
    ) -> Result<Self, NodeError> {
        timing.validate()?;
        let log = Arc::new(LogWriter::start(device)?);
        let groups = Arc::<Groups>::default();
        let (opened, to_watch) = mpsc::channel(OPENED_MAX);
        let (published, states) = watch::channel(BTreeMap::new());
        let published = Arc::new(published);
        let of_node = Arc::downgrade(&published);
        let figures = Arc::<NodeFigures>::default();
        let supervisor = supervise(
            Arc::clone(&groups),
            timing,
            log_bytes_max,
            to_watch,
            published,
            Arc::clone(&figures),
        );
        Ok(Self {
            timing,
            promised_ms: 0,
            log,
            groups,
            opened: Mutex::new(Some(opened)),
            states,
            published: of_node,
            receiving: Arc::new(Semaphore::new(SNAPSHOTS_RECEIVED_MAX)),
            missing: broadcast::Sender::new(MISSING_MAX),
            supervisor: Mutex::new(Some(tokio::spawn(supervisor))),
            figures,
        })
    }

    /// The same for a store whose [`Timing::election_timeout_max_ms`] was `promised_ms` before it started: groups that are opened from
    /// now on keep what it has promised by that.
    #[must_use]
    pub fn after_promises(mut self, promised_ms: u64) -> Self {
        self.promised_ms = promised_ms;
        self
    }

    /// For how long after its start this store keeps what it may have promised before that.
    pub fn promises_last(&self) -> Duration {
        self.timing.or_longer(self.promised_ms).quarantine()
    }

    /// Opens a group with a peer on this store. The log of a new group is empty, and its state machine holds the state that
    /// all its first peers begin with.
    ///
    /// From then on the log belongs to this peer, and no other peer gets it before [`Node::destroy`]. There is one exception: a later peer
    /// takes over the log of a peer that never had a state or an entry, since that was never a voter. No peer can open a log with entries
    /// and without a state.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub async fn open<Network>(
        &self,
        group_id: u64,
        peer_id: u64,
        machine: Arc<dyn StateMachine>,
        network: Network,
    ) -> Result<Group, OpenError>
    where
        Network: RaftNetworkFactory<TypeConfig>,
        Network::Network: NetSnapshot<TypeConfig, SnapshotData = SnapshotData>,
    {
        let opened = self.opened.lock().await;
        let opened = opened.as_ref().ok_or(OpenError::ShutDown)?;
        if self.group(group_id).is_some() {
            return Err(OpenError::IsOpen { group_id });
        }
        // Reserved before, so that a group that has started is watched in any case.
        let to_watch = opened.reserve().await.map_err(|_| OpenError::ShutDown)?;
        let log = self.open_log(group_id).await?;
        claim(&log, group_id, peer_id, &*machine).await?;
        let (timing, promised_ms) = (self.timing, self.promised_ms);
        let group = Group::start(peer_id, timing, promised_ms, log, machine, network).await?;
        add(&self.groups, group_id, group.clone());
        to_watch.send((group_id, group.clone()));
        Ok(group)
    }

    /// Ends a group if it is open, and removes its log; only its state stays. Then it can be opened with another peer.
    ///
    /// Only for a peer that is no longer a member: a voter would forget its promises. A record that prevents opening it again has to
    /// be durable before.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub async fn destroy(&self, group_id: u64) -> Result<(), OpenError> {
        let opened = self.opened.lock().await;
        if opened.is_none() {
            return Err(OpenError::ShutDown);
        }
        if let Some(group) = self.group(group_id) {
            group.shut_down().await;
        }
        // What the group had queued comes before it.
        let destroyed = self.log.destroy_group(group_id).await;
        destroyed.map_err(|cause| OpenError::Log { group_id, cause })?;
        self.remove(group_id);
        Ok(())
    }

    /// The peer that owns the log of a group. `None`: there is no log, or an older release has written it without a note.
    ///
    /// # Errors
    ///
    /// [`OpenError::Log`].
    pub async fn noted_peer(&self, group_id: u64) -> Result<Option<u64>, OpenError> {
        let read = self.read_log(move |log| log.noted_peer(group_id)).await;
        read.map_err(|cause| OpenError::Log { group_id, cause })
    }

    /// Durably forgets the owner of a group's log, because the note is wrong. The group must not be open.
    ///
    /// # Errors
    ///
    /// [`OpenError::Log`].
    pub async fn forget_peer(&self, group_id: u64) -> Result<(), OpenError> {
        let forgotten = self.log.forget_peer(group_id).await;
        forgotten.map_err(|cause| OpenError::Log { group_id, cause })
    }

    /// The groups with any log, each with its [`noted_peer`](Self::noted_peer). Damaged logs are included.
    ///
    /// # Errors
    ///
    /// When the device cannot be read.
    pub async fn logs(&self) -> io::Result<BTreeMap<u64, Option<u64>>> {
        self.read_log(LogWriter::groups).await
    }

    /// Ends a group if it is open, and keeps its log: the peer can be opened again.
    pub async fn end(&self, group_id: u64) {
        let _opened = self.opened.lock().await;
        if let Some(group) = self.group(group_id) {
            group.shut_down().await;
            self.remove(group_id);
        }
    }

    /// The group is no longer reported.
    fn remove(&self, group_id: u64) {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        groups.remove(&group_id);
        drop(groups);
        if let Some(published) = self.published.upgrade() {
            published.send_modify(|states| drop(states.remove(&group_id)));
        }
    }

    /// Peers that other stores ask for, from now on, of groups that are not open here. They are asked for again and again.
    pub fn missing_peers(&self) -> broadcast::Receiver<MissingPeer> {
        self.missing.subscribe()
    }

    pub(crate) fn is_missing(&self, missing: MissingPeer) {
        // Nobody may listen.
        let _ = self.missing.send(missing);
    }

    async fn open_log(&self, group_id: u64) -> Result<LogStore, OpenError> {
        let read = self.read_log(move |log| log.open_group(group_id)).await;
        read.map_err(|cause| OpenError::Log { group_id, cause })
    }

    async fn read_log<T: Send + 'static>(
        &self,
        read: impl FnOnce(&LogWriter) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let log = Arc::clone(&self.log);
        let read = spawn_blocking(move || read(&log)).await;
        read.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }

    /// An open group.
    pub fn group(&self, group_id: u64) -> Option<Group> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.get(&group_id).cloned()
    }

    /// The intervals of all groups.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// A place to receive a snapshot in, if one is free.
    pub(crate) fn place_to_receive(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.receiving).try_acquire_owned().ok()
    }

    /// What is known of each group.
    pub fn states(&self) -> watch::Receiver<States> {
        self.states.clone()
    }

    /// Whether logs are written.
    pub fn log_health(&self) -> watch::Receiver<LogHealth> {
        self.log.health()
    }

    /// Whether the present write and sync of the log takes longer than the longest election timeout. A disk may neither finish nor fail it.
    pub fn log_stands_still(&self) -> bool {
        self.log.stands_still(self.timing.log_patience())
    }

    /// What all groups count.
    pub fn figures(&self) -> &NodeFigures {
        &self.figures
    }

    /// What the writer of the logs counts.
    pub fn log_figures(&self) -> &LogFigures {
        self.log.figures()
    }

    /// Ends all groups, then the supervisor, then the writer, and waits for each.
    pub async fn shut_down(&self) {
        *self.opened.lock().await = None;
        let groups = all(&self.groups);
        join_all(groups.iter().map(|(_, group)| group.shut_down())).await;
        // It ends by itself, after it has logged the end of the last group.
        if let Some(supervisor) = self.supervisor.lock().await.take()
            && let Err(error) = supervisor.await
        {
            tracing::error!(%error, "the supervisor of the groups has failed");
        }
        let log = Arc::clone(&self.log);
        // A panic of the writer was logged by its guard.
        let _ = spawn_blocking(move || log.close()).await;
    }
}

/// Groups that nobody else holds end once the supervisor drops them.
impl Drop for Node {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.get_mut() {
            supervisor.abort();
        }
    }
}

/// Notes that a log is that of a peer, if it is, or may become that.
async fn claim(
    log: &LogStore,
    group_id: u64,
    peer_id: u64,
    machine: &dyn StateMachine,
) -> Result<(), OpenError> {
    let failed = |cause| OpenError::Log { group_id, cause };
    if log.peer_id() == Some(peer_id) {
        return Ok(());
    }
    let state = machine.flushed().map_err(StartError::unread)?;
    let has_state = state.position.is_some();
    match log.peer_id() {
        // Ids grow, so an earlier one is that of a late message.
        Some(noted) if noted > peer_id || has_state || !log.is_unused() => {
            return Err(OpenError::OtherPeer {
                group_id,
                peer_id,
                noted,
            });
        }
        // Nobody's: the group does not start without the state (`StartError::StateMissing`).
        None if !has_state && !log.is_unused() => return Ok(()),
        None if state.membership.nodes().any(|(id, _)| *id == peer_id) => {
            // The state says it, too, until this is durable. On a full disk it may never be.
            let _ = log.queue_note(peer_id);
            return Ok(());
        }
        _ => {}
    }
    log.note_peer(peer_id).await.map_err(failed)
}

fn add(groups: &Groups, group_id: u64, group: Group) {
    let mut groups = groups.write().unwrap_or_else(PoisonError::into_inner);
    groups.insert(group_id, group);
}

pub(crate) fn all(groups: &Groups) -> Vec<(u64, Group)> {
    let groups = groups.read().unwrap_or_else(PoisonError::into_inner);
    let groups = groups.iter();
    groups.map(|(id, group)| (*id, group.clone())).collect()
}
