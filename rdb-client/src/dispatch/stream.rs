//! The task that keeps a lane's stream, and the stream's two directions.
//!
//! The task connects, opens a stream, and hands answers to their calls until the stream ends. It goes on while commands
//! wait, with backoff after a stream that brought nothing, and ends when none do; the next command starts it again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use rdb_proto::batch;
use rdb_proto::kvrpc::batch_answer::Response;
use rdb_proto::kvrpc::kv_batch_client::KvBatchClient;
use rdb_proto::transport::limits::{CALL_TIMEOUT, MESSAGE_BYTES_MAX};
use tokio::time::{sleep, timeout};
use tonic::{Status, Streaming};

use super::lane::Shared;
use super::queue::{Taken, interrupt};
use super::slot::{Interrupted, Slot};
use crate::fate;
use crate::retry::backoff;

/// The backoff between streams doubles so often at most: calls have a backoff of their own.
const BACKOFF_DOUBLINGS_MAX: u32 = 4;

/// A stream that brings nothing for so long while commands wait for answers is given up, as a call of its own is. Otherwise
/// calls long past their deadlines would hold the lane's room for as long as the connection lives.
const SILENCE_MAX: Duration = CALL_TIMEOUT;

/// Keeps the stream of a lane. When it is dropped, every call of the lane ends, unless it has retired before.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    /// From then on the lane is another's: a call may have started the next keeper already.
    retired: bool,
}

/// How a stream ended.
struct Ended {
    cause: Arc<str>,
    /// Whether it brought an answer.
    useful: bool,
}

/// Keeps streams while there is something to send.
pub(super) async fn run(mut keeper: Keeper) {
    let mut failures = 0_u32;
    loop {
        let ended = keeper.keep_stream().await;
        let NotServed { lost, not_sent } = keeper.settle(&ended);
        tracing::debug!(address = %keeper.shared.address, cause = %ended.cause, lost, not_sent, "a stream of commands ended");
        if ended.useful {
            failures = 0;
        } else {
            let waits = failures.min(BACKOFF_DOUBLINGS_MAX);
            sleep(backoff(waits, fastrand::f64())).await;
            failures = failures.saturating_add(1);
        }
        if keeper.retire_when_idle() {
            return;
        }
    }
}

/// How many calls the end of a stream has ended.
struct NotServed {
    lost: usize,
    not_sent: usize,
}

impl Keeper {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            retired: false,
        }
    }

    /// Whether there is nothing to do, so that the next command starts another keeper.
    fn retire_when_idle(&mut self) -> bool {
        self.retired = self.shared.queue().stop_when_idle();
        self.retired
    }

    /// One stream from its connection to its end.
    async fn keep_stream(&self) -> Ended {
        let Shared {
            address,
            connections,
            ..
        } = &*self.shared;
        let connection = match connections.connection(address).await {
            Ok(connection) => connection,
            Err(cause) => {
                return Ended {
                    cause: cause.into(),
                    useful: false,
                };
            }
        };
        let stream_id = self.shared.queue().open_stream();
        let commands = Commands {
            shared: Arc::clone(&self.shared),
            stream_id,
            yielded: false,
        };
        let mut client = KvBatchClient::new(connection.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let mut useful = false;
        let ended = async {
            let mut answers = client.batch(commands).await?.into_inner();
            while let Some(response) = self.next_response(&mut answers).await? {
                useful = true;
                if response.message.closing {
                    // Nothing new is accepted over this connection either.
                    connections.forget(address, connection.id);
                    self.close_commands();
                }
                self.receive(stream_id, response);
            }
            Ok::<(), Status>(())
        };
        let cause = match ended.await {
            Ok(()) => format!("the store at {address} ended the stream"),
            Err(status) => {
                if fate::is_local(&status) {
                    connections.forget(address, connection.id);
                }
                fate::cause(&status, &format!("stream to {address}"))
            }
        };
        Ended {
            cause: cause.into(),
            useful,
        }
    }

    /// The next message; fails when the store has left commands without any answer for too long.
    async fn next_response(
        &self,
        answers: &mut Streaming<batch::Response>,
    ) -> Result<Option<batch::Response>, Status> {
        loop {
            match timeout(SILENCE_MAX, answers.message()).await {
                Ok(message) => return message,
                Err(_) if self.shared.queue().has_sent_before(SILENCE_MAX) => {
                    let cause = format!("no answer for {SILENCE_MAX:?}");
                    return Err(Status::deadline_exceeded(cause));
                }
                Err(_) => {}
            }
        }
    }

    fn close_commands(&self) {
        let taker = self.shared.queue().close_stream();
        if let Some(taker) = taker {
            taker.wake();
        }
    }

    fn receive(&self, stream_id: u64, response: batch::Response) {
        let batch::Response {
            message,
            message_bytes,
        } = response;
        let (completed, freed_bytes) = self.shared.queue().answered(stream_id, message.answers);
        self.shared.free(freed_bytes);
        for (slot, answer) in completed {
            slot.complete(match answer.response {
                Some(response) => Ok(detached(response, message_bytes)),
                None => Err(Interrupted::Lost {
                    cause: "the answer holds nothing that this release knows".into(),
                }),
            });
        }
    }

    /// Ends the calls that the stream leaves without an answer. Commands that wait go to the next stream, if this one was
    /// of any use; otherwise their calls may know better where to go.
    fn settle(&self, ended: &Ended) -> NotServed {
        self.close_commands();
        let mut queue = self.shared.queue();
        let lost = queue.lose_sent();
        let not_sent = match ended.useful {
            true => Default::default(),
            false => queue.drop_waiting(),
        };
        drop(queue);
        self.end_calls(lost, not_sent, &ended.cause)
    }

    /// Ends calls whose commands left the queue without an answer, and gives their room back.
    fn end_calls(
        &self,
        (lost, lost_bytes): (Vec<Arc<Slot>>, usize),
        (not_sent, not_sent_bytes): (Vec<Arc<Slot>>, usize),
        cause: &Arc<str>,
    ) -> NotServed {
        self.shared.free(lost_bytes + not_sent_bytes);
        let counts = NotServed {
            lost: lost.len(),
            not_sent: not_sent.len(),
        };
        let cause = || Arc::clone(cause);
        interrupt(lost, &Interrupted::Lost { cause: cause() });
        interrupt(not_sent, &Interrupted::NotSent { cause: cause() });
        counts
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.retired {
            return;
        }
        // The transport keeps the commands' side of a stream, and with it all connections, until that side ends.
        self.close_commands();
        let [lost, not_sent] = self.shared.queue().stop();
        let cause = "the task that sends commands was ended".into();
        self.end_calls(lost, not_sent, &cause);
    }
}

/// The commands of a stream, as the transport asks for them.
struct Commands {
    shared: Arc<Shared>,
    stream_id: u64,
    /// Whether others were let run since there is something to send.
    yielded: bool,
}

impl Stream for Commands {
    type Item = batch::Request;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<batch::Request>> {
        let commands = self.get_mut();
        let shared = &commands.shared;
        // A runtime polls whom a call has woken right after that call. Going to the end of its queue first lets all calls
        // that can run add their commands; with none of them this costs nothing but a turn.
        if !commands.yielded && shared.queue().has_waiting() {
            commands.yielded = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        commands.yielded = false;
        let taken = shared.queue().take(commands.stream_id, context.waker());
        match taken {
            Taken::Message {
                request,
                freed_bytes,
            } => {
                shared.free(freed_bytes);
                shared.counters.count_message(request.commands.len());
                Poll::Ready(Some(request.into()))
            }
            Taken::Nothing { freed_bytes } => {
                shared.free(freed_bytes);
                Poll::Pending
            }
            Taken::Over => Poll::Ready(None),
        }
    }
}

/// The response with a value of its own where that is a small part of the message: an application that keeps one value
/// should not keep a message full of them.
fn detached(mut response: Response, message_bytes: usize) -> Response {
    if let Some(value) = response.value_mut()
        && value.len() < message_bytes / 2
    {
        *value = Bytes::copy_from_slice(value);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use rdb_proto::kvrpc::{RawGetRequest, batch_command::Request};

    use super::super::counters::Counters;
    use super::super::queue::{Command, Next};
    use super::super::slot::Answer;
    use super::*;
    use crate::routing::ConnectionPool;

    fn shared() -> Arc<Shared> {
        let connections = Arc::new(ConnectionPool::new(Duration::from_secs(1)));
        Arc::new(Shared::new(
            "127.0.0.1:1",
            connections,
            Arc::<Counters>::default(),
        ))
    }

    fn push(shared: &Shared) -> (Next, Answer) {
        let (slot, answer) = Slot::new();
        let command = Command {
            context: Default::default(),
            request: Request::RawGet(RawGetRequest::default()),
        };
        (shared.queue().push(command, slot, 0), answer)
    }

    #[test]
    fn a_keeper_that_is_dropped_ends_the_calls_of_its_lane() {
        let shared = shared();
        let keeper = Keeper::new(&shared);
        let (next, answer) = push(&shared);
        assert!(matches!(next, Next::Start));
        drop(keeper);
        let ended = answer.now_or_never().expect("ended");
        assert!(matches!(ended, Err(Interrupted::NotSent { .. })));
        assert!(
            matches!(push(&shared).0, Next::Start),
            "a new one is needed"
        );
    }

    #[test]
    fn a_keeper_that_has_retired_does_not_touch_the_calls_of_the_next_one() {
        let shared = shared();
        let mut keeper = Keeper::new(&shared);
        assert!(keeper.retire_when_idle());
        let (next, answer) = push(&shared);
        assert!(matches!(next, Next::Start));
        drop(keeper);
        assert!(shared.queue().has_waiting() && shared.queue().is_running());
        assert!(answer.now_or_never().is_none());
    }
}
