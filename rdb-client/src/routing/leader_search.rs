//! The search for the leader of a region with several peers.
//!
//! A search begins when a route is suspect, and all calls that wait for the region share it. It asks all peers concurrently
//! who leads, with backoff between questions. The question is a read of the region's lowest key: a peer that serves it is the
//! leader, and one that does not may name the leader. A user without a right to that key reads the key of its call. The
//! placement driver is asked once no peer has known for a while, and then less and less often, in the end every few seconds.
//!
//! It ends with the first news: a peer that serves, a leader of a later term, another address, another epoch. It is no news
//! when a peer names the store that calls have just failed on. So a search lasts as long as an election does, or until no
//! call waits for it. It also ends when the placement driver refuses this client: then stores will refuse it, too.
//!
//! A peer that does not let this client read at all is not asked again. Each store checks rights before it checks who leads, and its copy
//! of the rights may be older than the leader's. So a refusal changes nothing while others may bring news. If there is none within
//! [`REFUSAL_PATIENCE`], or all peers have refused and the placement driver knows nothing new, the call is sent to that peer, and is
//! refused there for good and in the peer's own words. Further calls for that key are sent there for the same time, while all of them are
//! refused. But a peer that lets this client read, and says that it does not lead, vouches for the client. Then the search goes on, since
//! an election may take longer than that.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{Either, select};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use rdb_proto::kvrpc::{GetRequest, RawGetRequest};
use rdb_proto::metapb::Region;
use rdb_proto::response::DataResponse as _;
use tokio::time::{sleep, timeout};

use super::region_cache::{Route, Suspicion};
use super::routes::{Found, Routes};
use crate::retry::{Deadline, Failure, backoff};
use crate::rpc::{Access, DataRequest};
use crate::{Error, fate};

/// How long a peer may take for one answer, connecting included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the peers have until the placement driver is asked. Doubles with each further question, up to the longest.
const PLACEMENT_DRIVER_WAIT: Duration = Duration::from_millis(200);
const PLACEMENT_DRIVER_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long others have to bring news, or to let this client in, once a peer has refused it. The placement driver is asked within that
/// time. Where there is no news, nobody is asked again for the same key for that long.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);

impl Routes {
    /// Looks for the leader of the region of `suspect`, which holds `key`, until there is news. Under [`Suspicion::Refuses`] there is none,
    /// and the route, which is not in the cache, is to the peer that refuses this client.
    pub(super) async fn search(self: Arc<Self>, key: Bytes, suspect: Arc<Route>) -> Found {
        tracing::debug!(region_id = suspect.region.id, "looking for the leader");
        let counters = &self.placement_driver.counters;
        counters.figures().note_leader_search();
        let peers = pin!(self.ask_peers(&suspect, &key));
        let placement_driver = pin!(self.ask_placement_driver_until_news(&key, &suspect));
        match select(peers, placement_driver).await {
            Either::Left((Some(refusing), _)) => {
                let refusing = Arc::new(Route {
                    suspicion: Some(Suspicion::Refuses),
                    ..refusing
                });
                self.note_refused(key.clone(), &refusing);
                return Ok(refusing);
            }
            Either::Right((Some(refusal), _)) => return Err(refusal.into()),
            Either::Left((None, _)) | Either::Right((None, _)) => {}
        }
        let found = self.cache().locate(&key).cloned();
        match found {
            Some(found) => Ok(found),
            None => self.ask(&key, self.question_deadline()).await,
        }
    }

    /// Asks all peers until there is news. Returns the first that refuses this client if there is none.
    async fn ask_peers(&self, suspect: &Route, key: &Bytes) -> Option<Route> {
        let lets_in = AtomicBool::new(false);
        let peers = suspect.to_each_peer();
        let mut asked: FuturesUnordered<_> = peers
            .map(|peer| self.ask_peer_until_news(peer, key, &lets_in).boxed())
            .collect();
        let refusing = asked.next().await.flatten()?;
        let mut others = pin!(async {
            while let Some(refusing) = asked.next().await {
                if refusing.is_none() {
                    return;
                }
            }
            // No peer is left. What the placement driver knows is in the cache then.
            let _ = self.ask(key, self.question_deadline()).await;
        });
        let is_late = timeout(REFUSAL_PATIENCE, &mut others).await.is_err();
        if is_late && lets_in.load(Ordering::Relaxed) {
            others.await;
        }
        (!self.has_news(suspect)).then_some(refusing)
    }

    /// Returns the peer if it refuses this client. Notes in `lets_in` that it does not.
    async fn ask_peer_until_news(
        &self,
        mut peer: Route,
        key: &Bytes,
        lets_in: &AtomicBool,
    ) -> Option<Route> {
        for questions in 0.. {
            if let Some(known) = self.cache().locate(&peer.region.start_key) {
                peer.readdress(known);
            }
            match Deadline::after(ANSWER_TIMEOUT)
                .limit(self.ask_peer(&peer, key))
                .await
            {
                // A damaged block is read by the leader only, and says nothing about other keys.
                Some(Ok(None) | Err(Failure::Final(Error::DataLoss { .. }))) => {
                    self.cache().confirm(&peer);
                }
                Some(Ok(Some(failure))) => {
                    lets_in.store(true, Ordering::Relaxed);
                    tracing::debug!(?failure, "a peer does not lead");
                }
                Some(Err(Failure::Final(error))) if error.is_refusal_of_client() => {
                    return Some(peer);
                }
                Some(Err(failure)) => tracing::debug!(?failure, "a peer does not answer"),
                None => tracing::debug!(place = peer.place(), "a peer is silent"),
            }
            if self.has_news(&peer) {
                break;
            }
            sleep(backoff(questions, fastrand::f64())).await;
        }
        None
    }

    /// Reads over `peer`. A store looks at rights first, so one that denies the read says nothing of the region. Then `key` is read, in
    /// either keyspace: who may not do that either has no use for the leader.
    async fn ask_peer(&self, peer: &Route, key: &Bytes) -> Result<Option<Failure>, Failure> {
        let is_denied = |read: &Result<_, Failure>| {
            matches!(read, Err(Failure::Final(Error::PermissionDenied { .. })))
        };
        let lowest = lowest_key(&peer.region);
        let key = if key.is_empty() { &lowest } else { key };
        let raw = |key| RawGetRequest { key, context: None };
        let mut read = self.read(peer, raw(lowest.clone())).await;
        if is_denied(&read) {
            read = self.read(peer, raw(key.clone())).await;
        }
        if is_denied(&read) {
            let key = key.clone();
            read = self.read(peer, GetRequest { key, context: None }).await;
        }
        read
    }

    /// Sends a read over `peer`. Takes in and returns what the store says of the region instead of an answer.
    async fn read<R: DataRequest>(
        &self,
        peer: &Route,
        mut request: R,
    ) -> Result<Option<Failure>, Failure> {
        let address = &peer.leader.address;
        let connections = &self.placement_driver.connections;
        let connection = connections.connection(address).await;
        let connection = connection.map_err(|cause| Failure::again(Error::unavailable(cause)))?;
        request.set_context(self.context(peer));
        let sent = request.send(connection.channel).await;
        let sent = sent.map_err(|status| {
            connections.forget_broken(address, connection.id, &status);
            fate::failure(Access::Read, &status, &peer.place())
        });
        let refusal = match &sent {
            Err(Failure::Again { error, .. }) => Some(error.reason()),
            Ok(_) | Err(Failure::Final(_)) => None,
        };
        self.cache().note_answer(peer, refusal);
        let mut answer = sent?;
        let region_error = answer.region_error_mut().take();
        Ok(region_error.map(|region_error| self.learn(peer, *region_error)))
    }

    /// Returns why the placement driver does not let this client ask, if it does not.
    async fn ask_placement_driver_until_news(&self, key: &Bytes, suspect: &Route) -> Option<Error> {
        let mut wait = PLACEMENT_DRIVER_WAIT;
        while !self.has_news(suspect) {
            sleep(wait.mul_f64(1.0 - fastrand::f64() / 2.0)).await;
            wait = (2 * wait).min(PLACEMENT_DRIVER_WAIT_MAX);
            match self.ask(key, self.question_deadline()).await {
                Ok(_) => {}
                Err(Failure::Final(error)) if error.is_refusal_of_client() => return Some(error),
                Err(failure) => {
                    tracing::debug!(?failure, "the placement driver does not know either");
                }
            }
        }
        None
    }

    fn note_refused(&self, key: Bytes, refusing: &Arc<Route>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|_, (ended_at, _)| ended_at.elapsed() < REFUSAL_PATIENCE);
        refused.insert(key, (Instant::now(), Arc::clone(refusing)));
    }

    /// What a search for `key` has just ended with, if that is a peer that refuses this client. Otherwise each call of a client without a
    /// right would be a search.
    pub(super) fn refused_lately(&self, key: &[u8]) -> Option<Arc<Route>> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended_at, refusing) = refused.get(key)?;
        let is_recent = ended_at.elapsed() < REFUSAL_PATIENCE;
        (is_recent && !self.has_news(refusing)).then(|| Arc::clone(refusing))
    }

    /// A call over `route` was not denied. If a search has ended with that, the next one looks further.
    pub(super) fn forget_refused(&self, route: &Route) {
        if route.suspicion == Some(Suspicion::Refuses) {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.retain(|_, (_, refusing)| refusing.leader != route.leader);
        }
    }

    fn question_deadline(&self) -> Deadline {
        Deadline::after(self.placement_driver.connect_timeout)
    }

    /// Whether more is known of the region of `sought` than that its leader does not answer.
    fn has_news(&self, sought: &Route) -> bool {
        let cache = self.cache();
        let known = cache.locate(&sought.region.start_key);
        known.is_none_or(|known| {
            known.suspicion.is_none() || known.region.epoch != sought.region.epoch
        })
    }
}

/// A key is not empty, a bound may be.
fn lowest_key(region: &Region) -> Bytes {
    if region.start_key.is_empty() {
        Bytes::from_static(b"\0")
    } else {
        region.start_key.clone()
    }
}
