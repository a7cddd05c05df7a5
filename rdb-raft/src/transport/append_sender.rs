//! The appends to one follower, pipelined. The module `transport` says why an answer may be dropped.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, Fuse};
use futures::{Stream, StreamExt, stream};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use rdb_proto::raftpb::Answer;
use rdb_proto::raftpb::item::Request;
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use tokio::select;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep, sleep};

use super::client::Route;
use super::connection::{ITEM_BYTES_MIN, OpenSession};
use super::lane::Outgoing;
use super::{
    CONNECTION_BYTES_MAX, RpcError, SESSION_BYTES_MAX, SESSION_ITEMS_MAX, broken, unreachable, wire,
};
use crate::types::{LogId, TypeConfig};

/// The largest append. With its envelope it fits into a message.
const APPEND_BYTES_MAX: usize = MESSAGE_BYTES_MAX - (64 << 10);

type AppendRequest = AppendEntriesRequest<TypeConfig>;

/// What openraft takes for an answer.
type Appended = Result<StreamAppendResult<TypeConfig>, RpcError>;

/// Sends `appends`, and returns the answers in order. It connects when it is polled for the first time, and ends after the
/// last answer or the first failure.
pub(super) fn replicate(
    route: Route,
    mut appends: impl Stream<Item = AppendRequest> + Send + Unpin + 'static,
) -> BoxStream<'static, Appended> {
    let begin = async move {
        let connected = route.link.connection().await.map_err(unreachable);
        let begun = connected.and_then(|connection| connection.open_session(SESSION_ITEMS_MAX));
        match begun {
            Ok(session) => Ok(AppendSender::new(route, appends, session)),
            Err(error) => {
                // After an error, openraft is late with the next append. That is all that keeps it from trying again at once.
                let _ = appends.next().await;
                Err(error)
            }
        }
    };
    let answers = stream::once(begin).flat_map(|begun| match begun {
        Ok(sender) => sender.answers().left_stream(),
        Err(error) => stream::iter([Err(error)]).right_stream(),
    });
    answers.boxed()
}

/// - Requests are sent, and answered, in the order in which they were taken.
/// - `taken` comes after all that are in flight. While there is one, no other is taken.
struct AppendSender<S> {
    route: Route,
    appends: Fuse<S>,
    session: OpenSession<mpsc::Receiver<Answer>>,
    /// What the connection may still send, in bytes.
    room: Arc<Semaphore>,
    next_sequence: u64,
    /// What was sent and has no answer.
    in_flight: VecDeque<Sent>,
    in_flight_bytes: usize,
    /// What waits for room.
    taken: Option<Taken>,
    /// When something was heard last, or something was sent after everything had been answered.
    heard_at: Instant,
    /// Goes off at that moment and [`Route::patience`], or earlier.
    alarm: Pin<Box<Sleep>>,
}

struct Taken {
    append: AppendRequest,
    bytes: usize,
}

struct Sent {
    sequence: u64,
    previous: Option<LogId>,
    /// The entry before the last one of several.
    second_last: Option<LogId>,
    last: Option<LogId>,
    bytes: usize,
    _room: Arc<OwnedSemaphorePermit>,
}

impl<S: Stream<Item = AppendRequest> + Send + Unpin + 'static> AppendSender<S> {
    fn new(route: Route, appends: S, session: OpenSession<mpsc::Receiver<Answer>>) -> Self {
        Self {
            route,
            appends: appends.fuse(),
            room: Arc::clone(&session.connection.room),
            session,
            next_sequence: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            taken: None,
            heard_at: Instant::now(),
            alarm: Box::pin(sleep(Duration::ZERO)),
        }
    }

    fn answers(self) -> impl Stream<Item = Appended> + Send {
        stream::unfold(Some(self), |sender| async move {
            let mut sender = sender?;
            let answer = sender.next().await.transpose()?;
            let goes_on = matches!(answer, Ok(Ok(_)));
            Some((answer, goes_on.then_some(sender)))
        })
    }

    /// The next answer that is passed on. `None`: everything is answered.
    async fn next(&mut self) -> Result<Option<StreamAppendResult<TypeConfig>>, RpcError> {
        loop {
            let is_waiting = !self.in_flight.is_empty();
            if !is_waiting && self.taken.is_none() && self.appends.is_done() {
                return Ok(None);
            }
            let (takes, has_taken) = (self.may_take(), self.taken.is_some());
            select! {
                biased;
                answer = self.session.answer() => {
                    if let Some(answer) = self.pass_on(answer?)? {
                        return Ok(Some(answer));
                    }
                }
                room = reserve(&self.room, &self.taken), if has_taken => self.send(room)?,
                append = self.appends.next(), if takes => self.take(append)?,
                () = &mut self.alarm, if is_waiting => self.check_patience()?,
            }
        }
    }

    fn may_take(&self) -> bool {
        self.taken.is_none()
            && !self.appends.is_done()
            && self.in_flight.len() < SESSION_ITEMS_MAX
            && self.in_flight_bytes < SESSION_BYTES_MAX
    }

    fn take(&mut self, append: Option<AppendRequest>) -> Result<(), RpcError> {
        let Some(append) = append else {
            return Ok(());
        };
        let bytes = wire::append_bytes(&append).max(ITEM_BYTES_MIN);
        if bytes > APPEND_BYTES_MAX {
            let cause = format!("an append of {bytes} bytes does not fit into a message");
            return Err(unreachable(cause));
        }
        self.taken = Some(Taken { append, bytes });
        Ok(())
    }

    fn send(&mut self, room: OwnedSemaphorePermit) -> Result<(), RpcError> {
        let Some(Taken { append, bytes }) = self.taken.take() else {
            return Ok(());
        };
        if self.in_flight.is_empty() {
            self.heard_at = Instant::now();
        }
        let (sequence, room) = (self.next_sequence, Arc::new(room));
        self.next_sequence += 1;
        self.in_flight_bytes += bytes;
        self.in_flight.push_back(Sent {
            sequence,
            previous: append.prev_log_id,
            second_last: append.entries.iter().rev().nth(1).map(|entry| entry.log_id),
            last: wire::last_log_id(&append),
            bytes,
            _room: Arc::clone(&room),
        });
        let request = Request::Append(wire::append(append));
        let outgoing = Outgoing {
            item: self.route.item(self.session.number, sequence, request),
            bytes,
            _room: Some(room),
        };
        // What has room in the connection has a place in the lane.
        let sent = self.session.connection.bulk.try_send(outgoing);
        sent.map_err(|_| broken("the connection takes no more"))
    }

    /// What an answer says to openraft, if it may know by now.
    fn pass_on(
        &mut self,
        answer: Answer,
    ) -> Result<Option<StreamAppendResult<TypeConfig>>, RpcError> {
        let sent = self.in_flight.pop_front();
        let sent = sent.filter(|sent| sent.sequence == answer.sequence);
        let (sent, outcome) = sent
            .zip(answer.outcome)
            .ok_or_else(|| broken("an answer is missing"))?;
        self.in_flight_bytes -= sent.bytes;
        self.heard_at = Instant::now();
        let result = wire::read_appended(outcome, sent.previous, sent.last)?;
        let next = self.next_unanswered();
        if result.is_err() || next.is_none_or(|next| next > sent.last) {
            return Ok(Some(result));
        }
        Ok(sent.second_last.map(|second_last| Ok(Some(second_last))))
    }

    /// The last log id of the next request that has no answer.
    fn next_unanswered(&self) -> Option<Option<LogId>> {
        let sent = self.in_flight.front().map(|sent| sent.last);
        let taken = self.taken.as_ref();
        sent.or_else(|| taken.map(|taken| wire::last_log_id(&taken.append)))
    }

    fn check_patience(&mut self) -> Result<(), RpcError> {
        let patience = self.route.patience;
        let over = self.heard_at + patience;
        if Instant::now() >= over {
            return Err(self.route.timeout(patience));
        }
        self.alarm.as_mut().reset(over);
        Ok(())
    }
}

/// The room of the taken request.
async fn reserve(room: &Arc<Semaphore>, taken: &Option<Taken>) -> OwnedSemaphorePermit {
    let bytes = taken.as_ref().map_or(0, |taken| taken.bytes);
    let bytes = bytes.min(CONNECTION_BYTES_MAX);
    let reserved = Arc::clone(room).acquire_many_owned(bytes as u32).await;
    reserved.expect("the semaphore is never closed")
}
