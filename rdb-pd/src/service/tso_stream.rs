//! `Pd.Tso`: one answer per request, in order.
//!
//! A pass takes all requests that have arrived and allocates their timestamps together. The answers follow each other
//! without a pause, so that the transport can pack them into few frames.
//!
//! The next pass begins when the transport has taken all answers. A client that does not read its answers holds up only
//! itself. A request for too many timestamps ends the stream after the requests before it were answered, and so does the
//! closing of the connection. When no timestamps can be handed out, the stream ends and no request of the pass is answered.
//!
//! It is polled by hand: `try_unfold` and `try_flatten` would cost a quarter more CPU per timestamp.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::{FutureExt, Stream, StreamExt};
use rdb_proto::pdpb::{GetTsoRequest, GetTsoResponse};
use rdb_proto::transport::Call;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::timed::Timed;
use super::{SystemAllocator, allocate, checked_tso_count};
use crate::metrics::Figures;
use crate::tso::COUNT_MAX;

/// Most requests of one pass. A stream buffers at most their counts.
const PASS_REQUESTS_MAX: usize = 256;

type Allocation = Pin<Box<dyn Future<Output = Result<u64, Status>> + Send>>;

/// The answers to a stream of requests.
pub(crate) struct TsoStream<S> {
    requests: S,
    allocator: Arc<SystemAllocator>,
    cluster_id: u64,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    call: Arc<Call>,
    figures: Arc<Figures>,
    /// How many timestamps each request of this pass wants.
    counts: VecDeque<u32>,
    /// The sum of the counts, at most [`COUNT_MAX`].
    count: u32,
    /// The count of a request that did not fit into this pass.
    held_back: Option<u32>,
    stage: Stage,
    /// How the stream ends after the last answer. `None`: it goes on.
    end: Option<End>,
}

/// The stage of a pass. `poll_next` moves it from `Collect` to `Allocate`, or to `Answer` when there are timestamps at once,
/// and back to `Collect`.
enum Stage {
    /// Takes requests.
    Collect,
    /// Waits for the timestamps of the pass.
    Allocate(Allocation),
    /// Answers the pass, from this timestamp on.
    Answer(u64),
}

/// How the stream ends.
enum End {
    Quiet,
    Failed(Status),
    /// It has ended.
    Over,
}

impl<S> TsoStream<S>
where
    S: Stream<Item = Result<GetTsoRequest, Status>> + Unpin,
{
    pub(super) fn new(
        requests: S,
        allocator: Arc<SystemAllocator>,
        cluster_id: u64,
        call: Arc<Call>,
        figures: Arc<Figures>,
    ) -> Self {
        Self {
            requests,
            allocator,
            cluster_id,
            closing: Box::pin(call.closing().clone().cancelled_owned()),
            call,
            figures,
            counts: VecDeque::new(),
            count: 0,
            held_back: None,
            stage: Stage::Collect,
            end: None,
        }
    }

    /// Takes the requests that have arrived. Ready when there is one to answer, or when none will come.
    fn poll_collect(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(count) = self.held_back.take() {
            self.take(count);
        }
        while self.end.is_none() && self.held_back.is_none() {
            if self.counts.len() >= PASS_REQUESTS_MAX {
                return Poll::Ready(());
            }
            match self.requests.poll_next_unpin(cx) {
                Poll::Ready(Some(request)) => {
                    match request.and_then(|request| checked_tso_count(&request)) {
                        Ok(count) if self.count + count > COUNT_MAX => self.held_back = Some(count),
                        Ok(count) => self.take(count),
                        Err(status) => self.end = Some(End::Failed(status)),
                    }
                }
                Poll::Ready(None) => self.end = Some(End::Quiet),
                Poll::Pending if self.counts.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(()),
            }
        }
        Poll::Ready(())
    }

    fn take(&mut self, count: u32) {
        self.counts.push_back(count);
        self.count += count;
    }

    /// Allocates for the pass; nearly always at once.
    fn start_allocation(&mut self) {
        let (allocator, count) = (Arc::clone(&self.allocator), self.count);
        self.count = 0;
        // An unfinished allocation has spent no timestamps, so it can be dropped.
        match allocate(&self.allocator, count).now_or_never() {
            Some(allocated) => self.allocated(allocated),
            None => {
                // Only a pass that waits reads a clock.
                let (figures, call) = (Arc::clone(&self.figures), Arc::clone(&self.call));
                let requests = self.counts.len();
                let allocation = async move {
                    let timed = Timed::begin(&figures, &call, "Tso").of_requests(requests);
                    timed.end(allocate(&allocator, count).await)
                };
                self.stage = Stage::Allocate(Box::pin(allocation));
            }
        }
    }

    fn allocated(&mut self, allocated: Result<u64, Status>) {
        match allocated {
            Ok(first) => self.stage = Stage::Answer(first),
            Err(status) => {
                self.counts.clear();
                self.held_back = None;
                self.end = Some(End::Failed(status));
                self.stage = Stage::Collect;
            }
        }
    }

    fn finish(&mut self) -> Option<Result<GetTsoResponse, Status>> {
        match self.end.replace(End::Over) {
            Some(End::Failed(status)) => Some(Err(status)),
            _ => None,
        }
    }
}

impl<S> Stream for TsoStream<S>
where
    S: Stream<Item = Result<GetTsoRequest, Status>> + Unpin,
{
    type Item = Result<GetTsoResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match &mut this.stage {
                Stage::Answer(next) => match this.counts.pop_front() {
                    Some(count) => {
                        let first = *next;
                        *next += u64::from(count);
                        return Poll::Ready(Some(Ok(GetTsoResponse {
                            first,
                            count,
                            cluster_id: this.cluster_id,
                        })));
                    }
                    None => this.stage = Stage::Collect,
                },
                Stage::Allocate(allocation) => {
                    let allocated = match this.closing.poll_unpin(cx) {
                        Poll::Ready(()) => return Poll::Ready(None),
                        Poll::Pending => ready!(allocation.poll_unpin(cx)),
                    };
                    this.allocated(allocated);
                }
                Stage::Collect if this.end.is_some() && this.held_back.is_none() => {
                    return Poll::Ready(this.finish());
                }
                Stage::Collect => {
                    if this.closing.poll_unpin(cx).is_ready() {
                        this.end = Some(End::Quiet);
                        this.held_back = None;
                        continue;
                    }
                    ready!(this.poll_collect(cx));
                    if !this.counts.is_empty() {
                        this.start_allocation();
                    }
                }
            }
        }
    }
}
