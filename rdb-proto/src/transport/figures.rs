//! What the transport counts: connections and calls.
//!
//! A call is counted when it begins and when its answer ends, before the peer has the end of it: a peer that has its answer finds
//! the call counted. Calls that are given up, by their peer or by a reset, count as cancelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyper::HeaderMap;
use tonic::Code;

#[cfg(feature = "process")]
use super::audited::Audited;
use super::call::Call;
use super::methods::{METHODS, Method};
use crate::figures::Counter;

const CODES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

/// The figures of one server.
#[derive(Debug)]
pub struct TransportFigures {
    pub(super) connections_accepted: Counter,
    pub(super) connections_refused: Counter,
    #[cfg(feature = "tls")]
    pub(super) handshakes_failed: Counter,
    connections_ended: Counter,
    /// By the rows of [`METHODS`].
    methods: Box<[OfMethod]>,
}

#[derive(Debug, Default)]
struct OfMethod {
    begun: Counter,
    /// By code.
    ended: [AtomicU64; CODES.len()],
}

#[cfg(any(test, feature = "process"))]
impl OfMethod {
    fn ended(&self) -> impl Iterator<Item = u64> {
        self.ended.iter().map(|count| count.load(Relaxed))
    }
}

/// How many calls of a method have ended with a code.
#[cfg(any(test, feature = "process"))]
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) service: &'static str,
    pub(super) method: &'static str,
    pub(super) code: &'static str,
    pub(super) count: u64,
}

impl Default for TransportFigures {
    fn default() -> Self {
        Self {
            connections_accepted: Counter::default(),
            connections_refused: Counter::default(),
            #[cfg(feature = "tls")]
            handshakes_failed: Counter::default(),
            connections_ended: Counter::default(),
            methods: METHODS.iter().map(|_| OfMethod::default()).collect(),
        }
    }
}

/// For the metrics.
#[cfg(any(test, feature = "process"))]
impl TransportFigures {
    pub(super) fn connections_open(&self) -> u64 {
        // In this order: one that ends in between counts as open, and never less than none is.
        let ended = self.connections_ended.get();
        self.connections_accepted.get().saturating_sub(ended)
    }

    /// Those that have ended, by method and code, where there are any.
    pub(super) fn calls_ended(&self) -> Vec<Ended> {
        let mut all = Vec::new();
        for (method, of_method) in METHODS.iter().zip(&self.methods) {
            let (service, method) = method.names();
            let counts = CODES.iter().zip(of_method.ended());
            let counts = counts.filter(|(_, count)| *count > 0);
            all.extend(counts.map(|(code, count)| Ended {
                service,
                method,
                code,
                count,
            }));
        }
        all
    }

    /// Service, method, and how many calls of it are in flight, for each method that was ever called.
    pub(super) fn calls_in_flight(&self) -> Vec<(&'static str, &'static str, u64)> {
        let methods = METHODS.iter().zip(&self.methods);
        let in_flight = methods.filter_map(|(method, of_method)| {
            // In this order, as above.
            let ended: u64 = of_method.ended().sum();
            let begun = of_method.begun.get();
            let (service, method) = method.names();
            (begun > 0).then(|| (service, method, begun.saturating_sub(ended)))
        });
        in_flight.collect()
    }
}

/// A connection that is open.
pub(super) struct CountedConnection(pub(super) Arc<TransportFigures>);

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.connections_ended.increment();
    }
}

/// A call that has begun. It ends with a code, or is cancelled when this is dropped.
pub(super) struct CountedCall {
    figures: Arc<TransportFigures>,
    method: &'static Method,
    has_ended: bool,
    /// Its end is noted in the audit log.
    #[cfg(feature = "process")]
    audited: Option<Box<Audited>>,
}

impl CountedCall {
    /// Begins a call of `method`.
    pub(super) fn begin(figures: &Arc<TransportFigures>, method: &'static Method) -> Self {
        let call = Self {
            figures: Arc::clone(figures),
            method,
            has_ended: false,
            #[cfg(feature = "process")]
            audited: None,
        };
        call.of_method().begun.increment();
        call
    }

    /// It is this call, whose end may belong in the audit log.
    pub(super) fn audit(&mut self, call: &Arc<Call>) {
        #[cfg(feature = "process")]
        {
            self.audited = Audited::of(call);
        }
        #[cfg(not(feature = "process"))]
        let _ = call;
    }

    /// Ends the call if these headers or trailers have its status.
    pub(super) fn note_status(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get("grpc-status") {
            let number = status.to_str().ok().and_then(|text| text.parse().ok());
            let code = number.map_or(Code::Unknown, Code::from_i32);
            self.end(code, Some(headers));
        }
    }

    /// Without `headers` the call ends without an answer.
    fn end(&mut self, code: Code, headers: Option<&HeaderMap>) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        if let Some(count) = self.of_method().ended.get(code as usize) {
            count.fetch_add(1, Relaxed);
        }
        #[cfg(feature = "process")]
        if let Some(audited) = self.audited.take() {
            audited.end(code, headers);
        }
        #[cfg(not(feature = "process"))]
        let _ = headers;
    }

    fn of_method(&self) -> &OfMethod {
        &self.figures.methods[self.method.index]
    }
}

impl Drop for CountedCall {
    fn drop(&mut self) {
        self.end(Code::Cancelled, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "/kvrpc.KvRaw/RawGet";

    fn status(code: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(
            hyper::header::HeaderName::from_static("grpc-status"),
            hyper::header::HeaderValue::from_static(code),
        )])
    }

    fn ended(figures: &TransportFigures) -> Vec<(&'static str, &'static str, u64)> {
        let ended = figures.calls_ended().into_iter();
        ended
            .map(|ended| (ended.method, ended.code, ended.count))
            .collect()
    }

    #[test]
    fn a_call_ends_once_with_its_status_or_is_cancelled() {
        let figures = Arc::new(TransportFigures::default());
        let mut answered = CountedCall::begin(&figures, Method::of(GET));
        answered.note_status(&HeaderMap::new());
        assert_eq!(figures.calls_in_flight(), [("kvrpc.KvRaw", "RawGet", 1)]);
        answered.note_status(&status("0"));
        answered.note_status(&status("13"));
        drop(answered);
        drop(CountedCall::begin(&figures, Method::of(GET)));
        let mut refused = CountedCall::begin(&figures, Method::other());
        refused.note_status(&status("12"));
        assert_eq!(
            ended(&figures),
            [
                ("RawGet", "ok", 1),
                ("RawGet", "cancelled", 1),
                ("other", "unimplemented", 1)
            ]
        );
        let in_flight = figures.calls_in_flight();
        assert!(in_flight.iter().all(|(_, _, count)| *count == 0));
    }

    #[test]
    fn every_code_has_its_name() {
        for (index, name) in CODES.iter().enumerate() {
            let code = Code::from_i32(index as i32);
            assert_eq!(code as usize, index);
            let words = format!("{code:?}").to_lowercase();
            assert_eq!(words, name.replace('_', ""));
        }
    }
}
