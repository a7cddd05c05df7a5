//! One attempt: find the region, send the request to its leader, learn from the answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rdb_proto::errorpb::region_error::Kind;
use rdb_proto::errorpb::{EpochNotMatch, NotLeader, RegionError};
use rdb_proto::kvrpc::batch_answer;
use rdb_proto::metapb::Context;
use rdb_proto::pdpb::GetRegionRequest;
use tonic::Status;

use super::connection_pool::{Connection, ConnectionPool};
use super::placement_driver::PlacementDriver;
use super::region_cache::{RegionCache, Route};
use crate::dispatch::{Command, Dispatcher, Interrupted, Lane};
use crate::retry::{Deadline, Failure, Pace, Retry};
use crate::rpc::{Access, DataRequest};
use crate::{ClientStats, Error, fate};

/// Everything that calls share: what is known of the cluster and the connections to it.
#[derive(Debug)]
pub(crate) struct Router {
    cluster_id: u64,
    placement_driver: Arc<PlacementDriver>,
    connections: Arc<ConnectionPool>,
    /// `None`: every request is a call of its own.
    dispatcher: Option<Dispatcher>,
    cache: Mutex<RegionCache>,
    /// How long the placement driver may take while there is something else to try.
    patience: Duration,
}

impl Router {
    pub(crate) fn new(
        cluster_id: u64,
        placement_driver: Arc<PlacementDriver>,
        connections: Arc<ConnectionPool>,
        patience: Duration,
        batching: bool,
    ) -> Self {
        Self {
            cluster_id,
            placement_driver,
            dispatcher: batching.then(|| Dispatcher::new(Arc::clone(&connections))),
            connections,
            cache: Mutex::default(),
            patience,
        }
    }

    pub(crate) fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    pub(crate) fn placement_driver(&self) -> &PlacementDriver {
        &self.placement_driver
    }

    pub(crate) fn connections(&self) -> &ConnectionPool {
        &self.connections
    }

    pub(crate) fn count_in(&self, stats: &mut ClientStats) {
        if let Some(dispatcher) = &self.dispatcher {
            dispatcher.count_in(stats);
        }
    }

    /// Sends a request to the region that holds `key` until it is answered or the deadline comes.
    pub(crate) async fn call<R: DataRequest>(
        &self,
        key: &[u8],
        request: R,
        deadline: Deadline,
    ) -> Result<R::Answer, Error> {
        let mut retry = Retry::until(deadline);
        loop {
            let attempt = async {
                let route = self.locate(key, deadline).await?;
                self.attempt(&route, request.clone(), deadline).await
            };
            match attempt.await {
                Ok(answer) => return Ok(answer),
                Err(failure) => retry.pause(failure).await?,
            }
        }
    }

    /// The region that holds `key`, from the cache or else from the placement driver. A cached route whose store did not
    /// answer is asked about again, but while the placement driver is silent it is still the best that is known.
    pub(crate) async fn locate(
        &self,
        key: &[u8],
        deadline: Deadline,
    ) -> Result<Arc<Route>, Failure> {
        let suspect = match self.cache().locate(key) {
            Some(route) if !route.suspect => return Ok(Arc::clone(route)),
            suspect => suspect.cloned(),
        };
        match suspect {
            None => self.look_up(key, deadline).await,
            Some(suspect) => {
                let patience = deadline.sooner(self.patience);
                let found = self.look_up(key, patience).await;
                Ok(found.unwrap_or_else(|failure| {
                    tracing::debug!(
                        ?failure,
                        "going on with a store that did not answer last time"
                    );
                    suspect
                }))
            }
        }
    }

    /// Sends a request once.
    pub(crate) async fn attempt<R: DataRequest>(
        &self,
        route: &Route,
        request: R,
        deadline: Deadline,
    ) -> Result<R::Answer, Failure> {
        let Some(dispatcher) = &self.dispatcher else {
            return self.send_alone(route, request, deadline).await;
        };
        match request.into_command() {
            Ok(request) => {
                let lanes = dispatcher.store(&route.leader.address);
                let command = Command {
                    context: self.context(route),
                    request,
                };
                let response = self.dispatch::<R>(route, lanes.lane(), command, deadline);
                self.received::<R>(route, response.await?)
            }
            Err(request) => self.send_alone(route, request, deadline).await,
        }
    }

    /// Sends a request as a call of its own.
    async fn send_alone<R: DataRequest>(
        &self,
        route: &Route,
        mut request: R,
        deadline: Deadline,
    ) -> Result<R::Answer, Failure> {
        let connection = self.connect(route, deadline).await?;
        request.set_context(self.context(route));
        let mut answer = match deadline
            .limit(request.send(connection.channel.clone()))
            .await
        {
            Some(Ok(answer)) => answer,
            Some(Err(status)) => {
                if fate::is_local(&status) {
                    self.connections
                        .forget(&route.leader.address, connection.id);
                }
                if fate::never_sent(&status) {
                    self.cache().suspect(route);
                }
                return Err(fate::failure(R::ACCESS, &status, &route.place()));
            }
            None => return Err(self.unanswered::<R>(route, deadline)),
        };
        match R::take_region_error(&mut answer) {
            None => Ok(answer),
            Some(region_error) => Err(self.learn(route, region_error)),
        }
    }

    /// Sends a command together with those of other calls.
    async fn dispatch<R: DataRequest>(
        &self,
        route: &Route,
        lane: &Lane,
        command: Command,
        deadline: Deadline,
    ) -> Result<batch_answer::Response, Failure> {
        let Some(mut answer) = deadline.limit(lane.submit(command)).await else {
            let cause = format!("{} has too many calls in flight", route.place());
            return Err(deadline.exceeded(cause).into());
        };
        match deadline.limit(&mut answer).await {
            Some(Ok(response)) => Ok(response),
            Some(Err(Interrupted::NotSent { cause })) => {
                self.cache().suspect(route);
                let cause = format!("{}: {cause}", route.place());
                Err(Failure::again(Error::unavailable(cause)))
            }
            Some(Err(Interrupted::Lost { cause })) => {
                let cause = format!("{}: {cause}", route.place());
                Err(match R::ACCESS {
                    Access::Read => Failure::again(Error::unavailable(cause)),
                    Access::Write => Error::undetermined(cause).into(),
                })
            }
            None => match answer.withdraw() {
                true => {
                    let cause = format!("no connection to {} in time", route.place());
                    Err(deadline.exceeded(cause).into())
                }
                false => Err(self.unanswered::<R>(route, deadline)),
            },
        }
    }

    /// What a response of a stream means to its call.
    fn received<R: DataRequest>(
        &self,
        route: &Route,
        response: batch_answer::Response,
    ) -> Result<R::Answer, Failure> {
        match response {
            batch_answer::Response::RegionError(region_error) => {
                Err(self.learn(route, *region_error))
            }
            batch_answer::Response::Fault(fault) => Err(fate::failure(
                R::ACCESS,
                &Status::from(*fault),
                &route.place(),
            )),
            response => R::from_response(response).ok_or_else(|| {
                let cause = format!("{} answered another request", route.place());
                Failure::Final(match R::ACCESS {
                    Access::Read => Error::internal(cause),
                    Access::Write => Error::undetermined(cause),
                })
            }),
        }
    }

    /// The deadline came after the request had been sent.
    fn unanswered<R: DataRequest>(&self, route: &Route, deadline: Deadline) -> Failure {
        let cause = format!("{} gave no answer in time", route.place());
        Failure::Final(match R::ACCESS {
            Access::Read => deadline.exceeded(cause),
            Access::Write => Error::undetermined(cause),
        })
    }

    async fn look_up(&self, key: &[u8], deadline: Deadline) -> Result<Arc<Route>, Failure> {
        let request = GetRegionRequest {
            key: Bytes::copy_from_slice(key),
        };
        let answer = self.placement_driver.ask_once(deadline, |mut client| {
            let request = request.clone();
            async move { client.get_region(request).await }
        });
        let unknown = |cause: &str| Failure::again(Error::unavailable(cause));
        let Some(found) = answer.await?.route else {
            return Err(unknown("no store has registered yet"));
        };
        let Some(region) = found.region.filter(|region| region.contains(key)) else {
            return Err(
                Error::internal("the placement driver named a region without the key").into(),
            );
        };
        let Some(leader) = found.leader else {
            let cause = format!("region {} has no leader at the moment", region.id);
            return Err(unknown(&cause));
        };
        let route = Arc::new(Route::new(region, leader.into()));
        let mut cache = self.cache();
        cache.insert(Arc::clone(&route));
        // The cache keeps what it has when that is newer.
        Ok(cache.locate(key).cloned().unwrap_or(route))
    }

    /// A connection to the leader. Failing here is certain: nothing has been sent.
    async fn connect(&self, route: &Route, deadline: Deadline) -> Result<Connection, Failure> {
        let connecting = self.connections.connection(&route.leader.address);
        match deadline.limit(connecting).await {
            Some(Ok(connection)) if !deadline.remaining().is_zero() => Ok(connection),
            Some(Err(cause)) => {
                self.cache().suspect(route);
                let cause = format!("{}: {cause}", route.place());
                Err(Failure::again(Error::unavailable(cause)))
            }
            Some(Ok(_)) | None => {
                let cause = format!("no connection to {} in time", route.place());
                Err(deadline.exceeded(cause).into())
            }
        }
    }

    fn context(&self, route: &Route) -> Context {
        Context {
            cluster_id: self.cluster_id,
            store_id: route.leader.store_id,
            region_id: route.region.id,
            region_epoch: route.region.epoch,
        }
    }

    /// Takes in a routing answer. Whatever it is, the request was certainly not applied.
    fn learn(&self, route: &Route, region_error: RegionError) -> Failure {
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
                cache.set_leader(route, leader.into());
                again(Pace::AtOnce, "another store leads the region")
            }
            Some(Kind::NotLeader(NotLeader { leader: None, .. })) => {
                cache.remove(route);
                again(
                    Pace::Backoff,
                    "the store does not lead the region and knows no leader",
                )
            }
            Some(Kind::EpochNotMatch(EpochNotMatch { current_regions })) => {
                let mut learned = false;
                for region in current_regions {
                    learned |= cache.insert(Arc::new(Route::new(region, route.leader.clone())));
                }
                let pace = if learned { Pace::AtOnce } else { Pace::Backoff };
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
                cache.remove(route);
                again(
                    Pace::AtOnce,
                    &format!("store {} answered instead", found.store_id),
                )
            }
            Some(Kind::ClusterMismatch(found)) => Failure::Final(Error::ClusterMismatch {
                expected: self.cluster_id,
                found: found.cluster_id,
            }),
            Some(Kind::ServerBusy(busy)) => Failure::Again {
                pace: Pace::AtLeast(Duration::from_millis(busy.backoff_ms)),
                error: Error::busy(format!("{}: its queue is full", route.place())),
            },
            Some(Kind::NotReady(not_ready)) => {
                again(Pace::Backoff, &format!("not ready: {}", not_ready.reason))
            }
            None => again(
                Pace::Backoff,
                "it refused for a reason this release does not know",
            ),
        }
    }

    fn cache(&self) -> MutexGuard<'_, RegionCache> {
        // Every change leaves the cache consistent; at worst it lacks an entry.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
