//! A call: find the region, send the request to its leader, learn from the answer, and try again.
//!
//! A leader of a replicated region that is silent for [`LEADER_PATIENCE`] becomes suspect, and its peers are asked who leads.
//! Meanwhile the call goes on waiting, since the leader may only be slow. Once another store leads, a call leaves the old
//! leader if it reads or has not sent its write.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use rdb_proto::response::DataResponse as _;
use tonic::{Code, Status};

use super::placement_driver::PlacementDriver;
use super::region_cache::Route;
use super::routes::Routes;
use crate::connection::{Connection, ConnectionPool};
use crate::counters::Counters;
use crate::dispatch::{AddressedCommand, Dispatcher, Interrupted, Lane};
use crate::figures::CallKind;
use crate::retry::{Deadline, Failure, Pace, Retry};
use crate::rpc::{Access, DataRequest, PointRequest};
use crate::{Error, fate};

/// How long a leader may be silent until its peers are asked who leads. A call of 10 s outlives an election of 6 s with it.
const LEADER_PATIENCE: Duration = Duration::from_secs(2);

/// Why a call waits no longer for a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    /// The deadline came.
    Late,
    /// Another store leads the region.
    Superseded,
}

/// Everything that calls share: what is known of the cluster and the connections to it.
#[derive(Debug)]
pub(crate) struct Router {
    routes: Arc<Routes>,
    /// `None`: every request is a unary call.
    dispatcher: Option<Dispatcher>,
}

impl Router {
    pub(crate) fn new(
        cluster_id: u64,
        placement_driver: Arc<PlacementDriver>,
        dispatcher: Option<Dispatcher>,
    ) -> Self {
        Self {
            routes: Arc::new(Routes::new(cluster_id, placement_driver)),
            dispatcher,
        }
    }

    pub(crate) fn cluster_id(&self) -> u64 {
        self.routes.cluster_id
    }

    pub(crate) fn placement_driver(&self) -> &PlacementDriver {
        &self.routes.placement_driver
    }

    fn connections(&self) -> &ConnectionPool {
        &self.placement_driver().connections
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.placement_driver().counters
    }

    /// The attempts of a call that begins now.
    pub(crate) fn retry(&self, deadline: Deadline, kind: CallKind) -> Retry<'_> {
        Retry::until(deadline, kind, self.counters())
    }

    /// Sends a request to the region that holds its key until it is answered or the deadline comes. `result` is what the call
    /// ends with after an answer.
    pub(crate) async fn call<R: PointRequest, T>(
        &self,
        request: R,
        deadline: Deadline,
        result: impl FnOnce(R::Answer) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut retry = self.retry(deadline, R::KIND);
        loop {
            let attempt = async {
                let key = request.key();
                let route = self.locate(key, deadline).await?;
                let dispatcher = self.dispatcher.as_ref();
                match dispatcher.and_then(|dispatcher| dispatcher.store(&route.leader.address)) {
                    Some(lanes) => {
                        let lane = lanes.lane();
                        self.dispatch(&route, lane, request.clone(), deadline).await
                    }
                    None => self.attempt(&route, key, request.clone(), deadline).await,
                }
            };
            match attempt.await {
                Ok(answer) => return retry.end(result(answer)),
                Err(failure) => retry.next_attempt(failure).await?,
            }
        }
    }

    /// The region that holds `key`, and who leads it.
    pub(crate) async fn locate(
        &self,
        key: &[u8],
        deadline: Deadline,
    ) -> Result<Arc<Route>, Failure> {
        self.routes.locate(key, deadline).await
    }

    /// Sends a request once, as a unary call. `key` is one that it is about and that lies in the route's region.
    pub(crate) async fn attempt<R: DataRequest>(
        &self,
        route: &Route,
        key: &[u8],
        mut request: R,
        deadline: Deadline,
    ) -> Result<R::Answer, Failure> {
        let Connection { channel, id, .. } = self.connect(route, key, deadline).await?;
        request.set_context(self.routes.context(route));
        let mut answer = pin!(request.send(channel.traced(deadline.trace())));
        let answer = match self.await_leader(route, key, deadline, &mut answer).await {
            Err(Silence::Superseded) if R::ACCESS == Access::Write => {
                deadline.limit(answer).await.ok_or(Silence::Late)
            }
            answer => answer,
        };
        let answer = answer.map_err(|silence| match silence {
            Silence::Superseded => superseded(route),
            Silence::Late => self.unanswered::<R>(route, deadline),
        })?;
        if let Err(status) = &answer {
            let address = &route.leader.address;
            self.connections().forget_broken(address, id, status);
        }
        self.received::<R>(route, answer)
    }

    /// Sends a request once, together with those of other calls.
    async fn dispatch<R: PointRequest>(
        &self,
        route: &Route,
        lane: &Lane,
        request: R,
        deadline: Deadline,
    ) -> Result<R::Answer, Failure> {
        let key = request.key().clone();
        let command = AddressedCommand {
            context: self.routes.context(route),
            request: request.into(),
            trace: deadline.trace().copied(),
        };
        let submitted = pin!(lane.submit(command));
        let mut answer = match self.await_leader(route, &key, deadline, submitted).await {
            Ok(answer) => answer,
            Err(Silence::Superseded) => return Err(superseded(route)),
            Err(Silence::Late) => {
                self.routes.suspect(route);
                let cause = format!("{} has too many calls in flight", route.place());
                return Err(deadline.exceeded(cause).into());
            }
        };
        let answered = match self.await_leader(route, &key, deadline, &mut answer).await {
            Err(Silence::Superseded) if answer.withdraw() || R::ACCESS == Access::Read => {
                return Err(superseded(route));
            }
            Err(Silence::Superseded) => deadline.limit(&mut answer).await.ok_or(Silence::Late),
            answered => answered,
        };
        let interrupted = match answered {
            Ok(Ok(response)) => return self.received::<R>(route, response.try_into()),
            Ok(Err(interrupted)) => interrupted,
            Err(_) if answer.withdraw() => {
                self.routes.suspect(route);
                let cause = format!("no connection to {} in time", route.place());
                return Err(deadline.exceeded(cause).into());
            }
            Err(_) => return Err(self.unanswered::<R>(route, deadline)),
        };
        Err(match (interrupted, R::ACCESS) {
            (
                Interrupted::Refused {
                    error,
                    at_opening: true,
                },
                _,
            ) => error.into(),
            (Interrupted::Refused { error, .. }, _) => Failure::Again {
                pace: Pace::AtOnce,
                error,
            },
            (Interrupted::Lost { cause }, Access::Write) => {
                self.routes.suspect(route);
                Error::undetermined(format!("{}: {cause}", route.place())).into()
            }
            (Interrupted::Lost { cause } | Interrupted::NotProcessed { cause }, _) => {
                self.unreachable(route, &cause)
            }
        })
    }

    /// What an answer means to its call.
    fn received<R: DataRequest>(
        &self,
        route: &Route,
        answer: Result<R::Answer, Status>,
    ) -> Result<R::Answer, Failure> {
        let mut answer = answer.map_err(|status| {
            // A leader that is cut off from its peers may not know of the next one.
            let is_cut_off = status.code() == Code::Unavailable && route.is_replicated();
            let is_wrong_process = status.code() == Code::Unimplemented;
            if is_cut_off || is_wrong_process || fate::is_local(&status) {
                self.routes.suspect(route);
            }
            fate::failure(R::ACCESS, &status, &route.place())
        })?;
        match answer.region_error_mut().take() {
            None => {
                if route.suspicion.is_some() {
                    self.routes.cache().confirm(route);
                }
                Ok(answer)
            }
            Some(region_error) => Err(self.routes.learn(route, *region_error)),
        }
    }

    /// The deadline came after the request had been sent.
    fn unanswered<R: DataRequest>(&self, route: &Route, deadline: Deadline) -> Failure {
        self.routes.suspect(route);
        let cause = format!("{} gave no answer in time", route.place());
        Failure::Final(match R::ACCESS {
            Access::Read => deadline.exceeded(cause),
            Access::Write => Error::undetermined(cause),
        })
    }

    /// The leader could not be reached, and the request may be sent again: to another peer at once, to the same one later.
    fn unreachable(&self, route: &Route, cause: &str) -> Failure {
        self.routes.suspect(route);
        Failure::Again {
            pace: if route.is_replicated() {
                Pace::AtOnce
            } else {
                Pace::Backoff
            },
            error: Error::unavailable(format!("{}: {cause}", route.place())),
        }
    }

    /// Waits for the answer of the leader of `route`, until the deadline or until another store leads. `key` is one of the call: peers that
    /// are asked who leads may let its user read no other.
    async fn await_leader<T>(
        &self,
        route: &Route,
        key: &[u8],
        deadline: Deadline,
        mut work: impl Future<Output = T> + Unpin,
    ) -> Result<T, Silence> {
        if !route.is_replicated() {
            return deadline.limit(work).await.ok_or(Silence::Late);
        }
        loop {
            let patience = deadline.sooner(LEADER_PATIENCE);
            if let Some(done) = patience.limit(&mut work).await {
                return Ok(done);
            }
            if deadline.remaining().is_zero() {
                return Err(Silence::Late);
            }
            self.routes.suspect(route);
            let leader = pin!(self.locate(key, deadline));
            match select(&mut work, leader).await {
                Either::Left((done, _)) => return Ok(done),
                Either::Right((Ok(now), _))
                    if now.suspicion.is_none() && now.leader != route.leader =>
                {
                    return Err(Silence::Superseded);
                }
                // It leads still, or the deadline is near.
                Either::Right(_) => {}
            }
        }
    }

    /// A connection to the leader, with a place for a call. Failing here is certain: nothing has been sent.
    async fn connect(
        &self,
        route: &Route,
        key: &[u8],
        deadline: Deadline,
    ) -> Result<Connection, Failure> {
        let connecting = async {
            let mut connected = self.connections().connection(&route.leader.address).await;
            if let Ok(connection) = &mut connected {
                connection.channel.take_place().await;
            }
            connected
        };
        match self
            .await_leader(route, key, deadline, pin!(connecting))
            .await
        {
            Ok(Ok(connection)) if !deadline.remaining().is_zero() => Ok(connection),
            Ok(Err(cause)) => Err(self.unreachable(route, &cause)),
            Err(Silence::Superseded) => Err(superseded(route)),
            Ok(Ok(_)) | Err(Silence::Late) => {
                self.routes.suspect(route);
                let cause = format!("no place on a connection to {} in time", route.place());
                Err(deadline.exceeded(cause).into())
            }
        }
    }
}

fn superseded(route: &Route) -> Failure {
    Failure::Again {
        pace: Pace::AtOnce,
        error: Error::unavailable(format!("{} was silent and leads no more", route.place())),
    }
}

#[cfg(test)]
mod tests;
