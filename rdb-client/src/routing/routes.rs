//! The routes to keys: the cache, the placement driver behind it, and the answers of stores.
//!
//! A suspect route of a region with one peer is looked up at the placement driver. For a region with several peers the
//! leader is searched for: `leader_search` asks the peers first.

use std::collections::BTreeMap;
use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::errorpb::{EpochNotMatch, NotLeader, RegionError};
use rdb_proto::metapb::Context;
use rdb_proto::pdpb::{GetRegionRequest, GetRegionResponse};
use rdb_proto::transport::limits::CALL_TIMEOUT;
use tokio_util::task::AbortOnDropHandle;

use super::placement_driver::PlacementDriver;
use super::region_cache::{PeerStore, RegionCache, Route, Suspicion};
use crate::retry::{Deadline, Failure, Pace};
use crate::{Error, TraceContext};

/// The routes to all regions, as far as they are known.
#[derive(Debug)]
pub(super) struct Routes {
    pub(super) cluster_id: u64,
    pub(super) placement_driver: Arc<PlacementDriver>,
    cache: Mutex<RegionCache>,
    /// Lookups that are under way, by the start of the hole that they fill.
    lookups: Mutex<BTreeMap<Bytes, Lookup>>,
    /// What searches have ended with under [`Suspicion::Refuses`], by the key that they were made for, and when.
    pub(super) refused: Mutex<BTreeMap<Bytes, (Instant, Arc<Route>)>>,
}

pub(super) type Found = Result<Arc<Route>, Failure>;

/// A question to the placement driver or a search for a leader, shared by all calls that wait for its answer. When no call
/// waits any more, it is given up.
#[derive(Debug)]
struct Lookup {
    began_at: Instant,
    /// After this time another may be asked beside it.
    patience: Duration,
    found: WeakShared<BoxFuture<'static, Found>>,
}

impl Lookup {
    /// `None`: it has ended, or takes too long.
    fn join(&self) -> Option<Shared<BoxFuture<'static, Found>>> {
        let found = self.found.upgrade()?;
        let is_under_way = found.peek().is_none() && self.began_at.elapsed() < self.patience;
        is_under_way.then_some(found)
    }
}

impl Routes {
    pub(super) fn new(cluster_id: u64, placement_driver: Arc<PlacementDriver>) -> Self {
        Self {
            cluster_id,
            placement_driver,
            cache: Mutex::default(),
            lookups: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// The region that holds `key`, from the cache or else from the placement driver. A replicated region is sought until
    /// somebody leads it. While the placement driver is silent, a suspect route to the only peer is still the best that is
    /// known.
    ///
    /// Under [`Suspicion::Refuses`] it is a peer that does not lead, as far as is known: one that refuses this client, and is to tell the
    /// call so.
    ///
    /// # Errors
    ///
    /// [`Error::ClusterMismatch`] is final when the placement driver has confirmed a route to a store of another cluster.
    pub(super) async fn locate(self: &Arc<Self>, key: &[u8], deadline: Deadline) -> Found {
        let known = self.cache().locate(key).cloned();
        let suspect = match known {
            Some(known) => known,
            None => self.look_up(key, deadline).await?,
        };
        if suspect.suspicion.is_some() && suspect.is_replicated() {
            return self.find_leader(key, deadline).await;
        }
        let Some(suspicion) = suspect.suspicion else {
            return Ok(suspect);
        };
        let found = match self
            .look_up(key, deadline.sooner(self.placement_driver.connect_timeout))
            .await
        {
            Ok(found) => found,
            Err(failure) => {
                tracing::debug!(?failure, "going on over a route that served nobody");
                // Other calls do not wait for a placement driver that does not answer.
                self.cache().trust(&suspect);
                return Ok(suspect);
            }
        };
        if found.suspicion.is_some() && found.is_replicated() {
            // The region has got other peers since, and one of them may lead it.
            return self.find_leader(key, deadline).await;
        }
        if found.suspicion.is_some() {
            // The cache knows something newer than the placement driver. It is not asked again by each call from now on.
            self.cache().trust(&found);
        }
        let is_confirmed = found.suspicion.is_none() && found.leader == suspect.leader;
        match suspicion {
            Suspicion::Foreign { cluster_id } if is_confirmed => {
                Err(self.mismatch(cluster_id).into())
            }
            Suspicion::Foreign { .. }
            | Suspicion::NotServed
            | Suspicion::NoLeader
            | Suspicion::Refuses => Ok(found),
        }
    }

    /// The replicated region that holds `key`, once somebody leads it.
    async fn find_leader(self: &Arc<Self>, key: &[u8], deadline: Deadline) -> Found {
        if let Some(refusing) = self.refused_lately(key) {
            return Ok(refusing);
        }
        let found = self.look_up(key, deadline).await?;
        match found.suspicion {
            None | Some(Suspicion::Refuses) => Ok(found),
            Some(_) => Err(leaderless(&found)),
        }
    }

    /// A call got nowhere over `route`: others are asked before it is used again.
    pub(super) fn suspect(&self, route: &Route) {
        self.forget_refused(route);
        self.cache().suspect(route, Suspicion::NotServed);
    }

    /// What a request over `route` says about its destination.
    pub(super) fn context(&self, route: &Route) -> Context {
        Context {
            cluster_id: self.cluster_id,
            store_id: route.leader.store_id,
            region_id: route.region.id,
            region_epoch: route.region.epoch,
        }
    }

    /// Takes in a routing answer. Every such answer means that the request was not applied.
    pub(super) fn learn(&self, route: &Route, region_error: RegionError) -> Failure {
        self.forget_refused(route);
        let mut cache = self.cache();
        let again = |pace, what: &str| Failure::Again {
            pace,
            error: Error::unavailable(format!("{}: {what}", route.place())),
        };
        match region_error.kind {
            Some(Kind::NotLeader(NotLeader {
                leader: Some(leader),
                term,
                ..
            })) => {
                let pace = if cache.set_leader(route, (*leader).into(), term) {
                    Pace::AtOnce
                } else {
                    cache.suspect(route, Suspicion::NotServed);
                    Pace::Backoff
                };
                again(pace, "another store leads the region")
            }
            Some(Kind::NotLeader(NotLeader {
                leader: None, term, ..
            })) => {
                cache.unset_leader(route, term);
                let what = "the store does not lead the region and knows no leader";
                again(Pace::Backoff, what)
            }
            Some(Kind::EpochNotMatch(EpochNotMatch {
                current_regions,
                leaders,
            })) => {
                // Stays suspect unless the answer has a new description of its range.
                cache.suspect(route, Suspicion::NotServed);
                let mut has_learned = false;
                // An earlier release does not say who leads them.
                let leaders = leaders.into_iter().map(Some).chain(iter::repeat(None));
                for (region, leader) in current_regions.into_iter().zip(leaders) {
                    let described = route.described_anew(region, leader);
                    has_learned |= cache.insert(Arc::new(described));
                }
                let pace = if has_learned {
                    Pace::AtOnce
                } else {
                    Pace::Backoff
                };
                again(pace, "the region has changed")
            }
            Some(Kind::RegionNotFound(_)) => {
                cache.remove(route);
                again(Pace::AtOnce, "the store does not have the region")
            }
            Some(Kind::KeyNotInRegion(_)) => {
                cache.remove(route);
                again(Pace::AtOnce, "the region does not hold the key")
            }
            Some(Kind::StoreMismatch(found)) => {
                cache.suspect(route, Suspicion::NotServed);
                let what = format!("store {} answered instead", found.store_id);
                again(Pace::AtOnce, &what)
            }
            Some(Kind::ClusterMismatch(found)) => {
                let cluster_id = found.cluster_id;
                cache.suspect(route, Suspicion::Foreign { cluster_id });
                Failure::Again {
                    pace: Pace::AtOnce,
                    error: self.mismatch(cluster_id),
                }
            }
            Some(Kind::ServerBusy(busy)) => Failure::Again {
                pace: Pace::AtLeast(Duration::from_millis(busy.backoff_ms)),
                error: Error::busy(format!("{}: it has no room at the moment", route.place())),
            },
            Some(Kind::NotReady(not_ready)) => {
                cache.suspect(route, Suspicion::NotServed);
                again(Pace::Backoff, &format!("not ready: {}", not_ready.reason))
            }
            None => {
                cache.suspect(route, Suspicion::NotServed);
                let what = "it refused for a reason this release does not know";
                again(Pace::Backoff, what)
            }
        }
    }

    fn mismatch(&self, found: u64) -> Error {
        Error::ClusterMismatch {
            expected: self.cluster_id,
            found,
        }
    }

    /// Waits for the lookup of `key`, together with all calls for the same hole of the cache.
    async fn look_up(self: &Arc<Self>, key: &[u8], deadline: Deadline) -> Found {
        loop {
            let lookup = self.lookup(key, deadline.trace());
            let Some(found) = deadline.limit(lookup).await else {
                return Err(self.not_found(key, deadline));
            };
            let found = found?;
            let known = self.cache().locate(key).cloned();
            let is_refused = found.suspicion == Some(Suspicion::Refuses);
            // The cache keeps what it has when that is newer.
            if let Some(known) = known.filter(|known| !is_refused || known.suspicion.is_none()) {
                return Ok(known);
            }
            if found.region.contains(key) {
                return Ok(found);
            }
            // Another call's key lies in another region of the same hole.
        }
    }

    /// The deadline came before an answer.
    fn not_found(&self, key: &[u8], deadline: Deadline) -> Failure {
        match self.cache().locate(key) {
            Some(route) if route.is_replicated() => leaderless(route),
            _ => {
                let cause = "the placement driver did not say where the key is";
                deadline.exceeded(cause).into()
            }
        }
    }

    /// The lookup that is under way for the hole that `key` lies in, or a new one, which is a part of `trace`.
    fn lookup(
        self: &Arc<Self>,
        key: &[u8],
        trace: Option<&TraceContext>,
    ) -> Shared<BoxFuture<'static, Found>> {
        let cache = self.cache();
        let hole = cache.hole(key);
        let known = cache.locate(key).cloned();
        drop(cache);
        // Nothing between lock and unlock leaves the map half changed.
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = lookups.get(&hole).and_then(Lookup::join) {
            return found;
        }
        lookups.retain(|_, lookup| lookup.found.upgrade().is_some());
        // A task: a timer must not be polled once the runtime that it was set on has ended, and the other calls may be on
        // another one.
        let this = Arc::clone(self);
        let key = Bytes::copy_from_slice(key);
        let (asking, patience) = match known.filter(|route| route.is_replicated()) {
            // It waits for nobody for long.
            Some(suspect) => (tokio::spawn(this.search(key, suspect)), Duration::MAX),
            None => {
                let deadline = Deadline::after(CALL_TIMEOUT).in_trace(trace.copied());
                let asking = async move { this.ask(&key, deadline).await };
                let patience = self.placement_driver.connect_timeout;
                (tokio::spawn(asking), patience)
            }
        };
        let asking = AbortOnDropHandle::new(asking);
        let found = async move { asking.await.unwrap_or_else(|_| Err(ended())) };
        let found = found.boxed().shared();
        let lookup = found.downgrade().map(|weak| Lookup {
            began_at: Instant::now(),
            patience,
            found: weak,
        });
        lookups.extend(lookup.map(|lookup| (hole, lookup)));
        found
    }

    /// Asks the placement driver, and takes in its answer. `deadline` is that of the question; the calls that share it have their own.
    pub(super) async fn ask(&self, key: &Bytes, deadline: Deadline) -> Found {
        let found = self.answer(key, deadline).await;
        let counters = &self.placement_driver.counters;
        counters.figures().note_region_lookup(found.is_ok());
        found
    }

    async fn answer(&self, key: &Bytes, deadline: Deadline) -> Found {
        let request = GetRegionRequest { key: key.clone() };
        let answer = self.placement_driver.ask_once(deadline, |mut client| {
            let request = request.clone();
            async move { client.get_region(request).await }
        });
        let unknown = |cause: &str| Failure::again(Error::unavailable(cause));
        let GetRegionResponse { route, cause } = answer.await?;
        let Some(found) = route else {
            return Err(unknown(match &*cause {
                "" => "no region holds the key yet",
                told => told,
            }));
        };
        let Some(region) = found.region.filter(|region| region.contains(key)) else {
            let cause = "the placement driver named a region without the key";
            return Err(Error::internal(cause).into());
        };
        let peers: Vec<PeerStore> = found.peers.into_iter().map(PeerStore::from).collect();
        let (leader, suspicion) = match (found.leader, peers.as_slice()) {
            (Some(leader), _) => (leader.into(), None),
            (None, [any, _, ..]) => (any.clone(), Some(Suspicion::NoLeader)),
            (None, _) => {
                let cause = format!("region {} has no leader at the moment", region.id);
                return Err(unknown(&cause));
            }
        };
        let route = Arc::new(Route {
            peers,
            term: found.term,
            suspicion,
            ..Route::new(region, leader)
        });
        self.cache().learn(&route);
        Ok(route)
    }

    pub(super) fn cache(&self) -> MutexGuard<'_, RegionCache> {
        // Every change leaves the cache consistent; at worst it lacks an entry.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No peer of the route's region leads it, as far as is known.
fn leaderless(route: &Route) -> Failure {
    let region_id = route.region.id;
    let mut cause = format!("no peer of region {region_id} says that it leads it");
    if let Some((_, refusal)) = &route.refusal {
        cause.push_str(": ");
        cause.push_str(refusal);
    }
    Failure::again(Error::unavailable(cause))
}

/// The runtime of the call that began the lookup has ended.
fn ended() -> Failure {
    Failure::again(Error::unavailable(
        "the question where the key is was given up",
    ))
}
