//! What stands between HTTP/2 and tonic: admits each call, charges its bodies, and bounds its time.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

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
use super::methods::Method;
use super::refusal::refused;
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
        let method = Method::of(request.uri().path());
        let bytes = CALL_BYTES + header_bytes(request.headers());
        let budgets = &self.connection.bytes_in_flight;
        let Ok(base) = budgets.reserve(bytes, ADMISSION_WAIT).await else {
            let call = Arc::new(Call::new(self.connection, None));
            return refused(method).map(|body| Departing::new(method, body, call));
        };
        let call = Arc::new(Call::new(self.connection, Some(base)));
        let body = |body| Arriving::new(method, body, self.timeouts, Arc::clone(&call));
        let request = request.map(|incoming| Body::new(body(incoming)));
        let timeout_max = self.timeouts.message;
        let answered = call_routes(self.routes, request, timeout_max, Arc::clone(&call)).await;
        let response = if method.has_region_error && call.is_refused() {
            refused(method)
        } else {
            answered
        };
        response.map(|body| Departing::new(method, body, call))
    }
}

async fn call_routes(
    mut routes: Routes,
    mut request: Request<Body>,
    timeout_max: Duration,
    call: Arc<Call>,
) -> Response<Body> {
    let call_timeout = deadline::timeout(request.headers(), timeout_max);
    request.extensions_mut().insert(CallBudget::new(call));
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
