//! The layer between HTTP/2 and tonic: admits permitted calls, charges their bodies, and bounds their time.

use std::convert::Infallible;
use std::future::{Future, poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use hyper::body::{Body as HttpBody, Incoming};
use hyper::{Request, Response};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::{Status, TimeoutExpired};

use super::arriving::{ArrivalTimeouts, Arriving};
use super::budget::{Busy, Reservation};
use super::call::Call;
use super::call_task::AnsweredAtOnce;
use super::connection::Connection;
use super::deadline;
use super::departing::Departing;
use super::figures::{CountedCall, TransportFigures};
use super::guarded::{Caller, Guarded};
use super::limits::{HEADER_FIELD_BYTES, REFUSED_BODY_BYTES_MAX, REFUSED_BODY_WAIT};
use super::methods::{Method, Requests};
use super::not_grpc;
use super::refusal::{no_room, refused};
use super::serve::ServeOptions;
use super::services::Services;
use super::stream_places::StreamPlace;
use super::traffic::{DRAIN_STALLED_TICKS, Traffic};
use super::uncharged::{UnchargedCalls, UnchargedPlace};
use super::unserved::WaitingCall;
use crate::trace::{self, TraceContext};

/// A call with a larger head does not wait for room.
const WAITING_HEAD_BYTES_MAX: usize = 4 << 10;

type Answering = Pin<Box<dyn Future<Output = Result<Response<Departing>, Infallible>> + Send>>;

/// Serves the calls of one connection.
#[derive(Clone)]
pub(super) struct CallService {
    services: Arc<Services>,
    connection: Arc<Connection>,
    is_for_stores: bool,
    timeouts: ArrivalTimeouts,
    figures: Arc<TransportFigures>,
    guarded: Guarded,
    uncharged: Arc<UnchargedCalls>,
    answered_at_once: AnsweredAtOnce,
}

/// A call that its caller may make, before it is charged.
struct Permitted {
    method: &'static Method,
    caller: Caller,
    place: StreamPlace,
    counted: CountedCall,
}

impl CallService {
    pub(super) fn new(
        services: Arc<Services>,
        connection: Arc<Connection>,
        is_for_stores: bool,
        answered_at_once: AnsweredAtOnce,
        options: &ServeOptions,
    ) -> Self {
        let tick_duration = Traffic::tick_duration(options.send_stall_timeout);
        Self {
            services,
            connection,
            is_for_stores,
            timeouts: ArrivalTimeouts {
                message: options.call_timeout,
                closing: tick_duration * DRAIN_STALLED_TICKS,
            },
            figures: Arc::clone(&options.figures),
            guarded: Guarded::new(options),
            uncharged: Arc::clone(&options.uncharged_calls),
            answered_at_once,
        }
    }

    /// Serves a call whose base is reserved, and which has waited that long for it. The request is moved on before the future is
    /// made: what the future holds lives until the response.
    fn serve_admitted(
        &self,
        permitted: Permitted,
        request: Request<Incoming>,
        (base, waited): (Reservation, Duration),
    ) -> impl Future<Output = Response<Departing>> + Send + use<> {
        let Permitted {
            method,
            caller,
            place,
            mut counted,
        } = permitted;
        let connection = Arc::clone(&self.connection);
        let call = Call::new(
            connection,
            method,
            trace_of(method, &request),
            caller,
            Some(base),
            place,
        );
        counted.audit(&call);
        if waited > Duration::ZERO {
            call.waited().add(waited);
        }
        let call_timeout = deadline::timeout(request.headers(), self.timeouts.message);
        let body = |body| Arriving::new(method, body, self.timeouts, Arc::clone(&call));
        let mut request = request.map(|incoming| Body::new(body(incoming)));
        request.extensions_mut().insert(Arc::clone(&call));
        let answering = self.services.answer(request);
        async move {
            let answered = timeout(call_timeout, answering).await;
            let is_refused = method.requests == Requests::Unary && call.is_refused();
            if is_refused {
                call.note_found_no_room();
            } else if method.requests == Requests::Unary && answered.is_ok() {
                // What no handler has taken is of a call that was answered without one, e.g. since it cannot be decoded.
                call.waited().take();
            } else if answered.is_err() {
                call.note_unserved_wait();
            }
            let response = match answered {
                _ if method.has_region_error && is_refused => refused(method),
                Ok(Ok(response)) => response,
                Err(_) => Status::from_error(Box::new(TimeoutExpired(()))).into_http(),
            };
            Departing::respond(response, call, counted)
        }
    }

    /// Waits for the base of a call and serves it, or refuses it.
    async fn serve_later(
        self,
        permitted: Permitted,
        request: Request<Incoming>,
        base_bytes: usize,
        waits_at: UnchargedPlace,
    ) -> Response<Departing> {
        let method = permitted.method;
        let budgets = self.connection.budgets(method.requests);
        let wait = method.requests.admission_wait();
        let trace = trace_of(method, &request);
        let waiting = WaitingCall::begin(&self.connection, method, trace);
        let reserved = budgets.reserve(base_bytes, wait).await;
        drop(waits_at);
        match reserved {
            Ok(base) => {
                let base = (base, waiting.admitted());
                self.serve_admitted(permitted, request, base).await
            }
            Err(Busy) => {
                waiting.refused();
                let Permitted {
                    counted,
                    place: stream_place,
                    ..
                } = permitted;
                drop(stream_place);
                let (answer, place) = self.busy(method);
                if place.is_some() {
                    discard_rest(method, request.into_body()).await;
                }
                self.refuse(method, answer, counted, place)
            }
        }
    }

    /// The answer to a call that found no room, and the place of its refusal. Without one it is an answer that needs no window of its peer.
    fn busy(&self, method: &Method) -> (Response<Body>, Option<UnchargedPlace>) {
        match self.uncharged.busy() {
            Some(place) => (refused(method), Some(place)),
            None => (no_room().into_http(), None),
        }
    }

    /// Refuses a call as busy without a wait for room.
    fn refuse_as_busy(
        &self,
        method: &'static Method,
        request: Request<Incoming>,
        counted: CountedCall,
    ) -> Answering {
        let trace = trace_of(method, &request);
        self.connection
            .note_unserved(method, trace, Duration::ZERO, true);
        let (answer, place) = self.busy(method);
        self.refuse_from(place, method, request, answer, counted)
    }

    /// Refuses what is no call, or a call whose caller may not make it. `answer` has no body.
    fn refuse_unserved(
        &self,
        method: &'static Method,
        request: Request<Incoming>,
        answer: Response<Body>,
        counted: CountedCall,
    ) -> Answering {
        self.refuse_from(self.uncharged.denied(), method, request, answer, counted)
    }

    /// From a place, what was sent is discarded first, where that is little.
    fn refuse_from(
        &self,
        place: Option<UnchargedPlace>,
        method: &'static Method,
        request: Request<Incoming>,
        answer: Response<Body>,
        counted: CountedCall,
    ) -> Answering {
        let (_, body) = request.into_parts();
        if place.is_none() || method.requests != Requests::Unary || body.is_end_stream() {
            return self.answer_at_once(self.refuse(method, answer, counted, place));
        }
        let service = self.clone();
        Box::pin(async move {
            discard_rest(method, body).await;
            Ok(service.refuse(method, answer, counted, place))
        })
    }

    fn refuse(
        &self,
        method: &'static Method,
        answer: Response<Body>,
        counted: CountedCall,
        place: Option<UnchargedPlace>,
    ) -> Response<Departing> {
        let connection = Arc::clone(&self.connection);
        let call = Call::new(connection, method, None, Caller::anyone(), None, place);
        Departing::respond(answer, call, counted)
    }

    fn answer_at_once(&self, answer: Response<Departing>) -> Answering {
        self.answered_at_once.note();
        Box::pin(ready(Ok(answer)))
    }
}

/// Waits a little for the end of a refused request, where it has one.
async fn discard_rest(method: &Method, body: Incoming) {
    if method.requests == Requests::Unary {
        // An answer goes out in any case.
        let _ = timeout(REFUSED_BODY_WAIT, discard(body, REFUSED_BODY_BYTES_MAX)).await;
    }
}

/// Reads a body to its end, or a little more than `bytes_max` of it. If much arrives for calls that are over, HTTP/2 takes that for
/// our error and closes the connection.
async fn discard<B: HttpBody<Data = Bytes> + Unpin>(mut body: B, bytes_max: usize) {
    let mut bytes = 0;
    while bytes <= bytes_max
        && let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// The trace that a call is a part of. A stream is none's: its messages are of many.
fn trace_of<B>(method: &Method, request: &Request<B>) -> Option<TraceContext> {
    match method.requests {
        Requests::Unary => trace::of_headers(request.headers()),
        _ => None,
    }
}

/// What the head of a request takes: its URI, and its header fields with their places in the map.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let target = uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    let authority = uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| HEADER_FIELD_BYTES + name.as_str().len() + value.len());
    target + authority + fields.sum::<usize>()
}

impl hyper::service::Service<Request<Incoming>> for CallService {
    type Response = Response<Departing>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let method = Method::of(request.uri().path());
        let counted = CountedCall::begin(&self.figures, method);
        if self.is_for_stores && method.requests != Requests::StoreStream {
            // A client. It may find room the next time.
            self.connection.closing.cancel();
            return self.refuse_as_busy(method, request, counted);
        }
        if let Some(answer) = not_grpc::refusal(&request) {
            return self.refuse_unserved(method, request, answer, counted);
        }
        let caller = match self.guarded.let_in(&mut request, method, &self.connection) {
            Ok(caller) => caller,
            Err(fault) => {
                let answer = Status::from(fault).into_http();
                return self.refuse_unserved(method, request, answer, counted);
            }
        };
        let place = match self.connection.streams.take(method) {
            Ok(place) => place,
            Err(full) => {
                let answer = Status::from(full).into_http();
                return self.answer_at_once(self.refuse(method, answer, counted, None));
            }
        };
        let head_bytes = head_bytes(&request);
        let base_bytes = method.requests.base_bytes() + head_bytes;
        let budgets = self.connection.budgets(method.requests);
        let permitted = Permitted {
            method,
            caller,
            place,
            counted,
        };
        if let Some(base) = budgets.try_reserve(base_bytes) {
            let served = self.serve_admitted(permitted, request, (base, Duration::ZERO));
            return Box::pin(served.map(Ok));
        }
        let may_wait = head_bytes <= WAITING_HEAD_BYTES_MAX;
        let Some(waits_at) = may_wait.then(|| self.uncharged.waiting(method)).flatten() else {
            return self.refuse_as_busy(method, request, permitted.counted);
        };
        let later = self.clone();
        Box::pin(
            later
                .serve_later(permitted, request, base_bytes, waits_at)
                .map(Ok),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// Frames of ten bytes.
    struct Frames(usize);

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let Some(left) = self.0.checked_sub(1) else {
                return Poll::Ready(None);
            };
            self.0 = left;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[7; 10])))))
        }
    }

    #[test]
    fn of_a_body_that_nobody_needs_a_little_is_read() {
        for (count, left) in [(0, 0), (5, 0), (6, 0), (7, 1), (100, 94)] {
            let mut frames = Frames(count);
            let discarded = discard(Pin::new(&mut frames), 50).now_or_never();
            assert_eq!((discarded, frames.0), (Some(()), left));
        }
    }
}
