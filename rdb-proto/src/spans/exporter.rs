//! Sends spans to a collector: many in one message, and again when the collector was away.
//!
//! A connection is given up when an answer does not come in time: its peer may have vanished, and TCP would go on sending for many minutes.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use super::message::message;
use super::queue::{SpanCounts, Spans};
use super::{Origin, OtlpEndpoint, Span};
use crate::rare_line::RareLine;

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

/// When TCP begins to ask whether a collector is still there that has nothing to answer.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);

/// Largest answer of a collector. It has a number and a text.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Most characters of a collector's message in the log.
const CAUSE_CHARS_MAX: usize = 200;

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

/// How long it waits for a collector.
#[derive(Debug, Clone, Copy)]
struct Patience {
    answer: Duration,
    end: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: ANSWER_TIMEOUT,
            end: END_TIMEOUT,
        }
    }
}

impl SpanExporter {
    /// Begins to send. Connects when there is something to send. Needs a tokio runtime.
    pub fn start(endpoint: &OtlpEndpoint, origin: Origin) -> (Spans, Self) {
        Self::start_with(endpoint, origin, Patience::default())
    }

    fn start_with(endpoint: &OtlpEndpoint, origin: Origin, patience: Patience) -> (Spans, Self) {
        let (spans, queued, counts) = Spans::queued(QUEUED_SPANS_MAX);
        let ending = CancellationToken::new();
        let sending = Sending {
            collector: collector(endpoint),
            endpoint: endpoint.clone(),
            origin,
            patience,
            queued,
            in_hand: Vec::new(),
            counts,
            ending: ending.clone(),
            dropped_line: RareLine::every(LOG_INTERVAL),
            told_dropped: 0,
        };
        tracing::info!(%endpoint, "spans of sampled traces are sent");
        let task = tokio::spawn(sending.run());
        (spans, Self { ending, task })
    }

    /// Sends what waits, for two seconds at most. What is offered from now on is dropped.
    pub async fn end(self) {
        self.ending.cancel();
        if let Err(failure) = self.task.await {
            tracing::error!(%failure, "the export of spans has failed");
        }
    }
}

/// The client of a collector, on its own connection. It sends no pings: many gRPC servers close a connection with more than one in five
/// minutes.
fn collector(endpoint: &OtlpEndpoint) -> TraceServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(endpoint.to_string());
    let endpoint = endpoint.expect("the setting's parser has checked the address");
    let endpoint = endpoint
        .connect_timeout(ANSWER_TIMEOUT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE_TIME));
    TraceServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(ANSWER_BYTES_MAX)
}

struct Sending {
    collector: TraceServiceClient<Channel>,
    endpoint: OtlpEndpoint,
    origin: Origin,
    patience: Patience,
    queued: Receiver<Span>,
    /// Spans that are out of the queue, and neither taken by the collector nor dropped.
    in_hand: Vec<Span>,
    counts: Arc<SpanCounts>,
    ending: CancellationToken,
    /// The line of the log about dropped spans, and how many there were when it was written last.
    dropped_line: RareLine,
    told_dropped: u64,
}

impl Sending {
    /// Sends spans until nobody can offer any more, or until the time at the end is up.
    async fn run(mut self) {
        let (ending, patience) = (self.ending.clone(), self.patience.end);
        let time_is_up = async {
            ending.cancelled().await;
            sleep(patience).await;
        };
        tokio::select! {
            () = self.send_all() => return,
            () = time_is_up => {}
        }
        let spans = (self.in_hand.len() + self.queued.len()) as u64;
        self.counts.dropped.add(spans);
        let endpoint = &self.endpoint;
        tracing::warn!(%endpoint, spans, "the collector did not take the last spans in time; they are dropped");
    }

    async fn send_all(&mut self) {
        let ending = self.ending.clone();
        loop {
            tokio::select! {
                biased;
                () = ending.cancelled() => break,
                count = self.queued.recv_many(&mut self.in_hand, MESSAGE_SPANS_MAX) => {
                    if count == 0 {
                        return;
                    }
                }
            }
            if self.in_hand.len() < MESSAGE_SPANS_MAX {
                self.pause(GATHERING_TIME).await;
                self.take();
            }
            self.send().await;
        }
        self.queued.close();
        while self.take() {
            self.send().await;
        }
    }

    /// Waits, but not at the end.
    async fn pause(&self, pause: Duration) {
        let _ = timeout(pause, self.ending.cancelled()).await;
    }

    /// Takes what is there, as far as it fits into a message. Returns whether there is something to send.
    fn take(&mut self) -> bool {
        while self.in_hand.len() < MESSAGE_SPANS_MAX {
            match self.queued.try_recv() {
                Ok(span) => self.in_hand.push(span),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        !self.in_hand.is_empty()
    }

    /// Sends what is in hand until the collector has taken it or it is dropped.
    async fn send(&mut self) {
        // Made once: a span that is sent again keeps its id.
        let mut message = message(&self.origin, &self.in_hand);
        let count = self.in_hand.len() as u64;
        for attempt in 1.. {
            let request = if attempt == ATTEMPTS_MAX {
                mem::take(&mut message)
            } else {
                message.clone()
            };
            let failure = match self.export(request).await {
                Ok(answer) => {
                    let partial = answer.partial_success.unwrap_or_default();
                    let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0);
                    let rejected = rejected.min(count);
                    self.in_hand.clear();
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
                self.in_hand.clear();
                self.counts.dropped.add(count);
                return self.tell_of_dropped(&failure.to_string());
            }
            self.pause(ATTEMPTS_PAUSE).await;
        }
    }

    /// Sends a message once. Without an answer in time, the next one goes over another connection.
    async fn export(
        &mut self,
        request: ExportTraceServiceRequest,
    ) -> Result<ExportTraceServiceResponse, Status> {
        match timeout(self.patience.answer, self.collector.export(request)).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => {
                self.collector = collector(&self.endpoint);
                Err(Status::deadline_exceeded("no answer"))
            }
        }
    }

    /// Tells of spans that were dropped since the last time, with the cause that was found last.
    fn tell_of_dropped(&mut self, cause: &str) {
        let dropped = self.counts.dropped.get();
        if dropped == self.told_dropped || self.dropped_line.take_turn(Instant::now()).is_none() {
            return;
        }
        let endpoint = &self.endpoint;
        let spans = dropped - self.told_dropped;
        let cause: String = cause.chars().take(CAUSE_CHARS_MAX).collect();
        tracing::warn!(%endpoint, cause, spans, "the collector did not take spans; they are dropped");
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

    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
        TraceService, TraceServiceServer,
    };
    use tokio::io::{AsyncWriteExt, copy_bidirectional};
    use tokio::net::{TcpListener, TcpStream};
    use tonic::Request;

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
        let listener = listening().await;
        let endpoint = endpoint_of(&listener);
        let services = Services::default().add_service(TraceServiceServer::new(collector));
        let drain = CancellationToken::new();
        let served = serve(listener, services, ServeOptions::default(), drain.clone());
        tokio::spawn(served);
        (endpoint, drain)
    }

    fn origin() -> Origin {
        Origin {
            program: "test",
            version: "0",
            instance: "one".to_owned(),
        }
    }

    /// Waits for the end as long as it takes.
    fn patient() -> Patience {
        Patience {
            end: HANG_GUARD,
            ..Patience::default()
        }
    }

    /// Where a listener is, as an endpoint.
    fn endpoint_of(listener: &TcpListener) -> OtlpEndpoint {
        let address = listener.local_addr().expect("bound");
        format!("http://{address}").parse().expect("an endpoint")
    }

    async fn listening() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.expect("loopback")
    }

    /// Waits until the numbers of exported and dropped spans are as expected.
    async fn counted(spans: &Spans, is_expected: impl Fn((u64, u64)) -> bool) {
        let counted = async {
            while !is_expected(spans.counted()) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let counted = timeout(HANG_GUARD, counted).await;
        assert!(counted.is_ok(), "{:?}", spans.counted());
    }

    #[tokio::test]
    async fn what_waits_at_the_end_is_sent_and_what_comes_later_is_dropped() {
        let collector = Collector::default();
        let (endpoint, _drain) = serving(collector.clone()).await;
        let (spans, exporter) = SpanExporter::start_with(&endpoint, origin(), patient());
        let count = MESSAGE_SPANS_MAX * 3 / 2;
        for _ in 0..count {
            spans.offer(span);
        }
        let ended = timeout(HANG_GUARD, exporter.end()).await;
        ended.expect("it is bounded");
        assert_eq!(collector.spans.load(Ordering::Relaxed), count);
        spans.offer(span);
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
                spans.offer(span);
            }
            counted(&spans, |counts| counts == expected).await;
        }
        exporter.end().await;
    }

    /// As with a machine that is gone: it takes what is sent, and answers nothing.
    #[tokio::test]
    async fn a_connection_without_an_answer_is_given_up_for_another_one() {
        let collector = Collector::default();
        let (behind, _drain) = serving(collector.clone()).await;
        let behind = behind.to_string().replace("http://", "");
        let proxy = listening().await;
        let endpoint = endpoint_of(&proxy);
        let forwarding = tokio::spawn(async move {
            let _silent = proxy.accept().await.expect("it listens");
            loop {
                let (mut accepted, _) = proxy.accept().await.expect("it listens");
                let behind = behind.clone();
                tokio::spawn(async move {
                    let mut behind = TcpStream::connect(behind).await.expect("it listens");
                    let _ = copy_bidirectional(&mut accepted, &mut behind).await;
                });
            }
        });
        let patience = Patience {
            answer: Duration::from_secs(1),
            ..patient()
        };
        let (spans, exporter) = SpanExporter::start_with(&endpoint, origin(), patience);
        let exported = async {
            // A busy machine may be late thrice.
            while spans.counted().0 == 0 {
                spans.offer(span);
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(HANG_GUARD, exported).await.expect("it is sent");
        assert!(collector.spans.load(Ordering::Relaxed) > 0);
        exporter.end().await;
        forwarding.abort();
    }

    #[tokio::test]
    async fn what_is_left_when_the_time_at_the_end_is_up_is_counted() {
        let silent = listening().await;
        let patience = Patience {
            end: Duration::from_millis(1),
            ..Patience::default()
        };
        let (spans, exporter) = SpanExporter::start_with(&endpoint_of(&silent), origin(), patience);
        let count = MESSAGE_SPANS_MAX * 3 / 2;
        for _ in 0..count {
            spans.offer(span);
        }
        let ended = timeout(HANG_GUARD, exporter.end()).await;
        ended.expect("it is bounded");
        assert_eq!(spans.counted(), (0, count as u64));
    }

    #[tokio::test]
    async fn what_does_not_speak_grpc_costs_spans() {
        let listener = listening().await;
        let endpoint = endpoint_of(&listener);
        let answering = tokio::spawn(async move {
            loop {
                let (mut accepted, _) = listener.accept().await.expect("it listens");
                let _ = accepted
                    .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    .await;
            }
        });
        let (spans, exporter) = SpanExporter::start(&endpoint, origin());
        spans.offer(span);
        counted(&spans, |counts| counts == (0, 1)).await;
        exporter.end().await;
        answering.abort();
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
