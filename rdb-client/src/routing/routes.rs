//! What is known of the way to each key: the cache, the placement driver behind it, and what stores say.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::errorpb::{EpochNotMatch, NotLeader, RegionError};
use rdb_proto::pdpb::GetRegionRequest;
use rdb_proto::transport::limits::CALL_TIMEOUT;
use tokio_util::task::AbortOnDropHandle;

use super::placement_driver::PlacementDriver;
use super::region_cache::{RegionCache, Route, Suspicion};
use crate::Error;
use crate::retry::{Deadline, Failure, Pace};

/// The routes to all regions, as far as they are known.
#[derive(Debug)]
pub(super) struct Routes {
    pub(super) cluster_id: u64,
    pub(super) placement_driver: Arc<PlacementDriver>,
    cache: Mutex<RegionCache>,
    /// Lookups that are under way, by the start of the hole that they fill.
    lookups: Mutex<BTreeMap<Bytes, Lookup>>,
}

type Found = Result<Arc<Route>, Failure>;

/// A question to the placement driver, shared by all calls that wait for its answer. When no call waits any more, it is
/// given up.
#[derive(Debug)]
struct Lookup {
    began_at: Instant,
    found: WeakShared<BoxFuture<'static, Found>>,
}

impl Lookup {
    /// `None`: it has ended, or takes so long that another may be asked beside it.
    fn join(&self, connect_timeout: Duration) -> Option<Shared<BoxFuture<'static, Found>>> {
        let found = self.found.upgrade()?;
        let is_under_way = found.peek().is_none() && self.began_at.elapsed() < connect_timeout;
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
        }
    }

    /// The region that holds `key`, from the cache or else from the placement driver. While the placement driver is silent, a
    /// suspect route is still the best that is known.
    ///
    /// # Errors
    ///
    /// [`Error::ClusterMismatch`] is final when the placement driver has confirmed a route to a store of another cluster.
    pub(super) async fn locate(self: &Arc<Self>, key: &[u8], deadline: Deadline) -> Found {
        let known = self.cache().locate(key).cloned();
        let Some(suspect) = known else {
            return self.look_up(key, deadline).await;
        };
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
        if found.suspicion.is_some() {
            // The cache knows something newer than the placement driver. It is not asked again by each call from now on.
            self.cache().trust(&found);
        }
        let is_confirmed = found.suspicion.is_none() && found.leader == suspect.leader;
        match suspicion {
            Suspicion::Foreign { cluster_id } if is_confirmed => {
                Err(self.mismatch(cluster_id).into())
            }
            Suspicion::Foreign { .. } | Suspicion::NotServed => Ok(found),
        }
    }

    /// A call got nowhere over `route`: the placement driver is asked before it is used again.
    pub(super) fn suspect(&self, route: &Route) {
        self.cache().suspect(route, Suspicion::NotServed);
    }

    /// Takes in a routing answer. Whatever it is, the request was certainly not applied.
    pub(super) fn learn(&self, route: &Route, region_error: RegionError) -> Failure {
        let mut cache = self.cache();
        let again = |pace, what: &str| Failure::Again {
            pace,
            error: Error::unavailable(format!("{}: {what}", route.place())),
        };
        match region_error.kind {
            Some(Kind::NotLeader(NotLeader {
                leader: Some(leader),
                ..
            })) => {
                if !cache.set_leader(route, (*leader).into()) {
                    cache.suspect(route, Suspicion::NotServed);
                }
                again(Pace::AtOnce, "another store leads the region")
            }
            Some(Kind::NotLeader(NotLeader { leader: None, .. })) => {
                cache.suspect(route, Suspicion::NotServed);
                let what = "the store does not lead the region and knows no leader";
                again(Pace::Backoff, what)
            }
            Some(Kind::EpochNotMatch(EpochNotMatch { current_regions })) => {
                // Stays suspect unless the answer describes its range anew.
                cache.suspect(route, Suspicion::NotServed);
                let mut has_learned = false;
                for region in current_regions {
                    let current = Route::new(region, route.leader.clone());
                    has_learned |= cache.insert(Arc::new(current));
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

    /// Waits for the placement driver's answer, together with all calls for the same hole of the cache.
    async fn look_up(self: &Arc<Self>, key: &[u8], deadline: Deadline) -> Found {
        loop {
            let lookup = self.lookup(key);
            let Some(found) = deadline.limit(lookup).await else {
                let cause = "the placement driver did not say where the key is";
                return Err(deadline.exceeded(cause).into());
            };
            let found = found?;
            // The cache keeps what it has when that is newer.
            if let Some(route) = self.cache().locate(key) {
                return Ok(Arc::clone(route));
            }
            if found.region.contains(key) {
                return Ok(found);
            }
            // Another call's key lies in another region of the same hole.
        }
    }

    /// The lookup that is under way for the hole that `key` lies in, or a new one.
    fn lookup(self: &Arc<Self>, key: &[u8]) -> Shared<BoxFuture<'static, Found>> {
        let hole = self.cache().hole(key);
        // Nothing between lock and unlock leaves the map half changed.
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lookups.get(&hole);
        if let Some(found) =
            known.and_then(|lookup| lookup.join(self.placement_driver.connect_timeout))
        {
            return found;
        }
        lookups.retain(|_, lookup| lookup.found.upgrade().is_some());
        // A task: a timer must not be polled once the runtime that it was set on has ended, and the other calls may be on
        // another one.
        let asking = tokio::spawn(Arc::clone(self).ask(Bytes::copy_from_slice(key)));
        let asking = AbortOnDropHandle::new(asking);
        let found = async move { asking.await.unwrap_or_else(|_| Err(ended())) };
        let found = found.boxed().shared();
        let lookup = found.downgrade().map(|weak| Lookup {
            began_at: Instant::now(),
            found: weak,
        });
        lookups.extend(lookup.map(|lookup| (hole, lookup)));
        found
    }

    /// Asks the placement driver, and takes in what it says. Calls have deadlines of their own.
    async fn ask(self: Arc<Self>, key: Bytes) -> Found {
        let request = GetRegionRequest { key: key.clone() };
        let deadline = Deadline::after(CALL_TIMEOUT);
        let answer = self.placement_driver.ask_once(deadline, |mut client| {
            let request = request.clone();
            async move { client.get_region(request).await }
        });
        let unknown = |cause: &str| Failure::again(Error::unavailable(cause));
        let Some(found) = answer.await?.route else {
            return Err(unknown("no store has registered yet"));
        };
        let Some(region) = found.region.filter(|region| region.contains(&key)) else {
            let cause = "the placement driver named a region without the key";
            return Err(Error::internal(cause).into());
        };
        let Some(leader) = found.leader else {
            let cause = format!("region {} has no leader at the moment", region.id);
            return Err(unknown(&cause));
        };
        let route = Arc::new(Route::new(region, leader.into()));
        self.cache().learn(&route);
        Ok(route)
    }

    fn cache(&self) -> MutexGuard<'_, RegionCache> {
        // Every change leaves the cache consistent; at worst it lacks an entry.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The runtime of the call that began the lookup has ended.
fn ended() -> Failure {
    Failure::again(Error::unavailable(
        "the question where the key is was given up",
    ))
}
