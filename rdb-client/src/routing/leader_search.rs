//! The search for the leader of a region with several peers.
//!
//! A search begins when a route is suspect, and all calls that wait for the region share it. It asks all peers who leads, each
//! by itself and with backoff between questions. The question is a read of the region's lowest key: whoever serves it is the
//! leader, and whoever does not may name it. A user without a right to that key reads the one that its call is about. The
//! placement driver is asked once no peer has known for a while, and then ever more seldom.
//!
//! It ends with the first news: a peer that serves, a leader of a later term, another address, another epoch. That a peer
//! names the store again that got calls nowhere is no news. So a search lasts as long as an election does, or until no call
//! waits for it. It also ends when the placement driver does not let this client ask: then no store will, either.
//!
//! And it ends when a peer does not let this client read at all. Each store looks at rights before it looks who leads, so the call is
//! sent to that peer, and is refused there for good and in its own words. The copy of the rights that this store has may be older than
//! another's. Its word counts nevertheless: it is within the bound on the age of copies, the leader's may be as old, and what was granted
//! just now counts some seconds later in any case.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::select_all;
use rdb_proto::kvrpc::{GetRequest, RawGetRequest};
use rdb_proto::metapb::Region;
use rdb_proto::response::DataResponse as _;
use tokio::time::sleep;

use super::region_cache::Route;
use super::routes::{Found, Routes};
use crate::retry::{Deadline, Failure, backoff};
use crate::rpc::{Access, DataRequest};
use crate::{Error, fate};

/// How long a peer may take for one answer, connecting included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the peers have until the placement driver is asked. Doubles with each further question.
const PLACEMENT_DRIVER_WAIT: Duration = Duration::from_millis(200);

impl Routes {
    /// Looks for the leader of the region of `suspect`, which holds `key`, until there is news.
    pub(super) async fn search(self: Arc<Self>, key: Bytes, suspect: Arc<Route>) -> Found {
        tracing::debug!(region_id = suspect.region.id, "looking for the leader");
        let counters = &self.placement_driver.counters;
        counters.figures().note_leader_search();
        let peers = suspect.to_each_peer();
        let peers = peers.map(|peer| self.ask_peer_until_news(peer, &key).map(|()| None).boxed());
        let placement_driver = self.ask_placement_driver_until_news(&key, &suspect).boxed();
        let (refusal, ..) = select_all(peers.chain([placement_driver])).await;
        if let Some(refusal) = refusal {
            return Err(refusal.into());
        }
        let found = self.cache().locate(&key).cloned();
        match found {
            Some(found) => Ok(found),
            None => self.ask(&key, self.question_deadline()).await,
        }
    }

    async fn ask_peer_until_news(&self, peer: Route, key: &Bytes) {
        for questions in 0.. {
            match Deadline::after(ANSWER_TIMEOUT)
                .limit(self.ask_peer(&peer, key))
                .await
            {
                // A damaged block is read by the leader only, and says nothing about other keys.
                Some(Ok(()) | Err(Failure::Final(Error::DataLoss { .. }))) => {
                    self.cache().confirm(&peer);
                }
                Some(Err(Failure::Final(error))) if error.is_refusal_of_client() => {
                    self.cache().guess(&peer);
                    return;
                }
                Some(Err(failure)) => tracing::debug!(?failure, "a peer does not lead"),
                None => tracing::debug!(place = peer.place(), "a peer is silent"),
            }
            if self.has_news(&peer) {
                return;
            }
            sleep(backoff(questions, fastrand::f64())).await;
        }
    }

    /// Reads over `peer`. A store looks at rights first, so one that denies the read says nothing of the region. Then `key` is read, in
    /// either keyspace: who may not do that either has no use for the leader.
    async fn ask_peer(&self, peer: &Route, key: &Bytes) -> Result<(), Failure> {
        let is_denied = |read: &Result<(), Failure>| {
            matches!(read, Err(Failure::Final(Error::PermissionDenied { .. })))
        };
        let raw = |key| RawGetRequest { key, context: None };
        let mut read = self.read(peer, raw(lowest_key(&peer.region))).await;
        if is_denied(&read) {
            read = self.read(peer, raw(key.clone())).await;
        }
        if is_denied(&read) {
            let key = key.clone();
            read = self.read(peer, GetRequest { key, context: None }).await;
        }
        read
    }

    /// Sends a read over `peer`, and takes in what the store says instead of an answer.
    async fn read<R: DataRequest>(&self, peer: &Route, mut request: R) -> Result<(), Failure> {
        let address = &peer.leader.address;
        let connections = &self.placement_driver.connections;
        let connection = connections.connection(address).await;
        let connection = connection.map_err(|cause| Failure::again(Error::unavailable(cause)))?;
        request.set_context(self.context(peer));
        let sent = request.send(connection.channel).await;
        let mut answer = sent.map_err(|status| {
            connections.forget_broken(address, connection.id, &status);
            let failure = fate::failure(Access::Read, &status, &peer.place());
            if let Failure::Again { error, .. } = &failure {
                self.cache().note_refusal(peer, error.reason());
            }
            failure
        })?;
        match answer.region_error_mut().take() {
            None => Ok(()),
            Some(region_error) => Err(self.learn(peer, *region_error)),
        }
    }

    /// Returns why the placement driver does not let this client ask, if it does not.
    async fn ask_placement_driver_until_news(&self, key: &Bytes, suspect: &Route) -> Option<Error> {
        let mut wait = PLACEMENT_DRIVER_WAIT;
        while !self.has_news(suspect) {
            sleep(wait.mul_f64(1.0 - fastrand::f64() / 2.0)).await;
            wait = wait.saturating_mul(2);
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
