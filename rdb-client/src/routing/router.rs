//! A call: find the region, send the request to its leader, learn from the answer, and try again.

use std::sync::Arc;

use rdb_proto::metapb::Context;
use rdb_proto::response::DataResponse as _;
use tonic::{Code, Status};

use super::placement_driver::PlacementDriver;
use super::region_cache::Route;
use super::routes::Routes;
use crate::connection::{Connection, ConnectionPool};
use crate::counters::Counters;
use crate::dispatch::{AddressedCommand, Dispatcher, Interrupted, Lane};
use crate::retry::{Deadline, Failure, Retry};
use crate::rpc::{Access, DataRequest, PointRequest};
use crate::{Error, fate};

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
    pub(crate) fn retry(&self, deadline: Deadline) -> Retry<'_> {
        Retry::until(deadline, self.counters())
    }

    /// Sends a request to the region that holds its key until it is answered or the deadline comes.
    pub(crate) async fn call<R: PointRequest>(
        &self,
        request: R,
        deadline: Deadline,
    ) -> Result<R::Answer, Error> {
        let mut retry = self.retry(deadline);
        loop {
            let attempt = async {
                let route = self.locate(request.key(), deadline).await?;
                let dispatcher = self.dispatcher.as_ref();
                match dispatcher.and_then(|dispatcher| dispatcher.store(&route.leader.address)) {
                    Some(lanes) => {
                        let lane = lanes.lane();
                        self.dispatch(&route, lane, request.clone(), deadline).await
                    }
                    None => self.attempt(&route, request.clone(), deadline).await,
                }
            };
            match attempt.await {
                Ok(answer) => return Ok(answer),
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

    /// Sends a request once, as a unary call.
    pub(crate) async fn attempt<R: DataRequest>(
        &self,
        route: &Route,
        mut request: R,
        deadline: Deadline,
    ) -> Result<R::Answer, Failure> {
        let Connection { channel, id, .. } = self.connect(route, deadline).await?;
        request.set_context(self.context(route));
        let Some(answer) = deadline.limit(request.send(channel)).await else {
            return Err(self.unanswered::<R>(route, deadline));
        };
        if let Err(status) = &answer {
            let address = &route.leader.address;
            self.connections().forget_broken(address, id, status);
            if fate::is_local(status) || status.code() == Code::Unimplemented {
                self.routes.suspect(route);
            }
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
        let command = AddressedCommand {
            context: self.context(route),
            request: request.into(),
        };
        let Some(mut answer) = deadline.limit(lane.submit(command)).await else {
            self.routes.suspect(route);
            let cause = format!("{} has too many calls in flight", route.place());
            return Err(deadline.exceeded(cause).into());
        };
        let interrupted = match deadline.limit(&mut answer).await {
            Some(Ok(response)) => return self.received::<R>(route, response.try_into()),
            Some(Err(interrupted)) => interrupted,
            None if answer.withdraw() => {
                self.routes.suspect(route);
                let cause = format!("no connection to {} in time", route.place());
                return Err(deadline.exceeded(cause).into());
            }
            None => return Err(self.unanswered::<R>(route, deadline)),
        };
        self.routes.suspect(route);
        Err(match (interrupted, R::ACCESS) {
            (Interrupted::Lost { cause }, Access::Write) => {
                Error::undetermined(format!("{}: {cause}", route.place())).into()
            }
            (Interrupted::Lost { cause } | Interrupted::NotProcessed { cause }, _) => {
                Failure::again(Error::unavailable(format!("{}: {cause}", route.place())))
            }
        })
    }

    /// What an answer means to its call.
    fn received<R: DataRequest>(
        &self,
        route: &Route,
        answer: Result<R::Answer, Status>,
    ) -> Result<R::Answer, Failure> {
        let mut answer =
            answer.map_err(|status| fate::failure(R::ACCESS, &status, &route.place()))?;
        match answer.region_error_mut().take() {
            None => Ok(answer),
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

    /// A connection to the leader, with a place for a call. Failing here is certain: nothing has been sent.
    async fn connect(&self, route: &Route, deadline: Deadline) -> Result<Connection, Failure> {
        let connecting = async {
            let mut connected = self.connections().connection(&route.leader.address).await;
            if let Ok(connection) = &mut connected {
                connection.channel.take_place().await;
            }
            connected
        };
        match deadline.limit(connecting).await {
            Some(Ok(connection)) if !deadline.remaining().is_zero() => Ok(connection),
            Some(Err(cause)) => {
                self.routes.suspect(route);
                let cause = format!("{}: {cause}", route.place());
                Err(Failure::again(Error::unavailable(cause)))
            }
            Some(Ok(_)) | None => {
                self.routes.suspect(route);
                let cause = format!("no place on a connection to {} in time", route.place());
                Err(deadline.exceeded(cause).into())
            }
        }
    }

    fn context(&self, route: &Route) -> Context {
        Context {
            cluster_id: self.cluster_id(),
            store_id: route.leader.store_id,
            region_id: route.region.id,
            region_epoch: route.region.epoch,
        }
    }
}

#[cfg(test)]
mod tests;
