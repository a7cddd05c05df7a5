//! What stands between HTTP/2 and tonic: admits each call, charges its bodies, and bounds its time.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::service::Routes;
use tonic::{Status, TimeoutExpired};

use super::arriving::{ArrivalTimeouts, Arriving};
use super::call::{Call, CallBudget};
use super::connection::Connection;
use super::deadline;
use super::departing::Departing;
use super::limits::{ADMISSION_WAIT, CALL_BYTES};
use super::refusal::Refusal;
use super::serve::ServeOptions;
use super::traffic::{DRAIN_STALLED_TICKS, Traffic};

/// Serves the calls of one connection.
#[derive(Clone)]
pub(super) struct CallService {
    routes: Routes,
    connection: Arc<Connection>,
    timeouts: ArrivalTimeouts,
}

impl CallService {
    pub(super) fn new(routes: Routes, connection: Arc<Connection>, options: &ServeOptions) -> Self {
        let tick_duration = Traffic::tick_duration(options.send_stall_timeout);
        Self {
            routes,
            connection,
            timeouts: ArrivalTimeouts {
                message: options.call_timeout,
                closing: tick_duration * DRAIN_STALLED_TICKS,
            },
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Departing> {
        let refusal = Refusal::of(request.uri().path());
        let bytes = CALL_BYTES + header_bytes(request.headers());
        let budgets = &self.connection.bytes_in_flight;
        let Ok(base) = budgets.reserve(bytes, ADMISSION_WAIT).await else {
            let call = Arc::new(Call::new(self.connection, None));
            return refusal.response().map(|body| Departing::new(body, call));
        };
        let call = Arc::new(Call::new(self.connection, Some(base)));
        let answered = call_routes(self.routes, request, self.timeouts, Arc::clone(&call)).await;
        let is_refused = refusal == Refusal::RegionError && call.is_refused();
        let response = if is_refused {
            refusal.response()
        } else {
            answered
        };
        response.map(|body| Departing::new(body, call))
    }
}

async fn call_routes(
    mut routes: Routes,
    request: Request<Incoming>,
    timeouts: ArrivalTimeouts,
    call: Arc<Call>,
) -> Response<Body> {
    let call_timeout = deadline::timeout(request.headers(), timeouts.message);
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(CallBudget::new(Arc::clone(&call)));
    let body = Arriving::new(parts.uri.path(), body, timeouts, call);
    let request = Request::from_parts(parts, Body::new(body));
    match timeout(call_timeout, routes.call(request)).await {
        Ok(Ok(response)) => response,
        Err(_) => Status::from_error(Box::new(TimeoutExpired(()))).into_http(),
    }
}

fn header_bytes(headers: &HeaderMap) -> usize {
    let headers = headers.iter();
    headers
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}

impl hyper::service::Service<Request<Incoming>> for CallService {
    type Response = Response<Departing>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Departing>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let answering = self.clone().answer(request);
        Box::pin(async { Ok(answering.await) })
    }
}
