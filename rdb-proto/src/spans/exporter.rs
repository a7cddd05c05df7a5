//! Sends spans to a collector: many in one message, and again when the collector was away.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::message::message;
use super::queue::{SpanCounts, Spans};
use super::{Origin, OtlpEndpoint, Span};

/// Most spans that wait.
const QUEUED_SPANS_MAX: usize = 4096;

/// Most spans of a message.
const MESSAGE_SPANS_MAX: usize = 512;

/// How long the first span of a message waits for others.
const GATHERING_TIME: Duration = Duration::from_secs(1);

/// How long the collector may take for a message, connecting included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a message is sent before its spans are dropped.
const ATTEMPTS_MAX: u32 = 3;

/// The pause between two of them.
const ATTEMPTS_PAUSE: Duration = Duration::from_secs(1);

/// How often the log tells of dropped spans.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How long sending what waits may take at the end. It goes on beside the closing of the storage, which may take longer.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The task that sends spans. It ends with all that can offer some, or when it is told to.
#[derive(Debug)]
pub struct SpanExporter {
    ending: CancellationToken,
    task: JoinHandle<()>,
}

impl SpanExporter {
    /// Begins to send. Connects when there is something to send. Needs a tokio runtime.
    pub fn start(endpoint: &OtlpEndpoint, origin: Origin) -> (Spans, Self) {
        let (spans, queued, counts) = Spans::queued(QUEUED_SPANS_MAX);
        let ending = CancellationToken::new();
        let sending = Sending {
            collector: collector(endpoint),
            endpoint: endpoint.clone(),
            origin,
            queued,
            counts,
            ending: ending.clone(),
            told_at: None,
            told_dropped: 0,
        };
        tracing::info!(%endpoint, "spans of sampled traces are sent");
        let task = tokio::spawn(sending.run());
        (spans, Self { ending, task })
    }

    /// Sends what waits, for [`END_TIMEOUT`] at most. What is offered from now on is dropped.
    pub async fn end(mut self) {
        self.ending.cancel();
        if timeout(END_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!("the collector did not take the last spans in time; they are dropped");
        }
    }
}

/// The client of a collector. It sends no pings: many gRPC servers close a connection with more than one in five minutes.
fn collector(endpoint: &OtlpEndpoint) -> TraceServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(endpoint.to_string());
    let endpoint = endpoint.expect("the setting's parser has checked the address");
    let endpoint = endpoint.connect_timeout(ANSWER_TIMEOUT).tcp_nodelay(true);
    TraceServiceClient::new(endpoint.connect_lazy())
}

struct Sending {
    collector: TraceServiceClient<Channel>,
    endpoint: OtlpEndpoint,
    origin: Origin,
    queued: Receiver<Span>,
    counts: Arc<SpanCounts>,
    ending: CancellationToken,
    /// When the log has told of dropped spans.
    told_at: Option<Instant>,
    /// How many there were then.
    told_dropped: u64,
}

impl Sending {
    async fn run(mut self) {
        let ending = self.ending.clone();
        let mut spans = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = ending.cancelled() => break,
                count = self.queued.recv_many(&mut spans, MESSAGE_SPANS_MAX) => {
                    if count == 0 {
                        return;
                    }
                }
            }
            if spans.len() < MESSAGE_SPANS_MAX {
                self.pause(GATHERING_TIME).await;
                self.take(&mut spans);
            }
            self.send(&mut spans).await;
        }
        self.queued.close();
        while self.take(&mut spans) {
            self.send(&mut spans).await;
        }
    }

    /// Waits, but not at the end.
    async fn pause(&self, pause: Duration) {
        let _ = timeout(pause, self.ending.cancelled()).await;
    }

    /// Takes what is there, as far as it fits into a message. Returns whether there is something to send.
    fn take(&mut self, spans: &mut Vec<Span>) -> bool {
        while spans.len() < MESSAGE_SPANS_MAX {
            match self.queued.try_recv() {
                Ok(span) => spans.push(span),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        !spans.is_empty()
    }

    /// Sends them until the collector has taken them or they are dropped.
    async fn send(&mut self, spans: &mut Vec<Span>) {
        let (message, count) = (message(&self.origin, spans), spans.len() as u64);
        spans.clear();
        for attempt in 1.. {
            let sent = timeout(ANSWER_TIMEOUT, self.collector.export(message.clone())).await;
            let answer = sent.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
            let failure = match answer {
                Ok(answer) => {
                    let partial = answer.into_inner().partial_success.unwrap_or_default();
                    let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0);
                    let rejected = rejected.min(count);
                    self.counts.exported.add(count - rejected);
                    self.counts.dropped.add(rejected);
                    let cause = match rejected {
                        0 => "it takes them more slowly than they come",
                        _ => &partial.error_message,
                    };
                    return self.tell_of_dropped(cause);
                }
                Err(failure) => failure,
            };
            let is_last = attempt == ATTEMPTS_MAX || self.ending.is_cancelled();
            if is_last || !may_pass(failure.code()) {
                self.counts.dropped.add(count);
                return self.tell_of_dropped(&failure.to_string());
            }
            self.pause(ATTEMPTS_PAUSE).await;
        }
    }

    /// Tells of spans that were dropped since the last time, with the cause that was found last.
    fn tell_of_dropped(&mut self, cause: &str) {
        let dropped = self.counts.dropped.get();
        let is_recent = |at: Instant| at.elapsed() < LOG_INTERVAL;
        if dropped == self.told_dropped || self.told_at.is_some_and(is_recent) {
            return;
        }
        let endpoint = &self.endpoint;
        let spans = dropped - self.told_dropped;
        tracing::warn!(%endpoint, cause, spans, "the collector did not take spans; they are dropped");
        self.told_at = Some(Instant::now());
        self.told_dropped = dropped;
    }
}

/// Whether the same message may be taken later, as OTLP says.
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            // A connection that broke within a call, too.
            | Code::Unknown
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
        TraceService, TraceServiceServer,
    };
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    };
    use tokio::net::TcpListener;
    use tokio::time::sleep;
    use tonic::{Request, Response};

    use super::super::message::tests::span;
    use super::*;
    use crate::transport::{ServeOptions, Services, serve};

    const HANG_GUARD: Duration = Duration::from_secs(300);

    /// A collector that gives these answers, one after the other, and then takes all.
    #[derive(Clone, Default)]
    struct Collector {
        answers: Arc<Mutex<Vec<Result<ExportTraceServiceResponse, Status>>>>,
        spans: Arc<AtomicUsize>,
    }

    #[tonic::async_trait]
    impl TraceService for Collector {
        async fn export(
            &self,
            request: Request<ExportTraceServiceRequest>,
        ) -> Result<Response<ExportTraceServiceResponse>, Status> {
            let sent = request.into_inner().resource_spans;
            let spans = sent.iter().flat_map(|of_process| &of_process.scope_spans);
            let count = spans.map(|of_scope| of_scope.spans.len()).sum();
            let answer = self.answers.lock().expect("no panic").pop();
            let answer = answer.unwrap_or_else(|| Ok(ExportTraceServiceResponse::default()))?;
            self.spans.fetch_add(count, Ordering::Relaxed);
            Ok(Response::new(answer))
        }
    }

    /// Starts a collector. It serves until the token is cancelled.
    async fn serving(collector: Collector) -> (OtlpEndpoint, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let services = Services::default().add_service(TraceServiceServer::new(collector));
        let drain = CancellationToken::new();
        let served = serve(listener, services, ServeOptions::default(), drain.clone());
        tokio::spawn(served);
        let endpoint = format!("http://{address}").parse();
        (endpoint.expect("an endpoint"), drain)
    }

    fn origin() -> Origin {
        Origin {
            program: "test",
            version: "0",
            instance: "one".to_owned(),
        }
    }

    #[tokio::test]
    async fn what_waits_at_the_end_is_sent_and_what_comes_later_is_dropped() {
        let collector = Collector::default();
        let (endpoint, _drain) = serving(collector.clone()).await;
        let (spans, exporter) = SpanExporter::start(&endpoint, origin());
        let count = MESSAGE_SPANS_MAX * 3 / 2;
        for _ in 0..count {
            spans.offer(span());
        }
        let ended = timeout(HANG_GUARD, exporter.end()).await;
        ended.expect("it is bounded");
        assert_eq!(collector.spans.load(Ordering::Relaxed), count);
        spans.offer(span());
        assert_eq!(spans.counted(), (count as u64, 1));
    }

    #[tokio::test]
    async fn spans_are_sent_again_when_the_collector_was_away_and_dropped_when_it_refuses_them() {
        let partial = ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess {
                rejected_spans: 1,
                error_message: "one is enough".to_owned(),
            }),
        };
        let collector = Collector::default();
        // The last one comes first.
        *collector.answers.lock().expect("no panic") = vec![
            Ok(partial),
            Err(Status::invalid_argument("what is this?")),
            Err(Status::unavailable("later")),
        ];
        let (endpoint, _drain) = serving(collector.clone()).await;
        let (spans, exporter) = SpanExporter::start(&endpoint, origin());
        for (offered, expected) in [(2, (0, 2)), (2, (1, 3)), (1, (2, 3))] {
            for _ in 0..offered {
                spans.offer(span());
            }
            let counted = async {
                while spans.counted() != expected {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            let counted = timeout(HANG_GUARD, counted).await;
            assert!(counted.is_ok(), "{:?}, not {expected:?}", spans.counted());
        }
        exporter.end().await;
    }

    #[tokio::test]
    async fn an_exporter_ends_with_all_that_can_offer_spans() {
        let endpoint = "http://127.0.0.1:1".parse().expect("an endpoint");
        let (spans, exporter) = SpanExporter::start(&endpoint, origin());
        drop(spans);
        let ended = timeout(HANG_GUARD, exporter.task).await;
        ended.expect("it ends").expect("no panic");
    }
}
