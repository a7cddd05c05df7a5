//! How the regions of this store change while it runs: by messages of other stores, by their logs, and by steps from the placement driver.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use futures::future::join4;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use rdb_proto::pdpb::{HeldPeer, RegionStep};
use rdb_raft::MissingPeer;
use rdb_storage::{Durability, RegionDescriptor, Storage};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::Regions;
use super::own_peer::{latest, peer_id_on};
use crate::error::ServerError;
use crate::region::Described;

/// How long a replica without a first state waits for another store to send something.
const WAITS_FOR: Duration = Duration::from_secs(60);

/// How long what has failed is left alone.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Most replicas that wait for their first state at a time.
const WAITING_MAX: usize = 64;

/// How often those that wait are looked at.
const WAITING_INTERVAL: Duration = Duration::from_secs(5);

/// What the placement driver asks of this store. It asks again for what is not done.
pub(super) enum Order {
    /// The next step of a region that it leads.
    Step(RegionStep),
    /// A replica that is no member any more.
    Destroy(HeldPeer),
}

impl Regions {
    /// Makes the regions follow what changes, for as long as the store runs.
    pub(crate) async fn follow(&self) {
        let messages = self.follow_messages();
        let logs = self.follow_logs();
        let orders = self.follow_orders();
        join4(messages, logs, orders, self.end_silent()).await;
    }

    /// Notes what the placement driver asks for. It is done by [`follow`](Self::follow), unless much is waiting.
    pub(crate) fn order(&self, steps: Vec<RegionStep>, removed: Vec<HeldPeer>) {
        let steps = steps.into_iter().map(Order::Step);
        for order in steps.chain(removed.into_iter().map(Order::Destroy)) {
            if self.orders.try_send(order).is_err() {
                tracing::debug!("the placement driver asks for more than can be done");
                return;
            }
        }
    }

    async fn follow_messages(&self) {
        let mut missing = self.node.missing_peers();
        // They are asked for again and again, so a cause is told once, and what cannot be opened is left alone for a while.
        let mut told: BTreeMap<u64, (String, Instant)> = BTreeMap::new();
        loop {
            match missing.recv().await {
                Ok(missing) => {
                    let MissingPeer {
                        group_id: region_id,
                        peer_id,
                    } = missing;
                    let before = told.get(&region_id);
                    if before.is_some_and(|(_, at)| at.elapsed() < RETRY_INTERVAL) {
                        continue;
                    }
                    let Err(error) = self.make_peer(missing).await else {
                        told.remove(&region_id);
                        continue;
                    };
                    let cause = error.to_string();
                    if before.is_none_or(|(before, _)| *before != cause) {
                        tracing::warn!(region_id, peer_id, cause, "a replica cannot be opened");
                    }
                    told.insert(region_id, (cause, Instant::now()));
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Opens the peer that another store asks for, if it may be here. It waits for its first state, if the region is not stored.
    pub(super) async fn make_peer(&self, missing: MissingPeer) -> Result<(), ServerError> {
        let MissingPeer {
            group_id: region_id,
            peer_id,
        } = missing;
        let Some(&identity) = self.identity.get() else {
            return Ok(());
        };
        if self.durability == Durability::Os {
            return Ok(());
        }
        let _opening = self.opening.lock().await;
        {
            let replicas = self.replicas();
            let is_here = replicas.open.contains_key(&region_id);
            if is_here || replicas.ending.contains(&region_id) || replicas.waiting() >= WAITING_MAX
            {
                return Ok(());
            }
        }
        let noted = self.node.noted_peer(region_id).await;
        let noted = noted.map_err(|error| ServerError::region(region_id, error))?;
        let storage = self.storage.clone();
        let read = move || {
            let tombstone = storage.tombstone(region_id)?;
            Ok::<_, rdb_storage::Error>((tombstone, storage.described(region_id)?))
        };
        let (tombstone, stored) = spawn_blocking(read).await??;
        let refused = if tombstone.is_some_and(|last| peer_id <= last) {
            Some("it was destroyed here, or one after it")
        } else {
            // A later peer may take over from one that never got its state.
            let may_be_left = stored.is_none();
            let region = stored.map(|(region, _)| region);
            let region = region.or_else(|| self.unfinished(region_id));
            let named = region.and_then(|region| peer_id_on(&region, identity.store_id));
            let own = latest([noted, named], tombstone);
            own.filter(|&own| own > peer_id || own != peer_id && !may_be_left)
                .map(|_| "the region is here with another peer")
        };
        if let Some(cause) = refused {
            tracing::debug!(region_id, peer_id, cause, "a peer is not made");
            return Ok(());
        }
        if self.open_peer(identity, region_id, peer_id).await? {
            self.route(&self.replicas());
        }
        tracing::info!(
            region_id,
            peer_id,
            "a peer was made, since another store asked for it"
        );
        Ok(())
    }

    /// Refreshes what is known of regions that their logs have changed.
    async fn follow_logs(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            // The sender is in `self`.
            let _ = changed.wait_for(|changed| !changed.is_empty()).await;
            let mut regions = Default::default();
            self.changed.send_if_modified(|changed| {
                regions = mem::take(changed);
                false
            });
            for region_id in regions {
                if let Err(error) = self.refresh(region_id).await {
                    tracing::error!(region_id, %error, "what has changed of a region cannot be read");
                    sleep(RETRY_INTERVAL).await;
                    self.changed.send_modify(|changed| {
                        changed.insert(region_id);
                    });
                }
            }
        }
    }

    /// Learns what a region is now. One whose first state has come is served from now on.
    pub(super) async fn refresh(&self, region_id: u64) -> Result<(), ServerError> {
        if self.learn(region_id).await? {
            self.route(&self.replicas());
        }
        Ok(())
    }

    /// Reads the present description of a region. Returns whether routing of requests changes.
    pub(super) async fn learn(&self, region_id: u64) -> Result<bool, ServerError> {
        let storage = self.storage.clone();
        let read = spawn_blocking(move || Described::read(&storage, region_id));
        let Some(described) = read.await?? else {
            return Ok(false);
        };
        let (region, peers) = (described.to_wire(), described.region.peers.clone());
        let is_to_route = {
            let mut replicas = self.replicas();
            let Some(replica) = replicas.open.get_mut(&region_id) else {
                return Ok(false);
            };
            let is_later = replica.description.learn(described);
            match &replica.handle {
                Some(_) if !is_later => return Ok(false),
                Some(handle) if handle.is_of(&region) => false,
                _ => {
                    replica.handle = Some(replica.handle_of(region, &self.storage));
                    true
                }
            }
        };
        if let Some(&identity) = self.identity.get() {
            let others = peers.iter().map(|peer| peer.store_id);
            let others = others.filter(|id| *id != identity.store_id);
            self.transport(identity).greet(others);
        }
        self.news.send_modify(|news| *news += 1);
        Ok(is_to_route)
    }

    async fn follow_orders(&self) {
        let mut orders = self.ordered.lock().await;
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(order) = orders.recv() => under_way.push(match order {
                    Order::Step(step) => self.take_step(step).boxed(),
                    Order::Destroy(named) => self.destroy(named).boxed(),
                }),
                Some(()) = under_way.next() => {}
            }
        }
    }

    /// Destroys a replica that is no member any more, with its data and its log. It must be the one that was named.
    pub(super) async fn destroy(&self, named: HeldPeer) {
        let HeldPeer {
            region_id, peer_id, ..
        } = named;
        // Regions that are being opened are open before they are looked at, and no ending region is opened.
        let opening = self.opening.lock().await;
        let group = {
            let states = self.node.states();
            let mut replicas = self.replicas();
            let is_unopened = replicas.unopened.get(&region_id) == Some(&named);
            let open = replicas.open.get(&region_id);
            let group = match open {
                Some(open) if open.peer_id == peer_id && open.handle.is_some() => {
                    let leadership = open.proposer.leadership();
                    if leadership
                        .term_led(states.borrow().get(&region_id))
                        .is_some()
                    {
                        tracing::warn!(
                            region_id,
                            peer_id,
                            "this store leads the region, so it does not destroy it"
                        );
                        return;
                    }
                    Some(open.group.clone())
                }
                // One that could not be opened may have left a group.
                None if is_unopened => self.node.group(region_id),
                _ => return,
            };
            replicas.open.remove(&region_id);
            replicas.unopened.remove(&region_id);
            replicas.ending.insert(region_id);
            self.route(&replicas);
            group
        };
        drop(opening);
        tracing::info!(
            region_id,
            peer_id,
            "a replica is no member any more, and is destroyed"
        );
        if let Some(group) = group {
            // Nobody applies to the storage or is about to when it has ended.
            group.shut_down().await;
        }
        self.checks.forget(region_id);
        self.damaged
            .send_modify(|damaged| drop(damaged.remove(&region_id)));
        if let Err(error) = self.remove(region_id, peer_id).await {
            // It is not served before the next start, which finishes this or has the replica named again.
            tracing::error!(region_id, peer_id, %error, "a replica cannot be destroyed");
            return;
        }
        self.replicas().ending.remove(&region_id);
        self.news.send_modify(|news| *news += 1);
        tracing::info!(region_id, peer_id, "a replica was destroyed");
    }

    /// Removes what is stored of a region, and its log. Peer 0: the region is stored without a peer of this store.
    async fn remove(&self, region_id: u64, peer_id: u64) -> Result<(), ServerError> {
        let failed = |error| ServerError::region(region_id, error);
        let noted = match peer_id {
            // A message may have named a peer, which was noted and could not be opened. An unreadable note does not stop the removal.
            0 => self.node.noted_peer(region_id).await.unwrap_or(None),
            _ => None,
        };
        let storage = self.storage.clone();
        let destroy = move || {
            let last = match peer_id {
                0 => latest_peer(&storage, region_id)?.max(noted.unwrap_or(0)),
                peer_id => peer_id,
            };
            storage.destroy_region(region_id, last)
        };
        spawn_blocking(destroy).await??;
        self.node.destroy(region_id).await.map_err(failed)
    }

    /// Ends replicas whose first state does not come: the store that should send it may have forgotten them. Their votes are kept. A
    /// store that needs such a replica asks for it again.
    async fn end_silent(&self) {
        loop {
            sleep(WAITING_INTERVAL).await;
            self.end_those_silent_for(WAITS_FOR).await;
        }
    }

    pub(super) async fn end_those_silent_for(&self, patience: Duration) {
        let silent = self.replicas().silent(patience);
        for region_id in silent {
            {
                let mut replicas = self.replicas();
                // Its first state may have come.
                if !replicas.silent(patience).contains(&region_id) {
                    continue;
                }
                replicas.open.remove(&region_id);
                replicas.ending.insert(region_id);
            }
            self.node.end(region_id).await;
            tracing::info!(
                region_id,
                "a replica has waited for its data in vain, and has ended"
            );
            match (self.unfinished(region_id), self.identity.get()) {
                // It was to get its data by another snapshot than one that cannot be installed.
                (Some(region), Some(identity)) => {
                    let peer_id = self.own_peer_left_out(&region, identity.store_id).await;
                    self.leave_out(&region, peer_id);
                }
                _ => drop(self.replicas().ending.remove(&region_id)),
            }
        }
    }

    /// A region whose install is not finished, as of that.
    fn unfinished(&self, region_id: u64) -> Option<RegionDescriptor> {
        let unfinished = self.storage.unfinished_installs().remove(&region_id);
        unfinished.map(|unfinished| unfinished.region)
    }
}

/// The latest peer of a region on the disk that this store knows of. The placement driver adds no peer here while it has the region
/// destroyed, and ids grow, so any later peer has a higher id. 0: it knows of none.
fn latest_peer(storage: &Storage, region_id: u64) -> Result<u64, rdb_storage::Error> {
    let described = storage.described(region_id)?;
    let described = described.map(|(region, _)| region);
    let unfinished = storage.unfinished_installs().remove(&region_id);
    let unfinished = unfinished.map(|unfinished| unfinished.region);
    let peers = described.iter().chain(&unfinished);
    let peers = peers.flat_map(|region| &region.peers);
    Ok(peers.map(|peer| peer.id).max().unwrap_or(0))
}
